"""From a recording with an ECG of any leads, and a pulse if there is one, to a reference.

Beats are found on the leads that are given, each sample of the ECG belongs to one beat, and the mean of a lead is taken
over the beats that are like most others: premature, broad and noisy ones are left out.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from p2es_lib.core.reference import BEFORE_S, Reference, beat_samples
from p2es_lib.signals.pulse_features import pulse_upstrokes
from p2es_lib.signals.r_peaks import r_peak_times

#: A beat's own time begins so long before its R, or at this share of the interval before it, if that is shorter.
SHARE_BEFORE = 0.42
#: Beats are compared in this part of their own time, s from R, QRS and the beginning of T, and must have so much of it:
#: a heart of more than 140 per minute has the next beat begin before its end.
COMPARED_S, QRS_S = (-0.06, 0.25), (-0.06, 0.12)
#: A time from R that a smaller share of the beats reaches is not averaged: at the end of the T wave of a fast heart
#: that would be the last beat of a recording alone, which no other one ends.
LEAST_REACHING = 0.25
#: Beats that correlate less than this with the median beat, over all given leads, are not like the others.
LEAST_CORRELATION = 0.8
#: Delays from R to the pulse that are searched, s (at the neck it is 0.1 already), their grid, and how far a single
#: beat's may lie from the common one.
DELAYS_S, DELAY_STEP_S, DELAY_REACH_S = (0.08, 0.70), 0.01, 0.06
#: So many beats with a pulse are needed for a delay.
LEAST_PULSES = 3


class Beats(NamedTuple):
    """Beats of N recordings: R times (N, K) s, padded with inf; which were kept, which whole, bool (N, K)."""

    r_times: Tensor
    kept: Tensor
    whole: Tensor


def beat_begins(r_times: Tensor) -> Tensor:
    """Where the own time of each beat begins, (N, K) s, for R times (N, K >= 2), ascending and padded with inf."""
    # The interval before the first one is taken to be as long as the one after it.
    interval = torch.diff(r_times, dim=1, prepend=2 * r_times[:, :1] - r_times[:, 1:2])
    before = torch.nan_to_num(SHARE_BEFORE * interval, nan=BEFORE_S, posinf=BEFORE_S).clamp(max=BEFORE_S)
    return r_times - before


def interpolate(signal: Tensor, position: Tensor) -> Tensor:
    """Values (N, C, M) of signals (N, C, L) at places (N, M) in samples, by Catmull-Rom; ends are held."""
    last = signal.shape[-1] - 1
    position = position.clamp(0, last)
    floor = position.floor().clamp(max=max(last - 1, 0))
    f, index = (position - floor)[:, None], floor.long()
    a, b, c, d = (_gather(signal, (index + shift).clamp(0, last)) for shift in (-1, 0, 1, 2))
    return b + 0.5 * f * (c - a + f * (2 * a - 5 * b + 4 * c - d + f * (3 * (b - c) + d - a)))


def _gather(signal: Tensor, index: Tensor) -> Tensor:
    return signal.gather(2, index[:, None].expand(-1, signal.shape[1], -1))


def cut_beats(ecg: Tensor, r_times: Tensor, sampling_rate: float) -> tuple[Tensor, Tensor]:
    """Beats (N, 12, K, L) of ECGs (N, 12, T) about R times (N, K), NaN outside of a beat's own time, bool (N, K, L)."""
    n, n_leads, n_samples = ecg.shape
    offsets, begins = beat_offsets(sampling_rate), beat_begins(r_times)
    ends = torch.cat([begins[:, 1:], begins.new_full((n, 1), torch.inf)], dim=1)
    # The last beat is as long as the one before it: what comes then may be a beat whose R lies outside.
    ends = torch.where(ends.isfinite(), ends, begins + torch.diff(begins, dim=1, prepend=begins[:, :1] - torch.inf))
    t = r_times[:, :, None] + offsets  # (N, K, L)
    own = (t >= begins[:, :, None]) & (t < ends[:, :, None]) & (t >= 0) & (t <= (n_samples - 1) / sampling_rate)
    places = torch.where(own, t * sampling_rate, 0.0).flatten(1)
    values = interpolate(ecg, places).reshape(n, n_leads, *own.shape[1:])
    return torch.where(own[:, None], values, torch.nan), own


