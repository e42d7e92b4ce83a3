"""Processes that share a folder: one at a time, and none left behind when its starter is gone."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from p2es_lib.core.errors import InputError


def try_lock(descriptor: int, wait: bool = False) -> bool | None:
    """Lock an open file; False if another process holds it, None where files cannot be locked."""
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        return True
    except (BlockingIOError, PermissionError):
        return False
    except (ImportError, OSError):
        return None


@contextmanager
def exclusive_lock(path: Path, *, what: str, wait_s: float = 10.0) -> Iterator[int]:
    """Hold ``path`` as the only process; yield the descriptor of the open lock file, which stays.

    An :class:`InputError` names ``what`` and the process that still holds it after ``wait_s`` seconds. No lock outlives
    its holders. Where files cannot be locked (some network mounts), nothing is protected.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        deadline = time.monotonic() + wait_s
        while try_lock(descriptor) is False:
            if time.monotonic() > deadline:
                owner = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
                raise InputError(f"{what} is being run by another process ({owner}); wait, or stop it: kill {owner}")
            time.sleep(0.2)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def stop_with_parent(signal_number: int = signal.SIGTERM) -> None:
    """Ask Linux to send this process ``signal_number`` when the process that started it ends, however that ends."""
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    parent = os.getppid()
    set_parent_death_signal = 1  # PR_SET_PDEATHSIG, prctl(2)
    ctypes.CDLL(None, use_errno=True).prctl(set_parent_death_signal, int(signal_number), 0, 0, 0)
    if os.getppid() != parent:  # it ended while we asked
        os.kill(os.getpid(), signal_number)


def git(folder: Path, *arguments: str) -> str:
    """What git prints about the checkout in ``folder``; OSError or SubprocessError where there is no git, or none."""
    command = ["git", "-C", str(folder), "-c", "core.quotepath=off", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
