"""A tree list as a tar stream: read back by another program, and byte by byte."""

import io
import os
import stat
import struct
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vnfsbuild.errors import VnfsbuildError
from vnfsbuild.layer import CAPABILITY, Entry
from vnfsbuild.pack.stream import render_entry, write_stream

PLAIN = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)


def entry(path, mode, **rest):
    values = {"uid": 0, "gid": 0, "mtime": 1_700_000_000, "size_bytes": 0, **rest}
    return Entry(path=path, mode=mode, **values)


def stream(entries, root):
    out = io.BytesIO()
    write_stream(entries, root, out)
    return out.getvalue()


def read(data):
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {member.name: member for member in tar.getmembers()}


def test_all_of_the_list_is_in_the_stream(tmp_path):
    (tmp_path / "f").write_bytes(b"hello")
    entries = [
        entry(".", stat.S_IFDIR | 0o755),
        entry("d", stat.S_IFDIR | 0o1777, uid=70_000, gid=2**31),
        entry("f", stat.S_IFREG | 0o4755, size_bytes=5, inode=9, xattrs={CAPABILITY: PLAIN}),
        entry("g", stat.S_IFREG | 0o4755, size_bytes=5, inode=9),
        entry("h", stat.S_IFCHR | 0o666, device=os.makedev(300, 70_000)),
        entry("i", stat.S_IFBLK | 0o600, device=os.makedev(8, 17)),
        entry("j", stat.S_IFIFO | 0o644),
        entry("k", stat.S_IFLNK | 0o777, target="f"),
        entry("l", stat.S_IFSOCK | 0o755),
    ]
    found = read(stream(entries, tmp_path))
    assert list(found) == ["d", "f", "g", "h", "i", "j", "k"]
    assert (found["d"].uid, found["d"].gid, found["d"].mode) == (70_000, 2**31, 0o1777)
    assert (found["f"].size, found["f"].mode, found["f"].mtime) == (5, 0o4755, 1_700_000_000)
    value = found["f"].pax_headers[f"SCHILY.xattr.{CAPABILITY}"]
    assert value.encode("utf-8", "surrogateescape") == PLAIN
    assert found["g"].islnk()
    assert found["g"].linkname == "f"
    assert (found["h"].devmajor, found["h"].devminor) == (300, 70_000)
    assert (found["i"].isblk(), found["i"].devmajor, found["i"].devminor) == (True, 8, 17)
    assert found["j"].isfifo()
    assert found["k"].linkname == "f"


# tar programs take a name that ends in a slash for a directory; no path of a list does.
NAMES = st.text(
    st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1, max_size=150
).filter(lambda name: name not in (".", ".."))


@given(name=NAMES, target=NAMES)
def test_any_name_comes_back(name, target):
    item = entry(name, stat.S_IFLNK | 0o777, target=target)
    found = read(render_entry(item) + bytes(1024))
    assert {name: target} == {path: member.linkname for path, member in found.items()}


def test_a_name_that_is_no_text_is_kept_byte_by_byte():
    path = os.fsdecode(b"a\xff\n" + b"b" * 120)
    assert os.fsencode(path) in render_entry(entry(path, stat.S_IFDIR | 0o755))


@given(value=st.binary(max_size=1200))
def test_the_number_in_front_of_a_record_counts_itself(value):
    item = entry("a", stat.S_IFREG | 0o644, xattrs={CAPABILITY: value})
    assert (
        read(render_entry(item) + bytes(1024))["a"]
        .pax_headers[f"SCHILY.xattr.{CAPABILITY}"]
        .encode("utf-8", "surrogateescape")
        == value
        or value[3:4] == b"\x03"
    )


def test_a_header_is_spelled_so():
    item = entry("usr", stat.S_IFDIR | 0o755, uid=1, gid=2)
    expected = (
        b"usr".ljust(100, b"\0")
        + b"0000755\0" b"0000001\0" b"0000002\0" b"00000000000\0" b"14524770400\0"
        + b"010004\0 " b"5"
        + bytes(100)
        + b"ustar\x0000"
        + bytes(64)
        + b"0000000\0" b"0000000\0"
        + bytes(167)
    )  # fmt: skip
    assert render_entry(item) == expected


@pytest.mark.parametrize("size_bytes", [1, 9])
def test_a_file_that_is_not_as_long_as_it_was_is_refused(tmp_path, size_bytes):
    (tmp_path / "f").write_bytes(b"hello")
    item = entry("f", stat.S_IFREG | 0o644, size_bytes=size_bytes)
    with pytest.raises(VnfsbuildError, match="was changed while it was packed"):
        stream([item], tmp_path)


def test_a_file_that_became_a_link_is_not_followed(tmp_path):
    (tmp_path / "f").symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="Too many levels"):
        stream([entry("f", stat.S_IFREG | 0o644, size_bytes=1)], tmp_path)


def test_a_file_of_many_gigabytes_has_its_size_in_binary():
    header = render_entry(entry("f", stat.S_IFREG | 0o644, size_bytes=8 << 30))
    assert header[124:136] == b"\x80" + (8 << 30).to_bytes(11, "big")
