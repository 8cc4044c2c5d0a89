"""How much of a newer capsule comes over the wire when an older one is in the store."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import ROOT, Figure, vnfsbuild
from benchmarks.webserver import serve

RECIPE = "debian-13-compute"
MORE_PACKAGES = ("htop", "strace", "tmux")


@dataclass(frozen=True, kw_only=True)
class Capsules:
    """The files of what was built, and what it is verified with."""

    directory: Path
    site: Path

    def path(self, name: str) -> Path:
        """Return the file of one: ``today``, ``more`` or ``older``."""
        return self.directory / f"{name}.vnfs"


def make_capsules(directory: Path) -> Capsules:
    """Build the capsules that are compared; those that lie in *directory* are taken."""
    site, recipes = directory / "site", directory / "recipes"
    found = Capsules(directory=directory, site=site)
    directory.mkdir(parents=True, exist_ok=True)
    if not (site / "trust.json").exists():
        vnfsbuild("keys", "new", "bench", VNFS_SITE=site)
    for name in ("today", "more", "older"):
        if found.path(name).exists():
            continue
        print(f"building {name} (about 40 s)", flush=True)
        recipe = recipes / name
        shutil.rmtree(recipe, ignore_errors=True)
        shutil.copytree(ROOT / "recipes" / RECIPE, recipe)
        (recipe / "recipe.lock").unlink(missing_ok=True)
        env = {"VNFS_SITE": site, "VNFS_STORE": directory / "store" / name}
        if name == "more":
            _add_packages(recipe / "recipe.toml")
        if name == "older":  # what the release was before its security updates
            env["VNFS_SECURITY_MIRROR"] = "none"
        vnfsbuild("lock", recipe, **env)
        vnfsbuild("fetch", recipe, **env)
        vnfsbuild("build", recipe, **env)
        vnfsbuild("export", "--chunks", RECIPE, found.path(name), **env)
        shutil.rmtree(directory / "store" / name)
    return found


def _add_packages(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    lines = "".join(f'    "{name}",\n' for name in MORE_PACKAGES)
    path.write_text(text.replace("install = [\n", f"install = [\n{lines}", 1), encoding="utf-8")


def measure(capsules: Capsules, work: Path) -> list[Figure]:
    """Import one capsule after the other from a web server, and count what that sends."""
    return [
        *_update(capsules, work, "three packages added", before="today", after="more"),
        *_update(capsules, work, "today's lock after an older one", before="older", after="today"),
    ]


def _update(capsules: Capsules, work: Path, group: str, *, before: str, after: str) -> list[Figure]:
    store, cache = work / "store", work / "cache"
    env = {"VNFS_SITE": capsules.site, "VNFS_STORE": store, "VNFS_CACHE": cache}
    vnfsbuild("import", capsules.path(before), **env)
    old = _payloads(capsules, before, env)
    with serve(capsules.directory) as server:
        vnfsbuild("import", server.url(f"{after}.vnfs"), **env)
        sent_bytes, requests = server.sent_bytes, server.requests
    new = _payloads(capsules, after, env)
    shutil.rmtree(store)
    shutil.rmtree(cache, ignore_errors=True)
    rootfs_bytes = new["rootfs"][1]
    file_bytes = capsules.path(after).stat().st_size
    missing_bytes = sum(
        size for role, (digest, size) in new.items() if old.get(role) != (digest, size)
    )
    return [
        Figure(group=group, name=name, facts=facts)
        for name, facts in (
            ("sent in all", _share(sent_bytes, rootfs_bytes, file_bytes, requests)),
            ("payloads that changed, whole", _share(missing_bytes, rootfs_bytes, file_bytes, None)),
            ("the whole file", _share(file_bytes, rootfs_bytes, file_bytes, 1)),
        )
    ]


def _share(
    size_bytes: int, rootfs_bytes: int, file_bytes: int, requests: int | None
) -> dict[str, object]:
    facts: dict[str, object] = {
        "bytes": size_bytes,
        "percentOfRootfs": round(100 * size_bytes / rootfs_bytes, 2),
        "percentOfFile": round(100 * size_bytes / file_bytes, 2),
    }
    return facts if requests is None else {**facts, "requests": requests}


def _payloads(capsules: Capsules, name: str, env: dict[str, Path]) -> dict[str, tuple[str, int]]:
    """Return role → digest and size of the payloads of the capsule that is current."""
    found = json.loads(vnfsbuild("show", "--json", RECIPE, **env))
    return {
        re.sub(r"^layer ", "", item["role"]): (item["digest"], item["sizeBytes"])
        for item in found["payloads"]
    }
