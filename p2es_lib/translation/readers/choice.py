"""Which column is the PPG and which clock is right: judged together, by what they hold.

A reading is a column of values on a clock. It is plausible where pulses like each other come at 30 to 220 per minute
(:mod:`p2es_lib.signals.cleaning`); names decide among readings that are about as plausible.
"""

import re

import numpy as np
from scipy.interpolate import PchipInterpolator

from p2es_lib.core.errors import InputError
from p2es_lib.data.sources import wfdb_records as wfdb
from p2es_lib.signals.plausibility import plausibility, without_codes
from p2es_lib.translation.readers.clock import Clock
from p2es_lib.translation.readers.spacing import LONGEST_STEP_S, RATE_TOLERANCE

#: Names of a PPG besides those that :func:`wfdb_records.find_ppg` knows: "BVP" is blood volume pulse.
_ALSO_PPG = re.compile(r"(^|[^a-z])bvp([^a-z]|$)|spo2[ _-]?wave", re.IGNORECASE)
_JUST_PPG = re.compile(r"(ppg|pleth|bvp)\W*([\[(].*)?", re.IGNORECASE)
#: Words of names that may stand for a PPG, and names that say nothing: what these hold decides.
_PERHAPS = {
    "pulse", "puls", "pulso", "pouls", "polso", "pulsewave", "pulswelle", "pwa", "ir", "infrared", "infrarot",
    "infrarouge", "red", "rot", "rouge", "rojo", "rosso", "green", "grün", "gruen", "vert", "verde", "cardiac", "oxi",
    "oximeter", "oximetry", "photodiode", "optical", "finger", "pulsoximeter",
}  # fmt: skip
_PERHAPS_SIGNS = re.compile(
    r"脉|脈|맥|пульс|фпг|ппг|^puls(?!\w*[ _]?(rate|freq|bpm|ox))|^P[IRG]$|^spo2$|^(led|pd)[ _]?\d*$", re.IGNORECASE
)
_PLAIN = re.compile(
    r"(value|values|val|signal|raw|data|sensor|adc|amplitude|wave|waveform|analog|ch|channel|sample|wert|messwert|"
    r"valeur|valor|valore|reading|voltage|spannung|tension|counts?)[ _]?\d{0,2}\W*([\[(].*)?", re.IGNORECASE,
)  # fmt: skip
#: Pulses are there from this plausibility on; a difference of so much decides between readings.
_HAS_PULSES, _BETTER = 0.5, 0.25


def find_ppgs(names: list[str]) -> list[str]:
    """Signals that stand for a PPG, those that are called just so ("PPG", "Pleth (NU)", "BVP") first."""
    found = [name for name in names if wfdb.find_ppg([name]) or _ALSO_PPG.search(name) and not wfdb.is_derived(name)]
    return sorted(found, key=lambda name: not _JUST_PPG.fullmatch(name.strip()))


def perhaps_ppgs(names: list[str]) -> list[list[str]]:
    """Other signals that may be a PPG, by names such as ``IR`` or ``Pulse``, and by names that say nothing at all."""
    sure = find_ppgs(names)
    words = {name: {*wfdb.name_words(name), *name.lower().split()} for name in names if name not in sure}
    perhaps = [
        name for name, own in words.items()
        if _PERHAPS_SIGNS.search(name.strip()) or (_PERHAPS & own and not wfdb.is_derived(name))
    ]  # fmt: skip
    return [
        perhaps,
        [name for name in words if name not in perhaps and _PLAIN.fullmatch(name.rpartition("/")[2].strip())],
    ]


def doubt(x: np.ndarray, clock: Clock) -> str:
    """Why a column (n_rows,) cannot be at the rate of a clock: it has clear pulses, but far too often or too rarely."""
    ppg, rate = without_codes(on_clock(x, clock), clock.rate)[0], clock.rate
    if plausibility(ppg, rate) >= 0.4:
        return ""
    others = [rate * 2.0**n for n in range(-9, 10) if abs(n) > 1 and 20.0 <= rate * 2.0**n <= 10_000.0]
    best = max(others, key=lambda other: plausibility(ppg, other), default=rate)
    if plausibility(ppg, best) < 0.8:
        return ""
    return f"at {rate:g} Hz its pulses would come about {rate / best:.2g} times as often as a heart beats"


def on_clock(x: np.ndarray, clock: Clock) -> np.ndarray:
    """Values (n_rows,) at a constant rate, NaN where there is no row."""
    x = x if clock.rows is None else x[clock.rows]
    position, whole = clock.position, np.arange(int(clock.position[-1]) + 1)
    placed, present = np.full(len(whole), np.nan), np.isfinite(x)
    if np.issubdtype(position.dtype, np.integer):
        placed[position] = x
    elif present.sum() >= 2:
        # Each value between two rows: a line would take a tenth of a pulse's height at 25 Hz, a spline would overshoot.
        placed = PchipInterpolator(position[present], x[present], extrapolate=False)(whole)
        after = np.searchsorted(position, whole).clip(1, len(x) - 1)
        far = position[after] - position[after - 1] > LONGEST_STEP_S * clock.rate
        placed[far | ~(present[after] & present[after - 1])] = np.nan
    return placed


