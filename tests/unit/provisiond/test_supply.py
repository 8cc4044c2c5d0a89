"""Where nodes are sent for blobs."""

import json

from provisiond.agent.chunkmap import parse_chunk_map
from provisiond.nodes.scopes import Scopes, resolve
from provisiond.nodes.supply import Supply, supply_plan
from provisiond.protocol import Plan, PlannedCapsule, parse_answer, render_answer
from vnfsbuild import manifest
from vnfsbuild.digest import digest_of

OURS = "http://10.87.0.1:8988/blobs"
MIRROR = "http://mirror.example.org/blobs"
SUPPLY = Supply(blobs=(OURS, MIRROR), exports=("10.87.0.1:/blobs",))
BOOT = Plan(
    node_id="52:54:00:00:00:01",
    name="n00001",
    action="boot",
    capsule=PlannedCapsule("minimal", digest_of(b""), ()),
    blobs=(OURS, MIRROR),
)


def supplied(plan=BOOT, supply=SUPPLY, **own):
    return supply_plan(plan, resolve(own, (), Scopes()), supply)


def test_all_servers_are_named_and_none_is_near():
    assert (supplied().blobs, supplied().near, supplied().transfer) == ((OURS, MIRROR), 0, "http")


def test_a_nodes_own_mirrors_are_near_and_named_once():
    plan = supplied(mirrors=("http://rack7/blobs", MIRROR))
    assert (plan.blobs, plan.near) == (("http://rack7/blobs", MIRROR, OURS), 2)


def test_by_nfs_the_exports_are_named():
    plan = supplied(transfer="nfs")
    assert (plan.action, plan.transfer, plan.nfs) == ("boot", "nfs", ("10.87.0.1:/blobs",))


def test_by_nfs_without_an_export_a_node_waits_and_is_told_what_to_type():
    plan = supplied(supply=Supply(blobs=(OURS,)), transfer="nfs")
    assert (plan.action, plan.capsule, plan.transfer) == ("wait", None, "http")
    assert "nfs.exports" in plan.reason
    assert "provisionctl node set transfer http n00001" in plan.reason


def test_a_plan_that_names_no_server_stays_as_it_is():
    waiting = Plan(node_id=BOOT.node_id, name="n00001", action="wait", reason="so")
    assert supplied(waiting, transfer="nfs", mirrors=(MIRROR,)) == waiting


def test_the_server_says_so_in_plans_and_a_waiting_node_hears_of_a_change(in_world):
    async def story(world):
        await world.import_capsule()
        machine = world.machine(1)
        await machine.says()
        nodes = world.administration.nodes
        await nodes.set_attribute("vnfs", "debian-13-minimal", ["n00001"])
        plan = (await machine.says()).plan
        assert (plan.blobs, plan.near) == (("http://10.87.0.1:8988/blobs", MIRROR), 0)
        await nodes.set_attribute("mirrors", "http://rack7/blobs", ["n00001"])
        plan = (await machine.says()).plan
        assert plan.blobs[0] == "http://rack7/blobs"
        assert (len(plan.blobs), plan.near) == (3, 1)
        await nodes.set_attribute("transfer", "nfs", ["n00001"])
        answer = await machine.says()
        assert (answer.plan.transfer, answer.plan.nfs) == ("nfs", ("10.87.0.1:/blobs",))
        # What an agent reads is what was meant.
        assert parse_answer(json.loads(render_answer(answer))).plan == answer.plan

    in_world(story, mirrors=(MIRROR,), nfs_exports=("10.87.0.1:/blobs",))


def test_a_server_with_wrong_bytes_is_told_once_for_each_boot(in_world):
    async def story(world):
        await world.import_capsule()
        wrong = {"wrongMirrors": [f"{MIRROR}: wrong bytes: layer 0 (rootfs)"]}
        machine = world.machine(1)
        await machine.says()
        for _ in range(2):
            await machine.says("fetching", report=wrong)
        assert world.events("mirror.wrong") == wrong["wrongMirrors"]
        more = {"wrongMirrors": [*wrong["wrongMirrors"], f"{OURS}: wrong bytes: kernel"]}
        await machine.says("booting", report=more)
        assert world.events("mirror.wrong") == more["wrongMirrors"]
        world.now += 10_000
        again = world.machine(1, boot=2)
        await again.says()
        await again.says("fetching", report=wrong)
        assert len(world.events("mirror.wrong")) == 3
        await again.says("fetching", report={"wrongMirrors": "no list"})

    in_world(story)


def test_an_imported_capsule_has_a_chunk_index_that_plans_name(in_world):
    async def story(world):
        await world.import_capsule()
        await world.import_capsule("bootstrap", kind=manifest.BOOTSTRAP)
        machine = world.machine(1)
        await machine.says()
        await world.administration.nodes.set_attribute("vnfs", "debian-13-minimal", ["n00001"])
        planned = (await machine.says()).plan.capsule
        catalogue = world.parts.catalogue
        data = catalogue.blob_path(planned.chunks).read_bytes()
        stored = catalogue.find_digest(planned.digest)
        (layer,) = stored.manifest.layers
        assert sum(piece.size_bytes for piece in parse_chunk_map(data, layer)) == layer.size_bytes
        (bootstrap,) = [item for item in catalogue.capsules if item.name == "bootstrap"]
        assert catalogue.find_chunks(bootstrap.digest) is None

    in_world(story)
