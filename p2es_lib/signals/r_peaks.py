"""R peaks of an ECG of any leads: one time per beat, from all leads that there are."""

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.signal import butter, find_peaks, sosfiltfilt

from p2es_lib.core.errors import InputError

#: Band in which the QRS complex stands out most from P, T and noise (Elgendi et al. 2010).
QRS_BAND_HZ = (8.0, 20.0)
#: No two beats are closer than this (240 beats per minute).
REFRACTORY_S = 0.25
#: A beat reaches this fraction of the typical QRS of its window, and this many mV (RMS over leads, in the QRS band).
QRS_FRACTION, QRS_MINIMUM_MV = 0.35, 0.02


def r_peak_times(ecg: np.ndarray, sampling_rate: float, available: np.ndarray | None = None) -> np.ndarray:
    """Times of R peaks of windows (N, L, T) in mV, from all available leads: (N, n_beats_max) seconds, NaN-padded.

    Zero-phase Butterworth band-pass, root mean square over the available leads, Gaussian smoothing (20 ms): one hump
    per QRS complex whatever its polarity in each lead. A beat is a local maximum at least 0.25 s from a higher one that
    exceeds 0.02 mV and 0.35 times the median, over blocks of 2 s, of the highest value in the block (so that one
    artefact or ectopic beat does not set the scale). The time is that of the middle of the QRS complex, within some 20
    ms of the R peak in any one lead. ``available`` (N, L): leads to use; by default those that are finite throughout.
    An :class:`InputError` if ``ecg`` has another number of dimensions.

    References
    ----------
    Elgendi M, Jonkman M, De Boer F. Frequency bands effects on QRS detection. BIOSIGNALS 2010:428-431.
    """
    ecg = np.asarray(ecg)
    if ecg.ndim != 3:
        raise InputError(f"r_peak_times: ecg has shape {ecg.shape}, expected (windows, leads, samples)")
    available = np.isfinite(ecg).all(axis=-1) if available is None else np.asarray(available, dtype=bool)
    band = butter(2, QRS_BAND_HZ, btype="bandpass", fs=sampling_rate, output="sos")
    envelope = np.zeros((len(ecg), ecg.shape[-1]))
    for start in range(0, len(ecg), 256):
        rows = slice(start, start + 256)
        use = available[rows]
        # Filter the leads that exist only: most windows of bedside monitors have six of twelve.
        power = np.zeros((*use.shape, ecg.shape[-1]))
        power[use] = sosfiltfilt(band, ecg[rows][use].astype(np.float64), axis=-1) ** 2
        envelope[rows] = np.sqrt(power.sum(axis=1) / np.maximum(use.sum(axis=1), 1)[:, None])
    envelope = gaussian_filter1d(envelope, 0.020 * sampling_rate, axis=-1)
    n_blocks = max(1, int(ecg.shape[-1] / (2.0 * sampling_rate)))
    highest = [block.max(axis=-1) for block in np.array_split(envelope, n_blocks, axis=-1)]
    threshold = np.maximum(QRS_FRACTION * np.median(highest, axis=0), QRS_MINIMUM_MV)
    distance = max(1, int(round(REFRACTORY_S * sampling_rate)))
    peaks = [find_peaks(row, height=level, distance=distance)[0] for row, level in zip(envelope, threshold)]
    times = np.full((len(ecg), max((len(p) for p in peaks), default=0)), np.nan)
    for row, found in enumerate(peaks):
        times[row, : len(found)] = (found + _between_samples(envelope[row], found)) / sampling_rate
    return times


def _between_samples(y: np.ndarray, peaks: np.ndarray) -> np.ndarray:
    """How far the maximum lies from each peak sample, in samples: of the parabola through it and its neighbours."""
    before, at, after = y[peaks - 1], y[peaks], y[peaks + 1]
    return 0.5 * (before - after) / np.minimum(before - 2 * at + after, -1e-12)
