"""The embedded cohort: paired wearable PPG and 12-lead ECG with known latents.

``simulate(subjects)`` returns windows in subject-major order. A subject is a number; together with the seed it decides
everything about it, so the same number gives the same bytes in any cohort, order, batch or process. To keep that true,
arrays are worked on elementwise and contiguously: no matrix product, no FFT across rows, no reduction except along a
row, because their rounding may depend on the shape of the whole array.

The ECG is clean (no sensor noise, no baseline wander): it is the target. The PPG carries sensor noise, breathing and,
on request, a wearable disturbance, and is z-scored per window.

References
----------
McSharry PE et al. IEEE Trans Biomed Eng 50:289, 2003 (kernels). Sameni R et al. EURASIP J Adv Signal Process 2007
(dipole). The other sources stand in the modules: demographics_effects (age, sex), rhythm, heart, morphology,
lead_field, pulse, disturbances.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import expand_leads
from p2es_lib.signals.cleaning import PPG_BAND_HZ
from p2es_lib.signals.transforms import filter_bandpass
from p2es_lib.simulator import draws as random
from p2es_lib.simulator.demographics_effects import (
    RHYTHMS,
    Body,
    Traits,
    draw_age_and_sex,
    draw_body,
    draw_rhythm,
    draw_traits,
    repeat,
)
from p2es_lib.simulator.disturbances import disturb
from p2es_lib.simulator.heart import Heart, draw_heart, draw_morphology
from p2es_lib.simulator.lead_field import draw_lead_fields
from p2es_lib.simulator.morphology import CLASSES
from p2es_lib.simulator.pulse import amplitude_from_rr, pulse_shape, pulse_train
from p2es_lib.simulator.render import render_ecg8
from p2es_lib.simulator.rhythm import BEAT_PVC, Beats, beat_capacity, draw_beats, premature_flags
from p2es_lib.simulator.settings import SimulatorConfig

# Beat-to-beat arrival time: it follows RR with 14 ms per 241 ms (paced breathing: swing of 14 +- 5 ms for RR 241 +- 102
# ms, RR leading by 2-3 beats; Peng 2021 and Physiol Meas 22:3, 2001), plus an independent part of 2.5 ms (within-person
# spread of the pre-ejection period 2-6 ms, Kortekaas 2018, of which RR explains a part).
_PAT_PER_RR, _PAT_RR_LAG_BEATS, PAT_JITTER_S = 14.0 / 241.0, 2, 0.0025
# A PVC ejects in 78 % of cases (controls; Heart Rhythm 2019), with 29 % of the stroke volume (secondary source).
_PVC_EJECTS, _PVC_AMPLITUDE = 0.78, 0.29
_SUBJECTS_AT_ONCE = 256  # bounds the memory of intermediate arrays


@dataclass(frozen=True)
class Latents:
    """What made each window. Arrays (N,) or, per beat, (N, n_beats_max); beats NaN-padded, beat_type -1-padded.

    ``r_times`` and ``pulse_onsets`` are seconds from the first sample; beats before and after the window are included.
    ``pulse_onsets`` is NaN for a beat without a pulse. ``pat_drift_s`` is the part of the arrival time that follows RR,
    ``pat_jitter_s`` the independent part: onset = R + pat + pat_residual + pat_drift + pat_jitter. ``beat_type`` codes:
    :data:`p2es_lib.simulator.rhythm.BEAT_TYPES`; ``rhythm``: ``RHYTHMS``; ``morphology``: ``CLASSES``.
    """

    subject: np.ndarray
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
    pat_jitter_s: np.ndarray
    mean_rr_s: np.ndarray
    pr_s: np.ndarray
    qrs_s: np.ndarray
    qt_s: np.ndarray
    breathing_hz: np.ndarray
    breathing_phase: np.ndarray


@dataclass(frozen=True)
class SimulatedWindows:
    """Simulated windows.

    Attributes
    ----------
    ppg : float32 array (N, 1, T), z-scored per window
    ecg : float32 array (N, 12, T), mV, order of ``leads.LEADS``
    index : DataFrame of N rows
        subject, record, start_s, age, sex, height_cm, weight_kg, rhythm, morphology, heart_rate (from the RR intervals
        in the window), pr_ms (NaN without P waves), qrs_ms, qtc_ms (Fridericia), axis_deg (QRS, from the areas in I and
        aVF), pat_ms (mean R to pulse foot in the window), pat_residual_ms, stiffness (carotid-femoral PWV, m/s), n_pvc,
        n_pac.
    latents : Latents
    """

    ppg: np.ndarray
    ecg: np.ndarray
    index: pd.DataFrame
    latents: Latents

    def __len__(self) -> int:
        return len(self.ppg)


def simulate(
    subjects: Sequence[int], windows_per_subject: int = 1, config: SimulatorConfig = SimulatorConfig()
) -> SimulatedWindows:
    """Simulate windows of the numbered subjects.

    Parameters
    ----------
    subjects : sequence of int
        Numbers from 0 to 2^32 - 2. The same number is the same person.
    windows_per_subject : int
        Separate stretches of the same person's recording.
    config : SimulatorConfig

    Raises
    ------
    InputError
        No subject, a number out of range, or no window.

    Examples
    --------
    >>> windows = simulate(range(3), windows_per_subject=2)
    >>> windows.ppg.shape, windows.ecg.shape
    ((6, 1, 1024), (6, 12, 1024))
    """
    subjects = [int(subject) for subject in subjects]
    if not subjects or windows_per_subject < 1:
        raise InputError("simulate: give at least one subject and one window per subject")
    n = len(subjects) * windows_per_subject
    ppg = np.empty((n, 1, config.window_samples), dtype=np.float32)
    ecg = np.empty((n, 12, config.window_samples), dtype=np.float32)
    frames, latents = [], []
    step = max(1, _SUBJECTS_AT_ONCE // windows_per_subject)
    for start in range(0, len(subjects), step):
        part = subjects[start : start + step]
        rows = slice(start * windows_per_subject, (start + len(part)) * windows_per_subject)
        ppg[rows, 0], ecg[rows], frame, latent = _simulate_part(part, windows_per_subject, config)
        frames.append(frame)
        latents.append(latent)
    joined = {name: np.concatenate([getattr(part, name) for part in latents]) for name in Latents.__dataclass_fields__}
    return SimulatedWindows(ppg, ecg, pd.concat(frames, ignore_index=True), Latents(**joined))


def _simulate_part(subjects: list[int], n_windows: int, config: SimulatorConfig):
    """PPG (N, T), ECG (N, 12, T), index and latents of a few subjects."""
    n_beats = beat_capacity(config)
    draws = random.draw_subjects(random.generator(config.seed, subject) for subject in subjects)
    rngs = [random.generator(config.seed, s, window) for s in subjects for window in range(n_windows)]
    window = random.draw(rngs, random.window_normals(n_beats), random.window_uniforms(n_beats))
    body = draw_body(*draw_age_and_sex(draws), draws, config)
    traits = draw_traits(body, draw_rhythm(body, draws, config), draws, config)
    classes = draw_morphology(body, draws, config)
    if n_windows > 1:
        body, traits, draws = repeat(body, n_windows), repeat(traits, n_windows), draws.repeat(n_windows)
        classes = np.repeat(classes, n_windows)
    beats = draw_beats(traits, *premature_flags(body, traits, draws, window, config), window, config)
    heart = draw_heart(body, traits, classes, beats.mean_rr_s, draws, config)
    lead_fields = draw_lead_fields(body.age, body.female, draws, config)
    breathing = (traits.breathing_hz, window.uniform["breathing_phase"])
    ecg8 = render_ecg8(
        heart, lead_fields, beats.r_times, beats.beat_type, breathing, window.uniform["f_wave_phase"], config
    )
    latents = Latents(
        subject=np.repeat(np.array(subjects, dtype=np.int64), n_windows),
        **_taken(body, "age", "female", "stiffness"),
        **_taken(traits, "rhythm", "pat_s", "pat_residual_s", "pr_s", "breathing_hz"),
        **_taken(heart, "morphology", "qrs_s", "qt_s"),
        **_taken(beats, "r_times", "preceding_rr_s", "beat_type", "mean_rr_s"),
        **_pulses(beats, traits, window, config),
        breathing_phase=breathing[1],
    )
    ppg = _render_ppg(latents, draws, rngs, config)
    index = _index(subjects, n_windows, body, heart, lead_fields["qrs"], latents, config)
    return ppg, expand_leads(ecg8), index, latents


def _taken(table, *names: str) -> dict[str, np.ndarray]:
    return {name: getattr(table, name) for name in names}


def _pulses(beats: Beats, traits: Traits, window: random.Draws, config: SimulatorConfig) -> dict[str, np.ndarray]:
    """Onset (NaN: none) and height of each beat's pulse, and what varies in its arrival time, (N, n_beats) each."""
    drift = pat_drift(beats.preceding_rr_s, beats.mean_rr_s) * config.pat_jitter
    jitter = config.pat_jitter * PAT_JITTER_S * np.ascontiguousarray(window.normal["pat_jitter"].T)
    jitter = np.where(np.isnan(beats.r_times), np.nan, jitter)
    amplitude = _pulse_amplitude(beats, window)
    onsets = beats.r_times + (traits.pat_s + traits.pat_residual_s)[:, None] + drift + jitter
    onsets[amplitude == 0] = np.nan
    return {"pulse_onsets": onsets, "pulse_amplitude": amplitude, "pat_drift_s": drift, "pat_jitter_s": jitter}


