"""The normal beat: heart vectors of P, QRS and ST-T at fixed fractions of their intervals, fitted to PTB-XL.

A heart vector is a dipole. What the leads show besides (local sources close to a chest electrode, electrodes and chests
that differ from person to person) is added as "local content": courses in time of fixed patterns over the eight
independent leads per wave, drawn for each subject together with the shape of the vectors.

The numbers, with the mean lead fields of P, QRS and ST-T for men and women over age, are in ``normal_beats.json``;
:mod:`tools.fit_normal_beats` says how they were made. :data:`FORWARD`, which that fit starts from, is the least-squares
forward map from Kors vectors to the eight leads, pooled over 293 normal records. Besides,
gains and chest electrodes differ a little, alike for all waves. These spreads are assumptions: larger ones made S in V2
and R in III differ more between people than in PTB-XL normals.

References
----------
Kors JA et al. Eur Heart J 11:1083, 1990. Wagner P et al. PTB-XL. Sci Data 7:154, 2020.
"""

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from p2es_lib.simulator.draws import Draws
from p2es_lib.simulator.sessions import ALONG_PER_CM, UP_GAIN_PER_CM, UP_Y_PER_CM, Session
from p2es_lib.simulator.settings import SimulatorConfig

FILE = Path(__file__).with_name("normal_beats.json")
#: Where vectors are given: fractions of P, of QRS, and of the time from its end to the end of T (the last: U wave).
P_FRACTIONS = np.array([0.14, 0.32, 0.50, 0.68, 0.86])
QRS_FRACTIONS = np.array([0.15, 0.30, 0.40, 0.50, 0.60, 0.70, 0.85])
ST_T_FRACTIONS = np.array([0.10, 0.28, 0.46, 0.62, 0.76, 0.90, 1.25])
#: Atrial repolarisation (Ta): a Gaussian this long after the end of P and this wide, s (our choice; its size: fitted).
TA_DELAY_S, TA_WIDTH_S = 0.11, 0.07
#: Lead patterns of local content of each wave; knots of the T wave whose sum has the T axis.
N_LOCAL, T_PEAK_KNOTS = 5, slice(3, 6)
#: Age at which the lines over age have their first value, years between which they follow age (the fit has too few
#: people beyond), and frontal axis that all shapes are turned to.
REFERENCE_AGE, AGES, REFERENCE_AXIS_DEG = 55.0, (30.0, 65.0), 45.0
# Of P, QRS and T, men and women: the fit has 94 men, whose QRS axis at 65 lies near 0 degrees; larger collections have
# 35 (ELSA-Brasil, Zheng 2020). They are turned a part of the way (3 degrees of the dipole are about 6 of the axis).
_AXIS_SHIFT_DEG = np.array([[0.0, 3.0, 0.0], [0.0, 1.0, 0.0]])
#: Rows I, II, V1..V6; columns X (left), Y (down), Z (back).
FORWARD = np.array([
    [0.863, -0.314, -0.031], [0.102, 1.001, -0.133], [-0.351, -0.292, -0.948], [0.491, -0.888, -2.105],
    [0.816, -0.279, -1.626], [0.989, 0.162, -0.822], [1.004, 0.211, -0.177], [0.782, 0.286, 0.117],
])  # fmt: skip
_LEAD_GAIN_SD, _CHEST_GAIN_SD = 0.025, 0.03  # log-normal: of each lead, and of all chest leads
# Of chest electrodes along their line (in spacings) and up or down: together, and each.
_SHIFT_SD, _OWN_SHIFT_SD, _HEIGHT_SD, _OWN_HEIGHT_SD = 0.08, 0.04, 0.025, 0.02
_WAVES = {"p": P_FRACTIONS, "qrs": QRS_FRACTIONS, "st_t": ST_T_FRACTIONS}


