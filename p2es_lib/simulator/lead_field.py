"""From the dipole to the leads: a lead-field matrix per subject, 8 independent leads, 12 by Einthoven and Goldberger.

The mean fields of P, QRS and ST-T, for men and women over age, are fitted to PTB-XL normals together with the beat
(:mod:`tools.fit_normal_beats`). :data:`FORWARD`, which that fit starts from, is the least-squares forward map from Kors
vectors to the eight leads, pooled over 293 normal records. Three components carry 99.8 % of one subject's energy but
96.4 % of a pool: leads see each subject's heart differently. Most of that is fitted, as the local content of
:mod:`p2es_lib.simulator.normal_beats`, whose lead patterns are further columns of the matrix here. Besides, the matrix
itself differs a little, alike for all waves: gain of each lead 2.5 % and of all chest leads 3 % (log-normal), chest
electrodes shifted along their line by 0.08 of a spacing together and 0.04 each, and up or down. These spreads are
assumptions: larger ones made S in V2 and R in III differ more between people than in PTB-XL normals.

References
----------
Kors JA et al. Eur Heart J 11:1083, 1990. Wagner P et al. PTB-XL. Sci Data 7:154, 2020.
"""

from __future__ import annotations

import numpy as np

from p2es_lib.simulator.draws import Draws
from p2es_lib.simulator.normal_beats import decades_of, fitted
from p2es_lib.simulator.settings import SimulatorConfig

#: Rows I, II, V1..V6; columns X (left), Y (down), Z (back).
FORWARD = np.array([
    [0.863, -0.314, -0.031], [0.102, 1.001, -0.133], [-0.351, -0.292, -0.948], [0.491, -0.888, -2.105],
    [0.816, -0.279, -1.626], [0.989, 0.162, -0.822], [1.004, 0.211, -0.177], [0.782, 0.286, 0.117],
])  # fmt: skip
_LEAD_GAIN_SD, _CHEST_GAIN_SD = 0.025, 0.03
_SHIFT_SD, _OWN_SHIFT_SD, _HEIGHT_SD, _OWN_HEIGHT_SD = 0.08, 0.04, 0.025, 0.02


def draw_lead_fields(
    age: np.ndarray, female: np.ndarray, draws: Draws, config: SimulatorConfig
) -> dict[str, np.ndarray]:
    """Lead fields of P, QRS and ST-T of N subjects, (8, 3 + N_LOCAL, N) each, with one set of electrodes.

    Columns are X, Y, Z and the lead patterns of local content, which are alike in all.
    """
    decades = decades_of(age)
    fields = {}
    for wave in ("p", "qrs", "st_t"):
        men, women = (line[0][:, :, None] + line[1][:, :, None] * decades for line in fitted()[f"{wave}_field"])
        dipole = _move_electrodes(np.where(female, women, men), draws, config)
        local = np.repeat(fitted()[f"{wave}_local"][:, :, None], len(age), axis=-1)
        fields[wave] = np.concatenate([dipole, local], axis=1)
    return fields


def _move_electrodes(field: np.ndarray, draws: Draws, config: SimulatorConfig) -> np.ndarray:
    z, scale = draws.normal, config.electrodes
    slope = np.gradient(field[2:], axis=0)  # change per electrode spacing
    shift = scale * (_SHIFT_SD * z["chest_shift"][0] + _OWN_SHIFT_SD * z["chest_shift"][1:])
    field[2:] += shift[:, None] * slope
    field[2:, 1] += scale * (_HEIGHT_SD * z["chest_height"][0] + _OWN_HEIGHT_SD * z["chest_height"][1:])
    gain = np.exp(scale * _LEAD_GAIN_SD * z["lead_gain"])
    # The first limb lead's number also moves all chest leads: near or far from the heart.
    gain[2:] *= np.exp(scale * _CHEST_GAIN_SD * z["lead_gain"][0])
    return field * gain[:, None, :]
