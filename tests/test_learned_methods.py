"""What holds for every learned method, whatever its network: an interruption changes nothing, and neither does the disk."""

from __future__ import annotations

import pytest
import torch
from synthetic import synthetic_windows, tiny_config

from p2es_lib.config import METHODS
from p2es_lib.methods import get_method, load_method
from p2es_lib.training import CHECKPOINT_FILE, train


@pytest.fixture(scope="module")
def windows():
    return synthetic_windows()


@pytest.mark.parametrize("name", METHODS)
def test_interrupted_training_ends_with_the_same_weights_and_survives_the_disk(name, windows, tmp_path, monkeypatch):
    config, method = tiny_config(method__name=name), get_method(name)
    train(config, windows, tmp_path / "whole", progress=False)
    calls, original = [], method.training_loss

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) > 5:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(method, "training_loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(config, windows, tmp_path / "halved", progress=False)
    assert (tmp_path / "halved" / CHECKPOINT_FILE).exists()
    monkeypatch.setattr(method, "training_loss", original)
    model = train(config, windows, tmp_path / "halved", progress=False)
    whole, halved = (load_method(tmp_path / folder) for folder in ("whole", "halved"))
    assert type(halved) is type(model) is method and halved.config == config
    for key, value in whole.state_dict().items():
        assert torch.equal(value, halved.state_dict()[key]), key
    test = windows.split("test")
    drawn = [part.translate(test.ppg, test.demographics, n_samples=2) for part in (whole, halved, model)]
    assert torch.equal(drawn[0], drawn[1]) and torch.equal(drawn[1], drawn[2])
