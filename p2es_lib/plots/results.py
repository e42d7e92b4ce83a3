"""Training, results per lead and the parts of their error, and methods side by side: what a comparison shows."""

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import LEADS, lead_rows
from p2es_lib.evaluation.metrics import METRICS, Metric
from p2es_lib.evaluation.metrics.summary import beyond_chance
from p2es_lib.plots import style
from p2es_lib.plots.style import COLOURS, CYCLE, ESTIMATE, MARKERS, SPREAD, TRUTH, Axes, Figure, page_subplots, styled

#: Parts of the squared error, from the bottom of the bar upwards.
PARTS = {"mse_timing": "timing (constant lag)", "mse_amplitude": "amplitude", "mse_morphology": "morphology"}
#: Records of which a page shows the scores legibly.
MOST_RECORDS = 25
_LINES = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (4, 1, 1, 1)))
_REFERENCE = "p2es"  # the full model, among variants
_REACH = ["difference", "lower", "upper", "seed_min", "seed_max"]


def _check_columns(name: str, table: pd.DataFrame, needed: set[str]) -> None:
    if missing := needed - set(table.columns):
        raise InputError(f"{name} lacks the columns {sorted(missing)}; it has {', '.join(table.columns)}")


@styled
def plot_training(history: pd.DataFrame | Mapping[int, pd.DataFrame]) -> Figure:
    """Training loss, validation RMSE and learning rate over steps.

    A history, or one for each seed, has the columns step, loss, validation_rmse (mV) and learning_rate, which may be
    empty in a row.
    """
    import seaborn as sns  # of the extra "companion"

    if isinstance(history, Mapping):
        history = pd.concat([frame.assign(seed=seed) for seed, frame in history.items()], ignore_index=True)
    _check_columns("training history", history, {"step", "loss", "validation_rmse", "learning_rate"})
    exponent = int(np.floor(np.log10(max(1.05 * history["learning_rate"].max(), 1e-12))))
    history = history.assign(seed=history.get("seed", 0), learning_rate=history["learning_rate"] / 10.0**exponent)
    seeds = sorted(history["seed"].unique())
    # Seeds are repetitions of one thing: shades of one colour.
    shades = sns.color_palette("blend:#003A5C,#7CC0EC", len(seeds)) if len(seeds) > 1 else [ESTIMATE]
    fig, axes = page_subplots(2.3, 1, 3, width_ratios=[1.15, 1.3, 0.8])
    line = {"hue": "seed", "hue_order": seeds, "palette": dict(zip(seeds, shades)), "legend": False, "lw": 1.0}
    for ax, column, label, look in (
        (axes[0], "loss", "Training loss", {}),
        (axes[1], "validation_rmse", "Validation RMSE (mV)", {"marker": "o", "markersize": 3, "markeredgewidth": 0}),
        (axes[2], "learning_rate", f"Learning rate ($10^{{{exponent}}}$)", {}),
    ):
        rows = history.dropna(subset=[column])
        sns.lineplot(rows, x="step", y=column, estimator=None, errorbar=None, ax=ax, **line, **look)
        ax.set(xlabel="Step", ylabel=label, xlim=(0, None))
        ax.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 3, 5, 10]))
    if (history["loss"].dropna() > 0).all():
        axes[0].set_yscale("log")
        style.round_numbers(axes[0].yaxis)
    axes[2].set_ylim(bottom=0)
    low, high = history["validation_rmse"].min(), history["validation_rmse"].max()
    pad = 0.12 * max(high - low, 0.02 * high)
    axes[1].set_ylim(max(0.0, low - pad), high + 1.5 * pad)
    if len(seeds) > 1:
        handles = [Line2D([], [], color=shade, label=f"seed {seed}") for seed, shade in zip(seeds, shades)]
        axes[0].legend(handles=handles, loc="upper right")
    return style.lettered(fig, axes)


