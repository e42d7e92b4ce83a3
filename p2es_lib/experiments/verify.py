"""Does a fresh run give the results that this repository holds?

*Reproduced bit for bit*: every number is the same, as it must be on a machine and with packages like those that made
the committed tables. *Reproduced statistically*: elsewhere, sums are taken in another order or in bfloat16, and a
training ends as if it had another seed. Three things must then hold.

1. Every number is as near the committed one as the spread between trainings (:data:`LIMITS`) and a share of the
   standard error over subjects allow, corrected for how many numbers there are (Bonferroni): a sound run fails with the
   chance :data:`FAMILY_ERROR`. Where nothing is trained (templates, the irreducible error), only rounding may differ.
2. The conclusions are the same: each verdict on a claim; the sign of each difference that the committed table holds for
   more than chance and more than two trainings could do; who is ahead, where methods are further apart than that.
3. The tables agree with themselves: values lie in their intervals, and all differences are from one full model.

*NOT reproduced*: anything else, and what differs is named.
"""

import io
import json
import platform
import re
import subprocess
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.stats import norm

from p2es_lib.core import paths
from p2es_lib.core.errors import InputError
from p2es_lib.core.processes import git
from p2es_lib.evaluation.metrics.summary import beyond_chance
from p2es_lib.experiments.reference_results import FLOOR, PASTED
from p2es_lib.experiments.runs import package_versions
from p2es_lib.experiments.variants import REFERENCES
from p2es_lib.plots.saving import MINUTES_TABLE, RUNS_TABLE
from p2es_lib.training.loop import has_cpu_bf16

#: The three answers.
BIT_FOR_BIT, STATISTICALLY, NOT_REPRODUCED = "reproduced bit for bit", "reproduced statistically", "NOT reproduced"
#: What a set of tables was made on, beside them.
MACHINE_FILE = "machine.json"
#: Tables that are about the machine itself, or about which commit and which files the others were made of.
NOT_COMPARED = (MINUTES_TABLE, "table18_efficiency", "table19_long_signals", "table23_training", RUNS_TABLE)
#: Whole numbers and words that are results: another training finds other waves, and other numbers to quote.
_RESULTS = {"table10_agreement": ("n_subjects", "n_windows"), "table21_claims": ("found", "verdict")}
#: Fractional numbers that name a row; those that follow from others; those that no training touches.
_NAMES, _FOLLOW, _FIXED = ("t",), ("p_value", "p_holm"), ("floor", "kept")
#: Methods without a training of their own.
_UNTRAINED = [*(label for name, label in REFERENCES.items() if name != "transfer"), PASTED, FLOOR]
#: Differences between two methods on the same subjects, by column or by table; their intervals are paired.
_PAIRED = ("difference", "gain", "ratio", "rmse_lag_added", "table03_distance_to_floor")
#: One number for rows alike: the full model's value, the AUROC without ECG, the error without disturbance, zero.
_SAME = (
    ("value", "value - difference", ["metric", "estimate", "seeds"]),
    ("auroc", "auroc - gain", ["label", "classifier"]),
    ("rmse_lag", "rmse_lag - rmse_lag_added", ["disturbance", "method"]),
    ("sd", "high - 1.96 * sd - bias", ["metric"]),
    ("sd", "low + 1.96 * sd - bias", ["metric"]),
)
#: Chance that a sound run fails because one of all its numbers lies outside its tolerance.
FAMILY_ERROR = 0.05
#: How much further than all leads together a single one moves from training to training; than a value, its bounds.
ONE_LEAD, ONE_BOUND = 2.0, 2.0
#: What another order of sums may change where nothing is trained, as a share of the value.
ROUNDING = 1e-3


class Limit(NamedTuple):
    """How far apart two sound runs may be in a quantity."""

    margin: float  #: Of equivalence.
    training: float  #: Standard deviation of one training, all leads together.
    relative: bool = True  #: Whether both are shares of the value, or in its unit.
    share: float = 0.15  #: What another training changes for these very subjects, of the standard error over subjects.


