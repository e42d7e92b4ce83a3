"""Which records of a data set are wanted: by name, by subject, or a number of them."""

from __future__ import annotations

import difflib
import fcntl
import fnmatch
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from p2es_lib.core import paths
from p2es_lib.core.errors import InputError
from p2es_lib.data.download.mirror import Mirror, MissingFile
from p2es_lib.data.sources.contract import Record, Source

SELECTION_FILE = ".selection"


def sample_records(
    records: Sequence[Record], number: int, stratum: Callable[[Record], str] = lambda record: ""
) -> list[Record]:
    """``number`` of the records in their order: strata take turns, and within one a hash of the names decides.

    The choice does not depend on the order of the records, and a larger sample holds the smaller one.
    """
    turns: Counter[str] = Counter()
    ranked = []
    for record in sorted(records, key=lambda record: hashlib.sha256(record.name.encode()).hexdigest()):
        key = stratum(record)
        ranked.append((turns[key], key, record.name))
        turns[key] += 1
    names = {name for *_, name in sorted(ranked)[:number]}
    return [record for record in records if record.name in names]


def select_records(
    source: Source,
    mirror: Mirror,
    *,
    records: Iterable[str] = (),
    subjects: Iterable[str] = (),
    number: int | None = None,
    pool: ThreadPoolExecutor | None = None,
    progress: bool = False,
) -> list[Record]:
    """Records of a source by name, by subject, or a number of them; conditions that are given all hold.

    Parameters
    ----------
    records, subjects : iterable of str
        Names, or patterns such as ``p100*``; subjects as the source names them, with or without its own name before
        it, found in tables, names or headers.
    number : int
        That many of what is left, spread by :func:`sample_records` over the strata of the source.
    pool : ThreadPoolExecutor, optional
        Where headers are fetched side by side.

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

    def subject(record: Record) -> str:
        try:
            return source.subject(mirror, record)
        except MissingFile:
            return ""
        except InputError as error:
            errors.append(str(error))
            return ""

    found = (pool.map if pool else map)(subject, records)
    subjects = list(show_progress(found, len(records), "looking for subjects", "record", progress))
    mirror.asked = asked  # what was only looked into is not wanted
    return subjects, errors


def show_progress(iterable: Iterable, total: int, what: str, unit: str, progress: bool) -> Iterable:
    """The same iterable, with a bar that goes when it ends."""
    from tqdm.auto import tqdm

    return tqdm(iterable, total=total, desc=what, unit=unit, disable=not progress, leave=False)


def _close(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, dict.fromkeys(other for other in names if other), n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(close)}?" if close else ""


# ------------------------------------------------------------------------------------------------- what was selected
def read_selection(source: Source) -> set[str] | None:
    """Names of the records that ``p2es data get`` was asked for, or None where it never was.

    They are what is prepared, wherever the recordings are then read from.
    """
    path = _selection_file(source)
    return set(path.read_text().split()) if path.is_file() else None


def add_to_selection(source: Source, records: Iterable[Record]) -> set[str]:
    """Select these records too; returns the names of those that were not selected before."""
    names = {record.name for record in records}
    return names - _change_selection(source, lambda before: before | names)


def drop_from_selection(source: Source, names: set[str]) -> None:
    """Select these records no longer; of a selection that is empty then, nothing stays."""
    _change_selection(source, lambda before: before - names)


def selection_note(sources: Iterable[Source]) -> str:
    """What to add to an error that may follow from a selection; empty where nothing was selected."""
    files = [str(file) for source in sources if (file := _selection_file(source)).is_file()]
    return f" (only the records that p2es data get selected: {', '.join(files)}; delete it to use all)" if files else ""


def _selection_file(source: Source) -> Path:
    return source.mirror().cached(SELECTION_FILE)


def _change_selection(source: Source, change: Callable[[set[str]], set[str]]) -> set[str]:
    """Replace the selection while no other process or thread can; returns what it was."""
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
