"""Run a notebook as a step of the workflow: strict about its parameters, its time and its kernel. Papermill 2.7 warns
where it should stop (an unknown parameter, no ``parameters`` cell), so everything is checked before a kernel starts.
"""

import ast
import json
import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from p2es_lib.core import paths
from p2es_lib.core.errors import InputError
from p2es_lib.core.processes import exclusive_lock

#: Longest time of one cell, in seconds, when the caller gives none.
CELL_TIMEOUT_S = {"smoke": 900, "quick": 2 * 3600, "wide": 6 * 3600, "full": 14 * 24 * 3600}


class NotebookError(RuntimeError):
    """A notebook stopped: which one, in which cell, why, and where it lies as it stood."""


def list_notebooks(folder: Path | None = None) -> list[str]:
    """Names of the numbered notebooks (``NN_name``), in order."""
    return sorted(path.stem for path in notebook_folder(folder).glob("[0-9][0-9]_*.ipynb"))


def notebook_folder(folder: Path | None = None) -> Path:
    """The folder given; default: ``notebooks/`` of the source tree."""
    return Path(folder) if folder else paths.checkout() / "notebooks"


def code_cells(name: str, folder: Path | None = None, tag: str | None = None) -> list[str]:
    """Sources of a notebook's code cells, or of those with a tag; an InputError, if there is no such notebook."""
    path = notebook_folder(folder) / f"{name}.ipynb"
    if not path.is_file():
        known = ", ".join(list_notebooks(folder)) or "none"
        raise InputError(f"notebook {name!r} is unknown; {path.parent} holds: {known}")
    try:
        cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
        return ["".join(cell["source"]) for cell in cells if tag is None or tag in cell["metadata"].get("tags", [])]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not a notebook ({error})") from error


def read_parameters(name: str, folder: Path | None = None) -> dict[str, object]:
    """Parameters of a notebook with their defaults: ``name = literal`` lines of its one cell tagged ``parameters``.

    An :class:`InputError` if there is not one such cell, or if it holds anything else, a name twice, or nothing.
    """
    tagged, path = code_cells(name, folder, "parameters"), notebook_folder(folder) / f"{name}.ipynb"
    if len(tagged) != 1:
        raise InputError(f"{path}: needs exactly one code cell tagged 'parameters', found {len(tagged)}")
    where = f"{path}, parameters cell"
    try:
        statements = ast.parse(tagged[0]).body
    except SyntaxError as error:
        raise InputError(f"{where}: line {error.lineno} is not Python") from error
    parameters: dict[str, object] = {}
    for statement in statements:
        name, default = None, ()
        match statement:
            case ast.Assign([ast.Name(name)], value) | ast.AnnAssign(ast.Name(name), _, value):
                with suppress(ValueError):
                    default = ast.literal_eval(value)
        # Papermill turns a tuple into a string, and replaces nothing but names: a derived value would go stale.
        if isinstance(default, (tuple, set, bytes)):
            raise InputError(f"{where}: line {statement.lineno} must be 'name = literal' (number, text, list, dict)")
        if name in parameters:
            raise InputError(f"{where}: {name} is assigned twice")
        parameters[name] = default
    if not parameters:
        raise InputError(f"{where}: holds no parameter")
    return parameters


def known_parameters(name: str, parameters: Iterable[str], folder: Path | None = None) -> dict[str, object]:
    """As :func:`read_parameters`; refuses ``parameters`` that the notebook does not have."""
    known = read_parameters(name, folder)
    for key in parameters:
        if key not in known:
            raise InputError(f"notebook {name} has no parameter {key!r}; it has: {', '.join(known)}")
    return known


def check_parameters(name: str, parameters: dict[str, object], folder: Path | None = None) -> None:
    """Refuse unknown parameters, and values of another type than the default's (but a whole number for a decimal)."""
    known = known_parameters(name, parameters, folder)
    for key, value in parameters.items():
        expected = type(known[key])
        if type(value) not in ((int, float) if expected is float else (expected,)):
            wrong = f"parameter {key}={value!r} of notebook {name}"
            raise InputError(f"{wrong} must be {expected.__name__}, as its default {known[key]!r} is")


def executed_notebook(dataset: str, profile: str, name: str, variant=None, seed: int | None = None) -> Path:
    """Where the executed copy of a notebook goes; one per variant and seed for a notebook that takes them."""
    suffix = ("" if variant is None else f"-{variant}") + ("" if seed is None else f"-seed{seed}")
    return paths.home() / "runs" / dataset / profile / "notebooks" / f"{name}{suffix}.ipynb"


def run_notebook(
    name: str, parameters: dict[str, object], output: Path, *, timeout_s: float = CELL_TIMEOUT_S["quick"],
    log: TextIO | None = None, folder: Path | None = None,
) -> Path:  # fmt: skip
    """Execute a notebook with this Python and write the executed copy to ``output``, once every cell ran.

    After an error the notebook as it stood is ``<name>.failed.ipynb`` beside it. ``log`` (default: standard error) gets
    what cells print. An InputError in a cell is raised here; other exceptions, a cell that takes more than
    ``timeout_s`` and a dead kernel are a NotebookError.
    """
    check_parameters(name, parameters, folder)
    if not timeout_s > 0:
        raise InputError(f"timeout={timeout_s}: must be a positive number of seconds")
    source, output, label = notebook_folder(folder) / f"{name}.ipynb", Path(output), Path(output).stem
    failed = output.with_name(f"{label}.failed.ipynb")
    with exclusive_lock(output.with_name(f".{label}.lock"), what=f"notebook {label}"):
        for stale in output.parent.glob(f".{label}.tmp*"):  # left by a killed run; we hold the lock
            stale.unlink()
        with paths.atomic_path(output) as temporary:
            try:
                _execute(source, temporary, parameters, timeout_s, label, log or sys.stderr)
            except (InputError, NotebookError) as error:
                if temporary.exists():
                    os.replace(temporary, failed)
                    raise type(error)(f"{error}\n  the notebook as it stood: {failed}") from None
                raise
        failed.unlink(missing_ok=True)
    return output


def _execute(source: Path, output: Path, parameters: dict, timeout_s: float, label: str, log: TextIO) -> None:
    """Run ``source`` through papermill and turn its exceptions into ours."""
    # Debugger and platform notes that a notebook's reader can do nothing about.
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    from p2es_lib.companion.notebook_client import ENGINE, CellProgress

    kernel = {"engine_name": ENGINE, "kernel_name": "python3", "language": "python", "cwd": source.parent}
    limits = {"start_timeout": 120, "execution_timeout": timeout_s, "progress_bar": False}
    with CellProgress(label, log) as progress:
        try:
            papermill.execute_notebook(source, output, parameters, **kernel, **limits, progress=progress)
        except papermill.PapermillExecutionError as error:
            cell, said = f"In [{error.exec_count}]", error.evalue
            if error.ename == "InputError":
                raise InputError(f"{said}\n  raised in notebook {label}, cell {cell}") from None
            raise NotebookError(f"notebook {label} stopped in cell {cell}: {error.ename}: {said}") from None
        except CellTimeoutError:
            problem = f"{progress.where()} took longer than {timeout_s:g} s; allow more with --timeout"
            raise NotebookError(f"notebook {label}: {problem}") from None
        except DeadKernelError:
            problem = f"the Python process died in {progress.where()} (out of memory, or killed)"
            raise NotebookError(f"notebook {label}: {problem}") from None
