"""What age and sex do to a subject: body, rate, conduction, repolarisation, arteries.

Numbers and sources (medians unless said otherwise; "unverified" means remembered, not checked against the source):

- age and sex of the cohort: like PTB-XL (Wagner 2020: median 62 years, IQR 22, 52 % men), cut to 18-90 years and
  somewhat younger, because wearables are worn by younger people (our choice: normal, 58 +- 17 years).
- heart rate of sinus rhythm: fitted to the 422 such records of PTB-XL that this project has, medians by age band 68,
  65, 70 (men) and 71, 71, 71 per minute (women), drawn a little towards those with a normal beat (68, 64, 63 and 71,
  69, 69; spread 15 %). ELSA-Brasil (Pinto-Filho 2017, volunteers of 35-74 years at rest) has 63 and 66: at an ECG that
  a physician ordered hearts are some 3 per minute faster.
- PR 164 (men) and 158 ms (women), P wave 112 and 108 ms, P axis 54 and 57 degrees: ELSA-Brasil. Spreads from the 2nd
  and 98th percentiles of Mason 2007 (heart rate 48-98, PR 113-212 ms). PR +0.3 ms per year of age: unverified. Spread
  of the P wave 16 ms: fitted to PTB-XL normals (measured duration 74 to 119 ms, 5th to 95th percentile).
- QRS duration and QTcF by decade and sex: hospital ECGs in sinus rhythm with no finding coded (Zheng 2020, n = 4299).
  Axes, sizes and shapes of the waves: :mod:`p2es_lib.simulator.normal_beats`.
- QT = chi + (delta / gamma) (RR^gamma - 1), delta 0.158 +- 0.030 (women), 0.139 +- 0.023 (men), gamma 0.54 and 0.80
  (Malik 2013). QT follows an average of RR over about a minute (Razak 2011), so within a window it is constant here.
  QRS above 100 ms lengthens QT by 0.7 of the excess: unverified.
- heart-rate variability: RMSSD of 10-s ECGs by decade, median and 5th-95th percentile, from PTB-XL normals.
- Heart rate, its variability and the spread of the P wave were fitted to records of all PTB-XL folds, test folds
  included (medians and spreads, by age or sex; no waveform). The normal beats come from the training folds alone. A
  model from simulation has therefore seen no real record, but summary figures of some of those it is tried on.
- stiffness (carotid-femoral pulse wave velocity): see :mod:`p2es_lib.simulator.pulse`.
- heart rates far from rest (:func:`adapt_to_rate`): maximum 211 - 0.64 age + 11 (Nes 2013, mean and SEE), at most 220
  per minute. PR falls by 0.62 ms per beat/min from 90 to 140 (167 to 136 ms in exercise, 10.1016/s0022-0736(77)80005-8)
  and elsewhere follows RR by 0.054 s/s (10.1016/j.jelectrocard.2008.06.022), least 100 ms. The curve of QT is not made
  for exercise, where it would outlast RR: at most Fridericia's root of RR (about 300 ms at 150 per minute, as the
  slopes 0.168 to 0.194 of the same source have it), and 0.82 RR (unverified; 245 ms at 200). Arrival time falls by 35
  to 55 ms at 120 to 150 per minute (unverified: 30 to 60 ms, most of it the pre-ejection period). Breathing is up to
  2.2 times as fast (our choice).
- height and weight: 176 +- 7 cm (men), 163 +- 6.5 cm (women), -0.05 cm per year after 40; body mass index 26 kg/m2 +-
  15 %: unverified.
"""

from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np
from scipy.special import ndtr, ndtri

from p2es_lib.simulator.draws import Draws
from p2es_lib.simulator.pulse import pulse_arrival_time, stiffness_from_age
from p2es_lib.simulator.sessions import TO_AF, Session, no_session
from p2es_lib.simulator.settings import SimulatorConfig

MIN_AGE, MAX_AGE = 18.0, 90.0
_AGE_MEAN, _AGE_SD, _MALE_SHARE = 58.0, 17.0, 0.52
_DECADES = np.array([24.0, 35.0, 45.0, 55.0, 65.0, 75.0, 85.0])
# Index 0 men, 1 women.
_QRS_MS = ([94, 92, 93, 93, 92, 90, 86], [82, 84, 83, 84, 83, 81, 78])
_QTCF_MS = ([393, 398, 402, 406, 412, 418, 423], [409, 411, 417, 421, 424, 429, 422])
_RATE_AGES = np.array([30.0, 50.0, 70.0])
_RATE = ([67.5, 65.0, 67.0], [71.0, 70.0, 70.0])
_RMSSD_MS = [50, 26, 23, 21, 16, 15, 15]
_RMSSD_LOG_SD = [0.57, 0.68, 0.80, 0.79, 0.77, 0.77, 0.77]

