"""A table as spreadsheets and loggers export it: which text, which separator, which decimal mark, which lines are what.

What a file does not state is found from its first lines and told in the notes. :mod:`pandas` reads the table, once it
is known how; sniffers of dialects (``csv.Sniffer``) know nothing of decimal commas, units or lines above the names.
"""

import codecs
import csv
import io
import re
import warnings
from itertools import islice
from pathlib import Path
from statistics import mode
from typing import NamedTuple

import numpy as np
import pandas as pd

from p2es_lib.core.errors import InputError
from p2es_lib.data.sources.wfdb_records import find_ppg

#: Lines from which the layout is found, and lines of free text that may stand above the names.
_SAMPLE, _MAX_ABOVE = 1000, 40
_MARKS = [(codecs.BOM_UTF8, "utf-8-sig", "UTF-8 with a mark")]
_MARKS += [(mark, "utf-32", "UTF-32") for mark in (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)]
_MARKS += [(mark, "utf-16", "UTF-16") for mark in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)]
_SEPARATORS = {"\t": "tabs", ";": "semicolons", ",": "commas", " ": "blanks", "": ""}
_FOR_PANDAS = {" ": r"\s+", "": "\x1f"}  # the latter no text file holds
_HINT = re.compile(r'"?sep=(.)"?', re.IGNORECASE)  # a first line by which Excel knows the separator
_QUOTES = "'\" \u00a0"
# As people write them, as spreadsheets write errors, and as C does on Linux and on Windows.
MISSING = {
    "", "nan", "na", "n/a", "n.a.", "<na>", "nat", "null", "none", "-", "--", "?", ".", "missing", "inf", "-inf",
    "+inf", "#n/a", "#na", "#nv", "#num!", "#zahl!", "#div/0!", "#value!", "#wert!", "#ref!", "-nan", "+nan",
    "nan(ind)", "-nan(ind)", "nan(snan)", "1.#qnan", "-1.#qnan", "1.#ind", "-1.#ind", "1.#inf", "-1.#inf",
}  # fmt: skip
_NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)(e[+-]?\d+)?", re.IGNORECASE)
_COMMA_NUMBER, _POINT_NUMBER = (re.compile(rf"[+-]?\d*{mark}\d+(e[+-]?\d+)?", re.IGNORECASE) for mark in (",", r"\."))
_TIME = re.compile(r"\[?\d{1,4}[-./]\d{1,2}[-./]\d{1,4}([T ].*)?|\[?\d{1,2}:\d{2}.*")
_UNIT = re.compile(r"[\[(]?[A-Za-zµμΩ%°#./*^²:()\d\- ]{0,40}[\])]?")


class CsvTable(NamedTuple):
    """A table as text, one row per row of values.

    ``named``: the file names its columns; otherwise they are called by their numbers from 1, as ``nameless`` ones are.
    ``units``: by column, where a row of them stands beneath the names. ``notes``: how it was read, for the user.
    """

    path: Path
    cells: pd.DataFrame
    named: bool
    units: dict[str, str]
    decimal: str
    notes: list[str]
    nameless: list[str]

    @property
    def names(self) -> list[str]:
        """Names of the columns, each there once."""
        return list(self.cells.columns)

    def text(self, name: str) -> pd.Series:
        """A column as text, without quotes and blanks around it."""
        return self.cells[name].str.strip(_QUOTES)

    def numbers(self, name: str) -> np.ndarray:
        """A column as numbers, NaN where missing or infinite; :class:`InputError` names the first cell that is none."""
        text = self.text(name)
        values = pd.to_numeric(text.str.replace(self.decimal, ".", regex=False), errors="coerce").to_numpy(dtype=float)
        wrong = np.isnan(values) & ~text.str.lower().isin(MISSING).to_numpy()
        if wrong.any():
            row, mark = int(np.argmax(wrong)), "comma" if self.decimal == "," else "point"
            cell = f"{text.iloc[row]!r} in row {row + 1} of the values; decimal {mark}"
            problem = f"column {name!r} holds something that is not a number ({cell})"
            raise InputError(f"{self.path}: {problem}; write plain numbers, without thousands separators or units")
        return np.where(np.isfinite(values), values, np.nan)

    def is_numeric(self, name: str) -> bool:
        """Whether a column begins with numbers (times written as text do not)."""
        head = self.text(name).iloc[:_SAMPLE]
        return all(_NUMBER.fullmatch(cell) or cell.lower() in MISSING for cell in head)


