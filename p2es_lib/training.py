"""One plain training loop on Lightning Fabric: CPU, one GPU, many GPUs and many nodes run the same code.

What makes a resumed run end with the same weights as an uninterrupted one: the batch, the diffusion times and the
noise of a step are functions of (seed, step, rank) alone, and the checkpoint holds weights, averages and optimiser.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from p2es_lib.config import Config, config_hash
from p2es_lib.errors import InputError
from p2es_lib.p2es import P2Es, ecg_scale_mv
from p2es_lib.paths import atomic_path
from p2es_lib.windows import TrainingBatches, WindowSet

CHECKPOINT_FILE = "checkpoint.ckpt"
HISTORY_FILE = "history.csv"
#: Weight of stage 1's own loss: it keeps the coarse estimate meaningful by itself (it is the prior mean of stage 2).
COARSE_WEIGHT = 0.25
#: Share of a batch trained at t = 1 exactly, where sampling starts and the posterior mean is decided.
START_SHARE = 1 / 8
#: Probability with which age or sex is hidden in training, so that missing entries are known ground.
HIDE_PROBABILITY = 0.1


def masked_mse(estimate: Tensor, target: Tensor, lead_mask: Tensor) -> Tensor:
    """Mean squared error over the leads that exist; (B, 12, T), (B, 12, T), (B, 12) to a scalar."""
    present = (lead_mask > 0).to(estimate.dtype)[:, :, None]  # (B, 12, 1)
    return ((estimate - target) ** 2 * present).sum() / (present.sum() * target.shape[-1]).clamp_min(1)


def draw_times(count: int, generator: torch.Generator) -> Tensor:
    """Diffusion times (count,): one per stratum of [0, 1] for a low-variance loss, and some at exactly 1."""
    n_start = max(1, round(START_SHARE * count)) if count > 1 else 0
    strata = torch.arange(count - n_start)
    uniform = (strata + torch.rand(count - n_start, generator=generator)) / max(1, count - n_start)
    return torch.cat([uniform, torch.ones(n_start)])


def hide_demographics(features: Tensor, generator: torch.Generator) -> Tensor:
    """Set age or sex of random rows to missing; features (B, 4) as from :meth:`Demographics.features`."""
    hidden = torch.rand(len(features), 2, generator=generator) < HIDE_PROBABILITY  # age, sex
    return features.masked_fill(hidden[:, [0, 0, 1, 1]], 0.0)


def diffusion_loss(model, module: P2Es, batch: dict, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Loss of one batch in units of the data set's variance, and the error of the refined estimate alone.

    ``model`` is what Fabric made of ``module`` (its forward pass synchronises gradients); noise and times come from
    ``generator`` on the CPU, so that they do not depend on the device.
    """
    device = module.device
    x_0 = batch["ecg"].to(device) / module.ecg_scale_mv
    mask = batch["lead_mask"].to(device)
    x_0 = x_0 * (mask > 0)[:, :, None]
    features = hide_demographics(torch.as_tensor(batch["demographics"].features()), generator).to(device)
    fixed = module.condition(batch["ppg"].to(device), features, batch["subjects"])
    t = draw_times(len(x_0), generator).to(device)
    noise = torch.randn(x_0.shape, generator=generator).to(device)
    estimate = model(module.process.marginal(x_0, t, noise), t, *fixed)
    refined = masked_mse(estimate.refined, x_0, mask)
    return refined + COARSE_WEIGHT * masked_mse(estimate.coarse, x_0, mask), refined.detach()


def learning_rate_at(step: int, config: Config) -> float:
    """Linear warm-up, then half a cosine down to 2 % of the peak."""
    settings = config.training
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    progress = (step - settings.warmup_steps) / max(1, settings.n_steps - settings.warmup_steps)
    return settings.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


@torch.no_grad()
def update_average(average: P2Es, module: P2Es, decay: float, step: int) -> None:
    """Exponential moving average of the weights; the decay warms up so that early averages forget the start."""
    decay = min(decay, (1 + step) / (10 + step))
    for target, source in zip(average.parameters(), module.parameters(), strict=True):
        target.lerp_(source, 1 - decay)


@torch.inference_mode()
def validate(model: P2Es, windows: WindowSet, max_windows: int = 256) -> dict[str, float]:
    """RMSE (mV) of the one-step posterior mean on validation subjects, and the loss at mid noise; same noise each time."""
    rows = np.unique(np.linspace(0, len(windows) - 1, min(max_windows, len(windows))).astype(int))
    subset = windows.select(rows)
    mask = torch.as_tensor(np.array(subset.lead_mask))
    truth = torch.as_tensor(np.array(subset.ecg))
    estimate = model.translate(np.array(subset.ppg), subset.demographics, n_samples=1, n_steps=1)[:, 0]
    rmse = masked_mse(torch.nan_to_num(estimate), truth, mask).sqrt()
    scaled = (truth * (mask > 0)[:, :, None]).to(model.device) / model.ecg_scale_mv
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(scaled.shape, generator=generator).to(model.device)
    features = torch.as_tensor(subset.demographics.features(), device=model.device)
    errors = []
    for start in range(0, len(scaled), 64):
        part = slice(start, start + 64)
        t = torch.full((len(scaled[part]),), 0.5, device=model.device)
        fixed = model.condition(torch.as_tensor(np.array(subset.ppg[part])).to(model.device), features[part])
        x_t = model.process.marginal(scaled[part], t, noise[part])
        errors.append(masked_mse(model(x_t, t, *fixed).refined, scaled[part], mask[part].to(model.device)) * len(t))
    return {"validation_rmse": float(rmse), "validation_loss_mid": float(sum(errors) / len(scaled))}


