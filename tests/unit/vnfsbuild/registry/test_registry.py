"""Reading from a registry: patience, ranges, and answers that are not what was asked for."""

import contextlib
import json
import random

import pytest

from vnfsbuild.errors import VerificationError
from vnfsbuild.registry.answer import RegistryError, retry_after
from vnfsbuild.registry.http import Patience
from vnfsbuild.registry.reader import BlobReader

from .registries import (
    blob_of,
    digest_of,
    put,
    read,
    sends,
)


def failing(times, fail):
    """A twist that does *fail* to the first requests for a blob."""
    left = [times]

    def twist(request):
        if "/blobs/" not in request.path or left[0] == 0:
            return False
        left[0] -= 1
        fail(request)
        return True

    return twist


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_busy_registry_is_asked_again(registry, status):
    blob = put(registry, b"hello")
    registry.twist = failing(3, lambda request: request.error(status))
    assert read(registry, blob) == b"hello"
    registry.twist = failing(4, lambda request: request.error(status))
    with pytest.raises(RegistryError, match=str(status)):
        read(registry, blob)


@pytest.mark.parametrize("status", [400, 403, 404, 418])
def test_other_errors_are_final_and_told(registry, status):
    def fail(request):
        body = {"errors": [{"code": "DENIED", "message": "no \x1b[31mway\r\n" + "x" * 900}]}
        request.answer(status, json.dumps(body).encode())

    registry.twist = failing(9, fail)
    with pytest.raises(RegistryError, match=rf"{status} DENIED: no  \[31mway") as caught:
        read(registry, blob_of(b"hello"))
    assert len(registry.asked) == 1
    assert len(str(caught.value)) < 400
    assert caught.value.message.isprintable()


def test_retry_after():
    assert retry_after("7", 0) == 7
    assert retry_after("Thu, 01 Jan 1970 00:01:40 GMT", 40) == 60
    assert retry_after("Thu, 01 Jan 1970 00:00:00 GMT", 40) == 0
    assert retry_after("soon", 0) == retry_after(None, 0) == 0
    # What Python takes for digits, and what is too long for it; and a year that no clock has.
    for text in ("\u00b2", "9" * 5000, "Thu, 01 Jan 99999999999999999999 00:00:00 GMT"):
        assert retry_after(text, 0) == 0


def test_patience_grows_up_to_a_bound_and_is_never_the_same():
    patience = Patience(first_seconds=1.0)
    pauses = [patience.pause(attempt) for attempt in range(1, 12)]
    assert all(0.5 * 2**n <= pause <= 2**n for n, pause in enumerate(pauses[:4]))
    assert max(pauses) <= 30
    assert patience.pause(1, asked_seconds=9.0) == 9.0
    assert patience.pause(1, asked_seconds=1e9) == 120.0
    assert len({patience.pause(3) for _ in range(5)}) > 1


def test_a_wrong_port_is_told_at_once(registry):
    registry.server.server_close()
    with pytest.raises(RegistryError, match="Connection refused"):
        read(registry, blob_of(b"hello"), settle_seconds=0)
    assert not registry.asked


def test_a_broken_connection_goes_on_where_it_broke(registry):
    data = random.Random(1).randbytes(3 * 1024 * 1024)
    blob = put(registry, data)

    def fail(request):
        part = request.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        first = int(part[0])
        sent = data[first : first + 1_200_000]
        request.send_response(206 if first else 200)
        request.send_header("Content-Length", str(len(data) - first))
        request.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        request.end_headers()
        request.wfile.write(sent)
        request.cut()

    registry.twist = failing(2, fail)
    assert read(registry, blob) == data
    ranges = [headers.get("Range") for _, _, headers in registry.asked]
    assert ranges[0] is None
    assert ranges[1].startswith("bytes=1") and ranges[2].startswith("bytes=2")  # noqa: PT018


def test_a_registry_without_ranges(registry):
    registry.ranges = False
    blob = put(registry, b"0123456789")
    assert read(registry, blob, first=4) == b"456789", "goes on, at the price of what is before"
    with pytest.raises(RegistryError, match="no range requests"):
        read(registry, blob, first=4, count=2)
    assert not BlobReader(registry.repository(), blob).answers_ranges()
    registry.ranges = True
    assert BlobReader(registry.repository(), blob).answers_ranges()
    assert read(registry, blob, first=4, count=2) == b"45"


@pytest.mark.parametrize(
    "twist",
    [
        sends(b"hellO"),
        sends(b"hello, and more"),
        sends(b""),
        lambda request: request.answer(206, b"ello", Content_Range="bytes 1-4/5") or True,
        lambda request: (request.answer(200, b"hel", Content_Length=5), request.cut()),
        lambda request: request.answer(204) or True,
    ],
)
def test_a_small_blob_that_is_another_one(registry, twist):
    registry.twist = twist
    with pytest.raises((VerificationError, RegistryError)):
        registry.repository().get_blob(blob_of(b"hello"))


def test_a_manifest_without_an_end_or_too_large(registry):
    def endless(request):
        request.send_response(200)
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        with contextlib.suppress(OSError):
            while True:
                request.wfile.write(b"100000\r\n" + bytes(0x100000) + b"\r\n")
        request.close_connection = True
        return True

    registry.twist = endless
    with pytest.raises(RegistryError, match="more than 4194304 bytes"):
        registry.repository().get_manifest("1")


def test_manifests_are_compared_with_the_digest_asked_for_and_told(registry):
    registry.twist = sends(b"{}")
    with pytest.raises(VerificationError, match="found digest"):
        registry.repository().get_manifest(digest_of(b"other"))
    registry.twist = sends(b"{}", Docker_Content_Digest=digest_of(b"other"))
    with pytest.raises(VerificationError, match="the registry says"):
        registry.repository().get_manifest("1")
