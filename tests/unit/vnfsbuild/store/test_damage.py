"""What is damaged in a store, or was never ours, is told, and hides nothing else."""

import os

import pytest

from vnfsbuild import manifest as m
from vnfsbuild.digest import digest_of
from vnfsbuild.errors import InputError, VerificationError, VnfsbuildError
from vnfsbuild.reference import parse_reference as ref
from vnfsbuild.store.blobs import open_incoming
from vnfsbuild.store.index import StoreIndex, parse_store_index
from vnfsbuild.store.store import Store

from .importing import import_file


def damage(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_damaged_payload_is_found_and_an_import_mends_it(store, workshop, tmp_path):
    toy = workshop.capsule()
    toy.add_to(store)
    damage(store.blob_path(digest_of(b"kernel!")))
    with pytest.raises(VerificationError, match="kernel"):
        store.verify(ref("toy"), trust=workshop.trust(), now=workshop.now)
    with pytest.raises(VerificationError, match="kernel"):
        store.export(ref("toy"), tmp_path / "out.vnfs")
    assert not (tmp_path / "out.vnfs").exists()
    import_file(store, toy.write(tmp_path / "toy.vnfs"), workshop)
    store.verify(ref("toy"), trust=workshop.trust(), now=workshop.now)


@pytest.mark.parametrize("part", ["manifest", "config", "envelope"])
def test_a_damaged_description_is_told_left_out_and_can_be_mended_or_deleted(
    store, workshop, tmp_path, part, caplog
):
    toy = workshop.capsule()
    toy.add_to(store)
    workshop.capsule(name="other").add_to(store)
    data = toy.envelopes[0] if part == "envelope" else getattr(toy, part)
    damage(store.blob_path(digest_of(data)))
    with pytest.raises(VerificationError, match="blob"):
        store.get(ref("toy"))
    assert [found.name for found in store.list_capsules()] == ["other"]
    assert "left out of the list" in caplog.text
    import_file(store, toy.write(tmp_path / "toy.vnfs"), workshop)
    store.verify(ref("toy"), trust=workshop.trust(), now=workshop.now)
    damage(store.blob_path(digest_of(data)))
    store.delete(ref("toy"))
    assert [found.name for found in store.list_capsules()] == ["other"]


@pytest.mark.parametrize(
    "text", [b"", b"{}", b"[]", b'{"manifests":[], "mediaType":"x","schemaVersion":2}']
)
def test_an_index_that_is_not_ours_is_refused(store, workshop, text):
    workshop.capsule().add_to(store)
    (store.path / "index.json").write_bytes(text)
    with pytest.raises(VerificationError, match=r"index\.json"):
        store.list_capsules()
    with pytest.raises(VerificationError, match="not the index of a store"):
        parse_store_index(
            m.render_index([(m.Descriptor(m.OCI_MANIFEST, digest_of(b""), 0), "x", {})]), where="x"
        )


def test_a_directory_of_something_else_is_not_made_a_store(tmp_path, workshop):
    (tmp_path / "oci-layout").write_text('{"imageLayoutVersion":"9.9.9"}')
    with pytest.raises(InputError, match="another layout"):
        Store(tmp_path).add_blob(b"x", media_type=m.KERNEL)
    (tmp_path / "file").write_text("x")
    with pytest.raises(VnfsbuildError, match="file"):
        Store(tmp_path / "file").add_blob(b"x", media_type=m.KERNEL)
    with pytest.raises(VnfsbuildError, match="file"):
        Store(tmp_path / "file").list_capsules()


def test_a_file_cannot_be_exported_to_a_directory_that_is_not_there(store, workshop, tmp_path):
    workshop.capsule().add_to(store)
    with pytest.raises(VnfsbuildError, match="No such file or directory"):
        store.export(ref("toy"), tmp_path / "none/toy.vnfs")


def test_one_capsule_that_lacks_something_does_not_hide_the_others(store, workshop, caplog):
    toy = workshop.capsule()
    toy.add_to(store)
    workshop.capsule(name="other").add_to(store)
    store.blob_path(digest_of(toy.config)).unlink()
    assert [found.name for found in store.list_capsules()] == ["other"]
    assert "is missing" in caplog.text
    path = store.blob_path(digest_of(toy.envelopes[0]))
    path.unlink()
    path.symlink_to(path)
    assert [found.name for found in store.list_capsules()] == ["other"]
    with pytest.raises(VnfsbuildError):
        store.get(ref("toy"))


def test_tags_that_are_not_true_are_refused(store, workshop):
    for serial in (1, 2):
        workshop.capsule(serial=serial).add_to(store)
    index = store.load_index()
    two = store.get(ref("toy:2")).digest
    store.save_index(index.with_tag("toy", "1", two))
    for text in ("toy:1", "toy:2", f"toy@{two}"):
        with pytest.raises(
            VerificationError, match="toy:1 means a capsule that calls itself toy:2"
        ):
            store.verify(ref(text), trust=workshop.trust(), now=workshop.now)
    store.save_index(index.with_tag("toy", "a b", two))
    with pytest.raises(VerificationError, match="not the index of a store"):
        store.list_capsules()


def test_what_the_store_itself_says_of_a_capsule_is_compared(store, workshop):
    toy = workshop.capsule(signers=("dev", "ops"))
    toy.add_to(store)
    index = store.load_index()
    store.save_index(index.with_type(toy.digest, m.BOOTSTRAP))
    with pytest.raises(VerificationError, match="is listed as"):
        store.get(ref("toy"))
    store.save_index(index)
    entries = m.parse_index(store.read_metadata(index.referrers[toy.digest]), where="x")
    for bad in (
        entries[::-1],
        [*entries, entries[-1]],
        [(of, kind, {"a": "b"}) for of, kind, _ in entries],
        [(of, "text/x", {}) for of, _, _ in entries],
    ):
        blob = store.add_blob(m.render_index(bad), media_type=m.OCI_INDEX)
        store.save_index(
            StoreIndex(capsules=index.capsules, tags=index.tags, referrers={toy.digest: blob})
        )
        with pytest.raises(VerificationError, match="referrers of"):
            store.get(ref("toy"))
    store.save_index(index)
    store.blob_path(digest_of(b"{}")).write_bytes(b"{ }")
    with pytest.raises(VerificationError):
        store.get(ref("toy"))


def test_an_index_without_end_is_not_read(store, workshop):
    workshop.capsule().add_to(store)
    os.truncate(store.path / "index.json", 2**40)
    with pytest.raises(InputError, match="found more than"):
        store.list_capsules()


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("data", [b"kernel!", b"kernel?"])
def test_a_file_that_was_fetched_is_adopted(store, tmp_path, shared, data):
    path = tmp_path / "fetched"
    path.write_bytes(data)
    if shared:  # whoever has the other name could write to it after it was verified
        os.link(path, tmp_path / "other")
    blob = m.Descriptor(m.KERNEL, digest_of(b"kernel!"), 7)
    with open_incoming(store, lock=store.writing()) as incoming:
        if shared and data != b"kernel!":
            with pytest.raises(VerificationError):
                incoming.adopt(blob, path)
            assert not incoming.has(blob)
        else:
            inode = path.stat().st_ino
            incoming.adopt(blob, path)
            with store.writing():
                incoming.move_to_store()
            assert (store.blob_path(blob.digest).stat().st_ino == inode) == (not shared)
            assert not path.exists()