#: The quantities, and why a difference below the margin means nothing. Training and share: the largest of what two
#: seeds of quick on one processor, its two kinds of processor, and three seeds of wide show.
_LIMITS = (
    (Limit(0.003, 0.0025), "claims ask for 1 %", "rmse,validation RMSE (mV)"),
    (Limit(0.003, 0.0025), "ablations are 1 % apart and more", "crps"),
    (Limit(0.003, 0.006), "claims ask for 1 %", "rmse_lag,rmse_lag_added,mae,prd"),
    (Limit(0.006, 0.009), "their squares", "mse,mse_lag"),
    (Limit(0.02, 0.05), "its parts: timing is a fifth of it", "mse_timing,mse_amplitude,mse_morphology"),
    (Limit(0.005, 0.015), "leaving the blur out costs 10 %", "log_spectral_distance"),
    (Limit(0.005, 0.04), "a template is 100 % off", "ppe,ppe_relative"),
    (Limit(0.005, 0.012), "the answer and its parts are 2 % apart", "dtw,frechet_curve_distance"),
    (Limit(0.01, 0.05), "methods differ by halves", "gaussian_frechet_distance"),
    (Limit(0.002, 0.008, False), "of 1; methods are 0.01 apart and more", "pearson,pearson_lag,ssim"),
    (Limit(0.002, 0.006, False), "of 1; methods are 0.02 apart and more", "coherence_low,coherence_middle"),
    (Limit(0.005, 0.015, False), "of 1; another U-Net has 0.18 instead of 0.28 in one lead", "coherence_high"),
    (Limit(0.002, 0.003, False, 1.0), "of 1: one beat in 500", "r_peak_f1,r_peak_f1_lag"),
    (Limit(0.1, 0.12, False, 0.3), "beats per minute: less than devices show", "heart_rate_error,heart_rate"),
    (Limit(1.0, 3.0, False, 0.3), "ms: an eighth of a sample", "lag_ms,pr_ms,qrs_ms,qt_ms,qtc_ms"),
    (Limit(0.0005, 0.00005, False), "mV: a tenth of what a recorder resolves", "einthoven_residual"),
    (Limit(0.005, 0.01, False, 0.3), "mV: what a recorder resolves", "p_mv,qrs_mv,t_mv,st60_mv"),
    (Limit(1.0, 2.0, False, 0.3), "degrees: read in steps of 15", "qrs_axis_deg"),
    (Limit(0.02, 0.04, False), "of 1: within what 200 people show", "correlation,missed,extra"),
    (Limit(0.005, 0.02), "of the spread between people", "sd_true"),
    (Limit(0.005, 0.03), "the DDPM is 10 % off", "spread,variance,width_50,width_80,width_95,spread_ratio"),
    (Limit(0.005, 0.015, False), "of 1: nominal levels are missed by ten times that",
     "coverage_50,coverage_80,coverage_95,spread_correlation"),
    (Limit(0.01, 0.03), "follow from the spread",
     "risk_area,risk_gain,conformal_coverage,conformal_width,conformal_kept,conformal_scale"),
    (Limit(0.005, 0.02, False, 0.5), "of 1; every method is told from recordings by more",
     "mmd,random forest,logistic regression,auroc,gain"),
    (Limit(0.01, 0.1), "one person in one training", "rmse_joins,rmse_elsewhere,step_joins,step_elsewhere"),
    (Limit(0.005, 0.01, True, 0.3), "what a stage adds is 1 % and more", "ratio"),
    # Of notebook 16: of few windows and one training; not yet seen in two.
    (Limit(0.005, 0.01, False, 0.3), "of 1; a heart at rest varies by 0.03 and more", "qrs_cv"),
    (Limit(0.5, 1.0, False, 0.3), "ms: a sixteenth of a sample", "r_jitter_ms"),
    (Limit(0.005, 0.02, False, 0.3), "of 1; regimes are 0.05 apart and more", "r,r_own_beat"),
    (Limit(0.02, 0.1), "changes are larger than what people differ by", "unchanged,changed"),
)  # fmt: skip
LIMITS = {name: limit for limit, _, names in _LIMITS for name in names.split(",")}
OTHER = Limit(0.003, 0.01)
#: The share of paired differences: two trainings differ from person to person as much as two methods.
PAIRED_SHARE = 1.0


