"""Clocks of a table: which columns count time, in which unit or form, and the constant rate that each fits.

What :func:`pandas.to_datetime` would guess (01/05 or 05/01, mm:ss or hh:mm) is decided by what fits, or refused.
"""

import re
from typing import NamedTuple

import numpy as np
import pandas as pd

from p2es_lib.core.errors import InputError
from p2es_lib.data.sources.wfdb_records import name_words
from p2es_lib.translation.readers.checks import RATE_RANGE_HZ
from p2es_lib.translation.readers.clock_text import elapsed_by_text
from p2es_lib.translation.readers.spacing import (
    RATE_TOLERANCE,
    coarse_step,
    constant_rate,
    even_packets,
    mended,
    ordinary_steps,
    packet_starts,
    row_times,
    spread_stamps,
    usual_rise,
)  # fmt: skip
from p2es_lib.translation.readers.table import Table

#: Words for units, by the seconds that they last.
_UNIT_WORDS = {
    1.0: "s sec secs second seconds sekunden", 1e-3: "ms msec millis milli milliseconds millisecond",
    1e-6: "us µs μs usec micros microseconds", 1e-9: "ns nanos nanoseconds nsec", 60.0: "min mins minute minutes",
    3600.0: "h hr hrs hour hours", 86400.0: "d day days",
}  # fmt: skip
UNITS_S = {word: seconds for seconds, words in _UNIT_WORDS.items() for word in words.split()}
_PLAIN_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
#: Units that do not say how long they last.
_NO_UNITS = {word + end for word in ("tick", "cycle", "count", "sample", "frame", "row") for end in ("", "s")}
#: Unix times of the years 2001 to 2100, in s, and days as Excel counts them, of the years 1991 to 2119.
EPOCH_S, _EXCEL_DAYS = (1e9, 4.1e9), (33_300.0, 80_000.0)
#: Counts of 100 ns since 1601 (FILETIME) and since the year 1 (.NET), in the years 1981 to 2139 and 1997 to 2123.
_TICKS_100_NS = ((1.2e17, 1.7e17), (6.3e17, 6.7e17))
_CLOCK_WORDS = {
    "time", "times", "timestamp", "timestamps", "datetime", "epoch", "unixtime", "elapsed", "clock", "stamp", "zeit",
    "zeitstempel", "uhrzeit", "zeitpunkt", "heure", "horodatage", "temps", "hora", "tiempo", "tempo", "ora", "orario",
    "czas", "tid", "tidspunkt", "aika", "čas", "tijd", "zaman",
}  # fmt: skip
_CLOCK_SIGNS = re.compile(r"时间|時間|时刻|時刻|время|시간|χρόνος|เวลา")
# Names that begin so, and hold nothing else but a unit, are clocks too.
_SHORT = {"t", "ts", "micros", "microseconds", *_UNIT_WORDS[1.0].split()[1:], *_UNIT_WORDS[1e-3].split()}
_NO_CLOCK_WORDS = {"transit", "arrival", "interval", "constant", "delay", "zone", "offset"}
#: Tables that last longer (s), and 20 times as long as their rows, have a clock that was set in between.
LONGEST_GAP_S = 24 * 3600.0
_SET_CLOCK = "correct the clock, or give the part before or after as a file of its own"
#: Above this rate (Hz), a unit that nobody states is believed only if the signal has pulses at that rate.
_USUAL_HZ = 1000.0


class Clock(NamedTuple):
    """Times of the rows of a table: rate in Hz, sample number of each row, and from which column and how, for the user.

    Sample numbers (n,) ascend; interruptions leave numbers out. Fractions: values between them are interpolated.
    ``rows`` (n,): the rows of the table that they belong to, in the order of time (None: all, as they stand).
    ``started``: when it begins, ISO 8601 to the second, where it tells a date; or "". ``is_stated``: whether its unit
    is stated or can be no other; ``is_usual``: whether its rate is one that most sensors have.
    """

    rate: float
    position: np.ndarray
    note: str
    started: str = ""
    rows: np.ndarray | None = None
    is_stated: bool = True
    is_usual: bool = True
    name: str = ""


def find_clocks(table: Table, given: float | None, column: str | None) -> tuple[list[Clock], list[str], list]:
    """Readings of all columns that count time, by preference; names of these columns; and why others are no clock.

    ``column`` alone, or those named as clocks; without names, dates, clock times, and a first column that only rises.
    ``given`` (Hz, by the user) decides where a column may count rows or is too coarse.
    """
    columns = [column] if column else _candidates(table)
    clocks, refused = [], []
    for name in columns:
        try:
            clocks += _readings(table, name, given)
        except InputError as error:
            refused.append(error)
    return clocks, columns, refused


