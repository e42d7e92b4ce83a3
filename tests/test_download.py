"""Whole data sets from a local HTTP server that behaves, and from one that does not: ``p2es data ...``."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
from toy_workflow import p2es_command
from wfdb_files import write_mimic4, write_record

from p2es_lib.cli import data, main
from p2es_lib.core.config import get_config
from p2es_lib.core.errors import InputError
from p2es_lib.data.download import http
from p2es_lib.data.download import mirror as mirror_module
from p2es_lib.data.download.checksums import read_checksums
from p2es_lib.data.preparation.jobs import list_jobs, prepare_windows, run_job
from p2es_lib.data.sources import SOURCES, get_source
from p2es_lib.data.sources.contract import Record
from p2es_lib.data.sources.fetch import (
    add_to_selection,
    get_records,
    read_selection,
    sample_records,
    select_records,
    verify_records,
)

CHALLENGE, MIMIC4, BIDMC, PTB_XL = (get_source(name) for name in ("challenge-2015", "mimic4wdb", "bidmc", "ptb-xl"))
NAMES = [f"a{number}l" for number in range(101, 107)] + ["v201s", "v202s"]
ABSENT = [f"waves/p100/p1000000{n + 1}/8{n}/8{n}_0009.hea" for n in range(2)]  # named by write_mimic4, and not there


class Handler(BaseHTTPRequestHandler):
    """Serves ``server.root``; ``server.trouble`` maps ends of paths to what goes wrong, request by request."""

    def do_HEAD(self):
        self.answer(lambda *_: None)

    def do_GET(self):
        self.answer(self.send)

    def answer(self, send):
        server, path = self.server, unquote(self.path).lstrip("/")
        server.requests.append((self.command, path, self.headers.get("Range")))
        action = next((plan for end, plan in server.trouble.items() if path.endswith(end)), None)
        if isinstance(action, list) and self.command == "GET":
            action = action.pop(0) if action else None
        file = server.root / path
        if isinstance(action, int) or not file.is_file():
            self.send_error(action if isinstance(action, int) else 404)
            return
        body = file.read_bytes()
        etag, start = f'"{hashlib.md5(body).hexdigest()}"', 0
        if (wanted := self.headers.get("Range")) and self.headers.get("If-Range") == etag:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("ETag", etag)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        send(altered(body) if action == "altered" else body, start, action)

    def send(self, body, start, action):
        server = self.server
        with server.lock:
            server.active += 1
            server.most_active = max(server.most_active, server.active)
        if action == "late":
            time.sleep(0.2)
        half = (start + len(body)) // 2
        self.wfile.write(body[start:half])
        if action == "hold":
            server.release.wait(20)
        with server.lock:
            server.active -= 1
        self.wfile.write(body[half:])

    def log_message(self, *_):
        pass


def altered(body):
    return body[:-1] + bytes([body[-1] ^ 1])


@pytest.fixture(scope="module")
def tree(tmp_path_factory, make_pair):
    """A mirror: two patients of MIMIC-IV, and eight alarms of 5 minutes."""
    root = write_mimic4(tmp_path_factory.mktemp("tree") / "mirror", make_pair)
    folder = root / "challenge-2015" / "1.0.0" / "training"
    rng = np.random.default_rng(0)
    for name in NAMES:
        write_record(folder, name, {"II": rng.normal(size=75_000), "PLETH": rng.normal(size=75_000)}, 250.0)
    (folder / "RECORDS").write_text("".join(f"{name}\n" for name in NAMES))
    return root


@pytest.fixture
def root(tree, tmp_path):
    return Path(shutil.copytree(tree, tmp_path / "served" / "mirror"))


@pytest.fixture
def server(root, home, monkeypatch):
    monkeypatch.setattr(mirror_module, "BACKOFF_S", 0.01)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.root, server.requests, server.trouble = root, [], {}
    server.lock, server.release, server.active, server.most_active = threading.Lock(), threading.Event(), 0, 0
    server.url = f"http://127.0.0.1:{server.server_port}"
    server.handle_error = lambda *_: None  # a client that gave up is part of the play
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.release.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def p2es(home, monkeypatch, capsys):
    """Run ``p2es data ...`` in this process: returns exit status, standard output, standard error."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["p2es", "data", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main.main()
            raise SystemExit(0)
        return (ended.value.code or 0, *capsys.readouterr())

    return run


def get(source, location, **options):
    return get_records(source, location, progress=False, **options)