def _write_history(rows: Iterable[dict], folder: Path) -> None:
    with atomic_path(folder / HISTORY_FILE) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False, float_format="%.6g")


def read_history(folder: Path) -> pd.DataFrame:
    """History of a finished training: rows per logged step (loss) and per validation; the rest of a row is NaN."""
    path = Path(folder) / HISTORY_FILE
    if not path.is_file():
        raise InputError(f"{path}: no such history; train the run with notebook 05_train")
    return pd.read_csv(path)


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


def make_fabric(devices: int = 1, nodes: int = 1):
    """Fabric on whatever accelerator there is: bf16 on a GPU, float32 on a CPU; several processes average gradients."""
    from lightning.fabric import Fabric

    on_gpu = torch.cuda.is_available()
    return Fabric(
        accelerator="cuda" if on_gpu else "cpu",
        devices=devices,
        num_nodes=nodes,
        strategy="ddp" if devices * nodes > 1 else "auto",
        precision="bf16-mixed" if on_gpu else "32-true",
    )


def train(config: Config, windows: WindowSet, folder: Path, *, seed: int = 0, run_hash: str | None = None, fabric=None, progress: bool = True) -> P2Es:
    """Train P2Es into ``folder``, continuing from the checkpoint there if it was made with the same settings.

    Parameters
    ----------
    config : Config
        All settings.
    windows : WindowSet
        Training and validation windows (others are ignored).
    folder : Path
        Run folder: gets ``checkpoint.ckpt`` while training, and ``history.csv`` and ``weights.safetensors`` (the
        moving average with the lowest validation error) at the end; the checkpoint then goes.
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
    P2Es
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
    fabric = fabric or make_fabric()
    # The number of processes decides which batches a step sees.
    run_hash = f"{run_hash or f'{config_hash(config)}-{seed}'}-{fabric.world_size}"
    if fabric.device.type == "cpu":
        torch.set_num_threads(settings.n_threads)

    torch.manual_seed(seed)
    spread = slice(None, None, max(1, len(train_windows) // 2000))  # enough windows, from all records
    module = P2Es(
        config,
        ecg_scale_mv(train_windows.ecg[spread], train_windows.lead_mask[spread]),
        trained_leads=(np.array(train_windows.lead_mask) > 0).any(axis=0),
    )
    state = _load_checkpoint(folder, run_hash)
    if state is None:
        module.group_finder.fit(train_windows, seed=seed, progress=progress)
        average, history, start, best = copy.deepcopy(module), [], 0, {"validation_rmse": math.inf, "weights": None}
    else:
        module.load_state_dict(state["module"])
        module.group_finder.load_extra_state(state["group_finder"])
        average = copy.deepcopy(module)
        average.load_state_dict(state["average"])
        history, start, best = state["history"], state["step"], state["best"]
        strangers = set(module.group_finder.bank_subjects) - set(train_windows.index["subject"].astype(str))
        if strangers:
            raise InputError(f"{folder / CHECKPOINT_FILE}: its bank holds subjects that are not for training; delete it")
        if fabric.is_global_zero:
            print(f"continuing at step {start} of {settings.n_steps}")
    average.to(fabric.device).requires_grad_(False)
    trainable = [p for name, p in module.named_parameters() if not name.startswith("group_finder.")]
    module.group_finder.requires_grad_(False)
    optimizer = torch.optim.AdamW(trainable, lr=settings.learning_rate, weight_decay=settings.weight_decay, betas=(0.9, 0.99))
    model, optimizer = fabric.setup(module, optimizer)
    if state is not None:
        optimizer.load_state_dict(state["optimizer"])

    def snapshot(step: int) -> dict:
        return {
            "run_hash": run_hash,
            "step": step,
            "module": module.state_dict(),
            "average": average.state_dict(),
            "optimizer": optimizer.state_dict(),
            "group_finder": module.group_finder.extra_state(),
            "history": history,
            "best": best,
        }

    batches = TrainingBatches(config, train_windows, seed)
    bar = tqdm(total=settings.n_steps, initial=start, desc="training", disable=not progress or not fabric.is_global_zero, mininterval=1.0)
    began, losses, step = time.monotonic(), [], start
    try:
        for step in range(start, settings.n_steps):
            generator = torch.Generator().manual_seed((seed * 1_000_003 + step) * 4099 + fabric.global_rank)
            batch = batches.batch(step * fabric.world_size + fabric.global_rank)
            rate = learning_rate_at(step, config)
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss, refined = diffusion_loss(model, module, batch, generator)
            fabric.backward(loss)
            fabric.clip_gradients(model, optimizer, max_norm=settings.clip_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            update_average(average, module, settings.ema_decay, step)
            losses.append(float(refined))
            bar.update()
            done = step + 1
            if done % settings.log_every == 0 or done == settings.n_steps:
                history.append({"step": done, "loss": float(np.mean(losses)), "learning_rate": rate})
                losses = []
                bar.set_postfix(loss=f"{history[-1]['loss']:.3f}")
            if done % settings.validate_every == 0 or done == settings.n_steps:
                scores = validate(average, validation_windows)
                history.append({"step": done, **scores})
                if scores["validation_rmse"] < best["validation_rmse"]:
                    best = {**scores, "weights": {k: v.detach().cpu().clone() for k, v in average.state_dict().items()}}
                if fabric.is_global_zero:
                    left = (time.monotonic() - began) / (done - start) * (settings.n_steps - done)
                    print(f"step {done}/{settings.n_steps}  validation RMSE {scores['validation_rmse']:.4f} mV  about {left / 60:.1f} min left", flush=True)
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
        average.save(folder)
        (folder / CHECKPOINT_FILE).unlink(missing_ok=True)
    fabric.barrier()
    return average.cpu().eval()
