"""Settings of the simulated cohort: window, seed, arrival-time spread, and one scale per kind of variation."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from p2es_lib.core.errors import InputError, check_choice
from p2es_lib.simulator.disturbances import DISTURBANCES
from p2es_lib.simulator.pulse import SITE_PATHS_M


@dataclass(frozen=True)
class SimulatorConfig:
    """Everything that decides what ``simulate`` returns for a given list of subjects; out of range: InputError.

    Parameters
    ----------
    pat_residual_sd_ms : float
        Spread between subjects of the pulse arrival time that age, stiffness and height leave unexplained; it sets the
        irreducible error. 15 ms: pre-ejection period, 12-13 ms (Kortekaas 2018), and arm transit time, about 7 ms
        (Charlton 2019), in quadrature.
    disturbance, snr_db : str, float
        Wearable disturbance of the PPG and its signal-to-noise ratio; the ECG stays clean.
    extreme_rates : float
        Share of people whose heart rate in a session is far from rest: a quarter of them 30-50, the others from 100 to
        the maximum of their age, at most 220 per minute.
    body, heart_rate, hrv, arrhythmia, premature_beats, morphology, intervals, amplitudes, axis, qrs_shape, \
electrodes, breathing, pat_jitter, pulse_shape, sensor_noise, pat_drift, session_changes : float
        Scale of one kind of variation: 1 is the published size, 0 switches it off. ``arrhythmia``, ``premature_beats``
        and ``morphology`` scale probabilities, the others standard deviations or depths. ``body``: height, weight and
        stiffness for given age and sex; ``electrodes``: positions, gains, and the local content that is no dipole;
        ``pat_drift``: slow part of the arrival time within a session; ``session_changes``: all that differs between a
        person's sessions but a change asked for.
    """

    sampling_rate: float = 125.0
    window_samples: int = 1024
    seed: int = 2025
    pat_residual_sd_ms: float = 15.0
    site: str = "finger"
    disturbance: str = "none"
    snr_db: float = 10.0
    body: float = 1.0
    heart_rate: float = 1.0
    hrv: float = 1.0
    arrhythmia: float = 1.0
    premature_beats: float = 1.0
    morphology: float = 1.0
    intervals: float = 1.0
    amplitudes: float = 1.0
    axis: float = 1.0
    qrs_shape: float = 1.0
    electrodes: float = 1.0
    breathing: float = 1.0
    pat_jitter: float = 1.0
    pulse_shape: float = 1.0
    sensor_noise: float = 1.0
    pat_drift: float = 1.0
    session_changes: float = 1.0
    extreme_rates: float = 0.0

    def __post_init__(self):
        check_choice("simulator.disturbance", self.disturbance, DISTURBANCES)
        check_choice("simulator.site", self.site, SITE_PATHS_M)
        rules = [
            ("sampling_rate", 20, 5000, "between 20 and 5000 Hz"),
            ("window_samples", 2, math.inf, "at least 2"),
            ("seed", 0, 2**32 - 1, f"between 0 and {2**32 - 1}"),
            *((name, 0, math.inf, "must not be negative") for name in ("pat_residual_sd_ms", *SCALES)),
            ("extreme_rates", 0, 1, "between 0 and 1, it is a share"),
            *((name, 0, 2, "at most 2, it scales probabilities") for name in ("arrhythmia", "morphology")),
        ]
        for name, least, most, rule in rules:
            if not least <= getattr(self, name) <= most:
                raise InputError(f"simulator.{name}={getattr(self, name)}: {rule}")

    @property
    def window_s(self) -> float:
        """Length of a window in seconds."""
        return self.window_samples / self.sampling_rate

    @classmethod
    def without_variation(cls, **changes) -> SimulatorConfig:
        """All variation off except what ``changes`` sets; demographics still act on everything."""
        return cls(**{"pat_residual_sd_ms": 0.0, **dict.fromkeys(SCALES, 0.0), **changes})

    def replace(self, **changes) -> SimulatorConfig:
        """A changed copy."""
        return dataclasses.replace(self, **changes)


#: Names of the scales of variation.
SCALES = tuple(field.name for field in dataclasses.fields(SimulatorConfig) if field.default == 1.0)
