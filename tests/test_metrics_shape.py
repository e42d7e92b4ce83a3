"""Warping, curve distance and coherence against slow references, closed forms and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import signal

from p2es_lib.core.errors import InputError
from p2es_lib.evaluation.metrics import waveform
from p2es_lib.evaluation.metrics.waveform import coherence_bands, dtw, frechet_curve_distance

FS = 125.0


def reference(x, y, reach, warping):
    """The recursions of Sakoe and Chiba, and of Eiter and Mannila, cell by cell."""
    n = len(x)
    cell = np.full((n, n), np.inf)
    for i in range(n):
        for j in range(max(0, i - reach), min(n, i + reach + 1)):
            cost = abs(x[i] - y[j])
            both = cell[i - 1, j - 1] if i and j else np.inf
            one, other = (cell[i - 1, j] if i else np.inf), (cell[i, j - 1] if j else np.inf)
            if i == j == 0:
                both = 0.0
            if warping:
                cell[i, j] = min(both + 2 * cost, one + cost, other + cost)
            else:
                cell[i, j] = max(cost, min(both, one, other))
    return cell[-1, -1] / (2 * n) if warping else cell[-1, -1]


@pytest.fixture(scope="module")
def beats():
    """Ten smooth signals of beats that begin and end at rest, (10, 512) mV."""
    rng = np.random.default_rng(3)
    t = np.arange(512) / FS
    x = np.zeros((10, 512))
    for row in x:
        for beat in np.arange(0.6, 3.2, rng.uniform(0.6, 0.9)):
            row += rng.uniform(0.5, 1.5) * np.exp(-0.5 * ((t - beat) / 0.02) ** 2)
            row += 0.3 * np.exp(-0.5 * ((t - beat - 0.25) / 0.04) ** 2)
    return x


@pytest.mark.parametrize("n", [1, 2, 3, 8, 15])
def test_dtw_and_frechet_are_the_recursions(n):
    x, y = np.random.default_rng(n).normal(size=(2, 4, n))
    for reach in (0, 1, 2, 5, 40):
        expected = [reference(a, b, reach, True) for a, b in zip(x, y)]
        assert np.allclose(dtw(x, y, sampling_rate=1, band_s=reach), expected, rtol=1e-12)
    assert np.allclose(frechet_curve_distance(x, y), [reference(a, b, n, False) for a, b in zip(x, y)], atol=1e-6)


def test_rows_do_not_depend_on_each_other(monkeypatch, beats):
    x, y = beats.reshape(2, 5, -1), np.roll(beats, 3, axis=0).reshape(2, 5, -1)
    whole = dtw(x, y, sampling_rate=FS), frechet_curve_distance(x, y)
    assert whole[0].shape == whole[1].shape == (2, 5)
    monkeypatch.setattr(waveform, "_CELLS", 40)  # three rows at a time in the band, one over the whole matrix
    assert np.array_equal(dtw(x, y, sampling_rate=FS), whole[0])
    assert np.array_equal(frechet_curve_distance(x, y), whole[1])
    assert np.allclose(dtw(y, x, sampling_rate=FS), whole[0])  # symmetric
    gap = x.copy()
    gap[0, 2, 100] = np.nan
    for values in (dtw(gap, y, sampling_rate=FS), frechet_curve_distance(gap, y)):
        assert np.isnan(values).sum() == 1 and np.isnan(values[0, 2])


def test_dtw_forgives_shifts_within_the_band_only(beats):
    late = np.roll(beats, 8, axis=-1)  # 64 ms; both ends are at rest
    far = np.roll(beats, 30, axis=-1)
    mae = waveform.mae(late, beats)
    assert np.array_equal(dtw(beats, beats, sampling_rate=FS), np.zeros(10))
    assert (dtw(late, beats, sampling_rate=FS) < 1e-3 * mae).all() and (mae > 0.05).all()
    assert (dtw(far, beats, sampling_rate=FS) > 0.2 * waveform.mae(far, beats)).all()
    assert np.allclose(dtw(late, beats, sampling_rate=FS, band_s=0.0), mae)
    assert (dtw(far, beats, sampling_rate=FS) <= waveform.mae(far, beats) + 1e-12).all()
    assert np.allclose(dtw(np.full(300, 0.3), np.zeros(300), sampling_rate=FS), 0.3)  # per sample, in mV
    with pytest.raises(InputError, match="band"):
        dtw(beats, beats, sampling_rate=FS, band_s=-0.1)


def test_frechet_is_the_deflection_without_counterpart(beats):
    assert np.array_equal(frechet_curve_distance(beats, beats), np.zeros(10))
    # It does not see time, even far beyond the band of the warping.
    assert (frechet_curve_distance(np.roll(beats, 30, axis=-1), beats) < 0.02).all()
    t = np.arange(400) / FS
    once, twice = np.exp(-0.5 * ((t - 1) / 0.05) ** 2), 0.7 * np.exp(-0.5 * ((t - 2) / 0.05) ** 2)
    assert frechet_curve_distance(once, np.zeros(400)) == pytest.approx(1.0)
    # While the second hump goes by, the other curve waits half way down the first.
    assert frechet_curve_distance(once, once + twice) == pytest.approx(0.35, abs=0.02)
    assert frechet_curve_distance(0.8 * once, once) == pytest.approx(0.2, abs=1e-3)  # of one monotone rise and fall
    errors = np.abs(beats - np.roll(beats, 3, axis=0)).max(axis=-1)
    assert (frechet_curve_distance(beats, np.roll(beats, 3, axis=0)) <= errors + 1e-6).all()


def test_coherence_is_scipys():
    x, y = np.random.default_rng(0).normal(size=(2, 3, 1024))
    y = y + 2 * x
    found = coherence_bands(x, y, sampling_rate=FS)
    frequency, expected = signal.coherence(x, y, fs=FS, nperseg=128)
    for name, (low, high) in waveform.COHERENCE_BANDS_HZ.items():
        inside = (frequency >= low) & (frequency <= high)
        assert inside.sum() >= 4
        assert np.allclose(found[name], expected[:, inside].mean(axis=-1), atol=1e-3), name


def test_coherence_closed_forms():
    rng = np.random.default_rng(1)
    x, noise = rng.normal(size=(2, 1, 60_000))
    options = {"sampling_rate": FS}
    for value in coherence_bands(x, x + 0.5 * noise, **options).values():
        assert value == pytest.approx(1 / 1.25, abs=0.02)  # share of the power that is x
    low = signal.sosfiltfilt(signal.butter(4, 10, fs=FS, output="sos"), noise)
    bands = coherence_bands(x, x + 5 * low, **options)
    assert bands["coherence_low"] < 0.1 and bands["coherence_high"] > 0.95  # where the error lies is where it shows
    for value in coherence_bands(-3 * np.roll(x, 4, axis=-1), x, **options).values():
        assert value > 0.9  # gain, sign and one delay are a filter
    short = coherence_bands(*rng.normal(size=(2, 400, 1024)), **options)
    assert all(np.mean(value) == pytest.approx(0.07, abs=0.01) for value in short.values())  # by chance, as documented


def test_coherence_of_nothing():
    x = np.random.default_rng(2).normal(size=1024)
    assert all(np.isnan(value) for value in coherence_bands(x, np.full(1024, 0.2), sampling_rate=FS).values())
    assert all(value == 0 for value in coherence_bands(np.zeros(1024), x, sampling_rate=FS).values())
    # A microvolt of rounding is no signal, however coherent.
    assert all(value < 1e-3 for value in coherence_bands(1e-5 * x, 1e-5 * x, sampling_rate=FS).values())
    with pytest.raises(InputError, match="no frequency"):
        coherence_bands(x, x, sampling_rate=FS, bands_hz={"narrow": (4.1, 4.2)})
