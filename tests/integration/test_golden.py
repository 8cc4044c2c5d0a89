"""The capsule of one toy recipe has a digest that stands in git: tests/golden/toy.json.

When it changes, capsules of all recipes change: the same lock gives other bytes. That may be meant,
but users must read of it, so each digest there has a line of CHANGELOG.md.
"""

import json
from pathlib import Path

import pytest

from vnfsbuild.build import LAYERS, make_config, make_payloads
from vnfsbuild.contents import list_payload
from vnfsbuild.manifest import CAPSULE
from vnfsbuild.places import Places, find_places
from vnfsbuild.resolve import load_recipe
from vnfsbuild.seal import Payloads, seal
from vnfsbuild.source import pack_source
from vnfsbuild.stages import Job, open_workspace
from vnfsbuild.store.store import Store
from vnfsbuild.toolstree import ensure_locked_tree, ensure_tools_tree, load_tools

from . import toy

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests/golden/toy.json"

DECISIVE = ("apt", "busybox-static", "dpkg", "libzstd1", "mkosi", "squashfs-tools", "zstd")
"""Packages of the tools tree whose programs make the toy's bytes, or are among them."""

pytestmark = pytest.mark.integration


def read_golden():
    return json.loads(GOLDEN.read_text(encoding="utf-8"))


@pytest.fixture
def built(tmp_path):
    """Build the toy, with no lock in its source: that names tools tree and builder of the day."""
    cache = find_places().cache
    ensure_tools_tree("build", cache)
    tools = load_tools("build", cache)
    places = Places(
        store=tmp_path / "store", cache=tmp_path / "cache", site=tmp_path, share=tmp_path
    )
    loaded = load_recipe(toy.make_recipe(tmp_path / "recipe"))
    lock = toy.make_lock(loaded, toy.make_packages(places.cache), tools)
    names = ["recipe.toml", *(item.path for item in loaded.files)]
    with open_workspace(lock, places=places) as workspace:
        tree = ensure_locked_tree("build", cache, tools)
        made = make_payloads(
            Job(loaded=loaded, lock=lock, places=places, workspace=workspace, tools_tree=tree)
        )
        payloads = Payloads(
            source=pack_source({name: loaded.directory / name for name in names}),
            kernel=made.kernel,
            initrd=made.initrd,
            layers=[(layer.media_type, layer.path) for layer in made.layers],
        )
        config = make_config(loaded, lock, made.kernel_version, LAYERS)
        store = Store(places.store)
        seal(store, CAPSULE, config, payloads, key=None)
    (capsule,) = store.list_capsules()
    versions = {item.name: item.version for item in tools if item.name in DECISIVE}
    listed = {
        payload.digest: sorted(
            list_payload(store.blob_path(payload.digest), payload.media_type, tools=tree)
        )
        for payload in capsule.manifest.layers
    }
    return capsule, versions, listed


def test_the_toy_capsule_has_the_digest_that_stands_in_git(built):
    capsule, versions, _ = built
    golden = read_golden()["history"][-1]
    found = {
        "changelog": "THE LINE OF CHANGELOG.md THAT TELLS OF IT",
        "capsule": capsule.digest,
        "blobs": {
            name: blob.digest
            for name, blob in zip(
                ("config", "source", "kernel", "initrd", *LAYERS),
                capsule.manifest.blobs,
                strict=True,
            )
        },
        "tools": versions,
    }
    if versions != golden["tools"]:
        pytest.skip(f"recorded with the tools {golden['tools']}, here are {versions}")
    others = [name for name, digest in found["blobs"].items() if digest != golden["blobs"][name]]
    assert capsule.digest == golden["capsule"], (
        f"the same lock gives other bytes now ({', '.join(others)}). If that is meant, write a"
        " line about it in CHANGELOG.md, and append this, with that line, to history in"
        f" tests/golden/toy.json:\n{json.dumps(found, indent=2)}"
    )


def test_the_toy_capsule_holds_what_its_recipe_says(built):
    _, _, listed = built
    rootfs, modules = listed.values()
    assert {"etc/toy.conf", "etc/motd", "usr/bin/same-toy", "usr/share/nümlaut"} <= set(rootfs)
    assert "usr/share/doc/toy-tools" not in rootfs
    assert f"{toy.MODULES}/modules.dep" in modules
