"""A recipe upon another: its lock, its layers, and what becomes of it when the base moves.

The distribution is the toy; its own packages and the child's come through the real apt and mkosi.
"""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from vnfsbuild.lock import digest_of_lock, parse_lock, render_lock
from vnfsbuild.places import find_places
from vnfsbuild.recipefiles import load_recipe
from vnfsbuild.toolstree import ensure_tools_tree

from . import toy
from .test_reproduce import Site

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(600),
    pytest.mark.xdist_group("bases"),
]

CHILD = """\
name = "child"
base = "../recipe"

[distribution]
id = "debian"
release = "trixie"

[packages]
install = ["more"]
local = ["debs/*.deb"]

[kernel]
package = "linux-image-toy"

[agent]
enabled = false
"""

MORE = [
    *(toy.directory(name) for name in ("", "usr", "usr/bin")),
    toy.regular("usr/bin/more", b"#!/bin/sh\n", 0o755),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A site with the toy as the base, below a directory that an ordinary user may enter."""
    ensure_tools_tree("build", find_places().cache)
    path = tmp_path_factory.mktemp("bases")
    for parent in (path, *path.parents):
        if parent.stat().st_uid == os.geteuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o755)
    site = Site(path)
    site.run("build", site.make("recipe"))
    return site


def write_child(site, name="child", *, text=CHILD, debs=None, files=None):
    directory = site.path / name
    for path, data in (debs or {"more": toy.make_deb("more", "", MORE)}).items():
        target = directory / f"debs/{path}.deb"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    for path, data in (files or {}).items():
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    (directory / "recipe.toml").write_text(text)
    return directory


def load(directory):
    return parse_lock((directory / "recipe.lock").read_text(), where="x")


def show(site, name):
    return json.loads(site.run("show", "--json", name).stdout)


def list_layers(site, name):
    found = show(site, name)["payloads"]
    return {
        item["role"].removeprefix("layer "): item["digest"]
        for item in found
        if item["role"].startswith("layer ")
    }


def list_files(site, name):
    return {item["path"]: item for item in json.loads(site.run("files", "--json", name).stdout)}


TOOLS = [
    *(toy.directory(name) for name in ("", "usr", "usr/bin", "usr/sbin")),
    toy.regular("usr/sbin/depmod", toy.NOTHING, 0o755),
    toy.regular("usr/bin/toy", b"#!/bin/sh\n# newer\n", 0o755),
    toy.regular("usr/bin/new", b"#!/bin/sh\n", 0o755),
]
OTHER_KERNEL = "7.0.0-toy"
OTHER_IMAGE = [
    *(
        toy.directory(name)
        for name in ("", "boot", "usr", "usr/lib", "usr/lib/modules")
    ),
    toy.directory(f"usr/lib/modules/{OTHER_KERNEL}"),
    toy.regular(f"boot/vmlinuz-{OTHER_KERNEL}", b"other kernel\n"),
    *(
        toy.regular(f"usr/lib/modules/{OTHER_KERNEL}/modules.{name}", data)
        for name, data in (
            ("builtin", toy.BUILTIN), ("dep", b""), ("order", b""), ("softdep", b"")
        )
    ),
]  # fmt: skip


@pytest.fixture(scope="module")
def child(site):
    """The simplest child: a package more."""
    directory = write_child(site)
    site.run("lock", directory)
    site.run("build", directory)
    return directory


def test_the_lock_of_a_child_has_what_it_adds_and_names_its_base(site, child):
    base, lock = load(site.path / "recipe"), load(child)
    assert [item.name for item in lock.packages] == ["more"]
    assert lock.tools == () == lock.removed
    assert (lock.base.name, lock.base.serial) == ("toy", 1)
    assert lock.base.digest == digest_of_lock(base)
    assert lock.epoch == base.epoch
    before = (child / "recipe.lock").read_bytes()
    assert "unchanged" in site.run("lock", child).stdout
    assert "fresh" in site.run("lock", "--check", child).stdout
    assert (child / "recipe.lock").read_bytes() == before


def test_the_layers_of_the_base_ride_unchanged(site, child):
    below, layers = list_layers(site, "toy"), list_layers(site, "child")
    assert list(layers) == ["rootfs", "modules", "rootfs-1"]
    assert {name: layers[name] for name in below} == below
    assert {"/usr/bin/more", "/usr/bin/toy", "/etc/motd"} <= set(list_files(site, "child"))
    added = (site.path / "store/blobs/sha256" / layers["rootfs-1"][7:]).stat().st_size
    assert added < 50_000
    site.run("fsck")


def test_a_child_comes_out_the_same_elsewhere_from_its_source_alone(site, child, tmp_path):
    site.run("export", "child", tmp_path / "child.vnfs")
    assert site.reproduce(tmp_path / "child.vnfs")["same"] is True


def test_all_packages_of_the_tree_are_told(site, child):
    told = json.loads(site.run("sbom", "child").stdout)
    names = {item["name"] for item in told["packages"]}
    assert {"more", "toy-tools", "base-files", "busybox-static"} <= names


def test_a_child_upgrades_removes_and_hides(site):
    text = CHILD.replace('"more"', '"toy-tools"').replace('"child"', '"upgrade"')
    text += """
[[users.system]]
name = "added"
uid = 201
[exclude]
paths = ["etc/deep"]
"""
    debs = {"tools": toy.make_deb("toy-tools", "", TOOLS, version="2.0")}
    upgrade = write_child(site, "upgrade", text=text, debs=debs)
    site.run("lock", upgrade)
    lock = load(upgrade)
    assert [(item.name, item.version) for item in lock.packages] == [("toy-tools", "2.0")]
    site.run("build", upgrade)
    files = list_files(site, "upgrade")
    assert "/usr/bin/new" in files
    assert not {"/usr/bin/link-to-toy", "/usr/share/nümlaut", "/etc/deep"} & set(files)
    assert "/usr/bin/link-to-toy" in list_files(site, "toy")
    passwd = site.run("cat", "upgrade", "/etc/passwd").stdout
    assert "added:*:201:201:" in passwd
    assert "daemon:x:1:1:" in passwd
    assert "newer" in site.run("cat", "upgrade", "/usr/bin/toy").stdout
    changes = {item["name"]: item for item in json.loads(
        site.run("diff", "--json", "toy", "upgrade").stdout)["packages"]}  # fmt: skip
    assert {name: item["kind"] for name, item in changes.items()} == {"toy-tools": "up"}


@pytest.mark.long
def test_a_child_with_a_kernel_of_its_own_has_not_the_bases(site):
    text = CHILD.replace("linux-image-toy", "linux-image-other").replace('"child"', '"kernel"')
    debs = {"image": toy.make_deb("linux-image-other", "", OTHER_IMAGE)}
    text = text.replace('"more"', "")
    kernel = write_child(site, "kernel", text=text, debs=debs)
    site.run("lock", kernel)
    assert load(kernel).removed == ("linux-image-toy",)
    site.run("build", kernel)
    layers = list_layers(site, "kernel")
    assert list(layers) == ["rootfs", "rootfs-1", "modules-1"]
    assert layers["rootfs"] == list_layers(site, "toy")["rootfs"]
    assert show(site, "kernel")["kernel"]["version"] == OTHER_KERNEL
    files = list_files(site, "kernel")
    assert f"/usr/lib/modules/{OTHER_KERNEL}/modules.dep" in files
    assert not any(toy.KERNEL in path for path in files)


@pytest.mark.long
def test_a_chain_of_bases_and_a_base_that_moves(site, child):
    text = CHILD.replace("../recipe", "../child").replace('"child"', '"top"')
    more = [toy.directory(""), toy.directory("usr"), toy.regular("usr/top", b"top\n")]
    top = write_child(site, "top", text=text.replace('"more"', '"on-top"'), debs={
        "top": toy.make_deb("on-top", "Depends: more\n", more)})  # fmt: skip
    site.run("lock", top)
    assert [item.name for item in load(top).packages] == ["on-top"]
    site.run("build", top)
    below, layers = list_layers(site, "child"), list_layers(site, "top")
    assert list(layers) == ["rootfs", "modules", "rootfs-1", "rootfs-2"]
    assert {name: layers[name] for name in below} == below
    assert {"/usr/top", "/usr/bin/more", "/usr/bin/toy"} <= set(list_files(site, "top"))
    # The undermost moves: who is upon it is told so, one after the other, and nothing is built.
    motd = site.path / "recipe/files/etc/motd"
    before = motd.read_bytes()
    motd.write_bytes(b"moved\n")
    try:
        told = site.run("build", top, status=2).stderr
        assert "recipe/recipe.lock: made from another recipe: files/etc/motd was changed" in told
        base = load_recipe(site.path / "recipe")
        moved = replace(load(site.path / "recipe"), serial=2, files=base.files)
        base.lock_path.write_text(render_lock(moved))
        told = site.run("build", top, status=2).stderr
        assert "child/recipe.lock: its base was changed: toy:1 " in told
        assert "is now toy:2 " in told
        assert f"hint: vnfsbuild lock --rebase {child}" in told
        assert "its base was changed" in site.run("lock", "--check", child, status=4).stdout
        assert "--rebase" in site.run("lock", child, status=2).stderr
        site.run("lock", "--rebase", child)
        assert load(child).serial == 2
        told = site.run("build", top, status=2).stderr
        assert "top/recipe.lock: its base was changed: child:1 " in told
        site.run("lock", "--rebase", top)
        site.run("build", top)
        assert site.run("cat", "top", "/etc/motd").stdout == "moved\n"
    finally:
        motd.write_bytes(before)


def test_a_recipe_without_a_base_is_not_rebased(site):
    told = site.run("lock", "--rebase", site.path / "recipe", status=2).stderr
    assert "has no base" in told
