"""The workflow's machinery on small notebooks: order, staleness, stop and resume, errors."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from toy_workflow import make_toy_checkout, p2es_command, toy_environment, write_notebook

from p2es_lib.errors import InputError
from p2es_lib.workflow import check_jobs, check_mirror, headline_table

RUN = Path("runs/simulated/smoke/p2es/seed0")
EXECUTED = Path("runs/simulated/smoke/notebooks")


@pytest.fixture
def checkout(tmp_path):
    return make_toy_checkout(tmp_path / "checkout")


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


def reproduce(checkout, home, *arguments):
    """Run ``p2es reproduce`` to its end."""
    command = p2es_command("reproduce", "--profile", "smoke", "--jobs", "2", *arguments)
    return subprocess.run(command, env=toy_environment(checkout, home), cwd=home.parent, capture_output=True, text=True, timeout=240)


def start(checkout, home):
    """Start ``p2es reproduce`` and wait until its training has made three steps."""
    command = p2es_command("reproduce", "--profile", "smoke", "--jobs", "2")
    process = subprocess.Popen(command, env=toy_environment(checkout, home), cwd=home.parent, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True)  # fmt: skip
    wait_for(lambda: steps(home) >= 3, process)
    return process


def wait_for(condition, process=None, timeout_s=120):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert process is None or process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.05)


def steps(home):
    log = home / RUN / "log.txt"
    return len(log.read_text().split()) if log.exists() else 0


def processes_in(home):
    """Command lines of live processes whose environment names this home."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and str(home).encode() in (entry / "environ").read_bytes():
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            pass
    return found


def test_everything_is_made_once_and_only_what_is_stale_again(checkout, home):
    first = reproduce(checkout, home, "--seeds", "0,1")
    assert first.returncode == 0, first.stderr
    for artefact in ("table02_results.csv", "fig09_overlay.png", "fig04_reverse_process.png"):
        assert (home / "figures/simulated-smoke" / artefact).is_file() and artefact in first.stdout
    assert re.search(r"P2Es +0\.131 \[0\.120, 0\.142\]", first.stdout)
    assert "05_train-p2es-seed1 | step 7" in first.stderr and "8 of 8 steps" in first.stderr
    names = ["01_data", "02_forward_process", "03_reverse_process", "04_affinity", "05_train-p2es-seed0", "05_train-p2es-seed1", "07_results"]
    assert sorted(path.stem for path in (home / EXECUTED).glob("[0-9]*.ipynb")) == names

    begin = time.monotonic()
    again = reproduce(checkout, home, "--seeds", "0,1")
    assert again.returncode == 0 and time.monotonic() - begin < 15
    assert " | " not in again.stderr, "a finished workflow ran something"
    assert "table02_results.csv" in again.stdout

    # An edited notebook runs again with what follows from it, and nothing else; an edited library starts nothing.
    (checkout / "p2es_lib" / "plots" / "__init__.py").touch()
    write_notebook(checkout / "notebooks", "07_results", ["assert False, 'edited'"], 'dataset = ""\nprofile = ""\nvariant = ""\nseeds = ""')
    edited = reproduce(checkout, home, "--seeds", "0,1")
    assert edited.returncode == 1
    assert set(re.findall(r"^(\S+) \| started", edited.stderr, re.M)) == {"07_results"}
    assert edited.stderr.count("error: notebook 07_results stopped in cell In [3]: AssertionError: edited") == 2  # and at the end
    assert (home / EXECUTED / "07_results.failed.ipynb").is_file()
    assert not (home / "figures/simulated-smoke/table02_results.csv").exists(), "results of another notebook are still there"


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_leaves_nothing_behind_and_continues(checkout, home, kill):
    process = start(checkout, home)
    process.send_signal(kill)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == (-kill if kill == signal.SIGKILL else 130)
    assert kill == signal.SIGKILL or "the same command continues" in output
    wait_for(lambda: not processes_in(home), timeout_s=20)
    done = steps(home)
    assert 3 <= done < 8
    assert not (home / RUN / "scores.parquet").exists()
    assert not list((home / EXECUTED).glob("05_train*.ipynb"))

    again = reproduce(checkout, home)
    assert again.returncode == 0, again.stderr
    # A step may have been logged without its checkpoint: at most that one is made twice.
    assert len((home / RUN / "log.txt").read_text().split()) - 8 in (0, 1)
    assert "01_data | started" not in again.stderr
    assert not list((home / EXECUTED).glob(".*tmp*"))


