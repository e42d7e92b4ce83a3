"""Where recordings come from: PhysioNet, or a mirror of it given as a folder or a URL.

A mirror is laid out as ``<slug>/<version>/<path>``. A folder is read in place; from a URL each file is fetched once
into ``data/raw``, which is thereby laid out the same way: into ``<name>.part``, continued after a break, checked
against the length that the server stated and against the data set's ``SHA256SUMS.txt`` (or against the hash seen when
it was first fetched), and then renamed. Where there is neither length nor hash, it is fetched twice. Files of a folder
are held against its hashes too, and so is what was fetched before. wfdb's own download can neither continue nor verify.
"""

import os
import threading
import urllib.error
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path

from p2es_lib.core import paths
from p2es_lib.core.errors import InputError
from p2es_lib.data.download import checksums, http
from p2es_lib.data.download.checksums import PUBLISHED_FILE, SEEN_FILE, LineFile, hash_file, parse_checksum
from p2es_lib.data.download.http import MissingFile, UnusableFile, WrongContent

DEFAULT_MIRROR = "https://physionet.org/files/"
#: Attempts per file; first pause between two (doubled each time) and the longest that a server may ask for, in seconds.
ATTEMPTS, BACKOFF_S, LONGEST_PAUSE_S = 5, 1.0, 60.0
#: A published list of hashes larger than this is not read (that of the MIMIC waveforms names millions of files).
MAX_LIST_BYTES = 64e6
#: Beside what was fetched: the address of the mirror that was asked last, then the files that it does not hold; and
#: files, of mirrors that are folders also, as they were (hash, size, time) when they were verified.
MISSING_FILE, VERIFIED_FILE = ".missing", ".verified"


