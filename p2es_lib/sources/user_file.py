"""A user's own recording: a WFDB record or a CSV file with a PPG in it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from p2es_lib.config import SignalConfig
from p2es_lib.errors import InputError
from p2es_lib.leads import parse_lead
from p2es_lib.signals import flat_mask
from p2es_lib.sources.wfdb_records import find_leads, find_ppg, read_header, read_signals, segments
from p2es_lib.transforms import resample_signal

#: Sampling rates (Hz) that a PPG can have: pulses need 20 Hz, and nothing samples a finger faster than 10 kHz.
RATE_RANGE_HZ = (20.0, 10_000.0)
#: Rows of a file may lie this far off the constant rate that is read into them: the tolerance of R peaks.
LARGEST_TIME_ERROR_S = 0.05
_TIME_UNITS_S = {
    "s": 1.0, "sec": 1.0, "secs": 1.0, "second": 1.0, "seconds": 1.0, "ms": 1e-3, "msec": 1e-3, "millis": 1e-3,
    "milliseconds": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "microseconds": 1e-6, "ns": 1e-9, "nanoseconds": 1e-9,
}  # fmt: skip
#: A PPG that stays at one value for so long (s) is no PPG: every heart beats more often.
OFF_S = 1.0
CSV_SUFFIXES = (".csv", ".txt", ".tsv")


@dataclass(frozen=True)
class UserRecording:
    """What was read.

    Parameters
    ----------
    ppg : float array (T,)
        As recorded; NaN where missing, and where it did not change at all for 1 s or longer (sensor off).
    sampling_rate : float
        Hz.
    ecg : dict
        Standard leads recorded beside it, mV, as arrays (T_ecg,): a reference to compare with; often empty. A CSV
        states no unit: its values are taken as they are.
    ecg_sampling_rate : float
        Hz, of all of them; NaN without any.
    """

    ppg: np.ndarray
    sampling_rate: float
    ecg: dict[str, np.ndarray] = field(default_factory=dict)
    ecg_sampling_rate: float = float("nan")


def read_ppg(
    path: str | Path,
    *,
    sampling_rate: float | None = None,
    column: str | int | None = None,
    min_duration_s: float | None = None,
) -> UserRecording:
    """Read the PPG, and the ECG if there is one, of a recording.

    Parameters
    ----------
    path : path
        WFDB record (with or without ``.hea``; several segments or rates are fine, missing segments become NaN), or
        a file ending in .csv, .txt or .tsv: columns separated by comma, semicolon, tab or blanks, with or without
        names in the first line. A column of time in seconds or milliseconds gives the sampling rate.
    sampling_rate : float, optional
        Hz. Needed for a CSV without time column; where the file states its rate, it must agree.
    column : str or int, optional
        Signal to use as PPG: its name, or its number counted from 1. Default: the one named PLETH, PPG or alike.
    min_duration_s : float, optional
        Shortest recording of use; default: one window of the default settings.

    Raises
    ------
    InputError
        Missing or unreadable file; no PPG (the channels are listed); a sampling rate that is unknown, absurd or
        disagrees with the file; a signal that is empty, too short, flat, or missing throughout.
    """
    path = Path(path)
    if sampling_rate is not None:
        sampling_rate = _check_rate(sampling_rate, "sampling rate")
    if path.suffix.lower() in CSV_SUFFIXES:
        recording = _read_csv(path, sampling_rate, column)
    else:
        recording = _read_wfdb(path, sampling_rate, column)
    default = SignalConfig()
    needed_s = default.n_samples / default.sampling_rate if min_duration_s is None else min_duration_s
    present = np.isfinite(recording.ppg)
    duration_s = len(recording.ppg) / recording.sampling_rate
    if duration_s < needed_s:
        found = f"{duration_s:.1f} s of PPG at {recording.sampling_rate:g} Hz"
        raise InputError(f"{path}: {found}; at least {needed_s:.1f} s are needed")
    if not present.any():
        raise InputError(f"{path}: the PPG has no valid sample (all NaN)")
    if np.ptp(recording.ppg[present]) == 0:
        value = recording.ppg[present][0]
        raise InputError(f"{path}: the PPG is flat ({value:g} throughout): the sensor recorded nothing")
    off = flat_mask(recording.ppg, recording.sampling_rate, OFF_S)
    return replace(recording, ppg=np.where(off, np.nan, recording.ppg))


def _check_rate(rate: float, what: str) -> float:
    low, high = RATE_RANGE_HZ
    try:
        value = float(rate)
    except (TypeError, ValueError):
        raise InputError(f"{what} {rate!r} is not a number of hertz") from None
    if not low <= value <= high:
        raise InputError(f"{what} {value:g} Hz: a PPG recording has {low:g} to {high:g} Hz")
    return value


def _check_agreement(path: Path, stated: float | None, found: float) -> None:
    if stated is not None and abs(stated / found - 1) > 0.02:
        raise InputError(f"{path}: sampling rate {stated:g} Hz was given, but the file says {found:.4g} Hz")


def _choose_ppg(path: Path, names: list[str], column: str | int | None) -> str:
    """Name of the PPG among the signals of a file."""
    if column is not None:
        text = str(column).strip()
        for name in names:
            if name.strip().lower() == text.lower():
                return name
        if text.isdigit() and 1 <= int(text) <= len(names):
            return names[int(text) - 1]
        raise InputError(f"{path}: no column {text!r}; the columns are: {', '.join(names)}")
    found = find_ppg(names)
    if found is None:
        listed = ", ".join(names)
        raise InputError(f"{path}: no PPG channel; the channels are: {listed}; name one with column= (--column)")
    return found


# ----------------------------------------------------------------------------------------------------------------- WFDB
def _read_wfdb(path: Path, sampling_rate: float | None, column: str | int | None) -> UserRecording:
    header_path = path if path.suffix == ".hea" else path.with_name(path.name + ".hea")
    if not header_path.is_file():
        tables = ", ".join(CSV_SUFFIXES)
        raise InputError(f"{path}: no such recording (no {header_path.name}, and not a file ending in {tables})")
    header = read_header(header_path)
    parts = []
    for segment in segments(header):
        part = header_path if segment.name == header.record_name else header_path.with_name(f"{segment.name}.hea")
        if part.is_file() and all((part.parent / file).is_file() for file in read_header(part).file_name or []):
            parts.append((segment, part))
    if not parts:
        raise InputError(f"{header_path}: none of its signal files is there; put them beside the header")
    ppg: np.ndarray | None = None
    ppg_rate, ecg, ecg_rate = float("nan"), {}, float("nan")
    names_seen: dict[str, None] = {}
    for segment, part in parts:
        names = read_header(part).sig_name or []
        names_seen |= dict.fromkeys(names)
        name = _choose_ppg(part, names, column) if column is not None or find_ppg(names) else None
        if name is None:
            continue
        leads = find_leads(names, read_header(part).units, str(part))
        raw = read_signals(part, list(dict.fromkeys([name, *(signal for signal, _ in leads.values())])))
        x, rate = raw[name]
        if ppg is None:
            ppg_rate = _check_rate(rate, f"{part}: sampling rate")
            ppg = np.full(int(round((header.sig_len or len(x) / rate * header.fs) / header.fs * rate)), np.nan)
        elif rate != ppg_rate:
            raise InputError(f"{part}: PPG at {rate:g} Hz, but {ppg_rate:g} Hz in an earlier segment; give one segment")
        _place(ppg, x, segment.start_frame / header.fs * rate)
        for lead, (signal, factor) in leads.items():
            x, rate = raw[signal]
            ecg_rate = rate if np.isnan(ecg_rate) else ecg_rate
            whole = ecg.setdefault(lead, np.full(int(round(len(ppg) / ppg_rate * ecg_rate)), np.nan))
            _place(whole, resample_signal(x * factor, rate, ecg_rate), segment.start_frame / header.fs * ecg_rate)
    if ppg is None:
        _choose_ppg(header_path, list(names_seen), column)
    _check_agreement(header_path, sampling_rate, ppg_rate)
    return UserRecording(ppg, ppg_rate, ecg, ecg_rate)


def _place(whole: np.ndarray, part: np.ndarray, start: float) -> None:
    first = int(round(start))
    part = part[: max(0, len(whole) - first)]
    whole[first : first + len(part)] = part


# ------------------------------------------------------------------------------------------------------------------ CSV
def _read_csv(path: Path, sampling_rate: float | None, column: str | int | None) -> UserRecording:
    table, named = _load_table(path)
    names = [str(name).strip() for name in table.columns]
    table.columns = names
    time = _time_column(table, named)
    signals = [name for name in names if name != time]
    if not named and column is None:
        if len(signals) != 1:
            raise InputError(f"{path}: {len(names)} columns without names; name the PPG's with column= (--column)")
        column = signals[0]
    ppg_name = _choose_ppg(path, names, column)
    wanted = {ppg_name, *(name for name in signals if parse_lead(name))}
    values = {name: _numbers(path, table[name]) for name in wanted}
    if time is None:
        if sampling_rate is None:
            raise InputError(f"{path}: no time column, so the sampling rate is not known; give it (--sampling-rate)")
        rate, position = sampling_rate, np.arange(len(table))
    else:
        rate, position = _clock(path, _numbers(path, table[time]), time)
        _check_agreement(path, sampling_rate, rate)
    placed = {}
    for name, x in values.items():
        placed[name] = np.full(int(position[-1]) + 1, np.nan)
        placed[name][position] = x
    leads = {parse_lead(name): x for name, x in placed.items() if name != ppg_name} if named else {}
    return UserRecording(placed[ppg_name], rate, leads, rate if leads else float("nan"))


def _load_table(path: Path) -> tuple[pd.DataFrame, bool]:
    """Table of a CSV as text, and whether its first line held names."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty (zero bytes)")
    try:
        with open(path, encoding="utf-8-sig", errors="strict") as file:
            first = next((line for line in file if line.strip()), "")
        separator = max(",;\t", key=first.count) if any(mark in first for mark in ",;\t") else r"\s+"
        cells = [cell.strip().strip('"') for cell in re.split(separator, first.strip())]
        named = not all(_is_number(cell) for cell in cells)
        table = pd.read_csv(
            path, sep=separator, header=0 if named else None, dtype=str, skipinitialspace=True, encoding="utf-8-sig",
            index_col=False,
        )  # fmt: skip
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as a table of numbers ({error})") from error
    if not named:
        table.columns = [str(number) for number in range(1, table.shape[1] + 1)]
    if table.empty:
        raise InputError(f"{path}: no row of values")
    return table, named


