"""The command line: quick help, and one clear line with exit status 2 for every wrong input."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest
from toy_workflow import p2es_command

from p2es_lib import __version__
from p2es_lib.cli import main
from p2es_lib.companion.notebooks import NotebookError
from p2es_lib.core.config import PROFILES


@pytest.fixture
def p2es(home, monkeypatch, capsys):
    """Run the command in this process: returns exit status, standard output, standard error."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["p2es", *arguments])
        with pytest.raises(SystemExit) as ended:
            main.main()
            raise SystemExit(0)
        return (ended.value.code or 0, *capsys.readouterr())

    return run


def test_help_and_version_answer_at_once():
    before = os.times()
    result = subprocess.run(p2es_command("--help"), capture_output=True, text=True)
    after = os.times()
    assert result.returncode == 0
    assert all(command in result.stdout for command in ("notebook", "reproduce", "translate", "table"))
    assert "..." not in result.stdout.partition("Commands:")[2], (
        "the first line of a command's help is too long for the list"
    )
    # Processor time, as other tests run beside this one.
    assert after.children_user + after.children_system - before.children_user - before.children_system < 1.0
    assert subprocess.run(p2es_command("--version"), capture_output=True, text=True).stdout.split() == [
        "p2es",
        __version__,
    ]


@pytest.mark.parametrize("command", [("reproduce",), ("notebook", "01_data"), ("score",), ("table",)], ids=" ".join)
@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--profile", "tiny"), "profile='tiny' is unknown; choose one of: " + ", ".join(PROFILES)),
        (("--dataset", "mars"), "dataset='mars' is unknown; choose one of: "),
    ],
    ids=["profile", "dataset"],
)
def test_unknown_profile_or_data_set(p2es, home, command, option, message):
    status, _, stderr = p2es(*command, *option)
    assert status == 2
    assert stderr.startswith("error: ") and message in stderr and len(stderr.splitlines()) == 1
    assert not home.exists(), "something was written"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("reproduce", "--seeds", "0,x"), "seeds='0,x'"),
        (("reproduce", "--seeds", "-1"), "seeds='-1'"),
        (("reproduce", "--jobs", "0"), "jobs=0"),
        (("reproduce", "--dataset", "bidmc", "--mirror", "no/such/folder"), "mirror='no/such/folder': no such folder"),
        (("reproduce", "--dataset", "bidmc", "--mirror", "ftp://host/x"), "mirror='ftp://host/x'"),
        (("notebook", "99_nothing"), "notebook '99_nothing' is unknown"),
        (("notebook", "01_data", "--seed", "1"), "notebook 01_data has no parameter 'seed'"),
        (("notebook", "02_forward_process", "--mirror", "."), "notebook 02_forward_process has no parameter 'mirror'"),
        (("notebook", "05_train", "--variant", "best"), "variant='best' is unknown; choose one of: p2es"),
        (("notebook", "05_train", "--seed", "-1"), "seed=-1"),
        (("notebook", "07_results", "--seeds", ""), "seeds=''"),
        (("notebook", "05_train", "--timeout", "-5"), "timeout=-5"),
        (
            ("score", "--variant", "p2es"),
            "variant p2es is scored where it is trained: p2es notebook 05_train --variant p2es",
        ),
        (
            ("score", "--variant", "steps_2"),
            "weights.safetensors: this run is missing; make it with: p2es notebook 05_train --variant p2es",
        ),
        (("table", "--profile", "smoke"), "table02_results.csv: this table is missing; make it with: p2es reproduce"),
        (("translate", "no_such_record", "--out", "OUT", "--age", "-3"), "age"),
        (("translate", "no_such_record", "--out", "OUT", "--age", "300"), "age"),
        (("translate", "no_such_record", "--out", "OUT", "--sex", "X"), "sex"),
        (("translate", "no_such_record", "--out", "OUT", "--samples", "0"), "samples"),
        (("translate", "no_such_record", "--out", "OUT", "--model", "no_such_model"), "no_such"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_input_is_named(p2es, home, tmp_path, arguments, message):
    out = tmp_path / "out"
    status, _, stderr = p2es(*(str(out) if argument == "OUT" else argument for argument in arguments))
    assert status == 2, stderr
    assert stderr.startswith("error: ") and message in stderr
    assert "Traceback" not in stderr
    assert not out.exists() and not list(tmp_path.rglob("*.ipynb")), "something was written"


@pytest.mark.parametrize(
    "arguments", [("--nonsense",), ("reproduce", "--jobs", "many"), ("translate", "record"), ("walk",)], ids=" ".join
)
def test_wrong_usage(p2es, arguments):
    status, _, stderr = p2es(*arguments)
    assert status == 2 and "Usage:" in stderr and "Error" in stderr


def test_a_failed_notebook_is_not_wrong_input(p2es, monkeypatch):
    def fail(*_, **__):
        raise NotebookError("notebook 05_train stopped")

    monkeypatch.setattr("p2es_lib.companion.notebooks.run_notebook", fail)
    monkeypatch.setattr("p2es_lib.companion.notebooks.check_parameters", lambda *_: None)
    monkeypatch.setattr("p2es_lib.companion.notebooks.read_parameters", lambda *_: {"seed": 0, "variant": "p2es"})
    assert p2es("notebook", "05_train") == (1, "", "error: notebook 05_train stopped\n")


def test_an_interrupt_says_that_the_next_call_continues(p2es, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("p2es_lib.companion.workflow.reproduce", interrupt)
    status, _, stderr = p2es("reproduce")
    assert status == 130 and "the same command continues" in stderr


def test_a_programming_error_keeps_its_traceback(home, monkeypatch):
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr("sys.argv", ["p2es", "table"])
    monkeypatch.setattr("p2es_lib.companion.workflow.headline_table", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main.main()


def test_notebook_passes_on_what_was_given_and_names_the_output_after_it(p2es, home, monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(
        "p2es_lib.companion.notebooks.run_notebook", lambda *arguments, **options: calls.append((arguments, options))
    )
    monkeypatch.setattr("p2es_lib.companion.notebooks.check_parameters", lambda *_: None)
    known = {"dataset": "simulated", "profile": "quick", "variant": "p2es", "seed": 0}
    monkeypatch.setattr("p2es_lib.companion.notebooks.read_parameters", lambda *_: known)
    assert p2es("notebook", "05_train", "--profile", "smoke", "--seed", "3")[0] == 0
    folder = home / "runs" / "simulated" / "smoke" / "notebooks"
    (name, parameters, output), options = calls[0]
    assert (name, parameters) == ("05_train", {"dataset": "simulated", "profile": "smoke", "seed": 3})
    assert output == folder / "05_train-p2es-seed3.ipynb" and options == {"timeout_s": 900}
    monkeypatch.setattr(
        "p2es_lib.companion.notebooks.read_parameters",
        lambda *_: {"dataset": "", "profile": "", "variant": "p2es", "seeds": "0"},
    )
    p2es("notebook", "07_results", "--profile", "smoke", "--seeds", "0,1", "--timeout", "60")
    assert calls[1][0] == (
        "07_results",
        {"dataset": "simulated", "profile": "smoke", "seeds": "0,1"},
        folder / "07_results.ipynb",
    )
    assert calls[1][1] == {"timeout_s": 60}


def test_translate_hands_everything_over(p2es, monkeypatch, tmp_path):
    given = {}

    def translate(record, **options):
        given.update(options, record=record)
        return {"ecg": tmp_path / "r_p2es.hea"}

    monkeypatch.setattr("p2es_lib.translation.file.translate", translate)
    options = (
        "--age",
        "63",
        "--sex",
        "F",
        "--out",
        "o",
        "--sampling-rate",
        "64",
        "--column",
        "ir",
        "--time-column",
        "ms",
        "--polarity",
        "down",
        "--samples",
        "4",
        "--seed",
        "2",
        "--model",
        "m",
    )
    status, stdout, _ = p2es("translate", "r.csv", *options)
    assert status == 0 and stdout == f"ecg: {tmp_path / 'r_p2es.hea'}\n"
    assert {key: str(value) for key, value in given.items()} == {
        "record": "r.csv", "age": "63.0", "sex": "F", "out": "o", "sampling_rate": "64.0", "column": "ir",
        "time_column": "ms", "polarity": "down", "n_samples": "4", "seed": "2", "model": "m", "csv": "None",
        "progress": "True", "reference": "None",
    }  # fmt: skip
