"""The same tree packs to the same bytes, whoever packs it and wherever it lies."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from vnfsbuild.places import find_places
from vnfsbuild.sandbox import tree_argv
from vnfsbuild.toolstree import ensure_tools_tree

from .odd_tree import CAPABILITY
from .ordinary import CHECKOUT, LIBRARIES, ordinary_user

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

HERE = Path(__file__).parent
PROGRAM = "tests/integration/odd_tree.py"


@pytest.fixture(scope="module")
def tools():
    return ensure_tools_tree("build", find_places().cache)


@pytest.fixture(scope="module")
def packed(tools, tmp_path_factory):
    """The tree as root packs it, on this machine's disk."""
    return pack_as_root(tools, tmp_path_factory.mktemp("packed"))


def pack_as_root(tools, directory, *, order=0, prefix=()):
    out = directory / "out"
    environment = {**os.environ, "PYTHONPATH": f"{CHECKOUT}:{LIBRARIES}:{HERE}"}
    argv = [*prefix, sys.executable, CHECKOUT / PROGRAM, directory, tools, out, str(order)]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_order_in_which_a_tree_was_made_has_no_say(packed, tools, tmp_path):
    assert digest(pack_as_root(tools, tmp_path, order=1)) == digest(packed)


def test_the_file_system_has_no_say(packed, tools):
    kinds = set()
    for parent in ("/dev/shm", "/var/tmp"):
        with tempfile.TemporaryDirectory(dir=parent) as name:
            kinds.add(os.stat(name).st_dev)
            assert digest(pack_as_root(tools, Path(name))) == digest(packed)
    assert len(kinds) == 2, "this machine has /dev/shm and /var/tmp on one file system"


def test_processors_and_umask_have_no_say(packed, tools, tmp_path):
    one = ["sh", "-c", 'umask 077; exec taskset 1 "$@"', "sh"]
    assert digest(pack_as_root(tools, tmp_path, prefix=one)) == digest(packed)


def test_an_ordinary_user_packs_the_same(packed, tools):
    with ordinary_user() as user:
        top = user.home.parent
        shutil.copytree(tools, top / "tools", symlinks=True)
        work = user.home
        argv = [top / "checkout" / PROGRAM, work, top / "tools", work / "out", "2"]
        done = user.run(argv, PYTHONPATH=f"{top}/checkout:{top}/libraries:{top}/{HERE_BELOW}")
        assert done.returncode == 0, done.stdout
        assert digest(work / "out") == digest(packed)
        assert (work / "out").stat().st_uid != 0


HERE_BELOW = Path("checkout") / HERE.relative_to(CHECKOUT)


def test_without_subordinate_ids_all_that_lacks_is_told(tools):
    with ordinary_user(count=0) as user:
        top = user.home.parent
        done = user.run(
            ["-c", "import os; from vnfsbuild import errors, namespace\n"
             "try: namespace.call(os.getuid)\n"
             "except errors.VnfsbuildError as error: print(errors.render_error(error))"]
        )  # fmt: skip
        assert top.exists()
    assert "/etc/subuid: found 0 ids for vnfs-test-user, expected 65535 or more" in done.stdout
    assert "/etc/subgid: found 0 ids for vnfs-test-user" in done.stdout
    assert "usermod --add-subuids" in done.stdout


ERRORS = """\
import json, os, socket
from pathlib import Path
from vnfsbuild import local, namespace
for function, words in [(os.listdir, "/nonexistent"), (json.loads, "{")]:
    try:
        namespace.call(function, words)
    except Exception as error:
        print(type(error).__name__, error, "+", *getattr(error, "__notes__", []))
try:
    namespace.call(local.place_in, Path("circle"), "a")
except Exception as error:
    print(type(error).__name__, error)
print(namespace.call(os.getuid), namespace.call(socket.if_nameindex))
"""


def test_errors_come_back_and_bugs_with_their_place():
    with ordinary_user() as user:
        (user.home / "circle").mkdir()
        (user.home / "circle/a").symlink_to("a")
        done = user.run(["-c", f"import os; os.chdir({str(user.home)!r})\n{ERRORS}"])
    lines = done.stdout
    assert "FileNotFoundError [Errno 2] No such file or directory: '/nonexistent' +" in lines
    assert "JSONDecodeError Expecting property name" in lines
    assert "+ Traceback" in lines
    assert "VnfsbuildError a: too many symbolic links" in lines
    assert lines.endswith("\n0 [(1, 'lo')]\n")


def listed(tools, path):
    """Return what unsquashfs tells: path → mode, owner, size or device."""
    done = subprocess.run(
        tree_argv(tools, "unsquashfs", ["-lln", path]), capture_output=True, check=True
    )
    text = done.stdout.decode("utf-8", "replace")
    row = re.compile(r"(\S{10}) (\d+/\d+) +(\d+(?:, *\d+)?) \S+ \S+ squashfs-root/(.*)")
    found = {}
    for mode, owner, size, name in row.findall(text):
        found[name] = (mode, owner, size)
    return found


def test_what_only_root_could_make_is_there_as_it_was_meant(packed, tools):
    rows = listed(tools, packed)
    assert rows["dir2/file2"] == ("-rwsr-sr-x", "70000/70001", "100")
    assert rows["dir1/file1"] == ("-rw-r--r--", "33/65533", "50")
    assert rows["null"] == ("crw-rw-rw-", "0/0", "1,  3")
    assert rows["disk"][:2] == ("brw-rw----", "0/6")
    assert rows["fifo"] == ("prw-r-----", "0/0", "0")
    assert rows["dir3/symlink -> ../dir1/file1"][:2] == ("lrwxrwxrwx", "4000000000/80000")


@pytest.fixture
def mounted(packed, tmp_path):
    done = subprocess.run(
        ["mount", "-t", "squashfs", "-o", "loop,ro", packed, tmp_path],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode and not os.environ.get("CI"):
        pytest.skip(f"no squashfs can be mounted here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


def test_the_kernel_sees_it_as_it_was_meant(mounted):
    assert os.getxattr(mounted / "dir4/file4", "security.capability") == CAPABILITY
    null, disk = (mounted / "null").stat(), (mounted / "disk").stat()
    assert (os.major(null.st_rdev), os.minor(null.st_rdev)) == (1, 3)
    assert (os.major(disk.st_rdev), os.minor(disk.st_rdev)) == (259, 70_000)
    names = ["dir1/file1", "dir1/link-a", "dir2/link-b", "dir0/link-c"]
    found = [(mounted / name).stat() for name in names]
    assert {item.st_ino for item in found} == {found[0].st_ino}
    assert {item.st_nlink for item in found} == {4}
    assert os.fsdecode(b"\xff\xfe") in os.listdir(mounted / "dir0")
    assert (mounted / "dir0" / 'a name\nwith a line, "quotes" and \\').read_bytes() == b"odd"
    assert (mounted / ("dir0/" + "long" * 40)).read_bytes() == b"long name"
    assert (mounted / "dir0/sparse").read_bytes() == bytes(1 << 20) + b"end"
    assert os.listxattr(mounted / "dir5/file5") == []
