"""How rows are spaced in time: mended where single times are wrong, packets, constant rates, and what fits none."""

import numpy as np
import pandas as pd
from scipy import ndimage

from p2es_lib.core.errors import InputError
from p2es_lib.translation.readers.checks import RATE_RANGE_HZ, check_rate

#: Rows may lie so far off the constant rate that is read into them, as R peaks may; and two rates differ by this share.
LARGEST_TIME_ERROR_S, RATE_TOLERANCE = 0.05, 0.02
#: From this share of rows on that repeat the time of the one before, times are rounded or those of packets of rows.
_REPEATED = 0.3
#: Rows further apart (s) have a gap between them, over which nothing is interpolated: shorter than the rise of a pulse.
LONGEST_STEP_S = 0.1
#: Rows came in packets if, of the steps that are no interruption, a share of 0.4 is shorter than 0.3 of their mean.
#: Samples lost by chance never make so many short steps, and packets of two rows have half of theirs inside.
_PACKET_SHARE, _SHORT_SHARE = 0.4, 0.3
#: Single wrong times that are mended: at most this share; and rows that stand in another order, at most so far away.
_MOST_WRONG, _FARTHEST_ROWS = 0.02, 256


def usual_rise(steps: np.ndarray) -> float:
    """Seconds by which times usually rise from row to row, where they do."""
    return float(np.median(steps[steps > 0]))


def coarse_step(steps: np.ndarray) -> float | None:
    """Steps in which times are written, where they are too coarse to place rows by: most repeat the one before."""
    too_coarse = np.mean(steps == 0) > 0.5 and usual_rise(steps) > 1.9 * LARGEST_TIME_ERROR_S
    return usual_rise(steps) if too_coarse else None


def ordinary_steps(steps: np.ndarray) -> np.ndarray:
    """Steps from row to row that are no interruption.

    Where many times repeat, only those from the first rise to the last: whole packets, so that the mean is the period.
    """
    rises = np.flatnonzero(steps > 0)
    if len(rises) > 1 and np.mean(steps == 0) >= _REPEATED:
        whole, usual = steps[rises[0] + 1 : rises[-1] + 1], np.median(steps[rises])
        return np.where(whole <= 5 * usual, whole, usual)  # an interruption begins a packet too
    typical = np.mean(steps[steps <= 5 * max(np.median(steps), np.mean(steps) / 5)])
    return steps[steps <= 5 * typical]


def constant_rate(elapsed_s: np.ndarray, where: str) -> tuple[float, np.ndarray]:
    """Sampling rate (Hz), and the sample number of each row; interruptions leave numbers out.

    Times may be rounded (BIDMC writes 125 Hz in steps of 0.01 s): the rate is that of all rows together. Where steps of
    two samples and more fit better, samples were lost. An :class:`InputError` that begins with ``where`` if the rate is
    out of range, or rows lie off any by more than :data:`LARGEST_TIME_ERROR_S`.
    """
    steps = np.diff(elapsed_s)
    ordinary = ordinary_steps(steps)
    is_break = steps > ordinary.max(initial=0.0)
    period = float(np.mean(ordinary)) if len(ordinary) else 0.0
    position, error_s = _positions(elapsed_s, is_break, np.ones(len(steps), dtype=int), period)
    # Steps of twice the usual one and more leave samples out, as long as none is so short that it may be none at all.
    if not is_break.all() and (common := float(np.median(steps[~is_break]))) > 0:
        samples = np.rint(steps / common).astype(int)
        if samples[~is_break].min() >= 1 and samples[~is_break].max() > 1:
            finer = float(steps[~is_break].sum() / samples[~is_break].sum())  # the usual step may be rounded
            placed, finer_error_s = _positions(elapsed_s, is_break, samples, finer)
            if finer_error_s < error_s:
                period, position, error_s = finer, placed, finer_error_s
    rate = check_rate(1 / period if period > 0 else 0.0, f"{where}: sampling rate")
    if error_s > LARGEST_TIME_ERROR_S or (np.diff(position) < 1).any():
        off = f"rows lie up to {error_s:.3g} s off {rate:.6g} Hz"
        raise InputError(f"{where} fits no constant sampling rate ({off}); resample the file first")
    return rate, position


def _positions(elapsed_s: np.ndarray, is_break: np.ndarray, samples: np.ndarray, period: float):
    """Numbers of rows, ``samples`` on from one to the next but by the time after a break; and their largest error."""
    position = np.arange(len(elapsed_s))
    if period > 0:
        run = np.concatenate([[0], np.cumsum(is_break)])  # number of the unbroken run each row belongs to
        first_rows = np.flatnonzero(np.concatenate([[True], is_break]))
        starts = np.rint(elapsed_s[first_rows] / period).astype(int)
        within = np.concatenate([[0], np.cumsum(np.where(is_break, 0, samples))])
        position = starts[run] + within - within[first_rows][run]
    error_s = elapsed_s - position * period
    # About the middle of all where times repeat, since the first is no better then.
    middle_s = (error_s.max() + error_s.min()) / 2 if np.mean(np.diff(elapsed_s) == 0) >= _REPEATED else 0.0
    return position, float(np.abs(error_s - middle_s).max())


