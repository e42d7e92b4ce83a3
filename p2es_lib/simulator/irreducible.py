"""Irreducible error: what no method can know of the ECG from PPG, age and sex.

The best estimate in mean squared error is the conditional mean of the ECG given what is seen, and its error is the
floor under every method. Here it is a Monte Carlo average over the simulator's own latents: what PPG, age and sex
reveal is held, everything else is drawn anew and the ECG rendered again.

Held with ``hold="pulses"``: age, sex, stiffness (it shapes the pulse), the onset of every pulse, the rhythm and the
type of each beat, the mean RR interval (which sets QT), breathing rate and phase, the part of the arrival time that
follows RR. Drawn anew: height (hence part of the arrival time), the arrival-time residual and its beat-to-beat jitter,
and whatever else shapes the ECG. R = pulse onset - drawn arrival time. Held besides with ``hold="beats"``: the true R
times of all beats. The difference between the two floors is timing.

Approximations
--------------
1. Pulse onsets and the other quantities held count as exactly known: the floor is too low rather than too high.
2. Given the onsets, R has the distribution of onset minus arrival time: a flat prior on the beat times. It is exact
   for the residual (windows begin anywhere); for the jitter it ignores that a smooth RR series says a little more.
3. The presence of a ventricular beat without a pulse is held, its time is drawn between the drawn R times of its
   neighbours, with a full compensatory pause.
4. Each window is taken alone: the PPG of a subject says no more about the residual in two windows than in one.

With M draws the average itself is noisy: E|x - m_M|^2 = (1 + 1/M) s^2, because x and the draws are independent and
alike given what is held. :func:`irreducible_rmse` divides this out.
"""

from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

from p2es_lib.core.errors import InputError, check_choice
from p2es_lib.core.leads import expand_leads
from p2es_lib.simulator import draws as random
from p2es_lib.simulator.cohort import PAT_JITTER_S, SimulatedWindows
from p2es_lib.simulator.demographics_effects import draw_body, draw_traits
from p2es_lib.simulator.heart import draw_heart
from p2es_lib.simulator.morphology import draw_morphology
from p2es_lib.simulator.normal_beats import draw_lead_fields
from p2es_lib.simulator.render import render_ecg8
from p2es_lib.simulator.rhythm import pvc_coupling
from p2es_lib.simulator.settings import SimulatorConfig

# Last word of the Monte Carlo's own seed: without it the draws of a subject would be the subject.
_STREAM = 0x1DE


class ConditionalMean(NamedTuple):
    """Mean and variance of the ECG over the draws, float32 (N, 12, T), mV and mV2 (unbiased), and their number."""

    mean: np.ndarray
    variance: np.ndarray
    n_draws: int


def conditional_mean_ecg(
    windows: SimulatedWindows, config: SimulatorConfig, *, n_draws: int, hold="pulses", seed=0, progress=False
) -> ConditionalMean:
    """Average ECG over everything that PPG, age and sex do not reveal (see the module for what is held).

    The windows were made with ``config``, which also says how far the draws spread. Each subject has its own stream: a
    window's result does not depend on the others. Unknown ``hold``, fewer than 2 draws, or windows of another length
    than the configuration's: InputError.
    """
    check_choice("hold", hold, ("pulses", "beats"))
    if n_draws < 2:
        raise InputError(f"n_draws={n_draws}: at least 2 draws are needed for a variance")
    if windows.ecg.shape[-1] != config.window_samples:
        raise InputError(f"windows have {windows.ecg.shape[-1]} samples, config.window_samples={config.window_samples}")
    from tqdm.auto import tqdm

    mean, variance = np.empty_like(windows.ecg), np.empty_like(windows.ecg)
    bar = {"desc": f"irreducible error ({hold} held)", "unit": "window", "disable": not progress}
    for row in tqdm(range(len(windows)), **bar):
        ecg = expand_leads(_draw_ecg8(windows, row, config, n_draws, hold, seed))  # (M, 12, T)
        mean[row] = ecg.mean(axis=0)
        ecg -= mean[row]
        ecg *= ecg
        variance[row] = ecg.sum(axis=0) / (n_draws - 1)
    return ConditionalMean(mean, variance, n_draws)


def irreducible_rmse(windows: SimulatedWindows, conditional_mean: ConditionalMean, *, per_lead: bool = False):
    """Lowest reachable RMSE (mV) over these windows, corrected for the number of draws: a float, or (12,) per lead."""
    error = windows.ecg.astype(np.float64) - conditional_mean.mean
    mse = np.mean(error * error, axis=(0, 2)) / (1.0 + 1.0 / conditional_mean.n_draws)
    return np.sqrt(mse) if per_lead else float(np.sqrt(mse.mean()))


def _draw_ecg8(
    windows: SimulatedWindows, row: int, config: SimulatorConfig, n_draws: int, hold: str, seed: int
) -> np.ndarray:
    """ECGs of one window under ``n_draws`` draws of what is not held, float32 (M, 8, T)."""
    latents = vars(windows.latents)
    sequence = np.random.SeedSequence((seed, config.seed, int(latents["subject"][row]), _STREAM))
    rng = np.random.Generator(np.random.PCG64(sequence))

    held = SimpleNamespace(**{name: np.repeat(all_[row : row + 1], n_draws, axis=0) for name, all_ in latents.items()})
    subject = random.draw_block(rng, n_draws)
    body = draw_body(held.age, held.female, subject, config, held.stiffness)
    traits = draw_traits(body, held.rhythm, subject, config)
    heart = draw_heart(body, traits, draw_morphology(body, subject, config), held.mean_rr_s, subject, config)
    f_wave_phase, r_times = rng.random((3, n_draws)), held.r_times
    if hold == "pulses":
        r_times = _draw_r_times(windows, row, traits.pat_s + traits.pat_residual_s, rng, config)
    breathing = (held.breathing_hz, held.breathing_phase)
    lead_fields = draw_lead_fields(body.age, body.female, subject, config)
    return render_ecg8(heart, lead_fields, r_times, held.beat_type, breathing, f_wave_phase, config)


def _draw_r_times(
    windows: SimulatedWindows, row: int, pat_s: np.ndarray, rng: np.random.Generator, config: SimulatorConfig
) -> np.ndarray:
    """R times (M, n_beats) from the pulse onsets and drawn arrival times (M,)."""
    latents = windows.latents
    onsets = latents.pulse_onsets[row] - latents.pat_drift_s[row]
    jitter = config.pat_jitter * PAT_JITTER_S * rng.standard_normal((len(pat_s), len(onsets)))
    r_times = onsets - pat_s[:, None] - jitter
    for beat in np.flatnonzero(~np.isnan(latents.r_times[row]) & np.isnan(onsets)):
        coupling, rr = pvc_coupling(rng.standard_normal(len(pat_s))), latents.mean_rr_s[row]
        before = r_times[:, beat - 1] if beat > 0 else latents.r_times[row, beat] - coupling * rr
        after = r_times[:, beat + 1] if beat + 1 < len(onsets) else np.full(len(pat_s), np.nan)
        r_times[:, beat] = before + coupling * np.where(np.isnan(after), rr, 0.5 * (after - before))
    return r_times
