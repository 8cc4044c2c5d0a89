"""The signature that an RPM package carries: what counts where nobody signed the metadata."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vnfsbuild.errors import VerificationError
from vnfsbuild.lock import LockedPackage
from vnfsbuild.sources.openpgp import verify_detached
from vnfsbuild.sources.rpmfile import RpmFile, read_rpm, verify_payload


def verify_row(package: LockedPackage, path: Path, *, where: str = "its own header") -> RpmFile:
    """Return the headers of the file *path*, when they are those of the package that *package* is.

    Raises:
        VerificationError: it is a package of another name, version or architecture.
        VnfsbuildError: it is no package.
    """
    found = read_rpm(path)
    wanted = {
        "name": package.name,
        "version": package.version,
        "architecture": package.architecture,
    }
    for key, value in wanted.items():
        if getattr(found, key) != value:
            raise VerificationError(
                f"{package.name} {package.version}: {key} {value!r}, but "
                f"sha256:{package.sha256[:12]}… is, by {where}, {found.name} {found.version} "
                f"with {key} {getattr(found, key)!r}",
                hint="the lock was edited, or metadata lies: take the lock from git again, or make "
                "it anew",
            )
    return found


def verify_package(
    package: LockedPackage, path: Path, *, keys: bytes, gpgv: Sequence[str]
) -> tuple[str, ...]:
    """Return the fingerprints of those of *keys* that signed the package in the file *path*.

    Raises:
        VerificationError: none of them did, or it was changed, or it is not *package*.
    """
    found = verify_row(package, path)
    where = f"{package.repository}: {package.name} {package.version}"
    if not found.signatures:
        raise VerificationError(
            f"{where}: not signed, and neither is the metadata of its repository",
            hint="put it beside the recipe, where the lock's digest vouches for it: packages.local",
        )
    failure: VerificationError | None = None
    for signature in found.signatures:
        try:
            signed = verify_detached(found.header, signature, keys=keys, gpgv=gpgv, where=where)
        except VerificationError as error:
            failure = error
            continue
        verify_payload(found, path)
        return signed.keys
    raise VerificationError(
        failure.message if failure else where,
        hint="another mirror; or, when the packages have a new key, name that one",
    ) from failure
