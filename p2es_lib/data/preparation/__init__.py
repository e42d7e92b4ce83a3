"""From recordings to the windows of a run.

``prepare_windows(config)`` does it all. In steps, which the workflow spreads over cores or a cluster: :func:`list_jobs`
(one per shard), :func:`run_job` for each, and ``prepare_windows``, which then only assembles.
"""

from p2es_lib.data.preparation.assembly import REASONS, choose_windows, reject
from p2es_lib.data.preparation.clean_stretch import clean_stretch, judge_windows
from p2es_lib.data.preparation.jobs import list_jobs, prepare_windows, run_job, run_jobs
from p2es_lib.data.preparation.prepare_shard import prepare_shard, prepared_dir

__all__ = [
    "REASONS", "choose_windows", "clean_stretch", "judge_windows", "list_jobs", "prepare_shard", "prepare_windows",
    "prepared_dir", "reject", "run_job", "run_jobs",
]  # fmt: skip
