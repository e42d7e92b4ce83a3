"""The rooms of the library: folders import downward only, in no circle, checked in the source text of every module."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import p2es_lib

PACKAGE = Path(p2es_lib.__file__).parent
#: Rooms of p2es_lib, floor by floor. A room imports only from the floors before it, and from none beside it.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("core",),
    ("signals",),
    ("reference",),
    ("method", "simulator"),
    ("data",),
    ("baselines", "evaluation", "training"),
    ("plots",),
    ("experiments",),
    ("companion", "translation"),
    ("cli",),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
#: Rooms, and parts of rooms, that a bare GPU machine trains with.
CORE_ROOMS = (
    "core", "signals", "reference", "method", "simulator", "data.windows", "baselines", "training", "evaluation"
)  # fmt: skip
CORE_PACKAGES = {"numpy", "scipy", "torch", "sklearn", "pandas", "lightning", "tqdm"}


def modules() -> dict[str, Path]:
    """Every module by its dotted name without ``p2es_lib.``; a package by its ``__init__``."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").removesuffix(".")
        if name:
            found[name] = path
    return found


MODULES = modules()


def core_modules() -> list[str]:
    """Dotted names of all core modules, with those inside packages."""
    return [f"p2es_lib.{name}" for name in MODULES if any(f"{name}.".startswith(f"{room}.") for room in CORE_ROOMS)]


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
            for alias in node.names:  # a module of a package, or a name in a module
                name = f"{module}.{alias.name}"
                is_module = name.removeprefix("p2es_lib.") in MODULES or module == "p2es_lib"
                found.append((name if is_module else module, outermost))
        inside = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        # `if TYPE_CHECKING:` never runs: what stands in it is no import at import time, but it counts for the layers.
        inside |= isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.iter_child_nodes(node):
            visit(child, outermost and not inside)

    visit(tree, True)
    return found


def imported_modules(path: Path, source: str | None = None) -> list[str]:
    """Modules of the library that a file imports, anywhere in it; the face (``from p2es_lib import P2Es``) is none."""
    found = []
    for imported, _ in imports(path, source):
        head, _, name = imported.partition(".")
        if head == "p2es_lib" and name and name not in p2es_lib.__all__:
            found.append(name)
    return found


def violations(module: str, path: Path, source: str | None = None) -> list[str]:
    """What a module imports from its own floor (another room) or from above."""
    room = module.split(".")[0]
    rooms = {name: name.split(".")[0] for name in imported_modules(path, source)}
    return [
        f"{module} imports {name}"
        for name, other in rooms.items()
        if other != room and FLOOR.get(other, 99) >= FLOOR[room]
    ]


def test_every_room_has_a_floor_and_the_library_shows_few_entries():
    assert {name.split(".")[0] for name in MODULES} == set(FLOOR)
    entries = [path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"]
    assert len(entries) <= 16, entries


@pytest.mark.parametrize("room", sorted(FLOOR))
def test_rooms_import_downward_only(room):
    wrong = [line for name, path in MODULES.items() if name.split(".")[0] == room for line in violations(name, path)]
    assert not wrong, "\n".join(wrong)


def in_circles(below: dict[str, set[str]]) -> list[str]:
    """Names that lie in a circle of a graph, or above one."""
    left = dict(below)
    while free := [name for name, others in left.items() if not others & set(left)]:
        for name in free:
            del left[name]
    return sorted(left)


def modules_below() -> dict[str, set[str]]:
    """Each module of the library and those that it imports."""
    below = {
        name: {other for other in imported_modules(path) if other in MODULES and other != name}
        for name, path in MODULES.items()
    }
    # What a package re-exports it imports from its own modules: those do not count as importing the package.
    return {
        name: others - {package for package in below if name.startswith(f"{package}.")}
        for name, others in below.items()
    }


def test_no_modules_import_each_other_in_a_circle():
    assert not in_circles(modules_below())


def test_no_folders_import_each_other_in_a_circle():
    def folder(name):
        return name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]

    below = {folder(name): set() for name in MODULES}
    for name, others in modules_below().items():
        # A package that names what is in its folders is their face, no user of theirs.
        if MODULES[name].name != "__init__.py":
            below[folder(name)] |= {folder(other) for other in others} - {folder(name)}
    assert not in_circles(below)
    assert in_circles({"a": {"b"}, "b": {"a"}, "c": set()}) == ["a", "b"]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from p2es_lib.training.loop import train", 1),
        ("def f():\n    import p2es_lib.plots.style", 1),
        ("from p2es_lib import core, cli", 1),
        ("from ...evaluation import metrics", 1),
        ("from p2es_lib.data.sources import get_source", 0),
        ("import numpy\nfrom p2es_lib import P2Es, __version__, core\nfrom p2es_lib.core.leads import LEADS", 0),
    ],
)
def test_the_check_sees_a_violation(source, expected):
    assert len(violations("data.windows.store", PACKAGE / "data" / "windows" / "store.py", source)) == expected


def test_the_paper_fits_in_its_room():
    files = sorted((PACKAGE / "method").rglob("*.py"))  # two of one name both count
    lines = {path.relative_to(PACKAGE): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert sum(lines.values()) <= 1830, lines


def test_the_face():
    for name in ("P2Es", "Demographics", "simulate", "translate"):
        assert callable(getattr(p2es_lib, name)) and name in dir(p2es_lib)
    with pytest.raises(AttributeError, match="nonsense"):
        p2es_lib.nonsense  # noqa: B018


def test_core_names_only_core_packages_at_import_time():
    """What the core imports at module level is the standard library, itself or one of the core packages."""
    wrong = []
    for name in core_modules():
        for imported, outermost in imports(MODULES[name.removeprefix("p2es_lib.")]):
            top = imported.split(".")[0]
            if outermost and top not in CORE_PACKAGES | {"p2es_lib"} and top not in sys.stdlib_module_names:
                wrong.append(f"{name} imports {imported}")
    assert not wrong, "\n".join(wrong)
