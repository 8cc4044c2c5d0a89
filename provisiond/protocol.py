"""The words that agent and provisiond exchange: check-ins, plans, states.

Protocol: docs/checkin-protocol.md. Standard library and vnfsbuild's floor 0 only: the agent carries
this file. Everything here is a value or a pure function between values and JSON objects.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Dict, Mapping, Optional, Tuple

from provisiond.planned import AFTER_FAILURES as AFTER_FAILURES
from provisiond.planned import NO_LIMIT as NO_LIMIT
from provisiond.planned import TRANSFERS as TRANSFERS
from provisiond.planned import NextReport as NextReport
from provisiond.planned import OnFailure as OnFailure
from provisiond.planned import PlannedCapsule as PlannedCapsule
from provisiond.planned import PlannedNext as PlannedNext
from provisiond.planned import PlannedOverlay as PlannedOverlay
from provisiond.planned import (
    capsule_value,
    next_report_value,
    next_value,
    overlay_value,
    parse_capsule,
    parse_next,
    parse_next_report,
    parse_on_failure,
    parse_overlay,
)
from provisiond.tasks import (
    Knock,
    PlannedTask,
    TaskReport,
    parse_knock,
    parse_task,
    parse_task_report,
    render_knock,
    render_task,
    render_task_report,
)
from provisiond.wire import MAX_DETAIL_CHARACTERS as MAX_DETAIL_CHARACTERS
from provisiond.wire import Fields
from provisiond.wire import clean as clean
from vnfsbuild.digest import Digest, digest_of, render_json
from vnfsbuild.errors import InputError

PROTOCOL = 1
SPOKEN = (1,)
"""Versions that the server answers: the last two, so far one."""

STATES = ("init", "fetching", "booting", "ready", "failed", "halted")
METHODS = ("auto", "kexec", "pivot", "local", "rescue")
"""auto: pivot when the capsule's kernel is the one that runs, else kexec. The node decides."""
WITHOUT_CAPSULE = ("local", "rescue")
ACTIONS = ("wait", "boot", "none")

MAX_CHECKIN_BYTES = 64 * 1024
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
    next: Optional[NextReport] = None
    """Of a node that runs, while it has something to do with another capsule."""
    task: Optional[TaskReport] = None
    knock: Optional[Knock] = None
    protocol: int = PROTOCOL


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
    """Base URLs; a blob is at ``BASE/sha256/HEX``. The node makes an order of its own of them."""
    near: int = 0
    """The first so many of *blobs* are asked before the others."""
    transfer: str = "http"
    nfs: Tuple[str, ...] = ()
    """``SERVER:/PATH`` of exports that hold what *blobs* do; for the transfer nfs."""
    checkin_seconds: int = 60
    """How often a ready node checks in."""
    on_failure: OnFailure = NO_LIMIT
    debug: bool = False
    """Whether the agent traces what it does."""
    task: Optional[PlannedTask] = None
    """For a node that runs."""
    drivers: Optional[PlannedCapsule] = None
    """To a bootstrap: the one whose drivers.cpio it is to fetch and load, when it has none."""
    health_seconds: Optional[int] = None
    """How often a ready node runs its health checks; 0: no more, none: as it likes."""
    next: Optional[PlannedNext] = None
    """To a node that runs: what it is to go over to."""
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
    digest: Optional[Digest] = None
    """Of the plan as it came, with keys that are not known here; that is how it is called later."""


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
        "next": next_report_value(checkin.next) if checkin.next else None,
        "task": render_task_report(checkin.task),
        "knock": render_knock(checkin.knock),
    }
    return render_json({key: item for key, item in value.items() if item is not None})


def parse_checkin(value: Any) -> Checkin:
    """Return the check-in that the JSON object *value* stands for, its strings cleaned.

    Raises:
        InputError: anything missing, of the wrong type or out of bounds.
    """
    fields = Fields(value, "check-in")
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
        next=parse_next_report(fields.get("next")),
        task=parse_task_report(fields.get("task")),
        knock=parse_knock(fields.get("knock")),
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
    failure = plan.on_failure
    by_nfs = plan.transfer != "http"
    optional: Dict[str, Any] = {
        "capsule": plan.capsule and capsule_value(plan.capsule),
        "near": plan.near or None,
        "transfer": plan.transfer if by_nfs else None,
        "nfs": list(plan.nfs) if by_nfs else None,
        "overlay": plan.overlay and overlay_value(plan.overlay),
        "next": plan.next and next_value(plan.next),
        "task": plan.task and render_task(plan.task),
        "drivers": plan.drivers and capsule_value(plan.drivers),
        "onFailure": {"tries": failure.tries, "then": failure.then} if failure.tries else None,
        "debug": plan.debug or None,
        "healthSeconds": plan.health_seconds,
    }
    value.update((key, item) for key, item in optional.items() if item is not None)
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
    fields = Fields(value, "answer")
    plan = parse_plan(fields.get("plan"))
    # Of what came, not of what is known of it: a newer server says more.
    digest = digest_of(render_json(fields.get("plan")))
    if fields.digest("digest") != digest:
        raise InputError("answer: the plan is not the one that its digest names")
    return Answer(
        plan=plan,
        digest=digest,
        time=fields.integer("time", least=0, most=2**62),
        node_key=fields.text("nodeKey", pattern=_NODE_KEY),
        trust=fields.text("trust"),
    )


def parse_plan(value: Any) -> Plan:
    """Return the plan that the JSON object *value* stands for; keys not known here are left out.

    Raises:
        InputError: it is none, or of a version that is not spoken here.
    """
    fields = Fields(value, "plan")
    protocol = fields.integer("protocol", least=1, most=1_000_000)
    if protocol not in SPOKEN:
        raise InputError(f"plan: protocol {protocol}, this agent speaks {SPOKEN[-1]}")
    capsule, overlay, drivers = (fields.get(key) for key in ("capsule", "overlay", "drivers"))
    plan = Plan(
        protocol=protocol,
        node_id=fields.required("nodeId", pattern=_HWADDR),
        name=fields.required("name"),
        action=fields.choice("action", ACTIONS),
        reason=fields.text("reason") or "",
        method=fields.choice("method", METHODS),
        kernel_arguments=fields.texts("kernelArguments"),
        blobs=fields.texts("blobs"),
        near=fields.integer("near", least=0, most=256, default=0),
        transfer=fields.choice("transfer", TRANSFERS, default="http"),
        nfs=fields.texts("nfs"),
        checkin_seconds=fields.integer("checkinSeconds", least=1, most=86400),
        next=parse_next(fields.get("next")),
        capsule=parse_capsule(capsule) if capsule is not None else None,
        overlay=parse_overlay(overlay) if overlay is not None else None,
        drivers=parse_capsule(drivers, where="plan: drivers") if drivers is not None else None,
        on_failure=parse_on_failure(fields.get("onFailure")),
        debug=fields.flag("debug"),
        task=parse_task(fields.get("task")),
        health_seconds=fields.optional_integer("healthSeconds", least=0, most=86400),
    )
    if plan.action == "boot" and plan.capsule is None and plan.method not in WITHOUT_CAPSULE:
        raise InputError("plan: says boot and names no capsule")
    return plan


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
