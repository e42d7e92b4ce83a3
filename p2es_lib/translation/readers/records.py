"""Records that state their own rates: WFDB records, EDF and BDF files, and channels of AcqKnowledge."""

import warnings
from functools import partial
from pathlib import Path

import numpy as np

from p2es_lib.core.errors import InputError
from p2es_lib.data.sources import wfdb_records as wfdb
from p2es_lib.signals.plausibility import plausibility, without_codes
from p2es_lib.signals.transforms import resample_signal
from p2es_lib.translation.readers.checks import check_rate, header_of
from p2es_lib.translation.readers.choice import agrees, find_ppgs, perhaps_ppgs
from p2es_lib.translation.readers.formats import Signal, read_acqknowledge
from p2es_lib.translation.readers.recording import UserRecording, Wanted, choose_ppg, said_leads


def read_wfdb(path: Path, sampling_rate: float | None, wanted: Wanted) -> UserRecording:
    """A WFDB record, with or without the suffix of its header; missing segments are NaN."""
    path = header_of(path)
    header = wfdb.read_header(path)
    pieces, notes = _wfdb_pieces(path, header, wanted)
    begins, day = getattr(header, "base_datetime", None), getattr(header, "base_date", None)
    recording = _assembled(path, "WFDB record", pieces, (header.sig_len or 0) / header.fs, sampling_rate, notes)
    recorded_on = begins.replace(microsecond=0).isoformat() if begins else day.isoformat() if day else ""
    return recording._replace(recorded_on=recorded_on)


def _assembled(path: Path, kind: str, pieces: list[tuple], duration_s: float, sampling_rate: float | None, notes):
    """Pieces as of :func:`_wfdb_pieces` as one recording, leads of several rates at that of the first."""
    rate, ecg_rate, ecg = float("nan"), float("nan"), {}
    duration_s = duration_s or max(len(x) / own for _, _, *signals in pieces for x, own in _signals_of(*signals))
    ppg = np.zeros(0)
    for start_s, part, pulse, leads in pieces:
        for lead, (x, lead_rate) in leads.items():
            ecg_rate = lead_rate if np.isnan(ecg_rate) else ecg_rate
            whole = ecg.setdefault(lead, np.full(int(round(duration_s * ecg_rate)), np.nan))
            _place(whole, resample_signal(x, lead_rate, ecg_rate), start_s * ecg_rate)
        if pulse is None:
            continue
        x, own_rate = pulse
        if np.isnan(rate):
            rate = check_rate(own_rate, f"{part}: sampling rate")
            ppg = np.full(int(round(duration_s * rate)), np.nan)
        if own_rate != rate:
            raise InputError(f"{part}: PPG at {own_rate:g} Hz, but {rate:g} Hz in an earlier segment; give one segment")
        _place(ppg, x, start_s * rate)
    by_header = ecg_rate if np.isnan(rate) else rate
    if sampling_rate is not None and not agrees(sampling_rate, by_header):
        raise InputError(f"{path}: sampling rate {sampling_rate:g} Hz was given, but the file says {by_header:.4g} Hz")
    return UserRecording(ppg, rate, ecg, ecg_rate, [f"{kind}, {by_header:g} Hz by its header", *notes])


def _signals_of(pulse, leads: dict) -> list[tuple]:
    return [pulse] if pulse else [*leads.values()]


def _wfdb_pieces(path: Path, header, wanted: Wanted) -> tuple[list[tuple], list[str]]:
    """Segments with what is wanted: start (s), header, PPG or None and leads (mV) with their rates (Hz); and notes."""
    pieces, seen, is_there = [], {}, False
    chosen, left_out = {}, {}  # what was taken as the PPG, segment by segment; leads of no use, and why
    for segment in wfdb.segments(header):
        part = path if segment.name == header.record_name else path.with_name(f"{segment.name}.hea")
        own = wfdb.read_header(part) if part.is_file() else None
        if own is None or not all((part.parent / file).is_file() for file in own.file_name or []):
            continue
        is_there, names = True, own.sig_name or []
        seen |= dict.fromkeys(names)
        if wanted.column is None and not wanted.ecg and not any([find_ppgs(names), perhaps_ppgs(names)[0]]):
            continue
        name, choice = choose_ppg(part, names, wanted, partial(_score_of, part))
        chosen[choice] = None
        others = [other for other in dict.fromkeys(names) if other != name]
        said, unknown = said_leads(part, others, wanted)
        leads, odd = _usable_leads(names, own.units, said, str(part))
        left_out |= dict.fromkeys([*unknown, *odd])
        if name is None and not leads:
            continue
        signals = [*([name] if name else []), *(signal for signal, _ in leads.values())]
        raw = wfdb.read_signals(part, list(dict.fromkeys(signals)))
        in_mv = {lead: (raw[signal][0] * factor, raw[signal][1]) for lead, (signal, factor) in leads.items()}
        pieces.append((segment.start_frame / header.fs, part, raw[name] if name else None, in_mv))
    if not is_there:
        raise InputError(f"{path}: none of its signal files is there; put them beside the header")
    if not pieces and wanted.ecg:
        problem = f"no ECG lead among the signals {', '.join(seen)}"
        raise InputError(f"{path}: {'; '.join([problem, *left_out])}")
    if not pieces:
        choose_ppg(path, list(seen), wanted)  # says which channels there are
    return pieces, [*chosen, *left_out]


