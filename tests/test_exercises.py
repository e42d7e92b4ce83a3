"""Exercises of the teaching notebooks: their own checks, the solutions, and answers that are wrong."""

from __future__ import annotations

import ast
import re

import numpy as np
import pytest
import torch
from toy_workflow import write_notebook

from p2es_lib.companion.exercises import check, check_exercise, load_lesson, read_exercises, stub_names
from p2es_lib.companion.notebooks import code_cells
from p2es_lib.core.errors import InputError

TEACHING = ("02_forward_process", "03_reverse_process", "04_affinity")
SOLUTIONS = "15_solutions"

TOY = [
    "import math\n\nunused = math.pi",
    "base = math.sqrt(scale)\nother = base + 1\nprint('by the way')",
    "raise ValueError('no exercise stands on this cell')",
    "def doubled(x):\n    return 2 * factor * x",
    "factor = 1\nfactor = factor * base",
    """answer_1 = None

def check(number, given, right):
    print(f"exercise {number}: " + ("not tried yet" if given is None else "right" if given == right else "not yet"))

check(1, answer_1, doubled(3))""",
    "def squared(x):\n    return None  # your code\n\nright = other**2\ncheck(2, squared(other), right)",
]

LESSON = (0, 1, 3, 4)


@pytest.fixture
def toy(tmp_path):
    write_notebook(tmp_path, "01_toy", TOY, parameters="scale = 4.0\n", lesson=LESSON)
    return tmp_path


# ------------------------------------------------------------------------------------------------------------ mechanics
def test_exercises_and_the_cells_that_they_stand_on_are_found(toy):
    assert code_cells("01_toy", toy, "lesson") == [TOY[0], TOY[1], TOY[3], TOY[4]]
    assert list(read_exercises("01_toy", toy)) == [1, 2]
    assert [stub_names(source) for source in read_exercises("01_toy", toy).values()] == [["answer_1"], ["squared"]]


def test_answers_are_checked_by_the_exercise_itself(toy, capsys):
    names: dict = {}
    load_lesson("01_toy", names, toy, scale=9.0)
    assert names["base"] == 3 and names["scale"] == 9 and capsys.readouterr().out == ""
    for answer, said in ((18.0, "right"), (12.0, "not yet"), (None, "not tried yet")):
        names["answer_1"] = answer
        check_exercise("01_toy", 1, names, toy)
        assert capsys.readouterr().out == f"exercise 1: {said}\n"
    names["squared"] = lambda x: x * x
    check_exercise("01_toy", 2, names, toy)
    assert capsys.readouterr().out == "exercise 2: right\n"


def test_what_is_missing_is_named(toy):
    names: dict = {}
    with pytest.raises(InputError, match="has no parameter 'size'; it has: scale"):
        load_lesson("01_toy", names, toy, size=2)
    load_lesson("01_toy", names, toy)
    with pytest.raises(InputError, match="has no exercise 3; it has: 1, 2"):
        check_exercise("01_toy", 3, names, toy)
    with pytest.raises(InputError, match="give squared first"):
        check_exercise("01_toy", 2, names, toy)
    write_notebook(toy, "02_none", ["x = 1"])
    with pytest.raises(InputError, match="has no exercises"):
        load_lesson("02_none", names, toy)


PAIR = np.array([0.5, 2.0])


@pytest.mark.parametrize(
    "given", [[0.5, 2], (0.5, 2.0), PAIR, torch.tensor([0.5, 2.0]), PAIR.astype("float32"), [0.5, 2 + 1e-7]]
)
def test_a_right_answer_may_have_any_type(given, capsys):
    check(1, given, PAIR, 1e-6)
    assert capsys.readouterr().out == "exercise 1: right\n"


@pytest.mark.parametrize(
    ("given", "right", "hint"),
    [
        ([0.5, 2.01], PAIR, ""), ([2, 0.5], PAIR, ""), ([np.nan, 2], PAIR, ""), ([np.inf, 2], PAIR, ""),
        (np.nan, 1.0, ""), (-1, 1.0, ""),
        ("1", 1.0, "real numbers"), (True, 1.0, "real numbers"),
        (1 + 0j, 1.0, "real numbers"),
        ({"a": 1}, 1.0, "real numbers"),
        (len, 1.0, "real numbers"), ([None, 2], PAIR, "real numbers"), (["a", "b"], PAIR, "real numbers"),
        ([[1], [1, 2]], PAIR, "real numbers"), (torch.ones(2, requires_grad=True), PAIR, "real numbers"),
        ([1], 1.0, "should be one number, and this has the shape (1,)"), ([], 1.0, "has the shape (0,)"),
        (0.5, PAIR, "should be an array of shape (2,), and this has the shape ()"),
        (PAIR[None], PAIR, "has the shape (1, 2)"),
    ],
)  # fmt: skip
def test_a_wrong_answer_of_any_type_and_shape_is_called_wrong_and_raises_nothing(given, right, hint, capsys):
    check(2, given, right, 1e-3)
    said = capsys.readouterr().out
    assert said.startswith("exercise 2: not yet, look again") and hint in said and said.count("\n") == 1
    assert hint or said == "exercise 2: not yet, look again\n"


