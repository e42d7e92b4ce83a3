"""Mean beats of recordings whose beats are known; which beats make them; what becomes no reference; the table."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from known_beats import ecg_of, padded, ppg_of, wave
from scipy.interpolate import CubicHermiteSpline

from p2es_lib.core.errors import InputError
from p2es_lib.core.reference import AFTER_S, BEFORE_S, SESSION_S, Reference, beat_samples
from p2es_lib.reference.mean_beat import average, beat_begins, find_r, interpolate, make_references, mean_beats

RATE, N = 125.0, 4000
ALL = torch.ones(1, 12)


def offsets(rate: float = RATE) -> np.ndarray:
    return np.arange(beat_samples(rate)) / rate - BEFORE_S


def jittered(seed: int = 0, least: float = 0.78, most: float = 0.9, until: float = N / RATE - 0.7) -> np.ndarray:
    r = 0.5 + np.cumsum(np.random.default_rng(seed).uniform(least, most, 200))
    return r[r < until]


def tensor(ecg) -> torch.Tensor:
    return torch.tensor(np.asarray(ecg), dtype=torch.float32)


def relative(found, expected) -> float:
    return float(np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2)))


# -------------------------------------------------------------------------------------------------------- interpolate
def test_interpolation_is_the_hermite_cubic_with_slopes_of_central_differences():
    """Against SciPy, at places of its own for each row."""
    generator = torch.Generator().manual_seed(0)
    signal = torch.randn(2, 3, 40, generator=generator, dtype=torch.float64)
    place = 1 + 37 * torch.rand(2, 50, generator=generator, dtype=torch.float64)
    found, x = interpolate(signal, place), np.arange(40)
    for row in range(2):
        slopes = np.gradient(signal[row].numpy(), axis=1)
        expected = CubicHermiteSpline(x, signal[row].numpy(), slopes, axis=1)(place[row].numpy())
        np.testing.assert_allclose(found[row].numpy(), expected, atol=1e-12)


def test_interpolation_meets_the_samples_and_holds_the_ends():
    signal = torch.randn(1, 2, 9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(interpolate(signal, torch.arange(9.0)[None]), signal, atol=1e-6, rtol=0)
    beyond = interpolate(signal, torch.tensor([[-3.0, -0.01, 8.01, 1e6]]))
    torch.testing.assert_close(beyond, signal[:, :, [0, 0, 8, 8]], atol=1e-6, rtol=0)
    line = torch.arange(9.0)[None, None]
    inside = torch.linspace(1, 7, 23)[None]
    torch.testing.assert_close(interpolate(line, inside)[0], inside)
    assert torch.isfinite(interpolate(torch.ones(1, 1, 1), torch.tensor([[0.5]]))).all()


# --------------------------------------------------------------------------------------------------------- mean beats
@pytest.mark.parametrize(("rate", "limit"), [(125.0, 0.005), (250.0, 0.001)])
def test_mean_of_known_beats_is_the_beat(rate, limit):
    """R times anywhere between samples."""
    r = jittered()
    beats, found = mean_beats(tensor(ecg_of(r, round(N / RATE * rate), rate))[None], ALL, padded([r]), rate)
    assert beats.shape == (1, 12, beat_samples(rate)) and beats.dtype == torch.float32
    assert relative(beats[0].numpy(), wave(offsets(rate))) < limit
    assert found.kept[0, : len(r)].all() and not found.kept[0, len(r) :].any()


def test_r_that_is_found_gives_the_same_beat_a_little_moved():
    """The detector's R is the middle of the QRS complex: one shift for all beats, and the beat is sharp."""
    r = jittered()
    ecg = tensor(ecg_of(r, N, RATE))[None]
    found = find_r(ecg, ALL, RATE)[0]
    found = found[found.isfinite()].numpy()
    assert len(found) == len(r)
    shift = np.median(found - r)
    made = make_references(ecg, ALL, RATE)
    expected = wave(offsets() + shift)
    assert abs(shift) < 0.012 and relative(made.beats[0].numpy(), expected) < 0.02
    assert made.rr_s[0] == pytest.approx(np.diff(r).mean(), abs=0.02)
    assert torch.isnan(made.delay_s).all() and torch.isnan(made.elapsed_s).all() and made.given.eq(1).all()


