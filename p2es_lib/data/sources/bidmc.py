"""BIDMC PPG and Respiration: 53 adults in intensive care, 8 minutes each at 125 Hz.

Read from its CSV files or, where the mirror does not hold them, from the WFDB records beside them.
"""

import math
import re
from collections.abc import Iterator
from pathlib import Path

from p2es_lib.core.demographics import parse_age, parse_sex
from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import split_unit
from p2es_lib.data.download.mirror import Mirror, MissingFile
from p2es_lib.data.sources.contract import Reading, Record, Source, Stretch
from p2es_lib.data.sources.tables import read_numbers
from p2es_lib.data.sources.wfdb_records import find_leads, find_ppg, read_header, record_files, record_stretches

#: The time column is rounded to 0.01 s, so the rate is taken from the documentation and only checked against it.
SAMPLING_RATE = 125.0
_SHARD_RECORDS = 8  # 8 minutes each, which are prepared in a second


def read_signals_csv(path: Path) -> Iterator[Stretch]:
    """The recording in ``bidmc_NN_Signals.csv``; an :class:`InputError` where it is no such file."""
    values = read_numbers(path)
    names = list(values.columns)
    ppg = find_ppg(names)
    # A CSV has no unit field: mV, unless a name says otherwise.
    leads = find_leads(names, [split_unit(name)[1] or "mV" for name in names], str(path))
    if ppg is None or not leads:
        raise InputError(f"{path}: expected a PLETH column and ECG leads, found {', '.join(names)}")
    time = values.iloc[:, 0].to_numpy()
    expected_s = (len(time) - 1) / SAMPLING_RATE
    if len(time) < 2 or not abs(time[-1] - time[0] - expected_s) <= 0.01 + 0.01 * expected_s:  # NaN: a line cut short
        raise InputError(f"{path}: the column {names[0]!r} does not count seconds at {SAMPLING_RATE:g} Hz")
    in_mv = {lead: (factor * values[name].to_numpy(), SAMPLING_RATE) for lead, (name, factor) in leads.items()}
    yield Stretch(0.0, (values[ppg].to_numpy(), SAMPLING_RATE), in_mv)


def read_fix(text: str, where: str) -> tuple[float, str]:
    """Age and sex from ``bidmc_NN_Fix.txt`` ("Age: 65", "Gender: M"); "90+" is 90, what is missing stays missing."""
    age = re.search(r"(?im)^\s*age\s*[:=]\s*([\d.]+)", text)
    sex = re.search(r"(?im)^\s*(?:gender|sex)\s*[:=]\s*(\w+)", text)
    return parse_age(age and age[1], where), parse_sex(sex and sex[1], where)


def list_records(mirror: Mirror) -> list[Record]:
    """The records, which are numbered, on the mirror or not."""
    numbers = range(1, 54)
    return [Record(f"bidmc_{n:02d}", f"bidmc_csv/bidmc_{n:02d}", f"bidmc-{(n - 1) // _SHARD_RECORDS}") for n in numbers]


def files(mirror: Mirror, record: Record) -> list[str]:
    """The CSV and its companion; the WFDB record where there is no CSV."""
    signals, fix = f"{record.path}_Signals.csv", f"{record.path}_Fix.txt"
    if mirror.holds(signals):  # not fetched yet: nobody has asked how large they are
        return [signals, fix]
    return [*record_files(mirror, record.name.replace("_", "")), fix]


def read(mirror: Mirror, record: Record) -> Reading:
    """One record; age and sex from its ``_Fix.txt``, else from the comments of its header."""
    path, text, where = mirror.try_fetch(f"{record.path}_Signals.csv"), "", record.name
    twin = record.name.replace("_", "")
    if path is None:
        try:
            header = mirror.fetch(f"{twin}.hea")
        except MissingFile as error:
            told = f"neither {record.path}_Signals.csv nor its WFDB record is on this mirror: {error}"
            raise MissingFile(told) from error
        # "<age>: 65" or "Age: 65", each in a comment or several in one.
        comments = "\n".join(read_header(header).comments or [])
        text, where = re.sub(r"[<>]|\s{2,}|(?<=\w) (?=<)", "\n", comments), str(header)
    if (fix := mirror.try_fetch(f"{record.path}_Fix.txt")) is not None:
        text, where = fix.read_text(errors="replace"), str(fix)
    reading = Reading(record.name, *read_fix(text, where))
    if math.isnan(reading.age) and not reading.sex:
        reading.notes.append(f"age and sex are not known ({record.name}_Fix.txt or the header would say)")
    reading.stretches = read_signals_csv(path) if path else record_stretches(mirror, twin, reading)
    return reading


SOURCE = Source(
    name="bidmc", title="BIDMC PPG and Respiration Dataset 1.0.0", slug="bidmc", version="1.0.0", role="paired",
    about={
        "size": "53 records of 53 patients, 8 minutes each",
        "access": "open", "licence": "Open Data Commons Attribution License 1.0",
        "cite": "Pimentel MAF et al. Toward a robust estimation of respiratory rate from pulse oximeters. IEEE Trans "
        "Biomed Eng 2017;64:1914-1923. doi:10.13026/C2208R",
        'lead "V"': "a chest electrode of unknown position: not used as a lead",
        "note": "the CSV states no unit: taken as mV; monitors add a constant delay to the PPG",
    },
    list_records=list_records, files=files, read=read,
)  # fmt: skip
