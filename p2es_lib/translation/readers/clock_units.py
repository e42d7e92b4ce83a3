"""In which unit the clock of a table counts: as stated, by the size of Unix times, or by what rates a PPG can have."""

from __future__ import annotations

import numpy as np

from p2es_lib.core.errors import InputError
from p2es_lib.data.sources.wfdb_records import name_words
from p2es_lib.translation.checks import RATE_RANGE_HZ
from p2es_lib.translation.readers.constant_rate import coarse_step, ordinary_steps
from p2es_lib.translation.readers.csv_table import CsvTable

#: Seconds that units last.
UNITS_S = {
    "s": 1.0, "sec": 1.0, "secs": 1.0, "second": 1.0, "seconds": 1.0, "ms": 1e-3, "msec": 1e-3, "millis": 1e-3,
    "milliseconds": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "usec": 1e-6, "micros": 1e-6, "microseconds": 1e-6,
    "ns": 1e-9, "nanos": 1e-9, "nanoseconds": 1e-9, "min": 60.0, "mins": 60.0, "minute": 60.0, "minutes": 60.0, "h": 3600.0,
    "hr": 3600.0, "hrs": 3600.0, "hour": 3600.0, "hours": 3600.0, "d": 86400.0, "day": 86400.0, "days": 86400.0,
}  # fmt: skip
_PLAIN_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
#: Unix times of the years 2001 to 2100, in s.
EPOCH_S = (1e9, 4.1e9)
#: Counts of 100 ns since 1601 (FILETIME) and since the year 1 (.NET), in the years 1981 to 2139 and 1997 to 2123.
_TICKS_100_NS = ((1.2e17, 1.7e17), (6.3e17, 6.7e17))
#: Units that do not say how long they last.
_NO_UNITS = {
    "tick",
    "ticks",
    "cycle",
    "cycles",
    "count",
    "counts",
    "sample",
    "samples",
    "frame",
    "frames",
    "row",
    "rows",
}


def stated_unit(table: CsvTable, name: str) -> str:
    """Unit of a time column by its name ("Time [s]", "timestamp_ms") or by the row of units; "" where neither states one.

    Raises
    ------
    InputError
        They differ.
    """
    by_name = next((word for word in name_words(name)[::-1] if word in UNITS_S), "")
    by_row = table.units.get(name, "").lower()
    by_row = by_row if by_row in UNITS_S else ""
    if by_name and by_row and UNITS_S[by_name] != UNITS_S[by_row]:
        problem = f"the time column {name!r} has the unit {by_row!r} beneath its name"
        raise InputError(f"{table.path}: {problem}; correct the one that is wrong")
    return by_name or by_row


def unix_unit(time: np.ndarray) -> str | None:
    """Unit in which the first time is a Unix time of this century."""
    return next((unit for unit, seconds in _PLAIN_UNITS.items() if EPOCH_S[0] <= time[0] * seconds <= EPOCH_S[1]), None)


def time_unit(table: CsvTable, name: str, time: np.ndarray) -> tuple[float, str]:
    """Unit of numeric times in s, and where it comes from.

    Where the file states none, a Unix time tells its unit by its size; otherwise the steps do, since a PPG has 20 to
    10,000 Hz and these ranges, in s, ms, us and ns, do not overlap.
    """
    stated, epoch = stated_unit(table, name), unix_unit(time)
    if stated:
        is_epoch = epoch and _PLAIN_UNITS[epoch] == UNITS_S[stated]
        return UNITS_S[stated], ("Unix time " if is_epoch else "") + f"in {stated}"
    words = [*name_words(name), *name_words(table.units.get(name, ""))]
    if unknown := next((word for word in words if word in _NO_UNITS), ""):
        raise InputError(
            f"{table.path}: the time column {name!r} counts {unknown}, and the file does not say how long one is; convert "
            "it to seconds, or leave it out and give the sampling rate (--sampling-rate)"
        )
    if any(first <= time[0] <= last for first, last in _TICKS_100_NS):
        return 1e-7, "in steps of 100 ns, as Windows counts them, by its size"
    steps = np.diff(time)
    turns = np.diff(np.floor(time / 100)) > 0
    if (
        turns.any()
        and (time % 100 < 60).all()
        and ((steps[turns] > 40) & (steps[turns] < 40 + 5 * np.median(steps))).all()
    ):
        raise InputError(
            f"{table.path}: the time column {name!r} seems to hold hours, minutes and seconds without colons (it goes from "
            f"{time[:-1][turns][0]:.10g} to {time[1:][turns][0]:.10g}); write hh:mm:ss.fff, or name the column with its unit"
        )
    step = float(np.mean(ordinary_steps(steps)))
    low, high = 1 / RATE_RANGE_HZ[1], 1 / RATE_RANGE_HZ[0]
    fitting = [unit for unit, seconds in _PLAIN_UNITS.items() if low <= step * seconds <= high]
    if epoch in fitting or (epoch and coarse_step((time - time[0]) * _PLAIN_UNITS[epoch]) is not None):
        return _PLAIN_UNITS[epoch], f"Unix time in {epoch}, by its size"
    if not fitting:
        raise InputError(
            f"{table.path}: the time column {name!r} states no unit, and steps of {step:.4g} s, ms, us or ns are no "
            "sampling rate that a PPG can have (20 to 10000 Hz); name it with its unit, such as 'time (ms)'"
        )
    return _PLAIN_UNITS[
        fitting[0]
    ], f"taken as {fitting[0]}: no unit is stated, and others give no rate that a PPG can have"
