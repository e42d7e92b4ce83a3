"""The denoiser: from a blurred, noisy ECG and the PPG to an estimate of the clean ECG.

It follows the two steps that the abstract of P2Es (arXiv 2509.25480) names for the reverse process, "a temporal
multi-scale generation module followed by frequency deblurring"; what they are made of is our decision.

Stage 1, :class:`MultiScaleGenerator`: blocks of parallel convolutions at several time scales, from the width of a QRS
complex to several beats. Features of the PPG enter at every scale of every block; noise level and demographics
modulate each block. The channels are arranged by lead, and in every block the leads exchange information through the
affinity matrix A: ``h_l <- h_l + gate * sum_m A[l, m] h_m``. (The filters mix the channels of all leads as well, unless
``mix_leads`` is off: then the affinity is the only way from lead to lead.) Its result is a coarse estimate of x_0.

Stage 2, :class:`FrequencyDeblurring`: in the basis in which the blur is diagonal, the coarse estimate ``c`` is the
prior mean and the observation ``u_t = alpha_t u_0 + sigma_t eps`` corrects it by the regularised inverse of the known
blur. With P(k) the variance of the error of ``c`` (learned per lead, frequency and noise level) this is the Wiener or
Kalman gain, the minimum-mean-square-error linear estimate:

    u_0_hat = c + alpha P / (alpha^2 P + sigma^2) * (u_t - alpha c)

Where the blur has removed a frequency the gain goes to zero and the coarse estimate stands; where it has not, the
observation decides. P starts small, so that training begins with stage 1 alone: an inverse that is trusted from the start
takes from stage 1 the reason to learn what x_t shows. A small convolution along frequency adds a learned residual, in
units of the remaining uncertainty sqrt(P sigma^2 / (alpha^2 P + sigma^2)).

This inverse is stationary: it would let as much of the noise of x_t into the flat stretch between two beats as into the
QRS complex, where stage 1 errs. So stage 1 also says, for each lead and sample, which share g of the correction to take
(the idea of the local Wiener filter: Lee 1980, IEEE Trans Pattern Anal 2:165, where g is the local signal's share of the
local variance; here it is learned):

    x_0_hat = c + g (B^-1 u_0_hat - c)

Last, the estimate is projected on the leads that satisfy Einthoven's and Goldberger's equations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from p2es_lib.core.config import DenoiserConfig
from p2es_lib.core.demographics import FEATURES as DEMOGRAPHIC_FEATURES
from p2es_lib.core.leads import PROJECTION
from p2es_lib.method.forward_process import ForwardProcess

N_LEADS = 12
#: Logarithm of P at the start, in units of the data set's variance: one part in 400.
PRIOR_START = -6.0
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
    encoded_ppg : list of list of Tensor, optional
        What :meth:`MultiScaleGenerator.encode_ppg` made of ``ppg_features``; None: each call does it again.
    """

    ppg_features: Tensor
    demographics: Tensor
    affinity: Tensor
    encoded_ppg: list[list[Tensor]] | None = None


class Estimate(NamedTuple):
    """Both stages' estimates of x_0, each (B, 12, T) in the scale of x_t (a tuple: Fabric walks through outputs)."""

    refined: Tensor
    coarse: Tensor


def filter_groups(config: DenoiserConfig) -> int:
    """Groups of channels that the filters keep apart: one, or one per lead."""
    return 1 if config.mix_leads else N_LEADS


