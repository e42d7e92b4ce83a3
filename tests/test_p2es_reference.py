"""P2Es with a reference of the person: what is fixed, what is drawn, what is learned, and what nothing changes."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from synthetic import synthetic_windows, tiny_config

from p2es_lib.core.config import METHODS
from p2es_lib.core.demographics import Demographics
from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import lead_residual
from p2es_lib.core.learned import get_method, standardise
from p2es_lib.core.noise import NoiseNames, WindowNoise
from p2es_lib.core.reference import Reference
from p2es_lib.data.windows.references import leads_of
from p2es_lib.method.denoiser import Estimate
from p2es_lib.method.p2es import DIRECT_DELAYS, P2Es
from p2es_lib.reference.delay import drawn_delay, quantile
from p2es_lib.reference.mean_beat import make_references
from p2es_lib.reference.placement import expected_beats, place_reference
from p2es_lib.signals.pulse_features import pulse_features, pulse_upstrokes
from p2es_lib.training.loop import train

RATE, N = 125.0, 512
CONFIG = tiny_config(signal__window_samples=N)


@pytest.fixture(scope="module")
def windows():
    return synthetic_windows(window_samples=N)


def fitted(windows, config=CONFIG, moved: bool = True, **options) -> P2Es:
    torch.manual_seed(0)
    model = P2Es(config, 0.25, **options)
    model.group_finder.fit(windows.split("train"), seed=0)
    with torch.no_grad():  # off the zero start of the residual layers
        for parameter in [*model.denoiser.parameters(), *model.pulse_delay.parameters()] if moved else []:
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture(scope="module")
def model(windows):
    return fitted(windows)


@pytest.fixture(scope="module")
def reference(windows):
    """Of the test windows, made of themselves, which no experiment does: leads none, I, limb, all, V2, all."""
    test = windows.split("test")
    given = torch.cat([leads_of(name) for name in ("none", "I", "limb", "all", "none", "all")])
    given[4, 7] = 1.0
    made = make_references(torch.tensor(test.ecg), given, RATE, ppg=torch.tensor(test.ppg))
    assert torch.equal(made.given, given) and made.delay_s[1:].isfinite().all()
    return dataclasses.replace(made, elapsed_s=torch.tensor([60.0, 60.0, torch.nan, 60.0, 60.0, 1e5]))


def silent(model: P2Es) -> P2Es:
    """A copy whose network adds nothing to what is placed."""
    quiet = fitted(synthetic_windows(window_samples=N), trained_leads=model.trained_leads.numpy())
    quiet.load_state_dict(model.state_dict())
    quiet.denoiser.project = torch.zeros_like
    return quiet


# ---------------------------------------------------------------------------------------------------------- conditions
def test_without_a_reference_nothing_is_laid_down(model, windows):
    test = windows.split("test")
    ppg, people = torch.tensor(test.ppg), torch.tensor(test.demographics.features())
    features, demographics, pi, base, given = model.condition(ppg, people)
    assert features.shape == (6, 8, N) and pi.shape == (6, 2) and torch.equal(demographics, people)
    assert base.shape == (6, 12, N) and given.shape == (6, 12) and base.abs().max() == given.abs().max() == 0


def test_a_reference_is_laid_at_the_pulses_in_units_of_the_data_set(model, windows, reference):
    test = windows.split("test")
    ppg, people = torch.tensor(test.ppg), torch.tensor(test.demographics.features())
    expected, _ = model.delay(standardise(ppg), people, reference)
    planted = torch.linspace(0.1, 0.4, 6)
    for delay_s, options in ((expected, {}), (planted, {"delay_s": planted})):
        features, _, _, base, given = model.condition(ppg * 3 + 1, people, reference=reference, **options)
        pulses, interval = expected_beats(pulse_upstrokes(ppg, RATE))
        placed = place_reference(reference, pulses, delay_s, interval, N, RATE) / 0.25
        torch.testing.assert_close(base, placed, atol=2e-3, rtol=1e-3)
        torch.testing.assert_close(features, pulse_features(ppg, RATE, delay_s), atol=2e-3, rtol=1e-3)
        assert torch.equal(given, reference.given)
    assert base[0].abs().max() == 0 < base[1:].abs().amax(dim=(1, 2)).min()
    assert lead_residual(base.numpy()).max() < 1e-5


def test_the_more_leads_are_given_the_less_is_open():
    given = torch.tril(torch.ones(13, 12), diagonal=-1)
    scale = P2Es.open_scale(given)
    assert scale.shape == (13, 1, 1) and scale[0] == 1
    assert (scale[1:].diff(dim=0) <= 0).all() and 0 < scale[-1] < 0.35 < 0.6 < scale[1] < 1
    chest_only = torch.zeros(1, 12)
    chest_only[0, 6:] = 1
    assert scale[-1] < P2Es.open_scale(chest_only) < 1


# --------------------------------------------------------------------------------------------------------- translation
def test_ecg_with_a_reference_is_consistent_and_differs_from_that_without(model, windows, reference):
    test = windows.split("test")
    ecg = model.translate(test.ppg, test.demographics, reference=reference, n_samples=3)
    assert ecg.shape == (6, 3, 12, N) and ecg.dtype == torch.float32 and torch.isfinite(ecg).all()
    assert lead_residual(ecg.numpy()).max() < 1e-5
    plain = model.translate(test.ppg, test.demographics, n_samples=3)
    torch.testing.assert_close(ecg[0], plain[0], atol=1e-5, rtol=1e-4)  # the one whose reference has no lead
    assert (ecg - plain)[1:].abs().amax(dim=(1, 2, 3)).min() > 0.02


def test_without_a_reference_it_is_as_with_none(model, windows):
    test = windows.split("test")
    plain = [model.translate(test.ppg, test.demographics, n_samples=2) for _ in range(2)]
    none = model.translate(test.ppg, test.demographics, reference=Reference.none(6, RATE), n_samples=2)
    assert torch.equal(*plain) and torch.equal(plain[0], none)


@pytest.mark.parametrize("n_steps", [None, 1])
def test_sample_k_is_the_same_whatever_batch_and_number_of_samples(model, windows, reference, n_steps):
    test = windows.split("test")
    names = [f"w{row}" for row in range(6)]

    def drawn(rows, n_samples):
        return model.translate(
            test.ppg[rows], test.demographics[rows], reference=reference[rows], n_samples=n_samples, n_steps=n_steps,
            generator=NoiseNames(5, [names[row] for row in rows]),
        )  # fmt: skip

    together = drawn([0, 1, 2, 3, 4, 5], 5)
    for rows, n_samples in (([3], 5), ([5, 3, 1], 2), ([4], 1)):
        torch.testing.assert_close(drawn(rows, n_samples), together[rows, :n_samples], atol=2e-5, rtol=1e-4)
    many = drawn([3], 20)
    torch.testing.assert_close(many[0, :5], together[3], atol=2e-5, rtol=1e-4)


def test_small_chunks_change_nothing(windows, reference):
    test = windows.split("test")
    for_each = fitted(windows, CONFIG.replace("sampling.batch_size", 2))
    together, apart = (
        made.translate(test.ppg, test.demographics, reference=reference, n_samples=2)
        for made in (fitted(windows), for_each)
    )
    torch.testing.assert_close(apart, together, atol=2e-5, rtol=1e-4)


def test_a_reference_of_one_row_serves_all(model, windows, reference):
    test = windows.split("test")
    one = model.translate(test.ppg, test.demographics, reference=reference[3:4])
    assert torch.equal(one, model.translate(test.ppg, test.demographics, reference=reference[[3] * 6]))


def test_a_reference_that_does_not_fit_is_refused(model, windows, reference):
    test = windows.split("test")
    other_rate = Reference.none(6, 250.0)
    with pytest.raises(InputError, match="125 Hz"):
        model.translate(test.ppg, test.demographics, reference=other_rate)
    with pytest.raises(InputError, match="4 of them for 6 windows"):
        model.translate(test.ppg, test.demographics, reference=reference[:4])


@pytest.mark.parametrize("name", METHODS)
def test_methods_that_cannot_use_a_reference_refuse_it(name, windows):
    method, test = get_method(name), windows.split("test")
    assert method.uses_reference == issubclass(method, P2Es)
    if not method.uses_reference:
        made = method(tiny_config(method__name=name, signal__window_samples=N))
        with pytest.raises(InputError, match=f"{name}: .*reference"):
            made.translate(test.ppg, test.demographics, reference=Reference.none(6, RATE))


def expected_base(model, test, reference, noise, numbers) -> torch.Tensor:
    """The reference where the delays of these samples put it, mV (6 K, 12, N)."""
    ppg, count = standardise(torch.tensor(test.ppg)), noise.n_samples
    with torch.no_grad():
        mean, sd = model.delay(ppg, torch.tensor(test.demographics.features()), reference)
    mean, sd, ppg = (part.repeat_interleave(count, 0) for part in (mean, sd, ppg))
    delay = drawn_delay(mean, sd, quantile(noise.uniform(), numbers))
    pulses, interval = expected_beats(pulse_upstrokes(ppg, RATE))
    return place_reference(reference.repeat_interleave(count), pulses, delay, interval, N, RATE)


def test_each_sample_is_laid_at_a_delay_of_its_own(model, windows, reference):
    """Of a network that corrects nothing, what is placed remains: at the quantiles of the delay, sample by sample."""
    test, noise = windows.split("test"), WindowNoise(3, range(6), 4, (12, N))
    ecg = silent(model).translate(test.ppg, test.demographics, reference=reference, n_samples=4, generator=noise)
    expected = expected_base(model, test, reference, noise, noise.sample_numbers()).reshape(6, 4, 12, N)
    torch.testing.assert_close(ecg, expected, atol=1e-4, rtol=1e-3)
    assert (ecg[1:, 0] - ecg[1:, 1]).abs().amax(dim=(1, 2)).min() > 0.01


def test_one_step_is_the_mean_over_delays(model, windows, reference):
    test, noise = windows.split("test"), WindowNoise(3, range(6), 1, (12, N))
    quiet = silent(model)
    ecg = quiet.translate(test.ppg, test.demographics, reference=reference, n_steps=1, generator=noise)
    each = [
        expected_base(model, test, reference, noise, torch.full((6,), number)) for number in range(DIRECT_DELAYS)
    ]  # fmt: skip
    torch.testing.assert_close(ecg[:, 0], sum(each) / DIRECT_DELAYS, atol=1e-4, rtol=1e-3)


def test_before_training_twelve_leads_are_nearly_what_is_pasted(windows, reference):
    """Base plus correction: the fresh network says little, and of that only what is open."""
    fresh, test = fitted(windows, moved=False), windows.split("test")
    rows = [3, 5]
    ecg = fresh.translate(test.ppg[rows], test.demographics[rows], reference=reference[rows], n_samples=2)
    pasted = silent(fresh).translate(test.ppg[rows], test.demographics[rows], reference=reference[rows], n_samples=2)
    away, size = (ecg - pasted).square().mean().sqrt(), pasted.square().mean().sqrt()
    assert 0 < away < 0.25 * float(fresh.open_scale(torch.ones(1, 12))) and away < 0.6 * size
    plain = fresh.translate(test.ppg[rows], test.demographics[rows], n_samples=2)
    assert (plain - pasted).square().mean().sqrt() > 1.5 * away


def test_leads_without_training_stay_nan_and_empty_inside(windows, reference):
    mask = np.array([1, 2, 1, 2, 1, 1, 0, 0, 0, 0, 0, 0])
    limb = synthetic_windows(window_samples=N, lead_mask=mask)
    model, test = fitted(limb, trained_leads=mask > 0), limb.split("test")
    seen, original = [], model.denoiser.multi_scale.forward
    model.denoiser.multi_scale.forward = lambda x_t, *rest: seen.append(x_t) or original(x_t, *rest)
    ecg = model.translate(test.ppg, test.demographics, reference=reference, n_samples=2, n_steps=3)
    assert torch.isfinite(ecg[:, :, :6]).all() and torch.isnan(ecg[:, :, 6:]).all() and len(seen) == 3
    # No base is added to the state of absent leads: at t = 1 it is noise there.
    assert seen[0][:, 6:].std() == pytest.approx(float(seen[0][:, :6].std()), rel=0.1)


def test_it_survives_the_disk(model, windows, reference, tmp_path):
    test = windows.split("test")
    model.save(tmp_path)
    drawn = [
        made.translate(test.ppg, test.demographics, reference=reference, n_samples=2)
        for made in (model, P2Es.from_pretrained(tmp_path))
    ]
    assert torch.equal(*drawn)


# ------------------------------------------------------------------------------------------------------------ training
def batch_of(windows, reference, delay_s, mask=None):
    """As :class:`p2es_lib.core.learned.Batch`, of the test windows."""
    test = windows.split("test")
    mask = torch.full((6, 12), 2) if mask is None else mask
    made = SimpleNamespace(
        mask=mask, x_0=torch.tensor(test.ecg) / 0.25 * (mask > 0)[:, :, None], ppg=standardise(torch.tensor(test.ppg)),
        demographics=torch.tensor(test.demographics.features()), subjects=test.index["subject"].tolist(),
        reference=reference, delay_s=delay_s,
    )  # fmt: skip

    class Sized(SimpleNamespace):
        def __len__(self):
            return 6

    return Sized(**vars(made))


def test_in_training_beats_lie_at_the_known_delay_and_the_network_sees_what_is_open(model, windows, reference):
    delay_s = torch.tensor([0.1, 0.2, 0.3, torch.nan, 0.15, 0.25])
    mask = torch.full((6, 12), 2)
    mask[5, 8] = 0
    batch, seen = batch_of(windows, reference, delay_s, mask), []

    def network(x_t, t, *fixed):
        seen.append((x_t, t, fixed))
        return Estimate(torch.ones_like(x_t), 2 * torch.ones_like(x_t))

    estimate = model.estimate(network, batch, torch.Generator().manual_seed(0))
    x_t, t, (features, _, _, base, given) = seen[0]
    expected, _ = model.delay(batch.ppg, batch.demographics, reference)
    known = torch.where(delay_s.isfinite(), delay_s, expected)
    placed = model.condition(batch.ppg, batch.demographics, reference=reference, delay_s=known)
    torch.testing.assert_close(base, placed[3])
    torch.testing.assert_close(features, placed[0])
    assert not features.requires_grad and not x_t.requires_grad, "the delay is not learned through the network"
    scale, laid = P2Es.open_scale(given), base * (mask > 0)[:, :, None]
    torch.testing.assert_close(estimate.refined, laid + scale)
    torch.testing.assert_close(estimate.coarse, laid + 2 * scale)
    # Without noise and blur the state would be (x_0 - base) / scale; at t = 1 nothing of it is left.
    noise = torch.Generator().manual_seed(0)
    torch.rand(len(t) - round(6 / 4), generator=noise)
    drawn = torch.randn(batch.x_0.shape, generator=noise)
    torch.testing.assert_close(x_t, model.process.marginal((batch.x_0 - laid) / scale, t, drawn))


def test_errors_count_in_units_of_what_is_open(windows, reference):
    batch = batch_of(windows, reference, torch.full((6,), 0.2))
    scale = P2Es.open_scale(reference.given)
    off = Estimate(batch.x_0 + scale, batch.x_0 - 2 * scale)
    loss, logged = P2Es.squared_error(off, batch)
    assert logged == pytest.approx(1.0, rel=1e-4) and loss == pytest.approx(5.0, rel=1e-4)


@pytest.mark.parametrize("known", ["all", "some", "none"])
def test_the_loss_is_finite_whatever_delays_are_known(windows, reference, known):
    model = fitted(windows)
    delay_s = torch.tensor([0.2, 0.25, 0.3, 0.2, 0.15, 0.25])
    delay_s[{"all": slice(0), "some": slice(0, 4), "none": slice(None)}[known]] = torch.nan
    batch = batch_of(windows, reference, delay_s)
    loss, logged = model.training_loss(model, batch, torch.Generator().manual_seed(0))
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(logged)
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())
    learned = sum(float(gradient.abs().sum()) for name, gradient in gradients.items() if "pulse_delay" in name)
    assert (learned > 0) == (known != "none")
    assert gradients["denoiser.multi_scale.reference_stem.weight"].abs().sum() > 0


def test_training_in_lower_precision_ends_with_finite_weights(windows, tmp_path):
    config = tiny_config(training__precision="bf16-mixed", training__n_steps=2)
    model = train(config, synthetic_windows(), tmp_path, progress=False)
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values() if tensor.is_floating_point())


def test_nobody_known_and_a_reference_go_together(model, windows, reference):
    test = windows.split("test")
    ecg = model.translate(test.ppg, Demographics.missing(6), reference=reference)
    assert torch.isfinite(ecg).all()