def read_csv_table(path: Path) -> CsvTable:
    """Read a table of any common make; an :class:`InputError` if it cannot be read in one way only.

    UTF-8, UTF-16 or UTF-32 with their marks, or Latin-1; comment lines (# or %) on top; names of the columns, and their
    units beneath, or neither; separated by tabs, semicolons, commas or blanks; decimal point or comma.
    """
    text, encoding = _decode(path)
    hint, comments, above, numbered = _top(path, text)
    separator, rows = _find_separator(path, [line for _, line in numbered], hint)
    named = _is_header(rows)
    units = _units(rows) if named else None
    is_counts = named and _is_counts(rows[2 if units else 1 :])
    n_head = named + bool(units) + is_counts
    if len(rows) <= n_head:
        raise InputError(f"{path}: no row of values")
    in_comment = None if named or not comments else _names_in_comment(comments[-1], separator, len(rows[0]))
    names = rows[0] if named else in_comment or [""] * len(rows[0])
    cells = _read(path, text, separator, len(names), numbered[n_head][0])
    # A separator at the end of each line makes a column without name and values.
    kept = [column for column in cells if names[column] or cells[column].str.strip().ne("").any()]
    heads = [names[column] or str(column + 1) for column in kept]
    heads = [f"{name} ({heads[:n].count(name) + 1})" if name in heads[:n] else name for n, name in enumerate(heads)]
    units = {name: _bare(units[column]) for name, column in zip(heads, kept)} if units else {}
    decimal = _decimal(path, rows[n_head:])
    separated = f" separated by {_SEPARATORS[separator]}" if separator else ""
    told = {
        f"{len(kept)} column(s){separated}": True,
        encoding: encoding,
        "decimal comma": decimal == ",",
        f"{len(comments)} comment line(s) left out": comments,
        "a row of counts beneath the names left out": is_counts,
        f"{len(above)} line(s) above the names left out: {'; '.join(line.strip()[:40] for line in above[:3])}": above,
        "names of the columns from the last comment line": in_comment,
        f"units from the row beneath the names: {', '.join(map(repr, units.values()))}": units,
    }
    notes = [note for note, is_so in told.items() if is_so]
    nameless = [name for name, column in zip(heads, kept) if not names[column]]
    cells = cells[kept].set_axis(heads, axis=1)
    return CsvTable(path, cells, bool(named or in_comment), units, decimal, notes, nameless)


def _decode(path: Path) -> tuple[str, str]:
    """Text of a file with plain line ends, and what it is written in where that is not plain UTF-8."""
    data = path.read_bytes()
    if not data:
        raise InputError(f"{path}: the file is empty (zero bytes)")
    # A logger that lost its power leaves zeros, and one of MS-DOS's time an end mark, behind the last line.
    data = data if data.startswith(tuple(mark for mark, *_ in _MARKS[1:])) else data.rstrip(b"\0\x1a")
    _, encoding, label = next((mark for mark in _MARKS if data.startswith(mark[0])), (b"", "utf-8", ""))
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        if label:
            raise InputError(f"{path}: cannot be read as {label} ({error}); save it as CSV in UTF-8") from error
        text, label = data.decode("latin-1"), "Latin-1 text"  # decodes anything, so it is tried last
    if re.search("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]", text):
        problem = "it is binary, or UTF-16 without its mark"
        raise InputError(f"{path}: cannot be read as text ({problem}); save it as CSV in UTF-8")
    return text.replace("\r\n", "\n").replace("\r", "\n"), label


