"""The strict papermill wrapper: what it refuses, what it leaves behind, what it shows."""

from __future__ import annotations

import io
import json
import os
import sys

import nbformat
import pytest
from toy_workflow import write_notebook as write_toy_notebook

from p2es_lib.companion import notebooks
from p2es_lib.companion.notebook_client import CellProgress, duration
from p2es_lib.companion.notebooks import NotebookError, check_parameters, list_notebooks, read_parameters, run_notebook
from p2es_lib.core import processes
from p2es_lib.core.errors import InputError

PARAMETERS = 'dataset = "simulated"\nseed = 0\nrate = 0.5\nnames = ["a"]\nlimit = -1'


def write_notebook(folder, name, cells, parameters=PARAMETERS, n_tagged=1):
    write_toy_notebook(folder, name, cells, parameters, n_tagged)


def printed(path):
    """All text that the cells of an executed notebook printed."""
    cells = nbformat.read(path, as_version=4).cells
    return "".join(
        output.text for cell in cells for output in cell.get("outputs", []) if output.output_type == "stream"
    )


# --- parameters -------------------------------------------------------------------------------------------------------


def test_parameters_are_read_with_their_defaults(tmp_path):
    write_notebook(tmp_path, "01_a", [], PARAMETERS + "  # unit\nlabel: str = 'x'")
    expected = {"dataset": "simulated", "seed": 0, "rate": 0.5, "names": ["a"], "limit": -1, "label": "x"}
    assert read_parameters("01_a", tmp_path) == expected


def test_unknown_notebook_lists_the_known_ones(tmp_path):
    write_notebook(tmp_path, "02_b", [])
    write_notebook(tmp_path, "01_a", [])
    assert list_notebooks(tmp_path) == ["01_a", "02_b"]
    with pytest.raises(InputError, match="'03_c' is unknown.*01_a, 02_b"):
        read_parameters("03_c", tmp_path)


@pytest.mark.parametrize("n_tagged", [0, 2])
def test_exactly_one_parameters_cell(tmp_path, n_tagged):
    write_notebook(tmp_path, "01_a", ["1"], n_tagged=n_tagged)
    with pytest.raises(InputError, match=f"exactly one.*found {n_tagged}"):
        read_parameters("01_a", tmp_path)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("a = 1\nb = 2 * a", "line 2 must be 'name = literal'"),
        ("a = (1, 2)", "line 1 must be"),  # papermill would hand over a string
        ("import os\na = 1", "line 1 must be"),
        ("a = b = 1", "line 1 must be"),
        ("a = len('x')", "line 1 must be"),
        ("a = 1\na = 2", "assigned twice"),
        ("a = = 1", "line 1 is not Python"),
        ("# nothing", "holds no parameter"),
    ],
)
def test_parameters_cell_holds_literals_only(tmp_path, source, message):
    write_notebook(tmp_path, "01_a", [], source)
    with pytest.raises(InputError, match=message):
        read_parameters("01_a", tmp_path)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sed": 1}, "no parameter 'sed'; it has: dataset, seed"),
        ({"seed": "1"}, "seed='1'.*must be int"),
        ({"seed": 1.0}, "must be int"),
        ({"seed": True}, "must be int"),
        ({"rate": "x"}, "must be float"),
        ({"dataset": 3}, "must be str"),
        ({"names": ("a",)}, "must be list"),
    ],
)
def test_wrong_parameters_are_refused_before_anything_runs(tmp_path, given, message):
    write_notebook(tmp_path, "01_a", ["1"])
    with pytest.raises(InputError, match=message):
        run_notebook("01_a", given, tmp_path / "out" / "01_a.ipynb", folder=tmp_path)
    assert not (tmp_path / "out").exists()


def test_a_whole_number_is_a_decimal_one_too(tmp_path):
    write_notebook(tmp_path, "01_a", [])
    check_parameters("01_a", {"rate": 1, "seed": 3, "names": []}, tmp_path)


def test_not_a_notebook(tmp_path):
    (tmp_path / "01_a.ipynb").write_text("{}")
    with pytest.raises(InputError, match="01_a.ipynb is not a notebook"):
        read_parameters("01_a", tmp_path)


# --- execution --------------------------------------------------------------------------------------------------------


