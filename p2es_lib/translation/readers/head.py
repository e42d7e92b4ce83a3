"""What files say of their sampling rate in words: in lines above the values, beside the names, or in a JSON."""

import re

_NUMBER = r"(\d+(?:[.,]\d+)?(?:e[+-]?\d+)?)"
_SECONDS = {"s": 1.0, "sec": 1.0, "second": 1.0, "ms": 1e-3, "msec": 1e-3, "us": 1e-6, "µs": 1e-6, "usec": 1e-6}
_UNIT = r"(us|µs|usec|ms|msec|s|sec|seconds?)\b"
_RATE_WORDS = (
    r"(?:sampl(?:e|ing)[\s_-]*(?:rate|freq(?:uency)?)|samples?\s*(?:per|/)\s*s(?:ec(?:ond)?)?|samplerate|srate|"
    r"samplingfrequency|sfreq|\bfs\b|abtast(?:rate|frequenz)|fr[eé]quence d.[eé]chantillonnage|frecuencia de muestreo|"
    r"frequenza di campionamento)"
)
# A rate behind its name, a rate before "samples per second", a step behind its name, and a step "per sample".
_RATES = [rf"{_RATE_WORDS}[^\d\n]{{0,20}}?{_NUMBER}\s*(k?)(?:hz|sps|$|\W)", rf"{_NUMBER}\s*(k?)\s*(?:samples?\s*(?:per|/)\s*s|sps\b)"]
_STEPS = [rf"(?:interval|sampl\w*[\s_-]*(?:period|interval|time)|delta[\s_-]?t)\W{{0,8}}{_NUMBER}\s*{_UNIT}"]
_STEPS += [rf"{_NUMBER}\s*{_UNIT}\s*(?:/|per)\s*sample"]
# A rate alone in its line, behind a sign, or behind the signal's name: not that of a filter.
_BARE = rf"(?:^\W*|@\s*|ppg[\s_,(]*){_NUMBER}\s*(k?)hz\W*$"


def find_rate(lines: list[str]) -> tuple[float | None, str]:
    """Sampling rate (Hz) that lines of text state, and the words; None and "" where none does, or they differ."""
    found: dict[float, str] = {}
    for patterns, rate_of in ((_RATES, _by_rate), (_STEPS, _by_step), ([_BARE], _by_rate)):
        for line in lines:
            for pattern in patterns:
                for match in re.finditer(pattern, line, re.IGNORECASE | re.MULTILINE):
                    rate = rate_of(match)
                    if 1.0 <= rate <= 100_000.0:
                        found.setdefault(round(rate, 6), match[0].strip())
        if found:
            break
    return next(iter(found.items())) if len(found) == 1 else (None, "")


def _by_rate(match: re.Match) -> float:
    return float(match[1].replace(",", ".")) * (1000.0 if match[2] else 1.0)


def _by_step(match: re.Match) -> float:
    unit = match[2].lower().rstrip("s") if match[2].lower().startswith("sec") else match[2].lower()
    step_s = float(match[1].replace(",", ".")) * _SECONDS[unit]
    return 1 / step_s if step_s > 0 else 0.0
