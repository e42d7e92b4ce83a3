"""The clock of a table: which column counts time, in which unit, and the constant rate that it fits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from p2es_lib.core.errors import InputError
from p2es_lib.data.sources.wfdb_records import name_words
from p2es_lib.translation.readers.clock_text import elapsed_by_text
from p2es_lib.translation.readers.clock_units import UNITS_S, stated_unit, time_unit, unix_unit
from p2es_lib.translation.readers.constant_rate import (  # fmt: skip
    RATE_TOLERANCE,
    check_agreement,
    coarse_step,
    constant_rate,
    ordinary_steps,
    packet_starts,
    row_times,
)
from p2es_lib.translation.readers.csv_table import CsvTable

_CLOCK_WORDS = {
    "time", "times", "timestamp", "timestamps", "datetime", "epoch", "unixtime", "elapsed", "zeit", "zeitstempel",
    "uhrzeit", "heure", "hora", "tempo", "ora",
}  # fmt: skip
# Names that begin so, and hold nothing else but a unit, are clocks too.
_SHORT = {
    "t",
    "ts",
    "sec",
    "secs",
    "second",
    "seconds",
    "ms",
    "msec",
    "millis",
    "milliseconds",
    "micros",
    "microseconds",
}
_NO_CLOCK_WORDS = {"transit", "arrival", "interval", "constant", "delay", "zone", "offset"}
#: Bits of counters that begin again: micros() of an Arduino does so every 71.6 minutes.
_COUNTER_BITS = (16, 32)
#: Tables that last longer (s), and 20 times as long as their rows, have a clock that was set in between.
LONGEST_GAP_S = 24 * 3600.0


@dataclass(frozen=True)
class Clock:
    """Times of the rows of a table.

    Parameters
    ----------
    rate : float
        Hz.
    position : int or float array (n_rows,)
        Sample number of each row, ascending; interruptions leave numbers out. With fractions where rows have no constant
        rate: values between them are interpolated.
    note : str
        From which column and how, for the user.
    """

    rate: float
    position: np.ndarray
    note: str


def find_clock(
    table: CsvTable, sampling_rate: float | None, column: str | None = None
) -> tuple[Clock | None, list[str]]:
    """The clock of a table, and all columns that count time or look as if they did.

    Parameters
    ----------
    table : CsvTable
    sampling_rate : float, optional
        Given by the user, Hz: decides where a column may as well count rows, or is too coarse.
    column : str, optional
        Column to use. Default: the first that is named as a clock and is one; without names, a column of dates or
        clock times, or a first column that only rises.

    Returns
    -------
    clock : Clock or None
        None without such a column.
    columns : list of str

    Raises
    ------
    InputError
        Only columns that cannot be read as a clock.
    """
    columns = [column] if column else _candidates(table)
    refused: list[InputError] = []
    for name in columns:
        try:
            clock = _clock(table, name, sampling_rate)
        except InputError as error:
            refused.append(error)
            continue
        check_agreement(table.path, sampling_rate, clock.rate)
        others = [other for other in columns if other != name]
        return Clock(
            clock.rate, clock.position, clock.note + (f" (not from {_listed(others)})" if others else "")
        ), columns
    if refused:
        raise refused[0]
    return None, columns


def _listed(names: list[str]) -> str:
    return ", ".join(map(repr, names))


def _candidates(table: CsvTable) -> list[str]:
    """Columns that may count time: by name, or, without names, by what they hold."""
    if table.named:
        by_name = [name for name in table.names if _is_clock_name(name, table)]
        # pandas writes an index without a name above it; a column that has none is called by its number.
        return by_name or (_by_content(table, table.names[:1]) if table.names[0] in table.nameless else [])
    return _by_content(table, table.names)


def _by_content(table: CsvTable, names: list[str]) -> list[str]:
    """Those columns that hold dates or clock times, or else the first of several, if it only rises."""
    texts = [name for name in names if not table.is_numeric(name) and table.text(name).iloc[0].count(":")]
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


def _clock(table: CsvTable, name: str, sampling_rate: float | None) -> Clock:
    where = f"the time column {name!r}"
    if table.is_numeric(name):
        time, again = _counted_on(table.numbers(name))
        _check_rising(table, name, time)
        if _counts_rows(table, name, time):
            if sampling_rate is None:
                raise InputError(
                    f"{table.path}: {where} states no unit and rises by 1 from row to row: it counts rows, or "
                    "milliseconds at 1000 Hz; give the sampling rate (--sampling-rate)"
                )
            _check_span(table, name, (time - time[0]) / sampling_rate)
            position = (time - time[0]).astype(int)
            how = f"column {name!r} taken to count samples{again}"
            return Clock(sampling_rate, position, f"{sampling_rate:g} Hz as given; {how}")
        unit_s, how = time_unit(table, name, time)
        how += again
        elapsed_s = (time - time[0]) * unit_s
    else:
        elapsed_s, how = elapsed_by_text(table, name)
        _check_rising(table, name, elapsed_s)
    _check_span(table, name, elapsed_s)
    if (packets := packet_starts(elapsed_s)) is not None:
        elapsed_s, how = packets, f"{how}; rows came in packets, and are taken to be evenly spaced in time"
    if (coarse_s := coarse_step(elapsed_s)) is not None:
        if not _agrees_overall(elapsed_s, sampling_rate):
            raise InputError(
                f"{table.path}: {where} is written in steps of {coarse_s:g} s, too coarse for a PPG (about "
                f"{_usual_rate(elapsed_s):.3g} rows per second): export it with fractions of a second, or give the sampling "
                f"rate (--sampling-rate){_interrupted(elapsed_s)}"
            )
        return _as_given(name, elapsed_s, sampling_rate)
    try:
        rate, position = constant_rate(elapsed_s, f"{table.path}: {where}")
    except InputError:
        if np.mean(np.diff(elapsed_s) == 0) > 0.5 and _agrees_overall(elapsed_s, sampling_rate):
            return _as_given(name, elapsed_s, sampling_rate)
        if (irregular := row_times(elapsed_s)) is None:
            raise
        return _interpolated(name, how, elapsed_s, *irregular)
    return Clock(rate, position, f"{rate:.6g} Hz from column {name!r} ({how}){_missing(position, rate)}")


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
    note = f"{why}; values between the rows are interpolated, to their mean rate of {rate:.6g} Hz{_missing(position, rate)}"
    return Clock(rate, position, note)


def _step(elapsed_s: np.ndarray) -> float:
    """Seconds by which times usually rise, where they do."""
    steps = np.diff(elapsed_s)
    return float(np.median(steps[steps > 0]))


def _usual_rate(elapsed_s: np.ndarray) -> float:
    """Rows per second, interruptions left out."""
    period = float(np.mean(ordinary_steps(np.diff(elapsed_s))))
    return 1 / period if period > 0 else (len(elapsed_s) - 1) / elapsed_s[-1]


def _interrupted(elapsed_s: np.ndarray) -> str:
    """What to say of the longest interruption of times that repeat; a sampling rate alone does not place rows behind it."""
    row = int(np.argmax(np.diff(elapsed_s))) + 1
    gap_s = elapsed_s[row] - elapsed_s[row - 1]
    if gap_s <= 2 * _step(elapsed_s):
        return ""
    return f"; it jumps by {gap_s:g} s after row {row} of the values: give the parts as files of their own"


def _agrees_overall(elapsed_s: np.ndarray, sampling_rate: float | None) -> bool:
    """Whether there are as many rows as a given rate makes of their duration."""
    if sampling_rate is None:
        return False
    rates = (len(elapsed_s) - 1) / elapsed_s[-1], _usual_rate(elapsed_s)  # they differ where it was interrupted
    # The last step is begun, not finished: times in steps of 1 s leave the duration open by 1 s.
    return all(abs(sampling_rate / rate - 1) <= RATE_TOLERANCE + _step(elapsed_s) / elapsed_s[-1] for rate in rates)


def _as_given(name: str, elapsed_s: np.ndarray, sampling_rate: float) -> Clock:
    why = f"column {name!r} is written in steps of {_step(elapsed_s):g} s"
    return Clock(sampling_rate, np.arange(len(elapsed_s)), f"{sampling_rate:g} Hz as given; gaps cannot be seen, {why}")


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
            f"{where}, but goes back from {text.iloc[row - 1]} (row {row} of the values) to {text.iloc[row]} (row {row + 1}"
            "); correct the clock, or give the part before or after as a file of its own"
        )
    if not np.isfinite(time).all():
        row = int(np.argmin(np.isfinite(time)))
        raise InputError(f"{where}, but holds {table.text(name).iloc[row]!r} in row {row + 1} of the values")
    if len(time) < 2 or time[-1] == time[0]:
        raise InputError(f"{where}, but never rises")


def _check_span(table: CsvTable, name: str, elapsed_s: np.ndarray) -> None:
    """Refuse a clock that was set in between: a signal that long would be nearly all gap."""
    steps = np.diff(elapsed_s)
    rows_s = len(elapsed_s) * float(np.mean(ordinary_steps(steps)))
    if elapsed_s[-1] > LONGEST_GAP_S and elapsed_s[-1] > 20 * rows_s:
        row, text = int(np.argmax(steps)) + 1, table.text(name)
        jump = (
            f"{steps[row - 1] / 3600:,.1f} hours"
            if steps[row - 1] < 48 * 3600
            else f"{steps[row - 1] / 86400:,.1f} days"
        )
        raise InputError(
            f"{table.path}: in the time column {name!r}, the time jumps by {jump} between rows {row} and {row + 1} of the "
            f"values (from {text.iloc[row - 1]} to {text.iloc[row]}), as when a logger's clock is set; correct the clock, "
            "or give the part before or after as a file of its own"
        )


def _counts_rows(table: CsvTable, name: str, time: np.ndarray) -> bool:
    """Whether a column without a unit rises by 1, or a whole number where rows were lost."""
    if stated_unit(table, name) or unix_unit(time):
        return False
    steps = np.diff(time)
    return bool(np.all(steps == np.rint(steps))) and np.median(steps) == 1
