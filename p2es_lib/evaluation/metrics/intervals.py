"""Intervals, axis and wave sizes of the translated ECG against the true one: bias and limits of agreement.

Both are measured on the averaged beat of the window (:mod:`p2es_lib.evaluation.metrics.measurements`), so what is
compared is what a reader would measure, errors of measuring (:mod:`p2es_lib.evaluation.metrics.delineation`) included.
A single sample is the one to measure: the mean of samples is blurred wherever they disagree in time.

References
----------
Bland JM, Altman DG. Statistical methods for assessing agreement between two methods of clinical measurement. Lancet
1986;327:307-310.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from p2es_lib.core.errors import check_choice
from p2es_lib.core.leads import LEADS
from p2es_lib.evaluation.metrics.long_table import LEAD_GROUPS, check_samples, long_keys, whole_window
from p2es_lib.evaluation.metrics.measurements import average_beats, beat_times, measure_beats
from p2es_lib.evaluation.metrics.resampling import subject_weights, with_interval
from p2es_lib.evaluation.metrics.scores import Metric

#: What is measured. Differences have a sign, so neither direction is the better one.
QUANTITIES: dict[str, Metric] = {
    "heart_rate": Metric("Heart rate", "1/min", ""),
    "pr_ms": Metric("PR", "ms", ""),
    "qrs_ms": Metric("QRS duration", "ms", ""),
    "qt_ms": Metric("QT", "ms", ""),
    "qtc_ms": Metric("QTc (Fridericia)", "ms", ""),
    "qrs_axis_deg": Metric("Frontal QRS axis", "°", ""),
    "p_mv": Metric("P amplitude", "mV", ""),
    "qrs_mv": Metric("QRS amplitude, peak to peak", "mV", ""),
    "t_mv": Metric("T amplitude", "mV", ""),
    "st60_mv": Metric("ST level, J + 60 ms", "mV", ""),
}
#: ST is read this long after the end of QRS.
ST_AFTER_J_S = 0.060


def measure_ecg(ecg: np.ndarray, sampling_rate: float, available: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Measure every quantity of :data:`QUANTITIES` in windows of ECG (N, 12, T) in mV: arrays (N, 15) by name.

    Columns are the leads, then ``long_table.LEAD_GROUPS``: rate, intervals and axis, of all leads together, stand under
    "all", sizes and levels under their lead, P and T with their sign. NaN where nothing could be measured.
    ``available`` (N, 12): leads to use; by default those that are finite throughout.
    """
    beats, r_peaks = average_beats(ecg, sampling_rate, available)
    table = measure_beats(beats, r_peaks)
    values = {name: whole_window(table[name].to_numpy(dtype=float)) for name in QUANTITIES if name in table}
    wave = {w: table[[f"{lead}_{w}_mv" for lead in LEADS]].to_numpy(dtype=float) for w in ("p", "q", "r", "s", "t")}
    sizes = {"p_mv": wave["p"], "qrs_mv": wave["r"] + np.maximum(wave["q"], wave["s"]), "t_mv": wave["t"]}
    absent = np.full((len(beats), len(LEAD_GROUPS)), np.nan)  # a mean of sizes over leads would say nothing
    sizes["st60_mv"] = _st_level(beats, table)
    return values | {name: np.hstack([size, absent]) for name, size in sizes.items()}


def _st_level(beats: np.ndarray, table: pd.DataFrame) -> np.ndarray:
    """Level 60 ms after the end of QRS above that just before its onset, (N, 12), mV."""
    t = beat_times()
    onset, duration_ms = (table[name].to_numpy(dtype=float)[:, None] for name in ("qrs_onset_s", "qrs_ms"))
    before = (t >= onset - 0.016) & (t <= onset - 0.004)  # (N, n); none where the onset is not known
    baseline = np.where(before[:, None], beats, 0.0).sum(axis=-1) / np.maximum(before.sum(axis=1), 1)[:, None]
    read_at = (onset + 1e-3 * duration_ms + ST_AFTER_J_S)[:, 0]
    place = np.searchsorted(t, np.nan_to_num(read_at)).clip(max=len(t) - 1)
    return np.where(np.isnan(read_at)[:, None], np.nan, beats[np.arange(len(beats)), :, place] - baseline)


