"""From a recording with an ECG to a reference: beats, delay, leads and units; its file; translations that use it."""

from __future__ import annotations

import json
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import wfdb
from synthetic import tiny_p2es
from wfdb_files import write_multirate

from p2es_lib.cli import main
from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import LEADS
from p2es_lib.core.reference import BEFORE_S, Reference, beat_samples
from p2es_lib.reference.mean_beat import mean_beats
from p2es_lib.translation.calibrate import calibrate
from p2es_lib.translation.file import load_reference, translate
from p2es_lib.translation.live import LiveTranslator
from p2es_lib.translation.readers.checks import check_leads
from p2es_lib.translation.readers.user_file import read_ecg, read_ppg
from p2es_lib.translation.reference_file import (
    check_reference,
    describe_reference,
    elapsed_s,
    read_reference,
    write_reference,
)

#: From the onset of a pulse of ``make_pair`` to its steepest point, s: (1 - sqrt(1/2)) of its rise of 0.16 s.
STEEPEST_S = 0.047


def write(path, columns: dict[str, np.ndarray], rate: float, start: str = ""):
    """A table with a column of time; ``start``: that of dates, instead of seconds."""
    n = len(next(iter(columns.values())))
    t = np.arange(n) / rate
    times = [f"{x:.4f}" for x in t]
    if start:
        times = np.datetime_as_string(np.datetime64(start) + (1000 * t).round().astype("timedelta64[ms]")).tolist()
    rows = zip(times, *([f"{x:.6f}" if np.isfinite(x) else "" for x in column] for column in columns.values()))
    name = "timestamp" if start else "time (s)"
    path.write_text("\n".join([",".join([name, *columns]), *map(",".join, rows)]) + "\n")
    return path


@pytest.fixture
def make(tmp_path):
    """``make(columns, rate, **options)``: the calibration of a table of these columns."""

    def calibrated(columns, rate=125.0, start="", **options):
        return calibrate(write(tmp_path / "rest.csv", columns, rate, start), out=tmp_path / "me.p2es", **options)

    return calibrated


def leads_of(pair) -> dict[str, np.ndarray]:
    """Two limb leads and a chest lead of other heights, mV."""
    return {"I_mV": 0.6 * pair.ecg, "II_mV": pair.ecg, "V2_mV": -0.8 * pair.ecg}


def beat_of(calibration, lead="II") -> np.ndarray:
    """The mean beat about its level between T and P."""
    beat = calibration.reference.beats[0, LEADS.index(lead)].numpy()
    return beat - np.median(beat)


def height(calibration, lead) -> float:
    return float(np.ptp(beat_of(calibration, lead)))


# ------------------------------------------------------------------------------------------------------ beats and delay
@pytest.mark.parametrize("rate", [125.0, 250.0, 500.0])
def test_beats_rate_and_delay_of_a_recording_made_for_it(make, make_pair, rate):
    pair = make_pair(60, rate, 0.8, 0.25)
    made = make({**leads_of(pair), "PPG": pair.ppg}, rate)
    about, reference = made.about, made.reference
    assert about["beats_found"] == pytest.approx(len(pair.rpeaks_s), abs=1)
    assert about["beats_used"] >= about["beats_found"] - 2 and not made.warnings
    assert reference.rr_s.item() == pytest.approx(0.8, abs=0.02) and about["heart_rate"] == pytest.approx(75, abs=2)
    assert reference.delay_s.item() == pytest.approx(0.25 + STEEPEST_S, abs=0.012) and about["delay_sd_ms"] < 8
    assert about["pulses_used"] >= 0.95 * about["pulses_found"] > 60
    assert reference.given[0].tolist() == [1, 1, 1, 1, 1, 1, 0, 1, 0, 0, 0, 0]
    assert about["derived"] == ["III", "aVR", "aVL", "aVF"] and "follow from them" in made.told["leads"]
    assert not reference.beats[0, LEADS.index("V5")].any()
    # R is 1 mV above the line, less what the band of 0.5 to 40 Hz takes of a QRS of 11 ms (SD).
    beat, r = beat_of(made), round(BEFORE_S * 125)
    assert abs(int(np.argmax(beat)) - r) <= 2 and 0.7 < beat.max() < 1.05
    t_wave = beat[r + round(0.2 * 125) : r + round(0.3 * 125)].max()
    assert t_wave == pytest.approx(0.3, abs=0.05)
    assert height(made, "I") == pytest.approx(0.6 * height(made, "II"), rel=0.02)
    assert np.argmin(beat_of(made, "V2")) == np.argmax(beat)


