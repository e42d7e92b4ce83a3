"""What the adversarial baselines share: one deterministic network beside a critic, and what both of them are told.

The works followed here translate PPG to one lead, scaled to the range of a tanh. Common to both baselines, and not in
those works: 12 leads in units of one number per data set, hence a linear output; age and sex as constant channels
beside the PPG, since P2Es is told them too; windows of 8 s instead of 3 or 4 s; and the initial weights, optimiser,
schedule and moving average of the project's training loop. Leads that a record does not have are set to zero in the
generated ECG as they are in the real one, so a critic cannot tell the two apart by them.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from p2es_lib.baselines.blocks import denoiser_parameters, matched_width
from p2es_lib.core.config import Config
from p2es_lib.core.demographics import FEATURES as DEMOGRAPHIC_FEATURES
from p2es_lib.core.learned import LearnedTranslator
from p2es_lib.core.noise import WindowNoise

#: Channels of :func:`condition_channels`.
N_CONDITION_CHANNELS = 1 + len(DEMOGRAPHIC_FEATURES)


class AdversarialTranslator(LearnedTranslator):
    """A network from PPG to ECG that is trained against a critic; a subclass says which ones.

    ``method.size`` "published" takes the width of the paper, "matched" the one with which the network has about as many
    weights as P2Es's denoiser under the same settings. The critic takes the same width, so that neither side outgrows
    the other.
    """

    stochastic = False
    keeps_best = False  # a critic's loss is no squared error

    #: Channels of the network's finest level in the paper.
    published_width: ClassVar[int]

    def __init__(self, config: Config, ecg_scale_mv: float = 0.25, trained_leads=None):
        super().__init__(config, ecg_scale_mv, trained_leads)
        if config.method.size == "published":
            self.width = self.published_width
        else:
            self.width = matched_width(self.make_network, denoiser_parameters(config))
        self.network = self.make_network(self.width)

    def make_network(self, width: int) -> nn.Module:
        """Network of :func:`condition_channels` (B, 5, T) to ECG (B, 12, T), in units of :attr:`ecg_scale_mv`."""
        raise NotImplementedError

    def draw(self, ppg: Tensor, demographics: Tensor, noise: WindowNoise, n_steps: int | None) -> Tensor:
        """The one estimate of each window; ``n_steps`` means nothing to it."""
        return self(ppg, demographics).repeat_interleave(noise.n_samples, 0)


def condition_channels(ppg: Tensor, demographics: Tensor) -> Tensor:
    """PPG (B, 1, T) and demographics (B, 4), each of these constant in time, as channels (B, 5, T)."""
    return torch.cat([ppg, demographics[:, :, None].expand(-1, -1, ppg.shape[-1])], dim=1)


def present_leads(lead_mask: Tensor) -> Tensor:
    """Lead mask (B, 12) as a factor (B, 12, 1): 1 for leads that exist, 0 for the others."""
    return (lead_mask > 0).to(torch.float32)[:, :, None]
