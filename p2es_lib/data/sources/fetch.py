"""Recordings to this machine: which ones, in parallel, continued after a break, and checked."""

import difflib
import fcntl
import fnmatch
import hashlib
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import NamedTuple

from p2es_lib.core import paths
from p2es_lib.core.errors import InputError
from p2es_lib.data.download.checksums import PUBLISHED_FILE, SEEN_FILE, hash_file, read_checksums
from p2es_lib.data.download.http import MissingFile, check_space
from p2es_lib.data.download.mirror import MISSING_FILE, Mirror
from p2es_lib.data.sources.contract import Record, Source

SELECTION_FILE = ".selection"


def sample_records(
    records: Sequence[Record], number: int, stratum: Callable[[Record], str] = lambda record: ""
) -> list[Record]:
    """``number`` of the records in their order: strata take turns, and within one a hash of the names decides.

    The choice does not depend on the order of the records, and a larger sample holds the smaller one.
    """
    turns = defaultdict(count)
    by_hash = sorted(records, key=lambda record: hashlib.sha256(record.name.encode()).hexdigest())
    ranked = sorted((next(turns[key]), key, name) for key, name in ((stratum(r), r.name) for r in by_hash))
    names = {name for *_, name in ranked[:number]}
    return [record for record in records if record.name in names]


def select_records(
    source: Source, mirror: Mirror, *, records: Iterable[str] = (), subjects: Iterable[str] = (),
    number: int | None = None, pool: ThreadPoolExecutor | None = None, progress: bool = False,
) -> list[Record]:  # fmt: skip
    """Records of a source by name, by subject, or a number of them; conditions that are given all hold.

    Records are named, or by patterns such as ``p100*``; subjects with or without the name of the source before them,
    found in tables, names or headers (these side by side in ``pool``); ``number`` of what is left is spread by
    :func:`sample_records` over the strata of the source. An :class:`InputError` says what comes close to a name.
    """
    chosen = source.list_records(mirror)
    if wanted := list(records):
        names = [record.name for record in chosen]
        for pattern in wanted:
            if not fnmatch.filter(names, pattern):
                raise InputError(f"data set {source.name}: no record {pattern!r}{_close(pattern, names)}")
        chosen = [record for record in chosen if any(fnmatch.fnmatchcase(record.name, pattern) for pattern in wanted)]
    if people := {str(subject).removeprefix(f"{source.name}-") for subject in subjects}:
        known, errors = _subjects(source, mirror, chosen, pool, progress)
        if unknown := sorted(people - set(known)):
            more = f"; {len(errors)} records do not say whose they are ({errors[0]})" if errors else ""
            raise InputError(f"data set {source.name}: no subject {unknown[0]!r}{_close(unknown[0], known)}{more}")
        chosen = [record for record, subject in zip(chosen, known, strict=True) if subject in people]
    if number is not None:
        if number < 1:
            raise InputError(f"number={number}: at least 1 record")
        chosen = sample_records(chosen, number, partial(source.stratum, mirror))
    return chosen


def _subjects(
    source: Source, mirror: Mirror, records: list[Record], pool: ThreadPoolExecutor | None, progress: bool
) -> tuple[list[str], list[str]]:
    """Subject of each record, "" where it cannot be found out, and why."""
    errors, asked = [], set(mirror.asked)
    found = (pool.map if pool else map)(lambda record: _try(source.subject, mirror, record, [], errors) or "", records)
    subjects = list(_bar(found, len(records), "looking for subjects", "record", progress))
    mirror.asked = asked  # what was only looked into is not wanted
    return subjects, errors


def _try(ask: Callable, mirror: Mirror, what: Record | str, missing: list[str], errors: list[str]):
    """``ask(mirror, what)``; None where the mirror lacks a file for it, or another thing is wrong: both are entered."""
    try:
        return ask(mirror, what)
    except MissingFile as error:
        missing.append(error.path)
    except InputError as error:
        errors.append(str(error))
    return None


