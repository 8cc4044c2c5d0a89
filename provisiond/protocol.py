"""The words that agent and provisiond exchange: check-ins, plans, states.

Protocol: docs/checkin-protocol.md. Standard library and vnfsbuild's floor 0 only: the agent carries
this file. Everything here is a value or a pure function between values and JSON objects.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Dict, Mapping, Optional, Tuple

from vnfsbuild.digest import Digest, digest_of, parse_digest, render_json
from vnfsbuild.errors import InputError

PROTOCOL = 1
SPOKEN = (1,)
"""Versions that the server answers: the last two, so far one."""

STATES = ("init", "fetching", "booting", "ready", "failed", "halted")
METHODS = ("kexec", "pivot", "local", "rescue")
ACTIONS = ("wait", "boot", "none")

MAX_CHECKIN_BYTES = 64 * 1024
MAX_DETAIL_CHARACTERS = 2000
MAX_WAIT_SECONDS = 300

_HWADDR = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}(:[0-9a-f]{2}){0,14}\Z")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")
_BOOT_ID = re.compile(r"[0-9a-f]{32}\Z")
_NODE_KEY = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True)
class Checkin:
    """What a node says, at each step of a boot and at intervals afterwards."""

    hwaddrs: Tuple[str, ...]
    """Hardware addresses, lower case with colons; the one that it was booted from first."""
    boot_id: str
    """32 hexadecimal digits, new with each start of the bootstrap; kept over kexec."""
    state: str
    uuid: Optional[str] = None
    """The machine's SMBIOS UUID, lower case."""
    detail: str = ""
    """What is being done, or why it failed; one line or a few."""
    node_key: Optional[str] = None
    plan: Optional[Digest] = None
    """The plan that it holds; with *wait_seconds* the answer waits until there is another."""
    wait_seconds: int = 0
    capsule: Optional[Digest] = None
    """The capsule that it is booting or running."""
    trust_version: Optional[int] = None
    """The version of trust.json that it holds; agents before there was this do not tell."""
    report: Mapping[str, Any] = field(default_factory=dict)
    """Figures by name: text, whole numbers, lists of text. Shown, never acted on."""
    protocol: int = PROTOCOL


@dataclass(frozen=True)
class PlannedCapsule:
    """Which capsule to boot. It is verified on the node; nothing here is trusted for that."""

    name: str
    digest: Digest
    signatures: Tuple[Digest, ...]
    """Digests of the DSSE envelopes over its manifest."""


@dataclass(frozen=True)
class PlannedOverlay:
    """The files of this node: a tar, fetched from the server itself with the node key."""

    digest: Digest
    size_bytes: int


@dataclass(frozen=True)
class Plan:
    """The server's complete answer to a check-in."""

    node_id: str
    """The hardware address that the node is known by."""
    name: str
    action: str
    """wait: hold on, for *reason*; boot: fetch and boot *capsule*; none: go on as you are."""
    reason: str = ""
    capsule: Optional[PlannedCapsule] = None
    method: str = "kexec"
    kernel_arguments: Tuple[str, ...] = ()
    overlay: Optional[PlannedOverlay] = None
    blobs: Tuple[str, ...] = ()
    """Base URLs; a blob is at ``BASE/sha256/HEX``. Servers of signed bytes, tried in order."""
    checkin_seconds: int = 60
    """How often a ready node checks in."""
    protocol: int = PROTOCOL


@dataclass(frozen=True)
class Answer:
    """A plan with what changes from answer to answer, and so is not in its digest."""

    plan: Plan
    time: int
    """The server's clock, seconds since 1970."""
    node_key: Optional[str] = None
    """64 hexadecimal digits; given once a boot, to the first check-in that may have it."""
    trust: Optional[str] = None
    """The text of trust.json, base64, when it is newer than the one that the node holds."""


def render_checkin(checkin: Checkin) -> bytes:
    """Return the body of a check-in."""
    value = {
        "protocol": checkin.protocol,
        "hwaddrs": list(checkin.hwaddrs),
        "uuid": checkin.uuid,
        "bootId": checkin.boot_id,
        "state": checkin.state,
        "detail": checkin.detail,
        "nodeKey": checkin.node_key,
        "plan": checkin.plan,
        "waitSeconds": checkin.wait_seconds,
        "capsule": checkin.capsule,
        "trustVersion": checkin.trust_version,
        "report": dict(checkin.report),
    }
    return render_json({key: item for key, item in value.items() if item is not None})


