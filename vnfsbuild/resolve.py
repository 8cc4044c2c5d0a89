"""From a recipe to its lock: the recipe's files, the solver, and what the lock keeps of both."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vnfsbuild.digest import Digest, digest_of, digest_of_stream, render_json
from vnfsbuild.errors import InputError
from vnfsbuild.files import locked, read_bounded, write_atomic
from vnfsbuild.inputs import find_stale
from vnfsbuild.lock import (
    MAX_BYTES,
    Lock,
    LockedFile,
    LockedRepository,
    parse_lock,
    render_lock,
    sort_packages,
)
from vnfsbuild.packages import save_stanza
from vnfsbuild.recipe import FILE, LOCK_FILE, Recipe, parse_recipe
from vnfsbuild.sandbox import sandbox_argv
from vnfsbuild.sources.apt import (
    DEBIAN_ARCHITECTURES,
    Apt,
    Choice,
    UnknownPackageError,
    find_package_names,
    load_metadata,
    prepare,
    solve,
    update,
)
from vnfsbuild.sources.mirror import (
    Archive,
    capture_network_settings,
    find_archive,
    make_repositories,
)
from vnfsbuild.toolstree import ensure_tools_tree, load_tools

logger = logging.getLogger(__name__)

MAX_RECIPE_BYTES = 1024 * 1024

# What mkosi installs first, on an empty status, before it asks for the wanted packages.
ESSENTIAL = ("?essential", "base-files")

# What a program in the sandbox needs of the host to reach a mirror.
_NETWORK_FILES = tuple(
    Path(path)
    for path in (
        "/etc/hosts",
        "/etc/nsswitch.conf",
        "/etc/resolv.conf",
        "/etc/ssl",
    )
)


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedRecipe:
    """A recipe with the files that it names."""

    directory: Path
    recipe: Recipe
    digest: Digest
    """of recipe.toml"""
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
    return LoadedRecipe(
        directory=directory,
        recipe=recipe,
        digest=digest_of(data),
        files=tuple(_list_files(directory, recipe)),
    )


def source_paths(loaded: LoadedRecipe) -> dict[str, Path]:
    """Return what belongs into the source payload: name → file; the lock among them."""
    names = [FILE, LOCK_FILE, *(item.path for item in loaded.files)]
    return {name: loaded.directory / name for name in names}


def load_or_make_lock(
    loaded: LoadedRecipe, *, cache: Path, progress: Callable[[str], None] = logger.info
) -> Lock:
    """Return the lock beside the recipe; when there is none, make one.

    Raises:
        InputError: the lock is of another recipe; the message says what was changed.
        VnfsbuildError: it cannot be made: a mirror fails.
    """
    path = loaded.lock_path
    if not path.exists():
        return save_new_lock(loaded, cache=cache, progress=progress)
    lock = load_lock(path)
    stale = find_stale(lock, recipe=loaded.digest, files=loaded.files)
    if stale:
        raise InputError(
            f"{path}: made from another recipe: {'; '.join(stale)}",
            hint=f"vnfsbuild lock {loaded.directory}",
        )
    return lock


def save_new_lock(
    loaded: LoadedRecipe, *, cache: Path, progress: Callable[[str], None] = logger.info
) -> Lock:
    """Write a new lock beside the recipe and return it.

    Its serial is one more than the old one's; when nothing else changed, the old one stays.

    Raises:
        VnfsbuildError: a mirror fails, or the packages do not go together; the old lock stays.
    """
    path = loaded.lock_path
    before = load_lock(path) if path.exists() else None
    made = make_lock(loaded, cache=cache, serial=before.serial if before else 1, progress=progress)
    if made == before:
        return before
    lock = replace(made, serial=before.serial + 1) if before else made
    try:
        write_atomic(path, render_lock(lock).encode())
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written: {error.strerror}",
            hint=f"copy the recipe to a place of yours: cp -r {loaded.directory} .",
        ) from error
    return lock


def load_lock(path: Path) -> Lock:
    """Return the lock in the file *path*.

    Raises:
        InputError: it is none.
    """
    data = read_bounded(path, limit_bytes=MAX_BYTES)
    return parse_lock(data.decode("utf-8", "replace"), where=str(path))


def make_lock(
    loaded: LoadedRecipe,
    *,
    cache: Path,
    serial: int,
    progress: Callable[[str], None] = logger.info,
) -> Lock:
    """Return what the recipe means today, by the repositories as they are.

    Raises:
        InputError: no repository has a package that the recipe names.
        VnfsbuildError: a mirror fails, or the packages cannot be installed together.
    """
    recipe = loaded.recipe
    tree = ensure_tools_tree("build", cache, progress=progress)
    archive = find_archive(recipe.distribution.mirror)
    apt = _make_apt(recipe, archive, tree=tree, cache=cache)
    with locked(cache / "apt" / f".{apt.directory.name}.lock"):
        progress(f"lock: reading {', '.join(item.suite for item in apt.repositories)}")
        prepare(apt, recommends=recipe.packages.recommends, settings=capture_network_settings())
        update(apt)
        chosen = _solve(apt, recipe, where=str(loaded.directory / FILE))
        metadata = load_metadata(apt)
    for choice in chosen:
        save_stanza(cache, choice.package, choice.stanza)
    progress(f"lock: {len(chosen)} packages")
    return Lock(
        serial=serial,
        epoch=max(item.epoch for item in metadata.values()),
        distribution=recipe.distribution.id,
        release=recipe.distribution.release,
        architecture=recipe.distribution.architecture,
        recipe=loaded.digest,
        files=loaded.files,
        repositories=tuple(
            LockedRepository(
                id=item.id,
                suite=item.suite,
                components=item.components,
                metadata=metadata[item.id].digest,
                epoch=metadata[item.id].epoch,
            )
            for item in apt.repositories
        ),
        packages=sort_packages(choice.package for choice in chosen),
        tools=load_tools("build", cache),
    )


def _solve(apt: Apt, recipe: Recipe, *, where: str) -> list[Choice]:
    # Two questions, as mkosi asks them: one alone may get another answer.
    wanted = [*recipe.wanted, *(f"{name}-" for name in recipe.packages.remove)]
    try:
        essential = solve(apt, ESSENTIAL)
        return essential + solve(apt, wanted, installed=essential)
    except UnknownPackageError as error:
        raise _unknown(error.names, recipe, find_package_names(apt), where=where) from error


def _unknown(
    names: Sequence[str], recipe: Recipe, known: Sequence[str], *, where: str
) -> InputError:
    lines = []
    for name in names:
        near = difflib.get_close_matches(name, known, 3)
        meant = f"; near: {', '.join(near)}" if near else ""
        release = f"{recipe.distribution.id} {recipe.distribution.release}"
        key = _key_of(name, recipe)
        lines.append(f"{where}: {key}: found {name!r}, which {release} does not have{meant}")
    return InputError("\n".join(lines))


def _key_of(name: str, recipe: Recipe) -> str:
    name = name.removesuffix("-")
    if name == recipe.kernel.package:
        return "kernel.package"
    for key, names in (("install", recipe.packages.install), ("remove", recipe.packages.remove)):
        if name in names:
            return f"packages.{key}[{names.index(name)}]"
    return "agent.enabled"


def _make_apt(recipe: Recipe, archive: Archive, *, tree: Path, cache: Path) -> Apt:
    distribution = recipe.distribution
    repositories = make_repositories(archive, distribution.release, distribution.components)
    # Metadata is kept by what it is of, so that another mirror's is never mixed in.
    key = [[item.uri, item.suite, list(item.components)] for item in repositories]
    directory = cache / "apt" / digest_of(render_json(key))[7:19]
    directory.mkdir(parents=True, exist_ok=True)
    local = [Path(item.uri[7:]) for item in repositories if item.uri.startswith("file://")]
    return Apt(
        directory=directory,
        repositories=repositories,
        architecture=DEBIAN_ARCHITECTURES[distribution.architecture],
        prefix=tuple(
            sandbox_argv(
                tree,
                writable=[directory],
                readable=[*_NETWORK_FILES, *local],
                network=True,
            )
        ),
    )


def _list_files(directory: Path, recipe: Recipe) -> Iterator[LockedFile]:
    if recipe.copy is None:
        return
    top = directory / recipe.copy
    if not top.is_dir():
        raise InputError(f"{directory / FILE}: files.copy: {top}: no such directory")
    for path in sorted(top.rglob("*")):
        name = str(path.relative_to(directory))
        if path.is_symlink():
            yield LockedFile(
                path=name, kind="link", digest=digest_of(str(path.readlink()).encode())
            )
        elif path.is_file():
            with path.open("rb") as file:
                digest, _ = digest_of_stream(file)
            kind = "executable" if path.stat().st_mode & 0o100 else "file"
            yield LockedFile(path=name, kind=kind, digest=digest)
        elif not path.is_dir():
            raise InputError(f"{path}: found a special file, expected files, directories, links")
