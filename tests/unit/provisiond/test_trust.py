"""A newer trust.json: taken over by the daemon, brought to nodes, and what it does to capsules."""

import asyncio
import base64
import os
import time
from dataclasses import replace

import pytest

from provisiond.catalogue import Catalogue
from provisiond.protocol import parse_checkin, plan_digest, render_checkin
from provisiond.refusals import NotThere
from vnfsbuild.digest import parse_json
from vnfsbuild.dsse import parse_envelope
from vnfsbuild.errors import VerificationError
from vnfsbuild.reference import parse_reference
from vnfsbuild.signing.keys import load_trust, new_key
from vnfsbuild.signing.trustfile import change_trust, find_keys
from vnfsbuild.signing.trustrules import RuleChange, good_for, with_rule
from vnfsbuild.trust import parse_trust

STORY = "debian-13-minimal"


def allow(builder, name, **words):
    """Let *name* alone sign from now on."""
    if not (builder.site / f"keys/{name}.pub").exists():
        new_key(builder.site, name, now=int(time.time()))
    public = find_keys(builder.site, (name,), None)
    change = RuleChange(glob="*", keys=tuple(public), **words)
    change_trust(builder.site, lambda trust: with_rule(trust, change, public), now=int(time.time()))


def version_of(text):
    payload = parse_envelope(base64.b64decode(text), where="x").payload
    return parse_trust(payload, where="x").version


async def ready(world, number=1):
    """Return a machine with a capsule, about to boot it."""
    await world.import_capsule()
    machine = world.machine(number)
    await machine.says()
    await world.administration.nodes.set_attribute("vnfs", STORY, ["n00001"])
    return machine


def test_a_node_is_brought_what_is_newer_than_what_it_holds(in_world, builder):
    async def story(world):
        machine = world.machine(1)
        for held, brought in ((None, None), (1, None), (2, None), (0, 1)):
            answer = await machine.says(trust_version=held)
            assert (version_of(answer.trust) if answer.trust else None) == brought
        allow(builder, "ops")
        assert world.parts.catalogue.take_newer_trust()
        for held, brought in ((None, None), (1, 2), (2, None), (3, None)):
            answer = await machine.says(trust_version=held)
            assert (version_of(answer.trust) if answer.trust else None) == brought

    in_world(story)


def test_an_agent_that_does_not_tell_is_brought_it_with_the_plan_to_boot(in_world):
    async def story(world):
        machine = await ready(world)
        answer = await machine.says()
        assert answer.plan.action == "boot"
        assert version_of(answer.trust) == 1

    in_world(story)


def test_a_node_that_waits_hears_of_it_at_once(in_world, builder):
    async def story(world):
        machine = world.machine(1)
        first = await machine.says(trust_version=1)
        waiting = asyncio.create_task(
            machine.says(wait_seconds=60, plan=plan_digest(first.plan), trust_version=1)
        )
        await asyncio.sleep(0.05)
        assert not waiting.done()
        allow(builder, "ops")
        assert world.parts.catalogue.take_newer_trust()
        world.parts.registry.wake_all()
        answer = await asyncio.wait_for(waiting, 5)
        assert version_of(answer.trust) == 2
        assert answer.plan == first.plan

    in_world(story)


def test_a_node_that_refuses_it_does_not_make_the_server_spin(in_world, builder):
    async def story(world):
        world.service._clock = time.time
        machine = world.machine(1)
        first = await machine.says(trust_version=0)
        start = time.monotonic()
        answer = await machine.says(wait_seconds=1, plan=plan_digest(first.plan), trust_version=0)
        assert time.monotonic() - start > 0.9
        assert answer.trust

    in_world(story)


def test_a_capsule_that_lost_its_verdict_is_not_handed_out(in_world, builder):
    async def story(world):
        machine = await ready(world)
        assert (await machine.says()).plan.action == "boot"
        allow(builder, "ops")
        world.parts.catalogue.take_newer_trust()
        answer = await machine.says(trust_version=1)
        assert answer.plan.action == "wait"
        assert "signed by 0 trusted keys and by untrusted" in answer.plan.reason
        assert version_of(answer.trust) == 2
        with pytest.raises(VerificationError, match="signed by 0 trusted keys"):
            world.parts.catalogue.find_capsule(parse_reference(STORY))
        # One that runs is left alone.
        assert (await machine.says("ready")).plan.action == "none"
        allow(builder, "dev")
        world.parts.catalogue.take_newer_trust()
        assert (await machine.says("init")).plan.action == "boot"

    in_world(story)


def test_a_trust_that_has_expired_hands_out_nothing(in_world, builder, monkeypatch):
    async def story(world):
        machine = await ready(world)
        world.builder.trust.touch()
        change_trust(
            builder.site,
            lambda trust: good_for(replace(trust, version=2), 1, now=int(time.time())),
            now=int(time.time()),
        )  # fmt: skip
        world.parts.catalogue.take_newer_trust()
        assert (await machine.says()).plan.action == "boot"
        later = time.time() + 2 * 24 * 3600
        monkeypatch.setattr("provisiond.catalogue.time.time", lambda: later)
        answer = await machine.says()
        assert answer.plan.action == "wait"
        assert "trust.json version 2 has expired" in answer.plan.reason

    in_world(story)


