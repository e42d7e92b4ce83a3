"""12-lead ECG on ECG paper at true scale: 25 mm per second and 10 mm per millivolt when printed at 100 %.

A page is one axes whose unit is the millimetre, so the scale holds by construction, and traces may run over their
neighbours as a pen does: on A4, where rows have a fixed distance, as on any ECG recorder.
"""

import textwrap
import warnings

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import ABSENT, DERIVED, LEADS
from p2es_lib.plots.style import COLOURS, ESTIMATE, SPREAD, TRUTH, Axes, Figure, drawable, new_figure, styled
from p2es_lib.signals.cleaning import true_runs

MM_PER_S, MM_PER_MV, MM_PER_INCH = 25.0, 10.0, 25.4
_SCALE = f"{MM_PER_S:g} mm/s   {MM_PER_MV:g} mm/mV   "
#: Rows of three by four: limb leads, augmented leads, chest leads; time runs on from column to column.
LAYOUT = (("I", "aVR", "V1", "V4"), ("II", "aVL", "V2", "V5"), ("III", "aVF", "V3", "V6"))
GRID_1MM, GRID_5MM = "#F7DEDC", "#EBB3AE"
_MARGIN, _HEADER, _FOOTER, _CALIBRATION = 3.0, 9.0, 8.0, 10.0  # mm
_MIN_WIDTH = 150.0  # mm: short windows still need room for legend and footer

#: A4 landscape, mm.
PAGE_MM = (297.0, 210.0)
#: The grid on it, mm: whole squares of 5 mm; 10 s and the calibration pulse take 260 of its 280 mm.
_LEFT, _BOTTOM, _RIGHT, _TOP = 8.5, 14.0, 288.5, 189.0
#: Height of a row of leads, and how far its zero line lies below its top, mm; the rest is the PPG's.
_ROW, _ZERO = 38.0, 20.0
WARNING = "Research use only, not a diagnosis. Synthesised from PPG, not recorded with electrodes."


class EcgTraces:
    """The arrays of one picture: reference, estimate, edges of its band, (12, T) mV or None; else an InputError."""

    def __init__(self, sampling_rate, ecg=None, estimate=None, samples=None, spread=None, lead_mask=None):
        if samples is not None:
            samples = np.asarray(samples, dtype=float)
            if samples.ndim != 3 or samples.shape[1] != 12:
                raise InputError(f"samples has shape {samples.shape}; expected (K, 12, T) in mV")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # a lead that is NaN throughout stays NaN
                estimate = np.nanmean(samples, axis=0) if estimate is None else estimate
                spread = np.nanpercentile(samples, [5, 95], axis=0) if spread is None and len(samples) > 1 else spread
        edges = (None, None) if spread is None else spread
        arrays = [None if a is None else np.array(a, dtype=float) for a in (ecg, estimate, *edges)]
        self.ecg, self.estimate, self.lower, self.upper = arrays
        self._given = [a for a in arrays if a is not None]
        shapes = {a.shape for a in self._given}
        if len(shapes) != 1 or len(shape := next(iter(shapes))) != 2 or shape[0] != 12 or shape[1] < 2:
            raise InputError(f"ECG arrays have shapes {sorted(shapes)}; give at least one, all (12, T) in mV")
        self.lead_mask = np.full(12, 2) if lead_mask is None else np.asarray(lead_mask).reshape(-1)
        if self.lead_mask.shape != (12,):
            raise InputError(f"lead_mask has shape {self.lead_mask.shape}; expected (12,)")
        if ecg is not None:
            self.ecg[self.lead_mask == ABSENT] = np.nan
        self.sampling_rate, self.length = float(sampling_rate), shape[1]

    def values(self, row: int, part: slice) -> np.ndarray:
        """All finite values of one lead within a part of the window, mV; (0,) array if the lead is absent."""
        stacked = np.concatenate([a[row, part] for a in self._given])
        return stacked[np.isfinite(stacked)]


#: Strips of a row, each by its name: the row of its lead in the arrays, and the samples that it shows.
Strips = dict[str, tuple[int, slice]]


