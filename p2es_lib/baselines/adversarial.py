"""What the adversarial baselines share: one deterministic network beside a critic, and what both of them are told.

The works followed here translate PPG to one lead, scaled to the range of a tanh. Common to both baselines, and not in
those works: 12 leads in units of one number per data set, hence a linear output; age and sex as constant channels
beside the PPG; windows of 8 s instead of 3 or 4 s; and the initial weights, optimiser, schedule and moving average of
the project's training loop. Leads that a record does not have are set to zero in the generated ECG as they are in the
real one, so a critic cannot tell the two apart by them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from p2es_lib.baselines.regression import RegressionTranslator
from p2es_lib.core.demographics import FEATURES as DEMOGRAPHIC_FEATURES

#: Channels of :func:`condition_channels`.
N_CONDITION_CHANNELS = 1 + len(DEMOGRAPHIC_FEATURES)


class AdversarialTranslator(RegressionTranslator):
    """A network from :func:`condition_channels` to ECG that is trained against a critic; a subclass says which ones.

    The critic takes the width of the network, so that neither side outgrows the other.
    """

    keeps_best = False  # a critic's loss is no squared error

    def forward(self, ppg: Tensor, demographics: Tensor, *generator: torch.Generator) -> Tensor:
        """ECG (B, 12, T) of PPG (B, 1, T) and demographics (B, 4); with a noise source, dropout is at work."""
        return self.network(condition_channels(ppg, demographics), *generator)


def condition_channels(ppg: Tensor, demographics: Tensor) -> Tensor:
    """PPG (B, 1, T) and demographics (B, 4), each of these constant in time, as channels (B, 5, T)."""
    return torch.cat([ppg, demographics[:, :, None].expand(-1, -1, ppg.shape[-1])], dim=1)


def present_leads(lead_mask: Tensor) -> Tensor:
    """Lead mask (B, 12) as a factor (B, 12, 1): 1 for leads that exist, 0 for the others."""
    return (lead_mask > 0).to(torch.float32)[:, :, None]
