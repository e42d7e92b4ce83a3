"""Records to shards: one job per shard, bounded memory, and only what changed is made again.

A shard is a folder ``data/prepared/<source>/<rate>Hz-<samples>[-<stride>s]/<shard>/`` with the windows of its records
(:mod:`p2es_lib.data.windows.shard_files`), their index, and ``shard.json``: the settings and the version of the code
that made it, and for each record a fingerprint of its files. Windows of every quality are kept, so limits can be laid
on later.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from p2es_lib import __version__
from p2es_lib.core import paths
from p2es_lib.core.config import Config, same_settings
from p2es_lib.core.errors import InputError
from p2es_lib.core.imports import modules_imported_by
from p2es_lib.core.leads import LEADS
from p2es_lib.data.download.checksums import hash_file
from p2es_lib.data.download.mirror import Mirror, MissingFile, UnusableFile
from p2es_lib.data.preparation.acceptance import HOPELESS_FAULTS, judge_windows
from p2es_lib.data.preparation.clean_stretch import CleanStretch, clean_stretch
from p2es_lib.data.sources.contract import Reading, Record, Source, Stretch
from p2es_lib.data.windows import SHARD_SETTINGS, Shards, ShardWriter, read_settings, read_table, write_table
from p2es_lib.signals.polarity import pulse_polarity

#: Where imports are followed to find the code that decides about windows. Left out is what does not: how a file was
#: fetched (it is what its hash says), how windows are stored, listed, assembled and shown.
_DECIDES = tuple(
    f"p2es_lib.{room}" for room in ("data.sources", "data.preparation", "signals", "core.leads", "core.demographics")
)
#: Where a signal is simulated: the simulator, and the numbers of its subjects.
_SIMULATES = ("p2es_lib.simulator", "p2es_lib.data.windows.batches", "p2es_lib.core.subject_numbers")


@dataclass
class RecordEntry:
    """What ``shard.json`` keeps of a record.

    ``stat`` changes whenever a file may have changed (size, time), ``content`` when it has. ``signal_hash`` is that of
    the ECG in whole microvolts: equal for records that are copies of each other, whatever their names, files and units.
    ``dead_leads``: those without any signal, in all of the record or a part of it.
    """

    stat: str
    content: str
    signal_hash: str = ""
    subject: str = ""
    hours: float = 0.0
    notes: list[str] = field(default_factory=list)
    dead_leads: list[str] = field(default_factory=list)


def code_files(source: Source) -> list[Path]:
    """Files that decide what the windows of a source are, the user's own tables included.

    They are the module of ``source.read``, this one (unless the source is simulated as a whole), and what they import.
    """
    within = _DECIDES + _SIMULATES * (source.role in ("simulated", "ecg only"))
    modules = [source.read.__module__, *[__name__] * (source.role != "simulated")]
    files = (file for module in modules for file in files_imported(module, within))
    return [*dict.fromkeys(files), *source.companions()]


@lru_cache
def files_imported(module: str, within: tuple[str, ...]) -> tuple[Path, ...]:
    """Files of a module and of what it imports within these parts of the library; of a foreign module, its own alone.

    A JSON file of a module's name belongs to it.
    """
    ours = module.partition(".")[0] == __name__.partition(".")[0]
    files = modules_imported_by(module, within) if ours else [Path(sys.modules[module].__file__)]
    return (*files, *(table for file in files if (table := file.with_suffix(".json")).is_file()))


def hash_files(files: Iterable[Path]) -> str:
    """Hash of the content of these files, in their order."""
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()[:16]


def prepared_dir(source: Source, config: Config) -> Path:
    """Folder of a source's shards under these signal settings; profiles share it."""
    stride = f"-{config.data.stride_s:g}s" if config.data.stride_s else ""
    return paths.prepared_dir(source.name) / f"{config.signal.sampling_rate:g}Hz-{config.signal.window_samples}{stride}"


