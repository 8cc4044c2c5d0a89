"""What a server, an index or a store says wrongly costs time, and nothing else."""

import hashlib

import pytest

from vnfsbuild.errors import VerificationError
from vnfsbuild.manifest import LAYER_SQUASHFS, Descriptor
from vnfsbuild.reference import parse_reference as ref
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

from .published import KERNEL, MEGABYTE, MODULES, NEWER, ROOTFS, require_same


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
