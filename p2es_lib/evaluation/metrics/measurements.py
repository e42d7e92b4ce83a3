"""What a cardiologist measures in a 12-lead ECG: intervals, axes and the sizes of the waves, from an averaged beat.

As electrocardiographs do, the median over the beats of a window is measured; beats unlike it are left out. Onsets and
ends are those of all leads together, found on the length of the vector of all leads, so that limb leads alone suffice.

References
----------
Laguna P, Jané R, Caminal P. Automatic detection of wave boundaries in multilead ECG signals. Comput Biomed Res 27:45,
1994 (thresholds on the slope). Lepeschkin E, Surawicz B. Circulation 6:378, 1952 (T end by the tangent).
Kligfield P et al. Recommendations for the standardization of the electrocardiogram, part I. Circulation 115:1306, 2007
(global intervals from superimposed leads).
"""

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter1d, uniform_filter1d
from scipy.signal import resample_poly

from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import INDEPENDENT_ROWS, LEADS
from p2es_lib.signals.r_peaks import r_peak_times

#: Rate (Hz) and reach (seconds from the R peak) of the averaged beat.
BEAT_RATE, BEAT_SPAN_S = 500.0, (-0.36, 0.60)
#: Beats whose QRS complex correlates less than this with the first average are left out (ectopic, or disturbed).
LEAST_CORRELATION = 0.9
_MARGIN = 15  # samples by which a beat may be moved on the average
# QRS boundaries: speed of the vector below this share of its highest, for this long.
_SPEED_SHARE, _STILL_S = 0.06, 0.012
# A hump before QRS is a P wave if it is at least this high (length of the vector of all leads) and lasts this long.
_P_MINIMUM_MV, _P_DURATIONS_S = 0.02, (0.04, 0.20)
#: A deflection of QRS below this is not a wave, mV (IEC 60601-2-25).
LEAST_WAVE_MV = 0.02
_WAVES = ("p", "q", "r", "s", "st", "t")
#: Kors' regression, 12 leads @ KORS = X (left), Y (down), Z (back): eight leads carry it (Eur Heart J 1990).
KORS = np.zeros((len(LEADS), 3))
KORS[list(INDEPENDENT_ROWS)] = [
    (0.38, -0.07, 0.11), (-0.07, 0.93, -0.23), (-0.13, 0.06, -0.43), (0.05, -0.02, -0.06),
    (-0.01, -0.05, -0.14), (0.14, 0.06, -0.20), (0.06, -0.17, -0.11), (0.54, 0.13, 0.31),
]  # fmt: skip


def beat_times() -> np.ndarray:
    """Time axis of an averaged beat, seconds from the R peak, (n,)."""
    return np.arange(round(BEAT_SPAN_S[0] * BEAT_RATE), round(BEAT_SPAN_S[1] * BEAT_RATE)) / BEAT_RATE


def average_beats(ecg: np.ndarray, sampling_rate: float, available=None) -> tuple[np.ndarray, np.ndarray]:
    """The median beat of each window of ECG (N, 12, T) in mV, at a rate of a whole number of Hz, and its R peaks.

    ``available`` (N, 12): leads to use; by default those that are finite throughout. Beats (N, 12, n) are in mV at
    :func:`beat_times`, 0 just before QRS, NaN in leads not available and windows of fewer than two beats; R peaks (N,
    n_beats_max) in seconds, NaN-padded. An :class:`InputError` if ``ecg`` has another shape.
    """
    ecg = np.asarray(ecg)
    if ecg.ndim != 3 or ecg.shape[1] != len(LEADS):
        raise InputError(f"average_beats: ecg has shape {ecg.shape}, expected (windows, {len(LEADS)}, samples)")
    available = np.isfinite(ecg).all(axis=-1) if available is None else np.asarray(available, dtype=bool)
    # At whole samples: beats are moved on their average below, and the simulator's normal beats were fitted so.
    r_peaks = np.round(r_peak_times(ecg, sampling_rate, available) * sampling_rate) / sampling_rate
    beats = np.full((*ecg.shape[:2], len(beat_times())), np.nan)
    for row, times in enumerate(r_peaks):
        if available[row].any():
            beats[row, available[row]] = _average(ecg[row, available[row]], sampling_rate, times[np.isfinite(times)])
    return beats, r_peaks


