"""Reading WFDB records: names and units, segments, parts that fit together, and damage of every kind."""

from __future__ import annotations

import re

import numpy as np
import pytest
from wfdb_files import RATE, write_mimic4, write_multirate, write_record

from p2es_lib.core.errors import InputError
from p2es_lib.data.download.mirror import Mirror, MissingFile
from p2es_lib.data.sources import wfdb_records
from p2es_lib.data.sources.contract import Reading
from p2es_lib.data.sources.wfdb_records import (
    MARGIN_S,
    find_chest_lead,
    find_leads,
    find_ppg,
    read_header,
    read_signals,
    record_files,
    record_stretches,
    segment_stretches,
    segments,
    usable_leads,
    walk_records,
)

SEGMENTS = "waves/p100/p10000001/80/80"


@pytest.fixture
def mimic_like(tmp_path, make_pair, home):
    """A mirror with MIMIC-IV waveforms, and the folder of its first record."""
    root = write_mimic4(tmp_path / "mirror", make_pair)
    return Mirror(root, "mimic4wdb", "0.1.0"), root / "mimic4wdb" / "0.1.0" / "waves/p100/p10000001/80"


def reading():
    return Reading("s", float("nan"), "", iter(()))


def stretches_of(mirror, path=SEGMENTS, **options):
    found = reading()
    return list(record_stretches(mirror, path, found, **options)), " ".join(found.notes)


def check_tiling(stretches):
    """Each stretch begins where the one before ended, and its signals hold the margins that it states."""
    for before, after in zip(stretches, stretches[1:]):
        assert after.start_s == pytest.approx(before.start_s + before.keep_s, abs=1e-9)
    for number, stretch in enumerate(stretches):
        after_s = 0.0 if number == len(stretches) - 1 else MARGIN_S
        for x, rate in (stretch.ppg, *stretch.leads.values()):
            held_s = len(x) / rate
            assert stretch.margin_s >= 0 and stretch.margin_s + stretch.keep_s <= held_s + 1e-9
            assert held_s <= stretch.margin_s + stretch.keep_s + after_s + 2 / RATE


def kept(stretches, signal_of):
    """The samples that count, one stretch after the other."""
    parts = []
    for stretch in stretches:
        x, rate = signal_of(stretch)
        first = round(stretch.margin_s * rate)
        assert first == pytest.approx(stretch.margin_s * rate, abs=1e-6)  # a whole number of samples
        parts.append(x[first : first + round(stretch.keep_s * rate)])
    return np.concatenate(parts)


# -------------------------------------------------------------------------------------------------- names and units
def test_ppg_names():
    for name in ("PLETH", "Pleth", "PLETH,", "ppg", "PPG_red", "SpO2 pleth", "MAX30102 PPG"):
        assert find_ppg(["II", name]) == name
    for name in (
        "Resp",
        "ABP",
        "II",
        "shppg",
        "SpO2",
        "",
        "PPG_HR",
        "PLETH PR",
        "pleth quality",
        "Pleth PI,",
        "PPGtoHR",
    ):
        assert find_ppg([name]) is None and find_ppg([name, "PLETH"]) == "PLETH"


def test_lead_names_and_units():
    found = find_leads(["II,", "V", "AVR", "MCL1", "i", "II"], ["mV", "mV", "uV", "mV", "mv", "mV"], "r")
    assert found == {"II": ("II,", 1.0), "aVR": ("AVR", 1e-3), "I": ("i", 1.0)}
    for unit in ("NU", "", None, "V", "adu"):
        with pytest.raises(InputError, match=f"r: ECG signal 'II' has the unit {unit!r}"):
            find_leads(["II"], [unit], "r")
    assert find_leads(["V", "PLETH", "RESP"], ["NU", "NU", None], "r") == {}  # units of others do not matter


def test_a_unit_in_the_name_counts_where_the_field_is_empty_and_must_not_contradict_it():
    assert find_leads(["II (uV)", "V1 [mV]"], ["", None], "r") == {"II": ("II (uV)", 1e-3), "V1": ("V1 [mV]", 1.0)}
    assert find_leads(["II (µV)"], ["uV"], "r") == {"II": ("II (µV)", 1e-3)}  # two spellings of one unit
    with pytest.raises(InputError, match=r"r: ECG signal 'V1 \(uV\)' .*; correct"):
        find_leads(["V1 (uV)"], ["mV"], "r")
    with pytest.raises(InputError, match=r"'II \(adu\)' .*'mV' by its unit field"):
        find_leads(["II (adu)"], ["mV"], "r")
    for name in ("II (adu)", "II"):
        with pytest.raises(InputError, match="only mV and uV can be used"):
            find_leads([name], [""], "r")


