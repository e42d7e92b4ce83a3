"""RR series: sinus rhythm with respiratory and Mayer-wave variability, atrial fibrillation, premature beats.

- Sinus rhythm: RR is modulated by a sine at the breathing rate (0.17-0.31 Hz), one at 0.1 Hz (Mayer waves) and white
  noise; sizes from :func:`p2es_lib.simulator.demographics_effects.draw_traits`.
- Atrial fibrillation: independent RR intervals, coefficient of variation 0.19 within 10 s (PTB-XL, p10-90 0.12-0.23)
  with an exponential long tail (Hennig 2006), here a shifted gamma distribution with shape 3.
- Ventricular premature beats (PVC): coupling 0.60 +- 0.10 of the RR interval (ratio 0.60 +- 0.15 between patients,
  Park 2015; range within a patient 94 ms), full compensatory pause (unverified as the usual case).
- Atrial premature beats (PAC): coupling 0.60-0.88 of RR, then the interval x 1.0-1.35 (Petrenas 2017, Bachi 2023).
- Frequent PVCs (a change of the heart between sessions): two to four in every window.
- Hearts above 150 per minute have none: their RR intervals leave no room.
- How many windows hold one: 10-s ECGs with a PVC 2.6 % in middle age and 4.9 % at 73 (ARIC/CHS); PACs by age as in
  Zheng 2020. Half of the windows of a subject who has them hold at least one: an assumption.

Beats begin 3.5 s before the window and go on 1.2 s after it: its edges hold what beats outside leave there.
"""

from dataclasses import dataclass

import numpy as np

from p2es_lib.simulator.demographics_effects import AF, Body, Traits
from p2es_lib.simulator.draws import Draws
from p2es_lib.simulator.sessions import TO_PVC, Session
from p2es_lib.simulator.settings import SimulatorConfig

_BEFORE_S, _AFTER_S = 3.5, 1.2
#: RR intervals are never shorter than this (s).
MIN_RR_S = 0.3
# ... but in very fast hearts, of whom this share of their mean interval is the least; 220 per minute is the fastest.
_MIN_RR_SHARE, _FASTEST_RR_S, _SLOWEST_RR_S = 0.9, 60.0 / 220.0, 60.0 / 30.0
_NO_PREMATURE_BELOW_S, _MORE_PVC_SHARE = 0.4, 0.6
#: Codes of the beat types in the latents; -1 is padding.
BEAT_SINUS, BEAT_PVC, BEAT_PAC, BEAT_AF = range(4)
_PAC_SLOTS = (2, 3)
_MAYER_HZ, _AF_RR_CV, _PER_SUBJECT_SHARE = 0.1, 0.19, 0.5


@dataclass(frozen=True)
class Beats:
    """Beats of N windows, (N, n_beats), NaN-padded; times in seconds from the first sample."""

    r_times: np.ndarray
    preceding_rr_s: np.ndarray
    beat_type: np.ndarray
    mean_rr_s: np.ndarray  # (N,): what QT has adapted to


def beat_capacity(config: SimulatorConfig) -> tuple[int, int]:
    """Number of beat columns that certainly suffice for a window with its margins, and how many more very fast hearts
    need, where there are any: the numbers of the first must not change with the second.
    """
    usual, most = (
        int(np.ceil((config.window_s + _BEFORE_S + _AFTER_S) / least)) + 2
        for least in (MIN_RR_S, _MIN_RR_SHARE * _FASTEST_RR_S)
    )
    return usual, most - usual if config.extreme_rates else 0


def pvc_coupling(z: np.ndarray) -> np.ndarray:
    """Coupling interval of PVCs as a share of RR, from standard normal ``z``."""
    return np.clip(0.60 + 0.10 * z, 0.42, 0.85)


