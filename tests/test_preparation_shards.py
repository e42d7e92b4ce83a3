"""Records to shards: windows across parts, only what changed is made again, kills, and memory."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tracemalloc
from dataclasses import replace
from multiprocessing import get_context

import numpy as np
import pandas as pd
import pytest
from fake_source import FakeSource, prepare_and_die, settings, shard_content, stretch_of
from wfdb_files import write_mimic4

from p2es_lib.core import imports
from p2es_lib.core.errors import InputError
from p2es_lib.data.preparation import prepare_shard, prepared_dir
from p2es_lib.data.preparation.prepare_shard import code_files, files_imported, hash_files, shard_settings
from p2es_lib.data.sources import contract, get_source, mimic4wdb
from p2es_lib.data.sources.contract import Stretch, in_parts

RATE, LENGTH = 125.0, 1024
WINDOW_S = LENGTH / RATE


@pytest.fixture
def fake(tmp_path, home):
    return FakeSource(tmp_path)


def parts_of(pair, part_s, monkeypatch, start_s=0.0):
    """The same recording in parts of ``part_s``, with margins."""
    monkeypatch.setattr(contract, "PART_S", part_s)
    whole = stretch_of(pair)
    return list(in_parts(whole.ppg, whole.leads, start_s=start_s))


def starts_of(fake, config, name):
    fake.prepare(config)
    table = shard_content(prepared_dir(fake.source, config) / "one")[0]
    return table.loc[table["record"] == name, "start_s"].to_numpy()


# ------------------------------------------------------------------------------------------------ windows of a record
def test_a_window_is_a_zscored_ppg_and_an_ecg_in_millivolts(fake, make_pair):
    pair = make_pair(60, RATE, noise=0.01)
    known = {"subject": "s", "age": 71.0, "sex": "M", "rhythm": "af", "morphology": "lbbb", "diagnoses": "1 2"}
    fake.add("a", [stretch_of(pair)], fold="test", **known)
    table, windows, stored = shard_content(fake.prepare(settings()))
    assert len(table) == len(windows) == 7 and list(table["row"]) == list(range(7))
    known |= {"record": "a", "fold": "test", "leads": "221111000000", "ppg_origin": "measured"}
    assert table[list(known)].drop_duplicates().to_dict("records") == [known]
    assert windows["ppg"].shape == (7, 1, LENGTH) and windows["ecg"].shape == (7, 12, LENGTH)
    assert np.abs(windows["ppg"].mean(axis=-1)).max() < 1e-5 and np.abs(windows["ppg"].std(axis=-1) - 1).max() < 1e-5
    assert np.allclose(windows["ecg"][:, 0], 0.6 * windows["ecg"][:, 1], atol=1e-5)
    assert 0.7 < np.median(windows["ecg"][:, 1].max(axis=-1)) < 1.0  # R waves of 1 mV, narrower than the band
    for row, start_s in zip(table["row"], table["start_s"]):
        beats = pair.rpeaks_s[(pair.rpeaks_s > start_s + 0.1) & (pair.rpeaks_s < start_s + WINDOW_S - 0.1)] - start_s
        assert (windows["ecg"][row, 1][np.rint(beats * RATE).astype(int)] > 0.5).all()
    entry = stored["records"]["a"]
    assert entry["hours"] == pytest.approx(1 / 60, rel=0.01) and entry["subject"] == "s" and entry["notes"] == []


def test_a_ppg_upside_down_is_flagged_and_stored_as_it_is(fake, make_pair):
    pair = make_pair(60, RATE, noise=0.01)
    fake.add("upright", [stretch_of(pair)], subject="s")
    fake.add("down", [stretch_of(pair, ppg=-pair.ppg)], subject="s")
    table, windows, stored = shard_content(fake.prepare(settings()))
    upright, down = (windows["ppg"][table.loc[table["record"] == name, "row"]] for name in ("upright", "down"))
    assert np.allclose(down, -upright, atol=1e-5)
    assert stored["records"]["upright"]["notes"] == []
    assert "from 0 s: the PPG looks upside down and is used as it is" in stored["records"]["down"]["notes"][0]


def test_a_recording_in_one_piece_has_its_windows_in_the_middle(fake, make_pair):
    fake.add("a", [stretch_of(make_pair(3 * WINDOW_S + 2, RATE, noise=0.01))])
    assert starts_of(fake, settings(), "a") == pytest.approx(1 + WINDOW_S * np.arange(3), abs=0.01)
    fake.add("b", [stretch_of(make_pair(WINDOW_S - 0.1, RATE, noise=0.01))])
    assert len(starts_of(fake, settings(), "b")) == 0
    stored = shard_content(prepared_dir(fake.source, settings()) / "one")[2]
    assert "no window of 8.192 s" in stored["records"]["b"]["notes"]


@pytest.mark.parametrize("stride_s, n_windows", [(0.0, 7), (2.0, 27), (8.192, 7), (5.0, 11), (15.0, 4)])
def test_windows_begin_every_stride(fake, make_pair, stride_s, n_windows):
    config = settings(data__stride_s=stride_s)
    fake.add("a", [stretch_of(make_pair(61, RATE, noise=0.01))])
    starts = starts_of(fake, config, "a")
    assert len(starts) == n_windows and np.diff(starts) == pytest.approx(stride_s or WINDOW_S, abs=1e-6)
    assert 0 <= starts[0] < 2.1 and starts[-1] + WINDOW_S <= 61


@pytest.mark.parametrize("stride_s", [0.0, 2.0, 7.0, 9.0])
def test_windows_across_parts_are_those_of_the_record_in_one_piece(fake, make_pair, monkeypatch, stride_s):
    """Neither lost nor doubled, the same samples, the same figures."""
    config = settings(data__stride_s=stride_s)
    stride = round(stride_s * RATE) or LENGTH
    n_strides = 170 * 125 // stride
    pair = make_pair((LENGTH + stride * n_strides) / RATE, RATE, noise=0.01)  # nothing left over at the ends
    fake.add("whole", [stretch_of(pair)])
    fake.add("parts", parts_of(pair, 50.0, monkeypatch))
    table, windows, _ = shard_content(fake.prepare(config))
    one, other = (table[table["record"] == name].reset_index(drop=True) for name in ("whole", "parts"))
    assert fake.made == {"whole": 1, "parts": 4}
    assert list(one["start_s"]) == list(other["start_s"]) and len(one) == n_strides + 1
    assert np.abs(windows["ecg"][one["row"]] - windows["ecg"][other["row"]]).max() < 1e-3
    assert np.abs(windows["ppg"][one["row"]] - windows["ppg"][other["row"]]).max() < 1e-2
    for column in ("quality_ppg", "quality_ecg", "quality_pairing", "heart_rate"):
        assert one[column].to_numpy() == pytest.approx(other[column].to_numpy(), rel=0.05), column


def test_parts_of_odd_rates_lose_and_double_nothing(fake, make_pair, monkeypatch):
    """Parts need not begin on a sample of the common rate: windows follow each other to half a sample."""
    pair = make_pair(200, 249.89, noise=0.01)
    fake.add("a", parts_of(pair, 50.0 + 1 / 3, monkeypatch, start_s=1000.0))
    starts = starts_of(fake, settings(), "a")
    assert starts[0] == 1000 and len(starts) == 24 and np.abs(np.diff(starts) - WINDOW_S).max() <= 0.5 / RATE + 1e-6


@pytest.mark.parametrize("stride_s", [0.0, 3.0])
def test_no_window_spans_two_segments(tmp_path, home, make_pair, stride_s):
    """A gap of 8 s and an absent segment lie between the two segments."""
    source, config = mimic4wdb.SOURCE, settings("mimic4wdb", data__stride_s=stride_s)
    mirror = source.mirror(write_mimic4(tmp_path / "mirror", make_pair))
    record = source.list_records(mirror)[0]
    table, _, stored = shard_content(prepare_shard(source, record.shard, [record], config, mirror))
    second_s = 100 + 900 / 62.5
    first, second = table[table["start_s"] < 100], table[table["start_s"] >= second_s]
    assert len(first) + len(second) == len(table) and len(first) == len(second) == (12 if stride_s == 0 else 31)
    assert (first["start_s"] + WINDOW_S <= 100).all() and (second["start_s"] + WINDOW_S <= second_s + 100).all()
    assert set(table["leads"]) == {"121211000000"} and set(table["subject"]) == {"10000001"}
    assert "not on the mirror" in " ".join(stored["records"][record.name]["notes"])


def test_a_lead_may_be_dead_in_a_part_of_a_record(fake, make_pair):
    """Its windows there have one lead less, and the index, the notes and the counts say so."""
    pair = make_pair(30, RATE, noise=0.01)
    alive = stretch_of(pair, (("I", 0.6), ("II", 1.0), ("V2", 0.8)))
    dead = replace(alive, start_s=30.0, leads=alive.leads | {"V2": (0 * pair.ecg, RATE)})
    fake.add("a", [alive, dead])
    table, windows, stored = shard_content(fake.prepare(settings()))
    expected = np.where(table["start_s"] < 30, "221111020000", "221111000000")
    assert list(table["leads"]) == list(expected) and set(table["start_s"] < 30) == {True, False}
    assert (np.abs(windows["ecg"][:, 7]).max(axis=-1) > 0.1).tolist() == (table["start_s"] < 30).tolist()
    assert not table["ecg_faults"].any()
    assert stored["records"]["a"]["dead_leads"] == ["V2"]
    assert stored["records"]["a"]["notes"] == ["V2: flat or missing in 1 of 2 stretch(es), so not taken there"]


def test_windows_of_every_quality_are_kept_except_hopeless_ones(fake, make_pair):
    pair = make_pair(60, RATE, noise=0.01)
    first, ppg = (len(pair.ppg) - 7 * LENGTH) // 2, pair.ppg.copy()
    ppg[first + 2 * LENGTH :][:400] = ppg[first + 4 * LENGTH :][:700] = np.nan
    fake.add("a", [stretch_of(pair, ppg=ppg)])
    table, windows, _ = shard_content(fake.prepare(settings()))
    assert len(table) == 7 and len(windows) == 6
    assert list(table["row"]) == [0, 1, 2, 3, -1, 4, 5] and table["ppg_gap"][2] == pytest.approx(400 / LENGTH)


# ----------------------------------------------------------------------------------------------- only what has changed
@pytest.fixture
def three(fake, make_pair):
    """A shard of three records, prepared."""
    for number, name in enumerate("abc"):
        fake.add(name, [stretch_of(make_pair(40, RATE, seed=number, noise=0.01))])
    fake.prepare(settings())
    fake.made.clear()
    return fake


def test_nothing_is_made_again_without_need(three):
    folder = prepared_dir(three.source, settings()) / "one"
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert three.prepare(settings()) == folder and not three.made
    assert before == {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_an_added_record_is_the_only_one_prepared(three, make_pair):
    before = shard_content(three.prepare(settings()))
    three.add("aa", [stretch_of(make_pair(40, RATE, seed=7, noise=0.01))])
    three.records = dict(sorted(three.records.items()))  # it comes second
    table, windows, stored = shard_content(three.prepare(settings()))
    assert three.made == {"aa": 1} and list(stored["records"]) == ["a", "aa", "b", "c"] and len(windows) == 16
    for name in "abc":
        old, new = (t[t["record"] == name].reset_index(drop=True) for t in (before[0], table))
        pd.testing.assert_frame_equal(old.drop(columns="row"), new.drop(columns="row"))
        assert np.array_equal(before[1][old["row"]], windows[new["row"]])


def test_a_removed_record_is_gone_and_the_others_are_not_made_again(three):
    del three.records["b"]
    table, windows, stored = shard_content(three.prepare(settings()))
    assert not three.made and set(table["record"]) == set(stored["records"]) == {"a", "c"} and len(windows) == 8


def test_a_changed_file_makes_its_record_anew(three, make_pair):
    before = shard_content(three.prepare(settings()))
    three.add("b", [stretch_of(make_pair(60, RATE, seed=9, noise=0.01))])
    state = three.file("b").stat()
    three.file("b").write_text("As recorded")  # of the same length
    os.utime(three.file("b"), ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    table, _, stored = shard_content(three.prepare(settings()))
    assert three.made == {"b": 1} and (table["record"] == "b").sum() == 7
    assert stored["content_hash"] != before[2]["content_hash"]
    assert stored["records"]["b"]["signal_hash"] != before[2]["records"]["b"]["signal_hash"]


def test_a_touched_file_makes_nothing_anew(three):
    folder = three.prepare(settings())
    before, inode = shard_content(folder)[2], (folder / "windows.npy").stat().st_ino
    os.utime(three.file("b"))
    stored = shard_content(three.prepare(settings()))[2]
    assert not three.made and (folder / "windows.npy").stat().st_ino == inode
    assert stored["content_hash"] == before["content_hash"]
    changed = [name for name in "abc" if stored["records"][name] != before["records"][name]]
    assert changed == ["b"] and stored["records"]["b"]["hours"] > 0  # the new time is noted, the rest stays


def test_another_age_makes_the_record_anew(three):
    """What tables say of a person is part of its windows; the table's file may change for other reasons."""
    three.readings["c"][0]["age"] = 61.0
    os.utime(three.file("c"))
    table = shard_content(three.prepare(settings()))[0]
    assert three.made == {"c": 1} and set(table.loc[table["record"] == "c", "age"]) == {61.0}