def test_chest_electrode_of_unknown_position():
    for name in ("V", "V,", "v", "MCL", "MCL1", "ECG V"):
        assert find_chest_lead(["PLETH", name]) == name
    for name in ("V1", "II", "aVR", "CVP", "Vent", "", "MCL123"):
        assert find_chest_lead([name]) is None


# --------------------------------------------------------------------------------------------------------- headers
@pytest.mark.parametrize(
    "text, match",
    [
        (None, "r.hea: no such WFDB header"),
        ("", "r.hea: the header is empty"),
        ("this is no header\nat all\n", "r.hea: not a readable WFDB header"),
        ("r 1 0 100\nr.dat 16 200/mV 12 0 0 0 0 II\n", "r.hea: .*(header|sampling rate)"),
    ],
)
def test_damaged_headers(tmp_path, text, match):
    if text is not None:
        (tmp_path / "r.hea").write_text(text)
    with pytest.raises(InputError, match=match):
        read_header(tmp_path / "r.hea")


def test_segments_leave_out_gaps_and_layouts(tmp_path):
    lines = ["r/6 2 125 700", "r_layout 0", "a_0001 100", "~ 200", "b_0002 0", "c_0003 400"]
    (tmp_path / "r.hea").write_text("\n".join(lines) + "\n")
    found = segments(read_header(tmp_path / "r.hea"))
    assert [(s.name, s.start_frame, s.n_frames) for s in found] == [("a_0001", 0, 100), ("c_0003", 300, 400)]


# -------------------------------------------------------------------------------------------------------- one segment
def test_signals_of_the_same_name_are_read_from_the_first(tmp_path):
    """A monitor may write a lead or the PPG twice; the second is often another sensor."""
    t = np.arange(1000) / 125
    rows = np.column_stack([t, -t, np.sin(t), np.cos(t), 2 * t])
    (rows * 1000).round().astype("<i2").tofile(tmp_path / "r.dat")
    names, units = ("I", "II", "PLETH", "PLETH", "II"), ("mV", "mV", "NU", "NU", "mV")
    lines = [f"r.dat 16 1000/{unit} 16 0 0 0 0 {name}" for name, unit in zip(names, units)]
    (tmp_path / "r.hea").write_text("\n".join(["r 5 125 1000", *lines]) + "\n")
    (stretch,) = segment_stretches(tmp_path / "r.hea")
    assert np.allclose(stretch.leads["II"][0], -t, atol=1e-3) and np.allclose(stretch.leads["I"][0], t, atol=1e-3)
    assert np.allclose(stretch.ppg[0], np.sin(t), atol=1e-3)
    assert np.allclose(read_signals(tmp_path / "r.hea", ["II", "PLETH"])["II"][0], -t, atol=1e-3)


def test_a_signal_without_description_is_passed_over(tmp_path):
    rows = np.column_stack([np.arange(500), np.arange(500) * 2, np.arange(500) * 3]).astype("<i2")
    rows.tofile(tmp_path / "r.dat")
    lines = ["r.dat 16 1000/mV 16 0 0 0 0", "r.dat 16 1000/NU 16 0 0 0 0 PLETH", "r.dat 16 1000/uV 16 0 0 0 0 II"]
    (tmp_path / "r.hea").write_text("\n".join(["r 3 125 500", *lines]) + "\n")
    (stretch,) = segment_stretches(tmp_path / "r.hea")
    assert list(stretch.leads) == ["II"] and np.allclose(stretch.leads["II"][0], 3e-6 * np.arange(500))  # uV to mV
    assert np.allclose(stretch.ppg[0], 2e-3 * np.arange(500))


