"""The commands p2es live and p2es export: numbers in, numbers out, and errors that name the line."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from synthetic import tiny_p2es
from typer.testing import CliRunner

from p2es_lib.cli.main import app, read_numbers
from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import LEADS
from p2es_lib.method.p2es import P2Es
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


def test_numbers_are_read_in_chunks_and_a_wrong_line_is_named():
    parts = list(read_numbers(["1\n", "2.5\n", "\n", "nan\n", "-3e2"], 2))
    assert [len(part) for part in parts] == [2, 2, 1]
    np.testing.assert_array_equal(np.concatenate(parts), [1, 2.5, np.nan, np.nan, -300])
    with pytest.raises(InputError, match="line 2: 'x' is no number"):
        list(read_numbers(["1", "x"], 5))


@pytest.mark.parametrize("arguments", [("live", "--sampling-rate", "64"), ("export", "--onnx", "m.onnx")])
def test_a_folder_without_a_model_is_named(home, tmp_path, arguments):
    result = CliRunner().invoke(app, [*arguments, "--model", str(tmp_path)], input="1\n")
    assert isinstance(result.exception, InputError) and str(tmp_path) in str(result.exception)
    assert "make reproduce" in str(result.exception)
