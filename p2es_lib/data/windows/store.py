"""Windows with their index: on disk, in shards that are read as they are needed, and in memory.

A shard is one ``windows.npy``, memory-mapped with NumPy alone: a structured array in which PPG and ECG of one window
lie side by side. So its place follows from its row number, and reading a random window costs one seek and one copy,
whether the shard holds a thousand windows or a million.

A store is one folder: the index (one row per window), ``lead_mask.npy``, ``places.npy`` (in which shard and row each
window lies) and ``settings.json`` (what it was made with, where the shards are, and a hash of its content). Simulated
windows lie in the folder itself; those of real recordings stay in the shards of their records, which profiles share.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from p2es_lib.core import paths
from p2es_lib.core.demographics import Demographics
from p2es_lib.core.errors import InputError, check_choice
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


class ShardWriter(AbstractContextManager):
    """Writes windows one after the other, so that memory does not grow with their number.

    The file is complete only after the ``with`` block; write it inside :func:`p2es_lib.core.paths.atomic_path`.
    """

    def __init__(self, folder: Path, window_samples: int):
        self.dtype, self.count, self.path = window_dtype(window_samples), 0, Path(folder) / SHARD_FILE
        self.file = open(self.path, "wb")  # noqa: SIM115
        self._write_header()
        self._data_begins = self.file.tell()

    def _write_header(self) -> None:
        # NumPy pads the header so that the number of rows can grow in place.
        descr = np.lib.format.dtype_to_descr(self.dtype)
        header = {"descr": descr, "fortran_order": False, "shape": (self.count,)}
        np.lib.format.write_array_header_1_0(self.file, header)

    def append(self, ppg: np.ndarray, ecg: np.ndarray) -> int:
        """Add one window, (1, T) and (12, T); return its row number."""
        self.file.write(np.array((ppg, ecg), dtype=self.dtype).tobytes())
        self.count += 1
        return self.count - 1

    def __exit__(self, kind, *_) -> None:
        with self.file:
            if kind is None:
                self.file.seek(0)
                self._write_header()
                if self.file.tell() != self._data_begins:
                    raise RuntimeError("the header of the shard changed its length")


class Shards:
    """Several shards, memory-mapped when they are first read; the last :data:`MAX_OPEN` of them stay so.

    ``hashes`` say what each held when the rows that are asked for were written down: a shard that was made anew since
    has other windows in them, and is refused.
    """

    def __init__(self, folders: Sequence[Path], hashes: Sequence[str] = ()):
        self.folders, self.hashes = [Path(folder) for folder in folders], list(hashes)
        self._layout = lru_cache(None)(_read_layout)  # parsing a header takes longer than all the rest
        #: Windows of a shard by its number: a structured array (N,), still on disk; ``open.cache_clear()`` closes all.
        self.open = lru_cache(MAX_OPEN)(self._open)

    def _open(self, number: int) -> np.ndarray:
        path = self.folders[number] / SHARD_FILE
        if self.hashes and _content_hash(self.folders[number]) not in (None, self.hashes[number]):
            raise InputError(f"{path}: was made anew after the store that reads it; prepare the data set again")
        try:
            begins, shape, dtype = self._layout(path)
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
    ``np.asarray`` reads everything. ``places`` (N, 2) are shard and row of each window, ``field`` is "ppg" or "ecg".
    """

    dtype = np.dtype(np.float32)

    def __init__(self, shards: Shards, places: np.ndarray, field: str, window_samples: int):
        self.shards, self.places, self.field = shards, places, field
        self.shape = (len(places), *window_dtype(window_samples)[field].shape)
        self.ndim = len(self.shape)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, key) -> np.ndarray:
        rows, *rest = key if isinstance(key, tuple) else (key,)
        if isinstance(rows, (int, np.integer)):
            return self._read(self.places[rows][None])[(0, *rest)]
        return self._read(self.places[rows])[(slice(None), *rest)]

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return self._read(self.places).astype(self.dtype if dtype is None else dtype, copy=False)

    def take(self, rows: np.ndarray, axis: int = 0) -> WindowArray:
        """The windows of these rows, still unread; named as NumPy names it for arrays in memory."""
        return WindowArray(self.shards, self.places[rows], self.field, self.shape[-1])

    def _read(self, places: np.ndarray) -> np.ndarray:
        values = np.empty((len(places), *self.shape[1:]), dtype=np.float32)
        order = np.argsort(places[:, 0], kind="stable")
        for wanted in np.split(order, np.flatnonzero(np.diff(places[order, 0])) + 1) if len(order) else []:
            values[wanted] = self.shards.open(int(places[wanted[0], 0]))[self.field][places[wanted, 1]]
        return values


