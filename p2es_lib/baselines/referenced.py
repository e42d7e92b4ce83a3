"""What the baselines share that use a reference of the person: they are shown it, and start from it, as P2Es does.

The PPG is moved to the usual delay; beside it stand the beats of the reference, laid where the heart beat, and which
leads it has. The method learns what these beats leave open: the difference of the ECG to them, in its own scale. The
head that says where the beats lie, its loss, the delays that are drawn, and their average for an estimate of the mean
are those of P2Es (:mod:`p2es_lib.reference.conditioning`).
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from p2es_lib.core.config import Config
from p2es_lib.core.leads import LEADS
from p2es_lib.core.learned import Batch, LearnedTranslator
from p2es_lib.core.noise import WindowNoise
from p2es_lib.core.reference import Reference
from p2es_lib.reference.conditioning import (
    DELAY_WEIGHT,
    Places,
    PulseConditioning,
    averaged_over_delays,
    drawn_places,
    expected_places,
    open_scale,
)
from p2es_lib.signals.pulse_features import N_FEATURES

#: Channels that a network is shown: PPG, beats of the reference, and which leads these are (constant in time).
N_CHANNELS = 1 + 2 * len(LEADS)


class Shown(NamedTuple):
    """What a network is shown, (B, :data:`N_CHANNELS`, T), the beats it starts from (B, 12, T), their leads (B, 12)."""

    channels: Tensor
    base: Tensor
    given: Tensor


class ReferencedTranslator(LearnedTranslator):
    """A method that learns what a reference leaves open; a subclass says how, in units of that.

    It makes its network after calling this class's ``__init__``, and has :meth:`loss_of_open` and :meth:`draw_open`.
    """

    uses_reference = True

    def __init__(self, config: Config, ecg_scale_mv: float = 0.25, trained_leads=None):
        super().__init__(config, ecg_scale_mv, trained_leads)
        self.pulse_delay = PulseConditioning(N_FEATURES, config.signal.sampling_rate)

    def loss_of_open(self, model: nn.Module, target: Tensor, shown: Tensor, batch: Batch, generator) -> Tensor:
        """Loss of what is open, ``target`` (B, 12, T), absent leads 0, given what is ``shown`` (B, N_CHANNELS, T)."""
        raise NotImplementedError

    def draw_open(self, shown: Tensor, demographics: Tensor, noise: WindowNoise, n_steps: int | None) -> Tensor:
        """What is open, (B * K, 12, T), given what is ``shown`` to each sample, (B * K, N_CHANNELS, T)."""
        raise NotImplementedError

    def show(self, ppg: Tensor, reference: Reference, places: Places) -> Shown:
        """PPG (B, 1, T) scaled, at the usual delay, and the reference at the beats."""
        moved, base_mv = self.pulse_delay.lay(ppg, reference, *places)
        base = base_mv / self.ecg_scale_mv
        mask = reference.given[:, :, None].expand_as(base)
        return Shown(torch.cat([moved, base, mask], dim=1), base, reference.given)

    def training_loss(
        self, model: nn.Module, batch: Batch, generator: torch.Generator, critic: nn.Module | None = None
    ) -> tuple[Tensor, Tensor]:
        """The method's own loss, of what is open, and the delays'; logged is the first alone."""
        places, of_delays = self.pulse_delay.known(batch)
        shown = self.show(batch.ppg, batch.reference, places)
        target = (batch.x_0 - shown.base) / open_scale(shown.given) * (batch.mask > 0)[:, :, None]
        loss = self.loss_of_open(model, target, shown.channels, batch, generator)
        return loss + DELAY_WEIGHT * of_delays, loss.detach()

    def draw(
        self, ppg: Tensor, demographics: Tensor, noise: WindowNoise, n_steps: int | None, *,
        reference: Reference | None = None,
    ) -> Tensor:  # fmt: skip
        """Each sample at delays of its own; an estimate of the mean at those expected, then averaged over delays."""
        if reference is None:
            reference = Reference.none(len(ppg), self.pulse_delay.rate).to(ppg.device)
        timing = self.pulse_delay.timing(ppg, demographics, reference)
        is_mean = n_steps == 1 or not self.stochastic
        many = timing.repeat_interleave(noise.n_samples)
        places = expected_places(many) if is_mean else drawn_places(timing, noise)
        ppg, demographics = (part.repeat_interleave(noise.n_samples, 0) for part in (ppg, demographics))
        shown = self.show(ppg, reference.repeat_interleave(noise.n_samples), places)
        found = self.draw_open(shown.channels, demographics, noise, n_steps)
        ecg = (shown.base + open_scale(shown.given) * found) * self.trained_leads[:, None]
        return averaged_over_delays(ecg, many, self.pulse_delay.rate) if is_mean else ecg
