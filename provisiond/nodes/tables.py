"""The tables of the node database: rows ⇄ values, and how an older database becomes this one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sql

from provisiond.nodes.attributes import CAPSULE, DEFAULTS, GROUP, NODE
from provisiond.nodes.model import BY_ADMINISTRATOR, BY_REGISTRATION, Node, Session
from provisiond.nodes.scopes import Scopes
from provisiond.nodes.tasks import parse_task_value, task_value

SCHEMA = 3

METADATA = sql.MetaData()
ABOUT = sql.Table(
    "about",
    METADATA,
    sql.Column("key", sql.Text, primary_key=True),
    sql.Column("value", sql.Text, nullable=False),
)
NODES = sql.Table(
    "nodes",
    METADATA,
    sql.Column("node_id", sql.Text, primary_key=True),
    sql.Column("name", sql.Text, nullable=False, unique=True),
    sql.Column("uuid", sql.Text),
    sql.Column("approved_by", sql.Text),
    sql.Column("address", sql.Text),
    sql.Column("created", sql.BigInteger, nullable=False),
)
HWADDRS = sql.Table(
    "hwaddrs",
    METADATA,
    sql.Column("hwaddr", sql.Text, primary_key=True),
    sql.Column("node_id", sql.Text, nullable=False, index=True),
    sql.Column("position", sql.Integer, nullable=False),
)
ATTRIBUTES = sql.Table(
    "attributes",
    METADATA,
    sql.Column("scope", sql.Text, primary_key=True),
    sql.Column("subject", sql.Text, primary_key=True),
    sql.Column("key", sql.Text, primary_key=True),
    sql.Column("value", sql.Text, nullable=False),
)
GROUPS = sql.Table("groups", METADATA, sql.Column("name", sql.Text, primary_key=True))
MEMBERSHIP = sql.Table(
    "membership",
    METADATA,
    sql.Column("node_id", sql.Text, primary_key=True),
    sql.Column("position", sql.Integer, primary_key=True),
    sql.Column("name", sql.Text, nullable=False),
)
SESSIONS = sql.Table(
    "sessions",
    METADATA,
    sql.Column("node_id", sql.Text, primary_key=True),
    sql.Column("boot_id", sql.Text, nullable=False),
    sql.Column("state", sql.Text, nullable=False),
    sql.Column("since", sql.Float, nullable=False),
    sql.Column("hwaddr", sql.Text, nullable=False),
    sql.Column("peer", sql.Text, nullable=False),
    sql.Column("last_contact", sql.Float, nullable=False),
    sql.Column("detail", sql.Text, nullable=False),
    sql.Column("key_hash", sql.Text),
    sql.Column("key_used", sql.Boolean, nullable=False),
    sql.Column("capsule", sql.Text),
    sql.Column("last_good", sql.Text),
    sql.Column("failures", sql.Text, nullable=False, server_default="{}"),
    sql.Column("last_error", sql.Text, nullable=False, server_default=""),
    sql.Column("last_error_at", sql.Float),
    sql.Column("drivers", sql.Text, nullable=False, server_default="[]"),
    sql.Column("task", sql.Text, nullable=False, server_default="null"),
    sql.Column("phases", sql.Text, nullable=False),
    sql.Column("report", sql.Text, nullable=False),
)
EVENTS = sql.Table(
    "events",
    METADATA,
    sql.Column("id", sql.BigInteger, primary_key=True),
    sql.Column("value", sql.Text, nullable=False),
)
ROLLOUTS = sql.Table(
    "rollouts",
    METADATA,
    sql.Column("id", sql.BigInteger, primary_key=True),
    sql.Column("value", sql.Text, nullable=False),
)
ROLLOUT_NODES = sql.Table(
    "rollout_nodes",
    METADATA,
    sql.Column("rollout", sql.BigInteger, primary_key=True),
    sql.Column("position", sql.BigInteger, primary_key=True),
    sql.Column("node_id", sql.Text, nullable=False),
    sql.Column("value", sql.Text, nullable=False),
)

BY_NODE = (NODES, HWADDRS, SESSIONS, MEMBERSHIP)
"""The tables whose rows are of one node."""


def migrate(connection: sql.Connection, found: int) -> None:
    """Make a database of version *found* one of :data:`SCHEMA`, in the present transaction."""
    if found < 2:
        _from_1(connection)
    if found < 3:
        _from_2(connection)
    connection.execute(ABOUT.update().where(ABOUT.c.key == "schema").values(value=str(SCHEMA)))


def _from_1(connection: sql.Connection) -> None:
    """Say by whom nodes were approved: one with a capsule of its own was assigned it by hand.

    Of the others it is not known whether open registration let them in, so that they may boot, and
    get secrets when an administrator approves them anew.
    """
    METADATA.create_all(connection, tables=[GROUPS, MEMBERSHIP, EVENTS])
    connection.execute(sql.text("ALTER TABLE nodes ADD COLUMN approved_by TEXT"))
    connection.execute(
        sql.text("UPDATE nodes SET approved_by = :by WHERE approved"), {"by": BY_REGISTRATION}
    )
    assigned = sql.select(ATTRIBUTES.c.subject).where(
        ATTRIBUTES.c.scope == NODE, ATTRIBUTES.c.key == "vnfs"
    )
    connection.execute(
        NODES.update()
        .where(NODES.c.approved_by.is_not(None), NODES.c.node_id.in_(assigned))
        .values(approved_by=BY_ADMINISTRATOR)
    )
    connection.execute(sql.text("ALTER TABLE nodes DROP COLUMN approved"))
    for column in (
        "last_good TEXT",
        "failures TEXT NOT NULL DEFAULT '{}'",
        "last_error TEXT NOT NULL DEFAULT ''",
        "last_error_at FLOAT",
    ):
        connection.execute(sql.text(f"ALTER TABLE sessions ADD COLUMN {column}"))
    connection.execute(
        SESSIONS.update().where(SESSIONS.c.state == "ready").values(last_good=SESSIONS.c.capsule)
    )


def _from_2(connection: sql.Connection) -> None:
    """Make the tables of what is done to running nodes; no boot has asked for drivers yet."""
    connection.execute(
        sql.text("ALTER TABLE sessions ADD COLUMN drivers TEXT NOT NULL DEFAULT '[]'")
    )
    connection.execute(
        sql.text("ALTER TABLE sessions ADD COLUMN task TEXT NOT NULL DEFAULT 'null'")
    )
    METADATA.create_all(connection, tables=[ROLLOUTS, ROLLOUT_NODES])


def read_nodes(connection: sql.Connection) -> dict[str, Node]:
    """Return all nodes, by node id."""
    hwaddrs: dict[str, list[str]] = {}
    for row in connection.execute(HWADDRS.select().order_by(HWADDRS.c.position)):
        hwaddrs.setdefault(row.node_id, []).append(row.hwaddr)
    groups: dict[str, list[str]] = {}
    for row in connection.execute(MEMBERSHIP.select().order_by(MEMBERSHIP.c.position)):
        groups.setdefault(row.node_id, []).append(row.name)
    attributes = _read_settings(connection, NODE)
    return {
        row.node_id: Node(
            node_id=row.node_id,
            name=row.name,
            hwaddrs=tuple(hwaddrs.get(row.node_id, ())),
            uuid=row.uuid,
            approved_by=row.approved_by,
            address=row.address,
            attributes=attributes.get(row.node_id, {}),
            groups=tuple(groups.get(row.node_id, ())),
            created=row.created,
        )
        for row in connection.execute(NODES.select())
    }


def read_scopes(connection: sql.Connection) -> Scopes:
    """Return what is set elsewhere than on nodes."""
    groups = _read_settings(connection, GROUP)
    names = connection.execute(sql.select(GROUPS.c.name).order_by(GROUPS.c.name)).scalars()
    return Scopes(
        defaults=_read_settings(connection, DEFAULTS).get("", {}),
        capsules=_read_settings(connection, CAPSULE),
        groups={name: groups.get(name, {}) for name in names},
    )


def read_sessions(connection: sql.Connection) -> dict[str, Session]:
    """Return all sessions, by node id."""
    found = {}
    for row in connection.execute(SESSIONS.select()):
        values = dict(row._mapping)
        node_id = values.pop("node_id")
        for key in ("failures", "phases", "report"):
            values[key] = json.loads(values[key])
        values["drivers"] = tuple(json.loads(values["drivers"]))
        values["task"] = parse_task_value(json.loads(values["task"]))
        found[node_id] = Session(**values)
    return found


def node_row(node: Node) -> dict[str, Any]:
    """Return the row of *node* in :data:`NODES`."""
    return {column.name: getattr(node, column.name) for column in NODES.columns}


def hwaddr_rows(node: Node) -> list[dict[str, Any]]:
    """Return the rows of *node* in :data:`HWADDRS`."""
    return [
        {"hwaddr": hwaddr, "node_id": node.node_id, "position": position}
        for position, hwaddr in enumerate(node.hwaddrs)
    ]


def membership_rows(node: Node) -> list[dict[str, Any]]:
    """Return the rows of *node* in :data:`MEMBERSHIP`."""
    return [
        {"node_id": node.node_id, "position": position, "name": name}
        for position, name in enumerate(node.groups)
    ]


def node_setting_rows(node: Node) -> list[dict[str, Any]]:
    """Return the rows of *node* in :data:`ATTRIBUTES`."""
    return setting_rows(NODE, node.node_id, node.attributes)


def setting_rows(scope: str, subject: str, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of *settings* in :data:`ATTRIBUTES`."""
    return [
        {"scope": scope, "subject": subject, "key": key, "value": json.dumps(value)}
        for key, value in settings.items()
    ]


_OF_SESSION = tuple(column.name for column in SESSIONS.columns if column.name != "node_id")


def session_row(node_id: str, session: Session) -> dict[str, Any]:
    """Return the row of *session* in :data:`SESSIONS`."""
    row: dict[str, Any] = {"node_id": node_id}
    for name in _OF_SESSION:
        value = getattr(session, name)
        if name == "task":
            value = json.dumps(task_value(value))
        if isinstance(value, Mapping):
            value = json.dumps(dict(value))
        row[name] = json.dumps(value) if isinstance(value, tuple) else value
    return row


def _read_settings(connection: sql.Connection, scope: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    # By key: what is shown does not depend on the order in which it was set.
    wanted = ATTRIBUTES.select().where(ATTRIBUTES.c.scope == scope).order_by(ATTRIBUTES.c.key)
    for row in connection.execute(wanted):
        value = json.loads(row.value)
        held = tuple(value) if isinstance(value, list) else value
        found.setdefault(row.subject, {})[row.key] = held
    return found
