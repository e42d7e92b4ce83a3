"""Figures of clinical validity, uncertainty, groups and noise: what is drawn where."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from p2es_lib import plots
from p2es_lib.core.errors import InputError


def test_bland_altman_draws_differences_against_means():
    differences = pd.DataFrame(
        {"metric": "qrs_ms", "lead": "all", "true": [90.0, 100.0, 110.0], "measured": [92.0, 98.0, np.nan]}
    )
    differences["value"] = differences["measured"] - differences["true"]
    limits = pd.DataFrame([{"metric": "qrs_ms", "lead": "all", "bias": 0.0, "low": -5.5, "high": 5.5}])
    ax = plots.plot_bland_altman(differences, limits, [("qrs_ms", "all")]).axes[0]
    np.testing.assert_allclose(ax.lines[0].get_xydata(), [[91, 2], [99, -2]])
    assert [line.get_ydata()[0] for line in ax.lines[1:]] == [0, 0.0, -5.5, 5.5]
    with pytest.raises(InputError, match="no quantity"):
        plots.plot_bland_altman(differences, limits, [])


def test_uncertainty_leaves_out_levels_that_the_samples_cannot_have():
    curve = pd.DataFrame({"level": [0.5, 0.8, 0.95], "attainable": [0.5, 0.8, 0.88], "coverage": [0.45, 0.75, 0.85],
                          "lower": 0.4, "upper": 0.9})  # fmt: skip
    risk = pd.DataFrame({"kept": [0.5, 1.0], "risk": [0.1, 0.2], "lower": 0.05, "upper": 0.3, "oracle": [0.08, 0.2]})
    left, right = plots.plot_uncertainty({"P2Es": curve}, {"P2Es": risk}).axes[:2]
    np.testing.assert_allclose(left.lines[1].get_xydata(), [[0.5, 0.45], [0.8, 0.75]])
    np.testing.assert_allclose(right.lines[0].get_xdata(), [50, 100])
    np.testing.assert_allclose(right.lines[1].get_ydata(), [0.08, 0.2])


def test_diagnoses_in_words_with_their_intervals():
    rows = [{"label": "rhythm: af", "fit_on": "true ECG", "tried_on": tried, "auroc": 0.9, "lower": 0.8, "upper": 0.95}
            for tried in ("true ECG", "translated ECG")]  # fmt: skip
    fig = plots.plot_diagnostic(pd.DataFrame(rows))
    assert [text.get_text() for text in fig.axes[0].get_yticklabels()] == ["atrial fibrillation"]
    assert len(fig.axes[0].containers) == 2
    assert {text.get_text() for text in fig.legends[0].get_texts()} == {
        "true ECG",
        "learnt on true ECG, tried on translated ECG",
    }
    assert fig.axes[0].get_xlim() == (0.2, 1.02)
    rare = plots.plot_diagnostic(pd.DataFrame(rows).assign(lower=[0.8, 0.1]))
    assert rare.axes[0].get_xlim()[0] < 0.1, "an interval is cut off"


def test_groups_have_a_row_each_and_methods_a_colour():
    table = pd.DataFrame(
        [
            {
                "group": group,
                "method": method,
                "metric": "rmse_lag",
                "value": 0.1 * k,
                "lower": 0.05,
                "upper": 0.3,
                "n_subjects": 7 * k,
            }
            for k, group in enumerate(("women", "men"), 1)
            for method in ("P2Es", "U-Net")
        ]
    )
    fig = plots.plot_groups({"Sex": table}, ["rmse_lag"])
    ax = fig.axes[0]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["women (7)", "men (14)"]
    np.testing.assert_allclose(ax.lines[0].get_xdata(), [0.1, 0.2])
    assert ax.lines[0].get_color() != ax.lines[1].get_color()


def test_noise_has_a_column_per_disturbance():
    rows = [
        {
            "disturbance": kind,
            "snr_db": snr,
            "method": "P2Es",
            "windows": gate,
            "rmse_lag": 0.1 + 0.01 * snr,
            "r_peak_f1_lag": 0.9,
        }
        for kind in ("drift", "motion")
        for snr in (5, 20)
        for gate in ("all windows", "gated")
    ]
    fig = plots.plot_noise(pd.DataFrame(rows), {"drift": "Drift", "motion": "Motion"})
    assert [ax.get_title(loc="left") for ax in fig.axes[:2]] == ["Drift", "Motion"] and len(fig.axes) == 4
    np.testing.assert_allclose(fig.axes[2].lines[0].get_ydata(), [0.15, 0.3])


def test_frontier_writes_no_name_over_another_or_over_the_line():
    labels = [f"{n} steps" for n in (1, 2, 3, 4, 8, 16, 50)]
    measured = {
        "ms": [14.9, 27.1, 40.8, 50.4, 92.6, 193.7, 558.2],
        "crps": [0.0581, 0.0479, 0.0444, 0.0435, 0.0431, 0.0432, 0.0433],
    }
    table = pd.DataFrame({"label": labels, "family": "P2Es", **measured})
    names = ["Conditional DDPM", "Rectified flow", "CardioGAN"]
    others = pd.DataFrame({"label": names, "family": names, "ms": [27.1, 101.2, 4.7], "crps": [0.0464, 0.0446, 0.0683]})
    fig = plots.plot_frontier(pd.concat([table, others]), "crps")
    fig.draw_without_rendering()
    ax = fig.axes[0]
    boxes = [text.get_window_extent() for text in ax.texts]
    assert len(boxes) == 7 and not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    for line in ax.lines:
        drawn = line.get_path().interpolated(100).transformed(ax.transData)
        marker = line.get_markersize() / 2 * fig.dpi / 72 if len(drawn.vertices) == 1 else 0
        assert not any(box.padded(marker).count_contains(drawn.vertices) for box in boxes), line.get_label()


def test_frontier_joins_the_settings_of_a_family():
    table = pd.DataFrame(
        {
            "label": ["4 steps", "1 step", "U-Net"],
            "family": ["P2Es", "P2Es", "U-Net"],
            "ms": [40.0, 10.0, 8.0],
            "ms_low": 1,
            "ms_high": 2,
            "rmse_lag": [0.13, 0.14, 0.135],
        }
    )
    fig = plots.plot_frontier(table, "rmse_lag", budgets_ms={"50 ms": 50})
    ax = fig.axes[0]
    np.testing.assert_allclose(ax.lines[0].get_xdata(), [10, 40])
    assert ax.get_xscale() == "log" and {text.get_text() for text in ax.texts} == {"4 steps", "1 step", "50 ms"}
    assert [text.get_text() for text in fig.legends[0].get_texts()] == ["P2Es", "U-Net"]
    assert len({line.get_marker() for line in ax.lines[:2]}) == 2