def test_premature_broad_and_noisy_beats_are_left_out():
    def broad(seconds):
        return 2.0 * np.exp(-0.5 * (seconds / 0.05) ** 2) * np.linspace(-1, 1, 12)[:, None]

    r = jittered()
    shapes = [broad if number in (5, 12, 20) else wave for number in range(len(r))]
    ecg = ecg_of(r, N, RATE, shapes)
    noisy = slice(round((r[8] - 0.3) * RATE), round((r[8] + 0.4) * RATE))
    ecg[:, noisy] += 1.5 * np.random.default_rng(1).standard_normal(ecg[:, noisy].shape)
    beats, found = mean_beats(tensor(ecg)[None], ALL, padded([r]), RATE)
    assert set(np.flatnonzero(~found.kept[0, : len(r)].numpy())) == {5, 8, 12, 20}
    assert relative(beats[0].numpy(), wave(offsets())) < 0.02


def test_beats_of_quite_another_size_are_left_out():
    r = jittered()
    shapes = [lambda s, gain={7: 3.0, 15: 0.3, 16: 1.3}.get(number, 1.0): wave(s, gain) for number in range(len(r))]
    beats, found = mean_beats(tensor(ecg_of(r, N, RATE, shapes))[None], ALL, padded([r]), RATE)
    assert set(np.flatnonzero(~found.kept[0, : len(r)].numpy())) == {7, 15}
    assert relative(beats[0].numpy(), wave(offsets())) < 0.02


def test_wander_makes_no_other_beat():
    r = jittered()
    ecg = ecg_of(r, N, RATE) + 0.4 * np.sin(2 * np.pi * 0.21 * np.arange(N) / RATE)
    beats, found = mean_beats(tensor(ecg)[None], ALL, padded([r]), RATE)
    assert found.kept[0, : len(r)].float().mean() > 0.9
    part = (offsets() > -0.3) & (offsets() < 0.4)  # what all of them reach
    mean, expected = beats[0, :, part].numpy(), wave(offsets())[:, part]
    centred = mean - mean.mean(axis=1, keepdims=True)
    assert relative(centred, expected - expected.mean(axis=1, keepdims=True)) < 0.15


def test_noise_is_averaged_away():
    r, rng = jittered(), np.random.default_rng(0)
    ecg = ecg_of(r, N, RATE) + 0.05 * rng.standard_normal((12, N))
    beats, found = mean_beats(tensor(ecg)[None], ALL, padded([r]), RATE)
    used = int(found.kept.sum())
    assert used > 0.9 * len(r)
    error = beats[0, :, (offsets() > -0.25) & (offsets() < 0.4)].numpy()
    error = error - wave(offsets())[:, (offsets() > -0.25) & (offsets() < 0.4)]
    assert 0.5 * 0.05 / used**0.5 < error.std() < 1.2 * 0.05 / used**0.5


def test_leads_that_are_not_given_are_neither_shown_nor_looked_at():
    r = jittered()
    given = torch.zeros(1, 12)
    given[0, [0, 7]] = 1.0
    ecg = tensor(ecg_of(r, N, RATE))[None]
    other = ecg.clone()
    other[:, given[0] == 0] = 3 * torch.randn(1, 10, N, generator=torch.Generator().manual_seed(0))
    made, again = (make_references(signal, given, RATE) for signal in (ecg, other))
    assert made.beats[0, given[0] == 0].abs().max() == 0 and torch.equal(made.given, given)
    torch.testing.assert_close(made.beats, again.beats, atol=1e-6, rtol=0)
    assert torch.equal(made.rr_s, again.rr_s)


