"""Upstroke detection on simulated pulse trains and on real recordings; what the feature channels promise."""

import csv

import numpy as np
import pytest
import torch

from p2es_lib.core.errors import InputError
from p2es_lib.signals.pulse_features import FEATURES, N_FEATURES, pulse_features, pulse_upstrokes
from p2es_lib.simulator.disturbances import disturb
from p2es_lib.simulator.pulse import amplitude_from_rr, pulse_shape, pulse_train, stiffness_from_age

EDGE_S = 0.1  # upstrokes nearer to the window's ends than this are not counted


def simulated(n, seed, rhythm="sinus", rate=125.0, window_samples=1024):
    """PPG (n, 1, T), upstroke times (n, 40) in seconds and amplitudes (n, 40)."""
    rng = np.random.default_rng(seed)
    age = rng.uniform(18, 90, n)
    heart_rate = rng.uniform(60, 130, n) if rhythm == "fibrillation" else rng.uniform(48, 105, n)
    shape = pulse_shape(age, stiffness_from_age(age, rng.standard_normal(n)), heart_rate, rng.standard_normal((n, 5)))
    rr = (60 / heart_rate)[:, None] * (1 + 0.04 * rng.standard_normal((n, 40)))
    if rhythm == "fibrillation":
        rr = np.maximum((60 / heart_rate)[:, None] * (0.5 + rng.gamma(3, 1 / 6, (n, 40))), 0.33)
    amplitude = amplitude_from_rr(rr)
    if rhythm == "premature":  # two premature beats with a full pause, pulse at 40-80 % of the usual
        for row in range(n):
            for beat in rng.choice([5, 8, 11], 2, replace=False):
                early = rng.uniform(0.55, 0.85) * rr[row, beat]
                rr[row, beat + 1] += rr[row, beat] - early
                rr[row, beat] = early
                amplitude[row, beat] = rng.uniform(0.4, 0.8)
    onsets = np.cumsum(rr, axis=1) - 2.0
    ppg = pulse_train(onsets, amplitude, rr, shape, np.arange(window_samples) / rate)
    fine = np.arange(-0.1, 0.3, 0.0005)
    alone = pulse_train(np.zeros((n, 1)), np.ones((n, 1)), np.full((n, 1), 0.85), shape, fine)
    steepest = fine[np.argmax(np.diff(alone, axis=1), axis=1)]
    return torch.as_tensor(ppg)[:, None], onsets + steepest[:, None], amplitude


def sensitivity_precision(upstrokes, truth, window_s, tolerance_s=0.04):
    hits = found = expected = right = 0
    for times, true in zip(np.asarray(upstrokes), truth, strict=True):
        times = times[np.isfinite(times)]
        distance = np.abs(times[:, None] - true[None, :])
        counted = (true > EDGE_S) & (true < window_s - EDGE_S)
        inner = (times > EDGE_S) & (times < window_s - EDGE_S)
        expected, found = expected + counted.sum(), found + inner.sum()
        if len(times):
            hits += (distance.min(axis=0)[counted] < tolerance_s).sum()
            right += (distance.min(axis=1)[inner] < tolerance_s).sum()
    return hits / expected, right / found


@pytest.mark.parametrize("rhythm", ["sinus", "fibrillation", "premature"])
def test_upstrokes_found_in_every_rhythm(rhythm):
    ppg, truth, _ = simulated(150, 1, rhythm)
    sensitivity, precision = sensitivity_precision(pulse_upstrokes(ppg, 125.0), truth, 8.192)
    assert sensitivity > 0.98 and precision > 0.98, (sensitivity, precision)


