import ast
import importlib
import json
import subprocess
import sys
from importlib.util import find_spec

import pytest

from p2es_lib.core import paths
from p2es_lib.core.imports import modules_imported_by


def relative(files):
    return [file.relative_to(paths.PACKAGE).as_posix() for file in files]


def test_what_a_module_imports_is_found_through_others_and_inside_functions():
    files = relative(modules_imported_by("p2es_lib.core.demographics"))
    assert files == ["core/demographics.py", "core/errors.py"]
    simulated = relative(
        modules_imported_by("p2es_lib.data.sources.simulated", ("p2es_lib.data", "p2es_lib.simulator"))
    )
    assert {"data/sources/simulated.py", "data/sources/contract.py", "simulator/cohort.py"} <= set(simulated)
    assert all(name.startswith(("data/", "simulator/")) for name in simulated)


def test_every_module_that_is_loaded_is_found():
    """What the interpreter loads for a module, but for packages on the way to it, must be among what was found."""
    name = "p2es_lib.training.loop"
    code = f"import sys, {name}; print('\\n'.join(m for m in sys.modules if m.startswith('p2es_lib.')))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    found = modules_imported_by(name)
    for module in loaded:
        file = paths.PACKAGE.parent / f"{module.replace('.', '/')}.py"
        assert file in found or not file.is_file(), module


def test_relative_imports_and_unknown_modules(tmp_path, monkeypatch):
    package = tmp_path / "p2es_lib"
    (package / "room").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "room" / "__init__.py").write_text("from .one import X\n")
    (package / "room" / "one.py").write_text(
        "def f():\n    from . import two\n    import json, p2es_lib.three\nX = 1\n"
    )
    (package / "room" / "two.py").write_text("from . import X\n")
    (package / "three.py").write_text("from p2es_lib.room import X, two\n")
    monkeypatch.setattr("p2es_lib.core.imports.PACKAGE", package)
    found = modules_imported_by("p2es_lib.room.two")
    assert [file.relative_to(package).as_posix() for file in found] == [
        "room/__init__.py", "room/one.py", "room/two.py", "three.py",
    ]  # fmt: skip
    found = modules_imported_by("p2es_lib.three", ("p2es_lib.room.two",))
    assert [file.name for file in found] == ["two.py", "three.py"]
    with pytest.raises(ModuleNotFoundError, match=r"p2es_lib\.four"):
        modules_imported_by("p2es_lib.four")


def test_every_name_that_is_imported_or_listed_is_there():
    """Imports inside functions too, which would fail only when called; in tests, tools and notebooks as well."""
    checkout = paths.PACKAGE.parent
    files = [f for folder in ("p2es_lib", "tests", "tools", "book") for f in (checkout / folder).rglob("*.py")]
    sources = {file: file.read_text(encoding="utf-8") for file in files if "_build" not in file.parts}
    for file in (checkout / "notebooks").glob("*.ipynb"):
        cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
        lines = [line for cell in cells if cell["cell_type"] == "code" for line in "".join(cell["source"]).splitlines()]
        sources[file] = "\n".join(line for line in lines if not line.lstrip().startswith(("%", "!")))
    wrong, modules = [], set()
    for file, source in sources.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "p2es_lib":
                modules.add(node.module)
                names = [alias.name for alias in node.names if not is_there(node.module, alias.name)]
                wrong += [f"{file.relative_to(checkout)}:{node.lineno}: {node.module}.{name}" for name in names]
    for module in sorted(modules):
        listed = getattr(importlib.import_module(module), "__all__", ())
        wrong += [f"{module}.__all__: {name}" for name in listed if not is_there(module, name)]
    assert not wrong, "\n".join(wrong)


def is_there(module: str, name: str) -> bool:
    return hasattr(importlib.import_module(module), name) or find_spec(f"{module}.{name}") is not None
