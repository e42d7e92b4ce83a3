"""Files of lines to which threads and processes append at once: read once, then only what was added."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable
from pathlib import Path

#: Bytes before the end of what was read, by which a file that was edited is told from one that has grown.
_TAIL_BYTES = 256


def append_line(path: Path, line: str) -> None:
    """Add one line to a file; safe when several threads and processes do so, and at a kill."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        torn = size > 0 and file.read(1) != b"\n"  # a kill in the middle of a line
        file.write((b"\n" if torn else b"") + f"{line}\n".encode())
        file.flush()


class LineFile:
    """What the lines of a file say, kept in memory, so that asking for each of 10^5 files does not read 10^5 lines.

    Parameters
    ----------
    path : Path
        Need not exist.
    parse : callable
        ``parse(line) -> (key, value)``, or None for a line that says nothing. Of two lines with one key the later
        counts.
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
                state = self.path.stat()
            except FileNotFoundError:
                self._forget()
                return self._values
            if _state_of(state) != self._state:
                self._read_on()
            return self._values

    def _read_on(self) -> None:
        with open(self.path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)  # no line is seen that another process has written half of
            now = _state_of(os.fstat(file.fileno()))
            grown = self._state is not None and now[0] == self._state[0] and now[1] > self._end
            if grown:
                file.seek(self._end - len(self._tail))
                grown = file.read(len(self._tail)) == self._tail
            if not grown:  # replaced, or edited by hand
                self._forget()
                file.seek(0)
            added = file.read()
        found = (self._parse(line) for line in added.decode("utf-8", errors="replace").splitlines())
        self._values.update(pair for pair in found if pair)
        self._state, self._end = now, self._end + len(added)
        self._tail = (self._tail + added)[-_TAIL_BYTES:]


def _state_of(stat: os.stat_result) -> tuple[int, int, int]:
    return stat.st_ino, stat.st_size, stat.st_mtime_ns
