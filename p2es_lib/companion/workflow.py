"""The whole workflow as one call: Snakemake on the packaged Snakefile, made to stop and continue cleanly."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from p2es_lib.core import paths
from p2es_lib.core.config import get_config
from p2es_lib.core.errors import InputError
from p2es_lib.core.processes import exclusive_lock, stop_with_parent
from p2es_lib.data.download.mirror import resolve_mirror
from p2es_lib.data.sources import parse_dataset

#: Exit status of a run that the user stopped (128 + SIGINT), as shells report it.
INTERRUPTED = 130
#: Seconds that steps have to end after a stop request.
STOP_S = 20.0
# What Snakemake says about itself; the steps' own lines tell the story. Everything else is passed on.
_CHATTER = re.compile(
    r"Assuming unrestricted shared filesystem|Building DAG|Using shell|Provided cores|Rules claiming more|Select jobs|"
    r"Execute \d+ jobs|\[\w{3} \w{3} +\d+ [\d:]+ \d{4}\]$|Finished jobid|Elapsed time|"
    r"RuleException:|CalledProcessError in|"
    r"Command 'set -euo pipefail|Exiting because a job|WorkflowError:|At least one job did not complete|"
    r"Terminating processes on user request|$"
)
#: Metrics of the headline table in the terminal, and the names of their columns; those with room for the interval.
HEADLINE = {"rmse": "RMSE (mV)", "rmse_lag": "after lag", "pearson": "Pearson r", "pearson_lag": "after lag",
            "r_peak_f1": "R-peak F1"}  # fmt: skip
WITH_INTERVAL = ("rmse", "pearson")


def check_jobs(jobs: int | None) -> int:
    """Number of cores to use: ``jobs``, or all that this process may use if None; an :class:`InputError` below 1."""
    if jobs is not None and jobs < 1:
        raise InputError(f"jobs={jobs}: at least 1 (leave it out for all cores)")
    return jobs or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def check_mirror(dataset: str, mirror: str | None) -> str:
    """Absolute folder or URL of a mirror that holds the data set (else an InputError), as text; empty if none given."""
    sources = parse_dataset(dataset)
    if sources[0].role == "simulated":
        if mirror:
            raise InputError(f"mirror={mirror!r}: data set {dataset!r} is made on this machine; leave the mirror out")
        return ""
    if not mirror and not os.environ.get("P2ES_MIRROR"):
        return ""
    location = resolve_mirror(mirror)
    for source in sources:
        if isinstance(location, Path) and not (location / source.slug).is_dir():
            problem = f"mirror={str(location)!r}: no folder {source.slug!r} in it"
            raise InputError(f"{problem}; it must be laid out as PhysioNet, <slug>/<version>/...")
    return str(location) if mirror else ""


def is_timing_only(dataset: str) -> bool:
    """Whether no source of the data set names an ECG lead, so that there is nothing to train on."""
    return {source.role for source in parse_dataset(dataset)} == {"timing only"}


def write_jobs(dataset: str, profile: str, mirror: str = "") -> Path:
    """List what there is to prepare, one job per shard, in a file that the Snakefile reads; written when it changes."""
    from p2es_lib.data.preparation import list_jobs
    from p2es_lib.data.preparation.jobs import folder_state

    path, place = paths.jobs_file(dataset, profile), mirror or None
    jobs = list_jobs(get_config(profile, dataset), place) if dataset != "simulated" else []
    rows = [{"source": job.source, "shard": job.shard, "state": folder_state(job, place)} for job in jobs]
    text = json.dumps(rows, indent=1)
    if not path.is_file() or path.read_text() != text:
        with paths.atomic_path(path) as temporary:
            temporary.write_text(text)
    return path


def reproduce(
    dataset: str, profile: str, *, seeds: list[int], mirror: str = "", jobs: int | None = None,
    snakefile: Path | None = None,
) -> int:  # fmt: skip
    """Run every step that is missing or stale; return Snakemake's exit status, or 130 when stopped.

    Settings must have been checked (``experiments.configure``, :func:`check_mirror`). Whatever stops this process stops
    the steps too, and the next call continues. An InputError, if another process runs the same in this folder.
    """
    home = paths.home()
    home.mkdir(parents=True, exist_ok=True)
    write_jobs(dataset, profile, mirror)
    settings = {"dataset": dataset, "profile": profile, "seeds": ",".join(map(str, seeds)), "mirror": mirror}
    place = ("--snakefile", str(snakefile or paths.checkout() / "Snakefile"), "--directory", str(home))
    command = [
        *(sys.executable, "-m", "snakemake", *place, "--cores", str(check_jobs(jobs))),
        # Finish what does not depend on a failed step, and redo what a killed run left half-done. Our own lock replaces
        # Snakemake's, which a killed run leaves behind.
        *("--keep-going", "--rerun-incomplete", "--nolock"),
        # Not "code": the command lines of the Snakefile decide nothing about results.
        *("--rerun-triggers", "mtime", "params", "input", "--quiet", "rules", "host", "reason"),
        # JSON, so that Snakemake's parser keeps text as text.
        *("--config", *(f"{key}={json.dumps(value)}" for key, value in settings.items() if value)),
    ]
    lock = home / ".snakemake" / f"p2es-{dataset}-{profile}.lock"
    with exclusive_lock(lock, what=f"the workflow for {dataset}, profile {profile}") as descriptor:
        return _run_to_end(command, home, descriptor)


class _Stop:
    """Passes the first stop request on to all processes of the workflow: interrupt, termination or hang-up."""

    process: subprocess.Popen | None = None
    asked_at: float | None = None

    def __enter__(self) -> _Stop:
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as under nohup
            numbers.append(signal.SIGHUP)
        self.previous = {number: signal.signal(number, self) for number in numbers}
        return self

    def __call__(self, *_) -> None:
        if self.asked_at is None:
            self.asked_at = time.monotonic()
            if self.process is not None:
                os.killpg(self.process.pid, signal.SIGINT)

    def __exit__(self, *_) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)


def _before_exec() -> None:
    stop_with_parent(signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs with it ignored


def _run_to_end(command: list[str], folder: Path, descriptor: int) -> int:
    """Run ``command`` in a session of its own: a terminal's interrupt reaches this process, which passes it on once."""
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "errors": "replace"}
    # The lock stays held until Snakemake is gone too.
    session = {"start_new_session": True, "pass_fds": (descriptor,), "preexec_fn": _before_exec}
    with _Stop() as stop:
        process = stop.process = subprocess.Popen(command, cwd=folder, text=True, **pipes, **session)
        relay = threading.Thread(target=_relay, args=(process.stdout, errors := []), daemon=True)
        relay.start()
        while process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=1.0)
            if stop.asked_at is not None and time.monotonic() - stop.asked_at > STOP_S and process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
        relay.join(timeout=5.0)
        if stop.asked_at is not None:
            return INTERRUPTED
        if errors:
            print("\nWhat went wrong:", *errors, sep="\n", file=sys.stderr)
        return process.returncode


