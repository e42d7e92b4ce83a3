"""Measurements of the averaged beat against the simulator's known intervals and against real normal ECGs."""

from __future__ import annotations

import numpy as np
import pytest

from p2es_lib.core.leads import LEADS
from p2es_lib.evaluation.metrics.measurements import (
    BEAT_RATE,
    average_beats,
    beat_times,
    measure_beats,
    measure_windows,
)
from p2es_lib.simulator import SimulatorConfig, simulate


@pytest.fixture(scope="module")
def normals():
    return simulate(range(100), 1, SimulatorConfig(morphology=0, arrhythmia=0, premature_beats=0))


def test_measured_follows_true(normals):
    measured, true = measure_windows(normals.ecg, 125.0), normals.index
    assert np.abs(measured["heart_rate"] - true["heart_rate"]).median() < 0.2
    for column, least, bias in (("pr_ms", 0.9, 12), ("qrs_ms", 0.85, 8), ("qtc_ms", 0.95, 35)):
        known = measured[column].notna()
        assert known.mean() > 0.9
        assert np.corrcoef(measured[column][known], true[column][known])[0, 1] > least, column
        # Tangents meet the baseline inside the published first-to-last trace, see simulator/heart.py.
        assert abs((measured[column] - true[column]).median()) < bias, column
    turned = (measured["qrs_axis_deg"] - true["axis_deg"] + 180) % 360 - 180
    assert np.abs(turned).median() < 4


def test_a_known_beat():
    """Triangles and bumps of known size on a straight line: sizes, intervals and axes come out."""
    rate, t = 500.0, np.arange(5000) / 500.0
    wave = np.zeros((12, t.size))
    lead_size = np.array([1.0, 1.5, 0.5, -1.25, 0.25, 1.0, 0.2, 0.5, 0.8, 1.2, 1.1, 0.9])  # I = 1, aVF = 1
    for beat in np.arange(0.6, 9.5, 0.9):
        shape = np.maximum(0, 1 - np.abs(t - beat) / 0.04)
        shape = shape + 0.15 * np.exp(-0.5 * ((t - beat + 0.16) / 0.018) ** 2)
        shape = shape + 0.30 * np.exp(-0.5 * ((t - beat - 0.28) / 0.035) ** 2)
        wave += lead_size[:, None] * shape
    row = measure_windows(wave[None] + 0.2, rate).iloc[0]
    assert row["heart_rate"] == pytest.approx(60 / 0.9, rel=0.002)
    assert row["V4_r_mv"] == pytest.approx(1.2, rel=0.03) and row["V4_t_mv"] == pytest.approx(0.36, rel=0.05)
    assert row["aVR_r_mv"] == 0 and row["aVR_s_mv"] == pytest.approx(1.25, rel=0.03)
    assert row["II_p_mv"] == pytest.approx(0.225, rel=0.08)
    assert row["qrs_axis_deg"] == pytest.approx(np.rad2deg(np.arctan2(2 / np.sqrt(3), 1.0)), abs=1.0)
    assert 80 <= row["qrs_ms"] <= 96  # corners are found a little outside: slopes are smoothed
    assert row["qt_ms"] == pytest.approx(1e3 * (0.28 + 2 * 0.035 + 0.04), abs=12)  # a Gaussian's tangent: two widths
    assert row["qrs_t_angle_deg"] < 1.0


def test_missing_leads_noise_and_silence(normals):
    ecg = normals.ecg[:6].copy()
    ecg[0, 6:] = np.nan  # limb leads only
    ecg[1] = 0.0  # nothing
    ecg[2] += np.random.default_rng(0).normal(0, 0.02, ecg[2].shape)
    measured, whole = measure_windows(ecg, 125.0), measure_windows(normals.ecg[:6], 125.0)
    assert np.isnan(measured.loc[0, "V2_r_mv"]) and np.isfinite(measured.loc[0, "II_r_mv"])
    assert measured.loc[0, "qrs_ms"] == pytest.approx(whole.loc[0, "qrs_ms"], abs=16)
    assert measured.loc[1].isna().all()
    assert measured.loc[2, "V5_r_mv"] == pytest.approx(whole.loc[2, "V5_r_mv"], abs=0.06)


