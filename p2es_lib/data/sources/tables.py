"""Tables of ages and the like: fetched where a data set needs them, refused with one message that names the file."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from p2es_lib.core import paths
from p2es_lib.core.errors import InputError
from p2es_lib.data.download.mirror import Mirror


def fetch_table(mirror: Mirror, name: str, read: Callable[[Path, int], pd.DataFrame]) -> tuple[Path, pd.DataFrame]:
    """A table that a data set cannot be read without: where it is, and what ``read(path, modified_ns)`` makes of it."""
    path = mirror.fetch_required(name)
    return path, read(path, path.stat().st_mtime_ns)


def users_table(variable: str, folder: str, name: str, what: str) -> Path | None:
    """A credentialed table of the user's own, if there is one: that which an environment variable names, else in raw.

    Parameters
    ----------
    variable : str
        For example ``"P2ES_MIMIC4_PATIENTS"``; an :class:`InputError` where it names no file.
    folder, name : str
        Folder of ``data/raw``, and the file in it, compressed (``.gz``) or not.
    what : str
        What the file is, for the message.
    """
    named = os.environ.get(variable)
    if named and not Path(named).is_file():
        raise InputError(f"{variable}={named!r}: no such file; it is {what} or .csv.gz")
    candidates = [Path(named)] if named else [paths.raw_dir(folder) / f"{name}{end}" for end in ("", ".gz")]
    return next((path for path in candidates if path.is_file()), None)


def read_table(
    path: Path, expected: str, key: str, columns: Sequence[str], numbers: Sequence[str] = ()
) -> pd.DataFrame:
    """The named columns of a CSV file, compressed or not, by its column ``key``, as text; what is missing is NaN.

    Parameters
    ----------
    path : Path
    expected : str
        What the file should be, for messages.
    key, columns : str, sequence of str
        Column that names each row, and those that are read besides, in lower case (in the file in any).
    numbers : sequence of str
        Those of them that hold numbers, which are converted.

    Raises
    ------
    InputError
        Not such a file: it cannot be read, a column is missing, a row has no name or that of another row, or there is
        text where a number belongs.
    """
    wanted = (key, *columns)
    try:
        table = pd.read_csv(path, dtype=str, encoding="utf-8-sig", usecols=lambda name: _plain(name) in wanted)
    except (OSError, ValueError, EOFError, zlib.error) as error:  # the last two: a compressed file, cut or damaged
        raise InputError(f"{path}: cannot be read as {expected} ({error})") from error
    table.columns = [_plain(column) for column in table.columns]
    if missing := [column for column in wanted if column not in table]:
        raise InputError(f"{path}: no column {', '.join(missing)}; expected {expected}")
    if (unclear := table[key].isna() | table[key].duplicated()).any():
        row = int(unclear.to_numpy().argmax()) + 2
        raise InputError(f"{path}: row {row} has no {key}, or that of another row; expected {expected}")
    for column in numbers:
        try:
            table[column] = pd.to_numeric(table[column])
        except (ValueError, TypeError) as error:
            raise InputError(f"{path}: column {column} must hold numbers ({error}); expected {expected}") from error
    return table.set_index(key)


def _plain(column) -> str:
    return str(column).strip().lower()