def beat_offsets(sampling_rate: float) -> Tensor:
    """Times of the samples of a mean beat, s from R, (L,)."""
    return torch.arange(beat_samples(sampling_rate)) / sampling_rate - BEFORE_S


def beat_part(span_s: tuple[float, float], sampling_rate: float) -> Tensor:
    """Which samples of a mean beat lie in a span of time about R, s, such as :data:`COMPARED_S`; bool (L,)."""
    offsets = beat_offsets(sampling_rate)
    return (offsets > span_s[0]) & (offsets < span_s[1])


def mean_beats(
    ecg: Tensor, given: Tensor, r_times: Tensor, sampling_rate: float, usable: Tensor | None = None
) -> tuple[Tensor, Beats]:
    """Mean beats (N, 12, L) of ECGs (N, 12, T), mV, in the leads that are given (N, 12), and which beats made them.

    A time that few beats reach (:data:`LEAST_REACHING`) has the value of the nearest one that more do. ``usable``
    (N, K), bool: beats that may go into the mean, and that the others are compared with; default: all.
    """
    values, own = cut_beats(ecg, r_times, sampling_rate)
    part = beat_part(COMPARED_S, sampling_rate)
    whole = own[:, :, beat_part(QRS_S, sampling_rate)].all(dim=2)
    candidates = whole if usable is None else whole & usable
    kept = candidates & _alike(values[..., part], own[..., part], given, candidates)
    use = own & kept[:, :, None]
    total, count = torch.where(use[:, None], values, 0.0).sum(dim=2), use.sum(dim=1)
    mean, least = total / count[:, None].clamp_min(1), LEAST_REACHING * kept.sum(dim=1, keepdim=True)
    return _hold_ends(mean, (count > 0) & (count >= least)) * given[:, :, None], Beats(r_times, kept, whole)


def _alike(values: Tensor, own: Tensor, given: Tensor, whole: Tensor) -> Tensor:
    """Beats (N, K) that correlate with the median of the whole ones over all given leads; values (N, 12, K, M).

    Each beat in its own time (N, K, M).
    """
    median = torch.where(whole[:, None, :, None], values, torch.nan).nanmedian(dim=2).values
    mask = given[:, :, None, None] * own[:, None]
    x, y = (torch.nan_to_num(a) * mask for a in (values, median[:, :, None]))
    # Each lead about its own mean: wander moves the line under a beat, and makes no other beat of it.
    count = own.sum(-1)[:, None, :, None].clamp_min(1)
    x, y = ((a - a.sum(-1, keepdim=True) / count) * mask for a in (x, y))
    dot, power_x, power_y = ((a * b).sum(dim=(1, 3)) for a, b in ((x, y), (x, x), (y, y)))
    size = (power_x / power_y.clamp_min(1e-12)).sqrt()
    return (dot / (power_x * power_y).clamp_min(1e-12).sqrt() > LEAST_CORRELATION) & (size > 0.5) & (size < 2.0)


def _hold_ends(beats: Tensor, covered: Tensor) -> Tensor:
    """Beats (N, 12, L) with the nearest covered value where none is, covered (N, L) being one stretch."""
    position = torch.arange(covered.shape[1])
    first = torch.where(covered, position, covered.shape[1]).amin(dim=1, keepdim=True)
    last = torch.where(covered, position, -1).amax(dim=1, keepdim=True)
    nearest = torch.maximum(torch.minimum(position.expand_as(covered), last), first).clamp(0, covered.shape[1] - 1)
    return torch.where(covered.any(dim=1)[:, None, None], _gather(beats, nearest), 0.0)


def pulse_delay(r_times: Tensor, upstrokes: Tensor) -> tuple[Tensor, Tensor]:
    """Delay from R to the steepest point of the pulse and its spread between beats (SD), (N,) s each; NaN: not found.

    Of the delays in :data:`DELAYS_S` the one that most pairs of R times (N, K) and upstrokes (N, J) share, the smaller
    one of two that are about as common: a regular heart shows every delay again one beat later. Both are padded with
    inf or NaN.
    """
    matched = pulse_delays(r_times, upstrokes)
    delay = matched.nanmedian(dim=1).values
    return delay, 1.4826 * (matched - delay[:, None]).abs().nanmedian(dim=1).values


