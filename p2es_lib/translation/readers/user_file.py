"""A user's own recording: a WFDB record, a table or an EDF file with a PPG or an ECG in it.

Tables of two wearables are recognised by their layout. Empatica E4 (``BVP.csv``): the first line is the Unix time of
the start, the second the sampling rate, then one value a line. Polar Sensor Logger (Polar OH1, Verity Sense):
``Phone timestamp;sensor timestamp [ns];channel 0;channel 1;channel 2;ambient``, sampled by the sensor's clock.
"""

import re
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.interpolate import PchipInterpolator

from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import MILLIVOLTS, parse_lead, split_unit
from p2es_lib.data.sources import wfdb_records as wfdb
from p2es_lib.signals.cleaning import OFF_S, flat_mask
from p2es_lib.signals.transforms import resample_signal
from p2es_lib.translation.readers.checks import check_file, check_leads, check_rate, header_of
from p2es_lib.translation.readers.csv_clock import EPOCH_S, LONGEST_STEP_S, Clock, check_agreement, find_clock
from p2es_lib.translation.readers.csv_table import CsvTable, read_csv_table

#: Columns of a Polar Sensor Logger file: clock, and the first photodiode's channel.
_POLAR_CLOCK, _POLAR_PPG = "sensor timestamp [ns]", "channel 0"
#: Names of a PPG besides those that :func:`wfdb_records.find_ppg` knows: "BVP" is blood volume pulse.
_ALSO_PPG = re.compile(r"(^|[^a-z])bvp([^a-z]|$)|spo2[ _-]?wave", re.IGNORECASE)
#: Signals that are an ECG by their name.
_ECG = re.compile(r"(^|[^a-z])(ecg|ekg)([^a-z]|$)", re.IGNORECASE)
_JUST_PPG = re.compile(r"(ppg|pleth|bvp)\W*([\[(].*)?", re.IGNORECASE)


class UserRecording(NamedTuple):
    """What was read: a PPG (T,) at ``sampling_rate`` Hz, as recorded, NaN where missing or the sensor was off.

    ``ecg``: standard leads recorded beside it, mV, (T_ecg,) each, at ``ecg_sampling_rate`` Hz (NaN without any).
    ``notes``: how the file was read, and what was assumed where it does not say, for the user. ``recorded_on``: when it
    begins, by the file, ISO 8601 (a date alone where no time is given), or "". ``unitless``: leads taken as mV.
    """

    ppg: np.ndarray
    sampling_rate: float
    ecg: dict[str, np.ndarray]
    ecg_sampling_rate: float
    notes: list[str]
    recorded_on: str = ""
    unitless: tuple[str, ...] = ()


class _Wanted(NamedTuple):
    """What is read: the PPG (its ``column``, if it was named), or the ECG, beside which a PPG may be missing.

    ``leads``: signal ("": the next one whose name says none) and lead, as :func:`checks.check_leads` gives them.
    """

    column: str | int | None = None
    ecg: bool = False
    leads: tuple[tuple[str, str], ...] = ()


def read_ppg(
    path: str | Path, *, sampling_rate: float | None = None, column: str | int | None = None, min_duration_s=8.192
) -> UserRecording:
    """Read the PPG, and the ECG if there is one, of a recording.

    An :class:`InputError` for a missing or unreadable file; no PPG (the channels are listed); a sampling rate that is
    unknown, absurd or disagrees with the file; a signal that is empty, too short, flat, or missing throughout.

    Parameters
    ----------
    path : path
        WFDB record (with or without ``.hea``; several segments or rates are fine, missing segments become NaN); a file
        ending in .csv, .txt or .tsv (:func:`p2es_lib.translation.readers.csv_table.read_csv_table`), of which a column
        of time gives the sampling rate (s, ms, us or ns, Unix time, ISO 8601, hh:mm:ss.fff); or one in .edf or .bdf.
    sampling_rate, min_duration_s : float
        Hz, needed for a CSV without time column; where the file states its rate, it must agree. Shortest recording of
        use, s; default: one window of the default settings.
    column : str or int, optional
        Signal to use as PPG: its name, or its number counted from 1. Default: the first named PLETH, PPG, BVP or alike.
    """
    recording = _read(path, sampling_rate, _Wanted(column))
    ppg, rate = recording.ppg, recording.sampling_rate
    check_duration(path, recording, min_duration_s)
    present = ppg[np.isfinite(ppg)]
    if not len(present):
        raise InputError(f"{path}: the PPG has no valid sample (all NaN)")
    if np.ptp(present) == 0:
        raise InputError(f"{path}: the PPG is flat ({present[0]:g} throughout): the sensor recorded nothing")
    return recording._replace(ppg=np.where(flat_mask(ppg, rate, OFF_S), np.nan, ppg))


