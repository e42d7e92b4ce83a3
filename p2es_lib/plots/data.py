"""The data: the cohort at a glance, one example window, windows kept and rejected, and recorded against simulated."""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import ABSENT, LEADS, lead_rows
from p2es_lib.data.windows import SPLITS, label_words
from p2es_lib.evaluation.metrics.measurements import beat_times
from p2es_lib.evaluation.realism import MeasuredWindows, spectrum
from p2es_lib.plots import style
from p2es_lib.plots.style import COLOURS, ESTIMATE, SEX_COLOURS, SEX_NAMES, SPREAD, TRUTH, Axes, Figure, styled

_R_PEAK = {"color": COLOURS["grey"], "lw": 0.6, "ls": style.DASHED, "zorder": 0}
_COLOURS = {"real": TRUTH, "simulated": ESTIMATE}
_REAL, _SIMULATED = {"color": TRUTH}, {"color": ESTIMATE}
#: Measurements of the figure, with their axis labels.
SHOWN = {
    "pr_ms": "PR (ms)", "qrs_ms": "QRS (ms)", "qtc_ms": "QTc (ms)", "qrs_axis_deg": "QRS axis (°)",
    "t_axis_deg": "T axis (°)", "qrs_t_angle_deg": "QRS-T angle (°)", "II_p_mv": "P in II (mV)",
    "V1_s_mv": "S in V1 (mV)", "V5_r_mv": "R in V5 (mV)", "V3_t_mv": "T in V3 (mV)",
}  # fmt: skip


def _known(frame: pd.DataFrame, column: str) -> bool:
    return column in frame and (frame[column].notna() & (frame[column] != "")).any()


def _sexes(frame: pd.DataFrame) -> list[str]:
    return [sex for sex in SEX_NAMES if (frame["sex"] == sex).any()]


def _histogram(ax: Axes, rows: pd.DataFrame, column: str, **options) -> None:
    import seaborn as sns  # of the extra "companion"

    sns.histplot(data=rows, x=column, legend=False, ax=ax, **options)


def _draw_age(ax: Axes, index: pd.DataFrame) -> None:
    subjects = index.drop_duplicates("subject")
    known = subjects.dropna(subset=["age"])
    _histogram(ax, known, "age", hue="sex", hue_order=_sexes(known), palette=SEX_COLOURS, multiple="stack",
               bins=np.arange(0, 125, 5), alpha=1, edgecolor="white", linewidth=0.3)  # fmt: skip
    n_missing = len(subjects) - len(known)
    missing = f"; not known for {n_missing}" if n_missing else ""
    ax.set(xlabel=f"Age (years{missing})", ylabel="Subjects", title="Age and sex")
    ax.set_xlim(5 * np.floor(known["age"].min() / 5) - 5, 5 * np.ceil(known["age"].max() / 5) + 5)
    ax.yaxis.get_major_locator().set_params(integer=True)


def _draw_splits(ax: Axes, index: pd.DataFrame) -> None:
    """Subjects per split by sex; with one subject the split is in time, and windows are counted."""
    by_subject = index["subject"].nunique() > 1
    counted = index.drop_duplicates(["split", "subject"]) if by_subject else index
    table = pd.crosstab(counted["split"], counted["sex"])
    table = table.reindex(index=[s for s in SPLITS if s in table.index], columns=list(SEX_NAMES), fill_value=0)
    left = np.zeros(len(table))
    for sex, n in table.items():
        ax.barh(table.index, n, left=left, color=SEX_COLOURS[sex], height=0.6)
        left += n.to_numpy()
    _name_bars(ax, left, ".0f", 1.15)
    ax.set(xlabel="Subjects" if by_subject else "Windows (one subject, split in time)", title="Splits")


def _draw_prevalence(ax: Axes, index: pd.DataFrame, column: str) -> None:
    share = 100 * index[column].replace("", "not labelled").value_counts(normalize=True)
    share = share.sort_values(ascending=False, kind="stable")
    ax.barh([label_words(name) for name in share.index], share, color=COLOURS["grey"], height=0.65)
    _name_bars(ax, share.to_numpy(), ".1f", 1.25)
    ax.set(xlabel="Windows (%)", title=column.capitalize())


