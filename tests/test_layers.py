"""Modules import downward only: the layers of the library, checked in the source text of every module."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import p2es_lib

PACKAGE = Path(p2es_lib.__file__).parent
#: Modules and packages of p2es_lib, layer by layer. Each may import from the layers above it in this table, and within
#: its own layer from those that stand before it. A new module goes into the table, or the test below fails.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors", "leads", "demographics", "config", "paths", "processes", "artefacts"),
    ("transforms", "pulse_quality", "signals", "polarity"),
    ("simulator", "windows", "sources", "preparation", "forward_process", "pulse_features", "denoiser", "affinity"),
    ("sampling", "translator", "learned", "live", "baselines", "p2es", "onnx_export", "hybrid", "methods", "optimisation", "training_record", "training", "metrics", "inspection", "error_by_time", "realism", "robustness"),
    ("plots", "efficiency", "variants", "experiments", "provenance", "results", "sim_to_real", "claims", "verify", "ecg_files", "translation_report", "translate_file", "readme", "normal_beat_fit"),
    ("notebook_client", "notebooks", "exercises", "workflow", "cli_data", "cli_live", "cli"),
)
#: Calls against the order, and why; they must stay inside functions, so that no import cycle arises.
DEFERRED: dict[tuple[str, str], str] = {}

CORE_LAYERS = LAYERS[:4]
#: They read recordings with wfdb, so a bare GPU machine does without them.
NOT_CORE = ("sources", "preparation")
CORE_PACKAGES = {"numpy", "scipy", "torch", "sklearn", "pandas", "lightning", "tqdm"}

ORDER = [name for layer in LAYERS for name in layer]


def module_files() -> dict[str, list[Path]]:
    """Top-level module or package of p2es_lib to its files, from the file tree."""
    files: dict[str, list[Path]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if name != "__init__":
            files.setdefault(name, []).append(path)
    return files


def core_modules() -> list[str]:
    """Dotted names of all core modules, with those inside packages."""
    core = {name for layer in CORE_LAYERS for name in layer} - set(NOT_CORE)
    paths = [path for name, files in module_files().items() if name in core for path in files]
    dotted = [".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in paths]
    return [name.removesuffix(".__init__") for name in dotted]


def imports(path: Path, source: str | None = None) -> list[tuple[str, bool]]:
    """(dotted name, at import time of the module?) of everything that a file imports."""
    tree = ast.parse(source if source is not None else path.read_text(encoding="utf-8"))
    found = []

    def visit(node: ast.AST, outermost: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend((alias.name, outermost) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:  # relative: level 1 is the folder of the file
                folder = path.relative_to(PACKAGE.parent).parent.parts
                module = ".".join([*folder[: len(folder) - node.level + 1], *filter(None, [module])])
            names = [f"{module}.{alias.name}" for alias in node.names] if module == "p2es_lib" else [module]
            found.extend((name, outermost) for name in names)
        inside = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        # `if TYPE_CHECKING:` never runs: what stands in it is no import at import time, but it counts for the layers.
        inside |= isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.iter_child_nodes(node):
            visit(child, outermost and not inside)

    visit(tree, True)
    return found


def violations(name: str, path: Path, source: str | None = None) -> list[str]:
    """What a file of module ``name`` imports against the layers."""
    wrong = []
    for imported, outermost in imports(path, source):
        parts = imported.split(".")
        if parts[0] != "p2es_lib" or len(parts) == 1 or parts[1] in (name, "__version__"):
            continue
        if (name, parts[1]) in DEFERRED and not outermost:
            continue
        if parts[1] not in ORDER or ORDER.index(parts[1]) > ORDER.index(name):
            wrong.append(f"{path.name} imports {imported}")
    return wrong


def test_every_module_has_a_layer():
    missing = set(module_files()) - set(ORDER)
    assert not missing, f"give {sorted(missing)} a place in LAYERS of {Path(__file__).name}"
    assert len(ORDER) == len(set(ORDER))


@pytest.mark.parametrize("name", sorted(module_files()))
def test_modules_import_downward_only(name):
    if name not in ORDER:
        pytest.fail(f"{name} has no layer")
    wrong = [line for path in module_files()[name] for line in violations(name, path)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from p2es_lib.training import train", 1),
        ("def f():\n    import p2es_lib.plots.style", 1),
        ("from p2es_lib import errors, cli", 1),
        ("from .metrics import evaluate", 1),
        ("from p2es_lib.sources import get_source", 1),
        ("def f():\n    from p2es_lib.sources import get_source", 1),
        ("import numpy\nfrom p2es_lib import __version__, paths\nfrom p2es_lib.leads import LEADS", 0),
    ],
)
def test_the_check_sees_a_violation(source, expected):
    assert len(violations("windows", PACKAGE / "windows.py", source)) == expected


def test_core_names_only_core_packages_at_import_time():
    """What the core imports at module level is the standard library, itself or one of the core packages."""
    wrong = []
    for name in core_modules():
        path = PACKAGE.parent.joinpath(*name.split("."))
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        for imported, outermost in imports(path):
            top = imported.split(".")[0]
            if outermost and top not in CORE_PACKAGES | {"p2es_lib"} and top not in sys.stdlib_module_names:
                wrong.append(f"{name} imports {imported}")
    assert not wrong, "\n".join(wrong)
