"""The model put together: translate, save, load."""

from __future__ import annotations

import copy
import hashlib
import json
from datetime import date, timedelta

import numpy as np
import pytest
import torch
from synthetic import synthetic_windows, tiny_config, tiny_p2es

from p2es_lib.core.demographics import Demographics
from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import lead_residual
from p2es_lib.core.learned import ecg_scale_mv, load_method
from p2es_lib.core.noise import WindowNoise
from p2es_lib.core.paths import PRETRAINED
from p2es_lib.core.weights import CARD_FILE, RENAMED_TENSORS, WEIGHTS_FILE, read_weights, write_weights
from p2es_lib.experiments.variants import VARIANTS
from p2es_lib.method.p2es import P2Es


@pytest.fixture(scope="module")
def windows():
    return synthetic_windows()


def fitted(windows, config=None, **options) -> P2Es:
    torch.manual_seed(0)
    model = P2Es(config or tiny_config(), 0.25, **options)
    model.group_finder.fit(windows.split("train"), seed=0)
    with torch.no_grad():  # off the zero start of the residual layers
        for parameter in model.denoiser.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture(scope="module")
def model(windows):
    return fitted(windows)


def test_translate_gives_consistent_leads_in_millivolts(model, windows):
    test = windows.split("test")
    ecg = model.translate(test.ppg, test.demographics, n_samples=3)
    assert ecg.shape == (6, 3, 12, 256) and ecg.dtype == torch.float32
    assert lead_residual(ecg.numpy()).max() < 1e-5
    assert not torch.equal(ecg[:, 0], ecg[:, 1]), "samples of one window must differ"
    doubled = fitted(windows)
    doubled.ecg_scale_mv *= 2
    torch.testing.assert_close(doubled.translate(test.ppg, test.demographics, n_samples=3), 2 * ecg)


