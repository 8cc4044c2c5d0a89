"""What dnf's own solver says, asked in a directory of its own, without a network.

It is given metadata that was verified before, and whatever else may be chosen from: the packages of
a lock, packages beside the recipe.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vnfsbuild import tools
from vnfsbuild.distributions import major_of
from vnfsbuild.errors import VnfsbuildError
from vnfsbuild.sandbox import sandbox_argv
from vnfsbuild.sources.apt import UnknownPackageError, UnsolvableError
from vnfsbuild.sources.fragments import render_indexes, render_repomd
from vnfsbuild.sources.repomd import MODULES

SCRIPT = Path(__file__).parent / "ask_dnf.py"
PLATFORMS = {"fedora": "f"}
"""Distribution → how the names of its platforms begin, as modules know them; else ``el``."""

PRIORITY = 99
"""dnf's own default: lower ones are preferred, where they will do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RpmOffer:
    """Packages that the solver may choose from."""

    repository: str
    """its id, as the lock names it"""
    indexes: Mapping[str, Path] = field(default_factory=dict, repr=False)
    """unpacked indexes, by what they are; or fragments:"""
    fragments: Sequence[str] = field(default=(), repr=False)
    priority: int = PRIORITY


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What is asked for."""

    distribution: str
    release: str
    architecture: str
    steps: tuple[tuple[str, ...], ...]
    """asked one after the other"""
    removed: tuple[str, ...] = ()
    """not to be installed"""
    recommends: bool = False


class UnknownRpmError(UnknownPackageError):
    """The repositories have no package of some names; they have others."""

    def __init__(self, names: Sequence[str], known: Sequence[str]) -> None:
        super().__init__(names)
        self.known = tuple(known)


def solve_rpms(
    question: Question, offers: Sequence[RpmOffer], *, tree: Path, directory: Path
) -> tuple[str, ...]:
    """Return what dnf of the tools tree *tree* would install: SHA-256 of packages.

    It works below *directory*.

    Raises:
        UnknownRpmError: no repository has a package of some name.
        UnsolvableError: the packages cannot be installed together.
    """
    rows = [_write_offer(directory / str(number), offer) for number, offer in enumerate(offers)]
    asked = {
        "directory": str(directory),
        "release": question.release,
        "architecture": question.architecture,
        "platform": f"platform:{PLATFORMS.get(question.distribution, 'el')}"
        f"{major_of(question.release)}",
        "steps": question.steps,
        "removed": question.removed,
        "recommends": question.recommends,
        "repositories": rows,
    }
    for name in ("root", "cache", "state", "log"):
        (directory / name).mkdir()
    path = directory / "question.json"
    path.write_text(json.dumps(asked), encoding="utf-8")
    argv = [
        *sandbox_argv(tree, writable=[directory], readable=[SCRIPT]),
        *("python3", "-I", "-B", str(SCRIPT), str(path)),
    ]
    answer = json.loads(tools.capture(argv, env={"RPM_FORCE_DEBIAN": "1", "HOME": "/tmp"}))
    if "unknown" in answer:
        raise UnknownRpmError(sorted(answer["unknown"]), answer["known"])
    if "unsolvable" in answer:
        told = str(answer["unsolvable"]).strip()
        raise UnsolvableError(f"these packages cannot be installed together; dnf says:\n{told}")
    return tuple(answer["chosen"])


def _write_offer(directory: Path, offer: RpmOffer) -> dict[str, object]:
    """Make *directory* the repository of *offer*; return it as the script wants it."""
    data = {kind: path.read_bytes() for kind, path in offer.indexes.items()}
    if not data:
        data = render_indexes(offer.fragments)
    repodata = directory / "repodata"
    repodata.mkdir(parents=True)
    try:
        for kind, content in data.items():
            (repodata / f"{kind}.{'yaml' if kind == MODULES else 'xml'}").write_bytes(content)
        (repodata / "repomd.xml").write_text(render_repomd(data), encoding="utf-8")
    except OSError as error:
        shutil.rmtree(directory, ignore_errors=True)
        raise VnfsbuildError(
            f"{directory}: cannot be written: {error.strerror}",
            hint="free some space, or keep the cache elsewhere: VNFS_CACHE=/path vnfsbuild …",
        ) from error
    return {
        "id": f"offer-{directory.name}",
        "path": str(directory),
        "priority": offer.priority,
        # Whatever of a stream is offered here was chosen before: streams were heeded then.
        "whole": not offer.indexes,
    }
