"""The commands ``p2es data ...``: which data sets there are, getting their recordings, preparing windows."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from p2es_lib.cli import option
from p2es_lib.companion.workflow import check_mirror, write_jobs
from p2es_lib.core import paths
from p2es_lib.core.config import get_config
from p2es_lib.core.errors import InputError
from p2es_lib.core.processes import stop_with_parent
from p2es_lib.data.sources import SOURCES, fetch, parse_dataset

app = typer.Typer(help="List, download, verify and prepare recordings.", no_args_is_help=True, rich_markup_mode=None)


def _ask_to_stop_with_parent(wanted: bool) -> bool:
    if wanted:
        stop_with_parent()
    return wanted


# The Makefile and the Snakefile ask for it: a step must not outlive the workflow that it belongs to.
StopWithParent = Annotated[bool, typer.Option("--stop-with-parent", hidden=True, callback=_ask_to_stop_with_parent)]
_NAME = "A data set of p2es data sources; a+b: both together; a~b: b for testing only."
Name = Annotated[str, typer.Argument(help=_NAME)]
_MIRROR = "Folder or URL laid out as PhysioNet; default: what was fetched, as it is, and the data set's home."
Mirror = option(str | None, _MIRROR)
Profile = option(str, "smoke, quick, wide or full: how much is used of a data set too large for all of it.")
Jobs = option(int, "How many transfers or processes run at once.")
_ONLY_STORES = "Stores that are written and their loader alone; into table02_written."


@app.command()
def sources() -> None:
    """List the data sets, with terms and citations."""
    for source in SOURCES.values():
        typer.echo(f"{source.name}: {source.title} ({source.role})")
        for term, text in source.about.items():
            typer.echo(f"    {term}: {text}")


@app.command()
def get(
    name: Name,
    mirror: Mirror = None,
    record: option(list[str] | None, "Record name or pattern (p100*); may be repeated.") = None,
    subject: option(list[str] | None, "Subject; may be repeated.") = None,
    number: option(int | None, "That many records, spread over the data set (and its folds).") = None,
    jobs: Jobs = 4,
) -> None:
    """Download recordings to data/raw and check them.

    After an interruption, the same command continues. Once records are selected so (all selections together),
    preparation uses these alone, from any mirror, folders too.
    """
    for source in parse_dataset(name):
        if source.role == "simulated":
            raise InputError("data set simulated: it is made on this machine, there is nothing to get")
        got = fetch.get_records(source, mirror, records=record or (), subjects=subject or (), number=number, jobs=jobs)
        size = f"{len(got.records)} records, {got.n_files} files, {got.n_bytes / 1e6:.1f} MB"
        typer.echo(f"{source.name}: {size} in {got.folder}")
        unlisted = "not in SHA256SUMS.txt, so not checked against it (was it cut short?)"
        for files, what in ((got.missing, "not on the mirror"), (got.unlisted, unlisted)):
            if files:
                typer.echo(f"  {len(files)} files are {what}: {', '.join(files[:5])}{', ...' * (len(files) > 5)}")
        for path in got.mended:
            typer.echo(f"  damaged, so fetched again (what was here is now {path}.damaged): {path}")


@app.command()
def verify(name: Name, mirror: Mirror = None) -> None:
    """Check the files that are there by their hashes.

    Each is held against the data set's SHA256SUMS.txt and the hashes seen before.
    """
    n_wrong = 0
    for source in parse_dataset(name):
        report = fetch.verify_records(source, mirror)
        found = f"{report.verified} files verified, {len(report.missing)} not there, {len(report.wrong)} wrong"
        typer.echo(f"{source.name}: {found}")
        for path in report.wrong:
            typer.echo(f"  wrong: {path}")
        if report.wrong:
            place = source.mirror(mirror).location
            again = f"take it from where {place} came from" if isinstance(place, Path) else f"run p2es data get {name}"
            typer.echo(f"  a file that is wrong: delete it and {again}")
        n_wrong += len(report.wrong)
    if n_wrong:
        raise typer.Exit(1)


@app.command("list")
def list_(name: Name, mirror: Mirror = None, profile: Profile = "quick") -> None:
    """List the shards that the workflow prepares.

    The file that the workflow reads them from is renewed.
    """
    from p2es_lib.data.preparation import list_jobs

    mirror = check_mirror(name, mirror)
    for job in list_jobs(get_config(profile, name), mirror or None):
        typer.echo(f"{job.source}/{job.shard}: {len(job.records)} record(s)")
    typer.echo(write_jobs(name, profile, mirror), err=True)


@app.command()
def prepare(
    name: Name,
    mirror: Mirror = None,
    profile: Profile = "quick",
    shard: option(str | None, "SOURCE/SHARD: that one only (the workflow's jobs).") = None,
    jobs: Jobs = 1,
    stop_with_parent: StopWithParent = False,
) -> None:
    """Cut the recordings into windows, and store them.

    Records that did not change are not prepared again.
    """
    from p2es_lib.data.preparation import list_jobs, prepare_windows, run_job, run_jobs

    config, location = get_config(profile, name), check_mirror(name, mirror) or None
    found = {f"{job.source}/{job.shard}": job for job in list_jobs(config, location)}
    if shard is None:
        run_jobs(list(found.values()), config, location, n_processes=jobs)
        made = prepare_windows(config, mirror=location)
        _report(name, made)
    elif shard in found:
        made = run_job(found[shard], config, location, progress=not stop_with_parent)
    else:
        raise InputError(f"shard {shard!r}: the data set {name} has none of that name here; see p2es data list {name}")
    typer.echo(made)


def _report(name: str, made: Path) -> None:
    """Say how many windows are usable, and why others are not."""
    from p2es_lib.data.windows import read_windows

    info = read_windows(made).info
    rejected = sorted(info["rejected"].items(), key=lambda item: -item[1])
    notes, last = _sum_up(info["notes"])
    selected = [source.name for source in parse_dataset(name) if fetch.read_selection(source) is not None]
    typer.echo(f"{info['accepted']} of {info['found']} windows usable, from {info['records']} records", err=True)
    for line in (
        *(f"{count} rejected: {reason}" for reason, count in rejected),
        *(f"lead {lead} flat or missing in {n} record(s): absent there" for lead, n in info["dead_leads"].items()),
        *(f"record {copy} left out: the same ECG as {original}" for copy, original in info["duplicates"].items()),
        *notes,
        *(f"{source}: only records that p2es data get selected" for source in selected),
        *last,
    ):
        typer.echo(f"  {line}", err=True)


def _sum_up(notes: list[str]) -> tuple[list[str], list[str]]:
    """Notes on records, damaged files first and one line for all that the mirror lacks; and how many are damaged."""
    absent = [note for note in notes if ": not on the mirror (" in note]
    damaged = [note for note in notes if "SHA-256 is " in note or "cannot be read (" in note]
    shown = [*damaged, *(note for note in notes if note not in {*absent, *damaged})]
    if more := len(shown[10:]):
        shown[10:] = [f"... and {more} more notes"]
    if absent:
        shown.append(f"{len(absent)} record(s) not on the mirror, the first: {absent[0]}")
    n_damaged = len({note.partition(": ")[0] for note in damaged})  # "record NAME: ..."
    return shown, [f"{n_damaged} record(s) damaged"] * (n_damaged > 0)


@app.command()
def measure(
    windows: option(int, "Largest store that is written; 1000000 take 53 GB.") = 100_000,
    samples: option(int, "Samples of a window.") = 1024,
    only_stores: option(bool, _ONLY_STORES, "--only-stores") = False,
    folder: option(Path | None, "On the disk in question; default: data.") = None,
) -> None:
    """Measure what preparing and storing cost here.

    Writes figures/store/table01_store: preparing, storing and loading, on this machine.
    """
    tools = paths.checkout() / "tools"
    if not (tools / "measure_data.py").is_file():
        raise InputError("p2es data measure needs tools/measure_data.py of the source tree: run it in a checkout")
    sys.path.insert(0, str(tools.parent))
    from tools.measure_data import write_table

    typer.echo(write_table(windows, samples, only_stores, folder))
