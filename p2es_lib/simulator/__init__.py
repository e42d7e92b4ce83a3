"""The embedded cohort: paired wearable PPG and 12-lead ECG with known latents, and its irreducible error."""

from p2es_lib.simulator.cohort import SimulatedWindows, simulate
from p2es_lib.simulator.irreducible import conditional_mean_ecg, irreducible_rmse, posterior_ecg
from p2es_lib.simulator.sessions import CHANGES
from p2es_lib.simulator.settings import SimulatorConfig

__all__ = [
    "CHANGES",
    "SimulatedWindows",
    "SimulatorConfig",
    "conditional_mean_ecg",
    "irreducible_rmse",
    "posterior_ecg",
    "simulate",
]
