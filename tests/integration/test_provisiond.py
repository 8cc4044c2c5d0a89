"""provisiond as people run it: its programs, its sockets, its dnsmasq, and who attacks them.

The daemon runs in a network namespace of its own; the nodes are sockets in another.
"""

import contextlib
import errno
import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from provisiond.agent.client import Client as AgentClient
from provisiond.agent.client import NetworkError
from provisiond.agent.site import load_site
from provisiond.client import Client
from provisiond.protocol import Checkin, plan_digest
from vnfsbuild import manifest as m
from vnfsbuild.errors import InputError, VerificationError, VnfsbuildError
from vnfsbuild.keys import find_signing_key, new_key, sign_manifest
from vnfsbuild.reference import parse_reference
from vnfsbuild.store import Store

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
SERVER = "10.86.0.1"
FIRST = "10.86.0.100"
CLONE_NEWNET = 0x40000000
BOOT = "0123456789abcdef" * 2


def hwaddr(number):
    return f"52:54:00:86:00:{number:02x}"


class Site:
    """A node server in a namespace, machines in another, and a wire between the two."""

    def __init__(self, directory: Path, *, init=()):
        self.directory = directory
        self.config = directory / "provisiond.toml"
        self.socket = directory / "run/sock"
        self.state = directory / "state"
        self.log = directory / "log"
        self.keys = directory / "keys"
        self.builds = Store(directory / "builds")
        self.client = Client(self.socket)
        self.name = f"vnfst{uuid.uuid4().hex[:6]}"
        self.process = None
        new_key(self.keys, "dev", now=int(time.time()))
        for side, address in (("s", f"{SERVER}/24"), ("c", "10.86.0.50/24")):
            self._ip("netns", "add", self.name + side)
            self._ip("-n", self.name + side, "link", "set", "lo", "up")
            if side == "c":
                self._ip("-n", self.name + "s", "link", "add", "wire0", "type", "veth",
                         "peer", "name", "wire0", "netns", self.name + "c")  # fmt: skip
                self._ip("-n", self.name + "s", "address", "add", f"{SERVER}/24", "dev", "wire0")
                self._ip("-n", self.name + "c", "address", "add", address, "dev", "wire0")
                for end in "sc":
                    self._ip("-n", self.name + end, "link", "set", "wire0", "up")
        done = self.daemon(
            "init", "--device", "wire0", "--address", f"{SERVER}/24",
            "--range", f"{FIRST}-10.86.0.199", "--state-dir", self.state, "--socket", self.socket,
            "--trust", self.keys / "trust.json", *init,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    def _ip(self, *words):
        subprocess.run(["ip", *words], check=True)

    def _argv(self, module, *words):
        return [sys.executable, "-m", module, *map(str, words)]

    def _run(self, argv):
        env = {**os.environ, "PYTHONPATH": str(ROOT), "VNFS_STORE": str(self.builds.path)}
        return subprocess.run(
            argv, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )

    def daemon(self, *words):
        argv = self._argv("provisiond", "--config", self.config, *words)
        return self._run(["ip", "netns", "exec", self.name + "s", *argv])

    def ctl(self, *words):
        return self._run(self._argv("provisiond.ctl", "--socket", self.socket, *words))

    def serve(self):
        argv = self._argv("provisiond", "--config", self.config, "serve")
        # A process group of its own, to be killed as a whole.
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                ["ip", "netns", "exec", self.name + "s", *readable_by_all(argv, self.directory)],
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        try:
            self.client.wait_until_up(20)
        except VnfsbuildError:
            pytest.fail(self.log.read_text())
        return self

    def stop(self):
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)

    def kill(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)

    def close(self):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if self.process is not None:
                os.killpg(self.process.pid, signal.SIGKILL)
        if self.process is not None:
            self.process.wait(10)
        for side in "sc":
            subprocess.run(["ip", "netns", "delete", self.name + side], check=False)
        shutil.rmtree(self.directory)

    @contextlib.contextmanager
    def inside(self, side="c"):
        """Make the sockets of this thread those of a machine: a socket stays where it was made."""
        here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(f"/run/netns/{self.name}{side}", os.O_RDONLY)
        try:
            _setns(there)
            yield
        finally:
            _setns(here)
            os.close(here)
            os.close(there)

    def tls(self, *, port=None, address="10.86.0.50", privileged=True):
        """Return a TLS connection to the agents' port."""
        context = ssl.create_default_context(cafile=self.state / "authority/ca.pem")
        while True:
            source = (address, _privileged_port() if privileged else 0)
            connection = http.client.HTTPSConnection(
                SERVER, port or 8987, timeout=20, context=context, source_address=source
            )
            try:
                with self.inside():
                    connection.connect()
                return connection
            except OSError as error:
                # An earlier connection from this port is not forgotten yet.
                if error.errno not in (errno.EADDRINUSE, errno.EADDRNOTAVAIL):
                    raise

    def post(self, body, **words):
        connection = self.tls(**words)
        try:
            connection.request("POST", "/v1/checkin", body=body)
            answered = connection.getresponse()
            return answered.status, json.loads(answered.read())
        finally:
            connection.close()

    def checkin(self, number=1, state="init", *, boot=BOOT, expect=200, words=None, **more):
        value = {"protocol": 1, "hwaddrs": [hwaddr(number)], "bootId": boot, "state": state}
        body = json.dumps({**value, **(words or {})})
        status, answer = self.post(body, **more)
        while status == 503 and "too many new nodes" in answer["error"]:
            # As an agent does: it comes again after what Retry-After says.
            time.sleep(1)
            status, answer = self.post(body, **more)
        assert status == expect, answer
        return answer

    def get(self, path, *, method="GET", headers=None):
        connection = http.client.HTTPConnection(SERVER, 8988, timeout=10)
        with self.inside():
            connection.connect()
        connection.request(method, path, headers=headers or {})
        answered = connection.getresponse()
        data = answered.read()
        connection.close()
        return answered.status, data

    def overlay(self, digest, headers, **words):
        connection = self.tls(**words)
        connection.request("GET", f"/v1/overlay/{digest}", headers=headers)
        answered = connection.getresponse()
        data = answered.read()
        connection.close()
        return answered.status, data

    def build(self, name="debian-13-minimal", serial=1, *, kind=m.CAPSULE, signed=True):
        parts = [m.SOURCE, m.KERNEL, m.INITRD] + ([m.LAYER_SQUASHFS] if kind == m.CAPSULE else [])
        payloads = tuple(
            self.builds.add_blob(f"{name} {serial} {part}".encode() * 999, media_type=part)
            for part in parts
        )
        config = m.render_config(
            m.Config(
                name=name, serial=serial, architecture="x86_64", distribution="debian trixie",
                epoch=1, kernel=m.Kernel("6.12.0-test", ()),
                layers=("rootfs",) * (len(parts) - 3), bootstrap_protocol=1,
            )
        )  # fmt: skip
        described = self.builds.add_blob(config, media_type=m.CONFIG)
        manifest = m.render_manifest(m.Manifest(kind, described, payloads))
        envelopes = [sign_manifest(manifest, find_signing_key(self.keys, "dev"))] if signed else []
        return self.builds.add_capsule(manifest, config, envelopes)

    def export(self, reference):
        path = self.directory / "exported.vnfs"
        self.builds.export(parse_reference(reference), path)
        return path

    def processes(self):
        """Return name → pid of all that runs in the server's namespace."""
        listed = subprocess.run(
            ["ip", "netns", "pids", self.name + "s"], capture_output=True, text=True, check=True
        )
        found = {}
        for pid in listed.stdout.split():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                name = Path(f"/proc/{pid}/comm").read_text().strip()
                found.setdefault(name, []).append(int(pid))
        return found


