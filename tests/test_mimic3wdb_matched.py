"""MIMIC-III waveforms, matched subset: the list of waveforms, segments of 8-bit samples, shifted dates of birth."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
import wfdb
from wfdb_files import read_record

from p2es_lib.core import paths
from p2es_lib.core.errors import InputError
from p2es_lib.data.download.mirror import MissingFile
from p2es_lib.data.sources import mimic3wdb_matched

NAME = "p000020-2183-04-28-17-47"
RECORD = f"p00/p000020/{NAME}"
HEADER = '"ROW_ID","SUBJECT_ID","GENDER","DOB","DOD","DOD_HOSP","DOD_SSN","EXPIRE_FLAG"\n'
ROWS = ((1, 20, "F", "2107-04-28"), (2, 30, "M", "1872-10-14"), (3, 33, "F", "2116-12-24"))
PATIENTS = HEADER + "".join(f'{n},{subject},"{sex}","{born} 00:00:00",,,,0\n' for n, subject, sex, born in ROWS)
SOURCE = mimic3wdb_matched.SOURCE


@pytest.fixture(scope="module")
def pairs(make_pair):
    return [make_pair(60, 125.0, seed=seed) for seed in (1, 2)]


@pytest.fixture
def top(tmp_path, pairs, home, monkeypatch):
    """Folder of the data set on a mirror: one record of segments with a gap, two that are only listed."""
    monkeypatch.delenv("P2ES_MIMIC3_PATIENTS", raising=False)
    folder = tmp_path / "mirror" / "mimic3wdb-matched" / "1.0"
    other, third = "p000030-2172-10-16-12-22", "p000033-2116-12-24-12-35"
    (folder / "p00" / "p000020").mkdir(parents=True)
    (folder / "RECORDS-waveforms").write_text(f"{RECORD}\np00/p000030/{other}\np00/p000033/{third}\n")
    (folder / "RECORDS").write_text("p00/p000020/\np00/p000030/\n")
    (folder / "p00" / "p000020" / "RECORDS").write_text(f"{NAME}\n{NAME}n\n")
    write_record(folder, pairs)
    for path in (f"p00/p000030/{other}", f"p00/p000033/{third}"):
        (folder / path).parent.mkdir()
        (folder / f"{path}.hea").write_text(f"{path.split('/')[-1]}/1 1 125 100 12:00:00.000\n9999999_0001 100\n")
    return folder


def write_segment(folder, name, signals, units=None):
    """8-bit samples, a gain of its own for each signal; NaN is written as missing."""
    names = list(signals)
    x = np.column_stack(list(signals.values()))
    gain = [round(100 / np.nanmax(np.abs(column))) for column in x.T]
    wfdb.wrsamp(
        name, 125, units or ["mV" if n not in ("PLETH", "RESP") else "NU" for n in names], names, p_signal=x,
        fmt=["80"] * len(names), adc_gain=gain, baseline=[0] * len(names), write_dir=str(folder),
    )  # fmt: skip


def write_record(top, pairs):
    """Segments of 60 s with a gap before the second, one without PPG, and one that is not there."""
    folder = top / "p00" / "p000020"
    first, second = pairs
    missing = np.where((np.arange(7500) > 3000) & (np.arange(7500) < 3500), np.nan, first.ppg)
    write_segment(folder, "3544749_0001", {"II": first.ecg, "V": 0.5 * first.ecg, "RESP": first.ecg, "PLETH": missing})
    leads = {"I": 0.6 * second.ecg, "II": second.ecg, "III": 0.4 * second.ecg, "AVR": -0.8 * second.ecg}
    write_segment(folder, "3544749_0002", {**leads, "MCL": second.ecg, "PLETH": second.ppg})
    write_segment(folder, "3544749_0003", {"II": first.ecg, "V": first.ecg})
    lines = [f"{NAME}/6 7 125 30000 17:47:59.486 28/04/2183", "3544749_layout 0", "3544749_0001 7500", "~ 7500",
             "3544749_0002 7500", "3544749_0003 7500", "3544749_0004 7500"]  # fmt: skip
    (folder / f"{NAME}.hea").write_text("\n".join(lines) + "\n")
    layout = [f"~ 0 0/{unit} 8 0 0 0 0 {name}" for name, unit in (("II", "mV"), ("V", "mV"), ("PLETH", "NU"))]
    (folder / "3544749_layout.hea").write_text("\n".join(["3544749_layout 3 125 0", *layout]) + "\n")


@pytest.fixture
def patients(top, tmp_path, monkeypatch):
    """The user's copy of the table, named by the variable."""
    path = tmp_path / "PATIENTS.csv"
    path.write_text(PATIENTS)
    monkeypatch.setenv("P2ES_MIMIC3_PATIENTS", str(path))
    return path


