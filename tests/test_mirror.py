"""Fetching from a mirror that behaves, and from one that does not."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from p2es_lib.core.errors import InputError
from p2es_lib.data.download import http
from p2es_lib.data.download import mirror as mirror_module
from p2es_lib.data.download.checksums import hash_file, parse_checksum, read_checksums
from p2es_lib.data.download.mirror import (
    DEFAULT_MIRROR,
    Mirror,
    MissingFile,
    UnusableFile,
    WrongContent,
    check_relative,
    resolve_mirror,
)

CONTENT = bytes(range(256)) * 1000  # 256 kB
FILE = "folder/recording.dat"


class Handler(BaseHTTPRequestHandler):
    """Serves CONTENT at any path of the data set; ``server.script`` holds what goes wrong, request by request."""

    def do_HEAD(self):
        if self.server.states_length_if_asked:
            self.send_response(200)
            self.send_header("Content-Length", str(len(self.server.content)))
            self.end_headers()
            return
        self.send_error(404 if self.server.checksums is None else 501)  # a server that knows no HEAD

    def do_GET(self):
        server = self.server
        if self.path.endswith("/SHA256SUMS.txt"):
            if server.checksums is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(server.checksums)))
            self.end_headers()
            self.wfile.write(server.checksums)
            return
        server.requests.append((self.path, self.headers.get("Range")))
        action = server.script.pop(0) if server.script else "ok"
        if action == "busy":
            self.send_response(429)
            self.send_header("Retry-After", "1")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if isinstance(action, int):
            self.send_error(action)
            return
        body, start = server.content, 0
        wanted = self.headers.get("Range")
        if wanted and server.ranges and self.headers.get("If-Range", server.etag) == server.etag:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
        if action == "slow":
            time.sleep(1.0)
        self.send_response(206 if start else 200)
        if start:
            start -= 7 if action == "wrong range" else 0
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if server.etag:
            self.send_header("ETag", server.etag)
        if action == "chunked":
            self.send_header("Transfer-Encoding", "chunked")
            body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        elif action not in ("no length", "no length, cut"):
            self.send_header("Content-Length", str(len(body) - start + (10 if action == "too short" else 0)))
        self.end_headers()
        end = len(body) // 2 if action in ("cut", "no length, cut") else len(body)
        self.wfile.write(body[start:end])
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(mirror_module, "BACKOFF_S", 0.01)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.requests, server.script, server.content, server.ranges, server.etag = [], [], CONTENT, True, '"v1"'
    server.checksums, server.states_length_if_asked = None, False
    server.handle_error = lambda *_: None  # a client that gave up is part of the play
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def remote(server, home):
    return Mirror(f"http://127.0.0.1:{server.server_port}/files", "set", "1.0.0")


def leftovers(home):
    return sorted(path.name for path in home.rglob("*") if path.is_file() and path.name != mirror_module.VERIFIED_FILE)


def test_a_file_is_fetched_once(server, remote, home):
    path = remote.fetch(FILE)
    assert path == home / "data" / "raw" / "set" / "1.0.0" / FILE and path.read_bytes() == CONTENT
    assert remote.fetch(FILE) == path
    assert server.requests == [(f"/files/set/1.0.0/{FILE}", None)]
    assert leftovers(home) == [".sha256", "recording.dat"]
    # What was fetched is itself laid out as a mirror.
    assert Mirror(home / "data" / "raw", "set", "1.0.0").fetch(FILE).read_bytes() == CONTENT


@pytest.mark.parametrize("script", [[500], [503, 429, 502], ["too short"], ["cut", "cut"], [503, "cut", 500]])
def test_transient_trouble_is_overcome(server, remote, home, script):
    server.script = script.copy()
    assert remote.fetch(FILE).read_bytes() == CONTENT
    assert leftovers(home) == [".sha256", "recording.dat"]


def test_a_broken_transfer_continues_where_it_stopped(server, remote):
    server.script = ["cut"]
    assert remote.fetch(FILE).read_bytes() == CONTENT
    assert [wanted for _, wanted in server.requests] == [None, f"bytes={len(CONTENT) // 2}-"]


def test_a_broken_transfer_continues_after_a_restart(server, remote, home, monkeypatch):
    monkeypatch.setattr(mirror_module, "ATTEMPTS", 1)
    server.script = ["cut"]
    with pytest.raises(InputError, match="continues where this one stopped"):
        remote.fetch(FILE)
    assert leftovers(home) == ["recording.dat.part", "recording.dat.part-etag"]  # nothing under the final name
    assert remote.fetch(FILE).read_bytes() == CONTENT
    assert server.requests[-1][1] == f"bytes={len(CONTENT) // 2}-"


def test_a_file_that_changed_meanwhile_is_fetched_anew(server, remote, home, monkeypatch):
    monkeypatch.setattr(mirror_module, "ATTEMPTS", 1)
    server.script = ["cut"]
    with pytest.raises(InputError):
        remote.fetch(FILE)
    server.content, server.etag = CONTENT[::-1], '"v2"'
    assert remote.fetch(FILE).read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("ranges, etag", [(False, '"v1"'), (True, None), (True, 'W/"weak"')])
def test_servers_without_ranges_or_validators(server, remote, ranges, etag):
    server.ranges, server.etag, server.script = ranges, etag, ["cut"]
    assert remote.fetch(FILE).read_bytes() == CONTENT


def test_a_wrong_range_is_not_believed(server, remote):
    server.script = ["cut", "wrong range"]
    assert remote.fetch(FILE).read_bytes() == CONTENT


def test_slow_servers_time_out(server, remote, monkeypatch):
    monkeypatch.setattr(http, "TIMEOUT_S", 0.2)
    server.script = ["slow"]
    assert remote.fetch(FILE).read_bytes() == CONTENT
    assert len(server.requests) == 2


def test_a_busy_server_is_given_the_time_it_asks_for(server, remote):
    server.script = ["busy"]
    began = time.monotonic()
    assert remote.fetch(FILE).read_bytes() == CONTENT
    assert time.monotonic() - began >= 0.95


@pytest.mark.parametrize("script", [["no length"] * 2, ["no length, cut", "no length", "no length"]])
def test_a_file_of_no_stated_length_is_fetched_until_it_comes_twice_the_same(server, remote, home, script):
    """The server ends it by closing the connection, so a cut looks like an end."""
    server.script = script.copy()
    assert remote.fetch(FILE).read_bytes() == CONTENT
    assert [wanted for _, wanted in server.requests] == [None] * len(script)
    assert leftovers(home) == [".sha256", "recording.dat"]


def test_a_file_of_no_stated_length_is_held_against_the_length_that_the_server_states_if_asked(server, remote):
    server.states_length_if_asked, server.script = True, ["no length, cut", "no length"]
    assert remote.fetch(FILE).read_bytes() == CONTENT
    assert len(server.requests) == 2 and not server.script


def test_a_file_of_no_stated_length_that_never_comes_twice_the_same_is_refused(server, remote, home):
    server.script = ["no length", "no length, cut"] * 3
    with pytest.raises(InputError, match="states no length, and what it sends differs"):
        remote.fetch(FILE)
    assert "recording.dat" not in leftovers(home)


@pytest.mark.parametrize("action, published", [("no length", True), ("chunked", False)])
def test_a_file_whose_end_is_known_otherwise_is_fetched_once(server, remote, action, published):
    """By its published hash, or because the answer itself says where it ends."""
    server.checksums = f"{hashlib.sha256(CONTENT).hexdigest()} {FILE}\n".encode() if published else None
    server.script = [action]
    assert remote.fetch(FILE).read_bytes() == CONTENT and len(server.requests) == 1


def test_a_disk_without_room_is_not_filled(server, remote, home, monkeypatch):
    """Whoever fetches: a preparation asks for no sizes beforehand."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=1 << 40, used=0, free=len(CONTENT)))
    with pytest.raises(InputError, match="0.00 GB are needed.*P2ES_HOME"):
        remote.fetch(FILE)
    assert len(server.requests) == 1 and "recording.dat" not in leftovers(home)


