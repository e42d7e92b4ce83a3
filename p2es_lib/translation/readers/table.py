"""A table as spreadsheets and loggers export it: which text, which separator, which decimal mark, which lines are what.

What a file does not state is found from its first lines and told in the notes. :mod:`pandas` reads the table, once it
is known how; sniffers of dialects (``csv.Sniffer``, clevercsv) know nothing of decimal commas, units, cells that hold
packets, or lines above the names. Single bad lines and cells are missing values, and are told with their numbers.
"""

import codecs
import io
import re
from itertools import islice
from pathlib import Path
from statistics import mode
from typing import NamedTuple

import numpy as np
import pandas as pd

from p2es_lib.core.errors import InputError
from p2es_lib.translation.readers.cells import (
    MISSING,
    MORE_CELLS,
    NUMBER,
    PACKET,
    QUOTES,
    TIME,
    Layout,
    holds_values,
    is_value,
    split,
)  # fmt: skip
from p2es_lib.translation.readers.head import find_names, find_rate, is_counts

#: Lines from which the layout is found.
_SAMPLE = 1000
_MARKS = [(codecs.BOM_UTF8, "utf-8-sig", "UTF-8 with a mark")]
_MARKS += [(mark, "utf-32", "UTF-32") for mark in (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)]
_MARKS += [(mark, "utf-16", "UTF-16") for mark in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)]
_SEPARATORS = {"\t": "tabs", ";": "semicolons", ",": "commas", "|": "bars", " ": "blanks", "": ""}
_FOR_PANDAS = {" ": r"\s+", "": "\x1f"}  # the latter no text file holds
_HINT = re.compile(r'"?sep=(.)"?[,;\t]*', re.IGNORECASE)  # a first line by which Excel knows the separator
_COMMA_NUMBER, _POINT_NUMBER = (re.compile(rf"[+-]?\d*{mark}\d+(e[+-]?\d+)?", re.IGNORECASE) for mark in (",", r"\."))
#: Of cells that are no numbers, more than these shares of a column (with digits in them, and without) are no accident.
_MOST_ODD, _MOST_WORDS = 0.02, 0.5