def _average(ecg: np.ndarray, sampling_rate: float, times: np.ndarray) -> np.ndarray:
    """Median beat of one window (L, n) from its leads (L, T) and R times in seconds."""
    first, stop = np.round(np.array(BEAT_SPAN_S) * BEAT_RATE).astype(int)
    ecg = resample_poly(ecg.astype(np.float64), int(BEAT_RATE), int(round(sampling_rate)), axis=-1, padtype="line")
    where = np.round(times * BEAT_RATE).astype(int)
    where = where[(where + first >= _MARGIN) & (where + stop < ecg.shape[-1] - _MARGIN)]
    if len(where) < 2:
        return np.full((len(ecg), stop - first), np.nan)
    core = np.arange(-40, 41)  # 80 ms before to 80 ms after R
    for _ in range(2):
        parts = np.stack([ecg[:, at + core] for at in where])
        template = np.median(parts - parts.mean(axis=-1, keepdims=True), axis=0)
        where, alike = map(np.array, zip(*(_align(ecg, at, template, core) for at in where)))
        if (alike >= LEAST_CORRELATION).sum() >= 2:
            where = where[alike >= LEAST_CORRELATION]
    where = np.clip(where, -first, ecg.shape[-1] - stop)
    stack, t = np.stack([ecg[:, at + first : at + stop] for at in where]), beat_times()
    stack[..., t > np.diff(times).min() - 0.06] = np.nan  # beyond the next beat there is nothing of this one
    level = stack[..., (t > -0.10) & (t < -0.05)]
    return np.median(stack - np.median(level, axis=-1, keepdims=True), axis=0)


def _align(ecg: np.ndarray, at: int, template: np.ndarray, core: np.ndarray) -> tuple[int, float]:
    """Place near ``at`` where the leads resemble the template most, and their correlation there."""
    norm, alike = np.linalg.norm(template), {}
    for place in range(at - _MARGIN, at + _MARGIN + 1):
        part = ecg[:, place + core]
        part = part - part.mean(axis=-1, keepdims=True)
        alike[place] = float((part * template).sum() / max(np.linalg.norm(part) * norm, 1e-12))
    return max(alike.items(), key=lambda item: item[1])


def measure_beats(beats: np.ndarray, r_peaks: np.ndarray) -> pd.DataFrame:
    """Intervals, axes and wave sizes of averaged beats and R peaks as :func:`average_beats` gives them, N rows.

    ``qrs_onset_s`` (from the R peak), ``heart_rate`` (1/min), ``rmssd_ms``, ``pr_ms``, ``p_ms``, ``qrs_ms``, ``qt_ms``,
    ``qtc_ms`` (Fridericia), ``p_axis_deg``, ``qrs_axis_deg``, ``t_axis_deg`` (frontal, from areas in I and aVF),
    ``qrs_t_angle_deg`` (between the mean vectors of the eight independent leads), and per lead, such as ``V2_r_mv``:
    ``q``, ``r``, ``s`` (0 or more), ``p``, ``st`` (40 ms after QRS) and ``t`` (signed). NaN where one is missing.
    """
    rows = [_measure(beat, times[np.isfinite(times)]) for beat, times in zip(beats, r_peaks, strict=True)]
    columns = ["qrs_onset_s", "heart_rate", "rmssd_ms", "pr_ms", "p_ms", "qrs_ms", "qt_ms", "qtc_ms"]
    columns += ["p_axis_deg", "qrs_axis_deg", "t_axis_deg", "qrs_t_angle_deg"]
    return pd.DataFrame(rows, columns=columns + [f"{lead}_{wave}_mv" for lead in LEADS for wave in _WAVES])


def measure_windows(ecg: np.ndarray, sampling_rate: float, available=None) -> pd.DataFrame:
    """:func:`measure_beats` of :func:`average_beats`."""
    return measure_beats(*average_beats(ecg, sampling_rate, available))


