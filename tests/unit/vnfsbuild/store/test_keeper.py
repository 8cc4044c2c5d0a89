"""Keeping a store: what moves, what may go, what must stay; and what reaches the disk when."""

import json
import os
from pathlib import Path

import pytest

from vnfsbuild import cli
from vnfsbuild import manifest as m
from vnfsbuild.digest import digest_of
from vnfsbuild.errors import InputError, VerificationError, VnfsbuildError
from vnfsbuild.reference import parse_reference as ref
from vnfsbuild.store.keeper import PinnedError
from vnfsbuild.store.leases import LEASES_NAME, Lease, read_leases
from vnfsbuild.store.pins import Pin, parse_reasons, pin_path, render_reasons
from vnfsbuild.store.store import Store


@pytest.fixture
def serials(store, workshop):
    """Capsules with the serials 1 to 5; the last is current."""
    toys = {}
    for serial in range(1, 6):
        own = [b"source", b"kernel!", b"initrd", f"root {serial}".encode(), b"modules"]
        toys[serial] = workshop.capsule(serial=serial, payloads=own)
        toys[serial].add_to(store)
    return toys


def tags(store):
    """Return tag → serial of all capsules."""
    return {tag: found.config.serial for found in store.list_capsules() for tag in found.tags}


def names_of(store):
    return sorted(found.config.serial for found in store.list_capsules())


def test_each_move_of_current_leaves_previous_behind(store, serials):
    assert (tags(store)["current"], tags(store)["previous"]) == (5, 4)
    moved = store.promote(ref("toy:2"))
    assert (moved.current, moved.previous) == (serials[2].digest, serials[5].digest)
    assert (tags(store)["current"], tags(store)["previous"]) == (2, 5)
    store.promote(ref("toy:2"))
    assert tags(store)["previous"] == 5, "nothing moved"
    assert store.rollback("toy").current == serials[5].digest
    assert (tags(store)["current"], tags(store)["previous"]) == (5, 2)
    store.rollback("toy")
    assert (tags(store)["current"], tags(store)["previous"]) == (2, 5)


def test_what_was_added_again_is_no_move(store, serials):
    serials[5].add_to(store)
    assert tags(store)["previous"] == 4
    serials[1].add_to(store, current=False)
    assert tags(store)["current"] == 5


@pytest.mark.parametrize(
    ("act", "told"),
    [
        (lambda s: s.rollback("none"), "no such capsule"),
        (lambda s: s.promote(ref("toy:9")), "no such capsule"),
        (lambda s: s.tag(ref("toy"), "previous"), "moves with what a bare toy means"),
        (lambda s: s.tag(ref("toy"), "17"), "numbers are serials"),
        (lambda s: s.untag(ref("toy:5")), "numbers are serials"),
        (lambda s: s.untag(ref("toy")), "moves with what a bare toy means"),
        (lambda s: s.untag(ref("toy:none")), "no such capsule"),
        (lambda s: s.delete(ref("toy:none")), "no such capsule"),
        (lambda s: s.delete_old(["none"], keep=1), "none: no such capsule"),
        (lambda s: s.pin(ref("toy:9"), owner="me", reason="x"), "no such capsule"),
        (lambda s: s.pin(ref("toy"), owner="../me", reason="x"), "owner of pins"),
    ],
)
def test_what_cannot_be_done_is_told_and_changes_nothing(store, serials, act, told):
    before = (store.path / "index.json").read_bytes()
    with pytest.raises(InputError, match=told):
        act(store)
    assert (store.path / "index.json").read_bytes() == before


def test_there_is_nothing_before_the_first(store, workshop):
    workshop.capsule().add_to(store)
    with pytest.raises(InputError, match="nothing was current before"):
        store.rollback("toy")


def test_a_digest_under_another_name_is_neither_promoted_nor_deleted_nor_pinned(store, serials):
    wrong = ref(f"other@{serials[1].digest}")
    for act in (store.promote, store.delete, lambda r: store.pin(r, owner="me", reason="x")):
        with pytest.raises(InputError, match="is called 'toy'"):
            act(wrong)


def test_what_is_current_goes_only_as_the_last_of_its_name(store, serials):
    with pytest.raises(PinnedError, match="toy:5 must stay: toy:current means it"):
        store.delete(ref("toy"))
    removed = store.delete(ref("toy"), force=True)
    told = "toy:current means it, and there are others of the name"
    assert removed.capsules[0].overridden == (told,)
    assert "current" not in tags(store)
    store.delete(*(ref(f"toy:{serial}") for serial in (1, 2, 3, 4)))
    assert store.list_blobs() == []