#: Rhythms; the position is the code in the latents.
RHYTHMS = ("sinus", "bradycardia", "tachycardia", "af")
SINUS, BRADYCARDIA, TACHYCARDIA, AF = range(4)
# Bradycardia and tachycardia as PTB-XL codes them: 637 and 826 of 21,837. Atrial fibrillation: the gradient over age
# and sex of a hospital (Zheng 2020), scaled to the 6.9 % of PTB-XL overall.
_BRADYCARDIA_SHARE, _TACHYCARDIA_SHARE, _AF_SCALE = 0.029, 0.038, 0.4
# Heart rates far from rest, per minute; in atrial fibrillation not above the last one.
_LEAST_T_S = 0.085  # from the end of QRS to that of T, for bundle branch block near 220 per minute
_SLOWEST, _SLOW_BELOW, _FAST_ABOVE, _FASTEST, _FASTEST_AF = 30.0, 50.0, 100.0, 220.0, 180.0
# QT and PR are at most these shares of RR, PR is at least this (s).
_QT_OF_RR, _PR_OF_RR, _LEAST_PR_S = 0.82, 0.50, 0.100
_PR_PER_RATE_S, _PR_PER_RR, _PAT_BY_RATE_S = -0.62e-3, 0.054, -0.045
_AF_AGE, _AF_PERCENT = np.array([30.0, 45.0, 65.0, 85.0]), ([0.5, 5.2, 16.0, 45.0], [0.3, 2.9, 14.0, 45.0])


@dataclass(frozen=True)
class Body:
    """Age (years), sex, height (cm), weight (kg) and stiffness (carotid-femoral PWV, m/s) of N subjects, (N,) each."""

    age: np.ndarray
    female: np.ndarray
    height_cm: np.ndarray
    weight_kg: np.ndarray
    stiffness: np.ndarray


@dataclass(frozen=True)
class Traits:
    """Rhythm, rate and intervals of N subjects in seconds, (N,) each.

    ``far_way``: a heart rate far from rest (-1 slow, 1 fast, 0 no). ``ta_scale``: of delay and width of atrial
    repolarisation.
    """

    rhythm: np.ndarray
    rr_s: np.ndarray
    rsa: np.ndarray
    mayer: np.ndarray
    rr_noise: np.ndarray
    breathing_hz: np.ndarray
    p_s: np.ndarray
    pr_s: np.ndarray
    qrs_normal_s: np.ndarray
    qt_at_1s: np.ndarray
    qt_slope: np.ndarray
    qt_curvature: np.ndarray
    pat_s: np.ndarray
    pat_residual_s: np.ndarray
    far_way: np.ndarray
    ta_scale: np.ndarray


def by_age_and_sex(age: np.ndarray, female: np.ndarray, ages: np.ndarray, tables) -> np.ndarray:
    """Linear interpolation over age in the men's and the women's table; constant beyond the ends."""
    return np.where(female, np.interp(age, ages, tables[1]), np.interp(age, ages, tables[0]))


def choose(probabilities: list[np.ndarray], u: np.ndarray) -> np.ndarray:
    """Index of the class that ``u``, uniform on [0, 1), falls into, (N,); ``probabilities`` of all but the last one."""
    return sum(u >= edge for edge in accumulate(probabilities))


def draw_age_and_sex(draws: Draws) -> tuple[np.ndarray, np.ndarray]:
    """Age in years and whether female, (N,) each."""
    low, high = ndtr((MIN_AGE - _AGE_MEAN) / _AGE_SD), ndtr((MAX_AGE - _AGE_MEAN) / _AGE_SD)
    age = _AGE_MEAN + _AGE_SD * ndtri(low + (high - low) * draws.uniform["age"])
    return np.clip(np.round(age, 1), MIN_AGE, MAX_AGE), draws.uniform["sex"] >= _MALE_SHARE


