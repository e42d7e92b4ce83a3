"""A model from simulation on real recordings: lag and scores against closed forms, tables against plain NumPy."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from synthetic import synthetic_windows, tiny_config
from toy_workflow import dry_runs

from p2es_lib import plots
from p2es_lib.companion.notebooks import executed_notebook, run_notebook
from p2es_lib.core import paths
from p2es_lib.core.config import get_config
from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import expand_leads
from p2es_lib.core.paths import PRETRAINED
from p2es_lib.data.windows import WindowSet
from p2es_lib.data.windows.store import write_windows
from p2es_lib.experiments import sim_to_real
from p2es_lib.experiments.sim_to_real import (
    DETECTOR,
    MAX_WINDOWS_PER_RECORD,
    MODEL,
    TEMPLATE,
    beat_scores,
    common_spans,
    joint_beat_lags_s,
    lags_of_records,
    sim_to_real_scores,
    sim_to_real_table,
    simulated_model,
    usable_windows,
)
from p2es_lib.method.p2es import P2Es
from p2es_lib.plots.results import MOST_RECORDS
from p2es_lib.signals.r_peaks import r_peak_times
from p2es_lib.training.loop import train

CHECKOUT = Path(__file__).resolve().parents[1]
WINDOW_S, RATE, N_SAMPLES = 8.192, 125.0, 1024
SCORES = ("r_peak_f1_lag", "heart_rate_error", "pearson_lag")


def beat_lag_s(predicted, true, window_s=np.inf):
    """Lag of one method alone."""
    return float(joint_beat_lags_s([predicted], true, window_s)[0])


def irregular(rng, n: int = 9, first_s: float = 0.4) -> np.ndarray:
    """Beats at intervals that no shift by a beat maps onto each other."""
    return first_s + np.cumsum(rng.uniform(0.6, 1.0, n))


def index_of(beats: list[np.ndarray], records: list[str], **columns) -> pd.DataFrame:
    """Index as that of a prepared real data set, all windows clean; ``columns`` replaces some."""
    known = {
        "subject": records, "record": records, "source": "bidmc", "age": 60.0, "sex": "F", "split": "test",
        "start_s": np.arange(len(records)) * WINDOW_S, "split_kind": "subject", "quality": 0.95, "rhythm": "",
        "morphology": "", "ppg_origin": "measured",
        "rpeaks_s": [" ".join(f"{beat:.3f}" for beat in row) for row in beats],
    }  # fmt: skip
    return pd.DataFrame(known | columns)


def bare_windows(beats: list[np.ndarray], records: list[str], window_samples: int = 128, **columns) -> WindowSet:
    """Windows of which only the index matters."""
    n = len(records)
    zeros = np.zeros((n, 13, window_samples), np.float32)
    return WindowSet(zeros[:, :1], zeros[:, 1:], np.full((n, 12), 2, np.uint8), index_of(beats, records, **columns))


def real_windows(
    make_pair, delays_s: dict[str, float], n_each: int = 3, named: dict[str, bool] | None = None
) -> WindowSet:
    """Made-up recordings, each with its own delay from R peak to pulse; a record that is not ``named`` has no lead."""
    ppg, ecg, mask, beats, records = [], [], [], [], []
    for seed, (record, delay_s) in enumerate(delays_s.items()):
        pair = make_pair(n_each * WINDOW_S, RATE, delay_s=delay_s, variability=0.15, seed=seed)
        has_leads = named is None or named[record]
        for number in range(n_each):
            part = slice(number * N_SAMPLES, (number + 1) * N_SAMPLES)
            ppg.append((pair.ppg[part] - pair.ppg[part].mean()) / pair.ppg[part].std())
            ecg.append(expand_leads(np.linspace(0.3, 1.2, 8)[:, None] * pair.ecg[part]) * has_leads)
            within = pair.rpeaks_s - number * WINDOW_S
            beats.append(within[(within >= 0) & (within < WINDOW_S)])
            mask.append([2 * has_leads] * 12)
            records.append(record)
    arrays = (np.array(ppg, np.float32)[:, None], np.array(ecg, np.float32), np.array(mask, np.uint8))
    return WindowSet(*arrays, index_of(beats, records))


class Oracle:
    """A model that draws the true ECG, late by so many samples, and a little different in each sample."""

    def __init__(self, windows: WindowSet, late: int):
        self.ecg = {row.tobytes(): np.roll(ecg, late, axis=-1) for row, ecg in zip(windows.ppg, windows.ecg)}
        self.calls = []

    def translate(self, ppg, demographics, *, n_samples, generator):
        assert len(ppg) == len(demographics)
        self.calls.append((len(ppg), n_samples, generator))
        ecg = np.stack([self.ecg[row.tobytes()] for row in ppg])
        offsets = 0.05 * (np.arange(n_samples) - (n_samples - 1) / 2)
        return torch.tensor(ecg[:, None] + offsets[:, None, None], dtype=torch.float32)


def scores_of(beats: list[np.ndarray], true: list[np.ndarray], records: list[str], **columns) -> pd.DataFrame:
    """Scores of one method that is alone."""
    windows = bare_windows(true, records, **columns)
    lags = lags_of_records({MODEL: beats}, windows, WINDOW_S)[MODEL]
    return beat_scores(beats, lags, common_spans([lags], WINDOW_S), windows)


# ---------------------------------------------------------------------------------------------------------------- lag
@pytest.mark.parametrize("delay_s", [-0.12, -0.032, 0.0, 0.012, 0.252, 0.7])
def test_a_constant_delay_is_found(delay_s):
    rng = np.random.default_rng(1)
    true = [irregular(rng) for _ in range(4)]
    assert beat_lag_s([row + delay_s for row in true], true) == pytest.approx(delay_s, abs=0.004)


def test_missing_extra_and_jittered_beats_do_not_move_the_lag():
    rng = np.random.default_rng(2)
    true = [irregular(rng) for _ in range(10)]
    predicted = []
    for row in true:
        kept = row[rng.random(len(row)) < 0.7] + 0.3 + rng.uniform(-0.02, 0.02)
        predicted.append(np.sort(np.concatenate([kept, rng.uniform(0, WINDOW_S, 2)])))
    predicted[3], true[5] = np.zeros(0), np.zeros(0)  # a window without a beat on either side
    lag = beat_lag_s(predicted, true, WINDOW_S)
    assert lag == pytest.approx(0.3, abs=0.012)
    f1 = scores_of(predicted, true, ["a"] * 10)["r_peak_f1_lag"]
    assert f1.drop([3, 5]).mean() > 0.65 and (f1[[3, 5]] == 0).all()


def test_the_lag_is_where_differences_are_densest():
    rng = np.random.default_rng(3)
    true = [np.sort(rng.uniform(0, WINDOW_S, 8)) for _ in range(5)]
    predicted = [np.sort(rng.uniform(0, WINDOW_S, 8)) for _ in range(5)]

    def density(lag):
        pairs = [max(0, 1 - abs(x - y - lag) / 0.05) for p, t in zip(predicted, true) for x in p for y in t]
        return sum(pairs) / (WINDOW_S - abs(lag))

    found = beat_lag_s(predicted, true, WINDOW_S)
    assert -0.2 <= found <= 0.8
    assert density(found) >= max(density(lag) for lag in np.arange(-0.2, 0.801, 0.004)) - 1e-9


def test_of_equally_good_lags_the_one_nearest_zero():
    assert beat_lag_s([np.array([1.2])], [np.array([1.0])]) == pytest.approx(0.2, abs=1e-9)
    # Two pairs 40 ms apart: any lag between them is as good.
    assert beat_lag_s([np.array([1.16]), np.array([1.2])], [np.array([1.0])] * 2) == pytest.approx(0.16, abs=1e-9)
    # A regular rhythm between two beats: each lag meets one beat.
    assert beat_lag_s([np.array([1.3])], [np.array([1.0, 1.48])]) == pytest.approx(-0.18, abs=0.002)
    assert beat_lag_s([np.array([1.3])], [np.array([1.0, 1.8])]) == pytest.approx(0.3, abs=1e-9), (
        "-0.5 s would be hastening"
    )


@pytest.mark.parametrize("jitter_s", [0.003, 0.03])
def test_a_nearly_regular_rhythm_keeps_its_own_lag(jitter_s):
    """Pulses half a second late at 100 beats per minute: the next beat is 0.1 s after each, and seen more often."""
    rng = np.random.default_rng(5)
    true, late = [], []
    for _ in range(60):
        beats = np.cumsum(0.6 + jitter_s * rng.uniform(-1, 1, 20)) - 2 - rng.uniform(0, 0.6)  # also before the window
        true.append(beats[(beats > 0) & (beats < WINDOW_S)])
        late.append((beats + 0.5)[(beats + 0.5 > 0) & (beats + 0.5 < WINDOW_S)])
    assert beat_lag_s(late, true, WINDOW_S) == pytest.approx(0.5, abs=1e-9)


def nearly_regular(rng, n: int = 40, interval_s: float = 0.472, jitter_s: float = 0.015) -> list[np.ndarray]:
    """Beats of n windows, numbered from before each window to after it; the intervals vary, but by little."""
    starts = rng.uniform(-1.5, -1.0, n)
    return [start + np.cumsum(interval_s + jitter_s * rng.uniform(-1, 1, 26)) for start in starts]


def within_window(beats: list[np.ndarray], late_s: float = 0.0) -> list[np.ndarray]:
    return [row[(row + late_s > 0) & (row + late_s < WINDOW_S)] + late_s for row in beats]


def test_a_method_that_fits_the_beat_before_does_not_slip_from_the_others():
    """It puts each beat a median interval after the one before: alone, that lag fits best, but its PPG was the same."""
    rng = np.random.default_rng(6)
    beats = nearly_regular(rng)
    true, late = within_window(beats), within_window(beats, 0.792)
    template, detector = within_window(beats, 0.312), within_window(beats, 0.488)
    assert beat_lag_s(late, true, WINDOW_S) == pytest.approx(0.792, abs=0.004)
    for order in ([0, 1, 2], [2, 0, 1]):
        methods = [late, template, detector]
        lags = joint_beat_lags_s([methods[k] for k in order], true, WINDOW_S)
        np.testing.assert_allclose(lags, np.array([0.32, 0.312, 0.488])[order], atol=0.012)
    windows = bare_windows(true, ["a"] * len(true))
    lags = lags_of_records({MODEL: late, TEMPLATE: template, DETECTOR: detector}, windows, WINDOW_S)
    assert list(lags) == [MODEL, TEMPLATE, DETECTOR] and all(len(set(lag)) == 1 for lag in lags.values())
    np.testing.assert_allclose([lag[0] for lag in lags.values()], [0.32, 0.312, 0.488], atol=0.012)


def test_lags_of_more_than_a_beat_are_found_where_all_methods_have_them():
    beats = nearly_regular(np.random.default_rng(7), jitter_s=0.03)
    delays = np.array([0.55, 0.54, 0.72])
    lags = joint_beat_lags_s([within_window(beats, delay) for delay in delays], within_window(beats), WINDOW_S)
    np.testing.assert_allclose(lags, delays, atol=0.004)


def test_joint_lags_are_the_best_of_all_that_lie_within_half_a_beat():
    """Against a search over all pairs of lags."""
    rng = np.random.default_rng(8)
    true = [np.sort(rng.uniform(0, WINDOW_S, 12)) for _ in range(3)]
    methods = [[np.sort(rng.uniform(0, WINDOW_S, 12)) for _ in range(3)] for _ in range(2)]
    grid = 0.004 * np.arange(-50, 201)

    def density(predicted):
        differences = np.concatenate([np.subtract.outer(p, t).ravel() for p, t in zip(predicted, true)])
        return np.array(
            [np.maximum(1 - np.abs(differences - lag) / 0.05, 0).sum() / (1 - abs(lag) / WINDOW_S) for lag in grid]
        )

    half = np.median(np.concatenate([np.diff(row) for row in true])) / 2
    total = np.add.outer(*map(density, methods))
    total[np.abs(np.subtract.outer(grid, grid)) >= half] = -1
    best = np.unravel_index(total.argmax(), total.shape)
    alone = [beat_lag_s(method, true, WINDOW_S) for method in methods]
    assert abs(alone[0] - alone[1]) >= half, "else the bound is not tried"
    np.testing.assert_allclose(joint_beat_lags_s(methods, true, WINDOW_S), grid[list(best)], atol=1e-9)


def test_of_equally_good_joint_lags_those_nearest_zero():
    true, found = [np.array([1.0, 1.48])], [np.array([1.3])]
    # Each is as well 0.18 s early for the second beat as 0.3 s late for the first.
    np.testing.assert_allclose(joint_beat_lags_s([found, found], true), [-0.18, -0.18], atol=0.002)
    # Without beats: the lag nearest zero within half a beat (0.24 s) of the other's.
    nothing = [np.zeros(0)]
    assert joint_beat_lags_s([[np.array([1.4])], nothing], [np.array([1.0, 1.8])])[1] == pytest.approx(0.004, abs=1e-9)
    assert list(joint_beat_lags_s([nothing, nothing], true)) == [0, 0]


def test_no_beats_no_lag():
    nothing = np.zeros(0)
    assert beat_lag_s([], []) == 0 and beat_lag_s([nothing], [nothing]) == 0
    assert beat_lag_s([nothing], [np.array([1.0])]) == 0 and beat_lag_s([np.array([1.0])], [nothing]) == 0
    assert beat_lag_s([np.array([3.0])], [np.array([1.0])]) == 0, "2 s is no delay of a monitor"


# ------------------------------------------------------------------------------------------------------------- scores
def test_beat_scores_in_closed_form():
    true = np.array([1.0, 2.0, 2.8, 3.9, 4.7, 6.0])
    late = true + 0.3
    beats = [late, np.delete(late, 2), np.sort([*late, 5.65]), late[:1], np.zeros(0)]
    table = scores_of(beats, [true] * 5, ["a"] * 5)
    # All; one of six missed; one too many; one of six found; none.
    np.testing.assert_allclose(table["r_peak_f1_lag"], [1, 10 / 11, 12 / 13, 2 / 7, 0])
    rate = 60 * 5 / 5.0
    error = [0, rate - 60 * 4 / 5.0, 60 * 6 / 5.0 - rate, np.nan, np.nan]
    np.testing.assert_allclose(table["heart_rate_error"], error, atol=1e-9)
    np.testing.assert_allclose(table["lag_ms"], 300, atol=4)
    assert set(table["record"]) == {"bidmc/a"}


def test_one_lag_per_record_and_none_per_window():
    rng = np.random.default_rng(4)
    true = [irregular(rng) for _ in range(6)]
    # Record a is late, record b of the same name in another source early; the last window of b goes its own way.
    delays = np.array([0.2, 0.2, 0.2, -0.16, -0.16, 0.25])
    table = scores_of([row + delay for row, delay in zip(true, delays)], true, ["a"] * 6, source=["x"] * 3 + ["y"] * 3)
    np.testing.assert_allclose(table["lag_ms"], [200] * 3 + [-160] * 3, atol=1e-6)
    assert (table["r_peak_f1_lag"][:5] == 1).all() and table["r_peak_f1_lag"][5] < 0.5
    assert list(table["record"]) == ["x/a"] * 3 + ["y/a"] * 3


def test_all_methods_are_asked_for_the_same_beats():
    """The last beat's pulse comes after the window: who needs the pulse cannot find it, and it counts for nobody."""
    true, window_s = [np.array([1.0, 2.0, 3.0, 3.8])], 4.0
    windows = bare_windows(true, ["a"])
    lags = [np.array([0.0]), np.array([0.4])]
    spans = common_spans(lags, window_s)
    np.testing.assert_allclose(spans, [[0.0, 3.6]])
    for beats, lag in ((true[0], lags[0]), (true[0][:3], lags[0]), (true[0][:3] + 0.4, lags[1])):
        assert beat_scores([beats], lag, spans, windows)["r_peak_f1_lag"][0] == 1
    assert beat_scores([true[0][1:3]], lags[0], spans, windows)["r_peak_f1_lag"][0] == pytest.approx(4 / 5)
    np.testing.assert_allclose(common_spans([np.array([-0.1]), np.array([0.0])], window_s), [[0.1, 4.0]])


