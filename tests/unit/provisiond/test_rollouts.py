"""Rollouts in a node server: batches, failures, restarts; the nodes are agents' words."""

import pytest

from provisiond.planned import NextReport
from vnfsbuild.errors import InputError, VerificationError

NAME = "debian-13-minimal"


class Fleet:
    """Nodes that run the first capsule, and a second one that is in the store."""

    def __init__(self, world):
        self.world = world
        self.machines = []

    async def boot(self, count=4):
        self.old = await self.world.import_capsule()
        self.new = await self.world.import_capsule(serial=2, promote=False)
        for number in range(1, count + 1):
            machine = self.world.machine(number)
            await machine.says()
            await self.world.administration.nodes.set_attribute("vnfs", NAME, [f"n{number:05d}"])
            await machine.says()
            await machine.says("ready", capsule=self.old)
            self.machines.append(machine)

    async def start(self, nodes=("n*",), *, batch="50%", when="now", reference=None):
        return await self.world.administration.rollouts.start(
            nodes, reference=reference or f"{NAME}@{self.new}", batch=batch, when=when
        )

    async def say(self, machine, state, *, detail=""):
        planned = machine.plan.next
        await machine.says(
            "ready", capsule=self.old,
            next=NextReport(planned.capsule.digest, state, detail, planned.attempt),
        )  # fmt: skip

    async def look(self):
        await self.world.service.rollouts.tick()
        return self.world.administration.rollouts.show(None)

    async def ask(self, machine):
        """Let *machine* check in as it is, and return what its plan says it should go over to."""
        await machine.says("ready", capsule=self.old)
        return machine.plan.next

    async def go_over(self, *machines):
        """Let *machines* fetch, and all of them boot the capsule."""
        for machine in machines:
            assert not (await self.ask(machine)).go
            await self.say(machine, "fetched")
        await self.look()
        for machine in machines:
            planned = await self.ask(machine)
            assert planned.go
            await machine.says("booting", capsule=self.new)
            await machine.says("ready", capsule=self.new)

    def assigned(self):
        nodes = self.world.administration.nodes.list_nodes()
        return [node["attributes"].get("vnfs") for node in nodes]


def states(shown):
    return [member["state"] for member in shown["members"]]


def test_batches_go_over_one_after_the_other(in_world):
    async def story(world):
        fleet = Fleet(world)
        await fleet.boot()
        shown = await fleet.start()
        assert (shown["state"], shown["number"], shown["nodes"]) == ("running", 1, 4)
        pinned = f"{NAME}@{fleet.new}"
        assert fleet.assigned() == [pinned, pinned, NAME, NAME]
        planned = await fleet.ask(fleet.machines[0])
        assert planned.capsule.digest == fleet.new
        assert (planned.go, planned.when) == (False, "now")
        assert planned.kernel_arguments == ("panic=60",)
        assert planned.blobs
        assert planned.capsule.chunks
        assert planned.running_chunks not in (None, planned.capsule.chunks)
        assert await fleet.ask(fleet.machines[2]) is None, "its turn is yet to come"
        await fleet.go_over(*fleet.machines[:2])
        shown = await fleet.look()
        assert states(shown) == ["ready", "ready", "active", "active"]
        await fleet.go_over(*fleet.machines[2:])
        await fleet.look()
        shown = await fleet.look()
        assert (shown["state"], shown["summary"]) == ("done", "4 ready")
        assert fleet.assigned() == [pinned] * 4
        assert len(world.events("rollout.batch")) == 2
        assert world.events("rollout.done") == [f"rollout 1 to {NAME}@{fleet.new[7:19]}: 4 ready"]

    in_world(story)


def test_nobody_leaves_before_all_of_the_batch_have_it(in_world):
    async def story(world):
        fleet = Fleet(world)
        await fleet.boot(2)
        await fleet.start(batch="2")
        first, second = fleet.machines
        await fleet.ask(first)
        await fleet.say(first, "fetched")
        await fleet.look()
        assert not (await fleet.ask(first)).go
        await fleet.ask(second)
        await fleet.say(second, "fetched")
        # What was asked in between has taken the word of the first back.
        await fleet.say(first, "fetched")
        await fleet.look()
        assert (await fleet.ask(first)).go

    in_world(story)


