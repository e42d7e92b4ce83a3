"""The command ``p2es``: run a notebook, the whole workflow, or translate a recording.

Imports that take time stand inside the commands, so that ``p2es --help`` answers at once. Wrong input gives one line on
standard error and exit status 2, as does a package of an extra that is not installed; a step that failed gives 1; an
interrupt gives 130.
"""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from p2es_lib import __version__
from p2es_lib.cli import live
from p2es_lib.cli.data import StopWithParent, data_app
from p2es_lib.core.errors import InputError

app = typer.Typer(
    name="p2es",
    help="P2Es, wearable PPG to 12-lead ECG: a companion to arXiv 2509.25480. Research use only, not a diagnosis.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(data_app, name="data")

Dataset = Annotated[
    str,
    typer.Option(
        help="simulated, or a data set of p2es data sources; a+b: both together; a~b: trained on a, tested on b only."
    ),
]
Profile = Annotated[str, typer.Option(help="Size of everything: smoke, quick, wide or full.")]
Mirror = Annotated[str | None, typer.Option(help="Folder or URL laid out as PhysioNet; default: PhysioNet.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"p2es {__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command()
def notebook(
    name: Annotated[str, typer.Argument(help="Notebook without suffix, for example 05_train.")],
    dataset: Dataset = "simulated",
    profile: Profile = "quick",
    variant: Annotated[
        str | None, typer.Option(help="Model variant, where the notebook has one (p2es, no_blur, ...).")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of one training (05_train).")] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds to summarise, separated by commas (07_results).")] = None,
    mirror: Mirror = None,
    timeout: Annotated[float | None, typer.Option(help="Longest time of one cell, in seconds.")] = None,
    stop_with_parent: StopWithParent = False,
) -> None:
    """Execute one notebook, and keep the executed copy.

    The copy lies in runs/DATASET/PROFILE/notebooks.

    Example: p2es notebook 05_train --profile smoke --variant no_blur
    """
    from p2es_lib.companion import notebooks, workflow

    _need("papermill")
    _check_profile(profile)
    given = {"dataset": dataset, "profile": profile, "variant": variant, "seed": seed, "seeds": seeds, "mirror": mirror}
    parameters = {key: value for key, value in given.items() if value is not None}
    notebooks.check_parameters(name, parameters)
    if not stop_with_parent:  # the workflow has checked them
        _check_settings(profile, dataset, variant, seeds, seed)
    if mirror is not None:
        parameters["mirror"] = workflow.check_mirror(dataset, mirror)
    known = notebooks.read_parameters(name) | parameters
    run = (known.get("variant"), known["seed"]) if "seed" in known else ()
    output = notebooks.executed_notebook(dataset, profile, name, *run)
    timeout_s = notebooks.CELL_TIMEOUT_S[profile] if timeout is None else timeout
    notebooks.run_notebook(name, parameters, output, timeout_s=timeout_s)
    if not stop_with_parent:
        typer.echo(output)


@app.command()
def reproduce(
    profile: Profile = "quick",
    dataset: Dataset = "simulated",
    mirror: Mirror = None,
    seeds: Annotated[str, typer.Option(help="Seeds of the trainings, separated by commas.")] = "0",
    jobs: Annotated[int | None, typer.Option(help="How many cores are used; default: all.")] = None,
    snakefile: Annotated[Path | None, typer.Option(hidden=True)] = None,
    stop_with_parent: StopWithParent = False,
) -> None:
    """Make every table and figure of one data set.

    Runs what is missing or out of date. After an interruption, the same command continues.

    Example: p2es reproduce --profile wide --seeds 0,1,2
    """
    from p2es_lib.companion import workflow
    from p2es_lib.core import paths

    _need("snakemake", "papermill")
    _check_settings(profile, dataset)
    from p2es_lib.experiments.variants import parse_seeds  # takes seconds: after what can be refused at once
    from p2es_lib.experiments.verify import write_machine

    seed_list = parse_seeds(seeds)
    cores = workflow.check_jobs(jobs)
    mirror = workflow.check_mirror(dataset, mirror)
    settings = f"data set {dataset}, profile {profile}, seeds {seeds}, {cores} core(s)"
    typer.echo(f"P2Es: {settings}, results in {paths.home()}", err=True)
    status = workflow.reproduce(dataset, profile, seeds=seed_list, mirror=mirror, jobs=cores, snakefile=snakefile)
    if status == workflow.INTERRUPTED:
        raise KeyboardInterrupt
    if status:
        typer.echo(
            "error: not every step succeeded; see above. The same command continues with what is missing.", err=True
        )
        raise typer.Exit(1)
    from p2es_lib.experiments.results import write_runs

    write_machine(paths.figures_dir(dataset, profile))
    write_runs(dataset, profile, seed_list)
    typer.echo(f"\n{workflow.artefacts(dataset, profile)}\n")
    if workflow.is_timing_only(dataset):
        typer.echo(f"Data set {dataset} names no ECG lead: it shows timing only, and nothing was trained on it.")
    else:
        typer.echo(workflow.headline_table(dataset, profile))


@app.command()
def train(
    dataset: Dataset = "simulated",
    profile: Profile = "quick",
    variant: Annotated[str, typer.Option(help="Model variant: a row of p2es_lib/experiments/variants.py.")] = "p2es",
    seed: Annotated[int, typer.Option(help="Seed of the weights, batches and noise.")] = 0,
    devices: Annotated[int, typer.Option(help="GPUs per node (or CPU processes).")] = 1,
    nodes: Annotated[int, typer.Option(help="Machines; start the command on each, see Lightning Fabric.")] = 1,
) -> None:
    """Train one variant, on one device or several.

    The weights and the history of the training go to runs/DATASET/PROFILE/VARIANT/seed<SEED>. Scores are not computed
    here: notebook 05_train, or p2es reproduce, finds the run trained and scores it. On one device, notebook 05_train
    trains as well.

    Example: p2es train --profile full --devices 4
    """
    _need("lightning", "pyarrow")
    _check_settings(profile, dataset, variant, seed=seed)
    if min(devices, nodes) < 1:
        raise InputError(f"devices={devices}, nodes={nodes}: at least 1 of each")
    from p2es_lib.experiments.runs import train_run
    from p2es_lib.experiments.variants import configure
    from p2es_lib.training.optimisation import make_fabric

    config = configure(profile, dataset, variant)
    fabric = make_fabric(devices, nodes, config.training.precision)
    fabric.launch()
    train_run(config, variant, seed, fabric=fabric)


@app.command()
def score(
    dataset: Dataset = "simulated",
    profile: Profile = "quick",
    variant: Annotated[
        str,
        typer.Option(
            help="One that uses another's weights, for example steps_8; see p2es_lib/experiments/variants.py."
        ),
    ] = "steps_8",
    seed: Annotated[int, typer.Option(help="Seed of the training.")] = 0,
    stop_with_parent: StopWithParent = False,
) -> None:
    """Score another use of a trained model.

    For example with more steps of the sampler, or with age and sex withheld: variants that train nothing themselves.
    """
    _need("lightning", "pyarrow")
    _check_settings(profile, dataset, variant, seed=seed)
    from p2es_lib.core.paths import run_dir
    from p2es_lib.experiments.runs import SCORES_FILE, score_run, train_run, training_command
    from p2es_lib.experiments.variants import VARIANTS, configure

    if not VARIANTS[variant].weights_of:
        raise InputError(
            f"variant {variant} is scored where it is trained: {training_command(dataset, profile, variant, seed)}"
        )
    config, label = configure(profile, dataset, variant), f"score-{variant}-seed{seed}"
    model = train_run(config, variant, seed)
    typer.echo(f"{label} | started", err=True)
    score_run(model, config, variant, seed, progress=not stop_with_parent)
    typer.echo(f"{label} | {run_dir(dataset, profile, variant, seed) / SCORES_FILE}", err=True)


@app.command()
def translate(
    record: Annotated[Path, typer.Argument(help="WFDB record (without suffix), CSV or EDF file with a PPG in it.")],
    out: Annotated[Path, typer.Option(help="Folder for the ECG (WFDB, CSV) and its page (PDF, PNG).")],
    age: live.Age = None,
    sex: live.Sex = None,
    model: live.Model = None,
    sampling_rate: Annotated[float | None, typer.Option(help="Hz, for a CSV without a time column.")] = None,
    column: Annotated[str | None, typer.Option(help="Column of the PPG, where it cannot be told by its name.")] = None,
    polarity: Annotated[
        str,
        typer.Option(
            help="Which way the pulses point as recorded: up, down (turned over), or auto (found out, and told)."
        ),
    ] = "auto",
    samples: Annotated[int, typer.Option(help="Samples per window; their spread is drawn.")] = 8,
    seed: live.SampleSeed = 0,
    csv: Annotated[
        bool | None,
        typer.Option("--csv/--no-csv", help="Write the ECG as CSV too; default: recordings of up to an hour."),
    ] = None,
) -> None:
    """Translate a PPG recording to a 12-lead ECG.

    The recording may have any sampling rate and length.

    Example: p2es translate watch.csv --age 63 --sex F --out my_ecg
    """
    from p2es_lib.translation.file import translate as translate_recording

    written = translate_recording(
        record,
        age=age,
        sex=sex,
        out=out,
        model=model,
        sampling_rate=sampling_rate,
        column=column,
        polarity=polarity,
        n_samples=samples,
        seed=seed,
        csv=csv,
        progress=True,
    )
    for what, path in written.items():
        typer.echo(f"{what}: {path}")


app.command()(live.live)
app.command()(live.export)


@app.command()
def table(dataset: Dataset = "simulated", profile: Profile = "quick") -> None:
    """Print the headline table of a finished run."""
    from p2es_lib.companion.workflow import headline_table

    _check_settings(profile, dataset)
    typer.echo(headline_table(dataset, profile))


@app.command()
def verify(dataset: Dataset = "simulated", profile: Profile = "quick") -> None:
    """Hold a finished run against the committed tables.

    Row by row, and what the tables say as a whole. The exit status is 1 if a table is not reproduced.
    """
    from p2es_lib.experiments import verify as verification

    _check_settings(profile, dataset)
    comparisons, differences = verification.verify(dataset, profile)
    typer.echo(
        "the committed tables were made on another machine: numbers must be within tolerance, and conclusions the same"
        if differences
        else "the committed tables were made on such a machine: every number must be the same"
    )
    for difference in differences:
        typer.echo(f"    here {difference}")
    outcomes = [verification.outcome(comparison, not differences) for comparison in comparisons]
    for comparison, outcome in zip(comparisons, outcomes, strict=True):
        lines = comparison.wrong
        typer.echo(
            f"{outcome:24} {comparison.table}: {comparison.same} of {comparison.rows} rows equal, {comparison.within} "
            f"more within tolerance; conclusions compared: {comparison.conclusions}; faults: {len(lines)}"
        )
        for line in lines[:10]:
            typer.echo(f"    {line}")
        if len(lines) > 10:
            typer.echo(f"    ... and {len(lines) - 10} more")
    typer.echo(f"{verification.worst(outcomes)}: data set {dataset}, profile {profile}, {len(comparisons)} tables")
    if verification.NOT_REPRODUCED in outcomes:
        raise typer.Exit(1)


@app.command()
def readme(dataset: Dataset = "simulated", profile: Profile = "quick") -> None:
    """Fill README.md and the pages with the numbers.

    They come from the tables in figures/, and the minutes from a finished run.
    """
    from p2es_lib.companion.readme import filled_pages, read_pages, write_minutes
    from p2es_lib.core.paths import atomic_path

    _check_settings(profile, dataset)
    write_minutes(dataset, profile)
    before = read_pages()
    for path, text in filled_pages().items():
        if text != before[path]:
            with atomic_path(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
            typer.echo(f"{path}: renewed")


def _check_profile(profile: str) -> None:
    from p2es_lib.core.config import PROFILES
    from p2es_lib.core.errors import check_choice

    check_choice("profile", profile, PROFILES)


def _check_settings(
    profile: str, dataset: str, variant: str | None = None, seeds: str | None = None, seed: int | None = None
) -> None:
    """Refuse unknown settings before anything starts, those first that need no import of seconds."""
    from p2es_lib.core.paths import check_output_folder

    _check_profile(profile)
    if seed is not None and seed < 0:
        raise InputError(f"seed={seed}: a whole number from 0 on")
    if os.environ.get("P2ES_HOME"):
        check_output_folder(os.environ["P2ES_HOME"], "P2ES_HOME")
    from p2es_lib.data.sources import parse_dataset

    parse_dataset(dataset)
    if variant is not None or seeds is not None:
        from p2es_lib.experiments.variants import configure, parse_seeds

        if variant is not None:
            configure(profile, dataset, variant)
        if seeds is not None:
            parse_seeds(seeds)


def _need(*modules: str) -> None:
    """Say at once, before anything is loaded or checked, that a package is missing."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise ModuleNotFoundError(f"No module named {module!r}", name=module)


def _extra_of(module: str) -> str | None:
    """Extra of this package that brings a module, from the metadata of the installation; None if there is none."""
    from importlib.metadata import PackageNotFoundError, requires

    try:
        requirements = requires("p2es") or []
    except PackageNotFoundError:  # the source tree, not installed
        return None
    wanted = module.partition(".")[0].replace("_", "-").lower()
    for requirement in requirements:
        found = re.match(r"""([\w.-]+).*;.*extra == ["']([\w-]+)["']""", requirement)
        if found and re.sub(r"[-_.]+", "-", found[1]).lower() == wanted:
            return found[2]
    return None


def _interrupt(*_) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Entry point of the command ``p2es``: every expected error becomes a line on standard error and an exit status."""
    from p2es_lib.companion.notebooks import NotebookError

    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app()
    except InputError as error:
        _end(str(error), 2)
    except NotebookError as error:
        _end(str(error), 1)
    except ModuleNotFoundError as error:
        extra = _extra_of(error.name or "")
        if extra is None:
            raise
        _end(f"the package {error.name} is not installed; in the source tree: pip install '.[{extra}]'", 2)
    except OSError as error:  # a full disk, a folder that may not be written to, a file where a folder is needed
        _end(f"{error.filename or ''}: {error.strerror or error}", 2)
    except SystemExit as status:
        if status.code == 130:  # typer's answer to KeyboardInterrupt
            print("interrupted: what was finished is kept, and the same command continues", file=sys.stderr)
        raise


def _end(message: str, status: int) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(status)
