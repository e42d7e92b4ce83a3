"""MIMIC-IV Waveform Database: bedside monitors, hours to days per patient, II, aVR, III..., V and PPG."""

from __future__ import annotations

import posixpath
import re
from functools import lru_cache
from pathlib import Path

import pandas as pd

from p2es_lib.core.demographics import parse_age, parse_sex
from p2es_lib.data.download.mirror import Mirror
from p2es_lib.data.sources.contract import Reading, Record, Source
from p2es_lib.data.sources.tables import read_table, users_table
from p2es_lib.data.sources.wfdb_records import read_header, record_files, record_stretches, walk_records

SLUG, VERSION = "mimic4wdb", "0.1.0"
#: Value of ``anchor_age`` that stands for all ages over 89.
_OVER_89, _OLD = 91, 90.0


def list_records(mirror: Mirror) -> list[Record]:
    """All records, as the tree of RECORDS files names them; one shard each."""
    return [Record(posixpath.basename(path), path, posixpath.basename(path)) for path in walk_records(mirror)]


def patients_file() -> Path | None:
    """MIMIC-IV's ``patients.csv`` (credentialed), if the user has it: ``$P2ES_MIMIC4_PATIENTS``, or in ``data/raw``."""
    return users_table("P2ES_MIMIC4_PATIENTS", "mimiciv", "patients.csv", "MIMIC-IV's hosp/patients.csv")


@lru_cache(maxsize=2)
def read_patients(path: Path, modified_ns: int) -> pd.DataFrame:
    """``patients.csv`` indexed by subject_id (str), with gender, anchor_age and anchor_year; read once per state."""
    numbers = ("anchor_age", "anchor_year")
    return read_table(path, "MIMIC-IV's hosp/patients.csv", "subject_id", ("gender", *numbers), numbers)


def _demographics(subject: str, header) -> tuple[float, str, str]:
    """Age at the recording, sex, and why they are missing.

    Dates of a patient are shifted together, so the years from ``anchor_year``, in which the patient is ``anchor_age``
    years old, to that of the recording are true.
    """
    path = patients_file()
    if path is None:
        return float("nan"), "", "MIMIC-IV's patients.csv is credentialed; see P2ES_MIMIC4_PATIENTS"
    patients, where = read_patients(path, path.stat().st_mtime_ns), f"{path}, subject_id {subject}"
    if subject not in patients.index:
        return float("nan"), "", f"{path} does not name subject_id {subject}"
    row = patients.loc[subject]
    year = header.base_date.year if header.base_date else row["anchor_year"]
    age = _OLD if row["anchor_age"] == _OVER_89 else parse_age(row["anchor_age"] + year - row["anchor_year"], where)
    return age, parse_sex(row["gender"], where), ""


def _subject(mirror: Mirror, record: Record):
    """The subject, from the header's comments or else from the name of the folder; and the header."""
    header = read_header(mirror.fetch(f"{record.path}.hea"))
    found = re.search(r"subject_id\s+(\d+)", " ".join(header.comments or []))
    folder = posixpath.basename(posixpath.dirname(posixpath.dirname(record.path))).lstrip("p")
    return (found.group(1) if found else folder or record.name), header


def read(mirror: Mirror, record: Record) -> Reading:
    """One record, with what its header says of the patient."""
    subject, header = _subject(mirror, record)
    age, sex, missing = _demographics(subject, header)
    reading = Reading(subject, age, sex)
    if missing:
        reading.notes.append(f"age and sex are not known: {missing}")
    reading.stretches = record_stretches(mirror, record.path, reading)
    return reading


SOURCE = Source(
    name=SLUG,
    title="MIMIC-IV Waveform Database 0.1.0",
    slug=SLUG,
    version=VERSION,
    role="paired",
    about={
        "size": "200 records of 198 patients, hours to days each",
        "access": (
            "open; age and sex stand in MIMIC-IV's patients.csv, which is credentialed (PhysioNet answers HTTP 403 "
            "without rights): ask for access there, and name your copy with P2ES_MIMIC4_PATIENTS"
        ),
        "licence": "Open Data Commons Open Database License 1.0",
        "cite": "Moody B et al. MIMIC-IV Waveform Database (version 0.1.0). PhysioNet, 2022. doi:10.13026/a2mw-f949",
        'lead "V"': "a chest electrode of unknown position: not used as a lead",
        "note": "II, V, aVR and others at 249.89 Hz, PPG at 124.945 Hz; monitors add a constant delay to the PPG",
    },
    list_records=list_records,
    files=lambda mirror, record: record_files(mirror, record.path),
    read=read,
    subject=lambda mirror, record: _subject(mirror, record)[0],
    companions=lambda: [path for path in [patients_file()] if path],
    sample=20,
)
