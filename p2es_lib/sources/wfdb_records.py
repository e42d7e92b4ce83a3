"""WFDB records as they come: several segments, several rates, signal names and units as monitors write them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from p2es_lib.errors import InputError
from p2es_lib.leads import parse_lead

# Factor to mV. Anything else (NU, adu, V) is refused: an amplitude of unknown scale is no target.
_MILLIVOLTS = {"mv": 1.0, "uv": 1e-3, "µv": 1e-3, "μv": 1e-3}


@dataclass(frozen=True)
class Segment:
    """One file set of a record: its name ("~": a gap), first frame and number of frames."""

    name: str
    start_frame: int
    n_frames: int


def read_header(path: Path):
    """Header of a WFDB record; ``path`` is that of its ``.hea`` file.

    Raises
    ------
    InputError
        Missing, empty or not a WFDB header.
    """
    import wfdb

    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such WFDB header")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the header is empty (zero bytes)")
    try:
        header = wfdb.rdheader(str(path.with_suffix("")))
    except Exception as error:  # wfdb raises whatever its parser meets
        raise InputError(f"{path}: not a readable WFDB header ({error})") from error
    if not header.fs or header.fs <= 0:
        raise InputError(f"{path}: the header states no valid sampling rate ({header.fs!r})")
    return header


def segments(header) -> list[Segment]:
    """Segments of a record in order; gaps and layout headers (no samples) are left out."""
    if not hasattr(header, "seg_name"):
        return [Segment(header.record_name, 0, int(header.sig_len or 0))]
    starts = np.concatenate([[0], np.cumsum(header.seg_len)])
    every = [Segment(*row) for row in zip(header.seg_name, map(int, starts), map(int, header.seg_len))]
    return [segment for segment in every if segment.name != "~" and segment.n_frames > 0]


def find_ppg(names: list[str]) -> str | None:
    """The first name that stands for a PPG ("PLETH", "Pleth,", "PPG_red", "SpO2 pleth"), or None."""
    return next((name for name in names if re.search(r"pleth|(^|[^a-z])ppg", name, re.IGNORECASE)), None)


def find_leads(names: list[str], units: list[str | None], where: str) -> dict[str, tuple[str, float]]:
    """Standard leads among the signals of a record: lead to (signal name, factor to mV).

    A lead that occurs twice is taken from its first signal. ``"V"`` is no standard lead and is never among them.

    Raises
    ------
    InputError
        An ECG lead in a unit that cannot be converted to mV.
    """
    found: dict[str, tuple[str, float]] = {}
    for name, unit in zip(names, units, strict=True):
        lead = parse_lead(name)
        if lead is None or lead in found:
            continue
        factor = _MILLIVOLTS.get((unit or "").strip().lower())
        if factor is None:
            raise InputError(f"{where}: ECG signal {name!r} has the unit {unit!r}; only mV and uV can be used")
        found[lead] = (name, factor)
    return found


def read_signals(
    path: Path, names: list[str], first_frame: int = 0, end_frame: int | None = None
) -> dict[str, tuple[np.ndarray, float]]:
    """Signals of one segment, each at its own rate.

    Parameters
    ----------
    path : Path
        The segment's ``.hea`` file.
    names : list of str
        Signals as the header names them.
    first_frame, end_frame : int
        Part to read.

    Returns
    -------
    dict
        Name to (physical values (T,), sampling rate in Hz). All begin at the same instant.
    """
    import wfdb

    header = read_header(path)
    channels = [header.sig_name.index(name) for name in names]
    try:
        record = wfdb.rdrecord(
            str(Path(path).with_suffix("")), first_frame, end_frame, channels=channels, smooth_frames=False
        )
    except Exception as error:  # wfdb raises whatever it meets in a damaged file
        raise InputError(f"{path}: the signal files cannot be read ({type(error).__name__}: {error})") from error
    rates = [record.fs * per_frame for per_frame in record.samps_per_frame]
    return dict(zip(record.sig_name, zip(record.e_p_signal, rates)))
