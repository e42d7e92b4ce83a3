"""Files of other makes, each through the library that reads it: what they hold becomes tables, or signals with rates.

The libraries are optional (``pip install '.[formats]'``); where one is absent, the error names it.
"""

import bz2
import gzip
import importlib
import io
import json
import lzma
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from p2es_lib.core.errors import InputError
from p2es_lib.translation.readers.checks import KINDS
from p2es_lib.translation.readers.table import Table, read_table

_UNPACK = {".gz": gzip.decompress, ".bz2": bz2.decompress, ".xz": lzma.decompress}
_RATE_NAME = re.compile(
    r"(fs|f_s|sr|s_?rate|sfreq|freq|frequency|sampl(e|ing)[ _]?(rate|freq(uency)?)|ppg_?fs)(_?hz)?", re.IGNORECASE
)
_LABELS = re.compile(r"(channel_?)?(labels?|names?|columns|channels)", re.IGNORECASE)
#: Arrays shorter than this are settings, not signals.
_LEAST_VALUES = 40


class Signal(NamedTuple):
    """Samples (T,) of a channel, their rate (Hz), and the unit as the file writes it."""

    x: np.ndarray
    rate: float
    unit: str


def unpacked(path: Path) -> tuple[bytes, str]:
    """What a file holds, unpacked, and the kind (:data:`checks.KINDS`, or "table") of what was inside."""
    data, name = path.read_bytes(), path
    try:
        if (
            path.suffix.lower() == ".zip"
            or data[:4] == b"PK\x03\x04"
            and KINDS.get(path.suffix.lower()) not in ("sheet", "NumPy")
        ):
            with zipfile.ZipFile(io.BytesIO(data)) as packed:
                files = [n for n in packed.namelist() if not n.endswith("/") and "__MACOSX" not in n]
                if any(n.startswith("xl/") for n in files):
                    return data, "sheet"
                if len(files) != 1:
                    some = ", ".join(files[:3])
                    raise InputError(f"{path}: {len(files)} files are packed in it ({some}); unpack it and name one")
                data, name = packed.read(files[0]), Path(files[0])
        elif unpack := _UNPACK.get(path.suffix.lower()) or (gzip.decompress if data[:2] == b"\x1f\x8b" else None):
            data, name = unpack(data), path.with_suffix("")
    except (OSError, EOFError, zipfile.BadZipFile, lzma.LZMAError, RuntimeError) as error:
        raise InputError(f"{path}: cannot be unpacked ({error}); unpack it, and name the recording inside") from error
    return data, KINDS.get(name.suffix.lower(), "table")


def read_tables(path: Path, kind: str, data: bytes) -> list[Table]:
    """The tables of a file of that kind (``data``: what it holds, unpacked)."""
    try:
        return list({"sheet": _sheets, "frame": _frames, "XDF": _streams}.get(kind, _trees)(path, kind, data))
    except InputError:
        raise
    except ImportError as error:
        raise _absent(path, error.name or str(error)) from error
    except Exception as error:  # each library raises whatever it meets
        problem = f"cannot be read as {kind} ({type(error).__name__}: {str(error)[:100]})"
        raise InputError(f"{path}: {problem}; export it again, or as CSV") from error


def read_acqknowledge(path: Path, data: bytes) -> tuple[dict[str, Signal], str]:
    """Channels of a Biopac AcqKnowledge file, by name, and when it begins."""
    bioread = _library(path, "bioread")
    try:
        file = bioread.read(io.BytesIO(data))
        each = reversed(file.channels)  # the first of one name
        found = {c.name: Signal(np.asarray(c.data, float), float(c.samples_per_second), c.units) for c in each}
        begin = getattr(file, "earliest_marker_created_at", None)
    except Exception as error:
        raise InputError(f"{path}: cannot be read as AcqKnowledge ({error}); export it as text or MATLAB") from error
    return dict(reversed(found.items())), begin.replace(tzinfo=None, microsecond=0).isoformat() if begin else ""


def _library(path: Path, name: str):
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise _absent(path, error.name or name) from error


def _absent(path: Path, name: str) -> InputError:
    how = f"reading {path.suffix} needs the package {name}, which is not installed"
    return InputError(f"{path}: {how}: pip install {name}, or '.[formats]' for all of them; or export it as CSV")


