"""The flow of ``vnfsbuild diff``: what changed from one capsule to another."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vnfsbuild.changes import Change, KeyChange, make_changes, make_key_changes
from vnfsbuild.errors import InputError, VerificationError
from vnfsbuild.inside.filechanges import FileChange, compare_trees, find_comparable
from vnfsbuild.inside.lockrows import read_rows
from vnfsbuild.inside.look import Tree, open_archive, open_root
from vnfsbuild.inside.opened import Opened
from vnfsbuild.lock import Lock, lay_over
from vnfsbuild.manifest import BOOTSTRAP
from vnfsbuild.recipe import BASE_FOLDER, LOCK_FILE

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class ValueChange:
    """Something that a node is told, or a payload, that is not as it was."""

    key: str
    before: str | None
    """None: there was none"""
    after: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """All that changed."""

    values: tuple[ValueChange, ...]
    payloads: tuple[ValueChange, ...]
    packages: tuple[Change, ...] | None
    """None: they were not asked for, or the lock in a source cannot be read"""
    keys: tuple[KeyChange, ...]
    files: tuple[FileChange, ...] | None
    """None: they were not asked for"""


def compare(
    before: Opened,
    after: Opened,
    *,
    packages: bool,
    files: bool,
    find_tools: Callable[[], Path],
) -> Comparison:
    """Return what changed from *before* to *after*: *packages*, *files*, or both.

    *find_tools* returns the tools tree "build"; it is called only for contents of an erofs.

    Raises:
        InputError: one is a bootstrap, and the other is not.
        VerificationError: one is damaged.
    """
    if _is_bootstrap(before) != _is_bootstrap(after):
        raise InputError(f"{before.name}, {after.name}: a capsule and a bootstrap: no comparison")
    locks = [_load_lock(one) for one in (before, after)] if packages else []
    known = [lock for lock in locks if lock is not None]
    return Comparison(
        values=_compare_values(before, after),
        payloads=_compare_payloads(before, after),
        packages=make_changes(known[0], known[1]) if len(known) == 2 else None,
        keys=make_key_changes(known[0], known[1]) if len(known) == 2 else (),
        files=_compare_files(before, after, find_tools) if files else None,
    )


def _load_lock(opened: Opened) -> Lock | None:
    """Return the lock in the source payload; None, with a warning, where there is none."""
    # What was changed is refused here. Below, each byte is what the manifest names.
    opened.open_payload(opened.payloads["source"])
    try:
        source = open_archive(opened, "source")
        locks: list[Lock] = []
        name = LOCK_FILE
        while not locks or locks[-1].base:
            data = b"".join(source.read_file(source.find_file(name)))
            locks.append(read_rows(data, where=f"{opened.name}: {name}"))
            name = f"{BASE_FOLDER}/{name}"
        return lay_over(locks[::-1])
    except (InputError, VerificationError) as error:
        logger.warning("packages are not compared: %s", error)
        return None


def _compare_values(before: Opened, after: Opened) -> tuple[ValueChange, ...]:
    found = []
    for one in (before, after):
        config = one.head.capsule.config
        found.append(
            {
                "name": config.name,
                "serial": str(config.serial),
                "architecture": config.architecture,
                "distribution": config.distribution,
                "epoch": str(config.epoch),
                "kernel": config.kernel.version,
                "kernel arguments": " ".join(config.kernel.arguments),
                "layers": " ".join(config.layers),
                "bootstrap protocol": str(config.bootstrap_protocol),
            }
        )
    return tuple(
        ValueChange(key=key, before=was, after=found[1][key])
        for key, was in found[0].items()
        if was != found[1][key]
    )


def _compare_payloads(before: Opened, after: Opened) -> tuple[ValueChange, ...]:
    was = {name: str(payload.digest) for name, payload in before.payloads.items()}
    now = {name: str(payload.digest) for name, payload in after.payloads.items()}
    return tuple(
        ValueChange(key=name, before=was.get(name), after=now.get(name))
        for name in [*was, *(name for name in now if name not in was)]
        if was.get(name) != now.get(name)
    )


def _compare_files(
    before: Opened, after: Opened, find_tools: Callable[[], Path]
) -> tuple[FileChange, ...]:
    if _file_payloads(before) == _file_payloads(after):
        return ()
    trees = [_open_tree(one, find_tools) for one in (before, after)]
    same_layers = {
        (number, other)
        for number, digest in enumerate(trees[0].digests)
        for other, same in enumerate(trees[1].digests)
        if digest == same
    }
    paths = find_comparable(trees[0].union, trees[1].union, same_layers=same_layers)
    digests = [tree.digest_files(paths) for tree in trees]
    return compare_trees(
        {placed.entry.path: placed for placed in trees[0].listed},
        {placed.entry.path: placed for placed in trees[1].listed},
        other_contents={path for path in paths if digests[0][path] != digests[1][path]},
    )


def _file_payloads(opened: Opened) -> list[str]:
    """Return the digests of all that files are compared of."""
    return [
        str(payload.digest)
        for name, payload in opened.payloads.items()
        if (name == "initrd" if _is_bootstrap(opened) else name.startswith("layer "))
    ]


def _open_tree(opened: Opened, find_tools: Callable[[], Path]) -> Tree:
    if _is_bootstrap(opened):
        return open_archive(opened, "initrd")
    return open_root(opened, find_tools=find_tools)


def _is_bootstrap(opened: Opened) -> bool:
    return opened.head.capsule.manifest.artifact_type == BOOTSTRAP
