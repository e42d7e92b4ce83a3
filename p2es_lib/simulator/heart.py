"""The heart as a moving dipole: Gaussian kernels in time with vector amplitudes, summed over beats.

McSharry 2003 writes one ECG lead as a sum of Gaussians of the cardiac phase, Sameni 2007 three orthogonal dipole
components. Here the kernels of the three components share their times, so that each kernel carries one vector::

    s(t) = sum over beats i and kernels k of  v_k exp(-((t - R_i - c_k) / b_k)^2 / 2)

P wave: five kernels, QRS: seven, ST-T: seven (the last is the U wave); their vectors are solved so that the sum passes
through given vectors at fixed fractions of the interval. For ventricles that are activated normally the vectors, their
sizes and their variety are fitted to PTB-XL (:mod:`p2es_lib.simulator.normal_beats`), and turned to the frontal axes
drawn for the subject; for the others they are those of :mod:`p2es_lib.simulator.morphology`. The atria have a lead
field of their own. Widths are in time; ST-T stretches with QT, which follows RR. R lies at 45 % of the QRS duration.

Published intervals (PR, QRS, QT) are from the first to the last trace of a wave in any lead. Where a curve leaves its
baseline by the tangent, as in the fit, is a little inside: QRS 0.975 of the duration, T 33 ms earlier, P from 0.125 to
0.947 of its duration (medians of PTB-XL normals against the published ones).

Breathing changes the QRS by about 3 % and turns the frontal axis by about 3 degrees (unverified: 3-10 % in lead II, 2-8
degrees).

Atrial fibrillation: no P wave; f waves as the sawtooth of Petrenas 2017 (three harmonics, rate and size modulated at
0.2 Hz), fundamental 6.1 +- 0.8 Hz (Xi 2004, Park 2019), 0.035 mV RMS along a vector towards V1.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from p2es_lib.simulator import morphology, normal_beats
from p2es_lib.simulator.demographics_effects import AF, Body, Traits, choose, qt_interval
from p2es_lib.simulator.draws import Draws
from p2es_lib.simulator.settings import SimulatorConfig

#: R lies at this fraction of the QRS duration.
R_FRACTION = 0.45
# Sizes of class vectors (men, women) along X, Y, Z: means over subjects flatten the peaks.
_CLASS_QRS, _CLASS_T = (1.15, 1.05), (1.00, 0.95)
# Kernel widths, in the units of the fractions.
_P_WIDTHS, _QRS_WIDTHS = np.full(5, 0.12), np.full(7, 0.075)
_ST_T_WIDTHS = np.array([0.11, 0.11, 0.11, 0.10, 0.09, 0.09, 0.14])
_P_INSIDE, _QRS_INSIDE, _TANGENT_S = (0.125, 0.947), (0.0125, 0.9875), 0.033

_PVC_QRS_S, _PVC_SIZE_MV = 0.150, 1.5
_F_WAVE_HZ, _F_WAVE_RMS_MV = (6.1, 0.8), 0.035
#: Direction and relative size of the f waves: strongest in V1, about a third as large in II.
F_WAVE_VECTOR = (-0.25, 0.35, -0.65)


@dataclass(frozen=True)
class Kernels:
    """K Gaussian kernels of N rows: times from R and widths in seconds (K, N), vectors in mV (C, K, N).

    The C components are X, Y, Z and the lead patterns of local content (:mod:`p2es_lib.simulator.normal_beats`).
    """

    centre_s: np.ndarray
    width_s: np.ndarray
    vector_mv: np.ndarray


@dataclass(frozen=True)
class Heart:
    """Everything that turns beat times into a dipole, for N rows; scalars are (N,)."""

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


def take(table, rows):
    """Rows of a dataclass whose arrays have the rows last; nested dataclasses too."""
    values = {}
    for f in fields(table):
        value = getattr(table, f.name)
        values[f.name] = take(value, rows) if hasattr(value, "__dataclass_fields__") else value[..., rows]
    return type(table)(**values)


def draw_morphology(body: Body, draws: Draws, config: SimulatorConfig) -> np.ndarray:
    """Morphology class of each subject, (N,)."""
    return choose(morphology.class_probabilities(body.age, body.female, config), draws.uniform["morphology"])


def draw_heart(
    body: Body, traits: Traits, classes: np.ndarray, mean_rr_s: np.ndarray, draws: Draws, config: SimulatorConfig
) -> Heart:
    """Kernels for given body, traits, morphology classes and mean RR interval (which sets QT), N rows."""
    z, size = draws.normal, config.amplitudes
    qrs_s = morphology.qrs_duration(classes, traits.qrs_normal_s, z["qrs_duration"], config)
    qt_s = qt_interval(traits, mean_rr_s, qrs_s)
    shape = normal_beats.draw_shape(body.age, body.female, draws, config)
    qrs, st_t = _ventricles(shape, body, classes, draws, config)

    # Turned in the frontal plane: normally activated ventricles to the axes drawn for the subject, the others by its
    # deviation from what is usual at that age only.
    like_normal = morphology.normal_like(classes)
    p_turn, turn, t_turn = shape.axis_deg - normal_beats.REFERENCE_AXIS_DEG
    _, own_turn, own_t_turn = 0.6 * shape.axis_deviation_deg
    p = np.concatenate([turn_frontal(shape.p, p_turn), shape.local["p"]]) * (traits.rhythm != AF)
    qrs = turn_frontal(qrs, np.where(like_normal, turn, own_turn))
    st_t = turn_frontal(st_t, np.where(like_normal, t_turn, own_t_turn))
    qrs, st_t = _with_local(qrs, st_t, shape, like_normal)
    breathing = config.breathing
    return Heart(
        p=_p_kernels(p, traits, qrs_s, 0.0),
        ta=_ta_kernels(p, traits, qrs_s),
        qrs=_qrs_kernels(qrs, qrs_s),
        st_t=_st_t_kernels(st_t, qrs_s, qt_s),
        **_ectopic_kernels(p, traits, qrs_s, qt_s, draws, config),
        morphology=classes,
        qrs_s=qrs_s,
        qt_s=qt_s,
        breathing_gain=0.03 * breathing * np.exp(0.3 * z["ecg_breathing"][0]),
        breathing_turn=np.deg2rad(3.0) * breathing * np.exp(0.3 * z["ecg_breathing"][1]),
        breathing_lag=draws.uniform["ecg_breathing_phase"],
        f_wave_hz=np.clip(_F_WAVE_HZ[0] + _F_WAVE_HZ[1] * z["f_wave"][0], 4.0, 9.0),
        f_wave_mv=_F_WAVE_RMS_MV * np.exp(0.4 * size * z["f_wave"][1]) * (traits.rhythm == AF),
    )


def _ventricles(
    shape: normal_beats.BeatShape, body: Body, classes, draws: Draws, config: SimulatorConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of QRS (3, 7, N) and ST-T (3, 7, N), mV, before they are turned."""
    qrs, t_wave, st = morphology.class_vectors(classes)
    size = np.sqrt((qrs * qrs)[0] + (qrs * qrs)[1] + (qrs * qrs)[2]).max(axis=0)
    qrs = (qrs + size * shape.variation) * (np.where(body.female, *_CLASS_QRS[::-1]) * shape.qrs_factor)
    t_own, st_own = morphology.repolarisation_scatter(classes, config.amplitudes * draws.normal["repolarisation"])
    st_t = _repolarisation(st + st_own, t_wave * np.where(body.female, *_CLASS_T[::-1]) * shape.t_factor + t_own)
    like_normal = morphology.normal_like(classes)
    st_t = np.where(like_normal, shape.st_t, st_t)
    t_change, injury_st, injury_t = morphology.injury(classes, draws.uniform["st_size"], draws.uniform["st_site"])
    return np.where(like_normal, shape.qrs, qrs), st_t * t_change + _repolarisation(injury_st, injury_t)


