"""The bootstrap's whole life on the loopback; only the jump itself goes elsewhere."""

import dataclasses
import errno
import io
import json
import os
import re
import tarfile
import threading

import pytest

from provisiond.agent import entry
from provisiond.agent.bootstrap import Bootstrap
from provisiond.agent.conversation import Pace, Unheard, load_identity, save_identity
from provisiond.agent.drivers import Drivers
from provisiond.agent.entry import Jump
from provisiond.agent.fetch import Patience
from provisiond.agent.machine import Machine
from provisiond.protocol import Answer, OnFailure, PlannedOverlay, plan_digest
from vnfsbuild import manifest as m
from vnfsbuild.digest import digest_of
from vnfsbuild.errors import VnfsbuildError

PACE = Pace(
    poll_seconds=1,
    least_delay_seconds=0.05,
    most_delay_seconds=0.1,
    progress_seconds=0.0,
    patience=Patience(stall_seconds=1, tries=2, least_delay_seconds=0.01, most_delay_seconds=0.02),
)


class Jumped(Exception):
    """The point of no return."""


class Rebooted(Exception):
    """The machine starts anew."""


class Ended(Exception):
    """Enough was seen."""


class Shells:
    """What is done of a rescue."""

    def __init__(self):
        self.files = None
        self.stopped = 0

    def start(self, files):
        self.files = files

    def stop(self):
        self.stopped += 1


class Stage:
    """A node, its server, a mirror, and a capsule."""

    def __init__(self, world, tmp_path, node_server, mirrors, keys, make_client, authority):
        self.world, self.run, self.server, self.mirrors = (
            world, tmp_path / "run", node_server, mirrors,
        )  # fmt: skip
        self.run.mkdir()
        self.keys = keys
        self.capsule = world.TestCapsule(keys)
        mirrors[0].add(*self.capsule.blobs)
        self.site_directory = tmp_path / "site"
        self.site = world.write_site(
            self.site_directory, authority, [node_server.url], keys.trust()
        )
        self.make_client = make_client
        self.told = []
        self.clock = []
        self.loaded = None
        self.description = {}
        self.load_fails = None
        self.plans = []
        self.trust = None
        self.rescue = Shells()
        self.command_line = "console=ttyS0 quiet"
        self.pace = PACE

    def answer(self, checkin):
        """One plan after the other, the last one for ever; the key with the first answer."""
        plan = self.plans.pop(0) if len(self.plans) > 1 else self.plans[0]
        if callable(plan):
            plan = plan(checkin)
        key = None if checkin.node_key else self.world.NODE_KEY
        return Answer(plan, self.world.NOW, key, self.trust)

    def load(self, kernel, initrd, line):
        self.loaded = kernel.read_bytes(), initrd.read_bytes(), line
        kernel.unlink()
        initrd.unlink()
        if self.load_fails:
            raise VnfsbuildError(self.load_fails)

    def start(self):
        raise Jumped

    def reboot(self):
        raise Rebooted

    def tell(self, line):
        self.told.append(line)
        if self.ends_at and self.ends_at in line:
            raise Ended

    ends_at = ""

    def boot(self, *plans, ends_at=""):
        self.plans = list(plans)
        self.ends_at = ends_at
        self.server.answer = self.answer
        Bootstrap(
            Machine(
                (self.world.NODE_ID, "52:54:00:00:00:99"), "0" * 8 + "-0000" * 3 + "-" + "1" * 12
            ),
            self.site,
            self.make_client(self.site),
            description=self.description,
            run=self.run,
            tell=self.tell,
            set_clock=lambda seconds: self.clock.append(seconds),
            pace=self.pace,
            jump=Jump(self.load, self.start, self.reboot),
            rescue=self.rescue,
            drivers=Drivers(tell=self.tell, root=self.run, run=self.run, load=lambda: None),
            command_line=self.command_line,
        ).run()

    def plan(self, **changes):
        return self.capsule.plan(self.mirrors[0].base, **changes)