@styled
def plot_results(results: pd.DataFrame, *, metrics: Sequence[str] = ("rmse", "pearson"),
                 methods: Sequence[str] | None = None) -> Figure:  # fmt: skip
    """Metrics, a row each, per lead for several methods side by side, dots with intervals; left, over all leads.

    ``results`` has the columns method, lead (one of the twelve, or ``all``; others are not drawn), metric, value, and
    lower, upper where there are intervals; ``methods`` says which to draw and in what order, by default all.
    An :class:`InputError` for a metric or method that the table does not hold.
    """
    _check_columns("results table", results, {"method", "lead", "metric", "value"})
    methods = list(dict.fromkeys(results["method"] if methods is None else methods))
    for column, wanted in (("metric", metrics), ("method", methods)):
        unknown = [name for name in wanted if name not in set(results[column])]
        if unknown or not wanted:
            held = ", ".join(map(str, results[column].unique()))
            raise InputError(f"results table holds no {column} {unknown}; it holds {held}")
    positions = {"all": 0.0} | {lead: 1.5 + k for k, lead in enumerate(LEADS)}
    drawn = results[results["metric"].isin(metrics) & results["lead"].isin(positions)]
    present = {lead: x for lead, x in positions.items() if (drawn["lead"] == lead).any()}
    colours = style.method_colours(methods)
    fig, axes = page_subplots(1.75 * len(metrics) + 0.45, len(metrics), 1, sharex=True, squeeze=False)
    for ax, metric in zip(axes[:, 0], metrics, strict=True):
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
        for lead in list(present)[1:]:
            ax.axvline(present[lead] - (0.75 if lead == "I" else 0.5), color="#DDDDDD", lw=0.5, zorder=0)
    ax.set_xticks(list(present.values()), [lead.replace("all", "all leads") for lead in present])
    ax.set(xlabel="Lead", xlim=(-0.6, max(present.values()) + 0.6))
    style.legend_outside(fig, colours, ncols=min(len(methods), 3), marker="o", ms=3.5, lw=1.1)
    return style.lettered(fig, axes[:, 0])


@styled
def plot_decomposition(results: pd.DataFrame) -> Figure:
    """Mean squared error of each method over all leads as stacked parts: timing, amplitude, morphology.

    ``results`` has the columns method, lead, metric, value; metrics ``mse_timing``, ``mse_amplitude`` and
    ``mse_morphology`` (mV²) add up to the mean squared error, whose root is written beside the bar.
    """
    _check_columns("results table", results, {"method", "lead", "metric", "value"})
    rows = results[(results["lead"] == "all") & results["metric"].isin(PARTS)]
    table = rows.pivot_table(index="method", columns="metric", values="value", sort=False)
    if lacking := [part for part in PARTS if part not in table]:
        raise InputError(f"results table holds no {', '.join(lacking)} for all leads")
    fig, ax = page_subplots(0.85 + 0.3 * len(table))
    y, right = np.arange(len(table)), np.zeros(len(table))
    for (part, name), colour in zip(PARTS.items(), ("vermillion", "orange", "sky"), strict=True):
        ax.barh(y, table[part], left=right, height=0.62, color=COLOURS[colour], label=name)
        right = right + np.maximum(table[part].to_numpy(), 0)  # timing can be slightly negative: left of zero
    for row, total in enumerate(table[list(PARTS)].sum(axis=1)):
        ax.text(right[row] + 0.01 * right.max(), row, f"RMSE {np.sqrt(total):.3f} mV", va="center", fontsize=7)
    ax.set_yticks(y, table.index)
    ax.invert_yaxis()
    ax.set(xlabel="Mean squared error (mV²)", xlim=(min(1.1 * table.to_numpy().min(), 0.0), 1.2 * right.max()))
    ax.tick_params(axis="y", length=0)
    fig.legend(loc="outside upper center", ncols=3)
    return fig