def test_a_beat_owns_the_time_up_to_the_next_one():
    """At 120 beats a minute neither T of the beat before nor P and R of the next enter the mean, at no end of the
    recording either, where the neighbour's R lies outside it; what no beat reaches is held."""
    interval = 0.5
    for start in (0.05, 0.15, 0.25, 0.35, 0.45):
        r = np.arange(start - 2 * interval, N / RATE + 2 * interval, interval)
        ecg = tensor(ecg_of(r, N, RATE, short))[None]
        inside = r[(r >= 0) & (r < N / RATE)]
        begins = beat_begins(padded([inside]))[0]
        np.testing.assert_allclose(begins[1 : len(inside)].numpy(), inside[1:] - 0.42 * interval, atol=1e-5)
        assert begins[len(inside) :].isinf().all()
        beats, _ = mean_beats(ecg, ALL, padded([inside]), RATE)
        covered = (offsets() >= -0.42 * interval) & (offsets() < 0.58 * interval - 1 / RATE)
        beats, first, last = beats[0].numpy(), *np.flatnonzero(covered)[[0, -1]]
        assert relative(beats[:, covered], short(offsets())[:, covered]) < 0.01
        assert np.abs(beats[:, :first] - short(offsets())[:, [first]]).max() < 0.02
        assert np.abs(beats[:, last + 1 :] - short(offsets())[:, [last]]).max() < 0.02


def short(seconds: np.ndarray) -> np.ndarray:
    """A beat for 120 of them a minute: P, QRS and T between 0.2 s before R and 0.28 s after it."""
    middles, widths, sizes = (-0.14, 0.0, 0.18), (0.015, 0.014, 0.025), (0.15, 1.0, 0.3)
    waves = (size * np.exp(-0.5 * ((seconds - m) / w) ** 2) for m, w, size in zip(middles, widths, sizes))
    return sum(waves) * np.linspace(0.5, 1.5, 12)[:, None]


def test_slow_beats_begin_before_s_before_r():
    r = np.array([0.5, 2.0, 3.4, 5.1])
    np.testing.assert_allclose(beat_begins(padded([r]))[0, :4].numpy(), r - BEFORE_S, atol=1e-6)


def test_rows_do_not_depend_on_the_batch():
    rows = [jittered(seed)[: 30 - 4 * seed] for seed in range(3)]
    ecg = tensor(np.stack([ecg_of(r, N, RATE, lambda s, gain=1 + row: wave(s, gain)) for row, r in enumerate(rows)]))
    ppg = tensor(np.stack([ppg_of(r + 0.2 + 0.05 * row, N, RATE) for row, r in enumerate(rows)]))
    given = torch.ones(3, 12)
    given[1, 3:] = 0
    together = make_references(ecg, given, RATE, ppg=ppg)
    for row in range(3):
        part = slice(row, row + 1)
        alone = make_references(ecg[part], given[part], RATE, ppg=ppg[part])
        for field in dataclasses.fields(Reference):
            torch.testing.assert_close(
                getattr(alone, field.name)[0], getattr(together, field.name)[row], atol=1e-5, rtol=1e-5, equal_nan=True
            )


@pytest.mark.parametrize("kind", ["flat", "noise", "one beat", "no lead"])
def test_what_has_no_two_like_beats_becomes_no_reference(kind):
    ecg = {
        "flat": np.zeros((12, 1024)),
        "noise": np.random.default_rng(0).standard_normal((12, 1024)),
        "one beat": ecg_of([4.0], 1024, RATE),
        "no lead": ecg_of(np.arange(0.5, 8, 0.8), 1024, RATE),
    }[kind]
    given = ALL * (kind != "no lead")
    ppg = tensor(ppg_of(np.arange(0.7, 8, 0.8), 1024, RATE))[None]
    made = make_references(tensor(ecg)[None], given, RATE, ppg=ppg)
    assert made.given.abs().max() == made.beats.abs().max() == 0 and torch.isnan(made.delay_s).all()
    assert torch.isfinite(made.rr_s).all()


