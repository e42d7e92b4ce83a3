"""Dates and clock times of a table as they are written: ISO 8601 or another order, with or without a zone, AM and PM."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from p2es_lib.core.errors import InputError
from p2es_lib.translation.readers.csv_table import MISSING, CsvTable

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


def elapsed_by_text(table: CsvTable, name: str) -> tuple[np.ndarray, str]:
    """Seconds after the first row from dates and clock times, and how they are written."""
    text = table.text(name).str.strip("[] ").str.replace(r"(\d),(\d)", r"\1.\2", regex=True)
    if any(re.search(r"\d" + _HALF_DAY, cell) for cell in text):
        row = next((row for row, cell in enumerate(text) if not re.search(_TWELVE_HOURS, cell)), None)
        if row is not None:
            raise InputError(
                f"{table.path}: column {name!r} has times with AM or PM, but {text.iloc[row]!r} in row {row + 1} of the "
                "values is none of 1 to 12 o'clock AM or PM; write all alike, best with 24 hours"
            )
        text = text.str.replace(_TWELVE_HOURS, _with_24_hours, regex=True)
    # With the year first, the month is second whatever stands between them.
    text = text.str.replace(_YEAR_FIRST, _as_iso, regex=True)
    text = text.str.replace(r"^0 days ", "", regex=True)  # as pandas writes a timedelta
    first = text.iloc[0]
    if re.match(_ISO, first):
        zoned = text.str.contains(_ZONE, regex=True)
        if zoned.any() and not zoned.all():
            problem = f"some times in column {name!r} have a zone and others have none"
            raise InputError(f"{table.path}: {problem}; write all alike")
        plain = text.str.replace(r"\s*(?:Z|UTC)$", "Z", regex=True).str.replace(
            r"\s+([+-]\d{2}:?\d{2})$", r"\1", regex=True
        )
        times = pd.to_datetime(plain, format="ISO8601", utc=True, errors="coerce")
        _check_all_read(table, name, text, times)
        how = "ISO 8601, " + ("with a zone" if zoned.all() else "without a zone")
        return (times - times.iloc[0]).dt.total_seconds().to_numpy(), how
    found = text.str.extract(rf"^(?P<before>.*?)(?P<clock>{_CLOCK})(?P<after>\D.*)?$").fillna("")
    rest = (found["before"] + found["after"]).str.strip()
    _check_all_read(table, name, text, found["clock"].where(found["clock"] != ""))
    clock, is_short = found["clock"], bool((found["clock"].str.count(":") == 1).all())
    clock = clock.where(clock.str.count(":") == 2, "0:" + clock)  # mm:ss.fff
    elapsed = pd.to_timedelta(clock, errors="coerce").dt.total_seconds()
    _check_all_read(table, name, text, elapsed)
    elapsed = elapsed.to_numpy()
    again_s = 3600 if is_short else 24 * 3600  # after so long, the clock shows the same
    turns = np.cumsum(np.diff(elapsed, prepend=elapsed[0]) < -again_s / 2)
    how = "mm:ss" if is_short else "hh:mm:ss"
    if rest.nunique() > 1:
        if is_short or (form := _form_of_dates(rest, turns)) is None:
            raise InputError(
                f"{table.path}: times such as {first!r} (column {name!r}) can be read in more than one way; write ISO 8601 "
                "(2024-05-01T10:00:00.125), seconds, or hh:mm:ss.fff"
            )
        how += f", dates {form} as they are next to each other"
    elif rest.iloc[0]:
        how += f", always on the date {rest.iloc[0]!r}"
    over = ", over the hour" if is_short else ", over midnight"
    return elapsed - elapsed[0] + again_s * turns, how + (over if turns[-1] else "")


def _form_of_dates(dates: pd.Series, midnights: np.ndarray) -> str | None:
    """How dates must be written if they change at midnight, and then to the next day: of 01/05 and 02/05, one way only."""
    codes, written = pd.factorize(dates)
    for form, label in _DATES.items():
        days = pd.to_datetime(pd.Series(written), format=form, errors="coerce").dt.normalize()
        if days.notna().all() and np.array_equal((days - days.iloc[0]).dt.days.to_numpy()[codes], midnights):
            return label
    return None


def _with_24_hours(found: re.Match) -> str:
    return f"{int(found[1]) % 12 + 12 * (found[3] in 'Pp'):02d}{found[2]}"


def _as_iso(found: re.Match) -> str:
    return f"{found[1]}-{found[3]:0>2}-{found[4]:0>2}T{found[5]:0>2}:"


def _check_all_read(table: CsvTable, name: str, text: pd.Series, read: pd.Series) -> None:
    if read.isna().any():
        row = int(read.isna().to_numpy().argmax())
        what = "nothing" if text.iloc[row].lower() in MISSING else repr(text.iloc[row])
        raise InputError(
            f"{table.path}: the time column {name!r} holds {what} in row {row + 1} of the values; it must hold numbers that "
            "only rise, ISO 8601 (2024-05-01T10:00:00.125) or hh:mm:ss.fff"
        )
