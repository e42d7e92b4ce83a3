"""What training draws anew about the PPG: disturbances of a share of the windows, and pulses for real ECGs."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from synthetic import synthetic_windows, tiny_config

from p2es_lib.core.errors import InputError
from p2es_lib.data.windows import TrainingBatches
from p2es_lib.data.windows.fresh_ppg import FreshPulses, clean_and_scale, disturb_share
from p2es_lib.signals.pulse_features import pulse_upstrokes

RATE = 125.0
BEATS = np.array([0.35, 1.15, 1.95, 2.70, 3.50])


def windows_of_real_ecg(window_samples=512, origin="simulated"):
    windows = synthetic_windows(window_samples=window_samples)
    text = " ".join(f"{beat:.3f}" for beat in BEATS[window_samples / RATE > BEATS])
    return dataclasses.replace(windows, index=windows.index.assign(ppg_origin=origin, rpeaks_s=text))


# -------------------------------------------------------------------------------------------------------- disturbances
def test_the_stated_share_is_disturbed_and_the_others_are_untouched():
    ppg = np.repeat(synthetic_windows(window_samples=512).ppg[:1].astype(np.float32), 400, axis=0)
    disturbed = disturb_share(ppg, 0.3, RATE, (5, 7))
    changed = (disturbed != ppg).any(axis=(1, 2))
    assert 0.22 < changed.mean() < 0.38
    assert disturbed.dtype == np.float32 and np.isfinite(disturbed).all()
    assert np.allclose(disturbed[changed].mean(-1), 0, atol=1e-4) and np.allclose(
        disturbed[changed].std(-1), 1, atol=1e-3
    )
    distance = ((disturbed - ppg) ** 2).mean((1, 2))[changed]
    assert distance.min() < 0.1 < 0.5 < distance.max()  # from hardly visible to as large as the pulse


def test_disturbances_depend_on_key_and_row_only():
    ppg = synthetic_windows(window_samples=512).ppg.astype(np.float32)
    first = disturb_share(ppg, 0.5, RATE, (0, 3))
    assert np.array_equal(first, disturb_share(ppg, 0.5, RATE, (0, 3)))
    assert np.array_equal(first[:5], disturb_share(ppg[:5], 0.5, RATE, (0, 3)))
    assert not np.array_equal(first, disturb_share(ppg, 0.5, RATE, (0, 4)))
    assert np.array_equal(disturb_share(ppg, 0.0, RATE, (0, 3)), ppg)


def test_cleaning_removes_what_lies_outside_the_band():
    t = np.arange(1024) / RATE
    pulse = np.sin(2 * np.pi * 1.2 * t)
    cleaned = clean_and_scale(5.0 + pulse + 0.5 * np.sin(2 * np.pi * 50 * t), RATE)
    assert (
        np.corrcoef(cleaned, pulse)[0, 1] > 0.99
        and abs(cleaned.mean()) < 1e-5
        and cleaned.std() == pytest.approx(1, abs=1e-4)
    )


# -------------------------------------------------------------------------------------------------------- fresh pulses
def test_fresh_pulses_follow_the_beats_of_the_ecg():
    windows = windows_of_real_ecg()
    fresh = FreshPulses(windows, RATE)(windows.ppg[:6], np.arange(6), (0, 0))
    assert fresh.shape == (6, 1, 512) and fresh.dtype == np.float32
    assert np.allclose(fresh.mean(-1), 0, atol=1e-4) and np.allclose(fresh.std(-1), 1, atol=1e-3)
    delays = []
    for row in pulse_upstrokes(torch.as_tensor(fresh), RATE).numpy():
        row = row[np.isfinite(row)]
        # One upstroke 0.1 to 0.45 s after each beat whose pulse lies in the window.
        delay = [row[row > beat][0] - beat for beat in BEATS[:-1]]
        assert (np.array(delay) > 0.1).all() and (np.array(delay) < 0.45).all() and np.ptp(delay) < 0.06
        delays.append(np.mean(delay))
    assert np.ptp(delays) > 0.005  # other persons, other arrival times


def test_another_step_is_another_person_and_the_same_step_is_the_same():
    windows = windows_of_real_ecg()
    fresh = FreshPulses(windows, RATE)
    rows = np.array([3, 3, 0])
    one = fresh(windows.ppg[rows], rows, (0, 8))
    assert np.array_equal(one, fresh(windows.ppg[rows], rows, (0, 8)))
    assert not np.allclose(one, fresh(windows.ppg[rows], rows, (0, 9)), atol=0.05)
    assert not np.allclose(one[0], one[1], atol=0.01)  # the same ECG twice in a batch


def test_measured_pulses_and_windows_without_beats_stay():
    windows = windows_of_real_ecg()
    origin = np.where(np.arange(len(windows)) % 2 == 0, "measured", "simulated")
    rpeaks = windows.index["rpeaks_s"].where(np.arange(len(windows)) != 3, "0.4")
    windows = dataclasses.replace(windows, index=windows.index.assign(ppg_origin=origin, rpeaks_s=rpeaks))
    rows = np.arange(6)
    fresh = FreshPulses(windows, RATE)(windows.ppg[:6], rows, (0, 0))
    changed = (fresh != windows.ppg[:6].astype(np.float32)).any((1, 2))
    assert changed.tolist() == [False, True, False, False, False, True]


def test_the_simulated_cohort_has_no_pulses_to_redraw():
    assert not FreshPulses(synthetic_windows(), RATE).beats_s


def test_rows_and_windows_must_match():
    windows = windows_of_real_ecg()
    with pytest.raises(InputError, match="2 windows for 3 rows"):
        FreshPulses(windows, RATE)(windows.ppg[:2], np.arange(3), (0, 0))


# ------------------------------------------------------------------------------------------------------ in the batches
def test_batches_redraw_training_windows_and_leave_the_ecg_alone():
    windows, settings = windows_of_real_ecg(256), tiny_config(data__stream_training=True, data__disturbed_share=0.0)
    config = dataclasses.replace(settings, dataset="ptb-xl")
    train = windows.split("train")
    with TrainingBatches(config, windows, 0) as fresh, TrainingBatches(config, windows, 0, 0) as again:
        rows = fresh.rows(2)
        batch = fresh.batch(2)
        assert np.array_equal(batch["ecg"].numpy(), train.ecg[rows].astype(np.float32))
        assert not np.allclose(batch["ppg"].numpy(), train.ppg[rows], atol=0.05)
        assert np.array_equal(batch["ppg"], again.batch(2)["ppg"])
    stored = dataclasses.replace(config, data=dataclasses.replace(config.data, stream_training=False))
    with TrainingBatches(stored, windows, 0) as plain:
        assert np.array_equal(plain.batch(2)["ppg"].numpy(), train.ppg[rows].astype(np.float32))


def test_batches_disturb_stored_and_streamed_windows():
    for streamed in (False, True):
        settings = {"data__stream_training": streamed, "signal__window_samples": 256}
        clean = tiny_config(**settings, data__disturbed_share=0.0)
        disturbed = tiny_config(**settings, data__disturbed_share=1.0)
        with (
            TrainingBatches(clean, synthetic_windows(), 0) as one,
            TrainingBatches(disturbed, synthetic_windows(), 0) as other,
        ):
            a, b = one.batch(1), other.batch(1)
        assert np.array_equal(a["ecg"], b["ecg"]) and a["subjects"] == b["subjects"]
        assert ((a["ppg"] - b["ppg"]).abs().amax((1, 2)) > 0.01).all()


def test_the_next_step_draws_anew(monkeypatch):
    """The same windows in the same places of a later batch: another PPG, another disturbance."""
    windows, settings = windows_of_real_ecg(256), tiny_config(data__stream_training=True, data__disturbed_share=0.0)
    fresh = dataclasses.replace(settings, dataset="ptb-xl")
    disturbed = tiny_config(data__stream_training=False, data__disturbed_share=1.0)
    monkeypatch.setattr(TrainingBatches, "rows", lambda self, step: np.arange(4))
    for config in (fresh, disturbed):
        with TrainingBatches(config, windows, 0, 0) as batches, TrainingBatches(config, windows, 1, 0) as other_seed:
            first, later = batches.batch(0), batches.batch(1)
            assert np.array_equal(first["ecg"], later["ecg"])
            for another in (later, other_seed.batch(0)):
                assert ((first["ppg"] - another["ppg"]).abs().amax((1, 2)) > 0.01).all()
