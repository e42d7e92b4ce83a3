"""P2Es with an adversarial and a perceptual loss beside its own: the hybrid that one summary of the paper describes.

The abstract speaks of a diffusion model, a second, machine-written summary of a hybrid of diffusion and GAN; how they
were joined, nobody says. Here the network's estimate of x_0, at whatever time t, is shown to the two critics of
:mod:`p2es_lib.baselines.cardiogan`, as Xiao (2022) lets a critic judge the steps of a diffusion model. The perceptual
loss is the distance of estimate and truth in the critics' own features (Larsen 2016), because no network pretrained on
ECG is at hand. All else is as in P2Es, so a comparison with it shows what the losses change.

References
----------
Xiao Z, Kreis K, Vahdat A. Denoising diffusion GANs. ICLR 2022, arXiv 2112.07804.
Larsen ABL et al. Autoencoding beyond pixels using a learned similarity metric. ICML 2016, arXiv 1512.09300.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from p2es_lib.baselines.cardiogan import DualCritic, cross_entropy, real_or_fake
from p2es_lib.baselines.regression import present_leads
from p2es_lib.core.learned import Batch
from p2es_lib.method.p2es import DELAY_WEIGHT, P2Es

#: Width of the critics' first layer, with which they have 0.4 million weights (the denoiser: 1 or 4 million).
CRITIC_WIDTH = 12
#: Weights beside the squared error, which is about 0.2 to 0.5 in the same units.
ADVERSARIAL_WEIGHT, PERCEPTUAL_WEIGHT = 0.01, 0.1


class HybridP2Es(P2Es):
    """P2Es against two critics; ``method.name`` "p2es_hybrid"."""

    name = "p2es_hybrid"
    keeps_best = False  # the least squared error would pick the stage at which the critics matter least

    def make_critic(self) -> nn.Module:
        return DualCritic(CRITIC_WIDTH, self.config.signal.window_samples)

    def critic_loss(self, critic: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
        """Cross entropy of both critics on true ECG and on estimates of it."""
        with torch.no_grad():
            fake = self.estimate(self, batch, generator)[0].refined * present_leads(batch.mask)
        return real_or_fake(critic, batch.x_0, fake)

    def training_loss(self, model, batch: Batch, generator: torch.Generator, critic=None) -> tuple[Tensor, Tensor]:
        """The loss of P2Es and the two losses of the critics; logged is the squared error of the refined estimate."""
        estimate, of_delays = self.estimate(model, batch, generator)
        squared, logged = self.squared_error(estimate, batch)
        fake = estimate.refined * present_leads(batch.mask)
        adversarial = cross_entropy(critic(fake), real=True)
        # Inside Fabric's wrapper, which forbids any method but forward; this critic has no gradients to be averaged.
        features = getattr(critic, "module", critic).features
        with torch.no_grad():
            wanted = features(batch.x_0)
        perceptual = sum(F.l1_loss(found, aim) for found, aim in zip(features(fake), wanted, strict=True)) / len(wanted)
        squared = squared + DELAY_WEIGHT * of_delays
        return squared + ADVERSARIAL_WEIGHT * adversarial + PERCEPTUAL_WEIGHT * perceptual, logged
