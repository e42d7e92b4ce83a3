"""From a stretch as recorded to signals on one clock: resampled, band-passed, limb leads derived."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import LEADS, MEASURED, PROJECTION, complete_limb_leads
from p2es_lib.data.sources.contract import Reading, Signal, Stretch
from p2es_lib.signals import cleaning
from p2es_lib.signals.transforms import resample_signal
from p2es_lib.simulator.semi_synthetic import semi_synthetic_ppg

#: Leads in which R peaks are looked for, in order of preference.
RHYTHM_LEADS = ("II", "I", "V5", "V4", "V6", "aVR", "aVF", "III", "V3", "V2", "aVL", "V1")

#: A lead that is missing or does not change in this share of a stretch was not connected: no window could use it.
DEAD_SHARE = 0.9


@dataclass(frozen=True)
class CleanStretch:
    """A stretch at the common sampling rate, its signals filtered and aligned sample by sample, margins included.

    Parameters
    ----------
    sampling_rate : float
        Hz, of all arrays.
    begins_s : float
        Time of the first sample after the start of the record.
    ppg : float array (T,)
        Band-passed, any unit.
    ecg : float array (12, T)
        mV, band-passed; absent leads 0.
    lead_mask : uint8 array (12,)
        0 absent, 1 derived, 2 measured.
    rhythm : float array (T,)
        The ECG in which beats are looked for, band-passed: a lead, or one of unknown name.
    ppg_faults, ecg_faults : dict of bool arrays (T,)
        Each of :data:`p2es_lib.signals.cleaning.FAULTS` to where the signal as recorded (any measured lead) had it.
    lead_residual : float array (T,)
        Largest deviation of a limb lead from Einthoven's and Goldberger's laws, mV; 0 where none is measured twice.
    ppg_origin : str
        ``"measured"``, or ``"simulated"`` from the beats of the ECG.
    dead_leads : tuple of str
        Leads that the stretch names and that hold nothing (:func:`dead_leads`): derived or absent in ``lead_mask``.
    """

    sampling_rate: float
    begins_s: float
    ppg: np.ndarray
    ecg: np.ndarray
    lead_mask: np.ndarray
    rhythm: np.ndarray
    ppg_faults: dict[str, np.ndarray]
    ecg_faults: dict[str, np.ndarray]
    lead_residual: np.ndarray
    ppg_origin: str = "measured"
    dead_leads: tuple[str, ...] = ()


def clean_stretch(stretch: Stretch, reading: Reading, record: str, sampling_rate: float) -> CleanStretch:
    """Bring the signals of a stretch to one clock, filter them, derive limb leads.

    Every signal is resampled by itself from its own rate, with an anti-aliasing filter and from the same first instant,
    so signals of different rates stay aligned to a small fraction of a sample. A lead without any signal counts as one
    that was not recorded: the others do not suffer from it. Filters are zero-phase
    (:data:`p2es_lib.signals.cleaning.ECG_BAND_HZ`, :data:`p2es_lib.signals.cleaning.PPG_BAND_HZ`). Where there is no
    PPG, one is simulated from the beats of the ECG.

    Raises
    ------
    InputError
        Too short for the filters, or neither a named lead nor another ECG.
    """
    if not stretch.leads and stretch.rhythm is None:
        raise InputError(f"record {record}: no ECG")
    dead = dead_leads(stretch)
    leads = {lead: signal for lead, signal in stretch.leads.items() if lead not in dead}
    common = {lead: _resample(signal, sampling_rate) for lead, signal in leads.items()}
    rhythm = None if common else _resample(stretch.rhythm, sampling_rate)
    pulse = None if stretch.ppg is None else _resample(stretch.ppg, sampling_rate)
    n = min(len(x) for x in (pulse, rhythm, *common.values()) if x is not None)
    clean = {lead: cleaning.ecg_clean(x[:n], sampling_rate) for lead, x in common.items()}
    if clean:
        ecg, lead_mask = complete_limb_leads(clean, f"record {record}")
        rhythm = ecg[_rhythm_row(lead_mask)]
    else:
        ecg, lead_mask = np.zeros((len(LEADS), n)), np.zeros(len(LEADS), dtype=np.uint8)
        rhythm = cleaning.ecg_clean(rhythm[:n], sampling_rate)
    if pulse is None:
        pulse = _simulated_pulse(rhythm, reading, record, sampling_rate)
    limb = ecg[:6] - PROJECTION[:6, :6] @ ecg[:6]
    return CleanStretch(
        sampling_rate=sampling_rate,
        begins_s=stretch.start_s - stretch.margin_s,
        ppg=cleaning.ppg_clean(pulse[:n], sampling_rate),
        ecg=ecg,
        lead_mask=lead_mask,
        rhythm=rhythm,
        ppg_faults=_faults([stretch.ppg] if stretch.ppg else [], cleaning.ppg_largest_step, sampling_rate, n),
        ecg_faults=_faults([*leads.values()] or [stretch.rhythm], cleaning.ecg_largest_step, sampling_rate, n),
        lead_residual=np.abs(limb).max(axis=0) if lead_mask[:6].all() else np.zeros(n),
        ppg_origin="measured" if stretch.ppg is not None else "simulated",
        dead_leads=dead,
    )


def _simulated_pulse(rhythm: np.ndarray, reading: Reading, record: str, sampling_rate: float) -> np.ndarray:
    beats_s = cleaning.ecg_rpeaks(rhythm, sampling_rate) / sampling_rate
    return semi_synthetic_ppg(
        beats_s, len(rhythm) / sampling_rate, sampling_rate, age=reading.age, sex=reading.sex, record=record,
        subject=reading.subject,
    )  # fmt: skip


def _faults(
    signals: Sequence[Signal], largest_step: Callable[[float], float], sampling_rate: float, n: int
) -> dict[str, np.ndarray]:
    """Each fault to where any of these signals as recorded has it, at the common rate."""
    faults = {fault: np.zeros(n, dtype=bool) for fault in cleaning.FAULTS}
    for x, rate in signals:
        for fault, mask in cleaning.fault_masks(x, rate, largest_step(rate)).items():
            faults[fault] |= _at_rate(mask, rate, sampling_rate, n)
    return faults


def dead_leads(stretch: Stretch) -> tuple[str, ...]:
    """Leads that are missing or flat nearly throughout, while others are not: an electrode was off, or never on.

    Where all are, none is named: then it is the ECG that is missing, and its windows are rejected for that. A lead that
    fails in a part of the stretch stays, and spoils the windows in which it fails.
    """
    dead = tuple(
        lead for lead, (x, rate) in stretch.leads.items() if _idle_share(np.asarray(x, float), rate) >= DEAD_SHARE
    )
    return dead if len(dead) < len(stretch.leads) else ()


def _idle_share(x: np.ndarray, rate: float) -> float:
    """Share of samples that are missing, or lie in a run of 0.3 s or more without any change."""
    return float(np.mean(~np.isfinite(x) | cleaning.flat_mask(x, rate, cleaning.FLAT_S))) if len(x) else 1.0


def _resample(signal: Signal, sampling_rate: float) -> np.ndarray:
    x, rate = signal
    return resample_signal(cleaning.bridge_gaps(x), rate, sampling_rate)


def _rhythm_row(lead_mask: np.ndarray) -> int:
    return next(LEADS.index(name) for name in RHYTHM_LEADS if lead_mask[LEADS.index(name)] == MEASURED)


def _at_rate(mask: np.ndarray, rate_in: float, rate_out: float, n: int) -> np.ndarray:
    """A mask at another rate: a sample is marked if one of the recorded samples it covers is."""
    edges = np.minimum(np.floor(np.arange(n + 1) * (rate_in / rate_out)).astype(int), len(mask) - 1)
    # Marked samples up to each edge; a run within one common sample must not be lost.
    count = np.concatenate([[0], np.cumsum(mask)])
    return count[np.maximum(edges[1:], edges[:-1] + 1)] > count[edges[:-1]]
