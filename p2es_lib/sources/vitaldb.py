"""VitalDB: surgical patients, hours each, ECG II and V5 and PPG at 500 Hz, read with the package ``vitaldb``."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from p2es_lib.demographics import parse_age, parse_sex
from p2es_lib.errors import InputError
from p2es_lib.sources.contract import Reading, Record, Signal, Source
from p2es_lib.sources.mirror import MissingFile, Mirror
from p2es_lib.sources.parts import in_parts

SLUG, VERSION = "vitaldb", "1.0.0"
TABLE = "clinical_data.csv"
SAMPLING_RATE = 500.0
PPG_TRACK = "SNUADC/PLETH"
#: The second ECG channel is named V5 by the data set's authors; how often the electrode truly lay there is not known.
LEAD_TRACKS = {"II": "SNUADC/ECG_II", "V5": "SNUADC/ECG_V5"}
_SHARD_CASES = 10
_MILLIVOLTS = {"mv": 1.0, "uv": 1e-3}


@lru_cache(maxsize=4)
def _read_table(path: Path, modified_ns: int) -> pd.DataFrame:
    """``clinical_data.csv`` by case number; read once per state of the file."""
    try:
        table = pd.read_csv(path, low_memory=False, encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as CSV ({error})") from error
    table.columns = [str(column).strip().lower() for column in table.columns]
    if missing := [column for column in ("caseid", "subjectid", "age", "sex") if column not in table]:
        raise InputError(f"{path}: no column {', '.join(missing)}; expected VitalDB's {TABLE}")
    return table.set_index("caseid")


def _table(mirror: Mirror) -> tuple[Path, pd.DataFrame]:
    try:
        path = mirror.fetch(TABLE)
    except MissingFile as error:
        raise InputError(
            f"data set {SLUG}: {mirror.where(TABLE)} not found; the mirror must be laid out as PhysioNet, "
            f"<mirror>/{mirror.base}/{TABLE}"
        ) from error
    return path, _read_table(path, path.stat().st_mtime_ns)


def list_records(mirror: Mirror) -> list[Record]:
    """All cases that the table names; ten of them are a shard."""
    _, table = _table(mirror)
    return [Record(f"{case:04d}", f"vital_files/{case:04d}", f"cases-{case // _SHARD_CASES:03d}") for case in map(int, table.index)]


def read(mirror: Mirror, record: Record) -> Reading:
    """One case. A person may have several: they are one subject."""
    path, table = _table(mirror)
    case, where = int(record.name), f"{path}, case {record.name}"
    if case not in table.index:
        raise InputError(f"{where}: not in this table")
    row = table.loc[case]
    age, sex = parse_age(row["age"], where), parse_sex(row["sex"], where)
    local = mirror.fetch(f"{record.path}.vital")
    reading = Reading(str(int(row["subjectid"])), age, sex, iter(()))

    def stretches():
        ppg, leads = read_vital(local)
        yield from in_parts(ppg, leads)

    reading.stretches = stretches()
    return reading


def read_vital(path: Path) -> tuple[Signal, dict[str, Signal]]:
    """PPG and leads (mV) of a ``.vital`` file; NaN where a track has no samples.

    Raises
    ------
    InputError
        Not such a file, no PPG or no ECG track, or an ECG in another unit than mV or uV.
    """
    import vitaldb

    try:
        file = vitaldb.VitalFile(str(path), [PPG_TRACK, *LEAD_TRACKS.values()])
        tracks = {name: file.find_track(name) for name in (PPG_TRACK, *LEAD_TRACKS.values())}
    except Exception as error:  # the package raises whatever it meets in a damaged file
        raise InputError(f"{path}: not a readable .vital file ({type(error).__name__}: {error})") from error
    found = {lead: name for lead, name in LEAD_TRACKS.items() if tracks[name] is not None}
    if tracks[PPG_TRACK] is None or not found:
        here = ", ".join(name for name, track in tracks.items() if track is not None) or "none of them"
        raise InputError(f"{path}: needs {PPG_TRACK} and an ECG track, found {here}")

    def samples(name: str) -> np.ndarray:
        return np.asarray(file.get_track_samples(name, 1 / SAMPLING_RATE), dtype=np.float32)

    leads = {}
    for lead, name in found.items():
        unit = (tracks[name].unit or "mV").strip().lower()  # documented as mV where the file says nothing
        if unit not in _MILLIVOLTS:
            raise InputError(f"{path}: track {name} has the unit {tracks[name].unit!r}; only mV and uV can be used")
        leads[lead] = (samples(name) * np.float32(_MILLIVOLTS[unit]), SAMPLING_RATE)
    return (samples(PPG_TRACK), SAMPLING_RATE), leads


SOURCE = Source(
    name=SLUG,
    title="VitalDB, a high-fidelity multi-parameter vital signs database in surgical patients, 1.0.0",
    slug=SLUG,
    version=VERSION,
    role="paired",
    access="open",
    licence="Creative Commons Attribution 4.0",
    citation="Lee HC et al. VitalDB, a high-fidelity multi-parameter vital signs database in surgical patients. Sci Data "
    "2022;9:279. doi:10.1038/s41597-022-01411-5",
    size="6,388 cases of 6,090 patients, hours each",
    chest_lead="a channel named V5 by the authors, taken as V5; electrode positions in the operating room vary",
    notes="under anaesthesia; II alone of the limb leads, from which no other follows; cautery and gaps are common",
    list_records=list_records,
    files=lambda mirror, record: [f"{record.path}.vital"],
    read=read,
    tables=(TABLE,),
    sample=20,
    code=("sources/vitaldb.py", "sources/parts.py"),
)
