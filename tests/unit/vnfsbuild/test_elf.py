"""ELF headers, written here by hand, and trees of links."""

import struct
import sys

import pytest

from vnfsbuild.errors import InputError
from vnfsbuild.initrd.elf import find_libraries, parse_elf, resolve_inside

BASE = 0x400000


def make_elf(*needed, interpreter=None, runpath=None):
    """Return a program of headers alone."""
    strings = b"\0"
    dynamic = []
    for tag, text in [*((1, name) for name in needed), *([(29, runpath)] if runpath else [])]:
        dynamic.append((tag, len(strings)))
        strings += text.encode() + b"\0"
    segments = 3 if interpreter else 2
    interp = (interpreter or "").encode() + b"\0"
    at_interp = 64 + segments * 56
    at_strings = at_interp + len(interp)
    at_dynamic = at_strings + len(strings)
    dynamic = [*dynamic, (5, BASE + at_strings), (0, 0), (1, 9999)]
    table = b"".join(struct.pack("<qQ", *entry) for entry in dynamic)
    size = at_dynamic + len(table)
    headers = [
        (1, 5, 0, BASE, BASE, size, size, 4096),
        (2, 6, at_dynamic, BASE + at_dynamic, 0, len(table), len(table), 8),
    ]
    if interpreter:
        headers.append((3, 4, at_interp, BASE + at_interp, 0, len(interp), len(interp), 1))
    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, segments, 0, 0, 0)
    packed = b"".join(struct.pack("<IIQQQQQQ", *header) for header in headers)
    return head + packed + interp + strings + table


def put(root, path, data=b""):
    place = root / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(data)


def test_what_a_program_needs():
    needs = parse_elf(
        make_elf("libc.so.6", "libz.so.1", interpreter="/lib64/ld.so", runpath="$ORIGIN/x:/y"),
        where="x",
    )
    assert needs.interpreter == "/lib64/ld.so"
    assert needs.libraries == ("libc.so.6", "libz.so.1")
    assert needs.search == ("$ORIGIN/x", "/y")


def test_a_static_program_needs_nothing():
    assert parse_elf(make_elf(), where="x").libraries == ()


def test_this_very_python_is_understood():
    with open(sys.executable, "rb") as file:
        assert parse_elf(file.read(), where="python").interpreter.startswith("/lib")


@pytest.mark.parametrize(
    "data", [b"", b"#!/bin/sh", b"\x7fELF\x01\x01", make_elf("x")[:70], make_elf("x")[:-60]]
)
def test_what_is_no_program_is_refused(data):
    with pytest.raises(InputError, match="prog: "):
        parse_elf(data, where="prog")


def test_links_are_followed_inside_the_tree(tmp_path):
    put(tmp_path, "usr/lib/libx.so.1.2")
    (tmp_path / "lib").symlink_to("usr/lib")
    (tmp_path / "usr/lib/libx.so.1").symlink_to("libx.so.1.2")
    (tmp_path / "absolute").symlink_to("/lib/libx.so.1")
    (tmp_path / "up").symlink_to("../../../usr/lib/libx.so.1.2")
    real = tmp_path / "usr/lib/libx.so.1.2"
    for path in ("lib/libx.so.1", "absolute", "/up", "usr/../lib/libx.so.1"):
        assert resolve_inside(tmp_path, path) == real


def test_links_that_go_nowhere_or_in_circles_are_told(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(InputError, match="too many symbolic links"):
        resolve_inside(tmp_path, "a")
    with pytest.raises(InputError, match="no such file in the tree"):
        resolve_inside(tmp_path, "usr/bin/x")


def test_all_that_programs_need_and_that_needs(tmp_path):
    put(tmp_path, "usr/bin/x", make_elf("liba.so.1", interpreter="/lib64/ld.so"))
    put(tmp_path, "usr/lib64/ld.so", make_elf())
    put(tmp_path, "usr/lib/x86_64-linux-gnu/liba.so.1.0", make_elf("libb.so", runpath="$ORIGIN/p"))
    (tmp_path / "usr/lib/x86_64-linux-gnu/liba.so.1").symlink_to("liba.so.1.0")
    put(tmp_path, "usr/lib/x86_64-linux-gnu/p/libb.so", make_elf("liba.so.1"))
    (tmp_path / "lib64").symlink_to("usr/lib64")
    found = find_libraries(tmp_path, ["usr/bin/x"])
    # Named as the loader looks for them, below the directories that they are really in.
    assert {name: path.name for name, path in found.items()} == {
        "usr/lib/x86_64-linux-gnu/liba.so.1": "liba.so.1.0",
        "usr/lib/x86_64-linux-gnu/p/libb.so": "libb.so",
        "usr/lib64/ld.so": "ld.so",
    }


def test_a_missing_library_is_named(tmp_path):
    put(tmp_path, "usr/bin/x", make_elf("libgone.so.1"))
    with pytest.raises(InputError, match=r"usr/bin/x: needs libgone\.so\.1"):
        find_libraries(tmp_path, ["usr/bin/x"])
