"""Semi-synthetic pairs: a PPG simulated from the beats of a real ECG, with the age and sex of its subject.

The pulses follow the R peaks with the arrival times, heights and shapes of the simulator, at the finger. So such a PPG
knows of its ECG the times of the beats and, through age, sex and stiffness, what the simulator believes about pulses:
results on such pairs are an upper bound of realism in the ECG, not evidence about sensors.
"""

import hashlib

import numpy as np

from p2es_lib.core.errors import InputError
from p2es_lib.simulator.cohort import PAT_JITTER_S, breathe, pat_drift, sensor_noise_sd
from p2es_lib.simulator.demographics_effects import MAX_AGE, MIN_AGE, SINUS, draw_age_and_sex, draw_body, draw_traits
from p2es_lib.simulator.draws import draw_subjects
from p2es_lib.simulator.pulse import amplitude_from_rr, pulse_shape, pulse_train
from p2es_lib.simulator.settings import SimulatorConfig

_BEATS_OUTSIDE = 4  # added before the first and after the last one found: the ends carry their pulses


def semi_synthetic_ppg(
    rpeaks_s: np.ndarray, duration_s: float, sampling_rate: float, *, age: float, sex: str, record: str, subject: str
) -> np.ndarray:
    """PPG (T,) of a finger whose pulses follow the given beats, as a sensor gives it: neither band-passed nor scaled.

    ``rpeaks_s`` (n_beats,) are seconds after the first sample, ascending; two or more, else InputError. What is not
    known of age and sex (NaN, ``""``) is drawn from the simulator's population; children count as its youngest.
    ``subject`` seeds stiffness, pulse shape, breathing rate and arrival time, ``record`` noise and beat-to-beat jitter.
    """
    rpeaks_s = np.asarray(rpeaks_s, dtype=float)
    if len(rpeaks_s) < 2:
        raise InputError(f"record {record}: {len(rpeaks_s)} R peak(s) found; a PPG is simulated from two or more")
    config = SimulatorConfig(sampling_rate=sampling_rate)
    draws = draw_subjects([_generator("subject", subject)])
    drawn_age, drawn_female = draw_age_and_sex(draws)
    known_age = np.clip(np.array([age], dtype=float), MIN_AGE, MAX_AGE)
    female = {"F": np.array([True]), "M": np.array([False])}.get(sex, drawn_female)
    body = draw_body(np.where(np.isnan(known_age), drawn_age, known_age), female, draws, config)
    traits = draw_traits(body, np.array([SINUS]), draws, config)  # its rate and intervals are not used

    rng = _generator("record", record)
    interval = float(np.median(np.diff(rpeaks_s)))
    outside = interval * np.arange(1, _BEATS_OUTSIDE + 1)
    beats = np.concatenate([rpeaks_s[0] - outside[::-1], rpeaks_s, rpeaks_s[-1] + outside])[None]  # (1, n_beats)
    preceding = np.concatenate([[interval], np.diff(beats[0])])[None]
    drift = pat_drift(preceding, np.array([preceding.mean()]))
    jitter = PAT_JITTER_S * rng.standard_normal(beats.shape)
    onsets = beats + (traits.pat_s + traits.pat_residual_s)[:, None] + drift + jitter
    shape = pulse_shape(body.age, body.stiffness, np.array([60.0 / interval]), draws.normal["pulse_shape"].T)
    t = np.arange(round(duration_s * sampling_rate)) / sampling_rate
    ppg = pulse_train(onsets, amplitude_from_rr(preceding), preceding, shape, t)
    ppg = breathe(ppg, t, traits.breathing_hz, rng.random(1), 1.0, draws.normal["ppg_breathing"])
    noise_sd = sensor_noise_sd(draws.normal["noise_level"], 1.0)
    return (ppg + noise_sd[:, None] * rng.standard_normal(ppg.shape))[0].astype(float)


def _generator(kind: str, name: str) -> np.random.Generator:
    digest = hashlib.sha256(f"{kind}:{name}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))
