"""SensSmartTech: 32 volunteers at rest and after exercise, ECG I, II, V3, V4 (so 8 of 12 leads) and four PPG signals.

Each recording of 30 s is one WFDB record per kind of signal on a common axis of 1 kHz,
``WFDB/<subject>_<hh-mm-ss>_ecg`` and ``..._ppg`` (named by RECORDS), with twins of their own, coarser times (``t`` in
ms) as ``CSV/<subject>_<hh-mm-ss>_ecg.csv`` and ``..._ppg.csv``, read where the mirror does not hold both WFDB records.
Seen so in a copy of version 1.0.0 on GitHub (soungjunha/digital_hearth_care).
"""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from p2es_lib.core.demographics import parse_age, parse_sex
from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import parse_lead
from p2es_lib.data.download.mirror import Mirror, MissingFile
from p2es_lib.data.sources.contract import Reading, Record, Signal, Source, Stretch
from p2es_lib.data.sources.tables import once_per_state, read_numbers
from p2es_lib.data.sources.wfdb_records import find_leads, read_header, read_signals, signal_files, walk_records
from p2es_lib.signals import cleaning

TABLE = "Demographics.csv"
_KINDS = ("ecg", "ppg")
#: The PPG that is used: the first that a recording has. Brachial before carotid, because a wearable is worn on an arm;
#: infrared (880 nm) before red (660 nm), because its pulses are larger and less sensitive to oxygenation.
PPG_PREFERENCE = ("brachial_880nm", "brachial_660nm", "carotid_880nm", "carotid_660nm")
#: Counts of the ECG in a twin, which states no unit (those of the WFDB headers); what comes out must have a height that
#: an ECG can have (mV, from lowest to highest, drifts included).
COUNTS_PER_MV, _POSSIBLE_MV = 6990.5, (0.1, 50.0)


def list_records(mirror: Mirror) -> list[Record]:
    """One record per recording, from RECORDS; all of a volunteer are a shard."""
    stems = [path[: -len("_ecg")] for path in walk_records(mirror) if path.lower().endswith("_ecg")]
    by_name = {posixpath.basename(stem): stem for stem in stems}
    return [Record(name, path, f"subject-{_subject(name)}") for name, path in by_name.items()]


def _subject(name: str) -> str:
    return name.split("_")[0].lstrip("0") or "0"


def _csv_path(record: Record, kind: str) -> str:
    """Twin of a record: beside the folder of the WFDB files, in ``CSV``."""
    return posixpath.join(posixpath.dirname(posixpath.dirname(record.path)), "CSV", f"{record.name}_{kind}.csv")


def _headers(mirror: Mirror, record: Record) -> dict[str, Path] | None:
    """Headers of the two WFDB records, or None where the mirror does not hold both."""
    found = {kind: mirror.try_fetch(f"{record.path}_{kind}.hea") for kind in _KINDS}
    return found if all(found.values()) else None


def files(mirror: Mirror, record: Record) -> list[str]:
    """WFDB files of ECG and PPG; their CSV twins where the mirror does not hold both headers."""
    if (headers := _headers(mirror, record)) is None:
        return [_csv_path(record, kind) for kind in _KINDS]
    signals = {kind: signal_files(posixpath.dirname(record.path), read_header(headers[kind])) for kind in _KINDS}
    return [name for kind in _KINDS for name in (f"{record.path}_{kind}.hea", *signals[kind])]


