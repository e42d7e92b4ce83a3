"""One constant lag per record between predicted and true ECG.

The delay from R peak to PPG foot holds a part that no method can know: the unknown, constant delay of the monitor or
watch. So results are given raw, and after one lag per record. Never one per window: that would also forgive the method
its own timing errors. The lag is found with the true ECG in hand and says nothing about what a user would get; it only
separates timing from shape.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft

from p2es_lib.core.errors import InputError


def constant_lags(
    prediction: np.ndarray, truth: np.ndarray, available: np.ndarray, records: np.ndarray, *, max_lag: int, chunk=256
) -> np.ndarray:
    """Lag of the prediction behind the truth, in samples, the same for all windows of a record: int (N,).

    For each record it maximises the cross-correlation c(l) = sum over windows, available leads and t of x(t + l) y(t),
    where x and y are prediction and truth with the mean of each window and lead removed, over abs(l) <= ``max_lag``.
    Products that leave the window count as 0, which favours small lags slightly. Of equal maxima the smallest abs(l) is
    taken (0 for a flat prediction). Positive: the prediction comes late, x(t + lag) is to be compared with y(t).

    Parameters
    ----------
    prediction, truth : array (N, L, T), mV
    available : bool array (N, L)
        Leads to use; the others may hold anything, also NaN.
    records : array (N,)
        Name of the record that each window was cut from.
    max_lag, chunk : int
        Samples; windows worked on at a time.
    """
    n_windows, _, window_samples = truth.shape
    if not 0 <= max_lag < window_samples:
        raise InputError(
            f"max_lag={max_lag} samples: must be at least 0 and shorter than the window of {window_samples}"
        )
    record_names, record_of = np.unique(np.asarray(records).astype(str), return_inverse=True)
    size = next_fast_len(window_samples + max_lag, real=True)
    correlation = np.zeros((len(record_names), 2 * max_lag + 1))
    for start in range(0, n_windows, chunk):
        rows = slice(start, start + chunk)
        use = np.asarray(available[rows], dtype=bool)[..., None]
        x = np.where(use, prediction[rows], 0.0).astype(np.float64)
        y = np.where(use, truth[rows], 0.0).astype(np.float64)
        x -= x.mean(axis=-1, keepdims=True)
        y -= y.mean(axis=-1, keepdims=True)
        spectrum = np.sum(rfft(x, size) * np.conj(rfft(y, size)), axis=1)  # (n, F), summed over leads
        circular = irfft(spectrum, size)  # (n, size); index l mod size
        np.add.at(correlation, record_of[rows], circular[:, np.arange(-max_lag, max_lag + 1) % size])
    order = np.argsort(np.abs(np.arange(-max_lag, max_lag + 1)), kind="stable")  # 0 first, so that ties go to it
    # Rounding of the transform must not decide between equal lags.
    scale = np.abs(correlation).max(axis=1, keepdims=True)
    best = np.argmax(np.round(correlation[:, order] / np.where(scale > 0, scale, 1.0), 12), axis=1)
    return (order[best] - max_lag)[record_of]


def overlaps(prediction: np.ndarray, truth: np.ndarray, lags: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """Group rows by lag (M,) and yield what is left of both signals (M, ..., T) after shifting: ``(rows, x, y)``.

    ``rows`` share one lag l; x and y, (len(rows), ..., T - |l|), are prediction and truth where they overlap.
    """
    window_samples = truth.shape[-1]
    for lag in np.unique(lags):
        rows = np.flatnonzero(lags == lag)
        late, early = max(int(lag), 0), max(-int(lag), 0)
        length = window_samples - late - early
        yield rows, prediction[rows][..., late : late + length], truth[rows][..., early : early + length]
