"""The steps of a preparation: what there is to do, doing one shard of it, and the store of a run."""

import hashlib
import json
import os
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from tqdm.auto import tqdm

from p2es_lib.core import paths
from p2es_lib.core.config import Config, same_settings
from p2es_lib.core.errors import InputError
from p2es_lib.data.preparation.assembly import ASSEMBLES, assemble
from p2es_lib.data.preparation.prepare_shard import code_files, files_imported, hash_files, prepare_shard
from p2es_lib.data.sources import get_source, parse_dataset
from p2es_lib.data.sources.contract import Record
from p2es_lib.data.sources.fetch import SELECTION_FILE, read_selection, sample_records, selection_note
from p2es_lib.data.sources.simulated import simulate_cohort
from p2es_lib.data.windows.store import SHARD_SETTINGS, read_settings, write_view, write_windows


@dataclass(frozen=True)
class ShardJob:
    """One shard of one source, and its records."""

    source: str
    shard: str
    records: tuple[Record, ...]


def list_jobs(config: Config, location: str | Path | None = None) -> list[ShardJob]:
    """What there is to prepare for ``config.dataset``, one job per shard, in a fixed order.

    All records of a data set, or those that ``p2es data get`` selected, whatever the mirror; below profile ``full``, a
    source too large to fetch as a whole gives a sample. InputError: simulated data, or no record of a selection there.
    """
    jobs = []
    for source in parse_dataset(config.dataset):
        if source.role == "simulated":
            made = f"data set {source.name!r} is made on this machine"
            raise InputError(f"{made}: there is nothing to list or to prepare by record")
        mirror = source.mirror(location)
        records = source.list_records(mirror)
        if (selected := read_selection(source)) is not None:
            records = [record for record in records if record.name in selected]
            if not records:
                problem = f"none of the records that p2es data get selected is on {mirror.where()}"
                remedy = f"select others with it, or delete {mirror.cached(SELECTION_FILE)} to use all"
                raise InputError(f"data set {source.name}: {problem}; {remedy}")
        elif isinstance(mirror.location, str) and source.sample and config.profile != "full":
            records = sample_records(records, source.sample, partial(source.stratum, mirror))
        shards: dict[str, list[Record]] = defaultdict(list)
        for record in records:
            shards[record.shard].append(record)
        jobs += [ShardJob(source.name, shard, tuple(members)) for shard, members in shards.items()]
    return jobs


def folder_state(job: ShardJob, location: str | Path | None = None) -> str:
    """Hash that changes when a file of the job's records may have changed: names, sizes and times in their folders.

    Empty for a remote mirror, whose files are taken to stay as they are (a file is fetched once, and checked).
    """
    mirror = get_source(job.source).mirror(location)
    if isinstance(mirror.location, str):
        return ""
    found = []
    for folder in sorted({Path(mirror.where(record.path)).parent for record in job.records}):
        with suppress(OSError):  # not there, or not to be read: its records are named when they are prepared
            entries = [entry for entry in os.scandir(folder) if entry.is_file()]
            found += sorted((entry.path, entry.stat().st_size, entry.stat().st_mtime_ns) for entry in entries)
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()[:16]


def run_job(job: ShardJob, config: Config, location: str | Path | None = None, progress: bool = False) -> Path:
    """Prepare one shard, fetching what it needs; does nothing where nothing changed. Returns its folder."""
    source = get_source(job.source)
    form = "{desc}: {n:.2f} h of signal [{elapsed}]"
    with tqdm(desc=f"{job.source} {job.shard}", bar_format=form, disable=not progress, leave=False) as bar:
        return prepare_shard(source, job.shard, list(job.records), config, source.mirror(location), bar)


def run_jobs(
    jobs: list[ShardJob], config: Config, location=None, *, n_processes: int = 1, progress: bool = True
) -> list[Path]:
    """Prepare shards on ``n_processes``, an InputError below 1; their folders, in the order of ``jobs``."""
    if n_processes < 1:
        raise InputError(f"jobs={n_processes}: at least 1")
    paths.remove_leftovers(paths.home() / "data" / "prepared")  # of processes that were killed
    counted = partial(tqdm, total=len(jobs), desc=f"preparing {config.dataset}", unit="shard", disable=not progress)
    if n_processes == 1 or len(jobs) <= 1:
        return [run_job(job, config, location, progress=progress) for job in counted(jobs)]
    # Forked children would inherit the threads of torch in an unknown state.
    with ProcessPoolExecutor(min(n_processes, len(jobs)), mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(run_job, job, config, location) for job in jobs]
        try:
            list(counted(as_completed(futures)))
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def prepare_windows(config: Config, *, mirror: str | Path | None = None, progress: bool = True) -> Path:
    """Make the windows of ``config.dataset`` and return their folder; reuse what was made with the same settings.

    Parameters
    ----------
    config, mirror : Config; str or Path, optional
        Only the sections ``signal`` and ``data`` matter; folder or URL laid out as PhysioNet, instead of the default
        (real data sets only).

    Raises
    ------
    InputError
        Unknown data set, nothing found on the mirror, or too few usable windows (says why).
    """
    folder = paths.windows_dir(config.dataset, config.profile)
    paths.remove_leftovers(folder.parent)
    settings = {name: asdict(getattr(config, name)) for name in ("signal", "data")}
    settings |= {"dataset": config.dataset, "profile": config.profile}

    def is_current() -> bool:
        return same_settings(read_settings(folder) or {}, settings)

    sources = parse_dataset(config.dataset)
    if sources[0].role == "simulated":
        settings["source"] = {"code": hash_files(code_files(sources[0]))}
        if not is_current():
            write_windows(folder, simulate_cohort(config, progress), settings)
        return folder
    jobs = list_jobs(config, mirror)
    if not jobs:
        raise InputError(f"data set {config.dataset}: no record selected; see p2es data get")
    shards = run_jobs(jobs, config, mirror, progress=progress)
    hashes = [read_settings(shard, SHARD_SETTINGS)["content_hash"] for shard in shards]
    settings["source"] = {source.name: hash_files(code_files(source)) for source in sources}
    settings["assembly"] = hash_files(files_imported(assemble.__module__, ASSEMBLES))
    settings["shards_hash"] = hashlib.sha256(json.dumps(hashes).encode()).hexdigest()[:16]
    if not is_current():
        where = f"data set {config.dataset} from {', '.join(source.mirror(mirror).where() for source in sources)}"
        try:
            index, info = assemble([(job.source, shard) for job, shard in zip(jobs, shards)], config, where)
        except InputError as error:  # too few windows, perhaps because few records were selected
            raise InputError(f"{error}{selection_note(sources)}") from error
        write_view(folder, index, dict(zip(shards, hashes)), info, settings)
    return folder
