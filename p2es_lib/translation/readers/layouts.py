"""Tables that are known by their layout, and what lies beside them.

Empatica E4 (``BVP.csv``): the first line is the Unix time of the start, the second the sampling rate, then one value a
line. Polar Sensor Logger (Polar OH1, Verity Sense): ``Phone timestamp;sensor timestamp [ns];channel 0;...``, sampled by
the sensor's clock. Scanners of Siemens (``.puls``: one long line with marks in it) and GE (``PPGData_...``: a number a
line). BIDS: names and rate in a JSON beside the table. Any table: packets of values in cells.
"""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd

from p2es_lib.core.errors import InputError
from p2es_lib.translation.readers.cells import PACKET
from p2es_lib.translation.readers.checks import check_rate
from p2es_lib.translation.readers.clock import EPOCH_S
from p2es_lib.translation.readers.table import Table, read_table

#: Columns of a Polar Sensor Logger file: clock, and the first photodiode's channel.
_POLAR_CLOCK, _POLAR_PPG = "sensor timestamp [ns]", "channel 0"


def known_layout(path: Path, data: bytes) -> Table:
    """A table of text, with what its layout and the files beside it tell of names and rate."""
    if (table := _siemens(path, data)) is not None:
        return table
    table = read_table(path, _upright(data))
    if not table.named and table.rate is None and re.match(r"(PPG|RESP|ECG)", path.name) and "Data_" in path.name:
        names = [path.name.partition("Data_")[0], *table.names[1:]]
        cells = table.cells.set_axis(names, axis=1)
        return table._replace(cells=cells, named=True, rate=100.0, said="GE scanners write PPGData at 100 Hz")
    return _with_json(table)


def _with_json(table: Table) -> Table:
    """A table with the names and the rate that BIDS has in a JSON beside it (``SamplingFrequency``, ``Columns``)."""
    path = table.path
    stem = path.name.removesuffix(path.suffix) if path.suffix != ".gz" else Path(path.stem).stem
    parts = set(stem.split("_"))
    near = [path.with_name(f"{stem}.json")]  # a file for all of a task may lie above
    near += [file for folder in [*path.absolute().parents][:3] for file in sorted(folder.glob("*_physio.json"))]
    for file in near:
        if not file.is_file() or not {*file.stem.split("_")} <= parts:
            continue
        try:
            facts = json.loads(file.read_text("utf-8-sig"))
        except (ValueError, OSError):
            continue
        facts = facts if isinstance(facts, dict) else {}
        names, rate = facts.get("Columns"), facts.get("SamplingFrequency")
        if isinstance(names, list) and not table.named and len(names) == len(table.names):
            table = table._replace(cells=table.cells.set_axis(map(str, names), axis=1), named=True, nameless=[])
            table.notes.append(f"names of the columns from {file.name}")
        if isinstance(rate, (int, float)) and table.rate is None:
            table = table._replace(rate=float(rate), said=f"SamplingFrequency in {file.name}")
    return table


def _upright(data: bytes) -> bytes:
    """Text in which values that stood side by side in a few long lines stand one below the other."""
    if data.count(b"\n") > 8 or len(data) < 200:
        return data
    lines = [line for line in re.split(rb"[\r\n]+", data) if line.strip()]
    if not lines or min(len(re.findall(rb"[\s,;]+", line)) for line in lines) < 100:
        return data
    rows = [re.split(rb"[\t;]+|,\s*|\s+", line.strip(b"\t ;,")) for line in lines]
    return b"\n".join(map(b"\t".join, zip(*rows))) if len({*map(len, rows)}) == 1 else data


def _siemens(path: Path, data: bytes) -> Table | None:
    """The log of a Siemens scanner's pulse sensor: all values in one line, with marks of 5000 and more between them."""
    text = data[:20_000_000].decode("latin-1")
    if not re.search(r"Log(Start|Stop)(MDH|MPCU)Time|Freq\s+Per:", text):
        return None
    long = max(text.splitlines(), key=len)
    numbers = re.sub(r"\b5002\b.*?\b6002\b", " ", long).split()
    values = np.array([int(n) for n in numbers if n.isdigit()][4:])  # four settings come first
    values = values[values < 5000]
    times = {key: int(value) for key, value in re.findall(r"Log(\w+?Time):\s*(\d+)", text)}
    clocks = [clock for clock in ("MDH", "MPCU") if {f"Start{clock}Time", f"Stop{clock}Time"} <= set(times)]
    spans_s = [(times[f"Stop{clock}Time"] - times[f"Start{clock}Time"]) / 1000 for clock in clocks]
    found = len(values) / spans_s[0] if spans_s and spans_s[0] > 0 else None
    rate = next((float(r) for r in (50, 100, 200, 400) if found and abs(found / r - 1) < 0.04), None)
    name = "PULS" if path.suffix.lower() not in (".ecg", ".resp", ".ext") else path.suffix[1:]
    notes = [f"log of a Siemens scanner, {len(values)} values in one line, marks of triggers left out"]
    said = f"{len(values)} values in {spans_s[0]:g} s" if spans_s else ""
    return Table(path, pd.DataFrame({name: values}), True, {}, ".", notes, [], rate or found, said)


def unfolded(table: Table) -> Table:
    """A table in which cells that hold packets of values are rows of their own."""

    def is_packed(name):
        cells = table.text(name).iloc[:50]
        return not table.is_numeric(name) and np.mean([bool(PACKET.fullmatch(cell)) for cell in cells]) > 0.8

    packed = [name for name in table.names if is_packed(name) and ":" not in table.text(name).iloc[0]]
    if not packed:
        return table
    lists = {name: table.text(name).str.strip("[](){} ").str.split(r"\s*[;,|\s]\s*", regex=True) for name in packed}
    sizes = {name: cells.map(len) for name, cells in lists.items()}
    packed = [name for name in packed if sizes[name].equals(sizes[packed[0]])]
    cells = table.cells.assign(**{name: lists[name] for name in packed}).explode(packed, ignore_index=True)
    note = f"{len(table.cells)} packets in cells, of {sizes[packed[0]].median():g} values each"
    return table._replace(cells=cells.fillna(""), notes=[*table.notes, note])


def empatica_e4(table: Table) -> Table | None:
    """The samples, if the layout is Empatica E4's; one of its other signals is refused."""
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
    start = pd.Timestamp(start_s, unit="s").floor("s")
    note = f"Empatica E4 layout: start {start:%Y-%m-%d %H:%M:%S UTC} in the first line, {rate:g} Hz in the second"
    cells = table.cells.iloc[2:].reset_index(drop=True)
    return table._replace(cells=cells, notes=[*table.notes, note], rate=rate, said=note, started=start.isoformat())


def polar_columns(table: Table) -> tuple[str | None, str | None, list[str]]:
    """Clock, PPG and a note, if the layout is Polar Sensor Logger's."""
    by_name = {name.lower(): name for name in table.names}
    if not table.named or not {"phone timestamp", _POLAR_CLOCK, _POLAR_PPG} <= set(by_name):
        return None, None, []
    channels = ", ".join(repr(name) for lower, name in by_name.items() if lower.startswith("channel "))
    note = f"Polar Sensor Logger layout: clock of the sensor; photodiode channels {channels}"
    return by_name[_POLAR_CLOCK], by_name[_POLAR_PPG], [note]
