"""Where everything lies: one root, one function per kind of file.

``P2ES_HOME`` moves the root (data, runs and figures together); without it the root is the folder that holds
``p2es_lib``, or the current folder for an installed wheel.
"""

import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from p2es_lib.core.errors import InputError
from p2es_lib.core.processes import try_lock

#: Folder of the library, and the weights that come with it: trained on the simulated cohort, profile wide, seed 0.
PACKAGE = Path(__file__).resolve().parent.parent
PRETRAINED = PACKAGE / "pretrained"
# What is being written: .<stem>.tmp<digits>[.old][<suffix>]. Its lock lies beside: .<stem>.tmp<digits>.lock
_UNFINISHED = re.compile(r"(\..+\.tmp[0-9a-f]+)(\..+)?")
# Where nothing tells whether the writer still lives, so long without a change means that it does not, s.
_ABANDONED_S = 24 * 3600


def checkout() -> Path:
    """Folder of the source tree (it holds ``notebooks/`` and ``Snakefile``)."""
    return PACKAGE.parent if (PACKAGE.parent / "notebooks").is_dir() else Path.cwd()


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
    """The folder, if it can be written into or made, else an InputError that names ``setting``; nothing is made yet."""
    folder = Path(folder).expanduser()
    existing = next(parent for parent in [folder.absolute(), *folder.absolute().parents] if parent.exists())
    if not existing.is_dir():
        raise InputError(f"{setting} {folder}: {existing} is a file, not a folder; name another folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"{setting} {folder}: no permission to write in {existing}; name another folder")
    return folder


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of ``path``, of its suffix, that takes its name if the block ends without an error.

    A kill at any moment leaves no half-written file or folder. Of several writers at once the last one to end decides.
    """
    with _claimed(Path(path)) as temporary:
        yield temporary
        _take_name(temporary, Path(path))


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """A new folder beside ``path`` that goes when the block ends; after a kill, when the next one is made there."""
    with _claimed(Path(path)) as temporary:
        temporary.mkdir()
        yield temporary


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left unfinished in and below a folder; where nothing can be locked, after a day."""
    for parent, folders, files in os.walk(folder):
        _remove_unfinished(Path(parent), [*folders, *files])
        folders[:] = [name for name in folders if not _UNFINISHED.fullmatch(name)]


@contextmanager
def _claimed(path: Path) -> Iterator[Path]:
    """A new name beside ``path``, locked by this process while the block runs; what has the name afterwards goes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_unfinished(path.parent, [entry.name for entry in os.scandir(path.parent)], f".{path.stem}.tmp")
    while True:
        temporary = path.with_name(f".{path.stem}.tmp{secrets.token_hex(6)}{path.suffix}")
        lock, old = _lock_file(temporary.name, path.parent), _retired(temporary)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        try_lock(descriptor, wait=True)
        if os.fstat(descriptor).st_nlink:  # else another process found it before it was locked, and removed it
            break
        os.close(descriptor)
    try:
        yield temporary
    finally:
        for leftover in (temporary, old, lock):  # the lock last
            _remove(leftover)
        os.close(descriptor)


def _take_name(temporary: Path, path: Path) -> None:
    while True:
        if temporary.is_dir():  # not removed under its own name: a kill would leave a part of it there
            with suppress(FileNotFoundError):
                os.replace(path, _retired(temporary))
        try:
            return os.replace(temporary, path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            _remove(_retired(temporary))  # another process has put its own there meanwhile


def _retired(temporary: Path) -> Path:
    base, suffix = _UNFINISHED.fullmatch(temporary.name).groups()
    return temporary.with_name(f"{base}.old{suffix or ''}")


def _lock_file(name: str, parent: Path) -> Path:
    return parent / f"{_UNFINISHED.fullmatch(name)[1]}.lock"


def _remove_unfinished(parent: Path, names: list[str], prefix: str = ".") -> None:
    """Remove those of these entries of a folder that nobody is writing any more."""
    writings: dict[Path, list[Path]] = {}
    for name in names:
        if name.startswith(prefix) and _UNFINISHED.fullmatch(name):
            writings.setdefault(_lock_file(name, parent), []).append(parent / name)
    for lock, leftovers in writings.items():
        with ExitStack() as stack:
            free = None
            with suppress(OSError):  # an older version made no locks
                descriptor = os.open(lock, os.O_RDWR)
                stack.callback(os.close, descriptor)
                free = try_lock(descriptor)
            if free or (free is None and _age_s(leftovers) > _ABANDONED_S):
                for leftover in sorted(leftovers, key=lambda path: path == lock):  # the lock last
                    _remove(leftover)


def _age_s(paths: list[Path]) -> float:
    """Seconds since the last change of any of these files, or of anything in these folders."""
    changed = 0.0
    for file in (file for path in paths for file in (path, *path.rglob("*"))):
        with suppress(OSError):  # gone meanwhile
            changed = max(changed, file.stat().st_mtime)
    return time.time() - changed


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
