"""MIMIC-IV waveforms: records of several rates and segments, and the credentialed table of patients."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from wfdb_files import RATE, read_record, write_mimic4

from p2es_lib.core import paths
from p2es_lib.core.errors import InputError
from p2es_lib.data.download.mirror import MissingFile
from p2es_lib.data.sources import mimic4wdb

HEADER = "subject_id,gender,anchor_age,anchor_year,anchor_year_group,dod\n"
PATIENTS = HEADER + "10000001,F,52,2148,2011 - 2013,\n10000002,M,91,2153,2011 - 2013,2154-02-02\n"
SOURCE = mimic4wdb.SOURCE


@pytest.fixture
def root(tmp_path, make_pair, home, monkeypatch):
    """A mirror with two patients; their recordings began in 2150."""
    monkeypatch.delenv("P2ES_MIMIC4_PATIENTS", raising=False)
    return write_mimic4(tmp_path / "mirror", make_pair)


@pytest.fixture
def patients(root, tmp_path, monkeypatch):
    """The user's copy of the table, named by the variable."""
    path = tmp_path / "patients.csv"
    path.write_text(PATIENTS)
    monkeypatch.setenv("P2ES_MIMIC4_PATIENTS", str(path))
    return path


def reading_of(root, number=0):
    mirror = SOURCE.mirror(root)
    return read_record(SOURCE, mirror, SOURCE.list_records(mirror)[number])


def header_of(root, number=0):
    return next((root / "mimic4wdb" / "0.1.0").glob(f"waves/p100/p1000000{number + 1}/8{number}/8{number}.hea"))


# -------------------------------------------------------------------------------------------------- files as they are
def test_the_lists_of_records_lead_to_one_shard_each(root):
    records = SOURCE.list_records(SOURCE.mirror(root))
    assert [(r.name, r.path, r.shard) for r in records] == [
        ("80", "waves/p100/p10000001/80/80", "80"), ("81", "waves/p100/p10000002/81/81", "81")
    ]  # fmt: skip
    files = [path.rpartition("/")[2] for path in SOURCE.files(SOURCE.mirror(root), records[0])]
    assert {"80.hea", "80_0000.hea", "80_0001.hea", "80_0001e.dat", "80_0001p.dat", "80_0002p.dat"} <= set(files)


def test_a_record_of_two_rates_with_a_gap_and_an_absent_segment(root, make_pair):
    reading = reading_of(root, 1)
    first, second = reading.stretches
    assert reading.subject == "10000002"
    assert (first.start_s, second.start_s) == (0.0, 100 + 900 / RATE)
    assert set(first.leads) == {"II", "aVR"} and (first.ppg[1], first.leads["II"][1]) == (2 * RATE, 4 * RATE)
    for k, stretch in enumerate((first, second)):
        pair = make_pair(100, 4 * RATE, 0.7, 0.3, seed=10 + k, noise=0.01)
        assert np.allclose(stretch.leads["II"][0], pair.ecg, atol=0.003)  # mV, 200 to the millivolt
        assert np.allclose(stretch.leads["aVR"][0], -0.8 * pair.ecg, atol=0.003)
        assert np.allclose(stretch.ppg[0], pair.ppg[::2] * 4000 / 4096, atol=3e-4)
    assert reading.notes[-1] == "1 of its segments are not on the mirror (81_0009)"


def test_the_subject_is_named_by_the_header_and_else_by_the_folder(root):
    path = header_of(root)
    path.write_text(path.read_text().replace("subject_id 10000001", "subject_id 777"))
    assert reading_of(root).subject == "777"
    path.write_text(path.read_text().replace("# subject_id 777\n", ""))
    assert reading_of(root).subject == "10000001"


# ----------------------------------------------------------------------------------------------------- age and sex
def test_without_the_table_age_and_sex_are_missing_and_the_note_says_why(root):
    reading = reading_of(root)
    assert np.isnan(reading.age) and reading.sex == "" and SOURCE.companions() == []
    assert "credentialed" in reading.notes[0] and "P2ES_MIMIC4_PATIENTS" in reading.notes[0]


def test_the_table_named_by_the_variable(root, patients):
    """Aged 52 in 2148, so 54 in 2150; 91 stands for all ages over 89 and counts as 90, in whatever year."""
    readings = [reading_of(root, number) for number in (0, 1)]
    assert [(r.age, r.sex, r.notes) for r in readings] == [(54.0, "F", []), (90.0, "M", [])]
    assert SOURCE.companions() == [patients]


def test_the_table_in_its_usual_place_compressed(root):
    path = paths.raw_dir("mimiciv") / "patients.csv.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(gzip.compress(PATIENTS.encode()))
    assert (reading_of(root).age, reading_of(root).sex, SOURCE.companions()) == (54.0, "F", [path])


def test_without_a_date_the_age_is_that_of_the_anchor(root, patients):
    path = header_of(root)
    path.write_text(path.read_text().replace(" 10:00:00 01/01/2150", ""))
    assert reading_of(root).age == 52


