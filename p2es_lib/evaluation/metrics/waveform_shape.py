"""Waveform metrics that look beyond one sample at a time: along a warped time axis, as a curve, frequency by frequency.

Inputs and outputs are as in :mod:`p2es_lib.evaluation.metrics.waveform`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.signal import csd, welch

from p2es_lib.core.errors import InputError
from p2es_lib.evaluation.metrics.waveform import SPECTRAL_FLOOR, _pair

#: Half width of the Sakoe-Chiba band of :func:`dtw`: a QRS complex may be moved by its own width, not to another beat.
DTW_BAND_S = 0.100
#: Bands of :func:`coherence_bands`, Hz: heart rate to T and P waves; QRS complex; its notches and steep slopes.
COHERENCE_BANDS_HZ = {"coherence_low": (0.5, 4.0), "coherence_middle": (4.0, 15.0), "coherence_high": (15.0, 40.0)}
#: Segment of :func:`coherence_bands`: 15 of them in 8.2 s, since few segments make any two signals look coherent.
COHERENCE_SEGMENT_S = 1.024
# Cells of one anti-diagonal, over all rows, that are worked on at once: they and their neighbours stay in the cache.
_CELLS = 1 << 16


def dtw(prediction, truth, *, sampling_rate: float, band_s: float = DTW_BAND_S) -> np.ndarray:
    """Dynamic time warping distance within a band, in mV: at most the MAE, and equal to it where warping mends nothing.

    The least sum of w |x_i - y_j| over paths from (0, 0) to (T - 1, T - 1) with |i - j| <= ``band_s`` (0: no warping),
    w = 2 for a diagonal step and 1 for the others, over the sum of the weights, 2 T for every path (the symmetric
    form). A constant offset of c mV costs c; a shift within the band costs nothing but at the ends of the window.

    References
    ----------
    Sakoe H, Chiba S. Dynamic programming algorithm optimization for spoken word recognition. IEEE Trans Acoust Speech
    Signal Process 1978;26(1):43-49.
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

    References
    ----------
    Eiter T, Mannila H. Computing discrete Fréchet distance. Technical report CD-TR 94/64, TU Wien, 1994.
    P2E-WGAN: Vo K et al. SAC 2021.
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
    where only the prediction is. ``bands_hz``: name to (low, high), both inclusive.

    References
    ----------
    Carter GC, Knapp CH, Nuttall AH. Estimation of the magnitude-squared coherence function via overlapped fast Fourier
    transform processing. IEEE Trans Audio Electroacoust 1973;21(4):337-344.
    """
    x, y = _pair(prediction, truth)
    segment = min(int(round(COHERENCE_SEGMENT_S * sampling_rate)), x.shape[-1])
    options = {"fs": sampling_rate, "nperseg": segment, "axis": -1}
    frequency, p_x = welch(x, **options)
    p_y, p_xy = welch(y, **options)[1], csd(x, y, **options)[1]
    coherence = np.abs(p_xy) ** 2 / ((p_x + SPECTRAL_FLOOR) * (p_y + SPECTRAL_FLOOR))
    flat = np.ptp(y, axis=-1) < 1e-6
    values = {}
    for name, (low, high) in bands_hz.items():
        inside = (frequency >= low) & (frequency <= high)
        if not inside.any():
            raise InputError(f"coherence_bands: no frequency within {low:g}-{high:g} Hz; use longer segments")
        values[name] = np.where(flat, np.nan, coherence[..., inside].mean(axis=-1))
    return values
