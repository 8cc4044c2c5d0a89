"""Where a capsule is in a registry: ``oci://HOST[:PORT]/PATH/NAME[:TAG][@DIGEST]``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from vnfsbuild.digest import Digest, parse_digest
from vnfsbuild.errors import InputError
from vnfsbuild.reference import CURRENT

SCHEME = "oci://"
EXPECTED = "oci://HOST[:PORT]/PATH/NAME[:TAG][@DIGEST]"

# As the distribution specification has them.
_HOST = re.compile(
    r"(?:\[[0-9a-fA-F:]+\]|[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?)(?::\d{1,5})?\Z"
)
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_PART}(?:/{_PART})*\Z")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}\Z")
_MAX_REPOSITORY = 255


@dataclass(frozen=True, kw_only=True, slots=True)
class RegistryReference:
    """A repository of a registry, and what in it is meant."""

    host: str
    """with the port, where one was given"""
    repository: str
    tag: str | None = None
    digest: Digest | None = None

    @property
    def name(self) -> str:
        """Return the last part of the repository, which is the name of its capsules."""
        return self.repository.rpartition("/")[2]

    @property
    def wanted(self) -> str:
        """Return what a registry is asked for: the digest, else the tag, else ``current``."""
        return self.digest or self.tag or CURRENT

    @property
    def place(self) -> str:
        """Return the repository, without tag and digest."""
        return f"{SCHEME}{self.host}/{self.repository}"

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return self.place + tag + (f"@{self.digest}" if self.digest else "")


def is_registry_reference(text: str) -> bool:
    """Tell whether *text* is meant to be one: what begins with ``oci://``."""
    return text.startswith(SCHEME)


def parse_registry_reference(text: str) -> RegistryReference:
    """Return *text* as the place of a capsule in a registry.

    Raises:
        InputError: it is of another form, or has a login in it.
    """
    if not is_registry_reference(text):
        raise InputError(f"{text!r}: expected {EXPECTED}")
    host, _, path = text.removeprefix(SCHEME).partition("/")
    if "@" in host:
        # It is not repeated: what stands before the @ may be a password.
        raise InputError(
            f"oci://…@{host.rpartition('@')[2]}/{path}: a login does not belong into a reference",
            hint=f"podman login {host.rpartition('@')[2]}; or docker login",
        )
    rest, at, digest = path.partition("@")
    repository, colon, tag = rest.partition(":")
    _require(_HOST, host, text, "a host, perhaps with a port")
    _require(
        _REPOSITORY, repository, text, "lower-case letters and digits, parted by /, '.', '_', '-'"
    )
    if len(repository) > _MAX_REPOSITORY:
        raise InputError(f"{text}: the repository has more than {_MAX_REPOSITORY} characters")
    if colon:
        _require(_TAG, tag, text, "a tag of letters, digits, '.', '_', '-'")
    return RegistryReference(
        host=host,
        repository=repository,
        tag=tag or None,
        digest=parse_digest(digest, where=text) if at else None,
    )


def _require(pattern: re.Pattern[str], found: str, text: str, expected: str) -> None:
    if not pattern.match(found):
        raise InputError(f"{text}: found {found!r}, expected {expected}", hint=EXPECTED)