def shard_settings(source: Source, config: Config) -> dict:
    """What the windows of a shard depend on besides its records."""
    return {
        "source": source.name,
        "data_version": source.version,
        "signal": asdict(config.signal),
        "stride_s": config.data.stride_s,
        "code": hash_files(code_files(source)),
    }


def prepare_shard(source: Source, shard: str, records: list[Record], config: Config, mirror: Mirror, bar=None) -> Path:
    """Prepare the records of one shard; those that did not change are copied from the shard as it was.

    Parameters
    ----------
    records : list of Record
        All records of the shard.
    bar : tqdm, optional
        Counts hours of signal.

    Returns
    -------
    Path
        Its folder, complete. A record that cannot be used is noted in ``shard.json`` and has no windows.
    """
    folder = prepared_dir(source, config) / shard
    settings = shard_settings(source, config)
    older = _read_shard(folder, settings)
    now = {record.name: _fingerprint(source, record, mirror, older.get(record.name)) for record in records}
    if older and list(older) == list(now) and all(older[name].content == entry.content for name, entry in now.items()):
        if any(older[name].stat != entry.stat for name, entry in now.items()):  # touched, or moved to another mirror
            _write_settings(folder, settings, {name: _renewed(older[name], now[name]) for name in now})
        return folder
    window_samples = config.signal.window_samples
    kept = {name for name in now if name in older and older[name].content == now[name].content}
    previous = (read_table(folder), Shards([folder])) if kept else None
    tables, entries = [], {}
    with paths.atomic_path(folder) as temporary:
        temporary.mkdir()
        with ShardWriter(temporary, window_samples) as writer:
            for record in records:
                entry = entries[record.name] = now[record.name]
                if record.name in kept:
                    tables.append(_copy(record.name, *previous, writer))
                    entries[record.name] = _renewed(older[record.name], entry)
                    continue
                try:
                    tables.append(_prepare_record(source, record, config, mirror, writer, entry, bar))
                except MissingFile as error:
                    entry.notes.append(f"not on the mirror ({error})")
                except InputError as error:
                    entry.notes.append(f"left out ({error})")
        write_table(
            temporary, pd.concat([t for t in tables if len(t)], ignore_index=True) if any(map(len, tables)) else _EMPTY
        )
        _write_settings(temporary, settings, entries)
    return folder


_EMPTY = pd.DataFrame({"record": pd.Series(dtype=object), "row": pd.Series(dtype="int64")})


def _renewed(older: RecordEntry, now: RecordEntry) -> RecordEntry:
    return RecordEntry(**(asdict(older) | {"stat": now.stat, "content": now.content}))


def _copy(name: str, table: pd.DataFrame, shards: Shards, writer: ShardWriter) -> pd.DataFrame:
    """Windows of a record that did not change, from the shard as it was."""
    part = table[table["record"] == name].copy()
    windows = shards.open(0)
    part["row"] = [writer.append(windows["ppg"][row], windows["ecg"][row]) if row >= 0 else -1 for row in part["row"]]
    return part