def _top(path: Path, text: str) -> tuple[str | None, list[str], list[str], list[tuple[int, str]]]:
    """Separator that the first line names, comment lines, lines of text, and the first lines of the table, numbered."""
    lines = enumerate(line.rstrip("\n") for line in islice(io.StringIO(text), 2 * _SAMPLE))
    numbered = [(number, line) for number, line in lines if line.strip()]
    hint = _HINT.fullmatch(numbered[0][1].strip(" ")) if numbered else None
    numbered = numbered[1:] if hint else numbered
    n_comments = next((n for n, (_, line) in enumerate(numbered) if line.lstrip()[0] not in "#%"), len(numbered))
    comments, numbered = [line for _, line in numbered[:n_comments]], numbered[n_comments : n_comments + _SAMPLE]
    if len(numbered) < 2:
        raise InputError(f"{path}: no row of values")
    n_above = _lines_above([line for _, line in numbered])
    return hint[1] if hint else None, comments, [line for _, line in numbered[:n_above]], numbered[n_above:]


def _split(lines: list[str], separator: str) -> list[list[str]]:
    if separator in (" ", ""):
        rows = [line.split() if separator else [line] for line in lines]
    else:
        rows = csv.reader(lines, delimiter=separator, skipinitialspace=True)
    return [[cell.strip(_QUOTES) for cell in row] for row in rows]


def _is_value(cell: str) -> bool:
    """A number, a time, or the mark of a missing value."""
    return bool(cell.lower() in MISSING or _NUMBER.fullmatch(cell) or _TIME.fullmatch(cell))


def _find_separator(path: Path, lines: list[str], hint: str | None) -> tuple[str, list[list[str]]]:
    """The separator by which lines have equally many cells, most of them values; and the lines so split."""
    best, best_values, refused = None, 0.0, ""  # a comma separates, if the line of names does not tell otherwise
    for separator in [hint] if hint in _SEPARATORS else _SEPARATORS:
        if separator and not any(separator in line for line in lines):
            continue
        rows, data = _even_ends(_split(lines, separator))
        width = mode(map(len, data))
        odd = next((row for row in rows[:-1] or rows if len(row) != width), None)
        values = round(float(np.mean([_is_value(cell) and cell != "" for row in data for cell in row])), 2)
        several = re.search("[\t;,]", lines[0]) and not _is_value(lines[0].strip(_QUOTES))
        if separator == "" and (values < 0.9 or several):
            continue  # uneven lines, or names of several columns: no single column with a decimal comma
        if odd is None and values > best_values and (width > 1 or separator != " "):
            best, best_values = (separator, rows), values
        elif odd is not None and values > 0.5 and not refused:
            refused = f"split at {_SEPARATORS[separator]}, one line has {len(odd)} cells and others have {width}"
            if separator == "," and 1 < len(rows[0]) < width:
                refused += "; if commas mark decimals too, export with semicolons between columns or a decimal point"
    if best is None:
        expected = "one line of names at most, its units beneath at most, and rows of numbers"
        problem = f"cannot be read as a table of numbers ({refused or 'no column of numbers was found'})"
        raise InputError(f"{path}: {problem}; expected {expected}; comment lines must begin with #")
    return best


def _even_ends(rows: list[list[str]]) -> tuple[list[list[str]], list[list[str]]]:
    """Rows, and those that surely hold values; where lines end in a separator, that of names may not, or that alone."""
    data = rows[1:-1] or rows[1:] or rows  # the last line may be cut short
    width = mode(map(len, data))
    if all(len(row) == width and row[-1] == "" for row in data):
        rows = [row + [""] if len(row) == width - 1 else row for row in rows]
    elif len(rows[0]) == width + 1 and rows[0][-1] == "":
        rows[0] = rows[0][:-1]
    return rows, data


