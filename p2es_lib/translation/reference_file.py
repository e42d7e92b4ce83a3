"""The file of a reference: one person's mean beats, their rate and delay, and what is known of the recording.

A safetensors file whose tensors are the fields of :class:`p2es_lib.core.reference.Reference`, and whose one entry of
metadata is a JSON of the rest. The recording is not in it, nor is the path to it. What takes long to import is imported
where it is needed: a wrong file is told at once.
"""

from __future__ import annotations

import json
import re
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2es_lib.core.errors import InputError
from p2es_lib.core.paths import atomic_path
from p2es_lib.core.weights import read_metadata

if TYPE_CHECKING:
    from p2es_lib.core.reference import Reference

#: Entry of the metadata, and the number of this format.
_ENTRY, FORMAT = "p2es_reference", 2
#: A reference is smaller than this: what is larger is not read.
LARGEST_BYTES = 1_000_000


def write_reference(path: str | Path, reference: Reference, about: dict[str, Any]) -> Path:
    """Write a reference of one person; ``about`` is anything that JSON holds. An InputError for more than one."""
    from safetensors.torch import save

    if len(reference) != 1:
        raise InputError(f"{path}: {len(reference)} references; a file holds that of one person")
    tensors = {field.name: getattr(reference, field.name).detach().cpu().contiguous() for field in fields(reference)}
    content = save(tensors, metadata={_ENTRY: json.dumps({"format": FORMAT, **about}, sort_keys=True)})
    with atomic_path(Path(path)) as temporary:
        temporary.write_bytes(content)
    return Path(path)


def check_reference(path: str | Path) -> dict[str, Any]:
    """What a reference file says of the recording, from its head alone; an :class:`InputError` if it is none."""
    path = Path(path)
    make = "make one with: p2es calibrate RECORD --out me.p2es"
    if not path.is_file():
        problem = "a folder" if path.is_dir() else "no such file"
        raise InputError(f"{path}: {problem}; --reference takes the file of a reference: {make}")
    try:
        is_small = path.stat().st_size <= LARGEST_BYTES
        metadata = read_metadata(path.read_bytes()) if is_small else {}
    except (ValueError, UnicodeDecodeError):
        metadata = {}
    if _ENTRY not in metadata:
        raise InputError(f"{path}: holds no reference, but something else, or is damaged; {make}")
    about = json.loads(metadata[_ENTRY])
    if about.get("format") != FORMAT:
        problem = f"a reference of format {about.get('format')}, where this version reads {FORMAT}"
        raise InputError(f"{path}: {problem}; make it anew: p2es calibrate RECORD --out me.p2es")
    return about


def read_reference(path: str | Path) -> tuple[Reference, dict[str, Any]]:
    """The reference (one row) of a file and what it says of the recording; an :class:`InputError` if it is none."""
    about = check_reference(path)
    from safetensors import SafetensorError
    from safetensors.torch import load

    from p2es_lib.core.reference import Reference

    try:
        tensors = load(Path(path).read_bytes())
        reference = Reference(**{field.name: tensors[field.name] for field in fields(Reference)})
        reference.check(1, about["sampling_rate"])
    except (SafetensorError, KeyError, IndexError) as error:
        problem = f"a reference that cannot be read ({error})"
        raise InputError(f"{path}: {problem}; make it anew: p2es calibrate RECORD --out me.p2es") from error
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return reference, about


def describe_reference(about: dict[str, Any]) -> str:
    """One line for pages and heads of files: leads, beats, date and delay."""
    when = about["recorded_on"][:10]
    delay = "delay unknown" if about["delay_ms"] is None else f"delay {about['delay_ms']:.0f} ms"
    recorded = f"recorded {when}" if when else "date unknown"
    return f"leads {', '.join(about['leads'])}, {about['beats_used']} beats, {recorded}, {delay}"


def elapsed_s(recorded_on: str, since: str) -> float:
    """Seconds between two times or dates, ISO 8601; NaN where one is unknown, or both are one day without times."""
    try:
        first, last = datetime.fromisoformat(since), datetime.fromisoformat(recorded_on)
    except ValueError:
        return float("nan")
    timed = all(re.search(r"\d:\d", text) for text in (since, recorded_on))
    if not timed and first.date() == last.date():
        return float("nan")
    return abs((last.replace(tzinfo=None) - first.replace(tzinfo=None)).total_seconds())
