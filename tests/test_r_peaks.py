"""R peaks: of known beats under disturbance, of the leads that there are, and between the samples."""

import numpy as np
import pandas as pd
import pytest

from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import LEAD_MATRIX, complete_limb_leads
from p2es_lib.evaluation.metrics.clinical import heart_rate_error, r_peak_f1
from p2es_lib.signals import cleaning
from p2es_lib.signals.r_peaks import r_peak_times

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


def test_times_lie_between_the_samples():
    """Beats at any place between two samples: whole samples would be up to 4 ms off."""
    for part in np.arange(0, 1, 0.1):
        r = 0.6 + part / FS + np.cumsum(np.full(8, 0.8) + np.linspace(0, 0.0075, 8))
        np.testing.assert_allclose(_found(toy_ecg(r)), r, atol=0.0022)


def test_times_do_not_depend_on_the_batch():
    ecg = np.stack([toy_ecg(np.arange(start, 8, 0.8)) for start in (0.3, 0.5, 0.9)])
    together = r_peak_times(ecg, FS)
    for row, alone in enumerate(ecg):
        np.testing.assert_array_equal(together[row][np.isfinite(together[row])], _found(alone))


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
