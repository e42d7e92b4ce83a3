"""Stage 1 of the denoiser, the temporal multi-scale module: from noise, PPG and leads to a coarse ECG.

Blocks of parallel convolutions at several time scales, from the width of a QRS complex to several beats. Features of
the PPG enter at every scale of every block; noise level and demographics modulate each block. The channels are arranged
by lead, and in every block the leads exchange information through the affinity matrix A:

    h_l <- h_l + gate * sum_m A[l, m] h_m

The filters mix the channels of all leads as well, unless ``mix_leads`` is off: then A alone joins leads.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from p2es_lib.core.config import DenoiserConfig
from p2es_lib.core.demographics import FEATURES as DEMOGRAPHIC_FEATURES
from p2es_lib.core.leads import LEADS

N_LEADS = len(LEADS)
#: Log-odds of the share of the correction that is taken, at the start: nearly all of it.
TRUST_START = 2.0


@dataclass(frozen=True)
class Condition:
    """What the denoiser knows besides x_t; it does not change along the reverse process.

    Attributes
    ----------
    ppg_features : Tensor, shape (B, C, T)
        From :func:`p2es_lib.signals.pulse_features.pulse_features`.
    demographics : Tensor, shape (B, 4)
        From :meth:`p2es_lib.core.demographics.Demographics.features`.
    affinity : Tensor, shape (B, 12, 12)
        From :class:`p2es_lib.method.affinity.LeadAffinity`.
    base, given : Tensor, shapes (B, 12, T) and (B, 12)
        The person's reference placed at the pulses, in units of the data set's standard deviation, and 1 for the leads
        that it has; both 0 without a reference.
    encoded : tuple, optional
        What :meth:`MultiScaleGenerator.encode` made of all that; None: each call does it again.
    """

    ppg_features: Tensor
    demographics: Tensor
    affinity: Tensor
    base: Tensor
    given: Tensor
    encoded: tuple[list[list[Tensor]], Tensor] | None = None


def filter_groups(config: DenoiserConfig) -> int:
    """Groups of channels that the filters keep apart: one, or one per lead."""
    return 1 if config.mix_leads else N_LEADS


class FourierEmbedding(nn.Module):
    """Sines and cosines of the log signal-to-noise ratio, (B,) to (B, dim)."""

    def __init__(self, dim: int):
        super().__init__()
        self.register_buffer("frequencies", torch.logspace(-2, 0.5, dim // 2), persistent=False)

    def forward(self, logsnr: Tensor) -> Tensor:
        """Embed (B,) as (B, dim)."""
        angle = logsnr[:, None].float() * self.frequencies
        return torch.cat([angle.sin(), angle.cos()], dim=1)


def average_pool(x: Tensor, size: int) -> Tensor:
    """Mean of each ``size`` neighbours, (B, W, T) to (B, W, T // size): as ``F.avg_pool1d``, but faster on CPUs."""
    first, *others = x[..., : x.shape[-1] // size * size].float().unflatten(-1, (-1, size)).unbind(-1)
    for other in others:
        first = first + other  # one after the other, as there: the same bits
    return (first / size).to(x.dtype)


class MultiScaleBlock(nn.Module):
    """Parallel receptive fields, PPG at every scale, modulation by t and demographics, exchange among the leads."""

    def __init__(
        self,
        width: int,
        ppg_width: int,
        condition_dim: int,
        scales: tuple[int, ...],
        n_ppg_scales: int | None = None,
        groups: int = 1,
    ):
        super().__init__()
        self.scales = scales
        self.norm = nn.GroupNorm(groups, width)
        self.modulation = nn.Linear(condition_dim, 2 * width)
        self.branches = nn.ModuleList(nn.Conv1d(width, width, 5, padding=2, groups=groups) for _ in scales)
        n_ppg_scales = len(scales) if n_ppg_scales is None else n_ppg_scales  # the finest ones
        self.ppg_projections = nn.ModuleList(nn.Conv1d(ppg_width, width, 1) for _ in range(n_ppg_scales))
        self.lead_gate = nn.Parameter(torch.full((width, 1), 0.5))
        self.output = nn.Conv1d(width, width, 1, groups=groups)
        # A block starts as the identity: deep stacks then train stably from the first step.
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, h: Tensor, ppg: list[Tensor], condition: Tensor, affinity: Tensor) -> Tensor:
        """Features of the leads h (B, W, T'), with what the block adds to them."""
        scale, shift = self.modulation(condition)[:, :, None].chunk(2, dim=1)
        x = self.norm(h) * (1 + scale) + shift  # (B, W, T')
        # Sum of the branches from the coarsest to the finest: each is interpolated only to the next finer stride.
        y = None
        for branch, finer in zip(
            reversed(self.branch_outputs(x, ppg)), reversed((None, *self.scales[:-1])), strict=True
        ):
            y = branch if y is None else y + branch
            if finer is not None:
                y = F.interpolate(y, size=x.shape[-1] // finer, mode="linear")
        exchanged = torch.bmm(affinity, y.reshape(y.shape[0], N_LEADS, -1)).reshape(y.shape)
        y = y + self.lead_gate * exchanged
        return h + self.output(F.gelu(y))

    def project_ppg(self, ppg_scales: list[Tensor]) -> list[Tensor]:
        """What the block adds at each of its scales that sees the PPG; shapes (B, W, T' / s)."""
        return [project(ppg) for project, ppg in zip(self.ppg_projections, ppg_scales)]

    def branch_outputs(self, x: Tensor, ppg: list[Tensor]) -> list[Tensor]:
        """Per scale s: average-pool to stride s, add the PPG at that stride, convolve; shapes (B, W, T' / s)."""
        outputs, stride = [], 1
        for index, (s, branch) in enumerate(zip(self.scales, self.branches, strict=True)):
            if s > stride:
                x, stride = average_pool(x, s // stride), s
            outputs.append(branch(F.gelu(x + ppg[index] if index < len(ppg) else x)))
        return outputs


class MultiScaleGenerator(nn.Module):
    """Stage 1: coarse estimate of x_0 from x_t, the PPG, t, demographics and the affinity matrix."""

    def __init__(self, config: DenoiserConfig, n_ppg_features: int):
        super().__init__()
        has_trust = config.deblurring and config.local_deblurring
        width, condition_dim = N_LEADS * config.lead_features, 128
        ppg_width = max(width // 2, 16)
        self.scales = config.scales
        self.uses_demographics, self.uses_noise_level = config.demographics, config.noise_level
        stride = config.stem_stride
        stem = {"kernel_size": 4 * stride + 1, "stride": stride, "padding": 2 * stride}
        # Leads apart: filters and normalisation of each lead see its own channels only.
        groups = filter_groups(config)
        self.stem = nn.Conv1d(N_LEADS, width, groups=groups, **stem)
        self.reference_stem = nn.Conv1d(2 * N_LEADS, width, groups=groups, bias=False, **stem)
        self.ppg_encoder = nn.Sequential(
            nn.Conv1d(n_ppg_features, ppg_width, **stem), nn.GELU(), nn.Conv1d(ppg_width, ppg_width, 5, padding=2)
        )
        self.embed_noise = FourierEmbedding(64)
        self.embed_condition = nn.Sequential(
            nn.Linear(64 + len(DEMOGRAPHIC_FEATURES), condition_dim),
            nn.SiLU(),
            nn.Linear(condition_dim, condition_dim),
            nn.SiLU(),
        )
        n_ppg_scales = [None] * config.n_blocks if config.ppg_at_every_scale else [1] + [0] * (config.n_blocks - 1)
        self.blocks = nn.ModuleList(
            MultiScaleBlock(width, ppg_width, condition_dim, config.scales, count, groups) for count in n_ppg_scales
        )
        # Per-lead output: each lead is read from its own features only, so what it knows of the other leads came
        # through the affinity matrix, and through the filters of the trunk where these mix the leads. The transposed
        # convolution undoes the stride of the stem.
        self.output_norm = nn.GroupNorm(groups, width)
        head = {"kernel_size": 2 * stride, "stride": stride, "padding": stride // 2, "groups": N_LEADS}
        self.output = nn.ConvTranspose1d(width, N_LEADS, **head)
        self.trust = nn.ConvTranspose1d(width, N_LEADS, **head) if has_trust else None
        if self.trust is not None:
            nn.init.zeros_(self.trust.weight)
            nn.init.constant_(self.trust.bias, TRUST_START)

    def forward(self, x_t: Tensor, logsnr: Tensor, condition: Condition) -> tuple[Tensor, Tensor | None]:
        """Coarse estimate (B, 12, T), and the share of stage 2's correction to take, same shape (None: all of it)."""
        demographics = condition.demographics if self.uses_demographics else torch.zeros_like(condition.demographics)
        noise_level = self.embed_noise(logsnr) * float(self.uses_noise_level)
        c = self.embed_condition(torch.cat([noise_level, demographics], dim=1))
        encoded_ppg, reference = condition.encoded or self.encode(condition)
        h = self.stem(x_t) + reference
        for block, ppg in zip(self.blocks, encoded_ppg, strict=True):
            h = block(h, ppg, c, condition.affinity)
        h = F.gelu(self.output_norm(h))
        trust = None if self.trust is None else torch.sigmoid(self.trust(h).float())[..., : x_t.shape[-1]]
        return self.output(h)[..., : x_t.shape[-1]].float(), trust

    def encode(self, condition: Condition) -> tuple[list[list[Tensor]], Tensor]:
        """What each block adds at each scale for the PPG, and what the reference adds to the stem (B, W, T').

        Without x_t in it, one computation serves all steps of a sampler.
        """
        ppg = F.gelu(self.ppg_encoder(condition.ppg_features))
        ppg_scales = [F.avg_pool1d(ppg, stride) if stride > 1 else ppg for stride in self.scales]
        given = condition.given[:, :, None].expand_as(condition.base)
        reference = torch.stack([condition.base, given], dim=2).flatten(1, 2)  # lead by lead
        return [block.project_ppg(ppg_scales) for block in self.blocks], self.reference_stem(reference)