@pytest.mark.parametrize(
    ("heart_rate", "rate"),
    [(30, 125.0), (120, 125.0), (195, 125.0), (210, 125.0), (220, 125.0), (30, 62.5), (210, 62.5)],
)
def test_no_pulse_is_lost_or_added_at_the_ends_of_what_hearts_do(heart_rate, rate):
    """Of a fast heart, a pulse that comes a little early; of a slow one, no dicrotic wave is taken for a pulse."""
    rng, n, window_s = np.random.default_rng(7), 40, 8.192
    rr = 60 / heart_rate * (1 + 0.015 * rng.standard_normal((n, 60)))
    shape = pulse_shape(rng.uniform(18, 90, n), rng.uniform(6, 11, n), np.full(n, heart_rate), np.zeros((n, 5)))
    onsets = np.cumsum(rr, axis=1) - 2 * rr[:, :1]
    t = np.arange(round(window_s * rate)) / rate
    ppg = torch.as_tensor(pulse_train(onsets, np.ones_like(rr), rr, shape, t))[:, None]
    found = pulse_upstrokes(ppg, rate).numpy()
    truth = np.where(onsets < window_s + 1, onsets, np.nan)
    delay = np.array([np.nanmedian(_after(times, own)) for times, own in zip(found, truth, strict=True)])
    sensitivity, precision = sensitivity_precision(found, np.nan_to_num(truth + delay[:, None], nan=-9.0), window_s)
    assert sensitivity > 0.98 and precision > 0.98, (sensitivity, precision)


def _after(times, onsets):
    """From each onset to the next upstroke, s."""
    gaps = times[:, None] - onsets
    return np.where(gaps > 0, gaps, np.inf).min(axis=1)[np.isfinite(times)]


@pytest.mark.parametrize(
    ("rate", "window_samples"), [(62.5, 512), (100.0, 1000), (250.0, 2048), (125.0, 300), (124.945, 4096)]
)
def test_other_rates_and_lengths(rate, window_samples):
    ppg, truth, _ = simulated(40, 2, rate=rate, window_samples=window_samples)
    sensitivity, precision = sensitivity_precision(pulse_upstrokes(ppg, rate), truth, window_samples / rate)
    assert sensitivity > 0.98 and precision > 0.98
    features = pulse_features(ppg, rate)
    assert features.shape == (40, N_FEATURES, window_samples) and features.isfinite().all()


@pytest.mark.parametrize(
    ("kind", "snr_db", "at_least"), [("drift", 5, 0.99), ("low_perfusion", 15, 0.98), ("motion", 15, 0.94)]
)
def test_upstrokes_found_in_disturbed_ppg(kind, snr_db, at_least):
    ppg, truth, _ = simulated(100, 3)
    rngs = [np.random.default_rng((4, row)) for row in range(100)]
    noisy = torch.as_tensor(disturb(ppg[:, 0].numpy(), kind, snr_db, rngs, 125.0))[:, None]
    sensitivity, precision = sensitivity_precision(pulse_upstrokes(noisy, 125.0), truth, 8.192)
    assert sensitivity > at_least and precision > at_least, (sensitivity, precision)


def test_timing_is_finer_than_a_sample():
    ppg, truth, _ = simulated(100, 5, rate=62.5, window_samples=512)
    times = pulse_upstrokes(ppg, 62.5).numpy()
    error = []
    for row in range(100):
        found = times[row][np.isfinite(times[row])]
        error += [q - truth[row][np.abs(truth[row] - q).argmin()] for q in found if 0.2 < q < 7.9]
    assert np.std(error) < 0.004  # a sample lasts 16 ms; smoothing adds a constant and a little spread by shape


def test_invariant_to_offset_and_gain():
    ppg, _, _ = simulated(16, 6)
    features = pulse_features(ppg, 125.0)
    scaled = pulse_features(0.013 * ppg + 4.0, 125.0)
    torch.testing.assert_close(scaled, features, atol=2e-2, rtol=0)
    assert (scaled - features).abs().mean() < 1e-4
    times, same = pulse_upstrokes(ppg, 125.0), pulse_upstrokes(900 * ppg - 70.0, 125.0)
    torch.testing.assert_close(same, times, equal_nan=True, atol=1e-3, rtol=0)


