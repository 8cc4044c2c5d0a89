"""Against Debian's docker-registry: push, pull, logins, TLS, resuming; and skopeo both ways."""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time

import pytest

from vnfsbuild import manifest as m
from vnfsbuild.digest import digest_of
from vnfsbuild.signing.keys import find_signing_key, sign_manifest
from vnfsbuild.store.store import Store

from . import daemon, registries
from .registries import LOGIN, skopeo, token_server, write_logins

pytestmark = pytest.mark.integration

LAYER = random.Random(4).randbytes(40_000_000)


class Machine:
    """A machine with store, cache and site, on which vnfsbuild is typed."""

    def __init__(self, path, site):
        path.mkdir(exist_ok=True)
        self.path = path
        self.store = Store(path / "store")
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("VNFS_")},
            "VNFS_STORE": str(path / "store"),
            "VNFS_CACHE": str(path / "cache"),
            "VNFS_SITE": str(site),
            "HOME": str(path),
            "REGISTRY_AUTH_FILE": str(path / "auth.json"),
        }

    def start(self, *args, **environment):
        argv = [sys.executable, "-B", "-m", "vnfsbuild", *map(str, args)]
        return subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**self.environment, **environment},
        )  # fmt: skip

    def type(self, *args, status=0, **environment):
        process = self.start(*args, **environment)
        out, err = process.communicate(timeout=120)
        assert process.returncode == status, err
        assert "Traceback" not in err
        return out if status == 0 else err


@pytest.fixture(scope="module")
def tree():
    return registries.ensure_programs()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    path = tmp_path_factory.mktemp("site")
    Machine(path, path).type("keys", "new", "dev")
    return path


@pytest.fixture
def machine(tmp_path, site):
    """Make a machine."""
    return lambda name: Machine(tmp_path / name, site)


@pytest.fixture
def builder(machine, site):
    """A machine that has built the capsule toy."""
    made = machine("builder")
    add_toy(made.store, find_signing_key(site, "dev"))
    return made


@pytest.fixture
def registry(tree, tmp_path):
    with registries.running_registry(tree, tmp_path / "registry") as running:
        yield running


def add_toy(store, *keys, layer=LAYER, serial=1):
    contents = [b"source", b"kernel", b"initrd", layer, b"modules"]
    kinds = [m.SOURCE, m.KERNEL, m.INITRD, m.LAYER_SQUASHFS, m.LAYER_SQUASHFS]
    blobs = tuple(
        store.add_blob(data, media_type=kind) for kind, data in zip(kinds, contents, strict=True)
    )
    config = m.render_config(
        m.Config(
            name="toy", serial=serial, architecture="x86_64", distribution="debian trixie",
            epoch=0, kernel=m.Kernel(version="6", arguments=()), layers=("rootfs", "modules"),
            bootstrap_protocol=1,
        )
    )  # fmt: skip
    descriptor = m.Descriptor(m.CONFIG, digest_of(config), len(config))
    manifest = m.render_manifest(
        m.Manifest(artifact_type=m.CAPSULE, config=descriptor, payloads=blobs)
    )
    return store.add_capsule(manifest, config, [sign_manifest(manifest, key) for key in keys])


def test_there_and_back(builder, machine, registry):
    place = f"oci://{registry.host}/vnfs/toy"
    pushed = json.loads(builder.type("push", "toy", place, "--plain-http", "--json"))
    assert pushed["referrersTag"] is True, "docker-registry 2.8 has no referrers API"
    assert pushed["tags"] == ["1", "current"]
    assert pushed["sentBytes"] > len(LAYER)
    again = json.loads(builder.type("push", "toy", place, "--plain-http", "--json"))
    assert again["sentBytes"] == 0
    node_server = machine("other")
    assert node_server.type("pull", place, "--plain-http") == f"toy:1@{pushed['digest']}\n"
    node_server.type("verify", "toy")
    found = json.loads(node_server.type("pull", place, "--plain-http", "--json"))
    assert found["fetchedBytes"] == 0
    told = node_server.type("pull", place, status=1)
    assert "--plain-http" in told


def test_two_signers_at_once(builder, machine, registry, site, tmp_path):
    """The tag of the referrers is read, merged and read again: neither signature is lost."""
    place = f"oci://{registry.host}/vnfs/toy"
    second = machine("second")
    Machine(tmp_path / "site2", tmp_path / "site2").type("keys", "new", "release")
    add_toy(second.store, find_signing_key(tmp_path / "site2", "release"))
    builder.type("push", "toy", place, "--plain-http")
    running = [item.start("push", "toy", place, "--plain-http") for item in (builder, second)] + [
        item.start("push", "toy", place, "--plain-http") for item in (second, builder)
    ]
    for process in running:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, out + err
    puller = machine("puller")
    puller.type("pull", place, "--plain-http")
    assert len(json.loads(puller.type("show", "toy", "--json"))["signatures"]) == 2


