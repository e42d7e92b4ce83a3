"""Where a mirror is, and which names of files in it are believed."""

from __future__ import annotations

import os
import urllib.parse
from pathlib import Path

from p2es_lib.core.errors import InputError

DEFAULT_MIRROR = "https://physionet.org/files/"


def resolve_mirror(mirror: str | Path | None = None, default: str = DEFAULT_MIRROR) -> str | Path:
    """The mirror in use: the argument, else ``$P2ES_MIRROR``, else ``default``. A URL as str, a folder as Path.

    Raises
    ------
    InputError
        A folder that does not exist, or a URL that is not http(s).
    """
    text = str(mirror or os.environ.get("P2ES_MIRROR") or default).strip()
    if "://" in text:
        if urllib.parse.urlsplit(text).scheme not in ("http", "https"):
            raise InputError(f"mirror={text!r}: only http and https URLs, or a folder, can be used")
        return text.rstrip("/") + "/"
    folder = Path(text).expanduser().resolve()
    if not folder.is_dir():
        raise InputError(f"mirror={text!r}: no such folder ({folder}); give the folder that holds <slug>/<version>/...")
    return folder


def check_relative(path: str) -> str:
    """Return ``path`` if it stays inside the folder it is relative to, else raise an :class:`InputError`."""
    parts = path.split("/")
    if not path or "\\" in path or ":" in path or "\0" in path or any(part in ("", ".", "..") for part in parts):
        raise InputError(f"refusing the file name {path!r}: it is not a plain path inside the data set")
    return path
