"""WFDB records as they come: several segments, several rates, signal names and units as monitors write them."""

import posixpath
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np

from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import MILLIVOLTS, parse_lead, split_unit
from p2es_lib.data.download.mirror import Mirror, MissingFile, check_relative
from p2es_lib.data.sources.contract import MARGIN_S, PART_S, Reading, Signal, Stretch

#: Words of signals that hold what was derived from a PPG, or what is recorded beside it, and no pulse.
_DERIVED = {
    "hr", "tohr", "heart", "heartrate", "rate", "bpm", "pr", "quality", "sqi", "index", "pvi", "pi", "status",
    "confidence", "counter", "ambient", "current", "peak", "peaks", "onset", "onsets", "valid", "gain",
}  # fmt: skip


class Segment(NamedTuple):
    """One file set of a record: its name ("~": a gap), first frame and number of frames."""

    name: str
    start_frame: int
    n_frames: int


def read_header(path: Path):
    """Header of a WFDB record, from its ``.hea`` file; an :class:`InputError` where that is none."""
    import wfdb

    if not path.is_file():
        raise InputError(f"{path}: no such WFDB header")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the header is empty (zero bytes)")
    try:
        with _plain(path) as (record, date, files):
            header = wfdb.rdheader(str(record))
    except Exception as error:  # wfdb raises whatever its parser meets
        raise InputError(f"{path}: not a readable WFDB header ({error})") from error
    header.sig_len = header.sig_len or None  # 0 stands for not stated
    if date:
        header.base_date, header.base_time, header.base_datetime = date.date(), date.time(), date
    if files and getattr(header, "file_name", None):
        header.file_name = [files.get(name, name) for name in header.file_name]
    if not header.fs or header.fs <= 0:
        raise InputError(f"{path}: the header states no valid sampling rate ({header.fs!r})")
    if getattr(header, "sig_name", None):
        header.sig_name = [name or "" for name in header.sig_name]  # a signal may have no description
    return header


_TIME_AND_DATE = r"(([01]?\d|2[0-3]):[0-5]?\d(:[0-5]?\d(\.\d{1,6})?)?( ([012]?\d|3[01])/(0?\d|1[0-2])/\d{4})?)?"


@contextmanager
def _plain(path: Path) -> Iterator[tuple[Path, datetime | None, dict[str, str]]]:
    """The record (without suffix) of a header that wfdb can read, its date if wfdb could not read it, and its files.

    What reading does not need is left out of a copy: a date in another form, a length of 0, folders before names. Files
    that lie in those are linked: name beside the copy to name in the original.
    """
    text = path.read_text("latin-1")
    lines = text.splitlines()
    at = next((n for n, line in enumerate(lines) if line.strip() and not line.startswith("#")), None)
    fields = lines[at].split() if at is not None else []
    usual = re.fullmatch(_TIME_AND_DATE, " ".join(fields[4:]))
    folders = len(fields) > 2 and any("/" in line.split()[0] for line in lines[at + 1 :] if line.strip("# "))
    plain_name = len(fields) > 2 and re.fullmatch(r"[-\w]+(/\d+)?", fields[0])
    if len(fields) < 3 or (usual and plain_name and not folders and re.fullmatch("[1-9]\\d*|", "".join(fields[3:4]))):
        yield path.with_suffix(""), None, {}
        return
    iso = re.search(r"(\d{4}-\d{2}-\d{2})[T ](\d{2}:\d{2}:\d{2})", lines[at])
    length = fields[3:4] if fields[3:4] and re.fullmatch(r"[1-9]\d*", fields[3]) else []
    name = re.sub(r"[^-\w/]", "_", fields[0] if plain_name else posixpath.basename(fields[0]))
    lines[at] = " ".join([name, *fields[1:3], *length, *(fields[4:] if usual and length else [])])
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for number in range(at + 1, len(lines)) if "/" not in name else ():
            file, _, rest = lines[number].partition(" ")
            if rest and not file.startswith("#"):
                files[bare := posixpath.basename(file)] = file
                lines[number] = f"{bare} {rest}"
                if (source := path.absolute().parent / file).is_file() and not (link := Path(folder, bare)).exists():
                    link.symlink_to(source)
        record = Path(folder, name.partition("/")[0])
        record.with_suffix(".hea").write_text("\n".join(lines) + "\n")
        yield record, datetime.fromisoformat(f"{iso[1]}T{iso[2]}") if iso else None, files


def segments(header) -> list[Segment]:
    """Segments of a record in order; gaps and layout headers (no samples) are left out."""
    if not hasattr(header, "seg_name"):
        return [Segment(header.record_name, 0, int(header.sig_len or 0))]
    starts = np.concatenate([[0], np.cumsum(header.seg_len)])
    every = map(Segment, header.seg_name, map(int, starts), map(int, header.seg_len))
    return [segment for segment in every if segment.name != "~" and segment.n_frames > 0]


