"""Chunks: cut as docs/chunks.md says, listed in one way only, and fetched where that pays."""

import hashlib
import io
import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vnfsbuild import manifest as m
from vnfsbuild.digest import digest_of, render_json
from vnfsbuild.errors import VerificationError
from vnfsbuild.transfer.chunks import (
    AVERAGE_BYTES,
    LEAST_BYTES,
    MOST_BYTES,
    PART_BYTES,
    REQUEST_BYTES,
    Chunk,
    choose_fetch,
    chunked_payloads,
    cut,
    most_index_bytes,
    name_chunk,
    parse_chunk_index,
    render_chunk_index,
)

VECTOR = b"".join(hashlib.sha256(number.to_bytes(8, "big")).digest() for number in range(8192))
VECTOR_CHUNKS = [
    (27247, "fb552a2a32bf09de4977e0e5436a7d56"),
    (18376, "7f642461312411081d95ce8fd3cc306d"),
    (41183, "222535200673fb88b67bf03193fa0ec4"),
    (20403, "cfdd8d0a422836dafdb71c77481a25e0"),
    (29221, "b4136d1d5afe638034bf76f801294d6b"),
    (20651, "34d63377d3175968b16ae3455f89cbae"),
    (39606, "18f70f61305b35eba2517ad8ca8255a4"),
    (15969, "dc5bcaed61af7ca3e272e584cbd7dfa5"),
    (23994, "3b1d886691c6ac4aea43bd42cefd943f"),
    (4644, "5c72b9bbe16513ffe2650d9a78a25ce4"),
    (18327, "9e7ad05eedb95b3b5ac22f53ea576a33"),
    (2523, "169e36a2e9a4aa39443fe205f080c4d9"),
]

GEAR = [
    int.from_bytes(hashlib.md5(bytes([byte] * 64), usedforsecurity=False).digest()[:8], "big")
    for byte in range(256)
]


def cut_by_the_book(data):
    """Return the sizes of the chunks of *data*, by docs/chunks.md and nothing else."""
    sizes = []
    start = 0
    while start < len(data):
        count = min(len(data) - start, MOST_BYTES)
        size = count
        if len(data) - start > LEAST_BYTES:
            found = 0
            for offset in range(LEAST_BYTES, count - count % 2):
                found = (2 * found + GEAR[data[start + offset]]) % 2**64
                middle = min(AVERAGE_BYTES, count)
                early = offset < middle - middle % 2
                if found & (0x0000D90F03530000 if early else 0x0000D90303530000) == 0:
                    size = offset
                    break
        sizes.append(size)
        start += size
    return sizes


def sizes_of(data):
    return [chunk.size_bytes for chunk in cut(io.BytesIO(data))]


def test_the_vector_of_the_docs_is_cut_as_it_says():
    found = [(chunk.size_bytes, chunk.name.hex()) for chunk in cut(io.BytesIO(VECTOR))]
    assert found == VECTOR_CHUNKS
    text = render_chunk_index({digest_of(VECTOR): tuple(cut(io.BytesIO(VECTOR)))})
    assert len(text) == 635
    assert digest_of(text) == (
        "sha256:4ae8f297df266e168896a87e36eee5fe772c9b6cac24a3b469f01a5e86cd1067"
    )


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        bytes(LEAST_BYTES),
        bytes(LEAST_BYTES + 1),
        bytes(2 * MOST_BYTES + 3),
        random.Random(1).randbytes(300_001),
        random.Random(2).randbytes(AVERAGE_BYTES - 1),
        random.Random(3).randbytes(LEAST_BYTES + 1) * 7,
        bytes(100_000) + random.Random(4).randbytes(50_001) + b"ab" * 40_000,
    ],
    ids=range(9),
)
def test_the_library_cuts_where_the_book_says(data):
    assert sizes_of(data) == cut_by_the_book(data)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 120_000), st.integers(1, 256))
def test_the_library_cuts_anything_where_the_book_says(seed, size, letters):
    chance = random.Random(seed)
    data = bytes(chance.choices(range(letters), k=size))
    assert sizes_of(data) == cut_by_the_book(data)