def test_basic_login_and_tls(tree, builder, machine, tmp_path):
    registries.make_certificate(tmp_path)
    (tmp_path / "htpasswd").write_text(registries.HTPASSWD)
    tls = f"  tls: {{certificate: {tmp_path}/cert.pem, key: {tmp_path}/key.pem}}\n"
    more = f"auth: {{htpasswd: {{realm: toys, path: {tmp_path}/htpasswd}}}}\n"
    with registries.running_registry(tree, tmp_path / "r", tls=tls, more=more) as registry:
        place = f"oci://{registry.host}/toy"
        ca = tmp_path / "cert.pem"
        assert "certificate" in builder.type("push", "toy", place, status=1)
        told = builder.type("push", "toy", place, "--ca-file", ca, status=1)
        assert f"podman login {registry.host}" in told
        write_logins(builder.path / "auth.json", {registry.host: "me:wr0ng"})
        told = builder.type("push", "toy", place, "--ca-file", ca, status=1)
        assert "wr0ng" not in told
        write_logins(builder.path / "auth.json", {registry.host: LOGIN})
        builder.type("push", "toy", place, "--ca-file", ca)
        told = builder.type("push", "toy", place, "--plain-http", status=1)
        assert "leave --plain-http out" in told
        other = machine("other")
        write_logins(other.path / "auth.json", {registry.host: LOGIN})
        other.type("pull", place, SSL_CERT_FILE=str(ca))
        other.type("verify", "toy")


def test_tokens(tree, builder, machine, tmp_path):
    with token_server(tmp_path) as (port, asked):
        more = (
            f"auth: {{token: {{realm: 'http://127.0.0.1:{port}/token', service: toys, "
            f"issuer: toys, rootcertbundle: {tmp_path}/cert.pem}}}}\n"
        )
        with registries.running_registry(tree, tmp_path / "r", more=more) as registry:
            place = f"oci://{registry.host}/vnfs/toy"
            assert "login" in builder.type("push", "toy", place, "--plain-http", status=1)
            for item in (builder, other := machine("other")):
                write_logins(item.path / "auth.json", {registry.host: LOGIN})
            asked.clear()
            builder.type("push", "toy", place, "--plain-http")
            other.type("pull", place, "--plain-http")
            other.type("verify", "toy")
            assert {"repository:vnfs/toy:pull", "repository:vnfs/toy:pull,push"} <= {
                scope for scopes, _ in asked for scope in scopes
            }
            assert len(asked) < 8, "a token is used more than once"


def test_a_killed_pull_goes_on(builder, machine, registry):
    place = f"oci://{registry.host}/vnfs/toy"
    builder.type("push", "toy", place, "--plain-http")
    proxy = SlowProxy(registry.port, bytes_a_second=20_000_000)
    with proxy:
        slow = f"oci://127.0.0.1:{proxy.port}/vnfs/toy"
        other = machine("other")
        process = other.start("pull", slow, "--plain-http")
        partial = other.path / "cache/incoming"
        until = time.monotonic() + 60
        while time.monotonic() < until:
            here = sum(path.stat().st_size for path in partial.glob("*.whole"))
            if here > 8_000_000:
                break
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert other.type("list").strip().count("\n") == 0, "the store is as it was"
        here = sum(path.stat().st_size for path in partial.glob("*.whole"))
        assert here > 8_000_000
    found = json.loads(other.type("pull", place, "--plain-http", "--json"))
    assert found["fetchedBytes"] <= found["sizeBytes"] - here
    other.type("verify", "toy")


def test_a_push_through_a_connection_that_breaks(builder, machine, registry):
    """A break between parts goes on; one within a part makes this registry forget the session."""
    proxy = SlowProxy(registry.port, cut_after=[10_000_000, 45_000_000])
    with proxy:
        builder.type("push", "toy", f"oci://127.0.0.1:{proxy.port}/vnfs/toy", "--plain-http")
    assert not proxy.cut_after, "both breaks happened"
    other = machine("other")
    other.type("pull", f"oci://{registry.host}/vnfs/toy", "--plain-http")
    other.type("verify", "toy")


