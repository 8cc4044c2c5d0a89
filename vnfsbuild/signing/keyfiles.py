"""Files of keys: Ed25519 in PEM, made and read by ``cryptography``.

A secret half is refused when others may read it, and never shown: not in a log, an error or a repr.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from vnfsbuild.dsse import KeyId, key_id
from vnfsbuild.errors import InputError, VerificationError
from vnfsbuild.files import read_bounded, sync_directory
from vnfsbuild.signing.passphrase import offer_passphrases
from vnfsbuild.signing.pkcs8 import BLOCK_BYTES, SALT_BYTES, encrypt_key
from vnfsbuild.signing.signer import ask_signer, load_command

MAX_KEY_BYTES = 16 * 1024

_opened: dict[bytes, Ed25519PrivateKey] = {}
"""Keys by the bytes of their files: nobody is asked twice for one passphrase by one command."""


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


def load_secret_key(
    path: Path, *, offer: Callable[[str], Iterator[bytes]] = offer_passphrases
) -> SecretKey:
    """Return the key in the PEM file *path* (PKCS #8); *offer* has passphrases, if it needs one.

    Raises:
        InputError: no such file, one that others may read, no Ed25519 key in it, or no passphrase
            that opens it.
    """
    data = read_bounded(path, limit_bytes=MAX_KEY_BYTES)
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise InputError(
            f"{path}: found mode {mode:04o}, expected 0600: others can read this secret key",
            hint=f"chmod 600 {path}",
        )
    if data in _opened:
        return make_secret_key(path.stem, _opened[data])
    hidden = b"ENCRYPTED PRIVATE KEY" in data
    for passphrase in offer(os.fspath(path)) if hidden else [None]:
        try:
            secret = serialization.load_pem_private_key(data, password=passphrase)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            # Not chained: what others say of it may be more than is to be known.
            continue
        if not isinstance(secret, Ed25519PrivateKey):
            raise InputError(f"{path}: found another kind of key, expected Ed25519")
        if hidden:
            _opened[data] = secret
        return make_secret_key(path.stem, secret)
    if hidden:
        raise InputError(f"{path}: the passphrase does not open this key")
    raise InputError(f"{path}: not a secret key in PEM (PKCS #8)")


def load_external_key(path: Path) -> SecretKey:
    """Return the key whose ``NAME.signer`` is *path*; the program is asked for each signature.

    What it answers counts only when the public key beside it verifies it.

    Raises:
        InputError: a file is missing or not as it must be.
    """
    command = load_command(path)
    public_path = path.with_suffix(".pub")
    public_key = load_public_key(public_path)

    def sign(message: bytes) -> bytes:
        signature = ask_signer(command, message, where=os.fspath(path))
        try:
            verify_ed25519(public_key, signature, message)
        except VerificationError as error:
            raise VerificationError(
                f"{path}: {command[0]}: its signature is not that of {public_path}; it was not used"
            ) from error
        return signature

    return SecretKey(name=path.stem, public_key=public_key, sign=sign)


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


def render_public_key(public_key: bytes) -> bytes:
    """Return the PEM text of *public_key*."""
    return Ed25519PublicKey.from_public_bytes(public_key).public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def render_secret_key(secret: Ed25519PrivateKey, passphrase: bytes | None) -> bytes:
    kind, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    if passphrase is None:
        return secret.private_bytes(serialization.Encoding.PEM, kind, plain)
    return encrypt_key(
        secret.private_bytes(serialization.Encoding.DER, kind, plain),
        passphrase,
        salt=secrets.token_bytes(SALT_BYTES),
        iv=secrets.token_bytes(BLOCK_BYTES),
    )


def make_secret_key(name: str, secret: Ed25519PrivateKey) -> SecretKey:
    return SecretKey(name=name, public_key=secret.public_key().public_bytes_raw(), sign=secret.sign)


def write_new_file(path: Path, data: bytes, *, mode: int) -> None:
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
        raise name_taken(path) from error
    finally:
        Path(temporary).unlink()
    sync_directory(path.parent)


def name_taken(path: Path) -> InputError:
    return InputError(
        f"{path}: there is a key of this name, and it is not written over",
        hint="give another name",
    )
