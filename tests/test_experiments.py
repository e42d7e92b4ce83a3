"""Runs and tables: reuse, what makes a run stale, missing runs, and the shape of the headline table."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tracemalloc

import numpy as np
import pandas as pd
import pytest
from synthetic import synthetic_windows, tiny_config

from p2es_lib.baselines.template import MeanBeatTemplate
from p2es_lib.core.config import config_hash, get_config
from p2es_lib.core.errors import InputError
from p2es_lib.core.paths import PRETRAINED, run_dir, windows_dir
from p2es_lib.core.weights import simulated_model_folder
from p2es_lib.data.preparation import prepare_windows
from p2es_lib.data.sources.simulated import simulated_split
from p2es_lib.data.windows import simulator_config
from p2es_lib.data.windows.store import write_windows
from p2es_lib.evaluation.metrics.uncertainty import attainable_level
from p2es_lib.experiments import runs
from p2es_lib.experiments.results import distance_to_floor, load_scores, results_table
from p2es_lib.experiments.runs import (
    drawn_samples,
    load_windows,
    references_for,
    score_reference,
    score_run,
    teaching_windows,
    train_run,
)
from p2es_lib.experiments.variants import FLOORS, REFERENCES, VARIANTS, configure, parse_seeds
from p2es_lib.method.p2es import P2Es
from p2es_lib.simulator import SimulatorConfig, conditional_mean_ecg, irreducible_rmse, posterior_ecg, simulate


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
    trained = [name for name, variant in VARIANTS.items() if not variant.weights_of]
    assert len({config_hash(configure("quick", "simulated", name)) for name in trained}) == len(trained)
    for variant in (variant for variant in VARIANTS.values() if variant.weights_of):
        whose = VARIANTS[variant.weights_of]
        assert not whose.weights_of and whose.changes.items() <= variant.changes.items()
        # All that differs from the training whose weights are taken is how they are used.
        assert all(
            setting.split(".")[0] in ("sampling", "evaluation")
            for setting in variant.changes.keys() - whose.changes.keys()
        )


def test_seeds_are_parsed_or_refused():
    assert parse_seeds("2,0,1,1") == [0, 1, 2] and parse_seeds(3) == [3]
    for text in ("", "a", "1;2", "-1", "0,,1", "100000"):
        with pytest.raises(InputError, match="seeds="):
            parse_seeds(text)


@pytest.mark.parametrize(("arguments", "message"), [
    (("quick", "simulated", "p3es"), "variant"), (("fast", "simulated", "p2es"), "profile"),
    (("quick", "mimic9", "p2es"), "mimic4wdb"),
])  # fmt: skip
def test_unknown_settings_are_named(arguments, message):
    with pytest.raises(InputError, match=message):
        configure(*arguments)


def test_teaching_notebooks_make_a_missing_simulated_cohort_and_only_that(home, capsys):
    shutil.rmtree(windows_dir("simulated", "smoke"))
    windows, note = teaching_windows(get_config("smoke"))
    printed = capsys.readouterr().out
    assert "simulating the cohort" in printed and printed.count("\n") == 1 and not note
    settings = (windows_dir("simulated", "smoke") / "settings.json").read_text()
    again, _ = teaching_windows(get_config("smoke"), n_leads=2)
    assert not capsys.readouterr().out and len(again) == len(windows)
    # As notebook 01 makes it, which therefore keeps it.
    assert (prepare_windows(get_config("smoke"), progress=False) / "settings.json").read_text() == settings
    with pytest.raises(InputError, match="01_data --dataset bidmc --profile smoke"):
        teaching_windows(get_config("smoke", "bidmc"))


def test_finished_run_is_reused_and_changed_settings_are_not(home, monkeypatch):
    calls = []
    monkeypatch.setattr(
        "p2es_lib.experiments.runs.train", lambda *a, **k: calls.append(a) or pytest.fail("trained again")
    )
    model = train_run(tiny_config(), "p2es", 0, progress=False)
    score_run(model, tiny_config(), "p2es", 0, progress=False)
    assert not calls
    monkeypatch.setattr("p2es_lib.experiments.runs.train", lambda *a, **k: calls.append(a))
    train_run(tiny_config(training__weight_decay=0.5), "p2es", 0, progress=False)
    assert calls, "another setting must train anew"
    folder = run_dir("simulated", "smoke", "p2es", 0)
    assert not (folder / "scores.parquet").exists(), "scores of the old settings must not stay"


def test_changed_windows_make_a_run_stale(home, monkeypatch):
    write_windows(windows_dir("simulated", "smoke"), synthetic_windows(n_test=5), {})
    calls = []
    monkeypatch.setattr("p2es_lib.experiments.runs.train", lambda *a, **k: calls.append(a))
    train_run(tiny_config(), "p2es", 0, progress=False)
    assert calls


def test_checkpoint_of_other_data_is_not_continued(home, monkeypatch):
    """Continued on another split, it would carry what is now a test subject in its bank and weights."""
    folder = run_dir("simulated", "smoke", "p2es", 3)

    def stop(step, config):
        if step == 5:
            raise KeyboardInterrupt
        return 1e-3

    with monkeypatch.context() as patch:
        patch.setattr("p2es_lib.training.loop.learning_rate_at", stop)
        with pytest.raises(KeyboardInterrupt):
            train_run(tiny_config(), "p2es", 3, progress=False)
    assert (folder / "checkpoint.ckpt").is_file()
    windows = synthetic_windows()
    swapped = windows.index["split"].replace({"train": "test", "test": "train"})
    windows = dataclasses.replace(windows, index=windows.index.assign(split=swapped))
    write_windows(windows_dir("simulated", "smoke"), windows, {})
    model = train_run(tiny_config(), "p2es", 3, progress=False)
    assert set(model.group_finder.bank_subjects) <= set(windows.index.query("split == 'train'")["subject"])


def test_references_learn_from_training_windows_only(home, monkeypatch):
    seen = []
    original = MeanBeatTemplate.fit
    monkeypatch.setattr(
        MeanBeatTemplate, "fit", lambda self, windows: seen.extend(windows.index["split"]) or original(self, windows)
    )
    (run_dir("simulated", "smoke", "template", 0) / "scores.parquet").unlink()
    score_reference(tiny_config(), "template", progress=False)
    assert seen and set(seen) == {"train"}


def test_direct_estimate_is_one_step(home):
    test = load_windows(tiny_config()).split("test")
    model = P2Es.from_pretrained(run_dir("simulated", "smoke", "p2es", 0))
    one = model.translate(np.array(test.ppg), test.demographics, n_steps=1)[:, 0].numpy()
    scores = load_scores("simulated", "smoke", "p2es", [0]).query(
        "estimate == 'direct' and metric == 'mse' and lead == 'V2'"
    )
    np.testing.assert_allclose(scores.sort_values("window")["value"], ((one - test.ecg)[:, 7] ** 2).mean(-1), rtol=1e-3)


def test_one_step_estimate_is_scored_once_for_weights_that_several_variants_use(home):
    config = tiny_config(sampling__n_steps=2, sampling__n_samples=2)
    scores = score_run(train_run(config, "steps_2", 0, progress=False), config, "steps_2", 0, progress=False)
    assert set(scores["estimate"]) == {"mean", "single", "samples"}
    with pytest.raises(InputError, match="p2es score --variant steps_3 --seed 0"):
        load_scores("simulated", "smoke", "steps_3", [0])


def test_samples_are_drawn_once(home, monkeypatch):
    config = tiny_config()
    model = train_run(config, "p2es", 0, progress=False)
    anew = runs.translate_test(model, config, 0, progress=False)
    monkeypatch.setattr(runs, "translate_test", lambda *_, **__: pytest.fail("drawn again"))
    assert np.array_equal(drawn_samples(model, config, "p2es", 0), anew)


@pytest.mark.parametrize("stale", ["settings", "windows", "unfinished", "too large"])
def test_samples_that_do_not_belong_to_the_run_are_drawn_again(home, stale, monkeypatch):
    config = tiny_config()
    model = train_run(config, "p2es", 0, progress=False)
    folder = run_dir("simulated", "smoke", "p2es", 0)
    if stale == "settings":
        config = config.replace("sampling.n_samples", 5)
    elif stale == "windows":
        write_windows(windows_dir("simulated", "smoke"), synthetic_windows(n_validation=3), {})
    elif stale == "unfinished":
        (folder / "scores.parquet").unlink()
    else:
        monkeypatch.setattr(runs, "MAX_KEPT_BYTES", 1000)
        (folder / "scores.parquet").unlink()
        (folder / "samples.npy").unlink()
        score_run(model, config, "p2es", 0, progress=False)
        assert not (folder / "samples.npy").exists()
    monkeypatch.setattr(runs, "translate_test", lambda *_, **__: "drawn again")
    assert drawn_samples(model, config, "p2es", 0) == "drawn again"
    if stale == "settings":  # and what is scored anew replaces them
        monkeypatch.undo()
        monkeypatch.setenv("P2ES_HOME", str(home))
        score_run(train_run(config, "p2es", 0, progress=False), config, "p2es", 0, progress=False)
        assert drawn_samples(model, config, "p2es", 0).shape[1] == 5


@pytest.mark.parametrize("stale", ["settings", "windows"])
def test_weights_of_other_windows_or_settings_are_not_used(home, stale):
    """What was a training subject then may be a test subject now."""
    config = tiny_config(sampling__n_steps=2)
    assert train_run(config, "steps_2", 0, progress=False) is not None, (
        "how a model is used is no setting of its training"
    )
    if stale == "settings":
        config = tiny_config(sampling__n_steps=2, training__weight_decay=0.5)
    else:
        write_windows(windows_dir("simulated", "smoke"), synthetic_windows(n_test=5), {})
    with pytest.raises(InputError, match="trained with other settings.*05_train"):
        train_run(config, "steps_2", 0, progress=False)


@pytest.fixture(scope="module")
def floors(tmp_path_factory):
    """Configuration of a small simulated cohort, its test windows with latents, and the scores of each floor there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("P2ES_HOME", str(tmp_path_factory.mktemp("floors")))
        few = {f"data__n_{split}_subjects": n for split, n in (("train", 6), ("validation", 4), ("test", 12))}
        config = tiny_config(**few, evaluation__n_floor_draws=9, sampling__n_samples=8)
        prepare_windows(config, progress=False)
        scores = {name: score_reference(config, name, progress=False) for name in FLOORS}
        yield config, simulated_split(config, "test"), scores, results_table(config, list(FLOORS), [0])


