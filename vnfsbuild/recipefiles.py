"""A recipe as it lies in its directory: with every file that it names."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vnfsbuild.digest import Digest, digest_of, digest_of_stream, render_json
from vnfsbuild.errors import InputError
from vnfsbuild.fields import Faults, parse_toml
from vnfsbuild.files import read_bounded
from vnfsbuild.lock import LockedFile, LockedKey
from vnfsbuild.recipe import BASE_FOLDER, FILE, LOCK_FILE, Recipe, parse_recipe

MAX_RECIPE_BYTES = 1024 * 1024

BOOTSTRAP_FILES = ("drivers.txt", "init", "modules.txt", "network.sh", "rescue", "udhcpc")
"""Beside the recipe of a bootstrap: what its initrd is made with besides packages."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedRecipe:
    """A recipe with the files that it names."""

    directory: Path
    recipe: Recipe
    digest: Digest
    """of recipe.toml"""
    keys: tuple[LockedKey, ...]
    """what each of its keys says"""
    files: tuple[LockedFile, ...]
    base: LoadedRecipe | None = None
    """what it is built upon"""

    @property
    def chain(self) -> tuple[LoadedRecipe, ...]:
        """All that it is built upon, the undermost first, and itself."""
        return (*self.base.chain, self) if self.base else (self,)

    @property
    def lock_path(self) -> Path:
        """Where the recipe's lock is."""
        return self.directory / LOCK_FILE


def load_recipe(directory: Path) -> LoadedRecipe:
    """Return the recipe in *directory* and its bases, with the digests of all files that they name.

    Raises:
        InputError: with every fault of it, or a file that it names is missing, or as
            :func:`load_chain`.
    """
    return load_chain(directory)[0]


def load_chain(directory: Path) -> tuple[LoadedRecipe, ...]:
    """Return the recipe in *directory*, its base, that one's base, and so on to the undermost.

    Raises:
        InputError: a base is missing, or is built upon itself, or has faults of its own, or is of
            another distribution, release or architecture.
    """
    texts = [_read_text(directory)]
    while texts[-1].recipe.base is not None:
        base = _find_base(texts)
        texts.append(_read_text(base))
        _verify_same_distribution(texts[-2], texts[-1])
    loaded: list[LoadedRecipe] = []
    for item in reversed(texts):
        loaded.append(_load(item, loaded[-1] if loaded else None))
    return tuple(reversed(loaded))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Text:
    """A recipe as its file says it; the files that it names were not looked at."""

    directory: Path
    recipe: Recipe
    digest: Digest
    keys: tuple[LockedKey, ...]

    @property
    def path(self) -> Path:
        return self.directory / FILE


def _read_text(directory: Path) -> _Text:
    path = directory / FILE
    data = read_bounded(path, limit_bytes=MAX_RECIPE_BYTES)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8: {error}") from error
    return _Text(
        directory=directory,
        recipe=parse_recipe(text, where=str(path)),
        digest=digest_of(data),
        keys=list_keys(parse_toml(text, where=str(path))),
    )


def _load(text: _Text, base: LoadedRecipe | None) -> LoadedRecipe:
    # A file may be named twice: a key that lies in the directory that is copied.
    found = {item.path: item for item in _list_files(text.directory, text.recipe)}
    return LoadedRecipe(
        directory=text.directory,
        recipe=text.recipe,
        digest=text.digest,
        keys=text.keys,
        files=tuple(found[name] for name in sorted(found)),
        base=base,
    )


def _find_base(chain: Sequence[_Text]) -> Path:
    """Return the directory of the base of the last one of *chain*."""
    here = chain[-1]
    carried = here.directory / BASE_FOLDER
    if os.access(carried / FILE, os.F_OK):
        return carried
    found = here.directory / (here.recipe.base or "")
    plain = Path(os.path.normpath(found))
    # Behind a symbolic link ".." leads elsewhere than the text says.
    base = plain if os.path.realpath(plain) == os.path.realpath(found) else found
    if not os.access(base / FILE, os.F_OK):
        expected = "expected the directory of another recipe"
        raise InputError(f"{here.path}: base: found no {base / FILE}, {expected}")
    real = [os.path.realpath(item.directory) for item in chain]
    if os.path.realpath(base) in real:
        shown = _render_chain([*real, os.path.realpath(base)])
        raise InputError(f"{here.path}: base: found {shown}, expected a chain that ends")
    return base


