"""The irreducible error against cases with a closed form."""

from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np
import pytest

from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import LEADS
from p2es_lib.simulator import SimulatorConfig, conditional_mean_ecg, irreducible_rmse, posterior_ecg, simulate
from p2es_lib.simulator.demographics_effects import Body, draw_people, draw_traits
from p2es_lib.simulator.draws import (
    ALL_SUBJECT_NORMALS,
    SESSION_NORMALS,
    SESSION_UNIFORMS,
    draw_block,
    draw_sessions,
    draw_subjects,
    generator,
    on_rows,
    stacked,
    unstacked,
)
from p2es_lib.simulator.heart import draw_heart
from p2es_lib.simulator.irreducible import KNOWN
from p2es_lib.simulator.morphology import draw_morphology
from p2es_lib.simulator.normal_beats import draw_lead_fields, fitted
from p2es_lib.simulator.person_posterior import draw_person
from p2es_lib.simulator.rhythm import BEAT_PVC
from p2es_lib.simulator.sessions import REFERENCE_SESSION, no_session

SIGMA_S = 0.015
TIMING = SimulatorConfig.without_variation(pat_residual_sd_ms=1e3 * SIGMA_S, window_samples=384)


def gaussians_of(windows, row, config):
    """Times (s), widths (s) and amplitudes in lead V5 of every kernel of every beat, for a heart without variation."""
    one = slice(row, row + 1)
    latents = windows.latents
    quiet = draw_block(np.random.default_rng(0), 1)
    index = windows.index.iloc[one]
    size = (index[name].to_numpy() for name in ("height_cm", "weight_kg"))
    body = Body(latents.age[one], latents.female[one], *size, latents.stiffness[one])
    traits = draw_traits(body, latents.rhythm[one], quiet, config)
    heart = draw_heart(body, traits, latents.morphology[one], latents.mean_rr_s[one], quiet, config)
    fields = draw_lead_fields(body.age, body.female, quiet, config)
    expected_r = latents.pulse_onsets[row] - latents.pat_drift_s[row] - latents.pat_s[row]
    times, widths, sizes = [], [], []
    for beat in expected_r[~np.isnan(expected_r)]:
        for wave, name in (("p", "p"), ("p", "ta"), ("qrs", "qrs"), ("st_t", "st_t")):
            kernels = getattr(heart, name)
            times.append(beat + kernels.centre_s[:, 0])
            widths.append(kernels.width_s[:, 0])
            sizes.append(fields[wave][6, :, 0] @ kernels.vector_mv[:, :, 0])
    return (np.concatenate(parts) for parts in (times, widths, sizes))


def widened(t, centre, width, sigma):
    """Expectation of exp(-(t - centre - e)^2 / 2 width^2) for e ~ N(0, sigma^2)."""
    wide = np.hypot(width, sigma)
    return width / wide * np.exp(-0.5 * ((t - centre) / wide) ** 2)


def test_gaussian_arrival_time_widens_gaussian_kernels():
    windows = simulate(range(6), 1, TIMING)
    t = np.arange(TIMING.window_samples) / TIMING.sampling_rate
    result = conditional_mean_ecg(windows, TIMING, n_draws=1000)
    v5 = LEADS.index("V5")
    expected_variance, variance = [], []
    for row in range(6):
        centre, width, size = gaussians_of(windows, row, TIMING)
        mean = sum(a * widened(t, c, b, SIGMA_S) for c, b, a in zip(centre, width, size))
        second = np.zeros_like(t)  # E x^2: a product of two Gaussians is a Gaussian between them
        for c, b, a in zip(centre, width, size):
            for c2, b2, a2 in zip(centre, width, size):
                total = b * b + b2 * b2
                overlap = a * a2 * np.exp(-0.5 * (c - c2) ** 2 / total)
                if abs(overlap) > 1e-9:
                    second += overlap * widened(t, (c * b2 * b2 + c2 * b * b) / total, b * b2 / np.sqrt(total), SIGMA_S)
        monte_carlo_sd = np.sqrt(np.maximum(second - mean**2, 0) / 1000)
        assert np.all(np.abs(result.mean[row, v5] - mean) < 5 * monte_carlo_sd + 2e-3)
        expected_variance.append(np.mean(second - mean**2))
        variance.append(result.variance[row, v5].mean())
    assert np.mean(variance) == pytest.approx(np.mean(expected_variance), rel=0.05)