def test_the_hashes_seen_are_not_read_again_for_each_file(server, remote, monkeypatch):
    lines = []
    monkeypatch.setattr(mirror_module, "parse_checksum", lambda line: lines.append(line) or parse_checksum(line))
    mirror = Mirror(remote.location, "set", "1.0.0")
    for number in range(20):
        mirror.fetch(f"folder/{number}.dat")
    assert len(lines) < 20


def test_files_are_held_against_the_published_hashes(server, remote, home):
    good = hashlib.sha256(CONTENT).hexdigest()
    server.checksums = f"{good} {FILE}\n".encode()
    assert remote.fetch(FILE).read_bytes() == CONTENT
    (home / "data" / "raw" / "set" / "1.0.0" / FILE).unlink()
    server.content = CONTENT[:-1] + b"?"
    wrong = hashlib.sha256(server.content).hexdigest()
    with pytest.raises(InputError, match=f"{wrong}.*SHA256SUMS.txt says {good}"):
        Mirror(remote.location, "set", "1.0.0").fetch(FILE)
    assert "recording.dat" not in leftovers(home) and "recording.dat.part" not in leftovers(home)
    assert (
        len(server.requests) == 1 + mirror_module.ATTEMPTS
    )  # the transfer may have been at fault, so it is tried again
    server.content = CONTENT
    assert Mirror(remote.location, "set", "1.0.0").fetch(FILE).read_bytes() == CONTENT


