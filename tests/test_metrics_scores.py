"""The table of scores and its summary: values, masks, pooling, bootstrap."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import LEAD_MATRIX, LEADS
from p2es_lib.evaluation.metrics import METRICS, evaluate, summarise, summarise_difference, waveform

FS, N_SAMPLES = 125.0, 640


def _windows(n_subjects=6, per_subject=2, seed=0, window_samples=N_SAMPLES):
    """Beats like ECG, smooth enough to shift by samples, consistent over leads."""
    rng = np.random.default_rng(seed)
    n = n_subjects * per_subject
    t = (np.arange(window_samples + 100) - 50) / FS
    waves = np.zeros((n, 8, len(t)))
    for row in range(n):
        r = rng.uniform(0, 0.8) + np.arange(-1, 12) * rng.uniform(0.7, 1.0)
        for delay, width, size in ((0.0, 0.014, 1.0), (0.26, 0.05, 0.3), (-0.16, 0.02, 0.1)):
            beat = np.exp(-0.5 * ((t[None] - r[:, None] - delay) / width) ** 2).sum(0)
            waves[row] += rng.uniform(0.4, 1.5, size=(8, 1)) * size * beat
    long = LEAD_MATRIX @ waves
    index = pd.DataFrame({
        "subject": np.repeat([f"s{i}" for i in range(n_subjects)], per_subject),
        "record": "r0",  # the same name for every subject, on purpose
    })  # fmt: skip
    lead_mask = np.full((n, 12), 2, dtype=np.uint8)
    return SimpleNamespace(ecg=_cut(long), lead_mask=lead_mask, index=index), long


def _cut(long, late=0):
    return long[..., 50 - late : long.shape[-1] - 50 - late].astype(np.float32)


def _rows(scores, **where):
    for column, value in where.items():
        scores = scores[scores[column] == value]
    return scores


def test_columns_and_coverage():
    windows, long = _windows()
    samples = np.stack([_cut(long), 0.8 * _cut(long)], axis=1)
    scores = evaluate(samples, windows, FS, max_lag_s=0.2)
    assert list(scores.columns) == ["subject", "record", "window", "lead", "estimate", "metric", "value"]
    assert set(scores["estimate"]) == {"mean", "single", "samples"}
    made_elsewhere = {"rmse", "rmse_lag", "spread", "gaussian_frechet_distance"}
    made_elsewhere |= {"conformal_coverage", "conformal_width", "conformal_kept"}
    assert set(scores["metric"]) == set(METRICS) - made_elsewhere
    of_samples = {"crps", "variance", *(f"{name}_{level}" for name in ("coverage", "width") for level in (50, 80, 95))}
    assert set(_rows(scores, estimate="samples")["metric"]) == of_samples
    assert set(scores["lead"]) == {*LEADS, "all", "measured"}
    assert np.isfinite(scores["value"]).all()
    assert len(_rows(scores, metric="mse", estimate="mean", lead="V2")) == len(windows.index)
    assert set(_rows(scores, metric="r_peak_f1")["lead"]) == {"all"}
    # The first sample is perfect, the mean of both is 0.9 times the truth.
    single = _rows(scores, estimate="single", lead="all").groupby("metric")["value"]
    for metric, perfect in {"mse": 0, "mae": 0, "pearson": 1, "ssim": 1, "ppe": 0, "r_peak_f1": 1, "lag_ms": 0}.items():
        assert np.allclose(single.get_group(metric), perfect, atol=1e-6), metric
    mean = _rows(scores, estimate="mean", lead="II", metric="ppe_relative")["value"]
    assert np.allclose(mean, 0.1, atol=1e-5)
    amplitude = _rows(scores, estimate="mean", lead="all", metric="mse_amplitude")["value"].to_numpy()
    assert np.allclose(amplitude, _rows(scores, estimate="mean", lead="all", metric="mse")["value"], rtol=1e-4)


def test_values_per_lead_are_those_of_the_metric_functions():
    windows, long = _windows(seed=1)
    rng = np.random.default_rng(5)
    prediction = _cut(long) + 0.1 * rng.normal(size=windows.ecg.shape).astype(np.float32)
    scores = evaluate(prediction[:, None], windows, FS, max_lag_s=0.1, estimates=("single",))
    for metric, function in {
        "mse": waveform.mse,
        "pearson": waveform.pearson,
        "prd": waveform.prd,
        "ssim": lambda x, y: waveform.ssim(x, y, sampling_rate=FS),
        "log_spectral_distance": lambda x, y: waveform.log_spectral_distance(x, y, sampling_rate=FS),
    }.items():
        expected = function(prediction, windows.ecg)
        table = _rows(scores, metric=metric).pivot(index="window", columns="lead", values="value")
        assert np.allclose(table[list(LEADS)], expected), metric
        assert np.allclose(table["all"], expected.mean(axis=1)), metric


def test_a_swapped_lead_and_a_shifted_signal_show():
    windows, long = _windows(seed=2)
    swapped = windows.ecg[:, [0, 1, 2, 3, 4, 5, 7, 6, 8, 9, 10, 11]]
    table = summarise(evaluate(swapped[:, None], windows, FS, max_lag_s=0.2, estimates=("mean",)), 10)
    table = table.set_index(["lead", "metric"])["value"]
    assert table["V1", "rmse"] > 0.02 and table["V2", "rmse"] > 0.02 and table["V3", "rmse"] == 0
    late = evaluate(_cut(long, late=9)[:, None], windows, FS, max_lag_s=0.2, estimates=("mean",))
    table = summarise(late, 10).set_index(["lead", "metric"])["value"]
    assert table["all", "pearson"] < 0.6 and table["all", "r_peak_f1"] == 0
    assert table["all", "lag_ms"] == pytest.approx(72.0)
    assert table["all", "rmse_lag"] < 1e-6 and table["all", "pearson_lag"] > 0.999999
    assert table["all", "r_peak_f1_lag"] == 1
    assert table["all", "mse_timing"] == pytest.approx(table["all", "mse"])
    # Beyond the search range the lag cannot mend it.
    narrow = summarise(evaluate(_cut(long, late=9)[:, None], windows, FS, max_lag_s=0.04, estimates=("mean",)), 10)
    assert narrow.set_index(["lead", "metric"])["value"]["all", "rmse_lag"] > 0.05


def test_records_of_different_subjects_do_not_share_a_lag():
    windows, long = _windows(n_subjects=2, per_subject=2, seed=3)
    prediction = np.concatenate([_cut(long[:2], late=6), _cut(long[2:], late=-4)])
    scores = evaluate(prediction[:, None], windows, FS, max_lag_s=0.2, estimates=("mean",))
    assert _rows(scores, metric="lag_ms")["value"].tolist() == [48.0, 48.0, -32.0, -32.0]
    assert np.allclose(_rows(scores, metric="mse_lag")["value"], 0, atol=1e-9)
    # However the names of subject and record join up.
    windows.index = pd.DataFrame({"subject": ["s", "s", "s1", "s1"], "record": ["11", "11", "1", "1"]})
    scores = evaluate(prediction[:, None], windows, FS, max_lag_s=0.2, estimates=("mean",))
    assert _rows(scores, metric="lag_ms")["value"].tolist() == [48.0, 48.0, -32.0, -32.0]
    # Nor do two records of one subject.
    windows.index = pd.DataFrame({"subject": "s0", "record": ["r0", "r0", "r1", "r1"]})
    scores = evaluate(prediction[:, None], windows, FS, max_lag_s=0.2, estimates=("mean",))
    assert _rows(scores, metric="lag_ms")["value"].tolist() == [48.0, 48.0, -32.0, -32.0]


def test_split_adds_up_in_the_scores_and_in_the_summary():
    windows, long = _windows(seed=4)
    rng = np.random.default_rng(0)
    prediction = 0.7 * _cut(long, late=5) + 0.05 * rng.normal(size=windows.ecg.shape)
    scores = evaluate(prediction[:, None], windows, FS, max_lag_s=0.2, estimates=("mean",))
    for table in (scores, summarise(scores, 10).assign(window=0)):
        wide = table.pivot(index=["window", "lead"], columns="metric", values="value")
        wide = wide[wide["mse"].notna()]
        assert np.allclose(wide["mse_timing"] + wide["mse_amplitude"] + wide["mse_morphology"], wide["mse"], rtol=1e-12)
        assert len(wide) >= 14


def test_absent_leads_and_nan_are_skipped():
    windows, long = _windows(seed=6)
    windows.ecg = windows.ecg.copy()
    windows.lead_mask[:, [0, 2, 4, 5]] = 1  # derived
    windows.lead_mask[:, 6:] = 0
    windows.ecg[:, 6:] = 0.0
    windows.ecg[3, 1, 100] = np.nan  # a gap in the truth
    samples = _cut(long)[:, None].copy()
    samples[:, :, 4] = np.nan  # a lead that the method does not give
    samples[:, :, 7:] = np.nan
    samples[:, :, 6] = 1e6  # no truth to compare with
    scores = evaluate(samples, windows, FS, max_lag_s=0.2, estimates=("single",))
    mse = _rows(scores, metric="mse")
    assert set(mse["lead"]) == {"I", "II", "III", "aVR", "aVF", "all", "measured", "derived"}
    assert len(mse[mse["lead"] == "II"]) == 11 and 3 not in set(mse[mse["lead"] == "II"]["window"])
    assert len(mse[mse["lead"] == "all"]) == 12
    assert np.allclose(mse["value"], 0, atol=1e-9)
    assert np.allclose(_rows(scores, metric="r_peak_f1")["value"], 1)
    assert len(_rows(scores, metric="einthoven_residual")) == 0  # it needs all limb leads of the prediction


def test_group_means_are_over_their_leads():
    windows, long = _windows(seed=7)
    windows.lead_mask[:, :6] = 1
    samples = _cut(long)[:, None].copy()
    samples[:, :, :6] += 0.1
    samples[:, :, 6:] += 0.2
    scores = evaluate(samples, windows, FS, max_lag_s=0.1, estimates=("mean",))
    mse = _rows(scores, metric="mse").groupby("lead")["value"]
    assert np.allclose(mse.get_group("derived"), 0.01, rtol=1e-4)
    assert np.allclose(mse.get_group("measured"), 0.04, rtol=1e-4)
    assert np.allclose(mse.get_group("all"), 0.025, rtol=1e-4)


def test_windows_without_any_lead_leave_no_row():
    windows, long = _windows(n_subjects=2)
    windows.lead_mask[0] = 0
    scores = evaluate(_cut(long)[:, None], windows, FS, max_lag_s=0.1, estimates=("mean",))
    assert set(scores[scores["window"] == 0]["metric"]) == {"einthoven_residual"}
    with pytest.raises(InputError, match="do not fit"):
        evaluate(_cut(long), windows, FS, max_lag_s=0.1)
    with pytest.raises(InputError, match="median"):
        evaluate(_cut(long)[:, None], windows, FS, max_lag_s=0.1, estimates=("median",))


# -------------------------------------------------------------------------------------------------------- summaries
def _table(values, metric="mae", **columns):
    """Scores of lead II with one row per (subject, value)."""
    rows = [(f"s{s}", "r", window, "II", "mean", metric, value) for window, (s, value) in enumerate(values)]
    names = ["subject", "record", "window", "lead", "estimate", "metric", "value"]
    return pd.DataFrame(rows, columns=names).assign(**columns)


def test_summary_counts_subjects_the_same_and_takes_the_root_last():
    values = [(0, 1.0), (0, 3.0), (0, 2.0), (1, 10.0)]
    assert summarise(_table(values), 20)["value"].item() == pytest.approx(6.0)  # (2 + 10) / 2, not 16 / 4
    table = summarise(_table([(0, 1.0), (1, 9.0)], metric="mse"), 20).set_index("metric")
    assert table.loc["mse", "value"] == 5.0
    assert table.loc["rmse", "value"] == pytest.approx(np.sqrt(5.0))  # not (1 + 3) / 2
    assert list(table.columns) == ["lead", "estimate", "value", "lower", "upper", "n_subjects"]
    assert (table["n_subjects"] == 2).all()


def test_intervals_match_the_normal_theory_and_are_repeatable():
    rng = np.random.default_rng(0)
    values = rng.normal(5.0, 2.0, size=400)
    scores = _table(list(enumerate(values)))
    table = summarise(scores, 2000, seed=1).iloc[0]
    half = 1.96 * values.std() / np.sqrt(400)
    assert table["lower"] == pytest.approx(values.mean() - half, abs=0.02)
    assert table["upper"] == pytest.approx(values.mean() + half, abs=0.02)
    pd.testing.assert_frame_equal(summarise(scores, 100, seed=3), summarise(scores, 100, seed=3))
    assert summarise(scores, 100, seed=4)["lower"].item() != summarise(scores, 100, seed=3)["lower"].item()
    # Many windows of the same subjects are not more subjects.
    repeated = pd.concat([scores.assign(window=scores["window"] + 400 * k) for k in range(20)])
    assert summarise(repeated, 2000, seed=1).iloc[0]["lower"] == pytest.approx(table["lower"])


def test_one_subject_has_no_interval_unless_asked_for():
    scores = _table([(0, float(v)) for v in range(100)])
    table = summarise(scores, 50).iloc[0]
    assert table["value"] == 49.5 and np.isnan(table["lower"]) and np.isnan(table["upper"])
    blocks = summarise(scores, 500, unit="window").iloc[0]
    assert blocks["lower"] < 49.5 < blocks["upper"] and blocks["n_subjects"] == 1
    # Ten windows that are alike go together: as wide as ten values 4.5, 14.5, ... make it, not as a hundred.
    ten = summarise(_table([(k, 4.5 + 10.0 * k) for k in range(10)]), 500).iloc[0]
    assert blocks["lower"] == pytest.approx(ten["lower"]) and blocks["upper"] == pytest.approx(ten["upper"])
    records = scores.assign(record=["a"] * 50 + ["b"] * 50)
    assert summarise(records, 200, unit="record").iloc[0]["lower"] == pytest.approx(24.5)
    with pytest.raises(InputError, match="unit"):
        summarise(scores, 10, unit="beat")


def test_seeds_are_averaged_after_the_root_and_share_their_subjects():
    first, second = _table([(0, 1.0), (1, 1.0)], "mse", seed=0), _table([(0, 9.0), (1, 9.0)], "mse", seed=1)
    table = summarise(pd.concat([first, second]), 50).set_index("metric")
    assert table.loc["rmse", "value"] == pytest.approx(2.0)  # (1 + 3) / 2
    assert table.loc["rmse", "lower"] == pytest.approx(2.0)
    # Opposite errors of the seeds on the same subjects cancel in every resample.
    values = np.arange(30.0)
    seeds = [_table(list(enumerate(v)), seed=k) for k, v in enumerate((values, 29 - values))]
    table = summarise(pd.concat(seeds), 200).iloc[0]
    assert (table["lower"], table["upper"]) == (pytest.approx(14.5), pytest.approx(14.5))


def test_missing_values_of_some_subjects():
    both = pd.concat([_table([(0, 1.0), (1, 3.0), (2, np.nan)]), _table([(0, 4.0)], metric="prd")])
    table = summarise(both, 200).set_index("metric")
    assert table.loc["mae", "value"] == 2.0 and table.loc["mae", "n_subjects"] == 2
    assert table.loc["prd", "value"] == 4.0 and np.isnan(table.loc["prd", "lower"])
    with pytest.raises(InputError, match="value"):
        summarise(both.drop(columns="value"))
    with pytest.raises(InputError, match="empty"):
        summarise(both.iloc[:0])


def test_difference_is_paired():
    rng = np.random.default_rng(0)
    base = rng.normal(10, 5, size=50)
    ours, floor = _table(list(enumerate(base + 1 + 0.01 * rng.normal(size=50)))), _table(list(enumerate(base)))
    table = summarise_difference(ours, floor, 500).iloc[0]
    assert table["value"] == pytest.approx(1.0, abs=0.01) and 0.99 < table["lower"] < table["upper"] < 1.01
    separate = summarise(ours, 500).iloc[0]
    assert separate["upper"] - separate["lower"] > 1
    roots = summarise_difference(_table([(0, 16.0), (1, 16.0)], "mse"), _table([(0, 4.0), (1, 4.0)], "mse"), 20)
    assert roots.set_index("metric")["value"].to_dict() == {"rmse": 2.0, "mse": 12.0}
    gap = floor.assign(value=floor["value"].where(floor["subject"] != "s0"))
    one_missing = summarise_difference(ours, gap, 50).iloc[0]
    assert one_missing["value"] == pytest.approx(1.0, abs=0.01) and one_missing["n_subjects"] == 49
    with pytest.raises(InputError, match="same"):
        summarise_difference(ours, floor[floor["subject"] != "s0"])
    with pytest.raises(InputError, match="estimate"):
        summarise_difference(ours, floor, reference_estimate="single")


def test_summary_of_a_table_of_usual_size():
    rng = np.random.default_rng(0)
    windows, leads = 400, [*LEADS, "all"]
    names = [(w, lead, m) for w in range(windows) for lead in leads for m in ("mse", "mae", "pearson", "prd")]
    scores = pd.DataFrame(names, columns=["window", "lead", "metric"])
    scores = scores.assign(subject="s" + (scores["window"] // 2).astype(str), record="r", estimate="mean")
    table = summarise(scores.assign(value=rng.normal(size=len(scores)) ** 2), 1000)
    assert len(table) == 13 * 5 and (table["lower"] < table["value"]).all()