def _sheets(path: Path, kind: str, data: bytes) -> Iterator[Table]:
    book = _library(path, "openpyxl").load_workbook(io.BytesIO(data), read_only=True, data_only=True)
    refused = None
    for sheet in book.worksheets:
        cells = ["\t".join(map(_cell_text, row)) for row in sheet.iter_rows(values_only=True)]
        try:
            table = read_table(path, "\n".join(cells).encode())
        except InputError as error:
            refused = refused or error
            continue
        refused = False
        yield table._replace(notes=[f"sheet {sheet.title!r}", *table.notes[:1]])
    if refused:
        raise refused


def _cell_text(value) -> str:
    return "" if value is None else value.isoformat() if hasattr(value, "isoformat") else str(value).replace("\n", " ")


def _frames(path: Path, kind: str, data: bytes) -> Iterator[Table]:
    _library(path, "pyarrow")
    begins_parquet = data[:4] == b"PAR1"
    frame = (pd.read_parquet if begins_parquet else pd.read_feather)(io.BytesIO(data))
    yield _table_of(path, "Parquet" if begins_parquet else "Feather", frame)


def _table_of(path: Path, kind: str, frame: pd.DataFrame, rate: float | None = None, said: str = "") -> Table:
    """A frame as a table: its index too, where that has a name or counts time."""
    if frame.index.name or isinstance(frame.index, (pd.DatetimeIndex, pd.TimedeltaIndex)):
        frame = frame.rename_axis(index=frame.index.name or "time").reset_index()
    units: dict[str, str] = {}
    frame = frame.set_axis([str(name) for name in frame.columns], axis=1)
    for name in frame:
        if frame[name].dtype == bool:
            frame[name] = frame[name].astype(int)
        elif pd.api.types.is_timedelta64_dtype(frame[name]):
            frame[name] = frame[name].dt.total_seconds()
            units[name] = "s"
        elif isinstance(frame[name].dtype, pd.DatetimeTZDtype) or pd.api.types.is_datetime64_dtype(frame[name]):
            frame[name] = frame[name].map(lambda t: t.isoformat() if pd.notna(t) else "")
        elif frame[name].dtype == object:
            frame[name] = frame[name].map(lambda v: str(v.tolist()) if isinstance(v, np.ndarray) else str(v))
    return Table(path, frame, True, units, ".", [f"{kind}, {frame.shape[1]} column(s)"], [], rate, said)


def _streams(path: Path, kind: str, data: bytes) -> Iterator[Table]:
    """Streams of LabStreamingLayer, each with its own clock."""
    streams, _ = _library(path, "pyxdf").load_xdf(str(path))
    for stream in streams:
        info, values = stream["info"], np.asarray(stream["time_series"])
        if values.ndim != 2 or not np.issubdtype(values.dtype, np.number) or len(values) < _LEAST_VALUES:
            continue
        own = ((info.get("desc") or [None])[0] or {}).get("channels") or [{}]
        labels = [(c.get("label") or [""])[0] for c in (own[0] or {}).get("channel", [])]
        stream_name = info["name"][0]
        labels = labels if len(labels) == values.shape[1] else [f"{n + 1}" for n in range(values.shape[1])]
        names = [f"{stream_name} {label}" for label in labels]
        frame = pd.DataFrame(values.astype(float), columns=names)
        frame.insert(0, "LSL time (s)", stream["time_stamps"])
        yield _table_of(path, f"XDF, stream {stream_name!r}", frame)


def _trees(path: Path, kind: str, data: bytes) -> Iterator[Table]:
    """Files that hold arrays by name, in folders or not: those of one length and rate make a table."""
    tree = {"MATLAB": _matlab, "HDF5": _hdf5, "NumPy": _numpy, "JSON": _json, "Avro": _avro}[kind](path, data)
    if isinstance(tree, pd.DataFrame):
        yield _table_of(path, kind, tree)
        return
    groups: dict[tuple, dict] = {}
    for name, x, rate, said in _arrays(tree, "", None, ""):
        groups.setdefault((len(x), rate, said), {}).setdefault(name, x)
    if not groups:
        problem = f"no row of values in this {kind} file"
        raise InputError(f"{path}: {problem}; tables of MATLAB's own class cannot be read: export it as CSV")
    for (_, rate, said), columns in groups.items():
        yield _table_of(path, kind, pd.DataFrame(columns), rate, said)


