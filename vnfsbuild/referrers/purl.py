"""Package URLs: how the rest of the world names the packages of a lock.

Format: package-url/purl-spec, types ``deb`` and ``rpm``. The name space is who packed it: the
distribution; for a repository of others its id in the recipe, and ``local`` for what lies beside
the recipe. So a scanner does not take a package of the site for one of the distribution with the
same name.
"""

from __future__ import annotations

from urllib.parse import quote

from vnfsbuild.distributions import RPM
from vnfsbuild.lock import LockedPackage
from vnfsbuild.origins import DISTRIBUTIONS

_PLAIN = ":~"
"""What a purl does not encode, besides letters, digits and ``.-_``."""


def split_repository(repository: str) -> tuple[str, str | None]:
    """Return who keeps the repository of this id, and the release when it is a distribution."""
    vendor, _, rest = repository.partition("-")
    if vendor in RPM and rest:
        return vendor, None
    if vendor in DISTRIBUTIONS and rest:
        return vendor, rest.partition("-")[0]
    return repository, None


def make_purl(package: LockedPackage, *, release: str | None = None) -> str:
    """Return the purl of *package*; *release* is the lock's, which ids of RPM's do not have."""
    if package.path.endswith(".rpm"):
        return _make_rpm_purl(package, release)
    vendor, release = split_repository(package.repository)
    qualifiers = f"arch={quote(package.architecture, safe=_PLAIN)}"
    if release is not None:
        qualifiers += f"&distro={quote(release, safe=_PLAIN)}"
    name, version = (quote(text, safe=_PLAIN) for text in (package.name, package.version))
    return f"pkg:deb/{quote(vendor, safe=_PLAIN)}/{name}@{version}?{qualifiers}"


def _make_rpm_purl(package: LockedPackage, release: str | None) -> str:
    vendor, _ = split_repository(package.repository)
    epoch, colon, plain = package.version.partition(":")
    qualifiers = {"arch": package.architecture}
    if release is not None and vendor in RPM:
        qualifiers["distro"] = f"{vendor}-{release}"
    if colon:
        qualifiers["epoch"] = epoch
    told = "&".join(f"{key}={quote(value, safe=_PLAIN)}" for key, value in qualifiers.items())
    name, version = (quote(text, safe=_PLAIN) for text in (package.name, plain if colon else epoch))
    return f"pkg:rpm/{quote(vendor, safe=_PLAIN)}/{name}@{version}?{told}"
