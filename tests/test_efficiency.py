"""Timing, operations and memory of methods: what is measured, and that it is measured in turn."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from synthetic import synthetic_windows, tiny_config

from p2es_lib.core.learned import LearnedTranslator
from p2es_lib.evaluation import efficiency
from p2es_lib.evaluation.efficiency import Timed, training_cost
from p2es_lib.method.p2es import P2Es


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = P2Es(tiny_config())
    model.prepare(synthetic_windows().split("train"), seed=0, progress=False)
    return model


class Matrix(LearnedTranslator):
    """One matrix product per window: its operations are known."""

    name, stochastic = "p2es", False

    def __init__(self, config):
        super().__init__(config)
        self.weight = torch.nn.Parameter(torch.zeros(256, 12 * 256))

    def draw(self, ppg, demographics, noise, n_steps):
        return (ppg[:, 0] @ self.weight).reshape(-1, 12, 256)


def test_operations_of_a_matrix_product():
    expected = 2 * 256 * 12 * 256  # one multiplication and one addition per weight
    per_10_s = expected * 10 * 125.0 / 256 / 1e9
    assert efficiency.count_operations(Timed(Matrix(tiny_config()))) == pytest.approx(per_10_s)


def test_operations_grow_with_the_steps_of_the_sampler(model):
    two, four, eight = (efficiency.count_operations(Timed(model, {"n_steps": n})) for n in (2, 4, 8))
    assert 1.5 < four / two <= 2.0 and eight - four == pytest.approx(2 * (four - two), rel=1e-6)


def test_one_step_is_one_call_though_it_is_averaged_over_delays(model, monkeypatch):
    # With white noise: else like beats are made one after two steps and more, which costs a little.
    monkeypatch.setattr(model, "config", model.config.replace("process.beat_share", 0.0))
    one, two, three = (efficiency.count_operations(Timed(model, {"n_steps": n})) for n in (1, 2, 3))
    assert two - one == pytest.approx(three - two, rel=1e-6)


def test_rows_are_timed_in_turn_with_the_threads_asked_for(monkeypatch):
    calls = []

    def spy(name, seconds):
        row = Matrix(tiny_config())

        def translate(ppg, demographics, **options):
            calls.append((name, len(ppg), torch.get_num_threads()))
            clock[0] += seconds

        monkeypatch.setattr(row, "translate", translate)
        return Timed(row)

    clock = [0.0]
    monkeypatch.setattr(efficiency.time, "perf_counter", lambda: clock[0])
    before = torch.get_num_threads()
    table = efficiency.time_methods(
        {"a": spy("a", 0.1), "b": spy("b", 0.3)}, batch=2, n_threads=1, rounds=3, progress=False
    )
    assert [name for name, *_ in calls] == ["a", "b"] * 4 and {(n, threads) for _, n, threads in calls} == {(2, 1)}
    assert torch.get_num_threads() == before
    # 0.1 s for 2 windows of 2.048 s.
    np.testing.assert_allclose(table["ms"], [100 * 10 / 4.096, 300 * 10 / 4.096])
    np.testing.assert_allclose(table["ratio"], [1, 3])


def test_peak_memory_grows_with_the_batch(model, tmp_path):
    folder = str(model.save(tmp_path).parent)
    few, many = (efficiency.peak_memory_mb(Timed(model, {"n_samples": 4}, folder), batch) for batch in (1, 256))
    assert 0 <= few < many < 4000


def test_training_cost_by_hand():
    history = pd.DataFrame(
        {"step": [5, 10, 20, 40], "loss": [1.0, np.nan, np.nan, np.nan], "validation_rmse": [np.nan, 0.24, 0.18, 0.17]}
    )
    seconds = {"preparing": 30.0, "loading": 4.0, "validating": 10.0}
    cost = {"seconds": 120.0, "seconds_of": seconds, "steps": 40, "batch_size": 16, "threads": 1}
    row = training_cost(history, cost, floor=0.16, factors=(1.5, 1.125, 1.05))
    assert row["minutes"] == 2 and row["threads"] == 1
    assert row["windows per s"] == pytest.approx(16 / 2)  # 80 s for 40 steps
    assert row["waiting for batches"] == pytest.approx(4 / 120) and row["validating"] == pytest.approx(10 / 120)
    assert row["minutes to 1.5 x floor"] == pytest.approx((30 + 10 * 2) / 60)
    assert row["minutes to 1.125 x floor"] == pytest.approx((30 + 20 * 2) / 60)
    assert np.isnan(row["minutes to 1.05 x floor"])
    assert not any("floor" in name for name in training_cost(history, cost, floor=None))
