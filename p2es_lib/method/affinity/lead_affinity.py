"""Affinity matrices: how strongly each lead's features are mixed into each other lead's."""

import math

import torch
from torch import nn

from p2es_lib.core.errors import check_choice
from p2es_lib.core.leads import LEADS

#: Log odds of a lead's own features against those of one other lead at the start: half the weight for itself, half for
#: the eleven others together. (Nearer to the identity, the softmax is flat and exchange is learned late: where nothing
#: else connects the leads, matrices that began with 0.93 on the diagonal had not left it after 600 steps.)
SELF_LOGIT = math.log(11)
#: Spread of the start values between groups: small, but not zero, so that groups can grow apart.
GROUP_SPREAD = 0.1


class LeadAffinity(nn.Module):
    """One learned row-stochastic 12 x 12 matrix per group, mixed per sample.

    ``A = sum_g pi_g softmax(logits_g)``, softmax over each row. Row i of A says how the features of lead i are
    composed; entries are not negative and rows sum to 1, so mixing averages features and cannot blow them up. (Signs,
    as in III = II - I, are left to the layers around it and to the final projection.) Each
    :class:`~p2es_lib.method.multi_scale.MultiScaleBlock` of stage 1 applies the matrix (``exchanged`` in its forward).

    Parameters
    ----------
    n_groups : int
        Number of groups G; ``mixing`` "shared" and "identity" have one.
    mixing : {"groups", "shared", "identity", "random"}
        As in :class:`~p2es_lib.core.config.AffinityConfig`; "identity" has no parameters and returns exact identities.
    """

    def __init__(self, n_groups: int, mixing: str = "groups"):
        super().__init__()
        self.mixing = check_choice("affinity.mixing", mixing, ("groups", "shared", "identity", "random"))
        self.n_groups = 1 if mixing in ("shared", "identity") else n_groups
        n_leads = len(LEADS)
        self.register_buffer("identity", torch.eye(n_leads), persistent=False)
        if mixing != "identity":
            start = SELF_LOGIT * torch.eye(n_leads) + GROUP_SPREAD * torch.randn(self.n_groups, n_leads, n_leads)
            self.logits = nn.Parameter(start)

    def matrices(self) -> torch.Tensor:
        """The matrix of each group, (G, 12, 12)."""
        return self.identity[None] if self.mixing == "identity" else torch.softmax(self.logits, dim=-1)

    def forward(self, pi: torch.Tensor) -> torch.Tensor:
        """Mix: group memberships pi (B, G), rows summing to 1, to matrices (B, 12, 12)."""
        if pi.ndim != 2 or pi.shape[1] != self.n_groups:
            raise ValueError(f"pi has shape {tuple(pi.shape)}; expected (B, {self.n_groups})")
        if self.mixing == "identity":  # exact, whatever the rounding of pi
            return self.identity.expand(len(pi), -1, -1)
        return torch.einsum("bg,gij->bij", pi, self.matrices())
