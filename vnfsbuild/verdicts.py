"""What a change of trust.json comes to: for the capsules of the store, and in words."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vnfsbuild.capsule import Head, verify_head
from vnfsbuild.dsse import KeyId
from vnfsbuild.errors import VerificationError
from vnfsbuild.signing.trustfile import Changed
from vnfsbuild.signing.trustrules import DAY_SECONDS
from vnfsbuild.store.index import StoredCapsule
from vnfsbuild.store.store import Store
from vnfsbuild.trust import Rule, Trust


@dataclass(frozen=True, kw_only=True, slots=True)
class Lost:
    """A capsule that might run before a change, and may not after it."""

    capsule: StoredCapsule
    reason: str


def find_lost(store: Path, before: Trust, after: Trust, *, now: int) -> tuple[Lost, ...]:
    """Return the capsules of *store* that *before* trusts and *after* does not."""
    lost = []
    for capsule in Store(store).list_capsules():
        if find_reason(capsule.head, before, now=now) is None:
            reason = find_reason(capsule.head, after, now=now)
            if reason is not None:
                lost.append(Lost(capsule=capsule, reason=reason))
    return tuple(lost)


def find_reason(head: Head, trust: Trust, *, now: int) -> str | None:
    """Return why the capsule with *head* may not run; None when it may."""
    try:
        verify_head(head, trust=trust, now=now)
    except VerificationError as error:
        return str(error)
    return None


def describe_trust(trust: Trust, names: Mapping[KeyId, str], *, now: int) -> dict[str, Any]:
    """Return what ``trust show --json`` tells."""

    def key(keyid: KeyId) -> dict[str, str | None]:
        return {"keyId": keyid, "name": names.get(keyid)}

    def rule(item: Rule) -> dict[str, Any]:
        return {
            "name": item.name,
            "keys": [key(keyid) for keyid in item.keys],
            "threshold": item.threshold,
            "leastSerial": item.least_serial,
            "builders": [key(keyid) for keyid in item.builders],
        }

    return {
        "version": trust.version,
        "expires": trust.expires,
        "expired": trust.expires <= now,
        "root": {
            "keys": [key(keyid) for keyid in trust.root_keys],
            "threshold": trust.root_threshold,
        },
        "rules": [rule(item) for item in trust.rules],
    }


def describe_changed(
    changed: Changed, lost: tuple[Lost, ...], names: Mapping[KeyId, str], *, now: int
) -> dict[str, Any]:
    """Return what ``--json`` tells of a change."""
    return {
        **describe_trust(changed.trust, names, now=now),
        "path": str(changed.path),
        "missingSignatures": changed.missing,
        "lost": [
            {"name": item.capsule.name, "digest": item.capsule.digest, "reason": item.reason}
            for item in lost
        ],
    }


def render_trust_facts(facts: Mapping[str, Any], *, now: int) -> str:
    """Return the text of ``trust show``."""
    expires = render_expiry(facts["expires"], now=now)
    lines = [
        f"version {facts['version']}, {expires}",
        f"root: {_of(facts['root']['keys'], facts['root']['threshold'])}",
    ]
    for rule in facts["rules"]:
        told = f"{rule['name']}: {_of(rule['keys'], rule['threshold'])}"
        if rule["leastSerial"]:
            told += f"; serial {rule['leastSerial']} or later"
        if rule["builders"]:
            told += f"; rebuilt by {_shown(rule['builders'])}"
        lines.append(told)
    if not facts["rules"]:
        lines.append("no rule: no capsule may run")
    return "\n".join(lines)


def render_expiry(expires: int, *, now: int) -> str:
    """Return when something expires, and how long that is."""
    date = time.strftime("%Y-%m-%d", time.gmtime(expires)) if expires < 2**40 else "never"
    days = (expires - now) // DAY_SECONDS
    if expires <= now:
        return f"EXPIRED on {date}"
    return f"expires on {date}, in {days} day{'' if days == 1 else 's'}"


def _of(keys: list[dict[str, str | None]], threshold: int) -> str:
    count = "" if len(keys) == 1 else f"{threshold} of "
    return f"{count}{_shown(keys)}"


def _shown(keys: list[dict[str, str | None]]) -> str:
    return ", ".join(item["name"] or str(item["keyId"])[:12] for item in keys)
