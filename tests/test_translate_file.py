"""From a user's file to WFDB and a picture: any rate, any length, gaps, and errors that leave nothing behind."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
import wfdb
from synthetic import tiny_p2es

from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import LEADS
from p2es_lib.core.learned import load_method
from p2es_lib.core.paths import PRETRAINED, run_dir
from p2es_lib.experiments.variants import configure
from p2es_lib.method.p2es import P2Es
from p2es_lib.signals.cleaning import ppg_quality
from p2es_lib.translation.check import FAULTY, NOISE, WindowReport
from p2es_lib.translation.file import default_model_folder, describe_model, translate, translate_long
from p2es_lib.translation.live import ecg_blocks, window_starts
from p2es_lib.translation.results import Summary


@pytest.fixture(scope="module")
def model() -> P2Es:
    return tiny_p2es()


@pytest.fixture(scope="module")
def model_folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model.save(folder)
    return folder


def pulses(seconds: float, rate: float) -> np.ndarray:
    t = np.arange(round(seconds * rate)) / rate
    return (
        2.0
        + np.exp(-0.5 * (((t * 1.2) % 1 - 0.3) / 0.08) ** 2)
        + 0.3 * np.exp(-0.5 * (((t * 1.2) % 1 - 0.6) / 0.1) ** 2)
    )


def write_csv(path, seconds=20.0, rate=64.0):
    t = np.arange(round(seconds * rate)) / rate
    path.write_text(
        "time_s,ppg\n" + "\n".join(f"{a:.6f},{b:.6f}" for a, b in zip(t, pulses(seconds, rate), strict=True)) + "\n"
    )
    return path


def test_windows_cover_everything_and_end_with_the_recording():
    for total in (1024, 1025, 1500, 5000):
        starts = window_starts(total, 1024, 128)
        covered = np.zeros(total, bool)
        for start in starts:
            covered[start : start + 1024] = True
        assert covered.all() and starts[-1] + 1024 == total
        assert (np.diff(starts) <= 1024 - 128).all()


def test_join_of_equal_windows_leaves_no_seam(model, monkeypatch):
    """A translator that returns the place in the recording must be returned unchanged across all joins."""
    n_window = model.config.signal.window_samples

    def echo(windows, demographics, *, generator, n_samples=1, **options):
        starts = [int(str(name).partition("-")[0]) for name in generator.window_ids]
        place = np.stack([start + np.arange(n_window) for start in starts]) / 1000
        return torch.as_tensor(place, dtype=torch.float32)[:, None, None].repeat(1, n_samples, 12, 1)

    monkeypatch.setattr(model, "translate", echo)
    result = translate_long(model, pulses(8, 125), None, None, n_samples=2, progress=False)
    np.testing.assert_allclose(result.mean, np.tile(np.arange(1000) / 1000, (12, 1)), atol=1e-5)
    np.testing.assert_allclose(result.lower, result.upper, atol=1e-5)
    np.testing.assert_allclose(result.std, 0, atol=1e-5)


def test_csv_to_wfdb_and_picture(model_folder, tmp_path):
    written = translate(
        write_csv(tmp_path / "walk.csv"),
        age=63,
        sex="F",
        out=tmp_path / "out",
        model=model_folder,
        n_samples=3,
        progress=False,
    )
    record = wfdb.rdrecord(str(written["ecg"].with_suffix("")))
    assert tuple(record.sig_name) == LEADS and record.fs == 125 and set(record.units) == {"mV"}
    assert abs(record.sig_len / 125 - 20.0) < 0.05 and np.isfinite(record.p_signal).all()
    one, two, three = record.p_signal[:, 0], record.p_signal[:, 1], record.p_signal[:, 2]
    assert np.abs(three - (two - one)).max() < 0.0021, "Einthoven, to the rounding of 16 bits"
    assert any("not a diagnosis" in comment for comment in record.comments) and any(
        "age 63, sex F" in c for c in record.comments
    )
    spread = wfdb.rdrecord(str(written["spread"].with_suffix("")))
    assert (spread.p_signal >= 0).all() and spread.p_signal.mean() > 0
    assert all(path.stat().st_size > 1000 for key, path in written.items() if key.startswith("picture"))
    table = pd.read_csv(written["csv"], comment="#")
    assert list(table.columns[:4]) == ["time_s", "I_mV", "I_lower_mV", "I_upper_mV"] and len(table.columns) == 50
    np.testing.assert_allclose(table["time_s"], np.arange(record.sig_len) / 125, atol=1e-4)
    for number, lead in enumerate(LEADS):
        np.testing.assert_allclose(table[f"{lead}_mV"], record.p_signal[:, number], atol=0.0006)
        assert (table[f"{lead}_lower_mV"] <= table[f"{lead}_upper_mV"]).all()
    assert "not a diagnosis" in written["csv"].read_text().split("\n")[0]
    windows = pd.read_csv(written["quality"])
    assert list(windows.columns) == ["start_s", "end_s", "quality", "refused", "pulses", "beats", "doubt"]
    assert windows["refused"].isna().all() and set(table["doubtful"]) <= {0, 1}
    assert windows["start_s"].iloc[0] == 0 and abs(windows["end_s"].iloc[-1] - 20.0) < 0.05
    assert written["note"].startswith("translated 20.0 of 20.0 s")
    assert not [p for p in (tmp_path / "out").iterdir() if p.name.startswith(".")]
    # The command prints each entry on a line of its own.
    assert "delay between heart and pulse that the model learned" in written["delay"] and "unknown" in written["delay"]
    assert "\n" not in written["delay"] and f"delay: {written['delay']}" in record.comments


@pytest.mark.filterwarnings("error:Glyph")
def test_names_beyond_ascii_can_be_read_back_and_do_not_collide(model_folder, tmp_path):
    arguments = {"out": tmp_path / "out", "model": model_folder, "n_samples": 2, "progress": False}
    names = ("Müller 张.csv", "Möller 王.csv", "Müller_PPG.csv", "plain-1_b.csv")
    written = {name: translate(write_csv(tmp_path / name, seconds=5.0), **arguments) for name in names}
    for files in written.values():
        for key in ("ecg", "spread"):
            assert files[key].name.isascii() and " " not in files[key].name
            assert wfdb.rdrecord(str(files[key].with_suffix(""))).n_sig == 12
        assert files["picture"].is_file() and files["picture_pdf"].is_file()
    assert len({files["ecg"] for files in written.values()}) == len(names)
    assert written["plain-1_b.csv"]["ecg"].name == "plain-1_b_p2es.hea", "a name that WFDB allows is kept"


def test_gap_stays_a_gap(model):
    ppg = np.tile(pulses(10, 125), 3)
    ppg[1000:2000] = np.nan
    result = translate_long(model, ppg, 50, "M", n_samples=2, progress=False)
    assert (
        np.isnan(result.mean[:, 1300:1700]).all()
        and np.isfinite(result.mean[:, :900]).all()
        and np.isfinite(result.mean[:, 2100:]).all()
    )


def summary_of(block) -> Summary:
    summary = Summary(125.0, 2.048)
    summary.add(block)
    return summary


def test_doubtful_and_missing_stretches_are_reported(model):
    noise = np.random.default_rng(0).standard_normal(1500)
    bad = translate_long(model, noise, 50, "M", n_samples=2, progress=False)
    n, bad = len(bad.windows), summary_of(bad).lines()
    assert len(bad) == 2 and bad[1].startswith(f"WARNING: the ECG of {n} of {n} windows is in doubt (")
    assert bad[1].endswith(": 0.0 to 12.0 s")
    ppg = np.tile(pulses(10, 125), 3)
    ppg[1000:2000] = np.nan
    gap = translate_long(model, ppg, 50, "M", n_samples=2, progress=False)
    assert gap.covered.sum() < len(ppg) and "no usable PPG" in summary_of(gap).lines()[0]


@pytest.mark.parametrize("first", [True, False])
def test_the_title_speaks_of_the_stretch_it_shows(model_folder, tmp_path, monkeypatch, first):
    """The page shows the first ten seconds, and its title doubts what is in doubt there; the report is of all."""
    from p2es_lib import plots
    from p2es_lib.translation import live

    titles, judged, plot = [], [], plots.plot_translation

    def judge(start_s, *arguments):
        judged.append(start_s < 15)
        return WindowReport(start_s, 0.9, doubt=NOISE if judged[-1] == first else "")

    monkeypatch.setattr(live, "judge", judge)
    monkeypatch.setattr(plots, "plot_translation", lambda *a, **k: titles.append(k["record"]) or plot(*a, **k))
    arguments = {"out": tmp_path / "out", "model": model_folder, "n_samples": 1, "progress": False}
    written = translate(write_csv(tmp_path / "r.csv", seconds=30.0), **arguments)
    assert len(judged) > 20 and f"is in doubt ({NOISE}" in written["note"]
    assert titles == ["r, from 0.0 s" + (", IN DOUBT" if first else "")]


def test_refused_stretches_are_named_and_the_page_shows_the_first_whole_ten_seconds(model):
    ppg = pulses(40, 125)
    ppg[500:1000] = np.nan
    result = translate_long(model, ppg, 50, "M", n_samples=2, progress=False)
    blocks = [result.part(a, b) for a, b in ((0, 700), (700, 1900), (1900, 5000))]
    summary = Summary(125.0, 2.048)
    for block in blocks:
        summary.add(block)
    gap = np.flatnonzero(~result.covered)
    told = summary.lines()[0]
    assert f"{gap[0] / 125:.1f} to {(gap[-1] + 1) / 125:.1f} s" in told and told.count(" to ") == 1
    shown = summary.page
    assert shown.start == gap[-1] + 1 and len(shown) == 1250
    np.testing.assert_array_equal(shown.mean, result.mean[:, shown.start : shown.start + 1250])


def test_a_table_is_written_when_asked_for_and_a_long_one_is_not_by_itself(model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("p2es_lib.translation.file.MAX_CSV_S", 5.0)
    arguments = {"model": model_folder, "n_samples": 1, "progress": False}
    file = write_csv(tmp_path / "walk.csv", seconds=6.0)
    left_out = translate(file, out=tmp_path / "a", **arguments)["csv"]
    assert "GB; --csv writes it" in left_out and not list((tmp_path / "a").glob("*p2es.csv"))
    assert translate(file, out=tmp_path / "b", csv=True, **arguments)["csv"].is_file()


@pytest.mark.parametrize("rate", [64.0, 125.0])
@pytest.mark.parametrize("fault", ["", "clipped", "wrapped", "flat"])
def test_quality_is_that_of_the_ppg_as_recorded(tmp_path, monkeypatch, make_pair, rate, fault):
    """Filtered first, a clipped, a wrapped and a partly flat PPG passed for good ones, in the table and on the page."""
    from p2es_lib import plots

    ppg = make_pair(24, rate).ppg.copy()
    if fault == "clipped":
        ppg = np.minimum(ppg, np.quantile(ppg, 0.7))
    elif fault == "wrapped":
        ppg = (2.5 * (ppg - ppg.min()) / np.ptp(ppg)) % 1.0
    elif fault == "flat":  # a fifth, no stretch as long as a sensor that is off
        ppg[np.arange(len(ppg)) % round(2 * rate) < round(0.4 * rate)] = np.median(ppg)
    pages, plot = [], plots.plot_translation
    monkeypatch.setattr(plots, "plot_translation", lambda *a, **k: pages.append(k["quality"]) or plot(*a, **k))
    monkeypatch.setattr(
        P2Es, "translate", lambda self, x, *_, n_samples=1, **__: torch.zeros(len(x), n_samples, 12, 1024)
    )
    np.savetxt(tmp_path / "x.csv", ppg, fmt="%.9f")
    arguments = {"sampling_rate": rate, "model": PRETRAINED, "n_samples": 1, "polarity": "up", "progress": False}
    table = pd.read_csv(translate(tmp_path / "x.csv", out=tmp_path / "out", **arguments)["quality"])
    first = np.rint(table["start_s"] * rate).astype(int)
    expected = [ppg_quality(ppg[a : a + round(8.192 * rate)], rate) for a in first]
    np.testing.assert_allclose(table["quality"], expected, atol=0.0006 if rate == 125 else 0.03)
    assert f"PPG quality {table['quality'][table['start_s'] < 10.0].min():.2f} of 1" in pages[0]
    assert table["quality"].max() < 0.65 if fault else table["quality"].min() > 0.9
    assert (
        table["doubt"].str.contains(FAULTY).all() if fault else not table["doubt"].str.contains(FAULTY, na=False).any()
    )


def test_wrapped_converter_is_reported(model_folder, tmp_path):
    t = np.arange(20 * 125) / 125
    wrapped = (3.0 * pulses(20, 125)) % 1.0  # overflows several times in each pulse
    (tmp_path / "w.csv").write_text(
        "time_s,ppg\n" + "\n".join(f"{a:.3f},{b:.6f}" for a, b in zip(t, wrapped, strict=True))
    )
    note = translate(tmp_path / "w.csv", out=tmp_path / "out", model=model_folder, n_samples=2, progress=False)["note"]
    assert "wrapped around as recorded" in note


@pytest.fixture
def upright_ppg(make_pair):
    return make_pair(20, 64.0).ppg


@pytest.fixture
def given(monkeypatch):
    """What the model was given, call by call: a model that was not trained answers to every PPG alike."""
    calls = []

    def recorded(live, ppg, *arguments):
        calls.append(ppg - np.median(ppg))
        return ecg_blocks(live, ppg, *arguments)

    monkeypatch.setattr("p2es_lib.translation.results.ecg_blocks", recorded)
    return calls


def translated(model_folder, folder, ppg, **options) -> dict:
    """What the command prints, of a PPG at 64 Hz."""
    folder.mkdir()
    np.savetxt(folder / "x.csv", ppg)
    arguments = {"sampling_rate": 64, "model": model_folder, "n_samples": 2, "progress": False, **options}
    return translate(folder / "x.csv", out=folder / "out", **arguments)


def test_a_ppg_upside_down_is_turned_over_and_the_user_is_told(model_folder, tmp_path, upright_ppg, given):
    up = translated(model_folder, tmp_path / "up", upright_ppg)
    down = translated(model_folder, tmp_path / "down", 1e5 - upright_ppg)  # as light is counted: far above zero
    np.testing.assert_allclose(given[1], given[0], atol=1e-6)
    np.testing.assert_allclose(given[0], upright_ppg - np.median(upright_ppg))
    assert (
        "pulses point up (the wave rises faster than it falls in 13 of 13" in up["note"] and "TURNED" not in up["note"]
    )
    assert "the PPG was TURNED OVER, its pulses point down" in down["note"] and "--polarity up" in down["note"]
    comments = wfdb.rdheader(str(down["ecg"].with_suffix(""))).comments
    assert any("TURNED OVER" in comment for comment in comments) and any(
        comment.startswith("read: ") for comment in comments
    )
    assert "64 Hz as given" in up["read"]


def test_polarity_as_asked_for(model_folder, tmp_path, upright_ppg, given):
    told = translated(model_folder, tmp_path / "a", -upright_ppg, polarity="up")
    assert "WARNING: pulses taken to point up, by --polarity up, but they seem to point down" in told["note"]
    told = translated(model_folder, tmp_path / "b", -upright_ppg, polarity="down")
    assert "the PPG was turned over, by --polarity down" in told["note"] and "seem to point" not in told["note"]
    np.testing.assert_allclose(given[0], -given[1], atol=1e-6)
    with pytest.raises(InputError, match="polarity='left' is unknown.*auto, up, down"):
        translated(model_folder, tmp_path / "d", upright_ppg, polarity="left")


def test_a_polarity_that_cannot_be_told_is_left_and_said(model_folder, tmp_path):
    wave = np.sin(2 * np.pi * 1.2 * np.arange(20 * 64) / 64)
    told = translated(model_folder, tmp_path / "a", wave)
    assert "WARNING: which way the pulses point cannot be told" in told["note"] and "--polarity down" in told["note"]


@pytest.mark.parametrize("out", ["file.txt", "file.txt/below"])
def test_output_that_cannot_be_a_folder_is_named_before_any_work(home, tmp_path, out):
    (tmp_path / "file.txt").write_text("mine")
    with pytest.raises(InputError, match="--out .*file.txt is a file"):
        translate(write_csv(tmp_path / "walk.csv"), out=tmp_path / out, model="nowhere")
    assert (tmp_path / "file.txt").read_text() == "mine"


KILLED = """
import os, sys
from p2es_lib.translation import results
from p2es_lib.translation.file import translate
def die(*_):
    print("writing", flush=True)
    sys.stdin.read() if sys.argv[4] == "waits" else os.kill(os.getpid(), 9)