def test_rmse_of_the_windows_is_the_spread_of_the_draws():
    windows = simulate(range(80), 1, TIMING)
    result = conditional_mean_ecg(windows, TIMING, n_draws=24)
    assert irreducible_rmse(windows, result) == pytest.approx(np.sqrt(result.variance.mean()), rel=0.10)
    known = conditional_mean_ecg(windows, TIMING, n_draws=4, hold="beats")
    assert irreducible_rmse(windows, known) < 1e-6  # nothing but timing varied


def test_log_normal_gain_has_its_moments():
    """Only sizes vary: at the R peak the ECG is x0 exp(s z), with known mean and variance."""
    config = SimulatorConfig.without_variation(amplitudes=1.0, window_samples=256)
    windows = simulate(range(4), 1, config)
    plain = simulate(range(4), 1, config.replace(amplitudes=0.0))
    result = conditional_mean_ecg(windows, config, n_draws=1200, hold="beats")
    v5, variance = LEADS.index("V5"), fitted()["covariance"][1, 1]  # of the logarithm of the QRS size
    for row in range(4):
        peak = plain.ecg[row, v5].argmax()
        x_0 = plain.ecg[row, v5, peak]
        assert result.mean[row, v5, peak] == pytest.approx(x_0 * np.exp(variance / 2), rel=0.02)
        assert result.variance[row, v5, peak] == pytest.approx(x_0**2 * np.expm1(variance) * np.exp(variance), rel=0.15)


def test_correction_for_few_draws():
    config = SimulatorConfig(window_samples=256)
    windows = simulate(range(100), 1, config)
    few = conditional_mean_ecg(windows, config, n_draws=2)
    many = conditional_mean_ecg(windows, config, n_draws=16)
    assert irreducible_rmse(windows, few) == pytest.approx(irreducible_rmse(windows, many), rel=0.06)
    raw = np.sqrt(np.mean((windows.ecg - few.mean) ** 2))
    assert raw == pytest.approx(np.sqrt(1.5) * irreducible_rmse(windows, few), rel=1e-3)


def test_full_variation_is_calibrated_and_timing_costs():
    """The windows themselves look like further draws, and knowing the beats helps."""
    config = SimulatorConfig(window_samples=256)
    windows = simulate(range(180), 1, config)
    pulses = conditional_mean_ecg(windows, config, n_draws=8, seed=config.seed)  # same seed: still independent draws
    beats = conditional_mean_ecg(windows, config, n_draws=8, hold="beats")
    floor = irreducible_rmse(windows, pulses)
    assert floor == pytest.approx(np.sqrt(pulses.variance.mean()), rel=0.08)
    assert irreducible_rmse(windows, beats) < 0.85 * floor
    assert floor < 0.9 * np.sqrt(np.mean((windows.ecg - windows.ecg.mean(axis=(0, 2), keepdims=True)) ** 2))
    assert irreducible_rmse(windows, pulses, per_lead=True).shape == (12,)


@pytest.mark.parametrize(
    "scale",
    ["morphology", "intervals", "amplitudes", "axis", "qrs_shape", "electrodes", "breathing", "pat_jitter", "body"],
)
def test_no_kind_of_variation_leaks(scale):
    """Each kind alone: the draws spread as far as the windows themselves do (morphology: few classes, so wider)."""
    config = SimulatorConfig.without_variation(window_samples=192, **{scale: 1.0})
    windows = simulate(range(60), 1, config)
    result = conditional_mean_ecg(windows, config, n_draws=6)
    spread = np.sqrt(result.variance.mean())
    assert spread > 2e-3  # breathing alone gives 8 uV
    assert irreducible_rmse(windows, result) == pytest.approx(spread, rel=0.5 if scale == "morphology" else 0.25)


