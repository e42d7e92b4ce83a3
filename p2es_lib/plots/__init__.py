"""Figures and tables: one style, functions that draw arrays and return a figure, writers for numbered files."""

from p2es_lib.plots.ecg_paper import plot_ecg_paper, plot_translation
from p2es_lib.plots.saving import save_figure, save_table
from p2es_lib.plots.style import use_style

__all__ = ["plot_ecg_paper", "plot_translation", "save_figure", "save_table", "use_style"]
