"""The exercises of the teaching notebooks: what their cells stand on, and their own checks on somebody's answers.

An exercise is a code cell that calls ``check(number, ...)`` and holds a stub: ``answer_1 = None``, or a function whose
body is ``return None``. The solutions (notebook 15) and the tests run these very cells, without the stub.
"""

import ast
import builtins
import contextlib
import io
import symtable
from collections import namedtuple
from pathlib import Path

import numpy as np

from p2es_lib.companion.notebooks import code_cells, known_parameters
from p2es_lib.core.errors import InputError


def check(number: int, given, right, tolerance: float = 1e-6) -> None:
    """Print whether the answer to an exercise is right, whatever is given (None: not tried yet); nothing is raised."""
    print(f"exercise {number}: {_verdict(given, np.asarray(right, dtype=float), tolerance)}")


def _verdict(given, right: np.ndarray, tolerance: float) -> str:
    if given is None:
        return "not tried yet"
    answer = np.asarray("")
    with contextlib.suppress(Exception):  # rows of unequal length, a tensor with a gradient: anything may be given
        answer = np.asarray(given)
    if answer.dtype.kind not in "iuf":  # neither text nor True, which would pass for one
        return "not yet, look again: the answer should be made of real numbers"
    if answer.shape != right.shape:
        wanted = f"an array of shape {right.shape}" if right.ndim else "one number"
        return f"not yet, look again: the answer should be {wanted}, and this has the shape {answer.shape}"
    return "right" if np.allclose(answer, right, rtol=tolerance, atol=tolerance) else "not yet, look again"


def read_exercises(name: str, folder: Path | None = None) -> dict[int, str]:
    """Source of each exercise's cell, by its number; an InputError, if the notebook has none."""
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
    names, wanted, waiting = [_names(source) for source in cells], set(), list(exercises)
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
    """Run, in ``namespace`` (``globals()`` in a notebook), the cells that the exercises of a notebook stand on."""
    known = known_parameters(name, parameters, folder)
    read_exercises(name, folder)  # refuses a notebook without
    namespace.update(known | parameters)
    for source in needed_cells(name, folder):
        if set(known) & _names(source).defined:
            continue  # the parameters cell, which assigns the defaults again
        with contextlib.redirect_stdout(io.StringIO()):  # of the lesson, not of the exercise
            exec(compile(source, f"<{name}>", "exec"), namespace)


def check_exercise(name: str, number: int, namespace: dict, folder: Path | None = None) -> None:
    """Run an exercise's own cell on the answer in ``namespace``, in place of its stub; it prints the verdict."""
    exercises = read_exercises(name, folder)
    if number not in exercises:
        raise InputError(f"notebook {name} has no exercise {number}; it has: {', '.join(map(str, exercises))}")
    for stub in stub_names(exercises[number]):
        if stub not in namespace:
            raise InputError(f"exercise {number} of {name}: give {stub} first")
    rest = [statement for statement in ast.parse(exercises[number]).body if not _stub(statement)]
    exec(compile(ast.Module(rest, []), f"<{name}, exercise {number}>", "exec"), namespace)


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


#: Names that a cell gives values to, and those that it takes from elsewhere, at once or inside its functions.
_Names = namedtuple("_Names", ["defined", "at_once", "when_called"])


def _names(source: str) -> _Names:
    names = _Names(set(), set(), set())
    for statement in ast.parse(source).body:
        table = symtable.symtable(ast.unparse(statement), "<cell>", "exec")
        symbols, inner = table.get_symbols(), list(table.get_children())
        # What an earlier statement of the cell made is its own.
        names.at_once.update({one.get_name() for one in symbols if one.is_referenced()} - names.defined)
        for part in inner:  # which grows
            used = (one for one in part.get_symbols() if one.is_referenced() and one.is_global())
            names.when_called.update(one.get_name() for one in used)
            inner += part.get_children()
        made = (one for one in symbols if one.is_assigned() or one.is_imported() or one.is_namespace())
        names.defined.update(one.get_name() for one in made)
    return _Names(names.defined, *({one for one in part if not hasattr(builtins, one)} for part in names[1:]))
