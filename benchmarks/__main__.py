"""``make bench``: build what is measured, measure, print tables, write the JSON."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from pathlib import Path

from benchmarks import (
    boots,
    harness,
    provisiond_blobs,
    provisiond_nodes,
    rebuild,
    throughput,
    updates,
)
from vnfsbuild.places import find_places

OF_CAPSULES = {
    "throughput": throughput.measure,
    "updates": updates.measure,
    "boots": boots.measure,
}
OF_THE_SERVER = {"blobs": provisiond_blobs.measure, "nodes": provisiond_nodes.measure}
OF_BUILDS = {"rebuild": rebuild.measure}
PARTS = (*OF_CAPSULES, *OF_BUILDS, *OF_THE_SERVER)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="all, when none is named")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the figures go")
    parser.add_argument(
        "--capsules", type=Path, metavar="DIR", help="keep what is built, and take what was"
    )
    parser.add_argument(
        "--nodes", type=int, default=provisiond_nodes.KNOWN, help="how many nodes are known"
    )
    options = parser.parse_args()
    cache = find_places().cache.absolute() / "bench"
    cache.mkdir(parents=True, exist_ok=True)
    out = options.json or cache / "figures.json"
    work = Path(tempfile.mkdtemp(dir=cache))
    try:
        wanted = options.parts or PARTS
        capsules = None
        if set(wanted) & set(OF_CAPSULES):
            capsules = updates.make_capsules(options.capsules or work / "capsules")
        figures = []
        for part in wanted:
            load = os.getloadavg()[0]
            print(f"\n{part}: measuring, load of the machine {load:.1f}", flush=True)
            if part in OF_CAPSULES:
                figures += OF_CAPSULES[part](capsules, work)
            elif part in OF_BUILDS:
                figures += OF_BUILDS[part](work)
            elif part == "nodes":
                figures += provisiond_nodes.measure(work, options.nodes)
            else:
                figures += OF_THE_SERVER[part](work)
    finally:
        shutil.rmtree(work)
    print(f"\n{harness.render(figures)}")
    document = {
        "machine": harness.machine(),
        "measured": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "figures": [{"group": item.group, "name": item.name, **item.facts} for item in figures],
    }
    out.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(f"\nfigures: {out}")


main()
