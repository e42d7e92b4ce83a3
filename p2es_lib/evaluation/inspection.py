"""Looking into a trained model: what time scales and stages contribute, and where in the reverse process they do.

A sampler asks the denoiser at a few times only. What an ablation changes between them is not seen in its samples, so
:func:`error_by_time` compares models at any time, on the same windows with the same noise.
"""

import copy
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from p2es_lib.core.errors import InputError
from p2es_lib.data.windows import WindowSet
from p2es_lib.evaluation.metrics.resampling import subject_weights, with_interval
from p2es_lib.method.multi_scale import Condition
from p2es_lib.method.p2es import P2Es
from p2es_lib.signals.dct import dct

#: Name of the estimate of stage 1 and of both stages, as they stand in the table of errors.
STAGES = {"coarse": "stage 1", "refined": "both stages"}


@dataclass(frozen=True)
class StageView:
    """What the two stages do to windows at one time t of the forward process; signals (N, 12, T) in mV."""

    #: Estimates of stage 1 and of stage 2, and the clean ECG.
    coarse: np.ndarray
    refined: np.ndarray
    truth: np.ndarray
    #: Span of one convolution of a scale in ms to the change of the coarse estimate when that scale is switched off in
    #: every block. They need not add up to the estimate, since the blocks are not linear.
    contributions: dict[float, np.ndarray]
    #: Hz of the DCT coefficients (T,), and their mean squared error before and after stage 2, mV^2.
    frequencies: np.ndarray
    coarse_error: np.ndarray
    refined_error: np.ndarray
    #: alpha^2 P / (alpha^2 P + sigma^2) (T,), mean over leads: the share of the answer that stage 2 takes from x_t and
    #: not from stage 1. None where the blur is not diagonal in frequency, or without deblurring.
    frequency_share: np.ndarray | None
    #: Which share of stage 2's correction is taken at each sample. None where all of it is.
    local_share: np.ndarray | None


def _without_scale(model: P2Es, index: int) -> P2Es:
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
        silent = _without_scale(model, index)(x_t, times, *fixed).coarse
        contributions[span_ms] = in_mv(estimate.coarse - silent)
    features, demographics, pi, base, given = fixed
    condition = Condition(features, demographics, model.lead_affinity(pi), base, given)
    _, local_share = model.denoiser.multi_scale(x_t, model.process.level(times).to(x_t.dtype), condition)
    return StageView(
        coarse=in_mv(estimate.coarse),
        refined=in_mv(estimate.refined),
        truth=(x_0 * scale).numpy(),
        contributions=contributions,
        frequencies=np.arange(signal.window_samples) * signal.sampling_rate / (2 * signal.window_samples),
        coarse_error=error(estimate.coarse),
        refined_error=error(estimate.refined),
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


@torch.inference_mode()
def squared_errors(model: P2Es, windows: WindowSet, t: float, seed=0, batch_size=64) -> dict[str, np.ndarray]:
    """Mean squared error of both estimates of x_0 at one time, per window: key of :data:`STAGES` to mV^2 (N,).

    Leads that a window lacks do not count there. The same seed gives the same noise for any model.
    """
    generator = torch.Generator().manual_seed(seed)
    features, trained = torch.as_tensor(windows.demographics.features()), (model.trained_leads > 0).cpu()[:, None]
    found: dict[str, list[np.ndarray]] = {stage: [] for stage in STAGES}
    for start in range(0, len(windows), batch_size):
        part = slice(start, start + batch_size)
        ppg, ecg, mask = (torch.as_tensor(np.array(x[part])) for x in (windows.ppg, windows.ecg, windows.lead_mask))
        present = (mask > 0)[:, :, None] * trained
        x_0 = ecg * present
        noise = torch.randn(x_0.shape, generator=generator).to(model.device)
        times = torch.full((len(x_0),), float(t), device=model.device)
        fixed = model.condition(ppg.to(model.device), features[part].to(model.device))
        estimate = model(model.process.marginal(x_0.to(model.device) / model.ecg_scale_mv, times, noise), times, *fixed)
        for stage in STAGES:
            error = ((getattr(estimate, stage) * model.ecg_scale_mv).cpu() - x_0) * present
            squared = error.square().sum((1, 2)) / (present.sum((1, 2)) * x_0.shape[-1])
            found[stage].append(squared.numpy())
    return {stage: np.concatenate(parts) for stage, parts in found.items()}


def error_by_time(models: dict[str, P2Es], windows: WindowSet, times, *, n_bootstrap: int = 1000) -> pd.DataFrame:
    """Root mean squared error at each time in (0, 1], and its square as a share of that of "p2es" after both stages.

    All models (by name) must share the forward process of "p2es" (else InputError): otherwise x_t says more to one than
    to the other. Columns variant, stage, t, rmse (mV), ratio, lower, upper (95 % interval of the ratio, paired over
    subjects), n_subjects. A model without deblurring has no row for stage 1: its two estimates are one.
    """
    for name, model in models.items():
        if model.config.process != models["p2es"].config.process:
            raise InputError(f"error_by_time: {name} was trained with another forward process than p2es; leave it out")
    weights = subject_weights(windows.index["subject"].to_numpy(), n_bootstrap, seed=0)
    n_subjects, rows = windows.index["subject"].nunique(), []
    for t in times:
        errors = {name: squared_errors(model, windows, t) for name, model in models.items()}
        base = weights @ errors["p2es"]["refined"]
        for name, by_stage in errors.items():
            for stage in STAGES if models[name].config.denoiser.deblurring else ["refined"]:
                draws = weights @ by_stage[stage]
                rmse = float(np.sqrt(draws[0] / weights[0].sum()))
                row = {"variant": name, "stage": STAGES[stage], "t": t, "rmse": rmse}
                rows.append(row | with_interval(draws / base, n_subjects, "ratio") | {"n_subjects": n_subjects})
    return pd.DataFrame(rows)
