"""What provisiond and its dnsmasq tell firmware and bootstraps."""

import os
import signal
import socket
import struct
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from provisiond.agent.client import Client as AgentClient
from provisiond.agent.client import NetworkError
from provisiond.agent.site import load_site
from provisiond.protocol import Checkin, plan_digest
from vnfsbuild import manifest as m
from vnfsbuild import newc

from .daemon import BOOT, SERVER, eventually, hwaddr, site

pytestmark = pytest.mark.integration


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
        # No further drivers: an archive with nothing in it, which every firmware takes.
        empty = made.get("/boot/drivers.cpio?mac=52-54-00-86-00-01")
        assert empty == (200, newc.render_trailer())
        assert made.get("/boot/drivers.cpio?mac=junk")[0] == 400
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
