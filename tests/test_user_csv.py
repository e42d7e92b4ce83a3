"""Tables as spreadsheets, loggers and wearables export them: read rightly and told, or refused with what to do."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from p2es_lib.core.errors import InputError
from p2es_lib.translation.readers.choice import find_ppgs
from p2es_lib.translation.readers.user_file import read_ppg

RATE = 64.0


@pytest.fixture(scope="module")
def pair(make_pair):
    return make_pair(20, RATE)


@pytest.fixture
def write(tmp_path):
    def write_text(text: str, encoding: str = "utf-8", name: str = "x.csv"):
        path = tmp_path / name
        path.write_bytes(text.encode(encoding))
        return path

    return write_text


def table(pair, times, *, separator=",", names=("time (s)", "PPG"), units=None, decimal=".", top=()) -> str:
    """Times (text) and the PPG as a table."""
    rows = [separator.join((time, f"{x:.5f}".replace(".", decimal))) for time, x in zip(times, pair.ppg)]
    head = [separator.join(part) for part in (names, units) if part]
    return "\n".join([*top, *head, *rows]) + "\n"


def seconds(pair, decimal=".") -> list[str]:
    return [f"{i / RATE:.6f}".replace(".", decimal) for i in range(len(pair.ppg))]


def stamps(pair, start="2024-05-01T10:00:00.125") -> pd.DatetimeIndex:
    return pd.Timestamp(start) + pd.to_timedelta(np.arange(len(pair.ppg)) / RATE, unit="s")


def check(path, pair, *told, **options):
    found = read_ppg(path, **options)
    assert found.sampling_rate == pytest.approx(RATE, rel=1e-4) and len(found.ppg) == len(pair.ppg)
    np.testing.assert_allclose(found.ppg, pair.ppg, atol=1e-5)
    notes = "; ".join(found.notes)
    assert all(text in notes for text in told), notes
    return found


# --------------------------------------------------------------------------------------------------- text and columns
@pytest.mark.parametrize("separator, word", [(";", "semicolons"), ("\t", "tabs")])
def test_decimal_comma(write, pair, separator, word):
    text = table(pair, seconds(pair, ","), separator=separator, decimal=",")
    check(
        write(text),
        pair,
        f"2 column(s) separated by {word}",
        "decimal comma",
        "64 Hz from column 'time (s)' (in s)",
        "PPG from 'PPG'",
    )


def test_decimal_comma_in_a_single_column_and_in_quotes(write, pair):
    single = "\n".join(["PPG", *(f"{x:.5f}".replace(".", ",") for x in pair.ppg)])
    check(write(single), pair, "1 column(s)", "decimal comma", "64 Hz as given", sampling_rate=64)
    quoted = "\n".join(
        ["time (s),PPG", *(f'"{t}","{x:.5f}"'.replace(".", ",") for t, x in zip(seconds(pair), pair.ppg))]
    )
    check(write(quoted), pair, "separated by commas", "decimal comma")


def test_commas_for_columns_and_decimals_are_refused(write, pair):
    with pytest.raises(InputError, match="commas mark decimals.*semicolons"):
        read_ppg(write(table(pair, seconds(pair, ","), decimal=",")))


def test_mixed_decimals_and_thousands_separators_are_refused(write, pair):
    mixed = table(pair, seconds(pair, ","), separator=";")
    with pytest.raises(InputError, match="decimal comma .*write all alike"):
        read_ppg(write(mixed))
    thousands = "\n".join(["t [s];PPG", *(f"{t};1.{n % 900 + 100},5" for n, t in enumerate(seconds(pair, ",")))])
    with pytest.raises(InputError, match="'1.100,5' in row 1 .*thousands separators"):
        read_ppg(write(thousands))


@pytest.mark.parametrize("top", [["# made by a logger", "# 64 Hz"], ["sep=;"], ["% matlab", ""]])
def test_lines_on_top(write, pair, top):
    n_comments = sum(line[:1] in ("#", "%") for line in top)
    told = [f"{n_comments} comment line(s) left out"] if n_comments else []
    check(write(table(pair, seconds(pair), separator=";", top=top)), pair, *told)


def test_names_in_the_last_comment_line(tmp_path, pair):
    time = np.arange(len(pair.ppg)) / RATE
    np.savetxt(tmp_path / "x.txt", np.column_stack([time, pair.ecg, pair.ppg]), header="settings: a\nt II ppg")
    found = check(tmp_path / "x.txt", pair, "names of the columns from the last comment line")
    assert list(found.ecg) == ["II"]


@pytest.mark.parametrize("names, units", [
    (("time", "PPG"), ("s", "a.u.")), (("'Elapsed time'", "'PLETH'"), ("'seconds'", "'NU'")),
    (('"t"', '"bvp"'), ('"[s]"', '""')),
])  # fmt: skip
def test_units_beneath_the_names(write, pair, names, units):
    check(
        write(table(pair, seconds(pair), names=names, units=units)),
        pair,
        "units from the row beneath the names",
        "(in s",
    )


def test_a_unit_beneath_the_name_decides_and_must_not_contradict_it(write, pair):
    milliseconds = [f"{1000 * i / RATE:.3f}" for i in range(len(pair.ppg))]
    check(write(table(pair, milliseconds, names=("time", "PPG"), units=("ms", "nu"))), pair, "(in ms)")
    with pytest.raises(InputError, match=r"'time \(s\)' has the unit 'ms' beneath"):
        read_ppg(write(table(pair, milliseconds, units=("ms", "nu"))))


def test_a_separator_named_on_top_that_is_a_tab(write, pair):
    """As Shimmer's ConsensysPRO writes them."""
    names = ("Shimmer_A_Timestamp_Unix_CAL", "Shimmer_A_PPG_A13_CAL")
    times = [f"{1714557600125 + 1000 * i / RATE:.3f}" for i in range(len(pair.ppg))]
    check(write(table(pair, times, separator="\t", names=names, units=("ms", "mV"), top=["sep=\t"])), pair, "by tabs")


