"""Checking and repairing a store: every kind of damage is found, told, and mended or forgotten."""

import json
import shutil

import pytest

from vnfsbuild import cli
from vnfsbuild import manifest as m
from vnfsbuild.capsule import LAYOUT
from vnfsbuild.digest import digest_of
from vnfsbuild.errors import InputError, VerificationError
from vnfsbuild.reference import parse_reference as ref
from vnfsbuild.store.check import check_store
from vnfsbuild.store.repair import repair_store
from vnfsbuild.store.store import Store


@pytest.fixture
def toys(store, workshop):
    """Two serials of toy, the second current and with something attached; and another."""
    made = {}
    for name, serial in (("toy", 1), ("toy", 2), ("other", 7)):
        own = [b"source", b"kernel!", b"initrd", f"root {name} {serial}".encode(), b"modules"]
        made[f"{name}:{serial}"] = workshop.capsule(name=name, serial=serial, payloads=own)
        made[f"{name}:{serial}"].add_to(store)
    blob = store.add_blob(b"list of files", media_type="text/x")
    store.attach(ref("toy:2"), blob, artifact_type="text/x")
    return made


def found(store):
    """Return (kind, subject, text) of all that is damaged."""
    return [(item.kind, item.subject, item.text) for item in check_store(store).findings
            if item.is_damage]  # fmt: skip


def repair(store, *, drop=False):
    said = []
    repair_store(store, check_store(store).blobs, drop=drop, say=said.append)
    return said


