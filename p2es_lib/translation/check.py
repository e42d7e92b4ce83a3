"""Is the ECG of a window to be believed? What its pulses and its own beats say, without a true ECG.

Each window is judged by itself, by the same rules in a file and live. No rhythm is a fault: irregular pulses are in
order as long as they look alike, as in atrial fibrillation, and so is any rate from 30 to 220 per minute. The limits
were chosen on one hour of one patient (MIMIC-IV): the highest specificity at a sensitivity of 0.8. What they do to
other recordings was seen while the rules were made, and is no independent test (``tools/measure_flag.py``,
``figures/flag``).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from p2es_lib.signals.cleaning import RATES_PER_MINUTE, fault_mask, pair_beats, ppg_onsets, ppg_quality
from p2es_lib.signals.polarity import pulse_polarity
from p2es_lib.signals.r_peaks import r_peak_times

#: Windows in which more than this share of the PPG is missing are not translated.
MAX_MISSING = 0.1
#: Share of faulty samples as recorded; quality of the PPG.
MAX_FAULTS, LEAST_QUALITY = 0.1, 0.4
#: Share of beats and pulses that are pairs, and what it must be where the pulses are clean: two detectors agree there.
LEAST_PAIRED, LEAST_PAIRED_CLEAN, CLEAN_QUALITY = 0.6, 0.85, 0.95
#: Largest product of :func:`irregularity` and what quality lacks, 1 - quality + the second number: pulses that come
#: irregularly must look all the more alike.
MAX_IRREGULAR, _LACKING = 0.08, 0.02
#: Why an ECG is in doubt, in the order in which :func:`doubts` names it.
DOWN, FAULTY = "the pulses seem to point down", "the PPG is flat or clipped or wrapped around as recorded"
RATE = f"fewer than 3 pulses or not {RATES_PER_MINUTE[0]:g} to {RATES_PER_MINUTE[1]:g} per minute"
UNPAIRED, NOISE = "beats and pulses do not match", "the pulses look like noise"
IRREGULAR = "the pulses are irregular and unlike each other"


class WindowReport(NamedTuple):
    """One window: its start (s), the quality (0 to 1) of its PPG as recorded, and why it was refused, or "".

    ``pulses`` of the PPG and ``beats`` of the ECG, counted; ``doubt``: why its ECG is in doubt (:func:`doubts`), or "".
    """

    start_s: float
    quality: float
    refused: str = ""
    pulses: int = 0
    beats: int = 0
    doubt: str = ""


def refusal(ppg: np.ndarray) -> str:
    """Why a window of PPG (T,) cannot be translated; "" if it can."""
    present = np.isfinite(ppg)
    if present.mean() < 1 - MAX_MISSING:
        return f"{100 * (1 - present.mean()):.0f} % missing"
    return "" if float(np.ptp(ppg[present])) > 0 else "flat"


def judge(
    start_s: float, recorded: np.ndarray, recorded_rate: float, ppg: np.ndarray, ecg: np.ndarray, rate: float
) -> WindowReport:
    """Report on a window that was translated.

    ``recorded`` (n,), at ``recorded_rate`` Hz: its PPG as recorded, for cleaning hides faults; ``ppg`` (T,), the same
    seconds cleaned, gaps bridged, and ``ecg`` (12, T), mV, NaN in leads that there are not, both at ``rate``.
    """
    r_peaks = r_peak_times(ecg[None], rate)[0]
    beats, pulses = r_peaks[np.isfinite(r_peaks)], ppg_onsets(ppg, rate) / rate
    quality, faults = ppg_quality(recorded, recorded_rate, (ppg, rate)), fault_mask(recorded, recorded_rate).mean()
    found = doubts(beats, pulses, quality, faults, len(ppg) / rate)
    if pulse_polarity(ppg, rate).verdict == "down":
        found = [DOWN, *found]
    return WindowReport(start_s, quality, "", len(pulses), len(beats), "; ".join(found))


def doubts(beats: np.ndarray, pulses: np.ndarray, quality: float, faults: float, window_s: float) -> list[str]:
    """Why an ECG with these ``beats`` (R peaks) is not to be believed, given the ``pulses`` (onsets) of its PPG.

    Both in s from the beginning of the window; ``quality`` is that of :func:`ppg_quality`, ``faults`` the share of
    faulty samples.
    """
    per_minute = 60 / np.median(np.diff(pulses)) if len(pulses) > 2 else 0.0
    lowest, highest = RATES_PER_MINUTE
    paired, _ = pair_beats(beats, pulses, window_s, 1.0, shortest=0.0)  # the delay is the model's
    wrong = {
        FAULTY: faults > MAX_FAULTS,
        RATE: not lowest <= per_minute <= highest,
        UNPAIRED: paired < (LEAST_PAIRED_CLEAN if quality > CLEAN_QUALITY else LEAST_PAIRED),
        NOISE: quality < LEAST_QUALITY,
        IRREGULAR: irregularity(beats) * (1 - quality + _LACKING) > MAX_IRREGULAR,
    }
    return [reason for reason, is_so in wrong.items() if is_so]


def irregularity(beats: np.ndarray) -> float:
    """Median change from one interval to the next, as a share of the median interval; 1 with fewer than 3 beats."""
    intervals = np.diff(beats)
    return float(np.median(np.abs(np.diff(intervals))) / np.median(intervals)) if len(intervals) > 1 else 1.0
