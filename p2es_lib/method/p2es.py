"""P2Es put together: GroupFinder, affinity matrices, denoiser and forward process as one translator."""

import numpy as np
import torch
from torch import Tensor

from p2es_lib.core.config import Config
from p2es_lib.core.errors import InputError
from p2es_lib.core.learned import Batch, LearnedTranslator, masked_mse, standardise
from p2es_lib.core.noise import WindowNoise
from p2es_lib.method.affinity import GroupFinder, LeadAffinity
from p2es_lib.method.denoiser import Denoiser, Estimate
from p2es_lib.method.forward_process import ForwardProcess
from p2es_lib.method.multi_scale import Condition
from p2es_lib.method.sampling import get_sampler
from p2es_lib.signals.pulse_features import N_FEATURES, pulse_features

#: Weight of stage 1's own loss. Where stage 2 inverts the blur well, its loss asks little of stage 1, which then does
#: not learn to read x_t, and at mid noise, where the inverse alone is poor, both stages together came out worse than
#: stage 1 trained alone (error at t = 0.5 after 600 steps: 0.142 with a weight of 1/4 and P = 1 at the start, 0.124
#: with these, 0.127 without deblurring; in units of the data set's variance).
COARSE_WEIGHT = 1.0
#: Share of a batch trained at t = 1 exactly, where sampling starts and the posterior mean is decided.
START_SHARE = 1 / 4