@styled
def plot_validation_curves(histories: Mapping[str, pd.DataFrame], costs: Mapping[str, Mapping]) -> Figure:
    """Validation RMSE over steps and, beside it, over minutes of training.

    By label: ``histories`` with the columns step and validation_rmse, and ``costs`` with ``seconds`` and ``steps``.
    """
    if not histories:
        raise InputError("plot_validation_curves: no training")
    fig, axes = page_subplots(2.5, 1, 2, sharey=True)
    looks: dict[str, dict] = {}
    for label, colour in style.method_colours(histories).items():
        rows = histories[label].dropna(subset=["validation_rmse"])
        minutes_per_step = costs[label]["seconds"] / 60 / costs[label]["steps"]
        again = sum(look["color"] == colour for look in looks.values())  # more methods than colours
        looks[label] = {"color": colour, "ls": _LINES[again % len(_LINES)], "marker": "o", "ms": 2.5, "mew": 0}
        for ax, unit in zip(axes, (1, minutes_per_step)):
            ax.plot(rows["step"] * unit, rows["validation_rmse"], **looks[label])
    axes[0].set_ylabel("Validation RMSE (mV)")
    for ax, label in zip(axes, ("Step", "Minutes of training"), strict=True):
        # Logarithmic: half of what is learned is learned in the first hundredth of the time.
        ax.set(xlabel=label, xscale="log")
        ax.xaxis.set_major_formatter("{x:g}")
        style.lines_behind(ax, "y")
    style.legend_outside(fig, looks, ncols=min(4, len(looks)))
    return style.lettered(fig, axes)


@styled
def plot_one_window(
    truth: np.ndarray, estimates: Mapping[str, np.ndarray], sampling_rate: float, *, leads: Sequence[str], seconds=3.0
) -> Figure:
    """The middle of one window as each method translates it: a row per method, a column per lead, behind the true ECG.

    ``truth`` is (12, T), ``estimates`` are samples (K, 12, T) by method, in mV; one is drawn, and of several the band.
    """
    part, t = style.middle_of(truth.shape[-1], sampling_rate, seconds)
    t = t - t[0]
    grid = {"sharex": True, "sharey": "col", "squeeze": False}
    fig, axes = page_subplots(0.72 * len(estimates) + 0.6, len(estimates), len(leads), **grid)
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
    spread = {"5 to 95 % of the samples": {"color": SPREAD, "lw": 5}}
    style.legend_outside(fig, {"true": TRUTH, "translated: one sample": ESTIMATE} | spread)
    return fig


@styled
def plot_differences(table: pd.DataFrame, metrics: Sequence[str], groups: Mapping[str, str]) -> Figure:
    """Differences to the full model with their intervals: a row per variant, a column per metric.

    Filled: the interval excludes zero after the correction for many comparisons. Green lies on the side where the
    variant is better than the full model, red where it is worse. With several trainings, ticks mark the least and the
    largest difference of a single one. A row far beyond all others is an arrow at the edge, with its value.

    The table is that of :func:`p2es_lib.experiments.results.difference_table`; ``groups`` gives a heading to each value
    of its column ``about``, in the order of the rows.
    """
    shown = table[table["about"].isin(groups) & table["metric"].isin(metrics)]
    if shown.empty:
        raise InputError("plot_differences: the table holds none of these metrics and groups")
    names: list[str] = []
    headings, position = [], {}
    for about, heading in groups.items():
        if methods := list(dict.fromkeys(shown.loc[shown["about"] == about, "method"])):
            headings.append(len(names))
            position |= {method: y for y, method in enumerate(methods, len(names) + 1)}
            names += [heading, *methods]
    fig, axes = page_subplots(0.16 * len(names) + 0.8, 1, len(metrics), sharey=True, squeeze=False)
    for ax, metric in zip(axes[0], metrics, strict=True):
        _draw_differences(ax, shown[shown["metric"] == metric], position, METRICS[metric])
    style.name_rows(axes[0, 0], names)
    for y in headings:
        axes[0, 0].get_yticklabels()[y].set_fontweight("bold")
    words = "Difference to P2Es, 95 % interval; filled: not explained by chance (orange: worse, green: better)"
    if (shown["seeds"] > 1).any():
        words += "\nTicks: extremes of single trainings; rows without: one training"
    fig.supxlabel(words, fontsize=7.5)
    return fig


