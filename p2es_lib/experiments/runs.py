"""Runs: how one is made, scored, reused and found.

A run is a folder ``runs/<dataset>/<profile>/<variant>/seed<k>/`` that is finished when ``scores.parquet``, its last
file, is in place. Results flow one way: runs, then tables, then figures and README.
"""

import dataclasses
import hashlib
import json
import platform
import subprocess
from contextlib import nullcontext, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from p2es_lib.baselines.pasted import PastedBeats
from p2es_lib.baselines.ridge import LaggedRidge
from p2es_lib.baselines.template import MeanBeatTemplate
from p2es_lib.core.config import Config, config_hash, get_config, real_profile, same_settings
from p2es_lib.core.demographics import Demographics
from p2es_lib.core.errors import InputError, check_choice
from p2es_lib.core.learned import LearnedTranslator, load_method
from p2es_lib.core.paths import PACKAGE, atomic_path, checkout, run_dir, windows_dir
from p2es_lib.core.processes import git
from p2es_lib.core.reference import Reference
from p2es_lib.core.weights import CARD_FILE, WEIGHTS_FILE, simulated_model_folder
from p2es_lib.data.sources.simulated import simulate_cohort, simulated_split
from p2es_lib.data.windows import WindowSet, read_settings, read_windows, simulator_config
from p2es_lib.evaluation.metrics import evaluate, frechet_table
from p2es_lib.experiments.fine_tuned import translate_fine_tuned
from p2es_lib.experiments.regimes import REFERENCE_S, references_of
from p2es_lib.experiments.variants import FLOORS, REFERENCED, REFERENCES, VARIANTS
from p2es_lib.simulator import conditional_mean_ecg, irreducible_rmse
from p2es_lib.training.loop import CHECKPOINT_FILE, train

CONFIG_FILE = "config.json"
SCORES_FILE = "scores.parquet"
#: Distances between distributions: they belong to a whole test set, not to a window.
DISTRIBUTION_FILE = "distribution.csv"
#: Samples of the test windows as they were scored, for what measures them otherwise; larger ones are drawn again.
SAMPLES_FILE, MAX_KEPT_BYTES = "samples.npy", 500_000_000
#: Settings that decide how trained weights are used and judged, not what they are.
_OF_USE = ("sampling", "evaluation")
#: Rooms that show, command and translate; no number of a run comes from them.
_NO_RESULTS = ("cli", "companion", "plots", "translation")
# What decides results and is no module: how runs are started, and with which packages.
_BESIDE_CODE = ("Snakefile", "pyproject.toml", "requirements-lock.txt")


def load_windows(config: Config) -> WindowSet:
    """The prepared windows of this configuration's data set and profile, an InputError if they name no ECG lead."""
    windows = read_windows(windows_dir(config.dataset, config.profile))
    if not windows.lead_mask.any():
        problem = f"data set {config.dataset}: no ECG lead is named, so there is nothing to translate to"
        raise InputError(f"{problem}; it shows timing only (notebook 01_data), choose another: p2es data sources")
    return windows


def simulated_windows(config: Config) -> WindowSet:
    """The simulated cohort of this configuration, made now, as notebook 01 does, if it is not there yet."""
    if read_settings(windows_dir(config.dataset, config.profile)) is None:
        from p2es_lib.data.preparation import prepare_windows

        nothing = f"no prepared windows of profile {config.profile} yet"
        print(f"{nothing}: simulating the cohort, once (notebook 01 shows it)", flush=True)
        prepare_windows(config)
    return load_windows(config)


def teaching_windows(config: Config, n_leads: int = 0) -> tuple[WindowSet, str]:
    """Windows for a teaching notebook's pictures, and a note if they are simulated for want of ``n_leads`` leads."""
    windows = simulated_windows(config) if config.dataset == "simulated" else load_windows(config)
    recorded = (windows.lead_mask > 0).sum(axis=1)
    if (recorded >= n_leads).mean() > 0.5:
        return windows, ""
    note = f"Data set {config.dataset} has {int(recorded.max())} lead(s); this notebook needs {n_leads}"
    windows = simulate_cohort(dataclasses.replace(get_config("smoke"), signal=config.signal))
    return windows, f"{note} and shows simulated windows instead."


