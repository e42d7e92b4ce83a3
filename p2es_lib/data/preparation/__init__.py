"""From recordings to the windows of a run.

``prepare_windows(config)`` does it all. In steps, which the workflow spreads over cores or a cluster: :func:`list_jobs`
(one per shard), :func:`run_job` for each, and ``prepare_windows``, which then only assembles.
"""

from p2es_lib.data.preparation.acceptance import MAX_FAULTS, MAX_LEAD_RESIDUAL_MV, REASONS, judge_windows, reject
from p2es_lib.data.preparation.assembly import SPLIT_SEED, assemble, choose_windows
from p2es_lib.data.preparation.jobs import ShardJob, list_jobs, prepare_windows, run_job, run_jobs
from p2es_lib.data.preparation.prepare_shard import prepare_shard, prepared_dir, read_shard_settings
from p2es_lib.data.preparation.recording import Recording, make_recording

__all__ = [
    "MAX_FAULTS",
    "MAX_LEAD_RESIDUAL_MV",
    "REASONS",
    "SPLIT_SEED",
    "Recording",
    "ShardJob",
    "assemble",
    "choose_windows",
    "judge_windows",
    "list_jobs",
    "make_recording",
    "prepare_shard",
    "prepare_windows",
    "prepared_dir",
    "read_shard_settings",
    "reject",
    "run_job",
    "run_jobs",
]