def describe_machine() -> dict[str, str]:
    """Processor, its instructions (wider vectors add in another order), system, versions: alike, bytes are equal."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
    instructions = torch.backends.cpu.get_cpu_capability() + (" bfloat16" if has_cpu_bf16() else "")
    versions = package_versions("torch", "numpy", "scipy", "scikit-learn", "pandas")
    return {"cpu": cpu, "instructions": instructions, "system": platform.system()} | versions


def write_machine(folder: Path) -> None:
    """Note beside the tables in ``folder`` what they were made on."""
    with paths.atomic_path(folder / MACHINE_FILE) as temporary:
        temporary.write_text(json.dumps(describe_machine(), indent=1, sort_keys=True) + "\n")


class Comparison(NamedTuple):
    """One table held against another."""

    table: str
    rows: int  #: Of the committed table,
    same: int  #: those in which every number is the same, and
    within: int  #: others whose numbers are within tolerance.
    conclusions: int  #: What the committed table says of who is ahead of whom, and its verdicts.
    wrong: list[str]  #: Rows out of tolerance, conclusions turned round, rows or columns that one table lacks.


def compare_tables(name: str, committed: pd.DataFrame, fresh: pd.DataFrame, z: float = 4.5) -> Comparison:
    """Hold two tables against each other: their rows, matched by words and counts, and what they say as a whole."""
    if (here := list(fresh.columns)) != (there := list(committed.columns)):
        return Comparison(name, len(committed), 0, 0, 0, [f"columns {here} instead of {there}"])
    floats = [c for c in committed if "f" in committed[c].dtype.kind + fresh[c].dtype.kind and c not in _NAMES]
    keys = [c for c in committed if c not in floats and c not in _RESULTS.get(name, ())]
    numbers = [c for c in floats if c not in _FOLLOW]
    ours, theirs = _labelled(committed, keys), _labelled(fresh, keys)
    wrong = [f"{row}: only in the committed table" for row in ours.index.difference(theirs.index, sort=False)]
    wrong += [f"{row}: only in the fresh table" for row in theirs.index.difference(ours.index, sort=False)]
    common = ours.index.intersection(theirs.index, sort=False)
    ours, theirs = ours.loc[common], theirs.loc[common]
    a, b = ours[numbers].to_numpy(float), theirs[numbers].to_numpy(float)
    gap = np.where(np.isnan(a) & np.isnan(b), 0.0, np.nan_to_num(np.abs(b - a), nan=np.inf))
    allowed = pd.DataFrame({c: tolerance(name, ours, c, z) for c in numbers}, index=common)
    may = allowed.to_numpy()
    outside = np.flatnonzero((gap > may).any(axis=1))
    for row in outside:
        at = row, int(np.argmax(gap[row] / np.maximum(may[row], 1e-300)))
        wrong.append(f"{common[row]}: {numbers[at[1]]} {b[at]:g}, committed {a[at]:g} (give or take {may[at]:.2g})")
    count, turned = _conclusions(ours, theirs, allowed, keys)
    wrong += turned + _contradictions(theirs)
    same = int((ours.drop(columns=keys).fillna(0) == theirs.drop(columns=keys).fillna(0)).all(axis=1).sum())
    return Comparison(name, len(committed), same, len(common) - same - len(outside), count, wrong)


def tolerance(name: str, table: pd.DataFrame, column: str, z: float) -> np.ndarray:
    """How far each number of ``column`` may be from the committed ``table``; ``z``: :func:`allowed_deviations`."""
    own, low, high = _quantity(table, column)
    limits = [LIMITS.get(metric, OTHER) for metric in _metrics(table, own)]
    margin, training, relative, share = np.array(limits, dtype=float).reshape(-1, 4).T
    if paired := own in _PAIRED or name in _PAIRED:
        share = np.full(len(table), PAIRED_SHARE)
    if "lead" in table:
        training = np.where(table["lead"] == "all", 1.0, ONE_LEAD) * training
    # Without an interval where others have one: of a single person, about whom a training may say anything.
    error = (table[high] - table[low]).fillna(np.inf) / 3.92 if low in table else 0.0
    size = table["value"] - table["difference"] if own == "difference" else table[own] + table.get("floor", 0.0)
    scale = np.where(relative > 0, size.abs(), 1.0)
    variance = (4 if paired else 2) * (training * scale) ** 2 / table.get("seeds", 1) + (share * error) ** 2
    allowed = np.maximum(margin * scale, z * np.sqrt(variance)) * (ONE_BOUND if column in (low, high) else 1.0)
    untrained = _untrained(name, table) & (own not in _PAIRED) | (own in _FIXED)
    return np.nan_to_num(np.where(untrained, ROUNDING * table[own].abs(), allowed), nan=0.0, posinf=np.inf)


def without_limits(table: pd.DataFrame) -> set[str]:
    """The quantities of a table that have no limits of their own in :data:`LIMITS`."""
    columns = [c for c in table if table[c].dtype.kind == "f" and c not in (*_NAMES, *_FOLLOW, *_FIXED)]
    return {metric for c in columns for metric in _metrics(table, _quantity(table, c)[0])} - set(LIMITS)


def _quantity(table: pd.DataFrame, column: str) -> tuple[str, str, str]:
    """The column of values that ``column`` belongs to, and those of its lower and upper bound."""
    main, own = _main(table), column.removesuffix("_lower").removesuffix("_upper")
    if own in (main, "lower", "upper", "seed_min", "seed_max"):
        return main, "lower", "upper"
    return own, f"{own}_lower", f"{own}_upper"


def _metrics(table: pd.DataFrame, own: str) -> list[str]:
    """What each row of a column measures: the column says it, or the row does."""
    return [own] * len(table) if own in LIMITS else list(table.get("metric", table.get("test", [own] * len(table))))


def _main(table: pd.DataFrame) -> str:
    """The column that the bounds ``lower`` and ``upper`` are about."""
    return next((c for c in ("difference", "value", "auroc", "ratio") if c in table), "")


def _untrained(name: str, table: pd.DataFrame) -> pd.Series:
    """Rows about methods, or about data, that no training touches."""
    if "fit_on" in table:
        return ~table[["fit_on", "tried_on"]].eq("translated ECG").any(axis=1)
    methods = table.get("method", pd.Series("", table.index))
    return methods.str.removesuffix(", single sample").isin(_UNTRAINED) | (name == "table14_delineation")


def _labelled(table: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """The table with its rows named by what stands in the columns ``keys``."""
    words = table[keys].fillna("").astype(str).agg(", ".join, axis=1) if keys else table.index.astype(str).to_series()
    again = words.groupby(words).cumcount()
    return table.set_axis([f"{text} #{n + 1}" if n else text for text, n in zip(words, again, strict=True)], axis=0)


def _conclusions(ours: pd.DataFrame, theirs, allowed, keys: list[str]) -> tuple[int, list[str]]:
    """How many conclusions the committed table holds for sure, and those that the fresh one turns round."""
    wrong, count = [], 0
    if "verdict" in ours:
        turned = ours["verdict"] != theirs["verdict"]
        wrong += [f"{row}: {theirs['verdict'][row]}, committed: {ours['verdict'][row]}" for row in ours.index[turned]]
        count += len(ours)
    if "difference" in ours:
        held = beyond_chance(ours) & (ours["difference"].abs() > allowed["difference"])
        turned = held & (np.sign(ours["difference"]) != np.sign(theirs["difference"]))
        wrong += [f"{row}: no longer on the same side of the full model" for row in ours.index[turned]]
        count += int(held.sum())
    elif {"method", "value"} <= set(ours):
        a, b, may = (table["value"].to_numpy(float) for table in (ours, theirs, allowed))
        alike = [key for key in keys if key not in ("method", "variant", "n_subjects")]
        for at in ours.groupby(alike, sort=False).indices.values():
            ahead = np.subtract.outer(a[at], a[at]) > np.hypot.outer(may[at], may[at])
            count += int(ahead.sum())
            turned = np.argwhere(ahead & (np.subtract.outer(b[at], b[at]) <= 0))
            wrong += [f"{ours.index[at[i]]}: no longer above {ours['method'].iloc[at[j]]}" for i, j in turned]
    return count, wrong


def _contradictions(table: pd.DataFrame) -> list[str]:
    """Where a table contradicts itself: values beside their interval, or differences from more than one full model."""
    wrong, main = [], _main(table)
    bounds = [(c, f"{c}_lower", f"{c}_upper") for c in table]
    for column, low, high in (*bounds, (main, "lower", "upper"), (main, "seed_min", "seed_max")):
        if column and low in table:
            beside = (table[column] < table[low]) | (table[column] > table[high])
            wrong += [f"{row}: {column} is not between {low} and {high}" for row in table.index[beside]]
    for column, same, alike in _SAME:
        if set(re.findall("[a-z_]+", same)) <= set(table):
            groups = [table[c] for c in (*alike, "regime", "session") if c in table]  # with another reference: another
            values = table.eval(same).groupby(groups, dropna=False)
            apart = values.transform("max") - values.transform("min") > ROUNDING * table[column].abs()
            wrong += [f"{row}: {same} is another number than in rows alike" for row in table.index[apart]]
    return wrong


def committed_tables(dataset: str, profile: str) -> dict[str, str]:
    """Text of the tables that the repository's last commit holds, and of its machine file, by file name.

    An :class:`InputError` if this is no git checkout, or it holds none.
    """
    prefix = f"figures/{dataset}-{profile}"
    try:
        listing = git(paths.checkout(), "ls-tree", "--name-only", "HEAD", f"{prefix}/").splitlines()
    except (OSError, subprocess.SubprocessError) as error:
        raise InputError(f"{paths.checkout()}: not a git checkout ({error}) to hold a run against") from error
    wanted = [path for path in listing if path.endswith((".csv", MACHINE_FILE))]
    if not wanted:
        raise InputError(f"{prefix}: the repository holds no tables of data set {dataset}, profile {profile}")
    return {Path(path).name: git(paths.checkout(), "show", f"HEAD:{path}") for path in wanted}


def verify(dataset: str, profile: str) -> tuple[list[Comparison], list[str]]:
    """Hold the run in ``$P2ES_HOME`` against the committed tables (or InputError); also how this machine differs."""
    committed, folder = committed_tables(dataset, profile), paths.figures_dir(dataset, profile)
    command = f"make reproduce DATASET={dataset} PROFILE={profile}"
    _check_seeds(committed, folder, command)
    machine, pairs = json.loads(committed.pop(MACHINE_FILE, "{}")), {}
    for file in [file for file in committed if Path(file).stem not in NOT_COMPARED]:
        if not (folder / file).is_file():
            raise InputError(f"{folder / file}: missing; make it with: {command}")
        pairs[Path(file).stem] = pd.read_csv(io.StringIO(committed[file])), pd.read_csv(folder / file)
    differ = {name: own for name, own in describe_machine().items() if machine.get(name) != own}
    words = [f"{name} {own}, there {machine.get(name, 'not recorded')}" for name, own in differ.items()]
    return compare(pairs), words


def compare(pairs: dict[str, tuple[pd.DataFrame, pd.DataFrame]]) -> list[Comparison]:
    """Hold all tables of a run (name to committed and fresh table) against each other, as one family of numbers."""
    return [compare_tables(name, *tables, allowed_deviations(pairs)) for name, tables in pairs.items()]


def allowed_deviations(pairs: dict[str, tuple[pd.DataFrame, pd.DataFrame]]) -> float:
    """Standard deviations that a number may be off, so that of all these numbers none is by chance (Bonferroni)."""
    n_numbers = sum(committed.select_dtypes("float").size for committed, _ in pairs.values())
    return float(norm.isf(FAMILY_ERROR / 2 / max(n_numbers, 1)))


def _check_seeds(committed: dict[str, str], folder: Path, command: str) -> None:
    """Refuse to hold means over other trainings against each other: no row of theirs need agree."""
    file = f"{RUNS_TABLE}.csv"
    if file not in committed or not (folder / file).is_file():
        return
    sources = io.StringIO(committed[file]), folder / file
    wanted, made = (",".join(map(str, sorted(set(pd.read_csv(source)["seed"])))) for source in sources)
    if wanted != made:
        problem = f"{folder}: made with seed(s) {made}, the committed tables with {wanted}"
        raise InputError(f"{problem}; make it with: {command} SEEDS={wanted}")


def outcome(comparison: Comparison, same_machine: bool) -> str:
    """One of the three answers of the head of this module, for one table."""
    if comparison.wrong or (same_machine and comparison.same < comparison.rows):
        return NOT_REPRODUCED
    return BIT_FOR_BIT if comparison.same == comparison.rows else STATISTICALLY


def worst(outcomes: list[str]) -> str:
    """The answer for a run: the least that holds for one of its tables."""
    return max(outcomes, key=(BIT_FOR_BIT, STATISTICALLY, NOT_REPRODUCED).index, default=BIT_FOR_BIT)
