"""Check-ins against a real database and a real store."""

import asyncio
import io
import tarfile
import time
from dataclasses import replace

import pytest

from provisiond.nodes.states import hash_key
from provisiond.protocol import plan_digest
from provisiond.refusals import NotThere, Refused, TooMany

STORY = "debian-13-minimal"


async def settle():
    """Let tasks come to where they wait, and threads end."""
    await asyncio.sleep(0.05)


def test_the_story_of_the_article(in_world):
    async def story(world):
        digest = await world.import_capsule()
        machine = world.machine(1)
        first = await machine.says()
        assert first.plan.name == "n00001"
        assert first.plan.action == "wait"
        assert first.plan.reason == (
            "no VNFS capsule is assigned to n00001, and it is not approved; "
            "provisionctl node set vnfs NAME n00001"
        )
        assert first.node_key is None

        waiting = asyncio.create_task(machine.says(wait_seconds=60, plan=plan_digest(first.plan)))
        await settle()
        assert not waiting.done()
        answer = await world.administration.nodes.set_attribute("vnfs", STORY, ["n0000[1-9]"])
        assert answer["nodes"] == ["n00001"]
        assert len(answer["missing"]) == 8

        second = await asyncio.wait_for(waiting, 5)
        assert second.plan.action == "boot"
        assert second.plan.capsule.digest == digest
        assert len(second.plan.capsule.signatures) == 1
        assert second.plan.kernel_arguments == ("panic=60",)
        assert second.plan.blobs == ("http://10.87.0.1:8988/blobs",)
        assert second.node_key

        for state in ("fetching", "booting"):
            world.now += 10
            await machine.says(state, capsule=digest)
        world.now += 20
        last = await machine.says("ready", capsule=digest, report={"memoryUsedKib": 80000})
        assert last.plan.action == "none"
        (shown,) = world.administration.nodes.list_nodes()
        assert shown["state"] == "ready"
        assert shown["capsule"] == digest
        assert shown["conditions"] == []
        assert shown["reason"] == ""
        assert shown["report"] == {"memoryUsedKib": 80000}
        start = world.now - 40
        assert shown["phases"] == {
            "init": start, "fetching": start + 10, "booting": start + 20, "ready": start + 40,
        }  # fmt: skip
        assert world.events("node.new") == ["52:54:00:00:00:01 at 10.87.0.100"]

    in_world(story)


def test_a_node_of_an_open_site_is_approved_and_waits_for_a_capsule(in_world):
    async def story(world):
        answer = await world.machine(1).says()
        assert answer.plan.reason == (
            "no VNFS capsule is assigned to n00001; provisionctl node set vnfs NAME n00001"
        )
        assert answer.node_key

    in_world(story, registration="open")


def test_a_closed_site_takes_only_nodes_that_were_added(in_world):
    async def story(world):
        machine = world.machine(1)
        first = await machine.says()
        assert first.plan.action == "wait"
        assert "provisionctl node add 52:54:00:00:00:01" in first.plan.reason
        assert world.administration.nodes.list_nodes() == []
        waiting = asyncio.create_task(machine.says(wait_seconds=60, plan=plan_digest(first.plan)))
        await settle()
        await world.administration.nodes.add_node(machine.hwaddr, name="login", attributes={})
        answer = await asyncio.wait_for(waiting, 5)
        assert answer.plan.name == "login"
        assert answer.node_key

    in_world(story, registration="closed")


def test_a_long_poll_ends_with_the_same_plan_when_nothing_changes(in_world):
    async def story(world):
        world.service._clock = time.time
        machine = world.machine(1)
        first = await machine.says()
        start = time.monotonic()
        second = await machine.says(wait_seconds=1, plan=plan_digest(first.plan))
        assert 0.9 < time.monotonic() - start < 3
        assert second.plan == first.plan

    in_world(story)


def test_the_answer_is_not_held_when_the_node_holds_another_plan(in_world):
    async def story(world):
        machine = world.machine(1)
        await machine.says()
        await asyncio.wait_for(machine.says(wait_seconds=60, plan="sha256:" + "0" * 64), 5)

    in_world(story)


