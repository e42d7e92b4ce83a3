"""Dates and clock times, as text or in columns of their parts, as seconds; what can be read in two ways is refused."""

import re

import numpy as np
import pandas as pd
from scipy import ndimage

from p2es_lib.core.errors import InputError
from p2es_lib.translation.readers.cells import MISSING
from p2es_lib.translation.readers.table import Table

_PLAIN_TIMES = "ISO 8601 (2024-05-01T10:00:00.125)"
_ZONE = r"\d:\d{2}[\d:.,]*\s*(?:Z|UTC|[+-]\d{2}:?\d{2}|[+-]\d{2})$"
_COMPACT = r"^(\d{4})(\d{2})(\d{2})[T _-]?(\d{2})(\d{2})(\d{2})[.,]?(\d*)"
_YEAR_FIRST = r"^(\d{4})([-/.])(\d{1,2})\2(\d{1,2})[T ]\s*(\d{1,2}):"
_HALF_DAY = r"\s*([AaPp])\.?[Mm]\b\.?"
_TWELVE_HOURS = rf"(?<![\d:.])(0?\d|1[0-2])(:\d{{2}}(?::\d{{2}})?(?:\.\d+)?){_HALF_DAY}"
_DATES = {
    "%d.%m.%Y": "dd.mm.yyyy", "%d/%m/%Y": "dd/mm/yyyy", "%m/%d/%Y": "mm/dd/yyyy", "%d-%m-%Y": "dd-mm-yyyy",
    "%m-%d-%Y": "mm-dd-yyyy", "%d-%b-%Y": "dd-mmm-yyyy", "%d %b %Y": "dd mmm yyyy", "%b %d, %Y": "mmm dd, yyyy",
    "%d.%m.%y": "dd.mm.yy", "%d/%m/%y": "dd/mm/yy", "%m/%d/%y": "mm/dd/yy",
}  # fmt: skip
_CLOCK = r"^(?P<before>.*?)(?P<clock>\d{1,3}:\d{2}(?::\d{2})?(?:[.,]\d+)?)(?P<after>\D.*)?$"
#: Columns that hold parts of a date and a clock time.
_PARTS = {
    "year": "year yyyy yr jahr année annee año anno", "month": "month mon monat mois mes",
    "day": "day dd tag jour día dia",
    "hour": "hour hours hh hr h stunde heure hora", "minute": "minute minutes min mins mm m",
    "second": "second seconds sec secs ss s sekunde seconde segundo", "us": "us microsecond microseconds micros",
    "ms": "ms msec millisecond milliseconds millis milli",
}  # fmt: skip


def with_joined_clock(table: Table) -> Table:
    """The table with one column of seconds, where columns of years to seconds, or of hours to seconds, stand in it."""
    lower = {re.sub(r"[\s_\[(].*", "", name.strip().lower()): name for name in reversed(table.names)}
    words = {part: next((word for word in words.split() if word in lower), "") for part, words in _PARTS.items()}
    parts = {part: lower[word] for part, word in words.items() if word}
    if not {"hour", "minute", "second"} <= set(parts) or len({*parts.values()}) < len(parts):
        return table
    text = {part: table.text(name).str.replace(",", ".") for part, name in parts.items()}
    value = {part: pd.to_numeric(cells, errors="coerce") for part, cells in text.items()}
    limits = {"year": 9999, "month": 12, "day": 31, "hour": 24, "minute": 60, "second": 61, "ms": 1000, "us": 1e6}
    if any(not value[part].dropna().between(0, limits[part]).all() for part in value):
        return table
    seconds = 3600 * value["hour"] + 60 * value["minute"] + value["second"]
    seconds += 1e-3 * value.get("ms", 0.0) + 1e-6 * value.get("us", 0.0)
    if {"year", "month", "day"} <= set(parts):
        dates = pd.to_datetime({part: value[part] for part in ("year", "month", "day")}, errors="coerce")
        seconds += (dates - pd.Timestamp("1970-01-01")).dt.total_seconds()
    for turn_s in (60.0, 3600.0, 86400.0):  # what a greater column should have counted, and did not
        seconds += turn_s * seconds.diff().between(-turn_s, 1 - turn_s).cumsum()
    joined = f"time by {' '.join(parts.values())} (s)"
    cells = table.cells.drop(columns=list(parts.values()))
    cells.insert(0, joined, seconds)
    return table._replace(cells=cells)


def elapsed_by_text(where: str, text: pd.Series) -> tuple[np.ndarray, str]:
    """Seconds after the first row from dates and clock times, and how they are written."""
    text = text.str.strip("[] ")
    text = text.str.replace(_COMPACT, r"\1-\2-\3T\4:\5:\6.\7", regex=True)
    text = text.str.replace(r"(:\d{2}:\d{2}):(\d{1,6})$", r"\1.\2", regex=True)
    is_time = text.str.contains(r"\d:\d{2}", regex=True)
    if not is_time.all():
        _check_all_read(where, text, text.where(is_time))
        elapsed_s = np.full(len(text), np.nan)
        elapsed_s[is_time], how = elapsed_by_text(where, text[is_time])
        return elapsed_s, how
    text = text.str.replace(r"(\d),(\d)", r"\1.\2", regex=True)
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
    steady = ndimage.median_filter(elapsed, size=5, mode="nearest")  # single wrong times are no midnight
    turns = np.cumsum(np.diff(steady, prepend=steady[0]) < -again_s / 2)
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
    if read.isna().sum() > max(0.02 * len(read), 3):  # a few are garbled lines
        row = int(read.isna().to_numpy().argmax())
        what = "nothing" if text.iloc[row].lower() in MISSING else repr(text.iloc[row])
        wanted = f"numbers that only rise, {_PLAIN_TIMES} or hh:mm:ss.fff"
        raise InputError(f"{where} holds {what} in row {row + 1} of the values; it must hold {wanted}")
