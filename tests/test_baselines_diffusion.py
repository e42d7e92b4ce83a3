"""RDDM and rectified flow: the mathematics against closed forms, and the contract of every learned method."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from synthetic import no_reference, synthetic_windows, tiny_config

from p2es_lib.baselines import rddm, rectified_flow
from p2es_lib.baselines.blocks import ConditionalUNet, denoiser_parameters
from p2es_lib.core.config import get_config
from p2es_lib.core.demographics import Demographics
from p2es_lib.core.errors import InputError
from p2es_lib.core.learned import Batch, get_method
from p2es_lib.core.noise import WindowNoise
from p2es_lib.signals.r_peaks import r_peak_times
from p2es_lib.training.loop import train
from p2es_lib.training.record import read_history

LIMB_MASK = np.array([2, 2, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0])
METHODS = ("rddm", "rectified_flow")
RATE = 125.0


@pytest.fixture(scope="module")
def windows():
    return synthetic_windows()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=generator(seed))


def raw_batch(windows, rows=slice(0, 4), **changes) -> dict:
    """A batch as the training loop gets it."""
    batch = {
        "ecg": torch.tensor(windows.ecg[rows]),
        "ppg": torch.tensor(windows.ppg[rows]),
        "lead_mask": torch.tensor(windows.lead_mask[rows]),
        "demographics": windows.demographics[rows],
        "subjects": windows.index["subject"][rows].tolist(),
    }
    batch |= no_reference(windows.select(np.arange(len(windows))[rows]))
    return batch | changes


# ------------------------------------------------------------------------------------------------ RDDM: forward process
def test_schedule_is_the_public_one():
    share = rddm.alpha_bar()
    betas = 1e-4 + (0.2 - 1e-4) * np.arange(1, 11) / 10
    np.testing.assert_allclose(share, [1.0, *np.cumprod(1 - betas)], rtol=1e-12)
    assert math.sqrt(share[-1]) == pytest.approx(0.55, abs=0.005), "this much of the ECG is left in the masked state"


def test_noise_stands_in_the_regions_alone():
    """Variance over many draws, against the schedule: inside, outside, and of the whole state."""
    n_draws, share = 1000, rddm.alpha_bar()
    x_0 = normal(1, 12, 8).expand(n_draws, -1, -1)
    regions = torch.zeros(n_draws, 1, 8, dtype=torch.float64)
    regions[:, :, 3:6] = 1
    tolerance = 5 * math.sqrt(2 / n_draws)
    for t in (1, 4, 9):
        steps = torch.full((n_draws,), t)
        whole, masked = rddm.noisy_states(x_0, regions, steps, normal(n_draws, 12, 8, seed=t))
        for state, noisy in ((whole, torch.ones(8)), (masked, regions[0, 0])):
            variance = state.var(dim=0) / (1 - share[t])
            assert (variance - noisy).abs().max() < tolerance
            signal = state.mean(dim=0) - math.sqrt(share[t]) * x_0[0]
            assert signal.abs().max() < 5 * math.sqrt((1 - share[t]) / n_draws)
        inside = regions[0, 0] > 0
        assert torch.equal(whole[:, :, inside], masked[:, :, inside]), "the same noise in both"
        torch.testing.assert_close(masked[:, :, ~inside], math.sqrt(share[t]) * x_0[:, :, ~inside])


def test_where_sampling_starts_nothing_of_the_ecg_is_left():
    """Signal-to-noise ratio at t = T: 0 in what the first network is shown, the schedule's in the masked state."""
    x_0, noise, share = 100 * normal(2, 12, 8), normal(2, 12, 8, seed=1), rddm.alpha_bar()[-1]
    whole, masked = rddm.noisy_states(x_0, torch.ones(2, 1, 8), torch.tensor([10, 9]), noise)
    assert torch.equal(whole[0], noise[0]) and not torch.equal(whole[1], noise[1])
    torch.testing.assert_close(masked[0], math.sqrt(share) * x_0[0] + math.sqrt(1 - share) * noise[0])
    assert share / (1 - share) == pytest.approx(0.44, abs=0.01)


@pytest.mark.parametrize("sign", [1, -1])
def test_regions_lie_around_the_r_peaks(windows, sign):
    ecg = torch.tensor(sign * windows.ecg)
    regions = rddm.qrs_regions(ecg * 7, torch.full((len(ecg), 12), 2), RATE)
    assert regions.shape == (len(ecg), 1, 256) and set(regions.unique().tolist()) == {0.0, 1.0}
    expected = torch.zeros_like(regions)
    for row, times in enumerate(r_peak_times(windows.ecg, RATE)):
        for place in np.round(times[np.isfinite(times)] * RATE).astype(int):
            expected[row, 0, max(0, place - 15) : place + 16] = 1  # 31 samples, 0.248 s
    # Where a window cuts a beat, the two detectors may differ by a few samples.
    assert torch.equal(regions[..., 25:-25], expected[..., 25:-25])
    assert (regions != expected).float().mean() < 0.005


