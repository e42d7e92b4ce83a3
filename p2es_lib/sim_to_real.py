"""A model that saw no real record, on real recordings, beside what can be had without a model.

Everything is taken from the simulated cohort: the network, and the mean-beat template that it must beat. The third row
is the trivial detector: a pulse onset, less a constant, is an R peak. Each method is given one constant lag per record,
found from its R peaks and the true ones, because monitors delay the PPG by an unknown constant
(:mod:`p2es_lib.metrics.lag`); beats, not waveforms, because some recordings name no lead, and a detector draws none.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from p2es_lib.config import Config, get_config
from p2es_lib.errors import InputError
from p2es_lib.experiments import load_windows, simulated_run
from p2es_lib.learned import WEIGHTS_FILE, LearnedTranslator
from p2es_lib.methods import load_method
from p2es_lib.metrics import evaluate
from p2es_lib.metrics.clinical import R_PEAK_TOLERANCE_S, r_peak_f1, r_peak_times
from p2es_lib.metrics.resampling import percentile_interval, resample
from p2es_lib.paths import windows_dir
from p2es_lib.signals import ppg_onsets
from p2es_lib.windows import WindowSet, read_windows

MODEL, TEMPLATE, DETECTOR = "P2Es, trained on simulated data", "Mean-beat template of simulated data", "Pulse onset less the record's lag"
#: An R peak and its pulse are less than this apart, delay of the monitor included.
LARGEST_LAG_S = 0.8
#: Quality of a window that counts as clean: below it a pulse or a beat is in doubt, and with it what is true.
CLEAN_QUALITY = 0.9
#: Windows that are translated of one record at most, evenly over its time.
MAX_WINDOWS_PER_RECORD = 100
_RESOLUTION_S = 0.004
#: Windows that are translated at a time: only the mean of their samples is kept.
_CHUNK = 64


def simulated_model(profile: str) -> LearnedTranslator:
    """P2Es as trained on the simulated cohort with this profile; an :class:`InputError` says how to make it."""
    folder = simulated_run(profile)
    if not (folder / WEIGHTS_FILE).is_file():
        raise InputError(f"{folder / WEIGHTS_FILE}: no model yet; make it with: make reproduce DATASET=simulated PROFILE={profile}")
    return load_method(folder)


def usable_windows(config: Config) -> WindowSet:
    """Clean windows of all splits with a measured PPG and true beats, at most so many of each record.

    Raises
    ------
    InputError
        There are none: the PPG was simulated from the ECG, for example.
    """
    windows = read_windows(windows_dir(config.dataset, config.profile))
    index, nothing = windows.index, f"data set {config.dataset}: no clean window with a measured PPG; nothing to carry over to"
    if "rpeaks_s" not in index:  # the simulated cohort
        raise InputError(nothing)
    usable = (index["rpeaks_s"].str.split().map(len) > 1) & (index["ppg_origin"] == "measured")
    usable &= index["quality"] >= CLEAN_QUALITY
    labels = record_labels(index)
    rows = [
        part[np.unique(np.linspace(0, len(part) - 1, min(MAX_WINDOWS_PER_RECORD, len(part))).astype(int))]
        for part in (np.flatnonzero(usable & (labels == label)) for label in sorted(set(labels[usable])))
    ]
    if not rows:
        raise InputError(nothing)
    return windows.select(np.concatenate(rows))


def record_labels(index: pd.DataFrame) -> pd.Series:
    """Name of each window's record, with that of its source."""
    return index["source"].astype(str) + "/" + index["record"].astype(str)


def beat_lag_s(predicted: list[np.ndarray], true: list[np.ndarray]) -> float:
    """The constant by which predicted beats are late: that with which the most of them meet a true one.

    Parameters
    ----------
    predicted, true : list of arrays
        Beat times of each window of one record, s.

    Returns
    -------
    float
        Seconds, between -0.8 and 0.8; of equally good ones the middle, of several such stretches that of the one nearest
        zero. 0 without beats.
    """
    differences = np.concatenate([np.subtract.outer(p, t).ravel() for p, t in zip(predicted, true, strict=True)] or [np.zeros(0)])
    differences = np.sort(differences[np.abs(differences) <= LARGEST_LAG_S + R_PEAK_TOLERANCE_S])
    if not len(differences):
        return 0.0
    lags = np.arange(-LARGEST_LAG_S, LARGEST_LAG_S + _RESOLUTION_S / 2, _RESOLUTION_S)
    within = [np.searchsorted(differences, lags + sign * R_PEAK_TOLERANCE_S, side) for sign, side in ((-1, "left"), (1, "right"))]
    count = within[1] - within[0]
    best = lags[count == count.max()]
    # Of a plateau its middle, and of several the one nearest zero.
    plateaus = np.split(best, np.flatnonzero(np.diff(best) > 1.5 * _RESOLUTION_S) + 1)
    return float(min((plateau.mean() for plateau in plateaus), key=abs))


