"""What a translation costs: time, operations, memory and weights, every method in one run on one machine.

A time by itself says as much about the machine as about the method. So all are timed in turn, round after round, in one
process with the same number of threads, and tables give the ratio to P2Es beside the time.
"""

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch

from p2es_lib.core.demographics import Demographics
from p2es_lib.core.learned import LearnedTranslator

#: Length of signal that times are stated for, seconds.
PER_S = 10.0


@dataclass(frozen=True)
class Timed:
    """One row: a method, how it is called, and where its weights are ("" for one that was only built, not trained)."""

    method: LearnedTranslator
    options: Mapping[str, object] = field(default_factory=dict)
    folder: str = ""


def make_windows(config, n: int, seed: int = 0) -> tuple[np.ndarray, Demographics]:
    """N windows of something like a PPG (a method's cost does not depend on what is in them), and who they are of."""
    rng = np.random.default_rng(seed)
    t = np.arange(config.signal.window_samples) / config.signal.sampling_rate
    rate_hz = rng.uniform(0.8, 1.6, (n, 1))
    ppg = np.sin(2 * np.pi * rate_hz * t) + 0.4 * np.sin(4 * np.pi * rate_hz * t)
    ppg = ppg + 0.02 * rng.standard_normal((n, len(t)))
    ppg = (ppg - ppg.mean(1, keepdims=True)) / ppg.std(1, keepdims=True)
    people = Demographics(rng.uniform(20, 80, n), np.where(rng.random(n) < 0.5, "F", "M"))
    return ppg[:, None].astype(np.float32), people


def time_methods(rows: Mapping[str, Timed], *, batch: int, n_threads=2, rounds=7, progress=True) -> pd.DataFrame:
    """Time one sample of all 12 leads for each row, the rows in turn within every round.

    ``batch`` windows per call, ``n_threads`` of the process meanwhile, ``rounds`` after one that warms up. Columns
    label, batch, ms (median time for :data:`PER_S` seconds of signal), ms_low, ms_high (quartiles), ratio (median over
    rounds of the time over that of the first row in the same round).
    """
    from tqdm.auto import tqdm

    config = next(iter(rows.values())).method.config
    ppg, demographics = make_windows(config, batch)
    signal_s = batch * config.signal.window_samples / config.signal.sampling_rate
    previous, times = torch.get_num_threads(), {label: [] for label in rows}
    torch.set_num_threads(n_threads)
    try:
        for number in tqdm(range(rounds + 1), desc=f"timing, batch {batch}", disable=not progress):
            for label, row in rows.items():
                began = time.perf_counter()
                row.method.translate(ppg, demographics, **row.options)
                if number:
                    times[label].append((time.perf_counter() - began) * 1e3 * PER_S / signal_s)
    finally:
        torch.set_num_threads(previous)
    taken = pd.DataFrame(times).T  # a row per label, a column per round
    table = taken.quantile([0.5, 0.25, 0.75], axis=1).T.set_axis(["ms", "ms_low", "ms_high"], axis=1)
    table.insert(0, "batch", batch)
    return table.assign(ratio=(taken / taken.iloc[0]).median(axis=1)).rename_axis("label").reset_index()


def count_operations(row: Timed) -> float:
    """Multiplications and additions of matrices and convolutions for one sample of :data:`PER_S` seconds, in 10^9."""
    from torch.utils.flop_counter import FlopCounterMode

    config = row.method.config
    ppg, demographics = make_windows(config, 1)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        # Not translate itself: inference mode hides the operations from the counter.
        LearnedTranslator.translate.__wrapped__(row.method, ppg, demographics, **row.options)
    return counter.get_total_flops() * PER_S * config.signal.sampling_rate / config.signal.window_samples / 1e9


_PEAK = """
import json, sys
from pathlib import Path
import torch
torch.set_num_threads(2)
from p2es_lib.core.config import Config
from p2es_lib.evaluation.efficiency import make_windows
from p2es_lib.core.learned import get_method, load_method

def memory(name):  # kB, of this process
    return int(next(line for line in open("/proc/self/status") if line.startswith(name)).split()[1])

config, options = Config.from_dict(json.loads(sys.argv[1])), json.loads(sys.argv[2])
ppg, demographics = make_windows(config, int(sys.argv[3]))
Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
before = memory("VmRSS")
model = load_method(sys.argv[4]) if sys.argv[4] else get_method(config.method.name)(config)
model.translate(ppg, demographics, **options)
print((memory("VmHWM") - before) / 1024)
"""


def peak_memory_mb(row: Timed, batch: int = 1) -> float:
    """Memory (MiB) that weights and one call need beyond the libraries themselves, measured in a process of its own."""
    arguments = [json.dumps(row.method.config.to_dict()), json.dumps(dict(row.options)), str(batch), row.folder]
    result = subprocess.run([sys.executable, "-c", _PEAK, *arguments], capture_output=True, text=True, check=True)
    return float(result.stdout.strip().splitlines()[-1])


def training_cost(history, cost: Mapping, floor: float | None, factors=(1.5, 1.2, 1.1, 1.05)) -> dict[str, float]:
    """What a training cost and how fast it came near what can be known, as a row of a table.

    ``minutes`` in all; ``windows per s`` of the steps themselves; ``waiting for batches`` and ``validating`` as shares
    of the whole; ``minutes to F x floor`` with preparation, without validations (NaN: not reached), by the clock of a
    training with ``threads`` threads. ``history`` and ``cost`` are what :mod:`p2es_lib.training.record` reads,
    ``floor`` the irreducible RMSE of the validation windows in mV, if known, ``factors`` multiples of it.
    """
    of = cost["seconds_of"]
    step_s = (cost["seconds"] - of["preparing"] - of["validating"]) / cost["steps"]
    row = {
        "minutes": cost["seconds"] / 60,
        "threads": cost["threads"],
        "windows per s": cost["batch_size"] / step_s,
        "waiting for batches": of["loading"] / cost["seconds"],
        "validating": of["validating"] / cost["seconds"],
    }
    if floor is not None:
        for factor in factors:
            reached = history.loc[history["validation_rmse"] <= factor * floor, "step"]
            # The least step of none is NaN.
            row[f"minutes to {factor:g} x floor"] = (of["preparing"] + reached.min() * step_s) / 60
    return row
