"""Makes tests/vectors/layers/: two layers of all that is hard to read, in both formats.

Run as a program, with the tools tree as its argument. What is in them stands here, and the tests of
the readers compare with it; the bytes may differ with another mksquashfs, which changes nothing.
"""

import os
import stat
import struct
import sys
import tempfile
from pathlib import Path

from vnfsbuild.layer import Entry, make_whiteout
from vnfsbuild.pack.erofs import pack_erofs
from vnfsbuild.pack.squashfs import pack_squashfs

OUT = Path(__file__).resolve().parents[2] / "vectors/layers"
EPOCH = 1_700_000_000
CAPABILITY = {"security.capability": struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)}

FILES = {
    "etc/hostname": b"toy\n",
    "etc/shadow": b"root:*:19000::::::\n",
    "etc/odd \\ name\nwith a line": b"odd",
    os.fsdecode(b"etc/\xff\xfe"): b"no text",
    "etc/" + "long" * 40: b"long name",
    "usr/bin/ping": b"#!/bin/sh\n" * 300,
    "usr/lib/os-release": b"NAME=Toy\n",
    "usr/share/empty": b"",
    "usr/share/large": b"".join(b"%d\n" % number for number in range(30_000)),
    "usr/share/sparse": bytes(1 << 18) + b"end",
    **{f"usr/share/many/file{number:03}": b"%d" % number for number in range(40)},
}
"""What is in the lower layer: path → content."""

LINKS = {
    "bin": "usr/bin",
    "etc/absolute": "/etc/hostname",
    "etc/beyond": "../../../../etc/hostname",
    "etc/dangling": "nowhere",
    "etc/loop": "loop",
    "etc/os-release": "../usr/lib/os-release",
    "etc/through": "/bin/../lib/os-release",
    "usr/share/long-link": "../" * 30 + "etc/hostname",
}

UPPER = {"etc/hostname": b"upper\n", "usr/share/many": b"was a directory\n", "new/file": b"new\n"}
GONE = ("etc/shadow", "usr/share/large")


def entry(path, kind=stat.S_IFREG, mode=0o644, **words):
    fields = {"uid": 0, "gid": 0, "mtime": EPOCH, "size_bytes": 0}
    return Entry(path=path, mode=kind | mode, **{**fields, **words})


def lower_entries():
    found = [
        entry(path, size_bytes=len(data), mtime=EPOCH - len(path)) for path, data in FILES.items()
    ]
    found = [item for item in found if item.path not in ("etc/shadow", "usr/bin/ping")]
    found += [
        entry("etc/shadow", mode=0o640, gid=42, size_bytes=len(FILES["etc/shadow"])),
        entry("usr/bin/ping", mode=0o4755, size_bytes=3000, xattrs=CAPABILITY, inode=7),
        entry("usr/bin/ping4", mode=0o4755, size_bytes=3000, xattrs=CAPABILITY, inode=7),
        entry("usr/share/owned", uid=70_000, gid=4_000_000_000),
        entry("dev/null", stat.S_IFCHR, 0o666, device=os.makedev(1, 3)),
        entry("dev/disk", stat.S_IFBLK, 0o660, gid=6, device=os.makedev(259, 70_000)),
        entry("dev/pipe", stat.S_IFIFO, 0o600),
        entry("tmp", stat.S_IFDIR, 0o1777),
    ]
    found += [entry(path, stat.S_IFLNK, 0o777, target=target) for path, target in LINKS.items()]
    return with_directories(found)


def upper_entries():
    found = [entry(path, size_bytes=len(data)) for path, data in UPPER.items()]
    found += [make_whiteout(path, EPOCH) for path in GONE]
    return with_directories(found, mode=0o750)


def with_directories(entries, mode=0o755):
    found = {item.path: item for item in entries}
    for path in list(found):
        for above in Path(path).parents:
            found.setdefault(str(above), entry(str(above), stat.S_IFDIR, mode))
    return sorted(
        found.values(),
        key=lambda item: [] if item.path == "." else [os.fsencode(p) for p in item.path.split("/")],
    )


def pack(pack_layer, tools, entries, contents, out):
    with tempfile.TemporaryDirectory() as name:
        for item in entries:
            if stat.S_ISREG(item.mode):
                path = Path(name, item.path)
                path.parent.mkdir(parents=True, exist_ok=True)
                same = "usr/bin/ping" if item.path == "usr/bin/ping4" else item.path
                path.write_bytes(contents.get(same, b""))
        pack_layer(tools, entries, Path(name), out, epoch=EPOCH)


def main():
    tools = Path(sys.argv[1]).absolute()
    OUT.mkdir(parents=True, exist_ok=True)
    for ending, pack_layer in (("squashfs", pack_squashfs), ("erofs", pack_erofs)):
        pack(pack_layer, tools, lower_entries(), FILES, OUT / f"lower.{ending}")
        pack(pack_layer, tools, upper_entries(), UPPER, OUT / f"upper.{ending}")


if __name__ == "__main__":
    main()
