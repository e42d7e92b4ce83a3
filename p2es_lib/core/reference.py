"""What is kept of a person's earlier recording: mean beats of the leads it had, their rate, the delay to the pulse.

It is no recording: nobody can read a rhythm from it, and it never holds time that is translated or scored.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import LEADS

#: A mean beat reaches from so long before R to so long after it, s: a long PR interval, and the T wave of a slow heart.
BEFORE_S, AFTER_S = 0.32, 0.60
#: From so long after the reference on, s, the target is taken to be another session.
SESSION_S = 3600.0


def beat_samples(sampling_rate: float) -> int:
    """Number of samples of a mean beat."""
    return round((BEFORE_S + AFTER_S) * sampling_rate) + 1


@dataclass(frozen=True)
class Reference:
    """References of N people or windows, one each; tensors on one device."""

    #: Mean beats in mV from :data:`BEFORE_S` before R to :data:`AFTER_S` after it, float32 (N, 12, L); 0 in leads that
    #: are not given.
    beats: Tensor
    given: Tensor  #: 1 for the leads that the recording had, float32 (N, 12); all 0: there is no reference.
    rr_s: Tensor  #: Mean RR interval, float32 (N,).
    delay_s: Tensor  #: R to the steepest point of the pulse, float32 (N,); NaN if it was not seen.
    #: Time from the reference to what is translated, float32 (N,); NaN if unknown (then it counts as another session).
    elapsed_s: Tensor
    #: How much the delay varied while the reference was recorded (SD), float32 (N,), s; NaN, the default: not known.
    delay_sd_s: Tensor | None = None

    def __post_init__(self):
        if self.delay_sd_s is None:
            object.__setattr__(self, "delay_sd_s", torch.full_like(self.delay_s, torch.nan))

    def __len__(self) -> int:
        return len(self.given)

    def __getitem__(self, rows) -> Reference:
        return self._each(lambda part: part[rows])

    def to(self, device) -> Reference:
        """The same on another device."""
        return self._each(lambda part: part.to(device))

    def repeat_interleave(self, count: int) -> Reference:
        """Each row ``count`` times, side by side."""
        return self._each(lambda part: part.repeat_interleave(count, 0))

    def repeat(self, count: int) -> Reference:
        """All rows ``count`` times, one after the other."""
        return self._each(lambda part: part.repeat(count, *[1] * (part.ndim - 1)))

    @property
    def same_session(self) -> Tensor:
        """Whether the target was recorded in the session of the reference, bool (N,)."""
        return self.elapsed_s < SESSION_S  # NaN: no

    @classmethod
    def none(cls, count: int, sampling_rate: float) -> Reference:
        """No reference for any of ``count`` windows."""
        unknown = torch.full((count,), torch.nan)
        beats = torch.zeros(count, len(LEADS), beat_samples(sampling_rate))
        return cls(beats, torch.zeros(count, len(LEADS)), torch.ones(count), unknown, unknown.clone())

    @classmethod
    def joined(cls, parts: list[Reference]) -> Reference:
        """Several tables of references as one."""
        return cls(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(cls)))

    def check(self, count: int, sampling_rate: float) -> Reference:
        """The same for ``count`` windows (one serves them all), or an InputError that says what does not fit."""
        if self.beats.shape[1:] != (len(LEADS), beat_samples(sampling_rate)):
            found = f"reference: mean beats of shape {tuple(self.beats.shape[1:])}"
            raise InputError(
                f"{found}; at {sampling_rate:g} Hz it is (12, {beat_samples(sampling_rate)}): make it anew"
            )
        if len(self) not in (1, count):
            raise InputError(f"reference: {len(self)} of them for {count} windows; give one, or one per window")
        return self if len(self) == count else self.repeat(count)

    def _each(self, change) -> Reference:
        return Reference(*(change(getattr(self, f.name)) for f in fields(self)))
