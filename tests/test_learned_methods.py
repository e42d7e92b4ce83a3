"""What holds for every learned method, whatever its network: neither an interruption nor the disk changes anything."""

from __future__ import annotations

import pytest
import torch
from synthetic import synthetic_windows, tiny_config

from p2es_lib.core.config import METHODS
from p2es_lib.core.learned import get_method, load_method
from p2es_lib.training import loop
from p2es_lib.training.loop import CHECKPOINT_FILE, train


@pytest.fixture(scope="module")
def windows():
    return synthetic_windows()


def train_until(step: int, method, config, windows, folder) -> None:
    """Train, and be interrupted in the step after this one."""
    calls, original = [], method.training_loss

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) > step:
            raise KeyboardInterrupt
        return original(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(method, "training_loss", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(config, windows, folder, progress=False)
    assert (folder / CHECKPOINT_FILE).exists()


@pytest.mark.parametrize("name", METHODS)
def test_interrupted_training_ends_with_the_same_weights_and_survives_the_disk(name, windows, tmp_path):
    config, method = tiny_config(method__name=name), get_method(name)
    train(config, windows, tmp_path / "whole", progress=False)
    train_until(5, method, config, windows, tmp_path / "halved")
    model = train(config, windows, tmp_path / "halved", progress=False)
    assert model.parameter_count() == method(config).parameter_count() > 1000
    whole, halved = (load_method(tmp_path / folder) for folder in ("whole", "halved"))
    assert whole.sha256 == halved.sha256 == model.sha256, "equal trainings, files of equal bytes"
    assert type(halved) is type(model) is method and halved.config == config
    for key, value in whole.state_dict().items():
        assert torch.equal(value, halved.state_dict()[key]), key
    test = windows.split("test")
    drawn = [part.translate(test.ppg, test.demographics, n_samples=2) for part in (whole, halved, model)]
    assert torch.equal(drawn[0], drawn[1]) and torch.equal(drawn[1], drawn[2])


@pytest.mark.parametrize("name", ["p2e_wgan", "cardiogan", "p2es_hybrid"])
@pytest.mark.parametrize("forgotten", ["critic", "optimizer"])
def test_a_continued_training_needs_the_critic_and_its_optimiser(name, forgotten, windows, tmp_path, monkeypatch):
    """Were either of them forgotten in the checkpoint, the weights would tell: so the test above does see them."""
    config, method = tiny_config(method__name=name, training__n_steps=4, training__checkpoint_every=2), get_method(name)
    whole = train(config, windows, tmp_path / "whole", progress=False)
    train_until(3, method, config, windows, tmp_path / "halved")

    def load(self, state):
        if forgotten == "optimizer":
            self.critic.load_state_dict(state["critic"])

    monkeypatch.setattr(loop.Adversary, "load", load)
    halved = train(config, windows, tmp_path / "halved", progress=False)
    assert not all(
        torch.equal(a, b) for a, b in zip(whole.state_dict().values(), halved.state_dict().values(), strict=True)
    )