def test_channels_by_hand_on_a_regular_pulse():
    n, rate, interval = 1024, 128.0, 0.75
    t = np.arange(n) / rate
    shape = pulse_shape(*(np.array([value]) for value in (40.0, 7.0, 80.0)), np.zeros((1, 5)))
    onsets = (0.3 + np.arange(-3, 14) * interval)[None]
    ppg = torch.as_tensor(pulse_train(onsets, np.ones_like(onsets), np.full_like(onsets, interval), shape, t))[None]
    channel = dict(zip(FEATURES, pulse_features(ppg, rate)[0].numpy(), strict=True))
    times = pulse_upstrokes(ppg, rate)[0].numpy()
    times = times[np.isfinite(times)]
    np.testing.assert_allclose(np.diff(times), interval, atol=2e-3)
    phase = 2 * np.pi * (t - times[0]) / interval  # also beyond the first and the last upstroke
    np.testing.assert_allclose(channel["sin_phase"], np.sin(phase), atol=0.03)
    np.testing.assert_allclose(channel["cos_phase"], np.cos(phase), atol=0.03)
    away = np.abs((t - times[0]) / interval - np.round((t - times[0]) / interval)) > 0.02
    np.testing.assert_allclose(channel["since_s"][away], ((t - times[0]) % interval)[away], atol=5e-3)
    np.testing.assert_allclose((channel["since_s"] + channel["until_s"])[away], interval, atol=3e-3)
    np.testing.assert_allclose(channel["log_period"], np.log(interval / 0.8), atol=5e-3)
    expected = np.exp(-0.5 * (np.abs(t[:, None] - times[None]).min(axis=1) / 0.03) ** 2)
    np.testing.assert_allclose(channel["upstroke"], expected, atol=1e-4)
    assert channel["ppg"].mean() == pytest.approx(0, abs=1e-5) and channel["ppg"].std() == pytest.approx(1, abs=1e-4)
    assert channel["slope"].max() == pytest.approx(1, abs=0.05)


def beat_times(ppg, delay_s):
    """R times of windows whose delays (B,) are these, inf-padded."""
    return pulse_upstrokes(ppg, 125.0).nan_to_num(torch.inf) - torch.as_tensor(delay_s)[:, None]


def test_features_at_beat_times_tell_the_beats_of_so_long_before():
    """Slope and PPG stay; what tells beats is that of a pulse moved by whole samples, away from the ends."""
    ppg, truth, _ = simulated(6, 8)
    samples = torch.tensor([0, 10, 25, 40, 5, 30])
    plain, advanced = pulse_features(ppg, 125.0), pulse_features(ppg, 125.0, beat_times(ppg, samples / 125.0))
    assert torch.equal(advanced[:, :2], plain[:, :2]) and advanced.isfinite().all()
    torch.testing.assert_close(advanced[0], plain[0])
    bump = FEATURES.index("upstroke")
    for row, moved in enumerate(samples.tolist()):
        inner = slice(150, 1024 - 190)
        later = slice(150 + moved, 1024 - 190 + moved)
        torch.testing.assert_close(advanced[row, 2:, inner], plain[row, 2:, later], atol=2e-3, rtol=0)
    beats = truth[3][(truth[3] > 1.5) & (truth[3] < 6)] - 40 / 125.0
    assert all(advanced[3, bump, round(beat * 125)] > 0.8 for beat in beats)


def test_each_row_has_its_own_beat_times():
    ppg, _, _ = simulated(4, 8)
    times = beat_times(ppg, torch.tensor([0.1, 0.25, 0.4, 0.0]))
    together = pulse_features(ppg, 125.0, times)
    for row in range(4):
        torch.testing.assert_close(pulse_features(ppg[[row]], 125.0, times[[row]])[0], together[row])


def test_each_beat_is_told_where_it_is_said_to_be():
    """Whatever the pulses show: irregular times, some outside the window, any number of columns and of padding."""
    ppg, _, _ = simulated(2, 8)
    times = np.array([-0.3, 0.52, 1.2, 2.36, 3.0, 3.9, 5.0, 6.1, 6.9, 8.4])
    t = np.arange(1024) / 125.0
    for padding in (0, 3, 20):
        table = torch.tensor(np.r_[times, np.full(padding, np.inf)], dtype=torch.float32).repeat(2, 1)
        features = pulse_features(ppg, 125.0, table)
        assert features.isfinite().all() and torch.equal(features[:, :2], pulse_features(ppg, 125.0)[:, :2])
        channel = dict(zip(FEATURES, features[0].numpy(), strict=True))
        bump = np.exp(-0.5 * (np.abs(t[:, None] - times).min(axis=1) / 0.03) ** 2)
        np.testing.assert_allclose(channel["upstroke"], bump, atol=1e-4)
        last = np.searchsorted(times, t, side="right") - 1
        away = (t - times[last] > 0.01) & (times[last + 1] - t > 0.01)
        np.testing.assert_allclose(channel["since_s"][away], (t - times[last])[away], atol=1e-4)
        np.testing.assert_allclose(channel["until_s"][away], (times[last + 1] - t)[away], atol=1e-4)
        period = np.log((times[last + 1] - times[last]) / 0.8)
        np.testing.assert_allclose(channel["log_period"][away], period[away], atol=1e-4)
    view = torch.cat([table, table], dim=1).T.contiguous().T[:, : table.shape[1]]  # as a caller may slice it
    assert not view.is_contiguous() and torch.equal(pulse_features(ppg, 125.0, view), features)


