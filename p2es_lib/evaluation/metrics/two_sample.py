"""Two-sample tests: can translated windows be told from true ones by the beats they hold?

Where the Gaussian Frechet distance (``distribution.frechet_table``) sees short segments of one lead, these see, in
single samples, what a reader would: the maximum mean discrepancy between the features of true and translated windows,
and a classifier that is trained to tell them apart.

One person's windows are alike. So pairs of windows of one person are left out of every average, folds hold whole
people, and a permutation swaps "true" and "translated" for all windows of a person at once. If the method drew from the
true conditional distribution, that would change nothing where each person has one window: p-values are exact then. With
several they are approximate: true windows of a person share a heart, translations drawn one by one need not.

References
----------
Gretton A, Borgwardt KM, Rasch MJ, Schölkopf B, Smola A. A kernel two-sample test. J Mach Learn Res 2012;13:723-773.
Lopez-Paz D, Oquab M. Revisiting classifier two-sample tests. ICLR 2017, arXiv 1610.06545.
"""

import numpy as np
import pandas as pd
from scipy.spatial.distance import cdist

from p2es_lib.core.errors import InputError
from p2es_lib.evaluation.metrics.features import classifiers, ecg_features
from p2es_lib.evaluation.metrics.long_table import check_samples
from p2es_lib.evaluation.metrics.resampling import resample, subject_weights, weighted_auroc, with_interval

#: Fewer subjects cannot be split into people to train on and people to test on.
LEAST_SUBJECTS = 10
#: Those of :func:`p2es_lib.evaluation.metrics.features.classifiers`.
CLASSIFIERS = ("random forest", "logistic regression")


def two_sample_table(samples, windows, sampling_rate: float, *, names=CLASSIFIERS, **options: int) -> pd.DataFrame:
    """Both tests on two sets of features of the first samples: measurements of the beats, and the averaged beat itself.

    ``names`` are of :data:`CLASSIFIERS`; ``options``: n_permutations, n_bootstrap (1000 each), seed (0). Columns
    features, test ("mmd" or a classifier), value (squared MMD, 0 where nothing differs; area under the ROC curve, then
    0.5), lower, upper (95 % bootstrap over subjects), p_value (permutation), n_windows, n_subjects.
    """
    samples, truth, exists = check_samples(samples, windows)
    single = samples[:, 0]
    available = exists & np.isfinite(single).all(axis=-1)
    of_truth, of_single = (ecg_features(ecg, sampling_rate, available) for ecg in (truth, single))
    subjects, rows = windows.index["subject"].astype(str).to_numpy(), []
    for name, x, y in zip(("measurements", "averaged beat"), of_truth, of_single):
        x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
        found = {"mmd": mmd(x, y, subjects, **options)} | classifier_test(x, y, subjects, names=names, **options)
        size = {"n_windows": len(x), "n_subjects": len(np.unique(subjects))}
        rows += [{"features": name, "test": test} | row | size for test, row in found.items()]
    return pd.DataFrame(rows)


def mmd(x, y, subjects, *, bandwidth=None, n_permutations=1000, n_bootstrap=1000, seed=0) -> dict[str, float]:
    """Squared maximum mean discrepancy with a Gaussian kernel, unbiased, between paired rows of features (N, F).

    k(a, b) = exp(-|a - b|^2 / (2 s^2)); MMD^2 is the mean over pairs of different subjects of k(x, x') + k(y, y') -
    k(x, y') - k(y, x'), every pair of subjects counting the same. Unbiased, so it may be a little below 0.

    True x and translated y are of the same windows of ``subjects`` (N,), two or more (else InputError). They are scaled
    here by mean and SD of both together; missing values take the mean, and that they are missing becomes a feature. s
    is the median distance between windows of different subjects, or a ``bandwidth`` for features as they are. Gives
    value, lower, upper (95 %, over subjects) and p_value (share of permutations that reach the value). Where nothing
    differs the interval is rough, since the value varies like a sum of squares; the p-value is exact there too.
    """
    names, of_subject = np.unique(np.asarray(subjects).astype(str), return_inverse=True)
    if len(names) < 2:
        raise InputError("mmd: windows of two subjects or more are needed")
    both = np.concatenate([x, y]) if bandwidth is not None else _scaled(np.concatenate([x, y]))
    squared = cdist(both, both, "sqeuclidean")
    other = np.tile(of_subject[:, None] != of_subject, (2, 2))
    scale = bandwidth**2 if bandwidth is not None else max(np.median(squared[other]), 1e-12)
    kernel = np.exp(squared / (-2.0 * scale))
    n = len(of_subject)
    contrast = kernel[:n, :n] + kernel[n:, n:] - kernel[:n, n:] - kernel[n:, :n]
    member = (of_subject[:, None] == np.arange(len(names))) / np.bincount(of_subject)  # (N, S)
    between = member.T @ contrast @ member  # (S, S): means over the windows of two subjects
    np.fill_diagonal(between, 0.0)
    drawn = resample(len(names), n_bootstrap, seed)
    # Of S drawn subjects, pairs of different ones only: a subject drawn twice makes no pair with itself.
    pairs = drawn.sum(axis=1) ** 2 - (drawn**2).sum(axis=1)
    values = _quadratic(drawn, between) / np.where(pairs > 0, pairs, np.nan)
    # Swapping x and y of a subject turns the sign of its row and column.
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(n_permutations, len(names)))
    swapped = _quadratic(signs, between) / pairs[0]
    return with_interval(values, len(names)) | {"p_value": _p_value(values[0], swapped)}


