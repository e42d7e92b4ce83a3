"""Which windows are in doubt: each rule, heart rates and rhythms that are none, and where it is written."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
import wfdb

from p2es_lib import plots
from p2es_lib.core.learned import load_method
from p2es_lib.core.paths import PRETRAINED
from p2es_lib.method.p2es import P2Es
from p2es_lib.signals.cleaning import ppg_clean
from p2es_lib.signals.r_peaks import r_peak_times
from p2es_lib.simulator import SimulatorConfig, simulate
from p2es_lib.simulator.pulse import pulse_shape, pulse_train
from p2es_lib.translation.check import DOWN, FAULTY, IRREGULAR, NOISE, RATE, UNPAIRED, doubts, irregularity, judge
from p2es_lib.translation.file import translate, translate_long

WINDOW_S, RATE_HZ = 8.192, 125.0


@pytest.fixture(scope="module")
def model():
    return load_method(PRETRAINED)


def beats_every(interval_s: float, first_s: float = 0.3) -> np.ndarray:
    return np.arange(first_s, WINDOW_S, interval_s)


def doubts_of(beats, pulses, quality=1.0, faults=0.0) -> list[str]:
    return doubts(np.asarray(beats), np.asarray(pulses), quality, faults, WINDOW_S)


def test_beats_that_follow_the_pulses_are_not_in_doubt():
    for interval_s in (60 / 30, 60 / 35, 1.0, 0.5, 60 / 195, 60 / 210, 60 / 220):
        beats = beats_every(interval_s)
        pulses = beats[beats + 0.25 < WINDOW_S] + 0.25
        assert doubts_of(beats, pulses) == [], interval_s


def test_beats_that_are_lost_added_or_late_are_in_doubt():
    beats = beats_every(0.6)
    assert doubts_of(beats[::2], beats + 0.2) == [UNPAIRED]
    assert doubts_of(np.sort(np.append(beats, beats[:-1] + 0.3)), beats + 0.2) == [UNPAIRED]
    assert doubts_of(beats_every(0.75), beats + 0.2) == [UNPAIRED]
    assert doubts_of([], beats + 0.2)[0] == UNPAIRED
    assert doubts_of(beats, beats + 0.04) == [], "a person may be drawn whose pulse is quick"
    assert doubts_of(beats[::2], beats + 0.2, quality=0.9) == [], "where the detectors may differ"
    assert doubts_of(beats[::3], beats + 0.2, quality=0.9) == [UNPAIRED]
    one_lost = np.delete(beats, 5)
    assert doubts_of(one_lost, beats + 0.2) == [], "one beat of thirteen"


def test_pulses_no_heart_makes_are_in_doubt():
    assert RATE in doubts_of(beats_every(60 / 250), beats_every(60 / 250) + 0.1)
    assert RATE in doubts_of(beats_every(4.0), beats_every(4.0) + 0.1)
    assert RATE in doubts_of(beats_every(0.8), [])


def test_faults_and_noise_are_in_doubt():
    beats = beats_every(0.8)
    assert doubts_of(beats, beats + 0.2, faults=0.2) == [FAULTY]
    assert doubts_of(beats, beats + 0.2, faults=0.05) == []
    assert doubts_of(beats, beats + 0.2, quality=0.3) == [NOISE]
    assert doubts_of(beats, beats + 0.2, quality=0.6) == [], "regular pulses may look less alike"


def test_irregular_beats_are_in_doubt_unless_their_pulses_look_alike():
    beats = 0.3 + np.cumsum([0, 0.7, 1.1, 0.5, 0.9, 0.6, 1.0, 0.55, 0.95])
    assert irregularity(beats) > 0.4
    assert doubts_of(beats, beats + 0.2, quality=0.98) == []
    assert doubts_of(beats, beats + 0.2, quality=0.7) == [IRREGULAR]
    assert irregularity(beats_every(0.8)) < 1e-9 and irregularity(np.array([1.0, 2.0])) == 1.0


def judged(ppg, ecg, recorded=None):
    clean = ppg_clean(ppg, RATE_HZ)
    return judge(0.0, ppg if recorded is None else recorded, RATE_HZ, clean, np.tile(ecg, (12, 1)), RATE_HZ)


def test_a_window_is_judged_by_what_was_recorded_and_what_came_out(make_pair):
    pair = make_pair(WINDOW_S, noise=0.02)
    good = judged(pair.ppg, pair.ecg)
    assert good.doubt == "" and good.beats == good.pulses + (good.beats > good.pulses) and good.quality > 0.9
    upside_down = judged(-pair.ppg, pair.ecg)
    assert DOWN in upside_down.doubt and NOISE in upside_down.doubt
    assert FAULTY in judged(pair.ppg, pair.ecg, np.minimum(pair.ppg, np.quantile(pair.ppg, 0.7))).doubt
    assert UNPAIRED in judged(pair.ppg, make_pair(WINDOW_S, interval_s=0.5).ecg).doubt
    assert judged(np.random.default_rng(0).standard_normal(1024), pair.ecg).doubt
    assert judged(pair.ppg, np.where(np.arange(12)[:, None] < 6, pair.ecg, np.nan)).doubt == "", "leads never learned"


def pulses_at(per_minute: float, seconds: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A PPG at 125 Hz of a heart that beats so often, a little irregularly and with noise; and its onsets, s."""
    rng = np.random.default_rng(seed)
    rr = 60 / per_minute * (1 + 0.015 * rng.standard_normal(round(seconds * per_minute / 60) + 8))
    onsets = np.cumsum(rr) - 2 * rr[0]
    shape = pulse_shape(*(np.array([value]) for value in (45.0, 8.0, per_minute)), np.zeros((1, 5)))
    t = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    ppg = pulse_train(onsets[None], np.ones((1, len(rr))), rr[None], shape, t)[0]
    return ppg / np.std(ppg) + 0.02 * rng.standard_normal(len(t)), onsets


