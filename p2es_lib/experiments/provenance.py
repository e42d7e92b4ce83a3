"""What the tables of a figures folder are made of: every run with its settings, data, weights, scores and commit."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from p2es_lib.core.config import get_config
from p2es_lib.core.paths import PRETRAINED, figures_dir, home, run_dir
from p2es_lib.core.weights import WEIGHTS_FILE, simulated_model_folder
from p2es_lib.experiments.runs import SCORES_FILE, file_hash, read_record, references_for
from p2es_lib.experiments.variants import KINDS, REFERENCES, VARIANTS, count_seeds, seeds_of, variants_of
from p2es_lib.plots import save_table
from p2es_lib.plots.artefacts import RUNS_TABLE


def _describe(folder: Path) -> dict[str, object]:
    """Row of a finished run; what its files do not say is left empty."""
    record = read_record(folder)
    made_with = record["made_with"]
    variant, seed = folder.parent.name, int(folder.name.removeprefix("seed"))
    weights = folder / WEIGHTS_FILE
    return {
        "run": folder.relative_to(home() / "runs").as_posix(),
        "method": VARIANTS[variant].label if variant in VARIANTS else REFERENCES[variant],
        "seed": seed,
        "config": made_with.get("config_hash", ""),
        "data": made_with.get("data_hash", ""),
        # A run that only uses the weights of another one notes whose they were.
        "weights": file_hash(weights) if weights.is_file() else made_with.get("weights", ""),
        "scores": file_hash(folder / SCORES_FILE),
        "commit": record.get("git_commit", ""),
    }


def runs_table(dataset: str, profile: str, seeds: list[int]) -> pd.DataFrame:
    """The finished runs that the workflow's tables are made of: of this profile's variants, and of the references.

    On real recordings also P2Es as trained on the simulated cohort, which is carried over to them: a run, or the
    weights of the package, which are no run. Columns: run (its folder in ``runs/``), method, seed, config, data,
    weights, scores (hashes of the settings, of the prepared windows, and of the files' bytes), commit (of the source
    tree when the run began; ``-dirty``: code differed). No dates: equal runs give equal tables, but for the commit.
    """
    learned = ["p2es", *(name for kind in KINDS for name in variants_of(profile, kind))]
    folders = [run_dir(dataset, profile, name, seed) for name in learned for seed in seeds_of(profile, name, seeds)]
    folders += [run_dir(dataset, profile, name, 0) for name in references_for(get_config(profile, dataset))]
    carried_over = simulated_model_folder(profile) if dataset != "simulated" else None
    folders += [carried_over] if carried_over not in (None, PRETRAINED) else []
    rows = [_describe(folder) for folder in folders if (folder / SCORES_FILE).is_file()]
    if rows and carried_over == PRETRAINED:
        weights = file_hash(PRETRAINED / WEIGHTS_FILE)
        rows.append({"run": "p2es_lib/pretrained", "method": VARIANTS["p2es"].label, "seed": 0, "weights": weights})
    columns = ["run", "method", "seed", "config", "data", "weights", "scores", "commit"]
    return pd.DataFrame(rows, columns=columns).fillna("")


def write_runs(dataset: str, profile: str, seeds: list[int]) -> pd.DataFrame:
    """Write :func:`runs_table` beside the tables that are made of these runs, if there are any runs; returns it."""
    table = runs_table(dataset, profile, seeds)
    if len(table):
        caption = (
            f"Runs that the tables of data set {dataset}, profile {profile}, are made of, "
            f"{count_seeds(profile, seeds)}: hashes of settings, prepared windows, weights (of references without a "
            "network: none) and scores; commit of the source tree when the run began, -dirty if code differed from it."
        )
        parameters = {"seeds": ",".join(map(str, seeds))}
        save_table(table.replace("", None), figures_dir(dataset, profile), RUNS_TABLE, caption, parameters=parameters)
    return table
