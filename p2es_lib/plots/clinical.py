"""What a clinician asks: agreement of measurements, diagnostic value, honesty of the uncertainty, for whom it holds."""

from collections.abc import Mapping, Sequence
from itertools import cycle, product

import numpy as np
import pandas as pd
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from p2es_lib.core.errors import InputError
from p2es_lib.data.windows import label_words
from p2es_lib.evaluation.metrics import METRICS
from p2es_lib.evaluation.metrics.intervals import QUANTITIES
from p2es_lib.plots import style
from p2es_lib.plots.style import COLOURS, CYCLE, ESTIMATE, MARKERS, SPREAD, TRUTH, Axes, Figure, method_colours, styled


@styled
def plot_bland_altman(differences: pd.DataFrame, limits: pd.DataFrame, quantities: Sequence[tuple[str, str]]) -> Figure:
    """Difference against the mean of translated and true value, one dot per window, with bias and limits of agreement.

    A panel for each pair (metric, lead) of ``quantities``. The tables are those of ``interval_differences``, for one
    estimate, and of ``limits_of_agreement`` (:mod:`p2es_lib.evaluation.metrics.intervals`).
    """
    if not quantities:
        raise InputError("plot_bland_altman: no quantity")
    fig, axes = style.page_panels(len(quantities), 4, row_height=1.75, rest=0.2)
    for ax, (metric, lead) in zip(axes, quantities, strict=True):
        rows = differences[(differences["metric"] == metric) & (differences["lead"] == lead)].dropna(subset=["value"])
        row = limits[(limits["metric"] == metric) & (limits["lead"] == lead)].iloc[0]
        middle = (rows["true"] + rows["measured"]) / 2
        ax.plot(middle, rows["value"], "o", ms=1.6, mew=0, alpha=0.5, color=COLOURS["grey"])
        ax.axhline(0, lw=0.5, color=TRUTH)
        for name, dashes in (("bias", "-"), ("low", (0, (4, 2))), ("high", (0, (4, 2)))):
            ax.axhline(row[name], lw=1.0, ls=dashes, color=ESTIMATE)
        quantity = QUANTITIES[metric]
        name = quantity.label.partition(",")[0]  # a panel is narrow; what exactly is measured stands in the table
        ax.set_title(name if lead == "all" else f"{name}, {lead}", fontsize=7.5)
        ax.set_xlabel(f"Mean ({quantity.unit})")
        ax.xaxis.set_major_locator(MaxNLocator(3))
        ax.yaxis.set_major_locator(MaxNLocator(5))
        shown = np.nanpercentile(np.abs(rows["value"]), 99) if len(rows) else 1.0
        ax.set_ylim(-1.3 * shown, 1.3 * shown)
    fig.supylabel("Translated minus true", fontsize=7.5)
    return fig


@styled
def plot_uncertainty(curves: Mapping[str, pd.DataFrame], risks: Mapping[str, pd.DataFrame]) -> Figure:
    """Left: coverage of the samples' bands over their level. Right: error of what is kept when doubtful windows are
    refused. By method, of ``uncertainty.calibration_curve`` and ``abstention.risk_coverage`` in ``evaluation.metrics``.
    """
    colours = method_colours([*curves, *risks])
    fig, (left, right) = style.page_subplots(2.6, 1, 2)
    left.plot([0, 1], [0, 1], lw=0.8, ls=style.DASHED, color=COLOURS["grey"])
    for method, curve in curves.items():
        rows = curve[(curve["attainable"] - curve["level"]).abs() < 1e-9]  # beyond, K samples have no such band
        left.fill_between(rows["level"], rows["lower"], rows["upper"], color=colours[method], alpha=0.25, lw=0)
        left.plot(rows["level"], rows["coverage"], "o-", ms=2.5, color=colours[method])
    left.set(xlabel="Level of the band", ylabel="Share of time that the truth is in it", xlim=(0, 1), ylim=(0, 1))
    left.set_aspect("equal")
    grey = {"xycoords": "axes fraction", "fontsize": 7, "color": COLOURS["grey"]}
    left.annotate("too sure of itself", (0.97, 0.05), ha="right", **grey)
    left.annotate("too timid", (0.03, 0.93), **grey)
    for method, risk in risks.items():
        right.fill_between(100 * risk["kept"], risk["lower"], risk["upper"], color=colours[method], alpha=0.25, lw=0)
        right.plot(100 * risk["kept"], risk["risk"], color=colours[method])
        right.plot(100 * risk["kept"], risk["oracle"], lw=0.8, ls=style.DOTTED, color=colours[method])
    right.set(xlabel="Windows kept (%), those of least spread", ylabel="RMSE of their mean (mV)")
    right.set(xlim=(0, 100), ylim=(0, None))
    known = {"if the errors themselves were known": {"color": TRUTH, "lw": 0.8, "ls": style.DOTTED}}
    style.legend_outside(fig, colours | known)
    return style.lettered(fig, [left, right])


