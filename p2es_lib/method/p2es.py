"""P2Es put together: GroupFinder, affinity matrices, denoiser and forward process as one translator."""

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from p2es_lib.core.config import Config
from p2es_lib.core.errors import InputError
from p2es_lib.core.learned import Batch, LearnedTranslator, masked_mse, standardise
from p2es_lib.core.noise import WindowNoise
from p2es_lib.core.reference import Reference
from p2es_lib.method.affinity import GroupFinder, LeadAffinity
from p2es_lib.method.denoiser import Denoiser, Estimate
from p2es_lib.method.forward_process import ForwardProcess
from p2es_lib.method.multi_scale import Condition
from p2es_lib.method.sampling import get_sampler
from p2es_lib.method.spread import FEWER, N_SAMPLES, STEPS, Spread, kinds_of
from p2es_lib.reference.conditioning import (
    DELAY_WEIGHT,
    Places,
    PulseConditioning,
    averaged_over_delays,
    drawn_places,
    expected_places,
    open_scale,
)
from p2es_lib.reference.delay import Timing
from p2es_lib.reference.placement import as_one_beat, repeat_in_beats
from p2es_lib.signals.pulse_features import N_FEATURES, pulse_features

#: Weight of stage 1's own loss. Where stage 2 inverts the blur well, its loss asks little of stage 1, which then does
#: not learn to read x_t, and at mid noise, where the inverse alone is poor, both stages together came out worse than
#: stage 1 trained alone (error at t = 0.5 after 600 steps: 0.142 with a weight of 1/4 and P = 1 at the start, 0.124
#: with these, 0.127 without deblurring; in units of the data set's variance).
COARSE_WEIGHT = 1.0
#: Share of a batch trained at t = 1 exactly, where sampling starts and the posterior mean is decided.
START_SHARE = 1 / 4
#: Share of the windows trained with white noise instead of noise that is alike in all beats.
WHITE_SHARE = 0.5


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
    uses_reference = True
    draws_people = True
    open_scale = staticmethod(open_scale)

    def __init__(self, config: Config, ecg_scale_mv: float = 0.25, trained_leads=None):
        super().__init__(config, ecg_scale_mv, trained_leads)
        self.process = ForwardProcess(config.process, config.signal.window_samples, config.signal.sampling_rate)
        self.group_finder = GroupFinder(config.affinity, config.signal.sampling_rate)
        self.group_finder.requires_grad_(False)  # it trains itself, in prepare
        self.lead_affinity = LeadAffinity(config.affinity.n_groups, config.affinity.mixing)
        self.denoiser = Denoiser(config.denoiser, self.process, N_FEATURES)
        self.spread = Spread()
        self.pulse_delay = PulseConditioning(N_FEATURES, config.signal.sampling_rate)

    def forward(self, x_t: Tensor, t: Tensor, *fixed: Tensor) -> Estimate:
        """Estimate from x_t (B, 12, T) as :class:`.denoiser.Denoiser` does; ``fixed``: from :meth:`condition`."""
        return self.denoiser(x_t, t, self._condition(*fixed))

    def _condition(self, features: Tensor, demographics: Tensor, pi: Tensor, base: Tensor, given: Tensor) -> Condition:
        return Condition(features, demographics, self.lead_affinity(pi), base, given)

    def condition(
        self, ppg: Tensor, demographics: Tensor, *, reference: Reference | None = None, r_times: Tensor | None = None,
        delay_s: Tensor | None = None, exclude_subjects: list[str] | None = None,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        """What stays fixed along the reverse process: pulse features, demographics, group weights and the reference.

        Parameters
        ----------
        ppg : Tensor, shape (B, 1, T)
            Scaled to zero mean and unit variance per window here, so that callers need not.
        demographics : Tensor, shape (B, 4)
            From :meth:`Demographics.features`.
        reference, r_times, delay_s : Reference, Tensor (B, J), Tensor (B,)
            Of the persons, default none; where the beats are taken to be, and how long their pulses take, s, default
            as expected. The pulses are shown to the network as if they took the usual time: what a monitor adds to it
            says nothing of the heart.
        exclude_subjects : list of str, optional
            In training: the subject of each window, which must not be its own neighbour in GroupFinder's bank.

        Returns
        -------
        tuple of Tensor
            Features (B, C, T), demographics, pi (B, G), base (B, 12, T) in the scale of x_0, and given (B, 12).
        """
        ppg, rate = standardise(ppg), self.config.signal.sampling_rate
        reference = Reference.none(len(ppg), rate).to(ppg.device) if reference is None else reference
        if r_times is None:
            r_times, delay_s = expected_places(self.timing(ppg, demographics, reference))
        moved, base = self.pulse_delay.lay(ppg, reference, r_times, delay_s)
        features = pulse_features(moved, rate, r_times)
        if not self.config.denoiser.phase_features:
            features = torch.cat([moved, torch.zeros_like(features[:, 1:])], dim=1)
        with torch.no_grad():
            pi = self.group_finder.assign(ppg, demographics, exclude_subjects, reference)
        return features, demographics, pi, base / self.ecg_scale_mv, reference.given

    def timing(self, ppg: Tensor, demographics: Tensor, reference: Reference) -> Timing:
        """Where the beats are expected, and how surely; ``ppg`` (B, 1, T) scaled."""
        return self.pulse_delay.timing(ppg, demographics, reference)

    def prepare(self, windows, *, seed: int, progress: bool) -> None:
        """GroupFinder: its encoder, its bank and its groups."""
        self.group_finder.fit(windows, seed=seed, progress=progress)
        self.group_finder.requires_grad_(False)

    def training_loss(self, model, batch: Batch, generator: torch.Generator, critic=None) -> tuple[Tensor, Tensor]:
        """Squared error of both stages in units of what is open, and the delays'; logged is the refined estimate's."""
        estimate, of_delays = self.estimate(model, batch, generator)
        loss, logged = self.squared_error(estimate, batch)
        return loss + DELAY_WEIGHT * of_delays, logged

    @staticmethod
    def squared_error(estimate: Estimate, batch: Batch) -> tuple[Tensor, Tensor]:
        """Of both stages together, and of the refined estimate alone (detached)."""
        scale = P2Es.open_scale(batch.reference.given)
        refined, coarse = (masked_mse(part / scale, batch.x_0 / scale, batch.mask) for part in estimate)
        return refined + COARSE_WEIGHT * coarse, refined.detach()

    def estimate(self, model, batch: Batch, generator: torch.Generator) -> tuple[Estimate, Tensor]:
        """What the network makes of the batch, in the scale of x_0, and the loss of the delays.

        Times and noise are drawn from ``generator``. The beats lie where they were, so far as there are pulses for
        them: that is known here, and drawn in translation.
        """
        places, of_delays = self.pulse_delay.known(batch)
        who = {"reference": batch.reference, "exclude_subjects": batch.subjects}
        fixed = self.condition(batch.ppg, batch.demographics, **places._asdict(), **who)
        t = draw_times(len(batch), generator).to(self.device)
        drawn = [torch.randn(batch.x_0.shape, generator=generator).to(self.device) for _ in range(2)]
        # White noise in some windows: it has the network read the person out of all beats.
        white = torch.rand(len(batch), generator=generator).to(self.device) < WHITE_SHARE
        noise = torch.where(white[:, None, None], drawn[1], self.beat_noise(*drawn, places.r_times))
        base, scale = fixed[3] * (batch.mask > 0)[:, :, None], self.open_scale(fixed[4])
        found = model(self.process.marginal((batch.x_0 - base) / scale, t, noise), t, *fixed)
        return Estimate(*(base + scale * part for part in found)), of_delays

    def beat_noise(self, of_beat: Tensor, of_window: Tensor, r_times: Tensor) -> Tensor:
        """Standard normal noise (B, 12, T), most of it the same in each beat (of ``of_beat``), as a person's ECG is.

        What a sampler makes of it is then one person from beat to beat. The rest, of ``of_window``, lets beats differ.
        """
        share = self.config.process.beat_share
        repeated = repeat_in_beats(of_beat, r_times, self.config.signal.sampling_rate)
        return math.sqrt(share) * repeated + math.sqrt(1 - share) * of_window

    @torch.inference_mode()
    def diagnose(self, windows) -> dict[str, float]:
        """Loss at mid noise, with the same noise each time."""
        mask = torch.as_tensor(np.array(windows.lead_mask))
        scaled = (torch.as_tensor(np.array(windows.ecg)) * (mask > 0)[:, :, None]).to(self.device) / self.ecg_scale_mv
        generator = torch.Generator().manual_seed(0)
        of_beat, of_window = (torch.randn(scaled.shape, generator=generator).to(self.device) for _ in range(2))
        features = torch.as_tensor(windows.demographics.features(), device=self.device)
        errors = []
        for start in range(0, len(scaled), 64):
            part = slice(start, start + 64)
            t = torch.full((len(scaled[part]),), 0.5, device=self.device)
            ppg = standardise(torch.as_tensor(np.array(windows.ppg[part])).to(self.device))
            nothing = Reference.none(len(ppg), self.config.signal.sampling_rate).to(self.device)
            timing = self.timing(ppg, features[part], nothing)
            places = expected_places(timing)
            fixed = self.condition(ppg, features[part], **places._asdict())
            noise = self.beat_noise(of_beat[part], of_window[part], places.r_times)
            x_t = self.process.marginal(scaled[part], t, noise)
            errors.append(masked_mse(self(x_t, t, *fixed).refined, scaled[part], mask[part].to(self.device)) * len(t))
        return {"validation_loss_mid": float(sum(errors) / len(scaled))}

    def draw(
        self, ppg: Tensor, demographics: Tensor, noise: WindowNoise, n_steps: int | None, *, sampler: str | None = None,
        reference: Reference | None = None, of_these: bool = False,
    ) -> Tensor:  # fmt: skip
        """Run the reverse process; ``sampler`` and ``n_steps`` as in ``config.sampling`` unless given.

        Each sample has a delay and noise of its own, kept throughout a recording, and shows one person: beats that are
        alike become one (:func:`.placement.as_one_beat`). One step gives the direct estimate of the posterior mean,
        averaged over delays. ``of_these``: each reference is a person drawn before, of which one call of the network
        gives the ECG at delays of its own.
        """
        rate, n_steps = self.config.signal.sampling_rate, n_steps or self.config.sampling.n_steps
        # One estimate, at delays that are drawn, is a sample of a person who is known.
        steps = 1 if of_these else n_steps
        first, change, kinds, timing, places = self._samples(
            ppg, demographics, noise, steps, sampler, reference, drawn=of_these or n_steps > 1
        )
        # Factors differ between given leads and others, which may contradict each other then.
        ecg = self.denoiser.project(first + self.spread.factor(kinds, steps) * change) * self.trained_leads[:, None]
        if not of_these and n_steps == 1:
            return averaged_over_delays(ecg, timing, rate)
        people = reference.repeat_interleave(noise.n_samples) if of_these else None
        return self._one_person(ecg, places, people)

    def _one_person(self, ecg: Tensor, places: Places, people: Reference | None = None) -> Tensor:
        """Samples (M, 12, T) whose like beats are one, that of ``people`` or their mean; with white noise unchanged."""
        if not self.config.process.beat_share:
            return ecg
        given = self.trained_leads.expand(len(ecg), -1)
        scaled = self.ecg_scale_mv * ecg
        return as_one_beat(scaled, given, places.r_times, self.config.signal.sampling_rate, people) / self.ecg_scale_mv

    def _samples(
        self, ppg, demographics, noise: WindowNoise, n_steps: int, sampler, reference, drawn: bool = True
    ) -> tuple[Tensor, ...]:
        """First estimate, what the sampler changed of it, both (M, 12, T); kinds of leads, timing, places of samples.

        ``drawn``: delays are, for each sample; else they are those that are expected.
        """
        sample = get_sampler(sampler or self.config.sampling.sampler)
        reference = Reference.none(len(ppg), self.config.signal.sampling_rate) if reference is None else reference
        reference = reference.to(ppg.device)
        timing = self.timing(ppg, demographics, reference)
        places, timing = (drawn_places(timing, noise) if drawn else None), timing.repeat_interleave(noise.n_samples)
        places = places or expected_places(timing)
        ppg, demographics = (part.repeat_interleave(noise.n_samples, 0) for part in (ppg, demographics))
        reference = reference.repeat_interleave(noise.n_samples)
        fixed = self.condition(ppg, demographics, reference=reference, **places._asdict())
        condition = self._condition(*fixed)
        condition = replace(condition, encoded=self.denoiser.multi_scale.encode(condition))
        scale, estimates = self.open_scale(condition.given), []

        def denoise(x_t: Tensor, t: Tensor) -> Tensor:
            # Leads absent in training were zero there; keep them zero here, so that x_t looks as it did then.
            estimates.append(self.denoiser(x_t, t, condition).refined * self.trained_leads[:, None])
            return estimates[-1]

        def of_beats(step: int) -> Tensor:
            return self.beat_noise(noise.of_recording(step), noise(step), places.r_times)

        last = sample(denoise, self.process, of_beats, n_steps=n_steps)
        change = scale * (last - estimates[0])
        return condition.base + scale * estimates[0], change, kinds_of(reference), timing, places

    @torch.no_grad()
    def calibrate(self, batches: list[Batch]) -> None:
        """Fit how far samples lie from their mean, to windows that were not trained on."""
        for n_steps in STEPS:
            parts = []
            for number, batch in enumerate(batches if n_steps == STEPS[0] else batches[::FEWER]):
                shape = batch.x_0.shape[1:]
                names = [f"spread-{number}-{row}" for row in range(len(batch))]
                noise = WindowNoise(0, names, N_SAMPLES, shape, self.device)
                fixed = batch.ppg, batch.demographics, noise, n_steps, None, batch.reference
                first, change, *_, places = self._samples(*fixed)
                # What is left of the change in beats that are one.
                first, sample = (self._one_person(part, places) for part in (first, first + change))
                change = sample - first
                first, change = (part.unflatten(0, (len(batch), N_SAMPLES)) for part in (first, change))
                parts.append((first, change, kinds_of(batch.reference), batch.x_0, batch.mask))
            self.spread.fit(n_steps, *(torch.cat(column) for column in zip(*parts, strict=True)))

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