@pytest.fixture
def stage(world, tmp_path, node_server, mirrors, keys, make_client, authority):
    return Stage(world, tmp_path, node_server, mirrors, keys, make_client, authority)


def members(archive):
    """Return name → (mode, content) of a newc archive, read by the specification."""
    found, file = {}, io.BytesIO(archive)
    while True:
        header = file.read(110)
        assert header[:6] == b"070701"
        fields = [int(header[6 + 8 * n : 14 + 8 * n], 16) for n in range(13)]
        name = file.read(fields[11])[:-1].decode()
        file.seek(-file.tell() % 4, io.SEEK_CUR)
        if name == "TRAILER!!!":
            return found
        found[name] = fields[1], file.read(fields[6])
        file.seek(-file.tell() % 4, io.SEEK_CUR)


def test_a_node_waits_is_given_a_capsule_and_jumps(stage, world):
    overlay = b"tar" * 777
    stage.server.overlays[digest_of(overlay)] = overlay
    planned = PlannedOverlay(digest_of(overlay), len(overlay))
    with pytest.raises(Jumped):
        stage.boot(world.waiting(), stage.plan(overlay=planned))
    kernel, initrd, line = stage.loaded
    assert kernel == stage.capsule.kernel
    assert line == "console=ttyS0 quiet panic=60"
    start = len(stage.capsule.initrd)
    assert initrd[:start] == stage.capsule.initrd
    assert initrd[start:512] == b"\0" * (512 - start)
    files = members(initrd[512:])
    assert files["vnfs/layers/00-rootfs.squashfs"] == (0o100644, stage.capsule.layers[0])
    assert files["vnfs/layers/01-modules.squashfs"] == (0o100644, stage.capsule.layers[1])
    assert files["vnfs/overlay.tar"] == (0o100600, overlay)
    assert files["vnfs/site/trust.json"] == (0o100644, stage.site.trust)
    mode, text = files["vnfs/node.json"]
    assert mode == 0o100600
    node = json.loads(text)
    boot_id = stage.server.checkins[0].boot_id
    assert node == {
        "bootId": boot_id,
        "capsule": stage.capsule.digest,
        "checkinSeconds": 7,
        "hwaddrs": [world.NODE_ID, "52:54:00:00:00:99"],
        "name": "n00001",
        "nodeId": world.NODE_ID,
        "nodeKey": world.NODE_KEY,
        "overlay": digest_of(overlay),
        "uuid": "00000000-0000-0000-0000-111111111111",
    }
    states = list(dict.fromkeys(stage.server.states()))
    assert states == ["init", "fetching", "booting"]
    assert {checkin.boot_id for checkin in stage.server.checkins} == {boot_id}
    assert "n00001: waiting: no capsule is assigned" in stage.told
    assert set(stage.clock) == {world.NOW}


def test_the_key_is_sent_from_the_second_check_in_on(stage, world):
    with pytest.raises(Jumped):
        stage.boot(stage.plan())
    keys = [checkin.node_key for checkin in stage.server.checkins]
    assert keys[0] is None
    assert set(keys[1:]) == {world.NODE_KEY}


def test_a_waiting_node_holds_a_long_poll_on_its_plan(stage, world):
    seen = threading.Event()

    def held(checkin):
        if checkin.wait_seconds:
            assert checkin.wait_seconds == PACE.poll_seconds
            assert checkin.plan == plan_digest(world.waiting())
            seen.set()
            return stage.plan()
        return world.waiting()

    with pytest.raises(Jumped):
        stage.boot(held)
    assert seen.is_set()


def test_a_reason_is_told_once_until_it_changes(stage, world):
    plans = [world.waiting("one")] * 3 + [world.waiting("two")] * 2 + [stage.plan()]
    with pytest.raises(Jumped):
        stage.boot(*plans)
    assert [line for line in stage.told if "waiting" in line] == [
        "n00001: waiting: one",
        "n00001: waiting: two",
    ]


def swap(stage, old, new):
    stage.mirrors[0].blobs["/blobs/" + digest_of(old).replace(":", "/")] = new


