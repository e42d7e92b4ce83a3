"""Write figures and tables under their numbered names, whole or not at all, the same bytes for the same input."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from p2es_lib.core.errors import InputError
from p2es_lib.core.paths import atomic_path
from p2es_lib.plots.artefacts import provenance
from p2es_lib.plots.style import use_style


def _check_name(kind: str, name: str) -> None:
    if not re.fullmatch(rf"{kind}\d\d_[a-z0-9_]+", name):
        raise InputError(f"{name!r} is no name for this; write {kind}, two digits and words, as in {kind}01_cohort")


def save_figure(fig: Figure, folder: Path | str, name: str, *, close: bool = True) -> Path:
    """Write ``name.png`` (300 dpi) and ``name.pdf`` (fonts embedded as TrueType); returns the path of the PNG.

    Neither file holds a date or a software version, so that equal figures are equal files. ``name`` is ``fig``, two
    digits, underscore, lower-case words: ``fig01_cohort``. ``close``: close a figure that pyplot manages; the figures
    of this package are not among them.
    """
    _check_name("fig", name)
    path = Path(folder) / f"{name}.png"
    for suffix, unsaid in ((".pdf", ("CreationDate", "Producer", "Creator")), (".png", ("Software",))):
        with use_style(), atomic_path(path.with_suffix(suffix)) as temporary:
            fig.savefig(temporary, dpi=300, metadata=dict.fromkeys(unsaid))
    if close:
        import matplotlib.pyplot as plt

        plt.close(fig)
    return path


def save_table(frame: pd.DataFrame, folder: Path | str, name: str, caption: str, *,
               float_format: str | Mapping[str, str] = ".3f",
               parameters: Mapping[str, object] | None = None) -> Path:  # fmt: skip
    """Write ``name.csv`` (six significant digits) and ``name.md`` (rounded, below its caption); returns the CSV's path.

    In the figures folder of the workflow, the Markdown ends with the command that makes the table; see
    :func:`p2es_lib.plots.artefacts.provenance`. The CSV is the table alone, without its index.

    Parameters
    ----------
    name : str
        ``table``, two digits, underscore, lower-case words: ``table02_results``.
    caption : str
        One or two sentences: what the rows are, units, what the intervals mean.
    float_format : str or mapping
        Format of the Markdown numbers, or one per column (others ``".3f"``).
    parameters : mapping, optional
        Of the command that makes the table, where they are not those of the running notebook.
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
    alignment = ["right" if pd.api.types.is_numeric_dtype(table[c]) else "left" for c in table.columns]
    # Numbers are formatted above: left to itself, tabulate would parse "0.120" and print 0.12, and "007" as 7.
    return text.to_markdown(
        index=False, tablefmt="pipe", disable_numparse=True, colalign=alignment if len(text) else None
    )
