"""A PPG that arrives line by line: what is no number costs its line alone, and what is in doubt is told as it comes."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from p2es_lib.translation.check import UNPAIRED, WindowReport
from p2es_lib.translation.stream import COMMA, GARBLED, HEADER, MISSING, NumberLines, Warnings, read_number


def read(lines, size=2):
    told = []
    numbers = NumberLines(lines, size, told.append)
    return list(numbers), numbers, told


@pytest.mark.parametrize(
    ("line", "value", "kind"),
    [
        ("2.5\n", 2.5, ""),
        (" -3e2\r\n", -300, ""),
        ('"7"', 7, ""),
        ("0,513\n", 0.513, COMMA),
        ("\n", np.nan, MISSING),
        ("NA", np.nan, MISSING),
        ("nan", np.nan, MISSING),
        ("ppg", np.nan, GARBLED),
        ("0.5-", np.nan, GARBLED),
        ("0.1,0.2", np.nan, GARBLED),
        ("\ufffd\ufffd1", np.nan, GARBLED),
    ],
)
def test_one_line(line, value, kind):
    np.testing.assert_equal(read_number(line), (value, kind))


def test_numbers_come_in_chunks_and_the_last_one_may_be_shorter():
    parts, numbers, told = read(["1\n", "2.5\n", "3", "4", "-3e2"])
    assert [len(part) for part in parts] == [2, 2, 1] and not told and numbers.summary() == ""
    np.testing.assert_array_equal(np.concatenate(parts), [1, 2.5, 3, 4, -300])


def test_an_odd_line_costs_that_line_alone_and_is_counted_and_told():
    lines = ["device 7\n", "ppg\n", "0,5\n", "0.6\n", "NA\n", "0.7-\n", "x\n", "0,9\n"]
    parts, numbers, told = read(lines, 100)
    np.testing.assert_array_equal(np.concatenate(parts), [0.5, 0.6, np.nan, np.nan, np.nan, 0.9])
    assert numbers.odd == {HEADER: 2, COMMA: 2, MISSING: 1, GARBLED: 2, "": 0}
    assert [line.partition(",")[0] for line in told] == ["line 1", "line 3", "line 5", "line 6"], "each kind once"
    assert "'0.7-'" in told[-1]
    for kind in (HEADER, COMMA, MISSING, GARBLED):
        assert f"{kind}: {numbers.odd[kind]}" in numbers.summary()


def test_an_interrupt_while_waiting_ends_the_lines_and_loses_nothing():
    def lines():
        yield from ["1", "2", "3"]
        raise KeyboardInterrupt

    np.testing.assert_array_equal(np.concatenate(read(lines())[0]), [1, 2, 3])


def test_doubt_is_told_where_it_begins_and_ends():
    told, live = [], SimpleNamespace(direction="pulses point up", n_window=1024, rate=128.0)
    warnings = Warnings(live, told.append)
    warnings.take(SimpleNamespace(windows=()))
    assert not told, "nothing is known yet"
    doubts = ["", UNPAIRED, UNPAIRED, ""]
    reports = [WindowReport(7.0 * number, 0.9, doubt=doubt) for number, doubt in enumerate(doubts)]
    for report in [*reports, WindowReport(28.0, 0.0, "40 % missing")]:
        warnings.take(SimpleNamespace(windows=(report,)))
    assert told == [
        "pulses point up",
        f"7.0 to 15.0 s: WARNING: the ECG is in doubt: {UNPAIRED}",
        "21.0 to 29.0 s: not in doubt any more",
        "28.0 to 36.0 s: WARNING: the ECG is in doubt: no usable PPG: 40 % missing",
    ]
