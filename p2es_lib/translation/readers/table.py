"""A table as spreadsheets and loggers export it: which text, which separator, which decimal mark, which lines are what.

What a file does not state is found from its first lines and told in the notes. :mod:`pandas` reads the table, once it
is known how; sniffers of dialects (``csv.Sniffer``, clevercsv) know nothing of decimal commas, units, cells that hold
packets, or lines above the names. Single bad lines and cells are missing values, and are told with their numbers.
"""

import codecs
import csv
import io
import json
import re
from itertools import islice
from pathlib import Path
from statistics import mode
from typing import NamedTuple

import numpy as np
import pandas as pd

from p2es_lib.core.errors import InputError
from p2es_lib.translation.readers.head import find_rate

#: Lines from which the layout is found, and cells more than usual that a line may have (comments, triggers).
_SAMPLE, _MORE = 1000, 8
_MARKS = [(codecs.BOM_UTF8, "utf-8-sig", "UTF-8 with a mark")]
_MARKS += [(mark, "utf-32", "UTF-32") for mark in (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)]
_MARKS += [(mark, "utf-16", "UTF-16") for mark in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)]
_SEPARATORS = {"\t": "tabs", ";": "semicolons", ",": "commas", "|": "bars", " ": "blanks", "": ""}
_FOR_PANDAS = {" ": r"\s+", "": "\x1f"}  # the latter no text file holds
_HINT = re.compile(r'"?sep=(.)"?[,;\t]*', re.IGNORECASE)  # a first line by which Excel knows the separator
_QUOTES = "'\" \u00a0"
# As people write them, as spreadsheets write errors, and as C does on Linux and on Windows.
MISSING = {
    "", "nan", "na", "n/a", "n.a.", "<na>", "nat", "null", "none", "-", "--", "?", ".", "missing", "inf", "-inf",
    "+inf", "#n/a", "#na", "#nv", "#num!", "#zahl!", "#div/0!", "#value!", "#wert!", "#ref!", "-nan", "+nan",
    "nan(ind)", "-nan(ind)", "nan(snan)", "1.#qnan", "-1.#qnan", "1.#ind", "-1.#ind", "1.#inf", "-1.#inf",
}  # fmt: skip
_DIGITS = r"[+-]?(?:\d+(?:[.,]\d*)?|[.,]\d+)(?:e[+-]?\d+)?"
_NUMBER = re.compile(_DIGITS, re.IGNORECASE)
_COMMA_NUMBER, _POINT_NUMBER = (re.compile(rf"[+-]?\d*{mark}\d+(e[+-]?\d+)?", re.IGNORECASE) for mark in (",", r"\."))
_TIME = re.compile(r"\[?\d{1,4}[-./]\d{1,2}[-./]\d{1,4}([T ].*)?|\[?\d{1,2}:\d{2}.*|\d{4}-\d{2}-\d{2}T.*|0 days.*")
#: A cell that holds a packet of values.
_PACKET = re.compile(
    rf"[\[({{]\s*{_DIGITS}(?:\s*[;,|\s]\s*{_DIGITS})*\s*[\])}}]|{_DIGITS}(?:\s*[;,|\s]\s*{_DIGITS}){{2,}}", re.IGNORECASE
)
_UNIT = re.compile(r"[\[(]?[A-Za-zµμΩ%°#./*^²:()\d\- ]{0,40}[\])]?")
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
        return self.cells[name].astype(str).str.strip(_QUOTES)

    def odd(self, name: str) -> np.ndarray:
        """Rows (numbers from 0) in which a column holds something that is neither a number nor a mark of a gap."""
        return np.flatnonzero(self._read(name)[1])

    def _read(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        if pd.api.types.is_numeric_dtype(self.cells[name]):
            values = self.cells[name].to_numpy(float, na_value=np.nan)
            return values, np.zeros(len(values), bool)
        text = self.text(name)
        values = pd.to_numeric(text.str.replace(self.decimal, ".", regex=False), errors="coerce").to_numpy(dtype=float)
        return values, np.isnan(values) & ~text.str.lower().isin(MISSING).to_numpy()

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
        return not len(given) or np.mean([bool(_NUMBER.fullmatch(cell)) for cell in given]) >= 0.5


class _Layout(NamedTuple):
    """How lines are split: the separator, the usual number of cells, the first line of values, and how well it fits."""

    separator: str
    rows: list[list[str]]
    width: int
    first: int
    score: float


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
    is_counts = len(rows) > 1 and _is_counts(rows[0], rows[1], n_rows, top)
    names, units, told, n_head = _names(path, top, layout, rows)
    cells, bad = _read(path, text, layout, len(names), numbered[layout.first + is_counts][0])
    kept = [column for column in cells if (names + [""] * _MORE)[column] or cells[column].str.strip().ne("").any()]
    heads = [(names + [""] * _MORE)[column] or str(column + 1) for column in kept]
    heads = [f"{name} ({heads[:n].count(name) + 1})" if name in heads[:n] else name for n, name in enumerate(heads)]
    by_name = dict(zip(heads, (_bare((units + [""] * _MORE)[column]) for column in kept))) if units else {}
    decimal = _decimal(path, rows)
    separated = f" separated by {_SEPARATORS[layout.separator]}" if layout.separator else ""
    comments = [line for line in top if line.lstrip()[:1] in "#%"]
    above = [line.strip() for line in top[: len(top) - n_head] if line not in comments]
    facts = {
        f"{len(kept)} column(s){separated}": True,
        encoding: encoding,
        "decimal comma": decimal == ",",
        f"{len(comments)} comment line(s) left out": comments,
        "a row of counts beneath the names left out": is_counts,
        f"{len(above)} line(s) above the names left out: {'; '.join(line[:40] for line in above[:3])}": above,
        told: told,
        f"units from the row beneath the names: {', '.join(map(repr, by_name.values()))}": by_name,
        bad: bad,
    }
    has_names = any(names)
    nameless = [name for name, column in zip(heads, kept) if not (names + [""] * _MORE)[column]]
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


def _split(lines: list[str], separator: str) -> list[list[str]]:
    if separator in (" ", ""):
        rows = [line.split() if separator else [line] for line in lines]
    else:
        rows = csv.reader(lines, delimiter=separator, skipinitialspace=True)
    return [[cell.strip(_QUOTES) for cell in row] for row in rows]


def _is_value(cell: str) -> bool:
    """A number, a time, a packet of numbers, or the mark of a missing value."""
    return bool(cell.lower() in MISSING or _NUMBER.fullmatch(cell) or _TIME.fullmatch(cell) or _PACKET.fullmatch(cell))


def _holds_values(row: list[str]) -> bool:
    """Whether at least half of the cells that are filled are values, and one is more than the mark of a gap."""
    filled = [cell for cell in row if cell]
    values = [cell for cell in filled if _is_value(cell)]
    return 2 * len(values) >= max(len(filled), 1) and any(cell.lower() not in MISSING for cell in values)


def _find_layout(path: Path, lines: list[str], hint: str | None) -> _Layout:
    """The separator by which most lines have equally many cells, most of them values, as many as there are names."""
    best, refused = None, ""
    for separator in [hint] if hint in _SEPARATORS else _SEPARATORS:
        if separator and not any(separator in line for line in lines):
            continue
        rows = _split(lines, separator)
        data = [n for n, row in enumerate(rows) if _holds_values(row) and lines[n].lstrip()[0] not in "#%"]
        if not data:
            continue
        if np.mean([_is_value(rows[n][0]) for n in data]) > 0.9:  # lines of a name and a value stand above
            data = [n for n in data if _is_value(rows[n][0])]
        width = mode([len(rows[n]) for n in data[len(data) // 10 :]])
        fits = [n for n in data if len(rows[n]) == width or len(rows[n]) > width > 1]
        near = set(data)
        # The values begin where lines of values follow each other; a comment or a bad line may stand between.
        first = next((n for n in fits if sum(m in near for m in range(n, n + 4)) >= min(3, len(rows) - n)
                      and (n + 1 in near or n + 1 == len(rows))), None)  # fmt: skip
        if first is None or (separator == " " and width < 2):
            continue
        body = rows[first:]
        values = float(np.mean([bool(_NUMBER.fullmatch(c) or _TIME.fullmatch(c) or separator and _PACKET.fullmatch(c))
                                for row in body for c in row if c.lower() not in MISSING] or [0]))  # fmt: skip
        fit = float(np.mean([width <= len(row) <= width + _MORE for row in body]))
        plain = [row for row, line in zip(rows[:first], lines) if line.lstrip()[0] not in "#%"]
        names = next((row for row in reversed(plain) if row and not any(map(_is_value, filter(None, row)))), [])
        matches = len(names) == width or (len(names) == width + 1 and not names[-1])
        score = round(values * fit, 2) + (0.3 if matches else 0.0)
        several = first and re.search("[\t;,]", lines[first - 1]) and lines[first - 1].lstrip()[0] not in "#%"
        if separator == "" and (values < 0.9 or several and best is not None):
            continue
        if best is None or score > best.score:
            best = _Layout(separator, rows, width, first, score)
        is_index = [row[0] for row in body[:5]] == list("12345")
        if separator == "," and not is_index and 1 < len(names) < width and 2 * len(names) >= width - 1 and body[0][-1] != "":
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


def _names(path: Path, top: list[str], layout: _Layout, rows: list[list[str]]):
    """Names and units of the columns, a note where they are from somewhere else, and how many lines on top hold them.

    From the line above the values, that above a line of units, LabChart's ``ChannelTitle=``, the last comment line or
    the JSON in one.
    """
    width, above = layout.width, layout.rows[: layout.first]
    keyed = {row[0].rstrip("="): row[1:] for row in above if row and re.fullmatch(r"\w+=", row[0])}
    if titles := keyed.get("ChannelTitle"):
        names = ["Time"] * (width > len(titles)) + titles[:width]
        return names, [], f"names of the columns from the line ChannelTitle=: {', '.join(titles)}", 0
    plain = [n for n, line in enumerate(top) if line.lstrip()[0] not in "#%"]
    last = [_as_wide(above[n], width, rows) for n in plain[-3:] if n >= layout.first - 3]
    last = last[-1:] if last and width == 1 and not _is_unit_row(last[-1]) else last
    for n_units in (1, 0):
        if len(last) > n_units and all(row is not None and _is_text(row) for row in last[len(last) - 1 - n_units :]):
            units = last[-1] if n_units else []
            if n_units and not (all(_UNIT.fullmatch(cell) for cell in units)):
                continue
            names = last[-1 - n_units]
            return _with_labels(names, top), units, "", 1 + n_units
        if n_units and len(last) > 1 and last[-2] and _is_text(last[-2]) and last[-1] and _is_unit_row(last[-1]):
            return _with_labels(last[-2], top), last[-1], "", 2
    comments = [line.strip().lstrip(" #%") for line in top if line.lstrip()[0] in "#%"]
    for comment in reversed(comments):
        if found := _names_in_json(comment, width):
            return found, [], "names of the columns from the JSON on top", 0
        names = _split([comment], layout.separator)[0]
        if comment == comments[-1] and len(names) == width and _is_text(names) and (width > 1 or len(names[0]) < 20):
            return names, [], "names of the columns from the last comment line", 0
    if plain and layout.first - 1 == plain[-1] and (bare := above[plain[-1]]) and len(bare) > 1 and _is_text(bare):
        problem = f"line of names has {len(bare)} cells, and lines of values have {width}"
        raise InputError(f"{path}: cannot be read as a table of numbers (the {problem}); name every column")
    return [""] * width, [], "", 0


def _as_wide(row: list[str], width: int, rows: list[list[str]]) -> list[str] | None:
    """A line of names as wide as the values: lines may end in a separator, or begin with an index without a name."""
    while len(row) > width and row[-1] == "":
        row = row[:-1]
    if len(row) == width - 1:
        is_index = all(cell[:1] == str(n) for n, cell in enumerate((r[0] for r in rows[:9]), start=1)) and len(rows) > 8
        ends_empty = np.mean([r[-1] == "" for r in rows]) > 0.5
        row = [*row, ""] if ends_empty else ["", *row] if is_index else row
    return row if width <= len(row) <= width + _MORE else None


def _is_text(row: list[str]) -> bool:
    """Whether a line could be one of names: text in it, and nothing that is a value."""
    filled = [cell for cell in row if cell]
    return bool(filled) and not any(_is_value(cell) for cell in filled)


def _is_unit_row(row: list[str]) -> bool:
    """Whether a line surely holds units: text, and nothing that is a value but a 1 or a dash."""
    filled = [cell for cell in row if cell]
    plain = all(cell in ("-", "1") for cell in filled if _is_value(cell))
    named = any(re.fullmatch(r"\W*(m?s|us|ns|min|[mu]?v|volts|nu|a\.?u\.?|%|bpm|hz)\W*", cell, re.I) for cell in filled)
    return plain and named and all(_UNIT.fullmatch(cell) for cell in row)


def _is_counts(row: list[str], following: list[str], n_rows: int, top: list[str]) -> bool:
    """Whether a row is what AcqKnowledge (Biopac) writes beneath the names: how many values each column has."""
    counts = {cell for cell in row if cell}
    if len(counts) != 1 or not (count := counts.pop()).isdigit():
        return False
    return (row[0] == "" and following[0] != "") or (abs(int(count) - n_rows) <= 2 and "sample" in " ".join(top))


def _with_labels(names: list[str], top: list[str]) -> list[str]:
    """Names ``CH1``, ``CH2`` with what AcqKnowledge says of these channels above: a label and a unit, line by line."""
    begin = next((n for n, line in enumerate(top) if re.fullmatch(r"\d+ channels?\s*", line.strip())), None)
    channels = [n for n, name in enumerate(names) if re.fullmatch(r"CH\d+", name)]
    if begin is None or not channels or len(top) < begin + 1 + 2 * len(channels):
        return names
    labels = dict(zip(channels, top[begin + 1 :: 2]))
    return [f"{name} {labels[n].strip()}" if n in labels else name for n, name in enumerate(names)]


def _names_in_json(comment: str, width: int) -> list[str] | None:
    """Names of the columns from the JSON that OpenSignals (PLUX, BITalino) writes on top; sensors name their columns."""
    try:
        device = next(iter(json.loads(comment).values())) if comment.startswith("{") else {}
    except (ValueError, AttributeError, StopIteration):
        return None
    columns, sensors = (device.get(key, []) for key in ("column", "sensor")) if isinstance(device, dict) else ([], [])
    if len(columns) != width:
        return None
    first = width - len(sensors)
    return [f"{name} {sensors[n - first]}" if n >= first else str(name) for n, name in enumerate(columns)]


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


def _read(path: Path, text: str, layout: _Layout, n_names: int, n_skipped: int) -> tuple[pd.DataFrame, str]:
    """The rows of values as text, columns numbered from 0, and which lines were bad."""
    separator, width = layout.separator, max(layout.width, n_names)
    cut, quoted = separator if separator.strip() or separator == "\t" else None, '"' in text
    lines = enumerate(text.split("\n")[n_skipped:], start=n_skipped + 1) if separator and not quoted else ()
    sizes = {n: len(line.split(cut)) for n, line in lines if line.strip()}
    is_even = not quoted and all(size == width for size in sizes.values())
    short = [n for n, size in sizes.items() if size < layout.width]  # many: a last cell in only some lines
    bad = sorted([n for n, size in sizes.items() if size > width + _MORE] + short * (len(short) < 0.02 * len(sizes)))
    if len(bad) > max(0.05 * len(sizes), 5):
        problem = f"{len(bad)} of {len(sizes)} lines have another number of cells, the first line {bad[0]}"
        raise InputError(f"{path}: cannot be read as a table of numbers ({problem}); all must have the same columns")
    how = {"header": None, "names": range(width + (0 if is_even else _MORE)), "skiprows": n_skipped, "dtype": str}
    try:
        cells = pd.read_csv(
            io.StringIO(text), sep=_FOR_PANDAS.get(separator, separator), skipinitialspace=True, na_filter=False,
            index_col=False, on_bad_lines="skip", **how,
        )  # fmt: skip
    except ValueError as error:
        problem = f"{str(error).strip()}; every line must have the same columns"
        raise InputError(f"{path}: cannot be read as a table of numbers ({problem})") from error
    cells = cells.fillna("")
    while len(cells) > 1 and not any(_is_value(c.strip(_QUOTES)) and c for c in cells.iloc[-1]):  # a line beneath it
        cells = cells.iloc[:-1]
    return cells, f"{len(bad)} bad line(s) taken as missing: line {', '.join(map(str, bad[:5]))}" if bad else ""