class P2Es(LearnedTranslator):
    """The whole model.

    Parameters
    ----------
    config, ecg_scale_mv, trained_leads
        As of :class:`p2es_lib.core.learned.LearnedTranslator`.

    Examples
    --------
    >>> model = P2Es.from_pretrained("runs/simulated/quick/p2es/seed0")  # doctest: +SKIP
    >>> ecg = model.translate(ppg, Demographics.of(63, "F"), n_samples=8)  # doctest: +SKIP
    """

    name = "p2es"
    has_direct_estimate = True

    def __init__(self, config: Config, ecg_scale_mv: float = 0.25, trained_leads=None):
        super().__init__(config, ecg_scale_mv, trained_leads)
        self.process = ForwardProcess(config.process, config.signal.window_samples, config.signal.sampling_rate)
        self.group_finder = GroupFinder(config.affinity).requires_grad_(False)  # it trains itself, in prepare
        self.lead_affinity = LeadAffinity(config.affinity.n_groups, config.affinity.mixing)
        self.denoiser = Denoiser(config.denoiser, self.process, N_FEATURES)

    def forward(self, x_t: Tensor, t: Tensor, ppg_features: Tensor, demographics: Tensor, pi: Tensor) -> Estimate:
        """Estimate x_0 from x_t (B, 12, T) as :class:`.denoiser.Denoiser` does; ``pi`` (B, G) weighs the groups."""
        return self.denoiser(x_t, t, Condition(ppg_features, demographics, self.lead_affinity(pi)))

    def condition(
        self, ppg: Tensor, demographics: Tensor, exclude_subjects: list[str] | None = None
    ) -> tuple[Tensor, ...]:
        """What stays fixed along the reverse process: PPG features, demographics and group weights.

        Parameters
        ----------
        ppg : Tensor, shape (B, 1, T)
            Scaled to zero mean and unit variance per window here, so that callers need not.
        demographics : Tensor, shape (B, 4)
            From :meth:`Demographics.features`.
        exclude_subjects : list of str, optional
            In training: the subject of each window, which must not be its own neighbour in GroupFinder's bank.
        """
        ppg = standardise(ppg)
        features = pulse_features(ppg, self.config.signal.sampling_rate)
        if not self.config.denoiser.phase_features:
            features = torch.cat([ppg, torch.zeros_like(features[:, 1:])], dim=1)
        with torch.no_grad():
            pi = self.group_finder.assign(ppg, demographics, exclude_subjects)
        return features, demographics, pi

    def prepare(self, windows, *, seed: int, progress: bool) -> None:
        """GroupFinder: its encoder, its bank and its groups."""
        self.group_finder.fit(windows, seed=seed, progress=progress)
        self.group_finder.requires_grad_(False)

    def training_loss(self, model, batch: Batch, generator: torch.Generator, critic=None) -> tuple[Tensor, Tensor]:
        """Squared error of both stages in units of the data set's variance; logged is that of the refined estimate."""
        return self.squared_error(self.estimate(model, batch, generator), batch)

    @staticmethod
    def squared_error(estimate: Estimate, batch: Batch) -> tuple[Tensor, Tensor]:
        """Of both stages together, and of the refined estimate alone (detached)."""
        refined = masked_mse(estimate.refined, batch.x_0, batch.mask)
        return refined + COARSE_WEIGHT * masked_mse(estimate.coarse, batch.x_0, batch.mask), refined.detach()

    def estimate(self, model, batch: Batch, generator: torch.Generator) -> Estimate:
        """What the network makes of the batch at times and with noise drawn from ``generator``."""
        fixed = self.condition(batch.ppg, batch.demographics, batch.subjects)
        t = draw_times(len(batch), generator).to(self.device)
        noise = torch.randn(batch.x_0.shape, generator=generator).to(self.device)
        return model(self.process.marginal(batch.x_0, t, noise), t, *fixed)

    @torch.inference_mode()
    def diagnose(self, windows) -> dict[str, float]:
        """Loss at mid noise, with the same noise each time."""
        mask = torch.as_tensor(np.array(windows.lead_mask))
        scaled = (torch.as_tensor(np.array(windows.ecg)) * (mask > 0)[:, :, None]).to(self.device) / self.ecg_scale_mv
        noise = torch.randn(scaled.shape, generator=torch.Generator().manual_seed(0)).to(self.device)
        features = torch.as_tensor(windows.demographics.features(), device=self.device)
        errors = []
        for start in range(0, len(scaled), 64):
            part = slice(start, start + 64)
            t = torch.full((len(scaled[part]),), 0.5, device=self.device)
            fixed = self.condition(torch.as_tensor(np.array(windows.ppg[part])).to(self.device), features[part])
            x_t = self.process.marginal(scaled[part], t, noise[part])
            errors.append(masked_mse(self(x_t, t, *fixed).refined, scaled[part], mask[part].to(self.device)) * len(t))
        return {"validation_loss_mid": float(sum(errors) / len(scaled))}

    def draw(
        self, ppg: Tensor, demographics: Tensor, noise: WindowNoise, n_steps: int | None, *, sampler: str | None = None
    ) -> Tensor:
        """Run the reverse process; ``sampler`` and ``n_steps`` as in ``config.sampling`` unless given.

        One step gives the network's direct estimate of the posterior mean.
        """
        settings = self.config.sampling
        sample = get_sampler(sampler or settings.sampler)
        features, demographics, pi = (
            part.repeat_interleave(noise.n_samples, 0) for part in self.condition(ppg, demographics)
        )
        condition = Condition(
            features, demographics, self.lead_affinity(pi), self.denoiser.multi_scale.encode_ppg(features)
        )

        def denoise(x_t: Tensor, t: Tensor) -> Tensor:
            # Leads absent in training were zero there; keep them zero here, so that x_t looks as it did then.
            return self.denoiser(x_t, t, condition).refined * self.trained_leads[:, None]

        return sample(denoise, self.process, noise, n_steps=n_steps or settings.n_steps)

    def training_subjects(self) -> set[str]:
        """Subjects of GroupFinder's bank."""
        return set(self.group_finder.bank_subjects)

    def extra_state(self) -> dict:
        """Subjects of GroupFinder's bank."""
        return self.group_finder.extra_state()

    def load_extra_state(self, state: dict) -> None:
        """Inverse of :meth:`extra_state`; an :class:`InputError` if the bank was never filled."""
        self.group_finder.load_extra_state(state)
        if self.config.affinity.mixing == "groups" and not len(self.group_finder.bank_embedding):
            raise InputError("the model was saved before GroupFinder was fitted; train it with notebook 05_train")


def draw_times(count: int, generator: torch.Generator) -> Tensor:
    """Diffusion times (count,): one per stratum of [0, 1] for a low-variance loss, and some at exactly 1."""
    n_start = max(1, round(START_SHARE * count)) if count > 1 else 0
    strata = torch.arange(count - n_start)
    uniform = (strata + torch.rand(count - n_start, generator=generator)) / max(1, count - n_start)
    return torch.cat([uniform, torch.ones(n_start)])
