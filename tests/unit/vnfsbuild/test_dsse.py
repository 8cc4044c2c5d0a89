"""Envelopes: one text each, and not one bit of it may differ."""

import base64
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vnfsbuild.digest import render_json
from vnfsbuild.dsse import (
    Envelope,
    key_id,
    make_envelope,
    parse_envelope,
    render_envelope,
    signed_bytes,
    verify_envelope,
)
from vnfsbuild.errors import VerificationError
from vnfsbuild.signing.keys import verify_ed25519

TYPE = "application/example"


def sign(workshop, payload=b"payload", names=("dev",)):
    keys = [workshop.key(name) for name in names]
    return make_envelope(TYPE, payload, [(key.public_key, key.sign) for key in keys])


def verify(envelope, keys, payload_type=TYPE):
    return verify_envelope(
        envelope,
        payload_type=payload_type,
        keys={key.key_id: key.public_key for key in keys},
        verify_ed25519=verify_ed25519,
        where="here",
    )


def test_what_is_signed_is_the_encoding_of_the_dsse_specification():
    assert signed_bytes("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_a_key_has_the_id_that_openssl_and_sha256sum_print(workshop, tmp_path):
    public = workshop.key().public_key
    pem = b"-----BEGIN PUBLIC KEY-----\n"
    pem += base64.b64encode(bytes.fromhex("302a300506032b6570032100") + public)
    pem += b"\n-----END PUBLIC KEY-----\n"
    command = "openssl pkey -pubin -outform DER | sha256sum"
    printed = subprocess.run(command, shell=True, input=pem, capture_output=True, check=True).stdout
    assert printed.split()[0].decode() == key_id(public)


@given(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.binary(),
    st.dictionaries(
        st.binary(min_size=32, max_size=32).map(bytes.hex),
        st.binary(min_size=64, max_size=64),
        min_size=1,
        max_size=3,
    ),
)
def test_an_envelope_is_read_back(payload_type, payload, signatures):
    envelope = Envelope(payload_type, payload, tuple(sorted(signatures.items())))
    assert parse_envelope(render_envelope(envelope), where="x") == envelope


def test_those_of_the_keys_that_signed_are_told_and_strangers_passed_over(workshop):
    envelope = sign(workshop, names=("dev", "ops", "stranger"))
    dev, ops, other = map(workshop.key, ("dev", "ops", "other"))
    assert verify(envelope, [dev, ops, other]) == tuple(sorted([dev.key_id, ops.key_id]))
    assert verify(envelope, [other]) == ()


def test_another_type_is_refused(workshop):
    with pytest.raises(VerificationError, match="here: signed as 'application/example', expected"):
        verify(sign(workshop), [workshop.key()], payload_type="application/other")


def test_a_wrong_signature_by_a_known_key_is_refused_and_told_where(workshop):
    good = sign(workshop)
    forged = Envelope(TYPE, b"other payload", good.signatures)
    with pytest.raises(VerificationError, match=r"^here: wrong signature by key [0-9a-f]{12}"):
        verify(forged, [workshop.key()])


def test_not_one_bit_of_an_envelope_may_differ(workshop):
    data = render_envelope(sign(workshop, payload=b"x"))
    key = workshop.key()
    for position in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[position // 8] ^= 1 << position % 8
        try:
            found = verify(parse_envelope(bytes(flipped), where="here"), [key])
        except VerificationError:
            continue
        # What is left is a signature that claims to be by a key that nobody knows.
        assert found == ()


SIGNATURE = base64.b64encode(bytes(64)).decode()
SIGNED = [{"keyid": "a" * 64, "sig": SIGNATURE}]


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"payload": "", "payloadType": "t", "signatures": []},
        {"payload": "", "payloadType": "t", "signatures": {}},
        {"payload": "", "payloadType": "t", "signatures": "x"},
        {"payload": "", "payloadType": "t", "signatures": [7]},
        {"payload": "", "payloadType": "t", "signatures": [{**SIGNED[0], "sig": "AA=="}]},
        {"payload": "", "payloadType": "t", "signatures": [{"keyid": 1, "sig": SIGNATURE}]},
        {"payload": "", "payloadType": "t", "signatures": [{"keyid": "a", "sig": SIGNATURE}]},
        {"payload": "", "payloadType": "t", "signatures": [{**SIGNED[0], "keyid": "A" * 64}]},
        {"payload": 1, "payloadType": "t", "signatures": SIGNED},
        {"payload": "a===", "payloadType": "t", "signatures": SIGNED},
        {"payload": "", "payloadType": 1, "signatures": SIGNED},
        {"payload": "é", "payloadType": "t", "signatures": SIGNED},
        {"payload": "", "payloadType": "t", "signatures": SIGNED * 2},
        {
            "payload": "", "payloadType": "t",
            "signatures": [{"keyid": name * 64, "sig": SIGNATURE} for name in "ba"],
        },
        {"payload": "", "payloadType": "t", "signatures": [{**SIGNED[0], "x": 1}]},
        {"payload": "", "payloadType": "t", "signatures": SIGNED, "x": 1},
    ],
)  # fmt: skip
def test_what_is_no_envelope_is_refused(bad):
    with pytest.raises(VerificationError, match=r"^here: "):
        parse_envelope(render_json(bad), where="here")


def test_base64_with_slack_bits_is_refused():
    good = render_envelope(Envelope("t", b"a", (("a" * 64, bytes(64)),)))
    assert b'"YQ=="' in good
    with pytest.raises(VerificationError, match="canonical"):
        parse_envelope(good.replace(b'"YQ=="', b'"YR=="'), where="here")
