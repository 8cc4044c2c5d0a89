"""Every bit, every length: what the table samples by regions, here exhaustively, on the vector.

The verdict is that of the reader and of the rule on signatures, called directly: no file, no store.
"""

import functools
import io
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vnfsbuild.capsule import read_capsule, verify_head
from vnfsbuild.errors import VerificationError
from vnfsbuild.signing.keys import verify_ed25519
from vnfsbuild.trust import verify_trust

from .forge import WORKSHOP

VECTORS = Path(__file__).resolve().parents[1] / "vectors"
FILE = (VECTORS / "toy.vnfs").read_bytes()
TRUST = (VECTORS / "toy.trust.json").read_bytes()
PAYLOADS_AT = 11264
"""Before it there are no payloads; from docs/capsule-format.md."""


@functools.cache
def pinned():
    return verify_trust(TRUST, pinned=None, now=WORKSHOP.now, verify_ed25519=verify_ed25519)


def read(data, trust=None):
    """Read a file to its end; return the payloads that were begun with."""
    taken = []

    def admit(head):
        verify_head(head, trust=trust or pinned(), now=WORKSHOP.now)

    def take(payload, chunks):
        taken.append(payload)
        for _ in chunks:
            pass

    try:
        read_capsule(io.BytesIO(data), where="toy.vnfs", admit=admit, take=take)
    except VerificationError:
        return False, taken
    return True, taken


def assert_refused(data, position):
    accepted, taken = read(data)
    assert not accepted, f"byte {position}"
    assert position >= PAYLOADS_AT or not taken, f"byte {position}: a payload was used"


def flipped(data, position, bit):
    return data[:position] + bytes([data[position] ^ 1 << bit]) + data[position + 1 :]


def test_the_vector_is_accepted():
    accepted, taken = read(FILE)
    assert accepted
    assert len(taken) == 5


def test_a_bit_in_every_fifth_byte():
    """Another one in each; the long test has all."""
    for position in range(0, len(FILE), 5):
        assert_refused(flipped(FILE, position, position // 5 % 8), position)


@pytest.mark.long
@pytest.mark.parametrize("bit", range(8))
def test_every_bit(bit):
    for position in range(len(FILE)):
        assert_refused(flipped(FILE, position, bit), position)


def test_every_tenth_length():
    for length in range(0, len(FILE), 10):
        assert_refused(FILE[:length], length)


@pytest.mark.long
def test_every_length_and_each_byte_cut_out_or_put_in():
    for position in range(len(FILE)):
        assert_refused(FILE[:position], position)
        assert_refused(FILE[:position] + FILE[position + 1 :], position)
        assert_refused(FILE[:position] + b"\0" + FILE[position:], position)


def test_each_byte_at_the_end():
    for more in range(256):
        assert_refused(FILE + bytes([more]), len(FILE))


def test_every_bit_of_trust_json():
    for position in range(len(TRUST)):
        for bit in range(8):
            with pytest.raises(VerificationError):
                verify_trust(
                    flipped(TRUST, position, bit),
                    pinned=None,
                    now=WORKSHOP.now,
                    verify_ed25519=verify_ed25519,
                )


def test_every_length_of_trust_json():
    for length in range(len(TRUST)):
        for text in (TRUST[:length], TRUST[length:] if length else TRUST + b"\n"):
            with pytest.raises(VerificationError):
                verify_trust(text, pinned=None, now=WORKSHOP.now, verify_ed25519=verify_ed25519)


places = st.integers(0, len(FILE))


@st.composite
def mutations(draw):
    """Return the vector with a few stretches removed, repeated, exchanged or written over."""
    data = FILE
    for _ in range(draw(st.integers(1, 4))):
        start, end = sorted((draw(places), draw(places)))
        to, piece = draw(places), data[start:end]
        put = draw(st.sampled_from(("remove", "repeat", "write over", "random")))
        if put == "remove":
            data = data[:start] + data[end:]
        elif put == "repeat":
            data = data[:to] + piece + data[to:]
        elif put == "write over":
            data = data[:to] + piece + data[to + len(piece) :]
        else:
            random = draw(st.binary(min_size=1, max_size=600))
            data = data[:to] + random + data[to + len(random) :]
    return data


@given(mutations())
@example(b"")
def test_whatever_is_done_to_it(data):
    accepted, _ = read(data)
    assert not accepted or data == FILE