def _relay(stream: TextIO, errors: list[str]) -> None:
    """Pass lines on to standard error, without the chatter; collect error messages to repeat them at the end."""
    inside = False  # an error message of several lines: the others are indented
    for line in stream:
        line = line.rstrip("\n")
        inside = line.startswith("error: ") or (inside and line.startswith("  "))
        if inside:
            errors.append(line)
        if inside or not _CHATTER.match(line):
            print(line, file=sys.stderr, flush=True)


def artefacts(dataset: str, profile: str) -> str:
    """Where tables, figures and executed notebooks of a run of the workflow are, in a few lines."""
    figures = paths.figures_dir(dataset, profile)
    executed = paths.home() / "runs" / dataset / profile / "notebooks"
    lines = []
    for what, pattern in (("Tables", "table*.csv"), ("Figures", "fig*.png")):
        lines += [f"{what:9} {figures}", *(f"{'':9} {path.name}" for path in sorted(figures.glob(pattern)))]
    return "\n".join([*lines, f"Notebooks {executed} ({len(list(executed.glob('[0-9]*.ipynb')))} executed)"])


def headline_table(dataset: str, profile: str) -> str:
    """The headline table as text: a line per method, over all leads, with any 95 % intervals; missing: InputError."""
    import pandas as pd
    from tabulate import tabulate

    path = paths.figures_dir(dataset, profile) / "table02_results.csv"
    if not path.is_file():
        command = f"p2es reproduce --dataset {dataset} --profile {profile}"
        raise InputError(f"{path}: this table is missing; make it with: {command}")
    table = pd.read_csv(path).query("lead == 'all'")
    cells = table.set_index(["method", "metric"])[["value", "lower", "upper"]].apply(_cell, axis=1).unstack()
    columns = [metric for metric in HEADLINE if metric in cells]
    cells = cells.loc[table["method"].unique(), columns].fillna("")
    headers = ["method", *(HEADLINE[metric] for metric in columns)]
    text = tabulate(cells, headers, tablefmt="simple", disable_numparse=True)
    subjects, seeds = table["n_subjects"].max(), table["seeds"].max()
    return f"{text}\n\n{path}: {subjects:g} test subject(s), {seeds:g} seed(s); [95 % interval]"


def _cell(row) -> str:
    """Value of a metric, with its interval where there is one and room for it; empty where the method has no value."""
    value, lower, upper = row
    has_interval = row.name[1] in WITH_INTERVAL and row.notna().all()
    return f"{value:.3f} [{lower:.3f}, {upper:.3f}]" if has_interval else f"{value:.3f}".replace("nan", "")
