"""Training batches that an interrupted training finds again, bit by bit."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch

from p2es_lib.core.config import Config
from p2es_lib.core.demographics import Demographics
from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import MEASURED
from p2es_lib.core.subject_numbers import MAX_SEED, STREAM_OFFSET, STREAM_STRIDE
from p2es_lib.data.windows.fresh_ppg import FreshPulses, disturb_share
from p2es_lib.data.windows.store import WindowSet

if TYPE_CHECKING:
    from p2es_lib.simulator import SimulatorConfig


def simulator_config(config: Config) -> SimulatorConfig:
    """Settings of the simulator under ``config``: its rate, window length and seed; the physiology is the default."""
    from p2es_lib.simulator import SimulatorConfig

    return SimulatorConfig(
        sampling_rate=config.signal.sampling_rate,
        window_samples=config.signal.window_samples,
        seed=config.data.simulator_seed,
    )


class TrainingBatches:
    """Training batches as a pure function of (seed, step), so that an interrupted training resumes exactly.

    Simulated data with ``data.stream_training``: fresh subjects in every step, one window each. Otherwise the stored
    training windows in an order that is drawn anew for each epoch from (seed, epoch); with ``data.stream_training``
    those whose PPG was simulated get another one. A share ``data.disturbed_share`` of all has its PPG disturbed
    (:mod:`p2es_lib.data.windows.fresh_ppg`).

    Parameters
    ----------
    config : Config
        ``training.batch_size`` and the data settings.
    windows : WindowSet
        The store; only its training split is ever used.
    seed : int
        Seed of the training.
    n_prefetch : int
        Batches made ahead in background threads (0: none). It changes nothing but the speed.
    """

    def __init__(self, config: Config, windows: WindowSet, seed: int, n_prefetch: int = 1):
        self.batch_size, self.seed = config.training.batch_size, seed
        self.disturbed_share, self.sampling_rate = config.data.disturbed_share, config.signal.sampling_rate
        self.streaming = config.dataset == "simulated" and config.data.stream_training
        if self.streaming:
            self.simulator_config = simulator_config(config)
        else:
            self.windows = windows.split("train")
            if len(self.windows) == 0:
                raise InputError(f"data set {config.dataset}: no training windows; get more data (data.min_quality?)")
            self._fresh = FreshPulses(self.windows, self.sampling_rate) if config.data.stream_training else None
            # Kept for the epochs that a batch may touch: drawing it for each batch would cost more than reading it.
            n = len(self.windows)
            self._order = lru_cache(4)(lambda epoch: np.random.default_rng((seed, epoch)).permutation(n))
        self.n_prefetch = n_prefetch
        self._pending: dict[int, Future] = {}
        self._executor = ThreadPoolExecutor(n_prefetch, thread_name_prefix="batches") if n_prefetch else None

    def batch(self, step: int) -> dict:
        """Batch of one step.

        Returns
        -------
        dict
            ``ppg`` float32 (B, 1, T), ``ecg`` float32 (B, 12, T) mV, ``lead_mask`` uint8 (B, 12), all torch on the
            CPU; ``demographics`` (:class:`Demographics`), ``subjects`` (list of str).
        """
        if self._executor is None:
            return self._make(step)
        wanted = range(step, step + self.n_prefetch + 1)
        self._pending = {key: future for key, future in self._pending.items() if key in wanted}
        for key in wanted:
            if key not in self._pending:
                self._pending[key] = self._executor.submit(self._make, key)
        return self._pending.pop(step).result()

    def close(self) -> None:
        """End the background threads; batches can no longer be asked for."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> TrainingBatches:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def subject_numbers(self, step: int) -> np.ndarray:
        """Numbers of the simulated subjects of one step of the stream."""
        if self.seed > MAX_SEED:
            raise InputError(f"seed={self.seed}: at most {MAX_SEED} on simulated data")
        first = step * self.batch_size
        if first + self.batch_size > STREAM_STRIDE:
            raise InputError(f"step {step} with batch size {self.batch_size}: the stream of one seed ends before it")
        return STREAM_OFFSET + self.seed * STREAM_STRIDE + first + np.arange(self.batch_size)

    def rows(self, step: int) -> np.ndarray:
        """Rows of the stored training windows that make up one step."""
        n = len(self.windows)
        positions = step * self.batch_size + np.arange(self.batch_size)
        return np.array([self._order(int(p // n))[p % n] for p in positions])

    def _make(self, step: int) -> dict:
        if self.streaming:
            from p2es_lib.simulator import simulate

            windows = simulate(self.subject_numbers(step), 1, self.simulator_config)
            ppg = windows.ppg
            lead_mask = np.full((self.batch_size, 12), MEASURED, dtype=np.uint8)
        else:
            rows = self.rows(step)
            windows = self.windows.select(rows)
            ppg, lead_mask = np.asarray(windows.ppg), windows.lead_mask
            if self._fresh is not None:
                ppg = self._fresh(ppg, rows, (self.seed, step))
        return {
            "ppg": torch.tensor(
                disturb_share(np.asarray(ppg), self.disturbed_share, self.sampling_rate, (self.seed, step))
            ),
            "ecg": torch.tensor(np.asarray(windows.ecg, dtype=np.float32)),
            "lead_mask": torch.tensor(np.asarray(lead_mask)),
            "demographics": Demographics(windows.index["age"].to_numpy(), windows.index["sex"].to_numpy()),
            "subjects": windows.index["subject"].tolist(),
        }
