"""The archive that the build host itself uses: its mirror, and how it is reached.

No mirror is written down in this program. What people configured for their host is near, allowed
and known to work; a recipe's ``mirror`` or ``VNFS_MIRROR`` stands above it, and where there is
nothing of the kind, mkosi is asked for its own default.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from vnfsbuild import tools
from vnfsbuild.errors import InputError
from vnfsbuild.sources.control import parse_stanzas
from vnfsbuild.sources.repository import Archive

MKOSI_PLACES = ("usr/lib/python3/dist-packages", "usr/lib/python3/site-packages")
"""Below a root: where the package mkosi may be."""

_DEBIAN_SUITES = re.compile(
    r"(buster|bullseye|bookworm|trixie|forky|duke|sid|unstable|testing|(?:old){0,2}stable)"
    r"(-updates|-security|/updates)?/?\Z"
)
_UBUNTU_SUITES = re.compile(r"([a-z]+)(-updates|-security)?\Z")

# Run by mkosi's own code: what it takes where nobody configured anything.
_ASK_MKOSI = """
import importlib, json, sys
from types import SimpleNamespace
from mkosi.config import Architecture
name, release = sys.argv[1:]
for package in ("mkosi.distributions", "mkosi.distribution"):
    try:
        module = importlib.import_module(f"{package}.{name}")
        break
    except ModuleNotFoundError:
        continue
config = SimpleNamespace(
    mirror=None, local_mirror=None, snapshot=None, release=release, repositories=[],
    architecture=Architecture.x86_64,
)
found = module.Installer.repositories(SimpleNamespace(config=config))
print(json.dumps([[item.url, item.suite] for item in found]))
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One entry of an apt sources file."""

    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]


def parse_list(text: str) -> list[Source]:
    """Return the binary sources of a one-line-style file (``deb URI SUITE COMPONENT…``)."""
    sources = []
    for line in text.splitlines():
        words = re.sub(r"\[[^]]*\]", " ", line.partition("#")[0]).split()
        if len(words) >= 3 and words[0] == "deb":
            source = Source(uris=(words[1],), suites=(words[2],), components=tuple(words[3:]))
            sources.append(source)
    return sources


def parse_deb822(text: str) -> list[Source]:
    """Return the enabled binary sources of a deb822-style file."""
    sources = []
    for fields in parse_stanzas(text):
        words = {key: tuple(value.split()) for key, value in fields.items()}
        if "deb" in words.get("types", ()) and words.get("enabled", ("yes",)) != ("no",):
            sources.append(
                Source(
                    uris=words.get("uris", ()),
                    suites=words.get("suites", ()),
                    components=words.get("components", ()),
                )
            )
    return sources


def choose_archive(sources: Iterable[Source], distribution: str = "debian") -> Archive | None:
    """Return the archive of *distribution* among *sources*; None when they name none."""
    pattern = _DEBIAN_SUITES if distribution == "debian" else _UBUNTU_SUITES
    main = security = None
    for source in sources:
        if source.components and "main" not in source.components:
            continue
        for suite in source.suites:
            found = pattern.match(suite)
            if not found or not source.uris:
                continue
            if found.group(2) in ("-security", "/updates"):
                security = security or source.uris[0].rstrip("/")
            elif not found.group(2):
                main = main or source.uris[0].rstrip("/")
    return Archive(main=main, security=security, distribution=distribution) if main else None


def load_host_sources(etc: Path = Path("/etc/apt")) -> list[Source]:
    """Return the sources of the apt configuration in *etc*; files apt would pass over are too."""
    sources = []
    parts = etc / "sources.list.d"
    for path in [etc / "sources.list", *(sorted(parts.iterdir()) if parts.is_dir() else [])]:
        if path.suffix not in (".list", ".sources") or not path.is_file():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        parse = parse_deb822 if path.suffix == ".sources" else parse_list
        sources += [
            Source(
                uris=tuple(_follow_mirror_file(uri) for uri in source.uris),
                suites=source.suites,
                components=source.components,
            )
            for source in parse(text)
        ]
    return sources


def find_host_archive(distribution: str, *, root: Path = Path("/")) -> Archive | None:
    """Return the archive of *distribution* that this host is configured with."""
    # Ubuntu's releases have too many names to tell their suites from those of others.
    if distribution == "ubuntu" and _host_id(root) != "ubuntu":
        return None
    return choose_archive(load_host_sources(root / "etc/apt"), distribution)


def find_archive(
    distribution: str = "debian",
    *,
    release: str,
    mirror: str | None = None,
    security_mirror: str | None = None,
    roots: Iterable[Path] = (),
    environment: Mapping[str, str] | None = None,
) -> Archive:
    """Return the archive to use: *mirror*, else ``VNFS_MIRROR``, the host's own, mkosi's default.

    The security suites: *security_mirror*, else ``VNFS_SECURITY_MIRROR`` (``none``: there are
    none), the host's own, mkosi's default. mkosi is looked for below *roots* (tools trees) and on
    the host. The variables mean Debian's archive, which tools come from whatever is built.

    Raises:
        InputError: nobody named one.
    """
    env = os.environ if environment is None else environment
    of_debian = distribution == "debian"
    main = mirror or (env.get("VNFS_MIRROR") if of_debian else None)
    security = security_mirror or (env.get("VNFS_SECURITY_MIRROR") if of_debian else None)
    host = None if main and security else find_host_archive(distribution)
    if main and not security and not of_debian:
        # Ubuntu's mirrors carry the security suite, too.
        security = main
    if host:
        main, security = main or host.main, security or host.security
    if not (main and security):
        default = capture_default_archive(distribution, release, roots=roots)
        if default:
            main, security = main or default.main, security or default.security
    if main is None:
        raise InputError(
            f"/etc/apt: no archive of {distribution} configured on this host, expected one to take"
            " packages from",
            hint="VNFS_MIRROR=http://mirror.example.org/debian vnfsbuild …, "
            "or distribution.mirror in the recipe",
        )
    if security == "none":
        security = None
    return Archive(
        main=main.rstrip("/"),
        security=security.rstrip("/") if security else None,
        distribution=distribution,
    )


def capture_default_archive(
    distribution: str, release: str, *, roots: Iterable[Path] = ()
) -> Archive | None:
    """Return the archive that mkosi takes by default; None where there is no mkosi to ask."""
    for root in (*roots, Path("/")):
        for place in MKOSI_PLACES:
            if (root / place / "mkosi").is_dir():
                argv = [sys.executable, "-c", _ASK_MKOSI, distribution, release]
                env = {"PYTHONPATH": str(root / place), "PYTHONDONTWRITEBYTECODE": "1"}
                found: list[list[str]] = json.loads(tools.capture(argv, env=env))
                return choose_default(found, distribution, release)
    return None


def choose_default(
    found: Iterable[Iterable[str]], distribution: str, release: str
) -> Archive | None:
    """Return the archive among mkosi's pairs of URL and suite."""
    urls = {suite: url.rstrip("/") for url, suite in found}
    if release not in urls:
        return None
    return Archive(
        main=urls[release], security=urls.get(f"{release}-security"), distribution=distribution
    )