def readable_by_all(argv, directory):
    """Return an argv that runs *argv* where every user can read this Python and this checkout.

    They may lie below a directory of root's. ``ip netns exec`` gives a mount namespace to its
    program: there the closed directory is replaced by an open one with just these in it.
    """
    wanted = {Path(path).resolve() for path in (sys.base_prefix, sys.prefix, ROOT)}
    closed = {
        above: {path for path in wanted if path.is_relative_to(above)}
        for path in wanted
        # the topmost directory above it, and itself
        for above in ([*reversed(path.parents), path][1], path)
        if not above.stat().st_mode & 0o001
    }
    script = []
    for above, paths in closed.items():
        aside = tempfile.mkdtemp(dir=directory, prefix="aside-")
        script.append(f"mount -t tmpfs none {aside}")
        for number, path in enumerate(paths):
            script.append(f"mkdir {aside}/{number}; mount --bind {path} {aside}/{number}")
        script.append(f"mount -t tmpfs -o mode=755 none {above}")
        for number, path in enumerate(paths):
            script.append(f"mkdir -p {path}; mount --bind {aside}/{number} {path}")
    return ["sh", "-ec", "\n".join([*script, 'exec "$@"']), "sh", *argv] if script else argv


_ports = iter(list(range(1023, 513, -1)) * 100)