class FourierEmbedding(nn.Module):
    """Sines and cosines of the log signal-to-noise ratio, (B,) to (B, dim)."""

    def __init__(self, dim: int):
        super().__init__()
        self.register_buffer("frequencies", torch.logspace(-2, 0.5, dim // 2), persistent=False)

    def forward(self, logsnr: Tensor) -> Tensor:
        angle = logsnr[:, None].float() * self.frequencies
        return torch.cat([angle.sin(), angle.cos()], dim=1)


def average_pool(x: Tensor, size: int) -> Tensor:
    """Mean of each ``size`` neighbours, (B, W, T) to (B, W, T // size): ``F.avg_pool1d``, which on CPUs takes several times as long."""
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
        """Coarse estimate (B, 12, T), and the share of stage 2's correction to take, the same shape (None: all of it)."""
        demographics = condition.demographics if self.uses_demographics else torch.zeros_like(condition.demographics)
        noise_level = self.embed_noise(logsnr) * float(self.uses_noise_level)
        c = self.embed_condition(torch.cat([noise_level, demographics], dim=1))
        encoded_ppg = (
            self.encode_ppg(condition.ppg_features) if condition.encoded_ppg is None else condition.encoded_ppg
        )
        h = self.stem(x_t)
        for block, ppg in zip(self.blocks, encoded_ppg, strict=True):
            h = block(h, ppg, c, condition.affinity)
        h = F.gelu(self.output_norm(h))
        trust = None if self.trust is None else torch.sigmoid(self.trust(h).float())[..., : x_t.shape[-1]]
        return self.output(h)[..., : x_t.shape[-1]].float(), trust

    def encode_ppg(self, ppg_features: Tensor) -> list[list[Tensor]]:
        """What each block adds at each scale; it does not depend on x_t, so one computation serves all steps of a sampler."""
        ppg = F.gelu(self.ppg_encoder(ppg_features))
        ppg_scales = [F.avg_pool1d(ppg, stride) if stride > 1 else ppg for stride in self.scales]
        return [block.project_ppg(ppg_scales) for block in self.blocks]


class FrequencyDeblurring(nn.Module):
    """Stage 2: regularised inverse of the known blur around the coarse estimate, plus a learned residual."""

    def __init__(self, n_samples: int, residual: bool = True, groups: int = 1, width: int = 24):
        super().__init__()
        self.has_residual = residual
        position = torch.linspace(0, 1, n_samples)
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


class Denoiser(nn.Module):
    """Both stages and the projection on consistent leads.

    Parameters
    ----------
    config : DenoiserConfig
        Sizes and switches.
    process : ForwardProcess
        Gives the basis, the blur response and the noise level that stage 2 inverts.
    n_ppg_features : int
        Channels of ``Condition.ppg_features``.
    """

    def __init__(self, config: DenoiserConfig, process: ForwardProcess, n_ppg_features: int):
        super().__init__()
        self.process = process
        self.generator = MultiScaleGenerator(config, n_ppg_features)
        stage_2 = (process.n_samples, config.deblurring_residual, filter_groups(config))
        self.deblurring = FrequencyDeblurring(*stage_2) if config.deblurring else None
        projection = torch.tensor(PROJECTION, dtype=torch.float32) if config.projection else torch.eye(N_LEADS)
        self.register_buffer("projection", projection, persistent=False)

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Estimate:
        """Estimate x_0.

        Parameters
        ----------
        x_t : Tensor, shape (B, 12, T)
            Blurred and noisy ECG, in units of the data set's standard deviation.
        t : Tensor, shape (B,)
            Time of the forward process in [0, 1].
        condition : Condition
            PPG features, demographics and affinity matrix.

        Returns
        -------
        Estimate
            ``refined`` after both stages and ``coarse`` after stage 1 (equal without deblurring), both projected.
        """
        logsnr = self.process.level(t).to(x_t.dtype)
        coarse, trust = self.generator(x_t, logsnr, condition)
        refined = coarse
        if self.deblurring is not None:
            alpha = self.process.alpha(t)[:, None].to(coarse.dtype)  # (B, 1, T)
            sigma = self.process.sigma_in_basis(t)[:, None].to(coarse.dtype)  # (B, 1, T)
            u_c, u_t = self.process.to_basis(coarse), self.process.to_basis(x_t.to(coarse.dtype))
            refined = self.process.from_basis(self.deblurring(u_c, u_t, logsnr, alpha, sigma))
            if trust is not None:
                refined = coarse + trust * (refined - coarse)
        return Estimate(self.project(refined), self.project(coarse))

    def project(self, ecg: Tensor) -> Tensor:
        """Nearest ECG that satisfies Einthoven's and Goldberger's equations, (B, 12, T)."""
        return torch.einsum("ij,bjt->bit", self.projection, ecg)