class SlowProxy:
    """Passes connections on, slowly, and breaks some after so many bytes altogether."""

    def __init__(self, port, *, bytes_a_second=None, cut_after=()):
        self._target = ("127.0.0.1", port)
        self._pause = 65536 / bytes_a_second if bytes_a_second else 0
        self.cut_after = list(cut_after)
        self._seen = 0
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open = [self._listener]
        self._threads = []

    def __enter__(self):
        self._run(self._accept)
        return self

    def __exit__(self, *_):
        for item in self._open:
            with contextlib.suppress(OSError):
                item.shutdown(socket.SHUT_RDWR)
            item.close()
        for thread in self._threads:
            thread.join(10)

    def _run(self, target, *args):
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._target)
            self._open += [client, server]
            self._run(self._pass_on, client, server, True)
            self._run(self._pass_on, server, client, False)

    def _pass_on(self, source, sink, upwards):
        try:
            while data := source.recv(65536):
                if upwards or self._pause:
                    time.sleep(self._pause)
                with self._lock:
                    self._seen += len(data) if upwards else 0
                    cut = bool(self.cut_after) and self._seen >= self.cut_after[0]
                    if cut:
                        self.cut_after.pop(0)
                if cut:
                    break
                sink.sendall(data)
        except OSError:
            pass
        for item in (source, sink):
            with contextlib.suppress(OSError):
                item.shutdown(socket.SHUT_RDWR)


def test_skopeo_both_ways(tree, builder, machine, registry, tmp_path):
    """One manifest each: the signature is copied by its tag, with --all since that is an index."""
    place = f"{registry.host}/vnfs/toy"
    digest = json.loads(builder.type("push", "toy", f"oci://{place}", "--plain-http", "--json"))[
        "digest"
    ]
    signatures = digest.replace(":", "-")
    plain = ["--src-tls-verify=false"]
    layout = tmp_path / "layout"
    skopeo(tree, "copy", *plain, f"docker://{place}:1", f"oci:{layout}:1")
    other = machine("other")
    told = other.type("import", f"oci:{layout}:1", status=3)
    assert "not signed" in told and signatures in told  # noqa: PT018
    skopeo(
        tree,
        "copy",
        "--all",
        *plain,
        f"docker://{place}:{signatures}",
        f"oci:{layout}:{signatures}",
    )
    for source in (f"oci:{layout}:1", str(layout)):
        assert other.type("import", source) == f"toy:1@{digest}\n"
    other.type("verify", "toy")
    archive = tmp_path / "layout.tar"
    with tarfile.open(archive, "w") as tar:
        for path in sorted(layout.rglob("*"), reverse=True):
            tar.add(path, path.relative_to(layout), recursive=False)
        tar.add(__file__, "README")
    third = machine("third")
    third.type("import", f"oci-archive:{archive}")
    third.type("verify", "toy")
    assert "oci-archive:" in third.type("import", archive, status=3)
    # And back, into another repository, from where it is pulled.
    back = f"{registry.host}/copy/toy"
    skopeo(tree, "copy", "--dest-tls-verify=false", f"oci:{layout}:1", f"docker://{back}:1")
    skopeo(tree, "copy", "--all", "--dest-tls-verify=false",
           f"oci:{layout}:{signatures}", f"docker://{back}:{signatures}")  # fmt: skip
    fourth = machine("fourth")
    assert fourth.type("pull", f"oci://{back}:1", "--plain-http") == f"toy:1@{digest}\n"
    fourth.type("verify", "toy")


def test_only_new_chunks_are_fetched(builder, machine, registry, site):
    place = f"oci://{registry.host}/vnfs/toy"
    builder.type("push", "toy", place, "--plain-http")
    other = machine("other")
    other.type("pull", place, "--plain-http")
    changed = LAYER[:20_000_000] + b"three packages more" * 5000 + LAYER[20_000_000:]
    add_toy(builder.store, find_signing_key(site, "dev"), layer=changed, serial=2)
    builder.type("push", "toy", place, "--plain-http")
    found = json.loads(other.type("pull", place, "--plain-http", "--json"))
    assert found["serial"] == 2
    assert found["fetchedBytes"] < 0.02 * found["sizeBytes"]
    other.type("verify", "toy")


def test_a_node_server_takes_a_capsule_of_a_registry(registry, tmp_path, monkeypatch):
    """By provisionctl, into vnfsbuild's store and from there to the daemon, which judges again."""
    with daemon.site(init=("--no-dnsmasq", "--user", "")) as made:
        made.serve()
        builder = Machine(tmp_path / "builder", made.keys)
        digest = add_toy(builder.store, find_signing_key(made.keys, "dev"))
        place = f"oci://{registry.host}/vnfs/toy"
        builder.type("push", "toy", place, "--plain-http")
        monkeypatch.setenv("VNFS_SITE", str(made.keys))
        monkeypatch.setenv("VNFS_CACHE", str(tmp_path / "cache"))
        done = made.ctl("vnfs", "import", place, "--plain-http")
        assert (done.returncode, done.stdout) == (0, f"toy:1@{digest}\n"), done.stderr
        assert [item["digest"] for item in made.client.get("/v1/capsules")] == [digest]
        done = made.ctl("vnfs", "import", f"{place}:2", "--plain-http")
        assert done.returncode == 2
        assert "no such capsule" in done.stderr
