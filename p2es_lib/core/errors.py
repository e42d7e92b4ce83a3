"""The exception for wrong input: the command line prints it without a traceback and exits with 2."""


class InputError(ValueError):
    """What a user can mend: names the file, record or setting, says what is wrong with it and what to do."""


def check_choice(setting: str, value: str, allowed) -> str:
    """``value``, if it is among ``allowed``; else an :class:`InputError` that lists these."""
    if value not in (allowed := list(allowed)):
        raise InputError(f"{setting}={value!r} is unknown; choose one of: {', '.join(map(str, allowed))}")
    return value
