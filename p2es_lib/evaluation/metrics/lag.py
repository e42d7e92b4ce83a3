"""One constant lag per record between predicted and true ECG, and the split of the error that follows from it.

The delay from R peak to PPG foot holds a part that no method can know: the constant delay of the monitor or watch. So
results are given raw, and after one lag per record; never one per window, which would also forgive the method its own
timing errors. The lag is found with the true ECG in hand: it only separates timing from shape.
"""

from collections import namedtuple
from collections.abc import Iterator

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft

from p2es_lib.core.errors import InputError
from p2es_lib.evaluation.metrics.waveform import mse

#: Parts of the mean squared error, each (...), in mV^2; ``lag`` is amplitude + morphology.
ErrorSplit = namedtuple("ErrorSplit", ("raw", "lag", "timing", "amplitude", "morphology"))


def constant_lags(prediction, truth, available, records, *, max_lag: int, chunk: int = 256) -> np.ndarray:
    """Lag of the prediction behind the truth, in samples, the same for all windows of a record: int (N,).

    For each record it maximises the cross-correlation c(l) = sum over windows, available leads and t of x(t + l) y(t),
    where x and y are prediction and truth (N, L, T) with the mean of each window and lead removed, over abs(l) <=
    ``max_lag`` (an InputError below 0, or not below T). Products that leave the window count as 0, which favours small
    lags slightly. Of equal maxima the smallest abs(l) is taken (0 for a flat prediction). Positive: the prediction is
    late, x(t + lag) is to be compared with y(t). ``available`` (N, L) leads are used; ``records`` (N,): of each window.
    """
    n_windows, _, window_samples = truth.shape
    if not 0 <= max_lag < window_samples:
        raise InputError(f"max_lag={max_lag} samples: at least 0 and shorter than the window of {window_samples}")
    record_names, record_of = np.unique(np.asarray(records).astype(str), return_inverse=True)
    size = next_fast_len(window_samples + max_lag, real=True)
    lags = np.arange(-max_lag, max_lag + 1)
    correlation = np.zeros((len(record_names), len(lags)))
    for start in range(0, n_windows, chunk):
        rows = slice(start, start + chunk)
        use = np.asarray(available[rows], dtype=bool)[..., None]
        x, y = (np.where(use, signal[rows], 0.0).astype(np.float64) for signal in (prediction, truth))
        x, y = (rfft(signal - signal.mean(axis=-1, keepdims=True), size) for signal in (x, y))
        circular = irfft(np.sum(x * np.conj(y), axis=1), size)  # (n, size), summed over leads; index l mod size
        np.add.at(correlation, record_of[rows], circular[:, lags % size])
    order = np.argsort(np.abs(lags), kind="stable")  # 0 first, so that ties go to it
    # Rounding of the transform must not decide between equal lags.
    scale = np.abs(correlation).max(axis=1, keepdims=True)
    best = np.argmax(np.round(correlation[:, order] / np.where(scale > 0, scale, 1.0), 12), axis=1)
    return (order[best] - max_lag)[record_of]


def overlaps(prediction: np.ndarray, truth: np.ndarray, lags: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """Group rows by lag (M,) and yield what is left of both signals (M, ..., T) after shifting: ``(rows, x, y)``.

    ``rows`` share one lag l; x and y, (len(rows), ..., T - |l|), are prediction and truth where they overlap.
    """
    for lag in np.unique(lags):
        rows = np.flatnonzero(lags == lag)
        late, early = max(int(lag), 0), max(-int(lag), 0)
        length = truth.shape[-1] - late - early
        yield rows, prediction[rows][..., late : late + length], truth[rows][..., early : early + length]


def error_split(prediction: np.ndarray, truth: np.ndarray, lags: np.ndarray) -> ErrorSplit:
    """Split the mean squared error of arrays (M, ..., T) in mV, late by ``lags`` (M,) samples, into (M, ...) parts.

    Three errors of the same estimate x of y, each allowed one more correction than the one before:

    1. raw: mean_t (x(t) - y(t))^2;
    2. after one constant lag per record, over the overlapping samples;
    3. after that lag and the least-squares gain g = max(0, <x, y> / <x, x>) per window and lead.

    timing = 1 - 2, amplitude = 2 - 3, morphology = 3: what no shift of the record and no scaling mends. They add up to
    the raw error exactly; the order matters. Only timing can be negative, slightly, because the lag maximises a
    correlation and 2 is taken over fewer samples. A negative gain is not allowed: a lead drawn upside down is wrong in
    shape, not in size. Beat-to-beat timing errors count as morphology. The split of the conditional mean says what the
    irreducible error is made of, so that the distance of a method to it is split in the same way
    (``summary.summarise_difference``).
    """
    prediction, truth = np.asarray(prediction, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    raw = mse(prediction, truth)
    after_lag, after_gain = np.empty_like(raw), np.empty_like(raw)
    for rows, x, y in overlaps(prediction, truth, lags):
        after_lag[rows] = mse(x, y)
        power = np.sum(x * x, axis=-1, keepdims=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            gain = np.where(power > 0, np.maximum(np.sum(x * y, axis=-1, keepdims=True) / power, 0.0), 0.0)
        # A least-squares gain cannot increase the error: take rounding out.
        after_gain[rows] = np.minimum(mse(gain * x, y), after_lag[rows])
    return ErrorSplit(raw, after_lag, raw - after_lag, after_lag - after_gain, after_gain)
