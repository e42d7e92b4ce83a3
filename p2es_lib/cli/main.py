"""The command ``p2es``: run a notebook, the whole workflow, or translate a recording.

Imports that take time stand inside the commands, so that ``p2es --help`` answers at once. Exit status: 2, with one line
on standard error, for wrong input or an extra that is not installed; 1 for a step that failed; 130 for an interrupt.
"""

import importlib.util
import os
import re
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from p2es_lib import __version__
from p2es_lib.cli import data, option
from p2es_lib.companion import notebooks, workflow
from p2es_lib.core import paths
from p2es_lib.core.config import PROFILES
from p2es_lib.core.errors import InputError, check_choice
from p2es_lib.core.leads import LEADS
from p2es_lib.data.sources import parse_dataset
from p2es_lib.experiments.variants import VARIANTS, configure, parse_seeds
from p2es_lib.translation.file import load_model, load_reference
from p2es_lib.translation.readers.checks import check_options
from p2es_lib.translation.reference_file import check_reference, describe_reference

app = typer.Typer(
    help="P2Es, wearable PPG to 12-lead ECG: a companion to arXiv 2509.25480. Research use only, not a diagnosis.",
    name="p2es", no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip
app.add_typer(data.app, name="data")

_DATASET = "simulated, or a data set of p2es data sources; a+b: both together; a~b: trained on a, tested on b only."
Dataset = option(str, _DATASET)
Profile = option(str, "Size of everything: smoke, quick, wide or full.")
Mirror = option(str | None, "Folder or URL laid out as PhysioNet; default: PhysioNet.")
_OF_WEIGHTS = "One that uses another's weights, for example steps_8; see p2es_lib/experiments/variants.py."
_MODEL = "Folder with weights.safetensors; default: the longest training here (full, wide), or the package's."
Model = option(Path | None, _MODEL)
Age = option(float | None, "Age in years; leave out if unknown.")
Sex = option(str | None, "F or M; leave out if unknown.")
SampleSeed = option(int, "Seed of the samples.")
_CSV = "Write the ECG as CSV too; default: recordings of up to an hour."
_REFERENCE = "Reference of the person, a file that p2es calibrate made."
Reference = option(Path | None, _REFERENCE)
_LEADS = "Leads of ECG columns whose names do not say them: I, or in order I,II,V2, or by name ch1=I,ch2=V5."
_RATE = "Hz, for a table without times, or with wrong ones."
_TIME_COLUMN = "Column of the time, by name or number, or none; default: found out, and told."
_POLARITY = "Which way the pulses point as recorded: up, down (turned over), or auto (found out, and told)."

#: Lines of standard input that ``p2es live`` pushes together, s: what they add to the delay.
CHUNK_S = 0.1


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"p2es {__version__}")
        raise typer.Exit()


@app.callback()
def _options(version: option(bool, "Show the version.", "--version", callback=_print_version, is_eager=True) = False):
    pass


