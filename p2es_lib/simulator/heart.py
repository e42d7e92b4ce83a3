"""The heart as a moving dipole: Gaussian kernels in time with vector amplitudes, summed over beats.

McSharry 2003 writes one ECG lead as a sum of Gaussians of the cardiac phase, Sameni 2007 three orthogonal dipole
components. Here the kernels of the three components share their times, so that each kernel carries one vector::

    s(t) = sum over beats i and kernels k of  v_k exp(-((t - R_i - c_k) / b_k)^2 / 2)

P wave: two kernels (right, then left atrium). QRS: seven kernels whose vectors are solved so that the sum passes
through the class vectors of :mod:`p2es_lib.simulator.morphology`. ST-T: one kernel for the ST segment and two for an
asymmetric T wave (slow rise, faster fall). Widths are in time; the ST-T kernels stretch with QT, which follows RR.
R_i lies at 45 % of the QRS duration.

Subject-level spread: QRS and T size log-normal with SD 0.20 and 0.26 before rotation and electrodes add theirs (peak
vectors of PTB-XL normals: 0.26 and 0.32, correlation 0.44), P 0.30; frontal axes as in the traits; rotation of the
torso about the vertical (10 degrees) and the left-right axis (6 degrees), T against QRS 10 degrees more: chosen to
give the spread of R and S in the chest leads.

Breathing changes the QRS by about 3 % and turns the frontal axis by about 3 degrees (unverified: 3-10 % in lead II,
2-8 degrees).

Atrial fibrillation: no P wave; f waves as the sawtooth of Petrenas 2017 (three harmonics, rate and size modulated at
0.2 Hz), fundamental 6.1 +- 0.8 Hz (Xi 2004, Park 2019), 0.035 mV RMS along a vector towards V1.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from p2es_lib.simulator import morphology
from p2es_lib.simulator.demographics_effects import AF, QRS_AXIS_SD_DEG, Body, Traits, choose, qt_interval
from p2es_lib.simulator.draws import Draws
from p2es_lib.simulator.settings import SimulatorConfig

#: R lies at this fraction of the QRS duration.
R_FRACTION = 0.45
_QRS_SD, _T_SD, _SHAPE_SD = 0.20, 0.26, 0.06
_QRS_KERNEL_WIDTH = 0.075  # of the QRS duration
_FIT = np.linalg.inv(
    np.exp(-0.5 * ((morphology.FRACTIONS[:, None] - morphology.FRACTIONS[None, :]) / _QRS_KERNEL_WIDTH) ** 2)
)
# Sizes of the class vectors along X, Y, Z: means over subjects flatten the peaks, and pools over age hide its effect.
# Fitted so that simulated normals have the R, S and T sizes of the PTB-XL normals (table in tests/test_simulator.py).
_QRS_SCALE = {
    "young": ((1.25, 1.04, 1.30), (1.26, 1.17, 1.30)),  # men, women around 35 years
    "old": ((0.99, 1.05, 0.92), (1.02, 1.24, 1.09)),  # around 65 years
    "class": ((1.15, 1.15, 1.15), (1.05, 1.05, 1.05)),  # ventricles not activated normally
}
_T_SCALE = {
    "young": ((0.97, 1.07, 1.22), (0.93, 0.96, 1.09)),  # men, women around 35 years
    "old": ((0.78, 0.74, 0.89), (0.81, 0.80, 1.21)),  # around 65 years
    "class": ((1.00, 1.00, 1.00), (0.95, 0.95, 0.95)),  # ventricles not activated normally
}
_YOUNG, _OLD = 35.0, 65.0

_P_VECTORS = np.array([[0.035, 0.060], [0.085, 0.070], [-0.085, 0.030]])  # right and left atrium, mV
_P_CENTRES, _P_WIDTH = (0.34, 0.62), 0.17  # of the P duration
_T_PEAK_TO_END, _T_RISE, _T_RISE_SIZE = 0.20, 0.14, 0.35  # of QT; the rise kernel precedes the peak by _T_RISE
_ST_DELAY_S, _ST_WIDTH_S = 0.050, 0.040

_PVC_QRS_S, _PVC_SIZE_MV = 0.150, 1.5
_F_WAVE_HZ, _F_WAVE_RMS_MV = (6.1, 0.8), 0.035
#: Direction and relative size of the f waves: strongest in V1, about a third as large in II.
F_WAVE_VECTOR = (-0.35, 0.45, -0.95)


@dataclass(frozen=True)
class Kernels:
    """K Gaussian kernels of N rows: times from R and widths in seconds (K, N), vectors in mV (3, K, N)."""

    centre_s: np.ndarray
    width_s: np.ndarray
    vector_mv: np.ndarray


@dataclass(frozen=True)
class Heart:
    """Everything that turns beat times into a dipole, for N rows; scalars are (N,)."""

    p: Kernels
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
    qrs, t_wave, st = morphology.class_vectors(classes, body.female, draws.uniform["st_size"], draws.uniform["st_site"])

    qrs_scale = _scale(_QRS_SCALE, body, classes) * np.exp(_QRS_SD * size * z["qrs_gain"])
    t_gain = 0.44 * z["qrs_gain"] + 0.898 * z["t_gain"]
    t_scale = _scale(_T_SCALE, body, classes) * np.exp(_T_SD * size * t_gain)
    st_scale = np.exp(0.5 * size * z["st_gain"]) * np.interp(body.age, [25.0, 60.0], [1.4, 0.8])
    st_scale = np.where(classes == morphology.NORMAL, st_scale, 1.0)
    noise = _smooth(z["qrs_shape"].reshape(3, 7, -1))
    qrs = qrs + _SHAPE_SD * config.qrs_shape * noise * (0.6 + _length(qrs))
    qrs, t_wave, st = qrs * qrs_scale[:, None], t_wave * t_scale, st * st_scale

    # Frontal rotation: from the axis of the class vectors to the one drawn, for the classes with a normal QRS; the
    # others keep their mean axis and get the subject's deviation only.
    like_normal = morphology.normal_like(classes)
    deviation = config.axis * np.interp(body.age, [25.0, 75.0], QRS_AXIS_SD_DEG) * z["frontal"]
    turn = np.where(like_normal, traits.qrs_axis_deg - np.where(body.female, 50.0, 46.0), deviation)
    t_turn = np.where(like_normal, traits.t_axis_deg - np.where(body.female, 45.0, 42.0), 0.3 * deviation)
    horizontal, sagittal = config.axis * 10.0 * z["horizontal"], config.axis * 6.0 * z["sagittal"]
    t_horizontal = horizontal + config.axis * 10.0 * z["t_horizontal"]
    qrs = _rotate(qrs, turn, horizontal, sagittal)
    t_wave = _rotate(t_wave[:, None], t_turn, t_horizontal, sagittal)
    st = _rotate(st[:, None], 0.0 * turn, horizontal, sagittal)

    p = _P_VECTORS[:, :, None] * np.exp(0.30 * size * z["p_gain"]) * (traits.rhythm != AF)
    p = _rotate(p, config.axis * 12.0 * z["p_axis"], 0.5 * horizontal, 0.0 * turn)
    breathing = config.breathing
    return Heart(
        p=_p_kernels(p, traits, qrs_s, 0.0),
        qrs=_qrs_kernels(qrs, qrs_s),
        st_t=_st_t_kernels(st, t_wave, qrs_s, qt_s),
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


def _length(vectors: np.ndarray) -> np.ndarray:
    return np.sqrt(vectors[0] * vectors[0] + vectors[1] * vectors[1] + vectors[2] * vectors[2])


def _smooth(noise: np.ndarray) -> np.ndarray:
    """Unit-variance noise (3, 7, N) with neighbouring kernels alike, so that QRS bends and does not splinter."""
    padded = np.concatenate([noise[:, :1], noise, noise[:, -1:]], axis=1)
    return (padded[:, :-2] + 1.5 * padded[:, 1:-1] + padded[:, 2:]) / np.sqrt(4.25)


def _scale(table, body: Body, classes: np.ndarray) -> np.ndarray:
    """Size of the class vectors along each axis, (3, N), by sex and, for normally activated ventricles, by age."""
    men, women = ({key: np.array(rows[sex])[:, None] for key, rows in table.items()} for sex in (0, 1))
    young, old, other = (np.where(body.female, women[key], men[key]) for key in ("young", "old", "class"))
    position = np.clip((body.age - _YOUNG) / (_OLD - _YOUNG), -0.5, 1.3)
    return np.where(morphology.normal_like(classes), young + (old - young) * position, other)


def _rotate(v: np.ndarray, frontal_deg: np.ndarray, horizontal_deg: np.ndarray, sagittal_deg: np.ndarray) -> np.ndarray:
    """Rotate vectors (3, K, N): frontal turns left to down, horizontal left to back, sagittal down to back."""
    x, y, z = v
    for first, angle in (("xy", frontal_deg), ("xz", horizontal_deg), ("yz", sagittal_deg)):
        c, s = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
        if first == "xy":
            x, y = c * x - s * y, s * x + c * y
        elif first == "xz":
            x, z = c * x - s * z, s * x + c * z
        else:
            y, z = c * y - s * z, s * y + c * z
    return np.stack([x, y, z])


def _p_kernels(p: np.ndarray, traits: Traits, qrs_s: np.ndarray, pr_change_s: float) -> Kernels:
    onset = -R_FRACTION * qrs_s - (traits.pr_s + pr_change_s)
    centre = np.stack([onset + fraction * traits.p_s for fraction in _P_CENTRES])
    return Kernels(centre, np.stack([_P_WIDTH * traits.p_s] * 2), p)


def _qrs_kernels(vectors: np.ndarray, qrs_s: np.ndarray) -> Kernels:
    """Kernels whose sum passes through ``vectors`` (3, 7, N) at the fractions of the QRS duration."""
    solved = np.zeros_like(vectors)
    for k in range(7):  # written out: a matrix product's bits may depend on the number of rows
        for j in range(7):
            solved[:, k] += _FIT[k, j] * vectors[:, j]
    centre = np.stack([(fraction - R_FRACTION) * qrs_s for fraction in morphology.FRACTIONS])
    return Kernels(centre, np.stack([_QRS_KERNEL_WIDTH * qrs_s] * 7), solved)


def _st_t_kernels(st: np.ndarray, t_wave: np.ndarray, qrs_s: np.ndarray, qt_s: np.ndarray) -> Kernels:
    peak = qt_s * (1.0 - _T_PEAK_TO_END) - R_FRACTION * qrs_s
    fall = 0.5 * _T_PEAK_TO_END * qt_s  # the tangent of a Gaussian's flank meets zero at two widths: the T end
    rise = 1.6 * fall
    lift = _T_RISE * qt_s / rise
    t_wave = t_wave / (1.0 + _T_RISE_SIZE * np.exp(-0.5 * lift * lift))
    centre = np.stack([(1 - R_FRACTION) * qrs_s + _ST_DELAY_S, peak - _T_RISE * qt_s, peak])
    width = np.stack([np.full_like(qt_s, _ST_WIDTH_S), rise, fall])
    return Kernels(centre, width, np.concatenate([st, _T_RISE_SIZE * t_wave, t_wave], axis=1))


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
    t_wave = -0.40 * size * direction[:, None, :]
    ectopic_p = p * np.array([0.6, -0.5, 1.0])[:, None, None]
    return {
        "pvc_qrs": _qrs_kernels(vectors, duration),
        "pvc_st_t": _st_t_kernels(0.25 * t_wave, t_wave, duration, qt_s + 0.5 * (duration - qrs_s)),
        "pac_p": _p_kernels(ectopic_p, traits, qrs_s, -0.015),
    }