def read_ecg(
    path: str | Path, *, sampling_rate: float | None = None, column: str | int | None = None, leads=None
) -> UserRecording:
    """Read the ECG, and the PPG if there is one (else ``ppg`` is empty and its rate NaN), of a recording.

    Else as :func:`read_ppg`. ``leads`` says which leads signals hold whose names do not
    (:func:`p2es_lib.translation.readers.checks.check_leads`). An :class:`InputError` where no lead is known.
    """
    recording = _read(path, sampling_rate, _Wanted(column, True, check_leads(leads)))
    if not recording.ecg:
        problem = f"no ECG whose lead and unit are known ({'; '.join(recording.notes)})"
        raise InputError(f"{path}: {problem}; name its columns I, II, V1 ... with a unit (II_mV), or give --leads")
    ppg, rate = recording.ppg, recording.sampling_rate
    if len(ppg) and np.isfinite(ppg).any():
        return recording._replace(ppg=np.where(flat_mask(ppg, rate, OFF_S), np.nan, ppg))
    return recording._replace(ppg=np.zeros(0), sampling_rate=float("nan"))


def _read(path: str | Path, sampling_rate: float | None, wanted: _Wanted) -> UserRecording:
    path = Path(path)
    if sampling_rate is not None:
        sampling_rate = check_rate(sampling_rate, "sampling rate")
    return {"table": _read_csv, "EDF": _read_edf, "WFDB": _read_wfdb}[check_file(path)](path, sampling_rate, wanted)


def check_duration(path: str | Path, recording: UserRecording, least_s: float) -> None:
    """An :class:`InputError` if a recording is shorter than ``least_s`` seconds."""
    found_s, rate = len(recording.ppg) / recording.sampling_rate, recording.sampling_rate
    if found_s < least_s:
        raise InputError(f"{path}: {found_s:.1f} s of PPG at {rate:g} Hz; at least {least_s:.1f} s are needed")


def find_ppgs(names: list[str]) -> list[str]:
    """Signals that stand for a PPG, those that are called just so ("PPG", "Pleth (NU)", "BVP") first."""
    found = [name for name in names if wfdb.find_ppg([name]) or _ALSO_PPG.search(name) and not wfdb.is_derived(name)]
    return sorted(found, key=lambda name: not _JUST_PPG.fullmatch(name.strip()))


def _choose_ppg(path: Path, names: list[str], wanted: _Wanted) -> tuple[str | None, str]:
    """Name of the PPG among the signals of a file; and what to tell the user, with what else might have been it.

    None where there is none, and the ECG is wanted.
    """
    if wanted.column is not None:
        text = str(wanted.column).strip()
        found = [name for name in names if name.strip().lower() == text.lower()]
        if not found and text.isdigit() and 1 <= int(text) <= len(names):
            found = [names[int(text) - 1]]
        if not found:
            raise InputError(f"{path}: no column {text!r}; the columns are: {', '.join(names)}")
        return found[0], f"PPG from {found[0]!r}"
    found = find_ppgs(names)
    if not found and wanted.ecg:
        return None, "no PPG"
    if not found:
        listed = ", ".join(names)
        raise InputError(f"{path}: no PPG channel; the channels are: {listed}; name one with column= (--column)")
    ppg, others = found[0], [name for name in found if name != found[0]]
    first = "by its name" if any(name in others for name in names[: names.index(ppg)]) else "the first"
    choice = f", {first}; also there: {', '.join(map(repr, others))} (--column)" if others else ""
    return ppg, f"PPG from {ppg!r}{choice}"