def test_importing_and_promoting_wakes_the_nodes_that_follow_a_name(in_world):
    async def story(world):
        first = await world.import_capsule(serial=1)
        machine = world.machine(1)
        await machine.says()
        await world.administration.nodes.set_attribute("vnfs", STORY, ["n00001"])
        answer = await machine.says()
        assert answer.plan.capsule.digest == first
        waiting = asyncio.create_task(
            machine.says("failed", wait_seconds=60, plan=plan_digest(answer.plan))
        )
        await settle()
        await world.import_capsule(serial=2, promote=False)
        await settle()
        assert not waiting.done()
        third = await world.import_capsule(serial=3)
        assert (await asyncio.wait_for(waiting, 5)).plan.capsule.digest == third

    in_world(story)


def test_a_disabled_node_waits_and_goes_on_when_enabled(in_world):
    async def story(world):
        await world.import_capsule()
        machine = world.machine(1)
        await machine.says()
        await world.administration.nodes.set_attribute("vnfs", STORY, ["n00001"])
        await world.administration.nodes.set_attribute("enabled", "false", ["n00001"])
        answer = await machine.says()
        assert answer.plan.reason == (
            "n00001 is disabled; provisionctl node set enabled true n00001"
        )
        (shown,) = world.administration.nodes.list_nodes()
        assert shown["conditions"] == ["disabled", "waiting"]
        waiting = asyncio.create_task(machine.says(wait_seconds=9, plan=plan_digest(answer.plan)))
        await settle()
        await world.administration.nodes.set_attribute("enabled", "true", ["n00001"])
        assert (await asyncio.wait_for(waiting, 5)).plan.action == "boot"

    in_world(story)


def test_new_nodes_come_only_so_fast(in_world):
    async def story(world):
        for number in (1, 2):
            await world.machine(number).says()
        with pytest.raises(TooMany):
            await world.machine(3).says()
        await world.machine(1).says()
        world.now += 1
        assert (await world.machine(3).says()).plan.name == "n00003"

    in_world(story, new_nodes_per_second=2)


def test_not_more_nodes_than_the_total(in_world):
    async def story(world):
        await world.machine(1).says()
        answer = await world.machine(2).says()
        assert answer.plan.action == "wait"
        assert "total_nodes" in answer.plan.reason
        assert len(world.administration.nodes.list_nodes()) == 1

    in_world(story, total_nodes=1)


def test_simultaneous_first_checkins_of_one_machine_make_one_node(in_world):
    async def story(world):
        machine = world.machine(1)
        await asyncio.gather(*(machine.says() for _ in range(20)))
        assert [node["name"] for node in world.administration.nodes.list_nodes()] == ["n00001"]

    in_world(story)


async def approved(world, number=1):
    machine = world.machine(number)
    await machine.says()
    name = machine.plan.name
    await world.administration.nodes.approve([name])
    await machine.says()
    assert machine.node_key
    await machine.says()
    return machine


def test_a_key_is_stored_only_hashed(in_world):
    async def story(world):
        machine = await approved(world)
        assert world.parts.registry.sessions[machine.hwaddr].key_hash == hash_key(machine.node_key)
        await world.parts.registry.flush()
        assert machine.node_key.encode() not in world.state.database.read_bytes()

    in_world(story)


def test_an_approved_node_needs_its_key_later(in_world):
    async def story(world):
        machine = await approved(world)
        with pytest.raises(Refused, match="node key"):
            await machine.says("ready", node_key=None)
        with pytest.raises(Refused, match="node key"):
            await machine.says("ready", node_key="0" * 64)
        assert (await machine.says("ready")).plan.name == "n00001"

    in_world(story)