@pytest.mark.parametrize("name, n_draws", list(zip(FLOORS, (9, 9, 8, 8), strict=True)))
def test_floor_is_corrected_for_the_number_of_draws(name, n_draws, floors):
    """The mean over all draws, as it was before single draws were scored; these are the first of the same draws."""
    config, cohort, scores, _ = floors
    known = conditional_mean_ecg(cohort, simulator_config(config), n_draws=n_draws, **FLOORS[name])
    of = scores[name].query("lead == 'all' and metric == 'mse'").groupby("estimate")["value"].mean()
    assert np.sqrt(of["mean"]) == pytest.approx(irreducible_rmse(cohort, known), rel=1e-4)
    options = {"n_draws": n_draws, **FLOORS[name]}
    first = [posterior_ecg(cohort, row, simulator_config(config), **options)[0] for row in range(len(cohort))]
    assert of["single"] == pytest.approx(np.mean((np.array(first) - cohort.ecg) ** 2), rel=1e-4)


def test_floors_are_judged_as_methods_that_draw_samples(floors):
    *_, scores, table = floors
    crps = {}
    for name, of in scores.items():
        means = of[of["lead"] == "all"].groupby(["estimate", "metric"])["value"].mean()
        assert set(of["estimate"]) == {"mean", "single", "samples"}
        crps[name] = means["samples", "crps"]
        assert crps[name] < means["mean", "mae"] and means["mean", "mse"] < means["single", "mse"]
        assert 0.6 < means["samples", "coverage_80"] / attainable_level(0.8, 8) < 1.2
    assert crps["irreducible_all"] < crps["irreducible_all_other"] < crps["irreducible"]
    assert set(FLOORS) <= set(REFERENCES) == set(references_for(tiny_config())) | {"transfer"}
    shown = table[(table["lead"] == "all") & (table["metric"] == "crps")].set_index("method")["value"]
    assert dict(shown) == pytest.approx({REFERENCES[name]: value for name, value in crps.items()})
    assert {f"{REFERENCES[name]}, single sample" for name in FLOORS} < set(table["method"])
    assert not table.duplicated(["method", "lead", "metric"]).any()


