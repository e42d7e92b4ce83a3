"""Exports of wearables that no general reader of tables would read rightly, recognised by their layout.

Empatica E4 (``BVP.csv``): the first line is the Unix time of the start, the second the sampling rate, then one value a
line. Polar Sensor Logger (Polar OH1, Verity Sense; ``..._PPG.txt``): ``Phone timestamp;sensor timestamp [ns];channel
0;channel 1;channel 2;ambient``, of which the sensor's clock is the one that the samples were taken by.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from p2es_lib.core.errors import InputError
from p2es_lib.translation.readers.clock_units import EPOCH_S
from p2es_lib.translation.checks import check_rate
from p2es_lib.translation.readers.csv_table import CsvTable

#: Columns of a Polar Sensor Logger file: clock, and the first photodiode's channel.
POLAR_CLOCK, POLAR_PPG = "sensor timestamp [ns]", "channel 0"


def empatica_e4(table: CsvTable) -> tuple[CsvTable, float, str] | None:
    """Samples, sampling rate (Hz) and a note, if the layout of a table is Empatica's; otherwise None.

    Raises
    ------
    InputError
        It is, but of another signal than the PPG: a rate that a PPG cannot have, or several columns.
    """
    if table.named or len(table.cells) < 3 or not all(map(table.is_numeric, table.names)):
        return None
    head = np.stack([pd.to_numeric(table.text(name).iloc[:3], errors="coerce").to_numpy(float) for name in table.names])
    start_s, rate = head[0, :2]
    is_layout = EPOCH_S[0] <= start_s <= EPOCH_S[1] and 1 <= rate <= 10_000 and rate == round(rate)
    if not is_layout or (head[:, :2] != head[0, :2]).any() or not abs(head[0, 2]) < EPOCH_S[0]:
        return None
    what = f"{table.path}: Empatica E4 layout (start and sampling rate in the first two lines)"
    if len(table.names) > 1:
        raise InputError(f"{what} of {len(table.names)} columns, which is not the PPG; give BVP.csv")
    rate = check_rate(rate, f"{what}, which is not the PPG (BVP.csv):")
    start = pd.Timestamp(start_s, unit="s").strftime("%Y-%m-%d %H:%M:%S UTC")
    note = f"Empatica E4 layout: start {start} in the first line, {rate:g} Hz in the second"
    return replace(table, cells=table.cells.iloc[2:].reset_index(drop=True)), rate, note


def is_polar(table: CsvTable) -> bool:
    """Whether a table has the columns of a PPG file of Polar Sensor Logger."""
    names = {name.lower() for name in table.names}
    return table.named and {"phone timestamp", POLAR_CLOCK, POLAR_PPG} <= names


def polar_columns(table: CsvTable) -> tuple[str, str, str]:
    """Clock, PPG and a note for such a table."""
    by_name = {name.lower(): name for name in table.names}
    channels = [name for lower, name in by_name.items() if lower.startswith("channel ")]
    note = f"Polar Sensor Logger layout: clock of the sensor; photodiode channels {', '.join(map(repr, channels))}"
    return by_name[POLAR_CLOCK], by_name[POLAR_PPG], note
