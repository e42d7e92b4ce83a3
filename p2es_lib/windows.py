"""The prepared store: windows with an index, splits by subject, and training batches that resume exactly.

A store is one folder: ``ppg.npy``, ``ecg.npy``, ``lead_mask.npy`` (memory-mapped when read), the index (one row per
window) and ``settings.json`` (what it was made with, and a hash of its content). It appears under its name only when
complete, and it is made again when a setting or the code that makes it has changed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from p2es_lib import paths
from p2es_lib.config import Config
from p2es_lib.demographics import Demographics
from p2es_lib.errors import InputError
from p2es_lib.leads import MEASURED

if TYPE_CHECKING:
    from p2es_lib.simulator import SimulatorConfig

SPLITS = ("train", "validation", "test")
#: Shares of subjects (or, for a single subject, of time) of real recordings.
SPLIT_FRACTIONS = {"train": 0.7, "validation": 0.1, "test": 0.2}
#: First simulated subject number of each split, and of the stream of fresh training subjects. A split has fewer than
#: 10 million subjects, so no two of them ever share a subject.
SUBJECT_OFFSETS = {"train": 0, "validation": 10_000_000, "test": 20_000_000}
STREAM_OFFSET = 100_000_000
#: Stream of each training seed: step * batch size must stay below this, so streams of different seeds are disjoint.
STREAM_STRIDE = 1_000_000_000
#: Columns that every index has; age may be NaN, the text columns may be "".
INDEX_COLUMNS = ("subject", "record", "start_s", "age", "sex", "split", "split_kind", "quality", "rhythm", "morphology")
AGE_BANDS = (40.0, 60.0, 75.0)

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


def split_subjects(subjects, ages, sexes, fractions=None, seed: int = 0) -> dict[str, str]:
    """Assign each subject to a split, stratified by age band and sex.

    Parameters
    ----------
    subjects : sequence of str
        One entry per subject, no repeats.
    ages, sexes : sequences
        Years (NaN: unknown) and ``"F"``, ``"M"`` or ``""``.
    fractions : dict, optional
        Split name to share; default :data:`SPLIT_FRACTIONS`.
    seed : int
        Another seed gives another split.

    Returns
    -------
    dict
        Subject to split name. Independent of the order of ``subjects``. With at least as many subjects as splits,
        no split is empty, and the numbers per split are the shares rounded.
    """
    fractions = SPLIT_FRACTIONS if fractions is None else fractions
    subjects = [str(subject) for subject in subjects]
    if len(set(subjects)) != len(subjects):
        raise InputError("split_subjects: a subject is listed twice; list each subject once")
    names, shares = list(fractions), np.array(list(fractions.values()), dtype=float)
    shares = shares / shares.sum()
    capacity = _rounded_shares(len(subjects), shares)
    strata: dict[tuple, list[str]] = {}
    for subject, age, sex in zip(subjects, ages, sexes, strict=True):
        band = -1 if np.isnan(age) else int(np.searchsorted(AGE_BANDS, age, side="right"))
        strata.setdefault((band, sex), []).append(subject)
    # Subjects are ordered by stratum and, within it, by a hash of (seed, subject); then each goes to the split that is
    # furthest behind its share, so that every stratum is dealt out in the same proportions.
    ordered = []
    for key in sorted(strata):
        ordered += sorted(strata[key], key=lambda subject: hashlib.sha256(f"{seed}:{subject}".encode()).hexdigest())
    counts, assigned = np.zeros(len(names)), {}
    for number, subject in enumerate(ordered, start=1):
        behind = np.where(counts < capacity, capacity / len(subjects) * number - counts, -np.inf)
        chosen = int(np.argmax(behind))
        counts[chosen] += 1
        assigned[subject] = names[chosen]
    return assigned


def _rounded_shares(total: int, shares: np.ndarray) -> np.ndarray:
    """Whole numbers that add up to ``total``, nearest to ``shares * total``, each at least 1 if there are enough."""
    exact = shares * total
    counts = np.floor(exact).astype(int)
    for row in np.argsort(-(exact - counts), kind="stable")[: total - counts.sum()]:
        counts[row] += 1
    if total >= len(shares):
        while (counts == 0).any():
            counts[np.argmax(counts)] -= 1
            counts[np.argmin(counts)] += 1
    return counts


# ---------------------------------------------------------------------------------------------------- training batches
def simulator_config(config: Config) -> SimulatorConfig:
    """Settings of the simulator under ``config``: its rate, window length and seed; the physiology is the default."""
    from p2es_lib.simulator import SimulatorConfig

    return SimulatorConfig(
        sampling_rate=config.signal.sampling_rate, n_samples=config.signal.n_samples, seed=config.data.simulator_seed
    )


class TrainingBatches:
    """Training batches as a pure function of (seed, step), so that an interrupted training resumes exactly.

    Simulated data with ``data.stream_training``: fresh subjects in every step, one window each. Otherwise the stored
    training windows in an order that is drawn anew for each epoch from (seed, epoch).

    Parameters
    ----------
    config : Config
        ``training.batch_size`` and the data settings.
    windows : WindowSet
        The store; only its training split is ever used.
    seed : int
        Seed of the training.
    n_prefetch : int
        Batches made ahead in background threads (0: none). It changes nothing but the speed.
    """

    def __init__(self, config: Config, windows: WindowSet, seed: int, n_prefetch: int = 1):
        self.batch_size, self.seed = config.training.batch_size, seed
        self.streaming = config.dataset == "simulated" and config.data.stream_training
        if self.streaming:
            self.simulator_config = simulator_config(config)
        else:
            self.windows = windows.split("train")
            if len(self.windows) == 0:
                raise InputError(f"data set {config.dataset}: no training windows; lower data.min_quality or get more data")
        self.n_prefetch = n_prefetch
        self._pending: dict[int, Future] = {}
        self._executor = ThreadPoolExecutor(n_prefetch, thread_name_prefix="batches") if n_prefetch else None

    def batch(self, step: int) -> dict:
        """Batch of one step.

        Returns
        -------
        dict
            ``ppg`` float32 (B, 1, T), ``ecg`` float32 (B, 12, T) mV, ``lead_mask`` uint8 (B, 12), all torch on the
            CPU; ``demographics`` (:class:`Demographics`), ``subjects`` (list of str).
        """
        if self._executor is None:
            return self._make(step)
        wanted = range(step, step + self.n_prefetch + 1)
        self._pending = {key: future for key, future in self._pending.items() if key in wanted}
        for key in wanted:
            if key not in self._pending:
                self._pending[key] = self._executor.submit(self._make, key)
        return self._pending.pop(step).result()

    def close(self) -> None:
        """End the background threads; batches can no longer be asked for."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> TrainingBatches:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def subject_numbers(self, step: int) -> np.ndarray:
        """Numbers of the simulated subjects of one step of the stream."""
        first = step * self.batch_size
        if first + self.batch_size > STREAM_STRIDE:
            raise InputError(f"step {step} with batch size {self.batch_size}: the stream of one seed ends before it")
        return STREAM_OFFSET + self.seed * STREAM_STRIDE + first + np.arange(self.batch_size)

    def rows(self, step: int) -> np.ndarray:
        """Rows of the stored training windows that make up one step."""
        n = len(self.windows)
        positions = step * self.batch_size + np.arange(self.batch_size)
        orders = {e: np.random.default_rng((self.seed, e)).permutation(n) for e in np.unique(positions // n)}
        return np.array([orders[p // n][p % n] for p in positions])

    def _make(self, step: int) -> dict:
        if self.streaming:
            from p2es_lib.simulator import simulate

            windows = simulate(self.subject_numbers(step), 1, self.simulator_config)
            lead_mask = np.full((self.batch_size, 12), MEASURED, dtype=np.uint8)
        else:
            windows = self.windows.select(self.rows(step))
            lead_mask = windows.lead_mask
        return {
            "ppg": torch.tensor(np.asarray(windows.ppg, dtype=np.float32)),
            "ecg": torch.tensor(np.asarray(windows.ecg, dtype=np.float32)),
            "lead_mask": torch.tensor(np.asarray(lead_mask)),
            "demographics": Demographics(windows.index["age"].to_numpy(), windows.index["sex"].to_numpy()),
            "subjects": windows.index["subject"].tolist(),
        }
