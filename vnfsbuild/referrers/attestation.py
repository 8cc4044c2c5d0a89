"""Attestations: what a builder says, and signs, of how a capsule came to be.

An in-toto v1 Statement with a SLSA v1 provenance predicate, in a DSSE envelope with one signature.
Here is what makes one valid; what stands in the predicate is decided in
:mod:`vnfsbuild.referrers.provenance`. Format: docs/provenance.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vnfsbuild.digest import Digest, parse_json, render_json
from vnfsbuild.dsse import Envelope, KeyId, VerifyEd25519, parse_envelope, verify_envelope
from vnfsbuild.errors import VerificationError
from vnfsbuild.manifest import SOURCE
from vnfsbuild.trust import Trust
from vnfsbuild.verify import VerifiedCapsule

PROVENANCE = "application/vnd.in-toto.provenance+dsse"
"""Artifact type and media type of an envelope, as in-toto wants it in storage."""
STATEMENT = "application/vnd.in-toto+json"
"""What the envelope says that it holds."""
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"

BUILD_TYPE = "https://vnfsbuild.example.org/build/v1"
"""How it was built: from a source payload, by vnfsbuild. A name; docs/provenance.md defines it."""
BUILDERS = "https://vnfsbuild.example.org/builder/"
"""Before the id of a builder's key: the builder's id."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Attestation:
    """What one key says of a capsule. Its signature is not verified."""

    attester: KeyId
    """who is said to have signed it"""
    envelope: Envelope
    predicate: Mapping[str, Any]


def render_statement(name: str, serial: int, digest: Digest, predicate: Mapping[str, Any]) -> bytes:
    """Return the text that is signed: *predicate* is said of the capsule *digest*."""
    return render_json(
        {
            "_type": STATEMENT_TYPE,
            "predicate": dict(predicate),
            "predicateType": PREDICATE_TYPE,
            "subject": [_subject(name, serial, digest)],
        }
    )


def parse_attestation(
    data: bytes, *, name: str, serial: int, digest: Digest, where: str
) -> Attestation:
    """Return what the envelope *data* says of the capsule *name*, *serial*, *digest*.

    Raises:
        VerificationError: it is malformed, not about this capsule alone, no SLSA provenance, or
            does not hold exactly one signature.
    """
    envelope = parse_envelope(data, where=where)
    if envelope.payload_type != STATEMENT:
        raise VerificationError(
            f"{where}: signed as {envelope.payload_type!r}, expected {STATEMENT!r}"
        )
    if len(envelope.signatures) != 1:
        raise VerificationError(
            f"{where}: found {len(envelope.signatures)} signatures in one envelope, expected 1"
        )
    statement = parse_json(envelope.payload, where=where)
    kinds = (statement.get("_type"), statement.get("predicateType"))
    if kinds != (STATEMENT_TYPE, PREDICATE_TYPE):
        raise VerificationError(
            f"{where}: found {kinds[0]!r} with {kinds[1]!r}, expected an in-toto statement "
            f"{STATEMENT_TYPE} with {PREDICATE_TYPE}"
        )
    if statement.get("subject") != [_subject(name, serial, digest)]:
        raise VerificationError(
            f"{where}: is about {statement.get('subject')!r:.200}, "
            f"expected {name}:{serial}@{digest}"
        )
    predicate = statement.get("predicate")
    if not isinstance(predicate, dict):
        raise VerificationError(f"{where}: found no predicate")
    return Attestation(attester=envelope.signatures[0][0], envelope=envelope, predicate=predicate)


def find_attesters(
    capsule: VerifiedCapsule,
    attestations: Iterable[bytes],
    *,
    trust: Trust,
    verify_ed25519: VerifyEd25519,
) -> tuple[KeyId, ...]:
    """Return the keys whose word on how *capsule* was built counts, and which gave it; sorted.

    Those are the keys and the builders of the rule for it. What others say is passed over.

    Raises:
        VerificationError: no rule names the capsule; or an attestation in the name of such a key
            is not by it, or says that the capsule was built otherwise than it says itself.
    """
    config, source = capsule.config, capsule.manifest.payload(SOURCE).digest
    rule = trust.rule_for(config.name)
    keys = {keyid: trust.keys[keyid] for keyid in (*rule.keys, *rule.builders)}
    attesters = []
    for number, data in enumerate(attestations):
        where = f"{config.name}: attestation {number}"
        found = parse_attestation(
            data, name=config.name, serial=config.serial, digest=capsule.digest, where=where
        )
        if verify_envelope(
            found.envelope,
            payload_type=STATEMENT,
            keys=keys,
            verify_ed25519=verify_ed25519,
            where=where,
        ):
            verify_claim(found, name=config.name, source=source, where=where)
            attesters.append(found.attester)
    return tuple(sorted(attesters))


def verify_rebuilt(
    attesters: Sequence[KeyId],
    least: int,
    *,
    said: Iterable[KeyId],
    names: Mapping[KeyId, str],
    where: str,
    hint: str,
) -> None:
    """Raise unless *least* builders got the bytes of a capsule, the first one included.

    *attesters* are those whose word counts and was verified, *said* all whose word it is said to
    be; *names* are for people.

    Raises:
        VerificationError: there are fewer; who there are is told.
    """
    count = len(set(attesters))
    if count >= least:
        return
    told = f"built by {count} builder{'' if count == 1 else 's'} whose word counts"
    told += _list(attesters, names)
    strangers = set(said) - set(attesters)
    if strangers:
        told += f" and by {len(strangers)} not trusted{_list(strangers, names)}"
    raise VerificationError(f"{where}: {told}; expected {least}", hint=hint)


def _list(keys: Iterable[KeyId], names: Mapping[KeyId, str]) -> str:
    shown = ", ".join(sorted(names.get(keyid, keyid[:12]) for keyid in set(keys)))
    return f" ({shown})" if shown else ""


def make_parameters(name: str, source: Digest) -> dict[str, str]:
    """Return all that decides what comes out: of which recipe, and its source payload."""
    return {"recipe": name, "source": source}


def verify_claim(attestation: Attestation, *, name: str, source: Digest, where: str) -> None:
    """Raise unless *attestation* says that the capsule was built as it says of itself.

    Raises:
        VerificationError: by another kind of build, from another source, or in another's name.
    """
    build = _table(attestation.predicate, "buildDefinition")
    builder = _table(_table(attestation.predicate, "runDetails"), "builder")
    for found, expected in (
        (build.get("buildType"), BUILD_TYPE),
        (build.get("externalParameters"), make_parameters(name, source)),
        (builder.get("id"), BUILDERS + attestation.attester),
    ):
        if found != expected:
            raise VerificationError(f"{where}: says {found!r:.200}, expected {expected!r}")


def _table(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = value.get(key)
    return found if isinstance(found, dict) else {}


def _subject(name: str, serial: int, digest: Digest) -> dict[str, Any]:
    return {
        "digest": {"sha256": digest.removeprefix("sha256:")},
        "name": f"{name}:{serial}",
    }
