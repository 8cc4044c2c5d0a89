"""Inputs: everything that feeds a stage, and the digest of it, which is the stage's cache key.

What is not in here has no say in what comes out. The inputs of a stage name the key of the stage
below it, so that a key stands for all that went into a tree from the first package on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vnfsbuild.digest import Digest, digest_of, render_json
from vnfsbuild.lock import Lock, LockedBase, LockedFile, LockedKey, LockedPackage, digest_of_lock
from vnfsbuild.recipe import Recipe

STAGE_FORMAT = 1
"""Grows when the same inputs give another tree, and the builder's digest does not tell."""

ESSENTIAL, INSTALL, LOCAL, CAPSULE = "essential", "install", "local", "capsule"
"""The stages of a recipe, in their order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageInputs:
    """What a stage works from."""

    stage: str
    recipe: str
    """the name of the recipe's capsule: for people, it is no input"""
    parts: Mapping[str, str]
    """what it is, in words → digest, or value"""
    below: Digest | None = None
    """the key of the stage that it starts from"""

    @property
    def key(self) -> Digest:
        """The stage's cache key."""
        return digest_of(render_json(self.document()))

    def document(self) -> dict[str, Any]:
        """Return them as JSON has them."""
        return {
            "below": self.below,
            "format": STAGE_FORMAT,
            "parts": dict(self.parts),
            "stage": self.stage,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class InstallInputs:
    """What mkosi is told."""

    distribution: str
    release: str
    architecture: str
    epoch: int
    wanted: tuple[str, ...]
    recommends: bool
    packages: tuple[LockedPackage, ...]
    base: str | None = None
    """the tree that it starts from, a directory"""
    removed: tuple[str, ...] = ()
    """packages of that tree that go"""


def make_essential_inputs(
    recipe: Recipe, lock: Lock, *, essential: Sequence[LockedPackage], builder: Digest
) -> StageInputs:
    """Return the inputs of the undermost stage: the packages that no system is without."""
    return StageInputs(
        stage=ESSENTIAL,
        recipe=recipe.name,
        parts={
            "builder": builder,
            "distribution": f"{lock.distribution} {lock.release} {lock.architecture}",
            "epoch": str(lock.epoch),
            "tools": digest_of(render_json(sorted(item.sha256 for item in lock.tools))),
            "users.system": _digest(recipe.users),
            **_name_packages(essential),
        },
    )


def make_install_inputs(
    recipe: Recipe, lock: Lock, *, essential: Sequence[LockedPackage], below: Digest
) -> StageInputs:
    """Return the inputs of the stage that installs all other packages of *lock*."""
    done = {item.sha256 for item in essential}
    # Upon a base there is no stage of the essential packages to name them.
    own = {"epoch": str(lock.epoch), "users.system": _digest(recipe.users)} if lock.base else {}
    return StageInputs(
        stage=INSTALL,
        recipe=recipe.name,
        below=below,
        parts={
            "kernel.package": recipe.kernel.package,
            "packages.install": " ".join(recipe.wanted),
            "packages.recommends": str(recipe.packages.recommends),
            "packages that go": " ".join(lock.removed),
            "secrets.allow": _digest(recipe.allowed_secrets),
            **own,
            **_name_packages(item for item in lock.packages if item.sha256 not in done),
        },
    )


def make_local_inputs(
    recipe: Recipe, files: Iterable[LockedFile], *, exclude: Sequence[str], below: Digest
) -> StageInputs:
    """Return the inputs of the stage that lays the recipe's own things over a tree.

    *exclude* has no say in the tree, but in what is looked at for secrets.
    """
    named = set(recipe.scripts)
    found = {
        item.path: f"{item.kind} {item.digest}"
        for item in files
        if item.path in named or (recipe.copy and item.path.startswith(f"{recipe.copy}/"))
    }
    return StageInputs(
        stage=LOCAL,
        recipe=recipe.name,
        below=below,
        parts={
            "agent.enabled": str(recipe.agent),
            "exclude.paths": _digest(exclude),
            "files.copy": recipe.copy or "",
            "files.write": _digest(recipe.write),
            "scripts.finalize": " ".join(recipe.scripts),
            "secrets.allow": _digest(recipe.allowed_secrets),
            "security.selinux": recipe.selinux or "",
            "services": _digest((recipe.services,)),
            **{f"the file {path}": digest for path, digest in found.items()},
        },
    )


def make_capsule_inputs(name: str, kind: str, locks: Sequence[Lock]) -> StageInputs:
    """Return the inputs of all payloads of the capsule *name*, of an artifact of type *kind*.

    Its *locks* name everything by digest: recipe, files, packages, tools and builder.
    """
    return StageInputs(
        stage=CAPSULE,
        recipe=name,
        parts={
            "kind": kind,
            **{f"lock {number}": digest_of_lock(lock) for number, lock in enumerate(locks)},
        },
    )


def make_payload_inputs(
    recipe: str, payload: str, *, tree: Digest, tools: Sequence[LockedPackage], **how: str
) -> StageInputs:
    """Return the inputs of a payload: the digest of a tree's list, and how it is packed."""
    return StageInputs(
        stage=payload,
        recipe=recipe,
        parts={
            "tree": tree,
            "tools": digest_of(render_json(sorted(item.sha256 for item in tools))),
            **how,
        },
    )


def tell_changes(now: StageInputs, before: Mapping[str, str], *, below_changed: bool) -> list[str]:
    """Return in words what of the inputs is another than *before*, which were the parts then."""
    told = ["the stage below was made anew"] if below_changed else []
    for part in sorted({*now.parts, *before}):
        if part not in before:
            told.append(f"{part} is new")
        elif part not in now.parts:
            told.append(f"{part} is gone")
        elif now.parts[part] != before[part]:
            told.append(f"{part} was changed{_versions(before[part], now.parts[part])}")
    return told


def _versions(before: str, now: str) -> str:
    """Return the versions of a package that became another, in words; empty for anything else."""
    words = before.split(" "), now.split(" ")
    if all(len(word) == 2 and len(word[1]) == 64 for word in words):
        return f": {words[0][0]} → {words[1][0]}"
    return ""


def _name_packages(packages: Iterable[LockedPackage]) -> dict[str, str]:
    # Where a package came from has no say, only what it is.
    return {
        f"the package {item.name}": f"{item.version.replace(' ', '_')} {item.sha256}"
        for item in packages
    }


def _digest(values: Iterable[Any]) -> str:
    return digest_of(
        render_json(
            [asdict(item) if hasattr(item, "__dataclass_fields__") else item for item in values]
        )
    )


def find_stale(
    lock: Lock,
    *,
    recipe: Digest,
    files: Iterable[LockedFile],
    keys: Iterable[LockedKey] = (),
    base: LockedBase | None = None,
) -> list[str]:
    """Return in words what is not as it was when *lock* was made; empty when it is fresh.

    *keys* are those of the recipe today, for telling which of them were changed; *base* is what its
    base's lock is today.
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
    return stale + find_stale_base(lock, base)


def find_stale_base(lock: Lock, base: LockedBase | None) -> list[str]:
    """Return in words that *lock* is upon another base than *base*; empty when it is not."""
    if lock.base == base:
        return []
    if base is None:
        return [f"it is upon {_name_base(lock.base)}, and the recipe has no base"]
    if lock.base is None:
        return [f"it is upon no base, and the recipe is upon {_name_base(base)}"]
    return [f"its base was changed: {_name_base(lock.base)} is now {_name_base(base)}"]


def _name_base(base: LockedBase | None) -> str:
    return f"{base.name}:{base.serial} ({base.digest[:19]})" if base else "none"
