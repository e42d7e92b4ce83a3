"""MIMIC-IV Waveform Database: bedside monitors, hours to days per patient, II, aVR, III..., V and PPG."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from p2es_lib import paths
from p2es_lib.config import Config
from p2es_lib.demographics import parse_sex
from p2es_lib.errors import InputError
from p2es_lib.sources.contract import Recording, Source
from p2es_lib.sources.mirror import MissingFile, Mirror
from p2es_lib.sources.preparation import collect_windows, make_recording
from p2es_lib.sources.wfdb_records import find_leads, find_ppg, read_header, read_signals, segments
from p2es_lib.windows import WindowSet

SLUG, VERSION = "mimic4wdb", "0.1.0"
#: Stretches are read in parts of about this length, with a margin on both sides in which the filters settle: memory
#: stays bounded however long a record is.
PART_S, MARGIN_S = 1800.0, 8.0


def list_records(mirror: Mirror) -> list[str]:
    """Paths of all record headers, without suffix, as the RECORDS files of the data set name them.

    Raises
    ------
    InputError
        The mirror does not hold the data set.
    """
    try:
        top = mirror.read_text("RECORDS")
    except MissingFile as error:
        raise InputError(
            f"data set {SLUG}: {mirror.where('RECORDS')} not found; the mirror must be laid out as PhysioNet, "
            f"<mirror>/{SLUG}/{VERSION}/RECORDS"
        ) from error
    records, pending = [], [("", line.strip()) for line in top.splitlines() if line.strip()]
    while pending:
        folder, entry = pending.pop(0)
        path = posixpath.join(folder, entry)
        if entry.endswith("/"):
            listing = mirror.read_text(f"{path}RECORDS")
            pending[:0] = [(path, line.strip()) for line in listing.splitlines() if line.strip()]
        else:
            records.append(path)
    return records


def patients_file() -> Path | None:
    """MIMIC-IV's ``patients.csv`` (credentialed), if the user has it: ``$P2ES_MIMIC4_PATIENTS``, or in ``data/raw``."""
    named = os.environ.get("P2ES_MIMIC4_PATIENTS")
    if named and not Path(named).is_file():
        raise InputError(f"P2ES_MIMIC4_PATIENTS={named!r}: no such file; it is MIMIC-IV's hosp/patients.csv or .csv.gz")
    candidates = [Path(named)] if named else [paths.raw_dir("mimiciv") / f"patients.csv{end}" for end in ("", ".gz")]
    return next((path for path in candidates if path.is_file()), None)


def read_patients(path: Path) -> pd.DataFrame:
    """``patients.csv`` indexed by subject_id (str), with gender, anchor_age and anchor_year."""
    wanted = ["subject_id", "gender", "anchor_age", "anchor_year"]
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as CSV ({error})") from error
    if missing := [column for column in wanted if column not in table.columns]:
        raise InputError(f"{path}: no column {', '.join(missing)}; expected MIMIC-IV's hosp/patients.csv")
    return table[wanted].assign(subject_id=table["subject_id"].astype(str)).set_index("subject_id")


def _demographics(patients: pd.DataFrame | None, subject: str, header) -> tuple[float, str]:
    """Age at the recording and sex. Dates of a patient are shifted together, so their difference is an age."""
    if patients is None or subject not in patients.index:
        return float("nan"), ""
    row = patients.loc[subject]
    year = header.base_date.year if header.base_date else row["anchor_year"]
    return float(row["anchor_age"] + max(0, year - row["anchor_year"])), parse_sex(row["gender"])


def read_record(
    mirror: Mirror, path: str, config: Config, patients: pd.DataFrame | None, notes: list[str], bar=None
) -> Iterator[Recording]:
    """Stretches of one record in the order of time; what is missing or unusable is noted, not raised."""
    folder, name = posixpath.split(path)
    header = read_header(mirror.fetch(f"{path}.hea"))
    subject = re.search(r"subject_id\s+(\d+)", " ".join(header.comments or []))
    subject = subject.group(1) if subject else posixpath.basename(posixpath.dirname(folder)).lstrip("p") or name
    age, sex = _demographics(patients, subject, header)
    absent = []
    for segment in segments(header):
        try:
            local = _fetch_segment(mirror, folder, segment.name)
            parts = _read_segment(local, config, f"{name}, segment {segment.name}", bar)
            for start_s, ppg, leads, skip, n_keep in parts:
                yield make_recording(
                    f"{SLUG}-{subject}", name, segment.start_frame / header.fs + start_s, ppg, leads,
                    config.signal.sampling_rate, skip=skip, n_keep=n_keep, age=age, sex=sex,
                )  # fmt: skip
        except MissingFile:
            absent.append(segment.name)
        except InputError as error:
            notes.append(f"record {name}: segment {segment.name} left out ({error})")
    if absent:
        notes.append(f"record {name}: {len(absent)} segments are not on the mirror ({', '.join(absent)})")


