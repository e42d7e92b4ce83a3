"""The heart as a moving dipole: Gaussian kernels in time with vector amplitudes, summed over beats.

McSharry (IEEE Trans Biomed Eng 50:289, 2003) writes one ECG lead as a sum of Gaussians of the cardiac phase, Sameni
(EURASIP J Adv Signal Process, 2007) three orthogonal dipole components. Here the kernels of the three components share
their times, so that each kernel carries one vector::

    s(t) = sum over beats i and kernels k of  v_k exp(-((t - R_i - c_k) / b_k)^2 / 2)

P wave: five kernels, QRS: seven, ST-T: seven (the last is the U wave); their vectors are solved so that the sum passes
through given vectors at fixed fractions of the interval: those of :mod:`p2es_lib.simulator.normal_beats` or, where the
ventricles are activated otherwise, of :mod:`p2es_lib.simulator.morphology`. ST-T stretches with QT, which follows RR. R
lies at 45 % of the QRS duration. Published intervals are from the first to the last trace of a wave in any lead; the
tangents of the fit lie a little inside: QRS 0.975 of the duration, T 33 ms earlier, P from 0.125 to 0.947 of its
duration (medians of PTB-XL normals against the published ones).

Breathing changes the QRS by about 3 % and turns the frontal axis by about 3 degrees (unverified). Atrial fibrillation:
no P wave; f waves as the sawtooth of Petrenas 2017, 6.1 +- 0.8 Hz (Xi 2004, Park 2019), 0.035 mV RMS.
"""

from dataclasses import dataclass

import numpy as np

from p2es_lib.simulator import morphology, normal_beats
from p2es_lib.simulator.demographics_effects import AF, Body, Traits, qt_interval
from p2es_lib.simulator.draws import Draws
from p2es_lib.simulator.normal_beats import largest
from p2es_lib.simulator.sessions import Session, no_session
from p2es_lib.simulator.settings import SimulatorConfig

_R_FRACTION = 0.45
#: Spread between people of the logarithm of what breathing does to the ECG, and the share of a person's deviation of
#: axis with which hearts turn that are not activated normally.
BREATHING_LOG_SD, OWN_TURN = 0.3, 0.6
# Sizes of class vectors (men, women): means over subjects flatten the peaks.
_CLASS_QRS, _CLASS_T = (1.15, 1.05), (1.00, 0.95)
# Where the vectors of each wave are given, and the widths of its kernels, both as fractions of its interval.
_KNOTS = {
    "p": (normal_beats.P_FRACTIONS, np.full(5, 0.12)),
    "qrs": (normal_beats.QRS_FRACTIONS, np.full(7, 0.075)),
    "st_t": (normal_beats.ST_T_FRACTIONS, np.array([0.11, 0.11, 0.11, 0.10, 0.09, 0.09, 0.14])),
}
_P_INSIDE, _QRS_INSIDE, _TANGENT_S = (0.125, 0.947), (0.0125, 0.9875), 0.033
_PVC_QRS_S, _PVC_SIZE_MV, _F_WAVE_HZ, _F_WAVE_RMS_MV = 0.150, 1.5, (6.1, 0.8), 0.035


@dataclass(frozen=True)
class Kernels:
    """K kernels of N rows: times from R and widths in seconds (K, N), vectors (and local content) in mV (C, K, N)."""

    centre_s: np.ndarray
    width_s: np.ndarray
    vector_mv: np.ndarray


@dataclass(frozen=True)
class Heart:
    """What turns beat times of N rows into a dipole; arrays are (N,)."""

    p: Kernels
    ta: Kernels
    qrs: Kernels
    st_t: Kernels
    pvc_qrs: Kernels
    pvc_st_t: Kernels
    pac_p: Kernels
    morphology: np.ndarray
    qrs_s: np.ndarray
    qt_s: np.ndarray
    breathing_gain: np.ndarray
    breathing_turn: np.ndarray
    breathing_lag: np.ndarray
    f_wave_hz: np.ndarray
    f_wave_mv: np.ndarray


