"""What a translation writes: WFDB files, a table, the quality of the windows and a page; all of it or nothing."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from p2es_lib import __version__
from p2es_lib.core.paths import temporary_folder
from p2es_lib.signals.cleaning import fault_mask
from p2es_lib.translation.ecg_files import CSV_BYTES_PER_LINE, CsvWriter, WfdbWriter
from p2es_lib.translation.live import LiveTranslator, ecg_blocks, nothing_usable
from p2es_lib.translation.report import Excerpt, Summary

#: Shown on everything that leaves this module.
DISCLAIMER = "research use only, not a diagnosis"
#: Share of faulty samples (flat, clipped, wrapped around) from which on the user is warned.
MAX_FAULTS = 0.01
#: What each result is called after the name of the recording.
_ENDINGS = {
    "ecg": "_p2es.hea", "spread": "_p2es_sd.hea", "csv": "_p2es.csv", "quality": "_p2es_quality.csv",
    "picture": "_p2es.png", "picture_pdf": "_p2es.pdf",
}  # fmt: skip


class Origin(NamedTuple):
    """Where an ECG comes from, for its files.

    Name of the recording; which model, in one line; age (years, None if not known) and sex (``""`` if not known);
    further lines by what they are about.
    """

    record: str
    model: str
    age: float | None
    sex: str
    told: dict[str, str]

    def comments(self) -> list[str]:
        """Lines for the head of a file."""
        known = ("age unknown" if self.age is None else f"age {self.age:.0f}") + f", sex {self.sex or 'unknown'}"
        lines = [f"P2Es {__version__}, PPG to ECG, {DISCLAIMER}", f"model: {self.model}", known]
        return [_plain(line) for line in (*lines, *(f"{what}: {text}" for what, text in self.told.items()))]


def write_results(
    out: Path, origin: Origin, live: LiveTranslator, ppg: np.ndarray, *, wants_csv: bool, progress: bool
) -> tuple[dict[str, Path | str], list[str]]:
    """Translate a recording, write what comes out, and say where it is and how it went.

    Everything is made in a folder beside the results and moved at the end: a failure leaves nothing behind, and what a
    killed process left there goes with the next call.

    Parameters
    ----------
    live : LiveTranslator
        Fresh, for this PPG.
    ppg : array (T,)
        As recorded, pulses upward, NaN where missing.

    Raises
    ------
    InputError
        No window could be translated.
    """
    existed, name = out.is_dir(), record_name(origin.record)
    try:
        with temporary_folder(out / "translating") as folder:
            report = _write_into(folder / name, origin, live, ppg, wants_csv, progress)
            for file in sorted(folder.iterdir()):
                os.replace(file, out / file.name)
    except BaseException:
        if not existed:
            with suppress(OSError):  # somebody else's files are in it
                out.rmdir()
        raise
    written: dict[str, Path | str] = {what: out / (name + ending) for what, ending in _ENDINGS.items()}
    if not wants_csv:
        size_gb = len(ppg) / live.rate_in * live.rate * CSV_BYTES_PER_LINE / 1e9
        written["csv"] = f"not written, it would take {size_gb:.1f} GB; --csv writes it"
    return written, report


def _write_into(
    stem: Path, origin: Origin, live: LiveTranslator, ppg: np.ndarray, wants_csv: bool, progress: bool
) -> list[str]:
    """All files, whose names begin as ``stem``; returns the report."""
    path = {what: stem.with_name(stem.name + ending) for what, ending in _ENDINGS.items()}
    comments = origin.comments()
    ecg, spread = (WfdbWriter(stem.parent, path[what].stem, live.rate) for what in ("ecg", "spread"))
    table = CsvWriter(path["csv"], live.rate, comments) if wants_csv else None
    summary = Summary(live.rate, live.n_window / live.rate, live.model.config.data.min_quality)
    excerpt = Excerpt(live.rate)
    for block in ecg_blocks(live, ppg, progress):
        ecg.write(block.mean)
        spread.write(block.std)
        if table:
            table.write(block)
        summary.add(block)
        excerpt.add(block)
    if not summary.n_covered:
        raise nothing_usable(live)
    report, faults = summary.lines(), fault_mask(ppg, live.rate_in)[np.isfinite(ppg)].mean()
    if faults > MAX_FAULTS:
        report.append(f"WARNING: {100 * faults:.0f} % of the PPG is flat, clipped or wrapped around as recorded")
    for writer in (ecg, spread):
        writer.close([*comments, *map(_plain, report)])
    if table:
        table.close()
    summary.write_windows(path["quality"])
    _draw_page(path, origin, summary, excerpt, live.n_samples > 1, report)
    return report


def _draw_page(
    path: dict[str, Path], origin: Origin, summary: Summary, excerpt: Excerpt, has_spread: bool, report: list[str]
) -> None:
    """Ten seconds on ECG paper, as PDF and PNG."""
    from p2es_lib import plots

    shown = excerpt.longest()
    begin_s, end_s = shown.start / summary.rate, (shown.start + len(shown)) / summary.rate
    worst = summary.worst_quality(begin_s, end_s)
    quality = f"PPG quality {worst:.2f} of 1 in the worst window of this stretch (poor: below {summary.min_quality:g})"
    figure = plots.plot_translation(
        shown.mean,
        summary.rate,
        shown.ppg,
        spread=(shown.lower, shown.upper) if has_spread else None,
        age=origin.age,
        sex=origin.sex,
        model=origin.model,
        quality="; ".join([quality, *report]),
        record=f"{origin.record}, from {begin_s:.1f} s" + (", POOR PPG" if worst < summary.min_quality else ""),
    )
    plots.save_figure(figure, path["picture"].parent, "fig01_translation")
    for what in ("picture", "picture_pdf"):
        path[what].with_name(f"fig01_translation{path[what].suffix}").rename(path[what])


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