def test_window_result_does_not_depend_on_the_others():
    config = SimulatorConfig(window_samples=256)
    together = conditional_mean_ecg(simulate(range(5), 2, config), config, n_draws=5)
    alone = conditional_mean_ecg(simulate([3], 2, config), config, n_draws=5)
    assert np.array_equal(together.mean[6:8], alone.mean) and np.array_equal(together.variance[6:8], alone.variance)


def test_beat_without_pulse_is_placed_in_the_pause():
    config = SimulatorConfig(premature_beats=20.0)
    windows = simulate(range(120), 1, config)
    latents = windows.latents
    failed = (latents.beat_type == BEAT_PVC) & np.isnan(latents.pulse_onsets)
    rows = np.flatnonzero(failed.any(axis=1))[:3]
    assert len(rows) == 3
    from p2es_lib.simulator.irreducible import _draw_r_times

    for row in rows:
        pat = np.full(50, latents.pat_s[row] + latents.pat_residual_s[row])
        r_times = _draw_r_times(windows, row, pat, np.random.default_rng(0), config)
        has_beat = ~np.isnan(latents.r_times[row])
        assert np.isfinite(r_times[:, has_beat]).all() and np.isnan(r_times[:, ~has_beat]).all()
        assert (np.diff(r_times[:, has_beat], axis=1) > 0).all()
        beat = np.flatnonzero(failed[row])[0]
        assert abs(r_times[:, beat].mean() - latents.r_times[row, beat]) < 0.35
        assert r_times[:, beat].std() > 0.03  # drawn, not known


@pytest.mark.parametrize("change", [{"hold": "nothing"}, {"n_draws": 1}, {"known": "all"}])
def test_wrong_settings_are_refused(change):
    config = SimulatorConfig(window_samples=128)
    windows = simulate([0], 1, config)
    with pytest.raises(InputError):
        conditional_mean_ecg(windows, config, **{"n_draws": 4, **change})


@pytest.fixture(scope="module")
def revealed():
    """Windows in which hidden latents differ, and what PPG, age and sex say of their ECG."""
    windows = simulate(range(300, 320), 1, SimulatorConfig())
    return windows, conditional_mean_ecg(windows, SimulatorConfig(), n_draws=3, hold="pulses").mean


@pytest.mark.parametrize(
    "name", ["morphology", "pr_s", "qrs_s", "qt_s", "pat_s", "pat_residual_s", "pat_slow_s", "pat_jitter_s"]
)
def test_floor_does_not_know_what_the_ppg_does_not_reveal(name, revealed):
    """Another person's value in a hidden latent must not move the conditional mean by a bit."""
    windows, mean = revealed
    hidden = np.roll(getattr(windows.latents, name), 1, axis=0)
    assert not np.array_equal(hidden, getattr(windows.latents, name), equal_nan=True)
    other = dataclasses.replace(windows, latents=dataclasses.replace(windows.latents, **{name: hidden}))
    np.testing.assert_array_equal(conditional_mean_ecg(other, SimulatorConfig(), n_draws=3, hold="pulses").mean, mean)


def test_floor_knows_what_the_ppg_reveals(revealed):
    windows, mean = revealed
    later = dataclasses.replace(windows.latents, pulse_onsets=windows.latents.pulse_onsets + 0.1)
    moved = conditional_mean_ecg(dataclasses.replace(windows, latents=later), SimulatorConfig(), n_draws=3).mean
    assert np.abs(moved - mean).max() > 0.05


def test_draws_are_those_whose_mean_is_known():
    config = SimulatorConfig(window_samples=256)
    windows = simulate(range(3), 2, config, session=2)
    for known in ("nothing", "person", "person_other_session"):
        result = conditional_mean_ecg(windows, config, n_draws=5, known=known)
        for row in (0, 5):
            draws = posterior_ecg(windows, row, config, n_draws=5, known=known)
            assert draws.shape == (5, 12, 256) and draws.dtype == np.float32
            np.testing.assert_array_equal(draws.mean(axis=0), result.mean[row])
    one = posterior_ecg(windows, 4, config, n_draws=1, seed=7)
    assert one.shape == (1, 12, 256) and not np.array_equal(one, posterior_ecg(windows, 4, config, n_draws=1, seed=8))
    for wrong in ({"n_draws": 0}, {"n_draws": 2, "known": "all"}, {"n_draws": 2, "hold": "all"}):
        with pytest.raises(InputError):
            posterior_ecg(windows, 0, config, **wrong)
    with pytest.raises(InputError):
        posterior_ecg(windows, 6, config, n_draws=2)