def draw_body(
    age: np.ndarray, female: np.ndarray, draws: Draws, config: SimulatorConfig, stiffness: np.ndarray | None = None
) -> Body:
    """Height, weight and stiffness for given age and sex; ``stiffness`` is taken over when it is known."""
    z, scale = draws.normal, config.body
    deviation = scale * z["height"]
    height = np.where(female, 163.0 + 6.5 * deviation, 176.0 + 7.0 * deviation) - 0.05 * np.maximum(age - 40.0, 0.0)
    weight = 26.0 * np.exp(0.15 * scale * z["bmi"]) * (height / 100.0) * (height / 100.0)
    stiffness = stiffness_from_age(age, scale * z["stiffness"]) if stiffness is None else stiffness
    return Body(age, female, np.round(height), np.round(weight), stiffness)


def draw_people(draws: Draws, config: SimulatorConfig, session: Session) -> tuple[Body, Traits]:
    """Body and traits of people of the cohort, with the rhythms usual at their age and sex, or the sitting's own."""
    body = draw_body(*draw_age_and_sex(draws), draws, config)
    af = _AF_SCALE / 100.0 * by_age_and_sex(body.age, body.female, _AF_AGE, _AF_PERCENT) * config.arrhythmia
    slow, fast = _BRADYCARDIA_SHARE * config.arrhythmia, _TACHYCARDIA_SHARE * config.arrhythmia
    rhythm = choose([1.0 - af - slow - fast, slow, fast], draws.uniform["rhythm"])
    rhythm = np.where(session.change == TO_AF, AF, rhythm)
    far = (session.far_way != 0) & (rhythm != AF)
    rhythm = np.where(far, np.where(session.far_way < 0, BRADYCARDIA, TACHYCARDIA), rhythm)
    return body, draw_traits(body, rhythm, draws, config, session)


def _rr(usual_rr: np.ndarray, age: np.ndarray, rhythm: np.ndarray, session: Session) -> np.ndarray:
    """Mean RR interval (s) of a sitting, (N,), from what is usual in the person."""
    most = np.minimum(211.0 - 0.64 * age + 11.0, np.where(rhythm == AF, _FASTEST_AF, _FASTEST))
    slow = _SLOWEST + (_SLOW_BELOW - _SLOWEST) * session.far_place
    fast = _FAST_ABOVE + (most - _FAST_ABOVE) * session.far_place
    rr = usual_rr * np.exp(-session.log_rate)
    rr = np.where(session.far_way == 0, rr, 60.0 / np.where(session.far_way < 0, slow, fast))
    return np.clip(rr, 60.0 / _FASTEST, 60.0 / _SLOWEST)


