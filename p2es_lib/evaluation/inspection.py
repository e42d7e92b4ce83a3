"""Looking into a trained model: what each time scale of stage 1 and what stage 2 contribute."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch

from p2es_lib.data.windows import WindowSet
from p2es_lib.method.multi_scale import Condition
from p2es_lib.method.p2es import P2Es
from p2es_lib.signals.dct import dct


@dataclass(frozen=True)
class StageView:
    """What the two stages do to windows at one time t of the forward process; signals in mV.

    Attributes
    ----------
    x_t, coarse, refined, truth : float array (N, 12, T)
        Input (in mV as well), estimate of stage 1, estimate of stage 2, and the clean ECG.
    contributions : dict
        Span of one convolution of that scale in ms to (N, 12, T): how the coarse estimate changes when the scale is
        switched off in every block. They need not add up to the estimate, since the blocks are not linear.
    frequencies, coarse_error, refined_error, noise : float array (T,)
        Hz of the DCT coefficients; their mean squared error before and after stage 2, and the noise in x_t, mV^2.
    frequency_share : float array (T,) or None
        alpha^2 P / (alpha^2 P + sigma^2), mean over leads: the share of the answer that stage 2 takes from x_t rather
        than from stage 1. None where the blur is not diagonal in frequency, or without deblurring.
    local_share : float array (N, 12, T) or None
        Which share of stage 2's correction is taken at each sample. None where all of it is.
    """

    x_t: np.ndarray
    coarse: np.ndarray
    refined: np.ndarray
    truth: np.ndarray
    contributions: dict[float, np.ndarray]
    frequencies: np.ndarray
    coarse_error: np.ndarray
    refined_error: np.ndarray
    noise: np.ndarray
    frequency_share: np.ndarray | None
    local_share: np.ndarray | None


def without_scale(model: P2Es, index: int) -> P2Es:
    """Copy of the model in which the branch of one time scale is silent in every block."""
    silent = copy.deepcopy(model)
    with torch.no_grad():
        for block in silent.denoiser.multi_scale.blocks:
            block.branches[index].weight.zero_()
            block.branches[index].bias.zero_()
    return silent


@torch.inference_mode()
def view_stages(model: P2Es, windows: WindowSet, t: float, seed: int = 0) -> StageView:
    """What each stage of a model on the CPU makes of windows blurred and noised to time t in (0, 1].

    Leads that a window lacks are zero in all outputs; ``seed`` is that of the noise.
    """
    signal, scale = model.config.signal, float(model.ecg_scale_mv)
    present = torch.as_tensor(np.array(windows.lead_mask) > 0)[:, :, None]
    x_0 = torch.as_tensor(np.array(windows.ecg)) * present / scale
    noise = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(seed))
    times = torch.full((len(x_0),), float(t))
    x_t = model.process.marginal(x_0, times, noise)
    fixed = model.condition(torch.as_tensor(np.array(windows.ppg)), torch.as_tensor(windows.demographics.features()))
    estimate = model(x_t, times, *fixed)

    def in_mv(x: torch.Tensor) -> np.ndarray:
        return (x * present * scale).numpy()

    def error(prediction: torch.Tensor) -> np.ndarray:
        squared = dct((prediction - x_0) * present * scale) ** 2
        return (squared.sum((0, 1)) / present.sum()).numpy()

    contributions = {}
    for index, stride in enumerate(model.config.denoiser.scales):
        span_ms = 5 * stride * model.config.denoiser.stem_stride / signal.sampling_rate * 1000
        silent = without_scale(model, index)(x_t, times, *fixed).coarse
        contributions[span_ms] = in_mv(estimate.coarse - silent)
    features, demographics, pi = fixed
    condition = Condition(features, demographics, model.lead_affinity(pi))
    _, local_share = model.denoiser.multi_scale(x_t, model.process.level(times).to(x_t.dtype), condition)
    n, sigma = signal.window_samples, float(model.process.sigma(times)[0])
    return StageView(
        x_t=in_mv(x_t),
        coarse=in_mv(estimate.coarse),
        refined=in_mv(estimate.refined),
        truth=(x_0 * scale).numpy(),
        contributions=contributions,
        frequencies=np.arange(n) * signal.sampling_rate / (2 * n),
        coarse_error=error(estimate.coarse),
        refined_error=error(estimate.refined),
        noise=np.full(n, (sigma * scale) ** 2),
        frequency_share=_frequency_share(model, times),
        local_share=None if local_share is None else local_share.numpy(),
    )


def _frequency_share(model: P2Es, times: torch.Tensor) -> np.ndarray | None:
    """Share of stage 2's answer that comes from x_t, per frequency (T,), mean over leads."""
    stage_2 = model.denoiser.deblurring
    if stage_2 is None or model.config.process.blur != "dct":
        return None
    alpha, sigma = model.process.alpha(times)[:1, None], float(model.process.sigma(times)[0])
    prior = stage_2.prior_variance(model.process.logsnr(times)[:1])
    return (alpha * stage_2.gain(alpha, torch.tensor(sigma), prior))[0].mean(0).numpy()
