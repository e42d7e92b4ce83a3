"""The other methods with a reference of the person: shown as to P2Es, started from as by P2Es, and of no harm."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from synthetic import no_reference, synthetic_windows, tiny_config

from p2es_lib.baselines.referenced import N_CHANNELS, ReferencedTranslator
from p2es_lib.core.config import METHODS
from p2es_lib.core.learned import Batch, get_method, standardise
from p2es_lib.core.noise import WindowNoise
from p2es_lib.core.reference import Reference
from p2es_lib.reference.conditioning import averaged_over_delays, drawn_places, expected_places, open_scale
from p2es_lib.reference.mean_beat import make_references
from p2es_lib.reference.placement import place_reference
from p2es_lib.reference.regimes import leads_of

RATE, N = 125.0, 512
NAMES = [name for name in METHODS if issubclass(get_method(name), ReferencedTranslator)]
SCALE = 0.25


@pytest.fixture(scope="module")
def windows():
    return synthetic_windows(window_samples=N)


@pytest.fixture(scope="module")
def reference(windows):
    """Of the test windows, made of themselves, which no experiment does: leads none, I, limb, all, V2, all."""
    test = windows.split("test")
    given = torch.cat([leads_of(name) for name in ("none", "I", "limb", "all", "none", "all")])
    given[4, 7] = 1.0
    made = make_references(torch.tensor(test.ecg), given, RATE, ppg=torch.tensor(test.ppg))
    return dataclasses.replace(made, elapsed_s=torch.full((6,), 60.0))


@pytest.fixture(params=NAMES)
def model(request):
    torch.manual_seed(0)
    made = get_method(request.param)(tiny_config(method__name=request.param, signal__window_samples=N), SCALE)
    with torch.no_grad():  # off the zero start of the residual layers
        for parameter in made.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))
    return made.eval()


def silent(model) -> ReferencedTranslator:
    """The same with a network that adds nothing to what is placed: of the flow, whose data are 0."""
    if model.stochastic:  # from x_1 at t = 1 straight to 0
        model.network.register_forward_hook(lambda module, given, found: given[0] / given[1][:, None, None])
    else:
        model.network.register_forward_hook(lambda module, given, found: torch.zeros_like(found))
    return model


def test_who_uses_a_reference():
    assert NAMES == ["unet", "bilstm", "rectified_flow"]


def test_of_a_network_that_adds_nothing_the_beats_remain_where_p2es_lays_them(model, windows, reference):
    test, noise = windows.split("test"), WindowNoise(3, range(6), 3, (12, N))
    ppg, people = standardise(torch.tensor(test.ppg)), torch.tensor(test.demographics.features())
    with torch.no_grad():
        timing = model.pulse_delay.timing(ppg, people, reference)
    at_expected = place_reference(reference, expected_places(timing).r_times, N, RATE)
    mean = averaged_over_delays(at_expected, timing, RATE)
    options = {"reference": reference, "n_samples": 3, "generator": noise}
    ecg = silent(model).translate(test.ppg, test.demographics, **options)
    one = model.translate(test.ppg, test.demographics, n_steps=1, reference=reference, n_samples=1)[:, 0]
    torch.testing.assert_close(one, mean, atol=1e-4, rtol=1e-3)
    assert (mean - at_expected)[1:].abs().amax(dim=(1, 2)).min() > 1e-3
    if model.stochastic:
        placed = place_reference(reference.repeat_interleave(3), drawn_places(timing, noise).r_times, N, RATE)
        torch.testing.assert_close(ecg.flatten(0, 1), placed, atol=1e-4, rtol=1e-3)
        assert (ecg[1:, 0] - ecg[1:, 1]).abs().amax(dim=(1, 2)).min() > 0.01
    else:
        torch.testing.assert_close(ecg[:, 0], mean, atol=1e-4, rtol=1e-3)


def test_a_given_lead_comes_out_near_itself_and_the_network_adds_in_units_of_what_is_open(model, windows, reference):
    test = windows.split("test")
    noise = WindowNoise(0, range(6), 1, (12, N))
    ecg = model.translate(test.ppg, test.demographics, reference=reference, generator=noise)[:, 0]
    plain = model.translate(test.ppg, test.demographics, generator=noise)[:, 0]
    torch.testing.assert_close(ecg[0], plain[0], atol=1e-5, rtol=1e-4)  # the one whose reference has no lead
    with torch.no_grad():
        quiet = silent(model).translate(test.ppg, test.demographics, reference=reference, generator=noise)[:, 0]
    added = (ecg - quiet).square().mean(dim=(1, 2)).sqrt()
    scale = open_scale(reference.given)[:, 0, 0]
    assert (added > 0).all() and added[3] < 0.6 * added[0] and added[5] < 0.6 * added[0]
    assert (added / scale / (added[0] / scale[0])).max() < 3
    alike = [float(torch.corrcoef(torch.stack([of[3].flatten(), quiet[3].flatten()]))[0, 1]) for of in (ecg, plain)]
    assert alike[0] > 0.6 and abs(alike[1]) < 0.4


def test_without_a_reference_it_is_as_with_none(model, windows):
    test = windows.split("test")
    plain = model.translate(test.ppg, test.demographics, n_samples=2)
    none = model.translate(test.ppg, test.demographics, reference=Reference.none(6, RATE), n_samples=2)
    assert torch.equal(plain, none) and plain.shape == (6, 2, 12, N)
    assert torch.equal(plain[:, 0], plain[:, 1]) != model.stochastic


def test_a_reference_is_shown_beside_the_ppg(model, windows, reference):
    test = windows.split("test")
    ppg, people = standardise(torch.tensor(test.ppg)), torch.tensor(test.demographics.features())
    with torch.no_grad():
        timing = model.pulse_delay.timing(ppg, people, reference)
        places = expected_places(timing)
        shown = model.show(ppg, reference, places)
        base = place_reference(reference, places.r_times, N, RATE) / SCALE
        assert shown.channels.shape == (6, N_CHANNELS, N)
        assert torch.equal(shown.channels[:, 1:13], base) and torch.equal(shown.base, base)
        assert torch.equal(shown.channels[:, 13:, 7], reference.given)
        # The pulses are shown where they would be with the usual delay.
        usual = model.show(ppg, reference, places._replace(delay_s=torch.full((6,), 0.25)))
    torch.testing.assert_close(usual.channels[:, :1], ppg, atol=1e-4, rtol=0)
    assert (shown.channels[:, :1] - ppg).abs().amax(dim=(1, 2)).min() > 1e-3


def test_sample_k_is_the_same_whatever_batch(model, windows, reference):
    test = windows.split("test")
    together = model.translate(test.ppg, test.demographics, reference=reference, n_samples=3)
    alone = model.translate(test.ppg[3:4], test.demographics[3:4], reference=reference[3:4], n_samples=2)
    torch.testing.assert_close(alone[0], together[3, :2], atol=1e-4, rtol=1e-3)


def batch_of(windows, reference, lead_mask=None) -> dict:
    rows = windows.split("test")
    mask = torch.tensor(rows.lead_mask) if lead_mask is None else lead_mask
    return {
        "ecg": torch.tensor(rows.ecg), "ppg": torch.tensor(rows.ppg), "lead_mask": mask,
        "demographics": rows.demographics, "subjects": list("abcdef"),
        **(no_reference(rows) | {"reference": reference}),
    }  # fmt: skip


def test_a_training_step_reaches_the_network_and_the_delays(model, windows, reference):
    generator = torch.Generator().manual_seed(0)
    batch = Batch(model, batch_of(windows, reference), generator)
    loss, logged = model.training_loss(model, batch, generator)
    loss.backward()
    assert torch.isfinite(loss) and not logged.requires_grad
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.trained_parameters())
    for part in ("pulse_delay.output", "pulse_delay.beat_output", "network"):
        learned = [p.grad.abs().sum() for name, p in model.named_parameters() if name.startswith(part)]
        assert learned and sum(learned) > 0, part


def test_a_network_that_knows_what_is_open_has_no_loss(model, windows, reference):
    """The ECG less the beats that are laid where they were, in units of what they leave open; absent leads 0."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.full((6, 12), 2)
    mask[:, 9:] = 0
    batch = Batch(model, batch_of(windows, reference, mask), generator)
    with torch.no_grad():
        places, _ = model.pulse_delay.known(batch)
    base = place_reference(reference, places.r_times, N, RATE) / SCALE
    target = (batch.x_0 - base) / open_scale(reference.given) * (mask > 0)[:, :, None]

    def knowing(*given):
        return (given[0] - target) / given[1][:, None, None] if model.stochastic else target

    assert model.training_loss(knowing, batch, torch.Generator().manual_seed(0))[1] < 1e-6
    wrong = model.training_loss(lambda *given: knowing(*given) + 1.0, batch, torch.Generator().manual_seed(0))[1]
    assert wrong.item() == pytest.approx(1.0, rel=1e-3), "and each lead counts in units of what is open"


def test_deterministic_methods_give_copies(model, windows, reference):
    if model.stochastic:
        pytest.skip("it draws samples")
    test = windows.split("test")
    ecg = model.translate(test.ppg, test.demographics, reference=reference, n_samples=3).numpy()
    assert np.array_equal(ecg[:, 0], ecg[:, 2])
