"""Training curves, results per lead with intervals, and what the squared error is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import LEADS
from p2es_lib.evaluation.metrics import METRICS, Metric
from p2es_lib.plots import style
from p2es_lib.plots.style import COLOURS, ESTIMATE, method_colours, page_figure, styled

#: Parts of the squared error, from the bottom of the bar upwards.
PARTS = {"mse_timing": "timing (constant lag)", "mse_amplitude": "amplitude", "mse_morphology": "morphology"}


@styled
def plot_training(history: pd.DataFrame | Mapping[int, pd.DataFrame], *,
                  references: Mapping[str, float] | None = None) -> Figure:  # fmt: skip
    """Training loss, validation RMSE and learning rate over steps.

    Parameters
    ----------
    history : DataFrame, or mapping seed -> DataFrame
        Columns step, loss, validation_rmse (mV), learning_rate, and seed if there are several; a column may be empty in
        a row. Without one of them: InputError.
    references : mapping name -> RMSE (mV), optional
        Horizontal lines beside the validation curve, such as template and irreducible error.
    """
    import seaborn as sns  # of the extra "companion"

    if isinstance(history, Mapping):
        history = pd.concat([frame.assign(seed=seed) for seed, frame in history.items()], ignore_index=True)
    _check_columns("training history", history, {"step", "loss", "validation_rmse", "learning_rate"})
    exponent = int(np.floor(np.log10(max(1.05 * history["learning_rate"].max(), 1e-12))))
    history = history.assign(seed=history.get("seed", 0), learning_rate=history["learning_rate"] / 10.0**exponent)
    seeds = sorted(history["seed"].unique())
    # Seeds are repetitions of one thing: shades of one colour, apart from those of the references.
    shades = sns.color_palette("blend:#003A5C,#7CC0EC", len(seeds)) if len(seeds) > 1 else [ESTIMATE]
    palette = dict(zip(seeds, shades, strict=True))
    fig = page_figure(2.3)
    axes = losses, errors, rates = fig.subplots(1, 3, width_ratios=[1.15, 1.3, 0.8])
    dots = {"marker": "o", "markersize": 3, "markeredgewidth": 0}
    for ax, column, label, look in (
        (losses, "loss", "Training loss", {}),
        (errors, "validation_rmse", "Validation RMSE (mV)", dots),
        (rates, "learning_rate", f"Learning rate ($10^{{{exponent}}}$)", {}),
    ):
        sns.lineplot(data=history[history[column].notna()], x="step", y=column, hue="seed", hue_order=seeds,
                     palette=palette, estimator=None, errorbar=None, legend=False, ax=ax, lw=1.0, **look)  # fmt: skip
        ax.set(xlabel="Step", ylabel=label, xlim=(0, None))
        ax.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 3, 5, 10]))
    if (history["loss"].dropna() > 0).all():
        losses.set_yscale("log")
        style.round_numbers(losses.yaxis)
    rates.set_ylim(bottom=0)
    _draw_references(errors, references or {}, history["validation_rmse"].dropna())
    if len(seeds) > 1:
        losses.legend([Line2D([], [], color=shade) for shade in shades], [f"seed {seed}" for seed in seeds],
                      loc="upper right")  # fmt: skip
    style.letter_panels(axes)
    return fig


def _draw_references(ax: Axes, references: Mapping[str, float], values: pd.Series) -> None:
    for (name, value), colour in zip(references.items(), method_colours(references).values(), strict=True):
        ax.axhline(value, color=colour, lw=0.9, ls=(0, (4, 2)))
        ax.annotate(name, (1, value), (0, 1.5), ("axes fraction", "data"), "offset points", ha="right", va="bottom",
                    fontsize=7, color=colour)  # fmt: skip
    seen = [*values, *references.values()]
    low, high = min(seen), max(seen)
    pad = 0.12 * max(high - low, 0.02 * high)
    ax.set_ylim(max(0.0, low - pad), high + 1.5 * pad)


def _check_columns(name: str, table: pd.DataFrame, needed: set[str]) -> None:
    if missing := needed - set(table.columns):
        raise InputError(f"{name} lacks the columns {sorted(missing)}; it has {', '.join(table.columns)}")


@styled
def plot_results(results: pd.DataFrame, *, metrics: Sequence[str] = ("rmse", "pearson"),
                 methods: Sequence[str] | None = None) -> Figure:  # fmt: skip
    """Metrics per lead for several methods side by side, dots with intervals; left of them, over all leads.

    Parameters
    ----------
    results : DataFrame
        Columns method, lead, metric, value, and lower, upper where there are intervals. Leads besides the twelve that
        are drawn: ``all``.
    metrics : sequence of str
        One row of the figure each.
    methods : sequence of str, optional
        Which and in what order; default: all, as they come.

    Raises
    ------
    InputError
        Missing columns, or a metric or method that the table does not hold.
    """
    _check_columns("results table", results, {"method", "lead", "metric", "value"})
    methods = style.unique(results["method"] if methods is None else methods)
    for column, wanted in (("metric", metrics), ("method", methods)):
        unknown = [name for name in wanted if name not in set(results[column])]
        if unknown or not wanted:
            held = ", ".join(map(str, results[column].unique()))
            raise InputError(f"results table holds no {column} {unknown}; it holds {held}")
    positions = {"all": 0.0} | {lead: 1.5 + k for k, lead in enumerate(LEADS)}
    drawn = results[results["metric"].isin(metrics) & results["lead"].isin(positions)]
    present = [lead for lead in positions if (drawn["lead"] == lead).any()]
    colours = method_colours(methods)
    fig = page_figure(1.75 * len(metrics) + 0.45)
    axes = fig.subplots(len(metrics), 1, sharex=True, squeeze=False)[:, 0]
    for ax, metric in zip(axes, metrics, strict=True):
        of_metric = drawn[drawn["metric"] == metric]
        for (method, colour), offset in zip(colours.items(), style.side_by_side(len(methods), 0.3), strict=True):
            rows = of_metric[of_metric["method"] == method]
            x = rows["lead"].map(positions).to_numpy(dtype=float) + offset
            if {"lower", "upper"} <= set(rows.columns):
                ax.vlines(x, rows["lower"], rows["upper"], color=colour, lw=1.1)
            ax.plot(x, rows["value"], "o", color=colour, ms=3.2, mew=0)
        known = METRICS.get(metric, Metric(metric.replace("_", " "), ""))
        ax.set_ylabel(style.axis_label(known))
        style.lines_behind(ax, "y")
        if known.better == "lower" and results["value"][results["metric"] == metric].min() >= 0:
            ax.set_ylim(bottom=0)
        for lead in present[1:]:
            ax.axvline(positions[lead] - (0.75 if lead == "I" else 0.5), color="#DDDDDD", lw=0.5, zorder=0)
    axes[-1].set_xticks([positions[lead] for lead in present], ["all leads" if p == "all" else p for p in present])
    axes[-1].set(xlabel="Lead", xlim=(-0.6, max(positions[lead] for lead in present) + 0.6))
    looks = {method: {"marker": "o", "ms": 3.5, "lw": 1.1, "color": colour} for method, colour in colours.items()}
    style.legend_outside(fig, looks, ncols=min(len(methods), 3))
    style.letter_panels(axes)
    return fig


@styled
def plot_decomposition(results: pd.DataFrame) -> Figure:
    """Mean squared error of each method over all leads as stacked parts: timing, amplitude, morphology.

    Parameters
    ----------
    results : DataFrame
        Columns method, lead, metric, value; metrics ``mse_timing``, ``mse_amplitude``, ``mse_morphology`` in mV². They
        add up to the mean squared error, whose root is written beside the bar.
    """
    _check_columns("results table", results, {"method", "lead", "metric", "value"})
    rows = results[(results["lead"] == "all") & results["metric"].isin(PARTS)]
    table = rows.pivot_table(index="method", columns="metric", values="value", sort=False)
    if lacking := [part for part in PARTS if part not in table]:
        raise InputError(f"results table holds no {', '.join(lacking)} for all leads")
    fig = page_figure(0.85 + 0.3 * len(table))
    ax = fig.subplots()
    y, right = np.arange(len(table)), np.zeros(len(table))
    for (part, name), colour in zip(PARTS.items(), ("vermillion", "orange", "sky"), strict=True):
        value = table[part].to_numpy()
        ax.barh(y, value, left=right, height=0.62, color=COLOURS[colour], label=name)
        right = right + np.maximum(value, 0)  # timing, the first part, can be slightly negative: left of zero
    for row, total in enumerate(table[list(PARTS)].sum(axis=1)):
        ax.text(right[row] + 0.01 * right.max(), row, f"RMSE {np.sqrt(total):.3f} mV", va="center", fontsize=7)
    ax.set_yticks(y, table.index)
    ax.invert_yaxis()
    ax.set(xlabel="Mean squared error (mV²)", xlim=(min(1.1 * table.to_numpy().min(), 0.0), 1.2 * right.max()))
    ax.tick_params(axis="y", length=0)
    fig.legend(loc="outside upper center", ncols=3)
    return fig