@pytest.mark.parametrize("width_s", [0.012, 0.02, 0.04])  # the broadest is not found as a beat
def test_premature_and_broad_beats_do_not_get_into_the_mean(make, make_pair, width_s):
    pair = make_pair(60, 125.0, 0.9, 0.25, variability=0.02)
    plain = make({"II_mV": pair.ecg, "PPG": pair.ppg})
    t, ecg = np.arange(len(pair.ecg)) / 125, pair.ecg.copy()
    injected = pair.rpeaks_s[5:-5:8]
    for r in injected:
        ecg += 1.4 * np.exp(-0.5 * ((t - r - 0.5) / width_s) ** 2) - 0.5 * np.exp(-0.5 * ((t - r - 0.7) / 0.06) ** 2)
    made = make({"II_mV": ecg, "PPG": pair.ppg})
    left_out = made.about["left_out"]
    assert left_out["premature"] + left_out["unlike"] + left_out["noisy"] >= len(injected)
    assert made.about["beats_used"] >= len(pair.rpeaks_s) - 3 * len(injected)
    assert np.abs(beat_of(made) - beat_of(plain))[: round(0.6 * 125)].max() < 0.06
    assert made.about["delay_ms"] == pytest.approx(plain.about["delay_ms"], abs=8)
    assert "left out" in made.told["beats"]


def test_many_left_out_are_a_warning(make, make_pair):
    pair = make_pair(60, 125.0, 0.9, 0.25, variability=0.02)
    t, ecg = np.arange(len(pair.ecg)) / 125, pair.ecg.copy()
    for r in pair.rpeaks_s[::2]:
        ecg += 1.4 * np.exp(-0.5 * ((t - r - 0.4) / 0.02) ** 2)
    assert any("left out" in text for text in make({"II_mV": ecg}).warnings)


def test_noise_in_a_stretch_and_a_gap_cost_their_beats_alone(make, make_pair):
    pair = make_pair(60, 125.0, 0.8, 0.25)
    plain = make({"II_mV": pair.ecg, "PPG": pair.ppg})
    ecg, rng = pair.ecg.copy(), np.random.default_rng(0)
    ecg[2500:3000] += 0.15 * rng.standard_normal(500)
    ecg[5000:6000] = np.nan
    made = make({"II_mV": ecg, "PPG": pair.ppg})
    lost = 8.0 / 0.8 + 4.0 / 0.8
    assert plain.about["beats_used"] - lost - 4 <= made.about["beats_used"] <= plain.about["beats_used"] - 10
    assert made.about["seconds"] == pytest.approx(52, abs=0.2)
    assert np.abs(beat_of(made) - beat_of(plain)).max() < 0.03


@pytest.mark.parametrize("interval_s", [0.3, 0.36, 1.6])
def test_fast_and_slow_hearts(make, make_pair, interval_s):
    pair = make_pair(60, 250.0, interval_s, 0.15)
    made = make({"II_mV": pair.ecg, "PPG": pair.ppg}, 250.0)
    assert made.about["beats_used"] >= 0.9 * len(pair.rpeaks_s)
    assert made.reference.rr_s.item() == pytest.approx(interval_s, rel=0.03)
    assert made.reference.beats.isfinite().all() and height(made, "II") > 0.7


