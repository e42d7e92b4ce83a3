"""Numbered figures and tables: their writers, which notebook makes which, and the command that makes a table again."""

import re
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from p2es_lib.core.config import PROFILES
from p2es_lib.core.errors import InputError
from p2es_lib.core.paths import atomic_path, home
from p2es_lib.plots.style import Figure, use_style

#: Which notebook writes which files, each by its name, and what they show.
ARTEFACTS = {
    "01_data": "fig01_cohort, fig02_window, table01_cohort: the cohort and an example window (real recordings also: "
               "table05_measurements, table06_told_apart)",
    "02_forward_process": "fig03_forward_process: blur, then noise, in time and frequency",
    "03_reverse_process": "fig04_reverse_process: from noise back to an ECG",
    "04_affinity": "fig05_embedding_groups, fig06_affinity: who resembles whom, and the matrices",
    "05_train": "weights, history and scores of a training, in `runs/`",
    "06_baselines": "fig17_validation, fig18_one_window, table07_methods: what else there is, and what it costs to "
                    "train",
    "07_results": "fig07_training, fig08_stages, fig09_overlay, fig10_results, fig11_decomposition, "
                  "fig12_learned_affinity, table02_results, table03_distance_to_floor",
    "08_ablations": "fig19_ablations, fig20_sampler_steps, fig28_error_by_time, table08_ablations, "
                    "table09_sampler_steps, table24_error_by_time, table27_more_steps: does each idea earn its place, "
                    "and where?",
    "09_clinical_validity": "fig21_bland_altman, fig22_uncertainty, fig23_diagnostic, table10_agreement, "
                            "table11_uncertainty, table12_realism, table13_diagnostic, table14_delineation",
    "10_robustness": "fig24_groups, fig25_noise, table15_groups, table16_demographics, table17_noise",
    "11_efficiency": "fig26_frontier, table18_efficiency, table19_long_signals, table23_training: what a translation "
                     "and a training cost",
    "12_claims": "table20_against_methods, table21_claims: what has been said of P2Es, and what of it holds here",
    "13_own_ppg": "fig29_own_ppg, table25_joins: a file of your own, refused parts, bands, a page of ECG paper; joins "
                  "of windows",
    "14_sim_to_real": "fig27_sim_to_real, table22_sim_to_real: a model from simulation on real recordings (real data "
                      "sets only)",
    "15_solutions": "nothing: the solutions of the exercises in 02, 03 and 04, with their reasons",
    "16_reference": "fig30_regimes, fig31_reference_leads, fig32_changes, fig33_one_change, fig35_methods_by_regime, "
                    "table28_references, table29_reference_gain, table30_coherence, table31_changes, "
                    "table33_others_by_regime: what one earlier ECG of the person buys, and what it cannot show "
                    "(simulated data only)",
    "17_reference_real": "fig34_reference_by_time, table32_reference_by_time: what it buys on real recordings, by the "
                         "time since (real data sets only)",
}  # fmt: skip
#: The table of the runs that the others of its folder are made of, and how long each notebook took.
RUNS_TABLE, MINUTES_TABLE = "table26_runs", "table04_minutes"
#: Commands, other than the execution of a notebook, that write a table.
_OTHER_COMMANDS = {RUNS_TABLE: "reproduce", MINUTES_TABLE: "readme"}
#: Tables that no run went into: they are about the prepared windows, or the workflow itself.
_WITHOUT_RUNS = ("table01_cohort", "table05_measurements", "table06_told_apart", "table14_delineation",
                 RUNS_TABLE, MINUTES_TABLE)  # fmt: skip
#: Parameters, besides data set and profile, that decide what is in a table, by the command that makes it: defaults.
_OPTIONS = {
    "01_data": {},
    "07_results": {"variant": "p2es", "seeds": "0"},
    "14_sim_to_real": {},
    "17_reference_real": {},
    "readme": {},
}


def _check_name(kind: str, name: str) -> None:
    if not re.fullmatch(rf"{kind}\d\d_[a-z0-9_]+", name):
        raise InputError(f"{name!r} is no name for this; write {kind}, two digits and words, as in {kind}01_cohort")