def test_a_file_that_later_differs_is_refused(server, remote, home):
    local = remote.fetch(FILE)
    seen = local.parent.parent / ".sha256"
    assert seen.read_text() == f"{hashlib.sha256(CONTENT).hexdigest()}  {FILE}\n"
    with open(seen, "a") as file:
        file.write("0123456789abc")  # a line torn by a kill
    local.unlink()
    server.content = CONTENT[::-1]
    with pytest.raises(InputError, match=r"\.sha256 says .*delete its line"):
        remote.fetch(FILE)
    assert not local.exists()
    assert remote.fetch("folder/other.dat").read_bytes() == CONTENT[::-1]
    assert read_checksums(seen) == {
        FILE: hashlib.sha256(CONTENT).hexdigest(),
        "folder/other.dat": hashlib.sha256(CONTENT[::-1]).hexdigest(),
    }


def test_threads_that_want_the_same_file_fetch_it_once(server, remote, home):
    server.script = ["slow"]
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: remote.fetch(FILE), range(4)))
    assert {path.read_bytes() for path in paths} == {CONTENT} and len(server.requests) == 1
    assert leftovers(home) == [".sha256", "recording.dat"]


def test_permanent_trouble_gives_one_clear_error(server, remote, home):
    server.script = [404]
    with pytest.raises(MissingFile, match=f"/files/set/1.0.0/{FILE}: not on this mirror"):
        remote.fetch(FILE)
    server.script = [403]
    with pytest.raises(InputError, match="credentialed users"):
        remote.fetch(FILE)
    server.script = [418]
    with pytest.raises(InputError, match="HTTP 418"):
        remote.fetch(FILE)
    assert len(server.requests) == 3  # none was tried again
    server.script = [500] * mirror_module.ATTEMPTS
    with pytest.raises(InputError, match="after 5 attempts .*P2ES_MIRROR"):
        remote.fetch(FILE)
    assert leftovers(home) == []
    server.script = [404]
    assert remote.try_fetch(FILE) is None


def test_nobody_listening(home, monkeypatch):
    monkeypatch.setattr(mirror_module, "BACKOFF_S", 0.01)
    with pytest.raises(InputError, match="127.0.0.1:9/set/1.0.0/a: cannot be fetched"):
        Mirror("http://127.0.0.1:9", "set", "1.0.0").fetch("a")


