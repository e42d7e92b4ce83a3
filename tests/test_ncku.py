"""NCKU: headerless CSV of counts at 50 Hz with ticks, rows of zeros at the end, and leads that nobody named."""

from __future__ import annotations

import numpy as np
import pytest
from wfdb_files import read_record

from p2es_lib.core.errors import InputError
from p2es_lib.data.download.mirror import MissingFile
from p2es_lib.data.sources import ncku

SOURCE = ncku.SOURCE
NAME = "125_static_level1_20260113_164748"
SUFFIX = "_extended_poll.bin_align.csv"


@pytest.fixture
def top(tmp_path, home):
    """Folder of the data set on a mirror, empty."""
    folder = tmp_path / "mirror" / "ncku-ppg-ecg"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture(scope="module")
def pair(make_pair):
    return make_pair(60.0, 50.0, seed=2)


def rows_of(pair, gains=(300, 500, 400), zeros=200):
    """frame, tick, PPG, three ECG channels; then rows of zeros, as every published file has."""
    n = len(pair.ecg)
    frame = 1832 + np.arange(n + zeros)
    signals = np.zeros((n + zeros, 4))
    signals[:n] = np.column_stack([1500 + 800 * pair.ppg, *(8192 + gain * pair.ecg for gain in gains)]).round(2)
    return np.column_stack([frame, 3723568.0 + 160 * (frame - 1832), signals])


def write(top, rows, name=NAME):
    path = top / name[:3] / f"{name}{SUFFIX}"
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(f"{int(r[0])}, " + ", ".join(f"{value:.6f}" for value in r[1:]) for r in rows) + "\n")
    return path


def reading_of(top):
    mirror = SOURCE.mirror(top.parent)
    return read_record(SOURCE, mirror, SOURCE.list_records(mirror)[0])


# -------------------------------------------------------------------------------------------------- files as they are
def test_a_file_is_a_record_and_a_volunteer_a_shard(top, pair):
    for name in ("646_static_level1_20260114_214841", NAME, "125_static_level5_20260113_170811"):
        write(top, rows_of(pair), name)
    records = SOURCE.list_records(SOURCE.mirror(top.parent))
    assert [(r.name, r.shard) for r in records] == [
        (NAME, "125"), ("125_static_level5_20260113_170811", "125"), ("646_static_level1_20260114_214841", "646")
    ]  # fmt: skip
    assert SOURCE.files(SOURCE.mirror(top.parent), records[0]) == [f"125/{NAME}{SUFFIX}"] == [records[0].path]


def test_on_a_remote_mirror_the_published_files_are_listed(home):
    records = SOURCE.list_records(SOURCE.mirror("http://127.0.0.1:9/"))
    assert len(records) == 12 and {r.shard for r in records} == {"125", "300", "595", "646"}
    assert (records[0].name, records[0].path) == (NAME, f"125/{NAME}{SUFFIX}")


def test_at_its_home_nothing_can_be_fetched_and_the_message_says_what_to_do(home):
    with pytest.raises(InputError, match="data-group of .*mirror=.*<mirror>/ncku-ppg"):
        SOURCE.list_records(SOURCE.mirror())


def test_rows_of_zeros_at_the_end_are_cut(top, pair):
    write(top, rows_of(pair))
    reading = reading_of(top)
    (stretch,) = reading.stretches
    assert (reading.subject, reading.sex, stretch.leads) == ("125", "", {}) and np.isnan(reading.age)
    assert stretch.keep_s == 60.0 and stretch.ppg[1] == stretch.rhythm[1] == 50
    assert np.allclose(stretch.ppg[0], 1500 + 800 * pair.ppg, atol=0.01)


def test_a_row_of_zeros_amid_the_signal_is_kept(top, pair):
    rows = rows_of(pair)
    rows[100:103, 2:] = 0
    write(top, rows)
    (stretch,) = reading_of(top).stretches
    assert stretch.keep_s == 60.0 and np.flatnonzero(stretch.ppg[0] == 0).tolist() == [100, 101, 102]


