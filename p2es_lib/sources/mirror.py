"""Where recordings come from: PhysioNet, or a mirror of it given as a folder or a URL.

A mirror is laid out as ``<slug>/<version>/<path>``. A folder is read in place; from a URL each file is fetched once
into ``data/raw``, which is thereby laid out the same way. A file has its final name only when complete: it is fetched
into ``<name>.part``, continued with an HTTP range request after a break (also after a restart, if the server can say
that the file is still the same), checked against the length that the server stated and against the data set's
``SHA256SUMS.txt`` (or against the hash seen when it was first fetched), and then renamed.

Plain HTTP instead of wfdb's own download: wfdb reads the files, but it can neither continue nor verify one.
"""

from __future__ import annotations

import fcntl
import http.client
import os
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from p2es_lib import paths
from p2es_lib.errors import InputError
from p2es_lib.sources.checksums import PUBLISHED_FILE, SEEN_FILE, hash_file, note_checksum, read_checksums

DEFAULT_MIRROR = "https://physionet.org/files/"
#: Seconds without a byte before a connection counts as dead; attempts per file; first pause, doubled each time.
TIMEOUT_S, ATTEMPTS, BACKOFF_S = 30.0, 5, 1.0
#: Longest pause that a server may ask for (Retry-After), in seconds.
LONGEST_PAUSE_S = 60.0
#: A published list of hashes larger than this is not fetched (that of the MIMIC waveforms names millions of files).
MAX_LIST_BYTES = 64e6
#: Names of files that a mirror was found not to hold, one per line, beside what was fetched from it.
MISSING_FILE = ".missing"
# Worth another attempt: the server is busy or broken at the moment. Everything else in 400-499 is final.
_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}
_BLOCK = 1 << 16


class MissingFile(InputError):
    """The mirror answers, and does not hold this file (``path``, inside the data set)."""

    path: str = ""


def resolve_mirror(mirror: str | Path | None = None, default: str = DEFAULT_MIRROR) -> str | Path:
    """The mirror in use: the argument, else ``$P2ES_MIRROR``, else ``default``. A URL as str, a folder as Path.

    Raises
    ------
    InputError
        A folder that does not exist, or a URL that is not http(s).
    """
    text = str(mirror or os.environ.get("P2ES_MIRROR") or default).strip()
    if "://" in text:
        if urllib.parse.urlsplit(text).scheme not in ("http", "https"):
            raise InputError(f"mirror={text!r}: only http and https URLs, or a folder, can be used")
        return text.rstrip("/") + "/"
    folder = Path(text).expanduser().resolve()
    if not folder.is_dir():
        raise InputError(f"mirror={text!r}: no such folder ({folder}); give the folder that holds <slug>/<version>/...")
    return folder


def check_relative(path: str) -> str:
    """Return ``path`` if it stays inside the folder it is relative to, else raise an :class:`InputError`."""
    parts = path.split("/")
    if not path or "\\" in path or ":" in path or "\0" in path or any(part in ("", ".", "..") for part in parts):
        raise InputError(f"refusing the file name {path!r}: it is not a plain path inside the data set")
    return path


class WrongContent(InputError):
    """A file is not what its hash says it should be."""


