"""One plain training loop on Lightning Fabric: CPU, one GPU, many GPUs and many nodes run the same code.

What makes a resumed run end with the same weights as an uninterrupted one: the batch, the diffusion times and the
noise of a step are functions of (seed, step, rank) alone, and the checkpoint holds weights, averages and optimiser.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from p2es_lib.config import Config, TrainingConfig, config_hash
from p2es_lib.errors import InputError
from p2es_lib.learned import Batch, LearnedTranslator, ecg_scale_mv, masked_mse
from p2es_lib.methods import get_method
from p2es_lib.paths import atomic_path
from p2es_lib.windows import TrainingBatches, WindowSet

CHECKPOINT_FILE = "checkpoint.ckpt"
HISTORY_FILE = "history.csv"
#: What the training cost: seconds, parameters, device.
COST_FILE = "cost.json"
#: Steps after which the error falls fastest, validated besides the regular ones.
EARLY_VALIDATIONS = (10, 25, 50, 100)
#: Parts of the time that are told apart; what is left of the total is the model's own steps.
COST_PARTS = ("total", "preparing", "loading", "validating")


def learning_rate_at(step: int, config: Config) -> float:
    """Linear warm-up, then half a cosine down to 2 % of the peak."""
    settings = config.training
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    progress = (step - settings.warmup_steps) / max(1, settings.n_steps - settings.warmup_steps)
    return settings.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


@torch.no_grad()
def update_average(average: nn.Module, module: nn.Module, decay: float, step: int) -> None:
    """Exponential moving average of the weights; the decay warms up so that early averages forget the start."""
    decay = min(decay, (1 + step) / (10 + step))
    for target, source in zip(average.parameters(), module.parameters(), strict=True):
        target.lerp_(source, 1 - decay)
    for target, source in zip(average.buffers(), module.buffers(), strict=True):  # running statistics of normalisations
        target.copy_(source)


def validate(model: LearnedTranslator, windows: WindowSet, max_windows: int = 256) -> dict[str, float]:
    """RMSE (mV) on validation subjects of the cheapest estimate of the posterior mean that the method has.

    Same windows and same noise each time; further columns as the method wishes (:meth:`LearnedTranslator.diagnose`).
    """
    rows = np.unique(np.linspace(0, len(windows) - 1, min(max_windows, len(windows))).astype(int))
    subset = windows.select(rows)
    truth, mask = torch.as_tensor(np.array(subset.ecg)), torch.as_tensor(np.array(subset.lead_mask))
    estimate = model.translate(np.array(subset.ppg), subset.demographics, n_samples=1, n_steps=1)[:, 0]
    rmse = masked_mse(torch.nan_to_num(estimate), truth, mask).sqrt()
    return {"validation_rmse": float(rmse)} | model.diagnose(subset)


def _write_history(rows: Iterable[dict], folder: Path) -> None:
    with atomic_path(folder / HISTORY_FILE) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False, float_format="%.6g")


def read_history(folder: Path) -> pd.DataFrame:
    """History of a finished training: rows per logged step (loss) and per validation; the rest of a row is NaN."""
    path = Path(folder) / HISTORY_FILE
    if not path.is_file():
        raise InputError(f"{path}: no such history; train the run with notebook 05_train")
    return pd.read_csv(path)


class Stopwatch:
    """Seconds spent on the parts of a training, continued from an earlier process: ``with watch("loading"): ...``."""

    def __init__(self, spent: dict[str, float] | None = None):
        self.spent = dict.fromkeys(COST_PARTS, 0.0) | (spent or {})
        self.began = time.monotonic() - self.spent["total"]

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.spent[part] += time.monotonic() - began

    def seconds(self) -> dict[str, float]:
        """By part, with everything up to now as ``total``."""
        return self.spent | {"total": time.monotonic() - self.began}


def _write_cost(module: LearnedTranslator, fabric, watch: Stopwatch, folder: Path) -> None:
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
    with atomic_path(folder / COST_FILE) as temporary:
        temporary.write_text(json.dumps(cost, indent=1) + "\n")


def read_cost(folder: Path) -> dict:
    """What a finished training cost: parameters, seconds (in all, and ``seconds_of`` its parts: preparing GroupFinder,
    waiting for batches, validating), steps, batch size, device, threads, precision."""
    path = Path(folder) / COST_FILE
    if not path.is_file():
        raise InputError(f"{path}: no such file; train the run with notebook 05_train")
    return json.loads(path.read_text())


def _save_checkpoint(fabric, folder: Path, state: dict) -> None:
    if fabric.is_global_zero:
        with atomic_path(folder / CHECKPOINT_FILE) as temporary:
            torch.save(state, temporary)
    fabric.barrier()


def _load_checkpoint(folder: Path, run_hash: str) -> dict | None:
    path = folder / CHECKPOINT_FILE
    if not path.is_file():
        return None
    state = torch.load(path, map_location="cpu", weights_only=True)
    return state if state["run_hash"] == run_hash else None  # other settings: start anew


def make_fabric(devices: int = 1, nodes: int = 1, precision: str = "auto"):
    """Fabric on whatever accelerator there is; several processes average gradients.

    ``precision``: as Fabric names it; ``auto`` is ``bf16-mixed`` where the hardware multiplies bfloat16 (a GPU, a CPU
    with AVX512-BF16 or AMX), else ``32-true``: elsewhere bfloat16 is emulated, and slower.
    """
    from lightning.fabric import Fabric

    on_gpu = torch.cuda.is_available()
    if precision == "auto":
        precision = "bf16-mixed" if on_gpu or has_cpu_bf16() else "32-true"
    return Fabric(
        accelerator="cuda" if on_gpu else "cpu",
        devices=devices,
        num_nodes=nodes,
        strategy="ddp" if devices * nodes > 1 else "auto",
        precision=precision,
    )


def has_cpu_bf16() -> bool:
    """Whether this machine's CPU multiplies bfloat16 numbers itself."""
    # Private names: torch has no public ones in all versions that we support; without them, the answer is no.
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(check is not None and check() for check in checks)