def test_changed_code_makes_every_record_anew(tmp_path, home, make_pair, monkeypatch):
    """A source outside the library: its module is the one that holds ``read``."""
    code = tmp_path / "reader.py"
    code.write_text("version = 1")
    monkeypatch.setattr(sys.modules["fake_source"], "__file__", str(code))
    files_imported.cache_clear()
    fake = FakeSource(tmp_path)
    for name in "ab":
        fake.add(name, [stretch_of(make_pair(20, RATE, noise=0.01))])
    first = shard_content(fake.prepare(settings()))[2]
    code.write_text("version = 2")
    second = shard_content(fake.prepare(settings()))[2]
    assert fake.made == {"a": 2, "b": 2} and first["code"] != second["code"]
    files_imported.cache_clear()


READS, FILTERS, SIMULATES = {"bidmc", "ptb-xl", "mimic4wdb"}, {"bidmc", "ptb-xl", "mimic4wdb", "ncku"}, {"simulated"}


@pytest.mark.parametrize(
    ("changed", "stale"),
    [
        ("data/sources/bidmc.py", {"bidmc"}),
        ("data/sources/tables.py", FILTERS),
        ("data/sources/wfdb_records.py", READS),
        ("data/sources/contract.py", FILTERS | SIMULATES),
        ("data/preparation/clean_stretch.py", FILTERS),
        ("data/preparation/assembly.py", set()),
        ("signals/transforms.py", FILTERS | SIMULATES),
        ("core/leads.py", FILTERS | SIMULATES),
        ("core/demographics.py", READS | SIMULATES),
        ("simulator/pulse.py", {"ptb-xl"} | SIMULATES),  # whose PPG is simulated
        ("simulator/normal_beats.json", {"ptb-xl"} | SIMULATES),
        ("data/windows/batches.py", SIMULATES),
        ("core/subject_numbers.py", SIMULATES),
        ("data/download/mirror.py", set()),
        ("data/download/http.py", set()),
        ("data/preparation/jobs.py", set()),
        ("data/windows/store.py", set()),
        ("data/windows/splits.py", set()),
        ("cli/data.py", set()),
        ("core/paths.py", set()),
        ("method/p2es.py", set()),
    ],
)
def test_records_are_stale_when_what_reads_or_filters_them_has_changed_and_only_then(home, changed, stale):
    names = (*FILTERS, *SIMULATES)
    assert {name for name in names if imports.PACKAGE / changed in code_files(get_source(name))} == stale


