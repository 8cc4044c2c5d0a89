"""A node that runs: the real agent as the service starts it, in a namespace of nodes.

It has a ``/run``, an ``/etc`` and a host name of its own, and a systemctl that does nothing but
note what it was asked: what it is told to do to the machine must not happen to this one.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from provisiond.agent.node import Node, render_node
from vnfsbuild.agentzip import render_agent
from vnfsbuild.digest import digest_of

from .daemon import BOOT, SERVER, eventually, hwaddr

SYSTEMCTL = """#!/bin/sh
echo "$*" >>{log}
case "$*" in
is-system-running*) cat {state} ;;
*reboot | *poweroff) . {status} ;;
esac
"""

START = """
mount --make-rprivate /
mkdir {upper} {work}
mount --bind {here} {here}
mount --bind {run} /run
mount -t overlay -o lowerdir=/etc,upperdir={upper},workdir={work} overlay /etc
mkdir -p /etc/vnfs
mount --bind {etc} /etc/vnfs
mount -o remount,bind,ro /
exec "$@"
"""


class RunningNode:
    """Of the site *made*, which serves: the node with this number, booted and approved."""

    def __init__(self, made, directory: Path, *, number=1, boot=BOOT, capsule=None):
        self.made = made
        self.directory = directory
        self.vnfs = directory / "run/vnfs"
        self.etc = directory / "etc"
        self.log = directory / "systemctl"
        self.process = None
        self.groups = []
        self.starts = 0
        self.number, self.boot = number, boot
        self.capsule = capsule or digest_of(b"capsule")
        for path in (self.vnfs / "site", self.etc, directory / "bin"):
            path.mkdir(parents=True)
        self.answer_systemctl("running", "exit 0")
        program = directory / "bin/systemctl"
        program.write_text(
            SYSTEMCTL.format(log=self.log, state=directory / "state", status=directory / "status")
        )
        program.chmod(0o755)
        (directory / "agent.pyz").write_bytes(render_agent())
        self.name, self.key = self._boot()

    def answer_systemctl(self, state, leave="exit 0"):
        """Let the system be in *state*, and do the shell's *leave* when it is to go down."""
        (self.directory / "state").write_text(f"{state}\n")
        (self.directory / "status").write_text(f"{leave}\n")

    def _boot(self):
        """Check in as a bootstrap does, and leave what it leaves."""
        made, boot = self.made, self.boot
        name = made.checkin(self.number, boot=boot)["plan"]["name"]
        made.client.post("/v1/nodes/approve", {"nodes": [name]})
        key = made.checkin(self.number, boot=boot)["nodeKey"]
        words = {"nodeKey": key, "capsule": self.capsule}
        made.checkin(self.number, "booting", boot=boot, words=words)
        node = Node(
            node_id=hwaddr(self.number), name=name, boot_id=boot, node_key=key, uuid=None,
            hwaddrs=(hwaddr(self.number),), capsule=self.capsule, checkin_seconds=60,
        )  # fmt: skip
        (self.vnfs / "node.json").write_bytes(render_node(node))
        site = self.vnfs / "site"
        shutil.copy(made.state / "authority/ca.pem", site / "ca.pem")
        shutil.copy(made.keys / "trust.json", site / "trust.json")
        site_json = {"protocol": 1, "servers": [f"https://{SERVER}:8987"]}
        (site / "site.json").write_text(json.dumps(site_json))
        return name, key

    def script(self, directory, name, text):
        """Put a script where the agent looks for it."""
        path = self.etc / directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return path

    def start(self):
        """Start the agent, as systemd does."""
        # What an agent before it has left running keeps its own.
        self.starts += 1
        under = {key: self.directory / f"{key}-{self.starts}" for key in ("upper", "work")}
        under.update(here=self.directory, run=self.directory / "run", etc=self.etc)
        argv = [sys.executable, "-I", "-S", str(self.directory / "agent.pyz"), "run"]
        path = f"{self.directory / 'bin'}:{os.environ['PATH']}"
        with (self.directory / "journal").open("a") as journal:
            self.process = subprocess.Popen(
                ["ip", "netns", "exec", f"{self.made.name}c", "unshare", "--mount", "--uts",
                 "sh", "-ec", START.format(**under), "sh", *argv],
                env={**os.environ, "PATH": path}, stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=journal, start_new_session=True,
            )  # fmt: skip
        self.groups.append(self.process.pid)
        return self

    def kill(self):
        """Kill the agent alone, as the kernel does when memory is short."""
        self.process.kill()
        self.process.wait(10)

    def kill_all(self):
        """Kill the agent and all that it has started."""
        for group in self.groups:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        self.process.wait(10)

    def stop(self):
        """End the agent as systemd does: what it has started beside it lives on."""
        self.process.terminate()
        return self.process.wait(30)

    def close(self):
        if self.process is not None:
            self.kill_all()

    def ask(self):
        """Let it check in now."""
        os.kill(self.process.pid, signal.SIGUSR1)

    def pss_kib(self):
        """Return what the resident part holds of the memory."""
        return sum(
            int(line.split()[1])
            for line in Path(f"/proc/{self.process.pid}/smaps_rollup").read_text().splitlines()
            if line.startswith("Pss:")
        )

    def children(self):
        listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(word) for word in listed.split()]

    def wait_idle(self, seconds=20):
        """Wait until the agent has nothing to do but to wait."""
        eventually(lambda: (self.vnfs / "agent.json").exists() and not self.children(),
                   seconds=seconds)  # fmt: skip

    def journal(self):
        return (self.directory / "journal").read_text()

    def show(self):
        (found,) = self.made.client.get(f"/v1/nodes/show?nodes={self.name}")
        return found

    def task(self):
        return self.show()["task"]

    def wait_task(self, state, seconds=20):
        """Wait until the server knows that the task is in *state*; return how long it took."""
        begun = time.monotonic()
        eventually(lambda: self.task()["state"] == state, seconds=seconds)
        return time.monotonic() - begun

    def systemctl_calls(self, word):
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line for line in lines if word in line]
