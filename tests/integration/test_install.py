"""A recipe becomes a root tree: by the real apt, the real mkosi, the real mirror of this host."""

import contextlib
import os
import shutil
import stat
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from vnfsbuild.agentzip import render_agent
from vnfsbuild.errors import InputError, VnfsbuildError
from vnfsbuild.local import apply_services
from vnfsbuild.packages import fetch_locked, find_missing, package_path
from vnfsbuild.places import find_places
from vnfsbuild.recipe import Services
from vnfsbuild.resolve import load_or_make_lock, load_recipe, save_new_lock
from vnfsbuild.sandbox import tree_argv
from vnfsbuild.stages import build_tree, open_workspace
from vnfsbuild.timings import Timings
from vnfsbuild.toolstree import ensure_tools_tree
from vnfsbuild.tree import list_tree

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

PLACES = find_places()
AGENT = render_agent()


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """The recipe that comes along, with a lock of today, in a directory of its own."""
    directory = tmp_path_factory.mktemp("recipe") / "minimal"
    ignored = shutil.ignore_patterns("recipe.lock")
    shutil.copytree(PLACES.share / "recipes/debian-13-minimal", directory, ignore=ignored)
    loaded = load_recipe(directory)
    load_or_make_lock(loaded, cache=PLACES.cache)
    return loaded


def build(recipe, workspace):
    lock = load_or_make_lock(recipe, cache=PLACES.cache)
    return build_tree(
        recipe, lock, places=PLACES, workspace=workspace, agent=AGENT, timings=Timings()
    )


def changed(recipe, directory, old, new):
    """Return a copy of *recipe* in which *old* reads *new*, without a lock."""
    ignored = shutil.ignore_patterns("recipe.lock")
    shutil.copytree(recipe.directory, directory, ignore=ignored)
    path = directory / "recipe.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return load_recipe(directory)


@pytest.fixture(scope="module")
def trees(recipe, tmp_path_factory):
    """Two builds of the same: on disk and in memory, under another umask and time zone."""
    one = build(recipe, tmp_path_factory.mktemp("one"))
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("TZ", "Asia/Kolkata")
        patch.setenv("LC_ALL", "de_DE.UTF-8")
        stack.callback(os.umask, os.umask(0o077))
        lock = load_or_make_lock(recipe, cache=PLACES.cache)
        workspace = stack.enter_context(open_workspace(lock, places=PLACES))
        yield one, build(recipe, workspace)


def test_two_builds_are_the_same(trees):
    one, two = trees
    listed = [[replace(item, inode=0) for item in list_tree(root)] for root in trees]
    assert listed[0] == listed[1]
    for item in listed[0]:
        if stat.S_ISREG(item.mode):
            assert (one / item.path).read_bytes() == (two / item.path).read_bytes(), item.path
    assert hard_links(one) == hard_links(two)


def hard_links(root):
    names = {}
    for item in list_tree(root):
        if stat.S_ISREG(item.mode):
            names.setdefault(item.inode, []).append(item.path)
    return sorted(tuple(found) for found in names.values() if len(found) > 1)


def test_the_tree_is_a_system_without_secrets(trees):
    root, _ = trees
    assert len(list(root.glob("boot/vmlinuz-*"))) == 1
    assert not list(root.glob("boot/initrd*"))
    assert not list(root.glob("etc/ssh/ssh_host_*"))
    assert (root / "etc/machine-id").read_bytes() == b""
    with zipfile.ZipFile(root / "usr/lib/vnfs/agent.pyz") as agent:
        assert "provisiond/agent/running.pyc" in agent.namelist(), "compiled by its own Python"
    assert (root / "etc/systemd/network/80-wired.network").is_file()
    wants = root / "etc/systemd/system/multi-user.target.wants"
    assert (wants / "systemd-networkd.service").is_symlink()
    assert not (root / "etc/systemd/system/sockets.target.wants/ssh.socket").exists()
    for line in (root / "etc/shadow").read_text().splitlines():
        assert line.split(":")[1].startswith(("*", "!"))


