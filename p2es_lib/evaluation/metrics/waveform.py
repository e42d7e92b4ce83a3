"""Waveform metrics: how far a predicted ECG lies from the true one, sample by sample, in amplitude and in spectrum.

Every function takes a prediction x and a truth y of the same shape (..., T), in mV, and reduces the last axis, so (N,
12, T) gives (N, 12). Nothing is filtered first; NaN in gives NaN out.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.signal import welch

from p2es_lib.core.errors import InputError

#: Standard deviation of the Gaussian window of :func:`ssim`: a QRS complex (100 ms) lies within 1.25 of them.
SSIM_SIGMA_S = 0.040
#: That window ends at this many standard deviations (the usual 3.5, as in scikit-image).
SSIM_TRUNCATE = 3.5
#: Band in Hz and segment length in seconds of :func:`log_spectral_distance`.
SPECTRAL_BAND_HZ, SPECTRAL_SEGMENT_S = (0.5, 40.0), 2.048
#: Added to both power spectra (mV^2/Hz): 1 uV per root Hz, below what an ECG recorder resolves.
SPECTRAL_FLOOR = 1e-6


def _pair(prediction, truth) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(prediction, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    if x.shape != y.shape or x.ndim == 0:
        raise InputError(f"metrics: prediction has shape {x.shape}, truth {y.shape}; they must be the same, (..., T)")
    return x, y


def mse(prediction, truth) -> np.ndarray:
    """Mean squared error, mean_t (x - y)^2, in mV^2. Beside :func:`rmse` because only squared errors can be pooled."""
    x, y = _pair(prediction, truth)
    return np.mean((x - y) ** 2, axis=-1)


def rmse(prediction, truth) -> np.ndarray:
    """Root-mean-square error, sqrt(mean_t (x - y)^2), in mV."""
    return np.sqrt(mse(prediction, truth))


def mae(prediction, truth) -> np.ndarray:
    """Mean absolute error, mean_t |x - y|, in mV."""
    x, y = _pair(prediction, truth)
    return np.mean(np.abs(x - y), axis=-1)


def pearson(prediction, truth) -> np.ndarray:
    """Pearson correlation coefficient over time, -1 to 1.

    NaN for a constant truth; 0 for a constant prediction of a truth that varies (libraries give NaN, which averages
    would skip, in favour of the method that predicts nothing).
    """
    x, y = _pair(prediction, truth)
    x, y = x - x.mean(axis=-1, keepdims=True), y - y.mean(axis=-1, keepdims=True)
    # A constant leaves rounding errors behind, not zeros: below 1e-6 mV nothing was recorded.
    x_norm, y_norm = np.sqrt(np.sum(x * x, axis=-1)), np.sqrt(np.sum(y * y, axis=-1))
    tiny = 1e-6 * np.sqrt(x.shape[-1])
    with np.errstate(divide="ignore", invalid="ignore"):
        r = np.sum(x * y, axis=-1) / (x_norm * y_norm)
    r = np.where(x_norm < tiny, 0.0, np.clip(r, -1.0, 1.0))
    return np.where(y_norm < tiny, np.nan, r)


def prd(prediction, truth, *, remove_mean: bool = True) -> np.ndarray:
    """Percent root-mean-square difference, 100 sqrt(sum_t (x - y)^2 / sum_t (y - m)^2).

    With ``remove_mean`` (default) m is the mean of the truth over time, the normalised PRD: otherwise a baseline offset
    in the truth makes the figure look good. Without it m = 0, the original PRD. NaN for a truth without variation.

    References
    ----------
    Zigel Y, Cohen A, Katz A. The weighted diagnostic distortion (WDD) measure for ECG signal compression. IEEE Trans
    Biomed Eng 2000;47(11):1422-1430.
    """
    x, y = _pair(prediction, truth)
    reference = y - y.mean(axis=-1, keepdims=True) if remove_mean else y
    power = np.mean(reference**2, axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(power < 1e-12, np.nan, 100.0 * np.sqrt(np.mean((x - y) ** 2, axis=-1) / power))


def ssim(prediction, truth, *, sampling_rate: float, data_range_mv: float = 2.0) -> np.ndarray:
    """Structural similarity in one dimension, mean over time, at most 1.

    At each sample, with means m, variances s^2 and covariance s_xy under a Gaussian window of standard deviation
    :data:`SSIM_SIGMA_S`, and L the data range:

    SSIM = (2 m_x m_y + C1) (2 s_xy + C2) / ((m_x^2 + m_y^2 + C1) (s_x^2 + s_y^2 + C2))

    with C1 = (0.01 L)^2 and C2 = (0.03 L)^2, averaged over the samples whose whole window lies inside the signal. A
    summary of the paper of P2Es reports an SSIM without the window and data range used, and with a larger L any two
    signals look more alike: only values with the same settings can be compared. Ours are 40 ms and, for every window
    and data set, 2 mV.

    References
    ----------
    Wang Z, Bovik AC, Sheikh HR, Simoncelli EP. Image quality assessment: from error visibility to structural
    similarity. IEEE Trans Image Process 2004;13(4):600-612.
    """
    x, y = _pair(prediction, truth)
    sigma = SSIM_SIGMA_S * sampling_rate  # samples
    radius = int(SSIM_TRUNCATE * sigma + 0.5)
    if x.shape[-1] <= 2 * radius:
        raise InputError(f"ssim: {x.shape[-1]} samples are too few for a window of {2 * radius + 1}")

    def local_mean(z):
        return gaussian_filter1d(z, sigma, axis=-1, radius=radius)[..., radius : z.shape[-1] - radius]

    m_x, m_y = local_mean(x), local_mean(y)
    var_x, var_y = local_mean(x * x) - m_x**2, local_mean(y * y) - m_y**2
    covariance = local_mean(x * y) - m_x * m_y
    c_1, c_2 = (0.01 * data_range_mv) ** 2, (0.03 * data_range_mv) ** 2
    similarity = (2 * m_x * m_y + c_1) * (2 * covariance + c_2)
    return np.mean(similarity / ((m_x**2 + m_y**2 + c_1) * (var_x + var_y + c_2)), axis=-1)


def ppe(prediction, truth, *, relative: bool = False) -> np.ndarray:
    """Peak-to-peak error |p(x) - p(y)| in mV, with p(z) = max_t z - min_t z over the window.

    ``relative`` divides by p(y) (NaN where the truth is flat). Summaries of the paper of P2Es report a "PPE"; its exact
    definition and unit are unknown, so neither form may be set beside the paper's number as the same thing.
    """
    x, y = _pair(prediction, truth)
    true_range = np.ptp(y, axis=-1)
    error = np.abs(np.ptp(x, axis=-1) - true_range)
    if not relative:
        return error
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(true_range < 1e-6, np.nan, error / true_range)


def log_spectral_distance(prediction, truth, *, sampling_rate: float) -> np.ndarray:
    """Log-spectral distance in dB: sqrt(mean_f (10 log10 (P_x(f) / P_y(f)))^2) over 0.5-40 Hz. Blind to timing.

    P is Welch's power spectral density (Hann segments of 2 s, half overlapping, mean removed from each) plus 1e-6
    mV^2/Hz, so that frequencies at which neither signal holds anything measurable do not count.

    References
    ----------
    Gray AH, Markel JD. Distance measures for speech processing. IEEE Trans Acoust Speech Signal Process
    1976;24(5):380-391. Welch P. IEEE Trans Audio Electroacoust 1967;15(2):70-73.
    """
    x, y = _pair(prediction, truth)
    segment = min(int(round(SPECTRAL_SEGMENT_S * sampling_rate)), x.shape[-1])
    frequency, p_x = welch(x, fs=sampling_rate, nperseg=segment, axis=-1)
    p_y = welch(y, fs=sampling_rate, nperseg=segment, axis=-1)[1]
    inside = (frequency >= SPECTRAL_BAND_HZ[0]) & (frequency <= SPECTRAL_BAND_HZ[1])
    if not inside.any():
        raise InputError(f"log_spectral_distance: no frequency within {SPECTRAL_BAND_HZ} Hz; use longer windows")
    ratio_db = 10.0 * np.log10((p_x[..., inside] + SPECTRAL_FLOOR) / (p_y[..., inside] + SPECTRAL_FLOOR))
    return np.sqrt(np.mean(ratio_db**2, axis=-1))
