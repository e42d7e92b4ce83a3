"""How real is the simulated cohort? Real windows, each with a simulated counterpart, compared measure by measure.

A counterpart is a simulated person of the same sex, rhythm and morphology and of the nearest age, each used once, so
that what differs is the signal and not the cohort; its ECG passes the same filter as the recorded one. Three kinds of
answer: distributions of single measurements (:func:`compare`), spectra and principal components, and a classifier
two-sample test: can a classifier tell simulated from real (:func:`tell_apart`)?

References
----------
Lopez-Paz D, Oquab M. Revisiting classifier two-sample tests. ICLR 2017. Kors JA et al. Eur Heart J 11:1083, 1990
(vectors from 12 leads, in :mod:`p2es_lib.evaluation.metrics.measurements`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.signal import welch
from scipy.stats import ks_2samp

from p2es_lib.core.config import Config
from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import INDEPENDENT_LEADS, INDEPENDENT_ROWS, LEADS, lead_rows
from p2es_lib.data.windows import WindowSet, simulator_config, stored_beats
from p2es_lib.evaluation.metrics.features import beat_samples, classifiers
from p2es_lib.evaluation.metrics.measurements import average_beats, beat_times, measure_beats
from p2es_lib.evaluation.metrics.resampling import resample, weighted_auroc, with_interval
from p2es_lib.signals.cleaning import ecg_clean
from p2es_lib.signals.r_peaks import r_peak_times
from p2es_lib.simulator import simulate

#: Limits (years) of the age bands in which the measurements are compared.
COMPARED_AGES = (18.0, 40.0, 60.0, 120.0)
#: Groups with fewer pairs are not compared.
LEAST_PAIRS = 10
#: Below this many subjects a classifier cannot be tested on people whom it has not seen.
LEAST_SUBJECTS = 20
#: Simulated people are taken from here on: nobody of them is trained, validated or tested on.
FIRST_NUMBER = 40_000_000
_INTERVALS = ("heart_rate", "rmssd_ms", "pr_ms", "p_ms", "qrs_ms", "qt_ms", "qtc_ms")
_AXES = ("p_axis_deg", "qrs_axis_deg", "t_axis_deg", "qrs_t_angle_deg")
_WAVES = {"P": ("p",), "Q": ("q",), "R and S": ("r", "s"), "ST": ("st",), "T": ("t",)}
_LABELS = ("rhythm", "morphology")


@dataclass(frozen=True)
class MeasuredWindows:
    """N windows, real or simulated: PPG (z-score), ECG (mV, leads that are not available NaN), and measurements."""

    index: pd.DataFrame  # subject, age, sex, rhythm, morphology, pat_ms, split (of the real window, in both)
    ppg: np.ndarray  # (N, T)
    ecg: np.ndarray  # (N, 12, T)
    beats: np.ndarray  # of measurements.average_beats, as r_peaks
    measured: pd.DataFrame  # of measurements.measure_beats, and pat_ms
    r_peaks: np.ndarray

    @property
    def leads(self) -> tuple[str, ...]:
        """Leads that every window has."""
        return tuple(lead for lead, ecg in zip(LEADS, self.ecg.swapaxes(0, 1)) if np.isfinite(ecg).all())


def match_people(people: pd.DataFrame, pool: pd.DataFrame) -> np.ndarray:
    """A row of ``pool`` for each of ``people``, each used once; -1 where nobody is left.

    Same sex, rhythm and morphology where known ("" in ``people``: any), nearest age (NaN: not known).
    """
    free, matched = np.ones(len(pool), dtype=bool), np.full(len(people), -1)
    for place, person in enumerate(people.itertuples()):
        suits = free.copy()
        for name in ("sex", *_LABELS):
            if wanted := getattr(person, name):
                suits &= (pool[name] == wanted).to_numpy()
        candidates = np.flatnonzero(suits)
        if candidates.size:
            distance = np.nan_to_num(np.abs(pool["age"].to_numpy(float)[candidates] - person.age))
            matched[place] = candidates[distance.argmin()]
            free[matched[place]] = False
    return matched


def pair_samples(
    windows: WindowSet, config: Config, *, n_most: int = 600, n_pool: int = 6000
) -> tuple[MeasuredWindows, MeasuredWindows]:
    """Real windows and a simulated counterpart of each, measured, row by row a pair.

    Leads that are not in every real window are absent in both. Where the data set names a morphology at all, windows
    without one (diagnoses that the simulator does not know) are left out. Simulated people have no ectopic beat in the
    window where the real rhythm is labelled. ``config`` is that of the windows, ``n_most`` of which are compared at
    most, taken evenly over the index, with ``n_pool`` simulated people to choose from. InputError: nobody is like them.
    """
    labelled = windows.index["morphology"].to_numpy() != ""
    rows = np.flatnonzero(labelled) if labelled.any() else np.arange(len(windows))
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(n_most, len(rows))).round().astype(int))]
    people = windows.index.iloc[rows].reset_index(drop=True)
    settings = simulator_config(config)
    numbers = FIRST_NUMBER + np.arange(n_pool)
    # The pool's signals are dropped part by part; those of the chosen are made again: same number, same bytes.
    pool = pd.concat([simulate(part, 1, settings).index for part in np.array_split(numbers, -(-n_pool // 500))])
    plain = (pool["n_pvc"] == 0).to_numpy() & (pool["n_pac"] == 0).to_numpy()
    candidates = np.flatnonzero(plain) if (people["rhythm"] != "").any() else np.arange(n_pool)
    matched = match_people(people, pool.iloc[candidates])
    found = matched >= 0
    if not found.any():
        raise InputError(f"data set {config.dataset}: no simulated person resembles one of {len(people)} windows")
    rows, people = rows[found], people[found].reset_index(drop=True)
    available = (np.asarray(windows.lead_mask)[rows] > 0).all(axis=0)
    drawn = simulate(numbers[candidates[matched[found]]], 1, settings)
    index = drawn.index.assign(split=people["split"])
    rate = config.signal.sampling_rate
    real = _sample(people, np.asarray(windows.ppg[rows]), np.asarray(windows.ecg[rows]), available, rate)
    return real, _sample(index, drawn.ppg, ecg_clean(drawn.ecg, rate), available, rate)


def _sample(index: pd.DataFrame, ppg, ecg, available: np.ndarray, rate: float) -> MeasuredWindows:
    if available.any():
        ecg = np.where(available[:, None], ecg, np.nan)
        beats, r_peaks = average_beats(ecg, rate)
    else:  # no lead is named: the beats are known, their shape is not
        r_peaks = stored_beats(index) if "rpeaks_s" in index else r_peak_times(ecg, rate)
        ecg, beats = np.full(ecg.shape, np.nan), np.full((*ecg.shape[:2], len(beat_times())), np.nan)
    measured = measure_beats(beats, r_peaks).assign(pat_ms=index["pat_ms"].to_numpy())
    return MeasuredWindows(index, ppg[:, 0], ecg, beats, measured, r_peaks)


def groups_of(real: MeasuredWindows) -> dict[str, np.ndarray]:
    """Groups of :data:`LEAST_PAIRS` pairs or more by name: all; by age and sex, normal where labelled; by label."""
    index, everyone = real.index, np.ones(len(real.index), dtype=bool)
    normal = (index["morphology"] == "normal").to_numpy()
    healthy = normal if normal.any() else everyone
    masks = {"all": everyone} | ({"normal": normal} if normal.any() and not normal.all() else {})
    for sex, name in (("F", "women"), ("M", "men")):
        for low, high in zip(COMPARED_AGES, COMPARED_AGES[1:]):
            label = f"{low:.0f} to {high - 1:.0f}" if high < COMPARED_AGES[-1] else f"{low:.0f} and over"
            inside = (index["age"] >= low) & (index["age"] < high) & (index["sex"] == sex)
            masks[f"{name}, {label}"] = healthy & inside.to_numpy()
    for column in _LABELS:
        for value in index[column].value_counts().index.drop(["", "normal"], errors="ignore"):
            masks[f"{column}: {value}"] = (index[column] == value).to_numpy()
    return {name: mask for name, mask in masks.items() if mask.sum() >= LEAST_PAIRS}


def compare(real: MeasuredWindows, simulated: MeasuredWindows) -> pd.DataFrame:
    """Every measurement in every group, real against simulated.

    Columns group, quantity, n (pairs), real and simulated 5th, 50th and 95th percentile, ``ks`` (largest distance of
    the distribution functions, 0 to 1), ``ks_limit`` (reached by chance in one comparison out of 20 even if both were
    drawn from the same people: 1.358 sqrt((n + m) / (n m)) for n and m known values).
    """
    rows = []
    for group, mask in groups_of(real).items():
        for quantity in real.measured.columns.drop("qrs_onset_s"):
            a, b = (x.measured.loc[mask, quantity].dropna().to_numpy() for x in (real, simulated))
            if min(len(a), len(b)) < LEAST_PAIRS:
                continue
            row = {"group": group, "quantity": quantity, "n": int(mask.sum())}
            for name, values in (("real", a), ("simulated", b)):
                row |= {f"{name}_p{p}": value for p, value in zip((5, 50, 95), np.percentile(values, (5, 50, 95)))}
            limit = 1.358 * np.sqrt((len(a) + len(b)) / (len(a) * len(b)))
            rows.append(row | {"ks": ks_2samp(a, b, method="asymp").statistic, "ks_limit": limit})
    return pd.DataFrame(rows)


def spectrum(x: np.ndarray, sampling_rate: float) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies (Hz) and the share of power there (..., n), 1/Hz, of signals (..., T): Welch, Hann windows of 4 s."""
    frequencies, power = welch(x, sampling_rate, nperseg=min(x.shape[-1], round(4 * sampling_rate)))
    total = power.sum(-1, keepdims=True) * (frequencies[1] - frequencies[0])
    return frequencies, power / np.maximum(total, 1e-12)


