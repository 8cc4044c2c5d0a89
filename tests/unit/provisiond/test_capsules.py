"""The store of the node server: names move, what nodes need stays, and says who needs it."""

import asyncio
import contextlib
import json

import pytest
from aiohttp import web

from provisiond import cli
from provisiond.api.api import make_admin_app
from provisiond.nodes.model import Node, Session
from provisiond.nodes.pins import fold_names, render_reason
from provisiond.nodes.states import NO_WORD, find_silence
from vnfsbuild.errors import InputError
from vnfsbuild.manifest import BOOTSTRAP
from vnfsbuild.store.pins import load_pins
from vnfsbuild.store.store import Store

NAME = "debian-13-minimal"


def pins(world):
    return {pin.digest: pin.reason for pin in load_pins(world.state.store)}


async def add(world, *numbers, **attributes):
    for number in numbers:
        await world.administration.nodes.add_node(
            f"52:54:00:00:00:{number:02x}", name=None, attributes=attributes
        )


def test_promotion_moves_what_nodes_boot_and_wakes_them(in_world):
    async def story(world):
        one = await world.import_capsule(serial=1)
        two = await world.import_capsule(serial=2)
        await add(world, 1, vnfs=NAME)
        machine = world.machine(1)
        await machine.says()
        assert machine.plan.capsule.digest == two
        answer = await world.administration.capsules.promote(f"{NAME}:1")
        assert answer == {"name": NAME, "current": one, "previous": two}
        await machine.says()
        assert machine.plan.capsule.digest == one
        answer = await world.administration.capsules.rollback(NAME)
        assert answer == {"name": NAME, "current": two, "previous": one}
        await machine.says()
        assert machine.plan.capsule.digest == two
        assert len(world.events("capsule.promoted")) == 4
        await world.administration.capsules.tag(f"{NAME}:1", "stable")
        await world.administration.nodes.set_attribute("vnfs", f"{NAME}:stable", ["n00001"])
        await machine.says()
        assert machine.plan.capsule.digest == one
        with pytest.raises(InputError, match="moves with what a bare"):
            await world.administration.capsules.tag(f"{NAME}:1", "previous")
        await world.administration.capsules.tag(f"{NAME}:stable", None)
        await machine.says()
        assert machine.plan.action == "wait"

    in_world(story)


def test_what_nodes_are_assigned_run_and_ran_last_is_pinned_with_their_names(in_world):
    async def story(world):
        one = await world.import_capsule(serial=1)
        two = await world.import_capsule(serial=2, promote=False)
        boot = await world.import_capsule("bootstrap", kind=BOOTSTRAP)
        await add(world, 1, 2, 3, vnfs=NAME)
        await world.service.pins.update()
        assert pins(world) == {
            one: "assigned to n[00001-00003]",
            boot: "bootstrap of n[00001-00003]",
        }
        machine = world.machine(1)
        await machine.says()
        await machine.says("ready", capsule=one)
        await world.administration.capsules.promote(f"{NAME}:2")
        assert pins(world)[one] == "last good on n00001; runs on n00001"
        assert pins(world)[two] == "assigned to n[00001-00003]"
        # It boots the new one, and does not get there: the one before is what it can go back to.
        await machine.says("halted")
        again = world.machine(1, boot=2)
        await again.says("fetching", capsule=two)
        await world.service.pins.update()
        assert pins(world)[one] == "last good on n00001"
        assert pins(world)[two] == "assigned to n[00001-00003]; runs on n00001"
        with pytest.raises(InputError) as caught:
            await world.administration.capsules.delete([f"{NAME}:1"], force=False)
        assert f"{NAME}:1 must stay: last good on n00001 (pinned by provisiond)" in str(
            caught.value
        )
        await again.says("ready", capsule=two)
        removed = await world.administration.capsules.delete([f"{NAME}:1"], force=False)
        assert [item["digest"] for item in removed["capsules"]] == [one]
        assert world.events("capsule.deleted")
        assert Store(world.state.store).list_capsules() == world.parts.catalogue.capsules

    in_world(story)


def test_an_assignment_of_a_moment_ago_counts(in_world):
    async def story(world):
        await world.import_capsule(serial=1)
        await world.import_capsule(serial=2)
        await add(world, 1, vnfs=f"{NAME}:1")
        with pytest.raises(InputError, match="assigned to n00001"):
            await world.administration.capsules.delete([f"{NAME}:1"], force=False)
        answer = await world.administration.capsules.delete([f"{NAME}:1"], force=True)
        assert answer["capsules"][0]["overridden"] == ["assigned to n00001 (pinned by provisiond)"]
        assert "overridden: assigned to n00001" in world.events("capsule.deleted")[0]

    in_world(story)


def test_a_node_that_fell_silent_runs_nothing(in_world):
    async def story(world):
        one = await world.import_capsule(serial=1)
        two = await world.import_capsule(serial=2)
        await add(world, 1, vnfs=f"{NAME}:1")
        machine = world.machine(1)
        await machine.says()
        await machine.says("fetching", capsule=two)
        await world.service.pins.update()
        assert pins(world)[two] == "runs on n00001"
        world.now += 10**6
        session = world.parts.registry.sessions[machine.hwaddr]
        assert find_silence(session, now=world.now, timeouts=world.service.timeouts) in (
            "dead", NO_WORD,
        )  # fmt: skip
        await world.service.pins.update()
        assert set(pins(world)) == {one}

    in_world(story)


