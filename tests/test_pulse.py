"""Pulse shape, arrival time and pulse train against published numbers and closed forms."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d

from p2es_lib.core.errors import InputError
from p2es_lib.simulator.pulse import (
    N_SHAPE_VARIATIONS,
    RUNOFF_FRACTION,
    PulseShape,
    amplitude_from_rr,
    pulse_arrival_time,
    pulse_shape,
    pulse_train,
    stiffness_from_age,
)

RATE = 125.0
T = np.arange(1024) / RATE


def typical_shape(ages, heart_rate=70.0, stiffness_z=0.0):
    ages = np.asarray(ages, dtype=float)
    n = len(ages)
    stiffness = stiffness_from_age(ages, np.full(n, stiffness_z))
    return pulse_shape(ages, stiffness, np.full(n, heart_rate), np.zeros((n, N_SHAPE_VARIATIONS)))


def one_pulse(ages, t, **kwargs):
    """Single pulses with the foot at 0 s, (N, T)."""
    n = len(ages)
    return pulse_train(np.zeros((n, 1)), np.ones((n, 1)), np.full((n, 1), 60 / 70), typical_shape(ages, **kwargs), t)


def second_derivative_ratios(pulse, dt):
    """b/a, c/a, d/a, e/a: the extremes of the second derivative in their order."""
    second = np.gradient(np.gradient(gaussian_filter1d(pulse.astype(float), 0.010 / dt)))
    is_max = np.r_[False, (second[1:-1] > second[:-2]) & (second[1:-1] >= second[2:]), False]
    is_min = np.r_[False, (second[1:-1] < second[:-2]) & (second[1:-1] <= second[2:]), False]
    place = int(np.argmax(second))
    a, ratios = second[place], []
    for kind in (is_min, is_max, is_min, is_max):
        place = place + 1 + int(np.flatnonzero(kind[place + 1 :])[0])
        ratios.append(second[place] / a)
    return np.array(ratios)


@pytest.mark.parametrize("age", [20, 30, 40, 50, 60, 70])
def test_second_derivative_ratios_follow_choi_2022(age):
    expected = [0.0045 * age - 0.803, 0.1017 - 0.0044 * age, 0.034 - 0.0062 * age, 0.200 - 0.001 * age]
    t = np.arange(-0.2, 0.8, 0.002)
    found = second_derivative_ratios(one_pulse([age], t)[0], 0.002)
    np.testing.assert_allclose(found, expected, atol=0.03)


def test_notch_in_the_young_only_and_longer_rise_in_the_old():
    t = np.arange(-0.1, 0.8, 0.001)
    young, old = one_pulse([20, 75], t)
    crest = t[np.argmax(young)], t[np.argmax(old)]
    assert 0.10 <= crest[0] < crest[1] - 0.03 and crest[1] <= 0.20
    after = [pulse[np.argmax(pulse) :] for pulse in (young, old)]
    assert (np.diff(after[0]) > 1e-6).any(), "a 20-year-old's pulse has a notch: it rises again"
    assert (np.diff(after[1][:500]) <= 1e-6).all(), "a 75-year-old's has none"
    assert young.max() == pytest.approx(1, abs=0.02)


def test_stiffer_than_typical_means_older_shape():
    shape = [typical_shape([50.0], stiffness_z=z) for z in (-2, 0, 2)]
    delay = [float(s.time_s[2, 0] - s.time_s[0, 0]) for s in shape]
    late = [float(s.size[1, 0] / s.size[0, 0]) for s in shape]
    assert delay[0] > delay[1] > delay[2]
    assert late[0] < late[1] < late[2]


def test_foot_is_where_the_tangent_of_the_upstroke_meets_the_baseline():
    t = np.arange(-0.2, 0.6, 0.0005)
    for pulse in one_pulse([20, 45, 75], t):
        slope = np.gradient(pulse.astype(float), t)
        steepest = int(np.argmax(slope))
        foot = t[steepest] - pulse[steepest] / slope[steepest]
        assert foot == pytest.approx(0, abs=0.008)
        assert 0.02 < t[steepest] < 0.07


def test_stiffness_table_and_asymmetric_spread():
    ages = np.array([25.0, 45.0, 75.0])
    np.testing.assert_allclose(stiffness_from_age(ages, np.zeros(3)), [5.9, 7.4, 10.3])
    np.testing.assert_allclose(stiffness_from_age(ages, np.ones(3))[[0, 2]], [5.9 * 1.13, 10.3 * 1.29])
    np.testing.assert_allclose(stiffness_from_age(ages, -np.ones(3))[[0, 2]], [5.9 * 0.90, 10.3 * 0.81])
    assert (stiffness_from_age(np.array([18.0, 90.0]), np.full(2, -9.0)) > 3).all()


def test_arrival_time():
    age, height = np.array([25.0, 75.0]), np.array([170.0, 170.0])
    stiffness = stiffness_from_age(age, np.zeros(2))
    finger, wrist, ear = (pulse_arrival_time(age, stiffness, height, site) for site in ("finger", "wrist", "ear"))
    by_hand = 0.081 + 0.15 / 5.9 + 0.75 / (9.98 + 0.52 * (5.9 - 6.15)) + 0.020
    assert finger[0] == pytest.approx(by_hand, abs=1e-3)
    assert -0.65e-3 < (finger[1] - finger[0]) / 50 < -0.3e-3, "seconds per year"
    assert ((finger - wrist > 0.010) & (finger - wrist < 0.030)).all()
    assert ((ear > 0.120) & (ear < 0.170)).all()
    assert pulse_arrival_time(age, stiffness, height + 10)[0] > finger[0] + 0.005
    with pytest.raises(InputError, match="toe"):
        pulse_arrival_time(age, stiffness, height, "toe")


def test_amplitude_grows_with_the_preceding_interval_down_to_a_floor():
    gain = amplitude_from_rr(np.array([0.85, 0.85 * 1.01, 0.45, 0.30]))
    assert gain[0] == 1
    assert 0.003 < gain[1] - 1 < 0.006
    assert gain[2] == gain[3] < gain[0]


def test_train_of_one_pulse_is_the_formula():
    shape = typical_shape([40.0])
    u = T - 1.0 + shape.foot_lead_s[0]
    begun = u > 0
    expected = np.zeros_like(T)
    tau = RUNOFF_FRACTION * 0.9
    rise = 1 - np.exp(-((u[begun] / shape.time_s[0, 0]) ** 2))
    expected[begun] = shape.runoff_size[0] * rise * np.exp(-u[begun] / tau)
    for time_s, width, size in zip(shape.time_s[:, 0], shape.width[:, 0], shape.size[:, 0]):
        expected[begun] += size * np.exp(-0.5 * (np.log(u[begun] / time_s) / width) ** 2)
    found = pulse_train(np.array([[1.0]]), np.array([[2.0]]), np.array([[0.9]]), shape, T)
    np.testing.assert_allclose(found[0], 2 * expected, atol=1e-5)


def test_train_is_continuous_for_any_intervals():
    rng = np.random.default_rng(0)
    intervals = rng.uniform(0.3, 1.4, (50, 40))
    onsets = np.cumsum(intervals, axis=1) - 2
    t = np.arange(0, 8, 0.001)
    shape = typical_shape(rng.uniform(20, 80, 50))
    ppg = pulse_train(onsets, rng.uniform(0.4, 1.2, onsets.shape), intervals, shape, t)
    # The steepest upstroke of a pulse of height 1.2 rises by about 0.015 a millisecond.
    assert np.abs(np.diff(ppg, axis=1)).max() < 0.02


def test_beats_without_a_pulse_leave_no_trace():
    shape = typical_shape([30.0])
    onsets = np.array([[0.2, 1.1, 2.0, 2.9, 3.8]])
    amplitudes = np.ones((1, 5))
    amplitudes[0, 2] = 0.0
    interval = np.full((1, 5), 0.9)
    without = pulse_train(onsets, amplitudes, interval, shape, T)
    keep = [0, 1, 3, 4]
    left_out = pulse_train(onsets[:, keep], amplitudes[:, keep], interval[:, keep], shape, T)
    np.testing.assert_array_equal(without, left_out)
    padded = np.full((1, 9), np.nan)
    padded[0, 3:8] = onsets[0]
    padded[0, 5] = np.nan
    ones = np.ones((1, 9))
    np.testing.assert_array_equal(without, pulse_train(padded, ones, 0.9 * ones, shape, T))
    silent = (T > 2.0) & (T < 2.7)
    assert without[0, silent].max() < 0.2 and (np.diff(without[0, silent]) < 0).all()


def test_no_pulse_at_all_is_a_flat_line():
    nothing = np.full((2, 3), np.nan)
    ppg = pulse_train(nothing, nothing, nothing, typical_shape([30.0, 60.0]), T)
    assert ppg.dtype == np.float32 and (ppg == 0).all()


def random_train(n, seed=0):
    rng = np.random.default_rng(seed)
    age, heart_rate = rng.uniform(18, 90, n), rng.uniform(45, 140, n)
    stiffness = stiffness_from_age(age, rng.standard_normal(n))
    shape = pulse_shape(age, stiffness, heart_rate, rng.standard_normal((n, N_SHAPE_VARIATIONS)))
    intervals = (60 / heart_rate)[:, None] * (1 + 0.1 * rng.standard_normal((n, 24)))
    onsets = np.cumsum(intervals, axis=1) - 1.5
    onsets[onsets > 9] = np.nan
    return onsets, rng.uniform(0.5, 1.5, onsets.shape), intervals, shape


def test_row_bytes_do_not_depend_on_the_batch():
    onsets, amplitudes, intervals, shape = random_train(200)
    together = pulse_train(onsets, amplitudes, intervals, shape, T)
    assert np.isfinite(together).all()
    for row in (0, 7, 63, 64, 199):
        rows = slice(row, row + 1)
        alone = PulseShape(**{name: values[..., rows] for name, values in vars(shape).items()})
        found = pulse_train(onsets[rows], amplitudes[rows], intervals[rows], alone, T)
        assert found.tobytes() == together[rows].tobytes()


def test_shape_bytes_do_not_depend_on_the_batch():
    rng = np.random.default_rng(3)
    inputs = rng.uniform(18, 90, 37), rng.uniform(5, 12, 37), rng.uniform(45, 140, 37), rng.standard_normal((37, 5))
    together = pulse_shape(*inputs)
    for row in (0, 5, 36):
        alone = pulse_shape(*(values[row : row + 1] for values in inputs))
        for name, values in vars(alone).items():
            assert values.tobytes() == getattr(together, name)[..., row : row + 1].tobytes(), name


def test_speed(relative_cost):
    inputs = random_train(1000)
    assert relative_cost(lambda: pulse_train(*inputs, T)) < 15  # 4 measured
