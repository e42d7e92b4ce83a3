"""The page that ``p2es translate`` writes: A4 landscape, ECG paper at true scale when printed at 100 %.

Three rows of four leads, a rhythm strip and the PPG: ten seconds at 25 mm/s and 10 mm/mV. As on any ECG recorder rows
have a fixed distance, and a tall trace runs over its neighbour. The one axes of the page is in millimetres, so the
scale holds by construction (:mod:`p2es_lib.plots.ecg_paper`, whose strips and grid these are).
"""

from __future__ import annotations

import dataclasses
import textwrap

import numpy as np
from matplotlib.figure import Figure

from p2es_lib.core.leads import lead_rows
from p2es_lib.plots import ecg_paper as paper
from p2es_lib.plots.ecg_traces import EcgTraces
from p2es_lib.plots.style import drawable, styled

#: A4 landscape, mm.
PAGE_MM = (297.0, 210.0)
#: The grid on it, mm: whole squares of 5 mm; 10 s and the calibration pulse take 260 of its 280 mm.
_LEFT, _BOTTOM, _RIGHT, _TOP = 8.5, 14.0, 288.5, 189.0
#: Height of a row of leads, and how far its zero line lies below its top, mm; the rest is the PPG's.
_ROW, _ZERO = 38.0, 20.0
_LINE_CHARACTERS = 160
WARNING = "Research use only, not a diagnosis. Synthesised from PPG, not recorded with electrodes."


@styled
def plot_translation(
    ecg_mean, sampling_rate, ppg, *,
    spread=None, age=None, sex="", model="P2Es", quality="", record="", rhythm_lead="II",
) -> Figure:  # fmt: skip
    """First 10 s of a synthesised ECG with the PPG it came from, whom and what it is of, and a warning; 297 x 210 mm.

    Parameters
    ----------
    ecg_mean : array (12, T) mV
        Posterior mean; NaN where nothing was translated.
    sampling_rate : float
        Hz, of ECG and PPG.
    ppg : array (T,)
        Any unit.
    spread : pair of arrays (12, T) mV, optional
        Edges of the band of the samples.
    age, sex : float (years) and ``"F"``, ``"M"`` or ``""``
        As given to the model; age may be None.
    model, quality, record : str
        Which model made it, how good the PPG is, and of what it is: one line each.
    rhythm_lead : str
    """
    lead_rows([rhythm_lead])
    traces = EcgTraces.of(sampling_rate, estimate=ecg_mean, spread=spread)
    rows = paper.strips_of(traces, rhythm_lead, 2.5)
    shift = _LEFT + paper.CALIBRATION_MM - rows[-1][0].x
    fig, ax, clip = paper.paper_axes(*PAGE_MM, _LEFT, _BOTTOM, _RIGHT, _TOP)
    for number, strips in enumerate(rows):
        labels = [min(label, _ZERO - 5.0) for label in paper.row_extent(traces, strips)[2]]
        strips = [dataclasses.replace(strip, x=strip.x + shift) for strip in strips]
        paper.draw_row(ax, traces, strips, labels, _LEFT, _TOP - number * _ROW - _ZERO, clip)
    ppg = np.asarray(ppg, dtype=float)[: rows[-1][0].stop]
    if np.isfinite(ppg).any():
        paper.draw_ppg(ax, ppg, traces.sampling_rate, _LEFT + paper.CALIBRATION_MM, _BOTTOM + 1.0)
    _write_margins(ax, traces, age, sex, model, quality, record)
    return fig


def _write_margins(ax, traces: EcgTraces, age, sex: str, model: str, quality: str, record: str) -> None:
    """Head: record, person, model, quality, legend. Foot: warning and scale."""
    person = f"age {age:g} years" if age is not None and np.isfinite(age) else "age not known"
    person += f", sex {sex}" if sex else ", sex not known"
    title = textwrap.shorten(drawable(record) or "12-lead ECG from PPG", 75, placeholder=" ...")
    ax.text(_LEFT, 205.5, title, fontsize=10, fontweight="bold", va="center")
    paper.draw_legend(ax, traces, _RIGHT, 205.5)
    who = textwrap.shorten(f"{person}   |   {model}", _LINE_CHARACTERS, placeholder=" ...")
    ax.text(_LEFT, 200.3, who, fontsize=8, va="center")
    lines = textwrap.wrap(quality, 200, max_lines=2, placeholder=" ...")
    ax.text(_LEFT, 194.2, "\n".join(lines), fontsize=7.5, va="center")
    ax.text(_LEFT, _BOTTOM / 2, WARNING, fontsize=9, fontweight="bold", va="center")
    scale = f"{paper.MM_PER_S:g} mm/s   {paper.MM_PER_MV:g} mm/mV   {traces.sampling_rate:g} Hz   A4 at 100 %"
    ax.text(_RIGHT, _BOTTOM / 2, scale, fontsize=8, va="center", ha="right")
