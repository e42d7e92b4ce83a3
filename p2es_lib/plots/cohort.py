"""The cohort at a glance, and one example window with its beats."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import ABSENT, lead_rows
from p2es_lib.data.windows import SPLITS, label_words
from p2es_lib.plots import style
from p2es_lib.plots.style import COLOURS, SEX_COLOURS, SEX_NAMES, TRUTH, page_figure, styled

_R_PEAK = {"color": COLOURS["grey"], "lw": 0.6, "ls": style.DASHED, "zorder": 0}


def _known(frame: pd.DataFrame, column: str) -> bool:
    """Whether a column says anything at all."""
    return column in frame and (frame[column].notna() & (frame[column] != "")).any()


def _sexes(frame: pd.DataFrame) -> list[str]:
    return [sex for sex in SEX_NAMES if (frame["sex"] == sex).any()]


def _histogram(ax: Axes, rows: pd.DataFrame, column: str, **options) -> None:
    import seaborn as sns  # of the extra "companion"

    sns.histplot(data=rows, x=column, legend=False, ax=ax, **options)


def _draw_age(ax: Axes, index: pd.DataFrame) -> None:
    subjects = index.drop_duplicates("subject")
    known = subjects[subjects["age"].notna()]
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
    known = index[index["heart_rate"].notna()]
    sexes = [sex for sex in _sexes(known) if sex] or [""]
    _histogram(ax, known[known["sex"].isin(sexes)], "heart_rate", hue="sex", hue_order=sexes, palette=SEX_COLOURS,
               element="step", fill=False, stat="percent", common_norm=False, binwidth=5, lw=1.1)  # fmt: skip
    ax.set(xlabel="Heart rate (beats/min)", ylabel="Windows of that sex (%)", title="Heart rate")


def _draw_arrival_time(ax: Axes, index: pd.DataFrame) -> None:
    known = index[index["age"].notna() & index["pat_ms"].notna()]
    for sex in SEX_NAMES:
        rows = known[known["sex"] == sex]
        ax.scatter(rows["age"], rows["pat_ms"], s=2.5, lw=0, alpha=0.5, color=SEX_COLOURS[sex], rasterized=True)
    ax.set(xlabel="Age (years)", ylabel="Pulse arrival time (ms)", title="R peak to pulse onset")


def _draw_quality(ax: Axes, index: pd.DataFrame) -> None:
    _histogram(ax, index, "quality", bins=np.linspace(0, 1, 21), color=COLOURS["grey"], alpha=1, edgecolor="white",
               linewidth=0.3)  # fmt: skip
    ax.set(xlabel="Quality (0 to 1)", ylabel="Windows", title="Signal quality", xlim=(0, 1))
    ax.yaxis.get_major_locator().set_params(integer=True)


def _draw_nothing(ax: Axes, index: pd.DataFrame) -> None:
    style.mark_empty(ax, "nothing known of this cohort but its size")
    ax.set_axis_off()


@styled
def plot_cohort(index: pd.DataFrame) -> Figure:
    """Age, sex, splits, prevalence of rhythm and morphology, heart rate, arrival time or quality: what the index knows.

    ``index`` has a row per window and a column ``subject`` (else InputError); used when present: ``age`` (years),
    ``sex``, ``split``, ``rhythm``, ``morphology``, ``heart_rate`` (beats/min), ``pat_ms``, ``quality``. Panels without
    data are left out.
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
    panels = panels or [_draw_nothing]
    n_columns = min(3, len(panels)) if len(panels) != 4 else 2
    fig = page_figure(2.15 * -(-len(panels) // n_columns) + 0.3)
    axes = style.rows_of(fig, len(panels), n_columns)
    for draw, ax in zip(panels, axes, strict=True):
        draw(ax, index)
    style.letter_panels(axes)
    if one_subject:
        row = index.iloc[0]
        age = f"{row['age']:g} years" if _known(index[:1], "age") else "age not known"
        fig.suptitle(f"One subject, {age}, sex {SEX_NAMES[row['sex']]}", x=0.01, ha="left", fontsize=8)
    else:
        looks = {SEX_NAMES[sex]: {"color": SEX_COLOURS[sex], "lw": 4} for sex in _sexes(index)}
        style.legend_outside(fig, looks, "upper right")
    return fig


def _draw_arrival(ax: Axes, upstrokes: np.ndarray, r_peaks: np.ndarray, height: float) -> None:
    """Name the arrival time of one beat near the middle, an arrow from its R peak to the next pulse onset."""
    delays = upstrokes[None, :] - r_peaks[:, None]  # (n_r, n_onsets)
    delays[(delays <= 0) | (delays > 0.7)] = np.nan
    beats = np.flatnonzero(np.isfinite(delays).any(axis=1))
    if not beats.size:
        return
    beat = beats[len(beats) // 2]
    start, delay = r_peaks[beat], np.nanmin(delays[beat])
    ax.axvline(start, **_R_PEAK)
    arrow = {"arrowstyle": "<->", "lw": 0.8, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 6}
    ax.annotate("", (start + delay, height), (start, height), arrowprops=arrow)
    ax.text(start - 0.06, height, f"arrival time {1000 * delay:.0f} ms", ha="right", va="center", fontsize=7)


@styled
def plot_example_window(ppg, ecg, sampling_rate, *, upstrokes=None, r_peaks=None, lead_mask=None,
                        leads=("II", "V1", "V5"), title=None) -> Figure:  # fmt: skip
    """One window: PPG above some leads of the simultaneous ECG, with R peaks, pulse onsets and the time between them.

    Parameters
    ----------
    ppg, ecg : arrays (T,) and (12, T)
        z-score, mV.
    sampling_rate : float, Hz
    upstrokes, r_peaks : arrays of seconds, optional
        Pulse onsets and R peaks from the start of the window; NaN padding is ignored.
    lead_mask : array (12,), optional
        0 marks absent leads.
    """
    ppg, ecg = np.asarray(ppg, dtype=float).reshape(-1), np.asarray(ecg, dtype=float)
    if ecg.shape != (12, len(ppg)):
        raise InputError(f"ppg has shape {ppg.shape} and ecg {ecg.shape}; expected (T,) and (12, T)")
    t = np.arange(len(ppg)) / sampling_rate  # s
    upstrokes, r_peaks = (
        np.array([x for x in ([] if marks is None else marks) if 0 <= x <= t[-1]], dtype=float)
        for marks in (upstrokes, r_peaks)
    )
    rows = lead_rows(leads)
    mask = np.full(12, 2) if lead_mask is None else np.asarray(lead_mask).reshape(-1)
    absent = [mask[row] == ABSENT or np.isnan(ecg[row]).all() for row in rows]
    heights = [1.2, *(0.4 if missing else 1.0 for missing in absent)]
    fig = page_figure(0.45 + 0.8 * sum(heights))
    axes = fig.subplots(1 + len(leads), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
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
    handles = [Line2D([], [], **_R_PEAK, label="R peak")] if r_peaks.size else []
    if upstrokes.size:
        handles.append(Line2D([], [], color=COLOURS["blue"], marker="o", ms=3, lw=0, label="pulse onset"))
    if handles:
        axes[0].legend(handles=handles, loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0.2)
    fig.align_ylabels(axes)
    return fig


def _draw_pulse(ax: Axes, t: np.ndarray, ppg: np.ndarray, upstrokes: np.ndarray, r_peaks: np.ndarray) -> None:
    """The PPG with its onsets and R peaks; above it room for the arrival time of one beat."""
    ax.plot(t, ppg, color=COLOURS["vermillion"])
    ax.plot(upstrokes, np.interp(upstrokes, t, ppg), "o", color=COLOURS["blue"], ms=3, gid="upstrokes")
    ax.set_ylabel("PPG (z-score)")
    for r_peak in r_peaks:
        ax.axvline(r_peak, ymax=0.77, **_R_PEAK)
    low, high = np.nanmin(ppg), np.nanmax(ppg)
    ax.set_ylim(low - 0.06 * (high - low), high + 0.3 * (high - low))
    _draw_arrival(ax, upstrokes, r_peaks, high + 0.17 * (high - low))
