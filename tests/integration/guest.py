"""Another machine to build on: Debian 13 with its own Python, C library and, booted, its own clock.

It is a capsule of ours. What it shall build comes as one more layer, /opt/work: our code, a locked
recipe, and the packages that the lock names. There is no network.
"""

import json
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from vnfsbuild import newc
from vnfsbuild.lock import parse_lock
from vnfsbuild.pack.squashfs import pack_squashfs
from vnfsbuild.packages import package_path
from vnfsbuild.places import find_places
from vnfsbuild.reference import parse_reference
from vnfsbuild.sandbox import MKOSI, tree_argv
from vnfsbuild.store.store import Store
from vnfsbuild.toolstree import ensure_tools_tree
from vnfsbuild.tree import list_tree

ROOT = Path(__file__).parents[2]
EPOCH = 1_700_000_000
NAME = "sameness-guest"

RECIPE = f"""\
name = "{NAME}"

[distribution]
id = "debian"
release = "trixie"

[packages]
install = [
    "mount",
    "python3",
    "python3-click",
    "python3-cryptography",
    "python3-libarchive-c",
    "python3-pefile",
    "python3-pyzstd",
    "python3-tqdm",
    "util-linux",
]

[kernel]
package = "linux-image-amd64"

[exclude]
paths = ["boot/*", "usr/lib/modules/*", "usr/share/doc/*", "usr/share/locale/*", "vmlinuz*"]

[agent]
enabled = false
"""

# Process 1 of the machine, or run in the tree: it builds, and tells what came out in one line.
INIT = """\
#!/bin/sh
export PATH=/usr/sbin:/usr/bin LC_ALL=C.UTF-8 PYTHONPATH=/opt/work/code
export VNFS_CACHE=/tmp/work/cache VNFS_STORE=/tmp/work/store VNFS_SITE=/tmp/work/site
if [ $$ = 1 ]; then
    exec </dev/ttyS0 >/dev/ttyS0 2>&1
    mount -t tmpfs -o size=90% tmpfs /tmp
    mkdir -p /dev/shm && mount -t tmpfs -o size=90% tmpfs /dev/shm
fi
mkdir -p /tmp/work/cache
cp -r /opt/work/packages /tmp/work/cache/
cp -r /opt/work/recipe /tmp/work/
cd /tmp/work || exit
python3 -B -m vnfsbuild build --json /tmp/work/recipe >/tmp/built.json
echo "status $? clock $(date +%s) $(uname -r) $(python3 --version)"
echo "RESULT $(tr -d '\\n' </tmp/built.json) END"
if [ $$ = 1 ]; then
    sync
    echo o >/proc/sysrq-trigger
    sleep 60
fi
"""


@dataclass(frozen=True)
class Guest:
    """The other machine."""

    kernel: Path
    initrd: Path
    layers: tuple[Path, ...]


@dataclass(frozen=True)
class Outcome:
    """What it built."""

    digest: str
    clock: int
    told: str


def build_guest(path: Path, run) -> Guest:
    """Build the capsule of the guest below *path*; *run* runs vnfsbuild with arguments."""
    (path / NAME).mkdir()
    (path / NAME / "recipe.toml").write_text(RECIPE)
    built = json.loads(run("build", "--json", path / NAME).stdout)
    store = Store(path / "store")
    manifest = store.get(parse_reference(built["reference"])).manifest
    _, kernel, initrd, *layers = (store.blob_path(item.digest) for item in manifest.payloads)
    return Guest(kernel=kernel, initrd=initrd, layers=tuple(layers[:1]))


