"""Who is trained on and who is tested: splits by subject, and the cohort they make."""

import hashlib
from functools import partial

import numpy as np
import pandas as pd

from p2es_lib.core.errors import InputError
from p2es_lib.data.windows.store import SPLITS

#: Shares of subjects (or, for a single subject, of time) of real recordings.
SPLIT_FRACTIONS = {"train": 0.7, "validation": 0.1, "test": 0.2}
#: Limits (years) of the age bands by which splits are stratified.
AGE_BANDS = (40.0, 60.0, 75.0)
#: How a split was made (column ``split_kind``), in words.
SPLIT_KINDS = {
    "subject": "split by subject",
    "folds": "split by subject in the folds that the data set recommends",
    "source": "tested on a source that was not trained on",
    "time": "SPLIT BY TIME within the same subjects",
    "none": "TOO FEW TO TRAIN ON, all for testing",
}
_WORDS = {"af": "atrial fibrillation", "lbbb": "LBBB", "rbbb": "RBBB", "lvh": "LVH", "lafb": "LAFB",
          "mi": "infarction", "st": "ST"}  # fmt: skip


def split_subjects(subjects, ages, sexes, fractions: dict = SPLIT_FRACTIONS, seed: int = 0) -> dict[str, str]:
    """Assign each subject to a split, stratified by age band and sex, in whatever order they are named.

    One entry each (InputError: a repeat): name, years (NaN: unknown), and ``"F"``, ``"M"`` or ``""``. With at least as
    many subjects as splits, none is empty, and the numbers per split are the shares rounded. Another ``seed`` changes
    who is tested; all results of a data set share the default, whatever the training seed.
    """
    if len(set(subjects)) != len(subjects):
        raise InputError("split_subjects: a subject is listed twice; list each subject once")

    def place(person: tuple[str, float, str]) -> tuple[int, str, str]:
        """Stratum and, within it, a hash of (seed, subject)."""
        subject, age, sex = person
        band = -1 if np.isnan(age) else int(np.searchsorted(AGE_BANDS, age, side="right"))
        return band, sex, hashlib.sha256(f"{seed}:{subject}".encode()).hexdigest()

    names, shares = list(fractions), np.array(list(fractions.values()), dtype=float)
    capacity = _rounded_shares(len(subjects), shares / shares.sum())
    # In the order of their places, each goes to the split that is furthest behind its share, so that every stratum is
    # dealt out in the same proportions.
    counts, assigned = np.zeros(len(names)), {}
    for number, (subject, _, _) in enumerate(sorted(zip(subjects, ages, sexes, strict=True), key=place), start=1):
        behind = np.where(counts < capacity, capacity / len(subjects) * number - counts, -np.inf)
        chosen = int(np.argmax(behind))
        counts[chosen] += 1
        assigned[subject] = names[chosen]
    return assigned


def _rounded_shares(total: int, shares: np.ndarray) -> np.ndarray:
    """Whole numbers that add up to ``total``, nearest to ``shares * total``, each at least 1 if there are enough."""
    exact = shares * total
    counts = np.floor(exact).astype(int)
    counts[np.argsort(-(exact - counts), kind="stable")[: total - counts.sum()]] += 1
    while total >= len(shares) and (counts == 0).any():
        counts[np.argmax(counts)] -= 1
        counts[np.argmin(counts)] += 1
    return counts


def label_words(label: str) -> str:
    """A rhythm or morphology label as it is printed: ``inferior_mi`` as ``inferior infarction``."""
    return " ".join(_WORDS.get(word, word) for word in str(label).split("_"))


def _spread(column: str, windows: pd.DataFrame, digits: int = 0) -> str:
    values = windows[column].dropna()
    low, middle, high = (f"{x:.{digits}f}" for x in values.quantile([0.25, 0.5, 0.75]))
    return f"{middle} ({low} to {high})" if len(values) else "none"


def _share(column: str, value, windows: pd.DataFrame) -> str:
    chosen = windows[column] == value
    return f"{chosen.sum()} ({100 * chosen.mean():.1f} %)" if len(chosen) else "none"


def cohort_table(index: pd.DataFrame) -> pd.DataFrame:
    """Cohort by split, one row per characteristic, from the index of a :class:`p2es_lib.data.windows.WindowSet`.

    Columns ``characteristic``, one per split, and ``all``. Text: counts, "median (quartiles)", or "count (share)". Age
    and sex are of subjects, the rest is of windows. Characteristics of which nothing is known are left out.
    """
    index = index.assign(unknown=index["age"].isna() | (index["sex"] == ""))
    groups = {split: index[index["split"] == split] for split in SPLITS} | {"all": index}
    people = {name: windows.drop_duplicates("subject") for name, windows in groups.items()}
    rows = []

    def add(name: str, text, groups: dict[str, pd.DataFrame] = groups) -> None:
        rows.append({"characteristic": name} | {split: text(windows) for split, windows in groups.items()})

    add("subjects", lambda windows: str(len(windows)), people)
    add("windows", lambda windows: str(len(windows)))
    if index["age"].notna().any():
        add("age (years)", partial(_spread, "age"), people)
    kinds = ("sex", "F", "female"), ("sex", "M", "male"), ("unknown", True, "age or sex not known")
    for column, value, name in kinds:
        if (index[column] == value).any():
            add(name, partial(_share, column, value), people)
    for column, name in (("heart_rate", "heart rate (per minute)"), ("pat_ms", "R peak to pulse onset (ms)")):
        if column in index and index[column].notna().any():
            add(name, partial(_spread, column))
    if index["quality"].nunique() > 1:
        add("quality (0 to 1)", partial(_spread, "quality", digits=2))
    for column in ("rhythm", "morphology"):
        for label in filter(None, index[column].value_counts().index):
            add(f"{column}: {label_words(label)}", partial(_share, column, label))
    return pd.DataFrame(rows)
