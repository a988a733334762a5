"""Downloads over a real HTTP server on this machine that does everything wrong."""

import contextlib
import gzip
import hashlib
import http.server
import json
import os
import re
import subprocess
import sys
import threading
import time

import pytest

from minifold_pl.data import fetch
from minifold_pl.data.cath42 import fetch_cath42
from minifold_pl.data.fetch import FetchError, NotThere, Patience, download

CONTENT = bytes(range(256)) * 4096  # 1 MiB
DIGEST = hashlib.sha256(CONTENT).hexdigest()
QUICK = Patience(tries=3, wait=0.01, timeout=5.0)


class Server(http.server.ThreadingHTTPServer):
    """Serves ``files``; each request to one takes the next of its ``script``, then whole answers.

    Steps: an int is a status; ("drop", n) ends after n bytes; ("length", n) claims n bytes; "ignore" ignores
    Range; ("trickle", s) sends a byte every s seconds; ("hang", s) waits; ("change", bytes) has another file from
    then on, ("changed part", bytes) too and ignores If-Range; "gzip" claims an encoding; "wrong place" sends another
    part than asked for; "no size" does not say how much the whole is; ("location", url) sends to another address.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {}
        self.script = {}
        self.requests = []
        self.tagged = True
        self.date = None
        self.short_parts = False  # without what RFC 9110 allows to leave out of a part

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/"


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        server, name = self.server, self.path.lstrip("/")
        server.requests.append((name, self.headers.get("Range")))
        steps = server.script.get(name) or []
        step = steps.pop(0) if steps else None
        if isinstance(step, tuple) and step[0] in ("change", "changed part"):
            server.files[name] = step[1]
        if isinstance(step, tuple) and step[0] == "location":
            self.send_response(302)
            self.send_header("Location", step[1])
            self.end_headers()
            return
        if isinstance(step, int) or name not in server.files:
            self.send_response(step if isinstance(step, int) else 404)
            if step == 503:
                self.send_header("Retry-After", "0")
            self.end_headers()
            return
        content = server.files[name]
        tag = f'"{hashlib.sha256(content).hexdigest()[:8]}"'
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        asked_for = self.headers.get("If-Range") in (None, tag, server.date) or "changed part" in (step or ())
        start = int(match[1]) if match and step != "ignore" and asked_for else 0
        if match and start >= len(content):
            self.send_response(416)
            self.end_headers()
            return
        body = content[start:]
        if start:
            self.send_response(206)
            first = start + 7 if step == "wrong place" else start
            size = "*" if step == "no size" else len(content)
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{size}")
        else:
            self.send_response(200)
        kind, value = step if isinstance(step, tuple) else (step, None)
        self.send_header("Content-Length", str(value if kind == "length" else len(body)))
        if server.tagged:
            self.send_header("ETag", tag)
        if server.date and not (start and server.short_parts):
            self.send_header("Last-Modified", server.date)
        if kind == "gzip":
            self.send_header("Content-Encoding", "gzip")
        if kind == "hang":
            time.sleep(value)
        self.end_headers()
        if kind == "drop":
            body = body[:value]
        if kind == "trickle":
            for i in range(400):
                self.wfile.write(body[i : i + 1])
                self.wfile.flush()
                time.sleep(value)
        else:
            self.wfile.write(body)

    def handle(self):
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            super().handle()


@pytest.fixture
def server():
    server = Server()
    server.files["file"] = CONTENT
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def _get(server, path, **options):
    return download(server.url + "file", path, **{"patience": QUICK, **options})


def test_a_file_arrives_whole_with_its_checksum_beside_it(server, tmp_path):
    seen = []
    done = _get(
        server, tmp_path / "new" / "x", sha256=DIGEST.upper(), report=lambda n, of: seen.append((n, of))
    )
    assert (tmp_path / "new" / "x").read_bytes() == CONTENT
    assert (done.bytes, done.sha256, done.downloaded, done.tries) == (len(CONTENT), DIGEST, True, 1)
    assert (tmp_path / "new" / "x.sha256").read_text() == f"{DIGEST}  x\n"
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["x", "x.sha256"]
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert seen == sorted(seen)


def test_a_connection_that_drops_again_and_again_goes_on_where_it_was(server, tmp_path):
    server.script["file"] = [("drop", 100_000)] * 8  # more often than tries: each brings something
    lines = []
    done = _get(server, tmp_path / "x", log=lines.append)
    assert (done.sha256, done.tries) == (DIGEST, 9)
    ranges = [r for _, r in server.requests]
    assert ranges == [None] + [f"bytes={100_000 * k}-" for k in range(1, 9)]
    assert "the connection ended after 100,000 of 1,048,576 bytes; trying again" in lines[0]


def test_a_later_call_goes_on_where_an_earlier_one_gave_up(server, tmp_path):
    server.script["file"] = [("drop", 300_000), 500, 500, 500]
    with pytest.raises(
        FetchError, match=r"500 Internal Server Error; given up after 4 tries, 3 of them without"
    ):
        _get(server, tmp_path / "x")
    assert (tmp_path / "x.part").stat().st_size == 300_000
    assert not (tmp_path / "x").exists()
    assert _get(server, tmp_path / "x").sha256 == DIGEST
    assert server.requests[-1] == ("file", "bytes=300000-")


def test_a_process_that_is_killed_is_gone_on_with_by_the_next(server, tmp_path):
    server.script["file"] = [("drop", 500_000), ("hang", 30)]
    code = f"""