def _name_bars(ax: Axes, lengths: np.ndarray, number_format: str, room: float) -> None:
    """Write its length behind each of the horizontal bars, the first on top."""
    for y, length in enumerate(lengths):
        ax.text(length + 0.02 * lengths.max(), y, format(length, number_format), va="center", fontsize=7)
    ax.set_xlim(0, room * lengths.max())
    ax.invert_yaxis()


def _draw_heart_rate(ax: Axes, index: pd.DataFrame) -> None:
    known = index.dropna(subset=["heart_rate"])
    sexes = [sex for sex in _sexes(known) if sex] or [""]
    _histogram(ax, known[known["sex"].isin(sexes)], "heart_rate", hue="sex", hue_order=sexes, palette=SEX_COLOURS,
               element="step", fill=False, stat="percent", common_norm=False, binwidth=5, lw=1.1)  # fmt: skip
    ax.set(xlabel="Heart rate (beats/min)", ylabel="Windows of that sex (%)", title="Heart rate")


def _draw_arrival_time(ax: Axes, index: pd.DataFrame) -> None:
    for sex in SEX_NAMES:
        rows = index[index["sex"] == sex].dropna(subset=["age", "pat_ms"])
        ax.scatter(rows["age"], rows["pat_ms"], s=2.5, lw=0, alpha=0.5, color=SEX_COLOURS[sex], rasterized=True)
    ax.set(xlabel="Age (years)", ylabel="Pulse arrival time (ms)", title="R peak to pulse onset")


def _draw_quality(ax: Axes, index: pd.DataFrame) -> None:
    _histogram(ax, index, "quality", bins=np.linspace(0, 1, 21), color=COLOURS["grey"], alpha=1, edgecolor="white",
               linewidth=0.3)  # fmt: skip
    ax.set(xlabel="Quality (0 to 1)", ylabel="Windows", title="Signal quality", xlim=(0, 1))
    ax.yaxis.get_major_locator().set_params(integer=True)


@styled
def plot_cohort(index: pd.DataFrame) -> Figure:
    """Age, sex, splits, prevalence of rhythm and morphology, heart rate, arrival time or quality: what the index knows.

    ``index`` has a row per window and a column ``subject`` (else InputError); drawn where present: ``age`` (years),
    ``sex``, ``split``, ``rhythm``, ``morphology``, ``heart_rate`` (beats/min), ``pat_ms``, ``quality``.
    """
    if "subject" not in index or not len(index):
        raise InputError("the cohort index is empty or has no column 'subject'; prepare the windows first")
    index = index.assign(sex=index["sex"].fillna("") if "sex" in index else "")
    one_subject = index["subject"].nunique(dropna=False) == 1
    known = partial(_known, index)
    drawers = (
        (_known(index.drop_duplicates("subject"), "age") and not one_subject, _draw_age),
        (known("split"), _draw_splits),
        (known("rhythm"), partial(_draw_prevalence, column="rhythm")),
        (known("heart_rate"), _draw_heart_rate),
        (known("pat_ms") and known("age"), _draw_arrival_time),
        (known("morphology"), partial(_draw_prevalence, column="morphology")),
    )
    panels = [draw for is_known, draw in drawers if is_known]
    if known("quality") and len(panels) < 6:
        panels.append(_draw_quality)
    fig, axes = style.page_panels(max(1, len(panels)), 2 if len(panels) == 4 else 3, row_height=2.15, rest=0.3)
    for draw, ax in zip(panels, axes):
        draw(ax, index)
    if not panels:
        style.mark_empty(axes[0], "nothing known of this cohort but its size")
        axes[0].set_axis_off()
    if one_subject:
        row = index.iloc[0]
        age = f"{row['age']:g} years" if _known(index[:1], "age") else "age not known"
        fig.suptitle(f"One subject, {age}, sex {SEX_NAMES[row['sex']]}", x=0.01, ha="left", fontsize=8)
    else:
        style.legend_outside(fig, {SEX_NAMES[sex]: SEX_COLOURS[sex] for sex in _sexes(index)}, "upper right", lw=4)
    return style.lettered(fig, axes)