def test_a_time_that_one_beat_alone_reaches_is_held(make_pair):
    """After the last beat there is no other: what the recording ends with is no part of the mean beat."""
    pair = make_pair(30, 125.0, 0.5, 0.2, variability=0.02)
    ecg = torch.zeros(1, 12, len(pair.ecg))
    ecg[0, 1] = torch.as_tensor(pair.ecg)
    ecg[0, 1, int((pair.rpeaks_s[-1] + 0.35) * 125) :] += 0.8
    given, r_times = torch.eye(12)[1:2], torch.as_tensor(pair.rpeaks_s, dtype=torch.float32)[None]
    beats, found = mean_beats(ecg, given, r_times, 125.0)
    assert found.kept.sum() >= len(pair.rpeaks_s) - 1 and beats[0, 1, -30:].abs().max() < 0.1
    only = torch.zeros_like(found.kept)
    only[0, 5:9] = True
    assert torch.equal(mean_beats(ecg, given, r_times, 125.0, only)[1].kept, only)


def test_an_ecg_alone_gives_the_shape_only(make, make_pair):
    made = make(leads_of(make_pair(20, 250.0)), 250.0)
    assert made.reference.delay_s.isnan().all() and made.about["delay_ms"] is None and made.about["delay_sd_ms"] is None
    assert "shape only" in made.told["delay"] and "polarity" not in made.told
    assert "delay unknown" in describe_reference(made.about)


def test_pulses_of_somebody_else_give_no_delay(make, make_pair):
    pair, other = make_pair(60, 125.0, 0.8, variability=0.1), make_pair(60, 125.0, 0.97, variability=0.1, seed=5)
    made = make({"II_mV": pair.ecg, "PPG": other.ppg})
    assert made.about["delay_ms"] is None and "no common delay" in made.told["delay"]


def test_a_ppg_upside_down_gives_the_same_delay_and_is_told(make, make_pair):
    pair = make_pair(60, 125.0)
    up, down = (make({"II_mV": pair.ecg, "PPG": sign * pair.ppg}) for sign in (1, -1))
    assert down.about["delay_ms"] == pytest.approx(up.about["delay_ms"], abs=1)
    assert "TURNED OVER" in down.told["polarity"] and "up" in up.told["polarity"]
    assert any(
        "seem to point down" in text for text in make({"II_mV": pair.ecg, "PPG": -pair.ppg}, polarity="up").warnings
    )


def test_a_delay_that_varies_is_a_warning(make, make_pair):
    pair = make_pair(60, 125.0, 0.8, variability=0.02)
    t, ecg = np.arange(len(pair.ecg)) / 125, 0.01 * np.random.default_rng(0).standard_normal(len(pair.ecg))
    for r, late in zip(pair.rpeaks_s, np.random.default_rng(1).normal(0, 0.03, len(pair.rpeaks_s))):
        ecg += np.exp(-0.5 * ((t - r - late) / 0.011) ** 2)
    made = make({"II_mV": ecg, "PPG": pair.ppg})
    assert made.about["delay_sd_ms"] > 20 and any("varies" in text for text in made.warnings)


def test_long_recordings_are_worked_on_in_pieces_and_odd_pieces_left_out(make, make_pair):
    pair = make_pair(300, 125.0, 0.8, 0.25)
    whole = make({"II_mV": pair.ecg, "PPG": pair.ppg})
    assert whole.about["beats_found"] == pytest.approx(len(pair.rpeaks_s), abs=2)
    assert whole.about["beats_used"] >= whole.about["beats_found"] - 3, "beats at the edges of pieces are whole"
    one = make({"II_mV": pair.ecg[: 60 * 125], "PPG": pair.ppg[: 60 * 125]})
    assert np.abs(beat_of(whole) - beat_of(one)).max() < 0.04
    assert whole.about["delay_ms"] == pytest.approx(one.about["delay_ms"], abs=3)
    turned = pair.ecg.copy()
    turned[60 * 125 : 120 * 125] *= -1  # a minute of another beat
    made = make({"II_mV": turned, "PPG": pair.ppg})
    assert made.about["left_out"]["unlike"] >= 70 and np.abs(beat_of(made) - beat_of(whole)).max() < 0.03


# ------------------------------------------------------------------------------------------------------ leads and units
@pytest.mark.parametrize("name", ["I_mV", "ECG_I", "Lead I (mV)", "ECG I [mV]", "D1", "lead_I"])
def test_names_of_leads(make, make_pair, name):
    assert make({name: make_pair(20).ecg}).about["leads"] == ["I"]


