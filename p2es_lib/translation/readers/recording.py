"""What is read of a user's file, and which of its signals it is: the PPG, by name and by pulses, and standard leads."""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import parse_lead, split_unit
from p2es_lib.data.sources import wfdb_records as wfdb
from p2es_lib.translation.readers.choice import best_of, find_ppgs, perhaps_ppgs

#: Signals that are an ECG by their name.
_ECG = re.compile(r"(^|[^a-z])(ecg|ekg)([^a-z]|$)", re.IGNORECASE)


class UserRecording(NamedTuple):
    """What was read: a PPG (T,) at ``sampling_rate`` Hz, as recorded, NaN where missing or the sensor was off.

    ``ecg``: standard leads recorded beside it, mV, (T_ecg,) each, at ``ecg_sampling_rate`` Hz (NaN without any).
    ``notes``: how the file was read, and what was assumed where it does not say, for the user. ``recorded_on``: when it
    begins, by the file, ISO 8601 (a date alone where no time is given), or "". ``unitless``: leads taken as mV.
    """

    ppg: np.ndarray
    sampling_rate: float
    ecg: dict[str, np.ndarray]
    ecg_sampling_rate: float
    notes: list[str]
    recorded_on: str = ""
    unitless: tuple[str, ...] = ()


class Wanted(NamedTuple):
    """What is read: the PPG (its ``column``, if it was named), or the ECG, beside which a PPG may be missing.

    ``leads``: signal ("": the next one whose name says none) and lead, as :func:`checks.check_leads` gives them.
    """

    column: str | int | None = None
    ecg: bool = False
    leads: tuple[tuple[str, str], ...] = ()
    time_column: str | int | None = None


def choose_ppg(path: Path, names: list[str], wanted: Wanted, score=None) -> tuple[str | None, str]:
    """Name of the PPG among the signals of a file; and what to tell the user, with what else might have been it.

    ``score`` gives the plausibility of a name (:func:`choice.judge`); None where no signal can be looked at. No name
    where there is no PPG, and the ECG is wanted.
    """
    if wanted.column is not None:
        text = str(wanted.column).strip()
        found = [name for name in names if name.strip().lower() == text.lower()]
        found = found or [name for name in names if name.strip().lower().split()[:1] == [text.lower()]][:1]
        if not found and text.isdigit() and 1 <= int(text) <= len(names):
            found = [names[int(text) - 1]]
        if not found:
            raise InputError(f"{path}: no column {text!r}; the columns are: {', '.join(names)}")
        return found[0], f"PPG from {found[0]!r}"
    found, perhaps = find_ppgs(names), perhaps_ppgs(names)
    if score is None:
        ppg, why = (found[0] if found else None), []
    else:
        ppg, why = best_of([found, *([] if found and wanted.ecg else perhaps)], score)
    if ppg is None and wanted.ecg:
        return None, "no PPG"
    if ppg is None:
        listed = ", ".join(names)
        raise InputError(f"{path}: no PPG channel; the channels are: {listed}; name one with column= (--column)")
    others = [name for name in found if name != ppg and not any(repr(name) in line for line in why)]
    before = found[: found.index(ppg)] if ppg in found else found
    by = "by its pulses" if ppg not in found or before else ""
    first = by or ("by its name" if any(name in others for name in names[: names.index(ppg)]) else "the first")
    choice = f", {first}; also there: {', '.join(map(repr, others))} (--column)" if others else by and f", {by}"
    return ppg, f"PPG from {ppg!r}{choice}" + "".join(f"; {line}" for line in why)


def said_leads(path: Path, names: list[str], wanted: Wanted, named: bool = True) -> tuple[dict[str, str], list[str]]:
    """Signals whose leads the user says, each to a name that says it; and which ECG signals remain of unknown lead.

    Leads without a signal go, in order, to signals that are called ECG or are a chest electrode of unknown position;
    where signals have no names, to those that are left.
    """
    if not wanted.ecg:
        return {}, []
    by_name = {signal.lower(): lead for signal, lead in wanted.leads if signal}
    lower = {name.strip().lower(): name for name in names}
    if absent := [signal for signal in by_name if signal not in lower]:
        raise InputError(f"{path}: --leads names {absent[0]!r}, which is no ECG column; there are: {', '.join(names)}")
    said = {lower[signal]: lead for signal, lead in by_name.items()}
    others = [name for name in names if name not in said]
    unknown = [name for name in others if not named or _is_unknown_ecg(name)]
    in_order = [lead for signal, lead in wanted.leads if not signal]
    if in_order and len(in_order) != len(unknown):
        there = f"{len(unknown)} of unknown lead ({', '.join(unknown) or 'none'})"
        remedy = f"name each as COLUMN=LEAD; the columns are: {', '.join(names)}"
        raise InputError(f"{path}: --leads {','.join(in_order)} for ECG columns, of which there are {there}; {remedy}")
    said |= dict(zip(unknown, in_order))
    said = {name: f"{lead} ({unit})" if (unit := split_unit(name)[1]) else lead for name, lead in said.items()}
    left = [name for name in unknown if name not in said and named]
    return said, [f"ECG signal {name!r} left out: --leads {name}=V1 says that it is V1, or another" for name in left]


def _is_unknown_ecg(name: str) -> bool:
    """Whether a signal is an ECG by its name, which does not say its lead."""
    is_ecg = bool(_ECG.search(name)) or wfdb.find_chest_lead([name]) is not None
    return is_ecg and parse_lead(name) is None and not wfdb.is_derived(name)
