"""The clock of a table: which column counts time, in which unit or form, and the constant rate that it fits.

What :func:`pandas.to_datetime` would guess (01/05 or 05/01, mm:ss or hh:mm) is decided by what fits, or refused.
"""

import re
from typing import NamedTuple

import numpy as np
import pandas as pd

from p2es_lib.core.errors import InputError
from p2es_lib.data.sources.wfdb_records import name_words
from p2es_lib.translation.readers.checks import RATE_RANGE_HZ, check_rate
from p2es_lib.translation.readers.csv_table import MISSING, CsvTable

#: Words for units, by the seconds that they last.
_UNIT_WORDS = {
    1.0: "s sec secs second seconds", 1e-3: "ms msec millis milliseconds", 1e-6: "us µs μs usec micros microseconds",
    1e-9: "ns nanos nanoseconds", 60.0: "min mins minute minutes", 3600.0: "h hr hrs hour hours", 86400.0: "d day days",
}  # fmt: skip
UNITS_S = {word: seconds for seconds, words in _UNIT_WORDS.items() for word in words.split()}
_PLAIN_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
#: Units that do not say how long they last.
_NO_UNITS = {word + end for word in ("tick", "cycle", "count", "sample", "frame", "row") for end in ("", "s")}
#: Unix times of the years 2001 to 2100, in s.
EPOCH_S = (1e9, 4.1e9)
#: Counts of 100 ns since 1601 (FILETIME) and since the year 1 (.NET), in the years 1981 to 2139 and 1997 to 2123.
_TICKS_100_NS = ((1.2e17, 1.7e17), (6.3e17, 6.7e17))
_CLOCK_WORDS = {
    "time", "times", "timestamp", "timestamps", "datetime", "epoch", "unixtime", "elapsed", "zeit", "zeitstempel",
    "uhrzeit", "heure", "hora", "tempo", "ora",
}  # fmt: skip
# Names that begin so, and hold nothing else but a unit, are clocks too.
_SHORT = {"t", "ts", "micros", "microseconds", *_UNIT_WORDS[1.0].split()[1:], *_UNIT_WORDS[1e-3].split()}
_NO_CLOCK_WORDS = {"transit", "arrival", "interval", "constant", "delay", "zone", "offset"}
#: Tables that last longer (s), and 20 times as long as their rows, have a clock that was set in between.
LONGEST_GAP_S = 24 * 3600.0
_SET_CLOCK = "correct the clock, or give the part before or after as a file of its own"
_PLAIN_TIMES = "ISO 8601 (2024-05-01T10:00:00.125)"
#: Rows may lie so far off the constant rate that is read into them, as R peaks may; and two rates differ by this share.
LARGEST_TIME_ERROR_S, RATE_TOLERANCE = 0.05, 0.02
#: From this share of rows on that repeat the time of the one before, times are rounded or those of packets of rows.
_REPEATED = 0.3
#: Rows further apart (s) have a gap between them, over which nothing is interpolated: shorter than the rise of a pulse.
LONGEST_STEP_S = 0.1
#: Rows came in packets if, of the steps up to 1 s, a share of 0.4 is shorter than 0.3 of their mean. Samples lost by
#: chance never make so many short steps, and packets of two rows have half of theirs inside.
_NEAR_S, _PACKET_SHARE, _SHORT_SHARE = 1.0, 0.4, 0.3


class Clock(NamedTuple):
    """Times of the rows of a table: rate in Hz, sample number of each row, and from which column and how, for the user.

    Sample numbers (n_rows,) ascend; interruptions leave numbers out. Fractions: values between them are interpolated.
    ``started``: when it begins, ISO 8601 to the second, where it tells a date; or "".
    """

    rate: float
    position: np.ndarray
    note: str
    started: str = ""


