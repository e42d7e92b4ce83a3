"""Is what the translated ECG says about rhythm and morphology true? Classifiers carried from true to translated ECG.

A classifier learns a diagnosis from the true ECG of some people and is tried on the translated ECG of others, and the
reverse. Beside it stand the same on true ECG alone, the most that can be had, and on the PPG alone, with age and sex or
without: a translation knows nothing but those, so what its ECG "shows" beyond them is no evidence about the person.
"""

import numpy as np
import pandas as pd

from p2es_lib.core.errors import InputError
from p2es_lib.evaluation.metrics.features import classifiers, ecg_features, ppg_features
from p2es_lib.evaluation.metrics.long_table import check_samples
from p2es_lib.evaluation.metrics.resampling import subject_weights, weighted_auroc, with_interval
from p2es_lib.method.affinity.descriptors import demographic_features

#: A diagnosis is tried where at least this many people have it, and as many have not, in training and in test.
LEAST_SUBJECTS = 8
#: Labels that are no diagnosis to be tried, by column. Slow and fast sinus rhythm are nothing but the heart rate.
NO_DIAGNOSIS = {"rhythm": {"", "sinus", "bradycardia", "tachycardia"}, "morphology": {"", "normal"}}
TRUE, TRANSLATED, PPG, INPUTS = "true ECG", "translated ECG", "PPG", "PPG, age and sex"
#: What classifiers learn from, and what they are tried on.
PAIRS = ((TRUE, TRUE), (TRUE, TRANSLATED), (TRANSLATED, TRUE), (TRANSLATED, TRANSLATED), (PPG, PPG), (INPUTS, INPUTS))


def diagnostic_features(windows, sampling_rate: float, samples=None) -> dict[str, np.ndarray]:
    """Measurements of the N windows of a WindowSet: (N, features) under TRUE, PPG, INPUTS, and of samples TRANSLATED.

    Of samples (N, K, 12, T) in mV the first is measured, in the same leads as the true ECG; ``sampling_rate`` in Hz.
    """
    sets = {}
    _, truth, available = check_samples(np.asarray(windows.ecg)[:, None] if samples is None else samples, windows)
    if samples is not None:
        single = np.asarray(samples)[:, 0]
        available &= np.isfinite(single).all(axis=-1)
        sets[TRANSLATED] = ecg_features(single, sampling_rate, available)[0].to_numpy()
    sets[TRUE] = ecg_features(truth, sampling_rate, available)[0].to_numpy()
    sets[PPG] = ppg_features(np.asarray(windows.ppg), sampling_rate).to_numpy()
    sets[INPUTS] = np.hstack([sets[PPG], demographic_features(windows.demographics)])
    return sets


def diagnoses(fit_index: pd.DataFrame, test_index: pd.DataFrame, least: int = LEAST_SUBJECTS) -> list[tuple[str, str]]:
    """Diagnoses (column, label) that ``least`` people have, and as many labelled ones have not, in both tables."""

    def enough(column: str, label: str) -> bool:
        known = [index[index[column] != ""] for index in (fit_index, test_index)]
        sides = [table[(table[column] == label) == has] for table in known for has in (True, False)]
        return all(side["subject"].nunique() >= least for side in sides)

    candidates = ((name, label) for name, no in NO_DIAGNOSIS.items() for label in sorted(set(fit_index[name]) - no))
    return [pair for pair in candidates if enough(*pair)]


def diagnostic_table(
    fit, test, fit_index, test_index, *, pairs=PAIRS, classifier="random forest", n_bootstrap=1000, seed=0
) -> pd.DataFrame:
    """Area under the ROC curve of every diagnosis, for every pair of what is learnt from and what is tried on.

    ``fit`` and ``test`` are :func:`diagnostic_features` of windows to learn from and to be tried on, ``fit_index`` and
    ``test_index`` their subject, rhythm and morphology; no person in both. To learn from translations of people whom
    the method was trained on flatters it: take the validation split, or leave :data:`TRANSLATED` out of ``fit``. Pairs
    that lack one side are left out; InputError where nothing can be tried (:func:`diagnoses`). Columns label ("rhythm:
    af"), fit_on, tried_on, classifier ("random forest" or "logistic regression"), auroc, lower, upper (95 %, over the
    subjects tried on), gain, gain_lower, gain_upper (area minus that of PPG, age and sex, paired), n_positive (subjects
    tried on who have the diagnosis), n_subjects.
    """
    if shared := set(fit_index["subject"]) & set(test_index["subject"]):
        raise InputError(f"diagnosis: {len(shared)} subject(s), such as {min(shared)}, are in both sets of windows")
    if not (chosen := diagnoses(fit_index, test_index)):
        wanted = f"that {LEAST_SUBJECTS} people have, and {LEAST_SUBJECTS} have not"
        raise InputError(f"diagnosis: no rhythm or morphology {wanted}, in both sets")
    rows = []
    for column, label in chosen:
        use_fit, use_test = (np.flatnonzero(index[column].to_numpy() != "") for index in (fit_index, test_index))
        ill = (fit_index[column].to_numpy()[use_fit] == label), (test_index[column].to_numpy()[use_test] == label)
        subjects = test_index["subject"].astype(str).to_numpy()[use_test]
        weights, n_subjects = subject_weights(subjects, n_bootstrap, seed), len(np.unique(subjects))
        size = {"n_positive": len(np.unique(subjects[ill[1]])), "n_subjects": n_subjects}
        fitted, draws = {}, {}
        for source, target in ((a, b) for a, b in pairs if a in fit and b in test):
            if source not in fitted:
                model = classifiers(fit[source].shape[1], len(use_fit) // 4, seed)[classifier]
                fitted[source] = model.fit(fit[source][use_fit], ill[0])
            score = fitted[source].predict_proba(test[target][use_test])[:, 1]
            draws[source, target] = weighted_auroc(score, ill[1], weights)
        for (source, target), values in draws.items():
            row = {"label": f"{column}: {label}", "fit_on": source, "tried_on": target, "classifier": classifier}
            row |= with_interval(values, n_subjects, "auroc")
            if (INPUTS, INPUTS) in draws and source != INPUTS:
                row |= with_interval(values - draws[INPUTS, INPUTS], n_subjects, "gain", "gain_")
            rows.append(row | size)
    return pd.DataFrame(rows)
