"""P2Es with a reference of the person: what is fixed, what is drawn, what is learned, and what nothing changes."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import norm
from synthetic import r_times_of, synthetic_windows, tiny_config

from p2es_lib.baselines.referenced import ReferencedTranslator
from p2es_lib.core.config import METHODS
from p2es_lib.core.demographics import Demographics
from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import lead_residual
from p2es_lib.core.learned import get_method, standardise
from p2es_lib.core.noise import NoiseNames, WindowNoise
from p2es_lib.core.reference import Reference
from p2es_lib.method.denoiser import Estimate
from p2es_lib.method.p2es import WHITE_SHARE, P2Es
from p2es_lib.reference.conditioning import DIRECT_DELAYS
from p2es_lib.reference.delay import USUAL_S, Timing, known_r_times, seen_before, timing_loss
from p2es_lib.reference.mean_beat import interpolate, make_references
from p2es_lib.reference.placement import as_one_beat, place_reference, repeat_in_beats
from p2es_lib.reference.regimes import leads_of
from p2es_lib.signals.pulse_features import pulse_features
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
    quiet.denoiser.register_forward_hook(lambda module, given, found: Estimate(*map(torch.zeros_like, found)))
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
    timing = model.timing(standardise(ppg), people, reference)
    expected = timing.r_times(timing.delay)
    late = timing.pulses - timing.delay[:, None] - expected  # what each beat's own delay differs by
    assert late[timing.pulses.isfinite()].abs().max() > 1e-4 and expected.isfinite().sum(dim=1).min() >= 6
    planted = timing.pulses - torch.linspace(0.1, 0.4, 6)[:, None]
    for r_times in (None, planted, planted[:, :4]):
        options = {} if r_times is None else {"r_times": r_times}
        r_times = expected if r_times is None else r_times
        features, _, _, base, given = model.condition(ppg * 3 + 1, people, reference=reference, **options)
        placed = place_reference(reference, r_times, N, RATE) / 0.25
        torch.testing.assert_close(base, placed, atol=2e-3, rtol=1e-3)
        shown = ppg if options else moved(standardise(ppg), timing.delay - USUAL_S)
        torch.testing.assert_close(features, pulse_features(shown, RATE, r_times), atol=2e-3, rtol=1e-3)
        assert torch.equal(given, reference.given)
    assert base[0].abs().max() == 0 < base[1:].abs().amax(dim=(1, 2)).min()
    assert lead_residual(base.numpy()).max() < 1e-5


def moved(ppg: torch.Tensor, seconds: torch.Tensor) -> torch.Tensor:
    """PPG (B, 1, N) so much earlier."""
    return interpolate(ppg, torch.arange(N) + seconds[:, None] * RATE)


def test_what_a_monitor_adds_to_the_delay_is_not_seen_by_the_network(model, windows, reference):
    """The same beats with pulses a quarter of a second later: the same features and the same base, but near the end."""
    test = windows.split("test")
    ppg, people = standardise(torch.tensor(test.ppg)), torch.tensor(test.demographics.features())
    r_times, late = model.timing(ppg, people, reference).pulses - 0.2, 0.25
    usual = model.condition(ppg, people, reference=reference, r_times=r_times, delay_s=torch.full((6,), 0.2))
    later = moved(ppg, torch.full((6,), -late))
    added = model.condition(later, people, reference=reference, r_times=r_times, delay_s=torch.full((6,), 0.2 + late))
    inside = slice(60, N - 60)
    scale = usual[0][:, 0, inside].std() / added[0][:, 0, inside].std()
    torch.testing.assert_close(added[0][:, 0, inside] * scale, usual[0][:, 0, inside], atol=0.15, rtol=0)
    torch.testing.assert_close(added[0][:, 2:, inside], usual[0][:, 2:, inside], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(added[3], usual[3])


def test_where_the_beats_are_expected_is_what_the_pulses_the_person_and_the_reference_say(model, windows, reference):
    test = windows.split("test")
    ppg, people = standardise(torch.tensor(test.ppg)), torch.tensor(test.demographics.features())
    found, said = model.timing(ppg, people, reference), model.pulse_delay(ppg, people, seen_before(reference))
    assert all(torch.equal(one, other) for one, other in zip(found, said))
    none = model.timing(ppg, people, Reference.none(6, RATE))
    assert torch.equal(found.pulses, none.pulses) and torch.equal(found.seen, none.seen)
    known = reference.delay_s.isfinite()
    assert known.sum() == 5 and ((found.delay - none.delay).abs() > 1e-4)[known].all()
    torch.testing.assert_close(found.delay[~known], none.delay[~known])


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
    assert method.uses_reference == issubclass(method, (P2Es, ReferencedTranslator))
    if not method.uses_reference:
        made = method(tiny_config(method__name=name, signal__window_samples=N))
        with pytest.raises(InputError, match=f"{name}: .*reference"):
            made.translate(test.ppg, test.demographics, reference=Reference.none(6, RATE))


def timing_of(model, test, reference) -> Timing:
    with torch.no_grad():
        return model.timing(standardise(torch.tensor(test.ppg)), torch.tensor(test.demographics.features()), reference)


def expected_places(model, test, reference, noise, place=None) -> torch.Tensor:
    """R times (6 K, J) at the delays of these samples, and of their beats, s; with ``place`` at so many standard
    deviations of the common delay instead, without jitter."""
    timing = timing_of(model, test, reference).repeat_interleave(noise.n_samples)
    common = noise.of_recording.normal(1)[:, 0].clamp(-3, 3) if place is None else place
    late = (timing.delay + timing.delay_sd * common)[:, None] + timing.shift
    if place is None:
        late = late + timing.jitter_sd * noise.normal(timing.pulses.shape[1]).clamp(-3, 3)
    return (timing.pulses - late).sort(dim=1).values


def expected_base(model, test, reference, noise, place=None) -> torch.Tensor:
    """The reference at :func:`expected_places`, mV (6 K, 12, N)."""
    r_times = expected_places(model, test, reference, noise, place)
    return place_reference(reference.repeat_interleave(noise.n_samples), r_times, N, RATE)


def test_each_sample_is_laid_at_delays_of_its_own(model, windows, reference):
    """Of a network that corrects nothing, what is placed remains: each sample at its own common delay, and there each
    beat at its own."""
    test, noise = windows.split("test"), WindowNoise(3, range(6), 4, (12, N))
    ecg = silent(model).translate(test.ppg, test.demographics, reference=reference, n_samples=4, generator=noise)
    laid, r_times = (of(model, test, reference, noise) for of in (expected_base, expected_places))
    expected = as_one_beat(laid, torch.ones(24, 12), r_times, RATE)
    assert (expected - laid).abs().max() < 0.003, "beats that were one are made one again: no more than rounding"
    torch.testing.assert_close(ecg, expected.reshape(6, 4, 12, N), atol=1e-4, rtol=1e-3)
    assert (ecg[1:, 0] - ecg[1:, 1]).abs().amax(dim=(1, 2)).min() > 0.01


def r_peaks_of(ecg: torch.Tensor, timing: Timing, row: int) -> np.ndarray:
    """R times (K, beats) in samples (K, 12, N) of one window at the pulses that were seen: the middles of their R
    waves, which are Gaussian, in lead V5; NaN near the ends."""
    pulses = timing.pulses[row][timing.seen[row]].numpy()
    about = pulses - float(timing.delay[row])
    t, lead = np.arange(N) / RATE, ecg[:, 10].clamp_min(0).double().numpy()
    found = np.full((len(ecg), len(about)), np.nan)
    for beat, at in enumerate(about):
        part = np.abs(t - at) < 0.3
        if 0.3 < at < t[-1] - 0.3:
            weight = lead[:, part] ** 2
            found[:, beat] = (weight * t[part]).sum(axis=1) / weight.sum(axis=1)
    return found


@pytest.mark.parametrize(("sd", "jitter_sd"), [(0.02, 0.001), (0.004, 0.001), (0.001, 0.012), (0.012, 0.006)])
def test_samples_differ_in_timing_as_is_said(windows, reference, sd, jitter_sd):
    """R peaks of samples of an untrained model with twelve leads: common delays and beats, each with its spread."""
    fresh, test = fitted(windows, moved=False), windows.split("test")
    with torch.no_grad():  # of a delay seen another day 12 ms, of beats 4 ms to begin with
        fresh.pulse_delay.output.bias[1:3] = torch.tensor([sd / 0.012, jitter_sd / 0.004]).log()
    other_day = dataclasses.replace(reference, elapsed_s=torch.full((6,), 1e6))
    timing, count = timing_of(fresh, test, other_day), 64
    torch.testing.assert_close(timing.delay_sd[1:], torch.full((5,), sd))
    torch.testing.assert_close(timing.jitter_sd[timing.seen], torch.full((int(timing.seen.sum()),), jitter_sd))
    rows = [3, 5]  # all twelve leads
    ecg = fresh.translate(
        test.ppg[rows], test.demographics[rows], reference=other_day[rows], n_samples=count, n_steps=2, generator=1
    )
    for row, samples in zip(rows, ecg):
        r = r_peaks_of(samples, timing, row)
        r = r[:, np.isfinite(r).all(axis=0)]
        assert r.shape[1] >= 2
        pulses = timing.pulses[row][timing.seen[row]].numpy()
        off = np.abs((pulses - float(timing.delay[row]))[:, None] - r.mean(axis=0)).min(axis=0)
        assert off.max() < 0.004 + 3 * np.hypot(sd, jitter_sd) / np.sqrt(count)
        beats = r.shape[1]
        apart = r.std(axis=0, ddof=1)  # of one beat over samples: both
        assert apart.mean() == pytest.approx(np.hypot(sd, jitter_sd), rel=0.15)
        within = np.sqrt((r - r.mean(axis=0) - (r.mean(axis=1, keepdims=True) - r.mean())).var() * beats / (beats - 1))
        assert within == pytest.approx(jitter_sd, rel=0.25, abs=6e-4)


def test_jitter_of_a_sample_is_that_of_its_name_alone():
    """Whatever windows stand beside it, and however many samples are drawn; it is no step's noise and no delay's."""
    names = ["a", "b", "c"]
    together = WindowNoise(5, names, 4, (12, N)).normal(20)
    assert together.shape == (12, 20) and together.dtype == torch.float32
    for window, name in enumerate(names):
        for n_samples in (1, 2, 9):
            alone = WindowNoise(5, [name], n_samples, (12, N)).normal(20)
            kept = min(4, n_samples)
            assert torch.equal(alone[:kept], together[4 * window : 4 * window + kept])
    rows = together.flatten(1)
    assert torch.unique(rows, dim=0).shape == rows.shape, "each sample of each window has its own"
    assert not torch.equal(together, WindowNoise(6, names, 4, (12, N)).normal(20))
    noise = WindowNoise(5, names, 4, (1, 20))
    assert all(not torch.equal(noise(step)[:, 0], together) for step in range(4))
    many = WindowNoise(0, range(400), 2, (12, N)).normal(16)
    assert many.mean().abs() < 0.03 and many.std() == pytest.approx(1, abs=0.03)
    assert torch.corrcoef(torch.stack([many[::2].flatten(), many[1::2].flatten()]))[0, 1].abs() < 0.05


def test_jitter_of_sample_k_does_not_depend_on_batch_or_number_of_samples(model, windows, reference):
    """In what is laid down, exactly: the beats of a network that corrects nothing."""
    quiet, test, names = silent(model), windows.split("test"), [f"w{row}" for row in range(6)]

    def drawn(rows, n_samples):
        generator = NoiseNames(5, [names[row] for row in rows])
        return quiet.translate(
            test.ppg[rows], test.demographics[rows], reference=reference[rows], n_samples=n_samples,
            generator=generator,
        )  # fmt: skip

    together = drawn([0, 1, 2, 3, 4, 5], 4)
    for rows, n_samples in (([3], 4), ([5, 2, 1], 2), ([4], 1), ([2], 9)):
        kept = min(4, n_samples)
        torch.testing.assert_close(drawn(rows, n_samples)[:, :kept], together[rows, :kept], atol=1e-5, rtol=1e-4)


def test_one_step_is_the_mean_over_delays(model, windows, reference):
    test, noise = windows.split("test"), WindowNoise(3, range(6), 1, (12, N))
    quiet = silent(model)
    ecg = quiet.translate(test.ppg, test.demographics, reference=reference, n_steps=1, generator=noise)
    middle = expected_base(model, test, reference, noise, 0.0)
    sd = timing_of(model, test, reference).delay_sd[:, None] * RATE
    each = [interpolate(middle, torch.arange(N) + place * sd) for place in DIRECT_DELAYS]
    torch.testing.assert_close(ecg[:, 0], sum(each) / len(DIRECT_DELAYS), atol=1e-4, rtol=1e-3)
    shares = norm.ppf((np.arange(len(DIRECT_DELAYS)) + 0.5) / len(DIRECT_DELAYS))
    assert len(DIRECT_DELAYS) > 1 and np.allclose(DIRECT_DELAYS, shares, atol=0.01)
    laid = [expected_base(model, test, reference, noise, place) for place in DIRECT_DELAYS]
    away = (sum(laid) / len(laid) - ecg[:, 0]).square().mean().sqrt()
    assert away < 0.1 * (laid[0] - laid[-1]).square().mean().sqrt(), "as if the beats had been laid at each delay"


@pytest.mark.parametrize(("n_steps", "calls"), [(1, 1), (2, 1), (None, 1)])
def test_delays_are_found_once_and_laid_down_as_often_as_they_are_drawn(model, windows, reference, n_steps, calls):
    test, seen = windows.split("test"), {"timing": 0, "condition": []}
    of_timing, of_condition = model.timing, model.condition

    def timing(*arguments):
        seen["timing"] += 1
        return of_timing(*arguments)

    def condition(*arguments, **options):
        seen["condition"].append(options["r_times"])
        return of_condition(*arguments, **options)

    model.timing, model.condition = timing, condition
    try:
        model.translate(test.ppg, test.demographics, reference=reference, n_samples=2, n_steps=n_steps)
    finally:
        del model.timing, model.condition
    assert seen["timing"] == 1 and len(seen["condition"]) == calls
    expected = timing_of(model, test, reference).repeat_interleave(2)
    for r_times in seen["condition"]:
        assert r_times.shape == expected.pulses.shape and (r_times[:, 1:] >= r_times[:, :-1]).all()
        assert torch.equal(r_times.isfinite(), expected.pulses.isfinite())
    # Beats of one sample lie a common time from where they are expected: but for jitter, of which one step has none.
    first = seen["condition"][0] - expected.r_times(expected.delay)
    spread = torch.where(expected.seen, first, torch.nan)
    spread = [float(row[row.isfinite()].std()) for row in spread]
    assert max(spread) < 1e-5 if n_steps == 1 else min(spread) > 1e-3


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
def r_times_at(model, windows, reference, delay_s) -> torch.Tensor:
    """R times inside of the test windows whose pulses have these delays, NaN: none; (6, K), padded with inf."""
    timing = timing_of(model, windows.split("test"), reference)
    r_times = torch.where(timing.seen, timing.pulses - delay_s[:, None], torch.inf).nan_to_num(torch.inf)
    return torch.where((r_times > 0) & (r_times < N / RATE), r_times, torch.inf).sort(dim=1).values


def batch_of(windows, reference, r_times, mask=None):
    """As :class:`p2es_lib.core.learned.Batch`, of the test windows."""
    test = windows.split("test")
    mask = torch.full((6, 12), 2) if mask is None else mask
    made = SimpleNamespace(
        mask=mask, x_0=torch.tensor(test.ecg) / 0.25 * (mask > 0)[:, :, None], ppg=standardise(torch.tensor(test.ppg)),
        demographics=torch.tensor(test.demographics.features()), subjects=test.index["subject"].tolist(),
        reference=reference, r_times=r_times,
    )  # fmt: skip

    class Sized(SimpleNamespace):
        def __len__(self):
            return 6

    return Sized(**vars(made))


def test_in_training_beats_lie_where_they_were_and_the_network_sees_what_is_open(model, windows, reference):
    delay_s = torch.tensor([0.1, 0.2, 0.3, torch.nan, 0.15, 0.25])
    mask = torch.full((6, 12), 2)
    mask[5, 8] = 0
    r_times = r_times_at(model, windows, reference, delay_s)
    batch, seen = batch_of(windows, reference, r_times, mask), []

    def network(x_t, t, *fixed):
        seen.append((x_t, t, fixed))
        return Estimate(torch.ones_like(x_t), 2 * torch.ones_like(x_t))

    estimate, of_delays = model.estimate(network, batch, torch.Generator().manual_seed(0))
    x_t, t, (features, _, _, base, given) = seen[0]
    timing = model.timing(batch.ppg, batch.demographics, reference)
    known, common, errors = known_r_times(timing, r_times)
    torch.testing.assert_close(common, delay_s, atol=1e-5, rtol=0, equal_nan=True)
    for row in (0, 1, 2, 4, 5):  # each beat of the ECG, exactly
        inside = r_times[row][r_times[row].isfinite()]
        assert len(inside) >= 3 and (known[row] - inside[:, None]).abs().amin(dim=1).max() < 1e-5
    torch.testing.assert_close(known[3], timing.r_times(timing.delay)[3])
    delay = torch.where(common.isfinite(), common, timing.delay)
    placed = model.condition(batch.ppg, batch.demographics, reference=reference, r_times=known, delay_s=delay)
    torch.testing.assert_close(base, placed[3])
    torch.testing.assert_close(features, placed[0])
    # What is said without a reference counts as much, for every window.
    blind = model.timing(batch.ppg, batch.demographics, Reference.none(6, RATE))
    _, common_blind, errors_blind = known_r_times(blind, r_times)
    losses = timing_loss(timing, common, errors), timing_loss(blind, common_blind, errors_blind)
    assert losses[0] != losses[1]
    torch.testing.assert_close(of_delays, sum(losses) / 2)
    assert not features.requires_grad and not x_t.requires_grad, "the delay is not learned through the network"
    assert of_delays.requires_grad and not base.requires_grad
    scale, laid = P2Es.open_scale(given), base * (mask > 0)[:, :, None]
    torch.testing.assert_close(estimate.refined, laid + scale)
    torch.testing.assert_close(estimate.coarse, laid + 2 * scale)
    # Without noise and blur the state would be (x_0 - base) / scale; at t = 1 nothing of it is left.
    noise = torch.Generator().manual_seed(0)
    torch.rand(len(t) - round(6 / 4), generator=noise)
    of_beat, own = (torch.randn(batch.x_0.shape, generator=noise) for _ in range(2))
    white, share = torch.rand(6, generator=noise) < WHITE_SHARE, CONFIG.process.beat_share
    alike = share**0.5 * repeat_in_beats(of_beat, known, RATE) + (1 - share) ** 0.5 * own
    drawn = torch.where(white[:, None, None], own, alike)
    assert 0 < white.sum() < 6 and 0 < share < 1, "noise of both kinds is held against what it should be"
    torch.testing.assert_close(x_t, model.process.marginal((batch.x_0 - laid) / scale, t, drawn))


def test_errors_count_in_units_of_what_is_open(windows, reference):
    batch = batch_of(windows, reference, r_times_of(windows.split("test")))
    scale = P2Es.open_scale(reference.given)
    off = Estimate(batch.x_0 + scale, batch.x_0 - 2 * scale)
    loss, logged = P2Es.squared_error(off, batch)
    assert logged == pytest.approx(1.0, rel=1e-4) and loss == pytest.approx(5.0, rel=1e-4)


@pytest.mark.parametrize("known", ["all", "some", "none"])
def test_the_loss_is_finite_whatever_delays_are_known(windows, reference, known):
    model = fitted(windows)
    r_times = r_times_of(windows.split("test"))
    r_times[{"all": slice(0), "some": slice(0, 4), "none": slice(None)}[known]] = torch.inf
    batch = batch_of(windows, reference, r_times)
    loss, logged = model.training_loss(model, batch, torch.Generator().manual_seed(0))
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(logged)
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())
    learned = sum(float(gradient.abs().sum()) for name, gradient in gradients.items() if "pulse_delay" in name)
    assert (learned > 0) == (known != "none")
    # Common delay, its spread, jitter of beats and of those outside; then each beat's own part, and its jitter.
    for layer, rows in (("output", 3), ("beat_output", 2)):
        of_rows = gradients[f"pulse_delay.{layer}.weight"].abs().sum(dim=1)[:rows]
        assert ((of_rows > 0) == (known != "none")).all(), layer
    assert gradients["denoiser.multi_scale.reference_stem.weight"].abs().sum() > 0


def test_training_in_lower_precision_ends_with_finite_weights(windows, tmp_path):
    config = tiny_config(training__precision="bf16-mixed", training__n_steps=2)
    model = train(config, synthetic_windows(), tmp_path, progress=False)
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values() if tensor.is_floating_point())


def test_nobody_known_and_a_reference_go_together(model, windows, reference):
    test = windows.split("test")
    ecg = model.translate(test.ppg, Demographics.missing(6), reference=reference)
    assert torch.isfinite(ecg).all()
