"""The embedded cohort: paired wearable PPG and 12-lead ECG with known latents.

``simulate(subjects)`` returns windows in subject-major order. A subject is a number; together with the seed it decides
everything about it, and with the number of a session everything about that sitting (see
:mod:`p2es_lib.simulator.sessions`), so the same number gives the same bytes in any cohort, order, batch or process. To
keep that true, arrays are worked on elementwise and contiguously: no matrix product, no FFT across rows, no reduction
except along a row, because their rounding may depend on the shape of the whole array. The ECG is clean (no sensor
noise, no baseline wander): it is the target. The PPG has sensor noise, breathing and any disturbance asked for.
Sources: in the modules.

References
----------
McSharry PE et al. IEEE Trans Biomed Eng 50:289, 2003 (kernels). Sameni R et al. EURASIP J Adv Signal Process 2007
(dipole).
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import pandas as pd

from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import expand_leads
from p2es_lib.signals.cleaning import PPG_BAND_HZ
from p2es_lib.signals.transforms import filter_bandpass
from p2es_lib.simulator import draws as random
from p2es_lib.simulator.demographics_effects import AF, RHYTHMS, Body, Traits, adapt_to_rate, draw_people
from p2es_lib.simulator.disturbances import disturb
from p2es_lib.simulator.heart import Heart, draw_heart
from p2es_lib.simulator.morphology import CLASSES, changed, draw_morphology
from p2es_lib.simulator.normal_beats import draw_lead_fields
from p2es_lib.simulator.pulse import amplitude_from_rr, pulse_shape, pulse_train
from p2es_lib.simulator.render import render_ecg8
from p2es_lib.simulator.rhythm import BEAT_PAC, BEAT_PVC, Beats, beat_capacity, draw_beats
from p2es_lib.simulator.sessions import (
    CHANGES,
    Session,
    check_session,
    far_from_rest,
    make_session,
    no_session,
    slow_arrival,
)
from p2es_lib.simulator.settings import SimulatorConfig

# Beat-to-beat arrival time: it follows RR (paced breathing: swing of 14 +- 5 ms for RR 241 +- 102 ms, RR leading by 2-3
# beats; Peng 2021 and Physiol Meas 22:3, 2001), plus an independent part of 2.5 ms (within-person spread of the
# pre-ejection period 2-6 ms, Kortekaas 2018, of which RR explains a part).
_PAT_PER_RR, _PAT_RR_LAG_BEATS, PAT_JITTER_S = 14.0 / 241.0, 2, 0.0025
# A PVC ejects in 78 % of cases (controls; Heart Rhythm 2019), with 29 % of the stroke volume (secondary source).
_PVC_EJECTS, _PVC_AMPLITUDE = 0.78, 0.29
_SUBJECTS_AT_ONCE = 256  # bounds the memory of intermediate arrays


@dataclass(frozen=True)
class Latents:
    """What made each window. Arrays (N,) or, per beat, (N, n_beats_max); beats NaN-padded, beat_type -1-padded.

    ``r_times`` and ``pulse_onsets`` (NaN: no pulse) are seconds from the first sample, with those before and after the
    window. onset = R + pat + pat_residual (of the person in that session) + pat_drift (which follows RR) + pat_slow
    (slow waves within the session) + pat_jitter. ``beat_type`` is coded as in :mod:`p2es_lib.simulator.rhythm`,
    ``rhythm`` as in ``RHYTHMS``, ``morphology`` as in ``CLASSES``, ``change`` (since session 0) as in ``CHANGES``.
    ``far_way``: -1 or 1 where the heart rate of the session is far below or above rest, else 0.
    """

    subject: np.ndarray
    session: np.ndarray
    change: np.ndarray
    far_way: np.ndarray
    age: np.ndarray
    female: np.ndarray
    stiffness: np.ndarray
    rhythm: np.ndarray
    morphology: np.ndarray
    r_times: np.ndarray
    preceding_rr_s: np.ndarray
    pulse_onsets: np.ndarray
    pulse_amplitude: np.ndarray
    beat_type: np.ndarray
    pat_s: np.ndarray
    pat_residual_s: np.ndarray
    pat_drift_s: np.ndarray
    pat_slow_s: np.ndarray
    pat_jitter_s: np.ndarray
    mean_rr_s: np.ndarray
    pr_s: np.ndarray
    qrs_s: np.ndarray
    qt_s: np.ndarray
    breathing_hz: np.ndarray
    breathing_phase: np.ndarray


@dataclass(frozen=True)
class SimulatedWindows:
    """PPG float32 (N, 1, T), z-scored per window, ECG float32 (N, 12, T) in mV (``leads.LEADS``), and what made them.

    Columns of ``index``: subject, record (one per session), session, change (since session 0), start_s, age, sex,
    height_cm, weight_kg, rhythm, morphology, heart_rate (from the RR intervals in the window), pr_ms (NaN without P
    waves), qrs_ms, qtc_ms (Fridericia), axis_deg (QRS, from the areas in I and aVF), pat_ms (mean R to pulse foot),
    pat_residual_ms, stiffness (carotid-femoral PWV, m/s), n_pvc and n_pac (number of premature beats).
    """

    ppg: np.ndarray
    ecg: np.ndarray
    index: pd.DataFrame
    latents: Latents

    def __len__(self) -> int:
        return len(self.ppg)


def simulate(
    subjects: Sequence[int],
    windows_per_subject: int = 1,
    config: SimulatorConfig = SimulatorConfig(),
    *,
    session: int = 0,
    change: str = "none",
) -> SimulatedWindows:
    """Simulate windows of one sitting of each of the numbered subjects, in subject-major order.

    Parameters
    ----------
    subjects, windows_per_subject : sequence of int, int
        From 0 to 2^32 - 2, and the same number is the same person; separate stretches of each recording.
    config : SimulatorConfig
        By default 1024 samples at 125 Hz, all variation of its published size, no disturbance.
    session : int
        0: the person as drawn. Others, up to 2^32 - 2: another sitting, with other beats.
    change : str
        What happened to the heart since session 0, one of ``sessions.CHANGES``: "none", "af", "pvc" (frequent PVCs),
        "st_elevation", "lbbb", "long_qt" (QTc 60 to 100 ms longer).

    Raises
    ------
    InputError
        No subject, a number out of range, no window, an unknown change, or one in session 0.

    Examples
    --------
    >>> windows = simulate(range(3), windows_per_subject=2)
    >>> windows.ppg.shape, windows.ecg.shape
    ((6, 1, 1024), (6, 12, 1024))
    """
    subjects = [int(subject) for subject in subjects]
    if not subjects or windows_per_subject < 1:
        raise InputError("simulate: give at least one subject and one window per subject")
    check_session(session, change)
    n = len(subjects) * windows_per_subject
    ppg = np.empty((n, 1, config.window_samples), dtype=np.float32)
    ecg = np.empty((n, 12, config.window_samples), dtype=np.float32)
    tables = []
    step = max(1, _SUBJECTS_AT_ONCE // windows_per_subject)
    for start in range(0, len(subjects), step):
        rows = slice(start * windows_per_subject, (start + step) * windows_per_subject)
        part = subjects[start : start + step]
        ppg[rows, 0], ecg[rows], *table = _simulate_part(part, windows_per_subject, config, session, change)
        tables.append(table)
    frames, latents = zip(*tables)
    joined = {name: np.concatenate([getattr(part, name) for part in latents]) for name in vars(latents[0])}
    return SimulatedWindows(ppg, ecg, pd.concat(frames, ignore_index=True), Latents(**joined))


def draw_session(subjects: list[int], number: int, change: str, config: SimulatorConfig) -> Session:
    """A sitting of each of the numbered subjects."""
    session = no_session(len(subjects))
    if number:
        rngs = [random.generator(config.seed, subject, session=number) for subject in subjects]
        session = make_session(random.draw_sessions(rngs), number, change, config)
    if not config.extreme_rates:
        return session
    rngs = [random.generator(config.seed, subject, session=number, later=True) for subject in subjects]
    return replace(session, **far_from_rest(random.draw_far_rates(rngs), config))


def _draw_windows(subjects: list[int], n_windows: int, session: int, config: SimulatorConfig):
    """Numbers of the windows of a sitting, and their generators, which go on with sensor noise."""
    keys = [(config.seed, number, window, session) for number in subjects for window in range(n_windows)]
    rngs, later = [random.generator(*key) for key in keys], [random.generator(*key, later=True) for key in keys]
    return random.draw_windows(rngs, later, *beat_capacity(config)), rngs


def _simulate_part(subjects: list[int], n_windows: int, config: SimulatorConfig, number: int, change: str):
    """PPG (N, T), ECG (N, 12, T), index and latents of a few subjects."""
    subject = random.draw_subjects([random.generator(config.seed, number) for number in subjects])
    session = draw_session(subjects, number, change, config)
    window, rngs = _draw_windows(subjects, n_windows, number, config)
    body, traits = draw_people(subject, config, session)
    numbers, classes = np.array(subjects, dtype=np.int64), draw_morphology(body, subject, config)
    classes = changed(classes, session.change)
    numbers, body, traits, subject, classes, session = (
        random.on_rows(table, lambda values: np.repeat(values, n_windows, axis=-1))
        for table in (numbers, body, traits, subject, classes, session)
    )
    beats = draw_beats(body, traits, subject, window, config, session)
    traits = adapt_to_rate(traits, body, beats.mean_rr_s)
    heart = draw_heart(body, traits, classes, beats.mean_rr_s, subject, config, session)
    lead_fields = draw_lead_fields(body.age, body.female, subject, config, session)
    breathing, f_wave_phase = (traits.breathing_hz, window.uniform["breathing_phase"]), window.uniform["f_wave_phase"]
    ecg8 = render_ecg8(heart, lead_fields, beats.r_times, beats.beat_type, breathing, f_wave_phase, config)
    made = vars(body) | vars(traits) | vars(heart) | vars(beats) | _pulses(beats, traits, window, config)
    made |= {"subject": numbers, "breathing_phase": breathing[1]}
    made |= {"session": session.number, "change": session.change}
    latents = Latents(**{field.name: made[field.name] for field in fields(Latents)})
    ppg = _render_ppg(latents, subject, session, rngs, config)
    return ppg, expand_leads(ecg8), _index(n_windows, body, heart, lead_fields["qrs"], latents, config), latents


def _pulses(beats: Beats, traits: Traits, window: random.Draws, config: SimulatorConfig) -> dict[str, np.ndarray]:
    """Onset (NaN: none) and height of each beat's pulse, and what varies in its arrival time, (N, n_beats) each."""
    drift = pat_drift(beats.preceding_rr_s, beats.mean_rr_s) * config.pat_jitter
    jitter = config.pat_jitter * PAT_JITTER_S * np.ascontiguousarray(window.normal["pat_jitter"].T)
    jitter = np.where(np.isnan(beats.r_times), np.nan, jitter)
    slow = slow_arrival(beats.r_times, window, config)
    ventricular = beats.beat_type == BEAT_PVC
    second = np.cumsum(ventricular, axis=1) > 1  # of the window's PVCs
    draws = (window.uniform["ejection"][..., None], window.normal["ejection"][..., None])
    ejects, size = (np.where(second, of_second, of_first) for of_first, of_second in draws)
    weak = np.where(ejects < _PVC_EJECTS, _PVC_AMPLITUDE * np.clip(1.0 + 0.3 * size, 0.4, 2.0), 0.0)
    amplitude = np.where(ventricular, weak, amplitude_from_rr(beats.preceding_rr_s))
    onsets = beats.r_times + (traits.pat_s + traits.pat_residual_s)[:, None] + drift + slow + jitter
    onsets[amplitude == 0] = np.nan
    made = {"pulse_onsets": onsets, "pulse_amplitude": amplitude}
    return made | {"pat_drift_s": drift, "pat_slow_s": slow, "pat_jitter_s": jitter}