def test_frames_that_were_lost_are_missing_signal(top, pair):
    rows = rows_of(pair)
    rows[2000:, 1] += 3.2  # the clock jitters
    write(top, np.delete(rows, np.arange(700, 750), axis=0))
    (stretch,) = reading_of(top).stretches
    for x, true in ((stretch.ppg[0], 1500 + 800 * pair.ppg), (stretch.rhythm[0], 8192 + 500 * pair.ecg)):
        assert np.flatnonzero(np.isnan(x)).tolist() == list(range(700, 750))
        assert np.allclose(np.delete(x, np.arange(700, 750)), np.delete(true, np.arange(700, 750)), atol=0.01)


@pytest.mark.parametrize("good", [0, 1, 2])
def test_beats_come_from_the_channel_whose_beats_resemble_each_other_most(top, pair, good):
    rows = rows_of(pair)
    noise = np.random.default_rng(0).normal(8192, 400, (len(pair.ecg), 2))
    rows[: len(pair.ecg), [3 + k for k in range(3) if k != good]] = noise
    write(top, rows)
    reading = reading_of(top)
    (stretch,) = reading.stretches
    assert f"beats from ECG channel {good + 1} of 3" in reading.notes[0]
    assert np.allclose(stretch.rhythm[0], rows[: len(pair.ecg), 3 + good], atol=1e-3)


def test_terms():
    assert (SOURCE.role, SOURCE.about["access"]) == ("timing only", "open") and "Attribution 4.0" in SOURCE.about[
        "licence"
    ]
    assert "Nordling Lab" in SOURCE.about["cite"]
    assert "12 files of 4 volunteers" in SOURCE.about["size"] and "not documented" in SOURCE.about['lead "V"']


# ------------------------------------------------------------------------------------------------------- damaged input
@pytest.mark.parametrize(
    "text, match",
    [
        ("", "cannot be read as a table of numbers"),
        ("frame,tick,ppg,a,b,c\n1,160,1,1,1,1\n", "cannot be read as a table of numbers"),
        ("1,160,1,1,1\n2,320,1,1,1\n", "5 columns; expected 6"),
        ("1,160,0,0,0,0\n2,320,0,0,0,0\n", "no positive signal"),
        ("1,160,1,1,1,1\n", "does not count time"),
        ("1,160,1,1,1,1\n2,160,1,1,1,1\n", "does not count time"),
        ("1,320,1,1,1,1\n2,160,1,1,1,1\n", "does not count time"),
        ("1,160,1,1,1,1\n2,400,1,1,1,1\n", "does not count time"),
    ],
)
def test_a_broken_file(top, text, match):
    path = top / "125" / f"{NAME}{SUFFIX}"
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(InputError, match=f"{NAME}{SUFFIX}: .*{match}"):
        reading_of(top)


def test_a_mirror_without_the_data_set(tmp_path, home, top):
    with pytest.raises(InputError, match="no <subject>/.*csv in .*must hold <mirror>"):
        SOURCE.list_records(SOURCE.mirror(tmp_path))
    record = SOURCE.list_records(SOURCE.mirror("http://127.0.0.1:9/"))[0]
    with pytest.raises(MissingFile, match=NAME):
        SOURCE.read(SOURCE.mirror(top.parent), record)


# ------------------------------------------------------------------------------------------------ the real recordings
@pytest.mark.mirror
def test_real_files(mirror, home):
    """12 files of 4 volunteers, 2 minutes each: all of them end in rows of zeros, which are cut."""
    if not (mirror.parent / "ncku-ppg-ecg").is_dir():
        pytest.skip("no NCKU recordings beside the mirror")
    real = SOURCE.mirror(mirror.parent)
    records = SOURCE.list_records(real)
    assert [f"{r.shard}/{r.name}" for r in records] == list(ncku.FILES)
    assert {SOURCE.read(real, record).subject for record in records} == {"125", "300", "595", "646"}
    for record in records:
        (stretch,) = SOURCE.read(real, record).stretches
        n_rows = len(real.fetch(record.path).read_bytes().splitlines())
        assert 120.5 < stretch.keep_s < 121.5 and n_rows > 50 * stretch.keep_s + 100
        ppg, rhythm = stretch.ppg[0], stretch.rhythm[0]
        assert 0 <= np.nanmin(ppg) < np.nanmax(ppg) < 4096 and 7000 < np.nanmedian(rhythm) < 9000
        assert ppg[-1] > 0 and rhythm[-1] > 0 and stretch.leads == {}
