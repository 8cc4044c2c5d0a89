"""The flow of ``vnfsbuild bootstrap build``: the OS that fetches, verifies and starts capsules.

A recipe like any other; but of its root tree only kernel and initrd are kept, and nothing of a
site is in either.
"""

from __future__ import annotations

from pathlib import Path

from vnfsbuild.agentzip import render_agent
from vnfsbuild.build import BuiltCapsule, find_kernel, make_config
from vnfsbuild.initrd.bootstrap import build_bootstrap_initrd
from vnfsbuild.keys import find_signing_key
from vnfsbuild.manifest import BOOTSTRAP
from vnfsbuild.places import Places
from vnfsbuild.resolve import load_or_make_lock, load_recipe, source_paths
from vnfsbuild.seal import Payloads, seal
from vnfsbuild.source import pack_source
from vnfsbuild.stages import build_tree, open_workspace
from vnfsbuild.store import Store
from vnfsbuild.timings import Timings
from vnfsbuild.toolstree import ensure_locked_tree

OWN_FILES = ("init", "modules.txt")
"""Beside the recipe: what the initrd is made with besides packages."""


def build_bootstrap(
    recipe_dir: Path, places: Places, *, timings: Timings, key_name: str | None
) -> BuiltCapsule:
    """Build the bootstrap of the recipe in *recipe_dir*, sign it and add it to the store.

    *key_name* names the key that signs; None: the site's only one, or none when it has none.

    Raises:
        InputError: recipe, lock or key cannot be used as they are.
        VnfsbuildError: packages cannot be had, or a stage failed; the store is as it was.
    """
    loaded = load_recipe(recipe_dir)
    key = find_signing_key(places.site, key_name)
    with timings.stage("lock"):
        lock = load_or_make_lock(loaded, cache=places.cache)
    with open_workspace(lock, places=places) as workspace:
        root = build_tree(
            loaded, lock, places=places, workspace=workspace, agent=None, timings=timings
        )
        version, kernel = find_kernel(root, where=str(recipe_dir))
        tools = ensure_locked_tree("build", places.cache, lock.tools)
        initrd = workspace / "initrd"
        with timings.stage("initrd"):
            build_bootstrap_initrd(
                root, tools, version, initrd, recipe_dir=recipe_dir, agent=render_agent()
            )
        own = {name: recipe_dir / name for name in OWN_FILES}
        payloads = Payloads(
            source=pack_source({**source_paths(loaded), **own}),
            kernel=kernel,
            initrd=initrd,
        )
        with timings.stage("seal"):
            return seal(
                Store(places.store),
                BOOTSTRAP,
                make_config(loaded, lock, version, ()),
                payloads,
                key=key,
            )