# ------------------------------------------------------------------------------------------------------------ windows
def test_only_clean_windows_with_measured_ppg_and_beats(home):
    beats = [np.array([1.0, 2.0, 3.0])] * 6
    beats[4] = np.array([1.0])
    columns = {
        "quality": [0.9, 0.8999, 0.99, 0.99, 0.99, 0.99],
        "ppg_origin": ["measured"] * 3 + ["simulated"] + ["measured"] * 2,
        "split": ["train", "test", "validation", "test", "test", "test"],
    }
    write_windows(
        paths.windows_dir("bidmc", "smoke"), bare_windows(beats, ["b", "b", "a", "a", "a", "b"], **columns), {}
    )
    found = usable_windows(get_config("smoke", "bidmc")).index
    assert list(zip(found["record"], found["quality"])) == [("a", 0.99), ("b", 0.9), ("b", 0.99)]


@pytest.mark.parametrize("n", [1, 99, 100, 101, 150, 333])
def test_so_many_windows_of_each_record_evenly_over_its_time(home, n):
    records = ["long", "short"] * 7 + ["long"] * max(0, n - 7)  # they need not lie side by side
    write_windows(paths.windows_dir("bidmc", "smoke"), bare_windows([np.array([1.0, 2.0])] * len(records), records), {})
    windows = usable_windows(get_config("smoke", "bidmc"))
    count = windows.index["record"].value_counts()
    available = records.count("long")
    assert count["short"] == 7 and count["long"] == min(MAX_WINDOWS_PER_RECORD, available)
    place = {start: k for k, start in enumerate(np.flatnonzero(np.array(records) == "long") * WINDOW_S)}
    chosen = [place[start] for start in windows.index.loc[windows.index["record"] == "long", "start_s"]]
    assert chosen[0] == 0 and chosen[-1] == available - 1
    steps = np.diff(chosen)
    assert steps.min() >= 1 and steps.max() - steps.min() <= 1


