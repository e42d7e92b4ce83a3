"""Disturbed PPG for the robustness figures, treated as a user's recording would be: filtered, scaled, and judged."""

from __future__ import annotations

import numpy as np
import pandas as pd

from p2es_lib.data.windows.fresh_ppg import clean_and_scale
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
    """Add a disturbance to windows of PPG, then filter and scale them as every PPG is.

    Parameters
    ----------
    ppg : array (N, 1, T)
    kind : str
        One of :data:`KINDS`.
    snr_db : float
        Pulsatile power over the power of the disturbance, before the filter.
    sampling_rate : float
        Hz.
    seed : int
        The same seed disturbs a window in the same way, whatever the other windows are.

    Returns
    -------
    float32 array (N, 1, T)
    """
    rngs = [np.random.default_rng((seed, row)) for row in range(len(ppg))]
    return clean_and_scale(disturb(ppg[:, 0], kind, snr_db, rngs, sampling_rate), sampling_rate)[:, None]


def passes_gate(ppg: np.ndarray, sampling_rate: float, least: float) -> np.ndarray:
    """Whether each window (N, 1, T) would be accepted by someone who sees the PPG only: quality of at least ``least``."""
    return np.array([ppg_quality(window[0], sampling_rate) >= least for window in ppg])


_OF_DIFFERENCE = ["value", "lower", "upper"]
_ADDED = ("rmse_lag_added", "rmse_lag_added_lower", "rmse_lag_added_upper")


def gate_rows(
    scores: pd.DataFrame,
    kept: np.ndarray,
    n_bootstrap: int = 1000,
    *,
    unit: str = "subject",
    reference: pd.DataFrame | None = None,
) -> list[dict[str, object]]:
    """Error and R-peak F1 of all windows, and of those that pass the gate, with 95 % bootstrap intervals.

    Parameters
    ----------
    scores : DataFrame
        Of N windows, with mse_lag and r_peak_f1_lag of one lead and one estimate, from :func:`p2es_lib.evaluation.metrics.evaluate`.
    kept : bool array (N,)
        Which windows pass.
    n_bootstrap, unit
        As in :func:`p2es_lib.evaluation.metrics.summarise`, whose averages these are: every subject counts the same.
    reference : DataFrame, optional
        Scores of the same windows when they are hardly disturbed.

    Returns
    -------
    list of dict
        One for all windows, one for those that pass: windows, rmse_lag (mV), r_peak_f1_lag, kept (share of the windows),
        the bounds ``<metric>_lower`` and ``<metric>_upper``, n_subjects; with a reference also ``rmse_lag_added``, the
        error less that of the reference, with its bounds, paired over subjects (for all windows: other ones may pass
        there). NaN, and no subject, where no window passes; no bounds where the windows are of one subject.
    """
    rows = []
    for gate, use in (
        ("all windows", np.ones(len(kept), dtype=bool)),
        ("windows that pass the gate", np.asarray(kept, dtype=bool)),
    ):
        part = scores[use[scores["window"].to_numpy()]]
        found = summarise(part, n_bootstrap, unit=unit).set_index("metric") if len(part) else pd.DataFrame()
        table = found.reindex(index=["rmse_lag", "r_peak_f1_lag"], columns=["value", "lower", "upper", "n_subjects"])
        bounds = {f"{metric}_{side}": table.at[metric, side] for metric in table.index for side in ("lower", "upper")}
        n_subjects = part["subject"].nunique()
        row = {"windows": gate, **table["value"], "kept": use.mean(), **bounds, "n_subjects": n_subjects}
        if reference is not None:
            row |= dict.fromkeys(_ADDED, np.nan)
            if gate == "all windows":
                row |= zip(
                    _ADDED,
                    summarise_difference(part, reference, n_bootstrap, unit=unit)
                    .set_index("metric")
                    .loc["rmse_lag", _OF_DIFFERENCE],
                )
        rows.append(row)
    return rows
