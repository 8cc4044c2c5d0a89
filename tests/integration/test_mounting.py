"""A capsule is mounted after it was verified, as what was verified, and leaves nothing behind."""

import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vnfsbuild import manifest as m
from vnfsbuild.digest import digest_of
from vnfsbuild.errors import InputError, VerificationError, VnfsbuildError
from vnfsbuild.inside import mounting
from vnfsbuild.inside.look import open_root
from vnfsbuild.inside.mounts import drop_stale_pins, find_mounts, mount_capsule, unmount_capsule
from vnfsbuild.inside.opened import open_capsule_at
from vnfsbuild.places import find_places
from vnfsbuild.reference import parse_reference
from vnfsbuild.signing.keys import find_signing_key, load_trust, new_key, sign_manifest
from vnfsbuild.store.keeper import PinnedError
from vnfsbuild.store.pins import load_reasons
from vnfsbuild.store.store import Store
from vnfsbuild.toolstree import ensure_tools_tree

from .ordinary import ordinary_user

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120), pytest.mark.xdist_group("mounts")]

CHECKOUT = Path(__file__).resolve().parents[2]
VECTORS = CHECKOUT / "tests/vectors/layers"
ENDINGS = {"squashfs": m.LAYER_SQUASHFS, "erofs": m.LAYER_EROFS}
NOW = int(time.time())


def tools():
    return ensure_tools_tree("build", find_places().cache)


@pytest.fixture
def site(tmp_path):
    new_key(tmp_path / "site", "dev", now=NOW)
    return tmp_path / "site"


@pytest.fixture
def trust(site):
    return load_trust(site, now=NOW)


@pytest.fixture
def store(tmp_path, site):
    """A store with the capsules ``squashfs`` and ``erofs``, of the layers among the vectors."""
    store = Store(tmp_path / "store")
    for name in ENDINGS:
        add(store, name, name, find_signing_key(site, "dev"))
    add(store, "unsigned", "squashfs", None)
    return store


def add(store, name, ending, key):
    contents = [b"source", b"kernel", b"initrd"]
    contents += [(VECTORS / f"{layer}.{ending}").read_bytes() for layer in ("lower", "upper")]
    kinds = [m.SOURCE, m.KERNEL, m.INITRD, ENDINGS[ending], ENDINGS[ending]]
    payloads = tuple(
        store.add_blob(data, media_type=kind) for kind, data in zip(kinds, contents, strict=True)
    )
    config = m.render_config(
        m.Config(
            name=name, serial=1, architecture="x86_64", distribution="debian trixie", epoch=NOW,
            kernel=m.Kernel(version="6.12.0", arguments=()), layers=("lower", "upper"),
            bootstrap_protocol=1,
        )
    )  # fmt: skip
    described = store.add_blob(config, media_type=m.CONFIG)
    manifest = m.render_manifest(
        m.Manifest(artifact_type=m.CAPSULE, config=described, payloads=payloads)
    )
    store.add_capsule(manifest, config, [sign_manifest(manifest, key)] if key else [])


@pytest.fixture
def directory(tmp_path):
    path = tmp_path / "a place, with: odd name"
    path.mkdir()
    yield path
    while path.is_mount():
        subprocess.run(["umount", "--lazy", path], check=True)


def loops():
    found = []
    for path in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            found.append(path.read_text())
        except OSError:  # it went under our eyes
            continue
    return "".join(found)


def loops_go(what, *, seconds=10):
    """Tell whether the loop devices of *what* go: the kernel takes its time."""
    for _ in range(seconds * 20):
        if str(what) not in loops():
            return True
        time.sleep(0.05)
    return False


def walk(root):
    found = {".": root.lstat()}
    for directory, names, files in os.walk(os.fsencode(root)):
        for name in [*names, *files]:
            path = os.path.join(directory, name)
            found[os.fsdecode(os.path.relpath(path, os.fsencode(root)))] = os.lstat(path)
    return found


