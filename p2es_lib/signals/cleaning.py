"""PPG and ECG: cleaning, beats, and how far a stretch of signal can be trusted.

Everything here is SciPy. NeuroKit2 is the reference in the tests, not the engine: its QRS threshold is global, so one
artefact in an hours-long record hides most beats (1,755 found of about 22,000 in a 4.4-hour MIMIC-IV record), and it
takes 4-6 ms per 8-second window where these functions take about 1 ms. Here every threshold is local.

Times are in samples; a PPG onset is a float, because the foot of a pulse lies between samples. Sampling rates are in
hertz, missing samples are NaN, and pulses point upward.
"""

import numpy as np
from scipy import ndimage, signal

from p2es_lib.core.errors import InputError
from p2es_lib.signals.transforms import fill_gaps, filter_bandpass, filter_notch

#: Pass band in Hz (zero phase, :func:`p2es_lib.signals.transforms.filter_bandpass`). ECG: the monitoring band of IEC
#: 60601-2-27 (0.67-40 Hz) with its lower edge at 0.5 Hz, which keeps P, QRS, ST and T; its upper edge removes mains.
ECG_BAND_HZ = (0.5, 40.0)
#: PPG: respiration and baseline below, sensor noise above; pulses hold little beyond 8 Hz.
PPG_BAND_HZ = (0.5, 8.0)
#: Near half the rate a digital filter is steep; above this rate the band's upper edge leaves too much of mains.
_STEEP_UP_TO_HZ = 150.0
#: Shortest stretch, in seconds, in which beats can be looked for.
MIN_DURATION_S = 2.0
#: A PPG that stays at one value for so long (s) is no PPG: every heart beats more often.
OFF_S = 1.0
#: Beats closer than this are one beat (240 per minute).
REFRACTORY_S = 0.25
#: Median rates of a window that a heart can have: 30 to 220, which training covers, and a margin.
RATES_PER_MINUTE = (28.0, 230.0)
_QRS_BAND_HZ = (5.0, 25.0)
# Filtering leaves a flat signal with specks of some 1e-15 of its level, differently on each processor: no beats.
_ROUNDING = 1e-9


def ppg_clean(ppg: np.ndarray, sampling_rate: float) -> np.ndarray:
    """PPG in the band 0.5-8 Hz, zero phase: (..., T) to (..., T); missing samples stay missing."""
    return _band(ppg, sampling_rate, PPG_BAND_HZ)


def ecg_clean(ecg: np.ndarray, sampling_rate: float) -> np.ndarray:
    """ECG in the band 0.5-40 Hz without mains, zero phase: (..., T) to (..., T); missing samples stay missing.

    Mains, 50 or 60 Hz, lie above the band. At 125 Hz its edge alone takes 24 dB off them; at rates where it takes less
    (12 dB at 250 Hz) both are notched out besides, 2 Hz wide.
    """
    clean = _band(ecg, sampling_rate, ECG_BAND_HZ)
    for mains_hz in (50.0, 60.0) if sampling_rate > _STEEP_UP_TO_HZ else ():
        clean = filter_notch(clean, mains_hz, sampling_rate)
    return clean


def _band(x: np.ndarray, sampling_rate: float, band_hz: tuple[float, float]) -> np.ndarray:
    """Band-pass; an upper edge beyond 0.45 of the rate is left out. Raises an InputError for too short a signal."""
    length = np.shape(x)[-1] if np.ndim(x) else 0
    if length < MIN_DURATION_S * sampling_rate:
        found = f"signal of {length} samples at {sampling_rate:g} Hz"
        raise InputError(f"{found}: at least {MIN_DURATION_S:g} s are needed")
    low, high = band_hz
    return filter_bandpass(x, low, high if high < 0.45 * sampling_rate else None, sampling_rate)


def bridge_gaps(x: np.ndarray) -> np.ndarray:
    """Missing and infinite samples bridged by straight lines; a signal without any valid sample becomes 0."""
    return fill_gaps(np.where(np.isfinite(x), x, np.nan))[0]


