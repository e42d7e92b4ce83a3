"""From recordings to windows: common clock, quality gate, splits, and one lag per record.

The gate looks at the signals as recorded (missing, flat, clipped, wrapped around) and at the beats (do the pulses
agree with each other, do the QRS complexes, does every pulse follow a QRS complex at one delay?). Every figure it uses
is kept as a column of the index.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np
import pandas as pd

from p2es_lib import signals
from p2es_lib.config import Config
from p2es_lib.errors import InputError
from p2es_lib.leads import LEADS, MEASURED, complete_limb_leads
from p2es_lib.sources.contract import Recording
from p2es_lib.transforms import resample_signal
from p2es_lib.windows import INDEX_COLUMNS, SPLIT_FRACTIONS, SPLITS, WindowSet, split_subjects

#: A window may hold at most this share of faulty samples in the PPG, and in the ECG.
MAX_FAULTS = 0.01
#: Changing it changes who is tested; all results of a data set share it, whatever the training seed.
SPLIT_SEED = 0
#: Leads in which R peaks are looked for, in order of preference.
_RHYTHM_LEADS = ("II", "I", "V5", "V4", "V6", "aVR", "aVF", "III", "V3", "V2", "aVL", "V1")
# Why a window is rejected, in the order in which it is asked.
REASONS = (
    "PPG missing, flat, clipped or wrapped",
    "ECG missing, flat, clipped or wrapped",
    "PPG pulses disagree",
    "QRS complexes disagree",
    "pulses do not follow the QRS complexes",
)


def make_recording(
    subject: str,
    record: str,
    start_s: float,
    ppg: tuple[np.ndarray, float],
    leads: dict[str, tuple[np.ndarray, float]],
    sampling_rate: float,
    *,
    skip: int = 0,
    n_keep: int | None = None,
    age: float = float("nan"),
    sex: str = "",
) -> Recording:
    """Bring raw signals to one clock, filter them, derive limb leads.

    Parameters
    ----------
    subject, record, start_s, age, sex
        As in :class:`Recording`.
    ppg : (array (T_ppg,), rate in Hz)
        As recorded; NaN where missing.
    leads : dict of (array (T_lead,), rate in Hz)
        By standard name, mV. All signals begin at the same instant; rates may differ.
    sampling_rate : float
        Common rate, Hz.
    skip, n_keep : int
        Part of the result to return: margins let the filters settle and are cut off.
    """
    common = {name: resample_signal(signals.bridge_gaps(x), rate, sampling_rate) for name, (x, rate) in leads.items()}
    pulse = resample_signal(signals.bridge_gaps(ppg[0]), ppg[1], sampling_rate)
    n = min(len(pulse), *(len(x) for x in common.values()))
    kept = slice(skip, n if n_keep is None else min(n, skip + n_keep))
    clean = {name: signals.ecg_clean(x[:n], sampling_rate) for name, x in common.items()}
    ecg, lead_mask = complete_limb_leads(clean, f"record {record}")
    ecg_faults = np.zeros(n, dtype=bool)
    for x, rate in leads.values():
        ecg_faults |= _at_rate(signals.fault_mask(x, rate, largest_step=0.7), rate, sampling_rate, n)
    return Recording(
        subject=subject,
        record=record,
        start_s=start_s,
        sampling_rate=sampling_rate,
        ppg=signals.ppg_clean(pulse[:n], sampling_rate)[kept],
        ecg=ecg[:, kept],
        lead_mask=lead_mask,
        ppg_faults=_at_rate(signals.fault_mask(*ppg), ppg[1], sampling_rate, n)[kept],
        ecg_faults=ecg_faults[kept],
        age=age,
        sex=sex,
    )


def _at_rate(mask: np.ndarray, rate_in: float, rate_out: float, n: int) -> np.ndarray:
    return mask[np.minimum(np.rint(np.arange(n) * (rate_in / rate_out)).astype(int), len(mask) - 1)]


def judge_windows(recording: Recording, n_samples: int, min_quality: float) -> pd.DataFrame:
    """One row per window of ``n_samples``, gap-free and without overlap; ``reason`` is "" for those accepted.

    Columns: ``first`` (sample), ``start_s``, ``quality`` (the least of the next three), ``quality_ppg``,
    ``quality_ecg``, ``quality_pairing``, ``fault_share``, ``heart_rate`` (per minute), ``pat_ms`` (R peak to PPG
    onset, median), ``reason``.
    """
    rate = recording.sampling_rate
    measured = np.flatnonzero(recording.lead_mask == MEASURED)
    rhythm = next(LEADS.index(name) for name in _RHYTHM_LEADS if LEADS.index(name) in measured)
    rpeaks = signals.ecg_rpeaks(recording.ecg[rhythm], rate)
    onsets = signals.ppg_onsets(recording.ppg, rate)
    rows = []
    for first in range(0, len(recording.ppg) - n_samples + 1, n_samples):
        part = slice(first, first + n_samples)
        beats = rpeaks[np.searchsorted(rpeaks, first) : np.searchsorted(rpeaks, part.stop)] - first
        pulses = onsets[np.searchsorted(onsets, first) : np.searchsorted(onsets, part.stop)] - first
        pairing, delays = signals.pair_beats(beats, pulses, n_samples, rate)
        of_ppg = max(0.0, signals.template_agreement(recording.ppg[part], pulses, rate))
        of_ecg = max(0.0, signals.template_agreement(recording.ecg[measured, part], beats, rate))
        ppg_faults, ecg_faults = recording.ppg_faults[part].mean(), recording.ecg_faults[part].mean()
        failed = (
            ppg_faults > MAX_FAULTS, ecg_faults > MAX_FAULTS,
            of_ppg < min_quality, of_ecg < min_quality, pairing < min_quality,
        )  # fmt: skip
        rows.append(
            {
                "first": first,
                "start_s": round(recording.start_s + first / rate, 6),
                "quality": min(of_ppg, of_ecg, pairing),
                "quality_ppg": of_ppg,
                "quality_ecg": of_ecg,
                "quality_pairing": pairing,
                "fault_share": max(ppg_faults, ecg_faults),
                "heart_rate": 60 * rate / np.median(np.diff(beats)) if len(beats) > 2 else np.nan,
                "pat_ms": 1000 * np.median(delays) if len(delays) else np.nan,
                "reason": next((reason for reason, bad in zip(REASONS, failed, strict=True) if bad), ""),
            }
        )
    return pd.DataFrame(rows)


class _EvenSample:
    """Keeps at most ``2 * limit`` items of a stream of unknown length, evenly spread, and ``limit`` at the end."""

    def __init__(self, limit: int):
        self.limit, self.stride, self.seen, self.items = limit, 1, 0, []

    def add(self, item) -> None:
        if self.seen % self.stride == 0:
            self.items.append(item)
        self.seen += 1
        if len(self.items) > 2 * self.limit:
            self.items, self.stride = self.items[::2], 2 * self.stride

    def take(self) -> list:
        if len(self.items) <= self.limit:
            return self.items
        return [self.items[row] for row in np.linspace(0, len(self.items) - 1, self.limit).round().astype(int)]


def collect_windows(recordings: Iterable[Recording], config: Config, n_records: int, where: str) -> WindowSet:
    """Judge, cut and split the windows of a data set.

    Parameters
    ----------
    recordings : iterable of Recording
        Record by record, in the order of time; read one at a time.
    config : Config
        ``signal`` and ``data`` sections. ``data.max_windows`` is shared evenly among the records, and kept evenly over
        the time of each.
    n_records : int
        Number of records, to share the maximum.
    where : str
        Named in errors.

    Raises
    ------
    InputError
        Too few usable windows; says how many were rejected, and why.
    """
    n_samples = config.signal.n_samples
    kept: dict[str, _EvenSample] = {}
    counts: Counter[str] = Counter()
    for recording in recordings:
        judged = judge_windows(recording, n_samples, config.data.min_quality)
        if judged.empty:
            continue
        counts.update(judged["reason"])
        limit = max(1, config.data.max_windows // max(n_records, 1))
        sample = kept.setdefault(recording.record, _EvenSample(limit))
        for row in judged[judged["reason"] == ""].drop(columns="reason").to_dict("records"):
            part = slice(row.pop("first"), None)
            ppg = recording.ppg[part][:n_samples]
            row |= {name: getattr(recording, name) for name in ("subject", "record", "age", "sex")}
            ecg = recording.ecg[:, part][:, :n_samples].astype(np.float32)
            sample.add((((ppg - ppg.mean()) / ppg.std()).astype(np.float32), ecg, recording.lead_mask, row))
    found, accepted = sum(counts.values()), counts.pop("", 0)
    rejected = {reason: counts[reason] for reason in REASONS if counts[reason]}
    items = [item for sample in kept.values() for item in sample.take()]
    info = {"found": found, "accepted": accepted, "rejected": rejected, "warnings": [], "notes": []}
    summary = f"{where}: {accepted} of {found} windows are usable (rejected: {rejected})"
    if not items:
        raise InputError(f"{summary}; choose other recordings, or lower data.min_quality")
    index = pd.DataFrame([item[3] for item in items]).assign(rhythm="", morphology="")
    index["split"], index["split_kind"] = _splits(index, n_samples / config.signal.sampling_rate, config)
    short = [split for split in SPLITS if not (index["split"] == split).any()]
    if short:
        raise InputError(f"{summary}: too few for a split (no window for {', '.join(short)}); add recordings")
    info["dropped_between_splits"] = int((index["split"] == "").sum())
    if (index["split_kind"] == "time").any():
        people = "one subject" if index["subject"].nunique() == 1 else f"{index['subject'].nunique()} subjects"
        info["warnings"].append(
            f"TIME-WISE SPLIT: all recordings come from {people}. Training, validation and test windows are different "
            "times of the same person, so scores say nothing about people whom the method has not seen."
        )
    info["record_lag_ms"] = _record_lags(index)
    index["record_lag_ms"] = index["record"].map(info["record_lag_ms"]).astype(float)
    # Split by split, so that each split of the store is one stretch of it; windows dropped between splits are left out.
    rank = index["split"].map({split: number for number, split in enumerate(SPLITS)})
    order = [row for row in np.lexsort([index["start_s"], index["record"], rank]) if index["split"].iloc[row]]
    ppg, ecg, lead_mask = (np.stack([items[row][part] for row in order]) for part in range(3))
    columns = [*INDEX_COLUMNS, *(name for name in index.columns if name not in INDEX_COLUMNS)]
    return WindowSet(ppg[:, None], ecg, lead_mask, index.iloc[order][columns].reset_index(drop=True), info)


def _splits(index: pd.DataFrame, window_s: float, config: Config) -> tuple[np.ndarray, str]:
    """Split of each window ("": dropped) and the kind of split: by subject from 3 subjects on, else by time."""
    subjects = index.drop_duplicates("subject")
    if len(subjects) >= len(SPLITS):
        assigned = split_subjects(subjects["subject"], subjects["age"], subjects["sex"], seed=SPLIT_SEED)
        return index["subject"].map(assigned).to_numpy(), "subject"
    split = np.full(len(index), "", dtype=object)
    for _, windows in index.groupby("subject", sort=False):
        windows = windows.sort_values(["record", "start_s"])
        ends = np.rint(np.cumsum(list(SPLIT_FRACTIONS.values())) * len(windows)).astype(int)
        previous = None
        for name, first, end in zip(SPLIT_FRACTIONS, [0, *ends[:-1]], ends, strict=True):
            part = windows.iloc[first:end]
            if previous is not None:  # at least one whole window between the end of one split and the next
                distance = part["start_s"] - (previous["start_s"] + window_s)
                part = part[(part["record"] != previous["record"]) | (distance >= window_s - 1e-6)]
            split[index.index.get_indexer(part.index)] = name
            if len(part):
                previous = part.iloc[-1]
    return split, "time"


def _record_lags(index: pd.DataFrame) -> dict[str, float]:
    """Median R-peak-to-onset time of each record, ms, from its training windows only (records without any: none).

    It holds the arrival time and the constant delay that monitors add to the PPG. It describes the data; test targets
    are never shifted by it.
    """
    train = index[index["split"] == "train"]
    return {record: round(float(lag), 1) for record, lag in train.groupby("record")["pat_ms"].median().items()}
