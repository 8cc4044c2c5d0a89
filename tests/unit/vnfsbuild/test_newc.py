"""newc archives: the bytes that the kernel takes, and other programs read."""

import stat

import libarchive
import pytest

from vnfsbuild.errors import InputError
from vnfsbuild.newc import (
    MAX_FILE_BYTES,
    entry_header,
    padding,
    render_archive,
    render_directories,
    render_entry,
    render_trailer,
)


def test_the_bytes_of_an_entry():
    assert render_entry("a", stat.S_IFREG | 0o644, b"hello") == (
        b"070701"
        b"00000000000081A400000000000000000000000100000000"
        b"00000005"
        b"00000000000000000000000000000000"
        b"00000002"
        b"00000000"
        b"a\0hello\0\0\0"
    )


def test_the_trailer_ends_an_archive_on_a_boundary_of_four():
    archive = render_archive([("init", stat.S_IFREG | 0o755, b"#!")])
    assert archive.endswith(render_trailer())
    assert b"TRAILER!!!\0" in archive
    assert len(archive) % 4 == 0


def test_another_program_reads_what_was_written():
    files = [
        ("etc/motd", stat.S_IFREG | 0o600, b"hello"),
        ("bin", stat.S_IFLNK | 0o777, b"usr/bin"),
        ("dev/console", stat.S_IFREG | 0o644, b""),
    ]
    data = (
        render_directories("etc/motd") + render_directories("dev/console") + render_archive(files)
    )
    seen = {}
    with libarchive.memory_reader(data) as archive:
        for entry in archive:
            content = b"".join(entry.get_blocks())
            seen[entry.pathname] = (entry.mode, content or (entry.linkname or "").encode())
    assert seen == {
        "etc": (stat.S_IFDIR | 0o755, b""),
        "dev": (stat.S_IFDIR | 0o755, b""),
        **{name: (mode, content) for name, mode, content in files},
    }


def test_directories_are_those_above_a_path_outermost_first():
    names = [part.split(b"\0")[0] for part in render_directories("a/b/c").split(b"070701")[1:]]
    assert [name[104:] for name in names] == [b"a", b"a/b"]
    assert render_directories("init") == b""


@pytest.mark.parametrize(("length", "count"), [(0, 0), (1, 3), (2, 2), (3, 1), (4, 0), (111, 1)])
def test_padding_goes_up_to_the_next_multiple_of_four(length, count):
    assert padding(length) == bytes(count)


def test_a_name_that_is_no_utf_8_keeps_its_bytes():
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    assert b"caf\xe9\0" in render_entry(name, stat.S_IFREG | 0o644)


def test_four_gibibytes_are_too_many():
    entry_header("big", stat.S_IFREG, MAX_FILE_BYTES)
    with pytest.raises(InputError, match="big: 4294967296 bytes, expected less than 4 GiB"):
        entry_header("big", stat.S_IFREG, MAX_FILE_BYTES + 1)
