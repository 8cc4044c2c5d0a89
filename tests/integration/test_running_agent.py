"""The agent of a node that runs: the real one as a process, against the real node server.

How it is, what the site's checks find, and what it is given to do: each task once, whoever is
killed meanwhile. The node is a namespace; what it does to the machine is only noted.
"""

import itertools
import json
import os
import shutil
import socket
import tempfile
import time
from pathlib import Path

import pytest

from .daemon import eventually, hwaddr, site
from .runningnode import RunningNode

pytestmark = pytest.mark.integration

NUMBERS = itertools.count(1)
MOST_PSS_KIB = 16 * 1024


@pytest.fixture(scope="module")
def made():
    with site(init=("--no-dnsmasq", "--user", "")) as found:
        hooks = found.directory / "hooks"
        (hooks / "node.condition").mkdir(parents=True)
        hook = hooks / "node.condition/note"
        hook.write_text(
            f"#!/bin/sh\ncat >>{found.directory}/hooked; echo >>{found.directory}/hooked\n"
        )
        hook.chmod(0o755)
        text = found.config.read_text()
        default = '# directory = "/etc/provisiond/hooks"'
        assert default in text
        found.config.write_text(text.replace(default, f'directory = "{hooks}"'))
        yield found.serve()


@pytest.fixture
def make_node(made):
    nodes = []

    def make(**words):
        directory = Path(tempfile.mkdtemp(prefix="vnfs-node-"))
        nodes.append(RunningNode(made, directory, number=next(NUMBERS), **words))
        return nodes[-1]

    yield make
    for node in nodes:
        node.close()
        shutil.rmtree(node.directory, ignore_errors=True)


