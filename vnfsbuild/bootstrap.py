"""The flow of ``vnfsbuild bootstrap build``: the OS that fetches, verifies and starts capsules.

A recipe like any other; but of its root tree only kernel and initrd are kept, and nothing of a
site is in either.
"""

from __future__ import annotations

from pathlib import Path

from vnfsbuild.agentzip import render_agent
from vnfsbuild.build import KERNEL, BuiltCapsule, keep_kernel, make_config
from vnfsbuild.initrd.bootstrap import build_bootstrap_initrd
from vnfsbuild.keys import find_signing_key
from vnfsbuild.manifest import BOOTSTRAP
from vnfsbuild.namespace import call_with, verify_host
from vnfsbuild.places import Places
from vnfsbuild.resolve import load_or_make_lock, load_recipe, source_paths
from vnfsbuild.seal import Payloads, attach_packages, seal
from vnfsbuild.source import pack_source
from vnfsbuild.stages import (
    Job,
    Made,
    fetch_inputs,
    make_tree,
    open_workspace,
    recipe_ids,
)
from vnfsbuild.store import Store
from vnfsbuild.timings import Timings


def build_bootstrap(
    recipe_dir: Path,
    places: Places,
    *,
    timings: Timings,
    key_name: str | None,
    with_packages: bool = False,
) -> BuiltCapsule:
    """Build the bootstrap of the recipe in *recipe_dir*, sign it and add it to the store.

    *key_name* names the key that signs; None: the site's only one, or none when it has none.
    *with_packages*: all packages that it was made of are kept beside it in the store.

    Raises:
        InputError: recipe, lock or key cannot be used as they are.
        VnfsbuildError: packages cannot be had, or a stage failed; the store is as it was.
    """
    loaded = load_recipe(recipe_dir)
    key = find_signing_key(places.site, key_name)
    verify_host()
    with timings.stage("lock"):
        lock = load_or_make_lock(loaded, cache=places.cache)
    tools_tree = fetch_inputs(loaded, lock, places=places, timings=timings)
    with open_workspace(lock, places=places) as workspace:
        job = Job(
            loaded=loaded, lock=lock, places=places, workspace=workspace, tools_tree=tools_tree
        )
        made = call_with(recipe_ids(loaded.recipe), make_payloads, job)
        timings.add(made.seconds)
        payloads = Payloads(
            source=pack_source(source_paths(loaded)),
            kernel=made.kernel,
            initrd=made.initrd,
        )
        config = make_config(loaded, lock, made.kernel_version, ())
        store = Store(places.store)
        with timings.stage("seal"):
            built = seal(store, BOOTSTRAP, config, payloads, key=key)
        if with_packages:
            with timings.stage("package set"):
                attach_packages(store, built, lock, cache=places.cache, work=workspace)
        return built


def make_payloads(job: Job) -> Made:
    """Return what *job* becomes, as root: tree and initrd.

    Raises:
        VnfsbuildError: a stage failed.
    """
    timings = Timings()
    root = make_tree(job, timings=timings)
    version = keep_kernel(root, job)
    initrd = job.workspace / "initrd"
    with timings.stage("initrd"):
        directory = job.loaded.directory
        build_bootstrap_initrd(
            root, job.tools_tree, version, initrd, recipe_dir=directory, agent=render_agent()
        )
    return Made(
        kernel_version=version,
        kernel=job.workspace / KERNEL,
        initrd=initrd,
        layers=(),
        seconds=timings.seconds,
    )
