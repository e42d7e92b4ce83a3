"""Pulses and noise told apart by the direction of time, on windows of 8 and 10 s."""

from __future__ import annotations

import numpy as np
import pytest

from p2es_lib.data.sources import get_source
from p2es_lib.data.sources.wfdb_records import segment_stretches
from p2es_lib.signals import cleaning
from p2es_lib.signals.cleaning import pulse_likeness, reversal_ratio
from p2es_lib.simulator import SimulatorConfig, simulate

RATE = 125.0
BANDS_HZ = [(0.5, 8.0), (0.5, 4.0), (0.5, 2.5), (0.8, 2.0), (1.0, 4.0), (2.0, 8.0)]


def noise(n_windows: int, length: int, band_hz: tuple[float, float], pink: bool, seed: int) -> np.ndarray:
    """Windows (n, length) of Gaussian noise, in the band by an ideal filter, then by that of the PPG."""
    white = np.random.default_rng(seed).standard_normal((n_windows, length + 1000))
    hertz = np.fft.rfftfreq(white.shape[1], 1 / RATE)
    inside = (hertz >= band_hz[0]) & (hertz <= band_hz[1])
    gain = np.where(inside, 1 / np.sqrt(np.maximum(hertz, 0.1)) if pink else 1.0, 0.0)
    x = cleaning.ppg_clean(np.fft.irfft(gain * np.fft.rfft(white), white.shape[1]), RATE)
    return x[:, 500 : 500 + length]


def accepted(windows: np.ndarray) -> float:
    """Share of windows with a quality of 0.7 or more."""
    return float(np.mean([cleaning.ppg_quality(window, RATE) >= 0.7 for window in windows]))


@pytest.mark.parametrize("pink", [False, True], ids=["white", "pink"])
@pytest.mark.parametrize("band_hz", BANDS_HZ, ids=str)
def test_noise_in_any_band_is_hardly_ever_accepted(band_hz, pink):
    assert accepted(noise(200, 1250, band_hz, pink, seed=1)) <= 0.02


@pytest.mark.parametrize("rhythms", ["mostly sinus", "atrial fibrillation"])
@pytest.mark.parametrize("site", ["finger", "wrist"])
def test_simulated_pulses_are_accepted(rhythms, site):
    config = SimulatorConfig(window_samples=1250, site=site, arrhythmia=2.0)
    windows = simulate(np.arange(300), 1, config)
    chosen = np.ones(300, bool) if rhythms == "mostly sinus" else (windows.index["rhythm"] == "af").to_numpy()
    assert chosen.sum() > 20 and accepted(windows.ppg[chosen, 0].astype(float)) > 0.99


def test_the_ratio_is_one_for_what_reads_the_same_backwards():
    t = np.arange(1250) / RATE
    beats = np.arange(10, 1240, 100)
    assert reversal_ratio(np.sin(2 * np.pi * 1.25 * t), beats) == pytest.approx(1, abs=0.05)
    ratios = []
    for x in noise(300, 1250, (0.5, 8.0), False, seed=3):
        ratios.append(reversal_ratio(x, cleaning.ppg_onsets(x, RATE)))
    assert np.median(ratios) == pytest.approx(1, abs=0.05)


def test_by_hand():
    """Up in one sample, down in four: the fall is a quarter as fast, and takes four times as long."""
    saw = np.tile([0.0, 4.0, 3.0, 2.0, 1.0], 20)
    assert reversal_ratio(saw, np.arange(0, 100, 5)) == pytest.approx(0.25 * 0.25, rel=0.02)
    assert pulse_likeness(saw, np.arange(0, 100, 5)) == 1.0
    assert reversal_ratio(saw[::-1], np.arange(0, 100, 5)) == pytest.approx(16, rel=0.03)
    assert pulse_likeness(saw[::-1], np.arange(0, 100, 5)) == 0.0, "upside down or backwards"


def test_without_pulses_nothing_is_said():
    for beats in ([], [10, 50], [-20, 300, 500]):
        assert reversal_ratio(np.sin(np.arange(100)), np.array(beats)) == 1.0
    assert reversal_ratio(np.zeros(100), np.array([10, 40, 70])) == 1.0
    assert pulse_likeness(np.zeros(100), np.array([])) == 0.0


@pytest.mark.mirror
@pytest.mark.parametrize("name, length, least", [("a103l", 1250, 0.9), ("bidmc_01", 1250, 0.95)])
def test_real_pulses_are_accepted(mirror, home, name, length, least):
    """The pulses of a103l fall steeply: they are the hardest of the records here."""
    if name == "a103l":
        stretches = list(segment_stretches(mirror / "challenge-2015" / "1.0.0" / "training" / "a103l.hea"))
    else:
        source = get_source("bidmc")
        stretches = list(source.read(source.mirror(mirror), source.list_records(source.mirror(mirror))[0]).stretches)
    x, rate = stretches[0].ppg
    every = round(length / RATE * rate)
    windows = [x[first : first + every] for first in range(0, len(x) - every + 1, every)]
    clean = [window for window in windows if cleaning.fault_mask(window, rate).mean() < 0.01]
    assert np.mean([cleaning.ppg_quality(window, rate) >= 0.7 for window in clean]) >= least