@pytest.mark.parametrize("columns", [{"ppg_origin": "simulated"}, {"quality": 0.5}, {"rpeaks_s": ""}])
def test_nothing_to_carry_over_to(home, columns):
    write_windows(
        paths.windows_dir("bidmc", "smoke"), bare_windows([np.array([1.0, 2.0])] * 2, ["a", "b"], **columns), {}
    )
    with pytest.raises(InputError, match="bidmc: no clean window with a measured PPG"):
        usable_windows(get_config("smoke", "bidmc"))


def test_the_simulated_cohort_is_no_real_data_set(home):
    write_windows(paths.windows_dir("simulated", "smoke"), synthetic_windows(), {})
    with pytest.raises(InputError, match="simulated: no clean window"):
        usable_windows(get_config("smoke"))


def test_what_is_missing_is_named_with_its_command(home):
    with pytest.raises(InputError, match="safetensors.*make reproduce.*PROFILE=full"):
        simulated_model("full")
    assert simulated_model("quick").config.dataset == "simulated"  # comes with the package
    with pytest.raises(InputError, match="01_data --dataset bidmc"):
        usable_windows(get_config("smoke", "bidmc"))


# ---------------------------------------------------------------------------------------------------- all three methods
@pytest.fixture
def transferred(make_pair, monkeypatch):
    """``transferred(windows, late)`` scores a model that draws the truth, so many samples late."""

    def scores(windows: WindowSet, late: int) -> tuple[pd.DataFrame, Oracle]:
        model = Oracle(windows, late)
        monkeypatch.setattr(sim_to_real, "simulated_model", lambda profile: model)
        monkeypatch.setattr(sim_to_real, "usable_windows", lambda config: windows)
        monkeypatch.setattr(
            sim_to_real, "simulated_windows", lambda config: synthetic_windows(window_samples=N_SAMPLES)
        )
        return sim_to_real_scores(get_config("smoke", "bidmc"), seed=5, progress=False), model

    return scores


