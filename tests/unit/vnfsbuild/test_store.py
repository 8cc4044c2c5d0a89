"""The store: old or new, never torn; and nothing gets in that no trusted key vouches for."""

import io
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vnfsbuild import manifest as m
from vnfsbuild.digest import digest_of
from vnfsbuild.dsse import Envelope, parse_envelope, render_envelope
from vnfsbuild.errors import InputError, VerificationError, VnfsbuildError
from vnfsbuild.reference import parse_reference as ref
from vnfsbuild.referrers.index import make_referrers
from vnfsbuild.store.blobs import open_incoming
from vnfsbuild.store.index import StoreIndex, parse_store_index
from vnfsbuild.store.store import Store

ROOT = Path(__file__).resolve().parents[3]


def snapshot(store):
    """Return path → content of everything in the store but locks."""
    return {
        str(path.relative_to(store.path)): path.read_bytes()
        for path in sorted(store.path.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def import_file(store, path, workshop, **words):
    trust = words.pop("trust", None) or workshop.trust()
    return store.import_file(path, trust=trust, now=workshop.now, **words)


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


def test_a_damaged_file_leaves_the_store_as_it_was(store, workshop, tmp_path):
    workshop.capsule(serial=9).add_to(store)
    before = snapshot(store)
    path = workshop.capsule(payloads=[b"a", b"b", b"c", b"d", b"e" * 5000]).write(
        tmp_path / "toy.vnfs"
    )
    good = path.read_bytes()
    for data in (good[:-1], good[:-1500], good + b"x", good.replace(b"eee", b"efe", 1)):
        path.write_bytes(data)
        with pytest.raises(VerificationError):
            import_file(store, path, workshop)
        assert snapshot(store) == before


def test_ctrl_c_leaves_the_store_as_it_was(store, workshop, tmp_path):
    workshop.capsule(serial=9).add_to(store)
    before = snapshot(store)

    def interrupt(count):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_file(
            store, workshop.capsule().write(tmp_path / "toy.vnfs"), workshop, advance=interrupt
        )
    assert snapshot(store) == before


CHILD = """
import sys, os, resource, time
from pathlib import Path
from vnfsbuild.store.store import Store
from vnfsbuild.trust import verify_trust
from vnfsbuild.signing.keys import verify_ed25519
from vnfsbuild.errors import VnfsbuildError
store, path, trust, now, how = Store(Path(sys.argv[1])), Path(sys.argv[2]), *sys.argv[3:]
trust = verify_trust(
    Path(trust).read_bytes(), pinned=None, now=int(now), verify_ed25519=verify_ed25519
)
def advance(count):
    if how == "hang":
        print("importing", flush=True)
        time.sleep(60)
if how == "full":
    import signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    store.import_file(path, trust=trust, now=int(now), advance=advance)
except VnfsbuildError as error:
    sys.exit(f"{error.exit_status} {error}")
"""


def start_import(store, path, workshop, how="plain"):
    trust = path.with_suffix(".json")
    trust.write_bytes(workshop.signed_trust(workshop.trust()))
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, store.path, path, trust, str(workshop.now), how],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_killed_import_leaves_a_whole_store_and_the_next_writer_cleans_up(
    store, workshop, tmp_path
):
    workshop.capsule(serial=9).add_to(store)
    before = snapshot(store)
    path = workshop.capsule(payloads=[b"a", b"b", b"c", b"d", b"e"]).write(tmp_path / "toy.vnfs")
    with start_import(store, path, workshop, "hang") as child:
        assert child.stdout.readline() == "importing\n"
        assert list((store.path / ".incoming").iterdir())
        child.send_signal(signal.SIGKILL)
    left = {name: data for name, data in snapshot(store).items() if ".incoming" not in name}
    assert left == before
    assert [found.config.serial for found in store.list_capsules()] == [9]
    import_file(store, path, workshop)
    assert list((store.path / ".incoming").iterdir()) == []
    assert len(store.list_capsules()) == 2


def test_a_full_disk_is_told_and_leaves_the_store_as_it_was(store, workshop, tmp_path):
    workshop.capsule(serial=9).add_to(store)
    before = snapshot(store)
    path = workshop.capsule(payloads=[b"a", b"b", b"c", b"d", b"e" * 300_000]).write(
        tmp_path / "toy.vnfs"
    )
    with start_import(store, path, workshop, "full") as child:
        _, told = child.communicate()
    assert child.returncode == 1
    assert f"1 store {store.path}: File too large; it is as it was before" in told
    assert snapshot(store) == before


def test_two_processes_import_at_once(store, workshop, tmp_path):
    paths = [
        workshop.capsule(serial=serial).write(tmp_path / f"{serial}.vnfs") for serial in (1, 2, 2)
    ]
    children = [start_import(store, path, workshop) for path in paths]
    for child in children:
        with child:
            assert child.wait() == 0, child.stderr.read()
    found = store.list_capsules()
    assert [capsule.config.serial for capsule in found] == [2, 1]
    for capsule in found:
        store.verify(ref(f"toy@{capsule.digest}"), trust=workshop.trust(), now=workshop.now)


def test_threads_write_and_read_at_once(store, workshop):
    toys = [workshop.capsule(serial=serial) for serial in range(1, 9)]

    def work(toy):
        toy.add_to(store)
        seen = {found.digest for found in store.list_capsules()}
        if toy.head.capsule.config.serial % 2:
            store.delete(ref(f"toy@{toy.digest}"), force=True)
        return toy.digest in seen

    with ThreadPoolExecutor(4) as pool:
        # All of them have the same payloads: deleting one takes nothing that another has added.
        assert all(pool.map(work, toys))
    for found in store.list_capsules():
        store.verify(ref(f"toy@{found.digest}"), trust=workshop.trust(), now=workshop.now)


def test_a_writer_that_still_works_is_not_cleaned_up(store, workshop, tmp_path):
    one = workshop.capsule(payloads=[b"a", b"b", b"c", b"d", b"e"]).write(tmp_path / "one.vnfs")
    two = workshop.capsule(serial=2, payloads=[b"f", b"g", b"h", b"i", b"j"]).write(
        tmp_path / "two.vnfs"
    )
    started = []

    def advance(count):
        if not started:
            started.append(True)
            import_file(store, two, workshop)

    import_file(store, one, workshop, advance=advance)
    assert [found.config.serial for found in store.list_capsules()] == [2, 1]


def test_a_blob_that_is_deleted_while_an_import_relies_on_it_survives(store, workshop, tmp_path):
    held = workshop.capsule(serial=1)
    held.add_to(store)
    path = workshop.capsule(serial=2).write(tmp_path / "toy.vnfs")
    deleted = []

    def advance(count):
        if not deleted:
            deleted.extend(store.delete(ref("toy:1")).blobs)

    import_file(store, path, workshop, advance=advance)
    assert digest_of(b"source") in deleted
    store.verify(ref("toy"), trust=workshop.trust(), now=workshop.now)


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
