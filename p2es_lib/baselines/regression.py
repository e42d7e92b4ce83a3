"""What the deterministic baselines share: one network from PPG and demographics to 12 leads, alone or beside a critic.

The network that minimises the squared error gives the posterior mean, a single ECG per window: no noise, no samples, no
steps. They have neither P2Es' pulse features, nor its affinity matrices, nor the projection on consistent leads.

The adversarial works followed here translate PPG to one lead, scaled to the range of a tanh. Common to both baselines,
and not in those works: 12 leads in units of one number per data set, hence a linear output; age and sex as constant
channels beside the PPG; windows of 8 s; and the project's training loop. Leads that a record does not have are zero in
the generated ECG as they are in the real one, so a critic cannot tell the two apart by them.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from p2es_lib.baselines.blocks import denoiser_parameters, matched_width
from p2es_lib.core.config import Config
from p2es_lib.core.demographics import FEATURES as DEMOGRAPHIC_FEATURES
from p2es_lib.core.learned import Batch, LearnedTranslator, masked_mse
from p2es_lib.core.noise import WindowNoise

#: Channels of :func:`condition_channels`.
N_CONDITION_CHANNELS = 1 + len(DEMOGRAPHIC_FEATURES)


class RegressionTranslator(LearnedTranslator):
    """A network trained on the squared error over the leads that exist; a subclass says which network.

    Its width is chosen so that it has about as many weights as P2Es's denoiser under the same settings, unless
    ``method.size`` is "published" and the paper's network is made for such a task (``published_width``).
    """

    stochastic = False
    #: Channels of the network's finest level in the paper; None where its size suits one lead only.
    published_width: ClassVar[int | None] = None

    def __init__(self, config: Config, ecg_scale_mv: float = 0.25, trained_leads=None):
        super().__init__(config, ecg_scale_mv, trained_leads)
        if config.method.size == "published" and self.published_width:
            self.width = self.published_width
        else:
            self.width = matched_width(self.make_network, denoiser_parameters(config))
        self.network = self.make_network(self.width)

    def make_network(self, width: int) -> nn.Module:
        """Network of PPG (B, 1, T) and demographics (B, 4) to ECG (B, 12, T), in units of :attr:`ecg_scale_mv`."""
        raise NotImplementedError

    def forward(self, ppg: Tensor, demographics: Tensor) -> Tensor:
        """ECG (B, 12, T), float32, of PPG (B, 1, T) scaled per window and demographics (B, 4)."""
        return self.network(ppg, demographics).float()

    def training_loss(self, model, batch: Batch, generator: torch.Generator, critic=None) -> tuple[Tensor, Tensor]:
        """Squared error in units of the data set's variance."""
        loss = masked_mse(model(batch.ppg, batch.demographics), batch.x_0, batch.mask)
        return loss, loss.detach()

    def draw(self, ppg: Tensor, demographics: Tensor, noise: WindowNoise, n_steps: int | None) -> Tensor:
        """The one estimate of each window; ``n_steps`` means nothing to it."""
        return self(ppg, demographics).repeat_interleave(noise.n_samples, 0)


class AdversarialTranslator(RegressionTranslator):
    """A network of :func:`condition_channels`, trained against a critic of its width; a subclass says which ones."""

    keeps_best = False  # a critic's loss is no squared error

    def forward(self, ppg: Tensor, demographics: Tensor, *generator: torch.Generator) -> Tensor:
        """ECG (B, 12, T) of PPG (B, 1, T) and demographics (B, 4); with a noise source, dropout is at work."""
        return self.network(condition_channels(ppg, demographics), *generator)


def condition_channels(ppg: Tensor, demographics: Tensor) -> Tensor:
    """PPG (B, 1, T) and demographics (B, 4), each of these constant in time, as channels (B, 5, T)."""
    return torch.cat([ppg, demographics[:, :, None].expand(-1, -1, ppg.shape[-1])], dim=1)


def present_leads(lead_mask: Tensor) -> Tensor:
    """Lead mask (B, 12) as a factor (B, 12, 1): 1 for leads that exist, 0 for the others."""
    return (lead_mask > 0).to(torch.float32)[:, :, None]