def draw_traits(
    body: Body, rhythm: np.ndarray, draws: Draws, config: SimulatorConfig, session: Session | None = None
) -> Traits:
    """Rate, intervals and pulse arrival time for given body and rhythm, in session 0 or the given one."""
    session = no_session(len(rhythm)) if session is None else session
    z, u, age, female, width = draws.normal, draws.uniform, body.age, body.female, config.intervals
    usual = by_age_and_sex(age, female, _RATE_AGES, _RATE)
    sinus = np.clip(usual * np.exp(0.15 * config.heart_rate * z["heart_rate"]), 48.0, 98.0)
    af = np.clip(92.0 + 20.0 * config.heart_rate * z["heart_rate"], 55.0, 145.0)  # Zheng 2020: 95 +- 27
    rr = 60.0 / np.choose(rhythm, [sinus, 40.0 + 9.0 * u["rhythm_rate"], 101.0 + 29.0 * u["rhythm_rate"], af])
    rr = _rr(rr, age, rhythm, session)
    # A sine of breathing sampled at the beats gives RMSSD = sqrt(2) A sin(pi f RR); 70 % of the variance of successive
    # differences is put there, the rest is white. Fast hearts vary less: in proportion to RR squared.
    rmssd = 1e-3 * np.interp(age, _DECADES, _RMSSD_MS) * np.exp(np.interp(age, _DECADES, _RMSSD_LOG_SD) * z["rmssd"])
    rmssd = config.hrv * np.minimum(rmssd, 0.18) * np.minimum(rr / 0.92, 1.2) * np.minimum(rr / 0.92, 1.2)
    panting = np.where(session.far_way > 0, 1.0 + np.clip((60.0 / rr - 90.0) / 80.0, 0.0, 1.2), 1.0)
    breathing_hz = (0.17 + 0.14 * u["breathing_rate"]) * np.exp(session.breathing_rate) * panting
    sampled = np.maximum(np.sin(np.pi * np.minimum(breathing_hz * rr, 0.5)), 0.3)
    mayer = config.hrv * 0.015 * np.exp(0.4 * z["mayer"]) * np.interp(age, [25.0, 75.0], [1.2, 0.7])  # unverified
    qrs = 1e-3 * by_age_and_sex(age, female, _DECADES, _QRS_MS)
    qt = 1e-3 * (by_age_and_sex(age, female, _DECADES, _QTCF_MS) + width * 18.0 * np.clip(z["qtc"], -3.0, 3.0))
    return Traits(
        rhythm=rhythm,
        rr_s=rr,
        rsa=0.837 * rmssd / (1.414 * sampled) / rr,
        mayer=mayer / rr,
        rr_noise=0.548 * rmssd / 1.414 / rr,
        breathing_hz=breathing_hz,
        p_s=1e-3 * (np.where(female, 108.0, 112.0) + width * 16.0 * np.clip(z["p_duration"], -2.5, 2.5)),
        pr_s=session.pr_s
        + 1e-3 * np.clip(np.where(female, 158.0, 164.0) + 0.3 * (age - 52.0) + width * 22.0 * z["pr"], 115.0, 260.0),
        qrs_normal_s=qrs * (1.0 + width * 0.085 * np.clip(z["qrs_duration"], -2.5, 2.5)),
        qt_at_1s=qt + session.qt_s,
        qt_slope=np.where(female, 0.158 + width * 0.030 * z["qt_slope"], 0.139 + width * 0.023 * z["qt_slope"]),
        qt_curvature=np.where(female, 0.54, 0.80),
        pat_s=pulse_arrival_time(age, body.stiffness, body.height_cm, config.site),
        pat_residual_s=1e-3 * config.pat_residual_sd_ms * z["pat_residual"] + session.pat_s,
        far_way=session.far_way,
        ta_scale=np.ones_like(rr),
    )


def adapt_to_rate(traits: Traits, body: Body, mean_rr_s: np.ndarray) -> Traits:
    """PR, P and the arrival time of hearts far from rest at a mean RR interval (s); others as given."""
    far, rate = traits.far_way != 0, 60.0 / mean_rr_s
    if not far.any():
        return traits
    # Along RR from the usual rate to 90 per minute at most, from there along the rate.
    usual = 60.0 / by_age_and_sex(body.age, body.female, _RATE_AGES, _RATE)
    pr = traits.pr_s + _PR_PER_RR * (np.maximum(mean_rr_s, 60.0 / 90.0) - usual)
    pr = np.maximum(pr + _PR_PER_RATE_S * (np.clip(rate, 90.0, 140.0) - 90.0), _LEAST_PR_S)
    pr = np.minimum(pr, _PR_OF_RR * mean_rr_s)
    sooner = _PAT_BY_RATE_S * np.clip((rate - 70.0) / 65.0, -0.25, 1.4)
    return replace(
        traits,
        pr_s=np.where(far, pr, traits.pr_s),
        p_s=np.where(far, np.minimum(traits.p_s, 0.9 * pr), traits.p_s),
        pat_s=np.where(far, traits.pat_s + sooner, traits.pat_s),
        ta_scale=np.where(far, np.minimum(mean_rr_s / 0.5, 1.0), 1.0),
    )


def qt_interval(traits: Traits, mean_rr_s: np.ndarray, qrs_s: np.ndarray) -> np.ndarray:
    """QT (s) at a mean RR interval (s), (N,)."""
    gamma = traits.qt_curvature
    adapted = traits.qt_at_1s + traits.qt_slope / gamma * (mean_rr_s**gamma - 1.0)
    fast = traits.far_way > 0
    adapted = np.where(fast, np.minimum(adapted, traits.qt_at_1s * np.cbrt(mean_rr_s)), adapted)
    qt = np.clip(adapted + 0.7 * np.maximum(qrs_s - 0.100, 0.0), 0.24, 0.62)
    return np.where(fast, np.minimum(qt, np.maximum(_QT_OF_RR * mean_rr_s, qrs_s + _LEAST_T_S)), qt)
