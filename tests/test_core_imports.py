"""The core imports on a machine without the notebook, plotting and reading packages (a bare GPU machine)."""

from __future__ import annotations

import json
import subprocess
import sys

from test_layers import core_modules

BLOCKED = (
    "neurokit2", "wfdb", "safetensors", "pyarrow", "matplotlib", "seaborn", "papermill", "jupyterlab", "nbformat",
    "nbclient", "typer", "snakemake", "soundfile",
)  # fmt: skip

_PROGRAM = """
import importlib, json, sys

names, blocked = json.loads(sys.argv[1])

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked:
            raise ImportError(f"{name} is not installed on this machine")

sys.meta_path.insert(0, Absent())
failed = {}
for name in names:
    try:
        importlib.import_module(name)
    except ImportError as error:
        failed[name] = str(error)
print(json.dumps({"failed": failed, "present": sorted(set(blocked) & set(sys.modules))}))
"""


def import_without(names: list[str], blocked: tuple[str, ...]) -> dict:
    """Import modules in a fresh interpreter in which some packages cannot be found."""
    command = [sys.executable, "-c", _PROGRAM, json.dumps([names, blocked])]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_core_imports_without_the_other_packages():
    names = core_modules()
    assert {
        "p2es_lib.core.leads",
        "p2es_lib.simulator.pulse",
        "p2es_lib.signals.pulse_features",
        "p2es_lib.training.loop",
    } <= set(names)
    result = import_without(names, BLOCKED)
    assert not result["failed"], "\n".join(f"{name}: {error}" for name, error in result["failed"].items())
    assert not result["present"]


def test_the_block_works():
    result = import_without(["p2es_lib.core.errors", "p2es_lib.core.leads"], ("numpy",))
    assert list(result["failed"]) == ["p2es_lib.core.leads"]