def test_a_model_that_draws_the_truth_late_loses_nothing(make_pair, transferred, monkeypatch):
    monkeypatch.setattr(sim_to_real, "_CHUNK", 4)
    windows = real_windows(make_pair, {"a": 0.25, "b": 0.45})
    scores, model = transferred(windows, late=50)  # 0.4 s
    assert list(scores.columns) == [*SCORES[:2], "lag_ms", "record", "pearson_lag", "subject", "method"]
    assert list(scores["method"].unique()) == [MODEL, TEMPLATE, DETECTOR]
    assert (scores.groupby("method").size() == len(windows)).all()
    by = {method: part.reset_index(drop=True) for method, part in scores.groupby("method")}
    ours = by[MODEL]
    # The peaks at the seam of the roll differ; all others are found, and the waveform is the true one.
    assert (ours["r_peak_f1_lag"] > 0.85).all() and ours["r_peak_f1_lag"].mean() > 0.95
    np.testing.assert_allclose(ours["lag_ms"], 400, atol=15)
    assert (ours["pearson_lag"] > 0.98).all()
    assert list(ours["record"]) == ["bidmc/a"] * 3 + ["bidmc/b"] * 3 and list(ours["subject"]) == ["a"] * 3 + ["b"] * 3
    assert model.calls == [(4, 4, 5), (2, 4, 5)], "as many samples as the profile says, a few windows at a time"
    # The detector's lag is the delay of the pulse, each record's own.
    detector = by[DETECTOR]
    assert detector["pearson_lag"].isna().all() and (detector["r_peak_f1_lag"] > 0.9).all()
    assert detector["lag_ms"][3] - detector["lag_ms"][0] == pytest.approx(200, abs=15)
    assert by[TEMPLATE]["pearson_lag"].notna().all() and (by[TEMPLATE]["r_peak_f1_lag"] > 0.8).all()


