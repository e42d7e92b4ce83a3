"""The clock of a table: which column counts time, in which unit or form, and the constant rate that it fits.

Dates and clock times are parsed by pandas, once it is known how they are written; what :func:`pandas.to_datetime` would
guess (01/05 or 05/01, a date or none, mm:ss or hh:mm) is decided here by what fits the rows, or refused.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
import pandas as pd

from p2es_lib.core.errors import InputError
from p2es_lib.data.sources.wfdb_records import name_words
from p2es_lib.translation.checks import RATE_RANGE_HZ
from p2es_lib.translation.readers import constant_rate as rates
from p2es_lib.translation.readers.csv_table import MISSING, CsvTable

#: Words for units, by the seconds that they last.
_UNIT_WORDS = {
    1.0: "s sec secs second seconds", 1e-3: "ms msec millis milliseconds", 1e-6: "us µs μs usec micros microseconds",
    1e-9: "ns nanos nanoseconds", 60.0: "min mins minute minutes", 3600.0: "h hr hrs hour hours", 86400.0: "d day days",
}  # fmt: skip
UNITS_S = {word: seconds for seconds, words in _UNIT_WORDS.items() for word in words.split()}
_PLAIN_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
#: Units that do not say how long they last.
_NO_UNITS = {
    "tick", "ticks", "cycle", "cycles", "count", "counts", "sample", "samples", "frame", "frames", "row", "rows",
}  # fmt: skip
#: Unix times of the years 2001 to 2100, in s.
EPOCH_S = (1e9, 4.1e9)
#: Counts of 100 ns since 1601 (FILETIME) and since the year 1 (.NET), in the years 1981 to 2139 and 1997 to 2123.
_TICKS_100_NS = ((1.2e17, 1.7e17), (6.3e17, 6.7e17))
_CLOCK_WORDS = {
    "time", "times", "timestamp", "timestamps", "datetime", "epoch", "unixtime", "elapsed", "zeit", "zeitstempel",
    "uhrzeit", "heure", "hora", "tempo", "ora",
}  # fmt: skip
# Names that begin so, and hold nothing else but a unit, are clocks too.
_SHORT = {
    "t", "ts", "sec", "secs", "second", "seconds", "ms", "msec", "millis", "milliseconds", "micros", "microseconds",
}  # fmt: skip
_NO_CLOCK_WORDS = {"transit", "arrival", "interval", "constant", "delay", "zone", "offset"}
#: Bits of counters that begin again: micros() of an Arduino does so every 71.6 minutes.
_COUNTER_BITS = (16, 32)
#: Tables that last longer (s), and 20 times as long as their rows, have a clock that was set in between.
LONGEST_GAP_S = 24 * 3600.0


class Clock(NamedTuple):
    """Times of the rows of a table."""

    #: Hz.
    rate: float
    #: (n_rows,): sample number of each row, ascending; interruptions leave numbers out. With fractions where rows have
    #: no constant rate: values between them are interpolated.
    position: np.ndarray
    #: From which column and how, for the user.
    note: str


def find_clock(
    table: CsvTable, sampling_rate: float | None, column: str | None = None
) -> tuple[Clock | None, list[str]]:
    """The clock of a table, None if it has none, and all columns that count time or look as if they did.

    The first column that is named as a clock and is one; without names, a column of dates or clock times, or a first
    column that only rises. ``sampling_rate`` (Hz, by the user) decides where a column may as well count rows, or is too
    coarse. An :class:`InputError` if no column that should be a clock can be read as one.
    """
    columns = [column] if column else _candidates(table)
    refused: list[InputError] = []
    for name in columns:
        try:
            clock = _clock(table, name, sampling_rate)
        except InputError as error:
            refused.append(error)
            continue
        rates.check_agreement(table.path, sampling_rate, clock.rate)
        others = ", ".join(repr(other) for other in columns if other != name)
        return clock._replace(note=clock.note + (f" (not from {others})" if others else "")), columns
    if refused:
        raise refused[0]
    return None, columns


# ------------------------------------------------------------------------------------------------------- which column
def _candidates(table: CsvTable) -> list[str]:
    """Columns that may count time: by name, or, without names, by what they hold."""
    if table.named:
        by_name = [name for name in table.names if _is_clock_name(name, table)]
        # pandas writes an index without a name above it; a column that has none is called by its number.
        return by_name or (_by_content(table, table.names[:1]) if table.names[0] in table.nameless else [])
    return _by_content(table, table.names)


def _by_content(table: CsvTable, names: list[str]) -> list[str]:
    """Those columns that hold dates or clock times, or else the first of several, if it only rises."""
    texts = [name for name in names if not table.is_numeric(name) and ":" in table.text(name).iloc[0]]
    if texts or len(table.names) < 2 or not table.is_numeric(table.names[0]):
        return texts
    first = table.numbers(table.names[0])
    steps = np.diff(first)
    # One that rises by exactly 1 from row to row counts rows: it says nothing of the time between them.
    rises = len(first) > 1 and bool(np.all(steps >= 0)) and first[-1] > first[0] and not np.all(steps == 1)
    return [table.names[0]] if rises else []


def _is_clock_name(name: str, table: CsvTable) -> bool:
    words = name_words(name)
    if not words or _NO_CLOCK_WORDS & set(words):
        return False
    if words == ["date"]:
        return ":" in table.text(name).iloc[0]
    if words in (["min"], ["hr"]):  # a minimum or a heart rate, unless it stands first and rises
        return name == table.names[0] and table.is_numeric(name) and bool(np.all(np.diff(table.numbers(name)) > 0))
    units = all(word in UNITS_S and word not in ("h", "d") for word in words[1:])  # "t_d" may be any time
    return bool(_CLOCK_WORDS & set(words)) or (words[0] in _SHORT and units)


# ------------------------------------------------------------------------------------------------- one column as clock
def _clock(table: CsvTable, name: str, sampling_rate: float | None) -> Clock:
    where = f"{table.path}: the time column {name!r}"
    if table.is_numeric(name):
        time, again = _counted_on(table.numbers(name))
        _check_rising(table, name, time)
        if _counts_rows(table, name, time):
            return _row_counter(table, name, time, again, sampling_rate)
        unit_s, how = _time_unit(table, name, time)
        elapsed_s, how = (time - time[0]) * unit_s, how + again
    else:
        elapsed_s, how = _elapsed_by_text(table, name)
        _check_rising(table, name, elapsed_s)
    _check_span(table, name, elapsed_s)
    if (packets := rates.packet_starts(elapsed_s)) is not None:
        elapsed_s, how = packets, f"{how}; rows came in packets, and are taken to be evenly spaced in time"
    if (coarse_s := rates.coarse_step(elapsed_s)) is not None:
        if not _agrees_overall(elapsed_s, sampling_rate):
            raise InputError(
                f"{where} is written in steps of {coarse_s:g} s, too coarse for a PPG (about "
                f"{_usual_rate(elapsed_s):.3g} rows per second): export it with fractions of a second, or give the "
                f"sampling rate (--sampling-rate){_interrupted(elapsed_s)}"
            )
        return _as_given(name, elapsed_s, sampling_rate)
    try:
        rate, position = rates.constant_rate(elapsed_s, where)
    except InputError:
        if np.mean(np.diff(elapsed_s) == 0) > 0.5 and _agrees_overall(elapsed_s, sampling_rate):
            return _as_given(name, elapsed_s, sampling_rate)
        if (irregular := rates.row_times(elapsed_s)) is None:
            raise
        return _interpolated(name, how, elapsed_s, *irregular)
    return Clock(rate, position, f"{rate:.6g} Hz from column {name!r} ({how}){_missing(position, rate)}")


def _counts_rows(table: CsvTable, name: str, time: np.ndarray) -> bool:
    """Whether a column without a unit rises by 1, or a whole number where rows were lost."""
    if _stated_unit(table, name) or _unix_unit(time):
        return False
    steps = np.diff(time)
    return bool(np.all(steps == np.rint(steps))) and np.median(steps) == 1


def _row_counter(table: CsvTable, name: str, time: np.ndarray, again: str, sampling_rate: float | None) -> Clock:
    if sampling_rate is None:
        raise InputError(
            f"{table.path}: the time column {name!r} states no unit and rises by 1 from row to row: it counts rows, or "
            "milliseconds at 1000 Hz; give the sampling rate (--sampling-rate)"
        )
    _check_span(table, name, (time - time[0]) / sampling_rate)
    how = f"column {name!r} taken to count samples{again}"
    return Clock(sampling_rate, (time - time[0]).astype(int), f"{sampling_rate:g} Hz as given; {how}")


def _missing(position: np.ndarray, rate: float) -> str:
    """What to say of samples that are missing, and of the longest gap: it may come of a clock that was set."""
    n_lost = int(position[-1]) + 1 - len(position)
    row = int(np.argmax(np.diff(position)))
    gap_s = float(position[row + 1] - position[row]) / rate
    longest = f", the longest gap {gap_s:.6g} s after row {row + 1} of the values" if gap_s > 1 else ""
    return f", {n_lost} sample(s) missing{longest}" if n_lost > 0 else ""


def _interpolated(name: str, how: str, elapsed_s: np.ndarray, rate: float, position: np.ndarray) -> Clock:
    low, high = 1000 * np.quantile(np.diff(elapsed_s), (0.05, 0.95))
    why = f"column {name!r} ({how}) has no constant rate: most steps are {low:.3g} to {high:.3g} ms"
    done = f"values between the rows are interpolated, to their mean rate of {rate:.6g} Hz"
    return Clock(rate, position, f"{why}; {done}{_missing(position, rate)}")


def _as_given(name: str, elapsed_s: np.ndarray, sampling_rate: float) -> Clock:
    why = f"column {name!r} is written in steps of {_step(elapsed_s):g} s"
    return Clock(sampling_rate, np.arange(len(elapsed_s)), f"{sampling_rate:g} Hz as given; gaps cannot be seen, {why}")


def _step(elapsed_s: np.ndarray) -> float:
    """Seconds by which times usually rise, where they do."""
    steps = np.diff(elapsed_s)
    return float(np.median(steps[steps > 0]))


def _usual_rate(elapsed_s: np.ndarray) -> float:
    """Rows per second, interruptions left out."""
    period = float(np.mean(rates.ordinary_steps(np.diff(elapsed_s))))
    return 1 / period if period > 0 else (len(elapsed_s) - 1) / elapsed_s[-1]


def _interrupted(elapsed_s: np.ndarray) -> str:
    """What to say of the longest interruption of times that repeat: a sampling rate does not place rows after it."""
    row = int(np.argmax(np.diff(elapsed_s))) + 1
    gap_s = elapsed_s[row] - elapsed_s[row - 1]
    if gap_s <= 2 * _step(elapsed_s):
        return ""
    return f"; it jumps by {gap_s:g} s after row {row} of the values: give the parts as files of their own"


def _agrees_overall(elapsed_s: np.ndarray, sampling_rate: float | None) -> bool:
    """Whether there are as many rows as a given rate makes of their duration."""
    if sampling_rate is None:
        return False
    found = (len(elapsed_s) - 1) / elapsed_s[-1], _usual_rate(elapsed_s)  # they differ where it was interrupted
    # The last step is begun, not finished: times in steps of 1 s leave the duration open by 1 s.
    tolerance = rates.RATE_TOLERANCE + _step(elapsed_s) / elapsed_s[-1]
    return all(abs(sampling_rate / rate - 1) <= tolerance for rate in found)


def _counted_on(time: np.ndarray) -> tuple[np.ndarray, str]:
    """Times of a counter that began again after its largest number, as if it had not; and what to say of that."""
    steps = np.diff(time)
    falls = steps < 0
    if not falls.any() or not (np.isfinite(time).all() and np.all(time == np.rint(time))):
        return time, ""
    usual = np.median(steps[steps > 0]) if (steps > 0).any() else 0.0
    for bits in _COUNTER_BITS:
        if np.all((steps[falls] + 2.0**bits >= 0) & (steps[falls] + 2.0**bits <= 3 * usual)):
            counted = time + 2.0**bits * np.concatenate([[0], np.cumsum(falls)])
            return counted, f", a counter that begins again after {bits} bits"
    return time, ""


def _check_rising(table: CsvTable, name: str, time: np.ndarray) -> None:
    where = f"{table.path}: the time column {name!r} must hold numbers that only rise, or times that do"
    falls = np.flatnonzero(np.diff(time) < 0)
    if len(falls):
        row, text = int(falls[0]) + 1, table.text(name)
        raise InputError(
            f"{where}, but goes back from {text.iloc[row - 1]} (row {row} of the values) to {text.iloc[row]} "
            f"(row {row + 1}); correct the clock, or give the part before or after as a file of its own"
        )
    if not np.isfinite(time).all():
        row = int(np.argmin(np.isfinite(time)))
        raise InputError(f"{where}, but holds {table.text(name).iloc[row]!r} in row {row + 1} of the values")
    if len(time) < 2 or time[-1] == time[0]:
        raise InputError(f"{where}, but never rises")


def _check_span(table: CsvTable, name: str, elapsed_s: np.ndarray) -> None:
    """Refuse a clock that was set in between: a signal that long would be nearly all gap."""
    steps = np.diff(elapsed_s)
    rows_s = len(elapsed_s) * float(np.mean(rates.ordinary_steps(steps)))
    if elapsed_s[-1] > LONGEST_GAP_S and elapsed_s[-1] > 20 * rows_s:
        row, text = int(np.argmax(steps)) + 1, table.text(name)
        hours = steps[row - 1] / 3600
        jump = f"{hours:,.1f} hours" if hours < 48 else f"{hours / 24:,.1f} days"
        raise InputError(
            f"{table.path}: in the time column {name!r}, the time jumps by {jump} between rows {row} and {row + 1} of "
            f"the values (from {text.iloc[row - 1]} to {text.iloc[row]}), as when a logger's clock is set; correct the "
            "clock, or give the part before or after as a file of its own"
        )


# -------------------------------------------------------------------------------------------- numbers: in which unit
def _stated_unit(table: CsvTable, name: str) -> str:
    """Unit of a time column by its name ("Time [s]", "timestamp_ms") or the row of units; "" where none is stated."""
    by_name = next((word for word in name_words(name)[::-1] if word in UNITS_S), "")
    by_row = table.units.get(name, "").lower()
    by_row = by_row if by_row in UNITS_S else ""
    if by_name and by_row and UNITS_S[by_name] != UNITS_S[by_row]:
        problem = f"the time column {name!r} has the unit {by_row!r} beneath its name"
        raise InputError(f"{table.path}: {problem}; correct the one that is wrong")
    return by_name or by_row


def _unix_unit(time: np.ndarray) -> str | None:
    """Unit in which the first time is a Unix time of this century."""
    return next((unit for unit, seconds in _PLAIN_UNITS.items() if EPOCH_S[0] <= time[0] * seconds <= EPOCH_S[1]), None)


def _time_unit(table: CsvTable, name: str, time: np.ndarray) -> tuple[float, str]:
    """Unit of numeric times in s, and where it comes from.

    Where the file states none, a Unix time tells its unit by its size; otherwise the steps do, since a PPG has 20 to
    10,000 Hz and these ranges, in s, ms, us and ns, do not overlap.
    """
    where, stated, epoch = f"{table.path}: the time column {name!r}", _stated_unit(table, name), _unix_unit(time)
    if stated:
        is_epoch = epoch and _PLAIN_UNITS[epoch] == UNITS_S[stated]
        return UNITS_S[stated], ("Unix time " if is_epoch else "") + f"in {stated}"
    words = [*name_words(name), *name_words(table.units.get(name, ""))]
    if unknown := next((word for word in words if word in _NO_UNITS), ""):
        raise InputError(
            f"{where} counts {unknown}, and the file does not say how long one is; convert it to seconds, or leave it "
            "out and give the sampling rate (--sampling-rate)"
        )
    if any(first <= time[0] <= last for first, last in _TICKS_100_NS):
        return 1e-7, "in steps of 100 ns, as Windows counts them, by its size"
    _check_not_sexagesimal(where, time)
    step = float(np.mean(rates.ordinary_steps(np.diff(time))))
    low, high = 1 / RATE_RANGE_HZ[1], 1 / RATE_RANGE_HZ[0]
    fitting = [unit for unit, seconds in _PLAIN_UNITS.items() if low <= step * seconds <= high]
    if epoch in fitting or (epoch and rates.coarse_step((time - time[0]) * _PLAIN_UNITS[epoch]) is not None):
        return _PLAIN_UNITS[epoch], f"Unix time in {epoch}, by its size"
    if not fitting:
        raise InputError(
            f"{where} states no unit, and steps of {step:.4g} s, ms, us or ns are no sampling rate that a PPG can have "
            "(20 to 10000 Hz); name it with its unit, such as 'time (ms)'"
        )
    unit = fitting[0]
    return _PLAIN_UNITS[unit], f"taken as {unit}: no unit is stated, and others give no rate that a PPG can have"


def _check_not_sexagesimal(where: str, time: np.ndarray) -> None:
    """Refuse hhmmss: at each full minute such numbers jump by 40."""
    steps, turns = np.diff(time), np.diff(np.floor(time / 100)) > 0
    jumps = steps[turns]
    if turns.any() and (time % 100 < 60).all() and ((jumps > 40) & (jumps < 40 + 5 * np.median(steps))).all():
        raise InputError(
            f"{where} seems to hold hours, minutes and seconds without colons (it goes from {time[:-1][turns][0]:.10g} "
            f"to {time[1:][turns][0]:.10g}); write hh:mm:ss.fff, or name the column with its unit"
        )


# ----------------------------------------------------------------------------------------------- dates and clock times
_ISO = r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}"
_ZONE = r"\d:\d{2}[\d:.,]*\s*(?:Z|UTC|[+-]\d{2}:?\d{2}|[+-]\d{2})$"
_YEAR_FIRST = r"^(\d{4})([-/.])(\d{1,2})\2(\d{1,2})[T ]\s*(\d{1,2}):"
_HALF_DAY = r"\s*([AaPp])\.?[Mm]\b\.?"
_TWELVE_HOURS = rf"(?<![\d:.])(0?\d|1[0-2])(:\d{{2}}(?::\d{{2}})?(?:\.\d+)?){_HALF_DAY}"
_DATES = {
    "%d.%m.%Y": "dd.mm.yyyy", "%d/%m/%Y": "dd/mm/yyyy", "%m/%d/%Y": "mm/dd/yyyy", "%d-%m-%Y": "dd-mm-yyyy",
    "%m-%d-%Y": "mm-dd-yyyy", "%d-%b-%Y": "dd-mmm-yyyy", "%d %b %Y": "dd mmm yyyy", "%b %d, %Y": "mmm dd, yyyy",
    "%d.%m.%y": "dd.mm.yy", "%d/%m/%y": "dd/mm/yy", "%m/%d/%y": "mm/dd/yy",
}  # fmt: skip
_CLOCK = r"\d{1,3}:\d{2}(?::\d{2})?(?:[.,]\d+)?"


def _elapsed_by_text(table: CsvTable, name: str) -> tuple[np.ndarray, str]:
    """Seconds after the first row from dates and clock times, and how they are written."""
    text = table.text(name).str.strip("[] ").str.replace(r"(\d),(\d)", r"\1.\2", regex=True)
    if any(re.search(r"\d" + _HALF_DAY, cell) for cell in text):
        text = _with_24_hours(table, name, text)
    # With the year first, the month is second whatever stands between them.
    text = text.str.replace(_YEAR_FIRST, lambda m: f"{m[1]}-{m[3]:0>2}-{m[4]:0>2}T{m[5]:0>2}:", regex=True)
    text = text.str.replace(r"^0 days ", "", regex=True)  # as pandas writes a timedelta
    return _elapsed_iso(table, name, text) if re.match(_ISO, text.iloc[0]) else _elapsed_clock(table, name, text)


def _with_24_hours(table: CsvTable, name: str, text: pd.Series) -> pd.Series:
    row = next((row for row, cell in enumerate(text) if not re.search(_TWELVE_HOURS, cell)), None)
    if row is not None:
        raise InputError(
            f"{table.path}: column {name!r} has times with AM or PM, but {text.iloc[row]!r} in row {row + 1} of the "
            "values is none of 1 to 12 o'clock AM or PM; write all alike, best with 24 hours"
        )
    return text.str.replace(_TWELVE_HOURS, lambda m: f"{int(m[1]) % 12 + 12 * (m[3] in 'Pp'):02d}{m[2]}", regex=True)


def _elapsed_iso(table: CsvTable, name: str, text: pd.Series) -> tuple[np.ndarray, str]:
    zoned = text.str.contains(_ZONE, regex=True)
    if zoned.any() and not zoned.all():
        problem = f"some times in column {name!r} have a zone and others have none"
        raise InputError(f"{table.path}: {problem}; write all alike")
    plain = text.str.replace(r"\s*(?:Z|UTC)$", "Z", regex=True)
    plain = plain.str.replace(r"\s+([+-]\d{2}:?\d{2})$", r"\1", regex=True)
    times = pd.to_datetime(plain, format="ISO8601", utc=True, errors="coerce")
    _check_all_read(table, name, text, times)
    how = "ISO 8601, " + ("with a zone" if zoned.all() else "without a zone")
    return (times - times.iloc[0]).dt.total_seconds().to_numpy(), how


def _elapsed_clock(table: CsvTable, name: str, text: pd.Series) -> tuple[np.ndarray, str]:
    """Of hh:mm:ss or mm:ss, beside a date or without one."""
    found = text.str.extract(rf"^(?P<before>.*?)(?P<clock>{_CLOCK})(?P<after>\D.*)?$").fillna("")
    rest, clock = (found["before"] + found["after"]).str.strip(), found["clock"]
    colons = clock.str.count(":")
    is_short = bool((colons == 1).all())
    elapsed = pd.to_timedelta(clock.where(colons == 2, "0:" + clock), errors="coerce").dt.total_seconds()
    _check_all_read(table, name, text, elapsed.where(clock != ""))
    elapsed = elapsed.to_numpy()
    again_s = 3600 if is_short else 24 * 3600  # after so long, the clock shows the same
    turns = np.cumsum(np.diff(elapsed, prepend=elapsed[0]) < -again_s / 2)
    how = "mm:ss" if is_short else "hh:mm:ss"
    if rest.nunique() > 1:
        if is_short or (form := _form_of_dates(rest, turns)) is None:
            raise InputError(
                f"{table.path}: times such as {text.iloc[0]!r} (column {name!r}) can be read in more than one way; "
                "write ISO 8601 (2024-05-01T10:00:00.125), seconds, or hh:mm:ss.fff"
            )
        how += f", dates {form} as they are next to each other"
    elif rest.iloc[0]:
        how += f", always on the date {rest.iloc[0]!r}"
    over = ", over the hour" if is_short else ", over midnight"
    return elapsed - elapsed[0] + again_s * turns, how + (over if turns[-1] else "")


def _form_of_dates(dates: pd.Series, midnights: np.ndarray) -> str | None:
    """How dates must be written if each midnight brings the next day: 01/05 and 02/05 fit in one way only."""
    codes, written = pd.factorize(dates)
    for form, label in _DATES.items():
        days = pd.to_datetime(pd.Series(written), format=form, errors="coerce").dt.normalize()
        if days.notna().all() and np.array_equal((days - days.iloc[0]).dt.days.to_numpy()[codes], midnights):
            return label
    return None


def _check_all_read(table: CsvTable, name: str, text: pd.Series, read: pd.Series) -> None:
    if read.isna().any():
        row = int(read.isna().to_numpy().argmax())
        what = "nothing" if text.iloc[row].lower() in MISSING else repr(text.iloc[row])
        raise InputError(
            f"{table.path}: the time column {name!r} holds {what} in row {row + 1} of the values; it must hold numbers "
            "that only rise, ISO 8601 (2024-05-01T10:00:00.125) or hh:mm:ss.fff"
        )
