"""What builders say of a capsule: carried in its file, merged in stores, and counted."""

import io
import os
from dataclasses import replace
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vnfsbuild import ustar
from vnfsbuild.capsule import (
    make_head,
    payloads_after,
    read_capsule,
    render_head,
    verify_attestations,
    verify_file,
)
from vnfsbuild.digest import digest_of, render_json
from vnfsbuild.dsse import Envelope, parse_envelope, render_envelope
from vnfsbuild.errors import InputError, VerificationError
from vnfsbuild.manifest import (
    OCI_INDEX,
    OCI_MANIFEST,
    SIGNATURE,
    Descriptor,
    parse_index,
    render_index,
)
from vnfsbuild.reference import parse_reference
from vnfsbuild.referrers import attestation as a
from vnfsbuild.referrers.attachment import (
    attachment_entry,
    make_attachment,
    make_carried,
    render_attachment,
)
from vnfsbuild.referrers.index import MAX_ATTESTATIONS, make_referrers
from vnfsbuild.rewrite import rewrite_capsule
from vnfsbuild.store.store import Store

TOY = parse_reference("toy")
NAMES = ("dev", "ops", "ci", "far")


def read(data):
    return read_capsule(
        io.BytesIO(data), where="toy.vnfs", admit=lambda _: None, take=lambda _, chunks: [*chunks]
    )


def file_of(toy, head):
    """Return the bytes of a file, put together as the format says."""
    members = list(render_head(head))
    members += [
        (f"blobs/sha256/{payload.digest[7:]}", toy.blobs[payload.digest])
        for payload in payloads_after(head)
    ]
    return join(members)


def join(members):
    return (
        b"".join(
            ustar.render_header(name, len(text)) + text + ustar.padding(len(text))
            for name, text in members
        )
        + ustar.END
    )


def forge(envelope):
    """Return the envelope with a signature that is not by its key."""
    parsed = parse_envelope(envelope, where="test")
    ((keyid, _),) = parsed.signatures
    return render_envelope(replace(parsed, signatures=((keyid, bytes(64)),)))


# One valid byte sequence


@settings(max_examples=30, deadline=None)
@given(
    signers=st.lists(st.sampled_from(NAMES), unique=True),
    attesters=st.lists(st.sampled_from(NAMES), unique=True),
    payloads=st.lists(st.binary(max_size=1100), min_size=5, max_size=5),
)
def test_any_file_is_read_back_and_written_as_it_was(workshop, signers, attesters, payloads):
    toy = workshop.capsule(signers=signers, attesters=attesters, payloads=payloads)
    data = file_of(toy, toy.head)
    head = read(data)
    assert head == toy.head
    assert len(head.envelopes) == len(signers)
    assert len(head.attestations) == len(attesters)
    assert file_of(toy, head) == data


def test_the_order_in_which_they_come_makes_no_difference(workshop):
    toy = workshop.capsule(signers=("dev", "ops"), attesters=("dev", "ops", "ci"))
    files = {
        file_of(toy, make_head(toy.manifest, toy.config, envelopes, attestations))
        for envelopes in permutations(toy.envelopes)
        for attestations in permutations(toy.attestations)
    }
    assert len(files) == 1


def test_signatures_and_attestations_are_sorted_together_each_before_its_envelope(workshop):
    toy = workshop.capsule(signers=("dev", "ops", "ci"), attesters=("dev", "ops", "ci"))
    carried = sorted(
        (digest_of(render_attachment(item)), text)
        for kind, texts in ((SIGNATURE, toy.envelopes), (a.PROVENANCE, toy.attestations))
        for text in texts
        for item in [make_carried(toy.manifest, text, artifact_type=kind)]
    )
    kinds = ["s" if text in toy.envelopes else "a" for _, text in carried]
    assert kinds not in (sorted(kinds), sorted(kinds, reverse=True)), "these keys show nothing"
    members = render_head(toy.head)[5:-1]
    assert [digest_of(text) for _, text in members[::2]] == [digest for digest, _ in carried]
    assert [text for _, text in members[1::2]] == [text for _, text in carried]