def test_a_key_whose_answer_was_lost_is_given_anew(in_world):
    async def story(world):
        machine = world.machine(1)
        await machine.says()
        await world.administration.nodes.approve(["n00001"])
        lost = (await machine.says(node_key=None)).node_key
        again = (await machine.says(node_key=None)).node_key
        assert lost
        assert again
        assert lost != again
        with pytest.raises(Refused):
            await machine.says(node_key=lost)
        await machine.says(node_key=again)

    in_world(story)


def test_a_request_that_was_given_up_does_not_take_the_key_of_the_next(in_world):
    """Approval wakes both; only the later request of the boot may be given a key."""

    async def story(world):
        machine = world.machine(1)
        digest = plan_digest((await machine.says()).plan)
        given_up = asyncio.create_task(machine.says(wait_seconds=60, plan=digest))
        await settle()
        current = asyncio.create_task(machine.says(wait_seconds=60, plan=digest))
        await settle()
        await world.administration.nodes.approve(["n00001"])
        good = await current
        assert good.node_key
        with pytest.raises(TooMany, match="another request of this boot came later"):
            await given_up
        machine.node_key = good.node_key
        await machine.says("fetching")

    in_world(story)


def test_another_boot_waits_while_one_is_alive_and_then_goes_on(in_world):
    async def story(world):
        machine = await approved(world)
        await machine.says("ready")
        other = world.machine(1, boot=2)
        answer = await other.says()
        assert answer.plan.action == "wait"
        assert answer.plan.reason.startswith("conflict: another boot of n00001 is alive")
        assert answer.node_key is None
        (shown,) = world.administration.nodes.list_nodes()
        assert "conflict" in shown["conditions"]
        assert shown["state"] == "ready"
        await machine.says("ready")
        world.now += 181
        answer = await other.says()
        assert answer.node_key
        (shown,) = world.administration.nodes.list_nodes()
        assert "conflict" not in shown["conditions"]
        with pytest.raises(Refused):
            await machine.says("ready")

    in_world(story)


def test_a_halted_boot_makes_room_at_once(in_world):
    async def story(world):
        machine = await approved(world)
        other = world.machine(1, boot=2)
        answer = await other.says()
        waiting = asyncio.create_task(other.says(wait_seconds=60, plan=plan_digest(answer.plan)))
        await settle()
        assert not waiting.done()
        await machine.says("halted")
        assert (await asyncio.wait_for(waiting, 5)).node_key

    in_world(story)


def test_a_conflict_ends_by_itself_during_a_long_poll(in_world):
    async def story(world):
        world.service._clock = time.time
        world.now = time.time()
        machine = await approved(world)
        other = world.machine(1, boot=2)
        answer = await other.says()
        assert answer.plan.reason.startswith("conflict")
        # Nobody changes anything; the session simply falls silent.
        session = world.parts.registry.sessions[machine.hwaddr]
        world.parts.registry.touch_session(
            machine.hwaddr, replace(session, last_contact=time.time() - 179)
        )
        waiting = other.says(wait_seconds=60, plan=plan_digest(answer.plan))
        assert (await asyncio.wait_for(waiting, 5)).node_key

    in_world(story)


def test_a_foreign_or_old_key_starts_no_boot(in_world):
    async def story(world):
        first, second = await approved(world, 1), await approved(world, 2)
        world.now += 1000
        stolen = world.machine(1, boot=7)
        with pytest.raises(Refused):
            await stolen.says(node_key=second.node_key)
        with pytest.raises(Refused):
            await stolen.says(node_key=first.node_key)

    in_world(story)


def test_a_checkin_from_another_address_than_the_lease_is_refused(in_world):
    async def story(world):
        machine = world.machine(1)
        world.lease(machine.hwaddr, machine.peer)
        await machine.says()
        with pytest.raises(
            Refused, match=r"checks in from 10\.87\.0\.150, expected 10\.87\.0\.100"
        ):
            await machine.says(peer="10.87.0.150")
        assert len(world.events("node.refused")) == 1

    in_world(story)