def data_kind(windows: WindowSet) -> str:
    """What the windows are, for tables: ``"simulated"``, ``"real"``, or ``"real ECG, simulated PPG"``."""
    if "ppg_origin" not in windows.index or (windows.index["ppg_origin"] == "measured").all():
        return "real"
    return "simulated" if windows.index["subject"].str.startswith("sim-").all() else "real ECG, simulated PPG"


def data_hash(config: Config) -> str:
    """Content hash that :func:`p2es_lib.data.windows.store.write_windows` stored with the windows."""
    folder = windows_dir(config.dataset, config.profile)
    if (settings := read_settings(folder)) is None:
        read_windows(folder)  # says what is missing, and the command that makes it
    return settings["content_hash"]


def file_hash(path: Path) -> str:
    """Hash of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def git_commit() -> str:
    """Commit of the source tree, with ``-dirty`` if what decides results differs from it; empty outside a checkout."""
    unknown = f"ls-files --others --exclude-standard {PACKAGE.name}"
    asked = ("rev-parse --short=12 HEAD", "diff --name-only HEAD", unknown)
    try:
        commit, *changed = "".join(git(checkout(), *words.split()) for words in asked).splitlines()
    except (OSError, subprocess.SubprocessError):
        return ""
    return f"{commit}-dirty" if any(map(_decides_results, changed)) else commit


def _decides_results(name: str) -> bool:
    """Whether a file of the source tree decides what comes out of a run or a table."""
    folder, _, inside = name.partition("/")
    if folder == PACKAGE.name:
        return inside.partition("/")[0] not in _NO_RESULTS
    return folder == "notebooks" or name in _BESIDE_CODE


def package_versions(*names: str) -> dict[str, str]:
    """Version of Python and of each package, "" where it is not installed."""
    versions = {"python": platform.python_version()} | dict.fromkeys(names, "")
    for name in names:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def _start_run(config: Config, variant: str, seed: int, hashed: dict) -> tuple[Path, bool]:
    """Folder of the run and whether what lies there was made with the same settings; else it is cleared and marked."""
    folder = run_dir(config.dataset, config.profile, variant, seed)
    made_with = hashed | {"data_hash": data_hash(config), "seed": seed, "variant": variant}
    there = read_record(folder)
    # Its hash of the settings only tells a reader which those were; a setting that is new since would change it.
    stored = {key: value for key, value in there["made_with"].items() if key != "config_hash"}
    if stored == made_with and same_settings(there["config"], config.to_dict()):
        return folder, True
    # The checkpoint too: continued on other data, it would carry subjects of the old training split along.
    for name in (SCORES_FILE, DISTRIBUTION_FILE, SAMPLES_FILE, CARD_FILE, WEIGHTS_FILE, CHECKPOINT_FILE):
        (folder / name).unlink(missing_ok=True)
    record = {
        "made_with": made_with | {"config_hash": config_hash(config)},
        "config": config.to_dict(),
        "versions": package_versions("p2es", "torch", "numpy", "scipy", "scikit-learn", "lightning", "pandas"),
        "git_commit": git_commit(),
    }
    with atomic_path(folder / CONFIG_FILE) as temporary:
        temporary.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")
    return folder, False


def read_record(folder: Path) -> dict:
    """``config.json`` of a run: ``config``, ``made_with`` and the like; empty sections where there is none."""
    path = folder / CONFIG_FILE
    return {"config": {}, "made_with": {}} | (json.loads(path.read_text()) if path.is_file() else {})


def settings_name(dataset: str, profile: str) -> str:
    """Hash by which the workflow knows a profile's settings: that of its runs, if equal but for new settings."""
    config = get_config(profile, dataset)
    for record in map(read_record, sorted(run_dir(dataset, profile, "p2es", 0).parent.glob("seed*"))):
        if same_settings(record["config"], config.to_dict()):
            return record["made_with"]["config_hash"]
    return config_hash(config)


def _write_scores(scores: pd.DataFrame, distribution: pd.DataFrame, folder: Path) -> pd.DataFrame:
    with atomic_path(folder / DISTRIBUTION_FILE) as temporary:
        distribution.to_csv(temporary, index=False)
    with atomic_path(folder / SCORES_FILE) as temporary:  # last: its presence says that the run is finished
        scores.to_parquet(temporary, index=False)
    return scores


