"""``import URL``: only what is not here is fetched, and only of what may run."""

import os
import shutil
import socket
import subprocess
import time

import pytest

from vnfsbuild.errors import InputError, VerificationError, VnfsbuildError
from vnfsbuild.reference import parse_reference as ref
from vnfsbuild.transfer import ranges
from vnfsbuild.transfer.chunks import (
    MEDIA_TYPE,
)
from vnfsbuild.transfer.importurl import chunks_url, import_url

from .published import MEGABYTE, NEWER, left_over, require_same


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