def judge(x: np.ndarray, clock: Clock) -> float:
    """:func:`plausibility` of a column (n_rows,) on a clock; -1 where it holds next to nothing."""
    placed = on_clock(x, clock)
    present = np.isfinite(placed)
    if present.sum() < 0.1 * min(len(placed), len(x)) or len(np.unique(placed[present][:100_000])) < 2:
        return -1.0
    placed = without_codes(placed, clock.rate)[0]
    length = max(int(clock.rate), 1)
    both = (placed, on_clock(np.ones(len(x)), clock))  # seconds in which it changes, of those in which there are rows
    values, rows = (part[: len(part) // length * length].reshape(-1, length) for part in both)
    changes = [np.isfinite(part).any() and np.nanmax(part) > np.nanmin(part) for part in values]
    there = np.sum(changes) / max(np.isfinite(rows).any(axis=1).sum(), 1)
    return plausibility(placed, clock.rate) * min(there / 0.8, 1.0)


def best_of(tiers: list[list[str]], score) -> tuple[str | None, list[str]]:
    """The first of the names, tier by tier, that is about as plausible as the best; and what to say of the others.

    ``score`` gives the plausibility of a name. Later tiers are asked only where no name before has pulses, and the
    last one only for a single name that has them.
    """
    found: dict[str, float] = {}
    for number, names in enumerate(tiers):
        found |= {name: score(name) for name in names}
        good = [name for name in names if found[name] >= _HAS_PULSES]
        if good and (number < len(tiers) - 1 or len(good) == 1):
            best = max(found[name] for name in good)
            chosen = next(name for name in good if found[name] >= best - _BETTER)
            break
    else:
        alive = [name for name in tiers[0] if found[name] >= 0] or tiers[0]  # named so, whatever it is like
        chosen = max(alive, key=lambda name: (found[name] > 0.0, -alive.index(name)), default=None)
    if chosen is None:
        return None, []
    poor = [name for name in found if name != chosen and found[name] < found[chosen] - _BETTER]
    why = {name: "hardly any values, or always the same" if found[name] < 0 else "no such pulses" for name in poor}
    return chosen, [f"not {name!r} ({reason})" for name, reason in why.items()]


def best_clock(path, clocks: list[Clock], x: np.ndarray | None, stated: float | None) -> Clock:
    """Of readings of the clocks, by preference, the one with which a column ``x`` (n_rows,) is plausible.

    ``stated``: the rate (Hz) that the head of the file states. An :class:`InputError` where none is plausible, or two
    are and differ.
    """
    if stated and (same := [clock for clock in clocks if abs(clock.rate / stated - 1) < 0.05]):
        clocks = same
    scores = [1.0 if x is None else judge(x, clock) for clock in clocks]
    fit = [(s, c) for s, c in zip(scores, clocks) if c.is_usual or (x is not None and s >= _HAS_PULSES)]
    if not fit:
        units = [(clock.rate, clock.note.partition("taken as ")[2].partition(":")[0]) for clock in clocks]
        told = " or ".join(f"{rate:g} Hz (in {unit})" for rate, unit in units)
        slow = "".join(f", and {rate / 1000:g} Hz (in s) are too slow" for rate, unit in units if unit == "ms")
        problem = f"the time column {clocks[0].name!r} states no unit; {told} would be no PPG, without pulses{slow}: "
        problem += "a PPG needs 20 Hz or more"
        raise InputError(f"{path}: {problem}; name the unit, as in 'time (s)', or give the rate (--sampling-rate)")
    best, clock = fit[0]
    for score, rival in fit[1:]:
        if abs(rival.rate / clock.rate - 1) <= 0.05:
            continue
        if score > best and score >= _HAS_PULSES > best:
            best, clock = score, rival
        elif score >= best - _BETTER and rival.is_stated >= clock.is_stated and x is not None:
            both = f"{clock.name!r} says {clock.rate:.4g} Hz, {rival.name!r} says {rival.rate:.4g} Hz"
            raise InputError(f"{path}: two columns of time differ ({both}); say which with --time-column")
    if x is not None and not clock.is_stated and (why := doubt(x, clock)):
        problem = f"the time column {clock.name!r} states no unit, and {why}"
        raise InputError(f"{path}: {problem}; name the unit, as in 'time (s)', or give the rate (--sampling-rate)")
    return clock


def agrees(given: float, found: float) -> bool:
    """Whether two sampling rates (Hz) are the same."""
    return abs(given / found - 1) <= RATE_TOLERANCE
