"""Semi-synthetic pairs: what of the simulated pulses belongs to the subject, to the record, and to the beats."""

from __future__ import annotations

from dataclasses import astuple
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.signal import find_peaks

from p2es_lib.core.errors import InputError
from p2es_lib.signals.cleaning import ppg_clean
from p2es_lib.simulator import semi_synthetic
from p2es_lib.simulator.demographics_effects import MAX_AGE, MIN_AGE
from p2es_lib.simulator.pulse import pulse_shape
from p2es_lib.simulator.semi_synthetic import semi_synthetic_ppg

RATE, SECONDS = 125.0, 10.0
PERSON = {"age": 60.0, "sex": "F", "record": "00001_hr", "subject": "15709"}


def beats(interval_s=0.8, seconds=SECONDS, variability=0.05, seed=0):
    steps = interval_s * (1 + variability * np.random.default_rng(seed).uniform(-1, 1, int(seconds / interval_s)))
    return 0.3 + np.cumsum(steps)[np.cumsum(steps) < seconds - 0.5]


def make(rpeaks=None, seconds=SECONDS, rate=RATE, **person):
    return semi_synthetic_ppg(beats() if rpeaks is None else rpeaks, seconds, rate, **PERSON | person)


@pytest.fixture
def pulses(monkeypatch):
    """``pulses(...)`` gives what is drawn for a record: arrival times, intervals and heights (n_beats,), shape."""

    def pulses_of(rpeaks=None, **person):
        rpeaks, drawn = beats() if rpeaks is None else rpeaks, SimpleNamespace()

        def train(onsets, amplitudes, preceding, shape, t):
            inner = slice(4, -4)  # without the beats added before and after
            drawn.arrival, drawn.preceding = onsets[0, inner] - rpeaks, preceding[0, inner]
            drawn.height = amplitudes[0, inner]
            drawn.shape = np.concatenate([np.ravel(part) for part in astuple(shape)])
            return np.zeros((1, len(t)), dtype=np.float32)

        def shape(age, stiffness, heart_rate, variation):
            drawn.stiffness, drawn.variation = stiffness[0], variation[0]
            return pulse_shape(age, stiffness, heart_rate, variation)

        with monkeypatch.context() as patch:
            patch.setattr(semi_synthetic, "pulse_train", train)
            patch.setattr(semi_synthetic, "pulse_shape", shape)
            make(rpeaks, **person)
        return drawn

    return pulses_of


# ------------------------------------------------------------------------------------------- what belongs to whom
def test_the_same_record_has_the_same_bytes():
    first = make()
    assert first.dtype == float and len(first) == RATE * SECONDS and np.isfinite(first).all()
    np.random.seed(1)  # the global generator must not matter
    assert make().tobytes() == first.tobytes()
    assert not np.allclose(make(record="00002_hr"), first, atol=1e-3)


def test_stiffness_shape_and_arrival_time_belong_to_the_subject(pulses, monkeypatch):
    """Two records of a subject differ by jitter and noise only; another subject of the same age has other pulses."""
    monkeypatch.setattr(semi_synthetic, "PAT_JITTER_S", 0.0)
    one, again, other = pulses(), pulses(record="00002_hr"), pulses(subject="13243")
    assert np.allclose(one.arrival, again.arrival, atol=1e-9) and one.stiffness == again.stiffness
    assert np.array_equal(one.shape, again.shape) and np.array_equal(one.variation, again.variation)
    assert abs(np.mean(other.arrival - one.arrival)) > 1e-3 and abs(other.stiffness - one.stiffness) > 0.01
    assert not np.allclose(one.shape, other.shape) and (np.abs(other.variation - one.variation) > 1e-3).all()


def test_jitter_and_noise_belong_to_the_record(pulses):
    difference = pulses(record="00002_hr").arrival - pulses().arrival
    assert abs(np.mean(difference)) < 0.003 and 0.001 < np.std(difference) < 0.010
    assert np.array_equal(pulses().arrival, pulses().arrival)
    noise = np.stack([np.diff(make(record=record), 4) for record in ("00001_hr", "00002_hr")]) / np.sqrt(70)
    # Fourth differences, so scaled, leave little of a pulse, and of white noise its size.
    assert abs(np.corrcoef(noise)[0, 1]) < 0.2 and 0.003 < np.std(noise) < 0.05


