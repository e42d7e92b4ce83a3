"""The package installed alone: a wheel, and in its environment nothing but what the core dependencies name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from importlib.metadata import Distribution, distribution
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement

CHECKOUT = Path(__file__).resolve().parents[1]
FACE = """
import sys
from p2es_lib import Demographics, P2Es, simulate, translate

windows, person = simulate([0]), Demographics.of([63], ["F"])
assert windows.ecg.shape == (1, 12, 1024) and person.age.shape == (1,) and callable(P2Es)
translate(sys.argv[1], out=sys.argv[2], sampling_rate=50, n_samples=1, progress=False)
"""


def run(*command: str | Path, **options) -> subprocess.CompletedProcess:
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300, **options)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy: setuptools leaves its own files in the source tree."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, source)
    for name in ("p2es_lib", "tests", "tools", "book"):
        shutil.copytree(CHECKOUT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "_build"))
    built = run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", folder, source)
    assert built.returncode == 0, built.stderr[-2000:]
    (path,) = folder.glob("*.whl")
    return path


def link_dependencies(package: Distribution, folder: Path) -> set[str]:
    """Link into ``folder`` what a distribution requires, and what that requires; returns the names."""
    waiting, found = [(package, "")], {package.name}
    while waiting:
        needing, extra = waiting.pop()
        for requirement in map(Requirement, needing.requires or []):
            if requirement.marker and not any(requirement.marker.evaluate({"extra": e}) for e in ("", extra)):
                continue
            needed = distribution(requirement.name)
            if needed.name not in found:
                found.add(needed.name)
                waiting += [(needed, name) for name in ("", *requirement.extras)]
            for top in {Path(file).parts[0] for file in needed.files} - {"..", "__pycache__"}:
                if not top.endswith(".pth") and not (folder / top).exists():
                    (folder / top).symlink_to(needed.locate_file(top))
    return found


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """``installed(command, ...)`` runs a command of an environment that holds the wheel and its core dependencies."""
    folder = tmp_path_factory.mktemp("alone")
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "P2ES", "VIRTUAL_ENV"))}
    assert run(*pip, env=kept).returncode == 0
    (metadata,) = (folder / "venv").glob("lib/python*/site-packages/p2es-*.dist-info")
    names = link_dependencies(Distribution.at(metadata), metadata.parent)
    assert not {"lightning", "papermill", "pyarrow", "pytest", "snakemake", "Sphinx"} & names
    environment = kept | {"P2ES_HOME": str(folder / "home"), "MPLBACKEND": "agg"}

    def call(command: str, *arguments: str | Path, **options) -> subprocess.CompletedProcess:
        return run(python.with_name(command), *arguments, cwd=folder, env=environment, **options)

    return call


def pulses(sampling_rate: float, duration_s: float) -> np.ndarray:
    """A made-up PPG (T,) of 75 beats a minute."""
    phase = (np.arange(int(duration_s * sampling_rate)) / sampling_rate) % 0.8
    return np.exp(-0.5 * ((phase - 0.25) / 0.08) ** 2) + 0.3 * np.exp(-0.5 * ((phase - 0.5) / 0.08) ** 2)


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {"p2es_lib/pretrained/weights.safetensors", "p2es_lib/method/p2es.py"} <= set(names)
    assert {path.name for path in (CHECKOUT / "p2es_lib" / "simulator").glob("*.json")} <= {Path(n).name for n in names}
    assert {name.split("/")[0].split("-")[0] for name in names} == {"p2es_lib", "p2es"}


@pytest.mark.slow
def test_translates_a_csv_a_stream_and_from_python(installed, tmp_path):
    recording = tmp_path / "mine.csv"
    recording.write_text("ppg\n" + "\n".join(f"{value:.4f}" for value in pulses(50, 20)))
    options = ("--sampling-rate", "50", "--age", "61", "--sex", "F", "--samples", "1")
    translated = installed("p2es", "translate", recording, "--out", tmp_path / "out", *options)
    assert translated.returncode == 0, translated.stderr
    assert {".hea", ".csv", ".pdf", ".png"} <= {path.suffix for path in (tmp_path / "out").iterdir()}

    lines = "".join(f"{value:.4f}\n" for value in pulses(50, 12))
    live = installed("p2es", "live", "--sampling-rate", "50", "--samples", "1", input=lines)
    assert live.returncode == 0 and len(live.stdout.splitlines()) > 1000, live.stderr

    face = installed("python", "-c", FACE, recording, tmp_path / "again")
    assert face.returncode == 0, face.stderr
    assert (tmp_path / "again" / "mine_p2es.csv").is_file()


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        ("reproduce", "companion"),
        ("notebook 05_train", "companion"),
        ("train", "companion"),
        ("score", "companion"),
        ("export --onnx m.onnx", "onnx"),
    ],
)
def test_a_command_without_its_packages_names_their_extra(installed, command, extra):
    result = installed("p2es", *command.split())
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ") and f"pip install '.[{extra}]'" in line
