"""What a method makes of PPG and reference, the same for each: where the beats lie, pulses and beats laid there.

The PPG is shown to a network as if its pulses took the usual delay, the reference's beats are laid under them, and the
network's estimate is these beats plus what it adds, in units of what they leave open. Without a reference nothing is
laid down, and the estimate is the network's alone. In training the beats lie where they were; in translation each
sample has delays of its own, and an estimate of the mean is averaged over them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from p2es_lib.core.learned import Batch
from p2es_lib.core.noise import WindowNoise
from p2es_lib.core.reference import Reference
from p2es_lib.reference.delay import SD_LIMITS_S, USUAL_S, PulseDelay, Timing, known_r_times, seen_before, timing_loss
from p2es_lib.reference.mean_beat import interpolate
from p2es_lib.reference.placement import place_reference

#: Weight of the delay's negative log-likelihood: small, so that its gradients, of its own weights, clip no others.
DELAY_WEIGHT = 0.05
#: How much the delay varies within a recording of a finger at rest, s (SD); the network has learned that much.
USUAL_SPREAD_S = 0.006
#: Delays over which an estimate of the mean is averaged, in standard deviations: an ECG at one would be too sharp. (The
#: middles of four equal shares of the normal distribution. Another delay moves the ECG as a whole: one call will do.)
DIRECT_DELAYS = (-1.15, -0.32, 0.32, 1.15)
#: Variance of what a reference leaves open, in units of the data set's: of a limb lead with none, one, or two and more
#: limb leads given, and of a chest lead that is not given and one that is (simulated, pasted reference).
LIMB_VARIANCE, CHEST_VARIANCE = (1.1, 0.2, 0.02), (0.9, 0.05)


class Places(NamedTuple):
    """Where the beats of B windows lie, (B, J) s, ascending, and how long their pulses take, (B,) s."""

    r_times: Tensor
    delay_s: Tensor


class PulseConditioning(PulseDelay):
    """The delays of PPG windows, and what is laid at them."""

    def timing(self, ppg: Tensor, demographics: Tensor, reference: Reference) -> Timing:
        """Where the beats are expected, and how surely; ``ppg`` (B, 1, T) scaled.

        A delay that varied in the reference more than usual varies now: with some monitors it wanders by 15 ms.
        """
        timing = self(ppg, demographics, seen_before(reference))
        more = (reference.delay_sd_s**2 - USUAL_SPREAD_S**2).nan_to_num(0.0).clamp_min(0.0)
        return timing._replace(delay_sd=(timing.delay_sd**2 + more).sqrt().clamp(*SD_LIMITS_S))

    def known(self, batch: Batch) -> tuple[Places, Tensor]:
        """Where the beats of a training batch were, so far as there are pulses for them, and the loss of the delays."""
        timing = self.timing(batch.ppg, batch.demographics, batch.reference)
        r_times, common, errors = known_r_times(timing, batch.r_times)
        delay_s = torch.where(common.isfinite(), common, timing.delay.detach())
        # What it would say without a reference it learns from all windows, not from the few that have none.
        blind = self(batch.ppg, batch.demographics, torch.zeros_like(seen_before(batch.reference)))
        loss = timing_loss(timing, common, errors) + timing_loss(blind, *known_r_times(blind, batch.r_times)[1:])
        return Places(r_times.detach(), delay_s), loss / 2

    def lay(self, ppg: Tensor, reference: Reference, r_times: Tensor, delay_s: Tensor | None) -> tuple[Tensor, Tensor]:
        """PPG (B, 1, T) as if its pulses took the usual delay (None: they do); beats of the reference (B, 12, T), mV.

        What a monitor adds to the delay says nothing of the heart.
        """
        late = torch.zeros_like(r_times[:, 0]) if delay_s is None else delay_s - USUAL_S
        places = torch.arange(ppg.shape[-1], device=ppg.device) + late[:, None] * self.rate
        with torch.no_grad():
            base = place_reference(reference, r_times, ppg.shape[-1], self.rate)
        return interpolate(ppg, places), base


def expected_places(timing: Timing) -> Places:
    """Where the beats are expected."""
    return Places(timing.r_times(timing.delay), timing.delay)


def drawn_places(timing: Timing, noise: WindowNoise) -> Places:
    """Delays of each sample, drawn for it alone: so the truth is exchangeable with all of them. A row per sample.

    The common delay belongs to the recording, what single beats differ by to the window.
    """
    timing = timing.repeat_interleave(noise.n_samples)
    late = noise.of_recording.normal(1)[:, 0].clamp(-3, 3)
    delay_s = timing.delay + timing.delay_sd * late
    return Places(timing.r_times(delay_s, noise.normal(timing.pulses.shape[1])), delay_s)


def averaged_over_delays(ecg: Tensor, timing: Timing, rate: float) -> Tensor:
    """Mean ECG (B, 12, T) over the delays that are likely, of that at the expected one."""
    t = torch.arange(ecg.shape[-1], device=ecg.device)
    late = timing.delay_sd[:, None] * rate
    return sum(interpolate(ecg, t + place * late) for place in DIRECT_DELAYS) / len(DIRECT_DELAYS)


def open_scale(given: Tensor) -> Tensor:
    """Standard deviation of what a reference with these leads (B, 12) leaves open, (B, 1, 1), data set: 1."""
    limb, chest = given[:, :6].sum(dim=1), given[:, 6:].sum(dim=1)
    of_limb = given.new_tensor(LIMB_VARIANCE)[limb.clamp(max=2).long()]
    variance = (6 * of_limb + CHEST_VARIANCE[0] * (6 - chest) + CHEST_VARIANCE[1] * chest) / 12
    return torch.where(limb + chest > 0, variance, 1.0).sqrt()[:, None, None]
