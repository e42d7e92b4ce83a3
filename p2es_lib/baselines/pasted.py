"""Beats pasted at the pulses: the person's own, where a reference shows them, else a fixed average beat.

Nothing is learned of how beats differ; what does not beat this has learned nothing from the reference.
"""

import numpy as np
import torch

from p2es_lib.core.config import Config
from p2es_lib.core.demographics import Demographics
from p2es_lib.core.errors import InputError
from p2es_lib.core.reference import Reference
from p2es_lib.core.translator import check_translation_input
from p2es_lib.reference.mean_beat import make_references
from p2es_lib.reference.placement import complete_leads, expected_beats, place_beats
from p2es_lib.signals.pulse_features import pulse_upstrokes

#: Training windows, spread over all of them, from which the average beat is made.
FIT_WINDOWS = 400


class PastedBeats:
    """The average beat of training windows, its leads replaced by those of a reference, at the pulses of the PPG.

    Deterministic: samples are copies. Leads that no training window has are NaN, unless the reference shows them.
    """

    def __init__(self, config: Config):
        self.window_samples, self.rate = config.signal.window_samples, config.signal.sampling_rate
        self.average: Reference | None = None  #: One row.

    def fit(self, windows) -> "PastedBeats":
        """Average the mean beats of training windows (WindowSet); an InputError where none has two beats."""
        rows = np.unique(np.linspace(0, len(windows) - 1, min(FIT_WINDOWS, len(windows))).astype(int))
        some = windows.select(rows)
        ecg, ppg = (torch.as_tensor(np.array(part, dtype=np.float32)) for part in (some.ecg, some.ppg))
        given = torch.as_tensor(np.array(some.lead_mask) > 0).float()
        made = make_references(torch.nan_to_num(ecg), given, self.rate, ppg=ppg)
        count = made.given.sum(dim=0)
        if not count.any() or not made.delay_s.isfinite().any():
            raise InputError("pasted beats: no training window has two like beats with a pulse; check the data set")
        beats = (made.beats.sum(dim=0) / count[:, None])[None]  # NaN where no window has the lead
        seen = made.given.any(dim=1)
        rr, delay = made.rr_s[seen].mean()[None], made.delay_s.nanmedian()[None]
        self.average = Reference(beats, (count > 0).float()[None], rr, delay, torch.full((1,), torch.nan))
        return self

    def translate(
        self, ppg, demographics: Demographics, *, reference: Reference | None = None, n_samples: int = 1, generator=None
    ) -> torch.Tensor:
        """See ``translator.Translator``."""
        if self.average is None:
            raise RuntimeError("PastedBeats.translate was called before fit")
        ppg = check_translation_input(ppg, demographics, self.window_samples, n_samples)
        fixed = self.average.repeat(len(ppg))
        own = reference.check(len(ppg), self.rate) if reference else Reference.none(len(ppg), self.rate)
        pulses, interval = expected_beats(pulse_upstrokes(ppg, self.rate))
        delay = torch.where(own.delay_s.isfinite(), own.delay_s, fixed.delay_s)
        r_times, place = pulses - delay[:, None], (interval, self.window_samples, self.rate)
        placed = place_beats(fixed.beats, fixed.rr_s, r_times, *place)
        shown = complete_leads(place_beats(own.beats, own.rr_s, r_times, *place), own.given)
        given = own.given.clone()
        given[:, :6] = torch.where(own.given[:, :6].sum(dim=1, keepdim=True) >= 2, 1.0, own.given[:, :6])
        return torch.where(given[:, :, None] > 0, shown, placed)[:, None].repeat(1, n_samples, 1, 1)
