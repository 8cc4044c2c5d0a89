"""The bootstrap's own scripts, on the busybox of nodes, against a real dnsmasq.

Each test has a network namespace for the node and one for the other ends of its cables, and a root
of its own: nothing here can reach the network of this machine.
"""

import os
import shutil
import signal
import subprocess
import time
import uuid
from pathlib import Path

import pytest

import vnfsbuild.initrd
from vnfsbuild.places import find_places
from vnfsbuild.toolstree import ensure_tools_tree

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces"),
]

ROOT = Path(__file__).resolve().parents[2]
SERVER = "10.85.0.1"

# What init does before it, in a root where the kernel's file systems are mounted by the test.
# Cards have no entry "device" here: all interfaces but lo are taken to be some.
SCRIPT = """
RUN=/run/vnfs UDHCPC=/usr/lib/vnfs/udhcpc SYS_NET=/sys/class/net
VNFS_LOG=$RUN/log VNFS_WORDS=/vnfs/site/words
export RUN VNFS_LOG VNFS_WORDS
. /usr/lib/vnfs/functions.sh
. /usr/lib/vnfs/network.sh
load_drivers() { :; }
explain_hardware() { tell "nothing drives them"; }
reboot() { tell "REBOOT $*"; exit 9; }
list_interfaces() {
    for place in /sys/class/net/*; do
        case ${place##*/} in lo | *.*) ;; *) echo "${place##*/}" ;; esac
    done
}
network
ip -4 -o address show scope global >/addresses
while read -r _ device _ address _; do tell "UP: $device $address"; done </addresses
# The first process stays, and with it the clients in the background.
sleep 1000
"""


class Node:
    """A machine with cards whose cables end at the server's side."""

    def __init__(self, directory):
        self.root = directory / "root"
        self.directory = directory
        self.name = f"vnfsn{uuid.uuid4().hex[:6]}"
        self.started = []
        self.cards = 0
        for side in "ns":
            ip("netns", "add", self.name + side)
        ip("-n", self.name + "s", "link", "set", "lo", "up")
        self._make_root()

    def _make_root(self):
        for path in ("bin", "proc", "sys", "dev", "etc", "tmp", "run/vnfs", "usr/lib/vnfs",
                     "vnfs/site"):  # fmt: skip
            (self.root / path).mkdir(parents=True)
        tools = ensure_tools_tree("build", find_places().cache)
        shutil.copy(tools / "usr/bin/busybox", self.root / "bin/busybox")
        busybox = str(self.root / "bin/busybox")
        subprocess.run([busybox, "--install", "-s", str(self.root / "bin")], check=True)
        for path in (self.root / "bin").iterdir():
            if path.is_symlink():
                path.unlink()
                path.symlink_to("busybox")
        place = self.root / "usr/lib/vnfs"
        shutil.copy(Path(vnfsbuild.initrd.__file__).parent / "functions.sh", place)
        for name in ("network.sh", "udhcpc"):
            shutil.copy(ROOT / "bootstrap-kernel" / name, place)
            (place / name).chmod(0o755)
        (self.root / "network").write_text(SCRIPT)
        self.command_line("console=ttyS0")

    def command_line(self, line):
        (self.root / "cmdline").write_text(f"{line}\n")

    def words(self, *words):
        (self.root / "vnfs/site/words").write_text("".join(f"{word}\n" for word in words))

    def card(self, *, cable=True, server=None):
        """Put a card in; its cable ends at a device of the server's side with address *server*."""
        number, self.cards = self.cards, self.cards + 1
        node, end = f"eth{number}", f"end{number}"
        ip("-n", self.name + "n", "link", "add", node, "address", hwaddr(number), "type", "veth",
           "peer", "name", end, "netns", self.name + "s")  # fmt: skip
        if server:
            ip("-n", self.name + "s", "address", "add", f"{server}/24", "dev", end)
        if cable:
            self.plug(number)
        return number

    def plug(self, number, *, up=True):
        ip("-n", self.name + "s", "link", "set", f"end{number}", "up" if up else "down")

    def dhcp(self, number, *, device=None, network="10.85.0", lease="2m"):
        """Answer on the cable of card *number*."""
        device = device or f"end{number}"
        argv = [
            "ip", "netns", "exec", self.name + "s", "dnsmasq", "--keep-in-foreground",
            "--conf-file=/dev/null", "--port=0", "--no-ping", "--bind-interfaces",
            f"--interface={device}", "--except-interface=lo", "--dhcp-authoritative",
            f"--dhcp-range={network}.100,{network}.150,{lease}", "--user=root", "--group=root",
            f"--dhcp-leasefile={self.directory / device}.leases", "--pid-file=", "--log-dhcp",
            "--log-facility=-",
        ]  # fmt: skip
        with (self.directory / f"{device}.dnsmasq").open("w") as log:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.started.append(process)
        return process

    def start(self):
        """Run the script as the bootstrap's init does."""
        inside = f"""
            mount -t sysfs sysfs {self.root}/sys
            mount -t proc proc {self.root}/proc
            mount --bind {self.root}/cmdline {self.root}/proc/cmdline
            mount -t tmpfs tmpfs {self.root}/dev
            mknod {self.root}/dev/null c 1 3
            exec chroot {self.root} /bin/busybox sh /network
        """
        # A pid namespace: what it leaves in the background goes with it.
        argv = ["ip", "netns", "exec", self.name + "n", "unshare", "--mount", "--pid", "--fork",
                "--kill-child", "--uts", "sh", "-ec", inside]  # fmt: skip
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT,
            env={"PATH": "/bin:/usr/bin:/sbin:/usr/sbin"},
        )  # fmt: skip
        self.started.append(process)
        return process

    @property
    def log(self):
        path = self.root / "run/vnfs/log"
        return path.read_text() if path.exists() else ""

    def until(self, text, *, seconds):
        begun = time.monotonic()
        while text not in self.log:
            assert time.monotonic() - begun < seconds, f"never told {text!r}:\n{self.log}"
            time.sleep(0.05)
        return time.monotonic() - begun

    def close(self):
        for process in reversed(self.started):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(5)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        for side in "ns":
            subprocess.run(["ip", "netns", "delete", self.name + side], check=False)


