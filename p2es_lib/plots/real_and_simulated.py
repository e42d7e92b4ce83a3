"""Recorded against simulated: rhythm, timing, spectra, averaged beats, single measurements, and a classifier's verdict.

Real recordings are black, simulated ones blue, in every panel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import LEADS, lead_rows
from p2es_lib.data.windows import label_words
from p2es_lib.evaluation.metrics.measurements import beat_times
from p2es_lib.evaluation.realism import MeasuredWindows, spectrum
from p2es_lib.plots import style
from p2es_lib.plots.style import COLOURS, ESTIMATE, SPREAD, TRUTH, letter_panels, page_figure, styled

_REAL, _SIMULATED = {"color": TRUTH}, {"color": ESTIMATE}
#: Measurements of the figure, with their axis labels.
SHOWN = {
    "pr_ms": "PR (ms)", "qrs_ms": "QRS (ms)", "qtc_ms": "QTc (ms)", "qrs_axis_deg": "QRS axis (°)",
    "t_axis_deg": "T axis (°)", "qrs_t_angle_deg": "QRS-T angle (°)", "II_p_mv": "P in II (mV)",
    "V1_s_mv": "S in V1 (mV)", "V5_r_mv": "R in V5 (mV)", "V3_t_mv": "T in V3 (mV)",
}  # fmt: skip


def _legend(fig: Figure) -> None:
    looks = {"real": {"lw": 2, **_REAL}, "simulated": {"lw": 2, **_SIMULATED}}
    style.legend_outside(fig, looks, "upper right", 2)


def _draw_histogram(ax: Axes, real: np.ndarray, simulated: np.ndarray, width: float, label: str, title: str) -> None:
    real, simulated = (x[np.isfinite(x)] for x in (np.asarray(real, float), np.asarray(simulated, float)))
    ax.set(xlabel=label, title=title)
    if not len(real):
        return style.mark_empty(ax)
    low, high = np.percentile(np.concatenate([real, simulated]), (0.5, 99.5))
    bins = np.arange(np.floor(low / width), np.ceil(high / width) + 1) * width
    for values, look in ((real, _REAL), (simulated, _SIMULATED)):
        ax.stairs(100 * np.histogram(values, bins)[0] / len(values), bins, lw=1.1, **look)
    ax.set(xlim=(bins[0], bins[-1]), ylim=(0, None), ylabel="Share (%)")


def _draw_band(ax: Axes, x, low, middle, high, look: dict) -> None:
    """A median with its band: filled for simulated, dotted limits for real, so that both are seen where they agree."""
    if look is _SIMULATED:
        ax.fill_between(x, low, high, color=SPREAD, lw=0, alpha=0.6)
    else:
        for limit in (low, high):
            ax.plot(x, limit, lw=0.7, ls=style.DOTTED, **look)
    ax.plot(x, middle, lw=1.0, **look)


def _draw_spectrum(ax: Axes, real: np.ndarray, simulated: np.ndarray, rate: float, highest_hz: float) -> None:
    """Median and middle half of the spectra of windows (N, ..., T)."""
    for x, look in ((simulated, _SIMULATED), (real, _REAL)):
        frequencies, density = spectrum(x, rate)
        density = 10 * np.log10(np.maximum(density.reshape(-1, density.shape[-1]), 1e-9))
        low, middle, high = np.percentile(density, (25, 50, 75), axis=0)
        shown = (frequencies > 0) & (frequencies <= highest_hz)
        _draw_band(ax, frequencies[shown], low[shown], middle[shown], high[shown], look)
    ax.set(xlabel="Frequency (Hz)", ylabel="Share of power (dB/Hz)", xlim=(0, highest_hz))


@styled
def plot_recorded_simulated(
    real: MeasuredWindows, simulated: MeasuredWindows, sampling_rate: float, *, ppg: str = "recorded"
) -> Figure:
    """Heart rate, intervals, arrival time, spectra of PPG and ECG, and the averaged beat of one lead.

    Pairs are those of :func:`p2es_lib.evaluation.realism.pair_samples`, at a rate in Hz. ``ppg`` is ``"recorded"``, or
    ``"simulated"`` for semi-synthetic windows, which the panels of the PPG then say.
    """
    fig = page_figure(4.3)
    axes = fig.subplots(2, 3).ravel()
    beat_to_beat = 5 * max(1, round(np.nanpercentile(real.measured["rmssd_ms"], 97) / 150))
    for ax, name, width, label, title in (
        (axes[0], "heart_rate", 5, "Heart rate (beats/min)", "Heart rate"),
        (axes[1], "rmssd_ms", beat_to_beat, "RMSSD within a window (ms)", "Change from beat to beat"),
        (axes[2], "pat_ms", 10, "R peak to pulse onset (ms)", "Arrival time"),
    ):
        _draw_histogram(ax, real.measured[name], simulated.measured[name], width, label, title)
    _draw_spectrum(axes[3], real.ppg, simulated.ppg, sampling_rate, 10.0)
    titles = ["PPG", "ECG", "Averaged beat"]
    if rows := lead_rows(real.leads):
        _draw_spectrum(axes[4], real.ecg[:, rows], simulated.ecg[:, rows], sampling_rate, 45.0)
        lead = "II" if "II" in real.leads else real.leads[0]
        _draw_beats(axes[5], real, simulated, lead)
        axes[5].set(xlabel="Time from R peak (s)", ylabel="mV")
        titles = ["PPG", f"ECG, {len(rows)} leads", f"Averaged beat, {lead}"]
    else:
        for ax in axes[4:]:
            style.mark_empty(ax, "no lead is named")
            ax.set_axis_off()
    for ax, title in zip(axes[3:], titles, strict=True):
        ax.set_title(title)
    letter_panels(axes)
    _legend(fig)
    if ppg == "simulated":
        words = "Panels c and d: the PPG of these pairs is simulated, from the beats of the real ECG"
        fig.suptitle(words, x=0.01, ha="left", fontsize=7.5)
    return fig


def _draw_beats(ax: Axes, real: MeasuredWindows, simulated: MeasuredWindows, lead: str) -> None:
    """Median and 5 to 95 % of the averaged beats of one lead."""
    t = beat_times()
    for sample, look in ((simulated, _SIMULATED), (real, _REAL)):
        beats = sample.beats[:, LEADS.index(lead)]
        enough = np.isfinite(beats).mean(axis=0) > 0.5  # a fast heart has no second half of this axis
        low, middle, high = np.nanpercentile(beats[:, enough], (5, 50, 95), axis=0)
        _draw_band(ax, t[enough], low, middle, high, look)
    ax.set_xlim(-0.3, 0.55)


@styled
def plot_beats_compared(real: MeasuredWindows, simulated: MeasuredWindows) -> Figure:
    """Averaged beats of the leads that every window has (none: InputError): median, and where 90 % of people lie."""
    leads = real.leads
    if not leads:
        raise InputError("plot_beats_compared: no lead is in every window")
    n_columns = min(4, len(leads))
    n_rows = -(-len(leads) // n_columns)
    # Columns as on ECG paper: limb leads, augmented leads, V1 to V3, V4 to V6.
    order = np.reshape(leads, (n_columns, n_rows)).T.ravel() if len(leads) == 12 else leads
    fig = page_figure(1.45 * n_rows + 0.4)
    for ax, lead in zip(style.rows_of(fig, len(leads), n_columns, sharex=True), order, strict=True):
        _draw_beats(ax, real, simulated, lead)
        ax.set_title(lead)
        ax.yaxis.set_major_locator(MaxNLocator(4))
    fig.supxlabel("Time from R peak (s)", fontsize=7.5)
    fig.supylabel("mV; median, and 5 to 95 % of people", fontsize=7.5)
    _legend(fig)
    return fig


@styled
def plot_measurements_compared(table: pd.DataFrame, areas: pd.DataFrame | None = None,
                               components: pd.DataFrame | None = None) -> Figure:  # fmt: skip
    """Medians (5 to 95 %) of measurements by group, real beside simulated; below, the verdict of the classifiers.

    The tables are those of ``compare``, ``tell_apart`` and ``principal_shares`` of :mod:`p2es_lib.evaluation.realism`.
    """
    groups = [g for g in style.unique(table["group"]) if g != "rhythm: sinus"]
    quantities = [q for q in SHOWN if (table["quantity"] == q).any()]
    if not quantities:
        raise InputError("plot_measurements_compared: none of its measurements is in the table")
    n_columns = min(5, len(quantities))
    height = (0.55 + 0.13 * len(groups)) * -(-len(quantities) // n_columns)
    below = [(draw, data) for draw, data in ((_draw_areas, areas), (_draw_components, components)) if data is not None]
    fig = page_figure(height + 2.5 * bool(below) + 0.3)
    top, bottom = fig.subfigures(2, 1, height_ratios=[height, 2.5]) if below else (fig, None)
    axes = style.rows_of(top, len(quantities), n_columns, sharey=True)
    for ax, quantity in zip(axes, quantities, strict=True):
        _draw_quantity(ax, table[table["quantity"] == quantity].set_index("group"), groups)
        ax.set_xlabel(SHOWN[quantity])
    names = [label_words(group.rpartition(": ")[2]) for group in groups]
    style.name_rows(axes[0], [name[:1].upper() + name[1:] for name in names])
    _legend(fig)
    if below:
        lower = bottom.subplots(1, len(below), squeeze=False, width_ratios=[1.5, 1][: len(below)])[0]
        for (draw, data), ax in zip(below, lower, strict=True):
            draw(ax, data)
        letter_panels([axes[0], *lower])
    return fig


def _draw_quantity(ax: Axes, rows: pd.DataFrame, groups: Sequence[str]) -> None:
    for name, look, shift in (("real", _REAL, -0.16), ("simulated", _SIMULATED, 0.16)):
        for y, group in enumerate(groups):
            if group in rows.index:
                low, middle, high = rows.loc[group, [f"{name}_p{p}" for p in (5, 50, 95)]]
                ax.plot([low, high], [y + shift] * 2, lw=0.8, **look)
                ax.plot(middle, y + shift, "o", ms=2.8, mew=0, **look)
    ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.tick_params(axis="y", length=0)
    for y in range(1, len(groups)):
        ax.axhline(y - 0.5, color="#EEEEEE", lw=0.5, zorder=0)


def _draw_areas(ax: Axes, areas: pd.DataFrame) -> None:
    everyone = areas[areas["group"] == "all"]
    features = style.unique(everyone["features"])
    for (kind, rows), colour, shift in zip(everyone.groupby("classifier"), ("green", "vermillion"), (-0.15, 0.15)):
        y = [features.index(name) + shift for name in rows["features"]]
        style.dots_with_intervals(ax, rows, y, COLOURS[colour], kind)
    ax.axvline(0.5, color=COLOURS["grey"], lw=0.8, ls=style.DASHED)
    ax.annotate("cannot tell", (0.5, 0), (3, 3), ("data", "axes fraction"), "offset points", fontsize=7,
                color=COLOURS["grey"])  # fmt: skip
    style.name_rows(ax, features)
    ax.set(xlim=(0.3, 1.0), xlabel="Area under the ROC curve", title="Can a classifier tell real from simulated?")
    ax.legend(loc="center right")


def _draw_components(ax: Axes, components: pd.DataFrame) -> None:
    for column, look, dashes, label in (
        ("real", _REAL, "-", "real"),
        ("simulated", _SIMULATED, "-", "simulated"),
        ("crossed", _REAL, ":", "real, in simulated components"),
    ):
        left_over = 100 * (1 - components[column][:-1])
        ax.plot(components["components"][:-1], left_over, marker="o", ms=2.5, ls=dashes, label=label, **look)
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter("{x:g}")
    ax.set(xlabel="Principal components of 8 leads", ylabel="Variance left (%)", title="Dimensions of the beat")
    ax.legend(loc="lower left")


@styled
def plot_accepted_rejected(examples: Sequence[Mapping], sampling_rate: float) -> Figure:
    """Windows kept and windows rejected, PPG beside ECG, one row each with its reason.

    Of each example: ``title`` (str), ``ppg`` (T,), ``ecg`` (T,) in mV, ``lead`` (name of the ECG), ``kept`` (bool).
    """
    if not examples:
        raise InputError("plot_accepted_rejected: no example")
    fig = page_figure(0.95 * len(examples) + 0.3)
    axes = fig.subplots(len(examples), 2, sharex=True, squeeze=False)
    for (left, right), example in zip(axes, examples, strict=True):
        t = np.arange(len(example["ppg"])) / sampling_rate
        colour = COLOURS["green"] if example["kept"] else COLOURS["vermillion"]
        left.plot(t, example["ppg"], lw=0.8, color=TRUTH)
        right.plot(t, example["ecg"], lw=0.8, color=TRUTH)
        left.set_title(example["title"], color=colour)
        left.set_ylabel("PPG")
        right.set_ylabel(f"{example['lead']} (mV)" if example["lead"] else "ECG")
        right.yaxis.set_major_locator(MaxNLocator(3))
        left.set_yticks([])
    for ax in axes[-1]:
        ax.set(xlabel="Time (s)", xlim=(0, t[-1]))
    fig.align_ylabels(axes[:, 1])
    return fig
