"""How well intervals can be measured at all: measurements of the true, simulated ECG against the latents that made it.

Two ways to measure: the averaged beat of all leads (:mod:`p2es_lib.evaluation.metrics.measurements`), which every table
of this project uses, and NeuroKit2's wavelet delineation of a single lead, which others use. The simulator's intervals
run from the first to the last trace of a wave, as published ones do, and tangents meet the baseline inside of that, so
a bias of T by some 30 ms and of P by some 10 ms is a matter of definition (:mod:`p2es_lib.simulator.heart`).
"""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
from scipy.signal import resample_poly

from p2es_lib.core.errors import InputError, check_choice
from p2es_lib.core.leads import LEADS
from p2es_lib.evaluation.metrics.intervals import agreement_rows, measure_ecg
from p2es_lib.evaluation.metrics.long_table import whole_window
from p2es_lib.evaluation.metrics.measurements import BEAT_RATE

#: Ways to measure, and how they are called in tables.
MEASURED_BY = {"averaged_beat": "Averaged beat, all leads", "neurokit": "NeuroKit2 (dwt), lead II"}
#: Quantity and the column of the simulator's index that holds its true value.
LATENTS = {name: name for name in ("heart_rate", "pr_ms", "qrs_ms", "qtc_ms")} | {"qrs_axis_deg": "axis_deg"}


def delineation_differences(windows, sampling_rate: float, methods=tuple(MEASURED_BY)) -> pd.DataFrame:
    """Measured minus known values of simulated windows, as ``intervals.agreement_rows``, the method as ``estimate``.

    ``windows`` hold ``ecg`` (N, 12, T) and ``index`` with the columns of :data:`LATENTS` (else InputError): a simulated
    data set. ``methods`` are of :data:`MEASURED_BY`.
    """
    missing = [column for column in LATENTS.values() if column not in windows.index]
    if missing:
        raise InputError(f"delineation: the true {', '.join(missing)} are not known; only simulated windows have them")
    true = {name: whole_window(windows.index[column].to_numpy(dtype=float)) for name, column in LATENTS.items()}
    ecg, frames = np.asarray(windows.ecg), []
    for method in methods:
        check_choice("method", method, MEASURED_BY)
        if method == "neurokit":
            table = neurokit_intervals(ecg, sampling_rate)
            measured = {name: whole_window(table[name].to_numpy()) for name in table if name in true}
        else:
            measured = measure_ecg(ecg, sampling_rate)
        frames.append(agreement_rows(measured, true, windows.index, method))
    return pd.concat(frames, ignore_index=True)


def neurokit_intervals(ecg: np.ndarray, sampling_rate: float) -> pd.DataFrame:
    """Rate and intervals by NeuroKit2's discrete wavelet delineation of lead II, medians over the beats of a window.

    Columns heart_rate (1/min), pr_ms, qrs_ms, qt_ms, qtc_ms (Fridericia) for ECG (N, 12, T) in mV; NaN where it finds
    nothing. The lead is resampled from a whole number of Hz to 500 Hz, where the method finds more than at 125 Hz. That
    its R onsets and offsets often lie at the P wave or beyond the S wave is known (NeuroKit issue 1042).

    References
    ----------
    Makowski D et al. NeuroKit2: a Python toolbox for neurophysiological signal processing. Behav Res Methods
    2021;53:1689-1696. Martinez JP et al. A wavelet-based ECG delineator. IEEE Trans Biomed Eng 2004;51(4):570-581.
    """
    columns = ["heart_rate", "pr_ms", "qrs_ms", "qt_ms", "qtc_ms"]
    found = [_neurokit(signal, sampling_rate) for signal in np.asarray(ecg, dtype=np.float64)[:, LEADS.index("II")]]
    return pd.DataFrame(found, columns=columns).astype(float)


def _neurokit(signal: np.ndarray, sampling_rate: float) -> dict[str, float]:
    import neurokit2 as nk

    if not np.isfinite(signal).all():
        return {}
    signal = resample_poly(signal, int(BEAT_RATE), int(round(sampling_rate)), padtype="line")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a wave that is found in no beat is a missing value, not news
        try:
            peaks = nk.ecg_peaks(signal, sampling_rate=int(BEAT_RATE))[1]["ECG_R_Peaks"]
            waves = nk.ecg_delineate(signal, peaks, sampling_rate=int(BEAT_RATE), method="dwt")[1]
        except (ValueError, IndexError, ZeroDivisionError):  # what it raises for signals with few or no beats
            return {}
        at = {name: 1e3 * np.array(times, dtype=float) / BEAT_RATE for name, times in waves.items()}
        onset = at["ECG_R_Onsets"]
        pr, qrs = np.nanmedian(onset - at["ECG_P_Onsets"]), np.nanmedian(at["ECG_R_Offsets"] - onset)
        qt = np.nanmedian(at["ECG_T_Offsets"] - onset)
    rr_s = np.diff(peaks).mean() / BEAT_RATE if len(peaks) > 1 else np.nan
    return {"heart_rate": 60 / rr_s, "pr_ms": pr, "qrs_ms": qrs, "qt_ms": qt, "qtc_ms": qt / np.cbrt(rr_s)}
