"""Files as people have them: each kind of difficulty, read right and told, or refused with what to do."""

from __future__ import annotations

import gzip
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from p2es_lib.core.errors import InputError
from p2es_lib.signals.cleaning import bridge_short_gaps, ppg_onsets, true_runs
from p2es_lib.signals.polarity import turn_upright
from p2es_lib.signals.transforms import resample_signal
from p2es_lib.translation.readers.user_file import read_ppg

#: Cases that a checkout may have beside it, each with its own expectation; see their README.
MIRROR = Path(os.environ.get("P2ES_TEST_MIRROR") or Path(__file__).resolve().parents[2] / "shared/data/physionet")
HANDED = MIRROR.parents[1] / "cases"
#: Of these, one is no file, and two must be refused.
LIVE, REFUSED, OPTIONS = ("99-live",), ("49b-slow-in-seconds",), {"34-8kHz": {"sampling_rate": 6000}}


def handed() -> list:
    """Recordings of the handed cases; a packed one and its unpacked twin are two."""
    folders = [folder for folder in sorted(HANDED.glob("[0-9]*")) if folder.name not in LIVE]
    files = [file for folder in folders for file in sorted(folder.iterdir())]
    other = ("expect.txt", "beats.npy", "dur")
    kept = [f for f in files if f.is_file() and f.name not in other and f.suffix not in (".dat", ".json")]
    return [pytest.param(file, id=f"{file.parent.name}-{file.name}") for file in kept]


def matched(recording, beats: np.ndarray) -> tuple[float, float]:
    """Share of the true beats in covered stretches that a pulse follows at one delay, and pulses per true beat."""
    ppg, rate = recording.ppg, recording.sampling_rate
    if rate > 500:
        ppg, rate = resample_signal(ppg, rate, 125.0), 125.0
    ppg = bridge_short_gaps(turn_upright(ppg, rate, "auto")[0], rate, 0.1)
    runs = [run for run in true_runs(np.isfinite(ppg)) if np.ptp(run) > 2.2 * rate]
    pulses = np.concatenate([(first + ppg_onsets(ppg[first:end], rate)) / rate for first, end in runs])
    gaps = (pulses[:, None] - beats).ravel()
    near = max(np.arange(-1.2, 1.2, 0.01), key=lambda lag: np.sum(np.abs(gaps - lag) < 0.04))
    lag = np.median(gaps[np.abs(gaps - near) < 0.05])
    covered = [(first / rate + 0.8, end / rate - 0.8) for first, end in runs]
    inside = [beat + lag for beat in beats if any(a < beat + lag < b for a, b in covered)]
    extra = sum(any(a < pulse < b for a, b in covered) for pulse in pulses) / len(inside)
    return float(np.mean([np.abs(pulses - beat).min() < 0.075 for beat in inside])), extra


@pytest.mark.skipif(not HANDED.is_dir(), reason="no cases beside this checkout")
@pytest.mark.parametrize("file", handed())
def test_handed_cases(file):
    options = OPTIONS.get(file.parent.name, {})
    if file.parent.name in REFUSED:
        with pytest.raises(InputError, match="20 (Hz|to 10000 Hz)"):
            read_ppg(file, **options)
        return
    recording = read_ppg(file, **options)
    duration_s = float((file.parent / "dur").read_text())
    assert len(recording.ppg) / recording.sampling_rate == pytest.approx(duration_s, abs=0.2)
    share, extra = matched(recording, np.load(file.parent / "beats.npy"))
    assert share >= 0.95 and 0.9 < extra < 1.1


# ------------------------------------------------------------------------------------------ cases of one's own, by kind
SECONDS = 40


@pytest.fixture(scope="session")
def wave(make_pair):
    """``wave(rate)``: a PPG of :data:`SECONDS` at that rate, about 500 to 800, as converters give it."""
    fine = make_pair(SECONDS, 1000.0, noise=0.003).ppg

    def at(rate: float) -> np.ndarray:
        t = np.arange(round(SECONDS * rate)) / rate
        return np.round(500 + 250 * np.interp(t, np.arange(len(fine)) / 1000, fine), 2)

    return at


