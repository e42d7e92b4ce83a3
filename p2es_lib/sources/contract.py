"""What a data source is, and what it yields."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from p2es_lib.config import Config
from p2es_lib.windows import WindowSet

_PACKAGE = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Source:
    """One data set: where it is, under which terms, and how its windows are made.

    Parameters
    ----------
    name, title : str
        Value of the setting ``dataset``; full name.
    access, licence, citation, notes : str
        Open or credentialed, and what the user must do; terms; what to cite; what is peculiar (lead "V", delays).
    prepare : callable
        ``prepare(config, mirror, progress) -> WindowSet`` with splits assigned.
    code : tuple of str
        Files or folders of ``p2es_lib`` that decide what the windows are: windows are made again when they change.
    needs_mirror : bool
        Whether recordings have to be fetched (False for simulated data).
    companions : callable
        Files of the user's own that are read besides (a table of ages, say), those that exist.
    """

    name: str
    title: str
    access: str
    licence: str
    citation: str
    notes: str
    prepare: Callable[[Config, str | Path | None, bool], WindowSet]
    code: tuple[str, ...]
    needs_mirror: bool = True
    companions: Callable[[], list[Path]] = list

    def settings(self, mirror: str | Path | None) -> dict:
        """What the windows depend on besides the configuration: where they come from, and the code."""
        from p2es_lib.sources.mirror import resolve_mirror

        files = self.companions()
        for entry in self.code:
            path = _PACKAGE / entry
            files += sorted(path.glob("*.py")) if path.is_dir() else [path]
        digest = hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()[:16]
        return {"code": digest, "mirror": str(resolve_mirror(mirror)) if self.needs_mirror else ""}


@dataclass(frozen=True)
class Recording:
    """A stretch of one recording at the common sampling rate, signals aligned sample by sample.

    Parameters
    ----------
    subject, record : str
        Subject; record name, unique within the source.
    start_s : float
        Time of the first sample after the start of the record.
    sampling_rate : float
        Hz, of both signals.
    ppg : float array (T,)
        Band-passed, any unit.
    ecg : float array (12, T)
        mV, band-passed; absent leads 0.
    lead_mask : uint8 array (12,)
        0 absent, 1 derived, 2 measured.
    ppg_faults, ecg_faults : bool arrays (T,)
        Where the signal as recorded (any measured lead) was missing, flat, clipped or wrapped around.
    age, sex : float, str
        Years or NaN; ``"F"``, ``"M"`` or ``""``.
    """

    subject: str
    record: str
    start_s: float
    sampling_rate: float
    ppg: np.ndarray
    ecg: np.ndarray
    lead_mask: np.ndarray
    ppg_faults: np.ndarray
    ecg_faults: np.ndarray
    age: float = float("nan")
    sex: str = ""
