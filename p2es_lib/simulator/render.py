"""Beat times and kernels to the 8 independent leads.

Each sample is worked out from three beats only: the P wave of the next beat, QRS and atrial repolarisation of the
nearest, ST-T of the preceding one. Where an ST-T wave would run into the next QRS it is faded out over 50 ms, so that
nothing jumps at the borders. Rows with premature beats get a second pass for those beats.
"""

import numpy as np

from p2es_lib.simulator.draws import on_rows
from p2es_lib.simulator.heart import Heart, Kernels
from p2es_lib.simulator.rhythm import BEAT_PAC, BEAT_PVC
from p2es_lib.simulator.settings import SimulatorConfig

_ST_T_BEGIN_S, _FADE_S = -0.04, 0.05
# Direction and relative size of the f waves: strongest in V1, about a third as large in II.
_F_WAVE_VECTOR = np.array([-0.25, 0.35, -0.65], dtype=np.float32)
_CHUNK_ROWS = 32  # 32 x 1024 float32 are 128 KiB: a dozen such arrays stay in the cache


def render_ecg8(
    heart: Heart, lead_fields, r_times, beat_type, breathing, f_wave_phase: np.ndarray, config: SimulatorConfig
) -> np.ndarray:
    """ECG of N windows in the 8 independent leads, float32 (N, 8, T), mV.

    ``lead_fields`` are those of P, QRS and ST-T, (8, 3 + N_LOCAL, N). Beats (N, n_beats) are ascending, NaN-padded, and
    should begin before the window and end after it. ``breathing``: rate (Hz) and phase at t = 0 (cycles), (N,) each.
    ``f_wave_phase`` (3, N): of the f wave, its 0.2 Hz modulation and its irregularity, cycles.
    """
    n = len(r_times)
    t = (np.arange(config.window_samples) / config.sampling_rate).astype(np.float32)
    ecg8 = np.empty((n, 8, config.window_samples), dtype=np.float32)
    for start in range(0, n, _CHUNK_ROWS):
        rows = slice(start, start + _CHUNK_ROWS)
        part = _take(heart, rows)
        dipoles = _dipoles(part, r_times[rows], beat_type[rows], t, config)
        if config.breathing:
            for dipole in dipoles.values():
                _breathe(dipole, part, breathing[0][rows], breathing[1][rows], t)
        if part.f_wave_mv.any():
            _add_f_waves(dipoles["p"], part, f_wave_phase[:, rows], t)
        fields = np.concatenate([lead_fields[wave][..., rows, None] for wave in dipoles], axis=1).astype(np.float32)
        components = np.concatenate(list(dipoles.values()))
        for lead in range(8):
            signal = fields[lead, 0] * components[0]
            for field, component in zip(fields[lead, 1:], components[1:], strict=True):
                signal += field * component
            ecg8[rows, lead] = signal
    return ecg8


def _take(table, rows):
    return on_rows(table, lambda values: values[..., rows])


def _dipoles(heart: Heart, r_times, beat_type, t, config: SimulatorConfig) -> dict[str, np.ndarray]:
    """Dipoles of P, QRS and ST-T of the chunk's rows and their local content, float32 (C, N, T) each, mV."""
    n = len(r_times)
    shape = len(heart.qrs.vector_mv), n, len(t)
    dipoles = {wave: np.zeros(shape, dtype=np.float32) for wave in ("p", "qrs", "st_t")}
    r = np.where(np.isnan(r_times), 1e4, r_times)
    around = np.pad(r, ((0, 0), (1, 1)), constant_values=((0, 0), (-1e4, 2e4)))
    previous_r, next_r = around[:, :-2], around[:, 2:]
    begins = (0.5 * (previous_r + r), previous_r, r + _ST_T_BEGIN_S)
    nearest, following, preceding = (_runs(begin, config) for begin in begins)
    groups = (
        ("p", following, BEAT_PAC, heart.p, heart.pac_p),
        ("p", nearest, BEAT_PAC, heart.ta, heart.ta),
        ("qrs", nearest, BEAT_PVC, heart.qrs, heart.pvc_qrs),
        ("st_t", preceding, BEAT_PVC, heart.st_t, heart.pvc_st_t),
    )
    fade = np.clip((_gather(next_r + _ST_T_BEGIN_S, preceding, n) - t) / np.float32(_FADE_S), 0.0, 1.0)
    fade = fade * fade * (np.float32(3.0) - np.float32(2.0) * fade)
    for wave, runs, special, kernels, special_kernels in groups:
        lag = t - _gather(r, runs, n)
        weight = fade if runs is preceding else np.ones_like(lag)
        # P waves of ventricular beats are missing, whatever else is ordinary.
        replaced = (beat_type == special) | (beat_type == BEAT_PVC)
        dipoles[wave] += _sum(kernels, lag, weight * _gather(~replaced, runs, n))
        rows = np.flatnonzero(replaced.any(axis=1))
        if len(rows):
            own = _gather(beat_type == special, runs, n)[rows]
            dipoles[wave][:, rows] += _sum(_take(special_kernels, rows), lag[rows], weight[rows] * own)
    return dipoles


