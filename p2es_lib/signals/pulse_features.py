"""Beat-phase features of a PPG window: what the network gets beside the waveform.

A convolution finds it hard to say how far a sample lies from the last and the next pulse, yet that is what places P
wave, QRS and T wave. So the upstrokes (steepest points) of the pulses are detected here and turned into channels. All
operations are batched; none of them depends on the offset or the gain of the PPG.

The detector is the classical one: maxima of the smoothed first derivative above an adaptive threshold, with a
refractory period. Its smoothing (Gaussian, SD 30 ms), threshold (0.18 of the typical upstroke: low enough for the weak
pulse of a premature beat, at the price of false upstrokes in strong noise) and refractory period (0.28 s; 0.23 s where
the heart beats faster than 194 times a minute, for which a pulse that comes a little early would else be lost) are
choices of this project, tested on simulated and real recordings.

References
----------
Elgendi M. On the analysis of fingertip photoplethysmogram signals. Curr Cardiol Rev 8:14, 2012.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from p2es_lib.core.errors import InputError

#: Channels of :func:`pulse_features`, in order.
FEATURES = ("ppg", "slope", "upstroke", "sin_phase", "cos_phase", "since_s", "until_s", "log_period")
N_FEATURES = len(FEATURES)

_SMOOTHING_S, _REFRACTORY_S, _THRESHOLD = 0.03, 0.28, 0.18
#: Refractory period of a fast heart, s: where the median interval is then shorter than the second number, and three of
#: four rises are steeper than this share of the typical one.
_FAST_REFRACTORY_S, _FAST_S, _ALIKE = 0.23, 0.31, 0.6
_BLOCK_S, _BLOCK_STEP_S = 1.5, 0.25
_BUMP_SD_S, _MAX_TIME_S, _TYPICAL_PERIOD_S = 0.03, 2.0, 0.8


def _standardise(ppg: Tensor, sampling_rate: float) -> Tensor:
    """(B, 1, T) of any scale, checked, to (B, T) float32 with zero mean and unit variance; a flat row becomes zeros."""
    if ppg.ndim != 3 or ppg.shape[1] != 1:
        raise InputError(f"PPG of shape {tuple(ppg.shape)}: expected (B, 1, T)")
    if not 20 <= sampling_rate <= 5000:
        raise InputError(f"sampling_rate={sampling_rate}: between 20 and 5000 Hz")
    if ppg.shape[-1] < sampling_rate:
        raise InputError(f"PPG windows of {ppg.shape[-1]} samples at {sampling_rate} Hz: at least one second is needed")
    ppg = ppg.squeeze(1).float()
    ppg = ppg - ppg.mean(-1, keepdim=True)
    sd = ppg.std(-1, correction=0, keepdim=True)
    return torch.where(sd > 0, ppg / sd.clamp_min(torch.finfo(torch.float32).tiny), torch.zeros_like(ppg))


def _smooth_slope(ppg: Tensor, sampling_rate: float) -> Tensor:
    """Slope (1/s) of the smoothed PPG, (B, T) to (B, T); tap by tap, so that no row depends on its batch."""
    n = ppg.shape[-1]
    reach = max(1, round(3.2 * _SMOOTHING_S * sampling_rate))
    taps = torch.arange(1, reach + 1, dtype=torch.float64) / sampling_rate
    weights = taps * torch.exp(-0.5 * (taps / _SMOOTHING_S) ** 2)
    weights = (weights / (2 * (weights * taps).sum())).tolist()  # a straight line of slope 1 gives 1
    padded = F.pad(ppg.unsqueeze(1), (reach, reach), mode="replicate").squeeze(1)
    slope = torch.zeros_like(ppg)
    for tap, weight in enumerate(weights, start=1):
        slope.add_(padded[:, reach + tap : reach + tap + n] - padded[:, reach - tap : reach - tap + n], alpha=weight)
    return slope


def _detect(slope: Tensor, sampling_rate: float) -> tuple[Tensor, Tensor]:
    """Upstroke times (B, K), ascending, padded with inf, and the window's typical steepest slope (B, 1).

    It is the median over blocks, which a burst of artefacts in less than half of the window does not move.
    """
    n = slope.shape[-1]
    block = min(n, round(_BLOCK_S * sampling_rate))
    blocks = F.max_pool1d(slope.unsqueeze(1), block, max(1, round(_BLOCK_STEP_S * sampling_rate))).squeeze(1)
    typical = blocks.median(dim=-1, keepdim=True).values.clamp_min(0)
    most = min(n, n // max(2, round(_REFRACTORY_S * sampling_rate)) + 1)
    place, closer = (
        _peaks(slope, typical, most, apart * sampling_rate) for apart in (_REFRACTORY_S, _FAST_REFRACTORY_S)
    )
    # Dicrotic waves come as close, but are less steep than every other rise.
    steepness = torch.where(closer < n, slope.gather(1, closer.clamp_max(n - 1)), torch.nan)
    interval = torch.diff(torch.where(closer < n, closer.to(slope.dtype), torch.nan), dim=-1).nanmedian(dim=-1).values
    is_fast = (interval < _FAST_S * sampling_rate) & (steepness.nanquantile(0.25, dim=-1) > _ALIKE * typical[:, 0])
    place = torch.where(is_fast[:, None], closer, place)
    # Parabola through the peak and its neighbours.
    middle = place.clamp(1, n - 2)
    before, at, after = (slope.gather(1, middle + shift) for shift in (-1, 0, 1))
    curvature = before - 2 * at + after
    shift = torch.where(curvature < 0, 0.5 * (before - after) / curvature, 0.0).clamp(-0.5, 0.5)
    return torch.where(place < n, (place + shift) / sampling_rate, torch.inf), typical


def _peaks(slope: Tensor, typical: Tensor, most: int, apart: float) -> Tensor:
    """The first ``most`` maxima (B, most) of slopes (B, T) that are so many samples apart, ascending; padded with T."""
    n = slope.shape[-1]
    reach = max(1, round(apart) - 1)
    highest = F.max_pool1d(slope.unsqueeze(1), 2 * reach + 1, stride=1, padding=reach).squeeze(1)
    is_peak = (slope == highest) & (slope > _THRESHOLD * typical)
    is_peak[:, 0] = is_peak[:, -1] = False
    is_peak[:, 1:] &= slope[:, 1:] > slope[:, :-1]  # of equal neighbours the first counts
    sample = torch.arange(n, device=slope.device).expand_as(slope)
    return torch.where(is_peak, sample, n).topk(most, dim=-1, largest=False, sorted=True).values


@torch.no_grad()
def pulse_upstrokes(ppg: Tensor, sampling_rate: float) -> Tensor:
    """Times (B, K) of the steepest point of each pulse of PPG windows (B, 1, T) of any offset and gain, pulses upward.

    Seconds from the first sample, ascending, padded with NaN; K is the largest number of upstrokes that T samples can
    hold. An InputError is raised for a wrong shape or rate, and for windows shorter than a second.
    """
    times, _ = _detect(_smooth_slope(_standardise(ppg, sampling_rate), sampling_rate), sampling_rate)
    return torch.where(times.isinf(), torch.nan, times)


@torch.no_grad()
def pulse_features(ppg: Tensor, sampling_rate: float, beat_times: Tensor | None = None) -> Tensor:
    """Channels that tell the network where in the beat each sample of PPG windows (B, 1, T) lies: float32 (B,
    N_FEATURES, T).

    ``beat_times`` (B, K): where the beats are, s, ascending and inf-padded, as R peaks; default: at the upstrokes.

    In the order of :data:`FEATURES`: the PPG with zero mean and unit variance; its smoothed derivative in units of the
    window's typical steepest slope; a Gaussian bump (SD 30 ms) at every upstroke; sine and cosine of the beat phase,
    which grows linearly from upstroke to upstroke; seconds since the last and until the next upstroke, cut at 2 s;
    logarithm of the beat period / 0.8 s. Before the first and after the last upstroke the phase goes on with the median
    period. With fewer than two upstrokes the phase, time and period channels are zero.
    """
    ppg = _standardise(ppg, sampling_rate)
    slope = _smooth_slope(ppg, sampling_rate)
    times, typical = _detect(slope, sampling_rate)  # (B, K), (B, 1)
    times = times if beat_times is None else beat_times.contiguous()
    slope = torch.where(typical > 0, slope / typical.clamp_min(1e-9), 0.0).clamp(-4, 4)
    t = (torch.arange(ppg.shape[-1], device=ppg.device) / sampling_rate).expand_as(ppg).contiguous()

    edge = torch.full_like(times[:, :1], torch.inf)
    last = torch.searchsorted(times, t, right=True)  # 0 before the first upstroke
    previous = torch.cat([-edge, times], dim=1).gather(1, last)  # -inf before the first
    following = torch.cat([times, edge], dim=1).gather(1, last)  # inf after the last
    upstroke = torch.exp(-0.5 * (torch.minimum(t - previous, following - t) / _BUMP_SD_S) ** 2)

    intervals = times[:, 1:] - times[:, :-1]  # inf or NaN in the padding
    has_phase = intervals[:, :1].isfinite()  # at least two upstrokes
    median = torch.where(intervals.isfinite(), intervals, torch.nan).nanmedian(dim=-1, keepdim=True).values
    median = torch.where(has_phase, median, _TYPICAL_PERIOD_S)
    inside = previous.isfinite() & following.isfinite()
    period = torch.where(inside, following - previous, median)
    anchor = torch.where(previous.isfinite(), previous, torch.where(following.isfinite(), following, 0.0))
    phase = (t - anchor) / period
    phase = phase - phase.floor()
    angle, log_period = 2 * math.pi * phase, torch.log(period / _TYPICAL_PERIOD_S).clamp(-1, 1)
    since, until = (phase * period).clamp_max(_MAX_TIME_S), ((1 - phase) * period).clamp_max(_MAX_TIME_S)
    channels = torch.stack([torch.sin(angle), torch.cos(angle), since, until, log_period], dim=1)
    channels = torch.where(has_phase.unsqueeze(1), channels, 0.0)
    return torch.cat([torch.stack([ppg, slope, upstroke], dim=1), channels], dim=1)
