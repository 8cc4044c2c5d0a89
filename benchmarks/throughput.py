"""How fast a capsule is verified, imported and exported, beside programs that do less."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path

from benchmarks.harness import Contender, Figure, race, run, vnfsbuild
from benchmarks.updates import RECIPE, Capsules
from benchmarks.webserver import serve


def measure(capsules: Capsules, work: Path) -> list[Figure]:
    """Let them race on one file, which is in the page cache."""
    file = capsules.path("today")
    held = work / "held"
    env = {"VNFS_SITE": capsules.site, "VNFS_CACHE": work / "cache"}
    vnfsbuild("import", file, VNFS_STORE=held, **env)
    target, fresh = work / "target", work / "fresh"

    def clean() -> None:
        shutil.rmtree(target, ignore_errors=True)
        shutil.rmtree(fresh, ignore_errors=True)
        target.mkdir()

    def contender(name: str, *argv: str | Path) -> Contender:
        return Contender(name=name, run=functools.partial(run, argv), prepare=clean)

    def ours(name: str, *words: str | Path, store: Path) -> Contender:
        act = functools.partial(vnfsbuild, *words, VNFS_STORE=store, **env)
        return Contender(name=name, run=act, prepare=clean)

    size_bytes = file.stat().st_size
    copy = ["sh", "-c", 'cp "$1" "$2" && sync "$2"/*', "-", file, target]
    unpack = ["sh", "-c", 'tar xf "$1" -C "$2" && sync -f "$2"', "-", file, target]
    figures = race(
        "verify",
        [
            contender("sha256sum", "sha256sum", file),
            contender("openssl dgst -sha256", "openssl", "dgst", "-sha256", file),
            ours("vnfsbuild verify FILE", "verify", file, store=held),
            ours("vnfsbuild verify REFERENCE", "verify", RECIPE, store=held),
            ours("vnfsbuild --version (what starting costs)", "--version", store=held),
        ],
        size_bytes=size_bytes,
    )
    with serve(capsules.directory) as server:
        url = server.url(file.name)
        download = ["sh", "-c", 'curl -s "$1" -o "$2/x" && sync "$2/x"', "-", url, target]
        contenders = [
            contender("cp, sync", *copy),
            contender("tar x, sync", *unpack),
            *([contender("curl, sync", *download)] if shutil.which("curl") else []),
            ours("vnfsbuild import FILE", "import", file, store=fresh),
            ours("vnfsbuild import URL", "import", url, store=fresh),
            ours("vnfsbuild import FILE that is there", "import", file, store=held),
        ]
        figures += race("import", contenders, size_bytes=size_bytes)
    figures += race(
        "export",
        [
            contender("cp, sync", *copy),
            ours("vnfsbuild export", "export", RECIPE, target / "x.vnfs", store=held),
        ],
        size_bytes=size_bytes,
    )
    return figures