def _said_leads(path: Path, names: list[str], wanted: _Wanted, named: bool = True) -> tuple[dict[str, str], list[str]]:
    """Signals whose leads the user says, each to a name that says it; and which ECG signals remain of unknown lead.

    Leads without a signal go, in order, to signals that are called ECG or are a chest electrode of unknown position;
    where signals have no names, to those that are left.
    """
    if not wanted.ecg:
        return {}, []
    by_name = {signal.lower(): lead for signal, lead in wanted.leads if signal}
    lower = {name.strip().lower(): name for name in names}
    if absent := [signal for signal in by_name if signal not in lower]:
        raise InputError(f"{path}: --leads names {absent[0]!r}, which is no ECG column; there are: {', '.join(names)}")
    said = {lower[signal]: lead for signal, lead in by_name.items()}
    others = [name for name in names if name not in said]
    unknown = [name for name in others if not named or _is_unknown_ecg(name)]
    in_order = [lead for signal, lead in wanted.leads if not signal]
    if in_order and len(in_order) != len(unknown):
        there = f"{len(unknown)} of unknown lead ({', '.join(unknown) or 'none'})"
        remedy = f"name each as COLUMN=LEAD; the columns are: {', '.join(names)}"
        raise InputError(f"{path}: --leads {','.join(in_order)} for ECG columns, of which there are {there}; {remedy}")
    said |= dict(zip(unknown, in_order))
    said = {name: f"{lead} ({unit})" if (unit := split_unit(name)[1]) else lead for name, lead in said.items()}
    left = [name for name in unknown if name not in said and named]
    return said, [f"ECG signal {name!r} left out: --leads {name}=V1 says that it is V1, or another" for name in left]


def _is_unknown_ecg(name: str) -> bool:
    """Whether a signal is an ECG by its name, which does not say its lead."""
    is_ecg = bool(_ECG.search(name)) or wfdb.find_chest_lead([name]) is not None
    return is_ecg and parse_lead(name) is None and not wfdb.is_derived(name)


def _of_nameless(table: CsvTable, signals: list[str], wanted: _Wanted, notes: list[str]) -> _Wanted:
    """Which column of a table without names holds the PPG, if that can be told."""
    if table.named or wanted.column is not None or (wanted.ecg and len(signals) == len(wanted.leads)):
        return wanted
    if len(signals) != 1 or wanted.ecg:
        what = f"{len(table.names)} columns without names ({', '.join(notes)})"
        more = ", and the leads of the others in order with --leads" if wanted.ecg else ""
        raise InputError(f"{table.path}: {what}; name the PPG's with column= (--column){more}")
    return wanted._replace(column=signals[0])


def _read_csv(path: Path, sampling_rate: float | None, wanted: _Wanted) -> UserRecording:
    table = read_csv_table(path)
    notes, clock, clocks = list(table.notes), None, []
    if (export := _empatica_e4(table)) is not None:
        table, rate, note, started = export
        notes.append(note)
        check_agreement(path, sampling_rate, rate)
        clock = Clock(rate, np.arange(len(table.cells)), "", started)
    else:
        by_sensor, channel, told = _polar_columns(table)
        notes, wanted = notes + told, wanted._replace(column=channel) if wanted.column is None else wanted
        clock, clocks = find_clock(table, sampling_rate, by_sensor)
    signals = [name for name in table.names if name not in clocks]
    wanted = _of_nameless(table, signals, wanted, notes)
    ppg, choice = _choose_ppg(path, table.names if wanted.column is not None else signals, wanted)
    if ppg and ppg not in signals:
        raise InputError(f"{path}: column {ppg!r} holds the time; the others are: {', '.join(signals)}")
    if clock is None:
        if sampling_rate is None:
            raise InputError(f"{path}: no time column, so the sampling rate is not known; give it (--sampling-rate)")
        clock = Clock(sampling_rate, np.arange(len(table.cells)), f"{sampling_rate:g} Hz as given (no time column)")
    others = [name for name in signals if name != ppg]
    said, unknown = _said_leads(path, others, wanted, table.named)
    leads, odd, unitless = _table_leads(table, others if table.named else list(said), said)
    notes = [note for note in (*notes, clock.note, choice, *unknown, *odd) if note]
    ecg = {lead: _on_clock(x, clock) for lead, x in leads.items()}
    rate, ecg_rate = (clock.rate if there else float("nan") for there in (ppg, ecg))
    pulse = _on_clock(table.numbers(ppg), clock) if ppg else np.zeros(0)
    return UserRecording(pulse, rate, ecg, ecg_rate, notes, clock.started, tuple(unitless))