def _with_local(qrs, st_t, shape: normal_beats.BeatShape, like_normal) -> tuple[np.ndarray, np.ndarray]:
    """QRS and ST-T vectors (3, 7, N) with the local content below them, (3 + N_LOCAL, 7, N).

    Ventricles that are activated otherwise have no mean local content that anybody measured; theirs deviates between
    people as much, for its size, as that of normal ones.
    """
    whole = []
    for wave, vectors in (("qrs", qrs), ("st_t", st_t)):
        size = np.sqrt(vectors[0] ** 2 + vectors[1] ** 2 + vectors[2] ** 2).max(axis=0)
        local = np.where(like_normal, shape.local[wave], size * shape.local_variation[wave])
        whole.append(np.concatenate([vectors, local]))
    return tuple(whole)


def _repolarisation(st: np.ndarray, t_wave: np.ndarray) -> np.ndarray:
    """ST-T vectors (3, 7, N) that begin as ``st`` and rise to ``t_wave`` (3, N)."""
    st_course, t_course = (course[None, :, None] for course in normal_beats.repolarisation_course())
    return st_course * (st - t_course[:, 0] * t_wave)[:, None] + t_course * t_wave[:, None]


def turn_frontal(v: np.ndarray, degrees: np.ndarray) -> np.ndarray:
    """Vectors (3, K, N) turned in the frontal plane, left to down."""
    cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.stack([cosine * v[0] - sine * v[1], sine * v[0] + cosine * v[1], v[2]])


