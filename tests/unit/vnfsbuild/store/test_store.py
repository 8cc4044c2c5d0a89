"""Adding, finding, importing, exporting and deleting capsules."""

import io

import pytest

from vnfsbuild import manifest as m
from vnfsbuild.digest import digest_of
from vnfsbuild.dsse import Envelope, parse_envelope, render_envelope
from vnfsbuild.errors import InputError, VerificationError, VnfsbuildError
from vnfsbuild.reference import parse_reference as ref
from vnfsbuild.referrers.index import make_referrers
from vnfsbuild.store.store import Store

from .importing import import_file, snapshot


def test_a_store_that_is_not_there_is_empty_and_reading_does_not_make_it(store):
    assert store.list_capsules() == ()
    with pytest.raises(InputError, match="toy: no such capsule in the store"):
        store.get(ref("toy"))
    assert not store.path.exists()


def test_a_capsule_that_was_added_is_found_by_name_serial_and_digest(store, workshop):
    toy = workshop.capsule(serial=7)
    assert toy.add_to(store) == toy.digest
    for text in ("toy", "toy:7", "toy:current", f"toy@{toy.digest}", f"toy:9@{toy.digest}"):
        found = store.get(ref(text))
        assert (found.digest, found.name, found.tags) == (toy.digest, "toy", ("7", "current"))
    assert found.head == toy.head
    assert found.manifest_bytes == toy.manifest
    assert found.config_bytes == toy.config
    assert found.envelopes == toy.envelopes
    assert found.signers == (workshop.key().key_id,)
    assert found.size_bytes == len(toy.config) + sum(map(len, toy.blobs.values()))
    for digest in found.signature_digests:
        assert store.blob_path(digest).read_bytes() in toy.envelopes


def test_the_directory_is_an_oci_image_layout(store, workshop):
    toy = workshop.capsule()
    toy.add_to(store)
    files = snapshot(store)
    assert files.pop("oci-layout") == b'{"imageLayoutVersion":"1.0.0"}'
    assert files.pop("index.json") == m.render_index(
        [
            (
                m.Descriptor(m.OCI_MANIFEST, toy.digest, len(toy.manifest)),
                m.CAPSULE,
                {"org.opencontainers.image.ref.name": name},
            )
            for name in ("toy:1", "toy:current")
        ]
        + [
            (
                m.Descriptor(m.OCI_INDEX, digest_of(listed), len(listed)),
                None,
                {"org.opencontainers.image.ref.name": toy.digest.replace(":", "-")},
            )
            for listed in [make_referrers(toy.manifest, toy.envelopes).index]
        ]
    )
    assert {name: digest_of(data).replace(":", "/") for name, data in files.items()} == {
        name: name.removeprefix("blobs/") for name in files
    }


@pytest.mark.parametrize("source", ["bytes", "stream", "path"])
def test_a_blob_is_added_from_wherever_it_is(store, tmp_path, source):
    data = b"x" * 2_500_000
    (tmp_path / "blob").write_bytes(data)
    given = {"bytes": data, "stream": io.BytesIO(data), "path": tmp_path / "blob"}[source]
    for _ in range(2):
        added = store.add_blob(given, media_type=m.KERNEL)
        assert added == m.Descriptor(m.KERNEL, digest_of(data), len(data))
        given = given if source != "stream" else io.BytesIO(data)
    with store.open_blob(added.digest) as blob:
        assert blob.read() == data
    assert store.blob_path(added.digest).stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("digest", ["../../etc/passwd", "sha256:../x", "", "sha256:" + "G" * 64])
def test_only_digests_lead_to_blobs(store, digest):
    with pytest.raises(InputError):
        store.blob_path(digest)


def test_a_blob_that_is_not_there_is_told(store):
    with pytest.raises(VnfsbuildError, match=r"the blob sha256:0+ is missing"):
        store.open_blob("sha256:" + "0" * 64)


def test_a_capsule_whose_payloads_were_not_added_is_refused(store, workshop):
    toy = workshop.capsule()
    with pytest.raises(VnfsbuildError, match="is missing"):
        store.add_capsule(toy.manifest, toy.config, toy.envelopes)
    assert store.list_capsules() == ()


def test_an_exported_file_is_imported_and_exported_the_same(store, workshop, tmp_path):
    toy = workshop.capsule()
    toy.add_to(store)
    store.export(ref("toy"), tmp_path / "one.vnfs")
    other = Store(tmp_path / "other")
    done = []
    found = import_file(other, tmp_path / "one.vnfs", workshop, advance=done.append)
    assert found.head == toy.head
    assert found.tags == ("1", "current")
    assert sum(done) == sum(map(len, toy.blobs.values()))
    other.export(ref("toy:1"), tmp_path / "two.vnfs")
    assert (tmp_path / "one.vnfs").read_bytes() == (tmp_path / "two.vnfs").read_bytes()
    assert snapshot(other) == snapshot(store)


