"""A part of the suite where others run it: another folder, user, clock and locale, no git, no network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
#: What depends on files, places, times and programs; quick to run.
FILES = ("test_paths.py", "test_demographics.py", "test_verify.py")
NOBODY = 65534


def works(*command: str, **options) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=60, **options).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


def programs_but_git(folder: Path) -> str:
    """A PATH on which everything is but git."""
    folder.mkdir()
    for place in os.environ["PATH"].split(os.pathsep):
        for program in Path(place).iterdir() if Path(place).is_dir() else ():
            if not program.name.startswith("git") and not os.path.lexists(folder / program.name):
                (folder / program.name).symlink_to(program)
    return str(folder)


@pytest.mark.slow
def test_tests_pass_elsewhere(tmp_path):
    """In a folder with a blank and an umlaut, with umask 077, another clock and locale, on one core, without git.

    As another user and without a network where this machine allows it.
    """
    place = tmp_path / "Prüf lauf"
    place.mkdir()
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("p2es_lib", "tests"):
        shutil.copytree(CHECKOUT / name, place / name, ignore=ignored)
    for name in ("pyproject.toml", "Makefile", "requirements-lock.txt"):
        shutil.copy(CHECKOUT / name, place)
    for name in ("notebooks", "figures", "home", "tmp"):
        (place / name).mkdir()
    environment = {"PATH": programs_but_git(place / "bin"), "HOME": str(place / "home"), "TMPDIR": str(place / "tmp"),
                   "PYTHONPATH": str(place), "TZ": "Asia/Kolkata", "LANG": "C", "LC_ALL": "C", "OMP_NUM_THREADS": "1",
                   "PYTHONDONTWRITEBYTECODE": "1"}  # fmt: skip
    options = {"env": environment, "cwd": place, "umask": 0o077}
    another = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    if os.name == "posix" and os.geteuid() == 0 and works(sys.executable, "-c", "import pytest", **options, **another):
        for folder, _, files in os.walk(place):
            for path in (folder, *(os.path.join(folder, file) for file in files)):
                os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
        for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):  # pytest makes them for its user only
            folder.chmod(0o711)
        options |= another
    prefix = ["unshare", "-rn"] if works("unshare", "-rn", "true", **options) else []
    prefix += ["taskset", "-c", "0"] if works("taskset", "-c", "0", "true", **options) else []
    command = [*prefix, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    run = subprocess.run(
        [*command, *(f"tests/{name}" for name in FILES)], **options, capture_output=True, text=True, timeout=500
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-2000:]
