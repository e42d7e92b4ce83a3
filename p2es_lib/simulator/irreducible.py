"""Irreducible error: what no method can know of the ECG from PPG, age and sex.

The best estimate in mean squared error is the conditional mean of the ECG given what is seen, and its error is the
floor under every method. Here it is a Monte Carlo average over the simulator's own latents: what PPG, age and sex
reveal is held, everything else is drawn anew and the ECG rendered again.

Held with ``hold="pulses"``: age, sex, stiffness (it shapes the pulse), the onset of every pulse, the rhythm and the
type of each beat, the mean RR interval (which sets QT) and whether it is far from rest, breathing rate and phase, the
part of the arrival time that follows RR. Drawn anew: height (hence part of the arrival time), the arrival-time
residual, its slow drift and its beat-to-beat jitter, and whatever else shapes the ECG. R = pulse onset - drawn arrival
time. Held besides with ``hold="beats"``: the true R times of all beats. The difference between the two floors is
timing.

What a reference recording of the person's own ECG and PPG would add is held with ``known``:

- "nothing": no reference, as above; in a session >= 1 its deviations are drawn as well.
- "person_other_session": for windows of session 0 what a recording of another session reveals of the person
  (:mod:`p2es_lib.simulator.person_posterior`); for others, whose reference is session 0, everything of the person, and
  the deviations of the session are drawn anew.
- "person": the session's deviations too, with a change of the heart and the delay. What is left is the drift and jitter
  of the arrival time, and the phase of f waves.

A change of the heart that PPG shows (rhythm, types of the beats) is held; another is known with "person" alone, else
the heart is drawn without it.

Approximations
--------------
1. Pulse onsets and the other quantities held count as exactly known: the floor is too low rather than too high.
2. Given the onsets, R has the distribution of onset minus arrival time: a flat prior on the beat times. It is exact
   for the residual (windows begin anywhere); for the jitter it ignores that a smooth RR series says a little more.
3. The presence of a ventricular beat without a pulse is held, its time is drawn between the drawn R times of its
   neighbours, with a full compensatory pause.
4. A reference counts as perfect: all 12 leads, without noise, its delay without jitter. Of one that shows some leads
   only no floor is known; it lies between those of none and of 12. (The posterior given lead I, say, has no closed
   form, and weighted or nearest draws stand for nothing where some hundred numbers are unknown.)
5. Each window is taken alone: the PPG of a subject says no more about the residual in two windows than in one.

With M draws the average itself is noisy: E|x - m_M|^2 = (1 + 1/M) s^2, because x and the draws are independent and
alike given what is held. :func:`irreducible_rmse` divides this out.
"""

from dataclasses import replace
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

from p2es_lib.core.errors import InputError, check_choice
from p2es_lib.core.leads import expand_leads
from p2es_lib.simulator import draws as random
from p2es_lib.simulator.cohort import PAT_JITTER_S, SimulatedWindows, draw_session
from p2es_lib.simulator.demographics_effects import adapt_to_rate, draw_body, draw_traits
from p2es_lib.simulator.heart import draw_heart
from p2es_lib.simulator.morphology import changed, draw_morphology
from p2es_lib.simulator.normal_beats import draw_lead_fields
from p2es_lib.simulator.person_posterior import draw_person
from p2es_lib.simulator.render import render_ecg8
from p2es_lib.simulator.rhythm import pvc_coupling
from p2es_lib.simulator.sessions import CHANGES, REFERENCE_SESSION, Session, make_session, no_session, slow_arrival
from p2es_lib.simulator.settings import SimulatorConfig

# Last word of the Monte Carlo's own seed: without it the draws of a subject would be the subject. What was added later
# (slow drift, sessions) has a further one, so that the rest stays as it was.
_STREAM, _LATER = 0x1DE, 2
KNOWN = ("nothing", "person", "person_other_session")


class ConditionalMean(NamedTuple):
    """Mean and variance of the ECG over the draws, float32 (N, 12, T), mV and mV2 (unbiased), and their number.

    ``samples`` (N, K, 12, T): the first K draws, if they were asked for.
    """

    mean: np.ndarray
    variance: np.ndarray
    n_draws: int
    samples: np.ndarray