def _strips_of(traces: EcgTraces, seconds: float) -> list[Strips]:
    """Rows of strips from top to bottom, columns of so many seconds; the rhythm strip, of lead II, last."""
    rate, n = traces.sampling_rate, traces.length
    edges = [min(n, round(column * seconds * rate)) for column in range(5)]
    rows = [{lead: (LEADS.index(lead), slice(a, b)) for lead, a, b in zip(leads, edges, edges[1:]) if b > a}
            for leads in LAYOUT]  # fmt: skip
    return [*rows, {"II rhythm": (LEADS.index("II"), slice(0, edges[-1]))}]


def _row_extent(traces: EcgTraces, strips: Strips) -> tuple[float, float, list[float]]:
    """Room above and below a row's zero line, heights of its names, mm: clear of the trace, level if not far up."""
    tops, bottoms, labels = [10.0], [-5.0], []  # the calibration pulse is 10 mm high
    for row, part in strips.values():
        values = MM_PER_MV * traces.values(row, part)
        name_mm = 2.0 + 2.4 * len(LEADS[row]) + (11.0 if traces.lead_mask[row] == DERIVED else 0.0)
        named = slice(part.start, min(part.start + round(name_mm / MM_PER_S * traces.sampling_rate), part.stop))
        tops.append(values.max(initial=0.0) + 1)
        bottoms.append(values.min(initial=0.0) - 1)
        labels.append(float(np.clip(MM_PER_MV * traces.values(row, named).max(initial=0.0) + 1.5, 4.0, 41.0)))
    common = min(max(labels), 16.0)
    labels = [max(label, common) for label in labels]
    up, down = max(*tops, max(labels) + 3.5), -min(bottoms)
    return min(5 * np.ceil(up / 5), 45.0), min(5 * np.ceil(down / 5), 35.0), labels


def _paper_axes(width: float, height: float, left: float, bottom: float, right: float, top: float):
    """A page of width x height mm: figure, its one axes in mm with a grid within these limits, the grid's frame."""
    fig = new_figure(width / MM_PER_INCH, height / MM_PER_INCH, layout=None)
    ax = fig.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))
    ax.set_axis_off()
    for step, colour, line_width in ((1.0, GRID_1MM, 0.35), (5.0, GRID_5MM, 0.6)):
        columns, rows = np.arange(left, right + 0.01, step), np.arange(bottom, top + 0.01, step)
        lines = [((x, bottom), (x, top)) for x in columns] + [((left, y), (right, y)) for y in rows]
        ax.add_collection(LineCollection(lines, colors=colour, linewidths=line_width, zorder=0))
    edge = {"fill": False, "edgecolor": GRID_5MM, "lw": 0.6, "zorder": 1}
    return fig, ax, ax.add_patch(Rectangle((left, bottom), right - left, top - bottom, **edge))


def _draw_strip(ax: Axes, traces: EcgTraces, name: str, row: int, part: slice, x, baseline, label, clip) -> None:
    """One lead from ``x`` on, its name ``label`` mm above its zero line at ``baseline``: band, reference, estimate."""
    text = ax.text(x[0] + 0.8, baseline + label, LEADS[row], fontsize=9, fontweight="bold", va="bottom", zorder=6)
    if traces.ecg is not None and traces.lead_mask[row] == DERIVED:
        ax.annotate("derived", (1, 0), (3, 1.7), text, "offset points", fontsize=7.5, zorder=6)
    if not traces.values(row, part).size:
        missing = "not estimated" if traces.ecg is None else "not recorded"
        look = {"fontsize": 8, "style": "italic", "color": COLOURS["grey"], "ha": "center", "va": "center"}
        middle = x[0] + len(x) / traces.sampling_rate * MM_PER_S / 2
        ax.text(middle, baseline, missing, gid=f"absent {name}", **look)
        return
    if traces.lower is not None:
        lower, upper = (baseline + MM_PER_MV * a[row, part] for a in (traces.lower, traces.upper))
        ax.fill_between(x, lower, upper, color=SPREAD, alpha=0.75, lw=0, zorder=2, clip_path=clip, gid=f"spread {name}")
    for values, colour, width, zorder, kind in ((traces.ecg, TRUTH, 1.0, 4, "ecg"),
                                                (traces.estimate, ESTIMATE, 0.8, 5, "estimate")):  # fmt: skip
        if values is not None:
            ax.plot(x, baseline + MM_PER_MV * values[row, part], color=colour, lw=width, zorder=zorder,
                    solid_joinstyle="round", clip_path=clip, gid=f"{kind} {name}")  # fmt: skip