def test_only_what_follows_on_the_one_held_is_taken_over(in_world, builder, tmp_path):
    async def story(world):
        catalogue = world.parts.catalogue
        old = builder.trust.read_bytes()
        allow(builder, "ops")
        assert catalogue.take_newer_trust()
        assert not catalogue.take_newer_trust()
        stranger = tmp_path / "stranger"
        new_key(stranger, "dev", now=int(time.time()))
        for bad in (old, (stranger / "trust.json").read_bytes(), b"rubbish"):
            builder.trust.write_bytes(bad)
            assert not catalogue.take_newer_trust()
            assert catalogue.trust_version == 2
            assert version_of(catalogue.trust_text) == 2
        # Another daemon, another day: what was held is still held.
        again = Catalogue(world.state.store, trust=world.state.trust, trust_source=builder.trust)
        again.refresh()
        assert again.trust_version == 2

    in_world(story)


def test_what_a_node_says_of_its_own_verdict_is_shown(in_world, builder):
    async def story(world):
        machine = await ready(world)
        told = "debian-13-minimal@000000000000: signed by 0 trusted keys, expected 1"
        await machine.says("ready", trust_version=2, report={"untrusted": told, "trustRefused": ""})
        (shown,) = world.administration.nodes.list_nodes()
        assert shown["conditions"] == ["untrusted"]
        assert shown["reason"] == told
        assert shown["report"] == {"untrusted": told, "trustVersion": 2}
        await machine.says("ready", trust_version=3, report={"untrusted": ""})
        (shown,) = world.administration.nodes.list_nodes()
        assert (shown["conditions"], shown["reason"]) == ([], "")
        assert shown["report"] == {"trustVersion": 3}

    in_world(story)


def test_the_version_goes_over_the_wire(in_world):
    async def story(world):
        machine = world.machine(1)
        for version in (None, 0, 7):
            checkin = parse_checkin({
                "protocol": 1, "hwaddrs": [machine.hwaddr], "bootId": machine.boot_id,
                "state": "init", **({} if version is None else {"trustVersion": version}),
            })  # fmt: skip
            assert checkin.trust_version == version
            text = render_checkin(checkin)
            assert parse_checkin(parse_json(text, where="x")) == checkin
            assert (b"trustVersion" in text) == (version is not None)

    in_world(story)


def test_the_reason_of_a_capsule_without_trust_is_told(in_world):
    async def story(world):
        world.parts.catalogue._capsules = ()
        catalogue = Catalogue(world.state.store, trust=world.state.path / "no", trust_source=None)
        await world.import_capsule()
        catalogue.refresh()
        assert (catalogue.trust_version, catalogue.trust_text) == (None, None)
        with pytest.raises(VerificationError, match=r"no trust\.json says that it may run"):
            catalogue.find_capsule(parse_reference(STORY))

    in_world(story)


def test_a_source_that_is_gone_and_comes_back_is_seen(in_world, builder):
    async def story(world):
        catalogue = world.parts.catalogue
        text = builder.trust.read_bytes()
        builder.trust.unlink()
        assert not catalogue.take_newer_trust()
        assert catalogue.trust_version == 1
        builder.trust.write_bytes(text)
        os.utime(builder.trust)
        allow(builder, "ops")
        assert catalogue.take_newer_trust()
        assert load_trust(builder.site, now=0).version == catalogue.trust_version == 2

    in_world(story)


BOOTSTRAP = "application/vnd.vnfs.bootstrap.v1"


def test_a_bootstrap_that_may_not_run_is_handed_to_nobody_and_told(in_world, builder, monkeypatch):
    async def story(world):
        await world.import_capsule("bootstrap", kind=BOOTSTRAP)
        machine = world.machine(1)
        await machine.says()
        assert (await world.service.firmware.find_bootstrap(machine.hwaddr)).kernel.exists()
        later = time.time() + 20 * 365 * 24 * 3600
        monkeypatch.setattr("provisiond.catalogue.time.time", lambda: later)
        with pytest.raises(NotThere, match=r"trust\.json version 1 has expired"):
            await world.service.firmware.find_bootstrap(machine.hwaddr)
        monkeypatch.undo()
        allow(builder, "ops")
        world.parts.catalogue.take_newer_trust()
        with pytest.raises(NotThere, match="signed by 0 trusted keys"):
            await world.service.firmware.find_bootstrap(machine.hwaddr)
        (_, told) = world.events("boot.refused")
        assert told.startswith("52:54:00:00:00:01: bootstrap@")
        assert told.endswith("; vnfsbuild trust show, vnfsbuild sign")

    in_world(story)


def test_a_bootstrap_that_was_damaged_is_told_until_it_is_brought_anew(in_world):
    async def story(world):
        await world.import_capsule("bootstrap", kind=BOOTSTRAP)
        machine = await ready(world)
        await machine.says("ready")
        initrd = (await world.service.firmware.find_bootstrap(machine.hwaddr)).initrd
        initrd.write_bytes(initrd.read_bytes()[::-1])
        with pytest.raises(NotThere, match="its initrd in the store is not what was signed"):
            await world.service.firmware.find_bootstrap(machine.hwaddr)
        (shown,) = world.administration.nodes.list_nodes()
        assert shown["reason"].startswith("cannot boot again: bootstrap:1@")
        await world.import_capsule("bootstrap", kind=BOOTSTRAP)
        assert (await world.service.firmware.find_bootstrap(machine.hwaddr)).initrd == initrd
        (shown,) = world.administration.nodes.list_nodes()
        assert shown["reason"] == ""

    in_world(story)


def test_a_source_that_cannot_be_read_is_logged_and_what_was_held_counts(in_world, builder, caplog):
    async def story(world):
        builder.trust.write_bytes(b"x" * 5 * 1024 * 1024)
        assert not world.parts.catalogue.take_newer_trust()
        assert world.parts.catalogue.trust_version == 1

    in_world(story)
    assert "version 1 goes on counting" in caplog.text
