"""What an administrator asks of rollouts: running nodes that go over to another capsule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from provisiond.administration.nodes import NodeAdministration
from provisiond.nodes.batches import batch_size
from provisiond.nodes.rollout import MEMBER_STATES, Rollout, summary
from provisiond.parts import Parts
from provisiond.service import Service
from vnfsbuild.errors import InputError


class RolloutAdministration:
    """Changes of rollouts. Values go in and come out as JSON has them."""

    def __init__(self, parts: Parts, service: Service, nodes: NodeAdministration) -> None:
        self._registry = parts.registry
        self._rollouts = service.rollouts
        self._service = service
        self._nodes = nodes

    async def start(
        self, expressions: Sequence[str], *, reference: str, batch: str, when: str
    ) -> dict[str, Any]:
        """Let the nodes that *expressions* mean go over to a capsule, in batches.

        Raises:
            InputError: no such nodes or capsule, or one of the nodes is in a rollout that runs.
            VerificationError: the capsule may not run.
        """
        selection = self._nodes.select(expressions)
        rollout = await self._rollouts.start(
            selection.found, reference=reference, batch=batch, when=when
        )
        await self._service.pins.update_or_warn()
        return {**self._show(rollout), "missing": list(selection.missing)}

    async def stop(self, number: int | None) -> dict[str, Any]:
        """Let no more nodes leave what they run.

        Raises:
            InputError: there is no such rollout, or it does not run.
        """
        return self._show(await self._rollouts.stop(number))

    async def resume(self, number: int | None, *, retry: bool) -> dict[str, Any]:
        """Go on with a rollout that is stopped.

        Raises:
            InputError: there is no such rollout, it is not stopped, or nothing is left to do.
        """
        return self._show(await self._rollouts.resume(number, retry=retry))

    def list_rollouts(self) -> list[dict[str, Any]]:
        """Return all rollouts that are known, the oldest first, without their nodes."""
        return [self._show(rollout) for rollout in self._rollouts.rollouts.values()]

    def show(self, number: int | None) -> dict[str, Any]:
        """Return a rollout with its nodes; without *number* the newest.

        Raises:
            InputError: there is none.
        """
        rollouts = self._rollouts.rollouts
        if not rollouts:
            raise InputError("rollout: there is none", hint="provisionctl node upgrade --help")
        if number is not None and number not in rollouts:
            raise InputError(f"rollout: there is no {number}", hint="provisionctl rollout list")
        rollout = rollouts[max(rollouts) if number is None else number]
        return {**self._show(rollout), "members": self._members(rollout)}

    def _show(self, rollout: Rollout) -> dict[str, Any]:
        return {
            "id": rollout.id,
            "capsule": rollout.capsule,
            "digest": rollout.digest,
            "reference": rollout.reference,
            "batch": rollout.batch,
            "batchSize": batch_size(rollout.batch, len(rollout.members)),
            "when": rollout.when,
            "state": rollout.state,
            "reason": rollout.reason,
            "created": rollout.created,
            "ended": rollout.ended,
            "number": rollout.number,
            "go": rollout.go_since is not None,
            "summary": summary(rollout),
            "counts": {state: rollout.count(state) for state in MEMBER_STATES},
            "nodes": len(rollout.members),
        }

    def _members(self, rollout: Rollout) -> list[dict[str, Any]]:
        shown = []
        for node_id, member in rollout.members.items():
            node, session = self._registry.nodes.get(node_id), self._registry.sessions.get(node_id)
            said = session.next if session and session.next else None
            if said is not None and said.attempt != rollout.attempt:
                said = None
            shown.append(
                {
                    "name": node.name if node else node_id,
                    "state": member.state,
                    "since": member.since,
                    "batch": member.batch,
                    "reason": member.reason,
                    "step": said.state if said else None,
                    "detail": said.detail if said else "",
                }
            )
        return shown
