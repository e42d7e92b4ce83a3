"""The command ``p2es``."""

from typing import Annotated

import typer


def option(kind: type, text: str, *names: str, **settings):
    """The type of a command's option: what it holds, and its help."""
    return Annotated[kind, typer.Option(*names, help=text, **settings)]