def test_an_ecg_of_unknown_lead_needs_one_to_be_said(make, make_pair):
    pair = make_pair(20, 125.0)
    with pytest.raises(InputError, match=r"rest\.csv: no ECG.*'ECG'.*--leads"):
        make({"ECG": pair.ecg, "PPG": pair.ppg})
    said = make({"ECG": pair.ecg, "PPG": pair.ppg}, leads="I")
    assert said.about["leads"] == ["I"] and said.about["delay_ms"]
    two = {"ECG 1 (uV)": 1000 * pair.ecg, "ECG 2 (uV)": 500 * pair.ecg, "PPG": pair.ppg}
    in_order = make(two, leads="V5,aVF")
    assert in_order.about["leads"] == ["aVF", "V5"] and height(in_order, "V5") == pytest.approx(
        2 * height(in_order, "aVF")
    )
    by_name = make({"x": pair.ecg, "V": 0.5 * pair.ecg, "II_mV": pair.ecg}, leads="x=V6,V=V1")
    assert by_name.about["leads"][-2:] == ["V1", "V6"] and by_name.about["leads"][0] == "II"
    with pytest.raises(InputError, match=r"--leads I.*COLUMN=LEAD"):
        make(two, leads="I")
    with pytest.raises(InputError, match=r"--leads names 'y'"):
        make(two, leads="y=I")


def test_tables_without_names(tmp_path, make_pair):
    pair = make_pair(20, 125.0)
    path = tmp_path / "plain.csv"
    np.savetxt(path, np.column_stack([pair.ppg, pair.ecg, 0.5 * pair.ecg]), delimiter=",", fmt="%.5f")
    options = {"out": tmp_path / "me.p2es", "sampling_rate": 125}
    assert calibrate(path, column="1", leads="II,V1", **options).about["leads"] == ["II", "V1"]
    assert calibrate(path, column="1", leads="3=V1", **options).about["leads"] == ["V1"]
    with pytest.raises(InputError, match=r"without names.*--column.*--leads"):
        calibrate(path, leads="II", **options)
    np.savetxt(path, pair.ecg, fmt="%.5f")
    assert calibrate(path, leads="I", **options).about["leads"] == ["I"]


def test_leads_option():
    assert check_leads("I, ii,ch 1=V2") == (("", "I"), ("", "II"), ("ch 1", "V2")) and check_leads(None) == ()
    for wrong in ("", "I,", "X", "I,I", "a=I,b=I", "V7"):
        with pytest.raises(InputError, match="--leads"):
            check_leads(wrong)


def test_units(make, make_pair):
    pair = make_pair(20, 125.0)
    mv, uv = make({"II_mV": pair.ecg}), make({"II_uV": 1000 * pair.ecg})
    np.testing.assert_allclose(uv.reference.beats, mv.reference.beats, atol=1e-5)
    assert "taken as mV" in make({"II": pair.ecg}).told["read"]
    for column, factor in (("II", 1000.0), ("II", 0.01), ("II_mV", 1000.0), ("II_mV", 0.05)):
        with pytest.raises(InputError, match=r"rest\.csv.*need mV"):
            make({column: factor * pair.ecg})


