"""Long signals in parts, so that memory stays bounded however long a record is."""

from __future__ import annotations

from collections.abc import Iterator

from p2es_lib.data.sources.contract import Signal, Stretch

#: Length of a part, and margin on both sides, in which filters settle and into which the last window of a part may
#: reach.
PART_S, MARGIN_S = 1800.0, 16.0


def in_parts(
    ppg: Signal | None, leads: dict[str, Signal], rhythm: Signal | None = None, start_s: float = 0.0
) -> Iterator[Stretch]:
    """Signals in memory as stretches of :data:`PART_S`, with margins inside the signals.

    Parts begin on a sample of every signal whose rate is a whole number of hertz.
    """
    signals = [signal for signal in (ppg, rhythm, *leads.values()) if signal is not None]
    end_s = min(len(x) / rate for x, rate in signals)

    def cut(signal: Signal | None, from_s: float, to_s: float) -> Signal | None:
        if signal is None:
            return None
        x, rate = signal
        return x[round(from_s * rate) : round(to_s * rate)], rate

    first_s = 0.0
    while first_s < end_s:
        last_s = min(end_s, first_s + PART_S)
        span = max(0.0, first_s - MARGIN_S), min(end_s, last_s + MARGIN_S)
        yield Stretch(
            start_s=start_s + first_s,
            ppg=cut(ppg, *span),
            leads={lead: cut(signal, *span) for lead, signal in leads.items()},
            rhythm=cut(rhythm, *span),
            margin_s=first_s - span[0],
            keep_s=last_s - first_s,
        )
        first_s = last_s
