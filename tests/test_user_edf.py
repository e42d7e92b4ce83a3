"""A user's EDF and BDF files: which signal is the PPG, its rate and unit, and what cannot be read."""

from __future__ import annotations

import numpy as np
import pytest

from p2es_lib.core.errors import InputError
from p2es_lib.translation.readers.user_file import read_ppg

edfio = pytest.importorskip("edfio")


def write(path, signals: dict[str, tuple[np.ndarray, float, str]]):
    """An EDF or BDF file: label to (samples, Hz, unit)."""
    bdf = path.suffix == ".bdf"
    kind = edfio.BdfSignal if bdf else edfio.EdfSignal
    parts = [kind(x, rate, label=label, physical_dimension=unit) for label, (x, rate, unit) in signals.items()]
    (edfio.Bdf if bdf else edfio.Edf)(parts).write(path)
    return path


@pytest.fixture
def signals(make_pair):
    ppg, pair = make_pair(20, 64.0).ppg, make_pair(20, 250.0)
    return {
        "EEG Fpz-Cz": (0.01 * np.sin(np.arange(2000)), 100.0, "uV"),
        "Pleth": (ppg, 64.0, ""),
        "ECG II": (1000 * pair.ecg, 250.0, "uV"),
    }


@pytest.mark.parametrize("suffix", [".edf", ".bdf"])
def test_ppg_and_leads_come_with_their_rates_and_units(tmp_path, signals, suffix):
    recording = read_ppg(write(tmp_path / f"night{suffix}", signals))
    assert recording.sampling_rate == 64.0 and recording.ecg_sampling_rate == 250.0 and list(recording.ecg) == ["II"]
    np.testing.assert_allclose(recording.ppg, signals["Pleth"][0], atol=2e-5)
    np.testing.assert_allclose(recording.ecg["II"], signals["ECG II"][0] / 1000, atol=1e-4)
    assert any("64 Hz by its header" in note for note in recording.notes) and any(
        "'Pleth'" in note for note in recording.notes
    )


def test_a_channel_can_be_named_or_numbered(tmp_path, signals):
    path = write(tmp_path / "night.edf", signals)
    for column in ("EEG Fpz-Cz", 1):
        assert read_ppg(path, column=column).sampling_rate == 100.0


def test_what_cannot_be_read_is_named(tmp_path, signals):
    del signals["Pleth"]
    with pytest.raises(InputError, match="no PPG channel.*EEG Fpz-Cz, ECG II"):
        read_ppg(write(tmp_path / "a.edf", signals))
    with pytest.raises(InputError, match="missing.edf: no such file"):
        read_ppg(tmp_path / "missing.edf")
    (tmp_path / "b.edf").write_bytes(b"not an EDF file")
    with pytest.raises(InputError, match="b.edf: cannot be read as EDF"):
        read_ppg(tmp_path / "b.edf")


def test_a_rate_that_disagrees_and_an_interrupted_recording_are_refused(tmp_path, signals):
    path = write(tmp_path / "a.edf", signals)
    with pytest.raises(InputError, match="64"):
        read_ppg(path, sampling_rate=100)
    content = bytearray(path.read_bytes())
    content[192:197] = b"EDF+D"
    (tmp_path / "d.edf").write_bytes(content)
    with pytest.raises(InputError, match="EDF"):
        read_ppg(tmp_path / "d.edf")


def test_the_make_is_told_by_the_content(tmp_path, signals):
    path = write(tmp_path / "x.bdf", {"Pleth": signals["Pleth"]})
    recording = read_ppg(path.rename(tmp_path / "x.edf"))
    np.testing.assert_allclose(recording.ppg, signals["Pleth"][0], atol=1e-5)
    assert recording.notes[0] == "BDF, 64 Hz by its header"


def test_a_lead_in_another_unit_is_left_out_and_a_cut_file_told(tmp_path, signals):
    ppg, lead = signals["Pleth"], signals["ECG II"]
    path = write(
        tmp_path / "x.edf", {"Pleth": ppg, "ECG II": lead, "ECG V1": (*lead[:2], "degC"), "I": (*lead[:2], "")}
    )
    path.write_bytes(path.read_bytes()[:-1000])
    recording = read_ppg(path)
    notes = "; ".join(recording.notes)
    assert list(recording.ecg) == ["II"] and len(recording.ppg) == 19 * 64
    assert (
        "'ECG V1' has the unit 'degC'" in notes
        and "'I' has the unit ''" in notes
        and "file contains 19 records" in notes
    )
