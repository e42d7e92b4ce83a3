"""What a translation writes: WFDB files, a table, the quality of the windows and a page; all of it or nothing."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from p2es_lib import __version__
from p2es_lib.core.demographics import Demographics
from p2es_lib.core.paths import temporary_folder
from p2es_lib.signals.cleaning import fault_mask
from p2es_lib.translation.ecg_files import CSV_BYTES_PER_LINE, CsvWriter, WfdbWriter
from p2es_lib.translation.live import EcgBlock, LiveTranslator, ecg_blocks, nothing_usable
from p2es_lib.translation.report import Excerpt, Summary

#: Shown on everything that leaves this module.
DISCLAIMER = "research use only, not a diagnosis"
#: Share of faulty samples (flat, clipped, wrapped around) from which on the user is warned.
MAX_FAULTS = 0.01


@dataclass(frozen=True)
class Origin:
    """What the files say of where an ECG comes from.

    Parameters
    ----------
    record : str
        Name of the recording.
    model : str
        Which model made it, in one line.
    person : Demographics
        One row.
    told : dict
        Further lines by what they are about.
    """

    record: str
    model: str
    person: Demographics
    told: dict[str, str]

    @property
    def age(self) -> float | None:
        """Years; None if not known."""
        return None if np.isnan(self.person.age[0]) else float(self.person.age[0])

    @property
    def sex(self) -> str:
        """``"F"``, ``"M"`` or ``""``."""
        return str(self.person.sex[0])

    def comments(self) -> list[str]:
        """Lines for the head of a file."""
        known = ("age unknown" if self.age is None else f"age {self.age:.0f}") + f", sex {self.sex or 'unknown'}"
        lines = [f"P2Es {__version__}, PPG to ECG, {DISCLAIMER}", f"model: {self.model}", known]
        return [_plain(line) for line in (*lines, *(f"{what}: {text}" for what, text in self.told.items()))]


def write_results(
    out: Path, origin: Origin, live: LiveTranslator, ppg: np.ndarray, *, wants_csv: bool, progress: bool
) -> tuple[dict[str, Path | str], list[str]]:
    """Translate a recording and write what comes out.

    Everything is made in a folder beside the results and moved at the end: a failure leaves nothing behind, and what a
    killed process left there goes with the next call.

    Parameters
    ----------
    out : Path
        Folder, made if needed.
    live : LiveTranslator
        Fresh, for this PPG.
    ppg : array (T,)
        As recorded, pulses upward, NaN where missing.
    wants_csv : bool
        Whether a table is written too.

    Returns
    -------
    written : dict
        Where each result is; for a table that was not wanted, how large it would be.
    report : list of str
        How much was translated, and warnings.

    Raises
    ------
    InputError
        No window could be translated.
    """
    existed, name = out.is_dir(), record_name(origin.record)
    try:
        with temporary_folder(out / "translating") as folder:
            report = _write_into(folder / f"{name}_p2es", origin, live, ppg, wants_csv, progress)
            for file in sorted(folder.iterdir()):
                os.replace(file, out / file.name)
    except BaseException:
        if not existed:
            with suppress(OSError):  # somebody else's files are in it
                out.rmdir()
        raise
    endings = {"ecg": ".hea", "spread": "_sd.hea", "csv": ".csv", "quality": "_quality.csv", "picture": ".png"}
    endings["picture_pdf"] = ".pdf"
    written = {what: out / f"{name}_p2es{ending}" for what, ending in endings.items()}
    if not wants_csv:
        size_gb = len(ppg) / live.rate_in * live.rate * CSV_BYTES_PER_LINE / 1e9
        written["csv"] = f"not written, it would take {size_gb:.1f} GB; --csv writes it"
    return written, report


def _write_into(
    path: Path, origin: Origin, live: LiveTranslator, ppg: np.ndarray, wants_csv: bool, progress: bool
) -> list[str]:
    """All files, whose names begin as ``path``; returns the report."""
    rate, comments = live.rate, origin.comments()
    ecg, spread = (WfdbWriter(path.parent, path.name + ending, rate) for ending in ("", "_sd"))
    table = CsvWriter(path.with_name(path.name + ".csv"), rate, comments) if wants_csv else None
    summary, excerpt = Summary(), Excerpt(rate)
    for block in ecg_blocks(live, ppg, progress):
        ecg.write(block.mean)
        spread.write(block.std)
        if table:
            table.write(block)
        summary.add(block)
        excerpt.add(block)
    if not summary.n_covered:
        raise nothing_usable(live)
    report = summary.lines(rate, live.model.config.data.min_quality)
    faults = fault_mask(ppg, live.rate_in)[np.isfinite(ppg)].mean()
    if faults > MAX_FAULTS:
        report.append(f"WARNING: {100 * faults:.0f} % of the PPG is flat, clipped or wrapped around as recorded")
    for writer in (ecg, spread):
        writer.close([*comments, *map(_plain, report)])
    if table:
        table.close()
    summary.write_windows(path.with_name(path.name + "_quality.csv"), live.n_window / rate)
    _draw_page(path, origin, live, summary, excerpt.longest(), report)
    return report


def _draw_page(
    path: Path, origin: Origin, live: LiveTranslator, summary: Summary, shown: EcgBlock, report: list[str]
) -> None:
    """Ten seconds on ECG paper, as PDF and PNG."""
    from p2es_lib import plots

    rate, window_s, limit = live.rate, live.n_window / live.rate, live.model.config.data.min_quality
    stretch_s = (shown.start / rate, (shown.start + len(shown)) / rate)
    poor = ", POOR PPG" if summary.worst_quality(stretch_s, window_s) < limit else ""
    figure = plots.plot_translation(
        shown.mean,
        rate,
        shown.ppg,
        spread=(shown.lower, shown.upper) if live.n_samples > 1 else None,
        age=origin.age,
        sex=origin.sex,
        model=origin.model,
        quality="; ".join([summary.quality_line(stretch_s, window_s, limit), *report]),
        record=f"{origin.record}, from {stretch_s[0]:.1f} s{poor}",
    )
    plots.save_figure(figure, path.parent, "fig01_translation")
    for ending in (".png", ".pdf"):
        (path.parent / f"fig01_translation{ending}").rename(path.with_name(path.name + ending))


def record_name(stem: str) -> str:
    """Name that WFDB allows for a record: ASCII letters, digits, ``_`` and ``-``; anything else becomes ``_``.

    A name that had to be changed gets a short hash of the original one, so that "Müller" and "Möller" do not overwrite
    each other's results.
    """
    # One name has two spellings in Unicode, and file systems differ in which they hand out.
    stem = unicodedata.normalize("NFC", stem)
    # Headers are read as ASCII, and isalnum alone holds for letters of any script.
    name = "".join(c if (c.isascii() and c.isalnum()) or c in "_-" else "_" for c in stem)
    if name == stem:
        return name
    # A file name may hold bytes that are no UTF-8 (surrogates here).
    return f"{name}_{hashlib.sha256(stem.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"


def _plain(text: str) -> str:
    """Text as a WFDB header may hold it: one line of ASCII."""
    return " ".join(text.replace("µ", "u").replace("μ", "u").encode("ascii", "replace").decode().split())
