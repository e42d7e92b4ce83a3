"""One plain training loop on Lightning Fabric: CPU, one GPU, many GPUs and many nodes run the same code.

What makes a resumed run end with the same weights as an uninterrupted one: the batch, the diffusion times and the
noise of a step are functions of (seed, step, rank) alone, and the checkpoint holds weights, averages and optimiser.
"""

import copy
import math
import time
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from p2es_lib.core.config import Config, config_hash
from p2es_lib.core.errors import InputError
from p2es_lib.core.learned import Batch, LearnedTranslator, ecg_scale_mv, get_method, masked_mse
from p2es_lib.core.paths import atomic_path
from p2es_lib.core.weights import names_now
from p2es_lib.data.windows import TrainingBatches, WindowSet
from p2es_lib.training.optimisation import (
    Adversary,
    learning_rate_at,
    make_fabric,
    make_optimizer,
    update,
    update_average,
)
from p2es_lib.training.record import Stopwatch, write_record

CHECKPOINT_FILE = "checkpoint.ckpt"
#: Steps after which the error falls fastest, validated besides the regular ones.
EARLY_VALIDATIONS = (10, 25, 50, 100)


def validate(model: LearnedTranslator, windows: WindowSet, max_windows: int = 256) -> dict[str, float]:
    """RMSE (mV) of the cheapest estimate of the posterior mean, same windows and noise each time, and what the method
    adds (:meth:`LearnedTranslator.diagnose`).
    """
    rows = np.unique(np.linspace(0, len(windows) - 1, min(max_windows, len(windows))).astype(int))
    subset = windows.select(rows)
    truth, mask = torch.as_tensor(np.array(subset.ecg)), torch.as_tensor(np.array(subset.lead_mask))
    estimate = model.translate(np.array(subset.ppg), subset.demographics, n_samples=1, n_steps=1)[:, 0]
    rmse = masked_mse(torch.nan_to_num(estimate), truth, mask).sqrt()
    return {"validation_rmse": float(rmse)} | model.diagnose(subset)


def train(
    config: Config, windows: WindowSet, folder: Path, *, seed: int = 0, run_hash: str = "", fabric=None,
    progress: bool = True,
) -> LearnedTranslator:  # fmt: skip
    """Train a method on the splits "train" and "validation", continuing from the checkpoint in ``folder``, if it is of
    the same ``run_hash`` (default: of ``config`` and ``seed``).

    ``folder`` gets ``checkpoint.ckpt`` every ``checkpoint_every`` steps. At the end that goes, and ``history.csv``,
    ``cost.json`` and ``weights.safetensors`` come: the moving average with the lowest validation error, or the last one
    (:attr:`LearnedTranslator.keeps_best`), which is returned. ``fabric``: launched already (default: one process); with
    W processes a step sees W batches. Without ``progress``, a line per validation is printed only.
    """
    train_windows, validation_windows = windows.split("train"), windows.split("validation")
    if not len(train_windows) or not len(validation_windows):
        needed = "training needs windows in the splits 'train' and 'validation'"
        raise InputError(f"{needed}; prepare them with notebook 01_data")
    fabric = fabric or make_fabric(precision=config.training.precision)
    # The number of processes decides which batches a step sees.
    run_hash = f"{run_hash or f'{config_hash(config)}-{seed}'}-{fabric.world_size}"
    if fabric.device.type == "cpu":
        torch.set_num_threads(config.training.n_threads)
    training = _Training(config, train_windows, folder, seed, run_hash, fabric, progress)
    training.run(TrainingBatches(config, train_windows, seed), validation_windows, progress)
    return training.finish()