@pytest.mark.parametrize(
    "path", ["../a", "a/../../b", "/etc/passwd", "", "a//b", "./a", "a\\b", "C:/a", "a/..", "a\0b"]
)
def test_paths_that_climb_out_are_refused(remote, tmp_path, server, path):
    for mirror in (remote, Mirror(tmp_path, "set", "1.0.0")):
        with pytest.raises(InputError, match="refusing"):
            mirror.fetch(path)
    assert server.requests == []
    assert check_relative("waves/p100/a.hea") == "waves/p100/a.hea"


def test_a_folder_is_read_in_place(tmp_path, home):
    file = tmp_path / "copy" / "set" / "1.0.0" / FILE
    file.parent.mkdir(parents=True)
    file.write_text("text")
    mirror = Mirror(tmp_path / "copy", "set", "1.0.0")
    assert mirror.fetch(FILE) == file and mirror.fetch(FILE).read_text() == "text"
    with pytest.raises(MissingFile, match="other.dat: not in this mirror"):
        mirror.fetch("other.dat")
    assert not home.exists()


@pytest.fixture
def folder(tmp_path, home):
    """A mirror that is a folder, with a file and its published hash."""
    file = tmp_path / "copy" / "set" / "1.0.0" / FILE
    file.parent.mkdir(parents=True)
    file.write_bytes(CONTENT)
    (file.parents[1] / "SHA256SUMS.txt").write_text(f"{hashlib.sha256(CONTENT).hexdigest()}  {FILE}\n")
    return tmp_path / "copy"


def test_a_file_of_a_folder_is_hashed_once_and_again_when_it_changes(folder, monkeypatch):
    hashed = []
    monkeypatch.setattr(mirror_module, "hash_file", lambda path: hashed.append(path) or hash_file(path))
    for _ in range(2):  # as another process would
        mirror = Mirror(folder, "set", "1.0.0")
        file = mirror.fetch(FILE)
        assert mirror.fetch(FILE) == file == folder / "set" / "1.0.0" / FILE
    assert hashed == [file]
    os.utime(file, ns=(1, 1))
    Mirror(folder, "set", "1.0.0").fetch(FILE)
    assert hashed == [file] * 2
    file.write_bytes(CONTENT[:-1] + b"?")
    for _ in range(2):
        with pytest.raises(WrongContent, match="recording.dat: .*SHA256SUMS.txt says"):
            Mirror(folder, "set", "1.0.0").fetch(FILE)


def test_a_folder_that_was_fetched_is_held_against_the_hashes_seen_then(server, remote, home, tmp_path):
    remote.fetch(FILE)
    moved = Path(shutil.copytree(home / "data" / "raw", tmp_path / "moved"))
    assert Mirror(moved, "set", "1.0.0").fetch(FILE).read_bytes() == CONTENT
    (moved / "set" / "1.0.0" / FILE).write_bytes(CONTENT[::-1])
    with pytest.raises(WrongContent, match=r"moved/set/1.0.0/\.sha256 says"):
        Mirror(moved, "set", "1.0.0").fetch(FILE)


@pytest.mark.parametrize("published", [True, False])
def test_what_was_fetched_is_verified_before_it_is_used(server, remote, home, monkeypatch, published):
    server.checksums = f"{hashlib.sha256(CONTENT).hexdigest()} {FILE}\n".encode() if published else None
    local = remote.fetch(FILE)
    hashed = []
    monkeypatch.setattr(mirror_module, "hash_file", lambda path: hashed.append(path) or hash_file(path))
    assert Mirror(remote.location, "set", "1.0.0").fetch(FILE) == local and not hashed
    local.write_bytes(CONTENT[::-1])
    with pytest.raises(WrongContent, match="recording.dat: SHA-256.*delete it and run"):
        Mirror(remote.location, "set", "1.0.0").fetch(FILE)
    assert len(server.requests) == 1
    mending = Mirror(remote.location, "set", "1.0.0")
    mending.mends = True
    with ThreadPoolExecutor(4) as pool:
        assert {path.read_bytes() for path in pool.map(lambda _: mending.fetch(FILE), range(4))} == {CONTENT}
    assert mending.mended == [FILE] and len(server.requests) == 2
    assert local.with_name("recording.dat.damaged").read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("step", ["note_of", "hash_file"])
