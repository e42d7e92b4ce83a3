"""What became of a recording, gathered block by block: how much was translated, what was refused, what is shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from p2es_lib.signals.cleaning import true_runs
from p2es_lib.translation.live import EcgBlock, WindowReport

#: Length of the stretch that a page shows, s.
PAGE_S = 10.0
#: Refused stretches that a report names; the table of the windows has all.
MAX_NAMED = 5


class Summary:
    """How much of a recording was translated, and how good its PPG was."""

    def __init__(self):
        self.n_total = self.n_covered = 0
        self.gaps: list[list[int]] = []  # first sample without a translation, first after it
        self.windows: list[WindowReport] = []

    @classmethod
    def of(cls, block: EcgBlock) -> Summary:
        """Summary of a recording in one block."""
        summary = cls()
        summary.add(block)
        return summary

    def add(self, block: EcgBlock) -> None:
        """Take the next block into account."""
        self.n_total += len(block)
        self.n_covered += int(block.covered.sum())
        self.windows += block.windows
        for first, stop in true_runs(~block.covered):
            if self.gaps and self.gaps[-1][1] == block.start + first:
                self.gaps[-1][1] = block.start + stop
            else:
                self.gaps.append([block.start + first, block.start + stop])

    @property
    def quality(self) -> np.ndarray:
        """Quality of each translated window, 0 to 1."""
        return np.array([window.quality for window in self.windows if not window.refused])

    def lines(self, sampling_rate: float, min_quality: float) -> list[str]:
        """What to tell the user: how much was translated, which parts were refused, whether the PPG is poor."""
        total_s, covered_s = self.n_total / sampling_rate, self.n_covered / sampling_rate
        lines = [f"translated {covered_s:.1f} of {total_s:.1f} s"]
        if self.gaps:
            named = ", ".join(f"{a / sampling_rate:.1f} to {b / sampling_rate:.1f} s" for a, b in self.gaps[:MAX_NAMED])
            more = f" and {len(self.gaps) - MAX_NAMED} more" if len(self.gaps) > MAX_NAMED else ""
            lines[0] += f"; the rest has no usable PPG (missing or flat) and is missing in the ECG: {named}{more}"
        poor = float((self.quality < min_quality).mean()) if len(self.quality) else 0.0
        if poor > 0:
            lines.append(
                f"WARNING: the PPG is poor (quality below {min_quality:g}) in {100 * poor:.0f} % of the windows"
            )
        return lines

    def worst_quality(self, stretch_s: tuple[float, float], window_s: float) -> float:
        """Least quality, 0 to 1, of the translated windows that a stretch (seconds) touches."""
        return min(
            w.quality
            for w in self.windows
            if not w.refused and w.start_s < stretch_s[1] and w.start_s + window_s > stretch_s[0]
        )

    def quality_line(self, stretch_s: tuple[float, float], window_s: float, min_quality: float) -> str:
        """Quality of the windows that a stretch (seconds) touches."""
        worst = self.worst_quality(stretch_s, window_s)
        return f"PPG quality {worst:.2f} of 1 in the worst window of this stretch (poor: below {min_quality:g})"

    def write_windows(self, path: Path, window_s: float) -> None:
        """Write the table of the windows: start and end (s), quality, and why it was refused (empty if it was not)."""
        with open(path, "w", encoding="utf-8", newline="\n") as file:
            file.write("start_s,end_s,quality,refused\n")
            for w in self.windows:
                file.write(f"{w.start_s:.3f},{w.start_s + window_s:.3f},{w.quality:.3f},{w.refused}\n")


class Excerpt:
    """Finds the stretch that a page shows: the first :data:`PAGE_S` without a gap, or the longest there is."""

    def __init__(self, sampling_rate: float):
        self.n_wanted = round(PAGE_S * sampling_rate)
        self._best: list[EcgBlock] = []
        self._current: list[EcgBlock] = []

    def add(self, block: EcgBlock) -> None:
        """Take the next block into account."""
        for first, stop in true_runs(block.covered):
            if _length(self._best) >= self.n_wanted:
                return
            if not self._current or self._current[-1].start + len(self._current[-1]) != block.start + first:
                self._current = []
            stop = min(stop, first + self.n_wanted - _length(self._current))
            self._current.append(block.part(first, stop))
            if _length(self._current) > _length(self._best):
                self._best = list(self._current)

    def longest(self) -> EcgBlock:
        """That stretch; at least one window must have been translated."""
        return EcgBlock.joined(self._best)


def _length(blocks: list[EcgBlock]) -> int:
    return sum(map(len, blocks))