def test_a_file_without_any_has_the_bytes_that_it_always_had(workshop):
    toy = workshop.capsule()
    index = make_referrers(toy.manifest, toy.envelopes).index
    assert a.PROVENANCE.encode() not in index
    assert toy.head.attestations == ()


def swap_pairs(members):
    members[5:7], members[7:9] = members[7:9], members[5:7]


def leave_out(members):
    del members[7:9]


def mislabel(members):
    """Let the index call the first one by the other's type: its digest stays right."""
    _, text = members[4]
    one, other = SIGNATURE.encode(), a.PROVENANCE.encode()
    text = text.replace(one, b"@", 1).replace(other, one, 1).replace(b"@", other)
    replace_index(members, text)


def list_another(members):
    """Let the file carry a bill of materials too, well-formed and in its place."""
    blob = Descriptor("application/spdx+json", digest_of(b"{ }"), 3)
    item = make_attachment(members[2][1], blob, artifact_type=blob.media_type)
    manifest, entry = render_attachment(item), attachment_entry(item)
    listed = parse_index(members[4][1], where="test")
    added = sorted([*listed, entry], key=lambda entry: entry[0].digest)
    replace_index(members, render_index(added))
    members[5 + 2 * added.index(entry) : 5 + 2 * added.index(entry)] = [
        (f"blobs/sha256/{digest_of(text)[7:]}", text) for text in (manifest, b"{ }")
    ]


def replace_index(members, text):
    before = digest_of(members[4][1])
    members[4] = (f"blobs/sha256/{digest_of(text)[7:]}", text)
    entries = [
        (
            Descriptor(OCI_INDEX, digest_of(text), len(text)) if item.digest == before else item,
            kind,
            notes,
        )
        for item, kind, notes in parse_index(members[1][1], where="test")
    ]
    members[1] = (members[1][0], render_index(entries))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (swap_pairs, "expected"),
        (leave_out, "expected"),
        (mislabel, "in another form than the one that is valid"),
        (list_another, "found a referrer of type 'application/spdx"),
    ],
)
def test_a_file_that_was_put_together_otherwise_is_refused(workshop, change, told):
    toy = workshop.capsule(attesters=("dev",))
    members = list(render_head(toy.head))
    members += [
        (f"blobs/sha256/{payload.digest[7:]}", toy.blobs[payload.digest])
        for payload in payloads_after(toy.head)
    ]
    assert read(join(members)) == toy.head
    change(members)
    with pytest.raises(VerificationError, match=told):
        read(join(members))


# What is an attestation at all


def statement(toy, **words):
    found = {
        "_type": a.STATEMENT_TYPE,
        "predicateType": a.PREDICATE_TYPE,
        "predicate": {},
        "subject": [{"name": "toy:1", "digest": {"sha256": toy.digest[7:]}}],
        **words,
    }
    return render_json(found)


BAD = {
    "another capsule": {"subject": [{"name": "toy:1", "digest": {"sha256": "0" * 64}}]},
    "another name": {"subject": [{"name": "toy:2", "digest": {"sha256": "HEX"}}]},
    "nothing": {"subject": []},
    "another type": {"_type": "https://in-toto.io/Statement/v0.1"},
    "another predicate": {"predicateType": "https://slsa.dev/provenance/v0.2"},
    "no predicate": {"predicate": None},
}


@pytest.mark.parametrize("words", BAD.values(), ids=BAD)
def test_a_statement_about_something_else_is_refused(workshop, words):
    toy = workshop.capsule()
    make_head(toy.manifest, toy.config, (), [workshop.say("dev", statement(toy))])
    text = statement(toy, **words).replace(b"HEX", toy.digest[7:].encode())
    with pytest.raises(VerificationError, match="toy: attestation 0"):
        make_head(toy.manifest, toy.config, (), [workshop.say("dev", text)])