from minifold_pl.data.fetch import download
download({server.url + "file"!r}, {str(tmp_path / "x")!r})
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    while len(server.requests) < 2:
        time.sleep(0.02)
        assert process.poll() is None
    with pytest.raises(FetchError, match="another process is downloading"):
        _get(server, tmp_path / "x")
    process.kill()
    process.communicate()
    assert _get(server, tmp_path / "x").sha256 == DIGEST
    assert server.requests[-1] == ("file", "bytes=500000-")


def test_a_server_that_ignores_ranges_gives_the_file_from_its_beginning(server, tmp_path):
    server.script["file"] = [("drop", 400_000), "ignore"]
    assert _get(server, tmp_path / "x").sha256 == DIGEST


def test_a_server_that_ignores_ranges_and_always_fails_is_given_up(server, tmp_path):
    server.tagged = False  # nothing to go on by: each try starts from nothing
    server.script["file"] = [("drop", 400_000)] * 50
    with pytest.raises(FetchError, match="given up after 4 tries, 3 of them without progress"):
        _get(server, tmp_path / "x")
    assert {r for _, r in server.requests} == {None}


def test_a_file_that_changes_between_tries_is_never_put_together_from_both(server, tmp_path):
    other = CONTENT[::-1]
    server.script["file"] = [("drop", 400_000), ("change", other)]
    assert _get(server, tmp_path / "x").sha256 == hashlib.sha256(other).hexdigest()
    assert (tmp_path / "x").read_bytes() == other


def test_a_file_that_becomes_shorter_than_what_is_there_starts_again(server, tmp_path):
    server.script["file"] = [("drop", 400_000), ("change", CONTENT[:1000])]
    assert _get(server, tmp_path / "x").bytes == 1000


