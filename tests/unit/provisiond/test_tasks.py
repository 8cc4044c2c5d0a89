"""What running nodes are given to do: once, in one boot, to who is meant; and the knock."""

import asyncio
import time

import pytest

from provisiond.administration.tasks import withdraw_tasks
from provisiond.nodes.knocks import AT_ONCE, Knocks
from provisiond.nodes.tasks import (
    DONE,
    FAILED,
    RUNNING,
    TAKE_UP_SECONDS,
    WITHDRAWN,
    end_with_boot,
    make_task,
    parse_task_value,
    plan_task,
    task_value,
    withdraw_task,
)
from provisiond.protocol import Plan, parse_answer, parse_checkin, plan_value
from provisiond.tasks import Knock, PlannedTask, TaskReport, parse_task
from vnfsbuild.digest import digest_of, render_json
from vnfsbuild.errors import InputError

ID = "0123456789abcdef" * 2
KNOCK = Knock(4711, "f" * 32)


def make(kind="run", **words):
    return make_task(ID, kind, **{"phase": "", "timeout_seconds": 9, "now": 100.0, **words})


async def ready(world, number=1, **words):
    """Return a machine that an administrator approved, and that is ready."""
    machine = world.machine(number)
    await machine.says()
    await world.administration.nodes.approve([f"n{number:05d}"])
    await machine.says()
    await machine.says("ready", **words)
    return machine


async def give(world, *nodes, kind="reboot", **words):
    return await world.administration.tasks.give(kind, list(nodes), **words)


def show(world, name="n00001"):
    (found,) = world.administration.nodes.list_nodes([name])
    return found["task"]


# What is known of a task


@pytest.mark.parametrize(("kind", "state"), [("reboot", DONE), ("poweroff", DONE), ("run", FAILED)])
def test_another_boot_is_the_end_of_it(kind, state):
    task = end_with_boot(make(kind), now=200.0)
    assert (task.state, task.since, plan_task(task)) == (state, 200.0, None)
    assert end_with_boot(task, now=300.0) is task


def test_what_is_not_taken_up_in_time_is_withdrawn():
    task = make()
    assert withdraw_task(task, now=99.0 + TAKE_UP_SECONDS) is task
    late = withdraw_task(task, now=100.0 + TAKE_UP_SECONDS)
    assert (late.state, late.detail, plan_task(late)) == (FAILED, WITHDRAWN, None)


@pytest.mark.parametrize("task", [None, make(phase="work")])
def test_it_is_stored_and_read(task):
    assert parse_task_value(task_value(task)) == task


# From the administrator to the node


def test_a_node_is_told_until_it_tells_the_end(in_world):
    async def story(world):
        machine = await ready(world)
        assert machine.plan.task is None
        assert machine.plan.health_seconds == 300
        given = await give(world, "n00001", kind="run", phase="work", timeout_seconds=5)
        planned = PlannedTask(given["task"], "run", "work", 5)
        for state in ("running", "running", "done"):
            await machine.says("ready")
            assert machine.plan.task == planned
            report = TaskReport(given["task"], state, "last line")
            await machine.says("ready", task=report)
            assert show(world)["state"] == state
        assert machine.plan.task is None
        assert world.events("node.task") == [
            "run work: waiting", "run work: running: last line", "run work: done: last line",
        ]  # fmt: skip
        # Told again, for the answer was lost: that is no news.
        since = show(world)["since"]
        world.now += 5
        await machine.says("ready", task=TaskReport(given["task"], "running"))
        assert (show(world)["state"], show(world)["since"]) == ("done", since)

    in_world(story)


def test_it_outlives_the_server(in_world):
    async def first(world):
        await ready(world)
        await give(world, "n00001")

    async def second(world):
        assert show(world)["state"] == "waiting"

    in_world(first)
    in_world(second)


def test_another_boot_is_not_given_it(in_world):
    async def story(world):
        machine = await ready(world)
        await give(world, "n00001", kind="run", phase="work")
        await machine.says("halted")
        again = world.machine(1, boot=2)
        for state in ("init", "booting", "ready"):
            await again.says(state)
            assert again.plan.task is None
        assert show(world)["detail"] == "the node began another boot before it told the end"

    in_world(story)


def test_a_node_that_goes_down_has_done_it(in_world):
    async def story(world):
        machine = await ready(world)
        await give(world, "n00001", kind="poweroff")
        await machine.says("halted", detail="powers off")
        assert (show(world)["state"], show(world)["detail"]) == ("done", "powers off")

    in_world(story)


@pytest.mark.parametrize("told", [None, "running"])
def test_what_was_given_before_a_kexec_is_not_done_again_after_it(in_world, told):
    """The record of what was begun is of the system that was left."""

    async def story(world):
        machine = await ready(world)
        given = await give(world, "n00001", kind="run", phase="x")
        await machine.says("ready")
        if told:
            await machine.says("ready", task=TaskReport(given["task"], told))
        await machine.says("booting")
        assert show(world)["state"] == "failed"
        assert "another capsule" in show(world)["detail"]
        await machine.says("ready")
        assert machine.plan.task is None
        # Its kernel was not started after all: what it tells counts.
        await machine.says("ready", task=TaskReport(given["task"], "done"))
        assert show(world)["state"] == "done"

    in_world(story)


