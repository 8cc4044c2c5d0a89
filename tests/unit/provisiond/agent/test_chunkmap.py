"""The node reads the index that vnfsbuild writes."""

import hashlib
import io

import pytest

from provisiond.agent.chunkmap import name_piece, parse_chunk_map
from vnfsbuild.digest import digest_of, render_json
from vnfsbuild.errors import VerificationError
from vnfsbuild.manifest import LAYER_SQUASHFS, Descriptor
from vnfsbuild.transfer.chunks import cut, render_chunk_index

DATA = b"".join(hashlib.sha256(n.to_bytes(8, "big")).digest() for n in range(8192))
BLOB = Descriptor(LAYER_SQUASHFS, digest_of(DATA), len(DATA))


def test_what_vnfsbuild_writes_is_read_and_every_piece_is_where_it_says():
    other = digest_of(b"other")
    chunks = tuple(cut(io.BytesIO(DATA)))
    index = render_chunk_index({other: (), BLOB.digest: chunks})
    pieces = parse_chunk_map(index, BLOB)
    assert [(piece.size_bytes, piece.name) for piece in pieces] == [
        (chunk.size_bytes, chunk.name) for chunk in chunks
    ]
    for piece in pieces:
        data = DATA[piece.first_byte : piece.first_byte + piece.size_bytes]
        assert name_piece(data) == piece.name
    assert sum(piece.size_bytes for piece in pieces) == len(DATA)


def listing(chunks, digest=BLOB.digest):
    return render_json({"blobs": [{"chunks": chunks, "digest": digest, "size": len(DATA)}]})


NAME = "0" * 32


@pytest.mark.parametrize(
    "data",
    [
        b"[]",
        b"{}",
        b"{ }",
        listing([]),
        listing([[NAME, len(DATA)]]),
        listing([[NAME, 65536]] * 3),
        listing([[NAME, 65536]] * 3 + [[NAME[2:], 65536]]),
        listing([[NAME, 65536]] * 3 + [["x" * 32, 65536]]),
        listing([[NAME, 65536]] * 5 + [[NAME, -65536]]),
        listing([[NAME, True]]),
        listing([[NAME, 65536]] * 4, digest_of(b"other")),
        render_json({"blobs": [7]}),
    ],
)
def test_what_does_not_make_up_the_blob_is_refused(data):
    with pytest.raises(VerificationError):
        parse_chunk_map(data, BLOB)


def test_the_least_listing_that_is_right_is_taken():
    assert len(parse_chunk_map(listing([[NAME, 65536]] * 4), BLOB)) == 4
