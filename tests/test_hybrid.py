"""P2Es against critics: its loss taken apart, and that the rest of P2Es is what it was."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.fabric import Fabric
from synthetic import no_reference, synthetic_windows, tiny_config
from torch import nn

from p2es_lib.baselines import hybrid
from p2es_lib.baselines.cardiogan import CRITIC_MULTIPLIERS, SPECTRUM_WEIGHT, TIME_WEIGHT, DualCritic
from p2es_lib.baselines.hybrid import ADVERSARIAL_WEIGHT, PERCEPTUAL_WEIGHT, HybridP2Es
from p2es_lib.core.learned import Batch, load_method
from p2es_lib.experiments.variants import configure
from p2es_lib.method.p2es import DELAY_WEIGHT, P2Es
from p2es_lib.training import loop
from p2es_lib.training.loop import train
from p2es_lib.training.record import read_history

LIMB_MASK = np.array([1, 2, 1, 1, 2, 1] + [0] * 6, np.uint8)


@pytest.fixture(scope="module")
def windows():
    return synthetic_windows()


@pytest.fixture(autouse=True)
def small_critics(monkeypatch):
    """A quarter of the width: what is tested does not depend on it, the time does."""
    monkeypatch.setattr(hybrid, "CRITIC_WIDTH", 3)


class Bench:
    """The hybrid and its critic under the training loop's own steps, on one batch."""

    def __init__(self, windows, precision: str = "32-true", method=HybridP2Es, steps_before: int = 2):
        self.config = tiny_config(method__name=method.name)
        torch.manual_seed(0)
        self.fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
        self.module = method(self.config, 0.2)
        self.module.prepare(windows.split("train"), seed=0, progress=False)
        self.adversary = loop.Adversary(self.module, self.fabric, self.config.training)
        optimizer = loop.make_optimizer(self.module.trained_parameters(), self.config.training)
        self.model, self.optimizer = self.fabric.setup(self.module, optimizer)
        self.critic = self.adversary.critic
        rows = slice(0, 4)
        self.raw = {
            "ppg": torch.tensor(windows.ppg[rows]), "ecg": torch.tensor(windows.ecg[rows]),
            "lead_mask": torch.tensor(windows.lead_mask[rows]), "demographics": windows.demographics[rows],
            "subjects": list(windows.index["subject"][rows]), **no_reference(windows.select(np.arange(4))),
        }  # fmt: skip
        # The last layers of a fresh denoiser are zero: nothing but their own weights would have a gradient.
        for seed in range(steps_before):
            self.step(seed)

    def batch(self, seed: int = 0) -> tuple[Batch, torch.Generator]:
        generator = torch.Generator().manual_seed(seed)
        return Batch(self.module, self.raw, generator), generator

    def step(self, seed: int, rate: float = 1e-3) -> None:
        batch, generator = self.batch(seed)
        self.adversary.step(batch, generator, rate)
        loss, _ = self.module.training_loss(self.model, batch, generator, self.critic)
        self.fabric.backward(loss)
        loop.update(self.fabric, self.model, self.optimizer, self.config.training, rate)

    def loss(self, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        return self.module.training_loss(self.model, *self.batch(seed), self.critic)

    def gradients(self, loss: torch.Tensor) -> dict[str, torch.Tensor]:
        named = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
        found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
        return {
            name: torch.zeros_like(p) if g is None else g for (name, p), g in zip(named.items(), found, strict=True)
        }


def weights(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def same(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> bool:
    return before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


# ------------------------------------------------------------------------------------------------------------ features
@pytest.mark.parametrize("window_samples", [128, 256, 1024])
def test_features_of_both_critics_from_the_finest(window_samples):
    torch.manual_seed(0)
    critic, ecg = DualCritic(5, window_samples), torch.randn(3, 12, window_samples)
    found = critic.features(ecg)
    widths = [5 * multiplier for multiplier in CRITIC_MULTIPLIERS]
    assert [tuple(x.shape) for x in found[:4]] == [
        (3, width, window_samples // 2**k) for k, width in enumerate(widths, 1)
    ]
    sizes = [(64, 65), (32, 33), (16, 17), (8, 9)]  # of 128 frequencies and 129 frames, each halved and rounded up
    assert [tuple(x.shape) for x in found[4:]] == [(3, width, *size) for width, size in zip(widths, sizes, strict=True)]
    # They are what the logits are made of: the last layers take them on.
    last = critic.of_waveform[-1](found[3]), critic.of_spectrogram.layers[-1](found[7])
    for mine, theirs in zip(last, critic(ecg), strict=True):
        torch.testing.assert_close(mine, theirs)
    # After a leaky rectifier of slope 0.2.
    before = critic.of_waveform[0](ecg)
    torch.testing.assert_close(found[0], torch.where(before > 0, before, 0.2 * before))


def test_each_window_has_features_of_its_own():
    torch.manual_seed(0)
    critic, ecg = DualCritic(4, 256), torch.randn(3, 12, 256)
    alone = critic.features(ecg[1:2])
    for of_all, of_one in zip(critic.features(ecg), alone, strict=True):
        torch.testing.assert_close(of_all[1:2], of_one, atol=1e-5, rtol=1e-4)


# ---------------------------------------------------------------------------------------------------------------- loss
def terms_by_hand(bench: Bench, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Loss of P2Es, adversarial and perceptual loss, each from its definition."""
    ours, _ = P2Es.training_loss(bench.module, bench.model, *bench.batch(seed))
    batch, generator = bench.batch(seed)
    refined = bench.module.estimate(bench.model, batch, generator)[0].refined
    fake, critic = refined * (batch.mask > 0)[:, :, None], bench.critic.module
    kept: dict[str, list[torch.Tensor]] = {"real": [], "fake": []}
    logits = {}
    for kind, ecg in (("real", batch.x_0), ("fake", fake)):
        hooks = [layer.register_forward_hook(lambda layer, given, out, kind=kind: kept[kind].append(out))
                 for layer in critic.modules() if isinstance(layer, nn.LeakyReLU)]  # fmt: skip
        logits[kind] = critic(ecg)
        for hook in hooks:
            hook.remove()
    said_real = [F.binary_cross_entropy_with_logits(part, torch.ones_like(part)) for part in logits["fake"]]
    adversarial = TIME_WEIGHT * said_real[0] + SPECTRUM_WEIGHT * said_real[1]
    assert len(kept["real"]) == 8
    perceptual = torch.stack(
        [(a - b.detach()).abs().mean() for a, b in zip(kept["fake"], kept["real"], strict=True)]
    ).mean()
    return ours, adversarial, perceptual


@pytest.mark.parametrize("mask", [None, LIMB_MASK], ids=["all_leads", "limb_leads"])
def test_loss_is_that_of_p2es_and_both_terms(mask):
    bench = Bench(synthetic_windows(lead_mask=mask))
    for seed in (3, 4):
        ours, adversarial, perceptual = terms_by_hand(bench, seed)
        loss, logged = bench.loss(seed)
        expected = ours + ADVERSARIAL_WEIGHT * adversarial + PERCEPTUAL_WEIGHT * perceptual
        torch.testing.assert_close(loss, expected)
        assert min(adversarial.item(), perceptual.item()) > 0.01, "a term that is nothing would prove nothing"
        torch.testing.assert_close(logged, P2Es.training_loss(bench.module, bench.model, *bench.batch(seed))[1])
        assert not logged.requires_grad
        by_hand, found = bench.gradients(expected), bench.gradients(bench.loss(seed)[0])
        for name in found:
            torch.testing.assert_close(found[name], by_hand[name], msg=name)


def test_without_its_weights_it_is_p2es(windows, monkeypatch):
    monkeypatch.setattr(hybrid, "ADVERSARIAL_WEIGHT", 0.0)
    monkeypatch.setattr(hybrid, "PERCEPTUAL_WEIGHT", 0.0)
    bench = Bench(windows)
    loss, ours = bench.loss()[0], P2Es.training_loss(bench.module, bench.model, *bench.batch())[0]
    assert loss.item() == ours.item()
    found, expected = bench.gradients(loss), bench.gradients(ours)
    for name in found:
        torch.testing.assert_close(found[name], expected[name], msg=name)
    assert any(g.abs().max() > 0 for g in found.values())


def test_delays_count_as_in_p2es(windows, monkeypatch):
    bench, original = Bench(windows, steps_before=0), HybridP2Es.estimate
    before, of_critic = bench.loss()[0].item(), bench.module.critic_loss(bench.critic, *bench.batch()).item()

    def with_delays(*arguments):
        estimate, of_delays = original(*arguments)
        return estimate, of_delays + 3.0

    monkeypatch.setattr(HybridP2Es, "estimate", with_delays)
    assert bench.loss()[0].item() == pytest.approx(before + 3 * DELAY_WEIGHT, rel=1e-5)
    assert bench.module.critic_loss(bench.critic, *bench.batch()).item() == pytest.approx(of_critic)


def test_critics_reach_the_generator_and_stay_as_they_are(windows, monkeypatch):
    bench = Bench(windows)
    nothing = staticmethod(lambda estimate, batch: (torch.zeros(()), torch.zeros(())))
    monkeypatch.setattr(HybridP2Es, "squared_error", nothing)
    monkeypatch.setattr(hybrid, "DELAY_WEIGHT", 0.0)
    for other in ("ADVERSARIAL_WEIGHT", "PERCEPTUAL_WEIGHT"):
        with monkeypatch.context() as patch:
            patch.setattr(hybrid, other, 0.0)
            gradients = bench.gradients(bench.loss()[0])
        reached = [name for name, g in gradients.items() if g.abs().max() > 0]
        assert len(reached) > 0.5 * len(gradients)
        assert all(name.startswith(("denoiser", "lead_affinity")) for name in reached)
    before = weights(bench.critic)
    bench.fabric.backward(bench.loss()[0])
    assert all(p.grad is None for p in bench.critic.parameters()) and same(before, weights(bench.critic))


def test_a_step_of_the_critics_leaves_the_generator_alone(windows):
    bench = Bench(windows)
    method, critic = weights(bench.module), weights(bench.critic)
    bench.adversary.step(*bench.batch(), 1e-3)
    assert same(method, weights(bench.module)) and not same(critic, weights(bench.critic))
    assert all(p.grad is None for p in bench.module.trained_parameters())


def test_critics_learn_to_tell_real_from_estimated(windows):
    bench = Bench(windows, steps_before=0)
    before = bench.module.critic_loss(bench.critic, *bench.batch()).item()
    for seed in range(8):
        bench.adversary.step(*bench.batch(seed), 1e-3)
    assert bench.module.critic_loss(bench.critic, *bench.batch()).item() < 0.9 * before


def test_losses_ignore_what_is_estimated_in_absent_leads(monkeypatch):
    bench, original = Bench(synthetic_windows(lead_mask=LIMB_MASK)), HybridP2Es.estimate

    def losses(shift: float, leads: slice) -> tuple[float, float]:
        def shifted(*arguments):
            estimate, of_delays = original(*arguments)
            moved = estimate.refined.clone()
            moved[:, leads] = moved[:, leads] + shift
            return estimate._replace(refined=moved), of_delays

        with monkeypatch.context() as patch:
            patch.setattr(HybridP2Es, "estimate", shifted)
            of_critic = bench.module.critic_loss(bench.critic, *bench.batch())
            return of_critic.item(), bench.loss()[0].item()

    absent, present = slice(6, 12), slice(0, 6)
    assert losses(9.0, absent) == pytest.approx(losses(0.0, absent))
    assert losses(9.0, present)[0] != pytest.approx(losses(0.0, present)[0])


# ------------------------------------------------------------------------------------------------------------ training
def test_it_learns_without_numerical_trouble(windows, tmp_path):
    config = tiny_config(method__name="p2es_hybrid", training__n_steps=40, denoiser__lead_features=2)
    config = config.replace("training.learning_rate", 5e-3).replace("training.validate_every", 40)
    model = train(config, windows, tmp_path, progress=False)
    losses = read_history(tmp_path)["loss"].dropna().to_numpy()
    assert np.isfinite(losses).all() and all(p.isfinite().all() for p in model.parameters())
    assert losses[-5:].mean() < 0.85 * losses[:3].mean()


def test_last_average_is_kept(windows, tmp_path, monkeypatch):
    averages, scores = [], iter([0.1, 0.9])

    def validate(model, validation):
        averages.append(weights(model))
        return {"validation_rmse": next(scores)}

    monkeypatch.setattr(loop, "validate", validate)
    config = tiny_config(method__name="p2es_hybrid", training__n_steps=2, training__validate_every=1)
    saved = weights(train(config, windows, tmp_path, progress=False))
    for state in (*averages, saved):  # fitted after the last one
        state.pop("spread.factors")
    assert same(averages[1], saved) and not same(averages[0], saved)


def test_half_precision_trains_too(windows):
    bench = Bench(windows, precision="bf16-mixed")
    loss, logged = bench.loss(5)
    assert loss.isfinite() and logged.isfinite() and all(p.isfinite().all() for p in bench.module.parameters())


_TWO_PROCESSES = """
import sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from synthetic import synthetic_windows, tiny_config
from p2es_lib.training.loop import make_fabric, train
fabric = make_fabric(devices=2)
fabric.launch()
config = tiny_config(method__name="p2es_hybrid", training__n_steps=3)
model = train(config, synthetic_windows(), Path(sys.argv[1]), fabric=fabric, progress=False)
total = float(sum(p.double().sum() for p in model.parameters()))
Path(sys.argv[1] + f"-{fabric.global_rank}.txt").write_text(repr(total))
"""


@pytest.mark.slow
def test_two_processes_train_one_model(tmp_path):
    script, tests = tmp_path / "two.py", Path(__file__).parent
    script.write_text(_TWO_PROCESSES)
    command = [sys.executable, str(script), str(tmp_path / "run"), str(tests)]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(tests.parent)}
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert result.returncode == 0, result.stderr[-2000:]
    sums = [(tmp_path / f"run-{rank}.txt").read_text() for rank in (0, 1)]
    assert sums[0] == sums[1], "the processes must agree on the weights"


# ----------------------------------------------------------------------------------------------------------------- use
def test_it_is_saved_and_loaded_as_what_it_is(windows, tmp_path):
    model = train(tiny_config(method__name="p2es_hybrid", training__n_steps=2), windows, tmp_path, progress=False)
    again, test = load_method(tmp_path), windows.split("test")
    assert type(again) is HybridP2Es and same(weights(model), weights(again))
    assert not any("critic" in name for name in weights(again)), "the critics are not part of the model"
    ecg = [m.translate(test.ppg, test.demographics, n_samples=2, generator=3) for m in (model, again)]
    assert torch.equal(*ecg) and ecg[0].shape == (6, 2, 12, 256) and not torch.equal(ecg[0][:, 0], ecg[0][:, 1])


def test_the_variant_changes_the_losses_alone():
    config = configure("full", variant="adversarial")
    assert config.method.name == "p2es_hybrid" and config.replace("method.name", "p2es") == configure("full")
    torch.manual_seed(0)
    small = tiny_config()
    names = [list(weights(method(small))) for method in (P2Es, HybridP2Es)]
    assert names[0] == names[1]
