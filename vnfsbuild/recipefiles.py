"""A recipe as it lies in its directory: with every file that it names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vnfsbuild.digest import Digest, digest_of, digest_of_stream, render_json
from vnfsbuild.errors import InputError
from vnfsbuild.fields import parse_toml
from vnfsbuild.files import read_bounded
from vnfsbuild.lock import LockedFile, LockedKey
from vnfsbuild.recipe import FILE, LOCK_FILE, Recipe, parse_recipe

MAX_RECIPE_BYTES = 1024 * 1024

BOOTSTRAP_FILES = ("init", "modules.txt", "udhcpc")
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

    @property
    def lock_path(self) -> Path:
        """Where the recipe's lock is."""
        return self.directory / LOCK_FILE


def load_recipe(directory: Path) -> LoadedRecipe:
    """Return the recipe in *directory*, with the digests of all files that it names.

    Raises:
        InputError: with every fault of it, or a file that it names is missing.
    """
    path = directory / FILE
    data = read_bounded(path, limit_bytes=MAX_RECIPE_BYTES)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8: {error}") from error
    recipe = parse_recipe(text, where=str(path))
    # A file may be named twice: a key that lies in the directory that is copied.
    found = {item.path: item for item in _list_files(directory, recipe)}
    return LoadedRecipe(
        directory=directory,
        recipe=recipe,
        digest=digest_of(data),
        keys=list_keys(parse_toml(text, where=str(path))),
        files=tuple(found[name] for name in sorted(found)),
    )


def source_paths(loaded: LoadedRecipe) -> dict[str, Path]:
    """Return what belongs into the source payload: name → file; the lock among them."""
    names = [FILE, LOCK_FILE, *(item.path for item in loaded.files)]
    return {name: loaded.directory / name for name in names}


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
    for path in sorted(top.rglob("*")):
        name = str(path.relative_to(directory))
        if path.is_symlink():
            target = str(path.readlink()).encode()
            yield LockedFile(path=name, kind="link", digest=digest_of(target))
        elif path.is_file():
            yield _lock_file(path, name)
        elif not path.is_dir():
            raise InputError(f"{path}: found a special file, expected files, directories, links")


def _lock_file(path: Path, name: str) -> LockedFile:
    with path.open("rb") as file:
        digest, _ = digest_of_stream(file)
    kind = "executable" if path.stat().st_mode & 0o100 else "file"
    return LockedFile(path=name, kind=kind, digest=digest)
