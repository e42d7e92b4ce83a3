"""Simulated against real: matching, spectra, components, and a classifier whose verdict is known beforehand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

from p2es_lib.core.config import get_config
from p2es_lib.core.errors import InputError
from p2es_lib.data.windows import WindowSet, simulator_config
from p2es_lib.evaluation import realism
from p2es_lib.evaluation.metrics.features import classifiers
from p2es_lib.plots import plot_beats_compared, plot_measurements_compared, plot_recorded_simulated
from p2es_lib.simulator import simulate

CONFIG = get_config("smoke", "simulated")


@pytest.fixture(autouse=True)
def few_trees(monkeypatch):
    """A forest of 40 trees instead of 300 tells as much here."""
    monkeypatch.setattr(
        realism, "classifiers", lambda *given, **options: classifiers(*given, **options | {"n_trees": 40})
    )


def people(*rows):
    return pd.DataFrame(rows, columns=["age", "sex", "rhythm", "morphology"])


def test_counterparts_are_the_nearest_of_the_same_kind_each_used_once():
    pool = people(
        (30, "F", "sinus", "normal"), (60, "F", "sinus", "normal"), (61, "M", "sinus", "normal"), (60, "F", "af", "lvh")
    )
    wanted = people((58, "F", "sinus", "normal"), (59, "F", "", ""), (61, "F", "sinus", "normal"), (np.nan, "", "", ""),
                    (50, "M", "af", "normal"))  # fmt: skip
    assert list(realism.match_people(wanted, pool)) == [1, 3, 0, 2, -1]


def stand_in(n: int, first: int = 0, **index) -> WindowSet:
    """Windows of simulated people that play the real ones."""
    drawn = simulate(range(first, first + n), 1, simulator_config(CONFIG))
    table = drawn.index.assign(split="train", split_kind="folds", quality=1.0).assign(**index)
    return WindowSet(drawn.ppg, drawn.ecg, np.full((n, 12), 2, dtype=np.uint8), table)


@pytest.fixture(scope="module")
def pairs():
    windows = stand_in(60)
    windows.index.loc[windows.index.index >= 40, "split"] = "test"
    return realism.pair_samples(windows, CONFIG, n_pool=600)


def test_pairs_are_alike_and_nobody_is_paired_with_himself(pairs):
    real, simulated = pairs
    assert len(real.index) == len(simulated.index) == len(real.measured) > 50
    for column in ("sex", "rhythm", "morphology"):
        assert list(real.index[column]) == list(simulated.index[column])
    assert (real.index["age"] - simulated.index["age"]).abs().median() < 3
    assert simulated.index["subject"].is_unique and not set(real.index["subject"]) & set(simulated.index["subject"])
    assert real.leads == simulated.leads and len(real.leads) == 12
    mean_rr_ms = 1e3 * np.nanmean(np.diff(real.r_peaks, axis=1), axis=1)
    assert mean_rr_ms == pytest.approx(60_000 / real.measured["heart_rate"].to_numpy(), rel=0.01)


def test_absent_leads_are_absent_in_both_and_unlabelled_windows_left_out():
    windows = stand_in(30)
    windows.lead_mask[5, 6:] = 0
    windows.index.loc[:9, "morphology"] = ""
    real, simulated = realism.pair_samples(windows, CONFIG, n_pool=300)
    assert real.leads == simulated.leads == ("I", "II", "III", "aVR", "aVL", "aVF") or len(real.leads) == 12
    assert "" not in set(real.index["morphology"]) and len(real.index) <= 20
    windows.lead_mask[15, 6:] = 0
    real, simulated = realism.pair_samples(windows, CONFIG, n_pool=300)
    assert real.leads == simulated.leads == ("I", "II", "III", "aVR", "aVL", "aVF")
    assert np.isnan(simulated.ecg[:, 6:]).all()
    sets = realism.feature_sets(real, simulated)
    assert {x.shape[0] for x in sets.values()} == {2 * len(real.index)}
    assert sets["T"].shape[1] == 6 and sets["averaged beat"].shape[1] == 2 * 66  # leads I and II, 0.66 s at 100 Hz


def test_without_named_leads_only_timing_is_compared():
    windows = stand_in(20, rpeaks_s="0.500 1.500 2.500 3.750")
    windows.lead_mask[:] = 0
    real, simulated = realism.pair_samples(windows, CONFIG, n_pool=200)
    assert real.leads == simulated.leads == ()
    assert list(real.r_peaks[0]) == [0.5, 1.5, 2.5, 3.75] and np.isfinite(simulated.measured["heart_rate"]).all()
    assert real.measured["pr_ms"].isna().all()
    assert len(plot_recorded_simulated(real, simulated, 125.0).axes) == 6
    with pytest.raises(InputError, match="no lead"):
        plot_beats_compared(real, simulated)


def test_nobody_alike_is_an_error():
    with pytest.raises(InputError, match="no simulated person"):
        realism.pair_samples(stand_in(3, morphology="dextrocardia"), CONFIG, n_pool=50)


def test_comparison_of_the_same_population_stays_within_chance(pairs):
    table = realism.compare(*pairs).set_index(["group", "quantity"])
    row = table.loc[("all", "qrs_ms")]
    assert row["real_p50"] == pytest.approx(np.nanmedian(pairs[0].measured["qrs_ms"]))
    assert row["ks_limit"] == pytest.approx(1.358 * np.sqrt(2 / row["n"]), rel=0.05)
    everyone = table.loc["all"]
    assert (everyone["ks"] > everyone["ks_limit"]).mean() < 0.15
    assert "morphology: normal" not in table.index.get_level_values("group")


def test_spectrum_of_a_sine_is_all_at_its_frequency():
    t = np.arange(1000) / 125.0
    frequencies, density = realism.spectrum(np.sin(2 * np.pi * 10 * t)[None], 125.0)
    near = np.abs(frequencies - 10) < 1
    assert (density.sum(-1) * frequencies[1])[0] == pytest.approx(1.0)
    assert density[0, near].sum() * frequencies[1] > 0.99


def test_components_of_equal_samples_are_equal(pairs):
    real, simulated = pairs
    same = realism.principal_shares(real, real)
    assert np.allclose(same["real"], same["simulated"]) and np.allclose(same["real"], same["crossed"])
    assert same["real"].iloc[-1] == pytest.approx(1.0)
    other = realism.principal_shares(real, simulated)
    assert (other["crossed"] <= other["real"] + 1e-9).all()  # no other axes hold more


def test_classifier_tells_what_differs_and_nothing_else(pairs):
    real, _ = pairs
    n = len(real.index)
    rng = np.random.default_rng(0)
    # One area of so few pairs varies by 0.09 (SD): the mean of several says whether it is centred on 0.5.
    noises = [f"noise {number}" for number in range(6)]
    features = {name: rng.standard_normal((2 * n, 3)) for name in [*noises, "shifted"]}
    features["shifted"][:n] += 3.0
    table = realism.tell_apart(features, real, n_bootstrap=200).set_index(["features", "classifier", "group"])
    for kind in ("random forest", "logistic regression"):
        known = table.loc[("shifted", kind, "all")]
        assert known["auroc"] > 0.98 and known["lower"] <= known["auroc"] <= known["upper"]
        assert np.mean([table.loc[(name, kind, "all"), "auroc"] for name in noises]) == pytest.approx(0.5, abs=0.12)
        assert table.loc[("shifted", kind, "unseen by the fit"), "n"] == (real.index["split"] == "test").sum()


def test_without_unseen_people_no_area_is_given_for_them(pairs):
    real, simulated = pairs
    seen = dataclasses.replace(real, index=real.index.assign(split="train"))
    features = {"intervals": realism.feature_sets(real, simulated)["intervals"]}
    assert "unseen by the fit" not in set(realism.tell_apart(features, seen, n_bootstrap=20)["group"])


def test_area_agrees_with_scikit_learn_and_its_interval_counts_subjects():
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(1)
    real, simulated = rng.normal(0.5, 1, 80).round(1), rng.normal(0, 1, 80).round(1)  # rounded: with ties
    area = realism._area_with_interval(real, simulated, np.arange(80), 500, 0)
    assert area["auroc"] == pytest.approx(roc_auc_score([1] * 80 + [0] * 80, [*real, *simulated]))
    few = realism._area_with_interval(real, simulated, np.arange(80) // 20, 500, 0)
    wide = realism._area_with_interval(
        np.tile(real[:20], 4), np.tile(simulated[:20], 4), np.tile(np.arange(20), 4), 500, 0
    )
    narrow = realism._area_with_interval(np.tile(real[:20], 4), np.tile(simulated[:20], 4), np.arange(80), 500, 0)
    assert few["lower"] < area["auroc"] < few["upper"]
    assert wide["upper"] - wide["lower"] > 1.5 * (narrow["upper"] - narrow["lower"])


def test_few_subjects_are_refused(pairs):
    real, _ = pairs
    few = dataclasses.replace(real, index=real.index.assign(subject="one"))
    with pytest.raises(InputError, match="1 subjects: a classifier needs 20"):
        realism.tell_apart({"x": np.zeros((2 * len(real.index), 1))}, few)


def test_figures(pairs):
    real, simulated = pairs
    table = realism.compare(real, simulated)
    areas = realism.tell_apart({"intervals": realism.feature_sets(real, simulated)["intervals"]}, real, n_bootstrap=50)
    fig = plot_measurements_compared(table, areas, realism.principal_shares(real, simulated))
    texts = {text.get_text() for ax in fig.axes for text in ax.get_yticklabels()}
    assert {"All", "intervals"} <= texts and len(fig.axes) == 12
    assert len(plot_beats_compared(real, simulated).axes) == 12
    heading = plot_recorded_simulated(real, simulated, 125.0, ppg="simulated").get_suptitle()
    assert "PPG of these pairs is simulated" in heading
    with pytest.raises(InputError, match="none of its measurements"):
        plot_measurements_compared(table[table["quantity"] == "V6_t_mv"])
