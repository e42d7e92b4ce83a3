"""References for training: another stretch of the same person, of random leads; and the beats of the target."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from p2es_lib.core.reference import Reference
from p2es_lib.reference.mean_beat import find_r, make_references
from p2es_lib.reference.regimes import draw_given
from p2es_lib.signals.transforms import filter_bandpass

#: Of the references drawn in training were recorded without a pulse: their delay is unknown.
WITHOUT_PULSE = 0.1
#: Noise of a reference's ECG, mV RMS (log-uniform): from a good electrode to a dry, moving one; band of recorders, Hz.
NOISE_MV, ECG_BAND_HZ = (0.003, 0.06), (0.5, 40.0)


def training_references(
    ecg: Tensor, ppg: Tensor, lead_mask: Tensor, elapsed_s: Tensor, rng: np.random.Generator, sampling_rate: float
) -> Reference:
    """References with random leads from other windows of the same persons: ECG (B, 12, T) mV, PPG (B, 1, T)."""
    given = draw_given(rng, len(ecg)) * (lead_mask > 0)
    reference = make_references(ecg, given, sampling_rate, ppg=ppg, elapsed_s=elapsed_s)
    hidden = torch.as_tensor(rng.random(len(ecg)) < WITHOUT_PULSE)
    return replace(reference, delay_s=torch.where(hidden, torch.nan, reference.delay_s))


def other_session(numbers: np.ndarray, config):
    """One window of each numbered subject in a session that differs from session 0 as two of life's sessions do.

    Sessions deviate from session 0, which is the person as drawn, by the spread of one recording; two recordings differ
    by sqrt(2) of it.
    """
    from p2es_lib.simulator import simulate
    from p2es_lib.simulator.sessions import REFERENCE_SESSION, as_recordings

    return simulate(numbers, 1, as_recordings(config), session=REFERENCE_SESSION)


def recorded_ecg(ecg: np.ndarray, rng: np.random.Generator, sampling_rate: float) -> np.ndarray:
    """Clean ECGs (B, 12, T) as a device records them: noise of electrode and muscle, and half of them in its band.

    Noise is white up to 40 Hz, of a level of its own in each recording; wander is what the band takes out.
    """
    noise_mv = NOISE_MV[0] * (NOISE_MV[1] / NOISE_MV[0]) ** rng.random((len(ecg), 1, 1))
    noisy = ecg + (noise_mv * rng.standard_normal(ecg.shape)).astype(np.float32)
    noisy = filter_bandpass(noisy, None, ECG_BAND_HZ[1], sampling_rate)
    filtered = rng.random(len(ecg)) < 0.5
    if filtered.any():
        noisy[filtered] = filter_bandpass(noisy[filtered], ECG_BAND_HZ[0], None, sampling_rate)
    return noisy.astype(np.float32)


def target_beats(ecg: Tensor, lead_mask: Tensor, given: Tensor, sampling_rate: float) -> Tensor:
    """R times of windows (B, K), s, padded with inf.

    R is found on the leads of the reference, if there is one: the middle of a QRS complex differs from lead to lead.
    """
    leads = torch.where(given.any(dim=1, keepdim=True), given, (lead_mask > 0).float())
    return find_r(ecg, leads, sampling_rate)
