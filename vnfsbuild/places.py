"""Where things are: store, cache, site directory, and the recipes that come with us.

In a checkout everything lies in the checkout, ignored by git; installed, where the Filesystem
Hierarchy Standard has it. Each can be set: ``VNFS_STORE``, ``VNFS_CACHE``, ``VNFS_SITE``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vnfsbuild.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """The directories that commands use when no option says otherwise."""

    store: Path
    """Capsules: an OCI image layout."""
    cache: Path
    """Packages, tools trees, workspaces: may be deleted at any time."""
    site: Path
    """keys/ (0700) and trust.json of this site."""
    share: Path
    """holds recipes/ and bootstrap-kernel/."""


def find_places(environment: Mapping[str, str] | None = None) -> Places:
    """Return the places of this installation."""
    env = os.environ if environment is None else environment
    checkout = Path(__file__).resolve().parent.parent
    if (checkout / "recipes").is_dir() and (checkout / "pyproject.toml").is_file():
        store, cache, site = checkout / "images", checkout / ".cache", checkout / ".site"
        share = checkout
    else:
        store, cache, site = Path("/var/lib/vnfs"), Path("/var/cache/vnfsbuild"), Path("/etc/vnfs")
        share = Path(sys.prefix) / "share/vnfsbuild"
    return Places(
        store=Path(env.get("VNFS_STORE") or store),
        cache=Path(env.get("VNFS_CACHE") or cache),
        site=Path(env.get("VNFS_SITE") or site),
        share=share,
    )


def find_recipe(text: str, places: Places) -> Path:
    """Return the directory of the recipe that was asked for: a path, or a recipe's name.

    A name is looked for below ``recipes/`` here, then among the recipes that come with us.

    Raises:
        InputError: there is no such recipe.
    """
    directories = [Path(text), Path("recipes") / text, places.share / "recipes" / text]
    for directory in directories if text and os.sep not in text else directories[:1]:
        if (directory / "recipe.toml").is_file():
            return directory.absolute()
    known = sorted(path.parent.name for path in places.share.glob("recipes/*/recipe.toml"))
    raise InputError(
        f"{text}: no recipe here: found no {Path(text) / 'recipe.toml'}",
        hint=f"these recipes come along: {', '.join(known) or 'none'}",
    )
