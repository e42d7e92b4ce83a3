"""A user's own recording, whatever its make, with a PPG or an ECG in it."""

import re
from pathlib import Path

import numpy as np

from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import MILLIVOLTS, parse_lead, split_unit
from p2es_lib.data.sources import wfdb_records as wfdb
from p2es_lib.signals.cleaning import OFF_S, flat_mask
from p2es_lib.signals.plausibility import without_codes
from p2es_lib.translation.readers.checks import check_file, check_leads, check_rate
from p2es_lib.translation.readers.choice import agrees, best_clock, doubt, find_ppgs, judge, on_clock, perhaps_ppgs
from p2es_lib.translation.readers.clock import Clock, find_clocks
from p2es_lib.translation.readers.clock_text import with_joined_clock
from p2es_lib.translation.readers.formats import read_tables, unpacked
from p2es_lib.translation.readers.layouts import empatica_e4, known_layout, polar_columns, unfolded
from p2es_lib.translation.readers.recording import UserRecording, Wanted, choose_ppg, said_leads
from p2es_lib.translation.readers.records import read_acq, read_edf, read_wfdb
from p2es_lib.translation.readers.table import Table

_COUNTER = re.compile(
    r"(sample|frame|row|packet|seq)\w*([ _]?(no|nr|num\w*|index|id|count\w*))?|index|counter|n|idx", re.I
)


def read_ppg(
    path: str | Path, *, sampling_rate: float | None = None, column: str | int | None = None, min_duration_s=8.192,
    time_column: str | None = None,
) -> UserRecording:  # fmt: skip
    """Read the PPG, and the ECG if there is one, of a recording.

    An :class:`InputError` for a missing or unreadable file; no PPG (the channels are listed); a sampling rate that is
    unknown or absurd; a signal that is empty, too short, flat, or missing throughout.

    Parameters
    ----------
    path : path
        WFDB record (with or without ``.hea``; several segments or rates are fine, missing segments become NaN), or a
        file of a kind in :data:`p2es_lib.translation.readers.checks.KINDS`, packed or not; other text is taken for a
        table, of which a column of time gives the sampling rate (s, ms, us or ns, Unix time, ISO 8601, hh:mm:ss.fff).
    sampling_rate, min_duration_s : float
        Hz, needed for a table without time column, whose rows it places where the column says otherwise; where a
        header states the rate, it must agree. Shortest recording of use, s; default: one window of the default
        settings.
    column, time_column : str or int, optional
        Signal to use as PPG, and as clock of a table ("none": it has none): a name, or a number counted from 1.
        Default: judged by names and by what they hold.
    """
    recording = _read(path, sampling_rate, Wanted(column, time_column=time_column))
    check_duration(path, recording, min_duration_s)
    present = recording.ppg[np.isfinite(recording.ppg)]
    if not len(present):
        raise InputError(f"{path}: the PPG has no valid sample (all NaN)")
    if np.ptp(present) == 0:
        raise InputError(f"{path}: the PPG is flat ({present[0]:g} throughout): the sensor recorded nothing")
    return _without_faults(recording)


def _without_faults(recording: UserRecording) -> UserRecording:
    ppg, told = without_codes(recording.ppg, recording.sampling_rate)
    ppg = np.where(flat_mask(recording.ppg, recording.sampling_rate, OFF_S), np.nan, ppg)
    return recording._replace(ppg=ppg, notes=[*recording.notes, *told])


def read_ecg(
    path: str | Path, *, sampling_rate: float | None = None, column: str | int | None = None, leads=None,
    time_column: str | None = None,
) -> UserRecording:  # fmt: skip
    """Read the ECG, and the PPG if there is one (else ``ppg`` is empty and its rate NaN), of a recording.

    Else as :func:`read_ppg`. ``leads`` says which leads signals hold whose names do not
    (:func:`p2es_lib.translation.readers.checks.check_leads`). An :class:`InputError` where no lead is known.
    """
    recording = _read(path, sampling_rate, Wanted(column, True, check_leads(leads), time_column))
    if not recording.ecg:
        problem = f"no ECG whose lead and unit are known ({'; '.join(recording.notes)})"
        raise InputError(f"{path}: {problem}; name its columns I, II, V1 ... with a unit (II_mV), or give --leads")
    if len(recording.ppg) and np.isfinite(recording.ppg).any():
        return _without_faults(recording)
    return recording._replace(ppg=np.zeros(0), sampling_rate=float("nan"))


