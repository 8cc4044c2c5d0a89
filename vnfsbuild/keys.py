"""Keys of a site: ``keys/NAME.pem`` (secret, 0600), ``keys/NAME.pub``, and ``trust.json``.

Ed25519 by ``cryptography``. Nothing here logs a secret, puts one into an error, or writes over a
file that holds one.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from vnfsbuild.dsse import KeyId, key_id, make_envelope, render_envelope
from vnfsbuild.errors import InputError, VerificationError
from vnfsbuild.files import locked, read_bounded, sync_directory, write_atomic
from vnfsbuild.manifest import MAX_METADATA_BYTES, OCI_MANIFEST
from vnfsbuild.reference import parse_name
from vnfsbuild.trust import TRUST, Rule, Trust, render_trust, verify_trust

logger = logging.getLogger(__name__)

ROOT = "root"
"""The name of the key that signs the first trust.json; it signs no capsules."""

FIRST_TRUST_SECONDS = 10 * 365 * 24 * 3600
"""How long a trust.json that we make on our own is good: ten years, longer than a cluster lives.
A shorter time would stop nodes of sites that never think of it."""

MAX_KEY_BYTES = 16 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class SecretKey:
    """A key that can sign. The secret itself stays inside *sign*."""

    name: str
    public_key: bytes
    sign: Callable[[bytes], bytes] = field(repr=False, compare=False)

    @property
    def key_id(self) -> KeyId:
        """Return the id of the key."""
        return key_id(self.public_key)


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyFile:
    """A key of the site, as ``keys list`` shows it."""

    name: str
    key_id: KeyId
    can_sign: bool
    """The secret half is here."""
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


def verify_ed25519(public_key: bytes, signature: bytes, message: bytes) -> None:
    """Verify with ``cryptography``: the primitive for :mod:`dsse` on servers.

    Raises:
        VerificationError: *signature* is not by *public_key* over *message*.
    """
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError) as error:
        raise VerificationError(
            f"wrong signature by key {key_id(public_key)[:12]}: not over these bytes"
        ) from error


def sign_manifest(manifest_bytes: bytes, key: SecretKey) -> bytes:
    """Return the envelope by which *key* vouches for the capsule with this manifest."""
    return render_envelope(
        make_envelope(OCI_MANIFEST, manifest_bytes, [(key.public_key, key.sign)])
    )


def load_secret_key(path: Path) -> SecretKey:
    """Return the key in the PEM file *path* (PKCS #8, no password).

    Raises:
        InputError: no such file, one that others may read, or no Ed25519 key in it.
    """
    data = read_bounded(path, limit_bytes=MAX_KEY_BYTES)
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise InputError(
            f"{path}: found mode {mode:04o}, expected 0600: others can read this secret key",
            hint=f"chmod 600 {path}",
        )
    try:
        secret = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InputError(f"{path}: not a secret key in PEM without a password") from error
    if not isinstance(secret, Ed25519PrivateKey):
        raise InputError(f"{path}: found another kind of key, expected Ed25519")
    return _secret_key(path.stem, secret)


def load_public_key(path: Path) -> bytes:
    """Return the 32 bytes of the public key in the PEM file *path*.

    Raises:
        InputError: no such file, or no Ed25519 key in it.
    """
    data = read_bounded(path, limit_bytes=MAX_KEY_BYTES)
    try:
        public = serialization.load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InputError(f"{path}: not a public key in PEM") from error
    if not isinstance(public, Ed25519PublicKey):
        raise InputError(f"{path}: found another kind of key, expected Ed25519")
    return public.public_bytes_raw()


def make_key(site: Path, name: str) -> SecretKey:
    """Make a key pair in ``keys/`` of *site*.

    Raises:
        InputError: the name cannot be one, or there is a key of this name: none is written over.
    """
    parse_name(name, where="key")
    directory = site / "keys"
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o700)
    secret = Ed25519PrivateKey.generate()
    pem = secret.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    public = secret.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    if (directory / f"{name}.pub").exists():
        raise _taken(directory / f"{name}.pub")
    _write_new(directory / f"{name}.pem", pem, mode=0o600)
    _write_new(directory / f"{name}.pub", public, mode=0o644)
    return _secret_key(name, secret)


def new_key(site: Path, name: str, *, now: int) -> NewKey:
    """Make the key *name*; on a site without trust.json also the root key and version 1 of it.

    The first key may then sign every capsule. Where there is a trust.json it stays as it is, and
    the new key is not trusted yet. *now* is in seconds since 1970.

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
        fresh = not (site / "trust.json").exists()
        if not fresh:
            load_trust(site, now=now)
        key = make_key(site, name)
        if fresh:
            _make_first_trust(site, key, now=now)
        trust = load_trust(site, now=now)
    return NewKey(
        key=_key_file(name, key.public_key, trust, can_sign=True),
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
        _key_file(
            path.stem, load_public_key(path), trust, can_sign=path.with_suffix(".pem").exists()
        )
        for path in sorted((site / "keys").glob("*.pub"))
    )


def find_signing_key(site: Path, key_name: str | None) -> SecretKey | None:
    """Return the secret key *key_name*; without a name, the only one that is not the root key.

    None when no name was given and there is no key: what is built then stays unsigned.

    Raises:
        InputError: there is no such key, or no name was given and there are several.
    """
    directory = site / "keys"
    if key_name is not None:
        parse_name(key_name, where="key")
        return load_secret_key(directory / f"{key_name}.pem")
    found = [path for path in sorted(directory.glob("*.pem")) if path.stem != ROOT]
    if len(found) > 1:
        names = ", ".join(path.stem for path in found)
        raise InputError(
            f"{directory}: found keys {names}, expected to be told which signs",
            hint=f"--key {found[0].stem}",
        )
    return load_secret_key(found[0]) if found else None


def _make_first_trust(site: Path, key: SecretKey, *, now: int) -> None:
    path = site / "keys" / f"{ROOT}.pem"
    # A root key without trust.json is left of a run that was interrupted, or was put there.
    root = load_secret_key(path) if path.exists() else make_key(site, ROOT)
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


def _key_file(name: str, public_key: bytes, trust: Trust | None, *, can_sign: bool) -> KeyFile:
    keyid = key_id(public_key)
    return KeyFile(
        name=name,
        key_id=keyid,
        can_sign=can_sign,
        rules=tuple(rule.name for rule in trust.rules if keyid in rule.keys) if trust else (),
        is_root=trust is not None and keyid in trust.root_keys,
    )


def _secret_key(name: str, secret: Ed25519PrivateKey) -> SecretKey:
    return SecretKey(name=name, public_key=secret.public_key().public_bytes_raw(), sign=secret.sign)


def _write_new(path: Path, data: bytes, *, mode: int) -> None:
    """Write a file that was not there; whole or not at all."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        # Unlike a rename, a link never takes the place of a file that is there.
        os.link(temporary, path)
    except FileExistsError as error:
        raise _taken(path) from error
    finally:
        Path(temporary).unlink()
    sync_directory(path.parent)


def _taken(path: Path) -> InputError:
    return InputError(
        f"{path}: there is a key of this name, and it is not written over",
        hint="give another name",
    )
