"""What a reference is worth on real recordings, by the time since it was recorded.

The weights are those of the simulated cohort: they have seen none of these people, so the windows of all splits count.
The four methods, with and without a reference, are scored on the same windows: those that have the reference.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from p2es_lib.baselines.pasted import PastedBeats
from p2es_lib.core.config import Config, get_config, real_profile
from p2es_lib.core.reference import Reference
from p2es_lib.data.windows import WindowSet
from p2es_lib.evaluation.metrics import evaluate, summarise
from p2es_lib.experiments.regimes import SESSIONS, references_of
from p2es_lib.experiments.results import bootstrap_unit
from p2es_lib.experiments.runs import data_kind, load_windows, simulated_windows
from p2es_lib.experiments.sim_to_real import record_labels, simulated_model
from p2es_lib.reference.regimes import REGIMES

P2ES, P2ES_OWN = "P2Es, no reference", "P2Es with the reference"
FIXED, OWN = "Average beat pasted", "Own beat pasted"
#: Parts of the time since a reference of the same session, and where each ends, s.
SINCE_S = {"0-1 min": 60, "1-5 min": 300, "5-15 min": 900, "15-60 min": 3600, "1-4 h": 14400, "4-24 h": 86400,
           "over 24 h": np.inf}  # fmt: skip
#: All of them together, and the whole of another session.
ANY_TIME = "any"
#: Windows of a record that are scored in each part of the time, at most, evenly over it.
MAX_WINDOWS = 20
_CHUNK = 128  # windows, about, that are translated at a time; never a part of a record, which has one lag
#: What is shown, and of which estimate: pointwise errors of the mean of samples, beats of a single one.
METRICS = {**dict.fromkeys(("pearson", "pearson_lag", "rmse", "rmse_lag"), "mean"),
           **dict.fromkeys(("r_peak_f1", "r_peak_f1_lag", "heart_rate_error"), "single"),
           "coverage_80": "samples"}  # fmt: skip
COLUMNS = ["session", "regime", "n_leads", "since", "method", "metric", "value", "lower", "upper", "n_windows",
           "n_records", "n_subjects", "data"]  # fmt: skip
#: What is counted of a part of the scores.
_COUNTED = {"n_windows": ["subject", "record", "start_s"], "n_records": ["subject", "record"]}


def recorded_regimes(config: Config, windows: WindowSet, session: str) -> dict[str, Reference]:
    """References of real windows by regime, from the most leads to the fewest: those that some window has.

    A regime that shows no other leads than one before is left out: of a recording of limb leads, "all" is "limb".
    """
    found: dict[str, Reference] = {}
    for regime in sorted(REGIMES, key=lambda name: -len(REGIMES[name]))[:-1]:  # not "none"
        reference = references_of(config, windows, regime, session)
        new = all(not torch.equal(reference.given, other.given) for other in found.values())
        if new and reference.given.any():
            found[regime] = reference
    return found


def time_since(elapsed_s: np.ndarray) -> np.ndarray:
    """Name of the part of the time since the reference (N,), of :data:`SINCE_S`; "" where it is not known."""
    part = np.searchsorted(list(SINCE_S.values()), elapsed_s, side="right").clip(max=len(SINCE_S) - 1)
    return np.where(np.isnan(elapsed_s), "", np.array(list(SINCE_S), dtype=object)[part])


def scored_rows(index: pd.DataFrame, reference: Reference) -> np.ndarray:
    """Rows of the windows that have a reference, at most :data:`MAX_WINDOWS` a record and part of the time."""
    has = reference.given.any(dim=1).numpy()
    parts = pd.DataFrame({"record": record_labels(index), "since": time_since(reference.elapsed_s.numpy())})
    rows = [np.array([], dtype=int)]
    for of_part in parts[has].groupby(["record", "since"]).groups.values():
        spread = np.linspace(0, len(of_part) - 1, min(MAX_WINDOWS, len(of_part))).astype(int)
        rows.append(of_part.to_numpy()[spread])
    return np.sort(np.concatenate(rows))


def reference_scores(config: Config, *, seed: int = 0, progress: bool = True) -> pd.DataFrame:
    """Scores of real windows with and without a reference, as of ``evaluate``; empty where no window has one.

    Further columns: session, regime, n_leads (of the reference), start_s and since (of :data:`SINCE_S`) of the window,
    method. Within a session and regime all methods are scored on the same windows.
    """
    windows, methods, frames = load_windows(config), None, []
    for session in SESSIONS:
        references = recorded_regimes(config, windows, session)
        if not references:
            continue
        rows = scored_rows(windows.index, next(iter(references.values())))
        methods = methods or _methods(config, seed)
        for part in tqdm(_chunks(windows.index, rows), desc=f"translating, {session} session", disable=not progress):
            of_part = {regime: reference[torch.as_tensor(part)] for regime, reference in references.items()}
            tables = _scores(windows.select(part), of_part, methods, config)
            frames += [table.assign(session=session) for table in tables]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _chunks(index: pd.DataFrame, rows: np.ndarray) -> list[np.ndarray]:
    """These rows in parts of some :data:`_CHUNK`, each of whole records, which have one lag."""
    order = rows[np.argsort(record_labels(index).to_numpy()[rows], kind="stable")]
    labels = record_labels(index).to_numpy()[order]
    begins = np.flatnonzero(np.append(True, labels[1:] != labels[:-1]))
    cuts = begins[np.flatnonzero(np.diff(begins // _CHUNK)) + 1]
    return np.split(order, cuts)


def _methods(config: Config, seed: int) -> dict[str, tuple]:
    """Each method of the table: what translates, with which options, and whether it is given the reference."""
    model, simulated = simulated_model(config.profile), get_config(real_profile(config.profile))
    pasted = PastedBeats(simulated).fit(simulated_windows(simulated).split("train"))
    drawn = {"n_samples": config.sampling.n_samples, "generator": seed}
    return {P2ES: (model, drawn, False), P2ES_OWN: (model, drawn, True), FIXED: (pasted, {}, False),
            OWN: (pasted, {}, True)}  # fmt: skip


def _scores(
    windows: WindowSet, references: dict[str, Reference], methods: dict[str, tuple], config: Config
) -> Iterator[pd.DataFrame]:
    """Scores of whole records by regime and method."""
    ppg, people = np.array(windows.ppg), windows.demographics
    options = {"max_lag_s": config.evaluation.max_lag_s, "estimates": ("mean", "single", "samples")}
    without = {name: method.translate(ppg, people, **how) for name, (method, how, own) in methods.items() if not own}
    for regime, reference in references.items():
        has = reference.given.any(dim=1).numpy()
        if not has.any():
            continue
        some, since = windows.select(has), time_since(reference.elapsed_s.numpy()[has])
        n_leads = reference.given[torch.as_tensor(has)].sum(dim=1).int().numpy()
        for name, (method, how, own) in methods.items():
            samples = method.translate(ppg, people, reference=reference, **how) if own else without[name]
            table = evaluate(samples.numpy()[has], some, config.signal.sampling_rate, **options)
            table = table[table["lead"] == "all"]
            at = table["window"].to_numpy()
            about = {"n_leads": n_leads[at], "start_s": some.index["start_s"].to_numpy()[at], "since": since[at]}
            yield table.assign(regime=regime, method=name, **about)


def by_time_table(config: Config, scores: pd.DataFrame) -> pd.DataFrame:
    """Averages of :func:`reference_scores` by the time since the reference.

    A row (:data:`COLUMNS`) per session, regime, part of the time (:data:`ANY_TIME`: all of it), method and metric, with
    its 95 % interval over subjects (over blocks of windows, where there are fewer than three subjects).
    """
    if scores.empty:
        return pd.DataFrame(columns=COLUMNS)
    rows, kind = [], data_kind(load_windows(config))
    for (session, regime, method), scored in scores.groupby(["session", "regime", "method"], sort=False):
        for since in (*SINCE_S, ANY_TIME):
            part = scored if since == ANY_TIME else scored[scored["since"] == since]
            if part.empty:
                continue
            table = summarise(part, config.evaluation.n_bootstrap, unit=bootstrap_unit(part))
            table = table.set_index(["metric", "estimate"]).reindex(METRICS.items()).dropna(subset="value")
            about = {"session": session, "regime": regime, "since": since, "method": method, "data": kind}
            about |= {name: len(part.drop_duplicates(of)) for name, of in _COUNTED.items()}
            rows.append(table.reset_index().assign(n_leads=part["n_leads"].max(), **about))
    return pd.concat(rows, ignore_index=True)[COLUMNS].astype({"n_subjects": int})
