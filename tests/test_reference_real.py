"""References of real recordings: which windows make them, who is scored with them, and the table by time since."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from known_beats import ecg_of, ppg_of, wave

from p2es_lib import plots
from p2es_lib.core.config import get_config
from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import LEADS
from p2es_lib.data.windows import WindowSet
from p2es_lib.experiments import reference_by_time, results, runs
from p2es_lib.experiments.reference_by_time import (
    ANY_TIME,
    METRICS,
    SINCE_S,
    by_time_table,
    recorded_regimes,
    reference_scores,
    scored_rows,
    time_since,
)
from p2es_lib.experiments.regimes import REFERENCE_S, reference_plan, references_of

RATE, N = 125.0, 1024
WINDOW_S = N / RATE
CONFIG = get_config("wide", "bidmc")
#: Subject, record, first window (s), number of windows: one begins late, one is short, one subject has three records.
RECORDS = [("a", "a1", 0.0, 9), ("b", "b1", 100.0, 8), ("c", "c1", 0.0, 3), ("d", "d2", 0.0, 2), ("d", "d1", 5.0, 7),
           ("d", "d3", 0.0, 1)]  # fmt: skip


def recorded(records=RECORDS, leads=LEADS) -> WindowSet:
    """Windows side by side; each subject has a height of beats and a delay of its own."""
    rng, rows, ecg, ppg = np.random.default_rng(0), [], [], []
    for subject, record, begins_s, count in records:
        number = ord(subject) - ord("a")
        for start_s in begins_s + WINDOW_S * np.arange(count):
            r = rng.uniform(-0.8, 0) + np.cumsum(rng.uniform(0.78, 0.86, 14))
            ecg.append(ecg_of(r, N, RATE, lambda s, gain=1 + 0.3 * number: wave(s, gain)))
            ppg.append(ppg_of(r + 0.2 + 0.03 * number, N, RATE))
            rows.append((subject, record, start_s))
    index = pd.DataFrame(rows, columns=["subject", "record", "start_s"]).assign(
        age=50.0, sex="F", split="test", split_kind="none", quality=1.0, rhythm="", morphology="", source="x",
        ppg_origin="measured",
    )  # fmt: skip
    mask = np.tile([2 * (lead in leads) for lead in LEADS], (len(index), 1)).astype(np.uint8)
    ecg = np.array(ecg, np.float32) * (mask > 0)[:, :, None]
    return WindowSet(np.array(ppg, np.float32), ecg, mask, index)


def shuffled(windows: WindowSet) -> WindowSet:
    return windows.select(np.random.default_rng(1).permutation(len(windows)))


def changed(windows: WindowSet, rows, shift: int = 40) -> WindowSet:
    """The same with the signals of some windows moved in time and made larger."""
    ecg, ppg = windows.ecg.copy(), windows.ppg.copy()
    ecg[rows], ppg[rows] = 1.5 * np.roll(ecg[rows], shift, axis=-1), np.roll(ppg[rows], -shift, axis=-1)
    return replace(windows, ecg=ecg, ppg=ppg)


@pytest.mark.parametrize("session", ["same", "other"])
def test_no_scored_window_shares_time_with_its_reference(session):
    index = shuffled(recorded()).index
    plan = reference_plan(index, WINDOW_S, session)
    assert not ((plan.makes >= 0) & (plan.served_by >= 0)).any()
    for row in np.flatnonzero(plan.served_by >= 0):
        made_of = index[plan.makes == plan.served_by[row]]
        assert len(made_of) and set(made_of["subject"]) == {index["subject"][row]}
        begin_s = index.loc[index["record"] == made_of["record"].iloc[0], "start_s"].min()
        assert (made_of["start_s"] + WINDOW_S <= begin_s + REFERENCE_S + 1e-6).all()
        if session == "same":
            assert set(made_of["record"]) == {index["record"][row]} and index["start_s"][row] >= begin_s + REFERENCE_S
            assert plan.elapsed_s[row] == pytest.approx(index["start_s"][row] - begin_s - REFERENCE_S)
        else:
            assert set(made_of["record"]) == {"d1"} and index["record"][row] in ("d2", "d3")
            assert np.isnan(plan.elapsed_s[row])
    scored = index[plan.served_by >= 0].groupby("record").size().to_dict()
    assert scored == ({"a1": 3, "b1": 2, "d1": 1} if session == "same" else {"d2": 2, "d3": 1})


@pytest.mark.parametrize("session", ["same", "other"])
def test_the_reference_is_of_its_windows_alone_and_who_is_scored_of_none(session):
    windows = shuffled(recorded())
    plan = reference_plan(windows.index, WINDOW_S, session)
    made = references_of(CONFIG, windows, "all", session, windows)
    has = made.given.any(dim=1)
    assert np.array_equal(has.numpy(), plan.served_by >= 0) and len(made) == len(windows)
    np.testing.assert_array_equal(made.elapsed_s, plan.elapsed_s.astype(np.float32))
    target = changed(windows, plan.served_by >= 0)
    again = references_of(CONFIG, target, "all", session, target)
    assert torch.equal(again.beats, made.beats) and torch.equal(again.given, made.given), "it has seen its target"
    moved = changed(windows, plan.makes >= 0)
    other = references_of(CONFIG, moved, "all", session, moved)
    assert torch.equal(other.given, made.given) and not torch.equal(other.beats, made.beats)
    some = windows.select(np.flatnonzero(has)[::-1])  # any windows of the store may be asked for
    assert torch.equal(references_of(CONFIG, some, "all", session, windows).beats, made.beats[has].flip(0))


def test_a_reference_has_the_persons_beats_and_delay():
    windows = recorded()
    made = references_of(CONFIG, windows, "all", "same", windows)
    heights = {
        subject: made.beats[rows.index.to_numpy(), 1].amax() for subject, rows in windows.index.groupby("subject")
    }
    assert heights["b"] / heights["a"] == pytest.approx(1.3, abs=0.05)
    seen = made.delay_s[made.given.any(dim=1)]
    assert seen[0] == pytest.approx(0.2, abs=0.02) and seen[-1] == pytest.approx(0.29, abs=0.02)


def test_leads_are_those_of_the_record_and_of_the_regime():
    windows = recorded(leads=("II", "V5"))
    given = {regime: references_of(CONFIG, windows, regime, "same", windows).given for regime in ("I", "limb", "all")}
    shown = {regime: {LEADS[lead] for lead in np.flatnonzero(of.any(dim=0))} for regime, of in given.items()}
    assert shown == {"I": set(), "limb": {"II"}, "all": {"II", "V5"}}


def test_a_regime_that_shows_nothing_new_is_left_out(monkeypatch):
    for leads, expected in ((("II",), ["all"]), (("II", "V5"), ["all", "limb"]), (LEADS, ["all", "limb", "I"])):
        windows = stored(monkeypatch, recorded(leads=leads))
        assert list(recorded_regimes(CONFIG, windows, "same")) == expected


def test_windows_that_are_not_of_the_store_are_refused():
    windows = recorded()
    with pytest.raises(InputError, match="bidmc: 9 of 30 windows .*prepare anew"):
        references_of(CONFIG, windows, "all", "same", windows.select(np.arange(9, len(windows))))


# ------------------------------------------------------------------------------------------------------------- scoring
@pytest.fixture
def store(monkeypatch):
    """The prepared windows, wherever they are read from."""
    return stored(monkeypatch, shuffled(recorded()))


def stored(monkeypatch, windows: WindowSet) -> WindowSet:
    """Let these be the prepared windows, wherever they are read from."""
    monkeypatch.setattr("p2es_lib.experiments.regimes.read_windows", lambda folder: windows)
    for module in (runs, reference_by_time, results):
        monkeypatch.setattr(module, "load_windows", lambda config: windows)
    return windows


def asking(regime: str, session: str = "same"):
    return CONFIG.replace("evaluation.reference", regime).replace("evaluation.session", session)


def test_windows_without_a_reference_are_not_scored(store, monkeypatch):
    everything, none = runs.scored_windows(CONFIG)
    assert len(everything) == len(store) and none is None
    some, reference = runs.scored_windows(asking("limb"))
    assert len(some) == len(reference) == 6 and (reference.given.sum(dim=1) == 6).all()
    assert np.array_equal(store.ecg[some.index["window"]], some.ecg), "numbered as among all test windows"
    with pytest.raises(InputError, match=r"bidmc.*I, other session.*add recordings"):
        short = store.select(store.index["subject"].to_numpy() == "a")
        monkeypatch.setattr(runs, "load_windows", lambda config: short)
        runs.scored_windows(asking("I", "other"))


class Fake:
    """A method that knows the truth, and forgets a part of it without a reference."""

    def __init__(self, windows: WindowSet, n_samples: int):
        self.windows, self.n_samples = windows, n_samples

    def translate(self, ppg, demographics, reference=None, **_):
        rows = [int(np.flatnonzero((self.windows.ppg == one).all(axis=(1, 2)))[0]) for one in ppg]
        ecg = torch.tensor(self.windows.ecg[rows])
        noise = 0.0 if reference is not None else 0.2
        draws = torch.randn((len(ecg), self.n_samples, 12, N), generator=torch.Generator().manual_seed(0))
        return ecg[:, None] + (noise + 0.01) * draws


def test_methods_are_scored_on_the_same_windows_by_time(monkeypatch):
    store = stored(monkeypatch, shuffled(recorded(leads=("II", "V5"))))
    names = reference_by_time.P2ES, reference_by_time.P2ES_OWN, reference_by_time.FIXED, reference_by_time.OWN
    methods = {name: (Fake(store, 3 if "P2Es" in name else 1), {}, name in names[1::2]) for name in names}
    monkeypatch.setattr(reference_by_time, "_methods", lambda config, seed: methods)
    monkeypatch.setattr(reference_by_time, "_CHUNK", 2)
    monkeypatch.setattr(reference_by_time, "SINCE_S", {"0-10 s": 10, "later": np.inf})
    scores = reference_scores(CONFIG, progress=False)
    where = scores.groupby(["session", "regime", "method"])
    windows = where[["record", "start_s"]].apply(lambda part: frozenset(part.itertuples(index=False, name=None)))
    assert windows.groupby(["session", "regime"]).nunique().eq(1).all() and len(windows) == 2 * 2 * 4
    table = by_time_table(CONFIG.replace("evaluation.n_bootstrap", 20), scores)
    assert set(table["metric"]) == set(METRICS) and set(table["data"]) == {"real"}
    rows = (
        table[(table["regime"] == "all") & (table["metric"] == "pearson")]
        .set_index(["session", "since", "method"])
        .sort_index()
    )
    same = rows.loc["same"].loc[:, "n_windows"].groupby("since").first()
    assert same["0-10 s"] + same["later"] == same[ANY_TIME] == 6
    assert rows.loc[("other", ANY_TIME), "n_windows"].eq(3).all() and ("other", "later") not in rows.index.droplevel(2)
    assert rows.loc[("same", ANY_TIME, names[1]), "value"] > 0.95 > rows.loc[("same", ANY_TIME, names[0]), "value"]
    assert rows.loc[("same", ANY_TIME), "n_records"].eq(3).all() and "coverage_80" in set(table["metric"])
    plots.plot_reference_by_time(table)


def test_a_data_set_without_references_has_an_empty_table_and_says_so(monkeypatch):
    stored(monkeypatch, recorded([("c", "c1", 0.0, 3)]))
    table = by_time_table(CONFIG, reference_scores(CONFIG, progress=False))
    assert table.empty
    assert "no window" in plots.plot_reference_by_time(table).axes[0].texts[0].get_text()


def test_parts_of_the_time_and_how_many_windows_of_each(monkeypatch):
    names = list(SINCE_S)
    found = time_since(np.array([0.0, 59.9, 60.0, 3599.0, 1e6, np.nan]))
    assert list(found) == [names[0], names[0], names[1], names[3], names[-1], ""]
    windows = recorded([("a", "a1", 0.0, 40), ("b", "b1", 0.0, 20)])
    reference = references_of(CONFIG, windows, "all", "same", windows)
    monkeypatch.setattr(reference_by_time, "MAX_WINDOWS", 4)
    rows = scored_rows(windows.index, reference)
    since = time_since(reference.elapsed_s.numpy())[rows]
    counts = pd.Series(since).groupby([windows.index["record"].to_numpy()[rows], since]).size()
    assert counts.max() == 4 and set(counts.index.get_level_values(0)) == {"a1", "b1"}
    assert reference.given[torch.as_tensor(rows)].any(dim=1).all()


def test_a_part_holds_whole_records():
    index = shuffled(recorded([(chr(97 + n), f"r{n}", 0.0, 5 + n) for n in range(8)])).index
    chunks = reference_by_time._chunks(index, np.arange(len(index)))
    assert sorted(np.concatenate(chunks)) == list(range(len(index)))
    records = [set(index["record"].to_numpy()[rows]) for rows in chunks]
    assert sum(map(len, records)) == 8


def test_variants_are_compared_on_the_windows_that_both_have(monkeypatch):
    """The full model has scores of all test windows, its use with a reference of some."""
    rows = [{"subject": f"s{n % 4}", "record": f"s{n % 4}", "window": n, "lead": "all", "estimate": "mean",
             "metric": "mse", "value": 1.0 if n % 2 else 9.0} for n in range(16)]  # fmt: skip
    full = pd.DataFrame(rows).assign(seed=0)
    some = full[full["window"] % 2 == 1].assign(value=0.25)
    monkeypatch.setattr(results, "load_scores", lambda d, p, variant, s: full if variant == "p2es" else some)
    monkeypatch.setattr(results, "load_windows", lambda config: recorded())
    table = results.difference_table(CONFIG, ["reference_all"], [0])
    assert table.set_index("metric").loc["rmse", "difference"] == pytest.approx(0.5 - 1.0)