def parse_checkin(value: Any) -> Checkin:
    """Return the check-in that the JSON object *value* stands for, its strings cleaned.

    Raises:
        InputError: anything missing, of the wrong type or out of bounds.
    """
    fields = _Object(value, "check-in")
    protocol = fields.integer("protocol", least=1, most=1_000_000)
    if protocol not in SPOKEN:
        spoken = " or ".join(str(version) for version in SPOKEN)
        raise InputError(f"check-in: protocol {protocol}, expected {spoken}")
    return Checkin(
        protocol=protocol,
        hwaddrs=fields.texts("hwaddrs", pattern=_HWADDR, least=1, most=64),
        uuid=fields.text("uuid", pattern=_UUID),
        boot_id=fields.required("bootId", pattern=_BOOT_ID),
        state=fields.choice("state", STATES),
        detail=clean(fields.text("detail") or "", limit=MAX_DETAIL_CHARACTERS),
        node_key=fields.text("nodeKey", pattern=_NODE_KEY),
        plan=fields.digest("plan"),
        wait_seconds=fields.integer("waitSeconds", least=0, most=MAX_WAIT_SECONDS, default=0),
        capsule=fields.digest("capsule"),
        trust_version=fields.optional_integer("trustVersion", least=0, most=2**62),
        report=_report(fields.get("report")),
    )


def plan_value(plan: Plan) -> Dict[str, Any]:
    """Return *plan* as a JSON object."""
    value: Dict[str, Any] = {
        "protocol": plan.protocol,
        "nodeId": plan.node_id,
        "name": plan.name,
        "action": plan.action,
        "reason": plan.reason,
        "method": plan.method,
        "kernelArguments": list(plan.kernel_arguments),
        "blobs": list(plan.blobs),
        "checkinSeconds": plan.checkin_seconds,
    }
    if plan.capsule:
        value["capsule"] = {
            "name": plan.capsule.name,
            "digest": plan.capsule.digest,
            "signatures": list(plan.capsule.signatures),
        }
    if plan.overlay:
        value["overlay"] = {"digest": plan.overlay.digest, "size": plan.overlay.size_bytes}
    return value


def plan_digest(plan: Plan) -> Digest:
    """Return the digest of *plan*: of its canonical JSON."""
    return digest_of(render_json(plan_value(plan)))


def render_answer(answer: Answer) -> bytes:
    """Return the body of an answer."""
    value: Dict[str, Any] = {
        "plan": plan_value(answer.plan),
        "digest": plan_digest(answer.plan),
        "time": answer.time,
    }
    if answer.node_key:
        value["nodeKey"] = answer.node_key
    if answer.trust:
        value["trust"] = answer.trust
    return render_json(value)


def parse_answer(value: Any) -> Answer:
    """Return the answer that the JSON object *value* stands for.

    Raises:
        InputError: not a plan of a version that is spoken here, or not what its digest says:
            nothing of it may be acted on.
    """
    fields = _Object(value, "answer")
    plan = _parse_plan(fields.get("plan"))
    if fields.digest("digest") != plan_digest(plan):
        raise InputError("answer: the plan is not the one that its digest names")
    return Answer(
        plan=plan,
        time=fields.integer("time", least=0, most=2**62),
        node_key=fields.text("nodeKey", pattern=_NODE_KEY),
        trust=fields.text("trust"),
    )


def clean(text: str, *, limit: int = 200) -> str:
    """Return *text* as it may be shown: no control characters, at most *limit* long."""
    shown = "".join(c if c.isprintable() or c == "\n" else "?" for c in text)
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def _parse_plan(value: Any) -> Plan:
    fields = _Object(value, "plan")
    protocol = fields.integer("protocol", least=1, most=1_000_000)
    if protocol not in SPOKEN:
        raise InputError(f"plan: protocol {protocol}, this agent speaks {SPOKEN[-1]}")
    capsule, overlay = fields.get("capsule"), fields.get("overlay")
    plan = Plan(
        protocol=protocol,
        node_id=fields.required("nodeId", pattern=_HWADDR),
        name=fields.required("name"),
        action=fields.choice("action", ACTIONS),
        reason=fields.text("reason") or "",
        method=fields.choice("method", METHODS),
        kernel_arguments=fields.texts("kernelArguments"),
        blobs=fields.texts("blobs"),
        checkin_seconds=fields.integer("checkinSeconds", least=1, most=86400),
        capsule=_parse_capsule(capsule) if capsule is not None else None,
        overlay=_parse_overlay(overlay) if overlay is not None else None,
    )
    if plan.action == "boot" and plan.capsule is None and plan.method in ("kexec", "pivot"):
        raise InputError("plan: says boot and names no capsule")
    return plan


