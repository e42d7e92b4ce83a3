"""What became of a recording, gathered block by block: how much was translated, what was refused, what is shown."""

from __future__ import annotations

from pathlib import Path

from p2es_lib.signals.cleaning import true_runs
from p2es_lib.translation.live import EcgBlock, WindowReport

#: Length of the stretch that a page shows, s.
PAGE_S = 10.0
#: Refused stretches that a report names; the table of the windows has all.
MAX_NAMED = 5


class Summary:
    """How much of a recording was translated, and how good its PPG was.

    Parameters
    ----------
    rate : float
        Hz, of the ECG.
    window_s : float
        Length of a window, s.
    min_quality : float
        Below it a window's PPG is poor.
    """

    def __init__(self, rate: float, window_s: float, min_quality: float):
        self.rate, self.window_s, self.min_quality = rate, window_s, min_quality
        self.n_total = self.n_covered = 0
        self.gaps: list[list[int]] = []  # first sample without a translation, first after it
        self.windows: list[WindowReport] = []

    def add(self, block: EcgBlock) -> None:
        """Take the next block into account."""
        self.n_total += len(block)
        self.n_covered += int(block.covered.sum())
        self.windows += block.windows
        for first, stop in (block.start + true_runs(~block.covered)).tolist():
            if self.gaps and self.gaps[-1][1] == first:
                self.gaps[-1][1] = stop
            else:
                self.gaps.append([first, stop])

    def lines(self) -> list[str]:
        """What to tell the user: how much was translated, which parts were refused, whether the PPG is poor."""
        lines = [f"translated {self.n_covered / self.rate:.1f} of {self.n_total / self.rate:.1f} s"]
        if self.gaps:
            named = ", ".join(f"{a / self.rate:.1f} to {b / self.rate:.1f} s" for a, b in self.gaps[:MAX_NAMED])
            more = f" and {len(self.gaps) - MAX_NAMED} more" if len(self.gaps) > MAX_NAMED else ""
            lines[0] += f"; the rest has no usable PPG (missing or flat) and is missing in the ECG: {named}{more}"
        poor = [w.quality < self.min_quality for w in self.windows if not w.refused]
        if any(poor):
            share = f"(quality below {self.min_quality:g}) in {100 * sum(poor) / len(poor):.0f} % of the windows"
            lines.append(f"WARNING: the PPG is poor {share}")
        return lines

    def worst_quality(self, begin_s: float, end_s: float) -> float:
        """Least quality, 0 to 1, of the translated windows that a stretch touches."""
        touching = (w for w in self.windows if w.start_s < end_s and w.start_s + self.window_s > begin_s)
        return min(w.quality for w in touching if not w.refused)

    def write_windows(self, path: Path) -> None:
        """Write the table of the windows: start and end (s), quality, and why it was refused (empty if it was not)."""
        rows = [f"{w.start_s:.3f},{w.start_s + self.window_s:.3f},{w.quality:.3f},{w.refused}" for w in self.windows]
        path.write_text("\n".join(["start_s,end_s,quality,refused", *rows, ""]), encoding="utf-8", newline="\n")


class Excerpt:
    """Finds the stretch that a page shows: the first :data:`PAGE_S` without a gap, or the longest there is."""

    def __init__(self, rate: float):
        self.n_wanted = round(PAGE_S * rate)
        self._best: list[EcgBlock] = []
        self._current: list[EcgBlock] = []

    def add(self, block: EcgBlock) -> None:
        """Take the next block into account."""
        for first, stop in true_runs(block.covered).tolist():
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