@pytest.fixture
def right(wave):
    """``right(path, rate, *told, **options)``: it is read as the wave, at that rate, and what was done is told."""

    def check(path, rate, *told, within=0.98, covered=0.8, **options):
        found = read_ppg(path, **options)
        notes = "; ".join(found.notes)
        assert found.sampling_rate == pytest.approx(rate, rel=0.01), notes
        assert len(found.ppg) / found.sampling_rate == pytest.approx(SECONDS, abs=0.3), notes
        true, present = wave(1000), np.isfinite(found.ppg)
        expected = np.interp(np.arange(len(found.ppg)) / found.sampling_rate, np.arange(len(true)) / 1000, true)
        assert present.mean() >= covered, notes
        assert np.corrcoef(found.ppg[present], expected[present])[0, 1] > within, notes
        for text in told:
            assert text in notes, notes
        return found

    return check


@pytest.fixture
def write(tmp_path):
    def text(rows, head="time_s,ppg", name="a.csv"):
        path = tmp_path / name
        path.write_text("\n".join([*([head] if head else []), *rows]) + "\n")
        return path

    return text


def timed(x, rate, form="{:.4f},{}"):
    return [form.format(n / rate, v) for n, v in enumerate(x)]


# dropouts
@pytest.mark.parametrize("code", ["0", "-1", "-999", "65535", "32767", "LEADS OFF", "--", "sensor off"])
@pytest.mark.parametrize("rate", [25, 100])
def test_codes_for_missing_data_are_no_wave(write, wave, right, code, rate):
    x = [f"{v}" for v in wave(rate)]
    off = np.arange(len(x)) % (10 * rate) < 0.6 * rate
    path = write(timed([code if gone else v for v, gone in zip(x, off)], rate))
    found = right(path, rate)
    assert np.isnan(found.ppg[off]).all()


def test_a_code_within_the_range_of_the_wave(write, wave, right):
    x = wave(100) - 600
    off = np.arange(len(x)) % 500 < 60
    found = right(write(timed(np.where(off, 0, x), 100)), 100, "value 0 in")
    assert np.isnan(found.ppg[off]).mean() > 0.95


