"""One style for every figure: size on paper, fonts, colours, and a figure class that leaves no pyplot state behind."""

import functools
import io
import string
from collections.abc import Callable, Iterable, Mapping, Sequence

import matplotlib.style
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from p2es_lib.core.errors import InputError

#: Widths of a printed column and a printed page, inches.
COLUMN_WIDTH, PAGE_WIDTH = 3.5, 7.2

#: Colours told apart with any common form of colour blindness (Okabe M, Ito K. Color Universal Design, 2008).
COLOURS = {
    "black": "#000000", "orange": "#E69F00", "sky": "#56B4E9", "green": "#009E73", "yellow": "#F0E442",
    "blue": "#0072B2", "vermillion": "#D55E00", "purple": "#CC79A7", "grey": "#8A8A8A",
}  # fmt: skip
#: Markers in the order in which lines of one panel take them: told apart in grey, too.
MARKERS = "osD^vPX<>"
#: Order in which unnamed things (groups, seeds, time scales) take their colours; yellow is too pale for lines.
CYCLE = tuple(COLOURS[name] for name in ("blue", "orange", "green", "vermillion", "purple", "sky", "black", "grey"))
#: The same thing has the same colour in every figure: references are black, estimates blue.
TRUTH, ESTIMATE, SPREAD = COLOURS["black"], COLOURS["blue"], "#9FCDEB"
SEX_COLOURS = {"F": COLOURS["vermillion"], "M": COLOURS["blue"], "": COLOURS["grey"]}
SEX_MARKERS = {"F": "^", "M": "o", "": "."}
SEX_NAMES = {"F": "female", "M": "male", "": "not known"}
#: Diffusion time from 0 to 1: viridis without its palest end, which print loses.
TIME_MAP = LinearSegmentedColormap.from_list("diffusion_time", colormaps["viridis"](np.linspace(0, 0.88, 64)))
DASHED, DOTTED = (0, (3, 2)), (0, (1, 1))

_STYLE = {
    # DejaVu Sans comes with matplotlib, so figures do not depend on the fonts of the machine.
    "font.family": "DejaVu Sans", "font.size": 7.5, "axes.titlesize": 8, "axes.labelsize": 7.5,
    "xtick.labelsize": 7, "ytick.labelsize": 7, "legend.fontsize": 7, "legend.title_fontsize": 7,
    "legend.frameon": False, "legend.handlelength": 1.4,
    "axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6,
    "axes.labelpad": 2.5, "axes.prop_cycle": f"cycler('color', {list(CYCLE)})",
    "xtick.major.width": 0.6, "xtick.major.size": 2.5, "xtick.minor.size": 1.5,
    "ytick.major.width": 0.6, "ytick.major.size": 2.5, "ytick.minor.size": 1.5,
    "lines.linewidth": 0.9, "lines.markersize": 3.5, "patch.linewidth": 0.5,
    "grid.color": "#DDDDDD", "grid.linewidth": 0.5,
    "figure.dpi": 150, "savefig.dpi": 300,
    "savefig.bbox": None,  # "tight" would change the printed size, and with it the scale of ECG paper
    "figure.constrained_layout.h_pad": 0.03, "figure.constrained_layout.w_pad": 0.03,
    "pdf.fonttype": 42,  # TrueType, so that text in the PDF stays text
}  # fmt: skip


def use_style():
    """Context in which matplotlib draws in the project's style, whatever the user's own settings are."""
    return matplotlib.style.context(_STYLE, after_reset=True)


def png_of(figure: Figure, dpi: float) -> bytes:
    """PNG of a figure in the project's style; without a software version, so that equal figures are equal bytes."""
    buffer = io.BytesIO()
    with use_style():
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


class PaperFigure(Figure):
    """A figure outside pyplot: it shows itself in a notebook, and nothing has to be closed."""

    def draw(self, renderer) -> None:
        """Draw in the project's style: only now matplotlib creates ticks and lays text out."""
        with use_style():
            super().draw(renderer)

    def _repr_png_(self):
        width, height = (round(96 * inches) for inches in self.get_size_inches())
        return png_of(self, 200), {"width": width, "height": height}


def new_figure(width: float, height: float, layout: str | None = "constrained") -> PaperFigure:
    """An empty figure of the given size in inches."""
    fig = PaperFigure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(fig)
    return fig


def page_subplots(height: float, *grid, **options):
    """A figure as wide as a page and ``height`` inches high, and its axes, as ``plt.subplots`` gives them.

    An :class:`InputError` where the grid has no row or no column, because a plot was given nothing to show.
    """
    if 0 in grid:
        raise InputError(f"figure of {' x '.join(map(str, grid))} panels: there is nothing to plot")
    fig = new_figure(PAGE_WIDTH, height)
    return fig, fig.subplots(*grid, **options)


