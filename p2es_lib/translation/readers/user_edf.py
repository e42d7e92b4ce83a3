"""A user's own EDF or BDF file with a PPG in it, read by edfio."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from p2es_lib.core.errors import InputError
from p2es_lib.data.sources.wfdb_records import usable_leads
from p2es_lib.signals.transforms import resample_signal
from p2es_lib.translation.checks import check_rate
from p2es_lib.translation.readers.constant_rate import check_agreement
from p2es_lib.translation.readers.user_csv import choose_ppg, describe_choice


def read_edf_signals(
    path: Path, sampling_rate: float | None, column: str | int | None
) -> tuple[np.ndarray, float, dict[str, np.ndarray], float, list[str]]:
    """PPG (T,), its sampling rate (Hz), standard leads in mV, their rate (NaN without any), and how they were read.

    Signals are read one by one, those that are needed alone. Leads of several rates are brought to that of the first; a
    lead that is not in mV or uV is left out. EDF and BDF are told apart by what they hold, whatever they are called.

    Raises
    ------
    InputError
        No such file, not EDF, interrupted (EDF+D, whose gaps edfio does not place), no PPG among its signals, or a rate
        that disagrees with ``sampling_rate``.
    """
    import edfio

    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        with open(path, "rb") as file:
            is_bdf = file.read(8) == b"\xffBIOSEMI"
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            # Some recorders write umlauts or units in Latin-1 where the format allows ASCII alone.
            edf = (edfio.read_bdf if is_bdf else edfio.read_edf)(path, header_encoding="latin-1")
        signals = {}
        for signal in edf.signals:
            signals.setdefault(signal.label.strip(), signal)
    except Exception as error:
        raise InputError(
            f"{path}: cannot be read as {path.suffix[1:].upper()} ({error}); export it again, or as CSV"
        ) from error
    if "+D" in str(edf.reserved):
        raise InputError(
            f"{path}: an interrupted recording (EDF+D); export its stretches as files of their own, or as CSV"
        )
    names = list(signals)
    name = choose_ppg(path, names, column)
    rate = check_rate(signals[name].sampling_frequency, f"{path}: sampling rate of {name!r}")
    check_agreement(path, sampling_rate, rate)
    notes = [f"{'BDF' if is_bdf else 'EDF'}, {rate:g} Hz by its header", *(str(warning.message) for warning in told)]
    notes.append(describe_choice(name, names, column))
    others = [other for other in names if other != name]
    found, odd = usable_leads(others, [signals[other].physical_dimension for other in others], str(path))
    notes += odd
    leads, lead_rate = {}, float("nan")
    for lead, (other, factor) in found.items():
        own_rate = signals[other].sampling_frequency
        lead_rate = own_rate if np.isnan(lead_rate) else lead_rate
        leads[lead] = resample_signal(factor * signals[other].data, own_rate, lead_rate)
    return np.asarray(signals[name].data, dtype=float), rate, leads, lead_rate, notes
