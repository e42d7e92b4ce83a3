"""The embedded cohort: paired wearable PPG and 12-lead ECG with known latents, and its irreducible error."""

from p2es_lib.simulator.cohort import Latents, SimulatedWindows, simulate
from p2es_lib.simulator.settings import SimulatorConfig

__all__ = ["Latents", "SimulatedWindows", "SimulatorConfig", "simulate"]
