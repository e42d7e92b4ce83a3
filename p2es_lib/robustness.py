"""Disturbed PPG for the robustness figures, treated as a user's recording would be: filtered, scaled, and judged."""

from __future__ import annotations

import numpy as np

from p2es_lib.signals import ppg_quality
from p2es_lib.simulator.disturbances import disturb
from p2es_lib.windows.fresh_ppg import clean_and_scale

#: Kinds of disturbance and how they are called; those of :mod:`p2es_lib.simulator.disturbances`.
KINDS = {
    "drift": "Baseline drift",
    "low_perfusion": "White sensor noise",
    "motion": "Bursts of motion",
    "clipping": "Clipping",
    "gaps": "Gaps",
}


def disturb_windows(ppg: np.ndarray, kind: str, snr_db: float, sampling_rate: float, seed: int = 0) -> np.ndarray:
    """Add a disturbance to windows of PPG, then filter and scale them as every PPG is.

    Parameters
    ----------
    ppg : array (N, 1, T)
    kind : str
        One of :data:`KINDS`.
    snr_db : float
        Pulsatile power over the power of the disturbance, before the filter.
    sampling_rate : float
        Hz.
    seed : int
        The same seed disturbs a window in the same way, whatever the other windows are.

    Returns
    -------
    float32 array (N, 1, T)
    """
    rngs = [np.random.default_rng((seed, row)) for row in range(len(ppg))]
    return clean_and_scale(disturb(ppg[:, 0], kind, snr_db, rngs, sampling_rate), sampling_rate)[:, None]


def passes_gate(ppg: np.ndarray, sampling_rate: float, least: float) -> np.ndarray:
    """Whether each window (N, 1, T) would be accepted by someone who sees the PPG only: quality of at least ``least``."""
    return np.array([ppg_quality(window[0], sampling_rate) >= least for window in ppg])