def test_samples_marked_as_missing_are_nan(tmp_path):
    rows = np.column_stack([np.arange(500), np.arange(500)]).astype("<i2")
    rows[100:120, 1] = -32768
    rows.tofile(tmp_path / "r.dat")
    lines = ["r.dat 16 1000/NU 16 0 0 0 0 PLETH", "r.dat 16 1000/mV 16 0 0 0 0 II"]
    (tmp_path / "r.hea").write_text("\n".join(["r 2 125 500", *lines]) + "\n")
    (stretch,) = segment_stretches(tmp_path / "r.hea")
    assert np.flatnonzero(np.isnan(stretch.leads["II"][0])).tolist() == list(range(100, 120))
    assert np.isfinite(stretch.ppg[0]).all()


def test_a_header_that_states_no_length(tmp_path, monkeypatch):
    x = np.sin(np.arange(2500) / 20)
    write_record(tmp_path, "r", {"II": x, "PLETH": -x})
    text = (tmp_path / "r.hea").read_text()
    (tmp_path / "r.hea").write_text(text.replace("r 2 125 2500", "r 2 125"))
    monkeypatch.setattr(wfdb_records, "PART_S", 7.0)
    stretches = list(segment_stretches(tmp_path / "r.hea"))
    check_tiling(stretches)
    assert len(stretches) == 3 and np.allclose(kept(stretches, lambda s: s.leads["II"]), x, atol=1e-3)


def test_a_chest_lead_serves_only_where_no_lead_has_a_name(tmp_path):
    x = np.sin(np.arange(1500) / 20)
    write_record(tmp_path, "r", {"V": x, "PLETH": -x})
    write_record(tmp_path, "s", {"V": x, "II": 0.5 * x, "PLETH": -x})
    (stretch,) = segment_stretches(tmp_path / "r.hea")
    assert stretch.leads == {} and np.allclose(stretch.rhythm[0], x, atol=1e-3) and stretch.rhythm[1] == 125
    (stretch,) = segment_stretches(tmp_path / "s.hea")
    assert list(stretch.leads) == ["II"] and stretch.rhythm is None


def test_segments_of_no_use_say_what_they_hold(tmp_path):
    x = np.sin(np.arange(1500) / 20)
    write_record(tmp_path, "noppg", {"II": x, "RESP": x})
    write_record(tmp_path, "noecg", {"PLETH": x, "RESP": x})
    with pytest.raises(InputError, match="noppg.hea: no PPG among the signals II, RESP"):
        list(segment_stretches(tmp_path / "noppg.hea"))
    (stretch,) = segment_stretches(tmp_path / "noppg.hea", needs_ppg=False)
    assert stretch.ppg is None and list(stretch.leads) == ["II"]
    with pytest.raises(InputError, match="noecg.hea: no ECG among.*PLETH, RESP"):
        list(segment_stretches(tmp_path / "noecg.hea"))
    (tmp_path / "none.hea").write_text("none 0 125 0\n")
    with pytest.raises(InputError, match="none.hea: no PPG"):
        list(segment_stretches(tmp_path / "none.hea"))


# --------------------------------------------------------------------------------------------------- parts fit together
@pytest.mark.parametrize("frame_rate", [62.4725, 62.5])
def test_parts_tile_a_segment_and_hold_its_samples(tmp_path, make_pair, monkeypatch, frame_rate):
    """ECG of 249.89 Hz and PPG of 124.945 Hz, FLAC: the parts of any length hold the samples of the whole."""
    write_multirate(tmp_path, "r", make_pair(150, 4 * frame_rate, noise=0.01), rate=frame_rate)
    (whole,) = segment_stretches(tmp_path / "r.hea", 40.0)
    assert whole.start_s == 40.0 and whole.margin_s == 0.0
    assert whole.keep_s == pytest.approx(len(whole.ppg[0]) / whole.ppg[1])
    for part_s in (1.0, 16.0, 25.3, 149.9, 200.0):
        monkeypatch.setattr(wfdb_records, "PART_S", part_s)
        stretches = list(segment_stretches(tmp_path / "r.hea", 40.0))
        assert len(stretches) == int(np.ceil(len(whole.ppg[0]) / 2 / round(part_s * frame_rate)))
        check_tiling(stretches)
        assert stretches[0].start_s == 40.0 and stretches[0].margin_s == 0.0
        assert sum(s.keep_s for s in stretches) == pytest.approx(whole.keep_s)
        assert np.array_equal(kept(stretches, lambda s: s.ppg), whole.ppg[0])
        for lead in ("II", "aVR"):
            assert np.array_equal(kept(stretches, lambda s, lead=lead: s.leads[lead]), whole.leads[lead][0])


