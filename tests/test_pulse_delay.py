"""The delays from R to the pulses: found where they were planted, told by distributions, beat by beat, drawn evenly."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from known_beats import padded, ppg_of
from scipy.special import expit
from torch import Tensor

from p2es_lib.core.demographics import FEATURES as DEMOGRAPHIC_FEATURES
from p2es_lib.core.learned import standardise
from p2es_lib.core.reference import SESSION_S, Reference
from p2es_lib.reference.conditioning import USUAL_SPREAD_S, PulseConditioning
from p2es_lib.reference.delay import (
    AFTER,
    BEFORE,
    FAR,
    JITTER_SD_S,
    OUTSIDE_REACH_S,
    OUTSIDE_SD_S,
    SD_LIMITS_S,
    PulseDelay,
    Timing,
    known_r_times,
    seen_before,
    timing_loss,
)
from p2es_lib.reference.mean_beat import DELAY_REACH_S, pulse_delay
from p2es_lib.reference.placement import expected_beats, median_interval
from p2es_lib.signals.pulse_features import N_FEATURES, pulse_features, pulse_upstrokes

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


def inputs(count: int, n: int = 1024):
    """Scaled PPG of known pulses, each window with intervals of its own, and people."""
    rng = np.random.default_rng(0)
    pulses = [rng.uniform(-0.9, -0.3) + np.cumsum(rng.uniform(0.7, 1.0, 20)) for _ in range(count)]
    ppg = torch.tensor(np.array([ppg_of(times, n, RATE) for times in pulses]), dtype=torch.float32)
    people = torch.randn(count, len(DEMOGRAPHIC_FEATURES), generator=torch.Generator().manual_seed(0))
    return standardise(ppg), people


def network(moved: float = 0.0) -> PulseDelay:
    torch.manual_seed(0)
    made = PulseDelay(N_FEATURES, RATE)
    with torch.no_grad():  # off the zero start of the last layers
        for parameter in made.parameters():
            parameter.add_(moved * torch.randn_like(parameter))
    return made


def told(count: int) -> Tensor:
    return seen_before(references([0.2] * count, [60.0] * count))


def test_before_training_it_says_what_was_seen_and_the_surer_the_nearer():
    reference = references([0.18, 0.18, torch.nan], [60.0, torch.nan, 60.0])
    timing = network()(*inputs(3), seen_before(reference))
    torch.testing.assert_close(timing.delay[:2], torch.tensor([0.18, 0.18]), atol=1e-6, rtol=0)
    sd = timing.delay_sd
    assert 0.1 < timing.delay[2] < 0.4 and sd[0] < sd[1] < sd[2]
    none = network()(*inputs(2), seen_before(Reference.none(2, RATE)))
    assert none.delay[0] == timing.delay[2] and none.delay_sd[0] == sd[2]


def test_before_training_beats_are_alike_and_those_outside_are_less_sure():
    timing = network()(*inputs(3), told(3))
    assert timing.shift.abs().max() == 0
    torch.testing.assert_close(timing.jitter_sd, torch.where(timing.seen, JITTER_SD_S, OUTSIDE_SD_S))


def test_what_is_told_of_a_reference():
    delays, elapsed = [0.35, 0.35, torch.nan, 0.25], [60.0, SESSION_S + 1, 60.0, torch.nan]
    told = seen_before(references(delays, elapsed, n_leads=6))
    assert told.shape == (4, 4) and torch.isfinite(told).all()
    assert told[:, 0].tolist() == [1, 1, 0, 1] and told[:, 2].tolist() == [1, 0, 0, 0]
    assert told[0, 1] == told[1, 1] > told[3, 1] and told[:, 3].tolist() == [0.5] * 4
    assert seen_before(Reference.none(2, RATE)).abs().max() == 0


def test_pulses_are_those_of_the_ppg_with_expected_ones_around():
    """Those in between are the seen ones; a fast heart has one more column filled than a slow one."""
    ppg, people = inputs(4)
    timing = network(0.05)(ppg, people, told(4))
    upstrokes = pulse_upstrokes(ppg, RATE)
    pulses, interval = expected_beats(upstrokes)
    assert torch.equal(timing.pulses, pulses) and torch.equal(timing.interval, interval)
    assert timing.seen.shape == timing.shift.shape == timing.jitter_sd.shape == pulses.shape
    for row in range(4):
        found = upstrokes[row][upstrokes[row].isfinite()]
        assert torch.equal(pulses[row][timing.seen[row]], found) and len(found) >= 7
        assert pulses[row].isfinite().sum() == len(found) + 3
    assert timing.shift[~timing.seen].abs().max() == 0 < timing.shift[timing.seen].abs().min()
    for row in range(4):  # each beat has a spread of its own, those that were not seen share one
        assert timing.jitter_sd[row][timing.seen[row]].log().std() > 1e-4
        assert len(timing.jitter_sd[row][~timing.seen[row]].unique()) == 1


@pytest.mark.parametrize("n_pulses", [0, 1])
def test_without_pulses_there_are_no_beats_and_nothing_breaks(n_pulses):
    ppg = torch.tensor(n_pulses * ppg_of([4.0], 1024, RATE), dtype=torch.float32)[None]
    made = network(0.05)
    timing = made(standardise(ppg), torch.zeros(1, 4), told(1))
    assert timing.pulses.isinf().all() and not timing.seen.any() and timing.interval == 1
    assert all(part.isfinite().all() for part in (timing.delay, timing.delay_sd, timing.shift, timing.jitter_sd))
    assert timing.r_times(timing.delay, torch.ones_like(timing.pulses)).isinf().all()
    placed, common, errors = known_r_times(timing, torch.tensor([[1.0, 2.0, torch.inf]]))
    assert placed.isinf().all() and common.isnan().all() and errors.isnan().all()
    loss = timing_loss(timing, common, errors)
    loss.backward()
    assert loss == 0 and all(p.grad is None or p.grad.isfinite().all() for p in made.parameters())


def test_every_input_counts_and_rows_do_not_depend_on_the_batch():
    """For the common delay, and for each beat's own part and its jitter."""
    head = network(0.1)
    ppg, people = inputs(3)
    timing = head(ppg, people, told(3))
    later = seen_before(references([0.3] * 3, [60.0] * 3))
    wider = standardise(ppg.sign() * ppg.abs() ** 1.3)
    for changed in ((wider, people, told(3)), (ppg, people + 1, told(3)), (ppg, people, later)):
        other = head(*changed)
        for name in ("delay", "delay_sd", "shift", "jitter_sd"):
            one, two = getattr(timing, name), getattr(other, name)
            assert one.shape == two.shape and not torch.allclose(one, two, atol=1e-6), name
    alone = head(ppg[1:2], people[1:2], told(1))
    for name, part in zip(Timing._fields, alone):
        torch.testing.assert_close(part[0], getattr(timing, name)[1], atol=1e-6, rtol=1e-5, msg=name)