def conditional_mean_ecg(
    windows: SimulatedWindows,
    config: SimulatorConfig,
    *,
    n_draws: int,
    n_kept: int = 0,
    known="nothing",
    hold="pulses",
    seed=0,
    progress=False,
) -> ConditionalMean:
    """Average ECG over everything that PPG, age, sex and what is ``known`` do not reveal (see the module).

    The windows were made with ``config``, which also says how far the draws spread. Each subject has its own stream: a
    window's result does not depend on the others. Of the draws, which exist for one window at a time, ``n_kept`` are
    returned besides (at most all). Unknown ``known`` or ``hold``, fewer than 2 draws, or windows of
    another length than the configuration's: InputError.
    """
    if n_draws < 2:
        raise InputError(f"n_draws={n_draws}: at least 2 draws are needed for a variance")
    from tqdm.auto import tqdm

    mean, variance = np.empty_like(windows.ecg), np.empty_like(windows.ecg)
    samples = np.empty((len(windows), min(n_kept, n_draws), *windows.ecg.shape[1:]), dtype=np.float32)
    bar = {"desc": f"irreducible error ({hold} held)", "unit": "window", "disable": not progress}
    for row in tqdm(range(len(windows)), **bar):
        ecg = posterior_ecg(windows, row, config, n_draws=n_draws, known=known, hold=hold, seed=seed)
        mean[row], samples[row] = ecg.mean(axis=0), ecg[:n_kept]
        ecg -= mean[row]
        ecg *= ecg
        variance[row] = ecg.sum(axis=0) / (n_draws - 1)
    return ConditionalMean(mean, variance, n_draws, samples)


def posterior_ecg(
    windows: SimulatedWindows,
    row: int,
    config: SimulatorConfig,
    *,
    n_draws: int,
    known: str = "nothing",
    hold: str = "pulses",
    seed: int = 0,
) -> np.ndarray:
    """ECGs that one window could have as far as PPG, age, sex and what is ``known`` say, float32 (M, 12, T), mV.

    :func:`conditional_mean_ecg` is the mean of these. Unknown ``known`` or ``hold``, no draw, a row out of range, or
    windows of another length than the configuration's: InputError.
    """
    check_choice("hold", hold, ("pulses", "beats"))
    check_choice("known", known, KNOWN)
    if n_draws < 1 or not 0 <= row < len(windows):
        raise InputError(f"n_draws={n_draws}, row={row}: one draw or more, of one of the {len(windows)} windows")
    if windows.ecg.shape[-1] != config.window_samples:
        raise InputError(f"windows have {windows.ecg.shape[-1]} samples, config.window_samples={config.window_samples}")
    return expand_leads(_draw_ecg8(windows, row, config, n_draws, known, hold, seed))


def irreducible_rmse(windows: SimulatedWindows, conditional_mean: ConditionalMean, *, per_lead: bool = False):
    """Lowest reachable RMSE (mV) over these windows, corrected for the number of draws: a float, or (12,) per lead."""
    error = windows.ecg.astype(np.float64) - conditional_mean.mean
    mse = np.mean(error * error, axis=(0, 2)) / (1.0 + 1.0 / conditional_mean.n_draws)
    return np.sqrt(mse) if per_lead else float(np.sqrt(mse.mean()))


