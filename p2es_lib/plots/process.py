"""The forward process in time and frequency, the way back along the sampling steps, and the two stages of a step."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import LEADS
from p2es_lib.plots import style
from p2es_lib.plots.style import COLOURS, CYCLE, ESTIMATE, TIME_MAP, TRUTH, letter_panels, page_figure, styled

#: How each blur is introduced, and the axis along which it acts.
_BLURS = {
    "dct": ("Blur of the waveform", "Frequency (Hz)"),
    "spectral": ("Blur of the spectrum", "Time (s)"),
    "none": ("No blur", "Frequency (Hz)"),
}
_MAX_FREQUENCY = 40.0  # Hz, where frequency axes end
_MAX_ROWS = 6  # sampling steps that are drawn


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

    Top: 3 s of x_t, and the blurred signal without its noise as a black line if given. Middle: response of the blur
    along the axis on which it acts. Bottom: signal-to-noise ratio on the same axis.

    Parameters
    ----------
    times : array (n_t,)
        Diffusion times in [0, 1].
    states, blurred : mapping blur -> array (n_t, T), mV
        x_t of one lead at ``sampling_rate`` (Hz), and its mean given x_0; blurs: ``dct``, ``spectral``, ``none``.
    axes : mapping blur -> array (K,)
        Frequencies (Hz) for ``dct`` and ``none``, times (s) for ``spectral``.
    responses, snr_db : mapping blur -> array (n_t, K)
        Amplitude response d_t, and 10 log10 of the signal-to-noise ratio.
    """
    times = np.asarray(times, dtype=float)
    for blur in states:
        shapes = np.shape(states[blur]), np.shape(responses[blur]), np.shape(snr_db[blur])
        if blur not in _BLURS or any(len(shape) != 2 or shape[0] != len(times) for shape in shapes):
            expected = f"one of {', '.join(_BLURS)}, and {len(times)} rows"
            raise InputError(f"blur {blur!r} with arrays of shapes {shapes}: expected {expected}")
    colours, labels = TIME_MAP(times), [f"t = {t:.2g}" for t in times]
    noisy_colours = colours if blurred is None else [(*colour[:3], 0.5) for colour in colours]
    fig = page_figure(2.6 + 0.42 * len(times) + 0.4)
    grid = fig.subplots(3, len(states), squeeze=False, height_ratios=[0.42 * len(times), 1.25, 1.25])
    part, time = _middle(np.shape(next(iter(states.values())))[1], sampling_rate, 3.0)
    shown = np.concatenate([np.asarray(state)[:, part] for state in states.values()], axis=1)
    spacing = 0.85 * max(float(np.ptp(np.quantile(shown, [0.002, 0.998]))), 1e-9)
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
        bottom.set(ylabel="Signal to noise (dB)", ylim=_snr_limits(snr_db, axes))
        bottom.axhline(0, color=COLOURS["grey"], lw=0.6, ls=style.DASHED, zorder=0)
    _scale_bar(grid[0, -1])
    looks = {label: {"color": colour, "lw": 1.8} for label, colour in zip(labels, colours, strict=True)}
    style.legend_outside(fig, looks, "lower center", len(times))
    letter_panels(grid.ravel())
    return fig


def _snr_limits(snr_db, axes) -> tuple[float, float]:
    """Common limits of the panels, dB; beyond 80 dB nothing is left to tell apart."""
    seen = [np.asarray(snr_db[blur])[:, np.asarray(axes[blur]) <= _MAX_FREQUENCY] for blur in snr_db]
    values = np.concatenate([part[np.isfinite(part)] for part in seen])
    return max(values.min() - 3, -80.0), min(values.max() + 3, 80.0)


@styled
def plot_reverse_process(times, states, x0_hats, truth, sampling_rate, *, lead="II") -> Figure:
    """Reverse process: 4 s of x_t and of the estimate of x_0 at some sampling steps, and the error of all estimates.

    Parameters
    ----------
    times : array (n,)
        Diffusion times of the steps, from 1 downwards.
    states, x0_hats, truth : array (n, T), (n, T), (T,), mV
        One lead: x_t before the step, the estimate made of it, and the reference, at ``sampling_rate`` (Hz).
    """
    times, states, x0_hats, truth = (np.asarray(a, dtype=float) for a in (times, states, x0_hats, truth))
    if states.shape != x0_hats.shape or states.shape != (len(times), len(truth)):
        shapes = f"times {times.shape}, states {states.shape}, x0_hats {x0_hats.shape}, truth {truth.shape}"
        raise InputError(f"{shapes}: expected (n,), (n, T), (n, T) and (T,)")
    rows = np.unique(np.linspace(0, len(times) - 1, min(_MAX_ROWS, len(times))).round().astype(int))
    fig = page_figure(0.95 + 0.48 * len(rows) + 1.25)
    layout = fig.add_gridspec(2, 2, height_ratios=[0.48 * len(rows) + 0.5, 1.3])
    left, right, below = (fig.add_subplot(layout[place]) for place in ((0, 0), (0, 1), (1, slice(None))))
    part, time = _middle(len(truth), sampling_rate, 4.0)
    spacing = 0.8 * max(np.ptp(np.quantile(states, [0.002, 0.998])), np.ptp(truth), 1e-9)
    labels = [f"t = {times[row]:.2g}" for row in rows]
    _stack(left, time, states[rows, part], TIME_MAP(times[rows]), labels, spacing=spacing)
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
    letter_panels((left, right, below))
    return fig


@styled
def plot_stages(truth, coarse, refined, contributions: Mapping[str, np.ndarray], sampling_rate, *, frequencies,
                error_coarse, error_refined, gains: Mapping[float, np.ndarray],
                local_share=None) -> Figure:  # fmt: skip
    """Lead II through the two stages for 3 s, the error spectrum before and after stage 2, the gain of the deblurring.

    Parameters
    ----------
    truth, coarse, refined : array (12, T), mV
        Reference, output of stage 1, output of stage 2, at ``sampling_rate`` (Hz).
    contributions : mapping scale -> array (T,), mV
        What each time scale adds to stage 1 for this lead; keys such as ``"0.3 s"``, shortest first.
    frequencies, error_coarse, error_refined : array (K,)
        Hz, and root-mean-square error per frequency before and after stage 2, mV.
    gains : mapping t -> array (K,)
        Weight that the deblurring gives to x_t against the coarse estimate, alpha_t times its gain, at some times t.
    local_share : array (T,), optional
        Share of the deblurring's correction that is taken at each sample of this lead.
    """
    signals = [np.asarray(a, dtype=float) for a in (truth, coarse, refined)]
    shapes = [signal.shape for signal in signals]
    if len(set(shapes)) > 1 or len(shapes[0]) != 2 or shapes[0][0] != 12:
        raise InputError("truth {}, coarse {}, refined {}: expected (12, T) each".format(*shapes))
    part = slice(0, int(3.0 * sampling_rate))
    time = np.arange(shapes[0][1])[part] / sampling_rate
    fig = page_figure(4.7)
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
        gain.plot(frequencies, curve, color=TIME_MAP(float(t)), lw=1.1, label=f"t = {float(t):.2g}")
    gain.set(ylabel="Weight of $x_t$", title="Deblurring gain", ylim=(0, 1.05))
    for ax, n_columns in ((spectrum, 1), (gain, 2)):
        ax.set(xlabel="Frequency (Hz)", xlim=(0, _MAX_FREQUENCY))
        ax.legend(loc="upper right", ncols=n_columns)
    letter_panels((stages, scales, spectrum, gain))
    return fig


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
