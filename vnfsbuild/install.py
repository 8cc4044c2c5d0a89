"""The install stage: mkosi makes a root tree of exactly the locked packages, with no network."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from vnfsbuild import tools
from vnfsbuild.distributions import is_rpm
from vnfsbuild.errors import VnfsbuildError
from vnfsbuild.inputs import InstallInputs
from vnfsbuild.lock import LockedPackage
from vnfsbuild.mkosi_config import OUTPUT, MkosiPlaces, render_mkosi
from vnfsbuild.packages import is_rpm_file
from vnfsbuild.rpmdb import settle_database
from vnfsbuild.sandbox import HOST_NAME, MKOSI, SET_HOST_NAME
from vnfsbuild.sources.createrepo import index_directory
from vnfsbuild.users import CLOSED


def mkosi_argv(places: MkosiPlaces) -> list[str]:
    """Return the argv that builds what the configuration of *places* says, without a network.

    Packages that ask for the host's name, as many do that make a certificate, get ours.
    """
    return [
        "unshare", "--net", "--uts", "--",
        sys.executable, "-SI", "-c", SET_HOST_NAME, HOST_NAME,
        sys.executable, "-m", "mkosi",
        "--directory", str(places.config),
        "--force",
        "build",
    ]  # fmt: skip


def mkosi_env(tree: Path) -> dict[str, str]:
    """Return the environment of mkosi out of the tools tree: our Python, its package."""
    return {"PYTHONPATH": str(tree / MKOSI), "PYTHONDONTWRITEBYTECODE": "1"}


def render_repository(
    packages: Mapping[LockedPackage, str],
) -> str:
    """Return the Packages file of a flat repository of *packages*: package → its stanza.

    Raises:
        VnfsbuildError: a stanza is not the package's.
    """
    return "\n".join(
        _place_stanza(package, packages[package])
        for package in sorted(packages, key=lambda item: (item.name, item.architecture))
    )


def write_repository(
    directory: Path, packages: Mapping[LockedPackage, tuple[Path, str]], *, tree: Path
) -> None:
    """Make *directory* a repository of *packages*: package → its file and its stanza.

    It holds these and nothing else, for the solver takes what it finds. *tree* is the tools tree.
    """
    directory.mkdir(parents=True)
    for package, (path, _) in packages.items():
        _link(path, directory / file_name(package))
    if any(is_rpm_file(package) for package in packages):
        index_directory(directory, tree=tree, epoch=0)
        return
    text = render_repository({package: stanza for package, (_, stanza) in packages.items()})
    (directory / "Packages").write_text(text, encoding="utf-8")


def file_name(package: LockedPackage) -> str:
    """Return the name of the file of *package* in a flat repository."""
    if is_rpm_file(package):
        # Metadata gives it as part of an URL.
        version = package.version.replace(":", "_")
        return f"{package.name}-{version}.{package.architecture}.rpm"
    version = package.version.replace(":", "%3a")
    return f"{package.name}_{version}_{package.architecture}.deb"


def build_install(
    inputs: InstallInputs,
    places: MkosiPlaces,
    *,
    log: Path,
    skeleton: Mapping[str, bytes] = MappingProxyType({}),
) -> Path:
    """Return the root tree that mkosi makes of *inputs*; its output goes to the file *log*.

    It starts with the files of *skeleton*: path below the root → content.

    Raises:
        VnfsbuildError: mkosi failed, or there is no space; the message names *log*.
    """
    # As anybody else mkosi would leave all owners out, without a word.
    if os.geteuid() != 0:
        raise VnfsbuildError(f"install: run by user {os.geteuid()}, expected root, of a namespace")
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("", encoding="utf-8")
    try:
        with umask(0o022):
            _write_config(inputs, places, skeleton)
            tools.run(mkosi_argv(places), env=mkosi_env(places.tools), cwd=places.config, log=log)
    except tools.ToolError as error:
        raise _mkosi_failed(error, places, log) from error
    # mkosi puts a copy of the kernel beside the tree.
    for copy in places.output.iterdir():
        if copy.name != OUTPUT:
            copy.unlink()
    shutil.rmtree(places.scratch, ignore_errors=True)
    if is_rpm(inputs.distribution):
        with umask(0o022):
            settle_database(places.output / OUTPUT, inputs.packages, tree=places.tools)
    return places.output / OUTPUT


@contextlib.contextmanager
def umask(mask: int) -> Iterator[None]:
    """Create files under *mask* in the block, here and in programs that are run."""
    # depmod and others make files by it: under 077 a node's users could not read them.
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def _write_config(
    inputs: InstallInputs, places: MkosiPlaces, skeleton: Mapping[str, bytes]
) -> None:
    files = {path: text.encode() for path, text in render_mkosi(inputs, places).items()}
    files.update({f"mkosi.skeleton/{path}": data for path, data in skeleton.items()})
    for path, data in files.items():
        target = places.config / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        if path.endswith(CLOSED):
            target.chmod(0o640)
    for directory in (places.output, places.scratch, places.package_cache):
        directory.mkdir(parents=True, exist_ok=True)


def is_full(text: str) -> bool:
    """Tell whether a program that said *text* failed for want of space."""
    return os.strerror(errno.ENOSPC) in text


def no_space(workspace: Path, more: str = "") -> VnfsbuildError:
    """Return what is said when the root tree does not fit into *workspace*."""
    return VnfsbuildError(
        f"{workspace}: no space left for the root tree{more}",
        hint="free some, or work elsewhere: VNFS_WORKSPACE=/path vnfsbuild …",
    )


def _mkosi_failed(error: tools.ToolError, places: MkosiPlaces, log: Path) -> VnfsbuildError:
    if is_full(log.read_text(encoding="utf-8", errors="replace")):
        return no_space(places.workspace, f"; mkosi's words are in {log}")
    return VnfsbuildError(f"install: {error.message}", hint=f"all that mkosi said: {log}")


def _place_stanza(package: LockedPackage, stanza: str) -> str:
    lines = []
    for line in stanza.strip("\n").split("\n"):
        if line.startswith("Filename:"):
            lines.append(f"Filename: ./{file_name(package)}")
        elif not line.startswith(("MD5sum:", "SHA1:", "SHA512:")):
            lines.append(line)
    wanted = (f"SHA256: {package.sha256}", f"Package: {package.name}")
    if not all(line in lines for line in wanted):
        raise VnfsbuildError(f"{package.name}: its stanza is of another package")
    return "\n".join(lines) + "\n"


def _link(src: Path, dst: Path) -> None:
    try:
        os.link(src, dst)
    except OSError as error:
        # The cache may be on another file system, or one without hard links.
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
            raise
        shutil.copyfile(src, dst)
