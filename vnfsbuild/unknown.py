"""Packages that a recipe names and no repository has, told: where they stand, what is near."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from vnfsbuild.errors import InputError
from vnfsbuild.recipe import Recipe


def tell_unknown(
    names: Sequence[str], recipe: Recipe, known: Sequence[str], *, where: str
) -> InputError:
    """Return the error that tells that no repository has *names*; *known* are those there are."""
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
