"""A model that saw no real record, on real recordings, beside what can be had without a model.

Everything is taken from the simulated cohort: the network, and the mean-beat template that it must beat. The third row
is the trivial detector: a pulse onset, less a constant, is an R peak. Monitors delay the PPG by an unknown constant
(:mod:`p2es_lib.evaluation.metrics.lag`), so each method is given one lag per record, found from its R peaks and the
true ones (some recordings name no lead, and a detector draws none), of all methods together: the delay is the same.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.lib.stride_tricks import sliding_window_view
from tqdm.auto import tqdm

from p2es_lib.baselines.template import MeanBeatTemplate
from p2es_lib.core.config import Config, get_config, real_profile
from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import ABSENT, MEASURED
from p2es_lib.core.learned import LearnedTranslator, load_method
from p2es_lib.core.paths import windows_dir
from p2es_lib.core.weights import WEIGHTS_FILE, simulated_model_folder
from p2es_lib.data.windows import WindowSet, read_windows, stored_beats
from p2es_lib.evaluation.metrics.clinical import R_PEAK_TOLERANCE_S, count_matches, heart_rate_error
from p2es_lib.evaluation.metrics.lag import constant_lags, overlaps
from p2es_lib.evaluation.metrics.resampling import resample, with_interval
from p2es_lib.evaluation.metrics.waveform import pearson
from p2es_lib.experiments.runs import simulated_windows
from p2es_lib.signals.cleaning import ppg_onsets
from p2es_lib.signals.r_peaks import r_peak_times

MODEL, TEMPLATE = "P2Es, trained on simulated data", "Mean-beat template of simulated data"
DETECTOR = "Pulse onset less the record's lag"
#: How early and how late beats may come, delay of the monitor included, and in which steps.
SMALLEST_LAG_S, LARGEST_LAG_S, _RESOLUTION_S = -0.2, 0.8, 0.004
#: Quality of a window that counts as clean: below it a pulse or a beat is in doubt, and with it what is true.
CLEAN_QUALITY = 0.9
#: Windows that are translated of one record at most, evenly over its time.
MAX_WINDOWS_PER_RECORD = 100
_CHUNK = 64  # windows that are translated at a time: only the mean of their samples is kept


def simulated_model(profile: str) -> LearnedTranslator:
    """P2Es as trained on the simulated cohort; an :class:`InputError` says how to make what is not there."""
    path = simulated_model_folder(profile) / WEIGHTS_FILE
    if not path.is_file():
        raise InputError(f"{path}: no model yet; run: make reproduce DATASET=simulated PROFILE={real_profile(profile)}")
    return load_method(path.parent)


def usable_windows(config: Config) -> WindowSet:
    """Clean windows of all splits with a measured PPG and true beats, at most so many a record; none: InputError."""
    windows = read_windows(windows_dir(config.dataset, config.profile))
    index, rows = windows.index, []
    if "rpeaks_s" in index:  # not the simulated cohort
        usable = (index["rpeaks_s"].str.split().map(len) > 1) & (index["ppg_origin"] == "measured")
        usable &= index["quality"] >= CLEAN_QUALITY
        labels = record_labels(index)
        for label in sorted(set(labels[usable])):
            part = np.flatnonzero(usable & (labels == label))
            spread = np.linspace(0, len(part) - 1, min(MAX_WINDOWS_PER_RECORD, len(part)))
            rows.append(part[np.unique(spread.astype(int))])
    if not rows:
        raise InputError(f"data set {config.dataset}: no clean window with a measured PPG; nothing to carry over to")
    return windows.select(np.concatenate(rows))


def record_labels(index: pd.DataFrame) -> pd.Series:
    """Name of each window's record, with that of its source."""
    return index["source"].astype(str) + "/" + index["record"].astype(str)


