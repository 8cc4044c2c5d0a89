"""Contenders run side by side, in turns, three times each; what counts is the median."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROUNDS = 3
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, kw_only=True)
class Contender:
    """Something that does the work: *prepare* is not measured, *run* is."""

    name: str
    run: Callable[[], object]
    prepare: Callable[[], object] = lambda: None


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One line of the result."""

    group: str
    name: str
    facts: Mapping[str, object] = field(default_factory=dict)


def race(
    group: str, contenders: Sequence[Contender], *, size_bytes: int, rounds: int = ROUNDS
) -> list[Figure]:
    """Run all *contenders* on the same *size_bytes* bytes; ratios are to the first one."""
    seconds: dict[str, list[float]] = {item.name: [] for item in contenders}
    spent: dict[str, list[float]] = {item.name: [] for item in contenders}
    for turn in range(rounds):
        # Each turn begins with another one, so that none always has the same before it.
        for item in [*contenders[turn % len(contenders) :], *contenders[: turn % len(contenders)]]:
            item.prepare()
            begun, processor = time.perf_counter(), _processor_seconds()
            item.run()
            seconds[item.name].append(time.perf_counter() - begun)
            spent[item.name].append(_processor_seconds() - processor)
    first = statistics.median(seconds[contenders[0].name])
    return [
        Figure(
            group=group,
            name=name,
            facts={
                "seconds": round(statistics.median(found), 3),
                "all": [round(each, 3) for each in found],
                "cpuSeconds": round(statistics.median(spent[name]), 3),
                "mbPerSecond": round(size_bytes / 1e6 / statistics.median(found)),
                "ratio": round(statistics.median(found) / first, 2),
            },
        )
        for name, found in seconds.items()
    ]


def _processor_seconds() -> float:
    """Return what programs that have ended took of the processors."""
    times = os.times()
    return times.children_user + times.children_system


def run(argv: Sequence[str | Path], **env: str | Path) -> str:
    """Run a program; return its output, which is shown when it fails."""
    found = subprocess.run(
        [os.fspath(word) for word in argv],
        env={**os.environ, **{name: os.fspath(value) for name, value in env.items()}},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if found.returncode:
        sys.exit(f"{' '.join(map(str, argv))}: status {found.returncode}\n{found.stdout}")
    return found.stdout


def vnfsbuild(*words: str | Path, **env: str | Path) -> str:
    """Run ``vnfsbuild`` of this checkout, as people do: in a process of its own."""
    return run([sys.executable, "-m", "vnfsbuild", *words], PYTHONPATH=ROOT, **env)


def machine() -> dict[str, object]:
    """Return what the figures depend on."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memoryGib": round(memory_bytes / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def render(figures: Sequence[Figure]) -> str:
    """Return *figures* as tables, one for each group."""
    lines: list[str] = []
    for group in dict.fromkeys(item.group for item in figures):
        rows = [item for item in figures if item.group == group]
        columns = list(dict.fromkeys(key for item in rows for key in item.facts if key != "all"))
        table = [["", *columns]]
        table += [[item.name, *(str(item.facts.get(key, "")) for key in columns)] for item in rows]
        widths = [max(len(row[number]) for row in table) for number in range(len(table[0]))]
        lines += ["", group]
        for row in table:
            cells = [row[0].ljust(widths[0])]
            cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
            lines.append("  " + "  ".join(cells).rstrip())
    return "\n".join(lines[1:])