@pytest.mark.parametrize("other", [CONTENT[::-1], CONTENT[:900_000], CONTENT + b"x"])
def test_a_part_of_another_version_starts_again_though_the_server_ignores_if_range(server, tmp_path, other):
    server.script["file"] = [("drop", 400_000), ("changed part", other)]
    done = _get(server, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == other
    assert (done.sha256, done.tries) == (hashlib.sha256(other).hexdigest(), 3)
    assert [r for _, r in server.requests] == [None, "bytes=400000-", None]


def test_a_part_of_another_size_starts_again_though_its_tag_is_the_same(server, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "_is_of", lambda version, tag, date: True)
    other = CONTENT[::-1] + b"x"
    server.script["file"] = [("drop", 400_000), ("changed part", other)]
    _get(server, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == other


def test_versions_are_told_apart_by_date_where_there_is_no_tag(server, tmp_path):
    server.tagged, server.date = False, "Sat, 01 Jan 2000 00:00:00 GMT"
    for server.short_parts in (False, True):
        server.script["file"] = [("drop", 400_000)]
        path = tmp_path / str(server.short_parts)
        assert (_get(server, path).sha256, server.requests[-1][1]) == (DIGEST, "bytes=400000-")
    assert fetch._is_of(server.date, "", "Sun, 02 Jan 2000 00:00:00 GMT") is False
    assert fetch._is_of('"a"', "", server.date) is False  # a part must have the tag that was asked for


def test_a_part_that_does_not_say_how_much_the_whole_is_is_taken(server, tmp_path):
    server.script["file"] = [("drop", 400_000), "no size"]
    done = _get(server, tmp_path / "x")
    assert (done.sha256, done.tries) == (DIGEST, 2)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://[::1", "no http or https address"),
        ("http://127.0.0.1:x/", "no http or https address"),
        ("http://127.0.0.1:99999/", "no http or https address"),
        ("http:///x", "no http or https address"),
        ("ftp://127.0.0.1/", "no http or https address"),
    ],
)
def test_what_is_no_address_is_told_with_it(tmp_path, url, told):
    for call in (lambda: download(url, tmp_path / "x"), lambda: fetch_cath42(tmp_path / "y", url=url)):
        with pytest.raises(FetchError, match=told) as caught:
            call()
        assert str(caught.value).startswith(url)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "target", ["file", "http://[::1", "http://127.0.0.1:99999/", "http://h:p/", "file:///etc"]
)
def test_a_server_that_sends_to_nowhere_or_in_a_circle_is_told_in_one_line(server, tmp_path, target):
    server.script["file"] = [("location", target)] * 50
    with pytest.raises(FetchError) as caught:
        _get(server, tmp_path / "x")
    assert str(caught.value).startswith(server.url + "file")
    assert "\n" not in str(caught.value)
    assert len(server.requests) <= 11
    assert list(tmp_path.iterdir()) == []


def test_another_part_than_was_asked_for_is_not_taken(server, tmp_path):
    server.script["file"] = [("drop", 400_000), "wrong place"]
    assert _get(server, tmp_path / "x").sha256 == DIGEST


