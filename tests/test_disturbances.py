"""Disturbances: stated SNR met, each kind what it says, rows independent, bad input named."""

import numpy as np
import pytest

from p2es_lib.core.errors import InputError
from p2es_lib.simulator.cohort import simulate
from p2es_lib.simulator.disturbances import DISTURBANCES, disturb
from p2es_lib.simulator.pulse import pulse_shape, pulse_train, stiffness_from_age
from p2es_lib.simulator.settings import SimulatorConfig

RATE, N_ROWS = 125.0, 40
T = np.arange(1024) / RATE
KINDS = [kind for kind in DISTURBANCES if kind != "none"]


@pytest.fixture(scope="module")
def ppg():
    rng = np.random.default_rng(0)
    age, interval = rng.uniform(20, 80, N_ROWS), rng.uniform(0.5, 1.2, (N_ROWS, 1))
    shape = pulse_shape(age, stiffness_from_age(age, np.zeros(N_ROWS)), 60 / interval[:, 0], np.zeros((N_ROWS, 5)))
    intervals = np.tile(interval, (1, 24))
    onsets = np.cumsum(intervals, axis=1) - 2.0
    return pulse_train(onsets, rng.uniform(0.8, 1.2, onsets.shape), intervals, shape, T)


def generators(n=N_ROWS, seed=1):
    return [np.random.default_rng((seed, row)) for row in range(n)]


def snr_db(clean, disturbed):
    clean, disturbed = clean.astype(float), disturbed.astype(float)
    return 10 * np.log10(clean.var(axis=1) / (disturbed - clean).var(axis=1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stated", [-5.0, 1.0, 10.0, 20.0, 30.0, 45.0])
def test_measured_snr_is_the_stated_one(ppg, kind, stated):
    if kind == "clipping" and stated <= 0:
        with pytest.raises(InputError, match="flat line"):
            disturb(ppg, kind, stated, generators(), RATE)
        return
    disturbed = disturb(ppg, kind, stated, generators(), RATE)
    assert disturbed.dtype == np.float32 and disturbed.shape == ppg.shape
    np.testing.assert_allclose(snr_db(ppg, disturbed), stated, atol=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_row_bytes_do_not_depend_on_the_batch(ppg, kind):
    together = disturb(ppg, kind, 8.0, generators(), RATE)
    for row in (0, 3, N_ROWS - 1):
        alone = disturb(ppg[row : row + 1], kind, 8.0, [generators()[row]], RATE)
        assert alone.tobytes() == together[row].tobytes()
    assert not np.array_equal(together, disturb(ppg, kind, 8.0, generators(seed=2), RATE))


def power_fraction(signal, low, high):
    """Share of a row's variance between two frequencies, averaged over rows."""
    window = np.hanning(signal.shape[1])
    power = np.abs(np.fft.rfft((signal - signal.mean(axis=1, keepdims=True)) * window)) ** 2
    frequency = np.fft.rfftfreq(signal.shape[1], 1 / RATE)
    inside = (frequency >= low) & (frequency <= high)
    return (power[:, inside].sum(axis=1) / power.sum(axis=1)).mean()


def test_motion_is_intermittent_and_in_its_band(ppg):
    error = disturb(ppg, "motion", 5.0, generators(), RATE).astype(float) - ppg
    quiet = (np.abs(error) < 1e-6).mean(axis=1)
    assert (quiet > 0.05).any() and (quiet < 0.95).all()
    assert power_fraction(error, 0.4, 3.5) > 0.85


def test_drift_is_slow_and_low_perfusion_is_white(ppg):
    drift = disturb(ppg, "drift", 5.0, generators(), RATE).astype(float) - ppg
    noise = disturb(ppg, "low_perfusion", 5.0, generators(), RATE).astype(float) - ppg
    assert power_fraction(drift, 0.0, 0.6) > 0.9
    assert power_fraction(noise, 0.0, RATE / 4) == pytest.approx(0.5, abs=0.03)


def test_clipping_only_cuts_extremes_and_uses_all_rails(ppg):
    disturbed = disturb(ppg, "clipping", 10.0, generators(), RATE)
    upper = disturbed.max(axis=1) < ppg.max(axis=1) - 1e-6
    lower = disturbed.min(axis=1) > ppg.min(axis=1) + 1e-6
    assert (upper & lower).any() and (upper & ~lower).any() and (lower & ~upper).any()
    inside = (disturbed > disturbed.min(axis=1, keepdims=True)) & (disturbed < disturbed.max(axis=1, keepdims=True))
    np.testing.assert_array_equal(disturbed[inside], ppg[inside])


def test_gaps_are_flat_and_leave_the_rest_alone(ppg):
    disturbed = disturb(ppg, "gaps", 5.0, generators(), RATE)
    changed = disturbed != ppg
    assert (changed.mean(axis=1) < 0.65).all()
    for row in range(N_ROWS):
        values = disturbed[row, changed[row]]
        assert len(np.unique(values)) <= 3  # at most three gaps, each at one value
        assert len(values) > 3


@pytest.mark.parametrize("window_samples", [128, 1000, 2048])
@pytest.mark.parametrize("kind", KINDS)
def test_other_lengths_and_rates(kind, window_samples):
    clean = np.sin(2 * np.pi * 1.2 * np.arange(window_samples) / 62.5)[None] + 3.0
    disturbed = disturb(clean, kind, 6.0, generators(1), 62.5)
    np.testing.assert_allclose(snr_db(clean, disturbed), 6.0, atol=0.1)


def test_nothing_to_do(ppg):
    np.testing.assert_array_equal(disturb(ppg, "none", 5.0, generators(), RATE), ppg)
    flat = np.ones((1, 256), dtype=np.float32)
    np.testing.assert_array_equal(disturb(flat, "motion", 5.0, generators(1), RATE), flat)


def test_bad_input_is_named(ppg):
    with pytest.raises(InputError, match="'shaking'.*motion"):
        disturb(ppg, "shaking", 5.0, generators(), RATE)
    with pytest.raises(InputError, match="snr_db"):
        disturb(ppg, "motion", float("nan"), generators(), RATE)
    with pytest.raises(InputError, match="generators"):
        disturb(ppg, "motion", 5.0, generators(3), RATE)
    broken = ppg.copy()
    broken[2, 5] = np.nan
    with pytest.raises(InputError, match=r"rows \[2\]"):
        disturb(broken, "motion", 5.0, generators(), RATE)


def test_an_undisturbed_ppg_needs_no_ratio():
    a, b = (simulate([3], config=SimulatorConfig(snr_db=snr_db)).ppg for snr_db in (10.0, np.inf))
    assert np.array_equal(a, b)