@pytest.mark.parametrize(
    ("part", "told"),
    [
        ("manifest", "manifest: found digest"),
        ("config", "config: found digest"),
        ("envelope", "signature: found digest"),
        ("kernel", "kernel: found digest"),
        ("initrd", "initrd: found digest"),
        ("layers", r"layer 0 \(rootfs\): found digest"),
    ],
)
def test_a_flipped_bit_is_refused_in_words_and_tried_again(stage, part, told):
    good = getattr(stage.capsule, part)
    good = good[0] if part == "layers" else good
    bad = bytes([good[0] ^ 1]) + good[1:]
    swap(stage, good, bad)

    def mended(checkin):
        if checkin.state == "failed":
            swap(stage, good, good)
        return stage.plan()

    with pytest.raises(Jumped):
        stage.boot(mended)
    (failed,) = [checkin for checkin in stage.server.checkins if checkin.state == "failed"]
    name = f"debian-13-minimal@{stage.capsule.digest[7:19]}"
    assert failed.detail.startswith(f"refused {name}: ")
    assert re.search(told, failed.detail)
    assert failed.capsule == stage.capsule.digest
    assert any(line.startswith(failed.detail) for line in stage.told)


def refused(stage, told, *plans):
    """Let the node try until it says *told*; nothing was loaded."""
    with pytest.raises(Ended):
        stage.boot(*(plans or [stage.plan()]), ends_at=told)
    assert stage.loaded is None
    assert {path.name for path in stage.run.rglob("*") if path.is_file()} == {"boot.json", "log"}


def test_payloads_are_not_asked_for_before_the_verdict(stage, world, keys):
    stage.capsule = world.TestCapsule(dataclasses.replace(keys, signer=keys.root))
    stage.mirrors[0].add(*stage.capsule.blobs)
    refused(stage, "signed by 0 trusted keys and by untrusted")
    asked = {path.rpartition("/")[2] for path, _ in stage.mirrors[0].requests}
    payloads = (stage.capsule.kernel, stage.capsule.initrd, *stage.capsule.layers)
    assert not asked & {digest_of(data)[7:] for data in payloads}


def test_an_unsigned_capsule_is_refused(stage):
    planned = dataclasses.replace(stage.capsule.planned(), signatures=())
    refused(stage, "not signed", stage.plan(capsule=planned))


def test_a_plan_for_another_node_is_not_acted_on(stage):
    refused(
        stage,
        "the plan is for node 52:54:00:00:00:02, this node is another",
        stage.plan(node_id="52:54:00:00:00:02"),
    )
    assert not stage.mirrors[0].requests


@pytest.mark.parametrize("method", ["rescue", "local"])
def test_no_method_of_a_plan_for_another_node_is_acted_on(stage, method):
    stage.command_line += " vnfs.loader=asks"
    with pytest.raises(Ended):
        stage.boot(
            dataclasses.replace(stage.plan(), method=method, node_id="52:54:00:00:00:02"),
            ends_at="the plan is for node 52:54:00:00:00:02, this node is another",
        )
    assert stage.rescue.files is None


