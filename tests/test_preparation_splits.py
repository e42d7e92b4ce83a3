"""Which windows a run uses, and who is trained on and who is tested: by subject, by source, by fold, or by time."""

from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest
from fake_source import FakeSource, add_people, settings, stretch_of, windows_of

from p2es_lib.core import paths
from p2es_lib.core.errors import InputError
from p2es_lib.data import sources
from p2es_lib.data.preparation import assembly, choose_windows
from p2es_lib.data.windows import SPLITS

RATE, WINDOW_S = 125.0, 8.192


@pytest.fixture
def new_source(tmp_path, home, monkeypatch):
    """``new_source(name, ...)`` makes a source that data sets can name; all of them lie on one mirror."""

    def make(name="fake", **options):
        fake = FakeSource(tmp_path, name, **options)
        monkeypatch.setitem(sources.SOURCES, name, fake.source)
        return fake

    return make


def index_of(people: dict[str, list[str]], n_windows=6, source="a", ages=None, fold="") -> pd.DataFrame:
    """Index of accepted windows: subject to records."""
    records = [(subject, record) for subject, own in people.items() for record in own]
    rows = [(*names, (ages or {}).get(names[1], 50.0), WINDOW_S * k) for names in records for k in range(n_windows)]
    index = pd.DataFrame(rows, columns=["subject", "record", "age", "start_s"])
    return index.assign(source=source, sex="F", fold=fold)


# -------------------------------------------------------------------------------------------------------------- splits
def splits_of(index, **changes):
    """Split of each subject, and the kind; the same for all of a subject's windows."""
    split, kind = assembly.assign_splits(index, WINDOW_S, settings(**changes))
    assert kind == "time" or index.assign(split=split).groupby("subject")["split"].nunique().max() == 1
    return dict(zip(index["subject"], split)), kind


def test_splits_are_by_subject_and_independent_of_the_order_of_records():
    people = {f"s{number}": [f"r{number}a", f"r{number}b"][: 1 + number % 2] for number in range(20)}
    ages = {f"r{number}{visit}": 20.0 + 3 * number + 15 * (visit == "b") for number in range(20) for visit in "ab"}
    index = index_of(people, ages=ages)
    assigned, kind = splits_of(index)
    assert kind == "subject" and [list(assigned.values()).count(name) for name in SPLITS] == [14, 2, 4]
    for seed in range(5):
        shuffled = index.sample(frac=1, random_state=seed, ignore_index=True)
        assert splits_of(shuffled)[0] == assigned
    assert splits_of(index[index["start_s"] > 10].reset_index(drop=True))[0] == assigned


def test_recommended_folds_are_taken_where_every_record_has_one():
    index = pd.concat([index_of({f"s{split}{k}": [f"r{split}{k}"] for k in range(3)}, fold=split) for split in SPLITS])
    index = index.reset_index(drop=True)
    assigned, kind = splits_of(index)
    assert kind == "folds" and all(subject[1:-1] == split for subject, split in assigned.items())
    index.loc[0, "fold"] = ""
    assert splits_of(index)[1] == "subject"


def test_one_source_is_held_out(new_source, make_pair):
    one, two = new_source("one"), new_source("two")
    add_people(one, make_pair, 5, first_seed=0)
    add_people(two, make_pair, 3, first_seed=10, prefix="q")
    windows = windows_of(one, "one~two")
    assert ((windows.index["split"] == "test") == (windows.index["source"] == "two")).all()
    assert set(windows.index["split"]) == set(SPLITS) and set(windows.index["split_kind"]) == {"source"}
    other = windows_of(one, "one+two", data__hold_out="one")
    assert ((other.index["split"] == "test") == (other.index["source"] == "one")).all()
    together = windows_of(one, "one+two")
    assert set(together.index["split_kind"]) == {"subject"} and together.index["subject"].nunique() == 8
    with pytest.raises(InputError, match="data.hold_out='three': .*one, two"):
        windows_of(one, "one+two", data__hold_out="three")