class Table(NamedTuple):
    """A table as text or numbers, one row per row of values.

    ``named``: the file names its columns; otherwise they are called by their numbers from 1, as ``nameless`` ones are.
    ``units``: by column, where they are stated beside the names. ``notes``: how it was read, for the user. ``rate``
    (Hz, None: not stated) is that of its rows by a statement, which ``said`` quotes; ``started``: when it begins.
    """

    path: Path
    cells: pd.DataFrame
    named: bool
    units: dict[str, str]
    decimal: str
    notes: list[str]
    nameless: list[str]
    rate: float | None = None
    said: str = ""
    started: str = ""

    @property
    def names(self) -> list[str]:
        """Names of the columns, each there once."""
        return list(self.cells.columns)

    def text(self, name: str) -> pd.Series:
        """A column as text, without quotes and blanks around it."""
        return self.cells[name] if self.cells[name].dtype == object else self.cells[name].astype(str)

    def odd(self, name: str) -> np.ndarray:
        """Rows (numbers from 0) in which a column holds something that is neither a number nor a mark of a gap."""
        return np.flatnonzero(self._read(name)[1])

    def _read(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        if pd.api.types.is_numeric_dtype(self.cells[name]):
            values = self.cells[name].to_numpy(float, na_value=np.nan)
            return values, np.zeros(len(values), bool)
        text = self.text(name)
        plain = text if self.decimal == "." else text.str.replace(self.decimal, ".", regex=False)
        values = pd.to_numeric(plain, errors="coerce").to_numpy(dtype=float)
        wrong = np.isnan(values)
        wrong[wrong] = ~text[wrong].str.lower().isin(MISSING).to_numpy()
        return values, wrong

    def numbers(self, name: str) -> np.ndarray:
        """A column as numbers, NaN where missing, infinite or an odd cell; :class:`InputError` where these are many."""
        values, wrong = self._read(name)
        if wrong.any():
            text = self.text(name)
            has_digits = text[wrong].str.contains(r"\d", regex=True).to_numpy()
            n_given = max(int(np.isfinite(values).sum() + wrong.sum()), 1)
            if has_digits.sum() > max(_MOST_ODD * n_given, 3) or (~has_digits).sum() > _MOST_WORDS * n_given:
                row, mark = int(np.argmax(wrong)), "comma" if self.decimal == "," else "point"
                cell = f"{text.iloc[row]!r} in row {row + 1} of the values; decimal {mark}"
                problem = f"column {name!r} holds something that is not a number ({cell})"
                raise InputError(f"{self.path}: {problem}; write plain numbers, without thousands separators or units")
        return np.where(np.isfinite(values), values, np.nan)

    def is_numeric(self, name: str) -> bool:
        """Whether a column begins with numbers (times written as text do not)."""
        if pd.api.types.is_numeric_dtype(self.cells[name]):
            return True
        head = self.text(name).iloc[:_SAMPLE]
        given = head[~head.str.lower().isin(MISSING)]
        return not len(given) or np.mean([bool(NUMBER.fullmatch(cell)) for cell in given]) >= 0.5


def read_table(path: Path, data: bytes) -> Table:
    """Read a table of any common make; an :class:`InputError` if it cannot be read in one way only.

    UTF-8, UTF-16 or UTF-32 with their marks, or Latin-1; lines of text above, from which names and a sampling rate are
    taken; names of the columns, and their units beneath, or neither; separated by tabs, semicolons, commas, bars or
    blanks; decimal point or comma.
    """
    text, encoding = _decode(path, data)
    lines = enumerate(line.rstrip("\n") for line in islice(io.StringIO(text), 2 * _SAMPLE))
    numbered = [(number, line) for number, line in lines if line.strip()]
    hint = _HINT.fullmatch(numbered[0][1].strip(" ")) if numbered else None
    numbered = numbered[1:] if hint else numbered
    layout = _find_layout(path, [line for _, line in numbered], hint[1] if hint else None)
    top, rows = [line for _, line in numbered[: layout.first]], layout.rows[layout.first :]
    n_rows = text.count("\n") - numbered[layout.first][0]
    has_counts = len(rows) > 1 and is_counts(rows[0], rows[1], n_rows, top)
    names, units, told, n_head = find_names(path, top, layout, rows)
    cells, bad = _read(path, text, layout, len(names), numbered[layout.first + has_counts][0])
    kept = [column for column in cells if (names + [""] * MORE_CELLS)[column] or cells[column].str.strip().ne("").any()]
    heads = [(names + [""] * MORE_CELLS)[column] or str(column + 1) for column in kept]
    heads = [f"{name} ({heads[:n].count(name) + 1})" if name in heads[:n] else name for n, name in enumerate(heads)]
    by_name = dict(zip(heads, (_bare((units + [""] * MORE_CELLS)[column]) for column in kept))) if units else {}
    decimal = _decimal(path, rows)
    separated = f" separated by {_SEPARATORS[layout.separator]}" if layout.separator else ""
    comments = [line for line in top if line.lstrip()[:1] in "#%"]
    above = [line.strip() for line in top[: len(top) - n_head] if line not in comments]
    facts = {
        f"{len(kept)} column(s){separated}": True,
        encoding: encoding,
        "decimal comma": decimal == ",",
        f"{len(comments)} comment line(s) left out": comments,
        "a row of counts beneath the names left out": has_counts,
        f"{len(above)} line(s) above the names left out: {'; '.join(line[:40] for line in above[:3])}": above,
        told: told,
        f"units from the row beneath the names: {', '.join(map(repr, by_name.values()))}": by_name,
        bad: bad,
    }
    has_names = any(names)
    nameless = [name for name, column in zip(heads, kept) if not (names + [""] * MORE_CELLS)[column]]
    rate, said = find_rate(top)
    notes = [note for note, is_so in facts.items() if is_so]
    return Table(path, cells[kept].set_axis(heads, axis=1), has_names, by_name, decimal, notes, nameless, rate, said)


def _decode(path: Path, data: bytes) -> tuple[str, str]:
    """Text of a file with plain line ends, and what it is written in where that is not plain UTF-8."""
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
    odd = len(re.findall("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]", text))
    if odd > max(0.001 * len(text), 16):  # a few lie where a line was garbled
        problem = "it is binary, or UTF-16 without its mark"
        raise InputError(f"{path}: cannot be read as text ({problem}); save it as CSV in UTF-8")
    text = re.sub("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]", "\ufffd", text) if odd else text
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace(" -> ", "\t")  # the latter: Arduino's monitor
    if '"' in text and any(line.count('"') % 2 for line in text.split("\n")):  # would join lines
        text = "\n".join(line.replace('"', "") if line.count('"') % 2 else line for line in text.split("\n"))
    return (text if text.endswith("\n") else text + "\n"), label


def _find_layout(path: Path, lines: list[str], hint: str | None) -> Layout:
    """The separator by which most lines have equally many cells, most of them values, as many as there are names."""
    best, refused = None, ""
    for separator in [hint] if hint in _SEPARATORS else _SEPARATORS:
        if separator and not any(separator in line for line in lines):
            continue
        rows = split(lines, separator)
        data = [n for n, row in enumerate(rows) if holds_values(row) and lines[n].lstrip()[0] not in "#%"]
        if not data:
            continue
        if np.mean([is_value(rows[n][0]) for n in data]) > 0.9:  # lines of a name and a value stand above
            data = [n for n in data if is_value(rows[n][0])]
        width = mode([len(rows[n]) for n in data[len(data) // 10 :]])
        fits = [n for n in data if len(rows[n]) == width or len(rows[n]) > width > 1]
        near = set(data)
        # The values begin where lines of values follow each other; a comment or a bad line may stand between.
        first = next((n for n in fits if sum(m in near for m in range(n, n + 4)) >= min(3, len(rows) - n)
                      and (n + 1 in near or n + 1 == len(rows))), None)  # fmt: skip
        if first is None or (separator == " " and width < 2):
            continue
        body = rows[first:]
        values = float(np.mean([bool(NUMBER.fullmatch(c) or TIME.fullmatch(c) or separator and PACKET.fullmatch(c))
                                for row in body for c in row if c.lower() not in MISSING] or [0]))  # fmt: skip
        fit = float(np.mean([width <= len(row) <= width + MORE_CELLS for row in body]))
        plain = [row for row, line in zip(rows[:first], lines) if line.lstrip()[0] not in "#%"]
        names = next((row for row in reversed(plain) if row and not any(map(is_value, filter(None, row)))), [])
        matches = len(names) == width or (len(names) == width + 1 and not names[-1])
        score = round(values * fit, 2) + (0.3 if matches else 0.0)
        several = first and re.search("[\t;,]", lines[first - 1]) and lines[first - 1].lstrip()[0] not in "#%"
        if separator == "" and (values < 0.9 or several and best is not None):
            continue
        if best is None or score > best.score:
            best = Layout(separator, rows, width, first, score)
        is_index = [row[0] for row in body[:5]] == list("12345")
        halves = 1 < len(names) < width <= 2 * len(names) + 1 and body[0][-1] != ""
        if separator == "," and halves and not is_index:
            refused = f"split at commas, there are {len(names)} names and {width} cells in a line; if commas mark "
            refused += "decimals too, export with semicolons between columns or a decimal point"
    if best is None and len(lines) < 2:
        raise InputError(f"{path}: no row of values")
    if best is None or best.score < 0.5:
        expected = "one line of names at most, its units beneath at most, and rows of numbers"
        problem = f"cannot be read as a table of numbers ({refused or 'no column of numbers was found'})"
        raise InputError(f"{path}: {problem}; expected {expected}; comment lines must begin with #")
    if refused and best.separator == ",":
        raise InputError(f"{path}: cannot be read as a table of numbers ({refused})")
    return best


def _bare(unit: str) -> str:
    """A unit without brackets around the whole of it."""
    return unit[1:-1] if unit[:1] + unit[-1:] in ("[]", "()") else unit.strip("[]")


def _decimal(path: Path, rows: list[list[str]]) -> str:
    cells = [cell for row in rows for cell in row]
    commas, points = ([c for c in cells if pattern.fullmatch(c)] for pattern in (_COMMA_NUMBER, _POINT_NUMBER))
    few = 0.02 * len(cells)
    if len(commas) > few and len(points) > few:
        both = f"numbers with a decimal comma ({commas[0]}) and with a point ({points[0]})"
        raise InputError(f"{path}: {both}; write all alike")
    return "," if len(commas) > len(points) else "."


def _read(path: Path, text: str, layout: Layout, n_names: int, n_skipped: int) -> tuple[pd.DataFrame, str]:
    """The rows of values as text, columns numbered from 0, and which lines were bad."""
    separator, width = layout.separator, max(layout.width, n_names)
    cut, quoted = separator if separator.strip() or separator == "\t" else None, '"' in text
    lines = enumerate(text.split("\n")[n_skipped:], start=n_skipped + 1) if separator and not quoted else ()
    sizes = {n: len(line.split(cut)) for n, line in lines if line.strip()}
    is_even = not quoted and all(size == width for size in sizes.values())
    short = [n for n, size in sizes.items() if size < layout.width]  # many: a last cell in only some lines
    bad = sorted(
        [n for n, size in sizes.items() if size > width + MORE_CELLS] + short * (len(short) < 0.02 * len(sizes))
    )
    if len(bad) > max(0.05 * len(sizes), 5):
        problem = f"{len(bad)} of {len(sizes)} lines have another number of cells, the first line {bad[0]}"
        raise InputError(f"{path}: cannot be read as a table of numbers ({problem}); all must have the same columns")
    how = {"header": None, "names": range(width + (0 if is_even else MORE_CELLS)), "skiprows": n_skipped, "dtype": str}
    try:
        cells = pd.read_csv(
            io.StringIO(text), sep=_FOR_PANDAS.get(separator, separator), skipinitialspace=True, na_filter=False,
            index_col=False, on_bad_lines="skip", **how,
        )  # fmt: skip
    except ValueError as error:
        problem = f"{str(error).strip()}; every line must have the same columns"
        raise InputError(f"{path}: cannot be read as a table of numbers ({problem})") from error
    cells = cells.fillna("")
    if any(mark in text for mark in QUOTES):
        cells = cells.apply(lambda column: column.str.strip(QUOTES))
    while len(cells) > 1 and not any(is_value(c) and c for c in cells.iloc[-1]):  # a line beneath it
        cells = cells.iloc[:-1]
    return cells, f"{len(bad)} bad line(s) taken as missing: line {', '.join(map(str, bad[:5]))}" if bad else ""
