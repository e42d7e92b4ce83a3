"""Waveform metrics: how far a predicted ECG lies from the true one, sample by sample, along a warped axis, in spectrum.

Every function takes a prediction x and a truth y of the same shape (..., T), in mV, and reduces the last axis, so (N,
12, T) gives (N, 12). Nothing is filtered first; NaN in gives NaN out.

References
----------
Zigel Y, Cohen A, Katz A. The weighted diagnostic distortion (WDD) measure for ECG signal compression. IEEE Trans Biomed
Eng 2000;47(11):1422-1430.
Wang Z, Bovik AC, Sheikh HR, Simoncelli EP. Image quality assessment: from error visibility to structural
similarity. IEEE Trans Image Process 2004;13(4):600-612.
Gray AH, Markel JD. Distance measures for speech processing. IEEE Trans Acoust Speech Signal Process 1976;24(5):380-391.
Welch P. IEEE Trans Audio Electroacoust 1967;15(2):70-73.
Sakoe H, Chiba S. Dynamic programming algorithm optimization for spoken word recognition. IEEE Trans Acoust Speech
Signal Process 1978;26(1):43-49.
Eiter T, Mannila H. Computing discrete Fréchet distance. Technical report CD-TR 94/64, TU Wien, 1994.
P2E-WGAN: Vo K et al. SAC 2021.
Carter GC, Knapp CH, Nuttall AH. Estimation of the magnitude-squared coherence function via overlapped fast Fourier
transform processing. IEEE Trans Audio Electroacoust 1973;21(4):337-344.
"""

from collections.abc import Callable

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.signal import csd, welch

from p2es_lib.core.errors import InputError

#: Standard deviation of the Gaussian window of :func:`ssim`: a QRS complex (100 ms) lies within 1.25 of them.
SSIM_SIGMA_S = 0.040
#: Band in Hz and segment length in seconds of :func:`log_spectral_distance`.
SPECTRAL_BAND_HZ, SPECTRAL_SEGMENT_S = (0.5, 40.0), 2.048
#: Added to power spectra (mV^2/Hz): 1 uV per root Hz, below what an ECG recorder resolves.
SPECTRAL_FLOOR = 1e-6
#: Half width of the Sakoe-Chiba band of :func:`dtw`: a QRS complex may be moved by its own width, not to another beat.
DTW_BAND_S = 0.100
#: Bands of :func:`coherence_bands`, Hz: heart rate to T and P waves; QRS complex; its notches and steep slopes.
COHERENCE_BANDS_HZ = {"coherence_low": (0.5, 4.0), "coherence_middle": (4.0, 15.0), "coherence_high": (15.0, 40.0)}
#: Segment of :func:`coherence_bands`: 15 of them in 8.2 s, since few segments make any two signals look coherent.
COHERENCE_SEGMENT_S = 1.024
# Cells of one anti-diagonal, over all rows, that are worked on at once: they and their neighbours stay in the cache.
_CELLS = 1 << 16


