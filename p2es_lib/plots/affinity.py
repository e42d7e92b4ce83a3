"""The embedding that GroupFinder learned, and the lead affinity matrices of its groups."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from p2es_lib.errors import InputError
from p2es_lib.leads import LEADS
from p2es_lib.plots.style import COLOURS, CYCLE, PAGE_WIDTH, SEX_COLOURS, SEX_NAMES, letter_panels, new_figure, styled


def _legend_below(ax: Axes, colours: dict[str, str], ncols: int) -> None:
    handles = [Line2D([], [], marker="o", lw=0, ms=3.5, color=colour, label=name) for name, colour in colours.items()]
    ax.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=ncols, handletextpad=0.1, columnspacing=0.8)


@styled
def plot_embedding(xy, groups, age, sex, *, group_labels: Sequence[str] | None = None) -> Figure:
    """Embedding of windows in two dimensions, coloured by group, by age and by sex.

    Parameters
    ----------
    xy : array (N, 2)
        Any projection of the embedding; its axes have no meaning and are not drawn.
    groups : int array (N,)
    age : array (N,)
        Years, NaN where not known.
    sex : array of str (N,)
        ``"F"``, ``"M"`` or ``""``.
    group_labels : sequence of str, optional
        Default: "group 1" and so on.
    """
    xy, groups, age = np.asarray(xy, dtype=float), np.asarray(groups, dtype=int), np.asarray(age, dtype=float)
    sex = np.asarray(sex, dtype=str)
    if xy.ndim != 2 or xy.shape[1] != 2 or not len(xy) == len(groups) == len(age) == len(sex):
        raise InputError(f"xy {xy.shape}, groups {groups.shape}, age {age.shape}, sex {sex.shape}: expected (N, 2) and (N,)")
    labels = group_labels or [f"group {g + 1}" for g in range(groups.max() + 1)]
    fig = new_figure(PAGE_WIDTH, 2.9)
    axes = fig.subplots(1, 3)
    # Many points: drawn in an order that hides no class behind another, and as pixels within the PDF.
    order = np.random.default_rng(0).permutation(len(xy))
    size = float(np.clip(3000 / len(xy), 1.5, 12))
    dots = {"s": size, "lw": 0, "rasterized": True}
    colours = {label: CYCLE[g % len(CYCLE)] for g, label in enumerate(labels)}
    group_colours = np.array(list(colours.values()))
    axes[0].scatter(*xy[order].T, color=group_colours[groups[order]], **dots)
    _legend_below(axes[0], colours, ncols=3)

    known = np.isfinite(age[order])
    axes[1].scatter(*xy[order][~known].T, color=COLOURS["grey"], alpha=0.5, **dots)
    if known.any():
        points = axes[1].scatter(*xy[order][known].T, c=age[order][known], cmap="viridis", **dots)
        bar = fig.colorbar(points, ax=axes[1], orientation="horizontal", pad=0.03, aspect=25, shrink=0.8)
        bar.set_label("Age (years)" if known.all() else "Age (years); grey: not known")
        bar.outline.set_visible(False)

    axes[2].scatter(*xy[order].T, color=[SEX_COLOURS.get(s, COLOURS["grey"]) for s in sex[order]], **dots)
    _legend_below(axes[2], {SEX_NAMES[s]: SEX_COLOURS[s] for s in SEX_NAMES if (sex == s).any()}, ncols=3)
    for ax, title in zip(axes, ("Groups", "Age", "Sex"), strict=True):
        ax.set(xticks=[], yticks=[], title=title)
        ax.spines[:].set_visible(False)
        ax.set_aspect("equal", adjustable="datalim")
    letter_panels(axes)
    return fig


def _draw_matrix(ax: Axes, matrix: np.ndarray, title: str, cmap: str, norm: Normalize):
    """Off-diagonal weights as colours; the diagonal, many times larger, as a range in the title."""
    hidden = np.where(np.eye(12, dtype=bool), np.nan, matrix)
    ax.set_facecolor("#CFCFCF")
    image = ax.imshow(hidden, cmap=cmap, norm=norm, interpolation="nearest")
    ax.set_title(title, fontsize=7.5)
    ax.set_xticks(range(12), LEADS, rotation=90)
    ax.set_yticks(range(12), LEADS)
    ax.tick_params(length=0, pad=1.5, labelsize=6.5)
    ax.spines[:].set_visible(False)
    return image


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
    weights = Normalize(min(0.0, min(m[off_diagonal].min() for m in plain)), max(m[off_diagonal].max() for m in plain))
    limit = max(float(np.abs((matrices - mean)[:, off_diagonal]).max()), 1e-6)

    panels = [(mean, "mean of groups", mean)] if as_difference else []
    panels += [(m - mean if as_difference else m, label, m) for m, label in zip(matrices, labels, strict=True)]
    n_columns = min(len(panels), 3)
    n_rows = -(-len(panels) // n_columns)
    width = {1: 3.5, 2: 5.0}.get(n_columns, PAGE_WIDTH)
    fig = new_figure(width, 2.3 * n_rows + (0.9 if as_difference else 0.8))
    axes = fig.subplots(n_rows, n_columns, squeeze=False).ravel()
    for k, (shown, label, matrix) in enumerate(panels):
        differs = as_difference and k > 0
        norm = Normalize(-limit, limit) if differs else weights
        image = _draw_matrix(axes[k], shown, f"{label}, {_self_weights(matrix)}", "RdBu_r" if differs else "cividis", norm)
        if k == 0:
            first = image
        if k % n_columns == 0:
            axes[k].set_ylabel("to lead")
        if k + n_columns >= len(panels):
            axes[k].set_xlabel("from lead")
    for ax in axes[len(panels) :]:
        ax.remove()
    bars = [(first, "Weight (mean of groups)" if as_difference else "Weight")]
    bars += [(image, "Weight minus mean")] if as_difference else []
    shared = list(axes[: len(panels)])
    for mappable, text in bars:
        bar = fig.colorbar(mappable, ax=shared, orientation="horizontal", shrink=0.4 if n_columns > 1 else 0.8, aspect=30, pad=0.02)
        bar.set_label(text, labelpad=1)
        bar.outline.set_visible(False)
    return fig
