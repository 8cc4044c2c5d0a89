"""The flow of ``vnfsbuild build``: recipe → lock → root tree → payloads → signed capsule."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vnfsbuild.errors import InputError
from vnfsbuild.inputs import StageInputs, make_capsule_inputs
from vnfsbuild.lock import Lock, lay_over
from vnfsbuild.manifest import (
    CAPSULE,
    LAYER_TYPES,
    Config,
    Kernel,
    parse_descriptor,
    render_descriptor,
)
from vnfsbuild.namespace import call_with, verify_host
from vnfsbuild.places import Places
from vnfsbuild.resolve import (
    LoadedRecipe,
    load_locks,
    load_or_make_lock,
    load_recipe,
    source_paths,
)
from vnfsbuild.seal import BuiltCapsule as BuiltCapsule  # what this flow returns
from vnfsbuild.seal import Payloads, attach_packages, seal, seal_again
from vnfsbuild.signing.keys import SecretKey, find_signing_key
from vnfsbuild.source import pack_source
from vnfsbuild.stagecache import NOTE, STAGES, StageCache, find_limit
from vnfsbuild.stagerecord import REUSED, load_record, make_reports, save_record
from vnfsbuild.store.store import Store
from vnfsbuild.timings import Timings

if TYPE_CHECKING:
    from vnfsbuild.stages import Job, Made

logger = logging.getLogger(__name__)

BOOTSTRAP_PROTOCOL = 1
"""What a bootstrap must speak to boot the capsules that are built here."""

LAYERS = ("rootfs", "modules")
"""The names of the layers of a capsule without a base."""
KERNEL = "kernel"
"""The file of it, in the workspace."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """What becomes of a recipe's tree."""

    artifact_type: str
    make_payloads: Callable[[Job], Made]
    """a function of a module: it runs in another process when the user is not root"""


def build_capsule(
    recipe_dir: Path,
    places: Places,
    *,
    timings: Timings,
    key_name: str | None,
    with_packages: bool = False,
    use_cache: bool = False,
) -> BuiltCapsule:
    """Build the capsule of the recipe in *recipe_dir*, sign it and add it to the store.

    *key_name* names the key that signs; None: the site's only one, or none when it has none.
    *with_packages*: all packages that it was made of are kept beside it in the store. *use_cache*:
    stages are taken from the cache of stages where it has them, and kept in it.

    Raises:
        InputError: recipe, lock or key cannot be used as they are.
        VnfsbuildError: packages cannot be had, or a stage failed; the store is as it was.
    """
    kind = Kind(artifact_type=CAPSULE, make_payloads=make_payloads)
    return build_artifact(
        kind,
        recipe_dir,
        places,
        timings=timings,
        key_name=key_name,
        with_packages=with_packages,
        use_cache=use_cache,
    )


def build_artifact(
    kind: Kind,
    recipe_dir: Path,
    places: Places,
    *,
    timings: Timings,
    key_name: str | None,
    with_packages: bool,
    use_cache: bool = False,
) -> BuiltCapsule:
    """Build what *kind* says of the recipe in *recipe_dir*; else as :func:`build_capsule`."""
    loaded = load_recipe(recipe_dir)
    key = find_signing_key(places.site, key_name)
    verify_host()
    with timings.stage("lock"):
        load_or_make_lock(loaded, cache=places.cache)
        locks = load_locks(loaded)
    order = Order(loaded=loaded, locks=locks, artifact_type=kind.artifact_type, key=key)
    cache = StageCache(places.cache / STAGES) if use_cache else None
    if cache and not with_packages:
        built = _seal_again(order, cache, Store(places.store), timings=timings)
        if built:
            return built
    return _build(order, kind, places, cache, timings=timings, with_packages=with_packages)


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """What is built, and who signs it."""

    loaded: LoadedRecipe
    locks: tuple[Lock, ...]
    """of it and its bases, the undermost first"""
    artifact_type: str
    key: SecretKey | None

    @property
    def inputs(self) -> StageInputs:
        """What its payloads follow from."""
        return make_capsule_inputs(self.loaded.recipe.name, self.artifact_type, self.locks)