def capture_proxies() -> dict[str, str]:
    """Return the proxies, by URL scheme, that the host's apt reaches its mirror by.

    None on a host that has no apt.
    """
    try:
        tools.find_program("apt-config")
    except tools.ToolError:
        return {}
    dump = tools.capture(["apt-config", "dump"]).decode("utf-8", "replace")
    return find_proxies(dump.splitlines())


def _follow_mirror_file(uri: str) -> str:
    # Debian's cloud images name a file that lists mirrors.
    if not uri.startswith("mirror+file:"):
        return uri
    path = Path("/" + uri.removeprefix("mirror+file:").lstrip("/"))
    if not path.is_file():
        return uri
    lines = (line.split() for line in path.read_text(encoding="utf-8").splitlines())
    return next((words[0] for words in lines if words and not words[0].startswith("#")), uri)


def find_proxies(settings: Iterable[str]) -> dict[str, str]:
    """Return the proxies, by URL scheme, that apt's *settings* name for all hosts."""
    pattern = re.compile(r'Acquire::(https?)::Proxy "([^"]*)";')
    found = (pattern.match(line) for line in settings)
    return {match[1]: match[2] for match in found if match and match[2] and match[2] != "DIRECT"}


def _host_id(root: Path) -> str:
    path = root / "etc/os-release"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    found = re.search(r'^ID="?([a-z]+)', text, re.MULTILINE)
    return found[1] if found else ""
