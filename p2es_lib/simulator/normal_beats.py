"""The normal beat: heart vectors of P, QRS and ST-T at fixed fractions of their intervals, fitted to PTB-XL.

A heart vector is a dipole. What the leads show besides (local sources close to a chest electrode, electrodes and chests
that differ from person to person) is added as "local content": courses in time of three fixed patterns over the eight
independent leads per wave, drawn for each subject together with the shape of the vectors. Limb leads follow from I and
II as ever, so Einthoven and Goldberger hold exactly.

The numbers are in ``normal_beats.json``; :mod:`tools.fit_normal_beats` says how they were made.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from p2es_lib.simulator.draws import Draws
from p2es_lib.simulator.settings import SimulatorConfig

FILE = Path(__file__).with_name("normal_beats.json")
#: Where vectors are given: fractions of the P duration, of the QRS duration, and of the time from the end of QRS to the
#: end of T (the last one is the U wave).
P_FRACTIONS = np.array([0.14, 0.32, 0.50, 0.68, 0.86])
QRS_FRACTIONS = np.array([0.15, 0.30, 0.40, 0.50, 0.60, 0.70, 0.85])
ST_T_FRACTIONS = np.array([0.10, 0.28, 0.46, 0.62, 0.76, 0.90, 1.25])
#: Atrial repolarisation (Ta): a Gaussian this long after the end of P and this wide, s. It lasts some 0.3 s (Debbas
#: 1999, from memory), so it lies under QRS; its place is our choice, its size is fitted (``ta_share``).
TA_DELAY_S, TA_WIDTH_S = 0.11, 0.07
#: Lead patterns of local content of each wave.
N_LOCAL = 5
#: Knots of the T wave whose sum has the T axis.
T_PEAK_KNOTS = slice(3, 6)
#: Age at which the lines over age have their first value; frontal axis that all shapes are turned to.
REFERENCE_AGE, REFERENCE_AXIS_DEG = 55.0, 45.0
#: Years between which the lines follow age; the fit has too few people beyond.
AGES = (30.0, 65.0)
# The fit has 94 men, whose QRS axis at 65 lies near 0 degrees; larger collections have 35 (ELSA-Brasil, Zheng 2020).
# Men are turned a part of the way (3 degrees of the dipole are about 6 of the axis), women a little: P, QRS and T.
_AXIS_SHIFT_DEG = (np.array([0.0, 3.0, 0.0]), np.array([0.0, 1.0, 0.0]))
_WAVES = {"p": P_FRACTIONS, "qrs": QRS_FRACTIONS, "st_t": ST_T_FRACTIONS}


@dataclass(frozen=True)
class BeatShape:
    """Vectors of P, QRS and ST-T of N subjects, (3, K, N) each, in mV, all with the frontal axis REFERENCE_AXIS_DEG.

    ``local`` has the courses of the local content of each wave, (N_LOCAL, K, N), in mV, and ``local_variation`` the
    subject's deviation in them from the mean of its sex and age, as a fraction of the size of the wave. ``axis_deg``
    (3, N) is where P, QRS and ST-T are to be turned to, ``axis_deviation_deg`` the subject's part of it. ``variation``
    is the deviation of the QRS shape from the mean of its sex and age, as a fraction of the QRS size; ``qrs_factor``
    and ``t_factor`` say how much larger the subject's waves are than that mean.
    """

    p: np.ndarray
    qrs: np.ndarray
    st_t: np.ndarray
    local: dict[str, np.ndarray]
    local_variation: dict[str, np.ndarray]
    axis_deg: np.ndarray
    axis_deviation_deg: np.ndarray
    variation: np.ndarray
    qrs_factor: np.ndarray
    t_factor: np.ndarray


@lru_cache(maxsize=1)
def fitted() -> dict[str, np.ndarray]:
    """The numbers of ``normal_beats.json`` as arrays; the covariance also as its Cholesky factor."""
    table = {name: np.array(value) for name, value in json.loads(FILE.read_text()).items()}
    return table | {"factor": np.linalg.cholesky(table["covariance"])}


def draw_shape(age: np.ndarray, female: np.ndarray, draws: Draws, config: SimulatorConfig) -> BeatShape:
    """Shape and size of each subject's normal beat, for given age (years) and sex, (N,) each."""
    table, z = fitted(), draws.normal
    decades = decades_of(age)
    mean = _line(table["shape"], decades, female)
    # Sums are written out, see cohort.py on bytes.
    numbers = np.concatenate([z["beat"], z["beat_finer"]])
    latent = np.stack([sum(row[k] * numbers[k] for k in range(i + 1)) for i, row in enumerate(table["factor"])])
    factors, turned, scores = config.amplitudes * latent[:3], config.axis * latent[3:6], latent[6:]
    turned = turned * np.where(turned < 0, *table["axis_sides"][:, :, None])  # axes reach further to the left
    variation = np.zeros_like(mean)
    for component, score in zip(table["components"], scores, strict=True):
        variation += component[:, None] * score
    n_vectors = 3 * sum(len(fractions) for fractions in _WAVES.values())
    variation[:n_vectors] *= config.qrs_shape
    variation[n_vectors:] *= config.electrodes
    sizes = np.exp(_line(table["size"], decades, female) + factors)
    shapes, local, local_variation, start = {}, {}, {}, 0
    for size, (wave, fractions) in zip(sizes, _WAVES.items(), strict=True):
        part = slice(start, start + 3 * len(fractions))
        shape = (mean[part] + variation[part]).reshape(3, len(fractions), -1)
        shapes[wave] = shape * (size / np.sqrt(shape[0] ** 2 + shape[1] ** 2 + shape[2] ** 2).max(axis=0))
        start = part.stop
    for size, (wave, fractions) in zip(sizes, _WAVES.items(), strict=True):
        part = slice(start, start + N_LOCAL * len(fractions))
        local_variation[wave] = variation[part].reshape(N_LOCAL, len(fractions), -1)
        local[wave] = size * (mean[part].reshape(N_LOCAL, len(fractions), -1) + local_variation[wave])
        start = part.stop
    shift = np.where(female, *(of_sex[:, None] for of_sex in _AXIS_SHIFT_DEG[::-1]))
    axis = _line(table["axis_deg"], decades, female) + shift + turned
    first = 3 * len(P_FRACTIONS)
    of_qrs = variation[first : first + 3 * len(QRS_FRACTIONS)].reshape(3, len(QRS_FRACTIONS), -1)
    return BeatShape(
        **shapes,
        local=local,
        local_variation=local_variation,
        axis_deg=axis,
        axis_deviation_deg=turned,
        variation=of_qrs,
        qrs_factor=np.exp(factors[1]),
        t_factor=np.exp(factors[2]),
    )


def decades_of(age: np.ndarray) -> np.ndarray:
    """Decades from the reference age, of ages drawn in to where the lines follow age."""
    return (np.clip(age, *AGES) - REFERENCE_AGE) / 10.0


def _line(table: np.ndarray, decades: np.ndarray, female: np.ndarray) -> np.ndarray:
    """Values (C, N) of the lines (2, 2, C) over age."""
    men, women = (table[sex, 0][:, None] + table[sex, 1][:, None] * decades for sex in (0, 1))
    return np.where(female, women, men)


@lru_cache(maxsize=1)
def repolarisation_course() -> tuple[np.ndarray, np.ndarray]:
    """Course over ST_T_FRACTIONS of an ST vector (1 just after QRS) and of a T vector (1 at its peak), (K,) each."""
    start, n_values = 3 * (len(P_FRACTIONS) + len(QRS_FRACTIONS)), 3 * len(ST_T_FRACTIONS)
    mean = fitted()["shape"][:, 0].mean(axis=0)[start : start + n_values].reshape(3, -1)
    direction = mean[:, T_PEAK_KNOTS].sum(axis=-1)
    along = direction @ mean
    return np.array([1.0, 0.85, 0.55, 0.25, 0.08, 0.0, 0.0]), along / along.max()
