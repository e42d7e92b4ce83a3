"""Does a method know which of its translations to distrust? The spread of a window's samples against its error.

Everything here follows from the table of scores: ``variance`` of the estimate "samples" (what the squared error of
their mean would be if they were calibrated) and ``mse`` of the estimate "mean".

References
----------
Geifman Y, El-Yaniv R. Selective classification for deep neural networks. NeurIPS 2017.
Fortin V et al. Why should ensemble spread match the RMSE of the ensemble mean? J Hydrometeorol 2014;15:1708-1713.
"""

import numpy as np
import pandas as pd

from p2es_lib.core.errors import InputError
from p2es_lib.evaluation.metrics.resampling import percentile_interval, subject_weights, with_interval

#: Shares of windows kept, at which :func:`risk_coverage` gives the error.
KEPT_SHARES = tuple(np.round(np.arange(0.05, 1.001, 0.05), 2))


def _spread_and_error(scores: pd.DataFrame, lead: str) -> pd.DataFrame:
    """Windows with their expected and their actual squared error (mV^2), the expected ones ascending."""
    rows, parts = scores[scores["lead"] == lead], []
    keys = [key for key in ("seed", "subject", "window") if key in rows]
    for metric, estimate, name in (("variance", "samples", "expected"), ("mse", "mean", "actual")):
        chosen = rows[(rows["metric"] == metric) & (rows["estimate"] == estimate)]
        parts.append(chosen.set_index(keys)["value"].rename(name))
    table = pd.concat(parts, axis=1, join="inner").sort_values("expected", kind="stable").reset_index()
    if table.empty:
        raise InputError(f"spread and error: no variance of samples beside the mse of their mean, lead {lead}")
    return table


def _kept_risk(weights: np.ndarray, squared: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share of windows kept and their RMSE (R, N), as windows are added in the given order."""
    kept = np.cumsum(weights, axis=1)
    with np.errstate(invalid="ignore"):
        return kept / kept[:, -1:], np.sqrt(np.cumsum(weights * squared, axis=1) / np.where(kept > 0, kept, np.nan))


def risk_coverage(scores: pd.DataFrame, *, lead="all", kept=KEPT_SHARES, n_bootstrap=1000, seed=0) -> pd.DataFrame:
    """RMSE of the windows that are kept when those of the widest spread are turned away (abstention).

    ``scores`` are those of ``scores.evaluate``, with the estimates "mean" and "samples", ``lead`` a lead or a group of
    leads. Columns kept (share of windows, each subject counting the same), risk (RMSE, mV), lower, upper (95 % over
    subjects), oracle (RMSE if the windows with the largest error were turned away: no ranking can do better).
    """
    table, risks = _spread_and_error(scores, lead), []
    for ranked, n_draws in ((table, n_bootstrap), (table.sort_values("actual", kind="stable"), 0)):
        weights = subject_weights(ranked["subject"].to_numpy(), n_draws, seed)
        shares, risk = _kept_risk(weights, ranked["actual"].to_numpy())
        # The fewest windows that make up at least the share wanted.
        places = [np.minimum(np.searchsorted(row, np.array(kept) - 1e-9), len(ranked) - 1) for row in shares]
        risks.append(np.take_along_axis(risk, np.stack(places), axis=1))
    lower, upper = percentile_interval(risks[0], table["subject"].nunique())
    return pd.DataFrame({"kept": kept, "risk": risks[0][0], "lower": lower, "upper": upper, "oracle": risks[1][0]})


def spread_skill(scores: pd.DataFrame, *, lead: str = "all", n_bootstrap: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Does a window's own spread say how wrong its mean is? Arguments as in :func:`risk_coverage`.

    Columns lead, metric, value, lower, upper (95 % over subjects), n_subjects, of ``spread_correlation``, Spearman's
    between spread and RMSE over windows; ``spread_ratio``, root mean variance over root mean squared error, 1 for
    calibrated samples, below 1 where they are too sure; ``risk_area``, mean RMSE of :func:`risk_coverage` over all
    shares kept (mV); ``risk_gain``, the part of what a perfect ranking would take off the area of a random one (the
    overall RMSE) that the spread takes off: 1 perfect, 0 useless, negative misleading.
    """
    table = _spread_and_error(scores, lead)
    subjects, expected, actual = (table[name].to_numpy() for name in ("subject", "expected", "actual"))
    weights = subject_weights(subjects, n_bootstrap, seed)
    order = np.argsort(actual, kind="stable")
    overall = np.sqrt(weights @ actual / weights.sum(axis=1))
    area, best = (
        np.nansum(w * _kept_risk(w, e)[1], axis=1) / w.sum(axis=1)
        for w, e in ((weights, actual), (weights[:, order], actual[order]))
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        draws = {
            "spread_correlation": _spearman(weights, expected, actual),
            "spread_ratio": np.sqrt(weights @ expected / (weights @ actual)),
            "risk_area": area,
            "risk_gain": (overall - area) / (overall - best),
        }
    n = len(np.unique(subjects))
    rows = [{"lead": lead, "metric": metric} | with_interval(values, n) for metric, values in draws.items()]
    return pd.DataFrame(rows).assign(n_subjects=n)


def _spearman(weights: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Spearman's correlation under each row of weights, (R,); a window drawn twice shares its rank with itself."""
    share = weights / weights.sum(axis=1, keepdims=True)
    ranks = []
    for values in (x, y):
        order = np.argsort(values, kind="stable")
        rank = np.empty_like(share)
        rank[:, order] = np.cumsum(share[:, order], axis=1) - share[:, order] / 2
        ranks.append(rank - (share * rank).sum(axis=1, keepdims=True))
    variances = [(share * rank**2).sum(axis=1) for rank in ranks]
    return (share * ranks[0] * ranks[1]).sum(axis=1) / np.sqrt(variances[0] * variances[1])
