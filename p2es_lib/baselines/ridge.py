"""Lagged ridge regression: each lead as a linear filter of the PPG.

The best linear time-invariant method: every sample of the ECG is a weighted sum of the PPG from 1 s before to 1 s
after it. What a network scores above it is what non-linearity and demographics are worth. Zhu (2021) also maps PPG to
ECG linearly, but beat by beat, which needs the beats of the ECG for aligning. Here the regression runs over continuous
time, as in the temporal response functions of electroencephalography (Crosse 2016).

References
----------
Zhu Q et al. Learning your heart actions from pulse. IEEE Internet of Things J 8, 2021,
doi 10.1109/JIOT.2021.3097946, arXiv 1904.10481.
Crosse MJ et al. The multivariate temporal response function (mTRF) toolbox. Front Hum Neurosci 10:604, 2016.
"""

from __future__ import annotations

from types import SimpleNamespace as Moments

import numpy as np
import torch
import torch.nn.functional as F

from p2es_lib.core.config import Config
from p2es_lib.core.demographics import Demographics
from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import LEADS
from p2es_lib.core.learned import standardise
from p2es_lib.core.translator import check_translation_input

REACH_S = 1.0  # of the filters, to either side
#: Penalties to choose from, per training sample: 1 weighs a squared weight as much as the mean square of the PPG.
PENALTY_GRID = tuple(10.0**exponent for exponent in range(-8, 2))
CHUNK_WINDOWS = 16  # whose lagged samples are in memory at once (33 MB at 125 Hz and 8.2 s)


class LaggedRidge:
    """Ridge regression of each lead on the lagged samples of the PPG.

    With x the PPG of a window, the estimate is y(t) = b + sum_l w(l) x(t + l), l from -1 s to +1 s, with x zero, its
    mean, outside the window. Weights and intercept solve the normal equations; the intercept bears no penalty. One
    penalty serves all leads, so that the estimates obey Einthoven's law if the training windows hold all limb leads; it
    is the one with the least squared error on the validation windows. Deterministic, without demographics. Leads that
    no training window has are NaN.
    """

    def __init__(self, config: Config):
        self.window_samples = config.signal.window_samples
        self.reach = int(round(REACH_S * config.signal.sampling_rate))  # samples
        self.penalty: float | None = None  # of PENALTY_GRID
        self.weights: np.ndarray | None = None  # (12, L) mV, by lag from -reach to +reach; NaN for leads never seen
        self.intercept: np.ndarray | None = None  # (12,) mV

    def fit(self, train_windows, validation_windows) -> LaggedRidge:
        """Solve for each penalty on the training windows (WindowSet), and keep the one that validation windows prefer.

        Leads count where they exist and are finite. No training window, or no lead that both sets hold: InputError.
        """
        if len(train_windows) == 0:
            raise InputError("ridge: there is no training window; prepare a data set with a training split")
        train, validation = self._moments(train_windows), self._moments(validation_windows)
        if not ((train.count > 0) & (validation.count > 0)).any():
            raise InputError("ridge: training and validation windows share no lead; prepare windows of both splits")
        candidates = {penalty: _solve(train, penalty) for penalty in PENALTY_GRID}
        errors = {penalty: np.nansum(_squared_error(validation, *fit)) for penalty, fit in candidates.items()}
        self.penalty = min(errors, key=errors.get)
        self.weights, self.intercept = candidates[self.penalty]
        return self

    def translate(self, ppg, demographics: Demographics, *, n_samples: int = 1, generator=None) -> torch.Tensor:
        """Filter the PPG; see ``translator.Translator``. The samples are copies of each other."""
        if self.weights is None:
            raise RuntimeError("LaggedRidge.translate was called before fit")
        ppg = standardise(check_translation_input(ppg, demographics, self.window_samples, n_samples).cpu())
        filters = torch.from_numpy(np.nan_to_num(self.weights))[:, None]  # (12, 1, L)
        # conv1d is a correlation. Weights of neighbouring lags nearly cancel where the penalty is small: hence float64.
        ecg = F.conv1d(ppg.double(), filters, torch.from_numpy(self.intercept), padding=self.reach)
        return ecg.float()[:, None].repeat(1, n_samples, 1, 1)

    def _moments(self, windows) -> Moments:
        """Sums over the samples of each lead: their number, lagged PPG x, ECG y (mV), and products; (12, ...)."""
        n_lags = 2 * self.reach + 1
        shapes = {"count": (), "x": (n_lags,), "y": (), "xx": (n_lags, n_lags), "xy": (n_lags,), "yy": ()}
        sums = Moments(**{name: np.zeros((len(LEADS), *shape)) for name, shape in shapes.items()})
        for start in range(0, len(windows), CHUNK_WINDOWS):
            rows = slice(start, start + CHUNK_WINDOWS)
            ecg = np.asarray(windows.ecg[rows], dtype=np.float64)
            present = (np.asarray(windows.lead_mask[rows]) > 0) & np.isfinite(ecg).all(axis=-1)  # (B, 12)
            ppg = standardise(torch.as_tensor(np.array(windows.ppg[rows]), dtype=torch.float32))[:, 0].numpy()
            padded = np.pad(ppg.astype(np.float64), ((0, 0), (self.reach, self.reach)))
            lagged = np.lib.stride_tricks.sliding_window_view(padded, n_lags, axis=1)  # (B, T, L)
            # Windows with the same leads share one Gram matrix; most data sets have one such pattern, or a few.
            for pattern in np.unique(present, axis=0):
                members = (present == pattern).all(axis=1)
                x = lagged[members].reshape(-1, n_lags)  # (M, L)
                y = ecg[members][:, pattern].swapaxes(1, 2).reshape(len(x), -1)  # (M, leads of the pattern)
                sums.count[pattern] += len(x)
                sums.x[pattern] += x.sum(axis=0)
                sums.y[pattern] += y.sum(axis=0)
                sums.xx[pattern] += _gram(x, padded[members])
                sums.xy[pattern] += y.T @ x
                sums.yy[pattern] += (y**2).sum(axis=0)
        return sums