@pytest.mark.parametrize("session, change", [(0, "none"), (1, "none"), (3, "lbbb"), (2, "st_elevation"), (1, "pvc")])
def test_person_session_and_beats_are_the_ecg(session, change):
    """Nothing is left to be drawn but the phase of f waves."""
    config = SimulatorConfig(window_samples=256, arrhythmia=0, extreme_rates=0.3)
    windows = simulate(range(12), 1, config, session=session, change=change)
    for row in range(12):
        draws = posterior_ecg(windows, row, config, n_draws=2, known="person", hold="beats")
        np.testing.assert_array_equal(draws, windows.ecg[[row, row]])


@pytest.mark.parametrize("session", [0, 1])
def test_draws_are_calibrated_with_and_without_a_reference(session):
    """The truth ranks among the draws as another draw would, and each thing known brings the mean nearer."""
    config, n_draws, n = SimulatorConfig(window_samples=256, premature_beats=0), 15, 220
    windows = simulate(range(7000, 7000 + n), 1, config, session=session)
    error = {}
    for known in ("nothing", "person_other_session", "person"):
        inside, square = [], []
        for row in range(n):
            draws = posterior_ecg(windows, row, config, n_draws=n_draws, known=known)
            rank = (draws < windows.ecg[row]).sum(axis=0)
            inside.append(((rank >= 2) & (rank <= n_draws - 2)).mean())
            square.append(np.mean((draws.mean(axis=0) - windows.ecg[row]) ** 2) / (1 + 1 / n_draws))
        error[known] = np.sqrt(np.mean(square))
        assert np.mean(inside) == pytest.approx(12 / 16, abs=0.035), known
    assert error["person"] < 0.45 * error["nothing"]
    assert error["person"] < 0.7 * error["person_other_session"]
    assert error["person_other_session"] < 0.85 * error["nothing"]


def numbers_given_another_session(number: int, config: SimulatorConfig, n_draws: int):
    """True numbers of a person, and draws of them given another session."""
    rng, repeat = np.random.default_rng(number), partial(np.repeat, repeats=n_draws, axis=-1)
    own, there = (draw([generator(config.seed, number, session=session)])
                  for draw, session in ((draw_subjects, 0), (draw_sessions, REFERENCE_SESSION)))  # fmt: skip
    body, traits = draw_people(own, config, no_session(1))
    classes = draw_morphology(body, own, config)
    own, there, body, classes, rhythm = (on_rows(part, repeat) for part in (own, there, body, classes, traits.rhythm))
    fresh = draw_block(rng, n_draws), draw_block(rng, n_draws, SESSION_NORMALS, SESSION_UNIFORMS)
    return own, draw_person(own, there, *fresh, body, classes, rhythm, config)


