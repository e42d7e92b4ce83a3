"""The adversarial baselines: both sides learn, neither changes the other, and absent leads stay out of it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from lightning.fabric import Fabric
from synthetic import no_reference, synthetic_windows, tiny_config
from torch import nn

from p2es_lib.baselines.blocks import denoiser_parameters
from p2es_lib.baselines.cardiogan import FRAME_SAMPLES, AttentionGate, SpectrogramCritic
from p2es_lib.baselines.p2e_wgan import PatchCritic, dropout, gradient_penalty
from p2es_lib.baselines.regression import condition_channels, present_leads
from p2es_lib.core.config import get_config
from p2es_lib.core.demographics import Demographics
from p2es_lib.core.learned import Batch, get_method, load_method
from p2es_lib.training import loop
from p2es_lib.training.loop import train
from p2es_lib.training.record import read_history

METHODS = ("p2e_wgan", "cardiogan")
LIMB_MASK = np.array([1, 2, 1, 1, 2, 1] + [0] * 6, np.uint8)
both = pytest.mark.parametrize("name", METHODS)


@pytest.fixture(scope="module")
def windows():
    return synthetic_windows()


class Bench:
    """A method and its critic under the training loop's own steps, on one batch."""

    def __init__(self, name: str, windows, precision: str = "32-true", **changes):
        config = tiny_config(method__name=name, **changes)
        torch.manual_seed(0)
        self.fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
        self.module = get_method(name)(config, 0.2)
        self.adversary = loop.Adversary(self.module, self.fabric, config.training)
        optimizer = loop.make_optimizer(self.module.trained_parameters(), config.training)
        self.model, self.optimizer = self.fabric.setup(self.module, optimizer)
        self.critic, self.settings = self.adversary.critic, config.training
        self.raw = {
            "ppg": torch.tensor(windows.ppg[:4]),
            "ecg": torch.tensor(windows.ecg[:4]),
            "lead_mask": torch.tensor(windows.lead_mask[:4]),
            "demographics": windows.demographics[:4],
            "subjects": list(windows.index["subject"][:4]),
            **no_reference(windows.select(np.arange(4))),
        }

    def batch(self, seed: int = 0) -> tuple[Batch, torch.Generator]:
        generator = torch.Generator().manual_seed(seed)
        return Batch(self.module, self.raw, generator), generator

    def critic_step(self, seed: int = 0, rate: float = 1e-3) -> None:
        self.adversary.step(*self.batch(seed), rate)

    def method_step(self, seed: int = 0, rate: float = 1e-3) -> float:
        loss, logged = self.module.training_loss(self.model, *self.batch(seed), self.critic)
        self.fabric.backward(loss)
        loop.update(self.fabric, self.model, self.optimizer, self.settings, rate)
        return float(logged)

    def losses(self, seed: int = 0) -> tuple[float, float]:
        of_critic = self.module.critic_loss(self.critic, *self.batch(seed))
        of_method, _ = self.module.training_loss(self.model, *self.batch(seed), self.critic)
        return of_critic.item(), of_method.item()

    @torch.no_grad()
    def scores(self) -> tuple[float, float]:
        """What the critic makes of the real and of the generated ECG, on average."""
        batch, _ = self.batch()
        fake = self.module(batch.ppg, batch.demographics)
        condition = condition_channels(batch.ppg, batch.demographics)
        told = (condition,) if self.module.name == "p2e_wgan" else ()
        outputs = [self.critic(ecg, *told) for ecg in (batch.x_0, fake)]
        return tuple(sum(p.mean().item() for p in (o if isinstance(o, tuple) else (o,))) for o in outputs)