def test_a_file_that_cannot_be_made_is_told_to_the_server(stage, monkeypatch):
    def refuse(path, *_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(entry, "write_kernel", refuse)
    with pytest.raises(Ended):
        stage.boot(stage.plan(), ends_at="kernel: No space left on device; again in")


def test_who_this_boot_is_is_replaced_whole(tmp_path):
    save_identity(tmp_path, "1" * 32, None)
    with (tmp_path / "boot.json").open("rb") as before:
        save_identity(tmp_path, "1" * 32, "key")
        assert json.load(before)["nodeKey"] is None
    assert load_identity(tmp_path) == ("1" * 32, "key")
    assert (tmp_path / "boot.json").stat().st_mode & 0o777 == 0o600


def test_a_capsule_of_another_name_is_refused(stage):
    refused(stage, "the plan says 'other'", stage.plan(capsule=stage.capsule.planned(name="other")))


def test_a_bootstrap_is_no_capsule(stage, world, keys):
    stage.capsule = world.TestCapsule(keys, artifact_type=m.BOOTSTRAP, layers=())
    stage.mirrors[0].add(*stage.capsule.blobs)
    refused(stage, "expected a capsule")


def test_a_capsule_that_needs_a_newer_bootstrap_is_refused(stage, world, keys):
    stage.capsule = world.TestCapsule(keys, bootstrap_protocol=2)
    stage.mirrors[0].add(*stage.capsule.blobs)
    refused(stage, "needs a bootstrap of protocol 2, this one speaks 1")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"expires": 1}, "has expired"),
        ({"least_serial": 4}, "found serial 3, expected at least 4"),
        ({"roots": ()}, "trust.json of site.cpio"),
    ],
)
def test_the_sites_trust_decides(stage, world, authority, keys, change, told):
    trust = keys.trust(**{**change, "roots": [keys.signer] if "roots" in change else None})
    stage.site = world.write_site(stage.site_directory, authority, [stage.server.url], trust)
    refused(stage, told)


def test_a_newer_trust_of_an_answer_counts_and_goes_into_the_capsule(stage, world, keys):
    newer = keys.trust(version=2)
    stage.trust = world.b64(newer)
    with pytest.raises(Jumped):
        stage.boot(stage.plan())
    assert members(stage.loaded[1][512:])["vnfs/site/trust.json"][1] == newer


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"version": 2, "least_serial": 4}, "found serial 3, expected at least 4"),
        ({"version": 0}, "found version 0, expected at least 1"),
    ],
)
def test_a_trust_of_an_answer_may_forbid_and_never_be_older(stage, world, keys, change, told):
    stage.trust = world.b64(keys.trust(**change))
    refused(stage, told)


def test_a_trust_of_an_answer_must_be_signed_by_the_root_of_the_site(stage, world, keys):
    other = world.Keys(signer=keys.signer)
    stage.trust = world.b64(other.trust(version=2))
    refused(stage, "trust.json of the answer: signed by 0 root keys of version 1")


def test_the_version_that_is_held_is_told(stage, world, keys):
    stage.trust = world.b64(keys.trust(version=7))
    with pytest.raises(Jumped):
        stage.boot(stage.plan())
    told = [checkin.trust_version for checkin in stage.server.checkins]
    assert told == [1, *[7] * (len(told) - 1)]
    assert "trust.json: version 7, from the server" in stage.told


def test_an_expired_trust_that_was_renewed_boots(stage, world, authority, keys):
    old = keys.trust(expires=1)
    stage.site = world.write_site(stage.site_directory, authority, [stage.server.url], old)
    stage.trust = world.b64(keys.trust(version=2))
    with pytest.raises(Jumped):
        stage.boot(stage.plan())


@pytest.mark.parametrize("method", ["kexec", "pivot"])
def test_a_key_that_is_revoked_while_it_boots_stops_it_before_the_jump(stage, world, keys, method):
    stage.description = {"kernelDigest": digest_of(stage.capsule.kernel)}

    def plan(checkin):
        if checkin.state == "booting":
            stage.trust = world.b64(keys.trust(version=2, signer=keys.other))
        return stage.plan(method=method)

    refused(stage, "signed by 0 trusted keys and by untrusted", plan)
    assert "booting" in stage.server.states()


def test_the_capsule_is_given_its_papers(stage, world):
    with pytest.raises(Jumped):
        stage.boot(stage.plan())
    mode, text = members(stage.loaded[1][512:])["vnfs/site/capsule.json"]
    papers = json.loads(text)
    assert mode == 0o100644
    assert papers["manifest"] == world.b64(stage.capsule.manifest)
    assert papers["envelopes"] == [world.b64(stage.capsule.envelope)]


def test_an_overlay_with_other_bytes_is_refused(stage):
    planned = PlannedOverlay(digest_of(b"right"), 5)
    stage.server.overlays[planned.digest] = b"wrong"
    refused(stage, "overlay: found digest", stage.plan(overlay=planned))