def _candidates(table: Table) -> list[str]:
    """Columns that may count time: by name, or, without names, by what they hold."""
    names = table.names
    if table.named and (by_name := [name for name in names if _is_clock_name(name, table)]):
        return by_name
    texts = [name for name in names if not table.is_numeric(name) and ":" in "".join(table.text(name).iloc[:3])]
    if texts or not names or len(names) < 2:
        return texts
    if table.named and names[0] not in table.nameless:
        # Named otherwise: only what can be nothing but a time.
        return [name for name in names if table.is_numeric(name) and _is_date(table.numbers(name))]
    if not table.is_numeric(names[0]):
        return []
    first = table.numbers(names[0])
    steps = np.diff(first[np.isfinite(first)])
    # One that rises by exactly 1 from row to row counts rows: it says nothing of the time between them.
    rises = len(steps) > 0 and np.mean(steps >= 0) > 0.97 and steps.sum() > 0
    only_counts = np.all(steps == 1) and not (names[0] in table.nameless and table.named)
    return [names[0]] if rises and not only_counts else []


def _is_date(time: np.ndarray) -> bool:
    """Whether numbers rise and can be nothing but dates."""
    time = time[np.isfinite(time)]
    known = len(time) > 2 and (_unix_unit(time) is not None or any(a <= time[0] <= b for a, b in _TICKS_100_NS))
    return bool(known and np.mean(np.diff(time) >= 0) > 0.97 and time[-1] > time[0])


def _is_clock_name(name: str, table: Table) -> bool:
    words = name_words(name)
    if _CLOCK_SIGNS.search(name):
        return True
    if not words or _NO_CLOCK_WORDS & set(words):
        return False
    if words == ["date"]:
        return ":" in table.text(name).iloc[0]
    if words in (["min"], ["hr"]):  # a minimum or a heart rate, unless it stands first and rises
        return name == table.names[0] and table.is_numeric(name) and bool(np.all(np.diff(table.numbers(name)) > 0))
    units = set(words[1:]) <= set(UNITS_S) - {"h", "d"} | {"since", "start", "boot"}  # "t_d" may be any time
    return bool(_CLOCK_WORDS & set(words)) or (words[0] in _SHORT and units)


def _readings(table: Table, name: str, given: float | None) -> list[Clock]:
    """A column as clocks, one for each unit that it may be in; an :class:`InputError` if it cannot be one."""
    where = f"{table.path}: the time column {name!r}"
    if not table.is_numeric(name) or re.fullmatch(r"(19|20)\d{12}[.,]?\d*", table.text(name).iloc[0]):
        elapsed_s, how = elapsed_by_text(where, table.text(name))
        units, stated = [(1.0, how)], True
    else:
        elapsed_s = table.numbers(name)
        units = []
    time, rows, done = mended(where, elapsed_s, table.text(name), table.cells)
    how_mended = "".join(f", {what}" for what in done)
    packets = packet_starts(time)
    if not units:
        unit, stated = _stated_unit(table, name), True
        steps = np.diff(time)
        # Rises by 1, or a whole number where rows were lost.
        if not unit and not _unix_unit(time) and np.all(steps == np.rint(steps)) and np.median(steps) == 1:
            return [_counted(where, table, name, time, rows, given, how_mended)]
        words = [*name_words(name), *name_words(table.units.get(name, ""))]
        units, stated = _units(where, unit, words, time if packets is None else packets)
    found, refused = [], None
    for unit_s, how in units:
        seconds = (time - time[0]) * unit_s
        how += how_mended
        try:
            _check_span(table.path, name, table.text(name).iloc[rows], seconds)
            if packets is not None:
                seconds = (packets - packets[0]) * unit_s
                how += "; rows came in packets, taken to be evenly spaced"
            clock = _placed(where, name, how, seconds, given)
        except InputError as error:
            is_rate = "a PPG recording has" in str(error)
            remedy = "; where the unit is wrong, correct it, or give the sampling rate (--sampling-rate)" * is_rate
            refused = refused or InputError(f"{error}{remedy}")
            continue
        started = _started(table, name)
        is_usual = stated or clock.rate <= _USUAL_HZ
        found.append(clock._replace(started=started, rows=rows, is_stated=stated, is_usual=is_usual, name=name))
    if not found:
        raise refused
    return sorted(found, key=lambda clock: not clock.is_usual)


def _counted(where: str, table: Table, name: str, time, rows, given: float | None, done: str) -> Clock:
    """A column that counts rows, at the rate that is given or that the file states."""
    rate, source = (given, "as given") if given else (table.rate, f"by {table.said!r}")
    if rate is None:
        problem = "states no unit and rises by 1 from row to row: it counts rows, or milliseconds at 1000 Hz"
        raise InputError(f"{where} {problem}; give the sampling rate (--sampling-rate)")
    _check_span(table.path, name, table.text(name).iloc[rows], (time - time[0]) / rate)
    note = f"{rate:g} Hz {source}; column {name!r} taken to count samples{done}"
    return Clock(rate, (time - time[0]).astype(int), note, rows=rows, name=name)


