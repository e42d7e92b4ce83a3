"""What a reference is worth, and what it cannot show: tables by regime, coherence, changes of the heart; figures."""

from __future__ import annotations

import io
from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from known_beats import ecg_of, ppg_of, wave

from p2es_lib import plots
from p2es_lib.core.config import get_config
from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import LEADS
from p2es_lib.data.sources.simulated import simulate_cohort
from p2es_lib.experiments import changes, reference_results, results, verify
from p2es_lib.experiments.changes import (
    PULSE,
    SIGNS,
    TRUE,
    WITH,
    WITHOUT,
    change_table,
    measure,
    measure_pulses,
    measurements_of,
    people_changed,
    translate_changed,
    unseen_by_pulse,
)
from p2es_lib.experiments.reference_results import (
    FLOOR,
    P2ES,
    PASTED,
    PULSES,
    TRUTH,
    coherence_table,
    draw_regimes,
    others_minus_p2es,
    others_scored,
    regime_table,
    scored_regimes,
    typical_window,
)
from p2es_lib.experiments.variants import VARIANTS
from p2es_lib.reference.regimes import REGIMES

RATE, N = 125.0, 1024


# ------------------------------------------------------------------------------------------------- errors by regime
def scores_of(level: float, estimates=("mean", "samples"), subjects: int = 6) -> pd.DataFrame:
    """Scores whose squared error is ``level``, more or less by the subject, as P2Es or (one estimate) a reference."""
    metrics = {
        "mean": {"mse": level, "mae": 2 * level},
        "samples": {"crps": level, "coverage_80": 0.75, "coverage_95": 0.9},
    }
    rows = [
        {"subject": f"s{k}", "record": f"s{k}", "window": k, "lead": lead, "estimate": estimate, "metric": metric,
         "value": value * (1 + 0.1 * (k - 2.5))}
        for k in range(subjects) for lead in ("all", "V1") for estimate in estimates
        for metric, value in metrics[estimate].items()
    ]  # fmt: skip
    return pd.DataFrame(rows)


@pytest.fixture
def scored(monkeypatch):
    """Scores by variant: the more leads, the better; another session is worse."""
    level = {"none": 0.04, "I": 0.03, "limb": 0.02, "all": 0.01}

    def load(dataset, profile, variant, seeds):
        assert (dataset, profile) == ("simulated", "quick")
        base, _, name = variant.rpartition("reference_")
        base = base.rstrip("_") or variant
        name = name.removeprefix("pasted_").removeprefix("irreducible_")
        regime, _, session = name.partition("_")
        value = level.get(regime, level["none"]) + 0.005 * (session == "other")
        if variant.startswith("irreducible"):
            return scores_of({"irreducible": 0.035}.get(variant, 0.5 * value)).assign(seed=0)
        one = variant.startswith(("pasted", "unet"))
        value *= 1.5 if one else 1.2 if base in others_scored(profile) else 1.0
        estimates = ("mean",) if one else ("mean", "samples")
        return pd.concat(
            [scores_of(value, estimates).assign(seed=seed) for seed in ([0] if base.startswith("pasted") else seeds)]
        )

    for module in (reference_results, results):
        monkeypatch.setattr(module, "load_scores", load)
    monkeypatch.setattr(results, "load_windows", lambda config: None)
    monkeypatch.setattr(results, "data_kind", lambda windows: "simulated")
    return load


def test_profiles_score_both_sessions():
    assert {session for *_, session in scored_regimes("smoke")} == {"same", "other"}
    assert [(r, s) for _, r, s in scored_regimes("quick")] == [
        (r, s) for s in ("same", "other") for r in ("I", "limb", "all")
    ]


def check_verifiable(name: str, table: pd.DataFrame) -> None:
    """A run of the same bits is reproduced, and no number of the table lacks a limit."""
    again = pd.read_csv(io.StringIO(table.to_csv(index=False, float_format="%.6g")))
    assert not verify.without_limits(again)
    found = verify.compare_tables(name, again, again.copy())
    assert found.same == found.rows == len(table) and not found.wrong


