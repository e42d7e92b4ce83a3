"""Noise that belongs to a window: whatever batch it is translated in, sample k of it is the same."""

import hashlib
import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch


class NoiseNames(NamedTuple):
    """What the noise of windows is named after: a seed, and one identifier per window. The noise is made later.

    ``recording_ids``, one per window: windows of one recording share what a sample keeps throughout it; default: each
    window is a recording of its own.
    """

    seed: int
    window_ids: Sequence[str | int]
    recording_ids: Sequence[str | int] | None = None


class WindowNoise:
    """Standard normal noise of ``n_samples`` draws of ``shape`` (C, T) for each window, by its identifier.

    Each (seed, window, sample, step) has a generator of its own, seeded by their hash: a call depends on nothing drawn
    before. Noise is drawn on the CPU, so every ``device`` sees the same numbers.
    """

    def __init__(self, seed: int, window_ids: Sequence[str | int], n_samples: int, shape: tuple[int, int],
                 device: torch.device | str = "cpu", recording_ids: Sequence[str | int] | None = None):  # fmt: skip
        self.seed, self.n_samples, self.shape, self.device = int(seed), int(n_samples), tuple(shape), device
        self.window_ids = [str(name) for name in np.asarray(window_ids).tolist()]
        self.recording_ids = self.window_ids if recording_ids is None else [str(name) for name in recording_ids]

    @property
    def of_recording(self) -> "WindowNoise":
        """The noise that the windows of one recording share, sample by sample."""
        names = [f"recording {name}" for name in self.recording_ids]
        return WindowNoise(self.seed, names, self.n_samples, self.shape, self.device)

    def __len__(self) -> int:
        return len(self.window_ids) * self.n_samples

    def __call__(self, step: int) -> torch.Tensor:
        """Noise of one step, float32 (n_windows * n_samples, C, T): window-major, sample-minor."""
        noise = torch.empty(len(self), *self.shape)
        for row in range(len(self)):
            window, sample = divmod(row, self.n_samples)
            noise[row].normal_(generator=self._generator(self.window_ids[window], sample, step))
        return noise.to(self.device)

    def normal(self, count: int) -> torch.Tensor:
        """Standard normal numbers beside those of the steps, float32 (n_windows * n_samples, count)."""
        rows = [divmod(row, self.n_samples) for row in range(len(self))]
        drawn = [torch.randn(count, generator=self._generator(self.window_ids[name], k, -1)) for name, k in rows]
        return torch.stack(drawn).to(self.device)

    def _generator(self, window_id: str, sample: int, step: int) -> torch.Generator:
        digest = hashlib.blake2b(json.dumps([self.seed, window_id, sample, step]).encode(), digest_size=8).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)  # 63 bits: what every version takes
