"""What writing and reading windows costs, as the project stores them and as Zarr does, and what training waits for.

Every size is measured in the same way: windows drawn from the whole store, none twice, in batches, by a reader that was
just opened. *Warm*: the system's cache holds what is read. *Cold*: it was told to forget the files.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from p2es_lib.config import Config
from p2es_lib.leads import MEASURED
from p2es_lib.windows import ShardWriter, TrainingBatches, read_windows, write_view

NPY, SPARSE = "npy shard", " (sparse file)"
MICROSECONDS = "µs per window"
#: Windows of a batch; batches, and rounds over them; windows on which the floor of writing is measured.
BATCH, N_BATCHES, N_ROUNDS, N_FLOOR = 32, 20, 3, 100_000


def row_of(part: str, what: str, n_windows: int, values, unit: str, reference: str, reference_values) -> dict:
    """Row of the table: median and least of repeats, beside the median of what they are set against."""
    row = {"part": part, "what": what, "n_windows": n_windows, "value": np.median(values), "least": np.min(values)}
    return row | {"unit": unit, "reference": reference, "reference_value": np.median(reference_values)}


def _seconds(function: Callable, *arguments) -> float:
    began = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - began


def _forget(folder: Path) -> None:
    """Drop the files of a folder from the system's cache, where the system can do that; not what is still mapped."""
    for path in folder.rglob("*"):
        if path.is_file() and hasattr(os, "posix_fadvise"):
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def _measure_reading(part: str, n: int, folder: Path, opened: Callable, reference: str, times_of) -> Iterator[dict]:
    """Rows of reading; ``opened()`` gives a function of row numbers, ``times_of`` the reference of warm and cold."""
    draws = np.random.default_rng(0).permutation(n)[: min(N_BATCHES, n // BATCH) * BATCH].reshape(-1, BATCH)
    for state in ("warm", "cold"):
        times = []
        for _ in range(N_ROUNDS):
            read = opened()
            if state == "cold":
                _forget(folder)
            else:
                list(map(read, draws))
                read = opened()
            times += [1e6 * _seconds(read, rows) / BATCH for rows in draws]
        yield row_of(part, f"reading at random, {state}", n, times, MICROSECONDS, reference, times_of[state])


def measure_npy(folder: Path, n: int, sparse: bool, known: pd.DataFrame, block: np.ndarray) -> Iterator[dict]:
    """Write and read a store of ``n`` windows: the view in ``folder/view``, its windows in ``folder/shard``.

    Parameters
    ----------
    sparse : bool
        Leave the windows a hole in the file: reading finds zeros, by the same way.
    known : DataFrame
        Index of some windows, repeated as long as needed.
    block : float32 array (M, 13, T)
        PPG and ECG of some windows, likewise.
    """
    import pyarrow.parquet

    part, shard, view, size = NPY + SPARSE * sparse, folder / "shard", folder / "view", block[0].nbytes
    shard.mkdir(parents=True)

    def write() -> None:
        with ShardWriter(shard, block.shape[-1]) as writer:
            for row in range(0 if sparse else n):
                writer.append(block[row % len(block), :1], block[row % len(block), 1:])
            writer.count = n
        os.sync()

    def write_plainly(count: int) -> None:
        with open(folder / "plain", "wb") as file:
            for row in range(count):
                file.write(block[row % len(block)].data)
        os.sync()

    floor = 1e6 * _seconds(write_plainly, min(n, N_FLOOR)) / min(n, N_FLOOR)
    (folder / "plain").unlink()
    written = 1e6 * _seconds(write) / n
    if sparse:
        path = next(shard.iterdir())
        os.truncate(path, path.stat().st_size + n * size)
    else:
        yield row_of(part, "writing", n, written, MICROSECONDS, "same bytes to one file", floor)
    index = known.iloc[np.arange(n) % len(known)].reset_index(drop=True)
    index = index.assign(record=np.arange(n) // 100, split="train", split_kind="subject", quality=1.0)
    index["subject"] = "made-" + index["record"].astype(str)
    places, mask = np.stack([np.zeros(n, int), np.arange(n)], axis=1), np.full((n, 12), MEASURED, np.uint8)
    written = _seconds(write_view, view, index, mask, places, [shard], ["made"], {}, {})
    alone = _seconds(index.to_parquet, folder / "alone.parquet")
    yield row_of(part, "index: writing", n, 1e6 * written / n, MICROSECONDS, "Parquet file alone", 1e6 * alone / n)
    alone = [1e6 * _seconds(pyarrow.parquet.read_table, view / "index.parquet") / n for _ in range(N_ROUNDS)]
    times = [1e6 * _seconds(read_windows, view) / n for _ in range(N_ROUNDS)]
    yield row_of(part, "index: opening the store", n, times, MICROSECONDS, "Parquet file alone", alone)
    windows = read_windows(view)
    gc.collect()  # closes the shards of those that were let go
    on_disk = sum(path.stat().st_size for path in view.iterdir()) / n
    in_memory = (windows.index.memory_usage(deep=True).sum() + windows.lead_mask.nbytes + places.nbytes) / n
    yield row_of(part, "index: on disk", n, on_disk, "bytes per window", "the window", size)
    yield row_of(part, "index: in memory, at most", n, in_memory, "bytes per window", "the window", size)

    def opened() -> Callable:
        windows.ppg.shards.close()  # closes it
        return lambda rows: [np.asarray(signal) for x in [windows.select(rows)] for signal in (x.ppg, x.ecg)]

    memory = np.resize(block, (2048, *block.shape[1:]))  # more than the processor's cache holds
    rows = np.random.default_rng(1).integers(0, len(memory), (N_BATCHES, BATCH))
    copied = [1e6 * _seconds(memory.__getitem__, picked) / BATCH for picked in rows]
    yield from _measure_reading(part, n, shard, opened, "copy in memory", {"warm": copied, "cold": copied})


def zarr_found() -> bool:
    """Whether Zarr 3 is installed, to be compared with; nothing else needs it."""
    try:
        import zarr
    except ImportError:
        return False
    return hasattr(zarr, "create_array")


def measure_zarr(folder: Path, n: int, chunk: int, compressed: bool, block: np.ndarray, ours: dict) -> Iterator[dict]:
    """The same windows in a Zarr array; ``ours`` holds the values of the project's store, by what was measured."""
    import zarr

    part = f"Zarr, {chunk} window{'s' * (chunk > 1)} a chunk, {'default compression' if compressed else 'uncompressed'}"
    keys = {"name": "default", "separator": "."}  # all chunks in one folder, faster than the default of a folder each

    def write() -> None:
        array = zarr.create_array(
            store=str(folder), shape=(n, *block.shape[1:]), chunks=(chunk, *block.shape[1:]), dtype=block.dtype,
            compressors="auto" if compressed else None, chunk_key_encoding=keys,
        )  # fmt: skip
        for first in range(0, n, len(block)):
            array[first : first + len(block)] = block[: n - first]
        os.sync()

    yield row_of(part, "writing", n, 1e6 * _seconds(write) / n, MICROSECONDS, NPY, ours["writing"])
    files = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    yield row_of(part, "windows on disk", n, sum(files) / n, "bytes per window", NPY, block[0].nbytes)
    yield row_of(part, "files", n, len(files), "files", NPY, 1)

    def opened() -> Callable:
        array = zarr.open_array(str(folder), mode="r")
        return lambda rows: array.oindex[np.sort(rows)]  # the fastest of its ways

    times_of = {state: ours[f"reading at random, {state}"] for state in ("warm", "cold")}
    yield from _measure_reading(part, n, folder, opened, NPY, times_of)


def measure_loader(folder: Path, part: str, config: Config, step: Callable, n_steps: int) -> Iterator[dict]:
    """Time of the loader per batch, on a store of :func:`measure_npy`, and how long training waits for a batch."""
    windows = read_windows(folder / "view")
    gc.collect()  # closes the shards of stores that were let go

    def run(n_prefetch: int, cold: bool, train: Callable, n_batches: int = 5 * n_steps) -> tuple[list, list]:
        windows.ppg.shards.close()
        if cold:
            _forget(folder / "shard")
        times = []
        with TrainingBatches(config, windows, 0, n_prefetch) as batches:
            for number in range(n_batches + 1):
                began = time.perf_counter()
                batch = batches.batch(number)
                times.append((1e3 * (time.perf_counter() - began), 1e3 * _seconds(train, batch)))
        return tuple(zip(*times[1:]))  # with the first come the order of the epoch and the start of everything

    batch, against = f"loader: batch of {config.training.batch_size}", "training step"
    run(0, False, len)
    warm, cold = run(0, False, len)[0], run(0, True, len)[0]
    waits, steps = run(1, True, step, n_steps)
    yield row_of(part, f"{batch}, warm", len(windows), warm, "ms", against, steps)
    yield row_of(part, f"{batch}, cold", len(windows), cold, "ms", against, steps)
    yield row_of(part, f"{batch}, read ahead, cold: training waits", len(windows), waits, "ms", against, steps)