def draw_heart(
    body: Body,
    traits: Traits,
    classes: np.ndarray,
    mean_rr_s: np.ndarray,
    draws: Draws,
    config: SimulatorConfig,
    session: Session | None = None,
) -> Heart:
    """Kernels for given body, traits, morphology classes and mean RR interval (which sets QT), N rows."""
    session = no_session(len(classes)) if session is None else session
    z, breathing = draws.normal, config.breathing
    qrs_s = morphology.qrs_duration(classes, traits.qrs_normal_s, z["qrs_duration"], config) + session.qrs_s
    qt_s = qt_interval(traits, mean_rr_s, qrs_s)
    vectors = _waves(body, classes, draws, config, session)
    vectors["p"] *= traits.rhythm != AF
    spans = _spans(traits, qrs_s, qt_s)
    return Heart(
        **{wave: _kernels(wave, vectors[wave], spans[wave]) for wave in _KNOTS},
        ta=_atrial_repolarisation(vectors["p"], *spans["p"], traits.ta_scale),
        **_ectopic_kernels(vectors["p"], traits, qrs_s, qt_s, draws, config),
        morphology=classes,
        qrs_s=qrs_s,
        qt_s=qt_s,
        breathing_gain=0.03 * breathing * np.exp(BREATHING_LOG_SD * z["ecg_breathing"][0] + session.ecg_breathing),
        breathing_turn=np.deg2rad(3.0)
        * breathing
        * np.exp(BREATHING_LOG_SD * z["ecg_breathing"][1] + session.ecg_breathing),
        breathing_lag=draws.uniform["ecg_breathing_phase"] + session.breathing_lag,
        f_wave_hz=np.clip(_F_WAVE_HZ[0] + _F_WAVE_HZ[1] * z["f_wave"][0], 4.0, 9.0),
        f_wave_mv=_F_WAVE_RMS_MV * np.exp(0.4 * config.amplitudes * z["f_wave"][1]) * (traits.rhythm == AF),
    )


def _waves(
    body: Body, classes: np.ndarray, draws: Draws, config: SimulatorConfig, session: Session
) -> dict[str, np.ndarray]:
    """Vectors and local content of P, QRS and ST-T, (3 + N_LOCAL, K, N) each, mV, turned in the frontal plane.

    Normally activated ventricles are turned to the axes drawn for the subject, others by its deviation from what is
    usual at that age only; their local content, which nobody measured, deviates as much for its size as in normal ones.
    """
    shape = normal_beats.draw_shape(body.age, body.female, draws, config)
    like_normal = np.isin(classes, morphology.NORMAL_LIKE)
    p_turn, *turns = shape.axis_deg - normal_beats.REFERENCE_AXIS_DEG + session.turn_deg
    waves = {"p": np.concatenate([turn_frontal(shape.vectors["p"], p_turn), shape.local["p"]])}
    ventricles = _ventricles(shape, like_normal, body, classes, draws, config, session)
    own_turns = OWN_TURN * shape.axis_deviation_deg[1:] + session.turn_deg[1:]
    for wave, vectors, turn, own_turn in zip(("qrs", "st_t"), ventricles, turns, own_turns, strict=True):
        turned = turn_frontal(vectors, np.where(like_normal, turn, own_turn))
        local = np.where(like_normal, shape.local[wave], largest(turned) * shape.local_variation[wave])
        waves[wave] = np.concatenate([turned, local])
    for wave, gain in zip(waves, np.exp(session.wave_gain), strict=True):
        waves[wave] *= gain
    return waves


