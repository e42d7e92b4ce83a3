"""No seams: where windows join the error is not above the error elsewhere, and a seam would be seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from synthetic import synthetic_windows, tiny_config

from p2es_lib.core.errors import InputError
from p2es_lib.evaluation.metrics import join_errors, join_excess
from p2es_lib.method.p2es import P2Es
from p2es_lib.simulator import SimulatorConfig, simulate
from p2es_lib.translation.file import translate_long
from p2es_lib.translation.live import OVERLAP_S, window_starts

N, T = 256, 4096


@pytest.fixture(scope="module")
def long_recordings():
    """Half a minute of twelve simulated people."""
    return simulate(range(90_000, 90_012), 1, SimulatorConfig(window_samples=T))


def whole(n_window: int, n_overlap: int) -> int:
    """The most samples up to T that a row of windows fills: a last one that is moved back would overlap by more."""
    return T - (T - n_window) % (n_window - n_overlap)


def errors_of_windows(truth: np.ndarray, n_overlap: int, seed: int = 0) -> np.ndarray:
    """What a translation makes of windows whose own errors are smooth, independent, and larger towards their ends."""
    rng = np.random.default_rng(seed)
    ramp = (np.arange(n_overlap) + 0.5) / max(n_overlap, 1)
    weight = np.ones(N)
    if n_overlap:
        weight[:n_overlap], weight[-n_overlap:] = ramp, ramp[::-1]
    growth = 1 + np.exp(-np.minimum(np.arange(N), np.arange(N)[::-1]) / 20)
    n_total = whole(N, n_overlap)
    total, sums = np.zeros(n_total), np.zeros((*truth.shape[:2], n_total))
    for start in window_starts(n_total, N, n_overlap):
        total[start : start + N] += weight
        sums[..., start : start + N] += weight * growth * 0.1 * rng.standard_normal((*truth.shape[:2], 1))
    return sums / total


def test_a_seam_is_seen_where_there_is_one(long_recordings):
    faded = join_errors(errors_of_windows(long_recordings.ecg, 64), window_starts(whole(N, 64), N, 64), N)
    assert join_excess(faded)[2] < 0, "independent errors average out where windows fade"
    cut = join_errors(errors_of_windows(long_recordings.ecg, 2), window_starts(whole(N, 2), N, 2), N)
    assert join_excess(cut)[1] > 0 and join_excess(cut, "step")[1] > 10 * join_excess(faded, "step")[2]


def test_what_does_not_fit_is_refused():
    for shape, places in (((12, T), [0, 100]), ((1, 12, T), [0]), ((1, 12, 200), [0, 100])):
        with pytest.raises(InputError, match="join_errors"):
            join_errors(np.zeros(shape), np.array(places), N)


def test_long_translations_have_no_seams(long_recordings):
    """A network with random weights makes something else of every window, the hardest case for a join.

    Notebook 13 asks the same of the trained model.
    """
    config = tiny_config(signal__window_samples=512, denoiser__lead_features=2)
    torch.manual_seed(0)
    model = P2Es(config)
    model.group_finder.fit(synthetic_windows(window_samples=512).split("train"), seed=0)
    n_overlap = round(OVERLAP_S * config.signal.sampling_rate)
    n_total, errors = whole(512, n_overlap), []
    for row in range(len(long_recordings)):
        person, ppg = long_recordings.index.iloc[row], long_recordings.ppg[row, 0, :n_total]
        ecg = translate_long(model.eval(), ppg, person["age"], person["sex"], n_samples=2, progress=False)
        errors.append(ecg.mean - long_recordings.ecg[row, :, :n_total])
    table = join_errors(np.stack(errors), window_starts(n_total, 512, n_overlap), 512)
    for what in ("rmse", "step"):
        excess, low, _ = join_excess(table, what)
        assert low < 0 or excess < 0.01 * table[f"{what}_elsewhere"].mean(), (
            f"{what}: {excess:.5f} mV above elsewhere at the joins"
        )