@pytest.mark.parametrize("mark", [
    "#N/A", "#DIV/0!", "#NUM!", "#WERT!", "-nan", "-nan(ind)", "1.#QNAN", "-1.#IND", "<NA>", "NaT", "?", ".", "n.a.",
])  # fmt: skip
def test_marks_of_missing_values(write, pair, mark):
    lines = table(pair, seconds(pair)).splitlines()
    for row in range(5, len(lines), 100):
        lines[row] = lines[row].split(",")[0] + "," + mark
    found = read_ppg(write("\n".join(lines)))
    assert np.isnan(found.ppg).sum() == len(range(5, len(lines), 100))


@pytest.mark.parametrize("tail", ["\0" * 700, "\x1a"])
def test_zeros_and_end_marks_behind_the_last_line(write, pair, tail):
    check(write(table(pair, seconds(pair)) + tail), pair)


@pytest.mark.parametrize(
    "encoding, told",
    [("utf-16", "UTF-16"), ("utf-8-sig", "UTF-8 with a mark"), ("latin-1", "Latin-1 text"), ("utf-32", "UTF-32")],
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_encodings_and_line_ends(write, pair, encoding, told, end):
    text = table(pair, seconds(pair), separator="\t", names=("Zeit (s)", "PPG (µV)")).replace("\n", end)
    check(write(text, encoding, "x.txt"), pair, told)


def test_text_that_cannot_be_read(write, pair):
    text = table(pair, seconds(pair))
    with pytest.raises(InputError, match="UTF-16 without its mark.*CSV in UTF-8"):
        read_ppg(write(text, "utf-16-le"))
    with pytest.raises(InputError, match="no column of numbers"):
        read_ppg(write("some text\nwithout numbers\nat all\n"))
    with pytest.raises(InputError, match="2 names and 3 cells in a line"):
        read_ppg(write(text.replace("\n", ",7\n").replace("PPG,7", "PPG")))
    rows = text.splitlines()
    with pytest.raises(InputError, match="another number of cells, the first line 12"):
        read_ppg(write("\n".join(row + ",7" * (20 if n > 10 and n % 9 == 2 else 0) for n, row in enumerate(rows))))


@pytest.mark.parametrize("extra", [",7", ",#* start of task", ",lamp, on, off"])
def test_a_last_cell_in_only_some_lines_is_left_out(write, pair, extra):
    rows = table(pair, seconds(pair)).splitlines()
    for line in (30, 1200):
        rows[line] += extra
    check(write("\n".join(rows)), pair)
    check(write("Device: x\nDate,2024-05-01\n\n" + "\n".join(rows)), pair, "2 line(s) above the names left out")


def test_one_bad_line_is_a_missing_row_and_is_named(write, pair):
    rows = table(pair, seconds(pair)).splitlines()
    for bad, told in (("7.5", "1 bad line(s) taken as missing: line 1101"), ("17.171875,#!0.5", "'#!0.5' in row 1100")):
        found = read_ppg(write("\n".join([*rows[:1100], bad, *rows[1101:]])))
        assert told in "; ".join(found.notes) and len(found.ppg) == len(pair.ppg)
        assert np.flatnonzero(np.isnan(found.ppg)).tolist() == [1099]


def test_the_column_of_time_is_not_taken_for_the_ppg(write):
    rows = "\n".join(f"{20 * i},{i % 40},{i % 3}" for i in range(600))
    with pytest.raises(InputError, match=r"'Zeit \[ms\]' holds the time.*PPG, Status"):
        read_ppg(write("Zeit [ms],PPG,Status\n" + rows), column="Zeit [ms]")


def test_columns_of_one_name_and_columns_of_text(write, pair):
    rows = [f"{t},{x:.5f},{-x:.5f},walking,fast" for t, x in zip(seconds(pair), pair.ppg)]
    path = write("\n".join(["time_s,PPG,PPG,what,how", *rows]))
    check(path, pair, "PPG from 'PPG', the first; also there: 'PPG (2)' (--column)")
    np.testing.assert_allclose(read_ppg(path, column="PPG (2)").ppg, -pair.ppg, atol=1e-5)
    with pytest.raises(InputError, match=r"'what' .*not a number \('walking' in row 1"):
        read_ppg(path, column="what")


@pytest.mark.parametrize("derived", [
    "PPG_HR", "ppg heart rate", "ppg_sqi", "ppgQuality", "Plethysmograph variability index", "Shimmer_AB12_PPGtoHR_CAL",
    "Pleth PI", "PPG status", "ppg_confidence", "Pleth BPM",
])  # fmt: skip
@pytest.mark.parametrize("name", ["PPG", "Pleth (NU)", "ppg_signal", "SpO2 wave", "BVP", "Shimmer_AB12_PPG_A13_CAL"])
def test_what_was_derived_from_a_ppg_is_none(derived, name):
    assert find_ppgs(["SpO2", derived, name]) == [name] and find_ppgs([derived]) == []


@pytest.mark.parametrize(
    "other", ["ppg_counter", "PPG ambient", "PPG_LED_current", "ppgPeaks", "ppg_valid", "PPG gain"]
)
def test_what_is_recorded_beside_a_ppg_is_none(other):
    assert find_ppgs([other, "PPG_IR"]) == ["PPG_IR"]


def test_a_column_called_just_ppg_comes_first(write, pair):
    rows = [f"{t},72,{-x:.5f},{x:.5f}" for t, x in zip(seconds(pair), pair.ppg)]
    check(
        write("\n".join(["time_s,PPG_HR,PPG_red,PPG", *rows])),
        pair,
        "PPG from 'PPG', by its name; also there: 'PPG_red'",
    )
    assert find_ppgs(["PPG_red", "SpO2 pleth", "ppg [V]"]) == ["ppg [V]", "PPG_red", "SpO2 pleth"]


def test_a_separator_at_the_end_of_lines(write, pair):
    text = table(pair, seconds(pair), separator=";")
    check(write(text.replace("\n", ";\n")), pair, "2 column(s)")
    head, rest = text.split("\n", 1)
    check(write(head + "\n" + rest.replace("\n", ";\n")), pair, "2 column(s)")


# -------------------------------------------------------------------------------------------------------------- clocks
@pytest.mark.parametrize("form", ["%Y-%m-%dT%H:%M:%S.%f", "%Y-%m-%d %H:%M:%S.%f", "%Y-%m-%dT%H:%M:%S,%f"])
@pytest.mark.parametrize("zone", ["", "Z", "+02:00", " +0200", " UTC"])
def test_iso_8601(write, pair, form, zone):
    times = [stamp.strftime(form) + zone for stamp in stamps(pair)]
    check(
        write(table(pair, times, separator=";", names=("timestamp", "PPG"))),
        pair,
        "ISO 8601, with" + ("" if zone else "out") + " a zone",
    )


@pytest.mark.parametrize("form", [
    "%Y/%m/%d %H:%M:%S.%f", "%Y.%m.%d %H:%M:%S.%f", "%Y/%m/%dT%H:%M:%S.%fZ", "%Y/%m/%d %I:%M:%S.%f %p",
])  # fmt: skip
def test_dates_with_the_year_first_over_midnight(write, pair, form):
    times = [stamp.strftime(form) for stamp in stamps(pair, "2024-05-01T23:59:51")]
    units = ("yyyy/mm/dd hh:mm:ss.000", "m/(s^2)")  # as Shimmer writes them
    for text in (table(pair, times, names=("Time", "PPG"), units=units), table(pair, times, names=None)):
        check(write(text), pair, "ISO 8601")
    check(write(table(pair, [time.replace("/0", "/") for time in times], names=("Time", "PPG"))), pair, "ISO 8601")


@pytest.mark.parametrize("form", ["%I:%M:%S.%f %p", "%m/%d/%Y %I:%M:%S.%f%p"])
@pytest.mark.parametrize("start", ["12:59:51", "11:59:51", "00:59:51"])
def test_times_with_am_and_pm(write, pair, form, start):
    times = [stamp.strftime(form) for stamp in stamps(pair, f"2024-05-01T{start}")]
    found = check(write(table(pair, times, names=("Time", "PPG"))), pair, "hh:mm:ss")
    assert "midnight" not in "".join(found.notes)
    with pytest.raises(InputError, match="'13:00:00.5 PM' in row 4 .*none of 1 to 12"):
        read_ppg(write(table(pair, [*times[:3], "13:00:00.5 PM", *times[4:]], names=("Time", "PPG"))))


@pytest.mark.parametrize("name", ["Uhrzeit", "Zeit", "heure", "hora", "tempo", "ora", "Hora (s)"])
def test_clocks_in_other_languages(write, pair, name):
    check(write(table(pair, seconds(pair), names=(name, "PPG"))), pair, f"from column '{name}'")


def test_iso_8601_without_names_and_over_the_end_of_summer_time(write, pair):
    zoned = stamps(pair, "2024-10-27T02:59:50").tz_localize("Europe/Berlin", ambiguous=np.ones(len(pair.ppg), bool))
    elapsed = stamps(pair, "2024-10-27T00:59:50").tz_localize("UTC").tz_convert("Europe/Berlin")
    assert zoned[0] == elapsed[0]
    times = [stamp.isoformat() for stamp in elapsed]
    assert times[0].endswith("+02:00") and times[-1].endswith("+01:00")
    check(write(table(pair, times, names=None)), pair, "from column '1' (ISO 8601, with a zone)")


@pytest.mark.parametrize("scale, unit", [(1, "s"), (1e3, "ms"), (1e6, "us")])
def test_unix_time(write, pair, scale, unit):
    times = [f"{(1714557600.125 + i / RATE) * scale:.6f}" for i in range(len(pair.ppg))]
    check(write(table(pair, times, names=("timestamp", "PPG"))), pair, f"Unix time in {unit}, by its size")
    check(write(table(pair, times, names=(f"unix_time_{unit}", "PPG"))), pair, f"Unix time in {unit}")
    check(write(table(pair, [time.split(".")[0] for time in times], names=("t", "PPG"))), pair, sampling_rate=64)


@pytest.mark.parametrize("names", [("time", "PPG"), None])
def test_clock_times_over_midnight(write, pair, names):
    times = [stamp.strftime("%H:%M:%S.%f")[:-3] for stamp in stamps(pair, "2024-05-01T23:59:51")]
    check(write(table(pair, times, names=names)), pair, "hh:mm:ss", "over midnight")


@pytest.mark.parametrize("form", ["[%H:%M:%S.%f 01/05/2024]", "01.05.2024 %H:%M:%S.%f", "%M:%S.%f"])
def test_clock_times_beside_a_date_that_stays_and_without_hours(write, pair, form):
    check(write(table(pair, [stamp.strftime(form) for stamp in stamps(pair)], names=("Time", "PPG"))), pair, "mm:ss")


def test_a_date_and_a_time_in_columns_of_their_own(write, pair):
    rows = [f"2024-05-01;{stamp.strftime('%H:%M:%S.%f')};{x:.5f}" for stamp, x in zip(stamps(pair), pair.ppg)]
    check(write("\n".join(["Date;Time;PPG", *rows])), pair, "from column 'Time' (hh:mm:ss)")


def test_clocks_that_can_be_read_in_two_ways_are_refused(write, pair):
    days = [f"{1 + i // 640:02d}/05/2024 10:00:{i % 60:02d}.5" for i in range(len(pair.ppg))]
    with pytest.raises(InputError, match="more than one way; write ISO 8601"):
        read_ppg(write(table(pair, days, names=("time", "PPG"))))
    mixed = [stamp.isoformat() + "Z" * (i % 2) for i, stamp in enumerate(stamps(pair))]
    with pytest.raises(InputError, match="have a zone and others have none"):
        read_ppg(write(table(pair, mixed, names=("time", "PPG"))))
    with pytest.raises(InputError, match="states no unit, and steps of 0.07"):
        read_ppg(write(table(pair, [f"{i * 0.07:.3f}" for i in range(len(pair.ppg))], names=("time", "PPG"))))
    times = [stamp.isoformat() for stamp in stamps(pair)]
    check(write(table(pair, [*times[:5], "yesterday", *times[6:]], names=("time", "PPG"))), pair, "nonsensical time")
    with pytest.raises(InputError, match="holds 'yesterday' in row 6 of the values"):
        read_ppg(write(table(pair, [*times[:5], *["yesterday"] * 50, *times[55:]], names=("time", "PPG"))))


def test_a_column_that_rises_by_one_is_not_taken_for_milliseconds(write, pair):
    path = write(table(pair, [str(i) for i in range(len(pair.ppg))], names=("time", "PPG")))
    with pytest.raises(InputError, match="counts rows.*give the sampling rate"):
        read_ppg(path)
    check(path, pair, "64 Hz as given; column 'time' taken to count samples", sampling_rate=64)
    stated = write(table(pair, [str(i) for i in range(len(pair.ppg))], names=("time (ms)", "PPG")))
    assert read_ppg(stated, min_duration_s=1).sampling_rate == pytest.approx(1000)


def test_times_without_fractions_of_a_second(write, pair):
    """With as many rows in each second, rows are evenly spaced; where rows were lost, nobody knows which."""
    times = [stamp.strftime("%Y-%m-%dT%H:%M:%S") for stamp in stamps(pair)]
    path = write(table(pair, times, names=("time", "PPG")))
    for given in ({}, {"sampling_rate": 64}):
        check(path, pair, "written in steps of 1 s with as many rows in each", **given)
    found = read_ppg(path, sampling_rate=128)
    assert found.sampling_rate == 128 and "WARNING: column 'time' says 64 Hz, and is not used" in found.notes
    lost = table(pair, times, names=("time", "PPG")).splitlines()
    path = write("\n".join(lost[:300] + lost[320:700] + lost[725:]))
    with pytest.raises(InputError, match="steps of 1 s, too coarse .*sampling rate"):
        read_ppg(path)


def test_times_in_whole_seconds_with_a_gap(write, make_pair):
    pair, t = make_pair(40, 50.0), np.arange(2000) / 50
    rows = [f"10:00:{int(time):02d},{x:.5f}" for time, x in zip(t, pair.ppg) if not 10 <= time < 15]
    path = write("\n".join(["time,PPG", *rows]) + "\n")
    for rate in (None, 50.0, 44.0):  # 44 Hz: rows per second, the gap with them
        with pytest.raises(InputError, match=r"about (49|50)[.\d]* rows.* 6 s after row 500"):
            read_ppg(path, sampling_rate=rate)


@pytest.mark.parametrize("step_s, n_first", [(0.03125, 2), (0.05, 1), (0.078125, 3), (0.09375, 6)])
def test_times_that_repeat(write, pair, step_s, n_first):
    """Rounded times, and packets of rows with one time each; the first may be cut."""
    stamp_s = np.floor((np.arange(len(pair.ppg)) - n_first) / RATE / step_s + 1e-9) * step_s
    path = write(table(pair, [f"{1000 * (s - stamp_s[0]):.3f}" for s in stamp_s], names=("timestamp_ms", "PPG")))
    for given in ({}, {"sampling_rate": 64}):
        found = read_ppg(path, **given)
        assert found.sampling_rate == pytest.approx(RATE, rel=1e-3) and len(found.ppg) == len(pair.ppg)


def test_a_gap_between_times_that_repeat(write, pair):
    stamp_s = np.floor(np.arange(len(pair.ppg)) / 4) * 4 / RATE + 3.0 * (np.arange(len(pair.ppg)) >= 640)
    found = read_ppg(write(table(pair, [f"{s:.4f}" for s in stamp_s])))
    assert len(found.ppg) == len(pair.ppg) + 192 and np.isnan(found.ppg[640:832]).all()
    counts = np.tile([10, 2], len(pair.ppg) // 2)
    uneven = np.repeat(np.arange(len(counts)), counts)[: len(pair.ppg)] * 6 / RATE
    path = write(table(pair, [f"{s:.5f}" for s in uneven]))
    with pytest.raises(InputError, match="fits no constant sampling rate"):
        read_ppg(path)
    check(path, pair, "64 Hz as given; gaps cannot be seen", sampling_rate=64)


@pytest.mark.parametrize("n_rows", [2, 4, 10])
@pytest.mark.parametrize("inside_ms", [0.4, 1, 2])
def test_times_of_arrival_of_packets_are_no_sampling_rate(write, pair, n_rows, inside_ms):
    """Software that notes when a row arrived: those of a packet come within milliseconds (read as 500 Hz and gaps)."""
    packet, place = np.divmod(np.arange(len(pair.ppg)), n_rows)
    ms = np.rint(1000 * packet * n_rows / RATE + inside_ms * place)
    path = write(table(pair, [f"{t:.0f}" for t in ms], names=("timestamp_ms", "PPG")))
    for given in ({"sampling_rate": 64}, {}):
        found = read_ppg(path, **given)
        assert found.sampling_rate == pytest.approx(RATE, rel=1e-3) and len(found.ppg) == len(pair.ppg)
        assert "rows came in packets" in "; ".join(found.notes)


@pytest.mark.parametrize("rate", [30, 64, 128])
@pytest.mark.parametrize("decimals", [3, 4])
@pytest.mark.parametrize("lost", [0.01, 0.4])
def test_lost_samples_between_rounded_times(write, make_pair, rate, decimals, lost):
    """Neither is the rate that of a rounded step (30.3 Hz), nor is the file refused, nor are samples called missing."""
    ppg = make_pair(60, rate).ppg
    kept = np.random.default_rng(0).random(len(ppg)) > lost
    kept[[0, -1]] = True
    rows = [f"{i / rate:.{decimals}f},{ppg[i]:.5f}" for i in np.flatnonzero(kept)]
    found = read_ppg(write("\n".join(["time_s,PPG", *rows])))
    assert found.sampling_rate == pytest.approx(rate, rel=1e-4) and len(found.ppg) == len(ppg)
    np.testing.assert_array_equal(np.isfinite(found.ppg), kept)
    np.testing.assert_allclose(found.ppg[kept], ppg[kept], atol=1e-5)


@pytest.mark.parametrize("low_ms, high_ms", [(20, 28), (20, 50), (24, 42)])
def test_a_clock_without_constant_rate_is_interpolated_and_told(write, make_pair, low_ms, high_ms):
    """A loop with a delay, as on an Arduino: each row has the time at which it was measured."""
    truth = make_pair(60, 1000)
    ms = np.cumsum(np.random.default_rng(0).integers(low_ms, high_ms, 2000, endpoint=True))
    ms = ms[ms < 60_000]
    gone = (ms > 30_000) & (ms < 31_500)  # a second and a half that were not recorded
    text = [f"{t + 15234},{truth.ppg[t]:.5f}" for t in ms[~gone]]
    text[100] = text[100].split(",")[0] + ",nan"
    found = read_ppg(write("\n".join(["millis,ppg", *text])))
    notes = "; ".join(found.notes)
    assert (
        "has no constant rate: most steps are" in notes and "interpolated" in notes and "the longest gap 1.5" in notes
    )
    at_s = np.arange(len(found.ppg)) / found.sampling_rate + ms[0] / 1000
    present, expected = np.isfinite(found.ppg), np.interp(at_s, np.arange(60_000) / 1000, truth.ppg)
    assert np.corrcoef(found.ppg[present], expected[present])[0, 1] > 0.995
    inside = (at_s > ms[ms <= 30_000][-1] / 1000) & (at_s < ms[ms >= 31_500][0] / 1000)
    assert inside.sum() >= 10 and not present[inside].any() and 1 <= (~present[~inside]).sum() <= 3


def test_times_that_cannot_be_trusted_are_not_interpolated(write, make_pair):
    ppg = make_pair(60, 64).ppg
    rng = np.random.default_rng(0)
    ms = np.cumsum(rng.choice([1, 2, 30, 60], len(ppg), p=[0.15, 0.1, 0.5, 0.25]))
    with pytest.raises(InputError, match="fits no constant sampling rate"):
        read_ppg(write("\n".join(["time_ms,PPG", *(f"{t},{x:.5f}" for t, x in zip(ms, ppg))])))


@pytest.mark.parametrize("first_ms, then_ms, jump", [
    (946684800000, 1714557600000, "8,887.4 days"), (0, 3e10, "347.2 days"), (0, 1.2e8, "33.3 hours"),
])  # fmt: skip
def test_a_clock_that_was_set_is_refused(write, pair, first_ms, then_ms, jump):
    times = [f"{1000 * i / RATE + (then_ms if i >= 50 else first_ms):.3f}" for i in range(len(pair.ppg))]
    path = write(table(pair, times, names=("timestamp_ms", "PPG")))
    told = f"'timestamp_ms', the time jumps by {jump} between rows 50 and 51 .*from {times[49]} to {times[50]}"
    with pytest.raises(InputError, match=told):
        read_ppg(path)
    counts = write(
        table(pair, [str(i + (10**12 if i >= 50 else 0)) for i in range(len(pair.ppg))], names=("time", "PPG"))
    )
    with pytest.raises(InputError, match="days between rows 50 and 51"):
        read_ppg(counts, sampling_rate=64)


@pytest.mark.parametrize("name, scale, bits", [("micros", 1e6, 32), ("millis", 1e3, 16), ("t_us", 1e6, 32)])
@pytest.mark.parametrize("signed", [False, True])
def test_a_counter_that_begins_again(write, pair, name, scale, bits, signed):
    half = 2 ** (bits - 1) if signed else 0  # a signed one goes on at its least number
    counts = np.rint(np.arange(len(pair.ppg)) / RATE * scale).astype(int) + 2**bits - int(9 * scale)
    counts = counts % 2**bits - half
    found = read_ppg(write(table(pair, [str(t) for t in counts], names=(name, "PPG"))))
    assert found.sampling_rate == pytest.approx(RATE, rel=1e-4) and len(found.ppg) == len(pair.ppg)
    assert f"a counter that begins again after {bits} bits" in "; ".join(found.notes)


@pytest.mark.parametrize(
    "unit, seconds_each", [("min", 60), ("Minutes", 60), ("h", 3600), ("hours", 3600), ("days", 86400)]
)
def test_times_in_minutes_hours_and_days(write, make_pair, unit, seconds_each):
    """Ten minutes once passed for 10 s at 3840 Hz."""
    ppg = make_pair(600, 64).ppg
    times = [f"{i / 64 / seconds_each:.12f}" for i in range(len(ppg))]
    for head in (f"Time ({unit}),PPG", f"Time,PPG\n{unit},mV"):
        found = read_ppg(write("\n".join([head, *(f"{t},{x:.5f}" for t, x in zip(times, ppg))])))
        assert found.sampling_rate == pytest.approx(64, rel=1e-5) and len(found.ppg) == len(ppg)


@pytest.mark.parametrize("names, units", [(("Time [ticks]", "PPG"), None), (("time", "PPG"), ("frames", "nu"))])
def test_units_that_do_not_say_how_long_they_last_are_refused(write, pair, names, units):
    with pytest.raises(InputError, match="counts (ticks|frames), .*how long one is"):
        read_ppg(write(table(pair, [str(16 * i) for i in range(len(pair.ppg))], names=names, units=units)))


@pytest.mark.parametrize("first", [133590312000000000, 638500000000000000])
def test_times_as_windows_counts_them(write, pair, first):
    """Steps of 100 ns once passed for ns or us, at 100 or a tenth times the rate."""
    times = [str(first + round(i / RATE * 1e7)) for i in range(len(pair.ppg))]
    check(write(table(pair, times, names=("timestamp", "PPG"))), pair, "in steps of 100 ns")


def test_clock_times_without_colons_are_refused(write, pair):
    times = [stamp.strftime("%H%M%S.%f") for stamp in stamps(pair, "2024-05-01T10:23:51")]
    with pytest.raises(InputError, match="without colons .*102359.9844 to 102400"):
        read_ppg(write(table(pair, times, names=("time", "PPG"))))
    plain = [f"{float(t) + 52.0:.6f}" for t in seconds(pair)]  # 52 to 72 s are seconds
    check(write(table(pair, plain, names=("time", "PPG"))), pair)


def test_the_longest_gap_is_told_with_its_row(write, pair):
    """Local times where summer time begins: an hour that never was."""
    local = (
        pd.DatetimeIndex(stamps(pair, "2024-03-31T00:59:50"))
        .tz_localize("UTC")
        .tz_convert("Europe/Berlin")
        .tz_localize(None)
    )
    found = read_ppg(write(table(pair, [stamp.isoformat() for stamp in local], names=("time", "PPG"))))
    assert "the longest gap 3600.02 s after row 640 of the values" in "; ".join(found.notes)


@pytest.mark.parametrize("form", [
    "%d.%m.%Y %H:%M:%S.%f", "%m/%d/%Y %I:%M:%S.%f %p", "%d/%m/%Y %H:%M:%S.%f", "%d-%b-%Y %H:%M:%S.%f",
    "%H:%M:%S.%f %d.%m.%y",
    "[%H:%M:%S.%f %d/%m/%Y]",
])  # fmt: skip
@pytest.mark.parametrize("start", ["2024-05-01T23:59:51", "2024-12-31T23:59:51"])
def test_dates_that_change_at_midnight_say_how_they_are_written(write, pair, form, start):
    times = [stamp.strftime(form) for stamp in stamps(pair, start)]
    check(write(table(pair, times, names=("Time", "PPG"))), pair, "as they are next to each other, over midnight")
    with pytest.raises(InputError, match="more than one way"):  # the day before, and midnight: no way fits
        read_ppg(write(table(pair, [*times[640:], *times[:640]], names=("Time", "PPG"))))


def test_minutes_and_seconds_over_the_hour(write, pair):
    times = [stamp.strftime("%M:%S.%f") for stamp in stamps(pair, "2024-05-01T10:59:51")]
    check(write(table(pair, times, names=("Time", "PPG"))), pair, "mm:ss, over the hour")


def test_minutes_and_tenths_of_a_second_as_a_spreadsheet_saves_them(write, pair):
    times = [stamp.strftime("%M:%S.%f")[:-5] for stamp in stamps(pair, "2024-05-01T10:59:51")]
    path = write(table(pair, times, names=("Time", "PPG")))
    for given in ({}, {"sampling_rate": 64}):
        found = read_ppg(path, **given)
        assert found.sampling_rate == pytest.approx(RATE, rel=1e-3) and len(found.ppg) == len(pair.ppg)
        assert "written in steps of 0.1 s with as many rows in each" in "; ".join(found.notes)


def test_a_clock_that_goes_back_is_refused_with_its_row(write, pair):
    times = [stamp.isoformat() for stamp in [*stamps(pair)[:700], *(stamps(pair)[700:] - pd.Timedelta("1h"))]]
    with pytest.raises(InputError, match=rf"goes back from {times[699]} \(row 700 .*to {times[700]} \(row 701"):
        read_ppg(write(table(pair, times, names=("time", "PPG"))))
    one = write(table(pair, [*seconds(pair)[:7], "nan", *seconds(pair)[8:]]))
    check(one, pair, "1 missing or nonsensical time(s) taken from the rows around them")
    with pytest.raises(InputError, match="but holds 'nan' in row 8"):
        read_ppg(write(table(pair, [*seconds(pair)[:7], *["nan"] * 200, *seconds(pair)[207:]])))
    with pytest.raises(InputError, match="but never rises"):
        read_ppg(write(table(pair, ["3"] * len(pair.ppg))))


def test_an_assumed_unit_and_another_clock_are_told(write, pair):
    milliseconds = [f"{1000 * i / RATE:.3f}" for i in range(len(pair.ppg))]
    check(write(table(pair, milliseconds, names=("time", "PPG"))), pair, "taken as ms: no unit is stated")
    rows = [f"{t},{s},{x:.5f}" for t, s, x in zip(milliseconds, stamps(pair), pair.ppg)]
    check(
        write("\n".join(["time_ms,datetime,PPG", *rows])), pair, "from column 'time_ms' (in ms) (not from 'datetime')"
    )
    rows = [f"{t},0.5,{x:.5f}" for t, x in zip(milliseconds, pair.ppg)]  # neither of these is a clock
    found = check(write("\n".join(["time_ms,t_skin,PPG", *rows])), pair)
    assert "t_skin" not in "".join(found.notes)


# ------------------------------------------------------------------------------------------------------------ wearables
def test_empatica_e4(write, pair):
    path = write("\n".join(["1714557600.000000", "64.000000", *(f"{x:.5f}" for x in pair.ppg)]), name="anything.csv")
    check(path, pair, "Empatica E4 layout: start 2024-05-01 10:00:00 UTC in the first line, 64 Hz in the second")
    assert read_ppg(path, sampling_rate=50).sampling_rate == 50
    with pytest.raises(InputError, match="which is not the PPG \\(BVP.csv\\): 4 Hz"):
        read_ppg(write("\n".join(["1714557600.0", "4.0", *map(str, pair.ppg)])))
    rows = ["1714557600.0, 1714557600.0, 1714557600.0", "32.0, 32.0, 32.0", *["1,2,3"] * 2000]
    with pytest.raises(InputError, match="Empatica E4 layout .*3 columns.*give BVP.csv"):
        read_ppg(write("\n".join(rows), name="ACC.csv"))


def polar(pair, names="channel 0;channel 1;channel 2;ambient") -> str:
    phone = stamps(pair).floor("s")  # the phone's clock is that of the arrival of a packet
    ticks = 720988480263921280 + np.rint(np.arange(len(pair.ppg)) / RATE * 1e9).astype("int64")
    rows = [f"{p.isoformat()}.125;{t};{x:.5f};{-x:.5f};0.5;1" for p, t, x in zip(phone, ticks, pair.ppg)]
    return "\n".join([f"Phone timestamp;sensor timestamp [ns];{names}", *rows]) + "\n"


def test_polar_sensor_logger(write, pair):
    path = write(polar(pair), name="recording.txt")
    told = (
        "Polar Sensor Logger layout",
        "'channel 1'",
        "64 Hz from column 'sensor timestamp [ns]' (in ns)",
        "PPG from 'channel 0'",
    )
    check(path, pair, *told)
    np.testing.assert_allclose(read_ppg(path, column="channel 1").ppg, -pair.ppg, atol=1e-5)
    with pytest.raises(InputError, match="no PPG channel"):
        read_ppg(write(polar(pair, "X [mg];Y [mg];Z [mg];spare")))


@pytest.mark.parametrize(
    "name, advice", [("x.edf", "no such file"), ("x.xlsx", "no such file"), ("x.xls", "no such file")]
)
def test_other_formats_are_refused_with_what_to_do(tmp_path, name, advice):
    with pytest.raises(InputError, match=advice):
        read_ppg(tmp_path / name)


# ----------------------------------------------------------------------------------------------------------- ECG beside
def with_ecg(pair, name, unit_row="", factor=1.0) -> str:
    rows = [f"{t},{x:.5f},{factor * y:.6f}" for t, x, y in zip(seconds(pair), pair.ppg, pair.ecg)]
    return "\n".join([f"time (s),PPG,{name}", *([f"s,nu,{unit_row}"] if unit_row else []), *rows])


@pytest.mark.parametrize("name, unit, factor, lead", [
    ("II (mV)", "", 1, "II"), ("V1 (uV)", "", 1000, "V1"), ("DII [µV]", "", 1000, "II"), ("aVR", "uV", 1000, "aVR"),
    ("MDC_ECG_LEAD_II", "mV", 1, "II"), ("II (µV)", "uV", 1000, "II"),
])  # fmt: skip
def test_ecg_in_its_unit(write, pair, name, unit, factor, lead):
    found = check(write(with_ecg(pair, name, unit, factor)), pair)
    np.testing.assert_allclose(found.ecg[lead], pair.ecg, atol=1e-5)


def test_ecg_without_a_unit_in_a_strange_one_or_in_two(write, pair):
    assert list(check(write(with_ecg(pair, "II")), pair, "ECG II without a unit: taken as mV").ecg) == ["II"]
    assert (
        check(write(with_ecg(pair, "II (adu)")), pair, "'II (adu)' left out: its unit 'adu' is neither mV nor uV").ecg
        == {}
    )
    assert check(write(with_ecg(pair, "V")), pair).ecg == {}
    with pytest.raises(InputError, match=r"'II \(uV\)' has the unit 'mV' by its unit"):
        read_ppg(write(with_ecg(pair, "II (uV)", "mV")))
    twice = with_ecg(pair, "II,Lead II").replace("\n", ",0.5\n").replace("II,0.5", "II")
    found = check(write(twice), pair, "ECG column 'Lead II' left out: lead II is there already")
    np.testing.assert_allclose(found.ecg["II"], pair.ecg, atol=1e-5)
