"""The flow of ``vnfsbuild bootstrap build``: the OS that fetches, verifies and starts capsules.

A recipe like any other; but of its root tree only kernel and initrd are kept, and nothing of a
site is in either.
"""

from __future__ import annotations

from pathlib import Path

from vnfsbuild.agentzip import render_agent
from vnfsbuild.build import KERNEL, BuiltCapsule, Kind, build_artifact, keep_kernel
from vnfsbuild.initrd.bootstrap import build_bootstrap_initrd
from vnfsbuild.initrd.drivers import build_drivers
from vnfsbuild.manifest import BOOTSTRAP
from vnfsbuild.places import Places
from vnfsbuild.stages import Job, Made, make_tree
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
    kind = Kind(artifact_type=BOOTSTRAP, make_payloads=make_payloads)
    return build_artifact(
        kind, recipe_dir, places, timings=timings, key_name=key_name, with_packages=with_packages
    )


def make_payloads(job: Job) -> Made:
    """Return what *job* becomes, as root: tree, initrd, and the drivers that are not in it.

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
    with timings.stage("drivers"):
        out = job.workspace / "drivers.cpio"
        drivers = build_drivers(root, job.tools_tree, version, out, recipe_dir=directory)
    return Made(
        kernel_version=version,
        kernel=job.workspace / KERNEL,
        initrd=initrd,
        layers=(),
        seconds=timings.seconds,
        drivers=drivers,
    )
