"""What is mounted is read from the kernel's list, and pins of what is gone go."""

import os
from pathlib import Path

import pytest

from vnfsbuild import cli
from vnfsbuild.digest import digest_of
from vnfsbuild.errors import InputError, VnfsbuildError
from vnfsbuild.inside import mounts
from vnfsbuild.inside.mounts import Mount, drop_stale_pins, find_mounts, render_source
from vnfsbuild.store.pins import load_reasons
from vnfsbuild.store.store import Store

DIGEST = digest_of(b"")


def line(source, directory="/mnt", kind="overlay"):
    return f"36 35 0:52 / {directory} ro,nosuid shared:1 - {kind} {source} ro,lowerdir=0:1\n"


def test_our_mounts_are_found_among_others():
    mount = Mount(digest=DIGEST, place="/var/lib/vnfs", directory=Path("/mnt"))
    others = line("overlay") + line("vnfs") + line("vnfs:sha256:beef:/x") + line("/dev/sda", "/")
    data = others + line(render_source(mount)) + line(render_source(mount), kind="tmpfs")
    assert find_mounts(data.encode()) == (mount,)
    assert find_mounts(b"rubbish\n\n - \n") == ()
    assert find_mounts() == tuple(find_mounts())


def test_names_are_read_as_the_kernel_writes_them():
    (found,) = find_mounts(line(f"vnfs:{DIGEST}:/a\\040store", "/my\\040dir\\134\\012").encode())
    assert (found.place, found.directory) == ("/a store", Path("/my dir\\\n"))


@pytest.fixture
def mounted(tmp_path, monkeypatch):
    """Let the kernel's list have these lines."""

    def mounted(*lines):
        path = tmp_path / "mountinfo"
        path.write_text("".join(lines), encoding="utf-8")
        monkeypatch.setattr(mounts, "MOUNTINFO", path)

    mounted()
    return mounted


def pin(store, *directories):
    reason = f"mounted on {', '.join(directories)}"
    store.change_pins("mount", lambda _: {DIGEST: reason})


def test_pins_of_mounts_that_are_gone_are_dropped(store, mounted):
    assert not drop_stale_pins(store)
    pin(store, "/mnt")
    assert drop_stale_pins(store)
    assert load_reasons(store.path, "mount") == {}
    assert not drop_stale_pins(store)


def test_pins_of_what_is_mounted_stay(store, mounted):
    source = f"vnfs:{DIGEST}:{os.path.realpath(store.path)}"
    mounted(line(source, "/a"), line(source, "/b"))
    pin(store, "/a", "/b")
    assert not drop_stale_pins(store)
    mounted(line(source, "/b"), line(f"vnfs:{DIGEST}:/another/store", "/a"))
    assert drop_stale_pins(store)
    assert load_reasons(store.path, "mount") == {DIGEST: "mounted on /b"}


def test_other_owners_pins_are_not_touched(store, mounted):
    store.change_pins("administrator", lambda _: {DIGEST: "kept"})
    pin(store, "/mnt")
    drop_stale_pins(store)
    assert load_reasons(store.path, "administrator") == {DIGEST: "kept"}


def test_a_store_that_cannot_be_written_to_stays(store, mounted, monkeypatch):
    pin(store, "/mnt")

    def refuse(*_):
        raise VnfsbuildError("read-only")

    monkeypatch.setattr(store, "change_pins", refuse)
    assert not drop_stale_pins(store)


def test_unmounting_after_a_crash_takes_the_pin_back(store, mounted, monkeypatch, tmp_path):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    pin(store, str(tmp_path))
    assert mounts.unmount_capsule(tmp_path, store) is None
    assert load_reasons(store.path, "mount") == {}
    with pytest.raises(InputError, match="no capsule is mounted there"):
        mounts.unmount_capsule(tmp_path, store)


@pytest.mark.parametrize("verb", [["mount", "toy", "."], ["umount", "."]])
def test_an_ordinary_user_is_told_what_to_do(verb, monkeypatch, capfd, tmp_path):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("VNFS_SITE", str(tmp_path))
    assert cli.run(verb) == 1
    told = capfd.readouterr().err
    assert "only root" in told
    assert "vnfsbuild cat" in told


@pytest.mark.parametrize(("name", "why"), [("nothing", "No such file"), ("full", "in it")])
def test_a_directory_must_be_there_and_empty(name, why, store, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    with pytest.raises(InputError, match=why):
        mounts.mount_capsule("toy", tmp_path / name, Store(store.path), trust=None, now=0)
    path = tmp_path / "full/file"
    with pytest.raises(InputError, match="Not a directory"):
        mounts.mount_capsule("toy", path, Store(store.path), trust=None, now=0)