def _arrays(tree, name: str, rate: float | None, said: str) -> Iterator[tuple[str, np.ndarray, float | None, str]]:
    """Rows of values in a tree of dictionaries and lists, with the names of branches and the rate stated nearest."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            number = np.asarray(value).ravel() if not isinstance(value, (dict, list, str)) else np.zeros(0)
            if number.size == 1 and _RATE_NAME.fullmatch(str(key).strip()) and number.dtype.kind in "iuf":
                rate, said = float(number[0]), str(key)
        lists = (v for k, v in tree.items() if _LABELS.fullmatch(str(k)) and isinstance(v, (list, np.ndarray)))
        labels = next((v for v in lists if all(isinstance(word, str) for word in v)), None)
        for key, value in tree.items():
            key = str(key)
            plain = key.lower() in ("values", "value", "data", "raw", "samples", "signal", "y", "v")
            inner = f"{name}/{key}".strip("/") if not (plain and name) else name
            for found in _arrays(value, inner, rate, said):
                number = found[0].rpartition(" ")[2]
                if labels is not None and found[0] == f"{inner} {number}" and 0 < int(number) <= len(labels):
                    found = (str(labels[int(number) - 1]), *found[1:])
                yield found
    elif isinstance(tree, (list, np.ndarray)):
        if isinstance(tree, list) and tree and all(isinstance(item, dict) for item in tree):
            for number, item in enumerate(tree, start=1):
                own = item.get("name") or item.get("label") or number
                yield from _arrays(item, f"{name} {own}".strip(), rate, said)
            return
        try:
            x = np.asarray(tree, dtype=float)
        except (ValueError, TypeError):
            return
        x = x.squeeze()
        if x.ndim == 1 and len(x) >= _LEAST_VALUES:
            yield name, x, rate, said
        elif x.ndim == 2 and max(x.shape) >= _LEAST_VALUES and min(x.shape) <= 256:
            for number, row in enumerate(x if x.shape[0] < x.shape[1] else x.T, start=1):
                yield f"{name} {number}", row, rate, said


def _matlab(path: Path, data: bytes):
    from scipy.io import loadmat

    if data[:8] != b"MATLAB 5" and b"HDF" in data[:600]:
        return _hdf5(path, data)
    try:
        tree = loadmat(io.BytesIO(data), simplify_cells=True)
    except NotImplementedError:  # version 7.3
        return _hdf5(path, data)
    return {key: value for key, value in tree.items() if not key.startswith("__")}


def _hdf5(path: Path, data: bytes):
    h5py = _library(path, "h5py")

    def branch(group) -> dict:
        tree = {key: value for key, value in group.attrs.items() if not key.startswith("MATLAB")}
        for key, item in group.items():
            if key.startswith("#"):
                continue
            is_number = isinstance(item, h5py.Dataset) and item.dtype.kind in "iuf"
            if isinstance(item, h5py.Group):
                tree[key] = branch(item)
            elif is_number:
                tree[key] = item[()]
                if own := {k: v for k, v in item.attrs.items() if _RATE_NAME.fullmatch(k)}:
                    tree[key] = {"values": tree[key], **own}
            elif isinstance(item, h5py.Dataset) and item.dtype.names:
                tree[key] = {field: item[field] for field in item.dtype.names}
        return tree

    with h5py.File(io.BytesIO(data), "r") as file:
        return branch(file)


def _numpy(path: Path, data: bytes):
    loaded = np.load(io.BytesIO(data), allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return {name: loaded[name] for name in loaded.dtype.names} if loaded.dtype.names else {path.stem: loaded}
    return {name: loaded[name] for name in loaded.files}


def _json(path: Path, data: bytes):
    text = data.decode("utf-8-sig", errors="replace").strip()
    try:
        tree = json.loads(text)
    except ValueError:
        lines = [line for line in text.splitlines() if line.strip()]
        rows, bad = [], 0
        for line in lines:
            try:
                rows.append(json.loads(line))
            except ValueError:
                bad += 1
        if bad > max(0.02 * len(lines), 1) or not rows:
            raise
        tree = rows
    inner = list(tree.values()) if isinstance(tree, dict) else []
    lists = [v for v in inner if isinstance(v, list) and len(v) >= _LEAST_VALUES and isinstance(v[0], dict)]
    tree = lists[0] if len(lists) == 1 else tree
    if isinstance(tree, list) and len(tree) > 3 and all(isinstance(row, dict) for row in tree):
        return pd.json_normalize(tree)
    return tree if isinstance(tree, dict) else {path.stem: tree}


def _avro(path: Path, data: bytes):
    records = list(_library(path, "fastavro").reader(io.BytesIO(data)))
    if len(records) > _LEAST_VALUES:
        return pd.json_normalize(records)
    return records[0] if len(records) == 1 else {"record": records}