def packet_starts(time: np.ndarray) -> np.ndarray | None:
    """Times (any unit) of the packets that rows came in, one for each row; None where rows do not come in packets.

    Software that notes when a row arrived gives rows of a packet times a millisecond apart, which say no more than one.
    """
    steps = np.diff(time)
    near = steps[steps <= 5 * np.quantile(steps, 0.995)]  # without interruptions
    if not len(near) or np.mean(near < _SHORT_SHARE * near.mean()) < _PACKET_SHARE:
        return None
    begins = np.concatenate([[True], steps > near.mean()])
    if np.all(steps[~begins[1:]] == 0):  # one time a packet already, or times that are rounded
        return None
    return time[np.flatnonzero(begins)][np.cumsum(begins) - 1]


def even_packets(elapsed_s: np.ndarray) -> tuple[float, np.ndarray] | None:
    """Rate (Hz) and sample numbers of rows of which many share a time, if as many rows come with each; else None."""
    firsts = np.flatnonzero(np.diff(elapsed_s, prepend=-np.inf) > 0)
    whole = firsts[1:]  # the first and the last packet may be cut
    if len(whole) < 3:
        return None
    period = float(np.polyfit(whole, elapsed_s[whole], 1)[0])
    off_s, sizes = elapsed_s[whole] - whole * period, np.diff(whole)
    # Packets that are all alike may come late; one that was lost would be a step of two.
    allowed_s = 0.5 * np.median(np.diff(elapsed_s[whole])) if np.ptp(sizes) == 0 else max(1.5 * period, 0.02)
    if period <= 0 or np.ptp(off_s) > allowed_s or not RATE_RANGE_HZ[0] <= 1 / period <= RATE_RANGE_HZ[1]:
        return None
    # The first packet is no longer than the others: all rows hang together.
    return (1 / period, np.arange(len(elapsed_s))) if firsts[1] <= np.diff(whole).max() + 1 else None


def spread_stamps(elapsed_s: np.ndarray) -> np.ndarray | None:
    """Times in which a few rows had that of a neighbour, spread evenly to the next ones; None if there are none."""
    steps = np.diff(elapsed_s)
    if not 0 < np.mean(steps == 0) < _REPEATED:
        return None
    rows, usual = np.arange(len(elapsed_s)), usual_rise(steps)
    again = np.concatenate([[False], steps == 0]) | np.concatenate([steps == 0, [False]])
    again[0] &= elapsed_s[0] != elapsed_s[1]
    spread = np.interp(rows, rows[~again], elapsed_s[~again])
    first, last = np.flatnonzero(~again)[[0, -1]]
    spread[:first] = elapsed_s[first] - usual * np.arange(first, 0, -1)
    spread[last:] = elapsed_s[last] + usual * np.arange(len(rows) - last)
    return spread - spread[0] if np.all(np.diff(spread) > 0) else None


def mended(where: str, time: np.ndarray, text: pd.Series, cells: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, list]:
    """Times of rows (any unit, NaN where none is given) that rise; the rows they belong to; and what was done.

    Newest first is turned round, a counter that began again is counted on, single missing and nonsensical times are
    taken from the rows around them, rows that stand a few places off are sorted, and rows written twice are left out.
    An :class:`InputError` that begins with ``where`` for times that go back otherwise, or never rise.
    """
    time, rows, done = np.asarray(time, dtype=float), np.arange(len(time)), []
    present = np.isfinite(time)
    if present.sum() < 2 or np.ptp(time[present]) == 0:
        raise InputError(f"{where} must hold numbers that only rise, or times that do, but never rises")
    if (steps := np.diff(time[present])).max() <= 0:
        time, rows, done = time[::-1], rows[::-1], ["rows stand from the newest to the oldest"]
    elif (steps < 0).any() and (counted := _counted_on(time)) is not None:
        time, bits = counted
        done.append(f"a counter that begins again after {bits} bits")
    time, n_wrong = _without_nonsense(time)
    done += [f"{n_wrong} missing or nonsensical time(s) taken from the rows around them"] if n_wrong else []
    if (order := _order(time)) is not None:
        moved = int(np.sum(order != np.arange(len(order))))
        time, rows = time[order], rows[order]
        done.append(f"{moved} rows out of order sorted")
    _check_rising(where, text.iloc[rows], time)
    if (kept := _not_twice(time, rows, cells)) is not None:
        done.append(f"{int(np.sum(~kept))} rows written twice left out")
        time, rows = time[kept], rows[kept]
    return time, rows, done


