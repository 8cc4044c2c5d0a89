"""Who must refuse: each judge is the real code, and is asked with bytes that somebody sent.

A judge answers with a :class:`Verdict`, and has made sure of what a verdict cannot tell: that
nothing was left behind, and that no payload was used.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import io
import json
import re
import shutil
import socket
import threading
import time
from dataclasses import dataclass
from ipaddress import IPv4Interface
from types import SimpleNamespace

from aiohttp import web

from provisiond.agent.bootstrap import Bootstrap
from provisiond.agent.conversation import Pace
from provisiond.agent.drivers import Drivers
from provisiond.agent.entry import Jump
from provisiond.agent.fetch import Patience
from provisiond.agent.machine import Machine
from provisiond.agent.rescue import Rescue
from provisiond.agent.site import Site
from provisiond.api.api import make_admin_app, make_boot_app
from provisiond.client import Client
from provisiond.protocol import parse_answer, render_answer
from vnfsbuild import cli
from vnfsbuild.errors import VnfsbuildError
from vnfsbuild.store import blobs

from ..unit.provisiond.conftest import World
from .forge import PAYLOADS

BY_DESIGN_SECONDS = 20
"""No row may take longer, on the slowest of machines; most take some milliseconds."""
LONGEST_LINE = 1000
NODE_ID = "52:54:00:00:00:01"
NODE = "n00001"
BOOTSTRAP_LINE = re.compile(r"(refused|failed) \S+@[0-9a-f]{12}: ")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class Verdict:
    """What became of it, as a person sees it."""

    status: int
    line: str
    """The error, without its hint; empty when there was none."""
    told: str = ""
    """Everything that was said."""
    taken: tuple = ()
    """Media types of the payloads that it had begun to keep by then."""

    def is_refusal(self, *statuses):
        """Assert that it is one, in words that a person can use."""
        found = f"status {self.status}: {self.told or self.line}"
        assert self.status in (statuses or (2, 3)), found
        assert "Traceback" not in self.told, self.told
        assert "bug" not in self.told, self.told
        assert self.line, "refused without a word"
        assert not _CONTROL.search(self.line), f"a line that drives terminals: {self.line!r}"
        assert len(self.line) <= LONGEST_LINE, f"{len(self.line)} characters: {self.line[:200]} …"
        assert re.search(r"\S: \S", self.line), f"does not say where: {self.line!r}"
        return self


def snapshot(directory):
    """Return path → what is there, for all below *directory* but locks."""
    found = {}
    for path in sorted(directory.rglob("*")):
        is_small = path.is_file() and path.stat().st_size < 2**20
        if path.name != ".lock":
            found[str(path.relative_to(directory))] = path.read_bytes() if is_small else None
    return found


@contextlib.contextmanager
def quick():
    """Assert that the block ends soon."""
    started = time.monotonic()
    yield
    assert time.monotonic() - started < BY_DESIGN_SECONDS


@contextlib.contextmanager
def payloads_taken():
    """Note which payloads the block begins to keep."""
    taken = []
    take = blobs.Incoming.take

    def noting(self, blob, *rest):
        taken.append(blob.media_type)
        return take(self, blob, *rest)

    blobs.Incoming.take = noting
    try:
        yield taken
    finally:
        blobs.Incoming.take = take


def refused_by(judges, ask, *statuses):
    """Return the verdicts of *judges*, all of which must be refusals; *ask* asks one of them.

    That of each says who it was: the others have been asked too.
    """
    found = {judge: ask(judge) for judge in judges}
    for judge, verdict in found.items():
        try:
            verdict.is_refusal(*statuses)
        except AssertionError as error:
            raise AssertionError(f"{judge.__name__}: {error}") from None
    return found


class CommandLine:
    """``vnfsbuild VERB …`` in this process, with a store and a site of its own."""

    def __init__(self, store, site):
        self.store, self.site = store, site

    def run(self, *words):
        """Run a command line; return the verdict."""
        out, err = io.StringIO(), io.StringIO()
        words = ["--store", self.store, "--site", self.site, *words]
        with quick(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = cli.run([str(word) for word in words])
        return read_words(status, out.getvalue(), err.getvalue())


def read_words(status, out, err):
    """Return the verdict that a program of ours ended with."""
    assert not status or not out, f"results in spite of an error: {out}"
    errors = [line for line in err.split("\n") if line.startswith("error: ")]
    assert len(errors) == (status != 0), err
    if status:  # one error, perhaps a hint, and nothing that looks like more
        rest = err.partition("error: ")[2].split("\n")
        assert [line for line in rest[1:] if line and not line.startswith("hint: ")] == [], err
    return Verdict(status, errors[0].removeprefix("error: ") if errors else "", out + err)


class VerifyFile:
    """``vnfsbuild verify FILE``."""

    def __init__(self, desk):
        self.run = desk.command_line.run

    def of_file(self, path):
        return self.run("verify", path)


class ImportFile:
    """``vnfsbuild import FILE``: the store is byte for byte as before."""

    def __init__(self, desk):
        self.desk = desk

    def of_file(self, path):
        store = self.desk.command_line.store
        before = snapshot(store)
        with payloads_taken() as taken:
            verdict = self.desk.command_line.run("import", path)
        if verdict.status:
            assert snapshot(store) == before, "the store is not as it was"
        return dataclasses.replace(verdict, taken=tuple(taken))


class NodeServerImport:
    """``provisionctl vnfs import FILE``: upload to the daemon; its store is as before."""

    def __init__(self, desk):
        self.server = desk.server

    def of_file(self, path):
        state = self.server.world.state
        before = snapshot(state.store)
        with quick(), payloads_taken() as taken:
            verdict = self.server.upload(path)
        if verdict.status:
            assert snapshot(state.store) == before, "the server's store is not as it was"
        assert list(state.incoming.iterdir()) == [], "the upload was left behind"
        return dataclasses.replace(verdict, taken=tuple(taken))


class VerifyStored:
    """``vnfsbuild verify REFERENCE``."""

    words = ("verify", "toy")
    spares = frozenset()
    """Regions that it does not use: damaged, they may be overlooked."""

    def __init__(self, desk):
        self.site = desk.command_line.site

    def of_store(self, store):
        before = snapshot(store)
        verdict = CommandLine(store, self.site).run(*self.words)
        assert snapshot(store) == before, "who only reads has written"
        return verdict


class ExportStored(VerifyStored):
    """``vnfsbuild export REFERENCE``: no file appears."""

    def of_store(self, store):
        target = store.parent / "out.vnfs"
        verdict = CommandLine(store, self.site).run("export", "toy", target)
        if verdict.status:
            assert list(store.parent.glob("*out.vnfs*")) == [], "a file was left behind"
        return verdict


class Node:
    """The bootstrap's agent, booted by the node server whose store this is.

    The service, its web server for blobs and the agent are the real ones; so is ``openssl``.
    Check-ins skip TLS, and the last step is taken elsewhere.
    """

    fresh = False
    """Whether the server looks at its store anew before."""
    spares = frozenset(
        (
            "layout", "index", "empty blob", "referrers index", "signature manifest",
            "provenance manifest", "provenance", "source",
        )
    )  # fmt: skip

    def __init__(self, desk):
        self.server = desk.server
        self.directory = desk.directory

    def of_store(self, store):
        with self.server.keeping(store), quick():
            if self.fresh:
                try:
                    self.server.world.parts.catalogue.refresh()
                except VnfsbuildError as error:  # a daemon that starts now ends so
                    return Verdict(error.exit_status, str(error))
            return self.boot()

    def boot(self, *, trust=None, answered=None):
        """Let the node boot once; *trust* is that of its site.cpio, *answered* that of answers."""
        return boot_node(self.directory, self.server, trust=trust, answered=answered)


class FreshNode(Node):
    """The same, with a node server that has just been started on this store."""

    fresh = True
    spares = frozenset(("layout", "empty blob", "source"))


class Ended(Exception):
    """The agent has said what came of it."""


class Wire:
    """What an agent's client does, without the wire."""

    def __init__(self, server, answered):
        self.server, self.answered = server, answered

    def checkin(self, checkin, *, timeout_seconds=None):
        service = self.server.world.service
        answer = self.server.wait_for(service.checkin(checkin, peer="127.0.0.1"))
        if self.answered is not None:
            answer = dataclasses.replace(answer, trust=self.answered)
        return parse_answer(json.loads(render_answer(answer)))

    def overlay(self, overlay, *, node_id, boot_id, node_key):
        async def render():
            return self.server.world.service.overlay(
                node_id=node_id, boot_id=boot_id, node_key=node_key, digest=overlay.digest,
                peer="127.0.0.1",
            )  # fmt: skip

        yield self.server.wait_for(render())