def joint_beat_lags_s(
    methods: Sequence[list[np.ndarray]], true: list[np.ndarray], window_s: float = np.inf
) -> np.ndarray:
    """The constants (s) by which the beats of several methods are late in one record, found together.

    A lag fits a method by the density of the differences between its beats and the true ones: what a triangle as wide
    as the tolerance holds, per second that both cover (else the lag of the beat before wins in a regular rhythm).

    There, a lag that is wrong by a whole beat fits nearly as well. But all methods see the same PPG: their lags differ
    only by the delay from R peak to pulse that each takes for granted, none to some 0.17 s. So they must lie within
    half the record's median interval between true beats, and of all such sets the one with the greatest sum of
    densities is taken; of equally good ones that nearest zero, which is also the lag of a method without beats.

    ``methods``: of each, beat times (s) of each window of the record; ``true``: those of the same windows.
    """
    lags = _RESOLUTION_S * np.arange(round(SMALLEST_LAG_S / _RESOLUTION_S), round(LARGEST_LAG_S / _RESOLUTION_S) + 1)
    density = np.stack([_lag_density(predicted, true, lags, window_s) for predicted in methods])  # (methods, lags)
    intervals = np.concatenate([np.zeros(0), *map(np.diff, true)])
    within = np.median(intervals) / 2 if len(intervals) else np.inf
    # All parts of the range of lags that are shorter than half an interval between beats.
    width = int(np.clip(np.ceil(within / _RESOLUTION_S), 1, len(lags)))
    parts = sliding_window_view(density, width, axis=1)  # (methods, starts, width)
    total = parts.max(axis=2).sum(axis=0)
    candidates = []
    for start in np.flatnonzero(total >= (1 - 1e-9) * total.max()):
        near = lags[start : start + width]
        candidates.append([min(near[part >= (1 - 1e-9) * part.max()], key=abs) for part in parts[:, start]])
    return np.array(min(candidates, key=lambda found: np.abs(found).sum()))


def _lag_density(predicted: list[np.ndarray], true: list[np.ndarray], lags: np.ndarray, window_s: float) -> np.ndarray:
    """How many pairs of beats each lag brings together, near ones counting more, per second that both signals cover."""
    differences = [np.subtract.outer(p, t).ravel() for p, t in zip(predicted, true, strict=True)]
    distance = np.abs(np.subtract.outer(lags, np.concatenate([np.zeros(0), *differences])))  # (lags, pairs)
    return np.maximum(1 - distance / R_PEAK_TOLERANCE_S, 0).sum(axis=1) / (1 - np.abs(lags) / window_s)


def true_beats(windows: WindowSet) -> list[np.ndarray]:
    """Beat times of each window as the preparation found them in the ECG, s."""
    return [row[np.isfinite(row)] for row in stored_beats(windows.index)]


def lags_of_records(beats: Mapping[str, list[np.ndarray]], windows: WindowSet, window_s: float) -> dict:
    """Lag of each window's record for each method, found together with those of the others: name -> (N,), s."""
    labels = record_labels(windows.index)
    lags = np.zeros((len(beats), len(labels)))
    for rows in labels.groupby(labels.to_numpy()).indices.values():
        true, *of_record = ([found[row] for row in rows] for found in (true_beats(windows), *beats.values()))
        lags[:, rows] = joint_beat_lags_s(of_record, true, window_s)[:, None]
    return dict(zip(beats, lags, strict=True))


def common_spans(lags: Iterable[np.ndarray], window_s: float) -> np.ndarray:
    """What the windows of all methods cover on the time axis of the truth, each less its lag: (N, 2), s."""
    lags = np.stack(list(lags))
    return np.stack([np.maximum(-lags, 0).max(axis=0), window_s - np.maximum(lags, 0).max(axis=0)], axis=1)


def beat_scores(beats: list[np.ndarray], lags: np.ndarray, spans: np.ndarray, windows: WindowSet) -> pd.DataFrame:
    """R-peak F1 (50 ms) after the lag, within the spans, error of the heart rate (1/min) and lag; a row per window."""
    rows = []
    for found, true, lag, (begin, end) in zip(beats, true_beats(windows), lags, spans, strict=True):
        early, late = begin - R_PEAK_TOLERANCE_S, end + R_PEAK_TOLERANCE_S
        near = [times[(times > early) & (times < late)] for times in (found - lag, true)]
        matched, extra, missed = count_matches(*near, span_s=(begin, end))
        total = 2 * matched + extra + missed
        rows.append((2 * matched / total if total else np.nan, heart_rate_error(found[None], true[None])[0], 1e3 * lag))
    table = pd.DataFrame(rows, columns=["r_peak_f1_lag", "heart_rate_error", "lag_ms"])
    return table.assign(record=record_labels(windows.index).to_numpy())


