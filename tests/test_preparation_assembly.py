"""From shards to the windows of a run: copies dropped, limits laid on, lags, warnings, and when it is made again."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest
import wfdb
from fake_source import FakeSource, add_people, lead_noise, settings, stretch_of, windows_of

from p2es_lib.core import paths
from p2es_lib.core.errors import InputError
from p2es_lib.core.imports import modules_imported_by
from p2es_lib.data import sources
from p2es_lib.data.preparation import (
    assembly,
    jobs,
    list_jobs,
    prepare_shard,
    prepare_windows,
    prepared_dir,
    reject,
    run_job,
)
from p2es_lib.data.preparation.jobs import folder_state
from p2es_lib.data.sources import bidmc
from p2es_lib.data.sources.contract import Stretch
from p2es_lib.data.windows import SPLITS, read_rejected, read_settings, read_windows

RATE, WINDOW_S = 125.0, 8.192


@pytest.fixture
def new_source(tmp_path, home, monkeypatch):
    """``new_source(name, ...)`` makes a source that data sets can name; all of them lie on one mirror."""

    def make(name="fake", **options):
        fake = FakeSource(tmp_path, name, **options)
        monkeypatch.setitem(sources.SOURCES, name, fake.source)
        return fake

    return make


# -------------------------------------------------------------------------------------------------------------- copies
def write_copy(folder, name, pair, units="mV", gain=200.0, fmt="16", lead="II"):
    """One record of the challenge of 2015; the same signals have the same samples in every unit and format."""
    folder.mkdir(parents=True, exist_ok=True)
    ecg, ppg = np.round(200 * pair.ecg).astype(np.int64), np.round(2000 * pair.ppg).astype(np.int64)
    wfdb.wrsamp(
        name, RATE, [units, "NU"], [lead, "PLETH"], d_signal=np.column_stack([ecg, ppg]), fmt=[fmt] * 2,
        adc_gain=[gain, 2048.0], baseline=[0, 0], write_dir=str(folder),
    )  # fmt: skip


def test_copies_are_dropped_whatever_their_name_unit_and_format(tmp_path, home, make_pair):
    folder = tmp_path / "mirror" / "challenge-2015" / "1.0.0" / "training"
    pairs = [make_pair(35, RATE, seed=seed, noise=0.01) for seed in range(4)]
    names = [f"a{number}" for number in range(4)]
    for name, pair in zip(names, pairs):
        write_copy(folder, name, pair)
    write_copy(folder, "microvolts", pairs[1], "uV", 0.2)
    write_copy(folder, "other_format", pairs[2], fmt="212")
    write_copy(folder, "other_lead", pairs[3], lead="V5")
    names += ["microvolts", "other_format", "other_lead"]
    (folder / "RECORDS").write_text("\n".join(names) + "\n")
    windows = read_windows(prepare_windows(settings("challenge-2015"), mirror=tmp_path / "mirror", progress=False))
    assert windows.info["duplicates"] == {"microvolts": "a1", "other_format": "a2"}
    assert set(windows.index["record"]) == {"a0", "a1", "a2", "a3", "other_lead"}
    # Nothing is known of these patients: each record is a subject of its own.
    assert set(windows.index["subject"]) == {f"challenge-2015-{name}" for name in set(windows.index["record"])}


def test_samples_between_two_microvolts_make_no_difference(new_source, make_pair):
    """A gain of 400 per mV gives halves of a microvolt, and 0.4 per microvolt those with another rounding error."""
    fake = new_source()
    add_people(fake, make_pair)
    samples = np.round(400 * make_pair(35, RATE, seed=9, noise=0.01).ecg)
    ppg = make_pair(35, RATE, seed=9, noise=0.01).ppg
    copies = {"mV": samples / 400.0, "uV": samples / 0.4 * 1e-3, "single": (samples / 400.0).astype(np.float32)}
    for name, ecg in copies.items():
        fake.add(name, [Stretch(0.0, (ppg, RATE), {"II": (ecg, RATE)})])
    assert windows_of(fake).info["duplicates"] == {"uV": "mV", "single": "mV"}


def test_copies_in_another_source_are_dropped_and_names_may_be_shared(new_source, make_pair):
    """Names of records are unique within a source only."""
    one, two = new_source("one"), new_source("two")
    add_people(one, make_pair, 3, delay_s=0.2)
    add_people(two, make_pair, 3, first_seed=10, delay_s=0.4)  # p0, p1, p2 as well
    two.add("copy", one.readings["p1"][1]())
    two.add("p2", one.readings["p2"][1]())  # the same ECG under the same name
    windows = windows_of(one, "one+two")
    assert windows.info["duplicates"] == {"two/copy": "one/p1", "two/p2": "one/p2"}
    kept = windows.index.groupby("source")["record"].unique()
    assert set(kept["one"]) == {"p0", "p1", "p2"} and set(kept["two"]) == {"p0", "p1"}
    used = windows.index["source"].map({"one": 200.0, "two": 400.0}).to_numpy()
    assert windows.index["record_lag_ms"].to_numpy() == pytest.approx(used, abs=40)
    assert {name: counts[0] for name, counts in windows.info["by_record"].items()} == {
        "one/p0": 4, "one/p1": 4, "one/p2": 4, "two/p0": 4, "two/p1": 4,
    }  # fmt: skip
    assert set(windows.info["record_lag_ms"]) == set(windows.info["by_record"])


def test_records_that_broke_off_are_no_copies_of_each_other(new_source, make_pair):
    def breaks(seed):
        yield stretch_of(make_pair(35, RATE, seed=seed, noise=0.01))
        raise InputError("cut short")

    fake = new_source()
    add_people(fake, make_pair)
    for seed in (20, 21):
        fake.add(f"broken{seed}", lambda seed=seed: breaks(seed))
    assert windows_of(fake).info["duplicates"] == {}


# ------------------------------------------------------------------------------------------------ limits, laid on later
def test_another_limit_needs_no_new_preparation(new_source, make_pair):
    fake = new_source()
    for number in range(6):
        pair = make_pair(60, RATE, seed=number, noise=0.01)
        noisy = replace(pair, ecg=lead_noise(pair, 0.06 * number, number))
        fake.add(f"p{number}", [stretch_of(noisy, (("II", 1.0),))])
    loose = windows_of(fake, data__min_quality=0.3)
    shard = prepared_dir(fake.source, settings()) / "one"
    before = {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in shard.iterdir()}
    strict = windows_of(fake, data__min_quality=0.8)
    assert before == {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in shard.iterdir()}
    assert set(fake.made.values()) == {1}
    assert strict.info["found"] == loose.info["found"] == 42 and 0 < len(strict) < len(loose) <= 42
    for windows, limit in ((loose, 0.3), (strict, 0.8)):
        assert windows.index["quality"].min() >= limit and windows.info["accepted"] == len(windows)
        assert sum(windows.info["rejected"].values()) == 42 - len(windows)
        assert sum(kept for _, kept in windows.info["by_record"].values()) == len(windows)
    with pytest.raises(InputError, match="0 of 42 windows .*lower data.min_quality"):
        windows_of(fake, data__min_quality=1.0)


def test_rejected_windows_can_be_looked_at(new_source, make_pair):
    fake = new_source()
    add_people(fake, make_pair)
    pair = make_pair(35, RATE, seed=8, noise=0.01)
    flat = np.where(np.arange(len(pair.ppg)) % 1024 < 60, 0.5, pair.ppg)
    fake.add("flat", [stretch_of(pair, ppg=flat)])
    folder = prepare_windows(settings(), mirror=fake.root, progress=False)
    (example,) = read_rejected(folder)
    assert example["reason"] == "PPG missing, flat, clipped or jumping" and example["record"] == "flat"
    assert example["ppg"].shape == (1, 1024) and example["ecg"].shape == (12, 1024)
    first = round(example["start_s"] * RATE)
    assert np.corrcoef(example["ecg"][1], pair.ecg[first : first + 1024])[0, 1] > 0.95


# ---------------------------------------------------------------------------------------------------------------- lags
def test_one_lag_per_record_is_stored_and_no_target_is_shifted_by_it(new_source, make_pair):
    fake, pairs = new_source(), {}
    for number, delay_s in enumerate((0.15, 0.2, 0.25, 0.3, 0.45, 0.6)):
        pairs[f"p{number}"] = make_pair(60, RATE, 0.9, delay_s, seed=number, noise=0.005)
        fake.add(f"p{number}", [stretch_of(pairs[f"p{number}"])])
    windows = windows_of(fake)
    lags = windows.index.groupby("record")["record_lag_ms"].unique()
    assert all(len(values) == 1 for values in lags)
    assert {name: values[0] for name, values in lags.items()} == windows.info["record_lag_ms"]
    medians = windows.index.groupby("record")["pat_ms"].median().to_dict()
    assert windows.info["record_lag_ms"] == pytest.approx(medians, abs=0.06)
    used = {f"p{number}": delay for number, delay in enumerate((150, 200, 250, 300, 450, 600))}
    # The foot of a pulse lies beside its mathematical beginning, always at the same distance.
    beyond = np.array([lags[name][0] - used[name] for name in sorted(used)])
    assert np.abs(beyond).max() < 40 and np.ptp(beyond) < 12
    for row, (record, start_s) in enumerate(zip(windows.index["record"], windows.index["start_s"])):
        beats, ecg = pairs[record].rpeaks_s - start_s, windows.ecg[row, 1]
        beats = np.rint(beats[(beats > 0.1) & (beats < WINDOW_S - 0.1)] * RATE).astype(int)
        assert np.abs(np.argmax(ecg[beats[:, None] + np.arange(-10, 11)], axis=1) - 10).max() <= 1
    assert set(windows.index["split"]) == set(SPLITS)


# ------------------------------------------------------------------------------------------------------ warnings, jobs
def test_simulated_pulses_are_marked(new_source, make_pair):
    fake, real = new_source("ecgs", role="ecg only"), new_source("real")
    for number in range(4):
        ecg = make_pair(35, RATE, seed=number, noise=0.01).ecg
        fake.add(f"p{number}", [Stretch(0.0, None, {"II": (ecg, RATE)})])
    windows = windows_of(fake)
    assert set(windows.index["ppg_origin"]) == {"simulated"}
    assert "SEMI-SYNTHETIC: the ECG is real, the PPG is not. All PPG windows" in windows.info["warnings"][0]
    add_people(real, make_pair, 2, first_seed=10, prefix="q")
    windows = windows_of(fake, "ecgs+real")
    assert (windows.index["ppg_origin"] == np.where(windows.index["source"] == "real", "measured", "simulated")).all()
    assert "Some PPG windows" in windows.info["warnings"][0]


def test_ecgs_of_unnamed_leads_serve_for_timing_only(new_source, make_pair):
    fake = new_source(role="timing only")
    for number in range(3):
        pair = make_pair(35, RATE, seed=number, noise=0.01)
        fake.add(f"p{number}", [Stretch(0.0, (pair.ppg, RATE), {}, rhythm=(0.3 * pair.ecg, RATE))])
    windows = windows_of(fake)
    assert windows.info["warnings"][0].startswith("TIMING ONLY") and not windows.lead_mask.any()
    assert windows.info["duplicates"] == {}  # of whatever scale, different signals are no copies
    assert windows.index["pat_ms"].to_numpy() == pytest.approx(250, abs=40)


def test_jobs_prepare_shards_and_the_store_is_only_put_together(new_source, make_pair):
    fake, config = new_source(), settings()
    add_people(fake, make_pair, 4)
    fake.records = {name: replace(record, shard=f"shard-{name}") for name, record in fake.records.items()}
    found = list_jobs(config, fake.root)
    assert [(job.source, job.shard) for job in found] == [("fake", f"shard-p{number}") for number in range(4)]
    folders = [run_job(job, config, fake.root) for job in found]
    assert [folder.name for folder in folders] == [job.shard for job in found] and set(fake.made.values()) == {1}
    store = paths.windows_dir("fake", "smoke")  # killed processes left these behind
    unfinished = [store.parent / ".fake-smoke.tmp0123", folders[0].parent / ".gone.tmp4567"]
    unfinished += [folders[0] / ".shard.tmp89.json"]
    for path in unfinished:
        path.mkdir(parents=True)
        path.with_name(path.name.removesuffix(".json") + ".lock").touch()
    assert len(windows_of(fake)) == 16 and set(fake.made.values()) == {1}
    assert [path.name for path in store.parent.iterdir()] == ["fake-smoke"]
    assert not list((paths.home() / "data" / "prepared").rglob(".*"))
    state = folder_state(found[1], fake.root)
    os.utime(fake.file("p1"), ns=(1, 1))
    assert folder_state(found[1], fake.root) != state and folder_state(found[1], "http://nowhere/") == ""


def test_a_store_does_not_read_shards_that_were_made_anew_after_it(new_source, make_pair):
    """A preparation that is killed between the two leaves the older store, whose rows now hold other windows."""
    fake, config = new_source(), settings()
    add_people(fake, make_pair, 4)
    before = np.asarray(windows_of(fake).ppg)
    store = paths.windows_dir("fake", "smoke")
    fake.add("p0", [stretch_of(make_pair(60, RATE, seed=77, noise=0.01))], age=30.0, sex="F")
    fake.file("p0").write_text("another recording")
    fake.prepare(config)
    with pytest.raises(InputError, match="windows.npy: was made anew.*delete this"):
        read_windows(store)
    after = windows_of(fake)
    assert len(after) == 19 != len(before) and np.isfinite(np.asarray(after.ecg)).all()


def test_the_store_follows_its_shards_and_the_code_that_splits(new_source, make_pair, monkeypatch, tmp_path):
    fake, config = new_source(), settings()
    add_people(fake, make_pair, 4)
    calls, real = [], jobs.assemble
    monkeypatch.setattr(jobs, "assemble", lambda *args: calls.append(1) or real(*args))
    folder = prepare_windows(config, mirror=fake.root, progress=False)
    before = read_settings(folder)
    prepare_windows(config, mirror=fake.root, progress=False)
    assert len(calls) == 1
    add_people(fake, make_pair, 1, first_seed=30, prefix="new")
    prepare_windows(config, mirror=fake.root, progress=False)
    after = read_settings(folder)
    assert len(calls) == 2 and after["n_windows"] == 20 and after["content_hash"] != before["content_hash"]
    monkeypatch.setattr(jobs, "hash_files", lambda files: "another")
    prepare_windows(config, mirror=fake.root, progress=False)
    assert len(calls) == 3 and read_settings(folder)["content_hash"] == after["content_hash"]
    monkeypatch.undo()
    decides = {path.name for path in modules_imported_by(assembly.__name__, assembly.ASSEMBLES)}
    assert {"assembly.py", "splits.py", "leads.py"} <= decides and "jobs.py" not in decides


@pytest.mark.mirror
def test_a_real_record(mirror, home):
    """8 minutes at a bedside: nearly all windows are usable, and pulses follow beats at one delay."""
    source = bidmc.SOURCE
    real = source.mirror(mirror)
    folder = prepare_shard(source, "one", source.list_records(real)[:1], settings("bidmc"), real)
    index, info = assembly.collect_index([("bidmc", folder)])
    accepted = index[reject(index, 0.7) == ""]
    assert len(index) == 58 and len(accepted) > 50 and set(accepted["leads"]) == {"121211000000"}
    assert assembly.record_lags(accepted)["bidmc_01"] == pytest.approx(518, abs=20)
    assert accepted["pat_ms"].std() < 30 and info["hours"] == pytest.approx(8 / 60, abs=0.001)