def _read(path: str | Path, sampling_rate: float | None, wanted: Wanted) -> UserRecording:
    path = Path(path)
    if sampling_rate is not None:
        sampling_rate = check_rate(sampling_rate, "sampling rate")
    kind = check_file(path)
    if kind == "WFDB":
        return read_wfdb(path, sampling_rate, wanted)
    data, inside = unpacked(path)
    kind = inside if kind == "table" and inside != "table" else kind
    if kind == "EDF":
        return read_edf(path, sampling_rate, wanted)
    if kind == "AcqKnowledge":
        return read_acq(path, data, sampling_rate, wanted)
    tables = [known_layout(path, data)] if kind == "table" else read_tables(path, kind, data)
    return _of_table(_with_ppg(tables, wanted.column), sampling_rate, wanted)


def check_duration(path: str | Path, recording: UserRecording, least_s: float) -> None:
    """An :class:`InputError` if a recording is shorter than ``least_s`` seconds."""
    found_s, rate = len(recording.ppg) / recording.sampling_rate, recording.sampling_rate
    if found_s < least_s:
        raise InputError(f"{path}: {found_s:.1f} s of PPG at {rate:g} Hz; at least {least_s:.1f} s are needed")


def _with_ppg(tables: list[Table], column: str | int | None) -> Table:
    """Of several tables, that with the column, or the first with a PPG by its name, or else with what may be one."""
    if named := next((table for table in tables if str(column) in table.names), None):
        return named
    for names_of in (find_ppgs, lambda names: perhaps_ppgs(names)[0]):
        if found := [table for table in tables if names_of(table.names)]:
            others = [name for table in found[1:] for name in names_of(table.names)]
            if others:
                found[0].notes.append(f"also in the file: {', '.join(map(repr, others[:3]))} (--column)")
            return found[0]
    return max(tables, key=lambda table: len(table.cells))


def _of_table(table: Table, given: float | None, wanted: Wanted) -> UserRecording:
    path = table.path
    if (export := empatica_e4(table)) is not None:
        table = export
    table = with_joined_clock(unfolded(table))
    by_sensor, channel, told = polar_columns(table)
    notes, wanted = [*table.notes, *told], wanted._replace(column=channel) if wanted.column is None else wanted
    clocks, times, refused = _clocks(table, given, wanted, by_sensor)
    signals = [name for name in table.names if name not in times]
    if wanted.column is not None:
        name, _ = choose_ppg(path, table.names, wanted)
        if name in times and any(clock.name == name for clock in clocks) and len(signals) and _rises(table, name):
            raise InputError(f"{path}: column {name!r} holds the time; the others are: {', '.join(signals)}")
        clocks, times = [c for c in clocks if c.name != name], [t for t in times if t != name]
        signals = [other for other in table.names if other not in times]
    clock, given_note = _given_clock(table, given, clocks, refused)
    likely = clock or (clocks[0] if clocks else None)
    judged: dict[str, float] = {}

    def score(name: str) -> float:
        if name not in judged:
            try:
                x = table.numbers(name)
            except InputError:
                x = np.full(len(table.cells), np.nan)
            readings = [likely] if likely and likely.is_usual else clocks
            judged[name] = max((judge(x, reading) for reading in readings), default=-1.0)
        return judged[name]

    if clock is None and not clocks:
        if refused:
            raise refused[0]
        raise InputError(f"{path}: no time column, so the sampling rate is not known; give it (--sampling-rate)")
    ppg, choice = _ppg_of(table, signals, wanted, score, notes)
    x = table.numbers(ppg) if ppg else None
    if clock is None:
        clock = best_clock(path, clocks, x, table.rate)
        others = ", ".join(repr(other) for other in times if other != clock.name)
        clock = clock._replace(note=clock.note + (f" (not from {others})" if others else ""))
    if ppg and wanted.column is None and table.named and score(ppg) < 0.3:
        notes.append(f"WARNING: hardly any pulses that are like each other in {ppg!r}")
    if ppg and (clock.is_stated or given) and (why := doubt(x, clock)):
        if not given and not clock.name:
            problem = f"{table.said!r} says {clock.rate:g} Hz, but {why}"
            raise InputError(f"{path}: {problem}; give the rate (--sampling-rate)")
        notes.append(f"WARNING: {why}: is the rate or the unit of time right?")
    if ppg and len(odd := table.odd(ppg)):
        cell = f"{table.text(ppg).iloc[odd[0]]!r} in row {odd[0] + 1} of the values"
        notes.append(f"{len(odd)} cell(s) of {ppg!r} are no numbers ({cell}): taken as missing")
    said, unknown = said_leads(path, [name for name in signals if name != ppg], wanted, table.named)
    others = [name for name in signals if name != ppg]
    leads, strange, unitless = _table_leads(table, others if table.named else list(said), said)
    notes = [note for note in (*notes, clock.note, given_note, choice, *unknown, *strange) if note]
    ecg = {lead: on_clock(values, clock) for lead, values in leads.items()}
    rate, ecg_rate = (clock.rate if there else float("nan") for there in (ppg, ecg))
    pulse = on_clock(x, clock) if ppg else np.zeros(0)
    return UserRecording(pulse, rate, ecg, ecg_rate, notes, clock.started or table.started, tuple(unitless))


