"""The prepared store: written whole or not at all, split by subject, batches a pure function of (seed, step)."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections import Counter

import numpy as np
import pandas as pd
import pytest

from p2es_lib.core import paths
from p2es_lib.core.config import get_config
from p2es_lib.core.errors import InputError
from p2es_lib.core.subject_numbers import MAX_SEED, STREAM_STRIDE
from p2es_lib.data.preparation import jobs, prepare_windows
from p2es_lib.data.sources import simulated
from p2es_lib.data.windows import SPLITS, TrainingBatches, WindowSet, cohort_table, read_settings, read_windows, store
from p2es_lib.data.windows.splits import SPLIT_FRACTIONS, split_subjects
from p2es_lib.data.windows.store import WindowArray, write_windows


def make_windows(n_subjects: int = 10, per_subject: int = 3, length: int = 128) -> WindowSet:
    n = n_subjects * per_subject
    rng = np.random.default_rng(0)
    subject = np.repeat([f"s{i:03d}" for i in range(n_subjects)], per_subject)
    split = np.repeat([SPLITS[0] if i < 7 else SPLITS[1 + i % 2] for i in range(n_subjects)], per_subject)
    index = pd.DataFrame(
        {
            "subject": subject, "record": subject, "start_s": np.tile(np.arange(per_subject) * 10.0, n_subjects),
            "age": np.where(np.arange(n) % 2, np.nan, 61.5), "sex": np.tile(["F", "M", ""], n)[:n], "split": split,
            "split_kind": "subject", "quality": 0.9, "rhythm": "", "morphology": "", "beats": np.arange(n),
        }
    )  # fmt: skip
    return WindowSet(
        rng.standard_normal((n, 1, length)).astype(np.float32),
        rng.standard_normal((n, 12, length)).astype(np.float32),
        rng.integers(0, 3, (n, 12)).astype(np.uint8),
        index,
        {"warnings": ["loud"], "rejected": {"flat": 3}},
    )


def small_config(**changes):
    config = get_config("smoke")
    settings = {
        "data.n_train_subjects": 5, "data.n_validation_subjects": 3, "data.n_test_subjects": 4,
        "signal.window_samples": 512, "training.batch_size": 4, "data.disturbed_share": 0.0,
    } | {key.replace("__", "."): value for key, value in changes.items()}  # fmt: skip
    for name, value in settings.items():
        config = config.replace(name, value)
    return config


# ---------------------------------------------------------------------------------------------------------- the store
@pytest.mark.parametrize("parquet", [True, False])
def test_store_gives_back_what_was_written(tmp_path, monkeypatch, parquet):
    if not parquet:  # as on a machine without pyarrow
        monkeypatch.setattr(store.importlib.util, "find_spec", lambda name: None)
    windows = make_windows()
    write_windows(tmp_path / "d-quick", windows, {"dataset": "d"})
    back = read_windows(tmp_path / "d-quick")
    for name in ("ppg", "ecg", "lead_mask"):
        assert np.array_equal(getattr(back, name), getattr(windows, name))
    assert isinstance(back.ppg, WindowArray) and isinstance(back.ecg, WindowArray)  # not read until asked for
    pd.testing.assert_frame_equal(back.index, windows.index, check_dtype=False)
    assert back.index["beats"].dtype.kind == "i" and back.index["start_s"].dtype == np.float64
    assert back.info == windows.info
    assert np.isnan(back.demographics.age[1]) and back.demographics.age[0] == np.float32(61.5)
    assert list(back.demographics.sex[:3]) == ["F", "M", ""]


def test_content_hash_follows_the_content(tmp_path):
    windows = make_windows()
    write_windows(tmp_path / "a-quick", windows, {})
    write_windows(tmp_path / "b-quick", windows, {})
    ecg = windows.ecg.copy()
    ecg[0, 0, 0] += 1
    write_windows(tmp_path / "c-quick", WindowSet(windows.ppg, ecg, windows.lead_mask, windows.index), {})
    hashes = [read_settings(tmp_path / f"{name}-quick")["content_hash"] for name in "abc"]
    assert hashes[0] == hashes[1] != hashes[2]


def test_missing_store_names_the_command(tmp_path):
    with pytest.raises(InputError, match="01_data --dataset mimic4wdb --profile quick"):
        read_windows(tmp_path / "mimic4wdb-quick")


def test_damaged_store_is_an_input_error(tmp_path):
    write_windows(tmp_path / "d-quick", make_windows(), {})
    (tmp_path / "d-quick" / "windows.npy").write_bytes(b"")
    with pytest.raises(InputError, match="delete this folder"):
        read_windows(tmp_path / "d-quick")


def test_failed_write_leaves_the_older_store(tmp_path, monkeypatch):
    write_windows(tmp_path / "d-quick", make_windows(), {"version": 1})

    def broken_save(*_):
        raise OSError("disk full")

    monkeypatch.setattr(store.np, "save", broken_save)
    with pytest.raises(OSError, match="disk full"):
        write_windows(tmp_path / "d-quick", make_windows(4), {"version": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["d-quick"]
    assert len(read_windows(tmp_path / "d-quick")) == 30


def test_select_and_split(tmp_path):
    windows = make_windows()
    write_windows(tmp_path / "d-quick", windows, {})
    windows = read_windows(tmp_path / "d-quick")
    rows = np.array([4, 1, 29])
    picked = windows.select(rows)
    assert np.array_equal(picked.ecg, windows.ecg[rows]) and list(picked.index["beats"]) == [4, 1, 29]
    assert np.array_equal(windows.select(windows.index["sex"] == "F").ppg, windows.ppg[::3])
    train = windows.split("train")
    assert len(train) == 21 and set(train.index["split"]) == {"train"}
    assert isinstance(train.ecg, WindowArray) and np.array_equal(train.ecg, np.asarray(windows.ecg)[:21])
    assert np.array_equal(train.ecg[3, :2, 5:9], np.asarray(windows.ecg)[3, :2, 5:9])
    assert np.array_equal(train.ecg[[7, 2], 1], np.asarray(windows.ecg)[[7, 2], 1])
    assert len(windows.select(np.zeros(30, dtype=bool))) == 0
    with pytest.raises(InputError, match="train, validation, test"):
        windows.split("training")


def test_wrong_shapes_and_columns_are_refused():
    windows = make_windows()
    with pytest.raises(InputError, match="ecg has shape"):
        WindowSet(windows.ppg, windows.ecg[:, :8], windows.lead_mask, windows.index)
    with pytest.raises(InputError, match="lacks the columns quality"):
        WindowSet(windows.ppg, windows.ecg, windows.lead_mask, windows.index.drop(columns="quality"))


# --------------------------------------------------------------------------------------------------------- the splits
def cohort(n: int):
    rng = np.random.default_rng(1)
    ages = np.where(rng.random(n) < 0.1, np.nan, rng.uniform(18, 90, n))
    return [f"p{i}" for i in range(n)], ages, rng.choice(["F", "M"], n)


def test_split_is_deterministic_and_independent_of_the_order():
    subjects, ages, sexes = cohort(101)
    first = split_subjects(subjects, ages, sexes, seed=3)
    order = np.random.default_rng(0).permutation(101)
    assert first == split_subjects([subjects[i] for i in order], ages[order], sexes[order], seed=3)
    assert first != split_subjects(subjects, ages, sexes, seed=4)


@pytest.mark.parametrize("n", [3, 4, 5, 10, 11, 53, 200])
def test_split_sizes(n):
    counts = Counter(split_subjects(*cohort(n)).values())
    assert sum(counts.values()) == n and all(counts[name] >= 1 for name in SPLITS)
    if n >= 10:
        for name, share in SPLIT_FRACTIONS.items():
            assert abs(counts[name] - share * n) < 1


def test_split_is_stratified():
    subjects, ages, sexes = cohort(400)
    assigned = split_subjects(subjects, ages, sexes)
    split = np.array([assigned[subject] for subject in subjects])
    for stratum in (sexes == "F", ages < 40, (ages >= 60) & (sexes == "M"), np.isnan(ages)):
        share = np.mean(split[stratum] == "test")
        assert abs(share - 0.2) < 0.04, share


def test_split_refuses_repeats():
    with pytest.raises(InputError, match="listed twice"):
        split_subjects(["a", "a"], [1, 2], ["F", "F"])


def test_cohort_table_counts_subjects_and_windows():
    index = make_windows().index
    index["heart_rate"] = np.arange(30.0)
    index.loc[index["subject"] == "s000", ["age", "sex", "rhythm"]] = [40.0, "M", "atrial_fibrillation"]
    table = cohort_table(index).set_index("characteristic")
    assert list(table.columns) == ["train", "validation", "test", "all"]
    assert list(table.loc["subjects"]) == ["7", "1", "2", "10"] and list(table.loc["windows"]) == ["21", "3", "6", "30"]
    assert table.loc["male", "all"] == "1 (10.0 %)"
    assert table.loc["rhythm: atrial fibrillation", "train"] == "3 (14.3 %)"
    assert table.loc["heart rate (per minute)", "all"] == "14 (7 to 22)"
    assert table.loc["age or sex not known", "all"] == "5 (50.0 %)"
    assert "R peak to pulse onset (ms)" not in table.index


# ---------------------------------------------------------------------------------------------------- stored batches
def test_stored_batches_visit_each_training_window_once_per_epoch():
    windows = make_windows()  # 21 training windows, batches of 4: epochs end inside a batch
    config = small_config(data__stream_training=False)
    with TrainingBatches(config, windows, seed=0) as batches:
        rows = np.concatenate([batches.rows(step) for step in range(21)])
        for epoch in range(4):
            assert sorted(rows[epoch * 21 : (epoch + 1) * 21]) == list(range(21))
        assert list(rows[:21]) != list(rows[21:42])
        batch = batches.batch(2)
    train = windows.split("train")
    assert np.array_equal(batch["ecg"].numpy(), train.ecg[rows[8:12]])
    assert np.array_equal(batch["ppg"].numpy(), train.ppg[rows[8:12]])
    assert np.array_equal(batch["lead_mask"].numpy(), train.lead_mask[rows[8:12]])
    assert batch["subjects"] == train.index["subject"].iloc[rows[8:12]].tolist()
    assert np.array_equal(batch["demographics"].age, train.demographics.age[rows[8:12]], equal_nan=True)


def test_batch_depends_on_seed_and_step_only():
    windows = make_windows()
    config = small_config(data__stream_training=False)
    with TrainingBatches(config, windows, 0, n_prefetch=2) as ahead, TrainingBatches(config, windows, 0, 0) as plain:
        for step in (0, 1, 2, 9, 3, 3, 0):  # also out of order, as after a resume
            assert np.array_equal(ahead.batch(step)["ecg"], plain.batch(step)["ecg"])
    with TrainingBatches(config, windows, 1, 0) as other, TrainingBatches(config, windows, 0, 0) as plain:
        assert not np.array_equal(other.batch(0)["ecg"], plain.batch(0)["ecg"])


def test_batches_are_made_ahead_in_threads_where_asked_for(monkeypatch):
    made = []
    monkeypatch.setattr(
        TrainingBatches, "_make", lambda self, step: made.append((step, threading.current_thread().name)) or {}
    )
    config, windows = small_config(data__stream_training=False), make_windows()
    with TrainingBatches(config, windows, 0, n_prefetch=2) as ahead:
        ahead.batch(3)
        assert set(ahead._pending) == {4, 5}
    assert 3 in dict(made) and all(name.startswith("batches") for _, name in made)
    made.clear()
    with TrainingBatches(config, windows, 0, n_prefetch=0) as plain:
        plain.batch(3)
    plain.batch(7)  # nothing of it has ended
    assert made == [(step, threading.current_thread().name) for step in (3, 7)]


def test_batch_larger_than_the_store():
    config = small_config(data__stream_training=False, training__batch_size=64)
    with TrainingBatches(config, make_windows(), 0) as batches:
        assert batches.batch(0)["ppg"].shape == (64, 1, 128)


def test_no_training_window_is_an_input_error():
    windows = make_windows()
    test_only = windows.select(windows.index["split"] == "test")
    with pytest.raises(InputError, match="no training windows"):
        TrainingBatches(small_config(data__stream_training=False), test_only, 0)


# --------------------------------------------------------------------------------------------- the simulated cohort
def test_simulated_store(home, monkeypatch):
    config = small_config()
    folder = prepare_windows(config, progress=False)
    assert folder == paths.windows_dir("simulated", "smoke") == home / "data" / "windows" / "simulated-smoke"
    windows = read_windows(folder)
    assert Counter(windows.index["split"]) == {"train": 10, "validation": 6, "test": 8}
    assert windows.ppg.shape == (24, 1, 512) and windows.ecg.dtype == np.float32 and (windows.lead_mask == 2).all()
    assert windows.index.groupby("subject")["split"].nunique().max() == 1
    assert not windows.index.duplicated(["record", "start_s"]).any()
    # The store can be simulated again with its latents, byte by byte, whatever the split or the chunk around it.
    monkeypatch.setattr(simulated, "_CHUNK", 3)
    again = simulated.simulated_split(config, "test")
    assert np.array_equal(again.ecg, windows.split("test").ecg) and np.array_equal(again.ppg, windows.split("test").ppg)
    assert list(again.index["record"]) == list(windows.split("test").index["record"])
    numbers = windows.split("test").index["subject_number"]
    assert list(numbers) == [20_000_000 + i // 2 for i in range(8)]


def test_preparing_again_does_nothing_unless_settings_or_code_change(home, monkeypatch):
    calls = []
    real = jobs.simulate_cohort
    monkeypatch.setattr(jobs, "simulate_cohort", lambda *args: calls.append(1) or real(*args))
    config = small_config()
    prepare_windows(config, progress=False)
    prepare_windows(config, progress=False)
    prepare_windows(config.replace("training.n_steps", 7), progress=False)  # no matter to the data
    assert len(calls) == 1
    prepare_windows(config.replace("data.simulator_seed", 1), progress=False)
    assert len(calls) == 2
    monkeypatch.setattr(jobs, "hash_files", lambda files: "changed")
    prepare_windows(config.replace("data.simulator_seed", 1), progress=False)
    assert len(calls) == 3


def test_streamed_batches():
    config = small_config()
    windows = make_windows()
    with TrainingBatches(config, windows, 0, n_prefetch=2) as ahead, TrainingBatches(config, windows, 0, 0) as plain:
        batches = [plain.batch(step) for step in range(3)]
        for step in (0, 2, 1, 1):
            for name in ("ppg", "ecg", "lead_mask"):
                assert np.array_equal(ahead.batch(step)[name], batches[step][name])
    assert batches[0]["ppg"].shape == (4, 1, 512) and batches[0]["ecg"].shape == (4, 12, 512)
    assert len({subject for batch in batches for subject in batch["subjects"]}) == 12
    assert not np.isnan(batches[0]["demographics"].age).any()


def test_streams_never_meet_each_other_or_the_splits():
    config = small_config()
    windows = make_windows()
    seen: set[int] = {int(n) for split in SPLITS for n in simulated.split_subject_numbers(config, split)}
    for seed in (0, 1, 2, MAX_SEED):
        with TrainingBatches(config, windows, seed, 0) as batches:
            assert batches.subject_numbers(STREAM_STRIDE // 4 - 1).max() <= 2**32 - 2, "what the simulator can number"
            for step in (0, 1, 5, STREAM_STRIDE // 4 - 1):
                numbers = {int(n) for n in batches.subject_numbers(step)}
                assert len(numbers) == 4 and not numbers & seen
                seen |= numbers
            with pytest.raises(InputError, match="stream of one seed ends"):
                batches.subject_numbers(STREAM_STRIDE // 4)


def test_settings_json_names_everything(home):
    folder = prepare_windows(small_config(), progress=False)
    settings = json.loads((folder / "settings.json").read_text())
    assert settings["dataset"] == "simulated" and settings["n_windows"] == 24
    assert len(settings["content_hash"]) == 16


def test_windows_of_an_older_version_are_kept_until_a_setting_changes(home, monkeypatch):
    folder = prepare_windows(small_config(), progress=False)
    settings = json.loads((folder / "settings.json").read_text())
    settings["signal"]["n_samples"] = settings["signal"].pop("window_samples")
    del settings["data"]["stride_s"]  # as if it had not been there yet
    (folder / "settings.json").write_text(json.dumps(settings))
    monkeypatch.setattr("p2es_lib.data.preparation.jobs.simulate_cohort", lambda *_: pytest.fail("made again"))
    prepare_windows(small_config(), progress=False)
    with pytest.raises(pytest.fail.Exception, match="made again"):
        prepare_windows(small_config().replace("data.stride_s", 2.0), progress=False)


def test_unknown_dataset_is_refused(home):
    with pytest.raises(InputError, match="dataset='nothing' is unknown.*simulated"):
        prepare_windows(dataclasses.replace(small_config(), dataset="nothing"))