def test_what_a_beat_shows_of_its_own_is_its_upstroke_and_the_intervals_around_it():
    """Three intervals before it and one after it, no more; its own upstroke, not that of the others."""
    head = network(0.1)
    times = 0.4 + 0.8 * np.arange(10)

    def shift_of(pulses, steep=()):
        t = np.arange(1024) / RATE
        width = [0.035 if k in steep else 0.025 for k in range(len(pulses))]
        wave = sum(expit((t - u) / w) - expit((t - u - 0.35) / 0.08) for u, w in zip(pulses, width))
        ppg = torch.tensor(wave, dtype=torch.float32)[None, None]
        # The window's part stays as it is: what is seen is what the beats differ by.
        context = torch.zeros(1, 64)
        upstrokes = pulse_upstrokes(ppg, RATE)
        expected, interval = expected_beats(upstrokes)
        features = pulse_features(standardise(ppg), RATE)
        with torch.no_grad():
            beats = head._beats(features, expected, interval, context)
        return beats[0, 1:11]  # of the ten that are seen

    plain, moved = shift_of(times), shift_of(times + 0.06 * (np.arange(10) == 4))
    n = len(head.offsets)
    around = slice(2 * n, 2 * n + BEFORE + AFTER)
    changed = ((plain - moved)[:, around].abs() > 0.05).any(dim=1)
    # Pulse 4 ends the interval before it and begins that after it.
    assert changed.tolist() == [k in range(4 - AFTER, 4 + 1 + BEFORE) for k in range(10)]
    # At most what two pulses around it say: (pulse 5 is the first after the later one).
    np.testing.assert_allclose(moved[4, around].numpy(), [0, 0, 0.375, -0.375], atol=0.02)
    np.testing.assert_allclose(moved[6, around].numpy(), [0.375, -0.375, 0, 0], atol=0.02)
    slower = (plain - shift_of(times, steep=[6]))[:, :n].abs().amax(dim=1)
    assert slower[6] > 0.2 and slower[6] > 4 * slower[[0, 1, 2, 3, 4, 5, 8, 9]].max()


