"""MIMIC-III Waveform Database, matched subset: thousands of intensive-care patients, PPG and up to 8 ECG signals.

RECORDS-waveforms names one record a line, ``p00/p000020/p000020-2183-04-28-17-47``; its segments (``3544749_0001``),
their layout header (``3544749_layout``) and the numerics (the record's name and ``n``) lie in the same folder. RECORDS
names the folders. So listings of this data set, and scripts that read it, in public repositories say.
"""

from __future__ import annotations

import posixpath
import re
from datetime import date
from functools import lru_cache
from pathlib import Path

import pandas as pd

from p2es_lib.core.demographics import parse_age, parse_sex
from p2es_lib.core.errors import InputError
from p2es_lib.data.download.mirror import Mirror
from p2es_lib.data.sources.contract import Reading, Record, Source
from p2es_lib.data.sources.tables import read_table, users_table
from p2es_lib.data.sources.wfdb_records import record_files, record_stretches, walk_records

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
    """MIMIC-III's ``PATIENTS.csv`` (credentialed), if the user has it: ``$P2ES_MIMIC3_PATIENTS``, or ``data/raw``."""
    return users_table("P2ES_MIMIC3_PATIENTS", "mimiciii", "PATIENTS.csv", "MIMIC-III's PATIENTS.csv")


@lru_cache(maxsize=2)
def read_patients(path: Path, modified_ns: int) -> pd.DataFrame:
    """``PATIENTS.csv`` indexed by subject_id (str), with gender and dob (date); read once per state of the file."""
    table = read_table(path, "MIMIC-III's PATIENTS.csv", "subject_id", ("gender", "dob"))
    try:
        return table.assign(dob=[date.fromisoformat(str(text)[:10]) for text in table["dob"]])
    except ValueError as error:
        raise InputError(f"{path}: column dob must hold dates ({error}); expected MIMIC-III's PATIENTS.csv") from error


def _demographics(record: Record) -> tuple[str, float, str, str]:
    """Subject, age at the recording, sex, and why they are missing.

    Dates of a patient are shifted together, so their difference is an age.
    """
    subject, *when = _NAME.fullmatch(record.name).groups()
    try:
        began = date(*map(int, when))
    except ValueError as error:
        raise InputError(f"{record.path}: the record's name holds no date ({error})") from error
    path, number = patients_file(), str(int(subject))
    if path is None:
        return subject, float("nan"), "", "MIMIC-III's PATIENTS.csv is credentialed; see P2ES_MIMIC3_PATIENTS"
    patients, where = read_patients(path, path.stat().st_mtime_ns), f"{path}, subject_id {number}"
    if number not in patients.index:
        return subject, float("nan"), "", f"{path} does not name subject_id {number}"
    row = patients.loc[number]
    age = (began - row["dob"]).days / 365.25
    return subject, _OLD if age > _OLD_AGE else parse_age(round(age, 1), where), parse_sex(row["gender"], where), ""


def read(mirror: Mirror, record: Record) -> Reading:
    """One record; its name says whose it is and when it began."""
    subject, age, sex, missing = _demographics(record)
    reading = Reading(subject, age, sex)
    if missing:
        reading.notes.append(f"age and sex are not known: {missing}")
    reading.stretches = record_stretches(mirror, record.path, reading)
    return reading


SOURCE = Source(
    name=SLUG,
    title="MIMIC-III Waveform Database Matched Subset 1.0",
    slug=SLUG,
    version=VERSION,
    role="paired",
    about={
        "size": "22,317 waveform records of 10,282 patients, 2.4 TB",
        "access": (
            "open; age and sex stand in MIMIC-III's PATIENTS.csv, which is credentialed (PhysioNet answers HTTP 403 "
            "without rights): ask for access there, and name your copy with P2ES_MIMIC3_PATIENTS"
        ),
        "licence": "Open Data Commons Open Database License 1.0",
        "cite": (
            "Moody B et al. MIMIC-III Waveform Database Matched Subset (version 1.0). PhysioNet, 2020. "
            "doi:10.13026/c2294b"
        ),
        'lead "V"': "V and MCL are chest electrodes of unknown position: not used as leads",
        "note": (
            "up to 8 of I II III aVR aVL aVF V MCL, PPG, at 125 Hz, in segments with gaps; monitors add a constant "
            "delay to the PPG; BIDMC and other sets of this hospital may hold the same people"
        ),
    },
    list_records=list_records,
    files=lambda mirror, record: record_files(mirror, record.path),
    read=read,
    subject=lambda mirror, record: _NAME.fullmatch(record.name)[1],
    companions=lambda: [path for path in [patients_file()] if path],
    sample=40,
)