@pytest.mark.parametrize("name", ENDINGS)
def test_what_is_mounted_is_what_files_lists(name, store, trust, directory):
    """The kernel's overlayfs, squashfs and erofs are the judges of our readers."""
    mount_capsule(name, directory, store, trust=trust, now=NOW)
    with open_capsule_at(name, store) as opened:
        tree = open_root(opened, find_tools=tools)
        seen = walk(directory)
        assert set(seen) == set(tree.union)
        for path, placed in tree.union.items():
            entry, found = placed.entry, seen[path]
            assert (found.st_mode, found.st_uid, found.st_gid, int(found.st_mtime)) == (
                entry.mode, entry.uid, entry.gid, entry.mtime,
            ), path  # fmt: skip
            if stat.S_ISLNK(entry.mode):
                assert os.readlink(directory / path) == entry.target
            elif stat.S_ISREG(entry.mode):
                data = (directory / path).read_bytes()
                assert b"".join(tree.read_file(placed)) == data, path
            assert found.st_rdev == entry.device
        paths = [path for path, item in tree.union.items() if stat.S_ISREG(item.entry.mode)]
        digests = tree.digest_files(paths)
        assert digests == {path: digest_of((directory / path).read_bytes()) for path in paths}
    found = os.getxattr(directory / "usr/bin/ping", "security.capability")
    assert found == tree.union["usr/bin/ping"].entry.xattrs["security.capability"]
    unmount_capsule(directory, store)


def test_nobody_can_write_and_nothing_is_left(store, trust, directory):
    before = set(Path(f"/proc/{os.getpid()}/fd").iterdir())
    mount_capsule("squashfs", directory, store, trust=trust, now=NOW)
    options = next(
        line.split()[5] for line in Path("/proc/self/mountinfo").read_text().splitlines()
        if "vnfs:" in line and "odd" in line
    )  # fmt: skip
    assert {"ro", "nosuid", "nodev"} <= set(options.split(","))
    for call in (lambda: (directory / "another").touch(), lambda: (directory / "etc").rmdir()):
        with pytest.raises(OSError, match="Read-only"):
            call()
    assert str(store.path) in loops()
    unmount_capsule(directory, store)
    assert sorted(directory.iterdir()) == []
    assert not directory.is_mount()
    assert loops_go(store.path)
    assert set(Path(f"/proc/{os.getpid()}/fd").iterdir()) == before


