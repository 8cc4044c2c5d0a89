"""Blobs over real sockets: resumed, failed over, refused."""

import io
import socket

import pytest

from provisiond.agent.client import NetworkError
from provisiond.agent.fetch import AbsentError, Fetcher, Patience, connect, write_all
from vnfsbuild.digest import digest_of
from vnfsbuild.errors import VerificationError, VnfsbuildError
from vnfsbuild.manifest import LAYER_SQUASHFS, Descriptor

DATA = bytes(range(256)) * 2000
BLOB = Descriptor(LAYER_SQUASHFS, digest_of(DATA), len(DATA))
IMPATIENT = Patience(stall_seconds=0.3, tries=3, least_delay_seconds=0.01, most_delay_seconds=0.02)


def fetch(*mirrors, before=b"", told=None, patience=IMPATIENT):
    told = [] if told is None else told
    file = io.BytesIO(before)
    file.seek(0, io.SEEK_END)
    bases = [getattr(mirror, "base", mirror) for mirror in mirrors]
    fetcher = Fetcher(bases, tell=told.append, patience=patience)
    try:
        fetcher.fetch_into(file, BLOB, where="layer 0")
    finally:
        fetch.file = file.getvalue()
    return file.getvalue()


def breaks_after(count, times=1):
    """Return a fault that sends *count* bytes and hangs up, so many times."""
    left = [times]

    def fault(handler, data, offset):
        if not left[0]:
            return False
        left[0] -= 1
        handler.send_response(206 if offset else 200)
        if offset:
            handler.send_header("Content-Range", f"bytes {offset}-{len(data) - 1}/{len(data)}")
        handler.send_header("Content-Length", str(len(data) - offset))
        handler.end_headers()
        handler.wfile.write(data[offset : offset + count])
        return True

    return fault


def test_a_blob_is_appended(mirrors):
    mirrors[0].add(DATA)
    assert fetch(mirrors[0], before=b"initrd") == b"initrd" + DATA


def test_a_broken_connection_is_resumed_where_it_broke(mirrors):
    mirrors[0].add(DATA)
    mirrors[0].fault = breaks_after(100_000, times=3)
    assert fetch(mirrors[0]) == DATA
    assert [span for _, span in mirrors[0].requests] == [
        None, "bytes=100000-", "bytes=200000-", "bytes=300000-",
    ]  # fmt: skip


def test_progress_starts_the_count_of_tries_anew(mirrors):
    mirrors[0].add(DATA)
    mirrors[0].fault = breaks_after(70_000, times=5)
    assert fetch(mirrors[0]) == DATA


def test_a_server_that_ignores_ranges_is_understood(mirrors):
    mirrors[0].add(DATA)
    broken = breaks_after(100_000)

    def fault(handler, data, offset):
        if not offset:
            return broken(handler, data, offset)
        handler.reply(data)
        return True

    mirrors[0].fault = fault
    assert fetch(mirrors[0]) == DATA


def test_another_server_goes_on_where_the_first_stopped(mirrors):
    for mirror in mirrors:
        mirror.add(DATA)
    mirrors[0].fault = breaks_after(1000, times=99)
    told = []
    assert fetch(*mirrors, told=told) == DATA
    assert mirrors[1].requests[0][1] == "bytes=3000-"
    assert f"ended after 1000 of {len(DATA)} bytes" in told[0]


def test_a_stalled_connection_is_noticed(mirrors):
    for mirror in mirrors:
        mirror.add(DATA)

    def stall(handler, data, offset):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.connection.settimeout(5)
        handler.rfile.read(1)
        return True

    mirrors[0].fault = stall
    told = []
    assert fetch(*mirrors, told=told) == DATA
    assert "no answer in time" in told[0]


def test_a_server_without_the_blob_is_passed_over_at_once(mirrors):
    mirrors[1].add(DATA)
    assert fetch(*mirrors) == DATA
    assert len(mirrors[0].requests) == 1


