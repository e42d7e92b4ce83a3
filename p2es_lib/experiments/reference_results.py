"""What a reference is worth: errors by leads and session, windows drawn in several regimes, and their coherence."""

import numpy as np
import pandas as pd

from p2es_lib.core.config import Config
from p2es_lib.core.learned import LearnedTranslator
from p2es_lib.data.windows import WindowSet
from p2es_lib.evaluation.coherence import coherence_scores
from p2es_lib.evaluation.metrics import summarise
from p2es_lib.evaluation.metrics.long_table import point_estimate
from p2es_lib.experiments.regimes import references_of
from p2es_lib.experiments.results import OF_DISTRIBUTION, bootstrap_unit, difference_table, load_scores
from p2es_lib.experiments.variants import (
    FINE_TUNED,
    FINE_TUNED_LABEL,
    GIVEN_REFERENCES,
    LEADS_GIVEN,
    REFERENCED,
    REFERENCES,
    VARIANTS,
    variants_of,
)
from p2es_lib.reference.regimes import REGIMES

#: Methods of :func:`regime_table`, beside those of ``GIVEN_REFERENCES``: one that learns from a reference, one that
#: pastes what it shows, the best possible.
P2ES, PASTED, FLOOR = "P2Es", "Beat pasted at the pulses", REFERENCES["irreducible"]
#: What is shown, and of which estimate: of P2Es (its estimate of the mean, in one call, has no scatter of samples in
#: it), and of a method with one answer, whose CRPS is its absolute error.
_OF_SAMPLES = {"rmse": ("rmse", "direct")} | {name: (name, "samples") for name in OF_DISTRIBUTION}
_OF_ONE = {"rmse": ("rmse", "mean"), "crps": ("mae", "mean")}
#: Estimates whose coherence is measured, and what is measured of each; the truth has the first, the pulses the second.
ESTIMATES, COHERENCE = ("single", "mean"), ("qrs_cv", "r_jitter_ms", "r", "r_own_beat")
TRUTH, PULSES = "true ECG", "pulses"


def scored_regimes(profile: str, variant: str = "p2es") -> list[tuple[str, str, str]]:
    """Uses of a variant's weights with a reference that a profile scores: variant, regime, session."""
    scored = [*variants_of(profile, "references"), *variants_of(profile, "references_of_others")]
    prefix = "" if variant == "p2es" else f"{variant}_"
    names = [(f"{prefix}reference_{key}", regime, session) for key, regime, session in REFERENCED]
    return [row for row in names if row[0] in scored]


def others_scored(profile: str) -> list[str]:
    """Variants beside P2Es that a profile scores with references, other methods first."""
    scored = [name for name in (*GIVEN_REFERENCES, FINE_TUNED) if scored_regimes(profile, name)]
    return sorted(scored, key=lambda name: name != FINE_TUNED and VARIANTS[name].about != "baseline")


def regime_table(config: Config, seeds: list[int]) -> pd.DataFrame:
    """Errors of each method by what the reference shows and when it was recorded, over all leads.

    Parameters
    ----------
    config : Config
        Of the full model; its runs, and those of all uses with a reference, are finished.
    seeds : list of int

    Returns
    -------
    DataFrame
        A row per method, regime, session ("" without a reference) and metric: n_leads, estimate, value, lower, upper
        (95 %, over subjects), n_subjects, seeds. The CRPS of a method with one answer is its mean absolute error. The
        best possible is known without a reference and with 12 leads.
    """
    parts = [_rows(config, seeds, name) for name in ("p2es", *others_scored(config.profile), "pasted", "irreducible")]
    return pd.concat([part for rows in parts for part in rows], ignore_index=True)


def _label(method: str) -> str:
    labels = {"pasted": PASTED, "irreducible": FLOOR, FINE_TUNED: FINE_TUNED_LABEL}
    return labels.get(method) or VARIANTS[method].label


def _runs_of(profile: str, method: str) -> dict[tuple[str, str], str]:
    """Runs of a variant, of "pasted" or of "irreducible", by regime and session."""
    uses = scored_regimes(profile, method)
    if method in ("pasted", "irreducible"):
        uses = [(f"{method}_{key}", *of) for key, *of in REFERENCED if f"{method}_{key}" in REFERENCES]
    without = {} if method == FINE_TUNED else {("none", ""): method}
    return without | {(regime, session): name for name, regime, session in uses}


