"""The commands p2es live and p2es export: numbers in, numbers out, and errors that name the line."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from synthetic import tiny_p2es
from typer.testing import CliRunner

from p2es_lib.cli.main import app
from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import LEADS
from p2es_lib.core.paths import PRETRAINED
from p2es_lib.method.p2es import P2Es
from p2es_lib.translation.check import DOWN, NOISE
from p2es_lib.translation.file import translate_long


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    tiny_p2es().save(folder := tmp_path_factory.mktemp("model"))
    return folder


def test_lines_in_lines_out_as_a_file_is_translated(model_folder, make_pair):
    ppg = make_pair(6, 64.0).ppg
    arguments = [
        "live",
        "--sampling-rate",
        "64",
        "--age",
        "60",
        "--sex",
        "F",
        "--samples",
        "2",
        "--model",
        str(model_folder),
    ]
    result = CliRunner().invoke(app, arguments, input="".join(f"{x!r}\n" for x in ppg.tolist()))
    assert result.exit_code == 0 and "not a diagnosis" in result.stderr and " s behind" in result.stderr
    table = pd.read_csv(io.StringIO(result.stdout))
    assert list(table.columns) == ["time_s", *(f"{lead}_mV" for lead in LEADS)] and len(table) == 750
    np.testing.assert_allclose(table["time_s"], np.arange(750) / 125, atol=1e-4)
    file = translate_long(
        P2Es.from_pretrained(model_folder), ppg, 60, "F", n_samples=2, sampling_rate=64.0, progress=False
    )
    np.testing.assert_allclose(table.iloc[:, 1:].to_numpy().T, file.mean, atol=1e-4)


def live(folder, ppg, *options, lines=None):
    """What the command answers to a PPG at 64 Hz, or to these lines."""
    text = "".join(lines or [f"{x!r}\n" for x in ppg.tolist()])
    arguments = ["live", "--sampling-rate", "64", "--samples", "1", "--model", str(folder), *options]
    return CliRunner().invoke(app, arguments, input=text)


def test_a_header_and_odd_lines_cost_nothing_else(model_folder, make_pair):
    """Nothing of the end is lost, and what was odd is told."""
    ppg = make_pair(6, 64.0).ppg
    lines = ["ppg\n", *(f"{x!r}\n" for x in ppg.tolist())]
    lines[10], lines[200], lines[300] = lines[10].replace(".", ","), "0.5-\n", "NA\n"
    result = live(model_folder, None, lines=lines)
    table = pd.read_csv(io.StringIO(result.stdout))
    assert result.exit_code == 0 and len(table) == 750 and table["II_mV"].notna().all()
    assert "line 201, '0.5-'" in result.stderr and "line 1, 'ppg': header" in result.stderr
    assert "translated 6.0 of 6.0 s" in result.stderr
    whole = pd.read_csv(io.StringIO(live(model_folder, ppg).stdout))
    np.testing.assert_allclose(table["II_mV"][500:], whole["II_mV"][500:], atol=1e-4)


def test_bytes_that_are_no_text_garble_their_line_alone(model_folder, make_pair):
    lines = [f"{x!r}\n".encode() for x in make_pair(6, 64.0).ppg.tolist()]
    lines[100] = b"\xff\xfe0.1\n"
    arguments = ["live", "--sampling-rate", "64", "--samples", "1", "--model", str(model_folder)]
    result = CliRunner().invoke(app, arguments, input=b"".join(lines))
    assert result.exit_code == 0 and "line 101" in result.stderr and len(result.stdout.splitlines()) == 751


def test_pulses_that_point_down_are_turned_over_or_doubted(make_pair):
    """Never a wrong ECG without a word: 75 beats a minute upside down."""
    ppg = make_pair(24, 64.0, noise=0.01).ppg
    upright, found, as_given = (live(PRETRAINED, x, *options) for x, options in (
        (ppg, ()), (1.0 - ppg, ()), (1.0 - ppg, ("--polarity", "up"))
    ))  # fmt: skip
    assert "pulses point up (" in upright.stderr and "WARNING" not in upright.stderr
    assert "TURNED OVER, its pulses point down" in found.stderr and "WARNING" not in found.stderr
    same, turned = (pd.read_csv(io.StringIO(result.stdout)) for result in (upright, found))
    np.testing.assert_allclose(turned, same, atol=1e-3)
    assert DOWN in as_given.stderr and "WARNING: the ECG of 4 of 4 windows is in doubt" in as_given.stderr


def test_a_direction_that_cannot_be_told_is_said(model_folder):
    wave = np.sin(2 * np.pi * 1.2 * np.arange(20 * 64) / 64)
    told = live(PRETRAINED, wave).stderr
    assert "WARNING: which way the pulses point cannot be told yet" in told and NOISE in told


@pytest.mark.parametrize("arguments", [("live", "--sampling-rate", "64"), ("export", "--onnx", "m.onnx")])
def test_a_folder_without_a_model_is_named(home, tmp_path, arguments):
    result = CliRunner().invoke(app, [*arguments, "--model", str(tmp_path)], input="1\n")
    assert isinstance(result.exception, InputError) and str(tmp_path) in str(result.exception)
    assert "make reproduce" in str(result.exception)
