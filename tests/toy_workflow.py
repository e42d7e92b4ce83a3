"""Small notebooks, and a copy of the source tree whose notebooks are small ones, to test the workflow's machinery."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat

CHECKOUT = Path(__file__).resolve().parents[1]

_SETTINGS = 'dataset = "simulated"\nprofile = "quick"\n'
_WRITE = """\
from p2es_lib.core import paths
figures = paths.figures_dir(dataset, profile)
figures.mkdir(parents=True, exist_ok=True)
for name in {names!r}:
    (figures / name).write_text("made by " + {notebook!r})
"""
_WINDOWS = """\
windows = paths.windows_dir(dataset, profile)
windows.mkdir(parents=True, exist_ok=True)
(windows / "settings.json").write_text("{}")
"""
# Counts with a checkpoint after each step, as a training does; appends every step to a log. Seed 0 of P2Es takes 10 s.
_TRAIN = """\
import time
run = paths.run_dir(dataset, profile, variant, seed)
run.mkdir(parents=True, exist_ok=True)
checkpoint, log = run / "checkpoint.ckpt", run / "log.txt"
start = int(checkpoint.read_text()) if checkpoint.exists() else 0
for step in range(start, 40 if seed == 0 and variant == "p2es" else 8):
    time.sleep(0.25 if variant == "p2es" else 0.01)
    with log.open("a") as file:
        file.write(f"{step} ")
    checkpoint.write_text(str(step + 1))
    print("step", step, flush=True)
(run / "scores.parquet").write_text("scores")
"""
# In place of `p2es score`: there are no weights here.
_MAIN = """\
import sys

from p2es_lib.cli.main import main

if sys.argv[1] != "score":
    main()
else:
    from p2es_lib.core.paths import run_dir

    dataset, profile, variant, seed = (sys.argv[sys.argv.index(f"--{name}") + 1] for name in
                                       ("dataset", "profile", "variant", "seed"))
    print(f"score-{variant}-seed{seed} | started", file=sys.stderr)
    assert list(run_dir(dataset, profile, variant, int(seed)).parents[1].glob(f"*/seed{seed}/scores.parquet"))
    folder = run_dir(dataset, profile, variant, int(seed))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scores.parquet").write_text("scores")
"""
# In place of papermill and a kernel for each notebook, which take most of the time of small ones.
_EXECUTE = """

def _execute(source, output, parameters, timeout_s, label, log):
    import contextlib
    import io
    import shutil

    print(f"{label} | started", file=log, flush=True)
    shutil.copy(source, output)
    values, printed = {}, io.StringIO()
    cells = [cell for cell in json.loads(source.read_text())["cells"] if cell["cell_type"] == "code"]
    for number, cell in enumerate(cells, start=1):
        try:
            with contextlib.redirect_stdout(printed):
                exec("".join(cell["source"]), values)
        except InputError as error:
            raise InputError(f"{error}\\n  raised in notebook {label}") from None
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            raise NotebookError(f"notebook {label} stopped in cell In [{number + 1}]: {what}") from None
        if number == 1:
            values |= parameters
    print(*(f"{label} | {line}" for line in printed.getvalue().splitlines()), sep="\\n", file=log, flush=True)
"""
# The real rules, asked for one training only.
_TRAIN_ONLY = """\
include: "Snakefile"
rule train_only:
    default_target: True
    input: f"{RUNS}/p2es/seed0/scores.parquet"
