"""What is told of a capsule in a store: facts for ``list``, ``show`` and their ``--json``."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from vnfsbuild.capsule import verify_attestations, verify_head
from vnfsbuild.digest import short
from vnfsbuild.dsse import KeyId
from vnfsbuild.errors import VerificationError
from vnfsbuild.listing import render_size, render_table
from vnfsbuild.manifest import BOOTSTRAP, LAYER_TYPES, ROLES
from vnfsbuild.referrers.attachment import PACKAGE_SET, SBOM
from vnfsbuild.store.index import StoredCapsule
from vnfsbuild.transfer.chunks import MEDIA_TYPE as CHUNKS
from vnfsbuild.trust import Trust

LIST_HEADER = ("NAME", "SERIAL", "TAGS", "DIGEST", "SIZE", "SIGNED-BY", "KERNEL")

BESIDE = {PACKAGE_SET: "package set", SBOM: "SBOM", CHUNKS: "chunk index"}
"""Artifact type of what is attached to a capsule → what people call it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """What a site thinks of keys: trust.json, if there is one, and the names of its own keys."""

    trust: Trust | None
    names: Mapping[KeyId, str]
    now: int
    """Seconds since 1970."""


def describe_capsule(capsule: StoredCapsule, standing: Standing) -> dict[str, Any]:
    """Return what ``--json`` tells of *capsule*."""
    config = capsule.config
    trusted, reason = _judge(capsule, standing)
    return {
        "name": capsule.name,
        "serial": config.serial,
        "tags": list(capsule.tags),
        "digest": capsule.digest,
        "type": "bootstrap" if capsule.manifest.artifact_type == BOOTSTRAP else "capsule",
        "sizeBytes": capsule.size_bytes,
        "architecture": config.architecture,
        "distribution": config.distribution,
        "epoch": config.epoch,
        "kernel": {
            "version": config.kernel.version,
            "arguments": list(config.kernel.arguments),
        },
        "bootstrapProtocol": config.bootstrap_protocol,
        "payloads": _payloads(capsule),
        "signatures": [
            {"keyId": keyid, "name": standing.names.get(keyid)} for keyid in capsule.signers
        ],
        "attestations": _attestations(capsule, standing),
        "attachments": [
            {
                "what": BESIDE.get(item.artifact_type),
                "type": item.artifact_type,
                "digest": item.blob.digest,
                "sizeBytes": item.blob.size_bytes,
            }
            for item in capsule.attachments
        ],
        "trusted": trusted,
        "reason": reason,
    }


def list_row(facts: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the row of ``vnfsbuild list`` for what :func:`describe_capsule` said."""
    signers = ",".join(_shown(signature) for signature in facts["signatures"])
    return (
        facts["name"],
        str(facts["serial"]),
        ",".join(tag for tag in facts["tags"] if tag != str(facts["serial"])) or "-",
        short(facts["digest"]),
        render_size(facts["sizeBytes"]),
        (signers if facts["trusted"] else f"{signers} (not trusted)") if signers else "-",
        facts["kernel"]["version"],
    )


def render_facts(facts: Mapping[str, Any]) -> str:
    """Return the text of ``vnfsbuild show``."""
    made = datetime.fromtimestamp(facts["epoch"], UTC)
    signers = [f"{_shown(item)} ({item['keyId']})" for item in facts["signatures"]]
    builders = [
        f"{_shown(item)} ({item['keyId']}{'' if item['counts'] else ', not trusted'})"
        for item in facts["attestations"]
    ]
    lines = [
        ("name", facts["name"]),
        ("serial", str(facts["serial"])),
        ("tags", ", ".join(facts["tags"]) or "none"),
        ("digest", facts["digest"]),
        ("type", facts["type"]),
        ("size", f"{render_size(facts['sizeBytes'])} ({facts['sizeBytes']} bytes)"),
        ("distribution", f"{facts['distribution']}, {facts['architecture']}"),
        ("epoch", f"{facts['epoch']} ({made:%Y-%m-%d %H:%M:%S} UTC)"),
        ("kernel", facts["kernel"]["version"]),
        ("arguments", " ".join(facts["kernel"]["arguments"]) or "none"),
        ("bootstrap", f"protocol {facts['bootstrapProtocol']} or later"),
        ("signed by", "; ".join(signers) or "nobody"),
        ("built by", "; ".join(builders) or "nobody says so"),
        ("trusted", "yes" if facts["trusted"] else f"no: {facts['reason']}"),
    ]
    rows = [
        (item["role"], render_size(item["sizeBytes"]), item["digest"], item["mediaType"])
        for item in facts["payloads"]
    ]
    rows += [
        (
            f"({item['what'] or 'beside it'})",
            render_size(item["sizeBytes"]),
            item["digest"],
            item["type"],
        )
        for item in facts["attachments"]
    ]
    told = "\n".join(f"{label + ':':<14}{text}" for label, text in lines)
    return f"{told}\n\n{render_table(('PAYLOAD', 'SIZE', 'DIGEST', 'TYPE'), rows)}"


def _judge(capsule: StoredCapsule, standing: Standing) -> tuple[bool, str | None]:
    if standing.trust is None:
        return False, "there is no valid trust.json"
    try:
        verify_head(capsule.head, trust=standing.trust, now=standing.now)
        verify_attestations(capsule.head, trust=standing.trust)
    except VerificationError as error:
        return False, str(error)
    return True, None


def _attestations(capsule: StoredCapsule, standing: Standing) -> list[dict[str, Any]]:
    """Return who is said to have built it, and whether that counts."""
    counts: tuple[KeyId, ...] = ()
    if standing.trust is not None:
        with contextlib.suppress(VerificationError):
            counts = verify_attestations(capsule.head, trust=standing.trust)
    return [
        {"keyId": keyid, "name": standing.names.get(keyid), "counts": keyid in counts}
        for keyid in capsule.attesters
    ]


def _payloads(capsule: StoredCapsule) -> list[dict[str, Any]]:
    names = iter(capsule.config.layers)
    return [
        {
            "role": f"layer {next(names)}" if kind in LAYER_TYPES else ROLES[kind],
            "digest": payload.digest,
            "mediaType": kind,
            "sizeBytes": payload.size_bytes,
        }
        for payload in capsule.manifest.payloads
        for kind in [payload.media_type]
    ]


def _shown(signature: Mapping[str, Any]) -> str:
    name: str | None = signature["name"]
    return name or str(signature["keyId"])[:12]
