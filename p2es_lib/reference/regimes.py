"""Which leads references have: those of the usual recordings, and random ones."""

import numpy as np
import torch
from torch import Tensor

from p2es_lib.core.leads import LEADS

#: Leads of the usual recordings: none, a watch, a handheld device of six limb leads, a clinic.
REGIMES = {"none": LEADS[:0], "I": LEADS[:1], "limb": LEADS[:6], "all": LEADS}
#: How often each is drawn in training; else a random number of random leads.
SHARES = {"none": 0.25, "I": 0.2, "limb": 0.1, "all": 0.3}


def leads_of(regime: str, count: int = 1) -> Tensor:
    """Given leads (count, 12) of a regime of :data:`REGIMES`."""
    given = torch.tensor([float(lead in REGIMES[regime]) for lead in LEADS])
    return given.repeat(count, 1)


def draw_given(rng: np.random.Generator, count: int) -> Tensor:
    """Leads that references have in training, (count, 12)."""
    given, names = torch.zeros(count, len(LEADS)), [*SHARES, "some"]
    for row in range(count):
        regime = rng.choice(names, p=[*SHARES.values(), 1 - sum(SHARES.values())])
        if regime == "some":
            given[row, rng.permutation(len(LEADS))[: rng.integers(1, len(LEADS))]] = 1.0
        else:
            given[row] = leads_of(regime)[0]
    return given
