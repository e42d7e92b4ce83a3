"""Lists that threads and processes append to: what they say is always what the file says, and is not read twice."""

from __future__ import annotations

import os
from multiprocessing import get_context

import pytest

from p2es_lib.data.download.checksums import LineFile, append_line, parse_checksum


def parse(line):
    key, _, value = line.partition(" ")
    return (key, value) if value else None


@pytest.fixture
def counted(tmp_path):
    """A list, and the lines that were parsed so far."""
    lines = []
    return LineFile(tmp_path / "list", lambda line: lines.append(line) or parse(line)), lines


def test_each_line_is_read_once_however_often_the_list_is_asked(counted):
    file, lines = counted
    assert file.read() == {}
    for number in range(300):
        append_line(file.path, f"k{number} v{number}")
        assert file.read()[f"k{number}"] == f"v{number}" and file.read() is file.read()
    assert lines == [f"k{number} v{number}" for number in range(300)]


@pytest.mark.parametrize(
    "edit",
    [
        lambda path: path.write_text(path.read_text().replace("k3 v3\n", "")),
        lambda path: path.write_text(path.read_text().replace("k3 v3", "k3 w3")),  # as long as before
        lambda path: path.write_text(path.read_text().replace("k3 v3\n", "") + "k9 v9\nk10 v10\n"),  # longer
        lambda path: path.write_text(""),
        lambda path: path.unlink(),
    ],
)
def test_a_list_that_was_edited_by_hand_is_read_anew(counted, edit):
    file, _ = counted
    for number in range(6):
        append_line(file.path, f"k{number} v{number}")
    assert len(file.read()) == 6
    edit(file.path)
    os.path.exists(file.path) and os.utime(file.path, ns=(1, 1))  # a clock may be too coarse to show the edit
    expected = dict(map(parse, file.path.read_text().splitlines())) if file.path.exists() else {}
    assert file.read() == expected
    append_line(file.path, "k0 again")
    assert file.read() == expected | {"k0": "again"}


def test_a_list_that_was_replaced_by_a_longer_one_is_read_anew(counted):
    file, _ = counted
    append_line(file.path, "a 1")
    assert file.read() == {"a": "1"}
    other = file.path.with_name("other")
    other.write_text("b 1\nc 2\n")
    os.replace(other, file.path)
    assert file.read() == {"b": "1", "c": "2"}


def test_a_line_torn_by_a_kill_hides_no_other(tmp_path):
    file = LineFile(tmp_path / "list", parse_checksum)
    append_line(file.path, f"{'a' * 64}  one")
    with open(file.path, "a") as torn:
        torn.write("0123456789abc")
    assert file.read() == {"one": "a" * 64}
    append_line(file.path, f"{'b' * 64}  two")
    assert file.read() == {"one": "a" * 64, "two": "b" * 64}


def append_many(path, name):
    for number in range(300):
        append_line(path, f"{name}{number} {number}")


def test_two_processes_append_while_a_third_reads(counted):
    file, lines = counted
    context = get_context("spawn")
    processes = [context.Process(target=append_many, args=(file.path, name)) for name in "ab"]
    for process in processes:
        process.start()
    while any(process.is_alive() for process in processes):
        assert all(value == key[1:] for key, value in file.read().items())
    for process in processes:
        process.join()
    assert file.read() == {f"{name}{number}": str(number) for name in "ab" for number in range(300)}
    assert len(lines) == 600
