"""``vnfsbuild reproduce``: the same bytes elsewhere, or the files that differ and how."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vnfsbuild.capsule import load_capsule, make_head, write_capsule
from vnfsbuild.lock import render_lock
from vnfsbuild.manifest import Manifest, render_manifest
from vnfsbuild.places import find_places
from vnfsbuild.reference import parse_reference
from vnfsbuild.resolve import load_recipe
from vnfsbuild.store.store import Store
from vnfsbuild.toolstree import ensure_tools_tree, load_tools

from . import toy

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(600),
    pytest.mark.xdist_group("reproduce"),
]

ROOT = Path(__file__).parents[2]

PLANTED = "#!/bin/sh\ncat /proc/sys/kernel/random/uuid >/etc/planted\n"


class Site:
    """Places of its own, and the program run there."""

    def __init__(self, path):
        self.path = path
        self.cache = path / "cache"

    def run(self, *words, status=0):
        env = {
            **os.environ,
            "VNFS_STORE": str(self.path / "store"),
            "VNFS_CACHE": str(self.cache),
            "VNFS_SITE": str(self.path / "site"),
            "PYTHONPATH": str(ROOT),
            # Whatever the tests themselves are run with, here is a caller of its own.
            "TZ": "Europe/Berlin",
        }
        done = subprocess.run(
            [sys.executable, "-B", "-m", "vnfsbuild", *map(str, words)],
            env=env, capture_output=True, text=True, cwd=self.path, check=False,
        )  # fmt: skip
        assert done.returncode == status, done.stderr
        return done

    def make(self, name, **words):
        return toy.make_locked_recipe(self.path / name, self.cache, find_places().cache, **words)

    def reproduce(self, capsule, *words, status=0):
        return json.loads(self.run("reproduce", capsule, "--json", *words, status=status).stdout)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A site that has built the toy, below a directory that an ordinary user may enter."""
    ensure_tools_tree("build", find_places().cache)
    path = tmp_path_factory.mktemp("site")
    for parent in (path, *path.parents):
        if parent.stat().st_uid == os.geteuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o755)
    site = Site(path)
    site.run("build", site.make("recipe"))
    return site


def test_the_same_bytes_come_out_elsewhere(site):
    found = site.reproduce("toy")
    assert found["same"] is True
    assert found["digest"] == found["rebuilt"]
    assert found["differences"] == []
    told = {"directory", "host name", "locale", "network", "time zone", "umask", "tools"}
    assert told <= found["varied"].keys()
    assert {"clock", "kernel", "processor"} <= found["notVaried"].keys()
    # What depends on the host is said in one place or the other.
    assert {"user", "file system", "processors"} <= {**found["varied"], **found["notVaried"]}.keys()


def test_a_file_does_as_well_with_no_recipe_and_no_signature(site, tmp_path):
    site.run("export", "toy", tmp_path / "toy.vnfs")
    other = Site(tmp_path)
    shutil.copytree(site.cache / "packages", other.cache / "packages")
    done = other.run("reproduce", "./toy.vnfs")
    assert "the same: sha256:" in done.stdout
    assert "umask:" in done.stdout
    assert not (tmp_path / "store").exists()
    assert [path for path in (other.cache / "work").iterdir() if path.name[0] != "."] == []


def test_a_planted_chance_is_found_and_named_and_can_be_kept(site, tmp_path):
    site.run("build", site.make("planted", script=PLANTED))
    try:
        done = site.run("reproduce", "toy", "--keep", tmp_path / "kept.vnfs", status=3)
        assert "layer rootfs: etc/planted: content: found sha256:" in done.stdout
        assert "\n1 difference:\n" in done.stdout
        assert "not the same bytes" in done.stderr
        verify_shape(tmp_path / "kept.vnfs")
    finally:
        site.run("build", site.path / "recipe")


def verify_shape(path):
    load_capsule(path, admit=lambda head: None, take=lambda blob, chunks: [*chunks])


def test_all_that_differs_is_named_by_its_kind(site, tmp_path):
    """A capsule that is not what its source says: the source of one, the layers of another."""
    other = Site(tmp_path / "other")
    recipe = other.make("recipe")
    (recipe / "files/etc/motd").write_text("not what the source says\n")
    (recipe / "files/etc/deep/er/file").chmod(0o755)
    (recipe / "files/etc/more").write_text("")
    swapped = swap_source(site, other, recipe)
    found = site.reproduce(swapped, status=3)
    differences = {(item["payload"], item["path"], item["kind"]) for item in found["differences"]}
    assert differences == {
        ("layer rootfs", "etc/deep/er/file", "mode"),
        ("layer rootfs", "etc/motd", "content"),
        ("layer rootfs", "etc/more", "missing"),
    }