def _lines_above(lines: list[str]) -> int:
    """Lines of free text above that of names: before all have equally many cells, none of values; 0 if in doubt."""
    for separator in ("\t", ";", ","):
        rows = _split(lines, separator)
        width = mode(map(len, rows))
        n = 1 + max((number for number, row in enumerate(rows[:-1]) if len(row) != width), default=-1)
        if width < 2 or not 1 <= n <= _MAX_ABOVE or len(rows) < n + 3:
            continue
        if not any(all(map(_is_value, row)) for row in rows[:n]) and not any(map(_is_value, filter(None, rows[n]))):
            return n if _is_header(rows[n:]) else 0
    return 0


def _values_below(row: list[str], rows: list[list[str]]) -> list[bool] | None:
    """Which cells of further rows are values, in columns in which a row holds none; None if there is no such column."""
    texts = [column for column, cell in enumerate(row) if not _is_value(cell)]
    return [_is_value(other[column]) for column in texts for other in rows if column < len(other)] if texts else None


def _is_header(rows: list[list[str]]) -> bool:
    """Whether the first row holds text where the others hold values, or there is no other."""
    below = rows[2:] or rows[1:]  # the second may hold units
    values = _values_below(rows[0], below)
    return values is not None and (not below or any(values))


def _units(rows: list[list[str]]) -> list[str] | None:
    """The second row, if it holds text where the others hold values, and nothing that is a value."""
    if len(rows) < 3 or not all(_UNIT.fullmatch(cell) for cell in rows[1]):
        return None
    values = _values_below(rows[1], rows[2:])
    rest_plain = all(cell in ("", "-", "1") for cell in rows[1] if _is_value(cell))
    return rows[1] if values is not None and rest_plain and sum(values) > 0.5 * len(values) else None


def _is_counts(rows: list[list[str]]) -> bool:
    """Whether the first row is what AcqKnowledge (Biopac) writes beneath the names: how many values each has."""
    if len(rows) < 2 or rows[0][0] != "" or rows[1][0] == "":
        return False
    counts = {cell for cell in rows[0][1:] if cell}
    return len(counts) == 1 and counts.pop().isdigit()


def _bare(unit: str) -> str:
    """A unit without brackets around the whole of it."""
    return unit[1:-1] if unit[:1] + unit[-1:] in ("[]", "()") else unit.strip("[]")


def _names_in_comment(comment: str, separator: str, width: int) -> list[str] | None:
    """Names from the last comment line (numpy writes them so), if they are as many as the columns."""
    names = _split([comment.strip().lstrip(" #%")], separator)[0]
    is_names = len(names) == width and not any(map(_is_value, names))
    return names if is_names and (width > 1 or find_ppg(names)) else None


def _decimal(path: Path, rows: list[list[str]]) -> str:
    cells = [cell for row in rows for cell in row]
    comma, point = (next(filter(pattern.fullmatch, cells), None) for pattern in (_COMMA_NUMBER, _POINT_NUMBER))
    if comma and point:
        raise InputError(f"{path}: numbers with a decimal comma ({comma}) and with a point ({point}); write all alike")
    return "," if comma else "."


def _read(path: Path, text: str, separator: str, width: int, n_skipped: int) -> pd.DataFrame:
    """The rows of values as text; columns are numbered from 0."""
    layout = {"header": None, "names": range(width), "skiprows": n_skipped, "index_col": False, "dtype": str}
    separator = _FOR_PANDAS.get(separator, separator)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # it would drop cells
            cells = pd.read_csv(io.StringIO(text), sep=separator, skipinitialspace=True, na_filter=False, **layout)
    except (ValueError, pd.errors.ParserWarning) as error:
        problem = f"{str(error).strip()}; every line must have the same columns"
        raise InputError(f"{path}: cannot be read as a table of numbers ({problem})") from error
    return cells.fillna("")