def test_it_stops_at_the_first_failure_and_says_why(in_world):
    async def story(world):
        fleet = Fleet(world)
        await fleet.boot()
        await fleet.start(batch="2")
        first, second = fleet.machines[:2]
        await fleet.ask(first)
        await fleet.say(first, "fetched")
        await fleet.ask(second)
        await fleet.say(second, "failed", detail="memory: this node has 700 MiB")
        shown = await fleet.look()
        assert shown["state"] == "stopped"
        assert shown["reason"] == "n00002: memory: this node has 700 MiB"
        assert states(shown) == ["waiting", "failed", "waiting", "waiting"]
        assert fleet.assigned() == [NAME] * 4, "as it was"
        assert await fleet.ask(first) is None, "it is to stay"
        shown = await fleet.look()
        assert states(shown)[2:] == ["waiting", "waiting"]
        shown = await world.administration.rollouts.resume(None, retry=True)
        assert (shown["state"], shown["counts"]["active"]) == ("running", 2)
        # What the node said of the try before does not count.
        assert (await fleet.look())["state"] == "running"

    in_world(story)


def test_a_node_that_does_not_come_up_boots_again_what_it_ran(in_world):
    """Also where its assignment means the new capsule by itself."""

    async def story(world):
        fleet = Fleet(world)
        await fleet.boot(2)
        await world.administration.capsules.promote(f"{NAME}@{fleet.new}")
        await fleet.start(batch="1", reference=NAME)
        assert fleet.assigned() == [NAME, NAME], "it means the capsule already"
        first = fleet.machines[0]
        await fleet.ask(first)
        await fleet.say(first, "fetched")
        await fleet.look()
        await first.says("booting", capsule=fleet.new)
        await fleet.look()
        world.now += 3600
        shown = await fleet.look()
        assert states(shown) == ["failed", "waiting"]
        assert "no word after kexec" in shown["reason"]
        assert fleet.assigned() == [f"{NAME}@{fleet.old}", NAME]
        again = world.machine(1, boot=2)
        answer = await again.says()
        assert answer.plan.capsule.digest == fleet.old

    in_world(story)


def test_a_node_that_comes_back_through_its_firmware_has_failed(in_world):
    async def story(world):
        fleet = Fleet(world)
        await fleet.boot(1)
        await fleet.start()
        (first,) = fleet.machines
        await fleet.ask(first)
        await fleet.say(first, "fetched")
        await fleet.look()
        await first.says("booting", capsule=fleet.new)
        await fleet.look()
        world.now += 200  # past the session's time, so that it is no conflict
        again = world.machine(1, boot=2)
        await again.says()
        shown = await fleet.look()
        assert states(shown) == ["failed"]
        assert "firmware" in shown["reason"]
        assert (await again.says()).plan.capsule.digest == fleet.old

    in_world(story)


def test_nodes_that_cannot_have_their_turn_hold_nobody_up(in_world):
    async def story(world):
        fleet = Fleet(world)
        await fleet.boot(5)
        await fleet.machines[0].says("halted")
        await fleet.machines[1].says("ready", capsule=fleet.new)
        await world.administration.nodes.set_attribute("enabled", "false", ["n00003"])
        await fleet.start(batch="1")
        shown = await fleet.look()
        assert states(shown) == ["later", "ready", "later", "active", "waiting"]
        assert "halted" in shown["members"][0]["reason"]
        assert "disabled" in shown["members"][2]["reason"]
        assert fleet.assigned()[0] == f"{NAME}@{fleet.new}", "it boots it when it starts"
        assert fleet.assigned()[2] == NAME
        await world.administration.nodes.delete(["n00004"])
        assert states(await fleet.look()) == ["later", "ready", "later", "gone", "active"]

    in_world(story)


def test_stopping_takes_back_what_was_not_begun(in_world):
    async def story(world):
        fleet = Fleet(world)
        await fleet.boot(3)
        await fleet.start(batch="2")
        first, second = fleet.machines[:2]
        for machine in (first, second):
            await fleet.ask(machine)
            await fleet.say(machine, "fetched")
        await fleet.look()
        await first.says("booting", capsule=fleet.new)
        await fleet.look()
        shown = await world.administration.rollouts.stop(None)
        assert shown["counts"]["booting"] == 1
        assert shown["counts"]["waiting"] == 2
        assert await fleet.ask(second) is None
        assert fleet.assigned() == [f"{NAME}@{fleet.new}", NAME, NAME]
        await first.says("ready", capsule=fleet.new)
        assert states(await fleet.look()) == ["ready", "waiting", "waiting"]
        with pytest.raises(InputError, match="none is running"):
            await world.administration.rollouts.stop(None)
        await world.administration.rollouts.resume(1, retry=False)
        shown = await fleet.look()
        assert (shown["state"], states(shown)) == ("running", ["ready", "active", "active"])

    in_world(story)