def styled(function: Callable[..., Figure]) -> Callable[..., Figure]:
    """Decorate a ``plot_*`` function: all that it creates is created in the project's style, and its layout is fixed.

    Constrained layout moves the axes a little at every drawing. Laid out here once, pixels depend on no earlier one.
    """

    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        with use_style():
            fig = function(*args, **kwargs)
            if fig.get_layout_engine() is not None:
                fig.get_layout_engine().execute(fig)
                fig.set_layout_engine("none")
            return fig

    return wrapped


def rows_of(figure, n_panels: int, n_columns: int, **options) -> list[Axes]:
    """``n_panels`` axes in rows of ``n_columns``; options as of ``subplots``."""
    axes = list(figure.subplots(-(-n_panels // n_columns), n_columns, squeeze=False, **options).ravel())
    for ax in axes[n_panels:]:
        ax.remove()
    return axes[:n_panels]


def page_panels(n_panels: int, most_columns: int, row_height: float, rest: float, **options):
    """A figure as wide as a page and its ``n_panels`` axes in rows; inches, ``rest`` is what is no row."""
    n_columns = min(most_columns, n_panels)
    fig = new_figure(PAGE_WIDTH, row_height * -(-n_panels // n_columns) + rest)
    return fig, rows_of(fig, n_panels, n_columns, **options)


def lettered(fig: Figure, axes: Sequence[Axes]) -> Figure:
    """The figure, with a bold letter before the title of each of these panels; a single panel needs none."""
    look = {"fontsize": 9, "fontweight": "bold", "ha": "right", "va": "baseline"}
    for letter, ax in zip(string.ascii_lowercase, axes if len(axes) > 1 else []):
        ax.annotate(letter, (0, 1), (-3, 4), "axes fraction", "offset points", **look)
    return fig


def legend_outside(fig: Figure, looks: Mapping, side: str = "upper center", ncols: int = 3, **common) -> None:
    """Legend of the whole figure: a line for each name, by its colour or its options of ``Line2D``."""
    looks = {name: look if isinstance(look, Mapping) else {"color": look} for name, look in looks.items()}
    handles = [Line2D([], [], label=name, **common, **look) for name, look in looks.items()]
    fig.legend(handles=handles, loc=f"outside {side}", ncols=ncols)


def name_rows(ax: Axes, names: Sequence[str], margin: float = 0.6) -> None:
    """Rows 0, 1, ... from the top down with their names, and room above the first and below the last."""
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 1 + margin, -margin)


def middle_of(window_samples: int, sampling_rate: float, duration_s: float) -> tuple[slice, np.ndarray]:
    """Samples in the middle of a window, and their times from its start, s."""
    count = min(window_samples, max(round(duration_s * sampling_rate), 2))
    start = (window_samples - count) // 2
    return slice(start, start + count), np.arange(start, start + count) / sampling_rate


def lines_behind(ax: Axes, axis: str) -> None:
    """Grid lines of one axis, or of "both", behind everything else."""
    ax.grid(axis=axis)
    ax.set_axisbelow(True)


def round_numbers(axis) -> None:
    """Mark a logarithmic axis at 1, 2, 5, 10, 20 and so on, written as they are."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def mark_empty(ax: Axes, text: str = "not recorded") -> None:
    """Turn a panel without data into an honest empty panel."""
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", style="italic", color=COLOURS["grey"])
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)


def dots_with_intervals(ax: Axes, rows, y, colour: str, label: str) -> None:
    """Areas under the ROC curve (columns auroc, lower, upper) at heights y, with their intervals."""
    area, lower, upper = rows[["auroc", "lower", "upper"]].to_numpy(float).T
    ax.errorbar(area, y, xerr=[area - lower, upper - area], fmt="o", ms=3, lw=0.9, color=colour, label=label)


def side_by_side(n: int, reach: float) -> np.ndarray:
    """Offsets of n things drawn beside each other, from -reach to reach; 0 for a single one."""
    return np.linspace(-reach, reach, n) if n > 1 else np.zeros(1)


def axis_label(metric) -> str:
    """Name of a metric with its unit in brackets."""
    return f"{metric.label} ({metric.unit})" if metric.unit else metric.label


def drawable(text: str) -> str:
    """Text, with a question mark for each character that the style's font lacks: file names are in any script."""
    has = get_font(findfont(FontProperties(family=_STYLE["font.family"]))).get_char_index
    return "".join(c if has(ord(c)) else "?" for c in text)


def method_colours(methods: Iterable[str]) -> dict[str, str]:
    """Colour of each method by its label: P2Es blue, templates orange, irreducible errors black, others in turn."""
    names = {"p2es": ["blue", "sky"], "template": ["orange"], "irreducible": ["black", "grey"]}
    others = ["green", "vermillion", "purple", "sky", "yellow", "grey"]
    methods = list(dict.fromkeys(methods))
    others += [] if any("template" in method.lower() for method in methods) else ["orange"]
    colours: dict[str, str] = {}
    for method in methods:
        family = next((names[word] for word in names if word in method.lower()), [])
        free = [COLOURS[name] for name in family + others if COLOURS[name] not in colours.values()]
        colours[method] = free[0] if free else COLOURS["grey"]
    return colours
