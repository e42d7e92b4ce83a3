"""Regression baselines: the lagged ridge against scikit-learn, U-Net and BiLSTM trained by the loop of P2Es."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from synthetic import no_reference, synthetic_windows, tiny_config

from p2es_lib.baselines import ridge as ridge_module
from p2es_lib.baselines.blocks import UNet1d, denoiser_parameters, matched_width
from p2es_lib.baselines.ridge import PENALTY_GRID, LaggedRidge
from p2es_lib.core.config import get_config
from p2es_lib.core.demographics import Demographics
from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import lead_residual
from p2es_lib.core.learned import Batch, get_method, standardise
from p2es_lib.method.p2es import P2Es
from p2es_lib.training.loop import train
from p2es_lib.training.record import read_history

LIMB_MASK = np.array([2, 2, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0])
NETWORKS, N = ("unet", "bilstm"), 512


@pytest.fixture(scope="module")
def windows():
    return synthetic_windows()


# --------------------------------------------------------------------------------------------------------- the blocks
@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize(("multipliers", "length"), [((1,), 5), ((1, 2), 6), ((1, 1, 2, 2, 1, 1, 2, 2), 128)])
def test_unet_keeps_the_length_and_hears_the_condition(multipliers, length, attention):
    torch.manual_seed(0)
    unet = UNet1d(3, 5, 8, multipliers, condition_dim=6, attention=attention)
    x, condition = torch.randn(2, 3, length), torch.randn(2, 6)
    assert unet(x, condition).shape == (2, 5, length)
    assert torch.equal(unet(x, condition), unet(x, -condition)), "blocks start without the condition"
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    assert not torch.allclose(unet(x, condition), unet(x, -condition))
    # A window does not see the others of its batch.
    torch.testing.assert_close(unet(x[:1], condition[:1])[0], unet(x, condition)[0], atol=1e-5, rtol=1e-4)


def test_every_weight_of_the_unet_is_used():
    torch.manual_seed(0)
    unet = UNet1d(1, 2, 4, (1, 2, 2), condition_dim=3, attention=True)
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    unet(torch.randn(2, 1, 16), torch.randn(2, 3)).square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in unet.parameters())


def test_width_is_the_nearest_one():
    def build(width):
        return torch.nn.Linear(width, 1, bias=False)

    assert [matched_width(build, size, step=4) for size in (1, 4, 17, 19, 10**6)] == [4, 4, 16, 20, 1024]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("profile", ["quick", "full"])
def test_size_is_that_of_the_denoiser(name, profile):
    config = get_config(profile)
    denoiser = P2Es(config).denoiser
    target = sum(parameter.numel() for parameter in denoiser.parameters())
    assert denoiser_parameters(config) == target
    for size in ("matched", "published"):
        model = get_method(name)(config.replace("method.name", name).replace("method.size", size))
        assert model.parameter_count() == pytest.approx(target, rel=0.25)


# ------------------------------------------------------------------------------------------------------- the networks
@pytest.fixture(scope="module")
def long_windows():
    """Of more beats than are needed to find the delay from R to the pulse."""
    return synthetic_windows(window_samples=N)


@pytest.fixture(scope="module", params=NETWORKS)
def trained(request, long_windows, tmp_path_factory):
    """A method, trained briefly on beats whose place the PPG shows and whose size goes with sex; and its run folder."""
    folder = tmp_path_factory.mktemp(request.param)
    settings = {"validate_every": 100, "checkpoint_every": 100, "n_steps": 100, "learning_rate": 5e-3}
    config = tiny_config(
        signal__window_samples=N,
        method__name=request.param,
        **{f"training__{name}": value for name, value in settings.items()},
    )
    with pytest.MonkeyPatch.context() as patch:  # validation is at the delays that are expected: the best says least
        patch.setattr(get_method(request.param), "keeps_best", False)
        return train(config, long_windows, folder, progress=False), folder


def test_it_learns(trained, long_windows):
    model, folder = trained
    ecg = np.asarray(long_windows.split("train").ecg, np.float64)
    of_the_mean = ecg.var(axis=(0, 2)).mean() / ecg.var()  # squared error of each lead's mean, in units of the loss
    assert read_history(folder)["loss"].dropna().to_numpy()[-5:].mean() < 0.4 * of_the_mean
    test = long_windows.split("test")
    # These pulses come earlier after R than any body's, which so few steps do not teach: at the delays that they have.
    ppg, people = standardise(torch.tensor(test.ppg)), torch.tensor(test.demographics.features())
    told = SimpleNamespace(ppg=ppg, demographics=people, **no_reference(test))
    with torch.no_grad():
        shown = model.show(ppg, told.reference, model.pulse_delay.known(told)[0])
        error = model(shown.channels, people).numpy() * float(model.ecg_scale_mv) - test.ecg
    assert (error**2).mean() < 0.5 * ecg.var(axis=(0, 2)).mean()


def test_samples_are_copies_and_scale_of_the_ppg_does_not_matter(trained, long_windows):
    model, test = trained[0], long_windows.split("test")
    ecg = model.translate(test.ppg, test.demographics, n_samples=3, generator=7)
    assert ecg.shape == (6, 3, 12, N) and ecg.dtype == torch.float32
    assert torch.equal(ecg[:, 0], ecg[:, 2])
    one_step = model.translate(test.ppg * 7 + 3, test.demographics, n_steps=1)
    torch.testing.assert_close(one_step[:, 0], ecg[:, 0], atol=1e-4, rtol=1e-3)
    alone = model.translate(test.ppg[4:5], test.demographics[4:5])
    torch.testing.assert_close(alone[0, 0], ecg[4, 0], atol=1e-5, rtol=1e-4)


def test_demographics_matter_and_may_be_missing(trained, long_windows):
    model, test = trained[0], long_windows.split("test")
    men = model.translate(test.ppg, Demographics.of(50, "M", 6))
    women = model.translate(test.ppg, Demographics.of(50, "F", 6))
    assert (men - women).abs().max() > 1e-3
    assert torch.isfinite(model.translate(test.ppg, Demographics.missing(6))).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_leads_absent_in_training_are_nan_and_do_not_count(name, tmp_path):
    limb = synthetic_windows(lead_mask=LIMB_MASK)
    model = train(tiny_config(method__name=name, training__n_steps=2), limb, tmp_path, progress=False)
    ecg = model.translate(limb.ppg[:2], limb.demographics[:2])
    assert torch.isfinite(ecg[:, :, :6]).all() and torch.isnan(ecg[:, :, 6:]).all()
    losses = []
    for garbage in (0.0, 9.0):
        batch = {
            "ecg": torch.tensor(limb.ecg[:4]) + garbage * (torch.as_tensor(LIMB_MASK) == 0)[:, None],
            "ppg": torch.tensor(limb.ppg[:4]),
            "lead_mask": torch.tensor(limb.lead_mask[:4]),
            "demographics": limb.demographics[:4],
            "subjects": ["a", "b", "c", "d"],
            **no_reference(limb.select(np.arange(4))),
        }
        generator = torch.Generator().manual_seed(0)
        losses.append(model.training_loss(model, Batch(model, batch, generator), generator)[0].item())
    assert losses[0] == losses[1]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("stride", [1, 3, 8])
def test_any_stride_of_the_stem_keeps_the_length(name, stride, windows):
    model = get_method(name)(tiny_config(method__name=name, denoiser__stem_stride=stride))
    assert model.translate(windows.ppg[:2], windows.demographics[:2]).shape == (2, 1, 12, 256)


# ---------------------------------------------------------------------------------------------------------- the ridge
def noisy(windows, seed=0):
    """The windows with noise on the ECG, each lead its own, so that a penalty pays."""
    noise = 0.3 * np.random.default_rng(seed).standard_normal(windows.ecg.shape)
    ecg = (windows.ecg + noise).astype(np.float32)
    return dataclasses.replace(windows, ecg=ecg, lead_mask=windows.lead_mask.copy())


def lagged_samples(ppg, reach):
    """Design matrix of one window (T, 2 reach + 1), value by value as the docstring states it; (T,) in."""
    padded = np.concatenate([np.zeros(reach), ppg, np.zeros(reach)])
    return np.stack([padded[reach + lag : reach + lag + len(ppg)] for lag in range(-reach, reach + 1)], axis=1)


def regression_data(windows, rows, reach=125):
    """Lagged PPG (M, 2 reach + 1) and ECG (M, 12) of some windows, one after the other."""
    ppg = (windows.ppg - windows.ppg.mean(-1, keepdims=True)) / windows.ppg.std(-1, ddof=1, keepdims=True)
    x = np.concatenate([lagged_samples(ppg[row, 0].astype(np.float64), reach) for row in rows])
    return x, np.concatenate([windows.ecg[row].T.astype(np.float64) for row in rows])


def test_ridge_solves_what_scikit_learn_solves(windows):
    windows = noisy(windows)
    train_set, validation = windows.split("train"), windows.split("validation")
    model = LaggedRidge(tiny_config()).fit(train_set, validation)
    x, y = regression_data(train_set, range(12))
    references = {penalty: Ridge(alpha=penalty * len(x)).fit(x, y) for penalty in PENALTY_GRID}
    x, y = regression_data(validation, range(4))
    errors = {penalty: np.sum((expected.predict(x) - y) ** 2) for penalty, expected in references.items()}
    assert model.penalty == min(errors, key=errors.get)
    assert PENALTY_GRID[0] < model.penalty < PENALTY_GRID[-1], "the noise makes some penalty better than almost none"
    expected = references[model.penalty]
    np.testing.assert_allclose(model.weights, expected.coef_, atol=1e-6)
    np.testing.assert_allclose(model.intercept, expected.intercept_, atol=1e-6)
    test = windows.split("test")
    ecg = model.translate(test.ppg, test.demographics, n_samples=2)
    assert ecg.shape == (6, 2, 12, 256) and ecg.dtype == torch.float32 and torch.equal(ecg[:, 0], ecg[:, 1])
    np.testing.assert_allclose(ecg[3, 0], expected.predict(regression_data(test, [3])[0]).T, atol=1e-5)


def test_ridge_looks_only_at_leads_that_exist(windows):
    masked = noisy(windows)
    masked.lead_mask[:, 11] = 0
    masked.lead_mask[3] = 0  # a window without any lead
    masked.lead_mask[::2, 6] = 0
    masked.ecg[::2, 6] = 1000.0
    masked.ecg[1, 7, 10] = np.nan
    train_set, validation = masked.split("train"), masked.split("validation")
    model = LaggedRidge(tiny_config()).fit(train_set, validation)
    for lead, rows in [(0, [0, 1, 2, *range(4, 12)]), (6, [1, 5, 7, 9, 11]), (7, [0, 2, *range(4, 12)])]:
        x, y = regression_data(train_set, rows)
        expected = Ridge(alpha=model.penalty * len(x)).fit(x, y[:, lead])
        np.testing.assert_allclose(model.weights[lead], expected.coef_, atol=1e-6)
    ecg = model.translate(masked.ppg[:3], Demographics.missing(3)).numpy()
    assert np.isnan(ecg[:, :, 11]).all() and np.isfinite(ecg[:, :, :11]).all()


def test_ridge_sums_do_not_depend_on_the_chunks(windows, monkeypatch):
    parts = [windows.split(name) for name in ("train", "validation")]
    whole = LaggedRidge(tiny_config()).fit(*parts)
    monkeypatch.setattr(ridge_module, "CHUNK_WINDOWS", 5)
    in_chunks = LaggedRidge(tiny_config()).fit(*parts)
    assert in_chunks.penalty == whole.penalty
    x, _ = regression_data(parts[0], range(12))
    np.testing.assert_allclose(in_chunks._moments(parts[0]).xx, np.broadcast_to(x.T @ x, (12, 251, 251)), atol=1e-6)
    test = windows.split("test")
    of_both = [model.translate(test.ppg, test.demographics) for model in (whole, in_chunks)]
    torch.testing.assert_close(*of_both, atol=1e-3, rtol=1e-3)


def test_ridge_keeps_the_lead_relations_and_ignores_the_scale(windows):
    model = LaggedRidge(tiny_config()).fit(windows.split("train"), windows.split("validation"))
    test = windows.split("test")
    ecg = model.translate(test.ppg, test.demographics)
    assert lead_residual(ecg.numpy()).max() < 1e-4
    torch.testing.assert_close(model.translate(test.ppg * 7 + 3, test.demographics), ecg, atol=1e-3, rtol=1e-3)
    error = ecg[:, 0].numpy() - test.ecg
    assert (error**2).mean() < 0.8 * test.ecg.var(axis=(0, 2)).mean()


def test_ridge_refuses_what_it_cannot_fit(windows):
    empty = windows.select([])
    with pytest.raises(InputError, match="no training window"):
        LaggedRidge(tiny_config()).fit(empty, windows)
    with pytest.raises(InputError, match="share no lead"):
        LaggedRidge(tiny_config()).fit(windows, empty)
    with pytest.raises(RuntimeError, match="before fit"):
        LaggedRidge(tiny_config()).translate(windows.ppg, windows.demographics)
