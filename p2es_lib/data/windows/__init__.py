"""The prepared windows: their store, their splits, and the training batches drawn from them."""

from p2es_lib.data.windows.batches import TrainingBatches, simulator_config
from p2es_lib.data.windows.splits import AGE_BANDS, SPLIT_KINDS, cohort_table, label_words
from p2es_lib.data.windows.store import (
    SHARD_SETTINGS,
    SPLITS,
    Shards,
    ShardWriter,
    WindowArray,
    WindowSet,
    read_rejected,
    read_settings,
    read_table,
    read_windows,
    stored_beats,
    write_table,
    write_view,
    write_windows,
)

__all__ = [
    "AGE_BANDS", "SHARD_SETTINGS", "SPLITS", "SPLIT_KINDS", "ShardWriter", "Shards", "TrainingBatches", "WindowArray",
    "WindowSet", "cohort_table", "label_words", "read_rejected", "read_settings", "read_table", "read_windows",
    "simulator_config", "stored_beats", "write_table", "write_view", "write_windows",
]  # fmt: skip
