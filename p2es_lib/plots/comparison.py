"""Methods side by side: validation curves, one window, paired differences, sampler steps, time, real records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import lead_rows
from p2es_lib.evaluation.metrics import METRICS, Metric
from p2es_lib.evaluation.metrics.summary import beyond_chance
from p2es_lib.plots import style
from p2es_lib.plots.style import COLOURS, CYCLE, ESTIMATE, MARKERS, SPREAD, TRUTH, page_figure, styled

_LINES = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (4, 1, 1, 1)))
#: The full model, among variants.
_REFERENCE = "p2es"
#: Records that a page shows legibly.
MOST_RECORDS = 25


@styled
def plot_validation_curves(histories: Mapping[str, pd.DataFrame], costs: Mapping[str, Mapping]) -> Figure:
    """Validation RMSE over steps and, beside it, over minutes of training.

    Parameters
    ----------
    histories, costs : mapping
        Label to training history (columns step, validation_rmse), and to what it cost (``seconds``, ``steps``).
    """
    if not histories:
        raise InputError("plot_validation_curves: no training")
    colours = style.method_colours(histories)
    fig = page_figure(2.5)
    axes = fig.subplots(1, 2, sharey=True)
    looks: dict[str, dict] = {}
    for label, history in histories.items():
        rows = history.dropna(subset=["validation_rmse"])
        minutes_per_step = costs[label]["seconds"] / 60 / costs[label]["steps"]
        again = sum(look["color"] == colours[label] for look in looks.values())  # more methods than colours
        dashes = _LINES[again % len(_LINES)]
        looks[label] = {"color": colours[label], "ls": dashes, "marker": "o", "ms": 2.5, "mew": 0}
        axes[0].plot(rows["step"], rows["validation_rmse"], **looks[label])
        axes[1].plot(rows["step"] * minutes_per_step, rows["validation_rmse"], **looks[label])
    axes[0].set_ylabel("Validation RMSE (mV)")
    for ax, label in zip(axes, ("Step", "Minutes of training"), strict=True):
        # Logarithmic: half of what is learned is learned in the first hundredth of the time.
        ax.set(xlabel=label, xscale="log")
        ax.xaxis.set_major_formatter("{x:g}")
        style.lines_behind(ax, "y")
    style.legend_outside(fig, looks, ncols=min(4, len(looks)))
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
        for ax, lead in zip(row, lead_rows(leads), strict=True):
            values = samples[:, lead, part]
            if len(values) > 1:
                ax.fill_between(t, *np.percentile(values, (5, 95), axis=0), color=SPREAD, lw=0, alpha=0.7)
            ax.plot(t, truth[lead, part], lw=0.9, color=TRUTH)
            ax.plot(t, values[0], lw=0.9, color=ESTIMATE)
            ax.yaxis.set_major_locator(MaxNLocator(3))
        name = method.partition(" (")[0]  # a panel is narrow; what exactly was changed stands in the tables
        row[0].annotate(name, (0, 1), (2, 1), "axes fraction", "offset points", fontsize=7, color=ESTIMATE)
    for ax, lead in zip(axes[0], leads, strict=True):
        ax.set_title(f"{lead} (mV)", loc="right")
    for ax in axes[-1]:
        ax.set(xlabel="Time (s)", xlim=(0, t[-1]))
    looks = {"true": {"color": TRUTH, "lw": 0.9}, "translated: one sample": {"color": ESTIMATE, "lw": 0.9}}
    style.legend_outside(fig, looks | {"5 to 95 % of the samples": {"color": SPREAD, "lw": 5}})
    return fig


@styled
def plot_differences(table: pd.DataFrame, metrics: Sequence[str], groups: Mapping[str, str]) -> Figure:
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
    style.name_rows(axes[0], [heading or method for heading, method in order])
    for label, (heading, _) in zip(axes[0].get_yticklabels(), order, strict=True):
        label.set_fontweight("bold" if heading else "normal")
    words = "Difference to P2Es, 95 % interval; filled: not explained by chance (orange: worse, green: better)"
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
            ax.annotate(f"{row.difference:+.2g}", (side * end, y), (-4 * side, 0), "data", "offset points",
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
    ax.set(title=metric.label.replace(", ", ",\n"), xlabel=metric.unit or " ")  # a column is narrow
    ax.xaxis.set_major_locator(MaxNLocator(3))
    style.lines_behind(ax, "x")
    ax.tick_params(axis="y", length=0)


@styled
def plot_steps(table: pd.DataFrame, metrics: Mapping[str, str]) -> Figure:
    """A metric against the number of sampler steps: of the full model with its interval, of others as thin lines.

    Parameters
    ----------
    table : DataFrame
        Columns n_steps, metric, value, lower, upper; with several models also variant and method (the name shown).
    metrics : mapping
        Metric to panel title.
    """
    table = table if "variant" in table else table.assign(variant=_REFERENCE, method="P2Es")
    several = table["variant"].nunique() > 1
    fig = page_figure(2.4 if several else 2.0)
    axes = np.atleast_1d(fig.subplots(1, len(metrics)))
    for ax, (metric, title) in zip(axes, metrics.items(), strict=True):
        rows = table[table["metric"] == metric].sort_values("n_steps")
        others = rows[rows["variant"] != _REFERENCE].groupby("variant", sort=False)
        rows = rows[rows["variant"] == _REFERENCE]
        if rows.empty:
            raise InputError(f"plot_steps: the table holds no {metric}")
        ax.fill_between(rows["n_steps"], rows["lower"], rows["upper"], color=SPREAD, lw=0, alpha=0.7)
        ax.plot(rows["n_steps"], rows["value"], "o-", color=ESTIMATE, ms=3, label=rows["method"].iloc[0])
        for (_, part), colour, marker in zip(others, cycle(CYCLE[1:]), cycle(MARKERS[1:])):
            name = part["method"].iloc[0].partition(" (")[0]
            ax.plot(part["n_steps"], part["value"], marker=marker, color=colour, lw=0.8, ms=2.5, label=name)
        ax.set_xscale("log", base=2)
        ax.set_xticks(rows["n_steps"], [f"{n:g}" for n in rows["n_steps"]])
        ax.minorticks_off()
        label = style.axis_label(METRICS[metric]).replace(", ", ",\n")
        ax.set(xlabel="Steps of the sampler", ylabel=label, title=title)
    if several:
        handles = {line.get_label(): line for ax in axes for line in ax.lines}
        fig.legend(handles.values(), handles, loc="outside lower center", ncols=len(handles))
    style.letter_panels(axes)
    return fig


@styled
def plot_error_by_time(table: pd.DataFrame, labels: Mapping[str, str]) -> Figure:
    """Error of the estimate of x_0 against the time of the forward process; right, others against the full model.

    Parameters
    ----------
    table : DataFrame
        Of :func:`p2es_lib.evaluation.error_by_time.error_by_time`.
    labels : mapping
        Variant to its name in the legend; those to draw, in order, the full model, ``p2es``, among them.
    """
    if _REFERENCE not in labels:
        raise InputError(f"plot_error_by_time: {_REFERENCE} is not among the variants to draw ({', '.join(labels)})")
    others = [name for name in labels if name != _REFERENCE]
    fig = page_figure(2.7 + 0.16 * -(-len(others) // 2))
    left, right = fig.subplots(1, 2, width_ratios=[0.8, 1.2])
    curves = {key: rows.sort_values("t") for key, rows in table.groupby(["variant", "stage"])}
    for stage, look in (("stage 1", "--"), ("both stages", "-")):
        rows = curves[_REFERENCE, stage]
        left.plot(rows["t"], rows["rmse"], look, color=ESTIMATE, label=stage)
    left.set(ylabel="RMSE of the estimate of $x_0$ (mV)", title=labels[_REFERENCE], ylim=(0, None))
    left.legend(loc="upper left")
    for name, colour, marker in zip(others, cycle(CYCLE[1:]), cycle(MARKERS)):
        rows = curves[name, "both stages"]
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


@styled
def plot_sim_to_real(table: pd.DataFrame) -> Figure:
    """Beats, heart rate and waveform of each real record, a point and its interval per method.

    The table is that of :func:`p2es_lib.experiments.sim_to_real.sim_to_real_table`. Of more than 25 records those are
    shown in which the first method finds the fewest beats.
    """
    if table.empty:
        raise InputError("plot_sim_to_real: no record")
    titles = {"r_peak_f1_lag": "R-peak F1, 50 ms, after lag", "heart_rate_error": "Error of the heart rate (min⁻¹)",
              "pearson_lag": "Pearson r after lag, measured leads"}  # fmt: skip
    methods = style.unique(table["method"])
    first = table[table["method"] == methods[0]].sort_values("r_peak_f1_lag", kind="stable")
    records = list(first["record"][:MOST_RECORDS])
    shown = [name for name in titles if table[name].notna().any()]
    fig = page_figure(0.9 + 0.2 * max(4, len(records)))
    axes = np.atleast_1d(fig.subplots(1, len(shown), sharey=True))
    looks = {
        method: {"color": colour, "marker": marker}
        for method, colour, marker in zip(methods, (ESTIMATE, COLOURS["orange"], COLOURS["grey"]), "osD")
    }
    for ax, name in zip(axes, shown, strict=True):
        for offset, (method, look) in zip(np.linspace(-0.22, 0.22, len(methods)), looks.items()):
            rows = table[table["method"] == method].set_index("record").loc[records]
            y = np.arange(len(records)) + offset
            ax.hlines(y, rows[f"{name}_lower"], rows[f"{name}_upper"], color=look["color"], lw=0.9)
            ax.plot(rows[name], y, ls="", ms=3.2, mew=0, **look)
        ax.set_title(titles[name])
        style.lines_behind(ax, "x")
    style.name_rows(axes[0], [record.partition("/")[2] or record for record in records])
    style.legend_outside(
        fig, {method: {"ms": 3.5, "mew": 0, "lw": 1, **look} for method, look in looks.items()}, ncols=1
    )
    style.letter_panels(axes)
    return fig
