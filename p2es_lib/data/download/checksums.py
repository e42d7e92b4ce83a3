"""SHA-256 of the files of a data set: as its authors published them, else as they were when first fetched."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from p2es_lib.data.download.line_files import LineFile

PUBLISHED_FILE, SEEN_FILE = "SHA256SUMS.txt", ".sha256"
_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *]?(\S.*)")


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def parse_checksum(line: str) -> tuple[str, str] | None:
    """Path and digest of a ``sha256sum`` line, or None for one that is torn."""
    match = _LINE.fullmatch(line.rstrip())
    return (match[2].removeprefix("./"), match[1].lower()) if match else None


def read_checksums(path: Path) -> dict[str, str]:
    """Path to digest, from a file of ``sha256sum`` lines; lines that are torn are left out, of two the later counts."""
    return LineFile(path, parse_checksum).read()


def is_cut_short(path: Path) -> bool:
    """Whether the last line of a published list is no ``sha256sum`` line: the lines behind it are missing too."""
    with open(path, "rb") as file:
        lines = file.read().decode("utf-8", errors="replace").split("\n")
    last = next((line for line in reversed(lines) if line.strip()), None)
    return last is not None and parse_checksum(last) is None
