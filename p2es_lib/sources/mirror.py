"""Where recordings come from: PhysioNet, or a mirror of it given as a folder or a URL.

A mirror is laid out as ``<slug>/<version>/<path>``. A folder is read in place; from a URL each file is fetched once
into ``data/raw``, which is thereby laid out the same way. A file has its final name only when complete: it is fetched
into ``<name>.part``, continued with an HTTP range request after a break (also after a restart, if the server can say
that the file is still the same), checked against the length that the server stated, and then renamed.
"""

from __future__ import annotations

import http.client
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from p2es_lib import paths
from p2es_lib.errors import InputError

DEFAULT_MIRROR = "https://physionet.org/files/"
#: Seconds without a byte before a connection counts as dead; attempts per file; first pause, doubled each time.
TIMEOUT_S, ATTEMPTS, BACKOFF_S = 30.0, 5, 1.0
# Worth another attempt: the server is busy or broken at the moment. Everything else in 400-499 is final.
_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}
_BLOCK = 1 << 16


class MissingFile(InputError):
    """The mirror answers, and does not hold this file."""


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
        check_relative(path)
        if isinstance(self.location, Path):
            local = Path(self.where(path))
            if not local.is_file():
                raise MissingFile(f"{local}: not in this mirror")
            return local
        local = self.cached(path)
        if not local.is_file():
            _download(self.where(path), local, self.progress)
        return local

    def read_text(self, path: str) -> str:
        """Content of a text file."""
        return self.fetch(path).read_text(encoding="utf-8", errors="replace")

    def try_fetch(self, path: str) -> Path | None:
        """Like :meth:`fetch`, but None where the mirror does not hold the file."""
        try:
            return self.fetch(path)
        except MissingFile:
            return None


def _download(url: str, target: Path, progress: bool) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    problem: Exception | str = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(BACKOFF_S * 2 ** (attempt - 1))
        try:
            expected = _continue_part(url, part, progress)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code in (404, 410):
                raise MissingFile(f"{url}: not on this mirror (HTTP {error.code})") from error
            if error.code in (401, 403):
                problem = f"{url}: access refused (HTTP {error.code}); this data set needs rights on that server"
                raise InputError(problem) from error
            if error.code == 416:  # what we hold is longer than what the server has: begin again
                part.unlink(missing_ok=True)
            elif error.code not in _TRANSIENT:
                raise InputError(f"{url}: HTTP {error.code} {error.reason}") from error
            problem = error
        except (OSError, http.client.HTTPException) as error:  # URLError, time-out, reset, cut in mid-file
            problem = getattr(error, "reason", None) or error
        else:
            size = part.stat().st_size
            if expected is None or size == expected:
                os.replace(part, target)
                _validator(part).unlink(missing_ok=True)
                return
            problem = f"{size} of {expected} bytes received"
            if size > expected:
                part.unlink()
    raise InputError(
        f"{url}: cannot be fetched after {ATTEMPTS} attempts ({problem}); check the network, or set mirror= (or "
        "P2ES_MIRROR) to a folder or URL laid out as PhysioNet; the next call continues where this one stopped"
    )


def _validator(part: Path) -> Path:
    """Beside a half-fetched file: the server's ETag or date, by which it can tell that the file is unchanged."""
    return part.with_name(part.name + "-etag")


def _continue_part(url: str, part: Path, progress: bool) -> int | None:
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
        held = held if resumed else 0
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
        with open(part, "ab" if resumed else "wb") as file, bar:
            while block := response.read(_BLOCK):
                file.write(block)
                bar.update(len(block))
    return expected
