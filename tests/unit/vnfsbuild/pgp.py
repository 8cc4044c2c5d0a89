"""OpenPGP keys and signatures made by hand, so that tests need no gpg and no key server.

As RFC 4880 and its EdDSA draft have it: version 4, Ed25519, SHA-512 (or SHA-1, to be refused).
"""

import base64
import hashlib
import struct

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

OID = bytes.fromhex("092b06010401da470f01")
HASHES = {"sha512": 10, "sha1": 2}
DETACHED, TEXT, CERTIFIES = 0x00, 0x01, 0x13


class Key:
    """A key that signs repositories."""

    def __init__(self, name, *, created=1_600_000_000, expires_after=None):
        self.name = name
        self._secret = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())
        point = b"\x40" + self._secret.public_key().public_bytes_raw()
        self._body = struct.pack(">BIB", 4, created, 22) + OID + mpi(point)
        self._created = created
        self._expires_after = expires_after

    @property
    def fingerprint(self):
        return (
            hashlib.sha1(b"\x99" + struct.pack(">H", len(self._body)) + self._body)
            .hexdigest()
            .upper()
        )

    def public(self):
        user = f"{self.name} <{self.name}@example.org>".encode()
        certified = b"\x99" + struct.pack(">H", len(self._body)) + self._body
        certified += b"\xb4" + struct.pack(">I", len(user)) + user
        flags = subpacket(27, b"\x03")
        if self._expires_after is not None:
            flags += subpacket(9, struct.pack(">I", self._expires_after))
        binding = self._sign(CERTIFIES, certified, self._created, extra=flags)
        return packet(6, self._body) + packet(13, user) + binding

    def armoured(self):
        return armour("PUBLIC KEY BLOCK", self.public())

    def clearsign(self, text, *, at=1_700_000_000, hash_name="sha512"):
        lines = [line.rstrip(" \t\r") for line in text.rstrip("\n").split("\n")]
        signature = self._sign(TEXT, "\r\n".join(lines).encode(), at, hash_name=hash_name)
        shown = "\n".join(f"- {line}" if line.startswith("-") else line for line in lines)
        head = f"-----BEGIN PGP SIGNED MESSAGE-----\nHash: {hash_name.upper()}\n\n"
        return head.encode() + shown.encode() + b"\n" + armour("SIGNATURE", signature)

    def sign(self, data, *, at=1_700_000_000):
        return armour("SIGNATURE", self._sign(DETACHED, data, at))

    def _sign(self, kind, data, at, *, extra=b"", hash_name="sha512"):
        hashed = subpacket(33, b"\x04" + bytes.fromhex(self.fingerprint))
        hashed += subpacket(2, struct.pack(">I", at)) + extra
        head = struct.pack(">BBBBH", 4, kind, 22, HASHES[hash_name], len(hashed)) + hashed
        trailer = b"\x04\xff" + struct.pack(">I", len(head))
        digest = hashlib.new(hash_name, data + head + trailer).digest()
        value = self._secret.sign(digest)
        unhashed = subpacket(16, bytes.fromhex(self.fingerprint)[-8:])
        body = head + struct.pack(">H", len(unhashed)) + unhashed + digest[:2]
        return packet(2, body + mpi(value[:32]) + mpi(value[32:]))


def packet(tag, body):
    return bytes([0x80 | tag << 2 | 1]) + struct.pack(">H", len(body)) + body


def subpacket(kind, body):
    return bytes([len(body) + 1, kind]) + body


def mpi(data):
    number = int.from_bytes(data, "big")
    return struct.pack(">H", number.bit_length()) + number.to_bytes(
        (number.bit_length() + 7) // 8, "big"
    )


def armour(what, data):
    text = base64.encodebytes(data).decode()
    return f"-----BEGIN PGP {what}-----\n\n{text}-----END PGP {what}-----\n".encode()
