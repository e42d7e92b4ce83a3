"""A user's own file: WFDB records and CSV files of many makes, good and bad, and the real ones if there are."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from wfdb_files import RATE, write_mimic4, write_multirate

from p2es_lib.core.errors import InputError
from p2es_lib.translation.readers.user_file import read_ppg


@pytest.fixture
def mimic_like(tmp_path, make_pair):
    """A mirror with MIMIC-IV waveforms: see :func:`wfdb_files.write_mimic4`."""
    return write_mimic4(tmp_path / "mirror", make_pair)


def test_wfdb_with_multirate_flac(tmp_path, make_pair):
    pair = make_pair(30, 4 * RATE)
    write_multirate(tmp_path, "rec", pair, ecg_names=("II", "V"))
    for path in (tmp_path / "rec", tmp_path / "rec.hea"):
        recording = read_ppg(path)
        assert recording.sampling_rate == 125.0 and recording.ecg_sampling_rate == 250.0
        assert np.allclose(recording.ppg, pair.ppg[::2][: len(recording.ppg)] * 4000 / 4096, atol=1e-3)
        assert list(recording.ecg) == ["II"] and np.allclose(recording.ecg["II"], pair.ecg[: 4 * 1875], atol=0.003)
    assert np.allclose(read_ppg(tmp_path / "rec", column="V").ppg[:20], 0.5 * pair.ecg[:20], atol=0.003)
    assert np.allclose(read_ppg(tmp_path / "rec", column=3).ppg, recording.ppg)


def test_wfdb_with_segments_of_which_one_is_missing(mimic_like):
    folder = mimic_like / "mimic4wdb" / "0.1.0" / "waves" / "p100" / "p10000001" / "80"
    recording = read_ppg(folder / "80")
    assert len(recording.ppg) == pytest.approx((200 + 900 / RATE) * 125, abs=2)
    gap = np.flatnonzero(np.isnan(recording.ppg))
    assert gap[0] == 100 * 125 and gap[-1] == int((100 + 900 / RATE) * 125) - 1
    assert np.isnan(recording.ecg["II"][int(101 * 250)]) and np.isfinite(recording.ecg["II"][-10:]).all()


@pytest.mark.parametrize("separator", [",", ";", "\t", "  "])
@pytest.mark.parametrize("unit", ["s", "ms", "none"])
def test_csv_with_and_without_time(tmp_path, make_pair, separator, unit):
    pair = make_pair(20, 64.0)
    columns = {"PLETH": pair.ppg, "II": pair.ecg}
    if unit != "none":
        columns = {f"Time[{unit}]": np.arange(len(pair.ppg)) / 64 * (1000 if unit == "ms" else 1)} | columns
    path = tmp_path / "x.csv"
    rows = [separator.join(columns), *(separator.join(f"{v:.6f}" for v in row) for row in zip(*columns.values()))]
    path.write_text("\n".join(rows))
    recording = read_ppg(path, sampling_rate=64 if unit == "none" else None)
    assert recording.sampling_rate == pytest.approx(64, rel=1e-4) and np.allclose(recording.ppg, pair.ppg, atol=1e-5)
    assert np.allclose(recording.ecg["II"], pair.ecg, atol=1e-5)
    assert recording.ecg_sampling_rate == recording.sampling_rate
    if unit == "none":
        with pytest.raises(InputError, match="sampling rate is not known"):
            read_ppg(path)
    else:
        overruled = read_ppg(path, sampling_rate=100)  # a rate that is given overrules a clock, and this is said
        assert overruled.sampling_rate == 100 and np.allclose(overruled.ppg, pair.ppg, atol=1e-5)
        assert any(note.startswith("WARNING: column 'Time[") and "says 64 Hz" in note for note in overruled.notes)


def test_csv_without_header(tmp_path, make_pair):
    pair = make_pair(20, 100.0)
    t = np.arange(len(pair.ppg)) / 100
    one, two, three = tmp_path / "one.csv", tmp_path / "two.csv", tmp_path / "three.txt"
    np.savetxt(one, pair.ppg)
    np.savetxt(two, np.column_stack([t, pair.ppg]), delimiter=",")
    np.savetxt(three, np.column_stack([t, pair.ecg, pair.ppg]))
    assert np.allclose(read_ppg(one, sampling_rate=100).ppg, pair.ppg)
    assert read_ppg(two).sampling_rate == pytest.approx(100) and np.allclose(read_ppg(two).ppg, pair.ppg)
    assert np.allclose(read_ppg(three, column="3").ppg, pair.ppg)
    assert "'3', the only one with pulses" in "; ".join(read_ppg(three).notes)
    np.savetxt(three, np.column_stack([t, pair.ppg, 3 * pair.ppg]))
    with pytest.raises(InputError, match="3 columns without names"):
        read_ppg(three)


def test_a_row_counter_is_no_clock(tmp_path, make_pair):
    pair = make_pair(20, 50.0)
    path = tmp_path / "x.csv"
    np.savetxt(path, np.column_stack([np.arange(len(pair.ppg)), pair.ppg]), delimiter=",")
    with pytest.raises(InputError, match="sampling rate is not known"):
        read_ppg(path, column=2)
    assert read_ppg(path, column=2, sampling_rate=50).sampling_rate == 50


def test_stretches_without_any_change_are_missing(tmp_path, make_pair):
    ppg = make_pair(30, 50.0).ppg
    ppg[1300:] = 0  # the file ends in rows of zeros
    ppg[500:530] = ppg[500]  # 0.6 s: a coarse converter may do that
    path = tmp_path / "x.csv"
    np.savetxt(path, ppg)
    read = read_ppg(path, sampling_rate=50).ppg
    assert np.isnan(read[1300:]).all() and np.allclose(read[:1300], ppg[:1300])


def test_csv_with_rounded_times_gaps_and_empty_cells(tmp_path, make_pair):
    pair = make_pair(40, 125.0)
    t = np.round(np.arange(len(pair.ppg)) / 125, 2)  # as BIDMC writes it: steps of 0 and 0.01 s
    keep = np.ones(len(t), dtype=bool)
    keep[2000:2250] = False  # the device paused for 2 s
    lines = [f"{a},{b:.6f}" if row != 100 else f"{a}," for row, (a, b) in enumerate(zip(t[keep], pair.ppg[keep]))]
    path = tmp_path / "x.csv"
    path.write_text("t,PPG\n" + "\n".join(lines))
    recording = read_ppg(path)
    assert recording.sampling_rate == pytest.approx(125, rel=2e-3)
    assert np.isnan(recording.ppg).sum() == pytest.approx(251, abs=3) and np.isnan(recording.ppg[[100, 2100]]).all()
    assert abs(len(recording.ppg) - len(t)) <= 3
    assert np.allclose(recording.ppg[:100], pair.ppg[:100], atol=1e-5)


def bad_csv(tmp_path, text):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    return path


def column_of(values, name="PPG"):
    return "\n".join([name, *map(str, values)])


@pytest.mark.parametrize(
    "text, match",
    [
        ("", "empty \\(zero bytes\\)"),
        ("PPG\n", "no row of values"),
        (column_of(np.sin(np.arange(500))), "5.0 s of PPG at 100 Hz; at least 8.2 s are needed"),
        (column_of(["nan"] * 2000), "no column of numbers"),
        (column_of([512] * 2000), "the PPG is flat \\(512 throughout\\)"),
        (column_of(np.sin(np.arange(2000)), "abp"), "no PPG channel; the channels are: abp"),
        (column_of(["1.000,5 V"] * 2000), "2 columns without names"),
        ("\n".join(["t,PPG", *(f"{-(a % 900)},1" for a in range(2000))]), "must hold numbers that only rise"),
        ("\n".join(["t,PPG", *(f"{a},1" for a in range(2000))]), "only|fit|sampling rate"),
    ],
)
def test_bad_csv_files(tmp_path, text, match):
    rate = None if text.startswith("t,") else 100
    with pytest.raises(InputError, match=match):
        read_ppg(bad_csv(tmp_path, text), sampling_rate=rate)


def test_bad_rates_and_columns(tmp_path, make_pair):
    path = bad_csv(tmp_path, column_of(make_pair(20, 100.0).ppg))
    for rate in (0, -125, float("nan"), 5, 1e6):
        with pytest.raises(InputError, match="a PPG recording has 20 to 10000 Hz"):
            read_ppg(path, sampling_rate=rate)
    with pytest.raises(InputError, match="no column 'red'; the columns are: PPG"):
        read_ppg(path, sampling_rate=100, column="red")


def test_binary_rubbish_as_csv(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(bytes(range(256)) * 20)
    with pytest.raises(InputError, match="cannot be read"):
        read_ppg(path, sampling_rate=100)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("x.mat", "cannot be read as MATLAB.*export it again"), ("x.npz", "cannot be read as NumPy"),
        ("x.xlsx", "cannot be read as sheet.*as CSV"), ("x.parquet", "cannot be read as frame.*as CSV"),
        ("x.h5", "cannot be read as HDF5"), ("x.jsonl", "cannot be read as JSON"), ("x.xls", "save it as .xlsx"),
        ("x.zip", "cannot be unpacked"), ("x.csv.gz", "unpack it"), ("x.log", "no row of values"),
        ("x.7z", "unpack it"),
        ("x.bin", "without a header"), ("x", "no text"), ("rec.dat", "give its header, .*rec.hea"),
        ("x.fit", "heart rates and no wave"), ("x.pkl", "a Python pickle.*CSV"),
        ("x.pdf", "a document, picture or film"),
        ("folder", "a folder; name .* rec.hea"), ("folder.csv", "a folder; name one .*none"),
    ],
)  # fmt: skip
def test_a_file_of_another_kind_is_said_to_be_there(tmp_path, name, told):
    path = tmp_path / name
    if name.startswith("folder"):
        path.mkdir()
        (path / "rec.hea" if name == "folder" else path / "notes.pdf").touch()
    else:
        path.write_bytes(b"1\0,2,3" if name in ("x", "x.bin") else b"PPG" if name == "x.log" else b"1,2,3")
        (tmp_path / "rec.hea").touch()
    with pytest.raises(InputError, match=f"{name}: .*{told}") as error:
        read_ppg(path)
    assert "no such" not in str(error.value)


def test_standard_input_is_for_live():
    with pytest.raises(InputError, match="p2es live"):
        read_ppg("-")


def test_bad_wfdb_records(tmp_path, make_pair):
    pair = make_pair(30, 4 * RATE)
    with pytest.raises(InputError, match="nothing: no such recording"):
        read_ppg(tmp_path / "nothing")
    with pytest.raises(InputError, match="x.csv: no such file"):
        read_ppg(tmp_path / "x.csv")
    write_multirate(tmp_path, "noppg", pair, ppg_name="ABP")
    with pytest.raises(InputError, match="no PPG channel.*II, V, aVR, ABP"):
        read_ppg(tmp_path / "noppg")
    write_multirate(tmp_path, "lost", pair)
    with pytest.raises(InputError, match="100 Hz was given, but the file says 125 Hz"):
        read_ppg(tmp_path / "lost", sampling_rate=100)
    (tmp_path / "lostp.dat").write_bytes(b"")
    with pytest.raises(InputError, match="signal files cannot be read"):
        read_ppg(tmp_path / "lost")
    (tmp_path / "lostp.dat").unlink()
    with pytest.raises(InputError, match="none of its signal files is there"):
        read_ppg(tmp_path / "lost")
    (tmp_path / "empty.hea").write_text("")
    with pytest.raises(InputError, match="empty \\(zero bytes\\)"):
        read_ppg(tmp_path / "empty")
    (tmp_path / "rubbish.hea").write_text("this is no header\nat all\n")
    with pytest.raises(InputError, match="rubbish.hea: not a readable WFDB header"):
        read_ppg(tmp_path / "rubbish")


# ------------------------------------------------------------------------------------------------ the real recordings
@pytest.mark.mirror
@pytest.mark.parametrize(
    "path, rate, seconds, leads",
    [
        ("challenge-2015/1.0.0/training/a103l", 250, 330, ["II"]),
        ("wfdb-samples/mixedsignals", 124.945, 230, ["II", "III"]),
        ("mimicdb/1.0.0/041s/041s", 125, 16, ["I", "III"]),
        ("bidmc/1.0.0/bidmc_csv/bidmc_01_Signals.csv", 125, 480, ["aVR", "II"]),
        ("mimic4wdb/0.1.0/waves/p100/p10079700/85594648/85594648_0007", 124.945, 7279, ["II", "aVR"]),
    ],
)
def test_real_files_of_other_makes(mirror, path, rate, seconds, leads):
    recording = read_ppg(mirror / path)
    assert recording.sampling_rate == pytest.approx(rate, rel=1e-3)
    assert len(recording.ppg) / recording.sampling_rate == pytest.approx(seconds, rel=0.01)
    assert sorted(recording.ecg) == sorted(leads)


def timed_csv(tmp_path, time, ppg, name):
    path = tmp_path / "timed.csv"
    pd.DataFrame({name: time, "PPG": ppg}).to_csv(path, index=False)
    return path


@pytest.mark.parametrize(
    ("name", "scale"), [("Time [s]", 1.0), ("time_ms", 1e3), ("t (us)", 1e6), ("timestamp ns", 1e9), ("time", 1.0)]
)
def test_units_of_time_are_taken_from_the_name(tmp_path, make_pair, name, scale):
    pair = make_pair(20, 50.0)
    found = read_ppg(timed_csv(tmp_path, np.arange(len(pair.ppg)) / 50.0 * scale, pair.ppg, name))
    assert found.sampling_rate == pytest.approx(50.0, rel=1e-6) and len(found.ppg) == len(pair.ppg)


def test_a_slow_recording_in_seconds_is_not_taken_for_a_fast_one_in_milliseconds(tmp_path, make_pair):
    ppg = make_pair(600, 10.0).ppg
    with pytest.raises(InputError, match="10 Hz"):
        read_ppg(timed_csv(tmp_path, np.arange(len(ppg)) / 10.0, ppg, "time (s)"))


def test_lost_samples_shift_nothing(tmp_path, make_pair):
    pair, t = make_pair(60, 100.0), np.arange(6000) / 100.0
    kept = np.ones(6000, dtype=bool)
    for start in range(150, 5900, 150):
        kept[start : start + 4] = False
    found = read_ppg(timed_csv(tmp_path, t[kept], pair.ppg[kept], "time (s)"))
    assert found.sampling_rate == pytest.approx(100.0) and len(found.ppg) == 6000
    np.testing.assert_allclose(found.ppg[kept], pair.ppg[kept], rtol=1e-6)
    assert np.isnan(found.ppg[~kept]).all()


def test_a_rate_that_drifts_is_evened_out_and_told(tmp_path, make_pair):
    drifting = np.cumsum(np.linspace(0.0095, 0.0105, 6000))
    ppg = make_pair(62, 1000.0).ppg[np.rint(1000 * drifting).astype(int)]
    found = read_ppg(timed_csv(tmp_path, drifting, ppg, "time (s)"))
    assert found.sampling_rate == pytest.approx(100, rel=1e-3) and "interpolated" in "; ".join(found.notes)
    even = make_pair(62, 1000.0).ppg[
        np.rint(1000 * drifting[0] + np.arange(len(found.ppg)) * 1000 / found.sampling_rate).astype(int)
    ]
    assert np.corrcoef(found.ppg, even)[0, 1] > 0.999


# ----------------------------------------------------------------------------------- tables of makes that nobody named


def test_lines_of_text_above_the_names_are_left_out_and_told(tmp_path, make_pair):
    x = make_pair(10, 100.0).ppg
    rows = "".join(f"{10 * k},{v:.5f},88\n" for k, v in enumerate(x))
    path = tmp_path / "a.csv"
    path.write_text("Device: Wrist-3\nSerial number: 000123\n\nTime (ms),PPG,Battery\n" + rows)
    recording = read_ppg(path)
    np.testing.assert_allclose(recording.ppg, x, atol=1e-5)
    assert recording.sampling_rate == 100 and "2 line(s) above the names left out: Device: Wrist-3" in "; ".join(
        recording.notes
    )


@pytest.mark.parametrize("damaged", ["Time (ms),PPG,Battery\n0,0.5\n", "0,1,2,3\nTime (ms),PPG,Battery\n"])
def test_a_damaged_row_near_the_top_costs_one_row_at_most(tmp_path, make_pair, damaged):
    x, path = make_pair(10, 100.0).ppg, tmp_path / "a.csv"
    path.write_text(damaged + "".join(f"{10 * k + 10},{v:.5f},88\n" for k, v in enumerate(x)))
    recording = read_ppg(path)
    assert recording.sampling_rate == 100 and len(recording.ppg) in (1000, 1001)
    np.testing.assert_allclose(recording.ppg[-1000:], x, atol=1e-5)


def test_names_for_fewer_columns_than_there_are_are_refused(tmp_path, make_pair):
    path = tmp_path / "a.csv"
    rows = (f"{10 * k},{v:.5f},88\n" for k, v in enumerate(make_pair(10, 100.0).ppg))
    path.write_text("Time (ms),PPG\n" + "".join(rows))
    with pytest.raises(InputError, match="name every column|names and 3 cells"):
        read_ppg(path)


def test_biopac_text(tmp_path, make_pair):
    """Lines about the channels, then names, a row of counts, and a clock in minutes."""
    x = make_pair(10, 500.0).ppg
    head = "s01.acq\n2 msec/sample\n2 channels\nPPG, X, PPGED-R\nVolts\nRSP, X, RSPEC-R\nVolts\nmin\tCH1\tCH2\t\n"
    counts = f"\t{len(x)}\t{len(x)}\t\n"
    path = tmp_path / "s01.txt"
    path.write_text(head + counts + "".join(f"{k * 0.002 / 60:.8g}\t{v:.6f}\t0\t\n" for k, v in enumerate(x)))
    recording = read_ppg(path, column="CH1")
    np.testing.assert_allclose(recording.ppg, x, atol=1e-5)
    assert recording.sampling_rate == pytest.approx(500, rel=1e-4)
    assert "a row of counts beneath the names left out" in recording.notes


@pytest.mark.parametrize("kind", ["dates", "timedeltas", "seconds", "numbers"])
def test_an_index_without_a_name_is_the_clock(tmp_path, make_pair, kind):
    """As pandas writes a Series; a gap in it must not be closed by a rate that is given."""
    x = make_pair(10, 100.0).ppg
    kept = np.r_[0:400, 500:1000]
    index = {
        "dates": pd.date_range("2024-05-03 09:59:30", periods=1000, freq="10ms", tz="Europe/Berlin"),
        "timedeltas": pd.timedelta_range(0, periods=1000, freq="10ms"),
        "seconds": pd.Index(np.arange(1000) / 100),
        "numbers": pd.RangeIndex(1000),
    }[kind]
    path = tmp_path / "a.csv"
    pd.Series(x, index, name="ppg").iloc[kept].to_csv(path)
    recording = read_ppg(path, sampling_rate=100)
    assert len(recording.ppg) == 1000 and np.isnan(recording.ppg[400:500]).all()
    np.testing.assert_allclose(recording.ppg[kept], x[kept], atol=1e-6)
    if kind == "numbers":
        with pytest.raises(InputError, match="counts rows"):
            read_ppg(path)
    else:
        assert read_ppg(path).sampling_rate == pytest.approx(100)


def test_one_lead_in_an_odd_unit_does_not_cost_the_others(tmp_path, make_pair):
    import wfdb

    pair = make_pair(10, 250.0)
    signals = np.stack([pair.ecg, 0.5 * pair.ecg, 0.3 * pair.ecg, pair.ppg], axis=1).astype(float)
    names, units = ["I", "II", "V1 (uV)", "PLETH"], ["mV", "adu", "mV", "NU"]
    wfdb.wrsamp("r", fs=250, units=units, sig_name=names, p_signal=signals, fmt=["16"] * 4, write_dir=str(tmp_path))
    recording = read_ppg(tmp_path / "r")
    np.testing.assert_allclose(recording.ppg, pair.ppg, atol=0.01)
    assert list(recording.ecg) == ["I"]
    told = "; ".join(recording.notes)
    assert (
        "left out: ECG signal 'II' has the unit 'adu'; only mV and uV can be used" in told
        and "'V1 (uV)' has the unit 'mV'" in told
    )
