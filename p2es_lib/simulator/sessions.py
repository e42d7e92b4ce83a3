"""Sittings of one person: what changes from one recording to another, and slowly within one.

Session 0 is the person as drawn; every other sitting deviates from it at random, by the SD within a person of ONE
recording. So two sittings s, s' >= 1 differ as two recordings of a person do, sitting 0 and another one by 1/sqrt(2) of
that: for a reference and a target as in life take two sessions from 1 on.

- Pulse arrival time: SD 9 ms (same sitting 2 to 8 ms, another day at most 8 ms as pulse wave velocity, half a year 9-17
  ms), 10 % of the sittings SD 20 ms: a sensor put on again, with another pulse shape (a third of the spread between
  people: our choice) and noise.
- Heart rate: log-normal, 9 % (SD within a person 6-9 per minute; UK Biobank r 0.64 after 34 months).
- QRS axis 4, T axis 7, P axis 5 degrees (PTB-XL NORM pairs 3.6 and 5.7). QRS 3, PR 6 (unverified), QTc 9 ms
  (PMC4025961, PMID 18929329). Breathing rate 15 %, its lag and depth: our choice.
- Limb leads: gains of I and II, from which the other four follow, so that Einthoven and Goldberger stay exact. T in all
  leads 8 %.
- Chest electrodes: each 1.35 cm along its line and up or down (one operator, unverified; technicians are 2.9 cm off,
  PMID 8854328). Along: the field of the neighbours, 5 cm apart. Up: less of the downward forces (R in V1 and V2 falls
  0.1 mV a space, unverified) and a gain per cm, fitted so that R varies as in the pairs below.
- Within a sitting: a path of sines from 0.04 to 0.3 Hz, SD 3 ms (calm), and an offset of each window, SD 3 ms (30-s
  medians: SD 1-5 ms in 2 minutes).

Measured: 500 normal people, sessions 1 and 2, one beat of 600 ms, 12 leads (in brackets: 8 pairs of NORM records of
6 people of PTB-XL). RMS of the difference, median 0.056 mV, 95 % 0.028-0.116 (0.054, all 0.028-0.118); r median 0.967
(0.96). By lead, I 27, II 29, V1 44, V2 61, V3 77, V4 81, V5 52, V6 43 uV (37, 33, 61, 82, 73, 61, 49, 36). CV within a
person of R: I 7, II 6, V1 29, V2 19, V3 21, V4 20, V5 14, V6 12 % (5, 6, 30, 13, 17, 30, 14, 12; the pairs have a low R
in V4: its SD is 0.27 mV here and 0.25 there); of S in V1 to V4: 23, 14, 19, 30 %; of T in I and II: 14, 11 %. QRS axis
4.4, T axis 6.7 degrees. Sessions 0 and 1: RMS 0.040 mV, r 0.983.
"""

import math
from dataclasses import dataclass, fields

import numpy as np

from p2es_lib.core.errors import InputError, check_choice
from p2es_lib.simulator.draws import N_SLOW, Draws
from p2es_lib.simulator.settings import SimulatorConfig

#: What may have happened to the heart since session 0; the position is the code in the latents.
CHANGES = ("none", "af", "pvc", "st_elevation", "lbbb", "long_qt")
NO_CHANGE, TO_AF, TO_PVC, TO_ST_ELEVATION, TO_LBBB, TO_LONG_QT = range(6)

#: SD of the arrival time within a person (s): usually, and in a share of the sittings.
PAT_SD_S, PAT_TAIL_SHARE = (0.009, 0.020), 0.10
_TURN_DEG = np.array([3.0, 1.7, 3.5])[:, None]  # of the dipole of P, QRS, T: the axes turn twice as far
# Log gain of P, QRS and T in all leads, and of each in leads I and II.
_WAVE_GAIN, _LIMB_GAIN = np.array([0.08, 0.02, 0.08])[:, None], np.array([0.06, 0.045, 0.07])[:, None, None]
_ELECTRODE_CM = 1.35
#: Of V1 to V6, per cm along the line: part of the way to the next electrode, 5 cm off. Less over the sternum, where the
#: difference between neighbours would move R in V1 and V2 too far.
ALONG_PER_CM = np.array([0.65, 0.8, 1.0, 1.0, 1.0, 1.0]) / 5.0
#: Change of the Y coefficient (mV/mV) and of the log gain of V1 to V6 for each cm that the electrode lies higher.
UP_Y_PER_CM = -0.03
UP_GAIN_PER_CM = np.array([0.0, -0.03, 0.08, 0.14, 0.10, 0.08])
_SLOW_PATH_S, _SLOW_OFFSET_S, _SLOW_HZ = 0.003, 0.003, (0.04, 0.3)