def _placed(where: str, name: str, how: str, elapsed_s: np.ndarray, given: float | None) -> Clock:
    """Rows at a constant rate, or the one that was given where times are too coarse, or interpolated at their mean."""
    steps, overall = np.diff(elapsed_s), (len(elapsed_s) - 1) / elapsed_s[-1]
    period, rise = float(np.mean(ordinary_steps(steps))), usual_rise(steps)
    usual = 1 / period if period > 0 else overall  # rows per second, interruptions left out
    try:
        if (coarse_s := coarse_step(steps)) is not None and (even := even_packets(elapsed_s)) is not None:
            rate, position = even
            how += f", written in steps of {coarse_s:g} s with as many rows in each: taken to be evenly spaced"
        else:
            if coarse_s is not None:
                raise _too_coarse(where, steps, coarse_s, usual)
            rate, position = constant_rate(elapsed_s, where)
        note = f"{rate:.6g} Hz from column {name!r} ({how})"
    except InputError:
        # The last step is begun, not finished: times in steps of 1 s leave the duration open by 1 s.
        tolerance = RATE_TOLERANCE + rise / elapsed_s[-1]
        agrees = given and all(abs(given / found - 1) <= tolerance for found in (overall, usual))
        if np.mean(steps == 0) > 0.5 and agrees:
            why = f"gaps cannot be seen, column {name!r} is written in steps of {rise:g} s"
            return Clock(given, np.arange(len(elapsed_s)), f"{given:g} Hz as given; {why}")
        if (spread := spread_stamps(elapsed_s)) is not None:
            return _placed(where, name, f"{how}, repeated times spread between their neighbours", spread, given)
        if (irregular := row_times(elapsed_s)) is None:
            raise
        rate, position = irregular
        low, high = 1000 * np.quantile(steps, (0.05, 0.95))
        note = f"column {name!r} ({how}) has no constant rate: most steps are {low:.3g} to {high:.3g} ms"
        note += f"; values between the rows are interpolated, to their mean rate of {rate:.6g} Hz"
    # Of samples that are missing, the longest gap is told: it may come of a clock that was set.
    row = int(np.argmax(np.diff(position)))
    gap_s = float(position[row + 1] - position[row]) / rate
    longest = f", the longest gap {gap_s:.6g} s after row {row + 1} of the values" if gap_s > 1 else ""
    n_lost = int(position[-1]) + 1 - len(position)
    return Clock(rate, position, note + (f", {n_lost} sample(s) missing{longest}" if n_lost > 0 else ""))


def _too_coarse(where: str, steps: np.ndarray, coarse_s: float, usual: float) -> InputError:
    row = int(np.argmax(steps))  # a sampling rate does not place rows after an interruption
    jump = f"; it jumps by {steps[row]:g} s after row {row + 1} of the values: give the parts as separate files"
    problem = f"written in steps of {coarse_s:g} s, too coarse for a PPG (about {usual:.3g} rows per second)"
    remedy = "export it with fractions of a second, or give the sampling rate (--sampling-rate)"
    return InputError(f"{where} is {problem}: {remedy}{jump if steps[row] > 2 * usual_rise(steps) else ''}")


def _check_span(path, name: str, text: pd.Series, elapsed_s: np.ndarray) -> None:
    """Refuse a clock that was set in between: a signal that long would be nearly all gap."""
    steps = np.diff(elapsed_s)
    rows_s = len(elapsed_s) * float(np.mean(ordinary_steps(steps)))
    if elapsed_s[-1] > LONGEST_GAP_S and elapsed_s[-1] > 20 * rows_s:
        row = int(np.argmax(steps)) + 1
        hours = steps[row - 1] / 3600
        jump = f"{hours:,.1f} hours" if hours < 48 else f"{hours / 24:,.1f} days"
        jump += f" between rows {row} and {row + 1} of the values (from {text.iloc[row - 1]} to {text.iloc[row]})"
        problem = f"in the time column {name!r}, the time jumps by {jump}, as when a logger's clock is set"
        raise InputError(f"{path}: {problem}; {_SET_CLOCK}")


