"""Inputs: everything that feeds the install stage, and the digest of it.

What is not in here has no say in the tree that comes out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from vnfsbuild.digest import Digest, digest_of, render_json
from vnfsbuild.lock import Lock, LockedFile, LockedKey, LockedPackage
from vnfsbuild.recipe import Recipe, SystemUser

INSTALL_FORMAT = 1
"""Grows when the same inputs give another tree: rules of ours changed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InstallInputs:
    """What the install stage works from."""

    distribution: str
    release: str
    architecture: str
    epoch: int
    wanted: tuple[str, ...]
    recommends: bool
    packages: tuple[LockedPackage, ...]
    tools: tuple[LockedPackage, ...]
    users: tuple[SystemUser, ...] = ()

    @property
    def digest(self) -> Digest:
        """The stage's cache key."""
        values = asdict(self)
        # Where a package came from has no say, only what it is.
        values["packages"] = sorted(item.sha256 for item in self.packages)
        values["tools"] = sorted(item.sha256 for item in self.tools)
        return digest_of(render_json({**values, "format": INSTALL_FORMAT}))


def make_install_inputs(recipe: Recipe, lock: Lock) -> InstallInputs:
    """Return what the install stage of *recipe* works from, by its *lock*."""
    return InstallInputs(
        distribution=lock.distribution,
        release=lock.release,
        architecture=lock.architecture,
        epoch=lock.epoch,
        wanted=recipe.wanted,
        recommends=recipe.packages.recommends,
        packages=lock.packages,
        tools=lock.tools,
        users=recipe.users,
    )


def find_stale(
    lock: Lock,
    *,
    recipe: Digest,
    files: Iterable[LockedFile],
    keys: Iterable[LockedKey] = (),
) -> list[str]:
    """Return in words what is not as it was when *lock* was made; empty when it is fresh.

    *keys* are those of the recipe today, for telling which of them were changed.
    """
    stale = []
    if lock.recipe != recipe:
        were, are = set(lock.recipe_keys), set(keys)
        changed = ", ".join(sorted({item.key for item in were ^ are}))
        stale.append(f"recipe.toml was changed: {changed or 'comments'}")
    before = {item.path: item for item in lock.files}
    now = {item.path: item for item in files}
    for path in sorted(before.keys() | now.keys()):
        if path not in now:
            stale.append(f"{path} is gone")
        elif path not in before:
            stale.append(f"{path} is new")
        elif now[path] != before[path]:
            stale.append(f"{path} was changed")
    return stale