def test_a_server_that_is_not_there_is_passed_over(mirrors):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}/blobs"
    mirrors[0].add(DATA)
    assert fetch(nobody, mirrors[0]) == DATA


def test_wrong_bytes_are_fetched_again_from_another_server(mirrors):
    mirrors[0].blobs["/blobs/" + BLOB.digest.replace(":", "/")] = DATA[:-1] + b"!"
    mirrors[1].add(DATA)
    told = []
    assert fetch(*mirrors, before=b"x", told=told) == b"x" + DATA
    assert told[0].startswith("layer 0: found digest sha256:")


@pytest.mark.parametrize(
    ("tampered", "told"),
    [
        (DATA[:-1] + b"!", "layer 0: found digest"),
        (b"!" + DATA[1:], "layer 0: found digest"),
        (DATA + b"!", f"layer 0: more than the {len(DATA)} bytes"),
    ],
)
def test_wrong_bytes_everywhere_are_refused_and_leave_nothing(mirrors, tampered, told):
    for mirror in mirrors:
        mirror.blobs["/blobs/" + BLOB.digest.replace(":", "/")] = tampered
    with pytest.raises(VerificationError, match=told):
        fetch(*mirrors, before=b"before")
    assert fetch.file == b"before"


def test_a_truncated_file_is_not_had(mirrors):
    mirrors[0].blobs["/blobs/" + BLOB.digest.replace(":", "/")] = DATA[:-1]
    with pytest.raises(NetworkError, match=r"layer 0: cannot be had: .*answered 416"):
        fetch(mirrors[0], before=b"before")
    assert fetch.file == b"before"


def test_a_server_in_trouble_is_tried_again(mirrors):
    mirrors[0].add(DATA)
    left = [2]

    def fault(handler, data, offset):
        left[0] -= 1
        if left[0] >= 0:
            handler.reply(b"busy", 503)
        return left[0] >= 0

    mirrors[0].fault = fault
    assert fetch(mirrors[0]) == DATA


def test_another_range_than_asked_for_is_not_taken(mirrors):
    mirrors[0].add(DATA)
    broken = breaks_after(70_000)

    def fault(handler, data, offset):
        if not offset:
            return broken(handler, data, offset)
        handler.reply(data[5:], 206, {"Content-Range": f"bytes 5-{len(data) - 1}/{len(data)}"})
        return True

    mirrors[0].fault = fault
    with pytest.raises(NetworkError, match="expected one from 70000"):
        fetch(mirrors[0])


def test_no_server_named_is_told():
    with pytest.raises(NetworkError, match="names no server"):
        fetch()
    with pytest.raises(NetworkError, match="from nowhere"):
        Fetcher([], tell=print).fetch_small(BLOB.digest, limit_bytes=10, where="manifest")


def test_small_blobs_are_bounded_and_verified(mirrors):
    path = "/blobs/" + BLOB.digest.replace(":", "/")
    mirrors[0].blobs[path] = b"other"
    mirrors[1].add(DATA)
    fetcher = Fetcher([mirror.base for mirror in mirrors], tell=[].append, patience=IMPATIENT)
    assert fetcher.fetch_small(BLOB.digest, limit_bytes=10**6, where="manifest") == DATA
    with pytest.raises(VerificationError, match="manifest: found more than 100 bytes"):
        Fetcher([mirrors[1].base], tell=[].append).fetch_small(
            BLOB.digest, limit_bytes=100, where="manifest"
        )


@pytest.mark.parametrize("base", ["ftp://127.0.0.1/x", "http://", "http://h:port/", "blobs"])
def test_what_is_no_web_address_is_refused(base):
    with pytest.raises(AbsentError):
        connect(base, 1)


def test_a_full_memory_is_told():
    full = pytest.raises(VnfsbuildError, match="layer 0: cannot be kept: No space left")
    with open("/dev/full", "wb", buffering=0) as file, full:
        write_all(file, b"x", where="layer 0")
