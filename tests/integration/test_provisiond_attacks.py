"""Who attacks the node server: none gets a secret, none stops the service.

| attack | where below |
|---|---|
| a spoofed hardware address while the node lives; after it | `test_a_spoofed_address…` |
| a missing, wrong, replayed or foreign node key | `test_a_missing_…_key` |
| a source port that any user of a node can use | `test_from_an_unprivileged_port` |
| the overlay of another node, or boot | `test_the_overlay_of_another_node` |
| a secret, by who is not approved or not the node | `test_a_secret_goes…`, `test_nobody_else…` |
| paths that lead out, on every route of every port | `test_paths_that_lead_out`, `TRAVERSALS` |
| JSON that is none, odd, deep or large | `test_malformed_…`, `test_a_huge_body` |
| strings that drive terminals or forge lines | `test_strings_of_nodes_are_cleaned` |
| requests within requests, and garbage | `test_requests_within_requests`, `test_garbage…` |
| slow, silent, endless, flooding clients | `FLOODS`: a good node is answered meanwhile |
| an ordinary user at the administrator's socket | `test_an_ordinary_user_at_the_socket` |
| a plan from a server that the node is not pinned to | `test_a_plan_from_an_unpinned_server` |
"""

import contextlib
import datetime
import json
import os
import random
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time

import pytest

from provisiond.agent.client import CHECKIN_TIMEOUT_SECONDS, NetworkError
from provisiond.agent.client import Client as Agent
from provisiond.agent.site import Site as AgentSite
from provisiond.authority import Authority
from provisiond.protocol import Checkin

from .daemon import BOOT, SERVER, approve, hwaddr, site

pytestmark = pytest.mark.integration

GOOD_SECONDS = CHECKIN_TIMEOUT_SECONDS / 2
"""In which a good node is answered, whatever others do: half of what its agent waits for."""
FLOODERS = 4
ATTACKER = "10.86.0.66"
FLOOD_CHECKINS = 8


def secrets_of(made):
    """Return what no attacker may ever read."""
    kept = ("ca.key", "server.key", "site.secret")
    return [(made.state / "authority" / name).read_bytes().strip() for name in kept]


def tell_no_secret(made, data):
    for secret in secrets_of(made):
        assert secret not in data
    assert b"PRIVATE KEY" not in data
    assert b"nodeKey" not in data


def raw(made, data, *, port=8988, seconds=20.0):
    """Send *data* as it is to *port*; return all that comes back until the server closes."""
    with contextlib.ExitStack() as stack:
        if port == 8987:
            connection = stack.enter_context(contextlib.closing(made.tls())).sock
        else:
            with made.inside():
                connection = stack.enter_context(socket.create_connection((SERVER, port)))
        connection.settimeout(seconds)
        found = b""
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            connection.sendall(data)
            while part := connection.recv(65536):
                found += part
        return found


# Who is it?


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


SECRET = b"the munge key of the cluster"


@pytest.fixture(scope="module")
def secretive():
    """A site where everybody may register, and all nodes are to have a secret file."""
    init = ("--no-dnsmasq", "--user", "", "--registration", "open")
    with site(init=init) as made:
        overlays = made.directory / "overlays"
        secret = overlays / "munge-of-site/files/etc/munge.key"
        secret.parent.mkdir(parents=True)
        secret.write_bytes(SECRET)
        (overlays / "munge-of-site/overlay.toml").write_text("secret = true\n")
        text = made.config.read_text()
        default = '# directory = "/etc/provisiond/overlays"'
        assert default in text
        made.config.write_text(text.replace(default, f'directory = "{overlays}"'))
        made.serve()
        made.build("attacked")
        for words in (("vnfs", "import", "attacked"), ("defaults", "set", "vnfs", "attacked"),
                      ("defaults", "set", "overlays", "munge-of-site")):  # fmt: skip
            done = made.ctl(*words)
            assert done.returncode == 0, done.stderr
        yield made


def overlay_of(made, answer, key, *, boot=BOOT, node_id=None):
    plan = answer["plan"]
    headers = {"X-Node-Id": node_id or plan["nodeId"], "X-Boot-Id": boot, "X-Node-Key": key}
    return made.overlay(plan["overlay"]["digest"], headers)


