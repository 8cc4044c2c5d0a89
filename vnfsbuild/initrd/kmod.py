"""Kernel modules of a root tree: which are wanted, what those need, and in which order.

Read from depmod's text files (modules.dep(5)), which every distribution ships or makes.
"""

from __future__ import annotations

import fnmatch
import gzip
import lzma
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from vnfsbuild.errors import InputError
from vnfsbuild.sandbox import tree_argv
from vnfsbuild.tools import capture

_SUFFIX = re.compile(r"\.ko(\.xz|\.gz|\.zst)?\Z")


@dataclass(frozen=True, kw_only=True, slots=True)
class Modules:
    """The modules of one kernel."""

    directory: Path
    needs: Mapping[str, tuple[str, ...]]
    """path below *directory* → paths that must be loaded before, in that order"""
    paths: Mapping[str, str]
    """name → path"""
    builtin: frozenset[str]
    """names of what is in the kernel itself"""
    wishes: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]
    """name → names or aliases that it asks for, to be loaded before it and after it (softdep)"""
    aliases: Mapping[str, str]
    """alias without wildcards → name"""
    hardware: tuple[tuple[str, str], ...] = ()
    """all aliases, most with wildcards, and the name of the module that each means"""


def module_name(path: str) -> str:
    """Return the name of the module in the file *path*: as lsmod shows it."""
    return _SUFFIX.sub("", path.rpartition("/")[2]).replace("-", "_")


def load_modules(root: Path, version: str) -> Modules:
    """Return the modules of the kernel *version* in the tree *root*.

    Raises:
        InputError: it has none.
    """
    directory = root / "usr/lib/modules" / version
    needs = {}
    for line in _lines(directory / "modules.dep", required=True):
        path, _, rest = line.partition(":")
        needs[path] = tuple(reversed(rest.split()))
    aliases: dict[str, str] = {}
    hardware = []
    for line in _lines(directory / "modules.alias"):
        _, alias, name = line.split()
        hardware.append((alias, name))
        # Of several, the one that every processor runs: the capsule's init takes no refusal.
        if not set("*?[") & set(alias) and not aliases.get(alias, "").endswith("_generic"):
            aliases[alias] = name
    return Modules(
        directory=directory,
        needs=needs,
        paths={module_name(path): path for path in needs},
        builtin=frozenset(module_name(line) for line in _lines(directory / "modules.builtin")),
        wishes=_parse_wishes(_lines(directory / "modules.softdep")),
        aliases=aliases,
        hardware=tuple(hardware),
    )


def parse_module_list(text: str, *, where: str) -> list[str]:
    """Return the patterns in *text*: one a line, ``#`` starts a comment.

    Raises:
        InputError: a line holds more than one.
    """
    patterns = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if len(words) > 1:
            raise InputError(f"{where}:{number}: found {line!r}, expected one name a line")
        patterns += words
    return patterns


def choose_modules(modules: Modules, patterns: Iterable[str], *, where: str) -> tuple[str, ...]:
    """Return the paths of what *patterns* name and of all that it needs, needs first.

    A pattern is a name or, with slashes, a path without suffix; both as globs. After ``?`` it may
    match nothing: a kernel need not have everything. What is in the kernel itself is passed over.

    Raises:
        InputError: a pattern matches nothing.
    """
    chosen: dict[str, None] = {}
    for pattern in patterns:
        glob = pattern.removeprefix("?")
        found = _match(modules, glob)
        builtin = "/" not in glob and fnmatch.filter(modules.builtin, glob.replace("-", "_"))
        if not found and not builtin and not pattern.startswith("?"):
            raise InputError(
                f"{where}: found {pattern!r}, which is no module of {modules.directory.name}",
                hint=f"?{pattern} if this kernel need not have it",
            )
        for path in found:
            _add(modules, path, chosen)
    return tuple(chosen)


def read_module(path: Path, *, tools: Path) -> bytes:
    """Return the module in the file *path*, decompressed; its signature is part of it.

    Raises:
        InputError: it cannot be read.
    """
    try:
        if path.suffix == ".xz":
            return lzma.decompress(path.read_bytes())
        if path.suffix == ".gz":
            return gzip.decompress(path.read_bytes())
        if path.suffix == ".zst":
            return capture(tree_argv(tools, "zstd", ["-d", "-c", str(path)]))
        return path.read_bytes()
    except (OSError, lzma.LZMAError, EOFError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error


def _match(modules: Modules, glob: str) -> list[str]:
    if "/" in glob:
        bare = {_SUFFIX.sub("", path): path for path in modules.needs}
        return [bare[name] for name in sorted(fnmatch.filter(bare, glob))]
    names = fnmatch.filter(modules.paths, glob.replace("-", "_"))
    return [modules.paths[name] for name in sorted(names)]


def _add(modules: Modules, path: str, chosen: dict[str, None]) -> None:
    order: list[str] = []
    _visit(modules, path, set(chosen), order)
    chosen |= dict.fromkeys(order)


def _visit(modules: Modules, path: str, seen: set[str], order: list[str]) -> None:
    # Wishes may go round in a circle; needs cannot.
    if path in seen:
        return
    seen.add(path)
    before, after = modules.wishes.get(module_name(path), ((), ()))
    for need in (*modules.needs[path], *_paths(modules, before)):
        _visit(modules, need, seen, order)
    order.append(path)
    for wish in _paths(modules, after):
        _visit(modules, wish, seen, order)


def _paths(modules: Modules, names: Iterable[str]) -> list[str]:
    known = [modules.aliases.get(name, name).replace("-", "_") for name in names]
    return [modules.paths[name] for name in known if name in modules.paths]


def _parse_wishes(lines: Iterable[str]) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    wishes: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {}
    for line in lines:
        _, module, *words = line.split()
        before, after = wishes.get(module_name(module), ((), ()))
        when = "pre:"
        for word in words:
            if word in ("pre:", "post:"):
                when = word
            elif when == "pre:":
                before += (word,)
            else:
                after += (word,)
        wishes[module_name(module)] = (before, after)
    return wishes


def _lines(path: Path, *, required: bool = False) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        if required:
            raise InputError(
                f"{path}: {error.strerror}; expected a kernel and its modules in the tree",
                hint="name a kernel package in the recipe",
            ) from error
        return []
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