@styled
def plot_example_window(ppg, ecg, sampling_rate, *, upstrokes=None, r_peaks=None, lead_mask=None,
                        leads=("II", "V1", "V5"), title=None) -> Figure:  # fmt: skip
    """One window: PPG above some leads of the simultaneous ECG, with R peaks, pulse onsets and the time between them.

    ``ppg`` (T,) is a z-score, ``ecg`` (12, T) in mV; 0 in ``lead_mask`` (12,) marks absent leads. ``upstrokes`` and
    ``r_peaks`` are seconds from the start of the window; NaN padding is ignored. An InputError for other shapes.
    """
    ppg, ecg = np.asarray(ppg, dtype=float).reshape(-1), np.asarray(ecg, dtype=float)
    if ecg.shape != (12, len(ppg)):
        raise InputError(f"ppg has shape {ppg.shape} and ecg {ecg.shape}; expected (T,) and (12, T)")
    t = np.arange(len(ppg)) / sampling_rate  # s
    upstrokes, r_peaks = (
        np.array([x for x in ([] if marks is None else np.atleast_1d(marks)) if 0 <= x <= t[-1]], dtype=float)
        for marks in (upstrokes, r_peaks)
    )
    rows = lead_rows(leads)
    mask = np.full(12, 2) if lead_mask is None else np.asarray(lead_mask).reshape(-1)
    absent = [mask[row] == ABSENT or np.isnan(ecg[row]).all() for row in rows]
    heights = [1.2, *(0.4 if missing else 1.0 for missing in absent)]
    fig, axes = style.page_subplots(0.45 + 0.8 * sum(heights), 1 + len(leads), 1, sharex=True, height_ratios=heights)
    axes = np.atleast_1d(axes)  # one panel without leads
    _draw_pulse(axes[0], t, ppg, upstrokes, r_peaks)
    for ax, lead, row, missing in zip(axes[1:], leads, rows, absent, strict=True):
        ax.set_ylabel(lead if missing else f"{lead} (mV)")
        if missing:
            style.mark_empty(ax)
            continue
        ax.plot(t, ecg[row], color=TRUTH)
        for r_peak in r_peaks:
            ax.axvline(r_peak, **_R_PEAK)
    for ax in axes[:-1]:
        ax.tick_params(bottom=False)
        ax.spines["bottom"].set_visible(False)
    axes[-1].set(xlabel="Time (s)", xlim=(0, t[-1]))
    axes[0].set_title(title or "")
    looks = (("R peak", r_peaks, _R_PEAK),
             ("pulse onset", upstrokes, {"color": COLOURS["blue"], "marker": "o", "ms": 3, "lw": 0}))  # fmt: skip
    if handles := [Line2D([], [], label=name, **look) for name, marks, look in looks if marks.size]:
        axes[0].legend(handles=handles, loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0.2)
    fig.align_ylabels(axes)
    return fig


