"""A node that boots: the bootstrap's own init and agent, in namespaces of their own.

It has a root of its own with the ``/sys`` of its network namespace, a console that is read here,
and a busybox as nodes have. It cannot set this machine's clock, load modules, or start kernels: its
capabilities are gone. Where the start of a kernel is not the subject, the two system calls are
replaced by ones that keep what they were given; all else is the product as it is.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import vnfsbuild.initrd
from provisiond.agent.obtain import INITRD_PADDING
from vnfsbuild import manifest as m
from vnfsbuild.agentzip import render_agent
from vnfsbuild.digest import digest_of
from vnfsbuild.errors import VnfsbuildError
from vnfsbuild.places import find_places
from vnfsbuild.toolstree import ensure_tools_tree

from .daemon import hwaddr
from .test_trust_reaches_nodes import members

ROOT = Path(__file__).resolve().parents[2]
ADDRESS = "10.86.0.50"

# What init does after it has mounted the kernel's file systems, which the test does.
BEFORE = """
load_drivers() { :; }
reboot() { tell "REBOOT $*"; exit 9; }
"""

JUMP = """
import os, runpy, signal, sys, time
agent = sys.argv.pop(0) and sys.argv[0]
sys.path.insert(0, agent)
from provisiond.agent import boot

def load(kernel, initrd, line):
    os.link(kernel, "/jump/kernel")
    os.link(initrd, "/jump/initrd")
    with open("/jump/line", "w") as file:
        file.write(line)
    return 0

def start(command):
    os.close(os.open(f"/jump/{command:x}", os.O_CREAT))
    while True:
        time.sleep(60)

boot._kexec_file_load, boot._reboot = load, start
runpy.run_path(agent, run_name="__main__")
"""

KEXEC = "45584543"
KEPT_FROM_IT = "-sys_boot,-sys_time,-sys_module,-mknod"

INSIDE = """
mount --make-rprivate /
mkdir -p {root}/over
mount -t tmpfs tmpfs {root}/over
mkdir {root}/over/upper {root}/over/work
mount -t overlay -o lowerdir=/usr,upperdir={root}/over/upper,workdir={root}/over/work \\
    overlay {root}/usr
mkdir -p {root}/usr/lib/vnfs
cp -r {root}/files/. {root}/usr/lib/vnfs
cp {root}/busybox/busybox {root}/usr/bin/busybox
ln -sf /busybox/busybox {root}/usr/sbin/ip
cp {root}/front {root}/usr/sbin/python3
mount -t sysfs sysfs {root}/sys
mount -t tmpfs tmpfs {root}/sys/class/net
for place in {root}/sys/devices/virtual/net/*; do
    name=${{place##*/}}
    [ "$name" != lo ] || continue
    mkdir {root}/sys/class/net/$name
    for file in address carrier; do
        ln -s /sys/devices/virtual/net/$name/$file {root}/sys/class/net/$name/$file
    done
    # Cables of the test are no devices of a bus.
    ln -s /sys/devices {root}/sys/class/net/$name/device
done
[ ! -d {root}/sys/class/dmi ] || mount -t tmpfs tmpfs {root}/sys/class/dmi
mount --bind {root}/active {root}/sys/class/tty/console/active
mount -t proc proc {root}/proc
mount --bind {root}/cmdline {root}/proc/cmdline
[ ! -f {root}/meminfo ] || mount --bind {root}/meminfo {root}/proc/meminfo
mount -t tmpfs tmpfs {root}/dev
for name in null urandom random; do
    : >{root}/dev/$name
    mount --bind /dev/$name {root}/dev/$name
done
: >{root}/dev/console
mount --bind {root}/console {root}/dev/console
exec setpriv --bounding-set={kept} --inh-caps={kept} \\
    chroot {root} /busybox/busybox env -i /busybox/busybox sh /init
