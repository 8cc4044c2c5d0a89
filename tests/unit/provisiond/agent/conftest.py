"""A node server and mirrors in miniature: real sockets on the loopback, real TLS, real keys."""

from __future__ import annotations

import base64
import datetime
import ipaddress
import json
import ssl
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID

from provisiond.agent.client import Client
from provisiond.agent.site import load_site
from provisiond.protocol import (
    Answer,
    Plan,
    PlannedCapsule,
    parse_checkin,
    render_answer,
)
from vnfsbuild import manifest as m
from vnfsbuild.digest import digest_of, render_json
from vnfsbuild.dsse import key_id, make_envelope, render_envelope
from vnfsbuild.trust import TRUST, Rule, Trust, render_trust

NODE_ID = "52:54:00:00:00:01"
NODE_KEY = "ab" * 32
NOW = 1_800_000_000


class Handler(BaseHTTPRequestHandler):
    """Hands each request to the server's own function."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.owner.get(self)

    def do_POST(self):
        self.server.owner.post(self)

    def log_message(self, *args):
        pass

    def reply(self, body, status=200, headers=None):
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.close_connection = not getattr(self.server.owner, "keep", False)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)


class Served:
    """An HTTP server in a thread."""

    scheme = "http"

    def __init__(self, context=None, port=0):
        self.requests = []
        self.http = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.http.daemon_threads = True
        self.http.owner = self
        # Handshakes that are refused are what some tests are about.
        self.http.handle_error = lambda *args: None
        if context:
            self.scheme = "https"
            self.http.socket = context.wrap_socket(
                self.http.socket, server_side=True, do_handshake_on_connect=False
            )
        self.thread = threading.Thread(
            target=self.http.serve_forever, kwargs={"poll_interval": 0.02}
        )
        self.thread.start()

    @property
    def url(self):
        return f"{self.scheme}://127.0.0.1:{self.http.server_address[1]}"

    def stop(self):
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()

    def get(self, handler):
        handler.reply(b"", 404)

    def post(self, handler):
        handler.reply(b"", 404)


class Mirror(Served):
    """Blobs. *fault* may answer a request in its own way: (handler, data, offset) → bool."""

    def __init__(self, port=0):
        super().__init__(port=port)
        self.keep = False
        self.blobs = {}
        self.fault = None
        self.connections = set()

    def add(self, *contents):
        for data in contents:
            self.blobs["/blobs/" + digest_of(data).replace(":", "/")] = data

    @property
    def base(self):
        return self.url + "/blobs"

    def get(self, handler):
        span = handler.headers.get("Range")
        self.requests.append((handler.path, span))
        self.connections.add(handler.client_address)
        data = self.blobs.get(handler.path)
        if data is None:
            return handler.reply(b"no such blob", 404)
        first, _, last = span[len("bytes=") :].partition("-") if span else ("0", "", "")
        offset = int(first)
        if self.fault and self.fault(handler, data, offset):
            handler.close_connection = True
            return None
        if offset >= len(data):
            return handler.reply(b"", 416, {"Content-Range": f"bytes */{len(data)}"})
        end = min(int(last) + 1, len(data)) if last else len(data)
        headers = {"Content-Range": f"bytes {offset}-{end - 1}/{len(data)}"}
        return handler.reply(data[offset:end], 206 if span else 200, headers if span else None)


class NodeServer(Served):
    """provisiond, as far as the agent sees it: *answer* makes an answer of a check-in."""

    def __init__(self, context):
        super().__init__(context)
        self.checkins = []
        self.answer = lambda checkin: Answer(waiting(), NOW)
        self.overlays = {}

    def states(self):
        return [checkin.state for checkin in self.checkins]

    def post(self, handler):
        body = handler.rfile.read(int(handler.headers["Content-Length"]))
        checkin = parse_checkin(json.loads(body))
        self.checkins.append(checkin)
        self.requests.append((handler.path, handler.client_address))
        answer = self.answer(checkin)
        if isinstance(answer, Answer):
            handler.reply(render_answer(answer))
        else:
            handler.reply(*answer)

    def get(self, handler):
        self.requests.append((handler.path, dict(handler.headers)))
        data = self.overlays.get(handler.path.rpartition("/")[2])
        if handler.headers.get("X-Node-Key") != NODE_KEY:
            handler.reply(render_json({"error": "no overlay for this node"}), 403)
        elif data is None:
            handler.reply(render_json({"error": "no such overlay any more"}), 404)
        else:
            handler.reply(data)


def waiting(reason="no capsule is assigned"):
    return Plan(node_id=NODE_ID, name="n00001", action="wait", reason=reason)


@dataclass(frozen=True)
class Authority:
    """A CA, and what it vouches for."""

    directory: Path

    def context(self):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.directory / "server.pem")
        return context


def make_authority(directory, *, address="127.0.0.1", years=0):
    """Make ca.pem and server.pem in *directory*; valid for a day, *years* from now."""
    directory.mkdir(parents=True, exist_ok=True)
    start = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=365 * years)

    def certify(subject, public_key, signer, extension):
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")])
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(issuer)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(start - datetime.timedelta(hours=1))
            .not_valid_after(start + datetime.timedelta(days=1))
            .add_extension(extension, critical=True)
            .sign(signer, hashes.SHA256())
            .public_bytes(serialization.Encoding.PEM)
        )

    ca, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    constraints = x509.BasicConstraints(ca=True, path_length=0)
    (directory / "ca.pem").write_bytes(certify("test CA", ca.public_key(), ca, constraints))
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    certificate = certify("server", key.public_key(), ca, names)
    (directory / "server.pem").write_bytes(secret + certificate)
    return Authority(directory)


@dataclass
class Keys:
    """A site's keys: one root, one that signs capsules."""

    root: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    signer: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    other: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    def trust(self, *, version=1, expires=NOW + 1000, least_serial=0, roots=None, signer=None):
        keys = [public(key) for key in (self.root, signer or self.signer)]
        trust = Trust(
            version=version,
            expires=expires,
            keys={key_id(key): key for key in keys},
            root_keys=(key_id(keys[0]),),
            root_threshold=1,
            rules=(Rule("*", (key_id(keys[1]),), 1, least_serial),),
        )
        return sign(TRUST, render_trust(trust), *(roots or (self.root,)))


