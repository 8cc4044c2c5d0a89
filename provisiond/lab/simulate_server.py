"""A node server for simulated nodes: real, on the loopback, with nothing in it worth having.

It is thrown away afterwards. Nothing of the wire is switched off: each node has an address of its
own in 127.0.0.0/8, and the lease file says whose it is, so that every check is made and paid for.
The loopback is that of a network namespace made for it: nobody else reaches the server, and the
source ports of ten thousand nodes are in nobody's way.
"""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import os
import resource
import shutil
import socket
import ssl
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from provisiond.authority import Authority
from provisiond.client import Client
from provisiond.config import render_config
from provisiond.lab.children import Child, Children
from provisiond.lab.laboratory import python_paths
from provisiond.lab.simulate_node import make_address, make_hwaddr
from provisiond.statedir import StateDir
from vnfsbuild import manifest as m
from vnfsbuild.errors import VnfsbuildError
from vnfsbuild.files import write_atomic
from vnfsbuild.reference import parse_reference
from vnfsbuild.signing.keys import find_signing_key, new_key, sign_manifest
from vnfsbuild.store.store import Store
from vnfsbuild.tools import run

ADDRESS = IPv4Address("127.0.0.1")
CAPSULE = "simulated"
KEY = "simulate"
START_SECONDS = 60
CHUNK_BYTES = 1024 * 1024
_CLONE_NEWNET = 0x40000000


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What the server is like."""

    nodes: int
    payload_bytes: int = 1024 * 1024
    """Of the capsule's layer."""
    checkin_seconds: int = 60
    directory: Path = Path("/var/tmp")
    """Where its own directory is made."""
    database: str = ""
    """postgresql://…; else SQLite."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """What the serving process took of the machine until now."""

    cpu_seconds: float
    memory_bytes: int
    """Now."""
    peak_bytes: int


class ThrowAway:
    """The server; :func:`open_server` makes one."""

    def __init__(self, directory: Path, settings: Settings, children: Children) -> None:
        self.directory = directory
        self.settings = settings
        self.state = StateDir(path=directory / "state")
        self.config = directory / "provisiond.toml"
        self.client = Client(directory / "sock")
        self.port, self.boot_port = _free_ports()
        self._children = children
        self._process: Child | None = None

    @property
    def url(self) -> str:
        """Where agents check in."""
        return f"https://{ADDRESS}:{self.port}"

    @property
    def boot_url(self) -> str:
        """Where blobs are."""
        return f"http://{ADDRESS}:{self.boot_port}"

    @property
    def pid(self) -> int:
        """The process that serves; its parent only watches over it."""
        assert self._process is not None
        parent = self._process.pid
        listed = Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="ascii")
        return int(listed.split()[0])

    def context(self) -> ssl.SSLContext:
        """Return what pins connections to this server's authority, as agents do."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_verify_locations(cafile=Authority(self.state.authority).ca_certificate)
        return context

    def prepare(self) -> None:
        """Write configuration, authority, leases, and the file of a capsule."""
        authority = Authority(self.state.authority)
        now = datetime.datetime.now(tz=datetime.UTC)
        self.state.path.mkdir()
        authority.create(now=now)
        last = make_address(max(self.settings.nodes, 1) - 1)
        given = {
            ("", "state_dir"): str(self.state.path),
            ("", "socket"): str(self.directory / "sock"),
            ("", "user"): "",
            ("", "trust"): str(self.directory / "keys/trust.json"),
            ("", "database"): self.settings.database,
            ("network", "device"): "lo",
            ("network", "address"): f"{ADDRESS}/8",
            ("network", "range"): f"{make_address(0)}-{last}",
            ("network", "dnsmasq"): False,
            ("http", "port"): self.port,
            ("http", "boot_port"): self.boot_port,
            ("nodes", "total_nodes"): max(self.settings.nodes, 1),
            ("nodes", "registration"): "open",
            ("nodes", "new_nodes_per_second"): 10000,
            ("nodes", "checkin_seconds"): self.settings.checkin_seconds,
            ("nodes", "session_timeout_seconds"): max(180, 3 * self.settings.checkin_seconds),
        }
        write_atomic(self.config, render_config(given).encode("utf-8"))
        self.state.dnsmasq.leases.parent.mkdir()
        leases = "".join(
            f"0 {make_hwaddr(number)} {make_address(number)} * *\n"
            for number in range(self.settings.nodes)
        )
        write_atomic(self.state.dnsmasq.leases, leases.encode("ascii"))
        new_key(self.directory / "keys", KEY, now=int(time.time()))

    def start(self) -> None:
        """Start it, and return when it answers.

        Raises:
            VnfsbuildError: it ended or does not answer; with its last lines.
        """
        argv = [sys.executable, "-m", "provisiond", "--config", str(self.config), "serve"]
        self._process = self._children.start(
            "provisiond", argv, log=self.directory / "log", env=python_paths()
        )
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.client.wait_until_up(1)
                return
            except VnfsbuildError as error:
                if self._process.is_running and time.monotonic() < deadline:
                    continue
                raise VnfsbuildError(
                    f"simulate: provisiond {self._process.ending()}:\n{self._process.last_lines()}"
                ) from error

    def stop(self) -> None:
        """End it in order."""
        if self._process is not None:
            self._children.stop(self._process)
            self._process = None

    def add_capsule(self, *, serial: int = 1, promote: bool = True) -> None:
        """Make and import a capsule of the size that was asked for; it could not boot.

        Raises:
            VnfsbuildError: the server refuses it.
        """
        path = self.directory / "capsule.vnfs"
        _write_capsule(self.directory, path, self.settings.payload_bytes, serial=serial)
        with path.open("rb") as stream:
            where = f"/v1/capsules?promote={int(promote)}"
            self.client.upload(where, stream, path.stat().st_size)
        path.unlink()

    def assign(self) -> None:
        """Let every node boot the capsule, from now on."""
        self.client.post(
            "/v1/settings/set",
            {"scope": "defaults", "subjects": [""], "values": {"vnfs": CAPSULE}},
        )

    def usage(self) -> Usage:
        """Return what the serving process took until now."""
        return read_usage(self.pid)