SPLITS = ("train", "validation", "test")
#: Columns that every index has; age may be NaN, the text columns may be "".
INDEX_COLUMNS = ("subject", "record", "start_s", "age", "sex", "split", "split_kind", "quality", "rhythm", "morphology")


@dataclass(frozen=True)
class WindowSet:
    """N paired windows; PPG and ECG in memory or each a :class:`WindowArray` that reads what is asked for."""

    ppg: np.ndarray | WindowArray  #: float32 (N, 1, T), z-scored per window
    ecg: np.ndarray | WindowArray  #: float32 (N, 12, T), mV, order of :data:`p2es_lib.core.leads.LEADS`; 0 if absent
    lead_mask: np.ndarray  #: uint8 (N, 12): 0 absent, 1 derived, 2 measured
    index: pd.DataFrame  #: N rows with at least :data:`INDEX_COLUMNS`
    #: What the reader should know: ``warnings`` (list of str), ``rejected`` (counts by reason), and the like.
    info: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        n, length = len(self.index), self.ppg.shape[-1]
        for name, shape in {"ppg": (n, 1, length), "ecg": (n, 12, length), "lead_mask": (n, 12)}.items():
            if getattr(self, name).shape != shape:
                raise InputError(f"windows: {name} has shape {getattr(self, name).shape}, expected {shape}")
        if missing := [column for column in INDEX_COLUMNS if column not in self.index.columns]:
            raise InputError(f"windows: the index lacks the columns {', '.join(missing)}")

    def __len__(self) -> int:
        return len(self.index)

    @property
    def demographics(self) -> Demographics:
        """Age and sex of each window."""
        return Demographics(self.index["age"].to_numpy(), self.index["sex"].to_numpy())

    def select(self, rows) -> WindowSet:
        """The windows named by a boolean mask or an array of row numbers, in that order; stored ones are not read."""
        rows = np.asarray(rows)
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(int)
        fields = (self.ppg, self.ecg, self.lead_mask)
        if len(rows) and (np.diff(rows) == 1).all():  # no copy of what is in memory
            part = slice(rows[0], rows[-1] + 1)
            ppg, ecg, lead_mask = (x[part] if isinstance(x, np.ndarray) else x.take(rows, axis=0) for x in fields)
        else:
            ppg, ecg, lead_mask = (x.take(rows, axis=0) for x in fields)
        return WindowSet(ppg, ecg, lead_mask, self.index.iloc[rows].reset_index(drop=True), self.info)

    def split(self, name: str) -> WindowSet:
        """The windows of one split: ``train``, ``validation`` or ``test``."""
        return self.select((self.index["split"] == check_choice("split", name, SPLITS)).to_numpy())


def write_windows(folder: Path, windows: WindowSet, settings: dict) -> None:
    """Write a store with the windows in it; it takes its name only when complete (a kill leaves the older, or none).

    Added to ``settings``, which must be JSON-able: ``content_hash`` (of all), ``n_windows``, ``shards`` and ``info``.
    """
    digest = hashlib.sha256()
    with paths.atomic_path(Path(folder)) as temporary:
        temporary.mkdir()
        with ShardWriter(temporary, windows.ppg.shape[-1]) as writer:
            for row in range(len(windows)):
                ppg, ecg = np.asarray(windows.ppg[row], np.float32), np.asarray(windows.ecg[row], np.float32)
                writer.append(ppg, ecg)
                digest.update(ppg.tobytes() + ecg.tobytes())
        places = np.stack([np.zeros(len(windows), int), np.arange(len(windows))], axis=1)
        _write_index(temporary, windows.index, windows.lead_mask, places, ["."], windows.info, settings, digest)


def write_view(folder: Path, index: pd.DataFrame, shards: dict[Path, str], info: dict, settings: dict) -> None:
    """Write a store of windows that stay in the shards of their records.

    Columns ``shard`` and ``row`` of ``index`` say where each window is, ``leads`` (twelve digits) which leads it has.
    ``shards`` has the hash of each shard's content: with the index they make the hash of the store, and by them a shard
    that is made anew later, before the store is (a kill may come between), is found out when the store is read.
    """
    hashes = list(shards.values())
    digest = hashlib.sha256(json.dumps(hashes).encode())
    lead_mask = np.frombuffer("".join(index["leads"]).encode(), np.uint8).reshape(-1, 12) - ord("0")
    places, index = index[["shard", "row"]].to_numpy(), index.drop(columns=["shard", "row", "leads"])
    with paths.atomic_path(folder) as temporary:
        temporary.mkdir()
        relative = [os.path.relpath(shard, folder) for shard in shards]  # so that the root may be moved
        _write_index(temporary, index, lead_mask, places, relative, info, settings | {"shard_hashes": hashes}, digest)