def save_figure(fig: Figure, folder: Path | str, name: str, *, close: bool = True) -> Path:
    """Write ``name.png`` (300 dpi) and ``name.pdf`` (fonts embedded as TrueType); returns the path of the PNG.

    Neither file holds a date or a software version, so that equal figures are equal files. ``name`` is one such as
    ``fig01_cohort``. ``close``: close a figure that pyplot manages; the figures of this package are not among them.
    """
    _check_name("fig", name)
    path = Path(folder) / f"{name}.png"
    for suffix, unsaid in ((".pdf", ("CreationDate", "Producer", "Creator")), (".png", ("Software",))):
        with use_style(), atomic_path(path.with_suffix(suffix)) as temporary:
            fig.savefig(temporary, dpi=300, metadata=dict.fromkeys(unsaid))
    if close and (pyplot := sys.modules.get("matplotlib.pyplot")):
        pyplot.close(fig)
    return path


def save_table(frame: pd.DataFrame, folder: Path | str, name: str, caption: str, *,
               float_format: str | Mapping[str, str] = ".3f",
               parameters: Mapping[str, object] | None = None) -> Path:  # fmt: skip
    """Write ``name.csv`` (six significant digits) and ``name.md`` (rounded, below its caption); returns the CSV's path.

    In the figures folder of the workflow, the Markdown ends with the command that makes the table; see
    :func:`provenance`, to which ``parameters`` go. The CSV is the table alone, without its index. ``name`` is one such
    as ``table02_results``; ``caption`` says what rows, units and intervals are; ``float_format`` is that of the numbers
    in Markdown, or one per column (others ``".3f"``).
    """
    _check_name("table", name)
    path = Path(folder) / f"{name}.csv"
    with atomic_path(path) as temporary:
        frame.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")
    parts = [caption.strip(), markdown_table(frame, float_format), provenance(path.parent, name, parameters)]
    with atomic_path(path.with_suffix(".md")) as temporary:
        temporary.write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")
    return path


def markdown_table(table: pd.DataFrame, float_format: str | Mapping[str, str] = ".3f") -> str:
    """Markdown text of a table; missing values read ``n/a``, numbers are right-aligned and keep their formatting."""
    formats = float_format if isinstance(float_format, Mapping) else dict.fromkeys(table.columns, float_format)

    def cell(value, column) -> str:
        if value is None or (np.isscalar(value) and pd.isna(value)):
            return "n/a"
        if isinstance(value, (float, np.floating)):
            return format(float(value), formats.get(column, ".3f"))
        return str(value).replace("|", "\\|").replace("\n", " ")

    text = pd.DataFrame({str(c): [cell(value, c) for value in table[c]] for c in table.columns}, dtype=object)
    sides = ["right" if pd.api.types.is_numeric_dtype(table[c]) else "left" for c in table.columns]
    # Numbers are formatted above: left to itself, tabulate would parse "0.120" and print 0.12, and "007" as 7.
    return text.to_markdown(index=False, tablefmt="pipe", disable_numparse=True, colalign=sides if len(text) else None)


def notebook_of(table: str) -> str | None:
    """Name of the notebook that writes a table (``"table02_results"``); None if none does."""
    return next((name for name, text in ARTEFACTS.items() if table in re.findall(r"\btable\d\d_\w+", text)), None)


def provenance(folder: Path, table: str, parameters: Mapping[str, object] | None = None) -> str:
    """Where a table comes from, as a line of Markdown: the command that makes it, and where its runs are listed.

    Empty for a table that the workflow does not write, and outside the workflow's folders of figures. Seeds (and the
    variant of notebook 07), where they are not the usual ones, are those of ``parameters``, or of the running notebook.
    """
    folder = Path(folder).resolve()
    dataset, _, profile = folder.name.rpartition("-")
    name = notebook_of(table) or _OTHER_COMMANDS.get(table)
    if folder.parent != (home() / "figures").resolve() or not dataset or profile not in PROFILES or not name:
        return ""
    if parameters is None:
        ipython = sys.modules.get("IPython")
        parameters = getattr(ipython and ipython.get_ipython(), "user_ns", {})
    words = ["p2es", *(["notebook"] if name in ARTEFACTS else []), name, "--dataset", dataset, "--profile", profile]
    for option, default in _OPTIONS.get(name, {"seeds": "0"}).items():
        value = str(parameters.get(option, default)).replace(" ", "")
        words += [] if value == default else [f"--{option}", value]
    runs = "" if table in _WITHOUT_RUNS else f" Its runs: those of `{RUNS_TABLE}`."
    return f"Made by `{' '.join(words)}`.{runs}"
