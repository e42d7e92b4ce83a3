"""The exercises of the teaching notebooks: what their cells stand on, and their own checks on somebody's answers.

An exercise is a code cell that calls ``check(number, ...)`` and holds a stub: ``answer_1 = None``, or a function whose
body is ``return None``. Notebook 15 and the tests run these very cells, without the stub, after the cells that they
stand on, which have the tag ``lesson``.
"""

import ast
import contextlib
import io
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


def load_lesson(name: str, namespace: dict, folder: Path | None = None, **parameters) -> None:
    """Run, in ``namespace`` (``globals()`` in a notebook), the cells tagged ``lesson``, which exercises stand on."""
    known = known_parameters(name, parameters, folder)
    read_exercises(name, folder)  # refuses a notebook without
    namespace.update(known | parameters)
    for source in code_cells(name, folder, "lesson"):
        with contextlib.redirect_stdout(io.StringIO()):  # of the lesson, not of the exercise
            exec(compile(source, f"<{name}>", "exec"), namespace)


def check_exercise(name: str, number: int, namespace: dict, folder: Path | None = None) -> None:
    """Run an exercise's own cell on the answer in ``namespace``: prints the verdict. InputError: either is missing."""
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
