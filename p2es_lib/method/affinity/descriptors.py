"""The space in which two training windows count as alike: demographics, PPG pulse, and relation among the leads.

Used while the encoder is trained, on training windows only; nothing here is needed, or available, at test time.
"""

import numpy as np
from scipy.signal import find_peaks

from p2es_lib.core.demographics import Demographics
from p2es_lib.core.leads import ABSENT, INDEPENDENT_ROWS

#: Principal components kept of the lead relations: 44 numbers with much in common, of which a few carry most.
LEAD_COMPONENTS = 6
#: Windows described at a time: bounds the memory on large cohorts.
BLOCK = 1024


def _standardise(features: np.ndarray) -> np.ndarray:
    """Columns to mean 0 and standard deviation 1 over their finite entries; missing entries and constants become 0."""
    finite = np.isfinite(features)
    count = np.maximum(finite.sum(0), 1)
    centred = np.where(finite, features - np.where(finite, features, 0).sum(0) / count, 0.0)
    scale = np.sqrt((centred**2).sum(0) / count)
    return centred / np.where(scale > 1e-9, scale, np.inf)


def demographic_features(demographics: Demographics) -> np.ndarray:
    """Age (years) and sex (female 1, male -1), (N, 2); NaN where missing."""
    sex = np.select([demographics.sex == "F", demographics.sex == "M"], [1.0, -1.0], np.nan)
    return np.stack([demographics.age.astype(float), sex], axis=1)


def pulse_descriptors(ppg: np.ndarray) -> np.ndarray:
    """Rate, regularity and shape of the pulse, without beat detection and without units of time: (N, 1, T) to (N, 9).

    Columns: log of the pulse period (samples); height of the autocorrelation there (1: regular); autocorrelation at
    1/8, 1/4, 3/8 and 1/2 of the period (shape); skewness of the signal and of its slope (fast rise, slow fall); log
    of slope times period over amplitude (sharpness).
    """
    signal = ppg[:, 0].astype(float)
    signal = signal - signal.mean(-1, keepdims=True)
    window_samples = signal.shape[-1]
    power = np.abs(np.fft.rfft(signal, 2 * window_samples)) ** 2
    autocorrelation = np.fft.irfft(power)[:, :window_samples] / np.arange(
        window_samples, 0, -1
    )  # unbiased: full height at lag P
    autocorrelation = autocorrelation / np.maximum(autocorrelation[:, :1], 1e-12)
    period = np.array([_first_period(row[: window_samples // 2]) for row in autocorrelation])  # (N,) samples
    lags = np.arange(window_samples)
    at = [_interpolate(fraction * period, lags, autocorrelation) for fraction in (1, 1 / 8, 1 / 4, 3 / 8, 1 / 2)]
    slope = np.diff(signal, axis=-1)
    sharpness = np.sqrt((slope**2).mean(-1) / np.maximum((signal**2).mean(-1), 1e-12)) * period
    columns = [np.log(period), *at, _skewness(signal), _skewness(slope), np.log(np.maximum(sharpness, 1e-12))]
    return np.stack(columns, axis=1)


def _first_period(autocorrelation: np.ndarray) -> float:
    """Lag of the first peak with 80 % of the highest one, the period and no multiple; the length if nothing repeats."""
    negative = np.flatnonzero(autocorrelation < 0)
    start = negative[0] if len(negative) else 1
    peaks, _ = find_peaks(autocorrelation[start:])
    heights = autocorrelation[start + peaks]
    if not (heights > 0).any():
        return float(len(autocorrelation))
    return float(start + peaks[np.flatnonzero(heights >= 0.8 * heights.max())[0]])


def _interpolate(at: np.ndarray, lags: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Value of each row at its own (fractional) lag."""
    return np.array([np.interp(lag, lags, row) for lag, row in zip(at, rows)])


def _skewness(signal: np.ndarray) -> np.ndarray:
    centred = signal - signal.mean(-1, keepdims=True)
    return (centred**3).mean(-1) / np.maximum((centred**2).mean(-1), 1e-12) ** 1.5


def lead_relations(ecg: np.ndarray, lead_mask: np.ndarray) -> np.ndarray:
    """Amplitude and mutual correlation of the 8 independent leads: (N, 12, T) mV to (N, 8 + 28); NaN for absent leads.

    Columns: log of the root-mean-square of each independent lead, then the correlation coefficient of each pair. The
    signs and sizes of the correlations hold the heart's electrical axis and much of the conduction pattern, and do not
    depend on where in the window the beats lie.
    """
    rows = list(INDEPENDENT_ROWS)
    leads = np.asarray(ecg[:, rows], dtype=float)
    leads = leads - leads.mean(-1, keepdims=True)
    present = np.asarray(lead_mask)[:, rows] != ABSENT  # (N, 8)
    rms = np.sqrt((leads**2).mean(-1))
    present &= rms > 1e-6
    rms = np.where(present, rms, np.nan)
    covariance = np.einsum("nit,njt->nij", leads, leads) / leads.shape[-1]
    first, second = np.triu_indices(8, 1)
    correlation = covariance[:, first, second] / (rms[:, first] * rms[:, second])
    return np.concatenate([np.log(rms), correlation], axis=1)


def reference_space(ppg: np.ndarray, ecg: np.ndarray, lead_mask: np.ndarray, demographics: Demographics) -> np.ndarray:
    """Coordinates in which Euclidean distance says how unlike two training windows are.

    Three blocks, each standardised and then scaled to the same mean squared distance, so that neither the demographics
    nor the pulse nor the lead relations decide alone. Missing entries (age, sex, absent leads) lie at the mean: they
    bring a window neither nearer to nor farther from the others on average.

    Parameters
    ----------
    ppg : (N, 1, T); ecg : (N, 12, T) mV; lead_mask : (N, 12)
    demographics : Demographics
        N rows.

    Returns
    -------
    array of float, shape (N, 2 + 9 + LEAD_COMPONENTS)
    """
    starts = range(0, len(ppg), BLOCK)
    leads = _standardise(np.concatenate([lead_relations(ecg[i : i + BLOCK], lead_mask[i : i + BLOCK]) for i in starts]))
    pulse = _standardise(np.concatenate([pulse_descriptors(ppg[i : i + BLOCK]) for i in starts]))
    left, size, _ = np.linalg.svd(leads, full_matrices=False)
    components = left[:, :LEAD_COMPONENTS] * size[:LEAD_COMPONENTS]  # keeps the components' own variances
    blocks = [_standardise(demographic_features(demographics)), pulse, components]
    return np.concatenate([block / max(np.sqrt((block**2).sum(1).mean()), 1e-9) for block in blocks], axis=1)


def nearest_neighbours(points: np.ndarray, k: int) -> np.ndarray:
    """Row numbers of the k nearest other points, nearest first: (N, D) to int (N, min(k, N - 1))."""
    from sklearn.neighbors import NearestNeighbors

    k = min(k, len(points) - 1)
    found = NearestNeighbors(n_neighbors=k + 1).fit(points).kneighbors(points, return_distance=False)  # (N, k + 1)
    others = found != np.arange(len(points))[:, None]
    others[others.all(1), -1] = False  # among exact duplicates a point may not find itself: drop the farthest instead
    return found[others].reshape(len(points), k)