def test_model_and_template_of_quick_know_the_same_people_those_of_wide(make_pair, monkeypatch):
    windows, asked = real_windows(make_pair, {"a": 0.25}), []
    monkeypatch.setattr(sim_to_real, "simulated_model_folder", lambda profile: PRETRAINED)
    monkeypatch.setattr(sim_to_real, "load_method", lambda folder: Oracle(windows, 0))
    monkeypatch.setattr(sim_to_real, "usable_windows", lambda config: windows)
    monkeypatch.setattr(
        sim_to_real,
        "simulated_windows",
        lambda config: asked.append(config) or synthetic_windows(window_samples=N_SAMPLES),
    )
    sim_to_real_scores(get_config("quick", "bidmc"), progress=False)
    trained_on = P2Es.from_pretrained(PRETRAINED).config
    assert [(config.dataset, config.data) for config in asked] == [("simulated", trained_on.data)]


def test_chunks_change_nothing(make_pair, transferred, monkeypatch):
    windows = real_windows(make_pair, {"a": 0.25})
    tables = []
    for chunk in (1, 64):
        monkeypatch.setattr(sim_to_real, "_CHUNK", chunk)
        tables.append(transferred(windows, late=3)[0])
    pd.testing.assert_frame_equal(*tables)


def test_beats_are_those_of_the_mean_of_the_samples(make_pair, transferred):
    windows = real_windows(make_pair, {"a": 0.25}, n_each=2)
    scores = transferred(windows, late=10)[0]
    ours = scores.query("method == @MODEL")
    times = r_peak_times(np.roll(windows.ecg, 10, axis=-1), RATE)
    found = [row[np.isfinite(row)] for row in times]
    lags = lags_of_records({MODEL: found}, windows, WINDOW_S)[MODEL]
    spans = common_spans([1e-3 * part["lag_ms"].to_numpy() for _, part in scores.groupby("method")], WINDOW_S)
    np.testing.assert_allclose(ours["lag_ms"], 1e3 * lags)
    np.testing.assert_allclose(ours["r_peak_f1_lag"], beat_scores(found, lags, spans, windows)["r_peak_f1_lag"])


