"""Layers are read as they were packed, and a damaged one leads to an error and nothing worse."""

import contextlib
import os
import random
import stat
import struct

import pytest
import pyzstd

from vnfsbuild.digest import digest_of
from vnfsbuild.errors import VerificationError
from vnfsbuild.manifest import INITRD, SOURCE
from vnfsbuild.newc import render_entry, render_trailer
from vnfsbuild.unpack.archives import Archive
from vnfsbuild.unpack.erofs import Erofs
from vnfsbuild.unpack.piece import Piece
from vnfsbuild.unpack.squashfs import Squashfs

from .layer_vectors import FILES, OUT, UPPER, lower_entries, upper_entries

READERS = {"squashfs": Squashfs, "erofs": Erofs}


@pytest.fixture
def open_piece(tmp_path):
    with contextlib.ExitStack() as stack:

        def open_piece(data, *, before=b"", after=b""):
            path = tmp_path / "piece"
            path.write_bytes(before + data + after)
            file = stack.enter_context(path.open("rb"))
            return Piece(
                descriptor=file.fileno(), offset=len(before), size_bytes=len(data), where="toy"
            )

        yield open_piece


def vector(name):
    return (OUT / name).read_bytes()


def facts(entry):
    return (
        oct(entry.mode), entry.uid, entry.gid, entry.mtime, entry.size_bytes, entry.target,
        entry.device, dict(entry.xattrs),
    )  # fmt: skip


@pytest.mark.parametrize("ending", READERS)
@pytest.mark.parametrize(("name", "wanted"), [("lower", lower_entries), ("upper", upper_entries)])
def test_a_layer_is_listed_as_it_was_packed(name, wanted, ending, open_piece):
    found = READERS[ending](open_piece(vector(f"{name}.{ending}"))).list_entries()
    assert {entry.path: facts(entry) for entry in found} == {
        entry.path: facts(entry) for entry in wanted()
    }
    assert found[0].path == "."
    assert len({entry.path for entry in found}) == len(found)


@pytest.mark.parametrize("ending", READERS)
def test_two_names_of_one_file_are_told_by_its_number(ending, open_piece):
    entries = READERS[ending](open_piece(vector(f"lower.{ending}"))).list_entries()
    numbers = {entry.path: entry.inode for entry in entries}
    assert numbers["usr/bin/ping"] == numbers["usr/bin/ping4"]
    assert len(set(numbers.values())) == len(numbers) - 1


@pytest.mark.parametrize(("name", "wanted"), [("lower", FILES), ("upper", UPPER)])
def test_contents_are_those_that_were_packed(name, wanted, open_piece):
    # In the midst of a larger file, as it is in a .vnfs file.
    image = Squashfs(open_piece(vector(f"{name}.squashfs"), before=b"x" * 1000, after=b"y" * 9))
    image.list_entries()
    for path, data in wanted.items():
        assert b"".join(image.read_file(path)) == data, path


def test_all_blocks_of_a_large_file_are_read(open_piece):
    image = Squashfs(open_piece(vector("lower.squashfs")))
    image.list_entries()
    assert len(FILES["usr/share/large"]) > 128 * 1024
    assert [len(data) for data in image.read_file("usr/share/sparse")] == [131072, 131072, 3]


@pytest.mark.parametrize("ending", READERS)
def test_what_is_none_is_refused(ending, open_piece):
    for data in (b"", b"x" * 200, b"x" * 8192, vector(f"lower.{ending}")[:1100]):
        with pytest.raises(VerificationError, match="toy: cannot be read"):
            READERS[ending](open_piece(data)).list_entries()


@pytest.mark.parametrize("ending", READERS)
def test_a_damaged_layer_gives_an_error_and_nothing_worse(ending, open_piece):
    whole = vector(f"lower.{ending}")
    chance = random.Random(4)
    refused = 0
    for number in range(300):
        data = bytearray(whole)
        # Half of them in the headers, where most of the harm can be done.
        limit = len(data) if number % 2 else 1200
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(limit)] = chance.randrange(256)
        if number % 5 == 0:
            data = data[: chance.randrange(len(data))]
        try:
            image = READERS[ending](open_piece(bytes(data)))
            for entry in image.list_entries():
                if ending == "squashfs" and stat.S_ISREG(entry.mode):
                    for _ in image.read_file(entry.path):
                        pass
        except VerificationError:
            refused += 1
    assert refused > 50


def test_a_directory_in_itself_is_refused(open_piece):
    data = bytearray(vector("upper.erofs"))
    # The names in the root are ".", "..", "etc", "new", "usr"; now the third is the root itself.
    (root,) = struct.unpack_from("<H", data, 1024 + 14)
    start = data.index(struct.pack("<QH", root, 5 * 12))
    data[start + 24 : start + 32] = struct.pack("<Q", root)
    with pytest.raises(VerificationError, match="two names"):
        Erofs(open_piece(bytes(data))).list_entries()


def test_a_piece_ends_where_it_ends(open_piece):
    piece = open_piece(b"inside", before=b"before", after=b"after")
    assert piece.read(2, 4) == b"side"
    for start, count in ((-1, 2), (0, 7), (6, 1), (3, -1)):
        with pytest.raises(VerificationError):
            piece.read(start, count)
    assert b"".join(piece.chunks()) == b"inside"


def make_initrd():
    one = render_entry("init", 0o100755, b"#!/bin/sh\n") + render_entry("lib", 0o120777, b"usr/lib")
    two = render_entry("./dir/file", 0o100600, b"abc") + render_entry("init", 0o100755, b"later")
    parts = [one + render_trailer() + bytes(100), two + render_trailer()]
    return b"".join(pyzstd.compress(part) + bytes(3) for part in parts)


def test_an_initrd_is_read_to_its_end_as_the_kernel_does(open_piece):
    archive = Archive(open_piece(make_initrd()), INITRD)
    found = {entry.path: entry for entry in archive.entries}
    assert set(found) == {"init", "lib", "dir/file"}
    assert (found["lib"].target, found["lib"].size_bytes) == ("usr/lib", 0)
    assert b"".join(archive.read_file("init")) == b"later"
    assert archive.digest_files(["dir/file"]) == {"dir/file": digest_of(b"abc")}


@pytest.mark.parametrize("cut", [1, 20, 60, 100])
def test_a_damaged_archive_is_refused(cut, open_piece):
    data = make_initrd()
    with pytest.raises(VerificationError, match="toy"):
        Archive(open_piece(data[:-cut] + b"junk"), INITRD)
    with pytest.raises(VerificationError, match="toy"):
        Archive(open_piece(b"rubbish" * 100), SOURCE)


def test_the_vectors_hold_what_is_hard():
    assert any(os.fsencode(path) != path.encode("utf-8", "replace") for path in FILES)
    assert any("\n" in path for path in FILES)
