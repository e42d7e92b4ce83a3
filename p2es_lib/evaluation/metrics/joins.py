"""Is a long translation worse where its windows join? Error inside the fades against error elsewhere."""

import numpy as np
import pandas as pd

from p2es_lib.core.errors import InputError


def join_errors(error: np.ndarray, starts: np.ndarray, n_window: int) -> pd.DataFrame:
    """Error of long recordings at the joins of their windows and elsewhere, one row per recording.

    ``error`` (R, 12, T) is estimate minus truth in mV, NaN where either is missing; windows of ``n_window`` samples
    begin at ``starts``, two or more. ``rmse_joins`` and ``rmse_elsewhere``, and the RMS of the steps of the error from
    sample to sample, ``step_joins`` at the edges of the fades, where a seam would show, and ``step_elsewhere``. The
    ends of the recording, where no window fades, count as neither.
    """
    error, starts = np.asarray(error, dtype=float), np.asarray(starts)
    if error.ndim != 3 or len(starts) < 2 or starts[-1] + n_window > error.shape[2]:
        shapes = f"errors of shape {error.shape} and {len(starts)} windows"
        raise InputError(f"join_errors: {shapes}; need (R, 12, T) and two or more windows inside")
    count = np.zeros(error.shape[2], dtype=int)
    for start in starts:
        count[start : start + n_window] += 1
    inside, between = count > 1, np.zeros(len(count), dtype=bool)
    first, last = np.flatnonzero(inside)[[0, -1]]
    between[first : last + 1] = True
    edges = inside[1:] != inside[:-1]

    def rms(values: np.ndarray, where: np.ndarray) -> float:
        return np.sqrt(np.nanmean(values[:, where] ** 2)) if where.any() else np.nan

    parts = {"rmse_joins": inside, "rmse_elsewhere": between & ~inside}
    steps = {"step_joins": edges, "step_elsewhere": between[:-1] & between[1:] & ~edges}
    return pd.DataFrame(
        {name: rms(one, where) for name, where in parts.items()}
        | {name: rms(np.diff(one, axis=1), where) for name, where in steps.items()}
        for one in error
    )


def join_excess(table: pd.DataFrame, what: str = "rmse") -> tuple[float, float, float]:
    """Mean over recordings of the excess at the joins, mV, and its 95 % interval (normal, over recordings)."""
    excess = (table[f"{what}_joins"] - table[f"{what}_elsewhere"]).to_numpy()
    mean, half = excess.mean(), 1.96 * excess.std(ddof=1) / np.sqrt(len(excess)) if len(excess) > 1 else np.nan
    return float(mean), float(mean - half), float(mean + half)
