"""Quality of windows: each figure falls for its own fault, in its own signal and window; limits are laid on later."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from fake_source import lead_noise, stretch_of

from p2es_lib.data.preparation import REASONS, clean_stretch, judge_windows, reject
from p2es_lib.data.sources.contract import Reading, Stretch
from p2es_lib.signals.cleaning import FAULTS

RATE, LENGTH = 125.0, 1024
SPOILT = 3  # number of the window with the fault, of 7
FIRST = SPOILT * LENGTH


def judged(stretch, n_windows: int = 7) -> pd.DataFrame:
    recording = clean_stretch(stretch, Reading("s", 60.0, "F", iter(())), "r", RATE)
    return judge_windows(recording, np.arange(n_windows) * LENGTH, LENGTH)


def spoil(x: np.ndarray, fault: str) -> np.ndarray:
    """``x`` at 125 Hz with a fault inside one window, more than 0.5 s from its ends."""
    x, middle = x.copy(), slice(FIRST + 300, FIRST + 500)
    if fault == "gap":
        x[middle] = np.nan
    elif fault == "flat":
        x[middle] = x[middle.start]
    elif fault == "clipped":  # a gain that rises and falls again, into the rail
        gain = 1 + 6 * np.exp(-0.5 * ((np.arange(len(x)) - middle.start - 100) / 60) ** 2)
        x = np.minimum(x.min() + gain * (x - x.min()), x.max())
    elif fault == "jump":
        x[middle] += 4 * np.ptp(x)
    return x


@pytest.fixture
def pair(make_pair):
    return make_pair(60, RATE, noise=0.01)


def stretch_with(pair, ppg=None, ecg=None, gains=(0.6, 1.0)) -> Stretch:
    ecg = pair.ecg if ecg is None else ecg
    leads = {lead: (gain * ecg, RATE) for lead, gain in zip(("I", "II"), gains)}
    return Stretch(0.0, (pair.ppg if ppg is None else ppg, RATE), leads)


# ---------------------------------------------------------------------------------------------------------- the figures
def test_a_clean_recording_is_accepted_as_a_whole(pair):
    table = judged(stretch_of(pair))
    assert (reject(table, 0.7) == "").all() and table["quality"].min() > 0.9
    assert list(table["start_s"]) == [number * LENGTH / RATE for number in range(7)]
    assert not table[[f"{signal}_{kind}" for signal in ("ppg", "ecg") for kind in (*FAULTS, "faults")]].any(axis=None)
    assert (table["quality"] == table[["quality_ppg", "quality_ecg", "quality_pairing"]].min(axis=1)).all()
    assert (table["lead_residual_mv"] < 1e-9).all()


def test_beats_of_a_window_are_those_of_the_recording(pair):
    table = judged(stretch_of(pair))
    assert table["heart_rate"].to_numpy() == pytest.approx(75, abs=3)
    assert table["pat_ms"].to_numpy() == pytest.approx(255, abs=15) and table["pat_ms"].std() < 8
    for row in table.itertuples():
        found = row.start_s + np.array([float(time) for time in row.rpeaks_s.split()])
        after_s = pair.rpeaks_s - row.start_s
        true = pair.rpeaks_s[(after_s > 0.02) & (after_s < LENGTH / RATE - 0.02)]
        assert abs(len(found) - len(true)) <= 1 and np.abs(found[:, None] - true).min(axis=0).max() < 0.02


@pytest.mark.parametrize("signal", ["ppg", "ecg"])
@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_has_a_column_of_its_own(pair, signal, fault):
    spoilt = {signal: spoil(getattr(pair, signal), fault)}
    table = judged(stretch_with(pair, **spoilt))
    other = {"ppg": "ecg", "ecg": "ppg"}[signal]
    shares = table[f"{signal}_{fault}"].to_numpy()
    assert shares[SPOILT] > 0.015 and not np.delete(shares, SPOILT).any()
    assert not table[[f"{other}_{kind}" for kind in (*FAULTS, "faults")]].any(axis=None)
    if fault in ("gap", "flat"):
        assert shares[SPOILT] == pytest.approx(200 / LENGTH, abs=0.002)
        assert not table.loc[SPOILT, [f"{signal}_{kind}" for kind in FAULTS if kind != fault]].any()
    kinds, any_kind = table[[f"{signal}_{kind}" for kind in FAULTS]], table[f"{signal}_faults"]
    assert (any_kind >= kinds.max(axis=1)).all() and (any_kind <= kinds.sum(axis=1)).all()
    assert reject(table, 0.0)[SPOILT] == REASONS[("ppg", "ecg").index(signal)]
    assert (reject(table, 0.0).drop(SPOILT) == "").all()


def test_a_fault_of_one_lead_is_a_fault_of_the_window(pair):
    stretch = stretch_with(pair)
    leads = stretch.leads | {"V3": (spoil(pair.ecg, "flat"), RATE)}
    table = judged(Stretch(0.0, stretch.ppg, leads))
    assert table["ecg_flat"][SPOILT] > 0.15 and not table["ecg_flat"].drop(SPOILT).any()


def test_limb_leads_that_contradict_each_other_are_rejected(pair):
    leads = {"I": (0.6 * pair.ecg, RATE), "II": (pair.ecg, RATE), "III": (0.4 * pair.ecg, RATE)}
    assert (reject(judged(Stretch(0.0, (pair.ppg, RATE), leads)), 0.7) == "").all()
    leads["III"] = (np.where(np.arange(len(pair.ecg)) // LENGTH == SPOILT, 0.9, 0.4) * pair.ecg, RATE)
    table = judged(Stretch(0.0, (pair.ppg, RATE), leads))
    assert table["lead_residual_mv"][SPOILT] > 0.05 and table["lead_residual_mv"].drop([2, 3, 4]).max() < 0.02
    assert reject(table, 0.7)[SPOILT] == REASONS[2]
    assert (reject(table, 0.7).drop([2, 3, 4]) == "").all()


def test_pulses_of_somebody_else_do_not_pair(pair, make_pair):
    stranger = make_pair(60, RATE, 1.03, noise=0.01, seed=5)
    table = judged(stretch_with(pair, ppg=stranger.ppg))
    assert table[["quality_ppg", "quality_ecg"]].min(axis=None) > 0.9
    assert table["quality_pairing"].max() < 0.7 and (reject(table, 0.7) == REASONS[5]).all()


@pytest.mark.parametrize("signal, size", [("ppg", 0.6), ("ecg", 0.5)])
def test_noise_lowers_the_agreement_of_its_own_signal(pair, signal, size):
    inside = np.arange(len(pair.ecg)) // LENGTH == SPOILT
    noise = np.convolve(np.random.default_rng(0).standard_normal(len(pair.ecg)), np.ones(9) / 3, "same")
    clean, other = judged(stretch_of(pair)), {"ppg": "ecg", "ecg": "ppg"}[signal]
    noisy = judged(stretch_with(pair, **{signal: getattr(pair, signal) + size * noise * inside}))
    of_own, of_other = f"quality_{signal}", f"quality_{other}"
    assert noisy[of_own][SPOILT] < clean[of_own][SPOILT] - 0.15
    assert noisy[of_other].to_numpy() == pytest.approx(clean[of_other].to_numpy(), abs=1e-9)
    assert noisy[of_own][[0, 1, 5, 6]].to_numpy() == pytest.approx(clean[of_own][[0, 1, 5, 6]].to_numpy(), abs=0.02)
    assert reject(noisy, 0.85)[SPOILT] == REASONS[3 + ("ppg", "ecg").index(signal)]


def test_quality_falls_with_noise(pair):
    levels = [judged(stretch_with(pair, ecg=lead_noise(pair, sd)))["quality_ecg"].mean() for sd in (0.0, 0.1, 0.3)]
    assert levels[0] > levels[1] > levels[2]


def test_an_inverted_lead_is_as_good(pair):
    upright, inverted = judged(stretch_of(pair)), judged(stretch_of(pair, (("aVR", -0.8),)))
    assert (reject(inverted, 0.7) == "").all()
    assert inverted["pat_ms"].to_numpy() == pytest.approx(upright["pat_ms"].to_numpy(), abs=12)


def test_signals_without_beats_are_rejected(pair, make_pair):
    for number, flat in enumerate(({"ppg": np.full(len(pair.ppg), 3.7)}, {"ecg": 0 * pair.ecg})):
        assert (reject(judged(stretch_with(pair, **flat)), 0.0) == REASONS[number]).all()
    noise = np.convolve(np.random.default_rng(0).standard_normal(len(pair.ecg)), np.hanning(27), "same")
    for noisy in ({"ppg": noise}, {"ecg": noise}):
        table = judged(stretch_with(pair, **noisy))
        assert not table[["ppg_faults", "ecg_faults"]].any(axis=None)
        assert (reject(table, 0.7) == "").sum() <= 1  # a window of noise may pair by chance
    noise = np.random.default_rng(0).standard_normal(125 * 420)
    long = make_pair(420, RATE, noise=0.01)
    table = judged(stretch_with(long, ppg=noise), 50)  # band-passed by the preparation, as any PPG
    assert (table["quality_ppg"] < 0.7).all() and (table["quality_ecg"] > 0.9).all()


# ------------------------------------------------------------------------------------------------------------- the gate
def figures(**changes) -> pd.DataFrame:
    clean = {"ppg_faults": 0.0, "ecg_faults": 0.0, "lead_residual_mv": 0.0}
    clean |= {"quality_ppg": 0.9, "quality_ecg": 0.9, "quality_pairing": 0.9}
    return pd.DataFrame([clean | changes], index=[17])


def test_reasons_are_asked_in_their_order():
    bad = [("ppg_faults", 0.02), ("ecg_faults", 0.02), ("lead_residual_mv", 0.03)]
    bad += [("quality_ppg", 0.5), ("quality_ecg", 0.5), ("quality_pairing", 0.5)]
    for number, (column, value) in enumerate(bad):
        assert reject(figures(**{column: value}), 0.7).to_dict() == {17: REASONS[number]}
        assert reject(figures(**dict(bad[number:])), 0.7)[17] == REASONS[number]
    assert reject(figures(), 0.7)[17] == "" and reject(figures(), 0.9)[17] == "" != reject(figures(), 0.91)[17]
    assert reject(figures(ppg_faults=0.01, ecg_faults=0.01, lead_residual_mv=0.02), 0.0)[17] == ""


def test_a_stricter_limit_rejects_more_and_never_less(pair):
    table = pd.concat([judged(stretch_with(pair, ecg=lead_noise(pair, sd))) for sd in (0.02, 0.1, 0.2, 0.4)])
    kept = [set(np.flatnonzero(reject(table, limit) == "")) for limit in (0.0, 0.5, 0.7, 0.9, 1.0)]
    assert all(more >= fewer for more, fewer in zip(kept, kept[1:]))
    assert len(kept[0]) == 28 and len(kept[1]) > len(kept[3]) > 0 and not kept[4]
