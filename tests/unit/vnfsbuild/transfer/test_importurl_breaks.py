"""What breaks off, is killed or done twice goes on where it was."""

import os
import random
import signal
import subprocess
import sys
import threading
import time

import pytest

from vnfsbuild.errors import VnfsbuildError
from vnfsbuild.store.store import Store
from vnfsbuild.transfer import partials, ranges
from vnfsbuild.transfer.importurl import import_url

from .published import KERNEL, MEGABYTE, MODULES, NEWER, ROOT, ROOTFS, left_over, require_same


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
