"""The fitted normal beat: its file, and how near simulated normals are to the real ones it was fitted to."""

from __future__ import annotations

import json

import numpy as np
import pytest

from p2es_lib.core.leads import INDEPENDENT_ROWS, lead_residual
from p2es_lib.evaluation.metrics.measurements import measure_beats, measure_windows
from p2es_lib.signals.cleaning import ecg_clean
from p2es_lib.simulator import SimulatorConfig, simulate
from p2es_lib.simulator.draws import SUBJECT_LATER_NORMALS, SUBJECT_NORMALS
from p2es_lib.simulator.normal_beats import FILE, N_LOCAL, fitted
from tools.fit_normal_beats import fit_normal_beats, read_beats


def test_the_file_has_the_shapes_that_are_read():
    table = fitted()
    n_knots, n_components = 5 + 7 + 7, 40
    assert table["shape"].shape == (2, 2, (3 + N_LOCAL) * n_knots)
    assert table["components"].shape == (n_components, (3 + N_LOCAL) * n_knots)
    assert table["covariance"].shape == (6 + n_components, 6 + n_components)
    assert SUBJECT_NORMALS["beat"] + SUBJECT_LATER_NORMALS["beat_finer"] == 6 + n_components
    assert all(table[f"{wave}_field"].shape == (2, 2, 8, 3) for wave in ("p", "qrs", "st_t"))
    for wave in ("p", "qrs", "st_t"):
        patterns = table[f"{wave}_local"]
        assert patterns.shape == (8, N_LOCAL) and np.allclose(patterns.T @ patterns, np.eye(N_LOCAL), atol=1e-3)
    assert table["axis_sides"].shape == (2, 3) and 0 < table["ta_share"] < 1


@pytest.fixture(scope="module")
def real(mirror):
    if not (mirror / "ptb-xl").is_dir():
        pytest.skip("no PTB-XL in the mirror")
    return read_beats(mirror)


def test_the_file_is_what_the_fit_gives(real):
    beats, r_peaks, about = real
    if len(about) != 500:
        pytest.skip(f"fitted to 500 records, the mirror has {len(about)}")
    again, stored = fit_normal_beats(beats, r_peaks, about), json.loads(FILE.read_text())
    assert again.keys() == stored.keys()
    sign = np.ones(
        6 + len(stored["components"])
    )  # a principal component has none: those of the new fit are given the stored ones'
    sign[6:] = np.sign(np.sum(np.multiply(again["components"], stored["components"]), axis=1))
    again["components"] = sign[6:, None] * again["components"]
    again["covariance"] = np.outer(sign, sign) * again["covariance"]
    for name, value in stored.items():
        assert np.allclose(again[name], value, atol=0.02, rtol=0.02), name


def test_simulated_normals_resemble_real_ones(real):
    """Medians by sex of intervals and of sizes in the tested leads; both filtered alike."""
    beats, r_peaks, about = real
    normal = ((about["morphology"] == "normal") & (about["rhythm"] != "af")).to_numpy()
    measured = measure_beats(beats[normal], r_peaks[normal])
    windows = simulate(range(1500), 1, SimulatorConfig(morphology=0, arrhythmia=0, premature_beats=0))
    young = (windows.index["age"] < 62).to_numpy()  # the real normals are younger than the cohort: median 45 years
    simulated = measure_windows(ecg_clean(windows.ecg[young], 125.0), 125.0)
    for sex in ("F", "M"):
        a = measured[(about["sex"][normal] == sex).to_numpy()].median()
        b = simulated[(windows.index["sex"][young] == sex).to_numpy()].median()
        tolerances = {
            "pr_ms": 12,
            "qrs_ms": 9,
            "qtc_ms": 12,
            "t_axis_deg": 10,
            "qrs_axis_deg": 20,
            "qrs_t_angle_deg": 12,
        }
        for column, tolerance in tolerances.items():
            assert b[column] == pytest.approx(a[column], abs=tolerance), (sex, column)
        for column in ("I_r_mv", "II_r_mv", "V1_s_mv", "V2_s_mv", "V5_r_mv", "II_t_mv", "V3_t_mv", "II_p_mv"):
            assert b[column] == pytest.approx(a[column], rel=0.25), (sex, column)


def test_leads_hold_more_than_a_dipole_and_differ_between_people():
    """Variance of the eight independent leads beyond three components: PTB-XL has 5.4 % (windows of all diagnoses)."""
    beyond = {}
    for electrodes in (0.0, 1.0):
        config = SimulatorConfig(morphology=0, arrhythmia=0, premature_beats=0, electrodes=electrodes)
        ecg = simulate(range(300), 1, config).ecg
        assert lead_residual(ecg).max() < 1e-6
        values = np.linalg.eigvalsh(np.cov(ecg[:, list(INDEPENDENT_ROWS)].swapaxes(0, 1).reshape(8, -1)))[::-1]
        beyond[electrodes] = 1.0 - values[:3].sum() / values.sum()
    assert 0.03 < beyond[1.0] < 0.06 and beyond[0.0] < 0.8 * beyond[1.0], beyond
