"""What every learned method shares: the scale of the ECG, the leads it knows, translating, saving, loading, training.

P2Es, its ablations and each learned baseline are subclasses of :class:`LearnedTranslator`, trained by one loop
(:mod:`p2es_lib.training.loop`). A subclass says what is peculiar to it: its network, its loss, how it draws an ECG.
"""

from __future__ import annotations

import hashlib
import inspect
import pkgutil
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from p2es_lib.core.config import METHODS, Config
from p2es_lib.core.demographics import Demographics
from p2es_lib.core.errors import InputError, check_choice
from p2es_lib.core.leads import LEADS
from p2es_lib.core.noise import NoiseNames, WindowNoise
from p2es_lib.core.reference import Reference
from p2es_lib.core.translator import check_translation_input
from p2es_lib.core.weights import WEIGHTS_FILE, Weights, read_weights, write_weights

#: Of age and of sex in training, so that missing entries are known ground.
HIDE_PROBABILITY = 0.1


class LearnedTranslator(nn.Module):
    """A method with weights: PPG and demographics in, 12-lead ECG out.

    ``ecg_scale_mv``: standard deviation of the training ECG, one for all leads, so that lead relations are kept;
    ``trained_leads`` (12,): those that the training data held (default: all); the others come out as NaN.
    """

    name: ClassVar[str]  #: As in ``config.method.name``.
    stochastic: ClassVar[bool] = True  #: Whether samples differ, or one is drawn and copied.
    has_direct_estimate: ClassVar[bool] = False  #: Whether one step of its sampler gives the posterior mean itself.
    #: Whether the average with the least validation RMSE is kept, or the last one: where the loss is no squared error,
    #: the least RMSE would pick the smoothest stage, not the best.
    keeps_best: ClassVar[bool] = True
    uses_reference: ClassVar[bool] = False  #: Whether a reference of the person is of any use to it.
    #: Whether its samples are people, who can be translated again (option ``of_these`` of P2Es).
    draws_people: ClassVar[bool] = False
    critic_steps: ClassVar[int] = 1  #: Of the critic before each step of the method, all on its batch.

    def __init__(self, config: Config, ecg_scale_mv: float = 0.25, trained_leads=None):
        super().__init__()
        self.config = config
        #: Of the weights: the day they were made, and the SHA-256 of their file; "" as long as there is none.
        self.made_on, self.sha256 = "", ""
        leads = np.ones(len(LEADS)) if trained_leads is None else trained_leads
        self.register_buffer("ecg_scale_mv", torch.tensor(float(ecg_scale_mv)))
        self.register_buffer("trained_leads", torch.as_tensor(leads, dtype=torch.float32))

    def training_loss(
        self, model: nn.Module, batch: Batch, generator: torch.Generator, critic: nn.Module | None = None
    ) -> tuple[Tensor, Tensor]:
        """Loss of one batch, and the part of it that is logged; both scalars.

        Calls of :meth:`forward` go through ``model``, which Fabric made of this module, so that several devices average
        their gradients; all randomness comes from ``generator`` (CPU), so that a continued training is the same.
        """
        raise NotImplementedError

    def draw(self, ppg: Tensor, demographics: Tensor, noise: WindowNoise, n_steps: int | None, **options) -> Tensor:
        """ECG in units of :attr:`ecg_scale_mv`, (B * K, 12, T), the K = ``noise.n_samples`` of a window side by side,
        from ``ppg`` (B, 1, T) and ``demographics`` (B, 4); ``n_steps=1``: cheapest estimate of the posterior mean.
        """
        raise NotImplementedError

    def prepare(self, windows, *, seed: int, progress: bool) -> None:
        """Fit to the training windows, before training, what is not trained by gradients."""

    def calibrate(self, batches: list[Batch]) -> None:
        """Fit to windows that were not trained on, after training, what needs the trained weights."""

    def trained_parameters(self) -> list[nn.Parameter]:
        """What the optimiser changes."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def make_critic(self) -> nn.Module | None:
        """A fresh adversary, if the method has one; it is trained beside it and not stored."""
        return None

    def critic_loss(self, critic: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
        """Loss of the adversary on one batch, with this method's own output taken as given."""
        raise NotImplementedError

    def diagnose(self, windows) -> dict[str, float]:
        """Further columns of the training history, of validation windows."""
        return {}

    def training_subjects(self) -> set[str]:
        """Subjects of whom the model keeps anything by name; they must all be for training."""
        return set()

    def extra_state(self) -> dict[str, Any]:
        """What belongs to the model and is no tensor, JSON-able."""
        return {}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`extra_state`."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.ecg_scale_mv.device

    def parameter_count(self) -> int:
        """Number of trained weights."""
        return sum(map(torch.numel, self.trained_parameters()))

    @torch.inference_mode()
    def translate(
        self, ppg, demographics: Demographics, *, reference: Reference | None = None, n_samples: int = 1,
        n_steps: int | None = None, generator: int | NoiseNames | WindowNoise | None = None, progress=None, **options,
    ) -> Tensor:  # fmt: skip
        """Draw 12-lead ECGs for windows of PPG: float32 (B, n_samples, 12, T), mV, on the CPU.

        Leads that the training data did not hold are NaN. An :class:`InputError` for PPG of another shape or length,
        not finite or flat, for another number of demographics, and for a translation that is not finite.

        Parameters
        ----------
        ppg, demographics : array or Tensor (B, 1, T), Demographics (B,)
            T as the model was trained with (``config.signal``).
        reference : Reference, optional
            Of the person or persons, one or one per window; an InputError from a method that cannot use one.
        n_samples : int
            Samples per window; their mean estimates the posterior mean. A deterministic method gives copies.
        n_steps : int, optional
            Of an iterative sampler, by default the method's own; one step estimates the posterior mean.
        generator : int, NoiseNames or WindowNoise, optional
            Seed (default 0), or seed and names of windows and recordings; by default the noise is named after PPG and
            demographics, so that sample k of a window does not depend on the batch around it, apart from rounding.
        progress : callable, optional
            Called with the number of windows finished after each batch; ``options`` go to :meth:`draw`.
        """
        ppg = check_translation_input(ppg, demographics, self.config.signal.window_samples, n_samples)
        if isinstance(generator, NoiseNames | WindowNoise):
            seed, window_ids, recordings = generator.seed, generator.window_ids, generator.recording_ids
        else:
            seed, window_ids, recordings = int(generator or 0), _content_ids(ppg, demographics), None
        recordings = window_ids if recordings is None else recordings
        if reference is not None:
            if not self.uses_reference:
                raise InputError(f"{self.name}: this method cannot use a reference; leave it out, or take p2es")
            reference = reference.check(len(ppg), self.config.signal.sampling_rate)
        n_drawn = n_samples if self.stochastic else 1
        was_training = self.training
        self.eval()
        n_windows, chunks = max(1, self.config.sampling.batch_size // n_drawn), []
        for start in range(0, len(ppg), n_windows):
            rows = slice(start, start + n_windows)
            features = torch.as_tensor(demographics[rows].features(), device=self.device)
            shape = len(LEADS), ppg.shape[-1]
            noise = WindowNoise(seed, window_ids[rows], n_drawn, shape, self.device, recordings[rows])
            if reference is not None:
                options["reference"] = reference[rows].to(self.device)
            x_0 = self.draw(standardise(ppg[rows].to(self.device)), features, noise, n_steps, **options)
            chunks.append((x_0 * self.ecg_scale_mv).reshape(-1, n_drawn, *x_0.shape[1:]).cpu())
            if progress is not None:
                progress(min(start + n_windows, len(ppg)))
        self.train(was_training)
        ecg = torch.cat(chunks)
        if lost := int((~torch.isfinite(ecg)).flatten(1).any(dim=1).sum()):
            reason = "the training diverged, or the steps of its sampler do not suit its forward process"
            raise InputError(f"{self.name}: the translation of {lost} of {len(ecg)} window(s) is not finite: {reason}")
        ecg[:, :, self.trained_leads.cpu() == 0] = torch.nan
        return ecg if n_drawn == n_samples else ecg.expand(-1, n_samples, -1, -1).clone()

    def save(self, folder: str | Path) -> Path:
        """Write ``weights.safetensors``, with all settings in it, and its card; see :mod:`p2es_lib.core.weights`."""
        about = self.name, self.config.to_dict(), self.extra_state()
        card = write_weights(folder, *about, self.state_dict(), self.made_on)
        self.made_on, self.sha256 = card["made_on"], card["sha256"]
        return Path(folder) / WEIGHTS_FILE

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str | torch.device = "cpu") -> LearnedTranslator:
        """Load a model that :meth:`save` wrote; none, another method's or another version's is an InputError."""
        return cls.from_weights(read_weights(folder), device)

    @classmethod
    def from_weights(cls, weights: Weights, device: str | torch.device = "cpu") -> LearnedTranslator:
        """The model that a weight file holds; an InputError if it is another method's or another version's."""
        if weights.method != cls.name:
            raise InputError(f"{weights.path}: holds no model {cls.name!r}, but {weights.method!r}; name another")
        try:
            model = cls(Config.from_dict(weights.config))
            model.load_state_dict(weights.tensors)
        except (InputError, RuntimeError) as error:  # an unknown setting; other layers
            problem = f"{weights.path}: written by another version of P2Es; train it again with this one"
            raise InputError(f"{problem} ({' '.join(str(error).split())})") from error
        model.load_extra_state(weights.extra_state)
        model.made_on, model.sha256 = weights.made_on, weights.sha256
        return model.to(device).eval()