def train_run(config: Config, variant: str, seed: int, *, fabric=None, progress: bool = True) -> LearnedTranslator:
    """Train a variant, or load what an earlier call trained with the same settings; of a variant that only uses
    another's weights (:attr:`Variant.weights_of`) those, or an InputError with the command. ``fabric`` is launched.
    """
    if weights_of := VARIANTS[variant].weights_of:
        model = load_method(_weights(config, weights_of, seed).parent)
        model.config = dataclasses.replace(model.config, sampling=config.sampling)
        return model
    with fabric.rank_zero_first() if fabric else nullcontext():  # which prepares the folder
        folder, same = _start_run(config, variant, seed, {})
    if same and (folder / WEIGHTS_FILE).is_file():
        return load_method(folder)
    made_with = read_record(folder)["made_with"]
    run_hash = f"{made_with['config_hash']}-{made_with['data_hash']}-{seed}"
    return train(config, load_windows(config), folder, seed=seed, run_hash=run_hash, fabric=fabric, progress=progress)


def _weights(config: Config, variant: str, seed: int) -> Path:
    run = config.dataset, config.profile, variant, seed
    path, command = run_dir(*run) / WEIGHTS_FILE, training_command(*run)
    if not path.is_file():
        raise InputError(f"{path}: this run is missing; make it with: {command}")
    # Weights that saw other windows may have been trained on those that are test windows now.
    record = read_record(path.parent)
    now = {part: settings for part, settings in config.to_dict().items() if part not in _OF_USE}
    if not same_settings(record["config"], now) or record["made_with"]["data_hash"] != data_hash(config):
        raise InputError(f"{path}: trained with other settings or on other windows than now; train anew: {command}")
    return path


def training_command(dataset: str, profile: str, variant: str, seed: int) -> str:
    """The command that makes a run, or scores a reference."""
    if variant in VARIANTS and VARIANTS[variant].weights_of:
        return f"p2es score --variant {variant} --seed {seed} --dataset {dataset} --profile {profile}"
    notebook = "06_baselines" if variant in REFERENCES else f"05_train --variant {variant} --seed {seed}"
    return f"p2es notebook {notebook} --dataset {dataset} --profile {profile}"


def told_demographics(demographics: Demographics, kind: str) -> Demographics:
    """Age and sex as told in a test: ``"given"``, ``"hidden"``, or ``"wrong"``: other sex, age mirrored at 54 years."""
    if kind == "given":
        return demographics
    if kind == "hidden":
        return Demographics.missing(len(demographics))
    other = np.array([{"F": "M", "M": "F"}.get(sex, "") for sex in demographics.sex], dtype=object)
    return Demographics(np.clip(108.0 - demographics.age, 18.0, 90.0), other)


def scored_windows(config: Config) -> tuple[WindowSet, Reference | None]:
    """The test windows that are scored, and their references as ``config.evaluation`` says; None: without.

    Of real recordings, those that have such a reference: an InputError if none has. Their index then says which test
    windows they are (column ``window``), so that another method can be compared on the same ones.
    """
    test, asked = load_windows(config).split("test"), config.evaluation
    reference = references_of(config, test, asked.reference, asked.session)
    if reference is None or "subject_number" in test.index:
        return test, reference
    if not (has := reference.given.any(dim=1)).any():
        kind = f"{asked.reference}, {asked.session} session"
        problem = f"data set {config.dataset}: no test window has a reference ({kind})"
        needed = f"a record longer than {REFERENCE_S:g} s (other: two records of a person) with one of these leads"
        raise InputError(f"{problem}; it takes {needed}: try another session or regime, or add recordings")
    rows = np.flatnonzero(has)
    some = test.select(rows)
    return dataclasses.replace(some, index=some.index.assign(window=rows)), reference[has]


def translate_test(model: LearnedTranslator, config: Config, seed: int, *, progress: bool = True) -> np.ndarray:
    """Samples of the test windows, (N, K, 12, T) mV, as they are scored; K is 1 for a deterministic method."""
    test, reference = scored_windows(config)
    told = told_demographics(test.demographics, config.evaluation.demographics)
    if config.evaluation.fine_tuned:
        return translate_fine_tuned(model, config, test, told, reference, progress).numpy()
    n_samples = config.sampling.n_samples if model.stochastic else 1
    with tqdm(total=len(test), desc="translating test windows", disable=not progress) as bar:
        options = {"generator": seed, "reference": reference, "progress": lambda n: bar.update(n - bar.n)}
        return model.translate(np.array(test.ppg), told, n_samples=n_samples, **options).numpy()


