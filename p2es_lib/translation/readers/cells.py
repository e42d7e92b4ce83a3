"""What stands in the cells of a line of text: numbers, times, packets of numbers, marks of missing values, names."""

import csv
import re
from typing import NamedTuple

#: Cells more than usual that a line may have (comments, triggers).
MORE_CELLS = 8
QUOTES = "'\" \u00a0"
# As people write them, as spreadsheets write errors, and as C does on Linux and on Windows.
MISSING = {
    "", "nan", "na", "n/a", "n.a.", "<na>", "nat", "null", "none", "-", "--", "?", ".", "missing", "inf", "-inf",
    "+inf", "#n/a", "#na", "#nv", "#num!", "#zahl!", "#div/0!", "#value!", "#wert!", "#ref!", "-nan", "+nan",
    "nan(ind)", "-nan(ind)", "nan(snan)", "1.#qnan", "-1.#qnan", "1.#ind", "-1.#ind", "1.#inf", "-1.#inf",
}  # fmt: skip
_DIGITS = r"[+-]?(?:\d+(?:[.,]\d*)?|[.,]\d+)(?:e[+-]?\d+)?"
NUMBER = re.compile(_DIGITS, re.IGNORECASE)
TIME = re.compile(r"\[?\d{1,4}[-./]\d{1,2}[-./]\d{1,4}([T ].*)?|\[?\d{1,2}:\d{2}.*|\d{4}-\d{2}-\d{2}T.*|0 days.*")
#: A cell that holds a packet of values.
PACKET = re.compile(
    rf"[\[({{]\s*{_DIGITS}(?:\s*[;,|\s]\s*{_DIGITS})*\s*[\])}}]|{_DIGITS}(?:\s*[;,|\s]\s*{_DIGITS}){{2,}}",
    re.IGNORECASE,
)
UNIT = re.compile(r"[\[(]?[A-Za-zµμΩ%°#./*^²:()\d\- ]{0,40}[\])]?")


class Layout(NamedTuple):
    """How lines are split: the separator, the usual number of cells, the first line of values, and how well it fits."""

    separator: str
    rows: list[list[str]]
    width: int
    first: int
    score: float


def split(lines: list[str], separator: str) -> list[list[str]]:
    """Cells of each line, without quotes and blanks around them."""
    if separator in (" ", ""):
        rows = [line.split() if separator else [line] for line in lines]
    else:
        rows = csv.reader(lines, delimiter=separator, skipinitialspace=True)
    return [[cell.strip(QUOTES) for cell in row] for row in rows]


def is_value(cell: str) -> bool:
    """A number, a time, a packet of numbers, or the mark of a missing value."""
    return bool(cell.lower() in MISSING or NUMBER.fullmatch(cell) or TIME.fullmatch(cell) or PACKET.fullmatch(cell))


def holds_values(row: list[str]) -> bool:
    """Whether at least half of the cells that are filled are values, and one is more than the mark of a gap."""
    filled = [cell for cell in row if cell]
    values = [cell for cell in filled if is_value(cell)]
    return 2 * len(values) >= max(len(filled), 1) and any(cell.lower() not in MISSING for cell in values)


def is_text(row: list[str]) -> bool:
    """Whether a line could be one of names: text in it, and nothing that is a value."""
    filled = [cell for cell in row if cell]
    return bool(filled) and not any(is_value(cell) for cell in filled)
