"""Which way pulses point: both ways, short and long, disturbed, and where nothing can be said."""

from __future__ import annotations

import numpy as np
import pytest

from p2es_lib.core.errors import InputError
from p2es_lib.signals.cleaning import bridge_short_gaps, ppg_quality
from p2es_lib.signals.polarity import BRIDGED_S, Polarity, pulse_polarity
from p2es_lib.simulator import SimulatorConfig, simulate
from p2es_lib.translation.readers.user_file import read_ppg


@pytest.mark.parametrize("rate", [25.0, 64.0, 250.0])
@pytest.mark.parametrize("offset", [0.0, 5e5])
def test_both_ways_at_any_rate_and_level(make_pair, rate, offset):
    ppg = make_pair(20, rate).ppg
    assert pulse_polarity(offset + ppg, rate).verdict == "up"
    assert pulse_polarity(offset - ppg, rate).verdict == "down"


def test_turning_over_turns_the_evidence_over(make_pair):
    ppg = make_pair(30, 125.0, noise=0.05).ppg
    up, down = pulse_polarity(ppg, 125.0), pulse_polarity(-ppg, 125.0)
    assert up.skewness == pytest.approx(-down.skewness) and up.n_up == down.n_stretches - down.n_up


def test_one_artefact_does_not_outvote_the_pulses(make_pair):
    ppg = make_pair(60, 125.0).ppg
    ppg[3000:3060] -= np.linspace(0, 10 * np.ptp(ppg), 60)  # a fall of ten pulses' height, and back at once
    assert pulse_polarity(ppg, 125.0).verdict == "up" and pulse_polarity(-ppg, 125.0).verdict == "down"


def test_gaps_and_flat_stretches_do_not_vote(make_pair):
    ppg = make_pair(30, 100.0).ppg
    ppg[500:1100] = np.nan
    ppg[2000:] = ppg[2000]
    found = pulse_polarity(ppg, 100.0)
    assert found.verdict == "up" and found.n_stretches <= 12
    assert pulse_polarity(np.full(2000, 3.7), 100.0).verdict == "unclear"
    empty = pulse_polarity(np.full(2000, np.nan), 100.0)
    assert empty.verdict == "unclear" and "no stretch" in str(empty)
    with pytest.raises(InputError, match="at least 2 s"):
        pulse_polarity(ppg[:100], 100.0)


@pytest.mark.parametrize("offset", [0.0, 5e5])
def test_single_lost_samples_do_not_silence_the_vote(make_pair, offset):
    """With 2 % lost at random, one stretch in fifty of 1.5 s at 125 Hz is whole."""
    ppg = offset + make_pair(20, 125.0).ppg
    ppg[np.random.default_rng(0).random(len(ppg)) < 0.02] = np.nan
    found = pulse_polarity(ppg, 125.0)
    assert found.verdict == "up" and found.n_stretches >= 11  # a gap at either end costs one stretch
    assert pulse_polarity(-ppg, 125.0).verdict == "down"


@pytest.mark.parametrize(("rate", "longest"), [(30.0, 3), (125.0, 12), (5.0, 0)])
def test_only_short_gaps_inside_are_bridged(rate, longest):
    line = np.arange(200.0)
    gaps = line.copy()
    gaps[50 : 50 + longest] = np.nan
    gaps[100 : 100 + longest + 1] = np.inf
    gaps[[0, -1]] = np.nan
    expected = line.copy()
    expected[100 : 100 + longest + 1] = expected[[0, -1]] = np.nan
    np.testing.assert_allclose(bridge_short_gaps(gaps, rate, BRIDGED_S), expected)
    assert np.isnan(bridge_short_gaps(np.full(50, np.nan), rate, BRIDGED_S)).all()


def test_weak_evidence_is_called_weak():
    noise = np.random.default_rng(0).standard_normal(125 * 30)
    assert pulse_polarity(noise, 125.0).verdict == "unclear"
    assert pulse_polarity(np.sin(2 * np.pi * 1.2 * np.arange(2500) / 125), 125.0).verdict == "unclear"
    assert Polarity(1.2, 4, 5).verdict == "unclear" and Polarity(1.2, 5, 5).verdict == "up"
    assert Polarity(-1.2, 0, 5).verdict == "down" and Polarity(-0.4, 0, 40).verdict == "unclear"


def shares(windows, rate) -> dict[str, float]:
    """Share of windows with each verdict, as they are and turned over."""
    found = {way: [pulse_polarity(sign * w, rate).verdict for w in windows] for way, sign in (("up", 1), ("down", -1))}
    return {
        "right": np.mean([verdict == way for way, verdicts in found.items() for verdict in verdicts]),
        "wrong": np.mean([verdict not in (way, "unclear") for way, verdicts in found.items() for verdict in verdicts]),
    }


@pytest.mark.parametrize(("disturbance", "snr_db", "least"), [("none", 10, 0.98), ("motion", 10, 0.9)])
def test_simulated_people(disturbance, snr_db, least):
    windows = simulate(
        range(9000, 9040), 1, SimulatorConfig(window_samples=1250, disturbance=disturbance, snr_db=snr_db)
    )
    found = shares(windows.ppg[:, 0].astype(float), 125.0)
    assert found["wrong"] == 0 and found["right"] >= least


@pytest.mark.mirror
@pytest.mark.parametrize(
    ("path", "least"),
    [
        ("challenge-2015/1.0.0/training/a103l", 0.85),
        ("challenge-2015/1.0.0/training/v102s", 0.9),
        ("wfdb-samples/mixedsignals", 1.0),
        ("bidmc/1.0.0/bidmc_csv/bidmc_01_Signals.csv", 0.95),
        ("mimic4wdb/0.1.0/waves/p100/p10079700/85594648/85594648_0001", 0.8),
    ],
)
def test_real_recordings_in_windows_of_10_s(mirror, path, least):
    recording = read_ppg(mirror / path)
    n = int(10 * recording.sampling_rate)
    windows = [recording.ppg[start : start + n] for start in range(0, len(recording.ppg) - n, n)][:300]
    found = shares([w for w in windows if np.isfinite(w).all()], recording.sampling_rate)
    assert found["wrong"] == 0 and found["right"] >= least
    whole = pulse_polarity(recording.ppg, recording.sampling_rate)
    assert whole.verdict == "up" and pulse_polarity(-recording.ppg, recording.sampling_rate).verdict == "down"


@pytest.mark.mirror
def test_a_restless_patient_is_rarely_turned_over(mirror):
    """MIMIC-IV 85594648_0007: long stretches are artefact only, in which there is no pulse to have a direction."""
    recording = read_ppg(mirror / "mimic4wdb/0.1.0/waves/p100/p10079700/85594648/85594648_0007")
    n = int(60 * recording.sampling_rate)
    windows = [recording.ppg[start : start + n] for start in range(0, len(recording.ppg) - n, n)]
    windows = [w for w in windows if np.isfinite(w).mean() > 0.9]
    assert shares(windows, recording.sampling_rate)["wrong"] <= 0.02
    assert pulse_polarity(recording.ppg, recording.sampling_rate).verdict == "up"
    assert np.mean([ppg_quality(w, recording.sampling_rate) for w in windows]) < 0.8  # it is that restless
