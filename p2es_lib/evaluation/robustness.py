"""Disturbed PPG for the robustness figures, judged as it was recorded, and the errors with and without such a gate."""

import numpy as np
import pandas as pd

from p2es_lib.evaluation.metrics import summarise, summarise_difference
from p2es_lib.signals.cleaning import ppg_quality
from p2es_lib.simulator.disturbances import disturb

#: Kinds of disturbance and how they are called; those of :mod:`p2es_lib.simulator.disturbances`.
KINDS = {
    "drift": "Baseline drift",
    "low_perfusion": "White sensor noise",
    "motion": "Bursts of motion",
    "clipping": "Clipping",
    "gaps": "Gaps",
}


def disturb_windows(ppg: np.ndarray, kind: str, snr_db: float, sampling_rate: float, seed: int = 0) -> np.ndarray:
    """PPG windows (N, 1, T), float32, as a sensor records them under a disturbance: neither filtered nor scaled.

    ``kind`` is one of :data:`KINDS`, ``snr_db`` pulsatile power over the power of the disturbance. The same seed
    disturbs a window in the same way, whatever the other windows are.
    """
    rngs = [np.random.default_rng((seed, row)) for row in range(len(ppg))]
    return disturb(ppg[:, 0], kind, snr_db, rngs, sampling_rate)[:, None]


def passes_gate(recorded: np.ndarray, sampling_rate: float, least: float) -> np.ndarray:
    """Whether each window (N, 1, T) has a quality of ``least`` or more, bool (N,).

    To be asked of the PPG as it was recorded: after a filter, clipped and missing stretches look like pulses.
    """
    return np.array([ppg_quality(window[0], sampling_rate) >= least for window in recorded])


def gate_rows(scores, kept, n_bootstrap=1000, *, unit="subject", reference=None) -> list[dict[str, object]]:
    """Error and R-peak F1 of all windows, and of those that pass the gate, with 95 % bootstrap intervals.

    ``scores`` of N windows hold mse_lag and r_peak_f1_lag of one lead and one estimate, ``kept`` (N,) says which
    windows pass, ``reference`` are scores of the same windows when they are hardly disturbed. Averages are those of
    :func:`p2es_lib.evaluation.metrics.summarise`: every subject counts the same. Two rows: windows (all, or those that
    pass), rmse_lag (mV), r_peak_f1_lag, kept (share of the windows), the bounds ``<metric>_lower`` and
    ``<metric>_upper``, n_subjects. With a reference also ``rmse_lag_added``, the error less that of the reference, with
    its bounds, paired over subjects; for all windows only, since other ones may pass there. NaN where nothing is known.
    """
    added = ("rmse_lag_added", "rmse_lag_added_lower", "rmse_lag_added_upper")
    rows = []
    for gate, use in (("all windows", np.ones(len(kept), dtype=bool)), ("windows that pass the gate", kept)):
        part = scores[use[scores["window"].to_numpy()]]
        found = summarise(part, n_bootstrap, unit=unit).set_index("metric") if len(part) else pd.DataFrame()
        table = found.reindex(index=["rmse_lag", "r_peak_f1_lag"], columns=["value", "lower", "upper"])
        bounds = {f"{metric}_{side}": table.at[metric, side] for metric in table.index for side in ("lower", "upper")}
        row = {"windows": gate, **table["value"], "kept": use.mean(), **bounds, "n_subjects": part["subject"].nunique()}
        row |= dict.fromkeys(added, np.nan) if reference is not None else {}
        if reference is not None and gate == "all windows":
            difference = summarise_difference(part, reference, n_bootstrap, unit=unit).set_index("metric")
            row |= zip(added, difference.loc["rmse_lag", ["value", "lower", "upper"]])
        rows.append(row)
    return rows