def pat_drift(preceding_rr: np.ndarray, mean_rr: np.ndarray) -> np.ndarray:
    """Part of the arrival time that follows the RR interval two beats earlier, (N, n_beats), s."""
    deviation = np.clip(preceding_rr - mean_rr[:, None], -0.25, 0.25) * _PAT_PER_RR
    lag = _PAT_RR_LAG_BEATS
    shifted = np.concatenate([np.zeros((len(deviation), lag)), deviation[:, :-lag]], axis=1)
    return np.where(np.isnan(preceding_rr), np.nan, shifted)


def _pulse_amplitude(beats: Beats, window: random.Draws) -> np.ndarray:
    """Height of each beat's pulse, (N, n_beats): by filling time; weak or 0 for a PVC; NaN for padding."""
    amplitude = amplitude_from_rr(beats.preceding_rr_s)
    ventricular = beats.beat_type == BEAT_PVC
    order = np.minimum(np.cumsum(ventricular, axis=1), 2) - 1  # first or second PVC of the window
    ejects, size = (
        np.where(order == 1, pair[1][:, None], pair[0][:, None])
        for pair in (window.uniform["ejection"], window.normal["ejection"])
    )
    weak = np.where(ejects < _PVC_EJECTS, _PVC_AMPLITUDE * np.clip(1.0 + 0.3 * size, 0.4, 2.0), 0.0)
    return np.where(ventricular, weak, amplitude)