def test_a_change_of_an_imported_helper_reaches_the_settings_of_a_shard(tmp_path, home, monkeypatch):
    package, config = tmp_path / "p2es_lib", settings()
    shutil.copytree(imports.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    names = ("bidmc", "ncku", "ptb-xl")

    def codes() -> list[str]:
        return [shard_settings(get_source(name), config)["code"] for name in names]

    before = codes()
    files_imported.cache_clear()
    monkeypatch.setattr(imports, "PACKAGE", package)
    try:
        assert codes() == before
        for changed, stale in (("simulator/pulse.py", ["ptb-xl"]), ("data/download/mirror.py", [])):
            with open(package / changed, "a") as file:
                file.write("# another line\n")
            after = codes()
            assert [name for name, old, new in zip(names, before, after) if old != new] == stale
            before = after
    finally:
        files_imported.cache_clear()


def test_the_users_tables_are_part_of_the_code(tmp_path, home, monkeypatch):
    monkeypatch.setenv("P2ES_MIMIC4_PATIENTS", str(tmp_path / "patients.csv"))
    versions = set()
    for text in ("subject_id", "subject_id,gender"):
        (tmp_path / "patients.csv").write_text(text)
        versions.add(hash_files(code_files(get_source("mimic4wdb"))))
    assert len(versions) == 2


def test_settings_have_folders_of_their_own(three):
    plain, strided, short = settings(), settings(data__stride_s=4.0), settings(signal__window_samples=512)
    folders = {three.prepare(config) for config in (plain, strided, short)}
    assert {folder.parent.name for folder in folders} == {"125Hz-1024", "125Hz-1024-4s", "125Hz-512"}
    assert three.made == {name: 2 for name in "abc"}  # the plain one was there
    stored = json.loads((prepared_dir(three.source, short) / "one" / "shard.json").read_text())
    assert stored["signal"] == {"sampling_rate": 125.0, "window_samples": 512} and stored["stride_s"] == 0
    three.source = replace(three.source, version="2")  # another edition of the data set
    three.file("a").parent.rename(three.root / "kept")
    shutil.move(three.root / "kept", three.root / "fake" / "2")
    three.prepare(plain)
    assert three.made == {name: 3 for name in "abc"}


# -------------------------------------------------------------------------------------------------- trouble on the way
def test_records_that_cannot_be_used_are_noted(fake, make_pair):
    def breaks():
        yield stretch_of(make_pair(40, RATE, noise=0.01))
        raise InputError("the second half is damaged")

    fake.add("a", [stretch_of(make_pair(40, RATE, noise=0.01))])
    fake.add("broken", breaks)
    fake.add("silent", [Stretch(0.0, None, {})])
    fake.add("gone", [])
    fake.file("gone").unlink()
    table, _, stored = shard_content(fake.prepare(settings()))
    assert set(table["record"]) == {"a"} and list(stored["records"]) == ["a", "broken", "silent", "gone"]
    notes = {name: " ".join(entry["notes"]) for name, entry in stored["records"].items()}
    assert "left out (the second half is damaged)" in notes["broken"] and notes["a"] == ""
    assert stored["records"]["broken"]["hours"] == stored["records"]["silent"]["hours"] == 0


def test_a_kill_leaves_the_older_shard(fake, make_pair, tmp_path):
    pair = make_pair(40, RATE, noise=0.01)
    for name in ("a", "b"):
        fake.add(name, [stretch_of(pair)])
    folder = fake.prepare(settings())
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    process = get_context("spawn").Process(target=prepare_and_die, args=(tmp_path, pair))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}
    others = sorted(path.name for path in folder.parent.iterdir() if path != folder)
    assert len(others) == 2 and others[1] == f"{others[0]}.lock"  # what the killed process had begun
    fake.made.clear()
    table, windows, _ = shard_content(fake.prepare(settings()))
    assert fake.made == {"a": 1} and len(table) == len(windows) == 8
    assert [path.name for path in folder.parent.iterdir()] == ["one"]


def test_memory_does_not_grow_with_the_length_of_a_record(fake, make_pair):
    pair = make_pair(300, 62.5, 1.5, noise=0.01)
    config = settings(signal__sampling_rate=62.5, signal__window_samples=512, data__stride_s=60.0)
    peaks = {}

    def stretches(n_parts):
        for part in range(n_parts):
            leads = {lead: (gain * pair.ecg, 62.5) for lead, gain in (("I", 0.6), ("II", 1.0))}
            yield Stretch(300.0 * part, (pair.ppg.copy(), 62.5), leads)

    for n_parts in (1, 6, 36):  # the first to load what is loaded once; half an hour; three hours
        fake.add("a", lambda n_parts=n_parts: stretches(n_parts))
        fake.file("a").write_text(f"{n_parts} parts")
        tracemalloc.start()
        folder = fake.prepare(config)
        peaks[n_parts] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        table, windows, stored = shard_content(folder)
        assert len(table) == len(windows) == 5 * n_parts
        assert stored["records"]["a"]["hours"] == pytest.approx(n_parts / 12, abs=1e-5)
    assert peaks[36] < 1.25 * peaks[6], peaks
