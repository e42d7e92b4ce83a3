"""Which training windows GroupFinder learns from, where there are more than it should hold in memory."""

import hashlib
from collections.abc import Sequence

import numpy as np


def spread_over_subjects(subjects: Sequence[str], limit: int) -> np.ndarray:
    """Rows of at most ``limit`` windows: as equally many of each subject as there are, evenly over its windows.

    What subjects with few windows leave over goes to the others. With more subjects than ``limit``, those are taken
    whose names have the smallest hash, one window each. So the choice is the same in every run, needs no seed, and
    depends on the order of the windows only within a subject (where that is their order in time).

    Parameters
    ----------
    subjects : sequence of str (N,)
        Subject of each window.
    limit : int
        At least 1.

    Returns
    -------
    int array (min(N, limit),), ascending
    """
    subjects = np.asarray(subjects, dtype=str)
    if len(subjects) <= limit:
        return np.arange(len(subjects))
    names, number, sizes = np.unique(subjects, return_inverse=True, return_counts=True)
    hashes = [hashlib.sha256(name.encode()).hexdigest() for name in names]
    order = np.argsort(hashes)[:limit]  # who comes first gets what cannot be shared equally
    quota = _fill(sizes[order], limit)
    by_subject = np.split(np.argsort(number, kind="stable"), np.cumsum(sizes)[:-1])
    chosen = [by_subject[subject][_evenly(sizes[subject], count)] for subject, count in zip(order, quota)]
    return np.sort(np.concatenate(chosen))


def _fill(sizes: np.ndarray, total: int) -> np.ndarray:
    """Numbers that add up to ``total`` (less than all sizes), as equal as ``sizes`` allow; the first get the rest."""
    low, high = 0, int(sizes.max())  # the level up to which everybody gets what it has
    while high - low > 1:
        level = (low + high) // 2
        low, high = (level, high) if np.minimum(sizes, level).sum() <= total else (low, level)
    quota = np.minimum(sizes, low)
    quota[np.flatnonzero(sizes > low)[: total - quota.sum()]] += 1
    return quota


def _evenly(size: int, count: int) -> np.ndarray:
    """``count`` different positions among ``size``, in the middle of equal parts."""
    return ((np.arange(count) + 0.5) * size / count).astype(int)
