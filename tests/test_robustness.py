"""Disturbed windows: as noisy as stated, the same for the same seed, and refused by the gate when they are bad."""

from __future__ import annotations

import numpy as np
import pytest

from p2es_lib.robustness import KINDS, disturb_windows, passes_gate
from p2es_lib.simulator.disturbances import DISTURBANCES


@pytest.fixture(scope="module")
def ppg(make_pair):
    windows = [make_pair(8.192, 125.0, interval_s=0.7 + 0.05 * k, seed=k).ppg for k in range(6)]
    windows = np.stack(windows)[:, None]
    return (windows - windows.mean(-1, keepdims=True)) / windows.std(-1, keepdims=True)


def test_every_kind_of_the_simulator_is_named():
    assert set(KINDS) == set(DISTURBANCES) - {"none"}


@pytest.mark.parametrize("kind", KINDS)
def test_windows_come_out_scaled_and_depend_on_themselves_alone(ppg, kind):
    noisy = disturb_windows(ppg, kind, 5.0, 125.0, seed=3)
    assert noisy.shape == ppg.shape and noisy.dtype == np.float32
    np.testing.assert_allclose(noisy.std(-1), 1.0, atol=1e-4)
    np.testing.assert_array_equal(disturb_windows(ppg[:2], kind, 5.0, 125.0, seed=3), noisy[:2])
    assert not np.allclose(disturb_windows(ppg, kind, 5.0, 125.0, seed=4), noisy, atol=1e-3)


def test_more_noise_is_further_from_the_clean_pulse_and_fails_the_gate(ppg):
    def agreement(snr_db):
        noisy = disturb_windows(ppg, "motion", snr_db, 125.0)
        return np.mean([np.corrcoef(a[0], b[0])[0, 1] for a, b in zip(ppg, noisy)])

    assert agreement(20) > agreement(5) > agreement(0)
    assert passes_gate(disturb_windows(ppg, "low_perfusion", 30, 125.0), 125.0, 0.9).all()
    assert not passes_gate(disturb_windows(ppg, "low_perfusion", -15, 125.0), 125.0, 0.9).any()