def find_clock(table: CsvTable, sampling_rate: float | None, column: str | None) -> tuple[Clock | None, list[str]]:
    """The clock of a table, None if it has none, and all columns that count time or look as if they did.

    It is ``column``, or the first that is named as a clock and is one; without names, one of dates or clock times, or a
    first one that only rises. ``sampling_rate`` (Hz, by the user) decides where a column may count rows or is too
    coarse. An :class:`InputError` if no column that should be a clock can be read as one.
    """
    columns = [column] if column else _candidates(table)
    refused = None
    for name in columns:
        try:
            clock = _clock(table, name, sampling_rate)
        except InputError as error:
            refused = refused or error
            continue
        check_agreement(table.path, sampling_rate, clock.rate)
        others = ", ".join(repr(other) for other in columns if other != name)
        note = clock.note + (f" (not from {others})" if others else "")
        return clock._replace(note=note, started=_started(table, name)), columns
    if refused:
        raise refused
    return None, columns


def _candidates(table: CsvTable) -> list[str]:
    """Columns that may count time: by name, or, without names, by what they hold."""
    names = table.names
    if table.named:
        if by_name := [name for name in names if _is_clock_name(name, table)]:
            return by_name
        # pandas writes an index without a name above it; a column that has none is called by its number.
        names = [name for name in names[:1] if name in table.nameless]
    texts = [name for name in names if not table.is_numeric(name) and ":" in table.text(name).iloc[0]]
    if texts or not names or len(table.names) < 2 or not table.is_numeric(names[0]):
        return texts
    first = table.numbers(names[0])
    steps = np.diff(first)
    # One that rises by exactly 1 from row to row counts rows: it says nothing of the time between them.
    rises = len(first) > 1 and bool(np.all(steps >= 0)) and first[-1] > first[0] and not np.all(steps == 1)
    return [names[0]] if rises else []


def _is_clock_name(name: str, table: CsvTable) -> bool:
    words = name_words(name)
    if not words or _NO_CLOCK_WORDS & set(words):
        return False
    if words == ["date"]:
        return ":" in table.text(name).iloc[0]
    if words in (["min"], ["hr"]):  # a minimum or a heart rate, unless it stands first and rises
        return name == table.names[0] and table.is_numeric(name) and bool(np.all(np.diff(table.numbers(name)) > 0))
    units = set(words[1:]) <= set(UNITS_S) - {"h", "d"}  # "t_d" may be any time
    return bool(_CLOCK_WORDS & set(words)) or (words[0] in _SHORT and units)


def _clock(table: CsvTable, name: str, sampling_rate: float | None) -> Clock:
    where, text = f"{table.path}: the time column {name!r}", table.text(name)
    if table.is_numeric(name):
        time, again = _counted_on(table.numbers(name))
        _check_rising(where, text, time)
        steps, stated = np.diff(time), _stated_unit(table, name)
        # Rises by 1, or a whole number where rows were lost.
        if not stated and not _unix_unit(time) and np.all(steps == np.rint(steps)) and np.median(steps) == 1:
            if sampling_rate is None:
                problem = "states no unit and rises by 1 from row to row: it counts rows, or milliseconds at 1000 Hz"
                raise InputError(f"{where} {problem}; give the sampling rate (--sampling-rate)")
            _check_span(table.path, name, text, (time - time[0]) / sampling_rate)
            note = f"{sampling_rate:g} Hz as given; column {name!r} taken to count samples{again}"
            return Clock(sampling_rate, (time - time[0]).astype(int), note)
        words = [*name_words(name), *name_words(table.units.get(name, ""))]
        unit_s, how = _time_unit(where, stated, words, time)
        elapsed_s, how = (time - time[0]) * unit_s, how + again
    else:
        elapsed_s, how = _elapsed_by_text(where, text)
        _check_rising(where, text, elapsed_s)
    _check_span(table.path, name, text, elapsed_s)
    if (packets := packet_starts(elapsed_s)) is not None:
        elapsed_s, how = packets, f"{how}; rows came in packets, and are taken to be evenly spaced in time"
    return _placed(where, name, how, elapsed_s, sampling_rate)


