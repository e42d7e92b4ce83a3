"""Building blocks that the learned baselines share: a 1-D U-Net of residual blocks that a condition vector modulates.

Residual block and U-Net follow those of diffusion models (Ho 2020; Dhariwal 2021) in one dimension: pre-activation,
group normalisation, a residual branch that starts at zero, strided convolutions down, interpolation and a convolution
up, and skip connections by concatenation (Ronneberger 2015). The condition enters as a scale and a shift per channel
(FiLM, Perez 2018). They depart from those in 5 taps instead of 3 (in one dimension a wide kernel is cheap), in one
residual block per level and side, and in attention, if any, at the coarsest level only.

References
----------
Ronneberger O, Fischer P, Brox T. U-Net: convolutional networks for biomedical image segmentation. MICCAI 2015,
arXiv 1505.04597.
Perez E et al. FiLM: visual reasoning with a general conditioning layer. AAAI 2018, arXiv 1709.07871.
Ho J, Jain A, Abbeel P. Denoising diffusion probabilistic models. NeurIPS 2020, arXiv 2006.11239.
Dhariwal P, Nichol A. Diffusion models beat GANs on image synthesis. NeurIPS 2021, arXiv 2105.05233.
"""

from __future__ import annotations

import bisect
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from p2es_lib.core.config import Config
from p2es_lib.core.demographics import FEATURES as DEMOGRAPHIC_FEATURES
from p2es_lib.method.denoiser import Denoiser
from p2es_lib.method.forward_process import ForwardProcess
from p2es_lib.signals.pulse_features import N_FEATURES

#: Width of the convolutions, samples.
TAPS = 5
#: Widest network that :func:`matched_width` considers.
MAX_WIDTH = 1024


def _group_norm(width: int) -> nn.GroupNorm:
    """With 8 groups, or as many as divide the width evenly."""
    return nn.GroupNorm(math.gcd(8, width), width)


