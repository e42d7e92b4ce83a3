"""The PPG pulse of each beat: shape by age and stiffness, arrival time, amplitude, and the train of pulses.

A pulse is a forward wave (f), a late systolic reflection (l), a dicrotic wave (c) and a run-off (d), all as a function
of the time u since it began::

    p(u) = sum over k in {f, l, c} of  size_k exp(-ln²(u/m_k) / 2 s_k²)  +  d (1 - exp(-(u/m_f)²)) exp(-u/tau)

Log-normal kernels (as in the pulse models of Solosenko 2017 and Paliakaite 2021: see disturbances) are exactly zero
before the pulse begins. The three waves are in absolute time, because systole and wave travel depend little on the
cycle length; the run-off time constant ``tau`` follows the beat interval. What is left of a pulse when the next one
begins decays on underneath it, as in a Windkessel: the train is continuous, and the past never depends on later beats.

References
----------
Allen J, Murray A. Age-related changes in the photoplethysmographic pulse shape. Physiol Meas 24:297, 2003.
Charlton PH et al. Modeling arterial pulse waves in healthy aging. Am J Physiol Heart Circ Physiol 317:H1062, 2019.
Choi et al. 2022: second-derivative ratios b/a, c/a, d/a, e/a against age, 19-69 years.
Dawber TR et al. Characteristics of the dicrotic notch of the arterial pulse wave. Angiology 24:244, 1973.
Kortekaas et al. 2018 (pre-ejection period by echocardiography); Pilz et al. 2023 (by impedance cardiography).
"""

from dataclasses import dataclass

import numpy as np

from p2es_lib.core.errors import check_choice

N_SHAPE_VARIATIONS = 5  # crest time, size of the late systolic wave, delay and size of the dicrotic wave, run-off
#: Aorta-to-site path lengths in metres at 170 cm: trunk (aortic PWV) and limb or neck (arm PWV). The finger's in
#: Charlton 2019's terms; wrist and ear are set to give the arrival times below, unverified.
SITE_PATHS_M = {"finger": (0.15, 0.75), "wrist": (0.15, 0.55), "ear": (0.15, 0.25)}
RUNOFF_FRACTION = 0.5  # time constant of the run-off / beat interval; unverified

# Carotid-femoral PWV by decade: Charlton 2019, read. SD below and above the mean as fractions: the published ranges
# are 10..19 % below and 13..29 % above; that they grow linearly from 25 to 75 years is an assumption.
_PWV_AGE, _PWV_MEAN = [25.0, 35.0, 45.0, 55.0, 65.0, 75.0], [5.9, 6.5, 7.4, 8.3, 9.2, 10.3]
_PWV_SD_BELOW, _PWV_SD_ABOVE = (0.10, 0.19), (0.13, 0.29)

# Pre-ejection period: echocardiography 58.5 ms under 50 years and 52 ms over (Kortekaas 2018), impedance cardiography
# 104 ms at rest (Pilz 2023). The level between the two methods is an assumption, the age step is the measured one.
_PEP_S, _PEP_STEP_S = 0.081, -0.0065
_SMALL_ARTERIES_S = 0.020  # digital arteries and the arteriolar bed; unverified

# Shape by vascular age at 70 beats a minute, fitted to the second-derivative ratios of Choi 2022 (met within 0.03
# from 20 to 75 years: tests/test_pulse.py) and to a foot-to-crest time of 120 ms at 20 years rising by about 1 ms a
# year (unverified). Columns: foot to crest of the forward wave (s), its width; delay behind it (s), width and size of
# the late systolic wave, then of the dicrotic wave; size of the run-off.
_SHAPE_AGE = np.array([20.0, 35.0, 55.0, 80.0])
_SHAPE_TABLE = np.array([
    [0.116, 0.508, 0.138, 0.193, 0.215, 0.300, 0.174, 0.456, 0.353],
    [0.109, 0.512, 0.135, 0.269, 0.429, 0.292, 0.157, 0.421, 0.200],
    [0.089, 0.510, 0.106, 0.306, 0.720, 0.279, 0.181, 0.351, 0.200],
    [0.108, 0.458, 0.104, 0.284, 0.766, 0.264, 0.180, 0.303, 0.216],
])  # fmt: skip
_CHUNK_SAMPLES = 65_536  # rows are worked off in chunks that stay in the cache


@dataclass(frozen=True)
class PulseShape:
    """Time, width (SD of ln(time)) and size, (3, N), of the forward, late systolic and dicrotic waves of N pulses.

    Sizes are relative to a pulse height of 1. The pulse begins ``foot_lead_s`` (N,) before its foot, which is where the
    tangent at the steepest point meets the level before the pulse, as arrival times are measured.
    """

    foot_lead_s: np.ndarray
    time_s: np.ndarray
    width: np.ndarray
    size: np.ndarray
    runoff_size: np.ndarray


