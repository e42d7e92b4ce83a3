"""Does the flag of a window in doubt mean something? Held against the ECG that was recorded beside the PPG.

A window is bad where the F1 of its R peaks, within 75 ms and after one constant lag per record, is below 0.7. Beside
the flag (:mod:`p2es_lib.translation.check`) stands what it replaced: quality of the PPG below 0.7. A long record is
translated in parts of half an hour, as its source reads it; each counts as a record.

``python -m tools.measure_flag MIRROR [MIRROR ...]`` in a checkout reads what these folders hold of each data set and
writes ``figures/flag/table01_flag``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from p2es_lib.core.errors import InputError
from p2es_lib.core.learned import LearnedTranslator
from p2es_lib.core.paths import PRETRAINED, checkout
from p2es_lib.data.download.mirror import Mirror
from p2es_lib.data.sources import get_source
from p2es_lib.data.sources.contract import Reading, Stretch
from p2es_lib.data.sources.wfdb_records import record_stretches
from p2es_lib.evaluation.metrics.clinical import count_matches
from p2es_lib.experiments.sim_to_real import joint_beat_lags_s
from p2es_lib.plots import save_table
from p2es_lib.signals import cleaning
from p2es_lib.signals.polarity import turn_upright
from p2es_lib.signals.r_peaks import r_peak_times
from p2es_lib.translation.file import load_model, translate_long

#: Data sets with PPG and ECG, and records that belong to none of the library's sources: slug, version and path.
SOURCES = ("ncku", "bidmc", "challenge-2015", "senssmarttech", "mimic4wdb")
OTHERS = (("wfdb-samples", "", "mixedsignals"), ("mimicdb", "1.0.0", "041s/041s"))
#: The stretches on which the limits of the flag were chosen, besides simulated people: data set and seconds.
CHOSEN_ON = ("mimic4wdb", (200_000, 211_000))
TOLERANCE_S, BAD_F1, POOR_QUALITY = 0.075, 0.7, 0.7
#: The true beats of a window are known where two detectors agree to this F1 (best constant lag between them).
LEAST_AGREEMENT = 0.9
#: Samples per window: the flag looks at one of them. Seconds of ECG beyond a window in which its beats are looked for.
N_SAMPLES, _MARGIN_S = 2, 1.0
#: At most so many windows of a record, evenly spread, tell its lag.
_FOR_LAG = 150


def readings(mirrors: list[str]) -> Iterator[tuple[str, str, Reading]]:
    """Data set, record and reading of what these folders hold; what they lack is passed over."""
    for location in mirrors:
        for name in SOURCES:
            source = get_source(name)
            mirror = source.mirror(location)
            try:
                records = source.list_records(mirror)
            except InputError:
                continue
            for record in records:
                try:
                    yield name, record.name, source.read(mirror, record)
                except InputError:
                    continue
        for slug, version, path in OTHERS:
            if (Path(location) / slug).is_dir():
                reading = Reading(path)
                reading.stretches = record_stretches(Mirror(location, slug, version, ""), path, reading)
                yield slug, path, reading


def f1(predicted: np.ndarray, true: np.ndarray, lag_s: float, window_s: float) -> float:
    """F1 of R peaks within the tolerance, the former less a constant lag; NaN without any."""
    span = max(0.0, -lag_s), window_s - max(0.0, lag_s)
    matched, extra, missed = count_matches(predicted - lag_s, true, span, TOLERANCE_S)
    return 2 * matched / (2 * matched + extra + missed) if matched + extra + missed else np.nan


def true_beats(stretch: Stretch, start_s: float, window_s: float) -> np.ndarray | None:
    """R peaks of a window that begins so long after the first sample of the stretch; None where they are not known."""
    signals = list(stretch.leads.values()) or [stretch.rhythm]
    begin_s = max(0.0, start_s - _MARGIN_S)
    rate = signals[0][1]
    places = [slice(round(begin_s * own), round((start_s + window_s + _MARGIN_S) * own)) for _, own in signals]
    parts = [x[place] for (x, own), place in zip(signals, places, strict=True) if own == rate]
    whole = [x for x in parts if len(x) > window_s * rate and np.isfinite(x).all() and np.ptp(x) > 0]
    if not whole:
        return None
    # An ECG without a unit is given one: a detector asks for a least height.
    scaled = whole if stretch.leads else [x / np.std(x) for x in whole]
    first = r_peak_times(np.stack([x[: min(map(len, whole))] for x in scaled])[None], rate)[0]
    agreement = [cleaning.template_agreement(cleaning.ecg_clean(x, rate), cleaning.ecg_rpeaks(x, rate), rate)
                 for x in whole]  # fmt: skip
    second = cleaning.ecg_rpeaks(whole[int(np.argmax(agreement))], rate) / rate
    first, second = (times[np.isfinite(times)] + begin_s - start_s for times in (first, second))
    first, second = (times[(times >= 0) & (times <= window_s)] for times in (first, second))
    if not len(first) or not len(second):
        return None
    between = np.median(second - first[np.abs(second[:, None] - first).argmin(axis=1)])
    return first if f1(second, first, between, window_s) >= LEAST_AGREEMENT else None


def windows_of(stretch: Stretch, model: LearnedTranslator) -> list[dict]:
    """What is known of each translated window of a stretch: its beats, the true ones, quality and doubt."""
    ppg, rate = stretch.ppg
    upright, _ = turn_upright(ppg, rate, "auto")
    ecg = translate_long(model, upright, None, None, n_samples=N_SAMPLES, sampling_rate=rate, progress=False)
    own, n = model.config.signal.sampling_rate, model.config.signal.window_samples
    rows = []
    for window in ecg.windows:
        inside = stretch.margin_s <= window.start_s + 1e-6 < stretch.margin_s + stretch.keep_s
        if window.refused or not inside or (true := true_beats(stretch, window.start_s, n / own)) is None:
            continue
        first = round(window.start_s * own)
        found = r_peak_times(ecg.central[None, :, first : first + n], own)[0]
        row = {"start_s": stretch.start_s - stretch.margin_s + window.start_s, "true": true, "window": window}
        rows.append(row | {"beats": found[np.isfinite(found)]})
    return rows


def judged(rows: list[dict], window_s: float) -> pd.DataFrame:
    """The windows of one translation: their time, F1, quality and doubt."""
    some = [rows[place] for place in np.unique(np.linspace(0, len(rows) - 1, _FOR_LAG).astype(int))]
    lag_s = joint_beat_lags_s([[row["beats"] for row in some]], [row["true"] for row in some], window_s)[0]
    return pd.DataFrame({
        "start_s": [row["start_s"] for row in rows],
        "f1": [f1(row["beats"], row["true"], lag_s, window_s) for row in rows],
        "poor": [row["window"].quality < POOR_QUALITY for row in rows],
        "doubt": [row["window"].doubt for row in rows],
        "quality": [row["window"].quality for row in rows],
    })  # fmt: skip


def measure(mirrors: list[str]) -> pd.DataFrame:
    """All windows of all records that can be read: data set, record, and :func:`judged`."""
    model, tables = load_model(PRETRAINED), []
    window_s = model.config.signal.window_samples / model.config.signal.sampling_rate
    for name, record, reading in readings(mirrors):
        for stretch in reading.stretches:
            label = f"{record} from {stretch.start_s:.0f} s"
            try:
                rows = windows_of(stretch, model)
            except InputError as error:
                print(f"{name}/{label}: left out ({error})", file=sys.stderr)
                continue
            print(f"{name}/{label}: {len(rows)} windows", file=sys.stderr)
            if rows:
                tables.append(judged(rows, window_s).assign(dataset=name, record=label))
    if not tables:
        raise InputError(f"no PPG with an ECG in {', '.join(mirrors)}; name folders laid out as PhysioNet")
    return pd.concat(tables, ignore_index=True)


def flag_table(windows: pd.DataFrame) -> pd.DataFrame:
    """A row per data set, those windows apart on which the limits were chosen, and one of all others together."""
    name, (begin_s, end_s) = CHOSEN_ON
    chosen = (windows["dataset"] == name) & windows["start_s"].between(begin_s, end_s)
    parts = {label: part for label, part in windows[~chosen].groupby("dataset", sort=False)}
    parts |= {"all of these": windows[~chosen], f"{name}, chosen on": windows[chosen]}
    rows = []
    for label, part in parts.items():
        part = part[part["f1"].notna()]
        if part.empty:
            continue
        bad, good = part[part["f1"] < BAD_F1], part[part["f1"] >= BAD_F1]
        row = {"data set": label, "records": part["record"].nunique(), "windows": len(part), "bad": len(bad)}
        for when, flag in (("before", lambda t: t["poor"]), ("now", lambda t: t["doubt"] != "")):
            row[f"flagged {when}"] = int(flag(part).sum())
            row[f"sensitivity {when}"] = flag(bad).mean() if len(bad) else np.nan
            row[f"specificity {when}"] = 1 - flag(good).mean() if len(good) else np.nan
        rows.append(row)
    return pd.DataFrame(rows)


CAPTION = (
    f"Windows in doubt against windows that are bad: F1 of R peaks (within {1e3 * TOLERANCE_S:.0f} ms, after one "
    f"constant lag per record) below {BAD_F1:g}. Before: quality of the PPG below {POOR_QUALITY:g}. Windows on whose "
    "true beats two detectors do not agree are left out. In the last row the limits of the flag were chosen."
)


def main(mirrors: list[str]) -> Path:
    """Measure, write the table, and return its path."""
    windows = measure(mirrors)
    formats = {name: ".2f" for name in ("sensitivity before", "sensitivity now")}
    formats |= {name: ".3f" for name in ("specificity before", "specificity now")}
    return save_table(
        flag_table(windows), checkout() / "figures" / "flag", "table01_flag", CAPTION, float_format=formats
    )


if __name__ == "__main__":
    print(main(sys.argv[1:]))
