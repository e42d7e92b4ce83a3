"""What classifiers look at: measurements of ECG and PPG windows, one row each; and the classifiers themselves."""

import numpy as np
import pandas as pd
import torch

from p2es_lib.core.leads import INDEPENDENT_ROWS
from p2es_lib.evaluation.metrics.measurements import average_beats, beat_times, measure_beats
from p2es_lib.method.affinity.descriptors import pulse_descriptors
from p2es_lib.signals.pulse_features import pulse_upstrokes

# The averaged beat as a classifier sees it: from here to there, every fifth sample (100 Hz).
_SEEN_BEAT_S, _SEEN_STEP = (-0.16, 0.50), 5
_PULSE_COLUMNS = ["log_period", "regularity", *(f"shape_{number}" for number in (1, 2, 3, 4))]
_PULSE_COLUMNS += ["skewness", "slope_skewness", "sharpness"]


def beat_samples(beats: np.ndarray, rows) -> np.ndarray:
    """Averaged beats (N, 12, n) of some leads as features (N, leads x 66): 66 samples at 100 Hz, 0 where nothing is."""
    t = beat_times()
    seen = np.flatnonzero((t >= _SEEN_BEAT_S[0]) & (t < _SEEN_BEAT_S[1]))[::_SEEN_STEP]
    return np.nan_to_num(beats[:, list(rows)][:, :, seen].reshape(len(beats), -1))


def rhythm_features(times: np.ndarray) -> pd.DataFrame:
    """How regular beats are, from their times (N, n) in seconds, NaN-padded: N rows, NaN with fewer than three beats.

    Columns: mean interval (s), and as shares of it the standard deviation, root mean square of successive differences,
    and range of the intervals.
    """
    intervals = np.diff(times, axis=1)
    known = np.isfinite(intervals)
    count = known.sum(axis=1)
    mean = np.where(known, intervals, 0.0).sum(axis=1) / np.where(count > 1, count, np.nan)
    deviation = np.where(known, intervals - mean[:, None], 0.0)
    successive = np.diff(intervals, axis=1)
    n_successive = np.isfinite(successive).sum(axis=1)
    rmssd = np.sqrt(np.nan_to_num(successive**2).sum(axis=1) / np.where(n_successive > 0, n_successive, np.nan))
    longest = np.where(known, intervals, -np.inf).max(axis=1, initial=-np.inf)
    shortest = np.where(known, intervals, np.inf).min(axis=1, initial=np.inf)
    columns = {"rr_s": mean, "rr_sd": np.sqrt((deviation**2).sum(axis=1) / np.maximum(count - 1, 1)) / mean}
    columns |= {"rr_rmssd": rmssd / mean, "rr_range": np.where(count > 1, longest - shortest, np.nan) / mean}
    return pd.DataFrame(columns)


def ecg_features(ecg: np.ndarray, sampling_rate: float, available=None) -> tuple[pd.DataFrame, np.ndarray]:
    """Measurements of ECG windows (N, 12, T) in mV, and their averaged beats in the eight independent leads.

    The former are those of ``measurements.measure_beats``, axes as cosine and sine because 180 and -180 degrees are the
    same, and :func:`rhythm_features`; the latter :func:`beat_samples`. ``available`` (N, 12): leads to use; by default
    those that are finite throughout.
    """
    beats, r_peaks = average_beats(ecg, sampling_rate, available)
    table = measure_beats(beats, r_peaks).drop(columns="qrs_onset_s").astype(float)
    axes = [name for name in table if name.endswith("_axis_deg")]
    turned = {f"{name}_{f.__name__}": f(np.deg2rad(table[name])) for name in axes for f in (np.cos, np.sin)}
    table = pd.concat([table.drop(columns=axes), pd.DataFrame(turned), rhythm_features(r_peaks)], axis=1)
    return table, beat_samples(beats, INDEPENDENT_ROWS)


def ppg_features(ppg: np.ndarray, sampling_rate: float) -> pd.DataFrame:
    """Rate, regularity and shape of the pulse, N rows from PPG (N, 1, T): descriptors and :func:`rhythm_features`."""
    ppg = np.asarray(ppg)
    table = pd.DataFrame(pulse_descriptors(ppg), columns=_PULSE_COLUMNS)
    upstrokes = pulse_upstrokes(torch.as_tensor(ppg, dtype=torch.float32), sampling_rate).numpy().astype(float)
    return pd.concat([table, rhythm_features(upstrokes)], axis=1)


def classifiers(n_features: int, n_components: int, seed=0, *, balanced=True, n_trees=200) -> dict:
    """Classifiers of scikit-learn by name. Missing values are filled with means.

    More than 150 features (samples of beats) are first reduced to principal components, ``n_components`` and at most
    40: as many as people can be told by. Balanced: classes count the same, however rare, and what is missing is told.
    """
    from sklearn import decomposition, ensemble, impute, linear_model, pipeline, preprocessing

    first = [impute.SimpleImputer(add_indicator=balanced, keep_empty_features=balanced), preprocessing.StandardScaler()]
    if n_features > 150:
        components = decomposition.PCA(min(40, n_components), random_state=seed)
        first += [components, preprocessing.StandardScaler()]
    weights = ("balanced_subsample", "balanced") if balanced else (None, None)
    kinds = {
        "random forest": ensemble.RandomForestClassifier(
            n_trees, min_samples_leaf=2, class_weight=weights[0], random_state=seed, n_jobs=1
        ),
        "logistic regression": linear_model.LogisticRegression(C=0.1, class_weight=weights[1], max_iter=3000),
    }
    return {name: pipeline.make_pipeline(*first, classifier) for name, classifier in kinds.items()}