def interval_differences(samples, windows, sampling_rate: float, *, estimates=("single",)) -> pd.DataFrame:
    """Translated minus true ECG, measured: rows of :func:`agreement_rows`, of the first samples or the "mean" of all.

    ``summary.summarise`` gives the biases, :func:`limits_of_agreement` all the rest.
    """
    samples, truth, exists = check_samples(samples, windows)
    frames, last = [], None
    for estimate in estimates:
        check_choice("estimate", estimate, ("single", "mean"))
        ecg = samples[:, 0] if estimate == "single" else samples.mean(axis=1)
        available = exists & np.isfinite(ecg).all(axis=-1)
        # Both are measured in the same leads, because intervals are those of all leads together.
        if not np.array_equal(available, last):
            true, last = measure_ecg(truth, sampling_rate, available), available
        frames.append(agreement_rows(measure_ecg(ecg, sampling_rate, available), true, windows.index, estimate))
    return pd.concat(frames, ignore_index=True)


def agreement_rows(
    measured: Mapping[str, np.ndarray], true: Mapping[str, np.ndarray], index: pd.DataFrame, estimate: str
) -> pd.DataFrame:
    """Long table of measured minus true values, quantities to (N, 15) arrays as from :func:`measure_ecg`.

    Columns of ``scores.evaluate``, with the difference as ``value`` (axes within -180 to 180 degrees), and ``true`` and
    ``measured``. A row for each value that either has. Quantities that ``true`` lacks are left out.
    """
    names = [name for name in measured if name in true]
    cubes = [np.stack([values[name] for name in names]) for values in (measured, true)]
    places = np.nonzero(np.isfinite(cubes[0]) | np.isfinite(cubes[1]))
    keys = long_keys(names, places, index, estimate)
    found, expected = (cube[places] for cube in cubes)
    difference = found - expected
    turned = np.array([QUANTITIES[name].unit == "°" for name in keys["metric"]], dtype=bool)
    difference[turned] = (difference[turned] + 180.0) % 360.0 - 180.0
    return pd.DataFrame(keys | {"value": difference, "true": expected, "measured": found})


def limits_of_agreement(differences: pd.DataFrame, n_bootstrap: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Bias and 95 % limits of agreement of every lead, estimate and quantity, with bootstrap intervals over subjects.

    The limits, bias +- 1.96 SD, hold the difference in one window of one person in 95 % of cases: the SD is over all
    windows, within and between subjects, every subject counting the same. ``differences`` are those of
    :func:`interval_differences` or ``delineation.delineation_differences``.

    Returns
    -------
    DataFrame
        Columns lead, estimate, metric, n_subjects, n_windows (where both were measured), missed and extra (shares of
        windows in which only the truth, or only the translation, has the wave), bias, sd, low and high (the limits),
        each of these four also with ``_lower`` and ``_upper`` (95 %), sd_true (between windows, of the true values: a
        method that always answers the mean reaches that) and correlation (of measured and true).
    """
    rows = []
    for key, group in differences.groupby(["lead", "estimate", "metric"], sort=False, observed=True):
        both = group[group["value"].notna()]
        row = dict(zip(("lead", "estimate", "metric"), key)) | {
            "n_subjects": both["subject"].nunique(),
            "n_windows": len(both),
            "missed": (group["true"].notna() & group["measured"].isna()).mean(),
            "extra": (group["true"].isna() & group["measured"].notna()).mean(),
        }
        if len(both) > 1:
            row |= _limits(both, n_bootstrap, seed)
        rows.append(row)
    return pd.DataFrame(rows)


def _limits(both: pd.DataFrame, n_bootstrap: int, seed: int) -> dict[str, float]:
    weights = subject_weights(both["subject"].to_numpy(), n_bootstrap, seed)
    share = weights / weights.sum(axis=1, keepdims=True)
    difference = both["value"].to_numpy(dtype=float)
    bias = share @ difference
    # The usual n - 1 where each subject has one window; a centred second moment, so that no digits are lost.
    squared = (share * (difference - bias[:, None]) ** 2).sum(axis=1) * len(both) / (len(both) - 1)
    draws = {"bias": bias, "sd": np.sqrt(squared)}
    draws |= {"low": bias - 1.96 * draws["sd"], "high": bias + 1.96 * draws["sd"]}
    row = {}
    for name, values in draws.items():
        row |= with_interval(values, both["subject"].nunique(), name, f"{name}_")
    true, measured = (both[name].to_numpy(dtype=float) for name in ("true", "measured"))
    varies = min(np.std(true), np.std(measured)) > 1e-12
    correlation = np.corrcoef(true, measured)[0, 1] if varies else np.nan
    return row | {"sd_true": np.std(true, ddof=1), "correlation": correlation}
