"""Root in memory, an ordinary user on disk: one capsule, and nothing left behind."""

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from vnfsbuild.packages import package_path
from vnfsbuild.places import find_places
from vnfsbuild.resolve import load_or_make_lock, load_recipe
from vnfsbuild.sandbox import tree_argv
from vnfsbuild.stages import fetch_inputs
from vnfsbuild.timings import Timings

from .ordinary import CHECKOUT, LIBRARIES, ordinary_user

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

PLACES = find_places()

ODD = """
[[files.write]]
path = "/etc/of-a-large-owner"
content = "x"
owner = "70000:70003"
mode = "4750"

[[users.system]]
name = "large"
uid = 70001

[scripts]
finalize = ["odd.sh"]
"""
CONTROL = """\
Package: odd
Version: 1
Architecture: all
Maintainer: nobody <nobody@example.org>
Description: what only root can make
"""
SCRIPT = """\
#!/bin/sh
set -e
test "$(stat -c %u:%g /etc/of-a-large-owner)" = 70000:70003
chown large:large /srv
test "$(su -s /bin/sh large -c 'id -u')" = 70001
cp /bin/true /usr/local/bin/capable
python3 -c 'import os, struct
value = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)
os.setxattr("/usr/local/bin/capable", "security.capability", value)'
mkdir /srv/dev
mknod /srv/dev/null c 1 3
chown 81234 /srv/dev
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """The small recipe, and with it all that an ordinary user cannot make; locked."""
    directory = tmp_path_factory.mktemp("recipe") / "minimal"
    ignored = shutil.ignore_patterns("recipe.lock")
    shutil.copytree(PLACES.share / "recipes/debian-13-minimal", directory, ignore=ignored)
    path = directory / "recipe.toml"
    text = path.read_text()
    assert "install = [" in text
    text = text.replace("install = [", 'local = ["odd.deb"]\ninstall = ["odd",', 1)
    path.write_text(text + ODD)
    (directory / "odd.sh").write_text(SCRIPT)
    make_package(tmp_path_factory.mktemp("odd"), directory / "odd.deb")
    loaded = load_recipe(directory)
    lock = load_or_make_lock(loaded, cache=PLACES.cache)
    return loaded, lock, fetch_inputs(loaded, [lock], places=PLACES, timings=Timings())


def make_package(root, out):
    """Make a package of device nodes, and of a file of an owner that nobody told us of."""
    for name in ("DEBIAN", "opt/odd"):
        (root / name).mkdir(parents=True)
    (root / "DEBIAN/control").write_text(CONTROL)
    os.mknod(root / "opt/odd/zero", stat.S_IFCHR | 0o644, os.makedev(1, 5))
    os.mknod(root / "opt/odd/loop", stat.S_IFBLK | 0o640, os.makedev(7, 300))
    (root / "opt/odd/file").write_text("x")
    os.chown(root / "opt/odd/file", 90_000, 90_001)
    (root / "opt/odd/file").chmod(0o4755)
    (root / "opt/odd/link").hardlink_to(root / "opt/odd/file")
    for directory in (root, root / "opt", root / "opt/odd", root / "DEBIAN"):
        directory.chmod(0o755)
    subprocess.run(["dpkg-deb", "--build", root, out], check=True, capture_output=True)


def copy_cache(lock, cache):
    """Make *cache* one that has the packages of *lock*, and is the user's own."""
    for item in (*lock.packages, *lock.tools):
        target = package_path(cache, item.sha256)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(package_path(PLACES.cache, item.sha256), target)


def digest_of(output):
    """Return the digest in what ``build --json`` says last."""
    return json.loads(output[output.index("{\n") :])["digest"]


ODD_ROWS = {
    ("crw-r--r--", "0/0", "opt/odd/zero"),
    ("brw-r-----", "0/0", "opt/odd/loop"),
    ("-rwsr-xr-x", "90000/90001", "opt/odd/file"),
    ("-rwsr-xr-x", "90000/90001", "opt/odd/link"),
    ("-rwsr-x---", "70000/70003", "etc/of-a-large-owner"),
    ("drwxr-xr-x", "70001/70001", "srv"),
    ("drwxr-xr-x", "81234/0", "srv/dev"),
    ("crw-r--r--", "0/0", "srv/dev/null"),
}


def list_layers(tools, blobs):
    """Return (mode, owner, path) of all that is in the layers among *blobs*."""
    for path in blobs:
        if path.read_bytes()[:4] == b"hsqs":
            argv = tree_argv(tools, "unsquashfs", ["-lln", path])
            text = subprocess.run(argv, capture_output=True, check=True).stdout.decode()
            for line in text.splitlines():
                yield (*line.split()[:2], line.partition("squashfs-root/")[2])


def environment(home):
    return {
        "VNFS_CACHE": f"{home}/cache",
        "VNFS_STORE": f"{home}/store",
        "VNFS_SITE": f"{home}/site",
    }


def give(path, uid):
    for directory, _, names in os.walk(path):
        for name in (directory, *(os.path.join(directory, name) for name in names)):
            os.lchown(name, uid, uid)


def test_root_and_an_ordinary_user_build_one_capsule(recipe, tmp_path):
    loaded, lock, tools = recipe
    with ordinary_user() as user:
        copy_cache(lock, user.home / "cache")
        shutil.copytree(loaded.directory, user.home / "recipe")
        (user.home / "work").mkdir()
        give(user.home, user.home.stat().st_uid)
        done = user.run(
            ["-m", "vnfsbuild", "build", user.home / "recipe", "--json"],
            VNFS_WORKSPACE=f"{user.home}/work",
            **environment(user.home),
        )
        assert done.returncode == 0, done.stdout
        by_user = digest_of(done.stdout)
        assert list((user.home / "work").iterdir()) == []
        assert list((user.home / "cache/work").iterdir()) == []
        blobs = list((user.home / "store/blobs/sha256").iterdir())
        assert {path.stat().st_uid for path in blobs} == {user.home.stat().st_uid}
        assert set(list_layers(tools, blobs)) >= ODD_ROWS
    done = subprocess.run(
        [sys.executable, "-m", "vnfsbuild", "build", loaded.directory, "--json"],
        env={**os.environ, **environment(tmp_path), "VNFS_CACHE": str(PLACES.cache),
             "PYTHONPATH": f"{CHECKOUT}:{LIBRARIES}"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert digest_of(done.stdout) == by_user


def test_without_subordinate_ids_a_build_says_what_to_do(recipe):
    loaded, lock, _ = recipe
    with ordinary_user(count=0) as user:
        shutil.copytree(loaded.directory, user.home / "recipe")
        copy_cache(lock, user.home / "cache")
        give(user.home, user.home.stat().st_uid)
        done = user.run(
            ["-m", "vnfsbuild", "build", user.home / "recipe"], **environment(user.home)
        )
        assert done.returncode == 1
        assert "an ordinary user cannot build on this host; it lacks /etc/subuid" in done.stdout
        assert "hint: as root: usermod --add-subuids" in done.stdout
        assert not list(Path("/dev/shm").glob(f"vnfsbuild.*/{user.home.name}"))
