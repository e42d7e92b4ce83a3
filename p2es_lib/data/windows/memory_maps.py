"""Windows on disk, in shards that are read as they are needed.

A shard is one ``windows.npy``: a structured array in which PPG and ECG of one window lie side by side. So one window is
one contiguous stretch of the file, whose place follows from its row number: reading a random window costs one seek and
one copy, whether the shard holds a thousand windows or a million. The file is memory-mapped with the standard library and
NumPy alone, which every machine that trains has; there is no decoder between the disk and a batch.

A store may have ten thousand shards. All of them stay mapped, because opening one takes longer than reading a window of
it; that costs address space, and before Python 3.13 a file descriptor each.
"""

from __future__ import annotations

import errno
import mmap
import re
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import LEADS

SHARD_FILE = "windows.npy"
#: What a preparation keeps beside it; its last entry is the hash of the shard's content.
SHARD_SETTINGS = "shard.json"
# Shards that stay mapped, at most; Linux allows a process 65,530 maps.
_MAX_OPEN = 16_384
# File descriptors for everything else.
_RESERVED = 512
# Shards whose windows are asked of the disk before the first of them is copied.
_AHEAD = 64


def window_dtype(window_samples: int) -> np.dtype:
    """One window of ``window_samples``: ``ppg`` float32 (1, T) and ``ecg`` float32 (12, T) in mV."""
    return np.dtype([("ppg", "<f4", (1, window_samples)), ("ecg", "<f4", (len(LEADS), window_samples))])


class ShardWriter:
    """Writes windows one after the other, so that memory does not grow with their number.

    The file is complete only after :meth:`close`; write it inside :func:`p2es_lib.core.paths.atomic_path`.
    """

    def __init__(self, folder: Path, window_samples: int):
        self.dtype, self.count, self.path = window_dtype(window_samples), 0, Path(folder) / SHARD_FILE
        self._file = open(self.path, "wb")
        self._write_header()
        self._data_begins = self._file.tell()

    def _write_header(self) -> None:
        # NumPy pads the header so that the number of rows can grow in place.
        descr = np.lib.format.dtype_to_descr(self.dtype)
        header = {"descr": descr, "fortran_order": False, "shape": (self.count,)}
        np.lib.format.write_array_header_1_0(self._file, header)

    def append(self, ppg: np.ndarray, ecg: np.ndarray) -> int:
        """Add one window, (1, T) and (12, T); return its row number."""
        window = np.empty((), dtype=self.dtype)
        window["ppg"], window["ecg"] = ppg, ecg
        self._file.write(window.tobytes())
        self.count += 1
        return self.count - 1

    def flush(self) -> None:
        """Hand all windows so far to the operating system."""
        self._file.flush()

    def close(self) -> None:
        """Enter the number of windows into the header, and close the file."""
        self._file.seek(0)
        self._write_header()
        if self._file.tell() != self._data_begins:
            raise RuntimeError("the header of the shard changed its length")
        self._file.close()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind, *_) -> None:
        if kind is None:
            self.close()
        else:
            self._file.close()


class _Mapped(NamedTuple):
    """A shard that is open: its windows (N,), the map they lie in, and where in it they begin (bytes)."""

    windows: np.ndarray
    map: mmap.mmap | None
    begins: int


class Shards:
    """Several shards, opened when they are first read, and memory-mapped from then on (as many as the system allows).

    Parameters
    ----------
    folders : sequence of Path
    hashes : sequence of str, optional
        What each shard held when the rows that are asked for were written down. A shard that was made anew since has
        other windows in them, and is refused.
    """

    def __init__(self, folders: Sequence[Path], hashes: Sequence[str] = ()):
        self.folders, self.hashes = [Path(folder) for folder in folders], list(hashes)
        self._layouts: dict[int, tuple[int, int, np.dtype]] = {}
        self.mapped = lru_cache(_number_kept_open(len(self.folders)))(self._open)

    def open(self, number: int) -> np.ndarray:
        """Windows of a shard: a structured array, still on disk."""
        return self.mapped(number).windows

    def close(self) -> None:
        """Close all shards that nobody holds; they are opened again when they are read."""
        self.mapped.cache_clear()

    def _open(self, number: int) -> _Mapped:
        path = self.folders[number] / SHARD_FILE
        found = _content_hash(self.folders[number]) if self.hashes else None
        if found is not None and found != self.hashes[number]:
            raise InputError(f"{path}: was made anew after the store that reads it; prepare the data set again")
        try:
            return self._map(number, path)
        except ValueError as error:
            raise InputError(f"{path}: not a file of windows ({error}); delete its folder and prepare again") from error
        except OSError as error:
            if error.errno == errno.EMFILE and self.mapped.cache_info().currsize:  # others have taken the descriptors
                self.close()
                return self._open(number)
            raise InputError(f"{path}: cannot be read ({error}); prepare the data set again") from error

    def _map(self, number: int, path: Path) -> _Mapped:
        with open(path, "rb") as file:
            if number not in self._layouts:  # parsing a header takes longer than all the rest: once for each shard
                self._layouts[number] = _read_layout(file)
            begins, count, dtype = self._layouts[number]
            if not count:  # nothing that could be mapped
                return _Mapped(np.empty(0, dtype), None, 0)
            # Python 3.13 need not keep the descriptor of a mapped file.
            options = {"trackfd": False} if sys.version_info >= (3, 13) else {}
            mapped = mmap.mmap(file.fileno(), begins + count * dtype.itemsize, access=mmap.ACCESS_READ, **options)
        return _Mapped(np.frombuffer(mapped, dtype, count, begins), mapped, begins)


