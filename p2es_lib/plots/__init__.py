"""Figures and tables: one style, functions that draw arrays and return a figure, writers for numbered files."""

from p2es_lib.plots.affinity import plot_affinity, plot_embedding
from p2es_lib.plots.clinical import (
    plot_bland_altman,
    plot_diagnostic,
    plot_frontier,
    plot_groups,
    plot_noise,
    plot_uncertainty,
)
from p2es_lib.plots.cohort import plot_cohort, plot_example_window
from p2es_lib.plots.comparison import (
    plot_differences,
    plot_error_by_time,
    plot_one_window,
    plot_steps,
    plot_validation_curves,
)
from p2es_lib.plots.ecg_page import plot_translation
from p2es_lib.plots.ecg_paper import plot_ecg_paper
from p2es_lib.plots.process import plot_forward_process, plot_reverse_process
from p2es_lib.plots.real_and_simulated import (
    plot_accepted_rejected,
    plot_beats_compared,
    plot_measurements_compared,
    plot_recorded_simulated,
)
from p2es_lib.plots.results import plot_decomposition, plot_results, plot_training
from p2es_lib.plots.saving import save_figure, save_table
from p2es_lib.plots.sim_to_real import plot_sim_to_real
from p2es_lib.plots.sliders import explore
from p2es_lib.plots.stages import plot_stages
from p2es_lib.plots.style import use_style

__all__ = [
    "explore",
    "plot_accepted_rejected",
    "plot_affinity",
    "plot_beats_compared",
    "plot_bland_altman",
    "plot_cohort",
    "plot_decomposition",
    "plot_diagnostic",
    "plot_differences",
    "plot_ecg_paper",
    "plot_embedding",
    "plot_error_by_time",
    "plot_example_window",
    "plot_forward_process",
    "plot_frontier",
    "plot_groups",
    "plot_measurements_compared",
    "plot_noise",
    "plot_one_window",
    "plot_recorded_simulated",
    "plot_results",
    "plot_reverse_process",
    "plot_sim_to_real",
    "plot_stages",
    "plot_steps",
    "plot_training",
    "plot_translation",
    "plot_uncertainty",
    "plot_validation_curves",
    "save_figure",
    "save_table",
    "use_style",
]
