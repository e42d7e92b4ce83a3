"""From scores to table rows: averages with bootstrap intervals over subjects."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from p2es_lib.core.errors import InputError, check_choice
from p2es_lib.evaluation.metrics.long_table import SCORE_COLUMNS, SEPARATOR
from p2es_lib.evaluation.metrics.resampling import percentile_interval, resample, two_sided_p

UNITS = ("subject", "record", "window")
#: With ``unit="window"``, this many consecutive windows of a record are drawn together.
BLOCK_WINDOWS = 10
#: Root-mean-square errors and the squared errors that they are made of; the spread of the samples likewise.
ROOTS = {"rmse": "mse", "rmse_lag": "mse_lag", "spread": "variance"}
SUMMARY_COLUMNS = ["lead", "estimate", "metric", "value", "lower", "upper", "n_subjects"]


def summarise(scores: pd.DataFrame, n_bootstrap: int = 1000, seed: int = 0, *, unit: str = "subject") -> pd.DataFrame:
    """Average scores and give 95 % percentile bootstrap intervals over subjects.

    A subject's value is the mean over its windows; the value of a row is the mean over subjects, each counting the
    same. ``rmse`` is the root of the mean squared error over subjects, not the mean of roots: only for the pooled
    squared error is the conditional mean the best possible estimate. Ratios per window (Pearson, PRD, F1, ...) are
    plain means. An :class:`InputError` for an empty table, one without these columns, and an unknown unit.

    Parameters
    ----------
    scores : DataFrame
        From ``scores.evaluate``. With a column ``seed`` (several trainings), the value is the mean of the seeds'
        values, and a resample takes the same subjects in every seed: the interval says nothing of training noise.
    n_bootstrap, seed : int
        Number of resamples and seed of their generator; the same input gives the same table.
    unit : "subject", "record" or "window"
        What is resampled (and counts the same). "record" and "window" (blocks of ten consecutive windows of a record,
        since neighbours are alike) are for data of a few subjects: they say nothing about other people.

    Returns
    -------
    DataFrame
        Columns lead, estimate, metric, value, lower, upper, n_subjects; no bounds (NaN) with fewer than two units.
    """
    means = unit_means(scores, unit)
    return summary_table(means, averages(means, resample(len(means.units), n_bootstrap, seed)))


def summarise_difference(
    scores: pd.DataFrame, reference, n_bootstrap=1000, seed=0, *, reference_estimate="mean", unit="subject"
) -> pd.DataFrame:
    """Value of ``scores`` minus value of ``reference`` on the same subjects, with paired bootstrap intervals.

    For "P2Es minus template", and for the distance to the irreducible error: the differences of mse_timing,
    mse_amplitude and mse_morphology add up to that of mse. Pairing takes the differences between subjects out of the
    interval, so it is narrower than two separate intervals suggest. Every estimate is compared with
    ``reference_estimate``, or with its like (None). The rest is as in :func:`summarise`, for the leads and metrics that
    both have, and ``p_value`` of ``resampling.two_sided_p``. InputError: other subjects, or nothing in common.
    """
    first, second = unit_means(scores, unit), unit_means(reference, unit)
    if list(first.units) != list(second.units):
        raise InputError("difference of scores: the two tables are not about the same subjects and windows; score both "
                         "methods on the same windows")  # fmt: skip
    position = {key: column for column, key in enumerate(second.columns)}
    keys = [(lead, reference_estimate or estimate, metric) for lead, estimate, metric in first.columns]
    pairs = [(column, position[key]) for column, key in enumerate(keys) if key in position]
    if not pairs:
        raise InputError(f"difference of scores: the reference has no estimate {reference_estimate!r} of these metrics")
    common, partner = np.array(pairs).T
    weights = resample(len(first.units), n_bootstrap, seed)
    # A subject counts where both methods have a value for it: otherwise the difference would compare different people.
    both = first.present[:, :, common].any(axis=0) & second.present[:, :, partner].any(axis=0)
    first, second = first.take(common, both), second.take(partner, both)
    return summary_table(first, averages(first, weights) - averages(second, weights), p_values=True)


def beyond_chance(differences: pd.DataFrame) -> pd.Series:
    """Which rows of ``experiments.results.difference_table`` are not explained by chance, bool.

    Over people, p_holm below 0.05; and over trainings, seed_min and seed_max on the same side of zero.
    """
    same_side = (differences["seed_min"] > 0) | (differences["seed_max"] < 0)
    return (differences["p_holm"] < 0.05) & same_side


def holm(p_values: np.ndarray) -> np.ndarray:
    """p-values (n,) corrected so that the chance of any false finding among n comparisons stays below the level.

    Holm S. A simple sequentially rejective multiple test procedure. Scand J Stat 6:65-70, 1979. NaN is no comparison.
    """
    p_values = np.asarray(p_values, dtype=float)
    corrected, known = np.full(p_values.shape, np.nan), np.flatnonzero(np.isfinite(p_values))
    order = known[np.argsort(p_values[known], kind="stable")]
    factors = len(order) - np.arange(len(order))
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(factors * p_values[order]))
    return corrected


class UnitMeans(NamedTuple):
    """Mean value per seed, unit and (lead, estimate, metric)."""

    values: np.ndarray  # (S, U, C), 0 where absent
    present: np.ndarray  # bool (S, U, C)
    units: pd.Index  # (U,) what is resampled
    subjects: np.ndarray  # (U,) subject of each unit
    columns: list[tuple[str, str, str]]  # (C,)

    def take(self, columns: np.ndarray, keep: np.ndarray) -> UnitMeans:
        """Some columns, restricted to the units that ``keep`` (U, C) allows."""
        present = self.present[:, :, columns] & keep
        values = np.where(present, self.values[:, :, columns], 0.0)
        return UnitMeans(values, present, self.units, self.subjects, [self.columns[c] for c in columns])


def unit_means(scores: pd.DataFrame, unit: str) -> UnitMeans:
    """Mean per unit of every lead, estimate and metric of a table of scores, with the errors of :func:`summarise`."""
    check_choice("unit", unit, UNITS)
    missing = [name for name in SCORE_COLUMNS if name not in scores.columns]
    if missing or scores.empty:
        raise InputError(f"scores: {'columns missing: ' + ', '.join(missing) if missing else 'the table is empty'}")
    unit_names = scores["subject"].astype(str)
    if unit != "subject":
        unit_names = unit_names + SEPARATOR + scores["record"].astype(str)
    if unit == "window":
        block = scores.groupby(["subject", "record"], observed=True)["window"].rank("dense").astype(int) - 1
        unit_names = unit_names + SEPARATOR + (block // BLOCK_WINDOWS).astype(str).str.zfill(9)
    unit_of, units = pd.factorize(unit_names, sort=True)
    seed_of, seeds = pd.factorize(scores["seed"]) if "seed" in scores else (np.zeros(len(scores), dtype=int), [0])
    groups = scores.groupby(["lead", "estimate", "metric"], sort=False, observed=True)
    columns = [tuple(map(str, key)) for key in groups.size().index]
    shape = (len(seeds), len(units), len(columns))
    cell = np.ravel_multi_index((seed_of, unit_of, groups.ngroup().to_numpy()), shape)
    value = scores["value"].to_numpy(dtype=float)
    finite = np.isfinite(value)
    count = np.bincount(cell[finite], minlength=np.prod(shape)).reshape(shape)
    total = np.bincount(cell[finite], value[finite], minlength=np.prod(shape)).reshape(shape)
    means = np.where(count > 0, total / np.maximum(count, 1), 0.0)
    # A root-mean-square error is a column of squared errors until `averages` takes the root.
    source, names = [], []
    for column, (lead, estimate, metric) in enumerate(columns):
        for name in [*(root for root, squared in ROOTS.items() if squared == metric), metric]:
            source.append(column)
            names.append((lead, estimate, name))
    subjects = scores["subject"].astype(str).to_numpy()[np.unique(unit_of, return_index=True)[1]]
    return UnitMeans(means[:, :, source], (count > 0)[:, :, source], pd.Index(units), subjects, names)


def averages(means: UnitMeans, weights: np.ndarray) -> np.ndarray:
    """Mean over units with roots taken, then over seeds: (R, C); NaN where a resample holds no unit with a value."""
    root = np.array([metric in ROOTS for _, _, metric in means.columns])
    total, n_seeds = np.zeros((2, len(weights), len(means.columns)))
    for values, present in zip(means.values, means.present, strict=True):
        count = weights @ present
        average = weights @ values / np.where(count > 0, count, np.nan)
        # Squared errors are not negative but for rounding, so the root exists.
        average[:, root] = np.sqrt(np.maximum(average[:, root], 0.0))
        total += np.nan_to_num(average)
        n_seeds += count > 0
    return total / np.where(n_seeds > 0, n_seeds, np.nan)


def summary_table(means: UnitMeans, draws: np.ndarray, p_values: bool = False) -> pd.DataFrame:
    """Rows of the summary from draws (1 + R, C), whose first row is the value; ``p_values`` of differences."""
    present = means.present.any(axis=0)  # (U, C)
    lower, upper = percentile_interval(np.where(present.sum(axis=0) > 1, draws, np.nan), len(present))
    # Several units (records, blocks of windows) may belong to one subject.
    n_subjects = [len(set(means.subjects[column])) for column in present.T]
    table = pd.DataFrame(means.columns, columns=SUMMARY_COLUMNS[:3])
    table = table.assign(value=draws[0], lower=lower, upper=upper, n_subjects=n_subjects)
    return table.assign(p_value=np.where(np.isfinite(lower), two_sided_p(draws), np.nan)) if p_values else table
