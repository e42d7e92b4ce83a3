"""What a reference cannot show: what happened to the heart since it was recorded. Simulated people only.

People who were well when the reference was made are recorded again, unchanged and after each change of the simulator.
On the translation of the second pulse a cardiologist's measurement is taken, and asked to tell changed from unchanged.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch

from p2es_lib.core.config import Config
from p2es_lib.core.demographics import Demographics
from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import LEADS
from p2es_lib.core.learned import LearnedTranslator
from p2es_lib.core.reference import Reference
from p2es_lib.data.sources.simulated import split_subject_numbers
from p2es_lib.data.windows import simulator_config
from p2es_lib.data.windows.references import recorded_ecg
from p2es_lib.evaluation.metrics.features import rhythm_features
from p2es_lib.evaluation.metrics.intervals import measure_ecg
from p2es_lib.evaluation.metrics.resampling import subject_weights, weighted_auroc, with_interval
from p2es_lib.experiments.regimes import REFERENCE_SEED
from p2es_lib.reference.mean_beat import find_r, make_references, mean_beats
from p2es_lib.reference.regimes import leads_of
from p2es_lib.signals.pulse_features import pulse_upstrokes
from p2es_lib.simulator import CHANGES, SimulatedWindows, simulate

#: What tells each change, a column of :func:`measure`, and both in words.
SIGNS: dict[str, tuple[str, str, str]] = {
    "af": ("irregularity", "atrial fibrillation", "irregularity of RR"),
    "pvc": ("odd_beats", "frequent PVCs", "early or odd beats"),
    "st_elevation": ("st_mv", "ST elevation", "highest ST, J + 60 ms"),
    "lbbb": ("qrs_ms", "left bundle branch block", "QRS duration"),
    "long_qt": ("qtc_ms", "long QT", "QTc"),
}
#: Whose measurements are asked; pulses show the rhythm alone.
TRUE, WITH, WITHOUT, PULSE = "true ECG", "P2Es, 12-lead reference", "P2Es, no reference", "PPG alone"
_RHYTHM = ("irregularity", "odd_beats")
#: A beat is early if the interval before it is shorter than this share of the median one; a pulse is out of place if
#: its interval differs from it by more than the rest.
EARLY_SHARE = 0.8


@dataclass(frozen=True)
class ChangedPeople:
    """N people, their references of session 0, and by change (and ``none``) a window of session 1 of each."""

    numbers: np.ndarray
    reference: Reference
    windows: Mapping[str, SimulatedWindows]


def people_changed(config: Config, count: int) -> ChangedPeople:
    """At most ``count`` test subjects who were well in session 0, with their 12-lead references, in session 1.

    The two sessions differ as two recordings of a person do. An :class:`InputError` where nobody was well.
    """
    numbers, settings = np.asarray(split_subject_numbers(config, "test")), simulator_config(config)
    first = simulate(numbers, 1, settings)
    well = (first.index["rhythm"] == "sinus") & (first.index["morphology"] == "normal")
    rows = np.flatnonzero(well.to_numpy())[:count]
    if not len(rows):
        raise InputError(f"data set {config.dataset}: no test subject was well when the reference was made")
    ecg = recorded_ecg(first.ecg[rows], np.random.default_rng(REFERENCE_SEED), config.signal.sampling_rate)
    signals = torch.as_tensor(ecg), leads_of("all", len(rows))
    made = make_references(*signals, config.signal.sampling_rate, ppg=torch.as_tensor(first.ppg[rows]))
    later = replace(settings, session_changes=np.sqrt(2) * settings.session_changes)
    windows = {change: simulate(numbers[rows], 1, later, session=1, change=change) for change in CHANGES}
    return ChangedPeople(numbers[rows], made, windows)


def unseen_by_pulse(people: ChangedPeople) -> list[str]:
    """Changes that leave the PPG as it was, sample by sample."""
    unchanged = people.windows["none"].ppg
    return [name for name, made in people.windows.items() if name != "none" and np.array_equal(made.ppg, unchanged)]


def translate_changed(
    model: LearnedTranslator, people: ChangedPeople, *, n_samples: int, seed: int = 0
) -> dict[str, dict[str, np.ndarray]]:
    """Samples (N, K, 12, T), mV, by change, each :data:`WITH` the references and :data:`WITHOUT`.

    A change that leaves the pulse as it was leaves the translation as it was: it is drawn once.
    """
    drawn, same = {}, unseen_by_pulse(people)
    for change, windows in people.windows.items():
        if change in same:
            drawn[change] = drawn["none"]
            continue
        told = Demographics(windows.index["age"].to_numpy(), windows.index["sex"].to_numpy())
        drawn[change] = {
            source: model.translate(windows.ppg, told, reference=reference, n_samples=n_samples, generator=seed).numpy()
            for source, reference in ((WITH, people.reference), (WITHOUT, None))
        }
    return drawn


def measure(ecg: np.ndarray, sampling_rate: float) -> pd.DataFrame:
    """What a cardiologist measures in ECGs (N, 12, T), mV; a row each, NaN where it cannot be measured.

    irregularity (root mean square of successive differences of RR, over the mean RR), odd_beats (number of beats that
    are early or unlike the others), st_mv (highest ST level of all leads but aVR, J + 60 ms), qrs_ms, qtc_ms.
    """
    ecg = np.asarray(ecg, dtype=np.float32)
    found, signals = measure_ecg(ecg, sampling_rate), torch.as_tensor(ecg)
    everywhere = len(LEADS)  # the column "all", after those of the leads
    st = np.delete(found["st60_mv"][:, :everywhere], LEADS.index("aVR"), axis=1)
    r_times = find_r(signals, torch.ones(ecg.shape[:2]), sampling_rate)
    beats = mean_beats(signals, torch.ones(ecg.shape[:2]), r_times, sampling_rate)[1]
    odd = (beats.whole & ~beats.kept).numpy() | _is_early(r_times.numpy())
    known = np.where(np.isfinite(r_times.numpy()), r_times.numpy(), np.nan)
    return pd.DataFrame(
        {
            "irregularity": rhythm_features(known)["rr_rmssd"],
            "odd_beats": odd.sum(axis=1).astype(float),
            "st_mv": np.where(np.isfinite(st).any(axis=1), np.where(np.isfinite(st), st, -np.inf).max(axis=1), np.nan),
            "qrs_ms": found["qrs_ms"][:, everywhere],
            "qtc_ms": found["qtc_ms"][:, everywhere],
        }
    )


def _intervals(times: np.ndarray) -> np.ndarray:
    """Intervals before events (N, K), s, padded with inf or NaN, as a share of the median one; NaN: none."""
    times = np.where(np.isfinite(times), times, np.nan)
    intervals = np.diff(times, axis=1, prepend=np.nan)
    filled = np.where(np.isfinite(intervals).any(axis=1, keepdims=True), intervals, 1.0)
    return intervals / np.nanmedian(filled, axis=1, keepdims=True)


def _is_early(times: np.ndarray) -> np.ndarray:
    return np.nan_to_num(_intervals(times), nan=1.0) < EARLY_SHARE


def measure_pulses(ppg: np.ndarray, sampling_rate: float) -> pd.DataFrame:
    """Rhythm of PPGs (N, 1, T) in the columns of :func:`measure`: irregularity, odd_beats (pulses out of place)."""
    times = pulse_upstrokes(torch.as_tensor(np.asarray(ppg, dtype=np.float32)), sampling_rate).numpy().astype(float)
    known = np.where(np.isfinite(times), times, np.nan)
    away = np.abs(np.nan_to_num(_intervals(times), nan=1.0) - 1.0) > 1.0 - EARLY_SHARE
    odd = away.sum(axis=1).astype(float)
    return pd.DataFrame({"irregularity": rhythm_features(known)["rr_rmssd"], "odd_beats": odd})


def measurements_of(people: ChangedPeople, drawn, sampling_rate: float) -> pd.DataFrame:
    """Measurements by change, source and subject. Of samples their mean: what is to be expected, given the pulse."""
    frames, of_samples = [], {}
    for change, windows in people.windows.items():
        found = {TRUE: measure(windows.ecg, sampling_rate), PULSE: measure_pulses(windows.ppg, sampling_rate)}
        for source, samples in drawn[change].items():
            if id(samples) not in of_samples:  # the same pulse, the same samples
                of_samples[id(samples)] = _mean_measurements(samples, sampling_rate)
            found[source] = of_samples[id(samples)]
        for source, table in found.items():
            frames.append(table.assign(change=change, source=source, subject=windows.index["subject"].to_numpy()))
    return pd.concat(frames, ignore_index=True)


def _mean_measurements(samples: np.ndarray, sampling_rate: float) -> pd.DataFrame:
    """Mean of :func:`measure` over the samples (N, K, 12, T) in which there is something to measure."""
    tables = [measure(samples[:, k], sampling_rate) for k in range(samples.shape[1])]
    cube = np.stack(tables)
    count = np.isfinite(cube).sum(axis=0)
    mean = np.where(count > 0, np.nansum(cube, axis=0) / np.maximum(count, 1), np.nan)
    return pd.DataFrame(mean, columns=tables[0].columns)


def change_table(measured: pd.DataFrame, n_bootstrap: int = 1000, seed: int = 0) -> pd.DataFrame:
    """How well each change is told by its sign: area under the ROC curve, by change and source.

    ``measured`` is that of :func:`measurements_of`. Columns change, sign, source, auroc, lower, upper (95 %, over
    subjects), unchanged, changed (medians of the sign), n_subjects. What could not be measured counts as the median of
    all: it says nothing.
    """
    rows = []
    for change, (sign, name, in_words) in SIGNS.items():
        sources = (TRUE, PULSE, WITH, WITHOUT) if sign in _RHYTHM else (TRUE, WITH, WITHOUT)
        for source in sources:
            two = measured[measured["change"].isin(("none", change)) & (measured["source"] == source)]
            usual = two[sign].median() if two[sign].notna().any() else 0.0
            score, positive = two[sign].fillna(usual), two["change"] == change
            subjects = two["subject"].to_numpy()
            draws = weighted_auroc(score.to_numpy(), positive.to_numpy(), subject_weights(subjects, n_bootstrap, seed))
            n_subjects = len(set(subjects))
            medians = {"unchanged": score[~positive].median(), "changed": score[positive].median()}
            row = {"change": name, "sign": in_words, "source": source, **with_interval(draws, n_subjects, "auroc")}
            rows.append(row | medians | {"n_subjects": n_subjects})
    return pd.DataFrame(rows)