def test_what_is_pinned_stays_with_the_reasons(store, serials):
    store.pin(ref("toy:1"), owner="provisiond", reason="n0001 runs it")
    store.pin(ref("toy:1"), owner="mount", reason="mounted at /mnt")
    with pytest.raises(PinnedError) as caught:
        store.delete(ref("toy:2"), ref("toy:1"))
    assert caught.value.exit_status == 2
    assert (
        "toy:1 must stay: mounted at /mnt (pinned by mount); n0001 runs it (pinned by provis"
        in (str(caught.value))
    )
    assert names_of(store) == [1, 2, 3, 4, 5], "all or none"
    assert store.unpin(serials[1].digest, owner="mount")
    assert not store.unpin(serials[1].digest, owner="mount")
    store.unpin(serials[1].digest, owner="provisiond")
    assert list((store.path / "pins").iterdir()) == []
    store.delete(ref("toy:1"))


def test_force_says_what_it_overrode(store, serials):
    store.pin(ref("toy:1"), owner="provisiond", reason="n0001 runs it")
    removed = store.delete(ref("toy:1"), force=True)
    assert removed.capsules[0].overridden == ("n0001 runs it (pinned by provisiond)",)
    assert [pin.digest for pin in store.pins()] == [serials[1].digest], "its owner's business"


def test_the_newest_stay_and_what_is_pinned_or_tagged(store, serials, workshop):
    workshop.capsule(name="other").add_to(store)
    store.tag(ref("toy:1"), "stable")
    store.pin(ref("toy:2"), owner="me", reason="x")
    before = (store.path / "index.json").read_bytes()
    told = store.delete_old(["toy"], keep=1, dry_run=True)
    assert [item.name for item in told.capsules] == ["toy:3"]  # 4 is previous
    assert (store.path / "index.json").read_bytes() == before
    assert store.delete_old(["toy", "other"], keep=1) == told
    assert names_of(store) == [1, 1, 2, 4, 5]
    store.promote(ref("toy:5"))
    assert store.delete_old(["toy"], keep=9).capsules == ()


def test_pins_that_cannot_be_read_let_nothing_be_deleted(store, serials):
    (store.path / "pins").mkdir()
    (store.path / "pins/provisiond.json").write_text('{"x": 1}')
    with pytest.raises(VerificationError, match=r"provisiond\.json.*what it pins is not known"):
        store.delete(ref("toy:1"))
    with pytest.raises(VerificationError):
        store.delete_old(["toy"], keep=1)
    store.delete(ref("toy:1"), force=True)


def test_pins_of_nobody_let_nothing_be_deleted(store, serials):
    (store.path / "pins").mkdir()
    (store.path / "pins/\x1b.json").write_text("{}")
    with pytest.raises(VerificationError, match=r"pins/'\\x1b\.json': not the name of an owner"):
        store.delete(ref("toy:1"))


@pytest.mark.parametrize(
    "text", ["[]", "{}x", '{"sha256:0":"x"}', '{"a":"b"}', f'{{"{digest_of(b"")}":7}}',
             f'{{"{digest_of(b"")}":""}}', f'{{"{digest_of(b"")}":"a\\nb"}}'],
)  # fmt: skip
def test_pins_of_another_form_are_refused(text):
    with pytest.raises(VerificationError):
        parse_reasons(text.encode(), where="pins")


def test_pins_are_read_as_they_were_written():
    reasons = {digest_of(b"a"): "it – runs", digest_of(b"b"): "x"}
    assert parse_reasons(render_reasons(reasons), where="pins") == reasons


def test_one_owner_changes_its_own_pins_alone(store, serials):
    store.pin(ref("toy:1"), owner="mount", reason="at /a")
    store.pin(ref("toy:1"), owner="me", reason="x")
    digest = serials[1].digest
    store.change_pins("mount", lambda held: {**held, digest: f"{held[digest]}, /b"})
    assert store.pins() == (
        Pin(owner="me", digest=digest, reason="x"),
        Pin(owner="mount", digest=digest, reason="at /a, /b"),
    )
    store.change_pins("mount", lambda held: {})
    assert not pin_path(store.path, "mount").exists()


