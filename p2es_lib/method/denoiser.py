"""The denoiser: from a blurred, noisy ECG and the PPG to an estimate of the clean ECG.

It follows the two steps that the abstract of P2Es (arXiv 2509.25480) names for the reverse process, "a temporal
multi-scale generation module followed by frequency deblurring"; what they are made of is our decision. Stage 1 is
:mod:`.multi_scale`, stage 2 is :mod:`.deblurring`.

The inverse of stage 2 is stationary: it would let as much of the noise of x_t into the flat stretch between two beats
as into the QRS complex, where stage 1 errs. So stage 1 also says, for each lead and sample, which share g of the
correction to take (the idea of the local Wiener filter: Lee 1980, IEEE Trans Pattern Anal 2:165, where g is the local
signal's share of the local variance; here it is learned). With c the coarse estimate and B^-1 back from the basis:

    x_0_hat = c + g (B^-1 u_0_hat - c)

Last, the estimate is projected on the leads that satisfy Einthoven's and Goldberger's equations.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from p2es_lib.core.config import DenoiserConfig
from p2es_lib.core.leads import PROJECTION
from p2es_lib.method.deblurring import FrequencyDeblurring
from p2es_lib.method.forward_process import ForwardProcess
from p2es_lib.method.multi_scale import N_LEADS, Condition, MultiScaleGenerator, filter_groups


class Estimate(NamedTuple):
    """Both stages' estimates of x_0, each (B, 12, T) in the scale of x_t (a tuple: Fabric walks through outputs)."""

    refined: Tensor
    coarse: Tensor


class Denoiser(nn.Module):
    """Both stages and the projection on consistent leads.

    Parameters
    ----------
    config : DenoiserConfig
        Sizes and switches.
    process : ForwardProcess
        Gives the basis, the blur response and the noise level that stage 2 inverts.
    n_ppg_features : int
        Channels of ``Condition.ppg_features``.
    """

    def __init__(self, config: DenoiserConfig, process: ForwardProcess, n_ppg_features: int):
        super().__init__()
        self.process = process
        self.multi_scale = MultiScaleGenerator(config, n_ppg_features)
        stage_2 = (process.window_samples, config.deblurring_residual, filter_groups(config))
        self.deblurring = FrequencyDeblurring(*stage_2) if config.deblurring else None
        projection = torch.tensor(PROJECTION, dtype=torch.float32) if config.projection else torch.eye(N_LEADS)
        self.register_buffer("projection", projection, persistent=False)

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Estimate:
        """Estimate x_0.

        Parameters
        ----------
        x_t : Tensor, shape (B, 12, T)
            Blurred and noisy ECG, in units of the data set's standard deviation.
        t : Tensor, shape (B,)
            Time of the forward process in [0, 1].
        condition : Condition
            PPG features, demographics and affinity matrix.

        Returns
        -------
        Estimate
            ``refined`` after both stages and ``coarse`` after stage 1 (equal without deblurring), both projected.
        """
        logsnr = self.process.level(t).to(x_t.dtype)
        coarse, trust = self.multi_scale(x_t, logsnr, condition)
        refined = coarse
        if self.deblurring is not None:
            alpha = self.process.alpha(t)[:, None].to(coarse.dtype)  # (B, 1, T)
            sigma = self.process.sigma_in_basis(t)[:, None].to(coarse.dtype)  # (B, 1, T)
            u_c, u_t = self.process.to_basis(coarse), self.process.to_basis(x_t.to(coarse.dtype))
            refined = self.process.from_basis(self.deblurring(u_c, u_t, logsnr, alpha, sigma))
            if trust is not None:
                refined = coarse + trust * (refined - coarse)
        return Estimate(self.project(refined), self.project(coarse))

    def project(self, ecg: Tensor) -> Tensor:
        """Nearest ECG that satisfies Einthoven's and Goldberger's equations, (B, 12, T)."""
        return torch.einsum("ij,bjt->bit", self.projection, ecg)
