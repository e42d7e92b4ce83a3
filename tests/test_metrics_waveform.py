"""Waveform metrics against hand-computed cases, closed forms and libraries."""

import numpy as np
import pytest
from scipy.stats import pearsonr
from sklearn.metrics import mean_absolute_error, mean_squared_error

from p2es_lib.core.errors import InputError
from p2es_lib.evaluation.metrics import waveform

FS = 125.0
POINTWISE = [waveform.mse, waveform.rmse, waveform.mae, waveform.pearson, waveform.prd, waveform.ppe]


@pytest.fixture
def signals():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(3, 12, 512)).cumsum(axis=-1) * 0.05
    return truth + 0.1 * rng.normal(size=truth.shape), truth


def test_hand_computed():
    x, y = np.array([1.0, 2.0, 3.0, 6.0]), np.array([1.0, 0.0, 3.0, 4.0])
    # errors 0, 2, 0, 2; the truth has mean 2 and sum of squares about it 1 + 4 + 1 + 4 = 10, about zero 26
    assert waveform.mse(x, y) == 2.0
    assert waveform.rmse(x, y) == pytest.approx(np.sqrt(2.0))
    assert waveform.mae(x, y) == 1.0
    assert waveform.prd(x, y) == pytest.approx(100 * np.sqrt(8 / 10))
    assert waveform.prd(x, y, remove_mean=False) == pytest.approx(100 * np.sqrt(8 / 26))
    assert waveform.ppe(x, y) == 1.0  # ranges 5 and 4
    assert waveform.ppe(x, y, relative=True) == 0.25


def test_against_libraries(signals):
    x, y = signals
    for index in np.ndindex(3, 12):
        assert waveform.pearson(x, y)[index] == pytest.approx(pearsonr(x[index], y[index]).statistic, abs=1e-12)
        assert waveform.mse(x, y)[index] == pytest.approx(mean_squared_error(y[index], x[index]))
        assert waveform.mae(x, y)[index] == pytest.approx(mean_absolute_error(y[index], x[index]))


@pytest.mark.parametrize("metric", POINTWISE)
def test_last_axis_only_and_perfect_prediction(metric, signals):
    x, y = signals
    assert metric(x, y).shape == (3, 12)
    assert metric(x, y)[1, 4] == pytest.approx(metric(x[1, 4], y[1, 4]))
    assert np.allclose(metric(y, y), 1.0 if metric is waveform.pearson else 0.0)
    assert np.isnan(metric(np.where(np.arange(512) == 3, np.nan, x), y)).all()


def test_flat_signals():
    wave, flat = np.sin(np.arange(100.0)), np.full(100, 0.1 + 0.2)
    assert waveform.pearson(flat, wave) == 0.0  # predicts nothing: must count, not vanish from the average
    assert np.isnan(waveform.pearson(wave, flat))
    assert np.isnan(waveform.prd(wave, flat))
    assert np.isnan(waveform.ppe(wave, flat, relative=True))
    assert waveform.ppe(flat, wave) == pytest.approx(np.ptp(wave))


def test_ssim_against_a_direct_loop(signals):
    x, y = signals[0][0, 0, :120], signals[1][0, 0, :120]
    sigma, data_range = 0.04 * FS, 2.0
    radius = int(3.5 * sigma + 0.5)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    c_1, c_2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    local = []
    for centre in range(radius, len(x) - radius):
        a, b = (z[centre - radius : centre + radius + 1] for z in (x, y))
        m_a, m_b = kernel @ a, kernel @ b
        v_a, v_b, v_ab = kernel @ (a - m_a) ** 2, kernel @ (b - m_b) ** 2, kernel @ ((a - m_a) * (b - m_b))
        local.append((2 * m_a * m_b + c_1) * (2 * v_ab + c_2) / ((m_a**2 + m_b**2 + c_1) * (v_a + v_b + c_2)))
    assert waveform.ssim(x, y, sampling_rate=FS) == pytest.approx(np.mean(local), abs=1e-10)


def test_ssim_properties(signals):
    x, y = signals
    value = waveform.ssim(x, y, sampling_rate=FS)
    assert np.allclose(waveform.ssim(y, x, sampling_rate=FS), value)  # symmetric
    assert (value < 1).all() and np.allclose(waveform.ssim(y, y, sampling_rate=FS), 1.0)
    # Two constants: the structure term is 1, the luminance term known.
    a, b, c_1 = 0.3, 0.5, 0.02**2
    expected = (2 * a * b + c_1) / (a * a + b * b + c_1)
    assert waveform.ssim(np.full(200, a), np.full(200, b), sampling_rate=FS) == pytest.approx(expected)
    # A larger data range flatters: why it has to be stated.
    assert (waveform.ssim(x, y, sampling_rate=FS, data_range_mv=20.0) > value).all()
    # The window is in seconds: the same signal at twice the rate gives nearly the same value.
    t = np.arange(0, 4, 1 / 250)
    p, q = np.sin(9 * t) + 0.2 * np.sin(31 * t), np.sin(9 * t)
    half_rate = waveform.ssim(p[::2], q[::2], sampling_rate=125)
    assert half_rate == pytest.approx(waveform.ssim(p, q, sampling_rate=250), abs=0.005)


def test_log_spectral_distance():
    rng = np.random.default_rng(1)
    y = rng.normal(size=(2, 1024))
    distance = waveform.log_spectral_distance
    assert np.allclose(distance(y, y, sampling_rate=FS), 0.0)
    # Twice the amplitude is 20 log10(2) = 6.02 dB at every frequency.
    assert np.allclose(distance(2 * y, y, sampling_rate=FS), 20 * np.log10(2), atol=1e-3)
    # Timing does not matter, losing the high frequencies does.
    t = np.arange(1024) / FS
    low, high = np.sin(2 * np.pi * 4 * t), 0.3 * np.sin(2 * np.pi * 30 * t)
    shifted = np.sin(2 * np.pi * 4 * t + 1.0) + 0.3 * np.sin(2 * np.pi * 30 * t + 2.0)
    assert distance(shifted, low + high, sampling_rate=FS) < 0.5
    assert distance(low, low + high, sampling_rate=FS) > 5
    # Outside the band and below the floor nothing counts.
    assert distance(low + np.sin(2 * np.pi * 55 * t), low, sampling_rate=FS) < 0.5
    assert distance(1e-5 * y, 2e-5 * y, sampling_rate=FS).max() < 0.01


def test_bad_input():
    with pytest.raises(InputError, match="same"):
        waveform.mse(np.zeros(5), np.zeros(6))
    with pytest.raises(InputError, match="too few"):
        waveform.ssim(np.zeros(20), np.zeros(20), sampling_rate=FS)
