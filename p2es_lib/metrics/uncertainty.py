"""Do the samples know how wrong they may be? Proper score, coverage and width of their bands, spread against error.

The K samples of a window are taken as draws from what the method believes, and the truth as one more draw if it believes
rightly. With K samples few bands can be had: between the i-th from below and the i-th from above of K samples one more
exchangeable value falls with probability (K + 1 - 2 i) / (K + 1). So a level p is the rank h = (K + 1)(1 - p) / 2 from
either end; where h is not whole, coverage and limits are mixed from the two whole ranks beside it in proportion, which
keeps the expected coverage at exactly p for any distribution. Beyond p = (K - 1) / (K + 1), 0.88 with 16 samples, there
is only the band from the least to the largest sample: :func:`attainable_level`.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from p2es_lib.errors import InputError
from p2es_lib.metrics.resampling import percentile_interval, subject_weights

#: Levels of the central bands in the table of scores.
LEVELS = (0.50, 0.80, 0.95)
#: Levels of :func:`calibration_curve`.
CURVE_LEVELS = tuple(np.round(np.arange(0.05, 1.0, 0.05), 2))
#: Shares of windows kept, at which :func:`risk_coverage` gives the error.
KEPT_SHARES = tuple(np.round(np.arange(0.05, 1.001, 0.05), 2))


def attainable_level(level: float, n_samples: int) -> float:
    """Coverage that a calibrated method has with bands of this level from K samples: at most (K - 1) / (K + 1)."""
    return min(level, (n_samples - 1) / (n_samples + 1))


def level_name(prefix: str, level: float) -> str:
    """Name of a metric of bands: ``coverage_80``."""
    return f"{prefix}_{100 * level:.0f}"


def _rank(level: float, n_samples: int) -> tuple[int, float]:
    """Whole part i >= 1 and fraction of the rank h from either end of K samples (see the module)."""
    if not 0 < level < 1 or n_samples < 2:
        raise InputError(f"bands of level {level} from {n_samples} sample(s): a level between 0 and 1, 2 samples or more")
    rank = max((n_samples + 1) * (1 - level) / 2, 1.0)
    whole = int(np.floor(rank + 1e-9))
    return whole, max(rank - whole, 0.0)


def central_band(samples: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper limit of the central band of samples (N, K, ...), mV: two arrays (N, ...)."""
    return _limits(np.sort(samples, axis=1), level)


