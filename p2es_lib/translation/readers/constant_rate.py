"""From times of rows to a constant sampling rate: times may be rounded, samples lost, the recording interrupted."""

from __future__ import annotations

import numpy as np

from p2es_lib.core.errors import InputError
from p2es_lib.translation.checks import RATE_RANGE_HZ, check_rate

#: Rows of a file may lie this far off the constant rate that is read into them: the tolerance of R peaks.
LARGEST_TIME_ERROR_S = 0.05
#: A rate that was given and one that was found may differ by this share.
RATE_TOLERANCE = 0.02
#: From this share of rows on that repeat the time of the one before, times are rounded or those of packets of rows.
_REPEATED = 0.3
#: Rows further apart (s) have a gap between them, over which nothing is interpolated: shorter than the rise of a pulse.
LONGEST_STEP_S = 0.1
#: Rows came in packets if this share of the steps up to this long (s) is shorter than this share of their mean. Samples
#: lost by chance never make so many short steps, and packets of two rows have half of theirs inside.
_NEAR_S, _SHORT_SHARE, _PACKET_SHARE = 1.0, 0.3, 0.4


def check_agreement(path, stated: float | None, found: float) -> None:
    """Refuse a rate that was given and is not the one of the file."""
    if stated is not None and abs(stated / found - 1) > RATE_TOLERANCE:
        raise InputError(f"{path}: sampling rate {stated:g} Hz was given, but the file says {found:.4g} Hz")


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

    Times may be rounded (BIDMC writes 125 Hz in steps of 0.01 s), so the rate is that of all rows together. Where steps
    of two samples and more fit the times better, single samples were lost, and are left out. A rate out of range, or
    rows that lie off any by more than :data:`LARGEST_TIME_ERROR_S`, are an :class:`InputError` that begins with
    ``where``.
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
        raise InputError(
            f"{where} fits no constant sampling rate (rows lie up to {error_s:.3g} s off {rate:.6g} Hz); resample the "
            "file first"
        )
    return rate, position


def _positions(
    elapsed_s: np.ndarray, is_break: np.ndarray, samples: np.ndarray, period: float
) -> tuple[np.ndarray, float]:
    """Sample numbers of rows, and the largest error of a row (s).

    They are ``samples`` on from one to the next, and by the time where a break begins a new run.
    """
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


def packet_starts(elapsed_s: np.ndarray) -> np.ndarray | None:
    """Times of the packets that rows came in, one for each row; None where rows do not come in packets.

    Software that notes when a row arrived gives the rows of one packet times a millisecond apart, and then none until
    the next packet: at the rate of these steps, most samples would be missing. Such times say no more than one a
    packet.
    """
    steps = np.diff(elapsed_s)
    near = steps[steps <= _NEAR_S]
    if not len(near) or np.mean(near < _SHORT_SHARE * near.mean()) < _PACKET_SHARE:
        return None
    begins = np.concatenate([[True], steps > near.mean()])
    if np.all(steps[~begins[1:]] == 0):  # one time a packet already, or times that are rounded
        return None
    return elapsed_s[np.flatnonzero(begins)][np.cumsum(begins) - 1]


def row_times(elapsed_s: np.ndarray) -> tuple[float, np.ndarray] | None:
    """Mean rate (Hz) and fractional sample numbers of rows without a constant rate; None if times cannot be trusted.

    A loop with a delay (Arduino) or a phone's camera samples when it gets to it and notes when. Such times are good as
    they are, and values can be interpolated between them: where each has its own time and none is far from the next.
    """
    steps = np.diff(elapsed_s)
    near = steps[steps <= LONGEST_STEP_S]
    if not len(near) or near.min() <= 0:
        return None
    usual, rate = float(np.median(near)), len(near) / float(near.sum())
    # Steps that scatter more are times of arrival: rows waited, and came at once.
    is_even = np.mean((near > usual / 3) & (near < 3 * usual)) >= 0.99
    return (rate, elapsed_s * rate) if is_even and RATE_RANGE_HZ[0] <= rate <= RATE_RANGE_HZ[1] else None
