"""Which modules of the library a module needs, read from the source text."""

import ast
import importlib.util
from pathlib import Path

from p2es_lib.core.paths import PACKAGE


def modules_imported_by(dotted_name: str, within: tuple[str, ...] = ("p2es_lib",)) -> list[Path]:
    """Files of a module and of all that it imports from ``within``, directly or through others, by name. Imports inside
    functions count, modules named by strings (:data:`p2es_lib.core.config.METHODS`) do not; none: ModuleNotFoundError.
    """
    found: dict[str, Path] = {}
    pending = [dotted_name]
    while pending:
        if (name := pending.pop()) in found:
            continue
        if (path := _file(name)) is None:
            raise ModuleNotFoundError(f"{name}: no such module in {PACKAGE.parent}", name=name)
        found[name] = path
        imported = _imported_names(name, path)
        pending += [other for other in imported if any(f"{other}.".startswith(f"{part}.") for part in within)]
    return [found[name] for name in sorted(found)]


def _imported_names(name: str, path: Path) -> set[str]:
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            submodules = {f"{module}.{alias.name}" for alias in node.names}
            known = {other for other in submodules if _file(other)}
            names |= known if known == submodules else known | {module}
    return {other for other in names if _file(other)}


def _file(name: str) -> Path | None:
    if name.split(".")[0] != PACKAGE.name:
        return None
    path = PACKAGE.parent.joinpath(*name.split("."))
    return next((file for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file()), None)