def start_get(home, *arguments):
    environment = os.environ | {"P2ES_HOME": str(home), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(p2es_command("data", "get", *arguments), env=environment, text=True, stderr=subprocess.PIPE)


def wait_for(condition, seconds=120.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def contents(folder):
    """Path to content of all files below a folder; hidden ones (lists of our own) are left out."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def gets(server, end=""):
    """How often each file was fetched, by its path in the data set."""
    asked = [path.split("/", 2)[2] for method, path, _ in server.requests if method == "GET"]
    return Counter(path for path in asked if path.endswith(end))


def files_of(*names):
    return {f"training/{name}.{end}" for name in names for end in ("hea", "dat")} | {"training/RECORDS"}


def publish(folder):
    lines = [f"{hashlib.sha256(content).hexdigest()} {path}\n" for path, content in contents(folder).items()]
    (folder / "SHA256SUMS.txt").write_text("".join(lines))


# ------------------------------------------------------------------------------------------------------- all of it
def test_a_data_set_is_fetched_once_and_laid_out_as_its_mirror(server, root):
    got = get(MIMIC4, server.url)
    original = contents(root / "mimic4wdb" / "0.1.0")
    assert contents(got.folder) == original and len(original) == 19
    assert [record.name for record in got.records] == ["80", "81"]
    assert (got.n_files, got.n_bytes) == (19, sum(map(len, original.values())))
    assert set(gets(server)) == {*original, *ABSENT, "SHA256SUMS.txt"}
    assert all(gets(server)[path] == 1 for path in original)
    digests = {path: hashlib.sha256(content).hexdigest() for path, content in original.items()}
    assert read_checksums(got.folder / ".sha256") == digests
    server.requests.clear()
    again = get(MIMIC4, server.url)
    assert (again.n_files, again.n_bytes) == (got.n_files, got.n_bytes)
    assert set(gets(server)) == {*ABSENT, "SHA256SUMS.txt"}


def test_what_the_mirror_lacks_is_noted_and_not_asked_for_until_the_next_get(server, root):
    got = get(MIMIC4, server.url)
    assert got.missing == ABSENT
    server.requests.clear()
    assert MIMIC4.mirror(server.url).try_fetch(ABSENT[0]) is None and not server.requests
    (root / "mimic4wdb" / "0.1.0" / ABSENT[0]).write_text("80_0009 0 62.5 400\n")
    assert MIMIC4.mirror(server.url).try_fetch(ABSENT[0]) is None and not server.requests
    assert get(MIMIC4, server.url).missing == ABSENT[1:]
    assert MIMIC4.mirror(server.url).fetch(ABSENT[0]).read_text() == "80_0009 0 62.5 400\n"


def test_what_one_mirror_lacks_another_may_hold(server, root):
    get(MIMIC4, server.url)
    (root / "mimic4wdb" / "0.1.0" / ABSENT[0]).write_text("80_0009 0 62.5 400\n")
    other = server.url.replace("127.0.0.1", "localhost")
    assert MIMIC4.mirror(server.url).try_fetch(ABSENT[0]) is None
    assert MIMIC4.mirror(other).fetch(ABSENT[0]).read_text() == "80_0009 0 62.5 400\n"


@pytest.mark.parametrize("from_folder", [False, True])
def test_what_was_fetched_is_used_without_naming_the_mirror_again(server, root, p2es, monkeypatch, from_folder):
    """The data set's home was asked for what the mirror lacked: minutes of time-outs where it is out of reach."""
    location = root if from_folder else server.url
    get(MIMIC4, location, records=["80"])
    get(MIMIC4, location, records=["81"])  # what the records before it lack is not forgotten
    monkeypatch.setattr(http.urllib.request, "urlopen", lambda *_, **__: pytest.fail("the network was asked"))
    assert [MIMIC4.mirror().try_fetch(path) for path in ABSENT] == [None, None]
    status, _, errors = p2es("prepare", "mimic4wdb", "--profile", "smoke")
    assert status == 0 and "1 of its segments are not on the mirror (80_0009)" in errors, errors
    where = MIMIC4.mirror(location).where(ABSENT[0])
    with pytest.raises(InputError, match=f"{re.escape(where)}: was not on this mirror"):
        MIMIC4.mirror().fetch(ABSENT[0])


def test_a_record_without_header_is_named_among_the_missing(server, root, p2es):
    header = root / "challenge-2015" / "1.0.0" / "training" / "a101l.hea"
    header.unlink()
    got = get(CHALLENGE, server.url, records=["a10[12]l"])
    assert got.missing == ["training/a101l.hea"] and set(contents(got.folder)) == files_of("a102l")
    status, output, _ = p2es("get", "challenge-2015", "--mirror", server.url, "--record", "a10[12]l")
    assert status == 0 and "1 files are not on the mirror: training/a101l.hea" in output


def test_transfers_run_side_by_side_but_not_more_than_asked_for(server, home):
    server.trouble = {".dat": "late"}
    get(CHALLENGE, server.url, number=6, jobs=3)
    assert server.most_active == 3
    shutil.rmtree(home)
    server.most_active = 0
    get(CHALLENGE, server.url, number=2, jobs=1)
    assert server.most_active == 1
    with pytest.raises(InputError, match="jobs=0: at least 1"):
        get(CHALLENGE, server.url, jobs=0)


def test_a_folder_is_copied_and_checked(root, home):
    folder = root / "challenge-2015" / "1.0.0"
    publish(folder)
    got = get(CHALLENGE, root, records=["v*"])
    assert set(contents(got.folder)) == files_of("v201s", "v202s") | {"SHA256SUMS.txt"}
    assert all(content == (folder / path).read_bytes() for path, content in contents(got.folder).items())
    damaged, link = folder / "training" / "a101l.dat", folder / "training" / "a102l.dat"
    damaged.write_bytes(altered(damaged.read_bytes()))
    link.unlink()
    link.symlink_to(root.parent / "elsewhere.dat")
    (root.parent / "elsewhere.dat").write_text("not of this mirror")
    with pytest.raises(InputError, match="a101l.dat: SHA-256 is .*SHA256SUMS.txt says"):
        get(CHALLENGE, root, records=["a101l", "a103l"])
    with pytest.raises(InputError, match="a102l.dat: is a link out of the mirror"):
        get(CHALLENGE, root, records=["a102l"])
    here = set(contents(got.folder))
    assert files_of("a103l") < here and not here & {"training/a101l.dat", "training/a102l.dat"}


def refuse_to_open(monkeypatch, path):
    """A file that must not be read, as far as Python's ``open`` goes; whoever runs the tests may be root."""

    def refusing(file, *arguments, **options):
        if str(file) == str(path):
            raise PermissionError(13, "Permission denied", str(file))
        return really_open(file, *arguments, **options)

    really_open = open
    monkeypatch.setattr("builtins.open", refusing)


@pytest.mark.parametrize("end", ["hea", "dat"])
def test_one_file_that_must_not_be_read_does_not_keep_the_others(root, home, monkeypatch, end):
    refuse_to_open(monkeypatch, root / "challenge-2015" / "1.0.0" / "training" / f"a102l.{end}")
    with pytest.raises(InputError, match=rf"a102l.{end}: cannot be read .*Permission denied"):
        get(CHALLENGE, root)
    here = set(contents(CHALLENGE.mirror(root).cached("")))
    assert here >= files_of(*NAMES) - files_of("a102l") and f"training/a102l.{end}" not in here


def test_a_file_that_must_not_be_read_does_not_verify(root, monkeypatch):
    folder = root / "challenge-2015" / "1.0.0"
    publish(folder)
    refuse_to_open(monkeypatch, folder / "training" / "a102l.dat")
    assert verify_records(CHALLENGE, root, progress=False).wrong == ["training/a102l.dat"]


# --------------------------------------------------------------------------------------------------- which records
@pytest.mark.parametrize(
    "wanted, expected",
    [
        ({"records": ["a10[13]l", "v202s"]}, ["a101l", "a103l", "v202s"]),
        ({"subjects": ["a104l", "challenge-2015-v201s"]}, ["a104l", "v201s"]),
        ({"records": ["a*"], "subjects": ["a104l"]}, ["a104l"]),
        ({"records": ["v*"], "number": 5}, ["v201s", "v202s"]),
    ],
)
def test_records_by_name_subject_or_number(server, wanted, expected):
    got = get(CHALLENGE, server.url, **wanted)
    assert [record.name for record in got.records] == expected
    assert set(gets(server, ".dat")) == {f"training/{name}.dat" for name in expected}
    assert read_selection(CHALLENGE) == set(expected)


def test_a_subject_brings_no_signals_of_others(server):
    got = get(MIMIC4, server.url, subjects=["10000002"])
    assert [record.name for record in got.records] == ["81"] and got.missing == ABSENT[1:]
    assert len(gets(server, ".dat")) == 4 and all("/p10000002/" in path for path in gets(server, ".dat"))


def write_ptb_xl(root, n=40):
    """The table of so many records, two of each patient, and no record."""
    top = root / "ptb-xl" / "1.0.3"
    top.mkdir(parents=True)
    columns = ["ecg_id", "patient_id", "age", "sex", "scp_codes", "strat_fold", "filename_hr"]
    rows = [[k, 500 + k // 2, 60, 0, "{}", k % 10 + 1, f"records500/00000/{k:05d}_hr"] for k in range(n)]
    pd.DataFrame(rows, columns=columns).to_csv(top / "ptbxl_database.csv", index=False)


def test_a_subject_that_a_table_names_is_found_without_any_record(server, root):
    write_ptb_xl(root)
    chosen = select_records(PTB_XL, PTB_XL.mirror(server.url), subjects=["507", "ptb-xl-511"])
    assert [record.name[:5] for record in chosen] == ["00014", "00015", "00022", "00023"]
    assert set(gets(server)) <= {"ptbxl_database.csv", "SHA256SUMS.txt"}
    (root / "vitaldb" / "1.0.0").mkdir(parents=True)
    (root / "vitaldb" / "1.0.0" / "clinical_data.csv").write_text(
        "caseid,subjectid,age,sex\n1,70,5,F\n2,71,6,M\n3,70,5,F\n"
    )
    vitaldb, ncku = get_source("vitaldb"), get_source("ncku")
    chosen = select_records(vitaldb, vitaldb.mirror(server.url), subjects=["70"])
    assert [record.name for record in chosen] == ["0001", "0003"] and not gets(server, ".vital")
    chosen = select_records(ncku, ncku.mirror(server.url), subjects=["300"])
    assert len(chosen) == 3 and not any(path.endswith("_align.csv") for _, path, _ in server.requests)


#: A source whose subjects stand in its headers alone.
IN_HEADERS = replace(CHALLENGE, subject=lambda mirror, record: mirror.fetch(f"{record.path}.hea").stem)


def test_headers_that_name_subjects_are_fetched_side_by_side_with_a_bar(server, capsys):
    server.trouble = {".hea": "late"}
    got = get_records(IN_HEADERS, server.url, subjects=["a104l"], jobs=4)
    assert [record.name for record in got.records] == ["a104l"] and server.most_active == 4
    assert re.search(r"looking for subjects: .*\| [1-8]/8 ", capsys.readouterr().err)


def test_a_header_that_cannot_be_had_is_named_where_a_subject_is_not_found(server):
    server.trouble = {"a102l.hea": 418}
    with pytest.raises(InputError, match="no subject 'a102l'.*a102l.hea: HTTP 418"):
        get(IN_HEADERS, server.url, subjects=["a102l"])
    assert [record.name for record in get(IN_HEADERS, server.url, subjects=["a103l"]).records] == ["a103l"]


def test_the_search_for_a_subject_can_be_interrupted(server):
    server.trouble = {".hea": "hold"}

    def interrupt():
        wait_for(lambda: server.active == 2)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.3)
        server.release.set()

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background a shell has it ignored
    try:
        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(interrupt)
            with pytest.raises(KeyboardInterrupt):
                get(IN_HEADERS, server.url, subjects=["a104l"], jobs=2)
            done.result()
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(gets(server, ".hea")) == 2 and not gets(server, ".dat")


def test_a_larger_number_holds_the_smaller_one(server):
    mirror = CHALLENGE.mirror(server.url)
    samples = [[record.name for record in select_records(CHALLENGE, mirror, number=n)] for n in range(1, 10)]
    assert [len(sample) for sample in samples] == [1, 2, 3, 4, 5, 6, 7, 8, 8]
    assert all(set(small) < set(large) for small, large in zip(samples[:7], samples[1:8]))
    assert all(sample == [name for name in NAMES if name in sample] for sample in samples)
    assert samples[3] != NAMES[:4]  # spread, not the first ones


def test_a_sample_depends_neither_on_order_nor_on_other_records():
    records = [Record(f"r{number}", f"x/r{number}", "x") for number in range(200)]
    sample = set(sample_records(records, 50))
    assert set(sample_records(records[::-1], 50)) == sample
    fewer = records[::2]
    assert sample & set(fewer) <= set(sample_records(fewer, 50))


@pytest.mark.parametrize(
    "wanted, message",
    [
        (("--record", "a101"), "data set challenge-2015: no record 'a101'; did you mean a101l"),
        (("--record", "v*", "--record", "zzz"), "data set challenge-2015: no record 'zzz'\n"),
        (("--subject", "v20s"), "data set challenge-2015: no subject 'v20s'; did you mean v20"),
        (("--number", "0"), "number=0: at least 1 record"),
        (("--jobs", "0"), "jobs=0: at least 1"),
    ],
)
def test_what_does_not_occur_is_refused_with_near_matches(server, p2es, home, wanted, message):
    status, _, errors = p2es("get", "challenge-2015", "--mirror", server.url, *wanted)
    assert status == 2 and errors.splitlines(keepends=True)[-1].startswith("error: ") and message in errors
    assert not gets(server, ".dat") and not list(home.rglob(".selection"))


def test_other_mistakes_are_named(server, p2es, home, root):
    status, output, errors = p2es("get", "simulated")
    assert (status, output) == (2, "")
    assert errors == "error: data set simulated: it is made on this machine, there is nothing to get\n"
    for command in ("list", "prepare"):
        status, _, errors = p2es(command, "simulated")
        assert status == 2 and errors.startswith("error: data set 'simulated' is made on this machine")
    status, _, errors = p2es("verify", "bidmc")
    assert status == 2 and "nothing to verify against" in errors
    status, _, errors = p2es("get", "mars")
    assert status == 2 and "dataset='mars' is unknown; choose one of: simulated, " in errors
    status, _, errors = p2es("get", "ptb-xl", "--mirror", server.url)
    assert status == 2 and f"data set ptb-xl: {server.url}/ptb-xl/1.0.3/ptbxl_database.csv not found" in errors
    status, _, errors = p2es("prepare", "challenge-2015", "--mirror", root, "--shard", "challenge-2015/none")
    assert status == 2 and "shard 'challenge-2015/none'" in errors
    assert contents(home) == {}


# ------------------------------------------------------------------------------------------------- servers in trouble
def test_one_broken_file_does_not_keep_the_others(server):
    server.trouble = {"a102l.dat": [500] * mirror_module.ATTEMPTS, "v201s.dat": [429], "a103l.hea": [503]}
    with pytest.raises(InputError, match="a102l.dat: cannot be fetched.*HTTP 500"):
        get(CHALLENGE, server.url, jobs=2)
    folder = CHALLENGE.mirror(server.url).cached("")
    assert set(contents(folder)) == files_of(*NAMES) - {"training/a102l.dat"}
    server.requests.clear()
    got = get(CHALLENGE, server.url)
    assert gets(server) == {"training/a102l.dat": 1, "SHA256SUMS.txt": 1} and got.n_files == 17


def test_one_broken_header_does_not_keep_the_others(server, root):
    server.trouble = {"a102l.hea": 500}
    (root / "challenge-2015" / "1.0.0" / "training" / "a104l.hea").write_text("not a header\n")
    with pytest.raises(InputError, match=r"a102l.hea: cannot be fetched .*and 1 more") as error:
        get(CHALLENGE, server.url, jobs=1)
    assert str(error.value).count("a102l.hea") == 1
    folder = CHALLENGE.mirror(server.url).cached("")
    kept = files_of(*NAMES) - files_of("a102l", "a104l") | {"training/RECORDS", "training/a104l.hea"}
    assert set(contents(folder)) == kept
    server.trouble = {}
    with pytest.raises(InputError, match=r"a104l.hea: not a readable WFDB header"):
        get(CHALLENGE, server.url)
    assert set(contents(folder)) == kept | files_of("a102l")


def test_several_broken_files_are_counted(server):
    server.trouble = {"s.dat": 418}
    with pytest.raises(InputError, match="v20[12]s.dat: HTTP 418 .*and 1 more"):
        get(CHALLENGE, server.url)


def test_a_selection_counts_though_a_file_of_it_failed(server):
    """Preparation would take the whole data set otherwise."""
    server.trouble = {"a102l.dat": 418}
    with pytest.raises(InputError):
        get(CHALLENGE, server.url, records=["a102l", "a103l"])
    assert read_selection(CHALLENGE) == {"a102l", "a103l"}


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_get_that_is_stopped_leaves_nothing_half_done_and_the_next_continues(server, root, home, how):
    server.trouble = {".dat": "hold"}
    process = start_get(home, "challenge-2015", "--mirror", server.url, "--jobs", "3")
    folder, original = CHALLENGE.mirror(server.url).cached(""), contents(root / "challenge-2015" / "1.0.0")
    wait_for(lambda: sum(path.stat().st_size > 100_000 for path in folder.rglob("*.dat.part")) == 3)
    process.send_signal(how)
    time.sleep(1.0 if how == signal.SIGINT else 0.1)  # threads end at the next bytes that arrive
    server.trouble = {}
    server.release.set()
    errors = process.communicate(timeout=30)[1]
    if how == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 130 and "the same command continues" in errors and "Traceback" not in errors
    parts = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*.dat.part")}
    final = {path: content for path, content in contents(folder).items() if ".part" not in path}
    assert len(parts) == 3 and not any(path.endswith(".dat") for path in final)
    assert all(content == original[path] for path, content in final.items())
    assert all(original[path.removesuffix(".part")].startswith((folder / path).read_bytes()) for path in parts)
    server.requests.clear()
    assert get(CHALLENGE, server.url).n_files == 17
    assert contents(folder) == original
    continued = {path.split("/", 2)[2]: start for method, path, start in server.requests if method == "GET" and start}
    assert continued == {path.removesuffix(".part"): f"bytes={size}-" for path, size in parts.items()}
    assert gets(server, ".dat") == {path: 1 for path in original if path.endswith(".dat")}


def test_two_processes_get_the_same_data_set_at_once(server, root, home):
    """Another one, and this one."""
    publish(root / "challenge-2015" / "1.0.0")
    server.trouble = {".dat": "hold"}
    last = ("HEAD", f"challenge-2015/1.0.0/training/{NAMES[-1]}.dat", None)
    other = start_get(home, "challenge-2015", "--mirror", server.url, "--jobs", "2")
    wait_for(lambda: server.active == 2)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(get, CHALLENGE, server.url, jobs=3)
        wait_for(lambda: server.requests.count(last) == 2 and server.active == 3)  # a file that the other has not begun
        server.release.set()
        got, errors = future.result(timeout=30), other.communicate(timeout=30)[1]
    assert other.returncode == 0 and got.n_files == 18, errors
    assert contents(got.folder) == contents(root / "challenge-2015" / "1.0.0") and not list(got.folder.rglob("*.part*"))
    assert set(gets(server).values()) == {1}
    report = verify_records(CHALLENGE, progress=False)
    assert (report.verified, report.missing, report.wrong) == (18, [], [])


def test_older_bytes_never_stand_beside_a_newer_validator(server, root, monkeypatch):
    """A kill just after the answer: what was held of a file that has changed must not be continued."""
    server.trouble = {"a101l.dat": "hold"}
    file = root / "challenge-2015" / "1.0.0" / "training" / "a101l.dat"
    monkeypatch.setattr(http, "TIMEOUT_S", 0.2)
    monkeypatch.setattr(mirror_module, "ATTEMPTS", 1)
    mirror = CHALLENGE.mirror(server.url)
    with pytest.raises(InputError, match="cannot be fetched"):
        mirror.fetch("training/a101l.dat")
    (part,) = mirror.cached("training").glob("*.part")
    assert part.stat().st_size > 0
    server.trouble = {}
    file.write_bytes(file.read_bytes()[::-1])

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(http, "write_blocks", killed)
        with pytest.raises(KeyboardInterrupt):
            mirror.fetch("training/a101l.dat")
    assert mirror.fetch("training/a101l.dat").read_bytes() == file.read_bytes()


# --------------------------------------------------------------------------------------------------- what is refused
CLIMBING = ["../../../stolen", "training/../../../stolen", "a/../../../../stolen", "/stolen", "..\\stolen", "C:/stolen"]


def outside(tmp_path, home, source):
    raw = home / "data" / "raw" / source.slug / source.version
    return {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and raw not in path.parents}


@pytest.fixture(params=["http", "folder"])
def location(request, server, tmp_path):
    """The mirror, at which a climbing path would find something: files named "stolen" stand above it."""
    for folder in (server.root.parent, server.root, tmp_path):
        for end in ("hea", "dat"):
            (folder / f"stolen.{end}").write_text("stolen 1 250 1\nstolen.dat 16 200/mV 16 0 0 0 0 II\n")
    yield server.url if request.param == "http" else server.root
    assert not any(".." in path or "stolen" in path for _, path, _ in server.requests)


@pytest.mark.parametrize("entry", CLIMBING)
def test_lists_of_records_that_climb_out_are_refused(location, root, tmp_path, home, entry):
    listing = root / "challenge-2015" / "1.0.0" / "training" / "RECORDS"
    listing.write_text(f"a101l\n{entry}\n")
    before = outside(tmp_path, home, CHALLENGE)
    with pytest.raises(InputError, match="refusing the file name"):
        get(CHALLENGE, location)
    assert outside(tmp_path, home, CHALLENGE) == before


def test_folders_in_lists_of_records_that_climb_out_are_refused(location, root, tmp_path, home):
    (root / "mimic4wdb" / "0.1.0" / "waves" / "p100" / "p10000002" / "RECORDS").write_text("../../../../../served/\n")
    (tmp_path / "served" / "RECORDS").write_text("stolen\n")
    before = outside(tmp_path, home, MIMIC4)
    with pytest.raises(InputError, match="refusing the file name"):
        get(MIMIC4, location)
    assert outside(tmp_path, home, MIMIC4) == before


@pytest.mark.parametrize("entry", [*CLIMBING, "../.", "."])
def test_headers_whose_files_climb_out_are_refused(location, root, tmp_path, home, entry):
    header = root / "challenge-2015" / "1.0.0" / "training" / "a101l.hea"
    file = entry if entry.endswith(".") else f"{entry}.dat"
    header.write_text(header.read_text().replace("a101l.dat", file))
    before = outside(tmp_path, home, CHALLENGE)
    with pytest.raises(InputError, match="refusing the file name|not a readable WFDB"):
        get(CHALLENGE, location, records=["a101l"])
    # Whatever reads the header: a source that would pass the name on.
    passing = replace(CHALLENGE, files=lambda mirror, record: [f"training/{file}"])
    with pytest.raises(InputError, match="refusing the file name"):
        get(passing, location, records=["a101l"])
    assert outside(tmp_path, home, CHALLENGE) == before


def test_a_table_whose_files_climb_out_is_refused(location, root, tmp_path, home):
    columns = ["ecg_id", "patient_id", "age", "sex", "scp_codes", "strat_fold", "filename_hr"]
    (root / "ptb-xl" / "1.0.3").mkdir(parents=True)
    rows = [[1, 5, 60, 0, "{}", 1, "../../stolen"]]
    pd.DataFrame(rows, columns=columns).to_csv(root / "ptb-xl" / "1.0.3" / "ptbxl_database.csv", index=False)
    before = outside(tmp_path, home, PTB_XL)
    with pytest.raises(InputError, match="refusing the file name"):
        get(PTB_XL, location)
    assert outside(tmp_path, home, PTB_XL) == before


def set_free_space(monkeypatch, n_bytes):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=1 << 40, used=0, free=n_bytes))


def test_no_signals_are_fetched_before_their_size_is_known(server, root, monkeypatch):
    """This source must find out which of two kinds of files the mirror holds."""
    write_bidmc(root)
    set_free_space(monkeypatch, 2000)
    with pytest.raises(InputError, match="get fewer records"):
        get(BIDMC, server.url, records=["bidmc_0[1-4]"])
    assert not gets(server, "Signals.csv")
    set_free_space(monkeypatch, 1 << 30)
    assert get(BIDMC, server.url, records=["bidmc_0[1-4]"]).n_files == 9
    assert get(BIDMC, server.url, records=["bidmc_0[1-4]"]).missing == []


def test_a_preparation_does_not_fill_the_disk_either(server, root, monkeypatch):
    (job,) = list_jobs(get_config("quick", "challenge-2015"), server.url)
    set_free_space(monkeypatch, 100_000)
    with pytest.raises(InputError, match="GB are free; get fewer records .*P2ES_HOME"):
        run_job(job, get_config("quick", "challenge-2015"), server.url)
    assert not any(path.endswith(".dat") for path in contents(CHALLENGE.mirror(server.url).cached("")))


@pytest.mark.parametrize("remote", [True, False], ids=["http", "folder"])
def test_too_little_space_is_noticed_before_any_signal_is_fetched(server, root, home, monkeypatch, remote):
    location = server.url if remote else root
    set_free_space(monkeypatch, 5 * 300_000)
    with pytest.raises(InputError, match="GB are free; get fewer records .*P2ES_HOME"):
        get(CHALLENGE, location)
    assert not gets(server, ".dat") and not any(path.endswith(".dat") for path in contents(home))
    assert read_selection(CHALLENGE) is None
    assert get(CHALLENGE, location, number=4).n_files == 9
    set_free_space(monkeypatch, 4 * 300_000)
    with pytest.raises(InputError, match="get fewer records"):
        get(CHALLENGE, location)
    set_free_space(monkeypatch, 4 * 300_000 + 100_000)  # what is here needs no space again
    assert get(CHALLENGE, location).n_files == 17


def test_space_is_needed_for_the_rest_of_a_file_only(server, root, monkeypatch):
    mirror = CHALLENGE.mirror(server.url)
    original = (root / "challenge-2015" / "1.0.0" / "training" / "a101l.dat").read_bytes()
    part = mirror.cached("training/a101l.dat.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(original[:200_000])
    part.with_name("a101l.dat.part-etag").write_text(f'"{hashlib.md5(original).hexdigest()}"')
    assert mirror.size("training/a101l.dat") == 100_000
    set_free_space(monkeypatch, 90_000)
    with pytest.raises(InputError, match="get fewer records"):
        get(CHALLENGE, server.url, records=["a101l"])
    set_free_space(monkeypatch, 110_000)
    assert get(CHALLENGE, server.url, records=["a101l"]).n_files == 3
    assert ("GET", "challenge-2015/1.0.0/training/a101l.dat", "bytes=200000-") in server.requests


# ------------------------------------------------------------------------------------------------------------- hashes
def test_content_that_is_not_as_published_is_refused(server, root):
    folder = root / "challenge-2015" / "1.0.0"
    publish(folder)
    server.trouble = {"a103l.dat": "altered"}
    with pytest.raises(InputError, match="a103l.dat: .*SHA256SUMS.txt says"):
        get(CHALLENGE, server.url)
    got = CHALLENGE.mirror(server.url).cached("")
    assert set(contents(got)) == files_of(*NAMES) - {"training/a103l.dat"} | {"SHA256SUMS.txt"}
    assert gets(server)["training/a103l.dat"] == mirror_module.ATTEMPTS
    server.trouble = {}
    server.requests.clear()
    get(CHALLENGE, server.url)
    assert contents(got) == contents(folder) and gets(server) == {"training/a103l.dat": 1}


def test_a_file_that_differs_when_fetched_again_is_refused(server):
    folder = get(CHALLENGE, server.url).folder
    (folder / "training" / "a104l.dat").unlink()
    server.trouble = {"a104l.dat": "altered"}
    with pytest.raises(InputError, match=r"a104l.dat: .*\.sha256 says .*was changed"):
        get(CHALLENGE, server.url)
    assert not (folder / "training" / "a104l.dat").exists()


def write_bidmc(root):
    folder = root / "bidmc" / "1.0.0" / "bidmc_csv"
    folder.mkdir(parents=True)
    for number in range(1, 5):
        (folder / f"bidmc_{number:02d}_Signals.csv").write_text(f"signals {number}\n" * 100)
        (folder / f"bidmc_{number:02d}_Fix.txt").write_text(f"Age: {number}\n")
    publish(folder.parent)
    return folder.parent


def test_no_file_is_taken_unchecked_while_the_published_hashes_are_on_their_way(server, root, home):
    """This source names its records without fetching anything, so that the first files come side by side."""
    write_bidmc(root)
    server.trouble = {"SHA256SUMS.txt": "late", "Signals.csv": "altered"}
    mirror = BIDMC.mirror(server.url)
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(mirror.fetch, f"bidmc_csv/bidmc_0{number}_Signals.csv") for number in range(1, 5)]
        errors = [str(future.exception()) for future in futures]
    assert all("SHA256SUMS.txt says" in error for error in errors), errors
    with pytest.raises(InputError, match="Signals.csv: .*SHA256SUMS.txt says"):
        get(BIDMC, server.url, records=["bidmc_0[1-4]"])
    assert not any(path.endswith(".csv") for path in contents(home))
    assert gets(server)["SHA256SUMS.txt"] == 1


def test_no_file_is_taken_unchecked_when_the_published_hashes_cannot_be_had(server, root, home):
    write_bidmc(root)
    server.trouble = {"SHA256SUMS.txt": 500}
    with pytest.raises(InputError, match="SHA256SUMS.txt: cannot be fetched"):
        get(BIDMC, server.url, records=["bidmc_0[1-4]"])
    mirror = BIDMC.mirror(server.url)
    for number in (1, 2):
        with pytest.raises(InputError, match="SHA256SUMS.txt: cannot be fetched"):
            mirror.fetch(f"bidmc_csv/bidmc_0{number}_Signals.csv")
    assert not any(path.endswith((".csv", ".txt")) for path in contents(home))


def test_a_published_list_of_millions_of_files_is_not_fetched(server, root, monkeypatch):
    publish(root / "challenge-2015" / "1.0.0")
    monkeypatch.setattr(mirror_module, "MAX_LIST_BYTES", 500)
    got = get(CHALLENGE, server.url)
    assert "SHA256SUMS.txt" not in contents(got.folder) and not gets(server, "SHA256SUMS.txt")
    assert len(read_checksums(got.folder / ".sha256")) == 17  # the hashes seen stand in for it


@pytest.mark.parametrize("published", [True, False])
def test_verify_names_the_file_with_a_flipped_byte(server, root, p2es, published):
    if published:
        publish(root / "challenge-2015" / "1.0.0")
    folder = get(CHALLENGE, server.url, records=["a*"]).folder
    here, absent = (14, 4) if published else (13, 0)
    status, output, _ = p2es("verify", "challenge-2015")
    assert status == 0 and f"{here} files verified, {absent} not there, 0 wrong" in output
    file = folder / "training" / "a105l.dat"
    content = bytearray(file.read_bytes())
    content[123_456] ^= 4
    file.write_bytes(content)
    (folder / "training" / "a106l.hea").unlink()
    status, output, _ = p2es("verify", "challenge-2015")
    advice = "  a file that is wrong: delete it and run p2es data get challenge-2015"
    assert status == 1 and output.splitlines()[1:] == ["  wrong: training/a105l.dat", advice]
    assert f"{here - 2} files verified, {absent + 1} not there, 1 wrong" in output
    report = verify_records(CHALLENGE, progress=False)
    assert report.wrong == ["training/a105l.dat"] and "training/a106l.hea" in report.missing


@pytest.mark.parametrize("published", [True, False])
@pytest.mark.parametrize("from_folder", [True, False])
def test_get_sets_a_damaged_file_aside_and_fetches_it_again(server, root, p2es, published, from_folder):
    if published:
        publish(root / "challenge-2015" / "1.0.0")
    command = ("get", "challenge-2015", "--mirror", root if from_folder else server.url, "--record", "a105l")
    assert p2es(*command)[0] == 0
    for end in ("hea", "dat"):
        file = CHALLENGE.mirror(server.url).cached(f"training/a105l.{end}")
        whole, damaged = file.read_bytes(), altered(file.read_bytes())
        file.write_bytes(damaged)
        status, output, _ = p2es(*command)
        assert status == 0 and f".damaged): training/a105l.{end}\n" in output
        assert file.read_bytes() == whole and Path(f"{file}.damaged").read_bytes() == damaged
    status, output, _ = p2es(*command)
    assert status == 0 and len(output.splitlines()) == 1


def test_files_that_a_published_list_does_not_name_are_told(server, root, p2es):
    """A list cut at the end of a line looks whole; what it no longer names is not checked, which must be said."""
    folder = root / "challenge-2015" / "1.0.0"
    publish(folder)
    assert get(CHALLENGE, server.url, records=["a101l"]).unlisted == []
    shutil.rmtree(CHALLENGE.mirror(server.url).cached(""))
    listed = (folder / "SHA256SUMS.txt").read_text().splitlines(keepends=True)
    (folder / "SHA256SUMS.txt").write_text("".join(line for line in listed if "v202s" not in line))
    assert get(CHALLENGE, server.url, records=["v*"]).unlisted == ["training/v202s.dat", "training/v202s.hea"]
    status, told, _ = p2es("get", "challenge-2015", "--mirror", server.url, "--record", "v*")
    assert status == 0 and "2 files are not in SHA256SUMS.txt" in told and "training/v202s.dat" in told


def test_a_published_list_that_was_cut_short_is_refused_and_fetched_again(server, root, p2es):
    """Files whose lines were lost with its end would be used unchecked."""
    publish(root / "challenge-2015" / "1.0.0")
    command = ("get", "challenge-2015", "--mirror", server.url, "--record", "a10[12]l")
    assert p2es(*command)[0] == 0
    listed = CHALLENGE.mirror(server.url).cached("SHA256SUMS.txt")
    whole = listed.read_bytes()
    listed.write_bytes(whole[:100])
    with pytest.raises(InputError, match="hashes is damaged.*delete it and run"):
        CHALLENGE.mirror(server.url).fetch("training/a101l.hea")
    status, output, _ = p2es(*command)
    assert status == 0 and listed.read_bytes() == whole and ".damaged): SHA256SUMS.txt\n" in output
    CHALLENGE.mirror(server.url).fetch("training/a101l.hea")


def test_a_damaged_file_in_data_raw_is_not_prepared(server, home):
    config, folder = (
        get_config("quick", "challenge-2015"),
        get(CHALLENGE, server.url, records=["a101l", "a102l"]).folder,
    )
    file = folder / "training" / "a102l.dat"
    file.write_bytes(altered(file.read_bytes()))
    (job,) = list_jobs(config, server.url)
    records = json.loads((run_job(job, config, server.url) / "shard.json").read_text())["records"]
    assert [name for name, entry in records.items() if entry["hours"] == 0] == ["a102l"]
    assert "delete it and run p2es data get" in " ".join(records["a102l"]["notes"])


def test_verify_reads_a_mirror_in_place(root, p2es):
    folder = root / "challenge-2015" / "1.0.0"
    publish(folder)
    assert p2es("verify", "challenge-2015", "--mirror", root)[0] == 0
    (folder / "training" / "v201s.hea").write_text("v201s 0 250 0\n")
    status, output, _ = p2es("verify", "challenge-2015", "--mirror", root)
    assert status == 1 and "  wrong: training/v201s.hea" in output


# -------------------------------------------------------------------------------------------------- what follows a get
def test_the_selection_decides_what_is_prepared_from_any_mirror(server, root):
    config = get_config("quick", "challenge-2015")

    def names(location):
        return [record.name for job in list_jobs(config, location) for record in job.records]

    assert names(server.url) == NAMES
    get(CHALLENGE, server.url, records=["v201s", "a105l"])
    assert names(server.url) == ["a105l", "v201s"]
    assert names(root) == ["a105l", "v201s"]  # wherever they are read from
    get(CHALLENGE, server.url, records=["a101l"])
    assert names(server.url) == ["a101l", "a105l", "v201s"]
    assert [(job.source, job.shard) for job in list_jobs(config, server.url)] == [("challenge-2015", "training-00")]


def test_records_that_are_not_there_are_not_selected(root, home):
    write_ptb_xl(root)
    publish(root / "ptb-xl" / "1.0.3")
    with pytest.raises(InputError, match="ptb-xl: none .*records500/.*is not there"):
        get(PTB_XL, root, number=5)
    assert read_selection(PTB_XL) is None
    add_to_selection(PTB_XL, PTB_XL.list_records(PTB_XL.mirror(root))[:1])
    with pytest.raises(InputError, match="nothing more was selected"):
        get(PTB_XL, root, number=5)
    assert len(read_selection(PTB_XL)) == 1


def test_an_error_of_prepare_names_the_selection(root, home):
    get(CHALLENGE, root, records=["a101l"])
    config = get_config("quick", "challenge-2015")
    with pytest.raises(InputError, match=r"\.selection; delete it to use all\)$"):
        prepare_windows(config, mirror=root, progress=False)


def test_selections_made_at_once_all_count(home):
    records = [Record(f"r{number}", f"r{number}", "s") for number in range(60)]
    with ThreadPoolExecutor(6) as pool:  # each opens the file for itself, as processes do
        added = list(pool.map(lambda record: add_to_selection(CHALLENGE, [record]), records))
    assert read_selection(CHALLENGE) == {record.name for record in records} == set().union(*added)
    assert add_to_selection(CHALLENGE, records[:3]) == set()


def test_a_selection_that_a_mirror_holds_nothing_of_is_an_error(root, tmp_path, home):
    get(CHALLENGE, root, records=["v201s"])
    listing = root / "challenge-2015" / "1.0.0" / "training" / "RECORDS"
    listing.write_text("a101l\na102l\n")
    with pytest.raises(InputError, match=r"2015: none of the records .*\.selection"):
        list_jobs(get_config("quick", "challenge-2015"), root)


@pytest.mark.parametrize("trouble", ["altered", "unreadable"])
def test_a_bad_file_of_a_folder_is_named_and_its_record_alone_left_out(root, home, monkeypatch, trouble):
    folder = root / "challenge-2015" / "1.0.0"
    publish(folder)
    config, file = get_config("quick", "challenge-2015"), folder / "training" / "a102l.dat"
    (job,) = list_jobs(config, root)
    job = replace(job, records=job.records[:3])
    whole = file.read_bytes()
    with monkeypatch.context() as patch:
        if trouble == "altered":
            file.write_bytes(altered(whole))
        else:
            refuse_to_open(patch, file)
        made = run_job(job, config, root) / "shard.json"
    records = json.loads(made.read_text())["records"]
    assert [name for name, entry in records.items() if entry["hours"] == 0] == ["a102l"]
    expected = "SHA-256 is .*SHA256SUMS.txt says" if trouble == "altered" else "cannot be read .*Permission denied"
    assert re.search(rf"a102l.dat: {expected}", " ".join(records["a102l"]["notes"]))
    file.write_bytes(whole)
    records = json.loads((run_job(job, config, root) / "shard.json").read_text())["records"]
    assert all(entry["hours"] > 0 for entry in records.values())


def test_damage_comes_first_among_the_notes_of_a_preparation(root, p2es):
    folder = root / "mimic4wdb" / "0.1.0"
    publish(folder)
    segment = sorted((folder / "waves/p100/p10000002").rglob("*_0*.dat"))[0]
    segment.write_bytes(altered(segment.read_bytes()))
    status, _, errors = p2es("prepare", "mimic4wdb", "--mirror", root)
    lines = [line.strip() for line in errors.splitlines() if line.startswith("  ")]
    notes = [line for line in lines if line.startswith("record ")]
    assert status == 0 and "SHA-256 is " in notes[0] and notes[0].startswith("record 81: "), errors
    assert lines[-1] == "1 record(s) damaged"


def test_records_that_are_not_on_the_mirror_take_one_line():
    absent = [f"record a{number}: not on the mirror (a{number}.hea: not in this mirror)" for number in range(40)]
    odd = [f"record b{number}: no window of 8 s" for number in range(12)]
    damaged = ["record c: left out (c.dat: SHA-256 is 1)", "record d: left out (d.dat: cannot be read (denied))"]
    shown, last = data._sum_up(absent + odd + damaged)
    assert shown[:2] == damaged and shown[2:10] == odd[:8] and last == ["2 record(s) damaged"]
    assert (
        shown[10] == "... and 4 more notes"
        and shown[11].startswith("40 record(s) not on the mirror")
        and len(shown) == 12
    )
    assert data._sum_up([]) == ([], [])


def test_what_was_fetched_is_prepared_without_the_server(server, p2es, home):
    status, output, errors = p2es("get", "mimic4wdb", "--mirror", server.url, "--subject", "10000001")
    assert status == 0 and re.search(r"mimic4wdb: 1 records, \d+ files, \d\.\d MB in .*mimic4wdb/0.1.0\n", output)
    assert f"1 files are not on the mirror: {ABSENT[0]}" in output
    # The progress bar ends with all bytes, the time taken, the time left, and the rate.
    assert re.search(r"getting mimic4wdb: 100%\|.*\| ([\d.]+[kM])/\1 \[\d\d:\d\d<00:00, +[\d.]+[kM]?B/s\]", errors)
    server.shutdown()
    server.server_close()
    server.requests.clear()
    status, output, errors = p2es("list", "mimic4wdb", "--mirror", server.url)
    assert status == 0 and output == "mimic4wdb/80: 1 record(s)\n"
    listed = home / "data" / "prepared" / "mimic4wdb-quick.json"
    assert errors.split() == [str(listed)] and [job["shard"] for job in json.loads(listed.read_text())] == ["80"]
    shard = ("prepare", "mimic4wdb", "--mirror", server.url, "--shard", "mimic4wdb/80")
    status, output, errors = p2es(*shard)
    assert status == 0, errors
    made = Path(output.strip()) / "shard.json"
    before = made.stat().st_mtime_ns
    (entry,) = json.loads(made.read_text())["records"].values()
    assert entry["subject"] == "10000001" and entry["hours"] == pytest.approx(200 / 3600, abs=1e-3)
    assert any("1 of its segments are not on the mirror (80_0009)" in note for note in entry["notes"])
    status, output, errors = p2es("prepare", "mimic4wdb", "--mirror", server.url)
    assert status == 0, errors
    index = pd.read_parquet(Path(output.strip()) / "index.parquet")
    assert len(index) > 10 and set(index["record"]) == {"80"}
    assert "mimic4wdb: only records that p2es data get selected" in errors
    assert made.stat().st_mtime_ns == before  # not made again


def test_every_source_states_its_terms(p2es):
    status, output, _ = p2es("sources")
    assert status == 0
    blocks = re.split(r"\n(?=\S)", output.strip())
    assert [block.partition(":")[0] for block in blocks] == list(SOURCES) and len(blocks) >= 9
    for block, source in zip(blocks, SOURCES.values()):
        lines = dict(line.strip().split(": ", 1) for line in block.splitlines()[1:])
        assert list(lines) == ["size", "access", "licence", "cite", 'lead "V"', "note"]
        assert all(len(text) >= 4 for text in lines.values())
        assert source.title in block and f"({source.role})" in block
        assert (lines["access"], lines["licence"], lines["cite"]) == (
            source.about["access"],
            source.about["licence"],
            source.about["cite"],
        )
        assert lines["access"].startswith("open")
    assert all("credentialed" in get_source(name).about["access"] for name in ("mimic4wdb", "mimic3wdb-matched"))


# ------------------------------------------------------------------------------------------------- the real recordings
@pytest.mark.mirror
def test_real_files_verify(mirror, p2es):
    status, output, _ = p2es("verify", "ptb-xl", "--mirror", mirror)
    assert (status, output) == (0, "ptb-xl: 2003 files verified, 0 not there, 0 wrong\n")


@pytest.mark.mirror
def test_real_records_are_fetched_by_name_subject_and_number(mirror, server):
    server.root, top = mirror, mirror / "ptb-xl" / "1.0.3"
    got = get(PTB_XL, server.url, records=["0000[1-3]_hr"])
    tables = {"ptbxl_database.csv", "scp_statements.csv", "SHA256SUMS.txt"}
    assert set(contents(got.folder)) == tables | {
        f"records500/00000/0000{number}_hr.{end}" for number in (1, 2, 3) for end in ("hea", "dat")
    }
    table = pd.read_csv(top / "ptbxl_database.csv").head(60)
    patient, n_records = table["patient_id"].value_counts().index[0], table["patient_id"].value_counts().iloc[0]
    people = get(PTB_XL, server.url, records=["000[0-5]*", "00060_hr"], subjects=[str(int(patient))])
    assert {int(record.name[:5]) for record in people.records} == set(table["ecg_id"][table["patient_id"] == patient])
    assert len(people.records) == n_records >= 2
    three, six = (get(PTB_XL, server.url, number=number) for number in (3, 6))
    assert len(three.records) == 3 and len(six.records) == 6 and set(three.records) < set(six.records)
    assert all(content == (top / path).read_bytes() for path, content in contents(got.folder).items())
    report = verify_records(PTB_XL, progress=False)
    assert report.wrong == [] and report.verified == len(contents(got.folder))
    assert read_selection(PTB_XL) == {record.name for found in (got, people, six) for record in found.records}


@pytest.mark.mirror
def test_real_segments_that_the_mirror_lacks_are_noted(mirror, server):
    server.root = mirror
    got = get(MIMIC4, server.url)
    assert contents(got.folder) == contents(mirror / "mimic4wdb" / "0.1.0")
    assert got.missing and all(re.fullmatch(r".*/85594648_00\d\d\.hea", path) for path in got.missing)


def test_a_mirror_without_any_file_of_a_data_set_is_an_error(tmp_path, home):
    (tmp_path / "wrong" / "bidmc").mkdir(parents=True)
    with pytest.raises(InputError, match="none of its .* files is on the mirror"):
        get_records(get_source("bidmc"), tmp_path / "wrong", progress=False)