def ok(made, *words):
    done = made.ctl(*words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run(made, node, phase="work", **words):
    """Give *node* the task; return what was answered."""
    value = {"kind": "run", "phase": phase, "nodes": [node.name], **words}
    return made.client.post("/v1/nodes/task", value)


def give(made, node, kind):
    return made.client.post("/v1/nodes/task", {"kind": kind, "nodes": [node.name]})


def told(made, node, kind):
    events = made.client.get(f"/v1/events?kind={kind}&nodes={node.name}")["events"]
    return [event["text"] for event in events]


def is_ready(node):
    return node.show()["state"] == "ready"


def lines(path):
    return path.read_text().splitlines() if path.exists() else []


# How it is


def test_it_says_how_it_is_and_hardly_stays_in_memory(make_node, made):
    node = make_node()
    node.script("ready.d", "10-once", f"echo x >>{node.directory}/ran")
    node.start().wait_idle()
    shown = node.show()
    assert (shown["state"], shown["capsule"]) == ("ready", node.capsule)
    report = shown["report"]
    assert len(report["load"].split()) == 3
    assert 0 < report["memoryUsedKib"] < report["memoryTotalKib"]
    assert report["uptimeCentiseconds"] > 0
    assert report["kernel"] == os.uname().release
    assert report["failedUnits"] == []
    assert node.pss_kib() < MOST_PSS_KIB
    assert node.children() == []
    figures = ok(made, "node", "status", "--figures", node.name)
    assert os.uname().release in figures
    assert report["load"].split()[0] in figures
    # Started anew it knows what it did, and the node stays what it is.
    node.kill()
    (node.vnfs / "agent.json").unlink()
    node.start().wait_idle()
    assert lines(node.directory / "ran") == ["x"]
    node.answer_systemctl("stopping")
    assert node.stop() == 0
    assert node.show()["state"] == "halted"


def test_an_agent_that_is_stopped_alone_does_not_say_goodbye(make_node):
    node = make_node()
    node.start().wait_idle()
    assert node.stop() == 0
    assert is_ready(node)


def test_a_server_that_is_away_is_found_again(make_node, made):
    node = make_node()
    node.start().wait_idle()
    made.kill()
    node.ask()
    eventually(lambda: "no server answers" in node.journal())
    made.serve()
    before = node.show()["lastContact"]
    # The first tries after a failure come soon, not at the full minute.
    eventually(lambda: node.show()["lastContact"] != before, seconds=25)


# Health


def test_a_node_whose_check_fails_is_ready_and_unhealthy(make_node, made):
    node = make_node()
    ok(made, "node", "set", "health_seconds", "1", node.name)
    node.script("health.d", "10-disk", "echo fine")
    bad = node.script("health.d", "20-gpu", "echo looking; echo no GPU answers >&2; exit 3")
    node.start().wait_idle()
    shown = node.show()
    why = "20-gpu: exit status 3: looking no GPU answers"
    assert (shown["state"], shown["ready"], shown["conditions"]) == ("ready", True, ["unhealthy"])
    assert shown["reason"] == why
    assert shown["report"]["health.d"].startswith("10-disk: done\nfine\n20-gpu: exit status 3")
    assert "ready (unhealthy)" in ok(made, "node", "status", node.name)
    assert node.name in ok(made, "node", "list", "condition=unhealthy")
    summary = json.loads(ok(made, "node", "status", "--summary", "--json", node.name))
    assert summary["conditions"] == {"unhealthy": 1}
    assert told(made, node, "node.condition") == [f"unhealthy: {why}"]

    def hooked():
        found = [json.loads(line) for line in lines(made.directory / "hooked") if line]
        return [event["text"] for event in found if event["node"] == node.name]

    eventually(lambda: hooked() == [f"unhealthy: {why}"])
    assert node.systemctl_calls("reboot") == []
    bad.unlink()
    time.sleep(1)
    node.ask()
    eventually(lambda: node.show()["conditions"] == [])
    assert told(made, node, "node.condition")[1:] == ["unhealthy is over"]
    # Never, when the site says so.
    ok(made, "node", "set", "health_seconds", "0", node.name)
    node.ask()
    eventually(lambda: json.loads((node.vnfs / "plan.json").read_text())["healthSeconds"] == 0)
    node.wait_idle()
    node.script("health.d", "30-bad", "exit 1")
    time.sleep(1)
    at = node.show()["lastContact"]
    node.ask()
    eventually(lambda: node.show()["lastContact"] != at)
    assert node.show()["conditions"] == []


# Tasks


def test_a_task_is_done_at_once_and_its_end_is_told(make_node, made):
    node = make_node()
    node.start().wait_idle()
    node.script("work.d", "10-a", "echo one")
    node.script("work.d", "20-b", "echo two; sleep 3")
    given = run(made, node)
    assert given["nodes"] == [node.name]
    # The next full minute may be far; it is called.
    assert node.wait_task("running", seconds=8) < 8
    node.wait_task("done")
    assert node.task()["detail"] == "10-a: done\none\n20-b: done\ntwo"
    texts = told(made, node, "node.task")
    assert [text.split(": ")[1] for text in texts] == ["waiting", "running", "done"]
    assert "task=run work: done since " in ok(made, "node", "show", node.name)
    assert node.name in ok(made, "node", "list", "task=done")
    # What the server has heard is not said for ever.
    assert '"told": true' in next((node.vnfs / "tasks").iterdir()).read_text()


def test_one_that_fails_is_told_with_its_last_lines_and_a_status(make_node, made):
    node = make_node()
    node.start().wait_idle()
    node.script("work.d", "10-a", "echo no scratch disk; exit 5")
    node.script("work.d", "20-b", f"touch {node.directory}/never")
    done = made.ctl("node", "run", "work", node.name, "--wait", "20")
    assert done.returncode == 4
    assert done.stdout == f"{node.name}: failed: work.d/10-a: exit status 5: no scratch disk\n"
    assert not (node.directory / "never").exists()
    done = made.ctl("node", "run", "nothing", node.name, "--wait", "20")
    assert (done.returncode, "there is nothing to run" in done.stdout) == (4, True)
    node.script("work.d", "10-a", "sleep 30")
    done = made.ctl("node", "run", "work", node.name, "--timeout", "1", "--wait", "20")
    assert "work.d/10-a: not done after 1 s" in done.stdout


def count(node):
    return lines(node.directory / "count")


def counting(node, seconds):
    node.script(
        "work.d", "10-count", f"echo begun >>{node.directory}/count; sleep {seconds}; echo on"
    )


def test_an_agent_that_is_killed_meanwhile_changes_nothing(make_node, made):
    node = make_node()
    node.start().wait_idle()
    counting(node, 4)
    run(made, node)
    eventually(lambda: count(node) == ["begun"])
    node.kill()
    node.start().wait_idle()
    eventually(lambda: node.task()["state"] == "running")
    # It ends by itself; whoever waits now is not its parent, and hears of it all the same.
    time.sleep(4)
    node.ask()
    node.wait_task("done")
    assert count(node) == ["begun"]


def test_what_was_killed_itself_is_not_done_again(make_node, made):
    node = make_node()
    node.start().wait_idle()
    counting(node, 60)
    run(made, node)
    eventually(lambda: count(node) == ["begun"])
    node.kill_all()
    node.start().wait_idle()
    node.wait_task("failed")
    assert node.task()["detail"].startswith("interrupted: what ran it was killed")
    assert count(node) == ["begun"]


def test_a_server_that_is_killed_meanwhile_hears_it_later(make_node, made):
    node = make_node()
    node.start().wait_idle()
    counting(node, 2)
    run(made, node)
    eventually(lambda: count(node) == ["begun"])
    made.kill()
    time.sleep(3)
    made.serve()
    node.ask()
    node.wait_task("done", seconds=30)
    assert count(node) == ["begun"]


def test_a_server_that_is_killed_before_anybody_heard_of_it_still_has_it(make_node, made):
    node = make_node()
    node.start().wait_idle()
    node.kill()
    counting(node, 0)
    run(made, node)
    made.kill()
    made.serve()
    assert node.task()["state"] == "waiting"
    node.start()
    node.wait_task("done")
    assert count(node) == ["begun"]


def test_a_node_reboots_once(make_node, made):
    node = make_node()
    node.start().wait_idle()
    assert give(made, node, "reboot")["nodes"] == [node.name]
    eventually(lambda: node.systemctl_calls("reboot") == ["--no-wall reboot"])
    node.wait_task("running")
    # Until it goes down, it is not told again; nor is it another's turn.
    node.ask()
    node.wait_idle()
    assert len(node.systemctl_calls("reboot")) == 1
    done = made.ctl("node", "poweroff", node.name)
    assert (done.returncode, "still at another task" in done.stderr) == (2, True)
    node.answer_systemctl("stopping")
    node.stop()
    shown = node.show()
    assert (shown["state"], shown["task"]["state"]) == ("halted", "done")
    done = made.ctl("node", "reboot", node.name)
    assert (done.returncode, f"not ready: {node.name} (halted)" in done.stderr) == (2, True)


def test_one_that_went_down_unheard_has_rebooted_when_it_comes_back(make_node, made):
    node = make_node()
    node.start().wait_idle()
    give(made, node, "reboot")
    eventually(lambda: len(node.systemctl_calls("reboot")) == 1)
    node.kill_all()
    # The session of the boot before is live, as the server sees it, until it falls silent.
    made.checkin(node.number, "halted", boot=node.boot, words={"nodeKey": node.key})
    answer = made.checkin(node.number, boot="f" * 32)
    assert "task" not in answer["plan"]
    assert node.task()["state"] == "done"
    key = answer["nodeKey"]
    answer = made.checkin(node.number, "ready", boot="f" * 32, words={"nodeKey": key})
    assert "task" not in answer["plan"]


def test_a_reboot_that_was_begun_and_did_not_come_is_begun_again(make_node, made):
    node = make_node()
    node.start().wait_idle()
    node.answer_systemctl("running", "sleep 60")
    give(made, node, "reboot")
    eventually(lambda: len(node.systemctl_calls("reboot")) == 1)
    node.kill_all()
    node.answer_systemctl("running")
    node.start()
    eventually(lambda: len(node.systemctl_calls("reboot")) == 2)
    assert node.task()["state"] != "failed"


def test_a_system_that_will_not_go_down_is_told(make_node, made):
    node = make_node()
    node.start().wait_idle()
    node.answer_systemctl("running", "exit 1")
    give(made, node, "poweroff")
    node.wait_task("failed")
    assert node.task()["detail"] == "systemctl --no-wall poweroff: status 1"


def test_who_is_meant_must_be_clear(make_node, made):
    node = make_node()
    made.checkin(200)
    (new,) = [
        item["name"] for item in made.client.get("/v1/nodes") if item["nodeId"] == hwaddr(200)
    ]
    node.start().wait_idle()
    for verb in (["reboot"], ["poweroff"], ["run", "work"]):
        done = made.ctl("node", *verb, new)
        assert done.returncode == 2
        assert f"not ready: {new} (init, waiting); nothing was done" in done.stderr
        done = made.ctl("node", *verb)
        assert (done.returncode, "found no nodes" in done.stderr) == (2, True)
        done = made.ctl("node", *verb, node.name, "--all")
        assert (done.returncode, "found nodes and --all" in done.stderr) == (2, True)
    done = made.ctl("node", "reboot", "*")
    assert (done.returncode, "--all, when that is meant" in done.stderr) == (2, True)
    done = made.ctl("node", "run", "../x", node.name)
    assert (done.returncode, "phase: found '../x'" in done.stderr) == (2, True)
    assert node.task() is None


def test_a_stranger_s_knock_is_not_heard(make_node, made):
    node = make_node()
    node.start().wait_idle()
    with made.inside("s"):
        knocker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listening = [
        int(line.split()[1].rpartition(":")[2], 16)
        for line in Path(f"/proc/{node.process.pid}/net/udp").read_text().splitlines()[1:]
    ]
    before = node.show()["lastContact"]
    with knocker:
        for port in listening:
            knocker.sendto(b"0" * 32, ("10.86.0.50", port))
    time.sleep(2)
    assert node.show()["lastContact"] == before
    # After its next check-in it listens again.
    node.ask()
    eventually(lambda: node.show()["lastContact"] != before)
    node.script("work.d", "10-a", "true")
    node.wait_idle()
    run(made, node)
    node.wait_task("done", seconds=8)