@pytest.mark.parametrize("kind", ["zeros", "spikes", "spikes and lows"])
@pytest.mark.parametrize("rate", [25, 50, 200])
def test_isolated_samples_are_left_out(write, wave, right, kind, rate):
    x, rng = wave(rate), np.random.default_rng(0)
    rows = rng.permutation(len(x) - 5)[: len(x) // 50] if kind == "zeros" else np.arange(rate, len(x) - 5, 2 * rate)
    x[rows] = 0 if kind == "zeros" else rng.uniform(2000, 4000, len(rows))
    if kind == "spikes and lows" and rate > 25:
        x[rows + 1] = x[rows + 2] = 120.5
    right(write(timed(x, rate)), rate, covered=0.95)


# columns
@pytest.mark.parametrize(
    "names, others",
    [
        (("PPG1", "PPG2"), "noise"), (("ppg_green", "ppg_ir"), "zero"), (("PPG_RED", "PPG_IR"), "rare"),
        (("PLETH_SPO2", "SNUADC/PLETH"), "rare"), (("Pulse", "PulseWave"), "slow"), (("red", "ir"), "noise"),
        (("ppg ambient light", "green"), "noise"), (("HR", "IR"), "slow"), (("PI", "Pleth"), "slow"),
    ],
)  # fmt: skip
def test_the_column_with_the_pulses_is_taken_and_told(write, wave, right, names, others):
    x, rng = wave(50), np.random.default_rng(1)
    other = {
        "noise": 300 + rng.normal(0, 5, len(x)), "zero": np.zeros(len(x)), "slow": 72 + np.arange(len(x)) // 200 % 3,
        "rare": np.where(np.arange(len(x)) % 100 == 0, 98, np.nan),
    }[others]  # fmt: skip
    cells = ["" if np.isnan(v) else f"{v:.2f}" for v in other]
    path = write([f"{n / 50:.2f},{a},{v}" for n, (a, v) in enumerate(zip(cells, x))], f"Time (s),{names[0]},{names[1]}")
    right(path, 50, f"PPG from {names[1]!r}")


@pytest.mark.parametrize(
    "name",
    ["Pulse", "PULS", "PulseWave", "PWA", "PI", "PG", "IR", "cardiac", "Infrared", "Pulswelle", "BVP", "脉搏波", "ch1"],
)
def test_names_that_may_stand_for_a_ppg(write, wave, right, name):
    right(write(timed(wave(50), 50), f"time_s,{name}"), 50, f"PPG from {name!r}")


def test_columns_that_the_user_names_overrule(write, wave, right):
    x = wave(50)
    rows = [f"{n},{n / 25:.2f},{n / 50:.2f},{700 - v},{v}" for n, v in enumerate(x)]
    path = write(rows, "counter,time (s),device time (s),ppg,other")
    with pytest.raises(InputError, match="two columns of time differ.*--time-column"):
        read_ppg(path)
    right(path, 50, "PPG from 'other'", column="other", time_column="device time (s)")
    right(path, 50, column="5", time_column="3")
    right(path, 50, "50 Hz as given", column="other", time_column="none", sampling_rate=50)
    right(path, 50, column="other", sampling_rate=50)
    with pytest.raises(InputError, match="no column 'clock'"):
        read_ppg(path, time_column="clock")


@pytest.mark.parametrize("times", ["goes back", "nonsense", "never rises", "wrong unit"])
def test_a_rate_that_is_given_overrules_a_bad_clock(write, wave, right, times):
    x = wave(50)
    n = np.arange(len(x))
    t = {"goes back": n % 700 / 50, "nonsense": np.random.default_rng(0).permutation(n), "never rises": 0 * n,
         "wrong unit": n / 50}[times]  # fmt: skip
    path = write([f"{a:.3f},{v}" for a, v in zip(t, x)], "time (ms),ppg")
    with pytest.raises(InputError):
        read_ppg(path)
    right(path, 50, "WARNING", sampling_rate=50)


# clocks
def test_a_reading_must_be_plausible_as_a_whole(write, wave):
    x = wave(10)
    for rate, values in ((2, [72 + n // 9 % 3 for n in range(18_000)]), (10, x), (5, np.tile(x, 9))):
        with pytest.raises(InputError, match="20 (Hz|to 10000 Hz)"):
            read_ppg(write(timed(values, rate, "{:.1f},{}"), "time,ppg"))
    ticks = write([f"{2 * n},{v}" for n, v in enumerate(wave(50))], "time,ppg")  # hundredths of a second
    with pytest.raises(InputError, match="times as often as a heart beats"):
        read_ppg(ticks)


@pytest.mark.parametrize("name", ["Time D0CD", "Timestamp_S", "Polar H10 timestamp", "Galaxy S time", "time_of_day"])
def test_letters_of_a_device_are_no_unit(write, wave, right, name):
    rows = [f"{1605095000000 + 20 * n},{v}" for n, v in enumerate(wave(50))]
    if name != "Timestamp_S":
        right(write(rows, f"{name},PPG_A13"), 50)
    right(write(rows, f"{name} (ms),PPG_A13"), 50)


@pytest.mark.parametrize(
    "change", ["twice", "swapped", "glitch", "first glitch", "newest first", "late packet", "missing"]
)
@pytest.mark.parametrize("form", ["ms", "iso", "clock"])
def test_single_rows_and_times_that_are_wrong(write, wave, right, change, form):
    x = wave(50)
    stamps = pd.Timestamp("2024-05-01T10:00:00") + pd.to_timedelta(np.arange(len(x)) / 50, unit="s")
    text = {"ms": [str(1718000000000 + 20 * n) for n in range(len(x))], "iso": [s.isoformat() for s in stamps],
            "clock": [s.strftime("%H:%M:%S.%f") for s in stamps]}[form]  # fmt: skip
    rows = [f"{t},{v}" for t, v in zip(text, x)]
    if change == "twice":
        rows = [row for n, row in enumerate(rows) for _ in range(1 + (n % 33 == 7))]
    elif change == "swapped":
        for n in range(50, 2000, 90):
            rows[n], rows[n + 1] = rows[n + 1], rows[n]
    elif change == "newest first":
        rows = rows[::-1]
    elif change == "late packet":
        rows[500:515], rows[515:530] = rows[515:530], rows[500:515]
    else:
        wrong = {"ms": "2118000000000", "iso": "2036-02-07T06:28:15", "clock": "23:59:59.99"}[form]
        at = 0 if change == "first glitch" else 700
        rows[at] = f"{'' if change == 'missing' else wrong},{x[at]}"
    right(write(rows, "timestamp,ppg"), 50)


@pytest.mark.parametrize("n_rows, inside", [(6, 0.00001), (12, 0), (18, 0.0002), (64, 0), (5, 0.001)])
@pytest.mark.parametrize("scale, name", [(1, "timestamp"), (1, "time (s)"), (1000, "time"), (1e6, "t_us")])
def test_packets_that_were_stamped_once(write, wave, right, n_rows, inside, scale, name):
    packet, place = np.divmod(np.arange(SECONDS * 64), n_rows)
    t = (packet * n_rows / 64 + inside * place) * scale + (1624421714 if name == "timestamp" else 0)
    right(write([f"{v},{a:.6f}" for a, v in zip(t, wave(64))], f"ppg,{name}"), 64, "evenly spaced")


@pytest.mark.parametrize("form", ["[1, 2]", "1;2", "1 2", "(1|2)"])
def test_packets_in_cells(write, wave, right, form):
    sep = {"[1, 2]": ", ", "1;2": ";", "1 2": " ", "(1|2)": "|"}[form]
    packets = [sep.join(f"{v:.0f}" for v in wave(50)[n : n + 25]) for n in range(0, 2000, 25)]
    cells = [f'"[{p}]"' if form == "[1, 2]" else f"({p})" if form == "(1|2)" else p for p in packets]
    right(write([f"{500 * n},{cell}" for n, cell in enumerate(cells)], "time_ms,ppg"), 50, "80 packets in cells")


@pytest.mark.parametrize("separator, decimal", [(";", ","), (",", ".")])
@pytest.mark.parametrize("name", ["Time", "Zeit", "datetime"])
def test_days_as_spreadsheets_count_them(write, wave, right, separator, decimal, name):
    rows = [f"{44602.35 + n / 50 / 86400:.10f}{separator}{v}".replace(".", decimal) for n, v in enumerate(wave(50))]
    right(write(rows, f"{name}{separator}PPG"), 50, "in days as Excel counts them")


@pytest.mark.parametrize("head, seconds", [
    ("year,month,day,hour,minute,second", "{s:.2f}"), ("Year,Month,Day,Hour,Min,Sec,ms", "{i},{ms}"),
    ("hour,minute,second,millisecond", "{i},{ms}"), ("HH,MM,SS", "{s:.2f}"),
])  # fmt: skip
def test_a_clock_in_columns_of_its_own(write, wave, right, head, seconds):
    rows = []
    for n, v in enumerate(wave(50)):
        t = pd.Timestamp("2024-05-01T10:59:40") + pd.Timedelta(20 * n, "ms")
        date = f"{t.year},{t.month},{t.day}," if "ear" in head else ""
        s = seconds.format(s=t.second + t.microsecond / 1e6, i=t.second, ms=t.microsecond // 1000)
        rows.append(f"{date}{t.hour},{t.minute},{s},{v}")
    right(write(rows, f"{head},ppg"), 50)


# heads and files beside
@pytest.mark.parametrize("head, rate", [
    ("Interval=\t0.01 s\nChannelTitle=\tPulse\nRange=\t10 V", 100), ("# Sampling rate: 100 Hz\nPPG", 100),
    ("Abtastrate: 100 Hz\nPPG", 100), ("a.acq\n10 msec/sample\n1 channels\nPPG100C\nVolts\nCH1\n4000", 100),
    ("sampling_frequency = 100\nPPG", 100), ("Sample interval: 10 ms\nPPG", 100),
    ("# 100 samples per second\nPPG", 100),
    ("# fs=0.1 kHz\nPPG", 100), ('# {"dev": {"sampling rate": 100, "column": ["PPG"], "sensor": ["PULSE"]}}', 100),
])  # fmt: skip
def test_facts_in_the_head(write, wave, right, head, rate):
    right(write([str(v) for v in wave(rate)], head, "a.txt"), rate)


def bids(folder, x, packed, **facts):
    name = "sub-01_task-rest_physio"
    text = "\n".join(f"{v}\t{n % 40}\t{int(n % 100 == 0)}" for n, v in enumerate(x)) + "\n"
    path = folder / f"{name}.tsv{'.gz' if packed else ''}"
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    about = {"SamplingFrequency": 100, "StartTime": -3.2, "Columns": ["cardiac", "respiratory", "trigger"], **facts}
    (folder / facts.pop("beside", f"{name}.json")).write_text(json.dumps(about))
    return path


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("beside", ["sub-01_task-rest_physio.json", "task-rest_physio.json"])
def test_bids(tmp_path, wave, right, packed, beside):
    right(bids(tmp_path, wave(100), packed, beside=beside), 100, "PPG from 'cardiac'", "SamplingFrequency")


# other files
@pytest.mark.parametrize("name", ["run.puls", "run.txt", "Physio_PULS.log"])
def test_siemens(tmp_path, wave, right, name):
    values = [cell for n, v in enumerate(wave(50)) for cell in ([f"{v:.0f}"] + ["5000"] * (n % 41 == 7))]
    foot = "\nECG  Freq Per: 0 0\nLogStartMDHTime:  43131452\nLogStopMDHTime:   43171452\n6003"
    (tmp_path / name).write_text("1 8 20 2 5002 LOGVERSION 1 6002 " + " ".join(values) + " 5003" + foot)
    right(tmp_path / name, 50, "log of a Siemens scanner")


def test_cmrr(tmp_path, wave, right):
    mark = "   PULS_TRIGGER"
    rows = [f"{20123456 + 8 * n}   PULS   {v:.0f}{mark if n % 41 == 7 else ''}" for n, v in enumerate(wave(50))]
    head = "UUID        = a-b\nScanDate    = 20200101\nLogDataType = PULS\nSampleTime  = 8\n\n"
    head += "ACQ_TIME_TICS  CHANNEL  VALUE  SIGNAL"
    (tmp_path / "Physio_PULS.log").write_text("\n".join([head, *rows]) + "\n")
    right(tmp_path / "Physio_PULS.log", 50, "tics of 2.5 ms")


def test_ge(tmp_path, wave, right):
    path = tmp_path / "PPGData_epiRT_0509202010_27_51_971"
    path.write_text("\n".join(f"{v:.0f}" for v in wave(100)) + "\n")
    right(path, 100, "GE scanners")
    resp = path.with_name("RESPData_epiRT_1")
    resp.write_text("\n".join(f"{100 * np.sin(n / 60):.0f}" for n in range(4000)) + "\n")
    with pytest.raises(InputError, match="no PPG"):
        read_ppg(resp)


@pytest.mark.parametrize("separator", [",", " ", "\t", ", "])
def test_all_values_in_one_line(tmp_path, wave, right, separator):
    (tmp_path / "a.txt").write_text(separator.join(map(str, wave(50))) + "\n")
    right(tmp_path / "a.txt", 50, sampling_rate=50)


@pytest.mark.parametrize("suffix", [".csv.gz", ".csv.bz2", ".csv.xz", ".zip", ".log", ".dat", ".asc", ""])
def test_packed_text_and_text_of_other_names(tmp_path, wave, right, suffix):
    import bz2
    import lzma

    text = "\n".join(["time_s,ppg", *timed(wave(50), 50)]).encode()
    path = tmp_path / f"a{suffix}"
    packed = {".csv.gz": gzip.compress, ".csv.bz2": bz2.compress, ".csv.xz": lzma.compress}
    if suffix == ".zip":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("folder/a.csv", text)
    else:
        path.write_bytes(packed.get(suffix, lambda data: data)(text))
    right(path, 50)


def frame_of(x, rate=50):
    return pd.DataFrame({"time_s": np.arange(len(x)) / rate, "ppg": x, "hr": 72.0})


@pytest.mark.parametrize("how", ["columns", "index", "dates"])
@pytest.mark.parametrize("suffix", [".parquet", ".feather", ".xlsx", ".jsonl", ".json"])
def test_frames(tmp_path, wave, right, suffix, how):
    pytest.importorskip({".xlsx": "openpyxl", ".parquet": "pyarrow", ".feather": "pyarrow"}.get(suffix, "json"))
    frame, path = frame_of(wave(50)), tmp_path / f"a{suffix}"
    if how != "columns":
        stamps = pd.Timestamp("2024-05-01T10:00:00.125") + pd.to_timedelta(frame["time_s"], unit="s")
        frame = frame.assign(time=stamps).drop(columns="time_s")
        frame = frame.set_index("time") if how == "index" and suffix == ".parquet" else frame
    if suffix == ".xlsx":
        frame.to_excel(path, index=False, startrow=2)
    elif suffix.startswith(".json"):
        frame.to_json(path, orient="records", lines=suffix == ".jsonl", date_format="iso")
    else:
        (frame.to_parquet if suffix == ".parquet" else frame.to_feather)(path)
    right(path, 50, "PPG from 'ppg'")


@pytest.mark.parametrize("tree", [
    {"fs": 50.0, "PPG": "x"}, {"data": {"ppg": "x", "Fs": 50}, "acc": {"x": "short", "Fs": 10}}, {"t": "t", "ppg": "x"},
])  # fmt: skip
@pytest.mark.parametrize("suffix", [".mat", "7.3.mat", ".h5", ".npz", ".json"])
def test_arrays_by_name(tmp_path, wave, right, suffix, tree):
    x, path = wave(50), tmp_path / f"a{suffix}"
    arrays = {"x": x, "t": np.arange(len(x)) / 50, "short": np.arange(400.0)}

    def filled(node):
        found = {k: arrays.get(v, v) if isinstance(v, str) else v for k, v in node.items()}
        return {k: filled(v) if isinstance(v, dict) else v for k, v in found.items()}

    tree = filled(tree)
    if suffix == ".mat":
        from scipy.io import savemat

        savemat(path, tree)
    elif suffix == ".json":
        path.write_text(json.dumps(tree, default=lambda a: a.tolist()))
    elif suffix == ".npz":
        np.savez(path, **(tree.get("data") if "data" in tree else tree))
    else:
        h5py = pytest.importorskip("h5py")

        def store(group, node):
            for key, value in node.items():
                if isinstance(value, dict):
                    store(group.create_group(key), value)
                elif np.size(value) > 1 and suffix == "7.3.mat":
                    group[key] = np.asarray(value)[None]
                else:
                    group[key] = value

        with h5py.File(path, "w", userblock_size=512 if suffix == "7.3.mat" else 0) as file:
            store(file, tree)
        if suffix == "7.3.mat":
            with path.open("r+b") as file:
                file.write(b"MATLAB 7.3 MAT-file, HDF5".ljust(124) + b"\x00\x02IM")
    right(path, 50)


def test_opensignals(tmp_path, wave, right):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "o.h5", "w") as file:
        device = file.create_group("00:07:80:0F:30:B6")
        device.attrs["sampling rate"] = 100
        device["raw/channel_1"] = wave(100)[:, None]
        device["raw/nSeq"] = (np.arange(4000) % 16)[:, None]
        device["digital/digital_1"] = np.zeros((4000, 1))
    right(tmp_path / "o.h5", 100, "channel_1")


def test_acqknowledge_says_what_is_missing_or_wrong(tmp_path):
    pytest.importorskip("bioread")
    (tmp_path / "a.acq").write_bytes(b"\0" * 5000)
    with pytest.raises(InputError, match="cannot be read as AcqKnowledge.*export it"):
        read_ppg(tmp_path / "a.acq")


def test_channels_of_acqknowledge(tmp_path, wave, right, monkeypatch):
    bioread = pytest.importorskip("bioread")
    from types import SimpleNamespace

    channels = [
        SimpleNamespace(name="RSP", data=np.zeros(1000), samples_per_second=25.0, units="V"),
        SimpleNamespace(name="PPG100C", data=wave(100), samples_per_second=100.0, units="V"),
    ]
    monkeypatch.setattr(bioread, "read", lambda file: SimpleNamespace(channels=channels))
    (tmp_path / "a.acq").write_bytes(b"x")
    right(tmp_path / "a.acq", 100, "PPG from 'PPG100C'", "AcqKnowledge, 100 Hz")


def test_empatica_avro(tmp_path, wave, right):
    fastavro = pytest.importorskip("fastavro")
    signal = {"type": "record", "name": "signal", "fields": [
        {"name": "timestampStart", "type": "long"}, {"name": "samplingFrequency", "type": "float"},
        {"name": "values", "type": {"type": "array", "items": "float"}},
    ]}  # fmt: skip
    fields = [{"name": "eda", "type": signal}, {"name": "bvp", "type": "signal"}]
    raw = {"type": "record", "name": "raw", "fields": fields}
    schema = {"type": "record", "name": "all", "fields": [{"name": "rawData", "type": raw}]}
    eda = {"timestampStart": 1, "samplingFrequency": 4.0, "values": [0.1] * 160}
    bvp = {"timestampStart": 1, "samplingFrequency": 64.0, "values": wave(64).tolist()}
    with (tmp_path / "a.avro").open("wb") as file:
        fastavro.writer(file, schema, [{"rawData": {"eda": eda, "bvp": bvp}}])
    right(tmp_path / "a.avro", 64, "PPG from 'rawData/bvp'")


def test_xdf(tmp_path, wave, right, monkeypatch):
    pyxdf = pytest.importorskip("pyxdf")

    def stream(name, values, rate, labels):
        channels = [{"channel": [{"label": [label]} for label in labels]}]
        info = {"name": [name], "nominal_srate": [str(rate)], "desc": [{"channels": channels}]}
        return {"info": info, "time_series": values, "time_stamps": 1000 + np.arange(len(values)) / rate}

    muse = stream("Muse", np.c_[wave(64), wave(64)], 64, ["PPG1", "x"])
    streams = [stream("EEG", np.zeros((4000, 2)), 100, ["a", "b"]), muse]
    monkeypatch.setattr(pyxdf, "load_xdf", lambda name: (streams, {}))
    (tmp_path / "a.xdf").write_bytes(b"XDF:")
    right(tmp_path / "a.xdf", 64, "PPG from 'Muse PPG1'")


@pytest.mark.parametrize("name, package", [
    ("a.xlsx", "openpyxl"), ("a.h5", "h5py"), ("a.acq", "bioread"), ("a.xdf", "pyxdf"), ("a.avro", "fastavro"),
    ("a.parquet", "pyarrow"),
])  # fmt: skip
def test_an_absent_library_is_named(tmp_path, monkeypatch, name, package):
    import importlib

    (tmp_path / name).write_bytes(b"something")

    def absent(module):
        raise ImportError(f"No module named {module!r}", name=module)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(InputError, match=rf"{name}: reading .* needs the package {package}.*pip install"):
        read_ppg(tmp_path / name)


@pytest.mark.parametrize("record, told", [
    ("rec 1 50 {n} 2006", ""), ("rec 1 50 {n} 2014-05-08 05:05:15", "2014-05-08T05:05:15"), ("waves/rec 1 50 {n}", ""),
    ("rec 1 50 0", ""), ("rec 1 50", ""), ("rec 1 50 {n} 05:05:15 8/5/2014", "2014-05-08T05:05:15"),
    ("rec.1 1 50 {n}", ""),
])  # fmt: skip
def test_headers_of_wfdb_with_what_reading_does_not_need(tmp_path, wave, right, record, told):
    x = wave(50)
    folder = "waves/" if "/" in record else ""
    (tmp_path / "waves").mkdir()
    np.round(10 * x).astype("<i2").tofile(tmp_path / folder / "rec.dat")
    lines = f"{record.format(n=len(x))}\n{folder}rec.dat 16 10(0)/NU 16 0 0 0 0 PLETH\n"
    (tmp_path / "rec.hea").write_text(lines)
    assert right(tmp_path / "rec.hea", 50).recorded_on == told
