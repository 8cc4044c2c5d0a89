"""DSSE envelopes: a payload, its type, and Ed25519 signatures over both.

Format: Dead Simple Signing Envelope v1 (secure-systems-lab/dsse), in canonical JSON with standard
base64. A plain DSSE reader accepts many texts of one envelope (base64 slack, white space, key
order, key ids that are mere hints); this one accepts exactly the text that it would write.

Signing and the Ed25519 primitive are passed in: ``cryptography`` on a server, the ``openssl``
program on a node.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterable, Mapping, Tuple

from vnfsbuild.digest import parse_json, render_json
from vnfsbuild.errors import VerificationError

KeyId = str

# verify_ed25519(public_key, signature, message) raises VerificationError when it does not hold.
VerifyEd25519 = Callable[[bytes, bytes, bytes], None]

PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64

_KEY_ID = re.compile(r"[0-9a-f]{64}\Z")

# SubjectPublicKeyInfo of every Ed25519 key (RFC 8410) is this, then the 32 bytes of the key.
SPKI_PREFIX = bytes.fromhex("302a300506032b6570032100")


def key_id(public_key: bytes) -> KeyId:
    """Return the id of an Ed25519 key: sha256 of its DER SubjectPublicKeyInfo, in hexadecimal.

    The same as ``openssl pkey -pubin -outform DER | sha256sum`` prints.
    """
    return hashlib.sha256(SPKI_PREFIX + public_key).hexdigest()


@dataclass(frozen=True)
class Envelope:
    """A parsed envelope. Nothing in it is verified."""

    payload_type: str
    payload: bytes
    signatures: Tuple[Tuple[KeyId, bytes], ...]
    """(key id, 64 bytes of signature), sorted by key id, each key once."""


def signed_bytes(payload_type: str, payload: bytes) -> bytes:
    """Return what is signed: DSSE's pre-authentication encoding of type and payload."""
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def render_envelope(envelope: Envelope) -> bytes:
    """Return the one text of *envelope*."""
    return render_json(
        {
            "payload": base64.b64encode(envelope.payload).decode("ascii"),
            "payloadType": envelope.payload_type,
            "signatures": [
                {"keyid": keyid, "sig": base64.b64encode(signature).decode("ascii")}
                for keyid, signature in sorted(envelope.signatures)
            ],
        }
    )


def parse_envelope(data: bytes, *, where: str) -> Envelope:
    """Return the envelope that *data* is the text of.

    Raises:
        VerificationError: any other text than :func:`render_envelope` would write.
    """
    value = parse_json(data, where=where)
    try:
        envelope = Envelope(
            payload_type=_text(value["payloadType"]),
            payload=_decode(value["payload"]),
            signatures=tuple(_signature(item) for item in value["signatures"]),
        )
    except (KeyError, TypeError, AttributeError, ValueError, binascii.Error) as error:
        raise VerificationError(f"{where}: not a DSSE envelope: {error!r}") from error
    keys = [keyid for keyid, _ in envelope.signatures]
    if render_envelope(envelope) != data or len(set(keys)) != len(keys) or not keys:
        raise VerificationError(f"{where}: a DSSE envelope in another form than the canonical one")
    return envelope


def verify_envelope(
    envelope: Envelope,
    *,
    payload_type: str,
    keys: Mapping[KeyId, bytes],
    verify_ed25519: VerifyEd25519,
    where: str,
) -> Tuple[KeyId, ...]:
    """Return the ids of those of *keys* that signed *envelope*, sorted; perhaps none.

    Signatures by other keys are passed over: they say nothing here.

    Raises:
        VerificationError: the type is another one, or a signature by one of *keys* is wrong.
    """
    if envelope.payload_type != payload_type:
        raise VerificationError(
            f"{where}: signed as {envelope.payload_type!r}, expected {payload_type!r}"
        )
    message = signed_bytes(envelope.payload_type, envelope.payload)
    signers = []
    for keyid, signature in envelope.signatures:
        if keyid in keys:
            try:
                verify_ed25519(keys[keyid], signature, message)
            except VerificationError as error:
                raise VerificationError(f"{where}: {error}", hint=error.hint) from error
            signers.append(keyid)
    return tuple(sorted(signers))


def make_envelope(
    payload_type: str, payload: bytes, signers: Iterable[Tuple[bytes, Callable[[bytes], bytes]]]
) -> Envelope:
    """Return *payload* signed by each of *signers*: (public key, what signs a message)."""
    message = signed_bytes(payload_type, payload)
    signatures = sorted((key_id(public_key), sign(message)) for public_key, sign in signers)
    return Envelope(payload_type=payload_type, payload=payload, signatures=tuple(signatures))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"found {type(value).__name__}, expected text")
    return value


def _decode(value: Any) -> bytes:
    return base64.b64decode(_text(value), validate=True)


def _signature(item: Dict[str, Any]) -> Tuple[KeyId, bytes]:
    signature = _decode(item["sig"])
    if len(signature) != SIGNATURE_BYTES:
        raise ValueError(f"a signature of {len(signature)} bytes, expected {SIGNATURE_BYTES}")
    keyid = _text(item["keyid"])
    if not _KEY_ID.match(keyid):
        raise ValueError(f"key id {keyid!r:.80}, expected 64 hexadecimal digits")
    return keyid, signature
