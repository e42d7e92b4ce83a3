"""Is a long translation worse where its windows join? Error inside the fades against error elsewhere."""

from __future__ import annotations

import numpy as np
import pandas as pd

from p2es_lib.core.errors import InputError


def join_mask(n_total: int, starts: np.ndarray, n_window: int) -> np.ndarray:
    """Where two windows overlap, bool (n_total,); ``starts`` are the first samples of the windows, ascending."""
    count = np.zeros(n_total, dtype=int)
    for start in starts:
        count[start : start + n_window] += 1
    return count > 1


def join_errors(error: np.ndarray, starts: np.ndarray, n_window: int) -> pd.DataFrame:
    """Error of long recordings at the joins of their windows and elsewhere.

    Parameters
    ----------
    error : array (R, 12, T)
        Estimate minus truth of R recordings, mV; NaN where there is no estimate or no truth.
    starts : int array
        First samples of the windows.
    n_window : int
        Their length.

    Returns
    -------
    DataFrame
        One row per recording: ``rmse_joins`` and ``rmse_elsewhere`` (mV), and of the steps of the error from sample to
        sample ``step_joins`` (RMS at the edges of the fades, where a seam would show) and ``step_elsewhere``, mV. The
        ends of the recording, where no window fades, count as neither.

    Raises
    ------
    InputError
        Arrays that do not fit, or fewer than two windows.
    """
    error, starts = np.asarray(error, dtype=float), np.asarray(starts)
    if error.ndim != 3 or len(starts) < 2 or starts[-1] + n_window > error.shape[2]:
        raise InputError(
            f"join_errors: errors of shape {error.shape} and {len(starts)} windows; need (R, 12, T) and two or more inside"
        )
    inside = join_mask(error.shape[2], starts, n_window)
    joins = np.flatnonzero(inside)
    elsewhere = ~inside
    elsewhere[: joins[0]], elsewhere[joins[-1] + 1 :] = False, False
    edges = np.flatnonzero(np.diff(inside.astype(int)))
    steps = np.abs(np.diff(error, axis=2))
    around = np.zeros(steps.shape[2], dtype=bool)
    around[edges] = True
    others = np.zeros_like(around)
    others[joins[0] : joins[-1]] = True
    others &= ~around
    rows = []
    for one, step in zip(error, steps, strict=True):
        rows.append(
            {
                "rmse_joins": np.sqrt(np.nanmean(one[:, inside] ** 2)),
                "rmse_elsewhere": np.sqrt(np.nanmean(one[:, elsewhere] ** 2)) if elsewhere.any() else np.nan,
                "step_joins": np.sqrt(np.nanmean(step[:, around] ** 2)),
                "step_elsewhere": np.sqrt(np.nanmean(step[:, others] ** 2)),
            }
        )
    return pd.DataFrame(rows)


def join_excess(table: pd.DataFrame, what: str = "rmse") -> tuple[float, float, float]:
    """Mean over recordings of the excess at the joins, mV, and its 95 % interval (normal, from the spread over recordings)."""
    excess = (table[f"{what}_joins"] - table[f"{what}_elsewhere"]).to_numpy()
    half = 1.96 * excess.std(ddof=1) / np.sqrt(len(excess)) if len(excess) > 1 else np.nan
    return float(excess.mean()), float(excess.mean() - half), float(excess.mean() + half)
