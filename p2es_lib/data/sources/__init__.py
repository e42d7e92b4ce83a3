"""Data sources: one file each, one registry.

``get_source(name)`` gives one; ``parse_dataset(name)`` those of a data set, which may be combined of several.
"""

from __future__ import annotations

from importlib import import_module

from p2es_lib.core.errors import InputError, check_choice
from p2es_lib.data.sources.contract import Source

#: Modules of this folder that hold a ``SOURCE``, in the order in which they are shown.
_MODULES = (
    "simulated", "senssmarttech", "bidmc", "mimic4wdb", "mimic3wdb_matched", "challenge_2015", "ptb_xl",
    "challenge_2021", "vitaldb", "ncku",
)  # fmt: skip
SOURCES: dict[str, Source] = {
    source.name: source for source in (import_module(f"{__name__}.{module}").SOURCE for module in _MODULES)
}


def get_source(name: str) -> Source:
    """The source of that name; an :class:`p2es_lib.core.errors.InputError` lists the names there are."""
    check_choice("dataset", name, SOURCES)
    return SOURCES[name]


def parse_dataset(name: str) -> list[Source]:
    """Sources of a data set, in the order of their names in it.

    ``"bidmc"``: one source. ``"bidmc+mimic4wdb"``: several real ones, whose subjects are split together.
    ``"mimic4wdb~bidmc"``: those before ``~`` for training and validation, the one after it for testing only.
    """
    trained_on, tilde, held_out = name.partition("~")
    names = trained_on.split("+") + ([held_out] if tilde else [])
    sources = [get_source(part) for part in names]
    if len(set(names)) != len(names):
        raise InputError(f"dataset={name!r}: a source is named twice")
    if len(names) > 1 and "simulated" in names:
        raise InputError(f"dataset={name!r}: only real data sets can be combined")
    return sources


__all__ = ["SOURCES", "Source", "get_source", "parse_dataset"]