def _normalised(width_in: int, width_out: int) -> tuple[nn.Module, ...]:
    return _group_norm(width_in), nn.SiLU(), nn.Conv1d(width_in, width_out, TAPS, padding=TAPS // 2)


class DemographicEmbedding(nn.Module):
    """Demographics (B, 4), as from :meth:`Demographics.features`, to a condition vector (B, dim)."""

    def __init__(self, dim: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(len(DEMOGRAPHIC_FEATURES), dim), nn.SiLU(), nn.Linear(dim, dim), nn.SiLU()
        )

    def forward(self, demographics: Tensor) -> Tensor:
        return self.layers(demographics)


class ResidualBlock(nn.Module):
    """Two convolutions beside the identity, the second one behind a modulation; (B, width_in, T) to (B, width_out, T).

    The condition (B, condition_dim) gives each channel a scale and a shift.
    """

    def __init__(self, width_in: int, width_out: int, condition_dim: int):
        super().__init__()
        self.first = nn.Sequential(*_normalised(width_in, width_out))
        self.norm = _group_norm(width_out)
        self.modulation = nn.Linear(condition_dim, 2 * width_out)
        self.second = nn.Conv1d(width_out, width_out, TAPS, padding=TAPS // 2)
        self.identity = nn.Conv1d(width_in, width_out, 1) if width_in != width_out else nn.Identity()
        # The block starts as its identity path and without a condition: deep stacks then train from the first step.
        for layer in (self.second, self.modulation):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.modulation(condition)[:, :, None].chunk(2, dim=1)
        hidden = self.norm(self.first(x)) * (1 + scale) + shift
        return self.identity(x) + self.second(F.silu(hidden))


def _halve(width: int) -> nn.Module:
    """Half the time steps, (B, width, T) to (B, width, T / 2), by a strided convolution."""
    return nn.Sequential(OrderedDict(layer=nn.Conv1d(width, width, 4, stride=2, padding=1)))


def _double(width: int) -> nn.Module:
    """Twice the time steps; a strided transposed convolution would leave a pattern of its stride."""
    interpolation = nn.Upsample(scale_factor=2.0, mode="nearest")
    return nn.Sequential(OrderedDict(interpolation=interpolation, layer=nn.Conv1d(width, width, 3, padding=1)))


class SelfAttention(nn.Module):
    """Attention of every time step to every other, beside the identity, (B, width, T) to (B, width, T)."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = _group_norm(width)
        self.heads = math.gcd(4, width)
        self.query_key_value = nn.Conv1d(width, 3 * width, 1)
        self.output = nn.Conv1d(width, width, 1)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.query_key_value(self.norm(x)).unflatten(1, (3, self.heads, -1)).transpose(-1, -2)
        attended = F.scaled_dot_product_attention(*parts.unbind(dim=1))  # (B, heads, T, width / heads)
        return x + self.output(attended.transpose(-1, -2).flatten(1, 2))


class UNet1d(nn.Module):
    """U-Net along time, (B, in_channels, T) and a condition (B, condition_dim) to (B, out_channels, T).

    ``multipliers``: channels of each level in units of ``width``, from the finest; each level has half the time steps
    of the one before, so T must be a multiple of 2 ** (len(multipliers) - 1). ``attention``: self-attention at the
    coarsest level.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        width: int,
        multipliers: Sequence[int],
        condition_dim: int,
        attention=False,
    ):
        super().__init__()

        def blocks(*sizes: tuple[int, int]) -> nn.ModuleList:
            return nn.ModuleList(ResidualBlock(before, after, condition_dim) for before, after in sizes)

        widths = [width * multiplier for multiplier in multipliers]
        *inputs, last_input = [widths[0], *widths[:-1]]  # channels that reach each level from the one before
        *fine, coarsest = widths
        fine_and_coarse = list(zip(fine, widths[1:], strict=True))[::-1]
        self.stem = nn.Conv1d(in_channels, widths[0], TAPS, padding=TAPS // 2)
        self.encoder = blocks(*zip(inputs, fine, strict=True))
        self.downsamples = nn.ModuleList(_halve(level) for level in fine)
        self.bottom = blocks((last_input, coarsest), (coarsest, coarsest))
        self.attention = SelfAttention(coarsest) if attention else nn.Identity()
        self.upsamples = nn.ModuleList(_double(coarse) for _, coarse in fine_and_coarse)
        self.decoder = blocks(*((coarse + level, level) for level, coarse in fine_and_coarse))
        self.output = nn.Sequential(*_normalised(widths[0], out_channels))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        h, skips = self.stem(x), []
        for block, downsample in zip(self.encoder, self.downsamples, strict=True):
            h = block(h, condition)
            skips.append(h)
            h = downsample(h)
        h = self.bottom[1](self.attention(self.bottom[0](h, condition)), condition)
        for upsample, block in zip(self.upsamples, self.decoder, strict=True):
            h = block(torch.cat([upsample(h), skips.pop()], dim=1), condition)
        return self.output(h)


def denoiser_parameters(config: Config) -> int:
    """Number of weights of P2Es's denoiser under the same settings: what ``method.size`` "matched" is matched to."""
    process = ForwardProcess(config.process, config.signal.window_samples, config.signal.sampling_rate)
    return _parameters(lambda: Denoiser(config.denoiser, process, N_FEATURES))


def matched_width(build: Callable[[int], nn.Module], n_parameters: int, step: int = 4) -> int:
    """Width, a multiple of ``step``, with which ``build(width)`` comes nearest to a number of weights."""

    def size(width: int) -> int:
        return _parameters(lambda: build(width))

    widths = range(step, MAX_WIDTH + 1, step)
    above = bisect.bisect_left(widths, n_parameters, key=size)
    return min(widths[max(0, above - 1) : above + 1], key=lambda width: abs(size(width) - n_parameters))


def _parameters(build: Callable[[], nn.Module]) -> int:
    """Number of weights of a module, which is built without memory for them and without drawing random numbers."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build().parameters())