def mirror_of(top):
    return SOURCE.mirror(top.parent.parent)


def reading_of(top, number=0):
    return read_record(SOURCE, mirror_of(top), SOURCE.list_records(mirror_of(top))[number])


# -------------------------------------------------------------------------------------------------- files as they are
def test_waveforms_are_listed_and_numerics_are_not(top):
    records = SOURCE.list_records(mirror_of(top))
    assert [r.shard for r in records] == [r.name for r in records] == [
        NAME, "p000030-2172-10-16-12-22", "p000033-2116-12-24-12-35"
    ]  # fmt: skip
    assert records[0].path == RECORD
    (top / "RECORDS-waveforms").unlink()
    assert [r.path for r in SOURCE.list_records(mirror_of(top))] == [RECORD]  # of two folders, one is on this mirror
    (top / "RECORDS").unlink()
    with pytest.raises(InputError, match="mimic3wdb-matched: .*/RECORDS not found"):
        SOURCE.list_records(mirror_of(top))


def test_files_of_a_record(top):
    files = SOURCE.files(mirror_of(top), SOURCE.list_records(mirror_of(top))[0])
    assert [path.rpartition("/")[2] for path in files] == [
        f"{NAME}.hea", "3544749_layout.hea", "3544749_0001.hea", "3544749_0001.dat", "3544749_0002.hea",
        "3544749_0002.dat", "3544749_0003.hea", "3544749_0003.dat", "3544749_0004.hea",
    ]  # fmt: skip


def test_a_record_with_a_gap_and_segments_of_no_use(top, pairs):
    reading = reading_of(top)
    first, second = reading.stretches
    assert reading.subject == "000020" and (first.start_s, second.start_s) == (0.0, 120.0)
    assert first.keep_s == second.keep_s == 60.0
    assert set(first.leads) == {"II"} and set(second.leads) == {"I", "II", "III", "aVR"}  # V and MCL: position unknown
    for stretch, pair in zip((first, second), pairs):
        assert stretch.ppg[1] == stretch.leads["II"][1] == 125
        assert np.allclose(stretch.leads["II"][0], pair.ecg, atol=0.01)  # mV, in steps of about 0.01
        assert np.nanmax(np.abs(stretch.ppg[0] - pair.ppg)) < 0.01
    assert np.allclose(second.leads["aVR"][0], -0.8 * pairs[1].ecg, atol=0.01)
    assert np.flatnonzero(np.isnan(first.ppg[0])).tolist() == list(range(3001, 3500))
    assert "3544749_0003.hea: no PPG among the signals II, V" in reading.notes[-2]
    assert reading.notes[-1] == "1 of its segments are not on the mirror (3544749_0004)"


def test_a_segment_in_no_unit_is_left_out_and_named(top, pairs):
    signals = {"II": pairs[0].ecg, "PLETH": pairs[0].ppg}
    write_segment(top / "p00" / "p000020", "3544749_0001", signals, units=["NU", "NU"])
    reading = reading_of(top)
    (stretch,) = reading.stretches
    assert stretch.start_s == 120
    assert "segment 3544749_0001 left out" in reading.notes[1] and "'II' has the unit 'NU'" in reading.notes[1]


def test_a_record_that_is_not_there(top):
    (top / f"{RECORD}.hea").unlink()
    with pytest.raises(MissingFile, match=f"{NAME}.hea"):
        list(reading_of(top).stretches)


