"""A node server in a network namespace of its own, and the machines in another."""

import contextlib
import errno
import http.client
import itertools
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import pytest

from provisiond.client import Client
from vnfsbuild import manifest as m
from vnfsbuild.errors import VnfsbuildError
from vnfsbuild.reference import parse_reference
from vnfsbuild.signing.keys import find_signing_key, new_key, sign_manifest
from vnfsbuild.store.store import Store

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


_ports = itertools.cycle(range(1023, 513, -1))


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


def approve(made, number):
    name = made.checkin(number)["plan"]["name"]
    made.client.post("/v1/nodes/approve", {"nodes": [name]})
    key = made.checkin(number)["nodeKey"]
    made.checkin(number, words={"nodeKey": key})
    return name, key
