"""Intervals, axis and wave sizes of the translated ECG against the true one: bias and limits of agreement.

Both are measured on the averaged beat of all leads of a window (:mod:`p2es_lib.evaluation.metrics.measurements`), so
what is compared is what a reader would measure, errors of measuring included. A single sample is the one to measure:
the mean of samples is blurred wherever they disagree in time.

:func:`delineation_differences` says how well intervals can be measured at all, in the true, simulated ECG, by the
averaged beat or by NeuroKit2's wavelet delineation of a single lead, which others use. The simulator's intervals run
from the first to the last trace of a wave, as published ones do, and tangents meet the baseline inside of that, so a
bias of T by some 30 ms and of P by some 10 ms is a matter of definition (:mod:`p2es_lib.simulator.heart`).

References
----------
Bland JM, Altman DG. Statistical methods for assessing agreement between two methods of clinical measurement. Lancet
1986;327:307-310.
Makowski D et al. NeuroKit2: a Python toolbox for neurophysiological signal processing. Behav Res Methods
2021;53:1689-1696. Martinez JP et al. A wavelet-based ECG delineator. IEEE Trans Biomed Eng 2004;51(4):570-581.
"""

import warnings
from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy.signal import resample_poly

from p2es_lib.core.errors import InputError, check_choice
from p2es_lib.core.leads import LEADS
from p2es_lib.evaluation.metrics.long_table import LEAD_GROUPS, check_samples, long_keys, point_estimate, whole_window
from p2es_lib.evaluation.metrics.measurements import BEAT_RATE, average_beats, beat_times, measure_beats
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
#: Ways to measure, and how they are called in tables.
MEASURED_BY = {"averaged_beat": "Averaged beat, all leads", "neurokit": "NeuroKit2 (dwt), lead II"}
#: Quantity and the column of the simulator's index that holds its true value.
LATENTS = {name: name for name in ("heart_rate", "pr_ms", "qrs_ms", "qtc_ms")} | {"qrs_axis_deg": "axis_deg"}


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
    read_at = (onset + 1e-3 * duration_ms + 0.060)[:, 0]
    place = np.searchsorted(t, np.nan_to_num(read_at)).clip(max=len(t) - 1)
    return np.where(np.isnan(read_at)[:, None], np.nan, beats[np.arange(len(beats)), :, place] - baseline)


def interval_differences(samples, windows, sampling_rate: float, *, estimates=("single",)) -> pd.DataFrame:
    """Translated minus true ECG, measured: rows of :func:`agreement_rows`, of the first samples or the "mean" of all.

    ``summary.summarise`` gives the biases, :func:`limits_of_agreement` all the rest.
    """
    samples, truth, exists = check_samples(samples, windows)
    frames = []
    for estimate in estimates:
        ecg = point_estimate(samples, estimate)
        # Both are measured in the same leads, because intervals are those of all leads together.
        available = exists & np.isfinite(ecg).all(axis=-1)
        measured, true = (measure_ecg(signal, sampling_rate, available) for signal in (ecg, truth))
        frames.append(agreement_rows(measured, true, windows.index, estimate))
    return pd.concat(frames, ignore_index=True)


def agreement_rows(measured: Mapping, true: Mapping, index: pd.DataFrame, estimate: str) -> pd.DataFrame:
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


#: What :func:`limits_of_agreement` says of each quantity; NaN where hardly any window has it in both ECGs.
LIMITS = (
    *(f"{name}{end}" for name in ("bias", "sd", "low", "high") for end in ("", "_lower", "_upper")),
    "sd_true",
    "correlation",
)