@app.command()
def notebook(
    name: Annotated[str, typer.Argument(help="Notebook without suffix, for example 05_train.")],
    dataset: Dataset = "simulated",
    profile: Profile = "quick",
    variant: option(str | None, "Model variant, where the notebook has one (p2es, no_blur, ...).") = None,
    seed: option(int | None, "Seed of one training (05_train).") = None,
    seeds: option(str | None, "Seeds to summarise, separated by commas (07_results).") = None,
    mirror: Mirror = None,
    timeout: option(float | None, "Longest time of one cell, in seconds.") = None,
    stop_with_parent: data.StopWithParent = False,
) -> None:
    """Execute one notebook, and keep the executed copy.

    The copy lies in runs/DATASET/PROFILE/notebooks.

    Example: p2es notebook 05_train --profile smoke --variant no_blur
    """
    _need("papermill")
    check_choice("profile", profile, PROFILES)
    given = {"dataset": dataset, "profile": profile, "variant": variant, "seed": seed, "seeds": seeds, "mirror": mirror}
    parameters = {key: value for key, value in given.items() if value is not None}
    notebooks.check_parameters(name, parameters)
    if not stop_with_parent:  # else the workflow has checked them
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
    seeds: option(str, "Seeds of the trainings, separated by commas.") = "0",
    jobs: option(int | None, "How many cores are used; default: all.") = None,
    snakefile: Annotated[Path | None, typer.Option(hidden=True)] = None,
    stop_with_parent: data.StopWithParent = False,
) -> None:
    """Make every table and figure of one data set.

    Runs what is missing or out of date. After an interruption, the same command continues.

    Example: p2es reproduce --profile wide --seeds 0,1,2
    """
    _need("snakemake", "papermill")
    _check_settings(profile, dataset)
    seed_list = parse_seeds(seeds)
    cores = workflow.check_jobs(jobs)
    mirror = workflow.check_mirror(dataset, mirror)
    settings = f"data set {dataset}, profile {profile}, seeds {seeds}, {cores} core(s)"
    typer.echo(f"P2Es: {settings}, results in {paths.home()}", err=True)
    status = workflow.reproduce(dataset, profile, seeds=seed_list, mirror=mirror, jobs=cores, snakefile=snakefile)
    if status == workflow.INTERRUPTED:
        raise KeyboardInterrupt
    if status:
        _end("not every step succeeded; see above. The same command continues with what is missing.", 1)
    from p2es_lib.experiments.results import write_runs
    from p2es_lib.experiments.verify import write_machine

    write_machine(paths.figures_dir(dataset, profile))
    write_runs(dataset, profile, seed_list)
    typer.echo(f"\n{workflow.artefacts(dataset, profile)}\n")
    timing = f"Data set {dataset} names no ECG lead: it shows timing only, and nothing was trained on it."
    typer.echo(timing if workflow.is_timing_only(dataset) else workflow.headline_table(dataset, profile))


