"""Clinical metrics of first order: are the beats where they should be, and is the ECG one that a heart can produce?

R peaks are found once per window on all available leads together, with the same detector in truth and prediction: one
time per beat, for which limb leads alone suffice.
"""

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.signal import butter, find_peaks, sosfiltfilt

from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import LIMB_LEADS, lead_residual

#: Two R peaks match when they are at most this far apart.
R_PEAK_TOLERANCE_S = 0.050
#: Band in which the QRS complex stands out most from P, T and noise (Elgendi et al. 2010).
QRS_BAND_HZ = (8.0, 20.0)
#: No two beats are closer than this (240 beats per minute).
REFRACTORY_S = 0.25
#: A beat reaches this fraction of the typical QRS of its window, and this many mV (RMS over leads, in the QRS band).
QRS_FRACTION, QRS_MINIMUM_MV = 0.35, 0.02


def r_peak_times(ecg: np.ndarray, sampling_rate: float, available: np.ndarray | None = None) -> np.ndarray:
    """Times of R peaks of windows (N, L, T) in mV, from all available leads: (N, n_beats_max) seconds, NaN-padded.

    Zero-phase Butterworth band-pass, root mean square over the available leads, Gaussian smoothing (20 ms): one hump
    per QRS complex whatever its polarity in each lead. A beat is a local maximum at least 0.25 s from a higher one that
    exceeds 0.02 mV and 0.35 times the median, over blocks of 2 s, of the highest value in the block (so that one
    artefact or ectopic beat does not set the scale). The time is that of the middle of the QRS complex, within some 20
    ms of the R peak in any one lead. ``available`` (N, L): leads to use; by default those that are finite throughout.
    An :class:`InputError` if ``ecg`` has another number of dimensions.

    References
    ----------
    Elgendi M, Jonkman M, De Boer F. Frequency bands effects on QRS detection. BIOSIGNALS 2010:428-431.
    """
    ecg = np.asarray(ecg)
    if ecg.ndim != 3:
        raise InputError(f"r_peak_times: ecg has shape {ecg.shape}, expected (windows, leads, samples)")
    available = np.isfinite(ecg).all(axis=-1) if available is None else np.asarray(available, dtype=bool)
    band = butter(2, QRS_BAND_HZ, btype="bandpass", fs=sampling_rate, output="sos")
    envelope = np.zeros((len(ecg), ecg.shape[-1]))
    for start in range(0, len(ecg), 256):
        rows = slice(start, start + 256)
        use = available[rows]
        # Filter the leads that exist only: most windows of bedside monitors have six of twelve.
        power = np.zeros((*use.shape, ecg.shape[-1]))
        power[use] = sosfiltfilt(band, ecg[rows][use].astype(np.float64), axis=-1) ** 2
        envelope[rows] = np.sqrt(power.sum(axis=1) / np.maximum(use.sum(axis=1), 1)[:, None])
    envelope = gaussian_filter1d(envelope, 0.020 * sampling_rate, axis=-1)
    n_blocks = max(1, int(ecg.shape[-1] / (2.0 * sampling_rate)))
    highest = [block.max(axis=-1) for block in np.array_split(envelope, n_blocks, axis=-1)]
    threshold = np.maximum(QRS_FRACTION * np.median(highest, axis=0), QRS_MINIMUM_MV)
    distance = max(1, int(round(REFRACTORY_S * sampling_rate)))
    peaks = [find_peaks(row, height=level, distance=distance)[0] for row, level in zip(envelope, threshold)]
    times = np.full((len(ecg), max((len(p) for p in peaks), default=0)), np.nan)
    for row, found in enumerate(peaks):
        times[row, : len(found)] = found / sampling_rate
    return times


def count_matches(predicted, true, span_s: tuple[float, float] = (-np.inf, np.inf)) -> tuple[int, int, int]:
    """One-to-one matching of two lists of event times in seconds: ``(n_matched, n_extra, n_missed)``.

    Going through both lists in order and pairing the first two that are at most :data:`R_PEAK_TOLERANCE_S` apart
    (inclusive) gives the largest possible number of matches. An unmatched event less than the tolerance inside the ends
    of ``span_s`` is not counted: its partner may lie beyond.
    """
    p, t = (np.sort(times[np.isfinite(times)]) for times in (np.asarray(predicted, float), np.asarray(true, float)))
    start, stop = span_s[0] + R_PEAK_TOLERANCE_S, span_s[1] - R_PEAK_TOLERANCE_S
    limit = R_PEAK_TOLERANCE_S + 1e-9  # times are multiples of 1 / sampling_rate: rounding must not decide
    i = j = matched = extra = missed = 0
    while i < len(p) or j < len(t):
        if i < len(p) and j < len(t) and abs(p[i] - t[j]) <= limit:
            matched, i, j = matched + 1, i + 1, j + 1
        elif j == len(t) or (i < len(p) and p[i] < t[j]):
            extra, i = extra + (start <= p[i] <= stop), i + 1
        else:
            missed, j = missed + (start <= t[j] <= stop), j + 1
    return matched, int(extra), int(missed)


def r_peak_f1(predicted, true, *, lag_s: np.ndarray | float = 0.0, window_s: float = np.inf) -> np.ndarray:
    """F1 score (N,) of the R peaks of each window: 2 TP / (2 TP + FP + FN), peaks matched one to one within 50 ms.

    ``predicted`` and ``true`` are :func:`r_peak_times`; a constant lag ``lag_s``, one or (N,), is taken off the former.
    0 when no true peak is found again; NaN when there is no peak to compare. In windows of ``window_s``, unmatched
    peaks less than the tolerance inside what both signals cover do not count. Tables average it over windows, then
    subjects, not over beats ("average" statistics in the words of ANSI/AAMI EC57).
    """
    lags = np.broadcast_to(np.asarray(lag_s, dtype=float), (len(true),))
    score = np.full(len(true), np.nan)
    for row, lag in enumerate(lags):
        span = (max(0.0, -lag), window_s - max(0.0, lag))  # on the time axis of the truth
        matched, extra, missed = count_matches(predicted[row] - lag, true[row], span)
        if matched + extra + missed:
            score[row] = 2 * matched / (2 * matched + extra + missed)
    return score


def heart_rate(times: np.ndarray) -> np.ndarray:
    """Mean heart rate of each window in beats per minute: 60 (n - 1) / (last - first R peak); NaN below two peaks."""
    times = np.asarray(times, dtype=float)
    count, rate = np.isfinite(times).sum(axis=-1), np.full(len(times), np.nan)
    if (rows := count >= 2).any():
        rate[rows] = 60.0 * (count[rows] - 1) / (np.nanmax(times[rows], axis=-1) - np.nanmin(times[rows], axis=-1))
    return rate


def heart_rate_error(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Absolute difference of the :func:`heart_rate` of R-peak times (N, n), NaN when either has fewer than two peaks.

    So never read it without the R-peak F1: with an F1 of 0.13 it can be 6 beats per minute.
    """
    return np.abs(heart_rate(predicted) - heart_rate(true))


def einthoven_residual(ecg: np.ndarray) -> np.ndarray:
    """``leads.lead_residual`` (N,) in mV of an ECG (N, 12, T), 0 for a physical one.

    The six limb leads alone decide it, so missing chest leads (NaN) do not matter; a missing limb lead gives NaN.
    """
    ecg = np.array(ecg, dtype=np.float64)
    ecg[:, len(LIMB_LEADS) :] = 0.0  # the chest leads are free of each other: they add nothing to the residual
    return lead_residual(ecg)