def _fetch_segment(mirror: Mirror, folder: str, name: str) -> Path:
    """Local header of a segment, all its signal files beside it."""
    local = mirror.fetch(posixpath.join(folder, f"{name}.hea"))
    for file in dict.fromkeys(read_header(local).file_name or []):
        if file != "~":
            mirror.fetch(posixpath.join(folder, file))
    return local


def _read_segment(local: Path, config: Config, where: str, bar) -> Iterator[tuple]:
    """Parts of one segment: start (s), PPG, leads, samples to skip, samples to keep."""
    header = read_header(local)
    ppg_name = find_ppg(header.sig_name or [])
    if ppg_name is None:
        raise InputError(f"{where}: no PPG among the signals {', '.join(header.sig_name or [])}")
    leads = find_leads(header.sig_name, header.units, where)
    if not leads:
        raise InputError(f"{where}: no standard ECG lead among the signals {', '.join(header.sig_name)}")
    rate, n_samples = config.signal.sampling_rate, config.signal.n_samples
    n_keep = max(1, int(PART_S * rate / n_samples)) * n_samples  # whole windows: none straddles two parts
    duration_s = header.sig_len / header.fs
    for start_s in np.arange(0.0, duration_s - n_samples / rate + 1e-6, n_keep / rate):
        first = int(max(0.0, start_s - MARGIN_S) * header.fs)
        end = min(header.sig_len, int(np.ceil((start_s + n_keep / rate + MARGIN_S) * header.fs)))
        raw = read_signals(local, [ppg_name, *(signal for signal, _ in leads.values())], first, end)
        in_mv = {lead: (raw[signal][0] * factor, raw[signal][1]) for lead, (signal, factor) in leads.items()}
        yield start_s, raw[ppg_name], in_mv, int(round((start_s - first / header.fs) * rate)), n_keep
        if bar is not None:
            bar.update(min(n_keep / rate, duration_s - start_s) / 3600)


def _prepare(config: Config, location, progress: bool) -> WindowSet:
    from tqdm.auto import tqdm

    mirror = Mirror(location, SLUG, VERSION, progress)
    records = list_records(mirror)
    patients = read_patients(patients_file()) if patients_file() else None
    notes: list[str] = []

    def recordings() -> Iterator[Recording]:
        with tqdm(desc="reading and judging", unit=" h of signal", unit_scale=True, disable=not progress) as bar:
            for number, path in enumerate(records, start=1):
                bar.set_postfix_str(f"record {number} of {len(records)}")
                try:
                    yield from read_record(mirror, path, config, patients, notes, bar)
                except InputError as error:
                    notes.append(f"record {path} left out ({error})")

    try:
        windows = collect_windows(recordings(), config, len(records), f"data set {SLUG} from {mirror.where()}")
    except InputError as error:
        raise InputError(f"{error}. {' '.join(notes)}") from error
    if patients is None:
        notes.append("age and sex are not known: MIMIC-IV's patients.csv is credentialed; see P2ES_MIMIC4_PATIENTS")
    windows.info["notes"] += notes
    return windows


SOURCE = Source(
    name=SLUG,
    title="MIMIC-IV Waveform Database 0.1.0",
    access="open; age and sex stand in MIMIC-IV's patients.csv, which is credentialed and read if the user has it",
    licence="Open Data Commons Open Database License 1.0",
    citation="Moody B et al. MIMIC-IV Waveform Database (version 0.1.0). PhysioNet, 2022. doi:10.13026/a2mw-f949",
    notes="V is a chest electrode of unknown position and is not used; monitors add a constant delay to the PPG",
    prepare=_prepare,
    code=("sources/mimic4wdb.py", "sources/preparation.py", "sources/wfdb_records.py", "signals.py", "transforms.py",
          "windows/splits.py"),  # fmt: skip
    companions=lambda: [path for path in [patients_file()] if path],
)
