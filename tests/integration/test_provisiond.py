"""provisiond as people run it: its programs, its sockets, what it keeps.

The daemon runs in a network namespace of its own; the nodes are sockets in another.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from vnfsbuild import manifest as m
from vnfsbuild.errors import InputError, VerificationError, VnfsbuildError

from .daemon import BOOT, Site, eventually, hwaddr, site

pytestmark = pytest.mark.integration

# The article's story


def test_the_story_by_the_commands_that_people_type(tmp_path):
    with site(init=("--no-dnsmasq", "--user", "")) as made:
        made.serve()
        digest = made.build()
        imported = made.ctl("vnfs", "import", "debian-13-minimal")
        assert imported.returncode == 0, imported.stderr
        assert imported.stdout == f"debian-13-minimal:1@{digest}\n"
        answer = made.checkin()
        assert answer["plan"]["name"] == "n00001"
        assert "no VNFS capsule is assigned" in answer["plan"]["reason"]

        told = []
        held = {"waitSeconds": 60, "plan": answer["digest"]}
        waiting = threading.Thread(target=lambda: told.append(made.checkin(words=held)))
        waiting.start()
        time.sleep(1)
        assert told == []
        done = made.ctl("node", "set", "vnfs", "debian-13-minimal", "n0000[1-9]")
        assert (done.returncode, done.stdout) == (0, "n00001: vnfs = debian-13-minimal\n")
        assert done.stderr.startswith("warning: 8 of the nodes named are not known: n00002, ")
        waiting.join(10)
        (answer,) = told
        assert answer["plan"]["action"] == "boot"
        assert answer["plan"]["capsule"]["digest"] == digest

        plan, key = answer["plan"], answer["nodeKey"]
        for blob in (plan["capsule"]["digest"], *plan["capsule"]["signatures"]):
            status, data = made.get(f"/blobs/sha256/{blob.removeprefix('sha256:')}")
            assert (status, m.digest_of(data)) == (200, blob)
        headers = {"X-Node-Id": plan["nodeId"], "X-Boot-Id": BOOT, "X-Node-Key": key}
        status, data = made.overlay(plan["overlay"]["digest"], headers)
        assert (status, m.digest_of(data)) == (200, plan["overlay"]["digest"])
        assert len(data) == plan["overlay"]["size"]
        for state in ("fetching", "booting", "ready"):
            made.checkin(state=state, words={"nodeKey": key, "capsule": digest})
        time.sleep(1)
        status = made.ctl("node", "status")
        header, row = status.stdout.splitlines()
        assert header.split("  ")[0] == "HostName"
        name, state, address, contact, shown = row.split()
        assert (name, state, address) == ("n00001", "ready", "10.86.0.50")
        assert contact.startswith("00:00:0")
        assert shown == digest[7:19]
        assert json.loads(made.ctl("node", "list", "--json").stdout)[0]["capsule"] == digest
        assert "n00001: vnfs=debian-13-minimal (node)\n" in made.ctl("node", "show").stdout
        alias = made.daemon("--socket", made.socket, "node", "status")
        assert "n00001    ready" in alias.stdout
        listed = made.ctl("vnfs", "list").stdout
        assert "debian-13-minimal  1,current" in listed
        assert made.ctl("node", "delete", "n00001").stdout == "n00001: deleted\n"


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (("node", "set", "vnsf", "x", "n00001"), 2, "did you mean 'vnfs'?"),
        (("node", "set", "vnfs", "none", "*"), 2, "error: "),
        (("node", "status", "x[1-3]"), 2, "found no node x1, x2, x3"),
        (("node", "approve", "x1"), 2, "hint: provisionctl node list"),
        (("node", "add", "zz"), 2, "expected a hardware address"),
        (("node",), 2, "Usage"),
        (("nod", "list"), 2, "Did you mean 'node'?"),
        (("vnfs", "import", "/none.vnfs"), 2, "/none.vnfs: no such file"),
        (("vnfs", "import", "none"), 2, "no such capsule in the store"),
        (("--socket", "/none", "node", "list"), 1, "provisiond does not answer"),
    ],
)
def test_mistakes_are_told_with_their_status(shared, words, status, told):
    done = shared.ctl(*words)
    assert done.returncode == status, done.stderr
    assert told in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


# The daemon as a process


def test_init_overwrites_nothing(shared):
    before = shared.config.read_bytes()
    for words in (
        ("init", "--device", "x", "--address", "10.0.0.1/24"),
        ("init", "--config", shared.directory / "other.toml", "--device", "x",
         "--address", "10.0.0.1/24", "--state-dir", shared.state),
    ):  # fmt: skip
        done = shared.daemon(*words)
        assert done.returncode == 2
        assert "init overwrites nothing" in done.stderr
    assert shared.config.read_bytes() == before
    assert not (shared.directory / "other.toml").exists()


def test_a_second_serve_is_told_of_the_first(shared):
    done = shared.daemon("serve")
    assert done.returncode == 1
    assert "another provisiond serves from it" in done.stderr
    assert shared.client.get("/v1/status")["dnsmasq"] is False


def test_faults_of_the_configuration_are_told_at_once(shared):
    config = shared.directory / "bad.toml"
    config.write_text("[network]\ndevise = 1\n[http]\nport = 0\n")
    done = shared.daemon("--config", config, "serve")
    assert done.returncode == 2
    assert "network.devise: unknown key; did you mean 'network.device'?" in done.stderr
    assert "http.port: found 0" in done.stderr


def test_kill_9_loses_nothing_that_was_answered():
    with site(init=("--no-dnsmasq", "--user", "")) as made:
        made.serve()
        acknowledged = []
        stop = threading.Event()

        def add_nodes():
            with contextlib.suppress(VnfsbuildError):
                for number in range(1, 250):
                    added = made.client.post("/v1/nodes", {"hwaddr": hwaddr(number)})
                    acknowledged.append(added["name"])
                    made.client.post(
                        "/v1/nodes/set",
                        {"key": "method", "value": "pivot", "nodes": [added["name"]]},
                    )
            stop.set()

        adding = threading.Thread(target=add_nodes)
        adding.start()
        eventually(lambda: len(acknowledged) > 25)
        made.kill()
        adding.join(20)
        assert stop.is_set()
        made.serve()
        nodes = {node["name"]: node for node in made.client.get("/v1/nodes")}
        assert set(acknowledged) <= set(nodes)
        for name in acknowledged[:-1]:
            assert nodes[name]["attributes"] == {"method": "pivot"}
        assert len(acknowledged) >= 25
        key = made.checkin(254)["plan"]["name"]
        made.kill()
        made.serve()
        (node,) = made.client.get(f"/v1/nodes?nodes={key}")
        assert node["state"] == "init"


def test_sigterm_ends_it_soon_though_nodes_wait():
    with site(init=("--no-dnsmasq", "--user", "")) as made:
        made.serve()
        digest = made.checkin()["digest"]
        body = {"protocol": 1, "hwaddrs": [hwaddr(1)], "bootId": BOOT, "state": "init",
                "waitSeconds": 100, "plan": digest}  # fmt: skip
        connection = made.tls()
        connection.request("POST", "/v1/checkin", body=json.dumps(body))
        time.sleep(0.5)
        start = time.monotonic()
        made.process.terminate()
        assert made.process.wait(10) == 0
        assert time.monotonic() - start < 4
        connection.close()
        assert not made.socket.exists()


def test_the_server_ends_when_its_parent_is_killed():
    with site(init=("--user", "")) as made:
        made.serve()
        eventually(lambda: "dnsmasq" in made.processes())
        os.kill(made.process.pid, signal.SIGKILL)
        eventually(lambda: made.processes() == {})
        made.process.wait(5)
        made.serve()


# Administrators


def test_only_root_and_the_group_administer(shared):
    script = (
        "from pathlib import Path; from provisiond.client import Client\n"
        "import os; os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        f"Client(Path({str(shared.socket)!r})).get('/v1/nodes')"
    )
    shared.socket.chmod(0o666)  # what a mistaken administrator might do
    try:
        done = shared._run([sys.executable, "-c", script])
    finally:
        shared.socket.chmod(0o660)
    assert "this user may not administer nodes" in done.stderr


def test_an_import_that_is_not_trusted_leaves_the_store_as_it_was(shared):
    before = shared.client.get("/v1/capsules")
    digest = shared.build("unsigned", signed=False)
    path = shared.export(f"unsigned@{digest}")
    done = shared.ctl("vnfs", "import", path)
    assert (done.returncode, "not signed" in done.stderr) == (3, True)
    shared.build("flipped")
    data = bytearray(shared.export("flipped").read_bytes())
    for position in (0, 600, len(data) // 2, len(data) - 1):
        damaged = bytearray(data)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        with path.open("rb") as stream, pytest.raises(VerificationError):
            shared.client.upload("/v1/capsules", stream, len(damaged))
    assert shared.client.get("/v1/capsules") == before
    assert list((shared.state / "incoming").iterdir()) == []


@pytest.mark.parametrize(
    "value", [None, [], {}, {"key": 1, "value": "x", "nodes": ["a"]}, {"hwaddr": []}]
)
@pytest.mark.parametrize("path", ["/v1/nodes", "/v1/nodes/set", "/v1/nodes/approve"])
def test_malformed_requests_of_administrators_are_bad_input(shared, path, value):
    with pytest.raises(InputError):
        shared.client.post(path, value)


def test_events_are_told_as_they_happen(shared):
    last = shared.client.get("/v1/status")["lastEvent"]
    events = shared.client.events(last)
    name = shared.checkin(100)["plan"]["name"]
    kinds = [next(events) for _ in range(3)]
    assert [event["kind"] for event in kinds] == ["node.new", "node.state", "node.plan"]
    assert {event["node"] for event in kinds} == {name}


# Firmware


def test_a_full_disk_is_told_and_nothing_is_half_done():
    directory = Path(tempfile.mkdtemp(prefix="vnfs-test-"))
    (directory / "state").mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "none", directory / "state"], check=True
    )
    made = Site(directory, init=("--no-dnsmasq", "--user", ""))
    try:
        made.serve()
        first = made.checkin()
        before = made.client.get("/v1/nodes")
        made.build()
        filler = made.state / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        done = made.ctl("vnfs", "import", "debian-13-minimal")
        assert done.returncode == 1
        assert "No space left on device" in done.stderr
        failed = {"state": "failed"}
        value = {"protocol": 1, "hwaddrs": [hwaddr(1)], "bootId": BOOT, **failed}
        deadline = time.monotonic() + 20
        status = 200
        # What SQLite still has room for in its log goes well.
        while status == 200 and time.monotonic() < deadline:
            value["state"] = "init" if value["state"] == "failed" else "failed"
            status, answer = made.post(json.dumps(value))
        assert status == 503, answer
        assert "full" in answer["error"]
        done = made.ctl("node", "set", "method", "pivot", "n00001")
        assert done.returncode == 1, done.stderr
        (node,) = made.client.get("/v1/nodes")
        assert node["attributes"] == before[0]["attributes"] == {}
        assert made.client.get("/v1/capsules") == []
        filler.unlink()
        assert made.ctl("vnfs", "import", "debian-13-minimal").returncode == 0
        assert made.ctl("node", "set", "method", "pivot", "n00001").returncode == 0
        assert made.checkin()["plan"]["name"] == first["plan"]["name"]
    finally:
        made.stop()
        subprocess.run(["umount", directory / "state"], check=False)
        made.close()