def _mean_stiffness(age: np.ndarray) -> np.ndarray:
    """Mean carotid-femoral PWV (m/s); beyond the table its end slopes continue."""
    inside = np.interp(age, _PWV_AGE, _PWV_MEAN)
    return inside + 0.06 * np.minimum(age - 25.0, 0.0) + 0.11 * np.maximum(age - 75.0, 0.0)


def stiffness_from_age(age: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Arterial stiffness as carotid-femoral PWV (m/s), (N,), from age (years) and standard normal z, cut at 3."""
    position = np.clip((age - 25.0) / 50.0, 0.0, 1.0)
    below, above = (young + (old - young) * position for young, old in (_PWV_SD_BELOW, _PWV_SD_ABOVE))
    z = np.clip(z, -3.0, 3.0)
    return _mean_stiffness(age) * (1.0 + z * np.where(z < 0, below, above))


def pulse_arrival_time(
    age: np.ndarray, stiffness: np.ndarray, height_cm: np.ndarray, site: str = "finger"
) -> np.ndarray:
    """Time from the R peak to the foot of the pulse at a site (s), (N,): the part that is not random.

    Pre-ejection period + trunk path / aortic PWV + limb path / arm PWV + 20 ms, paths in proportion to height (cm); arm
    PWV from aortic PWV (``stiffness``, m/s) as in Charlton 2019. It gives about 200 ms at 25 and 170 ms at 75 years at
    the finger. Unverified expectations: finger 200-250 ms, wrist 10-30 ms less, ear 130-170 ms.
    """
    trunk_m, limb_m = SITE_PATHS_M[check_choice("site", site, SITE_PATHS_M)]
    pep = _PEP_S + _PEP_STEP_S / (1.0 + np.exp(-(age - 50.0) / 4.0))
    arm = 9.98 + 0.52 * (stiffness - 6.15)
    return pep + height_cm / 170.0 * (trunk_m / stiffness + limb_m / arm) + _SMALL_ARTERIES_S


def amplitude_from_rr(preceding_rr: np.ndarray) -> np.ndarray:
    """Gain of the pulse amplitude from the RR interval (s) before the beat: filling time makes stroke volume.

    1 at 0.85 s. Unverified: the range named for the exponent is 0.3-0.6, for the floor 0.4-0.5 s.
    """
    return (np.maximum(preceding_rr, 0.45) / 0.85) ** 0.45


def pulse_shape(age: np.ndarray, stiffness: np.ndarray, heart_rate: np.ndarray, variation: np.ndarray) -> PulseShape:
    """Pulse shape from age (years), stiffness (carotid-femoral PWV, m/s) and mean heart rate (1/min), (N,) each.

    The vascular age is half the age and half the age at which the given stiffness is the mean. With it the crest comes
    later, the late systolic wave grows and the notch fills (Allen & Murray 2003), from Dawber's class 1 (notch) in the
    young to class 4 (none). Ejection shortens with heart rate (Weissler 1968, from memory). That the times of all waves
    shorten with it and that stiffer arteries than usual bring the dicrotic wave earlier are assumptions, and so are the
    spreads of ``variation`` (N, N_SHAPE_VARIATIONS), which is standard normal.
    """
    z = np.ascontiguousarray(np.clip(variation, -2.5, 2.5).T)
    ages = np.arange(15.0, 96.0)
    vascular_age = 0.5 * age + 0.5 * np.interp(stiffness, _mean_stiffness(ages), ages)
    columns = [np.interp(vascular_age, _SHAPE_AGE, column) for column in _SHAPE_TABLE.T]
    crest, width, late_delay, late_width, late, dicrotic_delay, dicrotic_width, dicrotic, runoff = columns
    ejection = np.clip((413.0 - 1.7 * heart_rate) / (413.0 - 1.7 * 70.0), 0.6, 1.2)
    foot = _lognormal_foot(width)
    forward = crest * ejection * np.exp(0.08 * z[0]) / (1.0 - foot)
    earlier = np.clip(np.sqrt(_mean_stiffness(age) / stiffness), 0.8, 1.2)
    times = [late_delay * ejection, dicrotic_delay * ejection * earlier * np.exp(0.05 * z[2])]
    time_s = np.stack([forward, *(forward + time for time in times)])
    widths = np.stack([width, late_width, dicrotic_width])
    size = np.stack([np.ones_like(forward), late * np.exp(0.15 * z[1]), dicrotic * np.exp(0.15 * z[3])])
    shape = PulseShape(foot * forward, time_s, widths, size, runoff * np.exp(0.25 * z[4]))
    # Scaled to height 1 at an interval of 1 s, on a grid of 10 ms.
    u = np.tile(np.arange(0.01, 0.61, 0.01), (len(forward), 1))
    height = _evaluate(u, np.exp(-u / RUNOFF_FRACTION), *_parameters(shape)).max(axis=1)
    return PulseShape(shape.foot_lead_s, time_s, widths, size / height, shape.runoff_size / height)


def _lognormal_foot(width: np.ndarray) -> np.ndarray:
    """Foot of exp(-ln²(u)/2s²), where its steepest tangent meets zero, as a fraction of its peak time."""
    s2 = width * width
    x = -0.5 * (s2 + np.sqrt(s2 * s2 + 4.0 * s2))  # ln(u) where the second derivative is zero
    return np.exp(x) * (1.0 + s2 / x)


def _parameters(shape: PulseShape) -> list[np.ndarray]:
    """What :func:`_evaluate` takes: ln(time), 1/width and size of the waves (3, N, 1), rate and size of the run-off."""
    parts = np.log(shape.time_s), 1.0 / shape.width, shape.size, 1.0 / shape.time_s[0], shape.runoff_size
    return [part[..., None] for part in parts]


def _evaluate(u, decay, log_time, rate, size, runoff_rate, runoff_size):
    """The pulse p(u) of the module's docstring for u > 0; ``decay`` is exp(-u/tau)."""
    log_u = np.log(u)
    value = runoff_size * (1.0 - np.exp(-np.square(u * runoff_rate))) * decay
    for wave in range(3):
        value += size[wave] * np.exp(-0.5 * np.square((log_u - log_time[wave]) * rate[wave]))
    return value


def pulse_train(
    onset_times: np.ndarray, amplitudes: np.ndarray, beat_intervals: np.ndarray, shape: PulseShape, t: np.ndarray
) -> np.ndarray:
    """PPG without noise: the pulses of each row, one after the other, float32 (N, T), at ascending times t (T,), s.

    0 before the first pulse. Arrays (N, nb): feet of the pulses (s), in any order, heights above the run-off of those
    before, and the intervals that set the run-off (0.4 to 1.6 s; NaN counts as 0.85 s; that before the beat keeps the
    train causal). NaN, and height 0, is a beat without a pulse, over which the pulse before runs off undisturbed.
    """
    n, nb = onset_times.shape
    has_pulse = np.isfinite(onset_times) & (np.nan_to_num(amplitudes) != 0)
    begin = np.where(has_pulse, onset_times - shape.foot_lead_s[:, None], np.inf)
    order = np.argsort(begin, axis=1, kind="stable")
    parts = begin, np.where(has_pulse, amplitudes, 0.0), np.nan_to_num(beat_intervals, nan=0.85)
    begin, amplitude, interval = (np.take_along_axis(part, order, axis=1) for part in parts)
    tau = RUNOFF_FRACTION * np.clip(interval, 0.4, 1.6)
    rest = _level_at_begin(begin, amplitude, tau, shape)

    # Sample k of row i belongs to the last pulse that has begun: turn begins into run lengths, then repeat.
    first = np.searchsorted(t, begin.ravel(), side="right").reshape(n, nb)
    lengths = np.diff(first, axis=1, prepend=0, append=len(t))  # (N, nb + 1); the first run lies before all pulses
    begin = np.pad(np.where(np.isinf(begin), 0.0, begin), ((0, 0), (1, 0)), constant_values=-1e3)
    per_pulse = [np.pad(part, ((0, 0), (1, 0))).astype(np.float32) for part in (amplitude, rest, -1.0 / tau)]
    parameters = [part.astype(np.float32) for part in _parameters(shape)]
    ppg = np.empty((n, len(t)), dtype=np.float32)
    chunk = max(1, _CHUNK_SAMPLES // max(1, len(t)))
    for start in range(0, n, chunk):
        rows = slice(start, start + chunk)
        runs = lengths[rows].ravel()
        since, amplitude, rest, rate = (
            np.repeat(part[rows].ravel(), runs).reshape(-1, len(t)) for part in (begin, *per_pulse)
        )
        u = np.maximum(t - since, 1e-6).astype(np.float32)
        decay = np.exp(u * rate)
        value = _evaluate(u, decay, *(part[..., rows, :] for part in parameters))
        np.add(value * amplitude, decay * rest, out=ppg[rows])
    return ppg


def _level_at_begin(begin: np.ndarray, amplitude: np.ndarray, tau: np.ndarray, shape: PulseShape) -> np.ndarray:
    """What the pulses before have left when each pulse begins, (N, nb): it decays on underneath the pulse."""
    with np.errstate(invalid="ignore"):
        gap = np.diff(begin, axis=1)
    gap = np.maximum(np.where(np.isfinite(gap), gap, 1e3), 1e-6)
    decay = np.exp(-gap / tau[:, :-1])
    end = amplitude[:, :-1] * _evaluate(gap, decay, *_parameters(shape))
    rest = np.zeros_like(begin)
    for beat in range(1, begin.shape[1]):
        # The remainder continues with the time constant of the pulse that it lies under.
        rest[:, beat] = end[:, beat - 1] + rest[:, beat - 1] * decay[:, beat - 1]
    return rest