def test_what_is_asked_for_wrongly_is_told(in_world):
    async def story(world):
        fleet = Fleet(world)
        await fleet.boot(2)
        for batch in ("0", "0%", "101%", "x", "-1", "1.5"):
            with pytest.raises(InputError, match="batch"):
                await fleet.start(batch=batch)
        with pytest.raises(InputError, match="not in the store"):
            await fleet.start(reference="nothing")
        with pytest.raises(InputError, match="when"):
            await fleet.start(when="soon")
        await world.import_capsule(serial=3, promote=False)
        await fleet.start(["n00001"])
        with pytest.raises(InputError, match="n00001 is in rollout 1"):
            await fleet.start(["n0000[1-2]"])
        with pytest.raises(InputError, match="there is no 7"):
            await world.administration.rollouts.stop(7)
        with pytest.raises(InputError, match="is running, not stopped"):
            await world.administration.rollouts.resume(1, retry=False)
        second = await fleet.start(["n00002"])
        assert second["id"] == 2

    in_world(story)


def test_a_node_that_was_deleted_is_no_reason_not_to_say_what_is_wrong(in_world):
    async def story(world):
        fleet = Fleet(world)
        await fleet.boot(3)
        await fleet.start(["n0000[1-2]"], batch="1")
        await world.administration.rollouts.stop(None)
        await fleet.start(batch="1")
        await world.administration.nodes.delete(["n00001"])
        with pytest.raises(InputError, match="is in rollout 2, which runs"):
            await world.administration.rollouts.resume(1, retry=False)

    in_world(story)


def test_rollouts_that_nobody_resumes_are_forgotten_at_last(in_world, monkeypatch):
    monkeypatch.setattr("provisiond.nodes.rollouts.KEPT", 2)

    async def story(world):
        fleet = Fleet(world)
        await fleet.boot(1)
        for _ in range(5):
            await fleet.start()
            await world.administration.rollouts.stop(None)
        assert [item["id"] for item in world.administration.rollouts.list_rollouts()] == [4, 5]

    in_world(story)


def test_a_capsule_that_is_not_trusted_any_more_stops_it(in_world, builder):
    async def story(world):
        fleet = Fleet(world)
        await fleet.boot(1)
        await fleet.start()
        catalogue = world.parts.catalogue
        catalogue._refusals = {fleet.new: "its key was revoked"}
        shown = await fleet.look()
        assert shown["state"] == "stopped"
        assert "revoked" in shown["reason"]
        with pytest.raises(VerificationError, match="revoked"):
            await fleet.start()

    in_world(story)


def test_a_daemon_that_starts_anew_goes_on(tmp_path, builder, in_world):
    """Nothing is told to end: the database is all that is left."""
    kept = {}

    async def first(world):
        fleet = Fleet(world)
        await fleet.boot(3)
        await fleet.start(batch="1")
        await fleet.go_over(fleet.machines[0])
        await fleet.look()
        await fleet.look()
        await fleet.ask(fleet.machines[1])
        await fleet.say(fleet.machines[1], "fetched")
        await fleet.look()
        assert (await fleet.ask(fleet.machines[1])).go
        kept.update(fleet=fleet, shown=world.administration.rollouts.show(None))

    async def second(world):
        fleet = kept["fleet"]
        fleet.world = world
        for machine in fleet.machines:
            machine.world = world
        shown = world.administration.rollouts.show(None)
        for key in ("number", "go", "state", "counts", "digest", "batch"):
            assert shown[key] == kept["shown"][key]
        # It may have been told to leave before; nothing that was said is known any more.
        assert (await fleet.ask(fleet.machines[1])).go
        await fleet.machines[1].says("booting", capsule=fleet.new)
        await fleet.machines[1].says("ready", capsule=fleet.new)
        await fleet.look()
        assert states(await fleet.look()) == ["ready", "ready", "active"]
        await fleet.go_over(fleet.machines[2])
        await fleet.look()
        assert (await fleet.look())["state"] == "done"

    in_world(first)
    in_world(second)


def test_the_store_keeps_what_is_rolled_out(in_world):
    async def story(world):
        fleet = Fleet(world)
        await fleet.boot(2)
        await fleet.start(batch="1")
        needs = world.service.pins.collect()
        assert "goes to" in needs[fleet.new]
        with pytest.raises(InputError, match="rollout"):
            await world.administration.capsules.delete([f"{NAME}@{fleet.new}"], force=False)

    in_world(story)


def test_a_change_that_cannot_be_written_has_not_happened(in_world, monkeypatch):
    from provisiond.nodes.database import DatabaseError

    async def story(world):
        fleet = Fleet(world)
        await fleet.boot(1)
        registry = world.parts.registry

        def full(*args, **words):
            raise DatabaseError("disk full")

        with monkeypatch.context() as patch:
            patch.setattr(registry._database, "save_nodes", full)
            with pytest.raises(DatabaseError):
                await fleet.start()
        assert registry.rollouts == {}
        assert fleet.assigned() == [NAME]
        assert world.events("rollout.started") == []

    in_world(story)