def bridge_short_gaps(x: np.ndarray, sampling_rate: float, longest_s: float) -> np.ndarray:
    """Gaps of up to ``longest_s`` bridged by straight lines, (T,) to (T,); longer ones and those at an end are NaN."""
    gap = ~np.isfinite(x)
    # The small addition: rounding must not make 2 samples of 0.1 s at 30 Hz, which are 3.
    long = _long_runs(gap, int(longest_s * sampling_rate + 1e-6) + 1)
    for end in (slice(None), slice(None, None, -1)):
        long[end] |= np.logical_and.accumulate(gap[end])
    return np.where(long, np.nan, bridge_gaps(x))


def ecg_rpeaks(ecg: np.ndarray, sampling_rate: float) -> np.ndarray:
    """R peaks of one ECG lead, (T,) of any unit with NaN: sample numbers (n_beats,), ascending; none of a flat signal.

    Candidates are the maxima of the smoothed slope energy in the QRS band (after Pan and Tompkins, 1985), at least
    0.25 s apart and above 0.3 of the local median of maxima. Each is moved to the largest deflection nearby, of the
    polarity that dominates in the stretch.

    References
    ----------
    Pan J, Tompkins WJ. A real-time QRS detection algorithm. IEEE Trans Biomed Eng 1985;32:230-236.
    """
    raw = bridge_gaps(ecg)
    qrs = _band(raw, sampling_rate, _QRS_BAND_HZ)
    energy = ndimage.uniform_filter1d(np.gradient(qrs) ** 2, max(int(0.1 * sampling_rate), 1), mode="nearest")
    energy = np.sqrt(np.maximum(energy, 0.0))  # the running sum may round to just below zero
    candidates = _local_maxima(energy, sampling_rate, fraction=0.3, floor=_ROUNDING * np.max(np.abs(raw)))
    if len(candidates) == 0:
        return np.zeros(0, dtype=int)
    reach = int(round(0.09 * sampling_rate))
    around = np.clip(candidates[:, None] + np.arange(-reach, reach + 1), 0, len(qrs) - 1)  # (n_beats, 2 reach + 1)
    highest, lowest = qrs[around].max(axis=1), -qrs[around].min(axis=1)
    # A QRS is often biphasic: one polarity for the whole stretch keeps the fiducial point from jumping.
    polarity = 1.0 if np.median(highest) >= 0.8 * np.median(lowest) else -1.0
    peaks = around[np.arange(len(around)), np.argmax(polarity * qrs[around], axis=1)]
    return _drop_close(np.unique(peaks), polarity * qrs, REFRACTORY_S * sampling_rate)


def ppg_onsets(ppg: np.ndarray, sampling_rate: float) -> np.ndarray:
    """Pulse onsets (feet) of a PPG, (T,) of any unit with NaN: samples with fractions (n_pulses,), ascending.

    By intersecting tangents: the steepest upstroke of each pulse is found in the first derivative (above 0.4 of the
    local median of maxima); the foot is where the tangent there meets the horizontal through the minimum before it.
    """
    raw = bridge_gaps(ppg)
    clean = ppg_clean(raw, sampling_rate)
    return _feet(clean, _upstrokes(clean, sampling_rate, np.max(np.abs(raw))), sampling_rate)


def _upstrokes(clean: np.ndarray, sampling_rate: float, level: float) -> np.ndarray:
    """Samples of steepest rise of a cleaned PPG (T,); ``level``: the largest value before it was cleaned."""
    return _local_maxima(np.gradient(clean), sampling_rate, fraction=0.4, floor=_ROUNDING * level)


def _feet(clean: np.ndarray, steepest: np.ndarray, sampling_rate: float) -> np.ndarray:
    reach, slope = int(round(0.4 * sampling_rate)), np.gradient(clean)
    feet = []
    for position in steepest:
        start = max(position - reach, 0)
        bottom = start + int(np.argmin(clean[start : position + 1]))
        # Without a minimum inside the stretch (a pulse cut by its beginning) there is no foot to be found.
        if bottom > 0:
            feet.append(max(position - (clean[position] - clean[bottom]) / slope[position], bottom))
    return np.unique(feet)


