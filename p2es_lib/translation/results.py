"""What a translation writes, block by block: WFDB files, a table, the quality of windows and a page; all or nothing."""

import hashlib
import os
import re
import unicodedata
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from p2es_lib import __version__
from p2es_lib.core.leads import LEADS
from p2es_lib.core.paths import temporary_folder
from p2es_lib.signals.cleaning import true_runs
from p2es_lib.translation.check import WindowReport
from p2es_lib.translation.live import EcgBlock, LiveTranslator, ecg_blocks, nothing_usable

#: Shown on everything that leaves this module.
DISCLAIMER = "research use only, not a diagnosis"
#: How many stretches a report names, of those that are missing and of those in doubt.
MAX_NAMED = 5
#: Length of the stretch that a page shows, s.
PAGE_S = 10.0
#: Steps per mV of the WFDB files: 1 microvolt a step, so 16 bits hold 32 mV; and WFDB's own mark for a missing sample.
GAIN_PER_MV, _MISSING = 1000, -32768
#: A line of CSV holds 49 numbers: about so many bytes.
CSV_BYTES_PER_LINE = 320
#: What each result is called after the name of the recording.
_ENDINGS = {
    "ecg": "_p2es.hea", "central": "_p2es_central.hea", "spread": "_p2es_sd.hea", "csv": "_p2es.csv",
    "quality": "_p2es_quality.csv", "picture": "_p2es.png", "picture_pdf": "_p2es.pdf",
}  # fmt: skip


class WfdbWriter:
    """Appends (12, n) mV to a WFDB record in 16 bits, at a rate in Hz; NaN becomes WFDB's own mark for missing."""

    def __init__(self, header: Path, sampling_rate: float):
        self.header, self.sampling_rate = header, sampling_rate
        self._file = open(header.with_suffix(".dat"), "wb")  # noqa: SIM115 (closed by close)
        self._first: list[int] = []
        self._checksum, self._length = np.zeros(len(LEADS), dtype=np.int64), 0

    def write(self, signals: np.ndarray) -> None:
        """Append (12, n) mV."""
        steps = np.clip(np.round(np.asarray(signals, np.float64) * GAIN_PER_MV), _MISSING + 1, 32767)
        steps = np.where(np.isnan(steps), _MISSING, steps).astype("<i2")
        self._first = self._first or steps[:, :1].ravel().tolist()
        self._checksum += steps.sum(axis=1, dtype=np.int64)
        self._length += steps.shape[1]
        self._file.write(np.ascontiguousarray(steps.T).tobytes())

    def close(self, comments: list[str]) -> None:
        """Write the header, with these comment lines."""
        import wfdb

        self._file.close()
        n = len(LEADS)
        # The sum of all samples as 16 bits with sign, as the format defines it.
        checksum = self._checksum.astype(np.int16).tolist()
        record = wfdb.Record(
            record_name=self.header.stem, n_sig=n, fs=self.sampling_rate, sig_len=self._length, fmt=["16"] * n,
            file_name=[f"{self.header.stem}.dat"] * n, adc_gain=[float(GAIN_PER_MV)] * n, baseline=[0] * n,
            units=["mV"] * n, adc_res=[16] * n, adc_zero=[0] * n, init_value=self._first, checksum=checksum,
            block_size=[0] * n, sig_name=list(LEADS), comments=comments,
        )  # fmt: skip
        record.wrheader(write_dir=str(self.header.parent))


def append_csv(path: Path, block: EcgBlock, sampling_rate: float, comments: list[str]) -> None:
    """Append a block to a table: ``time_s``, then per lead mean, edges of the band and central sample (``II_mV``,
    ``II_lower_mV``, ``II_upper_mV``, ``II_central_mV``), and ``doubtful``, 0 or 1.

    The first lines, which begin with ``#``, are comments (``pandas.read_csv(..., comment="#")``). Missing is empty.
    """
    import pandas as pd

    rows = np.stack([block.mean, block.lower, block.upper, block.central], axis=1).reshape(4 * len(LEADS), -1)
    names = [f"{lead}{part}_mV" for lead in LEADS for part in ("", "_lower", "_upper", "_central")]
    times = [f"{(block.start + i) / sampling_rate:.4f}" for i in range(len(block))]
    with open(path, "a", encoding="utf-8", newline="\n") as file:
        is_new = not file.tell()
        file.writelines(f"# {line}\n" for line in (comments if is_new else []))
        table = pd.DataFrame(rows.T, times, names).assign(doubtful=block.doubtful.astype(int))
        table.to_csv(file, header=is_new, index_label="time_s", float_format="%.4f", lineterminator="\n")


