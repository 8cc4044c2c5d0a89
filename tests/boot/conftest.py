"""A capsule and a bootstrap for the boot tests: built once per run, for all workers."""

import json
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from provisiond.lab.laboratory import Settings
from vnfsbuild.bootstrap import build_bootstrap
from vnfsbuild.build import build_capsule
from vnfsbuild.files import locked
from vnfsbuild.places import Places, find_places
from vnfsbuild.reference import parse_reference
from vnfsbuild.signing.keys import new_key
from vnfsbuild.store.store import Store
from vnfsbuild.timings import Timings
from vnfsbuild.toolstree import ensure_tools_tree

CAPSULE = "debian-13-minimal"
COMPUTE = "debian-13-compute"


@dataclass(frozen=True, kw_only=True)
class Built:
    """What the tests boot."""

    places: Places
    capsule: Path
    bootstrap: Path
    digest: str
    """Of the capsule."""

    def settings(self, **more) -> Settings:
        tree = ensure_tools_tree("lab", self.places.cache)
        return Settings(tree=tree, trust=self.places.site / "trust.json", **more)


@pytest.fixture(scope="session")
def built(testrun_uid) -> Built:
    """The site of the tests has a key, a store and a trust.json of its own; the cache is shared."""
    shared = find_places()
    directory = shared.cache / "boot-tests"
    places = replace(shared, store=directory / "images", site=directory / "site")
    with locked(shared.cache / ".boot-tests.lock"):
        note = directory / "built.json"
        if not note.is_file() or json.loads(note.read_text())["run"] != testrun_uid:
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir(parents=True)
            digest = build_all(places, directory)
            note.write_text(json.dumps({"run": testrun_uid, "digest": digest}))
        digest = json.loads(note.read_text())["digest"]
    return Built(
        places=places,
        capsule=directory / "capsule.vnfs",
        bootstrap=directory / "bootstrap.vnfs",
        digest=digest,
    )


@pytest.fixture(scope="session")
def compute_capsule(built, tmp_path_factory) -> Path:
    """debian-13-compute: the tests that boot it are one group, and so run by one worker."""
    directory = tmp_path_factory.mktemp("compute")
    places = replace(built.places, store=directory / "store")
    without = shutil.ignore_patterns("recipe.lock*")
    shutil.copytree(places.share / "recipes" / COMPUTE, directory / COMPUTE, ignore=without)
    build_capsule(directory / COMPUTE, places, timings=Timings(), key_name=None)
    path = directory / "capsule.vnfs"
    Store(places.store).export(parse_reference(COMPUTE), path)
    return path


def build_all(places: Places, directory: Path) -> str:
    new_key(places.site, "tests", now=int(time.time()))
    # Copies without locks: what is tested is made by this version, from today's packages.
    for name in ("recipes", "bootstrap-kernel"):
        without = shutil.ignore_patterns("recipe.lock*")
        shutil.copytree(places.share / name, directory / name, ignore=without)
    build_bootstrap(directory / "bootstrap-kernel", places, timings=Timings(), key_name=None)
    built = build_capsule(directory / "recipes" / CAPSULE, places, timings=Timings(), key_name=None)
    store = Store(places.store)
    store.export(parse_reference("bootstrap"), directory / "bootstrap.vnfs")
    store.export(parse_reference(CAPSULE), directory / "capsule.vnfs")
    return built.digest