def test_delay_and_time_since_are_kept():
    r = jittered()
    ecg, ppg = tensor(ecg_of(r, N, RATE))[None], tensor(ppg_of(r + 0.23, N, RATE))[None]
    made = make_references(ecg, ALL, RATE, ppg=ppg, elapsed_s=torch.tensor([120.0]))
    shift = np.median(find_r(ecg, ALL, RATE)[0, : len(r)].numpy() - r)
    assert made.delay_s[0] == pytest.approx(0.23 - shift, abs=0.004) and made.elapsed_s[0] == 120


# ------------------------------------------------------------------------------------------------------- the table
def some(count: int) -> Reference:
    generator = torch.Generator().manual_seed(count)
    return Reference(
        torch.randn(count, 12, beat_samples(RATE), generator=generator),
        (torch.rand(count, 12, generator=generator) < 0.5).float(),
        *(torch.rand(count, generator=generator) for _ in range(4)),
    )


def equal(one: Reference, other: Reference) -> bool:
    names = [field.name for field in dataclasses.fields(Reference)]
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in names)


def test_no_reference():
    none = Reference.none(3, RATE)
    assert len(none) == 3 and none.beats.shape == (3, 12, beat_samples(RATE)) == (3, 12, 116)
    assert none.given.abs().max() == none.beats.abs().max() == 0 and not none.same_session.any()
    assert torch.isnan(none.delay_s).all() and torch.isnan(none.elapsed_s).all() and torch.isfinite(none.rr_s).all()
    none.elapsed_s[0] = 1.0
    assert torch.isnan(none.delay_s).all(), "each column has a memory of its own"
    assert beat_samples(500.0) == round((BEFORE_S + AFTER_S) * 500) + 1


def test_rows_repeats_and_joins():
    made = some(3)
    assert equal(made[[2, 0]], Reference.joined([made[2:], made[:1]])) and len(made[1:]) == 2
    assert equal(made[torch.tensor([True, False, True])], made[[0, 2]])
    assert equal(made.repeat(2), made[[0, 1, 2, 0, 1, 2]])
    assert equal(made.repeat_interleave(2), made[[0, 0, 1, 1, 2, 2]])
    meta = made.to("meta")
    assert {getattr(meta, field.name).device.type for field in dataclasses.fields(Reference)} == {"meta"}


def test_one_reference_serves_all_and_others_must_fit():
    one, three = some(1), some(3)
    assert equal(one.check(4, RATE), one[[0, 0, 0, 0]]) and equal(three.check(3, RATE), three)
    with pytest.raises(InputError, match="3 of them for 2 windows"):
        three.check(2, RATE)
    with pytest.raises(InputError, match="250 Hz"):
        one.check(1, 250.0)
    short = dataclasses.replace(one, beats=one.beats[:, :8])
    with pytest.raises(InputError, match=r"\(8, 116\)"):
        short.check(1, RATE)


def test_a_session_lasts_an_hour_and_an_unknown_time_is_another_one():
    elapsed = torch.tensor([0.0, SESSION_S - 1, SESSION_S, 1e6, torch.nan])
    made = dataclasses.replace(some(5), elapsed_s=elapsed)
    assert made.same_session.tolist() == [True, True, False, False, False]


def test_the_delay_of_an_average_varies_within_recordings_and_between_them():
    one = Reference.none(3, 125.0)
    parts = dataclasses.replace(
        one, given=torch.ones(3, 12), delay_s=torch.tensor([0.20, 0.22, 0.24]), delay_sd_s=torch.full((3,), 0.003)
    )
    spread = float(average(parts).delay_sd_s)
    assert spread == pytest.approx(np.sqrt(0.003**2 + 0.02**2 * 2 / 3), rel=1e-4)
    assert average(one).delay_sd_s.isnan()