def drawn_samples(model: LearnedTranslator, config: Config, variant: str, seed: int) -> np.ndarray:
    """Samples as of :func:`translate_test`: those that :func:`score_run` kept, or drawn again where it kept none."""
    folder = run_dir(config.dataset, config.profile, variant, seed)
    if (folder / SCORES_FILE).is_file() and (folder / SAMPLES_FILE).is_file():
        record = read_record(folder)
        if record["made_with"]["data_hash"] == data_hash(config) and same_settings(record["config"], config.to_dict()):
            return np.load(folder / SAMPLES_FILE)
    return translate_test(model, config, seed)


def score_run(model: LearnedTranslator, config: Config, variant: str, seed: int, *, progress=True) -> pd.DataFrame:
    """Translate the test windows and write ``scores.parquet``; returns the scores, from the file if it is there."""
    weights_of = VARIANTS[variant].weights_of
    hashed = {"weights": file_hash(_weights(config, weights_of, seed))} if weights_of else {}
    folder, same = _start_run(config, variant, seed, hashed)
    if same and (folder / SCORES_FILE).is_file():
        return pd.read_parquet(folder / SCORES_FILE)
    samples = translate_test(model, config, seed, progress=progress)
    if VARIANTS[variant].about in ("", "baseline") and samples.nbytes <= MAX_KEPT_BYTES:
        with atomic_path(folder / SAMPLES_FILE) as temporary, open(temporary, "wb") as file:
            np.save(file, samples)
    # The one-step estimate is the same whatever the steps of the sampler.
    one_step = not weights_of or config.evaluation.reference != "none"
    return _write_scores(*_scores_of_model(model, samples, config, seed, one_step=one_step), folder)


def _scores_of_model(model, samples: np.ndarray, config: Config, seed: int, *, one_step: bool = True) -> tuple:
    """Scores of the test windows and distances between distributions, of every estimate that the method has."""
    (test, reference), rate = scored_windows(config), config.signal.sampling_rate
    options = {"max_lag_s": config.evaluation.max_lag_s}
    estimates = ("mean", "single") if model.stochastic else ("mean",)
    judged = (*estimates, "samples") if samples.shape[1] > 1 else estimates
    scores = [evaluate(samples, test, rate, estimates=judged, **options)]
    if model.has_direct_estimate and one_step:
        demographics = told_demographics(test.demographics, config.evaluation.demographics)
        direct = model.translate(
            np.array(test.ppg), demographics, reference=reference, n_samples=1, n_steps=1, generator=seed
        )
        scores.append(evaluate(direct.numpy(), test, rate, estimates=("mean",), **options).assign(estimate="direct"))
    return pd.concat(scores, ignore_index=True), frechet_table(samples, test, rate, estimates=estimates)


def references_for(config: Config) -> list[str]:
    """References of all test windows of a data set: the floors need known latents, the transfer a model to carry over.

    One's own beat is pasted in real recordings too, but not in all windows: see :func:`scored_windows`.
    """
    always = ["template", "template_groups", "ridge", "pasted"]
    if config.dataset == "simulated":
        return [*always, *(f"pasted_{name}" for name, *_ in REFERENCED), *FLOORS]
    return always + (["transfer"] if (simulated_model_folder(config.profile) / WEIGHTS_FILE).is_file() else [])