def test_the_table_holds_every_regime(scored):
    table = regime_table(get_config("quick"), [0, 1])
    others = {VARIANTS[name].label for name in others_scored("quick")}
    assert set(table["method"]) == {P2ES, PASTED, FLOOR, *others} and len(others) == 5
    assert not table.duplicated(["method", "regime", "session", "metric"]).any()
    own = table[(table["method"] == P2ES) & (table["metric"] == "rmse")].set_index(["n_leads", "session"])
    assert own.loc[(12, "same"), "value"] == pytest.approx(0.1) and own.loc[(0, ""), "value"] == pytest.approx(0.2)
    assert own.loc[(12, "other"), "value"] == pytest.approx(np.sqrt(0.015)) and set(own["seeds"]) == {2}
    assert (table["lower"] <= table["value"]).all() and (table["value"] <= table["upper"]).all()
    pasted = table[table["method"] == PASTED].set_index(["metric", "n_leads", "session"])
    assert pasted.loc[("crps", 12, "same"), "value"] == pytest.approx(2 * 0.015), "the absolute error of one answer"
    assert set(pasted["seeds"]) == {1} and "coverage_80" not in pasted.index.get_level_values(0)
    floor = table[table["method"] == FLOOR].set_index(["metric", "n_leads", "session"])["value"]
    assert set(floor.index.droplevel("metric")) == {(0, ""), (12, "same"), (12, "other")}, "of one lead none is known"
    assert floor["rmse", 12, "same"] == pytest.approx(np.sqrt(0.005)) and floor["crps", 0, ""] == pytest.approx(0.035)
    assert set(table.loc[table["method"] != PASTED, "metric"]) == {"rmse", "crps", "coverage_80", "coverage_95"}
    check_verifiable("table28_references", table)


def test_pasted_beats_are_held_against_the_model_with_the_same_reference(scored):
    table = others_minus_p2es(get_config("quick"), [0], ["pasted"])
    rows = table[table["metric"] == "rmse"].set_index(["regime", "session"])
    assert len(rows) == 7
    assert rows.loc[("all", "same"), "difference"] == pytest.approx(np.sqrt(0.015) - 0.1)
    assert rows.loc[("none", ""), "difference"] == pytest.approx(np.sqrt(0.06) - 0.2)


def test_others_are_held_against_the_model_with_the_same_reference(scored):
    names = others_scored("quick")
    assert names == ["unet", "ddpm", "no_blur", "no_deblurring", "no_affinity"]
    assert others_scored("wide")[2] == "rectified_flow" and len(scored_regimes("wide", "ddpm")) == 6
    table = others_minus_p2es(get_config("quick"), [0, 1], names)
    rows = table[table["metric"] == "crps"].set_index(["method", "regime", "session"])
    assert len(rows) == 5 * 3 and not rows.index.duplicated().any() and set(rows["seeds"]) == {2}
    assert rows.loc[("no blur", "all", "same"), "difference"] == pytest.approx(0.2 * 0.01)
    assert rows.loc[("no blur", "none", ""), "difference"] == pytest.approx(0.2 * 0.04)
    # Of one answer the absolute error.
    assert rows.loc[("U-Net regression", "I", "same"), "difference"] == pytest.approx(2 * 1.5 * 0.03 - 0.03)
    check_verifiable("table33_others_by_regime", rows.reset_index().drop(columns=["variant", "about"]))


def test_methods_are_drawn_by_regime(scored):
    table = regime_table(get_config("quick"), [0])
    fig = plots.plot_methods_by_regime(table[table["method"] != FLOOR])
    names = [text.get_text() for text in fig.axes[0].get_yticklabels()]
    assert names[0] == "no reference" and names[1] == "1 lead\nsame session" and len(names) == 7
    assert names[-1] == "12 leads\nother session"
    assert len(fig.legends[0].get_texts()) == 7 and len(fig.axes[1].lines) == 7


def test_the_typical_window_has_the_median_error_among_those_asked_for():
    scores = pd.DataFrame({"lead": "all", "metric": "mse", "estimate": "mean", "window": range(6),
                           "value": [9.0, 1.0, 2.0, 3.0, 0.5, 8.0]})  # fmt: skip
    assert typical_window(scores, np.array([1, 2, 3])) == 1
    assert typical_window(scores, np.array([0, 5, 3])) == 1


# ------------------------------------------------------------------------------------------------------- coherence
class Copies:
    """In place of a model: the true ECG, in samples that are all alike; notes what it was given."""

    def __init__(self, ecg):
        self.ecg, self.given = ecg, []

    def translate(self, ppg, demographics, *, reference=None, n_samples=1, generator=None):
        self.given.append(None if reference is None else reference.given.sum(dim=1).tolist())
        return torch.as_tensor(self.ecg)[: len(ppg), None].repeat(1, n_samples, 1, 1)


@pytest.fixture(scope="module")
def config():
    return get_config("smoke").replace("data.n_test_subjects", 8).replace("data.windows_per_subject", 1)


@pytest.fixture(scope="module")
def cohort(config):
    return simulate_cohort(config).split("test")


