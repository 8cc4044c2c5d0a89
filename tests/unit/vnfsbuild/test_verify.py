"""The verdict: a table of everything that may be wrong with a capsule.

The table runs with both Ed25519 primitives: that of servers, and that of nodes.
"""

from dataclasses import replace

import pytest

from provisiond.agent import ed25519
from vnfsbuild.digest import digest_of
from vnfsbuild.dsse import Envelope, make_envelope, parse_envelope, render_envelope
from vnfsbuild.errors import VerificationError
from vnfsbuild.manifest import OCI_MANIFEST, render_config
from vnfsbuild.signing import keys
from vnfsbuild.verify import open_capsule, verify_capsule

PRIMITIVES = {"cryptography": keys.verify_ed25519, "openssl": ed25519.verify_ed25519}


@pytest.fixture(params=PRIMITIVES.values(), ids=PRIMITIVES)
def primitive(request):
    return request.param


def verify(toy, workshop, primitive, *, trust=None, now=None, digest=None):
    return verify_capsule(
        toy.manifest,
        toy.config,
        toy.envelopes,
        trust=trust or workshop.trust(),
        now=now or workshop.now,
        verify_ed25519=primitive,
        digest=digest,
    )


def test_a_capsule_signed_as_it_must_be_is_verified(workshop, primitive):
    toy = workshop.capsule(signers=("dev", "stranger"))
    verdict = verify(toy, workshop, primitive, digest=toy.digest)
    assert verdict.digest == toy.digest
    assert verdict.signers == (workshop.key().key_id,)
    assert verdict.config.name == "toy"


def test_as_many_must_sign_as_the_rule_says(workshop, primitive):
    trust = workshop.trust("dev", "ops", "qa", threshold=2)
    verdict = verify(workshop.capsule(signers=("dev", "qa")), workshop, primitive, trust=trust)
    assert len(verdict.signers) == 2
    with pytest.raises(VerificationError, match="signed by 1 trusted keys, expected 2 of the 3"):
        verify(workshop.capsule(signers=("dev",)), workshop, primitive, trust=trust)


def test_one_key_that_signed_twice_counts_once(workshop, primitive):
    trust = workshop.trust("dev", "ops", threshold=2)
    toy = workshop.capsule(signers=("dev",))
    doubled = replace(toy, envelopes=toy.envelopes * 2)
    with pytest.raises(VerificationError, match="signed by 1 trusted keys, expected 2"):
        verify(doubled, workshop, primitive, trust=trust)


def other_payload(toy, workshop):
    key = workshop.key()
    envelope = make_envelope(OCI_MANIFEST, toy.manifest + b" ", [(key.public_key, key.sign)])
    return replace(toy, envelopes=(render_envelope(envelope),))


def other_type(toy, workshop):
    key = workshop.key()
    envelope = make_envelope("application/example", toy.manifest, [(key.public_key, key.sign)])
    return replace(toy, envelopes=(render_envelope(envelope),))


def moved_signature(toy, workshop):
    """The signature of another capsule around this one's manifest."""
    other = parse_envelope(workshop.capsule(serial=2).envelopes[0], where="test")
    forged = Envelope(OCI_MANIFEST, toy.manifest, other.signatures)
    return replace(toy, envelopes=(render_envelope(forged),))


def borrowed_name(toy, workshop):
    """A stranger's signature under the id of a trusted key."""
    stranger = workshop.key("stranger")
    made = make_envelope(OCI_MANIFEST, toy.manifest, [(stranger.public_key, stranger.sign)])
    forged = replace(made, signatures=((workshop.key().key_id, made.signatures[0][1]),))
    return replace(toy, envelopes=(render_envelope(forged),))


TAMPERED = {
    "not signed": (
        lambda toy, workshop: replace(toy, envelopes=()),
        "toy@.*: not signed, expected 1 of the 1"),
    "signed by a stranger": (
        lambda toy, workshop: workshop.capsule(signers=("stranger",)), "by untrusted"),
    "a signature over other bytes": (other_payload, "signature 0 is over another manifest"),
    "a signature as something else": (other_type, "signed as 'application/example'"),
    "a signature of another capsule": (moved_signature, "signature 0: "),
    "a stranger under a trusted name": (borrowed_name, "signature 0: "),
    "a broken envelope": (
        lambda toy, workshop: replace(toy, envelopes=(b"{}",)), "not a DSSE envelope"),
    "another manifest": (
        lambda toy, workshop: replace(toy, manifest=workshop.capsule(serial=2).manifest),
        "config: found digest"),
    "a broken manifest": (lambda toy, workshop: replace(toy, manifest=b"{}"), "manifest: "),
    "another config": (
        lambda toy, workshop: replace(toy, config=render_config(workshop.config(name="root"))),
        "config: found digest"),
}  # fmt: skip


@pytest.mark.parametrize(("tamper", "told"), TAMPERED.values(), ids=TAMPERED)
def test_a_capsule_that_was_tampered_with_is_refused(workshop, primitive, tamper, told):
    toy = tamper(workshop.capsule(), workshop)
    with pytest.raises(VerificationError, match=told):
        verify(toy, workshop, primitive)


def test_another_capsule_than_the_one_asked_for_is_refused(workshop, primitive):
    with pytest.raises(VerificationError, match=r"manifest: found digest .*, expected sha256:"):
        verify(workshop.capsule(), workshop, primitive, digest=digest_of(b"another"))


def test_a_serial_below_the_least_is_refused(workshop, primitive):
    trust = workshop.trust(least_serial=2)
    with pytest.raises(VerificationError, match="found serial 1, expected at least 2"):
        verify(workshop.capsule(), workshop, primitive, trust=trust)
    assert verify(workshop.capsule(serial=2), workshop, primitive, trust=trust)


def test_a_name_that_no_rule_covers_is_refused(workshop, primitive):
    with pytest.raises(VerificationError, match="toy: no rule"):
        verify(workshop.capsule(), workshop, primitive, trust=workshop.trust(glob="debian-*"))


def test_an_expired_trust_vouches_for_nothing(workshop, primitive):
    with pytest.raises(VerificationError, match="has expired"):
        verify(workshop.capsule(), workshop, primitive, now=workshop.later)


def test_not_one_bit_of_what_is_signed_may_differ(workshop):
    toy = workshop.capsule(payloads=[b"", b"", b"", b"", b""])
    for part in ("manifest", "config", "envelope"):
        data = toy.envelopes[0] if part == "envelope" else getattr(toy, part)
        for position in range(len(data)):
            flipped = bytearray(data)
            flipped[position] ^= 1 << position % 8
            changed = (bytes(flipped),) if part == "envelope" else bytes(flipped)
            name = "envelopes" if part == "envelope" else part
            with pytest.raises(VerificationError):
                verify(replace(toy, **{name: changed}), workshop, keys.verify_ed25519)


def test_layers_and_their_names_must_be_as_many(workshop):
    toy = workshop.capsule(layers=("rootfs",))
    with pytest.raises(VerificationError, match="1 layers named, 2 in the manifest"):
        open_capsule(toy.manifest, toy.config)
