"""The bill of materials of a capsule: SPDX 2.3, JSON. Format: docs/provenance.md.

It follows from the capsule alone (manifest, config, and the lock in its source), so nobody signs
it: whoever doubts one derives it anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any

from vnfsbuild.digest import render_json
from vnfsbuild.lock import Lock, LockedPackage
from vnfsbuild.manifest import CAPSULE, SOURCE
from vnfsbuild.referrers.purl import make_purl, split_repository
from vnfsbuild.verify import VerifiedCapsule

NAMESPACE = "https://vnfsbuild.example.org/spdx/"
"""Before name and digest of a capsule: a name for the document, as SPDX wants one."""
DOCUMENT, CAPSULE_ID, SOURCE_ID, OURS_ID = (
    f"SPDXRef-{name}" for name in ("DOCUMENT", "capsule", "source", "vnfsbuild")
)

SHIPPED_TOOLS = ("busybox-static",)
"""Packages of the tools tree of which every capsule's initrd has files. A bootstrap's has its own
busybox: see :mod:`vnfsbuild.initrd`."""

ORGANIZATIONS = {
    "alma": "AlmaLinux", "centos": "CentOS", "debian": "Debian", "fedora": "Fedora",
    "rhel": "Red Hat", "rocky": "Rocky Linux", "ubuntu": "Ubuntu",
}  # fmt: skip
NOASSERTION = "NOASSERTION"


def make_sbom(capsule: VerifiedCapsule, lock: Lock) -> bytes:
    """Return the bill of materials of *capsule*; *lock* is the one in its source."""
    config, digest = capsule.config, capsule.digest
    is_capsule = capsule.manifest.artifact_type == CAPSULE
    packages = list(_list_shipped(lock, is_capsule=is_capsule))
    ours = lock.builder.version if lock.builder else None
    # Of a bootstrap's tree only the files that it needs are kept: not all of each package.
    contains = "CONTAINS" if is_capsule else "GENERATED_FROM"
    return render_json(
        {
            "SPDXID": DOCUMENT,
            "creationInfo": {
                "created": f"{datetime.fromtimestamp(config.epoch, UTC):%Y-%m-%dT%H:%M:%SZ}",
                "creators": [f"Tool: vnfsbuild-{ours}" if ours else "Tool: vnfsbuild"],
            },
            "dataLicense": "CC0-1.0",
            "documentNamespace": f"{NAMESPACE}{config.name}/{digest.replace(':', '-')}",
            "name": f"{config.name}:{config.serial}",
            "packages": [
                _describe_capsule(capsule),
                _describe_source(capsule),
                _describe_ours(ours),
                *(_describe_package(item, lock.release) for item in packages),
            ],
            "relationships": [
                _relate(DOCUMENT, "DESCRIBES", CAPSULE_ID),
                _relate(CAPSULE_ID, "GENERATED_FROM", SOURCE_ID),
                _relate(CAPSULE_ID, "CONTAINS", OURS_ID),
                *(_relate(CAPSULE_ID, contains, _spdx_id(item)) for item in packages),
            ],
            "spdxVersion": "SPDX-2.3",
        }
    )


def _list_shipped(lock: Lock, *, is_capsule: bool) -> Iterator[LockedPackage]:
    yield from lock.packages
    there = {item.sha256 for item in lock.packages}
    for item in lock.tools:
        if is_capsule and item.name in SHIPPED_TOOLS and item.sha256 not in there:
            yield item


def _describe_capsule(capsule: VerifiedCapsule) -> dict[str, Any]:
    return _describe(
        CAPSULE_ID,
        name=capsule.config.name,
        version=str(capsule.config.serial),
        sha256=capsule.digest,
        purl=f"pkg:oci/{capsule.config.name}@{capsule.digest}",
        primaryPackagePurpose="OPERATING-SYSTEM",
        comment="The checksum is that of the OCI manifest.",
    )


def _describe_source(capsule: VerifiedCapsule) -> dict[str, Any]:
    return _describe(
        SOURCE_ID,
        name=f"{capsule.config.name}-source",
        version=str(capsule.config.serial),
        sha256=capsule.manifest.payload(SOURCE).digest,
        primaryPackagePurpose="SOURCE",
        comment="Recipe, lock and every file that they name: a payload of the capsule.",
    )


def _describe_ours(version: str | None) -> dict[str, Any]:
    return _describe(
        OURS_ID,
        name="vnfsbuild",
        version=version,
        licenseDeclared="Apache-2.0",
        comment="init of the initrd, and the agent.",
    )


def _describe_package(item: LockedPackage, release: str) -> dict[str, Any]:
    vendor, _ = split_repository(item.repository)
    organization = ORGANIZATIONS.get(vendor)
    return _describe(
        _spdx_id(item),
        name=item.name,
        version=item.version,
        sha256=item.sha256,
        purl=make_purl(item, release=release),
        packageFileName=PurePosixPath(item.path).name,
        supplier=f"Organization: {organization}" if organization else NOASSERTION,
    )


def _describe(
    spdx_id: str,
    *,
    name: str,
    version: str | None,
    sha256: str | None = None,
    purl: str | None = None,
    **more: str,
) -> dict[str, Any]:
    """Return a package. Of licences nothing is asserted that nobody has looked at."""
    described: dict[str, Any] = {
        "SPDXID": spdx_id,
        "copyrightText": NOASSERTION,
        "downloadLocation": NOASSERTION,
        "filesAnalyzed": False,
        "licenseConcluded": NOASSERTION,
        "licenseDeclared": NOASSERTION,
        "name": name,
        "supplier": NOASSERTION,
        **more,
    }
    if version is not None:
        described["versionInfo"] = version
    if sha256 is not None:
        checksum = {"algorithm": "SHA256", "checksumValue": sha256.removeprefix("sha256:")}
        described["checksums"] = [checksum]
    if purl is not None:
        described["externalRefs"] = [
            {
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceLocator": purl,
                "referenceType": "purl",
            }
        ]
    return described


def _relate(element: str, kind: str, related: str) -> dict[str, str]:
    return {"relatedSpdxElement": related, "relationshipType": kind, "spdxElementId": element}


def _spdx_id(item: LockedPackage) -> str:
    """Return an id that no other package of the lock has."""
    name = re.sub(r"[^A-Za-z0-9.-]", "-", item.name)
    return f"SPDXRef-{name}-{item.sha256[:12]}"