def test_margins_hold_the_samples_before_and_after(tmp_path, make_pair, monkeypatch):
    write_multirate(tmp_path, "r", make_pair(150, 4 * RATE, noise=0.01))
    (whole,) = segment_stretches(tmp_path / "r.hea")
    monkeypatch.setattr(wfdb_records, "PART_S", 40.0)
    stretches = list(segment_stretches(tmp_path / "r.hea"))
    assert [s.margin_s for s in stretches] == [0.0, MARGIN_S, MARGIN_S, MARGIN_S]
    for stretch in stretches:
        for (x, rate), (all_of_it, _) in ((stretch.ppg, whole.ppg), (stretch.leads["II"], whole.leads["II"])):
            first = round((stretch.start_s - stretch.margin_s) * rate)
            assert np.array_equal(x, all_of_it[first : first + len(x)])
    ends = [s.start_s - s.margin_s + len(s.ppg[0]) / s.ppg[1] for s in stretches]
    assert ends == pytest.approx([56.0, 96.0, 136.0, 150.0])


@pytest.mark.parametrize("part_s", [1800.0, 13.7])
def test_signals_of_two_rates_begin_at_the_same_instant(tmp_path, monkeypatch, part_s):
    """Both rise with time: sample k of either is at time k / rate after the beginning, in every part."""
    rate = 62.4725
    frames = int(60 * rate)
    pair = type(
        "Ramp", (), {"ecg": np.arange(4 * frames) / (4 * rate) / 10, "ppg": np.arange(4 * frames) / (4 * rate) / 10}
    )
    write_multirate(tmp_path, "r", pair, ecg_names=("II",), rate=rate)
    monkeypatch.setattr(wfdb_records, "PART_S", part_s)
    for stretch in segment_stretches(tmp_path / "r.hea"):
        (ppg, ppg_rate), (ecg, ecg_rate) = stretch.ppg, stretch.leads["II"]
        assert (ppg_rate, ecg_rate) == pytest.approx((124.945, 249.89)) and len(ecg) == 2 * len(ppg)
        begins_s = stretch.start_s - stretch.margin_s
        assert np.allclose(10 * ecg, begins_s + np.arange(len(ecg)) / ecg_rate, atol=0.03)  # steps of 0.05 s as written
        assert np.allclose(10 * ppg * 4096 / 4000, begins_s + np.arange(len(ppg)) / ppg_rate, atol=0.002)


# ------------------------------------------------------------------------------------------------------- whole records
def test_a_record_with_gaps_and_an_absent_segment(mimic_like):
    mirror, _ = mimic_like
    stretches, notes = stretches_of(mirror)
    assert [s.start_s for s in stretches] == [0.0, 100 + 900 / RATE]  # the gap and the absent segment take their time
    assert [s.keep_s for s in stretches] == [100.0, 100.0] and [s.margin_s for s in stretches] == [0.0, 0.0]
    assert notes == "1 of its segments are not on the mirror (80_0009)"
    assert stretches[0].leads["II"][0].max() == pytest.approx(1.05, abs=0.2)  # mV


def test_margins_never_reach_over_a_segments_end(mimic_like, monkeypatch):
    mirror, _ = mimic_like
    monkeypatch.setattr(wfdb_records, "PART_S", 30.0)
    stretches, _ = stretches_of(mirror)
    for half in (stretches[:4], stretches[4:]):
        check_tiling(half)
        assert half[0].margin_s == 0.0
        last = half[-1]
        assert last.margin_s + last.keep_s == pytest.approx(len(last.ppg[0]) / last.ppg[1])


def test_a_record_is_read_as_it_is_asked_for(mimic_like, monkeypatch):
    """The first stretch can be taken while later segments are missing; what arrives meanwhile is read."""
    mirror, folder = mimic_like
    held = {path: path.read_bytes() for path in folder.glob("80_0002*")}
    for path in held:
        path.unlink()
    found = reading()
    stretches = record_stretches(mirror, SEGMENTS, found)
    assert next(stretches).start_s == 0.0 and found.notes == []
    for path, content in held.items():
        path.write_bytes(content)
    assert next(stretches).start_s == 100 + 900 / RATE
    with pytest.raises(StopIteration):
        next(stretches)