def test_each_regime_gets_its_reference(config, cohort):
    some = cohort.select(np.arange(3))
    model = Copies(np.array(some.ecg))
    drawn = draw_regimes(model, config, some)
    assert list(drawn) == ["none", "I", "limb", "all"] and drawn["I"].shape == (3, config.sampling.n_samples, 12, N)
    assert model.given == [None, [1.0] * 3, [6.0] * 3, [12.0] * 3]


def test_the_true_ecg_is_as_coherent_as_itself(config, cohort):
    drawn = {"all": np.repeat(np.array(cohort.ecg)[:, None], 2, axis=1)}
    table = coherence_table(drawn, cohort, config).set_index(["regime", "estimate", "metric"])
    own, true = table.loc[("all", "single", "qrs_cv"), "value"], table.loc[("", TRUTH, "qrs_cv"), "value"]
    assert own == pytest.approx(true) and 0.01 < true < 0.15
    assert table.loc[("all", "mean", "r"), "value"] == pytest.approx(1)
    assert table.loc[("all", "single", "r_jitter_ms"), "value"] < table.loc[("", PULSES, "r_jitter_ms"), "value"]
    assert table["n_subjects"].max() == 8
    check_verifiable("table30_coherence", table.reset_index())


# --------------------------------------------------------------------------------------- what a reference cannot show
def windows_of(r_times, gains=None, lift=0.0):
    """One ECG whose beats are at these times, each of its own size, with this much ST elevation in V2."""
    gains = np.ones(len(r_times)) if gains is None else gains
    ecg, t = ecg_of(r_times, N, RATE, [partial(wave, gain=gain) for gain in gains]), np.arange(N) / RATE
    for r in r_times:
        ecg[LEADS.index("V2")] += lift * ((t > r + 0.05) & (t < r + 0.35))
    return ecg.astype(np.float32)


def test_measurements_tell_rhythm_odd_beats_and_st():
    regular = 0.5 + 0.8 * np.arange(9)
    early = regular.copy()
    early[4] -= 0.3
    irregular = np.cumsum([0.5, 0.9, 0.6, 1.1, 0.7, 1.0, 0.6, 0.9, 0.7])
    inverted = np.ones(9)
    inverted[4] = -1.0
    ecg = np.stack([windows_of(regular), windows_of(early), windows_of(irregular), windows_of(regular, inverted),
                    windows_of(regular, lift=0.3)])  # fmt: skip
    found = measure(ecg, RATE)
    assert list(found) == ["irregularity", "odd_beats", "st_mv", "qrs_ms", "qtc_ms"] and len(found) == 5
    assert found["irregularity"][0] < 0.02 < 0.3 < found["irregularity"][2]
    assert list(found["odd_beats"][[0, 1, 3]]) == [0, 1, 1]
    assert found["st_mv"][4] - found["st_mv"][0] == pytest.approx(0.3, abs=0.1)
    flat = measure(np.zeros((1, 12, N), dtype=np.float32), RATE)
    assert flat[["st_mv", "qrs_ms", "qtc_ms"]].isna().all(axis=None) and flat["odd_beats"][0] == 0


def test_pulses_out_of_place_are_counted():
    regular = 0.3 + 0.8 * np.arange(10)
    gap = np.delete(regular, 5)
    ppg = np.stack([ppg_of(times, N, RATE) for times in (regular, gap)]).astype(np.float32).reshape(2, 1, N)
    found = measure_pulses(ppg, RATE)
    assert found["irregularity"][0] < 0.03 < found["irregularity"][1]
    assert list(found["odd_beats"]) == [0, 1]


@pytest.fixture(scope="module")
def people(config):
    return people_changed(config, 4)


def test_people_were_well_and_are_the_same_later(people):
    assert 1 <= len(people.numbers) <= 4 and len(people.reference) == len(people.numbers)
    assert people.reference.given.all() and not people.reference.same_session.any()
    assert set(people.windows) == {"none", *SIGNS}
    for change, made in people.windows.items():
        assert list(made.latents.subject) == list(people.numbers) and set(made.index["change"]) == {change}
        assert set(made.index["session"]) == {1}
    assert (people.windows["af"].index["rhythm"] == "af").all()


def test_the_pulse_shows_the_rhythm_and_nothing_else(people):
    assert unseen_by_pulse(people) == ["st_elevation", "lbbb", "long_qt"]
    for change in SIGNS:
        assert not np.array_equal(people.windows[change].ecg, people.windows["none"].ecg), change


def test_nobody_well_is_an_error(config, monkeypatch):
    ill = pd.DataFrame({"rhythm": ["af"], "morphology": ["normal"]})
    monkeypatch.setattr(changes, "simulate", lambda *args, **options: SimpleNamespace(index=ill))
    with pytest.raises(InputError, match="well"):
        people_changed(config, 4)


