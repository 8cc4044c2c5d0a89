"""Builds and rebuilds beside plain mkosi and its incremental mode, on one recipe's packages.

Both start from the same locked packages in the cache, by the same tools tree, in workspaces on the
same file system, without an initramfs generator; mkosi's tree is packed by ``cpio`` and ``pigz`` as
capsules were before there were file systems in memory. Each is run as people run it, as a program.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.harness import ROOT, ROUNDS, Figure, run, vnfsbuild
from vnfsbuild.inputs import InstallInputs
from vnfsbuild.install import mkosi_env, write_repository
from vnfsbuild.lock import Lock, lay_over
from vnfsbuild.mkosi_config import OUTPUT, MkosiPlaces, render_mkosi
from vnfsbuild.packages import load_stanza, package_path
from vnfsbuild.places import find_places
from vnfsbuild.recipefiles import load_recipe
from vnfsbuild.resolve import load_locks
from vnfsbuild.stages import SHARED_MEMORY
from vnfsbuild.toolstree import ensure_locked_tree

RECIPE = "debian-13-compute"
MORE = ("htop", "strace", "tmux")
"""A package that is added, for each round."""
GOALS = {
    "clean build": 0.7,
    "one package added, with a base": 0.15,
    "one package added, without a base": 0.6,
    "one file edited": 0.06,
    "nothing changed": 0.03,
    "packing alone": 0.3,
}
CHILD = """\
name = "bench-child"
base = "../base"
[distribution]
id = "debian"
release = "trixie"
[packages]
install = [{install}]
[kernel]
package = "linux-image-amd64"
[files]
copy = "files"
"""
GROUP = "builds and rebuilds"
SAMPLE_SECONDS = 0.05


@dataclass(kw_only=True)
class Bench:
    """Where everything is."""

    top: Path
    cache: Path
    rounds: int = ROUNDS
    tools: Path = Path()
    figures: list[Figure] = field(default_factory=list)

    @property
    def env(self) -> dict[str, Path]:
        """What makes vnfsbuild work here alone, in memory as mkosi does."""
        return {
            "VNFS_CACHE": self.cache,
            "VNFS_STORE": self.top / "store",
            "VNFS_SITE": self.top / "site",
            "VNFS_WORKSPACE": self.memory,
        }

    @property
    def memory(self) -> Path:
        """A directory of ours in memory."""
        return SHARED_MEMORY / f"vnfs-bench.{os.getpid()}"


@dataclass(kw_only=True)
class Measured:
    """What some runs of the same took."""

    seconds: list[float] = field(default_factory=list)
    memory_bytes: list[int] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def take(self, work: Callable[[], object]) -> None:
        """Run *work*, and note what it took."""
        with _Memory() as memory:
            begun = time.perf_counter()
            work()
            self.seconds.append(time.perf_counter() - begun)
        self.memory_bytes.append(memory.peak_bytes)


class _Memory:
    """How much less memory was available than at the start: of all processes, and file systems."""

    def __enter__(self) -> _Memory:
        self._first = self._least = _available_bytes()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self.peak_bytes = self._first - self._least

    def _watch(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            self._least = min(self._least, _available_bytes())


def measure(work: Path, *, rounds: int = ROUNDS) -> list[Figure]:
    """Return the figures of all rows; *work* is on a disk."""
    for program in ("cpio", "pigz"):
        if shutil.which(program) is None:
            sys.exit(f"{program}: not found, expected it to be measured against: apt-get install")
    bench = Bench(top=work / "rebuild", cache=_make_cache(work), rounds=rounds)
    bench.memory.mkdir()
    try:
        base, locks = _prepare(bench)
        _measure_clean(bench, base, locks)
        _measure_added(bench, base, locks)
    finally:
        shutil.rmtree(bench.memory, ignore_errors=True)
    return bench.figures


def _make_cache(work: Path) -> Path:
    """Return a cache with the packages and tools of ours, and no stages."""
    ours, cache = find_places().cache, work / "rebuild-cache"
    for name in ("packages", "tools"):
        if (ours / name).is_dir():
            shutil.copytree(ours / name, cache / name, symlinks=True, copy_function=_link)
    return cache


def _link(src: str, dst: str) -> None:
    try:
        os.link(src, dst, follow_symlinks=False)
    except OSError:
        shutil.copy2(src, dst, follow_symlinks=False)


def _prepare(bench: Bench) -> tuple[Path, tuple[Lock, ...]]:
    """Lock the recipe, and bring all packages that rounds add into the cache."""
    base = bench.top / "base"
    shutil.copytree(ROOT / "recipes" / RECIPE, base)
    (base / "recipe.lock").unlink(missing_ok=True)
    # All of the tree, as the others pack it.
    path = base / "recipe.toml"
    text = path.read_text(encoding="utf-8")
    start, end = text.index("[exclude]"), text.index("[rootfs]")
    path.write_text(text[:start] + text[end:], encoding="utf-8")
    vnfsbuild("lock", base, **bench.env)
    vnfsbuild("fetch", base, **bench.env)
    for number, name in enumerate(MORE):
        for kind, words in (("child", [name]), ("alone", [name])):
            recipe = bench.top / f"{kind}-{number}"
            _write_recipe(bench, recipe, words, child=kind == "child")
            vnfsbuild("lock", recipe, **bench.env)
            vnfsbuild("fetch", recipe, **bench.env)
    locks = load_locks(load_recipe(base))
    bench.tools = ensure_locked_tree("build", bench.cache, locks[0].tools)
    return base, locks


def _write_recipe(bench: Bench, recipe: Path, install: list[str], *, child: bool) -> None:
    if child:
        (recipe / "files/etc").mkdir(parents=True)
        (recipe / "files/etc/bench").write_text("0\n", encoding="utf-8")
        names = ", ".join(f'"{name}"' for name in install)
        text = CHILD.format(install=names)
    else:
        shutil.copytree(bench.top / "base", recipe)
        text = (recipe / "recipe.toml").read_text(encoding="utf-8")
        lines = "".join(f'    "{name}",\n' for name in install)
        text = text.replace("install = [\n", f"install = [\n{lines}", 1)
        text = text.replace(f'"{RECIPE}"', '"bench-alone"', 1)
    (recipe / "recipe.toml").write_text(text, encoding="utf-8")


def _measure_clean(bench: Bench, base: Path, locks: tuple[Lock, ...]) -> None:
    ours, theirs, packing, cpio = (Measured() for _ in range(4))
    recipe = load_recipe(base).recipe
    places = _configure(bench, "plain", locks, recipe.wanted)
    sizes: dict[str, int] = {}
    seconds: list[float] = []
    for _ in range(bench.rounds):
        shutil.rmtree(bench.top / "store", ignore_errors=True)
        told: list[str] = []
        ours.take(
            lambda told=told: told.append(  # type: ignore[misc]
                vnfsbuild("build", "--no-cache", "--json", base, **bench.env)
            )
        )
        document = json.loads(told[0][told[0].index("{") :])
        seconds.append(document["seconds"]["pack"])
        shutil.rmtree(places.output, ignore_errors=True)
        theirs.take(lambda: _mkosi(bench, places))
        archive = bench.memory / "tree.cpio.gz"
        cpio.take(lambda archive=archive: _pack(places.output / OUTPUT, archive))  # type: ignore[misc]
        sizes["cpio"] = archive.stat().st_size
        archive.unlink()
    packing.seconds = seconds
    found = json.loads(vnfsbuild("show", "--json", RECIPE, **bench.env))
    layers = [item for item in found["payloads"] if item["role"].startswith("layer ")]
    sizes["layers"] = sum(item["sizeBytes"] for item in layers)
    against = [one + two for one, two in zip(theirs.seconds, cpio.seconds, strict=True)]
    _add(bench, "clean build", ours, Measured(seconds=against, memory_bytes=theirs.memory_bytes))
    _add(bench, "packing alone", packing, cpio, bytes=sizes["layers"], cpioBytes=sizes["cpio"],
         sizeRatio=round(sizes["layers"] / sizes["cpio"], 3))  # fmt: skip


def _measure_added(bench: Bench, base: Path, locks: tuple[Lock, ...]) -> None:
    vnfsbuild("build", base, **bench.env)
    with_base, alone, edited, nothing, moved = (Measured() for _ in range(5))
    mkosi_added, mkosi_edited, mkosi_nothing = (Measured() for _ in range(3))
    recipe = load_recipe(base).recipe
    for number, name in enumerate(MORE[: bench.rounds]):
        child = bench.top / f"child-{number}"
        with_base.take(lambda child=child: vnfsbuild("build", child, **bench.env))  # type: ignore[misc]
        edit = child / "files/etc/bench"
        edit.write_text(f"round {number}\n", encoding="utf-8")
        vnfsbuild("lock", child, **bench.env)
        edited.take(lambda child=child: vnfsbuild("build", child, **bench.env))  # type: ignore[misc]
        nothing.take(lambda child=child: vnfsbuild("build", child, **bench.env))  # type: ignore[misc]
        moved.take(lambda child=child, name=name: _move(bench, child, name))  # type: ignore[misc]
        other = bench.top / f"alone-{number}"
        alone.take(lambda other=other: vnfsbuild("build", other, **bench.env))  # type: ignore[misc]
        whole = (lay_over([*locks, *load_locks(load_recipe(child))[1:]]),)
        before = _configure(bench, "incremental", locks, recipe.wanted, incremental=True)
        _mkosi(bench, before)
        after = _configure(bench, "incremental", whole, (*recipe.wanted, name), incremental=True)
        mkosi_added.take(lambda after=after: _mkosi_packed(bench, after))  # type: ignore[misc]
        extra = after.config / "mkosi.extra/etc/bench"
        extra.parent.mkdir(parents=True, exist_ok=True)
        extra.write_text(f"round {number}\n", encoding="utf-8")
        mkosi_edited.take(lambda after=after: _mkosi_packed(bench, after))  # type: ignore[misc]
        mkosi_nothing.take(lambda after=after: _mkosi_packed(bench, after))  # type: ignore[misc]
        shutil.rmtree(bench.memory / "incremental")
    _add(bench, "one package added, with a base", with_base, mkosi_added)
    _add(bench, "one package added, without a base", alone, mkosi_added)
    _add(bench, "one file edited", edited, mkosi_edited)
    _add(bench, "nothing changed", nothing, mkosi_nothing)
    _add(bench, "lock --update PACKAGE, fetch and build", moved, None)
    stages = bench.cache / "stages"
    size_bytes = sum(path.stat().st_size for path in stages.rglob("*") if path.is_file())
    bench.figures.append(
        Figure(group=GROUP, name="the cache of stages after all that", facts={"bytes": size_bytes})
    )


def _move(bench: Bench, child: Path, name: str) -> None:
    vnfsbuild("lock", "--update", child, name, **bench.env)
    vnfsbuild("fetch", child, **bench.env)
    vnfsbuild("build", child, **bench.env)


def _configure(
    bench: Bench,
    name: str,
    locks: tuple[Lock, ...],
    wanted: tuple[str, ...],
    *,
    incremental: bool = False,
) -> MkosiPlaces:
    """Write what mkosi is told, and the repository that it installs from."""
    lock = lay_over(locks)
    top = bench.memory / name
    repository = (
        bench.top / f"repository-{len(lock.packages)}-{lock.packages[0].name}-{len(wanted)}"
    )
    places = MkosiPlaces(tools=bench.tools, repository=repository, workspace=top)
    packages = {
        item: (package_path(bench.cache, item.sha256), load_stanza(bench.cache, item))
        for item in lock.packages
    }
    shutil.rmtree(repository, ignore_errors=True)
    write_repository(repository, packages, tree=bench.tools)
    inputs = InstallInputs(
        distribution=lock.distribution,
        release=lock.release,
        architecture=lock.architecture,
        epoch=lock.epoch,
        wanted=wanted,
        recommends=False,
        packages=lock.packages,
    )
    for path, text in render_mkosi(inputs, places).items():
        target = places.config / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if incremental and path == "mkosi.conf":
            text = text.replace(
                "[Build]\n", f"[Build]\nIncremental=yes\nCacheDirectory={top}/cache\n"
            )
        target.write_text(text, encoding="utf-8")
    for directory in (places.output, places.scratch, places.package_cache, top / "cache"):
        directory.mkdir(parents=True, exist_ok=True)
    return places


def _mkosi(bench: Bench, places: MkosiPlaces) -> None:
    run(
        ["unshare", "--net", "--", sys.executable, "-m", "mkosi",
         "--directory", places.config, "--force", "build"],
        **mkosi_env(bench.tools),
    )  # fmt: skip


def _mkosi_packed(bench: Bench, places: MkosiPlaces) -> None:
    _mkosi(bench, places)
    archive = bench.memory / "tree.cpio.gz"
    _pack(places.output / OUTPUT, archive)
    archive.unlink()


def _pack(tree: Path, archive: Path) -> None:
    # The kernel is a file of its own, there as here.
    find = "find . -path './boot/*' -prune -o -print"
    words = f"cd '{tree}' && {find} | cpio --quiet -o -H newc | pigz >'{archive}'"
    run(["sh", "-c", words])


def _add(bench: Bench, name: str, ours: Measured, theirs: Measured | None, **more: object) -> None:
    facts: dict[str, object] = {
        "seconds": round(ours.median, 2),
        "all": [round(each, 2) for each in ours.seconds],
    }
    if ours.memory_bytes:
        facts["peakMb"] = round(max(ours.memory_bytes) / 1e6)
    if theirs:
        facts |= {
            "against": round(theirs.median, 2),
            "ratio": round(ours.median / theirs.median, 3),
            "goal": GOALS[name],
        }
        if theirs.memory_bytes:
            facts["theirPeakMb"] = round(max(theirs.memory_bytes) / 1e6)
    facts |= more
    bench.figures.append(Figure(group=GROUP, name=name, facts=facts))
    print(f"   {name}: {facts}", flush=True)


def _available_bytes() -> int:
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0
