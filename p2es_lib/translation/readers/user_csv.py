"""A user's own table with a PPG in it: which column is which signal, on which clock, in which unit.

Two wearables export what no general reader of tables would read rightly; they are recognised by their layout. Empatica
E4 (``BVP.csv``): the first line is the Unix time of the start, the second the sampling rate, then one value a line.
Polar Sensor Logger (Polar OH1, Verity Sense; ``..._PPG.txt``): ``Phone timestamp;sensor timestamp [ns];channel
0;channel 1;channel 2;ambient``, of which the sensor's clock is the one that the samples were taken by.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.interpolate import PchipInterpolator

from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import MILLIVOLTS, parse_lead, split_unit
from p2es_lib.data.sources.wfdb_records import find_leads, find_ppg, is_derived
from p2es_lib.translation.checks import check_rate
from p2es_lib.translation.readers.constant_rate import LONGEST_STEP_S, check_agreement
from p2es_lib.translation.readers.csv_clock import EPOCH_S, Clock, find_clock
from p2es_lib.translation.readers.csv_table import CsvTable, read_csv_table

#: Columns of a Polar Sensor Logger file: clock, and the first photodiode's channel.
_POLAR_CLOCK, _POLAR_PPG = "sensor timestamp [ns]", "channel 0"


@dataclass(frozen=True)
class UserRecording:
    """What was read."""

    #: (T,), as recorded; NaN where missing, and where it did not change at all for 1 s or longer (sensor off).
    ppg: np.ndarray
    #: Hz.
    sampling_rate: float
    #: Standard leads recorded beside it, mV, as arrays (T_ecg,): a reference to compare with; often empty.
    ecg: dict[str, np.ndarray]
    #: Hz, of all of them; NaN without any.
    ecg_sampling_rate: float
    #: How the file was read, and what was assumed where it does not say: for the user.
    notes: list[str]


def read_csv(path: Path, sampling_rate: float | None, column: str | int | None) -> UserRecording:
    """Read the PPG and the ECG of a table; arguments and errors as of ``user_file.read_ppg``."""
    table = read_csv_table(path)
    notes, clock, columns = list(table.notes), None, []
    if (export := _empatica_e4(table)) is not None:
        table, rate, note = export
        notes.append(note)
        check_agreement(path, sampling_rate, rate)
        clock = Clock(rate, np.arange(len(table.cells)), "")
    elif (polar := _polar_columns(table)) is not None:
        by_sensor, channel, note = polar
        notes.append(note)
        column = channel if column is None else column
        clock, columns = find_clock(table, sampling_rate, by_sensor)
    else:
        clock, columns = find_clock(table, sampling_rate)
    signals = [name for name in table.names if name not in columns]
    if not table.named and column is None:
        if len(signals) != 1:
            what = f"{len(table.names)} columns without names ({', '.join(notes)})"
            raise InputError(f"{path}: {what}; name the PPG's with column= (--column)")
        column = signals[0]
    ppg = choose_ppg(path, table.names if column is not None else signals, column)
    if ppg not in signals:
        raise InputError(f"{path}: column {ppg!r} holds the time; the others are: {', '.join(signals)}")
    if clock is None:
        if sampling_rate is None:
            raise InputError(f"{path}: no time column, so the sampling rate is not known; give it (--sampling-rate)")
        clock = Clock(sampling_rate, np.arange(len(table.cells)), f"{sampling_rate:g} Hz as given (no time column)")
    notes += [clock.note] if clock.note else []
    notes.append(describe_choice(ppg, signals, column))
    leads, lead_notes = _leads(table, [name for name in signals if name != ppg])
    placed = {lead: _placed(x, clock) for lead, x in leads.items()}
    ecg_rate = clock.rate if placed else float("nan")
    return UserRecording(_placed(table.numbers(ppg), clock), clock.rate, placed, ecg_rate, notes + lead_notes)


def _placed(x: np.ndarray, clock: Clock) -> np.ndarray:
    """Values on the clock, NaN where it has no row."""
    whole = np.arange(int(clock.position[-1]) + 1)
    if np.issubdtype(clock.position.dtype, np.integer):
        placed = np.full(len(whole), np.nan)
        placed[clock.position] = x
        return placed
    present = np.isfinite(x)
    if present.sum() < 2:
        return np.full(len(whole), np.nan)
    # Each value between two rows: a line would take a tenth of a pulse's height at 25 Hz, a spline would overshoot.
    placed = PchipInterpolator(clock.position[present], x[present], extrapolate=False)(whole)
    after = np.searchsorted(clock.position, whole).clip(1, len(x) - 1)
    far = clock.position[after] - clock.position[after - 1] > LONGEST_STEP_S * clock.rate
    placed[far | ~(present[after] & present[after - 1])] = np.nan
    return placed


def find_ppgs(names: list[str]) -> list[str]:
    """Signals that stand for a PPG, those that are called just so ("PPG", "Pleth (NU)", "BVP") first.

    As :func:`find_ppg`, and "BVP" (blood volume pulse) and "SpO2 wave", as wearables and monitors call it.
    """
    also = re.compile(r"(^|[^a-z])bvp([^a-z]|$)|spo2[ _-]?wave", re.IGNORECASE)
    found = [name for name in names if (find_ppg([name]) or also.search(name)) and not is_derived(name)]
    return sorted(
        found, key=lambda name: not re.fullmatch(r"(ppg|pleth|bvp)\W*([\[(].*)?", name.strip(), re.IGNORECASE)
    )


def choose_ppg(path: Path, names: list[str], column: str | int | None) -> str:
    """Name of the PPG among the signals of a file."""
    if column is not None:
        text = str(column).strip()
        for name in names:
            if name.strip().lower() == text.lower():
                return name
        if text.isdigit() and 1 <= int(text) <= len(names):
            return names[int(text) - 1]
        raise InputError(f"{path}: no column {text!r}; the columns are: {', '.join(names)}")
    found = find_ppgs(names)
    if not found:
        listed = ", ".join(names)
        raise InputError(f"{path}: no PPG channel; the channels are: {listed}; name one with column= (--column)")
    return found[0]


def describe_choice(ppg: str, names: list[str], column: str | int | None) -> str:
    """What was taken as the PPG, and what else might have been."""
    others = [name for name in find_ppgs(names) if name != ppg] if column is None else []
    first = "the first" if not any(name in others for name in names[: names.index(ppg)]) else "by its name"
    choice = f", {first}; also there: {', '.join(map(repr, others))} (--column)" if others else ""
    return f"PPG from {ppg!r}{choice}"


def _leads(table: CsvTable, names: list[str]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Standard leads in mV among the columns, and what was assumed about them."""
    found: dict[str, np.ndarray] = {}
    unitless, notes = [], []
    for name in names if table.named else []:
        lead = parse_lead(name)
        if lead is None:
            continue
        named, stated = split_unit(name)[1], table.units.get(name, "")
        if lead in found:
            notes.append(f"ECG column {name!r} left out: lead {lead} is there already")
        elif named and stated and named.lower() != stated.lower():
            _, factor = find_leads([name], [stated], str(table.path))[lead]  # refuses a contradiction
            found[lead] = factor * table.numbers(name)
        elif (unit := (named or stated).lower()) and unit not in MILLIVOLTS:
            notes.append(f"ECG column {name!r} left out: its unit {named or stated!r} is neither mV nor uV")
        else:
            found[lead] = MILLIVOLTS.get(unit, 1.0) * table.numbers(name)
            unitless += [] if unit else [lead]
    return found, notes + ([f"ECG {', '.join(unitless)} without a unit: taken as mV"] if unitless else [])