def _content_hash(folder: Path) -> str | None:
    """Hash that a shard states of its content, from the end of a file that may be long; None where it states none."""
    try:
        with open(folder / SHARD_SETTINGS, "rb") as file:
            file.seek(max(0, file.seek(0, 2) - 200))
            found = re.findall(rb'"content_hash": "([0-9a-f]+)"', file.read())
    except OSError:
        return None
    return found[-1].decode() if found else None


def _read_layout(file) -> tuple[int, int, np.dtype]:
    """Where the windows of a file begin (bytes), how many they are, and what one of them is."""
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError(f"version {version} of the format")
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    if len(shape) != 1 or dtype.names != ("ppg", "ecg"):
        raise ValueError(f"an array of shape {shape} and type {dtype}")
    return file.tell(), shape[0], dtype


def _number_kept_open(n_shards: int) -> int:
    """How many of so many shards stay mapped; half of the descriptors at most, and more are asked for where needed."""
    wanted = min(n_shards, _MAX_OPEN)
    if sys.version_info >= (3, 13):
        return wanted
    try:
        import resource
    except ImportError:  # Windows: 8,192 files
        return min(wanted, 2048)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * wanted + _RESERVED
    if soft != resource.RLIM_INFINITY and soft < needed:
        try:
            raised = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
            soft = raised
        except (ValueError, OSError):  # macOS may allow less than it says
            pass
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, (soft - _RESERVED) // 2))


class WindowArray:
    """One field of N windows that lie in shards; an array of shape (N, ...) that reads only what is asked for.

    Indexing with a number, a slice, or an array of rows (and further indices after it) gives a NumPy array;
    ``np.asarray`` reads everything.

    Parameters
    ----------
    shards : Shards
    places : int array (N, 2)
        Shard number and row of each window.
    field : str
        ``"ppg"`` or ``"ecg"``.
    window_samples : int
        Length of a window.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, shards: Shards, places: np.ndarray, field: str, window_samples: int):
        self.shards, self.places, self.field = shards, places, field
        self.shape = (len(places), *window_dtype(window_samples)[field].shape)
        self.ndim = len(self.shape)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, key) -> np.ndarray:
        rows, rest = (key[0], key[1:]) if isinstance(key, tuple) else (key, ())
        if isinstance(rows, (int, np.integer)):
            shard, row = self.places[rows]
            return np.array(self.shards.open(int(shard))[self.field][row][rest])
        values = self._read(self.places[rows])
        return values[(slice(None), *rest)] if rest else values

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        values = self._read(self.places)
        return values if dtype is None else values.astype(dtype, copy=False)

    def take(self, rows: np.ndarray) -> WindowArray:
        """The windows of these rows, still unread."""
        return WindowArray(self.shards, self.places[rows], self.field, self.shape[-1])

    def _read(self, places: np.ndarray) -> np.ndarray:
        values = np.empty((len(places), *self.shape[1:]), dtype=np.float32)
        order = np.argsort(places[:, 0], kind="stable")
        by_shard = np.split(order, np.flatnonzero(np.diff(places[order, 0])) + 1) if len(order) else []
        for first in range(0, len(by_shard), _AHEAD):
            parts = [(int(places[wanted[0], 0]), wanted) for wanted in by_shard[first : first + _AHEAD]]
            for shard, wanted in parts:
                _ask_for(self.shards.mapped(shard), places[wanted, 1])
            for shard, wanted in parts:
                values[wanted] = self.shards.open(shard)[self.field][places[wanted, 1]]
        return values


def _ask_for(shard: _Mapped, rows: np.ndarray) -> None:
    """Have these windows of a memory-mapped file read, all at once and no more than them, PPG and ECG in one go.

    Left to itself, the first touch of each makes the kernel wait for the disk, and read on both sides of it as far as
    the disk's read-ahead goes: megabytes for a window of 53 KB, on some machines.
    """
    if not hasattr(mmap, "MADV_WILLNEED") or shard.map is None:
        return
    size = shard.windows.itemsize
    for row in rows:
        begin = shard.begins + int(row) * size
        page = begin - begin % mmap.PAGESIZE
        shard.map.madvise(mmap.MADV_WILLNEED, page, begin + size - page)
