"""The discrete cosine transform against scipy, resampling and filters against signals known in closed form."""

import numpy as np
import pytest
import scipy.fft
import torch

from p2es_lib.core.errors import InputError
from p2es_lib.signals.dct import dct, idct
from p2es_lib.signals.transforms import (
    fill_gaps,
    filter_bandpass,
    filter_notch,
    resample_at,
    resample_signal,
    resampling_reach,
)


@pytest.mark.parametrize("length", [1, 2, 3, 7, 8, 125, 512, 1024])
def test_dct_and_inverse_equal_scipy(length):
    x = np.random.default_rng(0).standard_normal((3, 2, length))
    expected = scipy.fft.dct(x, type=2, norm="ortho")
    np.testing.assert_allclose(dct(torch.from_numpy(x)).numpy(), expected, atol=1e-12)
    np.testing.assert_allclose(idct(torch.from_numpy(x)).numpy(), scipy.fft.idct(x, type=2, norm="ortho"), atol=1e-12)
    single = torch.from_numpy(x.astype(np.float32))
    assert dct(single).dtype == torch.float32
    np.testing.assert_allclose(dct(single).numpy(), expected, atol=2e-5)
    np.testing.assert_allclose(idct(dct(single)).numpy(), single.numpy(), atol=2e-6)