@styled
def plot_diagnostic(table: pd.DataFrame) -> Figure:
    """Area under the ROC curve by diagnosis: classifiers on true ECG, translated ECG, and the PPG alone.

    The table is that of :func:`p2es_lib.evaluation.metrics.diagnostic.diagnostic_table`.
    """
    if table.empty:
        raise InputError("plot_diagnostic: the table is empty")
    pairs = table.groupby(["fit_on", "tried_on"], sort=False)
    labels = list(dict.fromkeys(table["label"]))
    fig, ax = style.page_subplots(0.3 + (0.12 * pairs.ngroups + 0.12) * len(labels) + 0.5)
    for (pair, rows), offset, colour in zip(pairs, style.side_by_side(pairs.ngroups, 0.34), CYCLE):
        y = [labels.index(label) + offset for label in rows["label"]]
        name = pair[0] if pair[0] == pair[1] else f"learnt on {pair[0]}, tried on {pair[1]}"
        style.dots_with_intervals(ax, rows, y, colour, name)
    ax.axvline(0.5, lw=0.7, ls=style.DASHED, color=COLOURS["grey"])
    style.name_rows(ax, [label_words(label.rpartition(": ")[2]) for label in labels], 0.55)
    ax.set(xlabel="Area under the ROC curve (95 % interval over subjects)",
           xlim=(min(0.2, table["lower"].min() - 0.02), 1.02))  # fmt: skip
    for y in range(1, len(labels)):
        ax.axhline(y - 0.5, color="#DDDDDD", lw=0.5)
    ax.tick_params(axis="y", length=0)
    fig.legend(loc="outside upper center", ncols=3)
    return fig


@styled
def plot_groups(tables: Mapping[str, pd.DataFrame], metrics: Sequence[str]) -> Figure:
    """A metric by group of people or windows: a row per way of grouping, a column per metric, a colour per method.

    ``tables``: name of the grouping to a table with columns group, method, metric, value, lower, upper, n_subjects.
    """
    colours = method_colours(method for table in tables.values() for method in table["method"])
    heights = [table["group"].nunique() for table in tables.values()]
    height, grid = 0.24 * sum(heights) + 0.5 * len(tables) + 0.4, (len(tables), len(metrics))
    fig, axes = style.page_subplots(height, *grid, squeeze=False, height_ratios=heights, sharex="col")
    for row, (name, table) in zip(axes, tables.items(), strict=True):
        people = table.groupby("group", sort=False)["n_subjects"].max()
        names = [f"{group} ({n:g})" for group, n in people.items()]
        for ax, metric in zip(row, metrics, strict=True):
            for (method, colour), offset in zip(colours.items(), style.side_by_side(len(colours), 0.25), strict=True):
                own = table[(table["metric"] == metric) & (table["method"] == method)]
                y = people.index.get_indexer(own["group"]) + offset
                ax.hlines(y, own["lower"], own["upper"], lw=1.0, color=colour)
                ax.plot(own["value"], y, "o", ms=3, mew=0, color=colour)
            style.name_rows(ax, names if ax is row[0] else [""] * len(names), 0.5)
            ax.tick_params(axis="y", length=0)
            style.lines_behind(ax, "x")
        row[0].set_title(name, fontsize=7.5)
    for ax, metric in zip(axes[-1], metrics, strict=True):
        ax.set_xlabel(style.axis_label(METRICS[metric]))
        ax.xaxis.set_major_locator(MaxNLocator(5))
    style.legend_outside(fig, colours, marker="o", ms=3)
    return fig