def _rows(config: Config, seeds: list[int], method: str):
    """Parts of :func:`regime_table` of one method."""
    for (regime, session), name in _runs_of(config.profile, method).items():
        scores = load_scores(config.dataset, config.profile, name, seeds)
        scores = scores[scores["lead"] == "all"]
        estimates = set(scores["estimate"])
        shown = _OF_ONE if estimates == {"mean"} else _OF_SAMPLES
        shown = shown if "direct" in estimates else shown | {"rmse": ("rmse", "mean")}
        table = summarise(scores, config.evaluation.n_bootstrap, unit=bootstrap_unit(scores))
        table = table.set_index(["metric", "estimate"]).loc[
            list(shown.values()), ["value", "lower", "upper", "n_subjects"]
        ]
        table = table.reset_index().assign(metric=list(shown), seeds=scores["seed"].nunique())
        about = {"method": _label(method), "regime": regime, "n_leads": len(REGIMES[regime]), "session": session}
        yield pd.DataFrame(about, index=table.index).join(table)


def others_minus_p2es(config: Config, seeds: list[int], others: list[str]) -> pd.DataFrame:
    """Others minus P2Es with the same reference, paired: rows as of ``difference_table``, by regime and session.

    ``others`` are variants of :func:`others_scored`, or "pasted" (positive: P2Es has learned more from the reference
    than to paste what it shows). p_holm is corrected over them.
    """
    parts, runs = [], {other: _runs_of(config.profile, other) for other in others}
    for (regime, session), name in _runs_of(config.profile, "p2es").items():
        there = {of[regime, session]: other for other, of in runs.items() if (regime, session) in of}
        if there:
            table = difference_table(config, list(there), seeds, reference=name)
            methods = table["variant"].map(lambda run, there=there: _label(there[run]))
            parts.append(table.assign(method=methods, regime=regime, session=session))
    return pd.concat(parts, ignore_index=True)


def draw_regimes(
    model: LearnedTranslator, config: Config, windows: WindowSet, *, session: str = "other", seed: int = 0
) -> dict[str, np.ndarray]:
    """Samples (N, K, 12, T), mV, of some test windows with each regime's reference of one session, by regime."""
    options = {"n_samples": config.sampling.n_samples, "generator": seed}
    return {
        regime: model.translate(
            np.array(windows.ppg),
            windows.demographics,
            reference=references_of(config, windows, regime, session),
            **options,
        ).numpy()
        for regime in LEADS_GIVEN
    }


def coherence_table(drawn: dict[str, np.ndarray], windows: WindowSet, config: Config) -> pd.DataFrame:
    """Is each translation one person? Means of ``coherence_scores`` with 95 % intervals over subjects.

    ``drawn`` are samples by regime (:func:`draw_regimes`). Columns regime, estimate ("single", "mean"; :data:`TRUTH`
    and :data:`PULSES` stand for what they are held against), metric (of :data:`COHERENCE`), value, lower, upper,
    n_subjects.
    """
    rate, frames = config.signal.sampling_rate, []
    for regime, samples in drawn.items():
        for estimate in ESTIMATES:
            ecg = point_estimate(samples, estimate)
            scores = coherence_scores(ecg, windows.ecg, windows.ppg, windows.lead_mask, rate)
            frames.append(_long(scores, {name: name for name in COHERENCE}, windows, (regime, estimate)))
    frames.append(_long(scores, {"true_qrs_cv": "qrs_cv"}, windows, ("", TRUTH)))
    frames.append(_long(scores, {"pulse_jitter_ms": "r_jitter_ms"}, windows, ("", PULSES)))
    long, parts = pd.concat(frames, ignore_index=True), []
    for regime, rows in long.groupby("regime", sort=False):
        table = summarise(rows, config.evaluation.n_bootstrap, unit=bootstrap_unit(rows))
        parts.append(table.drop(columns="lead").assign(regime=regime))
    table = pd.concat(parts, ignore_index=True)
    return table[["regime", *table.columns.drop("regime")]]


def _long(scores: pd.DataFrame, columns: dict[str, str], windows: WindowSet, of: tuple[str, str]) -> pd.DataFrame:
    """Columns of a row per window as a long table under their new names."""
    index = windows.index[["subject", "record"]].reset_index(drop=True).assign(window=np.arange(len(scores)))
    parts = [index.assign(metric=new, value=scores[old].to_numpy(float)) for old, new in columns.items()]
    return pd.concat(parts, ignore_index=True).assign(regime=of[0], estimate=of[1], lead="all")


def typical_window(scores: pd.DataFrame, rows: np.ndarray) -> int:
    """Place in ``rows`` (of test windows) of the one whose mean of samples has the median squared error.

    ``scores`` are those of P2Es without a reference, of one training.
    """
    mean = scores.query("lead == 'all' and metric == 'mse' and estimate == 'mean'").set_index("window")["value"]
    errors = mean.loc[rows].to_numpy()
    return int(np.abs(errors - np.median(errors)).argmin())