@once_per_state
def _read_demographics(path: Path) -> dict[str, tuple[float, str]]:
    """Subject number to age and sex; the second row of the file is its header."""
    try:
        table = pd.read_csv(path, header=1, dtype=str, encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as CSV with its header on the second row ({error})") from error
    columns = {re.sub(r"\W.*", "", str(column).strip().lower()): column for column in reversed(table.columns[:14])}
    if missing := [name for name in ("subject", "gender", "age") if name not in columns]:
        found = ", ".join(map(str, table.columns[:14]))
        raise InputError(f"{path}: no column {', '.join(missing)} in the second row; found {found}")
    people = {}
    rows = table.dropna(subset=columns["subject"])[[columns[name] for name in ("subject", "gender", "age")]]
    for subject, sex, age in rows.itertuples(index=False):
        number = subject.strip().split(".")[0].lstrip("0") or "0"
        where = f"{path}, subject {number}"
        people[number] = (parse_age(age, where), parse_sex(sex, where))
    return people


def read(mirror: Mirror, record: Record) -> Reading:
    """One recording, with what the table says of the volunteer."""
    subject, table, twin = _subject(record.name), mirror.try_fetch(TABLE), _csv_path(record, "ecg")
    people = _read_demographics(table) if table else {}
    if _headers(mirror, record) is None and mirror.try_fetch(twin) is None:
        where = mirror.where(f"{record.path}_ecg.hea")
        raise MissingFile(f"neither {where} and ..._ppg.hea nor the twin {twin} is on this mirror")
    reading = Reading(subject, *people.get(subject, ()))
    if subject not in people:
        reading.notes.append(f"age and sex are not known ({TABLE} does not name subject {subject})")
    reading.stretches = _stretch(mirror, record, reading)
    return reading


def _stretch(mirror: Mirror, record: Record, reading: Reading) -> Iterator[Stretch]:
    if (headers := _headers(mirror, record)) is not None:
        leads, (ppg, rate) = _read_wfdb(mirror, record, headers)
    else:
        leads, (ppg, rate) = _read_twins(mirror, record)
        reading.notes.append(f"read from CSV, which states no unit: ECG taken as {COUNTS_PER_MV:g} counts per mV")
    # A pulse rises faster than it falls, so the slope of a PPG with its pulses upward is skewed to the right.
    if stats.skew(np.diff(cleaning.ppg_clean(cleaning.bridge_gaps(ppg), rate))) < 0:
        ppg = -ppg
        reading.notes.append("the PPG is recorded as light received, which falls with each pulse: turned over")
    yield Stretch(0.0, (ppg, rate), leads)


def _choose_ppg(names: list[str], where: str) -> str:
    plain = {re.sub(r"[^a-z0-9]+", "_", name.strip().lower()).strip("_"): name for name in names}
    if not (found := [plain[name] for name in PPG_PREFERENCE if name in plain]):
        raise InputError(f"{where}: none of the PPG signals {', '.join(PPG_PREFERENCE)}; found {', '.join(names)}")
    return found[0]


def _read_wfdb(mirror: Mirror, record: Record, headers: dict[str, Path]) -> tuple[dict[str, Signal], Signal]:
    ecg, ppg = (read_header(path) for path in headers.values())
    for file in signal_files(posixpath.dirname(record.path), ecg, ppg):
        mirror.fetch(file)
    if not (leads := find_leads(ecg.sig_name or [], ecg.units or [], str(headers["ecg"]))):
        raise InputError(f"{headers['ecg']}: no standard lead among {', '.join(ecg.sig_name or [])}")
    raw = read_signals(headers["ecg"], [signal for signal, _ in leads.values()])
    name = _choose_ppg(ppg.sig_name or [], str(headers["ppg"]))
    in_mv = {lead: (raw[signal][0] * factor, raw[signal][1]) for lead, (signal, factor) in leads.items()}
    return in_mv, read_signals(headers["ppg"], [name])[name]


def _read_twins(mirror: Mirror, record: Record) -> tuple[dict[str, Signal], Signal]:
    """ECG and PPG from CSV, both from the first instant that both have."""
    paths = {kind: mirror.fetch(_csv_path(record, kind)) for kind in _KINDS}
    ecg, ppg = (_read_twin(path) for path in paths.values())
    begin_ms = max(table["t"].iloc[0] for table in (ecg, ppg))
    if not (names := {parse_lead(name): name for name in ecg.columns if parse_lead(name)}):
        raise InputError(f"{paths['ecg']}: no standard lead among {', '.join(ecg.columns)}")
    counts = {lead: _on_clock(ecg, name, begin_ms, paths["ecg"]) for lead, name in names.items()}
    leads = {lead: (x / COUNTS_PER_MV, rate) for lead, (x, rate) in counts.items()}
    heights = [np.ptp(x[np.isfinite(x)]) for x, _ in leads.values() if np.isfinite(x).any()]
    if not _POSSIBLE_MV[0] <= (height := np.median(heights) if heights else 0.0) <= _POSSIBLE_MV[1]:
        found = f"ECG of {height:.2g} mV from lowest to highest at {COUNTS_PER_MV:g} counts per mV"
        raise InputError(f"{paths['ecg']}: {found}; the file states no unit, and is not in these counts")
    name = _choose_ppg(list(ppg.columns), str(paths["ppg"]))
    return leads, _on_clock(ppg, name, begin_ms, paths["ppg"])


def _read_twin(path: Path) -> pd.DataFrame:
    """A CSV twin: a column ``t`` in milliseconds that rises, and signals."""
    table = read_numbers(path, encoding="utf-8-sig")
    if "t" not in table or len(table) < 3 or not (np.diff(table["t"]) > 0).all():
        raise InputError(f"{path}: needs a column t (milliseconds) that only rises; found {', '.join(table.columns)}")
    return table


def _on_clock(table: pd.DataFrame, name: str, begin_ms: float, path: Path) -> Signal:
    """A signal with jittering times on its nominal clock, interpolated; NaN where three or more samples are missing."""
    t = table["t"].to_numpy()
    period_ms = float(np.median(np.diff(t)))
    nominal_ms = max(1.0, round(period_ms))
    if abs(period_ms - nominal_ms) > 0.25 * nominal_ms:
        raise InputError(f"{path}: times are {period_ms:g} ms apart; expected about 2 ms (ECG) or 10 ms (PPG)")
    grid = np.arange(begin_ms, t[-1] + 1e-9, nominal_ms)
    after = np.clip(np.searchsorted(t, grid), 1, len(t) - 1)
    x = np.interp(grid, t, table[name].to_numpy())
    return np.where(t[after] - t[after - 1] > 3.5 * nominal_ms, np.nan, x), 1000.0 / nominal_ms


SOURCE = Source(
    name="senssmarttech", slug="senssmarttech", version="1.0.0", role="paired",
    title="SensSmartTech database of cardiovascular signals synchronously recorded, 1.0.0",
    about={
        "size": "338 recordings of 32 volunteers, 30 s each",
        "access": "open", "licence": "Creative Commons Attribution 4.0",
        "cite": "Lazović A et al. SensSmartTech database of cardiovascular signals synchronously recorded by an "
        "electrocardiograph, phonocardiograph, photoplethysmograph and accelerometer (version 1.0.0). PhysioNet, 2024. "
        "doi:10.13026/fy9p-n277",
        'lead "V"': "none: V3 and V4 are standard leads",
        "note": f"PPG {PPG_PREFERENCE[0]} where there is one; volunteers at rest and after exercise; I and II give the "
        "six limb leads",
    },
    list_records=list_records, files=files, read=read, subject=lambda mirror, record: _subject(record.name),
    tables=(TABLE,),
)  # fmt: skip
