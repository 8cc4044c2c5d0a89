"""Blobs over real sockets: resumed, failed over, refused."""

import contextlib
import dataclasses
import hashlib
import io
import socket
import time

import pytest

from provisiond.agent.client import NetworkError
from provisiond.agent.distrust import Distrust
from provisiond.agent.fetch import Fetcher, Patience
from provisiond.agent.landing import write_all
from provisiond.agent.sources import AbsentError, HttpSource, connect, parse_retry_after
from vnfsbuild.digest import digest_of, render_json
from vnfsbuild.errors import VerificationError, VnfsbuildError
from vnfsbuild.manifest import LAYER_SQUASHFS, Descriptor

DATA = bytes(range(256)) * 2000
BLOB = Descriptor(LAYER_SQUASHFS, digest_of(DATA), len(DATA))
IMPATIENT = Patience(stall_seconds=0.3, tries=3, least_delay_seconds=0.01, most_delay_seconds=0.02)


def fetch(*mirrors, before=b"", told=None, patience=IMPATIENT, **settings):
    told = [] if told is None else told
    file = io.BytesIO(before)
    file.seek(0, io.SEEK_END)
    bases = [getattr(mirror, "base", mirror) for mirror in mirrors]
    fetcher = Fetcher(bases, tell=told.append, patience=patience, **settings)
    try:
        fetcher.fetch_into(file, BLOB, where="layer 0")
        assert file.tell() == len(before) + len(DATA), "what follows is appended"
    finally:
        fetcher.close()
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
    assert mirrors[1].requests[0][1] == "bytes=1000-"
    assert told[0] == (
        f"layer 0: {mirrors[0].base}: broke off, {len(DATA) - 1000} bytes before the end; "
        f"going on with {mirrors[1].base}"
    )


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
    told = rf"layer 0: cannot be had: .*has {len(DATA) - 1} bytes, expected {len(DATA)}"
    with pytest.raises(NetworkError, match=told):
        fetch(mirrors[0], before=b"before")
    assert fetch.file == b"before"
    mirrors[1].add(DATA)
    assert fetch(*mirrors, before=b"before") == b"before" + DATA
    assert len(mirrors[0].requests) == 2, "it is not asked for the rest of it"


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
    with pytest.raises(NetworkError, match="manifest: the plan names no server"):
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


def test_a_small_blob_of_two_servers_is_asked_of_each_alone(mirrors):
    mirrors[0].blobs["/blobs/" + BLOB.digest.replace(":", "/")] = b"x" * len(DATA)
    mirrors[0].fault = breaks_after(100_000, times=10)
    mirrors[1].add(DATA)
    distrust = Distrust()
    fetcher = Fetcher(
        [mirror.base for mirror in mirrors], tell=[].append, patience=IMPATIENT, distrust=distrust
    )
    assert fetcher.fetch_small(BLOB.digest, limit_bytes=10**6, where="manifest") == DATA
    fetcher.close()
    assert distrust.report() == {"wrongMirrors": [f"{mirrors[0].base}: wrong bytes: manifest"]}


def test_who_has_more_than_is_taken_is_not_accused(mirrors):
    mirrors[0].add(DATA)
    distrust = Distrust()
    with pytest.raises(VerificationError, match="more than 100 bytes"):
        Fetcher([mirrors[0].base], tell=[].append, distrust=distrust).fetch_small(
            BLOB.digest, limit_bytes=100, where="chunk index"
        )
    assert not distrust.report()


@pytest.mark.parametrize("base", ["ftp://127.0.0.1/x", "http://", "http://h:port/", "blobs"])
def test_what_is_no_web_address_is_refused(base):
    with pytest.raises(AbsentError):
        connect(base)


def test_a_full_memory_is_told():
    full = pytest.raises(VnfsbuildError, match="layer 0: cannot be kept: No space left")
    with open("/dev/full", "wb", buffering=0) as file, full:
        write_all(file, b"x", where="layer 0")


def wrong_at(*places):
    """Return the blob with wrong bytes at *places*."""
    data = bytearray(DATA)
    for place in places:
        data[place] ^= 0xFF
    return bytes(data)


def give(mirror, data):
    mirror.blobs["/blobs/" + BLOB.digest.replace(":", "/")] = data


def make_index(data=DATA, size=50_000):
    pieces = [data[first : first + size] for first in range(0, len(data), size)]
    chunks = [[hashlib.sha256(piece).hexdigest()[:32], len(piece)] for piece in pieces]
    blob = {"chunks": chunks, "digest": BLOB.digest, "size": len(data)}
    return render_json({"blobs": [blob]})


def payload_requests(mirror):
    return [span for path, span in mirror.requests if BLOB.digest[7:] in path]


