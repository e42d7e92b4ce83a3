"""The commands ``p2es live``, which translates a PPG as it arrives, and ``p2es export``, for other programs."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import typer

from p2es_lib.cli import option
from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import LEADS
from p2es_lib.core.paths import check_output_folder
from p2es_lib.core.weights import check_weights
from p2es_lib.translation.checks import check_options
from p2es_lib.translation.file import default_model_folder

#: Lines of standard input that are pushed together, s: what they add to the delay.
CHUNK_S = 0.1

_MODEL = "Folder with weights.safetensors; default: the longest training here (full, wide), or the package's."
Model = option(Path | None, _MODEL)
Age = option(float | None, "Age in years; leave out if unknown.")
Sex = option(str | None, "F or M; leave out if unknown.")
SampleSeed = option(int, "Seed of the samples.")


def read_numbers(lines: Iterable[str], size: int) -> Iterator[np.ndarray]:
    """Chunks of ``size`` numbers, one per line; an empty line or ``nan`` is a missing sample.

    A line that is no number is an :class:`InputError` that names it.
    """
    chunk: list[float] = []
    for number, line in enumerate(lines, start=1):
        try:
            chunk.append(float(line.strip() or "nan"))
        except ValueError:
            problem = f"standard input, line {number}: {line.strip()!r} is no number"
            raise InputError(f"{problem}; give one sample per line") from None
        if len(chunk) == size:
            yield np.array(chunk)
            chunk = []
    if chunk:
        yield np.array(chunk)


def load(model: Path | None):
    """The model of a folder, or the one that ``default_model_folder`` finds."""
    folder = model or default_model_folder()
    check_weights(folder)
    from p2es_lib.core.learned import load_method  # takes seconds: after what can be refused at once

    return load_method(folder)


def live(
    sampling_rate: option(float, "Hz, of the PPG on standard input."),
    age: Age = None,
    sex: Sex = None,
    model: Model = None,
    polarity: option(str, "Which way the pulses point: up, or down (turned over).") = "up",
    samples: option(int, "Samples per window, of which the mean is written.") = 8,
    seed: SampleSeed = 0,
) -> None:
    """Translate a PPG while it is being recorded.

    One sample per line on standard input; one line of 12 leads (mV) on standard output per sample of the ECG.

    Example, where sensor is a program that prints the samples:

    sensor | p2es live --sampling-rate 64 > ecg.csv
    """
    check_options(age, sex, polarity, samples, sampling_rate, polarities=("up", "down"))
    network = load(model)
    from p2es_lib.translation.live import LiveTranslator

    settings = {"age": age, "sex": sex, "polarity": polarity, "n_samples": samples, "seed": seed}
    translator = LiveTranslator(network, sampling_rate=sampling_rate, where="standard input", **settings)
    typer.echo(f"research use only, not a diagnosis; the ECG is {translator.delay_s + CHUNK_S:.2f} s behind", err=True)
    typer.echo(",".join(["time_s", *(f"{lead}_mV" for lead in LEADS)]))

    def write(block) -> None:
        for number, values in enumerate(block.mean.T, start=block.start):
            typer.echo(f"{number / translator.rate:.4f}," + ",".join("" if np.isnan(v) else f"{v:.4f}" for v in values))
        sys.stdout.flush()

    for chunk in read_numbers(sys.stdin, max(1, int(CHUNK_S * sampling_rate))):
        write(translator.push(chunk))
    write(translator.finish())


def export(onnx: option(Path, "File to write, for example model.onnx."), model: Model = None) -> None:
    """Export P2Es as ONNX, for use without PyTorch.

    The file holds one call of the network; p2es_lib/translation/onnx_export.py lists its inputs and outputs.
    """
    from p2es_lib.translation.onnx_export import export_onnx

    check_output_folder(onnx.parent, "--onnx")
    typer.echo(export_onnx(load(model), onnx))
