"""Does a fresh run give the tables that this repository holds? Row by row, and what differs by name.

On the machine and with the packages that made the committed tables, every number must be the same. Elsewhere sums are
taken in another order, trainings drift apart, and a number counts as reproduced if it lies within the interval that its
own row states; a number without an interval is reported, and decides nothing. The intervals are of 95 % over
subjects: some rows of a long table lie outside by chance, and no interval knows of another training. The table then does
not count as reproduced; how many rows lie outside, and which, is said.
"""

from __future__ import annotations

import io
import json
import platform
import subprocess
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from p2es_lib.core import paths
from p2es_lib.core.errors import InputError
from p2es_lib.plots.artefacts import MINUTES_TABLE, RUNS_TABLE
from p2es_lib.training.optimisation import has_cpu_bf16

#: What a set of tables was made on, beside them.
MACHINE_FILE = "machine.json"
#: Tables that are about the machine itself, or about which commit and which files the others were made of.
_NOT_COMPARED = (MINUTES_TABLE, "table18_efficiency", "table19_long_signals", "table23_training", RUNS_TABLE)
#: What a row is judged by, if its table has it, and then by the interval of the same name or the only one.
_ESTIMATES = ("difference", "value", "bias", "auroc")
#: Whole numbers and words that are results: another training finds other waves, and other numbers to quote.
_RESULTS = {"table10_agreement": ("n_subjects", "n_windows"), "table21_claims": ("found", "verdict")}


def describe_machine() -> dict[str, str]:
    """Processor, system and versions: where all of it is the same, equal input gives equal bytes.

    The name of a processor is not enough: two virtual machines of one name ("AMD EPYC") gave other last digits. Wider vectors
    add in another order, and where there is bfloat16 arithmetic, a training uses it.
    """
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
    packages = {name: version(name) for name in ("torch", "numpy", "scipy", "scikit-learn", "pandas")}
    instructions = torch.backends.cpu.get_cpu_capability() + (" bfloat16" if has_cpu_bf16() else "")
    return {
        "cpu": cpu,
        "instructions": instructions,
        "system": platform.system(),
        "python": platform.python_version(),
    } | packages


def write_machine(folder: Path) -> None:
    """Note beside the tables in ``folder`` what they were made on."""
    with paths.atomic_path(folder / MACHINE_FILE) as temporary:
        temporary.write_text(json.dumps(describe_machine(), indent=1, sort_keys=True) + "\n")


@dataclass(frozen=True)
class Comparison:
    """One table held against another.

    Attributes
    ----------
    rows, same : int
        Rows of the committed table; those in which every number is the same.
    within : int
        Further rows whose ``value`` (or ``difference``) lies within the committed interval.
    unjudged : int
        Further rows that differ and state no interval.
    outside : list of str
        Further rows, which lie outside: both values and the interval, in words.
    differing : list of str
        Rows that only one of the tables has, or other columns.
    """

    table: str
    rows: int
    same: int
    within: int
    unjudged: int
    outside: list[str]
    differing: list[str]


def compare_tables(name: str, committed: pd.DataFrame, fresh: pd.DataFrame) -> Comparison:
    """Hold the rows of two tables against each other, matched by their text columns and counts, but for those that are results."""
    if list(committed.columns) != list(fresh.columns):
        return Comparison(
            name, len(committed), 0, 0, 0, [], [f"columns {list(fresh.columns)} instead of {list(committed.columns)}"]
        )
    numbers = [
        c for c in committed if pd.api.types.is_float_dtype(committed[c]) or pd.api.types.is_float_dtype(fresh[c])
    ]
    results = [c for c in _RESULTS.get(name, ()) if c in committed]
    keys = [c for c in committed if c not in numbers and c not in results]
    estimate = next((c for c in _ESTIMATES if c in numbers), None)
    bounds = next(
        (
            b
            for b in ([f"{estimate}_lower", f"{estimate}_upper"], ["lower", "upper"])
            if estimate and set(b) <= set(numbers)
        ),
        None,
    )

    def labelled(table: pd.DataFrame) -> pd.DataFrame:
        label = (
            table[keys].fillna("").astype(str).agg(", ".join, axis=1) if keys else table.index.astype(str).to_series()
        )
        repeated = label.groupby(label).cumcount()
        return table.set_axis(
            [f"{text} #{n + 1}" if n else text for text, n in zip(label, repeated, strict=True)], axis=0
        )

    ours, theirs = labelled(committed), labelled(fresh)
    differing = [f"{row}: only in the committed table" for row in ours.index.difference(theirs.index, sort=False)]
    differing += [f"{row}: only in the fresh table" for row in theirs.index.difference(ours.index, sort=False)]
    same, within, unjudged, outside = 0, 0, 0, []
    for row in ours.index.intersection(theirs.index, sort=False):
        a, b = ours.loc[row, numbers].to_numpy(float), theirs.loc[row, numbers].to_numpy(float)
        if np.array_equal(a, b, equal_nan=True) and all(ours.loc[row, c] == theirs.loc[row, c] for c in results):
            same += 1
            continue
        low, high = ours.loc[row, bounds].astype(float) if bounds else (np.nan, np.nan)
        if "verdict" in results and ours.loc[row, "verdict"] != theirs.loc[row, "verdict"]:
            outside.append(f"{row}: {theirs.loc[row, 'verdict']}, committed: {ours.loc[row, 'verdict']}")
        elif not low <= high:
            unjudged += 1
        elif low <= (value := float(theirs.loc[row, estimate])) <= high:
            within += 1
        else:
            outside.append(f"{row}: {estimate} {value:g}, committed {ours.loc[row, estimate]:g} ({low:g} to {high:g})")
    return Comparison(name, len(committed), same, within, unjudged, outside, differing)