def test_a_secret_goes_to_nodes_that_an_administrator_approved_only(secretive):
    admitted = secretive.checkin(60)
    assert admitted["plan"]["action"] == "boot"
    status, data = overlay_of(secretive, admitted, admitted["nodeKey"])
    assert status == 200
    assert SECRET not in data

    name = admitted["plan"]["name"]
    secretive.client.post("/v1/nodes/approve", {"nodes": [name]})
    approved = secretive.checkin(60, words={"nodeKey": admitted["nodeKey"]})
    status, data = overlay_of(secretive, approved, admitted["nodeKey"])
    assert status == 200
    assert SECRET in data


def test_nobody_else_gets_the_secret(secretive):
    first = secretive.checkin(61)
    secretive.client.post("/v1/nodes/approve", {"nodes": [first["plan"]["name"]]})
    good = secretive.checkin(61, words={"nodeKey": first["nodeKey"]})
    other = secretive.checkin(62)
    node_id = good["plan"]["nodeId"]
    boot = "d" * 32
    spoofed = secretive.checkin(61, boot=boot)
    assert "overlay" not in spoofed["plan"]
    for key, boot_id, claimed in (
        (other["nodeKey"], BOOT, node_id),
        ("0" * 64, BOOT, node_id),
        ("", BOOT, node_id),
        (first["nodeKey"], boot, node_id),
        (other["nodeKey"], BOOT, other["plan"]["nodeId"]),
    ):
        status, data = overlay_of(secretive, good, key, boot=boot_id, node_id=claimed)
        assert status in (403, 404)
        assert SECRET not in data
    digest = good["plan"]["overlay"]["digest"]
    for path in (f"/blobs/sha256/{digest[7:]}", f"/v1/overlay/{digest}", "/boot/site.cpio"):
        assert SECRET not in secretive.get(path)[1]
    assert SECRET in overlay_of(secretive, good, first["nodeKey"])[1]


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


# What is asked

ROUTES = {
    8988: ("/boot.ipxe", "/boot/kernel?mac=", "/boot/initrd?mac=", "/boot/site.cpio?mac=",
           "/boot/ipxe.efi", "/boot/undionly.kpxe", "/blobs/sha256/"),
    8987: ("/v1/checkin", "/v1/overlay/", "/v1/overlay/sha256:"),
}  # fmt: skip
TRAVERSALS = (
    "../../../../../../etc/passwd", "..%2f..%2f..%2fauthority%2fca.key",
    "%2e%2e/%2e%2e/authority/ca.key",
    "..%252f..%252fauthority%252fca.key", "....//....//authority/ca.key",
    "..\\..\\authority\\ca.key",
    "/etc/passwd", "//etc/passwd", "%00", "..%00/authority/site.secret", "../authority/site.secret",
    "%c0%ae%c0%ae/authority/ca.key", "\xff\xfe", "~root/.ssh/id_rsa", "file:///etc/passwd",
    "sha256/../../../authority/server.key", "A" * 8000,
)  # fmt: skip


@pytest.mark.parametrize("port", ROUTES)
def test_paths_that_lead_out(shared, port):
    """On every route, behind it and instead of it; sent as they are, by no client that tidies."""
    refused = 0
    for route in ROUTES[port]:
        paths = [f"{route}{odd}" for odd in TRAVERSALS] + [f"{route}/{odd}" for odd in TRAVERSALS]
        for path in [*paths, *(f"/{odd}" for odd in TRAVERSALS), f"{SERVER}:{port}{route}"]:
            request = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            answer = raw(shared, request.encode("latin-1"), port=port)
            tell_no_secret(shared, answer)
            assert b"root:" not in answer
            status = int(answer.split(b" ", 2)[1])
            static = path.startswith(("/boot.ipxe?", "/boot/site.cpio?"))
            assert status in (400, 403, 404, 405) or static, (path, answer[:200])
            refused += 1
    assert refused > 100
    shared.checkin(34)


