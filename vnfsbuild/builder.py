"""The builder: what of ours decides the bytes of a capsule, as a version and a digest.

A lock names the builder that it was made by. Another one might make other bytes of the same lock,
so it does not try. What does not reach a byte (comments, docstrings, blank lines) is left out of
the digest, so that a change of words makes no lock stale.
"""

from __future__ import annotations

import ast
import functools
import io
import tokenize
from pathlib import Path

from vnfsbuild import __version__
from vnfsbuild.agentzip import render_agent
from vnfsbuild.digest import Digest, digest_of, render_json
from vnfsbuild.errors import InputError, VnfsbuildError
from vnfsbuild.lock import LockedBuilder

MODULES = (
    "agentzip",
    "bootstrap",
    "build",
    "distributions",
    "essential",
    "fields",
    "idmap",
    "initrd/archive",
    "initrd/bootstrap",
    "initrd/capsule",
    "initrd/drivers",
    "initrd/elf",
    "initrd/kmod",
    "initrd/modinfo",
    "initrd/pyclosure",
    "initrd/pycompile",
    "initrd/python",
    "inputs",
    "install",
    "layer",
    "local",
    "manifest",
    "mkosi_config",
    "namespace",
    "newc",
    "pack/erofs",
    "pack/squashfs",
    "pack/stream",
    "payloads",
    "recipe",
    "recipefiles",
    "rpmdb",
    "sandbox",
    "scripts",
    "seal",
    "source",
    "sources/createrepo",
    "sources/deb",
    "sources/rpmfile",
    "stages",
    "standin",
    "storedtree",
    "tools",
    "toolstree",
    "tree",
    "treelist",
    "trees",
    "unpacked",
    "users",
)
"""What decides bytes: what a recipe's words mean, what mkosi is told, which rules a tree is brought
into order by, and how it is packed. Not here is what only finds, fetches, stores, signs or tells.
"""

SCRIPTS = ("initrd/functions.sh", "initrd/init", "initrd/lay-over.sh")
"""What goes into an initrd as it is. The agent does too, and is rendered anew."""


@functools.cache
def find_builder() -> LockedBuilder:
    """Return the builder that this program is.

    Raises:
        VnfsbuildError: a file of ours is missing.
    """
    ours = Path(__file__).parent
    parts: dict[str, Digest] = {"agent.pyz": digest_of(render_agent())}
    try:
        for name in MODULES:
            source = (ours / f"{name}.py").read_bytes()
            parts[f"{name}.py"] = digest_of(normalise_source(source))
        for name in SCRIPTS:
            parts[name] = digest_of((ours / name).read_bytes())
    except OSError as error:
        raise VnfsbuildError(
            f"{error.filename}: {error.strerror}", hint="install vnfsbuild again, whole"
        ) from error
    return LockedBuilder(version=__version__, digest=digest_of(render_json(parts)))


def verify_builder(locked: LockedBuilder | None, *, where: str, recipe: str | None = None) -> None:
    """Raise unless this program is the builder that the lock *where* names.

    *recipe* is what to lock anew for a lock that may be changed: that of a recipe, and not the one
    inside a capsule.

    Raises:
        InputError: it is another one; the hint says what to install, or to type.
    """
    here = find_builder()
    if here == locked:
        return
    if locked is None:
        raise InputError(
            f"{where}: names no builder: made by an older vnfsbuild",
            hint=f"vnfsbuild lock {recipe or 'RECIPE'}",
        )
    hint = f"pip install vnfsbuild=={locked.version}"
    if locked.version == here.version:
        hint = f"use vnfsbuild {locked.version} as it was then, before its code was changed"
    if recipe:
        hint = f"vnfsbuild lock {recipe} moves it to this one, with the same packages; or {hint}"
    raise InputError(
        f"{where}: made for vnfsbuild {locked.version} ({locked.digest[:19]}), "
        f"this is {here.version} ({here.digest[:19]}): it may make other bytes",
        hint=hint,
    )


def normalise_source(source: bytes) -> bytes:
    """Return the Python *source* without comments, docstrings and blank lines between statements.

    The same for every Python that can read it: tokens would differ.
    """
    text = source.decode("utf-8")
    tree = ast.parse(text)
    lines = dict(enumerate(text.split("\n"), 1))
    docstrings, strings = _find_strings(tree)
    for row, column in _find_comments(text):
        lines[row] = lines[row][:column].rstrip()
    for rows, alone in docstrings:
        first = lines[rows[0]]
        lines[rows[0]] = first[: len(first) - len(first.lstrip())] + "..." if alone else ""
        for row in rows[1:]:
            del lines[row]
        strings -= set(rows)
    kept = [
        line if row in strings else line.rstrip()
        for row, line in lines.items()
        if line.strip() or row in strings
    ]
    return "".join(f"{line}\n" for line in kept).encode()


def _find_strings(tree: ast.Module) -> tuple[list[tuple[range, bool]], set[int]]:
    """Return the lines of each string that is a statement, and whether its block has no other.

    And the lines of all strings: a blank line in one is part of it.
    """
    docstrings: list[tuple[range, bool]] = []
    lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant | ast.JoinedStr):
            lines.update(_lines_of(node))
        found = getattr(node, "body", None)
        block = found if isinstance(found, list) else []
        for one in block:
            if (
                isinstance(one, ast.Expr)
                and isinstance(one.value, ast.Constant)
                and isinstance(one.value.value, str)
            ):
                docstrings.append((_lines_of(one), len(block) == 1))
    return docstrings, lines


def _lines_of(node: ast.expr | ast.stmt) -> range:
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)


def _find_comments(text: str) -> list[tuple[int, int]]:
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return [token.start for token in tokens if token.type == tokenize.COMMENT]
