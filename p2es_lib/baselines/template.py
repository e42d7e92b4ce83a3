"""The mean-beat template: what is left when every beat of everybody is taken to be the same.

Copying the average beat to wherever the PPG shows a pulse needs no learning and scores well, so it stands in every
table: a method that does not beat it has learnt nothing of the person.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch

from p2es_lib.core.config import Config
from p2es_lib.core.demographics import Demographics
from p2es_lib.core.errors import InputError
from p2es_lib.core.translator import check_translation_input
from p2es_lib.data.windows import AGE_BANDS
from p2es_lib.signals.pulse_features import pulse_upstrokes

#: A beat begins one of these times before its pulse upstroke (s); R peaks come 0.1 to 0.55 s before it.
ADVANCE_GRID_S = tuple(np.arange(0.20, 0.85, 0.05).round(2))
TAIL_S = 2.0  # length of the template after the upstroke: the longest beat that it can fill
PRIOR_SAMPLES = 20.0  # of the value that a scarce template entry is drawn to, as if seen in addition
SELECTION_WINDOWS = 400  # training windows, spread over all of them, on which the advance is chosen
#: Pulses added outside a window, in intervals from its first (negative) and last (positive) pulse.
ADDED_PULSES = (-1, 1, 2, 3)
CROSSFADE_S = 0.04  # between consecutive beats


class MeanBeatTemplate:
    """Mean beat of the training ECG, placed at the pulse upstrokes of the PPG.

    The ECG of each lead is taken to be f(t - u_k) for u_k - a <= t < u_{k+1} - a, where u_k are the upstrokes found in
    the PPG. The least-squares f is the average of all training samples by their time since the upstroke, and the
    advance a is the one with the least squared error on the training windows. Pulses outside the window, part of whose
    ECG lies inside, are put at multiples of the median interval from the outermost ones. Windows with fewer than two
    pulses, and times further from an upstroke than the template reaches, get the mean signal. Deterministic; leads that
    no training window has are NaN.

    With ``by_group`` there is one template per sex and age band (``windows.AGE_BANDS``), drawn to the common one where
    a group has few beats. A window whose age or sex is missing gets the common template.
    """

    def __init__(self, config: Config, *, by_group: bool = False):
        self.sampling_rate = config.signal.sampling_rate
        self.window_samples = config.signal.window_samples
        self.by_group = by_group
        #: Time of the first sample of the templates relative to the upstroke, and number of samples.
        self.template_start_s = -max(ADVANCE_GRID_S)
        self._n_phases = int(round((TAIL_S + max(ADVANCE_GRID_S)) * self.sampling_rate)) + 1
        self.advance_s: float | None = None
        self.mean_signal: np.ndarray | None = None  # (12,) mV
        self.templates: np.ndarray | None = None  # (1 + groups, 12, D) mV; row 0 is the common one

    def fit(self, windows) -> MeanBeatTemplate:
        """Average the beats of the training windows (WindowSet).

        Leads count where they exist and are finite. A template entry that few samples reach is drawn to the mean signal
        (for a group: to the common template). No training window, or no pulse: InputError.
        """
        if len(windows) == 0:
            raise InputError("template: there is no training window; prepare a data set with a training split")
        ecg = np.asarray(windows.ecg)
        present = (np.asarray(windows.lead_mask) > 0) & np.isfinite(ecg).all(axis=-1)  # (N, 12)
        means = (ecg[rows, lead].mean(dtype=float) if rows.any() else np.nan for lead, rows in enumerate(present.T))
        self.mean_signal = np.array(list(means))
        upstrokes = self._upstrokes(torch.as_tensor(np.array(windows.ppg)))
        if not np.isfinite(upstrokes).any():
            raise InputError("template: no pulse was found in any training window; check the PPG and the sampling rate")
        group = self._groups(windows.demographics)
        some = np.unique(np.linspace(0, len(ecg) - 1, SELECTION_WINDOWS).astype(int))
        explained = []
        for advance_s in ADVANCE_GRID_S:
            number, total = self._sum_by_phase(ecg[some], present[some], upstrokes[some], advance_s, group[some])
            # Squared error of the best f = sum of squares about the mean signal, the same for each advance, minus this:
            explained.append(np.sum(total**2 / np.maximum(number, 1.0)))
        self.advance_s = float(ADVANCE_GRID_S[int(np.argmax(explained))])
        number, total = self._sum_by_phase(ecg, present, upstrokes, self.advance_s, group)
        common = total.sum(axis=0) / (number.sum(axis=0) + PRIOR_SAMPLES)  # (12, D), about the mean signal
        templates = (total + PRIOR_SAMPLES * common) / (number + PRIOR_SAMPLES)
        templates[0] = common
        self.templates = templates + self.mean_signal[:, None]  # NaN for leads that no window has
        return self

    def translate(self, ppg, demographics: Demographics, *, n_samples: int = 1, generator=None) -> torch.Tensor:
        """Place the mean beat at the pulses; see ``translator.Translator``. The samples are copies of each other."""
        if self.templates is None:
            raise RuntimeError("MeanBeatTemplate.translate was called before fit")
        ppg = check_translation_input(ppg, demographics, self.window_samples, n_samples)
        group = self._groups(demographics)
        ecg = np.empty((len(ppg), len(self.mean_signal), self.window_samples), dtype=np.float32)
        for start in range(0, len(ppg), 128):  # bounds memory
            rows = slice(start, start + 128)
            *times, weight = self._phases(self._upstrokes(ppg[rows]), self.advance_s)
            own, other = (self._look_up(group[rows], seconds) for seconds in times)
            ecg[rows] = (1 - weight[:, None]) * own + weight[:, None] * other
        return torch.from_numpy(ecg)[:, None].repeat(1, n_samples, 1, 1)

    def _groups(self, demographics: Demographics) -> np.ndarray:
        """Template row of each window (B,): 0 common, else 1 + sex and age band."""
        if not self.by_group:
            return np.zeros(len(demographics), dtype=int)
        band = np.digitize(np.nan_to_num(demographics.age), AGE_BANDS)
        known = np.isfinite(demographics.age) & (demographics.sex != "")
        return np.where(known, 1 + band + (demographics.sex == "M") * (len(AGE_BANDS) + 1), 0)

    def _upstrokes(self, ppg: torch.Tensor) -> np.ndarray:
        """Upstroke times (B, nb) in s, ascending, with those added that lie outside the window; NaN-padded."""
        parts = [pulse_upstrokes(part, self.sampling_rate).double().cpu() for part in ppg.split(512)]
        found = np.sort(torch.cat(parts).numpy(), axis=1)  # NaN last
        found[np.isfinite(found).sum(axis=1) < 2] = np.nan  # one pulse has no interval, and may be no pulse
        with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # windows without pulses
            interval = np.nanmedian(np.diff(found, axis=1), axis=1)
        first, last = found[:, 0], np.fmax.reduce(found, axis=1)
        added = [(first if steps < 0 else last) + steps * interval for steps in ADDED_PULSES]
        return np.sort(np.column_stack([found, *added]), axis=1)

    def _phases(self, upstrokes: np.ndarray, advance_s: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Seconds since the upstroke of the own (NaN: none) and the nearest other beat, the latter's share; (B, T)."""
        time = np.arange(self.window_samples) / self.sampling_rate
        begin = np.nan_to_num(upstrokes - advance_s, nan=np.inf)  # (B, nb)
        own = np.stack([np.searchsorted(row, time, side="right") for row in begin]) - 1
        # No beat on either side of them all: index -1 and index nb give NaN.
        bounded = np.pad(upstrokes, ((0, 0), (1, 1)), constant_values=np.nan)

        def since_upstroke(beat):
            return time - np.take_along_axis(bounded, beat + 1, axis=1)

        to_begin, to_end = since_upstroke(own) + advance_s, -since_upstroke(own + 1) - advance_s  # s, from 0 up
        to_begin[np.isnan(since_upstroke(np.maximum(own - 1, -1)))] = np.nan  # nothing to fade into before the first
        to_begin, to_end = np.nan_to_num(to_begin, nan=np.inf), np.nan_to_num(to_end, nan=np.inf)
        other = np.clip(np.where(to_begin < to_end, own - 1, own + 1), -1, upstrokes.shape[1])
        weight = np.clip(0.5 - np.minimum(to_begin, to_end) / CROSSFADE_S, 0.0, 0.5)
        return since_upstroke(own), since_upstroke(other), weight

    def _sum_by_phase(self, ecg, present, upstrokes, advance_s, group) -> tuple[np.ndarray, np.ndarray]:
        """Number and sum of the samples about the mean signal, by group, lead and phase: (G, 12, D) each."""
        n_groups = 1 + 2 * (len(AGE_BANDS) + 1) if self.by_group else 1
        phase, *_ = self._phases(upstrokes, advance_s)
        bin_of = np.round((phase - self.template_start_s) * self.sampling_rate)
        use = (bin_of >= 0) & (bin_of < self._n_phases)  # NaN compares false
        flat = (bin_of + group[:, None] * self._n_phases)[use].astype(int)
        sums = np.zeros((2, n_groups, ecg.shape[1], self._n_phases))
        for lead in np.flatnonzero(present.any(axis=0)):
            counts = np.broadcast_to(present[:, lead, None], use.shape)[use]
            value = np.where(counts, (ecg[:, lead] - self.mean_signal[lead])[use], 0.0)
            for total, weights in zip(sums, (counts, value), strict=True):
                total[:, lead] = np.bincount(flat, weights, n_groups * self._n_phases).reshape(n_groups, -1)
        return tuple(sums)

    def _look_up(self, group: np.ndarray, seconds: np.ndarray) -> np.ndarray:
        """Template (B, 12, T) at times since the upstroke (B, T), interpolated linearly; the mean signal elsewhere."""
        position = (seconds - self.template_start_s) * self.sampling_rate
        inside = (position >= 0) & (position <= self._n_phases - 1)
        position = np.where(inside, position, 0.0)
        lower = np.minimum(position.astype(int), self._n_phases - 2)
        fraction = (position - lower)[:, None, :]
        table = self.templates[group]  # (B, 12, D)
        below, above = (np.take_along_axis(table, (lower + step)[:, None, :], axis=2) for step in (0, 1))
        value = (1 - fraction) * below + fraction * above
        return np.where(inside[:, None, :], value, self.mean_signal[:, None])