def test_parts_are_read_one_at_a_time(mimic_like, monkeypatch):
    mirror, _ = mimic_like
    calls = []
    monkeypatch.setattr(wfdb_records, "PART_S", 30.0)
    monkeypatch.setattr(wfdb_records, "read_signals", lambda *a: calls.append(a[2:]) or read_signals(*a))
    stretches = record_stretches(mirror, SEGMENTS, reading())
    next(stretches)
    assert calls == [(0, round((30 + MARGIN_S) * RATE))]
    next(stretches)
    assert calls[1:] == [(round((30 - MARGIN_S) * RATE), round((60 + MARGIN_S) * RATE))]


def test_a_missing_header_is_named(mimic_like):
    mirror, folder = mimic_like
    (folder / "80.hea").unlink()
    for use in (lambda: record_files(mirror, SEGMENTS), lambda: stretches_of(mirror)):
        with pytest.raises(MissingFile, match="80.hea"):
            use()


def damage_empty_signal(folder):
    (folder / "80_0001e.dat").write_bytes(b"")


def damage_cut_flac(folder):
    path = folder / "80_0001e.dat"
    path.write_bytes(path.read_bytes()[:2000])


def damage_unit(folder):
    path = folder / "80_0001.hea"
    path.write_text(path.read_text().replace("200.0(0)/mV", "200.0(0)/NU"))


def damage_no_ppg(folder):
    path = folder / "80_0001.hea"
    path.write_text(path.read_text().replace("Pleth", "ABP"))


def damage_empty_header(folder):
    (folder / "80_0001.hea").write_bytes(b"")


def damage_rubbish_header(folder):
    (folder / "80_0001.hea").write_bytes(bytes(range(128, 256)) * 3)


def damage_climbing_signal_file(folder):
    path = folder / "80_0001.hea"
    path.write_text(path.read_text().replace("80_0001p.dat", "../../80_0001p.dat"))


def damage_nested(folder):
    (folder / "80_0001.hea").write_text("80_0001/1 4 62.5 6250\n80_0002 6250\n")


@pytest.mark.parametrize(
    "damage, match",
    [
        (damage_empty_signal, "the signal files cannot be read"),
        (damage_cut_flac, "the signal files cannot be read"),
        (damage_unit, "ECG signal 'II' has the unit 'NU'"),
        (damage_no_ppg, "no PPG among the signals II, V, aVR, ABP"),
        (damage_empty_header, "the header is empty"),
        (damage_rubbish_header, "not a readable WFDB header"),
        (damage_climbing_signal_file, "refusing the file name|not a readable WFDB header"),
        (damage_nested, "a segment that has segments itself"),
    ],
)
def test_a_damaged_segment_is_noted_and_the_rest_is_used(mimic_like, damage, match):
    mirror, folder = mimic_like
    damage(folder)
    stretches, notes = stretches_of(mirror)
    assert [s.start_s for s in stretches] == [100 + 900 / RATE]
    assert notes.startswith("segment 80_0001 left out (")
    assert re.search(match, notes), notes


def test_a_file_cut_short_says_from_when_on(tmp_path, home, monkeypatch):
    """Parts before the cut are used; the note says what of the segment is lost."""
    x = np.sin(np.arange(100 * 125) / 20)
    folder = tmp_path / "set" / "1"
    write_record(folder, "r", {"II": x, "PLETH": -x})
    (folder / "r.dat").write_bytes((folder / "r.dat").read_bytes()[: 4 * 125 * 70])
    monkeypatch.setattr(wfdb_records, "PART_S", 20.0)
    stretches, notes = stretches_of(Mirror(tmp_path, "set", "1"), "r")
    assert [s.start_s for s in stretches] == [0.0, 20.0]  # the part from 40 s on needs its margin, up to 76 s
    assert "segment r left out from 40 s on" in notes and "r.hea: the signal files cannot be read" in notes


def test_a_segment_longer_than_its_place_is_cut(mimic_like):
    """The record's header says when the next segment begins: stretches must not overlap."""
    mirror, folder = mimic_like
    text = (folder / "80.hea").read_text()
    (folder / "80.hea").write_text(text.replace("80_0001 6250", "80_0001 5000"))
    stretches, _ = stretches_of(mirror)
    assert stretches[0].keep_s == 80.0 and stretches[1].start_s == 80 + 900 / RATE
    assert len(stretches[0].ppg[0]) == 80 * 125


