"""Recordings to this machine: which ones, in parallel, continued after a break, and checked."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from p2es_lib.core import paths
from p2es_lib.core.errors import InputError
from p2es_lib.data.download.checksums import PUBLISHED_FILE, SEEN_FILE, hash_file, read_checksums
from p2es_lib.data.download.http import MissingFile, check_space
from p2es_lib.data.download.mirror import MISSING_FILE, Mirror
from p2es_lib.data.download.selection import add_to_selection, drop_from_selection, select_records, show_progress
from p2es_lib.data.sources.contract import Record, Source


@dataclass(frozen=True)
class Fetched:
    """What :func:`get_records` did."""

    records: list[Record]
    n_files: int  #: that they have here now
    n_bytes: int
    missing: list[str]  #: files that the mirror lacks
    folder: Path
    mended: list[str]  #: files here that were damaged, so that they were fetched again
    unlisted: list[str]  #: files here that the data set's SHA256SUMS.txt does not name: it may have been cut short


@dataclass(frozen=True)
class Verified:
    """What :func:`verify_records` found."""

    verified: int  #: number of good files
    missing: list[str]
    wrong: list[str]  #: of other content, or unreadable


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
    """Fetch records to ``data/raw/<slug>/<version>``; what is there already, undamaged, is not fetched again.

    Every file is checked against the data set's SHA256SUMS.txt, or against the hash seen when it was first fetched; one
    here that differs is set aside (renamed to end in ``.damaged``) and fetched again. Sizes are asked for first, and
    held against the free space of the disk. Files that the mirror does not hold are noted. From then on, preparation
    uses what was selected here (all selections together), from whichever mirror.

    Parameters
    ----------
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
    if jobs < 1:
        raise InputError(f"jobs={jobs}: at least 1")
    mirror = source.mirror(location)
    mirror.mends = True
    missing_file = mirror.cached(MISSING_FILE)
    before = missing_file.read_text().splitlines() if missing_file.is_file() else []
    missing_file.unlink(missing_ok=True)  # look again
    with _threads(mirror, jobs) as pool:
        wishes = {"records": records, "subjects": subjects, "number": number}
        chosen = select_records(source, mirror, **wishes, pool=pool, progress=progress)
        wanted, of_records, absent, errors = _files(source, mirror, chosen, pool, progress)
        sizes = show_progress(pool.map(mirror.size, wanted), len(wanted), "asking for sizes", "file", progress)
        n_bytes = sum(size or 0 for size in sizes)
        check_space(mirror.cached(""), n_bytes)
        added = add_to_selection(source, chosen)
        missing, failed = _fetch_all(mirror, wanted, pool, n_bytes, source.name if progress else "")
    missing, errors = sorted({*absent, *missing}), list(dict.fromkeys([*errors, *failed]))
    _note_missing(mirror, missing, before, wanted)
    if errors:
        more = f" (and {len(errors) - 1} more files)" if len(errors) > 1 else ""
        aside = f"; damaged, renamed to end in .damaged: {', '.join(sorted(mirror.mended))}" if mirror.mended else ""
        raise InputError(f"{errors[0]}{more}{aside}")
    if not any(mirror.cached(path).is_file() for path in of_records):  # tables and hashes are nothing to prepare
        drop_from_selection(source, added)
        raise InputError(
            f"data set {source.name}: none of its {len(wanted)} files is on the mirror {mirror.where()} that belongs "
            f"to the {len(chosen)} record(s) asked for{f' ({missing[0]} is not there)' if missing else ''}; is it laid "
            "out as <mirror>/<slug>/<version>/...? Ask for other records, or another mirror; nothing more was selected"
        )
    here = [path for path in wanted if mirror.cached(path).is_file()]
    n_bytes, listed = sum(mirror.cached(path).stat().st_size for path in here), mirror.published_checksums()
    unlisted = sorted(path for path in here if listed and path not in listed and path != PUBLISHED_FILE)
    return Fetched(chosen, len(here), n_bytes, missing, mirror.cached(""), sorted(mirror.mended), unlisted)


