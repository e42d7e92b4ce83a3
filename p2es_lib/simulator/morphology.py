"""Morphology classes: how common they are, and the heart vectors of each.

Vectors are mean Kors vectorcardiograms (X left, Y down, Z back, mV) of PTB-XL records at fixed fractions of the QRS
duration, at the T peak and 40 ms after the J point (500 Hz records, delineated for this project): LBBB (8), left
anterior fascicular block (20), LVH (24), old anterior or septal infarction (15), old inferior infarction (13). The
PTB-XL average of RBBB (8) mixes axes, so here the first half is the normal left ventricle at its own pace, followed by
the slow rightward-anterior forces of that average. ST classes have a normal QRS with an injury vector: depression
points away from the apex, elevation towards the anterior or the inferior wall; sizes 0.05-0.3, 0.1-0.5 mV (unverified).

Prevalence by age and sex follows hospital ECGs (Zheng 2020, n = 10,381): RBBB, LBBB, abnormal Q waves (halved into
anterior and inferior), ST depression, and half of "high left ventricular voltage" as LVH (half: our choice, most of
that finding in the young is normal; PTB-XL has 10.8 % LVH). ST elevation 0.5 %: our choice (PTB-XL 0.13 %), so that the
class is not empty. QRS durations: LBBB 147 +- 21, RBBB 130 +- 19 ms (same source), others from PTB-XL.
"""

import numpy as np

from p2es_lib.simulator.demographics_effects import Body, by_age_and_sex, choose
from p2es_lib.simulator.draws import Draws
from p2es_lib.simulator.sessions import TO_LBBB, TO_ST_ELEVATION
from p2es_lib.simulator.settings import SimulatorConfig

#: The position is the code in the latents.
CLASSES = ("normal", "lbbb", "rbbb", "lvh", "anterior_mi", "inferior_mi", "st_depression", "st_elevation", "lafb")
NORMAL, LBBB, RBBB, LVH, ANTERIOR_MI, INFERIOR_MI, ST_DEPRESSION, ST_ELEVATION, LAFB = range(9)
#: Classes with normally activated ventricles.
NORMAL_LIKE = (NORMAL, ST_DEPRESSION, ST_ELEVATION)

_AGES = np.array([30.0, 45.0, 65.0, 85.0])
# Percent, men then women. The values at 30 years continue the trend: an assumption.
_PERCENT = {
    LBBB: ([0.05, 0.1, 0.6, 2.3], [0.05, 0.3, 0.7, 1.6]),
    RBBB: ([1.0, 1.6, 4.4, 15.7], [0.7, 1.4, 3.1, 8.2]),
    LVH: ([5.0, 6.5, 9.5, 9.5], [0.5, 1.0, 5.0, 8.5]),
    ANTERIOR_MI: ([0.05, 0.2, 1.2, 3.9], [0.05, 0.5, 0.4, 1.6]),
    INFERIOR_MI: ([0.05, 0.2, 1.2, 3.8], [0.05, 0.5, 0.4, 1.7]),
    ST_DEPRESSION: ([1.0, 2.0, 3.0, 7.0], [1.0, 2.0, 4.0, 11.0]),
    ST_ELEVATION: ([0.5] * 4, [0.5] * 4),
    LAFB: ([1.0, 3.0, 8.0, 13.0], [0.7, 2.0, 6.0, 10.0]),
}


def _by_class(vectors: dict[int, tuple]) -> np.ndarray:
    """Vectors of all classes, (3, 9) or (3, 7, 9), mV, from 0.01 mV; 0 where the ventricles are activated normally."""
    zero = np.zeros_like(vectors[LBBB])
    return np.stack([np.transpose(vectors.get(code, zero)) / 100.0 for code in range(len(CLASSES))], axis=-1)


