"""A node server with a capsule, and a node that is to boot it: each test says what goes wrong."""

import contextlib
import os
import re
import shutil
import tempfile
from pathlib import Path

from vnfsbuild import manifest as m
from vnfsbuild.digest import digest_of
from vnfsbuild.signing.keys import find_signing_key, sign_manifest

from .bootingnode import BootingNode
from .daemon import Site, hwaddr

NAME = "debian-13-minimal"
LARGE = 24 * 1024 * 1024
"""So that there is something to interrupt."""


class World:
    """A node server with a capsule, and one node that is to boot it."""

    def __init__(self, made, node):
        self.made = made
        self.node = node

    def verify_loaded(self):
        """Compare what was loaded with what was signed."""
        loaded = self.node.loaded(self.manifest)
        assert loaded["kernel"] == self.manifest.payload(m.KERNEL).digest
        assert loaded["initrd"] == self.manifest.payload(m.INITRD).digest
        (layer,) = self.manifest.layers
        assert loaded["vnfs/layers/00-rootfs.squashfs"] == layer.digest
        assert {"vnfs/node.json", "vnfs/overlay.tar", "vnfs/site/trust.json"} <= set(loaded)
        return loaded

    def verify_as_undisturbed(self):
        """And with what the node loads when it boots again, with nothing wrong any more."""
        loaded = self.verify_loaded()
        self.node.power_off()
        assert self.made.ctl("node", "set", "mirrors", "", "n0001").returncode == 0
        self.node.start().wait_jump()
        assert self.verify_loaded() == loaded

    def use(self, manifest):
        """Let the node boot this one from now on."""
        self.manifest = manifest
        self.digest = digest_of(m.render_manifest(manifest))
        done = self.made.ctl("vnfs", "import", NAME)
        assert done.returncode == 0, done.stderr

    def add_node(self):
        """Make the node known before it boots, with the capsule assigned."""
        value = {"hwaddr": hwaddr(1), "name": "n0001", "attributes": {"vnfs": NAME}}
        self.made.client.post("/v1/nodes", value)

    def mirrors(self, *bases):
        done = self.made.ctl("node", "set", "mirrors", " ".join(bases), "n0001")
        assert done.returncode == 0, done.stderr


def add_capsule(made, *, key="dev", serial=1, layer_bytes=LARGE, arguments=()):
    """Put a capsule into the builds whose layer has so many bytes."""
    payloads = [
        made.builds.add_blob(f"{serial} {kind}".encode() * 999, media_type=kind)
        for kind in (m.SOURCE, m.KERNEL, m.INITRD)
    ]
    payloads.append(made.builds.add_blob(os.urandom(layer_bytes), media_type=m.LAYER_SQUASHFS))
    config = m.render_config(
        m.Config(
            name=NAME, serial=serial, architecture="x86_64", distribution="debian trixie",
            epoch=1, kernel=m.Kernel("6.12.0-test", tuple(arguments)), layers=("rootfs",),
            bootstrap_protocol=1,
        )
    )  # fmt: skip
    described = made.builds.add_blob(config, media_type=m.CONFIG)
    manifest = m.Manifest(m.CAPSULE, described, tuple(payloads))
    data = m.render_manifest(manifest)
    envelopes = [sign_manifest(data, find_signing_key(made.keys, key))] if key else []
    made.builds.add_capsule(data, config, envelopes)
    return manifest


@contextlib.contextmanager
def make_site(*, dnsmasq=False, settings=()):
    directory = Path(tempfile.mkdtemp(prefix="vnfs-fault-"))
    directory.chmod(0o755)
    init = ("--user", "") if dnsmasq else ("--no-dnsmasq", "--user", "")
    made = Site(directory, init=init)
    try:
        text = made.config.read_text()
        # A node that is powered off is soon gone: another boot of it is no conflict.
        for key, value in (("checkin_seconds", 1), ("session_timeout_seconds", 2), *settings):
            text, count = re.subn(rf"(?m)^(# )?{key} = .*$", f"{key} = {value}", text)
            assert count == 1, key
        made.config.write_text(text)
        yield made
    finally:
        made.close()


@contextlib.contextmanager
def make_world(*, layer_bytes=65536, real_kexec=False, settings=(), dnsmasq=False):
    with make_site(settings=settings, dnsmasq=dnsmasq) as made:
        manifest = add_capsule(made, layer_bytes=layer_bytes)
        made.serve()
        directory = Path(tempfile.mkdtemp(prefix="vnfs-fault-node-"))
        node = BootingNode(made, directory, real_kexec=real_kexec)
        try:
            world = World(made, node)
            world.use(manifest)
            world.add_node()
            yield world
        finally:
            node.close()
            shutil.rmtree(directory)