def _draw_pulse(ax: Axes, t: np.ndarray, ppg: np.ndarray, upstrokes: np.ndarray, r_peaks: np.ndarray) -> None:
    """The PPG with its onsets and R peaks; above it the arrival time of a beat near the middle, if one has an onset."""
    ax.plot(t, ppg, color=COLOURS["vermillion"])
    ax.plot(upstrokes, np.interp(upstrokes, t, ppg), "o", color=COLOURS["blue"], ms=3, gid="upstrokes")
    ax.set_ylabel("PPG (z-score)")
    for r_peak in r_peaks:
        ax.axvline(r_peak, ymax=0.77, **_R_PEAK)
    low, high = np.nanmin(ppg), np.nanmax(ppg)
    ax.set_ylim(low - 0.06 * (high - low), high + 0.3 * (high - low))
    delays = upstrokes[None, :] - r_peaks[:, None]  # (n_r, n_onsets)
    delays[(delays <= 0) | (delays > 0.7)] = np.nan
    beats = np.flatnonzero(np.isfinite(delays).any(axis=1))
    if beats.size:
        beat = beats[len(beats) // 2]
        start, delay, height = r_peaks[beat], np.nanmin(delays[beat]), high + 0.17 * (high - low)
        ax.axvline(start, **_R_PEAK)
        arrow = {"arrowstyle": "<->", "lw": 0.8, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 6}
        ax.annotate("", (start + delay, height), (start, height), arrowprops=arrow)
        ax.text(start - 0.06, height, f"arrival time {1000 * delay:.0f} ms", ha="right", va="center", fontsize=7)


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


def _draw_spectrum(ax: Axes, real, simulated, rate: float, highest_hz: float, title: str) -> None:
    """Median and middle half of the spectra of windows (N, ..., T)."""
    for x, look in ((simulated, _SIMULATED), (real, _REAL)):
        frequencies, density = spectrum(x, rate)
        density = 10 * np.log10(np.maximum(density.reshape(-1, density.shape[-1]), 1e-9))
        low, middle, high = np.percentile(density, (25, 50, 75), axis=0)
        shown = (frequencies > 0) & (frequencies <= highest_hz)
        _draw_band(ax, frequencies[shown], low[shown], middle[shown], high[shown], look)
    ax.set(xlabel="Frequency (Hz)", ylabel="Share of power (dB/Hz)", title=title, xlim=(0, highest_hz))


@styled
def plot_recorded_simulated(
    real: MeasuredWindows, simulated: MeasuredWindows, sampling_rate: float, *, ppg: str = "recorded"
) -> Figure:
    """Heart rate, intervals, arrival time, spectra of PPG and ECG, and the averaged beat of one lead.

    Pairs are those of :func:`p2es_lib.evaluation.realism.pair_samples`, at a rate in Hz. ``ppg`` is ``"recorded"``, or
    ``"simulated"`` for semi-synthetic windows, which the panels of the PPG then say.
    """
    fig, axes = style.page_panels(6, 3, row_height=2.15, rest=0.0)
    beat_to_beat = 5 * max(1, round(np.nanpercentile(real.measured["rmssd_ms"], 97) / 150))
    for ax, name, width, label, title in (
        (axes[0], "heart_rate", 5, "Heart rate (beats/min)", "Heart rate"),
        (axes[1], "rmssd_ms", beat_to_beat, "RMSSD within a window (ms)", "Change from beat to beat"),
        (axes[2], "pat_ms", 10, "R peak to pulse onset (ms)", "Arrival time"),
    ):
        _draw_histogram(ax, real.measured[name], simulated.measured[name], width, label, title)
    _draw_spectrum(axes[3], real.ppg, simulated.ppg, sampling_rate, 10.0, "PPG")
    if rows := lead_rows(real.leads):
        title = f"ECG, {len(rows)} leads"
        _draw_spectrum(axes[4], real.ecg[:, rows], simulated.ecg[:, rows], sampling_rate, 45.0, title)
        lead = "II" if "II" in real.leads else real.leads[0]
        _draw_beats(axes[5], real, simulated, lead)
        axes[5].set(title=f"Averaged beat, {lead}", xlabel="Time from R peak (s)", ylabel="mV")
    else:
        for ax, title in zip(axes[4:], ("ECG", "Averaged beat"), strict=True):
            style.mark_empty(ax, "no lead is named")
            ax.set(title=title)
            ax.set_axis_off()
    style.legend_outside(fig, _COLOURS, "upper right", 2, lw=2)
    if ppg == "simulated":
        words = "Panels c and d: the PPG of these pairs is simulated, from the beats of the real ECG"
        fig.suptitle(words, x=0.01, ha="left", fontsize=7.5)
    return style.lettered(fig, axes)


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
    # Columns as on ECG paper: limb leads, augmented leads, V1 to V3, V4 to V6.
    order = np.reshape(leads, (4, 3)).T.ravel() if len(leads) == 12 else leads
    fig, axes = style.page_panels(len(leads), 4, row_height=1.45, rest=0.4, sharex=True)
    for ax, lead in zip(axes, order, strict=True):
        _draw_beats(ax, real, simulated, lead)
        ax.set_title(lead)
        ax.yaxis.set_major_locator(MaxNLocator(4))
    fig.supxlabel("Time from R peak (s)", fontsize=7.5)
    fig.supylabel("mV; median, and 5 to 95 % of people", fontsize=7.5)
    style.legend_outside(fig, _COLOURS, "upper right", 2, lw=2)
    return fig


@styled
def plot_measurements_compared(table: pd.DataFrame, areas: pd.DataFrame | None = None,
                               components: pd.DataFrame | None = None) -> Figure:  # fmt: skip
    """Medians (5 to 95 %) of measurements by group, real beside simulated; below, the verdict of the classifiers.

    The tables are those of ``compare``, ``tell_apart`` and ``principal_shares`` of :mod:`p2es_lib.evaluation.realism`.
    """
    groups = [g for g in list(dict.fromkeys(table["group"])) if g != "rhythm: sinus"]
    quantities = [q for q in SHOWN if (table["quantity"] == q).any()]
    if not quantities:
        raise InputError("plot_measurements_compared: none of its measurements is in the table")
    n_columns = min(5, len(quantities))
    height = (0.55 + 0.13 * len(groups)) * -(-len(quantities) // n_columns)
    below = [(draw, data) for draw, data in ((_draw_areas, areas), (_draw_components, components)) if data is not None]
    fig = style.new_figure(style.PAGE_WIDTH, height + 2.5 * bool(below) + 0.3)
    top, bottom = fig.subfigures(2, 1, height_ratios=[height, 2.5]) if below else (fig, None)
    axes = style.rows_of(top, len(quantities), n_columns, sharey=True)
    for ax, quantity in zip(axes, quantities, strict=True):
        _draw_quantity(ax, table[table["quantity"] == quantity].set_index("group"), groups)
        ax.set_xlabel(SHOWN[quantity])
    names = [label_words(group.rpartition(": ")[2]) for group in groups]
    style.name_rows(axes[0], [name[:1].upper() + name[1:] for name in names])
    style.legend_outside(fig, _COLOURS, "upper right", 2, lw=2)
    if below:
        lower = bottom.subplots(1, len(below), squeeze=False, width_ratios=[1.5, 1][: len(below)])[0]
        for (draw, data), ax in zip(below, lower, strict=True):
            draw(ax, data)
        style.lettered(fig, [axes[0], *lower])
    return fig


def _draw_quantity(ax: Axes, rows: pd.DataFrame, groups: Sequence[str]) -> None:
    rows = rows.reindex(groups)
    for name, look, shift in (("real", _REAL, -0.16), ("simulated", _SIMULATED, 0.16)):
        y = np.arange(len(groups)) + shift
        ax.plot([rows[f"{name}_p5"], rows[f"{name}_p95"]], [y, y], lw=0.8, **look)
        ax.plot(rows[f"{name}_p50"], y, "o", ms=2.8, mew=0, **look)
    ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.tick_params(axis="y", length=0)
    for y in range(1, len(groups)):
        ax.axhline(y - 0.5, color="#EEEEEE", lw=0.5, zorder=0)


def _draw_areas(ax: Axes, areas: pd.DataFrame) -> None:
    everyone = areas[areas["group"] == "all"]
    features = list(dict.fromkeys(everyone["features"]))
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
    fig, axes = style.page_subplots(0.95 * len(examples) + 0.3, len(examples), 2, sharex=True, squeeze=False)
    for (left, right), example in zip(axes, examples, strict=True):
        t = np.arange(len(example["ppg"])) / sampling_rate
        colour = COLOURS["green"] if example["kept"] else COLOURS["vermillion"]
        left.plot(t, example["ppg"], lw=0.8, color=TRUTH)
        right.plot(t, example["ecg"], lw=0.8, color=TRUTH)
        left.set_title(example["title"], color=colour)
        left.set(ylabel="PPG", yticks=[])
        right.set_ylabel(f"{example['lead']} (mV)" if example["lead"] else "ECG")
        right.yaxis.set_major_locator(MaxNLocator(3))
    for ax in axes[-1]:
        ax.set(xlabel="Time (s)", xlim=(0, t[-1]))
    fig.align_ylabels(axes[:, 1])
    return fig