class Mirror:
    """One data set (``slug/version``) on a mirror.

    Parameters
    ----------
    location : str or Path, optional
        Folder or URL; see :func:`resolve_mirror`.
    slug, version : str
        As in the address of the data set, for example ``"bidmc"``, ``"1.0.0"``; an empty version is left out of it.
    progress : bool
        Show a progress bar per fetched file.
    default : str
        Where the data set is at home.
    """

    def __init__(
        self,
        location: str | Path | None,
        slug: str,
        version: str,
        progress: bool = False,
        default: str = DEFAULT_MIRROR,
    ):
        self.location, self.slug, self.version = resolve_mirror(location, default), slug, version
        self.progress = progress
        self.base = f"{slug}/{version}" if version else slug
        self.asked: set[str] = set()  # every path asked for, and those not found
        self.not_found: set[str] = set()
        #: Called with the number of bytes of each block that arrives; may raise to stop a transfer.
        self.meter: Callable[[int], None] = lambda n_bytes: None
        self._published: dict[str, str] | None = None
        self._publishing = threading.Lock()

    def where(self, path: str = "") -> str:
        """Full path or URL, for messages."""
        if isinstance(self.location, Path):
            return str(self.location / self.base / path)
        return f"{self.location}{self.base}/{urllib.parse.quote(path)}"

    def cached(self, path: str) -> Path:
        """Where a file from a remote mirror is kept."""
        return paths.raw_dir(self.base) / path

    def fetch(self, path: str) -> Path:
        """Local path of a file of the data set, fetched if it is not there yet.

        Raises
        ------
        MissingFile
            The mirror does not hold the file.
        InputError
            It could not be fetched for another reason, or ``path`` would climb out of the data set.
        """
        self.asked.add(check_relative(path))
        try:
            if isinstance(self.location, Path):
                local = Path(self.where(path))
                if not local.is_file():
                    raise MissingFile(f"{local}: not in this mirror")
                return local
            local = self.cached(path)
            if not local.is_file():
                if path in self._known_missing():
                    where = self.where(path)
                    raise MissingFile(f"{where}: was not on this mirror when p2es data get looked; run it again")
                self._download(path, local)
            return local
        except MissingFile as error:
            self.not_found.add(path)
            error.path = path
            raise

    def copy(self, path: str) -> Path:
        """Like :meth:`fetch`, but from a folder too the file is copied to ``data/raw``, and checked."""
        local = self.cached(path)
        if local.is_file() or not isinstance(self.location, Path):
            return self.fetch(path)
        original = self.fetch(path)
        if not original.resolve().is_relative_to(self.location):
            raise InputError(f"{original}: is a link out of the mirror {self.location}; it is not followed")
        with _locked_part(local) as part:
            if part is not None:
                with open(original, "rb") as file:
                    _write_blocks(file, part, "wb", self.meter)
                self._accept(path, part, local, str(original))
        return local

    def size(self, path: str) -> int | None:
        """Bytes of a file that are still to be fetched; None where the server does not say."""
        local = self.cached(check_relative(path))
        if local.is_file():
            return 0
        full = self._full_size(path)
        return full if full is None else max(0, full - _size(_part(local)))

    def _full_size(self, path: str) -> int | None:
        if isinstance(self.location, Path):
            original = Path(self.where(path))
            return original.stat().st_size if original.is_file() else None
        request = urllib.request.Request(self.where(path), method="HEAD", headers={"User-Agent": "p2es"})
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
                length = response.headers.get("Content-Length")
                return int(length) if length is not None and length.isdigit() else None
        except (OSError, http.client.HTTPException):
            return None

    def checksum(self, path: str) -> tuple[str, str] | None:
        """Digest that a file must have, and who says so; None for one that nobody has seen yet."""
        if path != PUBLISHED_FILE and path in (published := self.published_checksums()):
            return published[path], self.where(PUBLISHED_FILE)
        seen = read_checksums(self.cached(SEEN_FILE))
        return (seen[path], str(self.cached(SEEN_FILE))) if path in seen else None

    def published_checksums(self) -> dict[str, str]:
        """Path to digest as the data set publishes them; empty where it does not, or in a list too long to fetch."""
        with self._publishing:  # no file is taken unchecked while another thread fetches the list, or after it failed
            if self._published is None:
                too_long = (self.size(PUBLISHED_FILE) or 0) > MAX_LIST_BYTES
                path = None if too_long else self.try_fetch(PUBLISHED_FILE)
                self._published = read_checksums(path) if path else {}
            return self._published

    def _known_missing(self) -> set[str]:
        path = self.cached(MISSING_FILE)
        return set(path.read_text().splitlines()) if path.is_file() else set()

    def read_text(self, path: str) -> str:
        """Content of a text file."""
        return self.fetch(path).read_text(encoding="utf-8", errors="replace")

    def try_fetch(self, path: str) -> Path | None:
        """Like :meth:`fetch`, but None where the mirror does not hold the file."""
        try:
            return self.fetch(path)
        except MissingFile:
            return None

    def _download(self, path: str, target: Path) -> None:
        url, problem = self.where(path), ""
        with _locked_part(target) as part:
            if part is None:  # another thread or process has fetched it meanwhile
                return
            for attempt in range(ATTEMPTS):
                pause_s = BACKOFF_S * 2**attempt
                try:
                    expected = _continue_part(url, part, self.progress, self.meter)
                    size = part.stat().st_size
                    if expected is None or size == expected:
                        self._accept(path, part, target, url)
                        return
                    problem = f"{size} of {expected} bytes received"
                    if size > expected:
                        _begin_again(part)
                except WrongContent as error:
                    problem = str(error)
                except urllib.error.HTTPError as error:
                    problem, pause_s = _http_problem(url, error, part), max(pause_s, _wished_pause(error))
                except (OSError, http.client.HTTPException) as error:  # URLError, time-out, reset, cut in mid-file
                    problem = str(getattr(error, "reason", None) or error)
                if attempt < ATTEMPTS - 1:
                    time.sleep(min(pause_s, LONGEST_PAUSE_S))
        raise InputError(
            f"{url}: cannot be fetched after {ATTEMPTS} attempts ({problem}); check the network, or set mirror= (or "
            "P2ES_MIRROR) to a folder or URL laid out as PhysioNet; the next call continues where this one stopped"
        )

    def _accept(self, path: str, part: Path, target: Path, origin: str) -> None:
        """Give a complete part its name, if it is what it should be."""
        if not path.lower().endswith((".html", ".htm")):
            with open(part, "rb") as file:
                begins = file.read(512).lstrip().lower()
            if begins.startswith((b"<!doctype html", b"<html")):
                _begin_again(part)
                raise InputError(
                    f"{origin}: the server sent a web page instead of the file, perhaps one to log in on; fetch the data set "
                    "with your account, and name the folder with mirror= (or P2ES_MIRROR)"
                )
        if not part.stat().st_size and path.rpartition("/")[2].startswith("RECORDS"):
            raise InputError(f"{origin}: the list of records is empty (zero bytes); try again, or another mirror")
        digest, known = hash_file(part), self.checksum(path)
        if known is not None and digest != known[0]:
            _begin_again(part)
            raise WrongContent(
                f"{origin}: SHA-256 is {digest}, but {known[1]} says {known[0]}: the file is damaged or was changed, and "
                "is not used; if the change is known to be right, delete its line there"
            )
        if known is None:  # before the file has its name: a kill leaves none that nobody knows
            note_checksum(self.cached(""), path, digest)
        os.replace(part, target)
        _validator(part).unlink(missing_ok=True)