def test_standard_deviations_have_limits():
    ppg, people = inputs(3)
    for pushed, limit in ((50.0, SD_LIMITS_S[1]), (-50.0, SD_LIMITS_S[0])):
        head = network(0.05)
        with torch.no_grad():
            head.output.bias[1:] = pushed
            head.beat_output.bias[1] = pushed
        timing = head(ppg, people, told(3))
        assert (timing.delay_sd == torch.tensor(limit)).all() and (timing.jitter_sd == torch.tensor(limit)).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_lower_precision_around_it_changes_little(dtype):
    """Times and standard deviations stay float32, in autocast as on a GPU; gradients are finite."""
    ppg, people = inputs(4)
    head = network(0.05)
    plain = head(ppg, people, told(4))
    r_times = plain.r_times(plain.delay.detach()).detach()
    with torch.autocast("cpu", dtype=dtype):
        lower = head(ppg, people, told(4))
        placed, common, errors = known_r_times(lower, r_times)
        loss = timing_loss(lower, common, errors)
    loss.backward()
    assert all(part.dtype == torch.float32 for part in (*lower[:1], *lower[2:], placed, common, errors, loss))
    assert torch.equal(lower.pulses, plain.pulses) and torch.equal(lower.seen, plain.seen)
    for name, limit in (("delay", 1e-3), ("shift", 1e-3)):
        assert (getattr(lower, name) - getattr(plain, name)).abs().max() < limit, name
    for name in ("delay_sd", "jitter_sd"):
        assert (getattr(lower, name) / getattr(plain, name)).log().abs().max() < 0.05, name
    assert errors[lower.seen].isfinite().all() and errors.nan_to_num(0.0).abs().max() < 2e-3
    assert loss.isfinite() and all(p.grad.isfinite().all() for p in head.parameters())


# ------------------------------------------------------------------------------------------------------------ R times
def timing_of(pulses, seen=None, delay=0.25, shift=0.0, jitter_sd=0.004, delay_sd=0.02) -> Timing:
    """One row or several; ``pulses`` inf-padded; default: all but the first and the last two were seen."""
    pulses = torch.as_tensor(pulses, dtype=torch.float32)
    pulses = pulses[None] if pulses.ndim == 1 else pulses
    count = len(pulses)
    if seen is None:
        place, there = torch.arange(pulses.shape[1]), pulses.isfinite().sum(dim=1, keepdim=True)
        seen = (place > 0) & (place < there - 2)
    interval = median_interval(pulses)
    full = (torch.full((count,), value) for value in (delay, delay_sd))
    each = (torch.as_tensor(value, dtype=torch.float32).expand_as(pulses).clone() for value in (shift, jitter_sd))
    return Timing(pulses, seen.expand_as(pulses), interval, *full, *each)


def test_r_times_are_the_pulses_less_all_parts_of_the_delay():
    pulses = torch.tensor([[-0.3, 0.5, 1.3, 2.2, 3.0, torch.inf]])
    timing = timing_of(pulses, shift=[0.0, 0.01, -0.02, 0.0, 0.0, 0.0], jitter_sd=[0.04, 0.01, 0.01, 0.01, 0.04, 0.04])
    late = torch.tensor([[0.25, 0.26, 0.23, 0.25, 0.25, 0.25]])
    torch.testing.assert_close(timing.r_times(timing.delay), pulses - late)
    torch.testing.assert_close(timing.r_times(torch.tensor([0.1])), pulses - late + 0.15)
    jitter = torch.tensor([[1.0, -1.0, 2.0, 0.0, 9.0, 1.0]])  # at most three standard deviations
    moved = pulses - late - torch.tensor([[0.04, -0.01, 0.02, 0.0, 0.12, 0.04]])
    torch.testing.assert_close(timing.r_times(timing.delay, jitter), moved)


def test_r_times_are_ascending_and_their_jitter_has_its_spread():
    """However large it is, beats come in order, those that are none last."""
    pulses = torch.cat([0.3 + 0.8 * torch.arange(12.0), torch.full((3,), torch.inf)]).repeat(3000, 1)
    sd = torch.linspace(0.002, 0.02, 15)
    generator = torch.Generator().manual_seed(0)
    jitter = torch.randn(3000, 15, generator=generator)
    timing = timing_of(pulses, jitter_sd=sd)
    r = timing.r_times(timing.delay, jitter)
    assert (r[:, 1:] >= r[:, :-1]).all() and r[:, 12:].isinf().all() and r[:, :12].isfinite().all()
    found = (pulses - 0.25 - r)[:, :12]
    np.testing.assert_allclose(found.std(dim=0).numpy(), sd[:12].numpy(), rtol=0.06)
    assert found.mean(dim=0).abs().max() < 0.0015
    correlation = torch.corrcoef(found.T) - torch.eye(12)
    assert correlation.abs().max() < 0.08, "beats jitter apart from each other"
    wild = timing._replace(jitter_sd=torch.full_like(timing.jitter_sd, 0.5))
    r = wild.r_times(timing.delay, jitter)
    assert (r[:, 1:] >= r[:, :-1]).all() and r[:, 12:].isinf().all() and not r.isnan().any()


