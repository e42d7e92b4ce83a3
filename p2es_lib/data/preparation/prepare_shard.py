"""Records to shards: one job per shard, bounded memory, and only what changed is made again.

A shard is a folder ``data/prepared/<source>/<rate>Hz-<samples>[-<stride>s]/<shard>/`` with the windows of its records
(:mod:`p2es_lib.data.windows.store`), their index, and ``shard.json``: the settings and the version of the code
that made it, and for each record a fingerprint of its files. Windows of every quality are kept: limits come later.
"""

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
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
from p2es_lib.data.preparation.clean_stretch import CleanStretch, clean_stretch, judge_windows
from p2es_lib.data.sources.contract import Record, Source, Stretch
from p2es_lib.data.windows.store import SHARD_SETTINGS, Shards, ShardWriter, read_settings, read_table, write_table
from p2es_lib.signals.polarity import pulse_polarity

#: Where imports are followed to find the code that decides about windows. Left out is what does not: how a file was
#: fetched (it is what its hash says), how windows are stored, listed, assembled and shown.
_ROOMS = ("data.sources", "data.preparation", "signals", "core.leads", "core.demographics")
_DECIDES = tuple(f"p2es_lib.{room}" for room in _ROOMS)
#: Where a signal is simulated: the simulator, and the numbers of its subjects.
_SIMULATES = ("p2es_lib.simulator", "p2es_lib.data.windows.batches", "p2es_lib.core.subject_numbers")

#: A window of which more than this share is faulty is counted, but its signals are not stored.
HOPELESS_FAULTS = 0.5
_EMPTY = pd.DataFrame({"record": pd.Series(dtype=object), "row": pd.Series(dtype="int64")})


@dataclass
class RecordEntry:
    """What ``shard.json`` keeps of a record."""

    stat: str  #: changes whenever a file may have changed (size, time)
    content: str  #: changes when a file has changed
    #: Of the ECG in whole microvolts: equal for copies of a record, whatever their names, files and units.
    signal_hash: str = ""
    subject: str = ""
    hours: float = 0.0
    notes: list[str] = field(default_factory=list)
    dead_leads: list[str] = field(default_factory=list)  #: without any signal, in all of the record or a part of it


def code_files(source: Source) -> list[Path]:
    """Files that decide what the windows of a source are: the module of ``source.read``, this one (unless the source is
    simulated as a whole), what they import, and the user's own tables.
    """
    within = _DECIDES + _SIMULATES * (source.role in ("simulated", "ecg only"))
    modules = [source.read.__module__, *[__name__] * (source.role != "simulated")]
    files = (file for module in modules for file in files_imported(module, within))
    return [*dict.fromkeys(files), *source.companions()]


