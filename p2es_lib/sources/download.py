"""Which records of a data set, and their files on this machine."""

from __future__ import annotations

import hashlib

from p2es_lib import paths
from p2es_lib.sources.contract import Record, Source

SELECTION_FILE = ".selection"


def sample_records(records: list[Record], number: int) -> list[Record]:
    """``number`` of the records in their order, chosen by a hash of their names.

    The choice of one record depends on no other, and a larger sample holds the smaller one.
    """
    chosen = sorted(records, key=lambda record: hashlib.sha256(record.name.encode()).hexdigest())[:number]
    names = {record.name for record in chosen}
    return [record for record in records if record.name in names]


def read_selection(source: Source) -> set[str] | None:
    """Names of the records that ``p2es data get`` was asked for, or None where it never was."""
    path = paths.raw_dir(source.slug) / source.version / SELECTION_FILE
    return set(path.read_text().split()) if path.is_file() else None