def test_a_file_that_another_thread_sets_aside_meanwhile_is_fetched_again(server, remote, home, monkeypatch, step):
    local = remote.fetch(FILE)
    local.write_bytes(CONTENT + b"!")  # of another size than noted, so that it is hashed
    original = getattr(mirror_module, step)

    def too_late(*arguments):
        if len(server.requests) == 1:
            local.unlink()
        return original(*arguments)

    monkeypatch.setattr(mirror_module, step, too_late)
    assert Mirror(remote.location, "set", "1.0.0").fetch(FILE).read_bytes() == CONTENT
    assert len(server.requests) == 2


def test_wrong_content_over_http_is_not_blamed_on_the_network(server, remote):
    server.checksums = f"{'0' * 64} {FILE}\n".encode()
    with pytest.raises(WrongContent, match="try another mirror .*delete its line there$") as caught:
        remote.fetch(FILE)
    text = str(caught.value)
    assert text.count(remote.where(FILE)) == 1 and "network" not in text and "continues" not in text
    assert str(remote.cached("SHA256SUMS.txt")) in text  # whose line can be deleted
    remote.cached("SHA256SUMS.txt").write_text("")
    assert Mirror(remote.location, "set", "1.0.0").fetch(FILE).read_bytes() == CONTENT


def refuse_to_open(monkeypatch, name):
    """Files of this name must not be read, as far as Python's ``open`` goes; whoever runs the tests may be root."""

    def refusing(file, *arguments, **options):
        if Path(str(file)).name == name:
            raise PermissionError(13, "Permission denied", str(file))
        return really_open(file, *arguments, **options)

    really_open = open
    monkeypatch.setattr("builtins.open", refusing)


@pytest.mark.parametrize("what", ["fetch", "copy", "fetch_required"])
@pytest.mark.parametrize("published", [True, False])
def test_a_file_that_must_not_be_read_is_named(folder, monkeypatch, what, published):
    if not published:
        (folder / "set" / "1.0.0" / "SHA256SUMS.txt").unlink()
    refuse_to_open(monkeypatch, "recording.dat")
    with pytest.raises(UnusableFile, match="recording.dat: .*Permission denied"):
        getattr(Mirror(folder, "set", "1.0.0"), what)(FILE)


def test_which_mirror(tmp_path, monkeypatch):
    monkeypatch.delenv("P2ES_MIRROR", raising=False)
    assert resolve_mirror() == resolve_mirror("") == DEFAULT_MIRROR
    assert resolve_mirror("https://host.example/data") == "https://host.example/data/"
    monkeypatch.setenv("P2ES_MIRROR", str(tmp_path))
    assert resolve_mirror() == tmp_path.resolve()
    assert resolve_mirror("https://host.example/") == "https://host.example/"
    with pytest.raises(InputError, match="no such folder"):
        resolve_mirror(tmp_path / "nothing")
    with pytest.raises(InputError, match="only http and https"):
        resolve_mirror("ftp://host.example/")


@pytest.mark.parametrize(
    "page", [b"<!DOCTYPE html><title>Log in</title>", b"\n <html><body>please log in</body></html>"]
)
def test_a_web_page_in_place_of_a_file_is_refused(server, remote, home, page):
    """Servers send their page to log in with status 200: it must not become a recording, a table or a list."""
    good, server.content = server.content, page
    with pytest.raises(InputError, match="web page instead of the file"):
        remote.fetch(FILE)
    assert len(server.requests) == 1 and not [name for name in leftovers(home) if not name.endswith(".part")]
    server.content = good
    assert remote.fetch(FILE).read_bytes() == CONTENT


def test_an_empty_list_of_records_is_refused(server, remote, home):
    server.content = b""
    with pytest.raises(InputError, match="list of records is empty"):
        remote.fetch("RECORDS")
    assert "RECORDS" not in leftovers(home)
    assert remote.fetch("folder/empty.txt").read_bytes() == b""  # another file may be empty