def spoil(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def tags(store):
    return {f"{item.name}:{tag}": item.config.serial
            for item in store.list_capsules() for tag in item.tags}  # fmt: skip


def test_a_whole_store(store, toys):
    checked = check_store(store)
    # What the attached list took the place of.
    assert [item.kind for item in checked.findings] == ["garbage"]
    assert not checked.is_damaged
    assert (checked.capsules, len(checked.blobs)) == (3, len(store.list_blobs()))
    store.gc()
    assert check_store(store).findings == ()
    assert repair(store) == []


def test_there_is_no_store(tmp_path):
    with pytest.raises(InputError, match="expected a store"):
        check_store(Store(tmp_path / "none"))


PARTS = {
    "manifest": lambda toy, store: toy.digest,
    "config": lambda toy, store: digest_of(toy.config),
    "kernel": lambda toy, store: digest_of(b"kernel!"),
    "layer": lambda toy, store: digest_of(b"root toy 2"),
    "list of referrers": lambda toy, store: store.load_index().referrers[toy.digest].digest,
    "manifest of the referrer vnd.vnfs.signature.v1": lambda toy, store: next(
        of.digest for of, item in store.referrers(store.load_index(), toy.digest)
        if item.artifact_type == m.SIGNATURE
    ),
    "referrer vnd.vnfs.signature.v1": lambda toy, store: digest_of(toy.envelopes[0]),
    "referrer x": lambda toy, store: digest_of(b"list of files"),
}  # fmt: skip


@pytest.mark.parametrize("how", ["damaged", "missing"])
@pytest.mark.parametrize("role", PARTS)
def test_every_part_of_a_capsule_is_looked_at(store, toys, role, how, workshop, tmp_path):
    digest = PARTS[role](toys["toy:2"], store)
    path = store.blob_path(digest)
    spoil(path) if how == "damaged" else path.unlink()
    told = found(store)
    assert ("capsule", "toy:2", f"{role} {digest[:19]} is {how}") in told
    assert [kind for kind, _, _ in told].count("blob") == (how == "damaged")
    said = repair(store)
    assert (store.path / "damaged" / path.name).exists() == (how == "damaged")
    can_be_mended = role == "list of referrers"
    assert (found(store) == []) == can_be_mended
    if can_be_mended:
        assert any("toy:2: put together anew" in line for line in said)
        assert store.get(ref("toy:2")).attached("text/x").digest == digest_of(b"list of files")
    # What is lost comes back with the file.
    again = Store(tmp_path / "again")
    shutil.copytree(store.path, again.path)
    for toy in toys.values():
        file = toy.write(tmp_path / "toy.vnfs")
        again.import_file(file, trust=workshop.trust(), now=workshop.now, current=False)
    if role != "referrer x":
        assert found(again) == []
    repair(store, drop=True)
    assert found(store) == []
    for item in store.list_capsules():
        if "signature" not in role:
            store.verify(
                ref(f"{item.name}@{item.digest}"), trust=workshop.trust(), now=workshop.now
            )
    left = {"manifest": 2, "config": 2, "kernel": 0, "layer": 2}.get(role, 3)
    assert len(store.list_capsules()) == left
    store.gc()
    assert check_store(store).findings == ()


def test_what_only_a_part_of_the_capsules_needs_is_told_with_its_name(store, toys):
    spoil(store.blob_path(digest_of(b"root toy 1")))
    told = found(store)
    assert [subject for kind, subject, _ in told if kind == "capsule"] == ["toy:1"]
    assert "it is layer of toy:1" in next(text for kind, _, text in told if kind == "blob")


BAD_INDEXES = {
    "missing": None,
    "empty": b"",
    "cut off": lambda text: text[: len(text) // 2],
    "written by hand": lambda text: json.dumps(json.loads(text), indent=2).encode(),
}


@pytest.mark.parametrize("bad", BAD_INDEXES)
def test_an_index_that_is_lost_is_made_anew(store, toys, bad):
    store.promote(ref("toy:1"))
    store.tag(ref("toy:1"), "stable")
    before = {item.digest: item.attachments for item in store.list_capsules()}
    old_tags = tags(store)
    path = store.path / "index.json"
    change = BAD_INDEXES[bad]
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change(path.read_bytes()) if callable(change) else change)
    assert [kind for kind, _, _ in found(store)] == ["index"]
    said = repair(store)
    assert found(store) == []
    assert {item.digest: item.attachments for item in store.list_capsules()} == before
    if bad == "written by hand":
        assert tags(store) == old_tags
        assert not any("highest serial" in line for line in said)
    else:
        assert tags(store) == {
            "toy:1": 1, "toy:2": 2, "toy:current": 2, "other:7": 7, "other:current": 7,
        }  # fmt: skip
        assert any(line.startswith("toy:current means toy:2, the highest serial") for line in said)
    assert (store.path / "damaged/index.json").exists() == (bad != "missing")


def test_a_capsule_that_is_not_whole_is_not_lost_with_the_index(store, toys):
    (store.path / "index.json").unlink()
    store.blob_path(digest_of(b"root toy 1")).unlink()
    repair(store)
    assert [subject for _, subject, _ in found(store)] == ["toy:1"]


@pytest.mark.parametrize("text", [None, b'{"imageLayoutVersion":"9.9.9"}'])
def test_the_layout(store, toys, text):
    path = store.path / "oci-layout"
    path.unlink() if text is None else path.write_bytes(text)
    assert [kind for kind, _, _ in found(store)] == ["layout"]
    repair(store)
    assert path.read_bytes() == LAYOUT
    assert found(store) == []


def test_tags_that_are_not_true(store, toys):
    index = store.load_index()
    store.save_index(index.with_tag("toy", "9", toys["toy:1"].digest)
                     .with_tag("another", "current", toys["toy:1"].digest))  # fmt: skip
    assert [subject for kind, subject, _ in found(store) if kind == "tag"] == [
        "another:current", "toy:9",
    ] or {subject for kind, subject, _ in found(store)} == {"another:current", "toy:9"}  # fmt: skip
    repair(store)
    assert found(store) == []
    assert tags(store)["toy:1"] == 1


def test_pins(store, toys):
    store.pin(ref("toy:1"), owner="me", reason="x")
    store.delete(ref("toy:1"), force=True)
    stale = next(item for item in check_store(store).findings if item.kind == "stale pin")
    assert "pinned by me (x), but not in the store" in stale.text
    (store.path / "pins/me.json").write_bytes(b'{"x"')
    assert [subject for _, subject, _ in found(store)] == ["pins/me.json"]
    assert any("pins nothing any more" in line for line in repair(store))
    assert found(store) == []
    assert (store.path / "damaged/me.json").exists()


def test_leftovers_and_strangers_are_notes(store, toys):
    (store.path / "blobs/sha256/README").write_text("x")
    (store.path / ".incoming/dead").mkdir()
    store.gc()
    (store.path / ".incoming/dead").mkdir()
    notes = {(item.kind, item.subject) for item in check_store(store).findings}
    assert notes == {("stranger", "blobs/sha256/README"), ("garbage", ".incoming/dead")}
    assert not check_store(store).is_damaged


def test_a_blob_that_is_damaged_twice_is_kept_twice(store, toys, workshop):
    path = store.blob_path(digest_of(b"kernel!"))
    for number in range(2):
        path.write_bytes(str(number).encode())
        repair(store)
        toys["toy:1"].add_to(store)
    assert (store.path / "damaged" / path.name).read_bytes() == b"0"
    assert (store.path / "damaged" / f"{path.name}.1").read_bytes() == b"1"
    assert found(store) == []


def test_what_somebody_brought_meanwhile_is_not_moved(store, toys):
    path = store.blob_path(digest_of(b"kernel!"))
    spoil(path)
    blobs = check_store(store).blobs
    path.write_bytes(b"kernel!")
    repair_store(store, blobs, drop=False, say=lambda line: None)
    assert found(store) == []


def test_what_is_deleted_while_it_is_read_is_not_missing(store, toys):
    seen = []

    def delete(count):
        if not seen:
            seen.append(count)
            store.delete(ref("toy:1"))

    assert not check_store(store, advance=delete).is_damaged


def test_the_verb(store, toys, monkeypatch, capfd):
    monkeypatch.setenv("VNFS_STORE", str(store.path))
    store.gc()
    assert cli.run(["fsck"]) == 0
    assert capfd.readouterr().out.startswith("whole: 3 capsules")
    spoil(store.blob_path(digest_of(b"root toy 1")))
    assert cli.run(["fsck"]) == 3
    out, err = capfd.readouterr()
    assert "damage: toy:1: layer sha256:" in out
    assert "hint: vnfsbuild import FILE brings toy:1 back" in out
    assert f"error: store {store.path}: 2 faults\nhint: vnfsbuild --store {store.path} fsck" in err
    assert cli.run(["fsck", "--drop"]) == 2
    assert cli.run(["fsck", "--repair", "--drop", "--json"]) == 0
    facts = json.loads(capfd.readouterr().out)
    assert not facts["damaged"]
    assert facts["capsules"] == 2
    assert "forgot toy:1: it cannot be saved; its other blobs are garbage now" in facts["repaired"]
    with pytest.raises(InputError):
        store.get(ref("toy:1"))


def test_a_repair_needs_no_index_to_be_whole_first(store, toys):
    (store.path / "index.json").write_bytes(b"{}")
    with pytest.raises(VerificationError):
        store.gc()
    (store.path / "oci-layout").unlink()
    spoil(store.blob_path(digest_of(b"kernel!")))
    repair(store, drop=True)
    assert found(store) == []
    assert store.list_capsules() == ()
    store.gc()
    assert store.list_blobs() == []
