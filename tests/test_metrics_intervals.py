"""Measured intervals against known beats, limits of agreement against closed forms, delineation against latents."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import LEADS
from p2es_lib.evaluation.metrics import summarise
from p2es_lib.evaluation.metrics.intervals import (
    QUANTITIES,
    _st_level,
    agreement_rows,
    delineation_differences,
    interval_differences,
    limits_of_agreement,
    measure_ecg,
    neurokit_intervals,
)
from p2es_lib.evaluation.metrics.long_table import whole_window
from p2es_lib.evaluation.metrics.measurements import average_beats, beat_times, measure_beats
from p2es_lib.simulator import SimulatorConfig, simulate

RATE = 125.0


@pytest.fixture(scope="module")
def cohort():
    windows = simulate(range(24), 1, SimulatorConfig(morphology=0, arrhythmia=0, premature_beats=0))
    return SimpleNamespace(ecg=windows.ecg, lead_mask=np.full((24, 12), 2, np.uint8), index=windows.index)


def bump(t, centre, width):
    return np.exp(-0.5 * ((t - centre) / width) ** 2)


def test_a_known_beat():
    t, beats = np.arange(5000) / 500.0, np.arange(0.6, 9.5, 0.9)
    wave = np.zeros((12, t.size))
    for beat in beats:
        wave[:] += bump(t, beat, 0.010) - 0.4 * bump(t, beat + 0.035, 0.008)  # R, S
        wave[:] += 0.15 * bump(t, beat - 0.16, 0.018) - 0.3 * bump(t, beat + 0.32, 0.035)  # P, inverted T
        wave[:] += 0.2 * bump(t, beat + 0.12, 0.015)  # a hump in ST, read where it is
    wave *= np.linspace(0.5, 1.5, 12)[:, None]
    found = measure_ecg(wave[None] + 0.3, 500.0)
    assert set(found) == set(QUANTITIES) and all(table.shape == (1, 15) for table in found.values())
    single = {name: table[0, 12] for name, table in found.items()}
    assert single["heart_rate"] == pytest.approx(60 / 0.9, rel=2e-3) and np.isnan(found["pr_ms"][0, :12]).all()
    assert single["qtc_ms"] == pytest.approx(single["qt_ms"] / np.cbrt(0.9), rel=2e-3)
    size = np.linspace(0.5, 1.5, 12)
    assert np.allclose(found["qrs_mv"][0, :12], 1.4 * size, rtol=0.05)
    assert np.allclose(found["p_mv"][0, :12], 0.15 * size, rtol=0.1)
    assert np.allclose(found["t_mv"][0, :12], -0.3 * size, rtol=0.08)
    # Where the hump lies against J + 60 ms follows from the measured end of QRS; R is not quite at 0 of the average.
    average, times = average_beats(wave[None], 500.0)
    row = measure_beats(average, times).iloc[0]
    read_at = row["qrs_onset_s"] + 1e-3 * row["qrs_ms"] + 0.060 - beat_times()[average[0, 0].argmax()]
    expected = 0.2 * bump(read_at, 0.12, 0.015) - 0.3 * bump(read_at, 0.32, 0.035)
    assert np.allclose(found["st60_mv"][0, :12], expected * size, atol=0.01) and abs(expected) > 0.05
    assert np.isnan(found["st60_mv"][0, 12:]).all()


def test_a_beat_without_a_qrs_complex_has_no_sizes_and_no_intervals():
    t, r_peaks = beat_times(), np.array([[1.0, 1.8, 2.7]])
    slow = np.sin(2 * np.pi * 0.5 * t + np.arange(12)[:, None])  # what an untrained model may give
    row = measure_beats(0.05 * slow[None], r_peaks).iloc[0]
    assert row["heart_rate"] == pytest.approx(60 / 0.85) and row.drop(["heart_rate", "rmssd_ms"]).isna().all()


def test_st_is_read_above_the_level_just_before_qrs():
    t = beat_times()
    ramp = np.broadcast_to(0.5 * t, (2, 12, len(t)))  # mV, rising by 0.5 mV per second through P, QRS and ST
    table = pd.DataFrame({"qrs_onset_s": [-0.04, np.nan], "qrs_ms": [90.0, np.nan]})
    level = _st_level(ramp, table)
    # From the middle of 16 to 4 ms before the onset to 60 ms after its end: 10 + 90 + 60 ms.
    assert np.allclose(level[0], 0.5 * 0.160, atol=1e-3) and np.isnan(level[1]).all()


def test_differences_of_a_translation_that_is_larger_and_lacks_leads(cohort):
    samples = 1.25 * cohort.ecg[:, None].repeat(2, axis=1)
    samples[:, 1] = 0.75 * cohort.ecg  # so that the mean of both is the truth
    samples[:, :, 8:] = np.nan
    table = interval_differences(samples, cohort, RATE, estimates=("single", "mean"))
    assert set(table["metric"]) == set(QUANTITIES) and set(table["lead"]) == {*LEADS[:8], "all"}
    single, mean = (table[table["estimate"] == name] for name in ("single", "mean"))
    assert np.abs(mean["value"]).max() < 0.03
    for metric in ("p_mv", "qrs_mv", "t_mv", "st60_mv"):
        sizes = single[single["metric"] == metric]
        # A Q or S that only the larger ECG lifts above the 0.02 mV of a wave comes in whole.
        slack = 0.025 if metric == "qrs_mv" else 1e-5
        assert np.allclose(sizes["value"], 0.25 * sizes["true"], atol=slack) and len(sizes) == 24 * 8, metric
    timing = single[single["metric"].isin(["pr_ms", "qrs_ms", "qtc_ms", "qrs_axis_deg", "heart_rate"])]
    assert np.abs(timing["value"]).max() < 1e-3
    with pytest.raises(InputError, match="do not fit"):
        interval_differences(cohort.ecg, cohort, RATE)
    with pytest.raises(InputError, match="median"):
        interval_differences(samples, cohort, RATE, estimates=("median",))


def test_waves_that_only_one_of_both_has():
    index = pd.DataFrame({"subject": list("abcd"), "record": "r"})
    true = {"pr_ms": whole_window(np.array([160.0, 150.0, np.nan, np.nan]))}
    measured = {"pr_ms": whole_window(np.array([150.0, np.nan, 140.0, np.nan])), "p_mv": whole_window(np.ones(4))}
    table = agreement_rows(measured, true, index, "single")
    assert len(table) == 3 and set(table["metric"]) == {"pr_ms"}
    row = limits_of_agreement(table).iloc[0]
    assert (row["n_windows"], row["missed"], row["extra"]) == (1, pytest.approx(1 / 3), pytest.approx(1 / 3))


def test_axes_turn_the_short_way():
    index = pd.DataFrame({"subject": ["a", "b"], "record": "r"})
    true, measured = ({"qrs_axis_deg": whole_window(np.array(x))} for x in ([170.0, -100.0], [-170.0, 100.0]))
    assert agreement_rows(measured, true, index, "single")["value"].tolist() == [20.0, -160.0]


def _differences(values, subjects, true=None):
    columns = {"subject": subjects, "record": "r", "window": range(len(values)), "lead": "all", "estimate": "single"}
    true = np.zeros(len(values)) if true is None else true
    columns |= {"metric": "qt_ms", "value": values, "true": true, "measured": true + values}
    return pd.DataFrame(columns)


def test_limits_of_agreement_closed_form():
    """Bland & Altman 1986: standard errors of the bias sd / sqrt(n) and of a limit about sqrt(3) sd / sqrt(n)."""
    rng = np.random.default_rng(0)
    values, true = rng.normal(5.0, 20.0, size=(2, 400))
    row = limits_of_agreement(_differences(values, [f"s{i}" for i in range(400)], true), 2000).iloc[0]
    sd = values.std(ddof=1)
    assert row["bias"] == pytest.approx(values.mean()) and row["sd"] == pytest.approx(sd)
    assert row["low"] == pytest.approx(values.mean() - 1.96 * sd)
    assert row["high"] == pytest.approx(values.mean() + 1.96 * sd)
    assert row["bias_upper"] - row["bias_lower"] == pytest.approx(2 * 1.96 * sd / 20, rel=0.06)
    for limit in ("low", "high"):
        width = row[f"{limit}_upper"] - row[f"{limit}_lower"]
        assert width == pytest.approx(2 * 1.96 * np.sqrt(3) * sd / 20, rel=0.1), limit
    assert row["sd_true"] == pytest.approx(true.std(ddof=1))
    assert row["correlation"] == pytest.approx(np.corrcoef(true, true + values)[0, 1])


def test_people_count_the_same_and_windows_are_not_people():
    # One person with three windows at 9, one with a single window at 1.
    table = _differences(np.array([9.0, 9.0, 9.0, 1.0]), list("aaab"))
    row = limits_of_agreement(table, 50).iloc[0]
    assert row["bias"] == 5.0 and row["sd"] == pytest.approx(4.0 * np.sqrt(4 / 3))
    assert summarise(table, 20)["value"].item() == 5.0
    rng = np.random.default_rng(1)
    own = np.repeat(rng.normal(size=30), 10)
    few = limits_of_agreement(_differences(own, np.repeat([f"s{i}" for i in range(30)], 10)), 1000).iloc[0]
    assert few["bias_upper"] - few["bias_lower"] == pytest.approx(2 * 1.96 * own.std() / np.sqrt(30), rel=0.15)
    one = limits_of_agreement(_differences(own[:10], ["s0"] * 10), 100).iloc[0]
    assert np.isnan(one["bias_lower"]) and np.isfinite(one["bias"])


# ---------------------------------------------------------------------------------------------------------- delineation
def test_the_averaged_beat_finds_the_latents(cohort):
    table = limits_of_agreement(delineation_differences(cohort, RATE, ("averaged_beat",)), 20).set_index("metric")
    assert np.array_equal(table["n_windows"], [24] * 5)
    # (bias, SD) over 400 normal windows: PR -8, 3; QRS 0, 4; QTc -28, 4 ms (tangents); axis 0, 2 degrees.
    for metric, bias, slack, sd in (("pr_ms", -8, 5, 6), ("qrs_ms", 0, 4, 7), ("qtc_ms", -28, 6, 8)):
        assert table.loc[metric, "bias"] == pytest.approx(bias, abs=slack) and table.loc[metric, "sd"] < sd, metric
        assert table.loc[metric, "correlation"] > 0.7, metric
    assert np.abs(table.loc[["heart_rate", "qrs_axis_deg"], "bias"]).max() < 1.5


def test_neurokit_on_its_own_signal_and_on_nothing(cohort):
    import neurokit2 as nk

    simulated = nk.ecg_simulate(duration=10, sampling_rate=500, heart_rate=65, method="ecgsyn", random_state=1)
    ecg = np.zeros((3, 12, 5000))
    ecg[0, 1] = simulated
    ecg[2, 1, 7] = np.nan
    found = neurokit_intervals(ecg, 500.0)
    assert found.loc[0, "heart_rate"] == pytest.approx(65, abs=9) and found.loc[1:].isna().all(axis=None)
    assert 80 < found.loc[0, "pr_ms"] < 250 and 40 < found.loc[0, "qrs_ms"] < 160 and 250 < found.loc[0, "qt_ms"] < 500
    few = SimpleNamespace(ecg=cohort.ecg[:5], index=cohort.index[:5])
    table = limits_of_agreement(delineation_differences(few, RATE), 10).set_index(["estimate", "metric"])
    assert np.abs(table.loc[("neurokit", "heart_rate"), "bias"]) < 2 and ("neurokit", "qrs_axis_deg") not in table.index
    assert table.loc[("neurokit", "qrs_ms"), "n_windows"] >= 3


def test_windows_whose_intervals_nobody_knows(cohort):
    real = SimpleNamespace(ecg=cohort.ecg, index=cohort.index.drop(columns=["pr_ms"]))
    with pytest.raises(InputError, match="pr_ms"):
        delineation_differences(real, RATE)
    with pytest.raises(InputError, match="guess"):
        delineation_differences(cohort, RATE, ("guess",))
