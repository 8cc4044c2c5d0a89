"""Ed25519 verified in Python (RFC 8032): the primitive of a capsule, which need not have openssl.

A hundredth of a second each. All that goes in is public, so that the time it takes tells nothing.
Decides as openssl does: S below the order of the group, no cofactor, R compared as bytes.
"""

from __future__ import annotations

import hashlib
from typing import Tuple

from vnfsbuild.dsse import PUBLIC_KEY_BYTES, SIGNATURE_BYTES
from vnfsbuild.errors import VerificationError

_Point = Tuple[int, int, int, int]
"""Extended coordinates: x = X/Z, y = Y/Z, xy = T/Z."""

_P = 2**255 - 19
_ORDER = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, _P - 2, _P) % _P
_ROOT = pow(2, (_P - 1) // 4, _P)
"""A square root of -1."""
_ZERO: _Point = (0, 1, 1, 0)


def verify_in_python(public_key: bytes, signature: bytes, message: bytes) -> None:
    """Return when *signature* is that of *public_key* over *message*.

    Raises:
        VerificationError: it is not, or the key is none.
    """
    if not _holds(public_key, signature, message):
        raise VerificationError("the signature is not that of the key over these bytes")


def _holds(public_key: bytes, signature: bytes, message: bytes) -> bool:
    if len(public_key) != PUBLIC_KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    try:
        x, y, z, t = _decode(public_key)
    except ValueError:
        return False
    s = int.from_bytes(signature[32:], "little")
    if s >= _ORDER:
        return False
    challenge = hashlib.sha512(signature[:32] + public_key + message).digest()
    h = int.from_bytes(challenge, "little") % _ORDER
    found = _add(_multiply(s, _BASE), _multiply(h, (-x % _P, y, z, -t % _P)))
    return _encode(found) == signature[:32]


def _add(one: _Point, two: _Point) -> _Point:
    a = (one[1] - one[0]) * (two[1] - two[0]) % _P
    b = (one[1] + one[0]) * (two[1] + two[0]) % _P
    c = 2 * one[3] * two[3] * _D % _P
    d = 2 * one[2] * two[2] % _P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def _multiply(times: int, point: _Point) -> _Point:
    found = _ZERO
    while times:
        if times & 1:
            found = _add(found, point)
        point = _add(point, point)
        times >>= 1
    return found


def _encode(point: _Point) -> bytes:
    inverse = pow(point[2], _P - 2, _P)
    x, y = point[0] * inverse % _P, point[1] * inverse % _P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def _decode(data: bytes) -> _Point:
    """Return the point that *data* stands for.

    Raises:
        ValueError: it stands for none.
    """
    value = int.from_bytes(data, "little")
    y, odd = (value & (1 << 255) - 1) % _P, value >> 255
    square = (y * y - 1) * pow(_D * y * y + 1, _P - 2, _P) % _P
    x = pow(square, (_P + 3) // 8, _P)
    if (x * x - square) % _P:
        x = x * _ROOT % _P
    if (x * x - square) % _P:
        raise ValueError("not a point of the curve")
    if x & 1 != odd:
        x = -x % _P
    return x, y, 1, x * y % _P


_BASE = _decode((4 * pow(5, _P - 2, _P) % _P).to_bytes(32, "little"))
