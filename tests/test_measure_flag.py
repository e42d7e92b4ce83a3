"""The table that holds windows in doubt against windows that are bad."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from p2es_lib.core.errors import InputError
from p2es_lib.core.learned import load_method
from p2es_lib.core.paths import PRETRAINED
from p2es_lib.data.sources.contract import Stretch
from tools import measure_flag
from tools.measure_flag import f1, flag_table, judged, true_beats, windows_of


def windows(dataset, start_s, f1, poor, doubt) -> pd.DataFrame:
    columns = {"dataset": dataset, "record": "r", "start_s": start_s, "f1": f1, "poor": poor, "doubt": doubt}
    return pd.DataFrame(columns)


def test_sensitivity_and_specificity_by_hand():
    table = pd.concat([
        windows("bidmc", [0, 7, 14, 21, 28], [0.5, 0.69, 0.7, 1.0, np.nan], [0, 0, 0, 1, 1], ["x", "", "", "", "x"]),
        windows("mimic4wdb", [0, 205_000], [0.2, 0.2], [0, 0], ["x", ""]),
    ])  # fmt: skip
    found = flag_table(table.astype({"poor": bool})).set_index("data set")
    bidmc = found.loc["bidmc"]
    assert (bidmc["windows"], bidmc["bad"], bidmc["flagged before"], bidmc["flagged now"]) == (4, 2, 1, 1)
    assert (bidmc["sensitivity before"], bidmc["specificity before"]) == (0, 0.5)
    assert (bidmc["sensitivity now"], bidmc["specificity now"]) == (0.5, 1)
    assert found.loc["all of these", "windows"] == 5 and found.loc["all of these", "sensitivity now"] == 2 / 3
    assert found.loc["mimic4wdb, chosen on", "sensitivity now"] == 0 and np.isnan(
        found.loc["mimic4wdb", "specificity now"]
    )


def test_f1_after_a_lag_with_75_ms():
    true = np.arange(0.5, 8, 0.8)
    assert f1(true + 0.3 + 0.07, true, 0.3, 8.192) == 1
    assert f1(true + 0.3 + 0.08, true, 0.3, 8.192) < 0.1
    assert f1(true[::2] + 0.3, true, 0.3, 8.192) == pytest.approx(2 / 3, abs=0.05)
    assert np.isnan(f1(np.zeros(0), np.zeros(0), 0.0, 8.192))


def test_a_recording_is_judged_by_its_own_ecg(make_pair):
    """Clean for 30 s, then a PPG of noise: these windows are bad, and in doubt."""
    pair = make_pair(60.0, noise=0.02)
    ppg = pair.ppg.copy()
    ppg[30 * 125 :] = 0.5 + 0.1 * np.random.default_rng(0).standard_normal(30 * 125)
    stretch = Stretch(100.0, (ppg, 125.0), {"II": (pair.ecg, 125.0)})
    np.testing.assert_allclose(
        true_beats(stretch, 10.0, 8.192), pair.rpeaks_s[(pair.rpeaks_s > 10) & (pair.rpeaks_s < 18.192)] - 10, atol=0.02
    )
    assert true_beats(Stretch(0.0, (ppg, 125.0), {"II": (np.full(len(ppg), np.nan), 125.0)}), 10.0, 8.192) is None
    noise = np.random.default_rng(1).standard_normal(len(ppg))
    assert true_beats(Stretch(0.0, (ppg, 125.0), {"II": (noise, 125.0)}), 10.0, 8.192) is None
    rows = windows_of(stretch, load_method(PRETRAINED))
    table = judged(rows, 8.192)
    clean, noisy = table["start_s"] < 100 + 20, table["start_s"] > 100 + 30
    assert clean.sum() == 3 and noisy.sum() >= 3 and table["start_s"].iloc[0] == 100
    assert (table["f1"][clean] > 0.95).all() and (table["doubt"][clean] == "").all()
    assert (table["f1"][noisy] < 0.8).all() and (table["doubt"][noisy] != "").all()


def test_folders_without_recordings_are_named(tmp_path):
    with pytest.raises(InputError, match="no PPG with an ECG"):
        measure_flag.measure([str(tmp_path)])