def test_a_kernel_that_cannot_be_loaded_is_told_and_tried_again(stage):
    stage.load_fails = "kexec: Key was rejected by service"

    def plan(checkin):
        if checkin.state == "failed":
            stage.load_fails = None
        return stage.plan()

    with pytest.raises(Jumped):
        stage.boot(plan)
    failed = [checkin.detail for checkin in stage.server.checkins if checkin.state == "failed"]
    assert len(failed) == 1
    assert failed[0].endswith("kexec: Key was rejected by service")


def test_a_new_plan_ends_the_pause_after_a_failure(stage, world):
    def plan(checkin):
        if checkin.state == "failed":
            return world.waiting("taken back")
        return stage.plan(capsule=dataclasses.replace(stage.capsule.planned(), signatures=()))

    with pytest.raises(Ended):
        stage.boot(plan, ends_at="waiting: taken back")


def test_a_server_that_is_not_there_is_told_and_asked_again(stage, world):
    left = [2]

    def plan(checkin):
        left[0] -= 1
        if left[0] >= 0:
            raise ConnectionError
        return stage.plan()

    with pytest.raises(Jumped):
        stage.boot(plan)
    assert len([line for line in stage.told if line.startswith("no server answers")]) == 2


def test_a_server_that_is_gone_meanwhile_does_not_stop_a_boot(stage):
    def plan(checkin):
        if checkin.state != "init":
            raise ConnectionError
        return stage.plan()

    with pytest.raises(Jumped):
        stage.boot(plan)
    assert any("fetching: could not be told to the server" in line for line in stage.told)


def test_an_overlay_that_changed_meanwhile_is_no_failure(stage):
    """Each node that appears may change those of all others: a cold start must not fail by that."""
    overlay = b"of two nodes"
    stage.server.overlays[digest_of(overlay)] = overlay
    old = PlannedOverlay(digest_of(b"of one node"), 11)
    new = PlannedOverlay(digest_of(overlay), len(overlay))
    with pytest.raises(Jumped):
        stage.boot(stage.plan(overlay=old), stage.plan(overlay=new))
    assert members(stage.loaded[1][512:])["vnfs/overlay.tar"] == (0o100600, overlay)
    said = [checkin.state for checkin in stage.server.checkins]
    assert said[:3] == ["init", "init", "fetching"]
    assert "failed" not in said


def test_the_overlay_is_fetched_before_the_payloads(stage):
    overlay = b"tar"
    stage.server.overlays[digest_of(overlay)] = overlay

    def later(checkin):
        # By now another node has appeared.
        if checkin.state == "fetching":
            stage.server.overlays.clear()
        return stage.plan(overlay=PlannedOverlay(digest_of(overlay), 3))

    with pytest.raises(Jumped):
        stage.boot(later)
    assert "failed" not in [checkin.state for checkin in stage.server.checkins]


def test_a_pivot_takes_layers_only_and_leaves_the_jump_to_process_1(stage):
    stage.description = {"kernelDigest": digest_of(stage.capsule.kernel)}
    overlay = b"tar"
    stage.server.overlays[digest_of(overlay)] = overlay
    stage.boot(stage.plan(method="pivot", overlay=PlannedOverlay(digest_of(overlay), 3)))
    directory = stage.run / "pivot"
    assert (stage.run / "pivot.ready").read_text() == f"{directory}\n"
    found = {
        str(path.relative_to(directory)): path for path in directory.rglob("*") if path.is_file()
    }
    assert found["layers/00-rootfs.squashfs"].read_bytes() == stage.capsule.layers[0]
    assert sorted(found) == [
        "layers/00-rootfs.squashfs", "layers/01-modules.squashfs", "node.json", "overlay.tar",
        "site/ca.pem", "site/capsule.json", "site/site.json", "site/trust.json", "words",
    ]  # fmt: skip
    assert found["words"].read_text() == "console=ttyS0 quiet panic=60\n"
    assert found["node.json"].stat().st_mode & 0o777 == 0o600
    assert found["site/ca.pem"].stat().st_mode & 0o777 == 0o644
    asked = {path.rpartition("/")[2] for path, _ in stage.mirrors[0].requests}
    assert digest_of(stage.capsule.kernel)[7:] not in asked


