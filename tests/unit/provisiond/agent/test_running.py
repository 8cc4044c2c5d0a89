"""The agent in the capsule: ready, still there, and gone."""

import json
from dataclasses import replace

import pytest

from provisiond.agent.node import Node
from provisiond.agent.readyscripts import TAIL_CHARACTERS, run_scripts
from provisiond.agent.running import Running
from provisiond.agent.system import System
from provisiond.agent.waiter import next_checkin, next_try, parse_told
from provisiond.protocol import Answer, plan_digest
from vnfsbuild.digest import digest_of


def script(directory, name, text, mode=0o755):
    directory.mkdir(exist_ok=True)
    path = directory / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(mode)


@pytest.fixture
def scripts(tmp_path):
    return tmp_path / "ready.d"


@pytest.fixture
def make_running(world, tmp_path, scripts, node_server, make_client, authority):
    node = Node(
        node_id=world.NODE_ID, name="n00001", boot_id="1" * 32, node_key=world.NODE_KEY,
        hwaddrs=(world.NODE_ID,), uuid=None, capsule=digest_of(b"capsule"), checkin_seconds=3600,
    )  # fmt: skip
    site = world.write_site(tmp_path / "site", authority, [node_server.url])

    def make(*states, failed=()):
        states = list(states) or ["running"]

        def state(*, wait=False):
            return states.pop(0) if len(states) > 1 else states[0]

        return Running(
            node, make_client(site), run=tmp_path, scripts=scripts, script_seconds=5,
            system=System(state, lambda: list(failed)), tell=[].append,
            set_clock=lambda seconds: None,
        )  # fmt: skip

    return make


def live(running, node_server):
    """Let it check in once, and say goodbye when the system stops; return what was heard."""
    running.step()
    if running.is_stopping():
        running.halt()
    return node_server.checkins


def test_a_node_says_that_it_is_ready(make_running, node_server, world):
    (checkin,) = live(make_running(failed=["cups.service"]), node_server)
    assert checkin.state == "ready"
    assert checkin.node_key == world.NODE_KEY
    assert checkin.capsule == digest_of(b"capsule")
    assert checkin.report["failedUnits"] == ["cups.service"]
    assert checkin.report["memoryTotalKib"] > 0


def test_a_system_that_stops_says_goodbye_and_a_restart_does_not(make_running, node_server, world):
    assert [c.state for c in live(make_running(), node_server)] == ["ready"]
    node_server.checkins.clear()
    running = make_running("stopping")
    assert [c.state for c in live(running, node_server)] == ["ready", "halted"]


def test_scripts_run_in_order_once_per_boot(make_running, node_server, world, scripts, tmp_path):
    log = tmp_path / "log"
    script(scripts, "20-second", f"echo second | tee -a {log}")
    script(scripts, "10-first", f"echo first >>{log}")
    script(scripts, "30-not-executable", f"echo no >>{log}", mode=0o644)
    for _ in range(2):
        node_server.checkins.clear()
        (checkin,) = live(make_running(), node_server)
        assert checkin.state == "ready"
        assert checkin.report["ready.d"] == "10-first: done\n20-second: done\nsecond"
    assert log.read_text() == "first\nsecond\n"


def test_a_failing_script_makes_the_node_failed(make_running, node_server, world, scripts):
    script(scripts, "50-check", "echo looking; echo no scratch disk >&2; exit 3")
    script(scripts, "60-never", "exit 1")
    (checkin,) = live(make_running(), node_server)
    assert checkin.state == "failed"
    assert checkin.detail == "ready.d/50-check: exit status 3: looking\nno scratch disk"
    assert "60-never" not in checkin.report["ready.d"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("kill -TERM $$", "killed by SIGTERM"),
        ("sleep 60", "not done after 0 s"),
        ("sleep 60 & exit 4", "exit status 4"),
    ],
)
def test_how_a_script_failed_is_told(scripts, text, told):
    script(scripts, "x", text)
    outcome = run_scripts(scripts, timeout_seconds=0.3)
    assert outcome.failure.startswith(f"ready.d/x: {told}")


def test_what_cannot_be_run_is_told(scripts):
    scripts.mkdir()
    (scripts / "x").write_text("#!/nonexistent/interpreter\n")
    (scripts / "x").chmod(0o755)
    assert "cannot be run" in run_scripts(scripts, timeout_seconds=5).failure


def test_the_last_lines_are_kept(scripts):
    script(scripts, "x", "seq 1 100000; exit 1")
    outcome = run_scripts(scripts, timeout_seconds=20)
    assert outcome.failure.endswith("99999\n100000")
    assert len(outcome.output) <= TAIL_CHARACTERS + 1


def test_no_scripts_are_fine(scripts):
    outcome = run_scripts(scripts, timeout_seconds=1)
    assert (outcome.failure, outcome.output) == ("", "")


def test_a_server_that_is_not_there_is_asked_again_soon(make_running, node_server, world):
    answers = iter([(b"busy", 503)])
    node_server.answer = lambda checkin: next(answers, Answer(world.waiting(), world.NOW))
    running = make_running()
    assert not running.step()
    assert running.step()
    assert next_try(1, 60.0, spread=0.0) == 5.0
    assert next_try(3, 60.0, spread=0.0) == 20.0
    assert next_try(99, 60.0, spread=0.0) == 60.0


def test_the_plan_that_it_holds_is_named_and_its_interval_kept(make_running, world):
    running = make_running()
    outcome = running.become_ready()
    running.say(outcome)
    assert running.checkin(outcome).plan == plan_digest(world.waiting())
    assert running.memory.every_seconds == world.waiting().checkin_seconds


def test_a_plan_for_another_node_is_not_taken(make_running, node_server, world):
    other = replace(world.waiting(), node_id="52:54:00:00:00:99", checkin_seconds=7)
    node_server.answer = lambda checkin: Answer(other, world.NOW)
    running = make_running()
    running.say(running.become_ready())
    assert running.memory.plan is None
    assert running.memory.every_seconds != 7


def test_a_note_that_is_broken_is_made_again(make_running, tmp_path):
    (tmp_path / "ready.json").write_text("{")
    assert make_running().become_ready().failure == ""
    assert json.loads((tmp_path / "ready.json").read_text())["failure"] == ""


@pytest.mark.parametrize(("now", "pause"), [(0.0, 60.0), (59.5, 0.5), (120.25, 59.75)])
def test_check_ins_fall_on_full_multiples(now, pause):
    assert next_checkin(now, every_seconds=60, spread=0.0) == pause
    assert next_checkin(now, every_seconds=60, spread=1.5) == pause + 1.5


@pytest.mark.parametrize(
    ("line", "told"),
    [(b"60 1\n", (60, True)), (b"7 0\n", (7, False)), (b"", None), (b"0 1", None), (b"x y", None)],
)
def test_what_a_check_in_tells_the_one_who_waits(line, told):
    assert parse_told(line) == told
