"""One plain training loop on Lightning Fabric: CPU, one GPU, many GPUs and many nodes run the same code.

What makes a resumed run end with the same weights as an uninterrupted one: the batch, the diffusion times and the
noise of a step are functions of (seed, step, rank) alone, and the checkpoint holds weights, averages and optimiser.
"""

from __future__ import annotations

import copy
import math
import time
from pathlib import Path

import numpy as np
import torch

from p2es_lib.core.config import Config, config_hash
from p2es_lib.core.errors import InputError
from p2es_lib.core.learned import Batch, LearnedTranslator, ecg_scale_mv, masked_mse
from p2es_lib.core.paths import atomic_path
from p2es_lib.data.windows import TrainingBatches, WindowSet
from p2es_lib.training.optimisation import (
    Adversary,
    learning_rate_at,
    make_fabric,
    make_optimizer,
    update,
    update_average,
)
from p2es_lib.training.record import Stopwatch, write_cost, write_history
from p2es_lib.training.registry import get_method

CHECKPOINT_FILE = "checkpoint.ckpt"
#: Steps after which the error falls fastest, validated besides the regular ones.
EARLY_VALIDATIONS = (10, 25, 50, 100)


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
        raise InputError(
            "training needs windows in the splits 'train' and 'validation'; prepare them with notebook 01_data"
        )
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
    adversary = Adversary(module, fabric, settings)
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
    optimizer = make_optimizer(module.trained_parameters(), settings)
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
            update(fabric, model, optimizer, settings, rate)
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
        write_history(history, folder)
        write_cost(module, fabric, watch, folder)
        average.save(folder)
        (folder / CHECKPOINT_FILE).unlink(missing_ok=True)
    fabric.barrier()
    return average.cpu().eval()