@dataclass(frozen=True)
class BeatShape:
    """Normal beats of N subjects; all but the last three are dicts of "p", "qrs" and "st_t".

    ``vectors`` (3, K, N) and ``local`` content (N_LOCAL, K, N) are in mV, with the frontal axis REFERENCE_AXIS_DEG;
    ``axis_deg`` (3, N) is where the waves are to be turned to, ``axis_deviation_deg`` the subject's part of it.
    ``vector_variation`` and ``local_variation`` deviate from the mean of the subject's sex and age, as a fraction of
    the size of the wave; ``factors`` (3, N) say how much larger its waves are than that mean.
    """

    vectors: dict[str, np.ndarray]
    local: dict[str, np.ndarray]
    vector_variation: dict[str, np.ndarray]
    local_variation: dict[str, np.ndarray]
    axis_deg: np.ndarray
    axis_deviation_deg: np.ndarray
    factors: np.ndarray


@lru_cache(maxsize=1)
def fitted() -> dict[str, np.ndarray]:
    """The numbers of ``normal_beats.json`` as arrays; the covariance also as its Cholesky factor."""
    table = {name: np.array(value) for name, value in json.loads(FILE.read_text()).items()}
    return table | {"factor": np.linalg.cholesky(table["covariance"])}


def draw_shape(age: np.ndarray, female: np.ndarray, draws: Draws, config: SimulatorConfig) -> BeatShape:
    """Shape and size of each subject's normal beat, for given age (years) and sex, (N,) each."""
    table, decades = fitted(), decades_of(age)
    # Sums are written out, see cohort.py on bytes.
    numbers = np.concatenate([draws.normal["beat"], draws.normal["beat_finer"]])
    latent = np.stack([sum(row[k] * numbers[k] for k in range(i + 1)) for i, row in enumerate(table["factor"])])
    factors, turned, scores = config.amplitudes * latent[:3], config.axis * latent[3:6], latent[6:]
    turned = turned * np.where(turned < 0, *table["axis_sides"][:, :, None])  # axes reach further to the left
    variation = sum(component[:, None] * score for component, score in zip(table["components"], scores, strict=True))
    mean, own = _by_wave(_line(table["shape"], decades, female)), _by_wave(variation)
    sizes = np.exp(_line(table["size"], decades, female) + factors)
    vectors, local = {}, {}
    for size, wave in zip(sizes, _WAVES, strict=True):
        own[0][wave], own[1][wave] = config.qrs_shape * own[0][wave], config.electrodes * own[1][wave]
        shape = mean[0][wave] + own[0][wave]
        vectors[wave] = shape * (size / largest(shape))
        local[wave] = size * (mean[1][wave] + own[1][wave])
    shift = np.where(female, *_AXIS_SHIFT_DEG[::-1, :, None])
    axis = _line(table["axis_deg"], decades, female) + shift + turned
    waves = {"vectors": vectors, "local": local, "vector_variation": own[0], "local_variation": own[1]}
    return BeatShape(**waves, axis_deg=axis, axis_deviation_deg=turned, factors=np.exp(factors))


def largest(vectors: np.ndarray) -> np.ndarray:
    """Length of the longest of the vectors (3, K, N), (N,)."""
    return np.sqrt(vectors[0] ** 2 + vectors[1] ** 2 + vectors[2] ** 2).max(axis=0)


def decades_of(age: np.ndarray) -> np.ndarray:
    """Decades from the reference age, of ages drawn in to where the lines follow age."""
    return (np.clip(age, *AGES) - REFERENCE_AGE) / 10.0


def _line(table: np.ndarray, decades: np.ndarray, female: np.ndarray) -> np.ndarray:
    """Values (..., N) of the lines (2 sexes, 2, ...) over age."""
    men, women = (level[..., None] + slope[..., None] * decades for level, slope in table)
    return np.where(female, women, men)


def _by_wave(columns: np.ndarray) -> list[dict[str, np.ndarray]]:
    """Vectors (3, K, N) and local content (N_LOCAL, K, N) of each wave, as the columns (C, N) of the fit hold them."""
    layout = [(n, len(fractions)) for n in (3, N_LOCAL) for fractions in _WAVES.values()]
    parts = np.split(columns, np.cumsum([n * n_knots for n, n_knots in layout])[:-1])
    parts = [part.reshape(n, n_knots, -1) for part, (n, n_knots) in zip(parts, layout)]
    return [dict(zip(_WAVES, parts[:3])), dict(zip(_WAVES, parts[3:]))]


