"""A node server without sockets: real database, real store, a clock that the test sets."""

import asyncio
import datetime
import time
from dataclasses import replace
from pathlib import Path

import pytest

from provisiond.administration.administration import Administration
from provisiond.authority import Authority
from provisiond.catalogue import Catalogue
from provisiond.config import parse_config
from provisiond.events.events import EventLog
from provisiond.hosts import HostsDirectory
from provisiond.nodes.database import NodeDatabase
from provisiond.nodes.leases import LeaseFile
from provisiond.nodes.registry import Registry
from provisiond.overlays.overlays import Overlays
from provisiond.parts import Parts
from provisiond.protocol import Checkin
from provisiond.service import Service
from provisiond.statedir import StateDir
from vnfsbuild import manifest as m
from vnfsbuild.digest import digest_of
from vnfsbuild.reference import parse_reference
from vnfsbuild.signing.keys import find_signing_key, new_key, sign_manifest
from vnfsbuild.store.store import Store

CONFIG = """
state_dir = "{state}"
trust = "{trust}"
[network]
device = "eth1"
address = "10.87.0.1/24"
range = "10.87.0.100-10.87.0.199"
[nodes]
new_nodes_per_second = 1000
{more}
"""
NOW = 1_700_000_000.0


class Builder:
    """Makes signed capsules, small enough to be made anew in each test."""

    def __init__(self, directory: Path):
        self.site = directory / "site"
        self.store = Store(directory / "builds")
        self.files = directory
        new_key(self.site, "dev", now=int(time.time()))
        self.trust = self.site / "trust.json"

    def build(
        self, name="debian-13-minimal", serial=1, *, kind=m.CAPSULE, signed=True, drivers=False
    ):
        """Return the .vnfs file of a capsule, and its digest."""
        parts = [m.SOURCE, m.KERNEL, m.INITRD] + ([m.LAYER_SQUASHFS] if kind == m.CAPSULE else [])
        layers = len(parts) - 3
        parts += [m.DRIVERS] if drivers else []
        payloads = tuple(
            self.store.add_blob(f"{name} {serial} {part}".encode(), media_type=part)
            for part in parts
        )
        config = m.render_config(
            m.Config(
                name=name, serial=serial, architecture="x86_64", distribution="debian trixie",
                epoch=1, kernel=m.Kernel("6.12.0-test", ("quiet",)),
                layers=("rootfs",) * layers, bootstrap_protocol=1,
            )
        )  # fmt: skip
        described = self.store.add_blob(config, media_type=m.CONFIG)
        manifest = m.render_manifest(m.Manifest(kind, described, payloads))
        key = find_signing_key(self.site, "dev")
        envelopes = [sign_manifest(manifest, key)] if signed else []
        digest = self.store.add_capsule(manifest, config, envelopes)
        path = self.files / f"{name}-{serial}.vnfs"
        self.store.export(parse_reference(f"{name}@{digest}"), path)
        return path, digest


class World:
    """A node server and the machines around it. Make it inside the event loop."""

    def __init__(self, directory: Path, builder: Builder, *, starts_at=0.0, **changes):
        text = CONFIG.format(state=directory / "state", trust=builder.trust, more="")
        self.config = replace(parse_config(text, where="test"), **changes)
        self.builder = builder
        self.state = StateDir(path=self.config.state_dir)
        for path in (*self.state.served, self.state.dnsmasq.leases.parent):
            path.mkdir(parents=True, exist_ok=True)
        self.now = NOW + starts_at
        self.dnsmasq_told = 0
        authority = Authority(self.state.authority)
        if not self.state.authority.exists():
            authority.create(now=datetime.datetime.now(tz=datetime.UTC))
        catalogue = Catalogue(
            self.state.store, trust=self.state.trust, trust_source=self.config.trust
        )
        catalogue.refresh()
        registry = Registry(NodeDatabase(self.state.database))
        self.parts = Parts(
            config=self.config,
            registry=registry,
            catalogue=catalogue,
            events=EventLog(),
            leases=LeaseFile(self.state.dnsmasq.leases),
            hosts=HostsDirectory(self.state.dnsmasq, self._tell_dnsmasq),
            overlays=Overlays(self.config, authority.load_site_secret(), registry),
            clock=lambda: self.now,
            authority_digest=digest_of(authority.load_ca_certificate()),
        )
        self.service = Service(self.parts)
        self.administration = Administration(self.parts, self.service)

    def _tell_dnsmasq(self):
        self.dnsmasq_told += 1

    def lease(self, hwaddr, address):
        with self.state.dnsmasq.leases.open("a") as file:
            file.write(f"0 {hwaddr} {address} * *\n")

    async def import_capsule(self, *args, promote=True, **words):
        path, digest = self.builder.build(*args, **words)
        await self.administration.import_file(path, promote=promote)
        return digest

    def machine(self, number, **words):
        return Machine(self, number, **words)

    def events(self, kind):
        return [event.text for event in self.parts.events.since(0) if event.kind == kind]


class Machine:
    """An agent: knows its boot, and what it was told."""

    def __init__(self, world, number, *, boot=1):
        self.world = world
        self.hwaddr = f"52:54:00:00:00:{number:02x}"
        self.peer = f"10.87.0.{99 + number}"
        self.boot_id = f"{number:016x}{boot:016x}"
        self.node_key = None
        self.plan = None

    async def says(self, state="init", **words):
        """Check in; take the key along, as an agent does."""
        peer = words.pop("peer", self.peer)
        words.setdefault("node_key", self.node_key)
        words.setdefault("hwaddrs", (self.hwaddr,))
        answer = await self.world.service.checkin(
            Checkin(boot_id=self.boot_id, state=state, **words), peer=peer
        )
        self.plan = answer.plan
        self.node_key = answer.node_key or self.node_key
        return answer

    def overlay(self, **words):
        asked = {
            "node_id": self.hwaddr,
            "boot_id": self.boot_id,
            "node_key": self.node_key,
            "digest": self.plan.overlay.digest if self.plan.overlay else "",
            "peer": self.peer,
            **words,
        }
        return self.world.service.overlay(**asked)


@pytest.fixture
def builder(tmp_path):
    return Builder(tmp_path)


@pytest.fixture
def in_world(tmp_path, builder):
    """Run a coroutine function of a world in an event loop, and close the world after it."""

    def run(story, **changes):
        async def tell():
            world = World(tmp_path, builder, **changes)
            try:
                return await story(world)
            finally:
                await world.parts.registry.close()

        return asyncio.run(tell())

    return run
