"""Booting debian-13-compute: bytes over the wire, memory, seconds; ours and one big initramfs.

The machines are virtual and emulated: seconds are told, and only their ratios mean something. Bytes
and memory do not depend on that.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.harness import ROOT, Figure, run, vnfsbuild
from benchmarks.initramfs import Image, make_image, open_plain
from benchmarks.updates import Capsules
from provisiond.lab.laboratory import Laboratory, Settings, console_tail, open_laboratory
from provisiond.lab.machine import Machine
from provisiond.lab.network import BRIDGE
from provisiond.lab.run import POLL_SECONDS, Wish, boot
from provisiond.lab.watch import PANIC
from vnfsbuild.places import find_places
from vnfsbuild.toolstree import ensure_tools_tree

FIRMWARES = ("bios", "uefi")
METHODS = ("kexec", "pivot")
INITRAMFS = "one cpio initramfs"
MEMORY_MIB = 2048
SECONDS = 1800
"""The most that a boot may take; emulated, on a busy machine."""
MEMORY_GOAL = 0.5

# In one write, so that the lines of others stand before or behind it; again, should they not.
TELL_MEMORY = (
    "line=$(grep -E '^(Mem|Shmem:|Unevictable|SReclaimable|AnonPages|.*file.:)' /proc/meminfo"
    " | tr -d ' ' | tr '\\n' ' '); "
    'for _ in 1 2 3; do echo "bench-memory $line." >/dev/ttyS0; sleep 0.1; done'
)
_TOLD = re.compile(r"bench-memory ((?:[\w()]+:\d+kB )+)\.")
_FREED = re.compile(r"Freeing initrd memory: (\d+)K")
_AT_WORST = re.compile(r"memory: \d+ MiB were free, (\d+) MiB at worst")
_WENT = {"kexec": "Starting new kernel", "pivot": "changing root, the kernel stays"}
_KERNEL = "Linux version"


@dataclass(frozen=True, kw_only=True)
class Booted:
    """How one boot went."""

    firmware: str
    name: str
    wire: tuple[int, int]
    """Bytes to the node and from it, from power-on until it is ready, headers of Ethernet too."""
    meminfo: Mapping[str, int]
    """Lines of /proc/meminfo once it is ready, in KiB."""
    peak_kib: int
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def used_kib(self) -> int:
        """What cannot be had any more: files of a tmpfs and of an initramfs are among it."""
        return self.meminfo["MemTotal"] - self.meminfo["MemAvailable"]

    @property
    def root_kib(self) -> int:
        """What files in memory take: the root, packed or not, and those of /run."""
        return self.meminfo["Shmem"] + self.meminfo["Unevictable"]


def measure(capsules: Capsules, work: Path) -> list[Figure]:
    """Boot each way with each firmware; every boot has a laboratory of its own."""
    bootstrap = make_bootstrap(capsules)
    store = work / "store"
    env = {"VNFS_SITE": capsules.site, "VNFS_STORE": store}
    capsule = capsules.path("today")
    vnfsbuild("import", capsule, **env)
    name = json.loads(vnfsbuild("list", "--json", **env))[0]["name"]
    found = json.loads(vnfsbuild("show", "--json", name, **env))
    (kernel,) = [item["digest"] for item in found["payloads"] if item["role"] == "kernel"]
    image = make_image(
        capsule, store / "blobs" / kernel.replace(":", "/"), found["kernel"]["arguments"],
        TELL_MEMORY, site=capsules.site, work=work,
    )  # fmt: skip
    settings = Settings(
        tree=ensure_tools_tree("lab", find_places().cache),
        trust=capsules.site / "trust.json",
        check=TELL_MEMORY,
        console_dir=work,
    )
    booted = []
    for firmware in FIRMWARES:
        machine = Machine(number=1, firmware=firmware, memory_mib=MEMORY_MIB)
        for method in METHODS:
            booted.append(boot_ours(settings, machine, (bootstrap, capsule), name, method))
        booted.append(boot_initramfs(settings, machine, image))
        for item in booted[-len(METHODS) - 1 :]:
            print("  ", item.firmware, item.name, item.wire, item.used_kib, flush=True)
    return figures_of(booted, name)


def make_bootstrap(capsules: Capsules) -> Path:
    """Build the bootstrap, signed as the capsules; one that lies beside them is taken."""
    path, recipe = capsules.path("bootstrap"), capsules.directory / "recipes/bootstrap"
    if not path.exists():
        print("building the bootstrap (about 40 s)", flush=True)
        shutil.rmtree(recipe, ignore_errors=True)
        # From today's packages, as the capsules: a pivot needs the same kernel in both.
        shutil.copytree(ROOT / "bootstrap-kernel", recipe)
        (recipe / "recipe.lock").unlink(missing_ok=True)
        env = {"VNFS_SITE": capsules.site, "VNFS_STORE": capsules.directory / "store/bootstrap"}
        vnfsbuild("bootstrap", "build", recipe, **env)
        vnfsbuild("export", "bootstrap", path, **env)
        shutil.rmtree(capsules.directory / "store/bootstrap")
    return path


def boot_ours(
    settings: Settings, machine: Machine, files: Sequence[Path], name: str, method: str
) -> Booted:
    """Boot *machine* through the bootstrap into the capsule *name* of *files*."""
    with open_laboratory(settings) as laboratory:
        for path in files:
            laboratory.import_file(path)
        # For all nodes and at first: the same kernel would be taken for a pivot otherwise.
        values = {"scope": "defaults", "subjects": [""], "values": {"method": method}}
        laboratory.client.post("/v1/settings/set", values)
        _count_frames_as_sent(laboratory)
        wish = Wish(capsule=name, timeout_seconds=SECONDS)
        (outcome,) = boot(laboratory, [machine], wish, tell=_quiet)
        wire = read_wire(laboratory, machine)
        console = _console(laboratory, machine)
        if not outcome.is_ready:
            sys.exit(f"{method}: {outcome.reason}\n{console_tail(laboratory, machine, 40)}")
    if _WENT[method] not in console:
        sys.exit(f"{method}: ready, but the console does not say: {_WENT[method]}")
    meminfo = parse_memory(console)
    worst = _AT_WORST.search(console)
    if worst is None:
        sys.exit(f"{method}: the agent did not say how little memory was free at worst")
    return Booted(
        firmware=machine.firmware,
        name=method,
        wire=wire,
        meminfo=meminfo,
        peak_kib=meminfo["MemTotal"] - (int(worst[1]) << 10),
        seconds=outcome.seconds,
    )


def boot_initramfs(settings: Settings, machine: Machine, image: Image) -> Booted:
    """Boot *machine* from one initramfs; its kernel's start and the last word of it are awaited."""
    with open_plain(settings, image) as laboratory:
        _count_frames_as_sent(laboratory)
        laboratory.power_on(machine)
        begun = laboratory.powered_on[machine]
        seconds: dict[str, float] = {}
        while not _TOLD.search(console := _console(laboratory, machine)):
            now = time.time() - begun
            if _KERNEL in console:
                seconds.setdefault("fetched", round(now, 1))
            ended = laboratory.ended(machine)
            if ended or PANIC in console or now > SECONDS:
                why = ended or f"not ready after {now:.0f} s"
                sys.exit(f"{INITRAMFS}: {why}\n{console_tail(laboratory, machine, 40)}")
            time.sleep(POLL_SECONDS)
        seconds["ready"] = round(time.time() - begun, 1)
        wire = read_wire(laboratory, machine)
    freed = _FREED.search(console)
    return Booted(
        firmware=machine.firmware,
        name=INITRAMFS,
        wire=wire,
        meminfo=parse_memory(console),
        # Nobody is there to look while the kernel unpacks; it frees the packed one at the end.
        peak_kib=(int(freed[1]) if freed else image.packed_bytes >> 10)
        + (image.unpacked_bytes >> 10),
        seconds=seconds,
    )


