"""What refers to a capsule in a store, and is in no file of it."""

import pytest

from vnfsbuild.capsule import verify_file
from vnfsbuild.digest import digest_of
from vnfsbuild.errors import InputError, VerificationError, VnfsbuildError
from vnfsbuild.manifest import SIGNATURE, Descriptor
from vnfsbuild.packageset import MEDIA_TYPE as PACKAGES
from vnfsbuild.reference import parse_reference
from vnfsbuild.referrers.attachment import make_attachment, parse_attachment, render_attachment
from vnfsbuild.store.store import Store

TOY = parse_reference("toy")
SET = b"packages" * 1000


@pytest.fixture
def toy(workshop):
    return workshop.capsule()


@pytest.fixture
def store(tmp_path, toy):
    store = Store(tmp_path / "store")
    toy.add_to(store)
    return store


def attach(store, data=SET):
    blob = store.add_blob(data, media_type=PACKAGES)
    store.attach(TOY, blob, artifact_type=PACKAGES)
    return blob


def blobs(store):
    return {path.name for path in (store.path / "blobs/sha256").iterdir()}


def test_it_is_found_with_its_capsule_and_the_signatures_stay(store, toy):
    blob = attach(store)
    found = store.get(TOY)
    assert [(item.artifact_type, item.blob) for item in found.attachments] == [(PACKAGES, blob)]
    assert found.attachments[0].subject.digest == found.digest == toy.digest
    assert set(found.envelopes) == set(toy.envelopes)


def test_it_stays_when_the_capsule_is_added_again(store, toy):
    attach(store)
    toy.add_to(store)
    assert len(store.get(TOY).attachments) == 1


def test_a_new_one_takes_the_place_of_the_old_one(store):
    attach(store, b"old")
    blob = attach(store, b"new")
    assert [item.blob for item in store.get(TOY).attachments] == [blob]


def test_an_unsigned_capsule_may_have_one(tmp_path, workshop):
    store = Store(tmp_path / "store")
    workshop.capsule(signers=()).add_to(store)
    blob = attach(store)
    assert [item.blob for item in store.get(TOY).attachments] == [blob]


def test_the_file_of_a_capsule_is_the_same_with_and_without(store, toy, tmp_path, workshop):
    store.export(TOY, tmp_path / "before.vnfs")
    attach(store)
    store.export(TOY, tmp_path / "after.vnfs")
    assert (tmp_path / "after.vnfs").read_bytes() == (tmp_path / "before.vnfs").read_bytes()
    verify_file(tmp_path / "after.vnfs", trust=workshop.trust(), now=workshop.now)


def test_it_goes_with_its_capsule(store):
    attach(store)
    store.delete(TOY)
    assert not {digest_of(SET)[7:]} & blobs(store)
    assert store.list_capsules() == ()


def test_a_blob_that_is_not_there_is_refused(store):
    blob = Descriptor(PACKAGES, digest_of(b"nowhere"), 7)
    with pytest.raises(VnfsbuildError, match="is missing"):
        store.attach(TOY, blob, artifact_type=PACKAGES)
    assert store.get(TOY).attachments == ()


def test_an_unknown_capsule_is_refused(store):
    blob = store.add_blob(SET, media_type=PACKAGES)
    with pytest.raises(InputError, match="no such capsule"):
        store.attach(parse_reference("other"), blob, artifact_type=PACKAGES)


def test_its_manifest_has_one_text(toy):
    made = make_attachment(toy.manifest, Descriptor(PACKAGES, digest_of(SET), 8), artifact_type="x")
    data = render_attachment(made)
    assert parse_attachment(data, where="test") == made
    for other in (data + b" ", data.replace(b'"x"', f'"{SIGNATURE}"'.encode()), b"{}"):
        with pytest.raises(VerificationError):
            parse_attachment(other, where="test")