def make_work(directory: Path, recipe: Path, cache: Path) -> Path:
    """Make the tree with all that it takes to build the locked *recipe*, packages from *cache*."""
    work = directory / "opt/work"
    for package in ("vnfsbuild", "provisiond"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, work / "code" / package, ignore=ignored)
    shutil.copytree(recipe, work / "recipe")
    lock = parse_lock((recipe / "recipe.lock").read_text(), where="lock")
    (work / "packages/sha256").mkdir(parents=True)
    for item in (*lock.packages, *lock.tools):
        target = work / "packages/sha256" / item.sha256
        if not target.exists():
            shutil.copyfile(package_path(cache, item.sha256), target)
    (work / "init").write_text(INIT)
    (work / "init").chmod(0o755)
    return directory


def run_in_tree(guest: Guest, work: Path, scratch: Path) -> Outcome:
    """Build inside the guest's tree, on this machine's kernel; *scratch* has room for the tree."""
    tools = ensure_tools_tree("build", find_places().cache)
    tree = scratch / "tree"
    unpack = ["-no-progress", "-quiet", "-d", str(tree), str(guest.layers[0])]
    subprocess.run(tree_argv(tools, "unsquashfs", unpack), check=True, capture_output=True)
    (tree / "opt/work").mkdir(parents=True)
    argv = [
        "unshare", "--net", "--mount", "--",
        sys.executable, "-SI", str(tools / MKOSI / "mkosi/sandbox.py"),
        "--bind", str(tree), "/", "--ro-bind", str(work / "opt/work"), "/opt/work",
        "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--tmpfs", "/run",
        "--ro-bind", "/sys", "/sys",
        "--", "/opt/work/init",
    ]  # fmt: skip
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return read_outcome(done.stdout + done.stderr)


def boot(
    guest: Guest, work: Path, scratch: Path, *, clock: str, memory_mib: int, timeout_seconds: int
) -> Outcome:
    """Boot the guest with the date *clock*, let it build, and return what it told."""
    tools, lab = (ensure_tools_tree(name, find_places().cache) for name in ("build", "lab"))
    layer = scratch / "work.squashfs"
    pack_squashfs(tools, list_tree(work), work, layer, epoch=EPOCH, level=1)
    initrd = scratch / "initrd"
    join_initrd(initrd, guest.initrd, [*guest.layers, layer])
    console = scratch / "console"
    args = [
        "-L", str(lab / "usr/share/qemu"), "-L", str(lab / "usr/share/seabios"),
        "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
        "-machine", "q35,accel=tcg", "-cpu", "Nehalem", "-smp", "2", "-m", str(memory_mib),
        "-rtc", f"base={clock}",
        "-serial", f"file:{console}",
        "-kernel", str(guest.kernel), "-initrd", str(initrd),
        "-append", "console=ttyS0 quiet panic=-1 init=/opt/work/init",
    ]  # fmt: skip
    subprocess.run(tree_argv(lab, "qemu-system-x86_64", args), check=True, timeout=timeout_seconds)
    return read_outcome(console.read_text(errors="replace"))


def join_initrd(out: Path, initrd: Path, layers: list[Path]) -> None:
    """Write an initramfs that holds the capsule's own, and its layers for it to find."""
    data = initrd.read_bytes()
    names = [f"vnfs/layers/{number:02}-layer.squashfs" for number in range(len(layers))]
    with out.open("wb") as file:
        file.write(data + bytes(-len(data) % 512))
        file.write(newc.render_directories(names[0]))
        for name, layer in zip(names, layers, strict=True):
            size_bytes = layer.stat().st_size
            file.write(newc.entry_header(name, stat.S_IFREG | 0o644, size_bytes))
            with layer.open("rb") as source:
                shutil.copyfileobj(source, file)
            file.write(newc.padding(size_bytes))
        file.write(newc.render_trailer())


def read_outcome(told: str) -> Outcome:
    """Return what the guest told of its build."""
    assert "RESULT {" in told, told[-8000:]
    result = told.partition("RESULT ")[2].partition(" END")[0]
    clock = told.partition("status 0 clock ")[2].split()[0]
    return Outcome(digest=json.loads(result)["digest"], clock=int(clock), told=told)