def test_too_few_beats_too_short_and_doubtful_leads(make, make_pair):
    pair = make_pair(60, 125.0, 0.8, variability=0.02)
    short = make({"II_mV": pair.ecg[:750]})
    assert any("only 6.0 s" in text for text in short.warnings) and any("beats: a mean" in t for t in short.warnings)
    for n in (50, 300):
        with pytest.raises(InputError, match=r"rest\.csv.*record"):
            make({"II_mV": pair.ecg[:n]})
    with pytest.raises(InputError, match="beats can be used"):
        make({"II_mV": 0.3 * np.random.default_rng(0).standard_normal(2500) * (np.arange(2500) % 400 < 40)})
    assert any("50 Hz" in text for text in make({"II_mV": make_pair(20, 50.0).ecg}, 50.0).warnings)
    swapped = make({"I_mV": -0.8 * pair.ecg, "II_mV": 0.3 * pair.ecg})
    assert any("lead I points down" in text and "arm electrodes" in text for text in swapped.warnings)
    limb = dict(zip(("I", "II", "III", "aVR", "aVL", "aVF"), (0.5, 0.8, 0.3, -0.65, 0.1, 0.55), strict=True))
    assert not make({f"{lead}_mV": factor * pair.ecg for lead, factor in limb.items()}).warnings
    limb["III"] = -0.3
    wrong = make({f"{lead}_mV": factor * pair.ecg for lead, factor in limb.items()})
    assert any("contradict" in text for text in wrong.warnings)
    noise = 0.25 * np.random.default_rng(0).standard_normal(len(pair.ecg))
    noisy = make({"II_mV": pair.ecg, "V5_mV": pair.ecg + noise})
    assert any("noise in V5" in text for text in noisy.warnings)


def test_a_lead_of_artefacts_and_a_dead_one_do_not_cost_the_others(make, make_pair):
    pair, rng = make_pair(60, 125.0), np.random.default_rng(0)
    bursts = rng.standard_normal(len(pair.ecg)) * (np.arange(len(pair.ecg)) % 170 < 60) * 1.5
    made = make({"II_mV": pair.ecg, "III_mV": bursts, "V1_mV": np.zeros(len(pair.ecg))})
    assert made.about["leads"] == ["II"] and made.about["beats_used"] >= len(pair.rpeaks_s) - 3
    told = "; ".join(made.warnings)
    assert "lead III left out: artefacts" in told and "lead V1 left out" in told


# ---------------------------------------------------------------------------------------------------------- other files
def test_wfdb_of_several_rates_with_its_date(tmp_path, make_pair):
    pair = make_pair(60, 250.0, 0.8, 0.25)
    write_multirate(tmp_path, "rest", pair)
    header = tmp_path / "rest.hea"
    first, rest = header.read_text().split("\n", 1)
    header.write_text(f"{first} 10:00:00 01/03/2026\n{rest}")
    made = calibrate(tmp_path / "rest", out=tmp_path / "me.p2es", age=63, sex="F")
    assert made.about["recorded_on"] == "2026-03-01T10:00:00" and made.about["source"] == "rest"
    assert (made.about["age"], made.about["sex"]) == (63, "F")
    assert made.about["leads"] == ["I", "II", "III", "aVR", "aVL", "aVF"] and "'V' left out" in made.told["read"]
    assert made.about["delay_ms"] == pytest.approx(1000 * (0.25 + STEEPEST_S), abs=12)
    assert "recorded 2026-03-01" in describe_reference(made.about)


def test_edf_with_and_without_ppg(tmp_path, make_pair):
    edfio = pytest.importorskip("edfio")
    pair, slow = make_pair(30, 250.0), make_pair(30, 64.0)
    ecg = edfio.EdfSignal(1000 * pair.ecg, 250.0, label="ECG", physical_dimension="uV")
    edfio.Edf([ecg]).write(tmp_path / "a.edf")
    options = {"out": tmp_path / "me.p2es", "leads": "I"}
    alone = calibrate(tmp_path / "a.edf", **options)
    assert alone.about["leads"] == ["I"] and alone.about["recorded_on"] == "" and alone.about["delay_ms"] is None
    with pytest.raises(InputError, match=r"a\.edf.*--leads"):
        calibrate(tmp_path / "a.edf", out=tmp_path / "me.p2es")
    edfio.Edf([ecg, edfio.EdfSignal(slow.ppg, 64.0, label="Pleth")]).write(tmp_path / "b.edf")
    assert calibrate(tmp_path / "b.edf", **options).about["delay_ms"] == pytest.approx(297, abs=12)