def test_a_mounted_capsule_is_pinned(store, trust, directory, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    digest = mount_capsule("squashfs", directory, store, trust=trust, now=NOW).digest
    mount_capsule("squashfs", other, store, trust=trust, now=NOW)
    (reason,) = load_reasons(store.path, "mount").values()
    assert str(directory) in reason
    assert str(other) in reason
    with pytest.raises(PinnedError, match="mounted on"):
        store.delete(parse_reference("squashfs"))
    unmount_capsule(directory, store)
    assert load_reasons(store.path, "mount") == {digest: f"mounted on {other}"}
    # By somebody who does not know of us.
    subprocess.run(["umount", other], check=True)
    assert drop_stale_pins(store)
    store.delete(parse_reference("squashfs"))


def test_a_mount_outlives_its_capsule(store, trust, directory):
    mount_capsule("squashfs", directory, store, trust=trust, now=NOW)
    store.delete(parse_reference("squashfs"), force=True)
    store.gc()
    subprocess.run(["sh", "-c", "sync; echo 3 >/proc/sys/vm/drop_caches"], check=False)
    assert (directory / "etc/hostname").read_bytes() == b"upper\n"
    unmount_capsule(directory, store)


def test_it_is_not_taken_away_while_it_is_in_use(store, trust, directory):
    mount_capsule("squashfs", directory, store, trust=trust, now=NOW)
    with (directory / "etc/hostname").open(), pytest.raises(VnfsbuildError, match="in use"):
        unmount_capsule(directory, store)
    assert load_reasons(store.path, "mount")
    unmount_capsule(directory, store)
    with pytest.raises(InputError, match="no capsule is mounted"):
        unmount_capsule(directory, store)


@pytest.mark.parametrize("payload", [1, 3, 4])
def test_one_wrong_byte_anywhere_and_nothing_is_mounted(payload, store, trust, directory):
    blob = store.get(parse_reference("squashfs")).manifest.payloads[payload]
    path = store.blob_path(blob.digest)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(VerificationError):
        mount_capsule("squashfs", directory, store, trust=trust, now=NOW)
    assert not directory.is_mount()
    assert load_reasons(store.path, "mount") == {}


def test_what_nobody_signed_is_not_mounted(store, trust, directory):
    with pytest.raises(VerificationError, match="not signed"):
        mount_capsule("unsigned", directory, store, trust=trust, now=NOW)
    assert not directory.is_mount()


@pytest.mark.parametrize("owner", [0, 65_534])
def test_a_file_is_mounted_where_it_lies_or_from_a_copy(owner, store, trust, directory, tmp_path):
    """What somebody else may write to could be changed after it was verified."""
    path = tmp_path / "toy.vnfs"
    store.export(parse_reference("squashfs"), path)
    os.chown(path, owner, -1)
    mount_capsule(str(path), directory, store, trust=trust, now=NOW)
    assert (str(path) in loops()) == (owner == 0)
    if owner:
        with path.open("r+b") as file:
            file.write(b"\xff" * path.stat().st_size)
        subprocess.run(["sh", "-c", "sync; echo 3 >/proc/sys/vm/drop_caches"], check=False)
    assert (directory / "usr/share/sparse").read_bytes() == bytes(1 << 18) + b"end"
    assert load_reasons(store.path, "mount") == {}
    unmount_capsule(directory, store)
    assert loops_go(path)


def test_a_file_that_is_exchanged_after_it_was_verified_is_not_mounted(
    store, trust, directory, monkeypatch
):
    """What was opened and verified is mounted, whatever its name means by then."""
    join = mounting._join

    def exchange(*words):
        for layer in ("lower", "upper"):
            data = (VECTORS / f"{layer}.squashfs").read_bytes()
            path = store.blob_path(digest_of(data))
            path.unlink()
            path.write_bytes(b"something else")
        return join(*words)

    monkeypatch.setattr(mounting, "_join", exchange)
    mount_capsule("squashfs", directory, store, trust=trust, now=NOW)
    assert (directory / "etc/hostname").read_bytes() == b"upper\n"
    unmount_capsule(directory, store)


CRASH = """\
import os, signal, sys
from pathlib import Path
from vnfsbuild.inside import mounting
from vnfsbuild.signing.keys import load_trust
from vnfsbuild.inside.mounts import mount_capsule
from vnfsbuild.store.store import Store

store, site, directory, now, step = sys.argv[1:]
calls = 0
real = mounting._call

def call(*words):
    global calls
    calls += 1
    if calls == int(step):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*words)

mounting._call = call
trust = load_trust(Path(site), now=int(now))
mount_capsule("squashfs", Path(directory), Store(Path(store)), trust=trust, now=int(now))
print(calls)
"""


def test_a_crash_at_any_step_leaves_nothing_behind(store, site, directory):
    def start(step):
        argv = [sys.executable, "-c", CRASH, store.path, site, directory, NOW, step]
        environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
        return subprocess.run(list(map(str, argv)), env=environment, capture_output=True, text=True,
                              check=False)  # fmt: skip

    whole = start(0)
    assert whole.returncode == 0, whole.stderr
    steps = int(whole.stdout)
    assert steps > 7
    unmount_capsule(directory, store)
    for step in range(1, steps + 1):
        assert start(step).returncode == -9
        assert not directory.is_mount(), step
        assert sorted(directory.iterdir()) == []
        assert drop_stale_pins(store)
        assert load_reasons(store.path, "mount") == {}
    assert loops_go(store.path)
    assert find_mounts() == tuple(mount for mount in find_mounts() if mount.directory != directory)


def test_where_mounts_are_shared_only_the_union_is_seen(store, site, directory):
    """As on every machine with systemd: what is mounted in a namespace would be seen in others."""
    words = [sys.executable, "-c", CRASH, store.path, site, directory, NOW, 0]
    script = '"$@" && cat /proc/self/mountinfo && umount "$DIRECTORY"'
    argv = ["unshare", "--mount", "--propagation", "shared", "sh", "-c", script, "sh", *words]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "DIRECTORY": str(directory)}
    done = subprocess.run(
        list(map(str, argv)), env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.count("odd\\040name") == 1, done.stdout
    assert drop_stale_pins(store)


def test_an_ordinary_user_looks_inside_without_any_privilege(store):
    with ordinary_user() as user:
        shutil.copytree(store.path, user.home / "store")
        for path in (user.home / "store").rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        where = {"VNFS_STORE": str(user.home / "store"), "VNFS_SITE": str(user.home / "site")}
        where["VNFS_CACHE"] = str(user.home / "cache")
        found = user.run(["-m", "vnfsbuild", "files", "--long", "squashfs", "/etc/shadow",
                          "/etc/hostname"], **where)  # fmt: skip
        assert found.returncode == 0, found.stdout
        assert "/etc/hostname" in found.stdout
        found = user.run(["-m", "vnfsbuild", "cat", "squashfs", "/etc/hostname"], **where)
        assert (found.returncode, found.stdout) == (0, "upper\n")
        found = user.run(["-m", "vnfsbuild", "mount", "squashfs", str(user.home)], **where)
        assert found.returncode == 1
        assert "only root" in found.stdout
