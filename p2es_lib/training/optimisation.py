"""Parts of the training loop: accelerator, optimiser, its schedule, average of weights, critic."""

import math

import torch
from torch import nn

from p2es_lib.core.config import Config, TrainingConfig
from p2es_lib.core.learned import Batch, LearnedTranslator


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
