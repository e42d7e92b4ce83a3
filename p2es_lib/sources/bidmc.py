"""BIDMC PPG and Respiration: 53 adults in intensive care, 8 minutes each at 125 Hz, read from its CSV files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from p2es_lib.config import Config
from p2es_lib.demographics import parse_age, parse_sex
from p2es_lib.errors import InputError
from p2es_lib.leads import parse_lead
from p2es_lib.sources.contract import Recording, Source
from p2es_lib.sources.mirror import Mirror
from p2es_lib.sources.preparation import collect_windows, make_recording
from p2es_lib.sources.wfdb_records import find_ppg
from p2es_lib.windows import WindowSet

SLUG, VERSION = "bidmc", "1.0.0"
N_RECORDS = 53
#: The time column is rounded to 0.01 s, so the rate is taken from the documentation and only checked against it.
SAMPLING_RATE = 125.0


def read_signals_csv(path: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """PPG and standard leads (mV) of ``bidmc_NN_Signals.csv``.

    Raises
    ------
    InputError
        Not such a file, no PPG, no standard lead, or not 125 Hz.
    """
    try:
        table = pd.read_csv(path, skipinitialspace=True)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as CSV ({error})") from error
    table.columns = [str(column).strip() for column in table.columns]
    ppg = find_ppg(list(table.columns))
    leads = {parse_lead(column): column for column in table.columns if parse_lead(column)}
    if ppg is None or not leads:
        raise InputError(f"{path}: expected a PLETH column and ECG leads, found {', '.join(table.columns)}")
    try:
        values = table.astype(float)
    except ValueError as error:
        raise InputError(f"{path}: not all values are numbers ({error})") from error
    time = values.iloc[:, 0].to_numpy()
    if len(time) < 2 or abs((len(time) - 1) / (time[-1] - time[0]) / SAMPLING_RATE - 1) > 0.01:
        raise InputError(f"{path}: the column {table.columns[0]!r} does not count seconds at {SAMPLING_RATE:g} Hz")
    return values[ppg].to_numpy(), {lead: values[column].to_numpy() for lead, column in leads.items()}


def read_fix(text: str, where: str) -> tuple[float, str]:
    """Age and sex from ``bidmc_NN_Fix.txt`` ("Age: 65", "Gender: M"); "90+" is 90, what is missing stays missing."""
    age = re.search(r"^\s*age\s*[:=]\s*([\d.]+)", text, re.IGNORECASE | re.MULTILINE)
    sex = re.search(r"^\s*(?:gender|sex)\s*[:=]\s*(\w+)", text, re.IGNORECASE | re.MULTILINE)
    return parse_age(age.group(1) if age else None, where), parse_sex(sex.group(1) if sex else "", where)


def _prepare(config: Config, location, progress: bool) -> WindowSet:
    from tqdm.auto import tqdm

    mirror = Mirror(location, SLUG, VERSION, progress=False)
    stems = [f"bidmc_csv/bidmc_{number:02d}" for number in range(1, N_RECORDS + 1)]
    found = {stem: path for stem in tqdm(stems, desc="fetching", unit="record", disable=not progress)
             if (path := mirror.try_fetch(f"{stem}_Signals.csv"))}  # fmt: skip
    if not found:
        raise InputError(
            f"data set {SLUG}: {mirror.where(stems[0] + '_Signals.csv')} and its sisters not found; the mirror must be "
            f"laid out as PhysioNet, <mirror>/{SLUG}/{VERSION}/bidmc_csv/..."
        )
    notes = [] if len(found) == N_RECORDS else [f"{len(found)} of {N_RECORDS} records are on the mirror"]

    def recordings() -> Iterator[Recording]:
        for stem, path in tqdm(found.items(), desc="reading and judging", unit="record", disable=not progress):
            name = Path(stem).name
            try:
                ppg, leads = read_signals_csv(path)
                fix = mirror.try_fetch(f"{stem}_Fix.txt")
                age, sex = read_fix(fix.read_text(errors="replace"), str(fix)) if fix else (float("nan"), "")
                if fix is None:
                    notes.append(f"record {name}: age and sex are not known ({name}_Fix.txt is not on the mirror)")
                at_rate = {lead: (x, SAMPLING_RATE) for lead, x in leads.items()}
                rate = config.signal.sampling_rate
                yield make_recording(name, name, 0.0, (ppg, SAMPLING_RATE), at_rate, rate, age=age, sex=sex)
            except InputError as error:
                notes.append(f"record {name} left out ({error})")

    try:
        windows = collect_windows(recordings(), config, len(found), f"data set {SLUG} from {mirror.where()}")
    except InputError as error:
        raise InputError(f"{error}. {' '.join(notes)}") from error
    windows.info["notes"] += notes
    return windows


SOURCE = Source(
    name=SLUG,
    title="BIDMC PPG and Respiration Dataset 1.0.0",
    access="open",
    licence="Open Data Commons Attribution License 1.0",
    citation="Pimentel MAF et al. Toward a robust estimation of respiratory rate from pulse oximeters. IEEE Trans "
    "Biomed Eng 2017;64:1914-1923. doi:10.13026/C2208R",
    notes="the CSV states no unit: taken as mV; V is a chest electrode of unknown position and is not used; monitors "
    "add a constant delay to the PPG",
    prepare=_prepare,
    code=("sources/bidmc.py", "sources/preparation.py", "sources/wfdb_records.py", "signals.py", "transforms.py",
          "windows/splits.py"),  # fmt: skip
)