# -------------------------------------------------------------------------------------------------------- one record
def _prepare_record(
    source: Source, record: Record, config: Config, mirror: Mirror, writer: ShardWriter, entry: RecordEntry, bar
) -> pd.DataFrame:
    """Index of a record's windows; their signals go to ``writer``, window by window."""
    reading = source.read(mirror, record)
    entry.subject, entry.notes = reading.subject, reading.notes
    digest, tables, dead = hashlib.sha256(), [], []
    next_s = hours = 0.0
    for stretch in reading.stretches:
        _add_to_hash(digest, stretch)
        try:
            clean = clean_stretch(stretch, reading, record.name, config.signal.sampling_rate)
        except InputError as error:
            reading.notes.append(f"from {stretch.start_s:.0f} s: left out ({error})")
            continue
        dead.append(clean.dead_leads)
        _note_polarity(clean, stretch, reading)
        signals = (stretch.ppg, stretch.rhythm, *stretch.leads.values())
        length = min(len(x) / rate for x, rate in filter(None, signals))
        kept_s = min(stretch.keep_s, length - stretch.margin_s)
        starts, next_s = _window_starts(stretch, kept_s, len(clean.ppg), config, next_s)
        if bar is not None:
            bar.update(round(kept_s / 3600, 6))
        hours += kept_s / 3600
        if len(starts):
            tables.append(_store_windows(clean, starts, config.signal.window_samples, writer))
    _note_dead_leads(dead, entry)
    entry.signal_hash, entry.hours = digest.hexdigest()[:32], round(hours, 6)
    if not tables:
        reading.notes.append(f"no window of {config.signal.window_samples / config.signal.sampling_rate:g} s")
        return _EMPTY
    known = {"subject": reading.subject, "record": record.name, "age": float(reading.age)}
    known |= {name: getattr(reading, name) for name in ("sex", "rhythm", "morphology", "diagnoses", "fold")}
    return pd.concat(tables, ignore_index=True).assign(**known)


def _note_polarity(clean: CleanStretch, stretch: Stretch, reading: Reading) -> None:
    if clean.ppg_origin == "measured":
        found = pulse_polarity(clean.ppg, clean.sampling_rate)
        if found.verdict == "down":
            at = f"from {stretch.start_s:.0f} s"
            reading.notes.append(f"{at}: the PPG looks upside down and is used as it is ({found})")


def _note_dead_leads(dead: list[tuple[str, ...]], entry: RecordEntry) -> None:
    """Enter the leads that hold nothing in some stretches, and note in how many."""
    counts = Counter(lead for leads in dead for lead in leads)
    entry.dead_leads = [lead for lead in LEADS if lead in counts]
    for count in sorted(set(counts.values())):
        names = ", ".join(lead for lead in LEADS if counts[lead] == count)
        entry.notes.append(f"{names}: flat or missing in {count} of {len(dead)} stretch(es), so not taken there")