@dataclass
class Summary:
    """How much of a recording was translated, how much of it is in doubt, and the stretch that a page shows.

    ``rate`` of the ECG, Hz; length of a window, s. ``page``: the first :data:`PAGE_S` without a gap, or the longest
    stretch there is, or None.
    """

    rate: float
    window_s: float
    page: EcgBlock | None = None
    windows: list[WindowReport] = field(default_factory=list)
    _covered: list[np.ndarray] = field(default_factory=list)
    _doubtful: list[np.ndarray] = field(default_factory=list)
    _stretch: EcgBlock | None = None

    def add(self, block: EcgBlock) -> None:
        """Take the next block into account."""
        self.windows += block.windows
        self._covered.append(block.covered)
        self._doubtful.append(block.doubtful)
        n_wanted = round(PAGE_S * self.rate)
        for first, stop in true_runs(block.covered).tolist():
            if self.page and len(self.page) >= n_wanted:
                return
            stretch = block.part(first, stop)
            if self._stretch and self._stretch.start + len(self._stretch) == stretch.start:
                stretch = EcgBlock.joined([self._stretch, stretch])
            self._stretch = stretch.part(0, n_wanted)
            if not self.page or len(self._stretch) > len(self.page):
                self.page = self._stretch

    def lines(self) -> list[str]:
        """What to tell the user: how much was translated, what was refused, and which parts are in doubt, and why."""
        covered, doubtful = np.concatenate(self._covered), np.concatenate(self._doubtful)
        lines = [f"translated {covered.sum() / self.rate:.1f} of {len(covered) / self.rate:.1f} s"]
        if not covered.all():
            named = self._named(~covered)
            lines[0] += f"; the rest has no usable PPG (missing or flat) and is missing in the ECG: {named}"
        if doubts := [w.doubt for w in self.windows if w.doubt]:
            of_all = f"{len(doubts)} of {sum(not w.refused for w in self.windows)} windows"
            where = f": {self._named(doubtful)}" if doubtful.any() else ""
            lines.append(f"WARNING: the ECG of {of_all} is in doubt ({describe_doubts(doubts)}){where}")
        return lines

    def _named(self, mask: np.ndarray) -> str:
        """Where samples (T,) are True: the first stretches in s, and how many more there are."""
        runs = true_runs(mask)
        named = ", ".join(f"{first:.1f} to {stop:.1f} s" for first, stop in runs[:MAX_NAMED] / self.rate)
        return named + (f" and {len(runs) - MAX_NAMED} more" if len(runs) > MAX_NAMED else "")

    def on_page(self) -> list[WindowReport]:
        """The translated windows that the page shows a part of."""
        begin_s, end_s = (place / self.rate for place in (self.page.start, self.page.start + len(self.page)))
        return [w for w in self.windows if w.start_s < end_s and w.start_s + self.window_s > begin_s and not w.refused]


def describe_doubts(doubts: list[str]) -> str:
    """Why windows are in doubt, with how many of them for each reason, most first."""
    counts = Counter(reason for doubt in doubts for reason in doubt.split("; "))
    return ", ".join(f"{reason}: {count}" for reason, count in counts.most_common())


