"""A machine that slurmctld runs on: munged, slurmctld and srun of Debian 13, whatever the host is.

They come from a private tree, which they have as their /usr, with an /etc and a /var of their own,
in namespaces for mounts, processes and the host name. All of them go when the first process does.
"""

import contextlib
import subprocess
import time
from pathlib import Path

from vnfsbuild.toolstree import KINDS, Kind, ensure_tools_tree

KINDS["slurm"] = Kind(
    packages=("munge", "slurm-client", "slurmctld"),
    links=(("usr/sbin/slurmctld", "slurmctld-wlm"),),
)

READY_SECONDS = 30
MUNGE, SLURM = 201, 64030

# What the maintainer scripts of its packages would have made; the users as on the nodes.
USERS = f"""\
root:x:0:0:root:/root:/bin/sh
munge:x:{MUNGE}:{MUNGE}::/nonexistent:/usr/sbin/nologin
slurm:x:{SLURM}:{SLURM}::/nonexistent:/usr/sbin/nologin
"""
GROUPS = f"root:x:0:\nmunge:x:{MUNGE}:\nslurm:x:{SLURM}:\n"
OWNERS = {
    "etc/munge": MUNGE, "run/munge": MUNGE, "var/lib/munge": MUNGE, "var/log/munge": MUNGE,
    "var/lib/slurm": SLURM, "var/lib/slurm/slurmctld": SLURM, "run/slurmctld": SLURM,
}  # fmt: skip

START = """
set -e
mount --bind "$1/usr" "$2/usr"
mount --rbind /dev "$2/dev"
mount -t proc proc "$2/proc"
hostname "$3"
cd /
chroot --userspec=munge:munge "$2" /usr/sbin/munged --foreground &
until test -S "$2/run/munge/munge.socket.2"; do sleep 0.1; done
chroot --userspec=slurm:slurm "$2" /usr/sbin/slurmctld -D &
wait
"""


class Controller:
    """The machine, while it runs."""

    def __init__(self, root, process, log):
        self._root = root
        self._process = process
        self._log = log

    def run(self, *argv, seconds=60):
        """Run a program there; return its standard output, or fail with all that was told."""
        enter = ["nsenter", f"--target={self._process.pid}", "--net", "--mount", "--uts"]
        done = subprocess.run(
            [*enter, "--", "chroot", str(self._root), *argv],
            capture_output=True, text=True, check=False, timeout=seconds,
        )  # fmt: skip
        assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}\n{self.log()}"
        return done.stdout

    def reconfigure(self, config: bytes):
        (self._root / "etc/slurm/slurm.conf").write_bytes(config)
        self.run("/usr/bin/scontrol", "reconfigure")

    def log(self):
        return self._log.read_text(errors="replace")[-6000:]

    def wait_until_up(self):
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                return self.run("/usr/bin/sinfo", "--noheader")
            except AssertionError:
                # It asks for ten seconds by itself.
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise
            time.sleep(0.3)


@contextlib.contextmanager
def controller(directory: Path, cache: Path, *, enter, name, key: bytes, config: bytes):
    """Run slurmctld on a machine called *name*, in the network that the words *enter* lead into."""
    tree = ensure_tools_tree("slurm", cache)
    root = directory / "root"
    _make_root(root)
    (root / "etc/slurm/slurm.conf").write_bytes(config)
    path = root / "etc/munge/munge.key"
    path.write_bytes(key)
    path.chmod(0o400)
    for place, owner in {**OWNERS, "etc/munge/munge.key": MUNGE}.items():
        subprocess.run(["chown", f"{owner}:{owner}", str(root / place)], check=True)
    log = directory / "log"
    own = ["unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--"]
    argv = [*enter, *own, "sh", "-c", START, "sh", str(tree), str(root), name]
    with log.open("wb") as file, subprocess.Popen(argv, stdout=file, stderr=file) as process:
        try:
            made = Controller(root, process, log)
            made.wait_until_up()
            yield made
        finally:
            process.kill()


def _make_root(root):
    for place in ("dev", "etc/slurm", "proc", "root", "tmp", "usr", "var/log", *OWNERS):
        (root / place).mkdir(parents=True, exist_ok=True)
        (root / place).chmod(0o755)
    for place in ("bin", "lib", "lib64", "sbin"):
        (root / place).symlink_to(f"usr/{place}")
    (root / "var/run").symlink_to("../run")
    (root / "etc/passwd").write_text(USERS)
    (root / "etc/group").write_text(GROUPS)
    (root / "etc/hosts").write_text("127.0.0.1 localhost head\n")
