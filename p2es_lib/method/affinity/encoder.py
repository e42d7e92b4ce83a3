"""The encoder of GroupFinder and the contrastive loss that trains it."""

import torch
from torch import nn

from p2es_lib.core.leads import LEADS

#: Channels of the PPG part, and width of the parts for age and for sex; the whole encoder has 60 thousand weights.
PPG_CHANNELS = (16, 32, 48, 48)
DEMOGRAPHIC_WIDTH = 16
#: Of the part for a reference: channels of its two convolutions, moments of the beat that they keep, and its width.
REFERENCE_CHANNELS, REFERENCE_MOMENTS, REFERENCE_WIDTH = (32, 16), 12, 48


def _perceptron(inputs: int, width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, width), nn.GELU(), nn.Linear(width, outputs))


class Encoder(nn.Module):
    """PPG window, demographics and the reference of the person, if there is one, to a unit vector.

    The PPG part is four strided convolutions (receptive field 231 samples, 1.8 s at 125 Hz: more than one beat) and an
    average over time, so that it takes any window length and does not mind where the beats lie; age and sex pass small
    perceptrons; the mean beats of a reference, zero in the leads that it lacks, and a channel per lead that says so
    pass two convolutions. The parts are standardised with statistics of the training windows (:meth:`calibrate`) before
    they are joined, so that none drowns the others, even at random weights. A missing age, sex or reference puts 0, the
    mean, in the place of its part: the window is treated as average in what is not known of it. What never varied among
    the training windows (all women, age never known) is ignored in the same way.

    Parameters
    ----------
    embedding_dim : int
        Length D of the embedding.
    inputs : {"both", "demographics", "waveform"}
        What the embedding sees.
    reference : bool
        Whether it sees a reference too.
    """

    def __init__(self, embedding_dim: int, inputs: str = "both", reference: bool = True):
        super().__init__()
        self.sees_ppg, self.sees_demographics = inputs != "demographics", inputs != "waveform"
        width = 0
        if self.sees_ppg:
            layers, channels = [], 1
            for out, taps, stride in zip(PPG_CHANNELS, (15, 7, 5, 5), (4, 4, 2, 2), strict=True):
                layers += [nn.Conv1d(channels, out, taps, stride, padding=taps // 2), nn.GELU()]
                channels = out
            self.ppg_encoder = nn.Sequential(*layers)
            width += channels
        if self.sees_demographics:
            self.age_encoder = _perceptron(1, DEMOGRAPHIC_WIDTH, DEMOGRAPHIC_WIDTH)
            self.sex_encoder = _perceptron(2, DEMOGRAPHIC_WIDTH, DEMOGRAPHIC_WIDTH)
            width += 2 * DEMOGRAPHIC_WIDTH
        self.sees_reference = reference and inputs == "both"
        if self.sees_reference:
            (first, second), n_leads = REFERENCE_CHANNELS, len(LEADS)
            self.reference_encoder = nn.Sequential(
                nn.Conv1d(2 * n_leads, first, 9, stride=2, padding=4), nn.GELU(),
                nn.Conv1d(first, second, 5, stride=2, padding=2), nn.GELU(),
                nn.AdaptiveAvgPool1d(REFERENCE_MOMENTS), nn.Flatten(),
                nn.Linear(second * REFERENCE_MOMENTS, REFERENCE_WIDTH),
            )  # fmt: skip
            width += REFERENCE_WIDTH
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.head = _perceptron(width, 64, embedding_dim)

    def _parts(self, ppg: torch.Tensor, features: torch.Tensor, beats=None, given=None) -> tuple[torch.Tensor, ...]:
        """What is joined, (B, W), and whether it is known, bool (B, W)."""
        parts, known = [], []
        if self.sees_ppg:
            parts.append(self.ppg_encoder(ppg).mean(-1))  # (B, 48)
            known.append(torch.ones_like(parts[-1], dtype=torch.bool))
        if self.sees_demographics:
            age, sex = features[:, :1], features[:, 2:]  # columns of Demographics.features: age, known | female, male
            parts += [self.age_encoder(age), self.sex_encoder(sex)]  # 2 x (B, 16)
            flags = features[:, 1:2] > 0, sex.sum(1, keepdim=True) > 0
            known += [flag.expand(-1, DEMOGRAPHIC_WIDTH) for flag in flags]
        if self.sees_reference:
            seen = torch.zeros_like(features[:, :1]) if given is None else given.amax(dim=1, keepdim=True)
            known.append((seen > 0).expand(-1, REFERENCE_WIDTH))
            if given is None:
                parts.append(torch.zeros_like(known[-1], dtype=ppg.dtype))
            else:
                mask = given[:, :, None].expand_as(beats)
                parts.append(self.reference_encoder(torch.cat([beats * mask, mask], dim=1)))
        return torch.cat(parts, dim=-1), torch.cat(known, dim=-1)

    def forward(
        self, ppg: torch.Tensor, features: torch.Tensor, beats=None, given=None, *, batch_statistics: bool = False
    ) -> torch.Tensor:
        """Embed: ppg (B, 1, T), features (B, 4) and, if any, mean beats (B, 12, L), mV, and given leads (B, 12) of
        references to unit vectors (B, D).

        ``batch_statistics`` standardises with the batch's own mean and deviation: for training, while the statistics
        still move with the weights. Otherwise a window's embedding does not depend on the windows beside it.
        """
        parts, known = self._parts(ppg, features, beats, given)
        mean, scale = _statistics(parts, known) if batch_statistics else (self.mean, self.scale)
        standardised = torch.where(known, (parts - mean) / scale, 0.0)
        return nn.functional.normalize(self.head(standardised), dim=-1)

    @torch.no_grad()
    def calibrate(self, *inputs: torch.Tensor) -> None:
        """Set the standardisation so that the joined parts have mean 0 and standard deviation 1 over these windows.

        ``inputs`` as of :meth:`forward`.
        """
        blocks = [self._parts(*block) for block in zip(*(part.split(512) for part in inputs), strict=True)]
        mean, scale = _statistics(*(torch.cat(column) for column in zip(*blocks, strict=True)))
        self.mean.copy_(mean)
        self.scale.copy_(scale)


def _statistics(parts: torch.Tensor, known: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of each column's known entries, (B, W) to (W,) twice; infinite if constant."""
    count = known.sum(0).clamp(min=1)
    mean = parts.masked_fill(~known, 0.0).sum(0) / count
    variance = ((parts - mean) ** 2).masked_fill(~known, 0.0).sum(0) / count
    return mean, torch.where(variance > 1e-10, variance, torch.inf).sqrt()


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
