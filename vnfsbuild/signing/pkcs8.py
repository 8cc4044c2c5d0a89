"""A secret key under a passphrase: PKCS #8 EncryptedPrivateKeyInfo, which openssl reads and writes.

``cryptography`` makes these as well, but with 2048 rounds of PBKDF2: a stolen file would not stand
long against guessing. Here are as many rounds as OWASP asks for, and AES-256-CBC. Reading is left
to ``cryptography``. Pure: what is random is passed in.
"""

from __future__ import annotations

import base64
import hashlib

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CBC

ROUNDS = 600_000
BLOCK_BYTES = 16
SALT_BYTES = 16

_SEQUENCE, _INTEGER, _OCTETS, _NULL, _OBJECT = 0x30, 0x02, 0x04, b"\x05\x00", 0x06
_PBES2 = bytes.fromhex("2a864886f70d01050d")
_PBKDF2 = bytes.fromhex("2a864886f70d01050c")
_HMAC_SHA256 = bytes.fromhex("2a864886f70d0209")
_AES_256_CBC = bytes.fromhex("60864801650304012a")


def encrypt_key(der: bytes, passphrase: bytes, *, salt: bytes, iv: bytes) -> bytes:
    """Return the PEM text of the PKCS #8 key *der* under *passphrase*.

    *salt* and *iv* are random bytes, :data:`SALT_BYTES` and :data:`BLOCK_BYTES` of them.
    """
    secret = hashlib.pbkdf2_hmac("sha256", passphrase, salt, ROUNDS, dklen=32)
    fill = BLOCK_BYTES - len(der) % BLOCK_BYTES
    encryptor = Cipher(AES256(secret), CBC(iv)).encryptor()
    hidden = encryptor.update(der + bytes([fill]) * fill) + encryptor.finalize()
    rounds = ROUNDS.to_bytes(ROUNDS.bit_length() // 8 + 1)
    derivation = _der(
        _SEQUENCE,
        _der(_OCTETS, salt),
        _der(_INTEGER, rounds),
        _der(_SEQUENCE, _der(_OBJECT, _HMAC_SHA256), _NULL),
    )
    scheme = _der(
        _SEQUENCE,
        _der(_SEQUENCE, _der(_OBJECT, _PBKDF2), derivation),
        _der(_SEQUENCE, _der(_OBJECT, _AES_256_CBC), _der(_OCTETS, iv)),
    )
    algorithm = _der(_SEQUENCE, _der(_OBJECT, _PBES2), scheme)
    return _pem(_der(_SEQUENCE, algorithm, _der(_OCTETS, hidden)))


def _der(tag: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    length = len(content)
    if length < 0x80:
        return bytes([tag, length]) + content
    size = length.to_bytes((length.bit_length() + 7) // 8)
    return bytes([tag, 0x80 | len(size)]) + size + content


def _pem(der: bytes) -> bytes:
    text = base64.b64encode(der)
    lines = [text[start : start + 64] for start in range(0, len(text), 64)]
    kind = b"ENCRYPTED PRIVATE KEY"
    return b"\n".join([b"-----BEGIN %b-----" % kind, *lines, b"-----END %b-----" % kind, b""])
