"""What each time scale of stage 1 and the frequency deblurring of stage 2 contribute to an estimate."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import lead_rows
from p2es_lib.plots.style import COLOURS, CYCLE, ESTIMATE, TIME_MAP, TRUTH, letter_panels, page_figure, styled


@styled
def plot_stages(truth, coarse, refined, contributions: Mapping[str, np.ndarray], sampling_rate, *, frequencies,
                error_coarse, error_refined, gains: Mapping[float, np.ndarray], local_share=None, lead="II",
                start_s=0.0, duration_s=3.0, max_frequency=40.0) -> Figure:  # fmt: skip
    """One lead through the two stages, the error spectrum before and after stage 2, and the gain of the deblurring.

    Parameters
    ----------
    truth, coarse, refined : array (12, T), mV
        Reference, output of stage 1, output of stage 2.
    contributions : mapping scale -> array (T,)
        What each time scale adds to stage 1 for this lead, mV; keys such as ``"0.3 s"``, shortest first.
    sampling_rate, max_frequency : float, Hz
        The latter is where frequency axes end.
    frequencies, error_coarse, error_refined : array (K,)
        Hz, and root-mean-square error per frequency before and after stage 2, mV.
    gains : mapping t -> array (K,)
        Weight that the deblurring gives to x_t against the coarse estimate, alpha_t times its gain, at some times t.
    local_share : array (T,), optional
        Share of the deblurring's correction that is taken at each sample of this lead.
    lead : str
    start_s, duration_s : float
        Part of the window that is drawn; one that shows single beats.
    """
    truth, coarse, refined = (np.asarray(a, dtype=float) for a in (truth, coarse, refined))
    if not truth.shape == coarse.shape == refined.shape or truth.ndim != 2 or len(truth) != 12:
        raise InputError(f"truth {truth.shape}, coarse {coarse.shape}, refined {refined.shape}: expected (12, T) each")
    row = lead_rows([lead])[0]
    part = slice(int(start_s * sampling_rate), int((start_s + duration_s) * sampling_rate))
    time = np.arange(truth.shape[1])[part] / sampling_rate
    fig = page_figure(4.7)
    upper, lower = fig.subfigures(2, 1, height_ratios=[1.35, 1])
    left, right = upper.subfigures(1, 2)
    share = None if local_share is None else np.asarray(local_share, dtype=float)[part]
    stages = _draw_stages(left, time, truth[row, part], coarse[row, part], refined[row, part], share)
    stages.set_ylabel(f"Lead {lead} (mV)")
    scales = right.subplots()
    _draw_scales(scales, time, {name: np.asarray(x, dtype=float)[part] for name, x in contributions.items()})

    spectrum, gain = lower.subplots(1, 2)
    spectrum.plot(frequencies, error_coarse, color=COLOURS["orange"], lw=1.1, label="after stage 1")
    spectrum.plot(frequencies, error_refined, color=ESTIMATE, lw=1.1, label="after stage 2")
    spectrum.set(xlabel="Frequency (Hz)", ylabel="RMS error (mV)", title="Error per frequency", xlim=(0, max_frequency))
    spectrum.set_ylim(bottom=0)
    spectrum.legend(loc="upper right")
    for t, curve in gains.items():
        gain.plot(frequencies, curve, color=TIME_MAP(float(t)), lw=1.1, label=f"t = {float(t):.2g}")
    gain.set(xlabel="Frequency (Hz)", ylabel="Weight of $x_t$", title="Deblurring gain", xlim=(0, max_frequency))
    gain.set_ylim(0, 1.05)
    gain.legend(loc="upper right", ncols=2)
    letter_panels((stages, scales, spectrum, gain))
    return fig


def _draw_stages(figure, time: np.ndarray, truth, coarse, refined, share) -> Axes:
    """One lead (T,) and what both stages make of it; below it, if given, the share of stage 2 at each sample."""
    stages, below = (
        (figure.subplots(), None) if share is None else figure.subplots(2, 1, height_ratios=[3.6, 1], sharex=True)
    )
    stages.plot(time, truth, color=TRUTH, lw=1.3, label="reference")
    stages.plot(time, coarse, color=COLOURS["orange"], lw=1.1, label="stage 1 (multi-scale)")
    stages.plot(time, refined, color=ESTIMATE, lw=1.1, label="stage 2 (deblurred)")
    stages.set(xlabel="Time (s)" if below is None else "", title="Two stages", xlim=time[[0, -1]])
    if below is not None:
        below.fill_between(time, share, color=ESTIMATE, alpha=0.35, lw=0)
        below.set(xlabel="Time (s)", ylabel="Share of\nstage 2", ylim=(0, 1.02), yticks=(0, 1))
    low, high = stages.get_ylim()
    stages.set_ylim(low, high + 0.28 * (high - low))
    stages.legend(loc="upper left", ncols=2, borderaxespad=0.1, columnspacing=1)
    return stages


def _draw_scales(ax: Axes, time: np.ndarray, pieces: Mapping[str, np.ndarray]) -> None:
    """What each time scale adds (T,), below one another."""
    spacing = 1.05 * max((float(np.ptp(piece)) for piece in pieces.values()), default=1 / 1.05)
    for k, piece in enumerate(pieces.values()):
        ax.plot(time, piece - np.median(piece) - k * spacing, color=CYCLE[k % len(CYCLE)], lw=1.0)
    ax.set_yticks([-k * spacing for k in range(len(pieces))], list(pieces))
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set(xlabel="Time (s)", ylabel="Time scale", title="Contribution of each time scale", xlim=time[[0, -1]])
    _millivolt_bar(ax, spacing)


def _millivolt_bar(ax: Axes, spacing: float) -> None:
    """A vertical bar of a round number of millivolts, about half the distance of two traces."""
    size = 10.0 ** np.floor(np.log10(spacing / 2))
    size *= max(step for step in (1, 2, 5) if step * size <= spacing / 2)
    low = ax.get_ylim()[0]
    ax.plot([1.02] * 2, [low, low + size], transform=ax.get_yaxis_transform(), color=TRUTH, lw=1.2, clip_on=False)
    ax.text(1.035, low + size / 2, f"{size:g} mV", transform=ax.get_yaxis_transform(), rotation=90, va="center",
            fontsize=7)  # fmt: skip