def test_with_an_index_only_the_wrong_range_is_fetched_from_another_server(mirrors):
    index = make_index()
    give(mirrors[0], wrong_at(120_000, 160_001, 400_000))
    mirrors[1].add(DATA, index)
    told, distrust = [], Distrust()
    chunks = digest_of(index)
    assert fetch(*mirrors, before=b"x", told=told, distrust=distrust, chunks=chunks) == b"x" + DATA
    assert payload_requests(mirrors[1]) == ["bytes=100000-199999", "bytes=400000-449999"]
    mended = "layer 0: 150000 bytes around wrong ones made good; they were from"
    assert f"{mended} {mirrors[0].base}" in told
    assert distrust.report() == {"wrongMirrors": [f"{mirrors[0].base}: wrong bytes: layer 0"]}


def test_an_index_that_lies_costs_time_and_nothing_else(mirrors):
    index = make_index(wrong_at(3))
    give(mirrors[0], wrong_at(120_000))
    mirrors[1].add(DATA, index)
    distrust = Distrust()
    assert fetch(*mirrors, distrust=distrust, chunks=digest_of(index)) == DATA
    assert [text.split(": ")[0] for text in distrust.report()["wrongMirrors"]] == [mirrors[0].base]


@pytest.mark.parametrize("index", [b"{}", b"no json", make_index(DATA[:-1])])
def test_an_index_that_is_none_is_passed_over(mirrors, index):
    give(mirrors[0], wrong_at(120_000))
    mirrors[1].add(DATA, index)
    assert fetch(*mirrors, chunks=digest_of(index)) == DATA
    assert payload_requests(mirrors[1]) == [None]


def test_wrong_at_the_same_place_everywhere_is_refused_with_an_index_too(mirrors):
    index = make_index()
    for mirror, place in zip(mirrors, (120_000, 120_001), strict=True):
        give(mirror, wrong_at(place))
        mirror.add(index)
    with pytest.raises(VerificationError, match="layer 0: found digest"):
        fetch(*mirrors, before=b"before", chunks=digest_of(index))
    assert fetch.file == b"before"


def test_of_two_who_brought_a_part_each_the_one_with_wrong_bytes_is_blamed(world, mirrors):
    third = world.Mirror()
    try:
        give(mirrors[0], DATA)
        mirrors[0].fault = breaks_after(100_000, times=99)
        give(mirrors[1], wrong_at(300_000))
        third.add(DATA)
        told, distrust = [], Distrust()
        assert fetch(*mirrors, third, told=told, distrust=distrust) == DATA
    finally:
        third.stop()
    assert f"from {', '.join(sorted(m.base for m in mirrors))})" in "".join(told)
    assert distrust.report()["wrongMirrors"] == [f"{mirrors[1].base}: wrong bytes: layer 0"]
    assert f"{mirrors[1].base}: gave wrong bytes: not asked again in this boot" in told


def test_who_gave_wrong_bytes_is_not_asked_again_while_another_is_there(mirrors):
    distrust = Distrust()
    give(mirrors[0], wrong_at(0))
    mirrors[1].add(DATA, b"config")
    mirrors[0].add(b"config")
    assert fetch(*mirrors, distrust=distrust) == DATA
    asked = len(mirrors[0].requests)
    bases = [mirror.base for mirror in mirrors]
    fetcher = Fetcher(bases, tell=[].append, patience=IMPATIENT, distrust=distrust)
    config = fetcher.fetch_small(digest_of(b"config"), limit_bytes=10, where="config")
    assert config == b"config"
    assert len(mirrors[0].requests) == asked
    mirrors[1].blobs.clear()
    with pytest.raises(NetworkError, match="answered 404"):
        fetch(*mirrors, distrust=distrust)
    assert len(mirrors[0].requests) == asked


def test_the_only_server_is_asked_again_when_it_was_mended(mirrors):
    distrust, told = Distrust(), []
    give(mirrors[0], wrong_at(0))
    with pytest.raises(VerificationError):
        fetch(mirrors[0], distrust=distrust, told=told)
    assert not any("not asked again" in line for line in told)
    give(mirrors[0], DATA)
    assert fetch(mirrors[0], distrust=distrust) == DATA


def test_bytes_that_drip_are_a_stalled_connection(mirrors):
    for mirror in mirrors:
        mirror.add(DATA)

    def drip(handler, data, offset):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        with contextlib.suppress(OSError):
            for position in range(200):
                handler.wfile.write(data[position : position + 1])
                time.sleep(0.02)
        return True

    mirrors[0].fault = drip
    told = []
    started = time.monotonic()
    assert fetch(*mirrors, told=told) == DATA
    assert time.monotonic() - started < 2
    assert "stalled: " in told[0]