def _render_ppg(latents: Latents, subject: random.Draws, rngs, config: SimulatorConfig) -> np.ndarray:
    """PPG (N, T): pulses, breathing, sensor noise, disturbance; then the band of all PPG here, z-score."""
    t = np.arange(config.window_samples) / config.sampling_rate
    variation = config.pulse_shape * np.ascontiguousarray(subject.normal["pulse_shape"].T)
    shape = pulse_shape(latents.age, latents.stiffness, 60.0 / latents.mean_rr_s, variation)
    ppg = pulse_train(latents.pulse_onsets, latents.pulse_amplitude, latents.preceding_rr_s, shape, t)
    if config.breathing:
        z = config.breathing, subject.normal["ppg_breathing"]
        ppg = breathe(ppg, t, latents.breathing_hz, latents.breathing_phase, *z)
    noise_sd = sensor_noise_sd(subject.normal["noise_level"], config.sensor_noise)
    for row, rng in enumerate(rngs):
        noise = rng.standard_normal(config.window_samples, dtype=np.float32)
        noise *= noise_sd[row]
        ppg[row] += noise
    if config.disturbance != "none":
        ppg = disturb(ppg, config.disturbance, config.snr_db, rngs, config.sampling_rate).astype(np.float32)
    # Real recordings are cleaned to this band before they are cut into windows: simulated ones must look the same.
    ppg = filter_bandpass(ppg.astype(np.float64), *PPG_BAND_HZ, config.sampling_rate)
    ppg -= ppg.mean(axis=1, keepdims=True)
    spread = np.sqrt((ppg * ppg).mean(axis=1, keepdims=True))
    return (ppg / np.maximum(spread, 1e-9)).astype(np.float32)


