"""Random numbers: one generator per subject, session and window of a session, read as named blocks.

So the numbers of a subject do not depend on which other subjects are simulated, in what order, or in which process.
Blocks are drawn in the order of the tables below: a new quantity is appended, never inserted. What came after sensor
noise had been drawn from a window's generator has a generator of its own (``later``).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from p2es_lib.core.errors import InputError

#: Standard normal numbers per subject.
SUBJECT_NORMALS = {
    "height": 1, "bmi": 1, "stiffness": 1, "heart_rate": 1, "rmssd": 1, "mayer": 1, "pr": 1, "p_duration": 1,
    "qrs_duration": 1, "qtc": 1, "qt_slope": 1, "beat": 16, "lead_gain": 8,
    "chest_shift": 7, "chest_height": 7, "pat_residual": 1, "pulse_shape": 5, "ecg_breathing": 2, "ppg_breathing": 2,
    "f_wave": 3, "ectopic_axis": 3, "ectopic_shape": 2, "noise_level": 1,
}  # fmt: skip
#: Numbers uniform on [0, 1) per subject.
SUBJECT_UNIFORMS = {
    "age": 1, "sex": 1, "rhythm": 1, "rhythm_rate": 1, "morphology": 1, "st_size": 1, "st_site": 1, "pvc": 1, "pac": 1,
    "breathing_rate": 1, "ecg_breathing_phase": 1, "ectopic_axis": 1,
}  # fmt: skip
#: Standard normal numbers per subject that were added later: drawn last, so that all the others stay as they were.
SUBJECT_LATER_NORMALS = {"repolarisation": 6, "beat_finer": 30}
ALL_SUBJECT_NORMALS = SUBJECT_NORMALS | SUBJECT_LATER_NORMALS
#: Numbers of one sitting: what differs from the person's other sittings.
SESSION_NORMALS = {
    "pat": 2, "heart_rate": 1, "axis": 3, "wave_gain": 3, "limb_gain": 6, "chest_along": 6, "chest_up": 6, "qrs": 1,
    "pr": 1, "qtc": 1, "breathing_rate": 1, "breathing_lag": 1, "breathing_depth": 2, "pulse_shape": 5,
    "noise_level": 1,
}  # fmt: skip
SESSION_UNIFORMS = {"pat_tail": 1, "long_qt": 1}
#: Whether, which way and how far a sitting's heart rate is from rest.
FAR_RATE_UNIFORMS = {"far": 1, "far_way": 1, "far_place": 1}
#: Sines of the slow path of the arrival time in a window: size of cosine and sine of each, and the window's offset.
N_SLOW = 6
SLOW_NORMALS, SLOW_UNIFORMS = {"slow": 2 * N_SLOW + 1}, {"slow_hz": N_SLOW}


@dataclass(frozen=True)
class Draws:
    """Named random numbers of N rows: ``normal[name]`` and ``uniform[name]`` are contiguous, (N,) or (count, N)."""

    normal: dict[str, np.ndarray]
    uniform: dict[str, np.ndarray]


def on_rows(table, change: Callable[[np.ndarray], np.ndarray]):
    """``change`` done to each array of a dataclass or dict, nested or not; rows are the last axis of all of them."""
    if isinstance(table, np.ndarray):
        return change(table)
    parts = table if isinstance(table, dict) else vars(table)
    return type(table)(**{name: on_rows(part, change) for name, part in parts.items()})


def generator(
    seed: int, subject: int, window: int | None = None, session: int = 0, later: bool = False
) -> np.random.Generator:
    """The generator of a subject, of a session (no window) or of a window; InputError for a number not of 32 bits.

    ``SeedSequence`` pads with zeros up to four numbers: (seed, subject) and (seed, subject, 0) would be the same, so
    windows count from 1, sessions from 1 (session 0 is the subject as such); what came ``later`` has a fifth number.
    """
    for name, value in (("seed", seed), ("subject", subject), ("window", window or 0), ("session", session)):
        if not 0 <= value < 2**32 - 1:
            raise InputError(f"simulator: {name} {value} is not between 0 and {2**32 - 2}")
    entropy = (seed, subject, 0 if window is None else window + 1, session) + (1,) * later
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))


def draw_subjects(rngs: list[np.random.Generator]) -> Draws:
    """The numbers of subjects, one from each generator."""
    first, later = _draw(rngs, SUBJECT_NORMALS, SUBJECT_UNIFORMS), _draw(rngs, SUBJECT_LATER_NORMALS, {})
    return Draws(first.normal | later.normal, first.uniform)


def draw_sessions(rngs: list[np.random.Generator]) -> Draws:
    """The numbers of sittings, one from each generator."""
    return _draw(rngs, SESSION_NORMALS, SESSION_UNIFORMS)


def draw_far_rates(rngs: list[np.random.Generator]) -> Draws:
    """Which sittings have a heart rate far from rest, one from each ``later`` generator."""
    return _draw(rngs, {}, FAR_RATE_UNIFORMS)


def draw_windows(rngs: list[np.random.Generator], later: list[np.random.Generator], n_beats: int, n_more: int) -> Draws:
    """The numbers of windows, one from each generator; those of ``n_more`` beats beyond ``n_beats`` come ``later``."""
    normals = {"heart_rate": 1, "rr": n_beats, "pat_jitter": n_beats, "coupling": 4, "ejection": 2}
    uniforms = {
        "start": 1, "breathing_phase": 1, "mayer_phase": 1, "af": 3 * n_beats, "premature": 2, "premature_time": 4,
        "pause": 4, "ejection": 2, "f_wave_phase": 3,
    }  # fmt: skip
    first = _draw(rngs, normals, uniforms)
    slow = _draw(later, SLOW_NORMALS | {"more_coupling": 2}, SLOW_UNIFORMS | {"more_pvc": 2, "more_pvc_time": 2})
    if n_more:
        beats = _draw(later, {"rr": n_more, "pat_jitter": n_more}, {"af": 3 * n_more})
        for numbers, more in ((first.normal, beats.normal), (first.uniform, beats.uniform)):
            numbers.update({name: np.concatenate([numbers[name], more[name]]) for name in more})
    return Draws(first.normal | slow.normal, first.uniform | slow.uniform)


def draw_block(rng: np.random.Generator, n_rows: int, normals=None, uniforms=SUBJECT_UNIFORMS) -> Draws:
    """``n_rows`` independent subjects from one generator (Monte Carlo, where rows need no stream of their own).

    With tables of ``normals`` and ``uniforms``: other quantities than those of subjects.
    """
    normals = ALL_SUBJECT_NORMALS if normals is None else normals
    normal = rng.standard_normal((n_rows, sum(normals.values())))
    uniform = rng.random((n_rows, sum(uniforms.values())))
    return Draws(_named(normal, normals), _named(uniform, uniforms))


def unit_rows(normals: dict[str, int]) -> Draws:
    """A row per number of ``normals``, in which it is 1 and all others, with the uniforms of all tables, are 0."""
    count = sum(normals.values())
    uniforms = SUBJECT_UNIFORMS | SESSION_UNIFORMS
    return Draws(_named(np.eye(count), normals), _named(np.zeros((count, sum(uniforms.values()))), uniforms))


def stacked(draws: Draws) -> np.ndarray:
    """All standard normal numbers of N rows, (count, N), in the order of their table."""
    return np.concatenate([values.reshape(-1, values.shape[-1]) for values in draws.normal.values()])


def unstacked(numbers: np.ndarray, normals: dict[str, int]) -> dict[str, np.ndarray]:
    """``Draws.normal`` of numbers (count, N): the inverse of :func:`stacked`."""
    return _named(numbers.T, normals)


def _draw(rngs: list[np.random.Generator], normals: dict[str, int], uniforms: dict[str, int]) -> Draws:
    n_normal, n_uniform = sum(normals.values()), sum(uniforms.values())
    normal, uniform = zip(*((rng.standard_normal(n_normal), rng.random(n_uniform)) for rng in rngs))
    return Draws(_named(np.array(normal), normals), _named(np.array(uniform), uniforms))


def _named(rows: np.ndarray, layout: dict[str, int]) -> dict[str, np.ndarray]:
    columns = np.ascontiguousarray(rows.T)  # (count, N): each quantity contiguous, see cohort.py on bytes
    parts = np.split(columns, np.cumsum(list(layout.values()), dtype=int))
    return {name: part[0] if len(part) == 1 else part for name, part in zip(layout, parts)}