def test_a_statement_in_another_form_is_refused(workshop):
    toy = workshop.capsule()
    good = statement(toy)
    with pytest.raises(VerificationError, match="canonical"):
        make_head(toy.manifest, toy.config, (), [workshop.say("dev", good + b"\n")])
    both = workshop.say("dev", "ops", good)
    with pytest.raises(VerificationError, match="2 signatures in one envelope, expected 1"):
        make_head(toy.manifest, toy.config, (), [both])
    other = workshop.say("dev", good, payload_type=OCI_MANIFEST)
    with pytest.raises(VerificationError, match="signed as"):
        make_head(toy.manifest, toy.config, (), [other])


def test_neither_can_stand_in_the_place_of_the_other(workshop):
    toy = workshop.capsule(attesters=("dev",))
    with pytest.raises(VerificationError, match="another manifest"):
        make_head(toy.manifest, toy.config, toy.attestations)
    with pytest.raises(VerificationError, match="signed as"):
        make_head(toy.manifest, toy.config, (), toy.envelopes)


def test_a_key_speaks_once_and_not_too_many_speak(workshop):
    toy = workshop.capsule(attesters=("dev",))
    twice = [*toy.attestations, workshop.say("dev", statement(toy))]
    with pytest.raises(VerificationError, match="two attestations by the same key"):
        make_head(toy.manifest, toy.config, (), twice)
    text = statement(toy)
    crowd = [
        render_envelope(Envelope(a.STATEMENT, text, ((f"{number:064x}", bytes(64)),)))
        for number in range(MAX_ATTESTATIONS + 1)
    ]
    make_head(toy.manifest, toy.config, (), crowd[1:])
    with pytest.raises(VerificationError, match="found 65 attestations, expected at most 64"):
        make_head(toy.manifest, toy.config, (), crowd)


# Whose word counts


def test_builders_and_signers_of_the_rule_count_and_no_others(workshop):
    head = workshop.capsule(attesters=("dev", "ops", "far")).head
    trust = workshop.trust("dev", builders=("ops",))
    expected = sorted(workshop.key(name).key_id for name in ("dev", "ops"))
    assert list(verify_attestations(head, trust=trust)) == expected
    assert verify_attestations(workshop.capsule().head, trust=trust) == ()


def test_a_builder_may_not_sign(workshop, tmp_path):
    path = workshop.capsule(signers=("ops",)).write(tmp_path / "toy.vnfs")
    with pytest.raises(VerificationError, match="signed by 0 trusted keys"):
        verify_file(path, trust=workshop.trust("dev", builders=("ops",)), now=workshop.now)


LIES = {
    "another source": {"externalParameters": {"recipe": "toy", "source": "sha256:" + "0" * 64}},
    "another recipe": {"externalParameters": {"recipe": "boy"}},
    "another build": {"buildType": "https://example.org/make/v1"},
    "another builder": {"id": a.BUILDERS + "0" * 64},
}


@pytest.mark.parametrize("words", LIES.values(), ids=LIES)
def test_one_who_counts_and_says_something_else_is_an_error(workshop, words):
    toy = workshop.capsule(attesters=("ops",))
    for name, is_refused in (("dev", True), ("far", False)):
        said = workshop.predicate(name, toy.manifest, **words)
        lie = workshop.attestation(name, toy.manifest, predicate=said)
        head = make_head(toy.manifest, toy.config, toy.envelopes, [*toy.attestations, lie])
        trust = workshop.trust("dev", builders=("ops",))
        if is_refused:
            with pytest.raises(VerificationError, match=r"toy: attestation \d: says "):
                verify_attestations(head, trust=trust)
        else:
            assert verify_attestations(head, trust=trust) == (workshop.key("ops").key_id,)