def test_dates_of_tables(tmp_path, make_pair):
    pair = make_pair(20, 125.0)
    columns = {"PPG": pair.ppg, "II_mV": pair.ecg}
    dated = write(tmp_path / "a.csv", columns, 125.0, "2026-03-01T10:00:00.250")
    assert read_ecg(dated).recorded_on == read_ppg(dated).recorded_on == "2026-03-01T10:00:00"
    assert read_ppg(write(tmp_path / "b.csv", columns, 125.0)).recorded_on == ""
    rows = [f"{1772359200 + i / 125:.3f},{x:.5f}" for i, x in enumerate(pair.ppg)]
    (tmp_path / "c.csv").write_text("\n".join(["unix_time_s,PPG", *rows]))
    assert read_ppg(tmp_path / "c.csv").recorded_on == "2026-03-01T10:00:00"


def test_no_ecg_and_wrong_options_leave_nothing_behind(tmp_path, make_pair):
    path = write(tmp_path / "rest.csv", {"PPG": make_pair(20, 125.0).ppg}, 125.0)
    out = tmp_path / "new" / "me.p2es"
    with pytest.raises(InputError, match=r"rest\.csv: no ECG"):
        calibrate(path, out=out)
    for options, match in (
        ({"sex": "X"}, "sex"),
        ({"age": 300}, "age"),
        ({"leads": "X"}, "leads"),
        ({"polarity": "x"}, "pol"),
    ):
        with pytest.raises(InputError, match=match):
            calibrate(path, out=out, **options)
    with pytest.raises(InputError, match="a folder"):
        calibrate(path, out=tmp_path)
    assert not out.parent.exists()


# ------------------------------------------------------------------------------------------------------------- the file
def a_reference() -> tuple[Reference, dict]:
    rng = np.random.default_rng(0)
    beats = torch.as_tensor(rng.standard_normal((1, 12, beat_samples(125))), dtype=torch.float32)
    row = [torch.tensor([x], dtype=torch.float32) for x in (0.8, float("nan"), float("nan"))]
    about = {"leads": ["I"], "beats_used": 42, "recorded_on": "", "delay_ms": None, "sampling_rate": 125.0}
    return Reference(beats, torch.ones(1, 12), *row), about


def test_a_reference_is_read_as_it_was_written(tmp_path):
    reference, about = a_reference()
    write_reference(tmp_path / "me.p2es", reference, about)
    read, told = read_reference(tmp_path / "me.p2es")
    for name in ("beats", "given", "rr_s", "delay_s", "elapsed_s"):
        torch.testing.assert_close(getattr(read, name), getattr(reference, name), rtol=0, atol=0, equal_nan=True)
    assert told.items() >= about.items() and check_reference(tmp_path / "me.p2es") == told
    assert (tmp_path / "me.p2es").stat().st_size < 10_000 and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(InputError, match="one person"):
        write_reference(tmp_path / "two.p2es", reference.repeat(2), about)


def test_the_file_does_not_say_where_the_recording_lies(tmp_path, make_pair):
    path = write(tmp_path / "rest.csv", {"II_mV": make_pair(20, 125.0).ecg}, 125.0)
    made = calibrate(path, out=tmp_path / "me.p2es")
    assert made.about["source"] == "rest.csv" and str(tmp_path).encode() not in made.path.read_bytes()


def test_other_files_are_no_reference(tmp_path):
    from safetensors.torch import save_file

    reference, about = a_reference()
    path = write_reference(tmp_path / "me.p2es", reference, about)
    content = path.read_bytes()
    other = tmp_path / "other.p2es"
    for data in (
        content[:100],
        content[:-7],
        content[:4],
        b"",
        b"\0" * 50,
        b"r 1 125 1000\nr.dat 16 200 0 0 0 0 0 II\n",
    ):
        other.write_bytes(data)
        with pytest.raises(InputError, match=r"other\.p2es.*p2es calibrate"):
            read_reference(other)
    save_file({"x": torch.zeros(3)}, other, metadata={"p2es": "{}"})
    with pytest.raises(InputError, match=r"other\.p2es: holds no reference"):
        check_reference(other)
    for missing in (tmp_path / "no.p2es", tmp_path):
        with pytest.raises(InputError, match="p2es calibrate RECORD"):
            check_reference(missing)
    wrong = Reference(
        reference.beats[..., :50], *(getattr(reference, n) for n in ("given", "rr_s", "delay_s", "elapsed_s"))
    )
    write_reference(other, wrong, about)
    with pytest.raises(InputError, match=r"other\.p2es.*make it anew"):
        read_reference(other)
    write_reference(other, reference, about | {"format": 7})
    with pytest.raises(InputError, match="format 7"):
        check_reference(other)


