"""How far samples may lie from their mean: a factor, fitted to windows that were not trained on.

A sampler of few steps moves samples towards the mean, and so does a network that is not perfect, since what it cannot
tell apart it averages. The first estimate of a sampler, at t = 1, is the mean of all that may come of it; so the
distance of the sample from it is stretched by one factor per kind of lead, such that as much of the truth lies
between the least and the largest of K samples as would if it were one of them. No sample of a test is needed for that,
and no quantile is moved afterwards. (Of residual diffusion after a deterministic mean: arXiv 2509.02341.)
"""

import math

import torch
from torch import Tensor, nn

from p2es_lib.core.reference import Reference

#: Numbers of sampler steps for which factors are fitted; between and below, they are linear in log(steps). Those of the
#: second are those of the first times one number: its samples cost more, so there are fewer windows to fit it to.
STEPS, FEWER = (3, 8), 4
#: Kinds of leads: without a reference; absent from one of the same session or given by it; the same of another session.
KINDS = ("no reference", "absent, same", "given, same", "absent, other", "given, other")
#: Samples per window of the fit, and limits of a factor.
N_SAMPLES, LIMITS = 8, (0.5, 3.0)


def kinds_of(reference: Reference) -> Tensor:
    """Number of the kind of each lead, (B, 12)."""
    other = 2 * (~reference.same_session).long()[:, None]
    return torch.where(reference.given.any(dim=1, keepdim=True), 1 + other + (reference.given > 0).long(), 0)


class Spread(nn.Module):
    """Factors by which samples are drawn away from their first estimate; 1 before :meth:`fit`."""

    def __init__(self):
        super().__init__()
        self.register_buffer("factors", torch.ones(len(STEPS), len(KINDS)))

    def factor(self, kinds: Tensor, n_steps: int) -> Tensor:
        """Factor of each lead, (B, 12, 1); 1 with one step, whose samples are estimates of the mean."""
        share = min(1.0, math.log(n_steps / STEPS[0]) / math.log(STEPS[1] / STEPS[0]))  # < 0 with two
        factors = torch.lerp(*self.factors, share) if n_steps > 1 else torch.ones_like(self.factors[0])
        return factors[kinds][:, :, None]

    def fit(self, n_steps: int, first: Tensor, change: Tensor, kinds: Tensor, truth: Tensor, mask: Tensor) -> None:
        """Fit the factors of one number of steps of :data:`STEPS`, in their order.

        ``first`` and ``change`` (N, K, 12, T): first estimates of the samples and how far they went; ``truth``
        (N, 12, T); ``kinds`` and ``mask`` (N, 12): of :func:`kinds_of`, and leads that exist. A kind of which there is
        no lead keeps its factor.
        """
        row, wanted, groups = STEPS.index(n_steps), 1 - 2 / (first.shape[1] + 1), [[kind] for kind in range(len(KINDS))]
        if row:
            groups, change = [sum(groups, [])], self.factors[0][kinds][:, None, :, None] * change
        for group in groups:
            chosen = torch.isin(kinds, kinds.new_tensor(group)) & (mask > 0)
            if not chosen.any():
                continue
            # (P, K, T): the leads of this kind.
            of_first, of_change = (part.transpose(1, 2)[chosen] for part in (first, change))
            low, high = LIMITS
            for _ in range(12):
                middle = 0.5 * (low + high)
                samples = of_first + middle * of_change
                covered = (samples.amin(dim=1) <= truth[chosen]) & (truth[chosen] <= samples.amax(dim=1))
                low, high = (middle, high) if covered.float().mean() < wanted else (low, middle)
            before = self.factors[0, group] if row else torch.ones(1)
            self.factors[row, group] = (0.5 * (low + high) * before).clamp(*LIMITS)
