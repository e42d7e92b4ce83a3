"""MIMIC-III Waveform Database, matched subset: thousands of intensive-care patients, PPG and up to 8 ECG signals."""

from __future__ import annotations

import os
import posixpath
import re
from datetime import date
from functools import lru_cache
from pathlib import Path

import pandas as pd

from p2es_lib import paths
from p2es_lib.demographics import parse_sex
from p2es_lib.errors import InputError
from p2es_lib.sources.contract import Reading, Record, Source
from p2es_lib.sources.mirror import Mirror
from p2es_lib.sources.wfdb_records import record_files, record_stretches, walk_records

SLUG, VERSION = "mimic3wdb-matched", "1.0"
_NAME = re.compile(r"p(\d{6})-(\d{4})-(\d{2})-(\d{2})-\d{2}-\d{2}")
#: Dates of birth of people over 89 are shifted so that they seem about 300 years old; their median age is 91.4.
_OLD_AGE, _OLD = 120.0, 90.0


def list_records(mirror: Mirror) -> list[Record]:
    """Waveform records, named by ``RECORDS-waveforms`` (or RECORDS, folder by folder); numerics are left out."""
    top = "RECORDS-waveforms" if mirror.try_fetch("RECORDS-waveforms") else "RECORDS"
    found = [path for path in walk_records(mirror, top) if _NAME.fullmatch(posixpath.basename(path))]
    return [Record(posixpath.basename(path), path, posixpath.basename(path)) for path in found]


def patients_file() -> Path | None:
    """MIMIC-III's ``PATIENTS.csv`` (credentialed), if the user has it: ``$P2ES_MIMIC3_PATIENTS``, or in ``data/raw``."""
    named = os.environ.get("P2ES_MIMIC3_PATIENTS")
    if named and not Path(named).is_file():
        raise InputError(f"P2ES_MIMIC3_PATIENTS={named!r}: no such file; it is MIMIC-III's PATIENTS.csv or .csv.gz")
    candidates = [Path(named)] if named else [paths.raw_dir("mimiciii") / f"PATIENTS.csv{end}" for end in ("", ".gz")]
    return next((path for path in candidates if path.is_file()), None)


@lru_cache(maxsize=2)
def read_patients(path: Path, modified_ns: int) -> pd.DataFrame:
    """``PATIENTS.csv`` indexed by subject_id (int), with gender and dob (date); read once per state of the file."""
    try:
        table = pd.read_csv(path)
        table.columns = [str(column).lower() for column in table.columns]
        dates = [date.fromisoformat(str(text)[:10]) for text in table["dob"]]
        return table[["subject_id", "gender"]].assign(dob=dates).drop_duplicates("subject_id").set_index("subject_id")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as MIMIC-III's PATIENTS.csv ({error})") from error
    except KeyError as error:
        raise InputError(f"{path}: no column {error}; expected MIMIC-III's PATIENTS.csv") from error


def _demographics(record: Record) -> tuple[str, float, str]:
    """Subject, age at the recording, sex. Dates of a patient are shifted together, so their difference is an age."""
    subject, *when = _NAME.fullmatch(record.name).groups()
    try:
        began = date(*map(int, when))
    except ValueError as error:
        raise InputError(f"{record.path}: the record's name holds no date ({error})") from error
    path = patients_file()
    patients = read_patients(path, path.stat().st_mtime_ns) if path else None
    if patients is None or int(subject) not in patients.index:
        return subject, float("nan"), ""
    row = patients.loc[int(subject)]
    age = (began - row["dob"]).days / 365.25
    return subject, _OLD if age > _OLD_AGE else max(0.0, round(age, 1)), parse_sex(row["gender"])


def read(mirror: Mirror, record: Record) -> Reading:
    """One record; its name says whose it is and when it began."""
    subject, age, sex = _demographics(record)
    reading = Reading(subject, age, sex, iter(()))
    if not age == age:
        reading.notes.append("age and sex are not known: MIMIC-III's PATIENTS.csv is credentialed; see P2ES_MIMIC3_PATIENTS")
    reading.stretches = record_stretches(mirror, record.path, reading)
    return reading


SOURCE = Source(
    name=SLUG,
    title="MIMIC-III Waveform Database Matched Subset 1.0",
    slug=SLUG,
    version=VERSION,
    role="paired",
    access="open; age and sex stand in MIMIC-III's PATIENTS.csv, which is credentialed (PhysioNet answers HTTP 403 "
    "without rights): ask for access there, and name your copy with P2ES_MIMIC3_PATIENTS",
    licence="Open Data Commons Open Database License 1.0",
    citation="Moody B et al. MIMIC-III Waveform Database Matched Subset (version 1.0). PhysioNet, 2020. doi:10.13026/c2294b",
    size="22,317 waveform records of 10,282 patients, 2.4 TB",
    chest_lead="V and MCL are chest electrodes of unknown position: not used as leads",
    notes="up to 8 of I II III aVR aVL aVF V MCL, PPG, at 125 Hz, in segments with gaps; monitors add a constant delay to "
    "the PPG; BIDMC and other sets of this hospital may hold the same people",
    list_records=list_records,
    files=lambda mirror, record: record_files(mirror, record.path),
    read=read,
    companions=lambda: [path for path in [patients_file()] if path],
    sample=40,
    code=("sources/mimic3wdb_matched.py", "sources/wfdb_records.py", "sources/parts.py"),
)
