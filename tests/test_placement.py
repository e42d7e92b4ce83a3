"""The beats of a reference under other pulses: at the same rate the ECG itself, at another one QT and PR as published,
no jumps, and the leads that were not given."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from known_beats import ecg_of, padded, wave

from p2es_lib.core.leads import LEAD_MATRIX, LEADS, complete_limb_leads, lead_residual
from p2es_lib.core.reference import BEFORE_S, Reference, beat_samples
from p2es_lib.reference.placement import (
    CROSSFADE_S,
    as_one_beat,
    complete_leads,
    expected_beats,
    median_interval,
    place_beats,
    place_reference,
)

RATE, N = 125.0, 1024
OFFSETS = np.arange(beat_samples(RATE)) / RATE - BEFORE_S
time_s = np.arange(N) / RATE


def one(shape=wave) -> torch.Tensor:
    """A mean beat (1, 12, L)."""
    return torch.tensor(shape(OFFSETS), dtype=torch.float32)[None]


def marker(at: float, width: float = 0.012):
    """A beat with one bump at this time from R."""
    return lambda seconds: np.exp(-0.5 * ((seconds - at) / width) ** 2) * np.ones((12, 1))


def place(beats, r_times, rr_s: float = 0.8, interval_s: float = 0.8) -> np.ndarray:
    rr_s, interval_s = (torch.full((len(beats),), value) for value in (rr_s, interval_s))
    return place_beats(beats, rr_s, padded([r_times]), interval_s, N, RATE).numpy()


def reference(beats, given=None, rr_s: float = 0.8, delay_s: float = 0.2) -> Reference:
    given = torch.ones(len(beats), 12) if given is None else given
    full = (torch.full((len(beats),), value) for value in (rr_s, delay_s, torch.nan))
    return Reference(beats * given[:, :, None], given, *full)


# ------------------------------------------------------------------------------------------------------ where beats lie
def test_pulses_outside_are_added_by_the_usual_interval():
    upstrokes = torch.tensor([[0.5, 1.3, 2.1, torch.nan, torch.nan], [0.2, 1.2, 2.2, 3.3, 4.2]])
    pulses, interval = expected_beats(upstrokes)
    assert pulses.shape == (2, 8)
    torch.testing.assert_close(interval, torch.tensor([0.8, 1.0]))
    torch.testing.assert_close(pulses[0, :6], torch.tensor([-0.3, 0.5, 1.3, 2.1, 2.9, 3.7]))
    assert pulses[0, 6:].isinf().all() and not pulses.isnan().any()
    torch.testing.assert_close(pulses[1], torch.tensor([-0.8, 0.2, 1.2, 2.2, 3.3, 4.2, 5.2, 6.2]))


@pytest.mark.parametrize("upstrokes", [[1.0], [torch.nan, torch.nan], [1.0, torch.nan]])
def test_fewer_than_two_pulses_are_none(upstrokes):
    pulses, interval = expected_beats(torch.tensor([upstrokes]))
    assert pulses.isinf().all() and interval.tolist() == [1.0]


def test_no_pulse_no_beat():
    pulses, _ = expected_beats(torch.tensor([[torch.nan, torch.nan], [1.0, 2.0]]))
    placed = place_reference(reference(one().repeat(2, 1, 1)), pulses - 0.2, N, RATE)
    assert placed[0].abs().max() == 0 and placed[1].abs().max() > 0.5


def test_no_reference_shows_nothing():
    pulses, _ = expected_beats(torch.tensor([[1.0, 1.8, 2.6]]))
    placed = place_reference(Reference.none(1, RATE), pulses - 0.2, N, RATE)
    assert placed.shape == (1, 12, N) and placed.abs().max() == 0


# -------------------------------------------------------------------------------------------------------------- beats
@pytest.mark.parametrize("start", [-0.5, -0.201, 0.0, 0.003])
def test_at_the_same_rate_it_is_the_ecg(start):
    r = start + 0.8 * np.arange(12)
    error = place(one(), r)[0] - ecg_of(r, N, RATE)
    covered = time_s > start - 0.42 * 0.8
    assert np.sqrt(np.mean(error[:, covered] ** 2)) < 0.003 and np.abs(error[:, covered]).max() < 0.05


def test_irregular_beats_lie_where_they_are():
    r = -0.3 + np.cumsum([0, 0.8, 0.78, 0.85, 0.8, 0.76, 0.81, 0.8, 0.9, 0.8, 0.8])
    error = place(one(), r)[0] - ecg_of(r, N, RATE)
    assert np.sqrt(np.mean(error**2)) < 0.003


@pytest.mark.parametrize(("reference_rr", "rr"), [(1.0, 0.6), (0.6, 1.0), (0.8, 1.2), (0.7, 0.7)])
def test_end_of_t_and_pr_follow_the_rate(reference_rr, rr):
    """QT = 0.36 s RR^(1/3) (Fridericia); PR moves by 54 ms per second of RR; QRS stays."""

    def qt(interval):
        return 0.36 * interval ** (1 / 3)

    def pr(interval):
        return 0.16 + 0.054 * (interval - 1)

    r = -0.1 + rr * np.arange(20)
    for shown, expected in [(qt(reference_rr), qt(rr)), (-pr(reference_rr), -pr(rr))]:
        ecg = place(one(marker(shown)), r, reference_rr, rr)[0, 0]
        middle = r[3]
        part = (time_s > middle - 0.42 * rr) & (time_s < middle + 0.58 * rr)
        found = np.sum(time_s[part] * ecg[part]) / np.sum(ecg[part]) - middle
        assert found == pytest.approx(expected, abs=0.003)
    ecg = place(one(), r, reference_rr, rr)[0]
    near = np.abs(time_s[:, None] - r).min(axis=1) < 0.055
    since = (time_s[:, None] - r)[np.arange(N), np.abs(time_s[:, None] - r).argmin(axis=1)]
    assert np.abs(ecg - wave(since))[:, near].max() < 0.03


def test_t_wave_of_fast_and_slow_beats():
    """From 60 to 120 a minute the T peak comes from 250 ms to J + 190 ms x 0.226 / 0.300 = 203 ms after R."""
    r = -0.1 + 0.5 * np.arange(20)
    ecg = place(one(), r, 1.0, 0.5)[0, 1]
    part = (time_s > r[4] + 0.12) & (time_s < r[4] + 0.27)
    assert time_s[part][ecg[part].argmax()] - r[4] == pytest.approx(0.203, abs=0.006)


def test_one_beat_fades_into_the_next_without_a_jump():
    def ramp(seconds):
        return (seconds / 0.5) * np.ones((12, 1))

    r = -0.3 + 0.8 * np.arange(12)
    placed = place(one(ramp), r)[0, 0]
    boundary = 0.48 / 0.5 + 0.32 / 0.5  # what would be the jump
    steps = np.abs(np.diff(placed))
    assert boundary / (CROSSFADE_S * RATE) * 0.8 < steps.max() < boundary / (CROSSFADE_S * RATE) + 0.05
    constant = place(one(lambda seconds: np.ones((12, len(seconds)))), r)
    np.testing.assert_allclose(constant, 1.0, atol=1e-5)


def test_rows_do_not_depend_on_the_batch():
    beats = torch.cat([one(), 2 * one(), one(marker(0.1))])
    made = dataclasses.replace(reference(beats), rr_s=torch.tensor([0.8, 1.0, 0.6]))
    made.given[1, 2:] = 0
    pulses, _ = expected_beats(
        torch.tensor([[0.5, 1.3, 2.2, torch.nan, torch.nan], [0.1, 0.7, 1.3, 1.9, 2.5], [torch.nan] * 5])
    )
    r_times = pulses - torch.tensor([[0.2], [0.3], [0.25]])
    together = place_reference(made, r_times, N, RATE)
    for row in range(3):
        part = slice(row, row + 1)
        alone = place_reference(made[part], r_times[part, : 8 - 2 * (row == 0)], N, RATE)
        torch.testing.assert_close(alone[0], together[row], atol=2e-6, rtol=0)


def test_r_lies_a_delay_before_the_pulse():
    pulses, _ = expected_beats(torch.arange(0.3, 8, 0.8)[None])
    for delay in (0.1, 0.25, 0.5):
        placed = place_reference(reference(one()), pulses - delay, N, RATE)[0].numpy()
        r = np.arange(0.3 - 0.8, 10, 0.8) - delay
        covered = slice(0, round((8 - delay) * RATE))
        assert np.sqrt(np.mean((placed - ecg_of(r, N, RATE))[:, covered] ** 2)) < 0.004


def test_each_beat_lies_at_its_own_r_time_and_the_median_interval_sets_qt():
    """R times that no common delay gives; of those that are not there (inf) none counts for the interval."""
    r = 0.1 + np.cumsum([0, 0.9, 0.6, 0.6, 0.62, 0.58, 0.6, 0.95, 0.6])
    placed = place_reference(reference(one(), rr_s=1.0), padded([r]), N, RATE)[0].numpy()
    np.testing.assert_allclose(placed, place(one(), r, 1.0, 0.6)[0], atol=1e-5)
    assert np.abs(placed - place(one(), r, 1.0, 0.8)[0]).max() > 0.05
    for middle in r:
        near = np.abs(time_s - middle) < 0.055
        assert np.abs(placed - wave(time_s - middle))[:, near].max() < 0.03


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([0.5, 1.3, 2.3, 3.1], 0.8), ([0.5, 1.3, torch.inf, torch.inf], 0.8), ([0.5, 1.2, torch.nan, torch.nan], 0.7),
        ([0.5, torch.inf], torch.nan), ([torch.inf, torch.inf], torch.nan), ([0.5], torch.nan), ([], torch.nan),
    ],
)  # fmt: skip
def test_median_interval_is_that_of_the_beats_that_are_there(times, expected):
    found = median_interval(torch.tensor([times]))
    torch.testing.assert_close(found, torch.tensor([expected]), equal_nan=True)


def test_one_beat_alone_is_shown_as_at_one_second():
    placed = place_reference(reference(one(), rr_s=1.0), padded([[4.0]]), N, RATE)[0].numpy()
    near = np.abs(time_s - 4.0) < 0.3
    assert np.abs(placed - wave(time_s - 4.0))[:, near].max() < 0.03


def test_lower_precision_around_it_does_not_reach_it():
    """As where a training runs under autocast: times of some seconds have no milliseconds in bfloat16."""
    pulses, _ = expected_beats(torch.arange(0.3, 8, 0.8)[None])
    given = torch.ones(1, 12)
    given[0, [0, 4, 9]] = 0
    arguments = reference(one(), given), pulses - 0.2, N, RATE
    plain = place_reference(*arguments)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lower = place_reference(*arguments)
    assert plain.dtype == torch.float32
    torch.testing.assert_close(lower.float(), plain, atol=0.02, rtol=0.01)


# -------------------------------------------------------------------------------------------------------------- leads
def completed(names, ecg=None) -> tuple[np.ndarray, np.ndarray]:
    """What is made of the named leads of a consistent ECG, and that ECG."""
    if ecg is None:
        ecg = LEAD_MATRIX @ np.random.default_rng(0).standard_normal((8, 50))
    given = torch.tensor([[float(lead in names) for lead in LEADS]])
    return complete_leads(torch.tensor(ecg)[None], given)[0].numpy(), ecg


def test_all_leads_stay_as_they_are():
    found, ecg = completed(LEADS)
    np.testing.assert_allclose(found, ecg, atol=1e-12)


@pytest.mark.parametrize("names", [("I", "II"), ("aVR", "III"), LEADS[:6], ("I", "aVF", "V3")])
def test_two_limb_leads_give_all_six(names):
    """Against the solution by Einthoven's and Goldberger's equations."""
    found, ecg = completed(names)
    limb = [lead for lead in names if lead in LEADS[:6]]
    expected, _ = complete_limb_leads({lead: ecg[LEADS.index(lead)] for lead in limb})
    np.testing.assert_allclose(found[:6], expected[:6], atol=1e-12)
    np.testing.assert_allclose(found[:6], ecg[:6], atol=1e-12)
    given = [LEADS.index(lead) for lead in names]
    np.testing.assert_allclose(found[given], ecg[given], atol=1e-12)
    assert np.abs(np.delete(found[6:], [row - 6 for row in given if row > 5], axis=0)).max() == 0


def test_one_limb_lead_gives_the_smallest_limb_leads():
    """Of all II that go with I, the sum of squares of the six is least at I / 2."""
    found, ecg = completed(["I"])
    one = ecg[0]
    half, none = 0.5 * one, 0 * one
    np.testing.assert_allclose(found[:6], [one, half, -half, -0.75 * one, 0.75 * one, none], atol=1e-12)
    assert np.abs(found[6:]).max() == 0
    size = {two: np.sum((LEAD_MATRIX[:6, :2] @ [1.0, two]) ** 2) for two in np.linspace(-2, 2, 401).round(2)}
    assert min(size, key=size.get) == 0.5


def test_chest_leads_say_nothing_of_the_limbs():
    found, ecg = completed(("V1", "V5"))
    np.testing.assert_allclose(found[[6, 10]], ecg[[6, 10]], atol=1e-12)
    assert np.abs(np.delete(found, [6, 10], axis=0)).max() < 1e-12


def test_whatever_is_given_the_result_is_consistent_and_shows_it():
    rng = np.random.default_rng(0)
    for _ in range(30):
        names = rng.permutation(LEADS)[: rng.integers(0, 13)]
        found, ecg = completed(names)
        given = [LEADS.index(lead) for lead in names]
        assert lead_residual(found) < 1e-12
        np.testing.assert_allclose(found[given], ecg[given], atol=1e-12)


def test_in_single_precision_too():
    """With three limb leads one of them is superfluous, and small differences must not be blown up."""
    ecg = torch.tensor(LEAD_MATRIX @ np.random.default_rng(0).standard_normal((8, 50)))[None]
    generator = torch.Generator().manual_seed(0)
    given = torch.cat([torch.tril(torch.ones(12, 12)), (torch.rand(100, 12, generator=generator) < 0.5).float()])
    for row in given:
        found = complete_leads(ecg.float(), row[None])
        torch.testing.assert_close(found, complete_leads(ecg, row[None]).float(), atol=2e-5, rtol=0)


# ------------------------------------------------------------------------------------------------------ beats made one
def test_beats_that_are_alike_become_one_and_others_stay():
    r_times = np.array([0.6, 1.4, 2.2, 3.0, 3.5, 4.6, 5.4, 6.2, 7.0, 7.8])
    gains = [1.0, 1.1, 0.9, 1.05, -1.0, 0.95, 1.1, 0.9, 1.0, 1.0]  # the fifth is early, and upside down
    shapes = [lambda seconds, gain=gain: gain * wave(seconds) for gain in gains]
    ecg = torch.tensor(ecg_of(r_times, N, RATE, shapes), dtype=torch.float32)[None]
    given, times = torch.ones(1, 12), padded([r_times])
    made = as_one_beat(ecg, given, times, RATE)

    def heights(of, lead=LEADS.index("V5")):
        return of[0, lead, (torch.tensor(r_times) * RATE).round().long()]

    like = [1, 2, 3, 5, 6, 7, 8]  # whole ones
    assert heights(ecg)[like].std() > 0.05 * heights(ecg)[like].mean()
    assert heights(made)[like].std() < 0.01 * heights(made)[like].mean()
    assert heights(made)[like].mean() == pytest.approx(float(heights(ecg)[like].mean()), rel=0.02)
    odd = np.abs(time_s - r_times[4]) < 0.1
    torch.testing.assert_close(made[0, :, odd], ecg[0, :, odd])
    other = reference(2 * one())
    people = as_one_beat(ecg, given, times, RATE, other)
    assert heights(people)[like].mean() == pytest.approx(2 * float(heights(made)[like].mean()), rel=0.05)
    torch.testing.assert_close(people[0, :, odd], ecg[0, :, odd])
