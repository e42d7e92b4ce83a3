"""Noise that belongs to a window: whatever batch it is translated in, sample k of it is the same."""

import hashlib
import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch


class NoiseNames(NamedTuple):
    """What the noise of windows is named after: a seed, and one identifier per window. The noise is made later."""

    seed: int
    window_ids: Sequence[str | int]


class WindowNoise:
    """Standard normal noise of ``n_samples`` draws of ``shape`` (C, T) for each window, by its identifier.

    Each (seed, window, sample, step) has a generator of its own, seeded by their hash: a call depends on nothing drawn
    before. Noise is drawn on the CPU, so every ``device`` sees the same numbers.
    """

    def __init__(self, seed: int, window_ids: Sequence[str | int], n_samples: int, shape: tuple[int, int],
                 device: torch.device | str = "cpu"):  # fmt: skip
        self.seed, self.n_samples, self.shape, self.device = int(seed), int(n_samples), tuple(shape), device
        self.window_ids = [str(name) for name in np.asarray(window_ids).tolist()]

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
