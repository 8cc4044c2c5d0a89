"""trust.json: whose signatures make which capsules trusted. The same on build host, server, node.

Format: docs/trust.md. A DSSE envelope signed by root keys over canonical JSON. On floor 0 because
the node decides by the very code that the servers decide by.
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
from dataclasses import dataclass
from typing import Any, Dict, Mapping, Optional, Tuple

from vnfsbuild.digest import parse_json, render_json
from vnfsbuild.dsse import (
    PUBLIC_KEY_BYTES,
    Envelope,
    KeyId,
    VerifyEd25519,
    key_id,
    parse_envelope,
    verify_envelope,
)
from vnfsbuild.errors import VerificationError

TRUST = "application/vnd.vnfs.trust.v1+json"


@dataclass(frozen=True)
class Rule:
    """Who must sign the capsules whose name matches a glob."""

    name: str
    keys: Tuple[KeyId, ...]
    threshold: int
    least_serial: int
    builders: Tuple[KeyId, ...] = ()
    """Keys whose word counts that they made the same bytes too, besides *keys*."""


@dataclass(frozen=True)
class Trust:
    """The verdict on keys. The first rule whose glob matches a capsule's name is the one."""

    version: int
    expires: int
    """Seconds since 1970."""
    keys: Mapping[KeyId, bytes]
    """Key id → 32 bytes of Ed25519 public key."""
    root_keys: Tuple[KeyId, ...]
    root_threshold: int
    rules: Tuple[Rule, ...]

    def rule_for(self, name: str) -> Rule:
        """Return the rule for capsules called *name*.

        Raises:
            VerificationError: none matches.
        """
        for rule in self.rules:
            if fnmatch.fnmatchcase(name, rule.name):
                return rule
        raise VerificationError(
            f"{name}: no rule of trust.json (version {self.version}) names this capsule"
        )


def render_trust(trust: Trust) -> bytes:
    """Return the text of *trust* that root keys sign."""
    return render_json(
        {
            "expires": trust.expires,
            "keys": {
                keyid: base64.b64encode(public).decode("ascii")
                for keyid, public in trust.keys.items()
            },
            "root": {"keys": sorted(set(trust.root_keys)), "threshold": trust.root_threshold},
            "rules": [_rule_value(rule) for rule in trust.rules],
            "version": trust.version,
        }
    )


def _rule_value(rule: Rule) -> Dict[str, Any]:
    value: Dict[str, Any] = {
        "keys": sorted(set(rule.keys)),
        "leastSerial": rule.least_serial,
        "name": rule.name,
        "threshold": rule.threshold,
    }
    # Left out when empty: so a text from before there were builders is still the one text.
    if rule.builders:
        value["builders"] = sorted(set(rule.builders))
    return value


def parse_trust(payload: bytes, *, where: str) -> Trust:
    """Return the trust that *payload* is the text of; nothing of it is verified yet.

    Raises:
        VerificationError: any other text than :func:`render_trust` writes, a key that is not its
            id, a rule or a root that names unknown keys or wants more signatures than keys.
    """
    value = parse_json(payload, where=where)
    try:
        trust = Trust(
            version=_count(value["version"]),
            expires=_count(value["expires"]),
            keys={keyid: _public_key(keyid, text) for keyid, text in value["keys"].items()},
            root_keys=_texts(value["root"]["keys"]),
            root_threshold=_count(value["root"]["threshold"]),
            rules=tuple(
                Rule(
                    name=_text(item["name"]),
                    keys=_texts(item["keys"]),
                    threshold=_count(item["threshold"]),
                    least_serial=_count(item["leastSerial"]),
                    builders=_texts(item.get("builders", [])),
                )
                for item in value["rules"]
            ),
        )
    except (KeyError, TypeError, AttributeError, ValueError, binascii.Error) as error:
        raise VerificationError(f"{where}: not a trust.json: {error!r}") from error
    for keys, threshold in (
        (trust.root_keys, trust.root_threshold),
        *((rule.keys, rule.threshold) for rule in trust.rules),
    ):
        if not set(keys) <= set(trust.keys) or not 1 <= threshold <= len(keys):
            raise VerificationError(f"{where}: a rule with unknown keys or an impossible threshold")
    if not all(set(rule.builders) <= set(trust.keys) for rule in trust.rules):
        raise VerificationError(f"{where}: a rule with builders whose keys are unknown")
    if render_trust(trust) != payload:
        raise VerificationError(f"{where}: holds more than the format knows")
    return trust


def verify_trust(
    data: bytes,
    *,
    pinned: Optional[Trust],
    now: int,
    verify_ed25519: VerifyEd25519,
    where: str = "trust.json",
) -> Trust:
    """Return the trust that the envelope *data* holds, signed as it must be.

    It must be signed by enough of its own root keys, and of those of *pinned*, the one held so
    far; without *pinned* its own root keys are taken on first use, as the place it was read from
    vouches for them. *now* is in seconds since 1970.

    Raises:
        VerificationError: too few signatures, expired, older than *pinned*, or of its version with
            other content.
    """
    envelope = parse_envelope(data, where=where)
    trust = parse_trust(envelope.payload, where=where)
    _verify_root(envelope, trust, verify_ed25519, where=where)
    if pinned is not None:
        if trust.version < pinned.version:
            raise VerificationError(
                f"{where}: found version {trust.version}, expected at least {pinned.version}"
            )
        if trust.version == pinned.version and render_trust(trust) != render_trust(pinned):
            raise VerificationError(
                f"{where}: another version {trust.version} than the one that is held, "
                "expected a higher version for a change"
            )
        _verify_root(envelope, pinned, verify_ed25519, where=where)
    if trust.expires <= now:
        raise VerificationError(f"{where}: version {trust.version} has expired")
    return trust


def _verify_root(envelope: Envelope, by: Trust, primitive: VerifyEd25519, *, where: str) -> None:
    keys = {keyid: by.keys[keyid] for keyid in by.root_keys}
    signers = verify_envelope(
        envelope, payload_type=TRUST, keys=keys, verify_ed25519=primitive, where=where
    )
    if len(signers) < by.root_threshold:
        raise VerificationError(
            f"{where}: signed by {len(signers)} root keys of version {by.version}, "
            f"expected {by.root_threshold}"
        )


def _public_key(keyid: KeyId, text: Any) -> bytes:
    public = base64.b64decode(_text(text), validate=True)
    if len(public) != PUBLIC_KEY_BYTES or key_id(public) != keyid:
        raise ValueError(f"key {keyid!r} is not the key with this id")
    return public


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"found {type(value).__name__}, expected text")
    return value


def _texts(value: Any) -> Tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError(f"found {type(value).__name__}, expected a list")
    return tuple(_text(item) for item in value)


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"found {value!r}, expected a whole number")
    return value
