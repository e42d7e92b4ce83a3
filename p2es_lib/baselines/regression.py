"""What the deterministic baselines share: one network from PPG and demographics to 12 leads, alone or beside a critic.

The network that minimises the squared error gives the posterior mean, a single ECG per window: no noise, no samples, no
steps. They have neither P2Es' pulse features, nor its affinity matrices, nor the projection on consistent leads. Those
that are trained on the squared error alone use a reference as P2Es does (:mod:`.referenced`), the others none.

The adversarial works followed here translate PPG to one lead, scaled to the range of a tanh. Common to both baselines,
and not in those works: 12 leads in units of one number per data set, hence a linear output; age and sex as constant
channels beside the PPG; windows of 8 s; and the project's training loop. Leads that a record does not have are zero in
the generated ECG as they are in the real one, so a critic cannot tell the two apart by them.
"""

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from p2es_lib.baselines.blocks import denoiser_parameters, matched_width
from p2es_lib.baselines.referenced import ReferencedTranslator
from p2es_lib.core.config import Config
from p2es_lib.core.demographics import FEATURES as DEMOGRAPHIC_FEATURES
from p2es_lib.core.learned import Batch, LearnedTranslator, masked_mse
from p2es_lib.core.noise import WindowNoise

#: Channels of :func:`condition_channels`.
N_CONDITION_CHANNELS = 1 + len(DEMOGRAPHIC_FEATURES)


class RegressionTranslator(ReferencedTranslator):
    """A network trained on the squared error over the leads that exist; a subclass says which network.

    Its width is that of :func:`width_of`.
    """

    stochastic = False

    def __init__(self, config: Config, ecg_scale_mv: float = 0.25, trained_leads=None):
        super().__init__(config, ecg_scale_mv, trained_leads)
        self.width = width_of(self.make_network, config)
        self.network = self.make_network(self.width)

    def make_network(self, width: int) -> nn.Module:
        """Network of what is shown (B, N_CHANNELS, T) and demographics (B, 4) to what is open (B, 12, T)."""
        raise NotImplementedError

    def forward(self, shown: Tensor, demographics: Tensor) -> Tensor:
        """What the reference leaves open (B, 12, T), float32; without a reference: the ECG."""
        return self.network(shown, demographics).float()

    def loss_of_open(self, model: nn.Module, target: Tensor, shown: Tensor, batch: Batch, generator) -> Tensor:
        """Squared error in units of the variance of what is open."""
        return masked_mse(model(shown, batch.demographics), target, batch.mask)

    def draw_open(self, shown: Tensor, demographics: Tensor, noise: WindowNoise, n_steps: int | None) -> Tensor:
        """The one estimate of each window; ``n_steps`` means nothing to it."""
        return self(shown, demographics)


class AdversarialTranslator(LearnedTranslator):
    """A network of :func:`condition_channels`, trained against a critic of its width; a subclass says which ones."""

    stochastic = False
    keeps_best = False  # a critic's loss is no squared error
    #: Channels of the network's finest level in the paper; None where its size suits one lead only.
    published_width: ClassVar[int | None] = None

    def __init__(self, config: Config, ecg_scale_mv: float = 0.25, trained_leads=None):
        super().__init__(config, ecg_scale_mv, trained_leads)
        self.width = width_of(self.make_network, config, self.published_width)
        self.network = self.make_network(self.width)

    def make_network(self, width: int) -> nn.Module:
        """Network of channels (B, 5, T) to ECG (B, 12, T), in units of :attr:`ecg_scale_mv`."""
        raise NotImplementedError

    def forward(self, ppg: Tensor, demographics: Tensor, *generator: torch.Generator) -> Tensor:
        """ECG (B, 12, T) of PPG (B, 1, T) and demographics (B, 4); with a noise source, dropout is at work."""
        return self.network(condition_channels(ppg, demographics), *generator)

    def draw(self, ppg: Tensor, demographics: Tensor, noise: WindowNoise, n_steps: int | None) -> Tensor:
        """The one estimate of each window; ``n_steps`` means nothing to it."""
        return self(ppg, demographics).repeat_interleave(noise.n_samples, 0)


def width_of(make_network: Callable[[int], nn.Module], config: Config, published: int | None = None) -> int:
    """Width with which a network has about as many weights as P2Es's denoiser under the same settings.

    Where ``method.size`` is "published" and the paper's network is made for such a task: the paper's.
    """
    if config.method.size == "published" and published:
        return published
    return matched_width(make_network, denoiser_parameters(config))


def condition_channels(ppg: Tensor, demographics: Tensor) -> Tensor:
    """PPG (B, 1, T) and demographics (B, 4), each of these constant in time, as channels (B, 5, T)."""
    return torch.cat([ppg, demographics[:, :, None].expand(-1, -1, ppg.shape[-1])], dim=1)


def present_leads(lead_mask: Tensor) -> Tensor:
    """Lead mask (B, 12) as a factor (B, 12, 1): 1 for leads that exist, 0 for the others."""
    return (lead_mask > 0).to(torch.float32)[:, :, None]