def _draw_row(ax: Axes, traces: EcgTraces, strips: Strips, labels, left: float, baseline: float, clip) -> None:
    """Calibration pulse at ``left`` (1 mV for 0.2 s), then strips with names ``labels`` mm above their zero line."""
    pulse_x, pulse_y = np.array([1, 2, 2, 7, 7, 8.0]), np.array([0, 0, 10, 10, 0, 0.0])
    ax.plot(left + pulse_x, baseline + pulse_y, color=TRUTH, lw=0.8, zorder=4, gid="calibration")
    for (name, (row, part)), label in zip(strips.items(), labels, strict=True):
        start = left + _CALIBRATION + MM_PER_S * part.start / traces.sampling_rate
        x = start + MM_PER_S * np.arange(part.stop - part.start) / traces.sampling_rate
        _draw_strip(ax, traces, name, row, part, x, baseline, label, clip)
        if part.start > 0:
            ax.plot([start] * 2, [baseline - 3, baseline + 3], color=TRUTH, lw=0.6, zorder=3, gid="separator")


def _draw_legend(ax: Axes, traces: EcgTraces, right: float, y: float, what: str = "posterior mean") -> None:
    looks = (
        (traces.ecg, Line2D([], [], color=TRUTH, lw=1.0, label="reference")),
        (traces.estimate, Line2D([], [], color=ESTIMATE, lw=1.0, label=f"synthesised ({what})")),
        (traces.lower, Patch(facecolor=SPREAD, label="5th to 95th percentile of samples")),
    )
    handles = [handle for values, handle in looks if values is not None]
    ax.legend(handles=handles, loc="center right", bbox_to_anchor=(right, y), bbox_transform=ax.transData, ncols=3,
              fontsize=8, borderaxespad=0, borderpad=0, columnspacing=1.5)  # fmt: skip


@styled
def plot_ecg_paper(ecg, sampling_rate, *, estimate=None, samples=None, spread=None, lead_mask=None, title=None,
                   footer=None) -> Figure:  # fmt: skip
    """12-lead ECG on ECG paper, three rows of four leads and a rhythm strip, true scale when printed at 100 %.

    A column is a quarter of the window, at most 2.5 s; what is longer is cut.

    Parameters
    ----------
    ecg, estimate : array (12, T) mV, or None
        Reference (black; where ``lead_mask`` (12,) is 0 it is absent, where 1 derived), and posterior mean (blue; NaN
        where the method gives nothing).
    samples, spread : array (K, 12, T) mV; pair of arrays (12, T) mV
        Samples of the posterior; lower and upper edge of the band, by default their 5th and 95th percentile. Their
        mean is the estimate if none is given.
    """
    traces = EcgTraces(sampling_rate, ecg, estimate, samples, spread, lead_mask)
    title, footer = title or "", footer or ""
    rows = _strips_of(traces, min(2.5, traces.length / traces.sampling_rate / 4))
    extents = [_row_extent(traces, strips) for strips in rows]
    ((_, shown),) = rows[-1].values()
    duration_mm = MM_PER_S * shown.stop / traces.sampling_rate
    left, right = _MARGIN, _MARGIN + max(5 * np.ceil((_CALIBRATION + duration_mm) / 5), _MIN_WIDTH)
    footer_lines = textwrap.wrap(footer, int((right - left - 50) / 1.6)) or [""]  # 50 mm hold the scale
    bottom = _FOOTER + 4.0 * (len(footer_lines) - 1)
    top = bottom + sum(up + down for up, down, _ in extents)
    has_legend = traces.estimate is not None or traces.lower is not None
    long_title = has_legend and len(title) > (right - left - 135) / 2.1  # the legend takes 135 mm
    width, height = right + _MARGIN, top + _HEADER + (5.0 if long_title else 0.0)
    fig, ax, clip = _paper_axes(width, height, left, bottom, right, top)
    y = top
    for strips, (up, down, labels) in zip(rows, extents, strict=True):
        _draw_row(ax, traces, strips, labels, left, y - up, clip)
        y -= up + down
    if has_legend:
        _draw_legend(ax, traces, right, top + _HEADER / 2)
    ax.text(left, height - _HEADER / 2, title, fontsize=10, fontweight="bold", va="center")
    ax.text(left, bottom / 2, "\n".join(footer_lines), fontsize=8, va="center")
    ax.text(right, bottom / 2, f"{_SCALE}{traces.sampling_rate:g} Hz", fontsize=8, va="center", ha="right")
    return fig


