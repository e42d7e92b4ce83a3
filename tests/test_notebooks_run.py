"""The project's notebooks: their form, and one run of the whole workflow to the promised tables and figures."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pandas as pd
import pytest
from toy_workflow import p2es_command

from p2es_lib.companion.exercises import read_exercises
from p2es_lib.companion.notebooks import code_cells, list_notebooks, read_parameters
from p2es_lib.core.leads import LEADS

CHECKOUT = Path(__file__).resolve().parents[1]
NOTEBOOKS = CHECKOUT / "notebooks"
NAMES = ["01_data", "02_forward_process", "03_reverse_process", "04_affinity", "05_train", "06_baselines", "07_results",
         "08_ablations", "09_clinical_validity", "10_robustness", "11_efficiency", "12_claims", "13_own_ppg",
         "14_sim_to_real", "15_solutions", "16_reference", "17_reference_real"]  # fmt: skip
#: What profile smoke trains, each by an execution of notebook 05.
TRAINED = ("p2es", "unet", "no_affinity")
#: Parameters that each notebook has besides dataset="simulated" and profile="quick".
PARAMETERS = {
    "01_data": {"mirror": ""},
    "05_train": {"variant": "p2es", "seed": 0},
    "06_baselines": {"seeds": "0"},
    "07_results": {"variant": "p2es", "seeds": "0"},
    "08_ablations": {"seeds": "0"},
    "09_clinical_validity": {"seeds": "0"},
    "10_robustness": {"seeds": "0"},
    "11_efficiency": {"seeds": "0"},
    "12_claims": {"seeds": "0"},
    "13_own_ppg": {"seeds": "0", "ppg_file": "", "age": 0.0, "sex": ""},
    "14_sim_to_real": {"dataset": "mimic4wdb"},
    "16_reference": {"seeds": "0"},
    "17_reference_real": {"dataset": "mimic4wdb"},
}
FIGURES = ["fig01_cohort", "fig02_window", "fig03_forward_process", "fig04_reverse_process", "fig05_embedding_groups",
           "fig06_affinity", "fig07_training", "fig08_stages", "fig09_overlay", "fig10_results", "fig11_decomposition",
           "fig12_learned_affinity", "fig17_validation", "fig18_one_window", "fig19_ablations", "fig20_sampler_steps",
           "fig21_bland_altman", "fig22_uncertainty", "fig24_groups", "fig25_noise",
           "fig26_frontier", "fig28_error_by_time", "fig29_own_ppg", "fig30_regimes", "fig31_reference_leads",
           "fig32_changes", "fig33_one_change", "fig35_methods_by_regime"]  # fmt: skip
TABLES = ["table01_cohort", "table02_results", "table03_distance_to_floor", "table07_methods", "table08_ablations",
          "table09_sampler_steps", "table10_agreement", "table11_uncertainty", "table12_realism", "table14_delineation",
          "table15_groups", "table16_demographics", "table17_noise", "table18_efficiency", "table19_long_signals",
          "table20_against_methods", "table21_claims", "table23_training", "table24_error_by_time",
          "table25_joins", "table26_runs", "table28_references", "table29_reference_gain", "table30_coherence",
          "table31_changes", "table33_others_by_regime"]  # fmt: skip
MAX_LINES, MAX_CODE_CELLS = 25, 30
#: They build their idea by hand and hold exercises.
TEACHING = ("02_forward_process", "03_reverse_process", "04_affinity")
SOLUTIONS, EXECUTED = "15_solutions", "runs/simulated/smoke/notebooks"
WIDGET = "application/vnd.jupyter.widget-view+json"


def cells(name: str) -> list[dict]:
    found = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text())["cells"]
    return [cell | {"source": "".join(cell["source"])} for cell in found]


def test_all_notebooks_are_here_and_tested():
    assert list_notebooks() == NAMES


# --- form -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_first_cell_says_what_and_how_long(name):
    first = cells(name)[0]
    assert first["cell_type"] == "markdown" and first["source"].startswith(f"# {name[:2]} ")
    for part in ("Question", "Reads", "Writes", "Time"):
        assert re.search(rf"\b{part}\b", first["source"]), f"{name}: the first cell does not say: {part}"


@pytest.mark.parametrize("name", NAMES)
def test_imports_come_second_and_parameters_third(name):
    code = [cell for cell in cells(name) if cell["cell_type"] == "code"]
    statements = ast.parse(re.sub(r"^%.*$", "", code[0]["source"], flags=re.M)).body
    assert any(isinstance(statement, (ast.Import, ast.ImportFrom)) for statement in statements)
    assert "parameters" in code[1]["metadata"].get("tags", [])
    assert cells(name)[1]["cell_type"] == "code" and cells(name)[2]["metadata"].get("tags") == ["parameters"]
    assert read_parameters(name) == {"dataset": "simulated", "profile": "quick"} | PARAMETERS.get(name, {})


@pytest.mark.parametrize("name", NAMES)
def test_cells_are_few_and_short(name):
    code = [cell["source"] for cell in cells(name) if cell["cell_type"] == "code"]
    assert len(code) <= MAX_CODE_CELLS
    assert max(len(source.splitlines()) for source in code[1:]) <= MAX_LINES  # the first one imports
    assert all(cell["source"].strip() for cell in cells(name)), "an empty cell"


@pytest.mark.parametrize("name", NAMES)
def test_metadata_name_no_machine(name):
    notebook = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text())
    assert notebook["metadata"].get("kernelspec", {}).get("name") == "python3"
    assert "papermill" not in notebook["metadata"]


#: What a notebook says to somebody who opens it in Colab. The packages are those that its cells need and Colab has not;
#: the others of pyproject.toml (workflow, book, tests) would renew packages that Colab itself works with.
COLAB = (
    "**Colab.** First, in a cell of its own, one command per line: "
    "`!git clone <address of this repository> p2es`, `%cd p2es`, "
    "`%pip install edfio lightning neurokit2 vitaldb wfdb`, `%pip install --no-deps -e .`; then restart the session. "
    "Colab's own torch stays."
)
#: Packages of pyproject.toml that neither Colab has nor that line installs, by the names of their modules.
NOT_IN_COLAB = (
    "furo",
    "jupyterlab",
    "myst_nb",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "papermill",
    "pytest_timeout",
    "snakemake",
    "xdist",
)


@pytest.mark.parametrize("name", NAMES)
def test_first_cell_says_what_colab_needs(name):
    assert COLAB in cells(name)[0]["source"].split("\n"), "on a line of its own, in the same words in all notebooks"


@pytest.mark.slow
def test_imports_of_all_notebooks_need_nothing_that_colab_lacks():
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    installed = set(re.search(r"install (\w+ [\w ]+)`", COLAB)[1].split())
    assert installed <= {*project["dependencies"], *(name for extra in extras for name in extra)}
    absent = "import sys\n" + "".join(f"sys.modules[{name!r}] = None\n" for name in NOT_IN_COLAB)
    program = absent + "\n".join(code_cells(name)[0] for name in NAMES)
    result = subprocess.run([sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


PAGES = ["README.md", *(f"book/pages/{path.name}" for path in sorted((CHECKOUT / "book" / "pages").glob("*.md")))]


def markdown_texts() -> dict[str, str]:
    texts = {
        name: "\n\n".join(cell["source"] for cell in cells(name) if cell["cell_type"] == "markdown") for name in NAMES
    }
    return texts | {page: (CHECKOUT / page).read_text() for page in PAGES}


def mathematics(text: str) -> tuple[list[str], list[str]]:
    """Formulas between ``$$`` and between ``$``, without what stands in code."""
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.M | re.S)
    display = re.findall(r"\$\$(.*?)\$\$", text, re.S)
    rest = re.sub(r"\$\$.*?\$\$", "", text, flags=re.S)
    assert rest.count("$") % 2 == 0, "a formula without an end"
    return display, re.findall(r"\$(.*?)\$", rest, re.S)


def github_breaks(display: list[str], inline: list[str], in_file: bool) -> list[str]:
    """Formulas that GitHub is known not to show, or not as they are meant."""
    found = [one for one in display if re.search(r"\n[ \t]*\n|^[ \t]*(?:[-=+>#]|\d+\.\s)", one.strip("\n"), re.M)]
    found += [one for one in inline if "\n" in one or one != one.strip()]
    found += [
        one
        for one in [*display, *inline]
        if re.search(r"\\_|\\operatorname|\\(?:re)?newcommand|\\def\b|\*|<(?! )|%", one)
    ]
    # In a Markdown file a backslash before punctuation is gone before the formula is read.
    return found + [one for one in [*display, *inline] if in_file and re.search(r"\\[^A-Za-z\s]", one)]


@pytest.mark.parametrize("name", [*NAMES, *PAGES])
def test_github_shows_all_formulas(name):
    assert not github_breaks(*mathematics(markdown_texts()[name]), in_file=name in PAGES)


@pytest.mark.parametrize(
    "text",
    [
        "$$a\n\n b$$",
        "$$a\n- b$$",
        "$$a\n= b$$",
        "$a\nb$",
        "$ a$",
        "$\\operatorname{E} x$",
        "$$x\\_1$$",
        "$w^*$",
        "$a<b$",
    ],
)
def test_formulas_that_github_breaks_are_found(text):
    assert github_breaks(*mathematics(text), in_file=False)


def test_formulas_in_tables_hold_no_bar_and_no_escape():
    rows = [line for text in markdown_texts().values() for line in text.splitlines() if line.startswith("|")]
    formulas = [formula for row in rows for formula in re.findall(r"\$(.*?)\$", row)]
    assert not [formula for formula in formulas if re.search(r"\||\\[^A-Za-z\s]", formula)]


@pytest.mark.parametrize("name", TEACHING)
def test_teaching_notebooks_have_sliders_and_exercises_of_three_grades(name):
    code = [cell["source"] for cell in cells(name) if cell["cell_type"] == "code"]
    prose = [cell["source"] for cell in cells(name) if cell["cell_type"] == "markdown"]
    sliders = [source for source in code if re.search(r"^explore\(", source, re.M)]
    assert len(sliders) == 1 and "stills=[" in sliders[0]
    grades = re.findall(r"^\*\*(\d) \(([a-z ]+)\)", "\n".join(prose), re.M)
    assert sorted(grade for _, grade in grades) == ["paper and pencil", "think", "write code"]
    assert [int(number) for number, _ in grades] == list(read_exercises(name)) == [1, 2, 3]


def check_teaching(executed: list[dict]) -> None:
    """What an executed teaching notebook shows: a picture for its sliders, and that no exercise has been tried."""
    (sliders,) = [cell for cell in executed if re.search(r"^explore\(", "".join(cell["source"]), re.M)]
    shown = [output["data"] for output in sliders["outputs"]]
    assert len(shown) == 1 and len(shown[0]["image/png"]) > 20_000 and WIDGET not in shown[0]
    assert re.findall(r"^exercise (\d): (.*)", printed(executed), re.M) == [(n, "not tried yet") for n in "123"]


def printed(executed: list[dict]) -> str:
    """All that the cells of an executed notebook wrote to standard output."""
    outputs = [output for cell in executed for output in cell.get("outputs", []) if output.get("name") == "stdout"]
    return "".join("".join(output["text"]) for output in outputs)


# --- the whole workflow -----------------------------------------------------------------------------------------------


def processor_time() -> float:
    times = os.times()
    return times.children_user + times.children_system


def check_headline(table: pd.DataFrame) -> None:
    """What every other part of the project expects of the headline table."""
    assert list(table.columns) == ["method", "lead", "metric", "value", "lower", "upper", "n_subjects", "seeds", "data"]
    assert not table.duplicated(["method", "lead", "metric"]).any()
    assert {"rmse", "pearson"} <= set(table["metric"])
    assert {"all", *LEADS} <= set(table["lead"])
    assert table["value"].notna().all() and set(table["seeds"]) == {1}
    assert table["n_subjects"].between(1, 24).all()  # a metric may have no value for a subject (no beats found)
    pointwise = table[table["metric"].isin(["rmse", "pearson"])]
    assert (pointwise["n_subjects"] == 24).all()
    assert (pointwise["lower"] <= pointwise["value"]).all() and (pointwise["value"] <= pointwise["upper"]).all()
    rmse = table[(table["lead"] == "all") & (table["metric"] == "rmse")].set_index("method")["value"]
    floor = rmse["Irreducible error"]
    # Even a hardly trained model cannot be below the floor, within the chance of so few subjects. A pasted beat can: it
    # is the person's own, which the floor does not know; nor does it know what other floors are given.
    knowing = [name for name in rmse.index if "beat times known" in name or "12 leads" in name or "Own beat" in name]
    assert (rmse.drop(knowing) >= 0.95 * floor).all()
    assert rmse["Own beat pasted, 12 leads, same session"] < floor < rmse["Average beat pasted at the pulses"]
    assert rmse[[name for name in rmse.index if "beat times known" in name]].iloc[0] < floor


@pytest.mark.notebook
@pytest.mark.slow(seconds=400)
@pytest.mark.timeout(2400)
def test_the_smoke_workflow_makes_everything_and_then_nothing(tmp_path):
    """One test, not several on one fixture: parallel test processes would each run the workflow."""
    home = tmp_path / "home"
    environment = os.environ | {"P2ES_HOME": str(home)}
    environment.pop("P2ES_MIRROR", None)

    def reproduce():
        return subprocess.run(
            p2es_command("reproduce", "--profile", "smoke"), env=environment, capture_output=True, text=True
        )

    before = processor_time()
    result = reproduce()
    first = processor_time() - before
    assert result.returncode == 0, result.stderr[-6000:]
    figures = home / "figures" / "simulated-smoke"
    for name in FIGURES:
        assert (figures / f"{name}.png").read_bytes().startswith(b"\x89PNG"), name
        assert (figures / f"{name}.pdf").read_bytes().startswith(b"%PDF"), name
    for name in TABLES:
        assert len(pd.read_csv(figures / f"{name}.csv")) > 0, name
        assert re.search(
            r"^Made by `p2es .*--dataset simulated --profile smoke`",
            (figures / f"{name}.md").read_text().splitlines()[-1],
        ), name
    assert {"simulated/smoke/" + name + "/seed0" for name in TRAINED} <= set(
        pd.read_csv(figures / "table26_runs.csv")["run"]
    )
    run = home / "runs" / "simulated" / "smoke" / "p2es" / "seed0"
    for name in ("config.json", "weights.safetensors", "history.csv", "scores.parquet"):
        assert (run / name).stat().st_size > 0, name
    executed = sorted(path.name for path in (home / EXECUTED).glob("[!.]*"))
    trainings = [f"05_train-{variant}-seed0.ipynb" for variant in TRAINED]
    real_only = ("14_sim_to_real", "17_reference_real")
    others = [name for name in NAMES if name not in ("05_train", *real_only)]
    assert executed == sorted([*trainings, *(f"{name}.ipynb" for name in others)])
    ran = {
        name: json.loads((home / EXECUTED / f"{name}.ipynb").read_text())["cells"] for name in (*TEACHING, SOLUTIONS)
    }
    for name in TEACHING:
        check_teaching(ran[name])
    assert re.findall(r"^exercise (\d): (.*)$", printed(ran[SOLUTIONS]), re.M) == 3 * [(n, "right") for n in "123"]
    leftovers = [path for path in home.rglob(".*tmp*") if ".snakemake" not in path.parts]
    assert not leftovers

    check_headline(pd.read_csv(figures / "table02_results.csv"))
    # The terminal ends with where everything is, and the headline itself.
    assert str(figures) in result.stdout and "table02_results.csv" in result.stdout
    assert re.search(r"^method .*RMSE", result.stdout, re.M) and re.search(r"^Irreducible error ", result.stdout, re.M)

    before = processor_time()
    again = reproduce()
    assert again.returncode == 0 and " | started" not in again.stderr
    assert processor_time() - before < first / 10