def _kernels(vectors: np.ndarray, fractions: np.ndarray, widths: np.ndarray, start_s, length_s) -> Kernels:
    """Kernels whose sum passes through ``vectors`` (C, K, N) at fractions of an interval of each row."""
    inverse = np.linalg.inv(np.exp(-0.5 * ((fractions[:, None] - fractions) / widths) ** 2))
    solved = np.zeros_like(vectors)
    for k in range(len(fractions)):  # written out: a matrix product's bits may depend on the number of rows
        for j in range(len(fractions)):
            solved[:, k] += inverse[k, j] * vectors[:, j]
    centre = np.stack([start_s + fraction * length_s for fraction in fractions])
    return Kernels(centre, np.stack([width * length_s for width in widths]), solved)


def _p_span(traits: Traits, qrs_s: np.ndarray, pr_change_s: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    onset = -R_FRACTION * qrs_s - (traits.pr_s + pr_change_s)
    return onset + _P_INSIDE[0] * traits.p_s, (_P_INSIDE[1] - _P_INSIDE[0]) * traits.p_s


def _p_kernels(p: np.ndarray, traits: Traits, qrs_s: np.ndarray, pr_change_s: float) -> Kernels:
    return _kernels(p, normal_beats.P_FRACTIONS, _P_WIDTHS, *_p_span(traits, qrs_s, pr_change_s))


def _ta_kernels(p: np.ndarray, traits: Traits, qrs_s: np.ndarray) -> Kernels:
    """Atrial repolarisation: against the mean P vector, so that PQ lies a little below the line before P."""
    start, length = _p_span(traits, qrs_s)
    mean = sum(p[:, knot] for knot in range(p.shape[1])) / p.shape[1]
    centre, width = start + length + normal_beats.TA_DELAY_S, np.full_like(start, normal_beats.TA_WIDTH_S)
    return Kernels(centre[None], width[None], -normal_beats.fitted()["ta_share"] * mean[:, None])


def _qrs_kernels(vectors: np.ndarray, qrs_s: np.ndarray) -> Kernels:
    start, length = (_QRS_INSIDE[0] - R_FRACTION) * qrs_s, (_QRS_INSIDE[1] - _QRS_INSIDE[0]) * qrs_s
    return _kernels(vectors, normal_beats.QRS_FRACTIONS, _QRS_WIDTHS, start, length)


def _st_t_kernels(vectors: np.ndarray, qrs_s: np.ndarray, qt_s: np.ndarray) -> Kernels:
    start = (_QRS_INSIDE[1] - R_FRACTION) * qrs_s
    length = qt_s - _TANGENT_S - R_FRACTION * qrs_s - start
    return _kernels(vectors, normal_beats.ST_T_FRACTIONS, _ST_T_WIDTHS, start, length)


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
    st_t = _repolarisation(0.25 * t_wave, t_wave)
    ectopic_p = p * np.array([0.6, -0.5, *np.ones(len(p) - 2)])[:, None, None]
    none = np.zeros((normal_beats.N_LOCAL, *vectors.shape[1:]))  # a ventricular beat is a dipole here
    return {
        "pvc_qrs": _qrs_kernels(np.concatenate([vectors, none]), duration),
        "pvc_st_t": _st_t_kernels(np.concatenate([st_t, none]), duration, qt_s + 0.5 * (duration - qrs_s)),
        "pac_p": _p_kernels(ectopic_p, traits, qrs_s, -0.015),
    }
