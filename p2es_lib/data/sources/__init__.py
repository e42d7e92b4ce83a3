"""Data sources: one file each, one registry.

``get_source(name)`` gives one; ``parse_dataset(name)`` those of a data set, which may be combined of several.
"""

from collections import UserDict
from importlib import import_module

from p2es_lib.core.errors import InputError, check_choice
from p2es_lib.data.sources.contract import Source

#: Modules of this folder that hold a ``SOURCE``, in the order in which they are shown.
_MODULES = (
    "simulated", "senssmarttech", "bidmc", "mimic4wdb", "mimic3wdb_matched", "challenge_2015", "ptb_xl",
    "challenge_2021", "vitaldb", "ncku",
)  # fmt: skip


class _Sources(UserDict[str, Source]):
    """Name to source. A source's module is imported when it is asked for, because some of them load much."""

    def __getitem__(self, name: str) -> Source:
        if self.data[name] is None:
            self.data[name] = import_module(f"{__name__}.{name.replace('-', '_')}").SOURCE
        return self.data[name]


SOURCES = _Sources(dict.fromkeys(module.replace("_", "-") for module in _MODULES))


def get_source(name: str) -> Source:
    """The source of that name; an :class:`p2es_lib.core.errors.InputError` lists the names there are."""
    return SOURCES[check_choice("dataset", name, SOURCES)]


def parse_dataset(name: str) -> list[Source]:
    """Sources of a data set, in the order of their names in it.

    ``"bidmc"``: one source. ``"bidmc+mimic4wdb"``: several real ones, whose subjects are split together.
    ``"mimic4wdb~bidmc"``: those before ``~`` for training and validation, the one after it for testing only.
    An :class:`InputError` for an unknown source, one named twice, and simulated data beside others.
    """
    trained_on, tilde, held_out = name.partition("~")
    names = trained_on.split("+") + [held_out] * bool(tilde)
    sources = [get_source(part) for part in names]
    if len(set(names)) != len(names):
        raise InputError(f"dataset={name!r}: a source is named twice")
    if len(names) > 1 and "simulated" in names:
        raise InputError(f"dataset={name!r}: only real data sets can be combined")
    return sources


__all__ = ["SOURCES", "Source", "get_source", "parse_dataset"]
