"""SensSmartTech: WFDB records of two kinds of signal, their CSV twins with times in ms, and the table of volunteers."""

from __future__ import annotations

import numpy as np
import pytest
import wfdb
from wfdb_files import read_record

from p2es_lib.core.errors import InputError
from p2es_lib.data.download.mirror import MissingFile
from p2es_lib.data.sources import senssmarttech

NAME = "5_08-59-04"
GAINS = {"I": 0.6, "II": 1.0, "V3": 1.4, "V4": -0.7}
SITES = {"carotid_880nm": 30.0, "carotid_660nm": 10.0, "brachial_880nm": 20.0, "brachial_660nm": 5.0}
COLUMNS = ("File number", "Subject number", "Recording time (hh:mm:ss)", "Gender", "Age (year)", "Height (cm)",
           "Weight (kg)", "Body-mass index", "ECG", "PPG", "PCG", "ACC", "Before (B)  / after (A) activity",
           "Median heart rate (bpm)")  # fmt: skip


@pytest.fixture
def top(tmp_path, home):
    """Folder of the data set on a mirror, with its lists and no recording."""
    folder = tmp_path / "mirror" / "senssmarttech" / "1.0.0"
    for name in ("CSV", "WFDB"):
        (folder / name).mkdir(parents=True)
    stems = ("1_10-09-54", NAME, "5_09-00-20")
    kinds = ("acc", "ecg", "pcg", "ppg")
    (folder / "RECORDS").write_text("".join(f"WFDB/{stem}_{kind}\n" for stem in stems for kind in kinds))
    write_table(folder)
    return folder