def _quadratic(weights: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return ((weights @ matrix) * weights).sum(axis=1)


def _p_value(value: float, permuted: np.ndarray) -> float:
    # A permutation that swaps nobody, or everybody, reproduces the value but for rounding: it counts.
    return float((1 + (permuted >= value - 1e-12).sum()) / (1 + len(permuted)))


def _scaled(features: np.ndarray) -> np.ndarray:
    """Columns to mean 0 and SD 1, missing values at 0, and one more column for each pattern of missing values."""
    missing = ~np.isfinite(features)
    known = np.where(missing, np.nan, features)[:, ~missing.all(axis=0)]
    mean, sd = np.nanmean(known, axis=0), np.nanstd(known, axis=0)
    scaled = np.nan_to_num((known - mean) / np.where(sd > 1e-12, sd, np.inf))
    patterns = np.unique(missing[:, missing.any(axis=0) & ~missing.all(axis=0)], axis=1).astype(float)
    return np.hstack([scaled, (patterns - patterns.mean(axis=0)) / np.maximum(patterns.std(axis=0), 1e-12)])


def classifier_test(x, y, subjects, *, names=CLASSIFIERS, n_permutations=1000, n_bootstrap=1000, seed=0) -> dict:
    """Area under the ROC curve of classifiers that tell translated (y) from true (x) windows of people not trained on.

    Arguments as in :func:`mmd`, ``names`` of :data:`CLASSIFIERS`; a name to value, lower, upper and p_value. Five folds
    over subjects (InputError: fewer than :data:`LEAST_SUBJECTS`). Intervals draw subjects, p-values swap the scores of
    a subject's true and translated windows, both with the scores of windows that the classifier had not seen.
    """
    from sklearn.model_selection import GroupKFold, cross_val_predict

    people, of_subject = np.unique(np.asarray(subjects).astype(str), return_inverse=True)
    if len(people) < LEAST_SUBJECTS:
        raise InputError(f"{len(people)} subjects: telling true from translated windows needs {LEAST_SUBJECTS} or more")
    features, translated = np.concatenate([x, y]), np.repeat([False, True], len(x))
    folds = {"groups": np.tile(of_subject, 2), "cv": GroupKFold(5, shuffle=True, random_state=seed)}
    available = classifiers(features.shape[1], len(features) // 4, seed)
    weights = np.tile(subject_weights(of_subject, n_bootstrap, seed), 2)
    found = {}
    for name in names:
        score = cross_val_predict(available[name], features, translated, **folds, method="predict_proba")[:, 1]
        values = weighted_auroc(score, translated, weights)
        p_value = _swap_p(score.reshape(2, -1), of_subject, values[0], weights[0, : len(x)], n_permutations, seed)
        found[name] = with_interval(values, len(people)) | {"p_value": p_value}
    return found


def _swap_p(score, of_subject: np.ndarray, value: float, weights: np.ndarray, n_permutations: int, seed: int) -> float:
    """p-value of an area: swapped within subjects, from the weighted ranks, which no swap changes."""
    values, place = np.unique(score.ravel(), return_inverse=True)
    mass = np.bincount(place, np.tile(weights, 2))
    rank = (np.cumsum(mass) - mass / 2)[place].reshape(2, -1)  # weight below each score, ties half
    # Area = (mean rank of the translated - half the weight of their own kind) / weight of the other kind.
    gain = np.bincount(of_subject, weights * (rank[1] - rank[0])) / 2
    middle, total = (weights * rank.sum(axis=0)).sum() / 2, weights.sum()
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(n_permutations, len(gain)))
    return _p_value(value, ((middle + signs @ gain) / total - total / 2) / total)
