"""The delay from R to the pulse: what the pulse wave, age, sex and a reference say of it, and how surely.

A network of a few thousand weights gives mean and standard deviation of one delay per window. Without a reference it
reads the shape of the pulse and age and sex; with one it starts from the delay that was seen then, and how far that has
moved since is learned from pairs of windows of one session and of different ones. Each sample of a translation is
placed at a delay of its own, drawn from this distribution, and keeps it for the whole recording.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from p2es_lib.core.demographics import FEATURES as DEMOGRAPHIC_FEATURES
from p2es_lib.core.reference import Reference

#: Delay and its standard deviation at the start of training, s.
USUAL_S, USUAL_SD_S = 0.25, 0.02
#: Limits of the standard deviation, s; further than so many of them off, a delay is no better known by training.
SD_LIMITS_S, FAR = (0.001, 0.15), 4.0
_REFERENCE_FEATURES = 4


class PulseDelay(nn.Module):
    """Mean and standard deviation of the delay of windows, (B,) s each, from pulse features, age, sex and reference."""

    def __init__(self, n_ppg_features: int, width: int = 24):
        super().__init__()
        self.wave = nn.Sequential(
            nn.Conv1d(n_ppg_features, width, 9, stride=4, padding=4), nn.GELU(),
            nn.Conv1d(width, width, 9, stride=4, padding=4), nn.GELU(),
        )  # fmt: skip
        self.hidden = nn.Linear(2 * width + len(DEMOGRAPHIC_FEATURES) + _REFERENCE_FEATURES, 64)
        self.output = nn.Linear(64, 2)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, ppg_features: Tensor, demographics: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """From ``ppg_features`` (B, C, T), ``demographics`` (B, 4) and ``seen`` (B, 4) of :func:`seen_before`."""
        h = self.wave(ppg_features)
        pooled = torch.cat([h.mean(-1), h.square().mean(-1)], dim=1)
        output = self.output(F.gelu(self.hidden(torch.cat([pooled, demographics, seen], dim=1)))).float()
        known, delay, same = seen[:, 0], seen[:, 1] * 0.1 + USUAL_S, seen[:, 2]
        start = torch.where(known > 0, delay, USUAL_S)
        # How sure one is at the start: of a delay just seen, of one seen another day, of none.
        sd = torch.where(known > 0, torch.where(same > 0, 0.003, 0.012), USUAL_SD_S)
        return start + 0.05 * output[:, 0], (sd * output[:, 1].exp()).clamp(*SD_LIMITS_S)

    @staticmethod
    def loss(mean: Tensor, sd: Tensor, delay_s: Tensor) -> Tensor:
        """Gaussian negative log-likelihood of the delays that were found, (B,), NaN where none was; a scalar."""
        found = delay_s.isfinite()
        z = ((torch.where(found, delay_s, mean.detach()) - mean) / sd).abs()
        # Linear beyond FAR: a wrong match of beats must not decide.
        squared = torch.where(z < FAR, 0.5 * z**2, FAR * z - 0.5 * FAR**2)
        return ((squared + sd.log()) * found).sum() / found.sum().clamp_min(1)


def seen_before(reference: Reference) -> Tensor:
    """What a reference says of the delay, (B, 4): whether it was seen, it, whether in this session, whether it is."""
    known = reference.delay_s.isfinite()
    delay = (torch.where(known, reference.delay_s, USUAL_S) - USUAL_S) / 0.1
    same = reference.same_session
    return torch.stack([known.float(), delay, (known & same).float(), reference.given.mean(dim=1)], dim=1)


def quantile(noise_shift: Tensor, sample: Tensor) -> Tensor:
    """Which quantile of the delay sample k of a window takes, (M,): evenly spread over the first samples, whatever K.

    The radical inverse of k in base 2 (van der Corput), moved by the window's own uniform number ``noise_shift`` (M,).
    """
    inverse, base, k = torch.zeros_like(noise_shift), 0.5, sample.clone()
    while bool((k > 0).any()):
        inverse, base, k = inverse + base * (k % 2), base / 2, k // 2
    return (inverse + noise_shift) % 1.0


def drawn_delay(mean: Tensor, sd: Tensor, quantiles: Tensor) -> Tensor:
    """Delays at these quantiles, (M,) s, at most 3 standard deviations from the mean."""
    return mean + sd * torch.special.ndtri(quantiles.clamp(0.00135, 0.99865))
