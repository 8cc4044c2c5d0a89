"""Rollouts in the node database: rows ⇄ values."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sql

from provisiond.nodes.rollout import Member, Rollout
from provisiond.nodes.tables import ROLLOUT_NODES, ROLLOUTS

_BLANK = dataclasses.asdict(Member())


def read_rollouts(connection: sql.Connection) -> dict[int, Rollout]:
    """Return all rollouts, by id; what a later version added is left out."""
    members: dict[int, dict[str, Member]] = {}
    wanted = ROLLOUT_NODES.select().order_by(ROLLOUT_NODES.c.rollout, ROLLOUT_NODES.c.position)
    for row in connection.execute(wanted):
        value = _known(Member, json.loads(row.value))
        members.setdefault(row.rollout, {})[row.node_id] = Member(**value)
    found = {}
    for row in connection.execute(ROLLOUTS.select().order_by(ROLLOUTS.c.id)):
        value = _known(Rollout, json.loads(row.value))
        found[row.id] = Rollout(**{**value, "id": row.id, "members": members.get(row.id, {})})
    return found


def rollout_row(rollout: Rollout) -> dict[str, Any]:
    """Return the row of *rollout* in ``rollouts``."""
    fields = (field.name for field in dataclasses.fields(rollout))
    value = {key: getattr(rollout, key) for key in fields if key not in ("id", "members")}
    return {"id": rollout.id, "value": json.dumps(value)}


def member_rows(rollout: Rollout, before: Rollout | None) -> list[dict[str, Any]]:
    """Return the rows of *rollout* in ``rollout_nodes`` that are others than *before*."""
    held: Mapping[str, Member] = before.members if before is not None else {}
    return [
        {
            "rollout": rollout.id,
            "position": position,
            "node_id": node_id,
            "value": json.dumps(_value(member)),
        }
        for position, (node_id, member) in enumerate(rollout.members.items())
        if held.get(node_id) is not member
    ]


def delete_rollouts(connection: sql.Connection, ids: tuple[int, ...]) -> None:
    """Forget the rollouts *ids*."""
    if not ids:
        return
    connection.execute(ROLLOUT_NODES.delete().where(ROLLOUT_NODES.c.rollout.in_(ids)))
    connection.execute(ROLLOUTS.delete().where(ROLLOUTS.c.id.in_(ids)))


def _value(member: Member) -> dict[str, Any]:
    """Return what of *member* is not as in the beginning: there may be very many."""
    return {key: item for key, item in dataclasses.asdict(member).items() if item != _BLANK[key]}


def _known(kind: type[Member | Rollout], value: Mapping[str, Any]) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(kind)}
    return {key: item for key, item in value.items() if key in names}
