"""PTB-XL: twelve leads of 10 s, and a table of age, sex, patients, statements and folds."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd
import pytest
from wfdb_files import read_record, write_record

from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import LEADS
from p2es_lib.data.download.mirror import MissingFile
from p2es_lib.data.sources import ptb_xl
from p2es_lib.data.sources.fetch import select_records
from p2es_lib.simulator.demographics_effects import RHYTHMS
from p2es_lib.simulator.morphology import CLASSES

SOURCE = ptb_xl.SOURCE
HEADER = "ecg_id,patient_id,age,sex,height,recording_date,report,scp_codes,strat_fold,filename_lr,filename_hr"
SR = "{'NORM': 100.0, 'SR': 0.0}"


def row(number=1, patient="15709.0", age="56.0", sex="1", codes=SR, fold="3"):
    place = f"{number // 1000 * 1000:05d}/{number:05d}"
    files = f"records100/{place}_lr,records500/{place}_hr"
    return f'{number},{patient},{age},{sex},,1984-11-09 09:17:34,"sinus, normal","{codes}",{fold},{files}'


def renamed(file):
    return row().replace("records500/00000/00001_hr", file)


@pytest.fixture
def top(tmp_path, home):
    """Folder of the data set on a mirror, with a table of three records, the first of which is there."""
    folder = tmp_path / "mirror" / "ptb-xl" / "1.0.3"
    folder.mkdir(parents=True)
    write_table(folder, row(), row(2, "13243.0", "19.0", "0", "{'SBRAD': 0.0}", "9"), row(21001, fold="10"))
    (folder / "scp_statements.csv").write_text(",description\nNORM,normal ECG\n")
    write_leads(folder)
    return folder


def write_table(top, *rows, header=HEADER):
    (top / "ptbxl_database.csv").write_text("\n".join([header, *rows]) + "\n")


def write_leads(top, units="mV", leads=(*LEADS[:3], "AVR", "AVL", "AVF", *LEADS[6:])):
    """12 leads of 10 s at 500 Hz, the augmented ones in capitals; returns them, (12, 5000) mV."""
    x = np.random.default_rng(1).integers(-900, 900, (12, 5000)) / 1000
    write_record(top / "records500" / "00000", "00001_hr", dict(zip(leads, x)), 500.0, units=[units] * 12)
    return x


def mirror_of(top):
    return SOURCE.mirror(top.parent.parent)


def reading_of(top, number=1):
    return read_record(SOURCE, mirror_of(top), SOURCE.list_records(mirror_of(top))[number - 1])


# -------------------------------------------------------------------------------------------------- files as they are
def test_the_table_lists_the_records_and_a_folder_is_a_shard(top):
    records = SOURCE.list_records(mirror_of(top))
    assert [(r.name, r.path, r.shard) for r in records] == [
        ("00001_hr", "records500/00000/00001_hr", "00000"), ("00002_hr", "records500/00000/00002_hr", "00000"),
        ("21001_hr", "records500/21000/21001_hr", "21000"),
    ]  # fmt: skip
    assert SOURCE.files(mirror_of(top), records[0]) == [f"records500/00000/00001_hr.{end}" for end in ("hea", "dat")]
    assert SOURCE.tables == ("ptbxl_database.csv", "scp_statements.csv")


def test_a_record(top):
    x = write_leads(top)
    reading = reading_of(top)
    assert (reading.subject, reading.age, reading.sex, reading.diagnoses) == ("15709", 56.0, "F", "NORM SR")
    assert (reading.rhythm, reading.morphology, reading.fold) == ("sinus", "normal", "train")
    (stretch,) = reading.stretches
    assert stretch.ppg is None and stretch.keep_s == 10 and set(stretch.leads) == set(LEADS) and reading.notes == []
    for lead, true in zip(LEADS, x):
        assert stretch.leads[lead][1] == 500 and np.allclose(stretch.leads[lead][0], true, atol=1e-4)


@pytest.mark.parametrize(
    "age, sex, expected",
    [("56.0", "0", (56.0, "M")), ("300.0", "1", (90.0, "F")), ("0", "0.0", (0.0, "M")), ("", "", (np.nan, ""))],
)
def test_age_and_sex(top, age, sex, expected):
    write_table(top, row(age=age, sex=sex))
    assert reading_of(top).age == pytest.approx(expected[0], nan_ok=True) and reading_of(top).sex == expected[1]


def test_folds_and_a_patient_who_is_not_named(top):
    folds = {1: "train", 8: "train", 9: "validation", 10: "test"}
    for fold, split in folds.items():
        write_table(top, row(fold=str(fold)))
        assert reading_of(top).fold == split
    for fold in ("", "11"):
        write_table(top, row(fold=fold, patient=""))
        assert (reading_of(top).fold, reading_of(top).subject) == ("", "00001_hr")


def test_a_sample_is_spread_over_the_folds(top):
    """As many of each, however the hashes of their names fall, so that each split has its share."""
    mirror, folds = mirror_of(top), {n: n // 30 % 10 + 1 for n in range(1, 300)} | {n: 1 for n in range(300, 400)}
    write_table(top, *(row(n, fold=str(fold)) for n, fold in folds.items()))
    samples = [{int(r.name[:5]) for r in select_records(SOURCE, mirror, number=n)} for n in (3, 10, 20, 45, 200, 399)]
    assert [len(sample) for sample in samples] == [3, 10, 20, 45, 200, 399]
    assert all(small < large for small, large in zip(samples, samples[1:]))
    counts = [Counter(folds.get(n) for n in sample) for sample in samples]
    assert counts[0] == {10: 1, 9: 1, 8: 1} and counts[2] == dict.fromkeys(range(1, 11), 2)
    assert set(counts[3].values()) == {4, 5}
    assert samples[2] == {int(r.name[:5]) for r in select_records(SOURCE, mirror, number=20)}
    assert samples[2] != set(sorted(samples[5])[:20])


# ----------------------------------------------------------------------------------------------------------- labels
@pytest.mark.parametrize(
    "codes, rhythm, morphology",
    [
        ({"NORM": 100, "SR": 0}, "sinus", "normal"),
        ({"NORM": 80, "SBRAD": 0}, "bradycardia", "normal"),
        ({"NORM": 15}, "", ""),
        ({"SARRH": 0, "NDT": 100}, "sinus", ""),
        ({"AFIB": 0, "SR": 0, "CLBBB": 100}, "af", "lbbb"),
        ({"STACH": 0, "CRBBB": 100, "LAFB": 100}, "tachycardia", "rbbb"),
        ({"IMI": 15, "LAFB": 100, "LVH": 100}, "", "lafb"),
        ({"ASMI": 50, "LAFB": 100}, "", "anterior_mi"),
        ({"ILMI": 80, "LVH": 100, "LPFB": 100}, "", "inferior_mi"),
        ({"LAFB": 35, "LVH": 50}, "", "lvh"),
        ({"NORM": 100, "LAFB": 100}, "", "normal"),
        ({"NORM": 15, "LAFB": 100, "STD_": 0}, "", "lafb"),
        ({"STD_": 0, "NORM": 100}, "", "st_depression"),
        ({"STE_": 0, "STD_": 0}, "", "st_elevation"),
        ({}, "", ""),
    ],
)
def test_labels(codes, rhythm, morphology):
    assert ptb_xl.labels(codes) == (rhythm, morphology)


@pytest.mark.parametrize(
    "label, codes",
    [("anterior_mi", ("AMI", "ASMI", "ALMI")), ("inferior_mi", ("IMI", "ILMI", "IPMI", "IPLMI")), ("", ("LMI", "PMI"))],
)
def test_sites_of_infarction(label, codes):
    assert [ptb_xl.labels({code: 100})[1] for code in codes] == [label] * len(codes)


def test_labels_are_words_of_the_simulator():
    assert set(ptb_xl._MORPHOLOGIES.values()) == set(CLASSES)
    assert set(ptb_xl._RHYTHMS.values()) == set(RHYTHMS)


@pytest.mark.parametrize("text", ["__import__('os').getcwd()", "{'A': x}", "{'A': 'x'}", "[1]", "", "{'A': 1", "7"])
def test_statements_that_are_none(text):
    with pytest.raises(InputError, match="here: scp_codes .* is not a dictionary"):
        ptb_xl.parse_statements(text, "here")


def test_terms():
    assert (SOURCE.role, SOURCE.about["access"]) == ("ecg only", "open") and "Attribution 4.0" in SOURCE.about[
        "licence"
    ]
    assert "10.1038/s41597-020-0495-6" in SOURCE.about["cite"]
    assert (
        "21,799 records of 18,869 patients" in SOURCE.about["size"]
        and "V1 to V6 are standard leads" in SOURCE.about['lead "V"']
    )


# ------------------------------------------------------------------------------------------------------- damaged input
@pytest.mark.parametrize(
    "rows, match",
    [
        ([row(age="156")], "record 00001_hr: age 156 is outside"),
        ([row(age="-1")], "record 00001_hr: age -1 is outside"),
        ([row(age="old")], "column age must hold numbers"),
        ([row(sex="2")], "record 00001_hr: sex 2 is neither 0 nor 1"),
        ([row(sex="F")], "column sex must hold numbers"),
        ([row(patient="x")], "column patient_id must hold numbers"),
        ([row(codes="NORM")], "record 00001_hr: scp_codes 'NORM' is not a dictionary"),
        ([row(), row()], "row 3 has no filename_hr, or that of another row"),
        ([row().removesuffix("records500/00000/00001_hr")], "row 2 has no filename_hr"),
        ([row(2), renamed("../../00001_hr")], "row 3, filename_hr: refusing the file name '../../00001_hr'"),
        ([renamed("/etc/00001_hr")], "row 2, filename_hr: refusing the file name '/etc/00001_hr'"),
        ([renamed("00001_hr")], "row 2, filename_hr '00001_hr' is no path such as records500/00000/00001_hr"),
        ([renamed("a folder/00001_hr")], "row 2, filename_hr 'a folder/00001_hr' is no path such as"),
        (
            [row(), renamed("records500/1/00001_hr")],
            "row 3, filename_hr 'records500/1/00001_hr' has the name of another",
        ),
    ],
)
def test_a_broken_row(top, rows, match):
    write_table(top, *rows)
    with pytest.raises(InputError, match=f"ptbxl_database.csv.*{match}"):
        reading_of(top)


@pytest.mark.parametrize(
    "content, match",
    [
        (None, "data set ptb-xl: .*ptbxl_database.csv not found; .*<mirror>/ptb-xl/1.0.3/ptbxl_database.csv"),
        (b"", "ptbxl_database.csv: cannot be read as PTB-XL's"),
        (bytes(range(128, 256)) * 9, "ptbxl_database.csv: cannot be read as PTB-XL's"),
        (b"ecg_id,age,sex,filename_hr\n", "ptbxl_database.csv: no column scp_codes, patient_id, strat_fold"),
    ],
)
def test_a_broken_table(top, content, match):
    path = top / "ptbxl_database.csv"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(InputError, match=match):
        SOURCE.list_records(mirror_of(top))


def test_a_record_that_the_table_no_longer_names(top):
    record = SOURCE.list_records(mirror_of(top))[0]
    write_table(top, row(2))
    with pytest.raises(InputError, match="record 00001_hr is not in this table"):
        SOURCE.read(mirror_of(top), record)


def test_a_record_that_is_not_there_or_in_no_unit(top):
    with pytest.raises(MissingFile, match="00002_hr.hea"):
        reading_of(top, 2)
    write_leads(top, units="NU")
    reading = reading_of(top)
    assert list(reading.stretches) == [] and "00001_hr.hea: ECG signal 'I' has the unit 'NU'" in reading.notes[0]


# ------------------------------------------------------------------------------------------------ the real recordings
@pytest.fixture
def real(mirror, home):
    if not (mirror / "ptb-xl").is_dir():
        pytest.skip("no PTB-XL in the mirror")
    source = SOURCE.mirror(mirror)
    return {record.name: SOURCE.read(source, record) for record in SOURCE.list_records(source)}


@pytest.mark.mirror
def test_no_real_patient_straddles_a_split(real):
    about = pd.DataFrame({"subject": [r.subject for r in real.values()], "fold": [r.fold for r in real.values()]})
    assert len(about) == 500 and about["subject"].nunique() == 466
    assert (about.groupby("subject")["fold"].nunique() == 1).all()
    assert about["fold"].value_counts().to_dict() == {"train": 353, "validation": 81, "test": 66}


@pytest.mark.mirror
def test_real_demographics_and_labels(real):
    """Record 235 is stated to be normal and to have a fascicular block: it counts as normal."""
    ages = np.array([r.age for r in real.values()])
    assert [r.sex for r in real.values()].count("F") == 251 and np.isnan(ages).sum() == 4
    assert (np.nanmin(ages), np.nanmedian(ages), np.nanmax(ages)) == (17.0, 51.5, 91.0)
    labels = [(real[f"{name}_hr"].rhythm, real[f"{name}_hr"].morphology) for name in ("00001", "00002", "00235")]
    assert labels == [("sinus", "normal"), ("bradycardia", "normal"), ("bradycardia", "normal")]
    counts = pd.Series([r.morphology for r in real.values()]).value_counts()
    assert counts[["normal", "lafb", "lvh", "lbbb", "rbbb"]].tolist() == [297, 19, 23, 8, 8]


@pytest.mark.mirror
def test_a_real_record(real):
    (stretch,) = real["00001_hr"].stretches
    x = {lead: stretch.leads[lead][0] for lead in LEADS}
    assert all(len(signal) == 5000 and 0.1 < np.ptp(signal) < 4 for signal in x.values())
    assert np.abs(x["I"] + x["III"] - x["II"]).max() < 0.01 and np.abs(x["aVR"] + (x["I"] + x["II"]) / 2).max() < 0.01