def test_a_pivot_into_another_kernel_is_refused(stage):
    stage.description = {"kernelDigest": digest_of(b"another")}
    refused(stage, "method pivot: the bootstrap runs the kernel", stage.plan(method="pivot"))


def test_what_a_failed_try_left_is_gone(stage):
    stage.description = {"kernelDigest": digest_of(stage.capsule.kernel)}
    left = stage.run / "pivot/layers"
    left.mkdir(parents=True)
    (left / "99-old.squashfs").write_bytes(b"old")
    stage.boot(stage.plan(method="pivot"))
    assert not (left / "99-old.squashfs").exists()


def test_a_mirror_with_wrong_bytes_is_named_to_the_server_and_the_capsule_is_right(stage):
    wrong, right = stage.mirrors
    right.add(*stage.capsule.blobs)
    layer = stage.capsule.layers[0]
    wrong.blobs["/blobs/" + digest_of(layer).replace(":", "/")] = layer[:-1] + b"!"
    with pytest.raises(Jumped):
        stage.boot(stage.capsule.plan(wrong.base, right.base, near=1))
    _, initrd, _ = stage.loaded
    assert layer in initrd
    reports = [checkin.report.get("wrongMirrors") for checkin in stage.server.checkins]
    assert reports[-1] == [f"{wrong.base}: wrong bytes: layer 0 (rootfs)"]
    assert f"{wrong.base}: gave wrong bytes: not asked again in this boot" in stage.told


ASKS = "console=ttyS0 quiet vnfs.loader=asks"


def test_a_node_goes_to_its_own_disk_by_the_firmware(stage):
    stage.command_line = ASKS
    with pytest.raises(Rebooted):
        stage.boot(stage.plan(method="local", capsule=None))
    last = stage.server.checkins[-1]
    assert (last.state, last.detail) == ("halted", "boots from its own disk: its plan says so")
    assert stage.told[-2:] == ["n00001: boots from its own disk: its plan says so", "reboot"]


def test_a_loader_that_does_not_ask_would_bring_it_here_again(stage):
    refused(
        stage, "failed method local: local disk: what started this bootstrap does not ask",
        stage.plan(method="local", capsule=None),
    )  # fmt: skip
    assert "halted" not in stage.server.states()


@pytest.mark.parametrize(("line", "then"), [("", "reboot"), (ASKS, "local")])
def test_after_so_many_failures_the_node_does_what_its_site_wants(stage, line, then):
    stage.command_line = line
    stage.load_fails = "kexec: no"
    with pytest.raises(Rebooted):
        stage.boot(stage.plan(on_failure=OnFailure(3, then)))
    details = [item.detail for item in stage.server.checkins if item.state == "failed"]
    assert len(details) == 3
    assert details[-1].endswith(f"kexec: no; 3 failures in a row, on_failure = {then}")
    assert (stage.server.states()[-1] == "halted") == (then == "local")


def test_a_disk_that_cannot_be_had_is_told_and_the_node_goes_on_trying(stage):
    stage.load_fails = "kexec: no"
    left = [4]

    def plan(checkin):
        left[0] -= checkin.state == "failed"
        if left[0] == 0:
            stage.load_fails = None
        return stage.plan(on_failure=OnFailure(2, "local"))

    with pytest.raises(Jumped):
        stage.boot(plan)
    assert any("does not ask the server what to start" in line for line in stage.told)