def test_a_second_call_at_the_same_time_is_refused(checkout, home):
    process = start(checkout, home)
    try:
        second = reproduce(checkout, home)
        assert second.returncode == 2
        assert "the workflow for simulated, profile smoke is being run by another process" in second.stderr
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)


def test_killing_make_stops_what_it_started(checkout, home, tmp_path):
    """The Makefile asks for --stop-with-parent."""
    script = tmp_path / "like_make.sh"
    command = " ".join(p2es_command("reproduce", "--profile", "smoke", "--jobs", "2", "--stop-with-parent"))
    script.write_text(f"{command} &\nwait\n")
    process = subprocess.Popen(["sh", str(script)], env=toy_environment(checkout, home), cwd=tmp_path, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True)  # fmt: skip
    wait_for(lambda: steps(home) >= 1, process)
    process.kill()
    process.wait()
    wait_for(lambda: not processes_in(home), timeout_s=30)
    assert steps(home) < 8


def test_one_failed_step_does_not_stop_the_others(checkout, home):
    write_notebook(checkout / "notebooks", "02_forward_process", ["from p2es_lib.errors import InputError\nraise InputError('wrong thing')"])
    result = reproduce(checkout, home)
    assert result.returncode == 1
    assert (home / "figures/simulated-smoke/table02_results.csv").is_file()
    tail = result.stderr[result.stderr.index("What went wrong") :]
    assert "error: wrong thing" in tail and "02_forward_process.failed.ipynb" in tail and "continues with what is missing" in tail
    assert "Traceback" not in result.stderr


def test_a_missing_notebook_is_named(checkout, home):
    shutil.move(checkout / "notebooks" / "04_affinity.ipynb", checkout / "away")
    result = reproduce(checkout, home)
    assert result.returncode == 1 and "04_affinity.ipynb" in result.stderr


# --- settings and the headline table ----------------------------------------------------------------------------------


def test_jobs():
    assert check_jobs(3) == 3
    assert 1 <= check_jobs(None) <= os.cpu_count()
    with pytest.raises(InputError, match="jobs=0"):
        check_jobs(0)


def test_a_relative_mirror_is_made_absolute_and_a_missing_one_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mirror").mkdir()
    assert check_mirror("bidmc", "mirror") == str(tmp_path / "mirror")
    assert check_mirror("bidmc", None) == ""
    assert check_mirror("simulated", "not there") == ""  # nothing is read from it
    with pytest.raises(InputError, match="nowhere.*no such folder"):
        check_mirror("bidmc", "nowhere")


def test_headline_table_shows_intervals_where_there_are_any(tmp_path, monkeypatch):
    monkeypatch.setenv("P2ES_HOME", str(tmp_path))
    with pytest.raises(InputError, match="table02_results.csv.*make it with: p2es reproduce --dataset bidmc --profile quick"):
        headline_table("bidmc", "quick")
    figures = tmp_path / "figures" / "bidmc-quick"
    figures.mkdir(parents=True)
    rows = ["A,all,rmse,0.2,0.1,0.3,7,2", "A,all,pearson,0.5,0.4,0.6,7,2", "B,all,rmse,0.15,,,7,2", "A,V1,rmse,9,9,9,7,2"]
    (figures / "table02_results.csv").write_text("\n".join(["method,lead,metric,value,lower,upper,n_subjects,seeds", *rows]))
    lines = headline_table("bidmc", "quick").splitlines()
    assert re.split(r"\s{2,}", lines[0]) == ["method", "RMSE (mV)", "Pearson r"]
    assert re.split(r"\s{2,}", lines[2]) == ["A", "0.200 [0.100, 0.300]", "0.500 [0.400, 0.600]"]
    assert lines[3].split() == ["B", "0.150"]
    assert lines[-1].endswith("7 test subjects, 2 seed(s); [95 % interval]")
