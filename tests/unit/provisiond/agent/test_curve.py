"""Ed25519 in Python says what cryptography and openssl say, of good signatures and of bad ones."""

import random

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from provisiond.agent.curve import _ORDER, verify_in_python
from provisiond.agent.ed25519 import verify_ed25519 as by_openssl
from vnfsbuild.errors import VerificationError
from vnfsbuild.signing.keys import verify_ed25519 as by_cryptography

# RFC 8032, section 7.1: public key, message, signature
VECTORS = [
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
        "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
]


def says(verify, *words):
    try:
        verify(*words)
    except VerificationError:
        return False
    return True


@pytest.mark.parametrize("vector", VECTORS)
def test_the_signatures_of_the_standard_hold(vector):
    public, message, signature = map(bytes.fromhex, vector)
    verify_in_python(public, signature, message)
    with pytest.raises(VerificationError):
        verify_in_python(public, signature, message + b"x")


def test_of_what_was_changed_all_three_say_the_same():
    dice = random.Random(5)
    for _ in range(40):
        key = Ed25519PrivateKey.from_private_bytes(dice.randbytes(32))
        words = [key.public_key().public_bytes_raw(), b"", dice.randbytes(dice.randrange(200))]
        words[1] = key.sign(words[2])
        assert says(verify_in_python, *words)
        which = dice.randrange(3)
        if not words[which]:
            continue
        changed = bytearray(words[which])
        changed[dice.randrange(len(changed))] ^= 1 << dice.randrange(8)
        words[which] = bytes(changed)
        assert not says(verify_in_python, *words)
        assert not says(by_cryptography, *words)


SMALL = (
    bytes(32),
    b"\1" + bytes(31),
    b"\xec" + b"\xff" * 30 + b"\x7f",
    b"\xff" * 32,
    (2).to_bytes(32),
)


@pytest.mark.parametrize("public", SMALL)
@pytest.mark.parametrize("first", SMALL)
@pytest.mark.parametrize("s", [0, 1, _ORDER - 1, _ORDER, 2**256 - 1])
def test_of_odd_keys_and_signatures_all_three_say_the_same(public, first, s):
    words = (public, first + s.to_bytes(32, "little"), b"message")
    assert says(verify_in_python, *words) == says(by_cryptography, *words)


def test_a_signature_has_only_one_form():
    public, message, signature = map(bytes.fromhex, VECTORS[1])
    other = int.from_bytes(signature[32:], "little") + _ORDER
    words = (public, signature[:32] + other.to_bytes(32, "little"), message)
    assert [says(v, *words) for v in (verify_in_python, by_cryptography, by_openssl)] == [False] * 3


@pytest.mark.parametrize(("public", "signature"), [(31, 64), (33, 64), (32, 63), (32, 65), (0, 0)])
def test_of_another_length_is_none(public, signature):
    assert not says(verify_in_python, bytes(public), bytes(signature), b"")
