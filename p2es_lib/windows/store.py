"""Windows with their index, and the folder in which they are stored.

A store is one folder: ``ppg.npy``, ``ecg.npy``, ``lead_mask.npy`` (memory-mapped when read), the index (one row per
window) and ``settings.json`` (what it was made with, and a hash of its content). It appears under its name only when
complete, and it is made again when a setting or the code that makes it has changed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from p2es_lib import paths
from p2es_lib.config import Config
from p2es_lib.demographics import Demographics
from p2es_lib.errors import InputError

SPLITS = ("train", "validation", "test")
#: Columns that every index has; age may be NaN, the text columns may be "".
INDEX_COLUMNS = ("subject", "record", "start_s", "age", "sex", "split", "split_kind", "quality", "rhythm", "morphology")

_ARRAYS = ("ppg", "ecg", "lead_mask")


@dataclass(frozen=True)
class WindowSet:
    """N paired windows.

    Parameters
    ----------
    ppg : float32 array (N, 1, T)
        Z-scored per window.
    ecg : float32 array (N, 12, T)
        mV, order of :data:`p2es_lib.leads.LEADS`; absent leads are 0.
    lead_mask : uint8 array (N, 12)
        0 absent, 1 derived, 2 measured.
    index : DataFrame
        N rows with at least :data:`INDEX_COLUMNS`.
    info : dict
        What the reader should know: ``warnings`` (list of str), ``rejected`` (counts by reason), and the like.
    """

    ppg: np.ndarray
    ecg: np.ndarray
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

        A gap-free ascending range stays a view (memory-mapped if the store is), anything else is copied.
        """
        rows = np.asarray(rows)
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(int)
        picked: slice | np.ndarray = rows
        if len(rows) and rows[0] >= 0 and np.array_equal(rows, np.arange(rows[0], rows[0] + len(rows))):
            picked = slice(int(rows[0]), int(rows[0]) + len(rows))
        arrays = {name: getattr(self, name)[picked] for name in _ARRAYS}
        return WindowSet(**arrays, index=self.index.iloc[rows].reset_index(drop=True), info=self.info)

    def split(self, name: str) -> WindowSet:
        """The windows of one split: ``train``, ``validation`` or ``test``."""
        if name not in SPLITS:
            raise InputError(f"split={name!r} is unknown; choose one of: {', '.join(SPLITS)}")
        return self.select((self.index["split"] == name).to_numpy())


# ---------------------------------------------------------------------------------------------------------- the store
def write_windows(folder: Path, windows: WindowSet, settings: dict) -> None:
    """Write a store; it takes its name only when complete (a kill leaves the older one, or none).

    ``settings`` must be JSON-able. Added to it: ``content_hash`` (of arrays and index), ``n_windows`` and ``info``.
    """
    index = _plain_index(windows.index)
    digest = hashlib.sha256(json.dumps(index.to_dict("list")).encode())
    with paths.atomic_path(Path(folder)) as temporary:
        temporary.mkdir(parents=True)
        for name in _ARRAYS:
            array = np.ascontiguousarray(getattr(windows, name), dtype=np.uint8 if name == "lead_mask" else np.float32)
            np.save(temporary / f"{name}.npy", array)
            digest.update(array.data)
        # Parquet needs pyarrow, which a bare training machine lacks: JSON keeps every bit as well, only larger.
        if importlib.util.find_spec("pyarrow"):
            index.to_parquet(temporary / "index.parquet")
        else:
            (temporary / "index.json").write_text(json.dumps(index.to_dict("list")))
        content = {"content_hash": digest.hexdigest()[:16], "n_windows": len(windows), "info": windows.info}
        (temporary / "settings.json").write_text(json.dumps(settings | content, indent=1, sort_keys=True))


def read_windows(folder: Path) -> WindowSet:
    """Read a store, memory-mapped.

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
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _ARRAYS}
        if (folder / "index.json").exists():
            index = pd.DataFrame(json.loads((folder / "index.json").read_text()))
        else:
            index = pd.read_parquet(folder / "index.parquet")
        return WindowSet(**arrays, index=index, info=settings["info"])
    except (OSError, EOFError, ValueError, KeyError) as error:
        raise InputError(f"{folder}: cannot be read ({error}); delete this folder and run: {command}") from error


def read_settings(folder: Path) -> dict | None:
    """``settings.json`` of a store, or None where there is none (or it cannot be parsed)."""
    try:
        return json.loads((Path(folder) / "settings.json").read_text())
    except (OSError, ValueError):
        return None


def _plain_index(index: pd.DataFrame) -> pd.DataFrame:
    """Index with column types that Parquet and JSON hold alike: float64, int64, bool or str."""
    plain = {}
    for name, column in index.reset_index(drop=True).items():
        kind = column.dtype.kind if isinstance(column.dtype, np.dtype) else "O"
        wanted = {"f": np.float64, "i": np.int64, "u": np.int64, "b": bool}.get(kind)
        plain[name] = column.astype(wanted) if wanted else column.fillna("").astype(str).astype(object)
    return pd.DataFrame(plain)


# -------------------------------------------------------------------------------------------------------- preparation
def prepare_windows(config: Config, *, mirror: str | Path | None = None, progress: bool = True) -> Path:
    """Make the windows of ``config.dataset`` and return their folder; reuse what was made with the same settings.

    Parameters
    ----------
    config : Config
        Only the sections ``signal`` and ``data`` matter.
    mirror : str or Path, optional
        Folder or URL laid out as PhysioNet, instead of the default (real data sets only).
    progress : bool
        Show a progress bar.
    """
    from p2es_lib.sources import get_source

    source = get_source(config.dataset)
    folder = paths.windows_dir(config.dataset, config.profile)
    settings = {
        "dataset": config.dataset,
        "profile": config.profile,
        "signal": dataclasses.asdict(config.signal),
        "data": dataclasses.asdict(config.data),
        "source": source.settings(mirror),
    }
    text = json.dumps(settings, sort_keys=True)
    settings["settings_hash"] = hashlib.sha256(text.encode()).hexdigest()[:16]
    stored = read_settings(folder)
    if stored is None or stored.get("settings_hash") != settings["settings_hash"]:
        write_windows(folder, source.prepare(config, mirror, progress), settings)
    return folder