@contextmanager
def _locked_part(target: Path) -> Iterator[Path | None]:
    """The part file of ``target``, held by this thread alone; None if the target was made while it waited."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = _part(target)
    while True:
        with open(part, "ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # a kill releases it
            try:
                is_current = os.fstat(file.fileno()).st_ino == part.stat().st_ino
            except FileNotFoundError:
                is_current = False
            if target.is_file():
                if is_current and part.stat().st_size == 0:  # made by the opening above
                    part.unlink()
                yield None
                return
            if is_current:
                try:
                    yield part
                finally:
                    if part.exists() and part.stat().st_size == 0:
                        part.unlink()
                return


def _part(target: Path) -> Path:
    return target.with_name(target.name + ".part")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _begin_again(part: Path) -> None:
    os.truncate(part, 0)
    _validator(part).unlink(missing_ok=True)


def _write_blocks(source: BinaryIO, part: Path, mode: str, meter: Callable[[int], None]) -> None:
    with open(part, mode) as file:
        while block := source.read(_BLOCK):
            file.write(block)
            meter(len(block))


def _wished_pause(error: urllib.error.HTTPError) -> float:
    text = error.headers.get("Retry-After", "") if error.headers else ""
    return float(text) if text.isdigit() else 0.0


def _http_problem(url: str, error: urllib.error.HTTPError, part: Path) -> str:
    """What to say of an HTTP error that may pass; the others are raised."""
    error.close()
    if error.code in (404, 410):
        raise MissingFile(f"{url}: not on this mirror (HTTP {error.code})") from error
    if error.code in (401, 403):
        raise InputError(
            f"{url}: access refused (HTTP {error.code}): this server gives these files to credentialed users only. Ask "
            "for access on the page of the data set, fetch them with your account, and name the folder with mirror= (or "
            "P2ES_MIRROR)"
        ) from error
    if error.code == 416:  # what we hold is longer than what the server has
        _begin_again(part)
    elif error.code not in _TRANSIENT:
        raise InputError(f"{url}: HTTP {error.code} {error.reason}") from error
    return f"HTTP {error.code} {error.reason}"


def _validator(part: Path) -> Path:
    """Beside a half-fetched file: the server's ETag or date, by which it can tell that the file is unchanged."""
    return part.with_name(part.name + "-etag")


def _continue_part(url: str, part: Path, progress: bool, meter: Callable[[int], None]) -> int | None:
    """Fetch the rest of ``url`` into ``part``; return the full length that the server stated, or None."""
    from tqdm.auto import tqdm

    held = part.stat().st_size if part.exists() and _validator(part).exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "p2es"})
    if held:
        request.add_header("Range", f"bytes={held}-")
        request.add_header("If-Range", _validator(part).read_text())
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
        resumed = response.status == 206
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {held}-"):
            _validator(part).unlink()  # begin again in the next attempt
            raise OSError(f"asked for the bytes from {held} on, got {response.headers.get('Content-Range')}")
        if not resumed:
            held = 0
            _begin_again(part)  # before the new validator is noted: a kill must not leave it beside older bytes
        length = response.headers.get("Content-Length")
        expected = held + int(length) if length is not None and length.isdigit() else None
        etag = response.headers.get("ETag") or response.headers.get("Last-Modified")
        # A weak ETag (W/...) does not promise identical bytes: then a broken transfer begins again.
        if etag and not etag.startswith("W/"):
            _validator(part).write_text(etag)
        else:
            _validator(part).unlink(missing_ok=True)
        bar = tqdm(total=expected, initial=held, unit="B", unit_scale=True, desc=part.stem, leave=False,
                   disable=not progress)  # fmt: skip

        def count(n_bytes: int) -> None:
            bar.update(n_bytes)
            meter(n_bytes)

        with bar:
            _write_blocks(response, part, "ab" if resumed else "wb", count)
    return expected