def _placed(where: str, name: str, how: str, elapsed_s: np.ndarray, sampling_rate: float | None) -> Clock:
    """Rows at a constant rate, or the one that was given where times are too coarse, or interpolated at their mean."""
    steps, overall = np.diff(elapsed_s), (len(elapsed_s) - 1) / elapsed_s[-1]
    period, rise = float(np.mean(ordinary_steps(steps))), usual_rise(steps)
    usual = 1 / period if period > 0 else overall  # rows per second, interruptions left out
    try:
        if (coarse_s := coarse_step(steps)) is not None:
            row = int(np.argmax(steps))  # a sampling rate does not place rows after an interruption
            jump = f"; it jumps by {steps[row]:g} s after row {row + 1} of the values: give the parts as separate files"
            problem = f"written in steps of {coarse_s:g} s, too coarse for a PPG (about {usual:.3g} rows per second)"
            remedy = "export it with fractions of a second, or give the sampling rate (--sampling-rate)"
            raise InputError(f"{where} is {problem}: {remedy}{jump if steps[row] > 2 * rise else ''}")
        rate, position = constant_rate(elapsed_s, where)
        note = f"{rate:.6g} Hz from column {name!r} ({how})"
    except InputError:
        # The last step is begun, not finished: times in steps of 1 s leave the duration open by 1 s.
        tolerance = RATE_TOLERANCE + rise / elapsed_s[-1]
        agrees = sampling_rate and all(abs(sampling_rate / found - 1) <= tolerance for found in (overall, usual))
        if np.mean(steps == 0) > 0.5 and agrees:
            why = f"gaps cannot be seen, column {name!r} is written in steps of {rise:g} s"
            return Clock(sampling_rate, np.arange(len(elapsed_s)), f"{sampling_rate:g} Hz as given; {why}")
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


def _counted_on(time: np.ndarray) -> tuple[np.ndarray, str]:
    """Times of a counter that began again after its largest number, as if it had not; and what to say of that."""
    steps = np.diff(time)
    falls = steps < 0
    if falls.any() and np.isfinite(time).all() and np.all(time == np.rint(time)):
        usual = np.median(steps[steps > 0]) if (steps > 0).any() else 0.0
        for bits in (16, 32):  # micros() of an Arduino begins again every 71.6 minutes
            if np.all((steps[falls] + 2.0**bits >= 0) & (steps[falls] + 2.0**bits <= 3 * usual)):
                counted = time + 2.0**bits * np.concatenate([[0], np.cumsum(falls)])
                return counted, f", a counter that begins again after {bits} bits"
    return time, ""


def _check_rising(where: str, text: pd.Series, time: np.ndarray) -> None:
    where += " must hold numbers that only rise, or times that do"
    falls = np.flatnonzero(np.diff(time) < 0)
    if len(falls):
        row = int(falls[0]) + 1
        back = f"from {text.iloc[row - 1]} (row {row} of the values) to {text.iloc[row]} (row {row + 1})"
        raise InputError(f"{where}, but goes back {back}; {_SET_CLOCK}")
    if not np.isfinite(time).all():
        row = int(np.argmin(np.isfinite(time)))
        raise InputError(f"{where}, but holds {text.iloc[row]!r} in row {row + 1} of the values")
    if len(time) < 2 or time[-1] == time[0]:
        raise InputError(f"{where}, but never rises")


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


def _stated_unit(table: CsvTable, name: str) -> str:
    """Unit of a time column by its name ("Time [s]", "timestamp_ms") or the row of units; "" where none is stated."""
    stated = (name_words(name)[::-1], [table.units.get(name, "").lower()])
    by_name, by_row = (next((word for word in words if word in UNITS_S), "") for words in stated)
    if by_name and by_row and UNITS_S[by_name] != UNITS_S[by_row]:
        problem = f"the time column {name!r} has the unit {by_row!r} beneath its name"
        raise InputError(f"{table.path}: {problem}; correct the one that is wrong")
    return by_name or by_row