def _on_clock(x: np.ndarray, clock: Clock) -> np.ndarray:
    """Values (n_rows,) at a constant rate, NaN where there is no row."""
    position, whole = clock.position, np.arange(int(clock.position[-1]) + 1)
    placed, present = np.full(len(whole), np.nan), np.isfinite(x)
    if np.issubdtype(position.dtype, np.integer):
        placed[position] = x
    elif present.sum() >= 2:
        # Each value between two rows: a line would take a tenth of a pulse's height at 25 Hz, a spline would overshoot.
        placed = PchipInterpolator(position[present], x[present], extrapolate=False)(whole)
        after = np.searchsorted(position, whole).clip(1, len(x) - 1)
        far = position[after] - position[after - 1] > LONGEST_STEP_S * clock.rate
        placed[far | ~(present[after] & present[after - 1])] = np.nan
    return placed


def _table_leads(table: CsvTable, names: list[str], said: dict[str, str]):
    """Standard leads in mV among the columns, what was assumed about them, and those whose unit is not stated.

    ``said``: names that say the lead of columns whose own do not.
    """
    found, unitless, notes = {}, [], []
    for name in names:
        if (lead := parse_lead(said.get(name, name))) is None:
            continue
        named, stated = split_unit(name)[1], table.units.get(name, "")
        unit = (named or stated).lower()
        if lead in found:
            notes.append(f"ECG column {name!r} left out: lead {lead} is there already")
            continue
        if named and stated and unit != stated.lower():
            wfdb.find_leads([name], [stated], str(table.path))  # refuses a contradiction
        if unit and unit not in MILLIVOLTS:
            notes.append(f"ECG column {name!r} left out: its unit {named or stated!r} is neither mV nor uV")
            continue
        found[lead] = MILLIVOLTS.get(unit, 1.0) * table.numbers(name)
        unitless += [] if unit else [lead]
    assumed = [f"ECG {', '.join(unitless)} without a unit: taken as mV"] if unitless else []
    return found, notes + assumed, unitless


def _empatica_e4(table: CsvTable) -> tuple[CsvTable, float, str, str] | None:
    """Samples, rate (Hz), a note and the start, if the layout is Empatica's; one of its other signals is refused."""
    if table.named or len(table.cells) < 3 or not all(map(table.is_numeric, table.names)):
        return None
    head = np.stack([pd.to_numeric(table.text(name).iloc[:3], errors="coerce").to_numpy(float) for name in table.names])
    start_s, rate = head[0, :2]
    is_layout = EPOCH_S[0] <= start_s <= EPOCH_S[1] and 1 <= rate <= 10_000 and rate == round(rate)
    if not is_layout or (head[:, :2] != head[0, :2]).any() or not abs(head[0, 2]) < EPOCH_S[0]:
        return None
    what = f"{table.path}: Empatica E4 layout (start and sampling rate in the first two lines)"
    if len(table.names) > 1:
        raise InputError(f"{what} of {len(table.names)} columns, which is not the PPG; give BVP.csv")
    rate = check_rate(rate, f"{what}, which is not the PPG (BVP.csv):")
    start = pd.Timestamp(start_s, unit="s").floor("s")
    note = f"Empatica E4 layout: start {start:%Y-%m-%d %H:%M:%S UTC} in the first line, {rate:g} Hz in the second"
    return table._replace(cells=table.cells.iloc[2:].reset_index(drop=True)), rate, note, start.isoformat()


