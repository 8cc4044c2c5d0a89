"""The payloads of a capsule: layers of each recipe of its chain, kernel and initrd of the last.

A payload that was packed of the same list by the same tools is taken from the cache: what did not
change is not packed again, whatever else did.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vnfsbuild.builder import find_builder
from vnfsbuild.digest import copy_stream
from vnfsbuild.errors import InputError, VerificationError
from vnfsbuild.initrd.capsule import build_capsule_initrd
from vnfsbuild.inputs import StageInputs, make_payload_inputs
from vnfsbuild.layer import MODULES, Entry, keep_below, leave_out, split_difference, split_layers
from vnfsbuild.manifest import LAYER_EROFS, LAYER_SQUASHFS
from vnfsbuild.pack.erofs import pack_erofs
from vnfsbuild.pack.squashfs import pack_squashfs
from vnfsbuild.stagecache import Draft
from vnfsbuild.stages import MadeLayer
from vnfsbuild.treelist import digest_of_list
from vnfsbuild.trees import Line, forget, load_final_list, make_final

logger = logging.getLogger(__name__)

FORMATS = {"squashfs": (LAYER_SQUASHFS, pack_squashfs), "erofs": (LAYER_EROFS, pack_erofs)}
"""A recipe's rootfs.format → media type of the layers, and what packs them."""
KERNEL, INITRD = "kernel", "initrd"
"""The files of them, in the workspace."""
VERSION = "version"


def make_layers(line: Line) -> tuple[MadeLayer, ...]:
    """Return all layers of the chain of *line*, the undermost first.

    Those of a base are what its own capsule has, byte for byte.

    Raises:
        VnfsbuildError: a stage failed.
    """
    made: list[tuple[str, MadeLayer]] = []
    lower: list[Entry] = []
    for number, part in enumerate(line.parts):
        upper = leave_out(load_final_list(line, number), part.exclude)
        if number:
            forget(line, number - 1)
            found, replaced = split_difference(lower, upper, epoch=part.lock.epoch)
            if replaced:
                made = [item for item in made if item[0] != "modules"]
        else:
            found = split_layers(upper, exclude=())
        for kind, entries in found.items():
            name = f"{kind}-{number}" if number else kind
            made.append((kind, _make_layer(line, number, name, entries)))
        lower = upper
    return tuple(layer for _, layer in made)


def make_boot(line: Line, formats: Sequence[str]) -> tuple[str, Path, Path]:
    """Return the version of the kernel, its file and that of the initrd, in the workspace.

    *formats* are the file systems of the layers.

    Raises:
        InputError: the tree has no kernel, or several, or lacks a module.
        VnfsbuildError: a stage failed.
    """
    number = len(line.parts) - 1
    part = line.parts[number]
    recipe = part.loaded.recipe
    entries = load_final_list(line, number)
    version, path = find_kernel_entry(entries, where=str(part.loaded.directory))
    wanted = [*keep_below(entries, MODULES), *(item for item in entries if item.path == path)]
    inputs = make_payload_inputs(
        recipe.name,
        "boot",
        tree=digest_of_list(wanted),
        tools=line.parts[0].lock.tools,
        builder=find_builder().digest,
        formats=" ".join(formats),
        modules=" ".join(recipe.kernel.initrd_modules),
        kernel=path,
    )

    def make(directory: Path) -> None:
        root = make_final(line, number).root
        shutil.copyfile(root / path, directory / KERNEL)
        with line.timings.stage("initrd"):
            build_capsule_initrd(
                root,
                line.tools_tree,
                version,
                directory / INITRD,
                formats=formats,
                extra_modules=recipe.kernel.initrd_modules,
            )

    _make(line, inputs, (KERNEL, INITRD), make)
    return version, line.workspace / KERNEL, line.workspace / INITRD


_KERNEL = re.compile(r"boot/vmlinuz-(?P<version>[^/]+)|usr/lib/modules/(?P<beside>[^/]+)/vmlinuz")


def find_kernel_entry(entries: Sequence[Entry], *, where: str) -> tuple[str, str]:
    """Return version and path of the one kernel in the tree list *entries*.

    Raises:
        InputError: there is none, or there are several; *where* names the recipe.
    """
    found: dict[str, str] = {}
    for item in entries:
        # RPM distributions have it beside its modules alone.
        match = _KERNEL.fullmatch(item.path)
        if match:
            version = match["version"] or match["beside"]
            if match["version"] or version not in found:
                found[version] = item.path
    if len(found) != 1:
        names = ", ".join(found.values()) or "none"
        raise InputError(f"{where}: kernel.package: found kernels: {names}; expected one")
    return next(iter(found.items()))


def _make_layer(line: Line, number: int, name: str, entries: Sequence[Entry]) -> MadeLayer:
    part = line.parts[number]
    rootfs, epoch = part.loaded.recipe.rootfs, part.lock.epoch
    media_type, pack = FORMATS[rootfs.format]
    file = f"{name}.{rootfs.format}"
    inputs = make_payload_inputs(
        part.loaded.recipe.name,
        f"layer {name}",
        tree=digest_of_list(entries),
        tools=line.parts[0].lock.tools,
        builder=find_builder().digest,
        format=rootfs.format,
        level=str(rootfs.level),
        epoch=str(epoch),
    )

    def make(directory: Path) -> None:
        root = make_final(line, number).root
        with line.timings.stage("pack"):
            out = directory / file
            pack(line.tools_tree, entries, root, out, epoch=epoch, level=rootfs.level)

    _make(line, inputs, (file,), make)
    return MadeLayer(name=name, media_type=media_type, path=line.workspace / file)


def _make(
    line: Line, inputs: StageInputs, names: Sequence[str], make: Callable[[Path], Any]
) -> None:
    """Put the files *names* into the workspace: from the cache, or as *make* makes them there."""
    line.told[inputs.stage] = "reused"
    if line.cache and _take(line, inputs, names):
        return
    line.told[inputs.stage] = "made"
    make(line.workspace)
    if line.cache is None:
        return
    with line.timings.stage("store"):
        try:
            with line.cache.making(inputs) as draft:
                _keep(draft, [line.workspace / name for name in names])
        except OSError as error:
            logger.warning("cache: %s is not kept: %s", inputs.stage, error)


def _keep(draft: Draft, paths: Sequence[Path]) -> None:
    for path in paths:
        shutil.copyfile(path, draft.directory / path.name)


def _take(line: Line, inputs: StageInputs, names: Sequence[str]) -> bool:
    """Copy the files *names* out of the cache; False where it has not all of them, whole."""
    assert line.cache
    stored = line.cache.peek(inputs.key)
    if stored is None:
        return False
    try:
        for name in names:
            with (
                (stored.directory / name).open("rb") as source,
                (line.workspace / name).open("wb") as target,
            ):
                if copy_stream(source, target) != stored.files.get(name):
                    raise VerificationError(f"{stored.directory / name}: damaged")
    except (VerificationError, OSError) as error:
        line.cache.throw_away(stored, error)
        return False
    line.cache.touch(stored)
    return True