def _unix_unit(time: np.ndarray) -> str | None:
    """Unit in which the first time is a Unix time of this century."""
    return next((unit for unit, seconds in _PLAIN_UNITS.items() if EPOCH_S[0] <= time[0] * seconds <= EPOCH_S[1]), None)


def _started(table: CsvTable, name: str) -> str:
    """When a clock begins, ISO 8601 to the second, if it holds Unix times or dates with the year first; or ""."""
    if table.is_numeric(name):
        first = table.numbers(name)[:1]
        unit = _unix_unit(first)
        start = pd.Timestamp(first[0] * _PLAIN_UNITS[unit], unit="s") if unit else pd.NaT
    else:
        text = table.text(name).iloc[0].strip("[] ")
        is_dated = re.match(r"\d{4}-\d{2}-\d{2}[T ]", text)
        start = pd.to_datetime(text.replace(",", "."), errors="coerce") if is_dated else pd.NaT
    return "" if pd.isna(start) else start.tz_localize(None).floor("s").isoformat()


def _time_unit(where: str, stated: str, words: list[str], time: np.ndarray) -> tuple[float, str]:
    """Unit of numeric times in s, and where it comes from; ``words`` are those of the column's name and unit.

    Where none is stated, a Unix time tells it by its size, else steps: 20-10,000 Hz in s, ms, us, ns do not overlap.
    """
    epoch, steps = _unix_unit(time), np.diff(time)
    if stated:
        is_epoch = epoch and _PLAIN_UNITS[epoch] == UNITS_S[stated]
        return UNITS_S[stated], ("Unix time " if is_epoch else "") + f"in {stated}"
    if unknown := next((word for word in words if word in _NO_UNITS), ""):
        remedy = "convert it to seconds, or leave it out and give the sampling rate (--sampling-rate)"
        raise InputError(f"{where} counts {unknown}, and the file does not say how long one is; {remedy}")
    if any(first <= time[0] <= last for first, last in _TICKS_100_NS):
        return 1e-7, "in steps of 100 ns, as Windows counts them, by its size"
    turns = np.diff(np.floor(time / 100)) > 0
    jumps, seconds = steps[turns], time % 100
    if turns.any() and (seconds < 60).all() and np.all((jumps > 40) & (jumps < 40 + 5 * np.median(steps))):
        around = f"from {time[:-1][turns][0]:.10g} to {time[1:][turns][0]:.10g}"  # hhmmss jumps by 40 each full minute
        problem = f"seems to hold hours, minutes and seconds without colons (it goes {around})"
        raise InputError(f"{where} {problem}; write hh:mm:ss.fff, or name the column with its unit")
    step = float(np.mean(ordinary_steps(steps)))
    fitting = [unit for unit, s in _PLAIN_UNITS.items() if 1 / RATE_RANGE_HZ[1] <= step * s <= 1 / RATE_RANGE_HZ[0]]
    if epoch in fitting or (epoch and coarse_step(np.diff((time - time[0]) * _PLAIN_UNITS[epoch])) is not None):
        return _PLAIN_UNITS[epoch], f"Unix time in {epoch}, by its size"
    if not fitting:
        problem = f"steps of {step:.4g} s, ms, us or ns are no sampling rate that a PPG can have (20 to 10000 Hz)"
        raise InputError(f"{where} states no unit, and {problem}; name it with its unit, such as 'time (ms)'")
    how = f"taken as {fitting[0]}: no unit is stated, and others give no rate that a PPG can have"
    return _PLAIN_UNITS[fitting[0]], how


