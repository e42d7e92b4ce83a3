"""Random numbers: one generator per (seed, subject) and per (seed, subject, window), read as named blocks.

So the numbers of a subject do not depend on which other subjects are simulated, in what order, or in which process.
Blocks are drawn in the order of the tables below: a new quantity is appended, never inserted.
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


def generator(seed: int, subject: int, window: int | None = None) -> np.random.Generator:
    """The generator of a subject, or of one of its windows; InputError for a negative number or one above 32 bits.

    ``SeedSequence`` pads with zeros: (seed, subject) and (seed, subject, 0) would be the same, so windows count from 1.
    """
    for name, value in (("seed", seed), ("subject", subject), ("window", window or 0)):
        if not 0 <= value < 2**32 - 1:
            raise InputError(f"simulator: {name} {value} is not between 0 and {2**32 - 2}")
    entropy = (seed, subject) if window is None else (seed, subject, window + 1)
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))


def draw_subjects(rngs: list[np.random.Generator]) -> Draws:
    """The numbers of subjects, one from each generator."""
    first, later = _draw(rngs, SUBJECT_NORMALS, SUBJECT_UNIFORMS), _draw(rngs, SUBJECT_LATER_NORMALS, {})
    return Draws(first.normal | later.normal, first.uniform)


def draw_windows(rngs: list[np.random.Generator], n_beats: int) -> Draws:
    """The numbers of windows, one from each generator."""
    normals = {"heart_rate": 1, "rr": n_beats, "pat_jitter": n_beats, "coupling": 4, "ejection": 2}
    uniforms = {
        "start": 1, "breathing_phase": 1, "mayer_phase": 1, "af": 3 * n_beats, "premature": 2, "premature_time": 4,
        "pause": 4, "ejection": 2, "f_wave_phase": 3,
    }  # fmt: skip
    return _draw(rngs, normals, uniforms)


def draw_block(rng: np.random.Generator, n_rows: int) -> Draws:
    """``n_rows`` independent subjects from one generator (Monte Carlo, where rows need no stream of their own)."""
    normals = SUBJECT_NORMALS | SUBJECT_LATER_NORMALS
    normal = rng.standard_normal((n_rows, sum(normals.values())))
    uniform = rng.random((n_rows, sum(SUBJECT_UNIFORMS.values())))
    return Draws(_named(normal, normals), _named(uniform, SUBJECT_UNIFORMS))


def _draw(rngs: list[np.random.Generator], normals: dict[str, int], uniforms: dict[str, int]) -> Draws:
    n_normal, n_uniform = sum(normals.values()), sum(uniforms.values())
    normal, uniform = zip(*((rng.standard_normal(n_normal), rng.random(n_uniform)) for rng in rngs))
    return Draws(_named(np.array(normal), normals), _named(np.array(uniform), uniforms))


def _named(rows: np.ndarray, layout: dict[str, int]) -> dict[str, np.ndarray]:
    columns = np.ascontiguousarray(rows.T)  # (count, N): each quantity contiguous, see cohort.py on bytes
    parts = np.split(columns, np.cumsum(list(layout.values()), dtype=int))
    return {name: part[0] if len(part) == 1 else part for name, part in zip(layout, parts)}
