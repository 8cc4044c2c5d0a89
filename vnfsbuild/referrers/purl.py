"""Package URLs: how the rest of the world names the packages of a lock.

Format: package-url/purl-spec, type ``deb``. The name space is who packed it: the distribution; for
a repository of others its id in the recipe, and ``local`` for what lies beside the recipe. So a
scanner does not take a package of the site for one of the distribution with the same name.
"""

from __future__ import annotations

from urllib.parse import quote

from vnfsbuild.lock import LockedPackage
from vnfsbuild.origins import DISTRIBUTIONS

_PLAIN = ":~"
"""What a purl does not encode, besides letters, digits and ``.-_``."""


def split_repository(repository: str) -> tuple[str, str | None]:
    """Return who keeps the repository of this id, and the release when it is a distribution."""
    vendor, _, rest = repository.partition("-")
    if vendor in DISTRIBUTIONS and rest:
        return vendor, rest.partition("-")[0]
    return repository, None


def make_purl(package: LockedPackage) -> str:
    """Return the purl of *package*."""
    vendor, release = split_repository(package.repository)
    qualifiers = f"arch={quote(package.architecture, safe=_PLAIN)}"
    if release is not None:
        qualifiers += f"&distro={quote(release, safe=_PLAIN)}"
    name, version = (quote(text, safe=_PLAIN) for text in (package.name, package.version))
    return f"pkg:deb/{quote(vendor, safe=_PLAIN)}/{name}@{version}?{qualifiers}"