"""


def ip(*words):
    subprocess.run(["ip", *words], check=True)


class BootingNode:
    """A machine at the wire of the site *made*."""

    def __init__(self, made, directory, *, number=1, real_kexec=False):
        self.made = made
        self.directory = directory
        self.root = directory / "root"
        self.number = number
        self.real_kexec = real_kexec
        self.environment = {}
        """Of the agent."""
        self.site = {}
        """Files that firmware found in the place of the site's."""
        self.process = None
        self.told = ""
        self._make_root()
        ip("-n", f"{made.name}c", "link", "set", "wire0", "address", hwaddr(number))
        self.command_line(f"vnfs.ip={ADDRESS}/24")

    def _make_root(self):
        root = self.root
        for path in ("usr", "sys", "proc", "dev", "etc/vnfs", "tmp", "run/vnfs", "files",
                     "busybox", "jump", "vnfs"):  # fmt: skip
            (root / path).mkdir(parents=True)
        for name in ("bin", "sbin", "lib", "lib64"):
            if os.path.islink(f"/{name}"):
                (root / name).symlink_to(os.readlink(f"/{name}"))
        tools = ensure_tools_tree("build", find_places().cache)
        busybox = root / "busybox/busybox"
        shutil.copy(tools / "usr/bin/busybox", busybox)
        subprocess.run([busybox, "--install", "-s", busybox.parent], check=True)
        for path in busybox.parent.iterdir():
            if path.is_symlink():
                path.unlink()
                path.symlink_to("busybox")
        shutil.copy(Path(vnfsbuild.initrd.__file__).parent / "functions.sh", root / "files")
        for name in ("network.sh", "udhcpc"):
            shutil.copy(ROOT / "bootstrap-kernel" / name, root / "files")
            (root / "files" / name).chmod(0o755)
        (root / "files/agent.pyz").write_bytes(render_agent())
        (root / "jump.py").write_text(JUMP)
        (root / "etc/vnfs/bootstrap.json").write_text("{}")
        (root / "active").write_text("console\n")
        os.mkfifo(root / "console")
        text = (ROOT / "bootstrap-kernel/init").read_text()
        before, found, after = text.partition("\nprepare\n")
        assert found
        (root / "init").write_text(before + BEFORE + after)

    def command_line(self, *words, bootif=True):
        """Give the kernel these words, and *bootif*: what iPXE adds."""
        if bootif:
            words = ("BOOTIF=01-" + hwaddr(self.number).replace(":", "-"), *words)
        (self.root / "cmdline").write_text(" ".join(("console=ttyS0", *words)) + "\n")

    def add_card(self, name):
        """Put another card in, without a cable."""
        made = self.made.name
        ip("-n", f"{made}s", "link", "add", f"{name}end", "type", "veth",
           "peer", "name", name, "netns", f"{made}c")  # fmt: skip

    def memory(self, mib):
        """Let the kernel say that it has so much, three quarters of it free."""
        (self.root / "meminfo").write_text(
            f"MemTotal: {mib * 1024} kB\nMemFree: {mib * 768} kB\nMemAvailable: {mib * 768} kB\n"
        )

    def start(self):
        """Power it on: it finds what firmware loads for it, and nothing of an earlier boot."""
        root = self.root
        for name in ("run/vnfs", "jump", "vnfs"):
            shutil.rmtree(root / name)
            (root / name).mkdir()
        self.load_site()
        words = "".join(f"{key}='{value}' " for key, value in self.environment.items())
        shim = "" if self.real_kexec else "/jump.py"
        # init calls it with -I -S FILE WORD
        python = os.path.realpath(sys.executable)
        if not python.startswith("/usr/"):
            python = "/usr/bin/python3"
        (root / "front").write_text(
            f'#!/busybox/busybox sh\nshift 2\n{words}exec {python} -I -S {shim} "$@"\n'
        )
        (root / "front").chmod(0o755)
        self._listen()
        with (self.directory / "stray").open("a") as stray:
            self.process = subprocess.Popen(
                ["ip", "netns", "exec", f"{self.made.name}c", "unshare", "--mount", "--pid",
                 "--fork", "--kill-child", "--uts", "sh", "-ec",
                 INSIDE.format(root=root, kept=KEPT_FROM_IT)],
                stdin=subprocess.DEVNULL, stdout=stray, stderr=stray, start_new_session=True,
            )  # fmt: skip
        return self

    def load_site(self):
        """Do what iPXE does: fetch site.cpio for this node's address."""
        mac = hwaddr(self.number).replace(":", "-")
        status, cpio = self.made.get(f"/boot/site.cpio?mac={mac}")
        assert status == 200
        subprocess.run(
            ["cpio", "--extract", "--quiet", "--make-directories"],
            input=cpio, cwd=self.root, check=True,
        )  # fmt: skip

        for name, data in self.site.items():
            (self.root / "vnfs/site" / name).write_bytes(data)

    def _listen(self):
        end = os.open(self.root / "console", os.O_RDWR)

        def read():
            while data := os.read(end, 4096):
                self.told += data.decode("utf-8", "replace")
                if data.endswith(b"\0"):
                    break
            os.close(end)

        self._reader = threading.Thread(target=read, daemon=True)
        self._reader.start()

    def power_off(self):
        """Take its power, whatever it does."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)
        self.process = None
        with open(self.root / "console", "wb") as console:
            console.write(b"\0")
        self._reader.join(5)

    def close(self):
        self.power_off()

    # What comes of it.

    def wait_told(self, text, *, seconds=60):
        """Wait until *text* was on its console."""
        self._wait(lambda: text in self.told, f"never told {text!r}", seconds)

    def wait_jump(self, *, seconds=60):
        """Wait until it starts the kernel that it loaded."""
        self._wait((self.root / "jump" / KEXEC).exists, "never jumped", seconds)

    def wait_seen(self, true, *, seconds=60):
        """Wait until what the server holds of this node, as JSON, is so."""

        def is_so():
            seen = self.seen()
            return seen is not None and true(seen)

        self._wait(is_so, "the server never saw it so", seconds)

    def wait_failed(self, reason, *, seconds=60):
        """Wait until its console and ``provisionctl node status`` tell this *reason*."""
        self.wait_told(reason, seconds=seconds)
        # Between two tries it is at something else.
        self.wait_status("failed", reason, seconds=seconds)

    def wait_status(self, *words, seconds=60):
        """Wait until ``provisionctl node status`` shows all of these *words* in its line."""

        def shows():
            line = next((line for line in self.status().splitlines() if "n0001" in line), "")
            return all(word in line for word in words)

        self._wait(shows, f"node status never showed {words}", seconds)

    def _wait(self, true, otherwise, seconds):
        deadline = time.monotonic() + seconds
        while not true():
            if time.monotonic() > deadline or (self.process and self.process.poll() is not None):
                stray = (self.directory / "stray").read_text()
                raise AssertionError(f"{otherwise}\n{self.told}\n{stray}\n{self._seen_state()}")
            time.sleep(0.05)

    def seen(self):
        """Return what the server holds of it; None while there is no server, or it knows none."""
        try:
            nodes = self.made.client.get("/v1/nodes")
        except (VnfsbuildError, OSError):
            return None
        return next((node for node in nodes if node["nodeId"] == hwaddr(self.number)), None)

    def _seen_state(self):
        seen = self.seen() or {}
        return {key: seen.get(key) for key in ("state", "detail", "reason", "lastError", "report")}

    def status(self):
        """Return what an administrator sees who asks how it is."""
        return self.made.ctl("node", "status").stdout

    @property
    def has_jumped(self):
        """Whether any kernel was given to the system call in this boot."""
        return any((self.root / "jump").iterdir())

    def loaded(self, manifest):
        """Return file → digest of what was loaded, of the capsule with this *manifest*.

        What is of this boot alone is there, but its digest is not.
        """
        own, data, behind = self._loaded_initrd(manifest)
        found = {
            "line": (self.root / "jump/line").read_text(),
            "kernel": digest_of((self.root / "jump/kernel").read_bytes()),
            "initrd": digest_of(data[: own.size_bytes]),
        }
        for name, content in behind.items():
            is_of_boot = name in ("vnfs/node.json", "vnfs/bootstrap.log")
            found[name] = "" if is_of_boot else digest_of(content)
        return found

    def handed_over(self, manifest):
        """Return the node.json that is in what was loaded."""
        return json.loads(self._loaded_initrd(manifest)[2]["vnfs/node.json"])

    def _loaded_initrd(self, manifest):
        own = manifest.payload(m.INITRD)
        data = (self.root / "jump/initrd").read_bytes()
        behind = data[own.size_bytes + -own.size_bytes % INITRD_PADDING :]
        return own, data, members(behind)