def pat_drift(preceding_rr: np.ndarray, mean_rr: np.ndarray) -> np.ndarray:
    """Part of the arrival time that follows the RR interval two beats earlier, (N, n_beats), s."""
    deviation = np.clip(preceding_rr - mean_rr[:, None], -0.25, 0.25) * _PAT_PER_RR
    shifted = np.pad(deviation, ((0, 0), (_PAT_RR_LAG_BEATS, 0)))[:, :-_PAT_RR_LAG_BEATS]
    return np.where(np.isnan(preceding_rr), np.nan, shifted)


def _render_ppg(latents: Latents, subject: random.Draws, session: Session, rngs, config) -> np.ndarray:
    """PPG (N, T): pulses, breathing, sensor noise, disturbance; then the band of all PPG here, z-score."""
    t, z = np.arange(config.window_samples) / config.sampling_rate, subject.normal
    variation = config.pulse_shape * (z["pulse_shape"] + session.pulse_shape).T
    shape = pulse_shape(latents.age, latents.stiffness, 60.0 / latents.mean_rr_s, variation)
    ppg = pulse_train(latents.pulse_onsets, latents.pulse_amplitude, latents.preceding_rr_s, shape, t)
    depth = z["ppg_breathing"] + session.ppg_breathing
    ppg = breathe(ppg, t, latents.breathing_hz, latents.breathing_phase, config.breathing, depth)
    noise_sd = sensor_noise_sd(z["noise_level"] + session.noise_level, config.sensor_noise)
    for row, rng in enumerate(rngs):
        ppg[row] += noise_sd[row] * rng.standard_normal(config.window_samples, dtype=np.float32)
    if config.disturbance != "none":
        ppg = disturb(ppg, config.disturbance, config.snr_db, rngs, config.sampling_rate)
    # Real recordings are cleaned to this band before they are cut into windows: simulated ones must look the same.
    ppg = filter_bandpass(ppg.astype(np.float64), *PPG_BAND_HZ, config.sampling_rate)
    ppg -= ppg.mean(axis=1, keepdims=True)
    spread = np.sqrt((ppg * ppg).mean(axis=1, keepdims=True))
    return (ppg / np.maximum(spread, 1e-9)).astype(np.float32)