@pytest.mark.parametrize("length", [9, 16])
def test_gradients_are_the_transposed_matrix_of_scipy(length):
    matrix = scipy.fft.dct(np.eye(length), axis=0, norm="ortho")  # u = matrix @ x
    jacobian = torch.autograd.functional.jacobian(dct, torch.randn(length, dtype=torch.float64))
    np.testing.assert_allclose(jacobian.numpy(), matrix, atol=1e-12)
    jacobian = torch.autograd.functional.jacobian(idct, torch.randn(length, dtype=torch.float64))
    np.testing.assert_allclose(jacobian.numpy(), matrix.T, atol=1e-12)
    x = torch.randn(2, length, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(dct, x) and torch.autograd.gradcheck(idct, x)


def test_half_precision_is_computed_in_single():
    x = torch.randn(2, 64).bfloat16()
    assert dct(x).dtype == torch.float32
    np.testing.assert_allclose(idct(dct(x)).numpy(), x.float().numpy(), atol=1e-5)


@pytest.mark.parametrize("rate_in, rate_out", [(249.89, 125), (124.945, 125), (62.4725, 125), (500, 125), (64, 125)])
def test_resampling_keeps_frequency_phase_and_length(rate_in, rate_out):
    duration_s = 120.0
    t_in = np.arange(int(duration_s * rate_in)) / rate_in
    frequencies = np.array([[0.0], [1.3], [11.0], [20.0]])
    y = resample_signal(np.cos(2 * np.pi * frequencies * t_in + 0.4), rate_in, rate_out)
    assert abs(y.shape[-1] - len(t_in) * rate_out / rate_in) < 1
    t_out = np.arange(y.shape[-1]) / rate_out
    middle = (t_out > 2) & (t_out < duration_s - 2)
    expected = np.cos(2 * np.pi * frequencies * t_out + 0.4)
    # A drift of 0.05 samples at 20 Hz would be an error of 0.05; what is left is the ripple of the filter.
    np.testing.assert_allclose(y[:, middle], expected[:, middle], atol=4e-3)
    np.testing.assert_allclose(y[0], np.cos(0.4), atol=1e-4)  # a constant is kept up to both ends


def test_resampling_many_hours_of_odd_rates_stays_in_time():
    rate_in, hours = 124.945, 6
    n_in = int(rate_in * 3600 * hours)
    y = resample_signal(np.cos(2 * np.pi * 5.0 * np.arange(n_in) / rate_in).astype(np.float32), rate_in, 125)
    assert y.dtype == np.float32 and abs(len(y) - n_in * 125 / rate_in) < 1
    tail = np.arange(len(y) - 2000, len(y) - 200)
    np.testing.assert_allclose(y[tail], np.cos(2 * np.pi * 5.0 * tail / 125), atol=2e-2)  # 0.05 samples are 0.0126


def test_resampling_removes_what_would_alias():
    t_in = np.arange(5000) / 500
    y = resample_signal(np.cos(2 * np.pi * 100 * t_in), 500, 125)  # would appear at 25 Hz
    assert np.abs(y[100:-100]).max() < 1e-3


def test_resampling_keeps_gaps_as_gaps_and_nothing_else():
    x = np.sin(2 * np.pi * 1.0 * np.arange(1000) / 100)
    x[400:500] = np.nan  # 4.00 s to 4.99 s
    y = resample_signal(x, 100, 125)
    t_out = np.arange(len(y)) / 125
    # NaN where the source sample just before or just after is NaN: from after 3.99 s to before 5.00 s.
    np.testing.assert_array_equal(np.isnan(y), (t_out > 3.99 + 1e-9) & (t_out < 5.00 - 1e-9))
    far = ~np.isnan(y) & (np.abs(t_out - 4.5) > 1) & (t_out > 0.5) & (t_out < 9.5)
    np.testing.assert_allclose(y[far], np.sin(2 * np.pi * t_out[far]), atol=2e-3)
    assert np.isnan(resample_signal(np.full(50, np.nan), 100, 125)).all()
    np.testing.assert_array_equal(resample_signal(x, 125, 125), x)


@pytest.mark.parametrize("rates", [(0, 125), (125, -1), (float("nan"), 125)])
def test_wrong_rates_are_named(rates):
    with pytest.raises(InputError, match="rate_"):
        resample_signal(np.zeros(10), *rates)


def test_short_and_empty_signals():
    np.testing.assert_allclose(resample_signal(np.array([3.0]), 100, 125), [3.0, 3.0], atol=1e-3)
    with pytest.raises(InputError, match="empty"):
        resample_signal(np.zeros(0), 100, 125)


def test_fill_gaps_interpolates_and_holds_the_ends():
    filled, is_gap = fill_gaps(np.array([[np.nan, 1, np.nan, 3, np.nan], [np.nan] * 5]))
    np.testing.assert_array_equal(filled, [[1, 1, 2, 3, 3], [0] * 5])
    np.testing.assert_array_equal(is_gap, [[1, 0, 1, 0, 1], [1] * 5])


def test_bandpass_keeps_the_band_without_delay_and_removes_the_rest():
    t = np.arange(2500) / 125
    band, outside = np.sin(2 * np.pi * 5 * t), 2 + 0.5 * np.sin(2 * np.pi * 55 * t)
    y = filter_bandpass(band + outside, 0.5, 20.0, 125.0, order=3)
    np.testing.assert_allclose(y, band, atol=0.15)  # ends included: 0.5 of the 55 Hz wave is all but gone there too
    np.testing.assert_allclose(y[500:-500], band[500:-500], atol=5e-3)
    np.testing.assert_allclose(filter_bandpass(band + 2, None, 20.0, 125.0)[250:-250], (band + 2)[250:-250], atol=0.02)
    at_corner = filter_bandpass(np.sin(2 * np.pi * 20 * t), None, 20.0, 125.0)[500:-500]
    assert np.ptp(at_corner) / 2 == pytest.approx(0.5, abs=0.01)  # -6 dB for both passes together


def test_bandpass_gives_gaps_back_and_refuses_bad_bands():
    x = np.sin(2 * np.pi * 5 * np.arange(1000, dtype=np.float32) / 125)
    x[300:310] = np.nan
    y = filter_bandpass(x, 0.5, 20, 125)
    assert y.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(y), np.isnan(x))
    for band in [(20, 0.5), (0.5, 80), (None, None), (0, 20), (5, 5)]:
        with pytest.raises(InputError, match="band"):
            filter_bandpass(x, *band, 125)
    with pytest.raises(InputError, match="fewer than two"):
        filter_bandpass(np.zeros(1), 0.5, 20, 125)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_notch_removes_one_frequency_and_shifts_nothing(dtype):
    rate = 250.0
    t = np.arange(2500) / rate
    kept, mains = np.sin(2 * np.pi * 10 * t), np.sin(2 * np.pi * 50 * t)
    y = filter_notch((kept + mains).astype(dtype), 50.0, rate)
    assert y.dtype == dtype
    np.testing.assert_allclose(y[250:-250], kept[250:-250], atol=2e-3)
    edge = filter_notch(np.sin(2 * np.pi * 51 * t), 50.0, rate)[500:-500]
    assert np.sqrt(2 * np.mean(edge**2)) == pytest.approx(0.5, abs=0.03)  # half the amplitude at half the width