def test_time_between_two_recordings():
    assert elapsed_s("2026-03-01T10:00:50", "2026-03-01T10:00:00") == 50
    assert elapsed_s("2026-03-01", "2026-03-05T00:00:00") == 4 * 86400
    assert elapsed_s("2026-03-05T10:00:00+01:00", "2026-03-05T10:00:00") == 0
    for one, other in (
        ("", "2026-03-01T10:00:00"),
        ("2026-03-01", ""),
        ("2026-03-01", "2026-03-01T10:00:00"),
        ("", ""),
    ):
        assert np.isnan(elapsed_s(one, other))


# --------------------------------------------------------------------------------------------------------- translations
@pytest.fixture
def told_model(monkeypatch):
    """A model that keeps what it is given as ``reference``."""
    model, seen = tiny_p2es(), []

    def remember(windows, demographics, *, generator, n_samples=1, **options):
        seen.append(options)
        return torch.zeros(len(windows), n_samples, 12, windows.shape[-1])

    monkeypatch.setattr(model, "translate", remember)
    return SimpleNamespace(model=model, seen=seen)


def test_live_hands_the_reference_to_the_model(told_model, make_pair):
    ppg, (reference, _) = make_pair(12, 125.0).ppg, a_reference()
    live = LiveTranslator(told_model.model, n_samples=2, reference=reference)
    live.push(ppg)
    live.finish()
    given = told_model.seen[0]["reference"]
    torch.testing.assert_close(given.beats, reference.beats, rtol=0, atol=0)
    assert len(told_model.seen) > 1, "later windows have those whom the first one shows"
    plain = LiveTranslator(told_model.model, n_samples=2)
    told_model.seen.clear()
    plain.push(ppg)
    plain.finish()
    assert told_model.seen[0]["reference"] is None
    with pytest.raises(InputError, match="reference"):
        LiveTranslator(told_model.model, reference=reference.repeat(3))
    told_model.model.uses_reference = False
    with pytest.raises(InputError, match="cannot use a reference"):
        LiveTranslator(told_model.model, reference=reference)


def test_translate_with_a_reference_says_so_everywhere(told_model, monkeypatch, tmp_path, make_pair):
    pair = make_pair(20, 125.0)
    columns = {"PPG": pair.ppg, "II_mV": pair.ecg}
    first = write(tmp_path / "first.csv", columns, 125.0, "2026-03-01T10:00:00")
    later = write(tmp_path / "later.csv", {"PPG": pair.ppg}, 125.0, "2026-03-02T10:00:00")
    made = calibrate(first, out=tmp_path / "me.p2es")
    monkeypatch.setattr("p2es_lib.translation.file.load_model", lambda folder: told_model.model)
    shown = {}
    monkeypatch.setattr("p2es_lib.plots.plot_translation", lambda *_, **texts: shown.update(texts) or SimpleNamespace())
    monkeypatch.setattr(
        "p2es_lib.translation.results._draw_page", lambda *arguments: shown.update(report=arguments[-1])
    )
    written = translate(later, out=tmp_path / "out", n_samples=2, progress=False, reference=made.path)
    given = told_model.seen[0]["reference"]
    torch.testing.assert_close(given.beats, made.reference.beats, rtol=0, atol=0)
    assert given.elapsed_s.tolist() == [86400.0] and not given.same_session.item()
    line = f"leads II, {made.about['beats_used']} beats, recorded 2026-03-01, delay {made.about['delay_ms']:.0f} ms"
    assert written["reference"] == line and "of the reference" in written["delay"]
    comments = wfdb.rdheader(str(written["ecg"].with_suffix(""))).comments
    assert f"reference: {line}" in comments and f"# reference: {line}" in written["csv"].read_text()
    assert shown["report"][0] == f"reference: {line}"
    plain = translate(later, out=tmp_path / "out", n_samples=2, progress=False)
    assert "reference" not in plain and "the model learned" in plain["delay"]
    assert load_reference(None) is None and load_reference(made.path).elapsed_s.isnan().all()


