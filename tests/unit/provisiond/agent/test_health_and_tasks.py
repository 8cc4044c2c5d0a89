"""On the node: checks of its health, records of what it was given to do, and what is kept."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from provisiond.agent import notes, tasks
from provisiond.agent.health import STUCK, is_due, keep_health, read_health, run_checks
from provisiond.agent.notes import (
    is_worked,
    load_leaving,
    load_plan,
    lock_work,
    put_figure,
    read_figures,
    read_note,
    write_note,
)
from provisiond.agent.work import has_work
from provisiond.protocol import Plan, plan_value
from provisiond.tasks import PlannedTask

ID = "0123456789abcdef" * 2
ROOT = Path(__file__).parents[4]
PLAN = Plan(node_id="52:54:00:00:00:01", name="n1", action="none")


def script(directory, name, text):
    directory.mkdir(exist_ok=True, parents=True)
    path = directory / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


# Health


def test_every_check_is_run_whatever_the_others_say(tmp_path):
    script(tmp_path, "10-a", "echo one; echo bad >&2; exit 2")
    script(tmp_path, "20-b", "echo fine")
    script(tmp_path, "30-c", "sleep 9")
    (tmp_path / "40-not-executable").write_text("exit 1")
    found = run_checks(tmp_path, tmp_path / "locks", check_seconds=0.3)
    assert found.unhealthy == "10-a: exit status 2: one bad; 30-c: not done after 0 s"
    assert "20-b: done\nfine" in found.output


def test_no_check_is_begun_when_the_others_took_too_long(tmp_path):
    script(tmp_path, "10-a", "sleep 0.2")
    script(tmp_path, "20-b", f"touch {tmp_path}/never; exit 1")
    found = run_checks(tmp_path, tmp_path / "locks", all_seconds=0.1)
    assert found.unhealthy == ""
    assert "20-b: not run" in found.output
    assert not (tmp_path / "never").exists()


def test_what_a_check_says_at_length_is_cut(tmp_path):
    script(tmp_path, "10-a", "seq 1 100000; exit 1")
    found = run_checks(tmp_path, tmp_path / "locks")
    assert found.unhealthy.endswith("99999 100000")
    assert len(found.unhealthy) < 400
    assert len(found.output) < 1300


def test_a_check_that_hangs_is_not_begun_again(tmp_path):
    """As one that waits for a dead disk: here it only got away from those who kill it."""
    checks, locks = tmp_path / "health.d", tmp_path / "locks"
    begun = f"echo x >>{tmp_path}/begun"
    away = f"setsid sh -c 'echo $$ >{tmp_path}/pid; sleep 60' &"
    until = f"while ! test -s {tmp_path}/pid; do sleep 0.05; done"
    script(checks, "10-a", f"{begun}\n{away}\n{until}")
    assert run_checks(checks, locks).unhealthy == ""
    found = run_checks(checks, locks)
    assert found.unhealthy == f"10-a: {STUCK}"
    assert (tmp_path / "begun").read_text() == "x\n"
    os.killpg(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    script(checks, "10-a", "sleep 60 & exit 0")
    # What is left behind in the usual way is killed, and hangs nothing up: it takes no time to end.
    for _ in range(2):
        while run_checks(checks, locks).unhealthy:
            time.sleep(0.05)


@pytest.mark.parametrize(
    ("last", "now", "every", "due"),
    [
        (None, 7.0, 300, True), (299.0, 301.0, 300, True), (301.0, 599.0, 300, False),
        (900.0, 100.0, 300, True), (None, 7.0, 0, False), (59.0, 61.0, 60, True),
    ],
)  # fmt: skip
def test_all_nodes_look_at_the_same_time(last, now, every, due):
    assert is_due(last, now, every_seconds=every) == due


def test_what_was_found_is_told_until_it_is_looked_at_again(tmp_path):
    bad = script(tmp_path / "health.d", "x", "exit 1")
    for now, unhealthy in ((10.0, "x: exit status 1"), (20.0, "x: exit status 1"), (310.0, "")):
        keep_health(tmp_path, tmp_path / "health.d", now, every_seconds=300)
        assert read_health(tmp_path)["unhealthy"] == unhealthy
        bad.unlink(missing_ok=True)


# Notes


def test_a_note_is_whole_and_for_root_only(tmp_path):
    path = tmp_path / "note.json"
    write_note(path, {"a": 1})
    assert read_note(path) == {"a": 1}
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(TypeError):
        write_note(path, {"a": object()})
    assert read_note(path) == {"a": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["note.json"]


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[" * 100])
def test_a_broken_note_is_none(tmp_path, data):
    (tmp_path / "plan.json").write_bytes(data)
    assert load_plan(tmp_path) is None


def test_a_plan_of_something_else_is_none(tmp_path):
    write_note(tmp_path / "plan.json", {"name": "x"})
    assert load_plan(tmp_path) is None
    write_note(tmp_path / "plan.json", plan_value(PLAN))
    assert load_plan(tmp_path) == PLAN


def test_figures_come_and_go(tmp_path):
    assert read_figures(tmp_path) == {}
    put_figure(tmp_path, "upgrade", "40 %\x1b")
    put_figure(tmp_path, "upgrade", "50 %")
    put_figure(tmp_path, "other", "")
    assert read_figures(tmp_path) == {"upgrade": "50 %", "other": ""}


@pytest.mark.parametrize(
    ("value", "state"), [({"state": "booting"}, "booting"), ({"state": "x"}, None), ([], None)]
)
def test_what_is_said_at_the_end(tmp_path, value, state):
    write_note(tmp_path / "leaving.json", value)
    found = load_leaving(tmp_path)
    assert (found and found.state) == state


def test_one_works_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(notes, "LOCK_TRIES", 1)
    assert not is_worked(tmp_path)
    lock = lock_work(tmp_path)
    assert is_worked(tmp_path)
    assert lock_work(tmp_path) is None
    os.close(lock)
    assert not is_worked(tmp_path)


# Tasks


def run_task(tmp_path, phase="work", **words):
    task = PlannedTask(ID, "run", phase, 5)
    tasks.do_task(tmp_path, task, phases=tmp_path, **words)
    return tasks.find_report(tmp_path, task, now=tasks.uptime())


def test_a_task_is_done_once(tmp_path):
    script(tmp_path / "work.d", "x", f"echo on >>{tmp_path}/count")
    for _ in range(3):
        report = run_task(tmp_path)
        assert (report.task_id, report.state, report.detail) == (ID, "done", "x: done")
    assert (tmp_path / "count").read_text() == "on\n"


def test_its_end_is_told_until_it_was_heard(tmp_path):
    script(tmp_path / "work.d", "x", "exit 3")
    report = run_task(tmp_path)
    assert (report.state, report.detail) == ("failed", "work.d/x: exit status 3")
    assert tasks.find_report(tmp_path, None, now=0.0) == report
    tasks.note_told(tmp_path, report)
    assert tasks.find_report(tmp_path, None, now=0.0) is None
    # A server that was set back to an earlier day asks again, and is told again.
    assert tasks.find_report(tmp_path, PlannedTask(ID, "run", "work"), now=0.0) == report


def test_the_record_is_there_before_it_is_begun(tmp_path):
    script(tmp_path / "work.d", "x", f"cat {tmp_path}/tasks/{ID}.json")
    assert '"state": "running"' in run_task(tmp_path).detail


def test_a_record_without_a_worker_was_interrupted(tmp_path):
    tasks.save_record(tmp_path, tasks.Record(ID, "run", "running"))
    lock = lock_work(tmp_path)
    assert tasks.find_report(tmp_path, None, now=1.0).state == "running"
    os.close(lock)
    report = tasks.find_report(tmp_path, None, now=1.0)
    assert (report.state, report.detail[:12]) == ("failed", "interrupted:")
    assert not tasks.is_to_do(tmp_path, PlannedTask(ID, "run", "work"))


def test_a_node_that_does_not_go_down_is_told(tmp_path):
    tasks.save_record(tmp_path, tasks.Record(ID, "reboot", "leaving", at=100.0))
    now = 100.0 + tasks.LEAVE_SECONDS
    assert tasks.find_report(tmp_path, None, now=now).state == "running"
    report = tasks.find_report(tmp_path, None, now=now + 1)
    assert (report.state, "did not fail, but the node runs" in report.detail) == ("failed", True)


def test_what_there_is_to_do(tmp_path):
    def plan(task):
        return Plan(node_id="52:54:00:00:00:01", name="n1", action="none", task=task)

    reboot = PlannedTask(ID, "reboot")
    assert not has_work(tmp_path, plan(None))
    assert has_work(tmp_path, plan(reboot))
    lock = lock_work(tmp_path)
    assert not has_work(tmp_path, plan(reboot))
    os.close(lock)
    for state, again in (("running", True), ("leaving", False), ("failed", False)):
        tasks.save_record(tmp_path, tasks.Record(ID, "reboot", state))
        assert has_work(tmp_path, plan(reboot)) == again
    write_note(tmp_path / "next.json", {})
    assert has_work(tmp_path, plan(None))


# The one who waits

AGENT = """
import os, socket, sys, time
port, word = os.environ["VNFS_KNOCK"].split()
with open({log!r}, "a") as log:
    print(sys.argv[1], os.environ["VNFS_KNOCKED"] or 0, file=log)
