"""What a data source is: where its recordings are, under which terms, and how one of them is read."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from p2es_lib.data.download.mirror import DEFAULT_MIRROR, Mirror

#: A signal as recorded: samples (T,) with NaN where missing, and its sampling rate in Hz.
Signal = tuple[np.ndarray, float]
#: Length of a part of a long record, and margins in which filters settle and into which its last window may reach, s.
PART_S, MARGIN_S = 1800.0, 16.0


@dataclass(frozen=True)
class Record:
    """A record as a source lists it, before anything of it is read."""

    name: str  #: unique within the source; letters, digits, ``.``, ``_`` and ``-`` only
    path: str  #: inside the data set, without suffix, for example ``"training/a103l"``
    #: Records of one shard are prepared by one job and stored in one folder (characters as in ``name``): a long record
    #: alone, short ones together, so that no job takes longer to start than to work.
    shard: str


@dataclass(frozen=True)
class Stretch:
    """A stretch of a record as recorded, each signal at its own rate. All signals begin at the same instant."""

    start_s: float  #: time of the first sample that counts (after the margin), in seconds after the start of the record
    ppg: Signal | None  #: any unit, pulses upward; None for a source without PPG
    leads: dict[str, Signal]  #: standard lead name to signal, mV; empty where no lead is named
    rhythm: Signal | None = None  #: an ECG of unknown lead and scale ("V", unnamed channels): for beats, never a target
    margin_s: float = 0.0  #: seconds before ``start_s`` that the signals hold besides, in which filters settle
    keep_s: float = float("inf")  #: seconds that count after ``start_s``; what follows is margin too


@dataclass
class Reading:
    """One record being read: whose it is, and its stretches in the order of time, read as they are asked for."""

    subject: str  #: of this source; the record's own name where the subject is not known
    age: float = float("nan")  #: years, or NaN
    sex: str = ""  #: ``"F"``, ``"M"`` or ``""``
    stretches: Iterator[Stretch] = iter(())  #: each fits in memory, however long the record is
    rhythm: str = ""  #: as the simulator writes it (``"sinus"``, ``"af"``, ...), or ""
    morphology: str = ""  #: likewise (``"normal"``, ``"lbbb"``, ...)
    diagnoses: str = ""  #: as the source codes them, separated by spaces
    fold: str = ""  #: split that the data set itself recommends (``"train"``, ``"validation"`` or ``"test"``), or ""
    #: What the user should know (segments that are missing, say); may grow while stretches are read.
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Source:
    """One data set; its functions get the :class:`Mirror` that holds it."""

    name: str  #: value of the setting ``dataset``
    title: str
    slug: str  #: where it is on a mirror: ``<mirror>/<slug>/<version>/...``
    version: str  #: left out of the path if empty
    #: ``"paired"``: PPG and named ECG leads. ``"ecg only"``: real ECG, PPG simulated from its beats (semi-synthetic).
    #: ``"timing only"``: PPG and an ECG of unnamed leads, so no target for a translation. Or ``"simulated"``.
    role: str
    #: What ``p2es data sources`` shows: ``size``, ``access`` (open, or what the user must do), ``licence``, ``cite``,
    #: ``lead "V"`` (what a lead of that name means there), ``note`` (what else is peculiar).
    about: dict[str, str]
    list_records: Callable[[Mirror], list[Record]]  #: in a fixed order; fetches small files at most, no signals
    files: Callable[[Mirror, Record], list[str]]  #: paths inside the data set, with those that the mirror may lack
    #: An InputError names a record of which nothing can be used. A record is prepared again when the module of this
    #: function changes, or one that it imports (:func:`p2es_lib.data.preparation.prepare_shard.code_files`).
    read: Callable[[Mirror, Record], Reading]
    #: As ``read`` gives it, but from a table, a name or a header alone. Default: nobody says whose records are.
    subject: Callable[[Mirror, Record], str] = lambda mirror, record: record.name
    #: What a sample of the data set is spread over, where the data set gives its own split: strata take turns.
    stratum: Callable[[Mirror, Record], str] = lambda mirror, record: ""
    tables: tuple[str, ...] = ()  #: files of the data set that belong to no single record (a table of ages, say)
    companions: Callable[[], list[Path]] = list  #: files of the user's own, read besides, that exist
    default_mirror: str = DEFAULT_MIRROR  #: where the data set is unless the user says otherwise
    sample: int = 0  #: records that a run below profile ``full`` fetches unless the user selected some; 0: all

    def mirror(self, location: str | Path | None = None) -> Mirror:
        """The data set on a mirror (folder or URL), or at its home."""
        return Mirror(location, self.slug, self.version, self.default_mirror)


def in_parts(
    ppg: Signal | None, leads: dict[str, Signal], rhythm: Signal | None = None, start_s: float = 0.0
) -> Iterator[Stretch]:
    """Signals in memory as stretches of :data:`PART_S`, with margins inside the signals.

    Parts begin on a sample of every signal whose rate is a whole number of hertz.
    """
    end_s = min(len(x) / rate for x, rate in filter(None, (ppg, rhythm, *leads.values())))

    def cut(signal: Signal | None, from_s: float, to_s: float) -> Signal | None:
        return signal and (signal[0][round(from_s * signal[1]) : round(to_s * signal[1])], signal[1])

    first_s = 0.0
    while first_s < end_s:
        last_s = min(end_s, first_s + PART_S)
        span = max(0.0, first_s - MARGIN_S), min(end_s, last_s + MARGIN_S)
        part = {lead: cut(signal, *span) for lead, signal in leads.items()}
        margin_s, keep_s = first_s - span[0], last_s - first_s
        yield Stretch(start_s + first_s, cut(ppg, *span), part, cut(rhythm, *span), margin_s, keep_s)
        first_s = last_s