def _runs(begin: np.ndarray, config: SimulatorConfig) -> np.ndarray:
    """Samples that belong to each beat, (N * n_beats,): beat i from ``begin[i]`` to ``begin[i + 1]``."""
    first = np.clip(np.ceil(begin * config.sampling_rate), 0, config.window_samples).astype(np.int64)
    first[:, 0] = 0
    return np.diff(first, axis=1, append=config.window_samples).ravel()


def _gather(per_beat: np.ndarray, runs: np.ndarray, n: int) -> np.ndarray:
    """Value of each sample's beat, float32 (N, T)."""
    return np.repeat(per_beat.ravel().astype(np.float32), runs).reshape(n, -1)


def _sum(kernels: Kernels, lag: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Sum of the kernels at ``lag`` (N, T) seconds from R, times ``weight`` (N, T): (C, N, T)."""
    parts = kernels.centre_s, np.sqrt(0.5) / kernels.width_s, kernels.vector_mv
    centre, scale, vector = (part.astype(np.float32)[..., None] for part in parts)
    total = np.zeros((len(vector), *lag.shape), dtype=np.float32)
    for k in range(len(centre)):
        value = np.exp(-np.square((lag - centre[k]) * scale[k]))
        for component, size in zip(total, vector[:, k], strict=True):
            component += value * size
    return total * weight


def _breathe(dipole: np.ndarray, heart: Heart, rate, phase, t: np.ndarray) -> None:
    """Size and frontal axis follow breathing: gain 1 + g sin, turn by a small angle."""
    columns = 2 * np.pi * rate, 2 * np.pi * (phase + heart.breathing_lag), heart.breathing_turn, heart.breathing_gain
    rate, start, turn, gain = (column.astype(np.float32)[:, None] for column in columns)
    wave = np.sin(rate * t + start)
    turn = wave * turn
    dipole *= wave * gain + 1.0
    x = dipole[0] - turn * dipole[1]
    dipole[1] += turn * dipole[0]
    dipole[0] = x


def _add_f_waves(dipole: np.ndarray, heart: Heart, phase: np.ndarray, t: np.ndarray) -> None:
    """F waves of Petrenas 2017 in the rows that have them."""
    rows = np.flatnonzero(heart.f_wave_mv)
    columns = *(2 * np.pi * phase[:, rows]), 2 * np.pi * heart.f_wave_hz[rows], 2.0 * heart.f_wave_mv[rows]
    start, slow_start, irregular_start, rate, size = (column.astype(np.float32)[:, None] for column in columns)
    slow = np.sin(2 * np.pi * 0.2 * t + slow_start)
    theta = rate * t + 0.25 / 0.2 * slow
    # A second, slower modulation stands for the noise at 0.7-0.9 of the fundamental in the original model.
    theta = theta + 0.6 * np.sin(2 * np.pi * 0.83 * t + irregular_start) + start
    wave = -sum(2.0 / (harmonic * np.pi) * np.sin(harmonic * theta) for harmonic in (1, 2, 3))
    wave *= (1.0 + 1.0 / 3.0 * slow) * size
    dipole[:3, rows] += _F_WAVE_VECTOR[:, None, None] * wave
