"""The embedding that GroupFinder learned, and the lead affinity matrices of its groups."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import LEADS
from p2es_lib.plots import style
from p2es_lib.plots.style import COLOURS, CYCLE, PAGE_WIDTH, SEX_COLOURS, SEX_MARKERS, SEX_NAMES, styled


def _name_colours(ax: Axes, colours: dict[str, str], markers: dict[str, str] | None = None) -> None:
    """A legend that fills an axes of its own; ``markers`` by name, else dots."""
    ax.set_axis_off()
    marker = (markers or {}).get
    handles = [
        Line2D([], [], marker=marker(name, "o"), lw=0, ms=3.5, color=colour, label=name)
        for name, colour in colours.items()
    ]
    ax.legend(handles=handles, loc="upper center", ncols=3, handletextpad=0.1, columnspacing=0.8, borderaxespad=0)


@styled
def plot_embedding(xy, groups, age, sex, *, group_labels: Sequence[str] | None = None) -> Figure:
    """Embedding of windows in two dimensions, coloured by group, by age and by sex.

    Parameters
    ----------
    xy : array (N, 2)
        Any projection of the embedding; its axes have no meaning and are not drawn.
    groups, age, sex : array (N,)
        int; years, NaN where not known; ``"F"``, ``"M"`` or ``""``.
    group_labels : sequence of str, optional
        Default: "group 1" and so on.
    """
    xy, groups, age = np.asarray(xy, dtype=float), np.asarray(groups, dtype=int), np.asarray(age, dtype=float)
    sex = np.asarray(sex, dtype=str)
    if xy.ndim != 2 or xy.shape[1] != 2 or not len(xy) == len(groups) == len(age) == len(sex):
        shapes = f"xy {xy.shape}, groups {groups.shape}, age {age.shape}, sex {sex.shape}"
        raise InputError(f"{shapes}: expected (N, 2) and (N,)")
    labels = group_labels or [f"group {g + 1}" for g in range(groups.max() + 1)]
    n_legend_rows = -(-len(labels) // 3)
    fig = style.page_figure(2.75 + 0.14 * n_legend_rows)
    axes, below = fig.subplots(2, 3, height_ratios=[2.35, 0.3 + 0.14 * n_legend_rows])
    # Many points: drawn in an order that hides no class behind another, and as pixels within the PDF.
    order = np.random.default_rng(0).permutation(len(xy))
    dots = {"s": float(np.clip(3000 / len(xy), 1.5, 12)), "lw": 0, "rasterized": True}
    colours = {label: CYCLE[g % len(CYCLE)] for g, label in enumerate(labels)}
    axes[0].scatter(*xy[order].T, color=np.array(list(colours.values()))[groups[order]], **dots)
    _name_colours(below[0], colours)
    _draw_ages(axes[1], below[1], xy[order], age[order], dots)
    # A shape for each, too: grey print and some eyes know no colours. In turns, so that none hides the other.
    for part in np.array_split(order, 20):
        for label, marker in SEX_MARKERS.items():
            axes[2].scatter(*xy[part[sex[part] == label]].T, color=SEX_COLOURS[label], marker=marker, **dots)
    shown = [s for s in SEX_NAMES if (sex == s).any()]
    of_name = [{SEX_NAMES[s]: looks[s] for s in shown} for looks in (SEX_COLOURS, SEX_MARKERS)]
    _name_colours(below[2], *of_name)
    for ax, title in zip(axes, ("Groups", "Age", "Sex"), strict=True):
        ax.set(xticks=[], yticks=[], title=title)
        ax.spines[:].set_visible(False)
        ax.set_aspect("equal", adjustable="datalim")
    style.letter_panels(axes)
    return fig


def _draw_ages(ax: Axes, below: Axes, xy: np.ndarray, age: np.ndarray, dots: dict) -> None:
    """Points coloured by age, with a colour bar below."""
    known = np.isfinite(age)
    ax.scatter(*xy[~known].T, color=COLOURS["grey"], alpha=0.5, **dots)
    if not known.any():
        return _name_colours(below, {"not known": COLOURS["grey"]})
    below.set_axis_off()
    points = ax.scatter(*xy[known].T, c=age[known], cmap="viridis", **dots)
    bar = ax.figure.colorbar(points, cax=below.inset_axes((0.1, 0.75, 0.8, 0.18)), orientation="horizontal")
    bar.set_label("years" if known.all() else "years (grey: not known)", labelpad=1)
    bar.outline.set_visible(False)


def _draw_matrix(ax: Axes, matrix: np.ndarray, title: str, cmap: str, norm: Normalize):
    """Off-diagonal weights as colours; the diagonal, many times larger, as a range in the title."""
    hidden = np.where(np.eye(12, dtype=bool), np.nan, matrix)
    ax.set_facecolor(COLOURS["grey"])
    image = ax.imshow(hidden, cmap=cmap, norm=norm, interpolation="nearest")
    ax.set_title(title, fontsize=7, pad=3, linespacing=1.1)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    return image


def _mark_negative(ax: Axes, differences: np.ndarray, limit: float) -> None:
    """A dash in cells clearly below zero: in grey print both ends of a diverging scale are the same dark."""
    rows, columns = np.nonzero(differences < -0.12 * limit)
    ink = ["white" if value < -0.6 * limit else "black" for value in differences[rows, columns]]
    ax.scatter(columns, rows, marker="_", s=5, lw=0.5, c=ink)


def _self_weights(matrix: np.ndarray) -> str:
    low, high = np.diag(matrix).min(), np.diag(matrix).max()
    return f"diagonal {low:.2f}" if f"{low:.2f}" == f"{high:.2f}" else f"diagonal {low:.2f} to {high:.2f}"


@styled
def plot_affinity(matrices, group_labels: Sequence[str] | None = None, *, difference_to_mean=True) -> Figure:
    """Lead affinity matrices, one panel per group.

    Parameters
    ----------
    matrices : array (G, 12, 12)
        Rows sum to 1: row = lead that receives, column = lead that gives.
    group_labels : sequence of str, optional
        Default: "group 1" and so on.
    difference_to_mean : bool
        Draw the mean over groups first, and each group's difference to it on one diverging scale; else the matrices
        themselves on one scale. With one group there is nothing to differ from.
    """
    matrices = np.asarray(matrices, dtype=float)
    if matrices.ndim != 3 or matrices.shape[1:] != (12, 12) or not len(matrices):
        raise InputError(f"affinity matrices have shape {matrices.shape}; expected (G, 12, 12) with at least one group")
    n_groups = len(matrices)
    labels = list(group_labels or [f"group {g + 1}" for g in range(n_groups)])
    off_diagonal = ~np.eye(12, dtype=bool)
    as_difference = difference_to_mean and n_groups > 1
    mean = matrices.mean(axis=0)
    plain = [mean] if as_difference else list(matrices)
    low, high = min(m[off_diagonal].min() for m in plain), max(m[off_diagonal].max() for m in plain)
    # From the smallest weight: what training changed is small beside where it began. Matrices all alike begin at zero.
    weights = Normalize(low if high - low > 0.05 * abs(high) else min(0.0, low), high)
    limit = max(float(np.abs((matrices - mean)[:, off_diagonal]).max()), 1e-6)

    panels = [(mean, "mean of groups", mean)] if as_difference else []
    panels += [(m - mean if as_difference else m, label, m) for m, label in zip(matrices, labels, strict=True)]
    n_columns = {1: 1, 2: 2, 4: 4, 7: 4, 8: 4}.get(len(panels), 3)
    fig, axes, bar_axes = _affinity_layout(len(panels), n_columns, n_bars=2 if as_difference else 1)
    for k, (ax, (shown, label, matrix)) in enumerate(zip(axes, panels, strict=True)):
        differs = as_difference and k > 0
        norm, cmap = (Normalize(-limit, limit), "RdBu_r") if differs else (weights, "YlGnBu")
        image = _draw_matrix(ax, shown, f"{label}\n{_self_weights(matrix)}", cmap, norm)
        if differs:
            _mark_negative(ax, np.where(off_diagonal, shown, 0.0), limit)
        if k == 0:
            _draw_bar(fig, image, bar_axes[0], "weight, mean of groups" if as_difference else "weight")
        if k % n_columns == 0:
            ax.set_yticks(range(12), LEADS)
            ax.set_ylabel("to lead")
        if k + n_columns >= len(panels):
            ax.set_xticks(range(12), LEADS, rotation=90)
            ax.set_xlabel("from lead")
        ax.tick_params(length=0, pad=1.5, labelsize=6.5)
    if as_difference:
        _draw_bar(fig, image, bar_axes[1], "weight minus mean of groups (dash: below the mean)")
    return fig


def _affinity_layout(n_panels: int, n_columns: int, n_bars: int) -> tuple[Figure, list[Axes], list[Axes]]:
    """Square panels of one size and room for the colour bars below, in inches; only outer panels have labels."""
    n_rows = -(-n_panels // n_columns)
    left, right, gap, above, under, bars = 0.48, 0.12, 0.14, 0.34, 0.5, 0.55
    width = PAGE_WIDTH if n_columns > 2 else 3.5 if n_columns == 1 else 5.0
    side = (width - left - right - gap * (n_columns - 1)) / n_columns
    height = n_rows * (side + above) + under + bars
    fig = style.new_figure(width, height, layout=None)

    def place(x: float, y: float, w: float, h: float) -> Axes:
        return fig.add_axes((x / width, y / height, w / width, h / height))

    axes = [place(left + (k % n_columns) * (side + gap), height - (k // n_columns + 1) * (side + above), side, side)
            for k in range(n_panels)]  # fmt: skip
    bar_width = min(2.6, (width - left - right - 0.4) / n_bars)
    start = left + (width - left - right - n_bars * bar_width - (n_bars - 1) * 0.4) / 2
    return fig, axes, [place(start + k * (bar_width + 0.4), 0.36, bar_width, 0.08) for k in range(n_bars)]


def _draw_bar(fig: Figure, image, ax: Axes, label: str) -> None:
    bar = fig.colorbar(image, cax=ax, orientation="horizontal", ticks=MaxNLocator(5))
    bar.set_label(label, labelpad=1)
    bar.outline.set_visible(False)
