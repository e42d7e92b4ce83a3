"""The denoiser: shapes, the regularised inverse, the switches, and what may and may not pass between leads."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from p2es_lib.core.config import DenoiserConfig, ProcessConfig
from p2es_lib.core.leads import lead_residual
from p2es_lib.method.deblurring import FrequencyDeblurring
from p2es_lib.method.denoiser import Denoiser
from p2es_lib.method.forward_process import ForwardProcess
from p2es_lib.method.multi_scale import Condition, MultiScaleBlock, average_pool

T = 256
SMALL = DenoiserConfig(lead_features=2, n_blocks=2)


def make(config: DenoiserConfig = SMALL, blur: str = "dct") -> Denoiser:
    torch.manual_seed(0)
    denoiser = Denoiser(config, ForwardProcess(ProcessConfig(blur=blur), T, 125.0), n_ppg_features=3)
    # Zero-initialised layers hide what depends on what: move every weight off zero.
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return denoiser


def inputs(count: int = 3) -> tuple[torch.Tensor, torch.Tensor, Condition]:
    generator = torch.Generator().manual_seed(1)
    x_t = torch.randn(count, 12, T, generator=generator)
    condition = Condition(
        torch.randn(count, 3, T, generator=generator),
        torch.randn(count, 4, generator=generator),
        torch.softmax(torch.randn(count, 12, 12, generator=generator), -1),
        torch.randn(count, 12, T, generator=generator),
        (torch.rand(count, 12, generator=generator) < 0.5).float(),
    )
    return x_t, torch.linspace(0.2, 0.9, count), condition


@pytest.mark.parametrize("blur", ["dct", "spectral", "none"])
@pytest.mark.parametrize("stem_stride", [1, 2, 4])
def test_shapes_and_gradients(blur, stem_stride):
    config = dataclasses.replace(SMALL, stem_stride=stem_stride, scales=(1, 4, 16))
    denoiser = make(config, blur)
    estimate = denoiser(*inputs())
    assert estimate.refined.shape == estimate.coarse.shape == (3, 12, T)
    estimate.refined.square().mean().backward()
    without = [name for name, p in denoiser.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not without, "parameters that do not take part"


def test_output_obeys_einthoven_unless_switched_off():
    x_t, t, condition = inputs()
    assert lead_residual(make()(x_t, t, condition).refined.detach().numpy()).max() < 1e-5
    free = make(dataclasses.replace(SMALL, projection=False))
    assert lead_residual(free(x_t, t, condition).refined.detach().numpy()).min() > 1e-3


def test_rows_do_not_depend_on_the_batch():
    x_t, t, condition = inputs(3)
    names = ("ppg_features", "demographics", "affinity", "base", "given")
    alone = Condition(*(getattr(condition, name)[1:2] for name in names))
    denoiser = make()
    torch.testing.assert_close(
        denoiser(x_t, t, condition).refined[1:2], denoiser(x_t[1:2], t[1:2], alone).refined, atol=1e-5, rtol=1e-4
    )


def test_an_encoded_condition_changes_no_bit():
    x_t, t, condition = inputs()
    denoiser = make()
    encoded = dataclasses.replace(condition, encoded=denoiser.multi_scale.encode(condition))
    assert torch.equal(denoiser(x_t, t, condition).refined, denoiser(x_t, t, encoded).refined)
    # It is what is used, then: PPG features and reference are not looked at again.
    forgotten = {name: torch.zeros_like(getattr(condition, name)) for name in ("ppg_features", "base", "given")}
    forgotten = dataclasses.replace(encoded, **forgotten)
    assert torch.equal(denoiser(x_t, t, condition).refined, denoiser(x_t, t, forgotten).refined)


@pytest.mark.parametrize("name", ["base", "given"])
def test_the_reference_is_read_and_adds_nothing_where_there_is_none(name):
    x_t, t, condition = inputs()
    other = dataclasses.replace(condition, **{name: getattr(condition, name) + 1})
    denoiser = make()
    assert not torch.allclose(denoiser(x_t, t, condition).coarse, denoiser(x_t, t, other).coarse, atol=1e-3)
    none = {part: torch.zeros_like(getattr(condition, part)) for part in ("base", "given")}
    _, added = denoiser.multi_scale.encode(dataclasses.replace(condition, **none))
    assert added.abs().max() == 0


def test_with_filters_apart_a_lead_of_the_reference_reaches_its_own_lead_only():
    denoiser = make(dataclasses.replace(SMALL, mix_leads=False, projection=False))
    x_t, t, condition = inputs()
    condition = dataclasses.replace(condition, affinity=torch.eye(12).expand(3, 12, 12))
    base, given = condition.base.clone(), condition.given.clone()
    base[:, 5] += 1
    given[:, 5] = 1 - given[:, 5]
    for changed in ({"base": base}, {"given": given}):
        after = denoiser(x_t, t, dataclasses.replace(condition, **changed)).refined
        moved = (denoiser(x_t, t, condition).refined - after).abs().amax((0, 2))
        assert moved[5] > 1e-2 and moved[[i for i in range(12) if i != 5]].max() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("length", "size"), [(256, 2), (128, 4), (100, 8)])
def test_average_pooling_is_that_of_torch_to_the_last_bit(length, size, dtype):
    x = torch.randn(3, 5, length, generator=torch.Generator().manual_seed(0)).to(dtype)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    pooled, reference = average_pool(ours, size), torch.nn.functional.avg_pool1d(theirs, size)
    assert pooled.dtype == dtype and torch.equal(pooled, reference)
    weights = torch.randn(reference.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    for output in (pooled, reference):
        (output * weights).sum().backward()
    assert torch.equal(ours.grad, theirs.grad)


def test_switches_cut_what_they_name():
    x_t, t, condition = inputs()
    other = dataclasses.replace(condition, demographics=condition.demographics + 1)
    assert not torch.equal(make()(x_t, t, condition).refined, make()(x_t, t, other).refined)
    blind = make(dataclasses.replace(SMALL, demographics=False))
    assert torch.equal(blind(x_t, t, condition).refined, blind(x_t, t, other).refined)
    plain = make(dataclasses.replace(SMALL, deblurring=False))(x_t, t, condition)
    assert torch.equal(plain.refined, plain.coarse)
    full = make()(x_t, t, condition)
    assert not torch.allclose(full.refined, full.coarse)


def test_affinity_carries_information_between_leads():
    """With A = identity a lead hears itself twice; with a row of A on another lead it hears that lead."""
    torch.manual_seed(0)
    block = MultiScaleBlock(12, 4, 128, (1,))
    with torch.no_grad():  # lead-wise pass-through: what remains between leads is A alone
        block.branches[0].weight.zero_()
        block.branches[0].weight[range(12), range(12), 2] = 1.0
        block.output.weight.copy_(torch.eye(12)[..., None])
    h = torch.randn(1, 12, 32)
    changed = h.clone()
    # Change lead 5 in a way that leaves mean and variance over all leads, and so the normalisation, as they are.
    changed[:, 5] = h[:, 5].flip(-1)
    ppg, condition = [torch.zeros(1, 12, 32)], torch.zeros(1, 128)
    identity = torch.eye(12)[None]
    moved = (block(h, ppg, condition, identity) - block(changed, ppg, condition, identity)).abs().amax(-1)[0]
    assert moved[5] > 0.1 and moved[[i for i in range(12) if i != 5]].max() < 1e-5
    exchange = identity.clone()
    exchange[0, 2] = 0.0
    exchange[0, 2, 5] = 1.0  # lead 2 listens to lead 5
    moved = (block(h, ppg, condition, exchange) - block(changed, ppg, condition, exchange)).abs().amax(-1)[0]
    assert moved[2] > 0.05 and moved[[i for i in range(12) if i not in (2, 5)]].max() < 1e-5


@pytest.mark.parametrize("mix_leads", [False, True])
def test_with_filters_apart_the_affinity_is_the_only_way_from_lead_to_lead(mix_leads):
    denoiser = make(dataclasses.replace(SMALL, mix_leads=mix_leads, projection=False))
    x_t, t, condition = inputs()
    changed = x_t.clone()
    changed[:, 5] += torch.randn(3, T, generator=torch.Generator().manual_seed(3))

    def moved(affinity: torch.Tensor) -> torch.Tensor:
        given = dataclasses.replace(condition, affinity=affinity.expand(3, 12, 12))
        before, after = denoiser(x_t, t, given).refined, denoiser(changed, t, given).refined
        return (before - after).abs().amax((0, 2))

    others = [i for i in range(12) if i != 5]
    apart = moved(torch.eye(12))
    assert apart[5] > 1e-2 and (apart[others].min() > 1e-4 if mix_leads else apart[others].max() == 0)
    if not mix_leads:
        affinity = torch.eye(12)
        affinity[2] = torch.eye(12)[5]  # lead 2 listens to lead 5
        heard = moved(affinity)
        assert heard[2] > 1e-3 and heard[[i for i in others if i != 2]].max() == 0


def test_training_starts_with_stage_1_alone():
    """An untrained stage 2 that trusted x_t would take from stage 1 the reason to read it."""
    torch.manual_seed(0)
    denoiser = Denoiser(SMALL, ForwardProcess(ProcessConfig(), T, 125.0), n_ppg_features=3)
    x_t, _, condition = inputs()
    estimate = denoiser(x_t, torch.full((3,), 0.5), condition)
    assert (estimate.refined - estimate.coarse).pow(2).mean() < 0.02 * x_t.pow(2).mean()


def test_the_correction_is_taken_as_far_as_stage_1_trusts_it():
    """x_0_hat = c + g (inverse - c): nothing of it at g = 0, the stationary inverse at g = 1, each sample by itself."""
    config = dataclasses.replace(SMALL, projection=False)
    denoiser, stationary = make(config), make(dataclasses.replace(config, local_deblurring=False))
    trust = denoiser.multi_scale.trust
    stationary.load_state_dict({k: v for k, v in denoiser.state_dict().items() if "trust" not in k})
    everything = stationary(*inputs())
    assert (everything.refined - everything.coarse).abs().mean() > 0.01
    for log_odds, share in [(-40.0, 0.0), (0.0, 0.5), (40.0, 1.0)]:
        torch.nn.init.zeros_(trust.weight)
        torch.nn.init.constant_(trust.bias, log_odds)
        estimate = denoiser(*inputs())
        torch.testing.assert_close(estimate.coarse, everything.coarse)
        wanted = everything.coarse + share * (everything.refined - everything.coarse)
        torch.testing.assert_close(estimate.refined, wanted, atol=1e-5, rtol=1e-4)
    torch.nn.init.zeros_(trust.bias)
    torch.nn.init.normal_(trust.weight, std=0.5)
    share = (denoiser(*inputs()).refined - everything.coarse) / (everything.refined - everything.coarse)
    spread = share.quantile(0.9, dim=-1) - share.quantile(0.1, dim=-1)  # (B, 12), along time
    assert spread.median() > 0.02  # differs from sample to sample of one lead, not from lead to lead alone


def test_a_local_share_beats_any_stationary_one_where_the_error_is_local():
    """Why it is there: stage 1 errs in one half of the window only, the noise is everywhere."""
    generator = torch.Generator().manual_seed(4)
    t = torch.arange(T)
    truth = torch.where(t < T // 2, torch.randn(4000, T, generator=generator), torch.zeros(1))
    observed = truth + torch.randn(4000, T, generator=generator)  # no blur: every coefficient is alike
    stationary = min(float(((g * observed - truth) ** 2).mean()) for g in torch.linspace(0, 1, 101).tolist())
    local = float((torch.where(t < T // 2, 0.5, 0.0) * observed - truth).square().mean())
    assert (
        abs(stationary - 1 / 3) < 0.01 and abs(local - 1 / 4) < 0.01
    )  # P s / (P + s) over the window, and in its half


def test_receptive_field_grows_with_the_scales():
    """How far the PPG at one time step reaches through the branches of one block."""
    reach = {}
    for scales in [(1,), (1, 4, 16)]:
        torch.manual_seed(0)
        block = MultiScaleBlock(12, 4, 128, scales)
        ppg = torch.zeros(1, 4, 256, requires_grad=True)
        pooled = [torch.nn.functional.avg_pool1d(ppg, s) if s > 1 else ppg for s in scales]
        outputs = block.branch_outputs(torch.zeros(1, 12, 256), block.project_ppg(pooled))
        finest = sum(torch.nn.functional.interpolate(y, size=256, mode="nearest") for y in outputs)
        (gradient,) = torch.autograd.grad(finest[0, :, 128].sum(), ppg)
        reach[scales] = int((gradient.abs().sum(1)[0] > 0).sum())
    assert reach == {(1,): 5, (1, 4, 16): 5 * 16}


def test_wiener_gain_is_the_best_linear_estimate():
    """Against brute force: among all gains, the formula has the smallest mean squared error."""
    generator = torch.Generator().manual_seed(2)
    prior, alpha, sigma = 0.7, 0.3, 0.4
    truth = torch.randn(200_000, generator=generator) * prior**0.5  # around a coarse estimate of 0
    observed = alpha * truth + sigma * torch.randn(200_000, generator=generator)
    gain = FrequencyDeblurring.gain(torch.tensor(alpha), torch.tensor(sigma), torch.tensor(prior))
    errors = {g: float(((g * observed - truth) ** 2).mean()) for g in torch.linspace(0, 2, 201).tolist()}
    assert abs(min(errors, key=errors.get) - float(gain)) < 0.03
    posterior = prior * sigma**2 / (alpha**2 * prior + sigma**2)
    assert abs(float(((gain * observed - truth) ** 2).mean()) - posterior) < 0.01


def test_deblurring_is_the_posterior_mean_around_the_coarse_estimate():
    """Held against the mean weighted by precisions: coarse with 1 / P, observed / alpha with alpha^2 / sigma^2."""
    torch.manual_seed(0)
    stage = FrequencyDeblurring(T, residual=False).double()
    coarse, truth, noise = (torch.randn(2, 12, T, dtype=torch.float64) for _ in range(3))
    logsnr, sigma = torch.tensor([1.0, -2.0]), torch.tensor([0.3, 0.9], dtype=torch.float64)[:, None, None]
    alpha = torch.linspace(1.0, 1e-3, T, dtype=torch.float64).expand(2, 1, T)
    observed, prior = alpha * truth + sigma * noise, stage.prior_variance(logsnr.double())
    expected = (coarse / prior + alpha * observed / sigma**2) / (1 / prior + alpha**2 / sigma**2)
    torch.testing.assert_close(stage(coarse, observed, logsnr.double(), alpha, sigma), expected)


def test_deblurring_trusts_the_observation_where_it_is_clear_and_the_coarse_estimate_where_it_is_not():
    torch.manual_seed(0)
    stage = FrequencyDeblurring(T)
    torch.nn.init.zeros_(stage.prior_output.bias)  # as after training: an error of about the size of the truth
    coarse, truth = torch.zeros(1, 12, T), torch.randn(1, 12, T)
    for alpha, sigma, expected in [(1.0, 1e-3, truth), (1e-3, 1.0, coarse)]:
        alpha, sigma = torch.full((1, 1, T), alpha), torch.full((1, 1, 1), sigma)
        u_0 = stage(coarse, alpha * truth, torch.zeros(1), alpha, sigma)  # the residual starts at zero
        torch.testing.assert_close(u_0, expected, atol=0.02, rtol=0.02)