def _is_number(text: str) -> bool:
    try:
        float(text or "nan")
    except ValueError:
        return False
    return True


def _numbers(path: Path, column: pd.Series) -> np.ndarray:
    try:
        values = pd.to_numeric(column.str.strip().replace("", np.nan)).to_numpy(dtype=float)
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: column {column.name!r} holds something that is not a number ({error})") from error
    return np.where(np.isfinite(values), values, np.nan)


def _time_column(table: pd.DataFrame, named: bool) -> str | None:
    """Column that counts time: by name, or, without names, a first column that only rises.

    One that rises by exactly 1 from row to row counts rows: it says nothing of the time between them.
    """
    if named:
        pattern = r"(time|timestamp|t|sec(ond)?s?|ms|millis(econds)?)(?![A-Za-z])"
        return next((name for name in table.columns if re.match(pattern, name, re.IGNORECASE)), None)
    if table.shape[1] < 2:
        return None
    first = pd.to_numeric(table.iloc[:, 0], errors="coerce").to_numpy(dtype=float)
    steps = np.diff(first)
    rises = bool(np.all(steps >= 0)) and first[-1] > first[0] and not np.all(steps == 1)
    return str(table.columns[0]) if rises else None


def _clock(path: Path, time: np.ndarray, name: str) -> tuple[float, np.ndarray]:
    """Sampling rate (Hz) from a time column, and the sample number of each row; interruptions leave numbers out.

    Times may be rounded (BIDMC writes 125 Hz in steps of 0.01 s), so the rate is that of all rows together. Where that
    does not fit the times, as when single samples were lost, it is that of most steps, and each row keeps its time.

    Raises
    ------
    InputError
        Times that do not rise, a rate out of range, or rows that lie off any constant rate by more than
        :data:`LARGEST_TIME_ERROR_S`.
    """
    steps = np.diff(time)
    if len(time) < 2 or not np.isfinite(time).all() or (steps < 0).any() or time[-1] == time[0]:
        raise InputError(f"{path}: the time column {name!r} must hold numbers that only rise")
    typical = np.mean(steps[steps <= 5 * max(np.median(steps), np.mean(steps) / 5)])
    is_break = steps > 5 * typical
    period = steps[~is_break].sum() / max((~is_break).sum(), 1)
    # A PPG has 20 to 10,000 Hz, so where the name is silent the sampling period tells seconds from milliseconds.
    inferred_s = 1.0 if 1 / RATE_RANGE_HZ[1] <= period <= 1 / RATE_RANGE_HZ[0] else 1e-3
    unit_s = _unit_s(name) or inferred_s
    rate = _check_rate(1 / (period * unit_s) if period > 0 else 0.0, f"{path}: sampling rate by the column {name!r},")
    run = np.concatenate([[0], np.cumsum(is_break)])  # number of the unbroken run each row belongs to
    first_rows = np.flatnonzero(np.concatenate([[True], is_break]))
    starts = np.rint((time[first_rows] - time[0]) * unit_s * rate).astype(int)
    position = starts[run] + np.arange(len(time)) - first_rows[run]
    elapsed_s = (time - time[0]) * unit_s
    if (common := float(np.median(steps)) * unit_s) > 0:
        placed = np.rint(elapsed_s / common).astype(int)
        fits = (np.diff(placed) > 0).all() and RATE_RANGE_HZ[0] <= 1 / common <= RATE_RANGE_HZ[1]
        if fits and _time_error_s(elapsed_s, placed, 1 / common) < _time_error_s(elapsed_s, position, rate):
            rate, position = 1 / common, placed
    error_s = _time_error_s(elapsed_s, position, rate)
    if error_s > LARGEST_TIME_ERROR_S or (np.diff(position) < 1).any():
        raise InputError(
            f"{path}: the time column {name!r} fits no constant sampling rate (rows lie up to {error_s:.3g} s off "
            f"{rate:.6g} Hz); resample the file first"
        )
    return rate, position


def _time_error_s(elapsed_s: np.ndarray, position: np.ndarray, rate: float) -> float:
    return float(np.abs(elapsed_s - position / rate).max())


def _unit_s(name: str) -> float | None:
    """Unit of a time column in seconds, from its name ("Time [s]", "timestamp_ms"); None where it states none."""
    words = re.split(r"[^a-zµμ]+", name.lower())
    return next((seconds for unit, seconds in _TIME_UNITS_S.items() if unit in words), None)
