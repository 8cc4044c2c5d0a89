"""The Debian archive that the build host itself uses: its mirror, its apt's network settings.

No mirror is written down in this program. What people configured for their host is near, allowed
and known to work; a recipe's ``mirror`` or ``VNFS_MIRROR`` stands above it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from vnfsbuild import tools
from vnfsbuild.errors import InputError

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

_SUITES = re.compile(
    r"(buster|bullseye|bookworm|trixie|forky|duke|sid|unstable|testing|(?:old){0,2}stable)"
    r"(-updates|-security|/updates)?/?\Z"
)

# What of the host's apt settings says how to reach the mirror, and how strict to be with its dates.
_NETWORK_SETTING = re.compile(
    r"Acquire::(https?::(Proxy|CaInfo|CaPath|Verify-Peer|SslCert|SslKey)(::[^ ]+)?"
    r'|Check-Valid-Until|Check-Date|Max-FutureTime|Min-ValidTime) "'
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One entry of an apt sources file."""

    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Archive:
    """A Debian archive and where its security suites are."""

    main: str
    security: str | None = None
    keyring: Path = KEYRING


@dataclass(frozen=True, kw_only=True, slots=True)
class Repository:
    """One suite of an archive, as apt is told of it and as the lock names it."""

    id: str
    uri: str
    suite: str
    components: tuple[str, ...]
    keyring: Path


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


def parse_stanzas(text: str) -> Iterator[dict[str, str]]:
    """Yield the stanzas of a control file: field name in lower case → value, lines joined."""
    fields: dict[str, str] = {}
    last = ""
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        if not line.strip():
            if fields:
                yield fields
            fields, last = {}, ""
        elif line[0] in " \t" and last:
            fields[last] += "\n" + line.strip()
        else:
            name, _, value = line.partition(":")
            last = name.strip().lower()
            fields[last] = value.strip()
    if fields:
        yield fields


def choose_archive(sources: Iterable[Source]) -> Archive | None:
    """Return the Debian archive among *sources*; None when they name none."""
    main = security = None
    for source in sources:
        if source.components and "main" not in source.components:
            continue
        for suite in source.suites:
            found = _SUITES.match(suite)
            if not found or not source.uris:
                continue
            if found.group(2) in ("-security", "/updates"):
                security = security or source.uris[0].rstrip("/")
            elif not found.group(2):
                main = main or source.uris[0].rstrip("/")
    return Archive(main=main, security=security) if main else None


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


def find_archive(
    mirror: str | None = None, *, environment: Mapping[str, str] | None = None
) -> Archive:
    """Return the archive to use: *mirror*, else ``VNFS_MIRROR``, else the host's own.

    The security suites come from the host's security mirror, when it has one.

    Raises:
        InputError: nobody named one.
    """
    env = os.environ if environment is None else environment
    host = choose_archive(load_host_sources())
    named = mirror or env.get("VNFS_MIRROR")
    if named:
        return Archive(main=named.rstrip("/"), security=host.security if host else None)
    if host is None:
        raise InputError(
            "/etc/apt: no Debian archive configured on this host, expected one to take packages"
            " from",
            hint="VNFS_MIRROR=http://mirror.example.org/debian vnfsbuild …, "
            "or distribution.mirror in the recipe",
        )
    return host


def make_repositories(
    archive: Archive, release: str, components: tuple[str, ...]
) -> tuple[Repository, ...]:
    """Return the suites of *release* that belong together: itself, updates, security."""
    suites = [(archive.main, release)]
    if release not in ("sid", "unstable"):
        suites.append((archive.main, f"{release}-updates"))
        if archive.security:
            suites.append((archive.security, f"{release}-security"))
    return tuple(
        Repository(
            id=f"debian-{suite}",
            uri=uri,
            suite=suite,
            components=components,
            keyring=archive.keyring,
        )
        for uri, suite in suites
    )


def render_sources(repositories: Iterable[Repository]) -> str:
    """Return a deb822 sources file of *repositories*."""
    return "\n".join(
        f"Types: deb\nURIs: {repository.uri}\nSuites: {repository.suite}\n"
        f"Components: {' '.join(repository.components)}\nSigned-By: {repository.keyring}\n"
        for repository in repositories
    )


def capture_network_settings() -> list[str]:
    """Return the lines of the host's apt configuration that say how its mirror is reached.

    None on a host that has no apt.
    """
    try:
        tools.find_program("apt-config")
    except tools.ToolError:
        return []
    dump = tools.capture(["apt-config", "dump"]).decode("utf-8", "replace")
    return [line for line in dump.splitlines() if _NETWORK_SETTING.match(line)]


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