def _close(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, dict.fromkeys(filter(None, names)), n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def _bar(iterable: Iterable, total: int, what: str, unit: str, progress: bool) -> Iterable:
    from tqdm.auto import tqdm

    return tqdm(iterable, total=total, desc=what, unit=unit, disable=not progress, leave=False)


def read_selection(source: Source) -> set[str] | None:
    """Names of the records that ``p2es data get`` was asked for, or None where it never was.

    They are what is prepared, wherever the recordings are then read from.
    """
    path = _selection_file(source)
    return set(path.read_text().split()) if path.is_file() else None


def selection_note(sources: Iterable[Source]) -> str:
    """What to add to an error that may follow from a selection; empty where nothing was selected."""
    files = [str(file) for source in sources if (file := _selection_file(source)).is_file()]
    return f" (only the records that p2es data get selected: {', '.join(files)}; delete it to use all)" if files else ""


def add_to_selection(source: Source, records: Iterable[Record]) -> set[str]:
    """Select these records too; returns the names of those that were not selected before."""
    names = {record.name for record in records}
    return names - _change_selection(source, lambda before: before | names)


def _selection_file(source: Source) -> Path:
    return source.mirror().cached(SELECTION_FILE)


def _change_selection(source: Source, change: Callable[[set[str]], set[str]]) -> set[str]:
    """Replace the selection while nobody else can; returns what it was. Of an empty one nothing stays."""
    path = _selection_file(source)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{path}.lock", "ab") as file:  # not the file itself: that is replaced as a whole
        fcntl.flock(file, fcntl.LOCK_EX)
        before = read_selection(source) or set()
        if names := change(before):
            with paths.atomic_path(path) as temporary:
                temporary.write_text("".join(f"{name}\n" for name in sorted(names)))
        else:
            path.unlink(missing_ok=True)
    return before


class Fetched(NamedTuple):
    """What :func:`get_records` did."""

    records: list[Record]
    n_files: int  #: that they have here now
    n_bytes: int
    missing: list[str]  #: files that the mirror lacks
    folder: Path
    mended: list[str]  #: files here that were damaged, so that they were fetched again
    unlisted: list[str]  #: files here that the data set's SHA256SUMS.txt does not name: it may have been cut short


def get_records(
    source: Source, location: str | Path | None = None, *, jobs: int = 4, progress: bool = True, **wanted
) -> Fetched:
    """Fetch records to ``data/raw/<slug>/<version>``; what is there already, undamaged, is not fetched again.

    ``location`` is a folder or URL laid out as PhysioNet, ``jobs`` the number of transfers at once; ``wanted`` are
    ``records``, ``subjects`` and ``number`` of :func:`select_records`, without which everything is fetched.

    Every file is checked against the data set's SHA256SUMS.txt, or against the hash seen when it was first fetched; one
    here that differs is set aside (renamed to end in ``.damaged``) and fetched again. Sizes are asked for first, and
    held against the free space of the disk. Files that the mirror does not hold are noted. From then on, preparation
    uses what was selected here (all selections together), from whichever mirror. An :class:`InputError` where a name is
    unknown, the disk too small, or a file cannot be fetched (after all others were) or is damaged.
    """
    if jobs < 1:
        raise InputError(f"jobs={jobs}: at least 1")
    mirror = source.mirror(location)
    mirror.mends = True
    missing_file = mirror.cached(MISSING_FILE)
    before = missing_file.read_text().splitlines() if missing_file.is_file() else []
    missing_file.unlink(missing_ok=True)  # look again
    with _threads(mirror, jobs) as pool:
        chosen = select_records(source, mirror, **wanted, pool=pool, progress=progress)
        files, of_records, absent, errors = _files(source, mirror, chosen, pool, progress)
        sizes = _bar(pool.map(mirror.size, files), len(files), "asking for sizes", "file", progress)
        n_bytes = sum(size or 0 for size in sizes)
        check_space(mirror.cached(""), n_bytes)
        added = add_to_selection(source, chosen)
        missing, failed = _fetch_all(mirror, files, pool, n_bytes, source.name if progress else "")
    missing, errors = sorted({*absent, *missing}), list(dict.fromkeys([*errors, *failed]))
    _note_missing(mirror, missing, before, files)
    if errors:
        more = f" (and {len(errors) - 1} more files)" if len(errors) > 1 else ""
        aside = f"; damaged, renamed to end in .damaged: {', '.join(sorted(mirror.mended))}" if mirror.mended else ""
        raise InputError(f"{errors[0]}{more}{aside}")
    if not any(mirror.cached(path).is_file() for path in of_records):  # tables and hashes are nothing to prepare
        _change_selection(source, lambda before: before - added)
        raise InputError(
            f"data set {source.name}: none of its {len(files)} files is on the mirror {mirror.where()} that belongs "
            f"to the {len(chosen)} record(s) asked for{f' ({missing[0]} is not there)' if missing else ''}; is it laid "
            "out as <mirror>/<slug>/<version>/...? Ask for other records, or another mirror; nothing more was selected"
        )
    here, listed = [path for path in files if mirror.cached(path).is_file()], mirror.published_checksums()
    unlisted = sorted(path for path in here if listed and path not in listed and path != PUBLISHED_FILE)
    n_bytes = sum(mirror.cached(path).stat().st_size for path in here)
    return Fetched(chosen, len(here), n_bytes, missing, mirror.cached(""), sorted(mirror.mended), unlisted)


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


def _files(
    source: Source, mirror: Mirror, chosen: list[Record], pool: ThreadPoolExecutor, progress: bool
) -> tuple[list[str], list[str], list[str], list[str]]:
    """All files of the records, with tables, lists and hashes, and without; headers not there, and faults of others."""
    mirror.published_checksums()  # nothing can be checked without it, should the server fail to give it
    absent, errors = [], []
    listing = pool.map(lambda record: _try(source.files, mirror, record, absent, errors) or (), chosen)
    found = list(chain.from_iterable(_bar(listing, len(chosen), "listing", "record", progress)))
    asked = sorted(mirror.asked - mirror.not_found)  # lists of records and tables that were read on the way
    return list(dict.fromkeys([*asked, *source.tables, *found])), found, absent, errors


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
        futures = [pool.submit(_try, Mirror.copy, mirror, path, missing, errors) for path in wanted]
        for future in as_completed(futures):
            future.result()
    return missing, errors


def _note_missing(mirror: Mirror, missing: list[str], before: list[str], wanted: list[str]) -> None:
    """Write down what this mirror does not hold; ``before`` is what the file said of it, or of another one."""
    # What was not looked for now, since it belongs to other records, is as it was when this mirror was asked for it.
    still = set(before[1:]) - mirror.asked - set(wanted) if before[:1] == [mirror.where()] else set()
    lines = [mirror.where(), *sorted(mirror.not_found | set(missing) | still)]
    with paths.atomic_path(mirror.cached(MISSING_FILE)) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines))


