"""What goes wrong while a node boots, and how that ends: jumped, waiting or failed, and told.

The bootstrap's own init and agent, a node server, and the wire between the two, all real. The last
step, the start of a kernel, is kept as files and compared with what was signed, and with what the
same node loads when nothing goes wrong. Virtual machines have rows of their own in tests/boot.
"""

import contextlib
import os
import re
import signal
import time
from pathlib import Path

import pytest

from vnfsbuild.signing.keys import new_key

from .bootingnode import ip
from .daemon import eventually
from .faultworld import LARGE, NAME, add_capsule, make_site, make_world
from .mirror import mirror
from .runningnode import RunningNode
from .test_trust_reaches_nodes import revoke

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces"),
]


@contextlib.contextmanager
def stopped(node, bytes_there):
    """Hold the agent still once it has so many bytes of the initrd."""
    initrd = node.root / "run/vnfs/kexec/initrd"

    def size():
        try:
            return initrd.stat().st_size
        except FileNotFoundError:
            return 0

    deadline = time.monotonic() + 60
    while size() < bytes_there:
        assert time.monotonic() < deadline, node.told
        time.sleep(0.0005)
    (pid,) = [
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if is_agent(path, node)
    ]
    os.kill(pid, signal.SIGSTOP)
    try:
        assert size() < LARGE, "it had it all already"
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def is_agent(path, node):
    try:
        words = path.read_bytes().split(b"\0")
        return b"bootstrap" in words and path.parent.joinpath("root").samefile(node.root)
    except OSError:
        return False


def test_nothing_is_wrong():
    with make_world() as world:
        world.node.start().wait_jump()
        world.verify_as_undisturbed()
        world.node.wait_seen(lambda seen: seen["state"] == "booting")


# The wire, and the server.


def test_the_link_is_down_for_a_while_during_the_download():
    with (
        make_world(layer_bytes=LARGE) as world,
        mirror(world.made, "holds", least_bytes=LARGE) as held,
    ):
        world.mirrors(held.base)
        world.node.start()
        assert held.held.wait(60), world.node.told
        set_link(world.made, "down")
        held.go.set()
        world.node.wait_told(f"layer 0 (rootfs): {held.base}: ")
        set_link(world.made, "up")
        world.node.wait_jump(seconds=120)
        world.verify_as_undisturbed()


def set_link(made, state):
    ip("-n", made.name + "s", "link", "set", "wire0", state)


