"""The embedded simulated cohort as a data source: nothing to download, every latent known.

The simulator is imported where it is used: who asks for a source by its name does not wait for torch.
"""

import numpy as np

from p2es_lib.core.config import Config
from p2es_lib.core.errors import InputError, check_choice
from p2es_lib.core.leads import MEASURED
from p2es_lib.core.subject_numbers import SUBJECT_OFFSETS
from p2es_lib.data.download.mirror import Mirror
from p2es_lib.data.sources.contract import Reading, Record, Source

# Subjects simulated at once: bounds the memory, does not change a byte of the result.
_CHUNK = 64


def split_subject_numbers(config: Config, split: str) -> np.ndarray:
    """Numbers of the simulated subjects of a split; splits never share one."""
    check_choice("split", split, SUBJECT_OFFSETS)
    return SUBJECT_OFFSETS[split] + np.arange(getattr(config.data, f"n_{split}_subjects"))


def simulated_split(config: Config, split: str):
    """Simulate a split again, with its latents: the same windows, in the same order, as the prepared store holds."""
    from p2es_lib.data.windows.batches import simulator_config
    from p2es_lib.simulator import simulate

    return simulate(split_subject_numbers(config, split), config.data.windows_per_subject, simulator_config(config))


def simulate_cohort(config: Config, progress: bool = False):
    """All windows of the cohort, with splits, as a WindowSet; the same subject has the same bytes in any cohort."""
    import pandas as pd
    from tqdm.auto import tqdm

    from p2es_lib.data.windows.batches import simulator_config
    from p2es_lib.data.windows.store import WindowSet
    from p2es_lib.simulator import simulate

    numbers = {split: split_subject_numbers(config, split) for split in SUBJECT_OFFSETS}
    per_subject, length = config.data.windows_per_subject, config.signal.window_samples
    n = per_subject * sum(len(subjects) for subjects in numbers.values())
    ppg = np.empty((n, 1, length), dtype=np.float32)
    ecg = np.empty((n, 12, length), dtype=np.float32)
    frames = []
    with tqdm(total=n, desc="simulating", unit=" windows", disable=not progress) as bar:
        for split, subjects in numbers.items():
            for chunk in np.array_split(subjects, -(-len(subjects) // _CHUNK)):
                windows = simulate(chunk, per_subject, simulator_config(config))
                filled = sum(map(len, frames))
                rows = slice(filled, filled + len(windows.index))
                ppg[rows], ecg[rows] = windows.ppg, windows.ecg
                frames.append(windows.index.assign(subject_number=np.repeat(chunk, per_subject), split=split))
                bar.update(len(windows.index))
    index = pd.concat(frames, ignore_index=True).assign(split_kind="subject", quality=1.0, ppg_origin="simulated")
    return WindowSet(ppg, ecg, np.full((n, 12), MEASURED, dtype=np.uint8), index, {"warnings": [], "rejected": {}})


def _refuse(mirror: Mirror, record: Record) -> Reading:
    raise InputError("data set simulated: it is made on this machine, there is no record to read")


SOURCE = Source(
    name="simulated", title="Embedded simulated cohort", slug="simulated", version="", role="simulated",
    about={
        "size": "as many subjects as the profile asks for",
        "access": "open: made on this machine", "licence": "MIT, as this software",
        "cite": "this software (CITATION.cff)", 'lead "V"': "none: V1 to V6 are standard leads",
        "note": "paired PPG and 12-lead ECG from published physiology, with known latents and a known irreducible "
        "error",
    },
    list_records=lambda mirror: [], files=lambda mirror, record: [], read=_refuse,
)  # fmt: skip
