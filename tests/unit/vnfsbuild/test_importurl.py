"""``import URL``: only what is not here is fetched, and only of what may run."""

import hashlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from vnfsbuild.errors import InputError, VerificationError, VnfsbuildError
from vnfsbuild.manifest import LAYER_SQUASHFS, Descriptor
from vnfsbuild.reference import parse_reference as ref
from vnfsbuild.store.store import Store
from vnfsbuild.transfer import partials, ranges
from vnfsbuild.transfer.chunkindex import attach_chunk_index, make_chunk_index
from vnfsbuild.transfer.chunks import (
    MEDIA_TYPE,
    MOST_BYTES,
    PART_BYTES,
    Chunk,
    name_chunk,
    render_chunk_index,
)
from vnfsbuild.transfer.importurl import chunks_url, import_url

from .rangeserver import serve_files

ROOT = Path(__file__).resolve().parents[3]

MEGABYTE = 1024 * 1024
ROOTFS = random.Random(1).randbytes(2 * MEGABYTE)
NEWER = ROOTFS[: MEGABYTE // 2] + b"three packages" * 1000 + ROOTFS[MEGABYTE // 2 :]
MODULES = random.Random(2).randbytes(MEGABYTE)
KERNEL = random.Random(3).randbytes(300_000)


@pytest.fixture
def server():
    with serve_files() as found:
        yield found


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    monkeypatch.setattr(ranges, "RETRY_SECONDS", 0.01)


@pytest.fixture
def older(workshop):
    return workshop.capsule(payloads=[b"source", KERNEL, b"initrd", ROOTFS, MODULES])


@pytest.fixture
def newer(workshop):
    return workshop.capsule(serial=2, payloads=[b"newer", KERNEL, b"initrd", NEWER, MODULES])


@pytest.fixture
def publish(server, tmp_path, workshop):
    """Put a capsule on the server, with its chunk index, as ``export --chunks`` writes both."""

    def publish(toy, path="/toy.vnfs", index=True):
        server.files[path] = toy.write(tmp_path / "published").read_bytes()
        if index:
            store = Store(tmp_path / "publisher")
            toy.add_to(store)
            made = make_chunk_index(store, store.get(ref(f"toy@{toy.digest}")))
            server.files[f"{path}.chunks"] = render_chunk_index(made)
        return server.files[path]

    return publish


@pytest.fixture
def bring(server, store, tmp_path, workshop):
    def bring(path="/toy.vnfs", **words):
        return import_url(
            server.url(path),
            store,
            **{
                "trust": workshop.trust(),
                "now": workshop.now,
                "cache": tmp_path / "cache",
                **words,
            },
        )

    return bring


def left_over(tmp_path):
    return sorted(path.name for path in (tmp_path / "cache/incoming").iterdir())


def require_same(store, toy):
    held = store.get(ref(f"toy@{toy.digest}"))
    assert held.envelopes == toy.envelopes
    for payload in held.manifest.payloads:
        assert store.blob_path(payload.digest).read_bytes() == toy.blobs[payload.digest]


def test_a_capsule_comes_from_a_url_into_the_store(server, bring, publish, store, older, tmp_path):
    publish(older)
    found = bring()
    assert found.capsule.digest == older.digest
    assert store.get(ref("toy")).digest == older.digest
    require_same(store, older)
    assert (
        found.fetched.fetched_bytes
        == found.fetched.payload_bytes
        == sum(map(len, older.blobs.values()))
    )
    assert left_over(tmp_path) == []
    # With an empty store an index would be of no use.
    assert all(path == "/toy.vnfs" for path, _, _ in server.asked)


def test_only_the_chunks_that_no_local_capsule_has_are_fetched(
    server, bring, publish, store, older, newer
):
    older.add_to(store)
    publish(newer)
    found = bring()
    require_same(store, newer)
    fetched = found.fetched
    assert fetched.payload_bytes > 3 * MEGABYTE
    assert len(b"three packages") * 1000 < fetched.fetched_bytes < 130_000
    assert fetched.index_bytes == len(server.files["/toy.vnfs.chunks"])
    assert server.asked_bytes() < fetched.fetched_bytes + ranges.FIRST_BYTES + 10 * 1024
    # The older one got an index, which the next import need not make again.
    assert store.get(ref("toy:1")).attached(MEDIA_TYPE)


def test_a_capsule_that_is_here_is_not_fetched_again(server, bring, publish, store, older):
    publish(older)
    bring()
    server.asked.clear()
    found = bring()
    assert (found.fetched.fetched_bytes, found.fetched.requests) == (0, 0)
    assert server.asked_bytes() <= ranges.FIRST_BYTES + 6 * ranges.LOOK_AHEAD_BYTES


def test_without_an_index_the_payloads_that_are_missing_come_whole(
    server, bring, publish, store, older, newer
):
    older.add_to(store)
    publish(newer, index=False)
    found = bring()
    require_same(store, newer)
    assert found.fetched.fetched_bytes == len(NEWER) + len(b"newer")
    assert ("/toy.vnfs.chunks", 0, 0) in server.asked


def test_a_server_without_ranges_is_read_once_from_beginning_to_end(
    server, bring, publish, store, older, newer
):
    older.add_to(store)
    data = publish(newer)
    server.ranges = False
    found = bring()
    require_same(store, newer)
    assert server.asked == [("/toy.vnfs", 0, len(data))]
    assert found.fetched.requests == 1


def test_the_verdict_falls_before_a_payload_is_fetched(
    server, bring, publish, store, older, workshop
):
    publish(older)
    with pytest.raises(VerificationError, match="signed by"):
        bring(trust=workshop.trust("somebody"))
    with pytest.raises(VerificationError, match="expired"):
        bring(now=workshop.later)
    with pytest.raises(VerificationError, match="serial"):
        bring(trust=workshop.trust(least_serial=2))
    assert {(first, count) for _, first, count in server.asked} == {(0, ranges.FIRST_BYTES)}
    assert not store.list_capsules()
    server.ranges = False
    with pytest.raises(VerificationError):
        bring(trust=workshop.trust("somebody"))
    assert not store.list_capsules()


def flip(data, position):
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


@pytest.mark.parametrize("with_ranges", [True, False])
@pytest.mark.parametrize("where", ["start", "head", "header", "padding", "end", "more", "less"])
def test_a_file_of_another_shape_is_refused(
    server, bring, publish, store, older, where, with_ranges
):
    data = publish(older)
    modules = data.index(MODULES)
    initrd = data.index(b"initrd", data.index(KERNEL))
    server.files["/toy.vnfs"] = {
        "start": lambda: flip(data, 5),
        "head": lambda: flip(data, 3000),
        "header": lambda: flip(data, modules - 300),
        "padding": lambda: flip(data, initrd + 100),
        "end": lambda: flip(data, len(data) - 700),
        "more": lambda: data + bytes(512),
        "less": lambda: data[:-512],
    }[where]()
    server.ranges = with_ranges
    with pytest.raises(VerificationError):
        bring()
    assert not store.list_capsules()
    if with_ranges:
        assert server.asked_bytes() < ranges.FIRST_BYTES + 10 * 1024, server.asked


@pytest.mark.parametrize("with_ranges", [True, False])
def test_a_payload_with_a_flipped_bit_is_refused(
    server, bring, publish, store, older, tmp_path, with_ranges
):
    data = publish(older)
    server.files["/toy.vnfs"] = flip(data, data.index(MODULES) + 4711)
    server.ranges = with_ranges
    with pytest.raises(VerificationError):
        bring()
    assert not store.list_capsules()
    server.files["/toy.vnfs"] = data
    bring()
    require_same(store, older)


def test_a_server_that_lies_in_what_it_sends_for_a_chunk_gains_nothing(
    server, bring, publish, store, older, newer
):
    older.add_to(store)
    data = publish(newer)
    rootfs = data.index(NEWER)

    def lie(path, first, body):
        return bytes(len(body)) if first > rootfs and len(body) > 2048 else body

    server.change = lie
    found = None
    # The whole payload begins at its first byte, which this server tells truly.
    found = bring()
    require_same(store, newer)
    assert found.fetched.fetched_bytes < 2 * len(NEWER)


def change_index(server, change):
    import json

    value = json.loads(server.files["/toy.vnfs.chunks"])
    for blob in value["blobs"]:
        change(blob)
    server.files["/toy.vnfs.chunks"] = json.dumps(
        value, sort_keys=True, separators=(",", ":")
    ).encode()


@pytest.mark.parametrize("lie", ["here", "swapped", "unknown", "other", "rubbish", "long"])
def test_an_index_that_lies_costs_time_and_nothing_else(
    server, bring, publish, store, older, newer, lie
):
    older.add_to(store)
    publish(newer)
    held = make_chunk_index(store, store.get(ref("toy:1")))
    by_size = {chunk.size_bytes: chunk for chunks in held.values() for chunk in chunks}

    def say_here(blob):  # of each chunk that there is one of that size, which is another
        blob["chunks"] = [
            [by_size.get(size, Chunk(bytes.fromhex(name), 0)).name.hex(), size]
            for name, size in blob["chunks"]
        ]

    def swap(blob):
        blob["chunks"] = [*reversed(blob["chunks"][:-1]), *blob["chunks"][-1:]]

    def unknown(blob):
        blob["chunks"] = [["0" * 32, size] for _, size in blob["chunks"]]

    lies = {"here": say_here, "swapped": swap, "unknown": unknown}
    if lie in lies:
        change_index(server, lies[lie])
    elif lie == "other":
        server.files["/toy.vnfs.chunks"] = render_chunk_index(held)
    elif lie == "rubbish":
        server.files["/toy.vnfs.chunks"] = b"<html>It works!</html>"
    else:
        server.files["/toy.vnfs.chunks"] = bytes(MEGABYTE)
    found = bring()
    require_same(store, newer)
    assert found.fetched.fetched_bytes <= 2 * (len(NEWER) + len(b"newer"))
    assert server.asked_bytes("/toy.vnfs.chunks") <= MEGABYTE


def test_a_damaged_capsule_in_the_store_gives_no_chunk(server, bring, publish, store, older, newer):
    older.add_to(store)
    capsule = store.get(ref("toy"))
    attach_chunk_index(store, capsule)
    rootfs = store.blob_path(capsule.manifest.layers[0].digest)
    rootfs.write_bytes(bytes(len(ROOTFS)))
    publish(newer)
    found = bring()
    require_same(store, newer)
    assert found.fetched.fetched_bytes >= len(NEWER)


def test_a_chunk_that_was_damaged_in_the_store_is_fetched_and_the_others_are_not(
    server, bring, publish, store, older, newer
):
    older.add_to(store)
    capsule = store.get(ref("toy"))
    attach_chunk_index(store, capsule)
    rootfs = store.blob_path(capsule.manifest.layers[0].digest)
    rootfs.write_bytes(flip(ROOTFS, MEGABYTE))
    publish(newer)
    found = bring()
    require_same(store, newer)
    assert found.fetched.fetched_bytes < 200_000


def test_no_index_is_made_of_what_was_damaged(store, older):
    older.add_to(store)
    capsule = store.get(ref("toy"))
    store.blob_path(capsule.manifest.layers[1].digest).write_bytes(flip(MODULES, 5))
    with pytest.raises(VerificationError, match="was damaged"):
        attach_chunk_index(store, capsule)
    assert store.get(ref("toy")).attached(MEDIA_TYPE) is None


def test_after_the_first_wrong_chunk_no_further_range_is_fetched(tmp_path):
    size_bytes = 10 * PART_BYTES
    data = b"x" * MOST_BYTES
    # What is here of it would make chunks pay; what is not is not what the index says.
    here = [Chunk(name_chunk(data), MOST_BYTES)] * 200
    chunks = [*here, *[Chunk(b"y" * 16, MOST_BYTES)] * (size_bytes // MOST_BYTES - 200)]
    piece = tmp_path / "piece"
    piece.write_bytes(data)
    local = {name_chunk(data): partials.Place(path=piece, first_byte=0)}
    digest = hashlib.sha256(b"x" * size_bytes).hexdigest()
    blob = Descriptor(LAYER_SQUASHFS, f"sha256:{digest}", size_bytes)
    asked = []

    class Reader:
        def read(self, first_byte, size_bytes):
            asked.append(size_bytes)
            yield from [data] * (size_bytes // MOST_BYTES)

    with partials.open_partials(tmp_path / "incoming", [blob]) as found:
        path = found.bring(blob, Reader(), chunks=chunks, local=local)
    assert path.stat().st_size == size_bytes
    assert asked[-1] == size_bytes
    assert len(asked) <= 1 + partials.CONNECTIONS
    # Of each range one chunk at most was taken before the whole came.
    assert found.fetched_bytes <= size_bytes + partials.CONNECTIONS * MOST_BYTES


def test_what_breaks_off_is_gone_on_with(server, bring, publish, store, older):
    publish(older)
    server.break_at = [2500, 100_000, 0, 200_000, 1, 50_000]
    bring()
    require_same(store, older)
    assert server.asked_bytes() > 0
    assert server.break_at == []


def test_what_was_fetched_before_a_break_is_not_fetched_again(
    server, bring, publish, store, older, newer, tmp_path
):
    older.add_to(store)
    publish(newer, index=False)
    whole = len(NEWER)
    server.break_at = [ranges.FIRST_BYTES, MEGABYTE, *[0] * 40]
    with pytest.raises(VnfsbuildError, match=r"toy\.vnfs"):
        bring()
    kept = sum((tmp_path / "cache/incoming" / name).stat().st_size for name in left_over(tmp_path))
    assert kept > MEGABYTE / 2
    server.break_at = []
    found = bring()
    require_same(store, newer)
    assert found.fetched.fetched_bytes <= whole + len(b"newer") - kept + 10
    assert left_over(tmp_path) == []


def test_chunks_that_were_fetched_before_a_break_are_not_fetched_again(
    server, bring, publish, store, older, workshop, tmp_path
):
    older.add_to(store)
    much = random.Random(5).randbytes(MEGABYTE)
    rootfs = ROOTFS[:MEGABYTE] + much + ROOTFS[MEGABYTE:]
    publish(workshop.capsule(serial=2, payloads=[b"", KERNEL, b"initrd", rootfs, MODULES]))
    server.break_at = [ranges.FIRST_BYTES, 10**6, MEGABYTE * 3 // 4, *[0] * 40]
    with pytest.raises(VnfsbuildError, match="the connection broke"):
        bring()
    assert "chunked" in [name.partition(".")[2] for name in left_over(tmp_path)]
    server.break_at = []
    found = bring()
    assert found.fetched.fetched_bytes < MEGABYTE / 2
    assert store.blob_path(found.capsule.manifest.layers[0].digest).read_bytes() == rootfs


def test_a_partial_file_that_was_damaged_costs_one_more_attempt(
    server, bring, publish, store, older, tmp_path
):
    publish(older)
    incoming = tmp_path / "cache/incoming"
    incoming.mkdir(parents=True)
    parsed = older.head.capsule.manifest
    for blob in parsed.payloads:
        (incoming / f"{blob.digest[7:]}{partials.WHOLE}").write_bytes(b"rubbish")
    bring()
    require_same(store, older)


def test_what_somebody_else_put_into_the_cache_is_not_written_to(
    server, bring, publish, store, older, tmp_path
):
    publish(older)
    incoming = tmp_path / "cache/incoming"
    incoming.mkdir(parents=True)
    theirs = [tmp_path / name for name in ("linked", "named twice")]
    blobs = [blob.digest[7:] for blob in older.head.capsule.manifest.payloads[1:]]
    for path in theirs:
        path.write_bytes(b"theirs")
    (incoming / f"{blobs[0]}{partials.WHOLE}").symlink_to(theirs[0])
    (incoming / f"{blobs[1]}{partials.WHOLE}").hardlink_to(theirs[1])
    os.mkfifo(incoming / f"{blobs[2]}{partials.WHOLE}")
    bring()
    require_same(store, older)
    assert [path.read_bytes() for path in theirs] == [b"theirs"] * 2


def test_a_server_that_brings_next_to_nothing_each_time_is_given_up(server, bring, publish, older):
    publish(older)
    server.break_at = [ranges.FIRST_BYTES, *[1] * 200]
    with pytest.raises(VnfsbuildError, match="the connection broke"):
        bring()
    assert len(server.break_at) > 150


@pytest.mark.parametrize("part", ["bytes 0-9/" + "9" * 5000, "bytes ²-3/4", "\x1b[2J", "bytes */9"])
def test_a_server_that_answers_rubbish_is_told_in_one_plain_line(
    server, bring, publish, older, part
):
    publish(older)
    server.headers = {"Content-Range": part}
    with pytest.raises(VnfsbuildError, match="as the answered part") as caught:
        bring()
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 2000


def test_a_server_that_answers_a_range_with_the_whole_file_is_told(
    server, bring, publish, store, older
):
    publish(older)
    server.whole_after = 3
    with pytest.raises(VnfsbuildError, match="whole file, expected a part") as caught:
        bring()
    assert caught.value.exit_status == 1
    assert not store.list_capsules()


def test_a_file_that_changes_while_it_is_fetched_is_told(
    server, bring, publish, store, older, newer
):
    publish(older)
    server.headers = {"ETag": '"1"'}
    data = server.files["/toy.vnfs"]
    modules = data.index(MODULES)

    def change(path, first, body):
        if first == modules:
            server.headers = {"ETag": '"2"'}
        return body

    server.change = change
    with pytest.raises(VnfsbuildError, match="changed while it was fetched"):
        bring()
    assert not store.list_capsules()


def test_what_is_not_there_or_no_url_is_told(server, bring, publish, tmp_path, store, workshop):
    with pytest.raises(VnfsbuildError, match=r"/toy\.vnfs: 404"):
        bring()
    for url in ("ftp://example.org/x.vnfs", "http:///x.vnfs", "x.vnfs"):
        with pytest.raises(InputError, match="expected a URL"):
            import_url(url, store, trust=workshop.trust(), now=1, cache=tmp_path)
    server.files["/toy.vnfs"] = b"<html>It works!</html>"
    with pytest.raises(VerificationError):
        bring()


def test_a_password_in_the_url_is_sent_and_not_shown(server, publish, store, tmp_path, workshop):
    url = server.url("/secret.vnfs").replace("http://", "http://me:pass%20word@")
    with pytest.raises(VnfsbuildError) as caught:
        import_url(url, store, trust=workshop.trust(), now=1, cache=tmp_path)
    assert "pass" not in str(caught.value)


def test_the_index_lies_beside_the_file():
    assert chunks_url("https://h/a/b.vnfs?x=1") == "https://h/a/b.vnfs.chunks?x=1"


def test_two_imports_of_one_capsule_at_once_fetch_it_once(
    server, publish, store, older, workshop, tmp_path
):
    publish(older)
    failures = []

    def bring():
        try:
            import_url(
                server.url(),
                Store(store.path),
                trust=workshop.trust(),
                now=workshop.now,
                cache=tmp_path / "cache",
            )
        except VnfsbuildError as error:
            failures.append(error)

    threads = [threading.Thread(target=bring) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    require_same(store, older)
    assert server.asked_bytes() < len(server.files["/toy.vnfs"]) + 3 * 2 * ranges.FIRST_BYTES


KILLED = """
import sys
from pathlib import Path
from vnfsbuild.transfer.importurl import import_url
from vnfsbuild.store.store import Store
from vnfsbuild.trust import parse_trust
url, store, cache, trust, now = sys.argv[1:]
trust = parse_trust(Path(trust).read_bytes(), where="trust")
import_url(url, Store(Path(store)), trust=trust, now=int(now), cache=Path(cache))
"""


@pytest.mark.parametrize("index", [True, False])
def test_an_import_that_was_killed_goes_on_where_it_was(
    server, bring, publish, store, older, newer, workshop, tmp_path, index
):
    from vnfsbuild.trust import render_trust

    (tmp_path / "trust").write_bytes(render_trust(workshop.trust()))
    publish(older, index=index)
    data = server.files["/toy.vnfs"]
    rootfs, stop = data.index(ROOTFS), threading.Event()

    def hang(path, first, body):
        if first > rootfs + 1000 and len(body) > 2048:
            stop.wait(20)
        return body

    server.change = hang
    argv = [
        *(sys.executable, "-c", KILLED, server.url(), str(store.path), str(tmp_path / "cache")),
        *(str(tmp_path / "trust"), str(workshop.now)),
    ]
    child = subprocess.Popen(argv, env={**os.environ, "PYTHONPATH": str(ROOT)})
    path = tmp_path / "cache/incoming" / f"{older.head.capsule.manifest.layers[0].digest[7:]}.whole"
    deadline = time.monotonic() + 30
    while not (path.exists() and path.stat().st_size == len(ROOTFS)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    stop.set()
    server.change = lambda path, first, body: body
    assert not store.list_capsules()
    found = bring()
    require_same(store, older)
    assert found.fetched.fetched_bytes <= len(MODULES) + len(KERNEL) + 100


NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin")
NGINX_CONFIG = """
daemon off; pid {0}/pid; error_log {0}/log; worker_processes 1; {1}
events {{ worker_connections 64; }}
http {{
    access_log off; client_body_temp_path {0}/a; proxy_temp_path {0}/b; fastcgi_temp_path {0}/c;
    uwsgi_temp_path {0}/d; scgi_temp_path {0}/e;
    server {{ listen 127.0.0.1:{2}; root {0}/www; max_ranges {3}; }}
}}
"""


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.mark.skipif(NGINX is None, reason="no nginx here")
@pytest.mark.parametrize("ranges_allowed", [True, False])
def test_nginx_will_do(publish, server, store, older, newer, workshop, tmp_path, ranges_allowed):
    older.add_to(store)
    publish(newer)
    (tmp_path / "www").mkdir()
    for path, data in server.files.items():
        (tmp_path / f"www{path}").write_bytes(data)
    tmp_path.chmod(0o755)
    port = free_port()
    user = "user root;" if os.geteuid() == 0 else ""
    text = NGINX_CONFIG.format(tmp_path, user, port, 5 if ranges_allowed else 0)
    (tmp_path / "conf").write_text(text)
    child = subprocess.Popen([NGINX, "-c", str(tmp_path / "conf"), "-e", str(tmp_path / "log")])
    try:
        deadline = time.monotonic() + 10
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        found = import_url(
            f"http://127.0.0.1:{port}/toy.vnfs",
            store,
            trust=workshop.trust(),
            now=workshop.now,
            cache=tmp_path / "cache",
        )
    finally:
        child.terminate()
        child.wait()
    require_same(store, newer)
    assert (found.fetched.fetched_bytes < 130_000) == ranges_allowed
