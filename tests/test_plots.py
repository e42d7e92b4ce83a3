"""Figures: true scale, honest gaps, same bytes twice, nothing clipped or overlapping; tables: names, rounding."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text

from p2es_lib import plots
from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import LEADS, expand_leads
from p2es_lib.plots.results import PARTS
from p2es_lib.plots.style import method_colours

RATE, T = 125.0, 1024
RNG = np.random.default_rng(0)


def _ecg(window_samples: int = T) -> np.ndarray:
    """A sum of Gaussians per beat, (12, T) mV; R peaks 0.35 s after each multiple of 0.9 s."""
    t = np.arange(window_samples) / RATE
    beat = (t % 0.9)[None]
    waves = [(0.15, 0.025), (0.32, 0.01), (0.35, 0.011), (0.38, 0.01), (0.63, 0.055)]
    gains = RNG.uniform(0.5, 1.3, (8, 5)) * [0.12, -0.12, 1.1, -0.25, 0.3]
    return expand_leads(sum(gains[:, k, None] * np.exp(-0.5 * ((beat - m) / s) ** 2) for k, (m, s) in enumerate(waves)))


def _ppg(window_samples: int = T) -> np.ndarray:
    beat = (np.arange(window_samples) / RATE - 0.57) % 0.9
    return np.exp(-0.5 * ((beat - 0.15) / 0.07) ** 2) + 0.4 * np.exp(-0.5 * ((beat - 0.4) / 0.1) ** 2)


def _index(n: int = 200) -> pd.DataFrame:
    return pd.DataFrame({
        "subject": [f"sim-{i:06d}" for i in range(n)],
        "age": RNG.uniform(18, 90, n),
        "sex": RNG.choice(["F", "M"], n),
        "split": RNG.choice(["train", "validation", "test"], n, p=[0.7, 0.1, 0.2]),
        "rhythm": RNG.choice(["sinus", "bradycardia", "tachycardia", "af"], n, p=[0.7, 0.1, 0.1, 0.1]),
        "morphology": RNG.choice(["normal", "lbbb", "anterior_infarction", "st_depression"], n, p=[0.7, 0.1, 0.1, 0.1]),
        "heart_rate": RNG.normal(72, 12, n),
        "pat_ms": RNG.normal(240, 20, n),
        "quality": 1.0,
    })  # fmt: skip


def _results() -> pd.DataFrame:
    values = {
        "P2Es, mean of 8 samples": 0.136, "P2Es, single sample": 0.17, "P2Es, one-step posterior mean": 0.135,
        "Mean-beat template at PPG beats": 0.174, "Irreducible error": 0.122,
        "Irreducible error, beat times known": 0.049,
    }  # fmt: skip
    rows = []
    for (method, value), lead in itertools.product(values.items(), ("all", "measured", *LEADS)):
        rows.append((method, lead, "rmse", value, value - 0.01, value + 0.01))
        rows.append((method, lead, "pearson", 1 - value, 0.7, 0.9))
        shares = (-0.02, 0.3, 0.72) if "known" in method else (0.3, 0.2, 0.5)
        parts = zip(PARTS, shares, strict=True)
        rows += [(method, lead, part, share * value**2, np.nan, np.nan) for part, share in parts]
    return pd.DataFrame(rows, columns=["method", "lead", "metric", "value", "lower", "upper"])


def _history() -> pd.DataFrame:
    """As training writes it: losses and validation scores in rows of their own."""
    steps = np.arange(25, 1001, 25)
    loss, rate = 0.2 + np.exp(-steps / 200), 1e-3 * (1 - steps / 1100)
    losses = pd.DataFrame({"step": steps, "loss": loss, "learning_rate": rate})
    scores = pd.DataFrame({"step": steps[9::10], "validation_rmse": 0.14 + 0.05 * np.exp(-steps[9::10] / 300)})
    return pd.concat([losses, scores]).sort_values("step", kind="stable", ignore_index=True)


def _matrices(n_groups: int) -> np.ndarray:
    weights = np.exp(0.5 * RNG.standard_normal((n_groups, 12, 12)) + 4 * np.eye(12))
    return weights / weights.sum(axis=-1, keepdims=True)


def _forward_process():
    times = np.array([0, 0.25, 0.5, 0.75, 1.0])
    signal = _ecg()[1]
    blurred = np.stack([(1 - t) * signal for t in times])
    states = {blur: blurred + 0.3 * times[:, None] * RNG.standard_normal(T) for blur in ("dct", "spectral")}
    axes = {"dct": np.arange(T) * RATE / 2 / T, "spectral": np.arange(T) / RATE}
    response = np.exp(-times[:, None] * np.linspace(0, 8, T)[None])
    responses = dict.fromkeys(states, response)
    snr_db = dict.fromkeys(states, 30 - 80 * times[:, None] + 20 * np.log10(response))
    means = dict.fromkeys(states, blurred)
    return plots.plot_forward_process(times, states, axes, responses, snr_db, RATE, blurred=means)


def _reverse_process():
    truth, times = _ecg()[1], np.linspace(1, 0, 8)
    states = (1 - times)[:, None] * truth + 0.3 * times[:, None] * RNG.standard_normal(T)
    return plots.plot_reverse_process(times, states, (1 - 0.5 * times)[:, None] * truth, truth, RATE)


def _stages():
    truth, frequencies = _ecg(), np.arange(T) * RATE / 2 / T
    contributions = {"80 ms": 0.5 * truth[1], "0.3 s": 0.3 * truth[1], "1.3 s": 0.1 * truth[1], "5 s": 0.01 * truth[1]}
    gains = {t: np.exp(-frequencies * t / 8) for t in (0.2, 0.4, 0.6, 0.8)}
    error = np.exp(-frequencies)
    return plots.plot_stages(
        truth,
        0.7 * truth,
        0.9 * truth,
        contributions,
        RATE,
        frequencies=frequencies,
        error_coarse=error,
        error_refined=0.5 * error,
        gains=gains,
        local_share=np.abs(np.sin(np.arange(T) / 40)),
    )


def _overlay():
    ecg = _ecg()
    samples = ecg * RNG.uniform(0.7, 1.3, (16, 1, 1))
    return plots.plot_ecg_paper(ecg, RATE, samples=samples, title="sim-20000012", footer="Simulated cohort, seed 0")


def _translation():
    mean = _ecg(2000)
    return plots.plot_translation(
        mean,
        RATE,
        _ppg(2000),
        spread=(mean - 0.1, mean + 0.1),
        age=63,
        sex="F",
        model="P2Es 0.1.0, trained on simulated (quick), weights of 2026-11-25, SHA-256 0123456789ab",
        quality="PPG quality 0.93 of 1; " + "translated 100.0 of 120.0 s; " * 9,
        record="bidmc01",
    )


def _masked():
    mask = np.array([1, 2, 1, 1, 1, 2, 2, 0, 0, 0, 0, 0])
    ecg = _ecg() * (mask > 0)[:, None]
    return plots.plot_ecg_paper(ecg, RATE, lead_mask=mask, title="A title " * 8, footer="word " * 60)


def _one_subject():
    return plots.plot_cohort(_index().assign(subject="p100", age=63.0, sex="F", rhythm="", morphology=""))


def _some_ages_missing():
    return plots.plot_cohort(_index().assign(age=lambda index: index["age"].where(index["age"] > 30)))


def _example():
    marks = {"upstrokes": [0.57, 1.47, np.nan], "r_peaks": [0.35, 1.25]}
    return plots.plot_example_window(_ppg(), _ecg(), RATE, **marks, title="sim-000012, 63 years, F")


def _short_window():
    ecg = _ecg(256)
    return plots.plot_ecg_paper(None, RATE, estimate=ecg, spread=(ecg - 0.1, ecg + 0.1), footer="short")


def _embedding_without_ages():
    return plots.plot_embedding(RNG.standard_normal((9, 2)), np.zeros(9), np.full(9, np.nan), [""] * 9)


def _embedding():
    n = 300
    age = np.where(np.arange(n) % 7 == 0, np.nan, RNG.uniform(18, 90, n))
    return plots.plot_embedding(RNG.standard_normal((n, 2)), np.arange(n) % 6, age, RNG.choice(["F", "M", ""], n))


FIGURES = {
    "cohort, some ages missing": _some_ages_missing,
    "cohort, ages and sex missing": lambda: plots.plot_cohort(_index().assign(age=np.nan, sex="")),
    "one subject": _one_subject,
    "nothing known": lambda: plots.plot_cohort(pd.DataFrame({"subject": ["a", "b"]})),
    "example": _example,
    "example, absent leads": lambda: plots.plot_example_window(_ppg(), _ecg(), RATE, lead_mask=[2] * 6 + [0] * 6),
    "overlay": _overlay,
    "masked": _masked,
    "translation": _translation,
    "short window": _short_window,
    "forward": _forward_process,
    "reverse": _reverse_process,
    "stages": _stages,
    "embedding": _embedding,
    "embedding, no ages": _embedding_without_ages,
    "affinity, 1 group": lambda: plots.plot_affinity(_matrices(1)),
    "affinity, 3 groups": lambda: plots.plot_affinity(_matrices(3), [f"group {g} (n = 999)" for g in (1, 2, 3)]),
    "affinity, 8 groups": lambda: plots.plot_affinity(_matrices(8)),
    "training": lambda: plots.plot_training(_history()),
    "training, 3 seeds": lambda: plots.plot_training({0: _history(), 1: _history(), 2: _history()}),
    "results": lambda: plots.plot_results(_results()),
    "decomposition": lambda: plots.plot_decomposition(_results()),
}  # fmt: skip


def _drawn_texts(fig) -> list[tuple[Text, object]]:
    """Every text on the page with its box in pixels; labels of ticks beyond the limits exist but are not drawn."""
    undrawn = set()
    for ax in fig.axes:
        for axis, limits in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
            low, high = min(limits) - 1e-9, max(limits) + 1e-9
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                if not (ax.axison and low <= tick.get_loc() <= high):
                    undrawn |= {tick.label1, tick.label2}
    texts = [t for t in fig.findobj(Text) if t.get_visible() and t.get_text().strip() and t not in undrawn]
    return [(t, t.get_window_extent()) for t in texts]


@pytest.mark.parametrize("name", FIGURES)
def test_figure_prints_well(name):
    """No pyplot state, no text outside the page, on other text, or too small; drawn twice gives the same pixels."""
    fig = FIGURES[name]()
    assert plt.get_fignums() == [], "a figure was left open"
    fig.canvas.draw()
    width, height = fig.canvas.get_width_height()
    texts = _drawn_texts(fig)
    for text, box in texts:
        assert text.get_fontsize() >= 6.5, text
        on_page = box.x0 > -1 and box.y0 > -1 and box.x1 < width + 1 and box.y1 < height + 1
        assert on_page, f"{text} leaves the page: {box}"
    for (one, a), (two, b) in itertools.combinations(texts, 2):
        overlap_x, overlap_y = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        assert min(overlap_x, overlap_y) < 2.5, f"{one} lies on {two}"
    pixels = np.asarray(fig.canvas.buffer_rgba()).copy()
    assert pixels[..., :3].std() > 1, "nothing was drawn"
    fig.canvas.draw()
    assert np.array_equal(pixels, np.asarray(fig.canvas.buffer_rgba()))


# ---------------------------------------------------------------------------------------------------- ECG paper


def _by_gid(fig, gid: str):
    found = [a for a in fig.findobj(lambda artist: artist.get_gid() == gid)]
    assert found, f"no artist {gid!r}"
    return found[0]


def _printed_mm(fig, line) -> np.ndarray:
    """Points of a line as they are printed, millimetres from the lower left corner of the page."""
    pixels = line.get_transform().transform(line.get_xydata())
    return pixels / fig.dpi * 25.4


@pytest.mark.parametrize("rate", [125.0, 250.0, 62.5])
def test_ecg_paper_is_printed_at_true_scale(rate):
    ecg = np.zeros((12, round(8.192 * rate)))
    ecg[1] = np.linspace(-0.5, 1.5, ecg.shape[1])  # lead II rises by 2 mV over the window
    fig = plots.plot_ecg_paper(ecg, rate)
    fig.canvas.draw()
    printed = _printed_mm(fig, _by_gid(fig, "ecg II rhythm"))
    assert np.ptp(printed[:, 0]) == pytest.approx(25.0 * (ecg.shape[1] - 1) / rate, abs=1e-6)
    assert np.ptp(printed[:, 1]) == pytest.approx(10.0 * 2.0, abs=1e-6)
    pulse = _printed_mm(fig, _by_gid(fig, "calibration"))
    top = pulse[pulse[:, 1] > pulse[0, 1] + 1]
    assert np.ptp(pulse[:, 1]) == pytest.approx(10.0) and np.ptp(top[:, 0]) == pytest.approx(5.0)
    fine, coarse = (c for c in fig.axes[0].collections if hasattr(c, "get_segments"))
    for lines, step in ((fine, 1.0), (coarse, 5.0)):
        upright = np.array([s[0] for s in lines.get_segments() if s[0][0] == s[1][0]])
        x = lines.get_transform().transform(upright)[:, 0] / fig.dpi * 25.4
        assert np.allclose(np.diff(x), step)


def test_columns_follow_one_another_in_time_and_hold_the_right_lead():
    ecg = _ecg()
    fig = plots.plot_ecg_paper(ecg, RATE)
    rhythm = _printed_mm(fig, _by_gid(fig, "ecg II rhythm"))
    for column, leads in enumerate([("I", "II", "III"), ("aVR", "aVL", "aVF"), ("V1", "V2", "V3"), ("V4", "V5", "V6")]):
        for lead in leads:
            printed = _printed_mm(fig, _by_gid(fig, f"ecg {lead}"))
            part = slice(256 * column, 256 * (column + 1))
            assert np.allclose(printed[:, 0], rhythm[part, 0])
            values = ecg[LEADS.index(lead), part]
            assert np.allclose(printed[:, 1] - printed[0, 1], 10 * (values - values[0]), atol=1e-6)


def test_long_recordings_are_cut_after_ten_seconds():
    fig = plots.plot_ecg_paper(_ecg(4000), RATE)
    assert len(_by_gid(fig, "ecg II rhythm").get_xdata()) == 1250


def test_absent_and_nan_leads_are_named_not_drawn():
    mask = np.array([2] * 6 + [0] * 6)
    estimate = _ecg()
    estimate[[6, 7]] = np.nan  # V1, V2: neither recorded nor estimated; V3 to V6: estimated only
    fig = plots.plot_ecg_paper(_ecg(), RATE, estimate=estimate, lead_mask=mask)
    gids = {artist.get_gid() for artist in fig.findobj(lambda artist: artist.get_gid())}
    assert {"absent V1", "absent V2", "estimate V3", "ecg aVF"} <= gids
    assert not {"absent V3", "estimate V1", "ecg V1"} & gids
    assert np.isnan(_by_gid(fig, "ecg V3").get_ydata()).all(), "an absent lead must not be drawn as a flat line"


def test_band_and_mean_come_from_the_samples():
    samples = np.arange(101)[:, None, None] / 100 * np.ones((1, 12, T))  # 0 to 1 mV: percentiles 0.05, 0.95, mean 0.5
    fig = plots.plot_ecg_paper(np.zeros((12, T)), RATE, samples=samples)
    baseline = _printed_mm(fig, _by_gid(fig, "ecg I"))[0, 1]
    assert np.allclose(_printed_mm(fig, _by_gid(fig, "estimate I"))[:, 1] - baseline, 5.0)
    band = _by_gid(fig, "spread I").get_paths()[0].vertices[:, 1] - baseline
    assert band.min() == pytest.approx(0.5) and band.max() == pytest.approx(9.5)


def test_the_page_is_a4_and_true_to_scale():
    """Measured where it is printed: 25 mm per second, 10 mm per millivolt, on a page of 297 x 210 mm."""
    ecg = np.zeros((12, 1250))
    ecg[:] = np.arange(1250) / 1250 - 0.5  # every lead rises by 1 mV in 10 s
    fig = plots.plot_translation(ecg, RATE, _ppg(1250), spread=(ecg - 0.1, ecg + 0.2))
    fig.canvas.draw()
    assert fig.get_size_inches() * 25.4 == pytest.approx([297.0, 210.0])
    rhythm = _printed_mm(fig, _by_gid(fig, "estimate II rhythm"))
    assert np.diff(rhythm[:, 0]) == pytest.approx(25.0 / RATE) and np.ptp(rhythm[:, 1]) == pytest.approx(
        10.0 * 1249 / 1250
    )
    for column, lead in enumerate(("I", "aVR", "V1", "V4")):
        printed = _printed_mm(fig, _by_gid(fig, f"estimate {lead}"))
        assert len(printed) == pytest.approx(312.5, abs=1) and printed[0, 0] == pytest.approx(
            rhythm[0, 0] + 62.5 * column, abs=0.11
        )
        assert np.ptp(printed[:, 1]) == pytest.approx(10.0 * (len(printed) - 1) / 1250)
        band = _by_gid(fig, f"spread {lead}").get_paths()[0]
        heights = band.transformed(_by_gid(fig, f"spread {lead}").get_transform()).vertices[:, 1] / fig.dpi * 25.4
        assert heights.max() - heights.min() == pytest.approx(3.0 + np.ptp(printed[:, 1])), "0.3 mV wide"
    pulses = [_printed_mm(fig, line) for line in fig.findobj(lambda artist: artist.get_gid() == "calibration")]
    assert len(pulses) == 4 and all(np.ptp(pulse[:, 1]) == pytest.approx(10.0) for pulse in pulses)
    fine = next(c for c in fig.axes[0].collections if hasattr(c, "get_segments"))
    upright = np.array([s[0] for s in fine.get_segments() if s[0][0] == s[1][0]])
    x = fine.get_transform().transform(upright)[:, 0] / fig.dpi * 25.4
    assert np.allclose(np.diff(x), 1.0) and x[0] > 5 and x[-1] < 292, "room for the margins of a printer"
    assert rhythm[-1, 0] < x[-1]


def test_the_page_is_shaded_where_the_ecg_is_in_doubt():
    """From second 2 to 4, under the traces of all rows: the same seconds of the rhythm strip."""
    doubtful = np.zeros(1250, dtype=bool)
    doubtful[round(2 * RATE) : round(4 * RATE)] = True
    ecg = np.zeros((12, 1250))
    fig = plots.plot_translation(ecg, RATE, _ppg(1250), doubtful=doubtful)
    fig.canvas.draw()
    shade = _by_gid(fig, "in doubt")
    x = shade.get_transform().transform(shade.get_paths()[0].vertices)[:, 0] / fig.dpi * 25.4
    rhythm = _printed_mm(fig, _by_gid(fig, "estimate II rhythm"))
    assert x.min() - rhythm[0, 0] == pytest.approx(50.0) and np.ptp(x) == pytest.approx(50.0)
    assert "in doubt" in [t.get_text() for t in fig.findobj(Text)]
    assert not _translation().findobj(lambda artist: artist.get_gid() == "in doubt")


def test_the_pdf_of_the_page_is_a4(tmp_path):
    _translation().savefig(tmp_path / "page.pdf")
    box = re.search(rb"/MediaBox ?\[ ?0 0 ([0-9.]+) ([0-9.]+) ?\]", (tmp_path / "page.pdf").read_bytes())
    assert [float(edge) * 25.4 / 72 for edge in box.groups()] == pytest.approx([297.0, 210.0], abs=0.01)


def test_translation_says_whom_and_that_it_is_no_diagnosis():
    text = " ".join(t.get_text() for t in _translation().findobj(Text))
    assert "age 63 years, sex F" in text and "not a diagnosis" in text and "Research use only" in text
    missing = plots.plot_translation(_ecg(), RATE, _ppg(), age=float("nan"), sex="")
    assert "age not known, sex not known" in " ".join(t.get_text() for t in missing.findobj(Text))


@pytest.mark.parametrize("arguments", [
    {"ecg": np.zeros((8, T))},
    {"ecg": None},
    {"ecg": np.zeros((12, T)), "estimate": np.zeros((12, T - 1))},
    {"ecg": np.zeros((12, T)), "samples": np.zeros((12, T))},
    {"ecg": np.zeros((12, T)), "lead_mask": np.zeros(8)},
])  # fmt: skip
def test_ecg_paper_refuses_wrong_input(arguments):
    with pytest.raises(InputError):
        plots.plot_ecg_paper(arguments.pop("ecg"), RATE, **arguments)


# ------------------------------------------------------------------------------------------------------- figures


def test_affinity_shows_differences_to_the_mean_on_one_symmetric_scale():
    matrices = _matrices(4)
    images = [ax.images[0] for ax in plots.plot_affinity(matrices).axes if ax.images]
    mean = matrices.mean(axis=0)
    off_diagonal = ~np.eye(12, dtype=bool)
    assert np.allclose(images[0].get_array()[off_diagonal], mean[off_diagonal])
    for image, matrix in zip(images[1:], matrices, strict=True):
        assert np.allclose(image.get_array()[off_diagonal], (matrix - mean)[off_diagonal])
        assert np.ma.getmaskarray(image.get_array())[~off_diagonal].all()
        assert image.norm.vmin == -image.norm.vmax == images[1].norm.vmin
    assert sum(bool(ax.images) for ax in plots.plot_affinity(_matrices(1)).axes) == 1


def test_affinity_can_be_read_without_colours():
    """Both ends of the diverging scale are dark: what is clearly below the mean has a dash, and nothing else has."""
    matrices = _matrices(4)
    axes = [ax for ax in plots.plot_affinity(matrices).axes if ax.images]
    differences = np.where(np.eye(12, dtype=bool), 0.0, matrices - matrices.mean(axis=0))
    assert not axes[0].collections
    for ax, difference in zip(axes[1:], differences, strict=True):
        dashed = np.zeros((12, 12), dtype=bool)
        columns, rows = np.round(ax.collections[0].get_offsets()).astype(int).T
        dashed[rows, columns] = True
        assert dashed.any() and (difference[dashed] < 0).all()
        assert not dashed[difference > -0.1 * np.abs(differences).max()].any()
        assert dashed[difference < -0.2 * np.abs(differences).max()].all()


def test_the_mean_affinity_uses_its_whole_scale():
    mean = plots.plot_affinity(_matrices(4)).axes[0].images[0]
    shown = mean.get_array().compressed()
    assert mean.norm.vmin == shown.min() and mean.norm.vmax == shown.max()
    alike = plots.plot_affinity(np.repeat(_matrices(1), 4, axis=0) * 0 + 1 / 12).axes[0].images[0]
    assert alike.norm.vmin == 0 < alike.norm.vmax, "weights that are all alike are not spread over the scale"


def test_embedding_tells_sex_by_shape_too():
    sex = np.array(["F", "M"] * 40)
    fig = plots.plot_embedding(RNG.standard_normal((80, 2)), np.zeros(80), np.full(80, 50.0), sex)
    drawn = {len(c.get_paths()[0].vertices): 0 for c in fig.axes[2].collections if len(c.get_offsets())}
    for collection in fig.axes[2].collections:
        if len(collection.get_offsets()):
            drawn[len(collection.get_paths()[0].vertices)] += len(collection.get_offsets())
    assert len(drawn) == 2 and set(drawn.values()) == {40}


def test_decomposition_bars_end_at_the_mean_squared_error():
    results = _results()
    fig = plots.plot_decomposition(results)
    bars = [container.patches for container in fig.axes[0].containers]
    methods = list(dict.fromkeys(results["method"]))
    for row, method in enumerate(methods):
        rows = results[(results["method"] == method) & (results["lead"] == "all")].set_index("metric")["value"]
        assert sum(part[row].get_width() for part in bars) == pytest.approx(rows["rmse"] ** 2)
    known = methods.index("Irreducible error, beat times known")
    assert bars[0][known].get_width() < 0 and bars[1][known].get_x() == 0, "a negative part lies left of zero"


def test_results_draw_each_lead_at_its_value():
    results = _results()
    fig = plots.plot_results(results, methods=["Irreducible error", "P2Es, single sample"])
    first = fig.axes[0].lines[0]
    rows = results[(results["method"] == "Irreducible error") & (results["metric"] == "rmse")]
    rows = rows[rows["lead"] != "measured"]
    assert np.array_equal(first.get_ydata(), rows["value"]) and len(rows) == 13
    with pytest.raises(InputError, match="no metric"):
        plots.plot_results(results, metrics=["cosine"])
    with pytest.raises(InputError, match="lacks the columns"):
        plots.plot_results(results.drop(columns="metric"))


def test_training_curves_hold_every_logged_point():
    history = _history()
    fig = plots.plot_training({3: history, 5: history})
    losses, validation, rate = (fig.axes[k].lines for k in range(3))
    assert len(losses) == len(validation) == 2
    assert np.array_equal(losses[0].get_xdata(), history["step"][history["loss"].notna()])
    assert np.array_equal(validation[1].get_ydata(), history["validation_rmse"].dropna())
    assert np.allclose(rate[0].get_ydata() * 1e-3, history["learning_rate"].dropna())
    with pytest.raises(InputError, match="validation_rmse"):
        plots.plot_training(history.drop(columns="validation_rmse"))


def test_cohort_counts_subjects_once_and_keeps_missing_ages_out_of_the_histogram():
    index = _index(50)
    index.loc[:9, "age"] = np.nan
    fig = plots.plot_cohort(pd.concat([index, index], ignore_index=True))
    counted = sum(patch.get_height() for patch in fig.axes[0].patches)
    assert counted == 40
    assert fig.axes[0].get_xlabel() == "Age (years; not known for 10)"


def test_one_colour_per_method():
    colours = method_colours(_results()["method"])
    assert len(set(colours.values())) == len(colours) == 6
    assert colours["P2Es, mean of 8 samples"] == "#0072B2" and colours["Irreducible error"] == "#000000"


def test_the_users_settings_do_not_reach_the_figures():
    plain = plots.plot_decomposition(_results())._repr_png_()[0]
    with plt.rc_context({"font.size": 20, "lines.linewidth": 7, "axes.facecolor": "red", "savefig.bbox": "tight"}):
        assert plots.plot_decomposition(_results())._repr_png_()[0] == plain
        assert plt.rcParams["font.size"] == 20


# --------------------------------------------------------------------------------------------------------- files

_WRITE = """
import sys, numpy as np
from p2es_lib import plots
t = np.arange(256) / 125
fig = plots.plot_ecg_paper(np.sin(t + np.arange(12)[:, None]), 125, title="Größe, V1–V6", footer="µV")
plots.save_figure(fig, sys.argv[1], "fig01_paper")
"""


def test_figures_are_the_same_bytes_in_every_process(tmp_path, monkeypatch):
    here, there = tmp_path / "here", tmp_path / "there"
    monkeypatch.setattr(sys, "argv", ["-c", str(here)])
    exec(_WRITE, {})
    environment = {**os.environ, "PYTHONHASHSEED": "1", "SOURCE_DATE_EPOCH": "111111111"}
    subprocess.run([sys.executable, "-c", _WRITE, str(there)], check=True, env=environment, timeout=120)
    files = [sorted(folder.iterdir()) for folder in (here, there)]
    assert [f.name for f in files[0]] == [f.name for f in files[1]] == ["fig01_paper.pdf", "fig01_paper.png"]
    assert [f.read_bytes() for f in files[0]] == [f.read_bytes() for f in files[1]]
    pdf = files[0][0].read_bytes()
    assert b"CreationDate" not in pdf and b"/Type3" not in pdf and b"/TrueType" in pdf or b"/CIDFontType2" in pdf


def test_png_has_the_printed_size_at_300_dpi(tmp_path):
    fig = plots.plot_decomposition(_results())
    path = plots.save_figure(fig, tmp_path, "fig06_parts")
    height, width = plt.imread(path).shape[:2]
    assert (width, height) == tuple(int(300 * inches) for inches in fig.get_size_inches())
    assert path == tmp_path / "fig06_parts.png" and plt.get_fignums() == []


def test_a_failing_writer_leaves_the_old_figure(tmp_path, monkeypatch):
    fig = plots.plot_decomposition(_results())
    path = plots.save_figure(fig, tmp_path, "fig08_parts")
    before = {file: file.read_bytes() for file in (path, path.with_suffix(".pdf"))}

    def fail(name, **options):
        Path(name).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(fig, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        plots.save_figure(fig, tmp_path, "fig08_parts")
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_pyplot_figures_are_closed_unless_told_otherwise(tmp_path):
    fig = plt.figure()
    plots.save_figure(fig, tmp_path, "fig09_other", close=False)
    assert plt.get_fignums()
    plots.save_figure(fig, tmp_path, "fig09_other")
    assert not plt.get_fignums()


@pytest.mark.parametrize(
    "name", ["cohort", "fig1_a", "fig01_Cohort", "fig01_", "fig01_a.png", "../fig01_a", "table01_a"]
)
def test_figure_names_are_checked(tmp_path, name):
    with pytest.raises(InputError, match="fig01_cohort"):
        plots.save_figure(plt.Figure(), tmp_path, name)
    assert not list(tmp_path.iterdir())


def test_tables_keep_six_digits_in_csv_and_read_well_in_markdown(tmp_path):
    frame = pd.DataFrame({"method": ["P2Es | mean", "007"], "value": [0.1203456789, np.nan], "n_subjects": [200, 3]})
    path = plots.save_table(frame, tmp_path, "table02_results", "RMSE in mV.")
    assert path.read_text() == "method,value,n_subjects\nP2Es | mean,0.120346,200\n007,,3\n"
    lines = (tmp_path / "table02_results.md").read_text().splitlines()
    assert lines[0] == "RMSE in mV."
    cells = [[cell.strip() for cell in line.replace("\\|", "/").strip("|").split("|")] for line in lines[2:]]
    assert cells[0] == ["method", "value", "n_subjects"] and cells[1][1].endswith(":")
    assert cells[2:] == [["P2Es / mean", "0.120", "200"], ["007", "n/a", "3"]]
    numbers = pd.DataFrame({"code": ["007", "010"], "rmse": [0.12, 0.5]})
    plots.save_table(numbers, tmp_path, "table03_numbers", "Codes stay codes.", float_format={"rmse": ".4f"})
    text = (tmp_path / "table03_numbers.md").read_text()
    assert "| 007 " in text and "| 010 " in text and "0.1200 |" in text and "0.5000 |" in text
    with pytest.raises(InputError, match="table01_cohort"):
        plots.save_table(frame, tmp_path, "results", "")


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.plot_groups({}, ["rmse"]),
        lambda: plots.plot_one_window(np.zeros((12, 1024)), {}, 125.0, leads=["II"]),
        lambda: plots.plot_accepted_rejected([], 125.0),
    ],
)
def test_a_figure_of_nothing_is_refused(draw):
    with pytest.raises(InputError, match="nothing to plot"):
        draw()


def test_error_by_time_names_the_variant_that_a_table_lacks():
    table = pd.DataFrame({"variant": "p2es", "stage": ["stage 1", "both stages"], "t": 0.5, "rmse": 0.1})
    with pytest.raises(InputError, match="no_blur, both stages"):
        plots.plot_error_by_time(table, {"p2es": "P2Es", "no_blur": "no blur"})


def test_a_window_without_an_ecg_to_show_is_its_ppg_alone():
    ppg = np.sin(np.arange(500) / 20)
    figure = plots.plot_example_window(ppg, np.zeros((12, 500)), 125.0, upstrokes=1.0, leads=())
    assert len(figure.axes) == 1
