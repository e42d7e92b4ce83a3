"""Recordings to this machine: which ones, in parallel, continued after a break, and checked."""

from __future__ import annotations

import difflib
import fnmatch
import hashlib
import shutil
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from p2es_lib import paths
from p2es_lib.errors import InputError
from p2es_lib.sources.checksums import PUBLISHED_FILE, SEEN_FILE, hash_file, read_checksums
from p2es_lib.sources.contract import Record, Source
from p2es_lib.sources.mirror import MISSING_FILE, Mirror, MissingFile

SELECTION_FILE = ".selection"
#: Free space that must remain, as a share of what is fetched.
SPACE_MARGIN = 0.05


@dataclass(frozen=True)
class Fetched:
    """What :func:`get_records` did: the records chosen, files and bytes they have here now, files the mirror lacks."""

    records: list[Record]
    n_files: int
    n_bytes: int
    missing: list[str]
    folder: Path


@dataclass(frozen=True)
class Verified:
    """What :func:`verify_records` found: number of good files; paths that are not there; paths of another content."""

    verified: int
    missing: list[str]
    wrong: list[str]


# ------------------------------------------------------------------------------------------------------ which records
def sample_records(records: Sequence[Record], number: int) -> list[Record]:
    """``number`` of the records in their order, chosen by a hash of their names.

    The choice of one record depends on no other, and a larger sample holds the smaller one.
    """
    chosen = sorted(records, key=lambda record: hashlib.sha256(record.name.encode()).hexdigest())[:number]
    names = {record.name for record in chosen}
    return [record for record in records if record.name in names]


def select_records(
    source: Source,
    mirror: Mirror,
    *,
    records: Iterable[str] = (),
    subjects: Iterable[str] = (),
    number: int | None = None,
) -> list[Record]:
    """Records of a source by name, by subject, or a number of them; conditions that are given all hold.

    Parameters
    ----------
    records : iterable of str
        Names, or patterns such as ``p100*``.
    subjects : iterable of str
        As the source names them, with or without its own name before it. Headers are fetched to find them.
    number : int
        That many of what is left, spread by :func:`sample_records`.

    Raises
    ------
    InputError
        A name or subject that does not occur; names those that come close.
    """
    chosen = source.list_records(mirror)
    if wanted := list(records):
        names = [record.name for record in chosen]
        for pattern in wanted:
            if not fnmatch.filter(names, pattern):
                raise InputError(f"data set {source.name}: no record {pattern!r}{_close(pattern, names)}")
        chosen = [record for record in chosen if any(fnmatch.fnmatchcase(record.name, pattern) for pattern in wanted)]
    if people := {str(subject).removeprefix(f"{source.name}-") for subject in subjects}:
        known = {record.name: _subject(source, mirror, record) for record in chosen}
        if unknown := sorted(people - set(known.values())):
            raise InputError(f"data set {source.name}: no subject {unknown[0]!r}{_close(unknown[0], known.values())}")
        chosen = [record for record in chosen if known[record.name] in people]
    if number is not None:
        if number < 1:
            raise InputError(f"number={number}: at least 1 record")
        chosen = sample_records(chosen, number)
    return chosen


def _subject(source: Source, mirror: Mirror, record: Record) -> str:
    try:
        return source.read(mirror, record).subject
    except InputError:
        return ""