def _counted_on(time: np.ndarray) -> tuple[np.ndarray, int] | None:
    """Times of a counter that began again after its largest number, as if it had not; and of how many bits it is."""
    steps = np.diff(time)
    falls = steps < 0
    if np.isfinite(time).all() and np.all(time == np.rint(time)):
        usual = np.median(steps[steps > 0]) if (steps > 0).any() else 0.0
        for bits in (16, 32):  # micros() of an Arduino begins again every 71.6 minutes
            if np.all((steps[falls] + 2.0**bits >= 0) & (steps[falls] + 2.0**bits <= 3 * usual)):
                return time + 2.0**bits * np.concatenate([[0], np.cumsum(falls)]), bits
    return None


def _without_nonsense(time: np.ndarray) -> tuple[np.ndarray, int]:
    """Times in which missing ones, and those far from their neighbours on both sides, are interpolated row by row."""
    numbers, present = np.arange(len(time)), np.isfinite(time)
    filled = np.interp(numbers, numbers[present], time[present])
    steps = np.diff(filled)
    usual = np.median(steps[steps > 0]) if (steps > 0).any() else 0.0
    # The median of five is each time itself where times rise, whatever gaps there are between them.
    off = np.abs(filled - ndimage.median_filter(filled, size=5, mode="mirror"))
    off[[0, -1]] /= 20  # of these, the neighbours stand on one side
    wrong = ~present | (off > 5 * usual)
    if not wrong.any() or wrong.sum() > max(_MOST_WRONG * len(time), 3) or (~wrong).sum() < 2:
        return time, 0
    filled = np.interp(numbers, numbers[~wrong], time[~wrong])
    for end in (0, -1):  # beyond the last right time, interpolation would repeat it
        if wrong[end]:
            good = numbers[~wrong][end]
            outside = numbers < good if end == 0 else numbers > good
            filled[outside] = time[good] + (numbers[outside] - good) * usual
    return filled, int(wrong.sum())


def _order(time: np.ndarray) -> np.ndarray | None:
    """The order of time of rows of which some stand a few places off; None where nothing is to be sorted."""
    steps = np.diff(time)
    if not np.isfinite(time).all() or not (steps < 0).any():
        return None
    order = np.argsort(time, kind="stable")
    moved = np.abs(order - np.arange(len(order)))
    sorted_steps = np.diff(time[order])
    among = sorted_steps[(moved[1:] > 0) | (moved[:-1] > 0)]
    usual = np.median(steps[steps > 0])
    # Where two stretches overlap, because the clock was set back, steps would be half as long.
    is_whole = np.mean((among == 0) | (among > 0.6 * usual)) > 0.8
    return order if moved.max() <= _FARTHEST_ROWS and np.mean(moved > 0) <= 0.5 and is_whole else None


def _not_twice(time: np.ndarray, rows: np.ndarray, cells: pd.DataFrame) -> np.ndarray | None:
    """Rows (bool) that are not the one before them written again; None where rows that share a time differ."""
    again = np.flatnonzero(np.diff(time) == 0) + 1
    if not len(again):
        return None
    same = (cells.iloc[rows[again]].to_numpy() == cells.iloc[rows[again - 1]].to_numpy()).all(axis=1)
    if np.mean(same) < (0.95 if len(again) > _REPEATED * len(time) else 0.9):
        return None
    kept = np.ones(len(time), bool)
    kept[again[same]] = False
    return kept


def _check_rising(where: str, text: pd.Series, time: np.ndarray) -> None:
    where += " must hold numbers that only rise, or times that do"
    falls = np.flatnonzero(np.diff(time) < 0)
    if len(falls):
        row = int(falls[0]) + 1
        back = f"from {text.iloc[row - 1]} (row {row} of the values) to {text.iloc[row]} (row {row + 1})"
        remedy = "correct the clock, or give the part before or after as a file of its own"
        raise InputError(f"{where}, but goes back {back}; {remedy}, or the sampling rate (--sampling-rate)")
    if not np.isfinite(time).all():
        row = int(np.argmin(np.isfinite(time)))
        raise InputError(f"{where}, but holds {text.iloc[row]!r} in row {row + 1} of the values")


def row_times(elapsed_s: np.ndarray) -> tuple[float, np.ndarray] | None:
    """Mean rate (Hz) and fractional sample numbers of rows without a constant rate; None if times cannot be trusted.

    They can where each row has a time and none is far from the next: a loop with a delay (Arduino), a phone's camera.
    """
    steps = np.diff(elapsed_s)
    near = steps[steps <= LONGEST_STEP_S]
    if not len(near) or near.min() <= 0:
        return None
    usual, rate = float(np.median(near)), len(near) / float(near.sum())
    # Steps that scatter more are times of arrival: rows waited, and came at once.
    is_even = np.mean((near > usual / 3) & (near < 3 * usual)) >= 0.99
    return (rate, elapsed_s * rate) if is_even and RATE_RANGE_HZ[0] <= rate <= RATE_RANGE_HZ[1] else None