def test_regions_of_leads_and_windows_do_not_touch(windows):
    ecg, mask = torch.tensor(windows.ecg[:3]), torch.full((3, 12), 2)
    regions = rddm.qrs_regions(ecg, mask, RATE)
    garbage = ecg.clone()
    garbage[1, 6:] = normal(6, 256).float()
    mask[1, 6:] = 0
    assert torch.equal(rddm.qrs_regions(garbage, mask, RATE), regions)
    assert rddm.qrs_regions(torch.zeros(1, 12, 256), torch.full((1, 12), 2), RATE).sum() == 0, "no beat, no region"


# ------------------------------------------------------------------------------------------------ RDDM: reverse process
@pytest.mark.parametrize("n_steps", [1, 2, 7, 10])
def test_perfect_networks_lead_back_to_the_ecg(n_steps):
    x_0, share, seen = normal(3, 12, 16), rddm.alpha_bar(), []
    regions = torch.zeros(3, 1, 16)
    regions[:, :, 5:9] = 1

    def to_masked(state, t):
        seen.append(t)
        clean = math.sqrt(share[t]) * x_0
        return clean + regions * (state - clean)

    def find_noise(masked, t):
        return regions * (masked - math.sqrt(share[t]) * x_0) / math.sqrt(1 - share[t])

    result = rddm.reverse(to_masked, find_noise, lambda step: normal(3, 12, 16, seed=step), n_steps)
    torch.testing.assert_close(result, x_0, atol=1e-9, rtol=0)
    assert seen[0] == 10 and seen[-1] >= 1 and len(seen) == n_steps and sorted(set(seen), reverse=True) == seen


def test_noise_is_taken_out_and_put_in_as_in_ddpm():
    """Every step but the last leaves the noise that the schedule wants in the regions, for data of unit variance."""
    n_draws, share, variances = 100_000, rddm.alpha_bar(), []

    def to_masked(state, t):  # the region is everywhere
        variances.append(float(state.var()))
        return state

    def find_noise(state, t):  # E[eps | state] where x_0 is standard normal
        return math.sqrt(1 - share[t]) * state

    result = rddm.reverse(to_masked, find_noise, lambda step: normal(n_draws, 1, 1, seed=step), 10)
    np.testing.assert_allclose(variances, 1.0, atol=5 * math.sqrt(2 / n_draws) + 1e-3)
    assert float(result.var()) == pytest.approx(share[1], abs=5 * math.sqrt(2 / n_draws))


@pytest.mark.parametrize("n_steps", [0, 11])
def test_steps_that_the_schedule_does_not_have(n_steps):
    with pytest.raises(InputError, match="1 to 10"):
        rddm.reverse(lambda x, t: x, lambda x, t: x, lambda step: normal(1, 12, 8), n_steps)


# ------------------------------------------------------------------------------------------------------- rectified flow
MEAN, SD = 3.0, 0.4


def gaussian_velocity(x_t, t):
    """E[x_1 - x_0 | x_t] where x_0 is N(MEAN, SD^2) and x_1 standard normal, of their joint normal distribution."""
    t = t[:, None, None]
    slope = (t - (1 - t) * SD**2) / ((1 - t) ** 2 * SD**2 + t**2)
    return -MEAN + slope * (x_t - (1 - t) * MEAN)


def test_flow_reaches_the_target_distribution():
    x_1 = normal(4000, 1, 2)
    exact = MEAN + SD * x_1  # the monotone map, which the flow of a Gaussian is
    errors = []
    for n_steps in (100, 200, 400):
        x_0 = rectified_flow.integrate(gaussian_velocity, x_1, n_steps)
        errors.append(float((x_0 - exact).square().mean().sqrt()))
    assert errors[-1] < 0.01 * SD
    assert all(1.8 < coarse / fine < 2.2 for coarse, fine in zip(errors, errors[1:])), "Euler is of first order"
    assert abs(x_0.mean() - MEAN) < 5 * SD / math.sqrt(x_0.numel())
    assert abs(x_0.std() - SD) < 5 * SD / math.sqrt(2 * x_0.numel()) + 0.01 * SD


def test_one_step_of_the_flow_is_the_mean():
    x_0 = rectified_flow.integrate(gaussian_velocity, normal(50, 1, 2), 1)
    torch.testing.assert_close(x_0, torch.full_like(x_0, MEAN))


