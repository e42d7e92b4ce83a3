"""A few windows and tiny settings for tests that need a model, not a cohort: made in milliseconds, no simulator."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from p2es_lib.core.config import Config, get_config
from p2es_lib.core.leads import expand_leads
from p2es_lib.core.reference import Reference
from p2es_lib.data.windows import WindowSet
from p2es_lib.data.windows.references import target_beats
from p2es_lib.method.p2es import P2Es

_TINY = {
    "signal.window_samples": 256,
    "data.stream_training": False,
    "denoiser.lead_features": 1,
    "denoiser.n_blocks": 1,
    "affinity.n_steps": 2,
    "affinity.n_groups": 2,
    "affinity.k_neighbours": 3,
    "affinity.batch_size": 8,
    "training.n_steps": 8,
    "training.batch_size": 4,
    "training.warmup_steps": 2,
    "training.validate_every": 4,
    "training.checkpoint_every": 4,
    "training.log_every": 2,
    "training.n_threads": 1,
    "sampling.n_steps": 2,
    "sampling.n_samples": 3,
}


def tiny_config(**changes) -> Config:
    """Smoke settings cut down further; ``section__name=value`` changes one."""
    config = get_config("smoke")
    for setting, value in {**_TINY, **{key.replace("__", "."): value for key, value in changes.items()}}.items():
        config = config.replace(setting, value)
    return config


def synthetic_windows(
    n_train: int = 12, n_validation: int = 4, n_test: int = 6, window_samples: int = 256, lead_mask=None
) -> WindowSet:
    """Periodic pulses and beats: one subject per window, amplitude of the beat tied to sex, splits by subject."""
    rng = np.random.default_rng(0)
    n = n_train + n_validation + n_test
    t = np.arange(window_samples) / 125.0
    ppg, ecg8 = np.empty((n, 1, window_samples)), np.empty((n, 8, window_samples))
    age, sex = rng.uniform(20, 80, n), np.where(rng.random(n) < 0.5, "F", "M")
    for row in range(n):
        period, start = rng.uniform(0.7, 1.1), rng.uniform(0, 0.7)
        phase = (t - start) / period
        ppg[row, 0] = np.sin(2 * np.pi * (phase - 0.2)) + 0.3 * np.sin(4 * np.pi * phase)
        beat = np.exp(-0.5 * (((phase + 0.5) % 1 - 0.5) * period / 0.02) ** 2)
        ecg8[row] = beat * np.linspace(0.3, 1.2, 8)[:, None] * (1.0 if sex[row] == "M" else 0.6)
    ppg = (ppg - ppg.mean(-1, keepdims=True)) / ppg.std(-1, keepdims=True)
    mask = np.full(12, 2, np.uint8) if lead_mask is None else np.asarray(lead_mask, np.uint8)
    ecg = expand_leads(ecg8) * (mask > 0)[:, None]
    index = pd.DataFrame(
        {
            "subject": [f"s{i}" for i in range(n)],
            "record": [f"s{i}-0" for i in range(n)],
            "start_s": 0.0,
            "age": age,
            "sex": sex,
            "split": ["train"] * n_train + ["validation"] * n_validation + ["test"] * n_test,
            "split_kind": "subject",
            "quality": 1.0,
            "rhythm": "",
            "morphology": "",
        }
    )
    return WindowSet(ppg.astype(np.float32), ecg.astype(np.float32), np.tile(mask, (n, 1)), index)


def r_times_of(windows: WindowSet) -> torch.Tensor:
    """R times of windows (B, K), s, padded with inf, as training batches hold them."""
    ecg, mask = (torch.as_tensor(np.array(part)) for part in (windows.ecg, windows.lead_mask))
    return target_beats(ecg, mask, torch.zeros(len(windows), 12), 125.0)


def no_reference(windows: WindowSet) -> dict:
    """What a batch of these windows without references holds besides PPG, ECG, leads and people."""
    return {"reference": Reference.none(len(windows), 125.0), "r_times": r_times_of(windows)}


def tiny_p2es() -> P2Es:
    """An untrained model of :func:`tiny_config` with its groups fitted: it translates, the same each time."""
    torch.manual_seed(0)
    model = P2Es(tiny_config())
    model.group_finder.fit(synthetic_windows().split("train"), seed=0)
    return model.eval()