@dataclass(frozen=True)
class Session:
    """How the sittings of N rows differ from the person as drawn; arrays are (N,) or (count, N).

    ``far_way`` and ``far_place`` (0 to 1): a heart rate far from rest, -1 slow, 1 fast, 0 no. ``turn_deg`` and
    ``wave_gain`` (3, N): of P, QRS, T; ``limb_gain`` (3, 2, N): of these in leads I and II. Gains are logarithms.
    ``chest_along_cm``, ``chest_up_cm`` (6, N). ``ppg_breathing`` (2, N), ``pulse_shape`` (5, N), ``noise_level``: to be
    added to the person's standard normal numbers.
    """

    number: np.ndarray
    change: np.ndarray
    far_way: np.ndarray
    far_place: np.ndarray
    pat_s: np.ndarray
    log_rate: np.ndarray
    turn_deg: np.ndarray
    wave_gain: np.ndarray
    limb_gain: np.ndarray
    chest_along_cm: np.ndarray
    chest_up_cm: np.ndarray
    qrs_s: np.ndarray
    pr_s: np.ndarray
    qt_s: np.ndarray
    breathing_rate: np.ndarray
    breathing_lag: np.ndarray
    ecg_breathing: np.ndarray
    ppg_breathing: np.ndarray
    pulse_shape: np.ndarray
    noise_level: np.ndarray


#: Session of the reference of a person whose session 0 is the target.
REFERENCE_SESSION = 1


def as_recordings(config: SimulatorConfig) -> SimulatorConfig:
    """Settings with which session 0 and another one differ as two recordings of a person do."""
    return config.replace(session_changes=math.sqrt(2) * config.session_changes)


def check_session(session: int, change: str) -> None:
    """InputError for an unknown change, or one in session 0, which is the person as drawn."""
    if check_choice("change", change, CHANGES) != "none" and session < 1:
        raise InputError(f"change={change!r}: session 0 is the heart before it; ask for a session from 1 on")


def make_session(draws: Draws, number: int, change: str, config: SimulatorConfig) -> Session:
    """Deviations of N sittings, number >= 1, from their random numbers."""
    z, u, scale = draws.normal, draws.uniform, config.session_changes
    n = len(z["qrs"])
    tail = u["pat_tail"] < PAT_TAIL_SHARE
    longer = np.where(change == "long_qt", 0.060 + 0.040 * u["long_qt"], 0.0)
    return Session(
        number=np.full(n, number, dtype=np.int64),
        change=np.full(n, CHANGES.index(change), dtype=np.int8),
        far_way=np.zeros(n, dtype=np.int8),
        far_place=np.zeros(n),
        pat_s=scale * np.where(tail, PAT_SD_S[1] * z["pat"][1], PAT_SD_S[0] * z["pat"][0]),
        log_rate=0.09 * scale * z["heart_rate"],
        turn_deg=scale * _TURN_DEG * z["axis"],
        wave_gain=scale * _WAVE_GAIN * z["wave_gain"],
        limb_gain=scale * _LIMB_GAIN * z["limb_gain"].reshape(3, 2, n),
        chest_along_cm=scale * _ELECTRODE_CM * z["chest_along"],
        chest_up_cm=scale * _ELECTRODE_CM * z["chest_up"],
        qrs_s=0.003 * scale * np.clip(z["qrs"], -3.0, 3.0),
        pr_s=0.006 * scale * z["pr"],
        qt_s=0.009 * scale * z["qtc"] + longer,
        breathing_rate=0.15 * scale * z["breathing_rate"],
        breathing_lag=0.05 * scale * z["breathing_lag"],
        ecg_breathing=0.2 * scale * z["breathing_depth"][0],
        ppg_breathing=scale * np.stack([0.5 * z["breathing_depth"][1]] * 2),
        pulse_shape=0.33 * scale * z["pulse_shape"],
        noise_level=0.5 * scale * z["noise_level"],
    )


def no_session(n: int) -> Session:
    """Session 0 of N people: no deviation."""
    one, two, six = np.zeros(n), np.zeros((2, n)), np.zeros((6, n))
    whole = {"number": np.zeros(n, dtype=np.int64), "change": np.zeros(n, dtype=np.int8)}
    wide = {"turn_deg": np.zeros((3, n)), "wave_gain": np.zeros((3, n)), "limb_gain": np.zeros((3, 2, n))}
    wide |= {"chest_along_cm": six, "chest_up_cm": six, "ppg_breathing": two, "pulse_shape": np.zeros((5, n))}
    rest = {field.name for field in fields(Session)} - {*whole, *wide, "far_way"}
    return Session(**whole, far_way=np.zeros(n, dtype=np.int8), **wide, **dict.fromkeys(rest, one))


def far_from_rest(draws: Draws, config: SimulatorConfig) -> dict[str, np.ndarray]:
    """``far_way`` and ``far_place`` of N sittings: a quarter of those far from rest are slow, the others fast."""
    u = draws.uniform
    way = np.where(u["far"] < config.extreme_rates, np.where(u["far_way"] < 0.25, -1, 1), 0)
    return {"far_way": way.astype(np.int8), "far_place": u["far_place"]}


def slow_arrival(times_s: np.ndarray, draws: Draws, config: SimulatorConfig) -> np.ndarray:
    """Slow part of the arrival time of each beat (s) at its time (s), (N, n_beats) both: path and offset."""
    z, u, (low, high) = draws.normal["slow"], draws.uniform["slow_hz"], _SLOW_HZ
    path = np.zeros_like(times_s)
    for k in range(N_SLOW):
        hz = low * (high / low) ** ((k + u[k]) / N_SLOW)
        angle = 2 * np.pi * hz[:, None] * times_s
        path += z[2 * k][:, None] * np.cos(angle) + z[2 * k + 1][:, None] * np.sin(angle)
    return config.pat_drift * (_SLOW_OFFSET_S * z[-1][:, None] + _SLOW_PATH_S / np.sqrt(N_SLOW) * path)
