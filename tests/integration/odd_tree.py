"""A small tree of all that is hard to pack, made and packed as whoever runs this file.

Run as a program: DIRECTORY to work in, TOOLS tree, OUT file, ORDER in which the tree is made,
FORMAT to pack it as: squashfs unless told.
"""

import contextlib
import os
import random
import stat
import struct
import sys
from pathlib import Path

from vnfsbuild.idmap import make_ids
from vnfsbuild.namespace import call_with, remove
from vnfsbuild.pack.erofs import pack_erofs
from vnfsbuild.pack.squashfs import pack_squashfs
from vnfsbuild.standin import resolve_stand_ins
from vnfsbuild.tree import cut_times, list_tree

EPOCH = 1_700_000_000
PACKERS = {"squashfs": pack_squashfs, "erofs": pack_erofs}
CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)


def make_tree(root, order):
    """Make the tree in *order*: another one gives other inodes and another order of directories."""
    files = {f"dir{number % 7}/file{number}": b"%d" % number * number * 50 for number in range(200)}
    files |= {
        'dir0/a name\nwith a line, "quotes" and \\': b"odd",
        "dir0/" + "long" * 40: b"long name",
        os.fsdecode(b"dir0/\xff\xfe"): b"no text",
        "dir0/empty": b"",
        "dir0/sparse": bytes(1 << 20) + b"end",
        "dir0/same": b"1" * 50,
    }
    names = list(files)
    random.Random(order).shuffle(names)
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(files[name])
        path.chmod(0o644)
        path.parent.chmod(0o755)
    links = ["dir1/link-a", "dir2/link-b", "dir0/link-c"]
    random.Random(order).shuffle(links)
    for name in links:
        (root / name).hardlink_to(root / "dir1/file1")
    (root / "dir3/symlink").symlink_to("../dir1/file1")
    make_privileged(root)
    root.chmod(0o755)
    cut_times(root, epoch=EPOCH)


def make_privileged(root):
    """Make what takes a privilege that an ordinary user does not have."""
    os.umask(0)
    os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(root / "disk", stat.S_IFBLK | 0o660, os.makedev(259, 70_000))
    os.mkfifo(root / "fifo", 0o640)
    os.chown(root / "disk", 0, 6)
    os.chown(root / "dir1/file1", 33, 65_533)
    os.chown(root / "dir2/file2", 70_000, 70_001)
    os.chown(root / "dir3/symlink", 4_000_000_000, 80_000, follow_symlinks=False)
    # After the owner, for a change of that takes these away.
    (root / "dir2/file2").chmod(0o6755)
    os.setxattr(root / "dir4/file4", "security.capability", CAPABILITY)
    # What is chance: not every file system has it.
    with contextlib.suppress(OSError):
        os.setxattr(root / "dir5/file5", "user.x", b"y")


def pack(directory, tools, out, order, form):
    """Make the tree and pack it: to be run as root, of whatever namespace."""
    root = directory / "root"
    root.mkdir()
    make_tree(root, order)
    entries = resolve_stand_ins(list_tree(root), root)
    PACKERS[form](tools, entries, root, out, epoch=EPOCH)


if __name__ == "__main__":
    # By its name, so that another Python finds it.
    import odd_tree

    directory, tools, out = (Path(word) for word in sys.argv[1:4])
    # Of the owners above all small ids, one is known beforehand, and the others are not.
    how = (int(sys.argv[4]), sys.argv[5] if len(sys.argv) > 5 else "squashfs")
    call_with(make_ids([70_000], [70_001]), odd_tree.pack, directory, tools, out, *how)
    remove(directory / "root")
    assert not (directory / "root").exists()
