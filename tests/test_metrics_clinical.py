"""Matching of R peaks, heart rate and Einthoven residual."""

import itertools

import numpy as np
import pytest

from p2es_lib.core.leads import LEAD_MATRIX
from p2es_lib.evaluation.metrics.clinical import (
    count_matches,
    einthoven_residual,
    heart_rate,
    heart_rate_error,
    r_peak_f1,
)


def _best_matching(p, t, tolerance):
    """Largest one-to-one matching by trying all."""
    if not p or not t:
        return 0
    partners = [j for j in range(len(t)) if abs(p[0] - t[j]) <= tolerance]
    matched = [_best_matching(p[1:], t[:j] + t[j + 1 :], tolerance) + 1 for j in partners]
    return max([_best_matching(p[1:], t, tolerance), *matched])


def test_matching_is_one_to_one_and_the_largest():
    assert count_matches([1.0, 1.04], [1.02]) == (1, 1, 0)
    assert count_matches([1.0], [1.02, 1.04]) == (1, 0, 1)
    assert count_matches([1.0, 2.0], [1.05, 2.051]) == (1, 1, 1)  # 50 ms matches, 51 ms does not
    assert count_matches([1.0, 2.0], [1.05, 2.051], tolerance_s=0.075) == (2, 0, 0)
    assert count_matches([np.nan, 3.0], [3.0, np.nan]) == (1, 0, 0)
    assert count_matches([], []) == (0, 0, 0)
    rng = np.random.default_rng(0)
    for n_p, n_t in itertools.product(range(5), range(5)):
        for _ in range(5):
            p, t = (list(rng.uniform(0, 0.4, size=n)) for n in (n_p, n_t))
            matched, extra, missed = count_matches(p, t)
            assert matched == _best_matching(p, t, 0.05)
            assert (matched + extra, matched + missed) == (n_p, n_t)


def test_unmatched_peaks_at_the_ends_are_not_counted():
    assert count_matches([0.03, 1.0], [1.0, 7.97], span_s=(0.0, 8.0)) == (1, 0, 0)
    assert count_matches([0.06, 1.0], [1.0, 7.94], span_s=(0.0, 8.0)) == (1, 1, 1)
    assert count_matches([0.01], [0.03], span_s=(0.0, 8.0)) == (1, 0, 0)  # a match is a match


def test_f1_hand_computed():
    true = np.array([[1.0, 2.0, 3.0, 4.0]] * 5)
    predicted = np.array([
        [1.0, 2.0, 3.0, 4.0],
        [1.0, 2.0, 3.2, np.nan],  # two right, one extra, two missed: 4 / 7
        [1.1, 2.1, 3.1, 4.1],  # all 100 ms late
        [np.nan] * 4,
        [1.0, 2.0, 3.0, 4.0],
    ])  # fmt: skip
    assert np.allclose(r_peak_f1(predicted, true, window_s=8), [1, 4 / 7, 0, 0, 1])
    assert np.allclose(r_peak_f1(predicted, true, window_s=8, lag_s=0.1), [0, 0, 1, 0, 0])
    nothing = np.full((1, 2), np.nan)
    assert np.isnan(r_peak_f1(nothing, nothing)).all()


def test_f1_after_lag_counts_only_what_both_signals_cover():
    # All 200 ms late: the last true beat at 7.9 s lies beyond the end of the shifted prediction.
    true, predicted = np.array([[1.0, 4.0, 7.9]]), np.array([[1.2, 4.2, np.nan]])
    assert r_peak_f1(predicted, true, window_s=8.0, lag_s=0.2)[0] == 1.0
    early = np.array([[0.8, 3.8, np.nan]])
    assert r_peak_f1(early, np.array([[0.1, 1.0, 4.0]]), window_s=8.0, lag_s=-0.2)[0] == 1.0


def test_heart_rate():
    times = np.array([[0.5, 1.5, 2.5, np.nan], [1.0, 1.4, 2.0, 2.2], [1.0, np.nan, np.nan, np.nan]])
    assert np.allclose(heart_rate(times), [60.0, 150.0, np.nan], equal_nan=True)
    assert np.allclose(heart_rate_error(times[[0, 1, 2]], times[[1, 1, 1]]), [90.0, 0.0, np.nan], equal_nan=True)
    assert np.isnan(heart_rate(np.full((2, 0), np.nan))).all()


def test_einthoven_residual():
    ecg = LEAD_MATRIX @ np.random.default_rng(0).normal(size=(1, 8, 1024))
    assert einthoven_residual(ecg)[0] < 1e-12
    wrong = ecg.copy()
    wrong[0, 2] += 0.3  # lead III alone off by 0.3 mV
    # Distance of a unit error in lead III from the limb plane: residual 1 - P_33 of its square, spread over 12 leads.
    limb = LEAD_MATRIX[:6, :2]
    p_33 = (limb @ np.linalg.pinv(limb))[2, 2]
    expected = 0.3 * np.sqrt((1 - p_33) / 12)
    assert einthoven_residual(wrong)[0] == pytest.approx(expected)
    assert einthoven_residual(np.where(np.arange(12)[:, None] < 6, wrong, np.nan))[0] == pytest.approx(expected)
    swapped = ecg[:, [1, 0, *range(2, 12)]]
    assert einthoven_residual(swapped)[0] > 0.02
    assert np.isnan(einthoven_residual(np.where(np.arange(12)[:, None] == 1, np.nan, ecg))).all()
