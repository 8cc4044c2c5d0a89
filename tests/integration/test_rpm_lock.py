"""Locks of RPM distributions, by the real dnf of the tools tree, from small repositories.

The tools are Debian's, as always, and come from a repository of exactly what the tools trees of
this machine consist of; the keys are test keys.
"""

import hashlib
import json
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from vnfsbuild import cli, newlock
from vnfsbuild.lock import parse_lock
from vnfsbuild.packages import package_path
from vnfsbuild.places import find_places
from vnfsbuild.toolstree import load_tools

from ..unit.vnfsbuild.archives import DATE
from ..unit.vnfsbuild.pgp import Key
from ..unit.vnfsbuild.rpms import RpmArchive, make_rpm, sha256
from .rpmworld import make_tools_mirror

pytestmark = [
    pytest.mark.integration, pytest.mark.timeout(300), pytest.mark.xdist_group("rpm-lock"),
]  # fmt: skip

KEY = Key("rpms")

RECIPE = """\
name = "toy"
[distribution]
id = "rocky"
release = "9"
components = ["BaseOS"]
mirror = "{mirror}"
key = "rocky.asc"
{distribution}
{repositories}
[packages]
install = [{install}]
{packages}
[kernel]
package = "kernel-core"
[agent]
enabled = false
"""


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return make_tools_mirror(tmp_path_factory.mktemp("template"))


@dataclass
class World:
    """A recipe, the repository of its packages, and the command line."""

    top: Path
    run: object
    archive: RpmArchive = field(init=False)

    def __post_init__(self):
        self.archive = RpmArchive(self.top / "mirror/9/BaseOS/x86_64/os", key=KEY)

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

    @property
    def row(self):
        (found,) = [item for item in self.lock.repositories if item.id == "rocky-BaseOS"]
        return found

    def write(self, *install, **words):
        self.recipe.mkdir(exist_ok=True)
        values = {"repositories": "", "packages": "", "distribution": "", **words}
        text = RECIPE.format(
            mirror=(self.top / "mirror").as_uri(),
            install=", ".join(f'"{name}"' for name in install),
            **values,
        )
        (self.recipe / "recipe.toml").write_text(text)
        (self.recipe / "rocky.asc").write_bytes(KEY.armoured())

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
def world(whole_world, monkeypatch, template):
    """The tools are given, and not chosen: that is apt's part, and test_lock's."""
    # All of one repository, as the mirror of this test has them.
    tools = tuple(
        replace(item, repository="debian-trixie")
        for item in load_tools("build-rpm", template / "cache")
    )
    (tree,) = (template / "cache/tools").glob("build-rpm-*")
    monkeypatch.setattr(newlock, "_choose_tools", lambda request, verified: (tools, tree))
    monkeypatch.setattr(newlock, "find_kept_tools", lambda *args, **words: tools)
    return whole_world


