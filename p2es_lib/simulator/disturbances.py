"""Disturbances of a wearable PPG at a stated signal-to-noise ratio.

SNR in dB is 10 log10(var(x) / var(y - x)) over the window, with x the clean and y the disturbed PPG: pulsatile power
over disturbance power, both without their means, because a constant offset disturbs nobody. Every kind meets the stated
value within 0.1 dB. The row's own generator alone decides: the bytes of a row do not depend on the other rows.

References
----------
Solosenko A et al. Photoplethysmogram modeling during paroxysmal atrial fibrillation. Comput Biol Med 81:130, 2017.
Paliakaite B et al. Modeling of artifacts in the wrist photoplethysmogram (random switching between clean and disturbed,
    gamma-distributed RMS, power spectrum with a slope). Biomed Signal Process Control 66, 2021. Its fitted values were
    not at hand: burst lengths of 1-20 s and 0.5-3 Hz are unverified, and so is every other number below.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.random import Generator

from p2es_lib.core.errors import InputError, check_choice

_BURST_S, _BURST_EDGE_S, _PAUSE_MEAN_S = (1.0, 20.0), 0.25, 4.0  # length log-uniform
_MAX_GAP_FRACTION = 0.6


def _band_noise(rng: Generator, n: int, rate: float, low_hz: float, high_hz: float, slope: float) -> np.ndarray:
    """Gaussian noise of n samples inside a frequency band, power falling as frequency^-slope; not periodic in n."""
    length = 1 << int(np.ceil(np.log2(max(2 * n, 4 * rate / low_hz))))
    frequency = np.fft.rfftfreq(length, 1.0 / rate)
    inside = (frequency >= low_hz) & (frequency <= high_hz)
    spectrum = np.zeros(len(frequency), dtype=complex)
    normal = rng.standard_normal((2, int(inside.sum())))
    spectrum[inside] = (normal[0] + 1j * normal[1]) * frequency[inside] ** (-slope / 2)
    return np.fft.irfft(spectrum, length)[:n]


def _motion(rng: Generator, n: int, rate: float) -> np.ndarray:
    """Bursts of noise, at random times, each with its own RMS; at least half a second of them lies in the window."""

    def draw_length() -> float:
        return _BURST_S[0] * (_BURST_S[1] / _BURST_S[0]) ** rng.random()

    noise = _band_noise(rng, n, rate, 0.5, 3.0, slope=rng.uniform(0.0, 2.0))
    time_s, window_s, envelope, length = np.arange(n) / rate, n / rate, np.zeros(n), draw_length()
    inside = min(0.5, 0.5 * window_s)
    begin = rng.uniform(inside - length, window_s - inside)
    while begin < window_s:
        edge = np.minimum(time_s - begin, begin + length - time_s) / _BURST_EDGE_S  # < 0 outside the burst
        envelope += rng.gamma(2.0, 0.5) * (0.5 - 0.5 * np.cos(np.pi * np.clip(edge, 0.0, 1.0)))
        begin += length + rng.exponential(_PAUSE_MEAN_S)
        length = draw_length()
    return envelope * noise


def _drift(rng: Generator, n: int, rate: float) -> np.ndarray:
    """Baseline wander below 0.4 Hz: red noise and a trend."""
    red = _band_noise(rng, n, rate, 0.02, 0.4, slope=2.0)
    return red / red.std() + np.linspace(-1.0, 1.0, n) * rng.standard_normal()


def _low_perfusion(rng: Generator, n: int, rate: float) -> np.ndarray:
    """Weak pulse, hence white sensor noise up (the window is normalised afterwards, so only the ratio matters)."""
    return rng.standard_normal(n)


def _largest(outer: float, n_steps: int, weaker: Callable[[float], bool]) -> float:
    """By bisection: the largest strength, from 0 to ``outer``, whose disturbance is still weaker than wanted."""
    inner = 0.0
    for _ in range(n_steps):
        middle = 0.5 * (inner + outer)
        inner, outer = (middle, outer) if weaker(middle) else (inner, middle)
    return inner


def _clipping(ppg: np.ndarray, target: float, rng: Generator) -> np.ndarray:
    """Saturation at the upper, the lower or both rails: the further in, the larger, up to a flat line at 0 dB."""
    sides = ("upper", "lower", "both")[rng.integers(3)]
    low, middle, high = ppg.min(), np.median(ppg), ppg.max()

    def clip(depth: float) -> np.ndarray:
        top = high - depth * (high - (middle if sides == "both" else low))
        bottom = low + depth * ((middle if sides == "both" else high) - low)
        return np.clip(ppg, None if sides == "upper" else bottom, None if sides == "lower" else top)

    return clip(_largest(1.0, 30, lambda depth: (clip(depth) - ppg).var() < target))


def _gaps(ppg: np.ndarray, target: float, rng: Generator) -> np.ndarray:
    """Stretches in which the sensor holds its last value or drops towards zero, at most 0.6 of the window together.

    As long as the power allows at the last value (in half of the rows a random part); the drop then meets it exactly.
    """
    n, n_gaps = len(ppg), int(rng.integers(1, 4))
    centres = np.sort(rng.random(n_gaps)) * n
    shares = rng.dirichlet(np.full(n_gaps, 3.0))
    shorten = rng.uniform(0.2, 1.0) if rng.random() < 0.5 else 1.0

    def held(fraction: float) -> tuple[np.ndarray, np.ndarray]:
        """Gap mask and the error of holding, both (T,), for gaps that last this fraction of the window."""
        mask, error, end, value = np.zeros(n, dtype=bool), np.zeros(n), 0, 0.0
        for centre, share in zip(centres, shares, strict=True):
            length = max(1, round(fraction * share * n))
            begin = min(max(1, round(centre - length / 2)), n - length)
            if begin > end:  # else it follows on the gap before, at the same held value
                value = ppg[begin - 1]
            begin = max(begin, end)
            end = min(n, begin + length)
            mask[begin:end] = True
            error[begin:end] = value - ppg[begin:end]
        return mask, error

    fraction = shorten * _largest(_MAX_GAP_FRACTION, 20, lambda fraction: held(fraction)[1].var() < target)
    mask, error = held(fraction)
    while error.var() > target and fraction > 1.0 / n:  # another length begins elsewhere and may hold a worse value
        fraction *= 0.8
        mask, error = held(fraction)
    if error.var() > target:  # at very high SNR: single lost samples, only their depth counts
        error = np.zeros(n)
    # var(error - drop * mask) = target, a quadratic in the drop; its larger root lowers the signal.
    share = mask.mean()
    covariance, spread = (mask * error).mean() - share * error.mean(), share - share * share
    drop = (covariance + np.sqrt(covariance**2 + spread * max(target - error.var(), 0.0))) / spread
    return ppg + error - drop * mask


# What is added to the PPG, scaled to the SNR; and what cuts something out of it, of a given power.
_ADDED = {"motion": _motion, "drift": _drift, "low_perfusion": _low_perfusion}
_CUT = {"clipping": _clipping, "gaps": _gaps}
#: Kinds of disturbance; "none" leaves the PPG as it is.
DISTURBANCES = ("none", *_ADDED, *_CUT)


def disturb(ppg: np.ndarray, kind: str, snr_db: float, rngs: Sequence[Generator], sampling_rate: float) -> np.ndarray:
    """Each row of a clean PPG (N, T) of any scale, disturbed at the stated SNR by its own generator: float32 (N, T).

    A row without variation has no pulse to disturb and is returned as it is. Unknown kind, SNR not finite or out of
    reach (0 dB or less for clipping), NaN in the PPG, or not one generator per row: InputError.
    """
    check_choice("disturbance", kind, DISTURBANCES)
    ppg = np.asarray(ppg)
    if not np.isfinite(snr_db):
        raise InputError(f"snr_db={snr_db}: must be a finite number of decibels")
    if kind == "clipping" and snr_db <= 0:
        raise InputError(f"snr_db={snr_db} with clipping: must be above 0 dB, which is a flat line already")
    if ppg.ndim != 2 or len(rngs) != len(ppg):
        raise InputError(f"PPG of shape {ppg.shape} with {len(rngs)} generators: expected (N, T) and one for each row")
    if not np.isfinite(ppg).all():
        rows = np.flatnonzero(~np.isfinite(ppg).all(axis=1))[:5].tolist()
        raise InputError(f"PPG rows {rows} hold NaN or infinite samples: disturb complete windows only")
    disturbed = ppg.astype(np.float32)
    for row, rng in enumerate(rngs):
        clean = ppg[row].astype(float)
        if kind == "none" or np.ptp(clean) == 0:
            continue
        target = clean.var() / 10 ** (snr_db / 10)
        if kind in _CUT:
            disturbed[row] = _CUT[kind](clean, target, rng)
        else:
            noise = _ADDED[kind](rng, len(clean), sampling_rate)
            disturbed[row] = clean + noise * np.sqrt(target / noise.var())
    return disturbed
