"""Windows with their index, and the folder in which they are stored.

A store is one folder: the index (one row per window), ``lead_mask.npy``, ``places.npy`` (in which shard and row each
window lies, see :mod:`p2es_lib.data.windows.shard_files`) and ``settings.json`` (what it was made with, where the
shards are, and a hash of its content). Simulated windows lie in the folder itself; those of real recordings stay in the
shards of their records, which all profiles share. It appears under its name only when complete, and is made again when
a setting or the code that makes it has changed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from p2es_lib.core import paths
from p2es_lib.core.demographics import Demographics
from p2es_lib.core.errors import InputError
from p2es_lib.data.windows.shard_files import Shards, ShardWriter, WindowArray

SPLITS = ("train", "validation", "test")
#: Columns that every index has; age may be NaN, the text columns may be "".
INDEX_COLUMNS = ("subject", "record", "start_s", "age", "sex", "split", "split_kind", "quality", "rhythm", "morphology")


@dataclass(frozen=True)
class WindowSet:
    """N paired windows.

    Parameters
    ----------
    ppg : float32 array (N, 1, T)
        Z-scored per window. In memory or, as ``ecg``, a :class:`WindowArray` that reads what is asked for.
    ecg : float32 array (N, 12, T)
        mV, order of :data:`p2es_lib.core.leads.LEADS`; absent leads are 0.
    lead_mask : uint8 array (N, 12)
        0 absent, 1 derived, 2 measured.
    index : DataFrame
        N rows with at least :data:`INDEX_COLUMNS`.
    info : dict
        What the reader should know: ``warnings`` (list of str), ``rejected`` (counts by reason), and the like.
    """

    ppg: np.ndarray | WindowArray
    ecg: np.ndarray | WindowArray
    lead_mask: np.ndarray
    index: pd.DataFrame
    info: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        n, length = len(self.index), self.ppg.shape[-1]
        expected = {"ppg": (n, 1, length), "ecg": (n, 12, length), "lead_mask": (n, 12)}
        for name, shape in expected.items():
            if getattr(self, name).shape != shape:
                raise InputError(f"windows: {name} has shape {getattr(self, name).shape}, expected {shape}")
        missing = [column for column in INDEX_COLUMNS if column not in self.index.columns]
        if missing:
            raise InputError(f"windows: the index lacks the columns {', '.join(missing)}")

    def __len__(self) -> int:
        return len(self.index)

    @property
    def demographics(self) -> Demographics:
        """Age and sex of each window."""
        return Demographics(self.index["age"].to_numpy(), self.index["sex"].to_numpy())

    def select(self, rows) -> WindowSet:
        """The windows named by a boolean mask or an array of row numbers, in that order.

        Stored windows are not read by this; in memory, a gap-free ascending range stays a view.
        """
        rows = np.asarray(rows)
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(int)
        picked: slice | np.ndarray = rows
        if len(rows) and rows[0] >= 0 and np.array_equal(rows, np.arange(rows[0], rows[0] + len(rows))):
            picked = slice(int(rows[0]), int(rows[0]) + len(rows))
        arrays = {name: getattr(self, name) for name in ("ppg", "ecg", "lead_mask")}
        arrays = {name: x.take(rows) if isinstance(x, WindowArray) else x[picked] for name, x in arrays.items()}
        return WindowSet(**arrays, index=self.index.iloc[rows].reset_index(drop=True), info=self.info)

    def split(self, name: str) -> WindowSet:
        """The windows of one split: ``train``, ``validation`` or ``test``."""
        if name not in SPLITS:
            raise InputError(f"split={name!r} is unknown; choose one of: {', '.join(SPLITS)}")
        return self.select((self.index["split"] == name).to_numpy())


# ---------------------------------------------------------------------------------------------------------- the store
def write_windows(folder: Path, windows: WindowSet, settings: dict) -> None:
    """Write a store with the windows in it; it takes its name only when complete (a kill leaves the older, or none).

    ``settings`` must be JSON-able. Added to it: ``content_hash`` (of arrays and index), ``n_windows``, ``shards`` and
    ``info``.
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


