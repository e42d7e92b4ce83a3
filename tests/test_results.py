"""Variants, and tables of differences: what is compared with what, and the correction for many comparisons."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import false_discovery_control

from p2es_lib.core.config import get_config
from p2es_lib.core.demographics import Demographics
from p2es_lib.core.errors import InputError
from p2es_lib.evaluation.metrics.summary import holm, summarise_difference
from p2es_lib.experiments import results
from p2es_lib.experiments.runs import told_demographics, training_command
from p2es_lib.experiments.variants import (
    FINE_TUNED,
    MORE_STEPS,
    REFERENCES,
    SUBJECTS,
    VARIANTS,
    configure,
    count_seeds,
    seeds_of,
    variants_of,
)


def scores_of(shift=0.0, noise=0.0, estimates=("mean", "single", "samples"), seed=0, n=40):
    """Scores of n subjects with two windows each; ``shift`` is added to every value."""
    rng = np.random.default_rng(seed)
    hardness = np.random.default_rng(99).uniform(0.01, 0.05, n)  # the same people in every table
    rows = []
    for estimate in estimates:
        several = ("mse", "mse_lag", "pearson_lag", "r_peak_f1_lag", "log_spectral_distance", "ppe", "mae")
        for metric in ("crps",) if estimate == "samples" else several:
            value = np.repeat(hardness, 2) + shift + noise * rng.standard_normal(2 * n)
            rows.append(
                pd.DataFrame(
                    {
                        "subject": [f"s{k // 2}" for k in range(2 * n)],
                        "record": "r",
                        "window": range(2 * n),
                        "lead": "all",
                        "estimate": estimate,
                        "metric": metric,
                        "value": value,
                    }
                )
            )
    return pd.concat(rows, ignore_index=True).assign(seed=0)


@pytest.fixture
def runs(monkeypatch):
    """Runs by name, in place of files."""
    tables = {"p2es": scores_of()}

    def load(dataset, profile, variant, seeds):
        return tables[variant]

    monkeypatch.setattr(results, "load_scores", load)
    monkeypatch.setattr(results, "load_windows", lambda config: None)
    monkeypatch.setattr(results, "data_kind", lambda windows: "simulated")
    return tables


def test_profiles_choose_from_the_table():
    kinds = ("baselines", "ablations", "samplers", "more_steps", "references", "references_of_others")
    for kind in kinds:
        everything = variants_of("full", kind)
        # One training for each person takes too long for quick; smoke has few.
        small = {name for name in variants_of("smoke", kind) if not name.startswith(FINE_TUNED)}
        assert small <= set(variants_of("quick", kind)) <= set(everything)
        assert variants_of("wide", kind) == everything
    together = [name for kind in kinds for name in variants_of("full", kind)]
    assert sorted([*together, "p2es"]) == sorted(VARIANTS)
    assert {VARIANTS[name].about for name in variants_of("quick", "ablations")} >= {
        "forward",
        "affinity",
        "demographics",
    }
    assert {VARIANTS[name].about for name in variants_of("full", "ablations")} == set(SUBJECTS)
    for profile in ("smoke", "quick", "full"):  # what more steps are compared with is there, and so are the weights
        there = [name for kind in kinds for name in variants_of(profile, kind)]
        assert f"steps_{MORE_STEPS}" in there
        assert {VARIANTS[name].weights_of for name in variants_of(profile, "more_steps")} <= set(there)
    for kind in ("references", "references_of_others"):
        assert variants_of("full", kind, "ptb-xl") == [], "none are made of real recordings"
    for profile in ("smoke", "quick", "wide"):  # whose weights are used is trained there
        uses = variants_of(profile, "references_of_others")
        trained = variants_of(profile, "baselines") + variants_of(profile, "ablations")
        assert uses and {VARIANTS[name].weights_of for name in uses} <= set(trained)
        bases = {name: FINE_TUNED if name.startswith(FINE_TUNED) else VARIANTS[name].weights_of for name in uses}
        assert all(name.startswith(f"{base}_reference_") for name, base in bases.items())
    assert variants_of("quick", "references", "simulated") == variants_of("quick", "references") != []
    with pytest.raises(InputError, match="kind"):
        variants_of("quick", "everything")


def test_the_ddpm_is_plain_and_ablations_change_one_thing():
    changed = {"ddpm": {"process.beat_share": 0.0, "process.blur": "none", "denoiser.deblurring": False,
                        "affinity.mixing": "identity"},
               "white_noise": {"process.beat_share": 0.0},
               "groups_without_reference": {"affinity.reference": False}}  # fmt: skip
    for name, changes in changed.items():
        assert VARIANTS[name].changes == changes and not VARIANTS[name].weights_of
        assert configure("quick", variant=name) != configure("quick")
        for use in (use for use, variant in VARIANTS.items() if variant.weights_of == name):
            assert VARIANTS[use].changes.items() >= changes.items(), "its weights are used as they were trained"
    assert {"white_noise", "groups_without_reference"} <= set(variants_of("wide", "ablations"))


def test_demographics_as_a_test_gives_them():
    known = Demographics(np.array([20.0, 54.0, np.nan, 91.0]), np.array(["F", "M", "", "M"], dtype=object))
    assert told_demographics(known, "given") is known
    hidden = told_demographics(known, "hidden")
    assert np.isnan(hidden.age).all() and set(hidden.sex) == {""}
    wrong = told_demographics(known, "wrong")
    np.testing.assert_array_equal(wrong.age, [88.0, 54.0, np.nan, 18.0])
    assert list(wrong.sex) == ["M", "F", "", "F"]


def test_commands_name_the_notebook_that_makes_a_run():
    assert (
        training_command("bidmc", "full", "unet", 2)
        == "p2es notebook 05_train --variant unet --seed 2 --dataset bidmc --profile full"
    )
    assert "06_baselines" in training_command("bidmc", "full", "ridge", 0)


def test_holm_follows_its_definition():
    p = np.array([0.01, 0.04, 0.03, np.nan, 0.005])
    np.testing.assert_allclose(holm(p), [0.03, 0.06, 0.06, np.nan, 0.02])
    assert holm(np.array([0.7, 0.6])).max() == 1.0 and not holm(np.array([])).size
    many = np.random.default_rng(0).uniform(0, 0.1, 30)
    assert (holm(many) >= false_discovery_control(many) - 1e-12).all() and (holm(many) >= many).all()


def test_a_p_value_is_small_where_the_interval_excludes_zero():
    clear = summarise_difference(scores_of(0.01, 0.002, seed=1), scores_of(), 2000)
    nothing = summarise_difference(scores_of(0.0, 0.02, seed=2), scores_of(), 2000)
    assert (clear["p_value"] <= 0.002).all() and (clear["lower"] > 0).all()
    excluded = (nothing["lower"] > 0) | (nothing["upper"] < 0)
    assert ((nothing["p_value"] < 0.05) == excluded).all() and (nothing["p_value"] > 0.05).any()


def test_one_subject_has_no_p_value():
    alone = [table[table["subject"] == "s0"] for table in (scores_of(0.01), scores_of())]
    table = summarise_difference(*alone, 200)
    assert table["p_value"].isna().all() and table["lower"].isna().all() and (table["value"] > 0).all()


def test_differences_are_paired_and_corrected(runs):
    runs |= {"no_blur": scores_of(0.01, 0.001, seed=1), "no_affinity": scores_of(0.0, 0.01, seed=2)}
    table = results.difference_table(get_config("quick"), ["no_blur", "no_affinity"], [0])
    assert set(table["metric"]) == set(results.COMPARED) and len(table) == 2 * len(results.COMPARED)
    blur = table[table["variant"] == "no_blur"].set_index("metric")
    hardness = runs["p2es"].query("metric == 'mse' and estimate == 'mean'")["value"]
    expected = np.sqrt(runs["no_blur"].query("metric == 'mse' and estimate == 'mean'")["value"].mean()) - np.sqrt(
        hardness.mean()
    )
    assert blur.loc["rmse", "difference"] == pytest.approx(expected)
    assert blur.loc["ppe", "difference"] == pytest.approx(0.01, abs=1e-3) and blur.loc["ppe", "estimate"] == "single"
    assert (blur["p_holm"] < 0.05).all() and set(blur["about"]) == {"forward"}
    # Paired: the spread between people, ten times as large, is not in the interval.
    assert (blur.loc["ppe", "upper"] - blur.loc["ppe", "lower"]) < 0.002
    by_metric = table.groupby("metric")
    assert all(np.allclose(rows["p_holm"], holm(rows["p_value"].to_numpy())) for _, rows in by_metric)


def test_each_training_is_compared_with_the_one_of_its_seed(runs):
    def trainings(shifts, **kwargs):
        return pd.concat(
            [scores_of(shift, **kwargs).assign(seed=seed) for seed, shift in enumerate(shifts)], ignore_index=True
        )

    runs |= {
        "p2es": trainings((0.0, 0.01, 0.02)),
        "no_blur": trainings((0.01, 0.01, 0.04)),
        "no_projection": trainings((0.03,)),
    }
    runs["template"] = scores_of(0.05, estimates=("mean",))
    config = get_config("wide")
    table = results.difference_table(config, ["no_blur", "no_projection", "template"], [0, 1, 2])
    ppe = table[table["metric"] == "ppe"].set_index("variant")
    np.testing.assert_allclose(ppe["difference"], [0.01, 0.03, 0.04])  # one seed: the full model's of that seed
    np.testing.assert_allclose(ppe["seed_min"], [0.0, 0.03, 0.03], atol=1e-12)
    np.testing.assert_allclose(ppe["seed_max"], [0.02, 0.03, 0.05])
    assert list(ppe["seeds"]) == [3, 1, 3]


def test_wide_repeats_only_what_quick_compares():
    assert seeds_of("wide", "no_blur", [0, 1, 2]) == seeds_of("wide", "p2es", [0, 1, 2]) == [0, 1, 2]
    assert seeds_of("wide", "no_projection", [1, 2]) == [1] and seeds_of("wide", "steps_50", [0, 1]) == [0]
    assert all(seeds_of("full", name, [0, 1, 2]) == [0, 1, 2] for name in VARIANTS)
    for name, variant in VARIANTS.items():  # the weights that a variant uses are trained with its seeds
        if variant.weights_of:
            assert set(seeds_of("wide", name, [0, 1])) <= set(seeds_of("wide", variant.weights_of, [0, 1]))
    assert (
        count_seeds("full", [0, 1])
        == "2 training seed(s)"
        == count_seeds("wide", [0, 1]).removesuffix(" (what quick leaves out: 1)")
    )
    assert count_seeds("wide", [0, 1]) != count_seeds("full", [0, 1]) and count_seeds("wide", [0]) == count_seeds(
        "full", [0]
    )
    assert count_seeds("wide", [4]) == "1 training seed(s)"


def test_a_method_with_one_estimate_is_compared_by_it(runs):
    runs["unet"] = scores_of(0.02, estimates=("mean",))
    runs["template"] = scores_of(0.03, estimates=("mean",))
    runs["p2es"].loc[runs["p2es"]["estimate"] == "single", "value"] += 0.005
    table = results.difference_table(get_config("quick"), ["unet", "template"], [0])
    assert set(table["estimate"]) == {"mean"} and set(table["about"]) == {"baseline", "reference"}
    unet = table[table["variant"] == "unet"].set_index("metric")["difference"]
    assert unet["pearson_lag"] == pytest.approx(0.02) and unet["ppe"] == pytest.approx(0.015)
    # The CRPS of one answer is its absolute error.
    runs["unet"].loc[runs["unet"]["metric"] == "mae", "value"] += 0.1
    table = results.difference_table(get_config("quick"), ["unet"], [0])
    assert table.set_index("metric").loc["crps", "difference"] == pytest.approx(0.12)


def test_a_reference_that_draws_samples_is_compared_like_with_like(runs):
    runs["p2es"] = scores_of(estimates=("mean", "single", "samples"))
    runs["transfer"] = scores_of(0.02, estimates=("mean", "single", "samples"))
    for of in ("p2es", "transfer"):  # a single sample scores worse than the mean
        runs[of].loc[runs[of]["estimate"] == "single", "value"] += 0.1
    table = results.difference_table(get_config("quick"), ["transfer"], [0]).set_index("metric")
    assert dict(table["estimate"]) == {metric: results.COMPARED[metric] for metric in table.index}
    assert table.loc["log_spectral_distance", "difference"] == pytest.approx(0.02) == table.loc["ppe", "difference"]
    assert set(table["about"]) == {"reference"}


def test_labels_of_methods_with_one_and_with_several_estimates():
    config = get_config("quick")
    several = results._method_labels(config, "ddpm", pd.Series(["mean", "single"]))
    assert list(several) == [
        f"{VARIANTS['ddpm'].label}, mean of 16 samples",
        f"{VARIANTS['ddpm'].label}, single sample",
    ]
    transfer = results._method_labels(config, "transfer", pd.Series(["mean", "single", "direct"]))
    endings = ("mean of 16 samples", "single sample", "one-step posterior mean")
    assert list(transfer) == [f"{REFERENCES['transfer']}, {ending}" for ending in endings]
    assert list(results._method_labels(config, "ridge", pd.Series(["mean"]))) == [REFERENCES["ridge"]]
    assert list(results._method_labels(config, "unet", pd.Series(["mean"]))) == ["U-Net regression"]