@styled
def plot_noise(table: pd.DataFrame, kinds: Mapping[str, str]) -> Figure:
    """R-peak F1 and error against the signal-to-noise ratio of the PPG, a column per kind of disturbance.

    ``table`` has the columns disturbance, snr_db, method, windows ("all windows", or those that pass a gate), rmse_lag
    and r_peak_f1_lag; ``kinds`` names the disturbances to draw.
    """
    colours, gates = method_colours(table["method"]), list(dict.fromkeys(table["windows"]))
    dashes = dict(zip(gates, ("-", (0, (3, 1.5)))))
    fig, axes = style.page_subplots(3.1, 2, len(kinds), sharex=True, sharey="row", squeeze=False)
    for column, (kind, name) in zip(axes.T, kinds.items(), strict=True):
        of_kind = table[table["disturbance"] == kind]
        for ax, metric in zip(column, ("r_peak_f1_lag", "rmse_lag"), strict=True):
            for method, gate in product(colours, gates):
                rows = of_kind[(of_kind["method"] == method) & (of_kind["windows"] == gate)]
                ax.plot(rows["snr_db"], rows[metric], "o", ls=dashes[gate], ms=2.2, color=colours[method])
            style.lines_behind(ax, "y")
        column[0].set_title(name, fontsize=7.5)
        column[1].set(xlabel="SNR (dB)", xticks=sorted(table["snr_db"].unique()))
    axes[0, 0].set_ylabel("R-peak F1, 50 ms")
    axes[1, 0].set_ylabel("RMSE after lag (mV)")
    style.legend_outside(fig, colours | {gate: {"color": TRUTH, "ls": dash} for gate, dash in dashes.items()}, ncols=4)
    return fig


@styled
def plot_frontier(table: pd.DataFrame, quality: str, *, budgets_ms: Mapping[str, float] | None = None) -> Figure:
    """Quality against the time of a translation, one dot per method and setting.

    ``table`` has the columns label, family (a colour and a marker; dots of one family are joined and labelled), ms and
    the metric ``quality``, which is drawn upwards; ``budgets_ms`` are times to mark, by name.
    """
    colours = method_colours(table["family"])
    fig, ax = style.page_subplots(2.8 + 0.16 * (len(colours) // 4))
    for (family, rows), marker in zip(table.groupby("family", sort=False), cycle(MARKERS)):
        rows = rows.sort_values("ms")
        look = {"color": colours[family], "marker": marker, "lw": 0.9, "ms": 4, "zorder": 4}
        ax.plot(rows["ms"], rows[quality], "-", label=family.partition(" (")[0], **look)
        if len(rows) > 1:
            _label_beneath(ax, rows, quality, float(np.ptp(table[quality])), colours[family])
    fig.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=4)
    for name, milliseconds in (budgets_ms or {}).items():
        ax.axvline(milliseconds, lw=0.8, ls=style.DASHED, color=SPREAD)
        ax.annotate(name, (milliseconds, 1), (2, -8), ("data", "axes fraction"), "offset points", fontsize=6.5,
                    color=COLOURS["grey"])  # fmt: skip
    ax.set_xscale("log")
    style.round_numbers(ax.xaxis)
    ax.margins(x=0.08, y=0.12)
    ax.set(xlabel="Milliseconds for 10 s of signal, 12 leads, batch 1", ylabel=style.axis_label(METRICS[quality]))
    style.lines_behind(ax, "both")
    return fig


def _label_beneath(ax: Axes, rows: pd.DataFrame, quality: str, height: float, colour: str) -> None:
    """Names of the dots of a falling line: to the lower left where it is steep, else beneath, where it leaves room."""
    drops = np.abs(np.diff(rows[quality].to_numpy()))
    steep = np.maximum(np.append(drops, 0.0), np.append(0.0, drops)) > 0.05 * height
    look = {"fontsize": 6.5, "va": "top", "path_effects": [withStroke(linewidth=2, foreground="white")]}
    for label, ms, value, is_steep in zip(rows["label"], rows["ms"], rows[quality], steep):
        offset, side = ((-3, -2), "right") if is_steep else ((0, -4), "center")
        ax.annotate(label, (ms, value), offset, "data", "offset points", ha=side, color=colour, **look)