def test_the_server_is_killed_during_the_download_and_comes_back():
    with make_world(layer_bytes=LARGE) as world:
        node = world.node.start()
        with stopped(node, LARGE // 8):
            world.made.kill()
        node.wait_told("Connection refused")
        assert not node.has_jumped
        world.made.serve()
        node.wait_jump(seconds=90)
        world.verify_as_undisturbed()


def test_the_server_is_killed_before_the_node_asks_and_stays_away():
    """It waits, and says so; it is heard when the server is back."""
    with make_world() as world:
        node = world.node
        with killed_once_loaded(world):
            node.start()
            node.wait_told("no server answers: https://10.86.0.1:8987: Connection refused; again")
            assert not node.has_jumped
        node.wait_jump()
        world.verify_loaded()


@contextlib.contextmanager
def killed_once_loaded(world):
    """The firmware has loaded all that it loads, and then the server is gone."""
    load = world.node.load_site

    def load_and_kill():
        load()
        world.made.kill()

    world.node.load_site = load_and_kill
    yield
    world.node.load_site = load
    world.made.serve()


def test_the_server_is_restarted_during_the_download():
    with make_world(layer_bytes=LARGE) as world:
        node = world.node.start()
        with stopped(node, LARGE // 8):
            world.made.stop()
            world.made.serve()
        node.wait_jump(seconds=90)
        world.verify_as_undisturbed()
        node.wait_seen(lambda seen: seen["state"] == "booting")


# Bytes that are not what was signed.


@pytest.mark.parametrize("fault", ["wrong", "truncated", "breaks off"])
def test_a_mirror_has_other_bytes(fault):
    """The node has them from another server; who gave wrong ones is told."""
    with make_world(layer_bytes=1024 * 1024) as world, mirror(world.made, fault) as bad:
        world.mirrors(bad.base)
        node = world.node.start()
        node.wait_jump()
        assert len(bad.asked) > 3
        world.verify_loaded()
        if fault == "wrong":
            node.wait_seen(lambda seen: bad.base in str(seen["report"]["wrongMirrors"]))
            assert bad.base in node.told
            events = world.made.ctl("events").stdout
            assert bad.base in events
        world.verify_as_undisturbed()


@pytest.mark.parametrize("damage", ["wrong", "truncated"])
def test_all_servers_have_other_bytes(damage):
    """It is refused, and boots as soon as one has the right ones."""
    with make_world() as world:
        (layer,) = world.manifest.layers
        path = world.made.state / "store/blobs" / layer.digest.replace(":", "/")
        good = path.read_bytes()
        bad = bytes([good[0] ^ 1]) + good[1:] if damage == "wrong" else good[: len(good) // 2]
        path.chmod(0o644)
        path.write_bytes(bad)
        node = world.node.start()
        node.wait_failed(f"{NAME}@{world.digest[7:19]}")
        assert "layer 0 (rootfs)" in node.told
        assert not node.has_jumped
        path.write_bytes(good)
        node.wait_jump()
        world.verify_loaded()


# What the site does not vouch for.


def test_a_capsule_whose_key_was_revoked():
    """The server does not hand it out, and the waiting node says why."""
    with make_world() as world:
        revoke(world.made, "dev", then="ops")
        node = world.node
        eventually(lambda: "trust.json: version 3" in world.made.ctl("events").stdout, seconds=30)
        node.start()
        reason = "signed by 0 trusted keys"
        node.wait_told("n0001: waiting: ")
        node.wait_told(reason)
        node.wait_status("waiting", reason)
        assert not node.has_jumped


def test_a_capsule_of_a_server_that_the_node_was_not_given_to():
    """What firmware loaded says whom the node believes: the server itself is not asked."""
    with make_world() as world:
        node = world.node
        others = node.directory / "others"
        new_key(others, "ours", now=int(time.time()))
        node.site = {"trust.json": (others / "trust.json").read_bytes()}
        node.start()
        node.wait_failed("signed by 0 trusted keys and by untrusted ")
        assert f"refused {NAME}@{world.digest[7:19]}: " in node.told
        assert not node.has_jumped
        assert "loading the kernel" not in node.told


# The machine.


def test_too_little_memory():
    with make_world(layer_bytes=LARGE) as world:
        node = world.node
        node.memory(96)
        node.start()
        node.wait_failed("memory: this node has 96 MiB, 72 MiB of it free")
        node.wait_status("MiB more memory")
        assert not node.has_jumped
        assert "loading the kernel" not in node.told


def test_the_running_kernel_refuses_to_start_another():
    """By the real system call: this node may not, or its kernel knows no kexec at all."""
    with make_world(real_kexec=True) as world:
        node = world.node.start()
        node.wait_failed("kexec: the ")
        node.wait_told("; again in ")
        said = re.search(r"failed \S+: kexec: the (.*); again in", node.told)[1]
        assert "running kernel refuses this one: " in said or "Function not implemented" in said
        assert "loading the kernel: " in node.told


def test_the_clock_says_1970():
    """Certificates, signatures and trust count by the server's clock, not by this one."""
    faketime = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
    assert faketime, "needs libfaketime: make setup"
    with make_world() as world:
        node = world.node
        node.environment = {"LD_PRELOAD": faketime, "FAKETIME": "@1970-01-02 00:00:00"}
        node.start()
        node.wait_told("the clock was ")
        assert re.search(r"the clock was \d{10} s behind", node.told)
        node.wait_jump()
        world.verify_loaded()
        node.wait_seen(lambda seen: seen["state"] == "booting")


def test_what_is_started_never_comes_up():
    """A kernel that panics: after three times the node boots what was good before."""
    with make_world(settings=[("boot_timeout_seconds", 2)]) as world:
        made, node, first = world.made, world.node, world.manifest
        node.start().wait_jump()
        loaded = world.verify_loaded()
        become_ready(world)
        node.power_off()
        world.use(add_capsule(made, serial=2, layer_bytes=65536))
        for _time in range(3):
            node.start().wait_jump()
            assert world.verify_loaded() != loaded
            node.power_off()
            node.wait_status("failed", "no word after kexec")
        world.manifest = first
        node.start().wait_jump()
        assert world.verify_loaded() == loaded
        assert "fallback" in node.status()


def become_ready(world):
    """Say what the agent in the capsule says, with what it was handed over."""
    node = world.node.handed_over(world.manifest)
    words = {"nodeKey": node["nodeKey"], "capsule": node["capsule"]}
    world.made.checkin(1, "ready", boot=node["bootId"], words=words)


def test_a_phase_script_fails(tmp_path):
    """In the running node, by the agent of the capsule."""
    with make_site() as made:
        made.serve()
        node = RunningNode(made, tmp_path / "node")
        try:
            node.script("ready.d", "50-scratch", "echo looking; echo no scratch disk; exit 3")
            node.script("ready.d", "60-never", f"touch {tmp_path}/never")
            node.start().wait_idle()
            reason = "ready.d/50-scratch: exit status 3: looking"
            eventually(lambda: node.show()["state"] == "failed", seconds=30)
            assert reason in node.show()["detail"]
            assert "no scratch disk" in made.ctl("node", "status").stdout
            assert reason in node.journal()
            assert not (tmp_path / "never").exists()
        finally:
            node.close()


# The network.


@contextlib.contextmanager
def make_dhcp_world():
    """One whose node has no address before the site's own dnsmasq gives it one."""
    with make_world(dnsmasq=True) as world:
        eventually(lambda: "sockets bound" in world.made.log.read_text(), seconds=30)
        load = world.node.load_site

        def load_and_forget():
            load()
            ip("-n", f"{world.made.name}c", "address", "flush", "dev", "wire0")

        world.node.load_site = load_and_forget
        world.node.command_line()
        yield world


def signal_dnsmasq(made, number):
    for pid in made.processes()["dnsmasq"]:
        os.kill(pid, number)


def test_dhcp_comes_half_a_minute_late():
    with make_dhcp_world() as world:
        signal_dnsmasq(world.made, signal.SIGSTOP)
        begun = time.monotonic()
        node = world.node.start()
        node.wait_told(
            "no network yet, try 1: wire0: link, but no DHCP server answers; again in 3 s"
        )
        time.sleep(max(0.0, 30 - (time.monotonic() - begun)))
        assert not node.has_jumped
        signal_dnsmasq(world.made, signal.SIGCONT)
        node.wait_jump(seconds=90)
        world.verify_loaded()
        # The server could not hear of it before.
        why = "wire0: link, but no DHCP server answers"
        assert why in world.made.ctl("events").stdout + str(node.seen())


def test_dhcp_is_gone_once_the_node_has_its_address():
    """It keeps what it has; what becomes of it when that ends: test_bootstrap_network."""
    with make_dhcp_world() as world:
        assert world.made.ctl("node", "set", "enabled", "false", "n0001").returncode == 0
        node = world.node.start()
        node.wait_told("n0001: waiting: n0001 is disabled")
        signal_dnsmasq(world.made, signal.SIGSTOP)
        assert world.made.ctl("node", "set", "enabled", "true", "n0001").returncode == 0
        node.wait_jump()
        world.verify_loaded()
        signal_dnsmasq(world.made, signal.SIGCONT)


@pytest.mark.parametrize("bootif", [True, False], ids=["firmware told", "firmware told nothing"])
def test_one_of_three_cards_is_wired(bootif):
    with make_dhcp_world() as world:
        node = world.node
        for name in ("card0", "card1"):
            node.add_card(name)
        node.command_line(bootif=bootif)
        node.start().wait_jump(seconds=90)
        world.verify_loaded()
        assert "wire0: address 10.86.0.1" in node.told
        assert len(node.seen()["hwaddrs"]) == 3
