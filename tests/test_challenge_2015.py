"""Challenge 2015: Matlab files as WFDB signal files, two ECG leads and PPG, and nothing known of the patients."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from wfdb_files import read_record, write_record

from p2es_lib.core.errors import InputError
from p2es_lib.data.download.mirror import MissingFile
from p2es_lib.data.sources import challenge_2015

SOURCE = challenge_2015.SOURCE
PAIR = (60.0, 250.0)


@pytest.fixture
def top(tmp_path, home):
    """Folder of the data set on a mirror, with a list and no record."""
    folder = tmp_path / "mirror" / "challenge-2015" / "1.0.0"
    (folder / "training").mkdir(parents=True)
    (folder / "training" / "RECORDS").write_text("a103l\nv102s\n")
    return folder


def write_mat(top, pair, name="a103l", signals=("II", "V", "PLETH"), units=("mV", "mV", "NU")):
    """A Matlab file (version 4) of 16-bit samples, read as format 16 after 24 bytes; the alarm in comments."""
    values = {"PLETH": pair.ppg, "RESP": 0 * pair.ecg, "V": 0.5 * pair.ecg}
    x = np.stack([np.round(8000 * values.get(signal, pair.ecg)) for signal in signals], axis=1).astype("<i2")
    head = struct.pack("<5i4s", 30, len(signals), len(x), 0, 4, b"val\0")
    (top / "training" / f"{name}.mat").write_bytes(head + x.tobytes())
    lines = [f"{name} {len(signals)} 250 {len(x)}"]
    lines += [f"{name}.mat 16+24 8000/{unit} 16 0 0 0 0 {signal}" for signal, unit in zip(signals, units)]
    (top / "training" / f"{name}.hea").write_text("\n".join([*lines, "#Asystole", "#False alarm"]) + "\n")


def mirror_of(top):
    return SOURCE.mirror(top.parent.parent)


def reading_of(top, number=0):
    return read_record(SOURCE, mirror_of(top), SOURCE.list_records(mirror_of(top))[number])


def test_terms():
    assert (SOURCE.role, SOURCE.about["access"]) == ("paired", "open") and "Open Data Commons" in SOURCE.about[
        "licence"
    ]
    assert "10.13026/mp2q-8g41" in SOURCE.about["cite"]
    assert "750 records" in SOURCE.about["size"] and "unknown position: not used" in SOURCE.about['lead "V"']


@pytest.mark.parametrize(
    "place, text",
    [("training/RECORDS", "a103l\nv102s\n"), ("training/RECORDS", "training/a103l\ntraining/v102s\n"),
     ("RECORDS", "training/a103l\ntraining/v102s\na103l\n"), ("RECORDS", "training/\n")],
)  # fmt: skip
def test_the_list_is_where_and_as_it_may_be(top, place, text):
    (top / "training" / "RECORDS").write_text("a103l\nv102s\n")
    if place == "RECORDS" and "103" in text:
        (top / "training" / "RECORDS").unlink()
    (top / place).write_text(text)
    records = SOURCE.list_records(mirror_of(top))
    assert [(r.name, r.path, r.shard) for r in records] == [
        ("a103l", "training/a103l", "training-00"), ("v102s", "training/v102s", "training-00")
    ]  # fmt: skip


def test_fifty_records_are_a_shard(top):
    (top / "training" / "RECORDS").write_text("\n".join(f"r{number}" for number in range(120)))
    shards = [record.shard for record in SOURCE.list_records(mirror_of(top))]
    assert [shards.count(shard) for shard in ("training-00", "training-01", "training-02")] == [50, 50, 20]


def test_a_record(top, make_pair):
    pair = make_pair(*PAIR)
    write_mat(top, pair)
    reading = reading_of(top)
    assert (reading.subject, reading.sex, reading.diagnoses) == ("a103l", "", "Asystole_False_alarm")
    assert np.isnan(reading.age)
    (stretch,) = reading.stretches
    assert set(stretch.leads) == {"II"} and stretch.rhythm is None and reading.notes == []  # V: position unknown
    assert stretch.ppg[1] == stretch.leads["II"][1] == 250
    assert np.allclose(stretch.leads["II"][0], pair.ecg, atol=1e-4) and np.allclose(stretch.ppg[0], pair.ppg, atol=1e-4)
    record = SOURCE.list_records(mirror_of(top))[0]
    assert SOURCE.files(mirror_of(top), record) == ["training/a103l.hea", "training/a103l.mat"]


def test_a_record_in_format_212(top, make_pair):
    pair = make_pair(*PAIR)
    signals = {"aVF,": 0.5 * pair.ecg, "i": 0.6 * pair.ecg, "PLETH": pair.ppg, "RESP": 0 * pair.ecg}
    alarm = ["Ventricular_Tachycardia", "True alarm"]
    write_record(top / "training", "v102s", signals, 250.0, fmt="212", comments=alarm)
    reading = reading_of(top, 1)
    (stretch,) = reading.stretches
    assert set(stretch.leads) == {"aVF", "I"} and reading.diagnoses == "Ventricular_Tachycardia_True_alarm"
    assert np.allclose(stretch.leads["I"][0], 0.6 * pair.ecg, atol=2e-3)


def test_a_record_without_ppg_is_refused(top, make_pair):
    write_mat(top, make_pair(*PAIR), signals=("II", "V", "ABP"))
    with pytest.raises(InputError, match="a103l: no PPG among.*II, V, ABP"):
        reading_of(top)


def test_an_ecg_in_no_unit_is_left_out_and_named(top, make_pair):
    write_mat(top, make_pair(*PAIR), units=("NU", "mV", "NU"))
    reading = reading_of(top)
    assert list(reading.stretches) == [] and "a103l.hea: ECG signal 'II' has the unit 'NU'" in reading.notes[0]


def test_what_is_not_there(top, make_pair):
    with pytest.raises(MissingFile, match="training/a103l.hea"):
        reading_of(top)
    write_mat(top, make_pair(*PAIR))
    (top / "training" / "a103l.mat").unlink()
    reading = reading_of(top)
    assert list(reading.stretches) == [] and "not on the mirror (a103l)" in reading.notes[0]
    (top / "training" / "RECORDS").unlink()
    with pytest.raises(InputError, match="training/RECORDS not found"):
        SOURCE.list_records(mirror_of(top))


# ------------------------------------------------------------------------------------------------ the real recordings
@pytest.mark.mirror
def test_real_records(mirror, home):
    real = SOURCE.mirror(mirror)
    records = SOURCE.list_records(real)
    assert [r.path for r in records] == ["training/a103l", "training/v102s"]
    alarms = ("Asystole_False_alarm", "Ventricular_Tachycardia_False_alarm")
    for record, seconds, alarm in zip(records, (330, 300), alarms, strict=True):
        reading = SOURCE.read(real, record)
        (stretch,) = reading.stretches
        assert (reading.diagnoses, reading.subject, reading.notes) == (alarm, record.name, [])
        assert set(stretch.leads) == {"II"} and stretch.keep_s == seconds
        assert len(stretch.ppg[0]) == len(stretch.leads["II"][0]) == 250 * seconds
        assert 0.3 < np.ptp(np.nanpercentile(stretch.leads["II"][0], (0.2, 99.8))) < 8  # mV
