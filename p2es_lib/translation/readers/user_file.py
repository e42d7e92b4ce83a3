"""A user's own recording: a WFDB record, a table or an EDF file with a PPG in it."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np

from p2es_lib.core.config import SignalConfig
from p2es_lib.core.errors import InputError
from p2es_lib.data.sources.wfdb_records import read_header, read_signals, segments, usable_leads
from p2es_lib.signals.cleaning import OFF_S, flat_mask
from p2es_lib.signals.transforms import resample_signal
from p2es_lib.translation.checks import check_file, check_rate, header_of
from p2es_lib.translation.readers.constant_rate import check_agreement
from p2es_lib.translation.readers.user_csv import UserRecording, choose_ppg, describe_choice, find_ppgs, read_csv


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
        a file ending in .csv, .txt or .tsv: see :func:`p2es_lib.translation.readers.csv_table.read_csv_table`. A column
        of time gives the sampling rate: s, ms, us or ns, Unix time, ISO 8601, hh:mm:ss.fff. Exports of Empatica E4
        (BVP.csv) and Polar Sensor Logger are recognised by their layout. Or a file ending in .edf or .bdf.
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
    read = {"table": read_csv, "EDF": _read_edf, "WFDB": _read_wfdb}[check_file(path)]
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


# ----------------------------------------------------------------------------------------------------------------- WFDB
def _read_wfdb(path: Path, sampling_rate: float | None, column: str | int | None) -> UserRecording:
    header_path = header_of(path)
    header = read_header(header_path)
    pieces, notes = _wfdb_pieces(header_path, header, column)
    (_, part, (x, rate), _), ecg_rate = pieces[0], float("nan")
    rate = check_rate(rate, f"{part}: sampling rate")
    duration_s = (header.sig_len or len(x) / rate * header.fs) / header.fs
    ppg, ecg = np.full(int(round(duration_s * rate)), np.nan), {}
    for start_s, part, (x, own_rate), leads in pieces:
        if own_rate != rate:
            raise InputError(f"{part}: PPG at {own_rate:g} Hz, but {rate:g} Hz in an earlier segment; give one segment")
        _place(ppg, x, start_s * rate)
        for lead, (x, lead_rate) in leads.items():
            ecg_rate = lead_rate if np.isnan(ecg_rate) else ecg_rate
            whole = ecg.setdefault(lead, np.full(int(round(len(ppg) / rate * ecg_rate)), np.nan))
            _place(whole, resample_signal(x, lead_rate, ecg_rate), start_s * ecg_rate)
    check_agreement(header_path, sampling_rate, rate)
    return UserRecording(ppg, rate, ecg, ecg_rate, [f"WFDB record, {rate:g} Hz by its header", *notes])


def _wfdb_pieces(header_path: Path, header, column: str | int | None) -> tuple[list[tuple], list[str]]:
    """Segments with a PPG: start (s), header, PPG and leads (mV) with their rates (Hz); and what to tell the user."""
    pieces, seen, is_there = [], {}, False
    chosen, left_out = {}, {}  # what was taken as the PPG, segment by segment; leads of no use, and why
    for segment in segments(header):
        part = header_path if segment.name == header.record_name else header_path.with_name(f"{segment.name}.hea")
        if not part.is_file():
            continue
        own = read_header(part)
        if not all((part.parent / file).is_file() for file in own.file_name or []):
            continue
        is_there, names = True, own.sig_name or []
        seen |= dict.fromkeys(names)
        if column is None and not find_ppgs(names):
            continue
        name = choose_ppg(part, names, column)
        chosen[describe_choice(name, names, column)] = None
        leads, odd = usable_leads(names, own.units, str(part))
        left_out |= dict.fromkeys(odd)
        raw = read_signals(part, list(dict.fromkeys([name, *(signal for signal, _ in leads.values())])))
        in_mv = {lead: (raw[signal][0] * factor, raw[signal][1]) for lead, (signal, factor) in leads.items()}
        pieces.append((segment.start_frame / header.fs, part, raw[name], in_mv))
    if not is_there:
        raise InputError(f"{header_path}: none of its signal files is there; put them beside the header")
    if not pieces:
        choose_ppg(header_path, list(seen), column)  # says which channels there are
    return pieces, [*chosen, *left_out]


def _place(whole: np.ndarray, part: np.ndarray, start: float) -> None:
    first = int(round(start))
    part = part[: max(0, len(whole) - first)]
    whole[first : first + len(part)] = part


# ------------------------------------------------------------------------------------------------------------------ EDF
def _read_edf(path: Path, sampling_rate: float | None, column: str | int | None) -> UserRecording:
    """By edfio, signal by signal, those that are needed alone. Leads of several rates are brought to that of the first.

    EDF and BDF are told apart by what they hold, whatever they are called. Interrupted ones (EDF+D), whose gaps edfio
    does not place, are refused.
    """
    import edfio

    try:
        with open(path, "rb") as file:
            is_bdf = file.read(8) == b"\xffBIOSEMI"
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            # Some recorders write umlauts or units in Latin-1 where the format allows ASCII alone.
            edf = (edfio.read_bdf if is_bdf else edfio.read_edf)(path, header_encoding="latin-1")
        signals = {}
        for signal in edf.signals:
            signals.setdefault(signal.label.strip(), signal)
    except Exception as error:
        raise InputError(
            f"{path}: cannot be read as {path.suffix[1:].upper()} ({error}); export it again, or as CSV"
        ) from error
    if "+D" in str(edf.reserved):
        raise InputError(
            f"{path}: an interrupted recording (EDF+D); export its stretches as files of their own, or as CSV"
        )
    names = list(signals)
    name = choose_ppg(path, names, column)
    rate = check_rate(signals[name].sampling_frequency, f"{path}: sampling rate of {name!r}")
    check_agreement(path, sampling_rate, rate)
    notes = [f"{'BDF' if is_bdf else 'EDF'}, {rate:g} Hz by its header", *(str(warning.message) for warning in told)]
    notes.append(describe_choice(name, names, column))
    others = [other for other in names if other != name]
    found, odd = usable_leads(others, [signals[other].physical_dimension for other in others], str(path))
    notes += odd
    leads, lead_rate = {}, float("nan")
    for lead, (other, factor) in found.items():
        own_rate = signals[other].sampling_frequency
        lead_rate = own_rate if np.isnan(lead_rate) else lead_rate
        leads[lead] = resample_signal(factor * signals[other].data, own_rate, lead_rate)
    return UserRecording(np.asarray(signals[name].data, dtype=float), rate, leads, lead_rate, notes)