@lru_cache(maxsize=1)
def repolarisation_course() -> tuple[np.ndarray, np.ndarray]:
    """Course over ST_T_FRACTIONS of an ST vector (1 just after QRS) and of a T vector (1 at its peak), (K,) each."""
    mean = _by_wave(fitted()["shape"][:, 0].mean(axis=0)[:, None])[0]["st_t"][..., 0]
    along = mean[:, T_PEAK_KNOTS].sum(axis=-1) @ mean
    return np.array([1.0, 0.85, 0.55, 0.25, 0.08, 0.0, 0.0]), along / along.max()


def draw_lead_fields(
    age: np.ndarray, female: np.ndarray, draws: Draws, config: SimulatorConfig, session: Session | None = None
) -> dict[str, np.ndarray]:
    """Lead fields of P, QRS and ST-T of N subjects, (8, 3 + N_LOCAL, N) each: X, Y, Z and local content."""
    fields = {}
    for k, wave in enumerate(_WAVES):
        dipole = _move_electrodes(_line(fitted()[f"{wave}_field"], decades_of(age), female), draws, config)
        local = np.repeat(fitted()[f"{wave}_local"][:, :, None], len(age), axis=-1)
        fields[wave] = np.concatenate([dipole, local], axis=1)
        if session is not None:
            _put_on_again(fields[wave], session.limb_gain[k], session)
    return fields


def _put_on_again(field: np.ndarray, limb_gain: np.ndarray, session: Session) -> None:
    """Electrodes of a sitting, where they differ from those of session 0; ``limb_gain`` (2, N): log, of I and II."""
    field[:2] *= np.exp(limb_gain)[:, None]
    field[2:] += (ALONG_PER_CM[:, None] * session.chest_along_cm)[:, None] * np.gradient(field[2:], axis=0)
    field[2:, 1] += UP_Y_PER_CM * session.chest_up_cm
    field[2:] *= np.exp(UP_GAIN_PER_CM[:, None] * session.chest_up_cm)[:, None]


def electrodes_seen(draws: Draws, config: SimulatorConfig, session: Session) -> np.ndarray:
    """What the leads of a sitting show of its electrodes, the person's part and the session's, to first order, (24, N).

    Log gains of I and II in P, QRS and ST-T, and of V1 to V6; the Y coefficients and places along the line of these.
    """
    z = draws.normal["lead_gain"]
    gain, chest_gain = config.electrodes * _LEAD_GAIN_SD * z, config.electrodes * _CHEST_GAIN_SD * z[0]
    shift, height = _own_places(draws, config)
    return np.concatenate([
        *(gain[:2] + session.limb_gain),
        gain[2:] + chest_gain + UP_GAIN_PER_CM[:, None] * session.chest_up_cm,
        height + UP_Y_PER_CM * session.chest_up_cm,
        shift + ALONG_PER_CM[:, None] * session.chest_along_cm,
    ])  # fmt: skip


def _own_places(draws: Draws, config: SimulatorConfig) -> tuple[np.ndarray, np.ndarray]:
    """Chest electrodes of the person: places along the line (spacings), and Y coefficients from up or down, (6, N)."""
    z, scale = draws.normal, config.electrodes
    shift = scale * (_SHIFT_SD * z["chest_shift"][0] + _OWN_SHIFT_SD * z["chest_shift"][1:])
    return shift, scale * (_HEIGHT_SD * z["chest_height"][0] + _OWN_HEIGHT_SD * z["chest_height"][1:])


def _move_electrodes(field: np.ndarray, draws: Draws, config: SimulatorConfig) -> np.ndarray:
    z, scale = draws.normal, config.electrodes
    slope = np.gradient(field[2:], axis=0)  # change per electrode spacing
    shift, height = _own_places(draws, config)
    field[2:] += shift[:, None] * slope
    field[2:, 1] += height
    gain = np.exp(scale * _LEAD_GAIN_SD * z["lead_gain"])
    gain[2:] *= np.exp(scale * _CHEST_GAIN_SD * z["lead_gain"][0])  # all chest leads: near or far from the heart
    return field * gain[:, None, :]
