"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch


def pytest_collection_modifyitems(config, items):
    """Begin with the longest tests, ``@pytest.mark.slow(seconds=...)``, dealt out to the workers of pytest-xdist.

    Each worker first gets as many tests, one after the other in this list, as any other; in the end they steal.
    """
    workers = getattr(config, "workerinput", {}).get("workercount", 1)
    seconds = {item: mark.kwargs.get("seconds", 0) for item in items for mark in item.iter_markers("slow")}
    longest = sorted((item for item in items if seconds.get(item)), key=lambda item: -seconds[item])
    others = [item for item in items if not seconds.get(item)]
    ordered = []
    for worker in range(workers):
        first = longest[worker::workers]
        size = max(0, (len(items) - len(ordered)) // (workers - worker) - len(first))
        ordered += first + others[:size]
        del others[:size]
    items[:] = ordered + others


@pytest.fixture(scope="session")
def mirror() -> Path:
    """Folder with real recordings, laid out as PhysioNet lays out its files; skips the test when there is none."""
    named = os.environ.get("P2ES_TEST_MIRROR")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data" / "physionet"
    if not folder.is_dir():
        pytest.skip(f"no real recordings: {folder} does not exist; set P2ES_TEST_MIRROR to such a folder")
    return folder


@pytest.fixture(scope="session")
def relative_cost():
    """``relative_cost(work, repeats)``: processor time of ``work()``, in units of a fixed piece of NumPy work done
    beside it: a limit in such units holds on slow and busy machines too. Best of several, on one thread."""
    values = np.random.default_rng(0).standard_normal(200_000)

    def unit():  # about 8 ms of a 2.4 GHz core
        np.sort(values)
        np.exp(np.sin(values)).sum()

    def seconds(work):
        began = time.process_time()
        work()
        return time.process_time() - began

    def cost(work, repeats=5):
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            taken = [(seconds(work), seconds(unit)) for _ in range(repeats)]
        finally:
            torch.set_num_threads(threads)
        works, units = zip(*taken, strict=True)
        return min(works) / min(units)

    return cost


@pytest.fixture(scope="session")
def git() -> str:
    """The program git; skips the test where there is none on PATH."""
    return shutil.which("git") or pytest.skip("git is not on PATH")


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """Run-time folders of this test only."""
    monkeypatch.setenv("P2ES_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("P2ES_MIRROR", raising=False)
    return tmp_path / "home"


@dataclass(frozen=True)
class Pair:
    """A made-up recording: ECG (T,) in mV and PPG (T,) on one clock, with the beats they were made from (seconds)."""

    ecg: np.ndarray
    ppg: np.ndarray
    sampling_rate: float
    rpeaks_s: np.ndarray
    onsets_s: np.ndarray


@pytest.fixture(scope="session")
def make_pair():
    """``make_pair(duration_s, sampling_rate, ...)`` gives a :class:`Pair`; pulses begin ``delay_s`` after R peaks."""

    def make(duration_s=60.0, sampling_rate=125.0, interval_s=0.8, delay_s=0.25, variability=0.05, noise=0.0, seed=0):
        rng = np.random.default_rng(seed)
        n_beats = int((duration_s + 2) / (interval_s * (1 - variability))) + 3
        rpeaks = -2.0 + np.cumsum(interval_s * (1 + variability * rng.uniform(-1, 1, n_beats)))
        n = int(duration_s * sampling_rate)
        ecg, ppg = np.zeros(n), np.zeros(n)

        def bump(t, centre, width):
            return np.exp(-0.5 * ((t - centre) / width) ** 2)

        for beat in rpeaks:
            part = slice(max(0, int((beat - 0.5) * sampling_rate)), max(0, int((beat + 3) * sampling_rate)))
            t = np.arange(n)[part] / sampling_rate - beat
            ecg[part] += bump(t, 0, 0.011) - 0.2 * bump(t, 0.03, 0.012) + 0.12 * bump(t, -0.16, 0.022)
            ecg[part] += 0.3 * bump(t, 0.28 * np.sqrt(interval_s), 0.045)
            rise = np.maximum(t - delay_s, 0) / 0.16
            ppg[part] += rise**2 * np.exp(2 * (1 - rise)) + 0.15 * bump(t, delay_s + 0.40, 0.06)
        ecg, ppg = ecg + noise * rng.standard_normal(n), 0.5 + 0.3 * (ppg + noise * rng.standard_normal(n))
        onsets = rpeaks + delay_s
        inside = (onsets > 0.5) & (onsets < duration_s - 0.5)
        return Pair(ecg, ppg, sampling_rate, rpeaks[(rpeaks > 0.1) & (rpeaks < duration_s - 0.1)], onsets[inside])

    return make
