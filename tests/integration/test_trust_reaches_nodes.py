"""A key is revoked on the build host: what the real daemon, and the real agents, make of it."""

import io
import threading
import time

import pytest

from provisiond.agent.bootstrap import Bootstrap
from provisiond.agent.client import Client as AgentClient
from provisiond.agent.conversation import Pace
from provisiond.agent.drivers import Drivers
from provisiond.agent.entry import Jump
from provisiond.agent.machine import Machine
from provisiond.agent.node import load_node
from provisiond.agent.rescue import Rescue
from provisiond.agent.running import Running
from provisiond.agent.site import load_site
from provisiond.agent.system import System
from vnfsbuild.reference import parse_reference
from vnfsbuild.sign import sign_stored
from vnfsbuild.signing.keys import load_key, load_trust, new_key
from vnfsbuild.signing.trustfile import change_trust, find_keys
from vnfsbuild.signing.trustrules import RuleChange, with_rule, without_key

from .test_provisiond import eventually, hwaddr, site

pytestmark = pytest.mark.integration

PACE = Pace(poll_seconds=30, least_delay_seconds=0.2, most_delay_seconds=1.0)


class Jumped(Exception):
    """The point of no return."""


def members(archive):
    """Return name → content of a newc archive."""
    found, file = {}, io.BytesIO(archive)
    while True:
        header = file.read(110)
        fields = [int(header[6 + 8 * n : 14 + 8 * n], 16) for n in range(13)]
        name = file.read(fields[11])[:-1].decode()
        file.seek(-file.tell() % 4, io.SEEK_CUR)
        if name == "TRAILER!!!":
            return found
        found[name] = file.read(fields[6])
        file.seek(-file.tell() % 4, io.SEEK_CUR)


def unpack(archive, directory):
    for name, data in members(archive).items():
        path = directory / name
        if name == "vnfs/node.json" or name.startswith("vnfs/site/"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def status(made, name="n00001"):
    return next(item for item in made.client.get("/v1/nodes?nodes=" + name))


class Node:
    """A machine: its bootstrap, and the agent in its capsule, in the namespace of nodes."""

    def __init__(self, made, directory, site_cpio):
        self.made = made
        self.run = directory / "run"
        self.told = []
        unpack(site_cpio, directory)
        self.site = load_site(directory / "vnfs/site")
        self.loaded = None

    def boot(self):
        """Boot until the jump."""
        self.run.mkdir(exist_ok=True)

        def load(kernel, initrd, line):
            self.loaded = initrd.read_bytes()

        def start():
            raise Jumped

        with self.made.inside(), pytest.raises(Jumped):
            Bootstrap(
                Machine((hwaddr(1),), None),
                self.site,
                AgentClient(self.site),
                description={},
                run=self.run,
                tell=self.told.append,
                set_clock=lambda seconds: None,
                pace=PACE,
                jump=Jump(load=load, start=start, reboot=start),
                rescue=Rescue(run=self.run, tell=self.told.append, root=self.run),
                drivers=Drivers(tell=self.told.append, root=self.run, run=self.run),
                command_line="",
            ).run()

    def running(self, directory):
        """Return the agent in the capsule, with what the bootstrap handed over."""
        # The capsule's own initrd is no archive here; ours comes after it.
        unpack(self.loaded[self.loaded.index(b"070701") :], directory)
        run = directory / "vnfs"
        return Running(
            load_node(run / "node.json"), AgentClient(load_site(run / "site")), run=run,
            scripts=run / "none", tell=self.told.append,
            system=System(lambda wait=False: "running", list), set_clock=lambda seconds: None,
        )  # fmt: skip

    def say(self, running):
        with self.made.inside():
            running.say(running.become_ready())


def revoke(made, name, *, then):
    """Let *then* sign in the place of *name*, on the build host."""
    now = int(time.time())
    if not (made.keys / f"keys/{then}.pub").exists():
        new_key(made.keys, then, now=now)
    public = find_keys(made.keys, (name, then), None)
    change = RuleChange(glob="*", keys=tuple(public))
    change_trust(made.keys, lambda trust: with_rule(trust, change, public), now=now)
    (keyid,) = find_keys(made.keys, (name,), None)
    change_trust(made.keys, lambda trust: without_key(trust, keyid, name=name), now=now)
    return load_trust(made.keys, now=now).version


def test_a_revoked_key_is_refused_by_nodes_that_were_booted_before(tmp_path):
    with site(init=("--no-dnsmasq", "--user", "", "--registration", "open")) as made:
        made.serve()
        made.build()
        assert made.ctl("vnfs", "import", "debian-13-minimal").returncode == 0
        made.checkin(state="halted")
        assert made.ctl("node", "set", "vnfs", "debian-13-minimal", "n00001").returncode == 0

        site_cpio = made.get("/boot/site.cpio")[1]
        first = Node(made, tmp_path / "first", site_cpio)
        first.boot()
        assert "debian-13-minimal" in "".join(first.told)
        running = first.running(tmp_path / "capsule")
        first.say(running)
        shown = status(made)
        assert (shown["state"], shown["conditions"]) == ("ready", [])
        assert shown["report"]["trustVersion"] == 1

        version = revoke(made, "dev", then="ops")
        assert version == 3
        eventually(lambda: f"trust.json: version {version}" in str(
            made.client.get("/v1/events?since=0")
        ), seconds=15)  # fmt: skip

        # The running node hears of it, judges anew, and says so; nothing else happens to it.
        first.say(running)
        first.say(running)
        shown = status(made)
        assert (shown["state"], shown["conditions"]) == ("ready", ["untrusted"])
        assert "signed by 0 trusted keys" in shown["reason"]
        assert shown["report"]["trustVersion"] == version
        assert "untrusted" in made.ctl("node", "status").stdout
        assert load_trust(tmp_path / "capsule/vnfs/site", now=0).version == version

        # One that boots with what it was given before is told to wait, and holds the newer.
        second = Node(made, tmp_path / "second", site_cpio)
        node = load_node(tmp_path / "capsule/vnfs/node.json")
        made.checkin(state="halted", boot=node.boot_id, words={"nodeKey": node.node_key})
        thread = threading.Thread(target=second.boot)
        thread.start()
        eventually(lambda: any("signed by 0 trusted keys" in line for line in second.told))
        assert any(f"trust.json: version {version}, from the server" in x for x in second.told)

        # Signed by a key that counts, it boots: the waiting node hears of that at once.
        sign_stored(made.builds, parse_reference("debian-13-minimal"), [load_key(made.keys, "ops")])
        assert made.ctl("vnfs", "import", "debian-13-minimal").returncode == 0
        thread.join(20)
        assert not thread.is_alive()
        assert second.loaded is not None
        assert any("signed by" in line for line in second.told)