def test_sample_of_a_window_does_not_depend_on_the_batch(model, windows):
    test = windows.split("test")
    together = model.translate(test.ppg, test.demographics, n_samples=3, generator=5)
    alone = model.translate(test.ppg[4:5], test.demographics[4:5], n_samples=3, generator=5)
    torch.testing.assert_close(alone[0], together[4], atol=1e-5, rtol=1e-4)
    named = [
        model.translate(
            test.ppg[i : i + 1], test.demographics[i : i + 1], generator=WindowNoise(5, ["a"], 1, (12, 256))
        )
        for i in (0, 0)
    ]
    assert torch.equal(*named)
    fewer = model.translate(test.ppg, test.demographics, n_samples=1, generator=5)
    torch.testing.assert_close(fewer[:, 0], together[:, 0], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(model.translate(test.ppg, test.demographics, n_samples=3, generator=6), together)


def test_gain_and_offset_of_the_ppg_do_not_matter(model, windows):
    test = windows.split("test")
    noise = WindowNoise(0, range(6), 1, (12, 256))
    plain = model.translate(test.ppg, test.demographics, generator=noise)
    scaled = model.translate(test.ppg * 7 + 3, test.demographics, generator=noise)
    torch.testing.assert_close(scaled, plain, atol=2e-3, rtol=1e-2)


def test_demographics_matter_and_may_be_missing(model, windows):
    test = windows.split("test")
    known = model.translate(test.ppg, Demographics.of(30, "F", 6))
    assert not torch.allclose(known, model.translate(test.ppg, Demographics.of(80, "M", 6)))
    assert torch.isfinite(model.translate(test.ppg, Demographics.missing(6))).all()


@pytest.mark.parametrize("sampler", ["ancestral", "deterministic", "multistep"])
def test_samplers_and_one_step(model, windows, sampler):
    test = windows.split("test")
    one = model.translate(test.ppg, test.demographics, n_steps=1, sampler=sampler)
    reference = model.translate(test.ppg, test.demographics, n_steps=1, sampler="ancestral")
    torch.testing.assert_close(one, reference)
    more = model.translate(test.ppg, test.demographics, n_steps=4, sampler=sampler)
    assert torch.isfinite(more).all() and not torch.allclose(more, one)


def test_untrained_leads_are_nan(windows):
    mask = np.array([1, 2, 1, 2, 1, 1, 0, 0, 0, 0, 0, 0])
    limb = synthetic_windows(lead_mask=mask)
    model = fitted(limb, trained_leads=mask > 0)
    ecg = model.translate(limb.ppg[:2], limb.demographics[:2])
    assert torch.isfinite(ecg[:, :, :6]).all() and torch.isnan(ecg[:, :, 6:]).all()


def test_absent_leads_stay_empty_while_sampling(monkeypatch):
    """In training they are zero in x_0; the sampler must show the network the same."""
    mask = np.array([1, 2, 1, 2, 1, 1, 0, 0, 0, 0, 0, 0])
    limb = synthetic_windows(lead_mask=mask)
    model = fitted(limb, trained_leads=mask > 0)
    seen, original = [], model.forward
    monkeypatch.setattr(model, "forward", lambda x_t, t, *rest: seen.append((x_t, t)) or original(x_t, t, *rest))
    noise = WindowNoise(0, ["a"], 1, (12, 256))
    model.translate(limb.ppg[:1], limb.demographics[:1], generator=noise, sampler="deterministic", n_steps=3)
    start = noise(0)
    for x_t, t in seen:  # deterministic steps keep the noise: without signal, x_t is sigma_t times the start
        torch.testing.assert_close(x_t[:, 6:], model.process.sigma(t) * start[:, 6:], atol=1e-3, rtol=1e-2)


def test_save_and_load_round_trip(model, windows, tmp_path):
    test = windows.split("test")
    path = model.save(tmp_path / "run")
    again = P2Es.from_pretrained(tmp_path / "run")
    assert again.config == model.config and again.group_finder.bank_subjects == model.group_finder.bank_subjects
    assert torch.equal(
        again.translate(test.ppg, test.demographics, n_samples=2),
        model.translate(test.ppg, test.demographics, n_samples=2),
    )
    assert path.name == WEIGHTS_FILE and {p.name for p in path.parent.iterdir()} == {WEIGHTS_FILE, CARD_FILE}


def test_weights_hold_training_subjects_only(model, windows, tmp_path):
    model.save(tmp_path)
    bank = read_weights(tmp_path).extra_state["bank_subjects"]
    assert bank and set(bank) <= set(windows.split("train").index["subject"])


def test_models_of_other_versions_are_told_to_train_again(tmp_path, windows):
    """One from before a layer was added, and one with a setting that is not known."""
    model = fitted(windows)
    model.save(tmp_path)
    stored = read_weights(tmp_path)
    tensors = {name: tensor for name, tensor in stored.tensors.items() if "trust" not in name}
    write_weights(tmp_path, "p2es", stored.config, stored.extra_state, tensors)
    with pytest.raises(InputError, match=r"train it again.*multi_scale\.trust"):
        P2Es.from_pretrained(tmp_path)
    config = stored.config | {"denoiser": {"blocks": 4}}
    write_weights(tmp_path, "p2es", config, stored.extra_state, stored.tensors)
    with pytest.raises(InputError, match=r"another version.*denoiser\.\*"):
        P2Es.from_pretrained(tmp_path)


def test_weights_of_an_older_version_are_read(model, windows, tmp_path):
    """Four entries in the metadata, other names of a setting and of tensors, a setting not there yet, no card."""
    from safetensors.torch import save_file

    config = model.config.to_dict()
    config["signal"]["n_samples"] = config["signal"].pop("window_samples")
    del config["training"]["precision"]
    metadata = {"format": "p2es", "version": "0.1.0", "config": json.dumps(config)}
    metadata["extra_state"] = json.dumps(model.extra_state())
    older = {new: old for old, new in RENAMED_TENSORS.items()}["denoiser.multi_scale."]
    tensors = {name.replace("denoiser.multi_scale.", older): tensor for name, tensor in model.state_dict().items()}
    assert tensors.keys() != model.state_dict().keys()
    save_file(tensors, tmp_path / WEIGHTS_FILE, metadata)
    again = load_method(tmp_path)
    assert again.config == model.config and again.made_on == ""
    assert again.sha256 == hashlib.sha256((tmp_path / WEIGHTS_FILE).read_bytes()).hexdigest()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_the_day_of_the_weights_stands_beside_them(model, tmp_path):
    made = copy.deepcopy(model)
    made.made_on = "2026-01-02"
    made.save(tmp_path)
    content = (tmp_path / WEIGHTS_FILE).read_bytes()
    assert P2Es.from_pretrained(tmp_path).made_on == "2026-01-02"
    made.made_on = ""
    made.save(tmp_path)  # today
    assert (tmp_path / WEIGHTS_FILE).read_bytes() == content, "the day is not in the file"
    today = date.today()
    assert P2Es.from_pretrained(tmp_path).made_on in {str(today), str(today - timedelta(days=1))}
    card = json.loads((tmp_path / CARD_FILE).read_text())
    (tmp_path / CARD_FILE).write_text(json.dumps(card | {"sha256": "of another file"}))
    assert P2Es.from_pretrained(tmp_path).made_on == ""
    assert load_method(PRETRAINED).made_on == "2026-11-30"


def test_bad_models_are_named(tmp_path):
    from safetensors.torch import save_file

    with pytest.raises(InputError, match="no such model"):
        P2Es.from_pretrained(tmp_path)
    (tmp_path / WEIGHTS_FILE).write_bytes(b"not a model")
    with pytest.raises(InputError, match="cannot be read as safetensors"):
        P2Es.from_pretrained(tmp_path)
    P2Es(tiny_config()).save(tmp_path)
    with pytest.raises(InputError, match="before GroupFinder was fitted"):
        P2Es.from_pretrained(tmp_path)
    save_file({"x": torch.zeros(1)}, tmp_path / WEIGHTS_FILE)
    with pytest.raises(InputError, match="holds no model"):
        P2Es.from_pretrained(tmp_path)


@pytest.mark.parametrize("variant", [name for name, v in VARIANTS.items() if "method.name" not in v.changes])
def test_every_variant_translates(variant, windows):
    config = tiny_config(**{name.replace(".", "__"): value for name, value in VARIANTS[variant].changes.items()})
    test = windows.split("test")
    model = fitted(windows, config)
    for n_steps in (None, 4):  # of second order from the second step on
        ecg = model.translate(test.ppg, test.demographics, n_samples=2, n_steps=n_steps)
        assert torch.isfinite(ecg).all()


def test_a_model_that_diverged_says_so(windows):
    model, test = fitted(windows), windows.split("test")
    with torch.no_grad():
        next(model.denoiser.parameters()).fill_(torch.nan)
    with pytest.raises(InputError, match="6 of 6 window.*the training diverged"):
        model.translate(test.ppg, test.demographics)


def test_scale_counts_existing_leads_only():
    ecg = np.zeros((2, 12, 8))
    ecg[:, 1] = np.tile([1.0, -1.0], 4)
    mask = np.zeros((2, 12), int)
    mask[:, 1] = 2
    assert ecg_scale_mv(ecg, mask) == pytest.approx(1.0)
    with pytest.raises(InputError, match="flat"):
        ecg_scale_mv(np.zeros((2, 12, 8)), mask)


def test_others_may_read_what_save_wrote(tmp_path):
    """As any file that one writes: the weights of an installed package are not its installer's alone."""
    (tmp_path / "plain").touch()
    path = tiny_p2es().save(tmp_path)
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