# ----------------------------------------------------------------------------------------------------- age and sex
def test_without_the_table_age_and_sex_are_missing_and_the_note_says_why(top):
    reading = reading_of(top)
    assert np.isnan(reading.age) and reading.sex == "" and SOURCE.companions() == []
    assert "credentialed" in reading.notes[0] and "P2ES_MIMIC3_PATIENTS" in reading.notes[0]


def test_ages_are_differences_of_shifted_dates(top, patients):
    """Born 2107 and recorded 2183; born 300 years before, which stands for over 89; recorded on the day of birth."""
    readings = [reading_of(top, number) for number in range(3)]
    assert [(r.age, r.sex, r.notes) for r in readings] == [(76.0, "F", []), (90.0, "M", []), (0.0, "F", [])]
    assert SOURCE.companions() == [patients]


@pytest.mark.parametrize("end", ["", ".gz"])
def test_the_table_in_its_usual_place(top, end):
    path = paths.raw_dir("mimiciii") / f"PATIENTS.csv{end}"
    path.parent.mkdir(parents=True)
    path.write_bytes(gzip.compress(PATIENTS.lower().encode()) if end else PATIENTS.encode())
    assert (reading_of(top).age, reading_of(top).sex, SOURCE.companions()) == (76.0, "F", [path])


def test_what_the_table_does_not_say(top, patients):
    patients.write_text(HEADER + '2,30,,"1872-10-14 00:00:00",,,,1\n')
    assert np.isnan(reading_of(top).age) and "PATIENTS.csv does not name subject_id 20" in reading_of(top).notes[0]
    assert (reading_of(top, 1).age, reading_of(top, 1).sex) == (90.0, "")


@pytest.mark.parametrize(
    "content, match",
    [
        (b"", "cannot be read as MIMIC-III's PATIENTS.csv"),
        (b"\x1f\x8b" + bytes(90), "cannot be read as MIMIC-III's PATIENTS.csv"),
        (b"subject_id,gender\n20,F\n", "no column dob; expected MIMIC-III's PATIENTS.csv"),
        (PATIENTS.replace("2107-04-28", "28/04/2107").encode(), "column dob must hold dates"),
        (PATIENTS.replace('"2107-04-28 00:00:00"', "").encode(), "column dob must hold dates"),
        (PATIENTS.replace("2,30,", "2,20,").encode(), "row 3 has no subject_id, or that of another row"),
        (PATIENTS.replace('"F"', '"X"').encode(), "subject_id 20: unknown sex code 'X'"),
        (PATIENTS.replace("2107", "2190").encode(), "subject_id 20: age -7 is outside"),
    ],
)
def test_a_broken_table(top, patients, content, match):
    patients.write_bytes(content)
    with pytest.raises(InputError, match=f"PATIENTS.csv.*{match}"):
        reading_of(top)


def test_terms():
    """Open but for the table: the error that a user without rights gets, what to do then, and where the copy goes."""
    told = ("open", "credentialed", "HTTP 403", "ask for access", "P2ES_MIMIC3_PATIENTS")
    assert all(text in SOURCE.about["access"] for text in told)
    assert "Open Database License" in SOURCE.about["licence"] and "10.13026/c2294b" in SOURCE.about["cite"]
    assert "10,282 patients" in SOURCE.about["size"] and "unknown position: not used" in SOURCE.about['lead "V"']


def test_a_variable_that_names_no_file(top, monkeypatch):
    monkeypatch.setenv("P2ES_MIMIC3_PATIENTS", "/nowhere/PATIENTS.csv")
    with pytest.raises(InputError, match="P2ES_MIMIC3_PATIENTS=.*no such file"):
        reading_of(top)


def test_a_name_that_holds_no_date(top):
    (top / "RECORDS-waveforms").write_text("p00/p000020/p000020-2183-14-28-17-47\n")
    with pytest.raises(InputError, match="p000020-2183-14-28-17-47: .*holds no date"):
        reading_of(top)
