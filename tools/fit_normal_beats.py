"""Fit of the normal beat to real ones: how the numbers in ``normal_beats.json`` were made, so that they can be again.

The averaged beats of normal PTB-XL records become heart vectors: QRS and ST-T by least squares through the lead field
:data:`p2es_lib.simulator.normal_beats.FORWARD`, every lead weighted alike, P by Kors' regression. Then each wave gets,
for men and for women, the lead field over age that explains its leads best from these vectors: the atria lie elsewhere
(one field for all explains 59 % of P in lead I), and recovery spreads through the walls otherwise than activation.
Vectors are read at fixed fractions of the measured P, QRS and ST-T intervals, divided by their size and turned to one
frontal axis. What three components cannot explain in the leads (local sources near an electrode, another chest,
electrodes elsewhere) is described besides, by the lead patterns that hold most of it and their courses in time, as
shares of the wave's size. Vectors and these courses together are shape: its mean is a straight line over age for either
sex, and its variation between people some principal components, whose scores, sizes and axes vary together.

Only records of the training folds are used, so that a comparison on the other folds is one with people the simulator
has not seen. Run ``python -m tools.fit_normal_beats --mirror <folder or URL>`` to fit again.

References
----------
Wagner P et al. PTB-XL. Sci Data 7:154, 2020 (CC BY 4.0). Kors JA et al. Eur Heart J 11:1083, 1990.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd

from p2es_lib.core.leads import INDEPENDENT_ROWS, LEADS
from p2es_lib.data.sources import get_source
from p2es_lib.evaluation.metrics.measurements import KORS, average_beats, beat_times, measure_beats
from p2es_lib.signals.transforms import filter_bandpass
from p2es_lib.simulator.heart import turn_frontal
from p2es_lib.simulator.normal_beats import (
    FILE,
    FORWARD,
    N_LOCAL,
    P_FRACTIONS,
    QRS_FRACTIONS,
    REFERENCE_AXIS_DEG,
    ST_T_FRACTIONS,
    T_PEAK_KNOTS,
    TA_DELAY_S,
    TA_WIDTH_S,
    decades_of,
)

_ABOUT = ("age", "sex", "rhythm", "morphology", "fold")
#: Wider than the band of prepared ECG, so that filtering prepared and simulated ECG alike is fair.
FIT_BAND_HZ = (0.2, 100.0)
#: Principal components of shape that are kept: about 95 % of its variance. Ten held as much of the heart vectors alone.
N_COMPONENTS = 40
# Weight of each wave in the principal components: about their sizes in mV, T and P larger so that ST and P count.
_WEIGHTS = {"qrs": 1.0, "st_t": 0.7, "p": 0.6}


def normal_records(beats: np.ndarray, r_peaks: np.ndarray, about: pd.DataFrame) -> tuple[np.ndarray, pd.DataFrame]:
    """Rows that are used: normal, in sinus rhythm, of known age and sex, every wave found; and their measurements."""
    measured = measure_beats(beats, r_peaks)
    use = (about["morphology"] == "normal") & (about["rhythm"] != "af") & about["age"].between(18, 90)
    use &= about["sex"].isin(["F", "M"]) & (about["fold"] == "train")
    use &= measured[["pr_ms", "qt_ms", "qrs_ms", "p_ms"]].notna().all(axis=1).to_numpy()
    return np.flatnonzero(use), measured


def fit_normal_beats(beats: np.ndarray, r_peaks: np.ndarray, about: pd.DataFrame) -> dict:
    """The content of ``normal_beats.json``. Long, because each step of the fit needs what all before it found.

    Parameters
    ----------
    beats, r_peaks : arrays (N, 12, n) and (N, n_beats_max)
        As :func:`p2es_lib.evaluation.metrics.measurements.average_beats` gives them.
    about : DataFrame of N rows
        ``age``, ``sex``, ``rhythm``, ``morphology``, ``fold``.
    """
    rows, measured = normal_records(beats, r_peaks, about)
    about, measured = about.iloc[rows].reset_index(drop=True), measured.iloc[rows].reset_index(drop=True)
    ecg8 = beats[rows][:, INDEPENDENT_ROWS]
    ecg8 = ecg8 - _read_knots(ecg8, measured["qrs_onset_s"].to_numpy(), np.full(len(rows), -0.010), np.ones(1))
    onset_s = measured["qrs_onset_s"].to_numpy()
    pr_s, p_s, qrs_s, qt_s = (1e-3 * measured[name].to_numpy() for name in ("pr_ms", "p_ms", "qrs_ms", "qt_ms"))
    spans = {
        "p": (onset_s - pr_s, p_s, P_FRACTIONS),
        "qrs": (onset_s, qrs_s, QRS_FRACTIONS),
        "st_t": (onset_s + qrs_s, qt_s - qrs_s, ST_T_FRACTIONS),
    }
    share, atrial = _atrial_repolarisation(ecg8, onset_s, pr_s, p_s)
    ecg8 = ecg8 - atrial
    of_qrs = _read_knots(ecg8, *spans["qrs"])
    weights = 1.0 / np.sqrt((of_qrs**2).mean(axis=(0, 2)))  # every lead counts alike, small or large
    inverse = np.linalg.pinv(weights[:, None] * FORWARD) * weights
    inverses = {"p": KORS[list(INDEPENDENT_ROWS)].T, "qrs": inverse, "st_t": inverse}
    fit = {"n_records": len(rows), "ta_share": share}
    age, female = about["age"].to_numpy(), (about["sex"] == "F").to_numpy()
    decades = decades_of(age)
    by_sex = [~female, female]
    shapes, local, sizes, axes = {}, {}, {}, {}
    for wave, (start, length, fractions) in spans.items():
        leads = _read_knots(ecg8, start, length, fractions)
        fit[f"{wave}_field"] = np.stack([_lead_field(inverses[wave] @ leads[r], leads[r], decades[r]) for r in by_sex])
        knots = inverses[wave] @ leads  # (N, 3, K)
        peak = knots[:, :, T_PEAK_KNOTS] if wave == "st_t" else knots
        axes[wave] = np.rad2deg(np.arctan2(peak[:, 1].sum(axis=-1), peak[:, 0].sum(axis=-1)))
        sizes[wave] = np.linalg.norm(knots, axis=1).max(axis=-1)
        turned = turn_frontal(knots.transpose(1, 2, 0), REFERENCE_AXIS_DEG - axes[wave])  # (3, K, N)
        shapes[wave] = (turned / sizes[wave]).transpose(2, 0, 1)
        fields = [line[0] + line[1] * decades[:, None, None] for line in fit[f"{wave}_field"]]
        left = (leads - np.where(female[:, None, None], fields[1], fields[0]) @ knots) / sizes[wave][:, None, None]
        fit[f"{wave}_local"] = _lead_patterns(left)
        local[wave] = fit[f"{wave}_local"].T @ left  # (N, N_LOCAL, K)
    fit["size"], size_left = _line(np.log(np.column_stack([sizes[wave] for wave in spans])), age, female)
    degrees = np.column_stack([np.median(axes[wave]) + _around(axes[wave]) for wave in spans])
    fit["axis_deg"], axis_left = _line(degrees, age, female)
    for sex in (0, 1):  # axes have long tails to the left: their lines go through the medians
        middle = np.median(axis_left[by_sex[sex]], axis=0)
        fit["axis_deg"][sex, 0] += middle
        axis_left[by_sex[sex]] -= middle
    parts = [(_WEIGHTS[wave], part[wave].reshape(len(rows), -1)) for part in (shapes, local) for wave in spans]
    flat = np.concatenate([weight * part for weight, part in parts], axis=1)
    fit["shape"], left = _line(flat, age, female)
    scores, singular, components = np.linalg.svd(left, full_matrices=False)
    spread = np.sqrt(len(rows) - 4)
    fit["components"] = components[:N_COMPONENTS] * singular[:N_COMPONENTS, None] / spread
    # Two half normal distributions with one median: below and above it as wide as the 5th and the 95th percentile say.
    sides = np.abs(np.quantile(axis_left, (0.05, 0.95), axis=0)) / 1.645
    axis_left = axis_left / np.where(axis_left < 0, *sides)
    fit["axis_sides"] = sides
    together = [size_left, _without_tails(axis_left), _without_tails(spread * scores[:, :N_COMPONENTS])]
    fit["covariance"] = np.cov(np.concatenate(together, axis=1).T)
    fit["explained"] = float((singular[:N_COMPONENTS] ** 2).sum() / (singular**2).sum())
    weights = np.concatenate([np.full(part.shape[1], weight) for weight, part in parts])
    fit["shape"], fit["components"] = fit["shape"] / weights, fit["components"] / weights
    return {name: np.round(value, 4).tolist() if not isinstance(value, int) else value for name, value in fit.items()}


def _lead_field(vectors: np.ndarray, leads: np.ndarray, decades: np.ndarray) -> np.ndarray:
    """Lead field of a wave, (2, 8, 3): at the reference age, and its change per 10 years.

    Least squares of the leads (N, 8, K) on the vectors (N, 3, K), pooled over records and knots.
    """
    both = np.concatenate([vectors, vectors * decades[:, None, None]], axis=1)
    x, y = both.transpose(1, 0, 2).reshape(6, -1), leads.transpose(1, 0, 2).reshape(8, -1)
    return np.linalg.lstsq(x.T, y.T, rcond=None)[0].reshape(2, 3, 8).transpose(0, 2, 1)


def _atrial_repolarisation(ecg8: np.ndarray, onset_s, pr_s, p_s) -> tuple[float, np.ndarray]:
    """Size of Ta as a share of the mean P, and what it does to beats (N, 8, n) whose level is that before QRS.

    The line before P lies above PQ where P is upright. That is taken as Ta, which is against P; its share is the least
    squares one over all records and leads. Taken off, the line before P is level 0 on average.
    """
    at = p_s - pr_s + onset_s + TA_DELAY_S
    course = np.exp(-0.5 * ((beat_times() - at[:, None]) / TA_WIDTH_S) ** 2)[:, None]  # (N, 1, n)
    before_qrs = np.exp(-0.5 * ((onset_s - 0.010 - at) / TA_WIDTH_S) ** 2)[:, None]
    before_p = _read_knots(ecg8, onset_s - pr_s - 0.030, np.full(len(at), 0.015), np.array([0.0, 0.5, 1.0])).mean(
        axis=-1
    )
    p_wave = _read_knots(ecg8, onset_s - pr_s, p_s, P_FRACTIONS).mean(axis=-1) - before_p
    against = before_qrs * p_wave
    share = float((against * before_p).sum() / (against**2).sum())
    return share, share * p_wave[..., None] * (before_qrs[..., None] - course)


def _lead_patterns(left: np.ndarray) -> np.ndarray:
    """The :data:`N_LOCAL` orthonormal patterns over the leads, (8, N_LOCAL), that hold most of (N, 8, K)."""
    patterns = np.linalg.eigh(np.einsum("nik,njk->ij", left, left)).eigenvectors[:, : -N_LOCAL - 1 : -1]
    return patterns * np.sign(patterns[np.abs(patterns).argmax(axis=0), range(N_LOCAL)])  # an eigenvector has no sign


def _read_knots(signal: np.ndarray, start: np.ndarray, length: np.ndarray, fractions: np.ndarray) -> np.ndarray:
    """Values of signals (N, C, n) at fractions of an interval of each record, (N, C, K); 0 beyond the averaged beat."""
    t = beat_times()
    knots = np.zeros((*signal.shape[:2], len(fractions)))
    for row, channels in enumerate(signal):
        at = start[row] + fractions * length[row]
        for channel, values in enumerate(channels):
            good = np.isfinite(values)
            knots[row, channel] = np.interp(at, t[good], values[good], right=0.0)
    return knots


def _around(degrees: np.ndarray) -> np.ndarray:
    """Differences from the median of angles."""
    return (degrees - np.median(degrees) + 180.0) % 360.0 - 180.0


def _without_tails(left: np.ndarray) -> np.ndarray:
    """Residuals (N, C), those beyond 2.5 robust standard deviations drawn in to there."""
    limit = 2.5 * 1.4826 * np.median(np.abs(left), axis=0)
    return np.clip(left, -limit, limit)


def _line(values: np.ndarray, age: np.ndarray, female: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least squares line over age for men and women: (2, 2, C) = sex, (value at the reference age, per 10 years)."""
    lines, left = np.zeros((2, 2, values.shape[1])), np.zeros_like(values)
    for sex in (0, 1):
        rows = female == bool(sex)
        design = np.column_stack([np.ones(rows.sum()), decades_of(age[rows])])
        lines[sex] = np.linalg.lstsq(design, values[rows], rcond=None)[0]
        left[rows] = values[rows] - design @ lines[sex]
    return lines, left


