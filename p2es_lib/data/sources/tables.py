"""Tables of ages and the like, refused with one message that names the file; each is read once per state of it."""

import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pandas as pd

from p2es_lib.core import paths
from p2es_lib.core.errors import InputError


def once_per_state(read: Callable) -> Callable:
    """``read(path)`` that reads a file again only when it has changed."""
    cached = lru_cache(maxsize=4)(lambda path, modified_ns: read(path))
    return lambda path: cached(path, path.stat().st_mtime_ns)


@dataclass(frozen=True)
class UsersTable:
    """A credentialed table of patients that the user may have."""

    variable: str  #: that names it, for example ``"P2ES_MIMIC4_PATIENTS"``
    folder: str  #: of ``data/raw``, where it is looked for otherwise
    file: str  #: as its data set names it, there compressed (``.gz``) or not
    database: str  #: that it belongs to, for messages
    read: Callable[[Path], pd.DataFrame]  #: indexed by subject_id

    def existing(self) -> list[Path]:
        """The file, if there is one; an :class:`InputError` where the variable names none."""
        named, name = os.environ.get(self.variable), Path(self.file).name
        if named and not Path(named).is_file():
            raise InputError(f"{self.variable}={named!r}: no such file; it is {self.database}'s {self.file} or .csv.gz")
        candidates = [Path(named)] if named else [paths.raw_dir(self.folder) / f"{name}{end}" for end in ("", ".gz")]
        return [path for path in candidates if path.is_file()][:1]

    def find(self, subject: str) -> tuple[pd.Series | None, str]:
        """What the table says of a subject, and where; or None, and the note for why age and sex are not known."""
        unknown = "age and sex are not known: "
        if not (found := self.existing()):
            return None, f"{unknown}{self.database}'s {Path(self.file).name} is credentialed; see {self.variable}"
        table = self.read(found[0])
        if subject not in table.index:
            return None, f"{unknown}{found[0]} does not name subject_id {subject}"
        return table.loc[subject], f"{found[0]}, subject_id {subject}"


def read_table(
    path: Path, expected: str, key: str, columns: Sequence[str], numbers: Sequence[str] = ()
) -> pd.DataFrame:
    """Columns of a CSV file, compressed or not, by its column ``key``, as text or ``numbers``; what is missing is NaN.

    Names are in lower case here, in the file in any. An :class:`InputError` says what is not as ``expected``.
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


def read_numbers(path: Path, **layout) -> pd.DataFrame:
    """A CSV file of numbers only (else: InputError), columns' names without blanks around; ``layout`` as of pandas."""
    try:
        table = pd.read_csv(path, skipinitialspace=True, **layout).astype(float)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as a table of numbers ({error})") from error
    return table.rename(columns=lambda name: str(name).strip())


def _plain(column) -> str:
    return str(column).strip().lower()