def _clocks(table: Table, given: float | None, wanted: Wanted, by_sensor: str | None):
    """Readings of the time columns, their names, and why others are none: of the one that the user names alone."""
    column = wanted.time_column
    if column is None or not str(column).strip():
        return find_clocks(table, given, by_sensor)
    _, times, _ = find_clocks(table, given, None)
    if str(column).strip().lower() in ("none", "no"):
        return [], times, []
    name, _ = choose_ppg(table.path, table.names, Wanted(column))
    clocks, _, refused = find_clocks(table, given, name)
    if refused and given is None:
        raise refused[0]
    return clocks, list({name: None, **dict.fromkeys(times)}), refused


def _given_clock(table: Table, given: float | None, clocks: list[Clock], refused: list[InputError]):
    """The clock by the rate that the user gives, or that the file states where no column counts time; and a note."""
    if given is None and (clocks or table.rate is None):
        return None, ""
    rate = given or check_rate(table.rate, f"{table.path}: sampling rate by {table.said!r}:")
    if fitting := [clock for clock in clocks if agrees(rate, clock.rate)]:
        return fitting[0], ""
    where = f"{rate:g} Hz as given" if given else f"{rate:g} Hz by {table.said!r}"
    if given and any("jumps by" in str(error) for error in refused):
        raise refused[0]
    if clocks:
        warning = f"WARNING: column {clocks[0].name!r} says {clocks[0].rate:.4g} Hz, and is not used"
    elif refused:
        warning = "WARNING: not used: " + str(refused[0]).removeprefix(f"{table.path}: ")
    else:
        warning = ""
    note = where + (" (no time column)" if not warning and given else "")
    if not clocks and not refused and (counted := _counter(table)):
        name, position = counted
        lost = int(position[-1]) + 1 - len(position)
        return Clock(rate, position, f"{where}; column {name!r} counts samples, {lost} are missing", table.started), ""
    return Clock(rate, np.arange(len(table.cells)), note, table.started), warning


def _counter(table: Table) -> tuple[str, np.ndarray] | None:
    """A column that is named as a counter of samples and counts them, some of which are missing; and their numbers."""
    for name in table.names:
        if _COUNTER.fullmatch(name.strip()) and table.is_numeric(name):
            steps = np.diff(count := table.numbers(name))
            if np.all(steps >= 1) and np.all(steps == np.rint(steps)) and np.median(steps) == 1 and steps.max() > 1:
                return name, (count - count[0]).astype(int)
    return None


def _rises(table: Table, name: str) -> bool:
    x = table.numbers(name) if table.is_numeric(name) else np.arange(2.0)
    return bool(np.mean(np.diff(x[np.isfinite(x)]) >= 0) > 0.97)


def _ppg_of(table: Table, signals: list[str], wanted: Wanted, score, notes: list[str]) -> tuple[str | None, str]:
    """Which column holds the PPG; of a table without names, the only one, or the only one with pulses."""
    if table.named or wanted.column is not None or (wanted.ecg and len(signals) == len(wanted.leads)):
        return choose_ppg(table.path, table.names if wanted.column is not None else signals, wanted, score)
    if len(signals) == 1 and not wanted.ecg:
        return signals[0], f"PPG from {signals[0]!r}"
    good = [name for name in signals if score(name) >= 0.7]
    poor = [name for name in signals if score(name) < 0.3]
    if len(good) == 1 and len(poor) == len(signals) - 1 and not wanted.ecg:
        return good[0], f"PPG from column {good[0]!r}, the only one with pulses"
    what = f"{len(table.names)} columns without names ({', '.join(notes)})"
    more = ", and the leads of the others in order with --leads" if wanted.ecg else ""
    raise InputError(f"{table.path}: {what}; name the PPG's with column= (--column){more}")


def _table_leads(table: Table, names: list[str], said: dict[str, str]):
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
