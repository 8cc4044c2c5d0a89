"""Layers as erofs: the same tree packs to the same bytes, and nothing of it is lost."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vnfsbuild.places import find_places
from vnfsbuild.sandbox import tree_argv
from vnfsbuild.toolstree import ensure_tools_tree

from .odd_tree import CAPABILITY, EPOCH
from .ordinary import CHECKOUT, LIBRARIES, ordinary_user

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

HERE = Path(__file__).parent
PROGRAM = "tests/integration/odd_tree.py"


@pytest.fixture(scope="module")
def tools():
    return ensure_tools_tree("build", find_places().cache)


@pytest.fixture(scope="module")
def packed(tools, tmp_path_factory):
    return pack_as_root(tools, tmp_path_factory.mktemp("packed"))


@pytest.fixture(scope="module")
def unpacked(packed, tools, tmp_path_factory):
    root = tmp_path_factory.mktemp("unpacked") / "root"
    call(tools, "fsck.erofs", "--preserve", f"--extract={root}", packed)
    return root


def pack_as_root(tools, directory, *, order=0, prefix=()):
    out = directory / "out"
    environment = {**os.environ, "PYTHONPATH": f"{CHECKOUT}:{LIBRARIES}:{HERE}"}
    argv = [*prefix, sys.executable, CHECKOUT / PROGRAM, directory, tools, out, str(order), "erofs"]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def call(tools, program, *words):
    argv = tree_argv(tools, program, words)
    done = subprocess.run(argv, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_order_processors_and_umask_have_no_say(packed, tools, tmp_path):
    one = ["sh", "-c", 'umask 077; exec taskset 1 "$@"', "sh"]
    assert digest(pack_as_root(tools, tmp_path, order=1, prefix=one)) == digest(packed)
    assert {path.name for path in tmp_path.iterdir()} == {"out"}, "something was left behind"


def test_an_ordinary_user_packs_the_same(packed, tools):
    with ordinary_user() as user:
        top = user.home.parent
        shutil.copytree(tools, top / "tools", symlinks=True)
        work = user.home
        argv = [top / "checkout" / PROGRAM, work, top / "tools", work / "out", "2", "erofs"]
        below = Path("checkout") / HERE.relative_to(CHECKOUT)
        done = user.run(argv, PYTHONPATH=f"{top}/checkout:{top}/libraries:{top}/{below}")
        assert done.returncode == 0, done.stdout
        assert digest(work / "out") == digest(packed)
        assert (work / "out").stat().st_uid != 0


def test_time_and_identity_are_not_of_the_day(packed, tools):
    told = call(tools, "dump.erofs", "-s", packed)
    assert re.search(r"UUID: +(not available|00000000-0000-0000-0000-000000000000)\n", told), told
    assert packed.read_bytes()[1024:1028] == bytes.fromhex("e2e1f5e0")
    assert int.from_bytes(packed.read_bytes()[1024 + 24 : 1024 + 32], "little") == EPOCH


@pytest.mark.parametrize(
    ("name", "mode", "owner"),
    [
        (".", 0o040755, (0, 0)),
        ("dir2/file2", 0o106755, (70_000, 70_001)),
        ("dir1/file1", 0o100644, (33, 65_533)),
        ("null", 0o020666, (0, 0)),
        ("disk", 0o060660, (0, 6)),
        ("fifo", 0o010640, (0, 0)),
        ("dir3/symlink", 0o120777, (4_000_000_000, 80_000)),
    ],
)
def test_modes_and_owners_are_those_of_the_list(unpacked, name, mode, owner):
    found = (unpacked / name).lstat()
    assert (oct(found.st_mode), found.st_uid, found.st_gid) == (oct(mode), *owner)


def test_times_of_files_are_kept(unpacked):
    times = {path.lstat().st_mtime for path in unpacked.rglob("*")}
    assert max(times) <= EPOCH
    assert (unpacked / "dir1/file1").stat().st_mtime == EPOCH


def test_contents_names_and_devices_are_as_they_were(unpacked):
    null, disk = (unpacked / "null").stat(), (unpacked / "disk").stat()
    assert (os.major(null.st_rdev), os.minor(null.st_rdev)) == (1, 3)
    assert (os.major(disk.st_rdev), os.minor(disk.st_rdev)) == (259, 70_000)
    names = ["dir1/file1", "dir1/link-a", "dir2/link-b", "dir0/link-c"]
    found = [(unpacked / name).stat() for name in names]
    assert {(item.st_ino, item.st_nlink) for item in found} == {(found[0].st_ino, 4)}
    assert os.fsdecode(b"\xff\xfe") in os.listdir(unpacked / "dir0")
    assert (unpacked / "dir0" / 'a name\nwith a line, "quotes" and \\').read_bytes() == b"odd"
    assert (unpacked / ("dir0/" + "long" * 40)).read_bytes() == b"long name"
    assert (unpacked / "dir0/sparse").read_bytes() == bytes(1 << 20) + b"end"
    assert (unpacked / "dir3/symlink").readlink() == Path("../dir1/file1")


def test_capabilities_are_kept_and_other_attributes_are_not(packed, unpacked):
    assert CAPABILITY in packed.read_bytes()
    assert os.listxattr(unpacked / "dir5/file5") == []