def test_rows_side_by_side():
    timing = timing_of(torch.tensor([[0.0, 1.0, 2.0, 3.0], [0.5, 1.0, 1.5, 2.0]]), shift=[0.0, 0.1, 0.2, 0.3])
    twice = timing.repeat_interleave(2)
    assert all(torch.equal(part[::2], of) and torch.equal(part[1::2], of) for part, of in zip(twice, timing))


# ------------------------------------------------------------------------------------------------------ known R times
def irregular(seed: int, n: int = 14) -> np.ndarray:
    """R times of a fibrillating heart, some of them outside the window."""
    rng = np.random.default_rng(seed)
    return rng.uniform(-0.9, -0.3) + np.cumsum(rng.uniform(0.45, 1.25, n))


def known(r_planted, delays, *, upstrokes=None, shift=0.0, window_s=WINDOW_S):
    """Timing as :class:`PulseDelay` makes it of these pulses, the R times inside, and what is known of them."""
    upstrokes = r_planted + delays if upstrokes is None else upstrokes
    upstrokes = upstrokes[(upstrokes > 0.05) & (upstrokes < window_s - 0.05)]
    pulses, interval = expected_beats(torch.tensor(upstrokes, dtype=torch.float32)[None])
    seen = (pulses >= float(np.float32(upstrokes[0]))) & (pulses <= float(np.float32(upstrokes[-1])))
    assert int(seen.sum()) == len(upstrokes)
    inside = r_planted[(r_planted > 0) & (r_planted < window_s)]
    timing = timing_of(pulses, seen, delay=0.31, shift=shift)._replace(interval=interval)
    return timing, inside, known_r_times(timing, padded([inside]))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("delay", [0.12, 0.25, 0.45])
def test_an_irregular_heart_has_its_beats_exactly(seed, delay):
    """Each seen pulse whose R lies inside; beats jitter by 12 ms, of which the network need not know."""
    r = irregular(seed)
    jitter = 0.012 * np.random.default_rng(seed).standard_normal(len(r)).clip(-2, 2)
    timing, inside, (placed, common, errors) = known(r, delay + jitter)
    assert common[0] == pytest.approx(delay, abs=0.012)
    upstrokes = timing.pulses[timing.seen].numpy()
    for pulse, error in zip(upstrokes, errors[timing.seen].numpy()):
        own = int(np.abs(r + delay + jitter - pulse).argmin())
        if 0 < r[own] < WINDOW_S:
            assert np.abs(placed[0].numpy() - r[own]).min() < 1e-5
            # The delay of the beat is the common one and the error: > 0 where it is longer.
            assert error == pytest.approx(delay + jitter[own] - float(common), abs=1e-5)
        else:
            assert np.isnan(error) and np.abs(placed[0].numpy() - (pulse - float(common))).min() < 1e-5
    assert (placed[0, 1:] >= placed[0, :-1]).all()
    # Each beat of the ECG that has a pulse inside appears once.
    with_pulse = inside[(inside + delay < WINDOW_S - 0.1)]
    near = (np.abs(placed[0].numpy() - with_pulse[:, None]) < 1e-5).sum(axis=1)
    assert (near == 1).all()


def test_missing_pulses_leave_their_beats_out_and_move_no_other():
    r = irregular(1)
    full, missing = r + 0.25, np.delete(r, [4, 8]) + 0.25
    timing, _, (placed, common, errors) = known(r, 0.25, upstrokes=missing)
    assert common[0] == pytest.approx(0.25, abs=1e-4)
    for pulse in full:
        if 0.3 < pulse < WINDOW_S - 0.05:
            distance = np.abs(placed[0].numpy() - (pulse - 0.25)).min()
            assert (distance < 1e-4) == (pulse in missing), pulse
    assert errors[timing.seen].nan_to_num(0.0).abs().max() < 1e-4