def _render_chain(directories: Sequence[str]) -> str:
    # From where all of them are to be seen: names alone may be those of several directories.
    top = os.path.commonpath([Path(item).parent for item in directories])
    return " → ".join(os.path.relpath(item, top) for item in directories)


def _verify_same_distribution(upper: _Text, base: _Text) -> None:
    faults = Faults(str(upper.path))
    for key in ("id", "release", "architecture"):
        wanted = getattr(upper.recipe.distribution, key)
        found = getattr(base.recipe.distribution, key)
        if found != wanted:
            told = f"{base.path} has distribution.{key} {found!r}, expected {wanted!r} as here"
            faults.add("base", told)
    faults.verify()


def source_paths(loaded: LoadedRecipe) -> dict[str, Path]:
    """Return what belongs into the source payload: name → file; locks and bases among them."""
    names = [FILE, LOCK_FILE, *(item.path for item in loaded.files)]
    found = {name: loaded.directory / name for name in names}
    for name, path in source_paths(loaded.base).items() if loaded.base else ():
        found[f"{BASE_FOLDER}/{name}"] = path
    return found


def verify_unchanged(loaded: LoadedRecipe) -> None:
    """Raise unless the files that *loaded* names, those of its bases apart, are as they were.

    Raises:
        InputError: one was changed since they were read.
    """
    now = set(_list_files(loaded.directory, loaded.recipe))
    if changed := sorted({item.path for item in now ^ set(loaded.files)}):
        raise InputError(
            f"{loaded.directory}: changed while it was built: {', '.join(changed)}",
            hint=f"vnfsbuild lock {loaded.directory}, and build again",
        )


def list_keys(document: Mapping[str, Any]) -> tuple[LockedKey, ...]:
    """Return the keys of a recipe and what they say: those of tables one by one, sorted."""
    found = {}
    for name, value in document.items():
        inner = value if isinstance(value, dict) else {"": value}
        for key, item in inner.items():
            found[f"{name}.{key}".rstrip(".")] = digest_of(render_json(item))
    return tuple(LockedKey(key=key, digest=found[key]) for key in sorted(found))


def find_local_packages(directory: Path, recipe: Recipe) -> list[Path]:
    """Return the package files beside the recipe that ``packages.local`` names, sorted.

    Raises:
        InputError: a glob matches none.
    """
    found: set[Path] = set()
    for position, pattern in enumerate(recipe.packages.local):
        matches = [path for path in directory.glob(pattern) if path.is_file()]
        if not matches:
            where = f"{directory / FILE}: packages.local[{position}]"
            raise InputError(f"{where}: found no file {pattern!r} beside the recipe")
        found.update(matches)
    return sorted(found)


def _list_files(directory: Path, recipe: Recipe) -> Iterator[LockedFile]:
    where = directory / FILE
    for name in BOOTSTRAP_FILES:
        if (directory / name).is_file():
            yield _lock_file(directory / name, name)
    named = [(f"repositories[{i}].key", item.key) for i, item in enumerate(recipe.repositories)]
    if recipe.distribution.key:
        named.append(("distribution.key", recipe.distribution.key))
    named += [("scripts.finalize", script) for script in recipe.scripts]
    for key, name in named:
        path = directory / name
        if path.is_symlink() or not path.is_file():
            raise InputError(f"{where}: {key}: {path}: no such file")
        yield _lock_file(path, name)
    for path in find_local_packages(directory, recipe):
        yield _lock_file(path, str(path.relative_to(directory)))
    if recipe.copy is not None:
        yield from _list_copied(directory, recipe.copy)


def _list_copied(directory: Path, copy: str) -> Iterator[LockedFile]:
    top = directory / copy
    if not top.is_dir():
        raise InputError(f"{directory / FILE}: files.copy: {top}: no such directory")
    for path in sorted([top, *top.rglob("*")]):
        name = str(path.relative_to(directory))
        if path.is_symlink():
            target = str(path.readlink()).encode()
            yield LockedFile(path=name, kind="link", digest=digest_of(target))
        elif path.is_file():
            yield _lock_file(path, name)
        elif path.is_dir():
            # The others are there because something is in them.
            if not any(path.iterdir()):
                yield LockedFile(path=name, kind="directory", digest=digest_of(b""))
        else:
            raise InputError(f"{path}: found a special file, expected files, directories, links")


def _lock_file(path: Path, name: str) -> LockedFile:
    with path.open("rb") as file:
        digest, _ = digest_of_stream(file)
    kind = "executable" if path.stat().st_mode & 0o100 else "file"
    return LockedFile(path=name, kind=kind, digest=digest)