def ip(*words):
    subprocess.run(["ip", *words], check=True)


def hwaddr(number):
    return f"52:54:00:85:00:{number:02x}"


def bootif(number):
    return "BOOTIF=01-" + hwaddr(number).replace(":", "-")


@pytest.fixture
def node(tmp_path):
    made = Node(tmp_path)
    try:
        yield made
    finally:
        made.close()


def test_the_interface_that_firmware_booted_from_is_taken(node):
    """Though others have a link, and a server that answers."""
    for number in range(2):
        node.card(server=f"10.85.{number}.1")
        node.dhcp(number, network=f"10.85.{number}")
    node.command_line(bootif(1))
    node.start()
    assert node.until("UP: ", seconds=20) < 8
    assert "UP: eth1 10.85.1." in node.log
    assert "eth0: address" not in node.log


def test_of_three_cards_the_one_with_a_cable_is_found(node):
    """Firmware told nothing; and no port without a cable holds it up."""
    node.card(cable=False)
    node.card(cable=False)
    node.card(server=SERVER)
    node.dhcp(2)
    node.start()
    assert node.until("UP: ", seconds=30) < 12
    assert "UP: eth2 10.85.0.1" in node.log


@pytest.mark.long
def test_a_cable_that_was_moved_is_found(node):
    node.card(cable=False)
    node.card(server=SERVER)
    node.dhcp(1)
    node.command_line(bootif(0))
    node.start()
    assert node.until("UP: ", seconds=60) < 40
    assert "eth0: no link: is the cable in?" in node.log
    assert "UP: eth1 10.85.0.1" in node.log


def test_all_that_have_a_link_are_asked_at_once(node):
    """Two networks without DHCP do not make the third wait."""
    for number in range(3):
        node.card(server=f"10.85.{number}.1")
    node.dhcp(2, network="10.85.2")
    node.start()
    assert node.until("UP: ", seconds=30) < 14
    assert "UP: eth2 10.85.2.1" in node.log