def parse_memory(console: str) -> dict[str, int]:
    """Return the figures that :data:`TELL_MEMORY` wrote to *console*, in KiB."""
    told = _TOLD.search(console)
    if told is None:
        sys.exit("the console does not say what memory is in use")
    return {
        key: int(value.removesuffix("kB"))
        for key, _, value in (word.partition(":") for word in told[1].split())
    }


def read_wire(laboratory: Laboratory, machine: Machine) -> tuple[int, int]:
    """Return what went to *machine* and came from it since it was powered on."""
    argv = [*shlex.split(laboratory.enter_words), "ip", "-s", "-j", "link", "show", machine.tap]
    return parse_wire(run(argv))


def parse_wire(text: str) -> tuple[int, int]:
    """Return sent and received bytes of the only device in *text*, which ``ip`` wrote."""
    (device,) = json.loads(text)
    return device["stats64"]["tx"]["bytes"], device["stats64"]["rx"]["bytes"]


def figures_of(booted: Sequence[Booted], name: str) -> list[Figure]:
    """Return a table for each firmware, and whether the goals are reached with all."""
    figures, goals = [], []
    for firmware in dict.fromkeys(item.firmware for item in booted):
        rows = [item for item in booted if item.firmware == firmware]
        (theirs,) = [item for item in rows if item.name == INITRAMFS]
        group = f"boots of {name}, {firmware} (seconds are emulated: read ratios)"
        figures += [_row(group, item, theirs) for item in rows]
        for item in rows:
            if item is not theirs:
                goals += _goals(f"{firmware}, {item.name}", item, theirs)
    return [*figures, *goals]


