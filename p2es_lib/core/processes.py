"""Processes that share a folder: one at a time, and none left behind when its starter is gone."""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from p2es_lib.core.errors import InputError


@contextmanager
def exclusive_lock(path: Path, *, what: str, wait_s: float = 10.0) -> Iterator[int]:
    """Hold ``path`` as the only process; yield the descriptor of the open lock file.

    The operating system frees the lock when its holders end, however they end, so no lock is ever stale. The file
    itself stays. On a file system without locks (some network mounts) the block runs unprotected.

    Parameters
    ----------
    path
        Lock file, created when missing; it holds the number of the process that has it.
    what
        What is being protected, for the message: "the workflow simulated-quick".
    wait_s
        Seconds to wait for a process that is about to end.

    Raises
    ------
    InputError
        Another process still holds it; names the process.
    """
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        deadline = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    break  # no locks on this file system
            if time.monotonic() > deadline:
                owner = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
                raise InputError(
                    f"{what} is being run by another process ({owner}); wait for it, or stop it: kill {owner}"
                )
            time.sleep(0.2)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def stop_with_parent(signal_number: int = signal.SIGTERM) -> None:
    """Ask Linux to send this process ``signal_number`` when the process that started it ends; elsewhere do nothing.

    So a workflow that is killed without warning leaves no training behind that nobody watches.
    """
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    parent = os.getppid()
    set_parent_death_signal = 1  # PR_SET_PDEATHSIG, prctl(2)
    ctypes.CDLL(None, use_errno=True).prctl(set_parent_death_signal, int(signal_number), 0, 0, 0)
    if os.getppid() != parent:  # it ended while we asked
        os.kill(os.getpid(), signal_number)
