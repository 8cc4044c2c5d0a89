"""The flow of ``vnfsbuild build``: recipe → lock → root tree → payloads → signed capsule."""

from __future__ import annotations

from pathlib import Path

from vnfsbuild.agentzip import render_agent
from vnfsbuild.errors import InputError
from vnfsbuild.initrd.capsule import build_capsule_initrd
from vnfsbuild.keys import find_signing_key
from vnfsbuild.lock import Lock
from vnfsbuild.manifest import CAPSULE, LAYER_SQUASHFS, Config, Kernel
from vnfsbuild.pack.squashfs import MODULES, ROOTFS_EXCLUDES, pack_squashfs
from vnfsbuild.places import Places
from vnfsbuild.recipe import Recipe
from vnfsbuild.resolve import LoadedRecipe, load_or_make_lock, load_recipe, source_paths
from vnfsbuild.seal import BuiltCapsule as BuiltCapsule  # what this flow returns
from vnfsbuild.seal import Payloads, seal
from vnfsbuild.source import pack_source
from vnfsbuild.stages import build_tree, open_workspace
from vnfsbuild.store import Store
from vnfsbuild.timings import Timings
from vnfsbuild.toolstree import ensure_locked_tree

BOOTSTRAP_PROTOCOL = 1
"""What a bootstrap must speak to boot the capsules that are built here."""

LAYERS = ("rootfs", "modules")


def build_capsule(
    recipe_dir: Path, places: Places, *, timings: Timings, key_name: str | None
) -> BuiltCapsule:
    """Build the capsule of the recipe in *recipe_dir*, sign it and add it to the store.

    *key_name* names the key that signs; None: the site's only one, or none when it has none.

    Raises:
        InputError: recipe, lock or key cannot be used as they are.
        VnfsbuildError: packages cannot be had, or a stage failed; the store is as it was.
    """
    loaded = load_recipe(recipe_dir)
    recipe = loaded.recipe
    key = find_signing_key(places.site, key_name)
    with timings.stage("lock"):
        lock = load_or_make_lock(loaded, cache=places.cache)
    with open_workspace(lock, places=places) as workspace:
        agent = render_agent() if recipe.agent else None
        root = build_tree(
            loaded, lock, places=places, workspace=workspace, agent=agent, timings=timings
        )
        version, kernel = find_kernel(root, where=str(recipe_dir))
        tools = ensure_locked_tree("build", places.cache, lock.tools)
        layers = _pack_layers(root, tools, recipe, lock, workspace, timings)
        initrd = workspace / "initrd"
        with timings.stage("initrd"):
            build_capsule_initrd(
                root, tools, version, initrd, extra_modules=recipe.kernel.initrd_modules
            )
        payloads = Payloads(
            source=pack_source(source_paths(loaded)),
            kernel=kernel,
            initrd=initrd,
            layers=[(LAYER_SQUASHFS, path) for path in layers],
        )
        config = make_config(loaded, lock, version, LAYERS)
        with timings.stage("seal"):
            return seal(Store(places.store), CAPSULE, config, payloads, key=key)


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


def _pack_layers(
    root: Path, tools: Path, recipe: Recipe, lock: Lock, workspace: Path, timings: Timings
) -> list[Path]:
    # Kernel modules are a layer of their own: they dominate every update of a kernel, and are
    # untouched by all others.
    rootfs, modules = (workspace / f"{name}.squashfs" for name in LAYERS)
    with timings.stage("pack"):
        pack_squashfs(
            tools,
            root,
            rootfs,
            epoch=lock.epoch,
            level=recipe.rootfs.level,
            excludes=(*ROOTFS_EXCLUDES, *recipe.exclude),
        )
        pack_squashfs(
            tools,
            root,
            modules,
            epoch=lock.epoch,
            level=recipe.rootfs.level,
            excludes=recipe.exclude,
            only=MODULES,
        )
    return [rootfs, modules]
