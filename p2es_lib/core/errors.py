"""The exception for wrong input: the command line prints it without a traceback and exits with 2."""

from __future__ import annotations


class InputError(ValueError):
    """Wrong input: names the file, record or setting, says what is wrong with it and what to do.

    Raised for everything that a user can mend (a path, a setting, a recording). Programming errors stay ordinary
    Python exceptions, so that their traceback is seen.
    """


def check_choice(setting: str, value: str, allowed) -> str:
    """Return ``value`` if it is among ``allowed``, else raise an :class:`InputError` that lists the allowed values."""
    allowed = list(allowed)
    if value not in allowed:
        raise InputError(f"{setting}={value!r} is unknown; choose one of: {', '.join(map(str, allowed))}")
    return value