def _draw_ecg8(
    windows: SimulatedWindows, row: int, config: SimulatorConfig, n_draws: int, known: str, hold: str, seed: int
) -> np.ndarray:
    """ECGs of one window under ``n_draws`` draws of what is not held, float32 (M, 8, T)."""
    latents = vars(windows.latents)
    number = int(latents["subject"][row])
    rng, later = (
        np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, config.seed, number, _STREAM, *more))))
        for more in ((), (_LATER,))
    )

    held = SimpleNamespace(**{name: np.repeat(all_[row : row + 1], n_draws, axis=0) for name, all_ in latents.items()})
    subject = random.draw_block(rng, n_draws)
    deviation = random.draw_block(later, n_draws, random.SESSION_NORMALS, random.SESSION_UNIFORMS)
    if known != "nothing":
        fresh, subject = subject, _own(random.draw_subjects, random.generator(config.seed, number), n_draws)
        if known == "person_other_session" and not held.session[0]:
            there = random.generator(config.seed, number, session=REFERENCE_SESSION)
            reference = _own(random.draw_sessions, there, n_draws)
            body = draw_body(held.age, held.female, subject, config, held.stiffness)
            classes = draw_morphology(body, subject, config)
            subject = draw_person(subject, reference, fresh, deviation, body, classes, held.rhythm, config)
    session = _sitting(windows, row, config, n_draws, known, deviation)
    body = draw_body(held.age, held.female, subject, config, held.stiffness)
    traits = draw_traits(body, held.rhythm, subject, config, session)
    traits = adapt_to_rate(replace(traits, far_way=held.far_way), body, held.mean_rr_s)
    classes = changed(draw_morphology(body, subject, config), session.change)
    heart = draw_heart(body, traits, classes, held.mean_rr_s, subject, config, session)
    f_wave_phase, r_times = rng.random((3, n_draws)), held.r_times
    if hold == "pulses":
        pat_s = traits.pat_s + traits.pat_residual_s
        waves = random.draw_block(later, n_draws, random.SLOW_NORMALS, random.SLOW_UNIFORMS)
        slow_s = slow_arrival(held.pulse_onsets - pat_s[:, None], waves, config)
        r_times = _draw_r_times(windows, row, pat_s, rng, config, slow_s)
    breathing = (held.breathing_hz, held.breathing_phase)
    lead_fields = draw_lead_fields(body.age, body.female, subject, config, session)
    return render_ecg8(heart, lead_fields, r_times, held.beat_type, breathing, f_wave_phase, config)


def _own(draw, rng: np.random.Generator, n_draws: int) -> random.Draws:
    """The true numbers from one generator, M times."""
    return random.on_rows(draw([rng]), lambda values: np.repeat(values, n_draws, axis=-1))


def _sitting(
    windows: SimulatedWindows, row: int, config: SimulatorConfig, n_draws: int, known: str, deviation: random.Draws
) -> Session:
    """What the draws take for the session of one window, M rows; ``deviation``: the numbers drawn anew."""
    number, latents = int(windows.latents.session[row]), windows.latents
    if known == "person":
        own = draw_session([int(latents.subject[row])], number, CHANGES[latents.change[row]], config)
        return random.on_rows(own, lambda values: np.repeat(values, n_draws, axis=-1))
    return make_session(deviation, number, "none", config) if number else no_session(n_draws)


def _draw_r_times(
    windows: SimulatedWindows,
    row: int,
    pat_s: np.ndarray,
    rng: np.random.Generator,
    config: SimulatorConfig,
    slow_s: np.ndarray | float = 0.0,
) -> np.ndarray:
    """R times (M, n_beats) from the pulse onsets and drawn arrival times (M,) with their slow part (M, n_beats), s."""
    latents = windows.latents
    onsets = latents.pulse_onsets[row] - latents.pat_drift_s[row]
    jitter = config.pat_jitter * PAT_JITTER_S * rng.standard_normal((len(pat_s), len(onsets)))
    r_times = onsets - pat_s[:, None] - slow_s - jitter
    for beat in np.flatnonzero(~np.isnan(latents.r_times[row]) & np.isnan(onsets)):
        coupling, rr = pvc_coupling(rng.standard_normal(len(pat_s))), latents.mean_rr_s[row]
        before = r_times[:, beat - 1] if beat > 0 else latents.r_times[row, beat] - coupling * rr
        after = r_times[:, beat + 1] if beat + 1 < len(onsets) else np.full(len(pat_s), np.nan)
        r_times[:, beat] = before + coupling * np.where(np.isnan(after), rr, 0.5 * (after - before))
    return r_times
