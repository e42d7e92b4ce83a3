"""NCKU PPG-ECG: four resting volunteers, PPG and three ECG channels of undocumented leads at 50 Hz: for timing only.

At 50 Hz the peak of a QRS complex falls between samples, so its amplitude means nothing; its time does.
"""

from pathlib import Path

import numpy as np

from p2es_lib.core.errors import InputError
from p2es_lib.data.download.mirror import Mirror
from p2es_lib.data.sources.contract import Reading, Record, Source, in_parts
from p2es_lib.data.sources.tables import read_numbers
from p2es_lib.signals import cleaning

SLUG = "ncku-ppg-ecg"
SAMPLING_RATE, _TICKS_PER_FRAME = 50.0, 160.0
#: Columns: frame, tick, PPG (ADC counts, 0 to 4095), three ECG channels (ADC counts, about 8192 is zero).
N_COLUMNS = 6
#: The published files of the volunteers at rest, for a remote mirror, whose folders cannot be listed.
FILES = (
    "125/125_static_level1_20260113_164748", "125/125_static_level3_20260113_165126",
    "125/125_static_level5_20260113_170811", "300/300_static_level1_20260113_201837",
    "300/300_static_level3_20260113_202643", "300/300_static_level5_20260113_204030",
    "595/595_static_level1_20260115_192512", "595/595_static_level3_20260115_192827",
    "595/595_static_level5_20260115_194157", "646/646_static_level1_20260114_214841",
    "646/646_static_level3_20260114_215240", "646/646_static_level5_20260114_220531",
)  # fmt: skip
_SUFFIX = "_extended_poll.bin_align"
#: Where they are published, in folders of several groups of students: not as a mirror must be laid out.
HOME = "https://github.com/softbusinesss/course-agenticai-ecg-hrv/"


def list_records(mirror: Mirror) -> list[Record]:
    """One record per file; all of a subject are a shard. An InputError without a mirror, or if it holds none."""
    wanted = f"the mirror must hold <mirror>/{SLUG}/<subject>/<file>.csv"
    if mirror.location == HOME:
        raise InputError(
            f"data set ncku: its files lie in several folders below data-group of {HOME} and cannot be fetched from "
            f"there by name; copy them, and name the folder or URL with mirror= (or P2ES_MIRROR): {wanted}"
        )
    if isinstance(mirror.location, Path):
        folder = Path(mirror.where())
        found = sorted(path.relative_to(folder).as_posix() for path in folder.glob("*/*.csv"))
        if not found:
            raise InputError(f"data set ncku: no <subject>/*.csv in {folder}; {wanted}")
    else:
        found = [f"{stem}{_SUFFIX}.csv" for stem in FILES]
    return [Record(Path(path).stem.removesuffix(_SUFFIX), path, path.split("/")[0]) for path in found]


def read(mirror: Mirror, record: Record) -> Reading:
    """One file; the folder names the volunteer, of whom nothing else is published."""
    ppg, channels = _read_csv(mirror.fetch(record.path))
    chosen = max(range(len(channels)), key=lambda number: _agreement(channels[number]))
    notes = [f"beats from ECG channel {chosen + 1} of {len(channels)}, whose lead is not documented"]
    stretches = in_parts((ppg, SAMPLING_RATE), {}, rhythm=(channels[chosen], SAMPLING_RATE))
    return Reading(record.shard, stretches=stretches, notes=notes)


def _agreement(channel: np.ndarray) -> float:
    """How much the beats of a channel resemble each other: that of the channels is used in which they do most."""
    clean = cleaning.ecg_clean(cleaning.bridge_gaps(channel), SAMPLING_RATE)
    return cleaning.template_agreement(clean, cleaning.ecg_rpeaks(clean, SAMPLING_RATE), SAMPLING_RATE)


def _read_csv(path: Path) -> tuple[np.ndarray, list[np.ndarray]]:
    """PPG and the ECG channels of one file on a gap-free clock of 50 Hz, NaN where frames were lost."""
    table = read_numbers(path, header=None)
    if table.shape[1] != N_COLUMNS:
        raise InputError(f"{path}: {table.shape[1]} columns; expected {N_COLUMNS}: frame, tick, PPG, three of ECG")
    values = table.to_numpy()
    positive = np.flatnonzero((values[:, 2:] > 0).any(axis=1))
    if len(positive) == 0:
        raise InputError(f"{path}: no positive signal in any row")
    values = values[: positive[-1] + 1]  # every file ends in rows of zeros
    frames = (values[:, 1] - values[0, 1]) / _TICKS_PER_FRAME
    position = np.rint(frames).astype(int)
    if len(position) < 2 or (np.diff(position) < 1).any() or np.abs(frames - position).max() > 0.25:
        raise InputError(f"{path}: the second column does not count time in frames of {_TICKS_PER_FRAME:g} ticks")
    placed = np.full((position[-1] + 1, N_COLUMNS - 2), np.nan)
    placed[position] = values[:, 2:]
    return placed[:, 0], list(placed[:, 1:].T)


SOURCE = Source(
    name="ncku", title="NCKU PPG and ECG of four resting volunteers (course material of Nordling Lab)",
    slug=SLUG, version="", role="timing only",
    about={
        "size": "12 files of 4 volunteers, 2 minutes each",
        "access": "open", "licence": "Creative Commons Attribution 4.0",
        "cite": "Nordling Lab, National Cheng Kung University. course-agenticai-ecg-hrv (collected with informed "
        "consent). github.com/nordlinglab/course-agenticai-ecg-hrv and its fork by softbusinesss",
        'lead "V"': "none named: the leads of the three ECG channels are not documented",
        "note": "for rhythm and timing (R-peak F1, heart rate), not for morphology: 50 Hz, no millivolts, no named "
        "lead, so nothing can be trained on it; the device delays the PPG by a constant; fetched by hand: the fork "
        "keeps the files in several folders below data-group",
    },
    list_records=list_records, files=lambda mirror, record: [record.path], read=read,
    subject=lambda mirror, record: record.shard, default_mirror=HOME,
)  # fmt: skip
