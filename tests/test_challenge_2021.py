"""Challenge 2021: twelve leads as Matlab files, age, sex and SNOMED codes in the comments of the headers."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from wfdb_files import read_record

from p2es_lib.core.config import get_config
from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import LEADS
from p2es_lib.data.download.mirror import MissingFile
from p2es_lib.data.preparation import assembly, list_jobs, reject, run_job
from p2es_lib.data.sources import challenge_2021
from p2es_lib.simulator.demographics_effects import RHYTHMS
from p2es_lib.simulator.morphology import CLASSES

SOURCE = challenge_2021.SOURCE
PATH = "training/georgia/g1/E00001"
SINUS, LAFB, LBBB, RBBB, LVH = "426783006", "445118002", "164909002", "59118001", "164873001"


@pytest.fixture
def top(tmp_path, home):
    """Folder of the data set on a mirror, with the tree of lists and no record."""
    folder = tmp_path / "mirror" / "challenge-2021" / "1.0.3"
    lists = {"": "training/georgia/g1/\ntraining/ptb-xl/g22/\n", "training/georgia/g1/": "E00001\nE00002\n",
             "training/ptb-xl/g22/": "HR21001\n"}  # fmt: skip
    for place, text in lists.items():
        (folder / place).mkdir(parents=True, exist_ok=True)
        (folder / place / "RECORDS").write_text(text)
    return folder


def write_record(top, comments=(" Age: 74", " Sex: Male", f" Dx: {SINUS}"), unit="mV", names=LEADS, path=PATH):
    """12 leads of 10 s at 500 Hz in microvolts; returns them in mV, (12, 5000)."""
    x = np.random.default_rng(0).integers(-900, 900, (5000, 12)).astype("<i2")
    (top / f"{path}.mat").write_bytes(struct.pack("<5i4s", 30, 12, 5000, 0, 4, b"val\0") + x.tobytes())
    name = path.rpartition("/")[2]
    lines = [f"{name} 12 500 5000 03-Jun-2020 17:25:25"]
    lines += [f"{name}.mat 16+24 1000/{unit} 16 0 0 0 0 {signal}" for signal in names]
    (top / f"{path}.hea").write_text("\n".join([*lines, *(f"#{comment}" for comment in comments)]) + "\n")
    return x.T / 1000


def mirror_of(top):
    return SOURCE.mirror(top.parent.parent)


def reading_of(top):
    return read_record(SOURCE, mirror_of(top), SOURCE.list_records(mirror_of(top))[0])


# -------------------------------------------------------------------------------------------------- files as they are
def test_a_folder_is_a_shard(top):
    records = SOURCE.list_records(mirror_of(top))
    assert [(r.name, r.path, r.shard) for r in records] == [
        ("E00001", PATH, "georgia-g1"), ("E00002", "training/georgia/g1/E00002", "georgia-g1"),
        ("HR21001", "training/ptb-xl/g22/HR21001", "ptb-xl-g22"),
    ]  # fmt: skip


@pytest.mark.parametrize("unit, factor", [("mV", 1.0), ("mv", 1.0), ("uV", 1e-3)])
def test_a_record(top, unit, factor):
    x = write_record(top, unit=unit, names=[name.upper() for name in LEADS])
    reading = reading_of(top)
    assert (reading.subject, reading.age, reading.sex, reading.diagnoses) == ("E00001", 74.0, "M", SINUS)
    assert (reading.rhythm, reading.morphology, reading.fold) == ("sinus", "normal", "")
    (stretch,) = reading.stretches
    assert stretch.ppg is None and stretch.keep_s == 10 and list(stretch.leads) == list(LEADS) and reading.notes == []
    for lead, true in zip(LEADS, x):
        assert stretch.leads[lead][1] == 500 and np.allclose(stretch.leads[lead][0], factor * true, atol=1e-9)
    assert SOURCE.files(mirror_of(top), SOURCE.list_records(mirror_of(top))[0]) == [f"{PATH}.hea", f"{PATH}.mat"]


@pytest.mark.parametrize(
    "comments, age, sex",
    [
        (("Age: 74", "Sex: Male"), 74.0, "M"),
        ((" age: 5", " SEX: f"), 5.0, "F"),
        (("Age: NaN", "Sex: NaN"), np.nan, ""),
        (("Age: Unknown", "Sex: Unknown"), np.nan, ""),
        (("Age:", "Sex:"), np.nan, ""),
        (("Average: 9", "Dx: 426783006"), np.nan, ""),
        ((), np.nan, ""),
    ],
)
def test_age_and_sex(top, comments, age, sex):
    write_record(top, comments)
    assert reading_of(top).age == pytest.approx(age, nan_ok=True) and reading_of(top).sex == sex


# ----------------------------------------------------------------------------------------------------------- labels
@pytest.mark.parametrize(
    "codes, rhythm, morphology",
    [
        ([SINUS], "sinus", "normal"),
        ([SINUS, "164934002"], "sinus", ""),  # T wave abnormal: not normal, and no class of its own
        (["427393009"], "sinus", ""),
        (["164889003", "733534002"], "af", "lbbb"),
        (["426177001", SINUS, LBBB], "bradycardia", "lbbb"),
        (["427084000", "713427006"], "tachycardia", "rbbb"),
        ([LVH, LAFB, RBBB], "", "rbbb"),
        ([LVH, LAFB], "", "lafb"),
        ([LAFB, "54329005"], "", "anterior_mi"),
        ([LVH, "429622005"], "", "lvh"),
        (["429622005", "164931005"], "", "st_elevation"),
        (["429622005"], "", "st_depression"),
        (["164865005", "55827005", "445211001"], "", ""),  # infarction without site, voltage alone, posterior fascicle
        ([], "", ""),
    ],
)
def test_labels(codes, rhythm, morphology):
    assert challenge_2021.labels(codes) == (rhythm, morphology)


def test_labels_are_words_of_the_simulator():
    assert set(challenge_2021._MORPHOLOGIES.values()) <= set(CLASSES)
    assert set(challenge_2021._RHYTHMS.values()) <= set(RHYTHMS)


def test_codes_in_the_header(top):
    write_record(top, (" Age: 74", " Dx: 426177001,59118001, 445118002"))
    reading = reading_of(top)
    assert (reading.rhythm, reading.morphology) == ("bradycardia", "rbbb")
    assert reading.diagnoses == "426177001 59118001 445118002"


def test_terms():
    assert (SOURCE.role, SOURCE.about["access"]) == ("ecg only", "open") and "Attribution 4.0" in SOURCE.about[
        "licence"
    ]
    assert "10.13026/34va-7q14" in SOURCE.about["cite"]
    assert "88,253 records" in SOURCE.about["size"] and "V1 to V6 are standard leads" in SOURCE.about['lead "V"']


# ------------------------------------------------------------------------------------------------------- damaged input
@pytest.mark.parametrize(
    "comments, match",
    [((" Age: 740",), "age 740 is outside"), ((" Age: old",), "age 'old' is not"), ((" Sex: X",), "unknown sex code")],
)
def test_wrong_age_and_sex_name_the_header(top, comments, match):
    write_record(top, comments)
    with pytest.raises(InputError, match=f"E00001.hea: {match}"):
        reading_of(top)


def test_a_record_that_cannot_be_used(top):
    write_record(top, unit="NU")
    reading = reading_of(top)
    assert list(reading.stretches) == [] and "E00001.hea: ECG signal 'I' has the unit 'NU'" in reading.notes[0]
    (top / f"{PATH}.mat").unlink()
    reading = reading_of(top)
    assert list(reading.stretches) == [] and "not on the mirror (E00001)" in reading.notes[0]
    (top / f"{PATH}.hea").write_text("")
    with pytest.raises(InputError, match="E00001.hea: the header is empty"):
        reading_of(top)
    (top / f"{PATH}.hea").unlink()
    with pytest.raises(MissingFile, match="E00001.hea"):
        reading_of(top)


# ------------------------------------------------------------------------------------------------ the real recordings
@pytest.fixture
def real(mirror, home):
    source = SOURCE.mirror(mirror)
    return {record.name: (record, SOURCE.read(source, record)) for record in SOURCE.list_records(source)}


@pytest.mark.mirror
def test_real_records(real):
    assert len(real) == 50 and {record.shard for record, _ in real.values()} == {"georgia-g1", "ptb-xl-g1", "ningbo-g1"}
    for _, reading in real.values():
        (stretch,) = reading.stretches
        assert list(stretch.leads) == list(LEADS) and stretch.leads["V6"][1] == 500 and stretch.keep_s == 10
        one, two, three = (stretch.leads[lead][0] for lead in ("I", "II", "III"))
        assert np.abs(one + three - two).max() < 0.02 and 0.2 < np.ptp(two) < 6  # mV, also where the header says "mv"
    assert real["HR06004"][1].morphology == "normal" and real["E07505"][1].morphology == "lvh"


@pytest.mark.mirror
def test_real_copies_are_equal_signals(real):
    """Byte for byte the same recording under two names; its neighbour is another."""
    first, copy, other = (next(real[name][1].stretches).leads for name in ("E07509", "E07510", "E07511"))
    assert all(np.array_equal(first[lead][0], copy[lead][0]) for lead in LEADS)
    assert not np.array_equal(first["II"][0], other["II"][0])
    assert real["E07509"][1].subject != real["E07510"][1].subject


@pytest.mark.mirror
def test_real_records_with_dead_chest_leads_keep_the_others(mirror, home):
    """V2, V4 and V6 of JS20004 and JS20008 are zeros throughout."""
    config = get_config("smoke", "challenge-2021")
    pairs = [("challenge-2021", run_job(job, config, mirror)) for job in list_jobs(config, mirror)]
    index, info = assembly.collect_index(pairs)
    usable = index[(reject(index, config.data.min_quality) == "") & (index["row"] >= 0)].set_index("record")
    assert list(usable.loc[["JS20004", "JS20008"], "leads"]) == ["222222" + "202020"] * 2
    assert info["dead_leads"] == {"V2": 2, "V4": 2, "V6": 2} and info["records"] == 50
    assert "record JS20004: V2, V4, V6: flat or missing in 1 of 1 stretch(es), so not taken there" in info["notes"]


@pytest.mark.mirror
def test_a_real_child_is_read(real):
    reading = real["JS20008"][1]
    assert (reading.age, reading.sex, reading.rhythm) == (5.0, "M", "sinus")
    (stretch,) = reading.stretches
    assert len(stretch.leads) == 12