def weights(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def same(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(before[name], after[name]) for name in before)


# -------------------------------------------------------------------------------------------------------------- sizes
@both
@pytest.mark.parametrize("profile", ["quick", "full"])
def test_matched_size_is_near_that_of_the_denoiser(name, profile):
    config = get_config(profile).replace("method.name", name)
    assert get_method(name)(config).parameter_count() == pytest.approx(denoiser_parameters(config), rel=0.25)


@pytest.mark.parametrize(("name", "millions"), [("p2e_wgan", 4.1), ("cardiogan", 28.2)])
def test_published_size_is_that_of_the_paper(name, millions):
    config = get_config("quick").replace("method.name", name).replace("method.size", "published")
    assert get_method(name)(config).parameter_count() == pytest.approx(millions * 1e6, rel=0.01)


@both
def test_shortest_window_is_enough(name):
    bench = Bench(name, synthetic_windows(window_samples=128), signal__window_samples=128)
    assert np.isfinite(bench.losses()).all()


# ----------------------------------------------------------------------------------------------------------- training
@both
def test_it_learns_without_numerical_trouble(name, windows, tmp_path):
    model = train(tiny_config(method__name=name, training__n_steps=40), windows, tmp_path, progress=False)
    losses = read_history(tmp_path)["loss"].dropna().to_numpy()
    assert np.isfinite(losses).all() and all(p.isfinite().all() for p in model.parameters())
    assert losses[-5:].mean() < 0.75 * losses[0]


@both
def test_critic_learns_to_tell_real_from_generated(name, windows):
    bench = Bench(name, windows)
    (real, fake), loss = bench.scores(), bench.losses()[0]
    for seed in range(12):
        bench.critic_step(seed)
    real_after, fake_after = bench.scores()
    assert real_after - fake_after > max(real - fake, 0) + 0.05
    assert bench.losses()[0] < loss


@both
def test_neither_side_changes_the_other(name, windows):
    bench = Bench(name, windows)
    method, critic = weights(bench.module), weights(bench.critic)
    bench.critic_step()
    assert same(method, weights(bench.module)) and not same(critic, weights(bench.critic))
    assert all(p.grad is None for p in bench.module.parameters())
    critic = weights(bench.critic)
    bench.method_step()
    assert same(critic, weights(bench.critic)) and not same(method, weights(bench.module))
    assert all(p.grad is None for p in bench.critic.parameters())


@both
def test_method_learns_to_please_the_critic(name, windows, monkeypatch):
    monkeypatch.setattr(f"p2es_lib.baselines.{name}.ERROR_WEIGHT", 0.0)
    bench = Bench(name, windows)
    for seed in range(4):
        bench.critic_step(seed)
    before = bench.scores()[1]
    for seed in range(4):
        bench.method_step(seed)
    assert bench.scores()[1] > before


def test_critic_takes_as_many_steps_as_the_method_asks_for(windows, monkeypatch):
    bench, calls = Bench("p2e_wgan", windows), []
    monkeypatch.setattr(loop, "update", lambda *arguments: calls.append(arguments))
    bench.critic_step()
    assert len(calls) == bench.module.critic_steps == 3


@both
def test_half_precision_of_a_gpu_trains_too(name, windows):
    bench = Bench(name, windows, precision="bf16-mixed")
    bench.critic_step()
    assert np.isfinite(bench.method_step())


@both
def test_losses_ignore_what_is_generated_in_absent_leads(name):
    bench = Bench(name, synthetic_windows(lead_mask=LIMB_MASK))
    before = bench.losses()
    output = bench.module.network.output
    bias = (output[1] if name == "p2e_wgan" else output).bias
    with torch.no_grad():
        bias[6:] += 9.0
    assert bench.losses() == pytest.approx(before)
    with torch.no_grad():
        bias[:6] += 9.0
    assert bench.losses()[1] != pytest.approx(before[1])


# --------------------------------------------------------------------------------------------------- gradient penalty
class LinearCritic(nn.Module):
    """Three scores per window, each linear in the ECG: the slope of their sum is known and the same everywhere."""

    def __init__(self, window_samples: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 12, window_samples, generator=torch.Generator().manual_seed(1)) / 40)

    def forward(self, ecg, condition):
        return torch.einsum("bct,pct->bp", ecg, self.weight)[:, None] + condition.mean()


def test_gradient_penalty_of_a_linear_critic():
    critic, generator = LinearCritic(64), torch.Generator().manual_seed(2)
    real, fake = (torch.randn(5, 12, 64, generator=generator) for _ in range(2))
    mask = torch.ones(5, 12)
    mask[2, 6:] = 0
    present = present_leads(mask)
    penalty = gradient_penalty(critic, real, fake, torch.zeros(5, 5, 64), present, generator)
    slope = critic.weight.sum(0) * present
    torch.testing.assert_close(penalty, ((slope.flatten(1).norm(dim=1) - 1) ** 2).mean())
    (by_autograd,) = torch.autograd.grad(penalty, critic.weight)
    (by_hand,) = torch.autograd.grad(((slope.flatten(1).norm(dim=1) - 1) ** 2).mean(), critic.weight)
    torch.testing.assert_close(by_autograd, by_hand)


def test_gradient_penalty_is_taken_between_real_and_generated():
    real, fake = torch.randn(2, 6, 12, 32, generator=torch.Generator().manual_seed(0)).unbind()
    share = torch.rand(6, 1, 1, generator=torch.Generator().manual_seed(4))
    expected = (((share * real + (1 - share) * fake).flatten(1).norm(dim=1) - 1) ** 2).mean()
    arguments = (real, fake, torch.zeros(6, 5, 32), torch.ones(6, 12, 1))
    quadratic = nn.Module()
    quadratic.forward = lambda ecg, condition: 0.5 * (ecg**2).sum(dim=(1, 2))  # its slope is the ECG itself
    torch.testing.assert_close(gradient_penalty(quadratic, *arguments, torch.Generator().manual_seed(4)), expected)


