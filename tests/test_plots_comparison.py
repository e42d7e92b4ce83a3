"""Figures that put methods side by side: what is drawn where, and in which colour."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from p2es_lib import plots
from p2es_lib.core.errors import InputError
from p2es_lib.experiments.variants import VARIANTS, variants_of


def differences(variants=("no_blur", "no_affinity"), metrics=("rmse_lag", "pearson_lag")):
    about = {"no_blur": "forward", "no_affinity": "affinity"}
    rows = [
        {
            "variant": v,
            "method": f"label of {v}",
            "about": about[v],
            "metric": m,
            "difference": 0.01 * (k + 1),
            "lower": 0.005,
            "upper": 0.02,
            "p_holm": 0.01 if v == "no_blur" else 0.5,
            "seed_min": 0.001,
            "seed_max": 0.03,
            "seeds": 3 if v == "no_blur" else 1,
        }
        for v in variants
        for k, m in enumerate(metrics)
    ]
    return pd.DataFrame(rows)


def test_differences_are_drawn_under_their_headings():
    fig = plots.plot_differences(
        differences(), ["rmse_lag", "pearson_lag"], {"forward": "Forward", "affinity": "Affinity"}
    )
    labels = [text.get_text() for text in fig.axes[0].get_yticklabels()]
    assert labels == ["Forward", "label of no_blur", "Affinity", "label of no_affinity"]
    assert [text.get_fontweight() for text in fig.axes[0].get_yticklabels()] == ["bold", "normal"] * 2
    dots = [line for line in fig.axes[0].lines if line.get_marker() == "o"]
    assert [dot.get_ydata()[0] for dot in dots] == [1, 3]
    filled = [dot.get_markerfacecolor() != "white" for dot in dots]
    assert filled == [True, False], "only what survives the correction is filled"
    ticks = [line for line in fig.axes[0].lines if line.get_marker() == "|"]
    assert [(list(line.get_xdata()), list(line.get_ydata())) for line in ticks] == [([0.001, 0.03], [1, 1])], (
        "one training has no extremes"
    )
    # A larger error is worse, a larger correlation better.
    colours = [next(line for line in ax.lines if line.get_marker() == "o").get_markeredgecolor() for ax in fig.axes]
    assert colours[0] != colours[1]
    with pytest.raises(InputError, match="none of these"):
        plots.plot_differences(differences(), ["ssim"], {"forward": "Forward"})


def test_a_difference_that_trainings_do_not_agree_on_is_not_filled():
    table = differences(("no_blur",)).assign(seed_min=-0.001, seed_max=0.03)
    (dot,) = (
        line
        for line in plots.plot_differences(table, ["rmse_lag"], {"forward": "Forward"}).axes[0].lines
        if line.get_marker() == "o"
    )
    assert dot.get_markerfacecolor() == "white"


@pytest.mark.parametrize("side", (1, -1))
def test_a_difference_far_beyond_the_others_is_an_arrow_at_the_edge(side):
    many = pd.concat([differences(("no_affinity",)).assign(method=f"another {k}") for k in range(7)])
    table = pd.concat(
        [
            differences(),
            many,
            differences(("no_blur",)).assign(
                method="far away", difference=side * 0.5, lower=side * 0.51 - 0.01, upper=side * 0.49 + 0.02
            ),
        ],
        ignore_index=True,
    )
    ax = plots.plot_differences(table, ["rmse_lag"], {"forward": "Forward", "affinity": "Affinity"}).axes[0]
    assert {line.get_marker() for line in ax.lines if line.get_marker() in "<>"} == {">" if side > 0 else "<"}
    assert [text.get_text() for text in ax.texts] == [f"{side * 0.5:+.2g}"] and max(map(abs, ax.get_xlim())) < 0.1
    few = plots.plot_differences(
        pd.concat([differences(), table[table["method"] == "far away"]]),
        ["rmse_lag"],
        {"forward": "F", "affinity": "A"},
    )
    assert max(map(abs, few.axes[0].get_xlim())) > 0.5 and not few.axes[0].texts, "among few, nothing is cut off"
    left, right = ax.get_xlim()
    assert left < -0.001 and right > 0.03 - 1e-9, "all else lies on the axis, and so does zero"


def test_one_window_of_all_methods():
    rng = np.random.default_rng(0)
    truth, samples = rng.standard_normal((12, 400)), rng.standard_normal((8, 12, 400))
    fig = plots.plot_one_window(
        truth, {"draws": samples, "regression": samples[:1]}, 125.0, leads=("II", "V5"), seconds=2.0
    )
    grid = fig.axes
    assert len(grid) == 4 and len(grid[0].collections) == 1 and not grid[2].collections
    np.testing.assert_allclose(grid[1].lines[0].get_ydata(), truth[10, 75:325])
    np.testing.assert_allclose(grid[2].lines[1].get_ydata(), samples[0, 1, 75:325])


def test_validation_curves_over_steps_and_minutes():
    history = pd.DataFrame({"step": [10, 10, 20], "validation_rmse": [0.2, np.nan, 0.1]})
    fig = plots.plot_validation_curves(
        {"a": history, "b": history}, {"a": {"seconds": 120, "steps": 20}, "b": {"seconds": 60, "steps": 20}}
    )
    np.testing.assert_allclose(fig.axes[0].lines[0].get_xdata(), [10, 20])
    np.testing.assert_allclose([line.get_xdata() for line in fig.axes[1].lines], [[1, 2], [0.5, 1]])


def test_every_method_of_the_largest_comparison_has_a_line_of_its_own():
    history, cost = pd.DataFrame({"step": [10, 20], "validation_rmse": [0.2, 0.1]}), {"seconds": 1, "steps": 20}
    learned = [VARIANTS[name].label for name in ("p2es", *variants_of("full", "baselines"))]
    for methods in (learned, ["a template", *learned], [f"method {k}" for k in range(9)]):
        fig = plots.plot_validation_curves(dict.fromkeys(methods, history), dict.fromkeys(methods, cost))
        looks = {(line.get_color(), str(line.get_linestyle()), str(line._dash_pattern)) for line in fig.axes[0].lines}
        assert len(looks) == len(methods)


def test_sampler_steps():
    table = pd.DataFrame(
        {"n_steps": [4, 1, 2], "metric": "rmse_lag", "value": [3.0, 1.0, 2.0], "lower": 0.0, "upper": 4.0}
    )
    fig = plots.plot_steps(table, {"rmse_lag": "Mean"})
    np.testing.assert_allclose(fig.axes[0].lines[0].get_ydata(), [1, 2, 3])
    with pytest.raises(InputError, match="holds no ppe"):
        plots.plot_steps(table, {"ppe": "x"})
    other = table.assign(value=[9.0, 7.0, 8.0], variant="no_blur", method="no blur")
    both = pd.concat([other, table.assign(variant="p2es", method="P2Es")])
    fig = plots.plot_steps(both, {"rmse_lag": "Mean"})
    assert [list(line.get_ydata()) for line in fig.axes[0].lines] == [[1, 2, 3], [7, 8, 9]]
    assert [text.get_text() for text in fig.legends[0].get_texts()] == ["P2Es", "no blur"]
