"""The prepared windows: their store, their splits, and the training batches drawn from them."""

from p2es_lib.data.windows.batches import TrainingBatches, simulator_config
from p2es_lib.data.windows.splits import AGE_BANDS, SPLIT_KINDS, cohort_table, label_words
from p2es_lib.data.windows.store import SPLITS, WindowSet, read_rejected, read_settings, read_windows, stored_beats

__all__ = [
    "AGE_BANDS", "SPLITS", "SPLIT_KINDS", "TrainingBatches", "WindowSet", "cohort_table", "label_words",
    "read_rejected", "read_settings", "read_windows", "simulator_config", "stored_beats",
]  # fmt: skip