def _local_maxima(feature: np.ndarray, sampling_rate: float, fraction: float, floor: float) -> np.ndarray:
    """Maxima of ``feature`` at least a refractory period apart, above ``fraction`` of the local level and ``floor``.

    The level is the median over 10 s of the maxima of blocks of 1.5 s (a beat each): no artefact or other gain matters.
    """
    n_blocks = max(len(feature) // max(int(1.5 * sampling_rate), 1), 1)
    edges = np.linspace(0, len(feature), n_blocks + 1).astype(int)
    maxima = np.maximum.reduceat(feature, edges[:-1])
    level = ndimage.median_filter(maxima, size=min(7, n_blocks), mode="nearest")
    level = np.interp(np.arange(len(feature)), (edges[:-1] + edges[1:]) / 2, level)
    peaks, _ = signal.find_peaks(feature, distance=max(int(REFRACTORY_S * sampling_rate), 1))
    return peaks[feature[peaks] > np.maximum(fraction * level[peaks], floor)]


def _drop_close(peaks: np.ndarray, height: np.ndarray, distance: float) -> np.ndarray:
    """Of peaks closer than ``distance`` keep the higher."""
    kept: list[int] = []
    for peak in peaks.tolist():
        if not kept or peak - kept[-1] >= distance:
            kept.append(peak)
        elif height[peak] > height[kept[-1]]:
            kept[-1] = peak
    return np.array(kept, dtype=int)


def ppg_quality(ppg: np.ndarray, sampling_rate: float, cleaned: tuple[np.ndarray, float] | None = None) -> float:
    """Quality of a PPG window between 0 (unusable) and 1 (every pulse like the others).

    Agreement of the pulses with their own template (mean correlation, after Orphanidou et al. 2015), at most
    :func:`pulse_likeness`, reduced by twice the share of faulty samples; 0 with fewer than 3 pulses, or at a rate
    outside :data:`RATES_PER_MINUTE`. ``ppg`` (T,) is as recorded, for cleaning hides faults; ``cleaned``, the same
    seconds after :func:`ppg_clean`, gaps bridged, and their rate, where the caller has them: they show the pulses.

    References
    ----------
    Orphanidou C et al. Signal-quality indices for the electrocardiogram and photoplethysmogram. IEEE J Biomed Health
    Inform 2015;19:832-838.
    """
    faults = fault_mask(ppg, sampling_rate).mean()
    if faults >= 0.5:
        return 0.0
    level = np.max(np.abs(ppg), initial=0.0, where=np.isfinite(ppg))
    clean, rate = cleaned or (ppg_clean(bridge_gaps(ppg), sampling_rate), sampling_rate)
    steepest = _upstrokes(clean, rate, level)
    # Onsets: between the steepest rises themselves, noise would rise faster than it falls.
    likeness = pulse_likeness(clean, _feet(clean, steepest, rate))
    return max(0.0, min(likeness, template_agreement(clean, steepest, rate)) * (1.0 - 2.0 * faults))


def template_agreement(clean: np.ndarray, beats: np.ndarray, sampling_rate: float) -> float:
    """Mean correlation (at most 1) of the beats, given by fiducial points (n_beats,), with their median shape.

    Several leads, (n_leads, T), are correlated as one long shape, so that each counts by its amplitude. 0 with fewer
    than 3 whole beats, or at a median rate outside :data:`RATES_PER_MINUTE`.
    """
    if len(beats) < 3:
        return 0.0
    interval = float(np.median(np.diff(beats)))
    clean, beats = np.atleast_2d(clean), np.asarray(beats)
    before, after = int(0.25 * interval), int(0.5 * interval)
    beats = beats[(beats >= before) & (beats + after < clean.shape[-1])].astype(int)
    if len(beats) < 3 or not RATES_PER_MINUTE[0] <= 60 * sampling_rate / interval <= RATES_PER_MINUTE[1]:
        return 0.0
    shapes = clean[:, beats[:, None] + np.arange(-before, after + 1)]  # (n_leads, n_beats, length)
    shapes = shapes - shapes.mean(axis=-1, keepdims=True)
    shapes = np.moveaxis(shapes, 0, 1).reshape(len(beats), -1)
    template = np.median(shapes, axis=0)
    norm = np.linalg.norm(shapes, axis=1) * np.linalg.norm(template)
    return float(np.mean(shapes @ template / np.where(norm > 0, norm, np.inf)))


#: Reversal ratio at which a window counts as 0.7 likely to be pulses. White and pink noise in ten bands between 0.5 and
#: 8 Hz stays above it in 98 % of windows of 8 s and 99 % of 10 s; clean pulses, simulated and recorded, in sinus rhythm
#: and atrial fibrillation, lie mostly at 0.1 to 0.4.
RATIO_AT_LIMIT, LIKENESS_AT_LIMIT = 0.6, 0.7


def pulse_likeness(ppg: np.ndarray, beats: np.ndarray) -> float:
    """From 0 (it could be noise, or is upside down) to 1 (pulses): falls with the logarithm of :func:`reversal_ratio`.

    The pulses of noise agree with each other, too: its upstrokes, laid upon each other where they are steepest, look
    alike because the filter made them. In the band of the PPG half of such windows have an agreement of 0.7, and nearly
    all in narrower bands. But a stationary Gaussian process reads the same backwards (Weiss 1975), whatever its
    spectrum, while a pulse does not: the heart fills the vessels faster than they empty (Elgendi 2012). This is what
    the skewness of Elgendi (2016), the best of eight quality indices there, sees in the values; here it is looked for
    in time, where it does not depend on the level of the dicrotic wave.

    References
    ----------
    Weiss G. Time-reversibility of linear stochastic processes. J Appl Probab 1975;12:831-836.
    Elgendi M. On the analysis of fingertip photoplethysmogram signals. Curr Cardiol Rev 2012;8:14-25.
    Elgendi M. Optimal signal quality index for photoplethysmogram signals. Bioengineering 2016;3:21.
    """
    evidence = np.log(max(reversal_ratio(ppg, beats), 1e-6)) / np.log(RATIO_AT_LIMIT)
    return float(np.clip(LIKENESS_AT_LIMIT * evidence, 0.0, 1.0))


def reversal_ratio(ppg: np.ndarray, beats: np.ndarray) -> float:
    """Fastest fall over fastest rise of the pulses (median), times the time spent rising over that spent falling.

    About 1 for whatever reads the same backwards, below for pulses, above for inverted ones; 1 with fewer than 3 beats.
    ``ppg`` (T,) is band-passed, ``beats`` (n_beats,) one fiducial point of each pulse (onset or steepest rise).
    """
    slope = np.diff(ppg)
    edges = np.unique(np.asarray(beats).astype(int))
    edges = edges[(edges >= 0) & (edges < len(slope))]
    if len(edges) < 3:
        return 1.0
    rises, falls = np.maximum.reduceat(slope, edges)[:-1], -np.minimum.reduceat(slope, edges)[:-1]
    rising, falling = np.sum(slope > 0), np.sum(slope < 0)
    if not (rises > 0).all() or not falling:
        return 1.0
    return float(np.median(np.maximum(falls, 0.0) / rises) * rising / falling)


#: What can be wrong with a signal as recorded, in the order in which :func:`fault_masks` gives it.
FAULTS = ("gap", "flat", "clipped", "jump")
#: Shortest run without any change that counts as flat, s.
FLAT_S = 0.3
#: Largest step between neighbouring samples as a share of the range, by the duration of a sample (s): at 125 Hz a pulse
#: rises over 8 or more samples, a QRS complex over 3, but a long sample may hold more of a steep rise. PPG: good PPG
#: reaches 0.6 at 20 Hz, and with more than 0.75 a converter that wraps around would pass. ECG: what 99.5 % of 5,956
#: leads of PTB-XL keep to that hold no larger step than 0.5 at 500 Hz (0.70, 0.76, 0.85 and 0.88 at 125, 100, 62.5 and
#: 50 Hz), and all of 42 simulated people (0.68, 0.76, 0.91 and 0.92), rounded up.
LARGEST_STEPS = {
    "ppg": ((1 / 50, 1 / 20), (0.4, 0.75)),
    "ecg": ((1 / 125, 1 / 100, 1 / 62.5, 1 / 50), (0.7, 0.76, 0.91, 0.93)),
}


def largest_step(kind: str, sampling_rate: float) -> float:
    """Largest share of its range that a ``"ppg"`` or an ``"ecg"`` may cover from one sample to the next."""
    return float(np.interp(1 / sampling_rate, *LARGEST_STEPS[kind]))


def fault_masks(x: np.ndarray, sampling_rate: float, kind: str = "ppg") -> dict[str, np.ndarray]:
    """Each of :data:`FAULTS` to the samples of a signal (T,) as recorded that no sensor measured, bool (T,).

    ``gap``: missing samples. ``flat``: runs of at least 0.3 s without any change. ``clipped``: runs at the largest or
    smallest value. ``jump``: steps between neighbouring samples that span more than :func:`largest_step` of the whole
    range, with 0.25 s on either side: the converter overflowed and wrapped around, or the sensor was switched.
    Filtering hides these faults.
    """
    x = np.asarray(x, dtype=float)
    gap = ~np.isfinite(x)
    if gap.all():
        return dict.fromkeys(FAULTS, np.zeros_like(gap)) | {"gap": gap}
    low, high = np.min(x[~gap]), np.max(x[~gap])
    # A rail holds the signal for several samples; the top of a pulse, unless coarsely digitised, does not.
    clipped = _long_runs((x == low) | (x == high), max(int(0.05 * sampling_rate), 3))
    steps = np.abs(np.diff(bridge_gaps(x), prepend=x[~gap][0]))
    jump = steps > largest_step(kind, sampling_rate) * (high - low)
    if jump.any():
        jump = ndimage.binary_dilation(jump, iterations=int(0.25 * sampling_rate) + 1)
    return {"gap": gap, "flat": flat_mask(x, sampling_rate, FLAT_S), "clipped": clipped, "jump": jump}


def fault_mask(x: np.ndarray, sampling_rate: float, kind: str = "ppg") -> np.ndarray:
    """Samples with a fault of any kind, bool (T,); see :func:`fault_masks`."""
    return np.any(list(fault_masks(x, sampling_rate, kind).values()), axis=0)


def flat_mask(x: np.ndarray, sampling_rate: float, min_duration_s: float) -> np.ndarray:
    """Samples (bool, (T,)) in runs of at least that duration in which the value does not change at all."""
    return _long_runs(np.concatenate([[False], np.diff(x) == 0]), max(int(min_duration_s * sampling_rate), 2))


def true_runs(mask: np.ndarray) -> np.ndarray:
    """First sample of each run of True in a bool array (T,), and the first after it: int (n_runs, 2)."""
    return np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]))).reshape(-1, 2)