def get_method(name: str) -> type[LearnedTranslator]:
    """Class of a method, whose file is imported now."""
    return pkgutil.resolve_name(METHODS[check_choice("method.name", name, METHODS)])


def describe_method(name: str) -> str:
    """What a method is, in one sentence: the first of its module."""
    return " ".join((inspect.getmodule(get_method(name)).__doc__ or "").partition("\n\n")[0].split())


def load_method(folder: str | Path, device="cpu") -> LearnedTranslator:
    """Whichever method :meth:`LearnedTranslator.save` wrote; errors as of :meth:`LearnedTranslator.from_pretrained`."""
    weights = read_weights(folder)
    return get_method(weights.method).from_weights(weights, device)


class Batch:
    """One training batch as the losses see it, on the device of the model."""

    def __init__(self, module: LearnedTranslator, batch: dict, generator: torch.Generator):
        device = module.device
        self.mask = batch["lead_mask"].to(device)  #: (B, 12): 0 absent, 1 derived, 2 measured.
        #: ECG in units of ``ecg_scale_mv``, (B, 12, T); leads that do not exist are 0.
        self.x_0 = batch["ecg"].to(device) / module.ecg_scale_mv * (self.mask > 0)[:, :, None]
        self.ppg = standardise(batch["ppg"].to(device))  #: (B, 1, T).
        #: (B, 4), age or sex of some rows hidden.
        self.demographics = hide_demographics(torch.as_tensor(batch["demographics"].features()), generator).to(device)
        self.subjects: list[str] = batch["subjects"]
        self.reference: Reference = batch["reference"].to(device)  #: Of the persons; of some there is none.
        self.r_times = batch["r_times"].to(device)  #: (B, K) of the ECG, s, padded with inf.

    def __len__(self) -> int:
        return len(self.x_0)