def _close(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, [other for other in names if other], n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def read_selection(source: Source) -> set[str] | None:
    """Names of the records that ``p2es data get`` was asked for, or None where it never was."""
    path = source.mirror().cached(SELECTION_FILE)
    return set(path.read_text().split()) if path.is_file() else None


# -------------------------------------------------------------------------------------------------------- their files
def get_records(
    source: Source,
    location: str | Path | None = None,
    *,
    records: Iterable[str] = (),
    subjects: Iterable[str] = (),
    number: int | None = None,
    jobs: int = 4,
    progress: bool = True,
) -> Fetched:
    """Fetch records to ``data/raw/<slug>/<version>``; what is there already is not fetched again.

    Every file is checked against the data set's SHA256SUMS.txt, or against the hash seen when it was first fetched.
    Sizes are asked for first, and the free space of the disk is held against them. Files that the mirror does not
    hold are noted. From then on, preparation uses what was selected here (all selections together).

    Parameters
    ----------
    source : Source
    location : str or Path, optional
        Folder or URL laid out as PhysioNet.
    records, subjects, number
        As in :func:`select_records`; without them, everything.
    jobs : int
        Transfers at once.

    Raises
    ------
    InputError
        Unknown names, too little space, a file that could not be fetched (after all others were) or is not what its
        hash says.
    """
    from tqdm.auto import tqdm

    if jobs < 1:
        raise InputError(f"jobs={jobs}: at least 1")
    mirror = source.mirror(location)
    mirror.cached(MISSING_FILE).unlink(missing_ok=True)  # look again
    chosen = select_records(source, mirror, records=records, subjects=subjects, number=number)
    with ThreadPoolExecutor(jobs, thread_name_prefix="fetching") as pool:
        wanted, absent, errors = _files(source, mirror, chosen, pool, progress)
        sizes = dict(zip(wanted, pool.map(mirror.size, wanted), strict=True))
    _check_space(mirror.cached(""), sum(size or 0 for size in sizes.values()))
    selected = (read_selection(source) or set()) | {record.name for record in chosen}
    _write_lines(mirror.cached(SELECTION_FILE), sorted(selected))
    with tqdm(total=sum(size or 0 for size in sizes.values()), unit="B", unit_scale=True, desc=f"getting {source.name}",
              disable=not progress) as bar:  # fmt: skip
        missing, failed = _fetch_all(mirror, wanted, jobs, bar.update)
    missing, errors = sorted({*absent, *missing}), list(dict.fromkeys([*errors, *failed]))
    _write_lines(mirror.cached(MISSING_FILE), [mirror.where(), *sorted(mirror.not_found | set(missing))])
    if errors:
        more = f" (and {len(errors) - 1} more files)" if len(errors) > 1 else ""
        raise InputError(f"{errors[0]}{more}")
    here = [path for path in wanted if mirror.cached(path).is_file()]
    n_bytes = sum(mirror.cached(path).stat().st_size for path in here)
    if not here:
        raise InputError(
            f"data set {source.name}: none of its {len(wanted)} files is on the mirror {mirror.where()}; is it laid out as "
            "<mirror>/<slug>/<version>/...?"
        )
    return Fetched(chosen, len(here), n_bytes, missing, mirror.cached(""))


def _files(
    source: Source, mirror: Mirror, chosen: list[Record], pool: ThreadPoolExecutor, progress: bool
) -> tuple[list[str], list[str], list[str]]:
    """All files of the records, and those that belong to no record: tables, lists of records, hashes.

    Then the headers that the mirror does not hold, and what was wrong with others: the files of these records are not
    known.
    """
    from tqdm.auto import tqdm

    mirror.published_checksums()  # nothing can be checked without it, should the server fail to give it
    absent, errors = [], []

    def files(record: Record) -> list[str]:
        try:
            return source.files(mirror, record)
        except MissingFile as error:
            absent.append(error.path)
        except InputError as error:
            errors.append(str(error))
        return []

    listing = tqdm(pool.map(files, chosen), total=len(chosen), desc="listing", unit="record", disable=not progress,
                   leave=False)  # fmt: skip
    found = [path for paths_ in listing for path in paths_]
    asked = sorted(mirror.asked - mirror.not_found)  # lists of records and tables that were read on the way
    return list(dict.fromkeys([*asked, *source.tables, *found])), absent, errors


def _check_space(folder: Path, n_bytes: int) -> None:
    existing = next(parent for parent in [folder, *folder.parents] if parent.exists())
    free, needed = shutil.disk_usage(existing).free, int(n_bytes * (1 + SPACE_MARGIN))
    if needed > free:
        raise InputError(
            f"{folder}: {needed / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB are free; get fewer records "
            "(--number, --record, --subject), or set P2ES_HOME to a larger disk"
        )


def _fetch_all(
    mirror: Mirror, wanted: list[str], jobs: int, count: Callable[[int], object]
) -> tuple[list[str], list[str]]:
    """Fetch files side by side; returns those that the mirror does not hold, and what was wrong with others."""
    stop, lock = threading.Event(), threading.Lock()

    def meter(n_bytes: int) -> None:
        if stop.is_set():
            raise InputError("stopped")
        with lock:
            count(n_bytes)

    mirror.meter = meter
    missing, errors = [], []
    pool = ThreadPoolExecutor(jobs, thread_name_prefix="fetching")
    try:
        futures = {pool.submit(mirror.copy, path): path for path in wanted}
        for future in as_completed(futures):
            try:
                future.result()
            except MissingFile:
                missing.append(futures[future])
            except InputError as error:
                errors.append(str(error))
    except BaseException:  # an interrupt: what has arrived stays in its part file
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
        raise
    pool.shutdown()
    return missing, errors


def _write_lines(path: Path, lines: list[str]) -> None:
    with paths.atomic_path(path) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines))


# ----------------------------------------------------------------------------------------------------------- checking
def verify_records(source: Source, location: str | Path | None = None, progress: bool = True) -> Verified:
    """Hash every file of a data set that is here, in the mirror if it is a folder, else in ``data/raw``.

    Held against SHA256SUMS.txt where the data set has one, and against the hashes seen when files were fetched.
    """
    from tqdm.auto import tqdm

    mirror = source.mirror(location)
    folder = Path(mirror.where()) if isinstance(mirror.location, Path) else mirror.cached("")
    known = read_checksums(folder / SEEN_FILE) | read_checksums(folder / PUBLISHED_FILE)
    if not known:
        raise InputError(
            f"{folder}: no {PUBLISHED_FILE}, and nothing was fetched to here: there is nothing to verify against"
        )
    present = [path for path in known if (folder / path).is_file()]
    with ThreadPoolExecutor(thread_name_prefix="hashing") as pool:
        hashes = pool.map(lambda path: hash_file(folder / path), present)
        bar = tqdm(zip(present, hashes), total=len(present), desc=f"verifying {source.name}", unit="file",
                   disable=not progress)  # fmt: skip
        wrong = [path for path, digest in bar if digest != known[path]]
    return Verified(len(present) - len(wrong), sorted(set(known) - set(present)), wrong)