def _measure(beat: np.ndarray, times: np.ndarray) -> dict[str, float]:
    rr = np.diff(times)
    values = {"heart_rate": 60.0 / rr.mean()} if len(rr) else {}
    values |= {"rmssd_ms": 1e3 * np.sqrt(np.mean(np.diff(rr) ** 2))} if len(rr) > 1 else {}
    leads = np.isfinite(beat).any(axis=-1)
    if not leads.any():
        return values
    inside = np.isfinite(beat[leads]).all(axis=0)
    shown, t = beat[leads][:, inside], beat_times()[inside]
    onset, end = _qrs_boundaries(shown, t)
    if end <= onset:  # nothing moves fast enough to be a QRS complex
        return values
    shown = shown - shown[:, (t >= onset - 0.016) & (t <= onset - 0.004)].mean(axis=-1, keepdims=True)
    t_end, t_peak = _t_wave(shown, t, end)
    p_onset, p_end = _p_wave(shown, t, onset)
    qt = t_end - onset
    values |= {"qrs_onset_s": onset, "pr_ms": 1e3 * (onset - p_onset), "p_ms": 1e3 * (p_end - p_onset)}
    values |= {"qrs_ms": 1e3 * (end - onset), "qt_ms": 1e3 * qt}
    values |= {"qtc_ms": 1e3 * qt / np.cbrt(rr.mean())} if len(rr) else {}
    whole = np.full((len(LEADS), len(t)), np.nan)
    whole[leads] = shown
    in_p, in_qrs = (t >= p_onset) & (t <= p_end), (t >= onset) & (t <= end)
    in_t = (t >= end + 0.08) & (t <= (t_end if np.isfinite(t_end) else t_peak + 0.1))
    st = whole[:, min(np.searchsorted(t, end + 0.04), len(t) - 1)]
    sizes = _qrs_sizes(whole[:, in_qrs]) | {"p": _signed_peak(whole, in_p), "st": st, "t": _signed_peak(whole, in_t)}
    values |= {f"{lead}_{wave}_mv": float(size[row]) for wave, size in sizes.items() for row, lead in enumerate(LEADS)}
    parts = {"p": in_p, "qrs": in_qrs, "t": np.abs(t - t_peak) < 0.04}
    return values | _axes({wave: whole[:, part].sum(axis=-1) for wave, part in parts.items()})


def _qrs_boundaries(shown: np.ndarray, t: np.ndarray) -> tuple[float, float]:
    """Beginning and end of QRS: where the vector of all leads moves, seconds."""
    speed = gaussian_filter1d(np.sqrt((np.gradient(shown, axis=-1) ** 2).mean(axis=0)), 2.0)
    core = np.abs(t) < 0.08
    limit = max(_SPEED_SHARE * speed[core].max(), 1.5 * np.median(speed))
    still = uniform_filter1d((speed < limit).astype(float), int(_STILL_S * BEAT_RATE)) > 0.999
    centre = int(np.flatnonzero(core)[speed[core].argmax()])
    before, after, half = np.flatnonzero(still[:centre]), np.flatnonzero(still[centre:]), _STILL_S / 2
    onset = t[before[-1]] + half if len(before) else t[centre] - 0.05
    end = t[centre + after[0]] - half if len(after) else t[centre] + 0.05
    return float(max(onset, t[centre] - 0.14)), float(min(end, t[centre] + 0.16))


def _peak_of_wave(shown: np.ndarray, search: np.ndarray, smooth: float) -> tuple[int, float, np.ndarray]:
    """Sample and vector length of a wave's peak, and the wave along its own vector, where it has one sign."""
    length = gaussian_filter1d(np.sqrt((shown**2).mean(axis=0)), smooth)
    peak = search[length[search].argmax()]
    along = shown.T @ shown[:, peak] / max(np.linalg.norm(shown[:, peak]), 1e-12)
    return peak, length[peak], gaussian_filter1d(along, smooth)