def signal_files(folder: str, *headers) -> list[str]:
    """Signal files that headers of records in this folder of the data set name, as paths inside it."""
    named = (name for header in headers for name in getattr(header, "file_name", None) or [] if name != "~")
    return [posixpath.join(folder, name) for name in dict.fromkeys(named)]


def name_words(name: str) -> list[str]:
    """Words of a signal's name in lower case, also where only capitals part them ("sensorTime")."""
    return [word.lower() for word in re.findall(r"[A-Z]?[a-zµμ]+|[A-Z]+(?![a-z])", name)]


def is_derived(name: str) -> bool:
    """Whether a name stands for what was derived from a PPG ("PPG_HR", "Plethysmograph variability index")."""
    words = name_words(name)
    return bool(_DERIVED & set(words)) or any(word.endswith("tohr") for word in words)


def find_ppg(names: list[str]) -> str | None:
    """The first name that stands for a PPG ("PLETH", "Pleth,", "PPG_red", "SpO2 pleth"; not "PPG_HR"), or None."""
    pattern = re.compile(r"pleth|(^|[^a-z])ppg", re.IGNORECASE)
    return next((name for name in names if pattern.search(name) and not is_derived(name)), None)


def find_leads(names: list[str], units: list[str | None], where: str) -> dict[str, tuple[str, float]]:
    """Standard leads among the signals of a record: lead to (signal name, factor to mV).

    A lead that occurs twice is taken from its first signal. A unit in the name ("V1 (uV)") counts where the unit field
    is empty. An :class:`InputError` where one cannot be converted to mV (a scale must be known), or the two differ.
    """
    found = {}
    for name, unit in zip(names, units, strict=True):
        if (lead := parse_lead(name)) is None or lead in found:
            continue
        stated, named = (unit or "").strip().lower(), split_unit(name)[1].lower()
        factor, told = MILLIVOLTS.get(stated or named), f"{where}: ECG signal {name!r} has the unit {unit!r}"
        if stated and named and stated != named and factor != MILLIVOLTS.get(named):
            raise InputError(f"{told} by its unit field; correct the one that is wrong")
        if factor is None:
            raise InputError(f"{told}; only mV and uV can be used")
        found[lead] = (name, factor)
    return found


def usable_leads(
    names: list[str], units: list[str | None], where: str
) -> tuple[dict[str, tuple[str, float]], list[str]]:
    """As :func:`find_leads`, but leads in a unit of no use are left out, with a note: the PPG can do without them."""
    found, notes = {}, []
    for name, unit in zip(names, units, strict=True):
        try:
            for lead, signal in find_leads([name], [unit], where).items():
                found.setdefault(lead, signal)  # the first of two, in the order of the signals
        except InputError as error:
            notes.append("left out: " + str(error).removeprefix(f"{where}: "))
    return found, notes


def read_signals(path: Path, names: list[str], first_frame: int = 0, end_frame: int | None = None) -> dict[str, Signal]:
    """Signals of one segment (``path``: its ``.hea`` file) by name, in physical units, each at its own rate.

    All begin at the same instant. Of two of the same name the first is read. An InputError if wfdb cannot read them.
    """
    import wfdb

    header = read_header(path)
    channels = [header.sig_name.index(name) for name in names]
    stop = end_frame if header.sig_len else None  # without a stated length, wfdb only reads to the end
    try:
        with _plain(path) as (plain, *_):
            record = wfdb.rdrecord(str(plain), first_frame, stop, channels=channels, smooth_frames=False)
    except Exception as error:  # wfdb raises whatever it meets in a damaged file
        raise InputError(f"{path}: the signal files cannot be read ({type(error).__name__}: {error})") from error
    rates = [record.fs * per_frame for per_frame in record.samps_per_frame]
    ends = [None if end_frame is None else (end_frame - first_frame) * n for n in record.samps_per_frame]
    return {name: (x[:end], rate) for name, x, end, rate in zip(names, record.e_p_signal, ends, rates, strict=True)}


def find_chest_lead(names: list[str]) -> str | None:
    """The first chest electrode of unknown position ("V", "MCL1"), or None: it shows beats, and is no target."""
    pattern = r"\W*(ecg)?[ _-]*(v|mcl\d?)\W*"
    return next((name for name in names if re.fullmatch(pattern, name, re.IGNORECASE)), None)


