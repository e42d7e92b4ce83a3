"""Windows on disk, in shards that are read as they are needed.

A shard is one ``windows.npy``: a structured array in which PPG and ECG of one window lie side by side. So one window is
one contiguous stretch of the file, whose place follows from its row number: reading a random window costs one seek and
one copy, whether the shard holds a thousand windows or a million. The file is memory-mapped with NumPy alone, which
every machine that trains has; there is no decoder between the disk and a batch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import LEADS

SHARD_FILE = "windows.npy"
#: What a preparation keeps beside it; its last entry is the hash of the shard's content.
SHARD_SETTINGS = "shard.json"
#: Shards that stay mapped. Each takes a file descriptor, of which a process has 1,024 on many systems. With more
#: shards than these, most windows map a file again, which takes a few times as long as reading the window.
MAX_OPEN = 512


def window_dtype(window_samples: int) -> np.dtype:
    """One window of ``window_samples``: ``ppg`` float32 (1, T) and ``ecg`` float32 (12, T) in mV."""
    return np.dtype([("ppg", "<f4", (1, window_samples)), ("ecg", "<f4", (len(LEADS), window_samples))])


class ShardWriter:
    """Writes windows one after the other, so that memory does not grow with their number.

    The file is complete only after :meth:`close`; write it inside :func:`p2es_lib.core.paths.atomic_path`.
    """

    def __init__(self, folder: Path, window_samples: int):
        self.dtype, self.count, self.path = window_dtype(window_samples), 0, Path(folder) / SHARD_FILE
        self._file = open(self.path, "wb")  # noqa: SIM115
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


class Shards:
    """Several shards, memory-mapped when they are first read; the last :data:`MAX_OPEN` of them stay so.

    Parameters
    ----------
    folders : sequence of Path
    hashes : sequence of str, optional
        What each shard held when the rows that are asked for were written down. A shard that was made anew since has
        other windows in them, and is refused.
    """

    def __init__(self, folders: Sequence[Path], hashes: Sequence[str] = ()):
        self.folders, self.hashes = [Path(folder) for folder in folders], list(hashes)
        self._layouts: dict[int, tuple[int, tuple[int, ...], np.dtype]] = {}
        #: Windows of a shard by its number: a structured array (N,), still on disk.
        self.open = lru_cache(MAX_OPEN)(self._open)

    def close(self) -> None:
        """Close all shards that nobody holds; they are opened again when they are read."""
        self.open.cache_clear()

    def _open(self, number: int) -> np.ndarray:
        path = self.folders[number] / SHARD_FILE
        found = _content_hash(self.folders[number]) if self.hashes else None
        if found is not None and found != self.hashes[number]:
            raise InputError(f"{path}: was made anew after the store that reads it; prepare the data set again")
        try:
            if number not in self._layouts:  # parsing a header takes longer than all the rest: once for each shard
                self._layouts[number] = _read_layout(path)
            begins, shape, dtype = self._layouts[number]
            if not shape[0]:  # nothing that could be mapped
                return np.empty(0, dtype)
            return np.memmap(path, dtype, "r", begins, shape).view(np.ndarray)
        except (ValueError, EOFError) as error:
            raise InputError(f"{path}: not a file of windows ({error}); delete its folder and prepare again") from error
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error}); prepare the data set again") from error


def _read_layout(path: Path) -> tuple[int, tuple[int, ...], np.dtype]:
    """Where the windows of a file begin (bytes), how many they are, and what one of them is."""
    with open(path, "rb") as file:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"version {version} of the format")
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        if len(shape) != 1 or dtype.names != ("ppg", "ecg"):
            raise ValueError(f"an array of shape {shape} and type {dtype}")
        return file.tell(), shape, dtype


def _content_hash(folder: Path) -> str | None:
    """Hash that a shard states of its content, from the end of a file that may be long; None where it states none."""
    try:
        with open(folder / SHARD_SETTINGS, "rb") as file:
            file.seek(max(0, file.seek(0, 2) - 200))
            found = re.findall(rb'"content_hash": "([0-9a-f]+)"', file.read())
    except OSError:
        return None
    return found[-1].decode() if found else None


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
        for wanted in np.split(order, np.flatnonzero(np.diff(places[order, 0])) + 1) if len(order) else []:
            values[wanted] = self.shards.open(int(places[wanted[0], 0]))[self.field][places[wanted, 1]]
        return values