def _t_wave(shown: np.ndarray, t: np.ndarray, qrs_end: float) -> tuple[float, float]:
    """End (by the tangent) and peak of the T wave of all leads, seconds; NaN where none is found."""
    search = np.flatnonzero((t > qrs_end + 0.08) & (t < 0.56))
    if len(search) < 20:
        return np.nan, np.nan
    peak, _, along = _peak_of_wave(shown, search, 4.0)
    after = np.arange(peak, min(peak + int(0.16 * BEAT_RATE), len(t)))
    if len(after) < 15 or peak == search[0]:
        return np.nan, np.nan
    slope = np.gradient(along) * BEAT_RATE
    steepest = after[slope[after].argmin()]
    if slope[steepest] >= 0:
        return np.nan, float(t[peak])
    # The tangent meets the level after the end of the wave.
    later = along[(t > t[steepest] + 0.08) & (t < t[steepest] + 0.16)]
    base = min(np.median(later), 0.3 * along[peak]) if len(later) else 0.0
    return float(t[steepest] - (along[steepest] - base) / slope[steepest]), float(t[peak])


def _p_wave(shown: np.ndarray, t: np.ndarray, qrs_onset: float) -> tuple[float, float]:
    """Beginning and end of the P wave of all leads, seconds; NaN where none stands out."""
    none, reach = (np.nan, np.nan), int(0.09 * BEAT_RATE)
    search = np.flatnonzero((t > qrs_onset - 0.26) & (t < qrs_onset - 0.03))
    if len(search) < 30:
        return none
    peak, size, along = _peak_of_wave(shown, search, 3.0)
    rise = np.arange(max(peak - reach, 0), peak)
    fall = np.arange(peak + 1, min(peak + reach, np.searchsorted(t, qrs_onset)))
    if size < _P_MINIMUM_MV or peak in (search[0], search[-1]) or min(len(rise), len(fall)) < 5:
        return none
    slope = np.gradient(along)
    first, last = rise[slope[rise].argmax()], fall[slope[fall].argmin()]
    if slope[first] <= 0 or slope[last] >= 0:
        return none
    before = np.median(along[max(first - 30, 0) : max(first - 10, 1)])
    onset = t[first] - (along[first] - min(before, 0.5 * along[peak])) / slope[first] / BEAT_RATE
    end = min(t[last] - along[last] / slope[last] / BEAT_RATE, qrs_onset)
    return (float(onset), float(end)) if _P_DURATIONS_S[0] < end - onset < _P_DURATIONS_S[1] else none


def _qrs_sizes(qrs: np.ndarray) -> dict[str, np.ndarray]:
    """Sizes of Q, R and S (12,) in the QRS complex (12, n)."""
    known = np.isfinite(qrs)
    r, flat = qrs.max(axis=-1).clip(min=0), np.where(known, 0.0, np.nan)
    before_r = np.arange(qrs.shape[-1]) < np.where(known, qrs, -np.inf).argmax(axis=-1)[:, None]
    before_r &= (r > 0.03)[:, None]  # without R a QS complex counts as S
    sides = {"q": np.where(before_r, qrs, flat), "s": np.where(before_r, flat, qrs)}
    sizes = {"r": r} | {wave: (-side.min(axis=-1)).clip(min=0) for wave, side in sides.items()}
    return {wave: np.where(size < LEAST_WAVE_MV, 0.0 * size, size) for wave, size in sizes.items()}


def _signed_peak(whole: np.ndarray, where: np.ndarray) -> np.ndarray:
    if not where.any():
        return np.full(len(whole), np.nan)
    part = whole[:, where]
    at = np.where(np.isfinite(part), np.abs(part), -1.0).argmax(axis=-1)
    return np.take_along_axis(part, at[:, None], axis=-1)[:, 0]


def _axes(areas: dict[str, np.ndarray]) -> dict[str, float]:
    """Frontal axes (degrees, left 0, down 90) and the spatial angle of QRS and T from areas of the waves (12,)."""
    values = {}
    for wave, area in areas.items():
        one, avf = area[LEADS.index("I")], area[LEADS.index("aVF")]
        # aVF is a unipolar lead with 2 / sqrt(3) of the sensitivity that I has in the frontal plane.
        axis = np.rad2deg(np.arctan2(2 / np.sqrt(3) * avf, one))
        values[f"{wave}_axis_deg"] = float(axis) if one or avf else np.nan
    qrs, t = areas["qrs"] @ KORS, areas["t"] @ KORS
    size = np.linalg.norm(qrs) * np.linalg.norm(t)
    cosine = np.clip(qrs @ t / size, -1.0, 1.0) if size > 0 else np.nan
    return values | {"qrs_t_angle_deg": float(np.rad2deg(np.arccos(cosine)))}