class _Adversary:
    """The critic of a method that has one, with its own optimiser; does nothing for the others."""

    def __init__(self, module: LearnedTranslator, fabric, settings: TrainingConfig):
        self.module, self.fabric, self.settings = module, fabric, settings
        self.critic = module.make_critic()
        if self.critic is not None:
            self.optimizer = _make_optimizer(self.critic.parameters(), settings)
            self.critic, self.optimizer = fabric.setup(self.critic, self.optimizer)

    def step(self, batch: Batch, generator: torch.Generator, rate: float) -> None:
        """The critic's steps before that of the method."""
        if self.critic is None:
            return
        self.critic.requires_grad_(True)
        for _ in range(self.module.critic_steps):
            self.fabric.backward(self.module.critic_loss(self.critic, batch, generator))
            _update(self.fabric, self.critic, self.optimizer, self.settings, rate)
        self.critic.requires_grad_(False)  # the method's loss passes through it and must not change it

    def state(self) -> dict:
        return {} if self.critic is None else {"critic": self.critic.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load(self, state: dict) -> None:
        if self.critic is not None:
            self.critic.load_state_dict(state["critic"])
            self.optimizer.load_state_dict(state["optimizer"])


def _make_optimizer(parameters, settings: TrainingConfig) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay, betas=(0.9, 0.99))


