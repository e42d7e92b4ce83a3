"""Who is trained on and who is tested: splits by subject, and the cohort they make."""

from __future__ import annotations

import hashlib

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
}
_WORDS = {"af": "atrial fibrillation", "lbbb": "LBBB", "rbbb": "RBBB", "lvh": "LVH", "lafb": "LAFB",
          "mi": "infarction", "st": "ST"}  # fmt: skip


def split_subjects(subjects, ages, sexes, fractions=None, seed: int = 0) -> dict[str, str]:
    """Assign each subject to a split, stratified by age band and sex.

    Parameters
    ----------
    subjects : sequence of str
        One entry per subject, no repeats.
    ages, sexes : sequences
        Years (NaN: unknown) and ``"F"``, ``"M"`` or ``""``.
    fractions : dict, optional
        Split name to share; default :data:`SPLIT_FRACTIONS`.
    seed : int
        Another seed gives another split.

    Returns
    -------
    dict
        Subject to split name. Independent of the order of ``subjects``. With at least as many subjects as splits,
        no split is empty, and the numbers per split are the shares rounded.
    """
    fractions = SPLIT_FRACTIONS if fractions is None else fractions
    subjects = [str(subject) for subject in subjects]
    if len(set(subjects)) != len(subjects):
        raise InputError("split_subjects: a subject is listed twice; list each subject once")
    names, shares = list(fractions), np.array(list(fractions.values()), dtype=float)
    shares = shares / shares.sum()
    capacity = _rounded_shares(len(subjects), shares)
    strata: dict[tuple, list[str]] = {}
    for subject, age, sex in zip(subjects, ages, sexes, strict=True):
        band = -1 if np.isnan(age) else int(np.searchsorted(AGE_BANDS, age, side="right"))
        strata.setdefault((band, sex), []).append(subject)
    # Subjects are ordered by stratum and, within it, by a hash of (seed, subject); then each goes to the split that is
    # furthest behind its share, so that every stratum is dealt out in the same proportions.
    ordered = []
    for key in sorted(strata):
        ordered += sorted(strata[key], key=lambda subject: hashlib.sha256(f"{seed}:{subject}".encode()).hexdigest())
    counts, assigned = np.zeros(len(names)), {}
    for number, subject in enumerate(ordered, start=1):
        behind = np.where(counts < capacity, capacity / len(subjects) * number - counts, -np.inf)
        chosen = int(np.argmax(behind))
        counts[chosen] += 1
        assigned[subject] = names[chosen]
    return assigned


def _rounded_shares(total: int, shares: np.ndarray) -> np.ndarray:
    """Whole numbers that add up to ``total``, nearest to ``shares * total``, each at least 1 if there are enough."""
    exact = shares * total
    counts = np.floor(exact).astype(int)
    for row in np.argsort(-(exact - counts), kind="stable")[: total - counts.sum()]:
        counts[row] += 1
    if total >= len(shares):
        while (counts == 0).any():
            counts[np.argmax(counts)] -= 1
            counts[np.argmin(counts)] += 1
    return counts


def label_words(label: str) -> str:
    """A rhythm or morphology label as it is printed: ``inferior_mi`` as ``inferior infarction``."""
    return " ".join(_WORDS.get(word, word) for word in str(label).split("_"))


def cohort_table(index: pd.DataFrame) -> pd.DataFrame:
    """Cohort by split, one row per characteristic.

    Parameters
    ----------
    index : DataFrame
        Of a :class:`p2es_lib.data.windows.WindowSet`.

    Returns
    -------
    DataFrame
        Columns ``characteristic``, one per split, and ``all``. Text: counts, "median (quartiles)", or "count (share)".
        Age and sex are of subjects, the rest is of windows. Characteristics of which nothing is known are left out.
    """
    groups = {split: index[index["split"] == split] for split in SPLITS} | {"all": index}

    def spread(values: pd.Series, digits: int) -> str:
        low, middle, high = (f"{x:.{digits}f}" for x in values.quantile([0.25, 0.5, 0.75]))
        return f"{middle} ({low} to {high})" if len(values) else "none"

    def share(chosen: pd.Series) -> str:
        return f"{chosen.sum()} ({100 * chosen.mean():.1f} %)" if len(chosen) else "none"

    def row(name: str, function) -> dict:
        return {"characteristic": name} | {split: function(windows) for split, windows in groups.items()}

    def person(windows: pd.DataFrame) -> pd.DataFrame:
        return windows.drop_duplicates("subject")

    rows = [row("subjects", lambda w: str(w["subject"].nunique())), row("windows", lambda w: str(len(w)))]
    if index["age"].notna().any():
        rows.append(row("age (years)", lambda w: spread(person(w)["age"].dropna(), 0)))
    for sex, name in (("F", "female"), ("M", "male")):
        if (index["sex"] == sex).any():
            rows.append(row(name, lambda w, sex=sex: share(person(w)["sex"] == sex)))
    if (index["sex"] == "").any() or index["age"].isna().any():
        rows.append(row("age or sex not known", lambda w: share(person(w)["age"].isna() | (person(w)["sex"] == ""))))
    for column, name in (("heart_rate", "heart rate (per minute)"), ("pat_ms", "R peak to pulse onset (ms)")):
        if column in index and index[column].notna().any():
            rows.append(row(name, lambda w, column=column: spread(w[column].dropna(), 0)))
    if index["quality"].nunique() > 1:
        rows.append(row("quality (0 to 1)", lambda w: spread(w["quality"], 2)))
    for column in ("rhythm", "morphology"):
        for label in index[column].value_counts().index:
            if label:
                name = f"{column}: {label_words(label)}"
                rows.append(row(name, lambda w, column=column, label=label: share(w[column] == label)))
    return pd.DataFrame(rows)
