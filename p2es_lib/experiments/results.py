"""From runs to tables: averages, intervals, differences, the distance to what cannot be known; which runs they are."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from p2es_lib.core.config import Config, get_config
from p2es_lib.core.errors import InputError
from p2es_lib.core.paths import PRETRAINED, figures_dir, home, run_dir
from p2es_lib.core.weights import WEIGHTS_FILE, simulated_model_folder
from p2es_lib.evaluation.metrics import summarise, summarise_difference
from p2es_lib.evaluation.metrics.summary import ROOTS, holm
from p2es_lib.evaluation.metrics.uncertainty import level_name
from p2es_lib.experiments import runs
from p2es_lib.experiments.runs import data_kind, load_windows
from p2es_lib.experiments.variants import FLOORS, KINDS, REFERENCES, VARIANTS, count_seeds, seeds_of, variants_of
from p2es_lib.plots.saving import RUNS_TABLE, save_table

#: How the estimates of a method that draws samples are called in tables.
ESTIMATE_LABELS = {"mean": "{method}, mean of {n_samples} samples", "single": "{method}, single sample",
                   "direct": "{method}, one-step posterior mean"}  # fmt: skip
#: Metrics of all samples together that stand in the headline table.
OF_DISTRIBUTION = ("crps", *(level_name("coverage", level) for level in (0.80, 0.95)))


def load_scores(
    dataset: str, profile: str, variant: str, seeds: list[int], file: str = runs.SCORES_FILE
) -> pd.DataFrame:
    """One file of finished runs, with a column ``seed``; a missing run is an error that names the command making it."""
    frames = []
    for seed in [0] if variant in REFERENCES else seeds_of(profile, variant, seeds):
        run = dataset, profile, variant, seed
        folder, command = run_dir(*run), runs.training_command(*run)
        if not (folder / runs.SCORES_FILE).is_file():
            raise InputError(f"{folder / runs.SCORES_FILE}: this run is missing; make it with: {command}")
        read = pd.read_parquet if file.endswith(".parquet") else pd.read_csv
        frames.append(read(folder / file).assign(seed=seed))
    return pd.concat(frames, ignore_index=True)


def bootstrap_unit(scores: pd.DataFrame) -> str:
    """What is resampled: subjects, or, optimistic, blocks of windows where there are fewer than three subjects."""
    return "subject" if scores["subject"].nunique() >= 3 else "window"


def _label(variant: str) -> str:
    return REFERENCES[variant] if variant in REFERENCES else VARIANTS[variant].label


def _method_labels(config: Config, variant: str, estimates: pd.Series) -> pd.Series:
    names = {"method": _label(variant), "n_samples": config.sampling.n_samples}
    words = ESTIMATE_LABELS
    if set(estimates) == {"mean"} or variant in FLOORS:  # one answer, or the mean of all possible ones
        words = words | {"mean": "{method}"}
    return estimates.map(lambda estimate: words[estimate].format(**names))


def results_table(config: Config, variants: list[str], seeds: list[int]) -> pd.DataFrame:
    """The headline table: method, lead, metric, value, 95 % bootstrap interval over subjects (:func:`bootstrap_unit`;
    it covers neither the noise of training nor the choice of the cohort's settings), n_subjects, seeds, data.
    """
    tables, kind = [], data_kind(load_windows(config))
    for variant in variants:
        scores = load_scores(config.dataset, config.profile, variant, seeds)
        # What the samples are as a distribution stands in the row of their mean; notebook 09 has more of it.
        scores = scores[(scores["estimate"] != "samples") | scores["metric"].isin(OF_DISTRIBUTION)]
        scores = scores.assign(estimate=scores["estimate"].replace("samples", "mean"))
        table = summarise(scores, config.evaluation.n_bootstrap, unit=bootstrap_unit(scores))
        # Distances are averaged over seeds, as are their bounds, which so stay per training.
        distances = load_scores(config.dataset, config.profile, variant, seeds, runs.DISTRIBUTION_FILE)
        distances = distances.groupby(["lead", "estimate", "metric", "n_subjects"], sort=False)
        distances = distances[["value", "lower", "upper"]].mean().reset_index()
        table = pd.concat([table, distances], ignore_index=True)
        labels = _method_labels(config, variant, table["estimate"])
        tables.append(table.assign(method=labels, seeds=scores["seed"].nunique(), data=kind))
    columns = ["method", "lead", "metric", "value", "lower", "upper", "n_subjects", "seeds", "data"]
    return pd.concat(tables, ignore_index=True)[columns]


#: Metrics that variants are compared by, and of which estimate: pointwise ones of the mean of samples, what an ECG
#: looks like of a single one, and the CRPS of all samples. The mean of K samples carries a Kth of their variance, so
#: pointwise errors punish admitted uncertainty; the fair CRPS (Ferro 2014) is the same for any K, lowest for the truth.
COMPARED = {"crps": "samples", **dict.fromkeys(("rmse", "rmse_lag", "pearson_lag", "r_peak_f1_lag"), "mean"),
            "log_spectral_distance": "single", "ppe": "single"}  # fmt: skip
#: Resamples behind the p-values of differences: with fewer, a correction for many comparisons would leave none small.
_N_BOOTSTRAP_P = 10_000


def difference_table(config: Config, variants: list[str], seeds: list[int], reference: str = "p2es") -> pd.DataFrame:
    """Each variant minus the full model, a row per metric of :data:`COMPARED`, paired on the same test subjects, of
    means over seeds; seed_min and seed_max: least and largest difference of a single training to that of the same seed;
    p_holm is corrected over variants. A method with one estimate is compared by it throughout: with the mean of the
    full model's samples where errors are pointwise, else with single samples. The CRPS of one answer is its MAE.
    """
    full = load_scores(config.dataset, config.profile, reference, seeds)
    kind, unit, rows = data_kind(load_windows(config)), bootstrap_unit(full), []
    for variant in variants:
        scores = load_scores(config.dataset, config.profile, variant, seeds)
        on_same = full["window"].isin(scores["window"].unique())  # of real recordings, not all have a reference
        seeds_here = seeds_of(config.profile, variant, seeds) if variant in VARIANTS else seeds
        about = VARIANTS[variant].about if variant in VARIANTS else "reference"
        for found in _differences(scores, full[on_same & full["seed"].isin(seeds_here)], seeds_here, unit):
            rows.append({"variant": variant, "method": _label(variant), "about": about} | found)
    table = pd.DataFrame(rows).assign(data=kind)
    corrected = table.groupby("metric", sort=False)["p_value"].transform(lambda p: holm(p.to_numpy()))
    table.insert(table.columns.get_loc("p_value") + 1, "p_holm", corrected)
    return table


def _differences(scores: pd.DataFrame, full: pd.DataFrame, seeds: list[int], unit: str) -> Iterator[dict]:
    """Difference of one variant to the full model in every metric that both have."""
    deterministic = set(scores["estimate"]) == {"mean"}
    for metric, estimate in COMPARED.items():
        squared = ROOTS.get(metric, metric)
        own = "mean" if deterministic else estimate
        own_metric = "mae" if deterministic and metric == "crps" else squared
        parts = []
        for table, which, of in ((scores, own, own_metric), (full, estimate, squared)):
            rows = (table["metric"] == of) & (table["lead"] == "all") & (table["estimate"] == which)
            parts.append(table[rows].assign(metric=squared))
        if any(part.empty for part in parts):
            continue
        options = {"reference_estimate": estimate, "unit": unit}
        row = summarise_difference(*parts, _N_BOOTSTRAP_P, **options).set_index("metric").loc[metric]
        of_seeds = ((_of_seed(part, seed) for part in parts) for seed in seeds)
        single = [summarise_difference(*one, 1, **options).set_index("metric")["value"][metric] for one in of_seeds]
        yield {
            "metric": metric,
            "estimate": own,
            "value": summarise(parts[0], 1, unit=unit).set_index("metric").loc[metric, "value"],
            "difference": row["value"],
            **row[["lower", "upper", "p_value"]],
            "seed_min": min(single),
            "seed_max": max(single),
            "n_subjects": row["n_subjects"],
            "seeds": len(seeds),
        }


def _of_seed(table: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Scores of one training; a reference has one set of scores for all seeds."""
    own = table[table["seed"] == seed]
    return table if own.empty else own


def distance_to_floor(config: Config, variants: list[str], seeds: list[int]) -> pd.DataFrame:
    """How far mean squared errors (mV^2) are above the irreducible one, and their parts, which add up; paired."""
    floor = load_scores(config.dataset, config.profile, "irreducible", seeds)
    parts = ["mse", "mse_timing", "mse_amplitude", "mse_morphology"]
    floor_values = summarise(floor, 1).query("lead == 'all' and estimate == 'mean'").set_index("metric")["value"]
    tables = []
    for variant in variants:
        scores = load_scores(config.dataset, config.profile, variant, seeds)
        table = summarise_difference(scores, floor, config.evaluation.n_bootstrap)
        table["method"] = _method_labels(config, variant, table["estimate"])
        tables.append(table[(table["lead"] == "all") & table["metric"].isin(parts)])
    table = pd.concat(tables, ignore_index=True)
    table["floor"] = table["metric"].map(floor_values)
    return table[["method", "metric", "value", "lower", "upper", "floor", "n_subjects"]]


def _describe(folder: Path) -> dict[str, object]:
    """Row of a finished run; what its files do not say is left empty."""
    record = runs.read_record(folder)
    made_with = record["made_with"]
    variant, seed = folder.parent.name, int(folder.name.removeprefix("seed"))
    weights = folder / WEIGHTS_FILE
    return {
        "run": folder.relative_to(home() / "runs").as_posix(),
        "method": _label(variant),
        "seed": seed,
        "config": made_with.get("config_hash", ""),
        "data": made_with.get("data_hash", ""),
        # A run that only uses the weights of another one notes whose they were.
        "weights": runs.file_hash(weights) if weights.is_file() else made_with.get("weights", ""),
        "scores": runs.file_hash(folder / runs.SCORES_FILE),
        "commit": record.get("git_commit", ""),
    }


def runs_table(dataset: str, profile: str, seeds: list[int]) -> pd.DataFrame:
    """The finished runs that the workflow's tables are made of: of this profile's variants, of the references, and, for
    real recordings, of the P2Es that was carried over to them. Hashes are of the settings, the prepared windows and the
    files' bytes, the commit is that when the run began. No dates: equal runs give equal tables.
    """
    learned = ["p2es", *(name for kind in KINDS for name in variants_of(profile, kind, dataset))]
    folders = [run_dir(dataset, profile, name, seed) for name in learned for seed in seeds_of(profile, name, seeds)]
    folders += [run_dir(dataset, profile, name, 0) for name in runs.references_for(get_config(profile, dataset))]
    carried_over = simulated_model_folder(profile) if dataset != "simulated" else None
    folders += [carried_over] if carried_over not in (None, PRETRAINED) else []
    rows = [_describe(folder) for folder in folders if (folder / runs.SCORES_FILE).is_file()]
    if rows and carried_over == PRETRAINED:
        weights = runs.file_hash(PRETRAINED / WEIGHTS_FILE)
        rows.append({"run": "p2es_lib/pretrained", "method": VARIANTS["p2es"].label, "seed": 0, "weights": weights})
    columns = ["run", "method", "seed", "config", "data", "weights", "scores", "commit"]
    return pd.DataFrame(rows, columns=columns).fillna("")


def write_runs(dataset: str, profile: str, seeds: list[int]) -> pd.DataFrame:
    """Write :func:`runs_table` beside the tables that are made of these runs, if there are any runs; returns it."""
    table = runs_table(dataset, profile, seeds)
    if len(table):
        caption = f"Runs that the tables of data set {dataset}, profile {profile}, are made of, "
        caption += f"{count_seeds(profile, seeds)}: hashes of settings, prepared windows, weights (of references "
        caption += "without a network: none) and scores; commit of the source tree when the run began, -dirty if code "
        caption += "differed from it."
        parameters = {"seeds": ",".join(map(str, seeds))}
        save_table(table.replace("", None), figures_dir(dataset, profile), RUNS_TABLE, caption, parameters=parameters)
    return table