# -------------------------------------------------------------------------------------------------------------
# wearables
def _empatica_e4(table: CsvTable) -> tuple[CsvTable, float, str] | None:
    """Samples, sampling rate (Hz) and a note, if the layout is Empatica's; one of its other signals is refused."""
    if table.named or len(table.cells) < 3 or not all(map(table.is_numeric, table.names)):
        return None
    head = np.stack([pd.to_numeric(table.text(name).iloc[:3], errors="coerce").to_numpy(float) for name in table.names])
    start_s, rate = head[0, :2]
    is_layout = EPOCH_S[0] <= start_s <= EPOCH_S[1] and 1 <= rate <= 10_000 and rate == round(rate)
    if not is_layout or (head[:, :2] != head[0, :2]).any() or not abs(head[0, 2]) < EPOCH_S[0]:
        return None
    what = f"{table.path}: Empatica E4 layout (start and sampling rate in the first two lines)"
    if len(table.names) > 1:
        raise InputError(f"{what} of {len(table.names)} columns, which is not the PPG; give BVP.csv")
    rate = check_rate(rate, f"{what}, which is not the PPG (BVP.csv):")
    start = pd.Timestamp(start_s, unit="s").strftime("%Y-%m-%d %H:%M:%S UTC")
    note = f"Empatica E4 layout: start {start} in the first line, {rate:g} Hz in the second"
    return replace(table, cells=table.cells.iloc[2:].reset_index(drop=True)), rate, note


def _polar_columns(table: CsvTable) -> tuple[str, str, str] | None:
    """Clock, PPG and a note, if the layout is Polar Sensor Logger's."""
    by_name = {name.lower(): name for name in table.names}
    if not table.named or not {"phone timestamp", _POLAR_CLOCK, _POLAR_PPG} <= set(by_name):
        return None
    channels = ", ".join(repr(name) for lower, name in by_name.items() if lower.startswith("channel "))
    note = f"Polar Sensor Logger layout: clock of the sensor; photodiode channels {channels}"
    return by_name[_POLAR_CLOCK], by_name[_POLAR_PPG], note
