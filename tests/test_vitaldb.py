"""VitalDB: ``.vital`` files as its own package writes them, and the table of cases."""

from __future__ import annotations

import numpy as np
import pytest
import vitaldb as package
from wfdb_files import read_record

from p2es_lib.core.errors import InputError
from p2es_lib.data.download.mirror import MissingFile
from p2es_lib.data.sources import vitaldb

SECONDS = 20
HEADER = "caseid,subjectid,casestart,age,sex,height,weight\n"
ROWS = ("1,5955,0,77.0,M,160,67", "2,2487,0,54.0,F,167,54", "10,5955,0,>89,M,,", "3000,7,0,0.3,,,", "4000,8,0,,F,,")
TABLE = HEADER + "\n".join(ROWS)


@pytest.fixture
def top(tmp_path, home):
    """Folder of the data set on a mirror, with its table and no case."""
    folder = tmp_path / "mirror" / "vitaldb" / "1.0.0"
    (folder / "vital_files").mkdir(parents=True)
    (folder / "clinical_data.csv").write_bytes(b"\xef\xbb\xbf" + TABLE.encode())
    return folder


@pytest.fixture(scope="module")
def pair(make_pair):
    return make_pair(SECONDS, 500.0, seed=3)


def write_case(
    top, pair, number=1, gap_s=(), unit="mV", integers=False, packed=False, without=(), rate=500.0, begin_s=0.0
):
    """Tracks of an ADC in blocks of a second; those of ``gap_s`` are not there. The PPG begins ``begin_s`` later."""
    file = package.VitalFile()
    file.dtstart, file.dtend = 4e9, 4e9 + SECONDS
    step = round(500 / rate)
    tracks = {"ECG_II": (pair.ecg, unit), "ECG_V5": (-0.5 * pair.ecg, unit), "PLETH": (40 * pair.ppg, "")}
    for name, (x, track_unit) in (tracks | {"ART": (pair.ppg, "mmHg")}).items():
        if name in without:
            continue
        offset_s = begin_s if name == "PLETH" else 0.0
        blocks, gain = np.split(x[::step].astype(np.float32), SECONDS), 0.01
        if integers:
            blocks = [np.round(block / gain).astype("<i2") for block in blocks]
        blocks = [{"dt": 4e9 + offset_s + k, "val": block} for k, block in enumerate(blocks) if k not in gap_s]
        track = file.add_track(f"SNUADC/{name}", blocks, srate=rate, unit=track_unit)
        if integers:
            track.fmt, track.gain, track.offset = 5, gain, 0.25
    file.add_track("Solar8000/HR", [{"dt": 4e9 + k, "val": 75.0} for k in range(0, SECONDS, 2)], unit="/min")
    file.to_vital(str(top / "vital_files" / f"{number:04d}.vital"), packed=packed)


def mirror_of(top):
    return vitaldb.SOURCE.mirror(top.parent.parent)


def reading_of(top, number=1):
    mirror = mirror_of(top)
    record = next(r for r in vitaldb.SOURCE.list_records(mirror) if r.name == f"{number:04d}")
    return read_record(vitaldb.SOURCE, mirror, record)


# -------------------------------------------------------------------------------------------------- files as they are
def test_every_case_of_the_table_is_a_record_and_ten_numbers_a_shard(top):
    records = vitaldb.SOURCE.list_records(mirror_of(top))
    assert [(r.name, r.path, r.shard) for r in records] == [
        ("0001", "vital_files/0001", "cases-000"), ("0002", "vital_files/0002", "cases-000"),
        ("0010", "vital_files/0010", "cases-001"), ("3000", "vital_files/3000", "cases-300"),
        ("4000", "vital_files/4000", "cases-400"),
    ]  # fmt: skip
    assert vitaldb.SOURCE.files(mirror_of(top), records[0]) == ["vital_files/0001.vital"]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("integers, offset", [(False, 0.0), (True, 0.25)])