def test_draws_exist_for_one_window_at_a_time():
    config, peaks = SimulatorConfig(window_samples=256), []
    for n in (2, 12):
        windows = simulate(range(n), 1, config)
        tracemalloc.start()
        conditional_mean_ecg(windows, config, n_draws=100)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 100 * 12 * 256 * 4, "ten windows more take less than the draws of one"


def test_run_records_what_it_was_made_with(home):
    record = json.loads((run_dir("simulated", "smoke", "p2es", 0) / "config.json").read_text())
    assert record["made_with"]["config_hash"] == config_hash(tiny_config())
    assert record["versions"]["torch"] and record["config"]["profile"] == "smoke"


def as_of_an_older_version(home) -> dict:
    """The finished run there as a version would have left it that lacked a setting, and called another otherwise."""
    path = run_dir("simulated", "smoke", "p2es", 0) / "config.json"
    record = json.loads(path.read_text())
    del record["config"]["training"]["clip_norm"]
    record["config"]["signal"]["n_samples"] = record["config"]["signal"].pop("window_samples")
    record["made_with"]["config_hash"] = "of those days"
    path.write_text(json.dumps(record))
    return record


def test_a_new_setting_leaves_finished_runs_valid(home, monkeypatch):
    """A run from before a setting existed is that of its default; another value of it is another run."""
    record, config = as_of_an_older_version(home), tiny_config()
    monkeypatch.setattr(runs, "train", lambda *_, **__: pytest.fail("trained again"))
    monkeypatch.setattr(runs, "translate_test", lambda *_, **__: pytest.fail("drawn again"))
    model = train_run(config, "p2es", 0, progress=False)
    assert len(score_run(model, config, "p2es", 0, progress=False)) and len(drawn_samples(model, config, "p2es", 0))
    assert train_run(tiny_config(sampling__n_steps=2), "steps_2", 0, progress=False) is not None
    path = run_dir("simulated", "smoke", "p2es", 0) / "config.json"
    assert json.loads(path.read_text()) == record, "what it was made with stays as it was noted"
    monkeypatch.setattr(runs, "train", lambda *_, **__: "trained again")
    changed = tiny_config(training__clip_norm=0.5)
    with pytest.raises(InputError, match="trained with other settings"):
        train_run(changed, "steps_2", 0, progress=False)
    assert (
        train_run(changed, "p2es", 0, progress=False) == "trained again"
        and not (path.parent / "scores.parquet").exists()
    )


