"""The beats of a reference, laid where the pulses of another recording say that the heart beats.

T wave and P wave follow the rate: QT as Fridericia has it, PR by 54 ms per second of RR (J Electrocardiol
2008, doi 10.1016/j.jelectrocard.2008.06.022: .054 +- .032 s/s in women, .055 +- .031 in men).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from p2es_lib.core.leads import PROJECTION
from p2es_lib.core.reference import BEFORE_S, Reference
from p2es_lib.reference.mean_beat import beat_begins, interpolate, mean_beats

#: Pulses added before the first (negative) and after the last one, in intervals: R comes before its pulse.
ADDED_PULSES = (-1, 1, 2)
#: One beat fades into the next over so long, s.
CROSSFADE_S = 0.04
#: End of QRS and beginning of P, from R, s; QT at an RR interval of 1 s, from R; PR and its change per second of RR.
J_S, P_END_S, QT_AT_1S, PR_S, PR_SLOPE = 0.06, -0.06, 0.36, 0.16, 0.054


def expected_beats(upstrokes: Tensor) -> tuple[Tensor, Tensor]:
    """Pulse times (N, J + 3), ascending, with those outside the window, padded with inf, and the median interval (N,).

    ``upstrokes`` (N, J), NaN-padded. With fewer than two of them there are none, and the interval is 1 s.
    """
    found = torch.where(upstrokes.isfinite(), upstrokes, torch.inf).sort(dim=1).values
    median = median_interval(found)
    last = torch.where(found.isfinite(), found, -torch.inf).amax(dim=1)
    outside = [(found[:, 0] if step < 0 else last) + step * median for step in ADDED_PULSES]
    pulses = torch.cat([found, torch.stack(outside, dim=1)], dim=1)
    pulses = torch.where(median.isfinite()[:, None], pulses.nan_to_num(torch.inf, posinf=torch.inf), torch.inf)
    return pulses.sort(dim=1).values, torch.nan_to_num(median, nan=1.0)


def place_beats(beats: Tensor, rr_s: Tensor, r_times: Tensor, interval_s: Tensor, n: int, rate: float) -> Tensor:
    """ECG (N, 12, n) of one beat (N, 12, L) of RR interval ``rr_s`` (N,) at R times (N, K), inf-padded.

    ``interval_s`` (N,): the usual RR interval there, which sets QT and PR. Without any R time it is 0.
    """
    t = (torch.arange(n, device=beats.device) / rate).expand(len(beats), -1).contiguous()
    begins = beat_begins(r_times).contiguous()
    own = torch.searchsorted(begins, t, right=True) - 1
    edge = torch.full_like(begins[:, :1], torch.inf)

    def since(which: Tensor, times: Tensor) -> Tensor:
        """Seconds from a beat's time; -inf and inf before the first beat and after the last one."""
        return t - torch.cat([-edge, times, edge], dim=1).gather(1, which + 1)

    to_begin, to_end = since(own, begins), -since(own + 1, begins)  # from 0 up; inf where there is no neighbour
    previous = to_begin < to_end
    other = torch.where(previous, own - 1, own + 1).clamp(-1, begins.shape[1])
    weight = (0.5 - torch.minimum(to_begin, to_end) / CROSSFADE_S).clamp(0, 0.5)

    def look_up(which: Tensor) -> Tensor:
        seconds = _in_reference(since(which, r_times), rr_s[:, None], interval_s[:, None])
        values = interpolate(beats, torch.nan_to_num((seconds + BEFORE_S) * rate, posinf=1e6, neginf=-1e6))
        return torch.where(seconds.isfinite()[:, None], values, 0.0)

    other_weight = torch.where(since(other, r_times).isfinite(), weight, 0.0)[:, None]
    placed = (1 - other_weight) * look_up(own) + other_weight * look_up(other)
    return torch.where(r_times[:, :1, None].isfinite(), placed, 0.0)


def repeat_in_beats(values: Tensor, r_times: Tensor, rate: float) -> Tensor:
    """``values`` (N, C, T) of one beat at the R times (N, J), inf-padded: the same so long before or after each R.

    White noise stays white within a beat, since no value is interpolated: times from R are rounded to whole samples.
    Rows without an R time are left as they are.
    """
    n = values.shape[-1]
    _, own = _own_beats(r_times, n, rate)
    # Rounded once per beat: an R half way between two samples would else have some values twice.
    late = ((BEFORE_S - r_times) * rate).round().nan_to_num(0.0, neginf=0.0).long()
    index = (torch.arange(n, device=values.device) + late.gather(1, own)) % n
    return values.gather(2, index[:, None].expand_as(values))