def sim_to_real_scores(config: Config, *, seed: int = 0, progress: bool = True) -> pd.DataFrame:
    """Score model, template and detector on each real window: :func:`beat_scores`, pearson_lag of measured leads."""
    model, windows = simulated_model(config.profile), usable_windows(config)
    simulated = get_config(real_profile(config.profile))
    template = MeanBeatTemplate(simulated).fit(simulated_windows(simulated).split("train"))
    rate, ppg = config.signal.sampling_rate, np.array(windows.ppg)
    means, options = [], {"n_samples": config.sampling.n_samples, "generator": seed}
    # Chunk by chunk, because all samples of a large data set would take tens of GB.
    with tqdm(total=len(windows), desc="translating", disable=not progress) as bar:
        for start in range(0, len(windows), _CHUNK):
            rows = slice(start, start + _CHUNK)
            samples = model.translate(ppg[rows], windows.demographics[rows], **options)
            means.append(samples.numpy().mean(axis=1, keepdims=True))
            bar.update(len(means[-1]))
    ecgs = {MODEL: np.concatenate(means), TEMPLATE: template.translate(ppg, windows.demographics).numpy()}
    beats = {name: [row[np.isfinite(row)] for row in r_peak_times(ecg[:, 0], rate)] for name, ecg in ecgs.items()}
    beats[DETECTOR] = [ppg_onsets(window[0], rate) / rate for window in ppg]
    window_s, tables = config.signal.window_samples / rate, []
    lags = lags_of_records(beats, windows, window_s)
    spans = common_spans(lags.values(), window_s)
    for name, found in beats.items():
        table = beat_scores(found, lags[name], spans, windows)
        table["pearson_lag"] = _pearson(ecgs[name], lags[name], windows, rate) if name in ecgs else np.nan
        tables.append(table.assign(subject=windows.index["subject"].to_numpy(), method=name))
    return pd.concat(tables, ignore_index=True)


def _pearson(ecg: np.ndarray, lags: np.ndarray, windows: WindowSet, sampling_rate: float) -> np.ndarray:
    """Correlation over measured leads, per window, after the lag near the beats' (N,), s, that fits best; or NaN."""
    found, labels = np.full(len(windows), np.nan), record_labels(windows.index).to_numpy()
    mask, truth = np.asarray(windows.lead_mask), np.asarray(windows.ecg)
    tolerance = int(round(R_PEAK_TOLERANCE_S * sampling_rate))
    for rows, x, y in overlaps(ecg[:, 0], truth, np.round(lags * sampling_rate).astype(int)):
        use = mask[rows] != ABSENT
        rest = constant_lags(x, y, use, labels[rows], max_lag=tolerance)
        for part, x_lag, y_lag in overlaps(x, y, rest):
            r = np.where(mask[rows[part]] == MEASURED, pearson(x_lag, y_lag), np.nan)  # (n, 12)
            known = np.isfinite(r).any(axis=1)
            found[rows[part][known]] = np.nanmean(r[known], axis=1)
    return found


def sim_to_real_table(scores: pd.DataFrame, n_bootstrap: int = 1000, seed: int = 0) -> pd.DataFrame:
    """A row per record and method: averages over its windows with 95 % bootstrap intervals over them, and the lag."""
    rows = []
    for (record, method), part in scores.groupby(["record", "method"], sort=False):
        row = {"record": record, "subject": part["subject"].iloc[0], "method": method, "windows": len(part)}
        weights = resample(len(part), n_bootstrap, seed)
        for name in ("r_peak_f1_lag", "heart_rate_error", "pearson_lag"):
            value = part[name].to_numpy(dtype=float)
            known = np.isfinite(value)
            with np.errstate(invalid="ignore"):  # a resample without a window that has a value counts for nothing
                draws = (weights[:, known] @ value[known]) / weights[:, known].sum(axis=1)
            row |= with_interval(draws, int(known.sum()), name, f"{name}_")
            row[name] = value[known].mean() if known.any() else np.nan  # the draws' own first, but for rounding
        rows.append(row | {"lag_ms": part["lag_ms"].iloc[0]})
    return pd.DataFrame(rows)
