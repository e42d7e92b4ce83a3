"""Scores split into groups: labels, summaries, and differences that are paired where people are shared."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from p2es_lib.core.errors import InputError
from p2es_lib.evaluation.metrics import summarise
from p2es_lib.evaluation.metrics.groups import (
    group_differences,
    group_labels,
    pulse_snr_db,
    summarise_groups,
    with_group,
)


def _scores(values, subjects, metric="mse", **columns):
    table = {"subject": subjects, "record": "r", "window": range(len(values)), "lead": "all", "estimate": "mean"}
    return pd.DataFrame(table | {"metric": metric, "value": values} | columns)


def test_labels():
    index = pd.DataFrame({
        "age": [20.0, 40.0, 59.9, 75.0, np.nan],
        "sex": ["F", "M", "", "F", "M"],
        "snr_db": [-3.0, 0.0, 12.0, 20.0, 99.0],
        "rhythm": ["af", "sinus", "", "sinus", "af"],
        "weight_kg": [50.0, 60.0, 70.0, 80.0, 90.0],
    })  # fmt: skip
    ages = group_labels(index, "age")
    expected = ["below 40 years", "40 to 60 years", "40 to 60 years", "75 years and more", np.nan]
    assert list(ages.astype(object)) == expected
    assert list(ages.categories)[0] == "below 40 years" and ages.ordered
    assert list(group_labels(index, "sex").astype(object)) == ["women", "men", np.nan, "women", "men"]
    noise = ["below 0 dB", "0 to 10 dB", "10 to 20 dB", "20 dB and more", "20 dB and more"]
    assert list(group_labels(index, "snr_db")) == noise
    assert list(group_labels(index, "age", limits=(30,)))[:2] == ["below 30 years", "30 years and more"]
    assert list(group_labels(index, "weight_kg"))[::4] == ["below 60", "80 and more"]  # quartiles
    assert group_labels(index, "rhythm").categories.tolist() == ["af", "sinus"]
    with pytest.raises(InputError, match="colour"):
        group_labels(index, "colour")


def test_summary_of_groups_is_the_summary_of_their_windows():
    rng = np.random.default_rng(0)
    scores = _scores(rng.gamma(2.0, size=40), np.repeat([f"s{i}" for i in range(20)], 2))
    labels = np.array(["men", "women", "", "men"] * 10, dtype=object)
    table = summarise_groups(scores, labels, 100)
    assert list(table.columns[:3]) == ["group", "lead", "estimate"]
    assert list(table["group"].unique()) == ["men", "women"]
    for group in ("men", "women"):
        alone = summarise(scores[labels == group], 100)
        part = table[table["group"] == group].drop(columns="group").reset_index(drop=True)
        pd.testing.assert_frame_equal(part, alone)
    assert len(with_group(scores, labels)) == 30
    with pytest.raises(InputError, match="labels"):
        with_group(scores, labels[:5])
    with pytest.raises(InputError, match="no window"):
        summarise_groups(scores, np.full(40, ""))


def test_differences_of_different_people():
    rng = np.random.default_rng(1)
    values, labels = rng.normal(size=200), np.array(["a"] * 120 + ["b"] * 80, dtype=object)
    scores = _scores(values + 2.0 * (labels == "b"), [f"s{i}" for i in range(200)], metric="mae")
    row = group_differences(scores, labels, n_bootstrap=2000).iloc[0]
    means = [scores["value"][labels == group].mean() for group in ("a", "b")]
    assert (row["group"], row["reference"], row["estimate"]) == ("b", "a", "mean")
    assert row["value"] == pytest.approx(means[1] - means[0]) and row["n_subjects"] == 80
    error = np.sqrt(values[:120].var() / 120 + values[120:].var() / 80)
    assert row["upper"] - row["lower"] == pytest.approx(2 * 1.96 * error, rel=0.1) and row["p_value"] < 0.01
    turned = group_differences(scores, labels, reference="b", n_bootstrap=200).iloc[0]
    assert turned["value"] == pytest.approx(-row["value"])
    no = group_differences(scores.assign(value=values), labels, n_bootstrap=500).iloc[0]
    assert no["lower"] < 0 < no["upper"] and no["p_value"] > 0.05


def test_differences_are_paired_where_people_are_shared():
    rng = np.random.default_rng(2)
    person = rng.normal(10, 5, size=50)
    values = np.stack([person, person + 1 + 0.01 * rng.normal(size=50)], axis=1).ravel()
    scores = _scores(values, np.repeat([f"s{i}" for i in range(50)], 2), metric="mae")
    row = group_differences(scores, np.tile(["clean", "noisy"], 50), reference="clean", n_bootstrap=300).iloc[0]
    assert row["value"] == pytest.approx(1.0, abs=0.01) and row["upper"] - row["lower"] < 0.02


def test_groups_estimates_and_metrics_do_not_mix():
    parts = []
    kinds = (("mean", "mse"), ("single", "mse"), ("mean", "mae"), ("single", "mae"))
    for level, (estimate, metric) in enumerate(kinds):
        values = np.array([1.0, 1.0, 4.0, 4.0, 9.0, 9.0]) * 10.0**level
        parts.append(_scores(values, list("abcdef"), metric, estimate=estimate))
    labels = pd.Categorical(["low", "low", "mid", "mid", "high", "high"], ["low", "mid", "high"], ordered=True)
    table = group_differences(pd.concat(parts), labels, reference="low", n_bootstrap=50)
    assert list(table["group"].unique()) == ["mid", "high"]  # in order
    found = table.set_index(["group", "estimate", "metric"])["value"]
    assert found["mid", "mean", "mse"] == 3.0 and found["high", "single", "mae"] == 8000.0
    assert found["mid", "single", "mse"] == 30.0 and found["high", "mean", "mae"] == 800.0
    assert found["mid", "mean", "rmse"] == pytest.approx(1.0)  # roots are taken per group
    with pytest.raises(InputError, match="reference 'lower'"):
        group_differences(pd.concat(parts), labels, reference="lower")
    with pytest.raises(InputError, match="groups: x"):
        group_differences(pd.concat(parts), np.array(["x"] * 6))


def test_snr_of_a_regular_pulse_in_noise():
    rng = np.random.default_rng(3)
    t = np.arange(1024) / 125.0
    pulse = np.sin(2 * np.pi * 1.25 * t) + 0.4 * np.sin(4 * np.pi * 1.25 * t + 1.0)
    for snr in (0.0, 6.0, 12.0):
        noise = rng.normal(size=(200, 1, 1024)) * np.sqrt(pulse.var() / 10 ** (snr / 10))
        assert np.median(pulse_snr_db(pulse + noise)) == pytest.approx(snr, abs=0.7)
    assert pulse_snr_db(np.tile(pulse, (1, 1, 1))).item() > 15
    assert np.median(pulse_snr_db(rng.normal(size=(50, 1, 1024)))) < -3