def write_table(top, rows=(("1", "M", "53"), ("5", "F", "44"), ("5", "F", "44")), title=True):
    """As published: a title in the first row, the header in the second, a row per recording, 48 columns, empty rows."""
    lines = ["SensSmartTech Database Reference Table"] if title else []
    lines.append(",".join(COLUMNS))
    for number, (subject, sex, age) in enumerate(rows, 1):
        lines.append(f"{number},{subject},8:59:04,{sex},{age},167,64,22.95,a_ecg,a_ppg,a_pcg,a_acc,B,90.6")
    text = "\n".join([*(line + "," * (47 - line.count(",")) for line in lines), "," * 47])
    (top / "Demographics.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())


def write_wfdb(top, pair, name=NAME, units="mV", sites=None, leads=None):
    """1 kHz, 32 bits, 6990.5 to the millivolt on an offset; PPG in whole hundredths of "au"."""
    kinds = {"ecg": ([g * pair.ecg - 12 for g in (leads or GAINS).values()], 6990.5, units, list(leads or GAINS)),
             "ppg": ([g * pair.ppg for g in (sites or SITES).values()], 100.0, "au", list(sites or SITES))}  # fmt: skip
    for kind, (signals, gain, unit, names) in kinds.items():
        counts, n = np.round(gain * np.stack(signals, axis=1)).astype(np.int64), len(names)
        wfdb.wrsamp(
            f"{name}_{kind}", 1000, [unit] * n, names, d_signal=counts, fmt=["32"] * n, adc_gain=[gain] * n,
            baseline=[0] * n, write_dir=str(top / "WFDB"),
        )  # fmt: skip


def write_twin(top, name, kind, t, columns):
    """A twin: ``t`` in ms, to a hundredth, and the signals in counts."""
    rows = [",".join(["t", *columns])]
    for at, *values in zip(t, *columns.values()):
        rows.append(f"{at:.2f}," + ",".join("" if np.isnan(v) else f"{v:.3f}" for v in values))
    (top / "CSV" / f"{name}_{kind}.csv").write_text("\n".join(rows) + "\n")


def write_twins(top, pair, name=NAME, counts=6990.5, ecg_gap=(), ppg_begin_ms=3.5):
    """Times as the sensors had them: ECG 2 ms apart and PPG 9.89 ms apart, both jittering; ``ecg_gap`` in ms."""
    t_true, rng = 1000 * np.arange(len(pair.ecg)) / pair.sampling_rate, np.random.default_rng(0)
    t = np.arange(1.9, t_true[-1] - 1, 1.995) + rng.uniform(-0.3, 0.3, len(np.arange(1.9, t_true[-1] - 1, 1.995)))
    if ecg_gap:
        t = t[(t < ecg_gap[0]) | (t > ecg_gap[1])]
    x = np.interp(t, t_true, pair.ecg)
    names = {"lead_I": 0.6, "lead_II": 1.0, "v3": 1.4, "v4": -0.7}
    write_twin(top, name, "ecg", t, {lead: counts * (gain * x - 12) for lead, gain in names.items()})
    t = np.arange(ppg_begin_ms, t_true[-1] - 5, 9.89)
    x = np.interp(t, t_true, pair.ppg)
    write_twin(top, name, "ppg", t, {site: gain * x for site, gain in SITES.items()})


def mirror_of(top):
    return senssmarttech.SOURCE.mirror(top.parent.parent)


def record_of(top, name=NAME):
    return next(record for record in senssmarttech.SOURCE.list_records(mirror_of(top)) if record.name == name)


def reading_of(top, name=NAME):
    return read_record(senssmarttech.SOURCE, mirror_of(top), record_of(top, name))


# -------------------------------------------------------------------------------------------------- files as they are
def test_one_record_per_recording_and_one_shard_per_volunteer(top):
    records = senssmarttech.SOURCE.list_records(mirror_of(top))
    assert [(r.name, r.path, r.shard) for r in records] == [
        ("1_10-09-54", "WFDB/1_10-09-54", "subject-1"),
        (NAME, f"WFDB/{NAME}", "subject-5"),
        ("5_09-00-20", "WFDB/5_09-00-20", "subject-5"),
    ]


def test_wfdb(top, make_pair):
    pair = make_pair(30, 1000.0, seed=1)
    write_wfdb(top, pair)
    reading = reading_of(top)
    assert (reading.subject, reading.age, reading.sex, reading.notes) == ("5", 44.0, "F", [])
    (stretch,) = reading.stretches
    assert (stretch.start_s, stretch.margin_s, stretch.rhythm) == (0.0, 0.0, None) and reading.notes == []
    assert set(stretch.leads) == set(GAINS)
    for lead, gain in GAINS.items():
        x, rate = stretch.leads[lead]
        assert rate == 1000 and np.allclose(x, gain * pair.ecg - 12, atol=2e-4)
    assert stretch.ppg[1] == 1000 and np.allclose(stretch.ppg[0], 20 * pair.ppg, atol=0.01)  # brachial, 880 nm
    files = [f"WFDB/{NAME}_{end}" for end in ("ecg.hea", "ecg.dat", "ppg.hea", "ppg.dat")]
    assert senssmarttech.SOURCE.files(mirror_of(top), record_of(top)) == files


def test_the_twins_give_what_the_wfdb_records_give(top, make_pair):
    """Jittering times in ms become regular ones, counts become millivolts, and both signals begin at one instant."""
    pair = make_pair(30, 1000.0, seed=1)
    write_twins(top, pair)
    reading = reading_of(top)
    (stretch,) = reading.stretches
    assert set(stretch.leads) == set(GAINS) and "6990.5 counts per mV" in " ".join(reading.notes)
    begin_s = 0.0035
    leads = [(stretch.leads[lead], gain * pair.ecg - 12) for lead, gain in GAINS.items()]
    for (x, rate), true in [(stretch.ppg, 20 * pair.ppg), *leads]:
        at = begin_s + np.arange(len(x)) / rate
        expected = np.interp(1000 * at, np.arange(len(true)), true)
        assert np.allclose(x, expected, atol=0.02 if rate == 500 else 0.15)
        assert 29.9 < len(x) / rate < 30
    assert (stretch.ppg[1], stretch.leads["II"][1]) == (100.0, 500.0)
    assert senssmarttech.SOURCE.files(mirror_of(top), record_of(top)) == [f"CSV/{NAME}_ecg.csv", f"CSV/{NAME}_ppg.csv"]


def test_the_twins_are_used_where_one_of_the_two_records_is_not_there(top, make_pair):
    pair = make_pair(30, 1000.0)
    write_wfdb(top, pair)
    write_twins(top, pair)
    (top / "WFDB" / f"{NAME}_ppg.hea").unlink()
    (stretch,) = reading_of(top).stretches
    assert stretch.leads["II"][1] == 500 and stretch.ppg[1] == 100
    assert all(path.startswith("CSV/") for path in senssmarttech.SOURCE.files(mirror_of(top), record_of(top)))


def test_signals_of_the_twins_begin_when_the_later_one_does(top, make_pair):
    pair = make_pair(30, 1000.0)
    write_twins(top, pair, ppg_begin_ms=903.5)
    (stretch,) = reading_of(top).stretches
    for (x, rate), true in ((stretch.ppg, 20 * pair.ppg), (stretch.leads["II"], pair.ecg - 12)):
        expected = np.interp(903.5 + 1000 * np.arange(len(x)) / rate, np.arange(len(true)), true)
        assert np.allclose(x, expected, atol=0.02 if rate == 500 else 0.15)


def test_a_gap_in_the_times_is_missing_signal(top, make_pair):
    write_twins(top, make_pair(30, 1000.0), ecg_gap=(10_000, 10_500))
    (stretch,) = reading_of(top).stretches
    missing = np.flatnonzero(np.isnan(stretch.leads["II"][0])) / 500
    assert missing.min() == pytest.approx(9.9965, abs=0.005) and missing.max() == pytest.approx(10.4965, abs=0.005)
    assert len(missing) == pytest.approx(250, abs=4) and np.isfinite(stretch.ppg[0]).all()


@pytest.mark.parametrize(
    "sites, chosen",
    [
        (SITES, 20.0),
        ({"carotid_880nm": 30.0, "BRACHIAL-660NM": 5.0}, 5.0),
        ({"carotid_660nm": 10.0, "Carotid_880nm,": 30.0}, 30.0),
        ({"finger": 1.0, "carotid_660nm": 10.0}, 10.0),
    ],
)
def test_choice_of_the_ppg(top, make_pair, sites, chosen):
    pair = make_pair(30, 1000.0)
    write_wfdb(top, pair, sites=sites)
    (stretch,) = reading_of(top).stretches
    assert np.allclose(stretch.ppg[0], chosen * pair.ppg, atol=0.01)


def test_a_ppg_of_light_received_is_turned_over(top, make_pair):
    pair = make_pair(30, 1000.0)
    write_wfdb(top, pair, sites={"brachial_880nm": -20.0})
    reading = reading_of(top)
    (stretch,) = reading.stretches
    assert np.allclose(stretch.ppg[0], 20 * pair.ppg, atol=0.01) and "turned over" in reading.notes[-1]


# ---------------------------------------------------------------------------------------------------------- volunteers
def test_age_and_sex_that_are_missing(top, make_pair):
    write_wfdb(top, make_pair(8, 1000.0))
    write_table(top, [("1", "M", "53"), ("5", "", "")])
    reading = reading_of(top)
    assert np.isnan(reading.age) and (reading.sex, reading.notes) == ("", [])
    write_table(top, [("1", "M", "53")])
    assert np.isnan(reading_of(top).age) and "does not name subject 5" in reading_of(top).notes[0]
    (top / "Demographics.csv").unlink()
    assert np.isnan(reading_of(top).age) and "Demographics.csv" in reading_of(top).notes[0]


@pytest.mark.parametrize(
    "damage, match",
    [
        (lambda content: b"", "cannot be read as CSV"),
        (lambda content: bytes(range(128, 256)) * 9, "cannot be read as CSV"),
        (lambda content: content.partition(b"\n")[2], "no column subject"),
        (lambda content: content.replace(b",44,", b",444,"), "subject 5: age 444 is outside"),
        (lambda content: content.replace(b",F,", b",X,"), "subject 5: unknown sex"),
    ],
)
def test_a_broken_table(top, make_pair, damage, match):
    write_wfdb(top, make_pair(8, 1000.0))
    path = top / "Demographics.csv"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=f"Demographics.csv.*{match}"):
        reading_of(top)