def test_features_of_no_beat_are_zero():
    features = pulse_features(torch.zeros(2, 1, 1024), 125.0, torch.full((2, 5), torch.inf))
    assert features.abs().max() == 0


def test_no_beat_gives_zeros_and_no_nan():
    t = torch.arange(1024) / 125.0
    one_step = torch.sigmoid((t - 4) * 30)
    ppg = torch.stack([torch.zeros(1024), torch.full((1024,), 7.3), -t, one_step])[:, None]
    features = pulse_features(ppg, 125.0)
    assert features.isfinite().all()
    assert (features[:2] == 0).all()
    assert (features[2, 2:] == 0).all(), "a falling line has no upstroke"
    assert (features[3, 3:] == 0).all(), "one upstroke makes no phase"
    assert pulse_upstrokes(ppg, 125.0)[:3].isnan().all()


def test_row_does_not_depend_on_the_batch():
    ppg, _, _ = simulated(33, 7, "fibrillation")
    together = pulse_features(ppg, 125.0)
    for row in (0, 17, 32):
        torch.testing.assert_close(pulse_features(ppg[row : row + 1], 125.0)[0], together[row], atol=1e-5, rtol=1e-5)
    assert pulse_upstrokes(ppg[:1], 125.0).shape[1] == pulse_upstrokes(ppg, 125.0).shape[1]


def test_autocast_does_not_blur_the_times():
    ppg, _, _ = simulated(8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = pulse_features(ppg, 125.0)
    assert torch.equal(inside, pulse_features(ppg, 125.0)) and inside.dtype == torch.float32


def test_bad_input_is_named():
    with pytest.raises(InputError, match=r"expected \(B, 1, T\)"):
        pulse_features(torch.zeros(4, 1024), 125.0)
    with pytest.raises(InputError, match="sampling_rate"):
        pulse_upstrokes(torch.zeros(4, 1, 1024), 0.0)
    with pytest.raises(InputError, match="one second"):
        pulse_upstrokes(torch.zeros(4, 1, 60), 125.0)


def test_speed(relative_cost):
    ppg, _, _ = simulated(16, 9)
    assert relative_cost(lambda: pulse_features(ppg, 125.0), repeats=8) < 2  # 0.45 measured


@pytest.mark.mirror
def test_real_recording_has_one_upstroke_per_beat(mirror):
    """BIDMC 01, the first 80 s (no artefact): upstrokes at the intervals of an independent detector on lead II."""
    from scipy.signal import find_peaks

    path = mirror / "bidmc/1.0.0/bidmc_csv/bidmc_01_Signals.csv"
    with path.open() as handle:
        rows = list(csv.reader(handle, skipinitialspace=True))
    columns = [name.strip() for name in rows[0]]
    values = np.array(rows[1 : 1 + 10 * 1024], dtype=float)
    ppg, ecg = (values[:, columns.index(name)] for name in ("PLETH", "II"))
    peaks = find_peaks(ecg - np.median(ecg), height=0.5 * np.ptp(ecg[:1024]) / 2, distance=40)[0] / 125.0
    times = pulse_upstrokes(torch.as_tensor(ppg.reshape(10, 1, 1024)), 125.0).numpy() + 8.192 * np.arange(10)[:, None]
    times = times[np.isfinite(times)]
    lag = np.median([q - peaks[peaks < q - 0.3].max() for q in times if (peaks < q - 0.3).any()])
    distance = np.array([np.abs(times - peak - lag).min() for peak in peaks if peak + lag < 81])
    assert (distance < 0.1).mean() > 0.97
