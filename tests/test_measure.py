"""``p2es data measure``: every row is there and finite, ratios are those of the numbers; how windows are read."""

from __future__ import annotations

import os
import pickle
import signal
import time
from collections import namedtuple
from concurrent.futures import Executor, Future

import numpy as np
import pandas as pd
import pytest
from synthetic import synthetic_windows, tiny_config

from p2es_lib.cli import main
from p2es_lib.core import paths
from p2es_lib.core.errors import InputError
from p2es_lib.data.windows import store as windows_store
from p2es_lib.data.windows.store import Shards, ShardWriter, WindowArray
from tools import measure_data, measure_store
from tools.measure_data import COLUMNS, measure
from tools.measure_store import NPY, SPARSE, measure_loader, measure_npy, measure_zarr, zarr_found

READING = ["reading at random, warm", "reading at random, cold"]
LOADER = [f"loader: batch of 4, {how}" for how in ("warm", "cold", "read ahead, cold: training waits")]
INDEX = [f"index: {what}" for what in ("writing", "opening the store", "on disk", "in memory, at most")]
ZARR = ["writing", "windows on disk", "files", *READING]
PREPARED = ("0.1 h of 2 leads and PPG at 250 Hz", "4 records of 10 s, 12 leads at 500 Hz, PPG simulated")