# ---------------------------------------------------------------------------------------------------------- the command
@pytest.fixture
def p2es(home, monkeypatch, capsys):
    """Run the command in this process: returns exit status, standard output, standard error."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["p2es", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main.main()
            raise SystemExit(0)
        return (ended.value.code or 0, *capsys.readouterr())

    return run


def test_the_command_tells_what_it_found(p2es, tmp_path, make_pair):
    pair = make_pair(6, 125.0)
    path, out = write(tmp_path / "rest.csv", {"ECG": pair.ecg, "PPG": pair.ppg}, 125.0), tmp_path / "me.p2es"
    status, stdout, stderr = p2es("calibrate", path, "--out", out, "--lead", "I", "--age", 63, "--sex", "F")
    assert status == 0 and f"reference: {out}" in stdout and "beats: " in stdout and "delay: " in stdout
    assert stderr.startswith("WARNING: ") and "only 6.0 s" in stderr
    assert json.loads(json.dumps(check_reference(out)))["age"] == 63


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("calibrate", "no_such_record", "--out", "OUT"), "no such recording"),
        (("calibrate", "no_such_record", "--out", "OUT", "--lead", "X"), "--leads X"),
        (("calibrate", "no_such_record", "--out", "OUT", "--sex", "X"), "sex"),
        (("translate", __file__, "--out", "OUT"), "test_calibrate.py"),
        (("live", "--sampling-rate", "64", "--reference", __file__), "holds no reference"),
    ],
)
def test_wrong_input_is_named_before_anything_heavy_is_loaded(p2es, tmp_path, monkeypatch, arguments, message):
    for module in ("p2es_lib.core.learned", "p2es_lib.translation.readers.user_file"):
        monkeypatch.setitem(__import__("sys").modules, module, None)  # an import fails
    out = tmp_path / "out"
    status, _, stderr = p2es(*(out if argument == "OUT" else argument for argument in arguments))
    assert status == 2 and stderr.startswith("error: ") and message in stderr and not out.exists()


# ---------------------------------------------------------------------------------------------------- real recordings
@pytest.mark.parametrize(
    ("path", "leads", "rate", "delay_ms", "least"),
    [
        ("bidmc/1.0.0/bidmc_csv/bidmc_01_Signals.csv", 6, 91, 564, 0.97),
        ("wfdb-samples/mixedsignals", 6, 104, 396, 0.9),
        ("challenge-2015/1.0.0/training/a103l", 1, 127, 531, 0.85),  # not 57 ms, which is one beat off
        ("mimicdb/1.0.0/041s/041s", 1, 95, 317, 0.9),  # lead I holds artefacts
        ("ptb-xl/1.0.3/records100/00000/00001_lr", 12, 64, None, 0.9),
        ("ptb-xl/1.0.3/records100/00000/00449_lr", 12, 172, None, 0.5),  # atrial fibrillation with 180 per minute
    ],
)
def test_real_recordings(mirror, tmp_path, path, leads, rate, delay_ms, least):
    made = calibrate(mirror / path, out=tmp_path / "me.p2es")
    assert len(made.about["leads"]) == leads and made.about["heart_rate"] == pytest.approx(rate, abs=3)
    assert made.about["beats_used"] >= least * made.about["beats_found"]
    assert made.about["delay_ms"] == (None if delay_ms is None else pytest.approx(delay_ms, abs=6))
    assert made.reference.beats.isfinite().all() and 0.2 < np.ptp(made.reference.beats.numpy()) < 6
    assert delay_ms is None or made.about["delay_sd_ms"] < 20


def test_a_recording_whose_timing_is_of_no_use_gives_no_delay(mirror, tmp_path):
    made = calibrate(mirror / "challenge-2015/1.0.0/training/v102s", out=tmp_path / "me.p2es")
    assert made.about["delay_ms"] is None and any("left out" in text for text in made.warnings)