def _note_missing(mirror: Mirror, missing: list[str], before: list[str], wanted: list[str]) -> None:
    """Write down what this mirror does not hold; ``before`` is what the file said of it, or of another one."""
    # What was not looked for now, since it belongs to other records, is as it was when this mirror was asked for it.
    still = set(before[1:]) - mirror.asked - set(wanted) if before[:1] == [mirror.where()] else set()
    lines = [mirror.where(), *sorted(mirror.not_found | set(missing) | still)]
    with paths.atomic_path(mirror.cached(MISSING_FILE)) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines))


def _files(
    source: Source, mirror: Mirror, chosen: list[Record], pool: ThreadPoolExecutor, progress: bool
) -> tuple[list[str], list[str], list[str], list[str]]:
    """All files of the records, with those that belong to no record (tables, lists of records, hashes), and without.

    Then the headers that the mirror does not hold, and what was wrong with others: their files are not known.
    """
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

    listing = show_progress(pool.map(files, chosen), len(chosen), "listing", "record", progress)
    found = [path for paths_ in listing for path in paths_]
    asked = sorted(mirror.asked - mirror.not_found)  # lists of records and tables that were read on the way
    return list(dict.fromkeys([*asked, *source.tables, *found])), found, absent, errors


@contextmanager
def _threads(mirror: Mirror, jobs: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that fetch; an error or an interrupt ends them at the next bytes, and what has not begun never begins."""
    with ThreadPoolExecutor(jobs, thread_name_prefix="fetching") as pool:
        try:
            yield pool
        except BaseException:
            mirror.stopped.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _fetch_all(
    mirror: Mirror, wanted: list[str], pool: ThreadPoolExecutor, n_bytes: int, shown: str
) -> tuple[list[str], list[str]]:
    """Fetch files side by side; returns those that the mirror does not hold, and what was wrong with others."""
    from tqdm.auto import tqdm

    lock, missing, errors = threading.Lock(), [], []
    with tqdm(total=n_bytes, unit="B", unit_scale=True, desc=f"getting {shown}", disable=not shown) as bar:

        def meter(arrived: int) -> None:
            with lock:
                bar.update(arrived)

        mirror.meter = meter
        futures = {pool.submit(mirror.copy, path): path for path in wanted}
        for future in as_completed(futures):
            try:
                future.result()
            except MissingFile:
                missing.append(futures[future])
            except InputError as error:
                errors.append(str(error))
    return missing, errors


def verify_records(source: Source, location: str | Path | None = None, progress: bool = True) -> Verified:
    """Hash every file of a data set that is here, in the mirror if it is a folder, else in ``data/raw``.

    Held against SHA256SUMS.txt where the data set has one, and against the hashes seen when files were fetched.
    """
    mirror = source.mirror(location)
    folder = Path(mirror.where()) if isinstance(mirror.location, Path) else mirror.cached("")
    known = read_checksums(folder / SEEN_FILE) | read_checksums(folder / PUBLISHED_FILE)
    if not known:
        raise InputError(
            f"{folder}: no {PUBLISHED_FILE}, and nothing was fetched to here: there is nothing to verify against"
        )
    present = [path for path in known if (folder / path).is_file()]

    def is_wrong(path: str) -> bool:
        try:
            return hash_file(folder / path) != known[path]
        except OSError:  # a file that cannot be read is not what it should be either
            return True

    with ThreadPoolExecutor(thread_name_prefix="hashing") as pool:
        found = zip(present, pool.map(is_wrong, present))
        found = show_progress(found, len(present), f"verifying {source.name}", "file", progress)
        wrong = [path for path, bad in found if bad]
    return Verified(len(present) - len(wrong), sorted(set(known) - set(present)), wrong)
