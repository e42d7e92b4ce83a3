"""The beats of a recording, piece by piece: which went into the mean beat, which were left out and why, the delays.

A long recording is cleaned in parts, as recordings of the data sets are, and surveyed in pieces of a minute: what a
piece holds is compared with its own beats. Pieces whose mean beat is unlike that of most others are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from p2es_lib.core.leads import LEADS
from p2es_lib.data.preparation.clean_stretch import CleanStretch, clean_stretch
from p2es_lib.data.sources.contract import Reading, Signal, in_parts
from p2es_lib.reference.mean_beat import (
    COMPARED_S,
    LEAST_CORRELATION,
    beat_part,
    cut_beats,
    find_r,
    mean_beats,
    pulse_delays,
)
from p2es_lib.signals.cleaning import (
    OFF_S,
    bridge_gaps,
    bridge_short_gaps,
    ecg_clean,
    ecg_rpeaks,
    flat_mask,
    ppg_quality,
    template_agreement,
)
from p2es_lib.signals.pulse_features import pulse_upstrokes

#: Length of a piece; what it sees of its neighbours, so that beats at its edges are whole; windows of PPG quality, s.
PIECE_S, MARGIN_S, QUALITY_S = 60.0, 2.0, 8.192
#: A beat that follows the one before by less than this share of the median interval is premature.
PREMATURE = 0.8
#: A beat is noisy if it lies further off the mean beat (RMS, mV) than this, and than so many times the median beat.
NOISY_MV, NOISY_TIMES = 0.05, 3.0
#: Gaps of up to so long (s) are bridged; leads that lack more than this share of what the fullest has are left out.
BRIDGED_S, MOSTLY_MISSING = 0.04, 0.5
#: A lead is left out as an artefact if its beats agree less than this with their template, at the beats of a lead in
#: which they agree more than that; if more than this share of its own beats are none of those; and if it moves by so
#: much besides (RMS, mV: no small QRS). Judged in so long (s).
NO_BEATS, CLEAR_BEATS, FALSE_BEATS, ARTEFACT_MV, JUDGED_S = 0.65, 0.8, 0.3, 0.15, 600.0
#: An R peak is seen in all leads within so long, s.
SAME_BEAT_S = 0.1
#: Why beats are left out, in the order in which it is decided.
REASONS = ("at an edge, or where the ECG is missing, clipped or jumps", "premature", "unlike most others", "noisy")


class Piece(NamedTuple):
    """About a minute of a recording: mean beats (12, L) mV of leads (12,), how many ``used`` of how many ``found``.

    ``left_out`` (4,): by :data:`REASONS`; ``intervals``: RR, s; ``noise_mv`` (12,): RMS of the beats about their mean;
    ``delays``: of pulses that follow a beat at the common delay, s, of ``n_pulses``; ``quality`` of windows of the PPG.
    """

    beats: np.ndarray
    given: np.ndarray
    used: int
    found: int
    left_out: np.ndarray
    intervals: np.ndarray
    noise_mv: np.ndarray
    delays: np.ndarray
    n_pulses: int
    quality: list[float]


class Survey(NamedTuple):
    """All pieces as one, fields as of :class:`Piece`; ``measured`` (12,): leads that were recorded, not derived.

    ``typical_mv`` (12,): heights of the cleaned ECG in 2 s, median per lead. ``dropped``: notes on leads that were left
    out. ``seconds``: how long there is an ECG.
    """

    whole: Piece
    measured: np.ndarray
    typical_mv: np.ndarray
    dropped: list[str]
    seconds: float


def survey(leads: dict[str, np.ndarray], ecg_rate: float, ppg: Signal | None, rate: float) -> Survey:
    """Survey a recording at ``rate`` Hz: leads (T_ecg,) in mV, NaN where missing, and a PPG, pulses upward, if any.

    It is of one piece without beats where none are found.
    """
    leads, dropped = _mostly_there(leads, ecg_rate)
    leads, artefacts = _without_artefacts(leads, ecg_rate)
    seconds = len(next(iter(leads.values()))) / ecg_rate
    covered = max(int(np.isfinite(x).sum()) for x in leads.values()) / ecg_rate
    # Without a PPG, one of zeros: none is to be simulated.
    pulse = ppg or (np.zeros(max(2, round(seconds * rate))), rate)
    pieces, typical, measured = [], [], np.zeros(len(LEADS))
    for stretch in in_parts(pulse, {lead: (x, ecg_rate) for lead, x in leads.items()}):
        if not any(np.isfinite(x).any() for x, _ in stretch.leads.values()):
            continue
        clean = clean_stretch(stretch, Reading("calibrate"), "calibrate", rate)
        typical.append(_typical_height(clean))
        measured = np.maximum(measured, clean.lead_mask == 2)
        first = round(stretch.margin_s * rate)
        stop = min(len(clean.ppg), first + round(stretch.keep_s * rate))
        pieces += _pieces(clean, first, stop, stretch.ppg if ppg else None)
    return Survey(_as_one(pieces, rate), measured, np.median(typical, axis=0), dropped + artefacts, covered)


def _mostly_there(leads: dict[str, np.ndarray], rate: float) -> tuple[dict[str, np.ndarray], list[str]]:
    """Leads without stretches in which nothing changes, lost samples bridged; and which are of no use, if not all."""
    kept = {lead: np.where(flat_mask(x, rate, OFF_S), np.nan, x) for lead, x in leads.items()}
    there = {lead: int(np.isfinite(x).sum()) for lead, x in kept.items()}
    dropped = [lead for lead, count in there.items() if count < (1 - MOSTLY_MISSING) * max(there.values())]
    notes = [f"lead {lead} left out: missing or flat but for {there[lead] / rate:.1f} s" for lead in dropped]
    kept = {lead: bridge_short_gaps(x, rate, BRIDGED_S) for lead, x in kept.items() if lead not in dropped}
    return kept, notes


def _without_artefacts(leads: dict[str, np.ndarray], rate: float) -> tuple[dict[str, np.ndarray], list[str]]:
    """Leads without those that show artefacts instead of the beats of the clearest one, and notes on these.

    One such lead would hide the beats of the others, and spoil the limb leads that are derived from it.
    """
    if len(leads) < 2:
        return leads, []
    middle, half = len(next(iter(leads.values()))) // 2, round(JUDGED_S / 2 * rate)
    clean = {lead: ecg_clean(bridge_gaps(x[max(0, middle - half) : middle + half]), rate) for lead, x in leads.items()}
    beats = {lead: ecg_rpeaks(x, rate) for lead, x in clean.items()}
    clarity = {lead: template_agreement(x, beats[lead], rate) for lead, x in clean.items()}
    clearest = max(clarity, key=clarity.get)
    agreement = {lead: template_agreement(x, beats[clearest], rate) for lead, x in clean.items()}
    artefacts = [
        lead for lead, x in clean.items()
        if clarity[clearest] > CLEAR_BEATS and agreement[lead] < NO_BEATS
        and _false_share(beats[lead], beats[clearest], SAME_BEAT_S * rate) > FALSE_BEATS
        and x.std() * np.sqrt(1 - agreement[lead] ** 2) > ARTEFACT_MV
    ]  # fmt: skip
    notes = [f"lead {lead} left out: artefacts hide the beats that lead {clearest} shows" for lead in artefacts]
    return {lead: x for lead, x in leads.items() if lead not in artefacts}, notes


def _false_share(found: np.ndarray, true: np.ndarray, reach: float) -> float:
    """Share of beats (samples) that have no true one within reach; 1 without any."""
    edges = np.concatenate([[-np.inf], true, [np.inf]])
    after = np.searchsorted(edges, found).clip(1)
    distance = np.minimum(found - edges[after - 1], edges[after] - found)
    return float(np.mean(distance > reach)) if len(found) else 1.0


def _typical_height(clean: CleanStretch) -> np.ndarray:
    """From lowest to highest in blocks of 2 s, median, of each lead (12,), mV."""
    length = min(int(2 * clean.sampling_rate), clean.ecg.shape[1])
    blocks = clean.ecg[:, : clean.ecg.shape[1] // length * length].reshape(len(LEADS), -1, length)
    return np.median(np.ptp(blocks, axis=2), axis=1)


def _pieces(clean: CleanStretch, first: int, stop: int, ppg: Signal | None) -> Iterator[Piece]:
    """The samples from ``first`` to ``stop`` of a clean stretch, piece by piece; ``ppg`` as recorded."""
    rate = clean.sampling_rate
    edges = np.linspace(first, stop, max(1, round((stop - first) / rate / PIECE_S)) + 1).round().astype(int)
    for begin, end in zip(edges[:-1].tolist(), edges[1:].tolist()):
        low, high = max(0, begin - round(MARGIN_S * rate)), min(len(clean.ppg), end + round(MARGIN_S * rate))
        if high - low >= rate:
            yield _piece(clean, slice(low, high), ((begin - low) / rate, (end - low) / rate), ppg)


def _piece(clean: CleanStretch, part: slice, core: tuple[float, float], ppg: Signal | None) -> Piece:
    """One piece; ``core``: the seconds after its first sample that are its own."""
    rate, given = clean.sampling_rate, torch.as_tensor(clean.lead_mask > 0, dtype=torch.float32)[None]
    ecg = torch.as_tensor(clean.ecg[:, part], dtype=torch.float32)[None]
    r = find_r(ecg, given, rate)
    t = r[0].numpy()
    inside = np.isfinite(t) & (t >= core[0]) & (t < core[1])
    interval = np.diff(np.where(np.isfinite(t), t, np.nan), prepend=np.nan)
    median = np.nanmedian(interval[np.isfinite(interval)]) if np.isfinite(interval).any() else np.nan
    fault = np.any([clean.faults[f"ecg_{name}"][part] for name in ("gap", "clipped", "jump")], axis=0)
    faulty, premature = _touches(fault, t, rate), interval < PREMATURE * median
    usable = torch.as_tensor(inside & ~faulty & ~premature)[None]
    beats, found = mean_beats(ecg, given, r, rate, usable)
    whole, alike = (mask[0].numpy() for mask in (found.whole, found.kept))
    far = _distances(ecg, r, beats, rate)  # (12, K)
    rows = np.flatnonzero(clean.lead_mask)
    each = np.sqrt(np.mean(far[rows] ** 2, axis=0))
    noisy = alike & (each > max(NOISY_MV, NOISY_TIMES * np.median(each[alike]))) if alike.any() else alike
    if noisy.any():
        beats, found = mean_beats(ecg, given, r, rate, usable & torch.as_tensor(~noisy))
    used = found.kept[0].numpy()
    reasons = np.select([~whole | faulty, premature, ~(alike | noisy), ~used], [0, 1, 2, 3], -1)
    left_out = np.bincount(reasons[inside & ~used], minlength=len(REASONS))
    noise = np.median(far[:, used], axis=1) if used.any() else np.zeros(len(LEADS))
    delays, n_pulses, quality = _pulses(clean, part, core, r, ppg) if ppg else (np.zeros(0), 0, [])
    return Piece(
        beats[0].numpy(), given[0].numpy(), int(used.sum()), int(inside.sum()), left_out,
        interval[inside & np.isfinite(interval)], noise, delays, n_pulses, quality,
    )  # fmt: skip


def _touches(fault: np.ndarray, t: np.ndarray, rate: float) -> np.ndarray:
    """Which beats at ``t`` (K,) s, inf-padded, have a faulty sample (T,) in the part in which beats are compared."""
    count = np.concatenate([[0], np.cumsum(fault)])
    first, last = (np.clip(np.nan_to_num((t + end) * rate, posinf=0), 0, len(fault)).astype(int) for end in COMPARED_S)
    return count[last] > count[first]


def _distances(ecg: Tensor, r: Tensor, beats: Tensor, rate: float) -> np.ndarray:
    """How far beats lie off the mean beat in all of their own time, each about its own level: RMS (12, K), mV.

    In all of it, as an ectopic beat so broad that it was not found as one lies behind the T wave of another.
    """
    off = cut_beats(ecg, r, rate)[0][0] - beats[0][:, None]
    off = off - off.nanmean(dim=-1, keepdim=True)
    return off.square().nanmean(dim=-1).nan_to_num().sqrt().numpy()


def _pulses(clean: CleanStretch, part: slice, core: tuple[float, float], r: Tensor, ppg: Signal):
    """Delays (s) of the pulses of a piece that have the common one, how many pulses there are, quality of windows."""
    rate = clean.sampling_rate
    pulse, missing = np.ascontiguousarray(clean.ppg[part]), clean.faults["ppg_gap"][part]
    times = pulse_upstrokes(torch.as_tensor(pulse, dtype=torch.float32)[None, None], rate)
    t = times[0].numpy()
    place = np.nan_to_num(t * rate).astype(int).clip(0, len(missing) - 1)
    t[(t < core[0]) | (t >= core[1]) | missing[place]] = np.nan
    delays = pulse_delays(r, times)[0].numpy()
    quality = []
    for begin_s in np.arange(core[0], core[1] - QUALITY_S, QUALITY_S):
        window = slice(round(begin_s * rate), round((begin_s + QUALITY_S) * rate))
        first = part.start / rate + begin_s
        recorded = ppg[0][round(first * ppg[1]) : round((first + QUALITY_S) * ppg[1])]
        if np.isfinite(recorded).mean() < 0.5:
            continue
        quality.append(ppg_quality(recorded, ppg[1], (pulse[window], rate)))
    return delays[np.isfinite(delays)], int(np.isfinite(t).sum()), quality


def _as_one(pieces: list[Piece], rate: float) -> Piece:
    """Means weighted by their beats; pieces that are unlike most others are left out, and leads that most lack."""
    beats, given = (np.stack([getattr(piece, name) for piece in pieces]) for name in ("beats", "given"))
    used = np.array([piece.used for piece in pieces])
    like = _like_most(beats * given[:, :, None], given, used, beat_part(COMPARED_S, rate).numpy())
    left_out = np.sum([piece.left_out for piece in pieces], axis=0)
    left_out[2] += used[~like].sum()
    weight = (used * like)[:, None] * given  # (pieces, 12)
    total = weight.sum(axis=0)
    has = total >= max(1, 0.5 * total.max())
    share = np.where(has, weight / np.maximum(total, 1), 0.0)
    delays = [piece.delays for piece in pieces if len(piece.delays)]
    common = np.median([np.median(found) for found in delays]) if delays else np.nan
    delays = [found for found in delays if abs(np.median(found) - common) < 0.1]  # else one beat off
    return Piece(
        np.einsum("pi,pil->il", share, beats), has.astype(float), int((used * like).sum()),
        sum(piece.found for piece in pieces), left_out, np.concatenate([piece.intervals for piece in pieces]),
        np.einsum("pi,pi->i", share, np.stack([piece.noise_mv for piece in pieces])),
        np.concatenate([*delays, np.zeros(0)]), sum(piece.n_pulses for piece in pieces),
        [value for piece in pieces for value in piece.quality],
    )  # fmt: skip


def _like_most(beats: np.ndarray, given: np.ndarray, used: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Which pieces have the beat that most beats agree with, in the leads that both have; bool (pieces,)."""
    shapes = beats[..., part] - beats[..., part].mean(axis=-1, keepdims=True)  # (pieces, 12, M), 0 where not given
    dot = np.einsum("pim,qim->pq", shapes, shapes)
    power = np.einsum("pim,qi->pq", shapes**2, given)  # of p, in the leads that q has too
    agree = dot / np.sqrt(np.maximum(power * power.T, 1e-12)) > LEAST_CORRELATION
    return (used > 0) & agree[np.argmax((agree * used).sum(axis=1))]