def _build(
    order: Order,
    kind: Kind,
    places: Places,
    cache: StageCache | None,
    *,
    timings: Timings,
    with_packages: bool,
) -> BuiltCapsule:
    # Where nothing was changed, none of this is needed.
    from vnfsbuild.stages import Job, fetch_inputs, open_workspace, recipe_ids

    loaded, locks = order.loaded, order.locks
    tools_tree = fetch_inputs(loaded, locks, places=places, timings=timings)
    with open_workspace(lay_over(locks), places=places) as workspace:
        job = Job(
            loaded=loaded,
            lock=locks[-1],
            locks=locks,
            places=places,
            workspace=workspace,
            tools_tree=tools_tree,
            use_cache=cache is not None,
        )
        before = load_record(places.cache, loaded.directory)
        made = call_with(recipe_ids(loaded), kind.make_payloads, job)
        timings.add(made.seconds)
        store = Store(places.store)
        built = _seal(order, made, store, timings=timings)
        if with_packages:
            with timings.stage("package set"):
                attach_packages(store, built, lay_over(locks), cache=places.cache, work=workspace)
    if cache:
        _keep_made(cache, order.inputs, made, built)
        save_record(places.cache, loaded.directory, made.inputs)
        cache.trim(find_limit())
    return replace(built, stages=make_reports(made.inputs, made.told, before))


def _seal(order: Order, made: Made, store: Store, *, timings: Timings) -> BuiltCapsule:
    payloads = Payloads(
        source=pack_source(source_paths(order.loaded)),
        kernel=made.kernel,
        initrd=made.initrd,
        layers=[(layer.media_type, layer.path) for layer in made.layers],
        drivers=made.drivers,
    )
    names = tuple(layer.name for layer in made.layers)
    config = make_config(order.loaded, order.locks[-1], made.kernel_version, names)
    with timings.stage("seal"):
        return seal(store, order.artifact_type, config, payloads, key=order.key)


def _keep_made(cache: StageCache, inputs: StageInputs, made: Made, built: BuiltCapsule) -> None:
    """Note of which payloads the capsule consists: where the store has them, they are enough."""
    try:
        with cache.making(inputs) as draft:
            draft.facts["version"] = made.kernel_version
            draft.facts["layers"] = [layer.name for layer in made.layers]
            draft.facts["payloads"] = [render_descriptor(item) for item in built.payloads]
    except OSError as error:
        logger.warning("cache: %s is not kept: %s", inputs.stage, error)


def _seal_again(
    order: Order, cache: StageCache, store: Store, *, timings: Timings
) -> BuiltCapsule | None:
    """Return the capsule of payloads that were made of the same, where the store has all, whole."""
    inputs = order.inputs
    found = cache.open(inputs.key)
    if found is None:
        return None
    with timings.stage("seal"):
        ready = tuple(parse_descriptor(item, where=NOTE) for item in found.facts["payloads"])
        if not all(store.keep(item) for item in ready):
            return None
        version, names = found.facts["version"], tuple(found.facts["layers"])
        config = make_config(order.loaded, order.locks[-1], version, names)
        source = pack_source(source_paths(order.loaded))
        built = seal_again(store, order.artifact_type, config, source, ready, key=order.key)
    return replace(built, stages=make_reports([inputs], {inputs.key: REUSED}, {}))


def make_payloads(job: Job) -> Made:
    """Return what *job* becomes, as root: layers, kernel, initrd.

    Raises:
        VnfsbuildError: a stage failed.
    """
    from vnfsbuild.payloads import make_boot, make_layers
    from vnfsbuild.stages import Made, open_line
    from vnfsbuild.trees import list_inputs

    timings = Timings()
    with open_line(job, timings) as line:
        layers = make_layers(line)
        formats = [LAYER_TYPES[layer.media_type] for layer in layers]
        version, kernel, initrd = make_boot(line, tuple(dict.fromkeys(formats)))
        return Made(
            kernel_version=version,
            kernel=kernel,
            initrd=initrd,
            layers=layers,
            seconds=timings.seconds,
            inputs=list_inputs(line),
            told=line.told,
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
        kernel=Kernel(kernel_version, loaded.recipe.kernel_arguments),
        layers=layers,
        bootstrap_protocol=BOOTSTRAP_PROTOCOL,
    )


def find_kernel(root: Path, *, where: str) -> tuple[str, Path]:
    """Return the version and the file of the one kernel in the tree *root*.

    Raises:
        InputError: there is none, or there are several; *where* names the recipe.
    """
    # RPM distributions have it beside its modules.
    found = {path.parent.name: path for path in sorted(root.glob("usr/lib/modules/*/vmlinuz"))}
    for path in sorted(root.glob("boot/vmlinuz-*")):
        found[path.name.removeprefix("vmlinuz-")] = path
    if len(found) != 1:
        names = ", ".join(str(path.relative_to(root)) for path in found.values()) or "none"
        raise InputError(f"{where}: kernel.package: found kernels: {names}; expected one")
    return next(iter(found.items()))


def keep_kernel(root: Path, job: Job) -> str:
    """Put the kernel of the tree *root* beside it, where the user can read it; return its version.

    Raises:
        InputError: there is none, or there are several.
    """
    version, kernel = find_kernel(root, where=str(job.loaded.directory))
    shutil.copyfile(kernel, job.workspace / KERNEL)
    return version
