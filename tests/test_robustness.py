"""Disturbed windows: as noisy as stated, the same for the same seed, and refused by the gate when they are bad."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from p2es_lib.data.windows.fresh_ppg import clean_and_scale
from p2es_lib.evaluation.robustness import KINDS, disturb_windows, gate_rows, passes_gate
from p2es_lib.simulator.disturbances import DISTURBANCES


@pytest.fixture(scope="module")
def ppg(make_pair):
    windows = [make_pair(8.192, 125.0, interval_s=0.7 + 0.05 * k, seed=k).ppg for k in range(6)]
    windows = np.stack(windows)[:, None]
    return (windows - windows.mean(-1, keepdims=True)) / windows.std(-1, keepdims=True)


def test_every_kind_of_the_simulator_is_named():
    assert set(KINDS) == set(DISTURBANCES) - {"none"}


@pytest.mark.parametrize("kind", KINDS)
def test_windows_depend_on_themselves_alone_and_are_as_noisy_as_stated(ppg, kind):
    noisy = disturb_windows(ppg, kind, 5.0, 125.0, seed=3)
    assert noisy.shape == ppg.shape and noisy.dtype == np.float32
    np.testing.assert_allclose(10 * np.log10(ppg.var(-1) / (noisy - ppg).var(-1)), 5.0, atol=0.1)
    np.testing.assert_array_equal(disturb_windows(ppg[:2], kind, 5.0, 125.0, seed=3), noisy[:2])
    assert not np.allclose(disturb_windows(ppg, kind, 5.0, 125.0, seed=4), noisy, atol=1e-3)


def test_more_noise_is_further_from_the_clean_pulse_and_fails_the_gate(ppg):
    def agreement(snr_db):
        noisy = disturb_windows(ppg, "motion", snr_db, 125.0)
        return np.mean([np.corrcoef(a[0], b[0])[0, 1] for a, b in zip(ppg, noisy)])

    assert agreement(20) > agreement(5) > agreement(0)
    assert passes_gate(disturb_windows(ppg, "low_perfusion", 30, 125.0), 125.0, 0.9).all()
    assert not passes_gate(disturb_windows(ppg, "low_perfusion", -15, 125.0), 125.0, 0.9).any()


@pytest.mark.parametrize("kind", ["clipping", "gaps"])
def test_the_gate_sees_faults_that_the_filter_would_hide(ppg, kind):
    recorded = disturb_windows(ppg, kind, 6.0, 125.0)
    assert passes_gate(recorded, 125.0, 0.7).mean() < 0.2
    assert passes_gate(clean_and_scale(recorded, 125.0), 125.0, 0.7).mean() > 0.5, "the filter hides nothing any more"


def test_the_gate_refuses_wrapped_and_flat_stretches(ppg):
    wrapped, flat = (ppg + 3.0) % 2.5, ppg.copy()  # a counter that overflows; a sensor that stops for a fifth
    flat[..., 400:600] = flat[..., 400:401]
    for recorded in (wrapped, flat):
        assert not passes_gate(recorded, 125.0, 0.7).any()


def noisy_table(errors: dict[str, list[float]]) -> pd.DataFrame:
    """Scores of windows, of as many subjects as there are keys: a squared error and a perfect F1 for each."""
    rows, window = [], 0
    for subject, values in errors.items():
        for value in values:
            row = {"subject": subject, "record": subject, "window": window, "lead": "all", "estimate": "mean"}
            rows += [row | {"metric": "mse_lag", "value": value}, row | {"metric": "r_peak_f1_lag", "value": 1.0}]
            window += 1
    return pd.DataFrame(rows)


def test_rows_have_intervals_over_subjects_who_count_the_same():
    errors = {f"s{k}": [0.01 * (k + 1)] * (1 + k % 2) for k in range(8)}  # one or two windows each
    kept = np.repeat(np.arange(8) < 4, [len(values) for values in errors.values()])
    every, passing = gate_rows(noisy_table(errors), kept, 400)
    assert list(every) == [
        "windows",
        "rmse_lag",
        "r_peak_f1_lag",
        "kept",
        "rmse_lag_lower",
        "rmse_lag_upper",
        "r_peak_f1_lag_lower",
        "r_peak_f1_lag_upper",
        "n_subjects",
    ]
    assert every["rmse_lag"] == pytest.approx(np.sqrt(0.045)) and passing["rmse_lag"] == pytest.approx(np.sqrt(0.025))
    assert every["rmse_lag_lower"] < every["rmse_lag"] - 0.01 and every["rmse_lag"] + 0.01 < every["rmse_lag_upper"]
    assert every["r_peak_f1_lag_lower"] == every["r_peak_f1_lag_upper"] == pytest.approx(1.0)
    assert (every["n_subjects"], passing["n_subjects"], every["kept"], passing["kept"]) == (8, 4, 1.0, 0.5)
    assert gate_rows(noisy_table(errors), kept, 400)[0] == every


def test_what_noise_adds_is_paired_over_subjects():
    """Between people errors differ a hundredfold; each of them is made worse by the same amount."""
    quiet = {f"s{k}": [0.01 * 1.6**k, 0.012 * 1.6**k] for k in range(8)}
    noisy = {name: [1.1 * value for value in values] for name, values in quiet.items()}
    kept = np.arange(16) < 8
    every, passing = gate_rows(noisy_table(noisy), kept, 400, reference=noisy_table(quiet))
    level = np.sqrt(np.mean(list(quiet.values())))
    assert every["rmse_lag_added"] == pytest.approx((np.sqrt(1.1) - 1) * level)
    assert 0 < every["rmse_lag_added_lower"] < every["rmse_lag_added"] < every["rmse_lag_added_upper"]
    assert every["rmse_lag_lower"] < level, "unpaired, the difference would not show"
    assert np.isnan(passing["rmse_lag_added"]) and list(every) == list(passing)


def test_rows_without_windows_or_with_one_subject_state_no_interval():
    scores = noisy_table({"a": [0.01, 0.03], "b": [0.02]})
    none = gate_rows(scores, np.zeros(3, dtype=bool), 50)[1]
    assert (
        none["n_subjects"] == 0
        and none["kept"] == 0
        and all(np.isnan(none[name]) for name in ("rmse_lag", "rmse_lag_lower", "r_peak_f1_lag"))
    )
    one = gate_rows(scores, np.array([True, True, False]), 50)[1]
    assert (
        one["rmse_lag"] == pytest.approx(np.sqrt(0.02)) and np.isnan(one["rmse_lag_lower"]) and one["n_subjects"] == 1
    )
