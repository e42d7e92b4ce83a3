"""P2Es put together: PPG and demographics in, 12-lead ECG out; saved as safetensors, never pickled."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from p2es_lib import __version__
from p2es_lib.affinity import GroupFinder, LeadAffinity
from p2es_lib.baselines.translator import check_translation_input
from p2es_lib.config import Config
from p2es_lib.demographics import Demographics
from p2es_lib.denoiser import Condition, Denoiser, Estimate
from p2es_lib.errors import InputError
from p2es_lib.forward_process import ForwardProcess
from p2es_lib.leads import LEADS
from p2es_lib.paths import atomic_path
from p2es_lib.pulse_features import N_FEATURES, pulse_features
from p2es_lib.sampling import WindowNoise, get_sampler

WEIGHTS_FILE = "weights.safetensors"


class P2Es(nn.Module):
    """The whole model: GroupFinder, affinity matrices, denoiser and forward process.

    Parameters
    ----------
    config : Config
        Settings of the run.
    ecg_scale_mv : float
        Standard deviation of the training ECG, mV: one number for all leads, so that lead relations are kept.
    trained_leads : array of bool, shape (12,), optional
        Leads that the training data held (measured or derived); the others come out as NaN. Default: all.

    Examples
    --------
    >>> model = P2Es.from_pretrained("runs/simulated/quick/p2es/seed0")  # doctest: +SKIP
    >>> ecg = model.translate(ppg, Demographics.of(63, "F"), n_samples=8)  # doctest: +SKIP
    """

    def __init__(self, config: Config, ecg_scale_mv: float = 0.25, trained_leads=None):
        super().__init__()
        self.config = config
        self.process = ForwardProcess(config.process, config.signal.n_samples, config.signal.sampling_rate)
        self.group_finder = GroupFinder(config.affinity)
        self.lead_affinity = LeadAffinity(config.affinity.n_groups, config.affinity.mixing)
        self.denoiser = Denoiser(config.denoiser, self.process, N_FEATURES)
        leads = torch.ones(len(LEADS)) if trained_leads is None else torch.as_tensor(trained_leads, dtype=torch.float32)
        self.register_buffer("ecg_scale_mv", torch.tensor(float(ecg_scale_mv)))
        self.register_buffer("trained_leads", leads)

    def forward(self, x_t: Tensor, t: Tensor, ppg_features: Tensor, demographics: Tensor, pi: Tensor) -> Estimate:
        """Estimate x_0 from x_t (B, 12, T); see :class:`p2es_lib.denoiser.Denoiser`. ``pi`` (B, G) weighs the groups."""
        return self.denoiser(x_t, t, Condition(ppg_features, demographics, self.lead_affinity(pi)))

    def condition(self, ppg: Tensor, demographics: Tensor, exclude_subjects: list[str] | None = None) -> tuple[Tensor, ...]:
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
        ppg = (ppg - ppg.mean(-1, keepdim=True)) / ppg.std(-1, keepdim=True).clamp_min(1e-6)
        features = pulse_features(ppg, self.config.signal.sampling_rate)
        if not self.config.denoiser.phase_features:
            features = torch.cat([ppg, torch.zeros_like(features[:, 1:])], dim=1)
        with torch.no_grad():
            pi = self.group_finder.assign(ppg, demographics, exclude_subjects)
        return features, demographics, pi

    @property
    def device(self) -> torch.device:
        return self.ecg_scale_mv.device

    @torch.inference_mode()
    def translate(
        self,
        ppg,
        demographics: Demographics,
        *,
        n_samples: int = 1,
        generator: int | WindowNoise | None = None,
        sampler: str | None = None,
        n_steps: int | None = None,
        progress=None,
    ) -> Tensor:
        """Draw 12-lead ECGs for windows of PPG.

        Parameters
        ----------
        ppg : array or Tensor, shape (B, 1, T)
            T must be the length that the model was trained with (``config.signal``).
        demographics : Demographics
            One row per window; entries may be missing.
        n_samples : int
            Samples per window. Their mean estimates the posterior mean; single samples carry the spread.
        generator : int or WindowNoise, optional
            Seed (default 0), or noise with window names of its own. Sample k of a window does not depend on the batch
            around it, apart from rounding: its noise is named after the window's PPG and demographics.
        sampler, n_steps : optional
            Default: as in ``config.sampling``. One step gives the network's direct estimate of the posterior mean.
        progress : callable, optional
            Called with the number of windows finished after each batch.

        Returns
        -------
        Tensor, float32, shape (B, n_samples, 12, T)
            mV on the CPU. Leads that the training data did not hold are NaN.

        Raises
        ------
        InputError
            Wrong shape or length, not finite, or flat PPG; numbers of windows and demographics differ.
        """
        ppg = check_translation_input(ppg, demographics, self.config.signal.n_samples, n_samples)
        settings = self.config.sampling
        sample = get_sampler(sampler or settings.sampler)
        if isinstance(generator, WindowNoise):
            seed, window_ids = generator.seed, generator.window_ids
        else:
            seed, window_ids = int(generator or 0), _content_ids(ppg, demographics)
        was_training = self.training
        self.eval()
        windows_per_batch = max(1, settings.batch_size // n_samples)
        chunks = []
        for start in range(0, len(ppg), windows_per_batch):
            rows = slice(start, start + windows_per_batch)
            features = torch.as_tensor(demographics[rows].features(), device=self.device)
            fixed = self.condition(ppg[rows].to(self.device), features)
            fixed = [part.repeat_interleave(n_samples, 0) for part in fixed]
            noise = WindowNoise(seed, window_ids[rows], n_samples, (len(LEADS), ppg.shape[-1]), self.device)

            def denoise(x_t: Tensor, t: Tensor, fixed=fixed) -> Tensor:
                # Leads absent in training were zero there; keep them zero here, so that x_t looks as it did then.
                return self(x_t, t, *fixed).refined * self.trained_leads[:, None]

            x_0 = sample(denoise, self.process, noise, n_steps=n_steps or settings.n_steps)
            chunks.append((x_0 * self.ecg_scale_mv).reshape(-1, n_samples, *x_0.shape[1:]).cpu())
            if progress is not None:
                progress(min(start + windows_per_batch, len(ppg)))
        self.train(was_training)
        ecg = torch.cat(chunks)
        ecg[:, :, self.trained_leads.cpu() == 0] = torch.nan
        return ecg

    def save(self, folder: str | Path) -> Path:
        """Write ``weights.safetensors`` into ``folder``, with the configuration in its metadata; returns its path."""
        from safetensors.torch import save_file

        path = Path(folder) / WEIGHTS_FILE
        metadata = {
            "format": "p2es",
            "version": __version__,
            "config": json.dumps(self.config.to_dict(), sort_keys=True),
            "group_finder": json.dumps(self.group_finder.extra_state()),
        }
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata=metadata)
        return path

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str | torch.device = "cpu") -> P2Es:
        """Load a model that :meth:`save` wrote.

        Raises
        ------
        InputError
            No such folder or file, or a file that is not a P2Es model.
        """
        from safetensors import SafetensorError, safe_open

        path = Path(folder) / WEIGHTS_FILE
        if not path.is_file():
            raise InputError(f"{path}: no such model; train one with 'make reproduce', or name a folder that holds {WEIGHTS_FILE}")
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path}: cannot be read as safetensors ({error}); download or train it again") from error
        if metadata.get("format") != "p2es":
            raise InputError(f"{path}: holds no P2Es model (its metadata does not say so); name a folder that P2Es.save wrote")
        model = cls(Config.from_dict(json.loads(metadata["config"])))
        model.load_state_dict(tensors)
        model.group_finder.load_extra_state(json.loads(metadata["group_finder"]))
        if model.config.affinity.mixing == "groups" and not len(model.group_finder.bank_embedding):
            raise InputError(f"{path}: the model was saved before GroupFinder was fitted; train it with notebook 05_train")
        return model.to(device).eval()


def _content_ids(ppg: Tensor, demographics: Demographics) -> list[str]:
    """A name per window that depends on its PPG and demographics alone."""
    rows = zip(ppg.cpu().numpy(), demographics.features(), strict=True)
    return [hashlib.blake2b(x.tobytes() + f.tobytes(), digest_size=12).hexdigest() for x, f in rows]


def ecg_scale_mv(ecg: np.ndarray, lead_mask: np.ndarray) -> float:
    """Standard deviation in mV over all samples of the leads that exist; ecg (N, 12, T), lead_mask (N, 12)."""
    present = np.asarray(ecg)[np.asarray(lead_mask) > 0]
    if not len(present) or not np.isfinite(scale := float(present.std())) or scale <= 0:
        raise InputError("the training ECG is empty, flat or not finite; look at the data set with notebook 01_data")
    return scale
