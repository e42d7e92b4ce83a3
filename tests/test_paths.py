"""Where files lie, and that none is left half-written under its final name."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from p2es_lib import paths
from p2es_lib.errors import InputError, check_choice


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


def test_a_kill_leaves_no_half_written_file_under_the_final_name(tmp_path):
    target = tmp_path / "big.bin"
    program = (
        "import sys, time; from pathlib import Path; from p2es_lib.paths import atomic_path\n"
        f"with atomic_path(Path({str(target)!r})) as temporary:\n"
        "    temporary.write_bytes(b'half'); print('writing', flush=True); time.sleep(60)\n"
    )
    root = Path(paths.__file__).resolve().parent.parent
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=root)
    assert child.stdout.readline().strip() == b"writing"
    child.send_signal(signal.SIGKILL)
    child.wait(timeout=10)
    time.sleep(0.05)
    assert not target.exists()
    with paths.atomic_path(target) as temporary:
        temporary.write_bytes(b"whole")
    assert target.read_bytes() == b"whole"


def test_check_choice_names_setting_value_and_choices():
    assert check_choice("profile", "quick", ("smoke", "quick")) == "quick"
    with pytest.raises(InputError, match="profile='slow' is unknown; choose one of: smoke, quick"):
        check_choice("profile", "slow", ("smoke", "quick"))
