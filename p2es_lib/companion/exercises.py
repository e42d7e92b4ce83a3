"""The exercises of the teaching notebooks: what their cells stand on, and their own checks on somebody's answers.

An exercise is a code cell that calls ``check(number, ...)`` and holds a stub: ``answer_1 = None``, or a function whose
body is ``return None``. The solutions (notebook 15) and the tests run these very cells, without the stub, so that a
solution cannot pass a check that no longer is the notebook's.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import io
import symtable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from p2es_lib.companion.notebooks import code_cells, read_parameters
from p2es_lib.core.errors import InputError


def check(number: int, given, right, tolerance: float = 1e-6) -> None:
    """Print whether the answer to an exercise is right. Whatever is given, that is said, and nothing is raised.

    Parameters
    ----------
    number
        Number of the exercise.
    given
        The answer: a real number, or an array, a tensor or nested lists of them; None if there is none yet.
    right
        What it should be: a number, or an array of the right shape.
    tolerance
        Largest difference, absolute and relative to ``right``, that passes.
    """
    print(f"exercise {number}: {_verdict(given, np.asarray(right, dtype=float), tolerance)}")


def _verdict(given, right: np.ndarray, tolerance: float) -> str:
    if given is None:
        return "not tried yet"
    try:
        answer = np.asarray(given)
    except Exception:  # rows of unequal length, a tensor with a gradient: anything may be given
        answer = None
    if answer is None or answer.dtype.kind not in "iuf":  # neither text nor True, which would pass for one
        return "not yet, look again: the answer should be made of real numbers"
    if answer.shape != right.shape:
        wanted = f"an array of shape {right.shape}" if right.ndim else "one number"
        return f"not yet, look again: the answer should be {wanted}, and this has the shape {answer.shape}"
    return "right" if np.allclose(answer, right, rtol=tolerance, atol=tolerance) else "not yet, look again"


def read_exercises(name: str, folder: Path | None = None) -> dict[int, str]:
    """Source of each exercise's cell, by its number.

    Raises
    ------
    InputError
        Unknown notebook, or one without exercises.
    """
    found = {number: source for source in code_cells(name, folder) if (number := _exercise_number(source))}
    if not found:
        raise InputError(f"notebook {name} has no exercises")
    return found


def stub_names(source: str) -> list[str]:
    """Names that an exercise's cell leaves open: ``answer_1 = None``, or a function that returns None."""
    return [name for statement in ast.parse(source).body if (name := _stub(statement))]


def needed_cells(name: str, folder: Path | None = None) -> list[str]:
    """Sources of the cells that the exercises of a notebook stand on, in order: what they name, and what that names."""
    cells = code_cells(name, folder)
    exercises = [row for row, source in enumerate(cells) if _exercise_number(source)]
    names = [_names(source) for source in cells]
    wanted: set[int] = set()
    waiting = list(exercises)
    while waiting:
        row = waiting.pop()
        origins = set()
        for one in names[row].at_once:  # the latest cell before this one that gives the name its value
            origins |= {max((earlier for earlier in range(row) if one in names[earlier].defined), default=row)}
        for one in names[row].when_called:  # a later one too, since functions look when they run
            origins |= {other for other in range(max(exercises)) if one in names[other].defined}
        origins -= wanted | {row, *exercises}
        wanted |= origins
        waiting += origins
    return [cells[row] for row in sorted(wanted)]


def load_lesson(name: str, namespace: dict, folder: Path | None = None, **parameters) -> None:
    """Run, in ``namespace``, the cells that the exercises of a notebook stand on.

    Parameters
    ----------
    name
        Name without suffix, for example ``"02_forward_process"``.
    namespace
        Where names come from and go to: ``globals()`` in a notebook.
    parameters
        Values that replace those of its parameters cell.

    Raises
    ------
    InputError
        Unknown notebook or parameter, or one without exercises.
    """
    known = read_parameters(name, folder)
    for key in parameters:
        if key not in known:
            raise InputError(f"notebook {name} has no parameter {key!r}; it has: {', '.join(known)}")
    read_exercises(name, folder)  # refuses a notebook without
    namespace.update(known | parameters)
    for source in needed_cells(name, folder):
        # Its parameters cell assigns the defaults again, if it is among them.
        if not set(known) & _names(source).defined:
            with contextlib.redirect_stdout(io.StringIO()):  # of the lesson, not of the exercise
                exec(compile(source, f"<{name}>", "exec"), namespace)


def check_exercise(name: str, number: int, namespace: dict, folder: Path | None = None) -> None:
    """Run an exercise's own cell on the answer in ``namespace``, in place of its stub; it prints whether it is right.

    Raises
    ------
    InputError
        No such exercise, or no answer to it in ``namespace``.
    """
    exercises = read_exercises(name, folder)
    if number not in exercises:
        raise InputError(f"notebook {name} has no exercise {number}; it has: {', '.join(map(str, exercises))}")
    for stub in stub_names(exercises[number]):
        if stub not in namespace:
            raise InputError(f"exercise {number} of {name}: give {stub} first")
    rest = [statement for statement in ast.parse(exercises[number]).body if not _stub(statement)]
    exec(compile(ast.Module(rest, []), f"<{name}, exercise {number}>", "exec"), namespace)


# --------------------------------------------------------------------------------------------------------------- cells
def _exercise_number(source: str) -> int | None:
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(ast.Name("check"), [ast.Constant(number), *_]):
                return number
    return None


def _stub(statement: ast.stmt) -> str | None:
    """Name that a statement leaves open, if it is a stub."""
    match statement:
        case ast.Assign([ast.Name(name)], ast.Constant(None)):
            return name
        case ast.FunctionDef(name, body=[ast.Return(ast.Constant(None))]):
            return name
    return None


class _Names(NamedTuple):
    """Names that a cell gives values to, and those that it takes from elsewhere, at once or inside its functions."""

    defined: set[str]
    at_once: set[str]
    when_called: set[str]


def _names(source: str) -> _Names:
    names = _Names(set(), set(), set())
    for statement in ast.parse(source).body:
        table = symtable.symtable(ast.unparse(statement), "<cell>", "exec")
        symbols, inner = table.get_symbols(), list(table.get_children())
        # What an earlier statement of the cell made is its own.
        names.at_once.update({one.get_name() for one in symbols if one.is_referenced()} - names.defined)
        while inner:
            part = inner.pop()
            names.when_called.update(
                one.get_name() for one in part.get_symbols() if one.is_referenced() and one.is_global()
            )
            inner += part.get_children()
        names.defined.update(
            one.get_name() for one in symbols if one.is_assigned() or one.is_imported() or one.is_namespace()
        )
    return _Names(names.defined, *({one for one in part if not hasattr(builtins, one)} for part in names[1:]))
