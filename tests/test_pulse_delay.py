"""The delay from R to the pulse: found where it was planted, told by a distribution, drawn evenly."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from known_beats import padded
from scipy.stats import kstest, norm

from p2es_lib.core.demographics import FEATURES as DEMOGRAPHIC_FEATURES
from p2es_lib.core.reference import SESSION_S, Reference
from p2es_lib.reference.delay import FAR, SD_LIMITS_S, PulseDelay, drawn_delay, quantile, seen_before
from p2es_lib.reference.mean_beat import pulse_delay
from p2es_lib.signals.pulse_features import N_FEATURES

RATE, WINDOW_S = 125.0, 8.19
DELAYS = (0.06, 0.1, 0.2, 0.3, 0.45, 0.65)


# --------------------------------------------------------------------------------------------------- in a recording
def beats(delay: float, rr: float, variability: float, seed: int, duration: float = WINDOW_S):
    """R times and upstrokes within a recording; the first may have the other one outside it."""
    rng = np.random.default_rng(seed)
    r = rng.uniform(-1.5, -1.0) + np.cumsum(rr * (1 + variability * rng.uniform(-1, 1, 100)))
    return [times[(times > 0) & (times < duration)] for times in (r, r + delay)]


@pytest.mark.parametrize("rr", [0.7, 0.85, 1.1])
@pytest.mark.parametrize("variability", [0.0, 0.1])
def test_planted_delays_are_found(rr, variability):
    """All in one table, each row with its own number of beats."""
    r, upstrokes = zip(*(beats(delay, rr, variability, seed) for seed, delay in enumerate(DELAYS)))
    found, spread = pulse_delay(padded(r), padded(upstrokes, np.nan))
    np.testing.assert_allclose(found.numpy(), DELAYS, atol=0.002)
    assert spread.max() < 0.002


@pytest.mark.parametrize("delay", DELAYS)
def test_missing_and_false_pulses_move_it_little(delay):
    """Of ten recordings of half a minute, a fifth of the pulses missing and as many false, none is a beat off."""
    rng, r_times, pulses = np.random.default_rng(0), [], []
    for seed in range(10):
        r, upstrokes = beats(delay, 0.85, 0.1, seed, 30.0)
        upstrokes = upstrokes[rng.random(len(upstrokes)) > 0.2]
        pulses.append(np.sort(np.r_[upstrokes, rng.uniform(0, 30, len(upstrokes) // 4)]))
        r_times.append(r[rng.random(len(r)) > 0.1])
    found, _ = pulse_delay(padded(r_times), padded(pulses, np.nan))
    np.testing.assert_allclose(found.numpy(), delay, atol=0.002)


def test_it_does_not_jump_a_beat():
    """A regular heart shows every delay again one beat later, an irregular one does not."""
    for rr in (0.42, 0.5, 0.6):
        found, _ = pulse_delay(*(padded([times]) for times in beats(0.12, rr, 0.0, 0)))
        assert found[0] == pytest.approx(0.12, abs=0.002)
        # Without the first pulse and the last R the later one is the commoner one, by a single pair.
        r, upstrokes = beats(0.12, rr, 0.0, 0, 30.0)
        found, _ = pulse_delay(padded([r[:-1]]), padded([upstrokes[upstrokes > r[0] + 0.2]]))
        assert found[0] == pytest.approx(0.12, abs=0.002)
        found, _ = pulse_delay(*(padded([times]) for times in beats(rr + 0.07, rr, 0.25, 0, 60.0)))
        assert found[0] == pytest.approx(min(rr + 0.07, 0.7), abs=0.002)


def test_spread_is_that_between_beats():
    r, _ = beats(0.2, 0.85, 0.1, 0, 60.0)
    upstrokes = r + 0.2 + 0.01 * np.random.default_rng(0).standard_normal(len(r))
    found, spread = pulse_delay(padded([r]), padded([upstrokes], np.nan))
    assert found[0] == pytest.approx(0.2, abs=0.004) and 0.007 < spread[0] < 0.013


def test_too_few_pulses_have_no_delay():
    r, upstrokes = beats(0.2, 0.85, 0.1, 0)
    for few in ([], [upstrokes[1]], upstrokes[1:3]):
        found, spread = pulse_delay(padded([r]), padded([few], np.nan))
        assert torch.isnan(found).all() and torch.isnan(spread).all()
    assert pulse_delay(padded([r]), padded([upstrokes[1:4]], np.nan))[0][0] == pytest.approx(0.2, abs=0.002)
    assert torch.isnan(pulse_delay(padded([[]]), padded([upstrokes], np.nan))[0]).all()


# -------------------------------------------------------------------------------------------------------- the network
def references(delay_s, elapsed_s, n_leads: int = 12) -> Reference:
    made = Reference.none(len(delay_s), RATE)
    given = made.given.clone()
    given[:, :n_leads] = 1.0
    return dataclasses.replace(made, given=given, delay_s=torch.tensor(delay_s), elapsed_s=torch.tensor(elapsed_s))


def inputs(count: int):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(count, N_FEATURES, 512, generator=generator)
    return features, torch.randn(count, len(DEMOGRAPHIC_FEATURES), generator=generator)


def test_before_training_it_says_what_was_seen_and_the_surer_the_nearer():
    reference = references([0.18, 0.18, torch.nan], [60.0, torch.nan, 60.0])
    mean, sd = PulseDelay(N_FEATURES)(*inputs(3), seen_before(reference))
    torch.testing.assert_close(mean[:2], torch.tensor([0.18, 0.18]), atol=1e-6, rtol=0)
    assert 0.1 < mean[2] < 0.4 and sd[0] < sd[1] < sd[2]
    none = PulseDelay(N_FEATURES)(*inputs(2), seen_before(Reference.none(2, RATE)))
    assert none[0][0] == mean[2] and none[1][0] == sd[2]


def test_what_is_told_of_a_reference():
    delays, elapsed = [0.35, 0.35, torch.nan, 0.25], [60.0, SESSION_S + 1, 60.0, torch.nan]
    told = seen_before(references(delays, elapsed, n_leads=6))
    assert told.shape == (4, 4) and torch.isfinite(told).all()
    assert told[:, 0].tolist() == [1, 1, 0, 1] and told[:, 2].tolist() == [1, 0, 0, 0]
    assert told[0, 1] == told[1, 1] > told[3, 1] and told[:, 3].tolist() == [0.5] * 4
    assert seen_before(Reference.none(2, RATE)).abs().max() == 0


def test_every_input_counts_and_rows_do_not_depend_on_the_batch():
    torch.manual_seed(0)
    head = PulseDelay(N_FEATURES)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    features, people = inputs(3)
    told = seen_before(references([0.2, 0.2, 0.2], [60.0] * 3))
    mean, sd = head(features, people, told)
    for changed in ((features + 0.5, people, told), (features, people + 1, told), (features, people, told + 1)):
        assert not torch.allclose(head(*changed)[0], mean, atol=1e-5)
    alone = head(features[1:2], people[1:2], told[1:2])
    torch.testing.assert_close(torch.stack(alone)[:, 0], torch.stack((mean, sd))[:, 1], atol=1e-6, rtol=1e-5)
    assert sd.min() >= SD_LIMITS_S[0] and sd.max() <= SD_LIMITS_S[1]
    with torch.no_grad():
        head.output.bias[1] = 50.0
    assert head(features, people, told)[1].max() == torch.tensor(SD_LIMITS_S[1])


def test_loss_is_the_negative_log_likelihood():
    """Up to the constant log(2 pi) / 2; from FAR standard deviations on it grows as its tangent."""
    generator = torch.Generator().manual_seed(0)
    mean, sd = 0.2 + 0.05 * torch.randn(50, generator=generator), 0.01 + 0.02 * torch.rand(50, generator=generator)
    delay = mean + sd * torch.randn(50, generator=generator)
    expected = -torch.distributions.Normal(mean, sd).log_prob(delay).mean() - 0.5 * np.log(2 * np.pi)
    torch.testing.assert_close(PulseDelay.loss(mean, sd, delay), expected)
    one, far = torch.ones(1), torch.tensor([FAR + 3.0])
    loss = float(PulseDelay.loss(0 * one, one, far))
    assert loss == pytest.approx(0.5 * FAR**2 + 3 * FAR, rel=1e-5)


def test_delays_that_were_not_found_do_not_count():
    mean, sd = torch.tensor([0.2, 0.3, 0.4], requires_grad=True), torch.tensor([0.02, 0.03, 0.01], requires_grad=True)
    some = torch.tensor([0.21, torch.nan, 0.39])
    loss = PulseDelay.loss(mean, sd, some)
    torch.testing.assert_close(loss, PulseDelay.loss(mean[[0, 2]], sd[[0, 2]], some[[0, 2]]))
    loss.backward()
    assert torch.isfinite(mean.grad).all() and mean.grad[1] == sd.grad[1] == 0 and mean.grad[0] != 0
    none = PulseDelay.loss(mean, sd, torch.full((3,), torch.nan))
    none.backward()
    assert none == 0 and torch.isfinite(mean.grad).all()


def test_it_can_be_learned():
    """A delay that the PPG's level tells, with noise of 10 ms: mean and standard deviation are found."""
    torch.manual_seed(0)
    head, level = PulseDelay(N_FEATURES), torch.linspace(-1, 1, 64)
    features, people = level[:, None, None].expand(-1, N_FEATURES, 128).contiguous(), torch.zeros(64, 4)
    told = torch.zeros(64, 4)
    optimizer = torch.optim.Adam(head.parameters(), lr=3e-3)
    for _ in range(250):
        loss = head.loss(*head(features, people, told), 0.25 + 0.05 * level + 0.01 * torch.randn(64))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    mean, sd = head(features, people, told)
    assert (mean - 0.25 - 0.05 * level).abs().mean() < 0.006 and 0.006 < sd.mean() < 0.018