def test_a_case(top, pair, packed, integers, offset):
    write_case(top, pair, packed=packed, integers=integers, gap_s=(5, 6, 11))
    reading = reading_of(top)
    assert (reading.subject, reading.age, reading.sex) == ("5955", 77.0, "M")
    (stretch,) = reading.stretches
    assert (stretch.start_s, stretch.rhythm, reading.notes) == (0.0, None, []) and set(stretch.leads) == {"II", "V5"}
    missing = np.isin(np.arange(SECONDS * 500) // 500, (5, 6, 11))
    leads = [(stretch.leads["II"], pair.ecg), (stretch.leads["V5"], -0.5 * pair.ecg)]
    for (x, rate), true in [(stretch.ppg, 40 * pair.ppg), *leads]:
        assert rate == 500 and np.array_equal(np.isnan(x), missing)
        assert np.allclose(x[~missing], true[~missing] + offset, atol=0.006 if integers else 1e-6)


def test_tracks_that_begin_at_different_times_are_on_one_clock(top, pair):
    write_case(top, pair, begin_s=2.0)
    (stretch,) = reading_of(top).stretches
    x, _ = stretch.ppg
    assert np.isnan(x[:1000]).all() and np.allclose(x[1000:9000], 40 * pair.ppg[:8000], atol=1e-4)
    assert np.allclose(stretch.leads["II"][0][:9000], pair.ecg[:9000], atol=1e-6)


def test_microvolts_are_converted_and_a_missing_unit_is_noted(top, pair):
    write_case(top, pair, 1, unit="uV")
    write_case(top, pair, 2, unit="")
    for number, factor in ((1, 1e-3), (2, 1.0)):
        reading = reading_of(top, number)
        (stretch,) = reading.stretches
        assert np.allclose(stretch.leads["II"][0], factor * pair.ecg, atol=1e-6 * factor)
        assert ("states no unit" in " ".join(reading.notes)) == (number == 2)


def test_a_track_of_another_rate_keeps_it(top, pair):
    write_case(top, pair, rate=250.0)
    (stretch,) = reading_of(top).stretches
    assert stretch.ppg[1] == stretch.leads["V5"][1] == 250
    assert np.allclose(stretch.leads["II"][0], pair.ecg[::2], atol=1e-6)


def test_one_lead_is_enough(top, pair):
    write_case(top, pair, without=("ECG_II",))
    (stretch,) = reading_of(top).stretches
    assert list(stretch.leads) == ["V5"]


def test_people(top, pair):
    """A person may have several cases; ages are not given beyond 89, and may be missing, as sex may."""
    for number in (10, 3000, 4000):
        write_case(top, pair, number)
    known = [(r.subject, r.age, r.sex) for r in (reading_of(top, 10), reading_of(top, 3000))]
    assert known == [("5955", 90.0, "M"), ("7", 0.3, "")]
    assert np.isnan(reading_of(top, 4000).age) and reading_of(top, 4000).sex == "F"


def test_terms():
    source = vitaldb.SOURCE
    assert (source.role, source.about["access"]) == ("paired", "open") and "Attribution 4.0" in source.about["licence"]
    assert "10.1038/s41597-022-01411-5" in source.about["cite"]
    assert "6,388 cases" in source.about["size"] and "taken as V5" in source.about['lead "V"']


# ------------------------------------------------------------------------------------------------------- damaged input
def test_a_case_that_is_not_there(top):
    with pytest.raises(MissingFile, match="vital_files/0001.vital"):
        reading_of(top)


@pytest.mark.parametrize(
    "options, match",
    [
        ({"without": ("PLETH",)}, "needs SNUADC/PLETH and an ECG track, found SNUADC/ECG_II, SNUADC/ECG_V5"),
        ({"without": ("ECG_II", "ECG_V5")}, "found SNUADC/PLETH"),
        ({"unit": "mmHg"}, "track SNUADC/ECG_II has the unit 'mmHg'; only mV and uV can be used"),
    ],
)
def test_a_case_that_cannot_be_used(top, pair, options, match):
    write_case(top, pair, **options)
    with pytest.raises(InputError, match=f"0001.vital: .*{match}"):
        list(reading_of(top).stretches)


def test_a_numeric_track_is_no_waveform(top):
    file = package.VitalFile()
    file.dtstart, file.dtend = 4e9, 4e9 + SECONDS
    for name in ("PLETH", "ECG_II"):
        file.add_track(f"SNUADC/{name}", [{"dt": 4e9 + k, "val": 1.0} for k in range(9)], unit="mV")
    file.to_vital(str(top / "vital_files" / "0001.vital"))
    with pytest.raises(InputError, match="0001.vital: .*states no sampling rate"):
        list(reading_of(top).stretches)


@pytest.mark.parametrize("content", [b"", b"VITA", bytes(range(256)) * 40])
def test_rubbish(top, content):
    (top / "vital_files" / "0001.vital").write_bytes(content)
    with pytest.raises(InputError, match="0001.vital: (not a readable|needs SNUADC)"):
        list(reading_of(top).stretches)


def test_of_a_case_cut_short_the_rest_is_missing_signal(top, pair):
    write_case(top, pair)
    path = top / "vital_files" / "0001.vital"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (stretch,) = reading_of(top).stretches  # tracks lie one after the other: II is whole, V5 is cut, PPG is not there
    assert len(stretch.ppg[0]) == SECONDS * 500 and np.isnan(stretch.ppg[0]).all()
    assert np.allclose(stretch.leads["II"][0][:9000], pair.ecg[:9000], atol=1e-6)


@pytest.mark.parametrize(
    "text, match",
    [
        (None, "data set vitaldb: .*clinical_data.csv not found; .*<mirror>/vitaldb/1.0.0/clinical_data.csv"),
        ("", "clinical_data.csv: cannot be read as VitalDB's clinical_data.csv"),
        ("caseid,age\n1,3\n", "clinical_data.csv: no column subjectid, sex; expected"),
        (HEADER + "1,5955,0,77,M\n1,5955,0,77,M\n", "clinical_data.csv: row 3 has no caseid, or that of another row"),
        (HEADER + ",5955,0,77,M\n", "clinical_data.csv: row 2 has no caseid"),
        (HEADER + "one,5955,0,77,M\n", "clinical_data.csv: caseid 'one' is no number of a case"),
        (HEADER + "1,,0,77,M\n", "clinical_data.csv: subjectid nan is no number"),
        (HEADER + "1,5955,0,old,M\n", "clinical_data.csv, case 0001: age 'old' is not a number"),
        (HEADER + "1,5955,0,377,M\n", "clinical_data.csv, case 0001: age 377 is outside"),
        (HEADER + "1,5955,0,77,Z\n", "clinical_data.csv, case 0001: unknown sex code 'Z'"),
    ],
)
def test_a_broken_table(top, pair, text, match):
    write_case(top, pair)
    path = top / "clinical_data.csv"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(InputError, match=match):
        reading_of(top)


def test_a_case_that_the_table_no_longer_names(top, pair):
    write_case(top, pair)
    mirror = mirror_of(top)
    record = vitaldb.SOURCE.list_records(mirror)[0]
    (top / "clinical_data.csv").write_text(HEADER + "2,2487,0,54,F\n")
    with pytest.raises(InputError, match="data.csv, case 0001: not in this table"):
        vitaldb.SOURCE.read(mirror, record)