def _limits(ordered: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    n_samples = ordered.shape[1]
    whole, part = _rank(level, n_samples)
    inner = min(whole, n_samples - 1)  # the rank further in; equal to the whole one only where part is 0
    lower = (1 - part) * ordered[:, whole - 1] + part * ordered[:, inner]
    upper = (1 - part) * ordered[:, n_samples - whole] + part * ordered[:, n_samples - 1 - inner]
    return lower, upper


def fair_crps(samples: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Continuous ranked probability score of K samples, corrected for their number, in mV: (N, K, ...) to (N, ...).

    mean_k |x_k - y| - sum_{j,k} |x_j - x_k| / (2 K (K - 1)): on average the CRPS of the distribution that the samples
    come from, whatever K, whereas division by 2 K^2 favours methods that draw too narrow a spread. Of one value below 0
    by chance if the samples straddle the truth. The CRPS is in the unit of the signal and, for a method with one sample,
    would be the absolute error; the least is reached by the true conditional distribution only.

    References
    ----------
    Gneiting T, Raftery AE. Strictly proper scoring rules, prediction, and estimation. J Am Stat Assoc 2007;102:359-378.
    Ferro CAT. Fair scores for ensemble forecasts. Q J R Meteorol Soc 2014;140:1917-1923 (the correction).
    """
    return _fair_crps(np.sort(samples, axis=1), truth)


def _fair_crps(ordered: np.ndarray, truth: np.ndarray) -> np.ndarray:
    n_samples = ordered.shape[1]
    if n_samples < 2:
        raise InputError("the fair CRPS needs two samples or more")
    # Of sorted values, the sum of |x_j - x_k| over j < k is the sum of (2 k - K - 1) x_(k).
    pairs = np.tensordot(ordered, 2.0 * np.arange(1, n_samples + 1) - n_samples - 1, axes=([1], [0]))
    return np.abs(ordered - truth[:, None]).mean(axis=1) - pairs / (n_samples * (n_samples - 1))


def ensemble_scores(
    samples: np.ndarray, truth: np.ndarray, available: np.ndarray, levels: tuple[float, ...] = LEVELS, chunk: int = 256
) -> dict[str, np.ndarray]:
    """Scores of the samples as a distribution, per window and lead, averaged over time.

    Parameters
    ----------
    samples : array (N, K, L, T), mV
        K of at least 2.
    truth : array (N, L, T), mV
    available : bool array (N, L)
        Leads to score; the others may hold anything.
    levels : tuple of float
        Of the central bands.
    chunk : int
        Leads worked on at a time; bounds the memory.

    Returns
    -------
    dict of arrays (N, L), NaN where a lead is not available
        ``crps`` (fair, mV); ``variance``, (1 + 1/K) times the unbiased variance of the samples (mV^2): what the squared
        error of their mean would be if the truth were one of them; and per level ``coverage_80`` (share of time that the
        truth is in the band) and ``width_80`` (mV), the sharpness: of two methods that cover alike, the narrower knows
        more.
    """
    n_samples = samples.shape[1]
    ranks = {level: _rank(level, n_samples) for level in levels}
    pairs = np.argwhere(available)
    found: dict[str, list[np.ndarray]] = {}
    for start in range(0, len(pairs), chunk):
        window, lead = pairs[start : start + chunk].T
        ordered = np.sort(samples[window, :, lead].astype(np.float64), axis=1)  # (p, K, T)
        y = truth[window, lead].astype(np.float64)
        part = {
            "crps": _fair_crps(ordered, y).mean(axis=-1),
            "variance": (1 + 1 / n_samples) * ordered.var(axis=1, ddof=1).mean(axis=-1),
        }
        # How many samples lie on the side of the truth that has fewer of them: decides every level at once.
        within = np.minimum((ordered <= y[:, None]).sum(axis=1), (ordered >= y[:, None]).sum(axis=1))
        for level, (whole, fraction) in ranks.items():
            lower, upper = _limits(ordered, level)
            covered = (1 - fraction) * (within >= whole) + fraction * (within >= whole + 1)
            part[level_name("coverage", level)] = covered.mean(axis=-1)
            part[level_name("width", level)] = (upper - lower).mean(axis=-1)
        for name, value in part.items():
            found.setdefault(name, []).append(value)
    tables = {}
    for name, parts in found.items():
        tables[name] = np.full(available.shape, np.nan)
        tables[name][available] = np.concatenate(parts)
    return tables


def calibration_curve(
    samples, windows, levels: tuple[float, ...] = CURVE_LEVELS, n_bootstrap: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Coverage and width of central bands over their level, over all leads, with intervals over subjects.

    Parameters
    ----------
    samples : array (N, K, 12, T), mV
    windows : WindowSet
        Gives ``ecg``, ``lead_mask`` and ``index["subject"]``.
    levels : tuple of float
    n_bootstrap, seed : int

    Returns
    -------
    DataFrame
        Columns level, attainable (what a calibrated method reaches with K samples), coverage, lower, upper (95 %), width
        (mV), n_subjects.
    """
    samples, truth = np.asarray(samples), np.asarray(windows.ecg)
    finite = np.isfinite(samples).all(axis=(1, 3)) & np.isfinite(truth).all(axis=-1)
    available = (np.asarray(windows.lead_mask) > 0) & finite
    scores = ensemble_scores(samples, truth, available, levels)
    rows = np.flatnonzero(available.any(axis=1))
    subjects = windows.index["subject"].astype(str).to_numpy()[rows]
    weights = subject_weights(subjects, n_bootstrap, seed)
    weights /= weights.sum(axis=1, keepdims=True)
    per_window = {name: np.nanmean(table[rows], axis=1) for name, table in scores.items()}
    coverage = weights @ np.stack([per_window[level_name("coverage", level)] for level in levels], axis=1)
    width = weights[0] @ np.stack([per_window[level_name("width", level)] for level in levels], axis=1)
    n_subjects = len(set(subjects))
    lower, upper = percentile_interval(coverage, n_subjects)
    attainable = [attainable_level(level, samples.shape[1]) for level in levels]
    columns = {"level": levels, "attainable": attainable, "coverage": coverage[0], "lower": lower, "upper": upper}
    return pd.DataFrame(columns | {"width": width, "n_subjects": n_subjects})


# ------------------------------------------------------------------------------------------------- spread against error
def _spread_and_error(scores: pd.DataFrame, lead: str) -> pd.DataFrame:
    """Windows with their expected and their actual squared error (mV^2), the expected ones ascending."""
    wanted = {("variance", "samples"): "expected", ("mse", "mean"): "actual"}
    rows = scores[scores["lead"] == lead]
    keys = [key for key in ("seed", "subject", "window") if key in rows]
    parts = [
        rows[(rows["metric"] == metric) & (rows["estimate"] == estimate)].set_index(keys)["value"].rename(name)
        for (metric, estimate), name in wanted.items()
    ]
    table = pd.concat(parts, axis=1, join="inner").sort_values("expected", kind="stable").reset_index()
    if table.empty:
        raise InputError(f"spread and error: the scores hold no variance of samples beside the mse of their mean, lead {lead}")
    return table


def _kept_risk(weights: np.ndarray, squared: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share of windows kept and their RMSE (R, N), as windows are added in the given order."""
    kept = np.cumsum(weights, axis=1)
    with np.errstate(invalid="ignore"):
        return kept / kept[:, -1:], np.sqrt(np.cumsum(weights * squared, axis=1) / np.where(kept > 0, kept, np.nan))


def _area(weights: np.ndarray, risk: np.ndarray) -> np.ndarray:
    return np.nansum(weights * risk, axis=1) / weights.sum(axis=1)


def risk_coverage(
    scores: pd.DataFrame, *, lead: str = "all", kept: tuple[float, ...] = KEPT_SHARES, n_bootstrap: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """RMSE of the windows that are kept when those of the widest spread are turned away (abstention).

    Parameters
    ----------
    scores : DataFrame
        From ``scores.evaluate``, with the estimates "mean" and "samples".
    lead : str
        A lead or a group of leads.
    kept : tuple of float
        Shares of windows, each subject counting the same.

    Returns
    -------
    DataFrame
        Columns kept, risk (RMSE, mV), lower, upper (95 % over subjects), oracle (RMSE if the windows with the largest
        error were turned away: no ranking can do better).

    References
    ----------
    Geifman Y, El-Yaniv R. Selective classification for deep neural networks. NeurIPS 2017.
    """
    table = _spread_and_error(scores, lead)
    best = table.sort_values("actual", kind="stable")
    risks = []
    for ranked, n_draws in ((table, n_bootstrap), (best, 0)):
        weights = subject_weights(ranked["subject"].to_numpy(), n_draws, seed)
        shares, risk = _kept_risk(weights, ranked["actual"].to_numpy())
        # The fewest windows that make up at least the share wanted.
        places = [np.minimum(np.searchsorted(row, np.array(kept) - 1e-9), len(ranked) - 1) for row in shares]
        risks.append(np.take_along_axis(risk, np.stack(places), axis=1))
    lower, upper = percentile_interval(risks[0], table["subject"].nunique())
    return pd.DataFrame({"kept": kept, "risk": risks[0][0], "lower": lower, "upper": upper, "oracle": risks[1][0]})


def spread_skill(scores: pd.DataFrame, *, lead: str = "all", n_bootstrap: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Does a window's own spread say how wrong its mean is?

    Parameters
    ----------
    scores, lead, n_bootstrap, seed
        As in :func:`risk_coverage`.

    Returns
    -------
    DataFrame
        Columns lead, metric, value, lower, upper (95 % over subjects), n_subjects, of four metrics:
        ``spread_correlation``, Spearman's between spread and RMSE over windows; ``spread_ratio``, root mean variance over
        root mean squared error, 1 for calibrated samples, below 1 where they are too sure; ``risk_area``, mean RMSE of
        :func:`risk_coverage` over all shares kept (mV); ``risk_gain``, the part of what a perfect ranking would take off
        the area of a random one (the overall RMSE) that the spread takes off: 1 perfect, 0 useless, negative misleading.

    References
    ----------
    Fortin V et al. Why should ensemble spread match the RMSE of the ensemble mean? J Hydrometeorol 2014;15:1708-1713.
    Geifman Y, El-Yaniv R. NeurIPS 2017.
    """
    table = _spread_and_error(scores, lead)
    subjects, expected, actual = (table[name].to_numpy() for name in ("subject", "expected", "actual"))
    weights = subject_weights(subjects, n_bootstrap, seed)
    order = np.argsort(actual, kind="stable")
    overall = np.sqrt(weights @ actual / weights.sum(axis=1))
    area, best = (_area(w, _kept_risk(w, e)[1]) for w, e in ((weights, actual), (weights[:, order], actual[order])))
    with np.errstate(divide="ignore", invalid="ignore"):
        draws = {
            "spread_correlation": _spearman(weights, expected, actual),
            "spread_ratio": np.sqrt(weights @ expected / (weights @ actual)),
            "risk_area": area,
            "risk_gain": (overall - area) / (overall - best),
        }
    n_subjects, rows = len(np.unique(subjects)), []
    for metric, values in draws.items():
        lower, upper = percentile_interval(values, n_subjects)
        rows.append((lead, metric, values[0], float(lower), float(upper), n_subjects))
    return pd.DataFrame(rows, columns=["lead", "metric", "value", "lower", "upper", "n_subjects"])


def _spearman(weights: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Spearman's correlation under each row of weights, (R,); a window that counts twice shares its rank with itself."""
    share = weights / weights.sum(axis=1, keepdims=True)
    ranks = []
    for values in (x, y):
        order = np.argsort(values, kind="stable")
        rank = np.empty_like(share)
        rank[:, order] = np.cumsum(share[:, order], axis=1) - share[:, order] / 2
        ranks.append(rank - (share * rank).sum(axis=1, keepdims=True))
    variances = [(share * rank**2).sum(axis=1) for rank in ranks]
    return (share * ranks[0] * ranks[1]).sum(axis=1) / np.sqrt(variances[0] * variances[1])
