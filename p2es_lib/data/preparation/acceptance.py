"""How far each window can be trusted: figures that are kept as columns, and the gate that is laid on them later.

The figures look at the signals as recorded (missing, flat, clipped, jumping) and at the beats: do the pulses agree with
each other, and are they pulses at all; do the QRS complexes agree, does every pulse follow a QRS complex at one delay?
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from p2es_lib.core.leads import MEASURED
from p2es_lib.data.preparation.clean_stretch import CleanStretch
from p2es_lib.signals import cleaning
from p2es_lib.signals.pulse_quality import pulse_likeness

#: A window may hold at most this share of faulty samples in the PPG, and in the ECG.
MAX_FAULTS = 0.01
#: Limb leads that are measured must agree with each other to this, mV.
MAX_LEAD_RESIDUAL_MV = 0.02
#: A window of which more than this share is faulty is counted, but its signals are not stored.
HOPELESS_FAULTS = 0.5
# Why a window is rejected, in the order in which it is asked.
REASONS = (
    "PPG missing, flat, clipped or jumping",
    "ECG missing, flat, clipped or jumping",
    "limb leads contradict each other",
    "PPG pulses disagree, or could be noise",
    "QRS complexes disagree",
    "pulses do not follow the QRS complexes",
)


def judge_windows(clean: CleanStretch, starts: np.ndarray, window_samples: int) -> pd.DataFrame:
    """Quality of windows, one row each.

    Parameters
    ----------
    clean : CleanStretch
    starts : int array (N,)
        First samples of the windows.
    window_samples : int
        Length of each.

    Returns
    -------
    DataFrame
        ``start_s`` (after the start of the record); ``quality`` (the least of the next three, 0 to 1), ``quality_ppg``
        and ``quality_ecg`` (agreement of the beats with their template; of the PPG, at most how far its pulses rise
        faster than they fall, :func:`p2es_lib.signals.pulse_quality.pulse_likeness`), ``quality_pairing``; shares of
        samples with each fault, ``ppg_gap``, ``ppg_flat``, ..., ``ecg_jump``, and of any fault, ``ppg_faults`` and
        ``ecg_faults``; ``lead_residual_mv``; ``heart_rate`` (per minute), ``pat_ms`` (R peak to PPG onset, median),
        ``rpeaks_s`` (seconds after the beginning of the window, as text).
    """
    rate = clean.sampling_rate
    measured = np.flatnonzero(clean.lead_mask == MEASURED)
    shown = clean.ecg[measured] if len(measured) else clean.rhythm[None]
    rpeaks = cleaning.ecg_rpeaks(clean.rhythm, rate)
    onsets = cleaning.ppg_onsets(clean.ppg, rate)
    masks = {f"ppg_{kind}": mask for kind, mask in clean.ppg_faults.items()}
    masks |= {f"ecg_{kind}": mask for kind, mask in clean.ecg_faults.items()}
    for signal in ("ppg", "ecg"):
        masks[f"{signal}_faults"] = np.any([masks[f"{signal}_{kind}"] for kind in cleaning.FAULTS], axis=0)
    rows = []
    for first in starts:
        part = slice(first, first + window_samples)
        beats = rpeaks[np.searchsorted(rpeaks, first) : np.searchsorted(rpeaks, part.stop)] - first
        pulses = onsets[np.searchsorted(onsets, first) : np.searchsorted(onsets, part.stop)] - first
        pairing, delays = cleaning.pair_beats(beats, pulses, window_samples, rate)
        ppg = clean.ppg[part]
        of_ppg = max(0.0, min(cleaning.template_agreement(ppg, pulses, rate), pulse_likeness(ppg, pulses)))
        of_ecg = max(0.0, cleaning.template_agreement(shown[:, part], beats, rate))
        rows.append(
            {"start_s": round(clean.begins_s + first / rate, 6), "quality": min(of_ppg, of_ecg, pairing)}
            | {"quality_ppg": of_ppg, "quality_ecg": of_ecg, "quality_pairing": pairing}
            | {name: float(mask[part].mean()) for name, mask in masks.items()}
            | {
                "lead_residual_mv": float(clean.lead_residual[part].max()),
                "heart_rate": 60 * rate / np.median(np.diff(beats)) if len(beats) > 2 else np.nan,
                "pat_ms": 1000 * np.median(delays) if len(delays) else np.nan,
                "rpeaks_s": " ".join(f"{beat / rate:.3f}" for beat in beats),
            }
        )
    return pd.DataFrame(rows)


def reject(index: pd.DataFrame, min_quality: float) -> pd.Series:
    """Why each window is not used, one of :data:`REASONS`, or "" for those that are; any limit can be laid on the
    figures.

    Parameters
    ----------
    index : DataFrame
        With the columns of :func:`judge_windows`.
    min_quality : float
        Least value of the three quality figures, 0 to 1.
    """
    failed = (
        index["ppg_faults"] > MAX_FAULTS,
        index["ecg_faults"] > MAX_FAULTS,
        index["lead_residual_mv"] > MAX_LEAD_RESIDUAL_MV,
        index["quality_ppg"] < min_quality,
        index["quality_ecg"] < min_quality,
        index["quality_pairing"] < min_quality,
    )
    return pd.Series(np.select(failed, REASONS, ""), index=index.index, dtype=object)
