"""One constant lag per record, and the split of the error that follows from it."""

import numpy as np
import pytest

from p2es_lib.core.errors import InputError
from p2es_lib.evaluation.metrics.lag import constant_lags, error_split, overlaps


def _signals(n_windows, n_leads=3, window_samples=400, seed=0):
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(n_windows, n_leads, window_samples + 80))
    kernel = np.hanning(15) / np.hanning(15).sum()
    return np.apply_along_axis(np.convolve, -1, noise, kernel, mode="same")


def _cut(long, shift):
    """Samples 40.. of a long signal delayed by ``shift``."""
    return long[..., 40 - shift : 440 - shift]


def test_known_shifts_per_record():
    long = _signals(6)
    records = np.array(["b", "a", "b", "c", "a", "c"])
    shifts = {"a": 7, "b": -12, "c": 0}
    truth = _cut(long, 0)
    prediction = np.stack([_cut(window, shifts[record]) for window, record in zip(long, records)])
    available = np.ones((6, 3), dtype=bool)
    lags = constant_lags(prediction, truth, available, records, max_lag=30, chunk=4)
    assert lags.tolist() == [shifts[record] for record in records]
    # Records do not mix: the same windows alone, and in another order, give the same lags.
    for rows in ([1, 4], [5, 4, 3, 2, 1, 0]):
        again = constant_lags(prediction[rows], truth[rows], available[rows], records[rows], max_lag=30)
        assert again.tolist() == lags[rows].tolist()


def test_one_lag_per_record_is_a_compromise_not_a_window_lag():
    long = _signals(3)
    truth = _cut(long, 0)
    prediction = np.stack([_cut(long[0], 5), _cut(long[1], 5), _cut(long[2], -9)])
    lags = constant_lags(prediction, truth, np.ones((3, 3), dtype=bool), np.array(["r", "r", "r"]), max_lag=30)
    assert lags.tolist() == [5, 5, 5]


def test_lag_matches_the_direct_sum_with_its_offset_and_range():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(1, 2, 64)) + 5.0, rng.normal(size=(1, 2, 64)) - 3.0
    x_0, y_0 = x - x.mean(-1, keepdims=True), y - y.mean(-1, keepdims=True)

    def direct(lag):
        return sum(x_0[0, c, t + lag] * y_0[0, c, t] for c in range(2) for t in range(64) if 0 <= t + lag < 64)

    for max_lag in (0, 3, 20):
        expected = max(range(-max_lag, max_lag + 1), key=direct)
        assert constant_lags(x, y, np.ones((1, 2), dtype=bool), ["r"], max_lag=max_lag)[0] == expected


def test_unavailable_leads_and_flat_predictions():
    truth = _cut(_signals(2), 0)
    prediction = np.stack([_cut(window, 6) for window in _signals(2)])
    prediction[:, 0] = np.nan
    truth_with_other_lead = truth.copy()
    truth_with_other_lead[:, 2] = 100 * _cut(_signals(2, seed=9), 0)[:, 2]
    available = np.array([[False, True, False]] * 2)
    assert constant_lags(prediction, truth_with_other_lead, available, ["r", "r"], max_lag=20).tolist() == [6, 6]
    flat = np.zeros_like(truth)
    assert constant_lags(flat, truth, np.ones((2, 3), dtype=bool), ["r", "s"], max_lag=20).tolist() == [0, 0]
    with pytest.raises(InputError, match="max_lag"):
        constant_lags(truth, truth, available, ["r", "r"], max_lag=400)


def test_overlaps_align_the_samples():
    truth = np.arange(10.0)[None].repeat(3, axis=0)
    prediction = np.stack([np.arange(10.0) - 2, np.arange(10.0) + 3, np.arange(10.0)])  # 2 late, 3 early, on time
    seen = []
    for rows, x, y in overlaps(prediction, truth, np.array([2, -3, 0])):
        assert np.array_equal(x, y)
        seen += [(row, x.shape[-1]) for row in rows.tolist()]
    assert sorted(seen) == [(0, 8), (1, 7), (2, 10)]


def test_split_sums_to_the_raw_error_exactly():
    truth = _cut(_signals(4), 0)
    prediction = 0.5 * _cut(_signals(4), 5) + 0.1 * _signals(4, seed=5)[..., :400]
    lags = np.array([5, 5, 0, -3])
    split = error_split(prediction, truth, lags)
    assert np.allclose(split.raw, ((prediction - truth) ** 2).mean(-1))
    assert np.allclose(split.timing + split.amplitude + split.morphology, split.raw, rtol=0, atol=1e-15)
    assert np.allclose(split.lag, split.amplitude + split.morphology, rtol=0, atol=1e-15)
    assert (split.amplitude >= 0).all() and (split.morphology >= 0).all()


def test_split_finds_the_one_cause():
    long = _signals(1)
    truth = _cut(long, 0)

    def parts(prediction, lag=0):
        split = error_split(prediction, truth, np.array([lag]))
        return np.array([split.timing, split.amplitude, split.morphology])[:, 0, 0] / split.raw[0, 0]

    assert np.allclose(parts(_cut(long, 8), 8), [1, 0, 0], atol=1e-12)
    assert np.allclose(parts(0.4 * truth), [0, 1, 0], atol=1e-12)
    other = _signals(1, seed=4)[..., :400]
    other -= truth * (other * truth).sum(-1, keepdims=True) / (truth * truth).sum(-1, keepdims=True)
    # y + e with e orthogonal to y: the best gain is |y|^2 / (|y|^2 + |e|^2), hand-computed below
    y2, e2 = (truth[0, 0] ** 2).sum(), (other[0, 0] ** 2).sum()
    assert parts(truth + other)[2] == pytest.approx(y2 / (y2 + e2))
    # Upside down is a wrong shape: the gain is not allowed to be negative, and 0 leaves |y|^2 of 4 |y|^2.
    assert np.allclose(parts(-truth), [0, 0.75, 0.25], atol=1e-12)
    assert np.allclose(parts(np.zeros_like(truth)), [0, 0, 1], atol=1e-12)
