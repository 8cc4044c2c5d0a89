"""Programs for events: found with care, run once for each, in order, and never waited for long."""

import asyncio
import contextlib
import json
import os
import time

import pytest

from provisiond.events.hooks import find_hooks, run_hook
from provisiond.events.runner import NOTE, HookRunner

RECORD = 'line=$(cat); printf "%s\\n" "$line" >>{record}'
"""One write: who reads meanwhile sees all of a line, or nothing."""


def put(directory, key, script, *, mode=0o755):
    path = directory / key
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(mode)
    return path


def read(record):
    return [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []


async def eventually(true, *, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "did not come true in time"
        await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def running(world, directory, *, timeout_seconds=20):
    """The runner, and who writes the events that it waits for."""
    registry, events = world.parts.registry, world.parts.events
    runner = HookRunner(
        directory, timeout_seconds=timeout_seconds, registry=registry, events=events,
        clock=world.parts.clock,
    )  # fmt: skip

    async def keep():
        while True:
            await events.unkept_came.wait()
            await registry.save_events()

    tasks = [asyncio.create_task(runner.run()), asyncio.create_task(keep())]
    await eventually(lambda: runner.status() or not directory.exists())
    try:
        yield runner
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def test_a_program_gets_each_event_of_its_kind_once_and_in_order(in_world, tmp_path):
    hooks, record = tmp_path / "hooks", tmp_path / "record"
    put(hooks, "node.state/tell", RECORD.format(record=record))

    async def story(world):
        await world.machine(1).says("init")  # before there was a hook
        async with running(world, hooks) as runner:
            for state in ("fetching", "booting", "ready"):
                await world.machine(1).says(state)
            await world.machine(1).says("ready", detail="still")  # progress is no change of state
            await eventually(lambda: len(read(record)) == 3)
            await asyncio.sleep(0.2)
            (row,) = runner.status()
            assert row == {
                "hook": "node.state/tell", "runs": 3, "failures": 0, "lastFault": "", "behind": 0,
            }  # fmt: skip
        told = read(record)
        assert [event["state"] for event in told] == ["fetching", "booting", "ready"]
        assert {event["repeated"] for event in told} == {False}
        assert told[0]["node"] == "n00001"
        assert told[0]["kind"] == "node.state"
        assert sorted({event["id"] for event in told}) == [event["id"] for event in told]

    in_world(story)


def test_what_happened_while_the_daemon_was_ended_is_not_lost_and_not_repeated(in_world, tmp_path):
    hooks, record = tmp_path / "hooks", tmp_path / "record"
    put(hooks, "node.new/tell", RECORD.format(record=record))

    async def first(world):
        async with running(world, hooks):
            await world.machine(1).says()
            await eventually(lambda: len(read(record)) == 1)
        await world.machine(2).says()  # nobody runs hooks any more

    async def second(world):
        async with running(world, hooks):
            await eventually(lambda: len(read(record)) == 2)
            await asyncio.sleep(0.2)

    in_world(first)
    in_world(second)
    assert [event["node"] for event in read(record)] == ["n00001", "n00002"]
    assert {event["repeated"] for event in read(record)} == {False}


def test_what_was_begun_when_the_daemon_was_killed_is_repeated_and_says_so(in_world, tmp_path):
    hooks, record = tmp_path / "hooks", tmp_path / "record"
    put(hooks, "node.new/tell", RECORD.format(record=record))

    async def first(world):
        async with running(world, hooks):
            await world.machine(1).says()
            await eventually(lambda: len(read(record)) == 1)
        # As a daemon leaves it that is killed before it wrote that the program had ended.
        note = world.parts.registry.load_note(NOTE)
        event_id = read(record)[0]["id"]
        note["node.new/tell"] = {"id": event_id, "begun": True}
        await world.parts.registry.save_note(NOTE, note)

    async def second(world):
        async with running(world, hooks):
            await world.machine(2).says()
            await eventually(lambda: len(read(record)) == 3)

    in_world(first)
    in_world(second)
    assert [(event["node"], event["repeated"]) for event in read(record)] == [
        ("n00001", False), ("n00001", True), ("n00002", False),
    ]  # fmt: skip


def test_failures_are_told_and_the_next_event_comes_all_the_same(in_world, tmp_path):
    hooks = tmp_path / "hooks"
    put(hooks, "node.new/bad", "echo 'no \\033[2J mail'; exit 3")
    put(hooks, "node.new/slow", "sleep 60")

    async def story(world):
        async with running(world, hooks, timeout_seconds=1) as runner:
            start = time.monotonic()
            await world.machine(1).says()
            await world.machine(2).says()
            # Nodes wait for no program.
            assert time.monotonic() - start < 1
            await eventually(lambda: len(world.events("hook.failed")) == 4)
            bad, slow = runner.status()
        assert (bad["runs"], bad["failures"]) == (2, 2)
        assert bad["lastFault"] == "ended with status 3: no ?[2J mail"
        assert slow["lastFault"] == "was ended: it ran for more than 1 s"
        assert {event.node for event in world.parts.events.since(0)
                if event.kind == "hook.failed"} == {"n00001", "n00002"}  # fmt: skip

    in_world(story)


def test_programs_come_and_go_while_it_runs(in_world, tmp_path):
    hooks, record = tmp_path / "hooks", tmp_path / "record"

    async def story(world):
        async with running(world, hooks) as runner:
            await world.machine(1).says()
            put(hooks, "node.new/tell", RECORD.format(record=record))
            await eventually(runner.status)
            await world.machine(2).says()
            await eventually(lambda: [event["node"] for event in read(record)] == ["n00002"])
            (hooks / "node.new/tell").unlink()
            await eventually(lambda: not runner.status())

    in_world(story)


@pytest.mark.parametrize(
    ("key", "mode", "told"),
    [
        ("node.new/open", 0o777, "only its owner may write"),
        ("node.new/group", 0o775, "only its owner may write"),
        ("node.new/plain", 0o644, "chmod +x"),
        ("node.gnu/tell", 0o755, "expected a directory named for one of node.new"),
    ],
)
def test_what_is_not_run_is_told_with_the_reason(tmp_path, key, mode, told):
    put(tmp_path, key, "", mode=mode)
    found = find_hooks(tmp_path)
    assert not found.programs
    (why,) = found.faults.values()
    assert told in why


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")
def test_a_program_of_another_user_is_not_run(tmp_path):
    os.chown(put(tmp_path, "node.new/tell", ""), 65534, 65534)
    assert "expected root" in next(iter(find_hooks(tmp_path).faults.values()))


def test_what_editors_leave_behind_is_passed_over(tmp_path):
    for name in (".tell.swp", "tell~"):
        put(tmp_path, f"node.new/{name}", "")
    assert find_hooks(tmp_path) == find_hooks(tmp_path / "none") == find_hooks(None)


def test_a_program_gets_no_environment_of_ours_and_leaves_no_children(tmp_path, monkeypatch):
    monkeypatch.setenv("VNFS_SECRET", "x")
    path = put(tmp_path, "node.new/tell", f"env; sleep 300 & echo $! >{tmp_path}/child; exit 0")
    start = time.monotonic()
    outcome = asyncio.run(run_hook(path, b"{}", timeout_seconds=20))
    assert time.monotonic() - start < 10
    assert outcome.fault == ""
    assert "VNFS_SECRET" not in outcome.output
    pid = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 5
    while is_running(pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_much_output_is_bounded_and_what_is_not_read_does_no_harm(tmp_path):
    path = put(tmp_path, "node.new/tell", "head -c 10000000 /dev/zero | tr '\\0' x; echo end")
    outcome = asyncio.run(run_hook(path, b"x" * 1_000_000, timeout_seconds=20))
    assert outcome.fault == ""
    assert len(outcome.output) <= 2000
    assert outcome.output.endswith("end")


def test_what_is_no_program_is_a_fault(tmp_path):
    path = tmp_path / "tell"
    path.write_text("no interpreter")
    path.chmod(0o755)
    assert "cannot be run" in asyncio.run(run_hook(path, b"", timeout_seconds=5)).fault