def assert_signed(kind, data):
    """Assert that what a node would jump into is what the site's keys signed."""
    good = {region: blob for region, _, blob in PAYLOADS}
    if kind == "kernel":
        assert data == good["kernel"]
    else:
        layers = data.partition(good["layer 0"])
        assert data.startswith(good["initrd"])
        assert layers[1]
        assert good["layer 1"] in layers[2]


def boot_node(directory, server, *, trust=None, answered=None):
    """Let a node of *server* boot; return the verdict. 0: it would have jumped into the capsule."""
    server.world.now += 100_000  # what it did before is long ago
    run, site = directory / "run", directory / "node-site"
    shutil.rmtree(run, ignore_errors=True)
    for path in (run, site):
        path.mkdir(exist_ok=True)
    for name, data in (("ca.pem", b"-"), ("site.json", b"{}"), ("trust.json", b"-")):
        (site / name).write_bytes(data)
    said, loaded = [], []

    def tell(line):
        said.append(line)
        if "; again in" in line or ": waiting: " in line:
            raise Ended

    def load(kernel, initrd, line):
        loaded.append((kernel.read_bytes(), initrd.read_bytes()))
        raise Ended

    def end():
        raise Ended

    still = Patience(stall_seconds=5, tries=1, least_delay_seconds=0.001, most_delay_seconds=0.001)
    with contextlib.suppress(Ended):
        Bootstrap(
            Machine((NODE_ID,), None),
            Site(("https://127.0.0.1",), site / "ca.pem", server.trust if trust is None else trust),
            Wire(server, answered),
            description={},
            run=run,
            tell=tell,
            set_clock=lambda seconds: None,
            pace=Pace(poll_seconds=1, progress_seconds=1e9, patience=still),
            jump=Jump(load=load, start=end, reboot=end),
            rescue=Rescue(run=run, tell=tell, root=run, script=run / "none"),
            drivers=Drivers(tell=tell, root=run, run=run, load=end),
            command_line="",
        ).run()
    if loaded:
        for kind, payload in (("kernel", loaded[0][0]), ("initrd", loaded[0][1])):
            assert_signed(kind, payload)
        return Verdict(0, "", "\n".join(said))
    left = {path.name for path in run.rglob("*") if path.is_file()}
    assert left <= {"boot.json", "log"}, "left in the node's memory"
    return Verdict(3 if "refused" in said[-1] else 2, said[-1], "\n".join(said))


