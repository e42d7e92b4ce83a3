"""What a data source is: where its recordings are, under which terms, and how one of them is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from p2es_lib.data.download.mirror import DEFAULT_MIRROR, Mirror

#: A signal as recorded: samples (T,) with NaN where missing, and its sampling rate in Hz.
Signal = tuple[np.ndarray, float]
#: What a source can be used for. ``paired``: PPG and named ECG leads. ``ecg only``: real ECG, PPG simulated from its
#: beats (semi-synthetic). ``timing only``: PPG and an ECG of unnamed leads, so no target for a translation.
ROLES = ("simulated", "paired", "ecg only", "timing only")


@dataclass(frozen=True)
class Record:
    """A record as a source lists it, before anything of it is read.

    Parameters
    ----------
    name : str
        Unique within the source; letters, digits, ``.``, ``_`` and ``-`` only.
    path : str
        Inside the data set, without suffix, for example ``"training/a103l"``.
    shard : str
        Records of one shard are prepared by one job and stored in one folder (characters as in ``name``). Long records
        have a shard each; short ones share one, so that no job takes longer to start than to work.
    """

    name: str
    path: str
    shard: str


@dataclass(frozen=True)
class Stretch:
    """A stretch of a record as recorded, each signal at its own rate. All signals begin at the same instant.

    Parameters
    ----------
    start_s : float
        Time of the first sample that counts (after the margin), in seconds after the start of the record.
    ppg : Signal or None
        Any unit, pulses upward; None for a source without PPG.
    leads : dict
        Standard lead name to signal, mV. Empty where no lead is named.
    rhythm : Signal, optional
        An ECG of unknown lead and scale (chest lead "V", unnamed channels): for beats, never a target.
    margin_s : float
        Seconds before ``start_s`` that the signals hold besides, in which filters settle.
    keep_s : float
        Seconds that count after ``start_s``; what follows is margin too.
    """

    start_s: float
    ppg: Signal | None
    leads: dict[str, Signal]
    rhythm: Signal | None = None
    margin_s: float = 0.0
    keep_s: float = float("inf")


@dataclass
class Reading:
    """One record being read: whose it is, and its stretches in the order of time, read as they are asked for.

    Parameters
    ----------
    subject : str
        Of this source; the record's own name where the subject is not known.
    age, sex : float, str
        Years or NaN; ``"F"``, ``"M"`` or ``""``.
    stretches : iterator of Stretch
        Each is short enough to be held in memory, however long the record is.
    rhythm, morphology : str
        Labels as the simulator writes them (``"sinus"``, ``"af"``; ``"normal"``, ``"lbbb"``, ...), or "".
    diagnoses : str
        As the source codes them, separated by spaces.
    fold : str
        Split that the data set itself recommends (``"train"``, ``"validation"`` or ``"test"``), or "".
    notes : list of str
        What the user should know (segments that are missing, say); may grow while stretches are read.
    """

    subject: str
    age: float
    sex: str
    stretches: Iterator[Stretch] = iter(())
    rhythm: str = ""
    morphology: str = ""
    diagnoses: str = ""
    fold: str = ""
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Source:
    """One data set.

    Parameters
    ----------
    name, title : str
        Value of the setting ``dataset``; full name.
    slug, version : str
        Where it is on a mirror: ``<mirror>/<slug>/<version>/...``; an empty version is left out of the path.
    role : str
        One of :data:`ROLES`.
    about : dict of str
        What ``p2es data sources`` shows: ``size`` (records, hours, bytes), ``access`` (open, or what the user must do),
        ``licence``, ``cite``, ``lead "V"`` (what a lead of that name means there), ``note`` (what else is peculiar).
    list_records : callable
        ``list_records(mirror) -> list[Record]``, in a fixed order; small files are fetched at most, no signals.
    files : callable
        ``files(mirror, record) -> list[str]``: all files of a record, as paths inside the data set; headers are
        fetched to find them. Files that the mirror may lack (segments, say) are named too.
    read : callable
        ``read(mirror, record) -> Reading``. Raises an :class:`p2es_lib.core.errors.InputError` naming the record where
        nothing of it can be used. A record is prepared again when the module of this function changes, or one that it
        imports (:func:`p2es_lib.data.preparation.prepare_shard.code_files`).
    subject : callable
        ``subject(mirror, record) -> str``, as ``read`` gives it, but from a table, a name or a header alone. By default
        the record's own name, for data sets that do not say whose records are.
    stratum : callable
        ``stratum(mirror, record) -> str``: what a sample of the data set should be spread over, where the data set
        gives its own split: strata take turns, in the order of their names.
    tables : tuple of str
        Files of the data set that belong to no single record (a table of ages, say).
    companions : callable
        Files of the user's own that are read besides (credentialed tables), those that exist.
    default_mirror : str
        Where the data set is unless the user says otherwise.
    sample : int
        Records that a run below profile ``full`` fetches from a remote mirror unless the user selected some; 0: all.
    """

    name: str
    title: str
    slug: str
    version: str
    role: str
    about: dict[str, str]
    list_records: Callable[[Mirror], list[Record]]
    files: Callable[[Mirror, Record], list[str]]
    read: Callable[[Mirror, Record], Reading]
    subject: Callable[[Mirror, Record], str] = lambda mirror, record: record.name
    stratum: Callable[[Mirror, Record], str] = lambda mirror, record: ""
    tables: tuple[str, ...] = ()
    companions: Callable[[], list[Path]] = list
    default_mirror: str = DEFAULT_MIRROR
    sample: int = 0

    def mirror(self, location: str | Path | None = None, progress: bool = False) -> Mirror:
        """The data set on a mirror (folder or URL), or at its home."""
        return Mirror(location, self.slug, self.version, progress, default=self.default_mirror)