def test_terms():
    source = senssmarttech.SOURCE
    assert (source.role, source.about["access"]) == ("paired", "open") and "Attribution 4.0" in source.about["licence"]
    assert "10.13026/fy9p-n277" in source.about["cite"]
    assert (
        "338 recordings of 32 volunteers" in source.about["size"]
        and "V3 and V4 are standard leads" in source.about['lead "V"']
    )


# ------------------------------------------------------------------------------------------------------- damaged input
def test_a_recording_that_is_not_there(top):
    with pytest.raises(MissingFile, match=f"neither .*{NAME}_ecg.hea .*CSV/{NAME}_ecg.csv"):
        reading_of(top)


def test_a_signal_file_that_is_not_there(top, make_pair):
    write_wfdb(top, make_pair(8, 1000.0))
    (top / "WFDB" / f"{NAME}_ppg.dat").unlink()
    with pytest.raises(MissingFile, match=f"{NAME}_ppg.dat"):
        list(reading_of(top).stretches)


@pytest.mark.parametrize(
    "options, match",
    [
        ({"units": "NU"}, f"{NAME}_ecg.hea: ECG signal 'I' has the unit 'NU'"),
        ({"sites": {"finger": 1.0}}, f"{NAME}_ppg.hea: none of the PPG signals brachial_880nm, .* found finger"),
        ({"leads": {"V": 1.0, "resp": 1.0}}, f"{NAME}_ecg.hea: no standard lead among V, resp"),
    ],
)
def test_records_that_cannot_be_used(top, make_pair, options, match):
    write_wfdb(top, make_pair(8, 1000.0), **options)
    with pytest.raises(InputError, match=match):
        list(reading_of(top).stretches)