def test_the_head_of_an_answer_that_drips_is_a_stalled_connection(mirrors):
    for mirror in mirrors:
        mirror.add(DATA)

    def drip(handler, data, offset):
        with contextlib.suppress(OSError):
            for letter in b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 200:
                handler.wfile.write(bytes([letter]))
                time.sleep(0.02)
        return True

    mirrors[0].fault = drip
    told = []
    started = time.monotonic()
    assert fetch(*mirrors, told=told) == DATA
    assert time.monotonic() - started < 2
    assert "no answer in time" in told[0]


def busy(times, seconds):
    left = [times]

    def fault(handler, data, offset):
        left[0] -= 1
        if left[0] >= 0:
            handler.reply(b"busy", 503, {"Retry-After": str(seconds)})
        return left[0] >= 0

    return fault


def test_a_server_is_not_asked_again_before_it_said(mirrors):
    mirrors[0].add(DATA)
    asked = []
    wait = busy(1, 1)

    def fault(handler, data, offset):
        asked.append(time.monotonic())
        return wait(handler, data, offset)

    mirrors[0].fault = fault
    told = []
    assert fetch(mirrors[0], told=told) == DATA
    assert 1 <= asked[1] - asked[0] < 2
    assert told == [
        f"layer 0: {mirrors[0].base}: answered 503 Service Unavailable; going on in 1 s"
    ]


def test_while_one_server_asks_for_time_another_is_asked(mirrors):
    for mirror in mirrors:
        mirror.add(DATA)
    mirrors[0].fault = busy(1, 300)
    started = time.monotonic()
    assert fetch(*mirrors) == DATA
    assert time.monotonic() - started < 2


def test_a_server_that_is_always_busy_is_given_up_in_the_end(mirrors):
    mirrors[0].add(DATA)
    mirrors[0].fault = busy(99, 0)
    patience = dataclasses.replace(IMPATIENT, most_wait_seconds=0.05)
    with pytest.raises(NetworkError, match=r"layer 0: cannot be had: .*answered 503"):
        fetch(mirrors[0], patience=patience)
    assert len(mirrors[0].requests) > IMPATIENT.tries


@pytest.mark.parametrize(
    ("text", "date", "seconds"),
    [
        ("17", None, 17),
        (" 0 ", None, 0),
        ("99999999999", None, 600),
        ("-5", None, None),
        ("soon", None, None),
        (None, None, None),
        ("Mon, 23 Nov 2026 04:00:30 GMT", "Mon, 23 Nov 2026 04:00:00 GMT", 30),
        ("Mon, 23 Nov 2026 03:00:30 GMT", "Mon, 23 Nov 2026 04:00:00 GMT", 0),
        ("Mon, 23 Nov 2026 04:00:30 GMT", None, None),
    ],
)
def test_when_to_come_again_is_a_number_or_a_moment(text, date, seconds):
    assert parse_retry_after(text, date) == seconds


def test_a_server_that_comes_back_goes_on_where_it_was(world, mirrors):
    """Killed in the middle of an answer, and started again at the same address."""
    mirrors[0].add(DATA)
    port = mirrors[0].http.server_address[1]
    mirrors[0].fault = breaks_after(200_000)
    again = []

    def tell(line):
        if not again:
            mirrors[0].stop()
            again.append(line)
        elif len(again) == 1:
            again.append(world.Mirror(port))
            again[1].add(DATA)

    file = io.BytesIO()
    patience = dataclasses.replace(IMPATIENT, tries=5)
    try:
        fetcher = Fetcher([mirrors[0].base], tell=tell, patience=patience)
        fetcher.fetch_into(file, BLOB, where="layer 0")
        assert [span for _, span in again[1].requests] == ["bytes=200000-"]
    finally:
        again[1].stop()
        mirrors[0] = world.Mirror()  # what the fixture stops
    assert file.getvalue() == DATA


def test_ranges_come_by_one_connection_and_from_the_next_server_when_it_breaks(mirrors):
    for mirror in mirrors:
        mirror.add(DATA)
        mirror.keep = True
    sources = [HttpSource(mirror.base, stall_seconds=1) for mirror in mirrors]
    fetcher = Fetcher(sources, tell=[].append, patience=IMPATIENT)
    for first in (0, 5000, 100_000):
        found = fetcher.read_range(BLOB.digest, first, 1000, where="layer 0")
        assert found == DATA[first : first + 1000]
    assert len(mirrors[0].connections) == 1
    mirrors[0].fault = breaks_after(10, times=99)
    assert fetcher.read_range(BLOB.digest, 7, 1000, where="layer 0") == DATA[7:1007]
    assert mirrors[1].requests[-1][1] == "bytes=17-1006"
    for source in sources:
        source.close()


def test_progress_goes_back_with_what_is_thrown_away(mirrors):
    give(mirrors[0], wrong_at(0))
    mirrors[1].add(DATA)
    counts = []
    fetch(*mirrors, advance=counts.append)
    assert sum(counts) == len(DATA)
    assert min(counts) == -len(DATA)
