"""Locks, by the real apt and gpgv of the tools tree, from small repositories signed by test keys.

The image is "Ubuntu" of a handful of packages, so that the tools, which are always Debian's, come
from a repository of their own: one of exactly what the tools tree of this machine consists of.
"""

import json
import os
import resource
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from vnfsbuild import cli
from vnfsbuild.errors import InputError
from vnfsbuild.lock import parse_lock
from vnfsbuild.packages import fetch_locked, find_stanza, package_path
from vnfsbuild.places import find_places
from vnfsbuild.resolve import load_or_make_lock, load_recipe
from vnfsbuild.toolstree import ensure_tools_tree, load_tools

from ..unit.vnfsbuild.archives import DATE, Archive
from ..unit.vnfsbuild.debs import make_deb
from ..unit.vnfsbuild.pgp import Key

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

PLACES = find_places()
SUITES = ("noble", "noble-updates", "noble-security")
KEY = Key("archive")

RECIPE = """\
name = "toy"
[distribution]
id = "ubuntu"
release = "noble"
mirror = "{mirror}"
{repositories}
[packages]
install = [{install}]
{packages}
[kernel]
package = "linux-image-toy"
[agent]
enabled = false
"""


def copy_linked(source, target):
    def link(one, other):
        try:
            os.link(one, other, follow_symlinks=False)
        except OSError:
            shutil.copy2(one, other, follow_symlinks=False)

    shutil.copytree(source, target, symlinks=True, copy_function=link)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A cache with the tools tree of this machine, in which test keys are the archives'."""
    top = tmp_path_factory.mktemp("template")
    tree = ensure_tools_tree("build", PLACES.cache)
    copy_linked(tree, top / "cache/tools" / tree.name)
    for name in ("debian", "ubuntu"):
        path = top / f"cache/tools/{tree.name}/usr/share/keyrings/{name}-archive-keyring.gpg"
        path.unlink()
        path.write_bytes(KEY.public())
    shutil.copy(PLACES.cache / "tools/build.json", top / "cache/tools/build.json")
    tools = Archive(top / "tools", suite="trixie", key=KEY)
    packages = load_tools("build", PLACES.cache)
    fetch_locked(packages, cache=PLACES.cache)
    for item in packages:
        target = tools.directory / item.path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(package_path(PLACES.cache, item.sha256), target)
        tools.stanzas[item.name, item.version] = find_stanza(PLACES.cache, item)
    tools.publish()
    Archive(top / "tools", suite="trixie-updates", key=KEY).publish()
    return top


@dataclass
class World:
    """A recipe, the repository of its packages, and the command line."""

    top: Path
    archive: Archive
    run: object

    @property
    def recipe(self):
        return self.top / "recipe"

    @property
    def lock_path(self):
        return self.recipe / "recipe.lock"

    @property
    def lock(self):
        return parse_lock(self.lock_path.read_text(), where="x")

    @property
    def versions(self):
        return {item.name: item.version for item in self.lock.packages}

    def write(self, *install, repositories="", packages="", mirror=None):
        self.recipe.mkdir(exist_ok=True)
        text = RECIPE.format(
            mirror=mirror or self.archive.url,
            install=", ".join(f'"{name}"' for name in install),
            repositories=repositories,
            packages=packages,
        )
        (self.recipe / "recipe.toml").write_text(text)

    def publish(self, **words):
        for suite in SUITES[1:]:
            Archive(self.archive.directory, suite=suite, key=self.archive.key).publish()
        self.archive.publish(**words)

    def locked(self, *arguments):
        status, out, err = self.run("lock", self.recipe, *arguments)
        assert status == 0, err
        return out

    def refused(self, *arguments, status=3, verb="lock"):
        before = self.lock_path.read_bytes() if self.lock_path.exists() else None
        found, _, err = self.run(verb, self.recipe, *arguments)
        assert found == status, err
        assert (self.lock_path.read_bytes() if self.lock_path.exists() else None) == before
        return err