def _parse_capsule(value: Any) -> PlannedCapsule:
    fields = _Object(value, "plan: capsule")
    signatures = fields.texts("signatures", most=64)
    return PlannedCapsule(
        name=fields.required("name"),
        digest=parse_digest(fields.required("digest"), where="plan: capsule"),
        signatures=tuple(parse_digest(item, where="plan: signatures") for item in signatures),
    )


def _parse_overlay(value: Any) -> PlannedOverlay:
    fields = _Object(value, "plan: overlay")
    return PlannedOverlay(
        digest=parse_digest(fields.required("digest"), where="plan: overlay"),
        size_bytes=fields.integer("size", least=0, most=2**32 - 1),
    )


def _report(value: Any) -> Dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict) or len(value) > 64:
        raise InputError("check-in: report: expected an object of at most 64 figures")
    report: Dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, str):
            report[clean(key, limit=64)] = clean(item, limit=MAX_DETAIL_CHARACTERS)
        elif type(item) is int and abs(item) < 2**63:
            report[clean(key, limit=64)] = item
        elif isinstance(item, list) and all(isinstance(text, str) for text in item):
            report[clean(key, limit=64)] = [clean(text) for text in item[:64]]
        else:
            raise InputError(f"check-in: report: {key!r}: expected text, a whole number or texts")
    return report


class _Object:
    """Typed reads from a JSON object, with errors that say where."""

    def __init__(self, value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise InputError(f"{where}: found {type(value).__name__}, expected an object")
        self._value = value
        self._where = where

    def get(self, key: str) -> Any:
        return self._value.get(key)

    def text(self, key: str, *, pattern: Optional["re.Pattern[str]"] = None) -> Optional[str]:
        value = self._value.get(key)
        if value is None:
            return None
        if not isinstance(value, str) or (pattern and not pattern.match(value)):
            raise InputError(f"{self._where}: {key}: found {value!r:.80}, expected another form")
        return value

    def required(self, key: str, *, pattern: Optional["re.Pattern[str]"] = None) -> str:
        value = self.text(key, pattern=pattern)
        if value is None:
            raise InputError(f"{self._where}: {key}: missing")
        return value

    def choice(self, key: str, choices: Tuple[str, ...]) -> str:
        value = self.required(key)
        if value not in choices:
            raise InputError(
                f"{self._where}: {key}: found {value!r:.80}, expected {', '.join(choices)}"
            )
        return value

    def integer(self, key: str, *, least: int, most: int, default: Optional[int] = None) -> int:
        value = self._value.get(key, default)
        if type(value) is not int or not least <= value <= most:
            raise InputError(
                f"{self._where}: {key}: found {value!r:.80}, expected {least} to {most}"
            )
        return value

    def optional_integer(self, key: str, *, least: int, most: int) -> Optional[int]:
        if self._value.get(key) is None:
            return None
        return self.integer(key, least=least, most=most)

    def texts(
        self,
        key: str,
        *,
        pattern: Optional["re.Pattern[str]"] = None,
        least: int = 0,
        most: int = 256,
    ) -> Tuple[str, ...]:
        value = self._value.get(key, [])
        good = isinstance(value, list) and least <= len(value) <= most
        if not good or not all(
            isinstance(item, str) and (pattern is None or pattern.match(item)) for item in value
        ):
            raise InputError(f"{self._where}: {key}: found {value!r:.80}, expected a list of texts")
        return tuple(value)

    def digest(self, key: str) -> Optional[Digest]:
        value = self.text(key)
        return None if value is None else parse_digest(value, where=f"{self._where}: {key}")