def test_a_climbing_segment_name_is_refused(mimic_like):
    mirror, folder = mimic_like
    text = (folder / "80.hea").read_text()
    (folder / "80.hea").write_text(text.replace("80_0009 400", "../../80_0009 400"))
    try:
        stretches, notes = stretches_of(mirror)
    except InputError as error:  # wfdb may refuse the header itself
        assert "80.hea" in str(error)
    else:
        assert len(stretches) == 2 and "refusing the file name" in notes


def test_files_of_a_record(mimic_like):
    mirror, folder = mimic_like
    named = record_files(mirror, SEGMENTS)
    names = [path.rpartition("/")[2] for path in named]
    assert names == ["80.hea", "80_0000.hea", "80_0001.hea", "80_0001e.dat", "80_0001p.dat", "80_0009.hea",
                     "80_0002.hea", "80_0002e.dat", "80_0002p.dat"]  # fmt: skip
    assert all(path.startswith("waves/p100/p10000001/80/") for path in named)
    (folder / "80_0001.hea").unlink()
    assert "waves/p100/p10000001/80/80_0001.hea" in record_files(mirror, SEGMENTS)  # absent, and named all the same


# ----------------------------------------------------------------------------------------------------- lists of records
def lists(tmp_path, **texts):
    for name, text in texts.items():
        path = tmp_path / "set" / "1" / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Mirror(tmp_path, "set", "1")


def test_lists_of_records_are_walked_in_order(tmp_path, home):
    mirror = lists(
        tmp_path,
        RECORDS="b/\r\n\n  x \na/\nlost/\n",
        b__RECORDS="p/\nq\n",
        b__p__RECORDS="r/r\n",
        a__RECORDS="./s\nx/x\n",
    )
    assert walk_records(mirror) == ["b/p/r/r", "b/q", "x", "a/s", "a/x/x"]


def test_a_record_named_twice_and_a_folder_that_names_itself(tmp_path, home):
    mirror = lists(tmp_path, RECORDS="a/\nx\nx\na/\n", a__RECORDS="./\ny\n")
    assert walk_records(mirror) == ["a/y", "x"]


@pytest.mark.parametrize("line", ["../../etc/passwd", "a/../../x", "/etc/passwd", "..", "../", "a\\b", "http://x/y"])
def test_lists_that_climb_out_are_refused(tmp_path, home, line):
    with pytest.raises(InputError, match="refusing the file name"):
        walk_records(lists(tmp_path, RECORDS=f"good\n{line}\n"))


def test_a_mirror_without_the_data_set(tmp_path, home):
    with pytest.raises(InputError, match=f"{tmp_path}/set/1/RECORDS not found.*<mirror>/set/1"):
        walk_records(Mirror(tmp_path, "set", "1"))


# ------------------------------------------------------------------------------------------------ the real recordings
@pytest.mark.mirror
def test_a_real_segment_in_parts(mirror, home):
    """Two hours at 249.89 and 124.945 Hz, compressed: parts of half an hour hold what the whole file holds."""
    path = mirror / "mimic4wdb" / "0.1.0" / "waves/p100/p10079700/85594648/85594648_0007.hea"
    ppg, rate = read_signals(path, ["Pleth"])["Pleth"]
    stretches = list(segment_stretches(path))
    check_tiling(stretches)
    assert rate == pytest.approx(124.945) and len(stretches) == int(np.ceil(len(ppg) / rate / 1800))
    assert np.array_equal(kept(stretches, lambda s: s.ppg), ppg, equal_nan=True)


def test_usable_leads_keep_the_order_and_the_first_of_two():
    """The first lead's rate is that of all (EDF), so the order counts."""
    names, units = ["V5", "II", "ii", "I", "V1 (uV)"], ["mV", "uV", "mV", "adu", ""]
    found, notes = usable_leads(names, units, "r")
    assert list(found.items()) == [("V5", ("V5", 1.0)), ("II", ("II", 1e-3)), ("V1", ("V1 (uV)", 1e-3))]
    assert notes == ["left out: ECG signal 'I' has the unit 'adu'; only mV and uV can be used"]
