"""What a machine lacks to build capsules, to serve nodes, to run the laboratory.

A probe looks at one thing and returns a finding, good or bad; nothing stops at the first fault.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vnfsbuild import namespace, tools
from vnfsbuild.errors import VnfsbuildError
from vnfsbuild.listing import render_size, render_table
from vnfsbuild.places import Places

PURPOSES = ("build", "serve", "lab")

PROGRAMS = {
    "build": ("apt-get", "apt-config", "gpgv", "mount", "unshare"),
    "serve": ("dnsmasq",),
    "lab": ("dnsmasq", "ip", "mount", "nsenter", "setpriv", "unshare"),
}
PACKAGES = {
    **tools.PACKAGES,
    "apt-config": "apt",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
}
MODULES = {
    "build": ("cryptography", "libarchive", "pefile", "pyzstd", "tqdm"),
    "serve": ("aiohttp", "ClusterShell", "cryptography", "jinja2", "sqlalchemy"),
    "lab": ("aiohttp", "ClusterShell", "cryptography", "jinja2", "sqlalchemy"),
}
LIBRARIES = {"libarchive": "libarchive13"}
"""Modules that load a shared library → the package that has it (13t64 provides it as well)."""
NOT_INSTALLED = "not installed; pip install vnfsbuild brings it"
KEYRINGS = ("debian-archive-keyring.gpg", "debian-archive-keyring.pgp")
IPXE_FILES = ("undionly.kpxe", "snponly.efi")

BUILD_DISK_BYTES = 4_000_000_000
"""Package cache, tools trees, and a tree with its payloads, of the small recipes."""
BUILD_MEMORY_BYTES = 1_500_000_000
LAB_MEMORY_BYTES = 2_000_000_000
"""A virtual node of 1 GiB, and the emulator's own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What one probe saw."""

    purpose: str
    what: str
    ok: bool
    detail: str
    package: str | None = None
    """The Debian package that brings what is missing."""


def examine(places: Places, purposes: Iterable[str]) -> tuple[Finding, ...]:
    """Return what all probes of *purposes* saw."""
    extra: dict[str, Callable[[], list[Finding]]] = {
        "build": lambda: [
            _keyring(),
            *_identity(),
            _namespaces("build"),
            *_space(places),
            _memory("build", BUILD_MEMORY_BYTES),
        ],
        "serve": lambda: [_ipxe()],
        "lab": lambda: [
            _root("lab"),
            _device("lab", Path("/dev/net/tun"), "modprobe tun"),
            _network_namespace("lab"),
            _memory("lab", LAB_MEMORY_BYTES),
        ],
    }
    found: list[Finding] = []
    for purpose in (name for name in PURPOSES if name in set(purposes)):
        found += [_program(purpose, name) for name in PROGRAMS[purpose]]
        found += [_module(purpose, name) for name in MODULES[purpose]]
        found += extra[purpose]()
    return tuple(found)


def missing_packages(findings: Iterable[Finding]) -> list[str]:
    """Return the Debian packages that bring what is missing."""
    return sorted({item.package for item in findings if not item.ok and item.package})


def render_findings(findings: Sequence[Finding]) -> str:
    """Return the table of findings, the faults marked."""
    rows = [
        (item.purpose, "ok" if item.ok else "MISSING", item.what, item.detail) for item in findings
    ]
    return render_table(("FOR", "", "WHAT", "FOUND"), rows)


def require(findings: Sequence[Finding]) -> None:
    """Return when nothing is missing.

    Raises:
        VnfsbuildError: something is; the hint is what installs it.
    """
    bad = [item for item in findings if not item.ok]
    if not bad:
        return
    packages = missing_packages(findings)
    raise VnfsbuildError(
        f"this machine lacks {', '.join(dict.fromkeys(item.what for item in bad))}",
        hint=f"apt-get install {' '.join(packages)}" if packages else None,
    )


def _program(purpose: str, name: str) -> Finding:
    try:
        path = tools.find_program(name)
    except tools.ToolError:
        package = PACKAGES.get(name)
        detail = f"not found; in the package {package}"
        return Finding(purpose=purpose, what=name, ok=False, detail=detail, package=package)
    return Finding(purpose=purpose, what=name, ok=True, detail=str(path))


