"""One file from one place to another: part files that survive a break, HTTP range requests, room on the disk.

A file has its final name only when complete. Until then it is ``<name>.part``.
"""

import fcntl
import http.client
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from p2es_lib.core.errors import InputError

TIMEOUT_S = 30.0  #: without a byte, before a connection counts as dead
SPACE_MARGIN = 0.05  #: free space that must remain, as a share of what is fetched
# Worth another attempt: the server is busy or broken at the moment. Everything else in 400-499 is final.
_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}
_BLOCK = 1 << 16
_AGENT = {"User-Agent": "p2es"}


class MissingFile(InputError):
    """The mirror answers, and does not hold this file (``path``, inside the data set)."""

    path: str = ""


class UnusableFile(InputError):
    """The file is there, and the system does not let it be read, or it is not what it should be."""


class WrongContent(UnusableFile):
    """A file is not what its hash says it should be."""


@contextmanager
def locked_part(target: Path) -> Iterator[Path | None]:
    """The part file of ``target``, held by this thread alone; None if the target was made while it waited."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part, is_current, is_made = Path(f"{target}.part"), False, False
    while not (is_current or is_made):
        with open(part, "ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # a kill releases it
            with suppress(FileNotFoundError):
                is_current = os.path.samestat(os.fstat(file.fileno()), part.stat())
            is_made = target.is_file()
            try:
                if is_current or is_made:
                    yield None if is_made else part
            finally:
                if is_current and part.exists() and part.stat().st_size == 0:
                    part.unlink()


def validator_of(part: Path) -> Path:
    """Beside a half-fetched file: the server's ETag or date, by which it can tell that the file is unchanged."""
    return Path(f"{part}-etag")


def begin_again(part: Path) -> None:
    """Forget what was fetched of a file."""
    os.truncate(part, 0)
    validator_of(part).unlink(missing_ok=True)


def write_blocks(source: BinaryIO, part: Path, mode: str, meter: Callable[[int], None]) -> None:
    """Copy ``source``; ``meter`` gets the bytes of each block and may raise to stop. InputError: cannot be written."""
    with open(part, mode) as file:
        while block := source.read(_BLOCK):
            try:
                file.write(block)
                file.flush()
            except OSError as error:  # a full disk is no fault of the network: trying again would not help
                told = f"{part}: cannot be written ({error.strerror}); free space, or set P2ES_HOME"
                raise InputError(told) from error
            meter(len(block))


def check_space(folder: Path, n_bytes: int) -> None:
    """Refuse, with an :class:`InputError`, what the disk of ``folder`` (which need not exist yet) has no room for."""
    existing = next(parent for parent in [folder, *folder.parents] if parent.exists())
    free, needed = shutil.disk_usage(existing).free, int(n_bytes * (1 + SPACE_MARGIN))
    if needed > free:
        remedy = "get fewer records (--number, --record, --subject), or set P2ES_HOME to a larger disk"
        raise InputError(f"{folder}: {needed / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB are free; {remedy}")


def ask_head(url: str) -> tuple[int, int | None]:
    """HTTP status of a file and its length, nothing of it fetched; 0 where there is no answer, None if not stated."""
    try:
        request = urllib.request.Request(url, method="HEAD", headers=_AGENT)
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            return response.status, _stated_length(response)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code, None
    except (OSError, http.client.HTTPException):
        return 0, None


def _stated_length(response: http.client.HTTPResponse) -> int | None:
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdigit() else None


def continue_part(url: str, part: Path, meter: Callable[[int], None]) -> int | None:
    """Fetch the rest of ``url`` into ``part``; return the full length by which it must be judged.

    None where a cut would not be noticed: the server states no length, and ends the file by closing the connection.
    """
    validator = validator_of(part)
    held = part.stat().st_size if part.exists() and validator.exists() else 0
    condition = {"Range": f"bytes={held}-", "If-Range": validator.read_text()} if held else {}
    request = urllib.request.Request(url, headers=_AGENT | condition)
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
        resumed = response.status == 206
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {held}-"):
            validator.unlink()  # begin again in the next attempt
            raise OSError(f"asked for the bytes from {held} on, got {response.headers.get('Content-Range')}")
        if not resumed:
            held = 0
            begin_again(part)  # before the new validator is noted: a kill must not leave it beside older bytes
        length = _stated_length(response)
        # Whoever fetches, a preparation too: a disk is not filled to its last byte by a file that does not fit.
        check_space(part.parent, length or 0)
        etag = response.headers.get("ETag") or response.headers.get("Last-Modified")
        # A weak ETag (W/...) does not promise identical bytes: then a broken transfer begins again.
        if etag and not etag.startswith("W/"):
            validator.write_text(etag)
        else:
            validator.unlink(missing_ok=True)
        write_blocks(response, part, "ab" if resumed else "wb", meter)
        if response.chunked:  # says itself where it ends
            return part.stat().st_size
    return None if length is None else held + length


def http_problem(url: str, error: urllib.error.HTTPError, part: Path) -> tuple[str, float]:
    """What to say of an HTTP error that may pass, and the pause (s) that the server wishes; the others are raised."""
    error.close()
    if error.code in (404, 410):
        raise MissingFile(f"{url}: not on this mirror (HTTP {error.code})") from error
    if error.code in (401, 403):
        raise InputError(
            f"{url}: access refused (HTTP {error.code}): this server gives these files to credentialed users only. Ask "
            "for access on the page of the data set, fetch them with your account, and name the folder with mirror= "
            "(or P2ES_MIRROR)"
        ) from error
    if error.code == 416:  # what we hold is longer than what the server has
        begin_again(part)
    elif error.code not in _TRANSIENT:
        raise InputError(f"{url}: HTTP {error.code} {error.reason}") from error
    wished = error.headers.get("Retry-After", "") if error.headers else ""
    return f"HTTP {error.code} {error.reason}", float(wished) if wished.isdigit() else 0.0