@lru_cache
def files_imported(module: str, within: tuple[str, ...]) -> tuple[Path, ...]:
    """Files of a module and of what it imports within these parts of the library, each with a JSON file of its name.

    Of a foreign module, its own alone.
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
    settings = {"source": source.name, "data_version": source.version, "signal": asdict(config.signal)}
    return settings | {"stride_s": config.data.stride_s, "code": hash_files(code_files(source))}


def prepare_shard(source: Source, shard: str, records: list[Record], config: Config, mirror: Mirror, bar=None) -> Path:
    """Prepare all records of one shard; those that did not change are copied from the shard as it was.

    ``bar``, of tqdm, counts hours of signal. The result is the folder, complete. A record that cannot be used is noted
    in ``shard.json`` and has no windows.
    """
    folder = prepared_dir(source, config) / shard
    settings = shard_settings(source, config)
    stored = read_settings(folder, SHARD_SETTINGS) or {}
    older = stored["records"] if same_settings(stored, settings) else {}
    older = {name: RecordEntry(**entry) for name, entry in older.items()}
    now = {record.name: _fingerprint(source, record, mirror, older.get(record.name)) for record in records}
    same = [name for name, entry in now.items() if name in older and older[name].content == entry.content]
    kept = {name: replace(older[name], stat=now[name].stat) for name in same}
    if older and list(older) == list(now) == same:
        if kept != older:  # touched, or moved to another mirror
            _write_settings(folder, settings, kept)
        return folder
    table, windows = (read_table(folder), Shards([folder]).open(0)) if kept else (_EMPTY, None)
    tables = []
    with paths.atomic_path(folder) as temporary:
        temporary.mkdir()
        with ShardWriter(temporary, config.signal.window_samples) as writer:
            for record in records:
                entry = now[record.name]
                if record.name in kept:
                    part = table[table["record"] == record.name]
                    rows = [writer.append(*windows[row]) if row >= 0 else -1 for row in part["row"]]
                    tables.append(part.assign(row=rows))
                    continue
                try:
                    tables.append(_prepare_record(source, record, config, mirror, writer, entry, bar))
                except MissingFile as error:
                    entry.notes.append(f"not on the mirror ({error})")
                except InputError as error:
                    entry.notes.append(f"left out ({error})")
        write_table(temporary, pd.concat([table for table in tables if len(table)] or [_EMPTY], ignore_index=True))
        _write_settings(temporary, settings, now | kept)
    return folder


def _prepare_record(
    source: Source, record: Record, config: Config, mirror: Mirror, writer: ShardWriter, entry: RecordEntry, bar
) -> pd.DataFrame:
    """Index of a record's windows; their signals go to ``writer``, window by window."""
    reading = source.read(mirror, record)
    entry.subject, entry.notes = reading.subject, reading.notes
    digest, tables, dead = hashlib.sha256(), [], []
    rate, window_samples = config.signal.sampling_rate, config.signal.window_samples
    next_s = hours = 0.0
    for stretch in reading.stretches:
        _add_to_hash(digest, stretch)
        at = f"from {stretch.start_s:.0f} s"
        try:
            clean = clean_stretch(stretch, reading, record.name, rate)
        except InputError as error:
            entry.notes.append(f"{at}: left out ({error})")
            continue
        dead.append(clean.dead_leads)
        if clean.ppg_origin == "measured" and (found := pulse_polarity(clean.ppg, rate)).verdict == "down":
            entry.notes.append(f"{at}: the PPG looks upside down and is used as it is ({found})")
        signals = filter(None, (stretch.ppg, stretch.rhythm, *stretch.leads.values()))
        kept_s = min(stretch.keep_s, min(len(x) / own_rate for x, own_rate in signals) - stretch.margin_s)
        starts, next_s = _window_starts(stretch, kept_s, len(clean.ppg), config, next_s)
        if bar is not None:
            bar.update(round(kept_s / 3600, 6))
        hours += kept_s / 3600
        if len(starts):
            tables.append(_store_windows(clean, starts, window_samples, writer))
    _note_dead_leads(dead, entry)
    entry.signal_hash, entry.hours = digest.hexdigest()[:32], round(hours, 6)
    if not tables:
        entry.notes.append(f"no window of {window_samples / rate:g} s")
        return _EMPTY
    known = {"subject": reading.subject, "record": record.name, "age": float(reading.age)}
    known |= {name: getattr(reading, name) for name in ("sex", "rhythm", "morphology", "diagnoses", "fold")}
    return pd.concat(tables, ignore_index=True).assign(**known)


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
        stored = not useless and ppg.std() > 0
        rows.append(writer.append(((ppg - ppg.mean()) / ppg.std())[None], clean.ecg[:, part]) if stored else -1)
    return judged.assign(row=rows, leads="".join(map(str, clean.lead_mask)), ppg_origin=clean.ppg_origin)


def _add_to_hash(digest, stretch: Stretch) -> None:
    """The ECG in whole microvolts, lead by lead: the same for copies in other units or of another resolution."""
    for name, (x, _) in sorted(stretch.leads.items()):
        # Halves of a microvolt, which units differ about by rounding errors, always go up.
        whole = np.floor(np.nan_to_num(np.asarray(x, np.float64), nan=2e6) * 1000.0 + 0.501).clip(-2e9, 2e9)
        digest.update(name.encode() + whole.astype("<i4").tobytes())
    if not stretch.leads and stretch.rhythm is not None:  # of unknown lead and unit: its values count as they are
        digest.update(b"rhythm" + np.asarray(stretch.rhythm[0], "<f4").tobytes())


def _fingerprint(source: Source, record: Record, mirror: Mirror, older: RecordEntry | None) -> RecordEntry:
    """Fingerprint of a record's files; they are only read where size or time of one differ from before."""
    seen, local, unusable = "", [], []
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
            seen += f"{error}\n"
            unusable.append(str(error))
            continue
        if path is not None:
            state = path.stat()
            seen += f"{name} {state.st_size} {state.st_mtime_ns}\n"
            if name in names:  # what a table says of a record is compared by the readers' own results
                local.append((name, path))
    stat = hashlib.sha256(seen.encode()).hexdigest()[:16]
    if older is not None and older.stat == stat:
        return RecordEntry(stat, older.content)
    if not local and not unusable:
        return RecordEntry(stat, "absent")
    content = "".join(unusable)
    for name, path in local:
        try:
            content += name + hash_file(path)
        except OSError as error:
            content += name + str(error)
    try:  # whose record it is according to tables: a corrected age makes its windows anew, another row does not
        reading = source.read(mirror, record)
        known = (reading.subject, reading.age, reading.sex, reading.rhythm, reading.morphology, reading.diagnoses)
        content += repr((*known, reading.fold))
    except InputError as error:
        content += f"unreadable: {error}"
    return RecordEntry(stat, hashlib.sha256(content.encode()).hexdigest()[:16])


def _write_settings(folder: Path, settings: dict, entries: dict[str, RecordEntry]) -> None:
    text = json.dumps([settings, {name: entry.content for name, entry in entries.items()}], sort_keys=True)
    values = settings | {"records": {name: asdict(entry) for name, entry in entries.items()}, "p2es": __version__}
    values["content_hash"] = hashlib.sha256(text.encode()).hexdigest()[:16]
    with paths.atomic_path(folder / SHARD_SETTINGS) as temporary:
        temporary.write_text(json.dumps(values, indent=1))
