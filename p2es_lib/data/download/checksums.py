"""SHA-256 of the files of a data set, in files of lines to which threads and processes append at once."""

import fcntl
import hashlib
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path

PUBLISHED_FILE, SEEN_FILE = "SHA256SUMS.txt", ".sha256"
_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *]?(\S.*)")
#: Bytes before the end of what was read, by which a file that was edited is told from one that has grown.
_TAIL_BYTES = 256


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def parse_checksum(line: str) -> tuple[str, str] | None:
    """Path and digest of a ``sha256sum`` line, or None for one that is torn."""
    match = _LINE.fullmatch(line.rstrip())
    return (match[2].removeprefix("./"), match[1].lower()) if match else None


def read_checksums(path: Path) -> dict[str, str]:
    """Path to digest, from a file of ``sha256sum`` lines; lines that are torn are left out, of two the later counts."""
    return LineFile(path, parse_checksum).read()


def is_cut_short(path: Path) -> bool:
    """Whether the last line of a published list is no ``sha256sum`` line: the lines behind it are missing too."""
    with open(path, "rb") as file:
        lines = [line for line in file.read().decode("utf-8", errors="replace").split("\n") if line.strip()]
    return bool(lines) and parse_checksum(lines[-1]) is None


def append_line(path: Path, line: str) -> None:
    """Add one line to a file; safe when several threads and processes do so, and at a kill."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        torn = size > 0 and file.read(1) != b"\n"  # a kill in the middle of a line
        file.write((b"\n" if torn else b"") + f"{line}\n".encode())


class LineFile:
    """What the lines of a file say, kept in memory, so that asking for each of 10^5 files does not read 10^5 lines.

    ``parse(line)`` gives key and value, or None for a line that says nothing. Of two lines with one key the later
    counts. The file need not exist.
    """

    def __init__(self, path: Path, parse: Callable[[str], tuple[str, str] | None]):
        self.path, self._parse, self._lock = path, parse, threading.Lock()
        self._forget()

    def _forget(self) -> None:
        self._values: dict[str, str] = {}
        self._state, self._end, self._tail = None, 0, b""

    def read(self) -> dict[str, str]:
        """Key to value as the file says now, whoever wrote it; empty where there is none."""
        with self._lock:
            try:
                if _state_of(self.path.stat()) != self._state:
                    self._read_on()
            except FileNotFoundError:
                self._forget()
            return self._values

    def _read_on(self) -> None:
        with open(self.path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)  # no line is seen that another process has written half of
            now = _state_of(os.fstat(file.fileno()))
            file.seek(self._end - len(self._tail))
            grown = self._state is not None and now[0] == self._state[0] and now[1] > self._end
            if not (grown and file.read(len(self._tail)) == self._tail):  # replaced, or edited by hand
                self._forget()
                file.seek(0)
            added = file.read()
        self._values.update(filter(None, map(self._parse, added.decode("utf-8", errors="replace").splitlines())))
        self._state, self._end = now, self._end + len(added)
        self._tail = (self._tail + added)[-_TAIL_BYTES:]


def _state_of(stat: os.stat_result) -> tuple[int, int, int]:
    return stat.st_ino, stat.st_size, stat.st_mtime_ns
