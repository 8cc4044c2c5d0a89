"""An RPM distribution, installed by the real dnf: what its packages do when they are installed, and
that one lock gives one digest.

It is made of Debian's files (see rpmworld.py): no mirror of such a distribution need be there.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from vnfsbuild.lock import parse_lock
from vnfsbuild.places import find_places

from . import guest as guests
from . import rpmworld

pytestmark = [
    pytest.mark.integration, pytest.mark.timeout(900), pytest.mark.xdist_group("rpm-world"),
]  # fmt: skip

ROOT = Path(__file__).parents[2]
NAME = rpmworld.NAME
YEAR_SECONDS = 365 * 24 * 3600


class Site:
    """A store and a recipe of its own, a mirror on disk; no network."""

    def __init__(self, path):
        self.path = path
        self.cache = path / "cache"
        self.recipe = rpmworld.make_recipe(path / NAME, path / "mirror", find_places().cache)

    def run(self, *words, apart=("unshare", "--net", "--"), **env):
        done = subprocess.run(
            [*apart, sys.executable, "-B", "-m", "vnfsbuild", *map(str, words)],
            env={
                **os.environ,
                "VNFS_STORE": str(self.path / "store"),
                "VNFS_SITE": str(self.path / "site"),
                "VNFS_CACHE": str(self.cache),
                "VNFS_MIRROR": (self.path / "tools").as_uri(),
                "VNFS_SECURITY_MIRROR": "none",
                "PYTHONPATH": str(ROOT),
                **env,
            },
            capture_output=True, text=True, cwd=self.path, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    def read(self, *words):
        return json.loads(self.run(*words, "--json").stdout)

    def cat(self, path):
        return self.run("cat", NAME, path).stdout


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    path = rpmworld.make_tools_mirror(tmp_path_factory.mktemp("rpm"))
    for parent in (path, path.parent, path.parent.parent):
        parent.chmod(0o755)
    found = Site(path)
    found.run("lock", found.recipe)
    found.run("fetch", found.recipe)
    return found


@pytest.fixture(scope="module")
def built(site):
    return site.read("build", site.recipe)


def test_it_is_a_distribution(site):
    lock = parse_lock((site.recipe / "recipe.lock").read_text(), where="x")
    assert len(lock.packages) >= 150
    names = {item.name for item in lock.packages}
    assert {"basesystem", "filesystem", "setup", "kernel-core", "python3", "systemd"} <= names
    assert all(item.path.endswith(".rpm") for item in lock.packages)


def test_what_packages_do_when_they_are_installed_was_done(site, built):
    listed = site.read("files", "--long", NAME)
    files = {item["path"].strip("/"): item for item in listed}
    # Users by scriptlets, those of the recipe before any package.
    passwd = dict(line.split(":")[:3:2] for line in site.cat("/etc/passwd").splitlines())
    assert {"root", "messagebus", "sshd", "_chrony", "munge"} <= passwd.keys()
    assert passwd["munge"] == "201"
    # A file trigger, the database of the dynamic linker; another, that of hardware.
    assert {"etc/ld.so.cache", "usr/lib/udev/hwdb.bin"} <= files.keys()
    # Modes, owners, capabilities.
    assert files["usr/bin/su"]["mode"] == "4755"
    assert "cap_net_raw" in json.dumps(files["usr/bin/ping"])
    # Configuration of the recipe stays, and what was put aside for it is gone.
    assert not [path for path in files if path.endswith((".rpmnew", ".rpmsave"))]
    # What rpm and dnf keep of their own doings.
    assert files["var/lib/rpm/rpmdb.sqlite"]["sizeBytes"] > 100_000
    left = ("var/lib/dnf/", "var/cache/dnf/", "var/log/dnf", "var/lib/rpm/rpmdb.sqlite-")
    assert not [path for path in files if path.startswith((*left, "var/lib/rpm/.rpm.lock"))]


def test_it_is_described(site, built):
    shown = site.read("show", NAME)
    assert shown["distribution"] == "rocky 9"
    assert shown["kernel"]["arguments"][-1] == "selinux=0"
    sbom = json.loads(site.run("sbom", NAME).stdout)
    purls = [
        row["referenceLocator"] for item in sbom["packages"] for row in item.get("externalRefs", ())
    ]
    assert any(item.startswith("pkg:rpm/rocky/bash@5") for item in purls)
    assert all("distro=rocky-9" in item for item in purls if item.startswith("pkg:rpm/"))


@pytest.mark.long
def test_it_is_the_same_from_its_source_elsewhere(site, built):
    """Another user, host name, umask, locale, time zone, directory and file system, one processor,
    tools unpacked anew, no network.
    """
    found = site.read("reproduce", NAME)
    assert found["same"] is True
    assert found["digest"] == built["digest"]
    varied = {"directory", "umask", "locale", "time zone", "host name", "network", "file system"}
    assert {*varied, "order of directories"} <= found["varied"].keys()


@pytest.mark.long
def test_it_is_the_same_built_twice_on_disk(site, built):
    disk = site.path / "disk"
    disk.mkdir()
    again = site.run(
        "build", "--json", "--no-cache", site.recipe,
        VNFS_STORE=str(site.path / "second"), VNFS_WORKSPACE=str(disk),
    )  # fmt: skip
    assert json.loads(again.stdout)["digest"] == built["digest"]


@pytest.fixture(scope="module")
def guest(site):
    """It is of Debian's packages of today, which the mirror of the tools does not have."""
    everybodys = {
        "VNFS_CACHE": str(find_places().cache), "VNFS_MIRROR": "", "VNFS_SECURITY_MIRROR": "",
    }  # fmt: skip
    return guests.build_guest(site.path, partial(site.run, apart=(), **everybodys))


@pytest.mark.long
def test_debian_13_gives_the_same(site, built, guest, tmp_path):
    """Another Python, C library and set of host programs, in a chroot."""
    work = guests.make_work(tmp_path / "work", site.recipe, site.cache)
    outcome = guests.run_in_tree(guest, work, tmp_path)
    assert outcome.digest == built["digest"]
    assert "Python 3.13" in outcome.told


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_next_year_gives_the_same(site, built, guest, tmp_path):
    """Another kernel, processor, clock and machine."""
    next_year = time.time() + YEAR_SECONDS
    work = guests.make_work(tmp_path / "work", site.recipe, site.cache)
    outcome = guests.boot(
        guest,
        work,
        tmp_path,
        clock=datetime.fromtimestamp(next_year, UTC).strftime("%Y-%m-%dT%H:%M:%S"),
        memory_mib=6144,
        timeout_seconds=6000,
    )
    assert outcome.digest == built["digest"]
    assert outcome.clock > next_year


@pytest.mark.long
def test_a_vendored_repository_builds_it_where_there_is_nothing_else(site, built):
    site.run("vendor", site.recipe, site.path / "vendored")
    shutil.move(site.path / "mirror", site.path / "gone")
    packages = site.cache / "packages"
    packages.rename(site.path / "packages")
    try:
        site.run("fetch", site.recipe, "--mirror", site.path / "vendored")
        again = site.read("build", "--no-cache", site.recipe)
        assert again["digest"] == built["digest"]
    finally:
        shutil.move(site.path / "gone", site.path / "mirror")
