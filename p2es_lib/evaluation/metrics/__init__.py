"""Metrics: of waveforms, distributions, uncertainty and clinical use, and the tables of scores made of them.

``evaluate`` scores samples window by window, ``summarise`` and ``summarise_difference`` average scores with intervals,
``frechet_table`` compares distributions, :data:`METRICS` has label, unit and direction of each metric. The rest answer:

* ``uncertainty``, ``abstention``, ``conformal``: do the samples know how wrong they may be?
* ``intervals``: what would a reader measure, and how well can it be measured at all?
* ``two_sample``: can translated beats be told from true ones?
* ``diagnostic``: is what the translated ECG says about rhythm and morphology true?
* ``groups``: for whom, and how clean a PPG, does it work?

Everywhere ``samples`` (N, K, 12, T) are K translations of N windows in mV, NaN in leads that a method does not give;
``windows`` a WindowSet, of which the true ``ecg`` (N, 12, T), ``lead_mask`` (N, 12) and ``index`` are used;
``sampling_rate`` is in Hz; ``n_bootstrap`` and ``seed`` are the resamples of subjects behind 95 % intervals.
"""

from p2es_lib.evaluation.metrics.distribution import frechet_table
from p2es_lib.evaluation.metrics.joins import join_errors, join_excess
from p2es_lib.evaluation.metrics.scores import METRICS, Metric, evaluate
from p2es_lib.evaluation.metrics.summary import summarise, summarise_difference

__all__ = ["METRICS", "Metric", "evaluate", "frechet_table", "join_errors", "join_excess"]
__all__ += ["summarise", "summarise_difference"]