_ZONE = r"\d:\d{2}[\d:.,]*\s*(?:Z|UTC|[+-]\d{2}:?\d{2}|[+-]\d{2})$"
_YEAR_FIRST = r"^(\d{4})([-/.])(\d{1,2})\2(\d{1,2})[T ]\s*(\d{1,2}):"
_HALF_DAY = r"\s*([AaPp])\.?[Mm]\b\.?"
_TWELVE_HOURS = rf"(?<![\d:.])(0?\d|1[0-2])(:\d{{2}}(?::\d{{2}})?(?:\.\d+)?){_HALF_DAY}"
_DATES = {
    "%d.%m.%Y": "dd.mm.yyyy", "%d/%m/%Y": "dd/mm/yyyy", "%m/%d/%Y": "mm/dd/yyyy", "%d-%m-%Y": "dd-mm-yyyy",
    "%m-%d-%Y": "mm-dd-yyyy", "%d-%b-%Y": "dd-mmm-yyyy", "%d %b %Y": "dd mmm yyyy", "%b %d, %Y": "mmm dd, yyyy",
    "%d.%m.%y": "dd.mm.yy", "%d/%m/%y": "dd/mm/yy", "%m/%d/%y": "mm/dd/yy",
}  # fmt: skip
_CLOCK = r"^(?P<before>.*?)(?P<clock>\d{1,3}:\d{2}(?::\d{2})?(?:[.,]\d+)?)(?P<after>\D.*)?$"


def _elapsed_by_text(where: str, text: pd.Series) -> tuple[np.ndarray, str]:
    """Seconds after the first row from dates and clock times, and how they are written."""
    text = text.str.strip("[] ").str.replace(r"(\d),(\d)", r"\1.\2", regex=True)
    if any(re.search(r"\d" + _HALF_DAY, cell) for cell in text):
        if wrong := next((row for row, cell in enumerate(text, start=1) if not re.search(_TWELVE_HOURS, cell)), 0):
            problem = f"{text.iloc[wrong - 1]!r} in row {wrong} of the values is none of 1 to 12 o'clock AM or PM"
            remedy = "write all alike, best with 24 hours"
            raise InputError(f"{where} has times with AM or PM, but {problem}; {remedy}")
        halves = {"A": 0, "a": 0, "P": 12, "p": 12}
        text = text.str.replace(_TWELVE_HOURS, lambda m: f"{int(m[1]) % 12 + halves[m[3]]:02d}{m[2]}", regex=True)
    # With the year first, the month is second whatever stands between them.
    text = text.str.replace(_YEAR_FIRST, lambda m: f"{m[1]}-{m[3]:0>2}-{m[4]:0>2}T{m[5]:0>2}:", regex=True)
    text = text.str.replace(r"^0 days ", "", regex=True)  # as pandas writes a timedelta
    if not re.match(r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}", text.iloc[0]):
        return _elapsed_clock(where, text)
    zoned = text.str.contains(_ZONE, regex=True)
    if zoned.any() and not zoned.all():
        raise InputError(f"{where} holds times of which some have a zone and others have none; write all alike")
    plain = text.replace({r"\s*(?:Z|UTC)$": "Z", r"\s+([+-]\d{2}:?\d{2})$": r"\1"}, regex=True)
    times = pd.to_datetime(plain, format="ISO8601", utc=True, errors="coerce")
    _check_all_read(where, text, times)
    how = f"ISO 8601, with{'' if zoned.all() else 'out'} a zone"
    return (times - times.iloc[0]).dt.total_seconds().to_numpy(), how


