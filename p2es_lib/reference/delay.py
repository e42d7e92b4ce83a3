"""When the heart beat: what the pulse wave, age, sex and a reference say of the delay from R to each pulse, how surely.

The delay of a beat has three parts, each with a spread of its own: one that the whole recording shares, one that
follows from the beat itself (the intervals before it, the shape of its upstroke), and jitter. A network of some ten
thousand weights learns all of it from windows whose R peaks are known. Without a reference it reads the common delay
from the pulse, age and sex; with one it starts from the delay that was seen then, and how far that has moved since is
learned from pairs of windows of one session and of different ones. Each sample of a translation has a common delay and
jitter of its own, drawn from these distributions.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from p2es_lib.core.demographics import FEATURES as DEMOGRAPHIC_FEATURES
from p2es_lib.core.reference import Reference
from p2es_lib.reference.mean_beat import DELAY_REACH_S, interpolate, pulse_delay
from p2es_lib.reference.placement import expected_beats
from p2es_lib.signals.pulse_features import pulse_features, pulse_upstrokes

#: Delay and its standard deviation at the start of training, s.
USUAL_S, USUAL_SD_S = 0.25, 0.02
#: Jitter of a beat, and of one that is expected outside the window, at the start of training, s.
JITTER_SD_S, OUTSIDE_SD_S = 0.004, 0.04
#: Limits of all standard deviations, s; an error beyond so many of them counts linearly.
SD_LIMITS_S, FAR = (0.001, 0.15), 4.0
#: Of a beat expected outside the window R may lie so far from where it is expected, s.
OUTSIDE_REACH_S = 0.25
#: Upstroke that the part of each beat is read from, s around its steepest point; intervals before it, and after.
UPSTROKE_S, UPSTROKE_STEP_S, BEFORE, AFTER = 0.2, 0.016, 3, 1
#: Delays of arteries alone lie so near the usual one, and typical ones there, in units of 0.1 s.
ARTERIES, TYPICAL = 1.0, -0.28
_REFERENCE_FEATURES = 4


class Timing(NamedTuple):
    """Pulses of B windows and the delays from R to them; times in s.

    ``pulses`` (B, J), ascending, with those expected outside the window, padded with inf; ``seen`` (B, J), which were
    seen; ``interval`` (B,), the median one. ``delay``, ``delay_sd`` (B,): common to all beats; ``shift`` (B, J): what
    each beat's own delay is expected to differ by; ``jitter_sd`` (B, J): spread of what is left.
    """

    pulses: Tensor
    seen: Tensor
    interval: Tensor
    delay: Tensor
    delay_sd: Tensor
    shift: Tensor
    jitter_sd: Tensor

    def repeat_interleave(self, count: int) -> "Timing":
        """Each row ``count`` times, side by side."""
        return Timing(*(part.repeat_interleave(count, 0) for part in self))

    def r_times(self, delay_s: Tensor, jitter: Tensor | None = None) -> Tensor:
        """R times (B, J), ascending, at these common delays (B,); ``jitter`` standard normal (B, J)."""
        late = delay_s[:, None] + self.shift
        if jitter is not None:
            late = late + self.jitter_sd * jitter.clamp(-3, 3)
        return (self.pulses - late).sort(dim=1).values


class PulseDelay(nn.Module):
    """The delays of PPG windows, see :class:`Timing`."""

    def __init__(self, n_ppg_features: int, sampling_rate: float, width: int = 24):
        super().__init__()
        self.rate = sampling_rate
        self.wave = nn.Sequential(
            nn.Conv1d(n_ppg_features, width, 9, stride=4, padding=4), nn.GELU(),
            nn.Conv1d(width, width, 9, stride=4, padding=4), nn.GELU(),
        )  # fmt: skip
        self.hidden = nn.Linear(2 * width + len(DEMOGRAPHIC_FEATURES) + _REFERENCE_FEATURES, 64)
        self.output = nn.Linear(64, 4)
        offsets = torch.arange(-UPSTROKE_S, UPSTROKE_S + UPSTROKE_STEP_S / 2, UPSTROKE_STEP_S)
        self.register_buffer("offsets", offsets, persistent=False)
        self.of_beat = nn.Sequential(nn.Linear(2 * len(offsets) + BEFORE + AFTER + 1 + 64, 64), nn.GELU())
        self.beat_output = nn.Linear(64, 2)  # expected difference; logarithm of its spread
        for last in (self.output, self.beat_output):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, ppg: Tensor, demographics: Tensor, seen: Tensor) -> Timing:
        """From ``ppg`` (B, 1, T) scaled, ``demographics`` (B, 4) and ``seen`` (B, 4) of :func:`seen_before`."""
        features = pulse_features(ppg, self.rate)
        h = self.wave(features)
        pooled = torch.cat([h.mean(-1), h.square().mean(-1)], dim=1)
        # A delay beyond what arteries take is the monitor's: it moves the beats, and says nothing of the person.
        of_arteries = torch.where(seen[:, 1:2].abs() < ARTERIES, seen[:, 1:2], TYPICAL)
        plausible = torch.cat([seen[:, :1], of_arteries, seen[:, 2:]], dim=1)
        context = F.gelu(self.hidden(torch.cat([pooled, demographics, plausible], dim=1)))
        delay, of_delay, of_jitter, of_outside = self.output(context).float().unbind(1)
        known, before, same = seen[:, 0] > 0, seen[:, 1] * 0.1 + USUAL_S, seen[:, 2] > 0
        # How sure one is at the start: of a delay just seen, of one seen another day, of none.
        sd = torch.where(known, torch.where(same, 0.004, 0.012), USUAL_SD_S)
        upstrokes = pulse_upstrokes(ppg, self.rate)
        pulses, interval = expected_beats(upstrokes)
        upstrokes = upstrokes.nan_to_num(torch.inf)
        first = upstrokes.amin(dim=1, keepdim=True)
        last = torch.where(upstrokes.isfinite(), upstrokes, -torch.inf).amax(dim=1, keepdim=True)
        is_seen = (pulses >= first) & (pulses <= last)
        beats = self._beats(features, pulses, interval, context)
        shift, of_beat = self.beat_output(self.of_beat(beats)).float().unbind(2)
        jitter_sd = torch.where(
            is_seen, JITTER_SD_S * (of_jitter[:, None] + of_beat).exp(), OUTSIDE_SD_S * of_outside.exp()[:, None]
        )
        return Timing(
            pulses, is_seen, interval, torch.where(known, before, USUAL_S) + 0.05 * delay,
            (sd * of_delay.exp()).clamp(*SD_LIMITS_S), torch.where(is_seen, 0.02 * shift, 0.0),
            jitter_sd.clamp(*SD_LIMITS_S),
        )  # fmt: skip

    def _beats(self, features: Tensor, pulses: Tensor, interval: Tensor, context: Tensor) -> Tensor:
        """What each beat's own delay is read from, (B, J, C): its upstroke, the intervals around it, the window."""
        at = torch.where(pulses.isfinite(), pulses, 0.0)[:, :, None] + self.offsets
        upstroke = interpolate(features[:, :2], (at * self.rate).flatten(1)).unflatten(2, at.shape[1:])  # (B, 2, J, M)
        intervals = torch.diff(torch.where(pulses.isfinite(), pulses, torch.nan), dim=1) / interval[:, None] - 1
        around = F.pad(intervals.nan_to_num(0.0).clamp(-0.5, 0.5), (BEFORE, AFTER)).unfold(1, BEFORE + AFTER, 1)
        rate = torch.log(interval / 0.8)[:, None, None].expand(-1, pulses.shape[1], 1)
        shared = context[:, None].expand(-1, pulses.shape[1], -1)
        return torch.cat([*upstroke.unbind(1), 5 * around, rate, shared], dim=2)


