"""Provenance: what a builder says of a capsule, as SLSA v1 wants it. Format: docs/provenance.md.

It follows from the capsule and the builder's key alone: no clock, no host, no user. So the same
builder says the same twice, and two of them differ only in who speaks.
"""

from __future__ import annotations

from typing import Any

from vnfsbuild.dsse import KeyId
from vnfsbuild.lock import Lock, LockedPackage
from vnfsbuild.manifest import SOURCE, Descriptor
from vnfsbuild.referrers.attestation import BUILD_TYPE, BUILDERS, make_parameters, render_statement
from vnfsbuild.referrers.purl import make_purl
from vnfsbuild.verify import VerifiedCapsule

TREES = "vnfsbuild_trees"
"""Annotation of a package: which trees it is in, ``root`` and ``tools``."""


def make_provenance(capsule: VerifiedCapsule, lock: Lock, builder: KeyId) -> bytes:
    """Return the statement that the holder of the key *builder* built *capsule* from its source.

    *lock* is the one in that source.
    """
    config, source = capsule.config, capsule.manifest.payload(SOURCE)
    who: dict[str, Any] = {"id": BUILDERS + builder}
    if lock.builder is not None:
        who["version"] = {
            "vnfsbuild": lock.builder.version,
            "vnfsbuild code": lock.builder.digest,
        }
    predicate = {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": make_parameters(config.name, source.digest),
            "resolvedDependencies": [_describe_source(source), *_describe_packages(lock)],
        },
        "runDetails": {"builder": who},
    }
    return render_statement(config.name, config.serial, capsule.digest, predicate)


def _describe_source(source: Descriptor) -> dict[str, Any]:
    return {
        "digest": {"sha256": source.digest.removeprefix("sha256:")},
        "mediaType": source.media_type,
        "name": "source",
    }


def _describe_packages(lock: Lock) -> list[dict[str, Any]]:
    trees: dict[str, list[str]] = {}
    found: dict[str, LockedPackage] = {}
    for tree, packages in (("root", lock.packages), ("tools", lock.tools)):
        for item in packages:
            found.setdefault(item.sha256, item)
            trees.setdefault(item.sha256, []).append(tree)
    ordered = sorted(found.values(), key=lambda item: (item.name, item.sha256))
    return [
        {
            "annotations": {TREES: trees[item.sha256]},
            "digest": {"sha256": item.sha256},
            "name": item.name,
            "uri": make_purl(item, release=lock.release),
        }
        for item in ordered
    ]
