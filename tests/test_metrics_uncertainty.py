"""Scores of distributions, bands, calibration, abstention: closed forms, enumerated ranks, and promises kept."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from p2es_lib.core.errors import InputError
from p2es_lib.evaluation.metrics import evaluate, summarise
from p2es_lib.evaluation.metrics.abstention import risk_coverage, spread_skill
from p2es_lib.evaluation.metrics.conformal import LEAST_SD_MV, ConformalBand
from p2es_lib.evaluation.metrics.uncertainty import (
    attainable_level,
    calibration_curve,
    central_band,
    ensemble_scores,
    fair_crps,
)


def _windows(truth, subjects):
    index = pd.DataFrame({"subject": subjects, "record": "r"})
    return SimpleNamespace(ecg=truth, lead_mask=np.full(truth.shape[:2], 2, np.uint8), index=index)


@pytest.fixture(scope="module")
def believed():
    """Samples (60, 16, 12, 80) and truth (60, 12, 80), draws of one thing, each window with an SD of its own."""
    rng = np.random.default_rng(0)
    sd, middle = rng.uniform(0.05, 0.5, size=(60, 1, 1, 1)), rng.normal(size=(60, 1, 12, 80))
    samples = middle + sd * rng.standard_t(6, size=(60, 17, 12, 80))
    return samples[:, :16], samples[:, 16]


# ------------------------------------------------------------------------------------------------------------ the score
def test_crps_is_the_double_sum():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 5, 3, 4)), rng.normal(size=(2, 3, 4))
    pairs = np.abs(x[:, :, None] - x[:, None]).sum(axis=(1, 2))
    assert np.allclose(fair_crps(x, y), np.abs(x - y[:, None]).mean(axis=1) - pairs / (2 * 5 * 4))
    with pytest.raises(InputError, match="two samples"):
        fair_crps(x[:, :1], y)


@pytest.mark.parametrize("n_samples", [2, 16])
def test_crps_of_a_gaussian_whatever_the_number_of_samples(n_samples):
    """Gneiting & Raftery 2007: sd (z (2 Phi(z) - 1) + 2 phi(z) - 1 / sqrt(pi))."""
    rng = np.random.default_rng(2)
    sd, z = 0.3, 1.2
    x = 0.1 + sd * rng.normal(size=(1, n_samples, 200_000))
    expected = sd * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / np.sqrt(np.pi))
    assert fair_crps(x, np.full((1, 200_000), 0.1 + sd * z)).mean() == pytest.approx(expected, abs=2e-3)


def test_crps_rewards_the_true_spread():
    rng = np.random.default_rng(3)
    truth, z = rng.normal(size=(1, 50_000)), rng.normal(size=(1, 8, 50_000))
    scores = {sd: fair_crps(sd * z, truth).mean() for sd in (0.5, 0.8, 1.0, 1.25, 2.0)}
    assert min(scores, key=scores.get) == 1.0


# ------------------------------------------------------------------------------------------------------------ the bands
@pytest.mark.parametrize("n_samples", [2, 3, 9, 16, 39])
def test_coverage_is_exact_over_the_ranks(n_samples):
    """If the truth is one more draw, it has each rank equally often: the average over the ranks is the level itself."""
    ordered = np.arange(1.0, n_samples + 1)
    truth = np.arange(0.5, n_samples + 1)[None, None]  # one in each gap and beyond each end
    samples = np.broadcast_to(ordered[None, :, None, None], (1, n_samples, 1, n_samples + 1))
    samples = np.random.default_rng(0).permuted(samples, axis=1)
    for level in (0.05, 0.3, 0.5, 0.777, 0.8, 0.95):
        found = ensemble_scores(samples, truth, np.ones((1, 1), bool), levels=(level,))
        name, attainable = f"{100 * level:.0f}", attainable_level(level, n_samples)
        least = (n_samples + 1) % 2 / (n_samples + 1)  # between the two samples in the middle
        assert attainable == pytest.approx(np.clip(level, least, (n_samples - 1) / (n_samples + 1)))
        assert found[f"coverage_{name}"].item() == pytest.approx(attainable, abs=1e-9)
        limits = np.quantile(ordered, [(1 - attainable) / 2, (1 + attainable) / 2], method="weibull")
        assert found[f"width_{name}"].item() == pytest.approx(limits[1] - limits[0], abs=1e-9)
        assert np.allclose(central_band(samples, level), limits[:, None, None, None])
    assert attainable_level(0.95, 16) == pytest.approx(15 / 17) and attainable_level(0.8, 16) == 0.8
    with pytest.raises(InputError, match="level"):
        central_band(samples, 1.0)


def test_leads_that_are_not_there_and_chunks(believed):
    samples, truth = believed
    available = np.ones((60, 12), bool)
    available[3, 5:] = False
    with_gap = samples.copy()
    with_gap[3, :, 5:] = np.nan
    found, whole = ensemble_scores(with_gap, truth, available, chunk=7), ensemble_scores(samples, truth, available)
    for name, table in found.items():
        assert np.array_equal(np.isnan(table), ~available) and np.allclose(table, whole[name], equal_nan=True), name
    assert np.allclose(found["variance"][0], (1 + 1 / 16) * samples[0].var(axis=0, ddof=1).mean(axis=-1))


def test_calibrated_samples_are_found_calibrated_and_narrow_ones_are_not(believed):
    samples, truth = believed
    windows = _windows(truth, np.repeat([f"s{i}" for i in range(30)], 2))
    curve = calibration_curve(samples, windows, n_bootstrap=200).set_index("level")
    assert (np.abs(curve["coverage"] - curve["attainable"]) < 0.012).all()
    assert ((curve["lower"] <= curve["coverage"]) & (curve["coverage"] <= curve["upper"])).all()
    assert curve["width"].is_monotonic_increasing and (curve["n_subjects"] == 30).all()
    assert curve.loc[0.95, "attainable"] == pytest.approx(15 / 17)
    mean = samples.mean(axis=1, keepdims=True)
    narrow = calibration_curve(mean + 0.5 * (samples - mean), windows, (0.8,), n_bootstrap=20)
    assert narrow["coverage"].item() < 0.6
    # The same through the table of scores.
    scores = evaluate(samples, windows, 125.0, max_lag_s=0.0, estimates=("mean", "samples"))
    table = summarise(scores[scores["lead"] == "all"], 200).set_index(["estimate", "metric"])["value"]
    assert table["samples", "coverage_80"] == pytest.approx(curve.loc[0.8, "coverage"])
    assert table["samples", "spread"] == pytest.approx(np.sqrt(table["samples", "variance"]))
    assert table["samples", "spread"] / table["mean", "rmse"] == pytest.approx(1.0, abs=0.05)
    with pytest.raises(InputError, match="two or more"):
        evaluate(samples[:, :1], windows, 125.0, max_lag_s=0.0, estimates=("samples",))


# ----------------------------------------------------------------------------------------------------------- abstention
def _scores(expected, actual, subjects):
    frames = [
        pd.DataFrame({"subject": subjects, "record": "r", "window": range(len(values)), "lead": "all", "value": values})
        .assign(estimate=estimate, metric=metric)
        for estimate, metric, values in (("samples", "variance", expected), ("mean", "mse", actual))
    ]  # fmt: skip
    return pd.concat(frames, ignore_index=True)


def test_spread_that_ranks_perfectly_and_one_that_is_blind():
    rng = np.random.default_rng(4)
    error, subjects = rng.gamma(2.0, size=300), [f"s{i}" for i in range(300)]
    table = spread_skill(_scores(2 * error, error, subjects), n_bootstrap=100).set_index("metric")["value"]
    assert table["spread_correlation"] == pytest.approx(1.0) and table["risk_gain"] == pytest.approx(1.0)
    assert table["spread_ratio"] == pytest.approx(np.sqrt(2.0))
    kept = np.sqrt(np.cumsum(np.sort(error)) / np.arange(1, 301))
    assert table["risk_area"] == pytest.approx(kept.mean())
    backwards = spread_skill(_scores(1 / error, error, subjects), n_bootstrap=10).set_index("metric")["value"]
    assert backwards["spread_correlation"] == pytest.approx(-1.0) and backwards["risk_gain"] < -0.5
    noise = rng.gamma(2.0, size=300)
    blind = spread_skill(_scores(noise, error, subjects), n_bootstrap=300).set_index("metric")
    assert blind.loc["spread_correlation", "value"] == pytest.approx(stats.spearmanr(noise, error)[0], abs=1e-9)
    assert blind.loc["spread_correlation", "lower"] < 0 < blind.loc["spread_correlation", "upper"]
    assert abs(blind.loc["risk_gain", "value"]) < 0.3


def test_correlation_in_a_resample_is_that_of_the_repeated_windows():
    from p2es_lib.evaluation.metrics.abstention import _spearman

    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(2, 40))
    weights = rng.integers(0, 4, size=(3, 40)).astype(float)
    repeated = [np.repeat(np.arange(40), w.astype(int)) for w in weights]
    assert np.allclose(_spearman(weights, x, y), [stats.spearmanr(x[rows], y[rows])[0] for rows in repeated])


def test_risk_over_the_share_kept():
    error, spread = np.array([1.0, 4.0, 9.0, 16.0]), np.array([2.0, 1.0, 3.0, 4.0])
    curve = risk_coverage(_scores(spread, error, list("abcd")), kept=(0.25, 0.5, 0.75, 1.0), n_bootstrap=50)
    assert np.allclose(curve["risk"], np.sqrt([4.0, 2.5, 14 / 3, 7.5])) and curve["risk"].iloc[1] < 2
    assert np.allclose(curve["oracle"], np.sqrt([1.0, 2.5, 14 / 3, 7.5]))
    # Everything kept: the RMSE of the tables, every subject counting the same.
    scores = _scores(np.arange(6.0), np.array([1.0, 2.0, 3.0, 4.0, 5.0, 30.0]), list("aaaaab"))
    whole = risk_coverage(scores, kept=(1.0,), n_bootstrap=50)["risk"].item()
    table = summarise(scores, 20).set_index(["estimate", "metric"])["value"]
    assert whole == pytest.approx(table["mean", "rmse"]) and whole == pytest.approx(np.sqrt((3 + 30) / 2))
    with pytest.raises(InputError, match="variance"):
        risk_coverage(scores[scores["metric"] == "mse"])


# ------------------------------------------------------------------------------------------------------------ conformal
def _people(rng, n, n_windows=1):
    """Subjects whose errors have scales of their own, which the samples know nothing of."""
    scale = np.repeat(rng.lognormal(0, 0.7, size=n), n_windows)
    samples = rng.normal(size=(n * n_windows, 4, 12, 6))
    truth = scale[:, None, None] * rng.standard_t(3, size=(n * n_windows, 12, 6))
    return samples, _windows(truth, np.repeat([f"s{i}" for i in range(n)], n_windows))


@pytest.mark.parametrize(("share", "confidence"), [(0.9, 0.8), (1.0, 0.5)])
def test_conformal_band_keeps_its_promise_for_new_people(share, confidence):
    rng = np.random.default_rng(6)
    kept = []
    for _ in range(120):
        band = ConformalBand.fit(*_people(rng, 19), share=share, confidence=confidence)
        scores = band.evaluate(*_people(rng, 10))
        kept.append(scores.loc[scores["metric"] == "conformal_kept", "value"].mean())
    # Of 19 subjects a confidence of 0.8 is rank 16 of 20, of 0.5 rank 10: exact, if scores are continuous.
    assert np.mean(kept) == pytest.approx(confidence, abs=0.035)


def test_conformal_scale_is_the_order_statistic():
    # Samples at +-1: mean 0, SD sqrt(2). Ten subjects whose truth is their number at 3 of 4 times, and 100 at the 4th.
    samples = np.broadcast_to(np.array([1.0, -1.0])[None, :, None, None], (10, 2, 12, 4))
    truth = np.broadcast_to(np.arange(1.0, 11)[:, None, None], (10, 12, 4)).copy()
    truth[..., 3] = 100.0
    windows, sd = _windows(truth, [f"s{i}" for i in range(10)]), np.sqrt(2) + LEAST_SD_MV
    band = ConformalBand.fit(samples, windows, share=0.75, confidence=0.7)
    assert band.scale == pytest.approx(8.0 / sd)  # ceil(11 * 0.7) = 8th of 10
    assert ConformalBand.fit(samples, windows, share=0.76, confidence=0.7).scale == pytest.approx(100.0 / sd)
    lower, upper = band.apply(samples)
    assert np.allclose(upper, 8.0) and np.allclose(lower, -8.0)
    scores = band.evaluate(samples, windows).query("lead == 'all'").groupby("metric")["value"].mean()
    assert scores["conformal_kept"] == pytest.approx(0.8) and scores["conformal_width"] == pytest.approx(16.0)
    assert scores["conformal_coverage"] == pytest.approx(0.8 * 0.75)
    with pytest.raises(InputError, match="needs 19"):
        ConformalBand.fit(samples, windows, confidence=0.95)
    with pytest.raises(InputError, match="between"):
        ConformalBand.fit(samples, windows, share=0.0)
    with pytest.raises(InputError, match="two samples"):
        ConformalBand.fit(samples[:, :1], windows)


def test_conformal_counts_people_not_windows():
    samples, windows = _people(np.random.default_rng(7), 12, n_windows=3)
    assert ConformalBand.fit(samples, windows).n_subjects == 12
    windows.lead_mask[:3] = 0  # a subject without leads
    windows.lead_mask[:, 6:] = 0
    windows.ecg[:, 6:] = np.nan
    band = ConformalBand.fit(samples, windows)
    assert band.n_subjects == 11 and np.isfinite(band.scale)
    scores = band.evaluate(samples, windows)
    assert (scores["metric"] == "conformal_kept").sum() == 11 and "V1" not in set(scores["lead"])
