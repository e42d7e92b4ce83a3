"""What was found in a recording that is to become a reference, whether it will do, and how to say it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from p2es_lib.core.config import DataConfig
from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import LEADS, PROJECTION
from p2es_lib.core.reference import BEFORE_S, Reference
from p2es_lib.reference.mean_beat import DELAY_REACH_S
from p2es_lib.signals.cleaning import MIN_DURATION_S
from p2es_lib.signals.polarity import turn_upright
from p2es_lib.translation.beat_survey import REASONS, Piece, Survey, survey
from p2es_lib.translation.readers.user_file import UserRecording

#: Heights of the ECG in 2 s, largest of all leads, that can be mV; below, only where its unit is stated.
POSSIBLE_MV = (0.1, 10.0)
#: Fewer beats than the first make no reference; fewer than the second, or shorter (s), a doubtful one.
LEAST_BEATS, FEW_BEATS, SHORT_S = 4, 8, 8.0
#: Beats left out (share), spread of the delay (ms), share of pulses with the delay, from which on the user is warned.
MANY_LEFT_OUT, WIDE_DELAY_MS, FEW_PULSES = 0.3, 20.0, 0.5
#: A delay is known if so many more pulses (as a share of the others) have it than any delay would have by chance.
LEAST_PAIRED = 0.3
#: Sampling rate below which the top of a QRS falls between samples.
LEAST_ECG_HZ = 90.0
#: Beats are noisy if they lie so far off their mean, as a share of its QRS (peak to peak).
NOISY_SHARE = 0.15
#: Residual of the laws of Einthoven and Goldberger, mV and as a share of the QRS, that electrodes do not explain.
RESIDUAL_MV, RESIDUAL_SHARE = 0.1, 0.15
#: Around R, s: QRS; and where the P wave is looked for.
_QRS_S, _P_S = (-0.06, 0.06), (-0.22, -0.09)


@dataclass(frozen=True)
class Findings:
    """A reference of one row, the survey that it comes from, and how the pulses point ("" without a PPG)."""

    reference: Reference
    survey: Survey
    sampling_rate: float
    polarity: str

    @classmethod
    def of(cls, recording: UserRecording, polarity: str, rate: float, where: str) -> Findings:
        """Survey a recording; an :class:`InputError` that begins with ``where`` if it is no use as a reference."""
        seconds = max(map(len, recording.ecg.values())) / recording.ecg_sampling_rate
        if seconds < MIN_DURATION_S:
            raise InputError(f"{where}: {seconds:.1f} s of ECG; record at least {SHORT_S:g} s, better a minute")
        ppg, direction = None, ""
        if len(recording.ppg) > MIN_DURATION_S * recording.sampling_rate:
            upright, direction = turn_upright(recording.ppg, recording.sampling_rate, polarity)
            ppg = upright, recording.sampling_rate
        found = survey(recording.ecg, recording.ecg_sampling_rate, ppg, rate)
        _check_amplitude(found, recording, where)
        whole = found.whole
        if whole.used < LEAST_BEATS:
            problem = f"{whole.used} of {whole.found} beats can be used ({_left_out(found) or 'none were found'})"
            raise InputError(f"{where}: {problem}; at least {LEAST_BEATS} are needed: record a minute at rest")
        delay = np.median(whole.delays) if _are_paired(whole) else np.nan
        row = [torch.as_tensor(value, dtype=torch.float32)[None] for value in (whole.beats, whole.given)]
        spread = 1.4826 * np.median(np.abs(whole.delays - delay)) if np.isfinite(delay) else np.nan
        values = np.median(whole.intervals), delay, np.nan, spread
        numbers = [torch.tensor([value], dtype=torch.float32) for value in values]
        return cls(Reference(*row, *numbers), found, rate, direction)

    @property
    def delay_ms(self) -> float | None:
        """Delay from R to the steepest point of the pulse; None: not known."""
        return None if self.reference.delay_s.isnan() else round(1000 * float(self.reference.delay_s), 1)

    @property
    def delay_sd_ms(self) -> float | None:
        """Its spread between beats (1.4826 times the median absolute deviation)."""
        if self.delay_ms is None:
            return None
        return round(1000 * float(self.reference.delay_sd_s), 1)

    @property
    def heart_rate(self) -> float:
        """Per minute."""
        return 60 / float(self.reference.rr_s)

    @property
    def leads(self) -> list[str]:
        """Leads that the reference holds."""
        return [lead for lead, given in zip(LEADS, self.survey.whole.given) if given]

    def between(self, span: tuple[float, float]) -> np.ndarray:
        """The mean beats (12, M) in a span of time about R, s."""
        first, stop = (round((end + BEFORE_S) * self.sampling_rate) for end in span)
        return self.survey.whole.beats[:, first : stop + 1]

    def about(self) -> dict[str, Any]:
        """What the file of the reference says of the recording, as JSON holds it."""
        whole = self.survey.whole
        derived = [lead for lead in self.leads if not self.survey.measured[LEADS.index(lead)]]
        return {
            "leads": self.leads, "derived": derived, "seconds": round(self.survey.seconds, 1),
            "beats_used": whole.used, "beats_found": whole.found,
            "left_out": dict(zip(("faulty", "premature", "unlike", "noisy"), whole.left_out.tolist())),
            "heart_rate": round(self.heart_rate, 1), "sampling_rate": self.sampling_rate, "delay_ms": self.delay_ms,
            "delay_sd_ms": self.delay_sd_ms, "pulses_used": len(whole.delays), "pulses_found": whole.n_pulses,
            "ppg_quality": round(float(np.median(whole.quality)), 2) if whole.quality else None,
        }  # fmt: skip


def _are_paired(whole: Piece) -> bool:
    """Whether more pulses follow the beats at the common delay than would by chance."""
    if not len(whole.delays):
        return False
    chance = min(1.0, 2 * DELAY_REACH_S / float(np.median(whole.intervals)))
    return len(whole.delays) / whole.n_pulses - chance > LEAST_PAIRED * (1 - chance)


def _check_amplitude(found: Survey, recording: UserRecording, where: str) -> None:
    """Refuse what is no ECG in mV."""
    height, (low, high) = float(found.typical_mv.max()), POSSIBLE_MV
    if height > high or (height < low and (recording.unitless or found.whole.used < LEAST_BEATS)):
        stated = "the file states no unit" if recording.unitless else "by its unit"
        guess = "; it looks like uV" if recording.unitless and 0.3 < height / 1000 < 5 else ""
        problem = f"the ECG is {height:.4g} mV high ({stated}); an ECG has {low:g} to {high:g} mV{guess}"
        remedy = "amplitudes need mV: convert them, or name the columns with their unit (II_uV)"
        raise InputError(f"{where}: {problem}; {remedy}")


def _left_out(found: Survey) -> str:
    return ", ".join(f"{count} {why}" for count, why in zip(found.whole.left_out.tolist(), REASONS) if count)


def describe(findings: Findings, recording: UserRecording) -> tuple[dict[str, str], list[str]]:
    """What to tell the user, by topic, and warnings."""
    whole, found = findings.survey.whole, findings.survey
    derived = [lead for lead in findings.leads if not found.measured[LEADS.index(lead)]]
    measured = ", ".join(lead for lead in findings.leads if lead not in derived)
    left_out, n_pulses = _left_out(found), whole.n_pulses
    told = {
        "read": "; ".join(recording.notes),
        "leads": f"{measured} recorded" + (f"; {', '.join(derived)} follow from them" if derived else ""),
        "beats": f"{whole.used} of {whole.found} used, in {found.seconds:.1f} s, {findings.heart_rate:.0f} per minute"
        + (f"; left out: {left_out}" if left_out else ""),
        "delay": "not known, there is no usable PPG: the reference holds the shape only",
        "recorded": recording.recorded_on or "not stated in the file",
    }
    if findings.delay_ms is not None:
        common = f"{len(whole.delays)} of {n_pulses} pulses"
        spread = f"spread (SD) {findings.delay_sd_ms:.0f} ms"
        told["delay"] = f"{findings.delay_ms:.0f} ms from R to the steepest point of the pulse, {spread}, {common}"
    elif n_pulses:
        told["delay"] = f"not known, the {n_pulses} pulses follow the beats at no common delay: shape only"
    if findings.polarity:
        told["polarity"] = findings.polarity.removeprefix("WARNING: ")
    if whole.quality:
        told["quality"] = f"{np.median(whole.quality):.2f} of 1, of the PPG (median)"
    rate, warnings = recording.ecg_sampling_rate, list(found.dropped)
    if rate < LEAST_ECG_HZ:
        warnings.append(f"the ECG has {rate:g} Hz: below {LEAST_ECG_HZ:g} Hz the height of the QRS is not known")
    return told, [*warnings, *_doubts_on_beats(findings), *_doubts_on_leads(findings), *_doubts_on_pulses(findings)]


def _doubts_on_beats(findings: Findings) -> list[str]:
    whole, found = findings.survey.whole, findings.survey
    share = 1 - whole.used / whole.found
    doubts = {
        f"only {found.seconds:.1f} s: record at least {SHORT_S:g} s, better a minute": found.seconds < SHORT_S,
        f"only {whole.used} beats: a mean of fewer than {FEW_BEATS} keeps their noise": whole.used < FEW_BEATS,
        f"{100 * share:.0f} % of the beats are left out ({_left_out(found)}): the rhythm is irregular or the ECG poor; "
        "record again at rest": share > MANY_LEFT_OUT,
    }
    return [text for text, is_so in doubts.items() if is_so]


def _doubts_on_leads(findings: Findings) -> list[str]:
    whole, found = findings.survey.whole, findings.survey
    qrs, rows = findings.between(_QRS_S), np.flatnonzero(whole.given)
    height = np.ptp(qrs, axis=1)
    noisy = [LEADS[row] for row in rows if found.measured[row] and whole.noise_mv[row] > NOISY_SHARE * height[row]]
    noise = f"noise in {', '.join(noisy)}: beats lie more than {100 * NOISY_SHARE:.0f} % of the QRS off their mean"
    low = f"the QRS is {height.max():.2f} mV at most: check that the ECG is in mV, and the electrodes"
    limb = whole.beats[:6] - PROJECTION[:6, :6] @ whole.beats[:6]
    residual = float(np.abs(limb).max()) if (found.measured[:6] * whole.given[:6]).all() else 0.0
    laws = f"the limb leads contradict each other by up to {residual:.2f} mV (Einthoven, Goldberger): check which "
    laws += "column is which lead, and the electrodes"
    doubts = {
        noise: bool(noisy), low: height.max() < POSSIBLE_MV[0],
        laws: residual > max(RESIDUAL_MV, RESIDUAL_SHARE * height[:6].max(initial=0)),
        _inverted(findings): bool(_inverted(findings)),
    }  # fmt: skip
    return [text for text, is_so in doubts.items() if is_so]


def _inverted(findings: Findings) -> str:
    """What to say if lead I points down or aVR up, with P wave and QRS; "" if neither."""
    p, qrs = findings.between(_P_S), findings.between(_QRS_S)
    # From the line before the QRS, which lies a little off zero.
    line = findings.between((-0.08, -0.06)).mean(axis=1)
    main = np.max(qrs, axis=1) + np.min(qrs, axis=1) - 2 * line
    wave = np.max(p, axis=1) + np.min(p, axis=1) - 2 * line
    turned = {"I": -1, "aVR": 1}
    odd = [
        lead for lead, sign in turned.items()
        if findings.survey.whole.given[row := LEADS.index(lead)] and sign * main[row] > 0.1 and sign * wave[row] > 0.02
    ]  # fmt: skip
    points = {"I": "lead I points down", "aVR": "aVR points up"}
    if not odd:
        return ""
    what = " and ".join(points[lead] for lead in odd)
    return f"{what}, P wave and QRS alike: rare in people, common with swapped arm electrodes; check them if in doubt"


def _doubts_on_pulses(findings: Findings) -> list[str]:
    whole, doubts = findings.survey.whole, []
    if findings.polarity.startswith("WARNING: "):
        doubts.append(findings.polarity.removeprefix("WARNING: "))
    if findings.delay_ms is None:
        return doubts
    if findings.delay_sd_ms > WIDE_DELAY_MS:
        text = f"the delay varies by {findings.delay_sd_ms:.0f} ms (SD) from beat to beat"
        doubts.append(f"{text}: pulses and beats fit badly, so the time of the ECG will be uncertain")
    if len(whole.delays) < FEW_PULSES * whole.n_pulses:
        doubts.append(f"only {len(whole.delays)} of {whole.n_pulses} pulses follow a beat at that delay")
    least = DataConfig().min_quality
    if whole.quality and np.median(whole.quality) < least:
        doubts.append(f"the PPG is poor (quality {np.median(whole.quality):.2f} of 1, poor: below {least:g})")
    return doubts
