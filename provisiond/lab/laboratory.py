"""A node server with its dnsmasq, and machines that boot from it, in a network of their own."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provisiond.client import Client
from provisiond.lab import control
from provisiond.lab.children import Child, Children, last_lines
from provisiond.lab.machine import (
    Machine,
    firmware_variables,
    qemu_args,
    unwired,
    wired_link,
)
from provisiond.lab.network import ADDRESS, BRIDGE, RANGE, Network, open_network
from provisiond.lab.running import DIRECTORY, PREFIX, registered
from vnfsbuild.errors import InputError, VnfsbuildError
from vnfsbuild.files import write_atomic
from vnfsbuild.sandbox import tree_argv

CHECK = "etc/vnfs/ready.d/50-lab-check"
START_SECONDS = 30


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What a laboratory is like."""

    tree: Path
    """The tools tree "lab"."""
    trust: Path
    """trust.json of the site."""
    registration: str = "open"
    accelerator: str = "tcg"
    check: str | None = None
    """A shell command that each node runs before it says ``ready``."""
    configure: Callable[[str], str] = str
    """Returns the text of provisiond.toml as it is to be, from what ``provisiond init`` wrote."""
    console_dir: Path | None = None
    """Where the console logs go; none: into the laboratory's directory, which goes at the end."""


class Laboratory:
    """A running laboratory; :func:`open_laboratory` makes one."""

    def __init__(
        self, directory: Path, settings: Settings, children: Children, network: Network
    ) -> None:
        self.directory = directory
        self.settings = settings
        self.socket = directory / "provisiond.sock"
        self.client = Client(self.socket)
        self.powered_on: dict[Machine, float] = {}
        """Machine → when, in seconds since 1970."""
        self._children = children
        self._network = network
        self._qemu: dict[Machine, Child] = {}

    @property
    def state_dir(self) -> Path:
        """The node server's own directory; its store is below it."""
        return self.directory / "state"

    def start_server(self) -> None:
        """Start provisiond, and return when it answers.

        Raises:
            VnfsbuildError: it ended or does not answer; with its last lines.
        """
        config, log = self.directory / "provisiond.toml", self.directory / "provisiond.log"
        overlay = self.directory / "overlay"
        overlay.mkdir()
        if self.settings.check is not None:
            _write_check(overlay / CHECK, self.settings.check)
        python = [sys.executable, "-m", "provisiond", "--config", str(config)]
        init = self._children.start(
            "provisiond init", [*python, *self._init_args(overlay)], log=log, env=python_paths()
        )
        _wait_for_end(init)
        config.write_text(self.settings.configure(config.read_text("utf-8")), "utf-8")
        serve = self._children.start(
            "provisiond", self._network.inside([*python, "serve"]), log=log, env=python_paths()
        )
        self._wait_until_up(serve)

    def start(self, name: str, argv: Sequence[str]) -> Child:
        """Start a program in the laboratory's network; it is ended with the laboratory.

        Raises:
            VnfsbuildError: it cannot be started.
        """
        log = self.directory / f"{name}.log"
        return self._children.start(name, self._network.inside(argv), log=log)

    def import_file(self, path: Path) -> Any:
        """Give the node server the capsule or bootstrap in the file *path*.

        Raises:
            VnfsbuildError: it refuses; nothing is trusted here that a site would not trust.
        """
        try:
            with path.open("rb") as stream:
                return self.client.upload("/v1/capsules?promote=1", stream, path.stat().st_size)
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}") from error

    def console(self, machine: Machine) -> Path:
        """Return the file that the serial console of *machine* is written to."""
        return (self.settings.console_dir or self.directory) / f"{machine.label}.console"

    def power_on(self, machine: Machine) -> None:
        """Start *machine*; what an earlier start wrote to its console goes.

        Raises:
            VnfsbuildError: it is on already, or QEMU cannot be started.
        """
        if machine in self._qemu:
            raise VnfsbuildError(f"{machine.label}: is on already")
        self._network.add_tap(machine.tap)
        self.console(machine).write_bytes(b"")
        tree, variables = self.settings.tree, None
        if machine.is_uefi:
            variables = self.directory / f"{machine.label}.fd"
            shutil.copyfile(firmware_variables(tree), variables)
        args = qemu_args(
            machine,
            tree=tree,
            console=self.console(machine),
            control=self._control(machine),
            variables=variables,
            accelerator=self.settings.accelerator,
        )
        argv = self._network.inside(tree_argv(tree, "qemu-system-x86_64", args))
        log = self.directory / f"{machine.label}.qemu"
        qemu = self._children.start(f"QEMU of {machine.label}", argv, log=log)
        self._qemu[machine] = qemu
        # One that ended at once is told of by those who look after the machine.
        with contextlib.suppress(VnfsbuildError):
            control.start(
                self._control(machine),
                without_link=unwired(machine),
                is_running=lambda: qemu.is_running,
            )
        self.powered_on[machine] = time.time()

    def power_off(self, machine: Machine) -> None:
        """Cut the power of *machine*."""
        self._children.stop(self._qemu.pop(machine))

    def pull_cable(self, machine: Machine) -> None:
        """Pull the cable of *machine*; its card sees no link any more."""
        control.execute(self._control(machine), control.set_link(wired_link(machine), up=False))

    def plug_cable(self, machine: Machine) -> None:
        """Plug the cable of *machine* in again."""
        control.execute(self._control(machine), control.set_link(wired_link(machine), up=True))

    def ended(self, machine: Machine) -> str | None:
        """Return how QEMU ended and what it said last, or None while *machine* is on."""
        qemu = self._qemu[machine]
        if qemu.is_running:
            return None
        return f"{qemu.name} ended: {qemu.ending()}\n{qemu.last_lines()}".rstrip()

    def nodes(self) -> list[dict[str, Any]]:
        """Return the nodes as the node server lists them."""
        nodes: list[dict[str, Any]] = self.client.get("/v1/nodes")
        return nodes

    def set(self, key: str, value: str, *nodes: str) -> None:
        """Set an attribute of *nodes*."""
        self.client.post("/v1/nodes/set", {"key": key, "value": value, "nodes": list(nodes)})

    @property
    def enter_words(self) -> str:
        """The start of a command line that runs a program in the laboratory's network."""
        return shlex.join(self._network.inside([])) + " "

    def _control(self, machine: Machine) -> Path:
        return self.directory / f"{machine.label}.qmp"

    def _init_args(self, overlay: Path) -> list[str]:
        return [
            "init",
            "--state-dir", str(self.state_dir),
            "--socket", str(self.socket),
            "--trust", str(self.settings.trust),
            "--user", "",
            "--device", BRIDGE,
            "--address", str(ADDRESS),
            "--range", RANGE,
            "--registration", self.settings.registration,
            "--ipxe-dir", str(self.settings.tree / "usr/lib/ipxe"),
            "--overlay-files", str(overlay),
        ]  # fmt: skip

    def _wait_until_up(self, server: Child) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.client.wait_until_up(1)
                return
            except VnfsbuildError as error:
                if server.is_running and time.monotonic() < deadline:
                    continue
                how = "does not answer" if server.is_running else f"ended: {server.ending()}"
                raise VnfsbuildError(
                    f"laboratory: provisiond {how}:\n{server.last_lines()}"
                ) from error