def _long_runs(mask: np.ndarray, length: int) -> np.ndarray:
    """Only those True runs of ``mask`` that last at least ``length`` samples."""
    runs, edges = true_runs(mask), np.zeros(len(mask) + 1, dtype=np.int8)
    edges[runs[np.ptp(runs, axis=1) >= length]] = 1, -1
    return np.cumsum(edges[:-1], dtype=np.int8) > 0


def pair_beats(
    rpeaks: np.ndarray, onsets: np.ndarray, window_samples: int, sampling_rate: float, shortest: float = 0.1
) -> tuple[float, np.ndarray]:
    """How well the PPG pulses of a window follow its QRS complexes at one constant delay: score and delays (s).

    The delay is the one between ``shortest`` and 1 s (arrival plus delay of the device) that most distances from an R
    peak to a later onset share (both in samples from the beginning of the window, ascending); a pair is an R peak with
    the onset nearest to that delay after it, at most 80 ms off. A pulse without an R peak counts against the score as
    much as an R peak without a pulse, except near the edges, where the partner may lie outside: 2 * pairs / (R peaks +
    onsets).
    """
    longest, tolerance = 1.0, 0.08  # s
    edge = 0.35  # s; an onset is found only if the upstroke and the trough before it are inside
    rpeaks_s, onsets_s = np.asarray(rpeaks) / sampling_rate, np.asarray(onsets) / sampling_rate
    gaps = (np.asarray(onsets)[None, :] - np.asarray(rpeaks)[:, None]) / sampling_rate  # (n_rpeaks, n_onsets)
    inside = np.sort(gaps[(gaps >= shortest) & (gaps <= longest)])
    if len(inside) == 0:
        return 0.0, np.zeros(0)
    # The most crowded stretch of twice the tolerance; its median is the delay.
    crowd = np.searchsorted(inside, inside + 2 * tolerance, side="right") - np.arange(len(inside))
    first = int(np.argmax(crowd))
    delay = np.median(inside[first : first + crowd[first]])
    nearest = np.argmin(np.abs(gaps - delay), axis=1)
    distance = gaps[np.arange(len(gaps)), nearest]
    paired = np.abs(distance - delay) <= tolerance
    _, unique = np.unique(nearest[paired], return_index=True)  # one onset serves one R peak only
    delays = distance[paired][unique]
    window_s = window_samples / sampling_rate
    expected = np.sum(rpeaks_s + delay < window_s - edge) + np.sum(onsets_s - delay > edge)
    return float(min(1.0, 2 * len(delays) / max(expected, 1))), delays
