"""From a stretch as recorded to signals on one clock (resampled, band-passed, limb leads derived), and their windows.

How far each window can be trusted is kept as figures. They look at the signals as recorded (missing, flat, clipped,
jumping) and at the beats: do the pulses agree with each other, and are they pulses at all; do the QRS complexes agree,
does every pulse follow a QRS complex at one delay?
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

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

    Its first sample lies ``begins_s`` after the start of the record. PPG (T,) in any unit and ECG (12, T) in mV are
    band-passed; ``lead_mask`` (12,) is 0 for absent leads, which are 0, 1 for derived and 2 for measured ones.
    """

    sampling_rate: float
    begins_s: float
    ppg: np.ndarray
    ecg: np.ndarray
    lead_mask: np.ndarray
    rhythm: np.ndarray  #: (T,): the ECG in which beats are looked for, band-passed: a lead, or one of unknown name
    #: ``ppg_gap``, ..., ``ecg_jump``, ``ppg_faults``, ``ecg_faults``: bool (T,), where a signal as recorded had it.
    faults: dict[str, np.ndarray]
    #: (T,): largest deviation of a limb lead from Einthoven's and Goldberger's laws, mV; 0 if none is measured twice.
    lead_residual: np.ndarray
    ppg_origin: str  #: ``"measured"``, or ``"simulated"`` from the beats of the ECG
    dead_leads: tuple[str, ...]  #: that the stretch names and that hold nothing: derived or absent in ``lead_mask``


def clean_stretch(stretch: Stretch, reading: Reading, record: str, sampling_rate: float) -> CleanStretch:
    """Bring the signals of a stretch to one clock, filter them (:mod:`p2es_lib.signals.cleaning`), derive limb leads.

    Every signal is resampled by itself from its own rate and the same first instant, so they stay aligned to a small
    fraction of a sample. A lead without any signal counts as one that was not recorded: the others do not suffer from
    it. Where there is no PPG, one is simulated from the beats of the ECG. An InputError is raised for what is too short
    for the filters, or has neither a named lead nor another ECG.
    """
    if not stretch.leads and stretch.rhythm is None:
        raise InputError(f"record {record}: no ECG")
    dead = dead_leads(stretch)
    leads = {lead: signal for lead, signal in stretch.leads.items() if lead not in dead}
    recorded = {"ecg": [*leads.values()] or [stretch.rhythm], "ppg": [stretch.ppg] if stretch.ppg else []}
    common = {
        kind: [resample_signal(cleaning.bridge_gaps(x), rate, sampling_rate) for x, rate in signals]
        for kind, signals in recorded.items()
    }
    n = min(len(x) for signals in common.values() for x in signals)
    clean = [cleaning.ecg_clean(x[:n], sampling_rate) for x in common["ecg"]]
    if leads:
        ecg, lead_mask = complete_limb_leads(dict(zip(leads, clean)), f"record {record}")
        rhythm = ecg[next(LEADS.index(lead) for lead in RHYTHM_LEADS if lead_mask[LEADS.index(lead)] == MEASURED)]
    else:
        ecg, lead_mask, rhythm = np.zeros((len(LEADS), n)), np.zeros(len(LEADS), dtype=np.uint8), clean[0]
    if stretch.ppg:
        pulse = common["ppg"][0][:n]
    else:
        person = {"age": reading.age, "sex": reading.sex, "record": record, "subject": reading.subject}
        beats_s = cleaning.ecg_rpeaks(rhythm, sampling_rate) / sampling_rate
        pulse = semi_synthetic_ppg(beats_s, len(rhythm) / sampling_rate, sampling_rate, **person)[:n]
    limb = ecg[:6] - PROJECTION[:6, :6] @ ecg[:6]
    return CleanStretch(
        sampling_rate=sampling_rate, begins_s=stretch.start_s - stretch.margin_s,
        ppg=cleaning.ppg_clean(pulse, sampling_rate), ecg=ecg, lead_mask=lead_mask, rhythm=rhythm,
        faults=_faults(recorded, sampling_rate, n), dead_leads=dead,
        lead_residual=np.abs(limb).max(axis=0) if lead_mask[:6].all() else np.zeros(n),
        ppg_origin="measured" if stretch.ppg else "simulated",
    )  # fmt: skip


