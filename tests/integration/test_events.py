"""Events, hooks and the status of nodes, by the commands that people type, over a kill -9."""

import json
import signal
import subprocess
import threading
import time

import pytest

from .daemon import ROOT, approve, eventually, site

pytestmark = pytest.mark.integration


def hooked(made):
    """Have a program write down what it is run for; return where."""
    record = made.directory / "record"
    path = made.directory / "hooks/node.state/record"
    path.parent.mkdir(parents=True)
    path.write_text(f"#!/bin/sh\n(cat; echo) >>{record}\n")
    path.chmod(0o755)
    text = made.config.read_text()
    assert '# directory = "/etc/provisiond/hooks"' in text
    made.config.write_text(
        text.replace('# directory = "/etc/provisiond/hooks"', f'directory = "{path.parents[1]}"')
    )
    return record


def read(record):
    return [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []


def test_hooks_are_run_once_for_each_change_though_the_daemon_is_killed():
    with site(init=("--no-dnsmasq", "--user", "")) as made:
        record = hooked(made)
        made.serve()
        eventually(lambda: made.client.get("/v1/status")["hooks"])
        states = ("init", "fetching", "booting", "ready", "failed", "init", "fetching", "ready")
        said = []
        for number in range(1, 4):
            for state in states:
                made.checkin(number, state)
                said.append(f"n{number:05d} {state}")
            # Somewhere in the middle: a program may be running.
            made.kill()
            made.serve()
        eventually(lambda: made.client.get("/v1/status")["hooks"][0]["behind"] == 0, seconds=30)
        time.sleep(0.5)
        told = read(record)
        once = [f"{event['node']} {event['state']}" for event in told if not event["repeated"]]
        assert len({event["id"] for event in told}) == len(said)
        # A crash repeats what was begun, at most: one event, and says so.
        assert len(told) <= len(said) + 3
        seen = set()
        first = [
            f"{event['node']} {event['state']}"
            for event in told
            if event["id"] not in seen and not seen.add(event["id"])
        ]
        assert first == said
        assert len(once) <= len(said)
        assert "node.state/record" in made.ctl("hooks").stdout


def test_a_failing_hook_is_shown():
    with site(init=("--no-dnsmasq", "--user", "")) as made:
        hooked(made)
        bad = made.directory / "hooks/node.new/mail"
        bad.parent.mkdir()
        bad.write_text("#!/bin/sh\necho no such host; exit 75\n")
        bad.chmod(0o755)
        made.serve()
        eventually(lambda: len(made.client.get("/v1/status")["hooks"]) == 2)
        made.checkin(1)
        eventually(lambda: "status 75: no such host" in made.ctl("hooks").stdout)
        told = made.ctl("events", "--kind", "hook.failed").stdout
        assert "node.new/mail: event" in told
        assert "status 75: no such host" in told
        assert "hook.failed n00001" in made.log.read_text()


# By the words that people type


@pytest.fixture(scope="module")
def cluster():
    with site(init=("--no-dnsmasq", "--user", "")) as made:
        made.serve()
        made.keys_of = {}
        for number in (1, 2, 3):
            _, made.keys_of[number] = approve(made, number)
        yield made


def test_events_are_filtered(cluster):
    def events(*words):
        done = cluster.ctl("events", "--json", *words)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    everything = events()
    assert {"node.new", "node.state", "node.plan", "node.changed"} <= {
        event["kind"] for event in everything
    }
    assert {event["node"] for event in events("--node", "n0000[1-2]")} == {"n00001", "n00002"}
    assert {event["kind"] for event in events("--kind", "node.new")} == {"node.new"}
    assert events("--since", str(everything[-2]["id"])) == everything[-1:]
    assert events("--since", "1h") == everything
    assert events("--since", "2100-01-01T00:00") == []
    assert "n00001" in cluster.ctl("events", "--node", "n00001").stdout
    for words, told in (
        (("--since", "yesterday"), "expected the id of an event, 10m"),
        (("--node", "n0009x"), "n0009x"),
    ):
        done = cluster.ctl("events", *words)
        assert done.returncode == 2
        assert told in done.stderr


def test_events_are_followed(cluster):
    argv = cluster._argv("provisiond.ctl", "--socket", cluster.socket, "events", "--follow",
                         "--json", "--kind", "node.state", "--node", "n00002")  # fmt: skip
    process = subprocess.Popen(
        argv, stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": str(ROOT)}
    )
    try:
        time.sleep(2)
        cluster.checkin(1, "fetching", words={"nodeKey": cluster.keys_of[1]})
        cluster.checkin(2, "fetching", words={"nodeKey": cluster.keys_of[2]})
        event = json.loads(process.stdout.readline())
        assert (event["node"], event["state"]) == ("n00002", "fetching")
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(10)
        process.stdout.close()


def test_status_says_no_when_nodes_are_not_ready_and_waits(cluster):
    for number in (1, 2):
        cluster.checkin(number, "ready", words={"nodeKey": cluster.keys_of[number]})
    done = cluster.ctl("node", "status", "--expect-ready")
    assert done.returncode == 4
    assert done.stderr == "1 of 3 nodes are not ready: n00003\n"
    assert cluster.ctl("node", "status", "--expect-ready", "n0000[1-2]").returncode == 0
    listed = cluster.ctl("node", "status", "--not-ready", "--json").stdout
    assert [item["name"] for item in json.loads(listed)] == ["n00003"]
    listed = cluster.ctl("node", "list", "ready=no", "--json").stdout
    assert [item["name"] for item in json.loads(listed)] == ["n00003"]
    assert cluster.ctl("node", "status", "--expect-ready", "state=halted").returncode == 4

    start = time.monotonic()
    assert cluster.ctl("node", "status", "--wait", "1.5").returncode == 4
    assert 1.5 < time.monotonic() - start < 10
    late = threading.Timer(
        2, cluster.checkin, (3, "ready"), {"words": {"nodeKey": cluster.keys_of[3]}}
    )
    late.start()
    start = time.monotonic()
    assert cluster.ctl("node", "status", "--wait", "60").returncode == 0
    assert time.monotonic() - start < 20
    late.join()
    cluster.checkin(3, "failed", words={"nodeKey": cluster.keys_of[3]})


def test_status_is_summarised(cluster):
    for number, state in ((1, "ready"), (2, "ready"), (3, "failed")):
        cluster.checkin(number, state, words={"nodeKey": cluster.keys_of[number]})
    value = json.loads(cluster.ctl("node", "status", "--summary", "--json").stdout)
    assert value == {
        "nodes": 3,
        "ready": 2,
        "states": {"failed": 1, "ready": 2},
        "conditions": {"waiting": 1},
        "capsules": {"none": 3},
    }
    shown = cluster.ctl("node", "status", "--summary").stdout.split("\n")
    assert ["state", "ready", "2"] in [line.split() for line in shown]


def test_what_a_node_reports_forges_no_line(cluster):
    words = {"nodeKey": cluster.keys_of[3], "report": {"x\nn00001: approved": "a\nn00001: state=b"},
             "detail": "a\nn00001: state=failed\x1b[0m"}  # fmt: skip
    cluster.checkin(3, "failed", words=words)
    for verb in (("node", "show", "n00003"), ("node", "status"), ("events",)):
        done = cluster.ctl(*verb).stdout
        assert "\x1b" not in done
        assert not [line for line in done.splitlines() if line.startswith("n00001: ")]
    assert "\x1b" not in cluster.log.read_text()
    assert not [line for line in cluster.log.read_text().splitlines() if line.startswith("n00001")]
    shown = cluster.ctl("node", "show", "n00003").stdout
    assert "n00003: last_error=a n00001: state=failed?[0m" in shown
    assert "n00003: seconds.failed=" in shown