def breathe(
    ppg: np.ndarray, t: np.ndarray, hz: np.ndarray, phase: np.ndarray, scale: float, z: np.ndarray
) -> np.ndarray:
    """Pulses (N, T) with breathing in their height and in their baseline.

    Amplitude 5-10 % and baseline 10-50 % of the pulse (unverified), a quarter of a cycle apart. ``hz`` and ``phase``
    (cycles) are (N,), ``z`` standard normal (2, N), ``t`` (T,) seconds.
    """
    depth = (scale * 0.05 * np.exp(0.4 * z[0])).astype(np.float32)[:, None]
    baseline = (scale * 0.10 * np.exp(0.5 * z[1])).astype(np.float32)[:, None]
    cycle = (2 * np.pi * hz).astype(np.float32)[:, None] * t.astype(np.float32)
    cycle += (2 * np.pi * phase).astype(np.float32)[:, None]
    return ppg * (np.float32(1.0) + depth * np.sin(cycle)) + baseline * np.cos(cycle)


def sensor_noise_sd(z: np.ndarray, scale: float) -> np.ndarray:
    """Standard deviation of the sensor noise of N subjects, (N,), in pulse heights; ``z`` standard normal."""
    return (scale * 0.008 * np.exp(0.5 * z)).astype(np.float32)


def _index(subjects, n_windows: int, body: Body, heart: Heart, lead_field, latents: Latents, config) -> pd.DataFrame:
    inside = (latents.r_times >= 0) & (latents.r_times < config.window_s)
    first = np.where(inside, latents.r_times, np.inf).min(axis=1)
    last = np.where(inside, latents.r_times, -np.inf).max(axis=1)
    count = inside.sum(axis=1)
    rr = np.where(count > 1, (last - first) / np.maximum(count - 1, 1), latents.mean_rr_s)
    with_pulse = inside & ~np.isnan(latents.pulse_onsets)
    delay = np.where(with_pulse, latents.pulse_onsets - latents.r_times, 0.0)
    pat = delay.sum(axis=1) / np.maximum(with_pulse.sum(axis=1), 1)
    names = np.repeat([f"sim-{subject:06d}" for subject in subjects], n_windows).astype(object)
    return pd.DataFrame(
        {
            "subject": names,
            "record": names,  # one sensor and one delay per subject; its windows lie a minute apart
            "start_s": 60.0 * np.tile(np.arange(n_windows), len(subjects)),
            "age": body.age,
            "sex": np.where(body.female, "F", "M"),
            "height_cm": body.height_cm,
            "weight_kg": body.weight_kg,
            "rhythm": np.array(RHYTHMS)[latents.rhythm],
            "morphology": np.array(CLASSES)[latents.morphology],
            "heart_rate": 60.0 / rr,
            "pr_ms": np.where(latents.rhythm == RHYTHMS.index("af"), np.nan, 1e3 * latents.pr_s),
            "qrs_ms": 1e3 * heart.qrs_s,
            "qtc_ms": 1e3 * heart.qt_s / np.cbrt(latents.mean_rr_s),
            "axis_deg": qrs_axis(heart, lead_field),
            "pat_ms": 1e3 * pat,
            "pat_residual_ms": 1e3 * latents.pat_residual_s,
            "stiffness": body.stiffness,
            "n_pvc": (inside & (latents.beat_type == BEAT_PVC)).sum(axis=1),
            "n_pac": (inside & (latents.beat_type == BEAT_PVC + 1)).sum(axis=1),
        }
    )


def qrs_axis(heart: Heart, lead_field: np.ndarray) -> np.ndarray:
    """Frontal QRS axis (degrees), (N,), from the areas under QRS in leads I and aVF."""
    area = np.zeros_like(heart.qrs.vector_mv[:, 0])
    for k in range(len(heart.qrs.centre_s)):
        area += heart.qrs.vector_mv[:, k] * heart.qrs.width_s[k]
    one, two = (sum(weight * part for weight, part in zip(row, area, strict=True)) for row in lead_field[:2])
    return np.rad2deg(np.arctan2((two - 0.5 * one) * 2.0 / np.sqrt(3.0), one))
