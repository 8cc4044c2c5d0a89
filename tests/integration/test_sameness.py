"""One lock, one digest: by root and by another user, on disk and in memory, elsewhere, next year.

The lock is made once; everything after has no network.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from vnfsbuild.places import find_places
from vnfsbuild.toolstree import ensure_tools_tree

from . import guest as guests
from . import toy

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("sameness")]

ROOT = Path(__file__).parents[2]
COMPUTE = "debian-13-compute"
YEAR_SECONDS = 365 * 24 * 3600
BOOTED_MIB = {"toy": 3072, COMPUTE: 6144}


class Site:
    """A store of its own; the cache is everybody's."""

    def __init__(self, path):
        self.path = path
        self.cache = find_places().cache

    def run(self, *words, apart=(), **env):
        done = subprocess.run(
            [*apart, sys.executable, "-B", "-m", "vnfsbuild", *map(str, words)],
            env={
                **os.environ,
                "VNFS_STORE": str(self.path / "store"),
                "VNFS_SITE": str(self.path / "site"),
                "VNFS_CACHE": str(self.cache),
                "PYTHONPATH": str(ROOT),
                **env,
            },
            capture_output=True, text=True, cwd=self.path, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    def build(self, recipe, **words):
        return json.loads(self.run("build", "--json", recipe, **words).stdout)["digest"]

    def reproduce(self, capsule):
        return json.loads(self.run("reproduce", "--json", capsule).stdout)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    path = tmp_path_factory.mktemp("sameness")
    for parent in (path, path.parent, path.parent.parent):
        parent.chmod(0o755)
    ensure_tools_tree("build", find_places().cache)
    return Site(path)


@pytest.fixture(scope="module")
def recipes(site):
    """Locked recipes, by name."""
    compute = site.path / COMPUTE
    ignored = shutil.ignore_patterns("recipe.lock")
    shutil.copytree(ROOT / "recipes" / COMPUTE, compute, ignore=ignored)
    site.run("lock", compute)
    return {
        COMPUTE: compute,
        "toy": toy.make_locked_recipe(site.path / "toy", site.cache, site.cache),
    }


@pytest.fixture(scope="module")
def digests(site, recipes):
    """The digest of each, built by root, in memory where there is room."""
    return {name: site.build(recipe) for name, recipe in recipes.items()}


@pytest.fixture(scope="module")
def guest(site):
    return guests.build_guest(site.path, site.run)


@pytest.mark.timeout(900)
def test_a_compute_node_is_the_same_from_its_source_elsewhere(site, digests):
    """Another user, host name, umask, locale, time zone, directory and file system, one processor,
    no network.
    """
    found = site.reproduce(COMPUTE)
    assert found["same"] is True
    assert found["digest"] == digests[COMPUTE]
    varied = {"directory", "umask", "locale", "time zone", "host name", "network", "file system"}
    assert varied <= found["varied"].keys()


@pytest.mark.timeout(900)
def test_a_compute_node_is_the_same_built_twice_on_disk_without_a_network(site, recipes, digests):
    disk = site.path / "disk"
    disk.mkdir()
    again = site.build(
        recipes[COMPUTE],
        apart=("unshare", "--net", "--"),
        VNFS_STORE=str(site.path / "second"),
        VNFS_WORKSPACE=str(disk),
    )
    assert again == digests[COMPUTE]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["toy", COMPUTE])
def test_debian_13_gives_the_same(site, recipes, digests, guest, tmp_path, name):
    """Another Python, C library and set of host programs, in a chroot."""
    work = guests.make_work(tmp_path / "work", recipes[name], site.cache)
    outcome = guests.run_in_tree(guest, work, tmp_path)
    assert outcome.digest == digests[name]
    assert "Python 3.13" in outcome.told


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", ["toy", COMPUTE])
def test_next_year_gives_the_same(site, recipes, digests, guest, tmp_path, name):
    """Another kernel, processor, clock and machine."""
    next_year = time.time() + YEAR_SECONDS
    work = guests.make_work(tmp_path / "work", recipes[name], site.cache)
    outcome = guests.boot(
        guest,
        work,
        tmp_path,
        clock=datetime.fromtimestamp(next_year, UTC).strftime("%Y-%m-%dT%H:%M:%S"),
        memory_mib=BOOTED_MIB[name],
        timeout_seconds=6000,
    )
    assert outcome.digest == digests[name]
    assert outcome.clock > next_year


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_the_bootstrap_is_the_same_from_its_source_elsewhere(site):
    bootstrap = site.path / "bootstrap-kernel"
    ignored = shutil.ignore_patterns("recipe.lock")
    shutil.copytree(ROOT / "bootstrap-kernel", bootstrap, ignore=ignored)
    site.run("bootstrap", "build", bootstrap)
    assert site.reproduce("bootstrap")["same"] is True