def test_pins_are_written_only_when_they_change(in_world):
    async def story(world):
        await world.import_capsule(serial=1)
        await add(world, 1, vnfs=NAME)
        await world.service.pins.update()
        path = world.state.store / "pins/provisiond.json"
        before = path.stat().st_mtime_ns, path.stat().st_ino
        await world.service.pins.update()
        assert (path.stat().st_mtime_ns, path.stat().st_ino) == before
        # A daemon that starts anew takes what is there for its own, whatever it says.
        path.write_bytes(b"rubbish")
        await add(world, 2, vnfs=NAME)
        await world.service.pins.update()
        assert len(pins(world)) == 1

    in_world(story)


def test_what_cannot_be_pinned_is_told_once(in_world, caplog):
    async def story(world):
        await world.import_capsule(serial=1)
        await add(world, 1, vnfs=NAME)
        (world.state.store / "pins").write_text("a file, where a directory is expected")
        for _ in range(3):
            await world.service.pins.update_or_warn()
        (world.state.store / "pins").unlink()
        await world.service.pins.update_or_warn()
        assert len(pins(world)) == 1

    in_world(story)
    assert caplog.text.count("pins: ") == 1


def test_names_of_nodes_are_folded():
    assert fold_names([f"n{number:04d}" for number in (1, 2, 3, 7)]) == "n[0001-0003,0007]"
    assert fold_names(["login", "n1", "n2"]) in ("login,n[1-2]", "n[1-2],login")
    many = fold_names([f"n{number:06d}" for number in range(0, 4000, 2)])
    assert many.endswith("… (2000 nodes)")
    assert len(many) < 400
    assert render_reason({"runs on": ["n1"], "assigned to": ["n1", "n2"]}) == (
        "assigned to n[1-2]; runs on n1"
    )


def test_the_daemon_removes_what_one_before_it_left(in_world):
    async def story(world):
        await world.import_capsule(serial=1)
        store = Store(world.state.store)
        left = store.add_blob(b"left", media_type="x")
        del store
        world.parts.catalogue.collect_garbage()
        assert not Store(world.state.store).holds(left)
        (world.state.store / "index.json").write_bytes(b"{}")
        world.parts.catalogue.collect_garbage()

    in_world(story)


def test_ten_thousand_nodes_are_pinned_in_three_lines(in_world):
    async def story(world):
        one = await world.import_capsule(serial=1)
        nodes = tuple(
            Node(node_id=hwaddr, name=f"n{n:05d}", hwaddrs=(hwaddr,), attributes={"vnfs": NAME})
            for n in range(10_000)
            for hwaddr in [f"52:54:00:00:{n >> 8:02x}:{n & 255:02x}"]
        )
        await world.parts.registry.save_nodes(nodes)
        for node in nodes:
            session = Session(
                boot_id="0" * 32, state="ready", since=world.now, hwaddr=node.node_id,
                peer="10.87.0.9", last_contact=world.now, capsule=one, last_good=one,
            )  # fmt: skip
            world.parts.registry.touch_session(node.node_id, session)
        await world.service.pins.update()
        every = "n[00000-09999]"
        assert pins(world)[one] == (f"assigned to {every}; last good on {every}; runs on {every}")
        # By the clock it rests after that, however much has changed.
        await world.administration.nodes.delete(["n00000"])
        await world.service.pins.tick()
        assert pins(world)[one].startswith(f"assigned to {every}")
        await world.service.pins.update()
        assert pins(world)[one].startswith("assigned to n[00001-09999]")

    in_world(story)


@contextlib.asynccontextmanager
async def serving(world):
    """Serve administrators on a socket; give the block what runs provisionctl."""
    app = make_admin_app(
        world.administration, is_allowed=lambda request: True, incoming=world.state.incoming
    )
    runner = web.AppRunner(app)
    await runner.setup()
    path = world.state.path / "s"
    await web.UnixSite(runner, str(path)).start()

    async def control(*arguments):
        given = ["--socket", str(path), "vnfs", *arguments]
        return await asyncio.to_thread(cli.run, cli.control, given)

    try:
        yield control
    finally:
        await runner.cleanup()


def test_the_verbs(in_world, capsys):
    async def story(world):
        one = await world.import_capsule(serial=1)
        two = await world.import_capsule(serial=2)
        await add(world, 1, vnfs=f"{NAME}:1")
        async with serving(world) as control:
            assert await control("promote", f"{NAME}:1", "--json") == 0
            assert json.loads(capsys.readouterr().out) == {
                "name": NAME, "current": one, "previous": two,
            }  # fmt: skip
            assert await control("rollback", NAME) == 0
            assert capsys.readouterr().out == f"{NAME} is {two}, previous is {one}\n"
            assert await control("tag", f"{NAME}:1", "stable") == 0
            assert capsys.readouterr().out == f"{NAME}:stable is {one}\n"
            assert await control("tag", f"{NAME}:1") == 2
            assert await control("tag", "--remove", f"{NAME}:stable") == 0
            assert await control("tag", f"{NAME}:1", "7") == 2
            capsys.readouterr()
            assert await control("delete", f"{NAME}:1") == 2
            told = capsys.readouterr().err
            assert f"error: {NAME}:1 must stay: assigned to n00001 (pinned by provisiond)" in told
            assert await control("delete", "--force", f"{NAME}:1") == 0
            out, err = capsys.readouterr()
            assert out.splitlines()[0] == f"deleted {NAME}:1 {one}"
            assert "warning" in err
            assert "overridden: assigned to n00001" in err
            assert await control("promote", "none") == 2
            assert "none: no such capsule in the store" in capsys.readouterr().err

    in_world(story)