def _usable_leads(names: list[str], units: list[str | None], said: dict[str, str], where: str):
    """As :func:`wfdb_records.usable_leads`, where the user may have said (``said``) which leads signals hold."""
    own = {said.get(name, name): name for name in reversed(names)}  # the first of one name
    found, notes = wfdb.usable_leads([said.get(name, name) for name in names], units, where)
    return {lead: (own[signal], factor) for lead, (signal, factor) in found.items()}, notes


def _place(whole: np.ndarray, part: np.ndarray, start: float) -> None:
    first = int(round(start))
    part = part[: max(0, len(whole) - first)]
    whole[first : first + len(part)] = part


def _score_of(part: Path, name: str) -> float:
    return _score(wfdb.read_signals(part, [name])[name])


def _score(signal) -> float:
    """:func:`choice.plausibility` of a signal (values, rate in Hz); -1 where it holds nothing."""
    x, rate = np.asarray(signal[0], float), signal[1]
    return plausibility(without_codes(x, rate)[0], rate) if np.nanstd(x) > 0 else -1.0


def read_acq(path: Path, data: bytes, sampling_rate: float | None, wanted: Wanted) -> UserRecording:
    """A Biopac AcqKnowledge file."""
    signals, started = read_acqknowledge(path, data)
    return _of_signals(path, "AcqKnowledge", signals, started, sampling_rate, wanted, [])


def read_edf(path: Path, sampling_rate: float | None, wanted: Wanted) -> UserRecording:
    """EDF and BDF, told apart by what they hold; interrupted ones, whose gaps edfio does not place, are refused."""
    import edfio

    try:
        with open(path, "rb") as file:
            is_bdf = file.read(8) == b"\xffBIOSEMI"
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            # Some recorders write umlauts or units in Latin-1 where the format allows ASCII alone.
            edf = (edfio.read_bdf if is_bdf else edfio.read_edf)(path, header_encoding="latin-1")
        found = {s.label.strip(): s for s in reversed(edf.signals)}  # the first of one name
    except Exception as error:
        problem = f"cannot be read as {path.suffix[1:].upper()} ({error})"
        raise InputError(f"{path}: {problem}; export it again, or as CSV") from error
    if "+D" in str(edf.reserved):
        problem = "an interrupted recording (EDF+D)"
        raise InputError(f"{path}: {problem}; export its stretches as files of their own, or as CSV")
    signals = {name: Signal(s.data, s.sampling_frequency, s.physical_dimension) for name, s in reversed(found.items())}
    kind, told = "BDF" if is_bdf else "EDF", [str(warning.message) for warning in told]
    return _of_signals(path, kind, signals, _edf_start(edf), sampling_rate, wanted, told)


def _of_signals(path, kind: str, signals: dict[str, Signal], started: str, sampling_rate, wanted: Wanted, told: list):
    names = list(signals)
    name, choice = choose_ppg(path, names, wanted, lambda signal: _score(signals[signal]))
    others = [other for other in names if other != name]
    said, unknown = said_leads(path, others, wanted)
    found, odd = _usable_leads(others, [signals[other].unit for other in others], said, str(path))
    leads = {lead: (factor * signals[other].x, signals[other].rate) for lead, (other, factor) in found.items()}
    notes = [*told, choice, *unknown, *odd]
    if name is None and not leads:
        raise InputError(f"{path}: {'; '.join([f'no ECG lead among the signals {chr(44).join(names)}', *notes])}")
    pieces = [(0.0, path, signals[name][:2] if name else None, leads)]
    return _assembled(path, kind, pieces, 0.0, sampling_rate, notes)._replace(recorded_on=started)


def _edf_start(edf) -> str:
    """When a file begins, ISO 8601, or "": the format has 1 January 1985 for a date that is not told."""
    try:
        start = edf.startdatetime
    except ValueError:  # made anonymous, or no date
        return ""
    return "" if (start.year, start.month, start.day) == (1985, 1, 1) else start.replace(microsecond=0).isoformat()