def principal_shares(real: MeasuredWindows, simulated: MeasuredWindows) -> pd.DataFrame:
    """Variance of the eight independent leads in their first components, cumulated, over the averaged beats of all.

    Columns components (1 to 8), real, simulated (share in the own components) and ``crossed`` (share of the real
    variance in the components of the simulated beats: equal to ``real`` if they span the same space).
    """
    covariances = []
    for sample in (real, simulated):
        beats = sample.beats[:, list(INDEPENDENT_ROWS)].swapaxes(0, 1).reshape(len(INDEPENDENT_ROWS), -1)
        covariances.append(np.cov(beats[:, np.isfinite(beats).all(axis=0)]))
    of_real, of_simulated = (np.linalg.eigh(c) for c in covariances)
    axes = of_simulated.eigenvectors[:, ::-1]
    crossed = np.einsum("ik,ij,jk->k", axes, covariances[0], axes)
    columns = {"real": of_real.eigenvalues[::-1], "simulated": of_simulated.eigenvalues[::-1], "crossed": crossed}
    shares = {name: np.cumsum(values) / values.sum() for name, values in columns.items()}
    return pd.DataFrame({"components": np.arange(1, len(INDEPENDENT_ROWS) + 1)} | shares)


def feature_sets(real: MeasuredWindows, simulated: MeasuredWindows) -> dict[str, np.ndarray]:
    """What a classifier may look at, (2 N, features) each, real windows first."""
    table = pd.concat([real.measured, simulated.measured], ignore_index=True)
    columns = {"all measurements": [*_INTERVALS, *_AXES], "intervals": _INTERVALS, "axes": _AXES}
    for kind, waves in _WAVES.items():
        columns[kind] = [column for wave in waves for column in table if column.endswith(f"_{wave}_mv")]
        columns["all measurements"] += columns[kind]
    known = table.columns[table.notna().mean() > 0.1]  # leads that are not there, axes without enough leads
    sets = {name: table[[c for c in chosen if c in known]].to_numpy() for name, chosen in columns.items()}
    rows = lead_rows([lead for lead in INDEPENDENT_LEADS if lead in real.leads])
    sets["averaged beat"] = beat_samples(np.concatenate([real.beats, simulated.beats]), rows)
    return {name: x for name, x in sets.items() if x.shape[1]}