def _privileged_port():
    return next(_ports)


def _setns(descriptor):
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def eventually(true, *, seconds=10):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if true():
            return
        time.sleep(0.05)
    pytest.fail("did not come true in time")


@contextlib.contextmanager
def site(**words):
    # Below pytest's own directory another user could not go.
    directory = Path(tempfile.mkdtemp(prefix="vnfs-test-"))
    directory.chmod(0o755)
    made = Site(directory, **words)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def shared():
    """One daemon without dnsmasq for all tests that only ask it; each takes nodes of its own."""
    with site(init=("--no-dnsmasq", "--user", "")) as made:
        yield made.serve()


def approve(made, number):
    name = made.checkin(number)["plan"]["name"]
    made.client.post("/v1/nodes/approve", {"nodes": [name]})
    key = made.checkin(number)["nodeKey"]
    made.checkin(number, words={"nodeKey": key})
    return name, key


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


def test_what_firmware_fetches():
    with site(init=("--user", "")) as made:
        made.serve()
        assert made.get("/boot/kernel?mac=52-54-00-86-00-01")[0] == 404
        made.build("bootstrap", kind=m.BOOTSTRAP)
        assert made.ctl("vnfs", "import", "bootstrap").returncode == 0
        status, script = made.get("/boot.ipxe")
        assert status == 200
        assert script.startswith(b"#!ipxe\n")
        kernel = f"bootstrap 1 {m.KERNEL}".encode() * 999
        assert made.get("/boot/kernel?mac=52-54-00-86-00-01") == (200, kernel)
        initrd = f"bootstrap 1 {m.INITRD}".encode() * 999
        assert made.get("/boot/initrd?mac=52:54:00:86:00:01") == (200, initrd)
        assert made.get("/boot/kernel?mac=junk")[0] == 400
        assert made.get("/boot/kernel")[0] == 400
        status, cpio = made.get("/boot/site.cpio?mac=52-54-00-86-00-01")
        assert b'{"protocol":1,"servers":["https://10.86.0.1:8987"]}' in cpio
        assert (made.keys / "trust.json").read_bytes() in cpio
        assert (made.state / "authority/ca.pem").read_bytes() in cpio
        efi = Path("/usr/lib/ipxe/ipxe.efi").read_bytes()
        assert made.get("/boot/ipxe.efi") == (200, efi)
        assert made.get("/boot/ipxe.efi", method="HEAD") == (200, b"")
        blob = f"/blobs/sha256/{m.digest_of(kernel)[7:]}"
        assert made.get(blob, headers={"Range": "bytes=10-19"}) == (206, kernel[10:20])
        for path in ("/blobs/sha256/" + "0" * 64, "/blobs/sha256/..%2f..%2findex.json",
                     "/boot/..%2f..%2fauthority%2fca.key", "/boot/../authority/ca.key",
                     "/v1/checkin", "/v1/nodes"):  # fmt: skip
            assert made.get(path)[0] in (400, 404, 405), path


