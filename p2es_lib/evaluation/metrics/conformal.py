"""Bands that keep a promise: split-conformal calibration of the samples' spread, subject by subject.

The samples give a mean m(t) and a standard deviation s(t). The band is m(t) +- c s(t) with one factor c, found on
validation subjects: the score of a point is |y - m| / s, the score of a subject the ``share`` quantile of the scores of
all its points (windows, leads and times), c the ceil((n + 1) ``confidence``)-th smallest of the n subjects' scores. If
a new subject is exchangeable with those, then with probability ``confidence`` or more at least ``share`` of its ECG
lies in its bands, whatever the method believes; with ``share`` = 1 the whole ECG, at the price of a wide band. It is a
promise about people, on average over validation sets: points of one person are not exchangeable with those of another,
so no single band covers more than that, and none of it carries over to another data set.

References
----------
Vovk V, Gammerman A, Shafer G. Algorithmic learning in a random world. Springer, 2005. Angelopoulos AN, Bates S. A
gentle introduction to conformal prediction and distribution-free uncertainty quantification. arXiv 2107.07511, 2021.
Dunn R, Wasserman L, Ramdas A. Distribution-free prediction sets for two-layer hierarchical models. J Am Stat Assoc 2023
(groups).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from p2es_lib.core.errors import InputError
from p2es_lib.evaluation.metrics.long_table import check_samples, long_table

#: Added to the standard deviation, mV: where all samples agree (K of them do by chance), a score would be infinite.
LEAST_SD_MV = 0.005


@dataclass(frozen=True)
class ConformalBand:
    """A calibrated band: ``scale`` is the factor c, 1.6 for 90 % of a calibrated Gaussian; else see the module."""

    scale: float
    share: float
    confidence: float
    n_subjects: int

    @classmethod
    def fit(cls, samples, windows, *, share: float = 0.9, confidence: float = 0.9) -> ConformalBand:
        """Calibrate on subjects that neither trained the method nor are tested on: the validation split.

        ``samples`` are (N, K, 12, T) in mV, K of at least 2. InputError for too few subjects: a ``confidence`` of 0.9
        needs 9, of 0.95 19.
        """
        if not (0 < share <= 1 and 0 < confidence < 1):
            raise InputError(f"share={share}, confidence={confidence}: between 0 and 1")
        # A value that at least this share of the points does not exceed, hence no interpolation.
        people = _people(*_point_scores(samples, windows), windows)
        of_subject = [np.quantile(points, share, method="inverted_cdf") for _, points in people]
        rank = int(np.ceil((len(of_subject) + 1) * confidence - 1e-9))
        if rank > len(of_subject):
            least = int(np.ceil(confidence / (1 - confidence) - 1e-9))
            raise InputError(f"{len(of_subject)} subjects: a confidence of {confidence:g} needs {least} or more")
        return cls(float(np.sort(of_subject)[rank - 1]), share, confidence, len(of_subject))

    def apply(self, samples) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper limits in mV: two arrays (N, 12, T) from samples (N, K, 12, T)."""
        mean, sd = _mean_and_sd(np.asarray(samples))
        return mean - self.scale * sd, mean + self.scale * sd

    def evaluate(self, samples, windows) -> pd.DataFrame:
        """How far the promise holds on other subjects, a table of scores for ``summary.summarise``, estimate "samples".

        Per window and lead: ``conformal_coverage``, share of time that the truth is in the band, and
        ``conformal_width`` in mV. Per subject, in the row of its first window, lead "all": ``conformal_kept``, 1 where
        at least ``share`` of its ECG lies in the bands; its mean over subjects is to be compared with ``confidence``.
        """
        points, available = _point_scores(samples, windows)
        inside = points <= self.scale
        lower, upper = self.apply(samples)
        by_lead = {"conformal_coverage": inside.mean(axis=-1), "conformal_width": (upper - lower).mean(axis=-1)}
        by_lead = {name: np.where(available, table, np.nan) for name, table in by_lead.items()}
        kept = np.full(len(inside), np.nan)
        for first, own in _people(inside, available, windows):
            kept[first] = own.mean() >= self.share - 1e-9
        return long_table(by_lead, {"conformal_kept": kept}, windows, "samples")


def _people(table: np.ndarray, available: np.ndarray, windows) -> Iterator[tuple[int, np.ndarray]]:
    """Row of the first window, and values in all available leads (n, T), of each subject of a table (N, 12, T)."""
    subjects = windows.index["subject"].astype(str).to_numpy()
    for subject in np.unique(subjects[available.any(axis=1)]):
        own = subjects == subject
        yield np.flatnonzero(own)[0], table[own][available[own]]


def _mean_and_sd(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if samples.ndim != 4 or samples.shape[1] < 2:
        raise InputError(f"samples of shape {samples.shape}: a band needs (N, K, 12, T) with two samples or more")
    return samples.mean(axis=1, dtype=np.float64), samples.std(axis=1, ddof=1, dtype=np.float64) + LEAST_SD_MV


def _point_scores(samples, windows) -> tuple[np.ndarray, np.ndarray]:
    """|y - m| / s of every point (N, 12, T), and which leads there are (N, 12)."""
    samples, truth, exists = check_samples(samples, windows)
    mean, sd = _mean_and_sd(samples)
    return np.abs(truth - mean) / sd, exists & np.isfinite(mean).all(axis=-1)
