"""A running node goes over to another capsule: what it fetches, when it waits, when it stays."""

import io
import json
import random
from dataclasses import replace

import pytest

from provisiond.agent.held import find_devices
from provisiond.agent.nextnote import load_note
from provisiond.agent.node import Node
from provisiond.agent.notes import write_note
from provisiond.agent.papers import Papers, render_papers
from provisiond.agent.pieces import choose_stretches, is_worth_it
from provisiond.agent.upgrade import Ground, Upgrade
from provisiond.planned import PlannedNext, PlannedOverlay
from provisiond.protocol import Plan, plan_value
from vnfsbuild.digest import digest_of
from vnfsbuild.errors import VnfsbuildError
from vnfsbuild.manifest import parse_manifest
from vnfsbuild.transfer.chunks import chunked_payloads, cut, render_chunk_index

PLENTY = {"MemTotal": 4_000_000, "MemAvailable": 3_000_000}
RANDOM = random.Random(7)
COMMON = RANDOM.randbytes(1_500_000)
OLD_ROOTFS = COMMON[:700_000] + RANDOM.randbytes(30_000) + COMMON[700_000:] + b"\0" * 352
NEW_ROOTFS = COMMON[:700_000] + RANDOM.randbytes(45_000) + COMMON[700_000:] + b"\0" * 1000
MODULES = RANDOM.randbytes(300_032)
OVERLAY = b"overlay" * 100


def index_of(capsule):
    """Return the chunk index, as the server makes it."""
    data = {digest_of(blob): blob for blob in capsule.blobs}
    return render_chunk_index(
        {
            payload.digest: tuple(cut(io.BytesIO(data[payload.digest])))
            for payload in chunked_payloads(parse_manifest(capsule.manifest))
        }
    )


class Leaves(Exception):
    """The system would stop now."""