def test_a_new_setting_does_not_start_the_workflow_anew(home, monkeypatch):
    monkeypatch.setattr(runs, "get_config", lambda *_: tiny_config())
    as_of_an_older_version(home)
    assert runs.settings_name("simulated", "smoke") == "of those days"
    monkeypatch.setattr(runs, "get_config", lambda *_: tiny_config(training__clip_norm=0.5))
    assert runs.settings_name("simulated", "smoke") == config_hash(tiny_config(training__clip_norm=0.5))
    shutil.rmtree(home / "runs")
    assert runs.settings_name("simulated", "smoke") == config_hash(tiny_config(training__clip_norm=0.5))


def test_transfer_applies_the_simulated_model_as_it_is(home):
    """On windows that are the same, the transferred model must score what it scores at home."""
    shutil.copytree(windows_dir("simulated", "smoke"), windows_dir("bidmc", "smoke"))
    config = dataclasses.replace(tiny_config(), dataset="bidmc")
    transferred = score_reference(config, "transfer", progress=False)
    at_home = load_scores("simulated", "smoke", "p2es", [0])
    assert set(transferred["estimate"]) == {"mean", "single", "samples", "direct"} == set(at_home["estimate"])
    merged = transferred.merge(at_home, on=["window", "lead", "metric", "estimate"])
    assert len(merged) == len(transferred) == len(at_home)
    np.testing.assert_allclose(merged["value_x"], merged["value_y"], rtol=1e-4, atol=1e-6)
    labels = [
        f"{REFERENCES['transfer']}, {kind}"
        for kind in ("mean of 3 samples", "single sample", "one-step posterior mean")
    ]
    assert list(results_table(config, ["transfer"], [0])["method"].unique()) == labels
    folders = (run_dir("bidmc", "smoke", "transfer", 0), run_dir("simulated", "smoke", "p2es", 0))
    distances = [pd.read_csv(folder / "distribution.csv") for folder in folders]
    assert list(distances[0]["estimate"]) == list(distances[1]["estimate"])
    np.testing.assert_allclose(distances[0]["value"], distances[1]["value"], rtol=1e-3)


