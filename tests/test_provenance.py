"""Where tables come from: the command under each, the table of runs, and when code counts as changed."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell
from typer.testing import CliRunner

from p2es_lib.cli.main import app
from p2es_lib.companion import workflow
from p2es_lib.core.paths import PRETRAINED, figures_dir, run_dir
from p2es_lib.experiments import runs as experiments
from p2es_lib.experiments.results import runs_table, write_runs
from p2es_lib.experiments.runs import file_hash, git_commit
from p2es_lib.experiments.variants import _CHOSEN, VARIANTS
from p2es_lib.plots.saving import ARTEFACTS, notebook_of, provenance, save_table

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
FRAME = pd.DataFrame({"method": ["P2Es"], "value": [0.5]})


def saving_cells() -> dict[str, tuple[str, str]]:
    """Table to its notebook and the source of the cell that saves it, for every table of every notebook."""
    found = {}
    for path in sorted(NOTEBOOKS.glob("[0-9]*.ipynb")):
        for cell in json.loads(path.read_text())["cells"]:
            source = "".join(cell["source"])
            calls = re.findall(r'save_table\(.*?"(table\d\d_\w+)"', source) if cell["cell_type"] == "code" else []
            found |= {table: (path.stem, source) for table in calls}
    return found


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("P2ES_HOME", str(tmp_path))
    return tmp_path


# --- the command ------------------------------------------------------------------------------------------------------


def test_every_table_of_a_notebook_is_known_to_be_its():
    tables = saving_cells()
    assert len(tables) > 20
    assert {table: notebook_of(table) for table in tables} == {
        table: notebook for table, (notebook, _) in tables.items()
    }
    named = {table for text in ARTEFACTS.values() for table in re.findall(r"table\d\d_\w+", text)}
    assert named == set(tables)


def test_markdown_ends_with_the_command_and_the_csv_does_not_change(home, tmp_path):
    folder = figures_dir("ptb-xl", "smoke")
    save_table(FRAME, folder, "table08_ablations", "Caption.")
    save_table(FRAME, tmp_path / "elsewhere", "table08_ablations", "Caption.")
    text, other = ((where / "table08_ablations.md").read_text() for where in (folder, tmp_path / "elsewhere"))
    line = "Made by `p2es notebook 08_ablations --dataset ptb-xl --profile smoke`. Its runs: those of `table26_runs`."
    assert text == f"{other}\n{line}\n" and other.endswith("|\n")
    assert (folder / "table08_ablations.csv").read_bytes() == (
        tmp_path / "elsewhere" / "table08_ablations.csv"
    ).read_bytes()
    save_table(FRAME, folder, "table01_cohort", "Caption.")
    assert (
        (folder / "table01_cohort.md")
        .read_text()
        .endswith("\n\nMade by `p2es notebook 01_data --dataset ptb-xl --profile smoke`.\n")
    )
    assert (
        provenance(folder, "table04_minutes", {"seeds": "1"})
        == "Made by `p2es readme --dataset ptb-xl --profile smoke`."
    )


@pytest.mark.parametrize(
    ("folder", "table"),
    [
        ("figures/store", "table01_cohort"),
        ("figures/simulated-own", "table01_cohort"),
        ("mine/simulated-quick", "table01_cohort"),
        ("figures/simulated-quick", "table99_mine"),
        ("figures/-quick", "table01_cohort"),
    ],
)
def test_other_tables_and_folders_have_no_such_line(home, folder, table):
    assert provenance(home / "figures" / "simulated-quick", "table01_cohort")
    assert provenance(home / folder, table) == ""


def test_seeds_are_those_of_the_running_notebook(home):
    folder, shell = figures_dir("simulated", "quick"), InteractiveShell.instance()
    try:
        shell.user_ns |= {"seeds": "0, 1", "variant": "no_blur"}
        assert "08_ablations --dataset simulated --profile quick --seeds 0,1`" in provenance(
            folder, "table08_ablations"
        )
        # A variable of that name is a parameter in notebook 07 only.
        assert "07_results --dataset simulated --profile quick --variant no_blur --seeds 0,1`" in provenance(
            folder, "table02_results"
        )
        assert "--seeds" not in provenance(folder, "table01_cohort") + provenance(folder, "table22_sim_to_real")
        shell.user_ns |= {"seeds": "0", "variant": "p2es"}
        assert "07_results --dataset simulated --profile quick`" in provenance(folder, "table02_results")
    finally:
        InteractiveShell.clear_instance()


@pytest.mark.parametrize(
    "table",
    [
        "table07_methods",
        "table08_ablations",
        "table10_agreement",
        "table11_uncertainty",
        "table12_realism",
        "table13_diagnostic",
        "table15_groups",
        "table16_demographics",
        "table17_noise",
        "table23_training",
        "table25_joins",
    ],
)
def test_captions_say_how_many_trainings_and_people(table):
    notebook, source = saving_cells()[table]
    cells = ["".join(cell["source"]) for cell in json.loads((NOTEBOOKS / f"{notebook}.ipynb").read_text())["cells"]]
    made_of = next((line for cell in cells for line in cell.splitlines() if line.startswith("made_of = ")), "")
    words = source.replace("{made_of}", made_of)
    assert "training seed" in words or "{count_seeds(" in words
    assert table == "table23_training" or re.search(r"subjects", words)


def test_caption_of_the_methods_promises_no_column_that_is_not_there():
    caption = saving_cells()["table07_methods"][1].split("caption = ")[1].split("\n)\n")[0]
    assert "cost" not in caption and "table23_training" in caption


# --- the runs ---------------------------------------------------------------------------------------------------------


def make_run(
    dataset: str, variant: str, seed: int = 0, *, weights: bytes = b"", weights_of: str = "", finished: bool = True
) -> None:
    folder = run_dir(dataset, "smoke", variant, seed)
    folder.mkdir(parents=True)
    record = {
        "made_with": {"config_hash": f"c-{variant}", "data_hash": "d"}
        | ({"weights": weights_of} if weights_of else {}),
        "git_commit": "0123456789ab",
    }
    (folder / "config.json").write_text(json.dumps(record))
    if weights:
        (folder / "weights.safetensors").write_bytes(weights)
    if finished:
        (folder / "scores.parquet").write_bytes(f"scores of {variant} {seed}".encode())


def test_the_table_of_runs_names_every_finished_run_that_the_tables_are_made_of(home):
    make_run("simulated", "p2es", weights=b"weights")
    make_run("simulated", "p2es", 1, weights=b"others")
    make_run("simulated", "unet", weights=b"unet", finished=False)
    make_run("simulated", "hidden_demographics", weights_of="those of p2es")
    make_run("simulated", "ridge")
    make_run("simulated", "no_noise", weights=b"not in this profile")
    (home / "runs" / "simulated" / "smoke" / "own_ppg").mkdir()
    table = runs_table("simulated", "smoke", [0]).set_index("run")
    runs = [f"simulated/smoke/{name}/seed0" for name in ("p2es", "hidden_demographics", "ridge")]
    assert list(table.index) == runs
    folder = run_dir("simulated", "smoke", "p2es", 0)
    expected = {
        "method": "P2Es",
        "seed": 0,
        "config": "c-p2es",
        "data": "d",
        "weights": file_hash(folder / "weights.safetensors"),
        "scores": file_hash(folder / "scores.parquet"),
        "commit": "0123456789ab",
    }
    assert table.loc[runs[0]].to_dict() == expected
    assert list(table["weights"])[1:] == ["those of p2es", ""]
    assert list(runs_table("simulated", "smoke", [0, 1])["seed"])[:2] == [0, 1]
    (folder / "weights.safetensors").write_bytes(b"trained again")
    assert runs_table("simulated", "smoke", [0])["weights"][0] != expected["weights"]


def test_every_variant_of_the_profile_is_looked_for(home):
    for name in VARIANTS:
        make_run("simulated", name)
    assert {run.split("/")[2] for run in runs_table("simulated", "smoke", [0])["run"]} == {"p2es", *_CHOSEN["smoke"]}


def test_real_recordings_also_name_the_simulated_run_that_is_carried_over(home):
    make_run("simulated", "p2es", weights=b"weights")
    assert list(runs_table("bidmc", "smoke", [0])["run"]) == ["simulated/smoke/p2es/seed0"]


def test_weights_of_the_package_that_are_carried_over_are_named(home):
    assert runs_table("bidmc", "quick", [0]).empty  # nothing was made
    folder = run_dir("bidmc", "quick", "p2es", 0)
    folder.mkdir(parents=True)
    (folder / "scores.parquet").write_bytes(b"scores")
    carried_over = runs_table("bidmc", "quick", [0]).iloc[-1]
    assert carried_over["run"] == "p2es_lib/pretrained" and carried_over["weights"] == file_hash(
        PRETRAINED / "weights.safetensors"
    )
    assert "p2es_lib/pretrained" not in set(runs_table("simulated", "quick", [0])["run"])


def test_the_table_of_runs_is_the_same_file_twice_and_names_its_seeds(home):
    assert write_runs("simulated", "smoke", [0]).empty and not figures_dir("simulated", "smoke").exists()
    make_run("simulated", "p2es", 3, weights=b"weights")
    files = [figures_dir("simulated", "smoke") / f"table26_runs.{suffix}" for suffix in ("csv", "md")]
    first = [write_runs("simulated", "smoke", [3]) is not None and path.read_bytes() for path in files]
    assert first == [write_runs("simulated", "smoke", [3]) is not None and path.read_bytes() for path in files]
    text = first[1].decode()
    assert "1 training seed(s)" in text and text.endswith(
        "Made by `p2es reproduce --dataset simulated --profile smoke --seeds 3`.\n"
    )
    assert not re.search(r"20\d\d-\d\d", text)


def test_reproduce_writes_the_table_of_runs_when_all_steps_are_done(home, monkeypatch):
    make_run("simulated", "p2es", 2, weights=b"weights")
    headline = figures_dir("simulated", "smoke") / "table02_results.csv"
    headline.parent.mkdir(parents=True)
    headline.write_text("method,lead,metric,value,lower,upper,n_subjects,seeds\nP2Es,all,rmse,0.1,,,7,1\n")
    monkeypatch.setattr(workflow, "reproduce", lambda *_, **__: 1)
    assert CliRunner().invoke(app, ["reproduce", "--profile", "smoke", "--seeds", "2"]).exit_code == 1
    assert not headline.with_name("table26_runs.csv").exists()
    monkeypatch.setattr(workflow, "reproduce", lambda *_, **__: 0)
    result = CliRunner().invoke(app, ["reproduce", "--profile", "smoke", "--seeds", "2"])
    assert result.exit_code == 0 and "table26_runs.csv" in result.stdout
    assert list(pd.read_csv(headline.with_name("table26_runs.csv"))["run"]) == ["simulated/smoke/p2es/seed2"]


# --- the commit -------------------------------------------------------------------------------------------------------


def test_only_what_can_change_results_makes_a_run_dirty(tmp_path, monkeypatch, git):
    files = [
        "p2es_lib/method/p2es.py",
        "p2es_lib/baselines/unet.py",
        "p2es_lib/simulator/normal_beats.json",
        "p2es_lib/data/sources/bidmc.py",
        "notebooks/05_train.ipynb",
        "Snakefile",
        "pyproject.toml",
        "requirements-lock.txt",
        "README.md",
        "p2es_lib/plots/style.py",
        "figures/simulated-quick/table02_results.csv",
    ]
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("as committed\n")
    (tmp_path / ".gitignore").write_text("__pycache__/\n")
    monkeypatch.setattr(experiments, "checkout", lambda: tmp_path)
    for command in (["init", "-q"], ["add", "-A"], ["-c", "user.name=x", "-c", "user.email=x@x", "commit", "-qm", "x"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    clean = git_commit()
    assert re.fullmatch("[0-9a-f]{12}", clean)
    for name in files[8:]:  # what the workflow itself renews, and what only draws
        (tmp_path / name).write_text("renewed\n")
    (tmp_path / "p2es_lib" / "__pycache__").mkdir()
    (tmp_path / "p2es_lib" / "plots" / "scratch.py").write_text("that only draws\n")
    for name in ("p2es_lib/__pycache__/a.pyc", "notebooks/mine.ipynb", "notes.txt"):
        (tmp_path / name).write_text("new\n")
    assert git_commit() == clean
    for name in files[:8]:
        (tmp_path / name).write_text("changed\n")
        assert git_commit() == f"{clean}-dirty", name
        (tmp_path / name).write_text("as committed\n")
    (tmp_path / "p2es_lib" / "core").mkdir()
    (tmp_path / "p2es_lib" / "core" / "config.py").write_text("not known to git\n")
    assert git_commit() == f"{clean}-dirty"


def test_outside_a_checkout_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(experiments, "checkout", lambda: tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_commit() == ""
