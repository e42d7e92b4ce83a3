"""Do the samples know how wrong they may be? A proper score, and coverage and width of their bands.

If the method believes rightly, the truth is one more draw beside the K samples. Between the i-th from below and the
i-th from above of K samples one more exchangeable value falls with probability (K + 1 - 2 i) / (K + 1). So a level p is
the rank h = (K + 1)(1 - p) / 2 from either end; where h is not whole, coverage and limits are mixed from the two whole
ranks beside it in proportion, which keeps the expected coverage at exactly p for any distribution. Beyond p = (K - 1) /
(K + 1), 0.88 with 16 samples, there is only the band from the least to the largest sample, and with an even K none
narrower than that between the two in the middle: :func:`attainable_level`.
"""

import numpy as np
import pandas as pd

from p2es_lib.core.errors import InputError
from p2es_lib.evaluation.metrics.long_table import check_samples, per_lead
from p2es_lib.evaluation.metrics.resampling import percentile_interval, subject_weights

#: Levels of the central bands in the table of scores, and of :func:`calibration_curve`.
LEVELS = (0.50, 0.80, 0.95)
CURVE_LEVELS = tuple(np.round(np.arange(0.05, 1.0, 0.05), 2))


def attainable_level(level: float, n_samples: int) -> float:
    """Coverage that a calibrated method has with bands of this level from K samples: the level, where K allows it."""
    return 1 - 2 * _rank(level, n_samples) / (n_samples + 1)


def level_name(prefix: str, level: float) -> str:
    """Name of a metric of bands: ``coverage_80``."""
    return f"{prefix}_{100 * level:.0f}"


def _rank(level: float, n_samples: int) -> float:
    """Rank h from either end of K samples, at least 1 and at most in the middle."""
    if not 0 < level < 1 or n_samples < 2:
        raise InputError(f"bands of level {level} from {n_samples} sample(s): a level below 1, two samples or more")
    return float(np.clip(round((n_samples + 1) * (1 - level) / 2, 9), 1, (n_samples + 1) // 2))


def central_band(samples: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper limit, two arrays (N, ...), of the central band of samples (N, K, ...), mV."""
    return _limits(np.sort(samples, axis=1), level)


def _limits(ordered: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    part, whole = np.modf(_rank(level, ordered.shape[1]))
    outer, inner = int(whole) - 1, int(whole) - 1 + (part > 0)
    lower = (1 - part) * ordered[:, outer] + part * ordered[:, inner]
    return lower, (1 - part) * ordered[:, -1 - outer] + part * ordered[:, -1 - inner]


def fair_crps(samples: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Continuous ranked probability score of samples (N, K, ...), corrected for K, in mV: (N, ...).

    mean_k |x_k - y| - sum_{j,k} |x_j - x_k| / (2 K (K - 1)): on average the CRPS of the distribution that the samples
    come from, whatever K, whereas division by 2 K^2 favours methods that draw too narrow a spread. A single value can
    be negative. The true conditional distribution has the least; that of a single number would be the absolute error.

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


def ensemble_scores(samples, truth, available, levels=LEVELS, chunk: int = 256) -> dict[str, np.ndarray]:
    """Scores of samples (N, K, L, T) in mV, K of at least 2, as a distribution, averaged over time: (N, L) by name.

    ``crps`` (fair, mV); ``variance``, (1 + 1/K) times the unbiased variance of the samples (mV^2): what the squared
    error of their mean would be if the truth were one of them; and per level ``coverage_80`` (share of time that the
    truth is in the band) and ``width_80`` (mV): of two methods that cover alike, the narrower knows more. NaN where a
    lead is not available (N, L). ``chunk`` leads are worked on at a time, which bounds the memory.
    """
    n_samples = samples.shape[1]
    ranks = {level: np.modf(_rank(level, n_samples)) for level in levels}

    def score(window: np.ndarray, lead: np.ndarray) -> dict[str, np.ndarray]:
        ordered = np.sort(samples[window, :, lead].astype(np.float64), axis=1)  # (p, K, T)
        y = truth[window, lead].astype(np.float64)
        variance = (1 + 1 / n_samples) * ordered.var(axis=1, ddof=1).mean(axis=-1)
        found = {"crps": _fair_crps(ordered, y).mean(axis=-1), "variance": variance}
        # How many samples lie on the side of the truth that has fewer of them: decides every level at once.
        within = np.minimum((ordered <= y[:, None]).sum(axis=1), (ordered >= y[:, None]).sum(axis=1))
        for level, (part, whole) in ranks.items():
            lower, upper = _limits(ordered, level)
            covered = (1 - part) * (within >= whole) + part * (within >= whole + 1)
            found[level_name("coverage", level)] = covered.mean(axis=-1)
            found[level_name("width", level)] = (upper - lower).mean(axis=-1)
        return found

    return per_lead(available, score, chunk)


def calibration_curve(samples, windows, levels=CURVE_LEVELS, n_bootstrap: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Coverage and width of central bands over their level, over all leads, with intervals over subjects.

    Columns level, attainable (of K calibrated samples), coverage, lower, upper (95 %), width (mV), n_subjects.
    """
    samples, truth, exists = check_samples(samples, windows)
    available = exists & np.isfinite(samples).all(axis=(1, 3))
    scores = ensemble_scores(samples, truth, available, levels)
    rows = np.flatnonzero(available.any(axis=1))
    subjects = windows.index["subject"].astype(str).to_numpy()[rows]
    weights = subject_weights(subjects, n_bootstrap, seed)
    weights /= weights.sum(axis=1, keepdims=True)
    coverages, widths = (
        np.stack([np.nanmean(scores[level_name(name, level)][rows], axis=1) for level in levels], axis=1)
        for name in ("coverage", "width")
    )
    coverage, n_subjects = weights @ coverages, len(set(subjects))
    lower, upper = percentile_interval(coverage, n_subjects)
    attainable = [attainable_level(level, samples.shape[1]) for level in levels]
    columns = {"level": levels, "attainable": attainable, "coverage": coverage[0], "lower": lower, "upper": upper}
    return pd.DataFrame(columns | {"width": weights[0] @ widths, "n_subjects": n_subjects})