def beat_scores(beats: list[np.ndarray], windows: WindowSet, window_s: float) -> pd.DataFrame:
    """R-peak F1 (50 ms) after one lag per record, error of the heart rate (beats per minute) and the lag, per window."""
    true = [np.array(text.split(), dtype=float) for text in windows.index["rpeaks_s"]]
    labels = record_labels(windows.index).to_numpy()
    lags = np.zeros(len(labels))
    for label in set(labels):
        rows = np.flatnonzero(labels == label)
        lags[rows] = beat_lag_s([beats[row] for row in rows], [true[row] for row in rows])
    error = [abs(_rate(found) - _rate(wanted)) for found, wanted in zip(beats, true, strict=True)]
    f1 = r_peak_f1(_padded(beats), _padded(true), lag_s=lags, window_s=window_s)
    return pd.DataFrame({"record": labels, "r_peak_f1_lag": f1, "heart_rate_error": error, "lag_ms": 1e3 * lags})


def _rate(beats: np.ndarray) -> float:
    return 60.0 / float(np.mean(np.diff(beats))) if len(beats) > 1 else np.nan


def _padded(times: list[np.ndarray]) -> np.ndarray:
    table = np.full((len(times), max(map(len, times), default=0)), np.nan)
    for row, found in zip(table, times, strict=True):
        row[: len(found)] = found
    return table


def sim_to_real_scores(config: Config, *, seed: int = 0, progress: bool = True) -> pd.DataFrame:
    """Score model, template and detector, which know simulated data only, on a data set's real windows.

    Returns
    -------
    DataFrame
        One row per window and method: record, subject, method, r_peak_f1_lag, heart_rate_error (bpm), lag_ms, and
        pearson_lag over the measured leads (NaN without named leads, and of the detector).
    """
    from tqdm.auto import tqdm

    from p2es_lib.baselines.template import MeanBeatTemplate

    model, windows = simulated_model(config.profile), usable_windows(config)
    simulated = get_config(config.profile)
    template = MeanBeatTemplate(simulated).fit(load_windows(simulated).split("train"))
    rate, ppg = config.signal.sampling_rate, np.array(windows.ppg)
    means = []
    # Chunk by chunk, because all samples of a large data set would take tens of GB.
    with tqdm(total=len(windows), desc="translating", disable=not progress) as bar:
        for start in range(0, len(windows), _CHUNK):
            rows = slice(start, start + _CHUNK)
            options = {"n_samples": config.sampling.n_samples, "generator": seed}
            samples = model.translate(ppg[rows], windows.demographics[rows], **options)
            means.append(samples.numpy().mean(axis=1, keepdims=True))
            bar.update(len(means[-1]))
    ecgs = {MODEL: np.concatenate(means), TEMPLATE: template.translate(ppg, windows.demographics).numpy()}
    beats = {name: [row[np.isfinite(row)] for row in r_peak_times(ecg[:, 0], rate)] for name, ecg in ecgs.items()}
    beats[DETECTOR] = [ppg_onsets(window[0], rate) / rate for window in ppg]
    tables = []
    for name, found in beats.items():
        table = beat_scores(found, windows, config.signal.n_samples / rate)
        table["pearson_lag"] = _pearson(ecgs[name], windows, config) if name in ecgs else np.nan
        tables.append(table.assign(subject=windows.index["subject"].to_numpy(), method=name))
    return pd.concat(tables, ignore_index=True)


def _pearson(ecg: np.ndarray, windows: WindowSet, config: Config) -> np.ndarray:
    """Correlation over the measured leads after one lag per record, per window; NaN where no lead is named."""
    found = np.full(len(windows), np.nan)
    named = np.flatnonzero(np.asarray(windows.lead_mask).any(axis=1))
    if len(named):
        # As far as the beats' lag may go: a model of one monitor meets the delay of another.
        options = {"max_lag_s": LARGEST_LAG_S, "estimates": ("mean",)}
        scores = evaluate(ecg[named], windows.select(named), config.signal.sampling_rate, **options)
        rows = scores[(scores["metric"] == "pearson_lag") & (scores["lead"] == "measured")]
        found[named[rows["window"].to_numpy()]] = rows["value"].to_numpy()
    return found


def sim_to_real_table(scores: pd.DataFrame, n_bootstrap: int = 1000, seed: int = 0) -> pd.DataFrame:
    """One row per record and method: averages over its windows, and 95 % bootstrap intervals over them.

    Returns
    -------
    DataFrame
        Columns record, subject, method, windows, then each score with its bounds, and lag_ms.
    """
    rows = []
    for (record, method), part in scores.groupby(["record", "method"], sort=False):
        row = {"record": record, "subject": part["subject"].iloc[0], "method": method, "windows": len(part)}
        weights = resample(len(part), n_bootstrap, seed)
        for name in ("r_peak_f1_lag", "heart_rate_error", "pearson_lag"):
            value = part[name].to_numpy(dtype=float)
            known = np.isfinite(value)
            with np.errstate(invalid="ignore"):  # a resample without a window that has a value counts for nothing
                draws = (weights[:, known] @ value[known]) / weights[:, known].sum(axis=1)
            lower, upper = percentile_interval(draws[:, None], int(known.sum())) if known.any() else ([np.nan], [np.nan])
            row |= {name: value[known].mean() if known.any() else np.nan}
            row |= {f"{name}_lower": float(lower[0]), f"{name}_upper": float(upper[0])}
        rows.append(row | {"lag_ms": part["lag_ms"].iloc[0]})
    return pd.DataFrame(rows)