SMUGGLED = b"GET /blobs/sha256/smuggled HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Content-Length: 0\r\nContent-Length: 75\r\n\r\n",
        b"Content-Length: +0\r\n\r\n",
        b"Content-Length: -1\r\n\r\n",
        b"Content-Length: 0x10\r\n\r\n",
        b"Content-Length: 1_0\r\n\r\n",
        b"Content-Length: 0, 75\r\n\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n",
        b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        b"X: y\x00z\r\n\r\n",
        b"X y\r\n\r\n",
    ],
    ids=lambda headers: headers.split(b"\r\n\r\n")[0].decode("latin-1"),
)
@pytest.mark.parametrize("port", [8988, 8987])
def test_requests_within_requests(shared, port, headers):
    """A request whose end is in doubt is refused, and what follows it is not another one."""
    start = b"POST /v1/checkin HTTP/1.1\r\nHost: x\r\n"
    answer = raw(shared, start + headers + SMUGGLED, port=port)
    assert answer.count(b"HTTP/1.1 ") <= 1
    assert b" 400 " in answer.split(b"\r\n")[0]
    assert b"smuggled" not in answer


END = b"\r\n\r\n"


@pytest.mark.parametrize(
    "data",
    [
        b"\x00" * 4096, b"GET / HTTP/9.9\r\n\r\n", b"GET\r\n\r\n",
        b"\xff" * 100 + b"\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"a" * 200_000 + b"\r\n\r\n", b"CONNECT x:1 HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"GET /boot.ipxe HTTP/1.1\r\nConnection: close\r\nRange: bytes=" + b"0-1," * 999 + END,
    ],
    ids=lambda data: data[:24].decode("latin-1"),
)  # fmt: skip
def test_garbage_in_the_place_of_a_request(shared, data):
    tell_no_secret(shared, raw(shared, data, seconds=30.0))
    shared.checkin(34)


# Clients that cost something


def flood_silent(made, stop, port=8987):
    """Connections that say nothing."""
    with contextlib.ExitStack() as stack:
        while not stop.is_set():
            for _ in range(50):
                stack.enter_context(connected(made, port))
            stop.wait(0.2)


def flood_headers(made, stop, port=8988):
    """Requests that never end: a header line now and then."""
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(connected(made, port)) for _ in range(100)]
        for connection in held:
            connection.sendall(b"GET /boot.ipxe HTTP/1.1\r\nHost: x\r\n")
        while not stop.wait(0.2):
            for connection in held:
                with contextlib.suppress(OSError):
                    connection.sendall(b"X-A: b\r\n")


def flood_tls_headers(made, stop):
    """The same within TLS, from many ports that an agent could have."""
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(contextlib.closing(attacking(made))).sock for _ in range(10)]
        while not stop.wait(0.2):
            for connection in held:
                with contextlib.suppress(OSError):
                    connection.sendall(b"GET /v1/checkin HTTP/1.1\r\nX-A: ")


def flood_bodies(made, stop):
    """Bodies that come a byte at a time."""
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(contextlib.closing(attacking(made))).sock for _ in range(10)]
        for connection in held:
            connection.sendall(b"POST /v1/checkin HTTP/1.1\r\nContent-Length: 60000\r\n\r\n{")
        while not stop.wait(0.2):
            for connection in held:
                with contextlib.suppress(OSError):
                    connection.sendall(b" ")


def flood_endless_headers(made, stop):
    """As many headers as the wire takes."""
    while not stop.is_set():
        with connected(made, 8988) as connection, contextlib.suppress(OSError):
            connection.sendall(b"GET /boot.ipxe HTTP/1.1\r\n")
            while not stop.is_set():
                connection.sendall(b"X-Header: " + b"a" * 4000 + b"\r\n")


def flood_huge_bodies(made, stop):
    """Bodies of a gigabyte, as far as they are taken."""
    while not stop.is_set():
        with contextlib.closing(attacking(made)) as connection, contextlib.suppress(OSError):
            connection.sock.sendall(
                b"POST /v1/checkin HTTP/1.1\r\nContent-Length: 1000000000\r\n\r\n"
            )
            while not stop.is_set():
                connection.sock.sendall(b"x" * 65536)