def test_false_pulses_lie_where_they_are_expected_and_take_no_beat():
    """They have no R within reach, or one that the true pulse is nearer to: no error is learned from them."""
    r = irregular(2)
    false = np.array([r[3] + 0.25 + 0.03, r[6] + 0.25 + 0.20])  # one near a true pulse, one between two
    timing, _, (placed, common, errors) = known(r, 0.25, upstrokes=np.sort(np.r_[r + 0.25, false]))
    assert common[0] == pytest.approx(0.25, abs=2e-3)
    for pulse, is_seen, error in zip(timing.pulses[0].numpy(), timing.seen[0], errors[0].numpy()):
        if is_seen and np.abs(false - pulse).min() < 1e-4:
            assert np.isnan(error) and np.abs(placed[0].numpy() - (pulse - float(common))).min() < 1e-5
        elif is_seen and pulse - 0.25 > 0:
            assert abs(error) < 2e-3 and np.abs(placed[0].numpy() - (pulse - 0.25)).min() < 1e-4


def test_of_two_pulses_near_one_r_the_nearer_has_it_whichever_comes_first():
    r = np.array([0.5, 1.3, 2.1, 2.9])
    for offsets, nearer in (((-0.04, 0.01), 1), ((-0.01, 0.05), 0), ((0.004, 0.03), 0)):
        pulses = np.sort(np.r_[r[[0, 1, 3]] + 0.25, [r[2] + 0.25 + offset for offset in offsets]])
        timing = timing_of(pulses, torch.ones(1, 5, dtype=torch.bool), delay=0.25)
        _, common, errors = known_r_times(timing, padded([r]))
        assert float(common) == pytest.approx(0.25, abs=0.006)
        two = errors[0, 2:4]
        assert two.isfinite().tolist() == [nearer == 0, nearer == 1]
        assert float(two[nearer]) == pytest.approx(offsets[nearer] + 0.25 - float(common), abs=1e-5)


def test_beats_outside_the_pulses_are_found_within_their_reach():
    """The R at the end of the window, whose pulse comes after it: as far off as the rhythm changes there."""
    r = 0.2 + 0.8 * np.arange(10)  # the last at 7.4; its pulse would be at 8.0, the next R at 8.2
    for late in (0.0, 0.15, -0.2, 0.3, -0.3):
        moved = np.r_[r[:-1], r[-1] + late]
        timing, inside, (placed, common, errors) = known(moved, 0.6, upstrokes=r[:-1] + 0.6)
        assert float(common) == pytest.approx(0.6, abs=1e-3)
        place = int(timing.seen[0].nonzero()[-1]) + 1  # the first after those that were seen
        error = float(errors[0, place])
        if abs(late) <= OUTSIDE_REACH_S:
            assert error == pytest.approx(-late, abs=1e-3), "R comes later: the delay is shorter"
            assert np.abs(placed[0].numpy() - moved[-1]).min() < 1e-4
        else:
            assert np.isnan(error) and np.abs(placed[0].numpy() - r[-1]).min() < 1e-3
        assert errors[0, place + 1 :].isnan().all() and errors[0, 0].isnan()


def test_seen_pulses_reach_less_far_than_expected_ones():
    assert DELAY_REACH_S < OUTSIDE_REACH_S
    r = 0.5 + 0.8 * np.arange(9)
    for off in (0.8, 1.3):
        upstrokes = r + 0.25
        upstrokes[4] += off * DELAY_REACH_S
        timing, _, (placed, common, errors) = known(r, 0.25, upstrokes=upstrokes)
        assert errors[0, 5].isfinite() == (off < 1)
        target = r[4] if off < 1 else upstrokes[4] - float(common)
        assert np.abs(placed[0].numpy() - target).min() < 1e-4


def test_what_is_expected_of_each_beat_is_taken_off_its_error():
    """Signs: a longer delay than common is a positive shift, and an error of what the shift left of it."""
    r = irregular(3)
    own = 0.02 * np.where(np.arange(len(r)) % 2, 1, -1)
    upstrokes = r + 0.25 + own
    keep = (upstrokes > 0.05) & (upstrokes < WINDOW_S - 0.05)
    expected = torch.zeros(1, int(keep.sum()) + 3)
    expected[0, 1:-2] = torch.tensor(own[keep])
    for share in (0.0, 0.5, 1.0):
        timing, _, (placed, common, errors) = known(r, 0.25 + own, shift=share * expected)
        found = errors.isfinite() & timing.seen
        left = (0.25 + expected) - common - share * expected
        torch.testing.assert_close(errors[found], left[found], atol=1e-5, rtol=0)
        assert found.sum() >= 8 and np.abs(placed.numpy()[found.numpy()][:, None] - r).min(axis=1).max() < 1e-4