class _Training:
    """A training under way: all that a step changes, which is what a checkpoint holds."""

    def __init__(self, config: Config, windows: WindowSet, folder: Path, seed: int, run_hash: str, fabric, progress):
        self.config, self.settings, self.folder = config, config.training, folder
        self.seed, self.run_hash, self.fabric = seed, run_hash, fabric
        torch.manual_seed(seed)
        spread = slice(None, None, max(1, len(windows) // 2000))  # enough windows, from all records
        scale = ecg_scale_mv(windows.ecg[spread], windows.lead_mask[spread])
        leads = (np.array(windows.lead_mask) > 0).any(axis=0)
        self.module: LearnedTranslator = get_method(config.method.name)(config, scale, trained_leads=leads)
        self.adversary = Adversary(self.module, fabric, self.settings)
        self.history, self.losses, self.start = [], [], 0
        self.best: dict = {"validation_rmse": math.inf, "weights": None}
        path, state = folder / CHECKPOINT_FILE, {}
        if path.is_file():
            state = torch.load(path, map_location="cpu", weights_only=True)
        if state.get("run_hash") != run_hash:  # other settings: start anew
            state = {}
        self.watch = Stopwatch(state.get("seconds"))
        if state:
            self._restore(state, windows)
        else:
            with self.watch("preparing"):
                self.module.prepare(windows, seed=seed, progress=progress)
            self.average = copy.deepcopy(self.module)
        self.average.to(fabric.device)
        optimizer = make_optimizer(self.module.trained_parameters(), self.settings)
        self.model, self.optimizer = fabric.setup(self.module, optimizer)
        if state:
            self.optimizer.load_state_dict(state["optimizer"])
        self.began = time.monotonic()

    def _restore(self, state: dict, windows: WindowSet) -> None:
        self.module.load_state_dict(names_now(state["module"]))
        self.module.load_extra_state(state["extra_state"])
        self.average = copy.deepcopy(self.module)
        self.average.load_state_dict(names_now(state["average"]))
        self.history, self.start, self.best = state["history"], state["step"], state["best"]
        self.adversary.load(state["adversary"])
        if self.module.training_subjects() - set(windows.index["subject"].astype(str)):
            raise InputError(f"{self.folder / CHECKPOINT_FILE}: it holds subjects that are not for training; delete it")
        if self.fabric.is_global_zero:
            print(f"continuing at step {self.start} of {self.settings.n_steps}")

    def save_checkpoint(self, done: int) -> None:
        state = {
            "run_hash": self.run_hash,
            "step": done,
            "seconds": self.watch.seconds(),
            "module": self.module.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "extra_state": self.module.extra_state(),
            "adversary": self.adversary.state(),
            "history": self.history,
            "best": self.best,
        }
        if self.fabric.is_global_zero:
            with atomic_path(self.folder / CHECKPOINT_FILE) as temporary:
                torch.save(state, temporary)
        self.fabric.barrier()

    def step(self, step: int, batches: TrainingBatches) -> float:
        """Take one step; returns its learning rate."""
        fabric, generator = self.fabric, torch.Generator()
        generator.manual_seed((self.seed * 1_000_003 + step) * 4099 + fabric.global_rank)
        with self.watch("loading"):
            batch = Batch(self.module, batches.batch(step * fabric.world_size + fabric.global_rank), generator)
        rate = learning_rate_at(step, self.config)
        self.adversary.step(batch, generator, rate)
        loss, logged = self.module.training_loss(self.model, batch, generator, self.adversary.critic)
        fabric.backward(loss)
        update(fabric, self.model, self.optimizer, self.settings, rate)
        update_average(self.average, self.module, self.settings.ema_decay, step)
        self.losses.append(float(logged))
        return rate

    def validate(self, done: int, windows: WindowSet) -> None:
        """Judge the average; keep it if it is the best so far."""
        with self.watch("validating"):
            scores = validate(self.average, windows)
        self.history.append({"step": done, **scores})
        if self.module.keeps_best and scores["validation_rmse"] < self.best["validation_rmse"]:
            weights = {name: value.detach().cpu().clone() for name, value in self.average.state_dict().items()}
            self.best = {**scores, "weights": weights}
        if self.fabric.is_global_zero:
            n_steps, rmse = self.settings.n_steps, scores["validation_rmse"]
            left = (time.monotonic() - self.began) / (done - self.start) * (n_steps - done) / 60
            print(f"step {done}/{n_steps}  validation RMSE {rmse:.4f} mV  about {left:.1f} min left", flush=True)

    def run(self, batches: TrainingBatches, validation_windows: WindowSet, progress: bool) -> None:
        """All steps that are left, with logs, validations and checkpoints in between."""
        settings, step = self.settings, self.start
        options = {"mininterval": 1.0, "disable": not (progress and self.fabric.is_global_zero)}
        bar = tqdm(desc=f"training {self.module.name}", total=settings.n_steps, initial=step, **options)
        try:
            for step in range(self.start, settings.n_steps):
                rate = self.step(step, batches)
                bar.update()
                done, last = step + 1, step + 1 == settings.n_steps
                if done % settings.log_every == 0 or last:
                    self.history.append({"step": done, "loss": float(np.mean(self.losses)), "learning_rate": rate})
                    self.losses = []
                    bar.set_postfix(loss=f"{self.history[-1]['loss']:.3f}")
                if done % settings.validate_every == 0 or done in EARLY_VALIDATIONS or last:
                    self.validate(done, validation_windows)
                if done % settings.checkpoint_every == 0 and not last:
                    self.save_checkpoint(done)
        except KeyboardInterrupt:
            # The step under way may be half done in the weights: the last regular checkpoint stands.
            print(f"interrupted at step {step}; the next call continues from the last checkpoint", flush=True)
            raise
        finally:
            bar.close()
            batches.close()

    def finish(self) -> LearnedTranslator:
        """Write what the training leaves, and return the model."""
        if self.best["weights"] is not None:
            self.average.load_state_dict(names_now(self.best["weights"]))
        if self.fabric.is_global_zero:
            write_record(self.history, self.module, self.fabric, self.watch, self.folder)
            self.average.save(self.folder)
            (self.folder / CHECKPOINT_FILE).unlink(missing_ok=True)
        self.fabric.barrier()
        return self.average.cpu().eval()
