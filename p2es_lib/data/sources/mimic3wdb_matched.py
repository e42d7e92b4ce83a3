"""MIMIC-III Waveform Database, matched subset: thousands of intensive-care patients, PPG and up to 8 ECG signals.

RECORDS-waveforms names one record a line, ``p00/p000020/p000020-2183-04-28-17-47``; its segments (``3544749_0001``),
their layout header (``3544749_layout``) and the numerics (the record's name and ``n``) lie in the same folder. RECORDS
names the folders. So say public listings of this data set, and scripts that read it.
"""

import posixpath
import re
from datetime import date
from pathlib import Path

import pandas as pd

from p2es_lib.core.demographics import parse_age, parse_sex
from p2es_lib.core.errors import InputError
from p2es_lib.data.download.mirror import Mirror
from p2es_lib.data.sources.contract import Reading, Record, Source
from p2es_lib.data.sources.tables import UsersTable, once_per_state, read_table
from p2es_lib.data.sources.wfdb_records import record_files, record_stretches, walk_records

_NAME = re.compile(r"p(\d{6})-(\d{4})-(\d{2})-(\d{2})-\d{2}-\d{2}")
#: Dates of birth of people over 89 are shifted so that they seem about 300 years old; their median age is 91.4.
_OLD_AGE, _OLD = 120.0, 90.0


def list_records(mirror: Mirror) -> list[Record]:
    """Waveform records, named by ``RECORDS-waveforms`` (or RECORDS, folder by folder); numerics are left out."""
    top = "RECORDS-waveforms" if mirror.try_fetch("RECORDS-waveforms") else "RECORDS"
    paths = {path: posixpath.basename(path) for path in walk_records(mirror, top)}
    return [Record(name, path, name) for path, name in paths.items() if _NAME.fullmatch(name)]


@once_per_state
def _read_patients(path: Path) -> pd.DataFrame:
    table = read_table(path, "MIMIC-III's PATIENTS.csv", "subject_id", ("gender", "dob"))
    try:
        return table.assign(dob=[date.fromisoformat(str(text)[:10]) for text in table["dob"]])
    except ValueError as error:
        raise InputError(f"{path}: column dob must hold dates ({error}); expected MIMIC-III's PATIENTS.csv") from error


PATIENTS = UsersTable("P2ES_MIMIC3_PATIENTS", "mimiciii", "PATIENTS.csv", "MIMIC-III", _read_patients)


def read(mirror: Mirror, record: Record) -> Reading:
    """One record; its name says whose it is and when it began: an :class:`InputError` if that is no date.

    Dates of a patient are shifted together, so the difference of two is an age.
    """
    subject, *when = _NAME.fullmatch(record.name).groups()
    try:
        began = date(*map(int, when))
    except ValueError as error:
        raise InputError(f"{record.path}: the record's name holds no date ({error})") from error
    row, where = PATIENTS.find(str(int(subject)))
    reading = Reading(subject, notes=[where] if row is None else [])
    if row is not None:
        age = (began - row["dob"]).days / 365.25
        reading.age = _OLD if age > _OLD_AGE else parse_age(round(age, 1), where)
        reading.sex = parse_sex(row["gender"], where)
    reading.stretches = record_stretches(mirror, record.path, reading)
    return reading


SOURCE = Source(
    name="mimic3wdb-matched", title="MIMIC-III Waveform Database Matched Subset 1.0",
    slug="mimic3wdb-matched", version="1.0", role="paired",
    about={
        "size": "22,317 waveform records of 10,282 patients, 2.4 TB",
        "access": "open; age and sex stand in MIMIC-III's PATIENTS.csv, which is credentialed (PhysioNet answers HTTP "
        "403 without rights): ask for access there, and name your copy with P2ES_MIMIC3_PATIENTS",
        "licence": "Open Data Commons Open Database License 1.0",
        "cite": "Moody B et al. MIMIC-III Waveform Database Matched Subset (version 1.0). PhysioNet, 2020. "
        "doi:10.13026/c2294b",
        'lead "V"': "V and MCL are chest electrodes of unknown position: not used as leads",
        "note": "up to 8 of I II III aVR aVL aVF V MCL, PPG, at 125 Hz, in segments with gaps; monitors add a constant "
        "delay to the PPG; BIDMC and other sets of this hospital may hold the same people",
    },
    list_records=list_records, files=lambda mirror, record: record_files(mirror, record.path), read=read,
    subject=lambda mirror, record: _NAME.fullmatch(record.name)[1], companions=PATIENTS.existing, sample=40,
)  # fmt: skip