def committed_tables(dataset: str, profile: str) -> dict[str, str]:
    """Text of the tables that the repository's last commit holds, and of its machine file, by file name.

    Raises
    ------
    InputError
        No git checkout, or no such tables in it.
    """
    folder, prefix = paths.checkout(), f"figures/{dataset}-{profile}"
    try:
        listing = _git(folder, "ls-tree", "--name-only", "HEAD", f"{prefix}/").splitlines()
    except (OSError, subprocess.CalledProcessError) as error:
        raise InputError(
            f"{folder}: not a git checkout ({error}), so there is nothing to hold a run against"
        ) from error
    wanted = [path for path in listing if path.endswith(".csv") or path.endswith(MACHINE_FILE)]
    if not wanted:
        raise InputError(f"{prefix}: the repository holds no tables of data set {dataset}, profile {profile}")
    return {Path(path).name: _git(folder, "show", f"HEAD:{path}") for path in wanted}


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True).stdout


def verify(dataset: str, profile: str) -> tuple[list[Comparison], list[str]]:
    """Hold the tables of the run in ``$P2ES_HOME`` against the committed ones.

    Returns
    -------
    comparisons : list of Comparison
    differences : list of str
        In what this machine differs from the one that made the committed tables. Empty: only equal rows count as reproduced.

    Raises
    ------
    InputError
        Nothing committed, a table that the run did not make, or tables of other seeds.
    """
    committed, folder = committed_tables(dataset, profile), paths.figures_dir(dataset, profile)
    _check_seeds(committed, folder, f"make reproduce DATASET={dataset} PROFILE={profile}")
    machine = json.loads(committed.pop(MACHINE_FILE, "{}"))
    comparisons = []
    for file, text in committed.items():
        if (name := Path(file).stem) in _NOT_COMPARED:
            continue
        if not (folder / file).is_file():
            raise InputError(
                f"{folder / file}: missing; make it with: make reproduce DATASET={dataset} PROFILE={profile}"
            )
        comparisons.append(compare_tables(name, pd.read_csv(io.StringIO(text)), pd.read_csv(folder / file)))
    here = describe_machine()
    return comparisons, [
        f"{name} {here[name]}, there {machine.get(name, 'not recorded')}"
        for name in here
        if machine.get(name) != here[name]
    ]


def _check_seeds(committed: dict[str, str], folder: Path, command: str) -> None:
    """Refuse to hold means over other trainings against each other: no row of theirs need agree."""
    file = f"{RUNS_TABLE}.csv"
    if file not in committed or not (folder / file).is_file():
        return
    wanted, made = (
        ",".join(map(str, sorted(set(pd.read_csv(source)["seed"]))))
        for source in (io.StringIO(committed[file]), folder / file)
    )
    if wanted != made:
        raise InputError(
            f"{folder}: made with seed(s) {made}, the committed tables with {wanted}; make it with: {command} SEEDS={wanted}"
        )


def is_reproduced(comparison: Comparison, same_machine: bool) -> bool:
    """Whether a table counts as reproduced; see the head of this module."""
    return (
        not comparison.differing and not comparison.outside and (comparison.same == comparison.rows or not same_machine)
    )
