"""Keys of a site: ``keys/NAME.pem`` (secret, 0600), ``keys/NAME.pub``, and ``trust.json``.

Ed25519 by ``cryptography``. Nothing here logs a secret, puts one into an error, or writes over a
file that holds one. In the place of the secret there may be ``keys/NAME.signer``, which names a
program that signs.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from vnfsbuild.dsse import KeyId, key_id, make_envelope, render_envelope
from vnfsbuild.errors import InputError
from vnfsbuild.files import locked, read_bounded, write_atomic
from vnfsbuild.manifest import MAX_METADATA_BYTES, OCI_MANIFEST
from vnfsbuild.reference import parse_name
from vnfsbuild.signing.keyfiles import (
    SecretKey,
    load_external_key,
    load_public_key,
    load_secret_key,
    make_secret_key,
    name_taken,
    render_public_key,
    render_secret_key,
    verify_ed25519,
    write_new_file,
)
from vnfsbuild.signing.signer import parse_command
from vnfsbuild.trust import TRUST, Rule, Trust, render_trust, verify_trust

__all__ = [
    "NEXT_TRUST",
    "ROOT",
    "KeyFile",
    "NewKey",
    "SecretKey",
    "find_signing_key",
    "list_keys",
    "load_key",
    "load_public_key",
    "load_secret_key",
    "load_trust",
    "make_key",
    "new_external_key",
    "new_key",
    "sign_manifest",
    "verify_ed25519",
]

logger = logging.getLogger(__name__)

ROOT = "root"
"""The name of the key that signs the first trust.json; it signs no capsules."""

FIRST_TRUST_SECONDS = 10 * 365 * 24 * 3600
"""How long a trust.json that we make on our own is good: ten years, longer than a cluster lives.
A shorter time would stop nodes of sites that never think of it."""

NEXT_TRUST = "trust.next.json"
"""A trust.json to be, which not all have signed who must."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyFile:
    """A key of the site, as ``keys list`` shows it."""

    name: str
    key_id: KeyId
    can_sign: bool
    """The secret half is here, or a program that has it."""
    external: bool
    """A program signs."""
    rules: tuple[str, ...]
    """Globs of the rules of trust.json that name this key."""
    is_root: bool
    """trust.json names it as a root key."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NewKey:
    """What making a key came to."""

    key: KeyFile
    trust_version: int
    made_trust: bool
    """There was no trust.json: root key and version 1 were made as well."""


def sign_manifest(manifest_bytes: bytes, key: SecretKey) -> bytes:
    """Return the envelope by which *key* vouches for the capsule with this manifest."""
    return render_envelope(
        make_envelope(OCI_MANIFEST, manifest_bytes, [(key.public_key, key.sign)])
    )


def make_key(site: Path, name: str, *, passphrase: bytes | None = None) -> SecretKey:
    """Make a key pair in ``keys/`` of *site*; with a *passphrase* the secret half is under it.

    Raises:
        InputError: the name cannot be one, or there is a key of this name: none is written over.
    """
    parse_name(name, where="key")
    directory = site / "keys"
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o700)
    secret = Ed25519PrivateKey.generate()
    pem = render_secret_key(secret, passphrase)
    public = render_public_key(secret.public_key().public_bytes_raw())
    for taken in (directory / f"{name}.pub", directory / f"{name}.signer"):
        if taken.exists():
            raise name_taken(taken)
    write_new_file(directory / f"{name}.pem", pem, mode=0o600)
    write_new_file(directory / f"{name}.pub", public, mode=0o644)
    return make_secret_key(name, secret)


def new_key(site: Path, name: str, *, now: int, passphrase: bytes | None = None) -> NewKey:
    """Make the key *name*; on a site without trust.json also the root key and version 1 of it.

    With a *passphrase* what is made is under it, the root key too. The first key may then sign
    every capsule. Where there is a trust.json it stays as it is, and the new key is not trusted
    yet. *now* is in seconds since 1970.

    Raises:
        InputError: there is a key of this name, or the name is kept for the root key.
        VerificationError: the trust.json that is there does not hold.
    """
    if name == ROOT:
        raise InputError(
            f"key {ROOT!r}: this name is kept for the key that signs trust.json",
            hint="vnfsbuild keys new NAME makes both, where there is no trust.json yet",
        )
    site.mkdir(parents=True, exist_ok=True)
    with locked(site / ".lock"):
        waiting = site / NEXT_TRUST
        if waiting.exists():
            raise InputError(
                f"{waiting}: a trust.json that still waits for signatures",
                hint=f"vnfsbuild trust sign; or, to drop it, rm {waiting}",
            )
        fresh = not (site / "trust.json").exists()
        if not fresh:
            load_trust(site, now=now)
        key = make_key(site, name, passphrase=passphrase)
        if fresh:
            _make_first_trust(site, key, now=now, passphrase=passphrase)
        trust = load_trust(site, now=now)
    return NewKey(
        key=_key_file(site / "keys" / f"{name}.pub", key.public_key, trust),
        trust_version=trust.version,
        made_trust=fresh,
    )


def load_trust(site: Path, *, now: int) -> Trust:
    """Return what trust.json of *site* says. *now* is in seconds since 1970.

    Its own root keys are believed: who may write into the site directory decides.

    Raises:
        InputError: there is no trust.json.
        VerificationError: it is not signed by its root keys, or has expired.
    """
    path = site / "trust.json"
    if not path.exists():
        raise InputError(
            f"{path}: no such file, so no key is trusted",
            hint="vnfsbuild keys new NAME makes a key and a trust.json; "
            "or copy the trust.json of your site there",
        )
    data = read_bounded(path, limit_bytes=MAX_METADATA_BYTES)
    return verify_trust(
        data, pinned=None, now=now, verify_ed25519=verify_ed25519, where=os.fspath(path)
    )


def list_keys(site: Path, trust: Trust | None) -> tuple[KeyFile, ...]:
    """Return the keys in ``keys/`` of *site*, sorted by name, and what *trust* says of them.

    Raises:
        InputError: a file there is no public key.
    """
    return tuple(
        _key_file(path, load_public_key(path), trust)
        for path in sorted((site / "keys").glob("*.pub"))
    )


def find_signing_key(site: Path, key_name: str | None) -> SecretKey | None:
    """Return the secret key *key_name*; without a name, the only one that is not the root key.

    None when no name was given and there is no key: what is built then stays unsigned.

    Raises:
        InputError: there is no such key, it cannot be opened, or no name was given and there are
            several.
    """
    directory = site / "keys"
    if key_name is not None:
        return load_key(site, key_name)
    names = {path.stem for kind in ("*.pem", "*.signer") for path in directory.glob(kind)}
    found = sorted(names - {ROOT})
    if len(found) > 1:
        raise InputError(
            f"{directory}: found keys {', '.join(found)}, expected to be told which signs",
            hint=f"--key {found[0]}",
        )
    return load_key(site, found[0]) if found else None


def load_key(site: Path, name: str) -> SecretKey:
    """Return the key *name* of *site*, that of a file or that of a program.

    Raises:
        InputError: there is no such key, there are both, or it cannot be opened.
    """
    parse_name(name, where="key")
    secret, external = (site / "keys" / f"{name}.{kind}" for kind in ("pem", "signer"))
    if not external.exists():
        return load_secret_key(secret)
    if secret.exists():
        raise InputError(
            f"{external}: there is also {secret.name}, expected only one that signs",
            hint="move one of them away",
        )
    return load_external_key(external)


def new_external_key(
    site: Path, name: str, *, command: tuple[str, ...], public: Path, now: int
) -> KeyFile:
    """Note that *name* is the key in the file *public*, and that the program *command* signs by it.

    Raises:
        InputError: there is a key of this name, or what is given cannot be one.
    """
    parse_name(name, where="key")
    public_key = load_public_key(public)
    text = "".join(f"{word}\n" for word in command).encode()
    directory = site / "keys"
    with locked(site / ".lock"):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for kind in ("pem", "pub"):
            if (directory / f"{name}.{kind}").exists():
                raise name_taken(directory / f"{name}.{kind}")
        parse_command(text, where=f"key {name}")
        write_new_file(directory / f"{name}.signer", text, mode=0o644)
        write_new_file(directory / f"{name}.pub", render_public_key(public_key), mode=0o644)
    trust = load_trust(site, now=now) if (site / "trust.json").exists() else None
    return _key_file(directory / f"{name}.pub", public_key, trust)


def _make_first_trust(site: Path, key: SecretKey, *, now: int, passphrase: bytes | None) -> None:
    # A root key without trust.json is left of a run that was interrupted, or was put there.
    has_root = any((site / "keys" / f"{ROOT}.{kind}").exists() for kind in ("pem", "signer"))
    root = load_key(site, ROOT) if has_root else make_key(site, ROOT, passphrase=passphrase)
    trust = Trust(
        version=1,
        expires=now + FIRST_TRUST_SECONDS,
        keys={root.key_id: root.public_key, key.key_id: key.public_key},
        root_keys=(root.key_id,),
        root_threshold=1,
        rules=(Rule(name="*", keys=(key.key_id,), threshold=1, least_serial=0),),
    )
    envelope = make_envelope(TRUST, render_trust(trust), [(root.public_key, root.sign)])
    write_atomic(site / "trust.json", render_envelope(envelope))
    logger.debug("%s: version 1, signed by root key %s", site / "trust.json", root.key_id[:12])


def _key_file(path: Path, public_key: bytes, trust: Trust | None) -> KeyFile:
    keyid = key_id(public_key)
    external = path.with_suffix(".signer").exists()
    return KeyFile(
        name=path.stem,
        key_id=keyid,
        can_sign=external or path.with_suffix(".pem").exists(),
        external=external,
        rules=tuple(rule.name for rule in trust.rules if keyid in rule.keys) if trust else (),
        is_root=trust is not None and keyid in trust.root_keys,
    )