def public(key):
    return key.public_key().public_bytes_raw()


def sign(kind, payload, *keys):
    return render_envelope(make_envelope(kind, payload, [(public(key), key.sign) for key in keys]))


@dataclass
class TestCapsule:
    """A capsule in bytes."""

    __test__ = False

    keys: Keys
    name: str = "debian-13-minimal"
    artifact_type: str = m.CAPSULE
    layers: tuple = (b"rootfs" * 70_001, b"modules" * 3)
    bootstrap_protocol: int = 1
    drivers: bytes | None = None
    """drivers.cpio of a bootstrap"""

    def __post_init__(self):
        self.kernel, self.initrd, self.source = b"kernel" * 100, b"initrd" * 33, b"source"
        self.config = m.render_config(
            m.Config(
                name=self.name,
                serial=3,
                architecture="x86_64",
                distribution="debian trixie",
                epoch=1,
                kernel=m.Kernel("6.12-test", ("console=ttyS0", "quiet")),
                layers=("rootfs", "modules")[: len(self.layers)],
                bootstrap_protocol=self.bootstrap_protocol,
            )
        )
        kinds = [m.SOURCE, m.KERNEL, m.INITRD, *[m.LAYER_SQUASHFS] * len(self.layers)]
        payloads = (self.source, self.kernel, self.initrd, *self.layers)
        if self.drivers is not None:
            kinds.append(m.DRIVERS)
            payloads += (self.drivers,)
        self.manifest = m.render_manifest(
            m.Manifest(
                self.artifact_type,
                m.Descriptor(m.CONFIG, digest_of(self.config), len(self.config)),
                tuple(
                    m.Descriptor(kind, digest_of(data), len(data))
                    for kind, data in zip(kinds, payloads, strict=True)
                ),
            )
        )
        self.digest = digest_of(self.manifest)
        self.envelope = sign(m.OCI_MANIFEST, self.manifest, self.keys.signer)

    @property
    def blobs(self):
        found = [self.manifest, self.config, self.envelope, self.kernel, self.initrd, *self.layers]
        return [*found, self.drivers] if self.drivers is not None else found

    def planned(self, *, name=None):
        return PlannedCapsule(name or self.name, self.digest, (digest_of(self.envelope),))

    def plan(self, *bases, **changes):
        value = {
            "node_id": NODE_ID,
            "name": "n00001",
            "action": "boot",
            "capsule": self.planned(),
            "kernel_arguments": ("panic=60",),
            "blobs": bases,
            "checkin_seconds": 7,
        }
        return Plan(**{**value, **changes})


def write_site(directory, authority, servers, trust=b"{}"):
    directory.mkdir(exist_ok=True)
    value = {"protocol": 1, "servers": list(servers)}
    (directory / "site.json").write_bytes(render_json(value))
    (directory / "ca.pem").write_bytes((authority.directory / "ca.pem").read_bytes())
    (directory / "trust.json").write_bytes(trust)
    return load_site(directory)


def until(condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)


def b64(data):
    return base64.b64encode(data).decode()


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    return make_authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def node_server(authority):
    server = NodeServer(authority.context())
    yield server
    server.stop()


@pytest.fixture
def mirrors():
    servers = [Mirror(), Mirror()]
    yield servers
    for server in servers:
        server.stop()


@pytest.fixture
def keys():
    return Keys()


@pytest.fixture
def make_client():
    def make(site, **settings):
        # An ordinary user runs the tests: the port is the kernel's choice.
        return Client(site, **{"source_ports": None, "timeout_seconds": 5, **settings})

    return make


@pytest.fixture
def world():
    """What tests need by name from this file: pytest's importlib mode has no other way."""
    import types

    return types.SimpleNamespace(**globals())
