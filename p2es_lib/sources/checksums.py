"""SHA-256 of the files of a data set: as its authors published them, else as they were when first fetched."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from pathlib import Path

PUBLISHED_FILE, SEEN_FILE = "SHA256SUMS.txt", ".sha256"
_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *]?(\S.*)")


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_checksums(path: Path) -> dict[str, str]:
    """Path to digest, from a file of ``sha256sum`` lines; lines that are torn are left out, of two the later counts."""
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    found = (_LINE.fullmatch(line.rstrip()) for line in lines)
    return {match[2].removeprefix("./"): match[1].lower() for match in found if match}


def note_checksum(folder: Path, path: str, digest: str) -> None:
    """Add one line to the list of hashes seen; safe when several threads and processes do so, and at a kill."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / SEEN_FILE, "a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        torn = size > 0 and file.read(1) != b"\n"  # a kill in the middle of a line
        file.write((b"\n" if torn else b"") + f"{digest}  {path}\n".encode())
        file.flush()