def _window_starts(stretch: Stretch, kept_s: float, n: int, config: Config, next_s: float) -> tuple[np.ndarray, float]:
    """First samples of the windows of a stretch, and the earliest time (s) of the window after them.

    A window begins in the part that counts, and may end in the margin after it: the next stretch then goes on one
    stride later, so that no window is lost and none comes twice. A recording in one piece has its windows in the
    middle, away from the ends, where filters settle.
    """
    rate, window_samples = config.signal.sampling_rate, config.signal.window_samples
    stride = max(1, round(config.data.stride_s * rate)) if config.data.stride_s else window_samples
    begins_s = stretch.start_s - stretch.margin_s
    offset = max(0, round((max(stretch.start_s, next_s) - begins_s) * rate))
    last = min(n - window_samples, round((stretch.margin_s + kept_s) * rate) - 1)
    whole = stretch.margin_s == 0 and n - round(kept_s * rate) <= 1
    if whole and last >= 0:
        offset += min((n - offset - window_samples) % stride // 2, round(2.0 * rate))
    starts = np.arange(offset, last + 1, stride)
    return starts, begins_s + (starts[-1] + stride) / rate if len(starts) else next_s


def _store_windows(clean: CleanStretch, starts: np.ndarray, window_samples: int, writer: ShardWriter) -> pd.DataFrame:
    """Judge these windows and store them; those that hold too little to be of any use have row -1."""
    judged, rows = judge_windows(clean, starts, window_samples), []
    hopeless = judged[["ppg_faults", "ecg_faults"]].max(axis=1) > HOPELESS_FAULTS
    for first, useless in zip(starts, hopeless, strict=True):
        part = slice(first, first + window_samples)
        ppg = clean.ppg[part]
        spread = ppg.std()
        stored = not useless and spread > 0
        rows.append(writer.append(((ppg - ppg.mean()) / spread)[None], clean.ecg[:, part]) if stored else -1)
    return judged.assign(row=rows, leads="".join(map(str, clean.lead_mask)), ppg_origin=clean.ppg_origin)


def _add_to_hash(digest, stretch: Stretch) -> None:
    """The ECG in whole microvolts, lead by lead: the same for copies in other units or of another resolution.

    An ECG of unknown lead has no known unit either: its values count as they are.
    """
    for name, (x, _) in sorted(stretch.leads.items()):
        # Halves of a microvolt, which units differ about by rounding errors, always go up.
        whole = np.floor(np.nan_to_num(np.asarray(x, np.float64), nan=2e6) * 1000.0 + 0.501).clip(-2e9, 2e9)
        digest.update(name.encode() + whole.astype("<i4").tobytes())
    if not stretch.leads and stretch.rhythm is not None:
        digest.update(b"rhythm" + np.asarray(stretch.rhythm[0], "<f4").tobytes())


# ------------------------------------------------------------------------------------------------------- what changed
def _fingerprint(source: Source, record: Record, mirror: Mirror, older: RecordEntry | None) -> RecordEntry:
    """Fingerprint of a record's files; they are only read where size or time of one differ from before."""
    stat, local, unusable = hashlib.sha256(), [], []
    try:
        names = source.files(mirror, record)
    except MissingFile:
        names = []
    except InputError as error:
        return RecordEntry(stat="", content=f"unreadable: {error}")
    for name in (*names, *source.tables):
        try:
            path = mirror.try_fetch(name)
        except UnusableFile as error:  # of this record alone; its reader meets it too, and says so
            stat.update(f"{error}\n".encode())
            unusable.append(str(error))
            continue
        if path is not None:
            state = path.stat()
            stat.update(f"{name} {state.st_size} {state.st_mtime_ns}\n".encode())
            if name in names:  # what a table says of a record is compared by the readers' own results
                local.append((name, path))
    stat_hash = stat.hexdigest()[:16]
    if older is not None and older.stat == stat_hash:
        return RecordEntry(stat=stat_hash, content=older.content)
    content = hashlib.sha256("".join(unusable).encode())
    for name, path in local:
        content.update(name.encode())
        try:
            content.update(hash_file(path).encode())
        except OSError as error:
            content.update(str(error).encode())
    content.update(_described(source, record, mirror).encode())
    return RecordEntry(stat=stat_hash, content=content.hexdigest()[:16] if local or unusable else "absent")


def _described(source: Source, record: Record, mirror: Mirror) -> str:
    """Whose record it is according to tables: a corrected age makes its windows anew, another row does not."""
    try:
        reading: Reading = source.read(mirror, record)
    except InputError as error:
        return f"unreadable: {error}"
    known = (reading.subject, reading.age, reading.sex, reading.rhythm, reading.morphology, reading.diagnoses)
    return repr((*known, reading.fold))


def _read_shard(folder: Path, settings: dict) -> dict[str, RecordEntry]:
    """Records of a shard made with the same settings; empty where there is none."""
    stored = read_shard_settings(folder)
    if stored is None or not same_settings(stored, settings):
        return {}
    return {name: RecordEntry(**entry) for name, entry in stored["records"].items()}


def read_shard_settings(folder: Path) -> dict | None:
    """``shard.json`` of a shard, or None where there is none that can be read."""
    return read_settings(folder, SHARD_SETTINGS)


def _write_settings(folder: Path, settings: dict, entries: dict[str, RecordEntry]) -> None:
    """Write ``shard.json``, with a hash over what the shard holds."""
    content = {name: entry.content for name, entry in entries.items()}
    text = json.dumps([settings, content], sort_keys=True)
    values = settings | {
        "records": {name: asdict(entry) for name, entry in entries.items()},
        "p2es": __version__,
        "content_hash": hashlib.sha256(text.encode()).hexdigest()[:16],
    }
    with paths.atomic_path(folder / SHARD_SETTINGS) as temporary:
        temporary.write_text(json.dumps(values, indent=1))
