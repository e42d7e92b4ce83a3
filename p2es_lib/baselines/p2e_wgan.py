"""P2E-WGAN to 12 leads: a U-Net trained on the squared error and against a critic of patches (WGAN-GP).

Follows Vo (2021): U-Net of four halvings with skip connections, instance normalisation and dropout; a critic that is
also shown the PPG and gives one score per patch (PatchGAN, Isola 2017); Wasserstein loss with gradient penalty
(Gulrajani 2017), which acts on the gradient of the sum of the patches' scores; three steps of the critic per step of
the generator. Layers and weights are those of the authors' public code (4.1 M weights, the published number). At test
time nothing is dropped: one ECG per window.

Departs from it, beside what :mod:`p2es_lib.baselines.regression` says: convolutions are padded, so that any window
of whole halvings comes out at its length; the three steps of the critic see the same batch; the generated ECG is not
smoothed by a moving average, which would take the sharpness of the QRS complex; the critic is shown age and sex; and
there is no variant with the error at detected peaks alone.

References
----------
Vo K et al. P2E-WGAN: ECG waveform synthesis from PPG. SAC 2021, doi 10.1145/3412841.3441979.
Gulrajani I et al. Improved training of Wasserstein GANs. NeurIPS 2017, arXiv 1704.00028.
Isola P et al. Image-to-image translation with conditional adversarial networks. CVPR 2017, arXiv 1611.07004.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from p2es_lib.baselines.regression import N_CONDITION_CHANNELS, AdversarialTranslator, condition_channels, present_leads
from p2es_lib.core.leads import LEADS
from p2es_lib.core.learned import Batch, masked_mse

#: Weights of the squared error beside the critic's judgement, and of the gradient penalty in the critic's loss.
ERROR_WEIGHT, PENALTY_WEIGHT = 50.0, 10.0
#: Share of values that dropout zeroes, and slope of the leaky rectifier below zero.
DROPOUT, LEAK = 0.5, 0.2


class DropoutUNet(nn.Module):
    """U-Net from :func:`condition_channels` (B, 5, T) to ECG (B, 12, T); T a multiple of 16.

    Dropout draws from the noise source that :meth:`forward` is given, so that a continued training repeats it.
    """

    def __init__(self, width: int):
        super().__init__()
        down = [N_CONDITION_CHANNELS, width, 2 * width, 4 * width, 4 * width]
        up = [(4 * width, 4 * width), (8 * width, 2 * width), (4 * width, width)]  # inputs: from below, and the skip
        options = dict(kernel_size=4, stride=2, padding=1, bias=False)
        self.down = nn.ModuleList(nn.Conv1d(before, after, **options) for before, after in pairwise(down))
        self.up = nn.ModuleList(nn.ConvTranspose1d(before, after, **options) for before, after in up)
        self.output = nn.Sequential(nn.ReplicationPad1d((1, 2)), nn.Conv1d(2 * width, len(LEADS), 4))

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        levels = []
        for level, layer in enumerate(self.down):
            x = layer(x)
            if level in (1, 2):
                x = F.instance_norm(x)
            x = F.leaky_relu(x, LEAK)
            levels.append(dropout(x, generator) if level >= 2 else x)
        x = levels.pop()
        for level, layer in enumerate(self.up):
            x = F.relu(F.instance_norm(layer(x)))
            x = torch.cat([dropout(x, generator) if level == 0 else x, levels.pop()], dim=1)
        return self.output(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def dropout(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Zero a share :data:`DROPOUT` of the values and scale up the rest; without a noise source, at test time, none."""
    if generator is None:
        return x
    kept = torch.rand(x.shape, generator=generator) >= DROPOUT
    return x * kept.to(x.device) / (1 - DROPOUT)


class PatchCritic(nn.Module):
    """Scores (B, 1, patches of 147 samples) of ECG (B, 12, T) given a condition (B, 5, T), high if it looks real."""

    def __init__(self, width: int):
        super().__init__()
        sizes = pairwise([len(LEADS) + N_CONDITION_CHANNELS, width, 2 * width, 4 * width])
        self.layers = nn.ModuleList(nn.Conv1d(before, after, 6, stride=3, padding=2) for before, after in sizes)
        self.output = nn.Conv1d(4 * width, 1, 4, bias=False)

    def forward(self, ecg: Tensor, condition: Tensor) -> Tensor:
        x = torch.cat([ecg, condition], dim=1)
        for level, layer in enumerate(self.layers):
            x = layer(x)
            x = F.leaky_relu(F.instance_norm(x) if level > 0 else x, LEAK)
        return self.output(x)


def gradient_penalty(
    critic: nn.Module, real: Tensor, fake: Tensor, condition: Tensor, present: Tensor, generator: torch.Generator
) -> Tensor:
    """How far the critic's slope is from 1 between real and generated ECG, (B, 12, T) each: a scalar.

    Mean over the batch of (norm of d(sum of the scores) / d(ECG) - 1)^2, at one random point between each real ECG and
    the generated one. Directions along leads that are not ``present`` (B, 12, 1) do not count: no ECG moves along them.
    """
    # Under Fabric's wrapper gradients cannot be taken in mixed precision, which would blur the norm too.
    critic = getattr(critic, "module", critic)
    share = torch.rand(len(real), 1, 1, generator=generator).to(real.device)
    between = (share * real + (1 - share) * fake).requires_grad_()
    (slope,) = torch.autograd.grad(critic(between, condition).sum(), between, create_graph=True)
    # The square root has no derivative at 0, which a slope of exactly 0 would reach.
    norm = ((slope * present) ** 2).sum(dim=(1, 2)).clamp_min(1e-12).sqrt()
    return ((norm - 1) ** 2).mean()


class P2EWGAN(AdversarialTranslator):
    """U-Net against a critic of patches; ``method.name`` "p2e_wgan"."""

    name = "p2e_wgan"
    critic_steps = 3
    published_width = 128
    make_network = DropoutUNet

    def make_critic(self) -> nn.Module:
        return PatchCritic(self.width)

    def critic_loss(self, critic: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
        """Score of generated minus score of real ECG, and the gradient penalty."""
        condition, present = condition_channels(batch.ppg, batch.demographics), present_leads(batch.mask)
        with torch.no_grad():
            fake = self(batch.ppg, batch.demographics, generator) * present
        on_real, on_fake = critic(torch.cat([batch.x_0, fake]), condition.repeat(2, 1, 1)).chunk(2)
        penalty = gradient_penalty(critic, batch.x_0, fake, condition, present, generator)
        return on_fake.mean() - on_real.mean() + PENALTY_WEIGHT * penalty

    def training_loss(self, model, batch: Batch, generator: torch.Generator, critic=None) -> tuple[Tensor, Tensor]:
        """Squared error in units of the data set's variance, minus the critic's score; logged is the error."""
        estimate = model(batch.ppg, batch.demographics, generator)
        error = masked_mse(estimate, batch.x_0, batch.mask)
        score = critic(estimate * present_leads(batch.mask), condition_channels(batch.ppg, batch.demographics)).mean()
        return ERROR_WEIGHT * error - score, error.detach()