if sys.argv[1] == "checkin":
    lines = len(open({log!r}).readlines())
    if lines == 1:
        to = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        to.sendto(word.encode(), ("127.0.0.1", int(port)))
        print("3600 1")
    elif lines == 3:
        os.kill(os.getppid(), 15)
        time.sleep(60)
    else:
        print("3600 0")
"""


def in_python(program):
    """Run *program* in a process of its own: the one who waits changes how signals are taken."""
    return subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{program}"],
        capture_output=True, text=True, check=True, timeout=60,
        env={**os.environ, "VNFS_KNOCK": "0 x", "VNFS_KNOCKED": ""},
    ).stdout  # fmt: skip


def test_it_starts_what_there_is_to_do_and_hears_the_knock_and_the_end(tmp_path):
    begun = time.monotonic()
    agent = tmp_path / "agent"
    agent.write_text(AGENT.format(log=str(tmp_path / "log")))
    in_python(
        "from provisiond.agent.waiter import Waiter\n"
        f"Waiter([sys.executable, {str(agent)!r}]).live()"
    )
    words = (tmp_path / "log").read_text().splitlines()
    # Work and the check-in that it was knocked for are beside each other.
    assert words[0] == "checkin 0"
    assert sorted(words[1:3]) in (["checkin 0", "work 0"], ["checkin 1", "work 0"])
    assert words[-1] == "halt 0"
    assert time.monotonic() - begun < 30


@pytest.mark.parametrize(
    ("ends", "asked"), [("exit 1", False), ("exit 0", False), ("kill -9 $$", True)]
)
def test_work_that_ends_without_news_is_not_begun_again_at_once(tmp_path, ends, asked):
    agent = tmp_path / "agent"
    agent.write_text(f"#!/bin/sh\n{ends}\n")
    agent.chmod(0o755)
    told = in_python(
        "from provisiond.agent.waiter import Waiter\n"
        f"waiter = Waiter([{str(agent)!r}])\n"
        "waiter._worker = waiter._start('work')\n"
        "waiter._wait(1.5)\n"
        "print(waiter._worker, waiter._asked)\n"
        "waiter._asked, waiter._missed, waiter._worker = False, True, waiter._start('work')\n"
        "waiter._wait(1.5)\n"
        "print(waiter._worker, waiter._asked)"
    )
    assert told == f"0 {asked}\n0 True\n", "after a check-in beside it there may be other work"


def test_its_modules_are_few():
    """All that it imports stays in the memory of every node."""
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "import provisiond.agent.__main__, provisiond.agent.waiter\n"
        "print(*sorted(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert not loaded & {"ssl", "json", "typing", "dataclasses", "re", "subprocess", "threading"}
    assert {name for name in loaded if name.startswith("provisiond.")} == {
        "provisiond.agent", "provisiond.agent.__main__", "provisiond.agent.waiter",
    }  # fmt: skip


OLD, NEW, OTHER = b"c" * 32, b"a" * 32, b"b" * 32


@pytest.mark.parametrize(
    ("words", "heard"),
    [
        ((NEW,), True), ((OLD, OLD, NEW), True), ((OTHER, NEW), False), ((b"", NEW), False),
        ((NEW * 3, NEW), False), ((b"\xff", NEW), False), ((OLD,), False),
    ],
)  # fmt: skip
def test_whose_word_is_heard(words, heard):
    """After one of somebody else nothing is, until the next check-in."""
    told = in_python(
        "import socket\n"
        "from provisiond.agent.waiter import Waiter\n"
        "waiter = Waiter(['/bin/false'])\n"
        f"waiter._word, waiter._old_word = {NEW.decode()!r}, {OLD.decode()!r}\n"
        "to = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "port = waiter._socket.getsockname()[1]\n"
        f"for word in {words!r}: to.sendto(word, ('127.0.0.1', port))\n"
        "print(waiter._wait(0.3))"
    )
    assert told == f"{heard}\n"
