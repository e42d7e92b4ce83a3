"""Distribution metrics: do single samples, taken together, look like the true ECG?

"Frechet distance" names two things in this field. Here it is the Gaussian one, the squared 2-Wasserstein distance of
two normal distributions fitted to signals, as in RDDM. It is not the Frechet distance between curves (P2E-WGAN).

References
----------
Dowson DC, Landau BV. The Frechet distance between multivariate normal distributions. J Multivar Anal
1982;12(3):450-455. RDDM: Shome D, Sarkar P, Etemad A. AAAI 2024, arXiv 2308.13568.
"""

import numpy as np
import pandas as pd

from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import LEADS
from p2es_lib.evaluation.metrics.long_table import check_samples, point_estimate
from p2es_lib.evaluation.metrics.resampling import resample, with_interval
from p2es_lib.evaluation.metrics.summary import SUMMARY_COLUMNS


def gaussian_frechet_distance(mean_a, covariance_a, mean_b, covariance_b) -> np.ndarray:
    """Gaussian Frechet distance d^2 = |m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a^1/2 S_b S_a^1/2)^1/2), (...).

    Means are (..., D), covariances (..., D, D). Roots by symmetric eigendecompositions stay real for covariances that
    are singular but for rounding. As in RDDM and in the image FID this is the square of the distance proper.
    """
    covariance_a, covariance_b = np.asarray(covariance_a, float), np.asarray(covariance_b, float)
    values, vectors = np.linalg.eigh(covariance_a)
    root = (vectors * np.sqrt(np.clip(values, 0.0, None))[..., None, :]) @ np.swapaxes(vectors, -1, -2)
    inner = np.linalg.eigvalsh(root @ covariance_b @ root)
    cross = np.sum(np.sqrt(np.clip(inner, 0.0, None)), axis=-1)
    trace = np.trace(covariance_a, axis1=-2, axis2=-1) + np.trace(covariance_b, axis1=-2, axis2=-1)
    shift = np.sum((np.asarray(mean_a, float) - np.asarray(mean_b, float)) ** 2, axis=-1)
    return np.maximum(shift + trace - 2.0 * cross, 0.0)


def frechet_table(
    samples, windows, sampling_rate: float, *, segment_s=0.512, estimates=("single",), n_bootstrap=200, seed=0
) -> pd.DataFrame:
    """Gaussian Frechet distance between predicted and true ECG per lead, in the table form of ``summary.summarise``.

    Each lead is cut into consecutive segments of ``segment_s`` (64 samples at 125 Hz), in mV, unfiltered; a normal
    distribution is fitted to the true and one to the predicted segments, each segment one vector. Segments are kept
    short so that the covariance has full rank: RDDM fits whole windows of 512 samples, which needs far more windows
    than that. A lead with fewer than twice as many segments as samples per segment gets NaN. The value depends on unit
    and segment length, so RDDM's numbers (4 s, signals scaled to [-1, 1]) cannot be set beside these.

    ``estimates`` are "single", the first sample, or "mean", which is too smooth by construction and scores badly here:
    that is not a fault. Truth and prediction of a subject stay together in a resample, which holds fewer distinct
    subjects, so the interval lies a little high; NaN for one subject. Lead "all" is the mean over leads. In mV^2.
    An :class:`InputError` if a window is shorter than a segment.
    """
    samples, truth, exists = check_samples(samples, windows)
    dim = int(round(segment_s * sampling_rate))
    per_window = samples.shape[-1] // dim if dim > 0 else 0
    if per_window < 1:
        raise InputError(f"segment_s={segment_s}: windows of {samples.shape[-1]} samples hold no such segment")
    names, subject_of = np.unique(windows.index["subject"].to_numpy().astype(str), return_inverse=True)
    # The same resamples for every lead, so that the interval of their mean keeps what the leads share.
    weights = resample(len(names), n_bootstrap, seed)
    rows = []
    for estimate in estimates:
        found = {}  # lead: distances, subjects
        for lead, name in enumerate(LEADS):
            x = point_estimate(samples[:, :, lead], estimate)
            use = exists[:, lead] & np.isfinite(x).all(axis=-1)
            if use.any():
                segments = [z[use][:, : per_window * dim].reshape(-1, per_window, dim) for z in (x, truth[:, lead])]
                found[name] = _distances(*segments, subject_of[use], weights), set(subject_of[use])
        if found:
            distances, subjects = zip(*found.values())
            found["all"] = np.mean(distances, axis=0), set().union(*subjects)
        for lead, (distance, subjects) in found.items():
            key = {"lead": lead, "estimate": estimate, "metric": "gaussian_frechet_distance"}
            rows.append(key | with_interval(distance, len(subjects)) | {"n_subjects": len(subjects)})
    return pd.DataFrame(rows, columns=SUMMARY_COLUMNS)


def _distances(x: np.ndarray, y: np.ndarray, subject_of: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Distance between the segments x and y (n, m, D) with subject s counted weights[r, s] times: (R,)."""
    distance = np.full(len(weights), np.nan)
    if x.shape[0] * x.shape[1] < 2 * x.shape[2]:
        return distance
    sums = [_sums(np.asarray(z, dtype=np.float64), subject_of, weights.shape[1]) for z in (x, y)]
    filled = np.flatnonzero(weights @ sums[0][0] > 0)
    for start in range(0, len(filled), 64):  # bounds memory: 64 pairs of covariances at a time
        part = filled[start : start + 64]
        (mean_x, covariance_x), (mean_y, covariance_y) = (_moments(*one, weights[part]) for one in sums)
        distance[part] = gaussian_frechet_distance(mean_x, covariance_x, mean_y, covariance_y)
    return distance


def _sums(segments: np.ndarray, subject_of: np.ndarray, n_subjects: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Number (S,), sums (S, D) and sums of products (S, D, D) of each subject's segments (n, m, D)."""
    dim = segments.shape[-1]
    total, product = np.zeros((n_subjects, dim)), np.zeros((n_subjects, dim, dim))
    np.add.at(total, subject_of, segments.sum(axis=1))
    for subject in range(n_subjects):
        rows = segments[subject_of == subject].reshape(-1, dim)
        product[subject] = rows.T @ rows
    return np.bincount(subject_of, minlength=n_subjects) * float(segments.shape[1]), total, product


def _moments(number, total, product, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (R, D) and covariance (R, D, D) with subject s counted weights[r, s] times."""
    count = (weights @ number)[:, None]
    mean = weights @ total / count
    second = (weights @ product.reshape(len(product), -1)).reshape(-1, *product.shape[1:]) / count[..., None]
    covariance = second - mean[:, :, None] * mean[:, None, :]
    return mean, covariance * (count / np.maximum(count - 1.0, 1.0))[..., None]
