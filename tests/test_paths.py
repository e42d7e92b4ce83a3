"""Where files lie, and that none is left half-written under its final name."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from p2es_lib.core import paths
from p2es_lib.core.errors import InputError, check_choice


def test_home_moves_everything(tmp_path, monkeypatch):
    monkeypatch.setenv("P2ES_HOME", str(tmp_path / "elsewhere"))
    places = [
        paths.raw_dir("bidmc"), paths.windows_dir("bidmc", "quick"), paths.run_dir("bidmc", "quick", "p2es", 3),
        paths.figures_dir("bidmc", "quick"),
    ]  # fmt: skip
    assert [str(place.relative_to(tmp_path / "elsewhere")) for place in places] == [
        "data/raw/bidmc", "data/windows/bidmc-quick", "runs/bidmc/quick/p2es/seed3", "figures/bidmc-quick",
    ]  # fmt: skip
    monkeypatch.delenv("P2ES_HOME")
    assert paths.home() == paths.checkout()


def test_a_finished_file_takes_its_name_and_leaves_nothing_else(tmp_path):
    target = tmp_path / "new" / "table.csv"
    with paths.atomic_path(target) as temporary:
        assert temporary.suffix == ".csv" and not target.exists()
        temporary.write_text("one")
        assert not target.exists()
    with paths.atomic_path(target) as temporary:
        temporary.write_text("two")
        assert target.read_text() == "one"
    assert target.read_text() == "two" and os.listdir(target.parent) == ["table.csv"]


def test_an_error_leaves_the_old_file_and_no_temporary_one(tmp_path):
    target = tmp_path / "weights.bin"
    target.write_text("old")
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error), paths.atomic_path(target) as temporary:
            temporary.write_text("half")
            raise error
    assert target.read_text() == "old" and os.listdir(tmp_path) == ["weights.bin"]


def test_folders_replace_folders(tmp_path):
    target = tmp_path / "windows"
    for content in ("one", "two"):
        with paths.atomic_path(target) as temporary:
            temporary.mkdir()
            (temporary / content).touch()
    assert os.listdir(target) == ["two"] and os.listdir(tmp_path) == ["windows"]
    with pytest.raises(RuntimeError), paths.atomic_path(target) as temporary:
        temporary.mkdir()
        (temporary / "half").touch()
        raise RuntimeError
    assert os.listdir(target) == ["two"] and os.listdir(tmp_path) == ["windows"]


ROOT = Path(paths.__file__).resolve().parents[2]


def start_writer(target: Path, lines: str) -> subprocess.Popen:
    """A process that has begun to write ``target`` and then waits for a line on its standard input."""
    program = (
        "import sys; from pathlib import Path; from p2es_lib.core import paths\n"
        f"with paths.atomic_path(Path({str(target)!r})) as temporary:\n"
        f"    {lines}; print('writing', flush=True); sys.stdin.readline()\n"
    )
    child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
    assert child.stdout.readline().strip() == b"writing"
    return child


def kill(child: subprocess.Popen) -> None:
    child.send_signal(signal.SIGKILL)
    child.wait(timeout=10)


FOLDER = "temporary.mkdir(); (temporary / 'half').touch()"


def test_a_kill_leaves_no_half_written_file_and_the_next_writer_no_trace_of_it(tmp_path):
    target = tmp_path / "big.bin"
    kill(start_writer(target, "temporary.write_bytes(b'half')"))
    assert not target.exists() and len(os.listdir(tmp_path)) == 2
    with paths.atomic_path(target) as temporary:
        temporary.write_bytes(b"whole")
    assert target.read_bytes() == b"whole" and os.listdir(tmp_path) == ["big.bin"]


def test_leftovers_go_and_what_is_being_written_stays(tmp_path):
    """Two writers of one folder and one of another: the killed ones are cleared away, the living one ends its work."""
    kill(start_writer(tmp_path / "deep" / "one", FOLDER))
    kill(start_writer(tmp_path / "two", FOLDER))
    living = start_writer(tmp_path / "deep" / "one", FOLDER)
    paths.remove_leftovers(tmp_path)
    left = sorted(path.name for path in tmp_path.rglob("*"))
    assert len(left) == 4 and left[-2:] == ["deep", "half"] and left[1] == left[0].removesuffix(".lock") + ".lock"
    with paths.atomic_path(tmp_path / "deep" / "one") as temporary:  # nor does a second writer disturb the first
        temporary.mkdir()
        (temporary / "whole").touch()
    living.communicate(b"go on\n", timeout=20)
    assert living.returncode == 0
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == [
        "deep",
        "deep/one",
        "deep/one/half",
    ]


def test_where_no_lock_tells_a_day_without_a_change_decides(tmp_path, monkeypatch):
    old, new = (tmp_path / f".shard.tmp{number}" for number in (12, 34))
    for folder in (old, new):
        folder.mkdir()
        (folder / "windows.npy").touch()
    for path in (old / "windows.npy", old):
        os.utime(path, (time.time() - 90_000,) * 2)
    os.utime(new, (time.time() - 90_000,) * 2)  # but what is in it is being written
    paths.remove_leftovers(tmp_path)
    assert os.listdir(tmp_path) == [new.name]


def test_names_that_only_look_alike_stay(tmp_path):
    for name in (".hidden", ".notes.template", "shard.tmp12", ".tmp12", ".a.tmpx"):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (1, 1))
    paths.remove_leftovers(tmp_path)
    assert len(os.listdir(tmp_path)) == 5


def test_a_folder_is_never_taken_apart_under_its_own_name(tmp_path, monkeypatch):
    """A kill while the older folder is removed would leave a part of it, which looks whole to those who read it."""
    target = tmp_path / "shard"
    removed = []
    monkeypatch.setattr(paths.shutil, "rmtree", lambda path, **_: removed.append(Path(path)))
    for content in ("one", "two"):
        with paths.atomic_path(target) as temporary:
            temporary.mkdir()
            (temporary / content).touch()
    assert os.listdir(target) == ["two"] and target not in removed and len(removed) == 1
    assert os.listdir(removed[0]) == ["one"]


def test_writers_that_end_at_the_same_time_do_not_fail(tmp_path, monkeypatch):
    """Another process puts its folder in place between the two renames."""
    target, replace, busy = tmp_path / "shard", os.replace, []

    def replace_late(source, destination):
        if destination == target and not busy:
            busy.append(True)
            target.mkdir()
            (target / "other").touch()
        replace(source, destination)

    monkeypatch.setattr(paths.os, "replace", replace_late)
    with paths.atomic_path(target) as temporary:
        temporary.mkdir()
        (temporary / "mine").touch()
    assert busy and os.listdir(target) == ["mine"] and os.listdir(tmp_path) == ["shard"]


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
def test_make_clean_removes_what_was_left_unfinished(tmp_path):
    kept = [tmp_path / "data" / "prepared" / "one" / "shard.json", tmp_path / "data" / "raw" / ".a.tmp12"]
    gone = [tmp_path / "data" / "prepared" / ".one.tmp12" / "half", tmp_path / "data" / "windows" / "w",
            tmp_path / "data" / ".measure.tmp34" / "half"]  # fmt: skip
    for path in (*kept, *gone):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    environment = os.environ | {"P2ES_HOME": str(tmp_path)}
    subprocess.run(["make", "clean"], cwd=ROOT, env=environment, check=True, capture_output=True)
    assert [path.exists() for path in (*kept, *gone)] == [True, True, False, False, False]
    assert not (tmp_path / "data" / "prepared" / ".one.tmp12").exists()


def test_check_choice_names_setting_value_and_choices():
    assert check_choice("profile", "quick", ("smoke", "quick")) == "quick"
    with pytest.raises(InputError, match="profile='slow' is unknown.*smoke, quick"):
        check_choice("profile", "slow", ("smoke", "quick"))
