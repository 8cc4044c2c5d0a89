"""A node without a machine: what its agent would say, state by state."""

from __future__ import annotations

import asyncio
import json
import secrets
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, replace
from http import HTTPStatus
from ipaddress import IPv4Address
from urllib.parse import urlsplit

from provisiond.lab.simulate_wire import Reply, Wire, WireError
from provisiond.planned import NextReport
from provisiond.protocol import (
    MAX_WAIT_SECONDS,
    Answer,
    Checkin,
    Plan,
    parse_answer,
    plan_digest,
    render_checkin,
)
from vnfsbuild.digest import Digest, digest_of
from vnfsbuild.manifest import parse_manifest

FIRST_ADDRESS = IPv4Address("127.64.0.1")
"""Every address of 127.0.0.0/8 is this machine's: so each node has one of its own."""

FIRST_BYTES = 64 * 1024
TRIES = 100


class NodeError(Exception):
    """A node was refused, or was told what cannot be."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """The server that nodes talk to."""

    url: str
    context: ssl.SSLContext
    keep: bool = False


def make_hwaddr(number: int) -> str:
    """Return the hardware address of node *number*: one that no manufacturer gives away."""
    return "02:76:" + ":".join(f"{byte:02x}" for byte in number.to_bytes(4, "big"))


def make_address(number: int) -> str:
    """Return the address of node *number*."""
    return str(FIRST_ADDRESS + number)


class Node:
    """Node *number*, from its power on."""

    def __init__(self, number: int, target: Target) -> None:
        self.hwaddr = make_hwaddr(number)
        self.refusals = 0
        """How often it was told to come again."""
        self._target = target
        self._address = make_address(number)
        parts = urlsplit(target.url)
        self._wire = Wire(
            str(parts.hostname), parts.port or 443, source=self._address, context=target.context,
            keep=target.keep,
        )  # fmt: skip
        self._checkin = Checkin(hwaddrs=(self.hwaddr,), boot_id=secrets.token_hex(16), state="init")
        self._plan: Plan | None = None

    @property
    def plan(self) -> Plan:
        """The plan that it holds.

        Raises:
            NodeError: none yet.
        """
        if self._plan is None:
            raise NodeError(f"{self.hwaddr}: no plan yet")
        return self._plan

    async def say(
        self,
        state: str,
        *,
        wait_seconds: int = 0,
        report: NextReport | None = None,
        runs: Digest | None = None,
    ) -> Plan:
        """Check in with *state*, and hold the plan of the answer.

        *report* tells of the next capsule; *runs* is the one that it has gone over to.

        Raises:
            NodeError: refused, or answered with what is no plan.
            WireError: not answered.
        """
        planned = self._plan.capsule.digest if self._plan and self._plan.capsule else None
        capsule = runs or planned
        uptime = {} if state != "ready" else {"uptimeCentiseconds": 4200, "memoryUsedKib": 400_000}
        self._checkin = replace(
            self._checkin,
            state=state,
            capsule=capsule or self._checkin.capsule,
            plan=plan_digest(self._plan) if self._plan and wait_seconds else None,
            wait_seconds=wait_seconds,
            report=uptime,
            next=report,
        )
        answer = await self._post(self._checkin)
        if answer.node_key is not None:
            self._checkin = replace(self._checkin, node_key=answer.node_key)
        if answer.plan.node_id != self.hwaddr:
            raise NodeError(f"{self.hwaddr}: was given the plan of {answer.plan.node_id}")
        self._plan = answer.plan
        return answer.plan

    async def wait_for_boot(self) -> None:
        """Hold long polls until the plan says boot.

        Raises:
            NodeError: as :meth:`say`.
        """
        while self.plan.action != "boot":
            await self.say("init", wait_seconds=MAX_WAIT_SECONDS)

    async def fetch_overlay(self) -> int:
        """Fetch the overlay of the plan, verify it, and return its size.

        Raises:
            NodeError: there is none, or other bytes came.
            WireError: not answered.
        """
        overlay = self.plan.overlay
        if overlay is None:
            raise NodeError(f"{self.hwaddr}: the plan has no overlay")
        headers = {"X-Node-Id": self.hwaddr, "X-Boot-Id": self._checkin.boot_id}
        if self._checkin.node_key:
            headers["X-Node-Key"] = self._checkin.node_key
        reply = await self._wire.request("GET", f"/v1/overlay/{overlay.digest}", headers=headers)
        self._accept(reply)
        if digest_of(reply.body) != overlay.digest:
            raise NodeError(f"{self.hwaddr}: the overlay is not the one of the plan")
        return len(reply.body)

    async def fetch_payloads(self, *, whole: bool) -> int:
        """Fetch manifest and payloads, or the first bytes of each; return how many bytes came.

        Raises:
            NodeError: refused, or other bytes came.
            WireError: not answered.
        """
        if self.plan.capsule is None:
            raise NodeError(f"{self.hwaddr}: the plan has no capsule")
        manifest = await self._blob(self.plan.capsule.digest, whole=True)
        total_bytes = len(manifest)
        for payload in parse_manifest(manifest).payloads:
            total_bytes += len(await self._blob(payload.digest, whole=whole))
        return total_bytes

    def close(self) -> None:
        """Close the connection that was kept."""
        self._wire.close()

    async def _blob(self, digest: str, *, whole: bool) -> bytes:
        parts = urlsplit(self.plan.blobs[0])
        wire = Wire(str(parts.hostname), parts.port or 80, source=self._address, context=None)
        headers = {} if whole else {"Range": f"bytes=0-{FIRST_BYTES - 1}"}
        path = f"{parts.path}/{digest.replace(':', '/')}"
        reply = await wire.request("GET", path, headers=headers)
        self._accept(reply, HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT)
        if whole and digest_of(reply.body) != digest:
            raise NodeError(f"{self.hwaddr}: {digest}: other bytes came")
        return reply.body

    async def _post(self, checkin: Checkin) -> Answer:
        body = render_checkin(checkin)
        for _ in range(TRIES):
            reply = await self._wire.request(
                "POST", "/v1/checkin", body=body, timeout_seconds=60.0 + checkin.wait_seconds
            )
            if reply.status != HTTPStatus.SERVICE_UNAVAILABLE:
                self._accept(reply)
                return parse_answer(json.loads(reply.body))
            # As an agent does: it comes again after what Retry-After says.
            self.refusals += 1
            await asyncio.sleep(reply.retry_after_seconds)
        raise NodeError(f"{self.hwaddr}: told to come again {TRIES} times")

    def _accept(self, reply: Reply, *good: HTTPStatus) -> None:
        if reply.status not in (good or (HTTPStatus.OK,)):
            told = reply.body[:200].decode("utf-8", "replace")
            raise NodeError(f"{self.hwaddr}: answered {reply.status}: {told}")


def make_nodes(count: int, target: Target) -> Iterator[Node]:
    """Yield nodes 0 to *count* - 1."""
    return (Node(number, target) for number in range(count))


FAILURES = (NodeError, WireError, ValueError)
"""What may go wrong with one node without ending the simulation."""
