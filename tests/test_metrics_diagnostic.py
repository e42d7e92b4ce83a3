"""Diagnoses carried from true to translated ECG: what is learnt, what is compared, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from p2es_lib.core.demographics import Demographics
from p2es_lib.core.errors import InputError
from p2es_lib.evaluation.metrics.diagnostic import (
    INPUTS,
    PPG,
    TRANSLATED,
    TRUE,
    diagnoses,
    diagnostic_features,
    diagnostic_table,
)
from p2es_lib.evaluation.metrics.features import ecg_features, ppg_features, rhythm_features
from p2es_lib.simulator import SimulatorConfig, simulate


def _people(seed, n=60, first=0):
    """Features whose first column shows the morphology in the true ECG, and the second the rhythm from every side."""
    rng = np.random.default_rng(seed)
    af, lbbb = rng.random(n) < 0.4, rng.random(n) < 0.4
    index = pd.DataFrame({
        "subject": [f"s{first + i}" for i in range(n)],
        "rhythm": np.where(af, "af", "sinus"),
        "morphology": np.where(lbbb, "lbbb", "normal"),
    })  # fmt: skip
    true, translated, ppg = rng.normal(size=(3, n, 3))
    true[:, 0] += 4 * lbbb  # only the true ECG knows
    for features in (true, translated, ppg):
        features[:, 1] += 4 * af
    return {TRUE: true, TRANSLATED: translated, PPG: ppg, INPUTS: np.hstack([ppg, rng.normal(size=(n, 1))])}, index


def test_a_translation_shows_the_rhythm_and_only_seems_to_show_the_morphology():
    fit, test = _people(0), _people(1, first=100)
    table = diagnostic_table(fit[0], test[0], fit[1], test[1], classifier="logistic regression", n_bootstrap=300)
    area = table.set_index(["label", "fit_on", "tried_on"])
    assert set(table["label"]) == {"rhythm: af", "morphology: lbbb"} and len(table) == 12
    for pair in ((TRUE, TRUE), (TRUE, TRANSLATED), (TRANSLATED, TRUE), (PPG, PPG)):
        assert area.loc[("rhythm: af", *pair), "auroc"] > 0.95, pair
        assert abs(area.loc[("rhythm: af", *pair), "gain"]) < 0.05
    morphology = area.loc["morphology: lbbb"]
    assert morphology.loc[(TRUE, TRUE), "auroc"] > 0.95 and morphology.loc[(TRUE, TRUE), "gain_lower"] > 0.2
    assert 0.3 < morphology.loc[(TRUE, TRANSLATED), "auroc"] < 0.7
    assert morphology.loc[(TRUE, TRANSLATED), "gain_lower"] < 0 < morphology.loc[(TRUE, TRANSLATED), "gain_upper"]
    assert ((table["lower"] <= table["auroc"]) & (table["auroc"] <= table["upper"])).all()
    assert area.loc[("rhythm: af", TRUE, TRUE), "n_positive"] == (test[1]["rhythm"] == "af").sum()
    # Without translations of the people learnt from there is no reverse.
    fit[0].pop(TRANSLATED)
    short = diagnostic_table(fit[0], test[0], fit[1], test[1], classifier="logistic regression", n_bootstrap=10)
    assert TRANSLATED not in set(short["fit_on"]) and TRANSLATED in set(short["tried_on"])


def test_only_diagnoses_that_enough_people_have():
    fit, test = _people(2)[1], _people(3, first=100)[1]
    assert diagnoses(fit, test) == [("rhythm", "af"), ("morphology", "lbbb")]
    assert diagnoses(fit.assign(rhythm="tachycardia"), test) == [("morphology", "lbbb")]  # a rate is no diagnosis
    few = test.assign(morphology=["lbbb"] * 7 + ["normal"] * 53)
    assert diagnoses(fit, few) == [("rhythm", "af")]
    # Windows are not people.
    windows = pd.concat([few] * 3)
    assert diagnoses(fit, windows) == [("rhythm", "af")] and diagnoses(fit, windows, least=7)[-1] == (
        "morphology",
        "lbbb",
    )
    assert diagnoses(fit.assign(rhythm=""), test.assign(rhythm="")) == [("morphology", "lbbb")]


def test_unlabelled_windows_are_left_out():
    (fit, fit_index), (test, test_index) = _people(4), _people(5, first=100)
    test_index.loc[:19, "morphology"] = ""
    test = test | {TRUE: np.where(np.arange(60)[:, None] < 20, 99.0, test[TRUE])}
    options = {"classifier": "logistic regression", "n_bootstrap": 10, "pairs": ((TRUE, TRUE),)}
    table = diagnostic_table(fit, test, fit_index, test_index, **options).set_index("label")
    assert table.loc["morphology: lbbb", "n_subjects"] == 40 and table.loc["morphology: lbbb", "auroc"] > 0.95


def test_refusals():
    fit, test = _people(6), _people(7, first=59)
    with pytest.raises(InputError, match="s59"):
        diagnostic_table(fit[0], test[0], fit[1], test[1])
    nothing = fit[1].assign(rhythm="sinus", morphology="normal")
    with pytest.raises(InputError, match="no rhythm or morphology"):
        diagnostic_table(fit[0], fit[0], nothing, nothing.assign(subject="x" + nothing["subject"]))


# ------------------------------------------------------------------------------------------------------------- features
def test_regularity_of_beats():
    times = np.array([[0.0, 1.0, 2.0, 3.0, np.nan], [0.0, 0.8, 2.0, 2.8, 4.0], [0.0, 1.0, np.nan, np.nan, np.nan]])
    table = rhythm_features(times)
    assert table.loc[0].tolist() == [1.0, 0.0, 0.0, 0.0]
    assert np.allclose(table.loc[1], [1.0, np.std([0.8, 1.2, 0.8, 1.2], ddof=1), 0.4, 0.4])
    assert table.loc[2].isna().all() and rhythm_features(np.full((2, 0), np.nan)).isna().all(axis=None)


def test_features_of_simulated_windows():
    cohort = simulate(range(24), 1, SimulatorConfig(arrhythmia=2.0))
    af = (cohort.index["rhythm"] == "af").to_numpy()
    measurements, beats = ecg_features(cohort.ecg, 125.0)
    pulses = ppg_features(cohort.ppg, 125.0)
    assert beats.shape == (24, 8 * 66) and np.isfinite(beats).all()
    assert af.any()
    for table in (measurements, pulses):
        assert table.loc[af, "rr_sd"].min() > table.loc[~af, "rr_sd"].median()
    assert np.allclose(measurements["rr_s"], 60 / cohort.index["heart_rate"], rtol=0.03)
    assert np.median(np.abs(pulses["rr_s"] - measurements["rr_s"])) < 0.01
    assert np.allclose(measurements["qrs_axis_deg_cos"] ** 2 + measurements["qrs_axis_deg_sin"] ** 2, 1)
    windows = SimpleNamespace(
        ppg=cohort.ppg, ecg=cohort.ecg, lead_mask=np.full((24, 12), 2, np.uint8), index=cohort.index,
        demographics=Demographics(cohort.index["age"].to_numpy(), cohort.index["sex"].to_numpy()),
    )  # fmt: skip
    limbs = cohort.ecg[:, None].copy()
    limbs[:, :, 6:] = np.nan
    sets = diagnostic_features(windows, 125.0, limbs)
    # Both ECGs are measured in the leads that both have.
    assert np.array_equal(sets[TRUE], sets[TRANSLATED], equal_nan=True)
    assert sets[INPUTS].shape[1] == sets[PPG].shape[1] + 2 and TRANSLATED not in diagnostic_features(windows, 125.0)
    with pytest.raises(InputError, match="do not fit"):
        diagnostic_features(windows, 125.0, limbs[:3])
