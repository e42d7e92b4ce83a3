"""A user's own recording: a WFDB record, a table or an EDF file with a PPG in it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from p2es_lib.core.config import SignalConfig
from p2es_lib.core.errors import InputError
from p2es_lib.data.sources.wfdb_records import read_header, read_signals, segments, usable_leads
from p2es_lib.signals.cleaning import OFF_S, flat_mask
from p2es_lib.signals.transforms import resample_signal
from p2es_lib.translation.checks import check_file, check_rate, header_of
from p2es_lib.translation.readers.constant_rate import check_agreement
from p2es_lib.translation.readers.user_csv import choose_ppg, describe_choice, find_ppgs, read_csv_signals
from p2es_lib.translation.readers.user_edf import read_edf_signals


@dataclass(frozen=True)
class UserRecording:
    """What was read.

    Parameters
    ----------
    ppg : float array (T,)
        As recorded; NaN where missing, and where it did not change at all for 1 s or longer (sensor off).
    sampling_rate : float
        Hz.
    ecg : dict
        Standard leads recorded beside it, mV, as arrays (T_ecg,): a reference to compare with; often empty.
    ecg_sampling_rate : float
        Hz, of all of them; NaN without any.
    notes : list of str
        How the file was read, and what was assumed where it does not say: for the user.
    """

    ppg: np.ndarray
    sampling_rate: float
    ecg: dict[str, np.ndarray] = field(default_factory=dict)
    ecg_sampling_rate: float = float("nan")
    notes: list[str] = field(default_factory=list)


def read_ppg(
    path: str | Path,
    *,
    sampling_rate: float | None = None,
    column: str | int | None = None,
    min_duration_s: float | None = None,
) -> UserRecording:
    """Read the PPG, and the ECG if there is one, of a recording.

    Parameters
    ----------
    path : path
        WFDB record (with or without ``.hea``; several segments or rates are fine, missing segments become NaN), or
        a file ending in .csv, .txt or .tsv: see :func:`p2es_lib.translation.readers.csv_table.read_csv_table`. A column of time
        gives the sampling rate: s, ms, us or ns, Unix time, ISO 8601, hh:mm:ss.fff. Exports of Empatica E4 (BVP.csv)
        and Polar Sensor Logger are recognised by their layout. Or a file ending in .edf or .bdf
        (:mod:`p2es_lib.translation.readers.user_edf`).
    sampling_rate : float, optional
        Hz. Needed for a CSV without time column; where the file states its rate, it must agree.
    column : str or int, optional
        Signal to use as PPG: its name, or its number counted from 1. Default: the first named PLETH, PPG, BVP or alike.
    min_duration_s : float, optional
        Shortest recording of use; default: one window of the default settings.

    Raises
    ------
    InputError
        Missing or unreadable file; no PPG (the channels are listed); a sampling rate that is unknown, absurd or
        disagrees with the file; a signal that is empty, too short, flat, or missing throughout.
    """
    path = Path(path)
    if sampling_rate is not None:
        sampling_rate = check_rate(sampling_rate, "sampling rate")
    read = {"table": _read_table, "EDF": _read_edf, "WFDB": _read_wfdb}[check_file(path)]
    recording = read(path, sampling_rate, column)
    default = SignalConfig()
    needed_s = default.window_samples / default.sampling_rate if min_duration_s is None else min_duration_s
    check_duration(path, recording, needed_s)
    present = np.isfinite(recording.ppg)
    if not present.any():
        raise InputError(f"{path}: the PPG has no valid sample (all NaN)")
    if np.ptp(recording.ppg[present]) == 0:
        value = recording.ppg[present][0]
        raise InputError(f"{path}: the PPG is flat ({value:g} throughout): the sensor recorded nothing")
    off = flat_mask(recording.ppg, recording.sampling_rate, OFF_S)
    return replace(recording, ppg=np.where(off, np.nan, recording.ppg))


def check_duration(path: str | Path, recording: UserRecording, needed_s: float) -> None:
    """Refuse a recording that is shorter than so many seconds."""
    duration_s = len(recording.ppg) / recording.sampling_rate
    if duration_s < needed_s:
        found = f"{duration_s:.1f} s of PPG at {recording.sampling_rate:g} Hz"
        raise InputError(f"{path}: {found}; at least {needed_s:.1f} s are needed")


def _read_table(path: Path, sampling_rate: float | None, column: str | int | None) -> UserRecording:
    ppg, rate, leads, notes = read_csv_signals(path, sampling_rate, column)
    return UserRecording(ppg, rate, leads, rate if leads else float("nan"), notes)


def _read_edf(path: Path, sampling_rate: float | None, column: str | int | None) -> UserRecording:
    return UserRecording(*read_edf_signals(path, sampling_rate, column))


# ----------------------------------------------------------------------------------------------------------------- WFDB
def _read_wfdb(path: Path, sampling_rate: float | None, column: str | int | None) -> UserRecording:
    header_path = header_of(path)
    header = read_header(header_path)
    parts = []
    for segment in segments(header):
        part = header_path if segment.name == header.record_name else header_path.with_name(f"{segment.name}.hea")
        if part.is_file() and all((part.parent / file).is_file() for file in read_header(part).file_name or []):
            parts.append((segment, part))
    if not parts:
        raise InputError(f"{header_path}: none of its signal files is there; put them beside the header")
    ppg: np.ndarray | None = None
    ppg_rate, ecg, ecg_rate = float("nan"), {}, float("nan")
    names_seen: dict[str, None] = {}
    chosen: dict[str, None] = {}  # what was taken as the PPG, segment by segment
    left_out: dict[str, None] = {}  # leads of no use, and why
    for segment, part in parts:
        names = read_header(part).sig_name or []
        names_seen |= dict.fromkeys(names)
        name = choose_ppg(part, names, column) if column is not None or find_ppgs(names) else None
        if name is None:
            continue
        chosen[describe_choice(name, names, column)] = None
        leads, odd = usable_leads(names, read_header(part).units, str(part))
        left_out |= dict.fromkeys(odd)
        raw = read_signals(part, list(dict.fromkeys([name, *(signal for signal, _ in leads.values())])))
        x, rate = raw[name]
        if ppg is None:
            ppg_rate = check_rate(rate, f"{part}: sampling rate")
            ppg = np.full(int(round((header.sig_len or len(x) / rate * header.fs) / header.fs * rate)), np.nan)
        elif rate != ppg_rate:
            raise InputError(f"{part}: PPG at {rate:g} Hz, but {ppg_rate:g} Hz in an earlier segment; give one segment")
        _place(ppg, x, segment.start_frame / header.fs * rate)
        for lead, (signal, factor) in leads.items():
            x, rate = raw[signal]
            ecg_rate = rate if np.isnan(ecg_rate) else ecg_rate
            whole = ecg.setdefault(lead, np.full(int(round(len(ppg) / ppg_rate * ecg_rate)), np.nan))
            _place(whole, resample_signal(x * factor, rate, ecg_rate), segment.start_frame / header.fs * ecg_rate)
    if ppg is None:
        choose_ppg(header_path, list(names_seen), column)
    check_agreement(header_path, sampling_rate, ppg_rate)
    notes = [f"WFDB record, {ppg_rate:g} Hz by its header", *chosen, *left_out]
    return UserRecording(ppg, ppg_rate, ecg, ecg_rate, notes)


def _place(whole: np.ndarray, part: np.ndarray, start: float) -> None:
    first = int(round(start))
    part = part[: max(0, len(whole) - first)]
    whole[first : first + len(part)] = part