def test_a_length_that_is_never_reached_ends_in_an_error_not_in_a_loop(server, tmp_path):
    server.script["file"] = [("length", len(CONTENT) + 5)] * 50
    with pytest.raises(FetchError, match="given up after"):
        _get(server, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_length_that_is_wrong_once_does_no_harm(server, tmp_path):
    server.script["file"] = [("length", len(CONTENT) + 5)]
    assert _get(server, tmp_path / "x").sha256 == DIGEST


@pytest.mark.parametrize("status", [404, 403, 410])
def test_an_answer_that_will_stay_is_told_at_once(server, tmp_path, status):
    server.script["file"] = [status] * 5
    with pytest.raises(NotThere, match=rf"/file: the server answers {status}"):
        _get(server, tmp_path / "x")
    assert len(server.requests) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("status", [500, 502, 503, 429])
def test_an_answer_that_may_pass_is_waited_for(server, tmp_path, status):
    server.script["file"] = [status, status]
    assert _get(server, tmp_path / "x").tries == 3


def test_waits_double_and_the_servers_wish_counts(server, tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr(fetch.time, "sleep", waits.append)
    server.script["file"] = [500] * 4
    download(server.url + "file", tmp_path / "x", patience=Patience(tries=6, wait=1.0))
    assert all(2.0**k <= wait <= 1.25 * 2.0**k for k, wait in enumerate(waits))
    assert len(waits) == 4


def test_a_server_that_does_not_answer_is_asked_again(server, tmp_path):
    server.script["file"] = [("hang", 1.5)]
    assert _get(server, tmp_path / "x", patience=Patience(tries=3, wait=0.01, timeout=0.3)).tries == 2


def test_a_server_that_trickles_is_left_and_asked_again(server, tmp_path):
    server.script["file"] = [("trickle", 0.02)]
    patience = Patience(tries=3, wait=0.01, timeout=0.5)
    lines = []
    began = time.monotonic()
    assert _get(server, tmp_path / "x", patience=patience, log=lines.append).sha256 == DIGEST
    assert time.monotonic() - began < 5
    assert "bytes a second arrive" in lines[0]


def test_nobody_at_the_address_is_one_clear_error(tmp_path):
    with pytest.raises(FetchError, match=r"no connection \(.*refused.*; given up after 3 tries"):
        download("http://127.0.0.1:9/file", tmp_path / "x", patience=QUICK)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FetchError, match="is no http or https address"):
        download("file:///etc/passwd", tmp_path / "x")


def test_a_full_disk_is_told_before_anything_is_written(server, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(FetchError, match=r"needs 1 MiB more in .*, 0 MiB are free"):
        _get(server, tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_another_checksum_is_refused_and_the_file_removed(server, tmp_path):
    with pytest.raises(FetchError, match=f"has sha256 {DIGEST}, {'0' * 64} is expected"):
        _get(server, tmp_path / "x", sha256="0" * 64)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FetchError, match="is not 64 hexadecimal digits"):
        _get(server, tmp_path / "x", sha256="abc")


def test_an_encoded_answer_is_refused(server, tmp_path):
    server.script["file"] = ["gzip"]
    with pytest.raises(FetchError, match="sends it as gzip"):
        _get(server, tmp_path / "x")


def test_a_file_that_is_there_is_not_downloaded_again_unless_it_has_changed(server, tmp_path):
    _get(server, tmp_path / "x")
    assert not _get(server, tmp_path / "x").downloaded
    assert len(server.requests) == 1
    (tmp_path / "x").write_bytes(b"edited")
    with pytest.raises(FetchError, match="move it away to download it again"):
        _get(server, tmp_path / "x")
    (tmp_path / "x.sha256").unlink()
    with pytest.raises(FetchError, match="nothing says what it should be"):
        _get(server, tmp_path / "x")


@pytest.mark.parametrize("notes", ["", "[]", "{", '{"version": 3}', '{"version": ""}'])
def test_bytes_of_which_nothing_is_known_are_thrown_away(server, tmp_path, notes):
    (tmp_path / "x.part").write_bytes(b"?" * 1000)
    (tmp_path / "x.part.json").write_text(notes)
    assert _get(server, tmp_path / "x").sha256 == DIGEST
    assert server.requests == [("file", None)]


CHAIN = json.dumps({"name": "1abc.A", "seq": "ACDEFG", "coords": {"CA": []}}).encode() + b"\n"
SPLITS = json.dumps({"train": ["1abc.A"], "validation": [], "test": [], "cath_nodes": {}}).encode()


def test_both_files_of_the_data_set_are_fetched_plain_or_packed(server, tmp_path):
    server.files |= {"chain_set.jsonl": CHAIN * 10, "chain_set_splits.json": SPLITS}
    done = fetch_cath42(tmp_path / "a", url=server.url, patience=QUICK)
    assert (done.chain_set.path.name, done.splits.path.name) == ("chain_set.jsonl", "chain_set_splits.json")
    del server.files["chain_set.jsonl"]
    server.files["chain_set.jsonl.gz"] = gzip.compress(b"damaged\n" + CHAIN)
    done = fetch_cath42(tmp_path / "b", url=server.url.rstrip("/"), patience=QUICK)
    assert done.chain_set.path.name == "chain_set.jsonl.gz"
    server.requests.clear()
    assert not fetch_cath42(tmp_path / "b", url=server.url, patience=QUICK).chain_set.downloaded
    assert server.requests == []


@pytest.mark.parametrize(
    "page",
    [b"<html>please log in", b'{"error": "try later"}', b"", gzip.compress(b"{}", mtime=0)],
    ids=["html", "json", "empty", "gzip"],
)
def test_a_page_in_place_of_the_file_is_refused(server, tmp_path, page):
    server.files |= {"chain_set.jsonl": page, "chain_set_splits.json": SPLITS}
    with pytest.raises(FetchError, match=r"is no chain_set\.jsonl: it holds something else"):
        fetch_cath42(tmp_path, url=server.url, patience=QUICK)
    assert [p.name for p in sorted(tmp_path.iterdir())] == [
        "chain_set_splits.json",
        "chain_set_splits.json.sha256",
    ]
    server.files["chain_set.jsonl"] = CHAIN
    assert fetch_cath42(tmp_path, url=server.url, patience=QUICK).chain_set.downloaded
    server.files["chain_set_splits.json"] = b'{"error": "try later"}'
    with pytest.raises(FetchError, match=r"is no chain_set_splits\.json: it holds something else"):
        fetch_cath42(tmp_path / "e", url=server.url, patience=QUICK)
    with pytest.raises(FetchError, match="sha256 of 'x'"):
        fetch_cath42(tmp_path, url=server.url, sha256={"x": DIGEST})
    with pytest.raises(NotThere, match=r"chain_set_splits\.json: the server answers 404"):
        fetch_cath42(tmp_path / "n", url=server.url + "elsewhere", patience=QUICK)