results._draw_page = die
translate(sys.argv[1], out=sys.argv[2], model=sys.argv[3], n_samples=1, progress=False)
"""


def test_what_a_killed_call_left_goes_with_the_next_and_a_running_one_is_left_alone(model_folder, tmp_path):
    file, out = write_csv(tmp_path / "walk.csv", seconds=4.0), tmp_path / "out"

    def start(how):
        command = [sys.executable, "-c", KILLED, str(file), str(out), str(model_folder), how]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def hidden():
        return {path.name for path in out.iterdir() if path.name.startswith(".translating") and path.is_dir()}

    with start("dies") as killed:
        killed.communicate()
    left = hidden()
    assert killed.returncode == -9 and len(left) == 1
    with start("waits") as running:
        try:
            assert running.stdout.readline() == "writing\n"
            of_running = hidden() - left
            translate(file, out=out, model=model_folder, n_samples=1, progress=False)
            assert hidden() == of_running and len(of_running) == 1
            assert list((out / of_running.pop()).glob("walk_p2es*"))
        finally:
            running.kill()
    translate(file, out=out, model=model_folder, n_samples=1, progress=False)
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["translate", "walk.cvs", "--out", "out"], "walk.cvs: no such recording .*did you mean walk.csv"),
        (["translate", "wlak.csv", "--out", "out"], "wlak.csv: no such file; did you mean walk.csv"),
        (["translate", "walk", "--out", "out"], "walk: no such recording .*did you mean walk.csv"),
        (["translate", "walk.csv", "--out", "out", "--age", "-3"], "age -3 is outside"),
        (["translate", "walk.csv", "--out", "out", "--model", "nowhere"], "nowhere.*no such model"),
        (["live", "--sampling-rate", "64", "--model", "nowhere"], "nowhere.*no such model"),
        (["live", "--sampling-rate", "5"], "sampling rate 5 Hz"),
        (["live", "--sampling-rate", "64", "--sex", "x"], "unknown sex code 'x'"),
    ],
)
def test_what_is_mistyped_is_told_before_anything_is_loaded(tmp_path, arguments, told):
    """Answers come within a second, because neither PyTorch nor SciPy nor pandas is imported for them."""
    write_csv(tmp_path / "walk.csv")
    heavy = ("torch", "scipy", "pandas", "matplotlib")
    code = f"""import sys