def test_the_agent_of_the_nodes_and_the_daemon_understand_each_other(shared, tmp_path):
    """The real client, with what it finds in the real site.cpio."""
    _, cpio = shared.get("/boot/site.cpio?mac=52-54-00-86-00-13")
    subprocess.run(["cpio", "--extract", "--quiet", "--make-directories"], input=cpio,
                   cwd=tmp_path, check=True)  # fmt: skip
    agent = AgentClient(load_site(tmp_path / "vnfs/site"))
    digest = shared.build("spoken")
    assert shared.ctl("vnfs", "import", "spoken").returncode == 0
    checkin = Checkin(hwaddrs=(hwaddr(19),), boot_id=BOOT, state="init")
    with shared.inside():
        first = agent.checkin(checkin)
    assert abs(first.time - time.time()) < 5
    shared.client.post(
        "/v1/nodes/set", {"key": "vnfs", "value": "spoken", "nodes": [first.plan.name]}
    )
    with shared.inside():
        second = agent.checkin(replace(checkin, plan=plan_digest(first.plan), wait_seconds=30))
        overlay = b"".join(
            agent.overlay(
                second.plan.overlay,
                node_id=second.plan.node_id,
                boot_id=BOOT,
                node_key=second.node_key,
            )
        )
    assert second.plan.capsule.digest == digest
    assert m.digest_of(overlay) == second.plan.overlay.digest
    with shared.inside(), pytest.raises(NetworkError, match=r"answered 403: .*node key"):
        agent.checkin(replace(checkin, node_key="0" * 64))


# Attacks on the agents' port


def test_from_an_unprivileged_port(shared):
    answer = shared.checkin(20, expect=403, privileged=False)
    assert "expected one below 1024" in answer["error"]
    assert shared.overlay("sha256:" + "0" * 64, {}, privileged=False)[0] == 403


def test_a_spoofed_address_while_the_node_lives(shared):
    _, key = approve(shared, 21)
    answer = shared.checkin(21, boot="f" * 32)
    assert answer["plan"]["reason"].startswith("conflict")
    assert "nodeKey" not in answer
    assert "overlay" not in answer["plan"]
    shared.checkin(21, words={"nodeKey": key})


def test_a_missing_wrong_replayed_or_foreign_key(shared):
    _, first = approve(shared, 22)
    _, second = approve(shared, 23)
    shared.checkin(22, expect=403)
    shared.checkin(22, words={"nodeKey": "0" * 64}, expect=403)
    shared.checkin(22, words={"nodeKey": second}, expect=403)
    shared.checkin(22, "halted", words={"nodeKey": first})
    boot = "e" * 32
    shared.checkin(22, boot=boot, words={"nodeKey": first}, expect=403)
    key = shared.checkin(22, boot=boot)["nodeKey"]
    shared.checkin(22, words={"nodeKey": first}, expect=403)
    shared.checkin(22, boot=boot, words={"nodeKey": key})


