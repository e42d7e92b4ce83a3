"""The 12 leads and the linear relations among them.

Eight leads (I, II, V1..V6) are independent; III and the augmented leads follow from I and II by the laws of Einthoven
(III = II - I) and Goldberger (aVR = -(I + II)/2, aVL = I - II/2, aVF = II - I/2). So every physical 12-lead ECG lies in
the column space of :data:`LEAD_MATRIX`, which has 8 dimensions, and any two limb leads give all six.

References
----------
Malmivuo J, Plonsey R. Bioelectromagnetism, ch. 15. Oxford University Press, 1995.
"""

import re
from collections.abc import Sequence

import numpy as np

from p2es_lib.core.errors import InputError

#: Order of the lead axis everywhere in this project.
LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
INDEPENDENT_LEADS = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
LIMB_LEADS = LEADS[:6]
#: Values of a lead mask, shape (B, 12).
ABSENT, DERIVED, MEASURED = 0, 1, 2

# Limb leads as rows over (I, II).
_LIMB = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 1.0], [-0.5, -0.5], [1.0, -0.5], [-0.5, 1.0]])

#: (12, 8): 12 leads from the 8 independent ones.
LEAD_MATRIX = np.block([[_LIMB, np.zeros((6, 6))], [np.zeros((6, 2)), np.eye(6)]])
#: (12, 12): orthogonal projection on the consistent subspace, the least-squares nearest consistent ECG.
PROJECTION = LEAD_MATRIX @ np.linalg.pinv(LEAD_MATRIX)
INDEPENDENT_ROWS = tuple(LEADS.index(name) for name in INDEPENDENT_LEADS)

#: What an ECG signal's unit is worth in mV. Anything else (NU, adu, V) gives an amplitude of unknown or unlikely scale.
MILLIVOLTS = {"mv": 1.0, "uv": 1e-3, "µv": 1e-3, "μv": 1e-3}
# What may stand in brackets behind a lead's name: units, usable or not. "II (filtered)" names no unit, and no lead.
_ECG_UNITS = {*MILLIVOLTS, "v", "nv", "nu", "adu", "au", "a.u.", "counts", "lsb"}
_TAIL = ",;:. _-"  # what files leave behind a name
_BRACKETS = re.compile(r"(.*?)\s*[(\[]\s*([^()\[\]]*?)\s*[)\]]\s*")
_BEHIND = re.compile(r"(.*?)[ _]+([mM][vV]|[uUµμ][vV])")
# "ECG II", "Lead_III", "MDC_ECG_LEAD_AVR" (IEEE 11073-10101), "MLII" (modified), "DII" and "D2" (Spanish, Portuguese).
# A minus belongs to the lead where nothing but a prefix stands before it: "-aVR" is not aVR, "ECG-II" is II.
_LEAD_NAME = re.compile(
    r"(?:MDC_ECG_(?:LEAD|ELEC_POTL)_)?(?:E[CK]G(?:[ _]+|-)?)?(?:LEAD(?:[ _]+|-)?)?"
    r"(?:ML(?P<modified>I{1,3})|D(?P<derivation>I{1,3}|[123])|(?P<plain>I{1,3}|AV[RLF]|V[1-6]))"
)


def split_unit(name: str) -> tuple[str, str]:
    """Name of a signal without the ECG unit behind it, and that unit: ``"V1 (uV)"`` or ``"V1_uV"`` to V1, uV; or ""."""
    text = name.strip().rstrip(_TAIL)
    found = _BRACKETS.fullmatch(text) or _BEHIND.fullmatch(text)
    return (found[1], found[2]) if found and found[2].lower() in _ECG_UNITS else (text, "")


def parse_lead(name: str) -> str | None:
    """Standard name for a signal name as files write it (``"II,"``, ``"AVR."``, ``"MLII"``, ``"D2 (mV)"``), else None:
    ``"V"`` and ``"MCL"`` are chest electrodes of unknown position, ``"-aVR"`` is aVR upside down.
    """
    if not (found := _LEAD_NAME.fullmatch(split_unit(name)[0].strip().rstrip(_TAIL).upper())):
        return None
    text = found["modified"] or found["derivation"] or found["plain"]
    return {lead.upper(): lead for lead in LEADS}[{"1": "I", "2": "II", "3": "III"}.get(text, text)]


def expand_leads(ecg8: np.ndarray) -> np.ndarray:
    """12 leads from the 8 independent ones: (..., 8, T) mV to (..., 12, T) mV.

    By additions, not a matrix product, so that each sample's bits do not depend on the batch around it.
    """
    one, two = ecg8[..., 0, :], ecg8[..., 1, :]
    limb = [one, two, two - one, -0.5 * (one + two), one - 0.5 * two, two - 0.5 * one]
    return np.stack([*limb, *np.moveaxis(ecg8[..., 2:, :], -2, 0)], axis=-2)


def complete_limb_leads(signals: dict[str, np.ndarray], where: str = "record") -> tuple[np.ndarray, np.ndarray]:
    """Measured leads (name to signal (T,), mV, NaN where missing) in standard order, and the limb leads that follow
    from the first two: ECG (12, T), mV, absent leads 0, and lead mask (12,): 0 absent, 1 derived, 2 measured.
    ``where``: named in the :class:`InputError` of wrong signals.
    """
    unknown = [name for name in signals if name not in LEADS]
    lengths = {len(signal) for signal in signals.values()}
    if unknown or len(lengths) != 1:
        problem = f"unknown leads {unknown}" if unknown else f"lead signals of lengths {sorted(lengths)}"
        raise InputError(f"{where}: {problem}; expected equally long signals named as in {', '.join(LEADS)}")
    ecg, lead_mask = np.zeros((12, lengths.pop())), np.zeros(12, dtype=np.uint8)
    for row, signal in zip(lead_rows(list(signals)), signals.values(), strict=True):
        ecg[row], lead_mask[row] = signal, MEASURED
    pair = np.flatnonzero(lead_mask[:6])[:2]
    if len(pair) == 2:
        one_two = np.linalg.solve(_LIMB[pair], ecg[pair])
        for row in np.flatnonzero(lead_mask[:6] == ABSENT):
            ecg[row], lead_mask[row] = _LIMB[row] @ one_two, DERIVED
    return ecg, lead_mask


def lead_residual(ecg: np.ndarray) -> np.ndarray:
    """Distance from the consistent subspace, (..., 12, T) mV to root-mean-square (...) mV; 0 for a physical ECG."""
    residual = ecg - np.einsum("ij,...jt->...it", PROJECTION, ecg)
    return np.sqrt(np.mean(residual**2, axis=(-2, -1)))


def lead_rows(names: Sequence[str]) -> list[int]:
    """Row numbers of the named leads; unknown names raise an :class:`InputError`."""
    unknown = [name for name in names if name not in LEADS]
    if unknown:
        raise InputError(f"unknown leads {unknown}; the leads are {', '.join(LEADS)}")
    return [LEADS.index(name) for name in names]