def standardise(ppg: Tensor) -> Tensor:
    """Zero mean and unit variance per window (B, 1, T)."""
    return (ppg - ppg.mean(-1, keepdim=True)) / ppg.std(-1, keepdim=True).clamp_min(1e-6)


def masked_mse(estimate: Tensor, target: Tensor, lead_mask: Tensor) -> Tensor:
    """Mean squared error over the leads that exist; (B, 12, T), (B, 12, T), (B, 12) to a scalar."""
    present = (lead_mask > 0).to(estimate.dtype)[:, :, None]  # (B, 12, 1)
    return ((estimate - target) ** 2 * present).sum() / (present.sum() * target.shape[-1]).clamp_min(1)


def hide_demographics(features: Tensor, generator: torch.Generator) -> Tensor:
    """Set age or sex of random rows to missing; features (B, 4) as from :meth:`Demographics.features`."""
    hidden = torch.rand(len(features), 2, generator=generator) < HIDE_PROBABILITY  # age, sex
    return features.masked_fill(hidden[:, [0, 0, 1, 1]], 0.0)


def ecg_scale_mv(ecg: np.ndarray, lead_mask: np.ndarray) -> float:
    """SD in mV over all samples of existing leads; ecg (N, 12, T), lead_mask (N, 12). InputError: 0 or not finite."""
    present = np.asarray(ecg)[np.asarray(lead_mask) > 0]
    if not len(present) or not np.isfinite(scale := float(present.std())) or scale <= 0:
        raise InputError("the training ECG is empty, flat or not finite; look at the data set with notebook 01_data")
    return scale


def _content_ids(ppg: Tensor, demographics: Demographics) -> list[str]:
    """A name per window that depends on its PPG and demographics alone."""
    rows = zip(ppg.cpu().numpy(), demographics.features(), strict=True)
    return [hashlib.blake2b(x.tobytes() + f.tobytes(), digest_size=12).hexdigest() for x, f in rows]
