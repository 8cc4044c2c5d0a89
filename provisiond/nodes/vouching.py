"""On which authority a node stands: who vouches for its image, its site's part, its bootstrap.

Pure: promise 1 of the design, told for one node.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vnfsbuild.digest import short
from vnfsbuild.errors import VerificationError
from vnfsbuild.store.index import StoredCapsule
from vnfsbuild.trust import Trust

NOBODY = "nobody"
BY_NETWORK = (
    "handed out by plain DHCP, TFTP and HTTP, and verified by no firmware: worth what the "
    "provisioning network is worth"
)
"""How firmware gets the bootstrap here. A signed one under Secure Boot would be said here too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One part of what runs on a node."""

    what: str
    digest: str | None
    keys: tuple[str, ...]
    """Ids of the keys whose signatures count for it."""
    text: str

    def value(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "what": self.what,
            "digest": self.digest,
            "keys": list(self.keys),
            "text": self.text,
        }


def vouch_for_image(name: str | None, capsule: StoredCapsule | None, trust: Trust | None) -> Row:
    """Return who vouches for kernel, initrd and layers of the *capsule* called *name*."""
    if name is None:
        return Row(what="image", digest=None, keys=(), text=f"{NOBODY}: no capsule is assigned")
    if capsule is None:
        return Row(what="image", digest=None, keys=(), text=f"{NOBODY}: {name} is not in the store")
    keys, told = _keys_that_count(capsule, trust)
    shown = f"{capsule.name}:{capsule.config.serial}@{short(capsule.digest)}"
    return Row(what="image", digest=capsule.digest, keys=keys, text=f"{shown}, {told}")


def vouch_for_site(server_url: str, authority: str) -> Row:
    """Return who vouches for plan, kernel arguments, overlay and scripts."""
    text = f"{server_url}, by the certificate authority {short(authority)} in site.cpio"
    return Row(what="site", digest=authority, keys=(), text=text)


def vouch_for_bootstrap(name: str, bootstrap: StoredCapsule | None, trust: Trust | None) -> Row:
    """Return who vouches for the *bootstrap* called *name*."""
    if bootstrap is None:
        return Row(what="bootstrap", digest=None, keys=(),
                   text=f"{NOBODY}: {name} is not in the store")  # fmt: skip
    keys, told = _keys_that_count(bootstrap, trust)
    shown = f"{bootstrap.name}:{bootstrap.config.serial}@{short(bootstrap.digest)}"
    return Row(what="bootstrap", digest=bootstrap.digest, keys=keys,
               text=f"{shown}, in the store {told}; {BY_NETWORK}")  # fmt: skip


def _keys_that_count(capsule: StoredCapsule, trust: Trust | None) -> tuple[tuple[str, ...], str]:
    if trust is None:
        return (), f"{NOBODY}: there is no trust.json"
    try:
        rule = trust.rule_for(capsule.name)
    except VerificationError as error:
        return (), f"{NOBODY}: {error.message}"
    keys = tuple(key for key in capsule.signers if key in rule.keys)
    if len(keys) < rule.threshold:
        return keys, (
            f"{NOBODY}: {len(keys)} of the {rule.threshold} signatures that the rule "
            f"{rule.name!r} of trust.json version {trust.version} asks for"
        )
    return keys, (
        f"signed by {', '.join(keys)}: the rule {rule.name!r} of trust.json version "
        f"{trust.version} asks for {rule.threshold} of {len(rule.keys)}"
    )
