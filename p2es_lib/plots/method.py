"""What happens in P2Es: forward process, the way back, the two stages of a step, groups and lead affinity."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import LEADS
from p2es_lib.plots import style
from p2es_lib.plots.style import COLOURS, CYCLE, ESTIMATE, PAGE_WIDTH, TRUTH, Axes, Figure, styled

#: How each blur is introduced, and the axis along which it acts.
_BLURS = {
    "dct": ("Blur of the waveform", "Frequency (Hz)"),
    "spectral": ("Blur of the spectrum", "Time (s)"),
    "none": ("No blur", "Frequency (Hz)"),
}
_MAX_FREQUENCY = 40.0  # Hz, where frequency axes end
_MAX_ROWS = 6  # sampling steps that are drawn


def _stack(ax: Axes, time, signals, colours, labels, *, spacing: float, width: float = 0.8, zorder=2) -> None:
    """Draw signals (n, T) below one another, the first on top, each named at its left."""
    for row, (signal, colour) in enumerate(zip(signals, colours, strict=True)):
        ax.plot(time, signal - row * spacing, color=colour, lw=width, zorder=zorder)
    if labels is not None:
        ax.set_yticks([-row * spacing for row in range(len(signals))], labels)
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
    ax.set(xlim=time[[0, -1]], xlabel="Time (s)")


def _stack_limits(signals: np.ndarray, spacing: float) -> tuple[float, float]:
    return signals[-1].min() - (len(signals) - 1) * spacing - 0.1 * spacing, signals[0].max() + 0.1 * spacing


def _scale_bar(ax: Axes, size: float = 1.0, x: float = 1.015) -> None:
    """A vertical bar of some millivolts at the right of a stack of signals, which has no axis of its own."""
    low, beside = ax.get_ylim()[0], ax.get_yaxis_transform()
    ax.plot([x, x], [low, low + size], transform=beside, color=TRUTH, lw=1.2, clip_on=False)
    ax.text(x + 0.015, low + size / 2, f"{size:g} mV", transform=beside, rotation=90, va="center", fontsize=7)


@styled
def plot_forward_process(times, states: Mapping[str, np.ndarray], axes: Mapping[str, np.ndarray],
                         responses: Mapping[str, np.ndarray], snr_db: Mapping[str, np.ndarray], sampling_rate, *,
                         blurred: Mapping[str, np.ndarray] | None = None) -> Figure:  # fmt: skip
    """Forward process: the waveform at several times, and what blur and noise leave of it; one column per blur.

    ``times`` (n_t,) are diffusion times in [0, 1]; all else is by blur, ``dct``, ``spectral`` or ``none``. Top: 3 s of
    x_t of one lead, ``states`` (n_t, T), and in black its mean given x_0, ``blurred`` (n_t, T), mV at a rate in Hz.
    Middle and bottom, over ``axes`` (K,), on which the blur acts (Hz; s for ``spectral``): amplitude response d_t,
    ``responses`` (n_t, K), and 10 log10 of the signal-to-noise ratio, ``snr_db`` (n_t, K). InputError: other shapes.
    """
    times = np.asarray(times, dtype=float)
    for blur in states:
        shapes = [np.shape(arrays[blur]) for arrays in (states, responses, snr_db)]
        if blur not in _BLURS or any(len(shape) != 2 or shape[0] != len(times) for shape in shapes):
            raise InputError(f"blur {blur!r} with arrays of shapes {shapes}: expected one of {', '.join(_BLURS)}, and "
                             f"{len(times)} rows")  # fmt: skip
    colours, labels = style.TIME_MAP(times), [f"t = {t:.2g}" for t in times]
    noisy_colours = colours if blurred is None else [(*colour[:3], 0.5) for colour in colours]
    heights = [0.42 * len(times), 1.25, 1.25]
    fig, grid = style.page_subplots(2.6 + heights[0] + 0.4, 3, len(states), squeeze=False, height_ratios=heights)
    part, time = style.middle_of(np.shape(next(iter(states.values())))[1], sampling_rate, 3.0)
    shown = np.concatenate([np.asarray(state)[:, part] for state in states.values()], axis=1)
    spacing = 0.85 * max(float(np.ptp(np.quantile(shown, [0.002, 0.998]))), 1e-9)
    seen = [np.asarray(snr_db[blur])[:, np.asarray(axes[blur]) <= _MAX_FREQUENCY] for blur in snr_db]
    seen = np.concatenate([values[np.isfinite(values)] for values in seen])
    # Common limits; beyond 80 dB nothing is left to tell apart.
    snr_limits = max(seen.min() - 3, -80.0), min(seen.max() + 3, 80.0)
    for blur, (top, middle, bottom) in zip(states, grid.T, strict=True):
        title, axis_label = _BLURS[blur]
        _stack(top, time, np.asarray(states[blur])[:, part], noisy_colours, labels, spacing=spacing, width=0.7)
        if blurred is not None:
            mean = np.asarray(blurred[blur])[:, part]
            _stack(top, time, mean, [TRUTH] * len(times), None, spacing=spacing, zorder=3)
        top.set(title=f"{title} ({blur})" if blur != "none" else title, ylim=_stack_limits(shown, spacing))
        for ax, curves in ((middle, responses[blur]), (bottom, snr_db[blur])):
            for curve, colour in zip(np.asarray(curves), colours, strict=True):
                ax.plot(axes[blur], curve, color=colour, lw=1.1)
            in_hertz = axis_label.startswith("Frequency")
            ax.set(xlabel=axis_label, xlim=(0, _MAX_FREQUENCY if in_hertz else axes[blur][-1]))
        middle.set(ylim=(0, 1.05), ylabel="Blur response $d_t$")
        bottom.set(ylabel="Signal to noise (dB)", ylim=snr_limits)
        bottom.axhline(0, color=COLOURS["grey"], lw=0.6, ls=style.DASHED, zorder=0)
    _scale_bar(grid[0, -1])
    style.legend_outside(fig, dict(zip(labels, colours, strict=True)), "lower center", len(times), lw=1.8)
    return style.lettered(fig, grid.ravel())


@styled
def plot_reverse_process(times, states, x0_hats, truth, sampling_rate, *, lead="II") -> Figure:
    """Reverse process: 4 s of x_t and of the estimate of x_0 at some sampling steps, and the error of all estimates.

    Of one lead, in mV at ``sampling_rate`` (Hz): x_t before each step, ``states`` (n, T), the estimate made of it,
    ``x0_hats`` (n, T), and the reference, ``truth`` (T,). ``times`` (n,): diffusion times, from 1 down.
    """
    times, states, x0_hats, truth = (np.asarray(a, dtype=float) for a in (times, states, x0_hats, truth))
    if states.shape != x0_hats.shape or states.shape != (len(times), len(truth)):
        shapes = f"times {times.shape}, states {states.shape}, x0_hats {x0_hats.shape}, truth {truth.shape}"
        raise InputError(f"{shapes}: expected (n,), (n, T), (n, T) and (T,)")
    rows = np.unique(np.linspace(0, len(times) - 1, min(_MAX_ROWS, len(times))).round().astype(int))
    fig = style.new_figure(PAGE_WIDTH, 0.95 + 0.48 * len(rows) + 1.25)
    layout = fig.add_gridspec(2, 2, height_ratios=[0.48 * len(rows) + 0.5, 1.3])
    left, right, below = (fig.add_subplot(layout[place]) for place in ((0, 0), (0, 1), (1, slice(None))))
    part, time = style.middle_of(len(truth), sampling_rate, 4.0)
    spacing = 0.8 * max(np.ptp(np.quantile(states, [0.002, 0.998])), np.ptp(truth), 1e-9)
    labels = [f"t = {times[row]:.2g}" for row in rows]
    _stack(left, time, states[rows, part], style.TIME_MAP(times[rows]), labels, spacing=spacing)
    repeated = np.repeat(truth[None, part], len(rows), axis=0)
    _stack(right, time, repeated, ["#A8A8A8"] * len(rows), None, spacing=spacing, width=1.6)
    _stack(right, time, x0_hats[rows, part], [ESTIMATE] * len(rows), labels, spacing=spacing, zorder=3)
    shown = np.concatenate([states[rows, part], x0_hats[rows, part], repeated], axis=1)
    for ax, title in ((left, f"$x_t$, lead {lead}"), (right, r"Estimate $\hat{x}_0$ (blue) and reference (grey)")):
        ax.set(title=title, ylim=_stack_limits(shown, spacing))
    _scale_bar(right)
    rmse = np.sqrt(np.mean((x0_hats - truth) ** 2, axis=1))
    below.plot(times, rmse, "o-", color=ESTIMATE, ms=3)
    below.set(xlabel="Diffusion time t (sampling runs from left to right)", ylabel=r"RMSE of $\hat{x}_0$ (mV)",
              xlim=(1.02, -0.02), ylim=(0, 1.1 * rmse.max()))  # fmt: skip
    return style.lettered(fig, (left, right, below))


@styled
def plot_stages(truth, coarse, refined, contributions: Mapping[str, np.ndarray], sampling_rate, *, frequencies,
                error_coarse, error_refined, gains: Mapping[float, np.ndarray],
                local_share=None) -> Figure:  # fmt: skip
    """Lead II through the two stages for 3 s, the error spectrum before and after stage 2, the gain of the deblurring.

    Parameters
    ----------
    truth, coarse, refined : array (12, T), mV
        Reference, output of stage 1, output of stage 2, at ``sampling_rate`` (Hz).
    contributions, local_share : mapping scale -> array (T,), mV; array (T,)
        What each time scale (``"0.3 s"``, shortest first) adds to stage 1; share of the deblurring's correction taken.
    frequencies, error_coarse, error_refined, gains : array (K,); mapping t -> array (K,)
        Hz; root-mean-square error per frequency before and after stage 2, mV; weight that the deblurring gives to x_t
        against the coarse estimate, alpha_t times its gain, at some times t.
    """
    signals = [np.asarray(a, dtype=float) for a in (truth, coarse, refined)]
    shapes = [signal.shape for signal in signals]
    if len(set(shapes)) > 1 or len(shapes[0]) != 2 or shapes[0][0] != 12:
        raise InputError("truth {}, coarse {}, refined {}: expected (12, T) each".format(*shapes))
    part = slice(0, int(3.0 * sampling_rate))
    time = np.arange(shapes[0][1])[part] / sampling_rate
    fig = style.new_figure(PAGE_WIDTH, 4.7)
    upper, lower = fig.subfigures(2, 1, height_ratios=[1.35, 1])
    left, right = upper.subfigures(1, 2)
    share = None if local_share is None else np.asarray(local_share, dtype=float)[part]
    stages = _draw_stages(left, time, [signal[LEADS.index("II"), part] for signal in signals], share)
    scales = right.subplots()
    _draw_scales(scales, time, {name: np.asarray(x, dtype=float)[part] for name, x in contributions.items()})

    spectrum, gain = lower.subplots(1, 2)
    spectrum.plot(frequencies, error_coarse, color=COLOURS["orange"], lw=1.1, label="after stage 1")
    spectrum.plot(frequencies, error_refined, color=ESTIMATE, lw=1.1, label="after stage 2")
    spectrum.set(ylabel="RMS error (mV)", title="Error per frequency", ylim=(0, None))
    for t, curve in gains.items():
        gain.plot(frequencies, curve, color=style.TIME_MAP(float(t)), lw=1.1, label=f"t = {float(t):.2g}")
    gain.set(ylabel="Weight of $x_t$", title="Deblurring gain", ylim=(0, 1.05))
    for ax, n_columns in ((spectrum, 1), (gain, 2)):
        ax.set(xlabel="Frequency (Hz)", xlim=(0, _MAX_FREQUENCY))
        ax.legend(loc="upper right", ncols=n_columns)
    return style.lettered(fig, (stages, scales, spectrum, gain))


def _draw_stages(figure, time: np.ndarray, signals, share) -> Axes:
    """Reference (T,) and output of both stages; below them, if given, the share of stage 2 at each sample."""
    n_rows = 1 if share is None else 2
    stages, *below = figure.subplots(n_rows, 1, squeeze=False, sharex=True, height_ratios=[3.6, 1][:n_rows])[:, 0]
    looks = ((TRUTH, 1.3, "reference"), (COLOURS["orange"], 1.1, "stage 1 (multi-scale)"),
             (ESTIMATE, 1.1, "stage 2 (deblurred)"))  # fmt: skip
    for signal, (colour, width, label) in zip(signals, looks, strict=True):
        stages.plot(time, signal, color=colour, lw=width, label=label)
    stages.set(ylabel="Lead II (mV)", title="Two stages", xlim=time[[0, -1]])
    for ax in below:
        ax.fill_between(time, share, color=ESTIMATE, alpha=0.35, lw=0)
        ax.set(ylabel="Share of\nstage 2", ylim=(0, 1.02), yticks=(0, 1))
    [stages, *below][-1].set_xlabel("Time (s)")
    low, high = stages.get_ylim()
    stages.set_ylim(low, high + 0.28 * (high - low))
    stages.legend(loc="upper left", ncols=2, borderaxespad=0.1, columnspacing=1)
    return stages


def _draw_scales(ax: Axes, time: np.ndarray, pieces: Mapping[str, np.ndarray]) -> None:
    """What each time scale adds (T,), below one another, with a bar of about half the distance of two traces."""
    spacing = 1.05 * max((float(np.ptp(piece)) for piece in pieces.values()), default=1 / 1.05)
    centred = [piece - np.median(piece) for piece in pieces.values()]
    colours = [CYCLE[k % len(CYCLE)] for k in range(len(centred))]
    _stack(ax, time, centred, colours, list(pieces), spacing=spacing, width=1.0)
    ax.set(ylabel="Time scale", title="Contribution of each time scale")
    size = 10.0 ** np.floor(np.log10(spacing / 2))
    _scale_bar(ax, size * max(step for step in (1, 2, 5) if step * size <= spacing / 2), x=1.02)


def _name_dots(ax: Axes, looks: Mapping[str, tuple[str, str]]) -> None:
    """A legend that fills an axes of its own; colour and marker by name."""
    ax.set_axis_off()
    handles = [Line2D([], [], marker=m, lw=0, ms=3.5, color=c, label=name) for name, (c, m) in looks.items()]
    ax.legend(handles=handles, loc="upper center", ncols=3, handletextpad=0.1, columnspacing=0.8, borderaxespad=0)


def _colour_bar(image, ax: Axes, label: str, **options) -> None:
    bar = ax.figure.colorbar(image, cax=ax, orientation="horizontal", **options)
    bar.set_label(label, labelpad=1)
    bar.outline.set_visible(False)


@styled
def plot_embedding(xy, groups, age, sex, *, group_labels: Sequence[str] | None = None) -> Figure:
    """Embedding of windows in two dimensions, coloured by group, by age and by sex.

    ``xy`` (N, 2) is any projection of the embedding: its axes have no meaning and are not drawn. ``groups`` (N,) are
    int, from 0, named "group 1" and so on without labels; ``age`` (N,) is in years, NaN where not known, ``sex`` (N,)
    ``"F"``, ``"M"`` or ``""``. An :class:`InputError` if their shapes do not fit.
    """
    xy, groups, age = np.asarray(xy, dtype=float), np.asarray(groups, dtype=int), np.asarray(age, dtype=float)
    sex = np.asarray(sex, dtype=str)
    if xy.ndim != 2 or xy.shape[1] != 2 or not len(xy) == len(groups) == len(age) == len(sex):
        shapes = f"xy {xy.shape}, groups {groups.shape}, age {age.shape}, sex {sex.shape}"
        raise InputError(f"{shapes}: expected (N, 2) and (N,)")
    labels = group_labels or [f"group {g + 1}" for g in range(groups.max() + 1)]
    n_legend_rows = -(-len(labels) // 3)
    heights = [2.35, 0.3 + 0.14 * n_legend_rows]
    fig, (axes, below) = style.page_subplots(2.75 + 0.14 * n_legend_rows, 2, 3, height_ratios=heights)
    # Many points: drawn in an order that hides no class behind another, and as pixels within the PDF.
    order = np.random.default_rng(0).permutation(len(xy))
    dots = {"s": float(np.clip(3000 / len(xy), 1.5, 12)), "lw": 0, "rasterized": True}
    colours = [CYCLE[g % len(CYCLE)] for g in range(len(labels))]
    axes[0].scatter(*xy[order].T, color=np.array(colours)[groups[order]], **dots)
    _name_dots(below[0], {label: (colour, "o") for label, colour in zip(labels, colours)})
    _draw_ages(axes[1], below[1], xy[order], age[order], dots)
    # A shape for each, too: grey print and some eyes know no colours. In turns, so that none hides the other.
    looks = {s: (style.SEX_COLOURS[s], style.SEX_MARKERS[s]) for s in style.SEX_NAMES}
    for part in np.array_split(order, 20):
        for s, (colour, marker) in looks.items():
            axes[2].scatter(*xy[part[sex[part] == s]].T, color=colour, marker=marker, **dots)
    _name_dots(below[2], {style.SEX_NAMES[s]: look for s, look in looks.items() if (sex == s).any()})
    for ax, title in zip(axes, ("Groups", "Age", "Sex"), strict=True):
        ax.set(xticks=[], yticks=[], title=title)
        ax.spines[:].set_visible(False)
        ax.set_aspect("equal", adjustable="datalim")
    return style.lettered(fig, axes)


def _draw_ages(ax: Axes, below: Axes, xy: np.ndarray, age: np.ndarray, dots: dict) -> None:
    known = np.isfinite(age)
    ax.scatter(*xy[~known].T, color=COLOURS["grey"], alpha=0.5, **dots)
    if not known.any():
        return _name_dots(below, {"not known": (COLOURS["grey"], "o")})
    below.set_axis_off()
    points = ax.scatter(*xy[known].T, c=age[known], cmap="viridis", **dots)
    label = "years" if known.all() else "years (grey: not known)"
    _colour_bar(points, below.inset_axes((0.1, 0.75, 0.8, 0.18)), label)


@styled
def plot_affinity(matrices, group_labels: Sequence[str] | None = None) -> Figure:
    """Lead affinity matrices, (G, 12, 12) with rows that sum to 1: row = lead that receives, column = lead that gives.

    The mean over groups is drawn first, and each group's difference to it on one diverging scale; of one group, the
    matrix itself. An :class:`InputError` for another shape, or no group.
    """
    matrices = np.asarray(matrices, dtype=float)
    if matrices.ndim != 3 or matrices.shape[1:] != (12, 12) or not len(matrices):
        raise InputError(f"affinity matrices have shape {matrices.shape}; expected (G, 12, 12) with at least one group")
    labels = group_labels or [f"group {g + 1}" for g in range(len(matrices))]
    off_diagonal = ~np.eye(12, dtype=bool)
    as_difference, mean = len(matrices) > 1, matrices.mean(axis=0)
    plain = mean[off_diagonal]
    low, high = plain.min(), plain.max()
    # From the smallest weight: what training changed is small beside where it began. Matrices all alike begin at zero.
    weights = Normalize(low if high - low > 0.05 * abs(high) else min(0.0, low), high)
    limit = max(float(np.abs((matrices - mean)[:, off_diagonal]).max()), 1e-6)

    panels = [(mean, "mean of groups", weights, None)] if as_difference else []
    own = (Normalize(-limit, limit), mean) if as_difference else (weights, None)
    panels += [(matrix, label, *own) for matrix, label in zip(matrices, labels, strict=True)]
    n_columns = {1: 1, 2: 2, 4: 4, 7: 4, 8: 4}.get(len(panels), 3)
    both = ["weight, mean of groups", "weight minus mean of groups (dash: below the mean)"]
    bars = both if as_difference else ["weight"]
    axes, bar_axes = _affinity_layout(len(panels), n_columns, len(bars))
    images = [_draw_matrix(ax, *panel) for ax, panel in zip(axes, panels, strict=True)]
    for image, bar, label in zip((images[0], images[-1]), bar_axes, bars):
        _colour_bar(image, bar, label, ticks=MaxNLocator(5))
    for ax in axes[::n_columns]:
        ax.set_yticks(range(12), LEADS)
        ax.set_ylabel("to lead")
    for ax in axes[-n_columns:]:
        ax.set_xticks(range(12), LEADS, rotation=90)
        ax.set_xlabel("from lead")
    return axes[0].figure


def _draw_matrix(ax: Axes, matrix: np.ndarray, label: str, norm: Normalize, mean: np.ndarray | None):
    """Off-diagonal weights or differences as colours, the diagonal in the title; a dash, for grey print: negative."""
    diagonal = list(dict.fromkeys(f"{weight:.2f}" for weight in (np.diag(matrix).min(), np.diag(matrix).max())))
    ax.set_title(f"{label}\ndiagonal {' to '.join(diagonal)}", fontsize=7, pad=3, linespacing=1.1)
    ax.set(xticks=[], yticks=[], facecolor=COLOURS["grey"])
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0, pad=1.5, labelsize=6.5)
    shown = np.where(np.eye(12, dtype=bool), np.nan, matrix if mean is None else matrix - mean)
    image = ax.imshow(shown, cmap="YlGnBu" if mean is None else "RdBu_r", norm=norm, interpolation="nearest")
    if mean is not None:
        rows, columns = np.nonzero(shown < 0.12 * norm.vmin)
        ink = ["white" if value < 0.6 * norm.vmin else "black" for value in shown[rows, columns]]
        ax.scatter(columns, rows, marker="_", s=5, lw=0.5, c=ink)
    return image


def _affinity_layout(n_panels: int, n_columns: int, n_bars: int) -> tuple[list[Axes], list[Axes]]:
    """Square panels of one size and room for the colour bars below, in inches; only outer panels have labels."""
    n_rows = -(-n_panels // n_columns)
    left, right, gap, above, under, bars = 0.48, 0.12, 0.14, 0.34, 0.5, 0.55
    width = PAGE_WIDTH if n_columns > 2 else style.COLUMN_WIDTH if n_columns == 1 else 5.0
    side = (width - left - right - gap * (n_columns - 1)) / n_columns
    height = n_rows * (side + above) + under + bars
    fig = style.new_figure(width, height, layout=None)

    def place(x: float, y: float, w: float, h: float) -> Axes:
        return fig.add_axes((x / width, y / height, w / width, h / height))

    axes = [place(left + (k % n_columns) * (side + gap), height - (k // n_columns + 1) * (side + above), side, side)
            for k in range(n_panels)]  # fmt: skip
    bar_width = min(2.6, (width - left - right - 0.4) / n_bars)
    start = left + (width - left - right - n_bars * bar_width - (n_bars - 1) * 0.4) / 2
    return axes, [place(start + k * (bar_width + 0.4), 0.36, bar_width, 0.08) for k in range(n_bars)]
