"""The hooks of .pre-commit-config.yaml on every file that they are for, and the patterns of errors in the tests."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from test_packaging import CHECKOUT, tracked_files

HOOKS = yaml.safe_load((CHECKOUT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
CELL = {
    "cell_type": "code",
    "execution_count": 1,
    "id": "a",
    "metadata": {},
    "outputs": [],
    "source": ["x = no_such  ;"],
}
NOTEBOOK = {"cells": [CELL], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


def run(hook: dict, files: list[Path]) -> subprocess.CompletedProcess:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = [*shlex.split(hook["entry"]), *(str(path) for path in files)]
    return subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook["id"])
def test_every_file_passes(hook):
    files = [path for path in tracked_files() if re.search(hook["files"], path.name)]
    assert len(files) >= 15
    result = run(hook, files)
    assert result.returncode == 0, (result.stdout + result.stderr)[-6000:]


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook["id"])
def test_every_hook_finds_what_it_is_for(hook, tmp_path):
    path = tmp_path / ("wrong.ipynb" if re.search(hook["files"], "x.ipynb") else "wrong.py")
    path.write_text(json.dumps(NOTEBOOK) if path.suffix == ".ipynb" else CELL["source"][0])
    assert run(hook, [path]).returncode != 0


def long_patterns(text: str) -> list[str]:
    """Line and pattern of each ``match=`` with 45 or more characters, not counting what an f-string fills in."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.keyword) and node.arg == "match":
            strings = (part.value for part in ast.walk(node.value) if isinstance(part, ast.Constant))
            if len(pattern := "".join(value for value in strings if isinstance(value, str))) >= 45:
                found.append(f"line {node.value.lineno}: {pattern}")
    return found


def test_errors_are_told_by_a_few_words():
    assert long_patterns(f"raises(E, match='{'x' * 44}')\nraises(E, match=f'{'y' * 44}{{name}}z')") == [
        f"line 2: {'y' * 44}z"
    ]
    files = sorted((CHECKOUT / "tests").glob("*.py"))
    assert not [f"{path.name}, {found}" for path in files for found in long_patterns(path.read_text())]
