"""From shards to the windows of a run: duplicates dropped, limits laid on, splits, one lag per record."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from p2es_lib.core.config import Config
from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import LEADS
from p2es_lib.data.preparation.acceptance import REASONS, reject
from p2es_lib.data.preparation.prepare_shard import read_shard_settings
from p2es_lib.data.sources.contract import Source
from p2es_lib.data.windows.splits import SPLIT_FRACTIONS, split_subjects
from p2es_lib.data.windows.store import INDEX_COLUMNS, SPLITS, read_table

#: Where imports are followed to find the code that decides which windows a run has, and in which split.
ASSEMBLES = ("p2es_lib.data.preparation", "p2es_lib.data.windows.splits", "p2es_lib.core.leads")
#: Changing it changes who is tested; all results of a data set share it, whatever the training seed.
SPLIT_SEED = 0


def collect_index(shards: Sequence[tuple[Source, Path]]) -> tuple[pd.DataFrame, dict]:
    """Index of all windows of these shards, of every quality, and what is known of their records.

    Returns
    -------
    index : DataFrame
        Columns of :func:`p2es_lib.data.preparation.acceptance.judge_windows`, what is known of the person, ``source``,
        ``label`` (the record's name, after that of its source where there are several), and the place of each window:
        ``shard`` (number in ``shards``), ``row`` (-1: not stored).
    info : dict
        ``notes``, ``records`` (number), ``hours`` (of signal), ``duplicates`` (dropped record to the one it copies),
        ``dead_leads`` (lead to the number of records in which it is flat or missing, and so counts as absent).
    """
    tables, notes, hashes, n_records, hours = [], [], {}, 0, 0.0
    duplicates: dict[str, str] = {}
    dead: Counter[str] = Counter()
    several = len({source.name for source, _ in shards}) > 1
    for number, (source, folder) in enumerate(shards):
        settings, table = read_shard_settings(folder), read_table(folder)
        prefix = f"{source.name}/" if several else ""
        for name, entry in settings["records"].items():
            notes += [f"record {prefix}{name}: {note}" for note in entry["notes"]]
            n_records += entry["hours"] > 0
            hours += entry["hours"]
            dead.update(entry["dead_leads"])
            if entry["hours"] > 0:
                first = hashes.setdefault(entry["signal_hash"], prefix + name)
                if first != prefix + name:
                    duplicates[prefix + name] = first
        if len(table):
            table = table.assign(label=prefix + table["record"])
            table = table[~table["label"].isin(duplicates)]
            tables.append(table.assign(source=source.name, shard=number, subject=source.name + "-" + table["subject"]))
    info = {"notes": notes, "records": n_records, "hours": round(hours, 4), "duplicates": duplicates}
    info["dead_leads"] = {lead: dead[lead] for lead in LEADS if lead in dead}
    return (pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()), info


def choose_windows(index: pd.DataFrame, max_windows: int) -> np.ndarray:
    """Rows of at most ``max_windows`` windows: the same number of each record, evenly over its time.

    What short records leave over goes to the longer ones. With more records than windows, records are chosen by a hash
    of their names, so that the choice depends neither on their order nor on each other.
    """
    if len(index) <= max_windows:
        return np.arange(len(index))
    groups = {name: rows for name, rows in index.groupby(["source", "record"], sort=False).indices.items()}
    order = sorted(groups, key=lambda name: hashlib.sha256("/".join(name).encode()).hexdigest())[:max_windows]
    quota = _water_level(np.array([len(groups[name]) for name in order]), max_windows)
    chosen = []
    for name, count in zip(order, quota, strict=True):
        rows = groups[name][np.argsort(index["start_s"].to_numpy()[groups[name]], kind="stable")]
        chosen.append(rows[np.linspace(0, len(rows) - 1, count).round().astype(int)])
    return np.sort(np.concatenate(chosen))


def _water_level(sizes: np.ndarray, total: int) -> np.ndarray:
    """Numbers that add up to ``total``, as equal as ``sizes`` allow."""
    quota, open_ = np.zeros(len(sizes), dtype=int), np.ones(len(sizes), dtype=bool)
    while total and open_.any():
        share = max(1, total // open_.sum())
        given = np.where(open_, np.minimum(share, sizes - quota), 0)
        given[np.cumsum(given) > total] = 0
        quota, total = quota + given, total - given.sum()
        open_ = open_ & (quota < sizes)
        if not given.any():
            break
    return quota


def assign_splits(index: pd.DataFrame, window_s: float, config: Config) -> tuple[np.ndarray, str]:
    """Split of each window ("": dropped), and how it was made.

    ``source``: one source is held out for testing (``data.hold_out``). ``folds``: the data set recommends a split.
    ``subject``: by subject, stratified by age band and sex. ``time``: with fewer than three subjects, by time.
    """
    subjects = _people(index)
    if config.data.hold_out:
        return _leave_out(index, config.data.hold_out), "source"
    if (index["fold"] != "").all():
        # A person whose records are in two folds would be in two splits: the first fold decides.
        return index["subject"].map(subjects.set_index("subject")["fold"]).to_numpy(), "folds"
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


def _people(index: pd.DataFrame) -> pd.DataFrame:
    """One row per subject: of its first record by name, whatever the order in which records are listed."""
    return index.sort_values(["record", "start_s"], kind="stable").drop_duplicates("subject")


def _leave_out(index: pd.DataFrame, held_out: str) -> np.ndarray:
    """All windows of one source are tested on; the subjects of the others are split into training and validation."""
    names = list(dict.fromkeys(index["source"]))
    if held_out not in names or len(names) < 2:
        raise InputError(
            f"data.hold_out={held_out!r}: both this source and those to train on must have usable windows; these have: "
            f"{', '.join(names)}"
        )
    others = _people(index[index["source"] != held_out])
    shares = {name: SPLIT_FRACTIONS[name] for name in ("train", "validation")}
    assigned = split_subjects(others["subject"], others["age"], others["sex"], fractions=shares, seed=SPLIT_SEED)
    return np.where(index["source"] == held_out, "test", index["subject"].map(assigned))


def record_lags(index: pd.DataFrame) -> dict[str, float]:
    """Median R-peak-to-onset time of each record, ms.

    It holds the arrival time and the constant delay that monitors add to the PPG. It describes the data; no target is
    ever shifted by it.
    """
    medians = index.groupby("label")["pat_ms"].median().dropna()
    return {record: round(float(lag), 1) for record, lag in medians.items()}


def rejected_examples(index: pd.DataFrame) -> list[dict]:
    """One stored window for each reason of rejection: that of middling quality among them.

    Returns
    -------
    list of dict
        ``reason``, ``record``, ``start_s``, ``quality``, and its place: ``shard``, ``row``.
    """
    columns = ["reason", "record", "start_s", "quality", "shard", "row"]
    examples = []
    for reason in REASONS:
        windows = index[(index["reason"] == reason) & (index["row"] >= 0)].sort_values("quality", kind="stable")
        if len(windows):
            examples.append(windows[columns].iloc[len(windows) // 2].to_dict())
    return [{name: getattr(value, "item", lambda value=value: value)() for name, value in e.items()} for e in examples]


def assemble(shards: Sequence[tuple[Source, Path]], config: Config, where: str) -> tuple[pd.DataFrame, dict]:
    """The windows of a run, in the order in which they are stored, and what the reader should know.

    Parameters
    ----------
    shards : sequence of (Source, folder)
    config : Config
        ``signal`` and ``data`` sections.
    where : str
        Named in errors.

    Returns
    -------
    index : DataFrame
        :data:`p2es_lib.data.windows.INDEX_COLUMNS` first, ``record_lag_ms``, the quality figures; ``shard``, ``row``
        and ``leads`` last.
    info : dict
        ``found``, ``accepted``, ``rejected`` (counts by reason), ``by_record`` (found and accepted of each),
        ``examples`` (of rejected windows), ``warnings``, ``record_lag_ms``, and that of :func:`collect_index`.

    Raises
    ------
    InputError
        Too few usable windows; says how many were rejected, and why.
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
    info |= {"found": len(index), "accepted": len(accepted), "rejected": rejected, "warnings": []}
    info["by_record"] = {name: [int(n), int(k)] for name, n, k in by_record.itertuples()}
    info["examples"] = rejected_examples(index)
    summary = f"{where}: {len(accepted)} of {len(index)} windows are usable (rejected: {rejected})"
    if accepted.empty:
        raise InputError(f"{summary}; choose other recordings, or lower data.min_quality. {notes}")
    info["record_lag_ms"] = record_lags(accepted)
    accepted["record_lag_ms"] = accepted["label"].map(info["record_lag_ms"]).astype(float)
    index = accepted.iloc[choose_windows(accepted, config.data.max_windows)].reset_index(drop=True)
    index["split"], index["split_kind"] = assign_splits(
        index, config.signal.window_samples / config.signal.sampling_rate, config
    )
    if short := [split for split in SPLITS if not (index["split"] == split).any()]:
        raise InputError(f"{summary}: too few for a split (no window for {', '.join(short)}); add recordings")
    info["dropped_between_splits"] = int((index["split"] == "").sum())
    info["warnings"] = _warnings(index)
    # Split by split, so that each split of the store is one stretch of it; windows dropped between splits are left out.
    rank = index["split"].map({split: number for number, split in enumerate(SPLITS)})
    order = [row for row in np.lexsort([index["start_s"], index["record"], rank]) if index["split"].iloc[row]]
    places, left_out = ["shard", "row", "leads"], ["fold", "label"]
    others = [name for name in index if name not in (*INDEX_COLUMNS, *places, *left_out)]
    columns = [*INDEX_COLUMNS, *others, *places]
    return index.iloc[order][columns].reset_index(drop=True), info


def _warnings(index: pd.DataFrame) -> list[str]:
    warnings = []
    if (index["split_kind"] == "time").any():
        people = "one subject" if index["subject"].nunique() == 1 else f"{index['subject'].nunique()} subjects"
        warnings.append(
            f"TIME-WISE SPLIT: all recordings come from {people}. Training, validation and test windows are different "
            "times of the same person, so scores say nothing about people whom the method has not seen."
        )
    if (index["ppg_origin"] == "simulated").any():
        share = "All" if (index["ppg_origin"] == "simulated").all() else "Some"
        warnings.append(
            f"SEMI-SYNTHETIC: the ECG is real, the PPG is not. {share} PPG windows were simulated from the beats of "
            "the ECG, with age and sex; scores say what a translation could do with such a PPG, not with a sensor's."
        )
    if (index["leads"] == "0" * 12).all():
        warnings.append(
            "TIMING ONLY: no ECG lead of these recordings is named, so there is no target to translate to. They show "
            "when pulses follow beats; nothing can be trained or tested on them."
        )
    return warnings