def test_the_overlay_of_another_node(shared):
    shared.build("attacked")
    assert shared.ctl("vnfs", "import", "attacked").returncode == 0
    plans = {}
    for number in (24, 25):
        name, key = approve(shared, number)
        shared.client.post("/v1/nodes/set", {"key": "vnfs", "value": "attacked", "nodes": [name]})
        plans[number] = (shared.checkin(number, words={"nodeKey": key})["plan"], key)
    (mine, my_key), (other, _) = plans[24], plans[25]
    good = {"X-Node-Id": mine["nodeId"], "X-Boot-Id": BOOT, "X-Node-Key": my_key}
    assert shared.overlay(mine["overlay"]["digest"], good)[0] == 200
    for headers, digest in (
        ({**good, "X-Node-Id": other["nodeId"]}, other["overlay"]["digest"]),
        ({**good, "X-Node-Id": "../x"}, other["overlay"]["digest"]),
        ({**good, "X-Boot-Id": "0" * 32}, mine["overlay"]["digest"]),
        ({**good, "X-Node-Key": "é"}, mine["overlay"]["digest"]),
        ({key: good[key] for key in ("X-Node-Id", "X-Boot-Id")}, mine["overlay"]["digest"]),
        ({}, mine["overlay"]["digest"]),
    ):
        assert shared.overlay(digest, headers)[0] == 403
    assert shared.overlay(other["overlay"]["digest"], good)[0] == 404
    assert shared.overlay("sha256:..%2f..%2fauthority%2fca.key", good)[0] == 400


GOOD = {"protocol": 1, "hwaddrs": [hwaddr(30)], "bootId": BOOT, "state": "init"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"x"',
        b"\xff\xfe",
        b"[" * 60_000,
        b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
        b'{"protocol": 1' + b"0" * 5000 + b"}",
        b'{"protocol": NaN}',
        *(
            json.dumps({**GOOD, **change}).encode()
            for change in (
                {"protocol": 2}, {"protocol": True}, {"protocol": "1"}, {"hwaddrs": []},
                {"hwaddrs": "x"}, {"hwaddrs": ["../../etc"]}, {"hwaddrs": [hwaddr(30)] * 65},
                {"bootId": "x"}, {"bootId": None}, {"state": "root"}, {"nodeKey": "x"},
                {"waitSeconds": -1}, {"waitSeconds": 10**9}, {"waitSeconds": 1.5},
                {"plan": "x"}, {"capsule": "sha256:../../x"}, {"report": []},
                {"report": {"x": {}}}, {"report": {"x": True}}, {"detail": 7}, {"uuid": "x"},
            )
        ),
    ],
    ids=lambda body: body[:40].decode("latin-1"),
)  # fmt: skip
def test_malformed_checkins_of_every_kind(shared, body):
    status, answer = shared.post(body)
    assert status == 400
    assert answer["error"]


def test_a_huge_body(shared):
    status, _ = shared.post(b'{"detail": "' + b"x" * 1_000_000 + b'"}')
    assert status == 413


def test_strings_of_nodes_are_cleaned(shared):
    shared.checkin(31, "failed", words={"detail": "\x1b[2Jgone\u202e", "report": {"k": "\x07"}})
    node = next(n for n in shared.client.get("/v1/nodes") if n["nodeId"] == hwaddr(31))
    assert node["detail"] == "?[2Jgone?"
    assert node["report"] == {"k": "?"}
    assert "\x1b" not in shared.ctl("node", "status").stdout


def test_slow_clients_are_dropped_and_stop_nobody(shared):
    """One that says nothing, one that trickles a request, one that trickles a body."""
    with contextlib.ExitStack() as stack:
        with shared.inside():
            silent, unfinished, no_handshake = (
                stack.enter_context(socket.create_connection((SERVER, port)))
                for port in (8988, 8988, 8987)
            )
        unfinished.sendall(b"GET /boot.ipxe HTTP/1.1\r\nHost:")
        body = stack.enter_context(contextlib.closing(shared.tls()))
        body.putrequest("POST", "/v1/checkin")
        body.putheader("Content-Length", "1000")
        body.endheaders()
        body.send(b"{")
        start = time.monotonic()
        for _ in range(5):
            shared.checkin(32)
        # They are dropped after ten seconds and more; nobody waits for that.
        assert time.monotonic() - start < 10
        for connection in (silent, unfinished, no_handshake, body.sock):
            connection.settimeout(60)
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                assert connection.recv(1) in (b"", b"H")
        assert time.monotonic() - start < 60
        shared.checkin(32)