def test_a_stream_that_comes_in_small_reads_is_cut_in_the_same_places():
    class Slow(io.RawIOBase):
        def __init__(self, data):
            self.rest = io.BytesIO(data)

        def readinto(self, buffer):
            return self.rest.readinto(memoryview(buffer)[:1000])

    hasher = hashlib.sha256()
    found = [chunk.size_bytes for chunk in cut(Slow(VECTOR), hasher)]
    assert found == [size for size, _ in VECTOR_CHUNKS]
    assert hasher.digest() == hashlib.sha256(VECTOR).digest()


def test_what_is_put_in_the_front_changes_little_of_what_follows():
    before = {chunk.name for chunk in cut(io.BytesIO(VECTOR))}
    after = [chunk.name for chunk in cut(io.BytesIO(b"three packages" + VECTOR))]
    assert len([name for name in after if name not in before]) == 1


# The index.


def make_manifest(*layers):
    blobs = [b"source", b"kernel", b"initrd", *layers]
    kinds = [m.SOURCE, m.KERNEL, m.INITRD, *[m.LAYER_SQUASHFS] * len(layers)]
    return m.Manifest(
        artifact_type=m.CAPSULE,
        config=m.Descriptor(m.CONFIG, digest_of(b"c"), 1),
        payloads=tuple(
            m.Descriptor(kind, digest_of(blob), len(blob))
            for kind, blob in zip(kinds, blobs, strict=True)
        ),
    )


@pytest.fixture(scope="module")
def indexed():
    """Return a manifest and the index of its payloads."""
    blobs = [b"kernel", b"initrd", VECTOR, b"modules"]
    return make_manifest(VECTOR, b"modules"), {
        digest_of(blob): tuple(cut(io.BytesIO(blob))) for blob in blobs
    }


def test_an_index_is_read_as_it_was_written_and_lists_all_payloads_but_the_source(indexed):
    manifest, index = indexed
    assert parse_chunk_index(render_chunk_index(index), manifest, where="index") == index
    assert list(index) == [payload.digest for payload in chunked_payloads(manifest)]
    assert digest_of(b"source") not in index


def replace(index, position, chunks):
    digest = list(index)[position]
    return {**index, digest: tuple(chunks)}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda index: dict(list(index.items())[1:]), "other payloads"),
        (lambda index: dict(reversed(index.items())), "other payloads"),
        (lambda index: {**index, digest_of(b"more"): ()}, "other payloads"),
        (lambda index: replace(index, 0, []), "do not add up|have 0 bytes"),
        (lambda index: replace(index, 0, [Chunk(bytes(16), 7)]), "have 7 bytes"),
        (lambda index: replace(index, 0, [Chunk(bytes(16), 3)] * 2), "of a size"),
        (
            lambda index: replace(
                index, 2, [Chunk(bytes(16), 70_000), Chunk(bytes(16), len(VECTOR) - 70_000)]
            ),
            "of a size",
        ),
        (lambda index: replace(index, 0, [Chunk(bytes(15), 6)]), "not a chunk index"),
    ],
    ids=range(8),
)
def test_an_index_that_cannot_be_right_is_refused(indexed, change, told):
    manifest, index = indexed
    with pytest.raises(VerificationError, match=told):
        parse_chunk_index(render_chunk_index(change(index)), manifest, where="index")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{}",
        b'{"blobs":[1]}',
        b'{"blobs":[{"chunks":[["zz",1]],"digest":"sha256:%s","size":1}]}' % (b"0" * 64),
        b'{"blobs":[{"chunks":[[1,1]],"digest":"sha256:%s","size":1}]}' % (b"0" * 64),
        b'{"blobs":[{"chunks":[["%s",true]],"digest":"sha256:%s","size":1}]}'
        % (b"0" * 32, b"0" * 64),
        b'{"blobs":[],"more":1}',
    ],
)
def test_what_is_no_index_is_refused(indexed, text):
    with pytest.raises(VerificationError):
        parse_chunk_index(text, indexed[0], where="index")


