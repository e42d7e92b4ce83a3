"""What every method is: a translator from PPG to 12-lead ECG, and the check of its input that all of them share."""

from typing import Any, Protocol

import numpy as np
import torch

from p2es_lib.core.demographics import Demographics
from p2es_lib.core.errors import InputError


class Translator(Protocol):
    """P2Es, its ablations and each baseline: one method, so that there is one evaluation loop and one table."""

    def translate(
        self, ppg: np.ndarray | torch.Tensor, demographics: Demographics, *, n_samples: int = 1, generator: Any = None
    ) -> torch.Tensor:
        """Translate B windows of PPG (B, 1, T) to ``n_samples`` ECGs each: float32 (B, n_samples, 12, T), mV.

        Leads have the order of ``leads.LEADS``; those that the method never saw in training are NaN. A deterministic
        method returns copies and ignores ``generator``. Errors: as from :func:`check_translation_input`.
        """
        ...


def check_translation_input(
    ppg: np.ndarray | torch.Tensor, demographics: Demographics, window_samples: int, n_samples: int = 1
) -> torch.Tensor:
    """The PPG as a float32 tensor (B, 1, T = ``window_samples``); an InputError says what is wrong with the input."""
    try:
        ppg = torch.as_tensor(ppg).to(torch.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"ppg: not an array of numbers ({error}); give one of shape (windows, 1, samples)") from None
    if ppg.ndim != 3 or ppg.shape[1] != 1 or ppg.shape[0] == 0:
        raise InputError(f"ppg: shape {tuple(ppg.shape)}; expected (windows, 1, samples) with at least one window")
    if ppg.shape[2] != window_samples:
        found = f"ppg: windows of {ppg.shape[2]} samples, but this model works on {window_samples}"
        raise InputError(f"{found}; cut or resample the recording to its window and rate (config.json)")
    broken = ~torch.isfinite(ppg).all(dim=2)[:, 0]
    if broken.any():
        raise InputError(f"ppg: NaN or infinite samples in window {_first(broken)}; leave it out or fill the gaps")
    flat = ppg.std(dim=2)[:, 0] < 1e-6
    if flat.any():
        raise InputError(f"ppg: window {_first(flat)} is flat: no pulse, no translation; leave it out")
    if len(demographics) != len(ppg):
        found = f"demographics: {len(demographics)} entries for {len(ppg)} windows"
        raise InputError(f"{found}; give one per window (Demographics.missing(n) if nothing is known)")
    if n_samples < 1:
        raise InputError(f"n_samples={n_samples}: at least 1")
    return ppg


def _first(rows: torch.Tensor) -> str:
    """Number of the first marked row and how many there are: ``"3 (and 2 more)"``."""
    first, *more = torch.nonzero(rows).flatten().tolist()
    return f"{first} (and {len(more)} more)" if more else f"{first}"
