"""Is a translated recording one person? How much its beats flutter, and whether its own mean beat would do better.

A heart at rest repeats itself: QRS complexes of one lead differ in height by 3 to 5 per cent, and R follows the pulse
within a few milliseconds. A translation that draws every window, or every beat, anew does neither.
"""

import numpy as np
import pandas as pd
import torch

from p2es_lib.evaluation.metrics.waveform import pearson
from p2es_lib.reference.mean_beat import find_r, make_references
from p2es_lib.reference.placement import expected_beats, place_reference
from p2es_lib.signals.pulse_features import pulse_upstrokes

#: Half of the stretch around R in which the height of QRS is measured, s.
QRS_REACH_S = 0.06
#: R peaks of two ECGs further apart than this are not of the same beat, s.
MATCH_S = 0.15
#: Leads in which QRS is lower than this are not measured, mV.
LEAST_QRS_MV = 0.2


def qrs_height_cv(ecg: np.ndarray, sampling_rate: float) -> np.ndarray:
    """Coefficient of variation of the QRS height (peak to peak) between the beats of a recording, mean over leads.

    ``ecg`` (N, 12, T) mV, NaN in absent leads, to (N,); NaN with fewer than three whole beats or no lead that counts.
    """
    available = np.isfinite(ecg).all(axis=-1)
    r_times = find_r(torch.as_tensor(np.nan_to_num(ecg)), torch.as_tensor(available).float(), sampling_rate).numpy()
    reach, n_samples = round(QRS_REACH_S * sampling_rate), ecg.shape[-1]
    found = np.full(len(ecg), np.nan)
    for row, times in enumerate(r_times):
        centres = np.round(times[np.isfinite(times)] * sampling_rate).astype(int)
        centres = centres[(centres >= reach) & (centres < n_samples - reach)]
        if len(centres) < 3 or not available[row].any():
            continue
        parts = ecg[row][available[row]][:, centres[:, None] + np.arange(-reach, reach + 1)]  # (L, beats, samples)
        height = np.ptp(parts, axis=-1)
        tall = height.mean(axis=1) >= LEAST_QRS_MV
        if tall.any():
            found[row] = np.mean(height[tall].std(axis=1, ddof=1) / height[tall].mean(axis=1))
    return found


def jitter_ms(times: np.ndarray, true: np.ndarray) -> float:
    """Spread (robust SD, ms) of the differences between event times and the nearest true ones, s; NaN: under three."""
    times, true = (part[np.isfinite(part)] for part in (times, true))
    if len(times) < 3 or len(true) < 3:
        return np.nan
    difference = times[:, None] - true
    # The common delay first: that of the pulse is longer than what two R peaks may differ by.
    nearest = difference[np.arange(len(times)), np.abs(difference).argmin(axis=1)]
    shifted = difference - np.median(nearest)
    nearest = shifted[np.arange(len(times)), np.abs(shifted).argmin(axis=1)]
    nearest = nearest[np.abs(nearest) < MATCH_S]
    return 1000 * 1.4826 * float(np.median(np.abs(nearest - np.median(nearest)))) if len(nearest) >= 3 else np.nan


def own_beat_pasted(ecg: np.ndarray, ppg: np.ndarray, sampling_rate: float) -> np.ndarray:
    """The mean beat of each ECG (N, 12, T) pasted at the pulses of its PPG (N, 1, T), (N, 12, T) mV."""
    given = torch.as_tensor(np.isfinite(ecg).all(axis=-1)).float()
    ppg = torch.as_tensor(np.asarray(ppg, dtype=np.float32))
    own = make_references(torch.as_tensor(np.nan_to_num(ecg)), given, sampling_rate, ppg=ppg)
    pulses, _ = expected_beats(pulse_upstrokes(ppg, sampling_rate))
    r_times = pulses - own.delay_s.nan_to_num(0.25)[:, None]
    return place_reference(own, r_times, ecg.shape[-1], sampling_rate).numpy()


def coherence_scores(estimate, truth, ppg, lead_mask, sampling_rate: float) -> pd.DataFrame:
    """A row per window: CV of QRS height and R jitter of estimate and truth, and the gain over the own beat pasted.

    Parameters
    ----------
    estimate, truth : array (N, 12, T)
        mV; of the estimate the leads count that the truth has (``lead_mask`` (N, 12)).
    ppg : array (N, 1, T)
        Its pulses are what the jitter of R is held against.

    Returns
    -------
    DataFrame
        qrs_cv, true_qrs_cv; r_jitter_ms and pulse_jitter_ms, both about the true R; r and r_own_beat, mean Pearson
        correlation over the leads, of the estimate and of its own mean beat pasted at the pulses.
    """
    exists = np.asarray(lead_mask) > 0
    estimate, truth = (np.where(exists[..., None], part, np.nan) for part in (estimate, truth))
    exists = exists & np.isfinite(estimate).all(axis=-1)
    r_times = [
        find_r(torch.as_tensor(np.nan_to_num(part)), torch.as_tensor(exists).float(), sampling_rate).numpy()
        for part in (estimate, truth)
    ]
    pulses = pulse_upstrokes(torch.as_tensor(np.asarray(ppg, dtype=np.float32)), sampling_rate).numpy()
    pasted = own_beat_pasted(estimate, ppg, sampling_rate)
    columns = {
        "qrs_cv": qrs_height_cv(estimate, sampling_rate),
        "true_qrs_cv": qrs_height_cv(truth, sampling_rate),
        "r_jitter_ms": [jitter_ms(*pair) for pair in zip(*r_times, strict=True)],
        "pulse_jitter_ms": [jitter_ms(pulse, true) for pulse, true in zip(pulses, r_times[1], strict=True)],
    }
    for name, part in (("r", estimate), ("r_own_beat", pasted)):
        correlation = np.where(exists, pearson(np.nan_to_num(part), np.nan_to_num(truth)), np.nan)
        with np.errstate(invalid="ignore"):
            columns[name] = np.nanmean(correlation, axis=1)
    return pd.DataFrame(columns)