def _stated_unit(table: Table, name: str) -> str:
    """Unit of a time column by its name ("Time [s]", "timestamp_ms") or its unit; "" where none is stated.

    A letter counts only where it stands last, or in brackets: the D of a device called D0CD is no day.
    """
    tokens = [token.lower() for token in re.split(r"[\s_\-./:()\[\],]+", name) if token]
    last = tokens[-1:] if len(tokens) < 2 or tokens[-2] != "of" else []
    words = [word for word in name_words(name)[::-1] if len(word) > 1 and UNITS_S.get(word, 86400.0) < 3600]
    by_name = next((word for word in [*last, *words] if word in UNITS_S), "")
    stated = table.units.get(name, "").strip().lower()
    by_row = stated if stated in UNITS_S else ""
    if by_name and by_row and UNITS_S[by_name] != UNITS_S[by_row]:
        problem = f"the time column {name!r} has the unit {by_row!r} beneath its name"
        raise InputError(f"{table.path}: {problem}; correct the one that is wrong")
    return by_name or by_row


def _unix_unit(time: np.ndarray) -> str | None:
    """Unit in which the first time is a Unix time of this century."""
    return next((unit for unit, seconds in _PLAIN_UNITS.items() if EPOCH_S[0] <= time[0] * seconds <= EPOCH_S[1]), None)


def _started(table: Table, name: str) -> str:
    """When a clock begins, ISO 8601 to the second, if it holds Unix times or dates with the year first; or ""."""
    if table.is_numeric(name):
        first = table._replace(cells=table.cells.iloc[:50]).numbers(name)
        first = first[np.isfinite(first)][:1]
        unit = _unix_unit(first) if len(first) else None
        start = pd.Timestamp(first[0] * _PLAIN_UNITS[unit], unit="s") if unit else pd.NaT
    else:
        text = table.text(name).iloc[0].strip("[] ")
        is_dated = re.match(r"\d{4}-\d{2}-\d{2}[T ]", text)
        start = pd.to_datetime(text.replace(",", "."), errors="coerce") if is_dated else pd.NaT
    return "" if pd.isna(start) else start.tz_localize(None).floor("s").isoformat()


def _units(where: str, stated: str, words: list[str], time: np.ndarray) -> tuple[list[tuple[float, str]], bool]:
    """Units that numeric times may be in (s, and where that comes from), and whether it is stated or certain.

    Where none is stated, a date tells it by its size, else steps do: 20-1,000 Hz in s, ms, us, ns do not overlap.
    """
    epoch, steps = _unix_unit(time), np.diff(time)
    if stated:
        is_epoch = epoch and _PLAIN_UNITS[epoch] == UNITS_S[stated]
        return [(UNITS_S[stated], ("Unix time " if is_epoch else "") + f"in {stated}")], True
    if {"tic", "tics"} & set(words):
        return [(0.0025, "in tics of 2.5 ms, as Siemens scanners count them")], True
    if unknown := next((word for word in words if word in _NO_UNITS), ""):
        remedy = "convert it to seconds, or leave it out and give the sampling rate (--sampling-rate)"
        raise InputError(f"{where} counts {unknown}, and the file does not say how long one is; {remedy}")
    if any(first <= time[0] <= last for first, last in _TICKS_100_NS):
        return [(1e-7, "in steps of 100 ns, as Windows counts them, by its size")], True
    turns = np.diff(np.floor(time / 100)) > 0
    jumps, seconds = steps[turns], time % 100
    if (
        turns.any()
        and np.median(steps) < 5
        and (seconds < 60).all()
        and np.all((jumps > 40) & (jumps < 40 + 5 * np.median(steps)))
    ):
        around = f"from {time[:-1][turns][0]:.10g} to {time[1:][turns][0]:.10g}"  # hhmmss jumps by 40 each full minute
        problem = f"seems to hold hours, minutes and seconds without colons (it goes {around})"
        raise InputError(f"{where} {problem}; write hh:mm:ss.fff, or name the column with its unit")
    step = float(np.mean(ordinary_steps(steps)))
    low, high = 0.999 / RATE_RANGE_HZ[1], 1.001 / RATE_RANGE_HZ[0]
    if _EXCEL_DAYS[0] <= time[0] <= _EXCEL_DAYS[1] and low <= step * 86400 <= high:
        return [(86400.0, "in days as Excel counts them, by its size")], True
    possible = {**_PLAIN_UNITS, "min": 60.0, "h": 3600.0}
    fitting = [(unit, s) for unit, s in possible.items() if low <= step * s <= high]
    if epoch in dict(fitting) or epoch and coarse_step(np.diff((time - time[0]) * _PLAIN_UNITS[epoch])) is not None:
        return [(_PLAIN_UNITS[epoch], f"Unix time in {epoch}, by its size")], True
    if not fitting:
        problem = f"steps of {step:.4g} s, ms, us or ns are no sampling rate that a PPG can have (20 to 10000 Hz)"
        raise InputError(f"{where} states no unit, and {problem}; name it with its unit, such as 'time (ms)'")
    how = "taken as {}: no unit is stated, and others give no rate that a PPG can have"
    return [(s, how.format(unit)) for unit, s in fitting], False