def draw_beats(
    body: Body, traits: Traits, subject: Draws, window: Draws, config: SimulatorConfig, session: Session
) -> Beats:
    """RR series of N windows, one beat after the other, all windows at once."""
    n, n_beats = len(traits.rr_s), sum(beat_capacity(config))
    rr_0 = traits.rr_s * np.exp(0.04 * config.heart_rate * window.normal["heart_rate"])
    rr_0 = np.clip(rr_0, _FASTEST_RR_S, _SLOWEST_RR_S)
    least = np.where(traits.far_way > 0, np.minimum(MIN_RR_S, _MIN_RR_SHARE * rr_0), MIN_RR_S)
    armed, premature_time, coupling, pause = _premature_slots(body, traits, subject, window, config, session)
    time = -_BEFORE_S - rr_0 * window.uniform["start"]
    ordinary = np.where(traits.rhythm == AF, BEAT_AF, BEAT_SINUS).astype(np.int8)
    times, kinds = [time], [ordinary]
    pending = np.ones(n)  # factor of the interval after a premature beat
    for beat in range(1, n_beats):
        interval = rr_0 * (1.0 + _modulation(traits, beat, time, window, config))
        factor, kind = pending, ordinary.copy()
        pending = np.ones(n)
        for slot in range(len(armed)):
            due = armed[slot] & (factor == 1.0) & (time + interval > premature_time[slot]) & (time < config.window_s)
            factor = np.where(due, coupling[slot], factor)
            pending = np.where(due, pause[slot], pending)
            kind[due] = BEAT_PAC if slot in _PAC_SLOTS else BEAT_PVC
            armed[slot] &= ~due
        time = time + np.maximum(interval * factor, least)
        times.append(time)
        kinds.append(kind)

    r_times, beat_type = np.stack(times, axis=1), np.stack(kinds, axis=1)
    preceding = np.concatenate([rr_0[:, None], np.diff(r_times, axis=1)], axis=1)
    outside = r_times > config.window_s + _AFTER_S
    last = np.where(outside, -np.inf, r_times).max(axis=1)
    mean_rr = (last - r_times[:, 0]) / np.maximum((~outside).sum(axis=1) - 1, 1)
    r_times[outside], preceding[outside], beat_type[outside] = np.nan, np.nan, -1
    return Beats(r_times=r_times, preceding_rr_s=preceding, beat_type=beat_type, mean_rr_s=mean_rr)


def _premature_slots(body: Body, traits: Traits, subject: Draws, window: Draws, config, session: Session):
    """Two PVCs, two PACs, two more PVCs, (6, N): whether, when (s), coupling, pause in intervals.

    The second of a kind in 35 % of the windows with one, the last two in hearts with frequent PVCs alone.
    """
    u, scale = window.uniform, config.premature_beats / _PER_SUBJECT_SHARE
    pvc_share = scale * np.interp(body.age, [20.0, 55.0, 73.0, 90.0], [0.005, 0.026, 0.049, 0.07])
    pac_share = scale * np.interp(body.age, [20.0, 45.0, 65.0, 85.0], [0.002, 0.004, 0.024, 0.067])
    now = u["premature"] < _PER_SUBJECT_SHARE
    pvc = (subject.uniform["pvc"] < pvc_share) & now[0]
    pac = (subject.uniform["pac"] < pac_share) & now[1] & (traits.rhythm != AF) & ~pvc
    frequent = session.change == TO_PVC
    more = frequent & (u["more_pvc"] < _MORE_PVC_SHARE)
    pvc, pac = pvc | frequent, pac & ~frequent
    armed = np.stack([pvc, pvc & (frequent | (u["pause"][0] < 0.35)), pac, pac & (u["pause"][2] < 0.35), *more])
    armed &= traits.rr_s >= _NO_PREMATURE_BELOW_S
    premature_time = 0.3 + (config.window_s - 1.0) * np.concatenate([u["premature_time"], u["more_pvc_time"]])
    of_pvc, of_more = pvc_coupling(window.normal["coupling"][:2]), pvc_coupling(window.normal["more_coupling"])
    coupling = np.concatenate([of_pvc, 0.60 + 0.28 * u["pause"][2:], of_more])
    return [armed, premature_time, coupling, np.concatenate([2.0 - of_pvc, 1.0 + 0.35 * u["pause"][:2], 2.0 - of_more])]


def _modulation(traits: Traits, beat: int, time: np.ndarray, window: Draws, config: SimulatorConfig) -> np.ndarray:
    """Deviation of the next RR interval after ``time`` (s), as a share of it, (N,)."""
    u = window.uniform
    modulation = traits.rsa * np.sin(2 * np.pi * (traits.breathing_hz * time + u["breathing_phase"]))
    modulation += traits.mayer * np.sin(2 * np.pi * (_MAYER_HZ * time + u["mayer_phase"]))
    modulation += traits.rr_noise * window.normal["rr"][beat]
    v = u["af"][3 * beat : 3 * beat + 3]
    gamma = -(np.log1p(-v[0]) + np.log1p(-v[1]) + np.log1p(-v[2]))
    return np.where(traits.rhythm == AF, _AF_RR_CV * config.hrv * (gamma - 3.0) / np.sqrt(3.0), modulation)