class Verified(NamedTuple):
    """What :func:`verify_records` found."""

    verified: int  #: number of good files
    missing: list[str]
    wrong: list[str]  #: of other content, or unreadable


def verify_records(source: Source, location: str | Path | None = None, progress: bool = True) -> Verified:
    """Hash every file of a data set that is here, in the mirror if it is a folder, else in ``data/raw``.

    Held against SHA256SUMS.txt where the data set has one, and against the hashes seen when files were fetched;
    an :class:`InputError` if there is neither.
    """
    mirror = source.mirror(location)
    folder = Path(mirror.where()) if isinstance(mirror.location, Path) else mirror.cached("")
    known = read_checksums(folder / SEEN_FILE) | read_checksums(folder / PUBLISHED_FILE)
    if not known:
        problem = f"no {PUBLISHED_FILE}, and nothing was fetched to here"
        raise InputError(f"{folder}: {problem}: there is nothing to verify against")
    present = [path for path in known if (folder / path).is_file()]

    def is_good(path: str) -> bool:
        try:
            return hash_file(folder / path) == known[path]
        except OSError:  # a file that cannot be read is not what it should be either
            return False

    with ThreadPoolExecutor(thread_name_prefix="hashing") as pool:
        good = _bar(pool.map(is_good, present), len(present), f"verifying {source.name}", "file", progress)
        wrong = [path for path, is_right in zip(present, good) if not is_right]
    return Verified(len(present) - len(wrong), sorted(set(known) - set(present)), wrong)
