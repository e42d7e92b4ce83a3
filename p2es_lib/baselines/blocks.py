"""Building blocks that the learned baselines share: a 1-D U-Net of residual blocks that a condition vector modulates.

Residual block and U-Net follow those of diffusion models (Ho 2020; Dhariwal 2021) in one dimension: pre-activation,
group normalisation, a residual branch that starts at zero, strided convolutions down, interpolation and a convolution
up, and skip connections by concatenation (Ronneberger 2015). The condition enters as a scale and a shift per channel
(FiLM, Perez 2018). They depart from those in 5 taps instead of 3 (in one dimension a wide kernel is cheap), in one
residual block per level and side, and in attention, if any, at the coarsest level only.

:class:`ConditionalUNet` is the network of RDDM and of rectified flow alike, so that a difference between them is one of
method. What both ask for holds white noise in 12 leads; with the weights of P2Es there are few channels more
than leads, and noise that does not pass through them stays in the ECG. So the noisy ECG also goes past the U-Net, which
only says with what gain, for each lead and time.

References
----------
Ronneberger O, Fischer P, Brox T. U-Net. MICCAI 2015, arXiv 1505.04597.
Perez E et al. FiLM: visual reasoning with a general conditioning layer. AAAI 2018, arXiv 1709.07871.
Ho J, Jain A, Abbeel P. Denoising diffusion probabilistic models. NeurIPS 2020, arXiv 2006.11239.
Dhariwal P, Nichol A. Diffusion models beat GANs on image synthesis. NeurIPS 2021, arXiv 2105.05233.
"""

import bisect
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from p2es_lib.core.config import Config
from p2es_lib.core.demographics import FEATURES as DEMOGRAPHIC_FEATURES
from p2es_lib.core.leads import LEADS
from p2es_lib.method.denoiser import Denoiser
from p2es_lib.method.forward_process import ForwardProcess
from p2es_lib.method.multi_scale import FourierEmbedding
from p2es_lib.signals.pulse_features import N_FEATURES

TAPS = 5  # width of the convolutions, samples
#: Channels per level, in units of the finest: at the coarsest (0.26 s at 125 Hz) convolutions see several beats.
MULTIPLIERS = (1, 2, 2, 3, 4, 4)


def _group_norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(8, width), width)  # 8 groups, or as many as divide the width evenly


def _normalised(width_in: int, width_out: int) -> tuple[nn.Module, ...]:
    return _group_norm(width_in), nn.SiLU(), nn.Conv1d(width_in, width_out, TAPS, padding=TAPS // 2)


class DemographicEmbedding(nn.Module):
    """Demographics (B, 4), as from :meth:`Demographics.features`, to a condition vector (B, dim)."""

    def __init__(self, dim: int):
        super().__init__()
        first = nn.Linear(len(DEMOGRAPHIC_FEATURES), dim)
        self.layers = nn.Sequential(first, nn.SiLU(), nn.Linear(dim, dim), nn.SiLU())

    def forward(self, demographics: Tensor) -> Tensor:
        return self.layers(demographics)


class ResidualBlock(nn.Module):
    """Two convolutions beside the identity, between them a scale and a shift of each channel by the condition."""

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
    of the one before, so T must be a multiple of 2 ** (len(multipliers) - 1). ``attention``: at the coarsest level.
    """

    def __init__(self, in_channels: int, out_channels: int, width: int, multipliers, condition_dim, attention=False):
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


class ConditionalUNet(nn.Module):
    """U-Net of an ECG (B, 12, T) with the PPG, or what else is shown, beside it, modulated by time and demographics."""

    def __init__(self, width: int, multipliers: Sequence[int] = MULTIPLIERS, n_shown: int = 1):
        super().__init__()
        self.embed_demographics = DemographicEmbedding(64)
        self.embed_time = nn.Sequential(FourierEmbedding(64), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 64))
        self.unet = UNet1d(len(LEADS) + n_shown, 2 * len(LEADS), width, multipliers, 64, attention=True)

    def forward(self, ecg: Tensor, t: Tensor, shown: Tensor, demographics: Tensor) -> Tensor:
        """Output (B, 12, T) of a noisy ECG (B, 12, T), times (B,) in [0, 1], PPG (B, 1, T), demographics (B, 4)."""
        level = -10.0 + 20.0 * t  # the range for which the frequencies of the embedding are made
        condition = self.embed_time(level) + self.embed_demographics(demographics)
        gain, offset = self.unet(torch.cat([ecg, shown], dim=1), condition).chunk(2, dim=1)
        return gain * ecg + offset


def denoiser_parameters(config: Config) -> int:
    """Number of weights of P2Es's denoiser under the same settings: what ``method.size`` "matched" is matched to."""
    process = ForwardProcess(config.process, config.signal.window_samples, config.signal.sampling_rate)
    return _parameters(Denoiser, config.denoiser, process, N_FEATURES)


def matched_width(build: Callable[[int], nn.Module], n_parameters: int, step: int = 4) -> int:
    """Width, a multiple of ``step`` up to 1024, with which ``build(width)`` comes nearest to a number of weights."""
    widths = range(step, 1024 + 1, step)
    above = bisect.bisect_left(widths, n_parameters, key=lambda width: _parameters(build, width))
    near = widths[max(0, above - 1) : above + 1]
    return min(near, key=lambda width: abs(_parameters(build, width) - n_parameters))


def _parameters(build: Callable[..., nn.Module], *size) -> int:
    """Number of weights of a module, which is built without memory for them and without drawing random numbers."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build(*size).parameters())