def test_correlation_is_that_of_the_beats_lag_and_not_of_a_neighbouring_beat():
    """Beats of alternating height, drawn the wrong way round: a slip by a beat would fit better, and is no merit."""
    rate, lag, interval = 125.0, 36, 60  # samples
    time = np.arange(N_SAMPLES)
    beats = np.arange(20, N_SAMPLES, interval)
    heights = np.where(np.arange(len(beats)) % 2, 1.0, 0.3)

    def drawn(at, height):
        return np.ones((12, 1)) * (height[:, None] * np.exp(-0.5 * ((time - at[:, None]) / 2.0) ** 2)).sum(axis=0)

    truth, late = drawn(beats, heights), drawn(beats + lag, 1.3 - heights)
    windows = bare_windows([beats / rate] * 2, ["a", "a"], window_samples=N_SAMPLES)
    windows.ecg[:] = truth
    ecg = np.array([late, late])[:, None]
    overlap = np.corrcoef(late[0, lag:], truth[0, : N_SAMPLES - lag])[0, 1]
    slipped = np.corrcoef(late[0, lag + interval :], truth[0, : N_SAMPLES - lag - interval])[0, 1]
    assert slipped > overlap + 0.2
    for error in (-3, 0, 5):  # beats give the lag to within their tolerance, 6 samples
        found = sim_to_real._pearson(ecg, np.full(2, (lag + error) / rate), windows, rate)
        np.testing.assert_allclose(found, overlap, atol=1e-3)


def test_windows_without_a_named_lead_have_no_correlation(make_pair, transferred):
    windows = real_windows(make_pair, {"a": 0.25, "b": 0.25}, n_each=2, named={"a": False, "b": True})
    # What a recording without named leads holds is an ECG that only tells the beats: the model may draw anything.
    scores = transferred(windows, late=0)[0].query("method == @MODEL")
    assert scores["pearson_lag"].isna().tolist() == [True, True, False, False]
    assert (scores["pearson_lag"][2:] > 0.99).all()
    table = sim_to_real_table(scores, 20).set_index("record")
    assert np.isnan(table.loc["bidmc/a", "pearson_lag"]) and np.isnan(table.loc["bidmc/a", "pearson_lag_lower"])
    assert table.loc["bidmc/b", "pearson_lag"] > 0.99