def test_a_person_ranks_among_the_draws_given_another_session():
    """Each number that sessions blur: the truth holds any rank alike, and the draws are as wide as they must be."""
    config, n_draws, ranks, spread = SimulatorConfig(), 19, [], []
    for number in range(300):
        own, drawn = (stacked(part) for part in numbers_given_another_session(number, config, n_draws))
        ranks.append((drawn < own).sum(axis=1))
        spread.append(drawn.var(axis=1))
    ranks, spread = np.array(ranks), np.mean(spread, axis=0)
    blurred = spread > 1e-6
    assert blurred.sum() > 60 and spread[~blurred].max() < 1e-20
    # Chi-square of 5 classes of 4 ranks: 4 on average, and no more than 25 in the worst of so many.
    counts = np.array([(ranks[:, blurred] // 4 == k).sum(axis=0) for k in range(5)])
    chi_square = ((counts - 60.0) ** 2 / 60.0).sum(axis=0)
    assert chi_square.mean() < 7 and chi_square.max() < 25
    names = unstacked(spread[:, None], ALL_SUBJECT_NORMALS)
    usual, tail = (
        15.0**2 / (15.0**2 + 2 * sd**2) for sd in (9.0, 20.0)
    )  # of the variance, what the reference explains
    assert 1 - usual < names["pat_residual"][0] < 1 - 0.8 * usual - 0.1 * tail
    assert names["pr"][0] == pytest.approx(2 * 6**2 / (22**2 + 2 * 6**2), rel=0.1)
    assert names["chest_shift"].max() < 1.05, "a flat distribution of people is twenty times as wide"


def test_without_changes_between_sessions_the_person_is_known():
    own, drawn = numbers_given_another_session(3, SimulatorConfig(session_changes=0.0), 4)
    windows = simulate(range(4), 1, config := SimulatorConfig(session_changes=0.0, window_samples=256, arrhythmia=0))
    np.testing.assert_allclose(drawn.normal["pat_residual"], own.normal["pat_residual"], atol=1e-3)
    for row in range(4):
        draws = posterior_ecg(windows, row, config, n_draws=3, known="person_other_session", hold="beats")
        np.testing.assert_allclose(draws, windows.ecg[[row] * 3], atol=2e-3)


def test_draws_are_kept_beside_their_mean():
    config = SimulatorConfig(window_samples=256)
    windows = simulate(range(3), 1, config)
    result = conditional_mean_ecg(windows, config, n_draws=5, n_kept=2, known="person")
    np.testing.assert_array_equal(result.samples[1], posterior_ecg(windows, 1, config, n_draws=5, known="person")[:2])
    assert conditional_mean_ecg(windows, config, n_draws=2, n_kept=9).samples.shape == (3, 2, 12, 256)
    assert conditional_mean_ecg(windows, config, n_draws=2).samples.size == 0


def test_without_a_reference_a_person_of_session_0_has_no_deviations():
    config = SimulatorConfig(window_samples=256)
    for session, same in ((0, True), (1, False)):
        windows = simulate(range(3), 1, config, session=session)
        means = [conditional_mean_ecg(windows, c, n_draws=3).mean for c in (config, config.replace(session_changes=0))]
        assert np.array_equal(*means) == same


def test_what_ppg_does_not_show_of_a_change_is_known_with_the_person_alone():
    config = SimulatorConfig(window_samples=256, morphology=0, arrhythmia=0)
    plain, block = (simulate(range(8), 1, config, session=1, change=change) for change in ("none", "lbbb"))
    for known in ("nothing", "person_other_session"):
        means = [conditional_mean_ecg(w, config, n_draws=3, known=known).mean for w in (plain, block)]
        np.testing.assert_array_equal(*means)
    floors = [irreducible_rmse(block, conditional_mean_ecg(block, config, n_draws=8, known=k)) for k in KNOWN]
    assert floors[KNOWN.index("person")] < 0.4 * min(floors[0], floors[2])


@pytest.mark.parametrize("name", ["pat_slow_s", "pat_jitter_s", "r_times"])
def test_known_person_does_not_tell_what_differs_from_beat_to_beat(name):
    config = SimulatorConfig(window_samples=256, premature_beats=0)
    windows = simulate(range(6), 1, config, session=1)
    moved = getattr(windows.latents, name) + 0.01
    other = dataclasses.replace(windows, latents=dataclasses.replace(windows.latents, **{name: moved}))
    means = [conditional_mean_ecg(w, config, n_draws=3, known="person").mean for w in (windows, other)]
    np.testing.assert_array_equal(*means)


def test_slow_drift_of_the_arrival_time_is_not_known():
    """Alone it leaves an error as large as its draws spread."""
    config = SimulatorConfig.without_variation(pat_drift=1.0, window_samples=256)
    windows = simulate(range(150), 1, config)
    result = conditional_mean_ecg(windows, config, n_draws=8, known="person")
    floor = irreducible_rmse(windows, result)
    assert floor > 0.01 and floor == pytest.approx(np.sqrt(result.variance.mean()), rel=0.2)