def read_usage(pid: int) -> Usage:
    """Return what the process *pid* took until now."""
    words = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    ticks = int(words[11]) + int(words[12])
    fields = {}
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        fields[key] = value.split()
    return Usage(
        cpu_seconds=ticks / os.sysconf("SC_CLK_TCK"),
        memory_bytes=1024 * int(fields["VmRSS"][0]),
        peak_bytes=1024 * int(fields["VmHWM"][0]),
    )


@contextlib.contextmanager
def open_server(settings: Settings) -> Iterator[ThrowAway]:
    """Give the block a server that is prepared; :meth:`ThrowAway.start` starts it.

    All of it is gone when the block ends.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    directory = Path(tempfile.mkdtemp(dir=settings.directory, prefix="vnfs-simulate-"))
    children = Children()
    with _own_network():
        try:
            server = ThrowAway(directory, settings, children)
            server.prepare()
            yield server
        finally:
            children.stop()
            shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def _own_network() -> Iterator[None]:
    """Give this thread, and what it starts, a network of its own while the block runs.

    Raises:
        VnfsbuildError: not root.
    """
    libc = ctypes.CDLL(None, use_errno=True)

    def call(function: Callable[..., int], *arguments: int) -> None:
        if function(*arguments) != 0:
            told = os.strerror(ctypes.get_errno())
            raise VnfsbuildError(f"simulate: a network of its own: {told}", hint="run it as root")

    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        call(libc.unshare, _CLONE_NEWNET)
        try:
            run(["ip", "link", "set", "dev", "lo", "up"])
            yield
        finally:
            call(libc.setns, before, _CLONE_NEWNET)
    finally:
        os.close(before)


def _write_capsule(directory: Path, path: Path, payload_bytes: int, *, serial: int) -> None:
    """Write the file of a signed capsule; its payloads are bytes that do not compress."""
    store = Store(directory / "builds")
    source = directory / "layer"
    with source.open("wb") as file:
        left = payload_bytes
        while left > 0:
            left -= file.write(os.urandom(min(left, CHUNK_BYTES)))
    payloads = [
        store.add_blob(os.urandom(16 * 1024), media_type=kind)
        for kind in (m.SOURCE, m.KERNEL, m.INITRD)
    ]
    payloads.append(store.add_blob(source, media_type=m.LAYER_SQUASHFS))
    source.unlink()
    config = m.render_config(
        m.Config(
            name=CAPSULE, serial=serial, architecture="x86_64", distribution="none", epoch=1,
            kernel=m.Kernel("0.0.0-simulated", ()), layers=("rootfs",), bootstrap_protocol=1,
        )
    )  # fmt: skip
    described = store.add_blob(config, media_type=m.CONFIG)
    manifest = m.render_manifest(m.Manifest(m.CAPSULE, described, tuple(payloads)))
    key = find_signing_key(directory / "keys", KEY)
    assert key is not None, "prepare has made it"
    store.add_capsule(manifest, config, [sign_manifest(manifest, key)])
    store.export(parse_reference(CAPSULE), path)
    shutil.rmtree(store.path)


def _free_ports() -> tuple[int, int]:
    """Return two ports that nobody listens on just now."""
    with socket.socket() as first, socket.socket() as second:
        for held in (first, second):
            held.bind((str(ADDRESS), 0))
        return first.getsockname()[1], second.getsockname()[1]
