"""Metrics: waveform, distribution and clinical ones, and the tables of scores made of them.

``evaluate`` scores samples window by window, ``summarise`` and ``summarise_difference`` average scores with intervals,
``frechet_table`` compares distributions. :data:`METRICS` holds the label, unit and direction of every metric.
"""

from p2es_lib.metrics.distribution import frechet_table
from p2es_lib.metrics.scores import ESTIMATES, LEAD_GROUPS, METRICS, Metric, evaluate
from p2es_lib.metrics.summary import summarise, summarise_difference

__all__ = [
    "ESTIMATES",
    "LEAD_GROUPS",
    "METRICS",
    "Metric",
    "evaluate",
    "frechet_table",
    "summarise",
    "summarise_difference",
]