def test_gc_removes_what_nothing_names_and_only_that(store, serials, workshop):
    before = sorted(path for path in store.path.rglob("*") if path.is_file())
    builder = Store(store.path)
    builder.add_blob(b"litter", media_type=m.KERNEL)
    assert store.gc().blobs == (), "its builder lives"
    del builder
    (store.path / ".incoming/dead").mkdir()
    (store.path / ".incoming/dead/blob").write_bytes(b"x" * 1000)
    (store.path / ".index.json.dead").write_bytes(b"x")
    (store.path / "blobs/sha256/.dead").write_bytes(b"x")
    told = store.gc(dry_run=True)
    assert told.blobs == (digest_of(b"litter"),)
    assert told.size_bytes == len(b"litter") + 1002
    assert store.gc() == told
    assert sorted(path for path in store.path.rglob("*") if path.is_file()) == before
    assert store.gc().size_bytes == 0


def test_gc_where_nobody_ever_wrote_makes_nothing(tmp_path):
    assert Store(tmp_path / "none").gc().blobs == ()
    assert not (tmp_path / "none").exists()


def test_what_describes_a_capsule_is_damaged_so_nothing_is_removed(store, serials):
    path = store.blob_path(serials[1].digest)
    path.write_bytes(b"x")
    blobs = store.list_blobs()
    for act in (store.gc, lambda: store.delete(ref("toy:2"))):
        with pytest.raises(VerificationError, match="what describes toy:1 is damaged") as caught:
            act()
        assert "fsck" in caught.value.hint
    path.unlink()
    with pytest.raises(VerificationError, match="a blob is missing"):
        store.gc()
    assert set(blobs) - set(store.list_blobs()) == {serials[1].digest}


@pytest.mark.parametrize("left", ["oci-layout", "blobs"])
def test_a_store_without_its_index_is_not_taken_for_an_empty_one(store, serials, left):
    (store.path / "index.json").unlink()
    if left == "blobs":
        (store.path / "oci-layout").unlink()
    blobs = store.list_blobs()
    for act in (store.gc, store.list_capsules, lambda: serials[1].add_to(store)):
        with pytest.raises(VerificationError, match=r"index\.json: missing") as caught:
            act()
        assert "fsck --repair" in caught.value.hint
    assert store.list_blobs() == blobs


def test_a_blob_that_is_added_stays_until_its_capsule_names_it(store, workshop):
    toy = workshop.capsule()
    builder = Store(store.path)
    for data in toy.blobs.values():
        builder.add_blob(data, media_type=m.KERNEL)
        store.gc()
    other = workshop.capsule(serial=2)
    other.add_to(store)
    store.delete(ref("toy"))
    store.gc()
    builder.add_capsule(toy.manifest, toy.config, toy.envelopes)
    assert list((store.path / LEASES_NAME).iterdir()) == []
    store.verify(ref("toy"), trust=workshop.trust(), now=workshop.now)


