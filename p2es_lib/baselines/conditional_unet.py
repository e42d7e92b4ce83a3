"""The network of the generative baselines: a U-Net of a noisy 12-lead ECG beside the PPG, told time and demographics.

RDDM and rectified flow differ in what they ask of their networks, not here in what those are made of, so that a
difference between them in a table is one of method. What both ask for holds white noise in 12 leads; with the weights
of P2Es there are few channels more than leads, and noise that does not pass through them stays in the ECG. So the noisy
ECG also goes past the U-Net, which only says with what gain, for each lead and time.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from p2es_lib.baselines.blocks import DemographicEmbedding, UNet1d
from p2es_lib.core.leads import LEADS
from p2es_lib.method.multi_scale import FourierEmbedding

#: Channels per level, in units of the finest: five halvings, as in the U-Net regression and in RDDM.
MULTIPLIERS = (1, 2, 2, 3, 4, 4)
CONDITION_DIM = 64
#: Time from 0 to 1 is stretched to this range, for which the frequencies of the embedding are made.
LEVEL_RANGE = (-10.0, 10.0)


class ConditionalUNet(nn.Module):
    """U-Net of an ECG (B, 12, T) and the PPG as a thirteenth channel, modulated by time and demographics.

    The PPG keeps its place in time, which is what tells where the beats are. Self-attention at the coarsest level lets
    each quarter of a second see the whole window. ``width`` and ``multipliers`` as of :class:`UNet1d`.
    """

    def __init__(self, width: int, multipliers: Sequence[int] = MULTIPLIERS):
        super().__init__()
        self.embed_demographics = DemographicEmbedding(CONDITION_DIM)
        self.embed_time = nn.Sequential(
            FourierEmbedding(64), nn.Linear(64, CONDITION_DIM), nn.SiLU(), nn.Linear(CONDITION_DIM, CONDITION_DIM)
        )
        self.unet = UNet1d(len(LEADS) + 1, 2 * len(LEADS), width, multipliers, CONDITION_DIM, attention=True)

    def forward(self, ecg: Tensor, t: Tensor, ppg: Tensor, demographics: Tensor) -> Tensor:
        """Output (B, 12, T) of a noisy ECG (B, 12, T), times (B,) in [0, 1], PPG (B, 1, T) and demographics (B, 4)."""
        low, high = LEVEL_RANGE
        condition = self.embed_time(low + (high - low) * t) + self.embed_demographics(demographics)
        gain, offset = self.unet(torch.cat([ecg, ppg], dim=1), condition).chunk(2, dim=1)
        return gain * ecg + offset
