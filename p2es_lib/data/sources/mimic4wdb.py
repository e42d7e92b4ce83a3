"""MIMIC-IV Waveform Database: bedside monitors, hours to days per patient, II, aVR, III..., V and PPG."""

import posixpath
import re
from pathlib import Path

import pandas as pd

from p2es_lib.core.demographics import parse_age, parse_sex
from p2es_lib.data.download.mirror import Mirror
from p2es_lib.data.sources.contract import Reading, Record, Source
from p2es_lib.data.sources.tables import UsersTable, once_per_state, read_table
from p2es_lib.data.sources.wfdb_records import read_header, record_files, record_stretches, walk_records

#: Value of ``anchor_age`` that stands for all ages over 89.
_OVER_89, _OLD = 91, 90.0


def list_records(mirror: Mirror) -> list[Record]:
    """All records, as the tree of RECORDS files names them; one shard each."""
    return [Record(posixpath.basename(path), path, posixpath.basename(path)) for path in walk_records(mirror)]


@once_per_state
def _read_patients(path: Path) -> pd.DataFrame:
    numbers = ("anchor_age", "anchor_year")
    return read_table(path, "MIMIC-IV's hosp/patients.csv", "subject_id", ("gender", *numbers), numbers)


PATIENTS = UsersTable("P2ES_MIMIC4_PATIENTS", "mimiciv", "hosp/patients.csv", "MIMIC-IV", _read_patients)


def _subject(mirror: Mirror, record: Record):
    """The subject, from the header's comments or else from the name of the folder; and the header."""
    header = read_header(mirror.fetch(f"{record.path}.hea"))
    found = re.search(r"subject_id\s+(\d+)", " ".join(header.comments or []))
    folder = posixpath.basename(posixpath.dirname(posixpath.dirname(record.path))).lstrip("p")
    return (found.group(1) if found else folder or record.name), header


def read(mirror: Mirror, record: Record) -> Reading:
    """One record, with what its header says of the patient.

    Dates of a patient are shifted together, so the years from ``anchor_year``, in which the patient is ``anchor_age``
    years old, to that of the recording are true.
    """
    subject, header = _subject(mirror, record)
    row, where = PATIENTS.find(subject)
    reading = Reading(subject, notes=[where] if row is None else [])
    if row is not None:
        year = header.base_date.year if header.base_date else row["anchor_year"]
        age = row["anchor_age"] + year - row["anchor_year"]
        reading.age = _OLD if row["anchor_age"] == _OVER_89 else parse_age(age, where)
        reading.sex = parse_sex(row["gender"], where)
    reading.stretches = record_stretches(mirror, record.path, reading)
    return reading


SOURCE = Source(
    name="mimic4wdb", title="MIMIC-IV Waveform Database 0.1.0", slug="mimic4wdb", version="0.1.0", role="paired",
    about={
        "size": "200 records of 198 patients, hours to days each",
        "access": "open; age and sex stand in MIMIC-IV's patients.csv, which is credentialed (PhysioNet answers HTTP "
        "403 without rights): ask for access there, and name your copy with P2ES_MIMIC4_PATIENTS",
        "licence": "Open Data Commons Open Database License 1.0",
        "cite": "Moody B et al. MIMIC-IV Waveform Database (version 0.1.0). PhysioNet, 2022. doi:10.13026/a2mw-f949",
        'lead "V"': "a chest electrode of unknown position: not used as a lead",
        "note": "II, V, aVR and others at 249.89 Hz, PPG at 124.945 Hz; monitors add a constant delay to the PPG",
    },
    list_records=list_records, files=lambda mirror, record: record_files(mirror, record.path), read=read,
    subject=lambda mirror, record: _subject(mirror, record)[0], companions=PATIENTS.existing, sample=20,
)  # fmt: skip