def _faults(recorded: dict[str, list[Signal]], sampling_rate: float, n: int) -> dict[str, np.ndarray]:
    """Each fault, and any, to where one of the signals of a kind as recorded has it, at the common rate."""
    names = [f"{kind}_{fault}" for kind in ("ppg", "ecg") for fault in cleaning.FAULTS]
    faults = {name: np.zeros(n, dtype=bool) for name in (*names, "ppg_faults", "ecg_faults")}
    for kind, signals in recorded.items():
        for x, rate in signals:
            for fault, mask in cleaning.fault_masks(x, rate, kind).items():
                mask = _at_rate(mask, rate, sampling_rate, n)
                faults[f"{kind}_{fault}"] |= mask
                faults[f"{kind}_faults"] |= mask
    return faults


def dead_leads(stretch: Stretch) -> tuple[str, ...]:
    """Leads that are missing or flat nearly throughout, while others are not: an electrode was off, or never on.

    Where all are, none is named: then it is the ECG that is missing, and its windows are rejected for that. A lead that
    fails in a part of the stretch stays, and spoils the windows in which it fails.
    """

    def is_dead(x: np.ndarray, rate: float) -> bool:
        return not len(x) or np.mean(~np.isfinite(x) | cleaning.flat_mask(x, rate, cleaning.FLAT_S)) >= DEAD_SHARE

    dead = tuple(lead for lead, (x, rate) in stretch.leads.items() if is_dead(np.asarray(x, float), rate))
    return dead if len(dead) < len(stretch.leads) else ()


def _at_rate(mask: np.ndarray, rate_in: float, rate_out: float, n: int) -> np.ndarray:
    """A mask at another rate: a sample is marked if one of the recorded samples it covers is."""
    edges = np.minimum(np.floor(np.arange(n + 1) * (rate_in / rate_out)).astype(int), len(mask) - 1)
    # Marked samples up to each edge; a run within one common sample must not be lost.
    count = np.concatenate([[0], np.cumsum(mask)])
    return count[np.maximum(edges[1:], edges[:-1] + 1)] > count[edges[:-1]]


def judge_windows(clean: CleanStretch, starts: np.ndarray, window_samples: int) -> pd.DataFrame:
    """Quality of the windows that begin at these samples (N,), one row each.

    Columns: ``start_s`` (after the start of the record); ``quality`` (the least of the next three, 0 to 1),
    ``quality_ppg`` and ``quality_ecg`` (agreement of the beats with their template; of the PPG, at most how far its
    pulses rise faster than they fall, :func:`p2es_lib.signals.cleaning.pulse_likeness`), ``quality_pairing``; shares of
    samples with each fault, ``ppg_gap``, ``ppg_flat``, ..., ``ecg_jump``, and of any, ``ppg_faults`` and
    ``ecg_faults``; ``lead_residual_mv``; ``heart_rate`` (per minute), ``pat_ms`` (R peak to PPG onset, median),
    ``rpeaks_s`` (seconds after the beginning of the window, as text).
    """
    rate = clean.sampling_rate
    measured = np.flatnonzero(clean.lead_mask == MEASURED)
    shown = clean.ecg[measured] if len(measured) else clean.rhythm[None]
    found = cleaning.ecg_rpeaks(clean.rhythm, rate), cleaning.ppg_onsets(clean.ppg, rate)
    rows = []
    for first in starts:
        part = slice(first, first + window_samples)
        beats, pulses = (x[slice(*np.searchsorted(x, [part.start, part.stop]))] - first for x in found)
        pairing, delays = cleaning.pair_beats(beats, pulses, window_samples, rate)
        ppg = clean.ppg[part]
        of_ppg = max(0.0, min(cleaning.template_agreement(ppg, pulses, rate), cleaning.pulse_likeness(ppg, pulses)))
        of_ecg = max(0.0, cleaning.template_agreement(shown[:, part], beats, rate))
        rows.append(
            {"start_s": round(clean.begins_s + first / rate, 6), "quality": min(of_ppg, of_ecg, pairing)}
            | {"quality_ppg": of_ppg, "quality_ecg": of_ecg, "quality_pairing": pairing}
            | {name: float(mask[part].mean()) for name, mask in clean.faults.items()}
            | {
                "lead_residual_mv": float(clean.lead_residual[part].max()),
                "heart_rate": 60 * rate / np.median(np.diff(beats)) if len(beats) > 2 else np.nan,
                "pat_ms": 1000 * np.median(delays) if len(delays) else np.nan,
                "rpeaks_s": " ".join(f"{beat / rate:.3f}" for beat in beats),
            }
        )
    return pd.DataFrame(rows)