@pytest.fixture
def whole_world(template, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VNFS_CACHE", str(template / "cache"))
    monkeypatch.setenv("VNFS_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("VNFS_MIRROR", (template / "tools").as_uri())
    monkeypatch.setenv("VNFS_SECURITY_MIRROR", "none")

    def run(*arguments):
        capsys.readouterr()
        status = cli.run([str(word) for word in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    found = World(top=tmp_path, run=run)
    found.archive.add("basesystem").add("kernel-core").add("lib", "1")
    found.archive.add("app", "1", requires=["lib"]).add("other", "1").publish()
    found.write("app", "other")
    return found


def test_the_same_repositories_give_the_same_bytes(whole_world):
    world = whole_world
    world.locked()
    first = world.lock_path.read_bytes()
    assert world.versions == {
        "app": "1-1", "basesystem": "1-1", "kernel-core": "1-1", "lib": "1-1", "other": "1-1",
    }  # fmt: skip
    assert world.row.keys == (KEY.fingerprint,)
    assert (world.row.suite, world.row.trust) == ("BaseOS/x86_64/os/", "metadata")
    assert b"trust" not in first
    (app,) = [item for item in world.lock.packages if item.name == "app"]
    assert app.path == "BaseOS/x86_64/os/Packages/app-1-1.noarch.rpm"
    assert {"dnf", "rpm", "createrepo-c"} <= {item.name for item in world.lock.tools}
    assert "unchanged" in world.locked()
    assert "unchanged" in world.locked("--update")
    world.lock_path.unlink()
    world.locked()
    assert world.lock_path.read_bytes() == first


@pytest.mark.long
def test_what_is_locked_stays_until_it_is_to_move(world):
    world.locked()
    world.archive.add("app", "2", requires=["lib"]).drop("app", "1").add("lib", "2")
    world.archive.drop("lib", "1").add("new", requires=["lib"]).publish(date=DATE + 100)
    world.write("app", "other", "new")
    told = world.locked()
    assert "new" in told
    assert world.versions["app"] == world.versions["lib"] == "1-1"
    assert world.versions["new"] == "1-1"
    assert world.lock.serial == 2
    world.locked("--update", "lib")
    assert (world.versions["app"], world.versions["lib"]) == ("1-1", "2-1")
    world.locked("--update")
    assert world.versions["app"] == "2-1"


@pytest.mark.long
def test_what_must_move_moves(world):
    world.locked()
    world.archive.add("lib", "2").add("new", requires=["lib"]).publish(date=DATE + 100)
    path = world.archive.directory / "repodata"
    assert path.is_dir()
    world.write("app", packages='remove = ["other"]')
    world.locked()
    assert "other" not in world.versions
    assert world.versions["lib"] == "1-1"


@pytest.mark.long
def test_no_network_is_needed_where_nothing_new_is_wanted(world):
    world.locked()
    shutil.rmtree(world.top / "mirror")
    world.write("app")
    world.locked()
    assert "other" not in world.versions


def test_older_metadata_is_refused_unless_it_is_meant(world):
    world.archive.publish(date=DATE + 100)
    world.locked()
    world.archive.publish(date=DATE)
    assert "older than the lock's" in world.refused("--update")
    world.locked("--update", "--allow-older")


def test_metadata_by_another_key_is_refused(world):
    world.archive.publish(key=Key("other"))
    assert "not signed by the key that was named for it" in world.refused()


def test_unsigned_metadata_must_be_said(world):
    world.archive.publish(signed=False)
    told = world.refused()
    assert "metadata not signed" in told
    assert 'distribution.trust = "packages-only"' in told
    world.write("app", distribution='trust = "packages-only"')
    world.locked()
    assert (world.row.trust, world.row.keys) == ("packages-only", (KEY.fingerprint,))
    assert 'trust = "packages-only"' in world.lock_path.read_text()


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (make_rpm("app", requires=["lib"]), "not signed, and neither is the metadata"),
        (make_rpm("app", requires=["lib"], key=Key("other")), "not signed by the key"),
        (make_rpm("evil", key=KEY), "is, by its own header, evil"),
    ],
)
def test_each_package_is_verified_where_only_packages_are_signed(world, data, told):
    path = "Packages/app-1-1.noarch.rpm"
    (world.archive.directory / path).write_bytes(data)
    world.archive.rows["app", "1"] = (path, data, ("lib",), 0)
    world.archive.publish(signed=False)
    world.write("app", distribution='trust = "packages-only"')
    assert told in world.refused()


@pytest.mark.long
def test_a_name_that_there_is_not_is_told_with_what_is_near(world):
    world.write("aps")
    told = world.refused(status=2)
    assert "packages.install[0]: found 'aps', which rocky 9 does not have; near: app" in told


@pytest.mark.long
def test_what_does_not_go_together_is_told(world):
    world.archive.add("broken", requires=["nowhere"]).publish()
    world.write("broken")
    assert "nothing provides nowhere" in world.refused(status=2)


@pytest.mark.long
def test_a_package_that_is_not_to_be_installed_is_not(world):
    world.write("app", packages='remove = ["lib"]')
    assert "cannot be installed together" in world.refused(status=2)


@pytest.mark.long
def test_local_packages_and_repositories_of_others(world):
    site = RpmArchive(world.recipe / "site", key=Key("site"))
    site.add("tool", "3").publish()
    (world.recipe / "site.asc").write_bytes(Key("site").armoured())
    (world.recipe / "debs").mkdir()
    (world.recipe / "debs/app.rpm").write_bytes(make_rpm("app", "0.9"))
    world.write(
        "app", "tool",
        repositories='[[repositories]]\nid = "site"\npath = "site"\nkey = "site.asc"',
        packages='local = ["debs/*.rpm"]',
    )  # fmt: skip
    world.locked()
    assert (world.versions["app"], world.versions["tool"]) == ("0.9-1", "3-1")
    assert {item.name: item.repository for item in world.lock.packages}["app"] == "local"
    assert world.run("fetch", world.recipe)[0] == 0


@pytest.mark.long
def test_what_mirrors_dropped_is_at_a_vault(world):
    world.locked()
    vault = world.top / "vault/9.3"
    vault.parent.mkdir()
    (world.top / "mirror/9").rename(vault)
    shutil.rmtree(package_path(find_places().cache, ""))
    status, _, err = world.run("fetch", world.recipe)
    assert status == 1
    assert "not to be had" in err
    world.write("app", "other", distribution=f'vaults = ["{vault.as_uri()}"]')
    world.locked()
    status, out, err = world.run("fetch", "--json", world.recipe)
    assert status == 0, err
    assert json.loads(out)["fetched"] >= 5


def test_a_vendored_repository_is_a_mirror(world):
    world.locked()
    for name in ("one", "two"):
        status, _, err = world.run("vendor", world.recipe, world.top / name)
        assert status == 0, err
    one = {p.relative_to(world.top / "one"): p for p in (world.top / "one").rglob("*.*")}
    assert Path("BaseOS/x86_64/os/repodata/repomd.xml") in one
    for path, found in one.items():
        if found.is_file():
            assert found.read_bytes() == (world.top / "two" / path).read_bytes(), path
    shutil.rmtree(world.top / "mirror")
    shutil.rmtree(package_path(find_places().cache, ""))
    status, _, err = world.run("fetch", world.recipe, "--mirror", world.top / "one")
    assert status == 0, err


@pytest.mark.long
def test_packages_by_another_digest_are_not_followed(world):
    def weaker(make):
        text = make().decode().replace('type="sha256" pkgid', 'type="sha" pkgid')
        for _, data, *_ in world.archive.rows.values():
            text = text.replace(sha256(data), hashlib.sha1(data).hexdigest())
        return text.encode()

    primary, filelists = world.archive._primary, world.archive._filelists
    world.archive._primary = lambda: weaker(primary)
    world.archive._filelists = lambda: weaker(filelists)
    world.archive.publish()
    assert "by no SHA-256" in world.refused(status=1)


@pytest.mark.long
def test_an_edited_row_is_refused(world):
    world.locked()
    text = world.lock_path.read_text().replace('"app", version = "1-1"', '"app", version = "2-1"')
    world.lock_path.write_text(text)
    world.write("app")
    assert "the lock was edited" in world.refused()