def test_many_idle_connections_stop_nobody(shared):
    with contextlib.ExitStack() as stack:
        with shared.inside():
            for _ in range(500):
                stack.enter_context(socket.create_connection((SERVER, 8987)))
        start = time.monotonic()
        shared.checkin(33)
        assert time.monotonic() - start < 10


def test_old_tls_is_refused(shared):
    context = ssl.create_default_context(cafile=shared.state / "authority/ca.pem")
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        context.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with shared.inside():
        plain = socket.create_connection((SERVER, 8987), timeout=10)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        context.wrap_socket(plain, server_hostname=SERVER)
    plain.close()


def test_registration_is_slow_on_purpose(shared):
    # Twelve at once, of which five fit into a second; the rest is told to come again.
    time.sleep(1)
    seen = set()
    threads = [
        threading.Thread(
            target=lambda n=number: seen.add(shared.post(json.dumps(
                {**GOOD, "hwaddrs": [hwaddr(n)]}))[0])
        )
        for number in range(40, 52)
    ]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert seen == {200, 503}


# dnsmasq


DISCOVER, OFFER = 1, 2


def dhcp(made, number, options=(), *, timeout=5):
    """Broadcast a discover as a machine does; return (address, options by number, file)."""
    mac = bytes.fromhex(hwaddr(number).replace(":", ""))
    packet = struct.pack(
        "!BBBBIHH4s4s4s4s16s64s128s4s", 1, 1, 6, 0, number, 0, 0x8000, b"", b"", b"", b"",
        mac, b"", b"", bytes([99, 130, 83, 99]),
    )  # fmt: skip
    packet += bytes([53, 1, DISCOVER, 55, 6, 1, 3, 6, 12, 60, 67])
    for option, value in options:
        packet += bytes([option, len(value)]) + value
    packet += b"\xff"
    with made.inside():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"wire0")
    sock.bind(("", 68))
    sock.settimeout(timeout)
    try:
        sock.sendto(packet, ("255.255.255.255", 67))
        data = sock.recv(4096)
    finally:
        sock.close()
    found, rest = {}, data[240:]
    while rest and rest[0] != 255:
        if rest[0] == 0:
            rest = rest[1:]
            continue
        found[rest[0]] = rest[2 : 2 + rest[1]]
        rest = rest[2 + rest[1] :]
    file = found.get(67) or data[108:236]
    return socket.inet_ntoa(data[16:20]), found, file.rstrip(b"\0").decode()


def arch(number):
    return (93, struct.pack("!H", number))


def tftp(made, name):
    with made.inside():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(5)
    sock.sendto(b"\0\x01" + name.encode() + b"\0octet\0", (SERVER, 69))
    data = b""
    while True:
        block, peer = sock.recvfrom(1024)
        assert block[:2] == b"\0\x03", block
        data += block[4:]
        sock.sendto(b"\0\x04" + block[2:4], peer)
        if len(block) < 516:
            sock.close()
            return data


def resolve(made, name):
    query = struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, 0)
    query += b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    query += b"\0\0\x01\0\x01"
    with made.inside():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(5)
    sock.sendto(query, (SERVER, 53))
    data = sock.recv(1024)
    sock.close()
    answers = struct.unpack("!H", data[6:8])[0]
    return socket.inet_ntoa(data[-4:]) if answers else None