def test_rescue_opens_shells_with_the_keys_of_the_overlay_and_ends_with_the_plan(stage, world):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        member = tarfile.TarInfo("root/.ssh/authorized_keys")
        member.size = 5
        archive.addfile(member, io.BytesIO(b"a key"))
    overlay = file.getvalue()
    stage.server.overlays[digest_of(overlay)] = overlay
    planned = PlannedOverlay(digest_of(overlay), len(overlay))
    rescue = stage.plan(method="rescue", capsule=None, overlay=planned)
    with pytest.raises(Ended):
        stage.boot(rescue, rescue, world.waiting("over"), ends_at="waiting: over")
    assert stage.rescue.files.authorized_keys == b"a key"
    assert stage.rescue.stopped == 1
    said = [checkin.detail for checkin in stage.server.checkins]
    assert "rescue: a shell is on its consoles; ssh root@127.0.0.1" in said


def test_auto_is_a_pivot_into_the_same_kernel_with_the_same_arguments(stage):
    stage.description = {"kernelDigest": digest_of(stage.capsule.kernel)}
    stage.boot(stage.plan(method="auto"))
    assert (stage.run / "pivot.ready").exists()
    assert any("pivot: the kernel that runs is the capsule's" in line for line in stage.told)


@pytest.mark.parametrize(
    ("kernel", "arguments", "told"),
    [
        (b"another", (), "kexec: the capsule has another kernel than the one that runs"),
        (None, ("isolcpus=1", "panic=5"), "but lacks isolcpus=1"),
    ],
)
def test_auto_is_a_kexec_else(stage, kernel, arguments, told):
    stage.description = {"kernelDigest": digest_of(kernel or stage.capsule.kernel)}
    with pytest.raises(Jumped):
        stage.boot(stage.plan(method="auto", kernel_arguments=arguments))
    assert any(told in line for line in stage.told)


def test_no_server_for_a_while_is_a_reason_to_look_for_another_network(stage):
    def plan(checkin):
        raise ConnectionError

    stage.pace = dataclasses.replace(PACE, unheard_seconds=0.2)
    with pytest.raises(Unheard, match="no server answers for") as caught:
        stage.boot(plan)
    assert caught.value.exit_status == 5


def test_an_agent_that_is_killed_goes_on_as_the_same_boot(stage, world):
    for _ in range(2):
        with pytest.raises(Ended):
            stage.boot(world.waiting(), world.waiting("again"), ends_at="waiting: again")
    first, *others = stage.server.checkins
    assert {item.boot_id for item in others} == {first.boot_id}
    assert others[-1].node_key == world.NODE_KEY
    assert (stage.run / "boot.json").stat().st_mode & 0o777 == 0o600


def test_a_trace_is_kept_always_and_told_and_reported_when_it_is_asked_for(stage, world):
    quiet, loud = world.waiting(), dataclasses.replace(world.waiting("again"), debug=True)
    with pytest.raises(Ended):
        stage.boot(quiet, loud, loud, dataclasses.replace(loud, reason="end"), ends_at=": end")
    kept = (stage.run / "log").read_text()
    assert f"debug: plan {plan_digest(quiet)[7:19]}: " in kept
    assert not any(f"plan {plan_digest(quiet)[7:19]}" in line for line in stage.told)
    assert any(f"debug: plan {plan_digest(loud)[7:19]}" in line for line in stage.told)
    traces = [checkin.report["trace"] for checkin in stage.server.checkins]
    assert traces[:2] == ["", ""]
    assert "debug: init was heard after" in traces[-1]
    assert len(traces[-1]) <= 2000


def test_what_kept_a_node_from_the_network_is_told_to_the_server(stage, world):
    (stage.run / "log").write_text(
        "3.1 bootstrap, kernel 6\n9.9 no network yet, try 1: eth0: no link; again in 3 s\n"
    )
    with pytest.raises(Ended):
        stage.boot(world.waiting(), ends_at="waiting")
    assert stage.server.checkins[0].detail == (
        "it took 2 tries: no network yet, try 1: eth0: no link; again in 3 s"
    )


def test_the_log_goes_with_the_node(stage):
    with pytest.raises(Jumped):
        stage.boot(stage.plan())
    mode, text = members(stage.loaded[1][512:])["vnfs/bootstrap.log"]
    assert mode == 0o100600
    assert b"fetching debian-13-minimal@" in text