def breathe(
    ppg: np.ndarray, t: np.ndarray, hz: np.ndarray, phase: np.ndarray, scale: float, z: np.ndarray
) -> np.ndarray:
    """Pulses (N, T) with breathing in height (5-10 %) and baseline (10-50 %, unverified), for rate and phase (N,)."""
    columns = scale * 0.05 * np.exp(0.4 * z[0]), scale * 0.10 * np.exp(0.5 * z[1]), 2 * np.pi * hz, 2 * np.pi * phase
    depth, baseline, rate, start = (column.astype(np.float32)[:, None] for column in columns)
    cycle = rate * t.astype(np.float32) + start
    return ppg * (np.float32(1.0) + depth * np.sin(cycle)) + baseline * np.cos(cycle)


def sensor_noise_sd(z: np.ndarray, scale: float) -> np.ndarray:
    """Standard deviation of the sensor noise of N subjects, (N,), in pulse heights; ``z`` standard normal."""
    return (scale * 0.008 * np.exp(0.5 * z)).astype(np.float32)


def _index(n_windows: int, body: Body, heart: Heart, lead_field, latents: Latents, config) -> pd.DataFrame:
    r_times, beat_type = latents.r_times, latents.beat_type
    inside = (r_times >= 0) & (r_times < config.window_s)
    first = r_times.min(axis=1, initial=np.inf, where=inside)
    last = r_times.max(axis=1, initial=-np.inf, where=inside)
    count = inside.sum(axis=1)
    rr = np.where(count > 1, (last - first) / np.maximum(count - 1, 1), latents.mean_rr_s)
    with_pulse = inside & ~np.isnan(latents.pulse_onsets)
    delay = np.where(with_pulse, latents.pulse_onsets - r_times, 0.0)
    names = np.array([f"sim-{subject:06d}" for subject in latents.subject], dtype=object)
    sittings = [f"{name}-s{number}" if number else name for name, number in zip(names, latents.session, strict=True)]
    columns = {
        "subject": names,
        "record": np.array(sittings, dtype=object),  # one sensor and delay per sitting; its windows lie a minute apart
        "session": latents.session,
        "change": np.array(CHANGES)[latents.change],
        "start_s": 60.0 * (np.arange(len(names)) % n_windows),
        "age": body.age,
        "sex": np.where(body.female, "F", "M"),
        "height_cm": body.height_cm,
        "weight_kg": body.weight_kg,
        "rhythm": np.array(RHYTHMS)[latents.rhythm],
        "morphology": np.array(CLASSES)[latents.morphology],
        "heart_rate": 60.0 / rr,
        "pr_ms": np.where(latents.rhythm == AF, np.nan, 1e3 * latents.pr_s),
        "qrs_ms": 1e3 * heart.qrs_s,
        "qtc_ms": 1e3 * heart.qt_s / np.cbrt(latents.mean_rr_s),
        "axis_deg": _qrs_axis(heart, lead_field),
        "pat_ms": 1e3 * (delay.sum(axis=1) / np.maximum(with_pulse.sum(axis=1), 1)),
        "pat_residual_ms": 1e3 * latents.pat_residual_s,
        "stiffness": body.stiffness,
        "n_pvc": (inside & (beat_type == BEAT_PVC)).sum(axis=1),
        "n_pac": (inside & (beat_type == BEAT_PAC)).sum(axis=1),
    }
    return pd.DataFrame(columns)


def _qrs_axis(heart: Heart, lead_field: np.ndarray) -> np.ndarray:
    """Frontal QRS axis (degrees), (N,), from the areas under QRS in leads I and aVF."""
    kernels = heart.qrs
    area = sum(kernels.vector_mv[:, k] * kernels.width_s[k] for k in range(len(kernels.width_s)))
    one, two = (sum(weight * part for weight, part in zip(row, area, strict=True)) for row in lead_field[:2])
    return np.rad2deg(np.arctan2((two - 0.5 * one) * 2.0 / np.sqrt(3.0), one))