def _own_beats(r_times: Tensor, n: int, rate: float) -> tuple[Tensor, Tensor]:
    """Times of ``n`` samples, s, and the number of the beat that each belongs to, both (N, n); before the first: it."""
    t = (torch.arange(n, device=r_times.device) / rate).expand(len(r_times), -1).contiguous()
    own = torch.searchsorted(beat_begins(r_times).contiguous(), t, right=True) - 1
    return t, own.clamp_min(0)


def as_one_beat(ecg: Tensor, given: Tensor, r_times: Tensor, rate: float, person: Reference | None = None) -> Tensor:
    """ECG (N, 12, T) in which the beats at ``r_times`` (N, J) that are alike are one; others stay as they are.

    That one is their mean, or that of ``person``; premature and broad beats are not like it. ``given`` (N, 12): leads
    that there are.
    """
    beats, found = mean_beats(ecg, given, r_times, rate)
    if person is None:
        interval, unknown = median_interval(r_times).nan_to_num(1.0), r_times.new_full((len(ecg),), torch.nan)
        person = Reference(beats, given, interval, unknown, unknown)
    placed = place_reference(person, r_times, ecg.shape[-1], rate)
    # A beat that is cut off by the window cannot be compared, and is as the others are.
    alike = (found.kept | ~found.whole) & found.kept.any(dim=1, keepdim=True)
    own = _own_beats(r_times, ecg.shape[-1], rate)[1]
    share = alike.float().gather(1, own)[:, None]
    reach = round(CROSSFADE_S * rate) // 2
    share = F.avg_pool1d(F.pad(share, (reach, reach), mode="replicate"), 2 * reach + 1, stride=1)
    return torch.lerp(ecg, placed, share)


def _in_reference(seconds: Tensor, rr_reference: Tensor, rr_now: Tensor) -> Tensor:
    """Which time from R in the reference shows what a time from R shows now: QRS as it is, T and P by the rate."""
    after = [QT_AT_1S * rr.clamp(0.25, 2.0) ** (1 / 3) - J_S for rr in (rr_reference, rr_now)]
    before = [PR_S + PR_SLOPE * (rr.clamp(0.25, 2.0) - 1) + P_END_S for rr in (rr_reference, rr_now)]
    late = J_S + (seconds - J_S) * after[0] / after[1]
    early = P_END_S + (seconds - P_END_S) * before[0] / before[1]
    return torch.where(seconds > J_S, late, torch.where(seconds < P_END_S, early, seconds))


def complete_leads(ecg: Tensor, given: Tensor) -> Tensor:
    """ECG (N, 12, T) in the consistent subspace that shows the given leads (N, 12) and is else as small as can be."""
    matrix = torch.as_tensor(PROJECTION, dtype=ecg.dtype, device=ecg.device)  # orthogonal: the norm is that of all 12
    with torch.autocast(ecg.device.type, enabled=False):
        rows = torch.diag_embed(given.to(ecg.dtype)) @ matrix  # (N, 12, 12); rows of absent leads are 0
        return torch.einsum("ij,njk,nkt->nit", matrix, torch.linalg.pinv(rows), ecg * given[:, :, None])


def place_reference(reference: Reference, r_times: Tensor, n: int, rate: float) -> Tensor:
    """The reference at the R times (N, J), s, of ``n`` samples of another recording, (N, 12, n) mV; no reference: 0."""
    interval = median_interval(r_times).nan_to_num(1.0)
    placed = place_beats(reference.beats, reference.rr_s, r_times, interval, n, rate)
    return complete_leads(placed, reference.given)


def median_interval(times: Tensor) -> Tensor:
    """Median interval of event times (N, J), ascending and padded with inf or NaN, (N,) s; NaN with fewer than two."""
    if times.shape[1] < 2:
        return times.new_full((len(times),), torch.nan)
    intervals = torch.diff(times, dim=1)
    return torch.where(intervals.isfinite(), intervals, torch.nan).nanmedian(dim=1).values