def _gram(x: np.ndarray, padded: np.ndarray) -> np.ndarray:
    """``x.T @ x`` (L, L) of lagged samples (B * T, L), cut from ``padded`` (B, T + L - 1), at the cost of one row.

    One lag further in both is the sum one sample later: a product behind the window for one at its beginning.
    """
    n_lags = x.shape[1]
    begin, behind = padded[:, : n_lags - 1], padded[:, 1 - n_lags :]
    change = behind.T @ behind - begin.T @ begin
    gram = np.empty((n_lags, n_lags))
    gram[0] = gram[:, 0] = x[:, 0] @ x
    for lag in range(1, n_lags):
        gram[lag, 1:] = gram[lag - 1, :-1] + change[lag - 1]
    return gram


def _solve(sums: Moments, penalty: float) -> tuple[np.ndarray, np.ndarray]:
    """Weights (12, L) and intercepts (12,), mV; NaN for leads without samples."""
    weights, intercept = np.full(sums.x.shape, np.nan), np.full(len(sums.count), np.nan)
    for lead in np.flatnonzero(sums.count):
        n, x, y = sums.count[lead], sums.x[lead] / sums.count[lead], sums.y[lead] / sums.count[lead]
        covariance = sums.xx[lead] / n - np.outer(x, x)
        weights[lead] = np.linalg.solve(covariance + penalty * np.eye(len(x)), sums.xy[lead] / n - x * y)
        intercept[lead] = y - weights[lead] @ x
    return weights, intercept


def _squared_error(sums: Moments, weights: np.ndarray, intercept: np.ndarray) -> np.ndarray:
    """Sum of squared errors per lead (12,), mV^2, of b + w x on the samples that were summed; NaN without weights."""
    quadratic = np.einsum("kl,klm,km->k", weights, sums.xx, weights)
    linear = np.einsum("kl,kl->k", weights, intercept[:, None] * sums.x - sums.xy)
    return sums.yy + quadratic + 2 * linear - 2 * intercept * sums.y + intercept**2 * sums.count
