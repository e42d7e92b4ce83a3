"""What a finished training leaves beside its weights: how the error fell, and what it cost."""

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import torch

from p2es_lib.core.errors import InputError
from p2es_lib.core.learned import LearnedTranslator
from p2es_lib.core.paths import atomic_path

HISTORY_FILE, COST_FILE = "history.csv", "cost.json"
#: Parts of the time that are told apart; what is left of the total is the model's own steps.
COST_PARTS = ("total", "preparing", "loading", "validating")


class Stopwatch:
    """Seconds spent on the parts of a training, continued from an earlier process: ``with watch("loading"): ...``."""

    def __init__(self, spent: dict[str, float] | None = None):
        self.spent = dict.fromkeys(COST_PARTS, 0.0) | (spent or {})
        self.began = time.monotonic() - self.spent["total"]

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Add the seconds of a ``with`` block to a part of :data:`COST_PARTS`."""
        began = time.monotonic()
        yield
        self.spent[part] += time.monotonic() - began

    def seconds(self) -> dict[str, float]:
        """By part, with everything up to now as ``total``."""
        return self.spent | {"total": time.monotonic() - self.began}


def write_record(history: Iterable[dict], module: LearnedTranslator, fabric, watch: Stopwatch, folder: Path) -> None:
    """Write ``history.csv`` and ``cost.json``; ``fabric`` knows device, precision and number of processes."""
    seconds = {part: round(spent, 1) for part, spent in watch.seconds().items()}
    cost = {
        "parameters": module.parameter_count(),
        "seconds": seconds.pop("total"),
        "seconds_of": seconds,
        "steps": module.config.training.n_steps,
        "batch_size": module.config.training.batch_size * fabric.world_size,
        "device": torch.cuda.get_device_name() if fabric.device.type == "cuda" else fabric.device.type,
        "threads": torch.get_num_threads(),
        "precision": fabric.strategy.precision.precision,
    }
    with atomic_path(folder / HISTORY_FILE) as temporary:
        pd.DataFrame(history).to_csv(temporary, index=False, float_format="%.6g")
    with atomic_path(folder / COST_FILE) as temporary:
        temporary.write_text(json.dumps(cost, indent=1) + "\n")


def _existing(folder: Path, name: str) -> Path:
    if not (path := Path(folder) / name).is_file():
        raise InputError(f"{path}: no such file; train the run with notebook 05_train")
    return path


def read_history(folder: Path) -> pd.DataFrame:
    """History of a finished training: rows per logged step (loss) and per validation; the rest of a row is NaN."""
    return pd.read_csv(_existing(folder, HISTORY_FILE))


def read_cost(folder: Path) -> dict:
    """What a finished training cost: parameters, seconds (``seconds_of`` each part), steps, batch size and machine."""
    return json.loads(_existing(folder, COST_FILE).read_text())
