"""createrepo_c of the tools tree: what package files say of themselves, as repositories would."""

from __future__ import annotations

import gzip
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from vnfsbuild import tools
from vnfsbuild.digest import digest_of_stream
from vnfsbuild.errors import VnfsbuildError
from vnfsbuild.sandbox import sandbox_argv
from vnfsbuild.sources.fragments import cut_fragments


def index_directory(directory: Path, *, tree: Path, epoch: int) -> None:
    """Make *directory* a repository of the packages in it, the same bytes for the same packages.

    The packages' own times are part of them: whoever wants the same bytes sets those, too.

    Raises:
        VnfsbuildError: a file is no package.
    """
    argv = [
        *sandbox_argv(tree, writable=[directory]),
        "createrepo_c", "--quiet", "--no-database", "--simple-md-filenames",
        "--general-compress-type=gz",
        f"--revision={epoch}", "--set-timestamp-to-revision",
        str(directory),
    ]  # fmt: skip
    tools.run(argv)


def describe_rpms(paths: Iterable[Path], tree: Path, cache: Path) -> dict[Path, str]:
    """Return what the package files *paths* say of themselves: path → fragment.

    Raises:
        VnfsbuildError: one is no package.
    """
    named = {_sha256(path): path for path in paths}
    if not named:
        return {}
    parent = cache / "dnf"
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent, prefix="index.") as name:
        directory = Path(name)
        for sha256, path in named.items():
            link_or_copy(path, directory / f"{sha256}.rpm")
        index_directory(directory, tree=tree, epoch=0)
        plain = _unpack(directory)
        texts = cut_fragments(plain["primary"], plain["filelists"], named)
    for sha256, path in named.items():
        if sha256 not in texts:
            raise VnfsbuildError(f"{path}: not an RPM package")
    return {named[sha256]: text for sha256, text in texts.items()}


def link_or_copy(src: Path, dst: Path) -> None:
    """Let *dst* be the file *src*, by a hard link where that goes."""
    try:
        os.link(src, dst)
    except OSError:
        shutil.copyfile(src, dst)


def _unpack(directory: Path) -> Mapping[str, Path]:
    found = {}
    for kind in ("primary", "filelists"):
        path = directory / f"repodata/{kind}.xml"
        path.write_bytes(gzip.decompress(path.with_suffix(".xml.gz").read_bytes()))
        found[kind] = path
    return found


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest, _ = digest_of_stream(file)
    return digest.removeprefix("sha256:")
