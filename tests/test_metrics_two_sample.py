"""Two-sample tests: closed form, slow reference, size and power, and that people are what is permuted."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from p2es_lib.core.errors import InputError
from p2es_lib.evaluation.metrics.resampling import percentile_interval, subject_weights, two_sided_p, weighted_auroc
from p2es_lib.evaluation.metrics.two_sample import _swap_p, classifier_test, mmd, two_sample_table
from p2es_lib.simulator import SimulatorConfig, simulate


def _one_each(n):
    return np.array([f"s{i}" for i in range(n)])


# ----------------------------------------------------------------------------------------------------------- resampling
def test_weighted_area_is_sklearns():
    rng = np.random.default_rng(0)
    score, positive = np.round(rng.normal(size=60), 1), rng.random(60) < 0.4  # with ties
    weights = rng.integers(0, 3, size=(5, 60)).astype(float)
    expected = [roc_auc_score(positive, score, sample_weight=w) for w in weights]
    assert np.allclose(weighted_auroc(score, positive, weights), expected)
    weights[0] = positive  # no negative left
    assert np.isnan(weighted_auroc(score, positive, weights)[0])


def test_weights_and_intervals():
    weights = subject_weights(np.array(["b", "a", "b", "b"]), 500, 0)
    assert np.allclose(weights[0], [1 / 3, 1, 1 / 3, 1 / 3])
    assert np.allclose(weights.sum(axis=1), 2) and set(np.round(weights[:, 1])) == {0, 1, 2}
    draws = np.vstack([[0.0, 0.0], np.stack([np.arange(1000.0), np.full(1000, np.nan)], axis=1)])
    lower, upper = percentile_interval(draws, 5)
    assert (lower[0], upper[0]) == (pytest.approx(24.975), pytest.approx(974.025)) and np.isnan(lower[1])
    assert np.isnan(percentile_interval(draws, 1)[0]).all()
    centred = np.concatenate([[0.5], np.linspace(-0.1, 0.9, 99), np.full(100, np.nan)])
    assert two_sided_p(centred) == pytest.approx(2 * (1 + np.sum(np.linspace(-0.1, 0.9, 99) <= 0)) / 100)


# ------------------------------------------------------------------------------------------------------------------ MMD
def test_mmd_closed_form_of_two_gaussians():
    """N(0, I) against N(m, I): 2 (s^2 / (s^2 + 2))^(d/2) (1 - exp(-|m|^2 / (2 (s^2 + 2))))."""
    mean, s, found = np.array([0.6, -0.3, 0.0]), 1.5, []
    expected = 2 * (s**2 / (s**2 + 2)) ** 1.5 * (1 - np.exp(-(mean @ mean) / (2 * (s**2 + 2))))
    for seed in range(60):
        rng = np.random.default_rng(seed)
        x, y = rng.normal(size=(200, 3)), mean + rng.normal(size=(200, 3))
        found.append(mmd(x, y, _one_each(200), bandwidth=s, n_permutations=200, n_bootstrap=100, seed=seed))
    assert np.mean([test["value"] for test in found]) == pytest.approx(expected, rel=0.1)
    assert np.mean([test["lower"] < expected < test["upper"] for test in found]) > 0.85
    assert np.mean([test["p_value"] <= 0.01 for test in found]) > 0.95


def test_mmd_is_the_mean_over_pairs_of_different_people():
    rng = np.random.default_rng(1)
    subjects = np.array(list("aabccc"))
    x, y, s = rng.normal(size=(6, 2)), rng.normal(size=(6, 2)), 0.8

    def k(a, b):
        return np.exp(-((a - b) ** 2).sum() / (2 * s**2))

    between = {}
    for i in range(6):
        for j in range(6):
            if subjects[i] != subjects[j]:
                value = k(x[i], x[j]) + k(y[i], y[j]) - k(x[i], y[j]) - k(y[i], x[j])
                between.setdefault((subjects[i], subjects[j]), []).append(value)
    expected = np.mean([np.mean(values) for values in between.values()])
    assert mmd(x, y, subjects, bandwidth=s, n_permutations=10, n_bootstrap=10)["value"] == pytest.approx(expected)
    # Which of the two is called true makes no difference.
    assert mmd(y, x, subjects, bandwidth=s, n_permutations=10, n_bootstrap=10)["value"] == pytest.approx(expected)
    with pytest.raises(InputError, match="two subjects"):
        mmd(x, y, np.array(["a"] * 6))


def test_mmd_has_its_size_and_no_bias():
    rng = np.random.default_rng(2)
    values, p_values = [], []
    for repeat in range(150):
        person = np.repeat(rng.normal(size=(20, 2)), 2, axis=0)  # true and translated of one person are alike
        x, y = person + 0.5 * rng.normal(size=(2, 40, 2))
        subjects = np.repeat(_one_each(20), 2)
        found = mmd(x, y, subjects, bandwidth=1.0, n_permutations=99, n_bootstrap=2, seed=repeat)
        values.append(found["value"])
        p_values.append(found["p_value"])
    assert abs(np.mean(values)) < 2.5 * np.std(values) / np.sqrt(150)
    assert 0.01 <= np.mean(np.array(p_values) <= 0.05) <= 0.10 and np.mean(np.array(p_values) <= 0.5) < 0.62


def test_scales_and_missing_values():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(2, 80, 3)) * [1.0, 1e4, 1e-4]
    options = {"n_permutations": 99, "n_bootstrap": 20}
    assert mmd(x, y, _one_each(80), **options)["p_value"] > 0.05
    shifted = y + [0, 0, 2e-4]  # two SD in the smallest feature
    assert mmd(x, shifted, _one_each(80), **options)["p_value"] == 0.01
    absent = y.copy()
    absent[:40, 1] = np.nan  # a wave that the translations lack, whatever its size
    assert mmd(x, absent, _one_each(80), **options)["p_value"] == 0.01


# ---------------------------------------------------------------------------------------------------------- classifiers
def test_classifier_finds_what_differs_and_nothing_else():
    rng = np.random.default_rng(4)
    subjects = np.repeat(_one_each(30), 3)
    person = np.repeat(rng.normal(size=(30, 4)), 3, axis=0)
    x, y = person + 0.3 * rng.normal(size=(2, 90, 4))
    options = {"n_permutations": 200, "n_bootstrap": 100, "names": ("logistic regression",)}
    same = classifier_test(x, y, subjects, **options)["logistic regression"]
    assert 0.3 < same["value"] < 0.65 and same["p_value"] > 0.02
    other = classifier_test(x, y + [0.8, 0, 0, 0], subjects, **options)["logistic regression"]
    assert other["value"] > 0.62 and other["p_value"] < 0.01 and other["lower"] > 0.5 and other["upper"] < 1
    with pytest.raises(InputError, match="10 or more"):
        classifier_test(x[:9], y[:9], subjects[:9])


def test_swapped_scores_are_the_area_of_swapped_labels():
    rng = np.random.default_rng(5)
    score, of_subject = np.round(rng.normal(size=(2, 30)), 1), np.repeat(np.arange(6), 5)
    weights = np.tile(subject_weights(of_subject, 0, 0)[0], 2)[None]
    area = weighted_auroc(score.ravel(), np.repeat([False, True], 30), weights)[0]
    draws = np.random.default_rng(9).choice([-1.0, 1.0], size=(50, 6))
    above = 0
    for signs in draws:
        swapped = np.where(signs[of_subject] < 0, score[::-1], score)
        above += weighted_auroc(swapped.ravel(), np.repeat([False, True], 30), weights)[0] >= area - 1e-12
    assert _swap_p(score, of_subject, area, weights[0, :30], 50, 9) == pytest.approx((1 + above) / 51)


def test_table_of_translations_too_small_and_of_other_peoples_beats():
    config = SimulatorConfig(arrhythmia=0, morphology=0)
    cohort, others = (simulate(part, 1, config) for part in (range(24), range(99, 123)))
    windows = SimpleNamespace(ecg=cohort.ecg, lead_mask=np.full((24, 12), 2, np.uint8), index=cohort.index)
    options = {"n_permutations": 99, "n_bootstrap": 50, "names": ("logistic regression",)}
    alike = two_sample_table(others.ecg[:, None], windows, 125.0, **options)
    small = two_sample_table(0.5 * others.ecg[:, None], windows, 125.0, **options)
    assert list(alike["test"]) == ["mmd", "logistic regression"] * 2
    assert set(alike["features"]) == {"measurements", "averaged beat"} and (alike["n_subjects"] == 24).all()
    assert (alike["p_value"] > 0.01).all() and alike["value"].max() < 0.75
    assert (small["p_value"] <= 0.02).all() and small.loc[small["test"] != "mmd", "value"].min() > 0.75
    with pytest.raises(InputError, match="do not fit"):
        two_sample_table(others.ecg, windows, 125.0)