def _polar_columns(table: CsvTable) -> tuple[str | None, str | None, list[str]]:
    """Clock, PPG and a note, if the layout is Polar Sensor Logger's."""
    by_name = {name.lower(): name for name in table.names}
    if not table.named or not {"phone timestamp", _POLAR_CLOCK, _POLAR_PPG} <= set(by_name):
        return None, None, []
    channels = ", ".join(repr(name) for lower, name in by_name.items() if lower.startswith("channel "))
    note = f"Polar Sensor Logger layout: clock of the sensor; photodiode channels {channels}"
    return by_name[_POLAR_CLOCK], by_name[_POLAR_PPG], [note]


def _read_wfdb(path: Path, sampling_rate: float | None, wanted: _Wanted) -> UserRecording:
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
    check_agreement(path, sampling_rate, by_header)
    return UserRecording(ppg, rate, ecg, ecg_rate, [f"{kind}, {by_header:g} Hz by its header", *notes])


def _signals_of(pulse, leads: dict) -> list[tuple]:
    return [pulse] if pulse else [*leads.values()]


def _wfdb_pieces(path: Path, header, wanted: _Wanted) -> tuple[list[tuple], list[str]]:
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
        if wanted.column is None and not wanted.ecg and not find_ppgs(names):
            continue
        name, choice = _choose_ppg(part, names, wanted)
        chosen[choice] = None
        others = [other for other in dict.fromkeys(names) if other != name]
        said, unknown = _said_leads(part, others, wanted)
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
        _choose_ppg(path, list(seen), wanted)  # says which channels there are
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


def _read_edf(path: Path, sampling_rate: float | None, wanted: _Wanted) -> UserRecording:
    """EDF and BDF, told apart by what they hold; interrupted ones, whose gaps edfio does not place, are refused."""
    import edfio

    try:
        with open(path, "rb") as file:
            is_bdf = file.read(8) == b"\xffBIOSEMI"
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            # Some recorders write umlauts or units in Latin-1 where the format allows ASCII alone.
            edf = (edfio.read_bdf if is_bdf else edfio.read_edf)(path, header_encoding="latin-1")
        signals = {signal.label.strip(): signal for signal in reversed(edf.signals)}  # the first of one name
    except Exception as error:
        problem = f"cannot be read as {path.suffix[1:].upper()} ({error})"
        raise InputError(f"{path}: {problem}; export it again, or as CSV") from error
    if "+D" in str(edf.reserved):
        problem = "an interrupted recording (EDF+D)"
        raise InputError(f"{path}: {problem}; export its stretches as files of their own, or as CSV")
    names = list(dict.fromkeys(signal.label.strip() for signal in edf.signals))
    name, choice = _choose_ppg(path, names, wanted)
    others = [other for other in names if other != name]
    said, unknown = _said_leads(path, others, wanted)
    found, odd = _usable_leads(others, [signals[other].physical_dimension for other in others], said, str(path))
    rates = {other: signal.sampling_frequency for other, signal in signals.items()}
    leads = {lead: (factor * signals[other].data, rates[other]) for lead, (other, factor) in found.items()}
    notes = [*(str(warning.message) for warning in told), choice, *unknown, *odd]
    if name is None and not leads:
        raise InputError(f"{path}: {'; '.join([f'no ECG lead among the signals {chr(44).join(names)}', *notes])}")
    pieces = [(0.0, path, (signals[name].data, rates[name]) if name else None, leads)]
    recording = _assembled(path, "BDF" if is_bdf else "EDF", pieces, 0.0, sampling_rate, notes)
    return recording._replace(recorded_on=_edf_start(edf))


def _edf_start(edf) -> str:
    """When a file begins, ISO 8601, or "": the format has 1 January 1985 for a date that is not told."""
    try:
        start = edf.startdatetime
    except ValueError:  # made anonymous, or no date
        return ""
    return "" if (start.year, start.month, start.day) == (1985, 1, 1) else start.replace(microsecond=0).isoformat()