def test_a_perfect_translation_tells_all_changes_and_one_of_the_old_heart_none(people):
    class Old:
        def translate(self, ppg, demographics, *, reference=None, n_samples=1, generator=None):
            return torch.as_tensor(people.windows["none"].ecg)[:, None].repeat(1, n_samples, 1, 1)

    drawn = translate_changed(Old(), people, n_samples=2)
    assert drawn["lbbb"] is drawn["none"], "the same pulse is translated once"
    perfect = {change: {WITH: made.ecg[:, None]} for change, made in people.windows.items()}
    both = {change: {WITH: perfect[change][WITH], WITHOUT: drawn[change][WITHOUT]} for change in drawn}
    measured = measurements_of(people, both, RATE)
    assert len(measured) == 6 * 4 * len(people.numbers)
    table = change_table(measured, 50)
    areas = table.pivot(index="change", columns="source", values="auroc")
    assert np.allclose(areas[WITH], areas[TRUE]) and (areas[TRUE] > 0.7).all()
    assert np.allclose(areas[WITHOUT], 0.5)
    assert set(areas.index[areas[PULSE].notna()]) == {"atrial fibrillation", "frequent PVCs"}
    check_verifiable("table31_changes", table)
    assert (table["lower"] <= table["auroc"]).all() and (table["n_subjects"] == len(people.numbers)).all()


def test_what_cannot_be_measured_says_nothing():
    names = [f"s{k}" for k in range(5)]
    measured = pd.DataFrame(
        [
            {"subject": name, "change": change, "source": source, **{sign: np.nan for sign, *_ in SIGNS.values()}}
            for name in names for change in ("none", *SIGNS) for source in (TRUE, PULSE, WITH, WITHOUT)
        ]
    )  # fmt: skip
    assert (change_table(measured, 20)["auroc"] == 0.5).all()


# --------------------------------------------------------------------------------------------------------- figures
def test_regimes_are_rows_and_the_given_leads_are_marked():
    rng = np.random.default_rng(0)
    drawn = {"No reference": rng.standard_normal((4, 12, N)), "Lead I": rng.standard_normal((4, 12, N))}
    shown = {"No reference": [], "Lead I": REGIMES["I"]}
    fig = plots.plot_regimes(rng.standard_normal((12, N)), drawn, shown, RATE, leads=["I", "V2"])
    assert len(fig.axes) == 4 and [ax.get_title(loc="left") for ax in fig.axes[:2]] == ["I (mV)", "V2 (mV)"]
    wide = [ax.spines["left"].get_linewidth() > 1 for ax in fig.axes]
    assert wide == [False, False, True, False]
    assert len(fig.axes[0].lines) == 4 + 2
    words = [text.get_text() for text in fig.legends[0].get_texts()]
    assert "mean of 4 samples" in words and "translated: 4 samples" in words


def test_errors_are_drawn_by_leads_and_what_is_not_known_for_all_is_not_joined(scored):
    table = regime_table(get_config("quick"), [0])
    table = table[table["method"].isin([P2ES, PASTED, FLOOR])]
    fig = plots.plot_reference_leads(table)
    assert [text.get_text() for text in fig.axes[0].get_xticklabels()] == ["0", "1", "6", "12"]
    for ax, metric in zip(fig.axes, ("rmse", "crps")):
        floor = table[(table["method"] == FLOOR) & (table["metric"] == metric)].set_index("session")["value"]
        drawn = [line for line in ax.lines if list(line.get_ydata()) == [floor[""], floor["same"]]]
        assert len(drawn) == 2 and all(line.get_linestyle() == "None" for line in drawn)
        assert sum(line.get_linestyle() != "None" for line in ax.lines) == 4
    with pytest.raises(InputError, match="ssim"):
        plots.plot_reference_leads(table, ["ssim"])


def test_changes_are_drawn_against_chance():
    rows = [
        {"change": name, "sign": sign, "source": source, "auroc": 0.6, "lower": 0.5, "upper": 0.7}
        for _, name, sign in SIGNS.values()
        for source in (TRUE, WITH, WITHOUT)
    ]
    fig = plots.plot_changes(pd.DataFrame(rows))
    (ax,) = fig.axes
    assert [text.get_text() for text in ax.get_yticklabels()][0] == "Atrial fibrillation\nirregularity of RR"
    assert any(set(line.get_xdata()) == {0.5} for line in ax.lines)
    with pytest.raises(InputError, match="no change"):
        plots.plot_changes(pd.DataFrame(rows).iloc[:0])
