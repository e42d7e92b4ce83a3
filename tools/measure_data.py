"""What preparation, the store and the loader cost on this machine, each beside a floor, a rival or a smaller size.

The store and the loader are in :mod:`tools.measure_store`. Run it with ``p2es data measure``.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from p2es_lib.core import paths
from p2es_lib.core.config import Config, get_config
from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import LEADS, MEASURED
from p2es_lib.core.learned import Batch
from p2es_lib.data.preparation.prepare_shard import prepare_shard
from p2es_lib.data.sources.contract import MARGIN_S, PART_S, Reading, Record, Source, Stretch
from p2es_lib.data.windows import WindowSet, simulator_config
from p2es_lib.data.windows.store import read_table
from p2es_lib.method.p2es import P2Es
from p2es_lib.plots import save_table
from p2es_lib.simulator import SimulatorConfig, simulate
from tools.measure_store import NPY, SPARSE, measure_loader, measure_npy, measure_zarr, row_of, zarr_found

COLUMNS = ("part", "what", "n_windows", "value", "least", "unit", "reference", "reference_value", "ratio", "growth",
           "from_disk")  # fmt: skip
#: Largest store that is compared with Zarr, which takes up to a file per window, and minutes for as many.
ZARR_LARGEST = 100_000


def write_table(windows: int, samples: int, only_stores: bool, folder: Path | None) -> Path:
    """Measure on the disk of ``folder`` (default: that of the data), and write the table; returns its path.

    Parameters
    ----------
    windows, samples : int
        Windows of the largest store, samples of each.
    only_stores, folder
        As in :func:`measure`; the folder need not exist, and is left as it was.

    Raises
    ------
    InputError
        Too few windows or samples, or a folder that cannot be written to.
    """
    if windows < 1000:
        raise InputError(f"windows={windows}: at least 1000")
    if samples < 512:
        raise InputError(
            f"samples={samples}: at least 512, so that a window holds the beats that a training step needs"
        )
    folder = paths.check_output_folder(folder or paths.home() / "data", "--folder")
    sizes = [*(10**k for k in range(3, 10) if 10**k < windows), windows]
    config = get_config("quick", "made").replace("signal.window_samples", samples)
    with paths.temporary_folder(folder / "measure") as place:
        table = measure(place, config, n_windows=sizes, only_stores=only_stores)
    caption = (
        "What preparation, store and loader cost, on one machine: median and least of repeats; ratio: value over "
        "reference; growth: value over that at the fewest windows. The records prepared are made in memory, no files "
        "are read. Warm: in the system's cache; cold: dropped from it; from_disk: share of what was read that the disk "
        "gave (more than 1: it gave more than was asked for). Sparse file: its windows are a hole, read by the same "
        f"way. Windows of {samples} samples. Threads of torch: {torch.get_num_threads()}."
    )
    if not zarr_found() and not only_stores:
        caption += " Zarr is not installed and was left out."
    name = "table02_written" if only_stores else "table01_store"
    return save_table(table, paths.home() / "figures" / "store", name, caption, float_format=".5g")


def measure(
    folder: Path, config: Config, *, n_windows: Sequence[int] = (1_000, 10_000, 100_000),
    n_sparse: int = 1_000_000, hours: Sequence[float] = (1, 6, 24), n_short: int = 360, n_steps: int = 10,
    only_stores: bool = False, progress: bool = True,
) -> pd.DataFrame:  # fmt: skip
    """Measure everything; what is written to ``folder``, on the disk in question, is to be removed by the caller.

    Parameters
    ----------
    folder : Path
        An empty folder.
    config : Config
        Of the training whose step the loader is set against.
    n_windows, n_sparse : sequence of int, int
        Sizes of the stores; size of one more, all of whose windows are a hole in its file (0: none).
    hours, n_short : sequence of float, int
        Lengths of the long records; number of the short ones.
    n_steps : int
        Training steps.
    only_stores : bool
        The stores that are written, and their loader, alone: no preparation, no sparse file, no Zarr.

    Returns
    -------
    DataFrame
        :data:`COLUMNS`. ``value`` is a median and ``least`` the least of the repeats, ``ratio`` is ``value`` over
        ``reference_value``, ``growth`` is ``value`` over that of the same row with the fewest windows (NaN: it is one),
        ``from_disk`` the share of what was read that came from the disk (NaN: nothing was read, or it is not known).

    Raises
    ------
    InputError
        The disk has no room for the largest store.
    """
    from tqdm.auto import tqdm

    free = shutil.disk_usage(folder).free / 1e9
    need = 1.2 * max(n_windows) * (1 + len(LEADS)) * config.signal.window_samples * 4 / 1e9
    if need > free:
        raise InputError(f"{max(n_windows)} windows need {need:.1f} GB; {folder} has {free:.1f} GB free; measure fewer")
    made = simulate(np.arange(64), 4, simulator_config(config))  # written again and again
    index = made.index.assign(split="train", split_kind="subject", quality=1.0)
    mask = np.full((len(index), 12), MEASURED, dtype=np.uint8)
    step = training_step(config, WindowSet(made.ppg, made.ecg, mask, index).select(np.arange(64)))
    block, rows = np.concatenate([made.ppg, made.ecg], axis=1), []
    stores = [(n, False) for n in n_windows] + [(n_sparse, True)] * (n_sparse > 0 and not only_stores)
    with tqdm(disable=not progress, unit=" rows", desc="measuring") as bar:

        def note_all(found: Iterable[dict]) -> None:
            for row in found:
                rows.append(row)
                bar.set_postfix_str(f"{row['part']}: {row['what']}, {row['n_windows']} windows")
                bar.update()

        if not only_stores:
            note_all(_measure_preparation(folder, hours, n_short))
            index = read_table(next(folder.rglob("index.parquet")).parent).drop(columns=["row", "leads"])
        for n, sparse in stores:
            note_all(measure_npy(folder / "npy", n, sparse, index, block, progress))
            note_all(measure_loader(folder / "npy", NPY + SPARSE * sparse, config, step, n_steps))
            shutil.rmtree(folder / "npy")
            if not sparse and n <= ZARR_LARGEST and zarr_found() and not only_stores:
                ours = {row["what"]: row["value"] for row in rows if row["n_windows"] == n and row["part"] == NPY}
                for chunk, compressed in ((1, False), (1, True), (64, False), (64, True)):
                    note_all(measure_zarr(folder / "zarr", n, chunk, compressed, block, ours))
                    shutil.rmtree(folder / "zarr")
    return _with_ratios(pd.DataFrame(rows))


def _with_ratios(table: pd.DataFrame) -> pd.DataFrame:
    table["ratio"] = table["value"] / table["reference_value"]
    same = table.groupby([table["part"].str.removesuffix(SPARSE), "what"])["value"]
    table["growth"] = (table["value"] / same.transform("first")).where(same.transform("size") > 1)
    return table[list(COLUMNS)]


def training_step(config: Config, windows: WindowSet) -> Callable[[dict], float]:
    """A function that trains on one batch, as :func:`p2es_lib.training.loop.train` does, and returns the loss."""
    module = P2Es(config.replace("affinity.n_steps", 1))  # of GroupFinder, which a step only asks
    module.prepare(windows, seed=0, progress=False)
    module.to("cuda" if torch.cuda.is_available() else "cpu")
    trained, generator = module.trained_parameters(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(trained)

    def step(batch: dict) -> float:
        loss, _ = module.training_loss(module, Batch(module, batch, generator), generator)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, config.training.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


# -------------------------------------------------------------------------------------------------------- preparation
def _measure_preparation(folder: Path, hours: Sequence[float], n_short: int) -> Iterator[dict]:
    lengths = {f"{h:g} h of 2 leads and PPG at 250 Hz": h for h in hours}
    lengths[f"{n_short} records of 10 s, 12 leads at 500 Hz, PPG simulated"] = 0
    first_mb = None
    for name, length in lengths.items():
        # A fresh process each, started without a copy of this one: its peak memory is its own.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            home = str(folder / f"prepared-{length:g}")
            n, core_s, idle_mb, peak_mb = pool.submit(_prepare, home, length, n_short).result()
        if first_mb is None:
            first_mb, reference = peak_mb, f"of {hours[0]:g} h"
            yield row_of("preparation", "nothing, only the imports: memory", 0, idle_mb, "MB", reference, first_mb)
        speed = (length or n_short / 360) / core_s
        yield row_of("preparation", f"{name}: speed", n, speed, "hours per core-second", "recording itself", 1 / 3600)
        yield row_of("preparation", f"{name}: peak memory", n, peak_mb, "MB", reference, first_mb)


def _prepare(home: str, hours: float, n_short: int) -> tuple[int, float, float, float]:
    """Prepare a made-up record (0 h: many short ones): windows, processor seconds, memory (MB) before and at most."""
    os.environ["P2ES_HOME"] = home
    rate, window_samples, role = (250.0, 2**14, "paired") if hours else (500.0, 5000, "ecg only")
    subjects = np.arange(1 if hours else min(n_short, 32))
    made = simulate(subjects, 1, SimulatorConfig(sampling_rate=rate, window_samples=window_samples))

    def stretches(number: int) -> Iterator[Stretch]:
        if not hours:
            yield Stretch(0.0, None, {lead: (x, rate) for lead, x in zip(LEADS, made.ecg[number % len(subjects)])})
        end_s = hours * 3600
        for start_s in np.arange(0, end_s, PART_S):
            keep_s, margin_s = min(PART_S, end_s - start_s), min(start_s, MARGIN_S)
            span = round((start_s - margin_s) * rate), round(min(start_s + keep_s + MARGIN_S, end_s) * rate)
            ppg, *ecg = ((x[np.arange(*span) % window_samples], rate) for x in (made.ppg[0, 0], *made.ecg[0, :2]))
            yield Stretch(start_s, ppg, dict(zip(LEADS, ecg)), None, margin_s, keep_s)

    records = [Record(str(number), str(number), "shard") for number in range(1 if hours else n_short)]
    source = Source(
        name="made", title="", slug="", version="", role=role, about={},
        list_records=lambda mirror: records, files=lambda mirror, record: [],
        read=lambda mirror, record: Reading(f"s{record.name}", 60.0, "F", stretches(int(record.name))),
    )  # fmt: skip
    Path(home).mkdir(parents=True, exist_ok=True)
    idle_mb, began = _peak_memory_mb(), time.process_time()
    shard = prepare_shard(source, "shard", records, get_config("quick", "made"), source.mirror(home))
    core_s, peak_mb = time.process_time() - began, _peak_memory_mb()
    return len(read_table(shard)), core_s, idle_mb, peak_mb


def _peak_memory_mb() -> float:
    """Most memory that this process has held; ``ru_maxrss`` would count that of the process which started it, too."""
    status = Path("/proc/self/status")
    if status.exists():
        kilobytes = next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(kilobytes) * 1024 / 1e6
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # bytes on macOS