def resolve_mirror(mirror: str | Path | None = None, default: str = DEFAULT_MIRROR) -> str | Path:
    """The mirror: argument, else ``$P2ES_MIRROR``, else ``default``. URL as str, folder as Path, or InputError."""
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
    """One data set on a mirror.

    Parameters
    ----------
    location, default : str or Path, optional
        Folder or URL, and where the data set is at home: see :func:`resolve_mirror`, also for errors.
    slug, version : str
        As in the address of the data set, ``"bidmc"``, ``"1.0.0"``; an empty version is left out of it.
    """

    def __init__(self, location: str | Path | None, slug: str, version: str, default: str = DEFAULT_MIRROR):
        self.location, self.slug = resolve_mirror(location, default), slug
        #: Whether the user said where: otherwise what p2es data get did not find anywhere counts as missing.
        self.is_named = bool(location or os.environ.get("P2ES_MIRROR"))
        self.base = f"{slug}/{version}" if version else slug
        self.asked: set[str] = set()  # every path asked for, and those not found
        self.not_found: set[str] = set()
        self.meter: Callable[[int], None] = lambda n_bytes: None  #: gets the bytes of each block that arrives
        #: Once set, transfers end at their next block or pause; what has arrived stays in its part file.
        self.stopped = threading.Event()
        #: Whether a damaged file of data/raw is set aside and fetched again, and those that were (p2es data get).
        self.mends, self.mended = False, []
        self._mending, self._publishing = threading.Lock(), threading.Lock()
        self._published: dict[str, str] | None = None
        self._seen = LineFile(self.cached(SEEN_FILE), parse_checksum)
        self._missing = LineFile(self.cached(MISSING_FILE), lambda line: (line, ""))
        self._seen_there = LineFile(Path(self.where(SEEN_FILE)), parse_checksum)  # in a mirror that is a folder
        self._verified = LineFile(self.cached(VERIFIED_FILE), lambda line: tuple(line.partition("\t")[::-2]))

    def where(self, path: str = "") -> str:
        """Full path or URL, for messages."""
        if isinstance(self.location, Path):
            return str(self.location / self.base / path)
        return f"{self.location}{self.base}/{urllib.parse.quote(path)}"

    def cached(self, path: str) -> Path:
        """Where a file from a remote mirror is kept."""
        return paths.raw_dir(self.base) / path

    def fetch(self, path: str) -> Path:
        """Local path of a file of the data set, fetched if it is not there yet, and held against its hash.

        Raises a :class:`MissingFile` where the mirror does not hold it, an :class:`UnusableFile` where it must not be
        read or is not what its hash says, an :class:`InputError` where it cannot be fetched otherwise, or lies outside.
        """
        with self._asking(path):
            if isinstance(self.location, Path):
                local = self._original(path)
                self._verify(local, self.checksum(path, in_place=True), "take it from another mirror")
            elif not self._is_good(path, local := self.cached(path)):
                if self._is_known_missing(path):
                    asked = next(iter(self._missing.read())).rstrip("/")
                    raise MissingFile(f"{asked}/{path}: was not on this mirror when p2es data get looked; run it again")
                self._download(path, local)
            open(local, "rb").close()  # so that what must not be read is said here, by name
            return local

    def copy(self, path: str) -> Path:
        """Like :meth:`fetch`, but a folder's file too is copied to ``data/raw``; InputError: it links out of there."""
        if not isinstance(self.location, Path):
            return self.fetch(path)
        with self._asking(path):
            local = self.cached(path)
            if self._is_good(path, local):
                return local
            original = self._original(path)
            if not original.resolve().is_relative_to(self.location):
                raise InputError(f"{original}: is a link out of the mirror {self.location}; it is not followed")
            with http.locked_part(local) as part:
                if part is not None:
                    with open(original, "rb") as file:
                        http.write_blocks(file, part, "wb", self._count)
                    self._accept(path, part, local, str(original))
            return local

    def holds(self, path: str) -> bool:
        """Whether the mirror has a file; it is not fetched to find out, unless the server knows no other way."""
        with self._asking(path):
            if isinstance(self.location, Path):
                found = Path(self.where(path)).is_file()
            elif not (found := self.cached(path).is_file()) and not self._is_known_missing(path):
                status, _ = http.ask_head(self.where(path))
                found = status == 200 or (status not in (404, 410) and self.try_fetch(path) is not None)
            if not found:
                self.not_found.add(path)
            return found

    @contextmanager
    def _asking(self, path: str) -> Iterator[None]:
        """Note what is asked for and what is not found; what the system refuses becomes an error naming the file."""
        self.asked.add(check_relative(path))
        try:
            yield
        except MissingFile as error:
            self.not_found.add(path)
            error.path = path
            raise
        except OSError as error:
            raise UnusableFile(f"{self.where(path)}: cannot be read ({error}); see to its permissions") from error

    def _original(self, path: str) -> Path:
        original = Path(self.where(path))
        if not original.is_file():
            raise MissingFile(f"{original}: not in this mirror")
        return original

    def _is_good(self, path: str, local: Path) -> bool:
        """Whether ``data/raw`` holds a file; a damaged one is an error, or set aside where this mirror ``mends``."""
        if path == PUBLISHED_FILE or not local.is_file():  # that list may be edited: errors advise to delete lines
            return local.is_file()
        # A list that is not here was not there when the file was fetched: it is not asked for again.
        listed = isinstance(self.location, Path) or self.cached(PUBLISHED_FILE).is_file()
        known, advice = self.checksum(path, published=listed), "delete it and run p2es data get"
        try:
            self._verify(local, known, advice)
        except FileNotFoundError:  # another thread or process has just set it aside
            return False
        except WrongContent:
            if not self.mends or Path(self.where(path)) == local:
                raise
            with self._mending:
                try:
                    self._verify(local, known, advice)  # another thread may have replaced it meanwhile
                except (WrongContent, FileNotFoundError):
                    if local.is_file():
                        self._set_aside(path)
                    return False
        return True

    def _set_aside(self, path: str) -> None:
        os.replace(self.cached(path), f"{self.cached(path)}.damaged")
        self.mended.append(path)

    def _verify(self, local: Path, known: tuple[str, str] | None, advice: str) -> None:
        """Hold a file that is there already against its hash; again only when one of them, or its time, has changed."""
        if known is not None and self._verified.read().get(str(local)) != (note := note_of(known[0], local)):
            if (digest := hash_file(local)) != known[0]:
                raise _wrong_content(str(local), digest, *known, advice)
            checksums.append_line(self._verified.path, f"{note}\t{local}")

    def size(self, path: str) -> int | None:
        """Bytes of a file that are still to be fetched; None where the mirror does not say."""
        local = self.cached(check_relative(path))
        try:
            if self._is_good(path, local) if self.mends else local.is_file():
                return 0
        except (InputError, OSError):  # said by name when it is asked for
            return 0
        full = None
        with suppress(OSError):
            at = self.where(path)
            full = Path(at).stat().st_size if isinstance(self.location, Path) else http.ask_head(at)[1]
        if full is not None:
            with suppress(FileNotFoundError):  # what an earlier, broken transfer has left
                full = max(0, full - Path(f"{local}.part").stat().st_size)
        return full

    def checksum(self, path: str, in_place: bool = False, published: bool = True) -> tuple[str, str] | None:
        """Digest that a file must have, and who says so; None for one that nobody has seen yet.

        That of the ``published`` list, else the one seen: in the mirror's folder (``in_place``) or in ``data/raw``.
        """
        if published and path != PUBLISHED_FILE and path in (digests := self.published_checksums()):
            here = isinstance(self.location, str)  # where its lines can be deleted
            return digests[path], str(self.cached(PUBLISHED_FILE)) if here else self.where(PUBLISHED_FILE)
        seen = self._seen_there if in_place else self._seen
        return (digest, str(seen.path)) if (digest := seen.read().get(path)) else None

    def published_checksums(self) -> dict[str, str]:
        """Path to digest as the data set publishes them; empty where it does not, or in a list too long to read."""
        with self._publishing:  # no file is taken unchecked while another thread fetches the list, or after it failed
            if self._published is None:
                too_long = (self.size(PUBLISHED_FILE) or 0) > MAX_LIST_BYTES
                path = None if too_long else self.try_fetch(PUBLISHED_FILE)
                if path and checksums.is_cut_short(path) and self.mends and path == self.cached(PUBLISHED_FILE):
                    self._set_aside(PUBLISHED_FILE)
                    path = self.try_fetch(PUBLISHED_FILE)
                if path and checksums.is_cut_short(path):  # files whose lines are missing would be used unchecked
                    raise UnusableFile(
                        f"{path}: this list of hashes is damaged, its last line is none; delete it and run p2es data "
                        "get, or take it from another mirror"
                    )
                self._published = checksums.read_checksums(path) if path else {}
            return self._published

    def _is_known_missing(self, path: str) -> bool:
        lines = self._missing.read()
        # The first line names the mirror: another one that the user names may well hold the file. Where none is named,
        # what was fetched is used as it is here; the data set's home may be out of reach.
        return path in lines and (not self.is_named or next(iter(lines)) == self.where())

    def fetch_required(self, path: str) -> Path:
        """Like :meth:`fetch`, for a table or list without which nothing can be read: an InputError if it is missing."""
        try:
            return self.fetch(path)
        except MissingFile as error:
            layout = f"the mirror must be laid out as PhysioNet, <mirror>/{self.base}/{path}"
            raise InputError(f"data set {self.slug}: {self.where(path)} not found; {layout}") from error

    def try_fetch(self, path: str) -> Path | None:
        """Like :meth:`fetch`, but None where the mirror does not hold the file."""
        try:
            return self.fetch(path)
        except MissingFile:
            return None

    def _count(self, n_bytes: int) -> None:
        if self.stopped.is_set():
            raise InputError("stopped")
        self.meter(n_bytes)

    def _download(self, path: str, target: Path) -> None:
        url, problem, wrong, earlier = self.where(path), "", None, ""
        with http.locked_part(target) as part:
            if part is None:  # another thread or process has fetched it meanwhile
                return
            for attempt in range(ATTEMPTS):
                pause_s, wrong = BACKOFF_S * 2**attempt, None
                try:
                    expected = http.continue_part(url, part, self._count)
                    if expected is None and self.checksum(path) is None:
                        _, expected = http.ask_head(url)
                        if expected is None:  # nobody can tell whether it is whole: taken if it comes so twice
                            before, earlier = earlier, hash_file(part)
                            if before != earlier:
                                problem = "the server states no length, and what it sends differs from time to time"
                                http.begin_again(part)
                                continue
                    size = part.stat().st_size
                    if expected is None or size == expected:
                        self._accept(path, part, target, url)
                        return
                    problem = f"{size} of {expected} bytes received"
                    if size > expected:
                        http.begin_again(part)
                except WrongContent as error:
                    wrong = error
                except urllib.error.HTTPError as error:
                    problem, wished_s = http.http_problem(url, error, part)
                    pause_s = max(pause_s, wished_s)
                except (OSError, HTTPException) as error:  # URLError, time-out, reset, cut in mid-file
                    problem = str(getattr(error, "reason", None) or error)
                if attempt < ATTEMPTS - 1 and self.stopped.wait(min(pause_s, LONGEST_PAUSE_S)):
                    raise InputError("stopped")
        if wrong is not None:  # no fault of the network, and nothing to continue
            raise wrong
        tried = f"cannot be fetched after {ATTEMPTS} attempts ({problem})"
        remedy = "check the network, or set mirror= (or P2ES_MIRROR) to a folder or URL laid out as PhysioNet"
        raise InputError(f"{url}: {tried}; {remedy}; the next call continues where this one stopped")

    def _accept(self, path: str, part: Path, target: Path, origin: str) -> None:
        """Give a complete part its name, if it is what it should be."""
        with open(part, "rb") as file:
            is_page = file.read(512).lstrip().lower().startswith((b"<!doctype html", b"<html"))
        if is_page and not path.lower().endswith((".html", ".htm")):
            http.begin_again(part)
            problem = "the server sent a web page instead of the file, perhaps one to log in on"
            remedy = "fetch the data set with your account, and name the folder with mirror= (or P2ES_MIRROR)"
            raise InputError(f"{origin}: {problem}; {remedy}")
        if not part.stat().st_size and path.rpartition("/")[2].startswith("RECORDS"):
            raise InputError(f"{origin}: the list of records is empty (zero bytes); try again, or another mirror")
        digest, known = hash_file(part), self.checksum(path)
        if known is None:  # before the file has its name: a kill leaves none that nobody knows
            checksums.append_line(self._seen.path, f"{digest}  {path}")
        elif digest != known[0]:
            http.begin_again(part)
            raise _wrong_content(origin, digest, *known, "try another mirror (mirror= or P2ES_MIRROR)")
        os.replace(part, target)
        checksums.append_line(self._verified.path, f"{note_of(digest, target)}\t{target}")
        http.validator_of(part).unlink(missing_ok=True)


def note_of(digest: str, local: Path) -> str:
    """What is noted of a file that was verified: its hash, size and time."""
    state = local.stat()
    return f"{digest} {state.st_size} {state.st_mtime_ns}"


def _wrong_content(origin: str, digest: str, known: str, said_by: str, advice: str) -> WrongContent:
    return WrongContent(
        f"{origin}: SHA-256 is {digest}, but {said_by} says {known}: the file is damaged or was changed, and is not "
        f"used; {advice}, or, if the change is known to be right, delete its line there"
    )
