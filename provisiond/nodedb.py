"""The node database: SQLite by SQLAlchemy Core. The only module with SQL in it.

Every method is one transaction, durable when it returns. One process writes; :mod:`.service` keeps
what it needs in memory and reads only when it starts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import SQLAlchemyError

from provisiond.model import Node, Session
from vnfsbuild.errors import VnfsbuildError

SCHEMA = 1

_METADATA = sql.MetaData()
_ABOUT = sql.Table(
    "about",
    _METADATA,
    sql.Column("key", sql.Text, primary_key=True),
    sql.Column("value", sql.Text, nullable=False),
)
_NODES = sql.Table(
    "nodes",
    _METADATA,
    sql.Column("node_id", sql.Text, primary_key=True),
    sql.Column("name", sql.Text, nullable=False, unique=True),
    sql.Column("uuid", sql.Text),
    sql.Column("approved", sql.Boolean, nullable=False),
    sql.Column("address", sql.Text),
    sql.Column("created", sql.Integer, nullable=False),
)
_HWADDRS = sql.Table(
    "hwaddrs",
    _METADATA,
    sql.Column("hwaddr", sql.Text, primary_key=True),
    sql.Column("node_id", sql.Text, nullable=False, index=True),
    sql.Column("position", sql.Integer, nullable=False),
)
_ATTRIBUTES = sql.Table(
    "attributes",
    _METADATA,
    sql.Column("scope", sql.Text, primary_key=True),
    sql.Column("subject", sql.Text, primary_key=True),
    sql.Column("key", sql.Text, primary_key=True),
    sql.Column("value", sql.Text, nullable=False),
)
_SESSIONS = sql.Table(
    "sessions",
    _METADATA,
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
    sql.Column("phases", sql.Text, nullable=False),
    sql.Column("report", sql.Text, nullable=False),
)

_NODE_SCOPE = "node"


class DatabaseError(VnfsbuildError):
    """The database could not be read or written; nothing was changed."""


class NodeDatabase:
    """The nodes and their sessions, on disk."""

    def __init__(self, path: Path) -> None:
        """Open the database *path*, made when it is missing.

        Raises:
            DatabaseError: it cannot be opened, or is of a version that is not known.
        """
        self._path = path
        self._engine = sql.create_engine(f"sqlite:///{path}", poolclass=sql.pool.StaticPool,
                                         connect_args={"check_same_thread": False})  # fmt: skip
        sql.event.listen(self._engine, "connect", _configure)
        try:
            _METADATA.create_all(self._engine)
            with self._engine.begin() as connection:
                self._check_schema(connection)
        except SQLAlchemyError as error:
            raise self._failed(error) from error

    def load(self) -> tuple[dict[str, Node], dict[str, Session]]:
        """Return all nodes and all sessions, by node id.

        Raises:
            DatabaseError: they cannot be read.
        """
        try:
            with self._engine.connect() as connection:
                hwaddrs: dict[str, list[str]] = {}
                for row in connection.execute(_HWADDRS.select().order_by(_HWADDRS.c.position)):
                    hwaddrs.setdefault(row.node_id, []).append(row.hwaddr)
                attributes: dict[str, dict[str, Any]] = {}
                for row in connection.execute(_ATTRIBUTES.select()):
                    attributes.setdefault(row.subject, {})[row.key] = json.loads(row.value)
                nodes = {
                    row.node_id: _node(row, hwaddrs, attributes)
                    for row in connection.execute(_NODES.select())
                }
                sessions = {
                    row.node_id: _session(row) for row in connection.execute(_SESSIONS.select())
                }
        except SQLAlchemyError as error:
            raise self._failed(error) from error
        return nodes, sessions

    def save_nodes(self, nodes: Iterable[Node], *, deleted: Iterable[str] = ()) -> None:
        """Write *nodes* as they are now, and forget those whose ids are *deleted*.

        Raises:
            DatabaseError: nothing was written.
        """
        try:
            with self._engine.begin() as connection:
                for node_id in deleted:
                    _delete(connection, node_id)
                for node in nodes:
                    _write(connection, node)
        except SQLAlchemyError as error:
            raise self._failed(error) from error

    def save_sessions(self, sessions: Mapping[str, Session]) -> None:
        """Write *sessions*, by node id, as they are now; those of nodes that are gone are not.

        Raises:
            DatabaseError: nothing was written.
        """
        if not sessions:
            return
        statement = insert(_SESSIONS)
        update = {
            column.name: statement.excluded[column.name]
            for column in _SESSIONS.columns
            if not column.primary_key
        }
        try:
            with self._engine.begin() as connection:
                wanted = sql.select(_NODES.c.node_id).where(_NODES.c.node_id.in_(list(sessions)))
                known = connection.execute(wanted).scalars().all()
                rows = [_session_row(node_id, sessions[node_id]) for node_id in known]
                if rows:
                    connection.execute(
                        statement.on_conflict_do_update(index_elements=["node_id"], set_=update),
                        rows,
                    )
        except SQLAlchemyError as error:
            raise self._failed(error) from error

    def close(self) -> None:
        """Close the file."""
        self._engine.dispose()

    def _check_schema(self, connection: sql.Connection) -> None:
        found = connection.execute(
            sql.select(_ABOUT.c.value).where(_ABOUT.c.key == "schema")
        ).scalar()
        if found is None:
            connection.execute(_ABOUT.insert().values(key="schema", value=str(SCHEMA)))
        elif found != str(SCHEMA):
            raise DatabaseError(
                f"{self._path}: found a database of version {found}, expected {SCHEMA}",
                hint="use the provisiond that wrote it, or another state_dir",
            )

    def _failed(self, error: SQLAlchemyError) -> DatabaseError:
        told = str(getattr(error, "orig", None) or error)
        return DatabaseError(f"{self._path}: {told}", hint="df shows whether the disk is full")


def _configure(connection: Any, _record: Any) -> None:
    """Readers never wait for the writer, and a commit has reached the disk when it returns."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