def _pair(prediction, truth) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(prediction, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    if x.shape != y.shape or x.ndim == 0:
        raise InputError(f"metrics: prediction has shape {x.shape}, truth {y.shape}; they must be the same, (..., T)")
    return x, y


def mse(prediction, truth) -> np.ndarray:
    """Mean squared error, mean_t (x - y)^2, in mV^2."""
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
    """Percent root-mean-square difference, 100 sqrt(sum_t (x - y)^2 / sum_t (y - m)^2), of Zigel 2000.

    m is the mean of the truth over time: otherwise a baseline offset in the truth makes the figure look good. It is 0
    without ``remove_mean``, the original PRD. NaN for a truth without variation.
    """
    x, y = _pair(prediction, truth)
    reference = y - y.mean(axis=-1, keepdims=True) if remove_mean else y
    power = np.mean(reference**2, axis=-1)
    return 100.0 * np.sqrt(mse(x, y) / np.where(power < 1e-12, np.nan, power))


def ssim(prediction, truth, *, sampling_rate: float, data_range_mv: float = 2.0) -> np.ndarray:
    """Structural similarity (Wang 2004) in one dimension, mean over time, at most 1.

    At each sample, with means m, variances s^2 and covariance s_xy under a Gaussian window of standard deviation
    :data:`SSIM_SIGMA_S`, and L the data range:

    SSIM = (2 m_x m_y + C1) (2 s_xy + C2) / ((m_x^2 + m_y^2 + C1) (s_x^2 + s_y^2 + C2))

    with C1 = (0.01 L)^2 and C2 = (0.03 L)^2, averaged over the samples whose whole window lies inside the signal. A
    summary of the paper of P2Es reports an SSIM without the window and data range used, and with a larger L any two
    signals look more alike: only values with the same settings can be compared. Ours are 40 ms and 2 mV.
    An :class:`InputError` if the signal is no longer than that window.
    """
    x, y = _pair(prediction, truth)
    sigma = SSIM_SIGMA_S * sampling_rate  # samples
    radius = int(3.5 * sigma + 0.5)  # the usual 3.5 standard deviations, as in scikit-image
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
    return error / np.where(true_range < 1e-6, np.nan, true_range) if relative else error


def log_spectral_distance(prediction, truth, *, sampling_rate: float) -> np.ndarray:
    """Log-spectral distance in dB: sqrt(mean_f (10 log10 (P_x(f) / P_y(f)))^2) over 0.5-40 Hz (Gray 1976).

    Blind to timing. P is Welch's power spectral density (Hann segments of 2 s, half overlapping, mean removed) plus
    :data:`SPECTRAL_FLOOR`, so that frequencies at which neither signal holds anything measurable do not count.
    An :class:`InputError` if the window is so short that no frequency lies in the band.
    """
    x, y = _pair(prediction, truth)
    segment = min(int(round(SPECTRAL_SEGMENT_S * sampling_rate)), x.shape[-1])
    (frequency, p_x), (_, p_y) = (welch(z, fs=sampling_rate, nperseg=segment, axis=-1) for z in (x, y))
    inside = (frequency >= SPECTRAL_BAND_HZ[0]) & (frequency <= SPECTRAL_BAND_HZ[1])
    if not inside.any():
        raise InputError(f"log_spectral_distance: no frequency within {SPECTRAL_BAND_HZ} Hz; use longer windows")
    ratio_db = 10.0 * np.log10((p_x[..., inside] + SPECTRAL_FLOOR) / (p_y[..., inside] + SPECTRAL_FLOOR))
    return np.sqrt(np.mean(ratio_db**2, axis=-1))


def dtw(prediction, truth, *, sampling_rate: float, band_s: float = DTW_BAND_S) -> np.ndarray:
    """Dynamic time warping distance within a band, in mV: at most the MAE, and equal to it where warping mends nothing.

    The least sum of w |x_i - y_j| over paths from (0, 0) to (T - 1, T - 1) with |i - j| <= ``band_s`` (0: no warping),
    w = 2 for a diagonal step and 1 for the others, over the sum of the weights, 2 T for every path (the symmetric
    form). A constant offset of c mV costs c; a shift within the band only costs at the ends. InputError: band_s < 0.
    """
    reach = int(np.floor(band_s * sampling_rate + 1e-9))
    if reach < 0:
        raise InputError(f"dtw: band_s={band_s} must not be negative")

    def step(same: np.ndarray, neighbour: np.ndarray, cost: np.ndarray) -> None:
        same += cost
        np.minimum(same, neighbour, out=same)
        same += cost

    x, y = _pair(prediction, truth)
    # Float64: thousands of costs are added up along a path.
    return _along_diagonals(x, y, reach, step, np.float64) / (2 * x.shape[-1])


def frechet_curve_distance(prediction, truth) -> np.ndarray:
    """Discrete Frechet distance of the curves, in mV: the largest gap on the best way to follow both from end to end.

    The least, over all paths that go forward in both signals, of the largest |x_i - y_j|. Values only, as in the public
    code of P2E-WGAN: time orders the samples but costs nothing, because a distance in (s, mV) would depend on how many
    mV a second is worth. So it is at most the largest absolute error, blind to timing, and set by the one deflection
    that has no counterpart. Not the Gaussian Frechet distance (``distribution.frechet_table``). P2E-WGAN's 0.375 is for
    3 s of scaled ECG, not millivolts.
    """

    def step(same: np.ndarray, neighbour: np.ndarray, cost: np.ndarray) -> None:
        np.minimum(same, neighbour, out=same)
        np.maximum(same, cost, out=same)

    x, y = _pair(prediction, truth)
    # Only differences, minima and maxima: float32 loses nothing that a millivolt needs, and is twice as fast.
    return _along_diagonals(x, y, x.shape[-1] - 1, step, np.float32)


def _along_diagonals(x: np.ndarray, y: np.ndarray, reach: int, step: Callable, kind: type) -> np.ndarray:
    """Last cell (T - 1, T - 1) of a dynamic programme over i, j with |i - j| <= reach, for all rows at once: (...).

    Cells of one anti-diagonal i + j do not depend on each other. For each i - j the latest cell is kept: where (i, j)
    goes, (i - 1, j - 1) stands, and beside it stand (i - 1, j) and (i, j - 1), whose i - j has the other parity. So
    even and odd offsets have an array each, and every operation runs over contiguous memory. ``step(same, neighbour,
    cost)`` turns ``same``, the cell (i - 1, j - 1), into (i, j); ``neighbour`` is the smaller of the two beside it.
    """
    shape, window_samples = x.shape[:-1], x.shape[-1]
    x, y = (z.reshape(-1, window_samples).astype(kind) for z in (x, y))
    reach = min(reach, window_samples - 1)
    last = np.empty(len(x), dtype=kind)
    rows_at_once = max(1, _CELLS // (reach + 1))
    for start in range(0, len(x), rows_at_once):
        rows = slice(start, start + rows_at_once)
        forward, backward = np.ascontiguousarray(x[rows].T), np.ascontiguousarray(y[rows, ::-1].T)  # (T, rows)
        # Offset d = i - j stands in half (d + reach) % 2 at (d + reach) // 2 + 1; what is not reached stays infinite.
        halves = np.full((2, reach + 3, forward.shape[1]), np.inf, dtype=kind)
        halves[reach % 2, reach // 2 + 1] = 0.0  # before (0, 0)
        cost, neighbour = np.empty((2, reach + 1, forward.shape[1]), dtype=kind)
        for diagonal in range(2 * window_samples - 1):
            # Largest |i - j| in the band and the matrix, with the parity of i + j.
            widest = min(reach, diagonal, 2 * (window_samples - 1) - diagonal)
            widest -= (widest - diagonal) % 2
            i, j, count = (diagonal - widest) // 2, (diagonal + widest) // 2, widest + 1
            half, place = (reach - widest) % 2, (reach - widest) // 2 + 1
            same, others, beside = halves[half, place : place + count], halves[1 - half], place - 1 + half
            np.subtract(forward[i : i + count], backward[window_samples - 1 - j :][:count], out=cost[:count])
            np.abs(cost[:count], out=cost[:count])
            np.minimum(others[beside:][:count], others[beside + 1 :][:count], out=neighbour[:count])
            step(same, neighbour[:count], cost[:count])
        last[rows] = halves[reach % 2, reach // 2 + 1]
    return last.astype(np.float64).reshape(shape)


def coherence_bands(prediction, truth, *, sampling_rate: float, bands_hz=COHERENCE_BANDS_HZ) -> dict[str, np.ndarray]:
    """Magnitude-squared coherence |P_xy|^2 / (P_x P_y), 0 to 1, mean over the frequencies of each band, by its name.

    The share of the power of the truth at a frequency that a fixed filter could make of the prediction: blind to gain,
    and to a delay that is the same for all beats and short against the segment, but not to beats that come now early,
    now late. Spectra are Welch's (Hann segments of 1 s, half overlapping, mean removed from each), with 1e-6 mV^2/Hz
    added to P_x and P_y, so that frequencies at which nothing measurable is left count as not coherent. With few
    segments chance gives more than 0: about 0.07 for two independent noises of 8.2 s. NaN where the truth is flat; 0
    where only the prediction is. ``bands_hz``: name to (low, high), inclusive; InputError: no frequency within.
    """
    x, y = _pair(prediction, truth)
    segment = min(int(round(COHERENCE_SEGMENT_S * sampling_rate)), x.shape[-1])
    options = {"fs": sampling_rate, "nperseg": segment, "axis": -1}
    (frequency, p_x), (_, p_y), (_, p_xy) = welch(x, **options), welch(y, **options), csd(x, y, **options)
    coherence = np.abs(p_xy) ** 2 / ((p_x + SPECTRAL_FLOOR) * (p_y + SPECTRAL_FLOOR))
    flat = np.ptp(y, axis=-1) < 1e-6
    values = {}
    for name, (low, high) in bands_hz.items():
        inside = (frequency >= low) & (frequency <= high)
        if not inside.any():
            raise InputError(f"coherence_bands: no frequency within {low:g}-{high:g} Hz; use longer segments")
        values[name] = np.where(flat, np.nan, coherence[..., inside].mean(axis=-1))
    return values