@pytest.fixture
def world(template, tmp_path, monkeypatch, capsys):
    copy_linked(template / "cache", tmp_path / "cache")
    shutil.copyfile(template / "cache/tools/build.json", tmp_path / "build.json")
    (tmp_path / "build.json").replace(tmp_path / "cache/tools/build.json")
    monkeypatch.setenv("VNFS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("VNFS_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("VNFS_MIRROR", (template / "tools").as_uri())
    monkeypatch.setenv("VNFS_SECURITY_MIRROR", "none")

    def run(*arguments):
        capsys.readouterr()
        status = cli.run([str(word) for word in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    archive = Archive(tmp_path / "mirror", suite="noble", key=KEY)
    archive.add("base-files", extra="Essential: yes\n").add("linux-image-toy").add("lib", "1")
    archive.add("app", "1", depends="lib (>= 1)").add("other", "1").add("gawk").add("mawk")
    found = World(top=tmp_path, archive=archive, run=run)
    found.publish()
    found.write("app", "other")
    return found


def outdate(world):
    """Let the repository move on, and drop what it had."""
    for name, depends in (("lib", ""), ("app", "lib (>= 2)"), ("other", "")):
        world.archive.add(name, "2", depends=depends).drop(name, "1")
    world.publish(date=DATE + 100)


def test_the_same_repositories_give_the_same_bytes(world):
    assert (
        world.locked()
        == f"{world.lock_path}: serial 1, 5 packages, {tool_count(world)} of the tools\n"
    )
    first = world.lock_path.read_bytes()
    assert [item.name for item in world.lock.packages] == [
        "app", "base-files", "lib", "linux-image-toy", "other",
    ]  # fmt: skip
    assert {item.keys for item in world.lock.repositories} == {(KEY.fingerprint,)}
    assert world.lock.epoch == DATE
    assert "unchanged" in world.locked()
    assert "unchanged" in world.locked("--update")
    assert world.lock_path.read_bytes() == first
    world.lock_path.unlink()
    world.locked()
    assert world.lock_path.read_bytes() == first


def tool_count(world):
    return len(load_tools("build", world.top / "cache"))


def test_newer_metadata_alone_changes_nothing(world):
    world.locked()
    first = world.lock_path.read_bytes()
    world.publish(date=DATE + 100)
    assert "unchanged" in world.locked("--update")
    assert world.lock_path.read_bytes() == first


def test_what_is_locked_stays_when_the_recipe_changes(world):
    world.locked()
    outdate(world)
    world.write("app", "other", "gawk")
    assert world.locked().splitlines()[0] == "added: gawk 1"
    assert world.versions == {
        "app": "1", "base-files": "1", "gawk": "1", "lib": "1", "linux-image-toy": "1",
        "other": "1",
    }  # fmt: skip
    assert world.lock.serial == 2
    world.archive.directory.rename(world.top / "away")
    world.write("other")
    out = world.locked()
    assert out.splitlines()[:3] == ["removed: app 1", "removed: gawk 1", "removed: lib 1"]
    assert world.lock.serial == 3


def test_named_packages_move_and_what_they_force(world):
    world.locked()
    outdate(world)
    assert world.locked("--update", "app").splitlines()[:2] == ["up: app 1 → 2", "up: lib 1 → 2"]
    assert world.versions["other"] == "1"
    assert world.lock.serial == 2
    assert world.locked("--update", "other").splitlines()[0] == "up: other 1 → 2"


def test_a_new_package_forces_no_more_than_it_must(world):
    world.locked()
    outdate(world)
    world.archive.add("extra", depends="lib (>= 2)")
    world.publish(date=DATE + 200)
    world.write("app", "other", "extra")
    assert world.locked().splitlines()[:2] == ["added: extra 1", "up: lib 1 → 2"]
    assert (world.versions["app"], world.versions["other"]) == ("1", "1")


def test_everything_moves_when_all_is_to_be_updated_and_a_look_writes_nothing(world):
    world.locked()
    first = world.lock_path.read_bytes()
    outdate(world)
    lines = ["up: app 1 → 2", "up: lib 1 → 2", "up: other 1 → 2"]
    shown = world.locked("--diff")
    assert shown.splitlines()[:3] == lines
    assert "nothing written" in shown
    assert world.lock_path.read_bytes() == first
    found = json.loads(world.locked("--diff", "--json"))
    assert [(item["name"], item["kind"]) for item in found["changes"]] == [
        ("app", "up"), ("lib", "up"), ("other", "up"),
    ]  # fmt: skip
    assert (found["changed"], found["written"], found["serial"]) == (True, False, 2)
    assert world.locked("--update").splitlines()[:3] == lines
    assert world.lock.epoch == DATE + 100


def test_an_unknown_name_to_update_is_told(world):
    world.locked()
    assert "locks no package 'appp'; near: app" in world.refused("--update", "appp", status=2)
    assert "named with --update" in world.refused("app", status=2)


def test_going_back_is_refused_and_pointed_out_where_it_is_allowed(world):
    outdate(world)
    world.locked()
    world.archive.add("app", "1", depends="lib").drop("app", "2")
    world.publish(date=DATE)
    err = world.refused("--update")
    assert "dated 2025-06-15 15:06:40 UTC, older than the lock's of 2025-06-15 15:08:20 UTC" in err
    out = world.locked("--update", "--allow-older")
    assert out.splitlines()[0] == "DOWNGRADE: app 2 → 1"
    assert world.lock.epoch == DATE


def test_mkosis_two_steps_are_asked(world):
    # Asked at once, apt would find awk in gawk and leave mawk away.
    world.archive.add("base-files", "1", depends="awk-base", extra="Essential: yes\n")
    world.archive.add("mawk", "1", extra="Provides: awk-base\nPriority: required\n")
    world.archive.add("gawk", "1", extra="Provides: awk-base\n")
    world.archive.add("base-files", "1", depends="mawk | gawk", extra="Essential: yes\n")
    world.publish()
    world.write("app", "gawk")
    world.locked()
    assert {"mawk", "gawk"} <= world.versions.keys()


def test_another_key_is_refused(world):
    world.archive.key = Key("intruder")
    world.publish()
    assert "not signed by the key that was named for it" in world.refused()


def test_expired_metadata_is_refused(world):
    world.publish(expires=int(time.time()) - 10)
    assert "expired: valid until" in world.refused()


def test_a_missing_package_is_told_with_near_names(world):
    world.write("ap", "other")
    err = world.refused(status=2)
    assert "packages.install[0]: found 'ap', which ubuntu noble does not have; near: app" in err


def test_packages_that_do_not_go_together_are_told_in_apts_words(world):
    world.archive.add("bad", depends="lib (<< 1)")
    world.publish()
    world.write("app", "bad")
    err = world.refused(status=2)
    assert "recipe.toml: packages: these packages cannot be installed together" in err
    assert "bad" in err


FOREIGN = """
[[repositories]]
id = "site"
{where} = "{place}"
suites = ["{suite}"]
key = "site.asc"
"""


@pytest.mark.parametrize(
    ("where", "suite", "armoured"), [("url", "stable", True), ("path", "./", False)]
)
def test_repositories_of_others_are_read_with_their_own_key(world, where, suite, armoured):
    key = Key("site")
    place = world.recipe / "site"
    site = Archive(place, suite=suite, key=key).add("slurm", "1", depends="lib").publish()
    world.write("slurm", repositories=FOREIGN.format(
        where=where, place=site.url if where == "url" else "site", suite=suite
    ))  # fmt: skip
    (world.recipe / "site.asc").write_bytes(key.armoured() if armoured else key.public())
    world.locked()
    row = next(item for item in world.lock.repositories if item.id == "site")
    assert (row.keys, row.suite) == ((key.fingerprint,), suite)
    package = next(item for item in world.lock.packages if item.name == "slurm")
    assert (package.repository, package.path) == ("site", "pool/slurm_1_all.deb")
    assert [item.path for item in world.lock.files] == ["site.asc"]
    status, _, err = world.run("fetch", world.recipe)
    assert status == 0, err
    site.key = KEY
    site.add("slurm", "2").publish(date=DATE + 1)
    assert "not signed by the key" in world.refused("--update")
    (site.metadata / "InRelease").unlink()
    (site.metadata / "Release").write_text("Origin: x\n")
    assert "packages.local" in world.refused("--update")


def test_a_repository_of_others_is_not_believed_for_the_distribution(world):
    world.archive.key = Key("site")
    world.publish()
    (world.recipe / "site.asc").write_bytes(Key("site").armoured())
    repositories = FOREIGN.format(where="url", place=world.archive.url, suite="noble")
    world.write("app", repositories=repositories)
    assert "not signed by the key" in world.refused()


def test_packages_beside_the_recipe_are_preferred_and_follow_their_files(world):
    (world.recipe / "debs").mkdir()
    control = (
        "Package: other\nVersion: 0.5\nArchitecture: all\nMaintainer: x <x@example.org>\n"
        "Depends: lib\nDescription: mine\n"
    )
    make_deb(world.recipe / "debs/other.deb", control, [])
    world.write("other", packages='local = ["debs/*.deb"]')
    world.locked()
    package = next(item for item in world.lock.packages if item.name == "other")
    assert (package.version, package.repository, package.path) == ("0.5", "local", "debs/other.deb")
    assert [item.path for item in world.lock.files] == ["debs/other.deb"]
    status, _, err = world.run("fetch", world.recipe)
    assert status == 0, err
    make_deb(world.recipe / "debs/other.deb", control.replace("0.5", "0.6"), [])
    assert "up: other 0.5 → 0.6" in world.locked()


def test_fetch_takes_what_is_dropped_from_a_vendored_repository(world):
    world.locked()
    status, _, err = world.run("vendor", world.recipe, world.top / "vendored")
    assert status == 0, err
    outdate(world)
    shutil.rmtree(world.top / "cache/packages/sha256")
    status, _, err = world.run("fetch", world.recipe)
    assert status == 1
    assert " 1: not to be had:" in err
    assert "--mirror URL" in err
    status, out, err = world.run(
        "fetch", world.recipe, "--mirror", world.top / "vendored", "--json"
    )
    assert status == 0, err
    found = json.loads(out)
    assert found["packages"] == 5 + tool_count(world)


def test_a_vendored_repository_can_be_read_by_apt_itself(world):
    world.locked()
    assert world.run("vendor", world.recipe, world.top / "vendored")[0] == 0
    private = world.top / "apt"
    for name in ("etc/apt", "var/lib/apt/lists/partial", "var/cache/apt/archives/partial"):
        (private / name).mkdir(parents=True)
    line = f"deb [trusted=yes] {(world.top / 'vendored').as_uri()} noble main\n"
    (private / "etc/apt/sources.list").write_text(line)
    (private / "status").write_text("")
    options = [f"Dir={private}", f"Dir::State::status={private}/status"]
    options += ["APT::Architecture=amd64", "APT::Sandbox::User=root"]
    argv = [word for option in options for word in ("-o", option)]
    subprocess.run(["apt-get", *argv, "update", "--error-on=any"], check=True, capture_output=True)
    argv += ["--print-uris", "--quiet=2", "--yes", "install", "app"]
    found = subprocess.run(["apt-get", *argv], check=True, capture_output=True, text=True).stdout
    assert "pool/app_1_all.deb" in found


def test_a_damaged_cache_is_noticed_and_mended(world):
    world.locked()
    assert world.run("fetch", world.recipe)[0] == 0
    item = world.lock.packages[0]
    package_path(world.top / "cache", item.sha256).write_bytes(b"damaged")
    status, out, err = world.run("fetch", world.recipe, "--json")
    assert (status, json.loads(out)["fetched"]) == (0, 1), err


def test_a_mirror_that_sends_other_bytes_is_refused(world):
    world.locked()
    item = next(item for item in world.lock.packages if item.name == "app")
    path = world.archive.directory / item.path
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    status, _, err = world.run("fetch", world.recipe)
    assert status == 1
    assert "app 1: not to be had" in err
    assert "found digest sha256:" in err
    assert not package_path(world.top / "cache", item.sha256).exists()


@pytest.mark.parametrize(
    ("old", "new", "status", "told"),
    [
        ("serial = 1", "serial = 1\nsereal = 2", 2, "sereal: unknown key; did you mean 'serial'?"),
        ("serial = 1", 'serial = "1"', 2, "serial: found '1', expected a whole number"),
        ('version = "1", architecture = "all", size', 'version = "7", architecture = "all", size',
         3, "version '7', but"),
    ],
)  # fmt: skip
def test_a_lock_edited_by_hand_is_refused(world, old, new, status, told):
    world.locked()
    assert world.run("fetch", world.recipe)[0] == 0
    text = world.lock_path.read_text()
    assert old in text
    world.lock_path.write_text(text.replace(old, new, 1))
    found, _, err = world.run("vendor", world.recipe, world.top / "vendored")
    assert (found, told in err) == (status, True), err
    assert not (world.top / "vendored").exists()


def test_a_digest_edited_by_hand_is_refused(world):
    world.locked()
    assert world.run("fetch", world.recipe)[0] == 0
    app, lib = (next(i for i in world.lock.packages if i.name == name) for name in ("app", "lib"))
    row = next(line for line in world.lock_path.read_text().splitlines() if '"app"' in line)
    forged = row.replace(app.sha256, lib.sha256)
    text = world.lock_path.read_text()
    world.lock_path.write_text(text.replace(row, forged))
    found, _, err = world.run("vendor", world.recipe, world.top / "vendored")
    assert found == 2
    assert "is that of 'app' too" in err
    forged = row.replace(app.sha256, "0" * 64)
    world.lock_path.write_text(text.replace(row, forged))
    found, _, err = world.run("vendor", world.recipe, world.top / "vendored")
    assert found == 1
    assert "app 1: not to be had" in err
    assert "expected sha256:0000" in err


def test_fetch_wants_a_lock(world):
    status, _, err = world.run("fetch", world.recipe)
    assert status == 2
    assert f"hint: vnfsbuild lock {world.recipe}" in err


def test_a_failing_mirror_leaves_the_lock(world):
    world.locked()
    world.write("app", "other", "gawk", mirror="http://127.0.0.1:1/ubuntu")
    assert "http://127.0.0.1:1/ubuntu" in world.refused(status=1)


def test_a_full_disk_leaves_the_lock(world):
    world.locked()
    outdate(world)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limit[1]))
    try:
        err = world.refused("--update", "app", status=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert "File too large" in err
    assert "bug" not in err
    assert [path.name for path in world.recipe.iterdir() if "lock" in path.name] == ["recipe.lock"]


def test_a_stale_lock_is_refused_with_the_key_that_was_changed(world):
    world.locked()
    world.write("app", "gawk")
    with pytest.raises(InputError, match=r"recipe\.toml was changed: packages\.install\Z"):
        load_or_make_lock(load_recipe(world.recipe), cache=world.top / "cache")


def test_a_lock_of_another_builder_is_moved_with_the_same_packages_and_no_network(world):
    world.locked()
    packages = world.lock.packages
    digest = world.lock.builder.digest
    text = world.lock_path.read_text()
    world.lock_path.write_text(text.replace(digest, "sha256:" + "0" * 64))
    with pytest.raises(InputError, match="it may make other bytes"):
        load_or_make_lock(load_recipe(world.recipe), cache=world.top / "cache")
    world.archive.directory.rename(world.top / "away")
    world.locked()
    assert (world.lock.builder.digest, world.lock.serial) == (digest, 2)
    assert world.lock.packages == packages