def read_beats(mirror: str | None = None) -> tuple[np.ndarray, np.ndarray, pd.DataFrame]:
    """Averaged beats (N, 12, n), R peaks and descriptions of all PTB-XL records of a mirror."""
    source = get_source("ptb-xl")
    location = source.mirror(mirror)
    ecg, about, rate = [], [], 500.0
    for record in source.list_records(location):
        reading = source.read(location, record)
        for stretch in reading.stretches:
            signals = [stretch.leads[lead][0] for lead in LEADS if lead in stretch.leads]
            if len(signals) == len(LEADS) and np.isfinite(signals).all() and stretch.leads["I"][1] == rate:
                ecg.append(filter_bandpass(np.stack(signals), *FIT_BAND_HZ, rate))
                about.append({"record": record.name, **{name: getattr(reading, name) for name in _ABOUT}})
    return *average_beats(np.stack(ecg), rate), pd.DataFrame(about)


def main() -> None:
    """Fit, and write the package's file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--mirror", help="folder or URL laid out as PhysioNet; default: its home")
    parser.add_argument("--output", type=Path, default=FILE)
    options = parser.parse_args()
    fit = fit_normal_beats(*read_beats(options.mirror))
    options.output.write_text(json.dumps(fit, separators=(",", ":")) + "\n")
    print(f"{options.output}: {fit['n_records']} records; {100 * fit['explained']:.1f} % of the shape variance kept")


if __name__ == "__main__":
    main()