def swap_source(site, other, recipe):
    """Return a file of a capsule with the source of the toy of *site*, built from *recipe*."""
    loaded = load_recipe(recipe)
    tools = load_tools("build", find_places().cache)
    lock = toy.make_lock(loaded, toy.make_packages(other.cache), tools)
    loaded.lock_path.write_text(render_lock(lock))
    other.run("build", recipe)
    theirs, ours = Store(other.path / "store"), Store(site.path / "store")
    lying, honest = (store.get(parse_reference("toy")) for store in (theirs, ours))
    manifest = Manifest(
        artifact_type=lying.manifest.artifact_type,
        config=lying.manifest.config,
        payloads=(honest.manifest.payloads[0], *lying.manifest.payloads[1:]),
    )
    head = make_head(render_manifest(manifest), lying.config_bytes, ())
    path = other.path / "lying.vnfs"
    source = honest.manifest.payloads[0].digest
    write_capsule(
        path, head, lambda digest: (ours if digest == source else theirs).open_blob(digest)
    )
    return path


def test_another_builder_stops_before_anything_is_built(site, tmp_path):
    recipe = site.make("older")
    lock = recipe / "recipe.lock"
    text = lock.read_text().replace('builder = { version = "', 'builder = { version = "0.0.')
    lock.write_text(text)
    done = site.run("build", recipe, status=2)
    assert "made for vnfsbuild 0.0." in done.stderr
    assert f"vnfsbuild lock {recipe}" in done.stderr


def test_a_damaged_file_is_refused(site, tmp_path):
    path = tmp_path / "toy.vnfs"
    site.run("export", "toy", path)
    data = bytearray(path.read_bytes())
    data[-5000] ^= 1
    path.write_bytes(data)
    site.run("reproduce", path, status=3)


def test_a_capsule_that_is_not_there_is_an_error_of_input(site):
    assert "no such capsule" in site.run("reproduce", "nowhere", status=2).stderr


def test_a_package_set_stands_in_for_every_mirror(site, tmp_path):
    """Nothing but two files, on a machine that has no network and no package."""
    site.run("build", "--with-packages", site.path / "recipe")
    capsule, packages = tmp_path / "toy.vnfs", tmp_path / "packages.tar"
    site.run("export", "toy", capsule, "--packages", packages)
    shown = json.loads(site.run("show", "toy", "--json").stdout)
    beside = {item["what"]: item["sizeBytes"] for item in shown["attachments"]}
    assert beside["package set"] == packages.stat().st_size
    other = Site(tmp_path)
    assert other.reproduce(capsule, "--packages", packages)["same"] is True


def test_the_set_in_the_store_is_used_by_itself(site):
    site.run("build", "--with-packages", site.path / "recipe")
    shutil.rmtree(site.cache / "packages")
    assert site.reproduce("toy")["same"] is True


def test_a_rebuilder_adds_their_word_and_it_comes_home(site, tmp_path):
    """Two sites, two keys, one file that goes there and back."""
    first, other = Site(tmp_path / "first"), Site(tmp_path / "other")
    for one in (first, other):
        one.path.mkdir()
        one.cache = site.cache
    first.run("keys", "new", "dev")
    first.run("build", site.path / "recipe")
    shown = json.loads(first.run("show", "toy", "--json").stdout)
    assert [(item["name"], item["counts"]) for item in shown["attestations"]] == [("dev", True)]
    assert [item["what"] for item in shown["attachments"]] == ["SBOM"]
    bill = json.loads(first.run("sbom", "toy").stdout)
    assert {"toy-tools", "base-files", "busybox-static"} <= {
        item["name"] for item in bill["packages"]
    }
    told = first.run("verify", "toy", "--rebuilt-by", 2, status=3).stderr
    assert "built by 1 builder whose word counts (dev); expected 2" in told

    path = tmp_path / "toy.vnfs"
    first.run("export", "toy", path)
    other.run("keys", "new", "far")
    found = other.reproduce(path, "--attest")
    assert found["same"] is True
    assert len(found["builders"]) == 2

    shutil.copyfile(other.path / "site/keys/far.pub", first.path / "site/keys/far.pub")
    first.run("trust", "allow", "*", "--builder", "far")
    first.run("import", path)
    verified = json.loads(first.run("verify", "toy", "--rebuilt-by", 2, "--json").stdout)
    assert sorted(verified["builders"]) == sorted(found["builders"])
    assert verified["digest"] == shown["digest"] == found["digest"]
    # In a store too, and saying it again changes nothing.
    before = (first.path / "store/index.json").read_bytes()
    assert first.reproduce("toy", "--attest", "--key", "dev")["same"] is True
    assert (first.path / "store/index.json").read_bytes() == before


def test_a_release_host_signs_what_it_has_built_too(site, tmp_path):
    """Built by whoever; signed by the host that got the same bytes."""
    release = Site(tmp_path / "release")
    release.path.mkdir()
    release.cache = site.cache
    release.run("keys", "new", "release")
    site.run("export", "toy", release.path / "toy.vnfs")
    done = release.run("sign", "toy.vnfs", "--after-reproduce")
    assert "the same: sha256:" in done.stderr
    assert done.stdout.endswith(": signed by release\n")
    found = json.loads(release.run("verify", "./toy.vnfs", "--json", "--rebuilt-by", 1).stdout)
    assert found["signers"] == found["builders"]
    release.run("import", "./toy.vnfs")
