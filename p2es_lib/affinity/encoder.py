"""The encoder of GroupFinder and the contrastive loss that trains it."""

from __future__ import annotations

import torch
from torch import nn

from p2es_lib.demographics import FEATURES

#: Width of the hidden parts; the whole encoder has about 40 thousand weights.
PPG_CHANNELS = (16, 32, 48, 48)
DEMOGRAPHIC_WIDTH = 32


class Encoder(nn.Module):
    """PPG window and demographics to a unit vector.

    The PPG part is four strided convolutions (receptive field 231 samples, 1.8 s at 125 Hz: more than one beat) and an
    average over time, so that it takes any window length and does not mind where the beats lie; the demographic part
    is a small perceptron over :meth:`Demographics.features`. Both parts are standardised with statistics of the
    training windows (:meth:`calibrate`) before they are joined, so that neither drowns the other, even at random
    weights.

    Parameters
    ----------
    embedding_dim : int
        Length D of the embedding.
    inputs : {"both", "demographics", "waveform"}
        What the embedding sees.
    """

    def __init__(self, embedding_dim: int, inputs: str = "both"):
        super().__init__()
        self.inputs = inputs
        width = 0
        if inputs != "demographics":
            layers, channels = [], 1
            for out, taps, stride in zip(PPG_CHANNELS, (15, 7, 5, 5), (4, 4, 2, 2)):
                layers += [nn.Conv1d(channels, out, taps, stride, padding=taps // 2), nn.GELU()]
                channels = out
            self.ppg_encoder = nn.Sequential(*layers)
            width += channels
        if inputs != "waveform":
            self.demographic_encoder = nn.Sequential(
                nn.Linear(len(FEATURES), DEMOGRAPHIC_WIDTH), nn.GELU(), nn.Linear(DEMOGRAPHIC_WIDTH, DEMOGRAPHIC_WIDTH)
            )
            width += DEMOGRAPHIC_WIDTH
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.head = nn.Sequential(nn.Linear(width, 64), nn.GELU(), nn.Linear(64, embedding_dim))

    def _parts(self, ppg: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        parts = []
        if self.inputs != "demographics":
            parts.append(self.ppg_encoder(ppg).mean(-1))  # (B, 48)
        if self.inputs != "waveform":
            parts.append(self.demographic_encoder(features))  # (B, 32)
        return torch.cat(parts, dim=-1)

    def forward(self, ppg: torch.Tensor, features: torch.Tensor, batch_statistics: bool = False) -> torch.Tensor:
        """Embed: ppg (B, 1, T), features (B, 4) to unit vectors (B, D).

        ``batch_statistics`` standardises with the batch's own mean and deviation: for training, while the statistics
        still move with the weights. Otherwise a window's embedding does not depend on the windows beside it.
        """
        parts = self._parts(ppg, features)
        mean, scale = _statistics(parts) if batch_statistics else (self.mean, self.scale)
        return nn.functional.normalize(self.head((parts - mean) / scale), dim=-1)

    @torch.no_grad()
    def calibrate(self, ppg: torch.Tensor, features: torch.Tensor) -> None:
        """Set the standardisation so that the joined parts have mean 0 and standard deviation 1 over these windows."""
        parts = torch.cat([self._parts(*block) for block in zip(ppg.split(512), features.split(512))])
        mean, scale = _statistics(parts)
        self.mean.copy_(mean)
        self.scale.copy_(scale)


def _statistics(parts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of each column, (B, W) to (W,) twice; a constant column gets 1."""
    variance = parts.var(0, correction=0)
    return parts.mean(0), torch.where(variance > 1e-10, variance, 1.0).sqrt()


def contrastive_loss(z: torch.Tensor, positives: torch.Tensor, temperature: float) -> torch.Tensor:
    """Multi-positive InfoNCE: each row should be more like its positives than like the other rows.

    ``- mean_i  1/|P(i)|  sum_{p in P(i)}  log  exp(z_i.z_p / temperature) / sum_{a != i} exp(z_i.z_a / temperature)``

    Parameters
    ----------
    z : (B, D), unit rows
    positives : bool (B, B)
        True where column p is a positive of row i; the diagonal is ignored. Rows without a positive do not count.
    temperature : float

    Returns
    -------
    scalar tensor
        0 if no row has a positive.

    References
    ----------
    Khosla P et al. Supervised contrastive learning. NeurIPS 2020 (their L_out). With one positive per row it is
    InfoNCE: van den Oord A et al., arXiv 1807.03748, 2018.
    """
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    positives = positives & ~itself
    log_share = nn.functional.log_softmax((z @ z.T / temperature).masked_fill(itself, -torch.inf), dim=1)
    count = positives.sum(1)
    per_row = -log_share.masked_fill(~positives, 0.0).sum(1) / count.clamp(min=1)
    return per_row.sum() / (count > 0).sum().clamp(min=1)
