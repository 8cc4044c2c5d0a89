"""What is seen of a boot: states to lines, phases to seconds, and the verdict. Pure.

The node server tells when a node came into each state; power-on is what the laboratory knows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from provisiond.lab.machine import Machine

PHASES = ("bootstrap up", "fetched", "kexec", "ready")
"""What is measured, in order; each in seconds since power-on."""

PANIC = "Kernel panic - not syncing"

_WORDS = {
    "init": "bootstrap up",
    "fetching": "fetching",
    "booting": "fetched and verified, booting",
    "ready": "ready",
    "halted": "halted",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Sight:
    """What the node server says of a node at one moment."""

    name: str
    state: str | None
    text: str
    """Why it waits or failed; empty while all is well."""
    conditions: tuple[str, ...]
    boot_id: str | None
    planned: str | None
    """Digest of the capsule that it shall boot."""
    capsule: str | None
    """Digest of the capsule that it says it boots or runs."""
    phases: Mapping[str, float]
    report: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How the boot of one machine went."""

    machine: Machine
    name: str
    state: str
    is_ready: bool
    reason: str
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Phase → seconds since power-on, of the phases that it came to."""
    memory_used_kib: int | None = None
    memory_total_kib: int | None = None
    failed_units: tuple[str, ...] = ()


def find_sight(nodes: Iterable[Mapping[str, Any]], machine: Machine) -> Sight | None:
    """Return what *nodes*, as the node server lists them, say of *machine*."""
    for node in nodes:
        if machine.hwaddr in (node["nodeId"], *node.get("hwaddrs", ())):
            return _make_sight(node)
    return None


def describe_change(before: Sight | None, after: Sight) -> tuple[str, ...]:
    """Return the lines that tell what changed, without name and time."""
    lines = []
    if before is None:
        lines.append("registered")
    elif after.boot_id != before.boot_id and before.boot_id is not None:
        lines.append("started again")
    same_boot = before is not None and after.boot_id == before.boot_id
    old_state = before.state if before is not None and same_boot else None
    old_text = before.text if before is not None and same_boot else ""
    if after.state is not None and after.state != old_state:
        lines.append(_told(after))
    elif after.text and after.text != old_text:
        lines.append(after.text)
    return tuple(lines)


def judge(machine: Machine, sight: Sight | None, *, power_on: float) -> Outcome:
    """Return the outcome as far as it is known; *power_on* in seconds since 1970."""
    if sight is None:
        return Outcome(
            machine=machine, name=machine.label, state="-", is_ready=False,
            reason="the node server never heard of it",
        )  # fmt: skip
    is_ready = sight.state == "ready" and sight.capsule == sight.planned
    return Outcome(
        machine=machine,
        name=sight.name,
        state=sight.state or "-",
        is_ready=is_ready,
        reason="" if is_ready else _reason(sight),
        seconds=phase_seconds(sight, power_on=power_on),
        memory_used_kib=_whole(sight.report.get("memoryUsedKib")),
        memory_total_kib=_whole(sight.report.get("memoryTotalKib")),
        failed_units=tuple(sight.report.get("failedUnits") or ()),
    )


def phase_seconds(sight: Sight, *, power_on: float) -> dict[str, float]:
    """Return the seconds from *power_on* to each phase that was reached.

    The kernel's uptime in the report that said ``ready`` tells when that kernel started: after
    *booting* it is the capsule's kernel, before it the bootstrap's, which went on by pivot.
    """
    at = {"bootstrap up": sight.phases.get("init"), "fetched": sight.phases.get("booting")}
    ready, uptime = sight.phases.get("ready"), sight.report.get("uptimeCentiseconds")
    if ready is not None and isinstance(uptime, int) and sight.state == "ready":
        started = ready - uptime / 100
        if at["fetched"] is not None and started > at["fetched"] - 1:
            at["kexec"] = max(started, at["fetched"])
    at["ready"] = ready
    found = {phase: at.get(phase) for phase in PHASES}
    return {phase: round(when - power_on, 1) for phase, when in found.items() if when is not None}


def render_outcomes(outcomes: Sequence[Outcome], *, is_emulated: bool) -> str:
    """Return the table of figures."""
    head = ("Node", "Firmware", *(phase.capitalize() for phase in PHASES), "Memory used")
    rows = [head, *(_row(outcome) for outcome in outcomes)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    how = "emulated, so read ratios and not seconds" if is_emulated else "with KVM"
    return "\n".join([*lines, f"(seconds since power-on; {how})"])


def outcome_value(outcome: Outcome) -> dict[str, Any]:
    """Return *outcome* as a JSON object."""
    return {
        "name": outcome.name,
        "machine": outcome.machine.label,
        "hwaddr": outcome.machine.hwaddr,
        "firmware": outcome.machine.firmware,
        "state": outcome.state,
        "ready": outcome.is_ready,
        "reason": outcome.reason,
        "seconds": dict(outcome.seconds),
        "memoryUsedKib": outcome.memory_used_kib,
        "memoryTotalKib": outcome.memory_total_kib,
        "failedUnits": list(outcome.failed_units),
    }


def _make_sight(node: Mapping[str, Any]) -> Sight:
    # Reason: why the server lets it wait. Detail: what the node itself says.
    state = node.get("state")
    text = node.get("detail") if state == "failed" else node.get("reason")
    return Sight(
        name=node["name"],
        state=state,
        text=(text or node.get("detail") or "").strip(),
        conditions=tuple(node.get("conditions") or ()),
        boot_id=node.get("bootId"),
        planned=node.get("planned"),
        capsule=node.get("capsule"),
        phases=node.get("phases") or {},
        report=node.get("report") or {},
    )


def _told(sight: Sight) -> str:
    if sight.state == "failed":
        return f"failed: {sight.text or 'no reason given'}"
    words = _WORDS.get(sight.state or "", sight.state or "")
    if sight.state == "init" and sight.text:
        return f"{words}: {sight.text}"
    return words


def _reason(sight: Sight) -> str:
    if sight.state == "ready":
        return f"runs {sight.capsule}, expected {sight.planned}"
    told = ": ".join(part for part in (sight.state or "no word from it", sight.text) if part)
    return f"{told} ({', '.join(sight.conditions)})" if sight.conditions else told


def _row(outcome: Outcome) -> tuple[str, ...]:
    seconds = [outcome.seconds.get(phase) for phase in PHASES]
    memory = "-"
    if outcome.memory_used_kib is not None and outcome.memory_total_kib is not None:
        used, total = outcome.memory_used_kib // 1024, outcome.memory_total_kib // 1024
        memory = f"{used} of {total} MiB"
    shown = ["-" if value is None else f"{value:.1f}" for value in seconds]
    return (outcome.name, outcome.machine.firmware, *shown, memory)


def _whole(value: Any) -> int | None:
    return value if type(value) is int else None
