"""Debian's docker-registry on loopback, and skopeo: from a private tree of Debian 13 packages.

Like the trees that builds and the laboratory use (docs/adr/0002-tools-trees.md) it is unpacked and
never installed: no maintainer script runs, so that no service of the host's is started or changed.
"""

import base64
import contextlib
import datetime
import ipaddress
import json
import os
import socket
import subprocess
import tempfile
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID

from vnfsbuild.places import find_places
from vnfsbuild.sandbox import tree_argv
from vnfsbuild.toolstree import KINDS, Kind, ensure_tools_tree

KINDS["moving"] = Kind(packages=("docker-registry", "skopeo"))

READY_SECONDS = 60

CONFIG = """\
version: 0.1
log: {{level: info, accesslog: {{disabled: false}}}}
storage:
  filesystem: {{rootdirectory: {directory}/data}}
  delete: {{enabled: true}}
http:
  addr: 127.0.0.1:{port}
  secret: the same after a restart
{tls}{more}
"""


def ensure_programs():
    return ensure_tools_tree("moving", find_places().cache)


def skopeo(tree, *args):
    """Run skopeo with *args*; it knows no policy of the host's."""
    argv = tree_argv(tree, "skopeo", ["--insecure-policy", *map(str, args)])
    with tempfile.TemporaryDirectory() as home:
        env = {"HOME": home, "PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": home}
        done = subprocess.run(argv, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


class Running:
    """A docker-registry that runs."""

    def __init__(self, tree, directory, *, tls="", more=""):
        directory.mkdir(parents=True, exist_ok=True)
        self.log = directory / "log"
        self.port = free_port()
        self.host = f"127.0.0.1:{self.port}"
        config = directory / "config.yml"
        config.write_text(CONFIG.format(directory=directory, port=self.port, tls=tls, more=more))
        self._argv = tree_argv(tree, "docker-registry", ["serve", config])
        self._process = None

    def start(self):
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self._argv, stdout=log, stderr=log)
        until = time.monotonic() + READY_SECONDS
        while time.monotonic() < until:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return self
            assert self._process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        raise AssertionError("docker-registry does not answer")

    def stop(self):
        self._process.terminate()
        self._process.wait(20)

    def requests(self, word):
        return [line for line in self.log.read_text().splitlines() if f'"{word}' in line]


@contextlib.contextmanager
def running_registry(tree, directory, **config):
    registry = Running(tree, directory, **config).start()
    try:
        yield registry
    finally:
        registry.stop()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# Of the password toys-and-keys. bcrypt is all that the registry takes, and nothing here makes it.
HTPASSWD = "me:$2y$05$abcdefghijklmnopqrstuuu0K.nv4rDqWyVF0dohNjq0AIPQDsvVm\n"
LOGIN = "me:toys-and-keys"


def write_logins(path, logins):
    """Write a file of logins as podman does: host → USER:PASSWORD."""
    auths = {
        host: {"auth": base64.b64encode(text.encode()).decode()} for host, text in logins.items()
    }
    path.write_text(json.dumps({"auths": auths}))
    return path


def make_certificate(directory):
    """Write certificate and key of a site's own authority, good for 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "toys")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder()
        .subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    (directory / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (directory / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return made, key


@contextlib.contextmanager
def token_server(directory):
    """A server that hands out tokens, signed as docker-registry wants them, to who has the login.

    Gives its port, and the list of (scopes asked for, Authorization shown).
    """
    made, key = make_certificate(directory)
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *words):
            pass

        def do_GET(self):
            query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
            scopes = query.get("scope", [])
            shown = self.headers.get("Authorization", "")
            asked.append((scopes, shown))
            good = shown == "Basic " + base64.b64encode(LOGIN.encode()).decode()
            data = json.dumps({"token": make_token(made, key, scopes), "expires_in": 60}).encode()
            self.send_response(200 if good else 401)
            self.send_header("Content-Length", str(len(data) if good else 0))
            self.end_headers()
            self.wfile.write(data if good else b"")

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server.server_address[1], asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def make_token(certificate, key, scopes):
    """Return a JSON web token that allows *scopes*."""
    der = certificate.public_bytes(serialization.Encoding.DER)
    header = {"typ": "JWT", "alg": "ES256", "x5c": [base64.b64encode(der).decode()]}
    now = int(time.time())
    access = [
        dict(zip(("type", "name", "actions"), (kind, name, actions.split(",")), strict=True))
        for kind, name, actions in (scope.split(":") for scope in scopes)
    ]
    claims = {"iss": "toys", "aud": "toys", "sub": "me", "jti": "1", "access": access,
              "exp": now + 60, "nbf": now - 60, "iat": now - 60}  # fmt: skip
    text = ".".join(_base64url(json.dumps(part).encode()) for part in (header, claims))
    r, s = decode_dss_signature(key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{text}.{_base64url(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def _base64url(data):
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
