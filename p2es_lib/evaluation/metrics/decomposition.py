"""Nested split of a squared error into timing, amplitude and morphology.

Three squared errors of the same estimate x of y, each allowed one more correction than the one before:

1. raw: mean_t (x(t) - y(t))^2;
2. after one constant lag per record (``lag.constant_lags``), over the overlapping samples;
3. after that lag and a gain g >= 0 per window and lead, the least-squares one: g = max(0, <x, y> / <x, x>).

timing = 1 - 2, amplitude = 2 - 3, morphology = 3: what no shift of the record and no scaling mends. They add up to the
raw error exactly. The order matters, as in any nested split. Amplitude and morphology cannot be negative; timing can,
slightly, because the lag maximises a correlation and 2 is taken over fewer samples. A negative gain is not allowed: a
lead drawn upside down is wrong in shape, not in size. Beat-to-beat timing errors, which a constant lag cannot mend,
count as morphology.

Applied to the conditional mean, the split says what the irreducible error is made of, so that the distance of a method
to it is split in the same way (``scores.summarise_difference``).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from p2es_lib.evaluation.metrics.lag import overlaps
from p2es_lib.evaluation.metrics.waveform import mse


class ErrorSplit(NamedTuple):
    """Parts of the mean squared error, each of shape (...), in mV^2."""

    raw: np.ndarray
    lag: np.ndarray  # after the constant lag: amplitude + morphology
    timing: np.ndarray
    amplitude: np.ndarray
    morphology: np.ndarray


def error_split(prediction: np.ndarray, truth: np.ndarray, lags: np.ndarray) -> ErrorSplit:
    """Split the mean squared error of each row, arrays (M, ...), so that raw = timing + amplitude + morphology.

    ``prediction`` and ``truth`` are (M, ..., T) in mV; ``lags`` (M,) are the samples by which the prediction comes
    late, the same for all rows of a record.
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
