"""Run a notebook as a step of the workflow: strict about its parameters, its time and its kernel.

This is the only module that imports papermill. Papermill 2.7 warns where it should stop (an unknown parameter is
reported and ignored, a missing ``parameters`` cell makes the notebook's own values win), so everything is checked here
before a kernel starts: one tagged cell, literals only, no unknown name, no wrong type. The notebook appears under its
final name only when it ran to its end; a failed one is kept beside it as ``<name>.failed.ipynb``.
"""

from __future__ import annotations

import ast
import json
import os
import sys
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
    """Sources of a notebook's code cells, or of those with a tag.

    Raises
    ------
    InputError
        Unknown notebook, or a file that is none.
    """
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
    """Parameters of a notebook with their defaults, from its one code cell tagged ``parameters``.

    Parameters
    ----------
    name
        Name without suffix, for example ``"01_data"``.
    folder
        Folder of the notebooks; default: ``notebooks/`` of the source tree.

    Raises
    ------
    InputError
        Unknown notebook, not exactly one tagged cell, or a cell that holds anything but ``name = literal`` lines.
    """
    tagged, path = code_cells(name, folder, "parameters"), notebook_folder(folder) / f"{name}.ipynb"
    if len(tagged) != 1:
        raise InputError(f"{path}: needs exactly one code cell tagged 'parameters', found {len(tagged)}")
    return _literal_assignments(tagged[0], path)


def _literal_assignments(source: str, path: Path) -> dict[str, object]:
    """Values of ``name = literal`` lines. Papermill replaces nothing but names, so a derived value would go stale."""
    where = f"{path}, parameters cell"
    try:
        statements = ast.parse(source).body
    except SyntaxError as error:
        raise InputError(f"{where}: line {error.lineno} is not Python") from error
    parameters: dict[str, object] = {}
    for statement in statements:
        match statement:
            case ast.Assign([ast.Name(name)], value) | ast.AnnAssign(ast.Name(name), _, value):
                pass
            case _:
                name = value = None
        try:
            default = ast.literal_eval(value) if name else None
        except ValueError:
            name = None
        if name is None or isinstance(default, (tuple, set, bytes)):  # papermill turns a tuple into a string
            raise InputError(
                f"{where}: line {statement.lineno} must be 'name = literal' (number, text, list, dictionary)"
            )
        if name in parameters:
            raise InputError(f"{where}: {name} is assigned twice")
        parameters[name] = default
    if not parameters:
        raise InputError(f"{where}: holds no parameter")
    return parameters


def check_parameters(name: str, parameters: dict[str, object], folder: Path | None = None) -> None:
    """Refuse parameters that the notebook does not have, and values of another type than its default's.

    A whole number is accepted where the default is a decimal one; nothing else is converted.
    """
    known = read_parameters(name, folder)
    for key, value in parameters.items():
        if key not in known:
            raise InputError(f"notebook {name} has no parameter {key!r}; it has: {', '.join(known)}")
        expected = type(known[key])
        accepted = (int, float) if expected is float else (expected,)
        if type(value) not in accepted:
            raise InputError(
                f"parameter {key}={value!r} of notebook {name} must be {expected.__name__}, "
                f"as its default {known[key]!r} is"
            )


def executed_notebook(
    dataset: str, profile: str, name: str, variant: str | None = None, seed: int | None = None
) -> Path:
    """Where the executed copy of a notebook goes; one per variant and seed for a notebook that takes them."""
    suffix = ("" if variant is None else f"-{variant}") + ("" if seed is None else f"-seed{seed}")
    return paths.home() / "runs" / dataset / profile / "notebooks" / f"{name}{suffix}.ipynb"


def run_notebook(
    name: str,
    parameters: dict[str, object],
    output: Path,
    *,
    timeout_s: float = CELL_TIMEOUT_S["quick"],
    log: TextIO | None = None,
    folder: Path | None = None,
) -> Path:
    """Execute a notebook with the Python that runs this function, and write the executed copy to ``output``.

    Parameters
    ----------
    name
        Name without suffix, for example ``"05_train"``.
    parameters
        Values that replace those of its ``parameters`` cell; the others keep their defaults.
    output
        Path of the executed notebook; written only when every cell ran. After an error the notebook as it stood is
        ``<output without suffix>.failed.ipynb``.
    timeout_s
        Longest time of one cell, in seconds.
    log
        Text stream that gets what the cells print, while they print it; default: standard error.
    folder
        Folder of the notebooks; default: ``notebooks/`` of the source tree. It is also the working folder of the cells.

    Raises
    ------
    InputError
        Unknown notebook or parameter, wrong type, ``output`` being written by another process, or an InputError that
        a cell raised.
    NotebookError
        A cell raised another exception or took too long, or its kernel died.
    """
    check_parameters(name, parameters, folder)
    if not timeout_s > 0:
        raise InputError(f"timeout={timeout_s}: must be a positive number of seconds")
    source, output = notebook_folder(folder) / f"{name}.ipynb", Path(output)
    label = output.stem
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

    from p2es_lib.companion.notebook_client import ENGINE, CellProgress, register_engine

    register_engine()
    with CellProgress(label, log) as progress:
        try:
            papermill.execute_notebook(
                source,
                output,
                parameters,
                engine_name=ENGINE,
                kernel_name="python3",
                language="python",
                progress_bar=False,
                cwd=source.parent,
                start_timeout=120,
                execution_timeout=timeout_s,
                progress=progress,
            )
        except papermill.PapermillExecutionError as error:
            if error.ename == "InputError":
                raise InputError(
                    f"{error.evalue}\n  raised in notebook {label}, cell In [{error.exec_count}]"
                ) from None
            raise NotebookError(
                f"notebook {label} stopped in cell In [{error.exec_count}]: {error.ename}: {error.evalue}"
            ) from None
        except CellTimeoutError:
            raise NotebookError(
                f"notebook {label}: {progress.where()} took longer than {timeout_s:g} s; allow more with --timeout"
            ) from None
        except DeadKernelError:
            raise NotebookError(
                f"notebook {label}: the Python process died in {progress.where()} (out of memory, or killed)"
            ) from None