@pytest.mark.parametrize("counts", [1.0, 1000.0 * 6990.5])
def test_twins_in_another_unit_are_refused(top, make_pair, counts):
    write_twins(top, make_pair(8, 1000.0), counts=counts)
    with pytest.raises(InputError, match=f"{NAME}_ecg.csv: ECG of .*6990.5 counts per mV"):
        list(reading_of(top).stretches)


@pytest.mark.parametrize(
    "kind, text, match",
    [
        ("ecg", "", "cannot be read as a table of numbers"),
        ("ecg", "t,lead_II\n0,1\n2,x\n4,1\n", "cannot be read as a table of numbers"),
        ("ecg", "time,lead_II\n0,1\n2,1\n4,1\n", "needs a column t"),
        ("ecg", "t,lead_II\n0,1\n2,1\n2,1\n", "that only rises"),
        ("ecg", "t,v\n0,1\n2,1\n4,1\n", "no standard lead among t, v"),
        ("ecg", "t,lead_II\n0,1\n1.4,1\n2.8,1\n", "times are 1.4 ms apart"),
        ("ppg", "t,finger\n0,1\n10,1\n20,1\n", "none of the PPG signals"),
        ("ppg", "t,brachial_880nm\n0.0,1\n0.01,1\n0.02,1\n", "times are 0.01 ms apart"),  # seconds
    ],
)
def test_bad_twins(top, make_pair, kind, text, match):
    write_twins(top, make_pair(8, 1000.0))
    (top / "CSV" / f"{NAME}_{kind}.csv").write_text(text)
    with pytest.raises(InputError, match=f"{NAME}_{kind}.csv: .*{match}"):
        list(reading_of(top).stretches)