def test_arrival_and_height_follow_the_interval_before(pulses, monkeypatch):
    """Intervals that swing slowly: arrival times swing with them, by about 14 ms per 241 ms, and so do heights."""
    monkeypatch.setattr(semi_synthetic, "PAT_JITTER_S", 0.0)
    intervals = 0.8 + 0.1 * np.sin(2 * np.pi * np.arange(40) / 20)
    drawn = pulses(0.3 + np.cumsum(intervals), seconds=40.0)
    n = len(drawn.arrival)
    delayed = [np.corrcoef(drawn.arrival[lag:], drawn.preceding[: n - lag])[0, 1] for lag in range(5)]
    assert max(delayed) > 0.95 and np.ptp(drawn.arrival) == pytest.approx(0.2 * 14 / 241, rel=0.3)
    assert np.corrcoef(drawn.height, drawn.preceding)[0, 1] > 0.95 and 0.05 < np.ptp(drawn.height) < 0.3


def test_people_have_different_but_plausible_arrival_times(pulses):
    """R peak to the foot of a finger pulse: 0.12 to 0.32 s, spread by some 15 to 30 ms over people."""
    mean = np.array([np.mean(pulses(subject=f"s{number}", age=20 + number).arrival) for number in range(60)])
    assert mean.min() > 0.12 and mean.max() < 0.32 and 0.008 < mean.std() < 0.040


@pytest.mark.parametrize("subject", ["15709", "a", "b"])
def test_each_pulse_rises_after_its_r_peak(subject):
    """In the PPG itself: one steepest rise per beat, 0.12 to 0.45 s after the R peak, and none without a beat."""
    rpeaks = beats(seconds=60.0)
    slope = np.diff(ppg_clean(make(rpeaks, 60.0, subject=subject), RATE))
    rises, _ = find_peaks(slope, height=0.4 * np.quantile(slope, 0.99), distance=int(0.4 * RATE))
    delays = (rises / RATE)[:, None] - rpeaks
    followed = [np.any((column > 0.12) & (column < 0.45)) for column in delays.T]
    assert np.mean(followed) > 0.97 and abs(len(rises) - len(rpeaks)) <= 2
    first = np.min(np.where(delays > 0, delays, np.inf), axis=1)
    assert np.std(first[np.isfinite(first)]) < 0.03


def test_a_pause_is_a_pause():
    rpeaks = np.concatenate([np.arange(0.5, 4, 0.7), np.arange(6.5, 10, 0.7)])
    slope = np.diff(ppg_clean(make(rpeaks), RATE))
    quiet, busy = slope[int(4.9 * RATE) : int(6.4 * RATE)], slope[int(1.5 * RATE) : int(3.5 * RATE)]
    assert quiet.max() < 0.35 * busy.max()


# ----------------------------------------------------------------------------------------------------- age and sex
def test_what_is_not_known_of_a_person_is_drawn_for_the_subject(pulses):
    shapes = [pulses(age=np.nan, sex="", subject=f"s{number}", record=f"r{number}").shape for number in range(5)]
    assert all(np.isfinite(shape).all() for shape in shapes)
    assert all(not np.allclose(shape, shapes[0]) for shape in shapes[1:])
    assert np.array_equal(shapes[0], pulses(age=np.nan, sex="", subject="s0", record="another").shape)
    assert np.isfinite(make(age=float("nan"), sex="")).all()


def test_age_and_sex_matter(pulses):
    one = pulses()
    for other in ({"age": 25.0}, {"sex": "M"}):
        assert abs(np.mean(pulses(**other).arrival - one.arrival)) > 5e-4
    assert not np.allclose(pulses(age=25.0).shape, one.shape)


@pytest.mark.parametrize("age, nearest", [(5.0, MIN_AGE), (0.0, MIN_AGE), (119.0, MAX_AGE)])
def test_ages_outside_the_simulator_count_as_its_nearest(age, nearest):
    assert make(age=age).tobytes() == make(age=nearest).tobytes()


# --------------------------------------------------------------------------------------------------------- few beats
@pytest.mark.parametrize("rpeaks", [[], [4.2]])
def test_fewer_than_two_beats_are_refused(rpeaks):
    with pytest.raises(InputError, match=rf"record 00001_hr: {len(rpeaks)} R peak\(s\) found"):
        make(np.array(rpeaks))


@pytest.mark.parametrize("rate", [62.5, 500.0])
def test_two_beats_are_enough_at_any_rate(rate):
    """Pulses are where they are, however often they are sampled; only the noise of the sensor differs."""
    ppg, other = make([3.0, 3.9], rate=rate), make([3.0, 3.9])
    assert len(ppg) == rate * SECONDS and np.isfinite(ppg).all() and np.std(ppg) > 0.05
    at = np.arange(int(RATE * SECONDS)) / RATE
    there = np.interp(at, np.arange(len(ppg)) / rate, ppg_clean(ppg, rate))
    assert np.corrcoef(there, ppg_clean(other, RATE))[0, 1] > 0.98
