"""Figures and tables: one style, functions that draw arrays and return a figure, writers for numbered files."""

import importlib

#: What each module gives; loaded when it is asked for, since matplotlib takes its time.
_NAMES = {
    "clinical": "plot_bland_altman plot_diagnostic plot_frontier plot_groups plot_noise plot_uncertainty",
    "ecg_paper": "plot_ecg_paper plot_translation",
    "method": "plot_affinity plot_embedding plot_forward_process plot_reverse_process plot_stages",
    "data": "plot_accepted_rejected plot_beats_compared plot_cohort plot_example_window plot_measurements_compared "
            "plot_recorded_simulated",
    "results": "plot_changes plot_decomposition plot_differences plot_error_by_time plot_methods_by_regime "
               "plot_one_window plot_reference_by_time plot_reference_leads plot_regimes plot_results "
               "plot_sim_to_real plot_steps "
               "plot_training plot_validation_curves",
    "saving": "save_figure save_table",
    "sliders": "explore",
    "style": "use_style",
}  # fmt: skip
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}
__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
