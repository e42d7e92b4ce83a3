"""Data sources: one file each, one registry.

``get_source(name).prepare(config, mirror, progress)`` gives the windows of a data set with splits assigned.
"""

from __future__ import annotations

from p2es_lib.errors import check_choice
from p2es_lib.sources import bidmc, mimic4wdb, simulated
from p2es_lib.sources.contract import Recording, Source

SOURCES: dict[str, Source] = {source.name: source for source in (simulated.SOURCE, mimic4wdb.SOURCE, bidmc.SOURCE)}


def get_source(name: str) -> Source:
    """The source of that name; an :class:`p2es_lib.errors.InputError` lists the names there are."""
    check_choice("dataset", name, SOURCES)
    return SOURCES[name]


__all__ = ["SOURCES", "Recording", "Source", "get_source"]