def test_no_answer_is_no_wrong_answer(capsys):
    check(3, None, PAIR)
    assert capsys.readouterr().out == "exercise 3: not tried yet\n"


# -------------------------------------------------------------------------------------------------------- the real ones
@pytest.mark.parametrize("name", TEACHING)
def test_lessons_write_nothing_and_every_exercise_has_one_stub(name):
    """Notebook 15 runs these cells: figures and tables are for the notebooks that make them."""
    written = [
        source
        for source in code_cells(name, tag="lesson")
        for word in ("save_figure(", "save_table(")
        if word in source
    ]
    assert not written
    assert [len(stub_names(source)) for source in read_exercises(name).values()] == [1, 1, 1]


def solution_cells() -> dict[tuple[str, int], str]:
    """Code of each solution, without the call of its check."""
    found = {}
    for source in code_cells(SOLUTIONS):
        for name, number in re.findall(r'^check_exercise\("(\w+)", (\d), globals\(\)\)$', source, re.M):
            found[name, int(number)] = re.sub(r"^check_exercise.*$", "", source, flags=re.M)
    return found


def test_there_is_a_solution_for_every_exercise():
    assert list(solution_cells()) == [(name, number) for name in TEACHING for number in (1, 2, 3)]


#: Plausible slips: half of the amplitude, widths added, no floor and no middle; rounding down, the gain itself, the
#: noise left out; the formula's other half, a pair not exchanged, weights in place of a choice.
WRONG = {
    ("02_forward_process", 1): "answer_1 = 1000 * np.sqrt(2 * np.log(2)) / (2 * np.pi * 10)",
    ("02_forward_process", 2): "answer_2 = 70",
    ("02_forward_process", 3): "def spectral_by_hand(x, t, noise):\n    return forward_by_hand(x, t, noise)",
    ("03_reverse_process", 1): "answer_1 = 9",
    ("03_reverse_process", 2): "answer_2 = [0.5, 0.25]",
    ("03_reverse_process", 3): "def deterministic_step(u_t, u_0_hat, alpha_t, sigma_t, alpha_s, sigma_s):\n"
                               "    return alpha_s * u_0_hat",
    ("04_affinity", 1): "answer_1 = 0.5 / (1 - 0.8 + 0.5)",
    ("04_affinity", 2): "def arms_swapped(limb):\n    return np.stack([-limb[0], *limb[1:]])",
    ("04_affinity", 3): "def hard_membership(z, bank, group_of, n_groups):\n"
                        "    return memberships(z, bank, group_of, n_groups, 10, 0.2)",
}  # fmt: skip

#: More of them, which a check on a single case or through a formula without signs would pass: a width below zero; the
#: group that most neighbours have, and one group for everybody.
MORE_WRONG = {
    ("02_forward_process", 2): ["answer_2 = -50", "answer_2 = [30, 40]", "answer_2 = '50 ms'"],
    ("04_affinity", 3): [
        "def hard_membership(z, bank, group_of, n_groups):\n"
        "    soft = memberships(z, bank, group_of, n_groups, 10, 0.2)\n"
        "    return np.eye(n_groups)[soft.argmax()]",
        *(
            f"def hard_membership(z, bank, group_of, n_groups):\n    return np.eye(n_groups)[{group}]"
            for group in range(3)
        ),
        "def hard_membership(z, bank, group_of, n_groups):\n    return group_of[np.argmax(bank @ z)]",
    ],
}


@pytest.mark.slow(seconds=30)
def test_solutions_are_right_slips_are_wrong_and_nothing_is_not_tried(home, capsys):
    """Notebook 15 itself runs with the workflow of smoke (test_notebooks_run.py)."""
    for name in TEACHING:
        names: dict = {}
        load_lesson(name, names, profile="smoke", dataset="simulated")
        capsys.readouterr()
        for number, source in read_exercises(name).items():
            exec(source, names)  # as it stands in the notebook
            assert f"exercise {number}: not tried yet\n" in capsys.readouterr().out
            (stub,) = stub_names(source)
            for answer, said in (
                (solution_cells()[name, number], "right"),
                (WRONG[name, number], "not yet, look again"),
            ):
                assert stub in {node.id for node in ast.walk(ast.parse(answer)) if isinstance(node, ast.Name)} | {
                    node.name for node in ast.walk(ast.parse(answer)) if isinstance(node, ast.FunctionDef)
                }
                exec(answer, names)
                capsys.readouterr()
                check_exercise(name, number, names)
                assert f"exercise {number}: {said}\n" in capsys.readouterr().out, (name, number)
            for answer in MORE_WRONG.get((name, number), []):
                exec(answer, names)
                check_exercise(name, number, names)
                assert f"exercise {number}: not yet" in capsys.readouterr().out, answer
        assert np is names["np"]
