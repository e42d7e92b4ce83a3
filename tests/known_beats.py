"""ECGs and pulses of known beats: Gaussian waves in twelve consistent leads, at any R times."""

from __future__ import annotations

import numpy as np
import torch
from scipy.special import expit

from p2es_lib.core.leads import LEAD_MATRIX

#: Of P, Q, R, S and T: middle from R and width, s, and amplitude in the eight independent leads, mV.
WAVES = ((-0.16, 0.022), (-0.035, 0.012), (0.0, 0.014), (0.035, 0.012), (0.25, 0.04))
AMPLITUDES = np.array([
    [0.08, 0.14, 0.05, 0.06, 0.07, 0.08, 0.08, 0.07],
    [-0.05, -0.08, 0.0, 0.0, -0.05, -0.10, -0.12, -0.08],
    [0.70, 1.10, 0.20, 0.40, 0.80, 1.40, 1.20, 0.90],
    [-0.10, -0.20, -0.9, -1.2, -0.8, -0.4, -0.2, -0.1],
    [0.20, 0.30, -0.10, 0.30, 0.40, 0.40, 0.30, 0.20],
])  # fmt: skip


def wave(seconds: np.ndarray, gain: float = 1.0) -> np.ndarray:
    """One beat in 12 leads, mV, at times from its R: (M,) to (12, M)."""
    waves = np.stack([np.exp(-0.5 * ((seconds - middle) / width) ** 2) for middle, width in WAVES])
    return gain * LEAD_MATRIX @ (AMPLITUDES.T @ waves)


def ecg_of(r_times, n: int, rate: float, shape=wave) -> np.ndarray:
    """The sum of beats (12, n) at R times; ``shape`` of each, or a list of one per beat."""
    t = np.arange(n) / rate
    shapes = shape if isinstance(shape, list) else [shape] * len(r_times)
    return sum((one(t - r) for one, r in zip(shapes, r_times, strict=True)), np.zeros((12, n)))


def ppg_of(upstrokes, n: int, rate: float) -> np.ndarray:
    """A pulse wave (1, n) whose steepest points lie at the given times, before it falls slowly."""
    t = np.arange(n) / rate
    return sum(expit((t - u) / 0.025) - expit((t - u - 0.35) / 0.08) for u in upstrokes)[None]


def padded(rows, value=np.inf) -> torch.Tensor:
    """Times of several recordings as one table (N, K), float32."""
    table = np.full((len(rows), max(map(len, rows)) + 1), value)
    for row, times in zip(table, rows, strict=True):
        row[: len(times)] = times
    return torch.tensor(table, dtype=torch.float32)