class InThisProcess(Executor):
    """Instead of fresh processes, each of which would import everything again."""

    def __init__(self, n_processes, mp_context):
        assert n_processes == 1 and mp_context.get_start_method() == "spawn"

    def submit(self, function, *arguments):
        done = Future()
        done.set_result(pickle.loads(pickle.dumps(function))(*arguments))
        return done


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> pd.DataFrame:
    """Everything, tiny."""
    sizes = {"n_windows": (40,), "n_sparse": 80, "hours": (0.1,), "n_short": 4, "n_steps": 2}
    config = tiny_config(signal__window_samples=1024)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure_store.os, "sync", lambda: None)  # waits for what other programs write, too
        patch.setenv("P2ES_HOME", "")  # each preparation names its own
        patch.setattr(measure_data, "ProcessPoolExecutor", InThisProcess)
        return measure(tmp_path_factory.mktemp("measure"), config, **sizes, progress=False)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Folder, rows and content of a store of 64 windows."""
    windows, folder = synthetic_windows(), tmp_path_factory.mktemp("store") / "npy"
    block = np.concatenate([windows.ppg, windows.ecg], axis=1).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure_store.os, "sync", lambda: None)
        return folder, list(measure_npy(folder, 64, False, windows.index, block)), block


def test_every_row_is_there(table):
    assert tuple(table) == COLUMNS
    found = {part: rows["what"].tolist() for part, rows in table.groupby(["part", "n_windows"])}
    assert found[NPY, 40] == ["writing", *INDEX, *READING, *LOADER]
    assert found[NPY + SPARSE, 80] == [*INDEX, *READING, *LOADER], "nothing is written to a sparse file"
    prepared = table[table["part"] == "preparation"]
    rows = [f"{name}: {what}" for name in PREPARED for what in ("speed", "peak memory")]
    assert prepared["what"].tolist() == ["nothing, only the imports: memory", *rows]
    zarr = table[table["part"].str.startswith("Zarr")]
    assert len(zarr) == (4 * len(ZARR) if zarr_found() else 0)


def test_every_number_is_finite_and_ratios_are_those_of_the_numbers_beside_them(table):
    assert (table["n_windows"] > 0).iloc[1:].all()
    numbers = table[["value", "least", "reference_value", "ratio"]].to_numpy(dtype=float)
    assert np.isfinite(numbers).all() and (numbers > 0).all()
    assert (table["least"] <= table["value"]).all()
    np.testing.assert_allclose(table["ratio"], table["value"] / table["reference_value"])
    assert table.loc[table["part"] == "preparation", "growth"].isna().all()
    warm = table[table["what"] == READING[0]]
    warm = warm[warm["part"].str.startswith(NPY)].set_index("n_windows")
    np.testing.assert_allclose(warm["growth"], warm["value"] / warm["value"][40])


def test_speed_and_memory_are_in_their_units(table):
    idle, speed, memory = (table.iloc[number] for number in range(3))
    assert idle["value"] <= memory["value"] == idle["reference_value"]
    assert speed["n_windows"] == 0.1 * 3600 // 8.192
    assert 0.01 < speed["value"] < 100 and 50 < memory["value"] < 5000


def test_the_loader_is_set_against_the_step(store):
    rows = list(measure_loader(store[0], NPY, tiny_config(), lambda batch: time.sleep(0.03), 3))
    assert [row["what"] for row in rows] == LOADER
    for row in rows:
        assert 30 <= row["reference_value"] < 300, "ms"
    assert rows[2]["value"] < rows[2]["reference_value"], "a batch that is read during a step is not waited for"


def test_plain_bytes_are_the_floor_of_writing(store):
    _, rows, block = store
    by_name = {row["what"]: row for row in rows}
    assert by_name["index: on disk"]["reference_value"] == block[0].nbytes
    assert by_name["writing"]["reference"] == "same bytes to one file"
    assert (store[0] / "shard" / "windows.npy").stat().st_size > 64 * block[0].nbytes


def test_zarr_holds_the_same_windows(store, tmp_path):
    zarr = pytest.importorskip("zarr", minversion="3")
    ours = {row["what"]: row["value"] for row in store[1]}
    rows = list(measure_zarr(tmp_path / "zarr", 64, 16, True, store[2], ours))
    assert [row["what"] for row in rows] == ZARR
    assert rows[0]["reference_value"] == ours["writing"] and rows[2]["value"] == 64 / 16 + 1
    written = zarr.open_array(str(tmp_path / "zarr"), mode="r")
    np.testing.assert_array_equal(written[63], store[2][63 % len(store[2])])


def test_a_wheel_says_that_the_source_tree_is_needed(home, monkeypatch, capsys):
    monkeypatch.setattr(paths, "checkout", lambda: home)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr("sys.argv", ["p2es", "data", "measure"])
    with pytest.raises(SystemExit) as ended:
        main.main()
    said = capsys.readouterr().err
    assert ended.value.code == 2 and "tools/measure_data.py" in said and said.count("\n") == 1


def test_a_disk_that_is_too_small_is_refused(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(measure_data.shutil, "disk_usage", lambda folder: usage(10**12, 10**12, 10**9))
    with pytest.raises(InputError, match=r"1000000 windows need 16.0 GB.*1.0 GB free"):
        measure(tmp_path, tiny_config(), n_windows=(1_000_000,), progress=False)
    assert not list(tmp_path.iterdir())


def test_the_command_writes_the_table_and_removes_what_it_made(table, home, monkeypatch, capsys):
    asked = {}

    def measured(folder, config, **sizes):
        (folder / "some file").touch()
        asked.update(sizes)
        return table

    monkeypatch.setattr(measure_data, "measure", measured)
    monkeypatch.setattr(measure_data, "zarr_found", lambda: False)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr("sys.argv", ["p2es", "data", "measure", "--windows", "20000"])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert not ended.value.code
    assert asked == {"n_windows": [1000, 10_000, 20_000], "only_stores": False}
    path = home / "figures" / "store" / "table01_store.csv"
    assert capsys.readouterr().out.strip() == str(path)
    assert len(pd.read_csv(path)) == len(table)
    assert "Zarr is not installed" in path.with_suffix(".md").read_text()
    assert not list((home / "data").iterdir())


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("disk full")])
def test_what_was_written_goes_whatever_ends_it(home, monkeypatch, error):
    """Also what a killed measurement of before left, of many gigabytes perhaps."""
    left = home / "data" / ".measure.tmp12"
    left.mkdir(parents=True)
    left.with_name(".measure.tmp12.lock").touch()
    seen = []

    def interrupted(self, ppg, ecg):
        seen.extend(path.name for path in (home / "data").iterdir())
        raise error

    monkeypatch.setattr(ShardWriter, "append", interrupted)
    monkeypatch.setattr(measure_data, "training_step", lambda *_: None)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(
        "sys.argv", ["p2es", "data", "measure", "--windows", "1000", "--samples", "512", "--only-stores"]
    )
    with pytest.raises((SystemExit, OSError)):
        main.main()
    assert len(seen) == 2 and left.name not in seen
    assert not list((home / "data").iterdir()) and not (home / "figures").exists()


def test_only_stores_that_are_written_and_where_they_were_read_from(tmp_path):
    """Every byte is on the disk before it is read; warm windows come from the cache."""
    config = tiny_config(signal__window_samples=512)
    table = measure(tmp_path, config, n_windows=(40, 640), n_steps=2, only_stores=True, progress=False)
    assert {(part, n) for part, n in zip(table["part"], table["n_windows"])} == {(NPY, 40), (NPY, 640)}
    assert table[table["n_windows"] == 640]["what"].tolist() == ["writing", *INDEX, *READING, *LOADER]
    reading = table["what"].isin(READING)
    assert table.loc[~reading, "from_disk"].isna().all()
    warm, cold = (table.loc[table["what"] == what, "from_disk"] for what in READING)
    if warm.notna().all():  # Linux says it
        assert warm.max() < 0.1 and (warm.to_numpy() <= cold.to_numpy()).all()


def test_a_store_goes_to_the_disk_while_it_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(measure_store, "FLUSH_BYTES", 100 * 13 * 128 * 4)
    synced, real = [], measure_store.os.fsync
    monkeypatch.setattr(
        measure_store.os, "fsync", lambda number: synced.append(os.fstat(number).st_size) or real(number)
    )
    block = np.ones((4, 13, 128), np.float32)
    with ShardWriter(tmp_path, 128) as writer:
        append = lambda row: writer.append(block[0, :1], block[0, 1:])  # noqa: E731
        measure_store._write_all(writer.path, 250, append, writer.file.flush, block[0].nbytes, False)
    assert len(synced) == 3 and synced[-1] == writer.path.stat().st_size >= 250 * block[0].nbytes
    assert np.diff(synced).tolist() == [100 * block[0].nbytes, 50 * block[0].nbytes]


def test_too_few_windows_are_refused(home, monkeypatch, capsys):
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr("sys.argv", ["p2es", "data", "measure", "--windows", "10"])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 2 and "windows=10: at least 1000" in capsys.readouterr().err
    assert not home.exists()


def test_files_that_are_mapped_no_more_are_dropped_from_the_cache(store, monkeypatch):
    advised = []
    monkeypatch.setattr(measure_store.os, "posix_fadvise", lambda *a: advised.append(a[1:]), raising=False)
    monkeypatch.setattr(measure_store.os, "POSIX_FADV_DONTNEED", 4, raising=False)
    measure_store._forget(store[0] / "shard")
    assert advised == [(0, 0, 4)]


# ------------------------------------------------------------------------------------------- reading from many shards
def test_windows_of_many_shards_come_in_the_order_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(windows_store, "MAX_OPEN", 3)
    folders = [tmp_path / str(number) for number in range(7)]
    for number, folder in enumerate(folders):
        folder.mkdir()
        with ShardWriter(folder, 100) as writer:  # no multiple of a page
            for row in range(number + 1):
                writer.append(np.full((1, 100), 10 * number + row), np.full((12, 100), 10 * number + row + 0.5))
    places = np.array([(number, row) for number in range(7) for row in range(number + 1)])
    places = np.random.default_rng(0).permutation(np.concatenate([places, places[::2]]))
    for field, n_channels, added in (("ppg", 1, 0.0), ("ecg", 12, 0.5)):
        windows = WindowArray(Shards(folders), places, field, 100)
        expected = 10 * places[:, 0] + places[:, 1] + added
        assert np.asarray(windows).shape == (len(places), n_channels, 100)
        np.testing.assert_array_equal(np.asarray(windows)[:, -1, -1], expected)
        np.testing.assert_array_equal(windows[[5, 0, 5]][:, 0, 0], expected[[5, 0, 5]])
        assert windows[np.zeros(0, dtype=int)].shape == (0, n_channels, 100)


@pytest.fixture(scope="module")
def many_shards(tmp_path_factory):
    """600 shards of two windows each, whose values are their numbers; and the place of each window."""
    folders = [tmp_path_factory.mktemp("many") / str(number) for number in range(600)]
    for number, folder in enumerate(folders):
        folder.mkdir()
        with ShardWriter(folder, 16) as writer:
            for row in range(2):
                writer.append(np.full((1, 16), 2 * number + row), np.full((12, 16), 2 * number + row))
    return folders, np.array([(number, row) for number in range(600) for row in range(2)])


def test_more_shards_are_read_than_stay_open(many_shards, monkeypatch):
    """Every window three times, in any order, PPG and ECG: a header is parsed once, and descriptors do not run out."""
    folders, places = many_shards
    monkeypatch.setattr(windows_store, "MAX_OPEN", 100)
    parsed, real = [], windows_store._read_layout
    monkeypatch.setattr(windows_store, "_read_layout", lambda path: parsed.append(path) or real(path))
    shards, most = Shards(folders), 0
    before = len(os.listdir("/dev/fd"))
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(places))
        for field in ("ppg", "ecg"):
            windows = WindowArray(shards, places, field, 16)
            for rows in order.reshape(-1, 40):
                np.testing.assert_array_equal(windows[rows][:, 0, -1], rows)
                most = max(most, len(os.listdir("/dev/fd")) - before)
    assert len(parsed) == 600 and most <= 100
    assert windows_store.MAX_OPEN + 300 <= 1024, "with what else a process has open"


def test_a_shard_that_was_made_anew_is_refused_when_it_is_opened_again(tmp_path):
    def write(value: float, content_hash: str) -> None:
        with ShardWriter(tmp_path, 16) as writer:
            writer.append(np.full((1, 16), value), np.full((12, 16), value))
        (tmp_path / "shard.json").write_text(f'{{"content_hash": "{content_hash}"}}')

    write(1.0, "aa")
    shards = Shards([tmp_path], ["aa"])
    windows = WindowArray(shards, np.array([[0, 0]]), "ppg", 16)
    assert windows[0].max() == 1.0
    write(2.0, "bb")
    shards.open.cache_clear()
    with pytest.raises(InputError, match="made anew"):
        windows[0]
