"""Methods side by side: validation curves, one window as each of them sees it, and paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import LEADS
from p2es_lib.evaluation.metrics import METRICS, Metric
from p2es_lib.evaluation.metrics.summary import beyond_chance
from p2es_lib.plots import style
from p2es_lib.plots.style import COLOURS, CYCLE, ESTIMATE, MARKERS, SPREAD, TRUTH, method_colours, page_figure, styled

_LINES = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (4, 1, 1, 1)))


@styled
def plot_validation_curves(histories: Mapping[str, pd.DataFrame], costs: Mapping[str, Mapping]) -> Figure:
    """Validation RMSE over steps and, beside it, over minutes of training.

    Parameters
    ----------
    histories : mapping
        Label to training history (columns step, validation_rmse).
    costs : mapping
        The same labels to what the training cost (``seconds``, ``steps``).
    """
    if not histories:
        raise InputError("plot_validation_curves: no training")
    colours = method_colours(histories)
    fig = page_figure(2.5)
    axes = fig.subplots(1, 2, sharey=True)
    handles = []
    for label, history in histories.items():
        rows = history.dropna(subset=["validation_rmse"])
        minutes_per_step = costs[label]["seconds"] / 60 / costs[label]["steps"]
        again = sum(handle.get_color() == colours[label] for handle in handles)  # more methods than colours
        look = {"color": colours[label], "ls": _LINES[again % len(_LINES)], "marker": "o", "ms": 2.5, "mew": 0}
        axes[0].plot(rows["step"], rows["validation_rmse"], **look)
        axes[1].plot(rows["step"] * minutes_per_step, rows["validation_rmse"], **look)
        handles.append(Line2D([], [], label=label, **look))
    # Logarithmic: half of what is learned is learned in the first hundredth of the time.
    axes[0].set(xlabel="Step", ylabel="Validation RMSE (mV)", xscale="log")
    axes[1].set(xlabel="Minutes of training", xscale="log")
    for ax in axes:
        ax.xaxis.set_major_formatter("{x:g}")
        style.lines_behind(ax, "y")
    fig.legend(handles=handles, loc="outside upper center", ncols=min(4, len(handles)))
    style.letter_panels(axes)
    return fig


@styled
def plot_one_window(
    truth: np.ndarray, estimates: Mapping[str, np.ndarray], sampling_rate: float, *, leads: Sequence[str], seconds=3.0
) -> Figure:
    """One window as each method translates it: a row per method, a column per lead, the true ECG behind.

    Parameters
    ----------
    truth : array (12, T), mV
    estimates : mapping
        Method to samples (K, 12, T) in mV. One is drawn, and of several the band.
    sampling_rate : float, Hz
    leads : sequence of str
    seconds : float
        How much of the window is shown, from its middle.
    """
    if not estimates or not leads:
        raise InputError("plot_one_window: nothing to draw")
    n = min(truth.shape[-1], round(seconds * sampling_rate))
    first = (truth.shape[-1] - n) // 2
    part, t = slice(first, first + n), np.arange(n) / sampling_rate
    fig = page_figure(0.72 * len(estimates) + 0.6)
    axes = fig.subplots(len(estimates), len(leads), sharex=True, sharey="col", squeeze=False)
    for row, (method, samples) in zip(axes, estimates.items(), strict=True):
        for ax, lead in zip(row, leads, strict=True):
            values = samples[:, LEADS.index(lead), part]
            if len(values) > 1:
                ax.fill_between(t, *np.percentile(values, (5, 95), axis=0), color=SPREAD, lw=0, alpha=0.7)
            ax.plot(t, truth[LEADS.index(lead), part], lw=0.9, color=TRUTH)
            ax.plot(t, values[0], lw=0.9, color=ESTIMATE)
            ax.yaxis.set_major_locator(MaxNLocator(3))
        name = method.partition(" (")[0]  # a panel is narrow; what exactly was changed stands in the tables
        row[0].annotate(name, (0, 1), xycoords="axes fraction", xytext=(2, 1), textcoords="offset points", fontsize=7,
                        color=ESTIMATE)  # fmt: skip
    for ax, lead in zip(axes[0], leads, strict=True):
        ax.set_title(f"{lead} (mV)", loc="right")
    for ax in axes[-1]:
        ax.set(xlabel="Time (s)", xlim=(0, t[-1]))
    looks = ((TRUTH, 0.9, "true"), (ESTIMATE, 0.9, "translated: one sample"), (SPREAD, 5, "5 to 95 % of the samples"))
    handles = [Line2D([], [], color=colour, lw=width, label=label) for colour, width, label in looks]
    fig.legend(handles=handles, loc="outside upper center", ncols=3)
    return fig


@styled
def plot_differences(
    table: pd.DataFrame, metrics: Sequence[str], groups: Mapping[str, str], *, reference: str = "P2Es"
) -> Figure:
    """Differences to the full model with their intervals: a row per variant, a column per metric.

    Filled: the interval excludes zero after the correction for many comparisons. Green lies on the side where the
    variant is better than the full model, red where it is worse. With several trainings, ticks mark the least and the
    largest difference of a single one. A row far beyond all others is an arrow at the edge, with its value.

    Parameters
    ----------
    table : DataFrame
        Of :func:`p2es_lib.experiments.results.difference_table`.
    metrics : sequence of str
    groups : mapping
        Value of the column ``about`` to its heading, in the order of the rows.
    """
    shown = table[table["about"].isin(groups) & table["metric"].isin(metrics)]
    if shown.empty:
        raise InputError("plot_differences: the table holds none of these metrics and groups")
    order: list[tuple[str, str]] = []  # (heading or "", method)
    for about, heading in groups.items():
        methods = style.unique(shown.loc[shown["about"] == about, "method"])
        order += [(heading, "")] * bool(methods) + [("", method) for method in methods]
    position = {method: y for y, (_, method) in enumerate(order) if method}
    fig = page_figure(0.16 * len(order) + 0.8)
    axes = fig.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for ax, metric in zip(axes, metrics, strict=True):
        _draw_differences(ax, shown[shown["metric"] == metric], position, METRICS[metric])
    axes[0].set_yticks(range(len(order)), [heading or method for heading, method in order])
    for label, (heading, _) in zip(axes[0].get_yticklabels(), order, strict=True):
        label.set_fontweight("bold" if heading else "normal")
    axes[0].set_ylim(len(order) - 0.4, -0.6)
    words = f"Difference to {reference}, 95 % interval; filled: not explained by chance (orange: worse, green: better)"
    if (shown["seeds"] > 1).any():
        words += "\nTicks: extremes of single trainings; rows without: one training"
    fig.supxlabel(words, fontsize=7.5)
    return fig


_REACH = ["difference", "lower", "upper", "seed_min", "seed_max"]


def _outside(rows: pd.DataFrame) -> tuple[pd.Index, float]:
    """Rows too far from the others to share an axis with them, at most one in ten, and where the axis ends."""
    sizes = rows[_REACH].abs().max(axis=1).sort_values(ascending=False)
    n = 0
    while n < len(sizes) // 10 and sizes.iloc[n] > 2 * sizes.iloc[n + 1]:
        n += 1
    return sizes.index[:n], 1.08 * sizes.iloc[n]


def _draw_differences(ax: Axes, rows: pd.DataFrame, position: Mapping[str, int], metric: Metric) -> None:
    outside, end = _outside(rows)
    clear = beyond_chance(rows)
    for row in rows.itertuples():
        worse = (row.difference > 0) == (metric.better == "lower")
        colour = COLOURS["grey"] if not clear[row.Index] else COLOURS["vermillion"] if worse else COLOURS["green"]
        y = position[row.method]
        if row.Index in outside:  # it would press all others together
            side = np.sign(row.difference)
            ax.plot(side * end, y, ">" if side > 0 else "<", ms=4, color=colour, clip_on=False)
            ax.annotate(f"{row.difference:+.2g}", (side * end, y), xytext=(-4 * side, 0), textcoords="offset points",
                        va="center", ha="right" if side > 0 else "left", fontsize=6.5)  # fmt: skip
            continue
        ax.plot([row.lower, row.upper], [y, y], lw=1.1, color=colour)
        ax.plot(row.difference, y, "o", ms=3.6, mew=0.8, mec=colour, mfc=colour if clear[row.Index] else "white")
        if row.seeds > 1:
            ax.plot([row.seed_min, row.seed_max], [y, y], ls="", marker="|", ms=5.5, mew=0.8, color=TRUTH)
    ax.axvline(0, color=TRUTH, lw=0.7)
    if len(outside):
        ends, signs = rows.drop(index=outside)[_REACH].to_numpy(), np.sign(rows.loc[outside, "difference"])
        left = -end if (signs < 0).any() else min(1.08 * ends.min(), -0.05 * end)
        right = end if (signs > 0).any() else max(1.08 * ends.max(), 0.05 * end)
        ax.set_xlim(left, right)
    ax.set_title(metric.label.replace(", ", ",\n"))  # a column is narrow
    ax.set_xlabel(metric.unit or " ")
    ax.xaxis.set_major_locator(MaxNLocator(3))
    style.lines_behind(ax, "x")
    ax.tick_params(axis="y", length=0)


@styled
def plot_steps(table: pd.DataFrame, metrics: Mapping[str, str], reference: str = "p2es") -> Figure:
    """A metric against the number of sampler steps: of the full model with its interval, of others as thin lines.

    Parameters
    ----------
    table : DataFrame
        Columns n_steps, metric, value, lower, upper; with several models also variant and method (the name shown).
    metrics : mapping
        Metric to panel title.
    reference : str
        The full model, where there is a column variant.
    """
    fig = page_figure(2.4 if "variant" in table and table["variant"].nunique() > 1 else 2.0)
    axes = np.atleast_1d(fig.subplots(1, len(metrics)))
    handles: dict[str, Line2D] = {}
    for ax, (metric, title) in zip(axes, metrics.items(), strict=True):
        rows = table[table["metric"] == metric].sort_values("n_steps")
        others = [part for _, part in rows.groupby("variant", sort=False)] if "variant" in rows else []
        others = [part for part in others if part["variant"].iloc[0] != reference]
        rows = rows[rows["variant"] == reference] if "variant" in rows else rows
        if rows.empty:
            raise InputError(f"plot_steps: the table holds no {metric}")
        ax.fill_between(rows["n_steps"], rows["lower"], rows["upper"], color=SPREAD, lw=0, alpha=0.7)
        name = rows["method"].iloc[0] if others else "P2Es"
        (handles[name],) = ax.plot(rows["n_steps"], rows["value"], "o-", color=ESTIMATE, ms=3)
        for part, colour, marker in zip(others, cycle(CYCLE[1:]), cycle(MARKERS[1:]), strict=False):
            name = part["method"].iloc[0].partition(" (")[0]
            (handles[name],) = ax.plot(part["n_steps"], part["value"], marker=marker, color=colour, lw=0.8, ms=2.5)
        ax.set_xscale("log", base=2)
        ax.set_xticks(rows["n_steps"], [f"{n:g}" for n in rows["n_steps"]])
        ax.minorticks_off()
        name, unit = METRICS[metric].label.replace(", ", ",\n"), METRICS[metric].unit
        ax.set(xlabel="Steps of the sampler", ylabel=name + (f" ({unit})" if unit else ""), title=title)
    if len(handles) > 1:
        fig.legend(handles.values(), handles, loc="outside lower center", ncols=len(handles))
    style.letter_panels(axes)
    return fig


@styled
def plot_error_by_time(table: pd.DataFrame, labels: Mapping[str, str], reference: str = "p2es") -> Figure:
    """Error of the estimate of x_0 against the time of the forward process; right, others against the full model.

    Parameters
    ----------
    table : DataFrame
        From :func:`p2es_lib.evaluation.inspection.error_by_time`.
    labels : mapping
        Variant to its name in the legend; those to draw, in order.
    reference : str
        The full model, whose stage 1 is drawn as well.
    """
    if reference not in labels:
        raise InputError(f"plot_error_by_time: {reference} is not among the variants to draw ({', '.join(labels)})")
    others = [name for name in labels if name != reference]
    fig = page_figure(2.7 + 0.16 * -(-len(others) // 2))
    left, right = fig.subplots(1, 2, width_ratios=[0.8, 1.2])
    whole = table[table["stage"] == "both stages"]
    for stage, look in (("stage 1", "--"), ("both stages", "-")):
        rows = table[(table["variant"] == reference) & (table["stage"] == stage)].sort_values("t")
        left.plot(rows["t"], rows["rmse"], look, color=ESTIMATE, label=stage)
    left.set(ylabel="RMSE of the estimate of $x_0$ (mV)", title=labels[reference], ylim=(0, None))
    left.legend(loc="upper left")
    for name, colour, marker in zip(others, cycle(CYCLE[1:]), cycle(MARKERS)):
        rows = whole[whole["variant"] == name].sort_values("t")
        lower, upper, ratio = (100 * (rows[column] - 1) for column in ("lower", "upper", "ratio"))
        right.fill_between(rows["t"], lower, upper, color=colour, lw=0, alpha=0.25)
        right.plot(rows["t"], ratio, marker=marker, ms=2.5, color=colour, label=labels[name])
    right.axhline(0, color="0.4", lw=0.8)
    # One model may be several times worse at small t: a linear scale near zero, a logarithmic one beyond.
    right.set_yscale("symlog", linthresh=10)
    right.yaxis.set_major_formatter("{x:g}")
    right.set(ylabel="Squared error above the full model's (%)", title="Without one part")
    for ax in (left, right):
        ax.set_xlabel("Time of the forward process, $t$")
    fig.legend(*right.get_legend_handles_labels(), loc="outside lower right", ncols=2)
    style.letter_panels([left, right])
    return fig