def test_what_the_table_does_not_say(root, patients):
    patients.write_text(HEADER + "10000002,,,2153,,\n")
    reading = reading_of(root)
    assert np.isnan(reading.age) and "patients.csv does not name subject_id 10000001" in reading.notes[0]
    assert np.isnan(reading_of(root, 1).age) and reading_of(root, 1).sex == ""


@pytest.mark.parametrize(
    "content, match",
    [
        (b"", "cannot be read as MIMIC-IV's hosp/patients.csv"),
        (bytes(range(128, 256)) * 30, "cannot be read as MIMIC-IV's"),
        (b"subject_id,gender,dob\n1,F,2000-01-01\n", "no column anchor_age, anchor_year; expected MIMIC-IV's"),
        (PATIENTS.replace("52", "old").encode(), "column anchor_age must hold numbers"),
        (PATIENTS.replace("10000002", "10000001").encode(), "row 3 has no subject_id, or that of another row"),
        (PATIENTS.replace(",F,", ",X,").encode(), "subject_id 10000001: unknown sex code 'X'"),
        (PATIENTS.replace("52", "-7").encode(), "subject_id 10000001: age -5 is outside"),
    ],
)
def test_a_broken_table(root, patients, content, match):
    patients.write_bytes(content)
    with pytest.raises(InputError, match=f"patients.csv.*{match}"):
        reading_of(root)


def test_a_compressed_table_that_is_cut(root, tmp_path, monkeypatch):
    path = tmp_path / "patients.csv.gz"
    path.write_bytes(gzip.compress((PATIENTS * 99).encode())[:60])
    monkeypatch.setenv("P2ES_MIMIC4_PATIENTS", str(path))
    with pytest.raises(InputError, match="patients.csv.gz: cannot be read"):
        reading_of(root)


def test_terms():
    """Open but for the table: the error that a user without rights gets, what to do then, and where the copy goes."""
    told = ("open", "credentialed", "HTTP 403", "ask for access", "P2ES_MIMIC4_PATIENTS")
    assert all(text in SOURCE.about["access"] for text in told)
    assert "Open Database License" in SOURCE.about["licence"] and "10.13026/a2mw-f949" in SOURCE.about["cite"]
    assert (
        "200 records of 198 patients" in SOURCE.about["size"]
        and "unknown position: not used" in SOURCE.about['lead "V"']
    )


def test_a_variable_that_names_no_file(root, monkeypatch):
    monkeypatch.setenv("P2ES_MIMIC4_PATIENTS", "/nowhere/patients.csv")
    with pytest.raises(InputError, match="P2ES_MIMIC4_PATIENTS=.*no such file"):
        reading_of(root)


# ------------------------------------------------------------------------------------------------------- damaged input
def test_a_segment_in_no_unit_is_left_out_and_named(root):
    path = header_of(root).with_name("80_0001.hea")
    path.write_text(path.read_text().replace("200.0(0)/mV", "200.0(0)/NU"))
    reading = reading_of(root)
    (stretch,) = reading.stretches
    assert stretch.start_s == 100 + 900 / RATE
    assert "segment 80_0001 left out" in reading.notes[1] and "'II' has the unit 'NU'" in reading.notes[1]


def test_a_record_that_is_not_there(root):
    header_of(root).unlink()
    with pytest.raises(MissingFile, match="80.hea"):
        reading_of(root)


def test_a_mirror_without_the_data_set(tmp_path, home):
    with pytest.raises(InputError, match="mimic4wdb: .*0.1.0/RECORDS not found"):
        SOURCE.list_records(SOURCE.mirror(tmp_path))


# ------------------------------------------------------------------------------------------------ the real recordings
@pytest.mark.mirror
def test_real_record(mirror, home, monkeypatch):
    """Segments of 4.4 h and 2 h, the second 58 h after the first began; the others are not in this excerpt."""
    monkeypatch.delenv("P2ES_MIMIC4_PATIENTS", raising=False)
    real = SOURCE.mirror(mirror)
    (record,) = SOURCE.list_records(real)
    reading = SOURCE.read(real, record)
    stretches = list(reading.stretches)
    assert (record.name, reading.subject) == ("85594648", "10079700")
    assert all(set(s.leads) == {"II", "aVR"} and s.ppg[1] == pytest.approx(124.945) for s in stretches)
    assert [s.margin_s for s in stretches].count(0.0) == 2
    assert sum(s.keep_s for s in stretches) == pytest.approx((995840 + 454720) / 62.4725)
    assert stretches[9].start_s == pytest.approx(207702.27, abs=0.01)
    two, avr = (stretches[0].leads[lead][0] for lead in ("II", "aVR"))
    good = np.isfinite(two) & np.isfinite(avr)
    assert np.corrcoef(two[good], avr[good])[0, 1] < -0.5
    assert 0.5 < np.ptp(np.percentile(two[good], (0.5, 99.5))) < 4  # mV
    assert reading.notes[1:] == [
        "5 of its segments are not on the mirror "
        "(85594648_0002, 85594648_0003, 85594648_0004, 85594648_0005, 85594648_0006)"
    ]
