"""Along the last axis: gaps bridged, resampling, zero-phase filters; by NumPy and SciPy alone.

All take arrays (..., n) and sampling rates in hertz, and give float32 for float32, else float64. NaN marks a gap: it is
bridged by linear interpolation before anything else, and NaN again in the result. An :class:`InputError` is raised for
a rate that is not positive and for a signal that is too short.
"""

import math
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache, partial

import numpy as np
from scipy import signal as scipy_signal
from scipy import special

from p2es_lib.core.errors import InputError

# Anti-aliasing filter of resample_signal: 80 dB stop band that begins at the Nyquist frequency of the lower rate.
_KAISER_BETA = scipy_signal.kaiser_beta(80.0)
_HALF_LENGTH = 32  # samples of the lower rate on each side
_CUTOFF = 0.92  # middle of the transition band, as a fraction of that Nyquist frequency; flat up to 0.84
# Largest error of the time axis that the rational approximation of the rates may add, in output samples.
_MAX_DRIFT = 0.05


def fill_gaps(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Replace NaN by linear interpolation; the ends are held at the nearest value, a row without any becomes 0.

    Returned are the filled array, float64, and where there was NaN, bool.
    """
    filled = np.array(x, dtype=np.float64)
    is_gap = np.isnan(filled)
    position = np.arange(filled.shape[-1])
    for row in np.argwhere(is_gap.any(axis=-1)):
        values, gap = filled[tuple(row)], is_gap[tuple(row)]  # views
        values[gap] = 0.0 if gap.all() else np.interp(position[gap], position[~gap], values[~gap])
    return filled, is_gap


def _check_rates(**rates: float) -> None:
    for name, rate in rates.items():
        if not (np.isfinite(rate) and rate > 0):
            raise InputError(f"{name}={rate!r}: a sampling rate is a positive number of hertz")


def _as_given(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    return y.astype(np.float32 if x.dtype == np.float32 else np.float64, copy=False)


def _rational_ratio(ratio: float, length: int) -> Fraction:
    """Fraction with the smallest power-of-two bound on its denominator whose error over ``length`` is harmless."""
    for exponent in range(21):  # a bound q leaves an error below 1/q^2: 2^17 is enough for 5e8 samples
        fraction = Fraction(ratio).limit_denominator(2**exponent)
        if fraction > 0 and abs(float(fraction) - ratio) * length <= _MAX_DRIFT:
            break
    return fraction


@lru_cache(maxsize=8)
def _anti_aliasing_filter(up: int, down: int) -> np.ndarray:
    widest = max(up, down)
    return scipy_signal.firwin(2 * _HALF_LENGTH * widest + 1, _CUTOFF / widest, window=("kaiser", _KAISER_BETA))


def resample_signal(x: np.ndarray, rate_in: float, rate_out: float) -> np.ndarray:
    """Resample with an anti-aliasing filter; sample j of the result lies at j / rate_out seconds.

    Polyphase filtering on a rational approximation of the two rates, chosen so that the time axis is wrong by at most
    0.05 output samples at the end of the signal, however odd the rates (monitors write 62.4725 or 249.89 Hz). The
    filter is flat up to 0.84 of the lower Nyquist frequency and 80 dB down from that frequency on. At both ends the
    signal is continued by odd reflection. The result has as many samples as lie within the n / rate_in seconds,
    ceil(n * rate_out / rate_in - 0.05), and is NaN wherever one of the two source samples around it was NaN.
    An :class:`InputError` if the signal is empty or a rate is not positive.

    Examples
    --------
    >>> resample_signal(np.ones(5000), 249.89, 125.0).shape
    (2502,)
    """
    x = np.asarray(x)
    _check_rates(rate_in=rate_in, rate_out=rate_out)
    n_in = x.shape[-1] if x.ndim else 0
    if n_in == 0:
        raise InputError("resample_signal: the signal is empty")
    ratio = _rational_ratio(rate_out / rate_in, n_in)
    if ratio == 1:
        return _as_given(x.copy(), x)
    up, down = ratio.numerator, ratio.denominator
    filled, is_gap = fill_gaps(x)
    if n_in == 1:  # scipy's odd reflection of a single sample divides by zero
        filled = np.repeat(filled, 2, axis=-1)
    taps = _anti_aliasing_filter(up, down)
    y = scipy_signal.resample_poly(filled, up, down, axis=-1, window=taps, padtype="antireflect")
    y = y[..., : math.ceil(n_in * rate_out / rate_in - _MAX_DRIFT)]  # (..., n_out)
    if is_gap.any():
        y[_next_to_gap(is_gap, np.arange(y.shape[-1]) * (down / up))] = np.nan
    return _as_given(y, x)


def _next_to_gap(is_gap: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Whether one of the two samples around a place is missing; (..., n), (m,) in samples to (..., m)."""
    before, after = (np.clip(side(position).astype(int), 0, is_gap.shape[-1] - 1) for side in (np.floor, np.ceil))
    return is_gap[..., before] | is_gap[..., after]


def resampling_reach(rate_in: float, rate_out: float) -> int:
    """Source samples on either side of a place that :func:`resample_at` needs; 0 for equal rates."""
    return 0 if rate_in == rate_out else math.ceil(_HALF_LENGTH * max(1.0, rate_in / rate_out))


def resample_at(x: np.ndarray, position: np.ndarray, rate_in: float, rate_out: float) -> np.ndarray:
    """Values of a signal (n,) between its samples, by the anti-aliasing filter of :func:`resample_signal`.

    A value depends on the samples within :func:`resampling_reach` of its place and on nothing else. So a recording that
    is resampled piece by piece gives what it gives as a whole, at any pair of rates, and its clock does not drift. The
    weights of each value add up to 1: a signal far above zero gets no ripple. Gaps and ends as in
    :func:`resample_signal`. ``position`` (m,) is in samples of ``x``, with fractions, ascending; the result is float64
    (m,). The lower of the two rates decides the filter. An :class:`InputError` if the signal is empty.
    """
    _check_rates(rate_in=rate_in, rate_out=rate_out)
    filled, is_gap = fill_gaps(x)
    if not len(filled):
        raise InputError("resample_at: the signal is empty")
    position = np.asarray(position, dtype=float)
    reach, scale = resampling_reach(rate_in, rate_out), max(1.0, rate_in / rate_out)
    if reach == 0:
        y = np.interp(position, np.arange(len(filled)), filled)
    else:
        padded = np.pad(filled, reach, mode="reflect", reflect_type="odd")
        taps = np.floor(position).astype(int)[:, None] + np.arange(1 - reach, reach + 1)  # (m, 2 reach)
        distance = (position[:, None] - taps) / scale  # in samples of the lower rate
        edge = np.sqrt(np.clip(1.0 - (distance / _HALF_LENGTH) ** 2, 0.0, None))
        weights = np.sinc(_CUTOFF * distance) * special.i0(_KAISER_BETA * edge) * (np.abs(distance) <= _HALF_LENGTH)
        weights /= weights.sum(axis=1, keepdims=True)
        y = (weights * padded[np.clip(taps + reach, 0, len(padded) - 1)]).sum(axis=1)
    y[_next_to_gap(is_gap, position)] = np.nan
    return y


# Designing a filter takes as long as filtering a window.
_butterworth = lru_cache(64)(partial(scipy_signal.butter, output="sos"))


def filter_bandpass(
    x: np.ndarray, low_hz: float | None, high_hz: float | None, sampling_rate: float, order: int = 2
) -> np.ndarray:
    """Zero-phase Butterworth band-pass (second-order sections, forward and backward).

    Both passes together give twice ``order`` and -6 dB at each corner; a corner of None leaves that side open (a
    low-pass or a high-pass filter), and an InputError is raised unless 0 < low < high < sampling_rate / 2. At the ends
    the signal is continued by even reflection over three periods of the lower corner, or as far as the signal is long.
    """
    x = np.asarray(x)
    _check_rates(sampling_rate=sampling_rate)
    nyquist, corners = sampling_rate / 2, [corner for corner in (low_hz, high_hz) if corner is not None]
    if not corners or any(not 0 < corner < nyquist for corner in corners) or corners != sorted(set(corners)):
        raise InputError(f"band {low_hz} to {high_hz} Hz: at {sampling_rate:g} Hz need 0 < low < high < {nyquist:g} Hz")
    if x.ndim == 0 or x.shape[-1] < 2:
        raise InputError("filter_bandpass: the signal has fewer than two samples")
    kind = "bandpass" if len(corners) == 2 else "highpass" if high_hz is None else "lowpass"
    sos = _butterworth(order, tuple(corners) if len(corners) == 2 else corners[0], btype=kind, fs=float(sampling_rate))
    return _zero_phase(partial(scipy_signal.sosfiltfilt, sos), x, 3 * sampling_rate / corners[0])


def filter_notch(x: np.ndarray, frequency_hz: float, sampling_rate: float, width_hz: float = 2.0) -> np.ndarray:
    """Zero-phase notch: one frequency, below half the rate (or InputError), out; -6 dB half the width away from it."""
    _check_rates(sampling_rate=sampling_rate)
    if not 0 < frequency_hz < sampling_rate / 2:
        needed = f"more than twice that sampling rate, not {sampling_rate:g} Hz"
        raise InputError(f"notch at {frequency_hz:g} Hz: needs {needed}")
    b, a = scipy_signal.iirnotch(frequency_hz, frequency_hz / width_hz, sampling_rate)
    # The notch rings for about 1 / width seconds: the signal is continued for as long at both ends.
    return _zero_phase(partial(scipy_signal.filtfilt, b, a), np.asarray(x), 2 * sampling_rate / width_hz)


def _zero_phase(filtered: Callable[..., np.ndarray], x: np.ndarray, padding: float) -> np.ndarray:
    """``x`` forward and backward through a filter, continued by so many samples at both ends; gaps stay gaps."""
    gapless, is_gap = fill_gaps(x)
    y = filtered(gapless, axis=-1, padtype="even", padlen=min(x.shape[-1] - 1, math.ceil(padding)))
    y[is_gap] = np.nan
    return _as_given(y, x)