def test_nothing_known_leaves_what_is_expected():
    timing = timing_of([-0.3, 0.5, 1.3, 2.1, 2.9, 3.7, torch.inf], delay=0.2, shift=0.01)
    expected = timing.r_times(timing.delay)
    for r_times in ([torch.inf] * 4, [0.3, torch.inf, torch.inf, torch.inf]):
        placed, common, errors = known_r_times(timing, torch.tensor([r_times]))
        assert common.isnan().all() and errors.isnan().all()
        torch.testing.assert_close(placed, expected)


def test_pulses_that_are_only_expected_have_no_say_in_the_common_delay():
    """Three are needed that were seen: two, and one that is expected where a third would be, are none."""
    pulses, r_times = 0.45 + 0.8 * torch.arange(5.0), 0.2 + 0.8 * torch.arange(5.0)[None]
    for n_seen, expected in ((2, torch.nan), (3, 0.25)):
        seen = ((torch.arange(5) > 0) & (torch.arange(5) <= n_seen))[None]
        _, common, errors = known_r_times(timing_of(pulses, seen), r_times)
        torch.testing.assert_close(common, torch.tensor([expected]), equal_nan=True)
        assert errors.isfinite().all() == (n_seen == 3)


def test_known_r_times_of_a_row_do_not_depend_on_the_batch():
    rows = [known(irregular(seed), 0.2 + 0.05 * seed) for seed in range(4)]
    width = max(timing.pulses.shape[1] for timing, *_ in rows)
    fill = {"pulses": torch.inf, "seen": False, "shift": 0.0, "jitter_sd": 0.04}

    def widened(timing):
        return timing._replace(
            **{
                name: F.pad(getattr(timing, name), (0, width - timing.pulses.shape[1]), value=value)
                for name, value in fill.items()
            }
        )

    together = Timing(*map(torch.cat, zip(*(widened(timing) for timing, *_ in rows))))
    placed, common, errors = known_r_times(together, padded([inside for _, inside, _ in rows]))
    for row, (timing, _, alone) in enumerate(rows):
        n = timing.pulses.shape[1]
        torch.testing.assert_close(placed[row, :n], alone[0][0])
        torch.testing.assert_close(common[row], alone[1][0])
        torch.testing.assert_close(errors[row, :n], alone[2][0], equal_nan=True)
        assert placed[row, n:].isinf().all() and errors[row, n:].isnan().all()