def write_view(
    folder: Path,
    index: pd.DataFrame,
    lead_mask: np.ndarray,
    places: np.ndarray,
    shards: Sequence[Path],
    shard_hashes: Sequence[str],
    info: dict,
    settings: dict,
) -> None:
    """Write a store of windows that stay in the shards of their records.

    Parameters
    ----------
    places : int array (N, 2)
        Number of the shard in ``shards``, row in it.
    shard_hashes : sequence of str
        Hash of each shard's content: with the index it makes the hash of the store, and by it a shard that is made anew
        later, before the store is (a kill may come between), is found out when the store is read.
    """
    folder = Path(folder)
    digest = hashlib.sha256(json.dumps(list(shard_hashes)).encode())
    with paths.atomic_path(folder) as temporary:
        temporary.mkdir()
        relative = [os.path.relpath(shard, folder) for shard in shards]  # so that the root may be moved
        settings = settings | {"shard_hashes": list(shard_hashes)}
        _write_index(temporary, index, lead_mask, places, relative, info, settings, digest)


def _write_index(folder, index, lead_mask, places, shards, info, settings, digest) -> None:
    write_table(folder, index)
    lead_mask, places = np.ascontiguousarray(lead_mask, np.uint8), np.ascontiguousarray(places, np.int64)
    np.save(folder / "lead_mask.npy", lead_mask)
    np.save(folder / "places.npy", places)
    digest.update(json.dumps(plain_table(index).to_dict("list")).encode() + lead_mask.tobytes() + places.tobytes())
    content = {"content_hash": digest.hexdigest()[:16], "n_windows": len(index), "shards": shards, "info": info}
    (folder / "settings.json").write_text(json.dumps(settings | content, indent=1, sort_keys=True))


def read_windows(folder: Path) -> WindowSet:
    """Read a store; PPG and ECG stay on disk until they are asked for.

    Raises
    ------
    InputError
        No such store (names the command that makes it), or one that cannot be read.
    """
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
    """Examples of windows that were rejected, one for each reason; none where all were kept.

    Returns
    -------
    list of dict
        ``reason``, ``record``, ``start_s``, ``quality``, ``ppg`` (1, T), ``ecg`` (12, T) in mV.
    """
    folder = Path(folder)
    settings = read_settings(folder) or {}
    examples = settings.get("info", {}).get("examples", [])
    shards = Shards([folder / name for name in settings.get("shards", [])], settings.get("shard_hashes", ()))
    signals = (shards.open(example["shard"])[example["row"]] for example in examples)
    return [
        example | {name: np.array(window[name]) for name in ("ppg", "ecg")}
        for example, window in zip(examples, signals)
    ]


def read_settings(folder: Path, name: str = "settings.json") -> dict | None:
    """``settings.json`` of a store, or None where there is none (or it cannot be parsed)."""
    try:
        return json.loads((Path(folder) / name).read_text())
    except (OSError, ValueError):
        return None


def stored_beats(index: pd.DataFrame) -> np.ndarray:
    """R peaks (N, n) that the preparation found in each window of real data (``rpeaks_s``), seconds, NaN-padded."""
    times = [np.array(text.split(), dtype=float) for text in index["rpeaks_s"]]
    padded = np.full((len(times), max(map(len, times), default=0)), np.nan)
    for row, found in zip(padded, times, strict=True):
        row[: len(found)] = found
    return padded


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
        kind = column.dtype.kind if isinstance(column.dtype, np.dtype) else "O"
        wanted = {"f": np.float64, "i": np.int64, "u": np.int64, "b": bool}.get(kind)
        plain[name] = column.astype(wanted) if wanted else column.fillna("").astype(str).astype(object)
    return pd.DataFrame(plain)