QRS_MV = _by_class({
    LBBB: ((15, 11, 8), (60, 18, 104), (67, 13, 144), (47, 6, 145), (30, -13, 116), (20, -27, 64), (-7, -15, 0)),
    RBBB: ((18, 12, -20), (88, 60, -4), (42, 32, 26), (2, 4, 4), (-28, -8, -28), (-42, -14, -45), (-26, -8, -28)),
    LAFB: ((7, 9, -15), (61, 14, -17), (73, 4, 14), (27, -23, 51), (-19, -42, 64), (-26, -37, 50), (-10, -13, 15)),
    LVH: ((2, 3, -15), (66, 32, -7), (133, 60, 39), (155, 68, 84), (103, 38, 95), (40, 6, 71), (-2, -5, 23)),
    ANTERIOR_MI: ((9, 5, -1), (55, 25, 36), (83, 32, 73), (66, 22, 92), (24, 6, 83), (-1, -4, 49), (-5, -6, 9)),
    INFERIOR_MI: ((4, -6, -11), (62, 4, -9), (110, 27, 20), (90, 35, 57), (35, 21, 72), (4, 10, 51), (-5, 1, 17)),
})  # fmt: skip
QRS_MV[..., LVH] *= 1.22  # means over subjects flatten the peaks: Sokolow-Lyon voltage 4.1 +- 1.1 mV in single records
T_MV = _by_class({
    LBBB: (-9, 10, -47), RBBB: (14, 12, 13), LVH: (2, 6, -19),
    ANTERIOR_MI: (8, 10, -20), INFERIOR_MI: (15, 2, -16), LAFB: (23, 15, -14),
})  # fmt: skip
ST_MV = _by_class({
    LBBB: (-15, 1, -31), RBBB: (-1, 3, 2), LVH: (-7, -2, -6),
    ANTERIOR_MI: (-2, -2, -8), INFERIOR_MI: (-2, -1, -3), LAFB: (0, 2, -4),
})  # fmt: skip
# How T and ST vectors differ between people of one such class (SD of X, Y, Z in mV), and correlations (X with Y of T, T
# with ST of the same axis), in 48 records of LVH, infarction and bundle branch block of PTB-XL (training folds).
# Fascicular block is left out: its T varies as in normal hearts.
_T_SD, _T_XY = (0.27, 0.14, 0.16), 0.6
_ST_SD, _ST_WITH_T = (0.070, 0.050, 0.075), 0.7
_VARIABLE = (LBBB, RBBB, LVH, ANTERIOR_MI, INFERIOR_MI)
# QRS duration (ms, SD); the classes not named keep the subject's normal one.
_QRS_MS = {LBBB: (147, 14), RBBB: (134, 12), LVH: (96, 9), ANTERIOR_MI: (98, 9), INFERIOR_MI: (97, 9)}
_MIN_WIDE_QRS_S = 0.120


def draw_morphology(body: Body, draws: Draws, config: SimulatorConfig) -> np.ndarray:
    """Morphology class of each subject, (N,)."""
    share = config.morphology / 100.0
    rows = [share * by_age_and_sex(body.age, body.female, _AGES, _PERCENT[code]) for code in range(1, len(CLASSES))]
    return choose([1.0 - sum(rows), *rows[:-1]], draws.uniform["morphology"])


def changed(morphology: np.ndarray, change: np.ndarray) -> np.ndarray:
    """Class after a change of the heart (code of :mod:`p2es_lib.simulator.sessions`), (N,).

    ST elevation in a heart that is not activated normally keeps its class: :func:`injury` adds to it.
    """
    raised = (change == TO_ST_ELEVATION) & np.isin(morphology, NORMAL_LIKE)
    return np.where(change == TO_LBBB, LBBB, np.where(raised, ST_ELEVATION, morphology))


def qrs_duration(morphology: np.ndarray, normal_s: np.ndarray, z: np.ndarray, config: SimulatorConfig) -> np.ndarray:
    """QRS duration (s), (N,)."""
    duration = normal_s.copy()
    for code, (mean, sd) in _QRS_MS.items():
        value = 1e-3 * (mean + config.intervals * sd * np.clip(z, -2.5, 2.5))
        value = np.maximum(value, _MIN_WIDE_QRS_S) if code in (LBBB, RBBB) else value
        duration = np.where(morphology == code, value, duration)
    return duration


def repolarisation_scatter(morphology: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What T and ST vectors deviate by from those of the class, (3, N) each, mV; ``z`` (6, N) standard normal."""
    t_unit = np.stack([z[0], _T_XY * z[0] + np.sqrt(1.0 - _T_XY**2) * z[1], z[2]])
    st_unit = _ST_WITH_T * t_unit + np.sqrt(1.0 - _ST_WITH_T**2) * z[3:]
    varies = np.isin(morphology, _VARIABLE)
    return tuple(varies * np.array(sd)[:, None] * unit for sd, unit in ((_T_SD, t_unit), (_ST_SD, st_unit)))


def injury(morphology: np.ndarray, draws: Draws, change: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the ST classes and new ST elevation do: factor of the T wave (N,), ST and T vectors to add (3, N), mV."""
    st_size, inferior = draws.uniform["st_size"], draws.uniform["st_site"] < 0.5
    depression, elevation = morphology == ST_DEPRESSION, (morphology == ST_ELEVATION) | (change == TO_ST_ELEVATION)
    depth, height = 0.05 + 0.20 * st_size, 0.12 + 0.33 * st_size
    down, front, below = np.array([[-0.85, -0.45, 0.10], [0.30, 0.00, -0.65], [-0.25, 0.85, 0.10]])[..., None]
    wall = np.where(inferior, below, front)
    st = np.where(depression, depth * down, 0.0) + np.where(elevation, height * wall, 0.0)
    return np.where(depression, 0.5, 1.0), st, np.where(elevation, 0.6 * height * wall, 0.0)
