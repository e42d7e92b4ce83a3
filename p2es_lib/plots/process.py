"""The forward process in time and frequency, and the way back along the sampling steps."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from p2es_lib.core.errors import InputError
from p2es_lib.plots.style import COLOURS, ESTIMATE, TIME_MAP, TRUTH, letter_panels, page_figure, styled

#: How each blur is introduced, and the axis along which it acts.
_BLURS = {
    "dct": ("Blur of the waveform", "Frequency (Hz)"),
    "spectral": ("Blur of the spectrum", "Time (s)"),
    "none": ("No blur", "Frequency (Hz)"),
}


def _middle(window_samples: int, sampling_rate: float, duration_s: float) -> tuple[slice, np.ndarray]:
    """Samples in the middle of a window, and their times from its start, s."""
    count = min(window_samples, max(round(duration_s * sampling_rate), 2))
    start = (window_samples - count) // 2
    return slice(start, start + count), np.arange(start, start + count) / sampling_rate


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


def _scale_bar(ax: Axes, unit: str) -> None:
    """A vertical bar of one unit at the right of a stack of signals, which has no axis of its own."""
    low, high = ax.get_ylim()
    ax.plot([1.015, 1.015], [low, low + 1], transform=ax.get_yaxis_transform(), color=TRUTH, lw=1.2, clip_on=False)
    ax.text(1.03, low + 0.5, f"1 {unit}", transform=ax.get_yaxis_transform(), rotation=90, va="center", fontsize=7)


@styled
def plot_forward_process(times, states: Mapping[str, np.ndarray], axes: Mapping[str, np.ndarray],
                         responses: Mapping[str, np.ndarray], snr_db: Mapping[str, np.ndarray], sampling_rate, *,
                         blurred: Mapping[str, np.ndarray] | None = None, duration_s=3.0, max_frequency=40.0,
                         unit="mV") -> Figure:  # fmt: skip
    """Forward process: the waveform at several times, and what blur and noise leave of it; one column per blur.

    Top: x_t, and the blurred signal without its noise as a black line if given. Middle: response of the blur along the
    axis on which it acts. Bottom: signal-to-noise ratio on the same axis.

    Parameters
    ----------
    times : array (n_t,)
        Diffusion times in [0, 1].
    states, blurred : mapping blur -> array (n_t, T)
        x_t of one lead, and its mean given x_0. Blurs are ``dct``, ``spectral``, ``none``, in the order of the columns.
    axes : mapping blur -> array (K,)
        Frequencies (Hz) for ``dct`` and ``none``, times (s) for ``spectral``.
    responses, snr_db : mapping blur -> array (n_t, K)
        Amplitude response d_t, and 10 log10 of the signal-to-noise ratio.
    sampling_rate, max_frequency : float, Hz
        The latter is where frequency axes end.
    duration_s : float
        How much of the waveform is drawn, from the middle of the window.
    unit : str
        Unit of the states.
    """
    times = np.asarray(times, dtype=float)
    for blur in states:
        shapes = np.shape(states[blur]), np.shape(responses[blur]), np.shape(snr_db[blur])
        if blur not in _BLURS or any(len(shape) != 2 or shape[0] != len(times) for shape in shapes):
            expected = f"one of {', '.join(_BLURS)}, and {len(times)} rows"
            raise InputError(f"blur {blur!r} with arrays of shapes {shapes}: expected {expected}")
    n = len(states)
    colours = TIME_MAP(times)
    fig = page_figure(2.6 + 0.42 * len(times) + 0.4)
    grid = fig.subplots(3, n, squeeze=False, height_ratios=[0.42 * len(times), 1.25, 1.25])
    part, time = _middle(np.shape(next(iter(states.values())))[1], sampling_rate, duration_s)
    shown = np.concatenate([np.asarray(state)[:, part] for state in states.values()], axis=1)
    spacing = 0.85 * max(float(np.ptp(np.quantile(shown, [0.002, 0.998]))), 1e-9)
    for column, blur in enumerate(states):
        title, axis_label = _BLURS[blur]
        top, middle, bottom = grid[:, column]
        noisy_colours = colours if blurred is None else [(*colour[:3], 0.5) for colour in colours]
        labels = [f"t = {t:.2g}" for t in times]
        _stack(top, time, np.asarray(states[blur])[:, part], noisy_colours, labels, spacing=spacing, width=0.7)
        if blurred is not None:
            mean = np.asarray(blurred[blur])[:, part]
            _stack(top, time, mean, [TRUTH] * len(times), None, spacing=spacing, zorder=3)
        top.set_title(f"{title} ({blur})" if blur != "none" else title)
        for ax, curves in ((middle, responses[blur]), (bottom, snr_db[blur])):
            for curve, colour in zip(np.asarray(curves), colours, strict=True):
                ax.plot(axes[blur], curve, color=colour, lw=1.1)
            in_hertz = axis_label.startswith("Frequency")
            ax.set(xlabel=axis_label, xlim=(0, max_frequency if in_hertz else axes[blur][-1]))
        middle.set(ylim=(0, 1.05), ylabel="Blur response $d_t$")
        bottom.set(ylabel="Signal to noise (dB)", ylim=_snr_limits(snr_db, axes, max_frequency))
        bottom.axhline(0, color=COLOURS["grey"], lw=0.6, ls=(0, (3, 2)), zorder=0)
        top.set_ylim(_stack_limits(shown, spacing))
    _scale_bar(grid[0, -1], unit)
    handles = [Line2D([], [], color=c, lw=1.8, label=f"t = {t:.2g}") for t, c in zip(times, colours, strict=True)]
    fig.legend(handles=handles, loc="outside lower center", ncols=len(times))
    letter_panels(grid.ravel())
    return fig


def _snr_limits(snr_db, axes, max_frequency: float) -> tuple[float, float]:
    """Common limits of the panels, dB; beyond 80 dB nothing is left to tell apart."""
    seen = [np.asarray(snr_db[blur])[:, np.asarray(axes[blur]) <= max_frequency] for blur in snr_db]
    values = np.concatenate([part[np.isfinite(part)] for part in seen])
    return max(values.min() - 3, -80.0), min(values.max() + 3, 80.0)


@styled
def plot_reverse_process(times, states, x0_hats, truth, sampling_rate, *, lead="II", max_rows=6, duration_s=4.0,
                         unit="mV") -> Figure:  # fmt: skip
    """Reverse process: x_t and the estimate of x_0 at some sampling steps, and the estimate's error at all of them.

    Parameters
    ----------
    times : array (n,)
        Diffusion times of the steps, from 1 downwards.
    states, x0_hats : array (n, T)
        x_t before the step, and the estimate made of it; one lead.
    truth : array (T,)
        The reference.
    sampling_rate : float, Hz
    lead, unit : str
        Named in the titles.
    max_rows : int
        Steps drawn, spread evenly, first and last among them.
    duration_s : float
        How much is drawn, from the middle of the window; the error is that of all of it.
    """
    times, states, x0_hats, truth = (np.asarray(a, dtype=float) for a in (times, states, x0_hats, truth))
    if states.shape != x0_hats.shape or states.shape != (len(times), len(truth)):
        shapes = f"times {times.shape}, states {states.shape}, x0_hats {x0_hats.shape}, truth {truth.shape}"
        raise InputError(f"{shapes}: expected (n,), (n, T), (n, T) and (T,)")
    rows = np.unique(np.linspace(0, len(times) - 1, min(max_rows, len(times))).round().astype(int))
    fig = page_figure(0.95 + 0.48 * len(rows) + 1.25)
    layout = fig.add_gridspec(2, 2, height_ratios=[0.48 * len(rows) + 0.5, 1.3])
    left, right, below = fig.add_subplot(layout[0, 0]), fig.add_subplot(layout[0, 1]), fig.add_subplot(layout[1, :])
    part, time = _middle(len(truth), sampling_rate, duration_s)
    spacing = 0.8 * max(np.ptp(np.quantile(states, [0.002, 0.998])), np.ptp(truth), 1e-9)
    labels, colours = [f"t = {times[row]:.2g}" for row in rows], TIME_MAP(times[rows])
    _stack(left, time, states[rows, part], colours, labels, spacing=spacing)
    repeated = np.repeat(truth[None, part], len(rows), axis=0)
    _stack(right, time, repeated, ["#A8A8A8"] * len(rows), None, spacing=spacing, width=1.6)
    _stack(right, time, x0_hats[rows, part], [ESTIMATE] * len(rows), labels, spacing=spacing, zorder=3)
    shown = np.concatenate([states[rows, part], x0_hats[rows, part], repeated], axis=1)
    left.set_title(f"$x_t$, lead {lead}")
    right.set_title(r"Estimate $\hat{x}_0$ (blue) and reference (grey)")
    left.set_ylim(_stack_limits(shown, spacing))
    right.set_ylim(left.get_ylim())
    _scale_bar(right, unit)
    rmse = np.sqrt(np.mean((x0_hats - truth) ** 2, axis=1))
    below.plot(times, rmse, "o-", color=ESTIMATE, ms=3)
    below.set(xlabel="Diffusion time t (sampling runs from left to right)", ylabel=f"RMSE of $\\hat{{x}}_0$ ({unit})",
              xlim=(1.02, -0.02), ylim=(0, 1.1 * rmse.max()))  # fmt: skip
    letter_panels((left, right, below))
    return fig
