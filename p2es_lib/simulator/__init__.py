"""The embedded cohort: paired wearable PPG and 12-lead ECG with known latents, and its irreducible error."""

from p2es_lib.simulator.cohort import SimulatedWindows, simulate
from p2es_lib.simulator.irreducible import conditional_mean_ecg, irreducible_rmse
from p2es_lib.simulator.settings import SimulatorConfig

__all__ = ["SimulatedWindows", "SimulatorConfig", "conditional_mean_ecg", "irreducible_rmse", "simulate"]
