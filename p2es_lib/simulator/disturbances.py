"""Disturbances of a wearable PPG at a stated signal-to-noise ratio.

SNR in dB is 10 log10(var(x) / var(y - x)) over the window, with x the clean and y the disturbed PPG: pulsatile power
over disturbance power, both without their means, because a constant offset disturbs nobody. Every kind meets the stated
value within 0.1 dB. What a kind does is decided by the row's own generator alone, row after row, so the bytes of a row
do not depend on the other rows.

References
----------
Solosenko A et al. Photoplethysmogram modeling during paroxysmal atrial fibrillation. Comput Biol Med 81:130, 2017.
Paliakaite B et al. Modeling of artifacts in the wrist photoplethysmogram (random switching between clean and disturbed,
    gamma-distributed RMS, power spectrum with a slope). Biomed Signal Process Control 66, 2021. Its fitted values were
    not at hand: burst lengths of 1-20 s and 0.5-3 Hz are unverified, and so is every other number below.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from p2es_lib.core.errors import InputError, check_choice

_BURST_S = (1.0, 20.0)  # log-uniform
_PAUSE_MEAN_S = 4.0
_BURST_EDGE_S = 0.25
_MOTION_BAND_HZ = (0.5, 3.0)
_DRIFT_BAND_HZ = (0.02, 0.4)
_MAX_GAP_FRACTION = 0.6


def _band_noise(rng: np.random.Generator, n: int, rate: float, band: tuple[float, float], slope: float) -> np.ndarray:
    """Gaussian noise of n samples inside a frequency band, power falling as frequency^-slope; not periodic in n."""
    length = 1 << int(np.ceil(np.log2(max(2 * n, 4 * rate / band[0]))))
    frequency = np.fft.rfftfreq(length, 1.0 / rate)
    inside = (frequency >= band[0]) & (frequency <= band[1])
    spectrum = np.zeros(len(frequency), dtype=complex)
    normal = rng.standard_normal((2, int(inside.sum())))
    spectrum[inside] = (normal[0] + 1j * normal[1]) * frequency[inside] ** (-slope / 2)
    return np.fft.irfft(spectrum, length)[:n]


def _at_snr(ppg: np.ndarray, disturbance: np.ndarray, snr_db: float) -> np.ndarray:
    """Add a disturbance, scaled to the SNR."""
    return ppg + disturbance * np.sqrt(ppg.var() / 10 ** (snr_db / 10) / disturbance.var())


def _largest(outer: float, n_steps: int, weaker: Callable[[float], bool]) -> float:
    """By bisection: the largest strength, from 0 to ``outer``, whose disturbance is still weaker than wanted."""
    inner = 0.0
    for _ in range(n_steps):
        middle = 0.5 * (inner + outer)
        inner, outer = (middle, outer) if weaker(middle) else (inner, middle)
    return inner


def _motion(ppg: np.ndarray, snr_db: float, rng: np.random.Generator, rate: float) -> np.ndarray:
    """Bursts of 0.5-3 Hz noise, switched on and off at random, each with its own gamma-distributed RMS.

    At least half a second of burst lies in the window, else there would be nothing to scale.
    """

    def draw_length() -> float:
        return _BURST_S[0] * (_BURST_S[1] / _BURST_S[0]) ** rng.random()

    n, window_s = len(ppg), len(ppg) / rate
    noise = _band_noise(rng, n, rate, _MOTION_BAND_HZ, slope=rng.uniform(0.0, 2.0))
    time_s, envelope, length = np.arange(n) / rate, np.zeros(n), draw_length()
    inside = min(0.5, 0.5 * window_s)
    begin = rng.uniform(inside - length, window_s - inside)
    while begin < window_s:
        edge = np.minimum(time_s - begin, begin + length - time_s) / _BURST_EDGE_S  # < 0 outside the burst
        envelope += rng.gamma(2.0, 0.5) * (0.5 - 0.5 * np.cos(np.pi * np.clip(edge, 0.0, 1.0)))
        begin += length + rng.exponential(_PAUSE_MEAN_S)
        length = draw_length()
    return _at_snr(ppg, envelope * noise, snr_db)


def _drift(ppg: np.ndarray, snr_db: float, rng: np.random.Generator, rate: float) -> np.ndarray:
    """Baseline wander below 0.4 Hz: red noise and a trend."""
    red = _band_noise(rng, len(ppg), rate, _DRIFT_BAND_HZ, slope=2.0)
    trend = np.linspace(-1.0, 1.0, len(ppg)) * rng.standard_normal()
    return _at_snr(ppg, red / red.std() + trend, snr_db)


def _low_perfusion(ppg: np.ndarray, snr_db: float, rng: np.random.Generator, rate: float) -> np.ndarray:
    """Weak pulse, hence white sensor noise up (the window is normalised afterwards, so only the ratio matters)."""
    return _at_snr(ppg, rng.standard_normal(len(ppg)), snr_db)


def _clipping(ppg: np.ndarray, snr_db: float, rng: np.random.Generator, rate: float) -> np.ndarray:
    """Saturation at the upper, the lower or both rails: the further in, the larger, up to a flat line at 0 dB."""
    if snr_db <= 0:
        raise InputError(f"snr_db={snr_db} with clipping: must be above 0 dB, which is a flat line already")
    sides = ("upper", "lower", "both")[rng.integers(3)]
    low, middle, high = ppg.min(), np.median(ppg), ppg.max()
    target = ppg.var() / 10 ** (snr_db / 10)

    def clip(depth: float) -> np.ndarray:
        top = high - depth * (high - (middle if sides == "both" else low))
        bottom = low + depth * ((middle if sides == "both" else high) - low)
        return np.clip(ppg, None if sides == "upper" else bottom, None if sides == "lower" else top)

    return clip(_largest(1.0, 30, lambda depth: (clip(depth) - ppg).var() < target))


def _gaps(ppg: np.ndarray, snr_db: float, rng: np.random.Generator, rate: float) -> np.ndarray:
    """Stretches in which the sensor holds its last value or drops towards zero, at most 0.6 of the window together.

    They are as long as the power allows when the last value is held (for half of the rows: a random part of that); the
    drop below the held value then meets the power exactly.
    """
    n = len(ppg)
    target = ppg.var() / 10 ** (snr_db / 10)
    n_gaps = int(rng.integers(1, 4))
    centres = np.sort(rng.random(n_gaps)) * n
    shares = rng.dirichlet(np.full(n_gaps, 3.0))
    shorten = rng.uniform(0.2, 1.0) if rng.random() < 0.5 else 1.0

    def held(fraction: float) -> tuple[np.ndarray, np.ndarray]:
        """Gap mask and the error of holding, both (T,), for gaps that last this fraction of the window."""
        mask, error = np.zeros(n, dtype=bool), np.zeros(n)
        end, value = 0, 0.0
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
    covariance = (mask * error).mean() - share * error.mean()
    spread = share - share * share
    missing = max(target - error.var(), 0.0)
    drop = (covariance + np.sqrt(covariance**2 + spread * missing)) / spread
    return ppg + error - drop * mask


_KINDS = {"motion": _motion, "drift": _drift, "low_perfusion": _low_perfusion, "clipping": _clipping, "gaps": _gaps}
#: Kinds of disturbance; "none" leaves the PPG as it is.
DISTURBANCES = ("none", *_KINDS)


def disturb(
    ppg: np.ndarray, kind: str, snr_db: float, rngs: Sequence[np.random.Generator], sampling_rate: float
) -> np.ndarray:
    """Disturb each row of a clean PPG (N, T) at the stated SNR: float32 (N, T).

    Parameters
    ----------
    ppg : array (N, T)
        Any scale. A row without variation has no pulse to disturb and is returned as it is.
    kind, snr_db : str, float
        One of :data:`DISTURBANCES`; dB as in the module's docstring, above 0 for clipping.
    rngs : sequence of N numpy Generators
        Row i uses ``rngs[i]`` alone.
    sampling_rate : float, Hz

    Raises
    ------
    InputError
        Unknown kind, SNR not finite or out of reach, NaN in the PPG, or not one generator per row.
    """
    check_choice("disturbance", kind, DISTURBANCES)
    if not np.isfinite(snr_db):
        raise InputError(f"snr_db={snr_db}: must be a finite number of decibels")
    if ppg.ndim != 2 or len(rngs) != len(ppg):
        raise InputError(f"PPG of shape {ppg.shape} with {len(rngs)} generators: expected (N, T) and one for each row")
    if not np.isfinite(ppg).all():
        rows = np.flatnonzero(~np.isfinite(ppg).all(axis=1))[:5].tolist()
        raise InputError(f"PPG rows {rows} hold NaN or infinite samples: disturb complete windows only")
    disturbed = ppg.astype(np.float32)
    for row, rng in enumerate(rngs):
        clean = ppg[row].astype(float)
        if kind != "none" and np.ptp(clean) > 0:
            disturbed[row] = _KINDS[kind](clean, snr_db, rng, sampling_rate)
    return disturbed