def test_a_wrong_signature_in_the_name_of_one_who_counts_is_refused_everywhere(
    workshop, tmp_path, store
):
    toy = workshop.capsule(attesters=("ops",))
    toy.attestations = (forge(toy.attestations[0]),)
    path = toy.write(tmp_path / "toy.vnfs")
    trust = workshop.trust("dev", builders=("ops",))
    with pytest.raises(VerificationError, match="wrong signature"):
        verify_file(path, trust=trust, now=workshop.now)
    with pytest.raises(VerificationError, match="wrong signature"):
        store.import_file(path, trust=trust, now=workshop.now)
    assert store.list_capsules() == ()
    toy.add_to(store)
    with pytest.raises(VerificationError, match="wrong signature"):
        store.verify(TOY, trust=trust, now=workshop.now)
    # Where nobody asks for that key's word it is a stranger's, and says nothing.
    assert verify_file(path, trust=workshop.trust("dev"), now=workshop.now)


def test_rebuilt_by_counts_different_builders(workshop):
    one, two, other = (workshop.key(name).key_id for name in ("dev", "ops", "far"))
    words = {"names": {one: "dev"}, "where": "toy:1", "hint": "build it again"}
    a.verify_rebuilt([one, two], 2, said=[one, two, other], **words)
    a.verify_rebuilt([one], 1, said=[one], **words)
    with pytest.raises(VerificationError) as caught:
        a.verify_rebuilt([one, one], 2, said=[one, other], **words)
    assert caught.value.exit_status == 3
    assert str(caught.value) == (
        f"toy:1: built by 1 builder whose word counts (dev) and by 1 not trusted ({other[:12]}); "
        "expected 2"
    )
    with pytest.raises(VerificationError, match=r"built by 0 builders whose word counts; expected"):
        a.verify_rebuilt([], 2, said=[], **words)


# In a store


def test_a_store_keeps_one_of_each_builder_and_a_file_carries_them(workshop, store, tmp_path):
    toy = workshop.capsule(attesters=("dev",))
    toy.add_to(store)
    more = workshop.attestation("ops", toy.manifest)
    store.add_envelopes(TOY, attestations=[more])
    store.add_envelopes(TOY, attestations=[more])
    found = store.get(TOY)
    assert set(found.attestations) == {*toy.attestations, more}
    assert found.envelopes == toy.envelopes
    assert found.attesters == tuple(sorted(workshop.key(name).key_id for name in ("dev", "ops")))
    assert found.attachments == ()
    store.export(TOY, tmp_path / "toy.vnfs")
    assert set(read((tmp_path / "toy.vnfs").read_bytes()).attestations) == {
        *toy.attestations,
        more,
    }


def test_a_newer_word_takes_the_place_of_the_older(workshop, store):
    toy = workshop.capsule(attesters=("dev", "ops"))
    toy.add_to(store)
    newer = workshop.say("dev", statement(toy))
    store.add_envelopes(TOY, attestations=[newer])
    found = store.get(TOY).attestations
    assert newer in found
    assert len(found) == 2


def test_tags_do_not_move_when_something_is_added(workshop, store):
    old, new = workshop.capsule(), workshop.capsule(serial=2)
    old.add_to(store)
    new.add_to(store)
    before = [capsule.tags for capsule in store.list_capsules()]
    store.add_envelopes(
        parse_reference("toy:1"), attestations=[workshop.attestation("ops", old.manifest)]
    )
    assert [capsule.tags for capsule in store.list_capsules()] == before


def test_what_is_about_another_capsule_is_not_added(workshop, store):
    workshop.capsule().add_to(store)
    other = workshop.capsule(serial=2, attesters=("dev",))
    with pytest.raises(VerificationError, match="attestation 0: is about"):
        store.add_envelopes(TOY, attestations=other.attestations)
    with pytest.raises(InputError, match="no such capsule"):
        store.add_envelopes(parse_reference("boy"), attestations=other.attestations)
    assert store.get(TOY).attestations == ()


