"""Age and sex as a small typed table in which each entry may be missing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from p2es_lib.core.errors import InputError

#: Oldest age accepted. PTB-XL writes 300 for "over 89": its reader must translate that, not this module.
MAX_AGE_YEARS = 120.0
#: Columns of :meth:`Demographics.features`.
FEATURES = ("age_scaled", "age_known", "is_female", "is_male")

_SEX_CODES = {
    "f": "F", "female": "F", "w": "F", "woman": "F",
    "m": "M", "male": "M", "man": "M",
    "": "", "u": "", "unknown": "", "nan": "", "none": "", "n/a": "", "<na>": "",
}  # fmt: skip


def parse_sex(value, where: str = "sex") -> str:
    """``"F"``, ``"M"`` or ``""`` (missing); 0 and 1, which mean opposite things in different data sets, are refused."""
    text = "" if value is None else str(value).strip().lower()
    if text not in _SEX_CODES:
        raise InputError(f"{where}: unknown sex code {value!r}; use F, M, or leave it out if it is not known")
    return _SEX_CODES[text]


def parse_age(value, where: str = "age") -> float:
    """Age in years, NaN if missing; negative or absurd ages are refused."""
    try:
        age = float("nan") if str(value).strip() in ("", "None", "<NA>") else float(value)
    except (TypeError, ValueError):
        raise InputError(f"{where}: age {value!r} is not a number of years; leave it out if it is not known") from None
    if not np.isnan(age) and not 0.0 <= age <= MAX_AGE_YEARS:
        raise InputError(f"{where}: age {age:g} is outside 0 to {MAX_AGE_YEARS:g} years; leave it out if not known")
    return age


@dataclass(frozen=True, eq=False)
class Demographics:
    """Demographics of B windows; an :class:`InputError` for an absurd age, an unknown sex, arrays of different length.

    Parameters
    ----------
    age, sex : array (B,) of float, array (B,) of str
        Years, NaN if missing; ``"F"``, ``"M"`` or ``""`` if missing.

    Examples
    --------
    >>> Demographics.of([63, None], ["F", "M"]).features()
    array([[ 0.26,  1.  ,  1.  ,  0.  ],
           [ 0.  ,  0.  ,  0.  ,  1.  ]], dtype=float32)
    """

    age: np.ndarray
    sex: np.ndarray

    def __post_init__(self) -> None:
        object.__setattr__(self, "age", np.array([parse_age(a) for a in np.atleast_1d(self.age)], dtype=np.float32))
        object.__setattr__(self, "sex", np.array([parse_sex(s) for s in np.atleast_1d(self.sex)], dtype="<U1"))
        if self.age.shape != self.sex.shape:
            raise InputError(f"demographics: {len(self.age)} ages but {len(self.sex)} sexes; one of each per window")

    @classmethod
    def of(cls, age: Iterable | float | None, sex: Iterable | str | None, count: int | None = None) -> Demographics:
        """Build from single values or lists; ``count`` repeats single values; an InputError if lists differ from it."""
        ages, sexes = (list(values) if np.ndim(values) else [values] for values in (age, sex))
        if count is not None:
            ages, sexes = (values * count if len(values) == 1 else values for values in (ages, sexes))
            if len(ages) != count or len(sexes) != count:
                raise InputError(f"demographics: {len(ages)} ages and {len(sexes)} sexes for {count} windows")
        return cls(np.array(ages, dtype=object), np.array(sexes, dtype=object))

    @classmethod
    def missing(cls, count: int) -> Demographics:
        """Nothing known of ``count`` windows."""
        return cls.of(None, None, count)

    def __len__(self) -> int:
        return len(self.age)

    def __getitem__(self, rows) -> Demographics:
        some = object.__new__(Demographics)  # without a second check
        some.__dict__.update(age=np.atleast_1d(self.age[rows]), sex=np.atleast_1d(self.sex[rows]))
        return some

    def repeat(self, times: int) -> Demographics:
        """Each row ``times`` times in a row (for several samples of one window)."""
        return self[np.repeat(np.arange(len(self)), times)]

    def features(self) -> np.ndarray:
        """Network input, float32 (B, 4): age scaled to about ±1, whether it is known, female, male; 0 if missing."""
        known = ~np.isnan(self.age)
        age_scaled = np.where(known, (np.nan_to_num(self.age) - 50.0) / 50.0, 0.0)
        return np.stack([age_scaled, known, self.sex == "F", self.sex == "M"], axis=1).astype(np.float32)