def test_runs_with_this_python_whatever_python3_means_elsewhere(tmp_path, monkeypatch):
    spec = tmp_path / "jupyter" / "kernels" / "python3"
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text(json.dumps({"argv": ["false"], "display_name": "other", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")
    cells = [
        "import sys, os\nprint(sys.executable, seed, dataset, os.getcwd())",
        "from tqdm.auto import tqdm\nfor _ in tqdm(range(5), desc='five'):\n    pass",
    ]
    write_notebook(tmp_path, "01_a", cells)
    output, log = tmp_path / "out" / "01_a-seed7.ipynb", io.StringIO()
    assert run_notebook("01_a", {"seed": 7}, output, folder=tmp_path, log=log) == output
    assert printed(output).split() == [sys.executable, "7", "simulated", str(tmp_path)]
    shown = log.getvalue()
    assert f"01_a-seed7 | {sys.executable} 7" in shown
    assert "five: 100% 5/5 [" in shown  # a widget in the notebook, a line in the terminal
    assert sorted(path.name for path in output.parent.iterdir()) == [".01_a-seed7.lock", "01_a-seed7.ipynb"]


def test_a_failed_notebook_is_kept_apart_until_it_succeeds(tmp_path):
    write_notebook(tmp_path, "01_a", ["before = 1", "if seed == 0:\n    raise ValueError('seed is\\nzero')"])
    output = tmp_path / "out" / "01_a.ipynb"
    output.parent.mkdir()
    (output.parent / ".01_a.tmp999.ipynb").write_text("left by a killed run")
    with pytest.raises(NotebookError, match=r"01_a.*In \[3\]: ValueError: seed is") as caught:
        run_notebook("01_a", {}, output, folder=tmp_path, log=io.StringIO())
    failed = output.with_name("01_a.failed.ipynb")
    assert str(failed) in str(caught.value) and failed.is_file()
    assert sorted(path.name for path in output.parent.iterdir()) == [".01_a.lock", "01_a.failed.ipynb"]
    run_notebook("01_a", {"seed": 1}, output, folder=tmp_path, log=io.StringIO())
    assert output.is_file() and not failed.exists()


def test_input_errors_of_a_cell_stay_input_errors(tmp_path):
    write_notebook(
        tmp_path,
        "01_a",
        ["from p2es_lib.core.errors import InputError\nraise InputError('record r1: no PPG; name another')"],
    )
    with pytest.raises(InputError) as caught:
        run_notebook("01_a", {}, tmp_path / "01_out.ipynb", folder=tmp_path, log=io.StringIO())
    first, *others = str(caught.value).splitlines()
    assert first == "record r1: no PPG; name another"
    assert "notebook 01_out, cell In [2]" in others[0] and str(tmp_path / "01_out.failed.ipynb") in others[1]


def test_a_cell_that_takes_too_long_is_stopped(tmp_path):
    write_notebook(tmp_path, "01_a", ["import time\ntime.sleep(60)"])
    with pytest.raises(NotebookError, match="code cell 2 of 2.*1 s"):
        run_notebook("01_a", {}, tmp_path / "out.ipynb", folder=tmp_path, timeout_s=1, log=io.StringIO())
    with pytest.raises(InputError, match="timeout=0"):
        run_notebook("01_a", {}, tmp_path / "out.ipynb", folder=tmp_path, timeout_s=0)


def test_a_dead_kernel_is_reported(tmp_path):
    write_notebook(tmp_path, "01_a", ["import os\nos._exit(3)"])
    with pytest.raises(NotebookError, match="process died in code cell 2 of 2"):
        run_notebook("01_a", {}, tmp_path / "out.ipynb", folder=tmp_path, log=io.StringIO())
    assert not (tmp_path / "out.ipynb").exists()


def test_the_same_notebook_is_not_run_twice_at_once(tmp_path, monkeypatch):
    write_notebook(tmp_path, "01_a", ["1"])

    def impatient(path, *, what):
        return processes.exclusive_lock(path, what=what, wait_s=0.0)

    monkeypatch.setattr(notebooks, "exclusive_lock", impatient)
    with (
        processes.exclusive_lock(tmp_path / ".out.lock", what="x"),
        pytest.raises(InputError, match=rf"notebook out.*{os.getpid()}"),
    ):
        run_notebook("01_a", {}, tmp_path / "out.ipynb", folder=tmp_path)


# --- progress lines ---------------------------------------------------------------------------------------------------


def lines_of(stream, label="n"):
    return [line.removeprefix(f"{label} | ") for line in stream.getvalue().splitlines()]


def test_text_appears_in_whole_lines_as_it_comes():
    stream = io.StringIO()
    progress = CellProgress("n", stream)
    progress.text("step 1\nst")
    assert lines_of(stream) == ["step 1"]
    progress.text("ep 2\n")
    assert lines_of(stream) == ["step 1", "step 2"]


def test_bars_are_thinned_and_their_end_is_shown():
    stream = io.StringIO()
    progress = CellProgress("n", stream, bar_every_s=3600)
    for n in range(1, 101):
        progress.text(f"\r{n}/100")
    progress.text("\n")
    assert lines_of(stream) == ["1/100", "100/100"]
    for n in range(1, 101):
        progress.widget({"value": f"fit:\u2007{n:3d}%"})
        progress.widget({"value": n})  # the bar itself
        progress.widget({"value": f"\u2007{n}/100\u2007[00:01&lt;00:00,\u200715.00it/s]"})
    assert lines_of(stream)[2:] == ["fit: 100% 100/100 [00:01<00:00, 15.00it/s]"]
    progress.cell(2, 3)  # another cell's bar begins at once
    progress.widget({"value": " 5/9 [00:01, 1it/s]"})
    assert lines_of(stream)[3:] == ["5/9 [00:01, 1it/s]"]


def test_a_silent_cell_is_named():
    stream = io.StringIO()
    with CellProgress("n", stream, silence_s=0.05) as progress:
        progress.cell(3, 7)
        for _ in range(200):
            if "code cell 3 of 7, running for" in stream.getvalue():
                break
            progress._stop.wait(0.02)
    assert "n | code cell 3 of 7, running for 0 s" in stream.getvalue()
    assert lines_of(stream)[0].startswith("started at") and lines_of(stream)[-1].startswith("finished after")


def test_durations_read_well():
    assert [duration(s) for s in (0.4, 119, 125, 3661)] == ["0 s", "119 s", "2 min 05 s", "61 min 01 s"]
