"""The workflow's machinery on small notebooks: order, staleness, stop and resume, errors."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from functools import partial
from pathlib import Path

import pytest
from toy_workflow import dry_runs, make_toy_checkout, p2es_command, toy_environment, write_notebook

from p2es_lib.companion import workflow
from p2es_lib.companion.workflow import check_jobs, check_mirror, headline_table
from p2es_lib.core.errors import InputError
from p2es_lib.core.processes import exclusive_lock
from p2es_lib.experiments.variants import VARIANTS, seeds_of, variants_of

CHECKOUT = Path(__file__).resolve().parents[1]
RUN = Path("runs/simulated/smoke/p2es/seed0")
EXECUTED = Path("runs/simulated/smoke/notebooks")
KINDS = ("baselines", "ablations", "samplers", "more_steps", "references", "references_of_others")
N_STEPS = 40  # of the toy training, 0.25 s each: time enough to stop it on a busy machine


@pytest.fixture(scope="module")
def train_only(tmp_path_factory):
    """Toy checkout whose workflow is one training; tests leave it as it is."""
    return make_toy_checkout(tmp_path_factory.mktemp("train_only"), kernels=True) / "train_only.smk"


@pytest.fixture
def home(tmp_path):
    """Home where the windows of the smoke profile lie ready."""
    windows = tmp_path / "home" / "data" / "windows" / "simulated-smoke" / "settings.json"
    windows.parent.mkdir(parents=True)
    windows.write_text("{}")
    return tmp_path / "home"


def command(snakefile, *arguments):
    return p2es_command("reproduce", "--profile", "smoke", "--jobs", "2", "--snakefile", str(snakefile), *arguments)


def reproduce(snakefile, home, *arguments):
    """Run ``p2es reproduce`` to its end."""
    return subprocess.run(command(snakefile, *arguments), env=toy_environment(snakefile.parent, home), cwd=home.parent,
                          capture_output=True, text=True, timeout=400)  # fmt: skip


def start(snakefile, home, wrapper, made):
    """Start ``p2es reproduce`` and wait until that many steps of its training are made."""
    process = subprocess.Popen(
        [*wrapper, *command(snakefile)],
        env=toy_environment(snakefile.parent, home),
        cwd=home.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_for(lambda: steps(home) >= made, process)
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


def processor_time():
    times = os.times()
    return times.children_user + times.children_system


def started(result):
    return set(re.findall(r"^(\S+) \| started", result.stderr, re.M))


@pytest.mark.slow(seconds=100)
def test_everything_is_made_once_and_only_what_is_stale_again(tmp_path):
    checkout, home = make_toy_checkout(tmp_path / "checkout", kernels=False), tmp_path / "home"
    snakefile, notebooks, figures = checkout / "Snakefile", checkout / "notebooks", home / "figures" / "simulated-smoke"
    working = (notebooks / "02_forward_process.ipynb").read_text()

    # A step that fails does not stop the others; what it said is repeated at the end.
    write_notebook(
        notebooks,
        "02_forward_process",
        ["from p2es_lib.core.errors import InputError\nraise InputError('wrong thing')"],
    )
    first = reproduce(snakefile, home, "--seeds", "0,1")
    assert first.returncode == 1
    assert "05_train-p2es-seed1 | step 7" in first.stderr
    assert (figures / "table02_results.csv").is_file()
    tail = first.stderr[first.stderr.index("What went wrong") :]
    assert (
        "error: wrong thing" in tail
        and "02_forward_process.failed.ipynb" in tail
        and "continues with what is missing" in tail
    )
    assert "Traceback" not in first.stderr

    # Mended, only that step runs, and the solutions, which run its cells.
    (notebooks / "02_forward_process.ipynb").write_text(working)
    second = reproduce(snakefile, home, "--seeds", "0,1")
    assert second.returncode == 0, second.stderr
    assert started(second) == {"02_forward_process", "15_solutions"}
    names = [
        "01_data",
        "02_forward_process",
        "03_reverse_process",
        "04_affinity",
        *(f"05_train-{variant}-seed{seed}" for variant in ("no_affinity", "p2es", "unet") for seed in (0, 1)),
        "06_baselines",
        "07_results",
        "08_ablations",
        "09_clinical_validity",
        "10_robustness",
        "11_efficiency",
        "12_claims",
        "13_own_ppg",
        "15_solutions",
        "16_reference",
    ]
    uses = [name for kind in KINDS for name in variants_of("smoke", kind) if VARIANTS[name].weights_of]
    assert {f"score-{name}-seed{seed}" for name in uses for seed in (0, 1)} <= started(first)
    assert sorted(path.stem for path in (home / EXECUTED).glob("[0-9]*.ipynb")) == names
    for artefact in ("table02_results.csv", "table26_runs.csv", "fig09_overlay.png", "fig03_forward_process.png"):
        assert (figures / artefact).is_file() and artefact in second.stdout
    assert re.search(r"P2Es +0\.131 \[0\.120, 0\.142\]", second.stdout)

    # All done: nothing runs, also after an edit of the library, and quickly: 8 to 16 s of processor time, by its
    # speed, most of it for loading libraries.
    (checkout / "p2es_lib" / "core" / "config.py").touch()
    before = processor_time()
    third = reproduce(snakefile, home, "--seeds", "0,1")
    assert third.returncode == 0 and not started(third)
    assert processor_time() - before < 30
    assert "table02_results.csv" in third.stdout

    # What was deleted is made again, with what follows from it. An edited notebook runs again; when it fails, its old
    # results are gone, and what reads them waits.
    (figures / "table03_distance_to_floor.csv").unlink()
    (home / RUN.with_name("seed1") / "scores.parquet").unlink()
    (home / RUN.parent.with_name("steps_2") / "seed0" / "scores.parquet").unlink()
    edited = 'dataset = ""\nprofile = ""\nseeds = ""'
    write_notebook(notebooks, "08_ablations", ["assert False, 'edited'"], edited)
    # All that reads the scores of P2Es, seed 1, or uses its weights.
    following = (
        {name for name in names if "06" <= name < "14" or name == "16_reference"}
        | {f"score-{name}-seed1" for name in uses if VARIANTS[name].weights_of == "p2es"}
        | {"score-steps_2-seed0"}
    )
    fourth = reproduce(snakefile, home, "--seeds", "0,1")
    assert fourth.returncode == 1
    assert started(fourth) == {"05_train-p2es-seed1", *following} - {"12_claims"}
    assert fourth.stderr.count("error: notebook 08_ablations stopped in cell In [3]: AssertionError: edited") == 2
    assert not (figures / "table08_ablations.csv").exists() and (figures / "table02_results.csv").exists()

    (notebooks / "08_ablations.ipynb").unlink()  # its results are gone, so it is needed
    missing = reproduce(snakefile, home, "--seeds", "0,1")
    assert missing.returncode == 1 and "08_ablations.ipynb" in missing.stderr and "edited" not in missing.stderr


def test_every_run_that_the_tables_read_is_made_and_no_other(home):
    profiles = ("smoke", "quick", "wide", "full")
    plans = dry_runs([(home, {"profile": profile, "dataset": "simulated", "seeds": "0,1,2"}) for profile in profiles])
    for profile, plan in zip(profiles, plans, strict=True):
        runs = re.findall(rf"^    output: runs/simulated/{profile}/(\w+)/seed(\d+)/scores\.parquet", plan, re.M)
        names = ["p2es", *(name for kind in KINDS for name in variants_of(profile, kind))]
        wanted = sorted((name, str(seed)) for name in names for seed in seeds_of(profile, name, [0, 1, 2]))
        assert sorted(runs) == wanted, profile


@pytest.mark.slow(seconds=80)
def test_a_run_stopped_in_any_way_leaves_nothing_behind_and_continues(train_only, home):
    script = home.parent / "like_make.sh"
    script.write_text('"$@" --stop-with-parent &\nwait\n')
    stopped = 0
    for kill, status, wrapper in [
        (signal.SIGKILL, -signal.SIGKILL, ("sh", str(script))),  # make, killed: what it started ends too
        (signal.SIGKILL, -signal.SIGKILL, ()),
        (signal.SIGINT, 130, ()),
    ]:
        process = start(train_only, home, wrapper, made=stopped + 3)
        process.send_signal(kill)
        if wrapper:  # its pipe stays open in what it started, until that ends
            process.wait(timeout=60)
        else:
            output, _ = process.communicate(timeout=60)
            assert kill == signal.SIGKILL or "the same command continues" in output
        assert process.returncode == status
        wait_for(lambda: not processes_in(home))
        stopped = steps(home)
        assert stopped < N_STEPS
        assert not (home / RUN / "scores.parquet").exists()
        assert not list((home / EXECUTED).glob("05_train*.ipynb"))

    again = reproduce(train_only, home)
    assert (home / RUN / "scores.parquet").exists(), again.stderr
    # A step may have been logged without its checkpoint: at each stop at most that one is made twice.
    assert 0 <= steps(home) - N_STEPS <= 3
    assert not list((home / EXECUTED).glob(".*tmp*"))


def test_a_second_call_at_the_same_time_is_refused(home, monkeypatch):
    monkeypatch.setenv("P2ES_HOME", str(home))
    monkeypatch.setattr(workflow, "exclusive_lock", partial(exclusive_lock, wait_s=0.0))
    with (
        exclusive_lock(home / ".snakemake" / "p2es-simulated-smoke.lock", what="x"),
        pytest.raises(InputError, match=rf"simulated.*smoke.*{os.getpid()}"),
    ):
        workflow.reproduce("simulated", "smoke", seeds=[0])


# --- settings and the headline table ----------------------------------------------------------------------------------


def test_jobs():
    assert check_jobs(3) == 3
    assert 1 <= check_jobs(None) <= os.cpu_count()
    with pytest.raises(InputError, match="jobs=0"):
        check_jobs(0)


def test_a_relative_mirror_is_made_absolute_and_a_wrong_one_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("P2ES_MIRROR", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mirror" / "bidmc").mkdir(parents=True)
    assert check_mirror("bidmc", "mirror") == str(tmp_path / "mirror")
    assert check_mirror("bidmc", None) == ""
    assert check_mirror("simulated", None) == ""
    for dataset, mirror, message in [
        ("bidmc", "nowhere", "nowhere.*no such folder"),
        ("mimic4wdb", "mirror", "no folder 'mimic4wdb'"),
        ("simulated", "mirror", "leave the mirror out"),
    ]:
        with pytest.raises(InputError, match=message):
            check_mirror(dataset, mirror)
    monkeypatch.setenv("P2ES_MIRROR", "nowhere")
    with pytest.raises(InputError, match="nowhere.*no such folder"):
        check_mirror("bidmc", None)


def test_headline_table_shows_intervals_where_there_are_any(tmp_path, monkeypatch):
    monkeypatch.setenv("P2ES_HOME", str(tmp_path))
    with pytest.raises(InputError, match="table02.*p2es reproduce --dataset bidmc"):
        headline_table("bidmc", "quick")
    figures = tmp_path / "figures" / "bidmc-quick"
    figures.mkdir(parents=True)
    rows = [
        "A,all,rmse,0.2,0.1,0.3,7,2",
        "A,all,pearson,0.5,0.4,0.6,7,2",
        "B,all,rmse,0.15,,,7,2",
        "A,V1,rmse,9,9,9,7,2",
    ]
    (figures / "table02_results.csv").write_text(
        "\n".join(["method,lead,metric,value,lower,upper,n_subjects,seeds", *rows])
    )
    lines = headline_table("bidmc", "quick").splitlines()
    assert re.split(r"\s{2,}", lines[0]) == ["method", "RMSE (mV)", "Pearson r"]
    assert re.split(r"\s{2,}", lines[2]) == ["A", "0.200 [0.100, 0.300]", "0.500 [0.400, 0.600]"]
    assert lines[3].split() == ["B", "0.150"]
    assert lines[-1].endswith("7 test subject(s), 2 seed(s); [95 % interval]")