def known_r_times(timing: Timing, r_times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """R times (B, J) of the pulses where they are known, for training; the common delay (B,); errors.

    ``r_times`` (B, K), inf-padded, are those of the ECG. A pulse whose R is not found within reach is given the one
    that is expected; a common delay that is not found is NaN. The errors (B, J), s, are the differences to the expected
    delays, NaN where R was not found.
    """
    upstrokes = torch.where(timing.seen, timing.pulses, torch.nan)
    delay, _ = pulse_delay(r_times, upstrokes)
    common = torch.where(delay.isfinite(), delay, timing.delay)
    expected = timing.pulses - common[:, None] - timing.shift
    distance = (expected[:, :, None] - r_times[:, None]).nan_to_num(torch.inf, posinf=torch.inf, neginf=-torch.inf)
    nearest = distance.abs().argmin(dim=2, keepdim=True)
    error = distance.gather(2, nearest)[..., 0]  # > 0: R came earlier than expected, the delay is longer
    reach = torch.where(timing.seen, DELAY_REACH_S, OUTSIDE_REACH_S)
    found = (error.abs() <= reach) & delay.isfinite()[:, None]
    # Two pulses cannot share one R peak: the one that is nearer has it.
    rival = found[:, :, None] & found[:, None] & (nearest == nearest.transpose(1, 2))
    found = found & ~(rival & (error.abs()[:, None] < error.abs()[:, :, None])).any(dim=2)
    placed = torch.where(found, expected - error, expected).sort(dim=1).values
    return placed, delay, torch.where(found, error, torch.nan)


def timing_loss(timing: Timing, delay: Tensor, errors: Tensor) -> Tensor:
    """Gaussian negative log-likelihood of the common delays (B,) and of the errors of single beats (B, J); a scalar.

    NaN counts for nothing. Beyond :data:`FAR` standard deviations the loss is linear: a wrong match must not decide.
    """
    return _likelihood(timing.delay - delay, timing.delay_sd) + _likelihood(errors, timing.jitter_sd)


def _likelihood(error: Tensor, sd: Tensor) -> Tensor:
    found = error.isfinite()
    z = torch.where(found, error, 0.0).abs() / sd
    squared = torch.where(z < FAR, 0.5 * z**2, FAR * z - 0.5 * FAR**2)
    return ((squared + sd.log()) * found).sum() / found.sum().clamp_min(1)


def seen_before(reference: Reference) -> Tensor:
    """What a reference says of the delay, (B, 4): whether it was seen, it, whether in this session, share of leads."""
    known = reference.delay_s.isfinite()
    delay = (torch.where(known, reference.delay_s, USUAL_S) - USUAL_S) / 0.1
    same = reference.same_session
    return torch.stack([known.float(), delay, (known & same).float(), reference.given.mean(dim=1)], dim=1)