def _delete(connection: sql.Connection, node_id: str) -> None:
    for table in (_NODES, _HWADDRS, _SESSIONS):
        connection.execute(table.delete().where(table.c.node_id == node_id))
    connection.execute(_ATTRIBUTES.delete().where(_of_node(node_id)))


def _write(connection: sql.Connection, node: Node) -> None:
    values = {
        "name": node.name,
        "uuid": node.uuid,
        "approved": node.approved,
        "address": node.address,
        "created": node.created,
    }
    statement = insert(_NODES).values(node_id=node.node_id, **values)
    connection.execute(statement.on_conflict_do_update(index_elements=["node_id"], set_=values))
    connection.execute(_HWADDRS.delete().where(_HWADDRS.c.node_id == node.node_id))
    connection.execute(
        _HWADDRS.insert(),
        [
            {"hwaddr": hwaddr, "node_id": node.node_id, "position": position}
            for position, hwaddr in enumerate(node.hwaddrs)
        ],
    )
    connection.execute(_ATTRIBUTES.delete().where(_of_node(node.node_id)))
    if node.attributes:
        connection.execute(
            _ATTRIBUTES.insert(),
            [
                {
                    "scope": _NODE_SCOPE,
                    "subject": node.node_id,
                    "key": key,
                    "value": json.dumps(value),
                }
                for key, value in node.attributes.items()
            ],
        )


def _of_node(node_id: str) -> sql.ColumnElement[bool]:
    return sql.and_(_ATTRIBUTES.c.scope == _NODE_SCOPE, _ATTRIBUTES.c.subject == node_id)


def _node(
    row: Any, hwaddrs: Mapping[str, list[str]], attributes: Mapping[str, dict[str, Any]]
) -> Node:
    return Node(
        node_id=row.node_id,
        name=row.name,
        hwaddrs=tuple(hwaddrs.get(row.node_id, ())),
        uuid=row.uuid,
        approved=row.approved,
        address=row.address,
        attributes=attributes.get(row.node_id, {}),
        created=row.created,
    )


def _session(row: Any) -> Session:
    values = dict(row._mapping)
    del values["node_id"]
    for key in ("phases", "report"):
        values[key] = json.loads(values[key])
    return Session(**values)


def _session_row(node_id: str, session: Session) -> dict[str, Any]:
    row: dict[str, Any] = {"node_id": node_id}
    for column in _SESSIONS.columns:
        if column.name == "node_id":
            continue
        value = getattr(session, column.name)
        row[column.name] = json.dumps(value) if isinstance(value, Mapping) else value
    return row
