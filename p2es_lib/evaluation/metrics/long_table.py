"""What is scored, and the long table of scores: a row per subject, record, window, lead, estimate and metric."""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from p2es_lib.core.errors import InputError, check_choice
from p2es_lib.core.leads import ABSENT, DERIVED, LEADS, MEASURED

SCORE_COLUMNS = ["subject", "record", "window", "lead", "estimate", "metric", "value"]
#: What the column ``lead`` may hold beside the names of the leads: averages over groups of leads.
LEAD_GROUPS = ("all", "measured", "derived")
#: Between the parts of a joined key. Not NUL, which pandas drops when it is added to a column.
SEPARATOR = "\x1f"


def check_samples(samples, windows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Samples (N, K, 12, T) and true ECG (N, 12, T) in mV as arrays, and which true leads can be scored, bool (N, 12).

    InputError for shapes that do not fit.
    """
    samples, truth = np.asarray(samples), np.asarray(windows.ecg)
    if samples.ndim != 4 or (samples.shape[0], *samples.shape[2:]) != truth.shape or samples.shape[1] < 1:
        shapes = f"samples of shape {samples.shape} do not fit windows of shape {truth.shape}"
        raise InputError(f"{shapes}; give (N, K, 12, T)")
    return samples, truth, (np.asarray(windows.lead_mask) != ABSENT) & np.isfinite(truth).all(axis=-1)


def point_estimate(samples: np.ndarray, estimate: str) -> np.ndarray:
    """The first ("single") of samples (N, K, ...), or the mean of all."""
    return samples[:, 0] if check_choice("estimate", estimate, ("single", "mean")) == "single" else samples.mean(axis=1)


def per_lead(available: np.ndarray, score: Callable[..., dict[str, np.ndarray]], chunk: int) -> dict[str, np.ndarray]:
    """Values of each window and lead from ``score(window, lead)``, which gives those of ``chunk`` places by name.

    Only leads that are available (N, L) are asked for; each table is (N, L), NaN elsewhere.
    """
    places = np.argwhere(available)
    parts = [score(*places[start : start + chunk].T) for start in range(0, len(places), chunk)]
    tables = {name: np.full(available.shape, np.nan) for name in (parts[0] if parts else ())}
    for name, table in tables.items():
        table[available] = np.concatenate([part[name] for part in parts])  # argwhere and masks run in the same order
    return tables


def with_lead_groups(table: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Append the means over all, the measured and the derived leads of each window: (N, 12) to (N, 15)."""
    columns = [table]
    for group in (mask != ABSENT, mask == MEASURED, mask == DERIVED):
        use = group & np.isfinite(table)
        count, total = use.sum(axis=1), np.where(use, table, 0.0).sum(axis=1)
        columns.append(np.where(count > 0, total / np.maximum(count, 1), np.nan)[:, None])
    return np.hstack(columns)


def whole_window(column: np.ndarray) -> np.ndarray:
    """A value per window (N,) as lead "all" of an (N, 15) table that holds nothing else."""
    table = np.full((len(column), len(LEADS) + len(LEAD_GROUPS)), np.nan)
    table[:, len(LEADS)] = column
    return table


def long_keys(names, places: tuple[np.ndarray, ...], index: pd.DataFrame, estimate: str) -> dict[str, np.ndarray]:
    """Columns of a long table before the value, for places (metric, window, lead) of a cube (metrics, N, 15).

    ``index`` holds subject and record of the N windows; ``window`` is its column of that name, or else the row number.
    """
    numbers = index["window"].to_numpy() if "window" in index else np.arange(len(index))
    metric, window, lead = places
    columns = {name: index[name].astype(str).to_numpy(dtype=object)[window] for name in ("subject", "record")}
    columns |= {"window": numbers[window], "lead": np.array([*LEADS, *LEAD_GROUPS], dtype=object)[lead]}
    return columns | {"estimate": estimate, "metric": np.array(list(names), dtype=object)[metric]}


def long_table(by_lead: Mapping, by_window: Mapping, windows, estimate: str) -> pd.DataFrame:
    """Rows of :data:`SCORE_COLUMNS` from metrics by name, (N, 12) per lead or (N,) per window, which is lead "all".

    Those per lead are averaged over groups of leads, too; missing values make no row.
    """
    mask = np.asarray(windows.lead_mask)
    values = {name: with_lead_groups(table, mask) for name, table in by_lead.items()}
    values |= {name: whole_window(column) for name, column in by_window.items()}
    cube = np.stack(list(values.values()))
    places = np.nonzero(np.isfinite(cube))
    return pd.DataFrame(long_keys(values, places, windows.index, estimate) | {"value": cube[places]})