def _ventricles(
    shape: normal_beats.BeatShape, like_normal, body: Body, classes, draws: Draws, config, session: Session
) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of QRS and ST-T, (3, 7, N) each, mV, before they are turned."""
    tables = morphology.QRS_MV, morphology.T_MV, morphology.ST_MV
    qrs, t_wave, st = (np.take(table, classes, axis=-1) for table in tables)
    qrs_size, t_size = (np.where(body.female, women, men) for men, women in (_CLASS_QRS, _CLASS_T))
    qrs = (qrs + largest(qrs) * shape.vector_variation["qrs"]) * (qrs_size * shape.factors[1])
    t_own, st_own = morphology.repolarisation_scatter(classes, config.amplitudes * draws.normal["repolarisation"])
    st_t = _repolarisation(st + st_own, t_wave * t_size * shape.factors[2] + t_own)
    st_t = np.where(like_normal, shape.vectors["st_t"], st_t)
    t_change, injury_st, injury_t = morphology.injury(classes, draws, session.change)
    return np.where(like_normal, shape.vectors["qrs"], qrs), st_t * t_change + _repolarisation(injury_st, injury_t)


def _repolarisation(st: np.ndarray, t_wave: np.ndarray) -> np.ndarray:
    """ST-T vectors (3, 7, N) that begin as ``st`` and rise to ``t_wave`` (3, N)."""
    st_course, t_course = (course[None, :, None] for course in normal_beats.repolarisation_course())
    return st_course * (st - t_course[:, 0] * t_wave)[:, None] + t_course * t_wave[:, None]


def turn_frontal(v: np.ndarray, degrees: np.ndarray) -> np.ndarray:
    """Vectors (3, K, N) turned in the frontal plane, left to down."""
    cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.stack([cosine * v[0] - sine * v[1], sine * v[0] + cosine * v[1], v[2]])


def _spans(traits: Traits, qrs_s: np.ndarray, qt_s: np.ndarray, pr_change_s: float = 0.0) -> dict[str, tuple]:
    """Start of each wave, from R, and its length, (N,) each, s."""
    p_onset = -_R_FRACTION * qrs_s - (traits.pr_s + pr_change_s)
    st_t_start = (_QRS_INSIDE[1] - _R_FRACTION) * qrs_s
    return {
        "p": (p_onset + _P_INSIDE[0] * traits.p_s, (_P_INSIDE[1] - _P_INSIDE[0]) * traits.p_s),
        "qrs": ((_QRS_INSIDE[0] - _R_FRACTION) * qrs_s, (_QRS_INSIDE[1] - _QRS_INSIDE[0]) * qrs_s),
        "st_t": (st_t_start, qt_s - _TANGENT_S - _R_FRACTION * qrs_s - st_t_start),
    }


def _kernels(wave: str, vectors: np.ndarray, span: tuple[np.ndarray, np.ndarray]) -> Kernels:
    """Kernels whose sum passes through ``vectors`` (C, K, N) at the wave's fractions of its span."""
    (fractions, widths), (start_s, length_s) = _KNOTS[wave], span
    inverse = np.linalg.inv(np.exp(-0.5 * ((fractions[:, None] - fractions) / widths) ** 2))
    solved = np.zeros_like(vectors)
    for k, j in np.ndindex(inverse.shape):  # written out: a matrix product's bits may depend on the number of rows
        solved[:, k] += inverse[k, j] * vectors[:, j]
    return Kernels(start_s + fractions[:, None] * length_s, widths[:, None] * length_s, solved)


def _atrial_repolarisation(p: np.ndarray, start_s: np.ndarray, length_s: np.ndarray, scale: np.ndarray) -> Kernels:
    """Against the mean P vector, so that PQ lies a little below the line before P."""
    mean = sum(p[:, knot] for knot in range(p.shape[1])) / p.shape[1]
    centre, width = start_s + length_s + scale * normal_beats.TA_DELAY_S, scale * normal_beats.TA_WIDTH_S
    return Kernels(centre[None], width[None], -normal_beats.fitted()["ta_share"] * mean[:, None])


def _ectopic_kernels(p, traits: Traits, qrs_s, qt_s, draws: Draws, config: SimulatorConfig) -> dict[str, Kernels]:
    """Premature beats: a ventricular one is wide and large with an opposite T; an atrial one has another P wave."""
    z = draws.normal
    # Two thirds come from the right outflow tract (down, left bundle branch pattern), the rest from the left ventricle.
    outflow = (draws.uniform["ectopic_axis"] < 0.67)[None]
    direction = np.where(outflow, np.array([[0.25], [0.80], [0.50]]), np.array([[-0.50], [-0.30], [-0.75]]))
    direction = direction + 0.25 * config.axis * z["ectopic_axis"]
    size = _PVC_SIZE_MV * np.exp(0.25 * config.amplitudes * z["ectopic_shape"][0])
    duration = _PVC_QRS_S * np.exp(0.08 * config.intervals * np.clip(z["ectopic_shape"][1], -2.0, 2.0))
    ramp = np.array([0.10, 0.45, 0.80, 1.00, 0.85, 0.50, 0.12])
    vectors = size * direction[:, None, :] * ramp[None, :, None]
    t_wave = -0.40 * size * direction
    none = np.zeros((normal_beats.N_LOCAL, *vectors.shape[1:]))  # a ventricular beat is a dipole here
    ectopic_p = p * np.array([0.6, -0.5, *np.ones(len(p) - 2)])[:, None, None]
    spans = _spans(traits, duration, qt_s + 0.5 * (duration - qrs_s))
    return {
        "pvc_qrs": _kernels("qrs", np.concatenate([vectors, none]), spans["qrs"]),
        "pvc_st_t": _kernels("st_t", np.concatenate([_repolarisation(0.25 * t_wave, t_wave), none]), spans["st_t"]),
        "pac_p": _kernels("p", ectopic_p, _spans(traits, qrs_s, qt_s, pr_change_s=-0.015)["p"]),
    }