class Server:
    """A node server in a thread: administrators at a Unix socket, blobs by HTTP."""

    def __init__(self, directory, trust, trust_bytes):
        self.directory, self.trust, self._trust_file = directory, trust_bytes, trust
        self.on_request = None
        """Is told the digest of each blob, before it is handed out."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.wait_for(self._start())

    def wait_for(self, story):
        """Let the server's thread do it."""
        return asyncio.run_coroutine_threadsafe(story, self._loop).result(60)

    async def _start(self):
        listening = socket.create_server(("127.0.0.1", 0))
        self.world = World(
            self.directory,
            SimpleNamespace(trust=self._trust_file),
            address=IPv4Interface("127.0.0.1/8"),
            boot_port=listening.getsockname()[1],
            session_timeout_seconds=10,
        )
        world = self.world
        boot = make_boot_app(
            world.service.firmware, world.parts.catalogue, script="", render_site=lambda words: b"",
            loaders=self.directory,
        )  # fmt: skip
        boot.middlewares.append(self._note)
        admin = make_admin_app(
            world.administration, is_allowed=lambda request: True, incoming=world.state.incoming
        )
        # Whoever still fetches terabytes is cut off soon.
        self._runners = [web.AppRunner(app, shutdown_timeout=0.5) for app in (boot, admin)]
        for runner in self._runners:
            await runner.setup()
        await web.SockSite(self._runners[0], listening).start()
        self._socket = self.directory / "s"
        await web.UnixSite(self._runners[1], str(self._socket)).start()

    @web.middleware
    async def _note(self, request, handler):
        if self.on_request:
            self.on_request(request.path.rpartition("/")[2])
        return await handler(request)

    def ask(self, path, value):
        """Let the server do what an administrator asks."""
        return Client(self._socket).post(path, value)

    def upload(self, path):
        """Import a file as provisionctl does; return the verdict."""
        try:
            with path.open("rb") as file:
                Client(self._socket).upload("/v1/capsules", file, path.stat().st_size)
        except VnfsbuildError as error:
            return Verdict(error.exit_status, error.message)
        return Verdict(0, "")

    def handed_out_trust(self):
        """Return the trust.json that nodes are booted with."""
        return self.world.parts.catalogue.trust_bytes

    @contextlib.contextmanager
    def keeping(self, store):
        """Let *store* be the server's as long as the block runs; it is not told."""
        mine = self.world.state.store
        aside = mine.with_name("aside")
        mine.rename(aside)
        store.rename(mine)
        try:
            yield
        finally:
            mine.rename(store)
            aside.rename(mine)
            self.world.parts.catalogue.refresh()

    def stop(self):
        """End it."""

        async def end():
            for runner in self._runners:
                await runner.cleanup()
            await self.world.parts.registry.close()

        self.wait_for(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