def test_velocity_is_the_slope_of_the_line():
    x_0, x_1, t = normal(3, 12, 8), normal(3, 12, 8, seed=1), torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    x_t = rectified_flow.interpolate(x_0, x_1, t)
    assert torch.equal(x_t[0], x_0[0]) and torch.equal(x_t[2], x_1[2])
    step = 1e-6
    slope = (rectified_flow.interpolate(x_0, x_1, t + step) - x_t) / step
    torch.testing.assert_close(slope, x_1 - x_0, atol=1e-8, rtol=1e-8)
    # The true velocity of every point leads straight back, in any number of steps.
    for n_steps in (1, 3):
        torch.testing.assert_close(rectified_flow.integrate(lambda x, t: x_1 - x_0, x_1, n_steps), x_0)


# ---------------------------------------------------------------------------------------------------------- the network
def test_network_hears_all_that_it_is_told():
    torch.manual_seed(0)
    network = ConditionalUNet(8)
    inputs = [torch.randn(2, 12, 64), torch.tensor([0.3, 1.0]), torch.randn(2, 1, 64), torch.randn(2, 4)]
    with torch.no_grad():
        for parameter in network.parameters():  # off the zero start of the blocks
            parameter.add_(0.1 * torch.randn_like(parameter))
        output = network(*inputs)
        assert output.shape == (2, 12, 64)
        for place in range(4):
            other = [value.flip(0) if i == place else value for i, value in enumerate(inputs)]
            assert not torch.allclose(network(*other), output), place
        # The noisy ECG passes the U-Net by, with a gain that the U-Net sets.
        bias = network.unet.output[-1].bias
        bias[:12] += 1
        torch.testing.assert_close(network(*inputs), output + inputs[0])


@pytest.mark.parametrize("profile", ["quick", "full"])
@pytest.mark.parametrize("name", METHODS)
def test_matched_size_is_that_of_the_denoiser(name, profile):
    config = get_config(profile).replace("method.name", name)
    assert get_method(name)(config).parameter_count() == pytest.approx(denoiser_parameters(config), rel=0.25)


@pytest.mark.parametrize(("name", "parameters"), [("rddm", 145.5e6), ("rectified_flow", None)])
def test_published_size(name, parameters):
    config = get_config("quick").replace("method.name", name).replace("method.size", "published")
    with torch.device("meta"):  # no memory for 150 million weights
        count = get_method(name)(config).parameter_count()
    assert count == pytest.approx(parameters or denoiser_parameters(config), rel=0.10)


# --------------------------------------------------------------------------------------------------------- the contract
@pytest.fixture(scope="module", params=METHODS)
def trained(request, windows, tmp_path_factory):
    """A method, trained briefly, and its run folder."""
    settings = {"n_steps": 50, "validate_every": 50, "checkpoint_every": 50, "learning_rate": 1e-2}
    config = tiny_config(method__name=request.param, **{f"training__{name}": value for name, value in settings.items()})
    folder = tmp_path_factory.mktemp(request.param)
    return train(config, windows, folder, progress=False), folder


def test_it_learns(trained):
    losses = read_history(trained[1])["loss"].dropna().to_numpy()
    assert losses[-5:].mean() < 0.35 * losses[:2].mean()


def test_samples_differ_and_belong_to_their_window(trained, windows):
    model, test = trained[0], windows.split("test")
    ecg = model.translate(test.ppg, test.demographics, n_samples=2, generator=5)
    assert ecg.shape == (6, 2, 12, 256) and ecg.dtype == torch.float32 and torch.isfinite(ecg).all()
    assert not torch.allclose(ecg[:, 0], ecg[:, 1], atol=1e-3), "samples of one window must differ"
    assert torch.equal(model.translate(test.ppg, test.demographics, n_samples=2, generator=5), ecg)
    assert not torch.allclose(model.translate(test.ppg, test.demographics, n_samples=2, generator=6), ecg, atol=1e-3)
    alone = model.translate(test.ppg[4:5], test.demographics[4:5], n_samples=1, generator=5)
    torch.testing.assert_close(alone[0, 0], ecg[4, 0], atol=1e-4, rtol=1e-3)


def test_number_of_steps_and_gain_of_the_ppg(trained, windows):
    model, test = trained[0], windows.split("test")
    noise = WindowNoise(0, range(6), 1, (12, 256))
    default = model.translate(test.ppg, test.demographics, generator=noise)
    assert torch.equal(model.translate(test.ppg, test.demographics, generator=noise, n_steps=10), default)
    one = model.translate(test.ppg, test.demographics, generator=noise, n_steps=1)
    assert torch.isfinite(one).all() and not torch.allclose(one, default, atol=1e-3)
    scaled = model.translate(test.ppg * 7 + 3, test.demographics, generator=noise)
    torch.testing.assert_close(scaled, default, atol=2e-3, rtol=1e-2)


