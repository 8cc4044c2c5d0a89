"""ustar: one spelling of a header, which other programs read."""

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vnfsbuild.errors import InputError, VerificationError
from vnfsbuild.ustar import BLOCK_BYTES, END, MAX_FILE_BYTES, padding, parse_header, render_header

part = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=20)
names = st.lists(part, min_size=1, max_size=6).map("/".join)


def test_the_bytes_of_a_header():
    assert render_header("index.json", 300) == (
        b"index.json".ljust(100, b"\0")
        + b"0000644\0" + b"0000000\0" + b"0000000\0"
        + b"00000000454\0" + b"00000000000\0"
        + b"011212\0 " + b"0" + bytes(100)
        + b"ustar\x0000" + bytes(64)
        + b"0000000\0" + b"0000000\0" + bytes(155) + bytes(12)
    )  # fmt: skip


@given(names, st.integers(0, MAX_FILE_BYTES))
def test_a_header_is_read_back(name, size_bytes):
    try:
        header = render_header(name, size_bytes)
    except InputError:
        assert len(name.encode()) > 100
        return
    assert len(header) == BLOCK_BYTES
    assert parse_header(header, where="x") == (name, size_bytes)


@given(st.lists(st.tuples(names, st.binary(max_size=1100)), max_size=3))
def test_another_program_reads_what_was_written(files):
    data = b""
    for name, content in files:
        try:
            data += render_header(name, len(content)) + content + padding(len(content))
        except InputError:
            return
    with tarfile.open(fileobj=io.BytesIO(data + END)) as tar:
        found = [(item.name, tar.extractfile(item).read(), item.mode) for item in tar]
    assert found == [(name, content, 0o644) for name, content in files]


def test_not_one_bit_of_a_header_may_differ():
    header = render_header("a/b", 77)
    for position in range(BLOCK_BYTES * 8):
        flipped = bytearray(header)
        flipped[position // 8] ^= 1 << position % 8
        try:
            found = parse_header(bytes(flipped), where="here")
        except VerificationError:
            continue
        raise AssertionError(f"bit {position} may be flipped: {found}")


def test_a_long_name_is_parted_at_a_slash():
    name = "d" * 60 + "/" + "e" * 60 + "/" + "f" * 80
    header = render_header(name, 0)
    assert header[:100].rstrip(b"\0") == b"f" * 80
    assert parse_header(header, where="x") == (name, 0)


@pytest.mark.parametrize(
    "bad", ["", "a" * 101, "a/" + "b" * 101, ("d" * 90 + "/") * 3 + "e", "a\0b"]
)
def test_a_name_that_the_format_cannot_express_is_refused(bad):
    with pytest.raises(InputError):
        render_header(bad, 0)


@pytest.mark.parametrize("bad", [-1, MAX_FILE_BYTES + 1])
def test_a_size_that_the_format_cannot_express_is_refused(bad):
    with pytest.raises(InputError, match="expected less than 8 GiB"):
        render_header("a", bad)


@pytest.mark.parametrize("block", [b"", bytes(512), b"\xff" * 512, b"x" * 511])
def test_rubbish_is_no_header(block):
    with pytest.raises(VerificationError, match=r"^here: "):
        parse_header(block, where="here")
