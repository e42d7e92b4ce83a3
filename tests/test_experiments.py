"""Runs and tables: reuse, what makes a run stale, missing runs, and the shape of the headline table."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pandas as pd
import pytest
from synthetic import synthetic_windows, tiny_config

from p2es_lib import experiments
from p2es_lib.config import config_hash
from p2es_lib.errors import InputError
from p2es_lib.experiments import (
    REFERENCES,
    VARIANTS,
    configure,
    distance_to_floor,
    load_scores,
    parse_seeds,
    results_table,
    score_reference,
    score_run,
    train_run,
)
from p2es_lib.paths import run_dir, windows_dir
from p2es_lib.windows import write_windows


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A home with prepared windows and one finished tiny run."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        patch.setenv("P2ES_HOME", str(home))
        config = tiny_config()
        write_windows(windows_dir("simulated", "smoke"), synthetic_windows(), {})
        model = train_run(config, "p2es", 0, progress=False)
        score_run(model, config, "p2es", 0, progress=False)
        score_reference(config, "template", progress=False)
    return home


@pytest.fixture
def home(trained, tmp_path, monkeypatch):
    """A copy of it that a test may change."""
    shutil.copytree(trained, tmp_path / "home")
    monkeypatch.setenv("P2ES_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_every_variant_changes_the_settings_and_the_name_of_the_run():
    hashes = {name: config_hash(configure("quick", "simulated", name)) for name in VARIANTS}
    assert len(set(hashes.values())) == len(VARIANTS)


def test_seeds_are_parsed_or_refused():
    assert parse_seeds("2,0,1,1") == [0, 1, 2] and parse_seeds(3) == [3]
    for text in ("", "a", "1;2", "-1", "0,,1"):
        with pytest.raises(InputError, match="seeds="):
            parse_seeds(text)


@pytest.mark.parametrize(("arguments", "message"), [
    (("quick", "simulated", "p3es"), "variant"), (("fast", "simulated", "p2es"), "profile"), (("quick", "mimic9", "p2es"), "mimic4wdb"),
])  # fmt: skip
def test_unknown_settings_are_named(arguments, message):
    with pytest.raises(InputError, match=message):
        configure(*arguments)


def test_finished_run_is_reused_and_changed_settings_are_not(home, monkeypatch):
    calls = []
    monkeypatch.setattr("p2es_lib.training.train", lambda *a, **k: calls.append(a) or pytest.fail("trained again"))
    model = train_run(tiny_config(), "p2es", 0, progress=False)
    score_run(model, tiny_config(), "p2es", 0, progress=False)
    assert not calls
    monkeypatch.setattr("p2es_lib.training.train", lambda *a, **k: calls.append(a))
    train_run(tiny_config(training__weight_decay=0.5), "p2es", 0, progress=False)
    assert calls, "another setting must train anew"
    folder = run_dir("simulated", "smoke", "p2es", 0)
    assert not (folder / "scores.parquet").exists(), "scores of the old settings must not stay"


def test_changed_windows_make_a_run_stale(home, monkeypatch):
    write_windows(windows_dir("simulated", "smoke"), synthetic_windows(n_test=5), {})
    calls = []
    monkeypatch.setattr("p2es_lib.training.train", lambda *a, **k: calls.append(a))
    train_run(tiny_config(), "p2es", 0, progress=False)
    assert calls


def test_run_records_what_it_was_made_with(home):
    record = json.loads((run_dir("simulated", "smoke", "p2es", 0) / "config.json").read_text())
    assert record["made_with"]["config_hash"] == config_hash(tiny_config())
    assert record["versions"]["torch"] and record["config"]["profile"] == "smoke"


def test_transfer_applies_the_simulated_model_as_it_is(home):
    """On windows that are the same, the transferred model must score what it scores at home."""
    shutil.copytree(windows_dir("simulated", "smoke"), windows_dir("bidmc", "smoke"))
    config = dataclasses.replace(tiny_config(), dataset="bidmc")
    transferred = score_reference(config, "transfer", progress=False)
    at_home = load_scores("simulated", "smoke", "p2es", [0]).query("estimate == 'mean'")
    merged = transferred.merge(at_home, on=["window", "lead", "metric"])
    assert len(merged) == len(transferred)
    np.testing.assert_allclose(merged["value_x"], merged["value_y"], rtol=1e-4, atol=1e-6)


def test_missing_run_names_the_command(home):
    with pytest.raises(InputError, match=r"p2es notebook 05_train --variant p2es --seed 7 --dataset simulated --profile smoke"):
        load_scores("simulated", "smoke", "p2es", [0, 7])


def test_headline_table(home):
    config = tiny_config()
    table = results_table(config, ["p2es", "template"], [0])
    assert list(table.columns) == ["method", "lead", "metric", "value", "lower", "upper", "n_subjects", "seeds"]
    assert not table.duplicated(["method", "lead", "metric"]).any()
    methods = ["P2Es, mean of 3 samples", "P2Es, single sample", "P2Es, one-step posterior mean", REFERENCES["template"]]
    assert list(table["method"].unique()) == methods
    rmse = table[(table["metric"] == "rmse") & (table["lead"] == "all")]
    assert (rmse["lower"] <= rmse["value"]).all() and (rmse["value"] <= rmse["upper"]).all()
    assert (rmse["n_subjects"] == 6).all() and (rmse["seeds"] == 1).all()
    scores = load_scores("simulated", "smoke", "p2es", [0]).query("lead == 'all' and metric == 'mse' and estimate == 'mean'")
    assert rmse["value"].iloc[0] == pytest.approx(np.sqrt(scores["value"].mean()))
    assert table.equals(results_table(config, ["p2es", "template"], [0])), "the same runs give the same table"


def test_template_beats_an_untrained_network_on_periodic_data(home):
    table = results_table(tiny_config(), ["p2es", "template"], [0]).query("lead == 'all' and metric == 'rmse'").set_index("method")["value"]
    assert table[REFERENCES["template"]] < 0.8 * table["P2Es, mean of 3 samples"]


def test_distance_to_floor_adds_up(home):
    folder = run_dir("simulated", "smoke", "irreducible", 0)
    shutil.copytree(run_dir("simulated", "smoke", "template", 0), folder)
    scores = pd.read_parquet(folder / "scores.parquet")
    scores["value"] *= 0.5
    scores.to_parquet(folder / "scores.parquet")
    table = distance_to_floor(tiny_config(), ["p2es", "template"], [0])
    template = table[table["method"] == REFERENCES["template"]].set_index("metric")
    assert template.loc["mse", "value"] == pytest.approx(template.loc["mse", "floor"])
    for _, rows in table.groupby("method"):
        rows = rows.set_index("metric")["value"]
        assert rows["mse"] == pytest.approx(rows[["mse_timing", "mse_amplitude", "mse_morphology"]].sum())


def test_floor_of_real_data_is_refused(home):
    (run_dir("simulated", "smoke", "p2es", 0) / "weights.safetensors").unlink()
    for name in ("irreducible", "transfer"):
        with pytest.raises(InputError, match="latents.*make reproduce DATASET=simulated"):
            score_reference(experiments.get_config("smoke", "bidmc"), name)
    with pytest.raises(InputError, match="reference"):
        score_reference(tiny_config(), "oracle")