@app.command()
def train(
    dataset: Dataset = "simulated",
    profile: Profile = "quick",
    variant: option(str, "Model variant: a row of p2es_lib/experiments/variants.py.") = "p2es",
    seed: option(int, "Seed of the weights, batches and noise.") = 0,
    devices: option(int, "GPUs per node (or CPU processes).") = 1,
    nodes: option(int, "Machines; start the command on each, see Lightning Fabric.") = 1,
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
    from p2es_lib.training.loop import make_fabric

    config = configure(profile, dataset, variant)
    fabric = make_fabric(devices, nodes, config.training.precision)
    fabric.launch()
    train_run(config, variant, seed, fabric=fabric)


@app.command()
def score(
    dataset: Dataset = "simulated",
    profile: Profile = "quick",
    variant: option(str, _OF_WEIGHTS) = "steps_8",
    seed: option(int, "Seed of the training.") = 0,
    stop_with_parent: data.StopWithParent = False,
) -> None:
    """Score another use of a trained model.

    For example with more steps of the sampler, or with age and sex withheld: variants that train nothing themselves.
    """
    _need("lightning", "pyarrow")
    _check_settings(profile, dataset, variant, seed=seed)
    from p2es_lib.experiments.runs import SCORES_FILE, score_run, train_run, training_command

    if not VARIANTS[variant].weights_of:
        command = training_command(dataset, profile, variant, seed)
        raise InputError(f"variant {variant} is scored where it is trained: {command}")
    config, label = configure(profile, dataset, variant), f"score-{variant}-seed{seed}"
    model = train_run(config, variant, seed)
    typer.echo(f"{label} | started", err=True)
    score_run(model, config, variant, seed, progress=not stop_with_parent)
    typer.echo(f"{label} | {paths.run_dir(dataset, profile, variant, seed) / SCORES_FILE}", err=True)


@app.command()
def translate(
    record: Annotated[Path, typer.Argument(help="WFDB record (without suffix), CSV, EDF or another file with a PPG.")],
    out: option(Path, "Folder for the ECG (WFDB, CSV) and its page (PDF, PNG)."),
    age: Age = None,
    sex: Sex = None,
    model: Model = None,
    sampling_rate: option(float | None, _RATE) = None,
    column: option(str | None, "Column of the PPG, by name or number; default: found out, and told.") = None,
    time_column: option(str | None, _TIME_COLUMN) = None,
    polarity: option(str, _POLARITY) = "auto",
    samples: option(int, "Samples per window; their spread is drawn.") = 8,
    seed: SampleSeed = 0,
    csv: option(bool | None, _CSV, "--csv/--no-csv") = None,
    reference: Reference = None,
) -> None:
    """Translate a PPG recording to a 12-lead ECG.

    The recording may have any sampling rate and length.

    Example: p2es translate watch.csv --age 63 --sex F --out my_ecg
    """
    from p2es_lib.translation.file import translate as translate_recording

    written = translate_recording(
        record, age=age, sex=sex, out=out, model=model, sampling_rate=sampling_rate, column=column, polarity=polarity,
        n_samples=samples, seed=seed, csv=csv, progress=True, reference=reference, time_column=time_column,
    )  # fmt: skip
    for what, path in written.items():
        typer.echo(f"{what}: {path}")


@app.command()
def calibrate(
    record: Annotated[Path, typer.Argument(help="WFDB record (without suffix), CSV or EDF file with an ECG in it.")],
    out: option(Path, "File for the reference, for example me.p2es."),
    age: Age = None,
    sex: Sex = None,
    sampling_rate: option(float | None, _RATE) = None,
    column: option(str | None, "Column of the PPG, by name or number; default: found out, and told.") = None,
    time_column: option(str | None, _TIME_COLUMN) = None,
    polarity: option(str, _POLARITY) = "auto",
    leads: option(str | None, _LEADS, "--leads", "--lead") = None,
) -> None:
    """Make a reference of a person from an ECG.

    Any leads, 1 to 12, in mV; with a PPG beside them, the delay between heart and pulse is measured too. A minute at
    rest is enough. The file holds mean beats, not the recording: p2es translate --reference uses it.

    Example: p2es calibrate clinic.edf --out me.p2es
    """
    from p2es_lib.translation.calibrate import calibrate as make_reference

    made = make_reference(
        record, out=out, age=age, sex=sex, sampling_rate=sampling_rate, column=column, polarity=polarity, leads=leads,
        time_column=time_column,
    )  # fmt: skip
    for what, text in {"reference": made.path, **made.told}.items():
        typer.echo(f"{what}: {text}")
    for warning in made.warnings:
        typer.echo(f"WARNING: {warning}", err=True)


@app.command()
def live(
    sampling_rate: option(float, "Hz, of the PPG on standard input."),
    age: Age = None,
    sex: Sex = None,
    model: Model = None,
    polarity: option(str, _POLARITY) = "auto",
    samples: option(int, "Samples per window, of which the mean is written.") = 8,
    seed: SampleSeed = 0,
    reference: Reference = None,
) -> None:
    """Translate a PPG while it is being recorded.

    One sample per line on standard input; one line of 12 leads (mV) on standard output per sample of the ECG. A line
    that is no number is a missing sample. Warnings go to standard error, and say which seconds are in doubt, and why.

    Example, where sensor is a program that prints the samples:

    sensor | p2es live --sampling-rate 64 > ecg.csv
    """
    check_options(age, sex, samples, sampling_rate)
    check_choice("polarity", polarity, ("auto", "up", "down"))
    known = None if reference is None else check_reference(reference)
    network = load_model(model)
    from p2es_lib.translation.live import LiveTranslator
    from p2es_lib.translation.results import Summary
    from p2es_lib.translation.stream import NumberLines, Warnings

    settings = {"age": age, "sex": sex, "polarity": polarity, "n_samples": samples, "seed": seed}
    settings["reference"] = load_reference(reference)
    translator = LiveTranslator(network, sampling_rate=sampling_rate, where="standard input", **settings)
    typer.echo(f"research use only, not a diagnosis; the ECG is {translator.delay_s + CHUNK_S:.2f} s behind", err=True)
    if known:
        typer.echo(f"reference: {describe_reference(known)}", err=True)
    typer.echo(",".join(["time_s", *(f"{lead}_mV" for lead in LEADS)]))

    tell = partial(typer.echo, err=True)
    numbers = NumberLines(sys.stdin, max(1, int(CHUNK_S * sampling_rate)), tell)
    warnings, summary = Warnings(translator, tell), Summary(translator.rate, translator.n_window / translator.rate)

    def write(block) -> None:
        for number, values in enumerate(block.mean.T, start=block.start):
            typer.echo(f"{number / translator.rate:.4f}," + ",".join("" if np.isnan(v) else f"{v:.4f}" for v in values))
        sys.stdout.flush()
        warnings.take(block)
        summary.add(block)

    for chunk in numbers:
        write(translator.push(chunk))
    write(translator.finish())
    for line in filter(None, [numbers.summary(), *summary.lines()]):
        tell(line)


@app.command()
def export(onnx: option(Path, "File to write, for example model.onnx."), model: Model = None) -> None:
    """Export P2Es as ONNX, for use without PyTorch.

    The file holds one call of the network; p2es_lib/translation/onnx_export.py lists its inputs and outputs.
    """
    paths.check_output_folder(onnx.parent, "--onnx")
    network = load_model(model)
    from p2es_lib.translation.onnx_export import export_onnx

    typer.echo(export_onnx(network, onnx))


@app.command()
def table(dataset: Dataset = "simulated", profile: Profile = "quick") -> None:
    """Print the headline table of a finished run."""
    _check_settings(profile, dataset)
    typer.echo(workflow.headline_table(dataset, profile))


@app.command()
def verify(dataset: Dataset = "simulated", profile: Profile = "quick") -> None:
    """Hold a finished run against the committed tables.

    Row by row, and what the tables say as a whole. The exit status is 1 if a table is not reproduced.
    """
    from p2es_lib.experiments import verify as verification

    _check_settings(profile, dataset)
    comparisons, differences = verification.verify(dataset, profile)
    strict = "on such a machine: every number must be the same"
    lenient = "on another machine: numbers must be within tolerance, and conclusions the same"
    typer.echo(f"the committed tables were made {lenient if differences else strict}")
    for difference in differences:
        typer.echo(f"    here {difference}")
    outcomes = [verification.outcome(comparison, not differences) for comparison in comparisons]
    for compared, outcome in zip(comparisons, outcomes, strict=True):
        typer.echo(
            f"{outcome:24} {compared.table}: {compared.same} of {compared.rows} rows equal, {compared.within} more "
            f"within tolerance; conclusions compared: {compared.conclusions}; faults: {len(compared.wrong)}"
        )
        more = len(compared.wrong) - 10
        for line in [*compared.wrong[:10], *([f"... and {more} more"] if more > 0 else [])]:
            typer.echo(f"    {line}")
    typer.echo(f"{verification.worst(outcomes)}: data set {dataset}, profile {profile}, {len(comparisons)} tables")
    if verification.NOT_REPRODUCED in outcomes:
        raise typer.Exit(1)


@app.command()
def readme(dataset: Dataset = "simulated", profile: Profile = "quick") -> None:
    """Fill README.md and the pages with the numbers.

    They come from the tables in figures/, and the minutes from a finished run.
    """
    from p2es_lib.companion.readme import filled_pages, read_pages, write_minutes

    _check_settings(profile, dataset)
    write_minutes(dataset, profile)
    before = read_pages()
    for path, text in filled_pages().items():
        if text != before[path]:
            with paths.atomic_path(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
            typer.echo(f"{path}: renewed")


def _check_settings(profile: str, dataset: str, variant=None, seeds=None, seed=None) -> None:
    """Refuse unknown settings before anything starts."""
    check_choice("profile", profile, PROFILES)
    if seed is not None and seed < 0:
        raise InputError(f"seed={seed}: a whole number from 0 on")
    if os.environ.get("P2ES_HOME"):
        paths.check_output_folder(os.environ["P2ES_HOME"], "P2ES_HOME")
    parse_dataset(dataset)
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
        requirements = "\n".join(requires("p2es") or [])
    except PackageNotFoundError:  # the source tree, not installed
        return None
    package = re.sub(r"[-_.]+", "[-_.]+", re.escape(module.partition(".")[0]))
    found = re.search(rf"""^{package}(?![\w.-]).*;.*extra == ["']([\w-]+)["']""", requirements, re.MULTILINE | re.I)
    return found and found[1]


def main() -> None:
    """Entry point of the command ``p2es``: every expected error becomes a line on standard error and an exit status."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)  # raises KeyboardInterrupt
    try:
        app()
    except (InputError, notebooks.NotebookError) as error:
        _end(str(error), 2 if isinstance(error, InputError) else 1)
    except ModuleNotFoundError as error:
        if (extra := _extra_of(error.name or "")) is None:
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
