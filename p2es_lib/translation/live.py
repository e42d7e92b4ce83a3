"""PPG in, ECG out, while it is being recorded: one translator for chunks of any size and for whole recordings.

The PPG is translated window by window, and neighbouring windows fade into one another. What is done to a window
depends on the PPG of that window and on its place in the recording alone, so the ECG does not depend on how the PPG was
cut into chunks, and a file is translated by the same code.

A gap that is too long for a window begins the row of windows anew: the next one starts with the first sample after it,
and one more is moved back to end with the last sample before it, as at the end of a recording. Single samples that were
lost are bridged before anything else: the resampling filter would make them wider.

The price is the delay: a sample of ECG is final when no window that covers it is still to come, which is one window
(8.192 s with the default settings) after it, and the reach of the resampling filter.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from p2es_lib.core.errors import InputError, check_choice
from p2es_lib.core.leads import LEADS
from p2es_lib.core.learned import LearnedTranslator
from p2es_lib.core.noise import NoiseNames
from p2es_lib.core.reference import Reference
from p2es_lib.reference.mean_beat import make_references
from p2es_lib.signals import cleaning
from p2es_lib.signals.cleaning import true_runs
from p2es_lib.signals.polarity import pulse_polarity
from p2es_lib.signals.transforms import resample_at, resampling_reach
from p2es_lib.translation.check import MAX_MISSING, WindowReport, judge, refusal
from p2es_lib.translation.readers.checks import RATE_RANGE_HZ, check_options

#: Neighbouring windows share this much, in the middle of which one fades into the next over so long: few beats lie
#: there, whose times differ a little between the two.
OVERLAP_S, FADE_S = 1.024, 0.128
#: Gaps of up to so long (s), dropped frames, are bridged where what is left has the lowest rate that a PPG may have.
BRIDGED_S = 0.1
#: Edges of the band of the samples, per cent.
BAND = (5, 95)
#: PPG that :func:`ecg_blocks` pushes at a time, s: a few batches of windows.
CHUNK_S = 60.0
_ARRAYS = ("mean", "std", "lower", "upper", "central", "ppg", "covered", "doubtful")


@dataclass(frozen=True)
class EcgBlock:
    """A stretch of final ECG at the model's rate, from sample number ``start`` of the recording on.

    ``mean``, ``std``, ``lower``, ``upper`` (12, n), float32: mean, standard deviation and :data:`BAND` of the samples;
    ``central``: the sample that is nearest to all others, one person's ECG, where the mean is nobody's. All in
    mV; NaN in what was not translated or never learned. ``ppg`` (n,): what was translated, cleaned, or NaN.
    ``covered`` (n,): where there is a translation; ``doubtful`` (n,): where most of it is of a window in doubt
    (:mod:`p2es_lib.translation.check`). ``windows``: those decided upon since, of later samples too.
    """

    start: int
    mean: np.ndarray
    std: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    central: np.ndarray
    ppg: np.ndarray
    covered: np.ndarray
    doubtful: np.ndarray
    windows: tuple[WindowReport, ...] = ()

    def __len__(self) -> int:
        return len(self.covered)

    def part(self, first: int, stop: int) -> EcgBlock:
        """Samples ``first`` to ``stop`` of this block, without the reports of its windows."""
        return EcgBlock(self.start + first, **{name: getattr(self, name)[..., first:stop].copy() for name in _ARRAYS})

    @classmethod
    def joined(cls, blocks: list[EcgBlock]) -> EcgBlock:
        """Consecutive blocks as one."""
        arrays = {name: np.concatenate([getattr(b, name) for b in blocks], axis=-1) for name in _ARRAYS}
        return cls(blocks[0].start, **arrays, windows=tuple(report for b in blocks for report in b.windows))


def window_starts(n_total: int, n_window: int, n_overlap: int) -> np.ndarray:
    """First samples of windows that cover n_total samples; the last one is moved back to end with the recording."""
    last = n_total - n_window
    return np.unique(np.append(np.arange(0, last, n_window - n_overlap), last))


class LiveTranslator:
    """Translates a PPG that arrives in chunks; memory is that of a few windows, however long it runs.

    Parameters
    ----------
    model, sampling_rate : LearnedTranslator; float, optional
        The latter of the PPG, 20 to 10,000 Hz; default: the model's.
    age, sex : float, str
        Years; ``"F"`` or ``"M"``. None: not known.
    reference : Reference, optional
        Of the person, one row (:func:`p2es_lib.translation.reference_file.read_reference`). An :class:`InputError` for
        a model that cannot use one.
    polarity : "up", "down" or "auto"
        Which way the pulses point. With ``"auto"`` the first window that has strong evidence decides
        (:attr:`direction`); until then they are taken to point up.
    n_samples, seed, where : int, int, str
        Samples per window, 2 or more for a spread; the same PPG and seed give the same ECG. ``where`` begins errors,
        of which a setting out of its range is an :class:`InputError`.

    Examples
    --------
    >>> live = LiveTranslator(model, sampling_rate=64, age=63, sex="F")  # doctest: +SKIP
    >>> for chunk in sensor:  # doctest: +SKIP
    ...     block = live.push(chunk)  # final ECG, live.delay_s behind; often none at first
    >>> rest = live.finish()  # doctest: +SKIP
    """

    def __init__(
        self, model: LearnedTranslator, *, sampling_rate: float | None = None, age: float | None = None,
        sex: str | None = None, polarity: str = "up", n_samples: int = 8, seed: int = 0, where: str = "ppg",
        reference: Reference | None = None,
    ):  # fmt: skip
        signal = model.config.signal
        self.model, self.where, self.seed, self.n_samples = model, where, seed, n_samples
        self.rate = signal.sampling_rate
        self.rate_in = self.rate if sampling_rate is None else float(sampling_rate)
        self._person = check_options(age, sex, n_samples, self.rate_in, f"{where}: ")
        if reference is not None and not model.uses_reference:
            raise InputError(f"{where}: {model.name} cannot use a reference; leave it out, or name a model of p2es")
        self._reference = None if reference is None else reference.check(1, self.rate)
        check_choice("polarity", polarity, ("auto", "up", "down"))
        self._sign = -1.0 if polarity == "down" else 1.0
        self._finds_direction = polarity == "auto"
        #: Which way the pulses point and how that is known, in a line for the user.
        self.direction = f"pulses taken to point {polarity}, as given"
        if self._finds_direction:
            self.direction = "WARNING: which way the pulses point cannot be told yet: taken to point up"
        self.n_window, self.n_overlap = signal.window_samples, round(OVERLAP_S * self.rate)
        middle = (np.arange(self.n_overlap, dtype=np.float32) + 0.5) / self.n_overlap - 0.5
        # Never 0: at the ends of a recording a window is alone.
        self._ramp = np.clip(0.5 + middle * np.float32(OVERLAP_S / FADE_S), 1e-3, 1)
        self._ratio, self._reach = self.rate_in / self.rate, resampling_reach(self.rate_in, self.rate)
        self._raw, self._raw_start, self._n_raw = np.zeros(0), 0, 0  # PPG still needed, its first sample, all received
        self._next, self._last = 0, -1  # starts of the next window, and of the last one that was decided upon
        self._start = 0  # samples before it have been returned
        # Of what is in the making: weights, and weighted mean, variance, band, central sample, PPG and doubt.
        self._sums = np.zeros((1 + 5 * len(LEADS) + 2, 0), np.float32)
        self._reports: list[WindowReport] = []
        self._people: Reference | None = None  # one per sample, once drawn
        self._central: int | None = None  # number of the sample that is nearest to all others, once known
        self._finished = False

    @property
    def delay_s(self) -> float:
        """How far the ECG is behind, s. Constant: with PPG up to t, all ECG up to t - delay_s has been returned."""
        return self.n_window / self.rate + (self._reach + 1 if self._reach else 0) / self.rate_in

    def push(self, chunk) -> EcgBlock:
        """Take the next samples and return the ECG that is final now, which continues the block before.

        ``chunk`` (m,) is in any unit, NaN where missing, so that the clock goes on; it may be empty, as the block is
        where nothing more is final yet. An :class:`InputError` if it is no row of numbers, or after :meth:`finish`.
        """
        if self._finished:
            raise InputError(f"{self.where}: finished; make a new LiveTranslator for a new recording")
        try:
            chunk = np.asarray(chunk, dtype=float)
        except (TypeError, ValueError) as error:
            raise InputError(f"{self.where}: a chunk that is no row of numbers ({error})") from None
        if chunk.ndim != 1:
            raise InputError(f"{self.where}: a chunk of shape {chunk.shape}; expected a row of samples (m,)")
        self._raw = np.concatenate([self._raw, np.where(np.isfinite(chunk), self._sign * chunk, np.nan)])
        self._n_raw += len(chunk)
        # Samples at the model's rate for which the resampling filter has all it needs.
        available = max(0, int(np.floor((self._n_raw - 1 - self._reach) / self._ratio)) + 1)
        self._translate(self._decide(available))
        # Later windows, and a last one that is moved back to the end of the recording, begin here or later.
        first = max(0, available - self.n_window)
        block = self._take(first - self._start)
        # One that is moved back to the beginning of a gap begins up to a window earlier.
        needed = max(0, int(np.floor((first - self.n_window) * self._ratio)) - self._reach)
        self._raw, self._raw_start = self._raw[needed - self._raw_start :].copy(), needed
        return block

    def finish(self) -> EcgBlock:
        """The rest of the ECG, up to the end of the PPG; an :class:`InputError` if that is shorter than one window."""
        if self._finished:
            raise InputError(f"{self.where}: finished already")
        n_total = int(np.ceil(self._n_raw / self._ratio - 0.05))
        if n_total < self.n_window:
            given, needed = self._n_raw / self.rate_in, self.n_window / self.rate
            raise InputError(f"{self.where}: {given:.1f} s of PPG; at least {needed:.1f} s are needed, one window")
        self._finished = True
        windows, last = self._decide(n_total), n_total - self.n_window
        if self._last != last:  # moved back to the end, where no window of the row ends
            windows += self._decided(last, fade_from=self._next)[0]
        self._translate(windows)
        return self._take(n_total - self._start)

    def _window(self, start: int) -> np.ndarray:
        """PPG of one window at the model's rate (n_window,), NaN where missing."""
        position = (start + np.arange(self.n_window)) * self._ratio
        first = max(0, int(np.floor(position[0])) - self._reach)
        part = self._raw[first - self._raw_start : int(np.floor(position[-1])) + self._reach + 1 - self._raw_start]
        part = np.where(cleaning.flat_mask(part, self.rate_in, cleaning.OFF_S), np.nan, part)
        if np.isfinite(part).mean() * self.rate_in >= (1 - MAX_MISSING) * RATE_RANGE_HZ[0]:
            part = cleaning.bridge_short_gaps(part, self.rate_in, BRIDGED_S)
        present = part[np.isfinite(part)]
        # A level far above zero would cost the filters digits.
        level = np.median(present) if len(present) else 0.0
        return resample_at(part - level, position - first, self.rate_in, self.rate)

    def _decide(self, available: int) -> list[tuple]:
        """The windows of the row that end within the samples there are, and those that gaps add, as far as usable."""
        windows = []
        while self._next + self.n_window <= available:
            found, resume = self._decided(self._next, fade_from=self._next)
            windows += found
            self._last, self._next = self._next, resume or self._next + self.n_window - self.n_overlap
        return windows

    def _decided(self, start: int, fade_from: int) -> tuple[list[tuple], int | None]:
        """What becomes of the window that begins at ``start``, and the end of the gap that prevents it, if it is known.

        Then the one that ends before the gap is tried; it counts from ``fade_from`` on: the rest may be returned.
        """
        ppg = self._window(start)
        refused = refusal(ppg)
        if not refused:
            return [self._usable(start, start, ppg)], None
        windows, resume, gaps = [], None, true_runs(~np.isfinite(ppg))
        # The first gap that alone is too long for this window.
        for first, stop in gaps[gaps[:, 1] - gaps[:, 0] > MAX_MISSING * len(ppg)][:1].tolist():
            resume = start + stop if stop < self.n_window else None
            end = start + first
            if end >= self.n_window and end > fade_from + self.n_overlap:
                before = self._window(end - self.n_window)
                windows += [] if refusal(before) else [self._usable(end - self.n_window, fade_from, before)]
        self._reports.append(WindowReport(start / self.rate, 0.0, refused))
        return windows, resume

    def _usable(self, start: int, fade_from: int, ppg: np.ndarray) -> tuple:
        """First sample of a window, its PPG (cleaned, gaps bridged), as recorded, and the weight of each sample.

        The latter and the first are (n_window,).
        """
        ppg = self._turned(ppg)
        clean = cleaning.bridge_gaps(cleaning.ppg_clean(ppg, self.rate))
        first, stop = (round(place * self._ratio) - self._raw_start for place in (start, start + self.n_window))
        recorded = self._raw[max(0, first) : stop]
        weight, late = np.ones(self.n_window, np.float32), fade_from - start
        weight[:late], weight[late : late + self.n_overlap] = 0, self._ramp
        if not late:  # else it fades out into nothing: a gap follows
            weight[-self.n_overlap :] = self._ramp[::-1]
        return start, clean, recorded, weight

    def _turned(self, ppg: np.ndarray) -> np.ndarray:
        """A window of PPG with its pulses upward; all that is still needed is turned over with it."""
        if not self._finds_direction or (found := pulse_polarity(ppg, self.rate)).verdict == "unclear":
            return ppg
        self._finds_direction, is_down = False, found.verdict == "down"
        self.direction = (
            f"the PPG is TURNED OVER, its pulses point down ({found})" if is_down else f"pulses point up ({found})"
        )
        if is_down:
            self._sign, self._raw, ppg = -1.0, -self._raw, -ppg
        return ppg

    def _translate(self, windows: list[tuple]) -> None:
        """Translate windows, batch by batch, and add them to what is in the making."""
        self._extend(max((start for start, *_ in windows), default=-self.n_window) + self.n_window)
        per_batch = max(1, self.model.config.sampling.batch_size // self.n_samples)
        for first in range(0, len(windows), per_batch):
            batch = windows[first : first + per_batch]
            ppg = np.stack([clean for _, clean, *_ in batch])[:, None]
            scaled = ((ppg - ppg.mean(-1, keepdims=True)) / ppg.std(-1, keepdims=True)).astype(np.float32)
            ecg = self._samples(scaled, [start for start, *_ in batch])
            for window, samples in zip(batch, ecg, strict=True):
                self._add(*window, samples)

    def _samples(self, ppg: np.ndarray, starts: list[int]) -> np.ndarray:
        """Samples of windows (n, 1, n_window): (n, K, 12, n_window). Sample k is one person all along.

        Who it is, is drawn in the first window; the mean beats of its samples are the people of all windows.
        """
        reference = {"reference": self._reference} if self.model.uses_reference else {}
        if not self.model.draws_people:
            return self._draw(ppg, NoiseNames(self.seed, starts), n_samples=self.n_samples, **reference)
        if self._people is None:
            names = NoiseNames(self.seed, starts[:1])
            first = self._draw(ppg[:1], names, n_samples=self.n_samples, **reference)
            self._people = _drawn_people(first[0], ppg[0], self.rate)
        count = self.n_samples
        # Noise is named after place and person: a window's samples depend on where it lies and on the person alone.
        places = [f"{start}-{k}" for start in starts for k in range(count)]
        names = NoiseNames(self.seed, places, list(range(count)) * len(starts))
        people = self._people.repeat(len(ppg))
        ecg = self._draw(np.repeat(ppg, count, axis=0), names, reference=people, of_these=True)
        return ecg.reshape(len(ppg), count, *ecg.shape[2:])

    def _draw(self, ppg: np.ndarray, names: NoiseNames, **options) -> np.ndarray:
        return self.model.translate(ppg, self._person.repeat(len(ppg)), generator=names, **options).numpy()

    def _add(self, start: int, ppg: np.ndarray, recorded: np.ndarray, weight: np.ndarray, samples: np.ndarray) -> None:
        """Samples of one window, (n_samples, 12, n_window)."""
        skipped = max(0, self._start - start)  # returned already; its weights there are 0
        first, stop = start + skipped - self._start, start + self.n_window - self._start
        variance = samples.var(axis=0, ddof=1 if self.n_samples > 1 else 0)
        lower, upper = np.percentile(samples, BAND, axis=0)
        if self._central is None:
            self._central = central_sample(samples)
        of_samples = samples.mean(axis=0), variance, lower, upper, samples[self._central]
        report = judge(start / self.rate, recorded, self.rate_in, ppg, samples[self._central], self.rate)
        self._reports.append(report)
        whole = np.ones((1, self.n_window))
        rows = np.concatenate([whole, *of_samples, ppg[None], whole * bool(report.doubt)])
        self._sums[:, first:stop] += weight[skipped:] * rows[:, skipped:]

    def _extend(self, stop: int) -> None:
        missing = max(0, stop - self._start - self._sums.shape[1])
        self._sums = np.pad(self._sums, ((0, 0), (0, missing)))

    def _take(self, count: int) -> EcgBlock:
        """Hand out the next ``count`` samples, which are final."""
        self._extend(self._start + count)
        total, sums = self._sums[0, :count], self._sums[1:, :count]
        with np.errstate(invalid="ignore"):
            averages = np.where(total > 0, sums / total, np.float32(np.nan))  # 0 / 0 where nothing was translated
        mean, variance, lower, upper, central = averages[:-2].reshape(5, len(LEADS), count)
        arrays = (mean, np.sqrt(variance), lower, upper, central, averages[-2], total > 0, averages[-1] > 0.5)
        block = EcgBlock(self._start, *arrays, tuple(sorted(self._reports)))
        self._reports, self._start, self._sums = [], self._start + count, self._sums[:, count:].copy()
        return block


def _drawn_people(samples: np.ndarray, ppg: np.ndarray, rate: float) -> Reference:
    """References (K) of the people that the samples (K, 12, T) of a window with this PPG (1, T) show."""
    ecg = torch.as_tensor(np.nan_to_num(samples))
    given = torch.as_tensor(np.isfinite(samples).all(axis=-1)).float()
    pulse, now = torch.as_tensor(ppg).expand(len(ecg), 1, -1), torch.zeros(len(ecg))
    return make_references(ecg, given, rate, ppg=pulse, elapsed_s=now)


def central_sample(samples: np.ndarray) -> int:
    """Number of the sample (K, 12, T) whose mean squared distance to the others is least."""
    distance = ((samples[:, None] - samples[None]) ** 2).sum(axis=(2, 3), where=np.isfinite(samples[0]))
    return int(distance.sum(axis=1).argmin())


def ecg_blocks(live: LiveTranslator, ppg: np.ndarray, progress: bool = False) -> Iterator[EcgBlock]:
    """The ECG of a whole recording, block by block: ``ppg`` (T,) pushed into a fresh translator to its end."""
    from tqdm.auto import tqdm

    step = max(1, round(CHUNK_S * live.rate_in))
    for first in tqdm(range(0, len(ppg), step), desc="translating", unit="min", disable=not progress):
        yield live.push(ppg[first : first + step])
    yield live.finish()


def nothing_usable(live: LiveTranslator) -> InputError:
    """The error of a recording of which no window could be translated."""
    problem = f"no stretch of {live.n_window / live.rate:.1f} s has a usable PPG (all missing or flat)"
    return InputError(f"{live.where}: {problem}; look at the sensor and the column")
