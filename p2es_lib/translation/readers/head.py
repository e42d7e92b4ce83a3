"""What the lines above the values say: names of the columns, their units, and the sampling rate."""

import json
import re
from pathlib import Path

import numpy as np

from p2es_lib.core.errors import InputError
from p2es_lib.translation.readers.cells import MORE_CELLS, UNIT, Layout, is_text, is_value, split

_NUMBER = r"(\d+(?:[.,]\d+)?(?:e[+-]?\d+)?)"
_SECONDS = {"s": 1.0, "sec": 1.0, "second": 1.0, "ms": 1e-3, "msec": 1e-3, "us": 1e-6, "µs": 1e-6, "usec": 1e-6}
_UNIT = r"(us|µs|usec|ms|msec|s|sec|seconds?)\b"
_RATE_WORDS = (
    r"(?:sampl(?:e|ing)[\s_-]*(?:rate|freq(?:uency)?)|samples?\s*(?:per|/)\s*s(?:ec(?:ond)?)?|samplerate|srate|"
    r"samplingfrequency|sfreq|\bfs\b|abtast(?:rate|frequenz)|fr[eé]quence d.[eé]chantillonnage|frecuencia de muestreo|"
    r"frequenza di campionamento)"
)
# A rate behind its name, a rate before "samples per second", a step behind its name, and a step "per sample".
_RATES = [rf"{_RATE_WORDS}[^\d\n]{{0,20}}?{_NUMBER}\s*(k?)(?:hz|sps|$|\W)"]
_RATES += [rf"{_NUMBER}\s*(k?)\s*(?:samples?\s*(?:per|/)\s*s|sps\b)"]
_STEP_WORDS = r"(?:interval|sampl\w*[\s_-]*(?:period|interval|time)|delta[\s_-]?t|\bdt)"
_STEPS = [rf"{_STEP_WORDS}\W{{0,8}}{_NUMBER}\s*{_UNIT}", rf"{_STEP_WORDS}\W*{_UNIT}\W{{1,8}}{_NUMBER}"]
_STEPS += [rf"{_NUMBER}\s*{_UNIT}\s*(?:/|per)\s*sample"]
# A rate alone in its line, behind a sign, or behind the signal's name: not that of a filter.
_BARE = rf"(?:^\W*|@\s*|ppg[\s_,(]*){_NUMBER}\s*(k?)hz\W*$"


def find_rate(lines: list[str]) -> tuple[float | None, str]:
    """Sampling rate (Hz) that lines of text state, and the words; None and "" where none does, or they differ."""
    of_ppg = [line for line in lines if re.search("ppg|pleth|pulse", line, re.IGNORECASE)]
    if 0 < len(of_ppg) < len(lines) and (own := find_rate(of_ppg))[0]:
        return own
    found: dict[float, str] = {}
    for patterns, rate_of in ((_RATES, _by_rate), (_STEPS, _by_step), ([_BARE], _by_rate)):
        for line in lines:
            for pattern in patterns:
                for match in re.finditer(pattern, line, re.IGNORECASE | re.MULTILINE):
                    rate = rate_of(match)
                    if 1.0 <= rate <= 100_000.0:
                        found.setdefault(round(rate, 6), match[0].strip())
        if found:
            break
    return next(iter(found.items())) if len(found) == 1 else (None, "")


def _by_rate(match: re.Match) -> float:
    return float(match[1].replace(",", ".")) * (1000.0 if match[2] else 1.0)


def _by_step(match: re.Match) -> float:
    number, unit = match.groups() if match[1][0].isdigit() else match.groups()[::-1]
    unit = unit.lower().rstrip("s") if unit.lower().startswith("sec") else unit.lower()
    step_s = float(number.replace(",", ".")) * _SECONDS[unit]
    return 1 / step_s if step_s > 0 else 0.0


def find_names(path: Path, top: list[str], layout: Layout, rows: list[list[str]]):
    """Names and units of the columns, a note where they are from somewhere else, and how many lines on top hold them.

    From the line above the values, that above a line of units, LabChart's ``ChannelTitle=``, the last comment line or
    the JSON in one.
    """
    width, above = layout.width, layout.rows[: layout.first]
    wide = above[-4:] if len(above) > 2 and width > 1 else []
    if len(wide) > 2 and all(len(row) == width and is_text(row) for row in wide[-3:]) and _is_unit_row(wide[-1]):
        stacked = [row for row in wide[:-1] if len(row) == width and is_text(row)]  # device, signal, how it was made
        return [" ".join(filter(None, cells)) for cells in zip(*stacked)], wide[-1], "", len(stacked) + 1
    keyed = {row[0].rstrip("="): row[1:] for row in above if row and re.fullmatch(r"\w+=", row[0])}
    if titles := keyed.get("ChannelTitle"):
        names = ["Time"] * (width > len(titles)) + titles[:width]
        return names, [], f"names of the columns from the line ChannelTitle=: {', '.join(titles)}", 0
    plain = [n for n, line in enumerate(top) if line.lstrip()[0] not in "#%"]
    last = [_as_wide(above[n], width, rows) for n in plain[-3:] if n >= layout.first - 3]
    last = last[-1:] if last and width == 1 and not _is_unit_row(last[-1]) else last
    for n_units in (1, 0):
        if len(last) > n_units and all(row is not None and is_text(row) for row in last[len(last) - 1 - n_units :]):
            units = last[-1] if n_units else []
            if n_units and not (all(UNIT.fullmatch(cell) for cell in units)):
                continue
            names = last[-1 - n_units]
            return _with_labels(names, top), units, "", 1 + n_units
        if n_units and len(last) > 1 and last[-2] and is_text(last[-2]) and last[-1] and _is_unit_row(last[-1]):
            return _with_labels(last[-2], top), last[-1], "", 2
    comments = [line.strip().lstrip(" #%") for line in top if line.lstrip()[0] in "#%"]
    for comment in reversed(comments):
        if found := _names_in_json(comment, width):
            return found, [], "names of the columns from the JSON on top", 0
        names = split([comment], layout.separator)[0]
        if comment == comments[-1] and len(names) == width and is_text(names) and (width > 1 or len(names[0]) < 20):
            return names, [], "names of the columns from the last comment line", 0
    if plain and layout.first - 1 == plain[-1] and (bare := above[plain[-1]]) and len(bare) > 1 and is_text(bare):
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
    return row if width <= len(row) <= width + MORE_CELLS else None


def _is_unit_row(row: list[str]) -> bool:
    """Whether a line surely holds units: text, and nothing that is a value but a 1 or a dash."""
    filled = [cell for cell in row if cell]
    plain = all(cell in ("-", "1") for cell in filled if is_value(cell))
    named = any(re.fullmatch(r"\W*(m?s|us|ns|min|[mu]?v|volts|nu|a\.?u\.?|%|bpm|hz)\W*", cell, re.I) for cell in filled)
    return plain and named and all(UNIT.fullmatch(cell) for cell in row)


def is_counts(row: list[str], following: list[str], n_rows: int, top: list[str]) -> bool:
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
    """Names of the columns from the JSON that OpenSignals (PLUX, BITalino) writes on top, with those of sensors."""
    try:
        device = next(iter(json.loads(comment).values())) if comment.startswith("{") else {}
    except (ValueError, AttributeError, StopIteration):
        return None
    columns, sensors = (device.get(key, []) for key in ("column", "sensor")) if isinstance(device, dict) else ([], [])
    if len(columns) != width:
        return None
    first = width - len(sensors)
    return [f"{name} {sensors[n - first]}" if n >= first else str(name) for n, name in enumerate(columns)]