def test_a_lease_counts_and_a_full_disk_voids_nothing(tmp_path, monkeypatch):
    one, two = digest_of(b"1"), digest_of(b"2")
    lease = Lease(tmp_path)
    for digest in (one, one, two):
        lease.add(digest)
    assert lease.drop([one, two])
    assert read_leases(tmp_path) == {one}
    real = os.write

    def half(descriptor, data):
        return real(descriptor, data[: len(data) // 2])

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(OSError, match="No space left"):
        lease.add(two)
    monkeypatch.undo()
    assert read_leases(tmp_path) == {one}
    assert not lease.drop([one, one])
    del lease
    assert read_leases(tmp_path) == set()


def test_a_file_system_without_links_is_no_reason_to_fail(
    store, serials, workshop, tmp_path, monkeypatch
):
    def refuse(*args, **words):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    path = serials[1].write(tmp_path / "toy.vnfs")
    store.import_file(path, trust=workshop.trust(), now=workshop.now)
    assert tags(store)["current"] == 1


class Disk:
    """Watches what is durable: contents that were synced, names whose directory was."""

    def __init__(self, monkeypatch, store):
        self.store = store
        self.synced = set()
        self.durable = set()
        self.faults = []
        self.index_writes = 0
        fsync, replace, rename = os.fsync, os.replace, os.rename

        def watched_fsync(descriptor):
            fsync(descriptor)
            path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
            if path.is_dir():
                self.durable |= {(path, inner.name) for inner in path.iterdir()}
            else:
                self.synced.add(os.fstat(descriptor).st_ino)

        def watched(move):
            def moved(source, target, **words):
                self.before_move(Path(source), Path(target))
                self.durable.discard((Path(target).parent, Path(target).name))
                return move(source, target, **words)

            return moved

        monkeypatch.setattr(os, "fsync", watched_fsync)
        monkeypatch.setattr(os, "replace", watched(replace))
        monkeypatch.setattr(os, "rename", watched(rename))

    def before_move(self, source, target):
        """When *target* becomes visible, its content must be on the disk; and what it names."""
        if source.stat().st_ino not in self.synced and not source.is_dir():
            self.faults.append(f"{target.name} is seen before its content is on the disk")
        if target.name == "index.json":
            self.index_writes += 1
            named = self.store.needed_blobs_of_text(source.read_bytes())
            blobs = self.store.path / "blobs/sha256"
            self.faults += [
                f"the index names {digest}, which is not on the disk"
                for digest in named
                if (blobs, digest.removeprefix("sha256:")) not in self.durable
            ]


class WatchedStore(Store):
    def needed_blobs_of_text(self, text):
        from vnfsbuild.store.index import parse_store_index

        index = parse_store_index(text, where="test")
        return {blob for digest in index.capsules for blob in self.blobs_of(index, digest)}


def test_after_a_power_cut_the_index_names_nothing_that_is_not_on_the_disk(
    tmp_path, workshop, monkeypatch
):
    store = WatchedStore(tmp_path / "store")
    disk = Disk(monkeypatch, store)
    for serial in (1, 2):
        workshop.capsule(serial=serial).add_to(store)
    path = workshop.capsule(serial=3, payloads=[b"a", b"b", b"kernel!", b"d", b"e"]).write(
        tmp_path / "toy.vnfs"
    )
    store.import_file(path, trust=workshop.trust(), now=workshop.now)
    store.attach(ref("toy"), store.add_blob(b"x", media_type="t/x"), artifact_type="t/x")
    store.promote(ref("toy:1"))
    store.delete(ref("toy:2"))
    assert disk.faults == []
    assert disk.index_writes == 7


@pytest.fixture
def run(store, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("VNFS_STORE", str(store.path))
    monkeypatch.setenv("VNFS_SITE", str(tmp_path / "site"))

    def run(*arguments):
        status = cli.run([str(argument) for argument in arguments])
        return (status, *capfd.readouterr())

    return run


def test_the_verbs(run, store, serials):
    five, four = serials[5].digest, serials[4].digest
    assert run("rollback", "toy") == (0, f"toy is toy:4@{four}, previous is toy:5@{five}\n", "")
    status, out, _ = run("promote", "toy:5", "--json")
    assert json.loads(out) == {"name": "toy", "current": five, "previous": four}
    assert run("tag", "toy:1", "stable") == (0, f"toy:stable is {serials[1].digest}\n", "")
    assert run("tag", "--remove", "toy:stable")[0] == 0
    assert run("tag", "--remove", "toy:stable")[0] == 2
    assert run("tag", "toy:1")[0] == 2
    assert run("pins", "add", "toy:1", "--reason", "audit")[0] == 0
    status, out, _ = run("pins", "list", "--json")
    assert json.loads(out) == [
        {"name": "toy:1", "digest": serials[1].digest, "owner": "administrator", "reason": "audit"}
    ]
    status, out, err = run("delete", "toy:1")
    assert (status, out) == (2, "")
    assert "error: toy:1 must stay: audit (pinned by administrator)\nhint:" in err
    assert run("pins", "list")[1].splitlines()[1].split()[0] == "toy:1"
    status, out, err = run("delete", "toy:1", "--force")
    assert (status, out.splitlines()[0]) == (0, f"deleted toy:1 {serials[1].digest}")
    assert "warning: toy:1: overridden: audit" in err
    assert run("pins", "list")[1].splitlines()[1].split()[:2] == ["not", "here"]
    assert run("pins", "remove", serials[1].digest)[0] == 0
    assert run("pins", "remove", serials[1].digest)[0] == 2
    status, out, _ = run("delete", "--keep", 1, "--dry-run", "toy", "--json")
    assert [item["name"] for item in json.loads(out)["capsules"]] == ["toy:3", "toy:2"]
    assert run("delete", "--keep", 1, "toy")[0] == 0
    assert names_of(store) == [4, 5]
    assert run("delete", "--keep", 1, "--force", "toy")[0] == 2
    assert run("delete", "--dry-run", "toy")[0] == 2
    assert run("gc") == (0, "0 blobs, 0 B\n", "")
    assert json.loads(run("gc", "--dry-run", "--json")[1])["dryRun"]


def test_a_disk_error_is_told(store, serials, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(VnfsbuildError, match="No space left on device; it is as it was") as caught:
        store.promote(ref("toy:1"))
    assert "df -h" in caught.value.hint
    monkeypatch.undo()
    assert tags(store)["current"] == 5