def write_results(
    out: Path, record: str, about: dict, told: dict[str, str], live: LiveTranslator, ppg: np.ndarray, wants_csv: bool,
    progress: bool,
) -> tuple[dict[str, Path | str], list[str]]:  # fmt: skip
    """Translate a recording, write what comes out, and say where it is and how it went.

    Everything is made in a folder beside the results and moved at the end: a failure leaves nothing behind, and what a
    killed process left there goes with the next call. ``about``: model, age and sex; ``told``: further lines for the
    heads of the files. ``live`` is fresh; ``ppg`` (T,) is as recorded, pulses upward, NaN where missing. An
    :class:`InputError` if no window could be translated.
    """
    existed, name = out.is_dir(), record_name(record)
    age = "age unknown" if about["age"] is None else f"age {about['age']:.0f}"
    lines = [f"P2Es {__version__}, PPG to ECG, {DISCLAIMER}", f"model: {about['model']}"]
    lines += [f"{age}, sex {about['sex'] or 'unknown'}", *(f"{what}: {text}" for what, text in told.items())]
    try:
        with temporary_folder(out / "translating") as folder:
            path = {what: folder / (name + ending) for what, ending in _ENDINGS.items()}
            blocks = ecg_blocks(live, ppg, progress)
            summary, report = _write_signals(path, list(map(_plain, lines)), live, blocks, wants_csv)
            notes = [f"reference: {told['reference']}", *report] if "reference" in told else report
            _draw_page(path, record, about, summary, live.n_samples > 1, notes)
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


def _write_signals(path: dict, comments: list[str], live: LiveTranslator, blocks, wants_csv: bool):
    """All files but the page; returns the :class:`Summary` of the recording, and its lines for the user."""
    writers = ecg, central, spread = [WfdbWriter(path[what], live.rate) for what in ("ecg", "central", "spread")]
    summary = Summary(live.rate, live.n_window / live.rate)
    for block in blocks:
        ecg.write(block.mean)
        central.write(block.central)
        spread.write(block.std)
        if wants_csv:
            append_csv(path["csv"], block, live.rate, comments)
        summary.add(block)
    if not summary.page:
        raise nothing_usable(live)
    report = summary.lines()
    for writer in writers:
        writer.close([*comments, *map(_plain, report)])
    rows = [
        f"{w.start_s:.3f},{w.start_s + summary.window_s:.3f},{w.quality:.3f},{w.refused},{w.pulses},{w.beats},{w.doubt}"
        for w in summary.windows
    ]
    text = "\n".join(["start_s,end_s,quality,refused,pulses,beats,doubt", *rows, ""])
    path["quality"].write_text(text, encoding="utf-8", newline="\n")
    return summary, report


def _draw_page(path: dict, record: str, about: dict, summary: Summary, has_spread: bool, report: list[str]) -> None:
    from p2es_lib import plots

    shown, windows = summary.page, summary.on_page()
    doubts = [w.doubt for w in windows if w.doubt]
    quality = f"PPG quality {min(w.quality for w in windows):.2f} of 1 in the worst window of this stretch"
    quality += f"; IN DOUBT: {describe_doubts(doubts)}" if doubts else ""
    title = f"{record}, from {shown.start / summary.rate:.1f} s" + (", IN DOUBT" if doubts else "")
    spread = (shown.lower, shown.upper) if has_spread else None
    texts = {**about, "quality": "; ".join([quality, *report]), "record": title}
    figure = plots.plot_translation(
        shown.central, summary.rate, shown.ppg, spread=spread, doubtful=shown.doubtful, **texts
    )
    plots.save_figure(figure, path["picture"].parent, "fig01_translation")
    for what in ("picture", "picture_pdf"):
        path[what].with_name(f"fig01_translation{path[what].suffix}").rename(path[what])


def record_name(stem: str) -> str:
    """Name that WFDB allows for a record: ASCII letters, digits, ``_`` and ``-``; anything else becomes ``_``.

    A changed name gets a short hash of the original, so that "Müller" and "Möller" do not share their results.
    """
    # One name has two spellings in Unicode, and file systems differ in which they hand out.
    stem = unicodedata.normalize("NFC", stem)
    name = re.sub(r"[^A-Za-z0-9_-]", "_", stem)
    # A file name may hold bytes that are no UTF-8 (surrogates here).
    digest = hashlib.sha256(stem.encode("utf-8", "surrogateescape")).hexdigest()
    return name if name == stem else f"{name}_{digest[:8]}"


def _plain(text: str) -> str:
    """Text as a WFDB header may hold it: one line of ASCII."""
    return " ".join(text.replace("µ", "u").replace("μ", "u").encode("ascii", "replace").decode().split())