def tell_apart(features: Mapping, real: MeasuredWindows, *, n_bootstrap=500, seed=0, progress=False) -> pd.DataFrame:
    """Area under the curve of classifiers that tell real from simulated windows (0.5: they cannot).

    ``features`` are those of :func:`feature_sets`; ``real`` gives subjects (InputError: fewer than
    :data:`LEAST_SUBJECTS`) and groups. Five folds; a real subject's windows and their counterparts are in one fold.
    Columns features, classifier, group, n (pairs), auroc, lower, upper (95 %, bootstrap over subjects, of pairs that
    the classifier had not seen). Groups are those of :func:`groups_of`, and ``unseen by the fit`` where the data set
    has folds with enough other people: the simulator was fitted to the training folds of PTB-XL.
    """
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from tqdm.auto import tqdm

    subjects, n = real.index["subject"].to_numpy(), len(real.index)
    if (people := len(set(subjects))) < LEAST_SUBJECTS:
        raise InputError(
            f"{people} subjects: a classifier needs {LEAST_SUBJECTS} to be tested on people it has not seen"
        )
    groups, unseen = groups_of(real), (real.index["split"] != "train").to_numpy()
    if (real.index["split_kind"] == "folds").all() and unseen.sum() >= LEAST_PAIRS:
        groups["unseen by the fit"] = unseen
    folds = {"groups": np.tile(subjects, 2), "cv": GroupKFold(5, shuffle=True, random_state=seed)}
    kinds = {name: classifiers(x.shape[1], n // 2, balanced=False, n_trees=300) for name, x in features.items()}
    work, rows = [(name, *pair) for name in features for pair in kinds[name].items()], []
    for name, kind, classifier in tqdm(work, desc="telling apart", disable=not progress):
        truth = np.repeat([1, 0], n)
        score = cross_val_predict(classifier, features[name], truth, **folds, method="predict_proba")[:, 1]
        for group, mask in groups.items():
            area = _area_with_interval(score[:n][mask], score[n:][mask], subjects[mask], n_bootstrap, seed)
            rows.append({"features": name, "classifier": kind, "group": group, "n": int(mask.sum())} | area)
    return pd.DataFrame(rows)


def _area_with_interval(real: np.ndarray, simulated: np.ndarray, subjects, n_bootstrap: int, seed: int) -> dict:
    """Area under the curve of scores (N,) of pairs, subjects drawn with replacement for the interval."""
    names, of = np.unique(subjects, return_inverse=True)
    weights = np.tile(resample(len(names), n_bootstrap, seed)[:, of], 2)
    areas = weighted_auroc(np.concatenate([real, simulated]), np.repeat([True, False], len(real)), weights)
    return with_interval(areas, len(real), "auroc")
