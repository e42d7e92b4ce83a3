"""From samples and windows to one long table of scores: a row per subject, window, lead, estimate and metric."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from p2es_lib.core.errors import InputError, check_choice
from p2es_lib.evaluation.metrics import waveform
from p2es_lib.evaluation.metrics.clinical import einthoven_residual, heart_rate_error, r_peak_f1
from p2es_lib.evaluation.metrics.lag import constant_lags, error_split, overlaps
from p2es_lib.evaluation.metrics.long_table import SEPARATOR, check_samples, long_table, per_lead, point_estimate
from p2es_lib.evaluation.metrics.uncertainty import LEVELS, ensemble_scores, level_name
from p2es_lib.signals.r_peaks import r_peak_times

ESTIMATES = ("mean", "single", "samples")


@dataclass(frozen=True)
class Metric:
    """How a metric is called and read: ``better`` is "lower", "higher" or "" (neither)."""

    label: str
    unit: str
    better: str = "lower"


#: Every metric of the tables. "lag" stands for: after one constant lag per record.
METRICS: dict[str, Metric] = {
    "rmse": Metric("RMSE", "mV"),  # made by summary.summarise from mse
    "rmse_lag": Metric("RMSE after lag", "mV"),  # made by summary.summarise from mse_lag
    "mse": Metric("Squared error", "mV²"),
    "mse_lag": Metric("Squared error after lag", "mV²"),
    **{f"mse_{part}": Metric(f"Squared error, {part}", "mV²") for part in ("timing", "amplitude", "morphology")},
    "mae": Metric("MAE", "mV"),
    "pearson": Metric("Pearson r", "", "higher"),
    "pearson_lag": Metric("Pearson r after lag", "", "higher"),
    "prd": Metric("PRD", "%"),
    "ssim": Metric("SSIM", "", "higher"),
    "ppe": Metric("Peak-to-peak error", "mV"),
    "ppe_relative": Metric("Peak-to-peak error, relative", ""),
    "dtw": Metric("Warped distance (DTW, 0.1 s)", "mV"),
    "frechet_curve_distance": Metric("Frechet curve distance", "mV"),
    "log_spectral_distance": Metric("Log-spectral distance, 0.5-40 Hz", "dB"),
    **{
        name: Metric(f"Coherence, {low:g}-{high:g} Hz", "", "higher")
        for name, (low, high) in waveform.COHERENCE_BANDS_HZ.items()
    },
    "r_peak_f1": Metric("R-peak F1, 50 ms", "", "higher"),
    "r_peak_f1_lag": Metric("R-peak F1 after lag, 50 ms", "", "higher"),
    "heart_rate_error": Metric("Heart-rate error", "1/min"),
    "einthoven_residual": Metric("Einthoven residual", "mV"),
    "lag_ms": Metric("Lag of the record", "ms", ""),
    "crps": Metric("CRPS", "mV"),
    "variance": Metric("Variance of the samples", "mV²", ""),
    "spread": Metric("Spread of the samples (expected RMSE)", "mV", ""),  # made by summary.summarise from variance
    **{level_name("coverage", p): Metric(f"Coverage of the {100 * p:.0f} % band", "", "") for p in LEVELS},
    **{level_name("width", p): Metric(f"Width of the {100 * p:.0f} % band", "mV", "") for p in LEVELS},
    "conformal_coverage": Metric("Coverage of the calibrated band", "", ""),  # made by conformal, as those below
    "conformal_width": Metric("Width of the calibrated band", "mV", ""),
    "conformal_kept": Metric("Subjects for whom the band keeps its promise", "", ""),
    "gaussian_frechet_distance": Metric("Gaussian Frechet distance", "mV²"),  # made by distribution.frechet_table
}


def evaluate(samples, windows, sampling_rate: float, *, max_lag_s: float, estimates=ESTIMATES) -> pd.DataFrame:
    """Score samples of the 12-lead ECG against the true one.

    Parameters
    ----------
    samples, windows : array (N, K, 12, T) in mV, WindowSet
        NaN in leads that the method does not give; the N windows, with columns subject and record in ``index``.
    sampling_rate, max_lag_s : float, Hz and s
        The latter: search range of the one lag per record (``lag.constant_lags``).
    estimates : tuple of "mean", "single", "samples"
        What is scored: the mean over the K samples, which estimates the posterior mean and is the one to judge by
        pointwise errors; the first sample, which looks like an ECG and is the one to judge by amplitude, spectrum and
        beats; and all samples as a distribution, which needs two of them (with one there are no such rows).

    Returns
    -------
    DataFrame
        Columns subject, record, window (row number among those given), lead, estimate, metric, value, without missing
        values; labels and units of the metrics: :data:`METRICS`. Per window, as lead "all": r_peak_f1, r_peak_f1_lag,
        heart_rate_error, lag_ms, einthoven_residual (of the prediction). The others per lead, with means over the
        leads of the window ("all", "measured", "derived"); of "samples" those of ``uncertainty.ensemble_scores``.
        A lead counts where the mask says it exists and both signals are finite throughout.

    Raises
    ------
    InputError
        Shapes that do not fit, or an unknown estimate.
    """
    samples, truth, exists = check_samples(samples, windows)
    for estimate in estimates:
        check_choice("estimate", estimate, ESTIMATES)
    # Two subjects may use the same record name: a record is known by both.
    records = (windows.index["subject"].astype(str) + SEPARATOR + windows.index["record"].astype(str)).to_numpy()
    max_lag = int(round(max_lag_s * sampling_rate))
    frames = []
    for estimate in estimates:
        per_window = {}
        if estimate == "samples":
            if samples.shape[1] < 2:
                continue
            by_lead = ensemble_scores(samples, truth, exists & np.isfinite(samples).all(axis=(1, 3)))
        else:
            prediction = point_estimate(samples, estimate)  # (N, 12, T)
            available = exists & np.isfinite(prediction).all(axis=-1)
            lags = constant_lags(prediction, truth, available, records, max_lag=max_lag)
            by_lead = _lead_values(prediction, truth, available, lags, sampling_rate)
            per_window = _window_values(prediction, truth, available, lags, sampling_rate)
        frames.append(long_table(by_lead, per_window, windows, estimate))
    if not frames:
        raise InputError(f"estimates {tuple(estimates)}: one sample per window is no distribution, two or more are")
    return pd.concat(frames, ignore_index=True)


def _lead_values(prediction, truth, available, lags, sampling_rate) -> dict[str, np.ndarray]:
    """Metrics per window and lead, each (N, 12) with NaN where a lead is not available."""
    rate = {"sampling_rate": sampling_rate}

    def score(window: np.ndarray, lead: np.ndarray) -> dict[str, np.ndarray]:
        x, y = prediction[window, lead].astype(np.float64), truth[window, lead].astype(np.float64)  # (p, T)
        split = error_split(x, y, lags[window])
        pearson_lag = np.empty(len(x))
        for rows, x_lag, y_lag in overlaps(x, y, lags[window]):
            pearson_lag[rows] = waveform.pearson(x_lag, y_lag)
        return {
            "mse": split.raw,
            **{f"mse_{part}": values for part, values in split._asdict().items() if part != "raw"},
            "mae": waveform.mae(x, y),
            "pearson": waveform.pearson(x, y),
            "pearson_lag": pearson_lag,
            "prd": waveform.prd(x, y),
            "ssim": waveform.ssim(x, y, **rate),
            "ppe": waveform.ppe(x, y),
            "ppe_relative": waveform.ppe(x, y, relative=True),
            "dtw": waveform.dtw(x, y, **rate),
            "frechet_curve_distance": waveform.frechet_curve_distance(x, y),
            "log_spectral_distance": waveform.log_spectral_distance(x, y, **rate),
            **waveform.coherence_bands(x, y, **rate),
        }

    return per_lead(available, score, chunk=2048)


def _window_values(prediction, truth, available, lags, sampling_rate) -> dict[str, np.ndarray]:
    predicted = r_peak_times(prediction, sampling_rate, available)
    true = r_peak_times(truth, sampling_rate, available)
    window_s = truth.shape[-1] / sampling_rate
    values = {
        "r_peak_f1": r_peak_f1(predicted, true, window_s=window_s),
        "r_peak_f1_lag": r_peak_f1(predicted, true, window_s=window_s, lag_s=lags / sampling_rate),
        "heart_rate_error": heart_rate_error(predicted, true),
        "lag_ms": 1000.0 * lags / sampling_rate,
    }
    values = {name: np.where(available.any(axis=1), value, np.nan) for name, value in values.items()}
    return values | {"einthoven_residual": einthoven_residual(prediction)}  # whichever leads the truth has
