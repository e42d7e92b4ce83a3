"""Whether a signal has pulses in it at all, and which of its samples no sensor measured: before anything is filtered.

Other than :func:`p2es_lib.signals.cleaning.ppg_quality`, this asks nothing of the direction of the pulses, and is made
to choose between signals, and between rates that one signal may have.
"""

import numpy as np
from scipy import ndimage

from p2es_lib.signals.cleaning import (
    bridge_gaps,
    flat_mask,
    ppg_clean,
    ppg_onsets,
    pulse_likeness,
    template_agreement,
    true_runs,
)

_WINDOW_S, _N_WINDOWS = 10.0, 7


def plausibility(ppg: np.ndarray, rate: float) -> float:
    """From 0 to 1, how much a signal (T,) at ``rate`` Hz looks like pulses of a heart, whichever way they point.

    The median, over windows of 10 s, of the agreement of the pulses with each other, at most their likeness.
    """
    if rate > 400:  # what lies above 8 Hz is filtered out anyway
        step = int(rate // 200)
        ppg, rate = np.mean(ppg[: len(ppg) // step * step].reshape(-1, step), axis=1), rate / step
    length = int(_WINDOW_S * rate)
    found = []
    for first in np.linspace(0, max(len(ppg) - length, 0), min(_N_WINDOWS, 1 + len(ppg) // length)).astype(int):
        part = ppg[first : first + length]
        present = np.isfinite(part)
        if len(part) < 4 * rate or present.mean() < 0.5 or np.ptp(part[present]) == 0:
            continue
        filled = bridge_gaps(part)
        clean, fast = ppg_clean(filled, rate), filled - ndimage.uniform_filter1d(filled, max(3, int(0.1 * rate)))
        if clean.std() < 0.1 * fast.std():  # what filters leave of something much faster
            found.append(0.0)
            continue
        both = []
        for upright in (clean, -clean):
            feet = ppg_onsets(upright, rate)
            both.append(min(template_agreement(upright, feet, rate), pulse_likeness(upright, feet)))
        found.append(max(both))
    return float(np.median(found)) if found else 0.0


def without_codes(ppg: np.ndarray, rate: float) -> tuple[np.ndarray, list[str]]:
    """A PPG (T,) in which codes for "no contact" (0, -1, -999, the largest value) and isolated samples are missing."""
    x, notes = np.array(ppg, dtype=float), []
    for code in _codes(x, rate):
        notes.append(f"value {code:g} in {int(np.sum(x == code))} samples stands for missing data")
        x[x == code] = np.nan
    off = _isolated(x, rate)
    if off.any():
        notes.append(f"{int(off.sum())} samples far off the others taken as missing")
        x[off] = np.nan
    return x, notes


def _codes(x: np.ndarray, rate: float) -> list[float]:
    """Values that are no measurements: far beyond all others and there again and again, or held between two jumps."""
    codes, rest = [], x[np.isfinite(x)]
    for _ in range(4):
        for sign in (1.0, -1.0):
            if len(rest) < 0.1 * len(x) or np.ptp(rest) == 0:
                break
            code = sign * np.max(sign * rest)
            others = rest[rest != code]
            if len(np.unique(others[:20_000])) < 6:  # a number of few values, no wave
                break
            low, edge, high = np.quantile(sign * others, (0.01, 0.998, 0.99))
            levels = np.unique(others[:20_000])
            step = np.median(np.diff(levels)) if len(levels) > 1 else 0.0
            apart = sign * code - edge
            if len(rest) - len(others) >= 3 and apart > max(0.3 * (high - low), 3 * step) and len(others) > 10:
                codes.append(float(code))
                rest = others
    steps = np.abs(np.diff(x))
    usual = np.nanquantile(steps, 0.98) if np.isfinite(steps).any() else 0.0
    runs = [run for run in true_runs(flat_mask(x, rate, 0.2)) if run[0] > 1 and run[1] < len(x)]
    held: dict[float, list[bool]] = {}
    for first, end in runs:  # the mask begins with the second sample of a run
        jumps = max(steps[first - 2], steps[end - 1])
        if x[first] in (0.0, -1.0):  # another value may be that of a converter at its end
            held.setdefault(float(x[first]), []).append(bool(jumps > usual))
    return codes + [v for v, jumped in held.items() if v not in codes and len(jumped) > 1 and np.mean(jumped) > 0.5]


def _isolated(x: np.ndarray, rate: float) -> np.ndarray:
    """Samples (bool) far beyond the wave around them: up to 0.1 s (spikes), or up to 3 s between two large jumps."""
    present, length = np.isfinite(x), max(int(rate), 10)
    if present.sum() < 3 * length:
        return np.zeros(len(x), bool)
    filled = bridge_gaps(x)
    blocks = filled[: len(x) // length * length].reshape(-1, length)
    steady = ndimage.median_filter(np.median(blocks, axis=1), size=7, mode="nearest")
    level = np.interp(np.arange(len(x)), (np.arange(len(blocks)) + 0.5) * length, steady)
    wave = filled - level
    step = max(1, int(rate // 50))  # at high rates, every n-th sample shows the range as well
    smooth = ndimage.median_filter(wave[::step], size=2 * max(2, int(0.1 * rate / step)) + 1, mode="nearest")
    low, high = np.quantile(smooth, (0.02, 0.98))
    span = high - low
    off, steps = np.zeros(len(x), bool), np.abs(np.diff(filled, prepend=filled[0], append=filled[-1]))
    runs = true_runs((wave > high + 0.5 * span) | (wave < low - 0.5 * span))
    short = [r for r in runs if np.ptp(r) <= max(0.1 * rate, 2) and max(steps[r[0]], steps[r[1]]) > 0.5 * span]
    # Without contact, a sensor may give noise at another level for a while, which must not count for the range.
    pairs = smooth[: len(smooth) // (2 * length // step) * (2 * length // step)].reshape(-1, 2 * length // step)
    low, high = np.median(pairs.min(axis=1)), np.median(pairs.max(axis=1))
    span = high - low
    runs = true_runs((wave > high + span) | (wave < low - span))
    away = [r for r in runs if np.ptp(r) <= 3 * rate and min(steps[r[0]], steps[r[1]]) > span]
    for found in (short, away):
        if len(found) <= 0.7 * len(x) / rate:  # what comes with each beat is a converter that wraps around, or an ECG
            for first, end in found:
                off[first:end] = present[first:end]
    return off if off.mean() < 0.3 else np.zeros(len(x), bool)