"""
_TABLE = """\
rows = ["method,lead,metric,value,lower,upper,n_subjects,seeds", "P2Es,all,rmse,0.131,0.120,0.142,24,1"]
rows += ["Irreducible error,all,rmse,0.122,,,24,1", "P2Es,V1,rmse,0.9,0.8,1.0,24,1"]
(figures / "table02_results.csv").write_text("\\n".join(rows) + "\\n")
"""


#: Notebooks that sum up trainings, with the figures and tables that the workflow expects of them.
SMALL_NOTEBOOKS = {
    "06_baselines": "fig17_validation fig18_one_window table07_methods",
    "08_ablations": "fig19_ablations fig20_sampler_steps fig28_error_by_time"
    " table08_ablations table09_sampler_steps table24_error_by_time",
    "09_clinical_validity": "fig21_bland_altman fig22_uncertainty"
    " table10_agreement table11_uncertainty table12_realism",
    "10_robustness": "fig25_noise table15_groups table16_demographics table17_noise",
    "11_efficiency": "fig26_frontier table18_efficiency table19_long_signals table23_training",
    "12_claims": "table20_against_methods table21_claims",
    "13_own_ppg": "fig29_own_ppg table25_joins",
    "16_reference": "fig30_regimes fig31_reference_leads fig32_changes fig33_one_change fig35_methods_by_regime"
    " table28_references table29_reference_gain table30_coherence table31_changes table33_others_by_regime",
}
RESULTS = (
    "fig07_training fig08_stages fig09_overlay fig10_results fig11_decomposition fig12_learned_affinity"
    " table03_distance_to_floor"
)


def write_notebook(
    folder: Path, name: str, cells: list[str], parameters: str = _SETTINGS, n_tagged: int = 1, lesson=()
) -> None:
    """Write a notebook with a title, its tagged parameters cell(s) and ``cells``; ``lesson``: which are tagged so."""
    tagged = [nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}) for _ in range(n_tagged)]
    code = [nbformat.v4.new_code_cell(source) for source in cells]
    for row in lesson:
        code[row]["metadata"]["tags"] = ["lesson"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# t"), *tagged, *code])
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, folder / f"{name}.ipynb")


def make_toy_checkout(folder: Path, *, kernels: bool) -> Path:
    """Copy library and Snakefile to ``folder`` and write one small notebook for each rule, with all its outputs.

    Without ``kernels`` the cells run in the process of ``p2es notebook``.
    """
    shutil.copytree(CHECKOUT / "p2es_lib", folder / "p2es_lib", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(CHECKOUT / "Snakefile", folder)
    (folder / "p2es_lib" / "cli" / "__main__.py").write_text(_MAIN)
    if not kernels:
        with (folder / "p2es_lib" / "companion" / "notebooks.py").open("a") as file:
            file.write(_EXECUTE)
    (folder / "train_only.smk").write_text(_TRAIN_ONLY)
    notebooks = folder / "notebooks"

    def write(name, makes, code="", parameters=""):
        files = [f"{made}.png" if made.startswith("fig") else f"{made}.csv" for made in makes.split()]
        write_notebook(notebooks, name, [_WRITE.format(names=files, notebook=name) + code], _SETTINGS + parameters)

    write("01_data", "fig01_cohort fig02_window table01_cohort", _WINDOWS, 'mirror = ""')
    write("02_forward_process", "fig03_forward_process")
    write("03_reverse_process", "fig04_reverse_process")
    write("04_affinity", "fig05_embedding_groups fig06_affinity")
    write("05_train", "", _TRAIN, 'variant = "p2es"\nseed = 0')
    write("07_results", RESULTS, _TABLE, 'variant = "p2es"\nseeds = "0"')
    write("15_solutions", "")
    for name, makes in SMALL_NOTEBOOKS.items():
        write(name, makes, parameters='seeds = "0"')
    return folder


def p2es_command(*arguments: str) -> list[str]:
    """Command line of ``p2es`` with this Python."""
    return [sys.executable, "-m", "p2es_lib.cli", *arguments]


def toy_environment(checkout: Path, home: Path) -> dict[str, str]:
    """Environment in which ``p2es`` is the copy in ``checkout`` and writes to ``home``."""
    return os.environ | {"PYTHONPATH": str(checkout), "P2ES_HOME": str(home), "OMP_NUM_THREADS": "1"}


_PLAN = """
import json, os, sys
from snakemake.cli import main

for home, settings in json.loads(sys.argv[2]):
    print("--- next plan", flush=True)
    os.environ["P2ES_HOME"] = home
    try:
        main(["--snakefile", sys.argv[1], "--dry-run", "--nolock", "--config", *settings])
    except SystemExit as ended:
        assert not ended.code
"""


def dry_runs(cases: list[tuple[Path, dict[str, str]]]) -> list[str]:
    """What Snakemake would do with the real rules for each (home, settings).

    One process plans all of them, which loads Snakemake and the library once.
    """
    given = [
        (str(home), [f"{name}={json.dumps(value)}" for name, value in settings.items()]) for home, settings in cases
    ]
    command = [sys.executable, "-c", _PLAN, str(CHECKOUT / "Snakefile"), json.dumps(given)]
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        command, cwd=cases[0][0].parent, env=environment, capture_output=True, text=True, timeout=400
    )
    assert result.returncode == 0, result.stderr[-3000:]
    plans = result.stdout.split("--- next plan\n")[1:]
    assert len(plans) == len(cases)
    return plans