def test_each_step_gets_noise_of_its_own(trained, windows, monkeypatch):
    """The flow is random at its start only."""
    model, asked, original = trained[0], [], WindowNoise.__call__
    monkeypatch.setattr(WindowNoise, "__call__", lambda self, step: asked.append(step) or original(self, step))
    model.translate(windows.ppg[:1], windows.demographics[:1])
    assert asked == (list(range(10)) if model.name == "rddm" else [0])


def test_demographics_matter_and_may_be_missing(trained, windows):
    model, test = trained[0], windows.split("test")
    men, women = (model.translate(test.ppg, Demographics.of(50, sex, 6), n_steps=1) for sex in "MF")
    assert not torch.allclose(men, women, atol=1e-3)
    assert torch.isfinite(model.translate(test.ppg, Demographics.missing(6))).all()


@pytest.mark.parametrize("name", METHODS)
def test_absent_leads_are_nan_and_empty_all_along(name, tmp_path, monkeypatch):
    """They do not count in the loss, and are zero in all that the networks are shown, in training and in sampling."""
    limb = synthetic_windows(lead_mask=LIMB_MASK)
    torch.manual_seed(0)
    model = get_method(name)(tiny_config(method__name=name), trained_leads=LIMB_MASK > 0)
    shown, original = [], ConditionalUNet.forward

    def spy(self, ecg, *rest):
        shown.append(ecg)
        return original(self, ecg, *rest) + 1.0

    monkeypatch.setattr(ConditionalUNet, "forward", spy)
    losses = []
    for garbage in (0.0, 9.0):
        batch = raw_batch(limb)
        batch["ecg"] = batch["ecg"] + garbage * (torch.as_tensor(LIMB_MASK) == 0)[:, None]
        losses.append(model.training_loss(model, Batch(model, batch, generator()), generator())[0].item())
    assert losses[0] == losses[1]
    ecg = model.translate(limb.ppg[:2], limb.demographics[:2])
    assert torch.isfinite(ecg[:, :, :6]).all() and torch.isnan(ecg[:, :, 6:]).all()
    assert len(shown) > 10 and all((state[:, 6:] == 0).all() and (state[:, :6] != 0).any() for state in shown)


@pytest.mark.parametrize("name", METHODS)
def test_loss_goes_through_the_model_and_draws_from_the_generator(name, windows):
    torch.manual_seed(0)
    module = get_method(name)(tiny_config(method__name=name))
    calls = []

    def model(*arguments):
        calls.append(1)
        return module(*arguments)

    def loss(seed):
        return module.training_loss(model, Batch(module, raw_batch(windows), generator()), generator(seed))[0]

    first = loss(0)
    assert len(calls) == 1, "one call per step, so that several devices average their gradients once"
    first.backward()
    assert all(parameter.grad is not None for parameter in module.trained_parameters()), "and it uses every weight"
    torch.manual_seed(7)
    assert torch.equal(loss(0), first) and not torch.equal(loss(1), first), "from no other source of randomness"


def test_loss_of_perfect_networks_is_zero(windows):
    """What each network is asked for, from the states that it is shown."""
    share = torch.tensor(rddm.alpha_bar(), dtype=torch.float32)
    method = get_method("rddm")(tiny_config(method__name="rddm"))
    batch = Batch(method, raw_batch(windows), generator())
    regions = rddm.qrs_regions(batch.x_0, batch.mask, RATE)

    def networks(whole, masked, t, ppg, demographics):
        a = share[(t * 10).round().long()][:, None, None]
        noise = regions * (masked - a.sqrt() * batch.x_0) / (1 - a).sqrt()
        assert torch.equal(ppg, batch.ppg) and torch.equal(demographics, batch.demographics)
        inside = torch.where((t == 1)[:, None, None], a.sqrt() * batch.x_0 + (1 - a).sqrt() * whole, whole)
        return torch.where(regions > 0, inside, a.sqrt() * batch.x_0), noise

    assert method.training_loss(networks, batch, generator())[0] < 1e-9

    flow = get_method("rectified_flow")(tiny_config(method__name="rectified_flow"))

    def velocity(x_t, t, ppg, demographics):
        return (x_t - batch.x_0) / t[:, None, None]

    assert flow.training_loss(velocity, batch, generator())[1] < 1e-6