def pulse_delays(r_times: Tensor, upstrokes: Tensor) -> Tensor:
    """Of all pairs of upstrokes and R times, as of :func:`pulse_delay`, the delays near the common one, (N, J K) s.

    NaN: other pairs, and all of a row with fewer than :data:`LEAST_PULSES`.
    """
    difference = (upstrokes[:, :, None] - r_times[:, None, :]).flatten(1)  # (N, J K)
    grid = torch.arange(*DELAYS_S, DELAY_STEP_S, device=difference.device)
    distance = difference[:, :, None] - grid
    votes = torch.exp(-0.5 * (distance / 0.03) ** 2).nan_to_num(0.0).sum(dim=1)  # (N, G)
    first = (votes >= 0.9 * votes.amax(dim=1, keepdim=True)).float().argmax(dim=1)
    # Up the hill from there: nine tenths of the votes lie a little before its top.
    hill = torch.where((grid - grid[first][:, None]).abs() <= DELAY_REACH_S, votes, -1.0)
    near = (difference - grid[hill.argmax(dim=1)][:, None]).abs() <= DELAY_REACH_S
    matched = torch.where(near, difference, torch.nan)
    return torch.where(near.sum(dim=1, keepdim=True) >= LEAST_PULSES, matched, torch.nan)


def find_r(ecg: Tensor, given: Tensor, sampling_rate: float) -> Tensor:
    """R times (N, K) s, padded with inf, of ECGs (N, 12, T) on the leads that are given (N, 12)."""
    times = r_peak_times(ecg.numpy(), sampling_rate, given.numpy() > 0)
    times = np.pad(times, ((0, 0), (0, 2)), constant_values=np.nan)  # two columns at least
    return torch.as_tensor(np.where(np.isnan(times), np.inf, times), dtype=torch.float32)


def make_references(
    ecg: Tensor, given: Tensor, sampling_rate: float, *, ppg: Tensor | None = None, elapsed_s: Tensor | None = None
) -> Reference:
    """References of N recordings of equal length: ECG (N, 12, T) mV, given leads (N, 12), PPG (N, 1, T) upright.

    A recording in which fewer than two beats are alike becomes no reference (``given`` all 0).
    """
    r_times = find_r(ecg, given, sampling_rate)
    beats, found = mean_beats(ecg, given, r_times, sampling_rate)
    enough = found.kept.sum(dim=1) >= 2
    interval = torch.diff(r_times, dim=1)
    rr = torch.where(interval.isfinite(), interval, torch.nan).nanmedian(dim=1).values
    unknown = torch.full((len(ecg),), torch.nan)
    delay, spread = (unknown, unknown) if ppg is None else pulse_delay(r_times, pulse_upstrokes(ppg, sampling_rate))
    elapsed = unknown if elapsed_s is None else elapsed_s
    return Reference(
        beats * enough[:, None, None], given * enough[:, None], torch.nan_to_num(rr, nan=1.0),
        torch.where(enough, delay, torch.nan), elapsed, torch.where(enough, spread, torch.nan),
    )  # fmt: skip


def average(references: Reference) -> Reference:
    """One reference (1) of several of one person (N): means over those that have the lead, median delay.

    Its delay varies within the single ones and between them.
    """
    count = references.given.sum(dim=0)
    used = references.given.any(dim=1)
    beats = references.beats.sum(dim=0) / count[:, None].clamp_min(1)
    rr = references.rr_s[used].mean() if used.any() else torch.tensor(1.0)
    delay, elapsed = (torch.nanmedian(part) for part in (references.delay_s, references.elapsed_s))
    between = references.delay_s[references.delay_s.isfinite()]
    within = torch.nanmean(references.delay_sd_s**2)
    spread = torch.sqrt(within + (between.var(correction=0) if len(between) else torch.nan))
    return Reference(beats[None], (count > 0).float()[None], rr[None], delay[None], elapsed[None], spread[None])