@pytest.mark.parametrize("per_minute", [30, 35, 72, 195, 210, 220])
def test_the_rate_is_no_reason_to_fail(model, per_minute):
    """At any rate from 30 to 220 the beats are the pulses', and no window is in doubt."""
    ppg, onsets = pulses_at(per_minute, 26.0)
    ecg = translate_long(model, ppg, 60, "F", n_samples=2, sampling_rate=RATE_HZ, progress=False)
    beats = r_peak_times(ecg.central[None], RATE_HZ)[0]
    beats = beats[np.isfinite(beats)]
    inside = onsets[(onsets > 0.6) & (onsets < 25.4)]
    lag = np.median([(beats - onset)[np.abs(beats - onset + 0.15).argmin()] for onset in inside])
    assert (np.abs(inside[:, None] + lag - beats).min(axis=1) < 0.075).mean() >= 0.95
    assert len(beats) == pytest.approx(26 * per_minute / 60, abs=2.5)
    assert [window.doubt for window in ecg.windows] == [""] * len(ecg.windows) and not ecg.doubtful.any()


def test_atrial_fibrillation_is_no_reason_for_doubt():
    """Irregular pulses that look alike are in order: judged with the true ECG of simulated people."""
    windows = simulate(range(700, 940), 1, SimulatorConfig(arrhythmia=2.0))
    in_af = np.flatnonzero(windows.index["rhythm"] == "af")
    found = [judged_pair(windows, row).doubt for row in in_af]
    assert len(in_af) > 15 and np.mean([doubt == "" for doubt in found]) >= 0.95, found


def judged_pair(windows, row: int):
    ppg = np.asarray(windows.ppg)[row].ravel()
    return judge(0.0, ppg, RATE_HZ, ppg_clean(ppg, RATE_HZ), np.asarray(windows.ecg)[row], RATE_HZ)


def test_a_model_that_loses_beats_is_found_out_and_the_user_is_told(tmp_path, monkeypatch, make_pair):
    """Every second beat missing from 12 s on: in the table, the note, the header, the CSV and on the page."""
    pair, calls = make_pair(26.0, noise=0.02), []

    def every_second_beat(self, ppg, people, *, generator, n_samples=1, **options):
        starts = [int(str(name).partition("-")[0]) for name in generator.window_ids]
        ecg = []
        for start in starts:
            t = (start + np.arange(1024)) / RATE_HZ
            beats = pair.rpeaks_s if start < 12 * RATE_HZ else pair.rpeaks_s[::2]
            ecg.append(np.exp(-0.5 * ((t[:, None] - beats) / 0.012) ** 2).sum(axis=1))
        calls.append(starts)
        return torch.as_tensor(np.stack(ecg), dtype=torch.float32)[:, None, None].repeat(1, n_samples, 12, 1)

    shown, plot = [], plots.plot_translation
    monkeypatch.setattr(plots, "plot_translation", lambda *a, **k: shown.append(k) or plot(*a, **k))
    monkeypatch.setattr(P2Es, "translate", every_second_beat)
    monkeypatch.setattr("p2es_lib.translation.results.PAGE_S", 20.0)
    np.savetxt(tmp_path / "x.csv", pair.ppg)
    arguments = {"sampling_rate": 125, "model": PRETRAINED, "n_samples": 1, "progress": False}
    written = translate(tmp_path / "x.csv", out=tmp_path / "out", **arguments)
    table = pd.read_csv(written["quality"], keep_default_na=False)
    lost = table["start_s"] >= 12
    assert (table["doubt"][lost] == UNPAIRED).all() and (table["doubt"][~lost] == "").all() and lost.sum() == 2
    assert (table["beats"][lost] < 0.7 * table["pulses"][lost]).all()
    told = f"WARNING: the ECG of 2 of {len(table)} windows is in doubt ({UNPAIRED}: 2): 14.8 to 26.0 s"
    assert told in written["note"] and told in wfdb.rdheader(str(written["ecg"].with_suffix(""))).comments
    rows = pd.read_csv(written["csv"], comment="#")
    np.testing.assert_array_equal(rows["doubtful"], (rows["time_s"] > 14.84).astype(int))
    assert shown[0]["record"].endswith("IN DOUBT") and UNPAIRED in shown[0]["quality"]
    np.testing.assert_array_equal(shown[0]["doubtful"], (rows["time_s"] > 14.84)[: 20 * 125])
