"""Draws of a person, given all that a recording of another session can reveal.

The target is session 0, the person as drawn; the reference is another session, in which much deviates from it. At most
it reveals, exactly:

- what no session alters: height, shapes of the waves, class of the heart, widths of P, f waves;
- of each quantity x that sessions alter its value there, r = x + d, but not how much of it is the deviation d. These
  are arrival time, PR, QRS and QTc, size and axis of P, QRS and T, gains and places of electrodes, size and lag of what
  breathing does.

x and d are independent, of known distributions: the simulator's own. Where both are normal, a draw of x given r is

    x' + K (r - x' - d'),    K = Cov(x, r) Cov(r)^-1,

with x' and d' drawn anew (Matheron's rule). The arrival time's d is a mixture of two normals: one of them is drawn by
its odds given r, then as above. The lag of breathing may be anything: r - d'. So the truth is exchangeable with the
draws, and nothing more can be known: no recording, however long or clean, says more of session 0 than r does. A real
one says less, so the floor is too low rather than too high.

With a flat distribution of people, r - d' throughout, the draws would be too wide: arrival times differ by 15 ms
between people and by 13 ms between recordings, chest electrodes by 0.4 and by 1.9 cm.

To first order: the few values that are clipped (2.5 to 3 SD), axes near the middle of their lopsided distribution,
and the order in which electrodes are moved.
"""

import numpy as np

from p2es_lib.simulator import draws as random
from p2es_lib.simulator.demographics_effects import Body, draw_traits
from p2es_lib.simulator.draws import Draws
from p2es_lib.simulator.heart import BREATHING_LOG_SD, OWN_TURN
from p2es_lib.simulator.morphology import NORMAL_LIKE, qrs_duration
from p2es_lib.simulator.normal_beats import electrodes_seen, fitted
from p2es_lib.simulator.sessions import (
    PAT_SD_S,
    PAT_TAIL_SHARE,
    REFERENCE_SESSION,
    Session,
    as_recordings,
    make_session,
    no_session,
)
from p2es_lib.simulator.settings import SimulatorConfig


def draw_person(
    own: Draws, reference: Draws, fresh: Draws, deviation: Draws, body: Body, classes, rhythm, config: SimulatorConfig
) -> Draws:
    """M draws of the numbers of a person whose ``reference`` session is known.

    ``own`` and ``reference`` hold the true numbers of the person and of that session, ``fresh`` and ``deviation`` those
    of M others. All, and the person's body, morphology class and rhythm, have M rows.
    """
    settings = as_recordings(config)
    there, other = (_sitting(numbers, settings) for numbers in (reference, deviation))
    one = (random.on_rows(table, lambda values: values[..., :1]) for table in (own, there, body, classes, rhythm))
    by_person, by_session = _sensitivity(*one, settings)
    truth, drawn = random.stacked(own), random.stacked(fresh)
    differs = by_person @ (truth - drawn) + by_session @ (random.stacked(reference) - random.stacked(deviation))
    covariance = by_person @ by_person.T + by_session @ by_session.T
    drawn = drawn + by_person.T @ (np.linalg.pinv(covariance, 1e-9, hermitian=True) @ differs)
    normal = random.unstacked(np.where(by_person.any(axis=0)[:, None], drawn, truth), random.ALL_SUBJECT_NORMALS)
    normal["pat_residual"] = _arrival(own, there, fresh, deviation, settings)
    phase = own.uniform["ecg_breathing_phase"] + there.breathing_lag - other.breathing_lag
    return Draws(normal, own.uniform | {"ecg_breathing_phase": phase})


def _sitting(numbers: Draws, config: SimulatorConfig) -> Session:
    return make_session(numbers, REFERENCE_SESSION, "none", config)


def _arrival(own: Draws, there: Session, fresh: Draws, deviation: Draws, config: SimulatorConfig) -> np.ndarray:
    """Numbers behind the person's residual of the arrival time, (M,), given its sum with the reference's deviation."""
    spread_s, sd_s = 1e-3 * config.pat_residual_sd_ms, np.maximum(config.session_changes * np.array(PAT_SD_S), 1e-9)
    known_s, z = spread_s * own.normal["pat_residual"] + there.pat_s, fresh.normal["pat_residual"]
    total_s = np.hypot(spread_s, sd_s)[:, None]
    odds = np.exp(-0.5 * (known_s / total_s) ** 2) / total_s * np.array([[1 - PAT_TAIL_SHARE], [PAT_TAIL_SHARE]])
    tail = deviation.uniform["pat_tail"] < odds[1] / odds.sum(axis=0)
    sd_s = np.where(tail, *sd_s[::-1])
    other_s = sd_s * np.where(tail, *deviation.normal["pat"][::-1])
    return z + spread_s / (spread_s**2 + sd_s**2) * (known_s - spread_s * z - other_s)


def _sensitivity(
    own: Draws, there: Session, body: Body, classes, rhythm, config: SimulatorConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Change of what is seen per number of the person (R, P) and of the session (R, S), in units of its spread."""
    people, sittings = random.unit_rows(random.ALL_SUBJECT_NORMALS), random.unit_rows(random.SESSION_NORMALS)
    axes, sides = _shape(own.normal)[3:6], fitted()["axis_sides"][:, :, None]
    # The side is that of the axis in the reference: the person's own, near the middle, is not known.
    turned = config.axis * axes * np.where(axes < 0, *sides) + there.turn_deg
    heart = body, classes, rhythm, np.where(turned < 0, *sides)
    nobody = random.on_rows(people, lambda values: 0.0 * values[..., :1])
    usual = _seen(nobody, no_session(1), *heart, config)
    by_person = _seen(people, no_session(1), *heart, config) - usual
    by_session = _seen(nobody, _sitting(sittings, config), *heart, config) - usual
    size = np.sqrt((by_person**2).sum(axis=1) + (by_session**2).sum(axis=1))[:, None]
    return tuple(part / np.where(size > 0, size, 1.0) for part in (by_person, by_session))


def _seen(draws: Draws, session: Session, body: Body, classes, rhythm, sides, config: SimulatorConfig) -> np.ndarray:
    """What a sitting shows, (R, N), but for arrival time and lag of breathing; all but draws or session may be 1 row.

    ``sides``: spread of the three axes, degrees, on the side of the usual one that the person's lie on.
    """
    traits, latent = draw_traits(body, rhythm, draws, config, session), _shape(draws.normal)
    qrs_s = qrs_duration(classes, traits.qrs_normal_s, draws.normal["qrs_duration"], config) + session.qrs_s
    share = np.where(np.isin(classes, NORMAL_LIKE), 1.0, [[1.0], [OWN_TURN], [OWN_TURN]])
    rows = [
        config.amplitudes * latent[:3] + session.wave_gain,
        config.axis * share * sides * latent[3:6] + session.turn_deg,
        latent[6:],
        BREATHING_LOG_SD * draws.normal["ecg_breathing"] + session.ecg_breathing,
        electrodes_seen(draws, config, session),
        traits.pr_s, traits.qt_at_1s, qrs_s,
    ]  # fmt: skip
    n = max(len(session.number), len(draws.normal["qtc"]))
    return np.concatenate([np.broadcast_to(row, (*row.shape[:-1], n)).reshape(-1, n) for row in rows])


def _shape(normal: dict[str, np.ndarray]) -> np.ndarray:
    """Log sizes of P, QRS and T, turns of their axes (in spreads), and scores of the beat's shape, (46, N)."""
    return fitted()["factor"] @ np.concatenate([normal["beat"], normal["beat_finer"]])
