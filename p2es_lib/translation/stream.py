"""A PPG that arrives as text, one sample per line, and what is told while it is translated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from p2es_lib.translation.live import EcgBlock, LiveTranslator

#: What a line may be that is no plain number.
HEADER, COMMA, MISSING, GARBLED = "header left out", "decimal comma", "missing sample", "no number: a missing sample"
_NO_VALUE = ("", "nan", "na", "n/a", "null", "none", "-")


class NumberLines:
    """Numbers of lines of text, in chunks of ``size`` (at most, at the end): what a line holds costs no other line.

    What stands before the first number is a header and no sample. From then on each line is a sample, so that the clock
    goes on: a decimal comma is read as a point; an empty line, ``NA`` and the like are missing (NaN), and so is a line
    that is no number. The first line of each kind is told, and ``odd`` counts them. An interrupt ends the lines.
    """

    def __init__(self, lines: Iterable[str], size: int, tell: Callable[[str], None]):
        self.lines, self.size, self.tell = lines, size, tell
        self.odd: Counter[str] = Counter()

    def __iter__(self) -> Iterator[np.ndarray]:
        chunk, begun = [], False
        for number, line in enumerate(until_interrupted(self.lines), start=1):
            value, kind = read_number(line)
            kind = HEADER if kind == GARBLED and not begun else kind
            if kind and kind not in self.odd:
                self.tell(f"line {number}, {line.strip()[:40]!r}: {kind}; from now on such lines are counted")
            self.odd[kind] += bool(kind)
            begun |= kind in ("", COMMA)
            if kind != HEADER:
                chunk.append(value)
            if len(chunk) == self.size:
                yield np.array(chunk)
                chunk = []
        if chunk:
            yield np.array(chunk)

    def summary(self) -> str:
        """How many lines were odd; "" if none."""
        counts = [f"{kind}: {count}" for kind, count in self.odd.items() if count]
        return f"lines of the input: {', '.join(counts)}" if counts else ""


def until_interrupted(lines: Iterable[str]) -> Iterator[str]:
    """The lines until they end, or until the user interrupts the waiting for the next one."""
    if hasattr(lines, "reconfigure"):
        lines.reconfigure(errors="replace")  # bytes that are no text garble their line alone
    try:
        yield from lines
    except KeyboardInterrupt:
        return


def read_number(line: str) -> tuple[float, str]:
    """Value of a line (NaN: none), and what is odd about it, or ""."""
    text = line.strip().strip("\"'\ufeff")
    if text.lower() in _NO_VALUE:
        return np.nan, MISSING
    for candidate, kind in ((text, ""), (text.replace(",", "."), COMMA)):
        try:
            return float(candidate), kind
        except ValueError:
            continue
    return np.nan, GARBLED


class Warnings:
    """Tells which way the pulses point and which windows are in doubt, as they come, where that changes."""

    def __init__(self, live: LiveTranslator, tell: Callable[[str], None]):
        self.live, self.tell = live, tell
        self._direction, self._doubt = "", ""

    def take(self, block: EcgBlock) -> None:
        """Tell what the windows of the next block bring."""
        if block.windows and (direction := self.live.direction) != self._direction:
            self.tell(direction)
            self._direction = direction
        for window in block.windows:
            doubt = f"no usable PPG: {window.refused}" if window.refused else window.doubt
            if doubt != self._doubt:
                end_s = window.start_s + self.live.n_window / self.live.rate
                said = f"WARNING: the ECG is in doubt: {doubt}" if doubt else "not in doubt any more"
                self.tell(f"{window.start_s:.1f} to {end_s:.1f} s: {said}")
            self._doubt = doubt