def _draw_differences(ax: Axes, rows: pd.DataFrame, position: Mapping[str, int], metric: Metric) -> None:
    sizes, n_outside = rows[_REACH].abs().max(axis=1).sort_values(ascending=False), 0
    while n_outside < len(sizes) // 10 and sizes.iloc[n_outside] > 2 * sizes.iloc[n_outside + 1]:
        n_outside += 1  # rows too far from the others to share an axis with them, at most one in ten
    outside, end = sizes.index[:n_outside], 1.08 * sizes.iloc[n_outside]
    clear = beyond_chance(rows)
    for row in rows.itertuples():
        worse = (row.difference > 0) == (metric.better == "lower")
        colour = COLOURS["grey"] if not clear[row.Index] else COLOURS["vermillion"] if worse else COLOURS["green"]
        y = position[row.method]
        if row.Index in outside:  # it would press all others together
            sign, marker, side = (1, ">", "right") if row.difference > 0 else (-1, "<", "left")
            ax.plot(sign * end, y, marker, ms=4, color=colour, clip_on=False)
            ax.annotate(f"{row.difference:+.2g}", (sign * end, y), (-4 * sign, 0), "data", "offset points",
                        va="center", ha=side, fontsize=6.5)  # fmt: skip
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

    ``table`` has the columns n_steps, metric, value, lower, upper; with several models also variant and method (the
    name shown). ``metrics`` gives each metric its panel title: an :class:`InputError` for one not in the table.
    """
    table = pd.DataFrame({"variant": _REFERENCE, "method": "P2Es"}, table.index).assign(**table)
    several = table["variant"].nunique() > 1
    fig, axes = page_subplots(2.4 if several else 2.0, 1, len(metrics), squeeze=False)
    for ax, (metric, title) in zip(axes[0], metrics.items(), strict=True):
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
        handles = {line.get_label(): line for ax in axes[0] for line in ax.lines}
        fig.legend(handles.values(), handles, loc="outside lower center", ncols=len(handles))
    return style.lettered(fig, axes[0])


@styled
def plot_error_by_time(table: pd.DataFrame, labels: Mapping[str, str]) -> Figure:
    """Error of the estimate of x_0 against the time of the forward process; right, others against the full model.

    The table is that of :func:`p2es_lib.evaluation.inspection.error_by_time`; ``labels`` names the variants to draw,
    in order, the full model, ``p2es``, among them.
    """
    if _REFERENCE not in labels:
        raise InputError(f"plot_error_by_time: {_REFERENCE} is not among the variants to draw ({', '.join(labels)})")
    others = [name for name in labels if name != _REFERENCE]
    fig, (left, right) = page_subplots(2.7 + 0.16 * -(-len(others) // 2), 1, 2, width_ratios=[0.8, 1.2])
    curves = {key: rows.sort_values("t") for key, rows in table.groupby(["variant", "stage"])}
    wanted = [(_REFERENCE, "stage 1"), *((name, "both stages") for name in labels)]
    if missing := [f"{name}, {stage}" for name, stage in wanted if (name, stage) not in curves]:
        raise InputError(f"plot_error_by_time: the table holds no rows of {'; '.join(missing)}")
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
    return style.lettered(fig, [left, right])


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
    shown = [name for name in titles if table[name].notna().any()]
    methods = list(dict.fromkeys(table["method"]))
    colours = (ESTIMATE, COLOURS["orange"], COLOURS["grey"])
    looks = {method: {"color": c, "marker": marker} for method, c, marker in zip(methods, colours, "osD")}
    first = table[table["method"] == methods[0]].sort_values("r_peak_f1_lag", kind="stable")
    records = list(first["record"][:MOST_RECORDS])
    fig, axes = page_subplots(0.9 + 0.2 * max(4, len(records)), 1, len(shown), sharey=True, squeeze=False)
    for ax, name in zip(axes[0], shown, strict=True):
        for offset, (method, look) in zip(np.linspace(-0.22, 0.22, len(methods)), looks.items()):
            rows = table[table["method"] == method].set_index("record").loc[records]
            y = np.arange(len(records)) + offset
            ax.hlines(y, rows[f"{name}_lower"], rows[f"{name}_upper"], color=look["color"], lw=0.9)
            ax.plot(rows[name], y, ls="", ms=3.2, mew=0, **look)
        ax.set_title(titles[name])
        style.lines_behind(ax, "x")
    style.name_rows(axes[0, 0], [record.partition("/")[2] or record for record in records])
    style.legend_outside(fig, looks, ncols=1, ms=3.5, mew=0, lw=1)
    return style.lettered(fig, axes[0])


@styled
def plot_regimes(
    truth: np.ndarray, drawn: Mapping[str, np.ndarray], shown: Mapping[str, Sequence[str]], sampling_rate: float, *,
    leads: Sequence[str], seconds: float = 3.0, n_lines: int = 6,
) -> Figure:  # fmt: skip
    """One person, a row per regime: samples, their mean and the true ECG of a few leads, on one scale.

    ``truth`` is (12, T), ``drawn`` samples (K, 12, T) by the name of the regime, mV; ``shown`` says which leads the
    reference holds: their panels carry a bar.
    """
    part, t = style.middle_of(truth.shape[-1], sampling_rate, seconds)
    t, n_samples = t - t[0], min(map(len, drawn.values()))
    n_lines, size = min(n_lines, n_samples), {"sharex": True, "sharey": "col", "squeeze": False}
    fig, axes = page_subplots(1.0 * len(drawn) + 0.75, len(drawn), len(leads), **size)
    for row, (name, samples) in zip(axes, drawn.items(), strict=True):
        for ax, lead, number in zip(row, leads, lead_rows(leads), strict=True):
            values = samples[:, number, part]
            ax.plot(t, values[:n_lines].T, lw=0.6, color=SPREAD)
            ax.plot(t, truth[number, part], lw=0.9, color=TRUTH)
            ax.plot(t, values.mean(axis=0), lw=0.9, color=ESTIMATE)
            ax.yaxis.set_major_locator(MaxNLocator(3))
            if lead in shown[name]:
                ax.spines["left"].set(color=COLOURS["orange"], linewidth=2.5)
        row[0].set_ylabel(name.replace(", ", ",\n"), fontweight="bold", fontsize=7)
    for ax, lead in zip(axes[0], leads, strict=True):
        ax.set_title(f"{lead} (mV)")
    for ax in axes[-1]:
        ax.set(xlabel="Time (s)", xlim=(0, t[-1]))
    fig.align_ylabels(axes[:, 0])
    looks = {"true": TRUTH, f"translated: {n_lines} samples": SPREAD, f"mean of {n_samples} samples": ESTIMATE}
    style.legend_outside(
        fig, looks | {"the reference shows this lead": {"color": COLOURS["orange"], "lw": 2.5}}, ncols=4
    )
    return fig


@styled
def plot_reference_leads(table: pd.DataFrame, metrics: Sequence[str] = ("rmse", "crps")) -> Figure:
    """Error against the number of leads that the reference shows; filled: same session, open: another one.

    The table is that of :func:`p2es_lib.experiments.reference_results.regime_table` with three of its methods;
    points of one that is not known for every number of leads are not joined.
    """
    _check_columns("table of references", table, {"method", "n_leads", "session", "metric", "value", "lower", "upper"})
    if missing := set(metrics) - set(table["metric"]):
        raise InputError(f"table of references holds no {', '.join(sorted(missing))}")
    methods = list(dict.fromkeys(table["method"]))
    colours = dict(zip(methods, (ESTIMATE, COLOURS["orange"], COLOURS["grey"])))
    places = {n: x for x, n in enumerate(sorted(table["n_leads"].unique()))}
    fig, axes = page_subplots(2.7, 1, len(metrics), squeeze=False)
    reach = style.side_by_side(2 * len(methods), 0.12)
    for ax, metric in zip(axes[0], metrics, strict=True):
        for number, method in enumerate(methods):
            rows = table[(table["method"] == method) & (table["metric"] == metric)]
            without, colour = rows[rows["session"] == ""], colours[method]
            joined = set(rows["n_leads"]) == set(places)
            start = reach[2 * number : 2 * number + 2].mean()  # without a reference there is no session
            for session, offset in (("other", reach[2 * number + 1]), ("same", reach[2 * number])):
                line = pd.concat([without, rows[rows["session"] == session]]).sort_values("n_leads")
                x = line["n_leads"].map(places) + np.where(line["session"] == "", start, offset)
                face, look = (colour, "-") if session == "same" else ("white", style.DASHED)
                ax.vlines(x, line["lower"], line["upper"], color=colour, lw=0.9)
                ax.plot(x, line["value"], lw=0.9, ls=look if joined else "", color=colour)
                ax.plot(x, line["value"], "o", ms=3.8, mec=colour, mfc=face, mew=0.9)
        ax.set_xticks(list(places.values()), [f"{n}" for n in places])
        ax.set(xlabel="Leads that the reference shows", ylabel=style.axis_label(METRICS[metric]), xlim=(-0.35, None))
        style.lines_behind(ax, "y")
    looks = {}
    for method, colour in colours.items():
        joined = set(table.loc[table["method"] == method, "n_leads"]) == set(places)
        common = {"color": colour, "marker": "o", "ms": 3.8, "mew": 0.9} | ({} if joined else {"ls": ""})
        looks[f"{method}, same session"] = common
        looks[f"{method}, another session"] = {"ls": style.DASHED} | common | {"mfc": "white"}
    style.legend_outside(fig, looks, ncols=3)
    return style.lettered(fig, axes[0])


@styled
def plot_methods_by_regime(table: pd.DataFrame, metrics: Sequence[str] = ("rmse", "crps")) -> Figure:
    """Errors of methods, a row per reference that they were given, with their intervals.

    The table is that of :func:`p2es_lib.experiments.reference_results.regime_table`.
    """
    _check_columns("table of references", table, {"method", "n_leads", "session", "metric", "value", "lower", "upper"})
    methods = list(dict.fromkeys(table["method"]))
    order = {"": 0, "same": 1, "other": 2}
    regimes = table.drop_duplicates(["n_leads", "session"])
    regimes = regimes.sort_values(
        ["session", "n_leads"], key=lambda column: column.map(order) if column.name == "session" else column
    )
    places = {(row.n_leads, row.session): number for number, row in enumerate(regimes.itertuples())}
    names = [f"{n} lead{'s' * (n > 1)}\n{session} session" if session else "no reference" for n, session in places]
    looks = {method: {"color": colour, "marker": marker, "ms": 3.8, "mew": 0}
             for method, colour, marker in zip(methods, cycle(CYCLE), cycle(MARKERS))}  # fmt: skip
    height = 0.9 + 0.11 * len(methods) * len(places)
    fig, axes = page_subplots(height, 1, len(metrics), squeeze=False, sharey=True)
    for ax, metric in zip(axes[0], metrics, strict=True):
        for offset, method in zip(style.side_by_side(len(methods), 0.36), methods, strict=True):
            rows = table[(table["method"] == method) & (table["metric"] == metric)]
            y = [places[key] + offset for key in zip(rows["n_leads"], rows["session"])]
            ax.hlines(y, rows["lower"], rows["upper"], color=looks[method]["color"], lw=1.0)
            ax.plot(rows["value"], y, ls="", **looks[method])
        style.name_rows(ax, names)
        ax.set(xlabel=style.axis_label(METRICS[metric]), xlim=(0, None))
        ax.tick_params(axis="y", length=0)
        style.lines_behind(ax, "x")
    style.legend_outside(fig, {method: {"ls": "", **look} for method, look in looks.items()}, ncols=2)
    return style.lettered(fig, axes[0])


@styled
def plot_changes(table: pd.DataFrame) -> Figure:
    """How well each change of the heart is told, by source: areas under the ROC curve with their intervals.

    The table is that of :func:`p2es_lib.experiments.changes.change_table`.
    """
    if table.empty:
        raise InputError("plot_changes: no change")
    changes, sources = (list(dict.fromkeys(table[name])) for name in ("change", "source"))
    looks = dict(zip(("true ECG", "PPG alone"), ((TRUTH, "s"), (COLOURS["grey"], "D"))))
    others = iter(((ESTIMATE, "o"), (COLOURS["orange"], "^"), (COLOURS["green"], "v")))
    looks = {source: looks.get(source) or next(others) for source in sources}
    fig, ax = page_subplots(0.55 + 0.55 * len(changes))
    for offset, (source, (colour, marker)) in zip(style.side_by_side(len(looks), 0.27), looks.items(), strict=True):
        rows = table[table["source"] == source]
        y = rows["change"].map({change: number for number, change in enumerate(changes)}).to_numpy(float) + offset
        ax.hlines(y, rows["lower"], rows["upper"], color=colour, lw=1.0)
        ax.plot(rows["auroc"], y, marker, ms=3.8, mew=0, color=colour)
    ax.axvline(0.5, color=TRUTH, lw=0.7, ls=style.DASHED)
    signs = table.drop_duplicates("change").set_index("change")["sign"]
    style.name_rows(ax, [f"{change[0].upper()}{change[1:]}\n{signs[change]}" for change in changes])
    ax.set(xlabel="Area under the ROC curve (dashed: chance)", xlim=(min(0.3, table["lower"].min() - 0.03), 1.02))
    ax.tick_params(axis="y", length=0)
    style.lines_behind(ax, "x")
    style.legend_outside(
        fig, {s: {"color": c, "marker": m, "ms": 3.8, "mew": 0} for s, (c, m) in looks.items()}, ncols=4
    )
    return fig


@styled
def plot_reference_by_time(table: pd.DataFrame, metrics: Sequence[str] = ("pearson", "pearson_lag")) -> Figure:
    """Agreement with real ECGs against the time since the reference, a row per regime, a line per method.

    The table is that of :func:`p2es_lib.experiments.reference_by_time.by_time_table`; another session stands at the
    right, apart. Without any row, an empty panel says so.
    """
    _check_columns("table by time", table, {"session", "regime", "n_leads", "since", "method", "metric", "value"})
    if table.empty:
        fig, ax = page_subplots(1.5)
        style.mark_empty(ax, "no window of these recordings has a reference")
        return fig
    table = table[(table["session"] == "other") | (table["since"] != "any")]
    table = table.assign(at=table["since"].where(table["session"] == "same", "other session"))
    places = {name: x for x, name in enumerate(table["at"].unique())}  # in the order of time
    colours, kinds = np.repeat([ESTIMATE, COLOURS["orange"]], 2), (style.DASHED, "-") * 2
    looks = {name: {"color": colour, "ls": kind, "marker": "o", "ms": 3.5}
             for name, colour, kind in zip(table["method"].unique(), colours, kinds)}  # fmt: skip
    regimes = list(table["regime"].unique())
    fig, axes = page_subplots(1.0 + 1.7 * len(regimes), len(regimes), len(metrics), squeeze=False, sharex=True)
    for row, regime in zip(axes, regimes, strict=True):
        for ax, metric in zip(row, metrics, strict=True):
            part = table[(table["regime"] == regime) & (table["metric"] == metric)]
            for (method, look), offset in zip(looks.items(), style.side_by_side(len(looks), 0.15)):
                for _, line in part[part["method"] == method].groupby("session"):
                    x = line["at"].map(places) + offset
                    ax.vlines(x, line["lower"], line["upper"], color=look["color"], lw=0.7)
                    ax.plot(x, line["value"], **look)
            n = int(part["n_leads"].max())
            ax.set(title=f"{n} lead{'s' * (n > 1)} in the reference", ylabel=style.axis_label(METRICS[metric]))
            ax.set_xticks(list(places.values()), list(places), rotation=30, ha="right")
            style.lines_behind(ax, "y")
    style.legend_outside(fig, looks, ncols=4)
    return style.lettered(fig, axes.ravel())
