"""For whom, and how clean a PPG, does it work? Any table of scores split by sex, age band, noise or diagnosis.

Groups differ in how hard they are, too: compare with differences of the irreducible error before calling one unfair.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from p2es_lib.core.errors import InputError
from p2es_lib.data.windows import AGE_BANDS
from p2es_lib.evaluation.metrics.long_table import SEPARATOR
from p2es_lib.evaluation.metrics.resampling import resample
from p2es_lib.evaluation.metrics.summary import averages, summarise, summary_table, unit_means
from p2es_lib.method.affinity.descriptors import pulse_descriptors

#: Limits of the bands that numbers are cut into, and their unit.
BANDS: dict[str, tuple[Sequence[float], str]] = {
    "age": (AGE_BANDS, "years"),
    "snr_db": ((0.0, 10.0, 20.0), "dB"),
    "quality": ((0.8, 0.9), ""),
}
_SEXES = {"F": "women", "M": "men"}


def pulse_snr_db(ppg: np.ndarray) -> np.ndarray:
    """Signal-to-noise ratio of PPG windows (N, 1, T) in dB, (N,), from the signal alone.

    10 log10(r / (1 - r)), -20 to 20 dB, with r the autocorrelation at the period of the pulse: the part of the power
    that repeats from beat to beat. So a clean PPG in atrial fibrillation has a low one.
    """
    repeated = np.clip(pulse_descriptors(np.asarray(ppg))[:, 1], 0.01, 0.99)
    return 10.0 * np.log10(repeated / (1.0 - repeated))


def group_labels(index: pd.DataFrame, by: str, limits: Sequence[float] | None = None) -> pd.Categorical:
    """Group of each window of an index, with the groups in order; missing where it is not known.

    ``by`` is a column of it (else InputError): text such as sex, rhythm or disturbance is taken as it is, numbers such
    as age or snr_db are cut at ``limits``, by default those of :data:`BANDS`, else the quartiles.
    """
    if by not in index:
        raise InputError(f"groups: the windows have no column {by!r}; they have {', '.join(index.columns)}")
    column = index[by]
    if not pd.api.types.is_numeric_dtype(column):
        return _categories(column.fillna("").astype(str).map(lambda value: _SEXES.get(value, value)))
    values = column.to_numpy(dtype=float)
    usual, unit = BANDS.get(by) or (np.unique(np.nanquantile(values, (0.25, 0.5, 0.75))), "")
    limits = usual if limits is None else limits
    texts = [f"{limit:g}" for limit in limits]
    bands = [f"below {texts[0]} {unit}", *(f"{low} to {high} {unit}" for low, high in zip(texts, texts[1:]))]
    bands = [" ".join(band.split()) for band in [*bands, f"{texts[-1]} {unit} and more"]]
    codes = np.where(np.isnan(values), -1, np.searchsorted(limits, values, side="right"))
    return pd.Categorical.from_codes(codes, bands, ordered=True)


def _categories(labels) -> pd.Categorical:
    """Labels as groups; an empty text is none."""
    if isinstance(labels, pd.Categorical):
        return labels
    labels = np.asarray(labels, dtype=object)
    return pd.Categorical(labels, sorted(set(labels) - {""}), ordered=True)


def with_group(scores: pd.DataFrame, labels) -> pd.DataFrame:
    """Scores of N windows with a column ``group`` from N labels (InputError: fewer); those without one are left out."""
    window = scores["window"].to_numpy()
    if window.size and window.max() >= len(labels):
        raise InputError(f"groups: {len(labels)} labels, but the scores are of {window.max() + 1} windows")
    table = scores.copy()
    table.insert(table.columns.get_loc("window") + 1, "group", _categories(labels).take(window))
    return table[table["group"].notna()].reset_index(drop=True)


def summarise_groups(scores: pd.DataFrame, labels, n_bootstrap=1000, seed=0, *, unit="subject") -> pd.DataFrame:
    """``summary.summarise`` of each group of :func:`group_labels`, after a column ``group``; InputError: no group."""
    parts = with_group(scores, labels).groupby("group", observed=True)
    tables = {str(group): summarise(part.drop(columns="group"), n_bootstrap, seed, unit=unit) for group, part in parts}
    if not tables:
        raise InputError("groups: no window has a group")
    return pd.concat(tables, names=["group"]).reset_index("group").reset_index(drop=True)


def group_differences(scores, labels, reference=None, n_bootstrap=1000, seed=0, *, unit="subject") -> pd.DataFrame:
    """Value of each group minus that of a reference group, for every lead, estimate and metric.

    A resample draws all subjects at once: groups of different people vary apart, and where a person has windows in both
    groups (noise, say) the difference is paired. ``labels`` are N groups from :func:`group_labels`, two or more (else
    InputError), ``reference`` by default the one with the most subjects, the rest as in ``summary.summarise``. Columns
    group, reference, lead, estimate, metric, value (difference), lower, upper (95 %), n_subjects (of the group),
    p_value (two-sided, not corrected for the number of comparisons).
    """
    table = with_group(scores, labels)
    sizes = table.groupby("group", observed=True)["subject"].nunique()
    reference = reference if reference is not None else (sizes.idxmax() if len(sizes) else None)
    if len(sizes) < 2 or reference not in sizes:
        raise InputError(f"group differences: reference {reference!r}, groups: {', '.join(sizes.index) or 'none'}")
    # The group goes along as a part of the estimate, so that one resample serves all groups.
    means = unit_means(table.assign(estimate=table["group"].astype(str) + SEPARATOR + table["estimate"]), unit)
    draws = averages(means, resample(len(means.units), n_bootstrap, seed))
    keys = [(lead, *estimate.split(SEPARATOR), metric) for lead, estimate, metric in means.columns]
    position = {key: column for column, key in enumerate(keys)}
    partners = [position.get((lead, reference, *rest)) for lead, _, *rest in keys]
    pairs = [(own, other) for own, other in enumerate(partners) if other not in (None, own)]
    own, other = np.array(pairs, dtype=int).reshape(-1, 2).T
    result = summary_table(means.take(own, True), draws[:, own] - draws[:, other], p_values=True)
    result["estimate"] = [keys[column][2] for column in own]
    result.insert(0, "group", pd.Categorical([keys[column][1] for column in own], sizes.index, ordered=True))
    result.insert(1, "reference", reference)
    return result.sort_values("group", kind="stable", ignore_index=True).astype({"group": str})