# -------------------------------------------------------------------------------------------------------------- table
def window_scores(values: dict[str, dict[str, np.ndarray]]) -> pd.DataFrame:
    """Scores by record and method, as windows have them."""
    rows = []
    for record, methods in values.items():
        for method, value in methods.items():
            part = {"record": record, "subject": record[-1], "method": method, "lag_ms": 12.0, "pearson_lag": np.nan}
            rows.append(pd.DataFrame(part | {"r_peak_f1_lag": value, "heart_rate_error": 10 * value}))
    return pd.concat(rows, ignore_index=True)


def test_averages_and_intervals_are_those_of_plain_numpy():
    rng = np.random.default_rng(5)
    values = {f"r/{k}": {method: rng.uniform(0.5, 1, 12) for method in (MODEL, DETECTOR)} for k in range(3)}
    values["r/1"][MODEL][[0, 4]] = np.nan
    table = sim_to_real_table(window_scores(values), n_bootstrap=300, seed=7)
    assert len(table) == 6 and (table["windows"] == 12).all() and (table["lag_ms"] == 12).all()
    for row in table.itertuples():
        value = values[row.record][row.method]
        draws = np.random.default_rng(7).multinomial(12, np.full(12, 1 / 12), size=300)
        means = [np.nanmean(np.repeat(value, counts)) for counts in draws]
        assert row.r_peak_f1_lag == pytest.approx(np.nanmean(value))
        assert row.heart_rate_error == pytest.approx(10 * np.nanmean(value))
        np.testing.assert_allclose(
            [row.r_peak_f1_lag_lower, row.r_peak_f1_lag_upper], np.percentile(means, [2.5, 97.5])
        )
        assert row.r_peak_f1_lag_lower < row.r_peak_f1_lag < row.r_peak_f1_lag_upper
        assert np.isnan(row.pearson_lag) and np.isnan(row.pearson_lag_upper)


def test_the_interval_lies_among_the_values_however_few_have_one():
    value = np.full(12, np.nan)
    value[:2] = 0.8, 0.9  # one resample in ten holds neither of them
    row = sim_to_real_table(window_scores({"r/1": {MODEL: value}}), 500).iloc[0]
    assert row["r_peak_f1_lag"] == pytest.approx(0.85)
    assert (row["r_peak_f1_lag_lower"], row["r_peak_f1_lag_upper"]) == pytest.approx((0.8, 0.9))


def test_one_window_has_no_interval():
    row = sim_to_real_table(window_scores({"r/1": {MODEL: np.array([0.7])}}), 50).iloc[0]
    assert row["r_peak_f1_lag"] == 0.7 and np.isnan([row["r_peak_f1_lag_lower"], row["r_peak_f1_lag_upper"]]).all()


# ------------------------------------------------------------------------------------------------------------- figure
def table_of(n_records: int, pearson: bool = True) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = []
    for k in rng.permutation(n_records):
        for method, base in ((MODEL, 0.5), (TEMPLATE, 0.2), (DETECTOR, 0.9)):
            f1 = base + 0.4 * k / n_records
            row = {"record": f"bidmc/r{k:03d}", "subject": f"s{k}", "method": method, "windows": 3, "lag_ms": 0.0}
            for name, value in zip(SCORES, (f1, 1.0, f1 if pearson and method != DETECTOR else np.nan)):
                row |= {name: value, f"{name}_lower": value - 0.1, f"{name}_upper": value + 0.1}
            rows.append(row)
    return pd.DataFrame(rows)


@pytest.mark.parametrize("n_records", [1, 2, 25, 26, 60])
def test_the_figure_holds_all_records_or_the_hardest(n_records):
    table = table_of(n_records)
    fig = plots.plot_sim_to_real(table)
    shown = [label.get_text() for label in fig.axes[0].get_yticklabels()]
    # Those where the model finds the fewest beats come first.
    assert shown == [f"r{k:03d}" for k in range(min(n_records, MOST_RECORDS))]
    assert len(fig.axes) == 3
    # Each method has its point in the row of its record.
    table = table.set_index(["method", "record"])
    lines = [line for line in fig.axes[0].lines if len(line.get_xdata())]
    for method, line in zip((MODEL, TEMPLATE, DETECTOR), lines, strict=True):
        expected = [table.loc[(method, f"bidmc/{name}"), "r_peak_f1_lag"] for name in shown]
        np.testing.assert_allclose(line.get_xdata(), expected)
        np.testing.assert_allclose(np.round(line.get_ydata()), range(len(shown)))
    fig.draw_without_rendering()