def _update(fabric, model: nn.Module, optimizer, settings: TrainingConfig, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
    fabric.clip_gradients(model, optimizer, max_norm=settings.clip_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def train(
    config: Config,
    windows: WindowSet,
    folder: Path,
    *,
    seed: int = 0,
    run_hash: str | None = None,
    fabric=None,
    progress: bool = True,
) -> LearnedTranslator:
    """Train a method into ``folder``, continuing from the checkpoint there if it was made with the same settings.

    Parameters
    ----------
    config : Config
        All settings; ``method.name`` says which method.
    windows : WindowSet
        Training and validation windows (others are ignored).
    folder : Path
        Run folder: gets ``checkpoint.ckpt`` while training, and ``history.csv``, ``cost.json`` and ``weights.safetensors`` (the
        moving average with the lowest validation error, or the last one: :attr:`LearnedTranslator.keeps_best`) at the
        end; the checkpoint then goes.
    seed : int
        Of weights, batches and noise.
    run_hash : str, optional
        What the checkpoint must have been made with; default: hash of ``config`` and ``seed``.
    fabric : lightning.fabric.Fabric, optional
        Launched already. Default: one process, see :func:`make_fabric`. With W processes a step sees W batches.
    progress : bool
        Show a progress bar; a line per validation is printed in any case.

    Returns
    -------
    LearnedTranslator
        The model as saved.

    Raises
    ------
    InputError
        No training or validation windows.
    KeyboardInterrupt
        The next call continues from the last regular checkpoint (every ``checkpoint_every`` steps).
    """
    from tqdm.auto import tqdm

    train_windows, validation_windows = windows.split("train"), windows.split("validation")
    if not len(train_windows) or not len(validation_windows):
        raise InputError("training needs windows in the splits 'train' and 'validation'; prepare them with notebook 01_data")
    settings = config.training
    fabric = fabric or make_fabric(precision=settings.precision)
    # The number of processes decides which batches a step sees.
    run_hash = f"{run_hash or f'{config_hash(config)}-{seed}'}-{fabric.world_size}"
    if fabric.device.type == "cpu":
        torch.set_num_threads(settings.n_threads)

    torch.manual_seed(seed)
    spread = slice(None, None, max(1, len(train_windows) // 2000))  # enough windows, from all records
    module = get_method(config.method.name)(
        config,
        ecg_scale_mv(train_windows.ecg[spread], train_windows.lead_mask[spread]),
        trained_leads=(np.array(train_windows.lead_mask) > 0).any(axis=0),
    )
    adversary = _Adversary(module, fabric, settings)
    state = _load_checkpoint(folder, run_hash)
    watch = Stopwatch(None if state is None else state["seconds"])
    if state is None:
        with watch("preparing"):
            module.prepare(train_windows, seed=seed, progress=progress)
        average, history, start, best = copy.deepcopy(module), [], 0, {"validation_rmse": math.inf, "weights": None}
    else:
        module.load_state_dict(state["module"])
        module.load_extra_state(state["extra_state"])
        average = copy.deepcopy(module)
        average.load_state_dict(state["average"])
        history, start, best = state["history"], state["step"], state["best"]
        adversary.load(state["adversary"])
        if module.training_subjects() - set(train_windows.index["subject"].astype(str)):
            raise InputError(f"{folder / CHECKPOINT_FILE}: it holds subjects that are not for training; delete it")
        if fabric.is_global_zero:
            print(f"continuing at step {start} of {settings.n_steps}")
    average.to(fabric.device).requires_grad_(False)
    optimizer = _make_optimizer(module.trained_parameters(), settings)
    model, optimizer = fabric.setup(module, optimizer)
    if state is not None:
        optimizer.load_state_dict(state["optimizer"])

    def snapshot(step: int) -> dict:
        return {
            "run_hash": run_hash,
            "step": step,
            "seconds": watch.seconds(),
            "module": module.state_dict(),
            "average": average.state_dict(),
            "optimizer": optimizer.state_dict(),
            "extra_state": module.extra_state(),
            "adversary": adversary.state(),
            "history": history,
            "best": best,
        }

    batches = TrainingBatches(config, train_windows, seed)
    bar = tqdm(total=settings.n_steps, initial=start, desc=f"training {module.name}", mininterval=1.0,
               disable=not progress or not fabric.is_global_zero)  # fmt: skip
    loop_began, losses, step = time.monotonic(), [], start
    try:
        for step in range(start, settings.n_steps):
            generator = torch.Generator().manual_seed((seed * 1_000_003 + step) * 4099 + fabric.global_rank)
            with watch("loading"):
                batch = Batch(module, batches.batch(step * fabric.world_size + fabric.global_rank), generator)
            rate = learning_rate_at(step, config)
            adversary.step(batch, generator, rate)
            loss, logged = module.training_loss(model, batch, generator, adversary.critic)
            fabric.backward(loss)
            _update(fabric, model, optimizer, settings, rate)
            update_average(average, module, settings.ema_decay, step)
            losses.append(float(logged))
            bar.update()
            done = step + 1
            if done % settings.log_every == 0 or done == settings.n_steps:
                history.append({"step": done, "loss": float(np.mean(losses)), "learning_rate": rate})
                losses = []
                bar.set_postfix(loss=f"{history[-1]['loss']:.3f}")
            if done % settings.validate_every == 0 or done in EARLY_VALIDATIONS or done == settings.n_steps:
                with watch("validating"):
                    scores = validate(average, validation_windows)
                history.append({"step": done, **scores})
                if module.keeps_best and scores["validation_rmse"] < best["validation_rmse"]:
                    best = {**scores, "weights": {k: v.detach().cpu().clone() for k, v in average.state_dict().items()}}
                if fabric.is_global_zero:
                    left = (time.monotonic() - loop_began) / (done - start) * (settings.n_steps - done)
                    reached = f"step {done}/{settings.n_steps}  validation RMSE {scores['validation_rmse']:.4f} mV"
                    print(f"{reached}  about {left / 60:.1f} min left", flush=True)
            if done % settings.checkpoint_every == 0 and done < settings.n_steps:
                _save_checkpoint(fabric, folder, snapshot(done))
    except KeyboardInterrupt:
        # The step under way may be half done in the weights: the last regular checkpoint stands.
        print(f"interrupted at step {step}; the next call continues from the last checkpoint", flush=True)
        raise
    finally:
        bar.close()
        batches.close()

    if best["weights"] is not None:
        average.load_state_dict(best["weights"])
    if fabric.is_global_zero:
        _write_history(history, folder)
        _write_cost(module, fabric, watch, folder)
        average.save(folder)
        (folder / CHECKPOINT_FILE).unlink(missing_ok=True)
    fabric.barrier()
    return average.cpu().eval()