def test_what_was_withdrawn_and_done_all_the_same_is_told(in_world):
    async def story(world):
        machine = await ready(world)
        given = await give(world, "n00001")
        world.now += TAKE_UP_SECONDS + 1
        await withdraw_tasks(world.parts, world.service)
        await withdraw_tasks(world.parts, world.service)
        assert world.events("node.task") == ["reboot: waiting", f"reboot: failed: {WITHDRAWN}"]
        await machine.says("ready", task=TaskReport(given["task"], RUNNING))
        assert show(world)["state"] == RUNNING

    in_world(story)


def test_all_that_are_named_or_none(in_world):
    async def story(world):
        await ready(world)
        await ready(world, 2)
        await world.machine(3).says()
        with pytest.raises(InputError, match=r"not ready: n00003 \(init, waiting\)"):
            await give(world, "n0000[1-3]")
        assert [show(world, f"n0000{n}") for n in (1, 2)] == [None, None]
        with pytest.raises(InputError, match="these are all 3 nodes"):
            await give(world, "*")
        assert (await give(world, "n00001"))["nodes"] == ["n00001"]
        with pytest.raises(InputError, match=r"still at another task: n00001 \(reboot: waiting\)"):
            await give(world, "n0000[1-2]")
        assert show(world, "n00002") is None
        assert (await give(world, "*", "ready=yes", "name!=n00001", kind="run", phase="x"))[
            "nodes"
        ] == ["n00002"]

    in_world(story)


def test_all_nodes_when_that_is_said(in_world):
    async def story(world):
        for number in (1, 2, 3):
            await ready(world, number)
        assert len((await give(world, every_node=True))["nodes"]) == 3

    in_world(story)


@pytest.mark.parametrize(
    ("kind", "words", "told"),
    [
        ("dance", {}, "found 'dance'"),
        ("run", {}, "a phase belongs to run"),
        ("reboot", {"phase": "x"}, "a phase belongs to run"),
        ("run", {"phase": "../x"}, "phase: found"),
        ("run", {"phase": "x", "timeout_seconds": 0}, "expected 1 to"),
    ],
)
def test_what_is_no_task_is_refused(in_world, kind, words, told):
    async def story(world):
        await ready(world)
        with pytest.raises(InputError, match=told):
            await give(world, "n00001", kind=kind, **words)

    in_world(story)


def test_a_hundred_nodes_take_a_moment(in_world):
    async def story(world):
        for number in range(1, 101):
            await ready(world, number)
        begun = time.monotonic()
        await give(world, every_node=True)
        assert time.monotonic() - begun < 5
        assert show(world, "n00100")["state"] == "waiting"

    in_world(story)


# The knock


def test_a_node_is_knocked_at_with_its_last_word_and_once(in_world):
    sent = []

    async def story(world):
        world.service.knocks = Knocks(lambda *words: sent.append(words))
        await ready(world, knock=KNOCK)
        for _ in range(2):
            world.service.knocks.knock([world.machine(1).hwaddr])
            await asyncio.sleep(0.01)

    in_world(story)
    assert sent == [("10.87.0.100", 4711, b"f" * 32)]


def test_one_that_says_no_word_any_more_is_left_alone(in_world):
    sent = []

    async def story(world):
        world.service.knocks = Knocks(lambda *words: sent.append(words))
        machine = await ready(world, knock=KNOCK)
        await machine.says("ready")
        await give(world, "n00001")
        await asyncio.sleep(0.01)

    in_world(story)
    assert sent == []


def test_many_are_knocked_at_in_portions():
    sent = []

    async def story():
        knocks = Knocks(lambda *words: sent.append(time.monotonic()))
        for number in range(2 * AT_ONCE):
            knocks.note(str(number), "peer", KNOCK)
        knocks.knock([str(number) for number in range(2 * AT_ONCE)])
        await asyncio.sleep(0.5)

    asyncio.run(story())
    assert len(sent) == 2 * AT_ONCE
    assert sent[AT_ONCE] - sent[AT_ONCE - 1] > 0.05


# On the wire

PLAN = Plan(node_id="52:54:00:00:00:01", name="n1", action="none")


def test_an_agent_holds_a_plan_of_which_it_does_not_know_all():
    value = {**plan_value(PLAN), "later": {"x": 1}}
    answer = {"plan": value, "digest": digest_of(render_json(value)), "time": 1}
    assert parse_answer(answer).digest == answer["digest"]
    with pytest.raises(InputError, match="not the one that its digest names"):
        parse_answer({**answer, "digest": digest_of(render_json(plan_value(PLAN)))})


def test_a_kind_of_task_that_is_not_known_is_left_alone():
    assert parse_task({"id": ID, "kind": "dance"}) is None


@pytest.mark.parametrize(
    "value",
    [
        {"id": "x", "kind": "reboot"}, {"id": ID, "kind": "run"}, {"id": ID},
        {"id": ID, "kind": "run", "phase": "../etc"}, {"id": ID, "kind": "run", "phase": "x",
                                                       "timeoutSeconds": 0}, [],
    ],
)  # fmt: skip
def test_a_malformed_task_is_refused(value):
    with pytest.raises(InputError):
        parse_task(value)


@pytest.mark.parametrize(
    "more",
    [
        {"task": {"id": ID, "state": "dancing"}}, {"task": {"state": "done"}}, {"task": 7},
        {"knock": {"port": 0, "word": "f" * 32}}, {"knock": {"port": 1, "word": "f"}},
    ],
)  # fmt: skip
def test_malformed_words_of_a_node_are_refused(more):
    body = {
        "protocol": 1, "hwaddrs": ["52:54:00:00:00:01"], "bootId": "0" * 32, "state": "ready",
    }  # fmt: skip
    assert parse_checkin(body).task is None
    with pytest.raises(InputError):
        parse_checkin({**body, **more})