def _elapsed_clock(where: str, text: pd.Series) -> tuple[np.ndarray, str]:
    """Of hh:mm:ss or mm:ss, beside a date or without one."""
    found = text.str.extract(_CLOCK).fillna("")
    rest, clock = (found["before"] + found["after"]).str.strip(), found["clock"]
    colons = clock.str.count(":")
    elapsed = pd.to_timedelta(clock.where(colons == 2, "0:" + clock), errors="coerce").dt.total_seconds()
    _check_all_read(where, text, elapsed.where(clock != ""))
    elapsed, is_short = elapsed.to_numpy(), bool((colons == 1).all())
    # After so long (s), the clock shows the same.
    how, again_s, over = ("mm:ss", 3600, "the hour") if is_short else ("hh:mm:ss", 24 * 3600, "midnight")
    turns = np.cumsum(np.diff(elapsed, prepend=elapsed[0]) < -again_s / 2)
    if rest.nunique() > 1:
        if is_short or (form := _form_of_dates(rest, turns)) is None:
            problem = f"holds times such as {text.iloc[0]!r}, which can be read in more than one way"
            raise InputError(f"{where} {problem}; write {_PLAIN_TIMES}, seconds, or hh:mm:ss.fff")
        how += f", dates {form} as they are next to each other"
    elif rest.iloc[0]:
        how += f", always on the date {rest.iloc[0]!r}"
    return elapsed - elapsed[0] + again_s * turns, how + (f", over {over}" if turns[-1] else "")


def _form_of_dates(dates: pd.Series, midnights: np.ndarray) -> str | None:
    """How dates must be written if each midnight brings the next day: 01/05 and 02/05 fit in one way only."""
    codes, written = pd.factorize(dates)
    for form, label in _DATES.items():
        days = pd.to_datetime(pd.Series(written), format=form, errors="coerce").dt.normalize()
        if days.notna().all() and np.array_equal((days - days.iloc[0]).dt.days.to_numpy()[codes], midnights):
            return label
    return None


def _check_all_read(where: str, text: pd.Series, read: pd.Series) -> None:
    if read.isna().any():
        row = int(read.isna().to_numpy().argmax())
        what = "nothing" if text.iloc[row].lower() in MISSING else repr(text.iloc[row])
        wanted = f"numbers that only rise, {_PLAIN_TIMES} or hh:mm:ss.fff"
        raise InputError(f"{where} holds {what} in row {row + 1} of the values; it must hold {wanted}")


def check_agreement(path, stated: float | None, found: float) -> None:
    """Refuse a rate that was given and is not the one of the file."""
    if stated is not None and abs(stated / found - 1) > RATE_TOLERANCE:
        raise InputError(f"{path}: sampling rate {stated:g} Hz was given, but the file says {found:.4g} Hz")


def usual_rise(steps: np.ndarray) -> float:
    """Seconds by which times usually rise from row to row, where they do."""
    return float(np.median(steps[steps > 0]))


def coarse_step(steps: np.ndarray) -> float | None:
    """Steps in which times are written, where they are too coarse to place rows by: most repeat the one before."""
    too_coarse = np.mean(steps == 0) > 0.5 and usual_rise(steps) > 1.9 * LARGEST_TIME_ERROR_S
    return usual_rise(steps) if too_coarse else None


def ordinary_steps(steps: np.ndarray) -> np.ndarray:
    """Steps from row to row that are no interruption.

    Where many times repeat, only those from the first rise to the last: whole packets, so that the mean is the period.
    """
    rises = np.flatnonzero(steps > 0)
    if len(rises) > 1 and np.mean(steps == 0) >= _REPEATED:
        whole, usual = steps[rises[0] + 1 : rises[-1] + 1], np.median(steps[rises])
        return np.where(whole <= 5 * usual, whole, usual)  # an interruption begins a packet too
    typical = np.mean(steps[steps <= 5 * max(np.median(steps), np.mean(steps) / 5)])
    return steps[steps <= 5 * typical]