def test_notch_keeps_gaps_and_refuses_what_it_cannot_reach():
    x = np.ones(500)
    x[100:110] = np.nan
    y = filter_notch(x, 50.0, 250.0)
    assert np.isnan(y[100:110]).all() and np.allclose(np.delete(y, range(100, 110)), 1.0)
    with pytest.raises(InputError, match="notch at 60 Hz"):
        filter_notch(x, 60.0, 100.0)


@pytest.mark.parametrize(("rate_in", "rate_out"), [(64.0, 125.0), (500.0, 125.0), (62.4725, 125.0), (125.0, 125.0)])
def test_resampling_at_places_is_the_resampling_of_the_whole(rate_in, rate_out):
    """Piece by piece as at once, and as resample_signal does it, to the precision of its clock."""
    n = round(20 * rate_in)
    t = np.arange(n) / rate_in
    x = 1e5 + np.sin(2 * np.pi * 1.3 * t) + 0.3 * np.cos(2 * np.pi * 7.1 * t)
    position = np.arange(round(20 * rate_out) - 2) * (rate_in / rate_out)
    whole = resample_at(x, position, rate_in, rate_out)
    reference = resample_signal(x - 1e5, rate_in, rate_out)[: len(whole)] + 1e5
    inside = slice(round(rate_out), -round(rate_out))
    np.testing.assert_allclose(whole[inside], reference[inside], atol=0.02 if rate_in == 62.4725 else 1e-3)
    t_out = position / rate_in
    truth = 1e5 + np.sin(2 * np.pi * 1.3 * t_out) + 0.3 * np.cos(2 * np.pi * 7.1 * t_out)
    np.testing.assert_allclose(whole[inside], truth[inside], atol=1e-3)
    reach, middle = resampling_reach(rate_in, rate_out), position[len(position) // 2 :][:50]
    first = int(np.floor(middle[0])) - reach
    piece = x[first : int(np.floor(middle[-1])) + reach + 2]
    np.testing.assert_array_equal(
        resample_at(piece, middle - first, rate_in, rate_out), whole[len(position) // 2 :][:50]
    )


def test_resampling_at_places_keeps_gaps_and_refuses_nothing_at_all():
    x = np.sin(np.arange(300) / 5.0)
    x[100:110] = np.nan
    y = resample_at(x, np.arange(0, 299, 0.5), 64.0, 128.0)
    assert np.isnan(y[199:220]).all() and np.isfinite(y[:198]).all() and np.isfinite(y[221:]).all()
    np.testing.assert_allclose(resample_at(np.full(1, 3.0), np.zeros(2), 64.0, 125.0), [3.0, 3.0], rtol=1e-12)
    with pytest.raises(InputError, match="empty"):
        resample_at(np.zeros(0), np.zeros(1), 64.0, 125.0)


@pytest.mark.parametrize("band", [(0.5, 8.0), (0.5, 40.0), (1.0, None), (None, 20.0)])
def test_a_filter_designed_before_is_not_taken_for_another(band):
    from scipy.signal import butter, sosfiltfilt

    kind = "bandpass" if None not in band else "highpass" if band[1] is None else "lowpass"
    corners = [corner for corner in band if corner is not None]
    x = np.random.default_rng(0).standard_normal(2000)
    for rate in (125.0, 250.0, 125.0):
        sos = butter(2, corners if len(corners) == 2 else corners[0], btype=kind, fs=rate, output="sos")
        padding = min(1999, int(np.ceil(3 * rate / corners[0])))
        expected = sosfiltfilt(sos, x, padtype="even", padlen=padding)
        np.testing.assert_allclose(filter_bandpass(x, *band, rate), expected, atol=1e-12)
