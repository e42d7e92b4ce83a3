"""Rectified flow from noise to 12-lead ECG, conditioned on PPG and demographics.

Follows Liu (2023): the straight line between a data point and independent noise, x_t = (1 - t) x_0 + t x_1, a network
that learns the mean velocity E[x_1 - x_0 | x_t] by least squares, and Euler steps from noise at t = 1 to data at t = 0.
As in PPGFlowECG (Fang 2025; its abstract and the authors' public configuration) the PPG conditions the velocity, t is
uniform and 10 Euler steps are taken. With one step the result is x_1 - v(x_1, 1), which for independent noise is the
mean of the ECG given the PPG.

Departs from PPGFlowECG so: that method first trains an autoencoder which aligns PPG and ECG in one latent space, 32
times coarser than the signal, and the flow, a small transformer with cross-attention to the latent PPG, runs there.
Here it runs at the full sampling rate, in a U-Net. The times of a batch are spread evenly over [0, 1] instead of four
independent draws per window; 12 leads in units of one number per data set; age and sex; 8 s windows; an earlier ECG of
the person, if there is one, is shown as it is to P2Es, and the flow leads to what it leaves open. There is no reflow
(training a second model on the samples of the first). The paper states no number of weights that we could find, so
``method.size`` "published" is the same as "matched": about the weights of P2Es's denoiser.

References
----------
Liu X, Gong C, Liu Q. Flow straight and fast. ICLR 2023, arXiv 2209.03003.
Fang X et al. PPGFlowECG: latent rectified flow with cross-modal encoding. arXiv 2509.19774, 2025.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from p2es_lib.baselines.blocks import ConditionalUNet, denoiser_parameters, matched_width
from p2es_lib.baselines.referenced import N_CHANNELS, ReferencedTranslator
from p2es_lib.core.config import Config
from p2es_lib.core.learned import Batch, masked_mse
from p2es_lib.core.noise import WindowNoise

N_STEPS = 10  # of Euler, unless asked otherwise


def interpolate(x_0: Tensor, x_1: Tensor, t: Tensor) -> Tensor:
    """Point of the straight line from data x_0 at t = 0 to noise x_1 at t = 1; (B, C, T), (B, C, T), (B,)."""
    t = t[:, None, None]
    return (1 - t) * x_0 + t * x_1


def integrate(velocity: Callable[[Tensor, Tensor], Tensor], x_1: Tensor, n_steps: int) -> Tensor:
    """Euler's method from noise x_1 (B, C, T) at t = 1 to data at t = 0 in equal steps.

    ``velocity`` makes dx/dt (B, C, T) of x_t (B, C, T) and t (B,). One step gives x_1 - velocity(x_1, 1).
    """
    x_t = x_1
    for step in range(n_steps):
        t = torch.full((len(x_t),), 1 - step / n_steps, dtype=x_t.dtype, device=x_t.device)
        x_t = x_t - velocity(x_t, t) / n_steps
    return x_t


def _make_network(width: int) -> ConditionalUNet:
    return ConditionalUNet(width, n_shown=N_CHANNELS)


class RectifiedFlow(ReferencedTranslator):
    """Flow along straight lines from noise to what a reference leaves open; ``method.name`` "rectified_flow"."""

    name = "rectified_flow"
    has_direct_estimate = True

    def __init__(self, config: Config, ecg_scale_mv: float = 0.25, trained_leads=None):
        super().__init__(config, ecg_scale_mv, trained_leads)
        self.network = _make_network(matched_width(_make_network, denoiser_parameters(config)))

    def forward(self, x_t: Tensor, t: Tensor, shown: Tensor, demographics: Tensor) -> Tensor:
        """Mean velocity dx/dt (B, 12, T) at x_t (B, 12, T) and times t (B,), given PPG, reference and demographics."""
        return self.network(x_t, t, shown, demographics)

    def loss_of_open(self, model: nn.Module, target: Tensor, shown: Tensor, batch: Batch, generator) -> Tensor:
        """Squared error of the velocity over the leads that exist."""
        # One time per slice of [0, 1]: each is uniform, and together they vary less than independent ones.
        t = ((torch.arange(len(batch)) + torch.rand(len(batch), generator=generator)) / len(batch)).to(self.device)
        # Absent leads hold zero all along the line, so that sampling can show the network the same.
        x_1 = torch.randn(target.shape, generator=generator).to(self.device) * (batch.mask > 0)[:, :, None]
        velocity = model(interpolate(target, x_1, t), t, shown, batch.demographics)
        return masked_mse(velocity, x_1 - target, batch.mask)

    def draw_open(self, shown: Tensor, demographics: Tensor, noise: WindowNoise, n_steps: int | None) -> Tensor:
        """Follow the flow from the noise of each window and sample; beside delays only this start is random."""
        leads = self.trained_leads[:, None]

        def velocity(x_t: Tensor, t: Tensor) -> Tensor:
            return self(x_t, t, shown, demographics) * leads

        return integrate(velocity, noise(0) * leads, n_steps or N_STEPS)
