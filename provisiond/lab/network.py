"""The laboratory's network: a namespace of its own with a bridge and a tap for each machine.

The namespace has no name and no file: it is there as long as a process is in it. So laboratories
do not collide, and nothing is left behind even when one is killed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Interface
from pathlib import Path

from provisiond.lab.children import Children
from vnfsbuild.errors import VnfsbuildError
from vnfsbuild.tools import capture, find_program

BRIDGE = "vnfs0"
ADDRESS = IPv4Interface("10.87.0.1/16")
RANGE = "10.87.1.1-10.87.1.200"


def bridge_commands(address: IPv4Interface = ADDRESS, bridge: str = BRIDGE) -> list[str]:
    """Return the lines for ``ip -batch`` that make the bridge."""
    return [
        "link set dev lo up",
        # Forwarding at once: a firmware's first DHCP request would be lost otherwise.
        f"link add name {bridge} type bridge stp_state 0 forward_delay 0",
        f"address add {address} dev {bridge}",
        f"link set dev {bridge} up",
    ]


def tap_commands(tap: str, bridge: str = BRIDGE) -> list[str]:
    """Return the lines for ``ip -batch`` that put the device *tap* on the bridge."""
    return [
        f"tuntap add dev {tap} mode tap",
        f"link set dev {tap} master {bridge}",
        f"link set dev {tap} up",
    ]


def enter_argv(namespace: Path) -> list[str]:
    """Return the start of an argv that runs a program in *namespace*."""
    return [str(find_program("nsenter")), f"--net={namespace}", "--"]


class Network:
    """A network namespace in which programs run."""

    def __init__(self, namespace: Path) -> None:
        self._namespace = namespace
        self._taps: set[str] = set()

    def inside(self, argv: Sequence[str]) -> list[str]:
        """Return the argv that runs *argv* in this network."""
        return [*enter_argv(self._namespace), *argv]

    def configure(self, commands: Sequence[str]) -> None:
        """Give *commands* to ``ip -batch``.

        Raises:
            ToolError: one of them failed.
        """
        text = "".join(f"{line}\n" for line in commands)
        capture(self.inside(["ip", "-batch", "-"]), stdin=text.encode())

    def add_tap(self, tap: str) -> None:
        """Make the device *tap* on the bridge, when it is not there yet."""
        if tap not in self._taps:
            self.configure(tap_commands(tap))
            self._taps.add(tap)


@contextlib.contextmanager
def open_network(children: Children) -> Iterator[Network]:
    """Make a network with a bridge, which is there while the block runs.

    Raises:
        VnfsbuildError: not root, or the kernel refuses.
    """
    # cat ends when our end of its standard input goes, whatever happens to us.
    with children.holder([str(find_program("unshare")), "--net", "--", "cat"]) as holder:
        network = Network(Path(f"/proc/{holder.pid}/ns/net"))
        try:
            network.configure(bridge_commands())
        except VnfsbuildError as error:
            raise VnfsbuildError(
                f"laboratory: the network cannot be made: {error.message}",
                hint="the kernel needs the drivers bridge and tun: modprobe --all bridge tun",
            ) from error
        yield network
