"""A model from simulated data on real recordings, record by record."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from p2es_lib.core.errors import InputError
from p2es_lib.plots.style import COLOURS, ESTIMATE, letter_panels, lines_behind, page_figure, styled, unique

#: Records that a page shows legibly.
MOST_RECORDS = 25
_PANELS = {
    "r_peak_f1_lag": "R-peak F1, 50 ms, after lag",
    "heart_rate_error": "Error of the heart rate (min⁻¹)",
    "pearson_lag": "Pearson r after lag, measured leads",
}


@styled
def plot_sim_to_real(table: pd.DataFrame) -> Figure:
    """Beats, heart rate and waveform of each record, a point and its interval per method.

    Parameters
    ----------
    table : DataFrame
        Of :func:`p2es_lib.experiments.sim_to_real.sim_to_real_table`. Of more than 25 records those are shown in which
        the first method finds the fewest beats.
    """
    if table.empty:
        raise InputError("plot_sim_to_real: no record")
    methods = unique(table["method"])
    first = table[table["method"] == methods[0]].sort_values("r_peak_f1_lag", kind="stable")
    records = list(first["record"][:MOST_RECORDS])
    shown = {name: title for name, title in _PANELS.items() if table[name].notna().any()}
    fig = page_figure(0.9 + 0.2 * max(4, len(records)))
    axes = np.atleast_1d(fig.subplots(1, len(shown), sharey=True))
    looks = dict(zip(methods, ((ESTIMATE, "o"), (COLOURS["orange"], "s"), (COLOURS["grey"], "D"))))
    for ax, (name, title) in zip(axes, shown.items(), strict=True):
        for offset, method in zip(np.linspace(-0.22, 0.22, len(methods)), methods):
            rows = table[table["method"] == method].set_index("record").loc[records]
            y, (colour, marker) = np.arange(len(records)) + offset, looks[method]
            ax.hlines(y, rows[f"{name}_lower"], rows[f"{name}_upper"], color=colour, lw=0.9)
            ax.plot(rows[name], y, marker, ms=3.2, mew=0, color=colour)
        ax.set_title(title)
        lines_behind(ax, "x")
    axes[0].set_yticks(range(len(records)), [record.partition("/")[2] or record for record in records])
    axes[0].set_ylim(len(records) - 0.4, -0.6)
    handles = [Line2D([], [], color=c, marker=m, ms=3.5, mew=0, lw=1, label=name) for name, (c, m) in looks.items()]
    fig.legend(handles=handles, loc="outside upper center", ncols=1)
    letter_panels(axes)
    return fig