def test_an_unknown_machine_cannot_claim_an_address_that_others_lease(in_world):
    async def story(world):
        world.lease("52:54:00:00:00:01", "10.87.0.100")
        with pytest.raises(Refused):
            await world.machine(1).says(peer="10.87.0.150")
        assert world.administration.nodes.list_nodes() == []

    in_world(story)


def test_naming_the_address_of_a_node_second_does_not_make_one_that_node(in_world):
    async def story(world):
        victim = world.machine(1)
        world.lease(victim.hwaddr, victim.peer)
        await victim.says()
        rogue = world.machine(6)
        world.lease(rogue.hwaddr, rogue.peer)
        with pytest.raises(Refused):
            await rogue.says(hwaddrs=(rogue.hwaddr, victim.hwaddr))

    in_world(story)


def test_a_lease_is_kept_as_the_address_of_the_node(in_world):
    async def story(world):
        machine = world.machine(1)
        world.lease(machine.hwaddr, machine.peer)
        await machine.says()
        text = (world.state.dnsmasq.hosts / "52-54-00-00-00-01").read_text()
        assert text == "52:54:00:00:00:01,10.87.0.100,n00001\n"

    in_world(story)


def test_a_node_that_was_added_is_completed_at_its_first_checkin(in_world):
    async def story(world):
        machine = world.machine(1)
        world.lease(machine.hwaddr, machine.peer)
        await world.administration.nodes.add_node(machine.hwaddr, name=None, attributes={})
        uuid = "11111111-2222-3333-4444-555555555555"
        await machine.says(hwaddrs=(machine.hwaddr, "52:54:00:00:aa:01"), uuid=uuid)
        (shown,) = world.administration.nodes.list_nodes()
        assert shown["uuid"] == uuid
        assert shown["hwaddrs"] == [machine.hwaddr, "52:54:00:00:aa:01"]
        assert shown["address"] == "10.87.0.100"

    in_world(story)


def members(data):
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        files = [item for item in archive if item.isfile()]
        return {item.name: archive.extractfile(item).read().decode() for item in files}


def test_the_overlay_is_the_one_of_the_plan_and_only_for_the_node_itself(in_world):
    async def story(world):
        await world.import_capsule()
        first, second = await approved(world, 1), await approved(world, 2)
        await world.administration.nodes.set_attribute("vnfs", STORY, ["*"])
        await first.says()
        await second.says()
        files = members(first.overlay())
        assert files["etc/hostname"] == "n00001\n"
        assert files["etc/hosts"].endswith("10.87.0.100 n00001\n")
        for words in (
            {"node_key": None},
            {"node_key": second.node_key},
            {"boot_id": "0" * 32},
            {"node_id": second.hwaddr},
            {"node_id": "52:54:00:00:00:77"},
        ):
            with pytest.raises(Refused):
                first.overlay(**words)
        with pytest.raises(NotThere):
            first.overlay(digest=second.plan.overlay.digest)

    in_world(story)


def test_an_overlay_is_refused_to_another_address(in_world):
    async def story(world):
        await world.import_capsule()
        machine = world.machine(1)
        world.lease(machine.hwaddr, machine.peer)
        await machine.says()
        await world.administration.nodes.set_attribute("vnfs", STORY, ["n00001"])
        await machine.says()
        assert machine.overlay()
        with pytest.raises(Refused, match="expected"):
            machine.overlay(peer="10.87.0.150")

    in_world(story)


def test_the_bootstrap_is_chosen_per_node(in_world):
    async def story(world):
        with pytest.raises(NotThere, match="the bootstrap bootstrap is not in the store"):
            await world.service.firmware.find_bootstrap("52:54:00:00:00:01")
        await world.import_capsule("bootstrap", kind="application/vnd.vnfs.bootstrap.v1")
        await world.import_capsule("canary", kind="application/vnd.vnfs.bootstrap.v1")
        await world.machine(1).says()
        await world.administration.nodes.set_attribute("bootstrap", "canary", ["n00001"])
        kernel = (
            await world.service.firmware.find_bootstrap("52:54:00:00:00:01")
        ).kernel.read_text()
        assert kernel == "canary 1 application/vnd.vnfs.kernel.v1"
        other = (
            await world.service.firmware.find_bootstrap("52:54:00:00:00:02")
        ).initrd.read_text()
        assert other == "bootstrap 1 application/vnd.vnfs.initrd.v1.cpio+zstd"

    in_world(story)


