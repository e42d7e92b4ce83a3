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
from torch import nn
from tqdm.auto import tqdm

from p2es_lib.core.config import Config, TrainingConfig, config_hash
from p2es_lib.core.errors import InputError
from p2es_lib.core.learned import Batch, LearnedTranslator, ecg_scale_mv, get_method, masked_mse
from p2es_lib.core.paths import atomic_path
from p2es_lib.core.weights import names_now
from p2es_lib.data.windows import TrainingBatches, WindowSet
from p2es_lib.training.record import Stopwatch, write_record

CHECKPOINT_FILE = "checkpoint.ckpt"
#: Steps after which the error falls fastest, validated besides the regular ones.
EARLY_VALIDATIONS = (10, 25, 50, 100)


def make_fabric(devices: int = 1, nodes: int = 1, precision: str = "auto"):
    """Fabric on whatever accelerator there is; several processes average gradients.

    ``precision="auto"`` is ``bf16-mixed`` where the hardware multiplies bfloat16 (a GPU, a CPU with AVX512-BF16 or
    AMX), else ``32-true``: emulated bfloat16 is slower.
    """
    from lightning.fabric import Fabric

    on_gpu = torch.cuda.is_available()
    if precision == "auto":
        precision = "bf16-mixed" if on_gpu or has_cpu_bf16() else "32-true"
    accelerator, strategy = "cuda" if on_gpu else "cpu", "ddp" if devices * nodes > 1 else "auto"
    return Fabric(accelerator=accelerator, devices=devices, num_nodes=nodes, strategy=strategy, precision=precision)


def has_cpu_bf16() -> bool:
    """Whether this machine's CPU multiplies bfloat16 numbers itself."""
    # Private names: torch has no public ones in all versions that we support; without them, the answer is no.
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(check is not None and check() for check in checks)


def learning_rate_at(step: int, config: Config) -> float:
    """Linear warm-up, then half a cosine down to 2 % of the peak."""
    settings = config.training
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    progress = (step - settings.warmup_steps) / max(1, settings.n_steps - settings.warmup_steps)
    return settings.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


@torch.no_grad()
def update_average(average: nn.Module, module: nn.Module, decay: float, step: int) -> None:
    """Exponential moving average of the weights, whose decay warms up: early averages forget the start."""
    decay = min(decay, (1 + step) / (10 + step))
    for target, source in zip(average.parameters(), module.parameters(), strict=True):
        target.lerp_(source, 1 - decay)
    for target, source in zip(average.buffers(), module.buffers(), strict=True):  # running statistics of normalisations
        target.copy_(source)


def make_optimizer(parameters, settings: TrainingConfig) -> torch.optim.Optimizer:
    """AdamW as the settings have it."""
    rate, decay = settings.learning_rate, settings.weight_decay
    return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay, betas=(0.9, 0.99))


def update(fabric, model: nn.Module, optimizer, settings: TrainingConfig, rate: float) -> None:
    """One step along the gradients that are there, clipped, at the given learning rate; then there are none."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    fabric.clip_gradients(model, optimizer, max_norm=settings.clip_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


class Adversary:
    """The critic of a method that has one, with its own optimiser; does nothing for the others."""

    def __init__(self, module: LearnedTranslator, fabric, settings: TrainingConfig):
        self.module, self.fabric, self.settings = module, fabric, settings
        self.critic = module.make_critic()
        if self.critic is not None:
            self.optimizer = make_optimizer(self.critic.parameters(), settings)
            self.critic, self.optimizer = fabric.setup(self.critic, self.optimizer)

    def step(self, batch: Batch, generator: torch.Generator, rate: float) -> None:
        """The critic's steps before that of the method."""
        if self.critic is None:
            return
        self.critic.requires_grad_(True)
        for _ in range(self.module.critic_steps):
            self.fabric.backward(self.module.critic_loss(self.critic, batch, generator))
            update(self.fabric, self.critic, self.optimizer, self.settings, rate)
        self.critic.requires_grad_(False)  # the method's loss passes through it and must not change it

    def state(self) -> dict:
        """What a checkpoint keeps of it: name of each part to its state."""
        parts = ("critic", "optimizer") if self.critic is not None else ()
        return {name: getattr(self, name).state_dict() for name in parts}

    def load(self, state: dict) -> None:
        """Inverse of :meth:`state`."""
        for name, values in state.items():
            getattr(self, name).load_state_dict(values)


def validate(model: LearnedTranslator, windows: WindowSet, max_windows: int = 256) -> dict[str, float]:
    """RMSE (mV) of the cheapest estimate of the posterior mean, same windows and noise each time; what it adds."""
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
    """Train a method into ``folder``, continuing from the checkpoint there if it was made with the same settings.

    Parameters
    ----------
    config, windows : Config, WindowSet
        ``method.name`` says which method; of the windows, the splits "train" and "validation".
    folder : Path
        Gets ``checkpoint.ckpt`` every ``checkpoint_every`` steps, and at the end, instead, ``history.csv``,
        ``cost.json`` and ``weights.safetensors``: the moving average with the lowest validation error, or the last one
        (:attr:`LearnedTranslator.keeps_best`), which is returned.
    seed, run_hash : int, str
        Of weights, batches and noise; what a checkpoint must have been made with (default: ``config`` and ``seed``).
    fabric : lightning.fabric.Fabric, optional
        Launched already. Default: one process, see :func:`make_fabric`. With W processes a step sees W batches.
    progress : bool
        Show a progress bar; a line per validation is printed in any case.

    Raises
    ------
    InputError
        No training or validation windows.
    """
    train_windows, validation_windows = windows.split("train"), windows.split("validation")
    if not len(train_windows) or not len(validation_windows):
        raise InputError("training needs windows in the splits 'train' and 'validation'; see notebook 01_data")
    fabric = fabric or make_fabric(precision=config.training.precision)
    # The number of processes decides which batches a step sees.
    run_hash = f"{run_hash or f'{config_hash(config)}-{seed}'}-{fabric.world_size}"
    if fabric.device.type == "cpu":
        torch.set_num_threads(config.training.n_threads)
    training = _Training(config, train_windows, folder, seed, run_hash, fabric, progress)
    with TrainingBatches(config, windows, seed) as batches:
        training.run(batches, validation_windows, progress)
    undisturbed = config.replace("data.disturbed_share", 0.0)
    with TrainingBatches(undisturbed, windows, seed, n_prefetch=0, split="validation") as batches:
        first = config.training.n_steps * fabric.world_size
        return training.finish([batches.batch(first + k) for k in range(config.training.calibration_batches)])


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
        state = {name: getattr(self, name).state_dict() for name in ("module", "average", "optimizer")}
        state |= {"adversary": self.adversary.state(), "extra_state": self.module.extra_state(), "best": self.best}
        state |= {"history": self.history, "run_hash": self.run_hash, "step": done, "seconds": self.watch.seconds()}
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

    def finish(self, held_out: list[dict]) -> LearnedTranslator:
        """Calibrate on batches that were held out, write what the training leaves, and return the model."""
        if self.best["weights"] is not None:
            self.average.load_state_dict(names_now(self.best["weights"]))
        self.average.eval()
        generator = torch.Generator().manual_seed(self.seed)
        self.average.calibrate([Batch(self.average, batch, generator) for batch in held_out])
        if self.fabric.is_global_zero:
            write_record(self.history, self.module, self.fabric, self.watch, self.folder)
            self.average.save(self.folder)
            (self.folder / CHECKPOINT_FILE).unlink(missing_ok=True)
        self.fabric.barrier()
        return self.average.cpu().eval()