def test_quick_carries_the_weights_of_the_package_to_real_recordings(home):
    assert "transfer" in references_for(get_config("quick", "bidmc")) and "transfer" not in references_for(
        get_config("full", "bidmc")
    )
    assert simulated_model_folder("quick") == simulated_model_folder("wide") == PRETRAINED
    assert simulated_model_folder("full") == run_dir("simulated", "full", "p2es", 0)
    # A training of one's own comes first: it may be of a network that somebody changed. But as long a one.
    for profile, expected in (("quick", PRETRAINED), ("wide", run_dir("simulated", "wide", "p2es", 0))):
        own = run_dir("simulated", profile, "p2es", 0)
        own.mkdir(parents=True)
        (own / "weights.safetensors").write_bytes(b"trained here")
        assert simulated_model_folder("quick") == simulated_model_folder("wide") == expected


def test_transfer_scored_as_one_answer_is_scored_anew(home):
    """Earlier versions scored only the mean of samples, as the method's one answer, and recorded the weights alone."""
    shutil.copytree(windows_dir("simulated", "smoke"), windows_dir("bidmc", "smoke"))
    config = dataclasses.replace(tiny_config(), dataset="bidmc")
    scores = score_reference(config, "transfer", progress=False)
    folder = run_dir("bidmc", "smoke", "transfer", 0)
    record = json.loads((folder / "config.json").read_text())
    assert record["made_with"].keys() > {"weights"}
    weights = {key: value for key, value in record["made_with"].items() if key != "estimates"}
    (folder / "config.json").write_text(json.dumps(record | {"made_with": weights}))
    scores[scores["estimate"] == "mean"].to_parquet(folder / "scores.parquet", index=False)
    assert set(score_reference(config, "transfer", progress=False)["estimate"]) == {
        "mean",
        "single",
        "samples",
        "direct",
    }


def test_missing_run_names_the_command(home):
    with pytest.raises(InputError, match="notebook 05_train --variant p2es --seed 7"):
        load_scores("simulated", "smoke", "p2es", [0, 7])


def test_headline_table(home):
    config = tiny_config()
    table = results_table(config, ["p2es", "template"], [0])
    assert list(table.columns) == ["method", "lead", "metric", "value", "lower", "upper", "n_subjects", "seeds", "data"]
    assert not table.duplicated(["method", "lead", "metric"]).any()
    methods = [
        "P2Es, mean of 3 samples",
        "P2Es, single sample",
        "P2Es, one-step posterior mean",
        REFERENCES["template"],
    ]
    assert list(table["method"].unique()) == methods
    rmse = table[(table["metric"] == "rmse") & (table["lead"] == "all")]
    assert (rmse["lower"] <= rmse["value"]).all() and (rmse["value"] <= rmse["upper"]).all()
    assert (rmse["n_subjects"] == 6).all() and (rmse["seeds"] == 1).all()
    scores = load_scores("simulated", "smoke", "p2es", [0]).query(
        "lead == 'all' and metric == 'mse' and estimate == 'mean'"
    )
    assert rmse["value"].iloc[0] == pytest.approx(np.sqrt(scores["value"].mean()))
    assert table.equals(results_table(config, ["p2es", "template"], [0])), "the same runs give the same table"


def test_template_beats_an_untrained_network_on_periodic_data(home):
    table = (
        results_table(tiny_config(), ["p2es", "template"], [0])
        .query("lead == 'all' and metric == 'rmse'")
        .set_index("method")["value"]
    )
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
            score_reference(runs.get_config("smoke", "bidmc"), name)
    with pytest.raises(
        InputError, match="DATASET=simulated PROFILE=wide"
    ):  # whose model real recordings of quick are given
        score_reference(runs.get_config("quick", "bidmc"), "irreducible")
    with pytest.raises(InputError, match="reference"):
        score_reference(tiny_config(), "oracle")


def test_validation_floor_is_that_of_the_validation_windows():
    config = configure("smoke").replace("data.n_validation_subjects", 6)
    windows = simulated_split(config, "validation")
    mean = conditional_mean_ecg(windows, simulator_config(config), n_draws=6).mean
    expected = np.sqrt(
        np.mean((windows.ecg.astype(float) - mean) ** 2) / (1 + 1 / 6)
    )  # the mean of 6 draws misses by 1/6 more
    assert runs.validation_floor(config, n_draws=6, progress=False) == pytest.approx(expected, rel=1e-6)


def test_real_data_have_no_known_floor():
    with pytest.raises(InputError, match="simulated data only"):
        runs.validation_floor(configure("smoke", "bidmc"))


def test_training_without_windows_names_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("P2ES_HOME", str(tmp_path))
    with pytest.raises(InputError, match="no prepared windows.*p2es notebook 01_data"):
        train_run(configure("smoke"), "p2es", 0, progress=False)