def record_files(mirror: Mirror, path: str) -> list[str]:
    """All files of a WFDB record, its header first, as paths inside the data set; headers of segments are fetched."""
    folder, header = posixpath.dirname(path), read_header(mirror.fetch(f"{path}.hea"))
    layout = [name for name in getattr(header, "seg_name", []) if name.endswith(("_layout", "_0000"))]
    named = [f"{path}.hea", *(posixpath.join(folder, f"{name}.hea") for name in layout)]
    for segment in segments(header):
        if segment.name == header.record_name:
            named += signal_files(folder, header)
            continue
        named.append(posixpath.join(folder, f"{segment.name}.hea"))
        if (local := mirror.try_fetch(named[-1])) is not None:
            named += signal_files(folder, read_header(local))
    return named


def record_stretches(mirror: Mirror, path: str, reading: Reading, *, needs_ppg: bool = True) -> Iterator[Stretch]:
    """Stretches of a WFDB record in the order of time; what is missing or unusable is noted in ``reading``."""
    folder, header = posixpath.dirname(path), read_header(mirror.fetch(f"{path}.hea"))
    absent, read_to_s = [], 0.0
    for segment in segments(header):
        start_s = segment.start_frame / header.fs
        try:
            local = mirror.fetch(posixpath.join(folder, f"{segment.name}.hea"))
            for file in signal_files(folder, read_header(local)):
                mirror.fetch(file)
            for stretch in segment_stretches(local, start_s, segment.n_frames, needs_ppg=needs_ppg):
                read_to_s = stretch.start_s + stretch.keep_s
                yield stretch
        except MissingFile:
            absent.append(segment.name)
        except InputError as error:
            since = f" from {read_to_s:.0f} s on" if read_to_s > start_s else ""
            reading.notes.append(f"segment {segment.name} left out{since} ({error})")
    if absent:
        reading.notes.append(f"{len(absent)} of its segments are not on the mirror ({', '.join(absent)})")


def segment_stretches(
    local: Path, start_s: float = 0.0, max_frames: int = 0, *, needs_ppg: bool = True
) -> Iterator[Stretch]:
    """One segment (``local``: its ``.hea`` file) in parts of :data:`PART_S`, each with margins inside the segment.

    It begins ``start_s`` after the record, and ends after ``max_frames``, whatever its own header says (0: not known).
    An :class:`InputError` where it has no PPG though one is needed, no ECG, an odd unit, or unreadable files.
    """
    header = read_header(local)
    if hasattr(header, "seg_name"):
        raise InputError(f"{local}: a segment that has segments itself cannot be read")
    names = header.sig_name or []
    ppg = find_ppg(names)
    if needs_ppg and ppg is None:
        raise InputError(f"{local}: no PPG among the signals {', '.join(names)}")
    leads = find_leads(names, header.units or [], str(local))
    chest = None if leads else find_chest_lead(names)
    if not leads and chest is None:
        raise InputError(f"{local}: no ECG among the signals {', '.join(names)}")
    wanted = list(dict.fromkeys(name for name in (ppg, chest, *(signal for signal, _ in leads.values())) if name))
    n_frames = header.sig_len
    if not n_frames:  # not stated
        x, rate = read_signals(local, wanted[:1])[wanted[0]]
        n_frames = int(len(x) / rate * header.fs)
    n_frames = min(n_frames, max_frames or n_frames)
    part, margin = max(1, round(PART_S * header.fs)), round(MARGIN_S * header.fs)
    for first in range(0, n_frames, part):
        end, begin = min(n_frames, first + part), max(0, first - margin)
        raw = read_signals(local, wanted, begin, min(n_frames, end + margin))
        yield Stretch(
            start_s=start_s + first / header.fs,
            ppg=raw[ppg] if ppg else None,
            leads={lead: (raw[signal][0] * factor, raw[signal][1]) for lead, (signal, factor) in leads.items()},
            rhythm=raw[chest] if chest else None,
            margin_s=(first - begin) / header.fs,
            keep_s=(end - first) / header.fs,
        )


def walk_records(mirror: Mirror, top: str = "RECORDS") -> list[str]:
    """Paths of all records of a data set, without suffix, as its RECORDS files name them, folder by folder.

    An :class:`InputError` where the mirror does not hold the data set, or a list names a path outside it.
    """
    seen = {posixpath.dirname(top)}

    def walk(folder: str, listing: Path) -> Iterator[str]:
        for entry in filter(None, map(str.strip, listing.read_text("utf-8", errors="replace").splitlines())):
            path = check_relative(posixpath.normpath(posixpath.join(folder, entry)) if ".." not in entry else entry)
            if path in seen:  # named twice, or a folder that names itself
                continue
            seen.add(path)
            if not entry.endswith("/"):
                yield path
            elif (deeper := mirror.try_fetch(f"{path}/RECORDS")) is not None:
                yield from walk(path, deeper)

    return list(walk(posixpath.dirname(top), mirror.fetch_required(top)))
