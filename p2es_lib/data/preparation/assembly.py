"""From shards to the windows of a run: duplicates dropped, limits laid on, splits, one lag per record."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from p2es_lib.core.config import Config
from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import LEADS
from p2es_lib.data.windows.splits import SPLIT_FRACTIONS, split_subjects
from p2es_lib.data.windows.store import INDEX_COLUMNS, SHARD_SETTINGS, SPLITS, read_settings, read_table

#: Where imports are followed to find the code that decides which windows a run has, and in which split.
ASSEMBLES = ("p2es_lib.data.preparation", "p2es_lib.data.windows.splits", "p2es_lib.core.leads")
#: A window may hold at most this share of faulty samples in the PPG, and in the ECG.
MAX_FAULTS = 0.01
#: Limb leads that are measured must agree with each other to this, mV.
MAX_LEAD_RESIDUAL_MV = 0.02
# Why a window is rejected, in the order in which it is asked.
REASONS = (
    "PPG missing, flat, clipped or jumping",
    "ECG missing, flat, clipped or jumping",
    "limb leads contradict each other",
    "PPG pulses disagree, or could be noise",
    "QRS complexes disagree",
    "pulses do not follow the QRS complexes",
)


def collect_index(shards: Sequence[tuple[str, Path]]) -> tuple[pd.DataFrame, dict]:
    """Index of all windows of these shards (source, folder), of every quality, and what is known of their records.

    The index has the columns of :func:`p2es_lib.data.preparation.judge_windows`, what is known of the person,
    ``source``, ``label`` (record, after its source where there are several), ``shard`` (number in ``shards``), ``row``
    (-1: not stored). Beside it: ``notes``, ``records`` (number), ``hours`` (of signal), ``duplicates`` (dropped record
    to the one it copies), ``dead_leads`` (lead to the number of records in which it is flat or missing: absent).
    """
    tables, notes, originals, duplicates, n_records, hours = [], [], {}, {}, 0, 0.0
    dead: Counter[str] = Counter()
    several = len({source for source, _ in shards}) > 1
    for number, (source, folder) in enumerate(shards):
        prefix = f"{source}/" if several else ""
        for record, entry in read_settings(folder, SHARD_SETTINGS)["records"].items():
            label = prefix + record
            notes += [f"record {label}: {note}" for note in entry["notes"]]
            dead.update(entry["dead_leads"])
            hours += entry["hours"]
            if entry["hours"] > 0:
                n_records += 1
                if (first := originals.setdefault(entry["signal_hash"], label)) != label:
                    duplicates[label] = first
        if len(table := read_table(folder)):
            table = table.assign(label=prefix + table["record"])
            table = table[~table["label"].isin(duplicates)]
            tables.append(table.assign(source=source, shard=number, subject=source + "-" + table["subject"]))
    info = {"notes": notes, "records": n_records, "hours": round(hours, 4), "duplicates": duplicates}
    info["dead_leads"] = {lead: dead[lead] for lead in LEADS if lead in dead}
    return (pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()), info


def reject(index: pd.DataFrame, min_quality: float) -> pd.Series:
    """Why each window is not used, one of :data:`REASONS`, or "" for those that are: any limit can be laid on the
    figures of a window, ``min_quality`` (0 to 1) on each of the three of quality.
    """
    limits = {"ppg_faults": MAX_FAULTS, "ecg_faults": MAX_FAULTS, "lead_residual_mv": MAX_LEAD_RESIDUAL_MV}
    failed = [index[figure] > limit for figure, limit in limits.items()]
    failed += [index[f"quality_{part}"] < min_quality for part in ("ppg", "ecg", "pairing")]
    return pd.Series(np.select(failed, REASONS, ""), index=index.index, dtype=object)


def choose_windows(index: pd.DataFrame, max_windows: int) -> np.ndarray:
    """Rows of at most ``max_windows`` windows: the same number of each record, evenly over its time.

    What short records leave over goes to the longer ones. With more records than windows, records are chosen by a hash
    of their names, so that the choice depends neither on their order nor on each other.
    """
    if len(index) <= max_windows:
        return np.arange(len(index))
    groups = {name: rows for name, rows in index.groupby(["source", "record"], sort=False).indices.items()}
    order = sorted(groups, key=lambda name: hashlib.sha256("/".join(name).encode()).hexdigest())[:max_windows]
    sizes, left = np.array([len(groups[name]) for name in order]), max_windows
    quota = np.zeros(len(sizes), dtype=int)
    while left:  # there are at least as many windows
        given = np.minimum(max(1, left // np.sum(quota < sizes)), sizes - quota)
        given[np.cumsum(given) > left] = 0
        quota, left = quota + given, left - given.sum()
    chosen = []
    for name, count in zip(order, quota, strict=True):
        rows = groups[name][np.argsort(index["start_s"].to_numpy()[groups[name]], kind="stable")]
        chosen.append(rows[np.linspace(0, len(rows) - 1, count).round().astype(int)])
    return np.sort(np.concatenate(chosen))


def assign_splits(index: pd.DataFrame, window_s: float, config: Config) -> tuple[np.ndarray, str]:
    """Split of each window ("": dropped), and how it was made, of :data:`p2es_lib.data.windows.splits.SPLIT_KINDS`.

    An :class:`InputError` if ``data.hold_out`` has no usable windows, or no other source has.
    """
    # One row per subject: of its first record by name, whatever the order in which records are listed.
    people = index.sort_values(["record", "start_s"], kind="stable").drop_duplicates("subject")
    if held_out := config.data.hold_out:
        names = list(dict.fromkeys(index["source"]))
        if held_out not in names or len(names) < 2:
            needed = "both this source and those to train on must have usable windows"
            raise InputError(f"data.hold_out={held_out!r}: {needed}; these have: {', '.join(names)}")
        shares = {name: SPLIT_FRACTIONS[name] for name in ("train", "validation")}
        assigned = _split(people[people["source"] != held_out], fractions=shares)
        return np.where(index["source"] == held_out, "test", index["subject"].map(assigned)), "source"
    if (index["fold"] != "").all():
        # A person whose records are in two folds would be in two splits: the first fold decides.
        return index["subject"].map(people.set_index("subject")["fold"]).to_numpy(), "folds"
    if len(people) >= len(SPLITS):
        return index["subject"].map(_split(people)).to_numpy(), "subject"
    return _split_by_time(index, window_s), "time"


def _split(people: pd.DataFrame, **options) -> dict[str, str]:
    return split_subjects(people["subject"], people["age"], people["sex"], **options)


def _split_by_time(index: pd.DataFrame, window_s: float) -> np.ndarray:
    split = pd.Series("", index=index.index, dtype=object)
    for _, windows in index.groupby("subject", sort=False):
        windows = windows.sort_values(["record", "start_s"])
        ends = np.rint(np.cumsum(list(SPLIT_FRACTIONS.values())) * len(windows)).astype(int)
        previous = None
        for name, first, end in zip(SPLIT_FRACTIONS, [0, *ends[:-1]], ends, strict=True):
            part = windows.iloc[first:end]
            if previous is not None:  # at least one whole window between the end of one split and the next
                distance = part["start_s"] - (previous["start_s"] + window_s)
                part = part[(part["record"] != previous["record"]) | (distance >= window_s - 1e-6)]
            split[part.index] = name
            if len(part):
                previous = part.iloc[-1]
    return split.to_numpy()


def record_lags(index: pd.DataFrame) -> dict[str, float]:
    """Median R-peak-to-onset time of each record, ms: the arrival time and the constant delay that monitors add.

    It describes the data; no target is ever shifted by it.
    """
    medians = index.groupby("label")["pat_ms"].median().dropna()
    return {record: round(float(lag), 1) for record, lag in medians.items()}


def rejected_examples(index: pd.DataFrame) -> list[dict]:
    """One stored window for each reason of rejection, that of middling quality among them, and its place."""
    examples, stored = [], index[index["row"] >= 0].sort_values("quality", kind="stable")
    for reason in REASONS:
        windows = stored.loc[stored["reason"] == reason, ["reason", "record", "start_s", "quality", "shard", "row"]]
        examples += windows.iloc[len(windows) // 2 :][:1].to_dict("records")
    return examples


def assemble(shards: Sequence[tuple[str, Path]], config: Config, where: str) -> tuple[pd.DataFrame, dict]:
    """The windows of a run, in the order in which they are stored, and what the reader should know.

    ``shards`` are as in :func:`collect_index`; ``where`` is named in errors: an :class:`InputError` for too few usable
    windows says how many were rejected, and why.

    The index has :data:`p2es_lib.data.windows.store.INDEX_COLUMNS` first, then ``record_lag_ms`` and the quality
    figures; ``shard``, ``row`` and ``leads`` last. Beside it: ``found``, ``accepted``, ``rejected`` (counts by reason),
    ``by_record`` (found and accepted of each), ``examples`` (of rejected windows), ``warnings``, ``record_lag_ms``, and
    that of :func:`collect_index`.
    """
    index, info = collect_index(shards)
    notes = " ".join(info["notes"][:10])
    if index.empty:
        raise InputError(f"{where}: no window in {info['records']} records. {notes}")
    index["reason"] = reject(index, config.data.min_quality)
    index.loc[(index["row"] < 0) & (index["reason"] == ""), "reason"] = REASONS[0]
    counts = index["reason"].value_counts()
    rejected = {reason: int(counts[reason]) for reason in REASONS if reason in counts}
    accepted = index[index["reason"] == ""].drop(columns="reason").reset_index(drop=True)
    by_record = (index["reason"] == "").groupby(index["label"], sort=False).agg(["size", "sum"])
    info |= {"found": len(index), "accepted": len(accepted), "rejected": rejected}
    info["by_record"] = {name: [int(n), int(k)] for name, n, k in by_record.itertuples()}
    info["examples"] = rejected_examples(index)
    summary = f"{where}: {len(accepted)} of {len(index)} windows are usable (rejected: {rejected})"
    if accepted.empty:
        raise InputError(f"{summary}; choose other recordings, or lower data.min_quality. {notes}")
    info["record_lag_ms"] = record_lags(accepted)
    accepted["record_lag_ms"] = accepted["label"].map(info["record_lag_ms"]).astype(float)
    index = accepted.iloc[choose_windows(accepted, config.data.max_windows)].reset_index(drop=True)
    window_s = config.signal.window_samples / config.signal.sampling_rate
    index["split"], index["split_kind"] = assign_splits(index, window_s, config)
    if short := [split for split in SPLITS if not (index["split"] == split).any()]:
        if (index["split_kind"] != "time").any():
            raise InputError(f"{summary}: too few for a split (no window for {', '.join(short)}); add recordings")
        # A recording or two of one person: nothing to train on, but models that are there can be tried on all of it.
        index["split"], index["split_kind"] = "test", "none"
    info["dropped_between_splits"] = int((index["split"] == "").sum())
    info["warnings"] = _warnings(index)
    # Split by split, so that each split of the store is one stretch of it; windows dropped between splits are left out.
    index = index[index["split"] != ""]
    index = index.iloc[np.lexsort([index["start_s"], index["record"], index["split"].map(SPLITS.index)])]
    places = ["shard", "row", "leads"]
    others = [name for name in index if name not in (*INDEX_COLUMNS, *places, "fold", "label")]
    return index[[*INDEX_COLUMNS, *others, *places]].reset_index(drop=True), info


def _warnings(index: pd.DataFrame) -> list[str]:
    n_people, simulated = index["subject"].nunique(), index["ppg_origin"] == "simulated"
    applies = {
        f"TIME-WISE SPLIT: all recordings come from {'one subject' if n_people == 1 else f'{n_people} subjects'}. "
        "Training, validation and test windows are different times of the same person, so scores say nothing about "
        "people whom the method has not seen.": (index["split_kind"] == "time").any(),
        "TEST ONLY: too few windows to train on, so all are test windows. A model that was trained on other data can "
        "be tried on them; to train on this data set, add recordings.": (index["split_kind"] == "none").any(),
        f"SEMI-SYNTHETIC: the ECG is real, the PPG is not. {'All' if simulated.all() else 'Some'} PPG windows were "
        "simulated from the beats of the ECG, with age and sex; scores say what a translation could do with such a "
        "PPG, not with a sensor's.": simulated.any(),
        "TIMING ONLY: no ECG lead of these recordings is named, so there is no target to translate to. They show when "
        "pulses follow beats; nothing can be trained or tested on them.": (index["leads"] == "0" * 12).all(),
    }
    return [warning for warning, so in applies.items() if so]