sys.argv = ["p2es", *{arguments!r}]
from p2es_lib.cli.main import main
try:
    main()
finally:
    print([name for name in {heavy!r} if name in sys.modules])"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == "[]\n" and re.search(told, done.stderr)


def test_result_is_the_same_each_time_and_differs_with_the_seed(model):
    ppg = pulses(6, 125)
    first, again, other = (
        translate_long(model, ppg, 50, "M", n_samples=2, seed=s, progress=False).mean for s in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"age": -3}, "age"),
        ({"age": 400}, "age"),
        ({"sex": "X"}, "sex"),
        ({"n_samples": 0}, "samples"),
        ({"model": "nowhere"}, "no such model"),
        ({"record": "missing.csv"}, "missing"),
        ({"record": "short.csv"}, "needed"),
        ({"record": "flat.csv"}, "flat"),
    ],
)
def test_bad_input_is_named_and_leaves_nothing(model_folder, tmp_path, change, message):
    write_csv(tmp_path / "good.csv")
    write_csv(tmp_path / "short.csv", seconds=1.5)
    (tmp_path / "flat.csv").write_text("time_s,ppg\n" + "\n".join(f"{i / 64},1.0" for i in range(2000)))
    arguments = {"age": 60, "sex": "F", "model": model_folder, "out": tmp_path / "out", **change}
    record = tmp_path / arguments.pop("record", "good.csv")
    with pytest.raises(InputError, match=message):
        translate(record, progress=False, **arguments)
    assert not (tmp_path / "out").exists()


