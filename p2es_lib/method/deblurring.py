"""Stage 2 of the denoiser, frequency deblurring: it gives back to the coarse ECG what the blur took away.

The blur is known and diagonal in the basis of the forward process. There the coarse estimate ``c`` is the prior mean,
and the observation ``u_t = alpha_t u_0 + sigma_t eps`` corrects it by the regularised inverse of the blur. With P(k)
the variance of the error of ``c`` (learned per lead, frequency and noise level) this is the Wiener or Kalman gain, the
minimum-mean-square-error linear estimate:

    u_0_hat = c + alpha P / (alpha^2 P + sigma^2) * (u_t - alpha c)

Where the blur has removed a frequency, the gain goes to zero and the coarse estimate stands; where it has not, the
observation decides. P starts small, so that training begins with stage 1 alone: with an inverse that is trusted from
the start, stage 1 would have no reason to learn what x_t shows. A small convolution along frequency adds a learned
residual, in units of the remaining uncertainty sqrt(P sigma^2 / (alpha^2 P + sigma^2)).

:class:`p2es_lib.method.denoiser.Denoiser` uses it at every step of the sampler; the variants ``no_deblurring`` and
``wiener_only`` of :mod:`p2es_lib.experiments.variants` show what it is worth.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from p2es_lib.method.multi_scale import N_LEADS, FourierEmbedding

#: Logarithm of P at the start, in units of the data set's variance: one part in 400.
PRIOR_START = -6.0


class FrequencyDeblurring(nn.Module):
    """Stage 2: regularised inverse of the known blur around the coarse estimate, plus a learned residual."""

    def __init__(self, window_samples: int, residual: bool = True, groups: int = 1, width: int = 24):
        super().__init__()
        self.has_residual = residual
        position = torch.linspace(0, 1, window_samples)
        bands = torch.stack([position, *(torch.cos(math.pi * n * position) for n in (1, 2, 4, 8, 16))])  # (6, T)
        self.register_buffer("bands", bands, persistent=False)
        self.embed_noise = FourierEmbedding(16)
        self.prior_bands = nn.Conv1d(len(bands), 32, 1)
        self.prior_noise = nn.Linear(16, 32)
        self.prior_output = nn.Conv1d(32, N_LEADS, 1)
        nn.init.constant_(self.prior_output.bias, PRIOR_START)
        if not residual:
            return
        self.residual_input = nn.Conv1d(2 * N_LEADS, width, 5, padding=2, groups=groups)
        self.residual_bands = nn.Conv1d(len(bands), width, 1)
        self.residual_modulation = nn.Linear(16, 2 * width)
        self.residual_output = nn.Conv1d(width, N_LEADS, 5, padding=2, groups=groups)
        nn.init.zeros_(self.residual_output.weight)
        nn.init.zeros_(self.residual_output.bias)

    def prior_variance(self, logsnr: Tensor) -> Tensor:
        """P: variance of the coarse estimate's error per lead and coefficient, (B,) to (B, 12, T), always positive."""
        hidden = self.prior_bands(self.bands[None]) + self.prior_noise(self.embed_noise(logsnr))[:, :, None]
        return self.prior_output(F.gelu(hidden)).clamp(-12.0, 6.0).exp()

    @staticmethod
    def gain(alpha: Tensor, sigma: Tensor, prior: Tensor) -> Tensor:
        """Wiener gain alpha P / (alpha^2 P + sigma^2); alpha and sigma (B, 1, T), prior (B, 12, T)."""
        return alpha * prior / (alpha**2 * prior + sigma**2)

    def forward(self, c: Tensor, u_t: Tensor, logsnr: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """u_0_hat (B, 12, T) from the coarse c and the observed u_t, both (B, 12, T) in the basis of the blur."""
        prior = self.prior_variance(logsnr)
        u_0 = c + self.gain(alpha, sigma, prior) * (u_t - alpha * c)
        if not self.has_residual:
            return u_0
        spread = prior.sqrt() * sigma / (alpha**2 * prior + sigma**2).sqrt()  # what is still unknown of u_0
        # Coefficients span orders of magnitude; asinh of each in units of the prior keeps the network's input tame.
        scaled = torch.stack([torch.asinh(v / prior.sqrt()) for v in (c, u_0)], dim=2).flatten(1, 2)  # lead by lead
        scale, shift = self.residual_modulation(self.embed_noise(logsnr))[:, :, None].chunk(2, dim=1)
        hidden = (self.residual_input(scaled) + self.residual_bands(self.bands[None])) * (1 + scale) + shift
        return u_0 + spread * self.residual_output(F.gelu(hidden))