def _write_index(folder, index, lead_mask, places, shards, info, settings, digest) -> None:
    write_table(folder, index)
    lead_mask, places = np.ascontiguousarray(lead_mask, np.uint8), np.ascontiguousarray(places, np.int64)
    np.save(folder / "lead_mask.npy", lead_mask)
    np.save(folder / "places.npy", places)
    digest.update(json.dumps(plain_table(index).to_dict("list")).encode() + lead_mask.tobytes() + places.tobytes())
    content = {"content_hash": digest.hexdigest()[:16], "n_windows": len(index), "shards": shards, "info": info}
    (folder / "settings.json").write_text(json.dumps(settings | content, indent=1, sort_keys=True))


def read_windows(folder: Path) -> WindowSet:
    """Read a store; PPG and ECG stay on disk until asked for. InputError: none (names the command), or unreadable."""
    folder = Path(folder)
    dataset, _, profile = folder.name.rpartition("-")
    command = f"p2es notebook 01_data --dataset {dataset} --profile {profile}"
    settings = read_settings(folder)
    if settings is None:
        raise InputError(f"{folder}: no prepared windows here; make them with: {command}")
    try:
        shards = Shards([folder / name for name in settings["shards"]], settings.get("shard_hashes", ()))
        places = np.load(folder / "places.npy")
        window_samples = shards.open(int(places[0, 0]))["ppg"].shape[-1]
        arrays = {name: WindowArray(shards, places, name, window_samples) for name in ("ppg", "ecg")}
        lead_mask = np.load(folder / "lead_mask.npy")
        return WindowSet(**arrays, lead_mask=lead_mask, index=read_table(folder), info=settings["info"])
    except (InputError, OSError, EOFError, ValueError, KeyError, IndexError) as error:
        raise InputError(f"{folder}: cannot be read ({error}); delete this folder and run: {command}") from error


def read_rejected(folder: Path) -> list[dict]:
    """Examples of windows that were rejected, one for each reason, if any: ``reason``, ``record``, ``start_s``,
    ``quality``, ``ppg`` (1, T), ``ecg`` (12, T) in mV.
    """
    folder = Path(folder)
    settings, examples = read_settings(folder) or {}, []
    shards = Shards([folder / name for name in settings.get("shards", [])], settings.get("shard_hashes", ()))
    for example in settings.get("info", {}).get("examples", []):
        window = shards.open(example["shard"])[example["row"]]
        examples.append(example | {name: np.array(window[name]) for name in ("ppg", "ecg")})
    return examples


def read_settings(folder: Path, name: str = "settings.json") -> dict | None:
    """``settings.json`` of a store, or None where there is none (or it cannot be parsed)."""
    try:
        return json.loads((Path(folder) / name).read_text())
    except (OSError, ValueError):
        return None


def stored_beats(index: pd.DataFrame) -> np.ndarray:
    """R peaks (N, n) that the preparation found in each window of real data (``rpeaks_s``), seconds, NaN-padded."""
    return pd.DataFrame([text.split() for text in index["rpeaks_s"]], dtype=object).to_numpy(float)


# Parquet needs pyarrow, which a bare training machine lacks: JSON keeps every bit as well, only larger.
def write_table(folder: Path, table: pd.DataFrame) -> None:
    """Write ``index.parquet`` into a folder, or ``index.json`` where pyarrow is missing."""
    table = plain_table(table)
    if importlib.util.find_spec("pyarrow"):
        table.to_parquet(folder / "index.parquet")
    else:
        (folder / "index.json").write_text(json.dumps(table.to_dict("list")))


def read_table(folder: Path) -> pd.DataFrame:
    """Read what :func:`write_table` wrote."""
    if (folder / "index.json").exists():
        return pd.DataFrame(json.loads((folder / "index.json").read_text()))
    return pd.read_parquet(folder / "index.parquet")


def plain_table(table: pd.DataFrame) -> pd.DataFrame:
    """The table with column types that Parquet and JSON hold alike: float64, int64, bool or str."""
    plain = {}
    for name, column in table.reset_index(drop=True).items():
        wanted = {"f": np.float64, "i": np.int64, "u": np.int64, "b": bool}.get(column.dtype.kind)
        plain[name] = column.astype(wanted) if wanted else column.fillna("").astype(str).astype(object)
    return pd.DataFrame(plain)
