"""Where in the reverse process a part of the model earns its place: error of the estimate of x_0 against the time t.

A sampler asks the denoiser at a few times only. What an ablation changes between them is not seen in its samples, so
two models are compared here at any t, on the same windows with the same noise.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from p2es_lib.core.errors import InputError
from p2es_lib.data.windows import WindowSet
from p2es_lib.evaluation.metrics.resampling import subject_weights, with_interval
from p2es_lib.method.p2es import P2Es

#: Name of the estimate of stage 1 and of both stages, as they stand in the table.
STAGES = {"coarse": "stage 1", "refined": "both stages"}


@torch.inference_mode()
def squared_errors(model: P2Es, windows: WindowSet, t: float, seed=0, batch_size=64) -> dict[str, np.ndarray]:
    """Mean squared error of both estimates of x_0 at one time, per window: key of :data:`STAGES` to mV^2 (N,).

    Leads that a window lacks do not count there. ``t`` in (0, 1]; the same seed gives the same noise for any model.
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


def error_by_time(
    models: dict[str, P2Es], windows: WindowSet, times: list[float], *, n_bootstrap: int = 1000
) -> pd.DataFrame:
    """Root mean squared error at each time in (0, 1], and its square as a share of that of "p2es" after both stages.

    All models (by name) must share the forward process of "p2es" (else InputError): otherwise x_t says more to one than
    to the other. Columns variant, stage, t, rmse (mV), ratio, lower, upper (95 % interval of the ratio, paired, of
    ``n_bootstrap`` resamples of subjects), n_subjects. A model without deblurring has no row for stage 1: its two
    estimates are one.
    """
    for name, model in models.items():
        if model.config.process != models["p2es"].config.process:
            raise InputError(f"error_by_time: {name} was trained with another forward process than p2es; leave it out")
    weights = subject_weights(windows.index["subject"].to_numpy(), n_bootstrap, seed=0)
    n_subjects = windows.index["subject"].nunique()
    rows = []
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
