"""The flow of ``vnfsbuild build``: recipe → lock → root tree → payloads → signed capsule."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vnfsbuild.agentzip import render_agent
from vnfsbuild.errors import InputError
from vnfsbuild.initrd.capsule import build_capsule_initrd
from vnfsbuild.layer import split_layers
from vnfsbuild.lock import Lock
from vnfsbuild.manifest import CAPSULE, LAYER_EROFS, LAYER_SQUASHFS, Config, Kernel
from vnfsbuild.namespace import call_with, verify_host
from vnfsbuild.pack.erofs import pack_erofs
from vnfsbuild.pack.squashfs import pack_squashfs
from vnfsbuild.places import Places
from vnfsbuild.resolve import LoadedRecipe, load_or_make_lock, load_recipe, source_paths
from vnfsbuild.seal import BuiltCapsule as BuiltCapsule  # what this flow returns
from vnfsbuild.seal import Payloads, attach_packages, seal
from vnfsbuild.signing.keys import find_signing_key
from vnfsbuild.source import pack_source
from vnfsbuild.stages import (
    Job,
    Made,
    fetch_inputs,
    make_tree,
    open_workspace,
    recipe_ids,
)
from vnfsbuild.standin import resolve_stand_ins
from vnfsbuild.store.store import Store
from vnfsbuild.timings import Timings
from vnfsbuild.tree import list_tree

BOOTSTRAP_PROTOCOL = 1
"""What a bootstrap must speak to boot the capsules that are built here."""

LAYERS = ("rootfs", "modules")
FORMATS = {"squashfs": (LAYER_SQUASHFS, pack_squashfs), "erofs": (LAYER_EROFS, pack_erofs)}
"""A recipe's rootfs.format → media type of the layers, and what packs them."""
KERNEL = "kernel"
"""The file of it, in the workspace."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """What becomes of a recipe's tree."""

    artifact_type: str
    layers: tuple[str, ...]
    """names of the rootfs layers, the undermost first"""
    make_payloads: Callable[[Job], Made]
    """a function of a module: it runs in another process when the user is not root"""


def build_capsule(
    recipe_dir: Path,
    places: Places,
    *,
    timings: Timings,
    key_name: str | None,
    with_packages: bool = False,
) -> BuiltCapsule:
    """Build the capsule of the recipe in *recipe_dir*, sign it and add it to the store.

    *key_name* names the key that signs; None: the site's only one, or none when it has none.
    *with_packages*: all packages that it was made of are kept beside it in the store.

    Raises:
        InputError: recipe, lock or key cannot be used as they are.
        VnfsbuildError: packages cannot be had, or a stage failed; the store is as it was.
    """
    kind = Kind(artifact_type=CAPSULE, layers=LAYERS, make_payloads=make_payloads)
    return build_artifact(
        kind, recipe_dir, places, timings=timings, key_name=key_name, with_packages=with_packages
    )


def build_artifact(
    kind: Kind,
    recipe_dir: Path,
    places: Places,
    *,
    timings: Timings,
    key_name: str | None,
    with_packages: bool,
) -> BuiltCapsule:
    """Build what *kind* says of the recipe in *recipe_dir*; else as :func:`build_capsule`."""
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
        made = call_with(recipe_ids(loaded.recipe), kind.make_payloads, job)
        timings.add(made.seconds)
        media_type, _ = FORMATS[loaded.recipe.rootfs.format]
        payloads = Payloads(
            source=pack_source(source_paths(loaded)),
            kernel=made.kernel,
            initrd=made.initrd,
            layers=[(media_type, path) for path in made.layers],
        )
        config = make_config(loaded, lock, made.kernel_version, kind.layers)
        store = Store(places.store)
        with timings.stage("seal"):
            built = seal(store, kind.artifact_type, config, payloads, key=key)
        if with_packages:
            with timings.stage("package set"):
                attach_packages(store, built, lock, cache=places.cache, work=workspace)
        return built


def make_payloads(job: Job) -> Made:
    """Return what *job* becomes, as root: tree, layers, initrd.

    Raises:
        VnfsbuildError: a stage failed.
    """
    timings = Timings()
    agent = render_agent() if job.loaded.recipe.agent else None
    root = make_tree(job, agent=agent, timings=timings)
    version = keep_kernel(root, job)
    layers = _pack_layers(root, job, timings)
    initrd = job.workspace / "initrd"
    with timings.stage("initrd"):
        recipe = job.loaded.recipe
        build_capsule_initrd(
            root,
            job.tools_tree,
            version,
            initrd,
            formats=(recipe.rootfs.format,),
            extra_modules=recipe.kernel.initrd_modules,
        )
    return Made(
        kernel_version=version,
        kernel=job.workspace / KERNEL,
        initrd=initrd,
        layers=layers,
        seconds=timings.seconds,
    )


def make_config(
    loaded: LoadedRecipe, lock: Lock, kernel_version: str, layers: tuple[str, ...]
) -> Config:
    """Return the config of what *loaded* and *lock* become."""
    return Config(
        name=loaded.recipe.name,
        serial=lock.serial,
        architecture=lock.architecture,
        distribution=f"{lock.distribution} {lock.release}",
        epoch=lock.epoch,
        kernel=Kernel(kernel_version, loaded.recipe.kernel.arguments),
        layers=layers,
        bootstrap_protocol=BOOTSTRAP_PROTOCOL,
    )


def find_kernel(root: Path, *, where: str) -> tuple[str, Path]:
    """Return the version and the file of the one kernel in the tree *root*.

    Raises:
        InputError: there is none, or there are several; *where* names the recipe.
    """
    found = sorted(root.glob("boot/vmlinuz-*"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise InputError(f"{where}: kernel.package: found kernels in boot/: {names}; expected one")
    return found[0].name.removeprefix("vmlinuz-"), found[0]


def keep_kernel(root: Path, job: Job) -> str:
    """Put the kernel of the tree *root* beside it, where the user can read it; return its version.

    Raises:
        InputError: there is none, or there are several.
    """
    version, kernel = find_kernel(root, where=str(job.loaded.directory))
    shutil.copyfile(kernel, job.workspace / KERNEL)
    return version


def _pack_layers(root: Path, job: Job, timings: Timings) -> tuple[Path, ...]:
    recipe, epoch = job.loaded.recipe, job.lock.epoch
    _, pack = FORMATS[recipe.rootfs.format]
    with timings.stage("pack"):
        layers = split_layers(resolve_stand_ins(list_tree(root), root), exclude=recipe.exclude)
        paths = []
        for name in LAYERS:
            path = job.workspace / f"{name}.{recipe.rootfs.format}"
            level = recipe.rootfs.level
            pack(job.tools_tree, layers[name], root, path, epoch=epoch, level=level)
            paths.append(path)
    return tuple(paths)
