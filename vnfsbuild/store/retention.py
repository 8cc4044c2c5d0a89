"""What may be deleted, and what is old enough. Pure: values in, values out.

Everything here looks at an index and at pins; :mod:`vnfsbuild.store.keeper` deletes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from vnfsbuild.digest import Digest
from vnfsbuild.reference import CURRENT
from vnfsbuild.store.index import StoredCapsule, StoreIndex
from vnfsbuild.store.pins import Pin


@dataclass(frozen=True, kw_only=True, slots=True)
class Deleted:
    """A capsule that was, or would be, deleted."""

    name: str
    """``NAME:SERIAL``, or the digest alone where nothing is known of it any more."""
    digest: Digest
    tags: tuple[str, ...]
    """as ``NAME:TAG``"""
    overridden: tuple[str, ...] = ()
    """Why it was to stay, had it not been forced."""


def find_reasons(
    index: StoreIndex, doomed: Collection[Digest], pins: Iterable[Pin]
) -> dict[Digest, tuple[str, ...]]:
    """Return why each of the capsules *doomed* must stay; those that need not are left out.

    A capsule stays as long as somebody pins it. What a bare name means stays as long as there are
    others of that name: somebody should say first which of them it is to mean.
    """
    found: dict[Digest, list[str]] = {}
    for pin in pins:
        if pin.digest in doomed:
            found.setdefault(pin.digest, []).append(f"{pin.reason} (pinned by {pin.owner})")
    for tag, digest in index.tags.items():
        name, _, kind = tag.partition(":")
        if kind == CURRENT and digest in doomed and _has_others(index, name, doomed):
            found.setdefault(digest, []).append(f"{tag} means it, and there are others of the name")
    return {digest: tuple(reasons) for digest, reasons in found.items()}


def _has_others(index: StoreIndex, name: str, doomed: Collection[Digest]) -> bool:
    return any(
        tag.partition(":")[0] == name and digest not in doomed for tag, digest in index.tags.items()
    )


def choose_old(
    capsules: Sequence[StoredCapsule], *, keep: int, pins: Iterable[Pin]
) -> tuple[StoredCapsule, ...]:
    """Return which of *capsules*, all of one name, are older than the newest *keep*.

    What is pinned, and what has a tag besides its serial, is kept on top of those.
    """
    pinned = {pin.digest for pin in pins}
    by_age = sorted(
        capsules, key=lambda item: (item.config.serial, bool(item.tags), item.digest), reverse=True
    )
    return tuple(
        item
        for item in by_age[keep:]
        if item.digest not in pinned and all(tag.isdigit() for tag in item.tags)
    )


def describe_deleted(
    index: StoreIndex, digest: Digest, overridden: Mapping[Digest, tuple[str, ...]]
) -> Deleted:
    """Return *digest* as it is told when it is deleted."""
    tags = tuple(sorted(name for name, held in index.tags.items() if held == digest))
    serials = [name for name in tags if name.partition(":")[2].isdigit()]
    names = {name.partition(":")[0] for name in tags}
    name = serials[0] if serials else f"{min(names)}@{digest}" if names else str(digest)
    return Deleted(name=name, digest=digest, tags=tags, overridden=overridden.get(digest, ()))