@pytest.mark.parametrize("kind", [SIGNATURE, a.PROVENANCE])
def test_what_is_signed_is_not_attached(workshop, store, kind):
    workshop.capsule().add_to(store)
    blob = store.add_blob(b"x", media_type=kind)
    with pytest.raises(InputError, match="not signed"):
        store.attach(TOY, blob, artifact_type=kind)


def import_it(store, toy, path, trust, now):
    return store.import_file(toy.write(path / "toy.vnfs"), trust=trust, now=now)


def test_an_import_adds_to_what_is_there(workshop, store, tmp_path):
    """The rebuilder's file comes home."""
    trust = workshop.trust("dev", builders=("ops",))
    first = workshop.capsule(attesters=("dev",))
    first.add_to(store)
    import_it(store, workshop.capsule(attesters=("ops",)), tmp_path, trust, workshop.now)
    assert len(store.get(TOY).attestations) == 2
    import_it(store, workshop.capsule(), tmp_path, trust, workshop.now)
    assert len(store.get(TOY).attestations) == 2


def test_an_import_puts_no_rubbish_in_the_place_of_what_somebody_trusts(workshop, store, tmp_path):
    toy = workshop.capsule(attesters=("far",))
    toy.add_to(store)
    forged = replace(toy, attestations=(forge(toy.attestations[0]),))
    # The importer does not know the key: neither is verified, and the one that was there stays.
    import_it(store, forged, tmp_path, workshop.trust("dev"), workshop.now)
    assert store.get(TOY).attestations == toy.attestations
    # And one who does know it puts things right.
    other = Store(tmp_path / "other")
    forged.add_to(other)
    import_it(other, toy, tmp_path, workshop.trust("dev", builders=("far",)), workshop.now)
    assert other.get(TOY).attestations == toy.attestations


def test_it_goes_with_its_capsule(workshop, store):
    toy = workshop.capsule(attesters=("dev",))
    toy.add_to(store)
    store.delete(TOY)
    gone = {digest_of(text)[7:] for text in toy.attestations}
    assert not gone & {path.name for path in (store.path / "blobs/sha256").iterdir()}


# A file gets one more


def test_a_file_is_rewritten_with_what_is_added(workshop, tmp_path):
    toy = workshop.capsule(attesters=("dev",))
    path = toy.write(tmp_path / "toy.vnfs")
    more = workshop.attestation("ops", toy.manifest)

    def change(head):
        return make_head(
            head.manifest_bytes, head.config_bytes, head.envelopes, [*head.attestations, more]
        )

    done = []
    head = rewrite_capsule(path, change, advance=done.append)
    toy.attestations += (more,)
    assert path.read_bytes() == toy.write(tmp_path / "expected.vnfs").read_bytes()
    assert head == toy.head
    assert sum(done) == sum(len(data) for data in toy.blobs.values())
    rewrite_capsule(path, change)
    assert path.read_bytes() == (tmp_path / "expected.vnfs").read_bytes()


def test_a_payload_that_the_new_head_holds_is_not_written_twice(workshop, tmp_path):
    toy = workshop.capsule(signers=(), payloads=[b"{}", b"k", b"i", b"r", b"m"])
    path = toy.write(tmp_path / "toy.vnfs")
    toy.attestations = (workshop.attestation("ops", toy.manifest),)
    rewrite_capsule(path, lambda head: toy.head)
    assert path.read_bytes() == toy.write(tmp_path / "expected.vnfs").read_bytes()
    assert read(path.read_bytes()) == toy.head


def test_a_damaged_file_is_not_rewritten(workshop, tmp_path):
    path = workshop.capsule(attesters=("dev",)).write(tmp_path / "toy.vnfs")
    data = bytearray(path.read_bytes())
    data[-1500] ^= 1
    path.write_bytes(data)
    with pytest.raises(VerificationError):
        rewrite_capsule(path, lambda head: head)
    assert path.read_bytes() == data
    assert os.listdir(tmp_path) == ["toy.vnfs"]