@pytest.mark.parametrize("user", ["", "nobody"], ids=["as root", "as other users"])
def test_dnsmasq_boots_every_firmware_and_knows_the_nodes(user):
    with site(init=("--user", user)) as made:
        made.serve()
        eventually(lambda: "dnsmasq" in made.processes())
        owners = {
            name: {Path(f"/proc/{pid}").stat().st_uid for pid in pids}
            for name, pids in made.processes().items()
        }
        assert (0 in owners["dnsmasq"]) == (user == "")
        if user:
            assert len(set().union(*owners.values())) == 3
        eventually(lambda: "sockets bound" in made.log.read_text())

        def boot_file(number, *options):
            return dhcp(made, number, options)[2]

        assert boot_file(1) == "undionly.kpxe"
        assert boot_file(2, arch(0)) == "undionly.kpxe"
        assert boot_file(3, arch(7)) == "ipxe.efi"
        assert boot_file(4, arch(9)) == "ipxe.efi"
        _, options, file = dhcp(made, 5, (arch(16), (60, b"HTTPClient:Arch:00016")))
        assert file == "http://10.86.0.1:8988/boot/ipxe.efi"
        assert options[60] == b"HTTPClient"
        for more in ((), (arch(7),), (arch(16),)):
            ipxe = (175, b"\x01\x01\x01")
            assert boot_file(6, ipxe, *more) == "http://10.86.0.1:8988/boot.ipxe"
        assert tftp(made, "undionly.kpxe") == Path("/usr/lib/ipxe/undionly.kpxe").read_bytes()

        added = made.client.post(
            "/v1/nodes", {"hwaddr": hwaddr(7), "attributes": {"address": "10.86.0.77"}}
        )
        eventually(lambda: dhcp(made, 7)[0] == "10.86.0.77")
        assert resolve(made, added["name"]) == "10.86.0.77"
        assert dhcp(made, 7)[1].get(12) == added["name"].encode()
        made.client.post(
            "/v1/nodes/set", {"key": "address", "value": "10.86.0.78", "nodes": [added["name"]]}
        )
        eventually(lambda: dhcp(made, 7)[0] == "10.86.0.78")
        made.client.post("/v1/nodes/delete", {"nodes": [added["name"]]})
        eventually(lambda: dhcp(made, 7)[0] not in ("10.86.0.77", "10.86.0.78"))
        # A machine does not choose its own name.
        dhcp(made, 8, [(12, b"n00002")])
        assert resolve(made, "n00002") is None


def test_dnsmasq_that_dies_is_started_again_and_ends_with_the_daemon():
    with site(init=("--user", "nobody")) as made:
        made.serve()
        eventually(lambda: "dnsmasq" in made.processes())
        (first,) = made.processes()["dnsmasq"]
        os.kill(first, signal.SIGKILL)
        eventually(lambda: made.processes().get("dnsmasq", [first]) != [first])
        events = made.client.get("/v1/events?since=0&wait=0")["events"]
        told = [event["text"] for event in events if event["kind"] == "dnsmasq.died"]
        assert told == ["dnsmasq ended: killed by SIGKILL; it is started again in 1 s"]
        made.process.terminate()
        assert made.process.wait(10) == 0
        assert made.processes() == {}


def test_all_end_when_the_parent_is_killed_though_they_are_other_users():
    with site(init=("--user", "nobody")) as made:
        made.serve()
        eventually(lambda: "dnsmasq" in made.processes())
        os.kill(made.process.pid, signal.SIGKILL)
        eventually(lambda: made.processes() == {})


def test_a_node_is_bound_to_its_lease():
    with site(init=("--user", "")) as made:
        made.serve()
        leases = made.state / "leases/dnsmasq.leases"
        leases.write_text(f"0 {hwaddr(1)} 10.86.0.50 * *\n0 {hwaddr(2)} 10.86.0.120 * *\n")
        assert made.checkin(1)["plan"]["action"] == "wait"
        answer = made.checkin(2, expect=403)
        assert "checks in from 10.86.0.50, expected 10.86.0.120" in answer["error"]


def test_a_missing_ipxe_is_told():
    with site(init=("--ipxe-dir", "/none")) as made:
        done = made.daemon("serve")
        assert done.returncode == 2
        assert "/none/undionly.kpxe" in done.stderr
        assert "apt-get install ipxe" in done.stderr


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