@styled
def plot_translation(ecg, sampling_rate, ppg, *, spread=None, doubtful=None, age=None, sex="", model="P2Es", quality="",
                     record="") -> Figure:  # fmt: skip
    """First 10 s of a synthesised ECG with the PPG it came from, whom and what it is of, and a warning; 297 x 210 mm.

    ``ecg`` (12, T) is the central sample in mV, NaN where nothing was translated, ``spread`` a pair of such arrays, the
    edges of the band of the samples; ``ppg`` (T,) is in any unit. The page is shaded where the ECG is ``doubtful``,
    bool (T,). ``age`` (years) and ``sex`` are as given to the model; ``model``, ``quality`` (of the PPG) and ``record``
    (of what it is) are one line each.
    """
    traces = EcgTraces(sampling_rate, estimate=ecg, spread=spread)
    rows = _strips_of(traces, 2.5)
    ((_, shown),) = rows[-1].values()
    fig, ax, clip = _paper_axes(*PAGE_MM, _LEFT, _BOTTOM, _RIGHT, _TOP)
    for number, strips in enumerate(rows):
        labels = [min(label, _ZERO - 5.0) for label in _row_extent(traces, strips)[2]]
        _draw_row(ax, traces, strips, labels, _LEFT, _TOP - number * _ROW - _ZERO, clip)
    for first, stop in true_runs(np.asarray([] if doubtful is None else doubtful, dtype=bool)[shown]).tolist():
        x = _LEFT + _CALIBRATION + MM_PER_S * np.array([first, stop]) / traces.sampling_rate
        ax.fill_between(x, _BOTTOM, _TOP, color=COLOURS["vermillion"], alpha=0.12, lw=0, zorder=1, gid="in doubt")
        ax.text(x[1] - 0.8, _BOTTOM + 16.5, "in doubt", fontsize=8, ha="right", va="bottom", zorder=6)
    ppg = np.asarray(ppg, dtype=float)[shown]
    if np.isfinite(ppg).any():
        x, bottom, low, high = _LEFT + _CALIBRATION, _BOTTOM + 1.0, np.nanmin(ppg), np.nanmax(ppg)
        height = 1.5 + 13.0 * (ppg - low) / max(high - low, 1e-9)  # it has no unit: scaled to its own range
        times = MM_PER_S * np.arange(len(ppg)) / traces.sampling_rate
        ax.plot(x + times, bottom + height, color=COLOURS["vermillion"], lw=0.9, zorder=4, gid="ppg")
        ax.text(x + 0.8, bottom + 15.5, "PPG", fontsize=9, fontweight="bold", va="bottom", zorder=6)
    person = f"age {age:g} years" if age is not None and np.isfinite(age) else "age not known"
    who = f"{person}, sex {sex or 'not known'}   |   {model}"
    title = textwrap.shorten(drawable(record) or "12-lead ECG from PPG", 75, placeholder=" ...")
    quality_lines = textwrap.wrap(quality, 200, max_lines=2, placeholder=" ...")
    _draw_legend(ax, traces, _RIGHT, 205.5, "central sample")
    for x, y, text, look in (
        (_LEFT, 205.5, title, {"fontsize": 10, "fontweight": "bold"}),
        (_LEFT, 200.3, textwrap.shorten(who, 160, placeholder=" ..."), {"fontsize": 8}),
        (_LEFT, 194.2, "\n".join(quality_lines), {"fontsize": 7.5}),
        (_LEFT, _BOTTOM / 2, WARNING, {"fontsize": 9, "fontweight": "bold"}),
        (_RIGHT, _BOTTOM / 2, f"{_SCALE}{traces.sampling_rate:g} Hz   A4 at 100 %", {"fontsize": 8, "ha": "right"}),
    ):
        ax.text(x, y, text, va="center", **look)
    return fig
