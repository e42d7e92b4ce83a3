"""Where everything lies: one root, one function per kind of file.

``P2ES_HOME`` moves the root (data, runs and figures together); without it the root is the folder that holds
``p2es_lib``, or the current folder for an installed wheel.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from p2es_lib.errors import InputError


def checkout() -> Path:
    """Folder of the source tree (it holds ``notebooks/`` and ``Snakefile``)."""
    folder = Path(__file__).resolve().parent.parent
    return folder if (folder / "notebooks").is_dir() else Path.cwd()


def home() -> Path:
    """Root of all run-time folders: ``$P2ES_HOME``, else the source tree."""
    return Path(os.environ["P2ES_HOME"]).expanduser().resolve() if os.environ.get("P2ES_HOME") else checkout()


def raw_dir(source: str) -> Path:
    """Recordings of one source, as downloaded."""
    return home() / "data" / "raw" / source


def prepared_dir(source: str) -> Path:
    """Shards of one source: the windows of its records, of every quality, which all profiles share."""
    return home() / "data" / "prepared" / source


def jobs_file(dataset: str, profile: str) -> Path:
    """List of the shards that the workflow prepares for a data set, one job each."""
    return home() / "data" / "prepared" / f"{dataset}-{profile}.json"


def windows_dir(dataset: str, profile: str) -> Path:
    """Prepared windows of one data set under one profile."""
    return home() / "data" / "windows" / f"{dataset}-{profile}"


def run_dir(dataset: str, profile: str, variant: str, seed: int) -> Path:
    """One training: configuration, weights, history and scores."""
    return home() / "runs" / dataset / profile / variant / f"seed{seed}"


def figures_dir(dataset: str, profile: str) -> Path:
    """Figures and tables of one run of the workflow."""
    return home() / "figures" / f"{dataset}-{profile}"


def check_output_folder(folder: str | Path, setting: str) -> Path:
    """The folder as a Path, if it is one that can be written into or made; nothing is made yet.

    Raises
    ------
    InputError
        The path, or a part of it, is a file, or may not be written to. ``setting`` says where the path came from.
    """
    folder = Path(folder).expanduser()
    existing = next(parent for parent in [folder.absolute(), *folder.absolute().parents] if parent.exists())
    if not existing.is_dir():
        raise InputError(f"{setting} {folder}: {existing} is a file, not a folder; name another folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"{setting} {folder}: no permission to write in {existing}; name another folder")
    return folder


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of ``path`` that takes its name only if the block ends without an error.

    A kill at any moment leaves either the old file or the new one under ``path``, never a half-written one. The
    suffix of ``path`` is kept, because many writers choose their format by it. Works for files and for folders (a
    folder replaces an older folder of that name).
    """
    import shutil

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.tmp{os.getpid()}{path.suffix}")
    try:
        yield temporary
        if temporary.is_dir() and path.is_dir():
            shutil.rmtree(path)
        os.replace(temporary, path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)
