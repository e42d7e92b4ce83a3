"""Dependencies agree in all places, nothing names the machine it was made on, the citation is in order."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml

CHECKOUT = Path(__file__).resolve().parents[1]
#: Packages that conda calls otherwise than pip.
CONDA_NAMES = {"pytorch": "torch", "pysoundfile": "soundfile"}


def normal(requirement: str) -> str:
    """Name in a requirement, as PyPI normalises it."""
    return re.sub(r"[-_.]+", "-", re.match(r"[A-Za-z0-9._-]+", requirement)[0]).lower()


def pyproject() -> dict:
    return tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]


def direct_dependencies() -> set[str]:
    """The core's and those of all extras."""
    project = pyproject()
    extras = {name for extra, names in project["optional-dependencies"].items() if extra != "all" for name in names}
    return {normal(name) for name in [*project["dependencies"], *extras]}


def tracked_files() -> list[Path]:
    """Files in git and files not in git that are not ignored; skips outside a checkout."""
    command = ["git", "-C", str(CHECKOUT), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    if shutil.which("git") is None or (result := subprocess.run(command, capture_output=True, text=True)).returncode:
        pytest.skip("no git, or not a git checkout")
    return [path for name in result.stdout.split("\0") if name and (path := CHECKOUT / name).is_file()]


def test_conda_environment_has_the_same_direct_dependencies():
    dependencies = yaml.safe_load((CHECKOUT / "environment.yml").read_text())["dependencies"]
    pip = next(entry["pip"] for entry in dependencies if isinstance(entry, dict))  # what conda-forge does not have
    dependencies = [entry for entry in dependencies if isinstance(entry, str)]
    conda = {CONDA_NAMES.get(normal(name), normal(name)) for name in [*dependencies, *pip]} - {"python", "pip"}
    assert conda == direct_dependencies()
    python = next(name for name in dependencies if normal(name) == "python")
    assert python.removeprefix("python") == pyproject()["requires-python"]


def test_the_extra_all_names_every_other():
    extras = pyproject()["optional-dependencies"]
    (everything,) = extras.pop("all")
    assert everything == f"p2es[{','.join(sorted(extras))}]"


def test_what_the_library_imports_is_a_direct_dependency():
    distributions = packages_distributions()
    imported = set()
    for path in (CHECKOUT / "p2es_lib").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(node.module.split(".")[0])
    imported -= {*sys.stdlib_module_names, "p2es_lib", "tools", "zarr"}  # Zarr: compared with where somebody has it
    names = {normal(name) for module in imported for name in distributions.get(module, [module])}
    assert not names - direct_dependencies()


def test_each_conda_dependency_has_its_reason():
    text = (CHECKOUT / "environment.yml").read_text()
    lines = [line for line in text[text.index("dependencies:") :].splitlines() if line.lstrip().startswith("- ")]
    assert len(lines) > 20
    for line in lines:
        assert line == "  - pip:" or re.fullmatch(r" {2,6}- \S+ # \w.{4,}", line), f"no reason: {line}"


def test_lock_file_pins_every_dependency_to_a_public_version():
    lines = [line for line in (CHECKOUT / "requirements-lock.txt").read_text().splitlines() if not line.startswith("#")]
    locked = {}
    for line in lines:
        name, version = re.fullmatch(
            r"([A-Za-z0-9._-]+)==([0-9][A-Za-z0-9.]*)", line
        ).groups()  # no +local, URL or path
        assert normal(name) not in locked, f"{name} is pinned twice"
        locked[normal(name)] = version
    assert not direct_dependencies() - set(locked)
    assert "p2es" not in locked


def test_nothing_names_a_machine_or_a_registry():
    # Assembled, so that this file does not match itself.
    slash = "/"
    folders = ("work", "opt", "root", "tmp" + slash + "plan")
    patterns = ["file:" + slash * 2, *(slash + name + slash for name in folders)]
    patterns += ["find-" + "links", "index-" + "url", "files.pythonhosted" + ".org", "pypi" + ".org"]
    found = []
    for path in tracked_files():
        text = path.read_bytes().decode("utf-8", errors="ignore")
        if path.suffix in {".png", ".pdf", ".safetensors"}:
            continue
        found += [f"{path.relative_to(CHECKOUT)}: {pattern}" for pattern in patterns if pattern in text]
    assert not found


def test_no_data_or_runs_are_in_git_and_of_weights_only_those_of_the_package():
    heavy = {".npy", ".parquet", ".safetensors", ".ckpt", ".dat", ".hea", ".flac", ".csv.gz"}
    for path in tracked_files():
        name = path.relative_to(CHECKOUT).as_posix()
        if name == "p2es_lib/pretrained/weights.safetensors":
            assert path.stat().st_size < 10_000_000
            continue
        assert path.suffix not in heavy, name
        assert not name.startswith(("runs/", "data/", ".venv/")), name
        assert path.stat().st_size < 3_000_000, f"{name} is larger than 3 MB"


def test_citation_names_the_paper_and_this_software():
    citation = yaml.safe_load((CHECKOUT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software" and citation["message"]
    assert citation["version"] == pyproject()["version"] and citation["license"] == pyproject()["license"] == "MIT"
    assert citation["authors"] == [{"name": pyproject()["authors"][0]["name"]}]
    paper = citation["preferred-citation"]
    assert paper["title"] == "Translation from Wearable PPG to 12-Lead ECG"
    assert [f"{a['given-names']} {a['family-names']}" for a in paper["authors"]] == [
        "Hui Ji",
        "Wei Gao",
        "Pengfei Zhou",
    ]
    assert "2509.25480" in paper["url"]


def test_version_is_the_same_everywhere():
    from p2es_lib import __version__

    assert __version__ == pyproject()["version"]


# --- Makefile: what can be checked without installing anything --------------------------------------------------------


def make(*arguments: str) -> subprocess.CompletedProcess:
    """Run make. With a VENV elsewhere it behaves as on a fresh machine, and leaves this installation alone."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(["make", *arguments], cwd=CHECKOUT, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("python", ["no_such_python", "false"])
def test_make_asks_for_a_python_that_is_new_enough(tmp_path, python):
    result = make(f"PYTHON={python}", f"VENV={tmp_path / 'venv'}", "install")
    assert result.returncode != 0 and "Python 3.11 or newer is needed" in result.stderr
    assert not (tmp_path / "venv").exists()


def test_make_hands_its_settings_to_the_command(tmp_path):
    settings = ("PROFILE=smoke", "DATASET=mimic4wdb", "MIRROR=../a b", "SEEDS=0,1", "JOBS=3")
    venv = f"VENV={tmp_path / 'venv'}"
    shown = make("-n", venv, *settings, "reproduce").stdout
    for expected in ("--profile 'smoke'", "--dataset 'mimic4wdb'", "--mirror '../a b'", "--seeds '0,1'", "--jobs '3'"):
        assert expected in shown
    assert "--mirror" not in make("-n", venv, "reproduce").stdout


def test_make_can_leave_the_versions_open_and_name_a_torch(tmp_path):
    shown = make("-n", "LOCK=", "TORCH=2.11.0", f"VENV={tmp_path / 'venv'}", "install").stdout
    assert "requirements-lock.txt" not in shown and "pyproject.toml" in shown and "torch==2.11.0" in shown
    wrong = make("-n", f"VENV={tmp_path / 'venv'}", "LOCK=nothing.txt", "install").stderr
    assert "LOCK=nothing.txt: no such file" in wrong
    assert "torch==" not in make("-n", f"VENV={tmp_path / 'venv'}", "install").stdout


def test_make_test_runs_one_worker_per_core():
    """The program that counts them stands in the Makefile, where nothing else would notice that a name has gone."""
    program = re.search(r"\$\(PY\) -c '(.*?)'", (CHECKOUT / "Makefile").read_text())[1]
    found = subprocess.run([sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert 1 <= int(found.stdout) <= min(8, os.cpu_count())