def _module(purpose: str, name: str) -> Finding:
    package = LIBRARIES.get(name)
    try:
        if package:
            importlib.import_module(name)
            found = True
        else:
            found = importlib.util.find_spec(name) is not None
    except (ImportError, OSError, AttributeError, TypeError):  # what a missing library looks like
        found = False
    lacking = f"not usable; its library is in the package {package}" if package else NOT_INSTALLED
    return Finding(
        purpose=purpose,
        what=f"python module {name}",
        ok=found,
        detail="usable" if found else lacking,
        package=None if found else package,
    )


def _keyring() -> Finding:
    directory = Path("/usr/share/keyrings")
    found = next((directory / name for name in KEYRINGS if (directory / name).is_file()), None)
    return Finding(
        purpose="build",
        what="keys of Debian's archive",
        ok=found is not None,
        detail=str(found or f"no {directory / KEYRINGS[0]}"),
        package=None if found else "debian-archive-keyring",
    )


def _identity() -> list[Finding]:
    """Root builds at once; an ordinary user needs a user namespace, and ids to fill it."""
    if os.geteuid() == 0:
        return [Finding(purpose="build", what="user", ok=True, detail="root")]
    lacking = namespace.find_lacking()
    if not lacking:
        detail = "an ordinary user, with a namespace of their own"
        return [Finding(purpose="build", what="user", ok=True, detail=detail)]
    return [
        Finding(
            purpose="build",
            what="user",
            ok=False,
            detail=f"an ordinary user, who lacks {item.what}; try: {item.remedy}",
            package=item.package,
        )
        for item in lacking
    ]


def _namespaces(purpose: str) -> Finding:
    """Try it: whether namespaces may be made depends on kernel, sysctls, container and more."""
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return _tried(purpose, "mount namespaces", ["unshare", *user, "--mount", "true"])


def _network_namespace(purpose: str) -> Finding:
    return _tried(purpose, "network namespaces", ["unshare", "--net", "true"])


def _tried(purpose: str, what: str, argv: list[str]) -> Finding:
    try:
        tools.capture(argv)
    except VnfsbuildError as error:
        detail = str(error).replace("\n", " ")
        return Finding(purpose=purpose, what=what, ok=False, detail=detail)
    return Finding(purpose=purpose, what=what, ok=True, detail="can be made")


def _root(purpose: str) -> Finding:
    is_root = os.geteuid() == 0
    detail = "root" if is_root else "an ordinary user: run it with sudo"
    return Finding(purpose=purpose, what="user", ok=is_root, detail=detail)


def _device(purpose: str, path: Path, remedy: str) -> Finding:
    try:
        os.close(os.open(path, os.O_RDWR))
    except OSError as error:
        detail = f"{error.strerror}; try: {remedy}"
        return Finding(purpose=purpose, what=str(path), ok=False, detail=detail)
    return Finding(purpose=purpose, what=str(path), ok=True, detail="can be opened")


def _ipxe() -> Finding:
    directory = Path("/usr/lib/ipxe")
    lacking = [name for name in IPXE_FILES if not (directory / name).is_file()]
    return Finding(
        purpose="serve",
        what="iPXE",
        ok=not lacking,
        detail=f"no {', '.join(lacking)} in {directory}" if lacking else str(directory),
        package="ipxe" if lacking else None,
    )


def _space(places: Places) -> list[Finding]:
    findings = []
    for what, path in (("disk for the store", places.store), ("disk for the cache", places.cache)):
        there = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
        free_bytes = shutil.disk_usage(there).free
        findings.append(
            Finding(
                purpose="build",
                what=what,
                ok=free_bytes >= BUILD_DISK_BYTES,
                detail=f"{render_size(free_bytes)} free at {there}, "
                f"{render_size(BUILD_DISK_BYTES)} needed",
            )
        )
    return findings


def _memory(purpose: str, needed_bytes: int) -> Finding:
    free_bytes = parse_available_memory(Path("/proc/meminfo").read_text(encoding="utf-8"))
    return Finding(
        purpose=purpose,
        what="memory",
        ok=free_bytes >= needed_bytes,
        detail=f"{render_size(free_bytes)} available, {render_size(needed_bytes)} needed",
    )


def parse_available_memory(meminfo: str) -> int:
    """Return the bytes that can be had without swapping, as ``/proc/meminfo`` says; else 0."""
    for line in meminfo.splitlines():
        name, _, rest = line.partition(":")
        if name == "MemAvailable":
            return int(rest.split()[0]) * 1024
    return 0
