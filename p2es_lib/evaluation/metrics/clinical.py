"""Clinical metrics of first order: are the beats where they should be, and is the ECG one that a heart can produce?

R peaks are found once per window on all available leads together, with the same detector in truth and prediction: one
time per beat, for which limb leads alone suffice.
"""

import numpy as np

from p2es_lib.core.leads import LIMB_LEADS, lead_residual

#: Two R peaks match when they are at most this far apart.
R_PEAK_TOLERANCE_S = 0.050


def count_matches(
    predicted, true, span_s: tuple[float, float] = (-np.inf, np.inf), tolerance_s: float = R_PEAK_TOLERANCE_S
) -> tuple[int, int, int]:
    """One-to-one matching of two lists of event times in seconds: ``(n_matched, n_extra, n_missed)``.

    Going through both lists in order and pairing the first two that are at most ``tolerance_s`` apart (inclusive) gives
    the largest possible number of matches. An unmatched event less than the tolerance inside the ends of ``span_s`` is
    not counted: its partner may lie beyond.
    """
    p, t = (np.sort(times[np.isfinite(times)]) for times in (np.asarray(predicted, float), np.asarray(true, float)))
    start, stop = span_s[0] + tolerance_s, span_s[1] - tolerance_s
    limit = tolerance_s + 1e-9  # times are multiples of 1 / sampling_rate: rounding must not decide
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