def test_an_import_may_leave_current_where_it_is(store, workshop, tmp_path):
    for serial in (1, 2):
        path = workshop.capsule(serial=serial).write(tmp_path / "toy.vnfs")
        import_file(store, path, workshop, current=serial == 1)
    assert store.get(ref("toy")).config.serial == 1
    assert store.get(ref("toy:2")).tags == ("2",)
    store.tag(ref("toy:2"), "current")
    assert store.get(ref("toy")).config.serial == 2


BAD_FILES = {
    "unsigned": lambda workshop: workshop.capsule(signers=()),
    "signed by a stranger": lambda workshop: workshop.capsule(signers=("stranger",)),
}


@pytest.mark.parametrize("make", BAD_FILES.values(), ids=BAD_FILES)
def test_what_nobody_vouches_for_is_not_imported(store, workshop, tmp_path, make):
    workshop.capsule(serial=9).add_to(store)
    before = snapshot(store)
    path = make(workshop).write(tmp_path / "toy.vnfs")
    with pytest.raises(VerificationError, match="toy@"):
        import_file(store, path, workshop)
    assert snapshot(store) == before


def test_signatures_that_come_later_are_added(store, workshop, tmp_path):
    workshop.capsule(signers=("dev",)).add_to(store)
    path = workshop.capsule(signers=("ops",)).write(tmp_path / "toy.vnfs")
    import_file(store, path, workshop, trust=workshop.trust("ops"))
    names = sorted(workshop.key(name).key_id for name in ("dev", "ops"))
    assert list(store.get(ref("toy")).signers) == names
    store.verify(ref("toy"), trust=workshop.trust("dev", "ops", threshold=2), now=workshop.now)
    # The list of one signature is named by nothing any more.
    toy = workshop.capsule(signers=("dev",))
    assert not store.blob_path(
        digest_of(make_referrers(toy.manifest, toy.envelopes).index)
    ).exists()


def test_rubbish_does_not_take_the_place_of_a_signature(store, workshop, tmp_path):
    toy = workshop.capsule(signers=("dev",))
    toy.add_to(store)
    wrong = parse_envelope(toy.envelopes[0], where="x").signatures[0][0]
    rubbish = render_envelope(Envelope(m.OCI_MANIFEST, toy.manifest, ((wrong, bytes(64)),)))
    forged = workshop.capsule(signers=("ops",))
    forged.envelopes += (rubbish,)
    import_file(store, forged.write(tmp_path / "x.vnfs"), workshop, trust=workshop.trust("ops"))
    store.verify(ref("toy"), trust=workshop.trust("dev", "ops", threshold=2), now=workshop.now)


def test_a_capsule_that_loses_its_serial_to_another_stays(store, workshop):
    one = workshop.capsule(epoch=1)
    two = workshop.capsule(epoch=2)
    one.add_to(store)
    two.add_to(store)
    assert store.get(ref("toy:1")).digest == two.digest
    assert store.get(ref(f"toy@{one.digest}")).tags == ("previous",)
    assert len(store.list_capsules()) == 2


def test_capsules_and_bootstraps_are_listed_by_name_the_newest_first(store, workshop):
    for serial in (2, 10, 9):
        workshop.capsule(serial=serial).add_to(store)
    workshop.capsule(bootstrap=True, signers=()).add_to(store)
    found = [(capsule.name, capsule.config.serial) for capsule in store.list_capsules()]
    assert found == [("bootstrap", 1), ("toy", 10), ("toy", 9), ("toy", 2)]


def test_deleting_takes_the_blobs_that_nothing_else_names(store, workshop):
    one = workshop.capsule(serial=1, payloads=[b"source", b"old kernel", b"i", b"root", b"modules"])
    two = workshop.capsule(serial=2)
    one.add_to(store)
    two.add_to(store)
    gone = store.delete(ref("toy:1")).blobs
    assert digest_of(b"old kernel") in gone
    assert digest_of(b"source") not in gone
    assert not store.blob_path(digest_of(b"old kernel")).exists()
    store.verify(ref("toy"), trust=workshop.trust(), now=workshop.now)
    store.delete(ref("toy"))
    assert store.list_capsules() == ()
    assert list((store.path / "blobs/sha256").iterdir()) == []


def test_a_reference_to_another_capsules_digest_is_refused(store, workshop):
    toy = workshop.capsule()
    toy.add_to(store)
    with pytest.raises(InputError, match="is called 'toy'"):
        store.get(ref(f"other@{toy.digest}"))


@pytest.mark.parametrize("tag", ["7", "a b", "", "a:b"])
def test_a_tag_that_cannot_be_one_is_refused(store, workshop, tag):
    workshop.capsule().add_to(store)
    with pytest.raises(InputError):
        store.tag(ref("toy"), tag)
