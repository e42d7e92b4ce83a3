"""Bootstrap over subjects, because windows of one person are alike: a resample is a row of weights, row 0 the data."""

import numpy as np


def resample(n_units: int, n_bootstrap: int, seed: int) -> np.ndarray:
    """How often each unit counts: row 0 once each, then one row per resample; (1 + n_bootstrap, U)."""
    draws = np.random.default_rng(seed).multinomial(n_units, np.full(n_units, 1.0 / n_units), size=n_bootstrap)
    return np.vstack([np.ones(n_units), draws])


def subject_weights(subjects: np.ndarray, n_bootstrap: int, seed: int) -> np.ndarray:
    """Weights of windows (1 + n_bootstrap, N) of ``subjects`` (N,): how often drawn, over the number of its windows."""
    _, of_subject, n_windows = np.unique(np.asarray(subjects).astype(str), return_inverse=True, return_counts=True)
    return (resample(len(n_windows), n_bootstrap, seed) / n_windows)[:, of_subject]


def percentile_interval(draws: np.ndarray, n_subjects: int) -> tuple[np.ndarray, np.ndarray]:
    """95 % percentile interval over the rows after the first, two arrays (...); NaN with fewer than two subjects."""
    draws = np.asarray(draws, dtype=float)
    bounds = np.full((2, *draws.shape[1:]), np.nan)
    if n_subjects > 1 and len(draws) > 1:
        known = np.isfinite(draws[1:]).any(axis=0)
        bounds[:, known] = np.nanpercentile(draws[1:][:, known], [2.5, 97.5], axis=0)
    return bounds[0], bounds[1]


def with_interval(draws: np.ndarray, n_subjects: int, name: str = "value", prefix: str = "") -> dict[str, float]:
    """The first of the draws (1 + R,) by ``name``, their 95 % interval as ``<prefix>lower`` and ``<prefix>upper``."""
    lower, upper = percentile_interval(draws, n_subjects)
    return {name: draws[0], f"{prefix}lower": float(lower), f"{prefix}upper": float(upper)}


def two_sided_p(draws: np.ndarray) -> np.ndarray:
    """p-value that a difference is zero, (...) from (1 + R, ...): twice the smaller share of resamples beside zero.

    At least 2 / (R + 1). Resamples without a value do not count.
    """
    beyond = np.minimum((draws[1:] <= 0).sum(axis=0), (draws[1:] >= 0).sum(axis=0))
    return np.minimum(1.0, 2 * (beyond + 1) / (1 + np.isfinite(draws[1:]).sum(axis=0)))


def weighted_auroc(score: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Area under the ROC curve (R,) under each row of weights (R, N): chance that a positive scores above a negative.

    ``score`` and ``positive`` (bool) are (N,); ties count half. NaN where a row leaves no positive, or no negative.
    """
    order = np.argsort(score, kind="stable")
    first = np.unique(score[order], return_index=True)[1]
    sides = ((weights * side)[:, order] for side in (positive, ~positive))
    of_positive, of_negative = (np.add.reduceat(side, first, axis=1) for side in sides)  # (R, values)
    below = np.cumsum(of_negative, axis=1) - of_negative / 2
    pairs = of_positive.sum(axis=1) * of_negative.sum(axis=1)
    with np.errstate(invalid="ignore"):
        return (of_positive * below).sum(axis=1) / np.where(pairs > 0, pairs, np.nan)