class Station:
    """A node that runs the old capsule, a mirror with both, and a server with its overlay."""

    def __init__(self, world, directory, mirror, node_server, client, authority, keys):
        self.world, self.mirror, self.run = world, mirror, directory / "run"
        self.old = world.TestCapsule(keys, layers=(OLD_ROOTFS, MODULES))
        self.new = world.TestCapsule(keys, layers=(NEW_ROOTFS, MODULES))
        self.indexes = index_of(self.old), index_of(self.new)
        mirror.add(*self.new.blobs, *self.indexes)
        node_server.overlays[digest_of(OVERLAY)] = OVERLAY
        self.run.mkdir()
        world.write_site(self.run / "site", authority, [node_server.url], keys.trust())
        papers = Papers(self.old.manifest, self.old.config, (self.old.envelope,))
        (self.run / "site/capsule.json").write_bytes(render_papers(papers))
        self.devices = []
        for number, layer in enumerate(self.old.layers):
            self.devices.append(directory / f"loop{number}")
            # As a loop device: whole sectors.
            self.devices[-1].write_bytes(layer[: len(layer) // 512 * 512])
        self.drain = directory / "drain.d"
        self.memory = PLENTY
        self.node = Node(
            node_id=world.NODE_ID, name="n00001", boot_id="1" * 32, node_key=world.NODE_KEY,
            hwaddrs=(world.NODE_ID,), uuid=None, capsule=self.old.digest, checkin_seconds=60,
        )  # fmt: skip
        self.client = client
        self.loaded = []
        self.told = []
        self.asked = 0
        self.unloaded = 0
        self.refuses = ""

    def plan(self, **changes):
        given = {
            "capsule": replace(self.new.planned(), chunks=digest_of(self.indexes[1])),
            "kernel_arguments": ("panic=60",),
            "overlay": PlannedOverlay(digest_of(OVERLAY), len(OVERLAY)),
            "blobs": (self.mirror.base,),
            "running_chunks": digest_of(self.indexes[0]),
            "attempt": "1.1",
            "when": "now",
        }
        planned = PlannedNext(**{**given, **changes}) if changes is not None else None
        return Plan(node_id=self.world.NODE_ID, name="n00001", action="none", next=planned)

    def load(self, kernel, initrd, line):
        data = kernel.read_bytes(), initrd.read_bytes(), line
        kernel.unlink()
        initrd.unlink()
        if self.refuses:
            raise VnfsbuildError(self.refuses)
        self.loaded.append(data)

    def leave(self):
        raise Leaves

    def unload(self):
        self.unloaded += 1

    def ask(self):
        self.asked += 1

    def go_on(self, plan):
        write_note(self.run / "plan.json", plan_value(plan))
        ground = Ground(
            devices=lambda: self.devices, read_memory=lambda: self.memory, load_kernel=self.load,
            start_kernel=self.leave, drain_scripts=self.drain, ask_checkin=self.ask,
            unload_kernel=self.unload,
        )  # fmt: skip
        Upgrade(self.node, self.run, self.told.append, ground=ground, client=self.client).go_on(
            plan
        )
        return load_note(self.run)

    def script(self, name, text):
        self.drain.mkdir(exist_ok=True)
        path = self.drain / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def fetched_bytes(self):
        """Return how many bytes of blobs the mirror was asked for."""
        total = 0
        for path, span in self.mirror.requests:
            size = len(self.mirror.blobs[path])
            first, _, last = span[len("bytes=") :].partition("-") if span else ("0", "", "")
            total += (min(int(last) + 1, size) if last else size) - int(first)
        return total


@pytest.fixture
def station(world, tmp_path, mirrors, node_server, make_client, authority, keys):
    site = world.write_site(tmp_path / "site", authority, [node_server.url], keys.trust())
    client = make_client(site)
    return Station(world, tmp_path, mirrors[0], node_server, client, authority, keys)


def members(archive):
    """Return the files of the newc archives that follow the capsule's initrd in *archive*."""
    found, position = {}, 0
    while position < len(archive):
        if archive[position : position + 6] != b"070701":
            position += 1
            continue
        fields = [int(archive[position + 6 + 8 * n : position + 14 + 8 * n], 16) for n in range(13)]
        size, name_size = fields[6], fields[11]
        name = archive[position + 110 : position + 110 + name_size - 1].decode()
        start = position + (110 + name_size + 3) // 4 * 4
        found[name] = (fields[1], archive[start : start + size])
        position = start + (size + 3) // 4 * 4
    return found


def test_it_fetches_what_it_lacks_waits_for_the_others_and_leaves(station):
    report = station.go_on(station.plan())
    assert (report.state, report.capsule, report.attempt) == ("fetched", station.new.digest, "1.1")
    blobs = sum(map(len, station.new.blobs))
    indexes = sum(map(len, station.indexes))
    assert station.fetched_bytes() < 0.10 * blobs + indexes, station.mirror.requests
    assert not station.loaded
    before = len(station.mirror.requests)
    assert station.go_on(station.plan()).state == "fetched"
    assert len(station.mirror.requests) == before, "it is there already"
    with pytest.raises(Leaves):
        station.go_on(station.plan(go=True))
    kernel, initrd, line = station.loaded[0]
    assert kernel == station.new.kernel
    assert line == "console=ttyS0 quiet panic=60"
    assert initrd.startswith(station.new.initrd)
    found = members(initrd)
    assert found["vnfs/layers/00-rootfs.squashfs"][1] == NEW_ROOTFS
    assert found["vnfs/layers/01-modules.squashfs"][1] == MODULES
    assert found["vnfs/overlay.tar"][1] == OVERLAY
    mode, data = found["vnfs/node.json"]
    node = json.loads(data)
    assert mode == 0o100600
    assert (node["bootId"], node["nodeKey"]) == ("1" * 32, station.world.NODE_KEY)
    assert (node["capsule"], node["overlay"]) == (station.new.digest, digest_of(OVERLAY))
    papers = json.loads(found["vnfs/site/capsule.json"][1])
    assert papers["manifest"] == station.world.b64(station.new.manifest)
    assert set(found) >= {"vnfs/site/trust.json", "vnfs/site/ca.pem", "vnfs/site/site.json"}
    assert found["vnfs/boot/kernel"][1] == station.new.kernel
    assert found["vnfs/boot/initrd"][1] == station.new.initrd


def test_a_kernel_that_was_kept_is_not_fetched_again(station):
    kept = station.run / "boot"
    kept.mkdir()
    (kept / "kernel").write_bytes(station.old.kernel)
    (kept / "initrd").write_bytes(station.old.initrd)
    assert station.go_on(station.plan()).state == "fetched"
    asked = {path.rpartition("/")[2] for path, _ in station.mirror.requests}
    assert not {digest_of(station.new.kernel)[7:], digest_of(station.new.initrd)[7:]} & asked


def test_a_small_node_keeps_no_kernel(station):
    station.go_on(station.plan())
    station.memory = {"MemTotal": 50, "MemAvailable": 3_000_000}
    with pytest.raises(Leaves):
        station.go_on(station.plan(go=True))
    assert not [name for name in members(station.loaded[0][1]) if name.startswith("vnfs/boot")]


def test_what_it_says_while_it_leaves_is_the_next_capsule(station):
    station.go_on(station.plan())
    said = []
    station.leave = lambda: said.append(json.loads((station.run / "leaving.json").read_bytes()))
    station.go_on(station.plan(go=True))
    assert said[0]["state"] == "booting"
    assert said[0]["capsule"] == station.new.digest


def test_without_indexes_all_that_is_not_the_same_is_fetched(station):
    planned = station.new.planned()
    assert station.go_on(station.plan(capsule=planned, running_chunks=None)).state == "fetched"
    asked = {path.rpartition("/")[2] for path, _ in station.mirror.requests}
    assert digest_of(NEW_ROOTFS)[7:] in asked
    assert digest_of(MODULES)[7:] not in asked, "it is the same layer"


@pytest.mark.parametrize("what", ["device", "index", "range"])
def test_what_is_wrong_costs_bytes_and_nothing_else(station, what):
    if what == "device":
        data = bytearray(station.devices[0].read_bytes())
        data[900_000] ^= 1
        station.devices[0].write_bytes(data)
    elif what == "index":
        lying = station.indexes[1].replace(b'"chunks":[["', b'"chunks":[["00000000', 1)
        lying = station.indexes[1][:-10] if len(lying) == len(station.indexes[1]) else lying
        station.mirror.blobs["/blobs/" + digest_of(station.indexes[1]).replace(":", "/")] = lying
    else:

        def lie_in_ranges(handler, data, offset):
            span = handler.headers.get("Range", "")
            if not span or span.endswith("-") or len(data) != len(NEW_ROOTFS):
                return False
            first, last = span[len("bytes=") :].split("-")
            part = bytearray(data[int(first) : int(last) + 1])
            part[0] ^= 1
            handler.reply(bytes(part), 206, {"Content-Range": f"bytes {first}-{last}/{len(data)}"})
            return True

        station.mirror.fault = lie_in_ranges
    assert station.go_on(station.plan()).state == "fetched"
    with pytest.raises(Leaves):
        station.go_on(station.plan(go=True))
    assert members(station.loaded[0][1])["vnfs/layers/00-rootfs.squashfs"][1] == NEW_ROOTFS


def test_what_is_not_trusted_is_refused_before_any_payload(station, world, keys):
    strangers = world.TestCapsule(replace(keys, signer=keys.other), layers=(NEW_ROOTFS, MODULES))
    station.mirror.add(*strangers.blobs)
    report = station.go_on(station.plan(capsule=strangers.planned()))
    assert report.state == "failed"
    assert report.detail.startswith("refused: ")
    asked = {path.rpartition("/")[2] for path, _ in station.mirror.requests}
    assert digest_of(strangers.kernel)[7:] not in asked
    before = len(station.mirror.requests)
    assert station.go_on(station.plan(capsule=strangers.planned(), go=True)) == report
    assert len(station.mirror.requests) == before, "it does not try for ever"
    assert not station.loaded


def test_too_little_memory_is_told_with_what_it_takes(station):
    station.memory = {"MemTotal": 300_000, "MemAvailable": 20_000}
    report = station.go_on(station.plan())
    assert report.state == "failed"
    assert "memory" in report.detail
    assert "MiB" in report.detail
    assert not list((station.run / "next").iterdir()), "nothing is kept"


def test_a_kernel_that_is_refused_leaves_the_node_as_it_was(station):
    station.refuses = "kexec: the running kernel refuses this one: Key was rejected by service"
    station.go_on(station.plan())
    report = station.go_on(station.plan(go=True))
    assert (report.state, report.detail) == ("failed", station.refuses)
    assert not (station.run / "leaving.json").exists()


def test_a_kernel_that_is_not_started_does_not_stay_loaded(station):
    def fail():
        raise VnfsbuildError("systemctl kexec: exit status 1: no")

    station.go_on(station.plan())
    station.leave = fail
    report = station.go_on(station.plan(go=True))
    assert (report.state, report.detail) == ("failed", "systemctl kexec: exit status 1: no")
    assert len(station.loaded) == station.unloaded == 1
    assert station.go_on(Plan(node_id=station.world.NODE_ID, name="n00001", action="none")) is None
    assert station.unloaded == 1, "there is none any more"


def test_an_overlay_that_changed_meanwhile_fails_nobody(station, node_server):
    station.go_on(station.plan())
    node_server.overlays.clear()
    report = station.go_on(station.plan(go=True))
    assert (report.state, "overlay" in report.detail) == ("draining", True)
    assert not station.loaded
    node_server.overlays[digest_of(OVERLAY)] = OVERLAY
    with pytest.raises(Leaves):
        station.go_on(station.plan(go=True))
    assert station.loaded[0][1].count(b"vnfs/node.json\0") == 1


def test_another_attempt_forgets_the_failure(station):
    station.memory = {"MemTotal": 300_000, "MemAvailable": 20_000}
    assert station.go_on(station.plan()).state == "failed"
    station.memory = PLENTY
    assert station.go_on(station.plan(attempt="1.2")).state == "fetched"


def test_it_leaves_when_the_scripts_say_that_nothing_runs(station, tmp_path):
    busy = tmp_path / "busy"
    busy.touch()
    log = tmp_path / "log"
    station.script("50-jobs", f'echo "$1" >>{log}; test -e {busy} || exit 0; echo 2 jobs; exit 75')
    station.go_on(station.plan(when="idle"))
    assert not log.exists(), "nobody is drained before all have the capsule"
    report = station.go_on(station.plan(when="idle", go=True))
    assert (report.state, report.detail) == ("draining", "50-jobs: 2 jobs")
    busy.unlink()
    with pytest.raises(Leaves):
        station.go_on(station.plan(when="idle", go=True))
    assert log.read_text().split() == ["drain", "drain"]
    assert station.loaded


def test_a_plan_that_is_withdrawn_lets_jobs_come_again(station, tmp_path):
    log = tmp_path / "log"
    station.script("50-jobs", f'echo "$1" >>{log}; test "$1" = resume || exit 75')
    station.go_on(station.plan(when="idle"))
    station.go_on(station.plan(when="idle", go=True))
    withdrawn = Plan(node_id=station.world.NODE_ID, name="n00001", action="none")
    assert station.go_on(withdrawn) is None
    assert log.read_text().split() == ["drain", "resume"]
    assert not list((station.run / "next").iterdir())


def test_a_script_that_fails_keeps_the_node_where_it_is(station):
    station.script("50-jobs", 'test "$1" = resume || { echo no controller; exit 3; }')
    station.go_on(station.plan(when="idle"))
    report = station.go_on(station.plan(when="idle", go=True))
    assert report.state == "failed"
    assert report.detail == "drain.d/50-jobs: exit status 3: no controller"


def test_what_is_withdrawn_during_the_fetch_is_given_up(station):
    served = station.mirror

    def withdraw(handler, data, offset):
        write_note(station.run / "plan.json", plan_value(replace(station.plan(), next=None)))
        return False

    served.fault = withdraw
    report = station.go_on(station.plan())
    assert report.state == "fetching"
    assert any("withdrawn" in line for line in station.told)
    served.fault = None
    assert station.go_on(replace(station.plan(), next=None)) is None


def test_pieces_near_each_other_come_in_one_request():
    from provisiond.agent.chunkmap import Piece

    sizes = [10_000] * 12
    pieces = [Piece(10_000 * n, size, bytes([n]) * 16) for n, size in enumerate(sizes)]
    have = {piece.name for piece in pieces if piece.first_byte // 10_000 not in (2, 4, 10)}
    found = choose_stretches(pieces, have)
    assert [(s.first_byte // 10_000, len(s.pieces), s.is_here) for s in found] == [
        (0, 2, True), (2, 3, False), (5, 5, True), (10, 1, False), (11, 1, True)
    ]  # fmt: skip
    assert tuple(piece for stretch in found for piece in stretch.pieces) == tuple(pieces)
    assert is_worth_it(found)
    assert is_worth_it(choose_stretches(pieces, {piece.name for piece in pieces}))
    assert not is_worth_it(choose_stretches(pieces, ()))


def test_the_layers_are_found_by_their_loop_devices(tmp_path):
    for name, is_used in (("loop0", True), ("loop1", False), ("loop10", True), ("sda", True)):
        directory = tmp_path / "block" / name / "loop"
        directory.mkdir(parents=True)
        if is_used:
            (directory / "backing_file").write_text("/vnfs/layers/00-rootfs.squashfs (deleted)\n")
    found = find_devices(sys=tmp_path, dev=tmp_path / "dev")
    assert [path.name for path in found] == ["loop0", "loop10"]