def test_known_r_times_stay_on_one_device():
    """In training they are found where the model is: no tensor may be made elsewhere."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    timing, inside, _ = known(irregular(0), 0.25)
    with FakeTensorMode(allow_non_fake_inputs=False) as mode:
        there = Timing(*(mode.from_tensor(part).to("meta") for part in timing))
        placed, common, errors = known_r_times(there, mode.from_tensor(padded([inside])).to("meta"))
        loss = timing_loss(there, common, errors)
    assert {part.device.type for part in (placed, common, errors, loss)} == {"meta"}


# --------------------------------------------------------------------------------------------------------------- loss
def some_errors(count: int = 50, n: int = 9):
    generator = torch.Generator().manual_seed(0)
    sd = 0.01 + 0.02 * torch.rand(count, generator=generator)
    jitter_sd = 0.003 + 0.01 * torch.rand(count, n, generator=generator)
    delay, errors = (torch.randn(part.shape, generator=generator) * part for part in (sd, jitter_sd))
    mean = 0.2 + 0.05 * torch.randn(count, generator=generator)
    return Timing(None, None, None, mean, sd, None, jitter_sd), mean + delay, errors


def normal_loss(error, sd) -> torch.Tensor:
    zero = torch.zeros_like(sd)
    return -torch.distributions.Normal(zero, sd).log_prob(error).mean() - 0.5 * np.log(2 * np.pi)


def test_loss_is_the_negative_log_likelihood():
    """Of common delays and of single beats, each up to the constant log(2 pi) / 2."""
    timing, delay, errors = some_errors()
    z = torch.cat([(delay - timing.delay) / timing.delay_sd, (errors / timing.jitter_sd).flatten()])
    assert z.abs().max() < FAR, "none of them is far"
    expected = normal_loss(delay - timing.delay, timing.delay_sd) + normal_loss(errors, timing.jitter_sd)
    torch.testing.assert_close(timing_loss(timing, delay, errors), expected, atol=1e-5, rtol=1e-5)


def test_far_from_what_is_expected_the_loss_is_its_tangent():
    one, none = torch.ones(1), torch.full((1, 2), torch.nan)
    for sign in (-1, 1):
        unit = Timing(None, None, None, 0 * one, one, None, torch.ones(1, 2))
        far = sign * (FAR + 3.0)
        assert float(timing_loss(unit, far * one, none)) == pytest.approx(0.5 * FAR**2 + 3 * FAR, rel=1e-5)
        errors = torch.tensor([[far, torch.nan]])
        assert float(timing_loss(unit, one * torch.nan, errors)) == pytest.approx(0.5 * FAR**2 + 3 * FAR, rel=1e-5)


def test_delays_that_were_not_found_do_not_count():
    timing, delay, errors = some_errors(3, 4)
    leaves = [part.clone().requires_grad_() for part in (timing.delay, timing.delay_sd, errors, timing.jitter_sd)]
    timing = timing._replace(delay=leaves[0], delay_sd=leaves[1], jitter_sd=leaves[3])
    missing = torch.tensor([False, True, False])
    not_found = torch.zeros(3, 4, dtype=torch.bool)
    not_found[0, 2:], not_found[1] = True, True
    loss = timing_loss(timing, delay.masked_fill(missing, torch.nan), leaves[2].masked_fill(not_found, torch.nan))
    rows = ~missing
    expected = normal_loss((delay - timing.delay)[rows], timing.delay_sd[rows])
    expected = expected + normal_loss(errors[~not_found], timing.jitter_sd[~not_found])
    torch.testing.assert_close(loss, expected)
    loss.backward()
    for leaf, absent in zip(leaves, (missing, missing, not_found, not_found)):
        assert leaf.grad.isfinite().all()
        assert leaf.grad[absent].abs().max() == 0 < leaf.grad[~absent].abs().min()
    none = timing_loss(timing, torch.full((3,), torch.nan), torch.full((3, 4), torch.nan))
    none.backward()
    assert none == 0 and all(leaf.grad.isfinite().all() for leaf in leaves)


def test_the_gradient_reaches_all_four_and_points_the_right_way():
    """A heart whose delays are longer than expected, and spread more, asks for longer and less sure ones."""
    r = irregular(4)
    jitter = 0.012 * np.random.default_rng(0).standard_normal(len(r)).clip(-2, 2)
    timing, inside, _ = known(r, 0.40 + jitter)
    parts = {
        name: getattr(timing, name).clone().requires_grad_() for name in ("delay", "delay_sd", "shift", "jitter_sd")
    }
    timing = timing._replace(**parts)  # 0.31 s expected, +- 20 ms, jitter 4 ms
    placed, common, errors = known_r_times(timing, padded([inside]))
    timing_loss(timing, common, errors).backward()
    found = errors.isfinite()
    assert parts["delay"].grad[0] < 0 and parts["delay_sd"].grad[0] < 0, "longer, and less sure"
    shift, spread = parts["shift"].grad, parts["jitter_sd"].grad
    assert (shift.sign() == -errors.detach().sign())[found].all(), "a longer delay asks for a larger shift"
    far = found & (errors.abs() > 1.2 * timing.jitter_sd)
    assert (spread[far] < 0).all() and far.sum() >= 5
    assert shift[~found].abs().max() == spread[~found].abs().max() == 0
    assert shift.isfinite().all() and spread.isfinite().all()


def test_a_step_against_the_gradient_moves_the_network_towards_the_beats():
    """Of every layer: the last ones start at zero, but no longer after one step."""
    ppg, people = inputs(6)
    head, later = network(0.02), 0.05
    before = head(ppg, people, told(6))
    truth = before.r_times(before.delay.detach() + later, torch.randn(before.pulses.shape)).detach()
    inside = torch.where((truth > 0) & (truth < WINDOW_S), truth, torch.inf).sort(dim=1).values
    optimizer = torch.optim.SGD(head.parameters(), lr=1e-6)
    _, common, errors = known_r_times(before, inside)
    loss = timing_loss(before, common, errors)
    loss.backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in head.parameters())
    optimizer.step()
    after = head(ppg, people, told(6))
    assert timing_loss(after, *known_r_times(after, inside)[1:]) < loss and (after.delay > before.delay).all()


# ----------------------------------------------------------------------------------------------------------- learning
#: Of the synthetic hearts: s of delay per s of the interval that ends two beats before a pulse, and jitter, s.
PER_INTERVAL, TRUE_JITTER_S = 0.014 / 0.24, 0.008


def hearts(count: int, seed: int):
    """PPG, people and R times of irregular hearts whose delay follows the interval before the last one; also that."""
    rng, n = np.random.default_rng(seed), 1024
    ppg, inside, own = [], [], []
    for _ in range(count):
        intervals = 0.8 + rng.uniform(-0.24, 0.24, 20)
        r = rng.uniform(-1.2, -0.6) + np.cumsum(intervals)
        shift = PER_INTERVAL * (np.r_[0.8, 0.8, intervals[:-2]] - 0.8)
        delay = rng.normal(0.25, 0.02) + shift + TRUE_JITTER_S * rng.standard_normal(20)
        ppg.append(ppg_of(r + delay, n, RATE))
        inside.append(r[(r > 0) & (r < n / RATE)])
        own.append((r + delay, shift))
    return standardise(torch.tensor(np.array(ppg), dtype=torch.float32)), padded(inside), own


@pytest.fixture(scope="module")
def taught():
    """A network after 150 steps, and hearts that it has not seen."""
    torch.manual_seed(0)
    head, n = PulseDelay(N_FEATURES, RATE), 256
    ppg, r_times, _ = hearts(n, 0)
    optimizer = torch.optim.Adam(head.parameters(), lr=3e-3)
    for step in range(150):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1.0, (150 - step) / 50)
        rows = torch.randint(n, (48,))
        timing = head(ppg[rows], torch.zeros(48, 4), torch.zeros(48, 4))
        loss = timing_loss(timing, *known_r_times(timing, r_times[rows])[1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return head, hearts(60, 1)


def test_it_learns_how_delays_follow_the_intervals(taught):
    """14 ms per 240 ms, two beats back: at least half of what varies by it is explained in hearts not seen."""
    head, (ppg, _, own) = taught
    with torch.no_grad():
        timing = head(ppg, torch.zeros(60, 4), torch.zeros(60, 4))
    said, true = [], []
    for row, (pulses, shift) in enumerate(own):
        seen = timing.pulses[row][timing.seen[row]].numpy()
        of = np.abs(pulses - seen[:, None]).argmin(axis=1)
        # Those whose interval two beats back lies inside the window, and that the end does not cut.
        part = (np.arange(len(seen)) >= 3) & (seen < 8.0)
        assert np.abs(pulses[of] - seen)[part].max() < 0.01
        said.append((timing.shift[row][timing.seen[row]].numpy() - shift[of])[part])
        true.append(shift[of][part])
    left, there = np.concatenate(said), np.concatenate(true)
    assert len(there) > 300 and 0.006 < there.std() < 0.010
    assert (left - left.mean()).var() < 0.5 * there.var()


def test_it_learns_the_spread_that_is_left(taught):
    """Jitter of beats and spread of common delays, in hearts not seen, within 40 % of what is there."""
    head, (ppg, r_times, _) = taught
    with torch.no_grad():
        timing = head(ppg, torch.zeros(60, 4), torch.zeros(60, 4))
    _, common, errors = known_r_times(timing, r_times)
    found = timing.seen & errors.isfinite()
    sd = timing.jitter_sd[found]
    assert not 0.6 * TRUE_JITTER_S < JITTER_SD_S < 1.4 * TRUE_JITTER_S, "it was learned"
    assert 0.6 * TRUE_JITTER_S < sd.median() < 1.4 * TRUE_JITTER_S
    assert 0.7 < float((errors[found] / sd).square().mean().sqrt()) < 1.4
    z = (common - timing.delay) / timing.delay_sd
    assert 0.6 < float(z.square().mean().sqrt()) < 1.5 and 0.012 < timing.delay_sd.mean() < 0.028
    outside = ~timing.seen & errors.isfinite()
    assert outside.sum() > 5 and timing.jitter_sd[outside].min() > 2 * sd.median()


def test_a_delay_that_varied_in_the_reference_is_less_sure():
    """With a monitor whose delay wanders, and not with the jitter of any finger."""
    head = PulseConditioning(N_FEATURES, 125.0)
    ppg = torch.sin(torch.arange(1024) / 125 * 2 * torch.pi * 1.1).expand(3, 1, -1)
    reference = dataclasses.replace(
        Reference.none(3, 125.0),
        given=torch.ones(3, 12), delay_s=torch.full((3,), 0.3), elapsed_s=torch.full((3,), 60.0),
        delay_sd_s=torch.tensor([torch.nan, 0.004, 0.017]),
    )  # fmt: skip
    with torch.no_grad():
        unknown, usual, wandering = head.timing(ppg, torch.zeros(3, 4), reference).delay_sd.tolist()
    assert unknown == usual and wandering == pytest.approx((usual**2 + 0.017**2 - USUAL_SPREAD_S**2) ** 0.5)
