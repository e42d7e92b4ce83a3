"""Training batches that an interrupted training finds again, bit by bit."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import lru_cache
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from p2es_lib.core.config import Config
from p2es_lib.core.demographics import Demographics
from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import MEASURED
from p2es_lib.core.subject_numbers import MAX_SEED, STREAM_OFFSET, STREAM_STRIDE
from p2es_lib.data.windows.fresh_ppg import FreshPulses, disturb_share
from p2es_lib.data.windows.references import other_session, recorded_ecg, target_beats, training_references
from p2es_lib.data.windows.store import WindowSet

if TYPE_CHECKING:
    from p2es_lib.simulator import SimulatorConfig

#: What the windows of a split are called in messages.
SPLIT_WORDS = {"train": "training"}
#: Share of simulated training windows whose heart beats far from rest, 30 to 50 or 100 to 220 per minute.
FAR_FROM_REST = 0.1


def simulator_config(config: Config) -> SimulatorConfig:
    """Settings of the simulator under ``config``: its rate, window length and seed; the physiology is the default."""
    from p2es_lib.simulator import SimulatorConfig

    signal = config.signal
    return SimulatorConfig(signal.sampling_rate, signal.window_samples, seed=config.data.simulator_seed)


class TrainingBatches(AbstractContextManager):
    """Training batches as a pure function of (seed, step), so that an interrupted training resumes exactly.

    Simulated data with ``data.stream_training``: fresh subjects in every step, one window each. Otherwise the stored
    training windows in an order that is drawn anew for each epoch from (seed, epoch); with ``data.stream_training``
    those whose PPG was simulated get another one. A share ``data.disturbed_share`` of all has its PPG disturbed
    (:mod:`p2es_lib.data.windows.fresh_ppg`).

    Of ``windows``, the store, only the training split is ever used, or another ``split``; of simulated people those of
    steps after the last one are as good as held out. ``seed`` is that of the training. ``n_prefetch``
    batches are made ahead in background threads, which changes nothing but the speed. InputError: no windows.
    """

    def __init__(self, config: Config, windows: WindowSet, seed: int, n_prefetch: int = 1, split: str = "train"):
        self.config, self.batch_size, self.seed = config, config.training.batch_size, seed
        self.streaming = config.dataset == "simulated" and config.data.stream_training
        if not self.streaming:
            self.windows = windows.split(split)
            self._subject = self.windows.index["subject"].astype(str).to_numpy()
            self._of_subject = {
                name: np.asarray(rows)
                for name, rows in pd.Series(range(len(self._subject))).groupby(self._subject).groups.items()
            }
            if len(self.windows) == 0:
                problem = f"data set {config.dataset}: no {SPLIT_WORDS.get(split, split)} windows"
                raise InputError(f"{problem}; get more data (data.min_quality?)")
            fresh = config.data.stream_training
            self._fresh = FreshPulses(self.windows, config.signal.sampling_rate) if fresh else None
            # Kept for the epochs that a batch may touch: drawing it for each batch would cost more than reading it.
            n = len(self.windows)
            self._order = lru_cache(4)(lambda epoch: np.random.default_rng((seed, epoch)).permutation(n))
        self.n_prefetch = n_prefetch
        self._pending: dict[int, Future] = {}
        self._executor = ThreadPoolExecutor(max(n_prefetch, 1), thread_name_prefix="batches")

    def batch(self, step: int) -> dict:
        """Batch of one step: ``ppg`` float32 (B, 1, T), ``ecg`` float32 (B, 12, T) mV, ``lead_mask`` uint8 (B, 12), all
        torch on the CPU; ``demographics`` (:class:`Demographics`), ``subjects`` (list of str).
        """
        if not self.n_prefetch:
            return self._make(step)
        wanted = range(step, step + self.n_prefetch + 1)
        self._pending = {key: self._pending.get(key) or self._executor.submit(self._make, key) for key in wanted}
        return self._pending.pop(step).result()

    def close(self) -> None:
        """End the background threads; batches can no longer be asked for."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    def __exit__(self, *_) -> None:
        self.close()

    def subject_numbers(self, step: int) -> np.ndarray:
        """Numbers of one step's simulated subjects; an InputError for too large a seed, or where the stream ends."""
        if self.seed > MAX_SEED:
            raise InputError(f"seed={self.seed}: at most {MAX_SEED} on simulated data")
        first = step * self.batch_size
        if first + self.batch_size > STREAM_STRIDE:
            raise InputError(f"step {step} with batch size {self.batch_size}: the stream of one seed ends before it")
        return STREAM_OFFSET + self.seed * STREAM_STRIDE + first + np.arange(self.batch_size)

    def rows(self, step: int) -> np.ndarray:
        """Rows of the stored training windows that make up one step."""
        epochs, places = np.divmod(step * self.batch_size + np.arange(self.batch_size), len(self.windows))
        return np.array([self._order(int(epoch))[place] for epoch, place in zip(epochs, places)])

    def _make(self, step: int) -> dict:
        key, rate = (self.seed, step), self.config.signal.sampling_rate
        windows, ppg, lead_mask, other = self._simulate(step) if self.streaming else self._read(step, key)
        ppg = torch.tensor(disturb_share(ppg, self.config.data.disturbed_share, rate, key))
        ecg, lead_mask = torch.tensor(np.asarray(windows.ecg, dtype=np.float32)), torch.tensor(lead_mask)
        reference = training_references(*other, np.random.default_rng((*key, 1)), rate)
        return {
            "ppg": ppg,
            "ecg": ecg,
            "lead_mask": lead_mask,
            "demographics": Demographics(windows.index["age"].to_numpy(), windows.index["sex"].to_numpy()),
            "subjects": windows.index["subject"].tolist(),
            "reference": reference,
            "r_times": target_beats(ecg, lead_mask, reference.given, rate),
        }

    def _simulate(self, step: int):
        """Fresh subjects: their windows, PPG, lead mask, and another recording of each, for its reference.

        The first half of them was recorded in the session of the reference, the others in another one.
        """
        from p2es_lib.simulator import simulate

        numbers, config = (
            self.subject_numbers(step),
            replace(simulator_config(self.config), extreme_rates=FAR_FROM_REST),
        )
        half = len(numbers) // 2
        windows = simulate(numbers, 2, config)
        first, second = (np.arange(start, 2 * len(numbers), 2) for start in (0, 1))
        lead_mask = np.full((len(numbers), 12), MEASURED, dtype=np.uint8)
        ecg, ppg = windows.ecg[second], windows.ppg[second]
        if half < len(numbers):
            sitting = other_session(numbers[half:], config)
            ecg[half:], ppg[half:] = sitting.ecg, sitting.ppg
        ecg = recorded_ecg(ecg, np.random.default_rng((self.seed, step, 3)), config.sampling_rate)
        elapsed_s = torch.where(torch.arange(len(numbers)) < half, 60.0, torch.nan)
        target = SimpleNamespace(ecg=windows.ecg[first], index=windows.index.iloc[first])
        other = torch.tensor(ecg), torch.tensor(ppg), torch.tensor(lead_mask), elapsed_s
        return target, windows.ppg[first], lead_mask, other

    def _read(self, step: int, key: tuple[int, int]):
        """The same of stored windows; the other is any of the same subject that does not overlap, if there is one."""
        rows = self.rows(step)
        windows = self.windows.select(rows)
        ppg, lead_mask = np.asarray(windows.ppg), windows.lead_mask
        if self._fresh is not None:
            ppg = self._fresh(ppg, rows, key)
        other_rows = self._others(rows, key)
        others = self.windows.select(other_rows)
        other_ppg = np.asarray(others.ppg)
        if self._fresh is not None:
            other_ppg = self._fresh(other_ppg, other_rows, key)  # as of the same person
        ecg, other_ppg = (torch.tensor(np.asarray(part, dtype=np.float32)) for part in (others.ecg, other_ppg))
        mask = torch.tensor(np.where((other_rows == rows)[:, None], 0, others.lead_mask))
        same = others.index["record"].to_numpy() == windows.index["record"].to_numpy()
        elapsed_s = torch.tensor(np.where(same, 60.0, np.nan), dtype=torch.float32)
        return windows, ppg, lead_mask, (ecg, other_ppg, mask, elapsed_s)

    def _others(self, rows: np.ndarray, key: tuple[int, ...]) -> np.ndarray:
        """For each row another one of the same subject that shares no time with it, drawn from ``key``; else itself."""
        rng = np.random.default_rng((*key, 2))
        record, start_s = (self.windows.index[column].to_numpy() for column in ("record", "start_s"))
        least_s = (self.windows.ppg.shape[-1] - 0.5) / self.config.signal.sampling_rate
        drawn = []
        for row in rows:
            of_subject = self._of_subject[self._subject[row]]
            near = np.abs(start_s[of_subject] - start_s[row]) < least_s
            apart = of_subject[(record[of_subject] != record[row]) | ~near]
            drawn.append(rng.choice(apart) if len(apart) else row)
        return np.array(drawn)