def test_gradient_penalty_of_a_flat_critic_is_one():
    critic = PatchCritic(4)
    with torch.no_grad():
        critic.output.weight.zero_()
    real, fake, condition = torch.randn(2, 12, 128), torch.randn(2, 12, 128), torch.zeros(2, 5, 128)
    penalty = gradient_penalty(critic, real, fake, condition, torch.ones(2, 12, 1), torch.Generator())
    penalty.backward()
    assert penalty.item() == pytest.approx(1, abs=1e-5)
    assert all(p.grad is None or p.grad.isfinite().all() for p in critic.parameters())


# -------------------------------------------------------------------------------------------------------------- layers
def test_dropout_keeps_the_mean_and_repeats():
    x = torch.full((4, 100, 100), 3.0)
    dropped = dropout(x, torch.Generator().manual_seed(0))
    assert set(dropped.unique().tolist()) == {0.0, 6.0} and dropped.mean().item() == pytest.approx(3.0, rel=0.02)
    assert torch.equal(dropped, dropout(x, torch.Generator().manual_seed(0))) and dropout(x, None) is x


def test_attention_gate_weighs_the_skip_connection_in_time():
    gate = AttentionGate(3)
    skip = torch.randn(2, 3, 50)
    weight = gate(skip, torch.randn(2, 3, 50)) / skip
    torch.testing.assert_close(weight, weight[:, :1].expand_as(weight))
    assert (weight > 0).all() and (weight < 1).all() and weight.std() > 0


def test_spectrogram_shows_the_frequency():
    critic, cycles = SpectrogramCritic(4, hop=8), 20  # cycles per frame
    tone = torch.sin(2 * torch.pi * cycles * torch.arange(1024) / FRAME_SAMPLES)
    ecg = torch.zeros(2, 12, 1024)
    ecg[:, 3] = tone
    ecg.requires_grad_()
    spectrogram = critic.spectrogram(ecg)
    assert spectrogram.shape == (2, 12, 128, 129)
    assert (spectrogram[:, 3, :, 20:-20].argmax(dim=1) == cycles).all()
    critic(ecg).sum().backward()
    assert ecg.grad.isfinite().all(), "also where there is no signal"


# ---------------------------------------------------------------------------------------------------------------- use
@both
def test_save_and_load_round_trip(name, windows, tmp_path):
    model = train(tiny_config(method__name=name, training__n_steps=2), windows, tmp_path, progress=False)
    again, test = load_method(tmp_path), windows.split("test")
    assert type(again) is get_method(name) and same(weights(model), weights(again))
    ecg = again.translate(test.ppg, test.demographics, n_samples=2)
    assert torch.equal(ecg, model.translate(test.ppg, test.demographics, n_samples=2, generator=7))
    assert ecg.shape == (6, 2, 12, 256) and torch.equal(ecg[:, 0], ecg[:, 1])


@both
def test_last_average_is_kept(name, windows, tmp_path, monkeypatch):
    averages, scores = [], iter([0.1, 0.9])

    def fake(model, validation):
        averages.append(weights(model))
        return {"validation_rmse": next(scores)}

    monkeypatch.setattr(loop, "validate", fake)
    config = tiny_config(method__name=name, training__n_steps=2, training__validate_every=1)
    saved = weights(train(config, windows, tmp_path, progress=False))
    assert same(averages[1], saved) and not same(averages[0], saved)


@both
def test_absent_leads_come_out_as_nan(name, tmp_path):
    limb = synthetic_windows(lead_mask=LIMB_MASK)
    model = train(tiny_config(method__name=name, training__n_steps=2), limb, tmp_path, progress=False)
    test = limb.split("test")
    ecg = model.translate(test.ppg, test.demographics)
    assert ecg[:, :, :6].isfinite().all() and ecg[:, :, 6:].isnan().all()


@both
def test_demographics_matter_and_may_be_missing(name, windows):
    torch.manual_seed(0)
    model, ppg = get_method(name)(tiny_config(method__name=name)), windows.ppg[:3]
    ecg = [model.translate(ppg, demographics) for demographics in (Demographics.missing(3), windows.demographics[:3])]
    assert all(part.isfinite().all() for part in ecg) and not torch.allclose(*ecg, atol=1e-6)


@both
def test_missing_demographics_train(name, windows, tmp_path):
    unknown = dataclasses.replace(windows, index=windows.index.assign(age=np.nan, sex=""))
    model = train(tiny_config(method__name=name, training__n_steps=2), unknown, tmp_path, progress=False)
    assert all(p.isfinite().all() for p in model.parameters())