def test_a_cable_that_comes_later_is_taken(node):
    node.card(server=SERVER, cable=False)
    node.dhcp(0)
    node.command_line(bootif(0))
    node.start()
    node.until("no network yet, try 1: eth0: no link: is the cable in?; again in 3 s", seconds=20)
    node.plug(0)
    assert node.until("UP: eth0 10.85.0.1", seconds=20) < 10


def test_static_addresses_ask_nobody(node):
    node.card(server=SERVER)
    node.words("vnfs.ip=10.85.0.77/24", f"vnfs.router={SERVER}", "vnfs.dns=10.85.0.2,10.85.0.3")
    node.start()
    assert node.until("UP: ", seconds=20) < 6
    assert f"eth0: address 10.85.0.77/24, router {SERVER}, as was said" in node.log
    resolv = (node.root / "etc/resolv.conf").read_text()
    assert resolv == "nameserver 10.85.0.2\nnameserver 10.85.0.3\n"


def test_an_address_that_is_none_is_told(node):
    node.card(server=SERVER)
    node.words("vnfs.ip=10.85.0.777/24")
    node.start()
    node.until("vnfs.ip=10.85.0.777/24: found no address, expected one as 10.1.0.7/16", seconds=20)
    node.until("no network yet, try 1: eth0: not given its address", seconds=20)


@pytest.mark.long
def test_after_so_many_tries_the_node_starts_anew(node):
    node.card(cable=False)
    node.words("vnfs.tries=2", "vnfs.on_failure=reboot")
    process = node.start()
    node.until("REBOOT -f", seconds=45)
    assert "no network after 2 tries: eth0: no link: is the cable in?; starting anew" in node.log
    assert process.wait(10) == 9


@pytest.mark.long
def test_a_card_that_is_not_there_is_told_and_the_others_are_tried(node):
    node.card(server=SERVER)
    node.dhcp(0)
    node.command_line("BOOTIF=01-52-54-00-ff-ff-ff")
    node.start()
    node.until("waiting for the network interface 52:54:00:ff:ff:ff", seconds=10)
    node.until("network interface 52:54:00:ff:ff:ff: not there; no driver for it here?", seconds=25)
    assert "nothing drives them" in node.log
    assert node.until("UP: eth0 10.85.0.1", seconds=20) < 14


def test_a_vlan_is_asked_in(node):
    number = node.card()
    added = subprocess.run(
        ["ip", "-n", node.name + "s", "link", "add", "link", f"end{number}", "name", "end0.100",
         "type", "vlan", "id", "100"], check=False)  # fmt: skip
    if added.returncode != 0:
        pytest.skip("this machine's kernel has no VLANs")
    ip("-n", node.name + "s", "address", "add", f"{SERVER}/24", "dev", "end0.100")
    ip("-n", node.name + "s", "link", "set", "end0.100", "up")
    node.dhcp(0, device="end0.100")
    node.words("vnfs.vlan=100")
    node.start()
    assert node.until("UP: ", seconds=20) < 10
    assert "UP: eth0.100 10.85.0.1" in node.log


@pytest.mark.long
def test_dhcp_that_comes_half_a_minute_late_is_waited_for(node):
    """On the interface that firmware booted from, though another network answers at once."""
    node.card(server=SERVER)
    node.card(server="10.85.1.1")
    node.dhcp(1, network="10.85.1")
    node.command_line(bootif(0))
    node.start()
    node.until("try 2: eth0: link, but no DHCP server answers", seconds=40)
    time.sleep(8)
    node.dhcp(0)
    node.until("UP: eth0 10.85.0.1", seconds=30)


@pytest.mark.long
def test_dhcp_that_goes_away_and_comes_back_gives_an_address_again(node):
    node.card(server=SERVER)
    server = node.dhcp(0, lease="2m")
    node.start()
    node.until("UP: eth0 10.85.0.1", seconds=20)
    server.terminate()
    server.wait()
    node.until("eth0: the lease is lost: asking for another", seconds=180)
    # A file of leases is not there any more either.
    (node.directory / "end0.leases").unlink()
    before = node.log.count("eth0: address 10.85.0.1")
    node.dhcp(0)
    begun = time.monotonic()
    while node.log.count("eth0: address 10.85.0.1") == before:
        assert time.monotonic() - begun < 90, node.log
        time.sleep(0.2)