# ------------------------------------------------------------------------------------------------------ drawing delays
def test_quantiles_are_those_of_van_der_corput():
    found = quantile(torch.zeros(8), torch.arange(8))
    assert found.tolist() == [0, 1 / 2, 1 / 4, 3 / 4, 1 / 8, 5 / 8, 3 / 8, 7 / 8]


@pytest.mark.parametrize("shift", [0.0, 0.3, 0.999])
@pytest.mark.parametrize("count", [2, 4, 16, 64])
def test_the_first_quantiles_are_evenly_spread(count, shift):
    found = quantile(torch.full((count,), shift), torch.arange(count))
    assert found.min() >= 0 and found.max() < 1
    gaps = torch.diff(torch.cat([found.sort().values, found.min()[None] + 1]))
    torch.testing.assert_close(gaps, torch.full((count,), 1 / count), atol=1e-5, rtol=0)


def test_a_sample_has_its_quantile_whatever_stands_beside_it():
    shift, number = torch.tensor([0.1, 0.7, 0.1, 0.5]), torch.tensor([0, 5, 1023, 2])
    together = quantile(shift, number)
    for row in range(4):
        assert quantile(shift[row : row + 1], number[row : row + 1])[0] == together[row]
    assert number.tolist() == [0, 5, 1023, 2], "what was given is not changed"


def test_over_windows_each_sample_is_uniform():
    shift = torch.rand(2000, generator=torch.Generator().manual_seed(0))
    for k in (0, 1, 7):
        assert kstest(quantile(shift, torch.full((2000,), k)).numpy(), "uniform").pvalue > 0.01


def test_drawn_delays_are_normal_and_within_three_standard_deviations():
    q = torch.linspace(0.01, 0.99, 99)
    mean, sd = torch.full_like(q, 0.25), torch.full_like(q, 0.02)
    np.testing.assert_allclose(drawn_delay(mean, sd, q).numpy(), norm(0.25, 0.02).ppf(q.numpy()), atol=1e-5)
    ends = drawn_delay(mean[:2], sd[:2], torch.tensor([0.0, 1 - 1e-7]))
    torch.testing.assert_close(ends, torch.tensor([0.19, 0.31]), atol=1e-4, rtol=0)