def test_fewer_than_three_subjects_are_split_by_time_and_every_reader_is_told(new_source, make_pair):
    fake = new_source()
    for name, subject in (("r0", "s"), ("r1", "s"), ("r2", "t")):
        fake.add(name, [stretch_of(make_pair(150, RATE, seed=int(name[1]), noise=0.01))], subject=subject)
    windows = windows_of(fake)
    assert "TIME-WISE SPLIT: all recordings come from 2 subjects" in windows.info["warnings"][0]
    assert set(windows.index["split_kind"]) == {"time"} and windows.info["dropped_between_splits"] > 0
    for _, record in windows.index.groupby("record"):
        spans = [record.loc[record["split"] == split, "start_s"].agg(["min", "max"]) for split in SPLITS]
        spans = [span for span in spans if span.notna().all()]
        for before, after in zip(spans, spans[1:]):
            assert after["min"] - before["max"] >= 2 * WINDOW_S - 1e-6  # at least a whole window between them
    fake.add("r3", [stretch_of(make_pair(40, RATE, seed=3, noise=0.01))], subject="u")
    windows = windows_of(fake)
    assert windows.info["warnings"] == [] and set(windows.index["split_kind"]) == {"subject"}


def test_a_split_is_stored_and_the_same_again(new_source, make_pair):
    fake = new_source()
    add_people(fake, make_pair, 6)
    first = windows_of(fake)
    shutil.rmtree(paths.windows_dir("fake", "smoke"))
    fake.records = dict(reversed(fake.records.items()))
    again = windows_of(fake)
    columns = ["subject", "record", "start_s", "split", "age", "sex", "quality"]
    pd.testing.assert_frame_equal(first.index[columns], again.index[columns])
    assert np.array_equal(first.ecg, again.ecg) and set(fake.made.values()) == {1}
    splits = list(first.index["split"])
    assert splits == sorted(splits, key=SPLITS.index)  # each is one stretch of the store


# ------------------------------------------------------------------------------------------------------ which windows
def test_windows_are_chosen_evenly_over_records_and_time():
    index = pd.concat([index_of({"s": ["long"]}, 60), index_of({"t": ["short"]}, 4), index_of({"u": ["middle"]}, 20)])
    index = index.reset_index(drop=True)
    assert list(choose_windows(index, 84)) == list(range(84))
    chosen = index.iloc[choose_windows(index, 30)]
    assert chosen["record"].value_counts().to_dict() == {"long": 13, "middle": 13, "short": 4}
    starts = chosen.loc[chosen["record"] == "long", "start_s"]
    assert starts.iloc[[0, -1]].tolist() == [0, 59 * WINDOW_S] and starts.diff().max() <= 6 * WINDOW_S
    two = set(index.iloc[choose_windows(index, 2)]["record"])
    assert len(two) == 2
    shuffled = index.sample(frac=1, random_state=0, ignore_index=True)
    assert set(shuffled.iloc[choose_windows(shuffled, 2)]["record"]) == two
    again = shuffled.iloc[choose_windows(shuffled, 30)]
    assert set(zip(again["record"], again["start_s"])) == set(zip(chosen["record"], chosen["start_s"]))


def test_too_little_to_split_says_what_is_missing(new_source, make_pair):
    fake = new_source()
    with pytest.raises(InputError, match="no record selected"):
        windows_of(fake)
    fake.add("a", [stretch_of(make_pair(5, RATE, noise=0.01))])
    with pytest.raises(InputError, match="no window in .*record a: no window of 8.192"):
        windows_of(fake)
    fake.add("a", [stretch_of(make_pair(12, RATE, noise=0.01))])
    fake.file("a").write_text("changed")
    windows = windows_of(fake)  # nothing to train on, but a model that is there can be tried
    assert set(windows.index["split"]) == {"test"} and set(windows.index["split_kind"]) == {"none"}
    assert "TEST ONLY" in windows.info["warnings"][0] and "add recordings" in windows.info["warnings"][0]
