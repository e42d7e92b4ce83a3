"""VitalDB: surgical patients, hours each, ECG II and V5 and PPG at 500 Hz, read with the package ``vitaldb``.

Track names, their rate of 500 Hz and the unit mV of the ECG are those of the authors' documentation and of their
package (``vitaldb.utils.TRACK_INFO``). Files lie at PhysioNet as public scripts that download them say.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from p2es_lib.core.demographics import parse_age, parse_sex
from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import MILLIVOLTS
from p2es_lib.data.download.mirror import Mirror
from p2es_lib.data.sources.contract import Reading, Record, Signal, Source, Stretch, in_parts
from p2es_lib.data.sources.tables import once_per_state, read_table

TABLE = "clinical_data.csv"
PPG_TRACK = "SNUADC/PLETH"
#: The second ECG channel is named V5 by the data set's authors; how often the electrode truly lay there is not known.
LEAD_TRACKS = {"II": "SNUADC/ECG_II", "V5": "SNUADC/ECG_V5"}
_OVER_89, _OLD = ">89", 90.0  # ages are not given beyond
#: Stands for a gap in tracks of whole numbers, by the number of their format, in files as ``vitaldb`` writes them.
_GAP = {3: -128, 4: 255, 5: -32768, 6: 65535, 7: -(2**31), 8: 2**32 - 1}


@once_per_state
def _read_table(path: Path) -> pd.DataFrame:
    table = read_table(path, f"VitalDB's {TABLE}", "caseid", ("subjectid", "age", "sex"))
    for column in (table.index.to_series(), table["subjectid"]):
        if not (good := column.str.fullmatch(r"\d+", na=False)).all():
            raise InputError(f"{path}: {column.name} {column[~good].iloc[0]!r} is no number of a case or a person")
    return table


def list_records(mirror: Mirror) -> list[Record]:
    """All cases that the table names; ten of them are a shard."""
    cases = map(int, _read_table(mirror.fetch_required(TABLE)).index)
    return [Record(f"{n:04d}", f"vital_files/{n:04d}", f"cases-{n // 10:03d}") for n in cases]


def _find_row(mirror: Mirror, record: Record) -> tuple[pd.Series, str]:
    """What the table says of a case, and where it says so."""
    path, case = mirror.fetch_required(TABLE), str(int(record.name))
    table, where = _read_table(path), f"{path}, case {record.name}"
    if case not in table.index:
        raise InputError(f"{where}: not in this table")
    return table.loc[case], where


def read(mirror: Mirror, record: Record) -> Reading:
    """One case. A person may have several: they are one subject."""
    row, where = _find_row(mirror, record)
    age = _OLD if str(row["age"]).replace(" ", "") == _OVER_89 else parse_age(row["age"], where)
    reading = Reading(row["subjectid"], age, parse_sex(row["sex"], where))
    reading.stretches = _stretches(mirror.fetch(f"{record.path}.vital"), reading)
    return reading


def _stretches(path: Path, reading: Reading) -> Iterator[Stretch]:
    """PPG and leads (mV), each at the rate of its track; NaN where a track has no samples."""
    import vitaldb

    names = (PPG_TRACK, *LEAD_TRACKS.values())
    try:
        file = vitaldb.VitalFile(str(path), list(names))
        tracks = {name: track for name in names if (track := file.find_track(name)) is not None}
    except Exception as error:  # the package raises whatever it meets in a damaged file
        raise InputError(f"{path}: not a readable .vital file ({type(error).__name__}: {error})") from error
    found = {lead: name for lead, name in LEAD_TRACKS.items() if name in tracks}
    if PPG_TRACK not in tracks or not found:
        raise InputError(f"{path}: needs {PPG_TRACK} and an ECG track, found {', '.join(tracks) or 'none of them'}")

    def samples(name: str) -> Signal:
        track = tracks[name]
        if not track.srate > 0:
            raise InputError(f"{path}: track {name} states no sampling rate; it is no waveform")
        x = np.asarray(file.get_track_samples(name, 1 / track.srate), dtype=np.float32)
        if track.fmt in _GAP:  # the package scales the number that stands for a gap like a sample
            gap = np.float32(_GAP[track.fmt]) * np.float32(track.gain) + np.float32(track.offset)
            x[x == gap] = np.nan
        return x, float(track.srate)

    leads = {}
    for lead, name in found.items():
        factor = MILLIVOLTS.get((tracks[name].unit or "mV").strip().lower())
        if factor is None:
            raise InputError(f"{path}: track {name} has the unit {tracks[name].unit!r}; only mV and uV can be used")
        x, rate = samples(name)
        leads[lead] = (x * np.float32(factor), rate)
    unitless = [name for name in found.values() if not tracks[name].unit]
    reading.notes += [f"track {name} states no unit: taken as mV, as documented" for name in unitless]
    yield from in_parts(samples(PPG_TRACK), leads)


SOURCE = Source(
    name="vitaldb", slug="vitaldb", version="1.0.0", role="paired",
    title="VitalDB, a high-fidelity multi-parameter vital signs database in surgical patients, 1.0.0",
    about={
        "size": "6,388 cases of 6,090 patients, hours each, 95 GB",
        "access": "open", "licence": "Creative Commons Attribution 4.0",
        "cite": "Lee HC et al. VitalDB, a high-fidelity multi-parameter vital signs database in surgical patients. Sci "
        "Data 2022;9:279. doi:10.1038/s41597-022-01411-5",
        'lead "V"': "a channel named V5 by the authors, taken as V5; electrode positions in the operating room vary",
        "note": "under anaesthesia; II alone of the limb leads, from which no other follows; cautery and gaps are "
        "common",
    },
    list_records=list_records, files=lambda mirror, record: [f"{record.path}.vital"], read=read,
    subject=lambda mirror, record: _find_row(mirror, record)[0]["subjectid"], tables=(TABLE,), sample=20,
)  # fmt: skip