def test_ectopic_beats_are_left_out():
    windows = simulate(range(60), 1, SimulatorConfig(premature_beats=20.0, morphology=0, arrhythmia=0))
    plain = simulate(range(60), 1, SimulatorConfig(premature_beats=0.0, morphology=0, arrhythmia=0))
    some = np.flatnonzero(windows.index["n_pvc"] == 1)[:8]
    assert len(some) >= 3
    with_pvc, without = (average_beats(w.ecg[some], 125.0)[0][:, LEADS.index("V5")] for w in (windows, plain))
    core = np.abs(beat_times()) < 0.05
    assert np.abs(with_pvc[:, core] - without[:, core]).mean() < 0.06
    assert len(beat_times()) == with_pvc.shape[-1] and np.diff(beat_times()) == pytest.approx(1 / BEAT_RATE)


def test_no_beats_no_numbers():
    beats, times = average_beats(np.full((2, 12, 1024), np.nan), 125.0)
    assert np.isnan(beats).all() and measure_beats(beats, times).isna().all(axis=None)


def bump(t: np.ndarray, centre: float, width: float) -> np.ndarray:
    return np.exp(-0.5 * ((t - centre) / width) ** 2)


def test_angle_between_qrs_and_t():
    """QRS in lead I alone, T in V6 alone: their vectors are the rows that Kors 1990 gives for these leads."""
    t = np.arange(5000) / 500.0
    wave = np.zeros((12, t.size))
    for beat in np.arange(0.6, 9.5, 0.9):
        wave[LEADS.index("I")] += bump(t, beat, 0.012)
        wave[LEADS.index("V6")] += 0.3 * bump(t, beat + 0.28, 0.035)
    one, v6 = np.array([0.38, -0.07, 0.11]), np.array([0.54, 0.13, 0.31])
    expected = np.rad2deg(np.arccos(one @ v6 / np.linalg.norm(one) / np.linalg.norm(v6)))
    assert measure_windows(wave[None], 500.0).loc[0, "qrs_t_angle_deg"] == pytest.approx(expected, abs=1.0)


def test_st_is_read_40_ms_after_qrs():
    t = np.arange(5000) / 500.0
    wave = np.zeros((12, t.size))
    for beat in np.arange(0.6, 9.5, 0.9):
        wave += bump(t, beat, 0.010) + 0.12 * bump(t, beat + 0.08, 0.02) + 0.3 * bump(t, beat + 0.30, 0.035)
    row = measure_windows(wave[None], 500.0).iloc[0]
    end = row["qrs_onset_s"] + 1e-3 * row["qrs_ms"]
    assert row["V3_st_mv"] == pytest.approx(0.12 * np.exp(-0.5 * ((end + 0.04 - 0.08) / 0.02) ** 2), abs=0.015)


def test_a_large_minority_of_other_beats_is_left_out():
    """Five narrow and four wide beats: the median alone would mix them."""
    t = np.arange(5000) / 500.0
    wave = np.zeros((12, t.size))
    for number, beat in enumerate(np.arange(0.7, 9.3, 1.0)):
        narrow = (0.8 + 0.05 * number) * bump(t, beat, 0.010)  # sizes 0.8 to 1.2, the middle one 1.0
        wide = 1.2 * bump(t, beat, 0.030) - 0.8 * bump(t, beat + 0.08, 0.04)
        shape = wide if number % 2 else narrow
        wave += shape + 0.2 * bump(t, beat + 0.30, 0.035)
    row = measure_windows(wave[None], 500.0).iloc[0]
    assert row["qrs_ms"] < 80 and row["V3_r_mv"] == pytest.approx(1.0, abs=0.03)