def constant_rate(elapsed_s: np.ndarray, where: str) -> tuple[float, np.ndarray]:
    """Sampling rate (Hz), and the sample number of each row; interruptions leave numbers out.

    Times may be rounded (BIDMC writes 125 Hz in steps of 0.01 s): the rate is that of all rows together. Where steps of
    two samples and more fit better, samples were lost. An :class:`InputError` that begins with ``where`` if the rate is
    out of range, or rows lie off any by more than :data:`LARGEST_TIME_ERROR_S`.
    """
    steps = np.diff(elapsed_s)
    ordinary = ordinary_steps(steps)
    is_break = steps > ordinary.max(initial=0.0)
    period = float(np.mean(ordinary)) if len(ordinary) else 0.0
    position, error_s = _positions(elapsed_s, is_break, np.ones(len(steps), dtype=int), period)
    # Steps of twice the usual one and more leave samples out, as long as none is so short that it may be none at all.
    if not is_break.all() and (common := float(np.median(steps[~is_break]))) > 0:
        samples = np.rint(steps / common).astype(int)
        if samples[~is_break].min() >= 1 and samples[~is_break].max() > 1:
            finer = float(steps[~is_break].sum() / samples[~is_break].sum())  # the usual step may be rounded
            placed, finer_error_s = _positions(elapsed_s, is_break, samples, finer)
            if finer_error_s < error_s:
                period, position, error_s = finer, placed, finer_error_s
    rate = check_rate(1 / period if period > 0 else 0.0, f"{where}: sampling rate")
    if error_s > LARGEST_TIME_ERROR_S or (np.diff(position) < 1).any():
        off = f"rows lie up to {error_s:.3g} s off {rate:.6g} Hz"
        raise InputError(f"{where} fits no constant sampling rate ({off}); resample the file first")
    return rate, position


def _positions(elapsed_s: np.ndarray, is_break: np.ndarray, samples: np.ndarray, period: float):
    """Numbers of rows, ``samples`` on from one to the next but by the time after a break; and their largest error."""
    position = np.arange(len(elapsed_s))
    if period > 0:
        run = np.concatenate([[0], np.cumsum(is_break)])  # number of the unbroken run each row belongs to
        first_rows = np.flatnonzero(np.concatenate([[True], is_break]))
        starts = np.rint(elapsed_s[first_rows] / period).astype(int)
        within = np.concatenate([[0], np.cumsum(np.where(is_break, 0, samples))])
        position = starts[run] + within - within[first_rows][run]
    error_s = elapsed_s - position * period
    # About the middle of all where times repeat, since the first is no better then.
    middle_s = (error_s.max() + error_s.min()) / 2 if np.mean(np.diff(elapsed_s) == 0) >= _REPEATED else 0.0
    return position, float(np.abs(error_s - middle_s).max())


def packet_starts(elapsed_s: np.ndarray) -> np.ndarray | None:
    """Times of the packets that rows came in, one for each row; None where rows do not come in packets.

    Software that notes when a row arrived gives rows of a packet times a millisecond apart, which say no more than one.
    """
    steps = np.diff(elapsed_s)
    near = steps[steps <= _NEAR_S]
    if not len(near) or np.mean(near < _SHORT_SHARE * near.mean()) < _PACKET_SHARE:
        return None
    begins = np.concatenate([[True], steps > near.mean()])
    if np.all(steps[~begins[1:]] == 0):  # one time a packet already, or times that are rounded
        return None
    return elapsed_s[np.flatnonzero(begins)][np.cumsum(begins) - 1]


def row_times(elapsed_s: np.ndarray) -> tuple[float, np.ndarray] | None:
    """Mean rate (Hz) and fractional sample numbers of rows without a constant rate; None if times cannot be trusted.

    They can where each row has a time and none is far from the next: a loop with a delay (Arduino), a phone's camera.
    """
    steps = np.diff(elapsed_s)
    near = steps[steps <= LONGEST_STEP_S]
    if not len(near) or near.min() <= 0:
        return None
    usual, rate = float(np.median(near)), len(near) / float(near.sum())
    # Steps that scatter more are times of arrival: rows waited, and came at once.
    is_even = np.mean((near > usual / 3) & (near < 3 * usual)) >= 0.99
    return (rate, elapsed_s * rate) if is_even and RATE_RANGE_HZ[0] <= rate <= RATE_RANGE_HZ[1] else None