def score_reference(config: Config, name: str, *, progress: bool = True) -> pd.DataFrame:
    """Scores of a reference, from its run if there: "mean" only, but all of floors and transfer; InputError: none."""
    check_choice("reference", name, REFERENCES)
    regime, session = {f"pasted_{key}": parts for key, *parts in REFERENCED}.get(name, ("none", "same"))
    if regime == "none" and name not in references_for(config):
        problem = f"reference {name!r} does not exist for data set {config.dataset!r} here: the irreducible error needs"
        command = f"make reproduce DATASET=simulated PROFILE={real_profile(config.profile)}"
        raise InputError(f"{problem} known latents (simulated data), the transfer a model: {command}")
    carried_over, source = simulated_model_folder(config.profile), {}
    if name == "transfer":
        source = {"weights": file_hash(carried_over / WEIGHTS_FILE), "estimates": "mean, single, samples, direct"}
    elif name in FLOORS:
        source = {"estimates": "mean, single, samples"}
    folder, same = _start_run(config, name, 0, source)
    if same and (folder / SCORES_FILE).is_file():
        return pd.read_parquet(folder / SCORES_FILE)
    if name == "transfer":
        model = load_method(carried_over)
        samples = translate_test(model, config, 0, progress=progress)
        return _write_scores(*_scores_of_model(model, samples, config, 0), folder)
    if name in FLOORS:
        return _write_scores(*_scores_of_floor(config, name, progress), folder)
    with_reference = config.replace("evaluation.reference", regime).replace("evaluation.session", session)
    test, reference = scored_windows(with_reference)
    estimate, rate = _reference_estimate(config, name, test, reference), config.signal.sampling_rate
    scores = evaluate(estimate, test, rate, max_lag_s=config.evaluation.max_lag_s, estimates=("mean",))
    return _write_scores(scores, frechet_table(estimate, test, rate, estimates=("mean",)), folder)


def _scores_of_floor(config: Config, name: str, progress: bool) -> tuple[pd.DataFrame, pd.DataFrame]:
    """As :func:`_scores_of_model`, of posterior draws; "mean" is corrected for how many draws it is made of.

    Single draws and the distribution are judged by as many as a method is. Who knows the person leaves little open:
    a third of the draws give its mean as well, for a quarter of the time that all floors take.
    """
    n_draws, n_samples = config.evaluation.n_floor_draws, config.sampling.n_samples
    n_draws = max(n_draws // 3, 2, n_samples) if "known" in FLOORS[name] else n_draws
    options = FLOORS[name] | {"n_draws": n_draws, "n_kept": n_samples, "progress": progress}
    drawn, test = _conditional_mean(config, "test", **options)[1], load_windows(config).split("test")
    about = test, config.signal.sampling_rate
    mean, rest = (
        evaluate(samples, *about, max_lag_s=config.evaluation.max_lag_s, estimates=estimates)
        for samples, estimates in ((drawn.mean[:, None], ("mean",)), (drawn.samples, ("single", "samples")))
    )
    # The mean of M draws misses the true conditional mean by variance / M: E|x - mean_M|^2 = (1 + 1/M) s^2
    # at one lag; after each record's best lag the same factor is nearly right.
    mean.loc[mean["metric"].str.startswith("mse"), "value"] /= 1 + 1 / n_draws
    distances = frechet_table(drawn.mean[:, None], *about, estimates=("mean",)), frechet_table(drawn.samples, *about)
    return pd.concat([mean, rest], ignore_index=True), pd.concat(distances, ignore_index=True)


def _reference_estimate(config: Config, name: str, test: WindowSet, reference) -> np.ndarray:
    """ECG of the test windows, with their references, as a reference with one answer gives it, (N, 1, 12, T) mV."""
    windows = load_windows(config)
    if name.startswith("pasted"):
        pasted = PastedBeats(config).fit(windows.split("train"))
        return pasted.translate(np.array(test.ppg), test.demographics, reference=reference).numpy()
    if name == "ridge":
        model = LaggedRidge(config).fit(windows.split("train"), windows.split("validation"))
    else:
        model = MeanBeatTemplate(config, by_group=name == "template_groups").fit(windows.split("train"))
    return model.translate(np.array(test.ppg), test.demographics).numpy()


def _conditional_mean(config: Config, split: str, **options):
    """The simulated windows of a split, and their ECG given what PPG and demographics reveal."""
    cohort = simulated_split(config, split)
    return cohort, conditional_mean_ecg(cohort, simulator_config(config), **options)


def validation_floor(config: Config, *, n_draws: int = 24, progress: bool = True) -> float:
    """Irreducible RMSE (mV) of the simulated (or InputError) validation windows: a training cannot fall below it."""
    if config.dataset != "simulated":
        raise InputError(f"data set {config.dataset!r}: the irreducible error is known for simulated data only")
    return irreducible_rmse(*_conditional_mean(config, "validation", n_draws=n_draws, progress=progress))
