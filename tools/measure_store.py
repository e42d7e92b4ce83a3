"""What writing and reading windows costs, as the project stores them and as Zarr does, and what training waits for.

Every size is measured in the same way: windows drawn from the whole store, none twice, in batches, by a reader that was
just opened. *Warm*: the system's cache holds what is read, because the same windows were read before. *Cold*: the files
were on the disk and the cache was told to forget them. How much then came from the disk is counted, where Linux tells.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from p2es_lib.core.config import Config
from p2es_lib.core.leads import MEASURED
from p2es_lib.data.windows import TrainingBatches, read_windows
from p2es_lib.data.windows.store import ShardWriter, write_view

NPY, SPARSE = "npy shard", " (sparse file)"
MICROSECONDS = "µs per window"
#: Windows of a batch; batches, and rounds over them; windows on which the floor of writing is measured.
BATCH, N_BATCHES, N_ROUNDS, N_FLOOR = 32, 20, 3, 100_000


#: While a store is written, so many bytes at a time go to the disk: an interrupt need not wait for all of them.
FLUSH_BYTES = 2**30


def row_of(
    part: str, what: str, n_windows: int, values, unit: str, reference: str, reference_values, from_disk: float = np.nan
) -> dict:
    """Row of the table: median and least of repeats, beside the median of what they are set against.

    ``from_disk``: of what was read, the share that came from the disk and not from the system's cache.
    """
    row = {"part": part, "what": what, "n_windows": n_windows, "value": np.median(values), "least": np.min(values)}
    row |= {"unit": unit, "reference": reference, "reference_value": np.median(reference_values)}
    return row | {"from_disk": from_disk}


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


def _bytes_from_disk() -> float:
    """Bytes that the disk gave to this process so far; NaN where the system does not say."""
    try:
        text = Path("/proc/self/io").read_text()
    except OSError:
        return np.nan
    return float(dict(line.split(": ") for line in text.splitlines())["read_bytes"])


def _write_all(path: Path, n: int, append: Callable, flush: Callable, size: int, progress: bool) -> None:
    """Append ``n`` windows of ``size`` bytes one by one, to the disk as they come, with a bar of what is written."""
    from tqdm.auto import tqdm

    step = max(1, min(1000, FLUSH_BYTES // size))
    bar = {"unit": "B", "unit_scale": True, "leave": False, "disable": not progress, "desc": f"writing {n} windows"}
    with tqdm(total=n * size, **bar) as shown:
        unflushed = 0
        for first in range(0, n, step):
            last = min(n, first + step)
            for row in range(first, last):
                append(row)
            shown.update((last - first) * size)
            unflushed += (last - first) * size
            if unflushed >= FLUSH_BYTES or last == n:
                flush()
                with open(path, "rb+") as file:
                    os.fsync(file.fileno())
                unflushed = 0


def _measure_reading(
    part: str, n: int, folder: Path, size: int, opened: Callable, reference: str, times_of
) -> Iterator[dict]:
    """Rows of reading; ``opened()`` gives a function of row numbers, ``times_of`` the reference of warm and cold."""
    draws = np.random.default_rng(0).permutation(n)[: min(N_BATCHES, n // BATCH) * BATCH].reshape(-1, BATCH)
    for state in ("warm", "cold"):
        times, from_disk = [], 0.0
        for _ in range(N_ROUNDS):
            read = opened()
            if state == "cold":
                _forget(folder)
            else:
                list(map(read, draws))
                read = opened()
            before = _bytes_from_disk()
            times += [1e6 * _seconds(read, rows) / BATCH for rows in draws]
            from_disk += (_bytes_from_disk() - before) / (N_ROUNDS * draws.size * size)
        what = f"reading at random, {state}"
        yield row_of(part, what, n, times, MICROSECONDS, reference, times_of[state], from_disk)


def measure_npy(
    folder: Path, n: int, sparse: bool, known: pd.DataFrame, block: np.ndarray, progress: bool = False
) -> Iterator[dict]:
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
    part, shard, view, size = NPY + SPARSE * sparse, folder / "shard", folder / "view", block[0].nbytes
    shard.mkdir(parents=True)

    def write() -> None:
        with ShardWriter(shard, block.shape[-1]) as writer:

            def append(row: int) -> None:
                writer.append(block[row % len(block), :1], block[row % len(block), 1:])

            _write_all(writer.path, 0 if sparse else n, append, writer.file.flush, size, progress)
            writer.count = n

    def write_plainly(count: int) -> None:
        with open(folder / "plain", "wb") as file:
            append = lambda row: file.write(block[row % len(block)].data)  # noqa: E731
            _write_all(folder / "plain", count, append, file.flush, size, progress)

    floor = 1e6 * _seconds(write_plainly, min(n, N_FLOOR)) / min(n, N_FLOOR)
    (folder / "plain").unlink()
    written = 1e6 * _seconds(write) / n
    if sparse:
        path = next(shard.iterdir())
        os.truncate(path, path.stat().st_size + n * size)
    else:
        yield row_of(part, "writing", n, written, MICROSECONDS, "same bytes to one file", floor)
    yield from _measure_index(part, n, folder, known, size)
    windows = read_windows(view)
    gc.collect()  # closes the shards of those that were let go

    def opened() -> Callable:
        windows.ppg.shards.open.cache_clear()  # closes it
        return lambda rows: [np.asarray(signal) for x in [windows.select(rows)] for signal in (x.ppg, x.ecg)]

    memory = np.resize(block, (2048, *block.shape[1:]))  # more than the processor's cache holds
    rows = np.random.default_rng(1).integers(0, len(memory), (N_BATCHES, BATCH))
    copied = [1e6 * _seconds(memory.__getitem__, picked) / BATCH for picked in rows]
    yield from _measure_reading(part, n, shard, size, opened, "copy in memory", {"warm": copied, "cold": copied})


def _measure_index(part: str, n: int, folder: Path, known: pd.DataFrame, size: int) -> Iterator[dict]:
    """Write and read the index of a store whose windows, of ``size`` bytes each, lie in ``folder/shard``."""
    import pyarrow.parquet

    view = folder / "view"
    index = known.iloc[np.arange(n) % len(known)].reset_index(drop=True)
    index = index.assign(record=np.arange(n) // 100, split="train", split_kind="subject", quality=1.0)
    index["subject"] = "made-" + index["record"].astype(str)
    placed = index.assign(shard=0, row=np.arange(n), leads=str(MEASURED) * 12)
    written = _seconds(write_view, view, placed, {folder / "shard": "made"}, {}, {})
    alone = _seconds(index.to_parquet, folder / "alone.parquet")
    yield row_of(part, "index: writing", n, 1e6 * written / n, MICROSECONDS, "Parquet file alone", 1e6 * alone / n)
    alone = [1e6 * _seconds(pyarrow.parquet.read_table, view / "index.parquet") / n for _ in range(N_ROUNDS)]
    times = [1e6 * _seconds(read_windows, view) / n for _ in range(N_ROUNDS)]
    yield row_of(part, "index: opening the store", n, times, MICROSECONDS, "Parquet file alone", alone)
    windows = read_windows(view)
    on_disk = sum(path.stat().st_size for path in view.iterdir()) / n
    in_memory = (windows.index.memory_usage(deep=True).sum() + windows.lead_mask.nbytes + windows.ppg.places.nbytes) / n
    yield row_of(part, "index: on disk", n, on_disk, "bytes per window", "the window", size)
    yield row_of(part, "index: in memory, at most", n, in_memory, "bytes per window", "the window", size)


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
    yield from _measure_reading(part, n, folder, block[0].nbytes, opened, NPY, times_of)


def measure_loader(folder: Path, part: str, config: Config, step: Callable, n_steps: int) -> Iterator[dict]:
    """Time of the loader per batch, on a store of :func:`measure_npy`, and how long training waits for a batch."""
    windows = read_windows(folder / "view")
    gc.collect()  # closes the shards of stores that were let go

    def run(n_prefetch: int, cold: bool, train: Callable, n_batches: int = 5 * n_steps) -> tuple[list, list]:
        windows.ppg.shards.open.cache_clear()
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