def require_root() -> None:
    """Return when this process may make networks.

    Raises:
        VnfsbuildError: it may not.
    """
    if os.geteuid() != 0:
        raise VnfsbuildError(
            "laboratory: found an ordinary user, expected root, who may make networks",
            hint="sudo provisionctl lab run …",
        )


@contextlib.contextmanager
def open_laboratory(settings: Settings) -> Iterator[Laboratory]:
    """Make a laboratory with a running node server; all of it is gone when the block ends.

    Raises:
        VnfsbuildError: not root, or a part of it cannot be started.
    """
    require_root()
    directory = Path(tempfile.mkdtemp(dir=DIRECTORY, prefix=PREFIX))
    children = Children()
    try:
        with registered(directory), open_network(children) as network:
            laboratory = Laboratory(directory, settings, children, network)
            try:
                laboratory.start_server()
                yield laboratory
            finally:
                children.stop()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def python_paths() -> Mapping[str, str]:
    """Return what a Python child needs to find the packages that this process found."""
    return {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def console_tail(laboratory: Laboratory, machine: Machine, count: int = 15) -> str:
    """Return the last lines of the console of *machine*, indented."""
    lines = last_lines(laboratory.console(machine), count).splitlines()
    return "\n".join(f"  | {line}" for line in lines or ["(nothing)"])


def _write_check(path: Path, command: str) -> None:
    path.parent.mkdir(parents=True)
    write_atomic(path, f"#!/bin/sh\n{command}\n".encode(), mode=0o755)


def _wait_for_end(child: Child) -> None:
    deadline = time.monotonic() + START_SECONDS
    while child.is_running and time.monotonic() < deadline:
        time.sleep(0.05)
    if child.ending() != "status 0":
        raise VnfsbuildError(f"laboratory: {child.name}: {child.ending()}:\n{child.last_lines()}")
