"""Small notebooks, and a copy of the source tree whose notebooks are small ones, to test the workflow's machinery."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import nbformat

CHECKOUT = Path(__file__).resolve().parents[1]

_SETTINGS = 'dataset = "simulated"\nprofile = "quick"\n'
_WRITE = """\
from p2es_lib import paths
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
from p2es_lib import paths
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
# In place of scoring other uses of trained models, which have no weights here.
_SCORE = """

def train_run(config, variant, seed):
    path = run_dir(config.dataset, config.profile, VARIANTS[variant].weights_of, seed) / SCORES_FILE
    assert path.is_file()
    return path


def score_run(model, config, variant, seed, progress):
    path = run_dir(config.dataset, config.profile, variant, seed) / SCORES_FILE
    path.write_text(f"scores of {model}")
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


#: Notebooks that come after the trainings, with their outputs that the workflow knows.
SMALL_NOTEBOOKS = {
    "06_baselines": ("fig17_validation.png", "fig18_one_window.png", "table07_methods.csv"),
    "08_ablations": ("fig19_ablations.png", "fig20_sampler_steps.png", "fig28_error_by_time.png", "table08_ablations.csv", "table09_sampler_steps.csv",
                     "table24_error_by_time.csv"),
    "09_clinical_validity": ("fig21_bland_altman.png", "fig22_uncertainty.png", "table10_agreement.csv", "table11_uncertainty.csv",
                             "table12_realism.csv"),
    "10_robustness": ("fig25_noise.png", "table15_groups.csv", "table16_demographics.csv", "table17_noise.csv"),
    "11_efficiency": ("fig26_frontier.png", "table18_efficiency.csv", "table19_long_signals.csv", "table23_training.csv"),
    "12_claims": ("table20_against_methods.csv", "table21_claims.csv"),
    "13_own_ppg": ("fig29_own_ppg.png", "table25_joins.csv"),
}  # fmt: skip


def write_notebook(folder: Path, name: str, cells: list[str], parameters: str = _SETTINGS, n_tagged: int = 1) -> None:
    """Write a notebook with a title, its tagged parameters cell(s) and ``cells``."""
    tagged = [nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}) for _ in range(n_tagged)]
    code = [nbformat.v4.new_code_cell(source) for source in cells]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# t"), *tagged, *code])
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, folder / f"{name}.ipynb")


def make_toy_checkout(folder: Path) -> Path:
    """Copy library and Snakefile to ``folder`` and write one small notebook for each rule, with all its outputs."""
    shutil.copytree(CHECKOUT / "p2es_lib", folder / "p2es_lib", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(CHECKOUT / "Snakefile", folder)
    with (folder / "p2es_lib" / "experiments" / "runs.py").open("a") as file:
        file.write(_SCORE)
    (folder / "train_only.smk").write_text(_TRAIN_ONLY)
    notebooks = folder / "notebooks"

    def writes(notebook, *names):
        return _WRITE.format(names=names, notebook=notebook)

    data = writes("01_data", "fig01_cohort.png", "fig02_window.png", "table01_cohort.csv") + _WINDOWS
    write_notebook(notebooks, "01_data", [data], _SETTINGS + 'mirror = ""')
    write_notebook(notebooks, "02_forward_process", [writes("02", "fig03_forward_process.png")])
    write_notebook(notebooks, "03_reverse_process", [writes("03", "fig04_reverse_process.png")])
    write_notebook(notebooks, "04_affinity", [writes("04", "fig05_embedding_groups.png", "fig06_affinity.png")])
    write_notebook(notebooks, "15_solutions", ["pass"])
    write_notebook(notebooks, "05_train", [_TRAIN], _SETTINGS + 'variant = "p2es"\nseed = 0')
    figures = (
        "fig07_training",
        "fig08_stages",
        "fig09_overlay",
        "fig10_results",
        "fig11_decomposition",
        "fig12_learned_affinity",
    )
    names = (*(f"{name}.png" for name in figures), "table03_distance_to_floor.csv")
    write_notebook(
        notebooks, "07_results", [writes("07", *names) + _TABLE], _SETTINGS + 'variant = "p2es"\nseeds = "0"'
    )
    for name, outputs in SMALL_NOTEBOOKS.items():
        write_notebook(notebooks, name, [writes(name, *outputs)], _SETTINGS + 'seeds = "0"')
    return folder


def p2es_command(*arguments: str) -> list[str]:
    """Command line of ``p2es`` with this Python."""
    return [sys.executable, "-m", "p2es_lib.cli.main", *arguments]


def toy_environment(checkout: Path, home: Path) -> dict[str, str]:
    """Environment in which ``p2es`` is the copy in ``checkout`` and writes to ``home``."""
    return os.environ | {"PYTHONPATH": str(checkout), "P2ES_HOME": str(home), "OMP_NUM_THREADS": "1"}