def test_silence_after_kexec_is_a_failure_and_longer_silence_death(in_world):
    async def story(world):
        machine = await approved(world)
        await machine.says("booting")
        world.now += 301
        (shown,) = world.administration.nodes.list_nodes()
        assert (shown["state"], shown["reason"]) == ("failed", "no word after kexec")
        await machine.says("ready")
        world.now += 131
        (shown,) = world.administration.nodes.list_nodes()
        assert (shown["state"], shown["conditions"]) == ("ready", ["late"])
        world.now += 600
        (shown,) = world.administration.nodes.list_nodes()
        assert (shown["state"], shown["conditions"]) == ("ready", ["dead"])

    in_world(story)


def test_a_failure_is_shown_with_its_reason(in_world):
    async def story(world):
        machine = await approved(world)
        await machine.says("failed", detail="layer rootfs: found another digest")
        (shown,) = world.administration.nodes.list_nodes()
        assert shown["state"] == "failed"
        assert shown["reason"] == "layer rootfs: found another digest"
        assert world.events("node.state")[-1] == "failed: layer rootfs: found another digest"

    in_world(story)


def test_what_was_answered_is_there_after_a_restart(in_world):
    async def first_life(world):
        await world.import_capsule()
        machine = await approved(world)
        await world.administration.nodes.set_attribute("vnfs", STORY, ["n00001"])
        await machine.says("ready")
        return machine.node_key

    key = in_world(first_life)

    async def second_life(world):
        (shown,) = world.administration.nodes.list_nodes()
        assert shown["state"] == "ready"
        assert shown["attributes"] == {"vnfs": STORY}
        machine = world.machine(1)
        machine.node_key = key
        assert (await machine.says("ready")).plan.action == "none"

    in_world(second_life)


def test_hundreds_of_nodes_check_in_at_once(in_world):
    """Writes that come together share a transaction: else this takes a minute of fsync."""

    async def story(world):
        machines = [world.machine(number) for number in range(1, 256)]
        for machine in machines:
            machine.peer = "10.87.0.5"
        await asyncio.gather(*(machine.says() for machine in machines))
        for state in ("fetching", "booting", "ready", "halted"):
            await asyncio.gather(*(machine.says(state) for machine in machines))
        assert {node["state"] for node in world.administration.nodes.list_nodes()} == {"halted"}

    in_world(story)


def test_a_change_while_the_answer_is_made_is_not_missed(in_world):
    """The write that makes a check-in durable leaves time for a change: the wait must see it."""

    async def story(world):
        await world.import_capsule()
        machine = world.machine(1)
        first = await machine.says()
        save = world.parts.registry.save_session

        async def slow_save(*words):
            await save(*words)
            world.parts.registry.save_session = save
            await world.administration.nodes.set_attribute("vnfs", STORY, ["n00001"])

        world.parts.registry.save_session = slow_save
        waiting = machine.says("failed", wait_seconds=60, plan=plan_digest(first.plan))
        answer = await asyncio.wait_for(waiting, 5)
        assert answer.plan.action == "boot"
        assert answer.node_key

    in_world(story)


def test_who_asks_while_the_node_is_approved_needs_the_key_after_it(in_world):
    """A request that waited for its turn is judged by the node as it is then."""

    async def story(world):
        machine = world.machine(1)
        await machine.says()
        async with world.parts.registry.session_lock(machine.hwaddr):
            rogue = world.machine(1, boot=9)
            rogue_asks = asyncio.create_task(rogue.says())
            await settle()
            await world.administration.nodes.approve(["n00001"])
        answer = await rogue_asks
        # No boot had a key so far, so this one begins: but it begins as an approved node's.
        assert answer.node_key

    in_world(story)