def flood_tls_garbage(made, stop):
    """What is no TLS, on its port."""
    source = random.Random(7)
    while not stop.is_set():
        with connected(made, 8987) as connection, contextlib.suppress(OSError):
            start = source.choice(
                [b"", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET / HTTP/1.1\r\n"]
            )
            connection.sendall(start + source.randbytes(2000))


def flood_readers(made, stop):
    """Large answers that nobody reads."""
    with contextlib.ExitStack() as stack:
        for _ in range(50):
            connection = stack.enter_context(connected(made, 8988))
            connection.sendall(
                f"GET /blobs/sha256/{made.large} HTTP/1.1\r\nHost: x\r\n\r\n".encode() * 10
            )
        stop.wait()


def flood_new_nodes(made, stop):
    """Machines that nobody has, each with an address of its own."""
    source = random.Random(threading.get_ident())
    while not stop.is_set():
        strange = "02:" + ":".join(f"{byte:02x}" for byte in source.randbytes(5))
        with contextlib.suppress(OSError):
            post(made, json.dumps({**GOOD, "hwaddrs": [strange]}))


def flood_keys(made, stop):
    """Keys that are guessed."""
    source = random.Random(threading.get_ident())
    while not stop.is_set():
        words = {**GOOD, "hwaddrs": [hwaddr(35)], "nodeKey": source.randbytes(32).hex()}
        with contextlib.suppress(OSError):
            status, _ = post(made, json.dumps(words))
            assert status == 403


def flood_json(made, stop):
    """JSON that is deep, and numbers that are long."""
    while not stop.is_set():
        with contextlib.suppress(OSError):
            post(made, b"[" * 60_000)
            post(made, b'{"protocol": ' + b"9" * 60_000 + b"}")


FLOODS = (
    flood_silent, flood_headers, flood_tls_headers, flood_bodies, flood_endless_headers,
    flood_huge_bodies, flood_tls_garbage, flood_readers, flood_new_nodes, flood_keys, flood_json,
)  # fmt: skip


@contextlib.contextmanager
def connected(made, port):
    with made.inside():
        connection = socket.create_connection((SERVER, port), 10, (ATTACKER, 0))
    with connection:
        yield connection


def add_attacker(made):
    """Give the machines' side an address that only attackers use: their ports are theirs."""
    words = ["address", "replace", f"{ATTACKER}/24", "dev", "wire0"]
    subprocess.run(["ip", "-n", f"{made.name}c", *words], check=True)


def attacking(made):
    """Return a TLS connection of the attacker, whose ports are free again when it is closed."""
    connection = made.tls(address=ATTACKER)
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return connection


def post(made, body):
    with contextlib.closing(attacking(made)) as connection:
        connection.request("POST", "/v1/checkin", body=body)
        answered = connection.getresponse()
        return answered.status, json.loads(answered.read())


@pytest.fixture(scope="module")
def good(shared):
    """A node that is approved and has its key, and a large blob that others may ask for."""
    shared.large = "0" * 64
    blobs = shared.state / "store/blobs/sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    with (blobs / shared.large).open("wb") as file:
        file.truncate(256 * 1024 * 1024)
    _, key = approve(shared, 35)
    return key


@pytest.mark.parametrize("flood", FLOODS, ids=lambda flood: flood.__name__)
def test_a_good_node_is_answered_meanwhile(shared, good, flood):
    stop = threading.Event()
    faults = []
    add_attacker(shared)

    def attack():
        try:
            flood(shared, stop)
        except AssertionError as error:
            faults.append(error)
        except OSError:
            pass

    threads = [threading.Thread(target=attack) for _ in range(FLOODERS)]
    for thread in threads:
        thread.start()
    try:
        time.sleep(0.5)
        waited = []
        for _ in range(FLOOD_CHECKINS):
            start = time.monotonic()
            shared.checkin(35, "ready", words={"nodeKey": good})
            waited.append(time.monotonic() - start)
            time.sleep(0.1)
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    assert not faults
    assert max(waited) < GOOD_SECONDS, waited
    assert "a bug" not in shared.log.read_text()


def test_slow_clients_are_dropped_and_stop_nobody(shared):
    """One that says nothing, one that trickles a request, one that trickles a body."""
    with contextlib.ExitStack() as stack:
        with shared.inside():
            silent, unfinished, empty, no_handshake = (
                stack.enter_context(socket.create_connection((SERVER, port)))
                for port in (8988, 8988, 8988, 8987)
            )
        empty.sendall(b"\r\n" * 5000)
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
        for connection in (silent, unfinished, empty, no_handshake, body.sock):
            connection.settimeout(60)
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                assert connection.recv(1) in (b"", b"H")
        assert time.monotonic() - start < 60
        shared.checkin(32)


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


def test_new_nodes_are_five_a_second_and_total_nodes_in_all():
    """However fast they come: names and the database are not to be had for nothing."""
    with site(init=("--no-dnsmasq", "--user", "")) as made:
        made.config.write_text(
            made.config.read_text().replace("# total_nodes = 10000", "total_nodes = 12")
        )
        made.serve()
        add_attacker(made)
        stop = threading.Event()
        threads = [
            threading.Thread(target=flood_new_nodes, args=(made, stop)) for _ in range(FLOODERS)
        ]
        start = time.monotonic()
        for thread in threads:
            thread.start()
        seen = []
        while time.monotonic() - start < 4:
            nodes = len(made.client.get("/v1/nodes"))
            seen.append((time.monotonic() - start, nodes))
            time.sleep(0.2)
        stop.set()
        for thread in threads:
            thread.join(30)
        assert all(nodes <= 5 * (seconds + 1) for seconds, nodes in seen), seen
        assert len(made.client.get("/v1/nodes")) == 12
        answer = made.checkin(99)
        assert "as many nodes as its total_nodes allows" in answer["plan"]["reason"]


# Elsewhere


def test_an_ordinary_user_at_the_socket(shared):
    """Who may connect, by a mistake of mode, is asked for his user by the kernel on every route."""
    script = (
        "import os, socket; os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        f"for method, path in {ADMIN_ROUTES!r}:\n"
        "    s = socket.socket(socket.AF_UNIX); s.connect(os.environ['SOCK'])\n"
        "    head = f'{method} {path} HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: 0'\n"
        "    s.sendall((head + '\\r\\n\\r\\n').encode())\n"
        "    print(s.recv(65536).split(b' ')[1].decode())\n"
    )
    run = [sys.executable, "-c", script]
    env = {**os.environ, "SOCK": str(shared.socket)}
    closed = subprocess.run(run, env=env, capture_output=True, text=True, check=False)
    assert "PermissionError" in closed.stderr
    shared.socket.chmod(0o666)
    try:
        done = subprocess.run(run, env=env, capture_output=True, text=True, check=True)
    finally:
        shared.socket.chmod(0o660)
    assert set(done.stdout.split()) == {"403"}
    assert len(done.stdout.split()) == len(ADMIN_ROUTES)


ADMIN_ROUTES = (
    ("GET", "/v1/status"), ("GET", "/v1/nodes"), ("GET", "/v1/nodes/show"), ("POST", "/v1/nodes"),
    ("POST", "/v1/nodes/set"), ("POST", "/v1/nodes/approve"), ("POST", "/v1/nodes/delete"),
    ("POST", "/v1/groups"), ("GET", "/v1/groups"), ("POST", "/v1/settings/set"),
    ("GET", "/v1/export?secrets=1"), ("POST", "/v1/import"), ("GET", "/v1/capsules"),
    ("POST", "/v1/capsules"), ("POST", "/v1/capsules/delete"), ("GET", "/v1/events?wait=5"),
    ("GET", "/v1/no-such-route"),
)  # fmt: skip


def test_a_plan_from_an_unpinned_server(shared, tmp_path):
    """A machine that answers in the server's place has not its key: no plan of it is even read."""
    other = Authority(tmp_path / "authority")
    other.create(now=datetime.datetime.now(tz=datetime.UTC))
    pinned = shared.state / "authority/ca.pem"
    checkin = Checkin(hwaddrs=(hwaddr(36),), boot_id=BOOT, state="init")
    url = f"https://{SERVER}:8987"
    for ca, believed in ((pinned, True), (other.ca_certificate, False)):
        agent = Agent(AgentSite(servers=(url,), ca_file=ca, trust=b""))
        with shared.inside():
            if believed:
                assert agent.checkin(checkin).plan.action == "wait"
            else:
                with pytest.raises(NetworkError, match="its certificate is not to be trusted"):
                    agent.checkin(checkin)