def test_an_index_in_another_form_or_absurdly_long_is_refused(indexed):
    manifest, index = indexed
    text = render_chunk_index(index)
    with pytest.raises(VerificationError, match="canonical"):
        parse_chunk_index(text.replace(b":[[", b": [["), manifest, where="index")
    limit_bytes = most_index_bytes(manifest)
    with pytest.raises(VerificationError, match=f"more than {limit_bytes} bytes"):
        parse_chunk_index(bytes(limit_bytes + 1), manifest, where="index")


def test_the_finest_index_that_cutting_could_give_is_within_the_limit():
    layer = m.Descriptor(m.LAYER_SQUASHFS, digest_of(b""), 10_000 * LEAST_BYTES)
    small = make_manifest(b"")
    manifest = m.Manifest(small.artifact_type, small.config, (*small.payloads[:3], layer))
    value = {
        "blobs": [
            {
                "chunks": [["0" * 32, LEAST_BYTES]] * 10_000,
                "digest": layer.digest,
                "size": layer.size_bytes,
            }
        ]
        * 3
    }
    assert len(render_json(value)) / 3 < most_index_bytes(manifest)


# What to fetch.

chunk_lists = st.lists(
    st.tuples(st.integers(0, 40), st.integers(LEAST_BYTES, MOST_BYTES)), max_size=60
).map(lambda rows: [Chunk(name_chunk(bytes([number])), size) for number, size in rows])


@given(chunk_lists, st.sets(st.integers(0, 40)))
def test_all_that_is_missing_is_fetched_in_order_and_once(chunks, numbers):
    have = {name_chunk(bytes([number])) for number in numbers}
    plan = choose_fetch(chunks, have)
    fetched = [piece for part in plan.ranges for piece in part]
    places = [piece.first_byte for piece in fetched]
    assert places == sorted(set(places))
    position = 0
    for chunk in chunks:
        assert chunk.name in have or position in places
        position += chunk.size_bytes
    for part in plan.ranges:
        for piece, following in itertools.pairwise(part):
            assert piece.first_byte + piece.chunk.size_bytes == following.first_byte
        assert sum(piece.chunk.size_bytes for piece in part) <= PART_BYTES
        assert part[0].chunk.name not in have or part[0].first_byte > 0
    total = sum(chunk.size_bytes for chunk in chunks)
    assert plan.size_bytes <= total
    if not plan.whole:
        assert plan.size_bytes <= total * 15 / 16 + REQUEST_BYTES


def row(size, *letters):
    """Return chunks that are called by a letter each; capital ones are missing."""
    chunks = [Chunk(letter.encode().ljust(16), size) for letter in letters]
    return chunks, {chunk.name for chunk in chunks if chunk.name.strip().islower()}


def test_near_ranges_become_one_request_and_far_ones_do_not():
    size = REQUEST_BYTES // 2
    chunks, have = row(size, *"aBccDeeeeeeeF", *"g" * 50)
    parts = choose_fetch(chunks, have).ranges
    assert [(part[0].first_byte // size, len(part)) for part in parts] == [(1, 4), (12, 1)]


def test_nothing_is_asked_for_where_all_is_here_and_all_at_once_where_nothing_is():
    chunks, have = row(MOST_BYTES, *"abc")
    assert choose_fetch(chunks, have) == choose_fetch([], set())
    assert choose_fetch(chunks, have).ranges == ()
    assert not choose_fetch(chunks, have).whole
    assert choose_fetch(chunks, set()).whole


def test_the_whole_is_taken_where_chunks_do_not_pay():
    # Each second chunk is here, but to leave it out costs a request that is as dear.
    chunks, have = row(REQUEST_BYTES, *"AbCdEfGhI")
    assert choose_fetch(chunks, have).whole
    chunks, have = row(2 * REQUEST_BYTES, *"AbCdEfGhI")
    assert not choose_fetch(chunks, have).whole
    # One of twenty is here: a new kernel's modules. Less than a sixteenth would be saved.
    chunks, have = row(MOST_BYTES, *"ABCDEFGHIJKLMNOPQRSt")
    assert choose_fetch(chunks, have).whole


def test_long_ranges_are_split_for_several_connections():
    chunks, have = row(MOST_BYTES, *"A" * 200, *"b" * 100)
    plan = choose_fetch(chunks, have)
    assert len(plan.ranges) == 4
    assert not plan.whole
