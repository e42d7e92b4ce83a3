"""R peaks, their matching, heart rate and Einthoven residual."""

import itertools

import numpy as np
import pandas as pd
import pytest

from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import LEAD_MATRIX, complete_limb_leads
from p2es_lib.evaluation.metrics.clinical import (
    count_matches,
    einthoven_residual,
    heart_rate,
    heart_rate_error,
    r_peak_f1,
    r_peak_times,
)
from p2es_lib.signals import cleaning

FS, N_SAMPLES = 125.0, 1024
T_AXIS = np.arange(N_SAMPLES) / FS
#: One sign and size per independent lead I, II, V1..V6.
GAINS = np.array([0.6, 1.0, -0.8, -0.3, 0.5, 1.4, 1.2, 0.8])


def toy_ecg(r_times, wide=()):
    """P, QRS and T as Gaussians around each R time in 12 leads (12, T), mV; ``wide`` beats are tall and broad."""
    wave = np.zeros((8, N_SAMPLES))
    for number, r in enumerate(r_times):
        for delay, width, p, size in ((-0.16, 0.02, 0.12, 0.6), (0.0, 0.011, 1.0, 1.0), (0.25, 0.045, 0.25, 0.8)):
            if number in wide and delay <= 0:
                p, width = (0.0, width) if delay < 0 else (2.5, 0.035)
            gain = np.sign(GAINS) ** (delay == 0) * np.abs(GAINS) ** size
            wave += gain[:, None] * p * np.exp(-0.5 * ((T_AXIS - r - delay) / width) ** 2)
    return LEAD_MATRIX @ wave


def _found(ecg, **options):
    times = r_peak_times(ecg[None], FS, **options)[0]
    return times[np.isfinite(times)]


def test_detector_finds_known_beats_under_disturbance():
    rng = np.random.default_rng(0)
    windows, truth = [], []
    for rate in (38, 60, 85, 130, 180):
        rr = 60 / rate * (1 + 0.05 * rng.normal(size=40))
        r = 0.3 + np.cumsum(rr)
        r = r[r < N_SAMPLES / FS - 0.1]
        drift = 0.5 * np.sin(2 * np.pi * 0.3 * T_AXIS) + 3.0
        windows.append(toy_ecg(r) + drift + 0.03 * rng.normal(size=(12, N_SAMPLES)))
        truth.append(r)
    for times, r in zip(r_peak_times(np.stack(windows), FS), truth):
        assert np.allclose(times[np.isfinite(times)], r, atol=0.012)


def test_detector_irregular_and_ectopic_beats():
    r = np.array([0.4, 0.85, 1.75, 2.3, 2.8, 4.1, 4.6, 5.6, 6.0, 7.1, 7.7])
    found = _found(toy_ecg(r, wide=(3, 7)))
    assert len(found) == len(r) and np.allclose(found, r, atol=0.03)


def test_a_split_qrs_is_one_beat():
    r = np.arange(0.6, 8, 0.9)
    assert len(_found(toy_ecg(r) + 0.8 * toy_ecg(r + 0.13))) == len(r)


def test_detector_uses_the_available_leads_only():
    r = np.arange(0.5, 8, 0.8)
    ecg = toy_ecg(r)
    limb = np.arange(12) < 6
    only_limb = np.where(limb[:, None], ecg, np.nan)
    assert np.allclose(_found(only_limb), r, atol=0.012)
    misleading = np.where(limb[:, None], ecg, 5 * toy_ecg(r + 0.4))
    assert np.allclose(_found(misleading, available=limb[None]), r, atol=0.012)
    assert np.allclose(_found(misleading), r + 0.4, atol=0.05)
    assert _found(ecg, available=np.zeros((1, 12), dtype=bool)).size == 0


def test_detector_finds_nothing_where_there_is_nothing():
    assert _found(np.zeros((12, N_SAMPLES))).size == 0
    assert _found(0.3 * np.sin(2 * np.pi * 1.2 * T_AXIS)[None].repeat(12, 0)).size == 0  # a pulse wave is no QRS
    assert r_peak_times(np.zeros((0, 12, N_SAMPLES)), FS).shape == (0, 0)
    with pytest.raises(InputError, match="windows, leads, samples"):
        r_peak_times(np.zeros((12, N_SAMPLES)), FS)


def test_detector_agrees_with_neurokit_on_lead_two():
    rng = np.random.default_rng(4)
    r = 0.5 + np.cumsum(0.75 + 0.05 * rng.normal(size=9))
    ecg = toy_ecg(r) + 0.02 * rng.normal(size=(12, N_SAMPLES))
    reference = cleaning.ecg_rpeaks(ecg[1], FS) / FS
    assert r_peak_f1(_found(ecg)[None], reference[None], window_s=N_SAMPLES / FS)[0] == 1.0


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
    ecg = toy_ecg(np.arange(0.5, 8, 0.8))[None]
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


@pytest.mark.mirror
def test_detector_agrees_with_neurokit_on_a_real_recording(mirror):
    path = mirror / "bidmc/1.0.0/bidmc_csv/bidmc_01_Signals.csv"
    table = pd.read_csv(path, skipinitialspace=True)
    ecg, lead_mask = complete_limb_leads({"II": table["II"].to_numpy(), "aVR": table["AVR"].to_numpy()})
    n_windows = ecg.shape[1] // N_SAMPLES
    windows = np.moveaxis(ecg[:, : n_windows * N_SAMPLES].reshape(12, n_windows, N_SAMPLES), 1, 0)
    found = r_peak_times(windows, FS, np.tile(lead_mask > 0, (n_windows, 1)))
    reference = cleaning.ecg_rpeaks(ecg[1], FS) / FS
    window_s = N_SAMPLES / FS
    padded = np.full((n_windows, len(reference)), np.nan)
    for window, row in enumerate(padded):
        times = reference[reference // window_s == window] - window * window_s
        row[: len(times)] = times
    assert np.mean(r_peak_f1(found, padded, window_s=window_s)) > 0.98
    assert np.nanmean(heart_rate_error(found, padded)) < 0.5
