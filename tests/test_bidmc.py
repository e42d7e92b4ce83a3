"""BIDMC: its CSV files, its WFDB twins, and bad ones of both."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from wfdb_files import read_record, write_record

from p2es_lib.core.errors import InputError
from p2es_lib.data.download.mirror import MissingFile
from p2es_lib.data.sources import bidmc

HEADER = "Time [s], RESP, PLETH, V, AVR, II"


@pytest.fixture
def top(tmp_path, home):
    """Folder of the data set on a mirror, empty."""
    folder = tmp_path / "mirror" / "bidmc" / "1.0.0"
    (folder / "bidmc_csv").mkdir(parents=True)
    return folder


def reading_of(top, number=1):
    mirror = bidmc.SOURCE.mirror(top.parent.parent)
    record = bidmc.SOURCE.list_records(mirror)[number - 1]
    return read_record(bidmc.SOURCE, mirror, record)


def files_of(top, number=1):
    mirror = bidmc.SOURCE.mirror(top.parent.parent)
    return bidmc.SOURCE.files(mirror, bidmc.SOURCE.list_records(mirror)[number - 1])


def write_csv(top, pair, number=1, header=HEADER, fix="Summary\nAge: 51\nGender: M\nLocation: micu\n"):
    t = np.round(np.arange(len(pair.ecg)) / 125, 2)
    rows = np.column_stack([t, 0 * t, pair.ppg, 0.5 * pair.ecg, -0.7 * pair.ecg, pair.ecg])
    stem = f"bidmc_csv/bidmc_{number:02d}"
    pd.DataFrame(rows).to_csv(top / f"{stem}_Signals.csv", header=header.split(","), index=False, float_format="%.5g")
    if fix is not None:
        (top / f"{stem}_Fix.txt").write_text(fix)


def write_twin(top, pair, number=1, comments=("<age>: 88 <sex>: F <source>: micu",), **options):
    names = {"RESP,": 0 * pair.ecg, "PLETH,": pair.ppg, "V,": 0.5 * pair.ecg, "AVR,": -0.7 * pair.ecg, "II,": pair.ecg}
    write_record(top, f"bidmc{number:02d}", names, comments=comments, **options)


# -------------------------------------------------------------------------------------------------- files as they are
def test_records_are_numbered_whatever_the_mirror_holds(top):
    records = bidmc.SOURCE.list_records(bidmc.SOURCE.mirror(top.parent.parent))
    assert [record.name for record in records] == [f"bidmc_{n:02d}" for n in range(1, 54)]
    shards = [record.shard for record in records]
    assert shards == sorted(shards) and len(set(shards)) == 7


def test_csv(top, make_pair):
    pair = make_pair(60, 125.0, seed=1)
    write_csv(top, pair)
    reading = reading_of(top)
    assert (reading.subject, reading.age, reading.sex, reading.notes) == ("bidmc_01", 51.0, "M", [])
    (stretch,) = reading.stretches
    assert (stretch.start_s, stretch.margin_s) == (0.0, 0.0) and stretch.rhythm is None
    assert stretch.ppg[1] == 125.0 and np.allclose(stretch.ppg[0], pair.ppg, atol=1e-4)
    assert set(stretch.leads) == {"II", "aVR"}  # "V" is a chest electrode of unknown position
    assert np.allclose(stretch.leads["II"][0], pair.ecg, atol=1e-4)
    assert np.allclose(stretch.leads["aVR"][0], -0.7 * pair.ecg, atol=1e-4)
    assert files_of(top) == ["bidmc_csv/bidmc_01_Signals.csv", "bidmc_csv/bidmc_01_Fix.txt"]


def test_wfdb_twin_gives_what_the_csv_gives(top, make_pair):
    """Names with trailing commas; age and sex in the comments of the header."""
    pair = make_pair(60, 125.0, seed=1)
    write_csv(top, pair, 1)
    write_twin(top, pair, 2)
    (from_csv,), reading = reading_of(top).stretches, reading_of(top, 2)
    (stretch,) = reading.stretches
    assert (reading.subject, reading.age, reading.sex, reading.notes) == ("bidmc_02", 88.0, "F", [])
    assert set(stretch.leads) == {"II", "aVR"} and stretch.rhythm is None and stretch.ppg[1] == 125
    for one, other in ((stretch.ppg, from_csv.ppg), (stretch.leads["II"], from_csv.leads["II"])):
        assert np.allclose(one[0], other[0], atol=2e-3)
    assert files_of(top, 2) == ["bidmc02.hea", "bidmc02.dat", "bidmc_csv/bidmc_02_Fix.txt"]


@pytest.mark.parametrize(
    "comments, age, sex",
    [
        (("<age>: 88 <sex>: F",), 88.0, "F"),
        (("<age>: 90+", "<sex>: M"), 90.0, "M"),
        (("Age: 42", "Gender: F"), 42.0, "F"),
        (("age: 42  sex: male  location: ccu",), 42.0, "M"),
        (("<sex>: F",), np.nan, "F"),
        (("recorded in the ward, age unknown",), np.nan, ""),
        ((), np.nan, ""),
    ],
)
def test_age_and_sex_in_header_comments(top, make_pair, comments, age, sex):
    write_twin(top, make_pair(20, 125.0), comments=comments)
    reading = reading_of(top)
    assert reading.age == pytest.approx(age, nan_ok=True) and reading.sex == sex
    assert (reading.notes == []) == bool(age == age or sex)


def test_the_text_file_goes_before_the_comments(top, make_pair):
    write_twin(top, make_pair(20, 125.0))
    (top / "bidmc_csv" / "bidmc_01_Fix.txt").write_text("Age: 30\nGender: M\n")
    assert (reading_of(top).age, reading_of(top).sex) == (30.0, "M")


def test_what_is_not_known_is_noted(top, make_pair):
    write_csv(top, make_pair(20, 125.0), fix=None)
    reading = reading_of(top)
    assert np.isnan(reading.age) and reading.sex == "" and "bidmc_01_Fix.txt" in reading.notes[0]
    assert len(list(reading.stretches)) == 1


def test_fix_file():
    assert bidmc.read_fix("ID: 5\nAge: 90+\nGender: F\n", "x") == (90.0, "F")
    assert bidmc.read_fix("AGE = 7\r\nSex = male\r\n", "x") == (7.0, "M")
    for text in ("Age: NaN\nGender: NaN\n", "", "Average: 5\nStage: 3\n"):
        age, sex = bidmc.read_fix(text, "x")
        assert np.isnan(age) and sex == ""
    for text in ("Age: 651\n", "Gender: X\n"):
        with pytest.raises(InputError, match="here"):
            bidmc.read_fix(text, "here")


# ------------------------------------------------------------------------------------------------------- damaged input
def test_a_record_that_is_not_there(top):
    with pytest.raises(MissingFile, match="bidmc_53_Signals.csv nor its WFDB record"):
        reading_of(top, 53)
    with pytest.raises(MissingFile, match="bidmc53.hea"):
        files_of(top, 53)


@pytest.mark.parametrize(
    "content, match",
    [
        ("", "cannot be read as a table of numbers"),
        ("Time [s], PLETH, II\n", "does not count seconds at 125 Hz"),
        ("Time [s], RESP\n0,1\n", "expected a PLETH column and ECG leads, found Time \\[s\\], RESP"),
        ("Time [s], PLETH, V\n0,1,1\n", "expected a PLETH column and ECG leads"),
        ("Time [s], PLETH, II\n0,1,1\n0.008,x,1\n", "cannot be read as a table of numbers"),
        ("Time [s], PLETH, II\n0,1,1\n0.1,1,1\n0.2,1,1\n", "does not count seconds at 125 Hz"),
        ("Time [s], PLETH, II\n0,1,1\n0,1,1\n0,1,1\n0,1,1\n", "does not count seconds at 125 Hz"),
        ("Time [s], PLETH, II\n0,1,1\n0.008,1,1\n,1,1\n", "does not count seconds at 125 Hz"),
    ],
)
def test_bad_csv(top, content, match):
    path = top / "bidmc_csv" / "bidmc_01_Signals.csv"
    path.write_text(content)
    with pytest.raises(InputError, match=f"bidmc_01_Signals.csv: .*{match}"):
        list(reading_of(top).stretches)


def test_binary_rubbish_as_csv(top):
    path = top / "bidmc_csv" / "bidmc_01_Signals.csv"
    path.write_bytes(bytes(range(256)) * 30)
    with pytest.raises(InputError, match="bidmc_01_Signals.csv"):
        list(bidmc.read_signals_csv(path))


def test_a_csv_cut_in_mid_line_is_used(top, make_pair):
    pair = make_pair(20, 125.0)
    write_csv(top, pair)
    path = top / "bidmc_csv" / "bidmc_01_Signals.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:1500], lines[1500].rpartition(",")[0]]))
    (stretch,) = reading_of(top).stretches
    assert len(stretch.ppg[0]) == 1500
    assert np.isnan(stretch.leads["II"][0][-1]) and np.isfinite(stretch.leads["II"][0][:-1]).all()


def test_a_lead_named_twice_is_read_from_its_first_column(top, make_pair):
    pair = make_pair(20, 125.0)
    write_csv(top, pair, header="Time [s], RESP, PLETH, II, MLII, ECG II")
    (stretch,) = reading_of(top).stretches
    assert list(stretch.leads) == ["II"] and np.allclose(stretch.leads["II"][0], 0.5 * pair.ecg, atol=1e-4)


def test_a_twin_without_its_signals_or_in_no_unit(top, make_pair):
    pair = make_pair(20, 125.0)
    write_twin(top, pair, 1)
    (top / "bidmc01.dat").unlink()
    write_twin(top, pair, 2, units=["NU"] * 5)
    write_twin(top, pair, 3)
    (top / "bidmc03.dat").write_bytes((top / "bidmc03.dat").read_bytes()[:999])
    notes = []
    for number in (1, 2, 3):
        reading = reading_of(top, number)
        assert list(reading.stretches) == []
        notes += reading.notes
    assert "not on the mirror (bidmc01)" in notes[0] and "'AVR,' has the unit 'NU'" in notes[1]
    assert "signal files cannot be read" in notes[2]
    (top / "bidmc03.hea").write_text("")
    with pytest.raises(InputError, match="bidmc03.hea: the header is empty"):
        reading_of(top, 3)


# ------------------------------------------------------------------------------------------------ the real recordings
@pytest.mark.mirror
def test_real_record(mirror, home):
    source = bidmc.SOURCE
    real = source.mirror(mirror)
    reading = source.read(real, source.list_records(real)[0])
    (stretch,) = reading.stretches
    assert len(stretch.ppg[0]) == 60_001 and set(stretch.leads) == {"II", "aVR"}
    two, avr = stretch.leads["II"][0], stretch.leads["aVR"][0]
    assert 0.3 < np.ptp(two) < 3 and np.corrcoef(two, avr)[0, 1] < -0.5
