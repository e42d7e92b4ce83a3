"""A data source that the tests make up: its stretches are made when they are asked for, and counted."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from p2es_lib.core.config import Config, get_config
from p2es_lib.data.preparation import prepare_shard, prepare_windows
from p2es_lib.data.sources.contract import Reading, Record, Source, Stretch
from p2es_lib.data.windows.store import SHARD_SETTINGS, Shards, read_settings, read_table, read_windows

MIRROR_FOLDER = "mirror"


class FakeSource:
    """A source whose records are added one by one: a text file on the mirror, and a function that makes the stretches.

    ``made`` counts the stretches that were asked for, by record.
    """

    def __init__(self, root: Path, name: str = "fake", role: str = "paired"):
        self.root, self.made = Path(root) / MIRROR_FOLDER, Counter()
        self.records: dict[str, Record] = {}
        self.readings: dict[str, tuple[dict, Callable[[], Iterable[Stretch]]]] = {}
        self.source = Source(
            name=name, title="", slug=name, version="", role=role, about={}, read=self._read,
            list_records=lambda mirror: list(self.records.values()),
            files=lambda mirror, record: [f"{record.path}.txt"],
        )  # fmt: skip
        self.root.mkdir(parents=True, exist_ok=True)

    def add(self, name: str, stretches, subject: str | None = None, shard: str = "one", **known) -> None:
        """Add or change a record; ``stretches`` is a list of them, or a function that makes them."""
        make = stretches if callable(stretches) else lambda: stretches
        self.records[name] = Record(name, name, shard)
        self.readings[name] = ({"subject": subject or name, "age": 60.0, "sex": "F"} | known, make)
        self.file(name).parent.mkdir(exist_ok=True)
        self.file(name).write_text("as recorded")

    def file(self, name: str) -> Path:
        return self.root / self.source.slug / f"{name}.txt"

    def _read(self, mirror, record: Record) -> Reading:
        known, make = self.readings[record.name]

        def counted() -> Iterator[Stretch]:
            for stretch in make():
                self.made[record.name] += 1
                yield stretch

        return Reading(**known, stretches=counted())

    def prepare(self, config: Config, shard: str = "one") -> Path:
        """Prepare the records of one shard."""
        records = [record for record in self.records.values() if record.shard == shard]
        return prepare_shard(self.source, shard, records, config, self.source.mirror(self.root))


def settings(dataset: str = "fake", **changes) -> Config:
    """Settings of profile smoke; ``section__name=value`` changes one."""
    config = get_config("smoke", dataset)
    for name, value in changes.items():
        config = config.replace(name.replace("__", "."), value)
    return config


def stretch_of(pair, gains=(("I", 0.6), ("II", 1.0)), *, ppg=None, start_s: float = 0.0) -> Stretch:
    """A recording in one piece: leads are the ECG of ``pair`` times their gains."""
    leads = {lead: (gain * pair.ecg, pair.sampling_rate) for lead, gain in dict(gains).items()}
    return Stretch(start_s, (pair.ppg if ppg is None else ppg, pair.sampling_rate), leads)


def shard_content(folder: Path) -> tuple:
    """Index, windows and ``shard.json`` of a shard."""
    return read_table(folder), Shards([folder]).open(0), read_settings(folder, SHARD_SETTINGS)


def prepare_and_die(root: Path, pair) -> None:
    """For a process of its own: prepares record ``a``, which it must make again, and is killed in mid-record."""
    fake = FakeSource(root)

    def stretches():
        yield stretch_of(pair)
        os.kill(os.getpid(), signal.SIGKILL)

    for name in ("a", "b"):
        fake.add(name, [stretch_of(pair)])
    fake.add("a", stretches)
    fake.file("a").write_text("a changed recording")
    fake.prepare(settings())


def lead_noise(pair, sd: float, seed: int = 0):
    """ECG (T,) of a pair with noise, mV."""
    return pair.ecg + sd * np.random.default_rng(seed).standard_normal(len(pair.ecg))


def add_people(fake: FakeSource, make_pair, n: int = 4, first_seed: int = 0, prefix: str = "p", **options) -> None:
    """Records of 35 s (4 windows), each of a subject of its own."""
    for number in range(n):
        pair = make_pair(35, 125.0, seed=first_seed + number, noise=0.01, **options)
        fake.add(f"{prefix}{number}", [stretch_of(pair)], age=30.0 + 7 * number, sex="FM"[number % 2])


def windows_of(fake: FakeSource, dataset: str = "", **changes):
    """Windows of a data set of sources on the mirror of this one, prepared."""
    config = settings(dataset or fake.source.name, **changes)
    return read_windows(prepare_windows(config, mirror=fake.root, progress=False))
