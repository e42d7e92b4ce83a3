"""Runs and their results: which variants exist, how one is made, and how runs become tables.

A run is a folder ``runs/<dataset>/<profile>/<variant>/seed<k>/`` that is finished when ``scores.parquet``, its last
file, is in place. Results flow one way: runs, then tables, then figures and README.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
import subprocess
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pandas as pd

from p2es_lib.config import Config, config_hash, get_config
from p2es_lib.errors import InputError, check_choice
from p2es_lib.learned import WEIGHTS_FILE, LearnedTranslator
from p2es_lib.methods import load_method
from p2es_lib.training import CHECKPOINT_FILE, train
from p2es_lib.paths import atomic_path, checkout, run_dir, windows_dir
from p2es_lib.windows import MAX_SEED, WindowSet, read_windows

CONFIG_FILE = "config.json"
SCORES_FILE = "scores.parquet"
#: Distances between distributions: they belong to a whole test set, not to a window.
DISTRIBUTION_FILE = "distribution.csv"


@dataclass(frozen=True)
class Variant:
    """One row of the ablation table: its label and the settings that differ from the full model."""

    label: str
    changes: dict[str, object] = field(default_factory=dict)


#: The full model and one changed thing per row.
VARIANTS: dict[str, Variant] = {
    "p2es": Variant("P2Es"),
    "spectral_blur": Variant("spectral blur", {"process.blur": "spectral"}),
    "no_blur": Variant("no blur", {"process.blur": "none"}),
    "single_scale": Variant("single scale", {"denoiser.scales": (1,)}),
    "ppg_at_input": Variant("PPG enters once, at the finest scale", {"denoiser.ppg_at_every_scale": False}),
    "no_noise_level": Variant("stage 1 is not told t", {"denoiser.noise_level": False}),
    "wiener_only": Variant("deblurring without learned residual", {"denoiser.deblurring_residual": False}),
    "no_deblurring": Variant("no frequency deblurring", {"denoiser.deblurring": False}),
    "no_affinity": Variant("no affinity", {"affinity.mixing": "identity"}),
    "shared_affinity": Variant("one shared affinity matrix", {"affinity.mixing": "shared"}),
    "random_groups": Variant("random groups", {"affinity.mixing": "random"}),
    "demographic_groups": Variant("groups by demographics only", {"affinity.inputs": "demographics"}),
    "waveform_groups": Variant("groups by waveform only", {"affinity.inputs": "waveform"}),
    "no_contrastive": Variant("no contrastive loss", {"affinity.contrastive": False}),
    "nearest_centroid": Variant("nearest centroid instead of KNN", {"affinity.clustering": "centroid"}),
    "no_demographics": Variant("denoiser without demographics", {"denoiser.demographics": False}),
    "no_projection": Variant("no lead projection", {"denoiser.projection": False}),
    "no_phase_features": Variant("no beat-phase features", {"denoiser.phase_features": False}),
}

#: Methods that need no training on this data set, scored beside P2Es.
REFERENCES: dict[str, str] = {
    "template": "Mean-beat template at PPG beats",
    "irreducible": "Irreducible error",
    "irreducible_beats": "Irreducible error, beat times known",
    "transfer": "P2Es trained on simulated data",
}

#: How the estimates of P2Es are called in tables.
ESTIMATE_LABELS = {
    "mean": "{method}, mean of {n_samples} samples",
    "single": "{method}, single sample",
    "direct": "{method}, one-step posterior mean",
}


def configure(profile: str, dataset: str = "simulated", variant: str = "p2es") -> Config:
    """Settings of a variant; unknown profiles, data sets and variants raise an :class:`InputError`."""
    from p2es_lib.sources import parse_dataset

    check_choice("variant", variant, VARIANTS)
    parse_dataset(dataset)
    config = get_config(profile, dataset)
    for setting, value in VARIANTS[variant].changes.items():
        config = config.replace(setting, value)
    return config


def parse_seeds(text: str) -> list[int]:
    """``"0,1,2"`` to [0, 1, 2]; anything else raises an :class:`InputError`."""
    try:
        seeds = sorted({int(part) for part in str(text).split(",")})
    except ValueError:
        seeds = []
    if not seeds or seeds[0] < 0 or seeds[-1] > MAX_SEED:
        raise InputError(f"seeds={text!r}: give whole numbers from 0 to {MAX_SEED}, separated by commas, for example 0,1,2")
    return seeds


def load_windows(config: Config) -> WindowSet:
    """The prepared windows of this configuration's data set and profile, with something to translate to.

    Raises
    ------
    InputError
        No such windows, or a data set that names no ECG lead.
    """
    windows = read_windows(windows_dir(config.dataset, config.profile))
    if not windows.lead_mask.any():
        raise InputError(
            f"data set {config.dataset}: no ECG lead is named, so there is nothing to translate to; it shows timing only "
            "(notebook 01_data). Choose another data set: p2es data sources"
        )
    return windows


def teaching_windows(config: Config, n_leads: int) -> tuple[WindowSet, str]:
    """Windows for the pictures of a teaching notebook, and a note if they are not those of the data set.

    Where fewer than ``n_leads`` leads were recorded, which some bedside data sets do, the idea is shown on a small
    simulated cohort instead.
    """
    windows = load_windows(config)
    if ((windows.lead_mask > 0).sum(axis=1) >= n_leads).mean() > 0.5:
        return windows, ""
    from p2es_lib.sources.simulated import simulate_cohort

    small = get_config("smoke")
    n_recorded = int((windows.lead_mask > 0).sum(axis=1).max())
    note = f"Data set {config.dataset} has {n_recorded} lead(s); this notebook needs {n_leads} and shows simulated windows instead."
    return simulate_cohort(dataclasses.replace(small, signal=config.signal)), note


def data_kind(windows: WindowSet) -> str:
    """What the windows are, for tables: ``"simulated"``, ``"real"``, or ``"real ECG, simulated PPG"``."""
    if "ppg_origin" not in windows.index or (windows.index["ppg_origin"] == "measured").all():
        return "real"
    return "simulated" if windows.index["subject"].str.startswith("sim-").all() else "real ECG, simulated PPG"


def data_hash(config: Config) -> str:
    """Content hash that :func:`p2es_lib.windows.write_windows` stored with the windows."""
    return json.loads((windows_dir(config.dataset, config.profile) / "settings.json").read_text())["content_hash"]


def file_hash(path: Path) -> str:
    """Hash of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def git_commit() -> str:
    """Commit of the source tree, with ``-dirty`` when files differ from it; empty outside a checkout."""
    try:
        command = ["git", "-C", str(checkout()), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _package_versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in ("p2es", "torch", "numpy", "scipy", "scikit-learn", "lightning", "pandas"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = ""
    return versions


def _start_run(config: Config, variant: str, seed: int, hashed: dict) -> tuple[Path, bool]:
    """Folder of the run and whether what lies there was made with the same settings; else it is cleared and marked."""
    folder = run_dir(config.dataset, config.profile, variant, seed)
    hashed = hashed | {"config_hash": config_hash(config), "data_hash": data_hash(config), "seed": seed, "variant": variant}
    path = folder / CONFIG_FILE
    if path.is_file() and json.loads(path.read_text())["made_with"] == hashed:
        return folder, True
    # The checkpoint too: continued on other data, it would carry subjects of the old training split along.
    for name in (SCORES_FILE, DISTRIBUTION_FILE, WEIGHTS_FILE, CHECKPOINT_FILE):
        (folder / name).unlink(missing_ok=True)
    record = {"made_with": hashed, "config": config.to_dict(), "versions": _package_versions(), "git_commit": git_commit()}
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")
    return folder, False


def _write_scores(scores: pd.DataFrame, distribution: pd.DataFrame, folder: Path) -> pd.DataFrame:
    with atomic_path(folder / DISTRIBUTION_FILE) as temporary:
        distribution.to_csv(temporary, index=False)
    with atomic_path(folder / SCORES_FILE) as temporary:  # last: its presence says that the run is finished
        scores.to_parquet(temporary, index=False)
    return scores


def train_run(config: Config, variant: str, seed: int, *, fabric=None, progress: bool = True) -> LearnedTranslator:
    """Train a variant, or load what an earlier call trained with the same settings.

    ``fabric``: a launched ``lightning.fabric.Fabric`` for several devices or nodes (``p2es train`` makes one).
    """
    # The first process prepares the folder, the others find it prepared.
    if fabric is not None and not fabric.is_global_zero:
        fabric.barrier()
    folder, same = _start_run(config, variant, seed, {})
    if fabric is not None and fabric.is_global_zero:
        fabric.barrier()
    if same and (folder / WEIGHTS_FILE).is_file():
        return load_method(folder)
    run_hash = f"{config_hash(config)}-{data_hash(config)}-{seed}"
    return train(config, load_windows(config), folder, seed=seed, run_hash=run_hash, fabric=fabric, progress=progress)


def score_run(model: LearnedTranslator, config: Config, variant: str, seed: int, *, progress: bool = True) -> pd.DataFrame:
    """Translate the test windows and write ``scores.parquet``; returns the scores, from the file if it is there."""
    from tqdm.auto import tqdm

    from p2es_lib.metrics import evaluate, frechet_table

    folder, same = _start_run(config, variant, seed, {})
    if same and (folder / SCORES_FILE).is_file():
        return pd.read_parquet(folder / SCORES_FILE)
    test = load_windows(config).split("test")
    ppg, n_samples = np.array(test.ppg), config.sampling.n_samples
    options = {"max_lag_s": config.evaluation.max_lag_s}
    with tqdm(total=len(test), desc="translating test windows", disable=not progress) as bar:
        samples = model.translate(ppg, test.demographics, n_samples=n_samples, generator=seed, progress=lambda n: bar.update(n - bar.n))
    direct = model.translate(ppg, test.demographics, n_samples=1, n_steps=1, generator=seed)
    rate = config.signal.sampling_rate
    scores = evaluate(samples.numpy(), test, rate, **options)
    direct_scores = evaluate(direct.numpy(), test, rate, estimates=("mean",), **options).assign(estimate="direct")
    distribution = frechet_table(samples.numpy(), test, rate, estimates=("mean", "single"))
    return _write_scores(pd.concat([scores, direct_scores], ignore_index=True), distribution, folder)


def references_for(config: Config) -> list[str]:
    """References that exist for a data set: the floors need known latents, the transfer a model trained on simulation."""
    if config.dataset == "simulated":
        return ["template", "irreducible", "irreducible_beats"]
    return ["template"] + (["transfer"] if (_simulated_run(config) / WEIGHTS_FILE).is_file() else [])


def _simulated_run(config: Config) -> Path:
    return run_dir("simulated", config.profile, "p2es", 0)


def score_reference(config: Config, name: str, *, progress: bool = True) -> pd.DataFrame:
    """Score a reference on the test windows; returns the scores, from the run folder if they are there.

    Raises
    ------
    InputError
        Unknown reference, or one that this data set cannot have: the irreducible error of real data, which nobody
        knows; the transfer from simulated data before a model has been trained there.
    """
    from p2es_lib.metrics import evaluate, frechet_table

    check_choice("reference", name, REFERENCES)
    if name not in references_for(config):
        raise InputError(
            f"reference {name!r} does not exist for data set {config.dataset!r} here: the irreducible error needs known "
            f"latents (simulated data), the transfer a model: make reproduce DATASET=simulated PROFILE={config.profile}"
        )
    source = {"weights": file_hash(_simulated_run(config) / WEIGHTS_FILE)} if name == "transfer" else {}
    folder, same = _start_run(config, name, 0, source)
    if same and (folder / SCORES_FILE).is_file():
        return pd.read_parquet(folder / SCORES_FILE)
    windows = load_windows(config)
    test = windows.split("test")
    ppg = np.array(test.ppg)
    if name == "template":
        from p2es_lib.baselines.template import MeanBeatTemplate

        estimate = MeanBeatTemplate(config).fit(windows.split("train")).translate(ppg, test.demographics).numpy()
    elif name == "transfer":
        model = load_method(_simulated_run(config))
        estimate = model.translate(ppg, test.demographics, n_samples=config.sampling.n_samples).numpy()
    else:
        estimate = _conditional_mean(config, "pulses" if name == "irreducible" else "beats", progress)
    rate = config.signal.sampling_rate
    scores = evaluate(estimate, test, rate, max_lag_s=config.evaluation.max_lag_s, estimates=("mean",))
    if name.startswith("irreducible"):
        # The mean of M draws misses the true conditional mean by variance / M: E|x - mean_M|^2 = (1 + 1/M) s^2.
        squared = scores["metric"].str.startswith("mse")
        scores.loc[squared, "value"] /= 1 + 1 / config.evaluation.n_floor_draws
    return _write_scores(scores, frechet_table(estimate, test, rate, estimates=("mean",)), folder)


def _conditional_mean(config: Config, hold: str, progress: bool) -> np.ndarray:
    """Mean ECG given what PPG and demographics reveal, for the test windows: (N, 1, 12, T) mV."""
    from p2es_lib.simulator import conditional_mean_ecg
    from p2es_lib.sources.simulated import simulated_split, simulator_config

    cohort, settings = simulated_split(config, "test"), simulator_config(config)
    n_draws = config.evaluation.n_floor_draws
    return conditional_mean_ecg(cohort, settings, n_draws=n_draws, hold=hold, progress=progress).mean[:, None]


def _load(dataset: str, profile: str, variant: str, seeds: list[int], name: str) -> pd.DataFrame:
    """One file of finished runs, with a column ``seed``; a missing run is an error that names the command making it."""
    frames = []
    for seed in seeds:
        folder = run_dir(dataset, profile, variant, seed)
        if not (folder / SCORES_FILE).is_file():
            notebook = "07_results" if variant in REFERENCES else f"05_train --variant {variant} --seed {seed}"
            command = f"p2es notebook {notebook} --dataset {dataset} --profile {profile}"
            raise InputError(f"{folder / SCORES_FILE}: this run is missing; make it with: {command}")
        path = folder / name
        frames.append((pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)).assign(seed=seed))
    return pd.concat(frames, ignore_index=True)


def load_scores(dataset: str, profile: str, variant: str, seeds: list[int]) -> pd.DataFrame:
    """Scores of finished runs of a variant (or of a reference), with a column ``seed``."""
    return _load(dataset, profile, variant, [0] if variant in REFERENCES else seeds, SCORES_FILE)


def _load_distribution(dataset: str, profile: str, variant: str, seeds: list[int]) -> pd.DataFrame:
    """Distances between distributions, averaged over seeds; their bounds are averaged too, so they stay per training."""
    table = _load(dataset, profile, variant, [0] if variant in REFERENCES else seeds, DISTRIBUTION_FILE)
    keys = ["lead", "estimate", "metric", "n_subjects"]
    return table.groupby(keys, sort=False)[["value", "lower", "upper"]].mean().reset_index()


def bootstrap_unit(scores: pd.DataFrame) -> str:
    """What intervals are drawn over: subjects, or blocks of windows where there are fewer than three subjects."""
    return "subject" if scores["subject"].nunique() >= 3 else "window"


def _method_labels(config: Config, variant: str, estimates: pd.Series) -> pd.Series:
    if variant in REFERENCES:
        return estimates.map(lambda _: REFERENCES[variant])
    names = {"method": VARIANTS[variant].label, "n_samples": config.sampling.n_samples}
    return estimates.map(lambda estimate: ESTIMATE_LABELS[estimate].format(**names))


def results_table(config: Config, variants: list[str], seeds: list[int]) -> pd.DataFrame:
    """The headline table: one row per method, lead and metric.

    Returns
    -------
    DataFrame
        Columns method, lead, metric, value, lower, upper, n_subjects, seeds, data. Intervals are 95 % bootstrap intervals
        over subjects; they cover neither the noise of training nor the choice of the cohort's settings. Where the data
        set has fewer than three subjects, blocks of consecutive windows are drawn instead: optimistic, see
        :func:`p2es_lib.metrics.summarise`.
    """
    from p2es_lib.metrics import summarise

    tables, kind = [], data_kind(load_windows(config))
    for variant in variants:
        scores = load_scores(config.dataset, config.profile, variant, seeds)
        table = summarise(scores, config.evaluation.n_bootstrap, unit=bootstrap_unit(scores))
        table = pd.concat([table, _load_distribution(config.dataset, config.profile, variant, seeds)], ignore_index=True)
        table["method"] = _method_labels(config, variant, table["estimate"])
        table["seeds"] = scores["seed"].nunique()
        table["data"] = kind
        tables.append(table)
    columns = ["method", "lead", "metric", "value", "lower", "upper", "n_subjects", "seeds", "data"]
    return pd.concat(tables, ignore_index=True)[columns]


def distance_to_floor(config: Config, variants: list[str], seeds: list[int]) -> pd.DataFrame:
    """How far each method is above the irreducible error, split into timing, amplitude and morphology.

    Mean squared errors (mV^2) add up, root-mean-square errors do not, so the split is of the squared error. The parts
    of the floor itself are subtracted: what remains is what a better method could still gain. Bootstrap intervals are
    paired over subjects.

    Returns
    -------
    DataFrame
        Columns method, metric (mse and its three parts), value, lower, upper (all above the floor), floor, n_subjects.
    """
    from p2es_lib.metrics import summarise, summarise_difference

    floor = load_scores(config.dataset, config.profile, "irreducible", seeds)
    parts = ["mse", "mse_timing", "mse_amplitude", "mse_morphology"]
    floor_values = summarise(floor, 1).query("lead == 'all'").set_index("metric")["value"]
    tables = []
    for variant in variants:
        scores = load_scores(config.dataset, config.profile, variant, seeds)
        table = summarise_difference(scores, floor, config.evaluation.n_bootstrap)
        table["method"] = _method_labels(config, variant, table["estimate"])
        tables.append(table[(table["lead"] == "all") & table["metric"].isin(parts)])
    table = pd.concat(tables, ignore_index=True)
    table["floor"] = table["metric"].map(floor_values)
    return table[["method", "metric", "value", "lower", "upper", "floor", "n_subjects"]]