def limits_of_agreement(differences: pd.DataFrame, n_bootstrap: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Bias and 95 % limits of agreement of every lead, estimate and quantity, with bootstrap intervals over subjects.

    The limits, bias +- 1.96 SD, hold the difference in one window of one person in 95 % of cases: the SD is over all
    windows, within and between subjects, every subject counting the same. ``differences`` are those of
    :func:`interval_differences` or :func:`delineation_differences`. Columns lead, estimate, metric, n_subjects,
    n_windows (where both were measured), missed and extra (shares of windows in which only the truth, or only the
    translation, has the wave), bias, sd, low and high (the limits), each of these four also with ``_lower`` and
    ``_upper`` (95 %), sd_true (between windows, of the true values: a method that always answers the mean reaches that)
    and correlation (of measured and true).
    """
    rows, keys = [], ["lead", "estimate", "metric"]
    for key, group in differences.groupby(keys, sort=False, observed=True):
        both = group[group["value"].notna()]
        row = dict(zip(keys, key)) | {"n_subjects": both["subject"].nunique(), "n_windows": len(both)}
        row |= {"missed": (group["true"].notna() & group["measured"].isna()).mean()}
        row |= {"extra": (group["true"].isna() & group["measured"].notna()).mean()}
        rows.append(row | (_limits(both, n_bootstrap, seed) if len(both) > 1 else dict.fromkeys(LIMITS, np.nan)))
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


def delineation_differences(windows, sampling_rate: float, methods=tuple(MEASURED_BY)) -> pd.DataFrame:
    """Measured minus known values of simulated windows, as :func:`agreement_rows`, the method as ``estimate``.

    ``windows`` hold ``ecg`` (N, 12, T) and ``index`` with the columns of :data:`LATENTS` (else InputError): a simulated
    data set. ``methods`` are of :data:`MEASURED_BY`.
    """
    missing = [column for column in LATENTS.values() if column not in windows.index]
    if missing:
        raise InputError(f"delineation: the true {', '.join(missing)} are not known; only simulated windows have them")
    true = {name: whole_window(windows.index[column].to_numpy(dtype=float)) for name, column in LATENTS.items()}
    ecg, frames = np.asarray(windows.ecg), []
    for method in methods:
        check_choice("method", method, MEASURED_BY)
        if method == "neurokit":
            table = neurokit_intervals(ecg, sampling_rate)
            measured = {name: whole_window(table[name].to_numpy()) for name in table if name in true}
        else:
            measured = measure_ecg(ecg, sampling_rate)
        frames.append(agreement_rows(measured, true, windows.index, method))
    return pd.concat(frames, ignore_index=True)


def neurokit_intervals(ecg: np.ndarray, sampling_rate: float) -> pd.DataFrame:
    """Rate and intervals by NeuroKit2's discrete wavelet delineation of lead II, medians over the beats of a window.

    Columns heart_rate (1/min), pr_ms, qrs_ms, qt_ms, qtc_ms (Fridericia) for ECG (N, 12, T) in mV; NaN where it finds
    nothing. The lead is resampled from a whole number of Hz to 500 Hz, where the method finds more than at 125 Hz. That
    its R onsets and offsets often lie at the P wave or beyond the S wave is known (NeuroKit issue 1042).
    """
    columns = ["heart_rate", "pr_ms", "qrs_ms", "qt_ms", "qtc_ms"]
    found = [_neurokit(signal, sampling_rate) for signal in np.asarray(ecg, dtype=np.float64)[:, LEADS.index("II")]]
    return pd.DataFrame(found, columns=columns).astype(float)


def _neurokit(signal: np.ndarray, sampling_rate: float) -> dict[str, float]:
    import neurokit2 as nk

    if not np.isfinite(signal).all():
        return {}
    signal = resample_poly(signal, int(BEAT_RATE), int(round(sampling_rate)), padtype="line")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a wave that is found in no beat is a missing value, not news
        try:
            peaks = nk.ecg_peaks(signal, sampling_rate=int(BEAT_RATE))[1]["ECG_R_Peaks"]
            waves = nk.ecg_delineate(signal, peaks, sampling_rate=int(BEAT_RATE), method="dwt")[1]
        except (ValueError, IndexError, ZeroDivisionError):  # what it raises for signals with few or no beats
            return {}
        at = {name: 1e3 * np.array(times, dtype=float) / BEAT_RATE for name, times in waves.items()}
        onset = at["ECG_R_Onsets"]
        pr, qrs = np.nanmedian(onset - at["ECG_P_Onsets"]), np.nanmedian(at["ECG_R_Offsets"] - onset)
        qt = np.nanmedian(at["ECG_T_Offsets"] - onset)
    rr_s = np.diff(peaks).mean() / BEAT_RATE if len(peaks) > 1 else np.nan
    return {"heart_rate": 60 / rr_s, "pr_ms": pr, "qrs_ms": qrs, "qt_ms": qt, "qtc_ms": qt / np.cbrt(rr_s)}
