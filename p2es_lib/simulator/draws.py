"""Random numbers: one generator per (seed, subject) and per (seed, subject, window), read as named blocks.

So the numbers of a subject do not depend on which other subjects are simulated, in what order, or in which process.
Blocks are drawn in the order of the tables below: a new quantity is appended, never inserted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from p2es_lib.core.errors import InputError

#: RR intervals are never shorter than this (s).
MIN_RR_S = 0.3

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


def window_normals(n_beats: int) -> dict[str, int]:
    """Standard normal numbers per window."""
    return {"heart_rate": 1, "rr": n_beats, "pat_jitter": n_beats, "coupling": 4, "ejection": 2}


def window_uniforms(n_beats: int) -> dict[str, int]:
    """Numbers uniform on [0, 1) per window."""
    return {
        "start": 1, "breathing_phase": 1, "mayer_phase": 1, "af": 3 * n_beats, "premature": 2, "premature_time": 4,
        "pause": 4, "ejection": 2, "f_wave_phase": 3,
    }  # fmt: skip


@dataclass(frozen=True)
class Draws:
    """Named random numbers of N rows: ``normal[name]`` and ``uniform[name]`` are contiguous, (N,) or (count, N)."""

    normal: dict[str, np.ndarray]
    uniform: dict[str, np.ndarray]

    def repeat(self, times: int) -> Draws:
        """Each row ``times`` times in a row."""
        parts = (self.normal, self.uniform)
        return Draws(*({name: np.repeat(values, times, axis=-1) for name, values in part.items()} for part in parts))


def generator(seed: int, subject: int, window: int | None = None) -> np.random.Generator:
    """The generator of a subject, or of one of its windows.

    ``SeedSequence`` pads with zeros, so (seed, subject) and (seed, subject, 0) would be the same stream: windows count
    from 1 there. Numbers above 32 bits would spill into the next one, so they are refused.

    Raises
    ------
    InputError
        A negative number or one above 32 bits.
    """
    for name, value in (("seed", seed), ("subject", subject), ("window", window or 0)):
        if not 0 <= value < 2**32 - 1:
            raise InputError(f"simulator: {name} {value} is not between 0 and {2**32 - 2}")
    entropy = (seed, subject) if window is None else (seed, subject, window + 1)
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))


def draw_subjects(rngs: Iterable[np.random.Generator]) -> Draws:
    """The numbers of subjects, one from each generator."""
    rngs = list(rngs)
    first, later = draw(rngs, SUBJECT_NORMALS, SUBJECT_UNIFORMS), draw(rngs, SUBJECT_LATER_NORMALS, {})
    return Draws(first.normal | later.normal, first.uniform)


def draw(rngs: Iterable[np.random.Generator], normals: dict[str, int], uniforms: dict[str, int]) -> Draws:
    """One row of named numbers from each generator."""
    n_normal, n_uniform = sum(normals.values()), sum(uniforms.values())
    rows = [(rng.standard_normal(n_normal), rng.random(n_uniform)) for rng in rngs]
    normal = np.array([row[0] for row in rows]).reshape(len(rows), n_normal)
    uniform = np.array([row[1] for row in rows]).reshape(len(rows), n_uniform)
    return Draws(_named(normal, normals), _named(uniform, uniforms))


def draw_block(rng: np.random.Generator, n_rows: int) -> Draws:
    """``n_rows`` independent subjects from one generator (Monte Carlo, where rows need no stream of their own)."""
    normals = SUBJECT_NORMALS | SUBJECT_LATER_NORMALS
    normal = rng.standard_normal((n_rows, sum(normals.values())))
    uniform = rng.random((n_rows, sum(SUBJECT_UNIFORMS.values())))
    return Draws(_named(normal, normals), _named(uniform, SUBJECT_UNIFORMS))


def _named(rows: np.ndarray, layout: dict[str, int]) -> dict[str, np.ndarray]:
    columns = np.ascontiguousarray(rows.T)  # (count, N): each quantity contiguous, see cohort.py on bytes
    named, start = {}, 0
    for name, count in layout.items():
        named[name] = columns[start] if count == 1 else columns[start : start + count]
        start += count
    return named