def test_a_workspace_is_gone_in_the_end(recipe, tmp_path):
    lock = load_or_make_lock(recipe, cache=PLACES.cache)
    named = {"VNFS_WORKSPACE": str(tmp_path)}

    def fail():
        with open_workspace(lock, places=PLACES, environment=named) as workspace:
            (workspace / "x").touch()
            raise VnfsbuildError("stop")

    with pytest.raises(VnfsbuildError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_build_left_is_removed_and_what_lives_is_not(recipe, tmp_path):
    lock = load_or_make_lock(recipe, cache=PLACES.cache)
    named = {"VNFS_WORKSPACE": str(tmp_path)}
    abandoned = tmp_path / "vnfsbuild.abandoned"
    abandoned.mkdir()
    os.utime(abandoned, (1, 1))
    with open_workspace(lock, places=PLACES, environment=named) as one:
        os.utime(one, (1, 1))
        with open_workspace(lock, places=PLACES, environment=named):
            assert one.is_dir()
            assert not abandoned.exists()


@pytest.fixture
def small_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", disk], check=True)
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk_is_told_and_leaves_nothing(recipe, small_disk):
    lock = load_or_make_lock(recipe, cache=PLACES.cache)
    named = {"VNFS_WORKSPACE": str(small_disk)}
    with (
        pytest.raises(VnfsbuildError) as raised,
        open_workspace(lock, places=PLACES, environment=named) as workspace,
    ):
        build(recipe, workspace)
    assert str(small_disk) in raised.value.message
    assert "no space left" in raised.value.message
    assert list(small_disk.iterdir()) == []


def test_a_changed_recipe_is_refused_until_it_is_locked_anew(recipe, tmp_path):
    directory = tmp_path / "copy"
    shutil.copytree(recipe.directory, directory)
    (directory / "files/etc/motd").write_text("hello\n")
    loaded = load_recipe(directory)
    with pytest.raises(InputError) as raised:
        load_or_make_lock(loaded, cache=PLACES.cache)
    assert "files/etc/motd is new" in raised.value.message
    assert raised.value.hint == f"vnfsbuild lock {directory}"
    lock = save_new_lock(loaded, cache=PLACES.cache)
    assert lock.serial == 2
    assert load_or_make_lock(loaded, cache=PLACES.cache) == lock
    assert save_new_lock(loaded, cache=PLACES.cache).serial == 2


def test_unknown_packages_are_told_with_key_and_near_names(recipe, tmp_path):
    loaded = changed(recipe, tmp_path / "r", '"openssh-server"', '"openssh-sever"')
    with pytest.raises(InputError) as raised:
        load_or_make_lock(loaded, cache=PLACES.cache)
    assert "packages.install[3]: found 'openssh-sever'" in raised.value.message
    assert "near: openssh-server" in raised.value.message
    assert not loaded.lock_path.exists()


def test_a_mirror_that_fails_is_told_and_leaves_no_lock(recipe, tmp_path):
    loaded = changed(
        recipe, tmp_path / "r", "[packages]", 'mirror = "http://127.0.0.1:1/debian"\n[packages]'
    )
    with pytest.raises(VnfsbuildError) as raised:
        load_or_make_lock(loaded, cache=PLACES.cache)
    assert raised.value.exit_status == 1
    assert "http://127.0.0.1:1/debian" in raised.value.message
    assert "Connection refused" in raised.value.message
    assert not loaded.lock_path.exists()


def test_a_unit_that_no_package_brought_is_told(recipe, tmp_path):
    tools_tree = ensure_tools_tree("build", PLACES.cache)
    services = Services(enable=("absent.service",), disable=(), mask=())
    with pytest.raises(InputError, match=r"services.enable: absent\.service"):
        apply_services(tmp_path, services, tools_tree=tools_tree)


def test_damaged_and_missing_packages_are_fetched_again(recipe, tmp_path):
    # In a cache of its own: other tests build from the common one at the same time.
    lock = load_or_make_lock(recipe, cache=PLACES.cache)
    small = min(lock.packages, key=lambda item: item.size_bytes)
    fetch_locked([small], cache=tmp_path)
    package_path(tmp_path, small.sha256).write_bytes(b"damaged")
    assert find_missing(tmp_path, [small]) == [small]
    fetch_locked([small], cache=tmp_path)
    assert find_missing(tmp_path, [small]) == []


@pytest.mark.parametrize(
    ("tree", "program", "option"),
    [
        ("build", "mksquashfs", "-version"),
        ("build", "zstd", "--version"),
        ("build", "systemctl", "--version"),
        ("lab", "qemu-system-x86_64", "--version"),
    ],
)
def test_programs_of_a_tools_tree_run_here(tree, program, option):
    directory = ensure_tools_tree(tree, PLACES.cache)
    argv = tree_argv(directory, program, [option])
    assert subprocess.run(argv, capture_output=True, check=True).stdout


def test_a_tools_tree_is_made_once(tmp_path):
    told = []
    one = ensure_tools_tree("build", PLACES.cache, progress=told.append)
    assert one == ensure_tools_tree("build", PLACES.cache, progress=told.append)
    assert one.parent == Path(PLACES.cache) / "tools"
    assert told == []