def test_the_figure_leaves_out_what_nobody_knows():
    fig = plots.plot_sim_to_real(table_of(1, pearson=False))
    titles = [ax.get_title(loc="left") for ax in fig.axes]
    assert titles == ["R-peak F1, 50 ms, after lag", "Error of the heart rate (min⁻¹)"]
    fig.draw_without_rendering()
    # A record of one window has a point and no interval.
    table = table_of(2)
    table[[f"{name}_{side}" for name in SCORES for side in ("lower", "upper")]] = np.nan
    plots.plot_sim_to_real(table).draw_without_rendering()
    with pytest.raises(InputError, match="no record"):
        plots.plot_sim_to_real(table.iloc[:0])


# --------------------------------------------------------------------------------------------------------- the workflow
@pytest.mark.slow
def test_the_workflow_asks_for_it_where_ppg_was_measured_and_a_model_is_there(tmp_path, monkeypatch):
    wanted = {("bidmc", True): True, ("ncku", True): True, ("bidmc", False): False, ("ptb-xl", True): False}
    homes = []
    for dataset, has_model in wanted:
        homes.append(tmp_path / f"{dataset}-{has_model}")
        monkeypatch.setenv("P2ES_HOME", str(homes[-1]))
        jobs = paths.jobs_file(dataset, "smoke")
        jobs.parent.mkdir(parents=True)
        jobs.write_text("[]")  # nothing to prepare, so that no mirror is asked
        if has_model:
            weights = paths.run_dir("simulated", "smoke", "p2es", 0) / "weights.safetensors"
            weights.parent.mkdir(parents=True)
            weights.write_text("weights")
    settings = [{"profile": "smoke", "dataset": dataset} for dataset, _ in wanted]
    for (dataset, has_model), planned in zip(wanted, dry_runs(list(zip(homes, settings, strict=True))), strict=True):
        assert "rule data:" in planned
        assert ("rule sim_to_real:" in planned) == wanted[dataset, has_model]
        assert "rule reference:" not in planned and "reference_all" not in planned, "none are made of real recordings"
        assert ("rule train:" in planned) == (dataset != "ncku"), "nothing can be trained without a named lead"


@pytest.mark.notebook
@pytest.mark.slow
def test_the_notebook_runs_from_a_model_and_windows_to_figure_and_table(home, make_pair, monkeypatch):
    """On real windows of two records, one of them without a named lead, with a hardly trained model."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    simulated = synthetic_windows(window_samples=N_SAMPLES)
    write_windows(paths.windows_dir("simulated", "smoke"), simulated, {})
    config = tiny_config(signal__window_samples=N_SAMPLES, training__n_steps=2)
    train(config, simulated, paths.run_dir("simulated", "smoke", "p2es", 0), progress=False)
    windows = real_windows(make_pair, {"a": 0.25, "b": 0.4}, named={"a": True, "b": False})
    write_windows(paths.windows_dir("bidmc", "smoke"), windows, {})
    output = executed_notebook("bidmc", "smoke", "14_sim_to_real")
    with open(home / "log.txt", "w") as log:
        run_notebook("14_sim_to_real", {"dataset": "bidmc", "profile": "smoke"}, output, timeout_s=300, log=log)
    figures = paths.figures_dir("bidmc", "smoke")
    table = pd.read_csv(figures / "table22_sim_to_real.csv")
    assert list(table["record"]) == ["bidmc/a", "bidmc/b"] * 3 and set(table["windows"]) == {3}
    assert table["pearson_lag"].notna().tolist() == [True, False] * 2 + [False, False]
    assert (figures / "table22_sim_to_real.md").stat().st_size
    for suffix, start in (("png", b"\x89PNG"), ("pdf", b"%PDF")):
        assert (figures / f"fig27_sim_to_real.{suffix}").read_bytes().startswith(start)
    assert "2 record(s) of 2 subject(s), 6 windows" in (home / "log.txt").read_text()