def _row(group: str, item: Booted, theirs: Booted) -> Figure:
    return Figure(
        group=group,
        name=item.name,
        facts={
            "mbToNode": round(item.wire[0] / 1e6, 1),
            "mbFromNode": round(item.wire[1] / 1e6, 1),
            "bytesRatio": round(sum(item.wire) / sum(theirs.wire), 3),
            "memoryMib": round(item.used_kib / 1024, 1),
            "memoryRatio": round(item.used_kib / theirs.used_kib, 3),
            "rootMib": round(item.root_kib / 1024, 1),
            "rootRatio": round(item.root_kib / theirs.root_kib, 3),
            "peakMib": round(item.peak_kib / 1024),
            "peakIs": "packed + unpacked" if item is theirs else "seen",
            **{f"{phase}S": seconds for phase, seconds in item.seconds.items()},
            "all": dict(item.meminfo),
        },
    )


def _goals(name: str, ours: Booted, theirs: Booted) -> list[Figure]:
    pairs = (
        ("bytes over the wire, of the initramfs's", sum(ours.wire) / sum(theirs.wire), 1.0, "<"),
        (
            "memory after boot, of the initramfs's",
            ours.used_kib / theirs.used_kib,
            MEMORY_GOAL,
            "≤",
        ),
    )
    return [
        Figure(
            group="goals",
            name=f"{name}: {what}",
            facts={
                "measured": round(ratio, 3),
                "goal": f"{relation} {goal:g}",
                "reached": "yes" if ratio < goal or (relation == "≤" and ratio == goal) else "NO",
            },
        )
        for what, ratio, goal, relation in pairs
    ]


def _count_frames_as_sent(laboratory: Laboratory) -> None:
    """Have frames cut to size before they are counted.

    Linux as a guest takes 64 KB at once, with one header, and iPXE does not: the same bytes would
    count for less.
    """
    run([*shlex.split(laboratory.enter_words), "ip", "link", "set", BRIDGE, "gso_max_segs", "1"])


def _console(laboratory: Laboratory, machine: Machine) -> str:
    return laboratory.console(machine).read_bytes().decode("utf-8", "replace")


def _quiet(_line: str) -> None:
    pass