def test_the_day_of_the_weights_is_that_of_their_making_not_of_the_file(tmp_path):
    model = tiny_p2es()
    model.made_on = "2020-02-03"
    model.save(tmp_path)
    os.utime(tmp_path / "weights.safetensors", (0, 0))
    assert "weights of 2020-02-03, SHA-256" in describe_model(load_method(tmp_path))


def test_without_a_training_of_ones_own_the_model_of_the_package_translates(home, tmp_path):
    assert default_model_folder() == PRETRAINED
    model = load_method(PRETRAINED)
    assert model.config == configure("wide"), (
        "settings changed since these weights were trained: put those of a new run there"
    )
    assert model.trained_leads.all() and all(name.startswith("sim-") for name in model.training_subjects())
    translate(write_csv(tmp_path / "walk.csv"), age=60, sex="F", out=tmp_path / "out", n_samples=2, progress=False)
    header = next((tmp_path / "out").glob("*ecg.hea"), None) or next((tmp_path / "out").glob("*.hea"))
    assert "trained on simulated (wide)" in header.read_text()
    # A longer training of one's own comes first; that of quick is none.
    for profile in ("quick", "wide", "full"):
        own = run_dir("simulated", profile, "p2es", 0)
        own.mkdir(parents=True)
        (own / "weights.safetensors").write_bytes((PRETRAINED / "weights.safetensors").read_bytes())
        assert default_model_folder() == (PRETRAINED if profile == "quick" else own)
